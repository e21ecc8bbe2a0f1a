//! The table: a case a row.

use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::batch_norm::BatchNormTraining;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::concat::{Concat, Split, Stack, Unstack};
use kinglet_graph::ops::conv::{Conv, ConvTranspose};
use kinglet_graph::ops::einsum::Einsum;
use kinglet_graph::ops::expand::{Expand, Tile};
use kinglet_graph::ops::fake_quantize::{FakeEncode, FakeQuantize, Integers};
use kinglet_graph::ops::fill::{EyeLike, Trilu, ZerosLike};
use kinglet_graph::ops::gather::{Gather, GatherElements, GatherNd};
use kinglet_graph::ops::logic::Where;
use kinglet_graph::ops::loss::{ClassLoss, LossReduction};
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::norm::{BatchNorm, GroupNorm, LayerNorm, LpNorm, RmsNorm};
use kinglet_graph::ops::order::TopK;
use kinglet_graph::ops::pad::{Pad, PadMode};
use kinglet_graph::ops::pool::{GlobalPool, MaxPoolWithIndices, Pool, PoolKind};
use kinglet_graph::ops::reduce::{Cumulative, MeanVarianceNorm, Reduce, ReduceKind};
use kinglet_graph::ops::reshape::{Flatten, Identity, Reshape, Squeeze, Unsqueeze};
use kinglet_graph::ops::reverse::{Reverse, ReverseSequence};
use kinglet_graph::ops::rows::{Embedding, Linear, PAGE, Rotate, RowAttention};
use kinglet_graph::ops::scatter::{Reduction, ScatterElements, ScatterNd, ScatterNdZeros};
use kinglet_graph::ops::slice::{Slice, SliceSizes, StridedSlice};
use kinglet_graph::ops::soft_loss::SoftLoss;
use kinglet_graph::ops::softmax::{Hardmax, LogSoftmax, Softmax};
use kinglet_graph::ops::space::{
    BatchToSpace, BlockOrder, DepthToSpace, SpaceToBatch, SpaceToDepth,
};
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::unary::{Clip, Unary};
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{Bool, DType, Element, Encoding, Graph, Op, State, StateId, Tensor, ValueType};
use std::sync::Arc;

/// An input of a case.
pub enum Input {
    /// An optional one left out.
    None,
    /// Not differentiated.
    Constant(Tensor),
    /// Random, and differentiated.
    Real { dims: Vec<usize>, low: f64, high: f64 },
}

/// One op on inputs.
pub struct Case {
    pub name: String,
    pub type_name: &'static str,
    pub op: Arc<dyn Op>,
    pub inputs: Vec<Input>,
    pub outputs: usize,
    /// The element types of the outputs.
    pub dtypes: Vec<DType>,
    /// The outputs that the loss depends on.
    pub differentiable: Vec<usize>,
    pub states: Vec<State>,
}

fn case<T: Op>(op: T, inputs: Vec<Input>) -> Case {
    let name = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
    Case {
        name: format!("{op:?}"),
        type_name: name,
        op: Arc::new(op),
        inputs,
        outputs: 1,
        dtypes: vec![DType::F64],
        differentiable: vec![0],
        states: Vec::new(),
    }
}

impl Case {
    fn outputs(self, dtypes: &[DType], differentiable: &[usize]) -> Case {
        let (dtypes, differentiable) = (dtypes.to_vec(), differentiable.to_vec());
        Case { outputs: dtypes.len(), dtypes, differentiable, ..self }
    }
}

/// Numbers from -2 to 2.
fn x(dims: &[usize]) -> Input {
    within(dims, -2.0, 2.0)
}

fn within(dims: &[usize], low: f64, high: f64) -> Input {
    Input::Real { dims: dims.to_vec(), low, high }
}

fn fixed<T: Element>(dims: &[usize], data: &[T]) -> Input {
    Input::Constant(Tensor::from_slice(dims, data).unwrap())
}

fn ints(data: &[i64]) -> Input {
    fixed(&[data.len()], data)
}

fn reals(dims: &[usize], data: &[f64]) -> Input {
    fixed(dims, data)
}

