//! `kinglet run` on a language model.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use kinglet::Error;
use kinglet::lm::sample::{Chosen, Sampling};
use kinglet::lm::template::{Conversation, Message};
use kinglet::lm::tokenizer::{EncodeOptions, Tokenizer};
use kinglet::lm::{Answer, Generation, LanguageModel, LmError, Session};
use serde::Serialize;

use super::super::output::milliseconds;
use super::super::{Common, output};
use super::{Choosing, Loading, logits, rate, shown};

/// What `run` takes for language models.
#[derive(Args)]
pub(in crate::program) struct Generate {
    #[command(flatten)]
    choosing: Choosing,
    /// Say how likely each token was
    #[arg(long)]
    log_probabilities: bool,
    /// Put the prompt into the model's chat template [default where the model has one]
    #[arg(long)]
    chat: bool,
    /// Go on from the prompt as it stands
    #[arg(long, conflicts_with = "chat")]
    raw: bool,
    #[command(flatten)]
    loading: Loading,
}

/// What else `run` was given.
pub(in crate::program) struct Given<'a> {
    pub model: &'a Path,
    /// The words after the model.
    pub words: &'a [PathBuf],
    /// What `--input` says.
    pub inputs: &'a [String],
    pub output_dir: Option<&'a Path>,
    pub common: &'a Common,
}

#[derive(Serialize)]
struct Document<'a> {
    text: &'a str,
    tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_probabilities: Option<Vec<f32>>,
    finish_reason: &'static str,
    timing: Timing,
    peak_memory_bytes: Option<usize>,
}

#[derive(Serialize)]
struct Timing {
    #[serde(serialize_with = "output::microseconds")]
    load_ms: f64,
    /// From the loaded model to its first token.
    #[serde(serialize_with = "output::microseconds")]
    first_token_ms: f64,
    prompt_tok_s: Option<f64>,
    /// Of the tokens after the first.
    decode_tok_s: Option<f64>,
}

