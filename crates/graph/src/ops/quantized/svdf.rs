//! SVDF: a dense layer over time, factored in two: TFLite's `SVDF`.
//!
//! Each of `units × rank` filters projects the input on one number and keeps the last `memory`
//! of them; a filter's output is their weighted sum, a unit's that of its filters.

use super::hybrid::Dynamic;
use super::matmul::Bias;
use super::{Clamp, centred, multiplier, quantized_input, single, store, stored};
use crate::ops::activation::Activation;
use crate::{Cost, DType, Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};
use kinglet_kernels::fixed::Multiplier;

/// SVDF of floats. Inputs: x (batch, features), feature weights (filters, features), time weights
/// (filters, memory), bias? (units), state (batch, filters × memory). Outputs: y (batch, units),
/// next state. The weights may be int8 with one scale, the rest floats: then x is quantised row by
/// row, symmetrically unless `asymmetric`.
#[derive(Clone, Debug, PartialEq)]
pub struct Svdf {
    /// Filters of one unit.
    pub rank: usize,
    /// Applied to y.
    pub activation: Activation,
    /// Quantise x with a zero point, where the weights are integers.
    pub asymmetric: bool,
}

/// SVDF of int8 x, y and feature weights; int16 or int8 state and time weights; int32 bias.
#[derive(Clone, Debug, PartialEq)]
pub struct QSvdf {
    /// Filters of one unit.
    pub rank: usize,
    /// Limits of the stored result.
    pub clamp: Clamp,
}

/// Sizes of an SVDF, checked.
struct Sizes {
    batch: usize,
    features: usize,
    filters: usize,
    memory: usize,
    units: usize,
    rank: usize,
}

impl Sizes {
    fn of(inputs: &Inputs<'_>, rank: usize) -> OpResult<Sizes> {
        let dims = |i: usize| inputs.get(i).map(|v| v.dims);
        match (dims(0)?, dims(1)?, dims(2)?, dims(4)?) {
            (&[batch, features], &[filters, f2], &[filters2, memory], &[b2, state])
                if features == f2
                    && filters == filters2
                    && batch == b2
                    && filters.checked_mul(memory) == Some(state)
                    && memory > 0
                    && rank > 0
                    && filters.is_multiple_of(rank) =>
            {
                Ok(Sizes { batch, features, filters, memory, units: filters / rank, rank })
            }
            other => {
                Err(OpError::new(format!("sizes {other:?} do not fit an SVDF of rank {rank}")))
            }
        }
    }
}

fn shapes(cx: &InferCx<'_>, rank: usize, dtype: DType) -> OpResult<Vec<ValueType>> {
    let (x, weights, state) = (cx.ty(0)?, cx.ty(1)?, cx.ty(4)?);
    if rank == 0 {
        return Err(OpError::new("an SVDF of rank 0"));
    }
    let y = match (x.shape.dims(), weights.shape.dims()) {
        (Some([batch, _]), Some([filters, _])) => {
            Shape::new(vec![batch.clone(), filters.floor_div(&Dim::from(rank))])
        }
        (None, _) | (_, None) => Shape::unknown(),
        _ => return Err(OpError::new(format!("an SVDF of {x} and {weights}"))),
    };
    Ok(vec![ValueType::new(dtype, y), state.clone()])
}

fn cost(inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
    let size = |i: usize| inputs.get(i).copied().flatten().and_then(|ty| ty.shape.fixed());
    let batch = size(0).and_then(|d| d.first().copied()).unwrap_or(0);
    let weights: usize =
        [1, 2].into_iter().filter_map(size).map(|d| d.iter().product::<usize>()).sum();
    Cost::traffic(inputs, outputs).with_macs((batch as u64).saturating_mul(weights as u64))
}

impl Op for Svdf {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let mut types = shapes(cx, self.rank, DType::F32)?;
        if cx.dtype(0)? != DType::F32 || cx.dtype(4)? != DType::F32 {
            return Err(OpError::new(format!("an SVDF of {} is not supported", cx.ty(0)?)));
        }
        for i in [1, 2] {
            let ty = cx.ty(i)?;
            let one_scale =
                ty.quant.as_deref().is_some_and(|q| q.single().is_some_and(|(_, z)| z == 0));
            if ty.dtype != DType::F32 && !(ty.dtype == DType::I8 && one_scale) {
                return Err(OpError::new(format!("weights {ty} of an SVDF are not supported")));
            }
        }
        types[1].quant = None;
        Ok(types)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let s = Sizes::of(inputs, self.rank)?;
        let x: &[f32] = inputs.slice(0)?;
        let time = floats(inputs, 2)?;
        let bias = inputs.opt(3).map(|b| b.slice::<f32>()).transpose()?;
        if bias.is_some_and(|b| b.len() != s.units) {
            return Err(OpError::new("its bias is not one number a unit"));
        }
        let mut state = inputs.slice::<f32>(4)?.to_vec();
        let mut y = vec![0f32; s.batch * s.units];
        for b in 0..s.batch {
            let new = self.features(inputs, &x[b * s.features..][..s.features], s.filters)?;
            for f in 0..s.filters {
                let memory = &mut state[(b * s.filters + f) * s.memory..][..s.memory];
                memory.rotate_left(1);
                memory[s.memory - 1] = new[f];
                let weights = &time[f * s.memory..][..s.memory];
                let sum: f64 = memory.iter().zip(weights).map(|(m, w)| f64::from(m * w)).sum();
                y[b * s.units + f / s.rank] += sum as f32;
            }
        }
        for (i, y) in y.iter_mut().enumerate() {
            let sum = *y + bias.map_or(0.0, |b| b[i % s.units]);
            *y = self.activation.at(f64::from(sum)) as f32;
        }
        outputs.slice::<f32>(0, &[s.batch, s.units])?.copy_from_slice(&y);
        outputs.slice::<f32>(1, &[s.batch, s.filters * s.memory])?.copy_from_slice(&state);
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        cost(inputs, outputs)
    }
}

