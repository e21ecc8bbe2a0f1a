//! Images and volumes made larger or smaller.

mod taps;
mod tflite;

use super::movement::{Ints, axes_of, count, each_index, fail, ints_of, whole, write_whole};
use crate::number::Number;
use crate::op::{OpError, OpResult};
use crate::{Cost, DType, Dim, Dims, InferCx, Inputs, Op, Outputs, TensorView, ValueType};
use smallvec::SmallVec;
use taps::{Axis, Taps};

/// How a sample between elements is made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Interpolation {
    /// The nearest element.
    #[default]
    Nearest,
    /// Between two neighbours along each dimension.
    Linear,
    /// Over four neighbours along each dimension (Keys 1981).
    Cubic,
}

/// Which element is nearest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, half down.
    #[default]
    PreferFloor,
    /// To nearest, half up.
    PreferCeil,
    /// Down.
    Floor,
    /// Up.
    Ceil,
}

/// Where in the data, `x`, sample `i` of the output lies; `scale` is output by input size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coordinates {
    /// `(i + 0.5) / scale - 0.5`.
    #[default]
    HalfPixel,
    /// The same, with the centres of data and output on each other where sizes were rounded.
    HalfPixelSymmetric,
    /// As half pixel, but 0 in an output of size 1.
    PytorchHalfPixel,
    /// `(i + 0.5) / scale`.
    TfHalfPixelForNearest,
    /// The first and last elements of data and output on each other.
    AlignCorners,
    /// `i / scale`.
    Asymmetric,
    /// The corners of the region of interest and of the output on each other; samples outside the
    /// data are [`Resize::extrapolation_value`].
    TfCropAndResize,
}

/// What sizes that break the picture's proportions mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AspectRatio {
    /// As they are.
    #[default]
    Stretch,
    /// The largest picture of the data's proportions that fits in.
    NotLarger,
    /// The smallest picture of the data's proportions that covers them.
    NotSmaller,
}

/// Whose rounding the samples have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// ONNX: computed in double, rounded once.
    #[default]
    Exact,
    /// TFLite's reference kernels, to the bit: f32, and 10-bit fixed point for i8 and i16. For
    /// four dimensions, of which 1 and 2 are resized.
    TfLite,
}

/// Inputs: data, region of interest (floats: starts, then ends, in parts of the size; optional),
/// scales (floats, optional), sizes (integers, optional). Just one of scales and sizes is given;
/// an empty one counts as left out. They are one for each of `axes`.
#[derive(Clone, Debug, Default)]
pub struct Resize {
    /// How samples between elements are made.
    pub interpolation: Interpolation,
    /// Which element is nearest.
    pub rounding: Rounding,
    /// Where the samples lie.
    pub coordinates: Coordinates,
    /// The dimensions resized; `None`: all.
    pub axes: Option<Vec<i64>>,
    /// What sizes that break the proportions mean.
    pub aspect_ratio: AspectRatio,
    /// Whether a smaller output averages over what it leaves out.
    pub antialias: bool,
    /// Whether neighbours outside the data count for nothing; otherwise they are the border's.
    pub exclude_outside: bool,
    /// The parameter of [`Interpolation::Cubic`]: -0.75 in ONNX, -0.5 in TensorFlow.
    pub cubic_coefficient: f32,
    /// What lies outside the data, for [`Coordinates::TfCropAndResize`].
    pub extrapolation_value: f32,
    /// Whose rounding the samples have.
    pub arithmetic: Arithmetic,
}

impl Resize {
    /// TFLite's `RESIZE_BILINEAR`; inputs: data, none, none, sizes.
    pub fn tflite_bilinear(align_corners: bool, half_pixel_centers: bool) -> Resize {
        let coordinates = match (align_corners, half_pixel_centers) {
            (true, _) => Coordinates::AlignCorners,
            (_, true) => Coordinates::HalfPixel,
            _ => Coordinates::Asymmetric,
        };
        Resize {
            interpolation: Interpolation::Linear,
            coordinates,
            axes: Some(vec![1, 2]),
            arithmetic: Arithmetic::TfLite,
            ..Resize::default()
        }
    }

    /// TFLite's `RESIZE_NEAREST_NEIGHBOR`; inputs: data, none, none, sizes.
    pub fn tflite_nearest(align_corners: bool, half_pixel_centers: bool) -> Resize {
        let bilinear = Resize::tflite_bilinear(align_corners, half_pixel_centers);
        let (coordinates, rounding) = match bilinear.coordinates {
            Coordinates::AlignCorners => (Coordinates::AlignCorners, Rounding::PreferCeil),
            Coordinates::HalfPixel => (Coordinates::TfHalfPixelForNearest, Rounding::Floor),
            other => (other, Rounding::Floor),
        };
        let interpolation = Interpolation::Nearest;
        Resize { interpolation, coordinates, rounding, ..bilinear }
    }
}

