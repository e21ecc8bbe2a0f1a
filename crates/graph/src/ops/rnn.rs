//! Recurrent nets of one layer, as ONNX has them: `LSTM`, `GRU`, `RNN`.

use crate::number::{put_f64s, to_f64s};
use crate::ops::conv::float;
use crate::ops::unary::Unary;
use crate::{Cost, DType, Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};

/// What a recurrent net computes at each step. In the formulas, a gate with inputs x and h is
/// W x + R h + both biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Gates i, o, f, c in this order; activations f, g, h:
    /// C' = f(fₜ) C + f(iₜ) g(cₜ), H' = f(oₜ) h(C'). Peepholes add Pᵢ C, P_f C, Pₒ C'.
    Lstm {
        /// The forget gate is 1 − the input gate.
        input_forget: bool,
    },
    /// Gates z, r, h; activations f, g: H' = (1 − z) g(hₜ) + z H, where hₜ sees r H in place of H.
    Gru {
        /// r multiplies R H + bias instead of H.
        linear_before_reset: bool,
    },
    /// H' = f(W x + R H + biases).
    Simple,
}

/// The order in which steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// First to last.
    Forward,
    /// Last to first.
    Reverse,
    /// Both, each with its own weights; the output has both.
    Both,
}

/// A recurrent net over sequences. Inputs: x (steps, batch, features), W (directions, gates ×
/// hidden, features), R (directions, gates × hidden, hidden), biases? (directions, 2 × gates ×
/// hidden: W's, then R's), lengths? (batch, integers), initial H? (directions, batch, hidden); of
/// an LSTM also initial C? (as H) and peepholes? (directions, 3 × hidden: i, o, f). Outputs, as
/// many as the node has: Y (steps, directions, batch, hidden), last H, and of an LSTM last C
/// (directions, batch, hidden). Past the length of its sequence, Y is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    /// What a step computes.
    pub cell: Cell,
    /// The order of steps.
    pub direction: Direction,
    /// The activations of each direction: three of an LSTM (f, g, h), two of a GRU, one of an RNN.
    pub activations: Vec<Unary>,
    /// Bound on the absolute value of what activations are applied to.
    pub clip: Option<f32>,
    /// x is (batch, steps, features), Y (batch, steps, directions, hidden), and H and C (batch,
    /// directions, hidden).
    pub batch_first: bool,
}

impl Cell {
    /// Gates.
    pub fn gates(self) -> usize {
        match self {
            Cell::Lstm { .. } => 4,
            Cell::Gru { .. } => 3,
            Cell::Simple => 1,
        }
    }

    /// Activations, where the file names none.
    pub fn default_activations(self) -> &'static [Unary] {
        match self {
            Cell::Lstm { .. } => &[Unary::Sigmoid, Unary::Tanh, Unary::Tanh],
            Cell::Gru { .. } => &[Unary::Sigmoid, Unary::Tanh],
            Cell::Simple => &[Unary::Tanh],
        }
    }

    fn max_outputs(self) -> usize {
        if matches!(self, Cell::Lstm { .. }) { 3 } else { 2 }
    }
}

impl Direction {
    /// How many directions there are.
    pub fn count(self) -> usize {
        if self == Direction::Both { 2 } else { 1 }
    }
}

impl Recurrent {
    /// Of `cell` with its default activations, steps first.
    pub fn new(cell: Cell, direction: Direction) -> Recurrent {
        let activations = cell.default_activations().repeat(direction.count());
        Recurrent { cell, direction, activations, clip: None, batch_first: false }
    }
}

/// Refuses a bound that nothing lies within.
fn check_bound(bound: Option<f32>) -> OpResult {
    match bound {
        Some(bound) if bound.is_nan() || bound < 0.0 => {
            Err(OpError::new(format!("a clip of {bound}")))
        }
        _ => Ok(()),
    }
}

