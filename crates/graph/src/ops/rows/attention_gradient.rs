//! The gradient of attention over rows.

use super::attention::{Cells, RowAttention, RowTables, Seen};
use super::{Part, expect, reals, row_numbers, typed};
use crate::number::Number;
use crate::{Cost, DType, InferCx, Inputs, Op, OpResult, Outputs, StateId, ValueType};
use std::sync::Arc;

/// The gradient of a [`RowAttention`] of the same step.
///
/// Inputs: queries and the gradient of the attention's output, both f32 or f64; of each row its
/// sequence, position, parent and slot, and the pages of each sequence, as the attention has them;
/// sinks, which may be left out. Outputs: the gradients of queries and keys, of values (not where
/// [`RowAttention::value_in_key`]: they are the keys'), and of the sinks, where there are some.
///
/// Keys and values are read from the state, where the attention has put them, so that the rows' own
/// need not be kept; shares are computed again (as FlashAttention does, arXiv 2205.14135). What the
/// state rounds is taken as not rounded, and what it held before the step as constant.
#[derive(Clone, Copy, Debug)]
pub struct RowAttentionGradient {
    /// The attention.
    pub forward: RowAttention,
}

impl RowAttentionGradient {
    fn run<T: Number>(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let op = &self.forward;
        let (q, dy) = (inputs.slice::<T>(0)?, inputs.slice::<T>(1)?);
        let rows = RowTables::of(inputs, 2)?;
        let sinks = inputs.opt(7).map(|s| s.slice::<T>()).transpose()?;
        let n = rows.sequences.len();
        let cells = Cells::new(op, outputs.take_state()?)?;
        RowAttention::check_rows(&rows, cells.count())?;
        let mut dq = vec![0.0; n * op.heads * op.key];
        let mut dk = vec![0.0; n * op.kv_heads * op.key];
        let mut dv = vec![0.0; n * op.kv_heads * op.value];
        let mut d_sinks = vec![0.0; op.heads];
        let (mut key, mut value) = (vec![0.0; op.key], vec![0.0; op.value]);
        for i in rows.live() {
            let seen = Seen::by(op, &rows, i);
            for head in 0..op.heads {
                let (at, group) = (i * op.heads + head, op.group(head));
                let query = &q[at * op.key..][..op.key];
                let dy = &dy[at * op.value..][..op.value];
                let sink = sinks.map(|s| s[head].to_f64());
                let shares = op.shares(&cells, &seen, head, query, sink)?;
                // The gradient of each share, and their mean: what a softmax takes out.
                let mut d_shares = Vec::with_capacity(seen.cells.len());
                for (cell, _) in &seen.cells {
                    cells.read(*cell, group, Part::Value, &mut value)?;
                    d_shares.push(super::linear::dot(dy, &value));
                }
                let mean: f64 = shares.of.iter().zip(&d_shares).map(|(p, d)| p * d).sum();
                d_sinks[head] -= shares.sink * mean;
                for (s, (cell, _)) in seen.cells.iter().enumerate() {
                    let share = shares.of[s];
                    let d_score = share * (d_shares[s] - mean) * shares.slope[s];
                    let d_score = d_score * f64::from(op.scale);
                    cells.read(*cell, group, Part::Key, &mut key)?;
                    let dq = &mut dq[at * op.key..][..op.key];
                    dq.iter_mut().zip(&key).for_each(|(d, k)| *d += d_score * k);
                    let Some(row) = seen.rows[s] else { continue };
                    let from = row * op.kv_heads + group;
                    let own = &mut dk[from * op.key..][..op.key];
                    own.iter_mut().zip(query).for_each(|(d, q)| *d += d_score * q.to_f64());
                    let own = match op.value_in_key {
                        true => &mut dk[from * op.key..][..op.value],
                        false => &mut dv[from * op.value..][..op.value],
                    };
                    own.iter_mut().zip(dy).for_each(|(d, y)| *d += share * y.to_f64());
                }
            }
        }
        let mut found = vec![(op.heads * op.key, dq), (op.kv_heads * op.key, dk)];
        if !op.value_in_key {
            found.push((op.kv_heads * op.value, dv));
        }
        for (to, (width, numbers)) in found.iter().enumerate() {
            let out = outputs.slice::<T>(to, &[n, *width])?;
            out.iter_mut().zip(numbers).for_each(|(o, v)| *o = T::of_f64(*v));
        }
        if sinks.is_some() {
            let out = outputs.slice::<T>(found.len(), &[op.heads])?;
            out.iter_mut().zip(d_sinks).for_each(|(o, v)| *o = T::of_f64(v));
        }
        Ok(())
    }
}

impl Op for RowAttentionGradient {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let op = &self.forward;
        let (dtype, q) = reals(cx, 0, 2)?;
        let dy = typed(cx, 1, dtype, 2)?;
        expect("the width of queries", &q[1], op.heads * op.key)?;
        expect("the width of the gradient", &dy[1], op.heads * op.value)?;
        row_numbers(cx, 2..6)?;
        typed(cx, 6, DType::I32, 2)?;
        let row = |width: usize| ValueType::new(dtype, vec![q[0].clone(), width.into()]);
        let mut types = vec![row(op.heads * op.key), row(op.kv_heads * op.key)];
        if !op.value_in_key {
            types.push(row(op.kv_heads * op.value));
        }
        if cx.opt(7).is_some() {
            expect("the number of sinks", &typed(cx, 7, dtype, 1)?[0], op.heads)?;
            types.push(ValueType::new(dtype, &[op.heads][..]));
        }
        Ok(types)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        match inputs.get(0)?.dtype {
            DType::F64 => self.run::<f64>(inputs, outputs),
            _ => self.run::<f32>(inputs, outputs),
        }
    }

    fn cost(&self, inputs: &[Option<&ValueType>], outputs: &[&ValueType]) -> Cost {
        // The forward's products again, and those for queries, keys and values.
        let op = &self.forward;
        let n = inputs.first().copied().flatten().and_then(|q| q.shape.fixed()).map_or(0, |d| d[0]);
        let macs = n * n * op.heads * (3 * op.key + 2 * op.value);
        Cost::traffic(inputs, outputs).with_macs(macs as u64)
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn state(&self) -> Option<StateId> {
        Some(self.forward.state)
    }

    fn with_state(&self, state: StateId) -> Option<Arc<dyn Op>> {
        let forward = RowAttention { state, ..self.forward };
        Some(Arc::new(Self { forward }))
    }
}
