//! The part of a layer that looks at each row by itself: dense, or a mixture of experts.

use super::builder::{Builder, Order, Result, missing};
use super::family::Function;
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::gather::{Gather, GatherElements};
use kinglet_graph::ops::logic::{Compare, Where};
use kinglet_graph::ops::order::TopK;
use kinglet_graph::ops::reduce::{Reduce, ReduceKind};
use kinglet_graph::ops::rows::{ExpertLinear, Linear};
use kinglet_graph::ops::softmax::Softmax;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, Shape, Tensor, ValueId, ValueType};

impl Builder<'_> {
    /// The layer whose feed-forward part layer `layer` runs: its own, or the only one that there is,
    /// which all share (MobiLlama). `None` where no layer has one.
    pub(super) fn feeding(&self, layer: usize) -> Result<Option<usize>> {
        // Any of them: where one is missing, it is said which.
        let parts =
            ["ffn_up", "ffn_gate", "ffn_down", "ffn_up_exps", "ffn_down_exps", "ffn_gate_inp"];
        let has = |i: &usize| parts.iter().any(|p| self.has(&format!("blk.{i}.{p}.weight")));
        if has(&layer) {
            return Ok(Some(layer));
        }
        let mut having = (0..self.config.layers).filter(has);
        match (having.next(), having.next()) {
            (one, None) => Ok(one),
            _ => Err(missing(&format!("blk.{layer}.ffn_up.weight"))),
        }
    }

    /// The feed-forward of rows `x`; `routed`: what the router of experts reads.
    pub(super) fn feed_forward(
        &mut self,
        layer: usize,
        x: ValueId,
        routed: ValueId,
    ) -> Result<ValueId> {
        if self.has(&format!("blk.{layer}.ffn_gate_inp.weight")) {
            self.experts(layer, x, routed)
        } else {
            self.dense(&format!("blk.{layer}."), "", x)
        }
    }

    /// A dense feed-forward by the weights `{prefix}ffn_up{suffix}` and their like.
    fn dense(&mut self, prefix: &str, suffix: &str, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("{prefix}{part}{suffix}");
        let (up, gate, down) = (name("ffn_up"), name("ffn_gate"), name("ffn_down"));
        let rows =
            self.dims(&format!("{up}.weight")).ok_or_else(|| missing(&format!("{up}.weight")))?;
        let wide = self.dims(&format!("{down}.weight")).and_then(|d| d.last().copied());
        let hidden = if self.has(&format!("{gate}.weight")) {
            let g = self.linear(&gate, x, Order::BiasFirst)?;
            let u = self.linear(&up, x, Order::BiasFirst)?;
            self.gated(&name("ffn_gated"), &name("ffn_act"), g, u)?
        } else if wide.is_some_and(|w| rows.first() == Some(&(2 * w))) {
            // Gate and up in one weight, the gate first.
            let n = rows[0] / 2;
            let g = self.linear_rows(&gate, &up, x, Order::BiasFirst, Some((0, n)))?;
            let u = self.linear_rows(&up, &up, x, Order::BiasFirst, Some((n, n)))?;
            self.gated(&name("ffn_gated"), &name("ffn_act"), g, u)?
        } else {
            let u = self.linear(&up, x, Order::BiasFirst)?;
            self.activated(&name("ffn_act"), u)
        };
        self.linear(&down, hidden, Order::BiasFirst)
    }

    /// The function of a gate, times up.
    fn gated(&mut self, name: &str, act: &str, gate: ValueId, up: ValueId) -> Result<ValueId> {
        let Function::ClampedSwiglu { alpha, limit } = self.family.activation else {
            let gate = self.activated(act, gate);
            return Ok(self.binary(name, BinaryFn::Mul, gate, up));
        };
        let below = Unary::Clamp { min: f32::MIN, max: limit };
        let gate = self.apply(&format!("{act}.below"), below, &[gate]);
        let within = Unary::Clamp { min: -limit, max: limit };
        let up = self.apply(&format!("{act}.within"), within, &[up]);
        let steep = self.scaled(&format!("{act}.steep"), gate, alpha)?;
        let share = self.apply(&format!("{act}.share"), Unary::Sigmoid, &[steep]);
        let gate = self.binary(act, BinaryFn::Mul, gate, share);
        // g (u + 1)
        let product = self.binary(&format!("{act}.product"), BinaryFn::Mul, gate, up);
        Ok(self.binary(name, BinaryFn::Add, product, gate))
    }

    fn activated(&mut self, name: &str, x: ValueId) -> ValueId {
        match self.family.activation {
            Function::Of(function) => self.apply(name, function, &[x]),
            // It needs a gate: without one, its function of the gate alone.
            Function::ClampedSwiglu { .. } => self.apply(name, Unary::Silu, &[x]),
            Function::ReluSquared => {
                let x = self.apply(&format!("{name}.relu"), Unary::Relu, &[x]);
                self.binary(name, BinaryFn::Mul, x, x)
            }
        }
    }

    /// The shares of the chosen by SparseMixer (arXiv 2409.12136): of each, its part of a softmax over
    /// those that come close to it and were not chosen before it.
    fn sparse_mixer(&mut self, layer: usize, logits: ValueId, best: ValueId) -> Result<ValueId> {
        /// How close, as a part of the larger.
        const CLOSE: f32 = 0.02;
        let name = |part: &str| format!("blk.{layer}.ffn_mixer.{part}");
        let experts = &self.config.experts;
        let all = self.reshaped(&name("all"), logits, &[1, experts.count])?;
        let best = self.reshaped(&name("best"), best, &[experts.used, 1])?;
        let below = self.binary(&name("below"), BinaryFn::Sub, best, all);
        let size = self.apply(&name("size"), Unary::Abs, &[all]);
        let larger = self.binary(&name("larger"), BinaryFn::Max, size, best);
        let reach = self.scaled(&name("reach"), larger, CLOSE)?;
        let none = self.graph.add_constant(name("none"), Tensor::scalar(0.0f32));
        let compare = |b: &mut Self, part: &str, how: Compare, with: ValueId| {
            b.graph.apply(name(part), how, &[below, with], DType::Bool)
        };
        let near = compare(self, "near", Compare::LessOrEqual, reach);
        let left = compare(self, "left", Compare::GreaterOrEqual, none);
        let distance = self.apply(&name("distance"), Unary::Abs, &[below]);
        let fall = self.apply(&name("fall"), Unary::Neg, &[distance]);
        let parts = self.apply(&name("parts"), Unary::Exp, &[fall]);
        let parts = self.apply(&name("near_parts"), Where, &[near, parts, none]);
        let parts = self.apply(&name("left_parts"), Where, &[left, parts, none]);
        let axis = self.ints(&name("axis"), &[-1])?;
        let sum = Reduce { kind: ReduceKind::Sum, keep_dims: false, none_by_default: false };
        let total = self.apply(&name("total"), sum, &[parts, axis]);
        Ok(self.apply(&name("share"), Unary::Reciprocal, &[total]))
    }

    fn experts(&mut self, layer: usize, x: ValueId, routed: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let config = self.config;
        let (router, experts) = (self.family.router, &config.experts);
        let logits = self.linear(&name("ffn_gate_inp"), routed, Order::ScaleFirst)?;
        let softmax = Softmax { axis: -1, flatten: false, beta: 1.0 };
        let gating = experts.gating.filter(|g| *g != 0).unwrap_or(router.gating);
        let scores = match gating {
            2 => self.apply(&name("ffn_scores"), Unary::Sigmoid, &[logits]),
            3 | 4 => logits,
            _ => self.apply(&name("ffn_scores"), softmax, &[logits]),
        };
        // A bias may decide who is chosen, but not what the choice weighs.
        let ranked = match self.constant(&name("exp_probs_b.bias")) {
            Some(bias) => self.binary(&name("ffn_ranked"), BinaryFn::Add, scores, bias),
            None => scores,
        };
        let used = self.ints(&name("ffn_used"), &[experts.used as i64])?;
        let value = |b: &mut Self, part: &str, dtype| {
            b.graph.add_value(name(part), ValueType::new(dtype, Shape::unknown()))
        };
        let best = value(self, "ffn_best", DType::F32);
        let chosen = value(self, "ffn_chosen", DType::I32);
        let top = TopK { axis: -1, largest: true, index: DType::I32 };
        self.graph.add_node(
            name("ffn_top"),
            top,
            vec![Some(ranked), Some(used)],
            vec![best, chosen],
        );
        let mut weights = match ranked == scores {
            true => best,
            false => {
                self.apply(&name("ffn_picked"), GatherElements { axis: -1 }, &[scores, chosen])
            }
        };
        if gating == 3 {
            weights = self.apply(&name("ffn_weights"), softmax, &[weights]);
        }
        if gating == 4 {
            weights = self.sparse_mixer(layer, logits, weights)?;
        }
        if experts.normalised.unwrap_or(router.normalised) && gating < 3 {
            let axis = self.ints(&name("ffn_axis"), &[-1])?;
            let sum = Reduce { kind: ReduceKind::Sum, keep_dims: true, none_by_default: false };
            let total = self.apply(&name("ffn_total"), sum, &[weights, axis]);
            weights = self.binary(&name("ffn_normalised"), BinaryFn::Div, weights, total);
        }
        if let Some(scale) = experts.scale.filter(|s| *s != 0.0 && *s != 1.0) {
            weights = self.scaled(&name("ffn_scaled"), weights, scale)?;
        }
        let expert = |b: &mut Self, part: &str, x: ValueId| -> Result<ValueId> {
            let weight = b.required(&name(&format!("{part}.weight")))?;
            let mut inputs = vec![x, weight, chosen];
            inputs.extend(b.constant(&name(&format!("{part}.bias"))));
            let y = b.apply(&name(part), ExpertLinear, &inputs);
            let counts = b.family.feed_forward_scales;
            let scale = counts.then(|| b.constant(&name(&format!("{part}.scale")))).flatten();
            let Some(scale) = scale else { return Ok(y) };
            // A scale for each expert, or one for all.
            let scale = match b.dims(&name(&format!("{part}.scale"))).as_deref() {
                Some([1]) | None => scale,
                Some(_) => {
                    let pick = Gather { axis: 0, batch_dims: 0 };
                    let picked = b.apply(&name(&format!("{part}.scales")), pick, &[scale, chosen]);
                    b.reshaped(&name(&format!("{part}.each")), picked, &[experts.used, 1])?
                }
            };
            Ok(b.binary(&name(&format!("{part}.scaled")), BinaryFn::Mul, y, scale))
        };
        let [gate, up] = match self.dims(&name("ffn_gate_up_exps.weight")).as_deref() {
            // Gate and up in one weight, the gate first.
            Some([_, rows, _]) => {
                let both = expert(self, "ffn_gate_up_exps", x)?;
                let half = |b: &mut Self, part: &str, from: usize| {
                    b.columns(&name(part), both, from, from + rows / 2)
                };
                [half(self, "ffn_gate_exps", 0)?, half(self, "ffn_up_exps", rows / 2)?]
            }
            _ => [expert(self, "ffn_gate_exps", x)?, expert(self, "ffn_up_exps", x)?],
        };
        let hidden = self.gated(&name("ffn_gated"), &name("ffn_act"), gate, up)?;
        let down = expert(self, "ffn_down_exps", hidden)?;
        let weights = self.reshaped(&name("ffn_shares"), weights, &[experts.used, 1])?;
        let shared = self.binary(&name("ffn_weighted"), BinaryFn::Mul, down, weights);
        let axis = self.ints(&name("ffn_experts"), &[1])?;
        let sum = Reduce { kind: ReduceKind::Sum, keep_dims: false, none_by_default: false };
        let mixture = self.apply(&name("ffn_mixture"), sum, &[shared, axis]);
        if !self.has(&name("ffn_up_shexp.weight")) {
            return Ok(mixture);
        }
        let mut common = self.dense(&format!("blk.{layer}."), "_shexp", x)?;
        if self.has(&name("ffn_gate_inp_shexp.weight")) {
            let weight = self.required(&name("ffn_gate_inp_shexp.weight"))?;
            let share = match self.dims(&name("ffn_gate_inp_shexp.weight")).as_deref() {
                // One row, as GGUF has it without its first dimension.
                Some([_]) => {
                    let width = self.config.width;
                    self.shaped_weight(&name("ffn_gate_inp_shexp.row"), weight, &[1, width])?
                }
                _ => weight,
            };
            let logit = self.apply(&name("ffn_common_logit"), Linear::default(), &[x, share]);
            let share = self.apply(&name("ffn_common_share"), Unary::Sigmoid, &[logit]);
            common = self.binary(&name("ffn_common"), BinaryFn::Mul, common, share);
        }
        Ok(self.binary(&name("ffn_all"), BinaryFn::Add, mixture, common))
    }
}
