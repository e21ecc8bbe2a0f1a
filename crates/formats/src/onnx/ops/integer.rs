//! Integer products: convolutions and matrix products of 8-bit tensors.
//!
//! Where scales and zero points are constants, as in the files of quantisers, they become part of
//! the values' types and the node an integer op. Where only running tells them, the node is
//! composed of doubles, in which sums of integer products are exact.

use std::sync::Arc;

use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::quantized::{Clamp, QConv, QMatMul, Rescale};
use kinglet_graph::ops::window::{Layout, Padding, WeightLayout, Window};
use kinglet_graph::{DType, OpResult, Quant, Tensor, ValueId, elements};

use super::nn::{groups, spatial, window};
use super::{Entry, op};
use crate::onnx::context::Cx;
use crate::onnx::proto::AttributeValue;

pub const TABLE: &[Entry] = &[
    op("ConvInteger", 10, conv_integer),
    op("MatMulInteger", 10, mat_mul_integer),
    op("QLinearConv", 10, qlinear_conv),
    op("QLinearMatMul", 10, qlinear_mat_mul),
];

/// Scale and zero point of a tensor, as inputs of its node.
#[derive(Clone, Copy)]
pub struct Affine {
    /// `None`: 1.
    pub scale: Option<ValueId>,
    /// `None`: 0.
    pub zero_point: Option<ValueId>,
}

impl Affine {
    /// Inputs `i` and `i + 1` of the node.
    pub fn at(cx: &Cx<'_, '_>, i: usize) -> Affine {
        Affine { scale: cx.opt(i), zero_point: cx.opt(i + 1) }
    }

    /// What they say of `value` where they are constants: one for all, or, where `axis` is given,
    /// one for each of its indices.
    pub fn quant(
        self,
        cx: &mut Cx<'_, '_>,
        value: ValueId,
        axis: Option<usize>,
    ) -> Option<Arc<Quant>> {
        let mut scale = match self.scale {
            None => vec![1.0],
            Some(id) => list(&cx.data(id)?)?.slice::<f32>().ok()?.to_vec(),
        };
        let mut zero_point = match self.zero_point {
            None => vec![0],
            Some(id) => {
                let ints = list(&cx.data(id)?)?.view().ints().ok()?;
                ints.into_iter().map(|z| i32::try_from(z).ok()).collect::<Option<Vec<_>>>()?
            }
        };
        let count = scale.len().max(zero_point.len());
        if scale.len() == 1 {
            scale = vec![scale[0]; count];
        }
        if zero_point.len() == 1 {
            zero_point = vec![zero_point[0]; count];
        }
        let axis = match count {
            1 => None,
            _ => {
                let ty = cx.ty(value);
                let own = ty.shape.dims()?.get(axis?)?.fixed();
                Some(axis?).filter(|_| own == Some(count))
            }
        };
        let fits = scale.len() == zero_point.len()
            && (count == 1 || axis.is_some())
            && scale.iter().all(|s| s.is_finite() && *s > 0.0);
        fits.then(|| Arc::new(Quant { scale, zero_point, axis }))
    }
}

/// `tensor` where it is one number or a list of some.
fn list(tensor: &Tensor) -> Option<&Tensor> {
    let count: usize = tensor.dims().iter().product();
    (count == 1 || tensor.dims().len() == 1 && count > 0).then_some(tensor)
}

/// One 8-bit operand of an integer op.
struct Operand {
    value: ValueId,
    quant: Arc<Quant>,
}

impl Operand {
    fn of(
        cx: &mut Cx<'_, '_>,
        value: ValueId,
        affine: Affine,
        axis: Option<usize>,
    ) -> Option<Operand> {
        let byte = matches!(cx.dtype(value), DType::I8 | DType::U8);
        let quant = affine.quant(cx, value, axis).filter(|_| byte)?;
        Some(Operand { value, quant })
    }

    /// The value, its quantisation part of its type; `None` where it has another.
    fn typed(&self, cx: &mut Cx<'_, '_>) -> Option<ValueId> {
        cx.quantised(self.value, &self.quant)
    }
}

/// What an integer op makes of its accumulators.
pub struct Target {
    to: DType,
    quant: Arc<Quant>,
    clamp: Clamp,
    rescale: Rescale,
}

impl Target {
    /// The accumulators themselves.
    fn accumulators() -> OpResult<Target> {
        let quant = Arc::new(Quant::per_tensor(1.0, 0));
        let (to, rescale) = (DType::I32, Rescale::None);
        Ok(Target { to, quant, clamp: Clamp::of(to)?, rescale })
    }

