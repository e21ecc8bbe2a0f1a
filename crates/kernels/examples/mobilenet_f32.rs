//! Times the f32 kernels on the layers of MobileNetV2 1.0 at 224 × 224, on one thread and on two.
//!
//!     cargo run --release -p kinglet-kernels --example mobilenet_f32
//!
//! Times are the best of many, each layer's data still in the caches from the time before: what
//! the kernels can do, not what the network takes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use kinglet_kernels::conv_f32::{ConvF32, ConvShape, PackedConv, WeightStrides};
use kinglet_kernels::depthwise_f32::{DepthwiseF32, PackedDepthwise};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::gemm_f32::{Epilogue, Rows};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;
use kinglet_kernels::window::{ImageShape, Lines, Window};

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

/// One layer: `kernel`² taps over `size`² pixels of `input` channels.
#[derive(Clone, Copy)]
struct Layer {
    size: usize,
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    depthwise: bool,
    residual: bool,
    count: usize,
}

/// MobileNetV2's layers; equal ones once, with their count.
fn layers() -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut add = |layer: Layer| {
        let same = |l: &&mut Layer| {
            (l.size, l.input, l.output, l.kernel, l.stride, l.depthwise, l.residual)
                == (
                    layer.size,
                    layer.input,
                    layer.output,
                    layer.kernel,
                    layer.stride,
                    layer.depthwise,
                    layer.residual,
                )
        };
        match layers.iter_mut().find(same) {
            Some(l) => l.count += 1,
            None => layers.push(layer),
        }
    };
    let plain = Layer {
        size: 224,
        input: 3,
        output: 32,
        kernel: 3,
        stride: 2,
        depthwise: false,
        residual: false,
        count: 1,
    };
    add(plain);
    let (mut size, mut channels) = (112, 32);
    for (expand, output, repeat, first_stride) in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ] {
        for i in 0..repeat {
            let stride = if i == 0 { first_stride } else { 1 };
            let hidden = channels * expand;
            let pointwise = Layer { size, kernel: 1, stride: 1, ..plain };
            if expand > 1 {
                add(Layer { input: channels, output: hidden, ..pointwise });
            }
            add(Layer {
                input: hidden,
                output: hidden,
                kernel: 3,
                stride,
                depthwise: true,
                ..pointwise
            });
            size /= stride;
            add(Layer { size, input: hidden, output, residual: i > 0, ..pointwise });
            channels = output;
        }
    }
    let pointwise = Layer { kernel: 1, stride: 1, ..plain };
    add(Layer { size: 7, input: 320, output: 1280, ..pointwise });
    add(Layer { size: 1, input: 1280, output: 1000, ..pointwise });
    layers
}

fn main() {
    let isa = Isa::from_env().unwrap_or_else(|e| panic!("{e}"));
    println!("{}", isa.name());
    let mut total = [[0.0; 2]; 2];
    for layer in layers() {
        let Layer { size, input, output, kernel, stride, depthwise, .. } = layer;
        let shape = ConvShape {
            input: ImageShape { height: size, width: size, channels: input },
            output: ImageShape { height: size / stride, width: size / stride, channels: output },
            window: Window {
                kernel: [kernel; 2],
                stride: [stride; 2],
                dilation: [1; 2],
                padding: [kernel / 2; 2],
            },
            groups: if depthwise { input } else { 1 },
        };
        let inputs = input / shape.groups;
        let weights: Vec<f32> =
            (0..output * kernel * kernel * inputs).map(|i| (i % 7) as f32 - 3.0).collect();
        let strides = WeightStrides::ohwi(kernel, kernel, inputs);
        let data: Vec<f32> = (0..shape.input.len()).map(|i| (i % 13) as f32 - 6.0).collect();
        let bias = vec![0.5; output];
        let more = vec![0.5; shape.output.len()];
        let epilogue = Epilogue {
            bias: Some(&bias),
            activation: if layer.residual { Unary::Identity } else { Unary::RELU6 },
            residual: layer.residual.then_some(Rows { data: &more, stride: output }),
            after: Unary::Identity,
        };
        let mut out = vec![0.0; shape.output.len()];
        let shared = SharedMut::new(&mut out);
        let macs = shape.output.len() * kernel * kernel * inputs;
        let kind = if depthwise { "depthwise" } else { "conv" };
        let mut line =
            format!("{kind:9} {kernel}×{kernel}/{stride} {size:3}² × {input:4} → {output:4}",);
        for threads in [1, 2] {
            let part = |thread: usize, total: usize| {
                total * thread / threads..total * (thread + 1) / threads
            };
            let seconds = if depthwise {
                let packed = PackedDepthwise::new(isa, shape, &weights, strides);
                let conv = DepthwiseF32 { packed: &packed, epilogue };
                time(threads, 100, &|thread| {
                    let lines = part(thread, shape.output.height);
                    // SAFETY: every thread has its own lines.
                    unsafe {
                        conv.run(
                            lines,
                            0..packed.blocks(),
                            Lines::all(&data[..]),
                            Lines::all(shared),
                        )
                    };
                })
            } else {
                let packed = PackedConv::new(isa, shape, &weights, strides);
                let conv = ConvF32 { packed: &packed, epilogue };
                let (pixels, panels) = (shape.output.pixels(), packed.panels());
                time(threads, 100, &|thread| {
                    let (rows, panels) = if pixels >= 196 {
                        (part(thread, pixels), 0..panels)
                    } else {
                        (0..pixels, part(thread, panels))
                    };
                    let mut scratch = vec![0; packed.scratch_bytes()];
                    // SAFETY: every thread has its own rows or panels.
                    unsafe { conv.run(rows, panels, &data, shared, &mut scratch) };
                })
            };
            total[usize::from(depthwise)][threads - 1] += seconds * layer.count as f64;
            let rate = 2.0 * macs as f64 / seconds * 1e-9;
            line += &format!("  {:8.1} µs {rate:6.1} GFLOP/s", seconds * 1e6);
        }
        println!("{line}  × {}", layer.count);
    }
    for (kind, [one, two]) in ["conv", "depthwise"].iter().zip(total) {
        println!("{kind}: {:.3} ms on one thread, {:.3} ms on two", one * 1e3, two * 1e3);
    }
}
