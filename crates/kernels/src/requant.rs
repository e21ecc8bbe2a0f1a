//! Requantisation: 32-bit accumulators to 8-bit outputs, one factor for each channel.
//!
//! Both meanings in use are here, and each is exact: TensorFlow Lite's fixed-point product that
//! rounds twice ([`Rescale::Fixed`]), and ONNX's float product rounded half to even
//! ([`Rescale::Float`]). Convolutions, depthwise convolutions and pools share this.

use crate::fixed::Multiplier;
use crate::isa::Isa;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

/// The two 8-bit integer types. Kernels take both as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Byte {
    /// `i8`.
    Signed,
    /// `u8`.
    Unsigned,
}

impl Byte {
    /// The lowest and the highest value.
    pub fn limits(self) -> (i32, i32) {
        match self {
            Byte::Signed => (-128, 127),
            Byte::Unsigned => (0, 255),
        }
    }

    /// The value of a byte of this type.
    #[inline]
    pub fn value(self, byte: u8) -> i32 {
        match self {
            Byte::Signed => i32::from(byte as i8),
            Byte::Unsigned => i32::from(byte),
        }
    }
}

/// The factors from accumulators to output steps: one for all channels, or one for each.
#[derive(Clone, Debug)]
pub enum Rescale {
    /// Fixed point with two roundings, as TensorFlow Lite ([`Multiplier::apply`]).
    Fixed(Vec<Multiplier>),
    /// Fixed point with one rounding, as TensorFlow Lite's fully connected layers
    /// ([`Multiplier::apply_once`]).
    FixedOnce(Vec<Multiplier>),
    /// A product in `f32`, rounded half to even, as ONNX.
    Float(Vec<f32>),
}

/// The output's type, zero point and limits (of the type, or of a fused activation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteOutput {
    /// The 8-bit type.
    pub kind: Byte,
    /// The value that stands for zero.
    pub zero_point: i32,
    /// The lowest output.
    pub min: i32,
    /// The highest output.
    pub max: i32,
}

impl ByteOutput {
    /// An output limited by its type only.
    pub fn new(kind: Byte, zero_point: i32) -> Self {
        let (min, max) = kind.limits();
        Self { kind, zero_point, min, max }
    }
}

/// Channels are padded to a multiple of this, with one vector to spare.
const GROUP: usize = 16;

/// Factors of `channels` channels, laid out for vectors.
#[derive(Clone, Debug)]
pub struct Requantiser {
    isa: Isa,
    pub(crate) output: ByteOutput,
    channels: usize,
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    /// One value after the other: factors so large that the vector forms' 32-bit steps could
    /// overflow.
    Scalar {
        multipliers: Vec<Multiplier>,
        once: bool,
    },
    Fixed(FixedFactors),
    Float(Vec<f32>),
}

/// The fixed-point product as `(2 x * mantissa + 2^31 + round * 2^32) / 2^32`, less one for
/// negative `x`, shifted right: the two roundings of the original in one pass. Rounding once is
/// the same with another constant, `2^(31 + shift)`, and no correction.
#[derive(Clone, Debug)]
struct FixedFactors {
    mantissa: Vec<i32>,
    /// `2^31 + round * 2^32`, for each group of `lanes` channels first the even, then the odd.
    round: Vec<i64>,
    /// Right shifts.
    shift: Vec<i32>,
    /// Left shifts before the product, and -1 where the sign correction applies (a right shift
    /// of at least one). Used only if `general`.
    left: Vec<i32>,
    sign: Vec<i32>,
    /// Whether some channel shifts left or not at all, or rounds once, or accumulators of more
    /// than 30 bits occur.
    general: bool,
    once: bool,
}

