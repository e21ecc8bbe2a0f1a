//! Attention over whole tensors, as ONNX defines it, and rotary position embedding.

use super::broadcast::{broadcast_dims, broadcast_strides};
use super::convert::{floats, write_floats};
use crate::{DType, Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType};
use half::{bf16, f16};

fn error<T>(message: impl Into<String>) -> OpResult<T> {
    Err(OpError::new(message))
}

/// Rounds to the precision of `dtype`.
fn rounded(dtype: DType, v: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(v as f32),
        DType::F16 => f16::from_f64(v).into(),
        DType::BF16 => bf16::from_f64(v).into(),
        _ => v,
    }
}

/// Scaled dot-product attention with grouped heads (ONNX `Attention`).
///
/// Inputs: queries, keys and values, each [batch, heads, length, size] or
/// [batch, length, heads × size]; a mask (truth values, or numbers to add to the scores); past keys
/// and past values to put before the keys and values; the number of keys that are not padding, for
/// each batch. Outputs: the result, shaped as the queries; all keys; all values; the scores at the
/// stage that `scores` names. A query that may see no key yields zeros.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Whether a query sees no key after it.
    pub causal: bool,
    /// Heads of the queries, where they are packed into the last dimension.
    pub query_heads: Option<usize>,
    /// Heads of the keys and values, where they are packed into the last dimension.
    pub key_heads: Option<usize>,
    /// Factor on the scores; by default 1 / √size.
    pub scale: Option<f32>,
    /// Limits scores to ± this by `c tanh(score / c)`; 0 does not.
    pub softcap: f32,
    /// How far before and after itself a query sees.
    pub window: [Option<usize>; 2],
    /// The float type in which softmax is computed, if not the inputs'.
    pub softmax_precision: Option<DType>,
    /// What output 3 holds.
    pub scores: Scores,
}

/// A stage of attention scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Scaled products of queries and keys.
    Raw,
    /// After the soft cap.
    Capped,
    /// After mask and bias.
    Biased,
    /// After softmax.
    Probabilities,
}

/// A tensor as [batch, heads, length, size], whichever way it is stored.
struct Heads {
    data: Vec<f64>,
    dims: [usize; 4],
    /// Stored as [batch, length, heads × size].
    packed: bool,
}

impl Heads {
    fn new(view: crate::TensorView<'_>, heads: Option<usize>) -> OpResult<Heads> {
        let (dims, packed) = match (view.dims, heads) {
            (&[b, h, l, s], _) => ([b, h, l, s], false),
            (&[b, l, hs], Some(h)) if h > 0 && hs % h == 0 => ([b, h, l, hs / h], true),
            _ => return error(format!("{heads:?} heads do not fit sizes {:?}", view.dims)),
        };
        Ok(Heads { data: floats(&view)?, dims, packed })
    }

    fn row(&self, batch: usize, head: usize, at: usize) -> &[f64] {
        let [_, heads, length, size] = self.dims;
        let row = match self.packed {
            true => (batch * length + at) * heads + head,
            false => (batch * heads + head) * length + at,
        };
        &self.data[row * size..][..size]
    }

    /// With `past` before it: always stored unpacked.
    fn after(&self, past: Option<crate::TensorView<'_>>) -> OpResult<Heads> {
        let [batches, heads, length, size] = self.dims;
        let before = past.map(|p| Heads::new(p, None)).transpose()?;
        let past_length = before.as_ref().map_or(0, |p| p.dims[2]);
        if before.as_ref().is_some_and(|p| p.dims != [batches, heads, past_length, size]) {
            return error("past keys or values do not fit the new ones");
        }
        let mut data = Vec::with_capacity((past_length + length) * batches * heads * size);
        for b in 0..batches {
            for h in 0..heads {
                if let Some(before) = &before {
                    (0..past_length).for_each(|i| data.extend_from_slice(before.row(b, h, i)));
                }
                (0..length).for_each(|i| data.extend_from_slice(self.row(b, h, i)));
            }
        }
        Ok(Heads { data, dims: [batches, heads, past_length + length, size], packed: false })
    }
}

