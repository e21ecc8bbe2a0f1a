//! Byte-pair encoding by a list of merges (Sennrich et al. 2016), on bytes as GPT-2 spells them or on
//! characters as SentencePiece does.

use std::ops::Range;

use hashbrown::HashMap;

use super::TokenizerError;
use super::alphabet;
use super::merge::{Merger, NONE};
use super::pre::{self, Pre, Whole};
use super::split::Splitter;
use super::texts::Texts;
use super::vocabulary::{Model, Vocabulary};

#[derive(Debug)]
pub(super) struct Bpe {
    pre: &'static Pre,
    splitter: Splitter,
    /// Two tokens next to each other, as one number: how early they merge, and into which token.
    merges: HashMap<u64, (u32, u32)>,
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    pub fn new(vocabulary: &Vocabulary, texts: &Texts) -> Result<Bpe, TokenizerError> {
        let pre = pre::find(vocabulary.pre)?;
        if vocabulary.merges.is_empty() {
            return Err(TokenizerError::Missing { what: "merges", model: Model::Bpe });
        }
        let mut merges = HashMap::with_capacity(vocabulary.merges.len());
        let mut joined = Vec::new();
        for (index, merge) in vocabulary.merges.iter().enumerate() {
            let fail =
                |reason: String| TokenizerError::Merge { index, text: (*merge).to_owned(), reason };
            // A token may itself be a space, but not an empty text.
            let bytes = merge.as_bytes();
            let space = bytes.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
            let space = space.ok_or_else(|| fail("has no space between two tokens".to_owned()))?;
            let (left, right) = (&bytes[..space], &bytes[space + 1..]);
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let id = |text: &[u8]| {
                texts.id(text).ok_or_else(|| {
                    fail(format!("names {:?}, which is no token", String::from_utf8_lossy(text)))
                })
            };
            let rank = index as u32;
            merges.entry(pair(id(left)?, id(right)?)).or_insert((rank, id(&joined)?));
        }
        let bytes = if pre.utf8 {
            texts.bytes()
        } else {
            alphabet::CHARS.map(|char| texts.id(char.encode_utf8(&mut [0; 4]).as_bytes()))
        };
        let splitter = Splitter::new(pre.steps);
        Ok(Bpe { pre, splitter, merges, bytes, unknown: vocabulary.special.unk })
    }

    /// Whether tokens are spelled in UTF-8, not in GPT-2's alphabet.
    pub fn utf8(&self) -> bool {
        self.pre.utf8
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, texts: &Texts, out: &mut Vec<u32>) {
        if self.pre.utf8 {
            self.encode_pieces(&text.replace(' ', "▁"), texts, out);
        } else {
            self.encode_pieces(text, texts, out);
        }
    }

    fn encode_pieces(&self, text: &str, texts: &Texts, out: &mut Vec<u32>) {
        let mut known: HashMap<&str, Range<usize>> = HashMap::new();
        let mut merger = Merger::default();
        let mut spelling = String::new();
        for piece in self.splitter.split(text) {
            let piece = &text[piece];
            if let Some(range) = known.get(piece) {
                out.extend_from_within(range.clone());
                continue;
            }
            let start = out.len();
            match self.whole(piece, &mut spelling, texts) {
                Some(id) => out.push(id),
                None => self.merge(piece, &mut merger, texts, out),
            }
            known.insert(piece, start..out.len());
        }
    }

    /// The token that is all of `piece`, where such a token is taken before any merge.
    fn whole(&self, piece: &str, spelling: &mut String, texts: &Texts) -> Option<u32> {
        match self.pre.whole {
            Whole::Never => return None,
            Whole::Newlines if !piece.starts_with('\n') => return None,
            Whole::Newlines | Whole::Always => {}
        }
        if self.pre.utf8 {
            return texts.id(piece.as_bytes());
        }
        if piece.len() > texts.longest() {
            return None;
        }
        spelling.clear();
        spelling.extend(piece.bytes().map(|byte| alphabet::CHARS[byte as usize]));
        texts.id(spelling.as_bytes())
    }

    fn merge(&self, piece: &str, merger: &mut Merger, texts: &Texts, out: &mut Vec<u32>) {
        merger.clear();
        if self.pre.utf8 {
            let mut buffer = [0; 4];
            for char in piece.chars() {
                let id = texts.id(char.encode_utf8(&mut buffer).as_bytes());
                merger.push(char.len_utf8(), id.unwrap_or(NONE));
            }
        } else {
            for byte in piece.bytes() {
                merger.push(1, self.bytes[byte as usize].unwrap_or(NONE));
            }
        }
        merger.merge(|left, right| self.merges.get(&pair(left.id, right.id)).copied());
        for symbol in merger.symbols() {
            if symbol.id != NONE {
                out.push(symbol.id);
                continue;
            }
            for &byte in &piece.as_bytes()[symbol.start..symbol.start + symbol.len] {
                out.extend(self.bytes[byte as usize].or(self.unknown));
            }
        }
    }
}
