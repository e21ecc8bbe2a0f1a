//! Attention of rows over what their sequences hold.

use super::linear::dot;
use super::{expect, f32_of, floats, row_numbers, typed};
use crate::{
    Cost, DType, Dims, InferCx, Inputs, Op, OpError, OpResult, Outputs, StateId, ValueType,
};
use kinglet_kernels::encoding::Encoding;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::rows_attention::{Held, Pages};
use smallvec::smallvec;

pub use kinglet_kernels::rows_attention::PAGE;

/// Attention of each row over the cells of its sequence, its ancestors among the rows, and itself;
/// it takes the rows' keys and values into its state first.
///
/// Inputs: queries, f32 [n, heads × key]; keys, f32 [n, kv_heads × key]; values, f32 [n, kv_heads ×
/// value] (left out where [`RowAttention::value_in_key`]); of each row its sequence, position,
/// parent and slot, i32 [n]; the pages of each sequence, i32 [sequences, pages]; sinks, f32
/// [heads], which may be left out: a logit a head that takes its share and gives nothing
/// (gpt-oss). Output: f32 [n, heads × value].
///
/// A row whose chain of parents has a rows, itself included, sees the cells of positions below
/// its own + 1 − a, and the slots of the chain. The state holds f32, f16 or blocks of Q8_0: [pages,
/// kv_heads, [`PAGE`], key + value], in which each page of a head lies as [`Pages`] says. What is not held in f32 is rounded as it is taken in, also for the rows of
/// the same step: how a prompt is cut into steps changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct RowAttention {
    /// Where keys and values are held.
    pub state: StateId,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a head of queries and keys.
    pub key: usize,
    /// Elements of a head of values.
    pub value: usize,
    /// Whether a value is the first elements of its key, and not held by itself (the latent
    /// attention of DeepSeek-V2, arXiv 2405.04434).
    pub value_in_key: bool,
    /// Factor on query × key.
    pub scale: f32,
    /// Scores s become c tanh(s / c) (Gemma 2).
    pub softcap: Option<f32>,
    /// Cells seen, the row's own included: those of the last so many positions.
    pub window: Option<usize>,
    /// The largest exponent of ALiBi's slopes (arXiv 2108.12409): a score loses its head's slope ×
    /// distance.
    pub alibi: Option<f32>,
}

impl RowAttention {
    /// The type of the state for `pages` pages, held as `dtype`.
    pub fn state_dims(&self, pages: usize) -> Dims {
        smallvec![pages, self.kv_heads, PAGE, self.cell()]
    }

    /// Elements that a cell holds for each head of keys.
    pub fn cell(&self) -> usize {
        self.key + if self.value_in_key { 0 } else { self.value }
    }

    /// How a state of `dtype` holds cells.
    ///
    /// # Errors
    /// Where it can't hold them.
    pub fn pages(&self, dtype: DType) -> OpResult<Pages> {
        let value = self.cell() - self.key;
        let blocks = self.key.is_multiple_of(32) && value.is_multiple_of(32);
        let held = match dtype {
            DType::F32 => Held::F32,
            DType::F16 => Held::F16,
            DType::Encoded(Encoding::Q8_0) if blocks => Held::Q8_0,
            other => {
                let (key, value) = (self.key, self.value);
                let m = format!("keys of {key} and values of {value} elements held as {other}");
                return Err(OpError::new(m));
            }
        };
        Ok(Pages { held, heads: self.kv_heads, key: self.key, value })
    }

    /// What `rows` rows of one sequence, each following the one before, cost beyond their own
    /// traffic where the sequence holds `held` positions before them, held as `dtype`: the products
    /// with all cells that each row sees, and reading these cells once.
    pub fn cost_after(&self, held: usize, rows: usize, dtype: DType) -> Cost {
        let window = self.window.unwrap_or(usize::MAX);
        let seen = (1..=rows).map(|i| (held + i).min(window) as u64).sum::<u64>();
        let cells = (held + rows).min(window.saturating_add(rows.saturating_sub(1))) as u64;
        let cell = dtype.bytes(self.cell()).unwrap_or(0) as u64;
        Cost {
            macs: seen * (self.heads * (self.key + self.value)) as u64,
            bytes: cells * self.kv_heads as u64 * cell,
        }
    }

    /// ALiBi's slope of a head; 0 without ALiBi.
    pub fn slope(&self, head: usize) -> f32 {
        let Some(max) = self.alibi else { return 0.0 };
        // Of a count that is no power of two, the rest take every other slope of twice as many.
        let floor = 1usize << self.heads.max(1).ilog2();
        let (step, i) = match head < floor {
            true => (max / floor as f32, head + 1),
            false => (max / 2.0 / floor as f32, 2 * (head - floor) + 1),
        };
        (-step * i as f32).exp2()
    }