fn expect(cx: &InferCx<'_>, i: usize, what: &str, dims: &[Option<&Dim>]) -> OpResult {
    let Some(found) = cx.opt(i).and_then(|ty| ty.shape.dims()) else { return Ok(()) };
    let fits = found.len() == dims.len()
        && found.iter().zip(dims).all(|(a, b)| match (a.fixed(), b.and_then(Dim::fixed)) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        });
    if fits {
        return Ok(());
    }
    let wanted: Vec<String> =
        dims.iter().map(|d| d.map_or("?".to_string(), |d| d.to_string())).collect();
    let found = Shape::new(found.to_vec());
    Err(OpError::new(format!("{what} are {found}, not [{}]", wanted.join(", "))))
}

impl Op for Recurrent {
    fn name(&self) -> &'static str {
        match self.cell {
            Cell::Lstm { .. } => "Lstm",
            Cell::Gru { .. } => "Gru",
            Cell::Simple => "Rnn",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        check_bound(self.clip)?;
        let dtype = float(cx, 4)?;
        for i in 5..cx.len() {
            if cx.opt(i).is_some_and(|ty| ty.dtype != dtype) {
                return Err(OpError::new(format!("input {i} is not of {dtype}")));
            }
        }
        if cx.opt(4).is_some_and(|ty| !ty.dtype.is_integer()) {
            return Err(OpError::new("the lengths of sequences must be integers"));
        }
        let directions = self.direction.count();
        let wanted = self.cell.default_activations().len() * directions;
        if self.activations.len() != wanted {
            return Err(OpError::new(format!(
                "{} activations, must be {wanted}",
                self.activations.len()
            )));
        }
        let hidden = match cx.dims(2)? {
            Some([_, _, hidden]) => hidden.clone(),
            Some(dims) => return Err(OpError::new(format!("R has rank {}, not 3", dims.len()))),
            None => cx.unknown_dim(),
        };
        let (steps, batch, features) = match cx.dims(0)? {
            Some([a, b, features]) if self.batch_first => {
                (b.clone(), a.clone(), Some(features.clone()))
            }
            Some([a, b, features]) => (a.clone(), b.clone(), Some(features.clone())),
            Some(dims) => return Err(OpError::new(format!("x has rank {}, not 3", dims.len()))),
            None => (cx.unknown_dim(), cx.unknown_dim(), None),
        };
        let each = Dim::from(directions);
        let gates = hidden.mul(&Dim::from(self.cell.gates()));
        let double = gates.mul(&Dim::from(2));
        let state = match self.batch_first {
            false => [each.clone(), batch.clone(), hidden.clone()],
            true => [batch.clone(), each.clone(), hidden.clone()],
        };
        let of_state: Vec<Option<&Dim>> = state.iter().map(Some).collect();
        cx.ty(1)?;
        expect(cx, 1, "the weights W", &[Some(&each), Some(&gates), features.as_ref()])?;
        expect(cx, 2, "the weights R", &[Some(&each), Some(&gates), Some(&hidden)])?;
        expect(cx, 3, "the biases", &[Some(&each), Some(&double)])?;
        expect(cx, 4, "the lengths", &[Some(&batch)])?;
        expect(cx, 5, "the initial H", &of_state)?;
        expect(cx, 6, "the initial C", &of_state)?;
        expect(cx, 7, "the peepholes", &[Some(&each), Some(&hidden.mul(&Dim::from(3)))])?;
        let y = match self.batch_first {
            false => vec![steps, each, batch, hidden],
            true => vec![batch, steps, each, hidden],
        };
        let mut types = vec![ValueType::new(dtype, y)];
        let outputs = cx.outputs().clamp(1, self.cell.max_outputs());
        types.resize(outputs, ValueType::new(dtype, state.to_vec()));
        Ok(types)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let out_dims = outputs.dims(self, inputs)?;
        let (x, w, r) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        let &[first, second, features] = x.dims else { return Err(OpError::new("x has rank 3")) };
        let (steps, batch) = if self.batch_first { (second, first) } else { (first, second) };
        let (directions, hidden) = (self.direction.count(), r.dims[2]);
        let gates = self.cell.gates() * hidden;
        let reals = |i: usize, n: usize| match inputs.opt(i) {
            Some(v) => to_f64s(&v),
            None => Ok(vec![0.0; n]),
        };
        let (xs, ws, rs) = (to_f64s(&x)?, to_f64s(&w)?, to_f64s(&r)?);
        let biases = reals(3, directions * 2 * gates)?;
        let mut h = reals(5, directions * batch * hidden)?;
        let mut c = reals(6, directions * batch * hidden)?;
        let peepholes = reals(7, directions * 3 * hidden)?;
        let lengths = match inputs.opt(4) {
            Some(lengths) => lengths.ints()?,
            None => vec![steps as i64; batch],
        };
        let mut y = vec![0.0; steps * directions * batch * hidden];
        for d in 0..directions {
            let weights = Weights {
                w: &ws[d * gates * features..][..gates * features],
                r: &rs[d * gates * hidden..][..gates * hidden],
                biases: &biases[d * 2 * gates..][..2 * gates],
                peepholes: &peepholes[d * 3 * hidden..][..3 * hidden],
                activations: &self.activations[d * self.activations.len() / directions..],
                clip: self.clip.map_or(f64::INFINITY, f64::from),
            };
            let backwards = self.direction == Direction::Reverse || d == 1;
            for (n, length) in lengths.iter().enumerate() {
                let length = usize::try_from(*length).ok().filter(|l| *l <= steps);
                let length = length.ok_or_else(|| {
                    OpError::new(format!("sequence {n} has {:?} of {steps} steps", lengths[n]))
                })?;
                let at = if self.batch_first { n * directions + d } else { d * batch + n };
                let h = &mut h[at * hidden..][..hidden];
                let c = &mut c[at * hidden..][..hidden];
                for step in 0..length {
                    let t = if backwards { length - 1 - step } else { step };
                    let from = if self.batch_first { n * steps + t } else { t * batch + n };
                    self.cell.step(&weights, &xs[from * features..][..features], h, c);
                    let to = match self.batch_first {
                        false => (t * directions + d) * batch + n,
                        true => (n * steps + t) * directions + d,
                    };
                    y[to * hidden..][..hidden].copy_from_slice(h);
                }
            }
        }
        for (i, values) in [y, h, c].iter().enumerate().take(outputs.len()) {
            put_f64s(outputs, i, x.dtype, &out_dims[i], values)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let sizes = |i: usize| inputs.get(i).copied().flatten().and_then(|ty| ty.shape.fixed());
        let macs = match (sizes(0).as_deref(), sizes(1), sizes(2)) {
            (Some([a, b, _]), Some(w), Some(r)) => {
                let product = |d: &[usize]| d.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64));
                let weights = product(&w).saturating_add(product(&r));
                product(&[*a, *b]).saturating_mul(weights)
            }
            _ => 0,
        };
        Cost::traffic(inputs, outputs).with_macs(macs)
    }
}

