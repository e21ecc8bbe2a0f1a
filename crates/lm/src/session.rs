//! A conversation with a model: what was said, and what the model goes on with.

use crate::constrain::{Allowed, Constraint, Following};
use crate::error::LmError;
use crate::model::{LanguageModel, Wanted};
use crate::sample::{Chosen, Sampler, Sampling, log_sum_exp};
use crate::tokenizer::{EncodeOptions, StreamDecoder};
use std::ops::ControlFlow;

/// How to go on.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens at most.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Texts that end the answer; they are no part of it.
    pub stop: Vec<String>,
    /// Whether to go on past the tokens that end an answer.
    pub ignore_end: bool,
    /// Where the context is full: keep this many of the first tokens and the later half of the rest
    /// and go on, for text without end (attention sinks, arXiv 2309.17453). `None`: stop there.
    pub sinks: Option<usize>,
    /// The form that the answer must have. It has it once it ends with [`FinishReason::Stop`] by
    /// itself, not by a stop text.
    pub constraint: Option<Constraint>,
}

impl Default for Generation {
    fn default() -> Generation {
        Generation {
            max_tokens: 256,
            sampling: Sampling::default(),
            stop: Vec::new(),
            ignore_end: false,
            sinks: None,
            constraint: None,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop text came.
    Stop,
    /// As many tokens as asked for, or as the context has.
    Length,
    /// Whoever listened did not want more.
    Cancelled,
}

impl FinishReason {
    /// As in the JSON of servers: `stop`, `length`, `cancelled`.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its text; empty where the model has no tokeniser.
    pub text: String,
    /// Its tokens, each with its log-probability, the one that ended it left out.
    pub tokens: Vec<Chosen>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// A conversation: its tokens, and how many of them the model holds.
///
/// What a session was told is computed when it is needed, once: saying again what it holds already
/// costs nothing ([`Session::rewrite`]).
pub struct Session {
    sequence: usize,
    tokens: Vec<u32>,
    /// The logits after the last token, where the model holds all.
    last: Vec<f32>,
}

impl Session {
    /// A new conversation with `model`.
    pub fn new(model: &mut LanguageModel) -> Result<Session, LmError> {
        Ok(Session { sequence: model.open_sequence()?, tokens: Vec::new(), last: Vec::new() })
    }

    /// A second conversation that starts with all of this one, without computing it again.
    pub fn fork(&self, model: &mut LanguageModel) -> Result<Session, LmError> {
        let sequence = model.fork_sequence(self.sequence)?;
        Ok(Session { sequence, tokens: self.tokens.clone(), last: self.last.clone() })
    }

    /// A conversation whose tokens up to the length of `sequence` the model holds.
    pub(crate) fn of(sequence: usize, tokens: Vec<u32>) -> Session {
        Session { sequence, tokens, last: Vec::new() }
    }

    /// Gives the model its memory back.
    pub fn close(self, model: &mut LanguageModel) {
        model.close_sequence(self.sequence);
    }

    /// Everything said so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The logits after the last token; empty before [`Session::compute`].
    pub fn logits(&self) -> &[f32] {
        &self.last
    }

    /// The model's sequence that holds this conversation.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// Says `tokens`.
    pub fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Says `text`, as a plain text that begins or goes on.
    pub fn push_text(&mut self, model: &LanguageModel, text: &str) -> Result<(), LmError> {
        let options = EncodeOptions { add_special: self.tokens.is_empty(), parse_special: false };
        let tokens = model
            .tokenizer()?
            .encode(text, options)
            .map_err(|e| LmError::Tokenizer(e.to_string()))?;
        self.push(&tokens);
        Ok(())
    }

    /// Makes `tokens` the whole conversation. What it has in common with the one so far, from the
    /// start, is not computed again.
    pub fn rewrite(&mut self, model: &mut LanguageModel, tokens: Vec<u32>) {
        let same = self.tokens.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        if same < model.length(self.sequence) {
            model.truncate(self.sequence, same);
            self.last.clear();
        }
        self.tokens = tokens;
    }

    /// Computes what the model does not hold yet. Returns how many tokens that were.
    pub fn compute(&mut self, model: &mut LanguageModel) -> Result<usize, LmError> {
        self.compute_each(model, Wanted::Last, |_, _| {})
    }

    /// As [`Session::compute`]; `each` is given a place in the conversation and the logits after the
    /// token there, for those computed now that `wanted` says.
    fn compute_each(
        &mut self,
        model: &mut LanguageModel,
        wanted: Wanted,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<usize, LmError> {
        if self.is_computed(model) {
            return Ok(0);
        }
        let held = model.length(self.sequence).min(self.tokens.len());
        // The logits after the last token are asked for: it is computed again if need be.
        let from = match held == self.tokens.len() {
            true => model.truncate(self.sequence, held.saturating_sub(1)),
            false => held,
        };
        let last = &mut self.last;
        last.clear();
        let rest = &self.tokens[from..];
        model.extend(self.sequence, rest, wanted, |i, logits| {
            each(from + i, logits);
            if i + 1 == rest.len() {
                last.extend_from_slice(logits);
            }
        })?;
        Ok(rest.len())
    }

    /// Whether the logits after the last token are there.
    fn is_computed(&self, model: &LanguageModel) -> bool {
        !self.last.is_empty() && model.length(self.sequence) == self.tokens.len()
    }

    /// Lets the model go on. `on_text` hears the text as it comes, whole characters only, and says
    /// whether to go on; text that may yet become a stop text is held back.
    ///
    /// Fails where the conversation does not fit in the context, unless [`Generation::sinks`] says
    /// what to keep of it.
    pub fn generate(
        &mut self,
        model: &mut LanguageModel,
        generation: &Generation,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, LmError> {
        generation.sampling.check().map_err(LmError::Sampling)?;
        if self.tokens.is_empty() {
            let start = model.tokenizer().ok().and_then(|t| t.special().bos);
            let m = "there is nothing to go on from: say something first";
            self.push(&[start.ok_or_else(|| LmError::Sampling(m.into()))?]);
        }
        let tokenizer = model.tokenizer().ok().cloned();
        let mut following = generation.constraint.as_ref().map(|c| model.follow(c)).transpose()?;
        let mut decoder = tokenizer.as_deref().map(StreamDecoder::continuing);
        let mut sampler = Sampler::new(generation.sampling.clone());
        let mut held = HeldBack::new(&generation.stop);
        let mut answer =
            Answer { text: String::new(), tokens: Vec::new(), finish_reason: FinishReason::Length };
        // How many tokens at the end were chosen without the model, which computes them later.
        let mut unasked = 0;
        while answer.tokens.len() < generation.max_tokens {
            if self.tokens.len() > model.context() && !self.make_room(model, generation) {
                if answer.tokens.is_empty() {
                    let (needed, context) = (self.tokens.len(), model.context());
                    return Err(LmError::Context { needed, context });
                }
                break;
            }
            let chosen = match forced(&mut following)? {
                Forced::Nothing => {
                    answer.finish_reason = FinishReason::Stop;
                    break;
                }
                Forced::Token(token) if !self.is_computed(model) => {
                    unasked += 1;
                    Chosen { token, log_probability: f32::NAN }
                }
                Forced::Token(token) => told(&self.last, token),
                Forced::Among(allowed) => {
                    self.compute_unasked(model, &mut unasked, &mut answer.tokens)?;
                    let allowed = allowed.as_ref().map(|a| a.bits());
                    let chosen = sampler.choose(&self.last, &self.tokens, allowed);
                    chosen.ok_or_else(|| LmError::Sampling("no token may come next".into()))?
                }
            };
            let ends = tokenizer.as_ref().is_some_and(|t| t.is_end_of_generation(chosen.token))
                || model.generation().ends.contains(&chosen.token);
            if ends && (!generation.ignore_end || following.is_some()) {
                // It is no part of the answer, nor is it computed.
                unasked -= usize::from(chosen.log_probability.is_nan() && unasked > 0);
                answer.finish_reason = FinishReason::Stop;
                break;
            }
            if let Some(following) = &mut following {
                following.push(chosen.token)?;
            }
            self.tokens.push(chosen.token);
            answer.tokens.push(chosen);
            let piece = decoder.as_mut().map(|d| d.push(chosen.token)).unwrap_or_default();
            let (text, stopped) = held.push(&piece);
            answer.text.push_str(&text);
            let cancelled = !text.is_empty() && on_text(&text).is_break();
            if stopped || cancelled {
                answer.finish_reason = match cancelled {
                    true => FinishReason::Cancelled,
                    false => FinishReason::Stop,
                };
                self.compute_unasked(model, &mut unasked, &mut answer.tokens)?;
                return Ok(answer);
            }
        }
        let rest = decoder.map(StreamDecoder::finish).unwrap_or_default();
        let (mut text, stopped) = held.push(&rest);
        if !stopped {
            text.push_str(&held.finish());
        }
        answer.text.push_str(&text);
        if !text.is_empty() && on_text(&text).is_break() {
            answer.finish_reason = FinishReason::Cancelled;
        }
        if unasked > 0 {
            self.compute_unasked(model, &mut unasked, &mut answer.tokens)?;
        }
        Ok(answer)
    }

    /// Computes what the model does not hold yet, and the log-probabilities of the last `unasked`
    /// tokens with it.
    fn compute_unasked(
        &mut self,
        model: &mut LanguageModel,
        unasked: &mut usize,
        chosen: &mut [Chosen],
    ) -> Result<(), LmError> {
        if *unasked == 0 {
            return self.compute(model).map(|_| ());
        }
        let first = self.tokens.len() - *unasked;
        let at = chosen.len() - *unasked;
        self.compute_each(model, Wanted::All, |i, logits| {
            if let Some(chosen) = (i + 1).checked_sub(first).and_then(|k| chosen.get_mut(at + k)) {
                *chosen = told(logits, chosen.token);
            }
        })?;
        *unasked = 0;
        Ok(())
    }

    /// Drops the earlier half of what lies between the sinks and the end.
    fn make_room(&mut self, model: &mut LanguageModel, generation: &Generation) -> bool {
        let Some(sinks) = generation.sinks.map(|s| s.min(self.tokens.len())) else { return false };
        let rest = self.tokens.len() - sinks;
        if rest < 2 || sinks + rest / 2 >= model.context() {
            return false;
        }
        let mut tokens = self.tokens[..sinks].to_vec();
        tokens.extend_from_slice(&self.tokens[self.tokens.len() - rest / 2..]);
        self.rewrite(model, tokens);
        true
    }
}

/// What a constraint leaves to choose.
enum Forced {
    /// The answer is whole.
    Nothing,
    /// Only this token may come.
    Token(u32),
    /// One of these; `None`: of all.
    Among(Option<Allowed>),
}

fn forced(following: &mut Option<Following>) -> Result<Forced, LmError> {
    let Some(following) = following else { return Ok(Forced::Among(None)) };
    if following.is_complete() {
        return Ok(Forced::Nothing);
    }
    let allowed = following.allowed()?;
    Ok(match allowed.only() {
        Some(token) => Forced::Token(token),
        None => Forced::Among(Some(allowed)),
    })
}

/// A token with the log-probability that these logits give it.
fn told(logits: &[f32], token: u32) -> Chosen {
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    Chosen { token, log_probability: logit - log_sum_exp(logits) }
}

/// Text held back while it may yet become a stop text.
struct HeldBack<'a> {
    stop: &'a [String],
    text: String,
}

impl HeldBack<'_> {
    fn new(stop: &[String]) -> HeldBack<'_> {
        HeldBack { stop, text: String::new() }
    }

    /// Takes in `piece`; returns what is free to go, and whether a stop text came.
    fn push(&mut self, piece: &str) -> (String, bool) {
        self.text.push_str(piece);
        let stops = self.stop.iter().filter(|s| !s.is_empty());
        if let Some(at) = stops.clone().filter_map(|s| self.text.find(s.as_str())).min() {
            self.text.truncate(at);
            return (std::mem::take(&mut self.text), true);
        }
        // The longest end that some stop text begins with.
        let begins = |at: &usize| stops.clone().any(|s| s.starts_with(&self.text[*at..]));
        let keep = self.text.char_indices().map(|(i, _)| i).find(begins).unwrap_or(self.text.len());
        let rest = self.text.split_off(keep);
        (std::mem::replace(&mut self.text, rest), false)
    }

    fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_become_a_stop_text_waits() {
        let stop = ["###".to_string(), "END".to_string()];
        let mut held = HeldBack::new(&stop);
        assert_eq!(held.push("a #"), ("a ".into(), false));
        assert_eq!(held.push("# b"), ("## b".into(), false));
        assert_eq!(held.push("é E"), ("é ".into(), false));
        assert_eq!(held.push("ND rest"), (String::new(), true));
        let mut held = HeldBack::new(&stop);
        assert_eq!(held.push("x##"), ("x".into(), false));
        assert_eq!(held.finish(), "##");
    }
}
