//! Recurrent nets of floats whose matrices may be stored integers (TFLite's hybrid ones).

use super::hybrid::Dynamic;
use super::{centred, single, stored};
use crate::ops::rnn::SequenceLstm;
use crate::ops::unary::Unary;
use crate::{DType, Dims, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};

/// A matrix of floats, or of int8 with one scale.
enum Matrix<'a> {
    Float(&'a [f32], usize),
    Stored(Vec<i32>, usize, f32),
}

impl<'a> Matrix<'a> {
    fn read(inputs: &Inputs<'a>, at: usize, sizes: [usize; 2]) -> OpResult<Matrix<'a>> {
        let view = inputs.get(at)?;
        if view.dims != sizes {
            return Err(OpError::new(format!(
                "input {at} has sizes {:?}, not {sizes:?}",
                view.dims
            )));
        }
        match view.dtype {
            DType::F32 => Ok(Matrix::Float(view.slice()?, sizes[1])),
            DType::I8 => {
                let (scale, zero) = single(inputs.quant(at)?)?;
                if zero != 0 {
                    return Err(OpError::new(
                        "weights with a zero point other than 0 are not supported",
                    ));
                }
                Ok(Matrix::Stored(stored(&view)?, sizes[1], scale))
            }
            other => Err(OpError::new(format!("weights of {other} are not supported"))),
        }
    }

    /// Adds the product with `x` to `sums`. A stored matrix meets `x` quantised.
    fn add(&self, x: &[f32], asymmetric: bool, sums: &mut [f32]) {
        match self {
            Matrix::Float(weights, columns) => {
                for (sum, row) in sums.iter_mut().zip(weights.chunks((*columns).max(1))) {
                    *sum += row.iter().zip(x).map(|(w, x)| f64::from(w * x)).sum::<f64>() as f32;
                }
            }
            Matrix::Stored(weights, columns, scale) => {
                let x = Dynamic::of(x, asymmetric);
                for (sum, row) in sums.iter_mut().zip(weights.chunks((*columns).max(1))) {
                    let pairs = row.iter().zip(&x.values);
                    let dot =
                        pairs.fold(0i32, |s, (w, v)| s.wrapping_add(w.wrapping_mul(v - x.zero)));
                    *sum += dot as f32 * (scale * x.scale);
                }
            }
        }
    }
}

/// A vector of floats, or of stored integers as floats; `None` where it is left out.
fn vector(inputs: &Inputs<'_>, at: usize, len: usize) -> OpResult<Option<Vec<f32>>> {
    let Some(view) = inputs.opt(at) else { return Ok(None) };
    if view.len() != len {
        return Err(OpError::new(format!("input {at} holds {} numbers, not {len}", view.len())));
    }
    if view.dtype == DType::F32 {
        return view.slice::<f32>().map(|v| Some(v.to_vec()));
    }
    let (scale, _) = single(inputs.quant(at)?)?;
    Ok(Some(centred(&view)?.into_iter().map(|v| v as f32 * scale).collect()))
}

/// Sizes of x (batch, steps, features) and where a vector of it stands.
struct Walk {
    batch: usize,
    steps: usize,
    features: usize,
    time_major: bool,
}

impl Walk {
    fn of(dims: &[usize], time_major: bool) -> OpResult<Walk> {
        let &[a, b, features] = dims else {
            return Err(OpError::new(format!("x has sizes {dims:?}, not three dimensions")));
        };
        let (batch, steps) = if time_major { (b, a) } else { (a, b) };
        Ok(Walk { batch, steps, features, time_major })
    }

    fn at(&self, b: usize, t: usize) -> usize {
        if self.time_major { t * self.batch + b } else { b * self.steps + t }
    }