/// The weights of one direction.
struct Weights<'a> {
    w: &'a [f64],
    r: &'a [f64],
    biases: &'a [f64],
    peepholes: &'a [f64],
    activations: &'a [Unary],
    clip: f64,
}

impl Weights<'_> {
    fn dot(row: &[f64], v: &[f64]) -> f64 {
        row.iter().zip(v).map(|(a, b)| a * b).sum()
    }

    /// Row `i` of W x + its bias.
    fn input(&self, i: usize, x: &[f64]) -> f64 {
        Self::dot(&self.w[i * x.len()..], x) + self.biases[i]
    }

    /// Row `i` of R h + its bias.
    fn recurrent(&self, i: usize, h: &[f64]) -> f64 {
        Self::dot(&self.r[i * h.len()..], h) + self.biases[self.biases.len() / 2 + i]
    }

    /// Activation `which` of the bounded `v`.
    fn activate(&self, which: usize, v: f64) -> f64 {
        self.activations[which].at(v.clamp(-self.clip, self.clip))
    }
}

impl Cell {
    /// Moves the state `h` (and `c`, of an LSTM) one step on.
    fn step(self, weights: &Weights<'_>, x: &[f64], h: &mut [f64], c: &mut [f64]) {
        let hidden = h.len();
        let gate = |g: usize, i: usize, h: &[f64]| {
            weights.input(g * hidden + i, x) + weights.recurrent(g * hidden + i, h)
        };
        match self {
            Cell::Simple => {
                let next: Vec<f64> =
                    (0..hidden).map(|i| weights.activate(0, gate(0, i, h))).collect();
                h.copy_from_slice(&next);
            }
            Cell::Lstm { input_forget } => {
                let mut next = Vec::with_capacity(hidden);
                for i in 0..hidden {
                    let peephole = |p: usize, c: f64| weights.peepholes[p * hidden + i] * c;
                    let input = weights.activate(0, gate(0, i, h) + peephole(0, c[i]));
                    let forget = match input_forget {
                        true => 1.0 - input,
                        false => weights.activate(0, gate(2, i, h) + peephole(2, c[i])),
                    };
                    c[i] = forget * c[i] + input * weights.activate(1, gate(3, i, h));
                    let output = weights.activate(0, gate(1, i, h) + peephole(1, c[i]));
                    next.push(output * weights.activate(2, c[i]));
                }
                h.copy_from_slice(&next);
            }
            Cell::Gru { linear_before_reset } => {
                let both = |g: usize| -> Vec<f64> {
                    (0..hidden).map(|i| weights.activate(0, gate(g, i, h))).collect()
                };
                let (update, reset) = (both(0), both(1));
                let kept: Vec<f64> = reset.iter().zip(&*h).map(|(r, h)| r * h).collect();
                let next: Vec<f64> = (0..hidden)
                    .map(|i| {
                        let row = 2 * hidden + i;
                        let past = match linear_before_reset {
                            true => reset[i] * weights.recurrent(row, h),
                            false => weights.recurrent(row, &kept),
                        };
                        let new = weights.activate(1, weights.input(row, x) + past);
                        (1.0 - update[i]) * new + update[i] * h[i]
                    })
                    .collect();
                h.copy_from_slice(&next);
            }
        }
    }
}