    /// 8-bit integers of a constant scale and zero point.
    pub fn bytes(cx: &mut Cx<'_, '_>, affine: Affine) -> OpResult<Option<Target>> {
        let Some(zero_point) = affine.zero_point else { return Ok(None) };
        let to = cx.dtype(zero_point);
        let quant = affine.quant(cx, zero_point, None);
        let Some(quant) = quant.filter(|_| matches!(to, DType::I8 | DType::U8)) else {
            return Ok(None);
        };
        Ok(Some(Target { to, quant, clamp: Clamp::of(to)?, rescale: Rescale::Float }))
    }
}

/// The integer convolution of `x` and `w`; `None` where their values have other scales.
fn integer_conv(
    cx: &mut Cx<'_, '_>,
    [x, w]: [&Operand; 2],
    bias: Option<ValueId>,
    window: Window,
    target: Target,
) -> OpResult<Option<ValueId>> {
    let Target { to, quant, clamp, rescale } = target;
    let op = QConv {
        window,
        groups: groups(cx)?,
        layout: Layout::ChannelsFirst,
        weight_layout: WeightLayout::OutInSpatial,
        to,
        clamp,
        rescale,
    };
    let (Some(x), Some(w)) = (x.typed(cx), w.typed(cx)) else { return Ok(None) };
    let y = cx.apply_many(op, vec![Some(x), Some(w), bias], 1)?[0];
    Ok(cx.quantised(y, &quant))
}

/// The integer product of matrices; `None` where its operands are no matrices, or their values
/// have other scales.
pub fn integer_product(
    cx: &mut Cx<'_, '_>,
    [(a, a_affine), (b, b_affine)]: [(ValueId, Affine); 2],
    [transpose_a, transpose_b]: [bool; 2],
    bias: Option<ValueId>,
    target: Target,
) -> OpResult<Option<ValueId>> {
    let rank = |cx: &mut Cx<'_, '_>, id| cx.ty(id).shape.rank();
    let (Some(2..), Some(b_rank @ 2..)) = (rank(cx, a), rank(cx, b)) else { return Ok(None) };
    let columns = (b_rank == 2).then_some(usize::from(!transpose_b));
    let (Some(a), Some(b)) =
        (Operand::of(cx, a, a_affine, None), Operand::of(cx, b, b_affine, columns))
    else {
        return Ok(None);
    };
    let Target { to, quant, clamp, rescale } = target;
    let op = QMatMul { transpose_a, transpose_b, to, clamp, rescale };
    let (Some(a), Some(b)) = (a.typed(cx), b.typed(cx)) else { return Ok(None) };
    let y = cx.apply_many(op, vec![Some(a), Some(b), bias], 1)?[0];
    Ok(cx.quantised(y, &quant))
}

/// Ones of sizes `dims`, of which there are no more than weights, as an operand beside them.
fn ones(cx: &mut Cx<'_, '_>, dims: &[usize], weights: &Tensor) -> OpResult<Option<Operand>> {
    let count = elements(dims).filter(|n| *n <= weights.raw().len());
    let Some(count) = count else { return Ok(None) };
    let value = cx.constant(Tensor::from_slice(dims, &vec![1u8; count])?);
    Ok(Some(Operand { value, quant: Arc::new(Quant::per_tensor(1.0, 0)) }))
}

/// `sums - zero_point × weights`: what the zero point of a tensor, not known when loading, adds to
/// its products with constant weights, whose sums for each output are `weights`.
fn less_zero_point(
    cx: &mut Cx<'_, '_>,
    sums: ValueId,
    zero_point: ValueId,
    weights: ValueId,
) -> OpResult<ValueId> {
    let zero_point = cx.apply(Cast::new(DType::I32), &[zero_point])?;
    let shift = cx.apply(Binary::new(BinaryFn::Mul), &[zero_point, weights])?;
    cx.apply(Binary::new(BinaryFn::Sub), &[sums, shift])
}

fn conv_integer(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(4)?;
    if let Some(y) = direct_conv_integer(cx)? {
        cx.finish(y);
        return Ok(());
    }
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let behind = cx.rank(w)?.saturating_sub(1);
    let (x, w) = (centred(cx, x, cx.opt(2), 0)?, centred(cx, w, cx.opt(3), behind)?);
    let y = conv(cx, x, w, None)?;
    cx.emit_on(Cast::new(DType::I32), vec![Some(y)])
}

