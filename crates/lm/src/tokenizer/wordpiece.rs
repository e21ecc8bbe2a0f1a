//! WordPiece: each word is cut into the longest tokens from its start (Wu et al. 2016), after BERT's
//! normalisation (Devlin et al. 2018).

use regex_automata::meta::Regex;
use unicode_normalization::UnicodeNormalization;

use super::TokenizerError;
use super::texts::Texts;
use super::vocabulary::{Model, Vocabulary};

/// Longer words are unknown, in characters.
const LONGEST_WORD: usize = 100;

/// Removed: what is not text.
const NOT_TEXT: &str = r"[\x00\u{FFFD}[\p{Cc}\p{Cf}\p{Cn}\p{Co}&&[^\t\n\r]]]";
/// Words; each punctuation mark and each Chinese character is one.
const WORDS: &str = concat!(
    r"[\p{P}$+<=>^`|~]",
    r"|[\u{3400}-\u{4DBF}\u{4E00}-\u{9FFF}\u{F900}-\u{FAFF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}",
    r"\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{2F800}-\u{2FA1F}]",
    r"|[^\s\p{P}$+<=>^`|~",
    r"\u{3400}-\u{4DBF}\u{4E00}-\u{9FFF}\u{F900}-\u{FAFF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}",
    r"\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{2F800}-\u{2FA1F}]+",
);

#[derive(Debug)]
pub(super) struct WordPiece {
    not_text: Regex,
    accents: Regex,
    words: Regex,
    lowercase: bool,
    unknown: u32,
}

impl WordPiece {
    pub fn new(vocabulary: &Vocabulary) -> Result<WordPiece, TokenizerError> {
        let regex = |rule| Regex::new(rule).expect("the expression is right");
        Ok(WordPiece {
            not_text: regex(NOT_TEXT),
            accents: regex(r"\p{Mn}"),
            words: regex(WORDS),
            lowercase: vocabulary.lowercase,
            unknown: vocabulary.special.unk.ok_or(TokenizerError::Missing {
                what: "unknown token",
                model: Model::WordPiece,
            })?,
        })
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, texts: &Texts, out: &mut Vec<u32>) {
        let mut text = without(&self.not_text, text);
        if self.lowercase {
            let plain = without(&self.accents, &text.nfd().collect::<String>());
            text = plain.chars().flat_map(char::to_lowercase).collect();
        }
        let mut word = String::new();
        for found in self.words.find_iter(&text) {
            // A token that starts a word is spelled with a `▁`.
            word.clear();
            word.push('▁');
            word.push_str(&text[found.range()]);
            let first = out.len();
            if word.chars().count() > LONGEST_WORD + 1 || !cut(&word, texts, out) {
                out.truncate(first);
                out.push(self.unknown);
            }
        }
    }
}

fn without(regex: &Regex, text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut done = 0;
    for found in regex.find_iter(text) {
        kept.push_str(&text[done..found.start()]);
        done = found.end();
    }
    kept.push_str(&text[done..]);
    kept
}

/// Appends the tokens of `word`, longest first; false where some of it has none.
fn cut(word: &str, texts: &Texts, out: &mut Vec<u32>) -> bool {
    let bytes = word.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        let longest = bytes.len().min(start + texts.longest());
        let found = (start + 1..=longest)
            .rev()
            .find_map(|end| texts.id(&bytes[start..end]).map(|id| (id, end)));
        let Some((id, end)) = found else { return false };
        out.push(id);
        start = end;
    }
    true
}
