//! Floats rounded to the multiples of a scale that integers in a range make, and the gradient of that.

use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// The integers that are rounded to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The lowest.
    pub low: f32,
    /// The highest.
    pub high: f32,
}

/// Scales and zero points of elements that stand next to each other.
#[derive(Clone, Copy, Debug)]
pub enum Scales<'a> {
    /// The same for all.
    One(f32, f32),
    /// Each its own: as many as there are elements.
    Each(&'a [f32], &'a [f32]),
}

impl Range {
    /// (clamp(⌊x / s⌉ + z) − z) s of each element, halves to even.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn round(self, isa: Isa, x: &[f32], scales: Scales<'_>, out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "elements to round");
        dispatch(isa, Round { range: self, x, scales, out });
    }

    /// `dy` where nothing was clamped, and 0 elsewhere.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn pass(self, isa: Isa, x: &[f32], scales: Scales<'_>, dy: &[f32], out: &mut [f32]) {
        assert!(x.len() == out.len() && x.len() == dy.len(), "elements of a gradient");
        dispatch(isa, Pass { range: self, x, scales, dy, out });
    }

    /// Adds to `sums` what each element adds to its scale's gradient: dy (⌊x / s⌉ − x / s), or dy times the
    /// bound less z where it was clamped. All to the first sum, where the scale is one.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_slopes(self, isa: Isa, x: &[f32], scales: Scales<'_>, dy: &[f32], sums: &mut [f32]) {
        assert_eq!(x.len(), dy.len(), "elements of a gradient");
        dispatch(isa, AddSlopes { range: self, x, scales, dy, sums });
    }

    /// x / s, and the integer less z that it becomes.
    #[inline(always)]
    fn steps(self, x: f32, s: f32, z: f32) -> (f32, f32, bool) {
        let steps = x / s;
        let whole = steps.round_ties_even() + z;
        // NaN is not clamped.
        let inside = !(whole < self.low || whole > self.high);
        let clamped = if whole < self.low { self.low } else { whole };
        let clamped = if clamped > self.high { self.high } else { clamped };
        (steps, clamped - z, inside)
    }
}

// Plain Rust, which is vectorised for the instructions at hand.

struct Round<'a> {
    range: Range,
    x: &'a [f32],
    scales: Scales<'a>,
    out: &'a mut [f32],
}

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let each = |x: f32, s: f32, z: f32| self.range.steps(x, s, z).1 * s;
        let elements = self.out.iter_mut().zip(self.x);
        match self.scales {
            Scales::One(s, z) => elements.for_each(|(out, x)| *out = each(*x, s, z)),
            Scales::Each(s, z) => {
                elements
                    .zip(s.iter().zip(z))
                    .for_each(|((out, x), (s, z))| *out = each(*x, *s, *z));
            }
        }
    }
}

struct Pass<'a> {
    range: Range,
    x: &'a [f32],
    scales: Scales<'a>,
    dy: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Pass<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let each = |x: f32, s: f32, z: f32, dy: f32| {
            if self.range.steps(x, s, z).2 { dy } else { 0.0 }
        };
        let elements = self.out.iter_mut().zip(self.x.iter().zip(self.dy));
        match self.scales {
            Scales::One(s, z) => elements.for_each(|(out, (x, dy))| *out = each(*x, s, z, *dy)),
            Scales::Each(s, z) => elements
                .zip(s.iter().zip(z))
                .for_each(|((out, (x, dy)), (s, z))| *out = each(*x, *s, *z, *dy)),
        }
    }
}

struct AddSlopes<'a> {
    range: Range,
    x: &'a [f32],
    scales: Scales<'a>,
    dy: &'a [f32],
    sums: &'a mut [f32],
}

/// Sums that are added to by turns, so that several are in the making at once.
const LANES: usize = 16;

/// Elements whose sum is added in single precision before it goes on in double.
const STRETCH: usize = 4096;

