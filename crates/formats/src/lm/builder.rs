//! The builder: a graph of one step over rows, from a model's numbers, tensors and family.

use super::config::Config;
use super::family::{EmbeddingScale, Family, LogitScale, Norm, Norms, RopeStyle};
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::norm::{LayerNorm, RmsNorm};
use kinglet_graph::ops::reshape::Reshape;
use kinglet_graph::ops::rows::{Angles, Embedding, Linear, Rotate};
use kinglet_graph::ops::slice::Slice;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{
    DType, Dim, Fold, Graph, GraphError, Op, Shape, State, StateId, Tensor, ValueId, ValueType,
};
use std::collections::HashMap;

/// The tensors of a model, under GGUF's names (`blk.0.attn_q.weight`).
pub trait Weights {
    /// The tensor called `name`, if there is one.
    fn tensor(&self, name: &str) -> Option<Tensor>;
}

/// Sizes that a step's graph is built for.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Pages of cells for keys and values, of [`kinglet_graph::ops::rows::PAGE`] cells each.
    pub pages: usize,
    /// Sequences that can be told apart.
    pub sequences: usize,
    /// What keys and values are held as: f32, f16 or blocks of Q8_0.
    pub cache: DType,
}

/// The inputs of the step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub tokens: ValueId,
    pub positions: ValueId,
    pub sequences: ValueId,
    pub parents: ValueId,
    pub slots: ValueId,
    pub pages: ValueId,
    pub wanted: ValueId,
}

/// A graph in the making.
pub(super) struct Builder<'a> {
    pub graph: Graph,
    pub config: &'a Config,
    pub family: &'a Family,
    pub build: Build,
    pub rows: Rows,
    weights: &'a dyn Weights,
    constants: HashMap<String, ValueId>,
    angles: HashMap<bool, (ValueId, ValueId)>,
}

pub(super) type Result<T> = std::result::Result<T, GraphError>;

/// The graph of one step over rows.
///
/// Inputs, all i32: `tokens`, `positions`, `sequences`, `parents`, `slots` of each row, [n];
/// `pages` of each sequence, [sequences, pages]; `wanted`, the rows whose logits are asked for, [m].
/// Output `logits`: f32 [m, vocabulary]. [`kinglet_graph::ops::rows`] says what they mean.
///
/// Fails where a tensor is missing or of another shape than the numbers say, naming it.
pub fn build(
    config: &Config,
    family: &Family,
    weights: &dyn Weights,
    build: Build,
) -> Result<Graph> {
    if family.encoder {
        let m = format!("{} is an encoder: it embeds texts, and writes none", family.name);
        return Err(GraphError::new("architecture", m));
    }
    let mut graph = Graph::new(config.architecture.clone());
    let n = Dim::symbol("rows");
    let mut input = |name: &str, dims: Vec<Dim>| {
        graph.add_input(name, ValueType::new(DType::I32, Shape::new(dims)))
    };
    let rows = Rows {
        tokens: input("tokens", vec![n.clone()]),
        positions: input("positions", vec![n.clone()]),
        sequences: input("sequences", vec![n.clone()]),
        parents: input("parents", vec![n.clone()]),
        slots: input("slots", vec![n]),
        pages: input("pages", vec![build.sequences.into(), build.pages.into()]),
        wanted: input("wanted", vec![Dim::symbol("wanted")]),
    };
    let mut b = Builder::new(graph, config, family, rows, weights);
    b.build = build;
    b.model()?;
    b.finish()
}

impl<'a> Builder<'a> {
    /// A builder that has put nothing into `graph`.
    pub fn new(
        graph: Graph,
        config: &'a Config,
        family: &'a Family,
        rows: Rows,
        weights: &'a dyn Weights,
    ) -> Builder<'a> {
        let (constants, angles) = (HashMap::new(), HashMap::new());
        let build = Build { pages: 0, sequences: 0, cache: DType::F32 };
        Builder { graph, config, family, build, rows, weights, constants, angles }
    }

    /// The graph, checked.
    pub fn finish(self) -> Result<Graph> {
        let mut graph = self.graph;
        graph.metadata.format = "lm".into();
        // Tells of a tensor of another shape than it must have, by the node that it is for.
        kinglet_graph::infer(&mut graph, Fold::Shapes)?;
        graph.verify()?;
        Ok(graph)
    }
}

