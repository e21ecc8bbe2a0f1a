//! Affine quantisation.

use kinglet_graph::ops::quantize_linear::{
    DequantizeLinear, DynamicQuantizeLinear, Granularity, QuantizeLinear,
};
use kinglet_graph::{DType, OpError, OpResult};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("DequantizeLinear", 10, dequantize),
    op("DynamicQuantizeLinear", 11, |cx| cx.emit(DynamicQuantizeLinear)),
    op("QuantizeLinear", 10, quantize),
];

fn granularity(cx: &Cx<'_, '_>) -> OpResult<Granularity> {
    let axis = if cx.version() >= 13 { cx.int("axis", 1)? } else { 1 };
    let block_size = if cx.version() >= 21 { cx.int("block_size", 0)? } else { 0 };
    let block_size =
        usize::try_from(block_size).map_err(|_| OpError::new("block_size is negative"))?;
    Ok(Granularity { axis, block_size })
}

fn quantize(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(3)?;
    let declared = match cx.opt_int("output_dtype")? {
        None | Some(0) => None,
        Some(_) => cx.opt_dtype("output_dtype")?,
    };
    let of_zero_point = cx.opt(2).map(|id| cx.dtype(id));
    let to = match (declared, of_zero_point) {
        (Some(a), Some(b)) if a != b => {
            return Err(OpError::new(format!("output_dtype is {a}, the zero point {b}")));
        }
        (a, b) => a.or(b).unwrap_or(DType::U8),
    };
    let precision = match cx.opt_int("precision")? {
        None | Some(0) => None,
        Some(_) => cx.opt_dtype("precision")?,
    };
    let saturate = cx.flag("saturate", true)?;
    let granularity = granularity(cx)?;
    cx.emit(QuantizeLinear { granularity, to, precision, saturate })
}

fn dequantize(cx: &mut Cx<'_, '_>) -> OpResult {
    cx.at_most(3)?;
    let scale = cx.input(1)?;
    let to = match cx.opt_int("output_dtype")? {
        None | Some(0) => cx.dtype(scale),
        Some(_) => cx.need("output_dtype", cx.opt_dtype("output_dtype")?)?,
    };
    let granularity = granularity(cx)?;
    cx.emit(DequantizeLinear { granularity, to })
}