impl FixedFactors {
    fn new(multipliers: &[Multiplier], once: bool, lanes: usize) -> Self {
        let padded = multipliers.len().next_multiple_of(GROUP) + GROUP;
        let mut factors = Self {
            mantissa: vec![0; padded],
            round: vec![0; padded],
            shift: vec![0; padded],
            left: vec![0; padded],
            sign: vec![0; padded],
            general: false,
            once,
        };
        for (channel, multiplier) in multipliers.iter().enumerate() {
            // A zero factor needs no particular shift; this one keeps the fast form.
            let shift = if multiplier.mantissa == 0 { -1 } else { multiplier.shift };
            let right = (-shift).max(0);
            let round = match (once, right) {
                (true, _) => 1i64 << (31 + right),
                (false, 0) => 1 << 31,
                (false, _) => (1 << 31) + (1 << (31 + right)),
            };
            let (group, lane) = (channel / lanes * lanes, channel % lanes);
            let slot = group + lane / 2 + if lane % 2 == 1 { lanes / 2 } else { 0 };
            factors.mantissa[channel] = multiplier.mantissa;
            factors.round[slot] = round;
            factors.shift[channel] = right;
            factors.left[channel] = shift.max(0);
            factors.sign[channel] = if right > 0 && !once { -1 } else { 0 };
            // Rounding once adds nothing that a shift of zero would have to leave out.
            factors.general |= if once { shift > 0 } else { right == 0 };
        }
        factors
    }
}

fn spread<T: Copy>(values: &[T], channels: usize) -> Vec<T> {
    if values.len() == 1 { vec![values[0]; channels] } else { values.to_vec() }
}

impl Requantiser {
    /// Prepares factors for `channels` channels whose accumulators never exceed `largest` in
    /// magnitude (use `i64::MAX` if unknown).
    ///
    /// # Panics
    /// If there are neither one nor `channels` factors, or the output's limits are not within
    /// its type.
    pub fn new(
        isa: Isa,
        rescale: &Rescale,
        output: ByteOutput,
        channels: usize,
        largest: i64,
    ) -> Self {
        let (low, high) = output.kind.limits();
        assert!(low <= output.min && output.min <= output.max && output.max <= high);
        assert!((low..=high).contains(&output.zero_point));
        let method = match rescale {
            Rescale::Fixed(multipliers) | Rescale::FixedOnce(multipliers) => {
                let once = matches!(rescale, Rescale::FixedOnce(_));
                let multipliers = spread(multipliers, channels);
                assert_eq!(multipliers.len(), channels);
                let fit = |fits: fn(i128, &Multiplier) -> bool| {
                    multipliers.iter().all(|multiplier| {
                        let shifted = i128::from(largest) << multiplier.shift.clamp(0, 31);
                        multiplier.mantissa >= 0
                            && (-31..31).contains(&multiplier.shift)
                            && fits(shifted, multiplier)
                    })
                };
                // Twice the shifted accumulator, and the product plus rounding, fit 32 bits.
                let narrow = fit(|x, _| x < 1 << 30);
                // The shifted accumulator fits 32 bits, the product plus rounding 64.
                let wide = fit(|x, multiplier| {
                    let round = (1 << 31) + (1 << (31 + (-multiplier.shift).max(0)));
                    x < 1 << 31 && 2 * x * i128::from(multiplier.mantissa) + round < 1 << 63
                });
                if narrow || shifts_wide(isa) && wide {
                    let mut factors = FixedFactors::new(&multipliers, once, lanes(isa));
                    factors.general |= !narrow;
                    Method::Fixed(factors)
                } else {
                    Method::Scalar { multipliers, once }
                }
            }
            Rescale::Float(scales) => {
                let mut scales = spread(scales, channels);
                assert_eq!(scales.len(), channels);
                scales.resize(channels.next_multiple_of(GROUP) + GROUP, 0.0);
                Method::Float(scales)
            }
        };
        Self { isa, output, channels, method }
    }

    /// Requantises `rows` rows of accumulators, `acc_stride` apart, whose columns are the
    /// channels from `first` on (`first` a multiple of 16), into rows `out_stride` apart.
    ///
    /// # Panics
    /// If a row does not fit `acc` or `out`.
    pub fn run(
        &self,
        first: usize,
        columns: usize,
        rows: usize,
        (acc, acc_stride): (&[i32], usize),
        (out, out_stride): (&mut [u8], usize),
    ) {
        if rows == 0 || columns == 0 {
            return;
        }
        assert!(first.is_multiple_of(GROUP) && first + columns <= self.channels);
        assert!((rows - 1) * acc_stride + columns <= acc.len());
        assert!((rows - 1) * out_stride + columns <= out.len());
        // SAFETY: checked above.
        unsafe {
            self.run_raw(
                first,
                (columns, rows),
                (acc.as_ptr(), acc_stride),
                (out.as_mut_ptr(), out_stride),
            );
        }
    }

