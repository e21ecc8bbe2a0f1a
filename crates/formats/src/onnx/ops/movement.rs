//! Elements moved, joined, picked and counted.

use kinglet_graph::ops::concat::{Concat, Split};
use kinglet_graph::ops::expand::{Expand, Tile};
use kinglet_graph::ops::fill::{EyeLike, Fill, OneHot, Range, Trilu};
use kinglet_graph::ops::gather::{Gather, GatherElements, GatherNd};
use kinglet_graph::ops::nonzero::{Compress, NonZero};
use kinglet_graph::ops::reshape::{Flatten, Reshape, ShapeOf, SizeOf, Squeeze, Unsqueeze};
use kinglet_graph::ops::reverse::ReverseSequence;
use kinglet_graph::ops::slice::Slice;
use kinglet_graph::ops::space::{BlockOrder, DepthToSpace, SpaceToDepth};
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{DType, Op, OpError, OpResult, Tensor};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("Compress", 9, |cx| {
        let axis = cx.opt_int("axis")?;
        cx.emit(Compress { axis })
    }),
    op("Concat", 6, concat),
    op("Constant", 1, constant),
    op("ConstantOfShape", 9, constant_of_shape),
    op("DepthToSpace", 1, depth_to_space),
    op("Expand", 8, |cx| cx.emit(Expand)),
    op("EyeLike", 9, |cx| {
        let (dtype, k) = (cx.opt_dtype("dtype")?, cx.int("k", 0)?);
        cx.emit(EyeLike { dtype, k })
    }),
    op("Flatten", 1, |cx| with_axis(cx, 1, |axis| Flatten { axis })),
    op("Gather", 1, |cx| with_axis(cx, 0, |axis| Gather { axis, batch_dims: 0 })),
    op("GatherElements", 11, |cx| with_axis(cx, 0, |axis| GatherElements { axis })),
    op("GatherND", 11, gather_nd),
    op("NonZero", 9, |cx| cx.emit(NonZero { in_rows: false })),
    op("OneHot", 9, |cx| with_axis(cx, -1, |axis| OneHot { axis, wrap: true })),
    op("Range", 11, |cx| cx.emit(Range)),
    op("Reshape", 5, reshape),
    op("ReverseSequence", 10, |cx| {
        let (batch_axis, time_axis) = (cx.int("batch_axis", 1)?, cx.int("time_axis", 0)?);
        cx.emit(ReverseSequence { batch_axis, time_axis })
    }),
    op("Shape", 1, shape),
    op("Size", 1, |cx| cx.emit(SizeOf)),
    op("Slice", 1, slice_by_attributes),
    op("Slice", 10, |cx| cx.emit(Slice)),
    op("SpaceToDepth", 1, space_to_depth),
    op("Split", 2, split),
    op("Squeeze", 1, |cx| with_axes(cx, Squeeze, 13)),
    op("Tile", 6, |cx| cx.emit(Tile)),
    op("Transpose", 1, transpose),
    op("Trilu", 14, |cx| {
        let upper = cx.flag("upper", true)?;
        cx.emit(Trilu { upper })
    }),
    op("Unsqueeze", 1, |cx| with_axes(cx, Unsqueeze, 13)),
];

fn with_axis<O: Op>(cx: &mut Cx<'_, '_>, default: i64, op: fn(i64) -> O) -> OpResult {
    let axis = cx.int("axis", default)?;
    cx.emit(op(axis))
}

/// An op whose input 1, its axes, was an attribute before version `since`.
pub fn with_axes(cx: &mut Cx<'_, '_>, op: impl Op, since: i64) -> OpResult {
    if cx.version() >= since {
        return cx.emit(op);
    }
    let mut inputs = vec![Some(cx.input(0)?)];
    if let Some(axes) = cx.opt_ints("axes")? {
        inputs.push(Some(cx.ints(axes)?));
    }
    cx.emit_on(op, inputs)
}

fn concat(cx: &mut Cx<'_, '_>) -> OpResult {
    let axis = cx.need("axis", cx.opt_int("axis")?)?;
    cx.emit(Concat { axis })
}

