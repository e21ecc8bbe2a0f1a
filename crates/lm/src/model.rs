//! A language model, ready to run.

use crate::cells::Cells;
use crate::error::LmError;
use crate::step::{MOST_ROWS, Row, Stepper};
use crate::tokenizer::Tokenizer;
use kinglet_formats::LoadError;
use kinglet_formats::gguf::{Gguf, Value};
use kinglet_formats::lm::{Build, Config, Weights, build, family::Family, from_gguf};
use kinglet_graph::ops::rows::PAGE;
use kinglet_graph::{DType, Encoding, GraphError};
use kinglet_runtime::Pool;
use std::path::Path;
use std::sync::Arc;

/// What keys and values are held as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// 32 bits.
    F32,
    /// 16 bits.
    #[default]
    F16,
    /// 8.5 bits, in blocks of 32.
    Q8_0,
}

impl Cache {
    fn dtype(self) -> DType {
        match self {
            Cache::F32 => DType::F32,
            Cache::F16 => DType::F16,
            Cache::Q8_0 => DType::Encoded(Encoding::Q8_0),
        }
    }
}

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Positions of a conversation; `None`: the model's, but at most 4096.
    pub context: Option<usize>,
    /// Sequences at once; 0 means 1.
    pub sequences: usize,
    /// What keys and values are held as.
    pub cache: Cache,
    /// Threads; 0: as many as there are cores.
    pub threads: usize,
    /// Run by the ops' reference implementations: slow, and what the fast way is compared with.
    pub reference: bool,
}

/// The most positions that a model is loaded for where nothing is said.
const USUAL_CONTEXT: usize = 4096;

/// A language model with the memory of its sequences.
pub struct LanguageModel {
    config: Config,
    family: &'static Family,
    stepper: Stepper,
    cells: Cells,
    context: usize,
    tokenizer: Result<Arc<Tokenizer>, LmError>,
    template: Option<String>,
}

impl LanguageModel {
    /// Loads the model at `path`, a GGUF file.
    pub fn open(path: &Path, options: &Options) -> Result<LanguageModel, LmError> {
        let fail = |e: GraphError| LoadError::new(path, e);
        let file = Gguf::open(path)?;
        let (config, family) = from_gguf(&file).map_err(fail)?;
        let mut model = LanguageModel::new(config, family, &file, options).map_err(fail)?;
        // A model whose tokeniser can't be used still runs on tokens.
        if file.metadata.get("tokenizer.ggml.model").is_some() {
            model.tokenizer = Tokenizer::from_gguf(&file.metadata)
                .map(Arc::new)
                .map_err(|e| LmError::Tokenizer(e.to_string()));
        }
        model.template = file
            .metadata
            .get("tokenizer.chat_template")
            .and_then(Value::as_str)
            .map(str::to_string);
        Ok(model)
    }

    /// The model of these numbers and tensors, without a tokeniser.
    pub fn new(
        config: Config,
        family: &'static Family,
        weights: &dyn Weights,
        options: &Options,
    ) -> Result<LanguageModel, GraphError> {
        let context = options.context.unwrap_or(config.context.min(USUAL_CONTEXT)).max(1);
        let sequences = options.sequences.max(1);
        let each = context.div_ceil(PAGE);
        let pages = each * sequences;
        let cache = options.cache.dtype();
        let graph = build(&config, family, weights, Build { pages, sequences, cache })?;
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if options.threads == 0 { cores() } else { options.threads };
        let pool = Arc::new(Pool::new(threads));
        Ok(LanguageModel {
            stepper: Stepper::new(graph, pool, sequences, pages, options.reference),
            cells: Cells::new(sequences, pages),
            config,
            family,
            context,
            tokenizer: Err(LmError::NoTokenizer),
            template: None,
        })
    }

    /// Opens a sequence that holds nothing yet.
    pub fn open_sequence(&mut self) -> Result<usize, LmError> {
        self.cells.open().ok_or(LmError::Sequences(self.cells.sequences()))
    }

    /// Opens a sequence that holds what `sequence` does, without computing it again.
    pub fn fork_sequence(&mut self, sequence: usize) -> Result<usize, LmError> {
        let place = self.cells.fork(sequence).ok_or(LmError::Sequences(self.cells.sequences()))?;
        self.stepper.copy_memory(sequence, place);
        Ok(place)
    }

    /// Gives up a sequence.
    pub fn close_sequence(&mut self, sequence: usize) {
        self.cells.close(sequence);
    }

    /// Positions that a sequence holds.
    pub fn length(&self, sequence: usize) -> usize {
        self.cells.length(sequence)
    }

