//! A tokeniser made for a text: byte-pair encoding (Sennrich et al. 2016) of bytes, by the
//! `tokenizers` crate.

use super::TokenizerError;
use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::HashSet;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizer::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, DecoderWrapper, ModelWrapper};

/// A pair of tokens that comes less often is not made one.
const LEAST: u64 = 2;

/// What a tokeniser is to be like.
#[derive(Clone, Debug, Default)]
pub struct Design<'a> {
    /// How many tokens it has at most.
    pub vocabulary: usize,
    /// Tokens that are no text. They come first.
    pub special: &'a [&'a str],
    /// Texts that are one token wherever they stand, whatever is around them. They come last.
    pub whole: &'a [String],
    /// No token joins a space with what follows it: letters are then spelled by the same tokens after
    /// a space, a quotation mark, and at the start. For models that are to repeat words; texts take more
    /// tokens.
    pub spaces_apart: bool,
}

/// The `tokenizer.json` of a tokeniser of this design, made for `texts`: all bytes, the special tokens,
/// and merges of what often stands together. Text is cut as GPT-2 does, and digits stand alone, so that
/// numbers are spelled one way; GGUF files call that `smollm`. The same texts make the same tokeniser.
///
/// # Errors
/// If the vocabulary has no room for all bytes and the tokens that are asked for, or one of those is
/// empty or asked for twice.
pub fn train(
    texts: impl Iterator<Item = String> + Send,
    design: &Design<'_>,
) -> Result<String, TokenizerError> {
    let fail = |error: tokenizers::Error| TokenizerError::Json(error.to_string());
    let Design { vocabulary, special, whole, spaces_apart } = *design;
    let mut asked = HashSet::new();
    let each = special.iter().copied().chain(whole.iter().map(String::as_str));
    if let Some(text) = each.into_iter().find(|text| text.is_empty() || !asked.insert(*text)) {
        let wrong = if text.is_empty() {
            "a token is empty".into()
        } else {
            format!("{text:?} is asked for twice")
        };
        return Err(TokenizerError::Json(wrong));
    }
    let least = 256 + asked.len();
    if vocabulary < least {
        return Err(TokenizerError::Json(format!(
            "{vocabulary} tokens are too few: all bytes and the ones asked for are {least}"
        )));
    }
    let marked = special.iter().map(|text| AddedToken::from(*text, true));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(vocabulary - whole.len())
        .min_frequency(LEAST)
        .show_progress(false)
        .special_tokens(marked.collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build();
    let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(whole);
    let finder = finder.map_err(|e| TokenizerError::TooLarge(format!("whole texts: {e}")))?;
    // What is one token anyway is nothing to merge.
    let texts = texts.flat_map(|text| {
        let mut parts = Vec::new();
        let mut at = 0;
        for found in finder.find_iter(&text) {
            parts.push(text[at..found.start()].to_owned());
            at = found.end();
        }
        parts.push(text[at..].to_owned());
        parts
    });

    let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::from(BPE::default()));
    let digits = || PreTokenizerWrapper::Digits(Digits::new(true));
    let bytes = || PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
    let cut = |by: Vec<_>| Some(PreTokenizerWrapper::Sequence(Sequence::new(by)));
    let mut finely = vec![digits(), bytes()];
    if spaces_apart {
        let space = SplitPattern::String(" ".into());
        let split = Split::new(space, SplitDelimiterBehavior::Isolated, false).map_err(fail)?;
        finely.insert(1, PreTokenizerWrapper::Split(split));
    }
    tokenizer.with_pre_tokenizer(cut(finely));
    tokenizer.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::new(false, true, true))));
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(fail)?;
    // Where no merge joins a space, it need not be cut off.
    tokenizer.with_pre_tokenizer(cut(vec![digits(), bytes()]));
    // A token that is there already would be two things.
    if let Some(text) = whole.iter().find(|text| tokenizer.token_to_id(text).is_some()) {
        return Err(TokenizerError::Json(format!("{text:?} is a token already")));
    }
    let whole: Vec<_> =
        whole.iter().map(|text| AddedToken::from(text, false).normalized(false)).collect();
    tokenizer.add_tokens(whole).map_err(fail)?;
    tokenizer.to_string(false).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::super::{EncodeOptions, Tokenizer};
    use super::*;
    use kinglet_formats::gguf::Metadata;

    const TEXTS: [&str; 3] =
        ["the cat sat on the mat", "the cat and the hat: 12 of 120", "über the sea, ünder the sun"];

    fn texts(times: usize) -> impl Iterator<Item = String> + Send {
        TEXTS.iter().cycle().take(3 * times).map(|text| text.to_string())
    }

    fn design(vocabulary: usize) -> Design<'static> {
        Design { vocabulary, special: &["<|end|>"], ..Design::default() }
    }

    #[test]
    fn what_is_trained_is_loaded_and_gives_text_back() {
        let json = train(texts(4), &design(300)).unwrap();
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
        assert_eq!(json, train(texts(4), &design(300)).unwrap());
    }

    #[test]
    fn words_are_spelled_alike_and_whole_texts_are_one_token() {
        let whole = ["{\"cat\":\"".to_string(), "\"}".to_string()];
        let design = Design { whole: &whole, spaces_apart: true, ..design(300) };
        let json = train(texts(4), &design).unwrap();
        let own = Tokenizer::from_huggingface_json(json.as_bytes()).unwrap();
        assert!(own.vocab_size() <= 300, "{}", own.vocab_size());
        let mut metadata = Metadata::default();
        own.to_gguf(json.as_bytes(), &mut metadata).unwrap();
        let read = Tokenizer::from_gguf(&metadata).unwrap();
        for tokenizer in [&own, &read] {
            let encode = |text: &str| tokenizer.encode(text, EncodeOptions::CHAT).unwrap();
            let [space, the] = [encode(" "), encode("the")];
            assert_eq!((space.len(), the.len()), (1, 1));
            assert_eq!(encode(" the the"), [&space[..], &the, &space, &the].concat());
            let call = encode("{\"cat\":\"the\"}");
            assert_eq!((call.len(), call[1]), (3, the[0]), "{call:?}");
            assert_eq!(tokenizer.decode(&call), "{\"cat\":\"the\"}");
            assert!(!tokenizer.is_control(call[0]));
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let error = |design: &Design<'_>| train(texts(1), design).unwrap_err().to_string();
        let few = error(&design(256));
        assert!(few.contains("256 tokens are too few") && few.contains("257"), "{few}");
        for (text, what) in [("", "empty"), ("<|end|>", "twice"), ("é", "already")] {
            let said = error(&Design { whole: &[text.to_string()], ..design(300) });
            assert!(said.contains(what), "{said}");
        }
    }
}