/// All rows.
pub fn cases() -> Vec<Case> {
    [
        unary(),
        binary(),
        products(),
        convolutions(),
        pools(),
        norms(),
        reductions(),
        moves(),
        picks(),
        choices(),
        rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Ops that are constant but for jumps.
pub fn flat() -> Vec<Case> {
    let mut all: Vec<Case> = [Unary::Sign, Unary::Ceil, Unary::Floor, Unary::Round]
        .map(|f| case(f, vec![x(&[3, 5])]))
        .into();
    all.push(case(Binary::new(BinaryFn::FloorDiv), vec![x(&[3, 1]), within(&[5], 0.5, 2.0)]));
    all.push(case(Hardmax { axis: -1, flatten: false }, vec![x(&[3, 5])]));
    all.push(case(ZerosLike, vec![x(&[3])]));
    all.push(case(EyeLike { dtype: None, k: 0 }, vec![x(&[3, 2])]));
    all
}

/// Ops that round, and what they are taken for by gradients: these pass straight through.
pub fn straight_through() -> Vec<(Case, Case)> {
    let pass = || case(Identity, vec![x(&[2, 32])]);
    let stored = |dtype| case(FakeEncode { dtype }, vec![x(&[2, 32])]);
    let mut all: Vec<(Case, Case)> = [DType::F16, Encoding::Q4_0.into(), Encoding::Q8_0.into()]
        .map(|d| (stored(d), pass()))
        .into();
    // Seven steps of a half: from 1.75 on, numbers are clamped.
    let bounds = [-1.75, 1.75].map(|bound| reals(&[], &[bound]));
    let [low, high] = bounds;
    let integers = Integers::symmetric(3, None).unwrap();
    all.push((
        case(FakeQuantize { integers, learned: false }, vec![x(&[3, 40]), reals(&[], &[0.5])]),
        case(Clip, vec![x(&[3, 40]), low, high]),
    ));
    // From -1 to 0.5, of which halves on both sides go to the even end.
    let integers = Integers::unsigned(2, Some(0)).unwrap();
    let (scale, zero) = (reals(&[3], &[0.5; 3]), reals(&[3], &[2.0; 3]));
    all.push((
        case(FakeQuantize { integers, learned: false }, vec![x(&[3, 40]), scale, zero]),
        case(Clip, vec![x(&[3, 40]), reals(&[], &[-1.25]), reals(&[], &[0.75])]),
    ));
    all
}

fn unary() -> Vec<Case> {
    use Unary::*;
    let wide = [
        Abs,
        Neg,
        Square,
        Exp,
        Sin,
        Cos,
        Atan,
        Sinh,
        Cosh,
        Tanh,
        Asinh,
        Erf,
        Sigmoid,
        Relu,
        Relu6,
        ReluN1To1,
        Relu0To1,
        Clamp { min: -0.7, max: 1.1 },
        LeakyRelu { alpha: 0.1 },
        Elu { alpha: 0.7 },
        Celu { alpha: 0.7 },
        Selu { alpha: 1.7, gamma: 1.1 },
        Gelu,
        GeluTanh,
        HardSigmoid { alpha: 0.3, beta: 0.4 },
        HardSwish,
        Silu,
        Swish { alpha: 1.7 },
        Mish,
        Softplus,
        Softsign,
        Shrink { lambda: 0.5, bias: 0.2 },
        Affine { alpha: 0.3, beta: 2.0 },
        ScaledTanh { alpha: 1.7, beta: 0.6 },
    ];
    let mut all: Vec<Case> =
        wide.into_iter().map(|f| case(f, vec![within(&[5, 7], -4.0, 8.0)])).collect();
    for (functions, low, high) in [
        (&[Sqrt, Rsqrt, Reciprocal, Log][..], 0.3, 3.0),
        (&[Tan, Asin, Acos, Atanh][..], -0.9, 0.9),
        (&[Acosh][..], 1.1, 3.0),
    ] {
        all.extend(functions.iter().map(|f| case(*f, vec![within(&[3, 5], low, high)])));
    }
    all.push(case(Clip, vec![x(&[3, 5]), reals(&[], &[-0.5]), reals(&[], &[1.5])]));
    all.push(case(Clip, vec![x(&[3, 5]), Input::None, reals(&[], &[0.5])]));
    all.push(case(Cast::new(DType::F64), vec![x(&[3, 5])]));
    all
}

fn binary() -> Vec<Case> {
    use BinaryFn::*;
    let mut all = Vec::new();
    for function in [Add, Sub, Mul, Min, Max, SquaredDifference, Atan2, PRelu] {
        for (a, b) in
            [(&[3, 5][..], &[3, 5][..]), (&[3, 1], &[2, 1, 5]), (&[], &[3]), (&[2, 3, 1], &[1])]
        {
            all.push(case(Binary::new(function), vec![x(a), x(b)]));
        }
    }
    for function in [Div, FloorMod, Fmod] {
        let (low, high) = (0.7, 2.0);
        all.push(case(Binary::new(function), vec![x(&[3, 1]), within(&[2, 1, 5], low, high)]));
        all.push(case(Binary::new(function), vec![x(&[3, 5]), within(&[3, 5], -high, -low)]));
    }
    all.push(case(Binary::new(Pow), vec![within(&[3, 1], 0.2, 2.0), x(&[2, 1, 5])]));
    // A negative base has powers of whole exponents.
    all.push(case(Binary::new(Pow), vec![x(&[3, 5]), reals(&[], &[3.0])]));
    for activation in
        [Activation::Relu, Activation::Clamp { min: -1.0, max: 0.5 }, Activation::of(Unary::Silu)]
    {
        all.push(case(Binary { function: Mul, activation }, vec![x(&[3, 5]), x(&[5])]));
    }
    // The same value twice.
    all.push(case(Binary::new(Add), vec![x(&[1, 5]), x(&[4, 1])]));
    all
}

fn products() -> Vec<Case> {
    let mut all = Vec::new();
    for transpose_a in [false, true] {
        for transpose_b in [false, true] {
            let turned = |turn: bool, r: usize, c: usize| if turn { [c, r] } else { [r, c] };
            let (a, b) = (turned(transpose_a, 3, 5), turned(transpose_b, 5, 2));
            let batch = |lead: &[usize], m: [usize; 2]| x(&[lead, &m].concat());
            let op = MatMul { transpose_a, transpose_b, ..MatMul::new() };
            all.push(case(op, vec![batch(&[], a), batch(&[], b)]));
            all.push(case(op, vec![batch(&[4], a), batch(&[], b), x(&[2])]));
            all.push(case(op, vec![batch(&[2, 1], a), batch(&[3], b)]));
            all.push(case(op, vec![batch(&[], a), batch(&[3], b), x(&[3, 1])]));
        }
    }
    let plain = MatMul::new();
    all.push(case(plain, vec![x(&[5]), x(&[5, 3])]));
    all.push(case(plain, vec![x(&[5]), x(&[2, 5, 3])]));
    all.push(case(plain, vec![x(&[3, 5]), x(&[5])]));
    all.push(case(plain, vec![x(&[2, 3, 5]), x(&[5])]));
    all.push(case(plain, vec![x(&[5]), x(&[5])]));
    for activation in [Activation::Relu6, Activation::of(Unary::GeluTanh)] {
        all.push(case(MatMul { activation, ..plain }, vec![x(&[3, 5]), x(&[5, 2]), x(&[2])]));
    }
    for (equation, a, b) in [
        ("ij,jk->ik", &[3, 5][..], &[5, 2][..]),
        ("bij,bkj->bik", &[2, 3, 5], &[2, 4, 5]),
        ("...i,ij->...j", &[2, 3, 5], &[5, 4]),
    ] {
        all.push(case(Einsum::new(equation).unwrap(), vec![x(a), x(b)]));
    }
    all
}

fn window(stride: &[usize], dilation: &[usize], padding: Padding) -> Window {
    Window { stride: stride.to_vec(), dilation: dilation.to_vec(), padding }
}

fn pads(before: &[usize], after: &[usize]) -> Padding {
    Padding::Explicit { before: before.to_vec(), after: after.to_vec() }
}

fn convolutions() -> Vec<Case> {
    let first = (Layout::ChannelsFirst, WeightLayout::OutInSpatial);
    let last = (Layout::ChannelsLast, WeightLayout::OutSpatialIn);
    let conv = |window: Window, groups: usize, layouts: (Layout, WeightLayout)| Conv {
        window,
        groups,
        layout: layouts.0,
        weight_layout: layouts.1,
        activation: Activation::None,
    };
    let mut all = vec![
        // Strides that leave elements at the end unread, unequal sides, dilations.
        case(
            conv(window(&[2, 1], &[1, 2], pads(&[1, 0], &[0, 2])), 1, first),
            vec![x(&[2, 3, 6, 5]), x(&[4, 3, 3, 2]), x(&[4])],
        ),
        case(
            conv(window(&[3, 2], &[1, 1], Padding::Valid), 1, last),
            vec![x(&[1, 7, 6, 2]), x(&[3, 2, 3, 2])],
        ),
        case(
            conv(window(&[2, 2], &[1, 1], Padding::SameUpper), 2, first),
            vec![x(&[2, 4, 5, 6]), x(&[6, 2, 3, 3]), x(&[6])],
        ),
        case(
            conv(window(&[2, 2], &[1, 1], Padding::SameLower), 1, last),
            vec![x(&[1, 6, 5, 2]), x(&[3, 4, 3, 2])],
        ),
        // Each channel by itself, twice the channels.
        case(
            conv(
                window(&[1, 2], &[1, 1], Padding::SameUpper),
                3,
                (Layout::ChannelsLast, WeightLayout::InSpatialOut),
            ),
            vec![x(&[2, 4, 5, 3]), x(&[1, 3, 2, 6]), x(&[6])],
        ),
        case(
            conv(window(&[2], &[1], pads(&[1], &[1])), 1, first),
            vec![x(&[2, 2, 5]), x(&[3, 2, 3])],
        ),
        case(
            conv(
                window(&[1, 1, 2], &[1, 1, 1], Padding::Valid),
                1,
                (Layout::ChannelsLast, WeightLayout::SpatialInOut),
            ),
            vec![x(&[1, 2, 3, 4, 2]), x(&[2, 2, 3, 2, 3])],
        ),
        // A residual, and an activation after it.
        case(
            Conv {
                activation: Activation::Relu6,
                ..conv(window(&[1, 1], &[1, 1], pads(&[1, 1], &[1, 1])), 1, first)
            },
            vec![x(&[1, 2, 4, 3]), x(&[2, 2, 3, 3]), x(&[2]), x(&[1, 2, 4, 3])],
        ),
        case(
            Conv {
                activation: Activation::of(Unary::HardSwish),
                ..conv(window(&[1, 1], &[1, 1], Padding::Valid), 1, last)
            },
            vec![x(&[1, 3, 3, 2]), x(&[3, 1, 1, 2]), x(&[3])],
        ),
    ];
    let transposed =
        |window: Window, output_padding: &[usize], groups, layouts: (Layout, WeightLayout)| {
            ConvTranspose {
                window,
                output_padding: output_padding.to_vec(),
                groups,
                layout: layouts.0,
                weight_layout: layouts.1,
                activation: Activation::None,
            }
        };
    let first = (Layout::ChannelsFirst, WeightLayout::InOutSpatial);
    all.extend([
        case(
            transposed(window(&[2, 1], &[1, 2], pads(&[1, 0], &[0, 1])), &[1, 0], 1, first),
            vec![x(&[2, 3, 3, 4]), x(&[3, 2, 3, 2]), x(&[2])],
        ),
        case(
            transposed(window(&[2, 2], &[1, 1], Padding::Valid), &[0, 0], 2, first),
            vec![x(&[1, 4, 3, 2]), x(&[4, 3, 3, 2]), x(&[6])],
        ),
        case(
            ConvTranspose {
                activation: Activation::Relu,
                ..transposed(window(&[2, 2], &[1, 1], Padding::SameUpper), &[0, 0], 1, last)
            },
            vec![x(&[1, 3, 2, 2]), x(&[3, 3, 3, 2]), x(&[3]), ints(&[6, 4])],
        ),
    ]);
    all
}

fn pools() -> Vec<Case> {
    let pool = |kind, window: Window, ceil, layout| Pool {
        kind,
        kernel: vec![3, 2],
        window,
        ceil,
        layout,
        activation: Activation::None,
    };
    let mut all = Vec::new();
    for kind in [
        PoolKind::Max,
        PoolKind::Average { include_padding: false },
        PoolKind::Average { include_padding: true },
        PoolKind::Lp { p: 2.0 },
        PoolKind::Lp { p: 3.0 },
        PoolKind::RootMeanSquare,
    ] {
        let padded = window(&[2, 2], &[1, 1], pads(&[1, 0], &[1, 1]));
        all.push(case(pool(kind, padded, true, Layout::ChannelsFirst), vec![x(&[2, 2, 5, 4])]));
        let same = window(&[1, 2], &[1, 1], Padding::SameUpper);
        all.push(case(pool(kind, same, false, Layout::ChannelsLast), vec![x(&[1, 4, 5, 3])]));
    }
    let valid = window(&[1, 1], &[2, 1], Padding::Valid);
    all.push(case(
        Pool {
            activation: Activation::Relu,
            ..pool(PoolKind::Max, valid.clone(), false, Layout::ChannelsLast)
        },
        vec![x(&[1, 6, 5, 2])],
    ));
    all.push(
        case(
            MaxPoolWithIndices {
                kernel: vec![3, 2],
                window: valid,
                ceil: false,
                layout: Layout::ChannelsFirst,
                column_major: false,
            },
            vec![x(&[1, 2, 6, 5])],
        )
        .outputs(&[DType::F64, DType::I64], &[0]),
    );
    for kind in [
        PoolKind::Max,
        PoolKind::Average { include_padding: false },
        PoolKind::Lp { p: 1.0 },
        PoolKind::Lp { p: 2.0 },
    ] {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            all.push(case(GlobalPool { kind, layout }, vec![x(&[2, 3, 4, 5])]));
        }
    }
    all
}

fn norms() -> Vec<Case> {
    let (first, last) = (Layout::ChannelsFirst, Layout::ChannelsLast);
    let epsilon = 1e-3;
    let mut all = Vec::new();
    for (layout, dims, c) in
        [(first, &[2, 3, 2, 5][..], 3), (last, &[2, 3, 2, 5][..], 5), (first, &[4, 3][..], 3)]
    {
        let positive = || within(&[c], 0.5, 1.5);
        all.push(case(
            BatchNorm { epsilon, layout },
            vec![x(dims), x(&[c]), x(&[c]), x(&[c]), positive()],
        ));
        let (mean, variance) = (reals(&[c], &vec![0.5; c]), reals(&[c], &vec![2.0; c]));
        all.push(
            case(
                BatchNormTraining { epsilon, momentum: 0.9, layout },
                vec![x(dims), x(&[c]), x(&[c]), mean, variance],
            )
            .outputs(&[DType::F64; 3], &[0]),
        );
    }
    for (layout, dims, groups, scales) in [
        (first, [2, 6, 2, 3], Some(2), 6),
        (last, [2, 2, 3, 6], Some(3), 6),
        (first, [2, 6, 2, 3], Some(2), 2),
        (last, [2, 3, 2, 4], None, 4),
    ] {
        all.push(case(
            GroupNorm { groups, epsilon, layout },
            vec![x(&dims), x(&[scales]), x(&[scales])],
        ));
    }
    for (axis, dims, scale) in [
        (-1, &[3, 5][..], &[5][..]),
        (1, &[2, 3, 5], &[3, 5]),
        (-1, &[2, 3, 5], &[3, 1]),
        (-1, &[3, 5], &[]),
    ] {
        all.push(case(LayerNorm { axis, epsilon }, vec![x(dims), x(scale), x(scale)]));
        all.push(case(LayerNorm { axis, epsilon }, vec![x(dims), x(scale)]));
        all.push(case(RmsNorm { axis, epsilon }, vec![x(dims), x(scale)]));
    }
    for p in [1.0, 2.0] {
        all.push(case(LpNorm { axis: 1, p, epsilon }, vec![x(&[2, 5, 3])]));
        // ε rules.
        all.push(case(LpNorm { axis: 0, p, epsilon: 100.0 }, vec![x(&[3])]));
    }
    all.push(case(MeanVarianceNorm { axes: vec![0, -1] }, vec![x(&[3, 2, 5])]));
    for (axis, flatten) in [(-1, false), (0, false), (1, true), (1, false)] {
        all.push(case(Softmax { axis, flatten, beta: 1.5 }, vec![x(&[3, 2, 5])]));
        all.push(case(LogSoftmax { axis, flatten }, vec![x(&[3, 2, 5])]));
    }
    let ignored = fixed(&[3, 2], &[4i64, 0, -100, 2, 1, 4]);
    let plain = || fixed(&[3, 2], &[4i32, 0, 3, 2, 1, 4]);
    for softmax in [false, true] {
        for reduction in [LossReduction::None, LossReduction::Sum, LossReduction::Mean] {
            let op = ClassLoss { softmax, reduction, ignore: None };
            all.push(case(op, vec![x(&[3, 5, 2]), plain()]));
        }
    }
    let weights = || reals(&[5], &[0.5, 1.0, 1.5, 2.0, 0.25]);
    let op = ClassLoss { softmax: true, reduction: LossReduction::Mean, ignore: Some(-100) };
    all.push(case(op, vec![x(&[3, 5, 2]), ignored]));
    all.push(case(op, vec![x(&[3, 5]), fixed(&[3], &[4i32, -100, 1]), weights()]));
    let op = ClassLoss { reduction: LossReduction::None, ..op };
    all.push(case(op, vec![x(&[3, 5]), fixed(&[3], &[4i64, -100, 1]), weights()]));
    let teacher = || reals(&[3, 2], &[0.5, -1.0, 1.5, 2.0, 0.25, -0.75]);
    for (mean, temperature) in [(false, 1.0), (true, 2.5)] {
        let op = SoftLoss { temperature, mean, ignore: Some(-100) };
        all.push(case(op, vec![x(&[3, 2]), teacher(), fixed(&[3], &[1i32, -100, 0])]));
        all.push(case(op, vec![x(&[3, 2]), teacher()]));
    }
    all
}

fn reductions() -> Vec<Case> {
    use ReduceKind::*;
    let mut all = Vec::new();
    for kind in [Sum, Mean, Max, Min, L1, L2, LogSum, LogSumExp, SumSquare] {
        let numbers = |dims: &[usize]| within(dims, if kind == LogSum { 0.5 } else { -2.0 }, 2.0);
        for keep_dims in [false, true] {
            let op = Reduce { kind, keep_dims, none_by_default: false };
            all.push(case(op, vec![numbers(&[3, 2, 5])]));
            all.push(case(op, vec![numbers(&[3, 2, 5]), ints(&[-1, 0])]));
        }
        all.push(case(
            Reduce { kind, keep_dims: false, none_by_default: true },
            vec![numbers(&[3, 2])],
        ));
    }
    for keep_dims in [false, true] {
        let op = Reduce { kind: Product, keep_dims, none_by_default: false };
        all.push(case(op, vec![x(&[3, 2, 5]), ints(&[1])]));
    }
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        let op = Cumulative { product: false, exclusive, reverse };
        all.push(case(op, vec![x(&[2, 5, 3]), ints(&[1])]));
    }
    all
}