    /// Forgets what `sequence` holds from position `length` on. Returns how many positions are left:
    /// none where the model can't go back (recurrent layers) and there was something to forget.
    pub fn truncate(&mut self, sequence: usize, length: usize) -> usize {
        let held = self.cells.length(sequence);
        let length = if self.stepper.recurrent() && length < held { 0 } else { length };
        self.cells.truncate(sequence, length);
        self.cells.length(sequence)
    }

    /// Lets `sequence` go on with `tokens`, and calls `logits` with the place in `tokens` and the
    /// logits of each that `wanted` says: of the last only, or of all.
    pub fn extend(
        &mut self,
        sequence: usize,
        tokens: &[u32],
        wanted: Wanted,
        mut logits: impl FnMut(usize, &[f32]),
    ) -> Result<(), LmError> {
        let held = self.cells.length(sequence);
        let needed = held + tokens.len();
        if needed > self.context {
            return Err(LmError::Context { needed, context: self.context });
        }
        let vocabulary = self.stepper.vocabulary();
        if let Some(token) = tokens.iter().find(|t| **t as usize >= vocabulary) {
            return Err(LmError::Token { token: *token, vocabulary });
        }
        let most = match wanted {
            Wanted::Last => MOST_ROWS,
            // Logits of many rows of a large vocabulary are many bytes.
            Wanted::All => (LOGITS_BYTES / 4 / vocabulary.max(1)).clamp(1, MOST_ROWS),
        };
        for (i, chunk) in tokens.chunks(most).enumerate() {
            let first = self.cells.length(sequence);
            let copy = self
                .cells
                .extend(sequence, chunk.len())
                .map_err(|_| LmError::Context { needed, context: self.context })?;
            if let Some(copy) = copy {
                self.stepper.copy_page(copy);
            }
            let cells = &self.cells;
            let rows: Vec<Row> = chunk
                .iter()
                .enumerate()
                .filter_map(|(j, token)| {
                    let (position, parent) = (first + j, j.checked_sub(1));
                    let slot = cells.cell(sequence, position)?;
                    Some(Row { token: *token, position, sequence, parent, slot })
                })
                .collect();
            let last = (i + 1) * most >= tokens.len();
            let asked: Vec<usize> = match wanted {
                Wanted::All => (0..rows.len()).collect(),
                Wanted::Last => vec![rows.len() - 1],
            };
            let found = self.stepper.run(&rows, &asked, cells);
            if found.is_err() {
                self.cells.truncate(sequence, first);
            }
            let found = found?;
            if wanted == Wanted::All || last {
                for (row, line) in asked.iter().zip(found.chunks_exact(vocabulary)) {
                    logits(i * most + row, line);
                }
            }
        }
        Ok(())
    }

    /// One step of several sequences at once: each goes on with its token. Calls `logits` with the
    /// place in `tokens` and the logits that follow it.
    pub fn extend_many(
        &mut self,
        tokens: &[(usize, u32)],
        mut logits: impl FnMut(usize, &[f32]),
    ) -> Result<(), LmError> {
        let vocabulary = self.stepper.vocabulary();
        let mut rows: Vec<Row> = Vec::with_capacity(tokens.len());
        for (i, (sequence, token)) in tokens.iter().enumerate() {
            if *token as usize >= vocabulary {
                return Err(LmError::Token { token: *token, vocabulary });
            }
            let position = self.cells.length(*sequence);
            let full = LmError::Context { needed: position + 1, context: self.context };
            if position >= self.context {
                return Err(full);
            }
            let copy = self.cells.extend(*sequence, 1).map_err(|_| full.clone())?;
            if let Some(copy) = copy {
                self.stepper.copy_page(copy);
            }
            let slot = self.cells.cell(*sequence, position).ok_or(full)?;
            let parent = rows[..i].iter().rposition(|r| r.sequence == *sequence);
            rows.push(Row { token: *token, position, sequence: *sequence, parent, slot });
        }
        for (i, chunk) in rows.chunks(MOST_ROWS).enumerate() {
            let asked: Vec<usize> = (0..chunk.len()).collect();
            let found = self.stepper.run(chunk, &asked, &self.cells)?;
            for (row, line) in found.chunks_exact(vocabulary).enumerate() {
                logits(i * MOST_ROWS + row, line);
            }
        }
        Ok(())
    }

    /// Positions of a conversation.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens that there are.
    pub fn vocabulary(&self) -> usize {
        self.stepper.vocabulary()
    }

    /// The model's numbers.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The model's family.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// The model's tokeniser.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>, LmError> {
        self.tokenizer.as_ref().map_err(Clone::clone)
    }

    /// The source of the model's chat template, if its file has one.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// The steps of the model and what they share.
    pub fn stepper(&self) -> &Stepper {
        &self.stepper
    }
}

/// Logits of one step take at most about so many bytes.
const LOGITS_BYTES: usize = 32 << 20;

/// Which logits are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those after the last token.
    Last,
    /// Those after each token.
    All,
}