fn direct_conv_integer(cx: &mut Cx<'_, '_>) -> OpResult<Option<ValueId>> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let n = spatial(cx, w)?;
    let mut window = window(cx, n)?;
    let zero_point = cx.opt(3);
    let Some(w) = Operand::of(cx, w, Affine { scale: None, zero_point }, Some(0)) else {
        return Ok(None);
    };
    let target = Target::accumulators()?;
    let zero_point = cx.opt(2);
    if let Some(x) = Operand::of(cx, x, Affine { scale: None, zero_point }, None) {
        return integer_conv(cx, [&x, &w], None, window, target);
    }
    // The zero point of x is known when running: x as it is, less what the zero point adds.
    let plain = Affine { scale: None, zero_point: None };
    let (Some(zero_point), Some(data), Some(mut x)) =
        (zero_point, cx.data(w.value), Operand::of(cx, x, plain, None))
    else {
        return Ok(None);
    };
    let Padding::Explicit { before, after } = &window.padding else { return Ok(None) };
    if before.iter().chain(after).any(|pad| *pad > 0) {
        // What is padded stands for zero.
        let outer = [0; 2];
        let pads: Vec<i64> = outer
            .iter()
            .chain(before)
            .chain(&outer)
            .chain(after)
            .map(|pad| i64::try_from(*pad).unwrap_or(i64::MAX))
            .collect();
        let pads = cx.ints(&pads)?;
        x.value = cx.call("Pad", &[x.value, pads, zero_point], &[])?;
        window.padding = Padding::Valid;
    }
    let mut image = vec![1, data.dims()[1].saturating_mul(groups(cx)?)];
    image.extend(&data.dims()[2..]);
    let Some(ones) = ones(cx, &image, &data)? else { return Ok(None) };
    let whole = Target::accumulators()?;
    let (Some(weights), Some(sums)) = (
        integer_conv(cx, [&ones, &w], None, Window::unit(n), whole)?,
        integer_conv(cx, [&x, &w], None, window, target)?,
    ) else {
        return Ok(None);
    };
    less_zero_point(cx, sums, zero_point, weights).map(Some)
}

fn mat_mul_integer(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(4)?;
    if let Some(y) = direct_mat_mul_integer(cx)? {
        cx.finish(y);
        return Ok(());
    }
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (a, b) = (centred(cx, a, cx.opt(2), 1)?, centred(cx, b, cx.opt(3), 0)?);
    let y = cx.call("MatMul", &[a, b], &[])?;
    cx.emit_on(Cast::new(DType::I32), vec![Some(y)])
}

fn direct_mat_mul_integer(cx: &mut Cx<'_, '_>) -> OpResult<Option<ValueId>> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let [a_affine, b_affine] = [2, 3].map(|i| Affine { scale: None, zero_point: cx.opt(i) });
    let target = Target::accumulators()?;
    let constant = a_affine.zero_point.is_none_or(|id| cx.data(id).is_some());
    if constant {
        return integer_product(cx, [(a, a_affine), (b, b_affine)], [false; 2], None, target);
    }
    // The zero point of a is known when running: a as it is, less what the zero point adds.
    let (Some(zero_point), Some(data)) = (a_affine.zero_point, cx.data(b)) else { return Ok(None) };
    let &[.., depth, _] = data.dims() else { return Ok(None) };
    let Some(ones) = ones(cx, &[1, depth], &data)? else { return Ok(None) };
    let plain = Affine { scale: None, zero_point: None };
    let whole = Target::accumulators()?;
    let (Some(weights), Some(sums)) = (
        integer_product(cx, [(ones.value, plain), (b, b_affine)], [false; 2], None, whole)?,
        integer_product(cx, [(a, plain), (b, b_affine)], [false; 2], None, target)?,
    ) else {
        return Ok(None);
    };
    let zero_point = before(cx, zero_point, 1)?;
    less_zero_point(cx, sums, zero_point, weights).map(Some)
}

