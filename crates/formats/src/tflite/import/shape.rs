//! Ops that move elements, or make them of sizes.

use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::concat::{Concat, Split, Stack, Unstack};
use kinglet_graph::ops::expand::{Expand, Tile};
use kinglet_graph::ops::fill::{Fill, OneHot, Range, ZerosLike};
use kinglet_graph::ops::gather::{Gather, GatherNd};
use kinglet_graph::ops::pad::{Pad, PadMode};
use kinglet_graph::ops::reshape::{RankOf, Reshape, ShapeOf, Squeeze, Unsqueeze};
use kinglet_graph::ops::resize::{Arithmetic, Coordinates, Interpolation, Resize, Rounding};
use kinglet_graph::ops::reverse::{Reverse, ReverseSequence};
use kinglet_graph::ops::scatter::ScatterNdZeros;
use kinglet_graph::ops::slice::{SliceSizes, StridedSlice};
use kinglet_graph::ops::space::{
    BatchToSpace, BlockOrder, DepthToSpace, SpaceToBatch, SpaceToDepth,
};
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::unique::Unique;
use kinglet_graph::ops::update_slice::UpdateSlice;
use kinglet_graph::ops::window::Layout;
use kinglet_graph::{DType, OpError, OpResult, Shape, ValueType};

use super::node::{Fused, Node};

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("RESHAPE", reshape),
    ("SQUEEZE", squeeze),
    ("EXPAND_DIMS", |n| plain(n, Unsqueeze)),
    ("TRANSPOSE", |n| plain(n, Transpose)),
    ("SLICE", |n| plain(n, SliceSizes)),
    ("STRIDED_SLICE", strided_slice),
    ("CONCATENATION", concatenation),
    ("PACK", pack),
    ("UNPACK", unpack),
    ("SPLIT", split),
    ("SPLIT_V", split_v),
    ("GATHER", gather),
    ("GATHER_ND", |n| plain(n, GatherNd { batch_dims: 0 })),
    ("SCATTER_ND", |n| {
        n.same_quantization(1..2)?;
        let inputs = n.inputs()?;
        n.emit(ScatterNdZeros, inputs)
    }),
    ("DYNAMIC_UPDATE_SLICE", |n| {
        n.same_quantization(0..2)?;
        plain(n, UpdateSlice)
    }),
    ("UNIQUE", unique),
    ("PAD", |n| plain(n, Pad { mode: PadMode::Constant })),
    ("PADV2", |n| plain(n, Pad { mode: PadMode::Constant })),
    ("MIRROR_PAD", mirror_pad),
    ("SHAPE", shape),
    ("RANK", |n| plain(n, RankOf)),
    ("BROADCAST_TO", |n| plain(n, Expand)),
    ("TILE", |n| plain(n, Tile)),
    ("REVERSE_V2", |n| plain(n, Reverse)),
    ("REVERSE_SEQUENCE", reverse_sequence),
    ("FILL", |n| {
        n.same_quantization(1..2)?;
        let inputs = n.inputs()?;
        n.emit(Fill, inputs)
    }),
    ("ZEROS_LIKE", |n| plain(n, ZerosLike)),
    ("RANGE", |n| plain(n, Range)),
    ("ONE_HOT", one_hot),
    ("SPACE_TO_DEPTH", space_to_depth),
    ("DEPTH_TO_SPACE", depth_to_space),
    ("SPACE_TO_BATCH_ND", |n| plain(n, SpaceToBatch)),
    ("BATCH_TO_SPACE_ND", |n| plain(n, BatchToSpace)),
    ("RESIZE_BILINEAR", |n| resize(n, Interpolation::Linear, 2)),
    ("RESIZE_NEAREST_NEIGHBOR", |n| resize(n, Interpolation::Nearest, 0)),
];

/// An op whose inputs are the operator's, and whose output keeps the data's quantisation.
fn plain(node: &mut Node<'_, '_>, op: impl kinglet_graph::Op) -> OpResult {
    node.same_quantization(0..1)?;
    let inputs = node.inputs()?;
    node.emit(op, inputs)
}

fn reshape(node: &mut Node<'_, '_>) -> OpResult {
    node.same_quantization(0..1)?;
    let data = node.opt(0)?;
    let shape = match node.opt(1)? {
        // A shape of one zero is what old writers gave a scalar.
        Some(shape) => match node.info(1)?.data.is_some().then(|| node.ints(1)).transpose()? {
            Some(sizes) if sizes == [0] => node.constant_ints(&[])?,
            Some(sizes) => node.constant_ints(&sizes)?,
            None => shape,
        },
        None => {
            let sizes: Vec<i64> = node.list::<i32>(0)?.into_iter().map(i64::from).collect();
            node.constant_ints(if sizes == [0] { &[] } else { &sizes })?
        }
    };
    node.emit(Reshape { allow_zero: true }, vec![data, Some(shape)])
}

/// The elements as they first occur, and for each its place among them.
fn unique(node: &mut Node<'_, '_>) -> OpResult {
    let (x, index) = (node.opt(0)?, node.out_ty(1)?);
    let (found, indices) = (node.output(0)?, node.output(1)?);
    let long = ValueType::new(DType::I64, Shape::unknown());
    let [first, places] = [node.temp(long.clone()), node.temp(long)];
    let op = Unique { axis: None, sorted: false };
    node.emit_to(op, vec![x], vec![found, first, places])?;
    node.emit_to(Cast::new(index.dtype), vec![Some(places)], vec![indices])
}