    /// What each row of a step sees, checked. `sequences`, `positions`, `parents`, `slots`: of each
    /// row; `pages`: [sequences, pages]; the state holds `cells` cells.
    pub fn check_rows(rows: &RowTables<'_>, cells: usize) -> OpResult {
        let n = rows.sequences.len();
        let lengths = [rows.positions.len(), rows.parents.len(), rows.slots.len()];
        if lengths.iter().any(|len| *len != n) {
            return Err(OpError::new(format!("numbers of {n} rows and of {lengths:?}")));
        }
        let table = rows.pages.len() / rows.per_sequence.max(1);
        for i in 0..n {
            let Ok(sequence) = usize::try_from(rows.sequences[i]) else { continue };
            let place = |what: &str| OpError::new(format!("row {i}: {what}"));
            if sequence >= table {
                return Err(place(&format!("sequence {sequence} of {table}")));
            }
            let Ok(position) = usize::try_from(rows.positions[i]) else {
                return Err(place("a negative position"));
            };
            let ancestors = rows.chain(i).count();
            let parent = rows.parents[i];
            let ordered = parent < i as i32
                && usize::try_from(parent).is_ok_and(|p| {
                    rows.sequences[p] == rows.sequences[i]
                        && rows.positions[p] + 1 == rows.positions[i]
                });
            if parent >= 0 && !ordered {
                return Err(place(&format!("its parent {parent} is not the row before it")));
            }
            let past = (position + 1)
                .checked_sub(ancestors)
                .ok_or_else(|| place("has more ancestors than positions"))?;
            if past.div_ceil(PAGE) > rows.per_sequence
                || !(0..past.div_ceil(PAGE)).all(|p| {
                    let page = rows.pages[sequence * rows.per_sequence + p];
                    usize::try_from(page).is_ok_and(|page| page < cells / PAGE)
                })
            {
                return Err(place(&format!("its sequence holds no {past} cells")));
            }
            if !usize::try_from(rows.slots[i]).is_ok_and(|slot| slot < cells) {
                return Err(place(&format!("slot {} of {cells}", rows.slots[i])));
            }
        }
        Ok(())
    }
}

/// Of each row of a step, where it stands.
#[derive(Clone, Copy, Debug)]
pub struct RowTables<'a> {
    /// Sequence; −1 for padding.
    pub sequences: &'a [i32],
    /// Position in it.
    pub positions: &'a [i32],
    /// The row of the step that it follows; −1: it follows what its sequence holds.
    pub parents: &'a [i32],
    /// The cell that takes it in.
    pub slots: &'a [i32],
    /// The pages of each sequence.
    pub pages: &'a [i32],
    /// Pages of a sequence in `pages`.
    pub per_sequence: usize,
}

impl RowTables<'_> {
    /// Row `i`, its parent, and so on.
    pub fn chain(&self, i: usize) -> impl Iterator<Item = usize> {
        let parent = |row: &usize| usize::try_from(self.parents[*row]).ok().filter(|p| p < row);
        std::iter::successors(Some(i), parent)
    }

    /// The cell of `position` of `sequence`.
    pub fn cell(&self, sequence: usize, position: usize) -> usize {
        self.pages[sequence * self.per_sequence + position / PAGE] as usize * PAGE + position % PAGE
    }
}

