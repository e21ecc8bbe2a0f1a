//! Normalisations: layer, RMS, instance, and the scale and shift that a batch normalisation is.

use crate::elementwise::Unary;
use crate::isa::Isa;
use crate::reduce_f32;
use crate::simd::{Kernel, Simd, dispatch};

/// Normalises rows: `(x − mean) / √(variance + epsilon) · scale + bias`, where the mean is that
/// of the row, or 0 for RMS normalisation.
#[derive(Clone, Copy, Debug)]
pub struct NormF32<'a> {
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether the mean is subtracted (layer normalisation) or not (RMS).
    pub centred: bool,
    /// One factor an element of a row.
    pub scale: Option<&'a [f32]>,
    /// One summand an element of a row.
    pub bias: Option<&'a [f32]>,
}

impl NormF32<'_> {
    /// Normalises the rows of `columns` elements of `input` into `out`.
    ///
    /// # Panics
    /// Where the sizes do not fit each other.
    pub fn run(&self, isa: Isa, input: &[f32], columns: usize, out: &mut [f32]) {
        assert_eq!(input.len(), out.len(), "input and output of a normalisation");
        if out.is_empty() {
            return;
        }
        assert!(out.len().is_multiple_of(columns), "normalisation of incomplete rows");
        for values in [self.scale, self.bias].into_iter().flatten() {
            assert_eq!(values.len(), columns, "scale or bias of a normalisation");
        }
        dispatch(isa, RowsKernel { norm: self, input, columns, out });
    }
}

struct RowsKernel<'a> {
    norm: &'a NormF32<'a>,
    input: &'a [f32],
    columns: usize,
    out: &'a mut [f32],
}

impl Kernel for RowsKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RowsKernel { norm, input, columns, out } = self;
        for (x, y) in input.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
            let mean = if norm.centred { reduce_f32::sum(s, x) / columns as f32 } else { 0.0 };
            let variance = reduce_f32::squared_distances(s, x, mean) / columns as f32;
            let factor = s.splat(1.0 / (variance + norm.epsilon).sqrt());
            let mean = s.splat(mean);
            for i in (0..columns).step_by(S::LANES) {
                let n = (columns - i).min(S::LANES);
                // SAFETY: every row has `columns` elements, of which `n` are left from `i` on.
                unsafe {
                    let at = |values: &[f32]| s.load_n(values.as_ptr().add(i), n);
                    let mut v = s.mul(s.sub(at(x), mean), factor);
                    if let Some(scale) = norm.scale {
                        v = s.mul(v, at(scale));
                    }
                    if let Some(bias) = norm.bias {
                        v = s.add(v, at(bias));
                    }
                    s.store_n(y.as_mut_ptr().add(i), v, n);
                }
            }
        }
    }
}

/// Multiplies by one factor a column and adds one summand a column, then applies a function:
/// batch normalisation, whose mean, variance and parameters are known ahead.
///
/// # Panics
/// Where the sizes do not fit each other.
pub fn scale_and_shift(
    isa: Isa,
    input: &[f32],
    scale: &[f32],
    shift: &[f32],
    then: Unary,
    out: &mut [f32],
) {
    assert_eq!(input.len(), out.len(), "input and output of a scaling");
    assert_eq!(scale.len(), shift.len(), "scale and shift");
    if out.is_empty() {
        return;
    }
    assert!(out.len().is_multiple_of(scale.len()), "scaling of incomplete rows");
    dispatch(isa, Affine { input, scale, shift, then, out });
}

struct Affine<'a> {
    input: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    then: Unary,
    out: &'a mut [f32],
}

impl Kernel for Affine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Affine { input, scale, shift, then, out } = self;
        let columns = scale.len();
        for (x, y) in input.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
            for i in (0..columns).step_by(S::LANES) {
                let n = (columns - i).min(S::LANES);
                // SAFETY: every row has `columns` elements, of which `n` are left from `i` on.
                unsafe {
                    let at = |values: &[f32]| s.load_n(values.as_ptr().add(i), n);
                    s.store_n(y.as_mut_ptr().add(i), s.fma(at(x), at(scale), at(shift)), n);
                }
            }
            s.outline(then.on(y));
        }
    }
}

