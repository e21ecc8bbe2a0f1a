//! TFLite's integer LSTM: 8-bit inputs, outputs and weights, 16-bit gates and cell.

use super::matmul::Bias;
use super::{multiplier, quantized_input, single, store, stored};
use crate::{Cost, DType, Dims, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};
use kinglet_kernels::fixed::{self, Multiplier, inverse_sqrt_multiplier, rounding_divide_by_pot};

/// An LSTM over sequences of int8 vectors. Inputs in the order of
/// [`SequenceLstm`](crate::ops::rnn::SequenceLstm): x; weights int8; peepholes and normalisation
/// coefficients int16; biases int32; the state H int8 and C int16, whose scale is a power of two.
/// Outputs: Y, and the next H and C.
///
/// Gates are Q3.12 before their activation, sigmoid and tanh are in 16-bit fixed point.
#[derive(Clone, Debug, PartialEq)]
pub struct QLstm {
    /// Bound on the absolute value of the cell; 0: none.
    pub cell_clip: f32,
    /// Bound on the absolute value of the projection; 0: none.
    pub projection_clip: f32,
    /// x is (steps, batch, features); else (batch, steps, features). Y likewise.
    pub time_major: bool,
    /// Scales of the gates before normalisation, in the order input, forget, cell, output; for
    /// nets that normalise.
    pub gate_scales: Option<[f32; 4]>,
    /// Scale and zero point of the output gate times the activated cell.
    pub hidden: (f32, i32),
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

/// A matrix whose products are rescaled: `m × (v − zero) + bias`, the zero point folded in.
#[derive(Debug)]
pub struct QLstmProduct {
    /// Row-major.
    pub weights: Vec<i32>,
    /// One for each row.
    pub bias: Vec<i32>,
    columns: usize,
    /// Factor of the sums.
    pub scale: Multiplier,
}

impl QLstmProduct {
    /// Input `at`, of sizes `rows × columns`, for vectors less `zero`.
    fn read(
        inputs: &Inputs<'_>,
        at: usize,
        (rows, columns): (usize, usize),
        zero: i32,
        bias: Option<usize>,
        scale: f32,
    ) -> OpResult<QLstmProduct> {
        let view = inputs.get(at)?;
        if view.dims != [rows, columns] {
            return Err(OpError::new(format!(
                "input {at} has sizes {:?}, not {rows} × {columns}",
                view.dims
            )));
        }
        let weights = stored(&view)?;
        let given = Bias::of(bias.and_then(|b| inputs.opt(b)), rows)?;
        let fold = |(r, row): (usize, &[i32])| {
            let sum = row.iter().fold(0i32, |s, w| s.wrapping_add(*w));
            (given.at(r) as i32).wrapping_add(sum.wrapping_mul(zero))
        };
        let bias = match columns {
            0 => (0..rows).map(|r| given.at(r) as i32).collect(),
            _ => weights.chunks(columns).enumerate().map(fold).collect(),
        };
        Ok(QLstmProduct { weights, bias, columns, scale: multiplier(scale.into())? })
    }