fn qlinear_conv(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(9)?;
    let (x, w, bias) = (cx.input(0)?, cx.input(3)?, cx.opt(8));
    let [x_affine, w_affine, y_affine] = [1, 4, 6].map(|i| Affine::at(cx, i));
    let n = spatial(cx, w)?;
    if let Some(target) = Target::bytes(cx, y_affine)?
        && let Some(x) = Operand::of(cx, x, x_affine, None)
        && let Some(w) = Operand::of(cx, w, w_affine, Some(0))
    {
        let window = window(cx, n)?;
        if let Some(y) = integer_conv(cx, [&x, &w], bias, window, target)? {
            cx.finish(y);
            return Ok(());
        }
    }
    let x = centred(cx, x, Some(cx.input(2)?), 0)?;
    let w = centred(cx, w, Some(cx.input(5)?), n + 1)?;
    let sums = conv(cx, x, w, bias)?;
    // Channels of the output stand one dimension before the window's.
    let w_scale = before(cx, cx.input(4)?, n)?;
    requantize(cx, sums, [cx.input(1)?, w_scale, cx.input(6)?], cx.input(7)?)
}

fn qlinear_mat_mul(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(8)?;
    let (a, b) = (cx.input(0)?, cx.input(3)?);
    let [a_affine, b_affine, y_affine] = [1, 4, 6].map(|i| Affine::at(cx, i));
    if let Some(target) = Target::bytes(cx, y_affine)?
        && let Some(y) =
            integer_product(cx, [(a, a_affine), (b, b_affine)], [false; 2], None, target)?
    {
        cx.finish(y);
        return Ok(());
    }
    let a_centred = centred(cx, a, Some(cx.input(2)?), 1)?;
    let b_centred = centred(cx, b, Some(cx.input(5)?), 0)?;
    let sums = cx.call("MatMul", &[a_centred, b_centred], &[])?;
    let a_scale = before(cx, cx.input(1)?, 1)?;
    requantize(cx, sums, [a_scale, cx.input(4)?, cx.input(6)?], cx.input(7)?)
}

/// A quantised tensor less its zero point, as doubles: in them, sums of integer products are exact.
/// A zero point of one dimension belongs to the dimension that `behind` others follow.
fn centred(
    cx: &mut Cx<'_, '_>,
    x: ValueId,
    zero_point: Option<ValueId>,
    behind: usize,
) -> OpResult<ValueId> {
    let x = cx.apply(Cast::new(DType::F64), &[x])?;
    let Some(zero_point) = zero_point else { return Ok(x) };
    let zero_point = cx.apply(Cast::new(DType::F64), &[zero_point])?;
    let zero_point = before(cx, zero_point, behind)?;
    cx.call("Sub", &[x, zero_point], &[])
}

/// `x`, a vector, with `behind` dimensions of 1 after its own; anything else as it is.
fn before(cx: &mut Cx<'_, '_>, x: ValueId, behind: usize) -> OpResult<ValueId> {
    if cx.rank(x)? != 1 || behind == 0 || cx.ty(x).shape.fixed().is_some_and(|d| d[0] == 1) {
        return Ok(x);
    }
    let axes: Vec<i64> = (1..=behind as i64).collect();
    let axes = cx.ints(&axes)?;
    cx.call("Unsqueeze", &[x, axes], &[])
}

/// The sum of products, exact, of a convolution's inputs `x` and `w`.
fn conv(cx: &mut Cx<'_, '_>, x: ValueId, w: ValueId, bias: Option<ValueId>) -> OpResult<ValueId> {
    let mut attributes = Vec::new();
    for name in ["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"] {
        if let Some(value) = cx.attribute(name) {
            attributes.push((name, value.clone()));
        }
    }
    let bias = match bias {
        Some(bias) => Some(cx.apply(Cast::new(DType::F64), &[bias])?),
        None => None,
    };
    Ok(cx.call_many("Conv", vec![Some(x), Some(w), bias], &attributes, 1)?[0])
}

/// `saturate(round(sums × (a × b / y)) + zero point)` of scales a, b, y: the node's output.
fn requantize(
    cx: &mut Cx<'_, '_>,
    sums: ValueId,
    [a, b, y]: [ValueId; 3],
    zero_point: ValueId,
) -> OpResult {
    let sums = cx.apply(Cast::new(DType::F32), &[sums])?;
    let mut factor = cx.call("Mul", &[a, b], &[])?;
    factor = cx.call("Div", &[factor, y], &[])?;
    factor = cx.apply(Cast::new(DType::F32), &[factor])?;
    let scaled = cx.call("Mul", &[sums, factor], &[])?;
    let one = super::elementwise::scalar_like(cx, scaled, 1.0)?;
    let y = cx.call_many(
        "QuantizeLinear",
        vec![Some(scaled), Some(one), Some(zero_point)],
        &[("axis", AttributeValue::Int(0))],
        1,
    )?;
    cx.finish_all(y);
    Ok(())
}
