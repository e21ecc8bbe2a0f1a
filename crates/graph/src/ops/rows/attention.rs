//! Attention of rows over what their sequences hold.

use super::attention_gradient::RowAttentionGradient;
use super::linear::dot;
use super::{expect, reals, row_numbers, typed};
use crate::number::Number;
use crate::tensor::cast_mut;
use crate::{
    Cost, DType, Dims, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs,
    StateId, StateMut, TensorView, ValueType,
};
use kinglet_kernels::encoding::Encoding;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::rows_attention::{Held, Pages, Part};
use smallvec::smallvec;
use std::iter::StepBy;
use std::ops::RangeFrom;
use std::sync::Arc;

pub use kinglet_kernels::rows_attention::PAGE;

/// Attention of each row over the cells of its sequence, its ancestors among the rows, and itself;
/// it takes the rows' keys and values into its state first.
///
/// Inputs: queries, f32 [n, heads × key]; keys, f32 [n, kv_heads × key]; values, f32 [n, kv_heads ×
/// value] (left out where [`RowAttention::value_in_key`]); of each row its sequence, position,
/// parent and slot, i32 [n]; the pages of each sequence, i32 [sequences, pages]; sinks, f32
/// [heads], which may be left out: a logit a head that takes its share and gives nothing
/// (gpt-oss). Output: f32 [n, heads × value]. Where the queries are f64, so are all of these.
///
/// A row whose chain of parents has a rows, itself included, sees the cells of positions below
/// its own + 1 − a, and the slots of the chain. The state holds f32, f16 or blocks of Q8_0: [pages,
/// kv_heads, [`PAGE`], key + value], in which each page of a head lies as [`Pages`] says. What is not
/// held in f32 is rounded as it is taken in, also for the rows of the same step: how a prompt is cut
/// into steps changes nothing.
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

impl<'a> RowTables<'a> {
    /// The tables in inputs `first` and the four after it.
    pub(super) fn of(inputs: &Inputs<'a>, first: usize) -> OpResult<RowTables<'a>> {
        let pages = inputs.get(first + 4)?;
        Ok(RowTables {
            sequences: inputs.slice(first)?,
            positions: inputs.slice(first + 1)?,
            parents: inputs.slice(first + 2)?,
            slots: inputs.slice(first + 3)?,
            pages: pages.slice()?,
            per_sequence: *pages.dims.last().unwrap_or(&0),
        })
    }

    /// The rows that are no padding.
    pub(super) fn live(&self) -> impl Iterator<Item = usize> {
        (0..self.sequences.len()).filter(|i| self.sequences[*i] >= 0)
    }

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

/// The cells that a state holds.
pub(super) struct Cells<'a> {
    op: &'a RowAttention,
    /// How they lie; `None`: in f64, which gradients are checked in, each element where a single
    /// would lie.
    pages: Option<Pages>,
    state: StateMut<'a>,
}

impl<'a> Cells<'a> {
    /// The cells that `state` holds for `op`.
    pub fn new(op: &'a RowAttention, state: StateMut<'a>) -> OpResult<Cells<'a>> {
        let [held, ..] = *state.dims else { return Err(OpError::new("a state of no sizes")) };
        if *state.dims != *op.state_dims(held) {
            return Err(OpError::new(format!("a state of sizes {:?}", state.dims)));
        }
        let pages = match state.dtype {
            DType::F64 => None,
            dtype => Some(op.pages(dtype)?),
        };
        Ok(Cells { op, pages, state })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.state.dims[0] * PAGE
    }

    /// Where the elements of a part lie, among those of a state in f64.
    fn places(&self, cell: usize, head: usize, part: Part) -> StepBy<RangeFrom<usize>> {
        let RowAttention { kv_heads, key, value, .. } = *self.op;
        let page = (cell / PAGE * kv_heads + head) * PAGE * self.op.cell();
        let within = cell % PAGE;
        match part {
            Part::Key => (page + within..).step_by(PAGE),
            Part::Value => (page + PAGE * key + within * value..).step_by(1),
        }
    }

