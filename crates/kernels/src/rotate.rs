//! Rotation of pairs of elements: rotary position embedding of a row.

use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// Which elements of a row rotate.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Elements of a head.
    pub size: usize,
    /// The first element of a head that rotates.
    pub start: usize,
    /// Pairs of a head.
    pub pairs: usize,
    /// Whether a pair is two neighbours, and not an element of each half.
    pub interleaved: bool,
}

/// Rotates each head of `row` by angles of these cosines and sines, one for each pair.
///
/// # Panics
/// Where there are fewer angles than pairs, or the pairs leave a head.
pub fn rotate(isa: Isa, rotation: &Rotation, cos: &[f32], sin: &[f32], row: &mut [f32]) {
    let Rotation { size, start, pairs, .. } = *rotation;
    assert!(start + 2 * pairs <= size && cos.len() >= pairs && sin.len() >= pairs);
    dispatch(isa, Rotate { rotation, cos: &cos[..pairs], sin: &sin[..pairs], row });
}

struct Rotate<'a> {
    rotation: &'a Rotation,
    cos: &'a [f32],
    sin: &'a [f32],
    row: &'a mut [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rotate { rotation, cos, sin, row } = self;
        let pairs = rotation.pairs;
        for head in row.chunks_exact_mut(rotation.size) {
            let part = &mut head[rotation.start..][..2 * pairs];
            if rotation.interleaved {
                for ((pair, c), s) in part.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                    let [a, b] = *pair;
                    *pair = [a * c - b * s, a * s + b * c];
                }
                continue;
            }
            let (left, right) = part.split_at_mut(pairs);
            for i in (0..pairs).step_by(S::LANES) {
                let n = S::LANES.min(pairs - i);
                // SAFETY: `n` elements from `i` on are inside of all four slices.
                unsafe {
                    let (at, bt) = (left.as_mut_ptr().add(i), right.as_mut_ptr().add(i));
                    let (a, b) = (s.load_n(at, n), s.load_n(bt, n));
                    let (c, d) =
                        (s.load_n(cos.as_ptr().add(i), n), s.load_n(sin.as_ptr().add(i), n));
                    s.store_n(at, s.fnma(b, d, s.mul(a, c)), n);
                    s.store_n(bt, s.fma(b, c, s.mul(a, d)), n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Values;

    #[test]
    fn pairs_rotate_and_the_rest_stays() {
        let mut values = Values::new(3);
        for (size, start, pairs) in [(64, 0, 32), (80, 8, 36), (10, 2, 3), (128, 0, 20)] {
            let (x, angles) = (values.floats(3 * size), values.floats(pairs));
            let (cos, sin): (Vec<f32>, Vec<f32>) =
                angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            for interleaved in [false, true] {
                let rotation = Rotation { size, start, pairs, interleaved };
                for isa in Isa::available() {
                    let mut got = x.clone();
                    rotate(isa, &rotation, &cos, &sin, &mut got);
                    for (i, (got, x)) in got.chunks(size).zip(x.chunks(size)).enumerate() {
                        let mut want = x.to_vec();
                        for p in 0..pairs {
                            let [i, j] = match interleaved {
                                true => [start + 2 * p, start + 2 * p + 1],
                                false => [start + p, start + p + pairs],
                            };
                            want[i] = x[i] * cos[p] - x[j] * sin[p];
                            want[j] = x[i] * sin[p] + x[j] * cos[p];
                        }
                        for (got, want) in got.iter().zip(&want) {
                            assert!((got - want).abs() <= 3e-7, "{isa:?} {rotation:?} head {i}");
                        }
                    }
                }
            }
        }
    }
}
