//! SentencePiece's byte-pair encoding: neighbours merge into the token of the highest score
//! (Kudo and Richardson 2018).

use super::TokenizerError;
use super::merge::{Merger, NONE};
use super::texts::Texts;
use super::vocabulary::{Kind, Model, Vocabulary};

#[derive(Debug)]
pub(super) struct SentencePiece {
    /// Each token's place in the order of merging, lowest first; nothing merges into [`NONE`].
    priorities: Vec<u32>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    space_prefix: bool,
}

impl SentencePiece {
    pub fn new(vocabulary: &Vocabulary, texts: &Texts) -> Result<SentencePiece, TokenizerError> {
        let scores = scores(vocabulary, Model::SentencePiece)?;
        let priority = |(id, score): (usize, &f32)| match vocabulary.kinds.get(id) {
            Some(Kind::Control | Kind::Unknown | Kind::Byte) => NONE,
            _ => descending(*score),
        };
        Ok(SentencePiece {
            priorities: scores.iter().enumerate().map(priority).collect(),
            bytes: texts.bytes(),
            unknown: vocabulary.special.unk,
            space_prefix: vocabulary.add_space_prefix,
        })
    }

    /// Appends the tokens of `text`. A text that starts, or follows a special token, is put after a
    /// space where the model was trained so.
    pub fn encode(&self, text: &str, starts: bool, texts: &Texts, out: &mut Vec<u32>) {
        let mut spelled = String::with_capacity(text.len() + text.len() / 2);
        if starts && self.space_prefix {
            spelled.push('▁');
        }
        spelled.extend(text.chars().map(|char| if char == ' ' { '▁' } else { char }));
        let bytes = spelled.as_bytes();
        let mut merger = Merger::default();
        for char in spelled.chars() {
            merger.push(char.len_utf8(), NONE);
        }
        merger.merge(|left, right| {
            let id = texts.id(&bytes[left.start..right.start + right.len])?;
            let priority = self.priorities[id as usize];
            (priority != NONE).then_some((priority, id))
        });
        for symbol in merger.symbols() {
            let text = &bytes[symbol.start..symbol.start + symbol.len];
            let usable = |id: &u32| self.priorities[*id as usize] != NONE;
            match texts.id(text).filter(usable) {
                Some(id) => out.push(id),
                None if text.iter().all(|&byte| self.bytes[byte as usize].is_some()) => {
                    out.extend(text.iter().filter_map(|&byte| self.bytes[byte as usize]));
                }
                None => out.extend(self.unknown),
            }
        }
    }
}

/// The scores of `vocabulary`, each of which is a number.
pub(super) fn scores<'v>(
    vocabulary: &'v Vocabulary,
    model: Model,
) -> Result<&'v [f32], TokenizerError> {
    if vocabulary.scores.is_empty() {
        return Err(TokenizerError::Missing { what: "scores", model });
    }
    match vocabulary.scores.iter().position(|score| score.is_nan()) {
        Some(id) => Err(TokenizerError::Token {
            id: id as u32,
            text: vocabulary.tokens[id].to_owned(),
            reason: "has a score that is not a number",
        }),
        None => Ok(&vocabulary.scores),
    }
}

/// A number that is the lower, the higher `score` is; never [`NONE`].
fn descending(score: f32) -> u32 {
    // Of a float's bits, the negative ones run backwards; zero has two.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_scores_come_first() {
        let scores =
            [f32::INFINITY, 1e9, 1.0, 1e-30, 0.0, -1e-30, -1.0, -31740.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| descending(pair[0]) < descending(pair[1])));
        assert_eq!(descending(-0.0), descending(0.0));
        assert!(descending(f32::NEG_INFINITY) < NONE);
    }
}