fn squeeze(node: &mut Node<'_, '_>) -> OpResult {
    node.same_quantization(0..1)?;
    let axes: Vec<i64> = node.list::<i32>(0)?.into_iter().map(i64::from).collect();
    let data = node.opt(0)?;
    let axes = if axes.is_empty() { None } else { Some(node.constant_ints(&axes)?) };
    node.emit(Squeeze, vec![data, axes])
}

fn strided_slice(node: &mut Node<'_, '_>) -> OpResult {
    let mask = |field| node.option(field, 0i32).map(|m| m as u32);
    let op = StridedSlice {
        begin_mask: mask(0)?,
        end_mask: mask(1)?,
        ellipsis_mask: mask(2)?,
        new_axis_mask: mask(3)?,
        shrink_axis_mask: mask(4)?,
        offset: node.option(5, false)?,
    };
    plain(node, op)
}

fn concatenation(node: &mut Node<'_, '_>) -> OpResult {
    if node.fused(1)? != Fused::None {
        return Err(OpError::new("an activation fused into a concatenation is not supported"));
    }
    let axis = i64::from(node.option(0, 0i32)?);
    let inputs = node.inputs()?;
    node.emit(Concat { axis }, inputs)
}

fn pack(node: &mut Node<'_, '_>) -> OpResult {
    let axis = i64::from(node.option(1, 0i32)?);
    node.same_quantization(0..node.len())?;
    plain(node, Stack { axis })
}

fn unpack(node: &mut Node<'_, '_>) -> OpResult {
    let axis = i64::from(node.option(1, 0i32)?);
    let input = vec![node.opt(0)?];
    node.emit_all(Unstack { axis }, input)
}

/// The one integer in constant input `i`.
fn one_int(node: &Node<'_, '_>, i: usize) -> OpResult<i64> {
    match node.ints(i)?.as_slice() {
        [one] => Ok(*one),
        many => Err(OpError::new(format!("input {i} holds {} numbers, not one", many.len()))),
    }
}

fn split(node: &mut Node<'_, '_>) -> OpResult {
    let axis = one_int(node, 0)?;
    let data = node.opt(1)?;
    node.emit_all(Split { axis }, vec![data, None])
}

fn split_v(node: &mut Node<'_, '_>) -> OpResult {
    let axis = one_int(node, 2)?;
    let (data, sizes) = (node.opt(0)?, node.opt(1)?);
    node.emit_all(Split { axis }, vec![data, sizes])
}

fn gather(node: &mut Node<'_, '_>) -> OpResult {
    let (axis, batch_dims) = (node.option(0, 0i32)?, node.option(1, 0i32)?);
    plain(node, Gather { axis: axis.into(), batch_dims: batch_dims.into() })
}

fn mirror_pad(node: &mut Node<'_, '_>) -> OpResult {
    let mode = match node.option(0, 0i8)? {
        0 => PadMode::Reflect,
        _ => PadMode::Symmetric,
    };
    plain(node, Pad { mode })
}

fn shape(node: &mut Node<'_, '_>) -> OpResult {
    let dtype = node.out_ty(0)?.dtype;
    plain(node, ShapeOf { start: 0, end: None, dtype })
}

fn resize(node: &mut Node<'_, '_>, interpolation: Interpolation, fields: usize) -> OpResult {
    let (align_corners, half_pixel) =
        (node.option(fields, false)?, node.option(fields + 1, false)?);
    node.same_quantization(0..1)?;
    let op = Resize {
        interpolation,
        rounding: if align_corners { Rounding::PreferCeil } else { Rounding::Floor },
        coordinates: match (align_corners, half_pixel) {
            (true, _) => Coordinates::AlignCorners,
            (false, true) if interpolation == Interpolation::Nearest => {
                Coordinates::TfHalfPixelForNearest
            }
            (false, true) => Coordinates::HalfPixel,
            (false, false) => Coordinates::Asymmetric,
        },
        axes: Some(vec![1, 2]),
        arithmetic: Arithmetic::TfLite,
        ..Resize::default()
    };
    let inputs = vec![node.opt(0)?, None, None, node.opt(1)?];
    node.emit(op, inputs)
}

fn reverse_sequence(node: &mut Node<'_, '_>) -> OpResult {
    let (time_axis, batch_axis) = (node.option(0, 0i32)?, node.option(1, 0i32)?);
    plain(node, ReverseSequence { batch_axis: batch_axis.into(), time_axis: time_axis.into() })
}

fn one_hot(node: &mut Node<'_, '_>) -> OpResult {
    let axis = i64::from(node.option(0, 0i32)?);
    let inputs = node.inputs()?;
    node.emit(OneHot { axis, wrap: false }, inputs)
}

fn block(node: &Node<'_, '_>) -> OpResult<usize> {
    let size = node.option(0, 0i32)?;
    usize::try_from(size).map_err(|_| OpError::new(format!("a block of size {size}")))
}

fn space_to_depth(node: &mut Node<'_, '_>) -> OpResult {
    let (block, order, layout) = (block(node)?, BlockOrder::BlockFirst, Layout::ChannelsLast);
    plain(node, SpaceToDepth { block, order, layout })
}

fn depth_to_space(node: &mut Node<'_, '_>) -> OpResult {
    let (block, order, layout) = (block(node)?, BlockOrder::BlockFirst, Layout::ChannelsLast);
    plain(node, DepthToSpace { block, order, layout })
}
