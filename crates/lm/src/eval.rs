//! How well a model knows a text, and how far two models are apart on it.
//!
//! A text is cut into chunks of as many tokens as the context has, and each chunk's later half is
//! looked at: there a model has seen enough to tell. llama.cpp counts in the same way, so its numbers
//! can be compared.

use crate::error::LmError;
use crate::model::{LanguageModel, Wanted};
use crate::sample::best;

/// How well a model knows a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// e to the mean negative log-probability of a token.
    pub perplexity: f64,
    /// Its standard error.
    pub error: f64,
    /// Chunks of the text.
    pub chunks: usize,
    /// Tokens looked at.
    pub tokens: usize,
}

/// How far model B is from model A on a text: KL(A ‖ B) in nats, at each position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub median: f64,
    /// What all but a hundredth of the positions lie below.
    pub percentile_99: f64,
    /// The largest.
    pub largest: f64,
    /// The share of positions where both find the same token likeliest.
    pub same_top: f64,
    /// Chunks of the text.
    pub chunks: usize,
    /// Positions looked at.
    pub tokens: usize,
}

/// The perplexity of `model` on a text's `tokens`, in chunks of `context` tokens; what is left at the
/// end is left out. `on_chunk` hears how far it is, the number of chunks, and what was found so far.
///
/// # Errors
/// If there is not one chunk, `context` is more than the model has, or running it fails.
pub fn perplexity(
    model: &mut LanguageModel,
    tokens: &[u32],
    context: usize,
    mut on_chunk: impl FnMut(usize, usize, &Perplexity),
) -> Result<Perplexity, LmError> {
    let chunks = Chunks::new(model, tokens, context)?;
    let sequence = model.open_sequence()?;
    let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0usize);
    let mut found = Perplexity { perplexity: 0.0, error: 0.0, chunks: 0, tokens: 0 };
    let mut result = Ok(());
    for i in 0..chunks.count {
        let (chunk, targets) = chunks.get(i);
        let first = chunks.first();
        model.truncate(sequence, 0);
        result = model.extend(sequence, &chunk[..first], Wanted::Last, |_, _| {}).and_then(|()| {
            model.extend(sequence, &chunk[first..], Wanted::All, |at, logits| {
                let surprise = -Distribution::of(logits).log(targets[at] as usize);
                sum += surprise;
                squares += surprise * surprise;
                count += 1;
            })
        });
        if result.is_err() {
            break;
        }
        let n = count as f64;
        let mean = sum / n;
        let variance = (squares / n - mean * mean).max(0.0);
        let perplexity = mean.exp();
        let error = perplexity * (variance / (n - 1.0).max(1.0)).sqrt();
        found = Perplexity { perplexity, error, chunks: i + 1, tokens: count };
        on_chunk(i + 1, chunks.count, &found);
    }
    model.close_sequence(sequence);
    result.map(|()| found)
}

/// How far model `b` is from model `a` on a text's `tokens`, in chunks of `context` tokens. `on_chunk`
/// hears how far it is and the number of chunks.
///
/// # Errors
/// If the models have not as many tokens, there is not one chunk, `context` is more than a model has, or
/// running one fails.
pub fn divergence(
    a: &mut LanguageModel,
    b: &mut LanguageModel,
    tokens: &[u32],
    context: usize,
    mut on_chunk: impl FnMut(usize, usize),
) -> Result<Divergence, LmError> {
    let vocabulary = a.vocabulary();
    if vocabulary != b.vocabulary() {
        return Err(LmError::Text(format!(
            "the models have {vocabulary} and {} tokens: only models of one vocabulary can be compared",
            b.vocabulary()
        )));
    }
    let chunks = Chunks::new(a, tokens, context)?;
    let (of_a, of_b) = (a.open_sequence()?, b.open_sequence()?);
    let mut apart: Vec<f64> = Vec::new();
    let mut same = 0usize;
    let mut compare = |i: usize| -> Result<(), LmError> {
        let (chunk, _) = chunks.get(i);
        let (before, rest) = chunk.split_at(chunks.first());
        a.truncate(of_a, 0);
        b.truncate(of_b, 0);
        a.extend(of_a, before, Wanted::Last, |_, _| {})?;
        b.extend(of_b, before, Wanted::Last, |_, _| {})?;
        let mut theirs: Vec<f32> = Vec::new();
        // Logits of many positions of a large vocabulary are many bytes.
        for piece in rest.chunks((PIECE / vocabulary.max(1)).max(1)) {
            theirs.clear();
            a.extend(of_a, piece, Wanted::All, |_, logits| theirs.extend_from_slice(logits))?;
            b.extend(of_b, piece, Wanted::All, |at, logits| {
                let other = &theirs[at * vocabulary..(at + 1) * vocabulary];
                apart.push(Distribution::of(other).divergence(&Distribution::of(logits)));
                same += usize::from(best(other) == best(logits));
            })?;
        }
        Ok(())
    };
    let mut result = Ok(());
    for i in 0..chunks.count {
        result = compare(i);
        if result.is_err() {
            break;
        }
        on_chunk(i + 1, chunks.count);
    }
    a.close_sequence(of_a);
    b.close_sequence(of_b);
    result?;
    let count = apart.len();
    let mean = apart.iter().sum::<f64>() / count as f64;
    apart.sort_by(f64::total_cmp);
    Ok(Divergence {
        mean,
        median: percentile(&apart, 0.5),
        percentile_99: percentile(&apart, 0.99),
        largest: percentile(&apart, 1.0),
        same_top: same as f64 / count as f64,
        chunks: chunks.count,
        tokens: count,
    })
}

