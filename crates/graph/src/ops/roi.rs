//! Regions of interest cut out of images.

use super::movement::{Indices, fail};
use crate::number::Number;
use crate::op::OpResult;
use crate::{Dim, InferCx, Inputs, Op, Outputs, Shape, ValueType};

/// Inputs: images `[batch, channels, height, width]`, regions `[n, 4]` (x, y, x, y, of the
/// images' type), batch index of each region (i64). Output `[n, channels, rows, columns]`: samples
/// between the elements, pooled (ONNX `RoiAlign`; He et al. 2017).
#[derive(Clone, Debug)]
pub struct RoiAlign {
    /// Rows of the output.
    pub rows: usize,
    /// Columns of the output.
    pub columns: usize,
    /// Samples along each side of a cell; 0: as many as the elements that it spans.
    pub sampling_ratio: usize,
    /// What the regions' coordinates are multiplied by.
    pub spatial_scale: f32,
    /// Whether elements lie at half coordinates (opset 16 and newer, by default).
    pub half_pixel: bool,
    /// Whether the largest of the weighted neighbours counts, and not the mean of the samples.
    pub max: bool,
}

/// Places and weights of the four neighbours of a sample.
type Neighbours = [(usize, f64); 4];

/// Bilinear weights at (y, x); `None` outside the image.
fn neighbours(y: f64, x: f64, height: usize, width: usize) -> Option<Neighbours> {
    let outside = |at: f64, size: usize| !(-1.0..=size as f64).contains(&at);
    if height == 0 || width == 0 || outside(y, height) || outside(x, width) {
        return None;
    }
    let between = |at: f64, size: usize| {
        let at = at.max(0.0);
        let low = at as usize;
        if low >= size - 1 { (size - 1, size - 1, 0.0) } else { (low, low + 1, at - low as f64) }
    };
    let (y0, y1, dy) = between(y, height);
    let (x0, x1, dx) = between(x, width);
    Some([
        (y0 * width + x0, (1.0 - dy) * (1.0 - dx)),
        (y0 * width + x1, (1.0 - dy) * dx),
        (y1 * width + x0, dy * (1.0 - dx)),
        (y1 * width + x1, dy * dx),
    ])
}

impl RoiAlign {
    /// One element of the output: cell `cell` of a region that starts at `start` and has cells of
    /// these sizes (y, x).
    fn pool<T: Number>(
        &self,
        plane: &[T],
        (height, width): (usize, usize),
        start: [f64; 2],
        size: [f64; 2],
        cell: [usize; 2],
        grid: [usize; 2],
    ) -> T {
        let (mut sum, mut most) = (0.0, None::<f64>);
        for iy in 0..grid[0] {
            for ix in 0..grid[1] {
                let at = |d: usize, i: usize| {
                    start[d] + size[d] * (cell[d] as f64 + (i as f64 + 0.5) / grid[d] as f64)
                };
                let weighted = neighbours(at(0, iy), at(1, ix), height, width)
                    .map(|all| all.map(|(i, w)| w * plane[i].to_f64()))
                    .unwrap_or([0.0; 4]);
                sum += weighted.iter().sum::<f64>();
                let largest = weighted.into_iter().fold(f64::NEG_INFINITY, f64::max);
                most = Some(most.map_or(largest, |m| m.max(largest)));
            }
        }
        let samples = (grid[0] * grid[1]).max(1) as f64;
        T::of_f64(if self.max { most.unwrap_or(0.0) } else { sum / samples })
    }
}

