//! Resizing with a triangle filter as wide as the reduction, so that every pixel counts.
//!
//! The arithmetic is that of Pillow's `Image.resize(…, BILINEAR, box)`: each axis in turn, in fixed
//! point, rounded to bytes in between. Models in the field are trained and checked with it, and it makes
//! a picture's numbers the same on every machine.

use crate::Picture;

const FRACTION: u32 = 22;

/// A rectangle of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Region {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// The `region` of a picture, resized.
pub(crate) fn resize(picture: &Picture, region: Region, width: usize, height: usize) -> Picture {
    let columns = Taps::new(region.x, region.width, picture.width, width);
    let rows = Taps::new(region.y, region.height, picture.height, height);
    let (first, last) = rows.span();
    let mut narrow = vec![0; width * (last - first) * 3];
    for (from, to) in picture.rgb[first * picture.width * 3..last * picture.width * 3]
        .chunks_exact(picture.width * 3)
        .zip(narrow.chunks_exact_mut(width * 3))
    {
        for (pixel, taps) in to.chunks_exact_mut(3).zip(columns.iter()) {
            let mut sums = [1i32 << (FRACTION - 1); 3];
            for (source, &weight) in from[taps.start * 3..].chunks_exact(3).zip(taps.weights) {
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += weight * i32::from(value);
                }
            }
            pixel.copy_from_slice(&sums.map(byte));
        }
    }
    let stride = width * 3;
    let mut rgb = Vec::with_capacity(stride * height);
    let mut sums = vec![0i32; stride];
    for taps in rows.iter() {
        sums.fill(1 << (FRACTION - 1));
        for (row, &weight) in
            narrow[(taps.start - first) * stride..].chunks_exact(stride).zip(taps.weights)
        {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(value);
            }
        }
        rgb.extend(sums.iter().map(|&sum| byte(sum)));
    }
    Picture { width, height, rgb }
}

fn byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// For each output position of one axis, where its inputs start and their weights.
struct Taps {
    starts: Vec<(usize, usize)>,
    weights: Vec<i32>,
    most: usize,
}

struct Tap<'a> {
    start: usize,
    weights: &'a [i32],
}

impl Taps {
    fn new(offset: f64, length: f64, from: usize, to: usize) -> Taps {
        let scale = length / to as f64;
        let support = scale.max(1.0);
        let most = support.ceil() as usize * 2 + 1;
        let mut starts = Vec::with_capacity(to);
        let mut weights = vec![0; to * most];
        let mut exact = Vec::with_capacity(most);
        for (position, weights) in weights.chunks_exact_mut(most).enumerate() {
            let centre = offset + (position as f64 + 0.5) * scale;
            let start = ((centre - support + 0.5).max(0.0) as usize).min(from - 1);
            let end = ((centre + support + 0.5) as usize).clamp(start + 1, from);
            exact.clear();
            exact.extend((start..end).map(|x| {
                let distance = ((x as f64 - centre + 0.5) / support).abs();
                (1.0 - distance).max(0.0)
            }));
            let sum: f64 = exact.iter().sum();
            for (weight, exact) in weights.iter_mut().zip(&exact) {
                let share = if sum == 0.0 { 1.0 / (end - start) as f64 } else { exact / sum };
                *weight = (0.5 + share * f64::from(1u32 << FRACTION)) as i32;
            }
            starts.push((start, end - start));
        }
        Taps { starts, weights, most }
    }

    fn iter(&self) -> impl Iterator<Item = Tap<'_>> {
        self.starts
            .iter()
            .zip(self.weights.chunks_exact(self.most))
            .map(|(&(start, count), weights)| Tap { start, weights: &weights[..count] })
    }

    /// The inputs that count, from the first to the one after the last.
    fn span(&self) -> (usize, usize) {
        let first = self.starts.first().map_or(0, |tap| tap.0);
        let last = self.starts.last().map_or(0, |tap| tap.0 + tap.1);
        (first, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(picture: &Picture) -> Region {
        Region { x: 0.0, y: 0.0, width: picture.width as f64, height: picture.height as f64 }
    }

    fn grey(width: usize, values: &[u8]) -> Picture {
        Picture {
            width,
            height: values.len() / width,
            rgb: values.iter().flat_map(|&v| [v; 3]).collect(),
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let picture = grey(3, &[1, 200, 30, 4, 50, 255]);
        assert_eq!(resize(&picture, whole(&picture), 3, 2), picture);
    }

    #[test]
    fn halving_and_doubling_weigh_by_distance() {
        let picture = grey(4, &[0, 40, 80, 120]);
        // Weights of a triangle of half width 2: 1/8, 3/8, 3/8, 1/8, and at the edge 3/7, 3/7, 1/7.
        assert_eq!(resize(&picture, whole(&picture), 2, 1), grey(2, &[29, 91]));
        let two = grey(2, &[0, 100]);
        assert_eq!(resize(&two, whole(&two), 4, 1), grey(4, &[0, 25, 75, 100]));
    }

    #[test]
    fn a_region_is_cut_out() {
        let picture = grey(4, &[0, 40, 80, 120]);
        let region = Region { x: 1.0, width: 2.0, ..whole(&picture) };
        assert_eq!(resize(&picture, region, 2, 1), grey(2, &[40, 80]));
    }

    #[test]
    fn pictures_come_out_as_the_goldens_inputs() {
        for model in ["mobilenet_v1_0.25_128_quant", "movenet_single_pose_lightning_ptq"] {
            let Some(cases) = kinglet_testing::golden(model) else {
                return;
            };
            let mut compared = 0;
            for case in cases.iter().filter(|case| case.name.ends_with(".bmp")) {
                let path = kinglet_testing::model(&format!("images/{}", case.name)).unwrap();
                let picture = Picture::open(&path).unwrap();
                let (height, width) = (case.inputs[0].shape[1], case.inputs[0].shape[2]);
                let resized = resize(&picture, whole(&picture), width, height);
                assert!(resized.rgb == case.inputs[0].data, "{model}: {}", case.name);
                compared += 1;
            }
            assert!(compared > 3);
        }
    }
}