impl Kernel for AddSlopes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let each = |x: f32, s: f32, z: f32, dy: f32| {
            let (steps, whole, inside) = self.range.steps(x, s, z);
            dy * if inside { whole - steps } else { whole }
        };
        match self.scales {
            Scales::Each(s, z) => {
                let elements = self.sums.iter_mut().zip(self.x.iter().zip(self.dy));
                elements
                    .zip(s.iter().zip(z))
                    .for_each(|((sum, (x, dy)), (s, z))| *sum += each(*x, *s, *z, *dy));
            }
            Scales::One(s, z) => {
                let mut total = 0.0;
                for (x, dy) in self.x.chunks(STRETCH).zip(self.dy.chunks(STRETCH)) {
                    let mut lanes = [0.0; LANES];
                    let (x, x_rest) = x.as_chunks::<LANES>();
                    let (dy, dy_rest) = dy.as_chunks::<LANES>();
                    for (x, dy) in x.iter().zip(dy) {
                        for i in 0..LANES {
                            lanes[i] += each(x[i], s, z, dy[i]);
                        }
                    }
                    let rest = x_rest.iter().zip(dy_rest).map(|(x, dy)| each(*x, s, z, *dy));
                    total += f64::from(lanes.iter().copied().chain(rest).sum::<f32>());
                }
                self.sums[0] += total as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Values;

    const RANGE: Range = Range { low: -3.0, high: 3.0 };

    #[test]
    fn every_isa_rounds_as_plain_code() {
        let mut values = Values::new(4);
        for n in [1, 15, 16, 33, 300] {
            let x: Vec<f32> = values.floats(n).iter().map(|v| v * 4.0).collect();
            let (dy, s) = (
                values.floats(n),
                values.floats(n).iter().map(|v| v.abs() + 0.1).collect::<Vec<_>>(),
            );
            let z: Vec<f32> = (0..n).map(|i| (i % 3) as f32 - 1.0).collect();
            for isa in Isa::available() {
                for scales in [Scales::One(0.75, 1.0), Scales::Each(&s, &z)] {
                    let of = |i: usize| match scales {
                        Scales::One(s, z) => (s, z),
                        Scales::Each(s, z) => (s[i], z[i]),
                    };
                    let (mut y, mut dx) = (vec![9.0; n], vec![9.0; n]);
                    let mut sums = vec![0.5; n];
                    RANGE.round(isa, &x, scales, &mut y);
                    RANGE.pass(isa, &x, scales, &dy, &mut dx);
                    RANGE.add_slopes(isa, &x, scales, &dy, &mut sums);
                    let mut want = vec![0.5f64; n];
                    for i in 0..n {
                        let (s, z) = of(i);
                        let whole = (x[i] / s).round_ties_even() + z;
                        let inside = (-3.0..=3.0).contains(&whole);
                        let kept = whole.clamp(-3.0, 3.0) - z;
                        assert_eq!(y[i], kept * s, "{isa:?} {i} of {n}");
                        assert_eq!(dx[i], if inside { dy[i] } else { 0.0 }, "{isa:?} {i} of {n}");
                        let slope = f64::from(if inside { kept - x[i] / s } else { kept });
                        let at = if matches!(scales, Scales::One(..)) { 0 } else { i };
                        want[at] += slope * f64::from(dy[i]);
                    }
                    for (i, (sum, want)) in sums.iter().zip(want).enumerate() {
                        let off = (f64::from(*sum) - want).abs();
                        assert!(off < 1e-4, "{isa:?} {i} of {n}: {sum} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn halves_go_to_even_and_nan_stays() {
        for isa in Isa::available() {
            let x = [0.5, 1.5, -0.5, 2.5, f32::NAN, f32::INFINITY];
            let mut y = [0.0; 6];
            RANGE.round(isa, &x, Scales::One(1.0, 0.0), &mut y);
            assert_eq!((&y[..4], y[5]), (&[0.0, 2.0, 0.0, 2.0][..], 3.0));
            assert!(y[4].is_nan());
        }
    }
}
