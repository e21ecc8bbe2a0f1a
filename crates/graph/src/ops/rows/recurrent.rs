//! Memories that rows change one after the other: short convolutions, state-space models, the
//! delta rule.

use super::{expect, f32_of, floats, row_numbers, sequences};
use crate::{Cost, InferCx, Inputs, Op, OpError, OpResult, Outputs, StateId, ValueType};
use std::sync::Arc;

/// A causal convolution of each channel over the rows of its sequence. Inputs: x, f32 [n,
/// channels]; weights, f32 [channels, width]; a bias, f32 [channels], which may be left out; each
/// row's sequence and position, i32 [n]. Output: f32 [n, channels].
///
/// State, f32 [sequences, width − 1, channels]: the rows before, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct RowConv {
    /// Where the rows before are held.
    pub state: StateId,
}

impl Op for RowConv {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (x, weights) = (floats(cx, 0, 2)?, floats(cx, 1, 2)?);
        if let Some(channels) = x[1].fixed() {
            expect("the channels of the weights", &weights[0], channels)?;
            if cx.opt(2).is_some() {
                expect("the channels of the bias", &floats(cx, 2, 1)?[0], channels)?;
            }
        }
        row_numbers(cx, 3..5)?;
        Ok(f32_of(x.to_vec()))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (x, weights) = (inputs.get(0)?, inputs.get(1)?);
        let (&[n, channels], &[_, width]) = (x.dims, weights.dims) else {
            return Err(OpError::new("takes x [n, channels] and weights [channels, width]"));
        };
        let state = outputs.take_state()?;
        let [held, before, wide] = *state.dims else {
            return Err(OpError::new("a state of rank 3"));
        };
        if before + 1 != width || wide != channels {
            return Err(OpError::new(format!("a state of sizes {:?}", state.dims)));
        }
        let state = state.into_slice::<f32>()?;
        let (x, weights) = (x.slice::<f32>()?, weights.slice::<f32>()?);
        let bias = inputs.opt(2).map(|b| b.slice::<f32>()).transpose()?;
        let positions = inputs.slice::<i32>(4)?;
        let out = outputs.slice::<f32>(0, &[n, channels])?;
        out.fill(0.0);
        for (i, sequence) in sequences(inputs, 3, held)?.enumerate() {
            let Some(sequence) = sequence else { continue };
            let past = &mut state[sequence * before * channels..][..before * channels];
            if positions[i] == 0 {
                past.fill(0.0);
            }
            let row = &x[i * channels..][..channels];
            for (c, out) in out[i * channels..][..channels].iter_mut().enumerate() {
                let taps = &weights[c * width..][..width];
                let window = (0..before).map(|t| past[t * channels + c]).chain([row[c]]);
                let sum: f64 =
                    taps.iter().zip(window).map(|(w, x)| f64::from(*w) * f64::from(x)).sum();
                *out = (sum + bias.map_or(0.0, |b| f64::from(b[c]))) as f32;
            }
            if before > 0 {
                past.copy_within(channels.., 0);
                past[(before - 1) * channels..].copy_from_slice(row);
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let out = outputs.first().and_then(|o| o.bytes()).unwrap_or(0) as u64 / 4;
        let weights = inputs.get(1).copied().flatten().and_then(|w| w.shape.fixed());
        let width = weights.map_or(0, |d| d[1]) as u64;
        Cost::traffic(inputs, outputs).with_macs(out * width)
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn with_state(&self, state: StateId) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Self { state }))
    }
}

/// The selective scan of Mamba (arXiv 2312.00752, 2405.21060): a head's memory h of `size` × `keys`
/// fades and takes up the row, `h ← exp(δ a) h + δ x ⊗ b`, and is read, `y = h c + d x`.
///
/// Inputs: x, f32 [n, heads × size]; δ, f32 [n, heads]; a, f32 [heads, keys] (Mamba) or [heads, 1]
/// (Mamba 2); b and c, f32 [n, groups × keys]; d, f32 [heads]; each row's sequence and position,
/// i32 [n]. Output: f32 [n, heads × size]. State: f32 [sequences, heads, size, keys].
#[derive(Clone, Copy, Debug)]
pub struct SelectiveScan {
    /// Where the memories are held.
    pub state: StateId,
    /// Heads.
    pub heads: usize,
    /// Elements of a head of x: 1 in Mamba.
    pub size: usize,
    /// Elements of b and c.
    pub keys: usize,
    /// Groups of heads that share b and c.
    pub groups: usize,
}