/// TFLite's `UNIDIRECTIONAL_SEQUENCE_LSTM` on floats. Inputs, in TFLite's order: x; the weights of
/// x for the input?, forget, cell and output gate (units, features); of the state, likewise
/// (units, outputs); peepholes? of the input, forget and output gate (units); biases of the
/// input?, forget, cell and output gate (units); projection? (outputs, units) and its bias?; the
/// state H (batch, outputs) and C (batch, units); normalisation? coefficients of the four gates
/// (units). Without weights for the input gate it is 1 − the forget gate. Outputs: Y, and the
/// next H and C.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceLstm {
    /// Applied to the cell gate and to C.
    pub activation: Unary,
    /// Bound on |C|.
    pub cell_clip: Option<f32>,
    /// Bound on the absolute projection.
    pub projection_clip: Option<f32>,
    /// x is (steps, batch, features); else (batch, steps, features). Y likewise.
    pub time_major: bool,
}

/// Places of [`SequenceLstm`]'s inputs, in TFLite's order. Those of gates come as input, forget,
/// cell, output.
mod place {
    pub const W: usize = 1;
    pub const R: usize = 5;
    /// Input, forget, output.
    pub const PEEPHOLE: usize = 9;
    pub const BIAS: usize = 12;
    pub const PROJECTION: usize = 16;
    pub const PROJECTION_BIAS: usize = 17;
    pub const H: usize = 18;
    pub const C: usize = 19;
    pub const NORM: usize = 20;
}

