//! How fast products with encoded weights are, against what the machine can do: the matrices of a
//! language model of a billion parameters, for a prompt of 256 rows and for one row.
//!
//!     cargo run --release -p kinglet-runtime --example linear_speed [ENCODING…]
//!
//! The last column is the share of the machine's read bandwidth (one row; measured in between) or
//! the rate of multiply-adds (a prompt).

use kinglet_graph::ops::rows::Linear;
use kinglet_graph::{AlignedBytes, Bytes, DType, Graph, Shape, Tensor, ValueType};
use kinglet_kernels::encoding::Encoding;
use kinglet_runtime::{Plan, PlanOptions, Pool};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const SHAPES: [(usize, usize); 4] = [(2048, 2048), (8192, 2048), (2048, 8192), (128_256, 2048)];

/// Seconds of the best of some calls.
fn best(times: usize, mut f: impl FnMut()) -> f64 {
    let once = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..times).map(|_| once(&mut f)).fold(f64::INFINITY, f64::min)
}

/// Bytes a second that all threads read.
fn bandwidth(pool: &Pool, data: &[u64]) -> f64 {
    let sum = AtomicU64::new(0);
    let piece = 1 << 16;
    let seconds = best(5, || {
        pool.run(data.len() / piece, |i, _| {
            let part = data[i * piece..][..piece].iter().fold(0u64, |a, b| a.wrapping_add(*b));
            sum.fetch_add(part, Ordering::Relaxed);
        });
    });
    std::hint::black_box(sum);
    (data.len() * 8) as f64 / seconds
}

fn bytes_of(n: usize) -> Bytes {
    let mut bytes = AlignedBytes::zeros(n);
    bytes.fill(0x15);
    Bytes::new(Arc::new(bytes))
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let all = [DType::F32, DType::F16, DType::BF16].into_iter();
    let all = all.chain(Encoding::ALL.iter().map(|e| DType::Encoded(*e)));
    let chosen: Vec<DType> =
        all.filter(|t| names.is_empty() || names.iter().any(|n| t.to_string() == *n)).collect();
    let pool = Arc::new(Pool::new(std::thread::available_parallelism().map_or(1, |n| n.get())));
    let large = vec![1u64; 32 << 20];
    println!(
        "{:8} {:>14} {:>10} {:>10} {:>8}",
        "weights", "matrix", "256 GMAC/s", "1: GB/s", "of read"
    );
    for dtype in chosen {
        for (m, k) in SHAPES {
            let bytes = dtype.bytes(m * k).expect("whole blocks");
            // Small scales wherever they lie, so that no sum overflows.
            let weights = Tensor::from_bytes(dtype, &[m, k], bytes_of(bytes)).expect("sizes fit");
            let mut graph = Graph::new("linear");
            let x = graph.add_input("x", ValueType::new(DType::F32, &[0, k][..]));
            let w = graph.add_constant("w", weights);
            let y = graph.add_value("y", ValueType::new(DType::F32, Shape::unknown()));
            graph.add_node("linear", Linear::default(), vec![Some(x), Some(w)], vec![y]);
            graph.outputs = vec![y];
            let plan = |n: usize, shared| {
                let options = PlanOptions {
                    input_shapes: Some(vec![[n, k].into_iter().collect()]),
                    pool: Some(pool.clone()),
                    shared,
                    ..PlanOptions::default()
                };
                let mut graph = graph.clone();
                graph.value_mut(x).ty = ValueType::new(DType::F32, &[n, k][..]);
                let mut plan = Plan::new(&graph, &options).expect("a plan");
                let ones = Tensor::from_slice(&[n, k], &vec![1.0f32; n * k]).expect("sizes fit");
                plan.set_input(0, &ones.view()).expect("an input");
                plan.run().expect("a first run");
                plan
            };
            let mut one = plan(1, None);
            let mut prompt = plan(256, Some(one.shared().clone()));
            let rounds = if m > 10_000 { 3 } else { 10 };
            let slow = best(rounds, || prompt.run().expect("a run"));
            // The caches forget the weights between runs, as they do in a model.
            let mut fast = f64::INFINITY;
            let mut read = 0.0f64;
            for _ in 0..3 * rounds {
                read = read.max(bandwidth(&pool, &large[..8 << 20]));
                fast = fast.min(best(1, || one.run().expect("a run")));
            }
            println!(
                "{:8} {:>14} {:>10.1} {:>10.1} {:>7.0}%",
                dtype.to_string(),
                format!("{m}×{k}"),
                (256 * m * k) as f64 / slow / 1e9,
                bytes as f64 / fast / 1e9,
                100.0 * bytes as f64 / fast / read,
            );
        }
    }
}