fn moves() -> Vec<Case> {
    let mut all = vec![
        case(Reshape { allow_zero: false }, vec![x(&[3, 4]), ints(&[2, -1])]),
        case(Flatten { axis: 2 }, vec![x(&[3, 1, 5])]),
        case(Squeeze, vec![x(&[3, 1, 5, 1]), ints(&[1])]),
        case(Unsqueeze, vec![x(&[3, 5]), ints(&[0, -1])]),
        case(Identity, vec![x(&[3, 5])]),
        case(Transpose, vec![x(&[2, 3, 5])]),
        case(Transpose, vec![x(&[2, 3, 5]), ints(&[1, 2, 0])]),
        case(Concat { axis: 1 }, vec![x(&[2, 3]), x(&[2, 1]), x(&[2, 4])]),
        case(Stack { axis: 1 }, vec![x(&[2, 3]), x(&[2, 3])]),
        case(Slice, vec![x(&[4, 5]), ints(&[1, -4]), ints(&[3, 100])]),
        case(Slice, vec![x(&[4, 5]), ints(&[0]), ints(&[100]), ints(&[1]), ints(&[2])]),
        case(Slice, vec![x(&[4, 5]), ints(&[-1]), ints(&[-100]), ints(&[0]), ints(&[-1])]),
        case(SliceSizes, vec![x(&[4, 5]), ints(&[1, 0]), ints(&[2, -1])]),
        case(
            StridedSlice { shrink_axis_mask: 1, ..StridedSlice::default() },
            vec![x(&[4, 5]), ints(&[2, 0]), ints(&[3, 5]), ints(&[1, 3])],
        ),
        case(Expand, vec![x(&[3, 1]), ints(&[2, 1, 5])]),
        case(Expand, vec![x(&[3, 5]), ints(&[1])]),
        case(Tile, vec![x(&[3, 2]), ints(&[2, 3])]),
        case(Trilu { upper: true }, vec![x(&[2, 4, 3])]),
        case(Trilu { upper: false }, vec![x(&[4, 3]), fixed(&[], &[1i64])]),
        case(Reverse, vec![x(&[3, 4]), ints(&[1])]),
        case(
            ReverseSequence { batch_axis: 0, time_axis: 1 },
            vec![x(&[3, 4, 2]), ints(&[4, 1, 3])],
        ),
        case(SpaceToBatch, vec![x(&[1, 4, 3, 2]), ints(&[2, 2]), fixed(&[2, 2], &[0i64, 0, 0, 1])]),
        case(BatchToSpace, vec![x(&[4, 2, 2, 1]), ints(&[2, 2]), fixed(&[2, 2], &[0i64, 1, 1, 0])]),
    ];
    for axis in [0, -1] {
        let (given, even) = (ints(&[1, 3]), Split { axis });
        all.push(case(even.clone(), vec![x(&[4, 4]), given]).outputs(&[DType::F64; 2], &[0, 1]));
        // Nothing depends on the first part.
        all.push(case(even, vec![x(&[4, 4])]).outputs(&[DType::F64; 2], &[1]));
    }
    all.push(case(Unstack { axis: 1 }, vec![x(&[2, 3, 2])]).outputs(&[DType::F64; 3], &[0, 2]));
    for mode in
        [PadMode::Constant, PadMode::Reflect, PadMode::Symmetric, PadMode::Edge, PadMode::Wrap]
    {
        all.push(case(Pad { mode }, vec![x(&[3, 4]), ints(&[1, 2, 0, 1])]));
        all.push(case(Pad { mode }, vec![x(&[3, 4]), ints(&[-1, 1]), Input::None, ints(&[1])]));
    }
    for order in [BlockOrder::BlockFirst, BlockOrder::ChannelFirst] {
        let layout = Layout::ChannelsFirst;
        all.push(case(DepthToSpace { block: 2, order, layout }, vec![x(&[1, 8, 2, 3])]));
        all.push(case(SpaceToDepth { block: 2, order, layout }, vec![x(&[1, 2, 4, 6])]));
    }
    all
}

