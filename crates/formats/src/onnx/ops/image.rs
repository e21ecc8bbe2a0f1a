//! Images resized and sampled, blocks put back, borders.

use kinglet_graph::ops::center_crop_pad::CenterCropPad;
use kinglet_graph::ops::col2im::Col2Im;
use kinglet_graph::ops::grid_sample::{AffineGrid, GridSample, Outside, Sampling};
use kinglet_graph::ops::pad::{Pad, PadMode};
use kinglet_graph::ops::resize::{AspectRatio, Coordinates, Interpolation, Resize, Rounding};
use kinglet_graph::{OpError, OpResult, Tensor};

use super::elementwise::scalar_like;
use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("AffineGrid", 20, |cx| {
        let align_corners = cx.flag("align_corners", false)?;
        cx.emit(AffineGrid { align_corners })
    }),
    op("CenterCropPad", 18, |cx| {
        let axes = cx.opt_ints("axes")?.map(<[i64]>::to_vec);
        cx.emit(CenterCropPad { axes })
    }),
    op("Col2Im", 18, col2im),
    op("GridSample", 16, grid_sample),
    op("Pad", 2, pad_by_attributes),
    op("Pad", 11, |cx| {
        let mode = pad_mode(cx)?;
        cx.emit(Pad { mode })
    }),
    op("Resize", 10, resize_by_scales),
    op("Resize", 11, resize),
    op("Upsample", 7, resize_by_scales),
];

fn unknown<T>(name: &str, value: &str) -> OpResult<T> {
    Err(OpError::new(format!("{name} '{value}' is not known")))
}

fn pad_mode(cx: &Cx<'_, '_>) -> OpResult<PadMode> {
    match cx.str("mode", "constant")? {
        "constant" => Ok(PadMode::Constant),
        "reflect" => Ok(PadMode::Reflect),
        "edge" => Ok(PadMode::Edge),
        "wrap" => Ok(PadMode::Wrap),
        other => unknown("mode", other),
    }
}

fn pad_by_attributes(cx: &mut Cx<'_, '_>) -> OpResult {
    let mode = pad_mode(cx)?;
    let x = cx.input(0)?;
    let pads = cx.need("pads", cx.opt_ints("pads")?)?;
    let pads = cx.ints(pads)?;
    let value = cx.float("value", 0.0)?;
    let value = scalar_like(cx, x, value.into())?;
    cx.emit_on(Pad { mode }, vec![Some(x), Some(pads), Some(value)])
}

fn col2im(cx: &mut Cx<'_, '_>) -> OpResult {
    let list = |name| -> OpResult<Vec<usize>> { Ok(cx.opt_sizes(name)?.unwrap_or_default()) };
    let (dilations, pads, strides) = (list("dilations")?, list("pads")?, list("strides")?);
    cx.emit(Col2Im { dilations, pads, strides })
}

fn grid_sample(cx: &mut Cx<'_, '_>) -> OpResult {
    let sampling = match cx.str("mode", "linear")? {
        "linear" | "bilinear" => Sampling::Linear,
        "nearest" => Sampling::Nearest,
        "cubic" | "bicubic" => Sampling::Cubic,
        other => return unknown("mode", other),
    };
    let outside = match cx.str("padding_mode", "zeros")? {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return unknown("padding_mode", other),
    };
    let align_corners = cx.flag("align_corners", false)?;
    cx.emit(GridSample { sampling, outside, align_corners })
}

fn interpolation(cx: &Cx<'_, '_>) -> OpResult<Interpolation> {
    match cx.str("mode", "nearest")? {
        "nearest" => Ok(Interpolation::Nearest),
        "linear" | "bilinear" => Ok(Interpolation::Linear),
        "cubic" => Ok(Interpolation::Cubic),
        other => unknown("mode", other),
    }
}

/// Before version 11 samples lay at i / scale, and the nearest was the one before.
fn resize_by_scales(cx: &mut Cx<'_, '_>) -> OpResult {
    let op = Resize {
        interpolation: interpolation(cx)?,
        rounding: Rounding::Floor,
        coordinates: Coordinates::Asymmetric,
        cubic_coefficient: -0.75,
        ..Resize::default()
    };
    let scales = match cx.opt_floats("scales")? {
        Some(scales) => cx.constant(Tensor::from_slice(&[scales.len()], scales)?),
        None => cx.input(1)?,
    };
    let x = cx.input(0)?;
    cx.emit_on(op, vec![Some(x), None, Some(scales)])
}

fn resize(cx: &mut Cx<'_, '_>) -> OpResult {
    let coordinates = match cx.str("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNearest,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::TfCropAndResize,
        other => return unknown("coordinate_transformation_mode", other),
    };
    let rounding = match cx.str("nearest_mode", "round_prefer_floor")? {
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return unknown("nearest_mode", other),
    };
    let aspect_ratio = match cx.str("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => AspectRatio::Stretch,
        "not_larger" => AspectRatio::NotLarger,
        "not_smaller" => AspectRatio::NotSmaller,
        other => return unknown("keep_aspect_ratio_policy", other),
    };
    let op = Resize {
        interpolation: interpolation(cx)?,
        rounding,
        coordinates,
        axes: cx.opt_ints("axes")?.map(<[i64]>::to_vec),
        aspect_ratio,
        antialias: cx.flag("antialias", false)?,
        exclude_outside: cx.flag("exclude_outside", false)?,
        cubic_coefficient: cx.float("cubic_coeff_a", -0.75)?,
        extrapolation_value: cx.float("extrapolation_value", 0.0)?,
        ..Resize::default()
    };
    cx.emit(op)
}
