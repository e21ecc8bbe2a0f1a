//! Finding special tokens in text.

use aho_corasick::{AhoCorasick, MatchKind};
use hashbrown::HashSet;

use super::TokenizerError;
use super::texts::Texts;
use super::vocabulary::{Kind, Vocabulary};

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// Finds special tokens: the leftmost first, and of those that start there the longest.
#[derive(Debug)]
pub(super) struct Finder {
    /// Of the tokens that are always one token, such as runs of spaces.
    always: Patterns,
    /// Of these and the control tokens.
    all: Patterns,
    left_strip: HashSet<u32>,
    right_strip: HashSet<u32>,
}

impl Finder {
    pub fn new(vocabulary: &Vocabulary, texts: &Texts) -> Result<Finder, TokenizerError> {
        let kind = |id: u32| vocabulary.kinds.get(id as usize).copied().unwrap_or_default();
        let of = |wanted: &[Kind]| Patterns::new(texts, |id| wanted.contains(&kind(id)));
        Ok(Finder {
            always: of(&[Kind::UserDefined])?,
            all: of(&[Kind::UserDefined, Kind::Control, Kind::Unknown])?,
            left_strip: vocabulary.left_strip.iter().copied().collect(),
            right_strip: vocabulary.right_strip.iter().copied().collect(),
        })
    }

    /// The parts of `text`; with `control`, control tokens count, too.
    pub fn split<'t>(&self, text: &'t str, control: bool) -> Vec<Part<'t>> {
        let patterns = if control { &self.all } else { &self.always };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((start, end, id)) = patterns.find(rest) {
            let (mut before, mut after) = (&rest[..start], &rest[end..]);
            if self.left_strip.contains(&id) {
                before = before.trim_end();
            }
            if self.right_strip.contains(&id) {
                after = after.trim_start();
            }
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            parts.push(Part::Token(id));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest));
        }
        parts
    }
}

#[derive(Debug)]
struct Patterns {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl Patterns {
    fn new(texts: &Texts, wanted: impl Fn(u32) -> bool) -> Result<Patterns, TokenizerError> {
        let ids: Vec<u32> = texts
            .iter()
            .filter(|(id, text)| !text.is_empty() && wanted(*id))
            .map(|(id, _)| id)
            .collect();
        let automaton = (!ids.is_empty())
            .then(|| {
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(ids.iter().map(|&id| texts.get(id)))
            })
            .transpose()
            .map_err(|error| TokenizerError::TooLarge(format!("special tokens: {error}")))?;
        Ok(Patterns { automaton, ids })
    }

    fn find(&self, text: &str) -> Option<(usize, usize, u32)> {
        let found = self.automaton.as_ref()?.find(text)?;
        Some((found.start(), found.end(), self.ids[found.pattern().as_usize()]))
    }
}
