//! A language model, ready to run.

use crate::cells::Cells;
use crate::constrain::{Constraint, Following, Forms};
use crate::error::LmError;
use crate::memory;
use crate::step::{Row, Stepper};
use crate::tokenizer::Tokenizer;
use kinglet_formats::LoadError;
use kinglet_formats::gguf::{Gguf, Value};
use kinglet_formats::lm::adapter::{self, Adapter, Base};
use kinglet_formats::lm::{Build, Config, Family, Generation, HfModel, Weights, build, from_gguf};
use kinglet_graph::ops::rows::PAGE;
use kinglet_graph::{DType, Encoding, GraphError};
use kinglet_runtime::{Plan, Pool};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

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
    /// `f32`, `f16`, `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            Cache::F32 => "f32",
            Cache::F16 => "f16",
            Cache::Q8_0 => "q8_0",
        }
    }

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
    /// Bytes that the whole process may have in memory; `None`: as many as it needs.
    ///
    /// What the context needs comes first, then as many weights as fit; the others are read again
    /// for each step.
    pub memory: Option<usize>,
    /// Low-rank adapters beside its weights, PEFT's folders or GGUF files, and how much each
    /// counts, until [`LanguageModel::count_adapters`] says otherwise.
    pub adapters: Vec<(PathBuf, f32)>,
    /// Run by the ops' reference implementations: slow, and what the fast way is compared with.
    pub reference: bool,
}

/// The most positions that a model is loaded for where nothing is said.
const USUAL_CONTEXT: usize = 4096;

/// A language model with the memory of its sequences.
pub struct LanguageModel {
    config: Config,
    family: Family,
    stepper: Stepper,
    cells: Cells,
    context: usize,
    tokenizer: Result<Arc<Tokenizer>, LmError>,
    cache: Cache,
    /// Computed when it is first asked for.
    fingerprint: OnceLock<String>,
    /// Made when the first constraint comes.
    forms: Option<Forms>,
    template: Option<String>,
    generation: Generation,
    adapters: Vec<String>,
}

impl LanguageModel {
    /// Loads the model at `path`: a GGUF file, or a Hugging Face folder.
    pub fn open(path: &Path, options: &Options) -> Result<LanguageModel, LmError> {
        if path.is_dir() {
            return LanguageModel::open_folder(path, options);
        }
        let file = Gguf::open(path)?;
        LanguageModel::from_gguf(&file, options).map_err(|e| LoadError::new(path, e).into())
    }

    /// The model in a GGUF file.
    pub fn from_gguf(file: &Gguf, options: &Options) -> Result<LanguageModel, GraphError> {
        let (config, family) = from_gguf(file)?;
        // First, so that a budget of memory counts it.
        let named = file.metadata.get("tokenizer.ggml.model").and_then(Value::as_str);
        let tokenizer = named.filter(|name| is_some(name)).map(|_| {
            Tokenizer::from_gguf(&file.metadata)
                .map(Arc::new)
                .map_err(|e| LmError::Tokenizer(e.to_string()))
        });
        let mut model = LanguageModel::new(config, *family, file, options)?;
        model.tokenizer = tokenizer.unwrap_or(Err(LmError::NoTokenizer));
        model.template = file
            .metadata
            .get("tokenizer.chat_template")
            .and_then(Value::as_str)
            .map(str::to_string);
        Ok(model)
    }

    /// The model in a Hugging Face folder, with its tokeniser where it has one.
    fn open_folder(folder: &Path, options: &Options) -> Result<LanguageModel, LmError> {
        let hf = HfModel::open(folder)?;
        let fail = |e: GraphError| LoadError::new(folder, e);
        let model = LanguageModel::new(hf.config, hf.family, &hf.weights, options);
        let mut model = model.map_err(fail)?;
        if folder.join("tokenizer.json").exists() {
            model.tokenizer = Tokenizer::from_huggingface(folder)
                .map(Arc::new)
                .map_err(|e| LmError::Tokenizer(e.to_string()));
        }
        model.template = hf.template;
        model.generation = hf.generation;
        Ok(model)
    }