fn picks() -> Vec<Case> {
    let places = || fixed(&[2, 2], &[2i64, 0, -1, 2]);
    let elementwise = || fixed(&[2, 3], &[1i64, 0, 1, 1, 0, -1]);
    vec![
        case(Gather { axis: 0, batch_dims: 0 }, vec![x(&[3, 5]), places()]),
        case(Gather { axis: 1, batch_dims: 0 }, vec![x(&[2, 3, 5]), places()]),
        case(Gather { axis: -1, batch_dims: 0 }, vec![x(&[2, 3]), fixed(&[], &[1i32])]),
        case(GatherElements { axis: 0 }, vec![x(&[2, 3]), elementwise()]),
        case(GatherElements { axis: 1 }, vec![x(&[2, 3]), elementwise()]),
        case(
            GatherNd { batch_dims: 0 },
            vec![x(&[3, 2, 5]), fixed(&[3, 2], &[0i64, 1, 2, 0, 0, 1])],
        ),
        case(
            ScatterElements { axis: 0, reduction: Reduction::Add },
            vec![x(&[3, 3]), elementwise(), x(&[2, 3])],
        ),
        case(
            ScatterElements { axis: 1, reduction: Reduction::None },
            vec![x(&[2, 3]), elementwise(), reals(&[2, 3], &[1.0; 6])],
        ),
        case(
            ScatterNd { reduction: Reduction::Add },
            vec![x(&[3, 5]), fixed(&[2, 1], &[2i64, 2]), x(&[2, 5])],
        ),
        case(
            ScatterNd { reduction: Reduction::None },
            vec![x(&[3, 5]), fixed(&[2, 1], &[2i64, 0]), reals(&[2, 5], &[1.0; 10])],
        ),
        case(ScatterNdZeros, vec![fixed(&[2, 1], &[2i64, 0]), x(&[2, 5]), ints(&[4, 5])]),
        case(TopK { axis: -1, largest: true, index: DType::I64 }, vec![x(&[3, 5]), ints(&[2])])
            .outputs(&[DType::F64, DType::I64], &[0]),
    ]
}