impl Op for SelectiveScan {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        if self.groups == 0 || !self.heads.is_multiple_of(self.groups) {
            return Err(OpError::new(format!("{} heads in {} groups", self.heads, self.groups)));
        }
        let x = floats(cx, 0, 2)?;
        expect("the width of x", &x[1], self.heads * self.size)?;
        expect("the width of δ", &floats(cx, 1, 2)?[1], self.heads)?;
        let a = floats(cx, 2, 2)?;
        expect("the heads of a", &a[0], self.heads)?;
        if a[1].fixed() != Some(1) {
            expect("the width of a", &a[1], self.keys)?;
        }
        expect("the width of b", &floats(cx, 3, 2)?[1], self.groups * self.keys)?;
        expect("the width of c", &floats(cx, 4, 2)?[1], self.groups * self.keys)?;
        expect("the heads of d", &floats(cx, 5, 1)?[0], self.heads)?;
        row_numbers(cx, 6..8)?;
        Ok(f32_of(x.to_vec()))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let SelectiveScan { heads, size, keys, groups, .. } = *self;
        let state = outputs.take_state()?;
        let [held, ..] = *state.dims else { return Err(OpError::new("a state of no sizes")) };
        if *state.dims != [held, heads, size, keys] {
            return Err(OpError::new(format!("a state of sizes {:?}", state.dims)));
        }
        let state = state.into_slice::<f32>()?;
        let (x, delta, a) =
            (inputs.slice::<f32>(0)?, inputs.slice::<f32>(1)?, inputs.slice::<f32>(2)?);
        let (b, c, d) = (inputs.slice::<f32>(3)?, inputs.slice::<f32>(4)?, inputs.slice::<f32>(5)?);
        let positions = inputs.slice::<i32>(7)?;
        let n = positions.len();
        let out = outputs.slice::<f32>(0, &[n, heads * size])?;
        out.fill(0.0);
        for (i, sequence) in sequences(inputs, 6, held)?.enumerate() {
            let Some(sequence) = sequence else { continue };
            let memory = &mut state[sequence * heads * size * keys..][..heads * size * keys];
            if positions[i] == 0 {
                memory.fill(0.0);
            }
            for head in 0..heads {
                let of_group = (i * groups + head / (heads / groups)) * keys;
                let (b, c) = (&b[of_group..][..keys], &c[of_group..][..keys]);
                let step = f64::from(delta[i * heads + head]);
                for e in 0..size {
                    let at = head * size + e;
                    let x = f64::from(x[i * heads * size + at]);
                    let mut y = f64::from(d[head]) * x;
                    for (k, h) in memory[at * keys..][..keys].iter_mut().enumerate() {
                        let a = f64::from(a[if a.len() == heads { head } else { head * keys + k }]);
                        let now = f64::from(*h) * (step * a).exp() + step * x * f64::from(b[k]);
                        *h = now as f32;
                        y += now * f64::from(c[k]);
                    }
                    out[i * heads * size + at] = y as f32;
                }
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let out = outputs.first().and_then(|o| o.bytes()).unwrap_or(0) as u64 / 4;
        Cost::traffic(inputs, outputs).with_macs(out * 3 * self.keys as u64)
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn with_state(&self, state: StateId) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Self { state, ..*self }))
    }
}

