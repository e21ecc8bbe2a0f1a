//! Ops over the rows of a language model's step.

mod attention;
mod attention_gradient;
mod embedding;
mod linear;
mod linear_transpose;
mod memory;
mod rope;
mod weights;

pub(crate) use linear::MOST_PARTS;

use super::{Family, LowerCx};
use crate::kernel::Lowered;
use kinglet_graph::{DType, OpResult};

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    const FAMILIES: &[Family] = &[
        linear::lower,
        linear::lower_experts,
        linear_transpose::lower,
        embedding::lower,
        rope::lower,
        attention::lower,
        attention_gradient::lower,
        memory::lower,
    ];
    // Kernels compute in f32.
    if cx.node.outputs.iter().any(|v| cx.graph.value(*v).ty.dtype == DType::F64) {
        return Ok(None);
    }
    for family in FAMILIES {
        if let Some(lowered) = family(cx)? {
            return Ok(Some(lowered));
        }
    }
    Ok(None)
}