    fn at(&self, row: usize, vector: &[i32]) -> i32 {
        let weights = &self.weights[row * self.columns..][..self.columns];
        let pairs = weights.iter().zip(vector);
        let sum = pairs.fold(self.bias[row], |s, (w, v)| s.wrapping_add(w.wrapping_mul(*v)));
        self.scale.apply(sum)
    }
}

/// Layer normalisation of a gate.
#[derive(Debug)]
pub struct QLstmNorm {
    /// One a unit.
    pub coefficients: Vec<i32>,
    /// One a unit.
    pub bias: Vec<i64>,
    /// Factor of the result.
    pub scale: Multiplier,
    /// What takes the place of a variance below 1.
    pub guard: i32,
}

/// What a gate is computed from.
#[derive(Debug)]
pub struct QLstmGate {
    /// Of x.
    pub input: QLstmProduct,
    /// Of the state H.
    pub state: QLstmProduct,
    /// Weights of the cell, and the factor of their products.
    pub peephole: Option<(Vec<i32>, Multiplier)>,
    /// Normalisation.
    pub norm: Option<QLstmNorm>,
}

fn i16_of(x: i32) -> i32 {
    x.clamp(i16::MIN.into(), i16::MAX.into())
}

impl QLstmGate {
    /// The gate before its activation, for one vector of the batch.
    fn at(&self, x: &[i32], h: &[i32], c: &[i32]) -> Vec<i32> {
        let mut gate: Vec<i32> = (0..c.len())
            .map(|i| {
                let input = i16_of(self.input.at(i, x));
                i16_of(self.state.at(i, h).saturating_add(input))
            })
            .collect();
        if let Some((weights, scale)) = &self.peephole {
            for ((g, w), c) in gate.iter_mut().zip(weights).zip(c) {
                *g = i16_of(g.saturating_add(scale.apply(w.wrapping_mul(*c))));
            }
        }
        if let Some(norm) = &self.norm {
            norm.apply(&mut gate);
        }
        gate
    }
}

impl QLstmNorm {
    fn apply(&self, gate: &mut [i32]) {
        let n = gate.len() as i64;
        let sum: i64 = gate.iter().map(|g| i64::from(*g)).sum();
        let squares: i64 = gate.iter().map(|g| i64::from(*g) * i64::from(*g)).sum();
        let mean = (sum * 1024 / n) as i32;
        let variance = squares * ((1 << 20) / n) - i64::from(mean) * i64::from(mean);
        let variance = (variance / (1 << 20)) as i32;
        let variance = if variance < 1 { self.guard } else { variance };
        let (mantissa, shift) = inverse_sqrt_multiplier(variance, -1);
        let inverse = Multiplier { mantissa, shift };
        let scale = Multiplier { shift: self.scale.shift + 12, ..self.scale };
        for ((g, w), b) in gate.iter_mut().zip(&self.coefficients).zip(&self.bias) {
            let rescaled = inverse.apply((1024 * *g).wrapping_sub(mean));
            let scaled = i64::from(rescaled) * i64::from(*w) + b;
            let half = if scaled > 0 { 512 } else { -512 };
            *g = i16_of(scale.apply(((scaled + half) / 1024) as i32));
        }
    }
}

/// All that a step of a [`QLstm`] needs.
#[derive(Debug)]
pub struct QLstmNet {
    /// Input (unless it is 1 − forget), forget, cell, output.
    pub gates: [Option<QLstmGate>; 4],
    /// From what the cells give to the state.
    pub projection: Option<QLstmProduct>,
    units: usize,
    /// The cell's scale is 2 to this power.
    pub cell_power: i32,
    /// Bound of the cell's magnitude; none where 0.
    pub cell_clip: i32,
    /// Bound of the projection's magnitude; none where 0.
    pub projection_clip: i32,
    /// Factor of the output gate times the activated cell.
    pub hidden: Multiplier,
    /// Zero point of that product.
    pub hidden_zero: i32,
    /// Zero point of the output.
    pub out_zero: i32,
}

fn int16_sigmoid(x: i32) -> i32 {
    fixed::logistic(x as i16, 3).into()
}

fn int16_tanh(x: i32, integer_bits: u32) -> i32 {
    fixed::tanh(x as i16, integer_bits).into()
}

impl QLstmNet {
    fn step(&self, x: &[i32], h: &mut [i32], c: &mut [i32]) {
        let gate = |i: usize, c: &[i32]| self.gates[i].as_ref().map(|g| g.at(x, h, c));
        let sigmoid = |gate: Option<Vec<i32>>| -> Option<Vec<i32>> {
            gate.map(|g| g.into_iter().map(int16_sigmoid).collect())
        };
        let input = sigmoid(gate(0, c));
        let forget = sigmoid(gate(1, c)).unwrap_or_default();
        let cell: Vec<i32> =
            gate(2, c).unwrap_or_default().into_iter().map(|g| int16_tanh(g, 3)).collect();
        let shift = (30 + self.cell_power).clamp(0, 31) as u32;
        for i in 0..self.units {
            let kept = rounding_divide_by_pot(forget[i].wrapping_mul(c[i]), 15) as i16;
            let open = input.as_ref().map_or(32767 - forget[i], |g| g[i]);
            let new = rounding_divide_by_pot(open.wrapping_mul(cell[i]), shift) as i16;
            c[i] = kept.saturating_add(new).into();
            if self.cell_clip > 0 {
                c[i] = c[i].clamp(-self.cell_clip, self.cell_clip);
            }
        }
        let output = sigmoid(gate(3, c)).unwrap_or_default();
        let bits = (15 + self.cell_power).clamp(0, 14) as u32;
        let hidden = |zero: i32| -> Vec<i32> {
            let product = |(o, c): (&i32, &i32)| o.wrapping_mul(int16_tanh(*c, bits));
            let stored = |p: i32| self.hidden.apply(p).saturating_add(zero).clamp(-128, 127);
            output.iter().zip(c.iter()).map(product).map(stored).collect()
        };
        match &self.projection {
            None => h.copy_from_slice(&hidden(self.hidden_zero)),
            Some(projection) => {
                let hidden = hidden(-self.hidden_zero);
                for (row, h) in h.iter_mut().enumerate() {
                    let y = projection.at(row, &hidden).saturating_add(self.out_zero);
                    *h = y.clamp(-128, 127);
                    if self.projection_clip > 0 {
                        *h = (*h).clamp(-self.projection_clip, self.projection_clip);
                    }
                }
            }
        }
    }
}

/// Batch, steps, and the position of step `t` of sequence `b` among the vectors.
struct Walk {
    batch: usize,
    steps: usize,
    time_major: bool,
}

impl Walk {
    fn of(dims: &[usize], time_major: bool) -> OpResult<(Walk, usize)> {
        let &[first, second, features] = dims else {
            return Err(OpError::new(format!("an LSTM runs over three dimensions, not {dims:?}")));
        };
        let (batch, steps) = if time_major { (second, first) } else { (first, second) };
        Ok((Walk { batch, steps, time_major }, features))
    }