/// The scale and shift of an instance normalisation of one channels-last image: each channel's
/// mean and variance over the pixels, with the channel's own factor and summand. Writes what
/// [`scale_and_shift`] takes.
///
/// # Panics
/// Where the sizes do not fit each other.
pub fn instance_scale_and_shift(
    image: &[f32],
    epsilon: f32,
    (gamma, beta): (&[f32], &[f32]),
    scale: &mut [f32],
    shift: &mut [f32],
) {
    let channels = gamma.len();
    assert!([beta.len(), scale.len(), shift.len()] == [channels; 3], "channels of an instance");
    if channels == 0 {
        return;
    }
    assert!(image.len().is_multiple_of(channels), "incomplete pixels");
    let pixels = (image.len() / channels) as f64;
    // A chunk of channels at a time, in f64: what is small beside the mean is not lost.
    for start in (0..channels).step_by(16) {
        let n = (channels - start).min(16);
        let (mut sum, mut squares) = ([0.0f64; 16], [0.0f64; 16]);
        for pixel in image.chunks_exact(channels) {
            for (i, &x) in pixel[start..start + n].iter().enumerate() {
                let x = f64::from(x);
                sum[i] += x;
                squares[i] += x * x;
            }
        }
        for i in 0..n {
            let mean = sum[i] / pixels;
            let variance = (squares[i] / pixels - mean * mean).max(0.0);
            let variance = if squares[i].is_nan() { f64::NAN } else { variance };
            let factor = f64::from(gamma[start + i]) / (variance + f64::from(epsilon)).sqrt();
            scale[start + i] = factor as f32;
            shift[start + i] = (f64::from(beta[start + i]) - mean * factor) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close};

    #[test]
    fn rows_are_normalised() {
        let mut values = Values::new(15);
        for isa in Isa::available() {
            for columns in [1, 7, 64, 385] {
                for centred in [true, false] {
                    let rows = 3;
                    let input: Vec<f32> =
                        values.floats(rows * columns).iter().map(|x| x + 3.0).collect();
                    let (scale, bias) = (values.floats(columns), values.floats(columns));
                    let norm =
                        NormF32 { epsilon: 1e-3, centred, scale: Some(&scale), bias: Some(&bias) };
                    let mut out = vec![0.0; input.len()];
                    norm.run(isa, &input, columns, &mut out);
                    let want: Vec<f64> = input
                        .chunks(columns)
                        .flat_map(|row| {
                            let n = columns as f64;
                            let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
                            let mean = if centred { row.iter().sum::<f64>() / n } else { 0.0 };
                            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                            let factor = 1.0 / (variance + f64::from(1e-3f32)).sqrt();
                            let (scale, bias) = (&scale, &bias);
                            (0..columns)
                                .map(|i| {
                                    (row[i] - mean) * factor * f64::from(scale[i])
                                        + f64::from(bias[i])
                                })
                                .collect::<Vec<_>>()
                        })
                        .collect();
                    assert_close(&format!("{isa:?} {columns} {centred}"), &out, &want, 2e-5);
                }
            }
        }
    }

    #[test]
    fn instances_are_normalised() {
        let mut values = Values::new(16);
        let (pixels, channels) = (35, 21);
        let image: Vec<f32> =
            values.floats(pixels * channels).iter().map(|x| x * 2.0 + 5.0).collect();
        let (gamma, beta) = (values.floats(channels), values.floats(channels));
        let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
        instance_scale_and_shift(&image, 1e-5, (&gamma, &beta), &mut scale, &mut shift);
        let want: Vec<f64> = (0..image.len())
            .map(|i| {
                let c = i % channels;
                let all = image.iter().skip(c).step_by(channels).map(|&x| f64::from(x));
                let mean = all.clone().sum::<f64>() / pixels as f64;
                let variance = all.map(|x| (x - mean).powi(2)).sum::<f64>() / pixels as f64;
                let x = (f64::from(image[i]) - mean) / (variance + f64::from(1e-5f32)).sqrt();
                (x * f64::from(gamma[c]) + f64::from(beta[c])).max(0.0)
            })
            .collect();
        for isa in Isa::available() {
            let mut out = vec![0.0; image.len()];
            scale_and_shift(isa, &image, &scale, &shift, Unary::RELU, &mut out);
            assert_close(&format!("{isa:?}"), &out, &want, 1e-5);
        }
    }
}