    fn out(&self, width: usize) -> Dims {
        let (a, b) =
            if self.time_major { (self.steps, self.batch) } else { (self.batch, self.steps) };
        [a, b, width].as_slice().into()
    }
}

fn sequence_type(cx: &InferCx<'_>, state: usize) -> OpResult<ValueType> {
    let (x, h) = (cx.ty(0)?, cx.ty(state)?);
    if x.dtype != DType::F32 || h.dtype != DType::F32 {
        return Err(OpError::new(format!(
            "a recurrent net of {x} with state {h} is not supported"
        )));
    }
    let shape = match (x.shape.dims(), h.shape.dims()) {
        (Some([a, b, _]), Some([_, width])) => {
            Shape::new(vec![a.clone(), b.clone(), width.clone()])
        }
        (None, _) | (_, None) => Shape::unknown(),
        _ => return Err(OpError::new(format!("a recurrent net over {x} with state {h}"))),
    };
    Ok(ValueType::new(DType::F32, shape))
}

/// H' = f(W x + R H + bias) over sequences: TFLite's `UNIDIRECTIONAL_SEQUENCE_RNN`. Inputs: x
/// (batch, steps, features), W (units, features), R (units, units), bias (units), H (batch,
/// units). Outputs: all H, the last H.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceRnn {
    /// f.
    pub activation: Unary,
    /// x is (steps, batch, features); the output likewise.
    pub time_major: bool,
    /// Quantise vectors with a zero point, where W and R are int8.
    pub asymmetric: bool,
}

impl Op for SequenceRnn {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![sequence_type(cx, 4)?, ValueType::new(DType::F32, cx.ty(4)?.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, state) = (inputs.get(0)?, inputs.get(4)?);
        let walk = Walk::of(x.dims, self.time_major)?;
        let &[batch, units] = state.dims else {
            return Err(OpError::new("its state has two dimensions"));
        };
        if batch != walk.batch {
            return Err(OpError::new(format!(
                "its state is for {batch} sequences, x has {}",
                walk.batch
            )));
        }
        let w = Matrix::read(inputs, 1, [units, walk.features])?;
        let r = Matrix::read(inputs, 2, [units, units])?;
        let bias = vector(inputs, 3, units)?.unwrap_or_else(|| vec![0.0; units]);
        let reals: &[f32] = x.slice()?;
        let mut h = state.slice::<f32>()?.to_vec();
        let mut y = vec![0f32; walk.batch * walk.steps * units];
        for t in 0..walk.steps {
            for b in 0..walk.batch {
                let at = walk.at(b, t);
                let h = &mut h[b * units..][..units];
                let mut sums = bias.clone();
                w.add(&reals[at * walk.features..][..walk.features], self.asymmetric, &mut sums);
                r.add(h, self.asymmetric, &mut sums);
                for (h, sum) in h.iter_mut().zip(sums) {
                    *h = self.activation.at(sum.into()) as f32;
                }
                y[at * units..][..units].copy_from_slice(h);
            }
        }
        outputs.slice::<f32>(0, &walk.out(units))?.copy_from_slice(&y);
        outputs.slice::<f32>(1, state.dims)?.copy_from_slice(&h);
        Ok(())
    }
}

/// [`SequenceLstm`] whose matrices and peepholes are int8: vectors are quantised as they come.
#[derive(Clone, Debug, PartialEq)]
pub struct HybridLstm {
    /// The net.
    pub lstm: SequenceLstm,
    /// Quantise vectors with a zero point.
    pub asymmetric: bool,
}

/// Places of the inputs; those of gates come as input, forget, cell, output.
mod place {
    pub const W: usize = 1;
    pub const R: usize = 5;
    pub const PEEPHOLE: [Option<usize>; 4] = [Some(9), Some(10), None, Some(11)];
    pub const BIAS: usize = 12;
    pub const PROJECTION: usize = 16;
    pub const PROJECTION_BIAS: usize = 17;
    pub const H: usize = 18;
    pub const C: usize = 19;
    pub const NORM: usize = 20;
}

struct Gate<'a> {
    w: Matrix<'a>,
    r: Matrix<'a>,
    peephole: Option<Vec<f32>>,
    bias: Vec<f32>,
    norm: Option<Vec<f32>>,
}

impl Gate<'_> {
    fn at(&self, x: &[f32], h: &[f32], c: &[f32], asymmetric: bool, activation: Unary) -> Vec<f32> {
        let mut sums = match self.norm {
            Some(_) => vec![0.0; self.bias.len()],
            None => self.bias.clone(),
        };
        self.w.add(x, asymmetric, &mut sums);
        self.r.add(h, asymmetric, &mut sums);
        if let Some(weights) = &self.peephole {
            for ((sum, w), c) in sums.iter_mut().zip(weights).zip(c) {
                *sum += w * c;
            }
        }
        if let Some(coefficients) = &self.norm {
            let n = sums.len().max(1) as f32;
            let mean = sums.iter().sum::<f32>() / n;
            let variance = sums.iter().map(|s| (s - mean) * (s - mean)).sum::<f32>() / n;
            let inverse = 1.0 / (variance + 1e-8).sqrt();
            for ((sum, w), b) in sums.iter_mut().zip(coefficients).zip(&self.bias) {
                *sum = (*sum - mean) * inverse * w + b;
            }
        }
        sums.into_iter().map(|s| activation.at(s.into()) as f32).collect()
    }
}

