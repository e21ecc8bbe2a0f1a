//! Where a sample of one dimension lies, and which elements it is made of.

use super::{Coordinates, Interpolation, Resize, Rounding};
use smallvec::SmallVec;

/// Elements and their weights. Only antialiasing takes more than four.
pub(super) type Taps = SmallVec<[(usize, f64); 4]>;

/// How one dimension is resized.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub input: usize,
    pub output: usize,
    /// Output by input size, before rounding.
    pub scale: f64,
    /// The region of interest, in parts of the input size.
    pub region: Option<(f64, f64)>,
}

impl Axis {
    /// A dimension that stays as it is.
    pub fn kept(size: usize) -> Axis {
        Axis { input: size, output: size, scale: 1.0, region: None }
    }

    pub fn is_kept(&self) -> bool {
        self.input == self.output
            && self.scale == 1.0
            && self.region.is_none_or(|r| r == (0.0, 1.0))
    }

    /// The place in the data of sample `i`; `None` outside of it, for crop and resize.
    fn place(&self, coordinates: Coordinates, i: usize) -> Option<f64> {
        let i = i as f64;
        let (last, exact) = (self.input as f64 - 1.0, self.scale * self.input as f64);
        let half_pixel = (i + 0.5) / self.scale - 0.5;
        Some(match coordinates {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = self.output as f64 / exact;
                self.input as f64 / 2.0 * (1.0 - adjustment) + half_pixel
            }
            Coordinates::PytorchHalfPixel if self.output <= 1 => 0.0,
            Coordinates::PytorchHalfPixel => half_pixel,
            Coordinates::TfHalfPixelForNearest => (i + 0.5) / self.scale,
            Coordinates::AlignCorners if exact == 1.0 => 0.0,
            Coordinates::AlignCorners => i * last / (exact - 1.0),
            Coordinates::Asymmetric => i / self.scale,
            Coordinates::TfCropAndResize => {
                let (start, end) = self.region.unwrap_or((0.0, 1.0));
                let x = if exact == 1.0 {
                    (start + end) * last / 2.0
                } else {
                    start * last + i * (end - start) * last / (exact - 1.0)
                };
                return (0.0..=last).contains(&x).then_some(x);
            }
        })
    }

    /// The element nearest to sample `i`; `None` outside the data.
    pub fn nearest(&self, resize: &Resize, i: usize) -> Option<usize> {
        if self.is_kept() {
            return Some(i);
        }
        let x = self.place(resize.coordinates, i)?;
        let x = match resize.rounding {
            Rounding::PreferFloor => (x - 0.5).ceil(),
            Rounding::PreferCeil => (x + 0.5).floor(),
            Rounding::Floor => x.floor(),
            Rounding::Ceil => x.ceil(),
        };
        Some(self.clamp(x as i64))
    }

    fn clamp(&self, x: i64) -> usize {
        x.clamp(0, (self.input as i64 - 1).max(0)) as usize
    }

    /// Sets `taps` to what sample `i` is made of; `false` outside the data.
    pub fn taps(&self, resize: &Resize, i: usize, taps: &mut Taps) -> bool {
        taps.clear();
        if self.is_kept() {
            taps.push((i, 1.0));
            return true;
        }
        let Some(x) = self.place(resize.coordinates, i) else {
            return false;
        };
        // The distance to the left neighbour lies in (0, 1].
        let left = x.ceil() - 1.0;
        let ratio = x - left;
        let reach = if resize.interpolation == Interpolation::Cubic { 2.0 } else { 1.0 };
        let scale = if resize.antialias { self.scale.min(1.0) } else { 1.0 };
        let first = (-reach / scale).floor() as i64 + 1;
        let weight = |k: i64| {
            let distance = (scale * (k as f64 - ratio)).abs();
            match resize.interpolation {
                Interpolation::Cubic => cubic(distance, resize.cubic_coefficient.into()),
                _ => (1.0 - distance).max(0.0),
            }
        };
        let inside = |k: i64| (0..self.input as i64).contains(&(left as i64 + k));
        let counts = |k: i64| !resize.exclude_outside || inside(k);
        let all = first..2 - first;
        let sum: f64 = all.clone().filter(|k| counts(*k)).map(weight).sum();
        let norm =
            if sum == 0.0 || !(resize.antialias || resize.exclude_outside) { 1.0 } else { sum };
        for k in all.filter(|k| counts(*k)) {
            taps.push((self.clamp(left as i64 + k), weight(k) / norm));
        }
        true
    }
}

/// The cubic convolution kernel with parameter `a` at distance `x`.
fn cubic(x: f64, a: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}