/// How each dimension is resized.
type Axes = SmallVec<[Axis; 6]>;

fn floats_of(view: &TensorView<'_>) -> OpResult<SmallVec<[f64; 12]>> {
    crate::dispatch_float!(view.dtype, T => {
        Ok(view.slice::<T>()?.iter().map(|v| v.to_f64()).collect())
    }, else => fail(format!("expected floats, found {}", view.dtype)))
}

impl Resize {
    fn axes(&self, rank: usize) -> OpResult<Dims> {
        match &self.axes {
            Some(axes) => axes_of(axes, rank),
            None => Ok((0..rank).collect()),
        }
    }

    fn plan(
        &self,
        dims: &[usize],
        roi: Option<TensorView<'_>>,
        scales: Option<TensorView<'_>>,
        sizes: Option<TensorView<'_>>,
    ) -> OpResult<Axes> {
        let axes = self.axes(dims.len())?;
        let given = |what: &str, n: usize, per_axis: usize| {
            if n == axes.len() * per_axis {
                Ok(())
            } else {
                fail(format!("{n} {what} for {} dimensions", axes.len()))
            }
        };
        let mut plan: Axes = dims.iter().map(|d| Axis::kept(*d)).collect();
        let there = |v: &TensorView<'_>| !v.is_empty() || axes.is_empty();
        match (scales.filter(there), sizes.filter(there)) {
            (Some(scales), None) => {
                let scales = floats_of(&scales)?;
                given("scales", scales.len(), 1)?;
                for (axis, scale) in axes.iter().zip(scales) {
                    // In f32, as every exporter computes the shapes that it writes down.
                    let out = (dims[*axis] as f32 * scale as f32).floor();
                    if !(scale > 0.0 && out < (1u64 << 40) as f32) {
                        return fail(format!("a scale of {scale}"));
                    }
                    plan[*axis].output = out as usize;
                    plan[*axis].scale = scale;
                }
            }
            (None, Some(sizes)) => {
                let sizes: Ints = ints_of(&sizes)?;
                given("sizes", sizes.len(), 1)?;
                let mut ratios: SmallVec<[f64; 6]> = SmallVec::new();
                for (axis, size) in axes.iter().zip(&sizes) {
                    let size = usize::try_from(*size)
                        .map_err(|_| OpError::new(format!("{size} is no size")))?;
                    plan[*axis].output = size;
                    ratios.push(size as f64 / dims[*axis] as f64);
                }
                let one = match self.aspect_ratio {
                    AspectRatio::Stretch => None,
                    AspectRatio::NotLarger => ratios.iter().copied().reduce(f64::min),
                    AspectRatio::NotSmaller => ratios.iter().copied().reduce(f64::max),
                };
                for (axis, ratio) in axes.iter().zip(ratios) {
                    plan[*axis].scale = one.unwrap_or(ratio);
                    if let Some(one) = one {
                        plan[*axis].output = (one * dims[*axis] as f64 + 0.5) as usize;
                    }
                }
            }
            _ => return fail("either scales or sizes must be given"),
        }
        if self.coordinates == Coordinates::TfCropAndResize {
            let Some(roi) = roi else {
                return fail("crop and resize needs a region of interest");
            };
            let roi = floats_of(&roi)?;
            given("corners of the region of interest", roi.len(), 2)?;
            for (i, axis) in axes.iter().enumerate() {
                plan[*axis].region = Some((roi[i], roi[axes.len() + i]));
            }
        }
        // What an output has samples of leaves no smaller scale.
        let tiny = |a: &&Axis| a.output > 0 && a.scale.recip() > (2 * a.input + 2) as f64;
        if let Some(axis) = plan.iter().find(tiny).filter(|_| self.antialias) {
            return fail(format!("a scale of {} is too small to antialias", axis.scale));
        }
        if let Some(axis) = plan.iter().find(|a| a.input == 0 && a.output > 0) {
            return fail(format!("a dimension of size 0 can't become {}", axis.output));
        }
        Ok(plan)
    }

