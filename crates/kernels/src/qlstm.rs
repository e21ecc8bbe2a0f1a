//! The elementwise part of TensorFlow Lite's integer LSTM: from the gates' sums, which are matrix
//! products, to the new cell and output.

use crate::fixed::{self, Multiplier, inverse_sqrt_multiplier, rounding_divide_by_pot};

/// What makes a gate of its two sums. Gates are Q3.12.
#[derive(Clone, Debug)]
pub struct QGate {
    /// Factor of the sum over x, the bias included.
    pub input: Multiplier,
    /// Factor of the sum over the state.
    pub state: Multiplier,
    /// Weights of the cell, one a unit, and the factor of their products.
    pub peephole: Option<(Vec<i16>, Multiplier)>,
    /// Normalisation.
    pub norm: Option<QGateNorm>,
}

/// Layer normalisation of a gate.
#[derive(Clone, Debug)]
pub struct QGateNorm {
    /// One a unit.
    pub coefficients: Vec<i16>,
    /// One a unit, or empty.
    pub bias: Vec<i32>,
    /// Factor of the result.
    pub scale: Multiplier,
    /// What takes the place of a variance below 1.
    pub guard: i32,
}

/// One step of an integer LSTM cell.
#[derive(Clone, Debug)]
pub struct QLstmCell {
    /// Input (`None`: what the forget gate leaves over), forget, cell, output.
    pub gates: [Option<QGate>; 4],
    /// The cell's scale is 2 to this power.
    pub cell_power: i32,
    /// Bound of the cell's magnitude; none where 0.
    pub cell_clip: i16,
    /// Factor and zero point of the output gate times the activated cell.
    pub hidden: (Multiplier, i32),
}

fn saturated(x: i32) -> i16 {
    x.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

impl QGate {
    /// Writes the gate before its activation, one value a unit.
    fn run(&self, x: &[i32], state: &[i32], cell: &[i16], out: &mut [i16]) {
        for (out, (x, state)) in out.iter_mut().zip(x.iter().zip(state)) {
            let of_x = saturated(self.input.apply(*x));
            *out = saturated(self.state.apply(*state).saturating_add(of_x.into()));
        }
        if let Some((weights, scale)) = &self.peephole {
            for (out, (w, c)) in out.iter_mut().zip(weights.iter().zip(cell)) {
                let product = scale.apply(i32::from(*w) * i32::from(*c));
                *out = saturated(product.saturating_add((*out).into()));
            }
        }
        if let Some(norm) = &self.norm {
            norm.run(out);
        }
    }
}

impl QGateNorm {
    fn run(&self, gate: &mut [i16]) {
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
        for (i, (g, w)) in gate.iter_mut().zip(&self.coefficients).enumerate() {
            let rescaled = inverse.apply((1024 * i32::from(*g)).wrapping_sub(mean));
            let bias = self.bias.get(i).copied().unwrap_or(0);
            let scaled = i64::from(rescaled) * i64::from(*w) + i64::from(bias);
            let half = if scaled > 0 { 512 } else { -512 };
            *g = saturated(scale.apply(((scaled + half) / 1024) as i32));
        }
    }
}

impl QLstmCell {
    /// How many gates are computed from sums: three or four.
    pub fn sums(&self) -> usize {
        self.gates.iter().flatten().count()
    }

    /// Updates `cell`, of so many units, and writes its output to `out`. `x` and `state` are the
    /// sums of the gates that there are, one after the other; `scratch` is of four gates.
    ///
    /// # Panics
    /// Where the sizes differ, or a gate other than the first is missing.
    pub fn step(
        &self,
        x: &[i32],
        state: &[i32],
        cell: &mut [i16],
        scratch: &mut [i16],
        out: &mut [i8],
    ) {
        let units = cell.len();
        assert_eq!(out.len(), units, "cell and output of an LSTM");
        assert_eq!(scratch.len(), 4 * units, "scratch of an LSTM");
        let first = 4 - self.sums();
        let gate = |i: usize, cell: &[i16], out: &mut [i16]| {
            let range = (i - first) * units..(i - first + 1) * units;
            let gate = self.gates[i].as_ref().expect("only the first gate may be missing");
            gate.run(&x[range.clone()], &state[range], cell, out);
        };
        let (input, rest) = scratch.split_at_mut(units);
        let (forget, rest) = rest.split_at_mut(units);
        let (candidate, output) = rest.split_at_mut(units);
        let sigmoid = |gate: &mut [i16]| gate.iter_mut().for_each(|g| *g = fixed::logistic(*g, 3));
        gate(1, cell, forget);
        sigmoid(forget);
        if first == 0 {
            gate(0, cell, input);
            sigmoid(input);
        } else {
            input.iter_mut().zip(&*forget).for_each(|(i, f)| *i = 32767 - f);
        }
        gate(2, cell, candidate);
        candidate.iter_mut().for_each(|g| *g = fixed::tanh(*g, 3));
        let shift = (30 + self.cell_power).clamp(0, 31) as u32;
        let product = |a: i16, b: i16| i32::from(a) * i32::from(b);
        for (i, c) in cell.iter_mut().enumerate() {
            let kept = rounding_divide_by_pot(product(forget[i], *c), 15) as i16;
            let new = rounding_divide_by_pot(product(input[i], candidate[i]), shift) as i16;
            *c = kept.saturating_add(new);
            if self.cell_clip > 0 {
                *c = (*c).clamp(-self.cell_clip, self.cell_clip);
            }
        }
        gate(3, cell, output);
        sigmoid(output);
        let bits = (15 + self.cell_power).clamp(0, 14) as u32;
        let (factor, zero) = self.hidden;
        for (out, (o, c)) in out.iter_mut().zip(output.iter().zip(&*cell)) {
            let hidden = factor.apply(product(*o, fixed::tanh(*c, bits)));
            *out = hidden.saturating_add(zero).clamp(-128, 127) as i8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_cell_keeps_what_it_holds() {
        let one = Multiplier::new(1.0).unwrap();
        let gate = || QGate { input: one, state: one, peephole: None, norm: None };
        let mut cell = QLstmCell {
            gates: [Some(gate()), Some(gate()), Some(gate()), Some(gate())],
            cell_power: -11,
            cell_clip: 0,
            hidden: (Multiplier::new(2f64.powi(-23)).unwrap(), 3),
        };
        // Gates at -8 and 8 (Q3.12) are shut and open.
        let (shut, open) = (-32768, 32767);
        let (mut c, mut scratch, mut out) = ([1000i16, -1000], [0; 8], [0i8; 2]);
        let sums = [shut, shut, open, open, 0, 0, shut, shut];
        cell.step(&sums, &[0; 8], &mut c, &mut scratch, &mut out);
        assert!((998..=1000).contains(&c[0]) && (-1000..=-998).contains(&c[1]), "{c:?}");
        assert_eq!(out, [3, 3]);
        // Without an input gate, an open forget gate lets nothing in.
        cell.gates[0] = None;
        cell.cell_clip = 500;
        let sums = [open, open, open, open, open, open];
        cell.step(&sums, &[0; 6], &mut c, &mut scratch, &mut out);
        assert_eq!(c, [500, -500]);
        assert!(out[0] > 20 && out[1] < -20, "{out:?}");
    }
}