/// The gated delta rule (arXiv 2412.06464) over rows: a head's memory S of `key` × `value` fades,
/// `S ← e^g S`, is corrected where it does not say v, `S ← S + k ⊗ β (v − Sᵀk)`, and is read, `o = Sᵀ
/// q`.
///
/// Inputs: queries and keys, f32 [n, key_heads × key]; values, f32 [n, heads × value]; g and β, f32
/// [n, heads]; each row's sequence and position, i32 [n]. Output: f32 [n, heads × value]. State: f32
/// [sequences, heads, key, value].
#[derive(Clone, Copy, Debug)]
pub struct DeltaRule {
    /// Where the memories are held.
    pub state: StateId,
    /// Heads of values and memories.
    pub heads: usize,
    /// Heads of queries and keys; a divisor of `heads`.
    pub key_heads: usize,
    /// Elements of a key.
    pub key: usize,
    /// Elements of a value.
    pub value: usize,
    /// Whether head h takes keys h mod `key_heads`, and not those of its block of neighbours.
    pub strided: bool,
}

impl DeltaRule {
    /// The head of keys that a head takes.
    pub fn key_head(&self, head: usize) -> usize {
        if self.strided { head % self.key_heads } else { head / (self.heads / self.key_heads) }
    }
}

impl Op for DeltaRule {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        if self.key_heads == 0 || !self.heads.is_multiple_of(self.key_heads) {
            let (h, k) = (self.heads, self.key_heads);
            return Err(OpError::new(format!("{h} heads do not share {k} of keys")));
        }
        for (i, width) in [
            self.key_heads * self.key,
            self.key_heads * self.key,
            self.heads * self.value,
            self.heads,
            self.heads,
        ]
        .into_iter()
        .enumerate()
        {
            expect(&format!("the width of input {i}"), &floats(cx, i, 2)?[1], width)?;
        }
        row_numbers(cx, 5..7)?;
        Ok(f32_of(floats(cx, 2, 2)?.to_vec()))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let DeltaRule { heads, key_heads, key, value, .. } = *self;
        let state = outputs.take_state()?;
        let [held, ..] = *state.dims else { return Err(OpError::new("a state of no sizes")) };
        if *state.dims != [held, heads, key, value] {
            return Err(OpError::new(format!("a state of sizes {:?}", state.dims)));
        }
        let state = state.into_slice::<f32>()?;
        let (q, k, v) = (inputs.slice::<f32>(0)?, inputs.slice::<f32>(1)?, inputs.slice::<f32>(2)?);
        let (gate, beta) = (inputs.slice::<f32>(3)?, inputs.slice::<f32>(4)?);
        let positions = inputs.slice::<i32>(6)?;
        let n = positions.len();
        let out = outputs.slice::<f32>(0, &[n, heads * value])?;
        out.fill(0.0);
        for (i, sequence) in sequences(inputs, 5, held)?.enumerate() {
            let Some(sequence) = sequence else { continue };
            let memory = &mut state[sequence * heads * key * value..][..heads * key * value];
            if positions[i] == 0 {
                memory.fill(0.0);
            }
            for head in 0..heads {
                let from = (i * key_heads + self.key_head(head)) * key;
                let (q, k) = (&q[from..][..key], &k[from..][..key]);
                let at = i * heads + head;
                let (fade, beta) = (f64::from(gate[at]).exp(), f64::from(beta[at]));
                let memory = &mut memory[head * key * value..][..key * value];
                for e in 0..value {
                    let line = |j: usize| j * value + e;
                    let mut said = 0.0;
                    for j in 0..key {
                        let faded = f64::from(memory[line(j)]) * fade;
                        memory[line(j)] = faded as f32;
                        said += faded * f64::from(k[j]);
                    }
                    let correction = beta * (f64::from(v[at * value + e]) - said);
                    let mut read = 0.0;
                    for j in 0..key {
                        let now = f64::from(memory[line(j)]) + f64::from(k[j]) * correction;
                        memory[line(j)] = now as f32;
                        read += now * f64::from(q[j]);
                    }
                    out[at * value + e] = read as f32;
                }
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        let out = outputs.first().and_then(|o| o.bytes()).unwrap_or(0) as u64 / 4;
        Cost::traffic(inputs, outputs).with_macs(out * 3 * self.key as u64)
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn with_state(&self, state: StateId) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Self { state, ..*self }))
    }
}