    /// The model of these numbers and tensors, without a tokeniser.
    pub fn new(
        config: Config,
        family: Family,
        weights: &dyn Weights,
        options: &Options,
    ) -> Result<LanguageModel, GraphError> {
        let context = context(options, &config, weights)?;
        let sequences = options.sequences.max(1);
        let each = context.div_ceil(PAGE);
        let pages = each * sequences;
        let cache = options.cache.dtype();
        check_cache(&config, cache)?;
        let mut graph = build(&config, &family, weights, Build { pages, sequences, cache })?;
        let base = Base { config: &config, family: &family };
        let adapters = options.adapters.iter().map(|(path, _)| Adapter::open(path, base));
        let adapters = adapters.collect::<Result<Vec<_>, LoadError>>();
        let adapters = adapters.map_err(|e| GraphError::new("adapter", e.to_string()))?;
        if !adapters.is_empty() {
            adapter::adapt(&mut graph, &adapters)?;
        }
        let adapters: Vec<String> = adapters.into_iter().map(|adapter| adapter.name).collect();
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if options.threads == 0 { cores() } else { options.threads };
        let before = kinglet_formats::map::process_resident();
        let pool = Arc::new(Pool::new(threads));
        let mut stepper = Stepper::new(graph, pool, sequences, pages, options.reference);
        stepper.count_adapters(options.adapters.iter().map(|(_, count)| *count).collect());
        if let Some(budget) = options.memory {
            memory::keep_within(&mut stepper, budget, before)?;
        }
        Ok(LanguageModel {
            stepper,
            cells: Cells::new(sequences, pages),
            config,
            family,
            context,
            tokenizer: Err(LmError::NoTokenizer),
            cache: options.cache,
            fingerprint: OnceLock::new(),
            forms: None,
            template: None,
            generation: Generation::default(),
            adapters,
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
        self.extend_batch(&[Piece { sequence, tokens, wanted }], |_, i, l| logits(i, l))
    }

    /// Lets several sequences go on, each with its tokens, in as few steps as they fit in. Calls
    /// `logits` with the place in `pieces`, the place in its tokens, and the logits that follow.
    ///
    /// Nothing is computed where a piece has a token that the model lacks, does not fit in the
    /// context, or its sequence comes twice.
    pub fn extend_batch(
        &mut self,
        pieces: &[Piece<'_>],
        logits: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), LmError> {
        self.extend_observed(pieces, logits, |_, _| {})
    }

    /// [`LanguageModel::extend_batch`]; `observe` sees the plan that runs before each of its steps,
    /// whose number it is given, and once more after the last, as [`Stepper::run_observed`] says:
    /// what a profiler takes the time by.
    pub fn extend_observed(
        &mut self,
        pieces: &[Piece<'_>],
        mut logits: impl FnMut(usize, usize, &[f32]),
        mut observe: impl FnMut(&Plan, usize),
    ) -> Result<(), LmError> {
        self.check(pieces)?;
        let vocabulary = self.vocabulary();
        let (most_rows, most_wanted) = (self.stepper.most_rows(), self.stepper.most_wanted());
        let (mut piece, mut done) = (0, 0);
        while piece < pieces.len() {
            let mut rows: Vec<Row> = Vec::new();
            // Of each row whose logits are asked for, which it is in the step, in the pieces, and
            // in the piece.
            let mut asked: Vec<(usize, usize, usize)> = Vec::new();
            let mut before: Vec<(usize, usize)> = Vec::new();
            while piece < pieces.len() && rows.len() < most_rows && asked.len() < most_wanted {
                let Piece { sequence, tokens, wanted } = pieces[piece];
                let most = match wanted {
                    Wanted::All => (most_rows - rows.len()).min(most_wanted - asked.len()),
                    Wanted::Last => most_rows - rows.len(),
                };
                let part = &tokens[done..tokens.len().min(done + most)];
                before.push((sequence, self.length(sequence)));
                let first = rows.len();
                self.place_rows(sequence, part, &mut rows)?;
                let end = done + part.len();
                asked.extend(
                    (first..rows.len())
                        .map(|row| (row, piece, done + row - first))
                        .filter(|(_, _, i)| wanted == Wanted::All || i + 1 == tokens.len()),
                );
                (piece, done) = if end == tokens.len() { (piece + 1, 0) } else { (piece, end) };
            }
            if rows.is_empty() {
                continue;
            }
            // A step has logits of one row at least.
            let wanted: Vec<usize> = match asked.as_slice() {
                [] => vec![rows.len() - 1],
                asked => asked.iter().map(|(row, ..)| *row).collect(),
            };
            match self.stepper.run_observed(&rows, &wanted, &self.cells, &mut observe) {
                Ok(found) => {
                    for ((_, piece, i), line) in asked.iter().zip(found.chunks_exact(vocabulary)) {
                        logits(*piece, *i, line);
                    }
                }
                Err(e) => {
                    for (sequence, length) in before {
                        self.truncate(sequence, length);
                    }
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Computes a tree of guesses of how `sequence` goes on, in one step, and keeps one path.
    ///
    /// `keep` is given the logits after each guess, in their order, and says which guesses come
    /// true: none, or one that follows what the sequence holds, then one that follows that, and so
    /// on. The sequence then holds these as if it had been extended by them. Speculative decoding
    /// is built on this (SpecInfer, arXiv 2305.09781).
    ///
    /// Fails where the model has recurrent layers, which hold one past only, where a guess comes
    /// before the one it follows, where there are more than [`Stepper::most_rows`] or more than the context has
    /// room for, and where what is kept is no path. The sequence is then as it was.
    pub fn extend_tree(
        &mut self,
        sequence: usize,
        tree: &[Guess],
        keep: impl FnOnce(&[&[f32]]) -> Vec<usize>,
    ) -> Result<(), LmError> {
        if self.stepper.recurrent() {
            let m = "a model with recurrent layers computes no trees of guesses";
            return Err(LmError::Step(m.into()));
        }
        let most = self.stepper.most_rows();
        if tree.len() > most {
            let m = format!("{} guesses: at most {most} at once", tree.len());
            return Err(LmError::Step(m));
        }
        let mut depths: Vec<usize> = Vec::with_capacity(tree.len());
        for (i, guess) in tree.iter().enumerate() {
            let depth = match guess.parent {
                None => Some(0),
                Some(parent) => depths.get(parent).map(|d| d + 1),
            };
            depths.push(depth.ok_or_else(|| {
                LmError::Step(format!(
                    "guess {i} follows {:?}, which must be before it",
                    guess.parent
                ))
            })?);
        }
        let tokens: Vec<u32> = tree.iter().map(|g| g.token).collect();
        self.check(&[Piece { sequence, tokens: &tokens, wanted: Wanted::All }])?;
        if tree.is_empty() {
            return Ok(());
        }
        let first = self.length(sequence);
        let mut rows = Vec::with_capacity(tree.len());
        self.place_rows(sequence, &tokens, &mut rows)?;
        for ((row, guess), depth) in rows.iter_mut().zip(tree).zip(depths) {
            row.position = first + depth;
            row.parent = guess.parent;
        }
        let wanted: Vec<usize> = (0..rows.len()).collect();
        let vocabulary = self.vocabulary();
        let kept = self.stepper.run(&rows, &wanted, &self.cells).and_then(|logits| {
            let logits: Vec<&[f32]> = logits.chunks_exact(vocabulary).collect();
            let kept = keep(&logits);
            let follows = |(i, guess): (usize, &usize)| {
                tree.get(*guess).is_some_and(|g| g.parent == i.checked_sub(1).map(|i| kept[i]))
            };
            match kept.iter().enumerate().all(follows) {
                true => Ok(kept),
                false => Err(LmError::Step(format!("guesses {kept:?} are no path of the tree"))),
            }
        });
        let kept = match kept {
            Ok(kept) => kept,
            Err(e) => {
                self.cells.truncate(sequence, first);
                return Err(e);
            }
        };
        // A guess comes after those it follows, so none is overwritten before it has moved.
        for (i, guess) in kept.iter().enumerate().filter(|(i, guess)| i != *guess) {
            self.stepper.copy_cell(rows[*guess].slot, rows[i].slot);
        }
        self.cells.truncate(sequence, first + kept.len());
        Ok(())
    }

    /// Whether the model can go on with these pieces.
    fn check(&self, pieces: &[Piece<'_>]) -> Result<(), LmError> {
        let vocabulary = self.vocabulary();
        for (i, piece) in pieces.iter().enumerate() {
            if !self.cells.is_open(piece.sequence) {
                return Err(LmError::Step(format!("sequence {} is not open", piece.sequence)));
            }
            if pieces[..i].iter().any(|p| p.sequence == piece.sequence) {
                return Err(LmError::Step(format!("sequence {} comes twice", piece.sequence)));
            }
            let needed = self.length(piece.sequence) + piece.tokens.len();
            if needed > self.context {
                return Err(LmError::Context { needed, context: self.context });
            }
            if let Some(token) = piece.tokens.iter().find(|t| **t as usize >= vocabulary) {
                return Err(LmError::Token { token: *token, vocabulary });
            }
        }
        Ok(())
    }

    /// Makes room for `tokens` in `sequence`, and adds a row of each, one after the other.
    fn place_rows(
        &mut self,
        sequence: usize,
        tokens: &[u32],
        rows: &mut Vec<Row>,
    ) -> Result<(), LmError> {
        let (first, from) = (self.length(sequence), rows.len());
        let needed = first + tokens.len();
        let full = LmError::Context { needed, context: self.context };
        let copy = self.cells.extend(sequence, tokens.len()).map_err(|_| full.clone())?;
        if let Some(copy) = copy {
            self.stepper.copy_page(copy);
        }
        for (i, token) in tokens.iter().enumerate() {
            let position = first + i;
            let slot = self.cells.cell(sequence, position).ok_or_else(|| full.clone())?;
            let parent = i.checked_sub(1).map(|before| from + before);
            rows.push(Row { token: *token, position, sequence, parent, slot });
        }
        Ok(())
    }

    /// Lets `sequence` hold `length` positions whose cells are yet to be written; returns these.
    pub(crate) fn hold(&mut self, sequence: usize, length: usize) -> Result<Vec<usize>, LmError> {
        self.stepper.ready()?;
        let full = LmError::Context { needed: length, context: self.context };
        self.cells.extend(sequence, length).map_err(|_| full)?;
        Ok((0..length).filter_map(|p| self.cells.cell(sequence, p)).collect())
    }

    /// Who holds which cells.
    pub(crate) fn cells(&self) -> &Cells {
        &self.cells
    }

    /// What keys and values are held as.
    pub fn cache(&self) -> Cache {
        self.cache
    }

    /// Tells models apart: what one computed is of no use to another.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.get_or_init(|| self.stepper.fingerprint()).clone()
    }

    /// Its adapters: the name of each, and how much it counts.
    pub fn adapters(&self) -> impl ExactSizeIterator<Item = (&str, f32)> {
        let counts = self.stepper.adapters().iter().copied();
        self.adapters.iter().map(String::as_str).zip(counts)
    }

    /// Lets each adapter count so much from the next row on: 1 is as it was trained, 0 not at all.
    /// Nothing is loaded or planned again. Sequences hold nothing any more: sessions compute their tokens
    /// again, and whoever uses [`LanguageModel::extend`] must.
    ///
    /// # Errors
    /// If they are not as many as the model has adapters, or one is not finite.
    pub fn count_adapters(&mut self, counts: &[f32]) -> Result<(), LmError> {
        if counts.len() != self.adapters.len() || counts.iter().any(|c| !c.is_finite()) {
            let n = self.adapters.len();
            return Err(LmError::Step(format!("{counts:?} for {n} adapters: give each a number")));
        }
        self.stepper.count_adapters(counts.to_vec());
        self.fingerprint = OnceLock::new();
        for sequence in 0..self.sequences() {
            self.truncate(sequence, 0);
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
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// The model's tokeniser.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>, LmError> {
        self.tokenizer.as_ref().map_err(Clone::clone)
    }

    /// The source of the model's chat template, if its file has one.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Follows an answer of the form of `constraint` from its start.
    ///
    /// # Errors
    /// If the model has no tokeniser, or the constraint is not right.
    pub fn follow(&mut self, constraint: &Constraint) -> Result<Following, LmError> {
        if self.forms.is_none() {
            self.forms = Some(Forms::new(self.tokenizer()?)?);
        }
        match &self.forms {
            Some(forms) => forms.follow(constraint),
            None => Err(LmError::NoTokenizer),
        }
    }

    /// Sequences that may be open at once.
    pub fn sequences(&self) -> usize {
        self.cells.sequences()
    }

    pub(crate) fn stepper_mut(&mut self) -> &mut Stepper {
        &mut self.stepper
    }

    /// How the model's makers sample it, where its files say (`generation_config.json`).
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The steps of the model and what they share.
    pub fn stepper(&self) -> &Stepper {
        &self.stepper
    }
}

/// Whether this is the name of a tokeniser, and not of its absence.
fn is_some(tokenizer: &str) -> bool {
    !matches!(tokenizer, "none" | "no_vocab")
}

/// How many positions a sequence may have. Models that learned each position have no others.
fn context(options: &Options, config: &Config, weights: &dyn Weights) -> Result<usize, GraphError> {
    let learned =
        weights.tensor("position_embd.weight").and_then(|table| table.dims().first().copied());
    let usual = config.context.min(USUAL_CONTEXT).min(learned.unwrap_or(usize::MAX));
    let context = options.context.unwrap_or(usual).max(1);
    match learned {
        Some(positions) if context > positions => Err(GraphError::new(
            "context",
            format!(
                "{context} is asked for, and the model learned {positions} positions: ask for no more"
            ),
        )),
        _ => Ok(context),
    }
}

/// Whether heads of keys and values are whole blocks of the cache's encoding.
fn check_cache(config: &Config, cache: DType) -> Result<(), GraphError> {
    let (block, _) = cache.block();
    let attends = config.heads.iter().any(|h| *h > 0);
    match [config.key, config.value].into_iter().find(|n| !n.is_multiple_of(block)) {
        Some(n) if attends => Err(GraphError::new(
            "cache",
            format!("heads of {n} elements can't be held as {cache}, blocks of {block}: take f16"),
        )),
        _ => Ok(()),
    }
}

/// A sequence and the tokens that it goes on with.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The sequence.
    pub sequence: usize,
    /// Its tokens.
    pub tokens: &'a [u32],
    /// Which logits are asked for.
    pub wanted: Wanted,
}

/// A token that may come, in a tree of guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    /// The token.
    pub token: u32,
    /// The guess that it follows, one before it in the tree; `None`: it follows what the sequence
    /// holds.
    pub parent: Option<usize>,
}

/// Which logits are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those after the last token.
    Last,
    /// Those after each token.
    All,
}
