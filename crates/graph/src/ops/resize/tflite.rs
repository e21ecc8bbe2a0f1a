//! Resizing as TFLite's reference kernels round it.

use super::super::movement::{each_index, fail, whole, write_whole};
use super::{Coordinates, Interpolation, Resize, Taps};
use crate::op::OpResult;
use crate::{DType, Outputs, TensorView};

/// Which of TFLite's three ways to place samples.
#[derive(Clone, Copy, PartialEq)]
enum Centres {
    Corner,
    AlignedCorners,
    HalfPixel,
}

fn centres(resize: &Resize) -> OpResult<Centres> {
    match resize.coordinates {
        Coordinates::AlignCorners => Ok(Centres::AlignedCorners),
        Coordinates::HalfPixel | Coordinates::TfHalfPixelForNearest => Ok(Centres::HalfPixel),
        Coordinates::Asymmetric => Ok(Centres::Corner),
        other => fail(format!("TFLite has no {other:?} coordinates")),
    }
}

/// What sample `i` of a dimension of floats is made of.
pub(super) fn taps(resize: &Resize, input: usize, output: usize, i: usize) -> OpResult<Taps> {
    let centres = centres(resize)?;
    Ok(match resize.interpolation {
        Interpolation::Nearest => {
            [(nearest_place(centres, input, output, i), 1.0)].into_iter().collect()
        }
        _ => {
            let (x, lower, upper) = linear_place(centres, input, output, i);
            let d = f64::from(x - lower as f32);
            [(lower, 1.0 - d), (upper, d)].into_iter().collect()
        }
    })
}

impl Resize {
    /// For bilinear resizing as TFLite does it, the two elements that sample `i` of a dimension
    /// lies between, and its distance from the first: of integers with a sign in 1/1024.
    ///
    /// # Errors
    /// For coordinates that TFLite does not have.
    pub fn tflite_tap_of_signed(
        &self,
        input: usize,
        output: usize,
        i: usize,
    ) -> OpResult<(usize, usize, i64)> {
        let (x, low, high) = fixed_place(centres(self)?, input, output, i);
        Ok((low, high, x - ONE * low as i64))
    }

    /// The same for unsigned bytes and floats, the distance in elements.
    ///
    /// # Errors
    /// As there.
    pub fn tflite_tap(
        &self,
        input: usize,
        output: usize,
        i: usize,
    ) -> OpResult<(usize, usize, f32)> {
        let (x, low, high) = linear_place(centres(self)?, input, output, i);
        Ok((low, high, x - low as f32))
    }
}

/// The element nearest to sample `i`.
fn nearest_place(centres: Centres, input: usize, output: usize, i: usize) -> usize {
    let scale = scale(centres, input, output);
    let offset = if centres == Centres::HalfPixel { 0.5 } else { 0.0 };
    let x = (i as f32 + offset) * scale;
    let x = if centres == Centres::AlignedCorners { x.round() } else { x.floor() };
    (x as usize).min(input.saturating_sub(1))
}

/// Where sample `i` lies, and its two neighbours.
fn linear_place(centres: Centres, input: usize, output: usize, i: usize) -> (f32, usize, usize) {
    let scale = scale(centres, input, output);
    let x = match centres {
        Centres::HalfPixel => (i as f32 + 0.5) * scale - 0.5,
        _ => i as f32 * scale,
    };
    let upper = (x.ceil() as usize).min(input - 1);
    (x, x.floor().max(0.0) as usize, upper)
}

/// Resizes dimensions 1 and 2 of `data` to those of `dims`.
pub(super) fn resize(
    resize: &Resize,
    data: &TensorView<'_>,
    dims: &[usize],
    outputs: &mut Outputs<'_>,
) -> OpResult {
    let centres = centres(resize)?;
    let fits = |d: &[usize]| d.len() == 4 && d.iter().all(|n| i32::try_from(*n).is_ok());
    if !fits(data.dims) || !fits(dims) || (data.dims[0], data.dims[3]) != (dims[0], dims[3]) {
        return fail(format!(
            "TFLite resizes two middle dimensions, not {:?} to {dims:?}",
            data.dims
        ));
    }
    match (resize.interpolation, data.dtype) {
        (Interpolation::Nearest, _) => nearest(centres, data, dims, outputs),
        (Interpolation::Linear, DType::F32) => {
            bilinear(centres, data, dims, outputs, |v: f32| v, |v| v)
        }
        (Interpolation::Linear, DType::U8) => {
            bilinear(centres, data, dims, outputs, |v: u8| f32::from(v), |v| (v + 0.5) as u8)
        }
        (Interpolation::Linear, DType::I8) => fixed(centres, data, dims, outputs, |v| v as i8),
        (Interpolation::Linear, DType::I16) => fixed(centres, data, dims, outputs, |v| v as i16),
        (how, dtype) => fail(format!("TFLite has no {how:?} resizing of {dtype}")),
    }
}