fn choices() -> Vec<Case> {
    let condition = || {
        let data: Vec<Bool> = [true, false, true].map(Bool::from).into();
        fixed(&[3, 1], &data)
    };
    vec![
        case(Where, vec![condition(), x(&[3, 5]), x(&[5])]),
        case(Where, vec![condition(), x(&[]), x(&[2, 1, 5])]),
    ]
}

/// Weights of three rows of 32 in an encoding.
fn encoded(encoding: Encoding) -> Input {
    let mut seed = 3;
    let numbers: Vec<f32> = (0..96).map(|_| super::random(&mut seed) as f32 - 0.5).collect();
    Input::Constant(Tensor::encode(encoding.into(), &[3, 32], &numbers).unwrap())
}

fn rows() -> Vec<Case> {
    let mut all = vec![
        case(Linear::default(), vec![x(&[4, 5]), x(&[3, 5])]),
        case(Linear::default(), vec![x(&[2, 1, 5]), x(&[3, 5]), x(&[3])]),
        case(
            Linear { activation: Activation::of(Unary::Silu) },
            vec![x(&[4, 5]), x(&[3, 5]), x(&[3])],
        ),
        case(Linear::default(), vec![x(&[4, 5]), x(&[3, 5]), Input::None, x(&[4, 3])]),
        case(
            Linear { activation: Activation::of(Unary::Silu) },
            vec![x(&[2, 2, 5]), x(&[3, 5]), x(&[3]), x(&[2, 2, 3])],
        ),
        case(Linear::default(), vec![x(&[2, 32]), encoded(Encoding::Q8_0)]),
        case(Linear::default(), vec![x(&[2, 32]), encoded(Encoding::Q4_0)]),
        case(Embedding, vec![fixed(&[5], &[2i32, 0, -1, 2, 3]), x(&[4, 3])]),
    ];
    for interleaved in [false, true] {
        let angles: Vec<f64> = (0..6).map(|i| 0.3 * i as f64).collect();
        let [cos, sin] = [f64::cos, f64::sin].map(|f: fn(f64) -> f64| {
            reals(&[3, 2], &angles.iter().map(|a| f(*a)).collect::<Vec<_>>())
        });
        all.push(case(Rotate { size: 7, start: 2, interleaved }, vec![x(&[3, 14]), cos, sin]));
    }
    let plain = RowAttention {
        state: state_id(),
        heads: 4,
        kv_heads: 2,
        key: 3,
        value: 2,
        value_in_key: false,
        scale: 0.6,
        softcap: None,
        window: None,
        alibi: None,
    };
    all.push(attention(plain, false));
    all.push(attention(RowAttention { window: Some(2), ..plain }, true));
    all.push(attention(RowAttention { softcap: Some(1.5), alibi: Some(8.0), ..plain }, true));
    all.push(attention(RowAttention { value_in_key: true, ..plain }, false));
    all
}

