//! Signals: Fourier transforms and mel filters.
//!
//! A signal's last dimension holds one real number, or a real and an imaginary one.

use super::broadcast::{AroundAxis, axis_of};
use super::convert::{floats, write_floats};
use crate::{DType, Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};
use std::f64::consts::TAU;

fn error<T>(message: impl Into<String>) -> OpResult<T> {
    Err(OpError::new(message))
}

/// The discrete Fourier transform of `line`, slow and exact; `inverse` divides by the length.
fn transform(line: &[(f64, f64)], bins: usize, inverse: bool) -> Vec<(f64, f64)> {
    let n = line.len();
    let sign = if inverse { 1.0 } else { -1.0 };
    let scale = if inverse { 1.0 / n as f64 } else { 1.0 };
    let turn: Vec<(f64, f64)> =
        (0..n).map(|k| (sign * TAU * k as f64 / n as f64).sin_cos()).collect();
    let bin = |k: usize| {
        let terms = line.iter().enumerate().map(|(i, (re, im))| {
            let (sin, cos) = turn[(i * k) % n];
            (re * cos - im * sin, re * sin + im * cos)
        });
        let (re, im) = terms.fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        (re * scale, im * scale)
    };
    (0..bins).map(bin).collect()
}

/// The discrete Fourier transform along one axis (ONNX `DFT`).
///
/// Inputs: the signal; the length to cut or zero-pad to (a scalar; may be left out); the axis (a
/// scalar; may be left out).
#[derive(Clone, Debug)]
pub struct Dft {
    /// The axis, where input 2 does not give it; negative counts from the back.
    pub axis: i64,
    /// Whether to transform back.
    pub inverse: bool,
    /// Forward: only the first half of the spectrum, and the middle. Inverse: the input is such a
    /// half, and the output is real.
    pub onesided: bool,
}

impl Dft {
    fn parts_out(&self) -> usize {
        if self.inverse && self.onesided { 1 } else { 2 }
    }

    fn axis(&self, given: Option<i64>, rank: usize) -> OpResult<usize> {
        let axis = axis_of(given.unwrap_or(self.axis), rank)?;
        match axis + 1 < rank {
            true => Ok(axis),
            false => error("the last dimension holds the parts of a number; it is no axis"),
        }
    }

    /// Sizes of the output along the axis, and of the transform.
    fn sizes(&self, len: usize, given: Option<usize>) -> (usize, usize) {
        let n = match given {
            Some(n) => n,
            None if self.inverse && self.onesided => len.saturating_sub(1) * 2,
            None => len,
        };
        let out = if self.onesided && !self.inverse { n / 2 + 1 } else { n };
        (out, n)
    }
}

fn one_size(values: Option<Vec<i64>>, what: &str) -> OpResult<Option<usize>> {
    match values.as_deref() {
        None => Ok(None),
        Some([n]) if *n >= 0 => Ok(usize::try_from(*n).ok()),
        Some(other) => error(format!("the {what} is {other:?}")),
    }
}

