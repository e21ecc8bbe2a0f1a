//! Embeddings: a text as a point, near those of texts that mean the same.

use crate::error::LmError;
use crate::memory;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use kinglet_formats::LoadError;
use kinglet_formats::gguf::Gguf;
use kinglet_formats::lm::{Config, HfModel, Pooling, build_encoder, from_gguf};
use kinglet_graph::{Graph, GraphError};
use kinglet_runtime::{Plan, PlanOptions, Pool, Shared};
use std::path::Path;
use std::sync::Arc;

/// Plans that are kept, each for texts of one length.
const PLANS: usize = 16;

/// An encoder of texts, of the BERT family.
///
/// ```no_run
/// use kinglet_lm::Encoder;
/// let mut encoder = Encoder::open("all-MiniLM-L6-v2".as_ref(), 0)?;
/// let (a, b) = (encoder.embed("a small bird")?, encoder.embed("ein kleiner Vogel")?);
/// let cosine: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
/// # Ok::<(), kinglet_lm::LmError>(())
/// ```
pub struct Encoder {
    config: Config,
    graph: Graph,
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    /// By length, the one used last at the end.
    plans: Vec<(usize, Plan)>,
    tokenizer: Tokenizer,
}

impl Encoder {
    /// Loads the encoder at `path`: a GGUF file, or a Hugging Face folder. `threads`: 0 for as many
    /// as there are cores.
    ///
    /// # Errors
    /// If a file can't be read, is no encoder, or has no tokeniser.
    pub fn open(path: &Path, threads: usize) -> Result<Encoder, LmError> {
        let fail = |e: GraphError| LoadError::new(path, e);
        let tokens = |e: crate::tokenizer::TokenizerError| LmError::Tokenizer(e.to_string());
        let (config, graph, tokenizer) = if path.is_dir() {
            let hf = HfModel::open(path)?;
            let graph = build_encoder(&hf.config, &hf.family, &hf.weights).map_err(fail)?;
            (hf.config, graph, Tokenizer::from_huggingface(path).map_err(tokens)?)
        } else {
            let file = Gguf::open(path)?;
            let (config, family) = from_gguf(&file).map_err(fail)?;
            let graph = build_encoder(&config, family, &file).map_err(fail)?;
            (config, graph, Tokenizer::from_gguf(&file.metadata).map_err(tokens)?)
        };
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool = Arc::new(Pool::new(if threads == 0 { cores() } else { threads }));
        let (shared, plans) = (memory::shared(), Vec::new());
        Ok(Encoder { config, graph, pool, shared, plans, tokenizer })
    }

    /// The embedding of `text`, of length 1: the products of two are their cosine.
    ///
    /// # Errors
    /// If the text is longer than the encoder's positions.
    pub fn embed(&mut self, text: &str) -> Result<Vec<f32>, LmError> {
        let options = EncodeOptions { add_special: true, parse_special: false };
        let tokens = self.tokenizer.encode(text, options);
        let tokens = tokens.map_err(|e| LmError::Tokenizer(e.to_string()))?;
        self.embed_tokens(&tokens)
    }

    /// The embedding of a text given as tokens, those at its ends included.
    ///
    /// # Errors
    /// If there are none, more than the encoder has positions, or one that it does not have.
    pub fn embed_tokens(&mut self, tokens: &[u32]) -> Result<Vec<f32>, LmError> {
        let (n, context) = (tokens.len(), self.config.context);
        if n == 0 {
            return Err(LmError::Step("a text without tokens has no embedding".into()));
        }
        if n > context {
            return Err(LmError::Context { needed: n, context });
        }
        let vocabulary = self.config.vocabulary;
        if let Some(token) = tokens.iter().find(|t| **t as usize >= vocabulary) {
            return Err(LmError::Token { token: *token, vocabulary });
        }
        let (pooling, width) = (self.config.pooling, self.config.width);
        let plan = self.plan(n)?;
        let mut set = |input: usize, values: &mut dyn Iterator<Item = u32>| {
            let (words, _) = plan.input_mut(input).as_chunks_mut::<4>();
            words.iter_mut().zip(values).for_each(|(word, v)| *word = v.to_le_bytes());
        };
        set(0, &mut tokens.iter().copied());
        set(1, &mut (0..n as u32));
        plan.run().map_err(|e| LmError::Step(e.to_string()))?;
        let rows: &[f32] = bytemuck::cast_slice(plan.output(0).bytes);
        let mut embedding = match pooling {
            Pooling::First => rows[..width].to_vec(),
            Pooling::Last => rows[(n - 1) * width..].to_vec(),
            Pooling::Mean => {
                let mean = |i: usize| {
                    let sum: f64 = rows[i..].iter().step_by(width).map(|v| f64::from(*v)).sum();
                    (sum / n as f64) as f32
                };
                (0..width).map(mean).collect()
            }
        };
        let length = embedding.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        embedding.iter_mut().for_each(|v| *v = (f64::from(*v) / length.max(1e-12)) as f32);
        Ok(embedding)
    }

    /// Elements of an embedding.
    pub fn width(&self) -> usize {
        self.config.width
    }

    /// The tokeniser.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn plan(&mut self, n: usize) -> Result<&mut Plan, LmError> {
        let found = match self.plans.iter().position(|(length, _)| *length == n) {
            Some(i) => self.plans.remove(i),
            None => {
                let options = PlanOptions {
                    input_shapes: Some(vec![[n].as_slice().into(), [n].as_slice().into()]),
                    pool: Some(self.pool.clone()),
                    shared: Some(self.shared.clone()),
                    ..PlanOptions::default()
                };
                let plan = Plan::new(&self.graph, &options);
                (n, plan.map_err(|e| LmError::Step(e.to_string()))?)
            }
        };
        if self.plans.len() >= PLANS {
            self.plans.remove(0);
        }
        self.plans.push(found);
        let last = self.plans.last_mut().map(|(_, plan)| plan);
        last.ok_or_else(|| LmError::Step("no plan".into()))
    }
}