    /// Sizes of the output where not all that the plan needs is known.
    fn partial(&self, cx: &InferCx<'_>, dims: &[Dim]) -> OpResult<Vec<Dim>> {
        let axes = self.axes(dims.len())?;
        let sizes = cx.sizes(3)?.filter(|s| s.len() == axes.len());
        let scales = cx.data(2).map(|s| floats_of(&s)).transpose()?;
        let scales = scales.filter(|s| s.len() == axes.len());
        let mut out = dims.to_vec();
        for (i, axis) in axes.iter().enumerate() {
            let scaled = |scale: f64| match () {
                () if scale >= 1.0 && scale.fract() == 0.0 && scale < 1e6 => {
                    Some(dims[*axis].mul(&Dim::from(scale as usize)))
                }
                () if scale.recip().fract() == 0.0 && scale > 1e-6 => {
                    Some(dims[*axis].floor_div(&Dim::from(scale.recip() as usize)))
                }
                () => None,
            };
            let size = match (&sizes, &scales) {
                (Some(sizes), _) if self.aspect_ratio == AspectRatio::Stretch => {
                    Some(sizes[i].clone())
                }
                (None, Some(scales)) => scaled(scales[i]),
                _ => None,
            };
            out[*axis] = size.unwrap_or_else(|| cx.unknown_dim());
        }
        Ok(out)
    }
}

impl Op for Resize {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let quant = ty.quant.clone().filter(|q| q.axis.is_none());
        let known = |i: usize| cx.opt(i).is_none() || cx.data(i).is_some();
        let shape = match (ty.shape.dims(), ty.shape.fixed()) {
            (None, _) => Default::default(),
            (_, Some(dims)) if known(1) && known(2) && known(3) => {
                let plan = self.plan(&dims, cx.data(1), cx.data(2), cx.data(3))?;
                plan.iter().map(|a| Dim::from(a.output)).collect::<Vec<_>>().into()
            }
            (Some(dims), _) => self.partial(cx, dims)?.into(),
        };
        Ok(vec![ValueType { dtype: ty.dtype, shape, quant }])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let axes = self.plan(data.dims, inputs.opt(1), inputs.opt(2), inputs.opt(3))?;
        let dims: Dims = axes.iter().map(|a| a.output).collect();
        count(&dims)?;
        match (self.arithmetic, self.interpolation) {
            (Arithmetic::TfLite, _) => tflite::resize(self, &data, &dims, outputs),
            (_, Interpolation::Nearest) => self.nearest(&data, &axes, &dims, outputs),
            _ => crate::dispatch_number!(data.dtype, T => {
                self.interpolate(data.slice::<T>()?, &axes, outputs.slice::<T>(0, &dims)?)
            }, else => fail(format!("{} can't be interpolated", data.dtype))),
        }
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let taps = match self.interpolation {
            Interpolation::Nearest => 0,
            Interpolation::Linear => 4,
            Interpolation::Cubic => 16,
        };
        let out = outputs.first().and_then(|ty| crate::elements(&ty.shape.fixed()?));
        Cost::traffic(inputs, outputs).with_macs(out.map_or(0, |n| n as u64).saturating_mul(taps))
    }
}

/// For each output of one dimension, the inputs it is made of and their weights.
pub type DimTaps = Vec<Vec<(usize, f64)>>;

impl Resize {
    /// What each output of each dimension is made of, for floats of sizes `dims`: an output
    /// element is the sum over the product of its dimensions' taps. `None` for samples that are
    /// not sums (outside the data), and for dimensions that stay as they are.
    pub fn taps(
        &self,
        dims: &[usize],
        roi: Option<TensorView<'_>>,
        scales: Option<TensorView<'_>>,
        sizes: Option<TensorView<'_>>,
    ) -> OpResult<Option<Vec<Option<DimTaps>>>> {
        let axes = self.plan(dims, roi, scales, sizes)?;
        let nearest = self.interpolation == Interpolation::Nearest;
        if nearest && self.antialias {
            return Ok(None);
        }
        let mut all = Vec::with_capacity(axes.len());
        for axis in &axes {
            if axis.is_kept() {
                all.push(None);
                continue;
            }
            let mut of_axis = DimTaps::with_capacity(axis.output);
            for i in 0..axis.output {
                let mut taps = Taps::new();
                let inside = match (self.arithmetic, nearest) {
                    (Arithmetic::TfLite, _) => {
                        taps = tflite::taps(self, axis.input, axis.output, i)?;
                        true
                    }
                    (_, true) => {
                        taps.extend(axis.nearest(self, i).map(|x| (x, 1.0)));
                        !taps.is_empty()
                    }
                    _ => axis.taps(self, i, &mut taps),
                };
                if !inside {
                    return Ok(None);
                }
                of_axis.push(taps.to_vec());
            }
            all.push(Some(of_axis));
        }
        Ok(Some(all))
    }
}

