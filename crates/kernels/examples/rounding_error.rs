//! What rounding a row to bytes adds to the error of a product, beside what the weights' encoding has
//! already: relative to the results' size, in per cent, for rows without and with outliers.
//!
//! `cargo run --release -p kinglet-kernels --example rounding_error`
//!
//! Of a row with outliers there is a second figure, in brackets: were all elements of a block rounded
//! by one scale.

use kinglet_kernels::aligned::Aligned;
use kinglet_kernels::encoded::{CodeLayout, Finish, Product, RoundedRows};
use kinglet_kernels::encoding::Encoding;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;

const M: usize = 256;
const K: usize = 2048;
/// Channels that are larger than others in rows with outliers, 500 apart.
const CHANNELS: usize = 4;

struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Student's t of three degrees of freedom.
    fn heavy(&mut self) -> f64 {
        let square: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        self.normal() / (square / 3.0).sqrt()
    }
}

/// Products by the rows of `w`, in f64.
fn exact(w: &[f32], x: &[f32]) -> Vec<f64> {
    let of = |w: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
    w.chunks(K).map(of).collect()
}

/// What rounding blocks of 32 by one scale each makes of a row.
fn rounded(x: &[f32]) -> Vec<f32> {
    let of_block = |block: &[f32]| {
        let step = block.iter().fold(0.0f32, |a, x| a.max(x.abs())) / 127.0;
        block.iter().map(|x| (x / step).round_ties_even() * step).collect::<Vec<_>>()
    };
    x.chunks(32).flat_map(of_block).collect()
}

fn kernel(layout: &CodeLayout, weights: &[u8], x: &[f32]) -> Vec<f64> {
    let mut row = Aligned::zeros(layout.row_bytes());
    layout.round(&[x], &mut row);
    let mut out = vec![0.0; M];
    let mut scratch = vec![0; layout.scratch(1)];
    let product = Product { layout, weights, finish: Finish::default() };
    let rows = RoundedRows { data: &row, count: 1, targets: None };
    let shared = SharedMut::new(&mut out);
    // SAFETY: nobody else has `out`.
    unsafe { product.run(rows, 0..layout.panels(), shared, &mut scratch) };
    out.into_iter().map(f64::from).collect()
}

fn size(y: &[f64]) -> f64 {
    y.iter().map(|y| y * y).sum::<f64>().sqrt()
}

fn off(a: &[f64], b: &[f64]) -> f64 {
    size(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

fn main() {
    let isa = Isa::available().into_iter().next_back().expect("at least portable");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let plain: Vec<f32> = (0..K).map(|_| random.normal() as f32).collect();
    let heavy: Vec<f32> = (0..K).map(|_| random.heavy() as f32).collect();
    let weights: Vec<f32> = (0..M * K).map(|_| random.normal() as f32).collect();
    let channels: Vec<usize> = (0..CHANNELS).map(|c| 7 + 500 * c).collect();
    println!("per cent of the results' size, {M} x {K}, {CHANNELS} outliers");
    for (what, shrunk) in [("any weights", false), ("small weights for outliers", true)] {
        println!("\n{what}: weights' own error / rounding (by one scale)");
        println!(
            "{:8} {:>14} {:>14} {:>20} {:>20} {:>20}",
            "", "normal", "heavy", "20x", "100x", "1000x"
        );
        for &encoding in Encoding::ALL {
            let mut line = format!("{encoding:8}");
            for (x, times) in
                [(&plain, 1.0), (&heavy, 1.0), (&plain, 20.0), (&plain, 100.0), (&plain, 1000.0)]
            {
                let (mut x, mut w) = (x.clone(), weights.clone());
                for &c in &channels {
                    x[c] = x[c].signum() * if times > 1.0 { times } else { x[c].abs() };
                    if shrunk {
                        w.iter_mut().skip(c).step_by(K).for_each(|w| *w /= times);
                    }
                }
                let mut bytes = vec![0; encoding.bytes(M * K).expect("whole blocks")];
                encoding.encode(&w, &mut bytes);
                let mut decoded = vec![0.0; M * K];
                encoding.decode(&bytes, &mut decoded);
                let layout = CodeLayout::new(isa, encoding, M, K);
                let packed = if layout.is_packed() {
                    let mut packed = vec![0; layout.bytes()];
                    layout.pack(0..layout.panels(), &bytes, &mut packed);
                    packed
                } else {
                    bytes
                };
                let (truth, stored) = (exact(&w, &x), exact(&decoded, &x));
                let scale = 100.0 / size(&truth);
                line += &format!(
                    " {:>6.2} / {:>5.2}",
                    off(&stored, &truth) * scale,
                    off(&kernel(&layout, &packed, &x), &stored) * scale
                );
                if times > 1.0 {
                    let whole = off(&exact(&decoded, &rounded(&x)), &stored);
                    line += &format!(" ({:.2})", whole * scale);
                }
            }
            println!("{line}");
        }
    }
}