impl Op for SequenceLstm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        check_bound(self.cell_clip)?;
        check_bound(self.projection_clip)?;
        let dtype = float(cx, cx.len())?;
        if dtype != DType::F32 {
            return Err(OpError::new(format!("SequenceLstm does not take {dtype}")));
        }
        let (steps, batch, features) = match cx.dims(0)? {
            Some([a, b, f]) if self.time_major => (a.clone(), b.clone(), Some(f)),
            Some([a, b, f]) => (b.clone(), a.clone(), Some(f)),
            Some(dims) => return Err(OpError::new(format!("x has rank {}, not 3", dims.len()))),
            None => (cx.unknown_dim(), cx.unknown_dim(), None),
        };
        let (h, c) = (cx.ty(place::H)?, cx.ty(place::C)?);
        let last = |ty: &ValueType| ty.shape.dims().and_then(|d| d.last().cloned());
        let (outputs, units) = (last(h), last(c));
        let (outputs, units) = (outputs.as_ref(), units.as_ref());
        let gates = [0, 1, 2, 3].into_iter().filter(|g| *g > 0 || cx.opt(place::W).is_some());
        for g in gates {
            for i in [place::W + g, place::R + g, place::BIAS + g] {
                cx.ty(i)?;
            }
            expect(cx, place::W + g, "weights of x", &[units, features])?;
            expect(cx, place::R + g, "weights of the state", &[units, outputs])?;
            expect(cx, place::BIAS + g, "biases", &[units])?;
        }
        for i in (place::PEEPHOLE..place::BIAS).chain(place::NORM..place::NORM + 4) {
            expect(cx, i, "coefficients", &[units])?;
        }
        expect(cx, place::PROJECTION, "weights of the projection", &[outputs, units])?;
        expect(cx, place::PROJECTION_BIAS, "biases of the projection", &[outputs])?;
        expect(cx, place::H, "the state H", &[Some(&batch), outputs])?;
        expect(cx, place::C, "the state C", &[Some(&batch), units])?;
        if let (None, Some(o), Some(u)) = (cx.opt(place::PROJECTION), outputs, units)
            && o.fixed().is_some_and(|o| u.fixed().is_some_and(|u| o != u))
        {
            return Err(OpError::new(format!("{o} outputs of {u} units need a projection")));
        }
        let outputs = outputs.cloned().unwrap_or_else(|| cx.unknown_dim());
        let y = match self.time_major {
            true => vec![steps, batch, outputs],
            false => vec![batch, steps, outputs],
        };
        let state = |ty: &ValueType| ValueType::new(dtype, ty.shape.clone());
        Ok(vec![ValueType::new(dtype, y), state(h), state(c)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let out_dims = outputs.dims(self, inputs)?;
        let x = inputs.get(0)?;
        let &[first, second, features] = x.dims else { return Err(OpError::new("x has rank 3")) };
        let (steps, batch) = if self.time_major { (first, second) } else { (second, first) };
        let reals = |i: usize| inputs.opt(i).map(|v| to_f64s(&v)).transpose();
        let mut all = Vec::with_capacity(24);
        for i in 0..24 {
            all.push(reals(i)?.unwrap_or_default());
        }
        let (mut h, mut c) = (all[place::H].clone(), all[place::C].clone());
        let (width, units) = (out_dims[1][1], out_dims[2][1]);
        let mut y = vec![0.0; steps * batch * width];
        for n in 0..batch {
            let h = &mut h[n * width..][..width];
            let c = &mut c[n * units..][..units];
            for t in 0..steps {
                let at = if self.time_major { t * batch + n } else { n * steps + t };
                self.step(&all, &all[0][at * features..][..features], h, c);
                y[at * width..][..width].copy_from_slice(h);
            }
        }
        for (i, values) in [y, h, c].iter().enumerate() {
            put_f64s(outputs, i, DType::F32, &out_dims[i], values)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let product = |i: usize| {
            let dims = inputs.get(i).copied().flatten().and_then(|ty| ty.shape.fixed());
            dims.map_or(0, |d| d.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64)))
        };
        let matrices = (place::W..place::PEEPHOLE).chain([place::PROJECTION]);
        let weights = matrices.fold(0u64, |n, i| n.saturating_add(product(i)));
        let x = inputs.first().copied().flatten().and_then(|ty| ty.shape.fixed());
        let steps = match x.as_deref() {
            Some([a, b, _]) => (*a as u64).saturating_mul(*b as u64),
            _ => 0,
        };
        Cost::traffic(inputs, outputs).with_macs(steps.saturating_mul(weights))
    }
}