impl Op for RowAttention {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let (h, kv) = (self.heads, self.kv_heads);
            return Err(OpError::new(format!("{h} heads do not share {kv} of keys")));
        }
        if self.value_in_key && self.value > self.key {
            return Err(OpError::new("values longer than the keys that hold them"));
        }
        let q = floats(cx, 0, 2)?;
        expect("the width of queries", &q[1], self.heads * self.key)?;
        expect("the width of keys", &floats(cx, 1, 2)?[1], self.kv_heads * self.key)?;
        if !self.value_in_key {
            expect("the width of values", &floats(cx, 2, 2)?[1], self.kv_heads * self.value)?;
        }
        row_numbers(cx, 3..7)?;
        typed(cx, 7, DType::I32, 2)?;
        if cx.opt(8).is_some() {
            expect("the number of sinks", &floats(cx, 8, 1)?[0], self.heads)?;
        }
        Ok(f32_of(vec![q[0].clone(), (self.heads * self.value).into()]))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (q, k) = (inputs.slice::<f32>(0)?, inputs.slice::<f32>(1)?);
        let v = if self.value_in_key { &[] } else { inputs.slice::<f32>(2)? };
        let pages = inputs.get(7)?;
        let rows = RowTables {
            sequences: inputs.slice(3)?,
            positions: inputs.slice(4)?,
            parents: inputs.slice(5)?,
            slots: inputs.slice(6)?,
            pages: pages.slice()?,
            per_sequence: *pages.dims.last().unwrap_or(&0),
        };
        let sinks = inputs.opt(8).map(|s| s.slice::<f32>()).transpose()?;
        let n = rows.sequences.len();
        let state = outputs.take_state()?;
        let [pages_held, ..] = *state.dims else { return Err(OpError::new("a state of no sizes")) };
        if *state.dims != *self.state_dims(pages_held) {
            return Err(OpError::new(format!("a state of sizes {:?}", state.dims)));
        }
        RowAttention::check_rows(&rows, pages_held * PAGE)?;
        let (held, isa) = (self.pages(state.dtype)?, Isa::Portable);
        let live: Vec<usize> = (0..n).filter(|i| rows.sequences[*i] >= 0).collect();
        for &i in &live {
            let slot = rows.slots[i] as usize;
            for head in 0..self.kv_heads {
                let at = i * self.kv_heads + head;
                let key = &k[at * self.key..][..self.key];
                let value =
                    if self.value_in_key { &[] } else { &v[at * self.value..][..self.value] };
                let page = &mut state.bytes[held.page_of(slot, head)];
                held.take_in(isa, page, slot, key, value);
            }
        }
        let out = outputs.slice::<f32>(0, &[n, self.heads * self.value])?;
        out.fill(0.0);
        let (mut key, mut value) = (vec![0.0; self.key], vec![0.0; self.value]);
        for &i in &live {
            let (sequence, position) = (rows.sequences[i] as usize, rows.positions[i] as usize);
            let chain: Vec<usize> = rows.chain(i).collect();
            let past = (0..position + 1 - chain.len()).map(|p| (rows.cell(sequence, p), p));
            let own = chain.iter().map(|r| (rows.slots[*r] as usize, rows.positions[*r] as usize));
            let seen: Vec<(usize, usize)> = past
                .chain(own)
                .filter(|(_, p)| self.window.is_none_or(|w| position - p < w))
                .collect();
            for head in 0..self.heads {
                let group = head / (self.heads / self.kv_heads);
                let at = i * self.heads + head;
                let query = &q[at * self.key..][..self.key];
                let mut scores = Vec::with_capacity(seen.len());
                for (cell, p) in &seen {
                    held.key(isa, &state.bytes[held.page_of(*cell, group)], *cell, &mut key);
                    let mut score = dot(query, &key) * f64::from(self.scale);
                    if let Some(cap) = self.softcap.map(f64::from) {
                        score = cap * (score / cap).tanh();
                    }
                    scores.push(score - f64::from(self.slope(head)) * (position - p) as f64);
                }
                let sink = sinks.map(|s| f64::from(s[head]));
                let largest = scores.iter().copied().chain(sink).fold(f64::MIN, f64::max);
                let mut total = sink.map_or(0.0, |s| (s - largest).exp());
                let mut sum = vec![0.0; self.value];
                for ((cell, _), score) in seen.iter().zip(scores) {
                    let page = &state.bytes[held.page_of(*cell, group)];
                    match self.value_in_key {
                        true => {
                            held.key(isa, page, *cell, &mut key);
                            value.copy_from_slice(&key[..self.value]);
                        }
                        false => held.value(isa, page, *cell, &mut value),
                    }
                    let weight = (score - largest).exp();
                    total += weight;
                    sum.iter_mut().zip(&value).for_each(|(s, v)| *s += weight * f64::from(*v));
                }
                let out = &mut out[at * self.value..][..self.value];
                out.iter_mut().zip(sum).for_each(|(o, s)| *o = (s / total) as f32);
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        // What sequences hold is not in the types: the rows alone, each over all of them.
        let n = inputs.first().copied().flatten().and_then(|q| q.shape.fixed()).map_or(0, |d| d[0]);
        let macs = n * n * self.heads * (self.key + self.value);
        Cost::traffic(inputs, outputs).with_macs(macs as u64)
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_cost_what_they_see() {
        let mut graph = crate::Graph::new("");
        let ty = ValueType::new(DType::F16, &[1, 2, PAGE, 24][..]);
        let state = graph.add_state(crate::State { name: "cache".into(), ty, initial: None });
        let mut op = RowAttention {
            state,
            heads: 4,
            kv_heads: 2,
            key: 16,
            value: 8,
            value_in_key: false,
            scale: 1.0,
            softcap: None,
            window: None,
            alibi: None,
        };
        let cost = |op: &RowAttention, held, rows| {
            let Cost { macs, bytes } = op.cost_after(held, rows, DType::F16);
            (macs / (4 * 24), bytes / (2 * 24 * 2))
        };
        assert_eq!(cost(&op, 0, 1), (1, 1));
        assert_eq!(cost(&op, 100, 1), (101, 101));
        assert_eq!(cost(&op, 10, 3), (11 + 12 + 13, 13));
        assert_eq!(cost(&op, 10, 0), (0, 10));
        op.window = Some(12);
        assert_eq!(cost(&op, 10, 3), (11 + 12 + 12, 13));
        assert_eq!(cost(&op, 100, 3), (36, 14));
    }
}