fn nearest(
    centres: Centres,
    data: &TensorView<'_>,
    dims: &[usize],
    outputs: &mut Outputs<'_>,
) -> OpResult {
    let place = |i: usize, d: usize| nearest_place(centres, data.dims[d], dims[d], i);
    let src = whole(data);
    let block = dims[3] * src.width;
    write_whole(outputs, 0, data.dtype, dims, |dst| {
        if dst.is_empty() {
            return Ok(());
        }
        let mut cells = dst.chunks_exact_mut(block);
        each_index(&dims[..3], |index| {
            let row = index[0] * data.dims[1] + place(index[1], 1);
            let from = (row * data.dims[2] + place(index[2], 2)) * block;
            if let Some(cell) = cells.next() {
                cell.copy_from_slice(&src.bytes[from..from + block]);
            }
        });
        Ok(())
    })
}

/// Elements of the data for each of the output.
fn scale(centres: Centres, input: usize, output: usize) -> f32 {
    if centres == Centres::AlignedCorners && output > 1 {
        (input as f32 - 1.0) / (output - 1) as f32
    } else {
        input as f32 / output as f32
    }
}

/// The four neighbours of each sample in channel 0 and, along both dimensions, the sample's
/// place `x` and that of the lower neighbour.
fn samples<P: Copy>(
    data: &TensorView<'_>,
    dims: &[usize],
    place: impl Fn(usize, usize) -> (P, usize, usize),
    mut visit: impl FnMut([usize; 4], [P; 2], [usize; 2]),
) {
    let depth = dims[3];
    each_index(&dims[..3], |index| {
        let (y, y0, y1) = place(index[1], 1);
        let (x, x0, x1) = place(index[2], 2);
        let at = |y: usize, x: usize| ((index[0] * data.dims[1] + y) * data.dims[2] + x) * depth;
        visit([at(y0, x0), at(y1, x0), at(y0, x1), at(y1, x1)], [y, x], [y0, x0]);
    });
}

fn bilinear<T: crate::Element>(
    centres: Centres,
    data: &TensorView<'_>,
    dims: &[usize],
    outputs: &mut Outputs<'_>,
    float: impl Fn(T) -> f32,
    back: impl Fn(f32) -> T,
) -> OpResult {
    let src = data.slice::<T>()?;
    let out = outputs.slice::<T>(0, dims)?;
    if out.is_empty() {
        return Ok(());
    }
    let place = |i: usize, d: usize| linear_place(centres, data.dims[d], dims[d], i);
    let mut cells = out.chunks_exact_mut(dims[3]);
    samples(data, dims, place, |[ll, lu, rl, ru], [y, x], [y0, x0]| {
        let (dy, dx) = (y - y0 as f32, x - x0 as f32);
        for (c, out) in cells.next().into_iter().flatten().enumerate() {
            let at = |i: usize| float(src[i + c]);
            let sum = at(ll) * (1.0 - dy) * (1.0 - dx)
                + at(lu) * dy * (1.0 - dx)
                + at(rl) * (1.0 - dy) * dx
                + at(ru) * dy * dx;
            *out = back(sum);
        }
    });
    Ok(())
}

/// 1 with 10 bits of fraction.
const ONE: i64 = 1 << 10;

/// [`linear_place`] in fixed point.
fn fixed_place(centres: Centres, input: usize, output: usize, i: usize) -> (i64, usize, usize) {
    let (input, output) = (input as i64, output as i64);
    let scale = if centres == Centres::AlignedCorners && output > 1 {
        (ONE * (input - 1) + (output - 1) / 2) / (output - 1)
    } else {
        (ONE * input + output / 2) / output
    };
    let x = match centres {
        Centres::HalfPixel => i as i64 * scale + scale / 2 - ONE / 2,
        _ => i as i64 * scale,
    };
    let (low, high) = ((x / ONE).max(0), ((x + ONE - 1) / ONE).min(input - 1));
    (x, low as usize, high as usize)
}

/// 10 bits of fraction along each dimension, rounded half away from zero.
fn fixed<T: crate::Element + Into<i64>>(
    centres: Centres,
    data: &TensorView<'_>,
    dims: &[usize],
    outputs: &mut Outputs<'_>,
    back: impl Fn(i64) -> T,
) -> OpResult {
    let src = data.slice::<T>()?;
    let out = outputs.slice::<T>(0, dims)?;
    if out.is_empty() {
        return Ok(());
    }
    let place = |i: usize, d: usize| fixed_place(centres, data.dims[d], dims[d], i);
    let mut cells = out.chunks_exact_mut(dims[3]);
    samples(data, dims, place, |[ll, lu, rl, ru], [y, x], [y0, x0]| {
        let (dy, dx) = (y - ONE * y0 as i64, x - ONE * x0 as i64);
        for (c, out) in cells.next().into_iter().flatten().enumerate() {
            let at = |i: usize| -> i64 { src[i + c].into() };
            let sum = at(ll) * (ONE - dy) * (ONE - dx)
                + at(lu) * dy * (ONE - dx)
                + at(rl) * (ONE - dy) * dx
                + at(ru) * dy * dx;
            let half = if sum > 0 { 1 << 19 } else { -(1 << 19) };
            *out = back((sum + half) / (1 << 20));
        }
    });
    Ok(())
}
