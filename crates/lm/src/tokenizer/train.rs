//! A tokeniser made for a text: byte-pair encoding (Sennrich et al. 2016) of bytes, by the
//! `tokenizers` crate.

use super::TokenizerError;
use std::collections::HashSet;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, DecoderWrapper, ModelWrapper};

/// A pair of tokens that comes less often is not made one.
const LEAST: u64 = 2;

/// The `tokenizer.json` of a tokeniser of at most `vocabulary` tokens, made for `texts`: all bytes,
/// the tokens `special`, which come first and are no text, and merges of what often stands together.
/// Text is cut as GPT-2 does, and digits stand alone, so that numbers are spelled one way; GGUF files
/// call that `smollm`. The same texts make the same tokeniser.
///
/// # Errors
/// If `vocabulary` has no room for all bytes and `special`.
pub fn train(
    texts: impl Iterator<Item = String> + Send,
    vocabulary: usize,
    special: &[&str],
) -> Result<String, TokenizerError> {
    let fail = |error: tokenizers::Error| TokenizerError::Json(error.to_string());
    let least = 256 + special.len();
    if vocabulary < least {
        return Err(TokenizerError::Json(format!(
            "{vocabulary} tokens are too few: all bytes and the special ones are {least}"
        )));
    }
    let marked = special.iter().map(|text| AddedToken::from(*text, true));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(vocabulary)
        .min_frequency(LEAST)
        .show_progress(false)
        .special_tokens(marked.collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build();
    let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::from(BPE::default()));
    let cut = [
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ];
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(cut.into()))));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(false, true, true))));
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(fail)?;
    tokenizer.to_string(false).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::super::{EncodeOptions, Tokenizer};
    use super::*;

    const TEXTS: [&str; 3] =
        ["the cat sat on the mat", "the cat and the hat: 12 of 120", "über the sea, ünder the sun"];

    fn texts(times: usize) -> impl Iterator<Item = String> + Send {
        TEXTS.iter().cycle().take(3 * times).map(|text| text.to_string())
    }

    #[test]
    fn what_is_trained_is_loaded_and_gives_text_back() {
        let json = train(texts(4), 300, &["<|end|>"]).unwrap();
        let tokenizer = Tokenizer::from_huggingface_json(json.as_bytes()).unwrap();
        assert!(tokenizer.vocab_size() <= 300 && tokenizer.vocab_size() > 257);
        assert_eq!(tokenizer.token_id("<|end|>"), Some(0));
        assert!(tokenizer.is_control(0) && tokenizer.is_end_of_generation(0));
        let encode = |text: &str| tokenizer.encode(text, EncodeOptions::default()).unwrap();
        for text in ["the cat", "  a 4711\n", "日本 \u{0}"] {
            assert_eq!(tokenizer.decode(&encode(text)), text);
        }
        assert!(encode(" the").len() < 4, "{:?}", encode(" the"));
        assert_eq!(encode("120").len(), 3);
        assert_eq!(json, train(texts(4), 300, &["<|end|>"]).unwrap());
    }

    #[test]
    fn a_vocabulary_has_room_for_all_bytes() {
        let error = train(texts(1), 256, &["<|end|>"]).unwrap_err().to_string();
        assert!(error.contains("256 tokens are too few") && error.contains("257"), "{error}");
    }
}
