//! Elements put where indices say.

use kinglet_graph::ops::scatter::{Reduction, ScatterElements, ScatterNd};
use kinglet_graph::{OpError, OpResult};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("Scatter", 9, scatter_elements),
    op("ScatterElements", 11, scatter_elements),
    op("ScatterND", 11, |cx| {
        let reduction = reduction(cx)?;
        cx.emit(ScatterNd { reduction })
    }),
];

fn reduction(cx: &Cx<'_, '_>) -> OpResult<Reduction> {
    match cx.str("reduction", "none")? {
        "none" => Ok(Reduction::None),
        "add" => Ok(Reduction::Add),
        "mul" => Ok(Reduction::Mul),
        "min" => Ok(Reduction::Min),
        "max" => Ok(Reduction::Max),
        other => Err(OpError::new(format!("reduction '{other}' is not known"))),
    }
}

fn scatter_elements(cx: &mut Cx<'_, '_>) -> OpResult {
    let (axis, reduction) = (cx.int("axis", 0)?, reduction(cx)?);
    cx.emit(ScatterElements { axis, reduction })
}