impl Rows {
    /// The rows of one text by itself, which have no memory.
    pub fn of_text(tokens: ValueId, positions: ValueId) -> Rows {
        let none = tokens;
        Rows {
            tokens,
            positions,
            sequences: none,
            parents: none,
            slots: none,
            pages: none,
            wanted: none,
        }
    }
}

impl Builder<'_> {
    fn model(&mut self) -> Result<()> {
        let table = self.required("token_embd.weight")?;
        let mut x = self.apply("embeddings", Embedding, &[self.rows.tokens, table]);
        let factor = match self.family.embedding {
            EmbeddingScale::None => None,
            EmbeddingScale::RootWidth => Some((self.config.width as f32).sqrt()),
            EmbeddingScale::Config => self.config.embedding_scale,
        };
        if let Some(factor) = factor {
            x = self.scaled("embeddings.scaled", x, factor)?;
        }
        if self.has("position_embd.weight") {
            let table = self.required("position_embd.weight")?;
            let p = self.apply("position_embeddings", Embedding, &[self.rows.positions, table]);
            x = self.binary("embeddings.placed", BinaryFn::Add, x, p);
        }
        if self.has("token_embd_norm.weight") && !self.ends_with_embedding_norm() {
            x = self.norm("token_embd_norm", x)?;
        }
        let repeats = self.config.repeats.max(1);
        let count = self.config.layers * repeats;
        for i in 0..count {
            x = self.layer(i / repeats, x, i + 1 == count)?;
        }
        if count == 0 {
            x = self.wanted("embeddings", x);
        }
        let last = if self.has("output_norm.weight") { "output_norm" } else { "token_embd_norm" };
        let x = self.norm(last, x)?;
        let logits = self.logits(x)?;
        self.graph.value_mut(logits).name = "logits".into();
        self.graph.outputs.push(logits);
        Ok(())
    }

    /// LFM2 keeps its last norm under the embeddings' name.
    fn ends_with_embedding_norm(&self) -> bool {
        !self.has("output_norm.weight")
    }

    fn logits(&mut self, x: ValueId) -> Result<ValueId> {
        let mut y = if self.has("output.weight") {
            self.linear("output", x, Order::ScaleFirst)?
        } else {
            let table = self.required("token_embd.weight")?;
            self.apply("output", Linear::default(), &[x, table])
        };
        let scale = self.config.logit_scale.filter(|s| *s != 0.0 && *s != 1.0);
        let factor = match self.family.logits {
            LogitScale::None => None,
            LogitScale::Multiply => scale,
            LogitScale::Divide => scale.map(|s| 1.0 / s),
        };
        if let Some(factor) = factor {
            y = self.scaled("logits.scaled", y, factor)?;
        }
        if let Some(cap) = self.config.logit_softcap.filter(|_| self.family.logit_softcap) {
            let small = self.scaled("logits.small", y, 1.0 / cap)?;
            let bounded = self.apply("logits.bounded", Unary::Tanh, &[small]);
            y = self.scaled("logits.capped", bounded, cap)?;
        }
        Ok(y)
    }

    /// The rows of `x` whose logits are asked for.
    fn wanted(&mut self, of: &str, x: ValueId) -> ValueId {
        let gather = kinglet_graph::ops::gather::Gather::default();
        self.apply(&format!("wanted_rows.{of}"), gather, &[x, self.rows.wanted])
    }

    /// A layer; of the last one's rows only those that are wanted go on after the mixer, which is the
    /// last that needs the others.
    fn layer(&mut self, layer: usize, x: ValueId, last: bool) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let after_only = self.family.norms == Norms::After;
        let normed = if after_only { x } else { self.norm(&name("attn_norm"), x)? };
        let routed = if self.family.router.early { x } else { normed };
        // Falcon 40B's attention has a norm of its own.
        let own = name("attn_norm_2");
        let has_own = self.has(&format!("{own}.weight"));
        let read = if has_own { self.norm(&own, x)? } else { normed };
        let mut mixed = self.mixer(layer, read)?;
        for after in ["post_attention_norm", "attn_post_norm"] {
            if after != self.family.feed_norm && self.has(&name(&format!("{after}.weight"))) {
                mixed = self.norm(&name(after), mixed)?;
            }
        }
        let parallel = self.family.parallel || self.config.parallel;
        let (mut x, mut normed, mut routed) = (x, normed, routed);
        if last {
            mixed = self.wanted("mixed", mixed);
            // What is used by nobody is removed.
            x = self.wanted("x", x);
            normed = self.wanted("normed", normed);
            routed = self.wanted("routed", routed);
        }
        if parallel {
            let second = name(self.family.feed_norm);
            let second =
                if self.has(&format!("{second}.weight")) { self.norm(&second, x)? } else { normed };
            let fed = self.feed_forward(layer, second, routed)?;
            let sum = self.binary(&name("mixed"), BinaryFn::Add, mixed, fed);
            return Ok(self.binary(&name("out"), BinaryFn::Add, x, sum));
        }
        let mixed = self.residual(&name("mixed"), mixed)?;
        let x = self.binary(&name("attn_out"), BinaryFn::Add, x, mixed);
        let Some(feeding) = self.feeding(layer)? else { return Ok(x) };
        let normed = if after_only { x } else { self.norm(&name(self.family.feed_norm), x)? };
        let routed = if self.family.router.early { routed } else { normed };
        let mut fed = self.feed_forward(feeding, normed, routed)?;
        if self.has(&name("post_ffw_norm.weight")) {
            fed = self.norm(&name("post_ffw_norm"), fed)?;
        }
        let fed = self.residual(&name("fed"), fed)?;
        Ok(self.binary(&name("out"), BinaryFn::Add, x, fed))
    }

    fn residual(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        match self.config.residual_scale.filter(|s| self.family.residual_scale && *s != 0.0) {
            Some(scale) => self.scaled(name, x, scale),
            None => Ok(x),
        }
    }

    /// Whether layer `i` sees a window only.
    pub fn windowed(&self, i: usize) -> bool {
        let from_file = self.config.windowed.as_ref().and_then(|w| w.get(i).copied());
        self.config.window.is_some()
            && from_file.unwrap_or_else(|| self.family.windows.has(i, false))
    }

    /// The cosines and sines of the rows' positions, for layers with a window or without.
    pub fn angles(&mut self, windowed: bool) -> Result<(ValueId, ValueId)> {
        let rope = &self.config.rope;
        let plain = Some(rope.base).filter(|_| self.family.plain_windows);
        let local_base = rope.local_base.or(self.family.local_base).or(plain);
        let local = local_base.filter(|_| windowed);
        if let Some(angles) = self.angles.get(&local.is_some()) {
            return Ok(*angles);
        }
        let (frequencies, scale) = self.config.rope.frequencies(
            local,
            |name| {
                self.weights.tensor(name).and_then(|t| t.slice::<f32>().ok().map(<[f32]>::to_vec))
            },
            self.build.pages / self.build.sequences.max(1) * kinglet_graph::ops::rows::PAGE,
        );
        let tensor = Tensor::from_slice(&[frequencies.len()], &frequencies)
            .map_err(|e| GraphError::new("rope", e.to_string()))?;
        let name = if local.is_some() { "rope.local" } else { "rope" };
        let frequencies = self.graph.add_constant(format!("{name}.frequencies"), tensor);
        let ty = || ValueType::new(DType::F32, Shape::unknown());
        let cos = self.graph.add_value(format!("{name}.cos"), ty());
        let sin = self.graph.add_value(format!("{name}.sin"), ty());
        let inputs = vec![Some(self.rows.positions), Some(frequencies)];
        self.graph.add_node(name, Angles { scale }, inputs, vec![cos, sin]);
        self.angles.insert(local.is_some(), (cos, sin));
        Ok((cos, sin))
    }

    /// `x` with its heads of `size` elements rotated, from element `start` of each.
    pub fn rotated(
        &mut self,
        name: &str,
        x: ValueId,
        size: usize,
        start: usize,
        windowed: bool,
    ) -> Result<ValueId> {
        let interleaved = match self.family.rope {
            RopeStyle::None => return Ok(x),
            RopeStyle::Interleaved => true,
            RopeStyle::Halves => false,
        };
        let (cos, sin) = self.angles(windowed)?;
        Ok(self.apply(name, Rotate { size, start, interleaved }, &[x, cos, sin]))
    }

    // Pieces that everything above is made of.

    /// A node of one f32 output.
    pub fn apply(&mut self, name: &str, op: impl Op, inputs: &[ValueId]) -> ValueId {
        self.graph.apply(name, op, inputs, DType::F32)
    }

    /// The same, of inputs that may be left out.
    pub fn apply_optional(
        &mut self,
        name: &str,
        op: impl Op,
        inputs: Vec<Option<ValueId>>,
    ) -> ValueId {
        let out = self.graph.add_value(name, ValueType::new(DType::F32, Shape::unknown()));
        self.graph.add_node(name, op, inputs, vec![out]);
        out
    }

    /// A function of two values' elements.
    pub fn binary(&mut self, name: &str, function: BinaryFn, a: ValueId, b: ValueId) -> ValueId {
        self.apply(name, Binary::new(function), &[a, b])
    }

    /// `x` times a number.
    pub fn scaled(&mut self, name: &str, x: ValueId, factor: f32) -> Result<ValueId> {
        let factor = self.graph.add_constant(format!("{name}.factor"), Tensor::scalar(factor));
        Ok(self.binary(name, BinaryFn::Mul, x, factor))
    }

    /// A constant of integers.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> Result<ValueId> {
        let tensor = Tensor::from_slice(&[values.len()], values)
            .map_err(|e| GraphError::new(name, e.to_string()))?;
        Ok(self.graph.add_constant(name, tensor))
    }

    /// `x` [n, ..] under other sizes for a row.
    pub fn reshaped(&mut self, name: &str, x: ValueId, row: &[usize]) -> Result<ValueId> {
        let sizes: Vec<i64> = [0].into_iter().chain(row.iter().map(|d| *d as i64)).collect();
        let sizes = self.ints(&format!("{name}.sizes"), &sizes)?;
        Ok(self.apply(name, Reshape::default(), &[x, sizes]))
    }

    /// A weight under other sizes.
    pub fn shaped_weight(
        &mut self,
        name: &str,
        weight: ValueId,
        dims: &[usize],
    ) -> Result<ValueId> {
        let sizes: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
        let sizes = self.ints(&format!("{name}.sizes"), &sizes)?;
        Ok(self.apply(name, Reshape::default(), &[weight, sizes]))
    }

    /// A weight as a vector.
    pub fn flat(&mut self, name: &str, weight: ValueId) -> Result<ValueId> {
        let sizes = self.ints(&format!("{name}.sizes"), &[-1])?;
        Ok(self.apply(name, Reshape::default(), &[weight, sizes]))
    }

    /// Columns `start..end` of the last dimension of `x`.
    pub fn columns(&mut self, name: &str, x: ValueId, start: usize, end: usize) -> Result<ValueId> {
        let starts = self.ints(&format!("{name}.start"), &[start as i64])?;
        let ends = self.ints(&format!("{name}.end"), &[end as i64])?;
        let axes = self.ints(&format!("{name}.axis"), &[-1])?;
        Ok(self.apply(name, Slice, &[x, starts, ends, axes]))
    }

    /// The norm of the family, by the weights of `name`; its bias where there is one.
    pub fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        let epsilon = self.config.epsilon;
        let scale = match self.constant(&format!("{name}.weight")) {
            Some(scale) => scale,
            // OLMo's norm has no weights at all.
            None if self.family.norm == Norm::Layer => self.ones(self.config.width)?,
            None => return Err(missing(&format!("{name}.weight"))),
        };
        Ok(match self.family.norm {
            Norm::Rms => self.apply(name, RmsNorm { axis: -1, epsilon }, &[x, scale]),
            Norm::Layer => {
                let mut inputs = vec![x, scale];
                inputs.extend(self.constant(&format!("{name}.bias")));
                self.apply(name, LayerNorm { axis: -1, epsilon }, &inputs)
            }
        })
    }

    /// A vector of ones.
    pub fn ones(&mut self, n: usize) -> Result<ValueId> {
        self.filled(n, 1.0)
    }

    /// A vector of one number.
    pub fn filled(&mut self, n: usize, value: f32) -> Result<ValueId> {
        let name = format!("all.{value}.{n}");
        if let Some(id) = self.constants.get(&name) {
            return Ok(*id);
        }
        let tensor = Tensor::from_slice(&[n], &vec![value; n])
            .map_err(|e| GraphError::new("norm", e.to_string()))?;
        let id = self.graph.add_constant(name.clone(), tensor);
        self.constants.insert(name, id);
        Ok(id)
    }

    /// The product with the weights of `name`, with its bias and its scale where there are some.
    pub fn linear(&mut self, name: &str, x: ValueId, order: Order) -> Result<ValueId> {
        self.linear_rows(name, name, x, order, None)
    }

    /// As [`Builder::linear`], by rows `part` (first, how many) of the weights of `weights`.
    pub fn linear_rows(
        &mut self,
        name: &str,
        weights: &str,
        x: ValueId,
        order: Order,
        part: Option<(usize, usize)>,
    ) -> Result<ValueId> {
        let weight = self.part(&format!("{weights}.weight"), part)?;
        let weight = weight.ok_or_else(|| missing(&format!("{weights}.weight")))?;
        let bias = self.part(&format!("{weights}.bias"), part)?;
        let counts = match order {
            Order::ScaleFirst => part.is_none(),
            Order::BiasFirst => self.family.feed_forward_scales,
        };
        let scale = counts.then(|| self.constant(&format!("{weights}.scale"))).flatten();
        let plain = scale.is_none() || order == Order::BiasFirst;
        let mut inputs = vec![x, weight];
        inputs.extend(bias.filter(|_| plain));
        let mut y = self.apply(name, Linear::default(), &inputs);
        if let Some(scale) = scale {
            y = self.binary(&format!("{name}.scaled"), BinaryFn::Mul, y, scale);
        }
        if let Some(bias) = bias.filter(|_| !plain) {
            y = self.binary(&format!("{name}.biased"), BinaryFn::Add, y, bias);
        }
        Ok(y)
    }

    fn part(&mut self, name: &str, part: Option<(usize, usize)>) -> Result<Option<ValueId>> {
        let Some((first, n)) = part else { return Ok(self.constant(name)) };
        let Some(whole) = self.weights.tensor(name) else { return Ok(None) };
        let rows = whole.rows(first, n).map_err(|e| GraphError::new(place(name), e.to_string()))?;
        Ok(Some(self.graph.add_constant(format!("{name}[{first}..{}]", first + n), rows)))
    }

    /// Whether the file has this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.weights.tensor(name).is_some()
    }

    /// The sizes of a tensor of the file.
    pub fn dims(&self, name: &str) -> Option<Vec<usize>> {
        self.weights.tensor(name).map(|t| t.dims().to_vec())
    }

    /// A tensor of the file, as a constant; once however often it is asked for.
    pub fn constant(&mut self, name: &str) -> Option<ValueId> {
        if let Some(id) = self.constants.get(name) {
            return Some(*id);
        }
        let id = self.graph.add_constant(name, self.weights.tensor(name)?);
        self.constants.insert(name.to_string(), id);
        Some(id)
    }

    /// A tensor of the file that must be there.
    pub fn required(&mut self, name: &str) -> Result<ValueId> {
        self.constant(name).ok_or_else(|| missing(name))
    }

    /// A piece of state of these sizes.
    pub fn state(&mut self, name: String, dtype: DType, dims: &[usize]) -> StateId {
        // A layer that runs twice has a state for each time.
        let taken = |name: &str| self.graph.states().iter().any(|s| s.name == name);
        let again = (2..).map(|n| format!("{name}.{n}"));
        let name =
            [name.clone()].into_iter().chain(again).find(|n| !taken(n)).unwrap_or(name.clone());
        self.graph.add_state(State { name, ty: ValueType::new(dtype, dims), initial: None })
    }

    /// What the next piece of state will be called by, for ops that name it before it is there.
    pub fn next_state(&mut self, name: String) -> StateId {
        self.state(name, DType::F32, &[0])
    }
}

/// Whether a weight's scale counts before its bias (attention) or after it (feed-forward).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// (W x) s + b.
    ScaleFirst,
    /// (W x + b) s.
    BiasFirst,
}

pub(super) fn missing(name: &str) -> GraphError {
    GraphError::new(place(name), "the file does not have it: is it a whole model of this family?")
}

pub(super) fn place(name: &str) -> String {
    format!("tensor '{name}'")
}
