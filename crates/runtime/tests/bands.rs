//! Blocks of convolutions that run in bands of lines give what their ops give one by one, on every
//! instruction set this CPU has and for stretches of several threads.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::conv::Conv;
use kinglet_graph::ops::quantized::{Clamp, QBinary, QBinaryKind, QConv, QConvAdd, Rescale};
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{DType, Graph, Quant, Shape, Tensor, ValueId, ValueType, interpret};
use kinglet_kernels::isa::Isa;
use kinglet_runtime::{Plan, PlanOptions};
use std::sync::Arc;

/// Pointwise to `wide` channels, depthwise, pointwise to `channels`.
#[derive(Clone, Copy, Debug)]
struct Block {
    image: [usize; 4],
    wide: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    /// Whether the pointwise convolution before the depthwise one is left out.
    without_first: bool,
    residual: bool,
}

const BLOCKS: &[Block] = &[
    Block {
        image: [1, 67, 45, 12],
        wide: 400,
        kernel: 3,
        stride: 1,
        dilation: 1,
        without_first: false,
        residual: true,
    },
    Block {
        image: [2, 67, 45, 8],
        wide: 350,
        kernel: 3,
        stride: 2,
        dilation: 1,
        without_first: false,
        residual: false,
    },
    Block {
        image: [1, 70, 40, 420],
        wide: 420,
        kernel: 5,
        stride: 1,
        dilation: 2,
        without_first: true,
        residual: false,
    },
];

fn number(i: usize, seed: usize) -> u64 {
    let mixed = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed as u64 * 7919);
    mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 33
}

impl Block {
    fn windows(&self) -> [(Window, usize); 3] {
        let window = |stride, dilation| Window {
            stride: vec![stride; 2],
            dilation: vec![dilation; 2],
            padding: Padding::SameUpper,
        };
        [(window(1, 1), 1), (window(self.stride, self.dilation), self.wide), (window(1, 1), 1)]
    }

    fn weights(&self) -> [[usize; 4]; 3] {
        let [.., channels] = self.image;
        let (wide, kernel) = (self.wide, self.kernel);
        [[wide, 1, 1, channels], [wide, kernel, kernel, 1], [channels, 1, 1, wide]]
    }

    /// The three convolutions' numbers that are there.
    fn stages(&self) -> std::ops::Range<usize> {
        usize::from(self.without_first)..3
    }
}

/// Runs the graph everywhere and compares; `same` says whether two results are.
fn check(graph: &Graph, x: &Tensor, what: &Block, same: impl Fn(&[u8], &[u8]) -> bool) {
    let want = interpret(graph, std::slice::from_ref(x)).unwrap();
    for isa in Isa::available() {
        for threads in [1, 3] {
            let options = PlanOptions { isa: Some(isa), threads, ..PlanOptions::default() };
            let mut plan = Plan::new(graph, &options).unwrap();
            let steps: Vec<_> = plan.steps().collect();
            let [step] = &steps[..] else { panic!("{what:?}: {} steps", steps.len()) };
            assert!(step.kernel.starts_with("bands of "), "{what:?}: {}", step.kernel);
            assert_eq!(step.before.len(), what.stages().len() - 1);
            // What is handed on has no place.
            let ends = x.bytes().len() + want[0].bytes().len();
            let workers = threads * step.scratch.div_ceil(threads);
            assert!(plan.memory().planned <= ends + workers + 256, "{what:?}");
            for _ in 0..2 {
                plan.set_input(0, &x.view()).unwrap();
                plan.run().unwrap();
                let got = plan.output(0);
                assert_eq!(got.dims, want[0].dims());
                assert!(same(got.bytes, want[0].bytes()), "{what:?} {isa:?} {threads}");
            }
        }
    }
}

