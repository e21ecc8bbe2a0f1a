//! Encoders of the BERT family (arXiv 1810.04805): a graph over all tokens of one text, each of
//! which sees all others.

use super::builder::{Builder, Order, Result, Rows, Weights};
use super::config::Config;
use super::family::Family;
use kinglet_graph::ops::attention::{Attention, Scores};
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::reshape::Reshape;
use kinglet_graph::ops::rows::Embedding;
use kinglet_graph::{DType, Dim, Graph, GraphError, Shape, Tensor, ValueId, ValueType};

/// How the rows of a text become one embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The first, which is a token for the whole text.
    First,
    /// The last.
    Last,
}

/// The graph of an encoder. Inputs, i32 [n]: `tokens` and their `positions`. Output `rows`: f32
/// [n, width].
///
/// Fails where a tensor is missing or of another shape than the numbers say, naming it, and where
/// the family is no encoder.
pub fn build_encoder(config: &Config, family: &Family, weights: &dyn Weights) -> Result<Graph> {
    if !family.encoder {
        let m = format!("{} is no encoder: it writes texts, and does not embed them", family.name);
        return Err(GraphError::new("architecture", m));
    }
    let mut graph = Graph::new(config.architecture.clone());
    let mut input = |name: &str| {
        let n = vec![Dim::symbol("rows")];
        graph.add_input(name, ValueType::new(DType::I32, Shape::new(n)))
    };
    let (tokens, positions) = (input("tokens"), input("positions"));
    let mut b = Builder::new(graph, config, family, Rows::of_text(tokens, positions), weights);
    let rows = b.encoder()?;
    b.graph.value_mut(rows).name = "rows".into();
    b.graph.outputs.push(rows);
    b.finish()
}

impl Builder<'_> {
    fn encoder(&mut self) -> Result<ValueId> {
        let table = self.required("token_embd.weight")?;
        let mut x = self.apply("embeddings", Embedding, &[self.rows.tokens, table]);
        let table = self.required("position_embd.weight")?;
        let places = self.apply("position_embeddings", Embedding, &[self.rows.positions, table]);
        x = self.binary("embeddings.placed", BinaryFn::Add, x, places);
        if self.has("token_types.weight") {
            // One text: all its tokens are of the first type.
            let table = self.required("token_types.weight")?;
            let first = Tensor::from_slice(&[1], &[0i32])
                .map_err(|e| GraphError::new("token_type", e.to_string()))?;
            let first = self.graph.add_constant("token_type", first);
            let kind = self.apply("token_type_embedding", Embedding, &[first, table]);
            x = self.binary("embeddings.typed", BinaryFn::Add, x, kind);
        }
        x = self.norm("token_embd_norm", x)?;
        for layer in 0..self.config.layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let mixed = self.whole_attention(layer, x)?;
            x = self.binary(&name("attn_out"), BinaryFn::Add, x, mixed);
            x = self.norm(&name("attn_output_norm"), x)?;
            let fed = self.feed_forward(layer, x, x)?;
            x = self.binary(&name("out"), BinaryFn::Add, x, fed);
            x = self.norm(&name("layer_output_norm"), x)?;
        }
        Ok(x)
    }

    /// Attention in which every row sees all.
    fn whole_attention(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let heads = self.config.heads.get(layer).copied().unwrap_or(0);
        let kv_heads = self.config.kv_heads.get(layer).copied().unwrap_or(heads);
        let mut all = self.queries_keys_values(layer, x, heads, kv_heads)?;
        let widths =
            [heads * self.config.key, kv_heads * self.config.key, kv_heads * self.config.value];
        for ((rows, width), part) in all.iter_mut().zip(widths).zip(["q", "k", "v"]) {
            let sizes = self.ints(&name(&format!("{part}_sizes")), &[1, -1, width as i64])?;
            *rows = self.apply(&name(&format!("{part}_text")), Reshape::default(), &[*rows, sizes]);
        }
        let op = Attention {
            causal: false,
            query_heads: Some(heads),
            key_heads: Some(kv_heads),
            scale: None,
            softcap: 0.0,
            window: [None, None],
            softmax_precision: None,
            scores: Scores::Raw,
        };
        let y = self.apply(&name("attention"), op, &all);
        let width = (heads * self.config.value) as i64;
        let sizes = self.ints(&name("attention_sizes"), &[-1, width])?;
        let y = self.apply(&name("attention_rows"), Reshape::default(), &[y, sizes]);
        self.linear(&name("attn_output"), y, Order::ScaleFirst)
    }
}