    fn at(&self, b: usize, t: usize) -> usize {
        if self.time_major { t * self.batch + b } else { b * self.steps + t }
    }
}

impl QLstm {
    fn gate(
        &self,
        inputs: &Inputs<'_>,
        i: usize,
        sizes: Sizes,
        scales: Scales<'_>,
    ) -> OpResult<QLstmGate> {
        let before = self.gate_scales.map_or(2f32.powi(-12), |s| s[i]);
        let weight_scale = |at: usize| -> OpResult<f32> { Ok(single(inputs.quant(at)?)?.0) };
        let normal = self.gate_scales.is_some();
        let bias = (!normal).then_some(place::BIAS + i);
        let input = QLstmProduct::read(
            inputs,
            place::W + i,
            (sizes.units, sizes.features),
            scales.x.1.wrapping_neg(),
            bias,
            weight_scale(place::W + i)? * scales.x.0 / before,
        )?;
        let state = QLstmProduct::read(
            inputs,
            place::R + i,
            (sizes.units, sizes.outputs),
            scales.h.1.wrapping_neg(),
            None,
            weight_scale(place::R + i)? * scales.h.0 / before,
        )?;
        let peephole = match place::PEEPHOLE[i].and_then(|at| inputs.opt(at).map(|v| (at, v))) {
            Some((at, view)) if view.len() == sizes.units => {
                let scale =
                    f64::from(*scales.cell) * f64::from(weight_scale(at)?) / f64::from(before);
                Some((stored(&view)?, multiplier(f64::from(scale as f32))?))
            }
            Some((at, _)) => {
                return Err(OpError::new(format!("input {at} is not one number a unit")));
            }
            None => None,
        };
        let norm = match inputs.opt(place::NORM + i) {
            Some(view) if view.len() == sizes.units && normal => {
                let scale = weight_scale(place::NORM + i)?;
                let bias = Bias::of(inputs.opt(place::BIAS + i), sizes.units)?;
                Some(QLstmNorm {
                    coefficients: stored(&view)?,
                    bias: (0..sizes.units).map(|u| bias.at(u)).collect(),
                    scale: multiplier(scale.into())?,
                    guard: ((10000.0 * scale) as i32).max(1),
                })
            }
            None if !normal => None,
            _ => return Err(OpError::new("its normalisation coefficients do not fit")),
        };
        Ok(QLstmGate { input, state, peephole, norm })
    }

    /// Place of the state H among the inputs.
    pub const H: usize = place::H;
    /// Place of the state C among the inputs.
    pub const C: usize = place::C;