impl Op for Attention {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        let heads = |i: usize, heads: Option<usize>| -> OpResult<Option<[Dim; 4]>> {
            Ok(match (cx.dims(i)?, heads) {
                (Some([b, h, l, s]), _) => Some([b.clone(), h.clone(), l.clone(), s.clone()]),
                (Some([b, l, hs]), Some(h)) if h > 0 => {
                    let size = hs.floor_div(&Dim::from(h));
                    Some([b.clone(), Dim::from(h), l.clone(), size])
                }
                (None, _) => None,
                (Some(dims), _) => {
                    return error(format!("input {i} has rank {} and {heads:?} heads", dims.len()));
                }
            })
        };
        let (q, k, v) =
            (heads(0, self.query_heads)?, heads(1, self.key_heads)?, heads(2, self.key_heads)?);
        let (Some(q), Some(k), Some(v)) = (q, k, v) else {
            let unknown = ValueType::new(dtype, Shape::unknown());
            let mut types = vec![unknown; cx.outputs()];
            for (i, ty) in types.iter_mut().enumerate().skip(1).take(2) {
                ty.dtype = cx.dtype(i)?;
            }
            return Ok(types);
        };
        let past = match cx.opt(4).map(|p| p.shape.dims()) {
            None => Dim::from(0),
            Some(Some([_, _, past, _])) => past.clone(),
            Some(_) => cx.unknown_dim(),
        };
        let total = &k[2] + &past;
        let packed = cx.dims(0)?.is_some_and(|d| d.len() == 3);
        let y = match packed {
            true => vec![q[0].clone(), q[2].clone(), q[1].mul(&v[3])],
            false => vec![q[0].clone(), q[1].clone(), q[2].clone(), v[3].clone()],
        };
        let [b, h, l, _] = q;
        let scores = vec![b, h, l, total.clone()];
        let present = |of: [Dim; 4]| {
            let [b, h, _, s] = of;
            vec![b, h, total.clone(), s]
        };
        let types = [
            ValueType::new(dtype, y),
            ValueType::new(cx.dtype(1)?, present(k)),
            ValueType::new(cx.dtype(2)?, present(v)),
            ValueType::new(dtype, scores),
        ];
        Ok(types.into_iter().take(cx.outputs()).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dtype = inputs.get(0)?.dtype;
        let q = Heads::new(inputs.get(0)?, self.query_heads)?;
        let k = Heads::new(inputs.get(1)?, self.key_heads)?.after(inputs.opt(4))?;
        let v = Heads::new(inputs.get(2)?, self.key_heads)?.after(inputs.opt(5))?;
        let [batches, q_heads, queries, size] = q.dims;
        let [_, kv_heads, keys, v_size] = v.dims;
        if k.dims != [batches, kv_heads, keys, size]
            || v.dims[0] != batches
            || kv_heads == 0
            || q_heads % kv_heads != 0
        {
            let (q, k, v) = (q.dims, k.dims, v.dims);
            return error(format!("queries {q:?}, keys {k:?} and values {v:?} do not go together"));
        }
        let group = q_heads / kv_heads;
        let mask = Mask::new(inputs.opt(3), &[batches, q_heads, queries, keys])?;
        let valid = inputs.opt(6).map(|n| n.ints()).transpose()?;
        if valid.as_ref().is_some_and(|n| n.len() != batches) {
            return error("the numbers of valid keys are not one for each batch");
        }
        let past = inputs.opt(4).map_or(0, |p| p.dims.get(2).copied().unwrap_or(0)) as i64;
        let root = self.scale.map_or(1.0 / (size as f64).sqrt(), f64::from).sqrt();
        let root = rounded(dtype, root);
        let precision = self.softmax_precision.unwrap_or(dtype);
        let cap = f64::from(self.softcap);

        let mut y = vec![0.0; batches * q_heads * queries * v_size];
        let mut shown = vec![0.0; batches * q_heads * queries * keys];
        for row in 0..batches * q_heads * queries {
            let (b, h, i) = (row / queries / q_heads, row / queries % q_heads, row % queries);
            // Where this query stands among the keys.
            let position = i as i64
                + match &valid {
                    Some(valid) if inputs.opt(4).is_none() => valid[b] - queries as i64,
                    _ => past,
                };
            let sees = |j: usize| {
                let ahead = j as i64 - position;
                let [before, after] = self.window;
                (!self.causal || ahead <= 0)
                    && before.is_none_or(|n| -ahead <= n as i64)
                    && after.is_none_or(|n| ahead <= n as i64)
                    && valid.as_ref().is_none_or(|n| (j as i64) < n[b])
            };
            let query: Vec<f64> = q.row(b, h, i).iter().map(|v| rounded(dtype, v * root)).collect();
            let shown = &mut shown[row * keys..][..keys];
            let mut scores = Vec::with_capacity(keys);
            for (j, shown) in shown.iter_mut().enumerate() {
                let key = k.row(b, h / group, j).iter().map(|v| rounded(dtype, v * root));
                let raw = rounded(dtype, query.iter().zip(key).map(|(a, b)| a * b).sum());
                let capped = if cap > 0.0 { rounded(dtype, (raw / cap).tanh() * cap) } else { raw };
                let hidden = if sees(j) { 0.0 } else { f64::NEG_INFINITY };
                let biased = rounded(dtype, capped + hidden + mask.at(row, j));
                *shown = match self.scores {
                    Scores::Raw => raw,
                    Scores::Capped => capped,
                    Scores::Biased | Scores::Probabilities => biased,
                };
                scores.push(biased);
            }
            softmax(&mut scores, precision);
            for score in &mut scores {
                *score = rounded(dtype, *score);
            }
            if self.scores == Scores::Probabilities {
                shown.copy_from_slice(&scores);
            }
            let at = match q.packed {
                true => (b * queries + i) * q_heads + h,
                false => row,
            };
            let y = &mut y[at * v_size..][..v_size];
            for (j, score) in scores.iter().enumerate().filter(|(_, s)| **s != 0.0) {
                for (y, v) in y.iter_mut().zip(v.row(b, h / group, j)) {
                    *y += score * v;
                }
            }
        }

        let y_dims: &[usize] = match q.packed {
            true => &[batches, queries, q_heads * v_size],
            false => &[batches, q_heads, queries, v_size],
        };
        write_floats(dtype, outputs.bytes(0, dtype, y_dims)?, y.into_iter())?;
        for (i, present) in [(1, &k), (2, &v)] {
            if outputs.len() > i {
                let dtype = inputs.get(i)?.dtype;
                let out = outputs.bytes(i, dtype, &present.dims)?;
                write_floats(dtype, out, present.data.iter().copied())?;
            }
        }
        if outputs.len() > 3 {
            let out = outputs.bytes(3, dtype, &[batches, q_heads, queries, keys])?;
            write_floats(dtype, out, shown.into_iter())?;
        }
        Ok(())
    }
}

