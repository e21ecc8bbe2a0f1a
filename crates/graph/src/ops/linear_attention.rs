//! Linear attention: a matrix of memory instead of past keys and values (ONNX `LinearAttention`).

use super::convert::{floats, write_floats};
use crate::{Dim, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, TensorView, ValueType};

/// At each step the memory S of a head fades, takes up the outer product of key and value, and is
/// read by the query: `S ← e^g S + k ⊗ v`, `o = scale · qᵀS`. With `delta`, v is replaced by
/// `β (v − Sᵀk)`: what the memory does not say yet.
///
/// Inputs: queries [batch, length, query heads × k], keys [batch, length, heads × k], values
/// [batch, length, heads × v]; the memory before, [batch, heads, k, v] (zeros where left out); g,
/// [batch, length, heads] or [batch, length, heads × k]; β, [batch, length, heads or 1]. Outputs:
/// [batch, length, query heads × v], and the memory after. Computed in f64.
#[derive(Clone, Debug)]
pub struct LinearAttention {
    /// Whether the memory fades by input 4.
    pub gated: bool,
    /// Whether values are corrected by what the memory says, with input 5.
    pub delta: bool,
    /// Heads of the queries.
    pub query_heads: usize,
    /// Heads of keys, values and memory; a divisor of the queries'.
    pub heads: usize,
    /// Factor on the result; by default 1 / √k.
    pub scale: Option<f32>,
}

impl LinearAttention {
    fn check(&self) -> OpResult {
        if self.heads == 0 || self.query_heads == 0 || !self.query_heads.is_multiple_of(self.heads)
        {
            let (q, kv) = (self.query_heads, self.heads);
            return Err(OpError::new(format!("{q} query heads do not share {kv} heads")));
        }
        Ok(())
    }
}

/// The data of a packed [batch, length, n] tensor whose last size is one of `widths`.
fn packed(view: TensorView<'_>, rows: [usize; 2], widths: &[usize]) -> OpResult<(Vec<f64>, usize)> {
    match *view.dims {
        [b, t, n] if [b, t] == rows && widths.contains(&n) => Ok((floats(&view)?, n)),
        _ => {
            Err(OpError::new(format!("sizes {:?} where {rows:?} × {widths:?} are due", view.dims)))
        }
    }
}

impl Op for LinearAttention {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        self.check()?;
        let heads = Dim::from(self.heads);
        let (y, state) = match (cx.dims(0)?, cx.dims(2)?) {
            (Some([b, t, hk]), Some([_, _, hv])) => {
                let v = hv.floor_div(&heads);
                let k = hk.floor_div(&Dim::from(self.query_heads));
                let y = vec![b.clone(), t.clone(), v.mul(&Dim::from(self.query_heads))];
                (Shape::new(y), Shape::new(vec![b.clone(), heads, k, v]))
            }
            _ => (Shape::unknown(), Shape::unknown()),
        };
        let state_dtype = cx.opt(3).map_or(cx.dtype(0)?, |s| s.dtype);
        let types = [ValueType::new(cx.dtype(0)?, y), ValueType::new(state_dtype, state)];
        Ok(types.into_iter().take(cx.outputs()).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        self.check()?;
        let (heads, group) = (self.heads, self.query_heads / self.heads);
        let (q, v) = (inputs.get(0)?, inputs.get(2)?);
        let ([b, t, hk], [_, _, hv]) = (q.dims, v.dims) else {
            return Err(OpError::new("queries and values need three dimensions"));
        };
        let (rows, k_size, v_size) = ([*b, *t], hk / self.query_heads, hv / heads);
        let dtype = q.dtype;
        let (q, _) = packed(q, rows, &[k_size * self.query_heads])?;
        let (k, _) = packed(inputs.get(1)?, rows, &[k_size * heads])?;
        let (v, _) = packed(v, rows, &[v_size * heads])?;
        let gate = |i| packed(inputs.get(i)?, rows, &[heads, heads * k_size]);
        let decay = if self.gated { Some(gate(4)?) } else { None };
        let beta = match self.delta {
            true => Some(packed(inputs.get(5)?, rows, &[heads, 1])?),
            false => None,
        };
        let state_dims = [*b, heads, k_size, v_size];
        let (mut state, state_dtype) = match inputs.opt(3) {
            Some(past) if past.dims == state_dims => (floats(&past)?, past.dtype),
            Some(past) => return Err(OpError::new(format!("a memory of sizes {:?}", past.dims))),
            None => (vec![0.0; state_dims.iter().product()], dtype),
        };
        let scale = self.scale.map_or(1.0 / (k_size as f64).sqrt(), f64::from);
        let mut y = vec![0.0; b * t * self.query_heads * v_size];
        for batch in 0..*b {
            for head in 0..heads {
                let size = k_size * v_size;
                let memory = &mut state[(batch * heads + head) * size..][..size];
                for step in 0..*t {
                    let row = batch * t + step;
                    let key = &k[(row * heads + head) * k_size..][..k_size];
                    let mut value = v[(row * heads + head) * v_size..][..v_size].to_vec();
                    if let Some((decay, width)) = &decay {
                        for (d, line) in memory.chunks_exact_mut(v_size.max(1)).enumerate() {
                            let own = if *width == heads { head } else { head * k_size + d };
                            let fade = decay[row * width + own].exp();
                            line.iter_mut().for_each(|s| *s *= fade);
                        }
                    }
                    if let Some((beta, width)) = &beta {
                        let rate = beta[row * width + if *width == 1 { 0 } else { head }];
                        for (m, value) in value.iter_mut().enumerate() {
                            let said: f64 =
                                (0..k_size).map(|d| memory[d * v_size + m] * key[d]).sum();
                            *value = rate * (*value - said);
                        }
                    }
                    for (d, line) in memory.chunks_exact_mut(v_size.max(1)).enumerate() {
                        line.iter_mut().zip(&value).for_each(|(s, v)| *s += key[d] * v);
                    }
                    for query_head in head * group..(head + 1) * group {
                        let at = row * self.query_heads + query_head;
                        let query = &q[at * k_size..][..k_size];
                        for m in 0..v_size {
                            let read: f64 =
                                (0..k_size).map(|d| query[d] * memory[d * v_size + m]).sum();
                            y[at * v_size + m] = scale * read;
                        }
                    }
                }
            }
        }
        let y_dims = [*b, *t, self.query_heads * v_size];
        write_floats(dtype, outputs.bytes(0, dtype, &y_dims)?, y.into_iter())?;
        if outputs.len() > 1 {
            let out = outputs.bytes(1, state_dtype, &state_dims)?;
            write_floats(state_dtype, out, state.into_iter())?;
        }
        Ok(())
    }
}