/// Input `i` as floats: as they are, or stored integers times their scale.
fn floats(inputs: &Inputs<'_>, i: usize) -> OpResult<Vec<f32>> {
    let view = inputs.get(i)?;
    if view.dtype == DType::F32 {
        return Ok(view.slice::<f32>()?.to_vec());
    }
    let (scale, _) = single(inputs.quant(i)?)?;
    Ok(centred(&view)?.into_iter().map(|v| v as f32 * scale).collect())
}

impl Svdf {
    /// The projections of one row on all filters.
    fn features(&self, inputs: &Inputs<'_>, x: &[f32], filters: usize) -> OpResult<Vec<f32>> {
        let weights = inputs.get(1)?;
        if weights.dtype == DType::F32 {
            let w: &[f32] = weights.slice()?;
            let dot = |f: usize| {
                let row = &w[f * x.len()..][..x.len()];
                row.iter().zip(x).map(|(w, x)| f64::from(w * x)).sum::<f64>() as f32
            };
            return Ok((0..filters).map(dot).collect());
        }
        let (scale, _) = single(inputs.quant(1)?)?;
        let w = stored(&weights)?;
        let x = Dynamic::of(x, self.asymmetric);
        let n = x.values.len();
        let dot = |f: usize| {
            let pairs = w[f * n..][..n].iter().zip(&x.values);
            let sum = pairs.fold(0i32, |s, (w, v)| s.wrapping_add(w.wrapping_mul(v - x.zero)));
            sum as f32 * (scale * x.scale)
        };
        Ok((0..filters).map(dot).collect())
    }
}

impl QSvdf {
    /// The factors from products with the feature weights to the memory, and from products with
    /// the time weights to the output; of the scales of x, both weights, the memory and the
    /// output.
    ///
    /// # Errors
    /// For scales that give a factor too large.
    pub fn factors(&self, [x, features, time, memory, out]: [f32; 5]) -> OpResult<[Multiplier; 2]> {
        Ok([
            multiplier(f64::from(x * features / memory))?,
            multiplier(f64::from(memory * time / out))?,
        ])
    }
}

impl Op for QSvdf {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let x = quantized_input(cx, 0)?;
        for i in [1, 2, 4] {
            Clamp::of(quantized_input(cx, i)?.dtype)?;
        }
        shapes(cx, self.rank, x.dtype)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let s = Sizes::of(inputs, self.rank)?;
        let scale = |i: usize| -> OpResult<f32> { Ok(single(inputs.quant(i)?)?.0) };
        let (out_scale, out_zero) = single(outputs.quant(0)?)?;
        let scales = [scale(0)?, scale(1)?, scale(2)?, scale(4)?, out_scale];
        let [feature_scale, time_scale] = self.factors(scales)?;
        let (x, weights, time) =
            (centred(&inputs.get(0)?)?, stored(&inputs.get(1)?)?, stored(&inputs.get(2)?)?);
        let memory_view = inputs.get(4)?;
        let limits = Clamp::of(memory_view.dtype)?;
        let mut state = stored(&memory_view)?;
        let bias = Bias::of(inputs.opt(3), s.units)?;
        let mut sums: Vec<i32> =
            (0..s.batch * s.units).map(|i| bias.at(i % s.units) as i32).collect();
        for b in 0..s.batch {
            let x = &x[b * s.features..][..s.features];
            for f in 0..s.filters {
                let row = weights[f * s.features..][..s.features].iter();
                let dot = row.zip(x).fold(0i32, |sum, (w, x)| sum.wrapping_add(w.wrapping_mul(*x)));
                let memory = &mut state[(b * s.filters + f) * s.memory..][..s.memory];
                memory.rotate_left(1);
                memory[s.memory - 1] = limits.apply(feature_scale.apply(dot));
                let pairs = memory.iter().zip(&time[f * s.memory..][..s.memory]);
                let sum = &mut sums[b * s.units + f / s.rank];
                *sum = pairs.fold(*sum, |sum, (m, w)| sum.wrapping_add(m.wrapping_mul(*w)));
            }
        }
        for sum in &mut sums {
            *sum = self.clamp.apply(time_scale.apply(*sum).saturating_add(out_zero));
        }
        store(outputs, 0, inputs.get(0)?.dtype, &[s.batch, s.units], &sums)?;
        store(outputs, 1, memory_view.dtype, memory_view.dims, &state)
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        cost(inputs, outputs)
    }
}