/// Softmax; of nothing but −∞ it is zeros.
fn softmax(scores: &mut [f64], precision: DType) {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        // Not-a-number is above nothing, and stays.
        for score in scores.iter_mut().filter(|s| !s.is_nan()) {
            *score = 0.0;
        }
        return;
    }
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = rounded(precision, (*score - top).exp());
        sum += *score;
    }
    let sum = rounded(precision, sum);
    for score in scores.iter_mut() {
        *score = rounded(precision, *score / sum);
    }
}

/// An attention mask, broadcast to [batch, heads, queries, keys] and added.
struct Mask {
    data: Vec<f64>,
    strides: [usize; 4],
    dims: [usize; 4],
    keys: usize,
}

impl Mask {
    fn new(view: Option<crate::TensorView<'_>>, scores: &[usize; 4]) -> OpResult<Mask> {
        let Some(view) = view else {
            return Ok(Mask { data: vec![0.0], strides: [0; 4], dims: *scores, keys: scores[3] });
        };
        let mut data = floats(&view)?;
        if view.dtype == DType::Bool {
            for v in &mut data {
                *v = if *v != 0.0 { 0.0 } else { f64::NEG_INFINITY };
            }
        }
        // It may be short of keys: none of the rest is seen.
        let keys = view.dims.last().copied().unwrap_or(1);
        let mut covered = *scores;
        if keys > 1 {
            covered[3] = keys.min(scores[3]);
        }
        if view.dims.len() > 4 || broadcast_dims(&[view.dims, &covered])?.as_slice() != covered {
            return error(format!("a mask of sizes {:?} for scores {scores:?}", view.dims));
        }
        let found = broadcast_strides(view.dims, &covered);
        let strides = std::array::from_fn(|i| found[i]);
        let keys = if keys > 1 { covered[3] } else { scores[3] };
        Ok(Mask { data, strides, dims: *scores, keys })
    }