    /// [`Requantiser::run`] for pointers; `first` must be a multiple of 16.
    ///
    /// # Safety
    /// The rows lie in memory that is readable at `acc` and writable by us alone at `out`, and
    /// the channels exist.
    pub(crate) unsafe fn run_raw(
        &self,
        first: usize,
        (columns, rows): (usize, usize),
        (acc, acc_stride): (*const i32, usize),
        (out, out_stride): (*mut u8, usize),
    ) {
        debug_assert!(first.is_multiple_of(GROUP) && first + columns <= self.channels);
        let tile = Tile { acc, acc_stride, out, out_stride, rows, columns };
        let output = &self.output;
        match (&self.method, self.isa) {
            #[cfg(target_arch = "x86_64")]
            (Method::Fixed(factors), Isa::Avx512(_) | Isa::Avx512Vnni(_)) => {
                // SAFETY: the token proves the instructions; the caller vouches for the tile.
                unsafe { avx512::fixed(factors, output, first, tile) }
            }
            #[cfg(target_arch = "x86_64")]
            (Method::Float(scales), Isa::Avx512(_) | Isa::Avx512Vnni(_)) => {
                // SAFETY: as above.
                unsafe { avx512::float(scales, output, first, tile) }
            }
            #[cfg(target_arch = "x86_64")]
            (Method::Fixed(factors), Isa::Avx2(_)) => {
                // SAFETY: as above.
                unsafe { avx2::fixed(factors, output, first, tile) }
            }
            #[cfg(target_arch = "x86_64")]
            (Method::Float(scales), Isa::Avx2(_)) => {
                // SAFETY: as above.
                unsafe { avx2::float(scales, output, first, tile) }
            }
            #[cfg(target_arch = "aarch64")]
            (Method::Fixed(factors), Isa::Neon(_) | Isa::NeonDot(_) | Isa::NeonI8mm(_)) => {
                // SAFETY: as above.
                unsafe { neon::fixed(factors, output, first, tile) }
            }
            #[cfg(target_arch = "aarch64")]
            (Method::Float(scales), Isa::Neon(_) | Isa::NeonDot(_) | Isa::NeonI8mm(_)) => {
                // SAFETY: as above.
                unsafe { neon::float(scales, output, first, tile) }
            }
            _ => {
                for row in 0..rows {
                    // SAFETY: the caller's promise.
                    let (acc, out) = unsafe {
                        (
                            std::slice::from_raw_parts(acc.add(row * acc_stride), columns),
                            std::slice::from_raw_parts_mut(out.add(row * out_stride), columns),
                        )
                    };
                    self.portable_row(first, acc, out);
                }
            }
        }
    }

    fn portable_row(&self, first: usize, acc: &[i32], out: &mut [u8]) {
        for (i, (&acc, out)) in acc.iter().zip(out).enumerate() {
            let channel = first + i;
            *out = match &self.method {
                Method::Scalar { multipliers, once: false } => {
                    self.output.byte(multipliers[channel].apply(acc))
                }
                Method::Scalar { multipliers, once: true } => {
                    self.output.byte(multipliers[channel].apply_once(acc))
                }
                Method::Fixed(factors) => self.output.byte(factors.apply(channel, acc)),
                Method::Float(scales) => self.output.byte_from_float(acc as f32 * scales[channel]),
            };
        }
    }
}

/// What a vector form works on.
#[derive(Clone, Copy)]
struct Tile {
    acc: *const i32,
    acc_stride: usize,
    out: *mut u8,
    out_stride: usize,
    rows: usize,
    columns: usize,
}

impl FixedFactors {
    #[inline]
    fn apply(&self, channel: usize, x: i32) -> i32 {
        let multiplier = Multiplier {
            mantissa: self.mantissa[channel],
            shift: self.left[channel] - self.shift[channel],
        };
        if self.once { multiplier.apply_once(x) } else { multiplier.apply(x) }
    }
}

impl ByteOutput {
    #[inline]
    fn byte(&self, steps: i32) -> u8 {
        steps.saturating_add(self.zero_point).clamp(self.min, self.max) as u8
    }

    /// Steps in `f32`, clamped before they are rounded so that none overflows.
    #[inline]
    fn byte_from_float(&self, steps: f32) -> u8 {
        let low = (self.min - self.zero_point) as f32;
        let high = (self.max - self.zero_point) as f32;
        (steps.max(low).min(high).round_ties_even() as i32 + self.zero_point) as u8
    }
}