#[test]
fn floats() {
    for block in BLOCKS {
        let floats = |dims: &[usize], seed: usize| {
            let values = (0..dims.iter().product::<usize>())
                .map(|i| (number(i, seed) % 2001) as f32 / 1000.0 - 1.0);
            Tensor::from_slice(dims, &values.collect::<Vec<_>>()).unwrap()
        };
        let mut graph = Graph::new("block");
        let x = graph.add_input("x", ValueType::new(DType::F32, block.image.as_slice()));
        let mut last = x;
        for stage in block.stages() {
            let (window, groups) = block.windows()[stage].clone();
            let op = Conv {
                window,
                groups,
                layout: Layout::ChannelsLast,
                weight_layout: WeightLayout::OutSpatialIn,
                activation: if stage == 2 { Activation::None } else { Activation::Relu6 },
            };
            let dims = block.weights()[stage];
            let w = graph.add_constant(format!("w{stage}"), floats(&dims, stage));
            let b = graph.add_constant(format!("b{stage}"), floats(&dims[..1], stage + 9));
            let mut inputs = vec![Some(last), Some(w), Some(b)];
            inputs.extend((stage == 2 && block.residual).then_some(Some(x)));
            last = result(&mut graph, ValueType::new(DType::F32, Shape::unknown()));
            graph.add_node(format!("conv{stage}"), op, inputs, vec![last]);
        }
        graph.outputs = vec![last];
        check(&graph, &floats(&block.image, 77), block, |got, want| {
            let of = |bytes: &[u8]| -> Vec<f32> {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            of(got)
                .iter()
                .zip(of(want))
                .all(|(got, want)| (got - want).abs() <= 1e-5 * want.abs().max(50.0))
        });
    }
}

#[test]
fn bytes() {
    for block in BLOCKS {
        let quant = |scale, zero| Arc::new(Quant::per_tensor(scale, zero));
        let (image, product) = (quant(0.03, -7), quant(0.05, 4));
        let bytes = |dims: &[usize], seed: usize, quant: &Arc<Quant>| {
            let values = (0..dims.iter().product::<usize>()).map(|i| number(i, seed) as i8);
            let tensor = Tensor::from_slice(dims, &values.collect::<Vec<_>>()).unwrap();
            tensor.with_quant(Some(quant.clone()))
        };
        let ty = |quant: &Arc<Quant>, shape: Shape| {
            let mut ty = ValueType::new(DType::I8, shape);
            ty.quant = Some(quant.clone());
            ty
        };
        let clamp = Clamp { low: -128, high: 127 };
        let mut graph = Graph::new("block");
        let x = graph.add_input("x", ty(&image, Shape::from(block.image.as_slice())));
        let mut last = x;
        for stage in block.stages() {
            let (window, groups) = block.windows()[stage].clone();
            let conv = QConv {
                window,
                groups,
                layout: Layout::ChannelsLast,
                weight_layout: WeightLayout::OutSpatialIn,
                to: DType::I8,
                clamp,
                rescale: Rescale::FixedPoint,
            };
            let dims = block.weights()[stage];
            let bias: Vec<i32> = (0..dims[0]).map(|i| number(i, 5) as i32 % 2000).collect();
            let bias = Tensor::from_slice(&dims[..1], &bias).unwrap();
            let w = bytes(&dims, stage, &quant(0.01, 0));
            let w = graph.add_constant(format!("w{stage}"), w);
            let b = graph.add_constant(format!("b{stage}"), bias);
            let mut inputs = vec![Some(last), Some(w), Some(b)];
            last = result(&mut graph, ty(&product, Shape::unknown()));
            let name = format!("conv{stage}");
            if stage == 2 && block.residual {
                inputs.push(Some(x));
                let rescale = Rescale::FixedPoint;
                let kind = QBinaryKind::Add;
                let sum = QBinary { kind, clamp, rescale, power_of_two: false };
                let op = QConvAdd { conv, product: product.clone(), sum };
                graph.add_node(name, op, inputs, vec![last]);
            } else {
                graph.add_node(name, conv, inputs, vec![last]);
            }
        }
        graph.outputs = vec![last];
        kinglet_graph::infer(&mut graph, kinglet_graph::Fold::Shapes).unwrap();
        check(&graph, &bytes(&block.image, 77, &image), block, |got, want| got == want);
    }
}

fn result(graph: &mut Graph, ty: ValueType) -> ValueId {
    graph.add_value("y", ty)
}