/// Logits that are kept at once.
const PIECE: usize = 8 << 20;

/// The value that this share of the `sorted` lies below, between neighbours in proportion.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len().saturating_sub(1)) as f64;
    let low = sorted.get(at as usize).copied().unwrap_or(f64::NAN);
    let high = sorted.get(at as usize + 1).copied().unwrap_or(low);
    low + (high - low) * at.fract()
}

/// A text in chunks.
struct Chunks<'a> {
    tokens: &'a [u32],
    context: usize,
    count: usize,
    start: Option<u32>,
}

impl<'a> Chunks<'a> {
    fn new(
        model: &LanguageModel,
        tokens: &'a [u32],
        context: usize,
    ) -> Result<Chunks<'a>, LmError> {
        if context < 4 {
            return Err(LmError::Text(format!(
                "a context of {context} tokens is too short to judge by: give at least 4"
            )));
        }
        let count = tokens.len() / context;
        if count == 0 {
            return Err(LmError::Text(format!(
                "the text has {} tokens, fewer than the context of {context}: give a longer text, or a \
                 shorter context",
                tokens.len()
            )));
        }
        let start = match model.tokenizer() {
            Ok(_) => model.start_token()?,
            Err(_) => None,
        };
        Ok(Chunks { tokens, context, count, start })
    }

    /// The first position that is looked at.
    fn first(&self) -> usize {
        self.context / 2
    }

    /// The tokens that the model reads of a chunk, and those that follow the positions looked at.
    fn get(&self, i: usize) -> (Vec<u32>, &'a [u32]) {
        let chunk = &self.tokens[i * self.context..(i + 1) * self.context];
        let mut read = chunk[..self.context - 1].to_vec();
        if let Some(start) = self.start {
            read[0] = start;
        }
        (read, &chunk[self.first() + 1..])
    }
}

/// What logits say of the next token.
struct Distribution<'a> {
    logits: &'a [f32],
    /// log Σ eˡ.
    total: f64,
}

impl Distribution<'_> {
    fn of(logits: &[f32]) -> Distribution<'_> {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
        Distribution { logits, total: f64::from(top) + sum.ln() }
    }

    /// Natural logarithm of a token's probability.
    fn log(&self, token: usize) -> f64 {
        f64::from(self.logits[token]) - self.total
    }

    /// KL(self ‖ other), which is never below 0 but by rounding.
    fn divergence(&self, other: &Distribution<'_>) -> f64 {
        let each = (0..self.logits.len()).map(|token| {
            let log = self.log(token);
            let share = log.exp();
            if share == 0.0 { 0.0 } else { share * (log - other.log(token)) }
        });
        each.sum::<f64>().max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_of_probabilities() {
        // p = (1/4, 3/4), q = (1/2, 1/2); logits may be shifted.
        let p = [5.0, 5.0 + 3f32.ln()];
        let (p, q) = (Distribution::of(&p), Distribution::of(&[-2.0, -2.0]));
        let expected = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!((p.divergence(&q) - expected).abs() < 1e-6);
        assert!(p.divergence(&p) < 1e-12);
        let never = [f32::NEG_INFINITY, 0.0];
        assert!((Distribution::of(&never).divergence(&q) - 2f64.ln()).abs() < 1e-9);
        assert_eq!(q.divergence(&Distribution::of(&never)), f64::INFINITY);
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        let sorted = [0.0, 1.0, 2.0, 10.0];
        assert_eq!(percentile(&sorted, 0.5), 1.5);
        assert_eq!(percentile(&sorted, 1.0), 10.0);
        assert_eq!(percentile(&[3.0], 0.99), 3.0);
    }
}