/// Whether an instruction set's general form shifts 64-bit products.
fn shifts_wide(isa: Isa) -> bool {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Avx512Vnni(_) => true,
        _ => false,
    }
}

/// 32-bit lanes of the vectors that an instruction set's fixed-point form works on.
fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Avx2(_) => 8,
        _ => 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    fn check(isa: Isa, rescale: &Rescale, output: ByteOutput, channels: usize, largest: i32) {
        let rows = 3;
        let mut random = Random::new(channels as u64);
        let mut acc = vec![0i32; rows * (channels + 5)];
        for value in &mut acc {
            *value = random.range(-i64::from(largest), i64::from(largest)) as i32;
        }
        for (slot, value) in acc.iter_mut().zip([0, 1, -1, 2, -2, largest, -largest]) {
            *slot = value;
        }
        let portable = Requantiser::new(Isa::Portable, rescale, output, channels, largest.into());
        let chosen = Requantiser::new(isa, rescale, output, channels, largest.into());
        let mut out = vec![0xaau8; rows * (channels + 3) + 1];
        for first in [0, 16, 32] {
            if first >= channels {
                continue;
            }
            let columns = channels - first;
            // One byte in: misaligned on purpose.
            chosen.run(first, columns, rows, (&acc, channels + 5), (&mut out[1..], channels + 3));
            for row in 0..rows {
                for column in 0..columns {
                    let x = acc[row * (channels + 5) + column];
                    let channel = first + column;
                    let want = match rescale {
                        Rescale::Fixed(m) => {
                            output.byte(m[if m.len() == 1 { 0 } else { channel }].apply(x))
                        }
                        Rescale::FixedOnce(m) => {
                            output.byte(m[if m.len() == 1 { 0 } else { channel }].apply_once(x))
                        }
                        Rescale::Float(s) => {
                            let scale = s[if s.len() == 1 { 0 } else { channel }];
                            let steps = f64::from(x as f32 * scale).round_ties_even();
                            (steps as i64 + i64::from(output.zero_point))
                                .clamp(output.min.into(), output.max.into())
                                as u8
                        }
                    };
                    let got = out[1 + row * (channels + 3) + column];
                    assert_eq!(got, want, "{isa:?} {channel} {x}");
                }
                assert_eq!(out[1 + row * (channels + 3) + columns], 0xaa, "wrote past the row");
            }
            out.fill(0xaa);
        }
        assert_eq!(portable.channels, channels);
    }

    #[test]
    fn every_isa_matches_the_definition() {
        let outputs = [
            ByteOutput::new(Byte::Signed, -128),
            ByteOutput { kind: Byte::Signed, zero_point: 5, min: 5, max: 100 },
            ByteOutput::new(Byte::Unsigned, 0),
            ByteOutput { kind: Byte::Unsigned, zero_point: 131, min: 131, max: 255 },
        ];
        let mut random = Random::new(7);
        for isa in Isa::available() {
            for channels in [1, 3, 8, 15, 16, 17, 31, 33, 64, 100] {
                for output in outputs {
                    for (magnitude, largest) in [
                        (1e-3, 200_000),
                        (0.7, 900),
                        (3.0, 90),
                        (1e-6, (1 << 30) - 1),
                        (2e-8, (3 << 29) - 1),
                        (2e-10, (1 << 30) + (1 << 22)),
                        (2.0, i32::MAX),
                    ] {
                        let multipliers: Vec<_> = (0..channels)
                            .map(|_| {
                                let real = magnitude * (0.25 + 2.0 * random.unit());
                                Multiplier::new(real).unwrap()
                            })
                            .collect();
                        check(isa, &Rescale::Fixed(multipliers.clone()), output, channels, largest);
                        check(
                            isa,
                            &Rescale::Fixed(vec![multipliers[0]]),
                            output,
                            channels,
                            largest,
                        );
                        let once = Rescale::FixedOnce(multipliers.clone());
                        check(isa, &once, output, channels, largest);
                        let scales =
                            multipliers.iter().map(|m| m.to_f64() as f32).collect::<Vec<_>>();
                        check(isa, &Rescale::Float(scales), output, channels, largest);
                    }
                    let zero = Rescale::Fixed(vec![Multiplier::default()]);
                    check(isa, &zero, output, channels, 1000);
                    // Exact ties in float.
                    check(isa, &Rescale::Float(vec![0.5]), output, channels, 400);
                }
            }
        }
    }
}
