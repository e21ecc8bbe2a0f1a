//! The options that say how a text goes on.

use std::path::PathBuf;

use clap::Args;
use kinglet::Error;
use kinglet::lm::sample::Sampling;
use kinglet::lm::{Constraint, Generation};

use super::read_text;

/// How a text goes on.
#[derive(Args)]
pub(in crate::program) struct Choosing {
    /// Tokens at most [default: 256; chat: 1024]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_tokens: Option<usize>,
    /// How freely to choose: 0 takes the likeliest token [default: 0; chat: 0.7]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among the K likeliest tokens
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have probability P [default: 1; chat: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Choose among tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Choose among the most typical tokens that together have probability P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical: Option<f32>,
    /// Divide the logits of tokens seen lately by this
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Take this from a token's logit for each time it was seen lately
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Take this from the logits of tokens seen lately
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Add to a token's logit; -inf forbids the token
    #[arg(long, value_name = "TOKEN=BIAS", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Where random choices start: the same seed gives the same text [default: 0; chat: the time]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// End the answer before this text
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on past the tokens that end an answer
    #[arg(long)]
    ignore_end: bool,
    /// Answer with JSON of this schema
    #[arg(long, value_name = "FILE", group = "form")]
    json_schema: Option<PathBuf>,
    /// Answer with a text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX", group = "form")]
    regex: Option<String>,
    /// Answer with a text of this grammar, in Lark's notation
    #[arg(long, value_name = "FILE", group = "form")]
    grammar: Option<PathBuf>,
    /// Where the context is full, forget the earlier half of the text and go on
    #[arg(long)]
    endless: bool,
}

/// Tokens at a text's start that are kept when the rest is forgotten: attention leans on them.
const SINKS: usize = 4;

fn bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = "give TOKEN=BIAS, a token's number and what to add, such as 42=-1.5";
    let (token, bias) = text.split_once('=').ok_or(wrong)?;
    let token = token.parse().map_err(|_| wrong)?;
    Ok((token, bias.parse().map_err(|_| wrong)?))
}

impl Choosing {
    /// What these say, where they say something, and else `usual`, for a model of `vocabulary` tokens.
    pub fn generation(&self, usual: Generation, vocabulary: usize) -> Result<Generation, Error> {
        let s = &usual.sampling;
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(s.temperature),
            top_k: self.top_k.unwrap_or(s.top_k),
            top_p: self.top_p.unwrap_or(s.top_p),
            min_p: self.min_p.unwrap_or(s.min_p),
            typical: self.typical.unwrap_or(s.typical),
            repetition_penalty: self.repetition_penalty.unwrap_or(s.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(s.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(s.presence_penalty),
            penalty_window: s.penalty_window,
            bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or(s.seed),
        };
        sampling.check().map_err(Error::input)?;
        let outside = self.logit_bias.iter().find(|(token, _)| *token as usize >= vocabulary);
        if let Some((token, _)) = outside {
            return Err(Error::input(format!(
                "--logit-bias {token}: the model's tokens are 0 to {}",
                vocabulary.saturating_sub(1)
            )));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::input("--stop: the text that ends an answer is empty"));
        }
        let mut generation = usual;
        generation.max_tokens = self.max_tokens.unwrap_or(generation.max_tokens);
        generation.sampling = sampling;
        generation.stop.clone_from(&self.stop);
        generation.ignore_end = self.ignore_end;
        generation.sinks = self.endless.then_some(SINKS);
        generation.constraint = self.constraint()?;
        Ok(generation)
    }

    fn constraint(&self) -> Result<Option<Constraint>, Error> {
        if let Some(file) = &self.json_schema {
            let schema = serde_json::from_str(&read_text(file)?)
                .map_err(|e| Error::input(format!("no JSON: {e}")).about(file.display()))?;
            return Ok(Some(Constraint::JsonSchema(schema)));
        }
        if let Some(file) = &self.grammar {
            return Ok(Some(Constraint::Lark(read_text(file)?)));
        }
        Ok(self.regex.clone().map(Constraint::Regex))
    }
}
