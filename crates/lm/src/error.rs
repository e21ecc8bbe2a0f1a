//! What can go wrong with a language model.

use kinglet_formats::LoadError;

/// Why a language model could not do what it was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LmError {
    /// The file is no model that can run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// More positions are needed than the context has.
    #[error(
        "{needed} tokens do not fit in a context of {context}: shorten the text, or ask for a longer context"
    )]
    Context {
        /// Positions needed.
        needed: usize,
        /// Positions there are.
        context: usize,
    },
    /// As many conversations are open as there may be at once.
    #[error("{0} sequences are open, as many as the model was loaded for")]
    Sequences(usize),
    /// A token that the model does not have.
    #[error("token {token} of a vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// How many there are.
        vocabulary: usize,
    },
    /// The file has no tokeniser, and text needs one.
    #[error("the model has no tokeniser: give it tokens")]
    NoTokenizer,
    /// The tokeniser of the file can't be used, or not on this text.
    #[error("tokeniser: {0}")]
    Tokenizer(String),
    /// The conversation can't be written as the model's template wants it.
    #[error("chat template: {0}")]
    Template(String),
    /// Sampling numbers that make no sense, or a constraint that can't be kept.
    #[error("{0}")]
    Sampling(String),
    /// A text that can't be judged by, or models that can't be compared.
    #[error("{0}")]
    Text(String),
    /// Running the model failed.
    #[error("{0}")]
    Step(String),
    /// A saved conversation can't be used.
    #[error("saved conversation: {0}")]
    Saved(String),
}
