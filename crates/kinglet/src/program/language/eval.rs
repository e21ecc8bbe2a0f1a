//! `kinglet eval`: how well a model knows a text, and how far two models are apart on it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use kinglet::Error;
use kinglet::lm::eval::{divergence, perplexity};
use kinglet::lm::tokenizer::EncodeOptions;
use kinglet::lm::{LanguageModel, LmError, Options};
use serde::Serialize;

use super::super::Common;
use super::super::progress::Progress;
use super::{Loading, expect_language_model, rate, read_text};

/// `kinglet eval`.
#[derive(Args)]
pub(in crate::program) struct Eval {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// How well a language model knows a text: e to the mean surprise at a token
    Perplexity(Perplexity),
    /// How far language model B is from A on a text: KL(A ‖ B) in nats, and how often both find the
    /// same token likeliest
    Divergence(Divergence),
}

#[derive(Args)]
struct Perplexity {
    /// The model: a GGUF file
    model: PathBuf,
    /// The text; - reads standard input
    file: PathBuf,
    #[command(flatten)]
    loading: Loading,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Divergence {
    /// The model that is taken as right: a GGUF file
    a: PathBuf,
    /// The model that is compared with it
    b: PathBuf,
    /// The text; - reads standard input
    file: PathBuf,
    #[command(flatten)]
    loading: Loading,
    #[command(flatten)]
    common: Common,
}

/// Tokens of a chunk where nothing is said; llama.cpp's.
const CONTEXT: usize = 512;

#[derive(Serialize)]
struct PerplexityDocument {
    perplexity: f64,
    standard_error: f64,
    context: usize,
    chunks: usize,
    tokens: usize,
    tok_s: Option<f64>,
}

#[derive(Serialize)]
struct DivergenceDocument {
    mean: f64,
    median: f64,
    percentile_99: f64,
    largest: f64,
    same_top: f64,
    context: usize,
    chunks: usize,
    tokens: usize,
}

impl Eval {
    pub fn run(self) -> Result<(), Error> {
        match self.what {
            What::Perplexity(command) => command.run(),
            What::Divergence(command) => command.run(),
        }
    }
}

impl Perplexity {
    fn run(self) -> Result<(), Error> {
        expect_language_model(&self.model)?;
        let text = read_text(&self.file)?;
        let mut model = open(&self.model, &self.loading, &self.common)?;
        let tokens = encode(&model, &self.model, &text)?;
        let context = model.context();
        let mut progress = Progress::new(self.common.quiet);
        let start = Instant::now();
        let found = perplexity(&mut model, &tokens, context, |chunk, chunks, found| {
            progress.say(|| format!("chunk {chunk} of {chunks}: {:.4}", found.perplexity));
        });
        drop(progress);
        let found = found.map_err(|error| Error::from(error).about(self.file.display()))?;
        let tok_s = rate(found.chunks * context, start.elapsed().as_secs_f64());
        if self.common.json {
            return super::super::print_json(&PerplexityDocument {
                perplexity: found.perplexity,
                standard_error: found.error,
                context,
                chunks: found.chunks,
                tokens: found.tokens,
                tok_s,
            });
        }
        let (value, error) = (found.perplexity, found.error);
        super::super::print(&format!("perplexity {value:.4} ± {error:.4}\n"))?;
        self.common.note(format!(
            "{} tokens in {} chunks of {context}; {:.0} tokens a second",
            found.tokens,
            found.chunks,
            tok_s.unwrap_or(0.0)
        ));
        Ok(())
    }
}

impl Divergence {
    fn run(self) -> Result<(), Error> {
        expect_language_model(&self.a)?;
        expect_language_model(&self.b)?;
        let text = read_text(&self.file)?;
        let mut a = open(&self.a, &self.loading, &self.common)?;
        let mut b = open(&self.b, &self.loading, &self.common)?;
        let tokens = encode(&a, &self.a, &text)?;
        if b.tokenizer().is_ok() && encode(&b, &self.b, &text)? != tokens {
            return Err(Error::input(format!(
                "{}: its tokeniser cuts the text otherwise than that of {}: only models of one \
                 vocabulary can be compared",
                self.b.display(),
                self.a.display()
            )));
        }
        let context = a.context().min(b.context());
        let mut progress = Progress::new(self.common.quiet);
        let found = divergence(&mut a, &mut b, &tokens, context, |chunk, chunks| {
            progress.say(|| format!("chunk {chunk} of {chunks}"));
        });
        drop(progress);
        let found = found.map_err(|error| Error::from(error).about(self.file.display()))?;
        if self.common.json {
            return super::super::print_json(&DivergenceDocument {
                mean: found.mean,
                median: found.median,
                percentile_99: found.percentile_99,
                largest: found.largest,
                same_top: found.same_top,
                context,
                chunks: found.chunks,
                tokens: found.tokens,
            });
        }
        super::super::print(&format!(
            "mean        {:.6} nats\nmedian      {:.6}\n99 % below  {:.6}\nlargest     {:.6}\n\
             same top    {:.2} % of tokens\n",
            found.mean,
            found.median,
            found.percentile_99,
            found.largest,
            found.same_top * 100.0
        ))?;
        self.common
            .note(format!("{} tokens in {} chunks of {context}", found.tokens, found.chunks));
        Ok(())
    }
}

fn open(path: &Path, loading: &Loading, common: &Common) -> Result<LanguageModel, Error> {
    let options = loading.options(common.threads());
    let context = options.context.or(Some(CONTEXT));
    Ok(LanguageModel::open(path, &Options { context, ..options })?)
}

fn encode(model: &LanguageModel, path: &Path, text: &str) -> Result<Vec<u32>, Error> {
    let about = |message: String| Error::input(message).about(path.display());
    let tokenizer = model.tokenizer().map_err(|error| match error {
        LmError::NoTokenizer => about("the model has no tokeniser, and cannot read a text".into()),
        error => about(error.to_string()),
    })?;
    tokenizer.encode(text, EncodeOptions::default()).map_err(|error| about(error.to_string()))
}
