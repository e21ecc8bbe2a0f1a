//! Images sampled at free positions, and the grids of such positions.

use super::convert::{floats, write_floats};
use crate::{Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};

fn error<T>(message: impl Into<String>) -> OpResult<T> {
    Err(OpError::new(message))
}

/// How a value between elements is made of those around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Of the neighbours, by distance.
    Linear,
    /// The nearest; of two, the even one.
    Nearest,
    /// Of four along each dimension (a = −0.75).
    Cubic,
}

/// What lies outside the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Zeros.
    Zeros,
    /// The element at the border.
    Border,
    /// The data mirrored at its border.
    Reflection,
}

/// Samples input 0, [batch, channels, sizes…], at the positions of input 1, [batch, sizes'…, n], n
/// being the number of sizes: coordinates from −1 to 1, the last dimension's first (ONNX
/// `GridSample`). Output: [batch, channels, sizes'…].
#[derive(Clone, Debug)]
pub struct GridSample {
    /// How values between elements are made.
    pub sampling: Sampling,
    /// What lies outside.
    pub outside: Outside,
    /// Whether ±1 are the centres of the corner elements, and not their outer edges.
    pub align_corners: bool,
}

impl GridSample {
    /// A coordinate as a place among `size` elements.
    fn place(&self, coordinate: f64, size: usize) -> f64 {
        let n = size as f64;
        match self.align_corners {
            true => (coordinate + 1.0) / 2.0 * (n - 1.0),
            false => ((coordinate + 1.0) * n - 1.0) / 2.0,
        }
    }

    /// `x` folded back into what is mirrored there and back.
    fn reflect(&self, x: f64, size: usize) -> f64 {
        let (low, high) = match self.align_corners {
            true => (0.0, size as f64 - 1.0),
            false => (-0.5, size as f64 - 0.5),
        };
        let range = high - low;
        if range <= 0.0 {
            return 0.0;
        }
        let along = (x - low).abs() % (2.0 * range);
        low + if along > range { 2.0 * range - along } else { along }
    }

    /// Where a place that lies outside is read from.
    fn inside(&self, x: f64, size: usize) -> f64 {
        let last = size as f64 - 1.0;
        match self.outside {
            Outside::Zeros => x,
            Outside::Border => x.clamp(0.0, last),
            Outside::Reflection => self.reflect(x, size).clamp(0.0, last),
        }
    }

    /// The element at a whole place; `None` is a zero.
    fn index(&self, x: f64, size: usize) -> Option<usize> {
        let x = match self.outside {
            Outside::Zeros => x,
            Outside::Border => x.clamp(0.0, size as f64 - 1.0),
            Outside::Reflection => self.reflect(x, size).clamp(0.0, size as f64 - 1.0),
        };
        (x >= 0.0 && x < size as f64).then_some(x as usize)
    }

    /// The elements that make up the value at `coordinate`, and their weights.
    fn taps(&self, coordinate: f64, size: usize) -> Vec<(Option<usize>, f64)> {
        let x = self.place(coordinate, size);
        if !x.is_finite() {
            return vec![(None, 1.0)];
        }
        match self.sampling {
            Sampling::Nearest => {
                let nearest = self.inside(x, size).round_ties_even();
                vec![(self.index(nearest, size), 1.0)]
            }
            Sampling::Linear => {
                let x = self.inside(x, size);
                let (low, part) = (x.floor(), x - x.floor());
                vec![(self.index(low, size), 1.0 - part), (self.index(low + 1.0, size), part)]
            }
            Sampling::Cubic => {
                let (low, part) = (x.floor(), x - x.floor());
                let weight = |distance: f64| {
                    const A: f64 = -0.75;
                    let d = distance.abs();
                    match d <= 1.0 {
                        true => ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0,
                        false => ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A,
                    }
                };
                let tap = |k: f64| (self.index(low + k, size), weight(part - k));
                [-1.0, 0.0, 1.0, 2.0].map(tap).to_vec()
            }
        }
    }
}

