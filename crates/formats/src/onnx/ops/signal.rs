//! Signals.

use kinglet_graph::ops::signal::{Dft, MelWeightMatrix, Stft, Window};
use kinglet_graph::{DType, OpError, OpResult};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("BlackmanWindow", 17, |cx| window(cx, [0.42, 0.5, 0.08])),
    op("DFT", 17, dft),
    op("HammingWindow", 17, |cx| window(cx, [25.0 / 46.0, 21.0 / 46.0, 0.0])),
    op("HannWindow", 17, |cx| window(cx, [0.5, 0.5, 0.0])),
    op("MelWeightMatrix", 17, |cx| {
        let dtype = float_dtype(cx)?;
        cx.emit(MelWeightMatrix { dtype })
    }),
    op("STFT", 17, |cx| {
        let onesided = cx.flag("onesided", true)?;
        cx.emit(Stft { onesided })
    }),
];

fn float_dtype(cx: &Cx<'_, '_>) -> OpResult<DType> {
    let dtype = cx.opt_dtype("output_datatype")?.unwrap_or(DType::F32);
    match dtype.is_float() {
        true => Ok(dtype),
        false => Err(OpError::new(format!("output_datatype {dtype} is not supported; use floats"))),
    }
}

fn window(cx: &mut Cx<'_, '_>, terms: [f64; 3]) -> OpResult {
    let dtype = float_dtype(cx)?;
    let periodic = cx.flag("periodic", true)?;
    cx.emit(Window { terms, periodic, dtype })
}

fn dft(cx: &mut Cx<'_, '_>) -> OpResult {
    // From version 20 on the axis is input 2.
    let axis = if cx.version() < 20 { cx.int("axis", 1)? } else { -2 };
    let (inverse, onesided) = (cx.flag("inverse", false)?, cx.flag("onesided", false)?);
    cx.emit(Dft { axis, inverse, onesided })
}
