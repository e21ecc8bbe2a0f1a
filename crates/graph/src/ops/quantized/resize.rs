//! Bilinear resizing in integers.

use super::{quantized_input, store, stored};
use crate::{DType, Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType};

/// Bilinear resizing of an [n, h, w, c] int8, uint8 or int16 tensor; the output has the input's
/// quantisation. Signed types interpolate with 10-bit fixed-point coordinates, uint8 in floats
/// (TFLite's reference kernels).
#[derive(Clone, Debug)]
pub struct QResizeBilinear {
    /// Height and width of the output.
    pub size: [usize; 2],
    /// The corners' pixels fall together.
    pub align_corners: bool,
    /// Pixels are points in the middle of their squares.
    pub half_pixel: bool,
}

impl Op for QResizeBilinear {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = quantized_input(cx, 0)?;
        let [height, width] = self.size.map(Dim::from);
        match ty.shape.dims() {
            Some([n, _, _, c]) => {
                Ok(vec![ValueType::new(ty.dtype, vec![n.clone(), height, width, c.clone()])])
            }
            None => Ok(vec![ValueType::new(
                ty.dtype,
                vec![cx.unknown_dim(), height, width, cx.unknown_dim()],
            )]),
            Some(_) => Err(OpError::new(format!("resizes four dimensions, found {ty}"))),
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let view = inputs.get(0)?;
        let &[batches, height, width, depth] = view.dims else {
            return Err(OpError::new("resizes four dimensions"));
        };
        let [out_height, out_width] = self.size;
        if height == 0 || width == 0 {
            return Err(OpError::new("can't resize an image without pixels"));
        }
        let values = stored(&view)?;
        let rows: Vec<Tap> = (0..out_height).map(|y| self.tap(y, height, out_height)).collect();
        let columns: Vec<Tap> = (0..out_width).map(|x| self.tap(x, width, out_width)).collect();
        let mut result = Vec::new();
        for n in 0..batches {
            let at =
                |y: usize, x: usize| &values[((n * height + y) * width + x) * depth..][..depth];
            for y in &rows {
                for x in &columns {
                    let corners = [
                        at(y.low, x.low),
                        at(y.high, x.low),
                        at(y.low, x.high),
                        at(y.high, x.high),
                    ];
                    for c in 0..depth {
                        let corners = corners.map(|corner| corner[c]);
                        result.push(match view.dtype {
                            DType::U8 => blend_float(corners, y.real, x.real),
                            _ => blend_fixed(corners, y.fixed, x.fixed),
                        });
                    }
                }
            }
        }
        store(outputs, 0, view.dtype, &[batches, out_height, out_width, depth], &result)
    }
}

/// The two source positions of an output position, and how far it lies from the first.
struct Tap {
    low: usize,
    high: usize,
    /// In 1/1024; may lie outside 0 to 1024 at the borders.
    fixed: i64,
    real: f32,
}

impl QResizeBilinear {
    fn tap(&self, at: usize, input: usize, output: usize) -> Tap {
        let (i, o, v) = (input as i64, output as i64, at as i64);
        let scale = match self.align_corners && output > 1 {
            true => ((i - 1) * 1024 + (o - 1) / 2) / (o - 1),
            false => (i * 1024 + o / 2) / o,
        };
        let position = if self.half_pixel { v * scale + scale / 2 - 512 } else { v * scale };
        let real_scale = match self.align_corners && output > 1 {
            true => (input - 1) as f32 / (output - 1) as f32,
            false => input as f32 / output as f32,
        };
        let real = match self.half_pixel {
            true => (at as f32 + 0.5) * real_scale - 0.5,
            false => at as f32 * real_scale,
        };
        let fixed_low = position.div_euclid(1024).clamp(0, i - 1);
        let real_low = (real.floor() as i64).clamp(0, i - 1);
        Tap {
            low: fixed_low as usize,
            high: ((position / 1024 + 1).clamp(0, i - 1)) as usize,
            fixed: position - fixed_low * 1024,
            real: real - real_low as f32,
        }
    }
}

/// Corners in the order (low y, low x), (high y, low x), (low y, high x), (high y, high x).
fn blend_fixed([ll, hl, lh, hh]: [i32; 4], y: i64, x: i64) -> i32 {
    let sum = i64::from(ll) * (1024 - y) * (1024 - x)
        + i64::from(hl) * y * (1024 - x)
        + i64::from(lh) * (1024 - y) * x
        + i64::from(hh) * y * x;
    let half = if sum > 0 { 1 << 19 } else { -(1 << 19) };
    ((sum + half) / (1 << 20)) as i32
}

fn blend_float([ll, hl, lh, hh]: [i32; 4], y: f32, x: f32) -> i32 {
    let [ll, hl, lh, hh] = [ll, hl, lh, hh].map(|v| v as f32);
    let value = ll * (1.0 - y) * (1.0 - x) + hl * y * (1.0 - x) + lh * (1.0 - y) * x + hh * y * x;
    (value + 0.5) as i32
}