impl Op for GridSample {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        let (Some(x), Some(grid)) = (cx.dims(0)?, cx.dims(1)?) else {
            return Ok(vec![ValueType::new(dtype, Shape::unknown())]);
        };
        if x.len() < 3 || grid.len() != x.len() {
            return error(format!("a grid of rank {} for data of rank {}", grid.len(), x.len()));
        }
        let mut dims = x[..2].to_vec();
        dims.extend_from_slice(&grid[1..grid.len() - 1]);
        Ok(vec![ValueType::new(dtype, dims)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, grid) = (inputs.get(0)?, inputs.get(1)?);
        let rank = x.dims.len();
        if rank < 3 || grid.dims.len() != rank || x.dims[0] != grid.dims[0] {
            return error(format!("a grid of sizes {:?} for data of {:?}", grid.dims, x.dims));
        }
        let sizes = &x.dims[2..];
        let n = sizes.len();
        if grid.dims[rank - 1] != n || (sizes.contains(&0) && !grid.is_empty()) {
            return error(format!("positions of {} numbers in {n} sizes", grid.dims[rank - 1]));
        }
        let (batch, channels) = (x.dims[0], x.dims[1]);
        let area: usize = sizes.iter().product();
        let points: usize = grid.dims[1..rank - 1].iter().product();
        let (data, grid_data) = (floats(&x)?, floats(&grid)?);
        let mut dims = x.dims[..2].to_vec();
        dims.extend_from_slice(&grid.dims[1..rank - 1]);
        let mut result = vec![0.0; batch * channels * points];
        for b in 0..batch {
            for p in 0..points {
                let position = &grid_data[(b * points + p) * n..][..n];
                // Every combination of one tap of each dimension: its place and weight.
                let mut all = vec![(Some(0), 1.0)];
                for (i, size) in sizes.iter().enumerate() {
                    let taps = self.taps(position[n - 1 - i], *size);
                    let join = |(at, weight): (Option<usize>, f64)| {
                        let step = move |(tap, w): &(Option<usize>, f64)| {
                            (
                                at.zip(*tap).map(|(at, tap): (usize, usize)| at * size + tap),
                                weight * w,
                            )
                        };
                        taps.iter().map(step).collect::<Vec<_>>()
                    };
                    all = all.into_iter().flat_map(join).collect();
                }
                for c in 0..channels {
                    let plane = &data[(b * channels + c) * area..][..area];
                    let value = all.iter().filter(|(_, w)| *w != 0.0);
                    result[(b * channels + c) * points + p] =
                        value.map(|(at, w)| at.map_or(0.0, |at| plane[at] * w)).sum();
                }
            }
        }
        write_floats(x.dtype, outputs.bytes(0, x.dtype, &dims)?, result.into_iter())
    }
}

/// The grid of positions of an affine map (ONNX `AffineGrid`): for the matrices of input 0,
/// [batch, n, n + 1], and the sizes of input 1, batch, channels, sizes…, a grid [batch, sizes…, n].
#[derive(Clone, Debug)]
pub struct AffineGrid {
    /// Whether ±1 are the centres of the corner elements, and not their outer edges.
    pub align_corners: bool,
}

impl Op for AffineGrid {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        let Some(sizes) = cx.ints(1)? else {
            let rank = cx.dims(1)?.and_then(|d| d.first()).and_then(Dim::fixed);
            let shape = rank.map_or_else(Shape::unknown, |r| cx.unknown_dims(r));
            return Ok(vec![ValueType::new(dtype, shape)]);
        };
        let dims = grid_dims(&sizes)?;
        Ok(vec![ValueType::new(dtype, dims.as_slice())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let theta = inputs.get(0)?;
        let dims = grid_dims(&inputs.get(1)?.ints()?)?;
        let n = dims.len() - 2;
        if theta.dims != [dims[0], n, n + 1] {
            return error(format!("matrices of sizes {:?} for a grid of {dims:?}", theta.dims));
        }
        let map = floats(&theta)?;
        let sizes = &dims[1..=n];
        let points: usize = sizes.iter().product();
        let mut result = Vec::with_capacity(dims.iter().product());
        for b in 0..dims[0] {
            let map = &map[b * n * (n + 1)..][..n * (n + 1)];
            for p in 0..points {
                // The last dimension's coordinate comes first.
                let mut rest = p;
                let mut at: Vec<f64> = Vec::with_capacity(n + 1);
                for size in sizes.iter().rev() {
                    let (i, size_f) = ((rest % size) as f64, *size as f64);
                    rest /= size;
                    at.push(match self.align_corners {
                        true if *size == 1 => -1.0,
                        true => -1.0 + 2.0 * i / (size_f - 1.0),
                        false => -1.0 + (2.0 * i + 1.0) / size_f,
                    });
                }
                at.push(1.0);
                let row = |row: &[f64]| row.iter().zip(&at).map(|(m, v)| m * v).sum::<f64>();
                result.extend(map.chunks_exact(n + 1).map(row));
            }
        }
        write_floats(theta.dtype, outputs.bytes(0, theta.dtype, &dims)?, result.into_iter())
    }
}

fn grid_dims(sizes: &[i64]) -> OpResult<Vec<usize>> {
    let (batch, spatial) = match sizes {
        [batch, _, spatial @ ..] if !spatial.is_empty() => (batch, spatial),
        other => return error(format!("a grid for sizes {other:?}")),
    };
    let n = spatial.len() as i64;
    let dims = std::iter::once(batch).chain(spatial).chain(std::iter::once(&n));
    let dims: Result<Vec<usize>, _> = dims.map(|d| usize::try_from(*d)).collect();
    dims.map_err(|_| OpError::new(format!("a grid for sizes {sizes:?}")))
}