/// The dimensions that change, from the first to the last: their range, the count of elements
/// before, and of those after.
fn changed(axes: &[Axis]) -> (std::ops::Range<usize>, usize, usize) {
    let first = axes.iter().position(|a| !a.is_kept()).unwrap_or(axes.len());
    let end = axes.iter().rposition(|a| !a.is_kept()).map_or(first, |i| i + 1);
    let size = |axes: &[Axis]| axes.iter().map(|a| a.input).product();
    (first..end, size(&axes[..first]), size(&axes[end..]))
}

impl Resize {
    /// Whole elements of any type.
    fn nearest(
        &self,
        data: &TensorView<'_>,
        axes: &[Axis],
        dims: &[usize],
        outputs: &mut Outputs<'_>,
    ) -> OpResult {
        if self.antialias {
            return fail("nearest samples can't be antialiased");
        }
        let (range, before, after) = changed(axes);
        let axes = &axes[range.clone()];
        let src = whole(data);
        let block = after * src.width;
        let outside = bytes_of(self.extrapolation_value.into(), data.dtype);
        let per_item = axes.iter().map(|a| a.input).product::<usize>();
        write_whole(outputs, 0, data.dtype, dims, |dst| {
            if dst.is_empty() {
                return Ok(());
            }
            let mut out = dst.chunks_exact_mut(block);
            let mut failed = Ok(());
            for item in 0..before {
                each_index(&dims[range.clone()], |index| {
                    let mut at = Some(0);
                    for (axis, i) in axes.iter().zip(index) {
                        let x = axis.nearest(self, *i);
                        at = at.zip(x).map(|(at, x)| at * axis.input + x);
                    }
                    let Some(out) = out.next() else { return };
                    match (at, &outside) {
                        (Some(at), _) => {
                            let from = (item * per_item + at) * block;
                            out.copy_from_slice(&src.bytes[from..from + block]);
                        }
                        (None, Ok(value)) => super::movement::fill(out, &value[..src.width]),
                        (None, Err(e)) => failed = Err(e.clone()),
                    }
                });
            }
            failed
        })
    }

    /// Linear and cubic samples: the sum over the product of each dimension's neighbours.
    fn interpolate<T: Number>(&self, data: &[T], axes: &[Axis], out: &mut [T]) -> OpResult {
        if out.is_empty() {
            return Ok(());
        }
        let (range, before, after) = changed(axes);
        let axes = &axes[range];
        let Some((last, outer)) = axes.split_last() else {
            out.copy_from_slice(data);
            return Ok(());
        };
        let sizes: Dims = outer.iter().map(|a| a.output).collect();
        let mut cells = out.chunks_exact_mut(after);
        let mut rows: SmallVec<[(usize, f64); 16]> = SmallVec::new();
        let (mut taps, mut next) = (Taps::new(), SmallVec::<[(usize, f64); 16]>::new());
        for item in 0..before {
            each_index(&sizes, |index| {
                // The rows that this row of samples draws on, and their weights.
                rows.clear();
                rows.push((item, 1.0));
                let mut inside = true;
                for (axis, i) in outer.iter().zip(index) {
                    inside &= axis.taps(self, *i, &mut taps);
                    next.clear();
                    for (row, weight) in &rows {
                        next.extend(taps.iter().map(|(x, w)| (row * axis.input + x, weight * w)));
                    }
                    std::mem::swap(&mut rows, &mut next);
                }
                for i in 0..last.output {
                    let inside = inside & last.taps(self, i, &mut taps);
                    let Some(cell) = cells.next() else { return };
                    for (c, out) in cell.iter_mut().enumerate() {
                        if !inside {
                            *out = T::of_f64(self.extrapolation_value.into());
                            continue;
                        }
                        let mut sum = 0.0;
                        for (row, weight) in &rows {
                            for (x, w) in &taps {
                                sum +=
                                    weight * w * data[(row * last.input + x) * after + c].to_f64();
                            }
                        }
                        *out = rounded(sum);
                    }
                }
            });
        }
        Ok(())
    }
}

/// The bytes of `v` as one element of `dtype`, followed by zeros.
fn bytes_of(v: f64, dtype: DType) -> OpResult<[u8; 16]> {
    let mut bytes = [0; 16];
    crate::dispatch_number!(dtype, T => {
        bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&rounded::<T>(v)));
        Ok(bytes)
    }, else => fail(format!("{dtype} has no value for samples outside the data")))
}

/// The nearest `T`: integers round half to even and clamp.
fn rounded<T: Number>(v: f64) -> T {
    T::of_f64(if T::DTYPE.is_integer() { v.round_ties_even() } else { v })
}

#[cfg(test)]
mod tests;
