//! Reductions over axes, running sums, and choosing by value.

use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::nonzero::NonZero;
use kinglet_graph::ops::norm::{LocalResponseNorm, LpNorm};
use kinglet_graph::ops::order::{ArgReduce, TopK};
use kinglet_graph::ops::quantized::{QL2Norm, QReduce, QReduceKind, Rescale};
use kinglet_graph::ops::reduce::{Cumulative, Reduce, ReduceKind};
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{DType, OpError, OpResult};

use super::node::{Fused, Node};

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("MEAN", |n| reduce(n, ReduceKind::Mean, Some(QReduceKind::Mean))),
    ("SUM", |n| reduce(n, ReduceKind::Sum, Some(QReduceKind::Sum))),
    ("REDUCE_PROD", |n| reduce(n, ReduceKind::Product, Some(QReduceKind::Product))),
    ("REDUCE_MAX", |n| reduce(n, ReduceKind::Max, None)),
    ("REDUCE_MIN", |n| reduce(n, ReduceKind::Min, None)),
    ("REDUCE_ANY", |n| reduce(n, ReduceKind::Max, None)),
    ("REDUCE_ALL", |n| reduce(n, ReduceKind::Min, None)),
    ("CUMSUM", cumsum),
    ("ARG_MAX", |n| arg(n, true)),
    ("ARG_MIN", |n| arg(n, false)),
    ("TOPK_V2", top_k),
    ("WHERE", |n| {
        let input = vec![n.opt(0)?];
        n.emit(NonZero { in_rows: true }, input)
    }),
    ("L2_NORMALIZATION", l2_normalization),
    ("LOCAL_RESPONSE_NORMALIZATION", local_response_normalization),
];

fn reduce(node: &mut Node<'_, '_>, kind: ReduceKind, quantized: Option<QReduceKind>) -> OpResult {
    let keep_dims = node.option(0, false)?;
    let inputs = node.inputs()?;
    match (node.is_quantized(0)?, quantized) {
        (true, Some(kind)) => {
            let rank = node.info(0)?.shape.len() as i64;
            let mut axes = node.ints(1)?;
            axes.iter_mut().filter(|a| **a < 0).for_each(|a| *a += rank);
            axes.sort_unstable();
            axes.dedup();
            let rescale = Rescale::FixedPoint;
            node.emit(QReduce { kind, axes, keep_dims, rescale }, vec![inputs[0]])
        }
        _ => {
            node.same_quantization(0..1)?;
            node.emit(Reduce { kind, keep_dims, none_by_default: true }, inputs)
        }
    }
}

fn cumsum(node: &mut Node<'_, '_>) -> OpResult {
    let (exclusive, reverse) = (node.option(0, false)?, node.option(1, false)?);
    let inputs = node.inputs()?;
    node.emit(Cumulative { product: false, exclusive, reverse }, inputs)
}

fn arg(node: &mut Node<'_, '_>, largest: bool) -> OpResult {
    let axis = match node.ints(1)?.as_slice() {
        [axis] => *axis,
        other => return Err(OpError::new(format!("looks along one axis, not {other:?}"))),
    };
    let index = node.out_ty(0)?.dtype;
    let input = vec![node.opt(0)?];
    node.emit(ArgReduce { largest, axis, keep_dims: false, last: false, index }, input)
}

fn top_k(node: &mut Node<'_, '_>) -> OpResult {
    node.same_quantization(0..1)?;
    let index = node.out_ty(1)?.dtype;
    let (data, mut k) = (node.opt(0)?, node.opt(1)?);
    if node.dtype(1)? != DType::I64 {
        k = Some(node.apply(Cast::new(DType::I64), vec![k], DType::I64, None)?);
    }
    node.emit_all(TopK { axis: -1, largest: true, index }, vec![data, k])
}

fn l2_normalization(node: &mut Node<'_, '_>) -> OpResult {
    if node.fused(0)? != Fused::None {
        return Err(OpError::new("an activation fused into a normalisation is not supported"));
    }
    let input = vec![node.opt(0)?];
    match node.is_quantized(0)? {
        true => node.emit(QL2Norm, input),
        false => node.emit(LpNorm { axis: -1, p: 2.0, epsilon: 1e-6 }, input),
    }
}

fn local_response_normalization(node: &mut Node<'_, '_>) -> OpResult {
    let radius = node.option(0, 0i32)?;
    let (bias, alpha, beta) = (node.option(1, 0f32)?, node.option(2, 0f32)?, node.option(3, 0f32)?);
    let size = usize::try_from(radius).ok().and_then(|r| r.checked_mul(2)).map(|n| n + 1);
    let size = size.ok_or_else(|| OpError::new(format!("a radius of {radius}")))?;
    let input = vec![node.opt(0)?];
    let layout = Layout::ChannelsLast;
    node.emit(LocalResponseNorm { size, alpha: alpha * size as f32, beta, bias, layout }, input)
}
