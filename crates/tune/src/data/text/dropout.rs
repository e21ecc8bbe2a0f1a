//! Words in other pieces than usual: subword regularisation, after BPE-dropout (Provilkov et al. 2020).

use kinglet_lm::Fnv;
use kinglet_lm::tokenizer::{Kind, Tokenizer};
use std::collections::HashMap;

use crate::random::Random;

/// Breaks tokens of examples into smaller ones, by chance.
///
/// In one example a token is always broken alike, wherever it stands, so that what an answer repeats is
/// still written as it was in the question. The same example is always broken alike, so that its length
/// is known.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The chance of a token to be broken in two; each part then has it, too.
    pub chance: f64,
    /// Whose chance it is.
    pub seed: u64,
}

/// The tokens of one example as they are broken.
pub(super) struct Broken<'a> {
    tokenizer: &'a Tokenizer,
    chance: f64,
    seed: u64,
    parts: HashMap<u32, Vec<u32>>,
}

impl Dropout {
    /// For the example that `text` stands for.
    pub(super) fn of<'a>(self, text: &str, tokenizer: &'a Tokenizer) -> Broken<'a> {
        let mut hash = Fnv::new();
        hash.take(text.as_bytes());
        Broken {
            tokenizer,
            chance: self.chance,
            seed: self.seed ^ hash.value(),
            parts: HashMap::new(),
        }
    }
}

impl Broken<'_> {
    /// What `tokens` become.
    pub fn of(&mut self, tokens: &[u32]) -> Vec<u32> {
        let mut all = Vec::with_capacity(2 * tokens.len());
        for token in tokens {
            self.push(*token, &mut all);
        }
        all
    }

    fn push(&mut self, token: u32, out: &mut Vec<u32>) {
        if let Some(parts) = self.parts.get(&token) {
            return out.extend_from_slice(parts);
        }
        let start = out.len();
        match self.halves(token) {
            Some((left, right)) => {
                self.push(left, out);
                self.push(right, out);
            }
            None => out.push(token),
        }
        self.parts.insert(token, out[start..].to_vec());
    }

    /// The two tokens that `token` is broken into, where it is: any two that spell it.
    fn halves(&self, token: u32) -> Option<(u32, u32)> {
        let text = self.tokenizer.token_text(token)?;
        let mut random = Random::new(self.seed, u64::from(token));
        if self.tokenizer.kind(token) != Kind::Normal || !random.happens(self.chance) {
            return None;
        }
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let id = |text: &str| {
            let id = self.tokenizer.token_id(text)?;
            (self.tokenizer.kind(id) == Kind::Normal).then_some(id)
        };
        let ids = |(left, right)| Some((id(left)?, id(right)?));
        let found: Vec<_> = cuts.filter_map(ids).collect();
        (!found.is_empty()).then(|| found[random.below(found.len())])
    }
}
