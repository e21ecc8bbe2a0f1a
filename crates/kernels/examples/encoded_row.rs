//! Times one row by encoded weights: weights in the second-level cache and in memory, on one
//! thread and on two.
//!
//! `cargo run --release -p kinglet-kernels --example encoded_row [ISA [ENCODING]...]`

use std::hint::black_box;
use std::time::Instant;

use kinglet_kernels::aligned::Aligned;
use kinglet_kernels::encoded::{CodeLayout, Finish, Product, RoundedRows};
use kinglet_kernels::encoding::Encoding;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;

/// Elements of a row.
const K: usize = 2048;
/// Bytes of weights: half of a second-level cache, and more than a third.
const SIZES: [usize; 2] = [1 << 19, 1 << 27];

/// One thread's weights and rounded row.
struct Job {
    layout: CodeLayout,
    weights: Aligned<u8>,
    row: Aligned<u8>,
    out: Vec<f32>,
    scratch: Vec<u8>,
}

impl Job {
    fn new(isa: Isa, encoding: Encoding, bytes: usize) -> Job {
        let row = CodeLayout::new(isa, encoding, 16, K).bytes() / 16;
        let layout = CodeLayout::new(isa, encoding, bytes / row / 16 * 16, K);
        let mut weights = Aligned::zeros(layout.bytes());
        let mut state = 1u32;
        for byte in weights.iter_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 26) as u8;
        }
        let x: Vec<f32> = (0..K).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let mut rounded = Aligned::zeros(layout.row_bytes());
        layout.round(&[&x], &mut rounded);
        let scratch = vec![0; layout.scratch(1)];
        Job { layout, weights, row: rounded, out: vec![0.0; layout.m], scratch }
    }

    /// Seconds of a product, the least of many: what else the machine does only adds to it.
    fn time(&mut self) -> f64 {
        let product =
            Product { layout: &self.layout, weights: &self.weights, finish: Finish::default() };
        let rows = RoundedRows { data: &self.row, count: 1, targets: None };
        let times = (0..40).map(|_| {
            let repeats = (1 << 24) / self.weights.len().min(1 << 24);
            let start = Instant::now();
            for _ in 0..repeats {
                let out = SharedMut::new(&mut self.out);
                // SAFETY: nobody else has `out`.
                unsafe { product.run(rows, 0..self.layout.panels(), out, &mut self.scratch) };
            }
            black_box(&self.out);
            start.elapsed().as_secs_f64() / repeats as f64
        });
        times.fold(f64::INFINITY, f64::min)
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let isa = args.next();
    let isas = Isa::available();
    let isa = match isa {
        Some(name) => isas.into_iter().find(|i| i.name() == name).expect("an available ISA"),
        None => isas.into_iter().next_back().expect("at least portable"),
    };
    let names: Vec<String> = args.map(|a| a.to_lowercase()).collect();
    println!("{}: GB/s of weights as they are multiplied (GMAC/s)", isa.name());
    println!("{:8} {:>16} {:>16} {:>16}", "", "cache", "memory", "memory, 2 threads");
    for &encoding in Encoding::ALL {
        let name = encoding.to_string().to_lowercase();
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        let mut line = format!("{name:8}");
        for (size, threads) in [(SIZES[0], 1), (SIZES[1], 1), (SIZES[1] / 2, 2)] {
            let mut jobs: Vec<Job> = (0..threads).map(|_| Job::new(isa, encoding, size)).collect();
            let rates: Vec<[f64; 2]> = std::thread::scope(|s| {
                let rates: Vec<_> = jobs
                    .iter_mut()
                    .map(|job| {
                        s.spawn(|| {
                            let time = job.time() * 1e9;
                            let macs = (job.layout.m * K) as f64;
                            [job.weights.len() as f64 / time, macs / time]
                        })
                    })
                    .collect();
                rates.into_iter().map(|r| r.join().expect("a thread that timed")).collect()
            });
            let sum = |i: usize| rates.iter().map(|r| r[i]).sum::<f64>();
            line += &format!(" {:>6.1} ({:>6.1})", sum(0), sum(1));
        }
        println!("{line}");
    }
}
