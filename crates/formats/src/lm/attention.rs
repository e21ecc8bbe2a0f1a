//! The part of a layer that looks at other rows.

use super::builder::{Builder, Order, Result, missing};
use super::family::Norm;
use kinglet_graph::ops::norm::{LayerNorm, RmsNorm};
use kinglet_graph::ops::rows::RowAttention;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{GraphError, ValueId};

impl Builder<'_> {
    /// What mixes the rows of a sequence in layer `layer`: told from the tensors that it has.
    pub(super) fn mixer(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let has = |b: &Self, part: &str| b.has(&format!("blk.{layer}.{part}.weight"));
        if has(self, "attn_q") || has(self, "attn_qkv") {
            self.attention(layer, x)
        } else if has(self, "shortconv.in_proj") {
            self.short_conv(layer, x)
        } else if has(self, "ssm_in") {
            self.state_space(layer, x)
        } else {
            Err(missing(&format!("blk.{layer}.attn_q.weight")))
        }
    }

    fn attention(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (config, family) = (self.config, self.family);
        let heads = config.heads.get(layer).copied().unwrap_or(0);
        let kv_heads = config.kv_heads.get(layer).copied().unwrap_or(heads);
        let windowed = self.windowed(layer);
        let tuned = !family.rotates_if_tuned || config.rope.tuned.unwrap_or(true);
        let rotates = tuned && family.rotates.has(layer, windowed || config.window.is_none());
        let [q, k, v] = self.queries_keys_values(layer, x, heads, kv_heads)?;
        let (mut q, mut k) = (q, k);
        for (rotate, norm) in [(false, !family.norm_after_rope), (true, family.norm_after_rope)] {
            if rotate && rotates {
                q = self.rotated(&name("q_rotated"), q, config.key, 0, windowed)?;
                k = self.rotated(&name("k_rotated"), k, config.key, 0, windowed)?;
            }
            if norm {
                q = self.head_norm(&name("attn_q_norm"), q, heads)?;
                k = self.head_norm(&name("attn_k_norm"), k, kv_heads)?;
            }
        }
        let own_scale = config.attention_scale.filter(|s| family.attention_scale && *s != 0.0);
        let op = RowAttention {
            state: self.next_state(name("cache")),
            heads,
            kv_heads,
            key: config.key,
            value: config.value,
            value_in_key: false,
            scale: own_scale.unwrap_or(1.0 / (config.key as f32).sqrt()),
            softcap: config.attention_softcap.filter(|_| family.score_softcap),
            window: config.window.filter(|_| windowed),
            alibi: config.alibi.or(family.alibi).filter(|a| *a > 0.0),
        };
        let y = self.attend(&name("attention"), op, [q, k, v], &name("attn_sinks.weight"))?;
        self.linear(&name("attn_output"), y, Order::ScaleFirst)
    }

    /// The attention itself over the rows' queries, keys and values.
    fn attend(
        &mut self,
        name: &str,
        op: RowAttention,
        [q, k, v]: [ValueId; 3],
        sinks: &str,
    ) -> Result<ValueId> {
        let state = self.graph.state_mut(op.state);
        state.ty.dtype = self.build.cache;
        state.ty.shape = op.state_dims(self.build.pages).as_slice().into();
        let rows = self.rows;
        let mut inputs =
            vec![q, k, v, rows.sequences, rows.positions, rows.parents, rows.slots, rows.pages];
        inputs.extend(self.constant(sinks));
        Ok(self.apply(name, op, &inputs))
    }

    /// Queries, keys and values, from weights of their own or from one weight for all three.
    fn queries_keys_values(
        &mut self,
        layer: usize,
        x: ValueId,
        heads: usize,
        kv_heads: usize,
    ) -> Result<[ValueId; 3]> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (key, value) = (self.config.key, self.config.value);
        let lengths = [heads * key, kv_heads * key, kv_heads * value];
        let fused = name("attn_qkv");
        let mut first = 0;
        let mut all = [x; 3];
        for ((part, n), out) in ["attn_q", "attn_k", "attn_v"].iter().zip(lengths).zip(&mut all) {
            let own = name(part);
            *out = if self.has(&format!("{fused}.weight")) {
                self.linear_rows(&own, &fused, x, Order::ScaleFirst, Some((first, n)))?
            } else {
                self.linear(&own, x, Order::ScaleFirst)?
            };
            first += n;
            if let Some(bound) = self.config.clamp_qkv.filter(|c| *c > 0.0) {
                let clamp = Unary::Clamp { min: -bound, max: bound };
                *out = self.apply(&format!("{own}.clamped"), clamp, &[*out]);
            }
        }
        Ok(all)
    }

    /// The norm of queries or keys, where the file has one: of each head by itself or, where its
    /// weights are as long as all heads together, of the whole row.
    fn head_norm(&mut self, name: &str, x: ValueId, heads: usize) -> Result<ValueId> {
        let Some(dims) = self.dims(&format!("{name}.weight")) else { return Ok(x) };
        let (key, epsilon) = (self.config.key, self.config.epsilon);
        let whole = match dims.as_slice() {
            [n] if *n == key => false,
            [n] if *n == heads * key => true,
            [h, n] if [*h, *n] == [heads, key] => false,
            _ => {
                let m = format!("has sizes {dims:?} for {heads} heads of {key} elements");
                return Err(GraphError::new(super::builder::place(name), m));
            }
        };
        let weight = self.required(&format!("{name}.weight"))?;
        let bias = self.constant(&format!("{name}.bias"));
        let split = match whole {
            true => x,
            false => self.reshaped(&format!("{name}.heads"), x, &[heads, key])?,
        };
        let mut inputs = vec![split, weight];
        inputs.extend(bias);
        let normed = match self.family.norm {
            Norm::Rms => self.apply(name, RmsNorm { axis: -1, epsilon }, &inputs),
            Norm::Layer => self.apply(name, LayerNorm { axis: -1, epsilon }, &inputs),
        };
        match whole {
            true => Ok(normed),
            false => self.reshaped(&format!("{name}.row"), normed, &[heads * key]),
        }
    }
}
