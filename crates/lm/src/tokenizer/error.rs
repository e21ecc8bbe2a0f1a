//! What can be wrong with a vocabulary.

use kinglet_formats::LoadError;

use super::vocabulary::Model;

/// Why a tokeniser could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A model needs something that is not there.
    #[error("the tokeniser has no {what}, which a {model} vocabulary needs")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// The model that needs it.
        model: Model,
    },
    /// A list has not one entry for each token.
    #[error("the tokeniser has {found} {what} for {tokens} tokens")]
    Count {
        /// What the list holds.
        what: &'static str,
        /// How many entries it has.
        found: usize,
        /// How many tokens there are.
        tokens: usize,
    },
    /// Two tokens have one text.
    #[error("tokens {first} and {second} have the same text {text:?}")]
    Duplicate {
        /// Their text.
        text: String,
        /// The first token.
        first: u32,
        /// The second.
        second: u32,
    },
    /// A merge that cannot be done.
    #[error("merge {index}, {text:?}, {reason}")]
    Merge {
        /// Its place in the list.
        index: usize,
        /// Its text.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// A token that is not as it has to be.
    #[error("token {id}, {text:?}, {reason}")]
    Token {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A special token outside the vocabulary.
    #[error("the {name} token is {id}, but there are only {tokens} tokens")]
    Special {
        /// What it is: bos, eos, …
        name: &'static str,
        /// The token that is not there.
        id: u32,
        /// How many tokens there are.
        tokens: usize,
    },
    /// A kind of tokeniser that is not supported.
    #[error("the tokeniser model {0:?} is not supported; gpt2, llama, t5, bert and gemma4 are")]
    UnknownModel(String),
    /// A pre-tokeniser that is not known.
    #[error("the pre-tokeniser {0:?} is not known; without its rules text would be cut wrongly")]
    UnknownPre(String),
    /// A damaged table of normalisations.
    #[error("the precompiled character map {0}")]
    Charsmap(&'static str),
    /// Metadata that is missing or of another type.
    #[error("{0}")]
    Metadata(String),
    /// A vocabulary larger than any.
    #[error("the vocabulary is too large: {0}")]
    TooLarge(String),
    /// A GGUF file that cannot be read.
    #[error("{0}")]
    Load(LoadError),
    /// A file that cannot be read.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A `tokenizer.json` that is damaged, or has a part that is not known.
    #[error("{0}")]
    Json(String),
    /// A text that the tokeniser has no tokens for.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
}