fn constant(cx: &mut Cx<'_, '_>) -> OpResult {
    let tensor = if let Some(tensor) = cx.opt_tensor("value")? {
        tensor
    } else if let Some(v) = cx.opt_float("value_float")? {
        Tensor::scalar(v)
    } else if let Some(v) = cx.opt_floats("value_floats")? {
        Tensor::from_slice(&[v.len()], v)?
    } else if let Some(v) = cx.opt_int("value_int")? {
        Tensor::scalar(v)
    } else if let Some(v) = cx.opt_ints("value_ints")? {
        Tensor::from_slice(&[v.len()], v)?
    } else if let Some(tensor) = cx.opt_sparse("sparse_value")? {
        tensor
    } else {
        return Err(OpError::new("holds no number; strings are not supported"));
    };
    let id = cx.constant(tensor);
    cx.finish(id);
    Ok(())
}

/// The value is a tensor of one element; by default the float 0.
fn constant_of_shape(cx: &mut Cx<'_, '_>) -> OpResult {
    let value = cx.opt_tensor("value")?.unwrap_or_else(|| Tensor::scalar(0f32));
    let (shape, value) = (cx.input(0)?, cx.constant(value.reshaped(&[])?));
    cx.emit_on(Fill, vec![Some(shape), Some(value)])
}

fn block(cx: &Cx<'_, '_>) -> OpResult<usize> {
    let block = cx.need("blocksize", cx.opt_int("blocksize")?)?;
    usize::try_from(block)
        .ok()
        .filter(|b| *b > 0)
        .ok_or_else(|| OpError::new(format!("blocksize is {block}")))
}

fn block_order(cx: &Cx<'_, '_>) -> OpResult<BlockOrder> {
    match cx.str("mode", "DCR")? {
        "DCR" => Ok(BlockOrder::BlockFirst),
        "CRD" => Ok(BlockOrder::ChannelFirst),
        other => Err(OpError::new(format!("mode '{other}' is not known"))),
    }
}

fn depth_to_space(cx: &mut Cx<'_, '_>) -> OpResult {
    let (block, order) = (block(cx)?, block_order(cx)?);
    cx.emit(DepthToSpace { block, order, layout: Layout::ChannelsFirst })
}

fn space_to_depth(cx: &mut Cx<'_, '_>) -> OpResult {
    let (block, order) = (block(cx)?, block_order(cx)?);
    cx.emit(SpaceToDepth { block, order, layout: Layout::ChannelsFirst })
}

fn gather_nd(cx: &mut Cx<'_, '_>) -> OpResult {
    let batch_dims = cx.int("batch_dims", 0)?;
    let batch_dims =
        usize::try_from(batch_dims).map_err(|_| OpError::new("batch_dims is negative"))?;
    cx.emit(GatherNd { batch_dims })
}

fn reshape(cx: &mut Cx<'_, '_>) -> OpResult {
    let allow_zero = cx.flag("allowzero", false)?;
    cx.emit(Reshape { allow_zero })
}

fn shape(cx: &mut Cx<'_, '_>) -> OpResult {
    let (start, end) = (cx.int("start", 0)?, cx.opt_int("end")?);
    cx.emit(ShapeOf { start, end, dtype: DType::I64 })
}

fn slice_by_attributes(cx: &mut Cx<'_, '_>) -> OpResult {
    let mut inputs = vec![Some(cx.input(0)?)];
    for name in ["starts", "ends"] {
        let values = cx.need(name, cx.opt_ints(name)?)?;
        inputs.push(Some(cx.ints(values)?));
    }
    if let Some(axes) = cx.opt_ints("axes")? {
        inputs.push(Some(cx.ints(axes)?));
    }
    cx.emit_on(Slice, inputs)
}

fn split(cx: &mut Cx<'_, '_>) -> OpResult {
    let axis = cx.int("axis", 0)?;
    let mut inputs = vec![Some(cx.input(0)?)];
    if cx.version() < 13 {
        if let Some(sizes) = cx.opt_ints("split")? {
            inputs.push(Some(cx.ints(sizes)?));
        }
    } else {
        inputs.push(cx.opt(1));
    }
    if cx.version() >= 18 {
        let parts = cx.opt_int("num_outputs")?;
        if parts.is_some_and(|n| n != cx.listed_outputs() as i64) {
            return Err(OpError::new(format!("num_outputs is {parts:?}")));
        }
    }
    cx.emit_listed(Split { axis }, inputs)
}

fn transpose(cx: &mut Cx<'_, '_>) -> OpResult {
    let mut inputs = vec![Some(cx.input(0)?)];
    if let Some(order) = cx.opt_ints("perm")? {
        inputs.push(Some(cx.ints(order)?));
    }
    cx.emit_on(Transpose, inputs)
}
