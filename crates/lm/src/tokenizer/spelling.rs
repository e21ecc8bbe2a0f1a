//! What bytes a token's text stands for.

use super::alphabet;
use super::vocabulary::Kind;

/// How tokens are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// A character for each byte, as GPT-2 does.
    Alphabet,
    /// UTF-8 with `▁` for a space, as SentencePiece does.
    Blocks,
    /// `##` before what goes on with a word, as BERT does.
    Hashes,
    /// `</w>` after what ends a word, as GPT does.
    WordEnds,
}

impl Spelling {
    /// Appends the bytes of a token.
    pub fn decode(self, text: &str, kind: Kind, out: &mut Vec<u8>) {
        match (kind, self) {
            (Kind::Control | Kind::Unknown | Kind::UserDefined, _) => {
                out.extend_from_slice(text.as_bytes());
            }
            (Kind::Byte, _) if byte(text).is_some() => out.extend(byte(text)),
            (_, Spelling::Alphabet) => alphabet::decode(text, out),
            (_, Spelling::Hashes) => match text.strip_prefix("##") {
                Some(rest) => out.extend_from_slice(rest.as_bytes()),
                None => {
                    out.push(b' ');
                    out.extend_from_slice(text.as_bytes());
                }
            },
            (_, Spelling::WordEnds) => {
                out.extend_from_slice(text.replace("</w>", " ").as_bytes());
            }
            (_, Spelling::Blocks) => out.extend_from_slice(text.replace('▁', " ").as_bytes()),
        }
    }
}

/// The byte that `<0x0A>` stands for.
pub(super) fn byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
