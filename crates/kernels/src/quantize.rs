//! Real numbers to 8-bit integers.

use crate::isa::Isa;
use crate::requant::ByteOutput;
use crate::words::{Kernel, Words, on};

/// What becomes of halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// They go away from zero, as in TensorFlow Lite.
    AwayFromZero,
    /// They go to the even neighbour, as in ONNX.
    ToEven,
}

/// Writes `round(x / scale) + zero_point`, within the output's limits; NaN becomes the zero point.
///
/// # Panics
/// If the lengths differ.
pub fn quantize_floats(
    isa: Isa,
    input: &[f32],
    scale: f32,
    halves: Halves,
    output: &ByteOutput,
    out: &mut [u8],
) {
    assert_eq!(input.len(), out.len());
    on(isa, Quantise { input, scale, halves, output, out });
}

struct Quantise<'a> {
    input: &'a [f32],
    scale: f32,
    halves: Halves,
    output: &'a ByteOutput,
    out: &'a mut [u8],
}

impl Kernel for Quantise<'_> {
    // Plain Rust that is vectorised for the instructions at hand.
    #[inline(always)]
    unsafe fn run<W: Words>(self) {
        let zero = self.output.zero_point as f32;
        let (low, high) = (self.output.min as f32 - zero, self.output.max as f32 - zero);
        let each = |x: f32, round: fn(f32) -> f32| {
            let steps = x / self.scale;
            let steps = if steps.is_nan() { 0.0 } else { steps };
            // Clamped, nothing overflows; `low` and `high` are whole.
            let steps = round(steps.max(low).min(high));
            // SAFETY: within -511 to 511.
            (unsafe { steps.to_int_unchecked::<i32>() } + self.output.zero_point) as u8
        };
        match self.halves {
            Halves::AwayFromZero => {
                for (out, &x) in self.out.iter_mut().zip(self.input) {
                    // The largest number below a half: adding it carries halves over, and nothing
                    // below them.
                    *out = each(x, |x| (x + 0.499_999_97f32.copysign(x)).trunc());
                }
            }
            Halves::ToEven => {
                for (out, &x) in self.out.iter_mut().zip(self.input) {
                    *out = each(x, f32::round_ties_even);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requant::Byte;
    use crate::test_random::Random;

    #[test]
    fn every_isa_rounds_and_clamps() {
        let mut random = Random::new(5);
        let mut input: Vec<f32> = (0..403).map(|_| (random.unit() * 60.0 - 30.0) as f32).collect();
        input.extend((-300..300).map(|i| i as f32 * 0.125));
        input.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.49999997, -0.0, 1e30]);
        for isa in Isa::available() {
            for (halves, scale) in
                [(Halves::AwayFromZero, 0.25), (Halves::ToEven, 0.25), (Halves::ToEven, 0.1)]
            {
                for output in [
                    ByteOutput::new(Byte::Signed, -3),
                    ByteOutput { min: 10, ..ByteOutput::new(Byte::Unsigned, 128) },
                ] {
                    let mut out = vec![0; input.len()];
                    quantize_floats(isa, &input, scale, halves, &output, &mut out);
                    for (&x, &got) in input.iter().zip(&out) {
                        let steps = x / scale;
                        let steps = match halves {
                            Halves::AwayFromZero => steps.round(),
                            Halves::ToEven => steps.round_ties_even(),
                        };
                        let want = (steps as i32)
                            .saturating_add(output.zero_point)
                            .clamp(output.min, output.max) as u8;
                        assert_eq!(got, want, "{isa:?} {x}");
                    }
                }
            }
        }
    }
}