    /// Takes in a key and, where values are held by themselves, a value.
    fn take_in<T: Number>(&mut self, cell: usize, head: usize, key: &[T], value: &[T]) -> OpResult {
        let Some(pages) = self.pages else {
            let keys = self.places(cell, head, Part::Key).zip(key);
            let values = self.places(cell, head, Part::Value).zip(value);
            let held: &mut [f64] = cast_mut(self.state.bytes)?;
            keys.chain(values).for_each(|(at, v)| held[at] = v.to_f64());
            return Ok(());
        };
        let singles = |part: &[T]| part.iter().map(|v| v.to_f64() as f32).collect::<Vec<_>>();
        let page = &mut self.state.bytes[pages.page_of(cell, head)];
        pages.take_in(Isa::Portable, page, cell, &singles(key), &singles(value));
        Ok(())
    }

    /// Reads the key or the value of a head in a cell.
    pub fn read(&self, cell: usize, head: usize, part: Part, out: &mut [f64]) -> OpResult {
        let part = if self.op.value_in_key { Part::Key } else { part };
        let Some(pages) = self.pages else {
            let StateMut { dtype, dims, bytes } = &self.state;
            let held = TensorView { dtype: *dtype, dims, bytes, quant: None };
            let held = held.slice::<f64>()?;
            out.iter_mut().zip(self.places(cell, head, part)).for_each(|(o, at)| *o = held[at]);
            return Ok(());
        };
        let page = &self.state.bytes[pages.page_of(cell, head)];
        let mut singles = vec![0.0; if part == Part::Key { pages.key } else { pages.value }];
        match part {
            Part::Key => pages.key(Isa::Portable, page, cell, &mut singles),
            Part::Value => pages.value(Isa::Portable, page, cell, &mut singles),
        }
        out.iter_mut().zip(singles).for_each(|(o, v)| *o = v.into());
        Ok(())
    }
}

/// What one row sees, in the order of its scores.
pub(super) struct Seen {
    /// The cell and its position.
    pub cells: Vec<(usize, usize)>,
    /// For each of them the row of the step that it was taken in from, if it was.
    pub rows: Vec<Option<usize>>,
    position: usize,
}

impl Seen {
    /// What live row `i` sees.
    pub fn by(op: &RowAttention, rows: &RowTables<'_>, i: usize) -> Seen {
        let (sequence, position) = (rows.sequences[i] as usize, rows.positions[i] as usize);
        let chain: Vec<usize> = rows.chain(i).collect();
        let past = (0..position + 1 - chain.len()).map(|p| (rows.cell(sequence, p), p, None));
        let own =
            chain.iter().map(|r| (rows.slots[*r] as usize, rows.positions[*r] as usize, Some(*r)));
        let within =
            |(_, p, _): &(usize, usize, Option<usize>)| op.window.is_none_or(|w| position - p < w);
        let seen: Vec<_> = past.chain(own).filter(within).collect();
        Seen {
            cells: seen.iter().map(|(cell, p, _)| (*cell, *p)).collect(),
            rows: seen.iter().map(|(.., row)| *row).collect(),
            position,
        }
    }
}

/// The shares that a head's query gives to what it sees.
pub(super) struct Shares {
    /// Of each cell.
    pub of: Vec<f64>,
    /// Of the sink.
    pub sink: f64,
    /// The slope of each score where it was capped: 1 without a cap.
    pub slope: Vec<f64>,
}

