//! SentencePiece's table of normalisations: text to replace, and what to replace it with.

use super::TokenizerError;

/// A trie in a double array (Aoe 1989, in the layout of Darts-clone) whose values are places in a list
/// of texts that end in zero bytes.
#[derive(Debug, Default)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: Vec<u8>,
}

impl Charsmap {
    /// Reads `bytes`: the trie's length in bytes (32 bits), the trie, the texts. An empty table changes
    /// nothing.
    pub fn new(bytes: &[u8]) -> Result<Charsmap, TokenizerError> {
        if bytes.is_empty() {
            return Ok(Charsmap::default());
        }
        let (len, rest) =
            bytes.split_first_chunk().ok_or(TokenizerError::Charsmap("is cut short"))?;
        let len = u32::from_le_bytes(*len) as usize;
        if !len.is_multiple_of(4) || len > rest.len() {
            return Err(TokenizerError::Charsmap("has a trie longer than itself"));
        }
        let (trie, texts) = rest.split_at(len);
        let (units, _) = trie.as_chunks();
        let units = units.iter().map(|&unit| u32::from_le_bytes(unit)).collect();
        Ok(Charsmap { units, texts: texts.to_vec() })
    }

    /// The longest start of `text` that is replaced: its length, and the replacement.
    pub fn longest(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut node = offset(*self.units.first()?);
        let mut found = None;
        for (at, &byte) in text.iter().enumerate() {
            node ^= u32::from(byte);
            let Some(&unit) = self.units.get(node as usize) else { break };
            if byte == 0 || unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let leaf = self.units.get(node as usize).copied().unwrap_or_default();
                found = Some((at + 1, (leaf & !(1 << 31)) as usize));
            }
        }
        let (len, place) = found?;
        let text = self.texts.get(place..)?;
        let end = text.iter().position(|&byte| byte == 0)?;
        Some((len, &text[..end]))
    }
}
