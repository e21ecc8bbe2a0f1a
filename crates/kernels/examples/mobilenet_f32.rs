//! Times the f32 kernels on the shapes of MobileNetV2 1.0 at 224 × 224, on one thread and on two.
//!
//!     cargo run --release -p kinglet-kernels --example mobilenet_f32

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::gemm_f32::{Epilogue, Gemm, PackedB, Rows};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;

/// Runs `part(thread)` on `threads` threads `times` times and returns the best time of a run.
fn time(threads: usize, times: usize, part: &(dyn Fn(usize) + Sync)) -> f64 {
    let (turn, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut best = f64::MAX;
    std::thread::scope(|scope| {
        for thread in 1..threads {
            let (turn, done) = (&turn, &done);
            scope.spawn(move || {
                for i in 1..=times {
                    while turn.load(Ordering::Acquire) < i {
                        std::hint::spin_loop();
                    }
                    part(thread);
                    done.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        for i in 1..=times {
            let start = Instant::now();
            turn.store(i, Ordering::Release);
            part(0);
            while done.load(Ordering::Acquire) < i * (threads - 1) {
                std::hint::spin_loop();
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
    });
    best
}

fn main() {
    let isa = Isa::from_env().expect("KINGLET_ISA");
    println!("{}", isa.name());
    // rows, depth, columns, how often
    let pointwise = [
        (12544, 32, 16, 1),
        (12544, 16, 96, 1),
        (3136, 96, 24, 1),
        (3136, 24, 144, 2),
        (3136, 144, 24, 1),
        (784, 144, 32, 1),
        (784, 32, 192, 3),
        (784, 192, 32, 2),
        (196, 192, 64, 1),
        (196, 64, 384, 4),
        (196, 384, 64, 3),
        (196, 384, 96, 1),
        (196, 96, 576, 3),
        (196, 576, 96, 2),
        (49, 576, 160, 1),
        (49, 160, 960, 3),
        (49, 960, 160, 2),
        (49, 960, 320, 1),
        (49, 320, 1280, 1),
        (1, 1280, 1000, 1),
    ];
    let mut total = [0.0; 2];
    for (m, k, n, count) in pointwise {
        let a: Vec<f32> = (0..m * k).map(|i| (i % 13) as f32 - 6.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 7) as f32 - 3.0).collect();
        let bias = vec![0.5; n];
        let packed = PackedB::new(isa, k, n, &b, (n, 1));
        let mut out = vec![0.0; m * n];
        let gemm = Gemm {
            layout: packed.layout(),
            b: packed.data(),
            epilogue: Epilogue {
                bias: Some(&bias),
                activation: Unary::RELU6,
                ..Default::default()
            },
        };
        let shared = SharedMut::new(&mut out);
        let panels = packed.layout().panels();
        let mut line = format!("{m:6} × {k:4} × {n:4}");
        for threads in [1, 2] {
            let seconds = time(threads, 60, &|thread| {
                let part = |total: usize| total * thread / threads..total * (thread + 1) / threads;
                let (rows, panels) = if m >= 196 {
                    (part(m), 0..panels)
                } else {
                    (0..m, part(panels))
                };
                // SAFETY: every thread has its own rows or panels.
                unsafe {
                    gemm.run(
                        rows,
                        panels,
                        Rows {
                            data: &a,
                            stride: k,
                        },
                        shared,
                        n,
                    )
                };
            });
            total[threads - 1] += seconds * f64::from(count);
            let flops = 2.0 * (m * k * n) as f64;
            line += &format!(
                "  {:8.1} µs {:6.1} GFLOP/s",
                seconds * 1e6,
                flops / seconds * 1e-9
            );
        }
        println!("{line}  × {count}");
    }
    println!(
        "pointwise total: {:.3} ms, {:.3} ms",
        total[0] * 1e3,
        total[1] * 1e3
    );
}