impl Op for Dft {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        let Some(dims) = cx.dims(0)? else {
            return Ok(vec![ValueType::new(dtype, Shape::unknown())]);
        };
        let mut out = dims.to_vec();
        let axis = match (cx.opt(2), cx.ints(2)?) {
            (Some(_), None) => return Ok(vec![ValueType::new(dtype, cx.unknown_dims(dims.len()))]),
            (_, axis) => self.axis(axis.and_then(|a| a.first().copied()), dims.len())?,
        };
        let given = one_size(cx.ints(1)?, "length")?;
        out[axis] = match (cx.opt(1).is_some() && given.is_none(), dims[axis].fixed()) {
            (false, Some(len)) => Dim::from(self.sizes(len, given).0),
            _ => cx.unknown_dim(),
        };
        out[dims.len() - 1] = Dim::from(self.parts_out());
        Ok(vec![ValueType::new(dtype, out)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let given = inputs.opt(2).map(|a| a.ints()).transpose()?;
        let axis = self.axis(given.and_then(|a| a.first().copied()), x.dims.len())?;
        let length = one_size(inputs.opt(1).map(|l| l.ints()).transpose()?, "length")?;
        let parts = x.dims[x.dims.len() - 1];
        if !(1..=2).contains(&parts) {
            return error(format!("the last dimension holds 1 or 2 parts, not {parts}"));
        }
        let (bins, n) = self.sizes(x.dims[axis], length);
        let mut dims = x.dims.to_vec();
        dims[axis] = bins;
        let parts_out = self.parts_out();
        *dims.last_mut().expect("a rank of at least 2") = parts_out;
        let data = floats(&x)?;
        let from = AroundAxis::new(&x.dims[..x.dims.len() - 1], axis);
        let to = AroundAxis::new(&dims[..dims.len() - 1], axis);
        let out = outputs.bytes(0, x.dtype, &dims)?;
        let mut result = vec![0.0; dims.iter().product()];
        for (start, end) in from.lines().zip(to.lines()) {
            let part = |i: usize| match i < from.len {
                false => (0.0, 0.0),
                true => {
                    let at = (start + i * from.inner) * parts;
                    (data[at], if parts == 2 { data[at + 1] } else { 0.0 })
                }
            };
            let mut line: Vec<(f64, f64)> = (0..n).map(part).collect();
            if self.inverse && self.onesided {
                // The missing half mirrors the given one.
                for i in n / 2 + 1..n {
                    let (re, im) = line[n - i];
                    line[i] = (re, -im);
                }
            }
            for (k, (re, im)) in transform(&line, bins, self.inverse).into_iter().enumerate() {
                let at = (end + k * to.inner) * parts_out;
                result[at] = re;
                if parts_out == 2 {
                    result[at + 1] = im;
                }
            }
        }
        write_floats(x.dtype, out, result.into_iter())
    }
}

/// The Fourier transform of successive frames (ONNX `STFT`).
///
/// Inputs: the signal, [batch, length] or [batch, length, parts]; the step between frames; the
/// window (may be left out); the frame length (may be left out where a window gives it). Output:
/// [batch, frames, bins, 2].
#[derive(Clone, Debug)]
pub struct Stft {
    /// Only the first half of the spectrum, and the middle.
    pub onesided: bool,
}

impl Op for Stft {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        let batch = match cx.dims(0)? {
            Some([batch, ..]) => batch.clone(),
            _ => cx.unknown_dim(),
        };
        let frame = match (one_size(cx.ints(3)?, "frame length")?, cx.opt(2)) {
            (Some(n), _) => Some(n),
            (None, Some(w)) if cx.opt(3).is_none() => {
                w.shape.dims().and_then(|d| d.first()).and_then(Dim::fixed)
            }
            _ => None,
        };
        let step = one_size(cx.ints(1)?, "step")?;
        let length = cx.dims(0)?.and_then(|d| d.get(1)).and_then(Dim::fixed);
        let frames = match (length, frame, step) {
            (Some(length), Some(n), Some(step)) if step > 0 && n <= length => {
                Dim::from((length - n) / step + 1)
            }
            _ => cx.unknown_dim(),
        };
        let bins = match frame {
            Some(n) => Dim::from(if self.onesided { n / 2 + 1 } else { n }),
            None => cx.unknown_dim(),
        };
        Ok(vec![ValueType::new(dtype, vec![batch, frames, bins, Dim::from(2)])])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let (batch, length, parts) = match *x.dims {
            [batch, length] => (batch, length, 1),
            [batch, length, parts @ 1..=2] => (batch, length, parts),
            _ => return error(format!("a signal of sizes {:?}", x.dims)),
        };
        let window = inputs.opt(2).map(|w| floats(&w)).transpose()?;
        let frame = match one_size(inputs.opt(3).map(|n| n.ints()).transpose()?, "frame length")? {
            Some(n) => n,
            None => match &window {
                Some(w) => w.len(),
                None => return error("needs a window or a frame length"),
            },
        };
        if window.as_ref().is_some_and(|w| w.len() != frame) {
            return error(format!("the window is not of the frame's length, {frame}"));
        }
        let step = match one_size(Some(inputs.get(1)?.ints()?), "step")? {
            Some(step) if step > 0 && frame <= length && frame > 0 => step,
            step => return error(format!("frames of {frame} in {length}, step {step:?}")),
        };
        let frames = (length - frame) / step + 1;
        let bins = if self.onesided { frame / 2 + 1 } else { frame };
        let data = floats(&x)?;
        let out = outputs.bytes(0, x.dtype, &[batch, frames, bins, 2])?;
        let mut result = Vec::new();
        for b in 0..batch {
            for f in 0..frames {
                let part = |i: usize| {
                    let at = (b * length + f * step + i) * parts;
                    let w = window.as_ref().map_or(1.0, |w| w[i]);
                    (data[at] * w, if parts == 2 { data[at + 1] * w } else { 0.0 })
                };
                let line: Vec<(f64, f64)> = (0..frame).map(part).collect();
                result.extend(transform(&line, bins, false).into_iter().flat_map(|(a, b)| [a, b]));
            }
        }
        write_floats(x.dtype, out, result.into_iter())
    }
}