    fn at(&self, row: usize, key: usize) -> f64 {
        if key >= self.keys {
            return f64::NEG_INFINITY;
        }
        let [_, heads, queries, _] = self.dims;
        let index = [row / queries / heads, row / queries % heads, row % queries, key];
        self.data[index.iter().zip(self.strides).map(|(i, s)| i * s).sum::<usize>()]
    }
}

/// Rotates pairs of elements by angles that grow with position (ONNX `RotaryEmbedding`).
///
/// Inputs: the data, [batch, heads, length, size] or [batch, length, heads × size]; cosines and
/// sines, [positions, pairs], or [batch, length, pairs] where no positions are given; the position
/// of each element, [batch, length] (may be left out).
#[derive(Clone, Debug)]
pub struct RotaryEmbedding {
    /// Whether a pair is two neighbours, and not an element of each half.
    pub interleaved: bool,
    /// How many elements of `size` rotate, from the first; 0 means all.
    pub rotated: usize,
    /// Heads, where they are packed into the last dimension.
    pub heads: Option<usize>,
}

impl Op for RotaryEmbedding {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(1)?;
        cx.ty(2)?;
        Ok(vec![ValueType::new(cx.dtype(0)?, cx.ty(0)?.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let heads = Heads::new(x, self.heads)?;
        let [batches, count, length, size] = heads.dims;
        let rotated = if self.rotated == 0 { size } else { self.rotated };
        let pairs = rotated / 2;
        if rotated > size || rotated % 2 != 0 {
            return error(format!("can't rotate {rotated} of {size} elements"));
        }
        let (cos, sin) = (inputs.get(1)?, inputs.get(2)?);
        if cos.dims != sin.dims || cos.dims.last() != Some(&pairs) {
            return error(format!("angles of sizes {:?} for {pairs} pairs", cos.dims));
        }
        let positions = match inputs.opt(3) {
            Some(positions) => {
                let positions = positions.ints()?;
                let rows = cos.dims[0] as i64;
                if cos.dims.len() != 2
                    || positions.len() != batches * length
                    || positions.iter().any(|p| *p < 0 || *p >= rows)
                {
                    return error("positions do not fit the angles");
                }
                positions.into_iter().map(|p| p as usize).collect()
            }
            None if cos.dims == [batches, length, pairs] => {
                (0..batches * length).collect::<Vec<_>>()
            }
            None => return error(format!("angles of sizes {:?} without positions", cos.dims)),
        };
        let (cos, sin) = (floats(&cos)?, floats(&sin)?);
        let mut out = heads.data.clone();
        for b in 0..batches {
            for h in 0..count {
                for i in 0..length {
                    let row = match heads.packed {
                        true => (b * length + i) * count + h,
                        false => (b * count + h) * length + i,
                    };
                    let at = &mut out[row * size..][..size];
                    let from = heads.row(b, h, i);
                    let angles = positions[b * length + i] * pairs;
                    for p in 0..pairs {
                        let (first, second) = match self.interleaved {
                            true => (2 * p, 2 * p + 1),
                            false => (p, p + pairs),
                        };
                        let (c, s) = (cos[angles + p], sin[angles + p]);
                        at[first] = c * from[first] - s * from[second];
                        at[second] = s * from[first] + c * from[second];
                    }
                }
            }
        }
        write_floats(x.dtype, outputs.bytes(0, x.dtype, x.dims)?, out.into_iter())
    }
}
