//! The elementwise part of a long short-term memory: from the gates' sums, which are matrix
//! products, to the new cell and output.

use crate::isa::Isa;
use crate::math;
use crate::simd::{Kernel, Simd, dispatch};

/// One step of an LSTM cell with the usual functions: sigmoid for the gates, tanh for the cell's
/// input and output.
#[derive(Clone, Copy, Debug, Default)]
pub struct LstmCellF32<'a> {
    /// Peephole weights of the input, forget and output gate: one value a unit each.
    pub peepholes: Option<[&'a [f32]; 3]>,
    /// Bound of the cell's magnitude; none where 0.
    pub clip: f32,
    /// Whether the input gate is what the forget gate leaves over; its sums are not read then.
    pub coupled: bool,
}

/// The sums that go into the gates, one value a unit each, in this order: input gate, forget
/// gate, cell input, output gate.
pub type GateSums<'a> = [&'a [f32]; 4];

impl LstmCellF32<'_> {
    /// Updates `cell` from `gates` and writes the cell's output to `out`.
    ///
    /// # Panics
    /// Where the sizes differ.
    pub fn step(&self, isa: Isa, gates: GateSums<'_>, cell: &mut [f32], out: &mut [f32]) {
        assert_eq!(cell.len(), out.len(), "cell and output of an LSTM");
        assert!(gates.iter().all(|g| g.len() == cell.len()), "gates of an LSTM");
        let peepholes = self.peepholes.unwrap_or([&[]; 3]);
        assert!(
            self.peepholes.is_none() || peepholes.iter().all(|p| p.len() == cell.len()),
            "peepholes of an LSTM"
        );
        dispatch(isa, Step { lstm: self, gates, cell, out });
    }
}

struct Step<'a> {
    lstm: &'a LstmCellF32<'a>,
    gates: GateSums<'a>,
    cell: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Step { lstm, gates, cell, out } = self;
        let clip = if lstm.clip > 0.0 { lstm.clip } else { f32::INFINITY };
        for i in (0..cell.len()).step_by(S::LANES) {
            let n = (cell.len() - i).min(S::LANES);
            // SAFETY: every slice is as long as `cell`; `n` elements are left from `i` on.
            unsafe {
                let at = |values: &[f32]| s.load_n(values.as_ptr().add(i), n);
                let old = at(cell);
                let gate = |index: usize, peephole: usize, cell: S::V| {
                    let sum = at(gates[index]);
                    let sum = match lstm.peepholes {
                        Some(p) => s.fma(at(p[peephole]), cell, sum),
                        None => sum,
                    };
                    math::sigmoid(s, sum)
                };
                let forget = gate(1, 1, old);
                let input =
                    if lstm.coupled { s.sub(s.splat(1.0), forget) } else { gate(0, 0, old) };
                let candidate = math::tanh(s, at(gates[2]));
                let new = s.fma(forget, old, s.mul(input, candidate));
                let new = s.min(s.splat(clip), s.max(s.splat(-clip), new));
                let output = gate(3, 2, new);
                s.store_n(cell.as_mut_ptr().add(i), new, n);
                s.store_n(out.as_mut_ptr().add(i), s.mul(output, math::tanh(s, new)), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Values, assert_close};

    #[test]
    fn steps_are_right() {
        let mut values = Values::new(18);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for isa in Isa::available() {
            for units in [1, 20, 67] {
                for (with_peepholes, clip, coupled) in
                    [(false, 0.0, false), (true, 0.3, false), (false, 0.0, true)]
                {
                    let gates: Vec<f32> =
                        values.floats(4 * units).iter().map(|x| x * 4.0).collect();
                    let of = |i: usize| &gates[i * units..(i + 1) * units];
                    let peepholes = values.floats(3 * units);
                    let peep = |i: usize| &peepholes[i * units..(i + 1) * units];
                    let old = values.floats(units);
                    let lstm = LstmCellF32 {
                        peepholes: with_peepholes.then(|| [peep(0), peep(1), peep(2)]),
                        clip,
                        coupled,
                    };
                    let (mut cell, mut out) = (old.clone(), vec![0.0; units]);
                    lstm.step(isa, [of(0), of(1), of(2), of(3)], &mut cell, &mut out);
                    let (mut cells, mut outs) = (Vec::new(), Vec::new());
                    for (u, &old) in old.iter().enumerate() {
                        let sum = |g: usize, p: usize, c: f64| {
                            let peep = if with_peepholes { f64::from(peep(p)[u]) * c } else { 0.0 };
                            f64::from(of(g)[u]) + peep
                        };
                        let c = f64::from(old);
                        let forget = sigmoid(sum(1, 1, c));
                        let input = if coupled { 1.0 - forget } else { sigmoid(sum(0, 0, c)) };
                        let new = forget * c + input * f64::from(of(2)[u]).tanh();
                        let new = if clip > 0.0 {
                            new.clamp(-f64::from(clip), f64::from(clip))
                        } else {
                            new
                        };
                        cells.push(new);
                        outs.push(sigmoid(sum(3, 2, new)) * new.tanh());
                    }
                    assert_close(&format!("{isa:?} {units} cell"), &cell, &cells, 1e-6);
                    assert_close(&format!("{isa:?} {units} out"), &out, &outs, 1e-6);
                }
            }
        }
    }
}
