//! Many short strings in one buffer, and a way back from a string to its number.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::TokenizerError;

/// Strings of bytes, numbered from 0.
#[derive(Debug, Clone, Default)]
pub(super) struct Strings {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    pub fn with_capacity(strings: usize) -> Strings {
        Strings { data: Vec::with_capacity(8 * strings), ends: Vec::with_capacity(strings) }
    }

    pub fn push(&mut self, string: &[u8]) {
        self.data.extend_from_slice(string);
        self.ends.push(self.data.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// String `id`; an empty one where there is none.
    pub fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.data[start..end]
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.len() as u32).map(|id| (id, self.get(id)))
    }
}

/// The tokens' texts: from id to text and back.
#[derive(Debug, Clone)]
pub(super) struct Texts {
    strings: Strings,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl Texts {
    /// Numbers `texts`. An empty text has no way back.
    ///
    /// # Errors
    /// If two are equal.
    pub fn new(texts: &[&str]) -> Result<Texts, TokenizerError> {
        let hasher = DefaultHashBuilder::default();
        let mut strings = Strings::with_capacity(texts.len());
        let mut ids: HashTable<u32> = HashTable::with_capacity(texts.len());
        for (id, text) in texts.iter().enumerate() {
            let id = u32::try_from(id)
                .map_err(|_| TokenizerError::TooLarge(format!("{} tokens", texts.len())))?;
            let text = text.as_bytes();
            strings.push(text);
            if text.is_empty() {
                continue;
            }
            let hash = hasher.hash_one(text);
            if let Some(&first) = ids.find(hash, |&other| strings.get(other) == text) {
                let text = String::from_utf8_lossy(text).into_owned();
                return Err(TokenizerError::Duplicate { text, first, second: id });
            }
            ids.insert_unique(hash, id, |&other| hasher.hash_one(strings.get(other)));
        }
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        Ok(Texts { strings, ids, hasher, longest })
    }

    /// The id of a text.
    pub fn id(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(text);
        self.ids.find(hash, |&id| self.strings.get(id) == text).copied()
    }

    /// The text of a token; empty where there is none.
    pub fn get(&self, id: u32) -> &[u8] {
        self.strings.get(id)
    }

    pub fn len(&self) -> usize {
        self.strings.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.strings.iter()
    }

    /// The length of the longest text in bytes.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The ids of the tokens `<0x00>` to `<0xFF>`, where there are any.
    pub fn bytes(&self) -> [Option<u32>; 256] {
        std::array::from_fn(|byte| self.id(format!("<0x{byte:02X}>").as_bytes()))
    }
}
