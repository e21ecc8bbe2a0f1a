//! Layers with a memory of fixed size in place of attention.

use super::builder::{Builder, Order, Result, place};
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::ops::norm::RmsNorm;
use kinglet_graph::ops::rows::{DeltaRule, Linear, RowConv, SelectiveScan};
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, GraphError, ValueId};

impl Builder<'_> {
    /// LFM2's gated short convolution: c · conv(b · x).
    pub(super) fn short_conv(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.shortconv.{part}");
        let width = self.config.width;
        let all = self.linear(&name("in_proj"), x, Order::ScaleFirst)?;
        let part = |b: &mut Self, what: &str, i: usize| {
            b.columns(&name(what), all, i * width, (i + 1) * width)
        };
        let (b, c, x) = (part(self, "b", 0)?, part(self, "c", 1)?, part(self, "x", 2)?);
        let bx = self.binary(&name("bx"), BinaryFn::Mul, b, x);
        let mixed = self.row_conv(&name("conv"), bx)?;
        let y = self.binary(&name("y"), BinaryFn::Mul, c, mixed);
        self.linear(&name("out_proj"), y, Order::ScaleFirst)
    }

    /// The convolution over rows by the weights of `name` [channels, width].
    fn row_conv(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        let weight = self.required(&format!("{name}.weight"))?;
        let dims = self.dims(&format!("{name}.weight")).unwrap_or_default();
        let [channels, width] = dims[..] else {
            let m = format!("has sizes {dims:?}, must be [channels, width]");
            return Err(GraphError::new(place(&format!("{name}.weight")), m));
        };
        let held = [self.build.sequences, width.saturating_sub(1), channels];
        let state = self.state(format!("{name}.rows"), DType::F32, &held);
        let rows = (self.rows.sequences, self.rows.positions);
        let bias = self.constant(&format!("{name}.bias"));
        let inputs = vec![Some(x), Some(weight), bias, Some(rows.0), Some(rows.1)];
        Ok(self.apply_optional(name, RowConv { state }, inputs))
    }

    /// The gated delta rule of Qwen3-Next: a convolution over queries, keys and values, unit queries
    /// and keys, a memory a head, and a norm that is gated.
    pub(super) fn delta_rule(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let s = self.config.state_space.clone();
        let (heads, key_heads, key) = (s.rank, s.groups, s.state);
        if heads == 0 || key_heads == 0 || key == 0 {
            let m = "has no heads or keys: its numbers are missing";
            return Err(GraphError::new(name("delta_rule"), m));
        }
        let (keys, value) = (key_heads * key, s.inner / heads);
        let [all, gate] = self.delta_inputs(layer, x)?;
        let mixed = self.row_conv(&name("ssm_conv1d"), all)?;
        let mixed = self.apply(&name("ssm_mixed"), Unary::Silu, &[mixed]);
        // By its length: a root of the mean square is that over √key. Queries are divided by √key.
        let unit = |b: &mut Self, what: &str, from: usize, weight: f32| {
            let rows = b.columns(&name(what), mixed, from, from + keys)?;
            let rows = b.reshaped(&name(&format!("{what}_heads")), rows, &[key_heads, key])?;
            let weight = b.filled(key, weight)?;
            let norm = RmsNorm { axis: -1, epsilon: 1e-6 / key as f32 };
            let rows = b.apply(&name(&format!("{what}_unit")), norm, &[rows, weight]);
            b.reshaped(&name(&format!("{what}_row")), rows, &[keys])
        };
        let q = unit(self, "ssm_q", 0, 1.0 / key as f32)?;
        let k = unit(self, "ssm_k", keys, 1.0 / (key as f32).sqrt())?;
        let v = self.columns(&name("ssm_v"), mixed, 2 * keys, 2 * keys + s.inner)?;
        let [beta, alpha] = self.delta_gates(layer, x)?;
        let beta = self.apply(&name("ssm_beta_share"), Unary::Sigmoid, &[beta]);
        let bias = self.required(&name("ssm_dt.bias"))?;
        let alpha = self.binary(&name("ssm_dt"), BinaryFn::Add, alpha, bias);
        let step = self.apply(&name("ssm_step"), Unary::Softplus, &[alpha]);
        let a = self.required(&name("ssm_a"))?;
        let a = self.flat(&name("ssm_a.flat"), a)?;
        let fade = self.binary(&name("ssm_fade"), BinaryFn::Mul, step, a);
        let held = [self.build.sequences, heads, key, value];
        let op = DeltaRule {
            state: self.state(name("ssm_memory"), DType::F32, &held),
            heads,
            key_heads,
            key,
            value,
            strided: self.family.strided_keys,
        };
        let rows = (self.rows.sequences, self.rows.positions);
        let y = self.apply(&name("ssm_delta"), op, &[q, k, v, fade, beta, rows.0, rows.1]);
        let y = self.reshaped(&name("ssm_heads"), y, &[heads, value])?;
        let y = self.norm(&name("ssm_norm"), y)?;
        let y = self.reshaped(&name("ssm_row"), y, &[s.inner])?;
        let gate = self.apply(&name("attn_gate_open"), Unary::Silu, &[gate]);
        let y = self.binary(&name("ssm_gated"), BinaryFn::Mul, y, gate);
        self.linear(&name("ssm_out"), y, Order::ScaleFirst)
    }

    /// The delta rule's queries, keys and values in one row, and the numbers that gate its result.
    fn delta_inputs(&mut self, layer: usize, x: ValueId) -> Result<[ValueId; 2]> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        if !self.has(&name("ssm_in.weight")) {
            let all = self.linear(&name("attn_qkv"), x, Order::ScaleFirst)?;
            return Ok([all, self.linear(&name("attn_gate"), x, Order::ScaleFirst)?]);
        }
        // Qwen3-Next's first files: all in one weight, in turns by heads of keys.
        let s = &self.config.state_space;
        let (key, values) = (s.state, s.inner / s.groups);
        let all = self.linear(&name("ssm_in"), x, Order::ScaleFirst)?;
        let parts = [("q", key), ("k", key), ("v", values), ("z", values)];
        let [q, k, v, z] = self.turns(&name("ssm_in"), all, parts)?;
        let join = Concat { axis: -1 };
        Ok([self.apply(&name("ssm_qkv"), join, &[q, k, v]), z])
    }

    /// The delta rule's β and α, before their functions.
    fn delta_gates(&mut self, layer: usize, x: ValueId) -> Result<[ValueId; 2]> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        if !self.has(&name("ssm_ba.weight")) {
            let beta = self.linear(&name("ssm_beta"), x, Order::ScaleFirst)?;
            return Ok([beta, self.linear(&name("ssm_alpha"), x, Order::ScaleFirst)?]);
        }
        let s = &self.config.state_space;
        let each = s.rank / s.groups;
        let both = self.linear(&name("ssm_ba"), x, Order::ScaleFirst)?;
        self.turns(&name("ssm_ba"), both, [("beta", each), ("alpha", each)])
    }

    /// The parts of `x`, in which those of each head of keys lie side by side; each part's heads in
    /// one row. `parts`: their names and sizes.
    fn turns<const N: usize>(
        &mut self,
        name: &str,
        x: ValueId,
        parts: [(&str, usize); N],
    ) -> Result<[ValueId; N]> {
        let groups = self.config.state_space.groups;
        let size = parts.iter().map(|(_, n)| n).sum();
        let heads = self.reshaped(&format!("{name}.heads"), x, &[groups, size])?;
        let (mut all, mut from) = ([x; N], 0);
        for (out, (part, n)) in all.iter_mut().zip(parts) {
            let own = self.columns(&format!("{name}.{part}"), heads, from, from + n)?;
            *out = self.reshaped(&format!("{name}.{part}_row"), own, &[groups * n])?;
            from += n;
        }
        Ok(all)
    }

    /// Mamba's and Mamba 2's layer.
    pub(super) fn state_space(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let s = self.config.state_space.clone();
        let second = !self.has(&name("ssm_x.weight"));
        let groups = s.groups.max(1);
        let grouped = groups * s.state;
        let all = self.linear(&name("ssm_in"), x, Order::ScaleFirst)?;
        // Mamba: x, z. Mamba 2: z, x and b and c, δ.
        let (z, wide) = match second {
            false => ([s.inner, 2 * s.inner], [0, s.inner]),
            true => ([0, s.inner], [s.inner, 2 * s.inner + 2 * grouped]),
        };
        let z = self.columns(&name("ssm_z"), all, z[0], z[1])?;
        let wide_rows = self.columns(&name("ssm_wide"), all, wide[0], wide[1])?;
        let mixed = self.row_conv(&name("ssm_conv1d"), wide_rows)?;
        let mixed = self.apply(&name("ssm_mixed"), Unary::Silu, &[mixed]);
        let parts = |b: &mut Self, from: ValueId, at: usize| -> Result<[ValueId; 2]> {
            let first = b.columns(&name("ssm_b"), from, at, at + grouped)?;
            Ok([first, b.columns(&name("ssm_c"), from, at + grouped, at + 2 * grouped)?])
        };
        let (x, delta, [b, c]) = if second {
            let x = self.columns(&name("ssm_x"), mixed, 0, s.inner)?;
            let bc = parts(self, mixed, s.inner)?;
            let delta = self.columns(&name("ssm_delta"), all, wide[1], wide[1] + s.rank)?;
            let bias = self.required(&name("ssm_dt.bias"))?;
            (x, self.binary(&name("ssm_dt"), BinaryFn::Add, delta, bias), bc)
        } else {
            let told = self.linear(&name("ssm_x"), mixed, Order::ScaleFirst)?;
            let mut delta = self.columns(&name("ssm_delta"), told, 0, s.rank)?;
            let mut bc = parts(self, told, s.rank)?;
            for (part, value) in [("ssm_dt_norm", &mut delta)]
                .into_iter()
                .chain(["ssm_b_norm", "ssm_c_norm"].into_iter().zip(&mut bc))
            {
                if self.has(&name(&format!("{part}.weight"))) {
                    *value = self.norm(&name(part), *value)?;
                }
            }
            let weight = self.required(&name("ssm_dt.weight"))?;
            let bias = self.required(&name("ssm_dt.bias"))?;
            let delta = self.apply(&name("ssm_dt"), Linear::default(), &[delta, weight, bias]);
            (mixed, delta, bc)
        };
        let delta = self.apply(&name("ssm_step"), Unary::Softplus, &[delta]);
        let (heads, size) = if second { (s.rank, s.inner / s.rank.max(1)) } else { (s.inner, 1) };
        let held = [self.build.sequences, heads, size, s.state];
        let op = SelectiveScan {
            state: self.state(name("ssm_memory"), DType::F32, &held),
            heads,
            size,
            keys: s.state,
            groups,
        };
        let a = self.required(&name("ssm_a"))?;
        let d = self.required(&name("ssm_d"))?;
        let d = self.flat(&name("ssm_d.flat"), d)?;
        let rows = (self.rows.sequences, self.rows.positions);
        let y = self.apply(&name("ssm_scan"), op, &[x, delta, a, b, c, d, rows.0, rows.1]);
        let gate = self.apply(&name("ssm_gate"), Unary::Silu, &[z]);
        let mut y = self.binary(&name("ssm_gated"), BinaryFn::Mul, y, gate);
        if self.has(&name("ssm_norm.weight")) {
            // Each group by itself.
            let weight = self.required(&name("ssm_norm.weight"))?;
            let split = self.reshaped(&name("ssm_groups"), y, &[groups, s.inner / groups])?;
            let weight =
                self.shaped_weight(&name("ssm_norm.groups"), weight, &[groups, s.inner / groups])?;
            let op = RmsNorm { axis: -1, epsilon: self.config.epsilon };
            let unit = self.ones(s.inner / groups)?;
            let normed = self.apply(&name("ssm_normed"), op, &[split, unit]);
            let normed = self.binary(&name("ssm_norm"), BinaryFn::Mul, normed, weight);
            y = self.reshaped(&name("ssm_row"), normed, &[s.inner])?;
        }
        self.linear(&name("ssm_out"), y, Order::ScaleFirst)
    }
}