/// A window: `a0 − a1 cos(2πi/N) + a2 cos(4πi/N)` (ONNX `HannWindow`, `HammingWindow`,
/// `BlackmanWindow`).
///
/// Input: the length (a scalar).
#[derive(Clone, Debug)]
pub struct Window {
    /// a0, a1, a2.
    pub terms: [f64; 3],
    /// Whether the window is one period (N is the length), and not symmetric (N is one less).
    pub periodic: bool,
    /// The element type.
    pub dtype: DType,
}

impl Op for Window {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let length = match one_size(cx.ints(0)?, "length")? {
            Some(n) => Dim::from(n),
            None => cx.unknown_dim(),
        };
        Ok(vec![ValueType::new(self.dtype, vec![length])])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let n = one_size(Some(inputs.get(0)?.ints()?), "length")?.unwrap_or(0);
        let period = if self.periodic { n } else { n.saturating_sub(1) };
        let [a0, a1, a2] = self.terms;
        let value = |i: usize| {
            let angle = if period == 0 { 0.0 } else { TAU * i as f64 / period as f64 };
            a0 - a1 * angle.cos() + a2 * (2.0 * angle).cos()
        };
        let out = outputs.bytes(0, self.dtype, &[n])?;
        write_floats(self.dtype, out, (0..n).map(value))
    }
}

/// Triangular filters, evenly spaced on the mel scale, that turn a spectrum into mel bands (ONNX
/// `MelWeightMatrix`).
///
/// Inputs, all scalars: the number of bands, the transform's length, the sample rate, the lowest and
/// the highest frequency (Hz). Output: [length / 2 + 1, bands].
#[derive(Clone, Debug)]
pub struct MelWeightMatrix {
    /// The element type.
    pub dtype: DType,
}

impl Op for MelWeightMatrix {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let size = |v: Option<usize>| v.map_or_else(|| cx.unknown_dim(), Dim::from);
        let bands = one_size(cx.ints(0)?, "number of bands")?;
        let bins = one_size(cx.ints(1)?, "length")?.map(|n| n / 2 + 1);
        Ok(vec![ValueType::new(self.dtype, vec![size(bins), size(bands)])])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let int = |i: usize, what| -> OpResult<usize> {
            Ok(one_size(Some(inputs.get(i)?.ints()?), what)?.unwrap_or(0))
        };
        let (bands, length) = (int(0, "number of bands")?, int(1, "length")?);
        let rate = int(2, "sample rate")?;
        let hertz = |i: usize| match floats(&inputs.get(i)?)?.as_slice() {
            [one] => Ok(*one),
            other => error(format!("a frequency is {other:?}")),
        };
        let (low, high) = (hertz(3)?, hertz(4)?);
        if rate == 0 {
            return error("the sample rate is 0");
        }
        let mel = |hz: f64| 2595.0 * (1.0 + hz / 700.0).log10();
        let step = (mel(high) - mel(low)) / (bands as f64 + 2.0);
        let bin = |i: usize| {
            let hz = 700.0 * (10f64.powf((i as f64 * step + mel(low)) / 2595.0) - 1.0);
            ((length as f64 + 1.0) * hz / rate as f64).floor() as usize
        };
        let bins = length / 2 + 1;
        let out = outputs.bytes(0, self.dtype, &[bins, bands])?;
        let mut weights = vec![0.0; bins * bands];
        for band in 0..bands {
            let (left, centre, right) = (bin(band), bin(band + 1), bin(band + 2));
            let mut set = |at: usize, weight: f64| {
                if let Some(w) = weights.get_mut(at * bands + band).filter(|_| at < bins) {
                    *w = weight;
                }
            };
            if left == centre {
                set(centre, 1.0);
            }
            for at in left..=centre.min(bins) {
                if centre > left {
                    set(at, (at - left) as f64 / (centre - left) as f64);
                }
            }
            for at in centre..right.min(bins) {
                set(at, (right - at) as f64 / (right - centre) as f64);
            }
        }
        write_floats(self.dtype, out, weights.into_iter())
    }
}
