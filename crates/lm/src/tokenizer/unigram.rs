//! The unigram language model: of all ways to cut a text into tokens, the likeliest (Kudo 2018).

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::TokenizerError;
use super::charsmap::Charsmap;
use super::sentencepiece::scores;
use super::texts::Texts;
use super::vocabulary::{Kind, Model, Vocabulary};

/// How much less likely than the least likely token an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;

#[derive(Debug)]
pub(super) struct Unigram {
    /// Finds every token at every place; absent where no token is text.
    automaton: Option<AhoCorasick>,
    /// The token of each pattern, and its score.
    patterns: Vec<(u32, f64)>,
    unknown: u32,
    unknown_score: f64,
    charsmap: Charsmap,
    space_prefix: bool,
    merge_spaces: bool,
}

/// The best way to one place in the text.
#[derive(Clone, Copy)]
struct Step {
    score: f64,
    from: usize,
    id: u32,
}

impl Unigram {
    pub fn new(vocabulary: &Vocabulary, texts: &Texts) -> Result<Unigram, TokenizerError> {
        let scores = scores(vocabulary, Model::Unigram)?;
        let kind = |id: u32| vocabulary.kinds.get(id as usize).copied().unwrap_or_default();
        let unknown = vocabulary
            .special
            .unk
            .ok_or(TokenizerError::Missing { what: "unknown token", model: Model::Unigram })?;
        let least = texts.iter().filter(|&(id, _)| kind(id) == Kind::Normal);
        let least = least.map(|(id, _)| f64::from(scores[id as usize]));
        let least = least.fold(f64::INFINITY, f64::min);
        let is_text = |id| matches!(kind(id), Kind::Normal | Kind::UserDefined | Kind::Unused);
        let (found, patterns): (Vec<&[u8]>, Vec<(u32, f64)>) = texts
            .iter()
            .filter(|&(id, text)| !text.is_empty() && is_text(id))
            .map(|(id, text)| {
                // What the user defined is always taken.
                let score = f64::from(scores[id as usize]);
                (text, (id, if kind(id) == Kind::UserDefined { 0.0 } else { score }))
            })
            .unzip();
        let automaton = (!found.is_empty())
            .then(|| {
                AhoCorasick::builder()
                    .match_kind(MatchKind::Standard)
                    .kind(Some(AhoCorasickKind::ContiguousNFA))
                    .build(found)
            })
            .transpose()
            .map_err(|error| TokenizerError::TooLarge(error.to_string()))?;
        Ok(Unigram {
            automaton,
            patterns,
            unknown,
            unknown_score: if least.is_finite() {
                least - UNKNOWN_PENALTY
            } else {
                -UNKNOWN_PENALTY
            },
            charsmap: Charsmap::new(vocabulary.precompiled_charsmap)?,
            space_prefix: vocabulary.add_space_prefix,
            merge_spaces: vocabulary.remove_extra_whitespaces,
        })
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let text = self.normalized(text);
        let unreached = Step { score: f64::NEG_INFINITY, from: 0, id: self.unknown };
        let mut best = vec![unreached; text.len() + 1];
        best[0].score = 0.0;
        let improve = |best: &mut [Step], from: usize, to: usize, score: f64, id: u32| {
            let score = best[from].score + score;
            if score > best[to].score {
                best[to] = Step { score, from, id };
            }
        };
        // Matches come by where they end: when one does, every way to its start is known.
        let mut matches = self
            .automaton
            .iter()
            .flat_map(|automaton| automaton.find_overlapping_iter(&text))
            .peekable();
        for (start, char) in text.char_indices() {
            let end = start + char.len_utf8();
            let mut single = false;
            while let Some(found) = matches.next_if(|found| found.end() <= end) {
                let (id, score) = self.patterns[found.pattern().as_usize()];
                single |= found.start() == start;
                improve(&mut best, found.start(), found.end(), score, id);
            }
            if !single {
                improve(&mut best, start, end, self.unknown_score, self.unknown);
            }
        }
        let first = out.len();
        let mut at = text.len();
        while at > 0 {
            let step = best[at];
            // Unknown characters in a row are one token.
            if step.id != self.unknown || out.len() == first || out.last() != Some(&self.unknown) {
                out.push(step.id);
            }
            at = step.from;
        }
        out[first..].reverse();
    }

    /// `text` with its characters normalised and `▁` for spaces.
    fn normalized(&self, text: &str) -> String {
        let bytes = text.as_bytes();
        let mut replaced = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < bytes.len() {
            let rest = &text[at..];
            let own = rest.chars().next().map_or(1, char::len_utf8);
            match self.charsmap.longest(rest.as_bytes()) {
                // A match of a damaged table may end within a character.
                Some((len, replacement)) if text.is_char_boundary(at + len) => {
                    replaced.extend_from_slice(replacement);
                    at += len;
                }
                _ => {
                    replaced.extend_from_slice(&bytes[at..at + own]);
                    at += own;
                }
            }
        }
        let mut normalized = String::with_capacity(replaced.len() + 3);
        // Where spaces count, the one put before the text stands before all of them.
        if self.space_prefix && !self.merge_spaces && !replaced.is_empty() {
            normalized.push('▁');
        }
        let mut space = self.space_prefix && self.merge_spaces;
        let mut started = false;
        for char in String::from_utf8_lossy(&replaced).chars() {
            if char == ' ' {
                if self.merge_spaces {
                    space |= started;
                } else {
                    normalized.push('▁');
                }
                continue;
            }
            if space {
                normalized.push('▁');
            }
            (space, started) = (false, true);
            normalized.push(char);
        }
        if self.merge_spaces {
            normalized.truncate(normalized.trim_end_matches('▁').len());
        }
        normalized
    }
}