impl Generate {
    pub fn run(&self, given: &Given<'_>) -> Result<(), Error> {
        let folder = given.output_dir.map(super::super::tensors::Folder::create).transpose()?;
        let prompt = match given.inputs {
            [] => Prompt::Text(prompt(given.words)?),
            _ if !given.words.is_empty() => {
                return Err(Error::input("give a prompt or --input tokens=FILE.npy, not both"));
            }
            inputs => Prompt::Tokens(logits::read_tokens(inputs)?),
        };
        let start = Instant::now();
        let mut model = self.loading.open(given.model, given.common.threads())?;
        let load_ms = milliseconds(start);
        let about = |error: Error| error.about(given.model.display());
        let sampling = Sampling::of_model(model.generation());
        let usual = Generation { sampling, ..Generation::default() };
        let generation = self.choosing.generation(usual, model.vocabulary())?;
        let tokens = match &prompt {
            Prompt::Text(text) => self.encode(&model, text).map_err(about)?,
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        if let Some(mut folder) = folder {
            return logits::write(&mut model, &tokens, &mut folder, load_ms, given.common);
        }
        let start = Instant::now();
        let mut session = Session::new(&mut model)?;
        session.push(&tokens);
        session.compute(&mut model).map_err(|e| Error::from(e).about("the prompt"))?;
        let prompted = start.elapsed().as_secs_f64();
        let listens = !given.common.json && !self.log_probabilities;
        let mut out = io::stdout().lock();
        let terminal = out.is_terminal();
        let mut lost = None;
        let answer = session.generate(&mut model, &generation, |text| {
            let said = match listens {
                true => out.write_all(shown(text, terminal).as_bytes()).and_then(|()| out.flush()),
                false => Ok(()),
            };
            match said {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    lost = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        drop(out);
        if let Some(error) = lost {
            return super::super::cannot_write(error);
        }
        let decoded = start.elapsed().as_secs_f64() - prompted;
        let timing = Timing {
            load_ms,
            first_token_ms: prompted * 1e3,
            prompt_tok_s: rate(tokens.len(), prompted),
            decode_tok_s: rate(answer.tokens.len().saturating_sub(1), decoded),
        };
        if given.common.json {
            return super::super::print_json(&self.document(&answer, timing));
        }
        let tokenizer = model.tokenizer().ok();
        if self.log_probabilities {
            super::super::print(&table(&answer.tokens, tokenizer.map(AsRef::as_ref)))?;
        } else if tokenizer.is_none() {
            let ids: Vec<String> = answer.tokens.iter().map(|c| c.token.to_string()).collect();
            super::super::print(&(ids.join(" ") + "\n"))?;
        } else {
            super::super::print("\n")?;
        }
        given.common.note(note(tokens.len(), answer.tokens.len(), &timing));
        Ok(())
    }

    fn document<'a>(&self, answer: &'a Answer, timing: Timing) -> Document<'a> {
        let likely = || answer.tokens.iter().map(|chosen| chosen.log_probability).collect();
        Document {
            text: &answer.text,
            tokens: answer.tokens.iter().map(|chosen| chosen.token).collect(),
            log_probabilities: self.log_probabilities.then(likely),
            finish_reason: answer.finish_reason.name(),
            timing,
            peak_memory_bytes: kinglet_formats::map::process_peak(),
        }
    }

    fn encode(&self, model: &LanguageModel, prompt: &str) -> Result<Vec<u32>, Error> {
        let tokenizer = model.tokenizer().map_err(|error| match error {
            LmError::NoTokenizer => Error::input(format!("{error}, with --input tokens=FILE.npy")),
            error => error.into(),
        })?;
        if self.chat || (model.template().is_some() && !self.raw) {
            let conversation = Conversation {
                messages: vec![Message::new("user", prompt)],
                add_generation_prompt: true,
                ..Conversation::default()
            };
            let template = model.chat_template()?;
            return Ok(model.encode_conversation(&template, &conversation)?);
        }
        let tokens = tokenizer.encode(prompt, EncodeOptions::default());
        let tokens = tokens.map_err(|error| Error::input(error.to_string()))?;
        if tokens.is_empty() {
            return Err(Error::input("the prompt is empty: give the model a text to go on from"));
        }
        Ok(tokens)
    }
}

enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// The prompt that the words after the model make; `-` is standard input, without the newline at its
/// end.
fn prompt(words: &[PathBuf]) -> Result<String, Error> {
    match words {
        [] => Err(Error::input(
            "give a prompt, or - to read it from standard input; `kinglet chat` holds a conversation",
        )),
        [word] if word == Path::new("-") => {
            let text = super::read_text(word)?;
            let text = text
                .strip_suffix('\n')
                .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
            Ok(text.to_string())
        }
        words => {
            let text = |word: &PathBuf| {
                let text = word.to_str().map(str::to_string);
                text.ok_or_else(|| Error::input("the prompt is not text: it is no UTF-8"))
            };
            Ok(words.iter().map(text).collect::<Result<Vec<_>, _>>()?.join(" "))
        }
    }
}

/// Each token with its probability, a line each.
fn table(tokens: &[Chosen], tokenizer: Option<&Tokenizer>) -> String {
    let line = |chosen: &Chosen| {
        let text = tokenizer.map(|t| String::from_utf8_lossy(t.token_bytes(chosen.token)));
        let share = chosen.log_probability.exp() * 100.0;
        let text = text.map_or(String::new(), |text| format!("  {text:?}"));
        format!("{:7}  {:9.4}  {share:5.1} %{text}\n", chosen.token, chosen.log_probability)
    };
    tokens.iter().map(line).collect()
}

fn note(prompt: usize, answer: usize, timing: &Timing) -> String {
    let speed = |rate: Option<f64>| rate.map_or(String::new(), |r| format!(", {r:.1} a second"));
    format!(
        "prompt: {prompt} tokens{}; answer: {answer} tokens{}; {:.1} ms to load, {:.1} ms to the first token",
        speed(timing.prompt_tok_s),
        speed(timing.decode_tok_s),
        timing.load_ms,
        timing.first_token_ms
    )
}