impl RowAttention {
    /// The head of keys that a head reads.
    pub(super) fn group(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// The shares of what `head` sees by its query.
    pub(super) fn shares<T: Number>(
        &self,
        cells: &Cells<'_>,
        seen: &Seen,
        head: usize,
        query: &[T],
        sink: Option<f64>,
    ) -> OpResult<Shares> {
        let mut key = vec![0.0; self.key];
        let (mut of, mut slope) = (Vec::new(), Vec::new());
        for (cell, p) in &seen.cells {
            cells.read(*cell, self.group(head), Part::Key, &mut key)?;
            let mut score = dot(query, &key) * f64::from(self.scale);
            let mut steep = 1.0;
            if let Some(cap) = self.softcap.map(f64::from) {
                let tanh = (score / cap).tanh();
                (score, steep) = (cap * tanh, 1.0 - tanh * tanh);
            }
            of.push(score - f64::from(self.slope(head)) * (seen.position - p) as f64);
            slope.push(steep);
        }
        let largest = of.iter().copied().chain(sink).fold(f64::MIN, f64::max);
        let sink = sink.map_or(0.0, |s| (s - largest).exp());
        of.iter_mut().for_each(|s| *s = (*s - largest).exp());
        let total = sink + of.iter().sum::<f64>();
        of.iter_mut().for_each(|s| *s /= total);
        Ok(Shares { of, sink: sink / total, slope })
    }

    fn attend<T: Number>(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (q, k) = (inputs.slice::<T>(0)?, inputs.slice::<T>(1)?);
        let v = if self.value_in_key { &[] } else { inputs.slice::<T>(2)? };
        let rows = RowTables::of(inputs, 3)?;
        let sinks = inputs.opt(8).map(|s| s.slice::<T>()).transpose()?;
        let n = rows.sequences.len();
        let mut cells = Cells::new(self, outputs.take_state()?)?;
        RowAttention::check_rows(&rows, cells.count())?;
        for i in rows.live() {
            let slot = rows.slots[i] as usize;
            for head in 0..self.kv_heads {
                let at = i * self.kv_heads + head;
                let key = &k[at * self.key..][..self.key];
                let value =
                    if self.value_in_key { &[] } else { &v[at * self.value..][..self.value] };
                cells.take_in(slot, head, key, value)?;
            }
        }
        let out = outputs.slice::<T>(0, &[n, self.heads * self.value])?;
        out.fill(T::of_f64(0.0));
        let mut value = vec![0.0; self.value];
        for i in rows.live() {
            let seen = Seen::by(self, &rows, i);
            for head in 0..self.heads {
                let at = i * self.heads + head;
                let query = &q[at * self.key..][..self.key];
                let sink = sinks.map(|s| s[head].to_f64());
                let shares = self.shares(&cells, &seen, head, query, sink)?;
                let mut sum = vec![0.0; self.value];
                for ((cell, _), share) in seen.cells.iter().zip(shares.of) {
                    cells.read(*cell, self.group(head), Part::Value, &mut value)?;
                    sum.iter_mut().zip(&value).for_each(|(s, v)| *s += share * v);
                }
                let out = &mut out[at * self.value..][..self.value];
                out.iter_mut().zip(sum).for_each(|(o, s)| *o = T::of_f64(s));
            }
        }
        Ok(())
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
        let (dtype, q) = reals(cx, 0, 2)?;
        expect("the width of queries", &q[1], self.heads * self.key)?;
        expect("the width of keys", &typed(cx, 1, dtype, 2)?[1], self.kv_heads * self.key)?;
        if !self.value_in_key {
            let values = typed(cx, 2, dtype, 2)?;
            expect("the width of values", &values[1], self.kv_heads * self.value)?;
        }
        row_numbers(cx, 3..7)?;
        typed(cx, 7, DType::I32, 2)?;
        if cx.opt(8).is_some() {
            expect("the number of sinks", &typed(cx, 8, dtype, 1)?[0], self.heads)?;
        }
        let dims = vec![q[0].clone(), (self.heads * self.value).into()];
        Ok(vec![ValueType::new(dtype, dims)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        match inputs.get(0)?.dtype {
            DType::F64 => self.attend::<f64>(inputs, outputs),
            _ => self.attend::<f32>(inputs, outputs),
        }
    }

    /// What the sequences held before the step is constant.
    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (q, dy) = (g.input(0)?, g.of_first()?);
        let mut inputs = vec![Some(q), Some(dy)];
        inputs.extend((3..8).map(|i| g.opt_input(i)));
        let sinks = g.opt_input(8);
        inputs.extend(sinks.map(Some));
        let count = 2 + usize::from(!self.value_in_key) + usize::from(sinks.is_some());
        let found = g.apply_all(RowAttentionGradient { forward: *self }, &inputs, count)?;
        let mut gradients = vec![None; g.inputs()];
        (gradients[0], gradients[1]) = (Some(found[0]), Some(found[1]));
        if !self.value_in_key {
            gradients[2] = Some(found[2]);
        }
        if sinks.is_some() {
            gradients[8] = found.last().copied();
        }
        Ok(gradients)
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

    fn with_state(&self, state: StateId) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Self { state, ..*self }))
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
