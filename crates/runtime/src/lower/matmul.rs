//! Float matrix products: which nodes are such, of which sizes.

use super::LowerCx;
use super::float::{activation, is_f32};
use super::product::{Added, Operands, lower_product};
use crate::kernel::Lowered;
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::broadcast::{Offsets, broadcast_dims};
use kinglet_graph::ops::conv::{Conv, ConvTranspose, ConvWeightGradient};
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::rows::{Linear, LinearTranspose};
use kinglet_graph::ops::window::{Layout, WeightLayout};
use kinglet_graph::{DType, Dims, OpResult};
use kinglet_kernels::gemm_f32::Pair;

/// Leading sizes, rows and columns of an operand, after transposition.
fn operand(dims: &[usize], transpose: bool, row: bool) -> Option<(&[usize], usize, usize)> {
    Some(match *dims {
        [] => return None,
        [n] if row => (&[][..], 1, n),
        [n] => (&[][..], n, 1),
        [ref lead @ .., r, c] if transpose => (lead, c, r),
        [ref lead @ .., r, c] => (lead, r, c),
    })
}

/// The product that a node is.
struct Found {
    op: MatMul,
    /// Which inputs are multiplied.
    inputs: [usize; 2],
    /// Their sizes, as the product sees them.
    dims: [Dims; 2],
}

/// The product that a node is. Linear ops and convolutions of single pixels by weights that are
/// computed, as in training, are products like any other; those by constant ones have kernels of
/// their own, but for mixed precision.
fn product(cx: &LowerCx<'_>) -> OpResult<Option<Found>> {
    let dims = |i: usize| cx.input(i).map(|v| cx.dims(v)).transpose();
    let (Some(first), Some(second)) = (dims(0)?, dims(1)?) else { return Ok(None) };
    let plain = |op| Some(Found { op, inputs: [0, 1], dims: [first.clone(), second.clone()] });
    if let Some(op) = cx.op::<MatMul>() {
        return Ok(plain(*op));
    }
    if cx.op::<LinearTranspose>().is_some() {
        return Ok(plain(MatMul::new()));
    }
    if cx.constant(1).is_some() && !is_mixed(cx) {
        return Ok(None);
    }
    if let Some(op) = cx.op::<Linear>() {
        let activation = op.activation;
        let alone = cx.input(3).is_none();
        let op = MatMul { transpose_b: true, activation, ..MatMul::new() };
        return Ok(plain(op).filter(|_| alone));
    }
    let (window, weights, activation) = if let Some(op) = cx.op::<Conv>() {
        let fits = op.groups == 1 && op.layout == Layout::ChannelsLast && cx.input(3).is_none();
        let of_outputs = fits.then(|| by_outputs(op.weight_layout, &second)).flatten();
        (&op.window, of_outputs, op.activation)
    } else if let Some(op) = cx.op::<ConvTranspose>() {
        let wanted = cx.input(3).is_some() || op.output_padding.iter().any(|p| *p > 0);
        let fits = op.groups == 1 && op.layout == Layout::ChannelsLast && !wanted;
        let of_outputs = fits.then(|| by_outputs(op.weight_layout, &second)).flatten();
        (&op.window, of_outputs, op.activation)
    } else if let Some(op) = cx.op::<ConvWeightGradient>() {
        let fits = op.groups == 1 && op.layout == Layout::ChannelsLast;
        let weights = cx.dims(cx.output(0))?;
        let of_outputs = fits.then(|| by_outputs(op.weight_layout, &weights)).flatten();
        (&op.window, of_outputs, Activation::None)
    } else {
        return Ok(None);
    };
    let rows = |dims: &Dims| -> Dims {
        let last = dims.last().copied().unwrap_or(1);
        [dims.iter().product::<usize>() / last.max(1), last].into_iter().collect()
    };
    let (Some(of_outputs), true) = (weights, window.stride.iter().all(|s| *s == 1)) else {
        return Ok(None);
    };
    // Without padding, the image keeps its sizes.
    let images = if cx.op::<ConvWeightGradient>().is_some() {
        second.clone()
    } else {
        cx.dims(cx.output(0))?
    };
    if images[..images.len() - 1] != first[..first.len() - 1] {
        return Ok(None);
    }
    if cx.op::<ConvWeightGradient>().is_some() {
        let inputs = if of_outputs { [1, 0] } else { [0, 1] };
        let op = MatMul { transpose_a: true, ..MatMul::new() };
        let both = [rows(&first), rows(&second)];
        return Ok(Some(Found { op, inputs, dims: inputs.map(|i| both[i].clone()) }));
    }
    let op = MatMul { transpose_b: of_outputs, activation, ..MatMul::new() };
    let (channels, outputs) = (first[first.len() - 1], images[images.len() - 1]);
    let matrix = if of_outputs { [outputs, channels] } else { [channels, outputs] };
    Ok(Some(Found { op, inputs: [0, 1], dims: [rows(&first), matrix.into_iter().collect()] }))
}

