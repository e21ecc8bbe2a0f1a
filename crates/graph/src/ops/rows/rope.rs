//! Rotary position embedding (RoFormer, arXiv 2104.09864) of rows.

use super::{reals, row_numbers, typed};
use crate::number::Number;
use crate::ops::unary::Unary;
use crate::{
    DType, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, ValueType,
};

/// The cosines and sines of position × frequency. Inputs: positions, i32 [n]; frequencies, f32
/// [pairs], in radians a position. Outputs: cosines and sines, f32 [n, pairs], times `scale`.
#[derive(Clone, Copy, Debug)]
pub struct Angles {
    /// Factor on both (YaRN's attention factor, arXiv 2309.00071; else 1).
    pub scale: f32,
}

impl Op for Angles {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        row_numbers(cx, 0..1)?;
        let n = typed(cx, 0, DType::I32, 1)?[0].clone();
        let (dtype, frequencies) = reals(cx, 1, 1)?;
        let ty = ValueType::new(dtype, vec![n, frequencies[0].clone()]);
        Ok(vec![ty.clone(), ty])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (positions, frequencies) = (inputs.slice::<i32>(0)?, inputs.get(1)?);
        let dims = [positions.len(), frequencies.len()];
        let scale = f64::from(self.scale);
        crate::dispatch!(frequencies.dtype, T in [F64 f64, F32 f32] => {
            let frequencies = frequencies.slice::<T>()?;
            let (cos, sin) = outputs.pair::<T, T>(0, &dims, &dims)?;
            for (i, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
                let position = f64::from(positions[i / frequencies.len()]);
                let angle = position * frequencies[i % frequencies.len()].to_f64();
                *cos = T::of_f64(angle.cos() * scale);
                *sin = T::of_f64(angle.sin() * scale);
            }
            Ok(())
        }, else => Err(OpError::new(format!("takes f32, was given {}", frequencies.dtype))))
    }
}

/// Rotates pairs of elements of each head by a row's angles. Inputs: x, f32 [n, heads × size];
/// cosines and sines, f32 [n, pairs]; or all f64. Of each head the first 2 × pairs elements from `start` on
/// rotate.
#[derive(Clone, Copy, Debug)]
pub struct Rotate {
    /// Elements of a head.
    pub size: usize,
    /// The first element that rotates.
    pub start: usize,
    /// Whether a pair is two neighbours, and not an element of each half.
    pub interleaved: bool,
}

impl Op for Rotate {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (dtype, x) = reals(cx, 0, 2)?;
        let (cos, sin) = (typed(cx, 1, dtype, 2)?, typed(cx, 2, dtype, 2)?);
        if let Some(width) = x[1].fixed()
            && (self.size == 0 || width % self.size != 0)
        {
            return Err(OpError::new(format!("{width} elements are no heads of {}", self.size)));
        }
        match (cos[1].fixed(), sin[1].fixed()) {
            (Some(c), Some(s)) if c != s || self.start + 2 * c > self.size => {
                let m = format!("{c} pairs from element {} of heads of {}", self.start, self.size);
                Err(OpError::new(m))
            }
            _ => Ok(vec![ValueType::new(dtype, x.to_vec())]),
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, cos) = (inputs.get(0)?, inputs.get(1)?);
        let ([n, width], [rows, pairs]) = (x.dims, cos.dims) else {
            return Err(OpError::new("takes x [n, heads × size] and angles [n, pairs]"));
        };
        if n != rows || self.start + 2 * pairs > self.size {
            return Err(OpError::new(format!("{rows} rows of {pairs} angles for {n} rows")));
        }
        crate::dispatch!(x.dtype, T in [F64 f64, F32 f32] => {
            let (cos, sin) = (cos.slice::<T>()?, inputs.slice::<T>(2)?);
            let out = outputs.slice::<T>(0, &[*n, *width])?;
            out.copy_from_slice(x.slice()?);
            for (row, out) in out.chunks_exact_mut((*width).max(1)).enumerate() {
                let (cos, sin) = (&cos[row * pairs..][..*pairs], &sin[row * pairs..][..*pairs]);
                for head in out.chunks_exact_mut(self.size) {
                    let part = &mut head[self.start..];
                    for (p, (c, s)) in cos.iter().zip(sin).enumerate() {
                        let at = if self.interleaved { [2 * p, 2 * p + 1] } else { [p, p + pairs] };
                        let [a, b] = at.map(|i| part[i]);
                        part[at[0]] = a * c - b * s;
                        part[at[1]] = a * s + b * c;
                    }
                }
            }
            Ok(())
        }, else => Err(OpError::new(format!("takes f32, was given {}", x.dtype))))
    }

    /// Turns back.
    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (cos, sin, dy) = (g.input(1)?, g.input(2)?, g.of_first()?);
        if g.wants(1) || g.wants(2) {
            return Err(OpError::new("has no gradient rule for its angles"));
        }
        let back = g.apply(Unary::Neg, &[sin])?;
        let dx = g.apply(*self, &[dy, cos, back])?;
        Ok(g.first_only(Some(dx)))
    }
}

impl Rotate {
    /// Frequencies base^(−2i / rotated) of `rotated` / 2 pairs, each divided by its factor where
    /// there are some.
    pub fn frequencies(rotated: usize, base: f32, factors: Option<&[f32]>) -> Vec<f32> {
        (0..rotated / 2)
            .map(|i| {
                let exponent = -2.0 * i as f64 / rotated as f64;
                let factor = factors.and_then(|f| f.get(i)).map_or(1.0, |f| f64::from(*f));
                (f64::from(base).powf(exponent) / factor) as f32
            })
            .collect()
    }
}