/// The state of a case's graph, which has one.
fn state_id() -> StateId {
    let ty = ValueType::new(DType::F64, &[1][..]);
    Graph::new("").add_state(State { name: "cache".into(), ty, initial: None })
}

/// Two sequences, of which one holds two cells from before and branches, and padding.
fn attention(op: RowAttention, sinks: bool) -> Case {
    let row = |data: &[i32]| fixed(&[data.len()], data);
    let n = 7;
    let mut inputs = vec![x(&[n, op.heads * op.key]), x(&[n, op.kv_heads * op.key])];
    inputs.push(if op.value_in_key { Input::None } else { x(&[n, op.kv_heads * op.value]) });
    inputs.extend([
        row(&[0, 0, 1, 0, -1, 1, 1]),
        row(&[2, 3, 0, 3, 0, 1, 2]),
        row(&[-1, 0, -1, 0, -1, 2, 5]),
        row(&[2, 3, PAGE as i32, 4, 0, PAGE as i32 + 1, PAGE as i32 + 2]),
        fixed(&[2, 1], &[0i32, 1]),
    ]);
    if sinks {
        inputs.push(x(&[op.heads]));
    }
    let dims = op.state_dims(2);
    let mut seed = 5;
    let held: Vec<f64> =
        (0..dims.iter().product()).map(|_| super::random(&mut seed) - 0.5).collect();
    let ty = ValueType::new(DType::F64, dims.as_slice());
    let initial = Some(Tensor::from_slice(&dims, &held).unwrap());
    let states = vec![State { name: "cache".into(), ty, initial }];
    Case { states, ..case(op, inputs) }
}