impl SequenceLstm {
    fn step(&self, all: &[Vec<f64>], x: &[f64], h: &mut [f64], c: &mut [f64]) {
        let units = c.len();
        let gate = |g: usize, h: &[f64], peephole: Option<usize>, c: &[f64], f: Unary| {
            let mut values: Vec<f64> = (0..units)
                .map(|i| {
                    let of_x = Weights::dot(&all[place::W + g][i * x.len()..], x);
                    let of_h = Weights::dot(&all[place::R + g][i * h.len()..], h);
                    let weights = peephole.map(|p| &all[place::PEEPHOLE + p]);
                    of_x + of_h + weights.and_then(|w| w.get(i)).map_or(0.0, |w| w * c[i])
                })
                .collect();
            let norm = &all[place::NORM + g];
            if !norm.is_empty() {
                let (mean, variance) = crate::ops::reduce::moments(values.iter().copied());
                for (v, scale) in values.iter_mut().zip(norm) {
                    *v = (*v - mean) / (variance + 1e-8).sqrt() * scale;
                }
            }
            for (v, bias) in values.iter_mut().zip(&all[place::BIAS + g]) {
                *v = f.at(*v + bias);
            }
            values
        };
        let forget = gate(1, h, Some(1), c, Unary::Sigmoid);
        let input: Vec<f64> = match all[place::W].is_empty() {
            true => forget.iter().map(|f| 1.0 - f).collect(),
            false => gate(0, h, Some(0), c, Unary::Sigmoid),
        };
        let new = gate(2, h, None, c, self.activation);
        let bound = self.cell_clip.map_or(f64::INFINITY, f64::from);
        for i in 0..units {
            c[i] = (forget[i] * c[i] + input[i] * new[i]).clamp(-bound, bound);
        }
        let output = gate(3, h, Some(2), c, Unary::Sigmoid);
        let hidden: Vec<f64> =
            output.iter().zip(&*c).map(|(o, c)| o * self.activation.at(*c)).collect();
        let projection = &all[place::PROJECTION];
        if projection.is_empty() {
            h.copy_from_slice(&hidden);
            return;
        }
        let bound = self.projection_clip.map_or(f64::INFINITY, f64::from);
        for (i, h) in h.iter_mut().enumerate() {
            let bias = all[place::PROJECTION_BIAS].get(i).copied().unwrap_or(0.0);
            let v = Weights::dot(&projection[i * units..], &hidden) + bias;
            *h = v.clamp(-bound, bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{i, run_opt, t};

    fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + (-x).exp())
    }

    fn near(found: &Tensor, wanted: &[f32]) {
        let found = found.slice::<f32>().unwrap();
        assert_eq!(found.len(), wanted.len());
        for (a, b) in found.iter().zip(wanted) {
            assert!((a - b).abs() < 1e-6, "{found:?} is not {wanted:?}");
        }
    }

    #[test]
    fn simple_cell_in_both_directions_with_lengths() {
        // One feature, one unit, W = 1, R = 2, Relu: h' = max(x + 2 h, 0).
        let mut op = Recurrent::new(Cell::Simple, Direction::Both);
        op.activations = vec![Unary::Relu; 2];
        let x = t(&[3, 2, 1], &[1f32, 1., 10., 10., 100., 100.]);
        let w = t(&[2, 1, 1], &[1f32, 1.]);
        let r = t(&[2, 1, 1], &[2f32, 2.]);
        let lengths = t(&[2], &[3i32, 2]);
        let inputs = [Some(&x), Some(&w), Some(&r), None, Some(&lengths)];
        let out = run_opt(&op, &inputs, 2).unwrap();
        near(&out[0], &[1., 1., 421., 21., 12., 12., 210., 10., 124., 0., 100., 0.]);
        near(&out[1], &[124., 12., 421., 21.]);
        op.batch_first = true;
        let x = t(&[2, 3, 1], &[1f32, 10., 100., 1., 10., 100.]);
        let inputs = [Some(&x), Some(&w), Some(&r), None, Some(&lengths)];
        let out = run_opt(&op, &inputs, 2).unwrap();
        near(&out[0], &[1., 421., 12., 210., 124., 100., 1., 21., 12., 10., 0., 0.]);
        near(&out[1], &[124., 421., 12., 21.]);
    }

    #[test]
    fn lstm_step_by_hand() {
        // Gates i, o, f, c see x times 1, 2, 3, 4; peepholes 0.1, 0.2, 0.3 on C = 0.5.
        let op = Recurrent::new(Cell::Lstm { input_forget: false }, Direction::Forward);
        let x = t(&[1, 1, 1], &[0.5f32]);
        let w = t(&[1, 4, 1], &[1f32, 2., 3., 4.]);
        let r = t(&[1, 4, 1], &[0f32; 4]);
        let (h, c) = (t(&[1, 1, 1], &[0f32]), t(&[1, 1, 1], &[0.5f32]));
        let p = t(&[1, 3], &[0.1f32, 0.2, 0.3]);
        let inputs = [Some(&x), Some(&w), Some(&r), None, None, Some(&h), Some(&c), Some(&p)];
        let out = run_opt(&op, &inputs, 3).unwrap();
        let cell = sigmoid(1.5 + 0.15) * 0.5 + sigmoid(0.5 + 0.05) * 2f32.tanh();
        let hidden = sigmoid(1.0 + 0.2 * cell) * cell.tanh();
        near(&out[0], &[hidden]);
        near(&out[1], &[hidden]);
        near(&out[2], &[cell]);
    }

    #[test]
    fn gru_resets_before_or_after() {
        let x = t(&[1, 1, 1], &[1f32]);
        let w = t(&[1, 3, 1], &[0f32, 0., 1.]);
        let r = t(&[1, 3, 1], &[0f32, 0., 3.]);
        let b = t(&[1, 6], &[0f32, 0., 0., 0., 0., 1.]);
        let h = t(&[1, 1, 1], &[2f32]);
        for (linear_before_reset, past) in [(false, 3. + 1.), (true, (6. + 1.) / 2.)] {
            let op = Recurrent::new(Cell::Gru { linear_before_reset }, Direction::Reverse);
            let inputs = [Some(&x), Some(&w), Some(&r), Some(&b), None, Some(&h)];
            let out = run_opt(&op, &inputs, 1).unwrap();
            near(&out[0], &[0.5 * (1f32 + past).tanh() + 1.]);
        }
    }

    #[test]
    fn clip_bounds_what_is_activated() {
        let mut op = Recurrent::new(Cell::Simple, Direction::Forward);
        op.clip = Some(0.5);
        let one = t(&[1, 1, 1], &[1f32]);
        let out = run_opt(&op, &[Some(&one), Some(&one), Some(&one)], 1).unwrap();
        near(&out[0], &[0.5f32.tanh()]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let op = Recurrent::new(Cell::Simple, Direction::Forward);
        let one = t(&[1, 1, 1], &[1f32]);
        let wide = t(&[1, 1, 2], &[1f32; 2]);
        let error = run_opt(&op, &[Some(&one), Some(&wide), Some(&one)], 1).unwrap_err();
        assert!(error.to_string().contains("weights W"), "{error}");
        let bad = Recurrent { clip: Some(-1.0), ..op.clone() };
        assert!(run_opt(&bad, &[Some(&one), Some(&one), Some(&one)], 1).is_err());
        let inputs = [Some(&one), Some(&one), Some(&one), None, Some(&i(&[2]))];
        let error = run_opt(&op, &inputs, 1).unwrap_err();
        assert!(error.to_string().contains("of 1 steps"), "{error}");
    }

    #[test]
    fn tflite_lstm_with_coupled_gates_and_projection() {
        let op = SequenceLstm {
            activation: Unary::Tanh,
            cell_clip: Some(0.4),
            projection_clip: None,
            time_major: false,
        };
        let one = |v: f32| t(&[1, 1], &[v]);
        let vector = |v: f32| t(&[1], &[v]);
        let x = t(&[1, 1, 1], &[1f32]);
        let mut inputs: Vec<Option<Tensor>> = vec![None; 24];
        inputs[0] = Some(x);
        for (gate, w) in [(1, 0.), (2, 1.), (3, 2.)] {
            inputs[place::W + gate] = Some(one(w));
            inputs[place::R + gate] = Some(one(0.));
            inputs[place::BIAS + gate] = Some(vector(0.));
        }
        inputs[place::PROJECTION] = Some(one(10.));
        inputs[place::H] = Some(one(0.));
        inputs[place::C] = Some(one(0.2));
        let views: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        let out = run_opt(&op, &views, 3).unwrap();
        // Forget = input = 0.5: C = 0.1 + 0.38, clipped.
        near(&out[2], &[0.4]);
        near(&out[0], &[10. * sigmoid(2.) * 0.4f32.tanh()]);
        inputs[place::PROJECTION] = None;
        inputs[place::NORM + 3] = Some(vector(7.));
        let views: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        let out = run_opt(&op, &views, 3).unwrap();
        // A lone unit normalises to zero.
        near(&out[1], &[0.5 * 0.4f32.tanh()]);
    }
}