impl Op for HybridLstm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let y = sequence_type(cx, place::H)?;
        let state = |i: usize| Ok(ValueType::new(DType::F32, cx.ty(i)?.shape.clone()));
        Ok(vec![y, state(place::H)?, state(place::C)?])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, hv, cv) = (inputs.get(0)?, inputs.get(place::H)?, inputs.get(place::C)?);
        let walk = Walk::of(x.dims, self.lstm.time_major)?;
        let (&[hb, width], &[cb, units]) = (hv.dims, cv.dims) else {
            return Err(OpError::new("its state has two dimensions"));
        };
        if hb != walk.batch || cb != walk.batch {
            return Err(OpError::new(format!(
                "its state is for {hb} sequences, x has {}",
                walk.batch
            )));
        }
        let gate = |i: usize| -> OpResult<Gate<'_>> {
            let bias = vector(inputs, place::BIAS + i, units)?;
            Ok(Gate {
                w: Matrix::read(inputs, place::W + i, [units, walk.features])?,
                r: Matrix::read(inputs, place::R + i, [units, width])?,
                peephole: place::PEEPHOLE[i].map_or(Ok(None), |at| vector(inputs, at, units))?,
                bias: bias.ok_or_else(|| OpError::new("a bias is missing"))?,
                norm: vector(inputs, place::NORM + i, units)?,
            })
        };
        let input = inputs.opt(place::W).map(|_| gate(0)).transpose()?;
        let (forget, cell, output) = (gate(1)?, gate(2)?, gate(3)?);
        let projection = match inputs.opt(place::PROJECTION) {
            Some(_) => Some(Matrix::read(inputs, place::PROJECTION, [width, units])?),
            None if width == units => None,
            None => return Err(OpError::new("its state and its cell differ in size")),
        };
        let projection_bias =
            vector(inputs, place::PROJECTION_BIAS, width)?.unwrap_or_else(|| vec![0.0; width]);
        let clip = |bound: Option<f32>, v: f32| bound.map_or(v, |b| v.max(-b).min(b));
        let activation = self.lstm.activation;
        let reals: &[f32] = x.slice()?;
        let (mut h_all, mut c_all) = (hv.slice::<f32>()?.to_vec(), cv.slice::<f32>()?.to_vec());
        let mut y = vec![0f32; walk.batch * walk.steps * width];
        for t in 0..walk.steps {
            for b in 0..walk.batch {
                let at = walk.at(b, t);
                let x = &reals[at * walk.features..][..walk.features];
                let h = &mut h_all[b * width..][..width];
                let c = &mut c_all[b * units..][..units];
                let a = self.asymmetric;
                let open = input.as_ref().map(|g| g.at(x, h, c, a, Unary::Sigmoid));
                let kept = forget.at(x, h, c, a, Unary::Sigmoid);
                let new = cell.at(x, h, c, a, activation);
                for i in 0..units {
                    let open = open.as_ref().map_or(1.0 - kept[i], |o| o[i]);
                    c[i] = clip(self.lstm.cell_clip, kept[i] * c[i] + open * new[i]);
                }
                let shown = output.at(x, h, c, a, Unary::Sigmoid);
                let hidden: Vec<f32> = shown
                    .iter()
                    .zip(&*c)
                    .map(|(o, c)| o * activation.at((*c).into()) as f32)
                    .collect();
                match &projection {
                    None => h.copy_from_slice(&hidden),
                    Some(projection) => {
                        let mut sums = projection_bias.clone();
                        projection.add(&hidden, a, &mut sums);
                        for (h, sum) in h.iter_mut().zip(sums) {
                            *h = clip(self.lstm.projection_clip, sum);
                        }
                    }
                }
                y[at * width..][..width].copy_from_slice(h);
            }
        }
        outputs.slice::<f32>(0, &walk.out(width))?.copy_from_slice(&y);
        outputs.slice::<f32>(1, hv.dims)?.copy_from_slice(&h_all);
        outputs.slice::<f32>(2, cv.dims)?.copy_from_slice(&c_all);
        Ok(())
    }
}
