//! The ops of the domain `ai.onnx.ml` that work on numbers alone.

use kinglet_graph::OpResult;

use super::elementwise::scalar_like;
use super::{Entry, op_in};
use crate::onnx::context::Cx;
use crate::onnx::proto::AttributeValue;

const ML: &str = "ai.onnx.ml";

pub const TABLE: &[Entry] = &[
    op_in(ML, "ArrayFeatureExtractor", 1, array_feature_extractor),
    op_in(ML, "Binarizer", 1, binarizer),
];

/// Picks from the last dimension; of a vector, as of a matrix of one row.
fn array_feature_extractor(cx: &mut Cx<'_, '_>) -> OpResult {
    let (mut x, index) = (cx.input(0)?, cx.input(1)?);
    if cx.rank(x)? == 1 {
        let axis = cx.ints(&[0])?;
        x = cx.call("Unsqueeze", &[x, axis], &[])?;
    }
    let flat = cx.ints(&[-1])?;
    let index = cx.call("Reshape", &[index, flat], &[])?;
    let y = cx.call("Gather", &[x, index], &[("axis", AttributeValue::Int(-1))])?;
    cx.finish(y);
    Ok(())
}

fn binarizer(cx: &mut Cx<'_, '_>) -> OpResult {
    let threshold = cx.float("threshold", 0.0)?;
    let x = cx.input(0)?;
    let threshold = scalar_like(cx, x, threshold.into())?;
    let above = cx.call("Greater", &[x, threshold], &[])?;
    let y = cx.call("CastLike", &[above, x], &[])?;
    cx.finish(y);
    Ok(())
}