/// Of weights of single pixels whether they are a row an output, else a row an input; `None`: they
/// see more than a pixel.
fn by_outputs(layout: WeightLayout, dims: &[usize]) -> Option<bool> {
    let (_, _, kernel) = layout.split(dims).ok()?;
    let (out, input, _) = layout.split(&(0..dims.len()).collect::<Vec<_>>()).ok()?;
    kernel.iter().all(|k| *k == 1).then_some(out < input)
}

/// Whether both operands are of bf16.
fn is_mixed(cx: &LowerCx<'_>) -> bool {
    [0, 1].iter().all(|i| cx.input(*i).is_some_and(|v| v.ty.dtype == DType::BF16))
}

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let is_f32 = |i: usize| cx.input(i).is_none_or(|v| v.ty.dtype == DType::F32);
    let mixed = is_mixed(cx) && cx.output(0).ty.dtype == DType::F32 && is_f32(2);
    if !mixed && !self::is_f32(cx, 3) {
        return Ok(None);
    }
    let Some(Found { op, inputs, dims: [a, b] }) = product(cx)? else { return Ok(None) };
    let out = cx.dims(cx.output(0))?;
    let turn_a = op.transpose_a && a.len() > 1;
    let (Some(left), Some(right), Some(activation)) =
        (operand(&a, turn_a, true), operand(&b, op.transpose_b, false), activation(op.activation))
    else {
        return Ok(None);
    };
    let (mut m, k, n) = (left.1, left.2, right.2);
    if out.contains(&0) || k == 0 {
        return Ok(None);
    }
    let added = match cx.input(2) {
        None => Added::Nothing,
        Some(bias) => {
            let dims = cx.dims(bias)?;
            let of_columns = dims.last() == Some(&n) && dims.iter().product::<usize>() == n;
            if of_columns && (n > 1 || dims.len() <= 1) {
                Added::Bias
            } else if dims == out {
                Added::Residual
            } else {
                return Ok(None);
            }
        }
    };
    let lead = broadcast_dims(&[left.0, right.0])?;
    let mut matrices: Vec<[usize; 2]> = Offsets::broadcast(&lead, [left.0, right.0]).collect();
    let one_b = right.0.iter().product::<usize>() == 1;
    if one_b && !turn_a && left.0.iter().product::<usize>() == matrices.len() {
        // One matrix for all: all rows are one product.
        m *= matrices.len();
        matrices = vec![[0, 0]];
    }
    let operands = Operands {
        inputs,
        m,
        k,
        n,
        a_strides: if turn_a { (1, m) } else { (k, 1) },
        b_strides: if op.transpose_b && b.len() > 1 { (1, k) } else { (n, 1) },
        matrices,
        one_b,
        added,
        activation,
    };
    match mixed {
        true => lower_product::<Pair>(cx, operands),
        false => lower_product::<f32>(cx, operands),
    }
}
