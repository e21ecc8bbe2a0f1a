//! Determinants, named sums, and what a tensor holds.

use kinglet_graph::ops::det::Det;
use kinglet_graph::ops::einsum::Einsum;
use kinglet_graph::ops::tensor_scatter::TensorScatter;
use kinglet_graph::ops::unique::Unique;
use kinglet_graph::{OpError, OpResult};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("Det", 11, |cx| cx.emit(Det)),
    op("Einsum", 12, |cx| {
        let equation = cx.need("equation", cx.opt_str("equation")?)?;
        cx.emit(Einsum::new(equation)?)
    }),
    op("TensorScatter", 24, tensor_scatter),
    op("Unique", 11, |cx| {
        let (axis, sorted) = (cx.opt_int("axis")?, cx.flag("sorted", true)?);
        cx.emit(Unique { axis, sorted })
    }),
];

fn tensor_scatter(cx: &mut Cx<'_, '_>) -> OpResult {
    let axis = cx.int("axis", -2)?;
    let circular = match cx.str("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(OpError::new(format!("mode '{other}' is not known"))),
    };
    cx.emit(TensorScatter { axis, circular })
}
