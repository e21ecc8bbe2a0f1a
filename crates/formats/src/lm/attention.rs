//! The part of a layer that looks at other rows.

use super::builder::{Builder, Order, Result, missing};
use super::family::Norm;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::ops::gather::Gather;
use kinglet_graph::ops::norm::{LayerNorm, RmsNorm};
use kinglet_graph::ops::rows::{ExpertLinear, RowAttention};
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, GraphError, Tensor, ValueId};

impl Builder<'_> {
    /// What mixes the rows of a sequence in layer `layer`: told from the tensors that it has.
    pub(super) fn mixer(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let has = |b: &Self, part: &str| b.has(&format!("blk.{layer}.{part}.weight"));
        if has(self, "attn_kv_a_mqa") {
            self.latent_attention(layer, x)
        } else if has(self, "ssm_conv1d") && (has(self, "attn_qkv") || has(self, "ssm_ba")) {
            self.delta_rule(layer, x)
        } else if has(self, "attn_q") || has(self, "attn_qkv") {
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
        let told = config.rotates.as_ref().and_then(|r| r.get(layer).copied());
        let usual = || family.rotates.has(layer, windowed || config.window.is_none());
        let rotates = tuned && told.unwrap_or_else(usual);
        let gated = self.gated_queries(layer, heads, kv_heads);
        let [mut q, mut k, v] = self.queries_keys_values(layer, x, heads, kv_heads)?;
        let mut gate = None;
        if gated {
            let both = self.reshaped(&name("attn_q_heads"), q, &[heads, 2 * config.key])?;
            let own = self.columns(&name("attn_q_own"), both, 0, config.key)?;
            q = self.reshaped(&name("attn_q_row"), own, &[heads * config.key])?;
            let open = self.columns(&name("attn_open"), both, config.key, 2 * config.key)?;
            let open = self.reshaped(&name("attn_open_row"), open, &[heads * config.key])?;
            gate = Some(self.apply(&name("attn_opened"), Unary::Sigmoid, &[open]));
        }
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
        let rows = [Some(q), Some(k), Some(v)];
        let mut y = self.attend(&name("attention"), op, rows, &name("attn_sinks.weight"))?;
        if let Some(gate) = gate {
            y = self.binary(&name("attn_gated"), BinaryFn::Mul, y, gate);
        }
        self.linear(&name("attn_output"), y, Order::ScaleFirst)
    }

    /// The attention itself over the rows' queries, keys and values.
    fn attend(
        &mut self,
        name: &str,
        op: RowAttention,
        heads: [Option<ValueId>; 3],
        sinks: &str,
    ) -> Result<ValueId> {
        let state = self.graph.state_mut(op.state);
        state.ty.dtype = self.build.cache;
        state.ty.shape = op.state_dims(self.build.pages).as_slice().into();
        let rows = self.rows;
        let rows = [rows.sequences, rows.positions, rows.parents, rows.slots, rows.pages];
        let mut inputs: Vec<_> = heads.into_iter().chain(rows.map(Some)).collect();
        inputs.extend(self.constant(sinks).map(Some));
        Ok(self.apply_optional(name, op, inputs))
    }

    /// DeepSeek-V2's attention (arXiv 2405.04434): keys and values of a position come from one latent,
    /// and a rotated part of the key is the same for all heads. What is held is just these; queries
    /// are taken to the latent's space, and results out of it.
    fn latent_attention(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let config = self.config;
        let (key, rotated) = (config.key, config.rope.rotated);
        let heads = config.heads.get(layer).copied().unwrap_or(0);
        let (Some(rank), true, true) = (config.kv_rank, rotated < key, heads > 0) else {
            let m = format!(
                "{heads} heads of {key} elements, of which {rotated} rotate, need a rank too"
            );
            return Err(GraphError::new(name("attn_kv_a_mqa"), m));
        };
        let still = key - rotated;
        let q = if self.has(&name("attn_q_a.weight")) {
            let q = self.linear(&name("attn_q_a"), x, Order::ScaleFirst)?;
            let q = self.norm(&name("attn_q_a_norm"), q)?;
            self.linear(&name("attn_q_b"), q, Order::ScaleFirst)?
        } else {
            self.linear(&name("attn_q"), x, Order::ScaleFirst)?
        };
        let q = self.rotated(&name("q_rotated"), q, key, still, false)?;
        let all = self.linear(&name("attn_kv_a_mqa"), x, Order::ScaleFirst)?;
        let latent = self.columns(&name("kv_latent"), all, 0, rank)?;
        let latent = self.norm(&name("attn_kv_a_norm"), latent)?;
        let k = self.columns(&name("k_still"), all, rank, rank + rotated)?;
        let k = self.rotated(&name("k_rotated"), k, rotated, 0, false)?;
        let y = if self.has(&name("attn_kv_b.weight")) && !self.has(&name("attn_k_b.weight")) {
            self.unfolded(layer, q, latent, k)?
        } else {
            self.folded(layer, q, latent, k)?
        };
        self.linear(&name("attn_output"), y, Order::ScaleFirst)
    }

    /// Attention over latents: a head of keys for all, which values are a part of.
    fn folded(&mut self, layer: usize, q: ValueId, latent: ValueId, k: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let config = self.config;
        let (key, rotated) = (config.key, config.rope.rotated);
        let (heads, rank) = (config.heads[layer], config.kv_rank.unwrap_or(0));
        let still = key - rotated;
        let q = self.reshaped(&name("q_heads"), q, &[heads, key])?;
        let q_still = self.columns(&name("q_still"), q, 0, still)?;
        let q_rotated = self.columns(&name("q_moved"), q, still, key)?;
        let each = self.each_head(heads)?;
        let up = self.required(&name("attn_k_b.weight"))?;
        let q_latent = self.apply(&name("attn_k_b"), ExpertLinear, &[q_still, up, each]);
        let join = Concat { axis: -1 };
        let q = self.apply(&name("q_joined"), join.clone(), &[q_latent, q_rotated]);
        let q = self.reshaped(&name("q_row"), q, &[heads * (rank + rotated)])?;
        let k = self.apply(&name("k_row"), join, &[latent, k]);
        let op = RowAttention {
            kv_heads: 1,
            key: rank + rotated,
            value: rank,
            value_in_key: true,
            ..self.of_all_heads(layer)
        };
        let rows = [Some(q), Some(k), None];
        let y = self.attend(&name("attention"), op, rows, &name("attn_sinks.weight"))?;
        let y = self.reshaped(&name("attn_heads"), y, &[heads, rank])?;
        let down = self.required(&name("attn_v_b.weight"))?;
        let y = self.apply(&name("attn_v_b"), ExpertLinear, &[y, down, each]);
        self.reshaped(&name("attn_row"), y, &[heads * config.value])
    }

    /// Attention over the keys and values that latents stand for, as old GGUF files have it: their one
    /// weight for both can't be applied to queries without being rearranged.
    fn unfolded(
        &mut self,
        layer: usize,
        q: ValueId,
        latent: ValueId,
        k: ValueId,
    ) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let config = self.config;
        let (key, value, rotated) = (config.key, config.value, config.rope.rotated);
        let heads = config.heads[layer];
        let still = key - rotated;
        let both = self.linear(&name("attn_kv_b"), latent, Order::ScaleFirst)?;
        let both = self.reshaped(&name("kv_heads"), both, &[heads, still + value])?;
        let k_still = self.columns(&name("k_own"), both, 0, still)?;
        let v = self.columns(&name("v_own"), both, still, still + value)?;
        let k = self.reshaped(&name("k_moved"), k, &[1, rotated])?;
        let k = self.apply(&name("k_each"), Concat { axis: 1 }, &vec![k; heads]);
        let k = self.apply(&name("k_joined"), Concat { axis: -1 }, &[k_still, k]);
        let k = self.reshaped(&name("k_row"), k, &[heads * key])?;
        let v = self.reshaped(&name("v_row"), v, &[heads * value])?;
        let op = self.of_all_heads(layer);
        let rows = [Some(q), Some(k), Some(v)];
        self.attend(&name("attention"), op, rows, &name("attn_sinks.weight"))
    }

    /// Attention in which each head has keys and values of its own.
    fn of_all_heads(&mut self, layer: usize) -> RowAttention {
        let config = self.config;
        RowAttention {
            state: self.next_state(format!("blk.{layer}.cache")),
            heads: config.heads[layer],
            kv_heads: config.heads[layer],
            key: config.key,
            value: config.value,
            value_in_key: false,
            scale: config.attention_scale.unwrap_or(1.0 / (config.key as f32).sqrt()),
            softcap: None,
            window: None,
            alibi: None,
        }
    }

    /// For each row the numbers of all heads: each takes the weights of its own.
    fn each_head(&mut self, heads: usize) -> Result<ValueId> {
        let numbers: Vec<i32> = (0..heads as i32).collect();
        let table = Tensor::from_slice(&[1, heads], &numbers)
            .map_err(|e| GraphError::new("heads", e.to_string()))?;
        let table = self.graph.add_constant("heads", table);
        let none = self.graph.add_constant("heads.none", Tensor::scalar(0i32));
        let zeros = Binary::new(BinaryFn::Mul);
        let zeros =
            self.graph.apply("heads.zeros", zeros, &[self.rows.positions, none], DType::I32);
        let pick = Gather { axis: 0, batch_dims: 0 };
        Ok(self.graph.apply("heads.each", pick, &[table, zeros], DType::I32))
    }

    /// Queries, keys and values, from weights of their own or from one weight for all three.
    pub(super) fn queries_keys_values(
        &mut self,
        layer: usize,
        x: ValueId,
        heads: usize,
        kv_heads: usize,
    ) -> Result<[ValueId; 3]> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let (key, value) = (self.config.key, self.config.value);
        let queries = heads * key * (1 + usize::from(self.gated_queries(layer, heads, kv_heads)));
        let lengths = [queries, kv_heads * key, kv_heads * value];
        let fused = name("attn_qkv");
        let mut first = 0;
        let mut all = [x; 3];
        for ((part, n), out) in ["attn_q", "attn_k", "attn_v"].iter().zip(lengths).zip(&mut all) {
            let own = name(part);
            *out = if self.has(&format!("{fused}.weight")) {
                let y = self.linear_rows(&own, &fused, x, Order::ScaleFirst, Some((first, n)))?;
                // One weight for all may have biases of their own.
                match self.constant(&format!("{own}.bias")) {
                    Some(bias) => self.binary(&format!("{own}.biased"), BinaryFn::Add, y, bias),
                    None => y,
                }
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

    /// Whether beside each head's queries there are as many numbers that open or close its result
    /// (Qwen3-Next).
    fn gated_queries(&self, layer: usize, heads: usize, kv_heads: usize) -> bool {
        let rows = |part: &str| {
            self.dims(&format!("blk.{layer}.{part}.weight")).and_then(|d| d.first().copied())
        };
        let (queries, value) = (heads * self.config.key, self.config.value);
        let others = kv_heads * (self.config.key + value);
        heads > 0
            && match rows("attn_qkv") {
                Some(all) => all == 2 * queries + others,
                None => rows("attn_q") == Some(2 * queries),
            }
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
