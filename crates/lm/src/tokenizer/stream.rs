//! Text from tokens as they come.

use super::Tokenizer;

/// Turns tokens into text as they come. A character whose bytes are spread over tokens is held back until
/// it is whole; control tokens are no text.
#[derive(Debug, Clone)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    /// The start of a character.
    held: Vec<u8>,
    /// Whether a space would be the one that SentencePiece puts before a text.
    starts: bool,
    control: bool,
}

impl<'t> StreamDecoder<'t> {
    /// A decoder of a text from its start.
    pub fn new(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        let starts = tokenizer.space_prefix();
        StreamDecoder { tokenizer, held: Vec::new(), starts, control: false }
    }

    /// A decoder of a text that goes on: its first space is its own.
    pub fn continuing(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        StreamDecoder { starts: false, ..StreamDecoder::new(tokenizer) }
    }

    /// Spells control tokens out, too.
    pub fn with_control(self) -> StreamDecoder<'t> {
        StreamDecoder { control: true, ..self }
    }

    /// The text that is complete with `id`. An id that is no token is the replacement character U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_control(id) && !self.control {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_bytes(id);
        if id as usize >= self.tokenizer.vocab_size() {
            bytes = "\u{fffd}".as_bytes();
        }
        if self.starts && !bytes.is_empty() && !self.tokenizer.is_control(id) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.starts = false;
        }
        self.held.extend_from_slice(bytes);
        self.release(false)
    }

    /// What is left at the end: a character that stays incomplete is U+FFFD.
    pub fn finish(mut self) -> String {
        self.release(true)
    }

    fn release(&mut self, end: bool) -> String {
        let mut text = String::new();
        let mut kept = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            kept += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let last = kept + invalid.len() == self.held.len();
            let incomplete = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if last && incomplete && !end {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            kept += invalid.len();
        }
        self.held.drain(..kept);
        text
    }
}