impl Op for RoiAlign {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let channels = match ty.shape.dims() {
            Some([_, c, _, _]) => c.clone(),
            Some(_) => return fail(format!("{ty} is no batch of images")),
            None => cx.unknown_dim(),
        };
        let regions = cx.dims(1)?.or(cx.dims(2)?).and_then(|d| d.first().cloned());
        let dims = vec![
            regions.unwrap_or_else(|| cx.unknown_dim()),
            channels,
            Dim::from(self.rows),
            Dim::from(self.columns),
        ];
        Ok(vec![ValueType::new(ty.dtype, Shape::new(dims))])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (images, regions, batches) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        let ([batch, channels, height, width], [n, 4]) = (images.dims, regions.dims) else {
            return fail(format!("regions {:?} of images {:?}", regions.dims, images.dims));
        };
        if batches.dims != [*n] {
            return fail(format!("{:?} batch indices for {n} regions", batches.dims));
        }
        let indices = Indices::of(&batches)?;
        let dims = [*n, *channels, self.rows, self.columns];
        crate::dispatch_float!(images.dtype, T => {
            let (data, corners) = (images.slice::<T>()?, regions.slice::<T>()?);
            let out = outputs.slice::<T>(0, &dims)?;
            let mut cells = out.iter_mut();
            for r in 0..*n {
                let item = indices.at(r, *batch)?;
                let shift = if self.half_pixel { 0.5 } else { 0.0 };
                let place = |k: usize| {
                    corners[r * 4 + k].to_f64() * f64::from(self.spatial_scale) - shift
                };
                let start = [place(1), place(0)];
                let mut size = [place(3) - start[0], place(2) - start[1]];
                if !self.half_pixel {
                    size = size.map(|s| s.max(1.0));
                }
                size = [size[0] / self.rows as f64, size[1] / self.columns as f64];
                let limits = [*height, *width];
                let mut grid = [self.sampling_ratio; 2];
                if self.sampling_ratio == 0 {
                    // Cells much larger than the image have no more samples in it.
                    for d in 0..2 {
                        let most = (16 * limits[d] + 16) as f64;
                        if size[d].is_nan() || size[d] > most {
                            return fail(format!("region {r} is far larger than the image"));
                        }
                        grid[d] = size[d].ceil().max(0.0) as usize;
                    }
                }
                for c in 0..*channels {
                    let plane = &data[(item * channels + c) * height * width..][..height * width];
                    for row in 0..self.rows {
                        for column in 0..self.columns {
                            if let Some(cell) = cells.next() {
                                let at = [row, column];
                                *cell = self.pool(plane, (*height, *width), start, size, at, grid);
                            }
                        }
                    }
                }
            }
            Ok(())
        }, else => fail(format!("{} images", images.dtype)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, t};
    use super::*;

    #[test]
    fn cells_are_means_or_maxima_of_samples() {
        let x = t(&[1, 1, 3, 3], &[0f32, 1., 2., 3., 4., 5., 6., 7., 8.]);
        let op = RoiAlign {
            rows: 1,
            columns: 1,
            sampling_ratio: 1,
            spatial_scale: 0.5,
            half_pixel: false,
            max: false,
        };
        // The centre (1, 1.5) of a region in halves.
        let region = t(&[1, 4], &[2f32, 0., 4., 4.]);
        check(&op, &[&x, &region, &i(&[0])], &[1, 1, 1, 1], &[4.5f32]);
        let max = RoiAlign { max: true, ..op.clone() };
        check(&max, &[&x, &region, &i(&[0])], &[1, 1, 1, 1], &[2.5f32]);
        let half = RoiAlign { half_pixel: true, sampling_ratio: 2, ..op.clone() };
        check(&half, &[&x, &region, &i(&[0])], &[1, 1, 1, 1], &[2.5f32]);
        assert!(error(&op, &[&x, &region, &i(&[1])]).contains("index 1"));
        assert!(error(&op, &[&x, &region, &i(&[0, 0])]).contains("batch indices"));
        let far = t(&[1, 4], &[0f32, 0., 1e30, 1.]);
        let dense = RoiAlign { sampling_ratio: 0, ..op };
        assert!(error(&dense, &[&x, &far, &i(&[0])]).contains("larger"));
    }
}
