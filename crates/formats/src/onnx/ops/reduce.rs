//! Reductions, running sums, and what is largest.

use kinglet_graph::ops::order::{ArgReduce, TopK};
use kinglet_graph::ops::reduce::{Cumulative, Reduce, ReduceKind};
use kinglet_graph::{DType, OpError, OpResult};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("ArgMax", 1, |cx| arg_reduce(cx, true)),
    op("ArgMin", 1, |cx| arg_reduce(cx, false)),
    op("CumProd", 26, |cx| cumulative(cx, true)),
    op("CumSum", 11, |cx| cumulative(cx, false)),
    op("ReduceL1", 1, |cx| reduce(cx, ReduceKind::L1)),
    op("ReduceL2", 1, |cx| reduce(cx, ReduceKind::L2)),
    op("ReduceLogSum", 1, |cx| reduce(cx, ReduceKind::LogSum)),
    op("ReduceLogSumExp", 1, |cx| reduce(cx, ReduceKind::LogSumExp)),
    op("ReduceMax", 1, |cx| reduce(cx, ReduceKind::Max)),
    op("ReduceMean", 1, |cx| reduce(cx, ReduceKind::Mean)),
    op("ReduceMin", 1, |cx| reduce(cx, ReduceKind::Min)),
    op("ReduceProd", 1, |cx| reduce(cx, ReduceKind::Product)),
    op("ReduceSum", 1, |cx| reduce(cx, ReduceKind::Sum)),
    op("ReduceSumSquare", 1, |cx| reduce(cx, ReduceKind::SumSquare)),
    op("TopK", 1, top_k),
];

fn reduce(cx: &mut Cx<'_, '_>, kind: ReduceKind) -> OpResult {
    let keep_dims = cx.flag("keepdims", true)?;
    // The axes became an input in version 13 of the sum, in 18 of the others.
    let since = if matches!(kind, ReduceKind::Sum) { 13 } else { 18 };
    let mut op = Reduce { kind, keep_dims, none_by_default: false };
    if cx.version() >= since {
        cx.at_most(2)?;
        op.none_by_default = cx.flag("noop_with_empty_axes", false)?;
        return cx.emit(op);
    }
    let mut inputs = vec![Some(cx.input(0)?)];
    if let Some(axes) = cx.opt_ints("axes")? {
        inputs.push(Some(cx.ints(axes)?));
    }
    cx.emit_on(op, inputs)
}

fn arg_reduce(cx: &mut Cx<'_, '_>, largest: bool) -> OpResult {
    let op = ArgReduce {
        largest,
        axis: cx.int("axis", 0)?,
        keep_dims: cx.flag("keepdims", true)?,
        last: cx.flag("select_last_index", false)?,
        index: DType::I64,
    };
    cx.emit(op)
}

fn cumulative(cx: &mut Cx<'_, '_>, product: bool) -> OpResult {
    let (exclusive, reverse) = (cx.flag("exclusive", false)?, cx.flag("reverse", false)?);
    cx.emit(Cumulative { product, exclusive, reverse })
}

fn top_k(cx: &mut Cx<'_, '_>) -> OpResult {
    let op =
        TopK { axis: cx.int("axis", -1)?, largest: cx.flag("largest", true)?, index: DType::I64 };
    // Any order will do where none is asked for.
    cx.flag("sorted", true)?;
    let mut inputs = cx.first_inputs(2);
    if cx.version() < 10 {
        let k = cx.need("k", cx.opt_int("k")?)?;
        inputs[1] = Some(cx.ints(&[k])?);
    }
    if inputs[1].is_none() {
        return Err(OpError::new("input 1 is missing"));
    }
    let results = cx.apply_many(op, inputs, 2)?;
    cx.finish_all(results);
    Ok(())
}