    /// What a step needs, for x of so many `features`, cells of so many `units` and a state of so
    /// many `outputs`. Reads no data of x and the states.
    ///
    /// # Errors
    /// For inputs that do not fit together.
    pub fn net(
        &self,
        inputs: &Inputs<'_>,
        (features, units, outputs): (usize, usize, usize),
    ) -> OpResult<QLstmNet> {
        let sizes = Sizes { features, units, outputs };
        let x = single(inputs.quant(0)?)?;
        let h = single(inputs.quant(place::H)?)?;
        let (cell, _) = single(inputs.quant(place::C)?)?;
        let cell_power = cell.log2().round();
        if (cell.log2() - cell_power).abs() > 1e-3 {
            return Err(OpError::new(format!("its cell's scale {cell} is no power of two")));
        }
        let scales = || Scales { x, h, cell: &cell };
        let mut gates = [None, None, None, None];
        for (i, gate) in gates.iter_mut().enumerate() {
            if i > 0 || inputs.opt(place::W).is_some() {
                *gate = Some(self.gate(inputs, i, sizes, scales())?);
            }
        }
        let unit = 2f64.powi(-15);
        let hidden = (unit / f64::from(self.hidden.0) * unit) as f32;
        let projection = match inputs.opt(place::PROJECTION) {
            Some(_) => Some(QLstmProduct::read(
                inputs,
                place::PROJECTION,
                (sizes.outputs, sizes.units),
                self.hidden.1,
                Some(place::PROJECTION_BIAS),
                single(inputs.quant(place::PROJECTION)?)?.0 * self.hidden.0 / h.0,
            )?),
            None if sizes.outputs == sizes.units => None,
            None => return Err(OpError::new("its state and its cell differ in size")),
        };
        Ok(QLstmNet {
            gates,
            projection,
            units: sizes.units,
            cell_power: cell_power as i32,
            cell_clip: i16_of((self.cell_clip / cell) as i32),
            projection_clip: ((self.projection_clip / h.0) as i32).clamp(-128, 127),
            hidden: multiplier(hidden.into())?,
            hidden_zero: self.hidden.1,
            out_zero: h.1,
        })
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    features: usize,
    units: usize,
    outputs: usize,
}

struct Scales<'a> {
    x: (f32, i32),
    h: (f32, i32),
    cell: &'a f32,
}

impl Op for QLstm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (x, h) = (quantized_input(cx, 0)?, quantized_input(cx, place::H)?);
        let c = quantized_input(cx, place::C)?;
        if (x.dtype, h.dtype, c.dtype) != (DType::I8, DType::I8, DType::I16) {
            let m = format!("an LSTM of {}, {} and {} is not supported", x.dtype, h.dtype, c.dtype);
            return Err(OpError::new(m));
        }
        let shape = match (x.shape.dims(), h.shape.dims()) {
            (Some([a, b, _]), Some([_, outputs])) => {
                Shape::new(vec![a.clone(), b.clone(), outputs.clone()])
            }
            (None, _) | (_, None) => Shape::unknown(),
            _ => return Err(OpError::new(format!("an LSTM does not run over {x} with state {h}"))),
        };
        Ok(vec![ValueType::new(DType::I8, shape), h.clone(), c.clone()])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let (h, c) = (inputs.get(place::H)?, inputs.get(place::C)?);
        let (walk, features) = Walk::of(x.dims, self.time_major)?;
        let (&[hb, out], &[cb, units]) = (h.dims, c.dims) else {
            return Err(OpError::new("its state has not two dimensions"));
        };
        if hb != walk.batch || cb != walk.batch {
            return Err(OpError::new(format!(
                "its state is for {hb} sequences, x has {}",
                walk.batch
            )));
        }
        let net = self.net(inputs, (features, units, out))?;
        let xv = stored(&x)?;
        let (mut hv, mut cv) = (stored(&h)?, stored(&c)?);
        let mut y = vec![0; walk.batch * walk.steps * out];
        for t in 0..walk.steps {
            for b in 0..walk.batch {
                let at = walk.at(b, t);
                let (h, c) = (&mut hv[b * out..][..out], &mut cv[b * units..][..units]);
                net.step(&xv[at * features..][..features], h, c);
                y[at * out..][..out].copy_from_slice(h);
            }
        }
        let mut dims: Dims = x.dims.into();
        dims[2] = out;
        store(outputs, 0, DType::I8, &dims, &y)?;
        store(outputs, 1, DType::I8, h.dims, &hv)?;
        store(outputs, 2, DType::I16, c.dims, &cv)
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        // Every step meets every weight matrix once.
        let size = |ty: Option<&ValueType>| ty.and_then(|ty| ty.shape.fixed());
        let vectors =
            size(inputs.first().copied().flatten()).map_or(0, |d| d[..2].iter().product());
        let weights: usize = (place::W..place::PEEPHOLE[0].unwrap_or(9))
            .chain([place::PROJECTION])
            .filter_map(|i| size(inputs.get(i).copied().flatten()))
            .map(|d| d.iter().product::<usize>())
            .sum();
        Cost::traffic(inputs, outputs).with_macs((vectors as u64).saturating_mul(weights as u64))
    }
}
