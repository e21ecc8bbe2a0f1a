//! What a tokeniser is built from.

use std::fmt;

/// A vocabulary as files hold it.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary<'a> {
    /// How text becomes tokens.
    pub model: Model,
    /// The name of the pre-tokeniser, for [`Model::Bpe`]: see [`super::pre::known`].
    pub pre: &'a str,
    /// The tokens' texts, in the model's own spelling (`Ġthe`, `▁the`, `<0x0A>`).
    pub tokens: Vec<&'a str>,
    /// A score for each token, or empty.
    pub scores: Vec<f32>,
    /// A kind for each token, or empty where all are [`Kind::Normal`].
    pub kinds: Vec<Kind>,
    /// Merges, best first: two tokens' texts with a space between.
    pub merges: Vec<&'a str>,
    /// The tokens with a part to play.
    pub special: SpecialTokens,
    /// Whether a text starts with the bos token.
    pub add_bos: bool,
    /// Whether a text ends with the eos token (with the sep token, for [`Model::WordPiece`]).
    pub add_eos: bool,
    /// Whether a text is put after a space, as SentencePiece does.
    pub add_space_prefix: bool,
    /// Whether runs of spaces count as one.
    pub remove_extra_whitespaces: bool,
    /// SentencePiece's table of character normalisations, or empty.
    pub precompiled_charsmap: &'a [u8],
    /// Whether letters become small and lose their accents, for [`Model::WordPiece`].
    pub lowercase: bool,
    /// Special tokens that swallow white space before them.
    pub left_strip: Vec<u32>,
    /// Special tokens that swallow white space after them.
    pub right_strip: Vec<u32>,
}

/// How text becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Model {
    /// Byte-pair encoding by a list of merges (Sennrich et al. 2016; Radford et al. 2019).
    #[default]
    Bpe,
    /// SentencePiece's byte-pair encoding, by the tokens' scores, with single bytes for what has no
    /// token (Kudo and Richardson 2018).
    SentencePiece,
    /// SentencePiece's unigram language model: the likeliest tokens (Kudo 2018).
    Unigram,
    /// The longest tokens that make up a word (Wu et al. 2016), as BERT uses them.
    WordPiece,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Model::Bpe => "BPE",
            Model::SentencePiece => "SentencePiece",
            Model::Unigram => "unigram",
            Model::WordPiece => "WordPiece",
        })
    }
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A piece of text.
    #[default]
    Normal,
    /// Stands for text that has no token.
    Unknown,
    /// A sign between program and model, such as the end of a turn: never text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Not used.
    Unused,
    /// One byte, for text that has no token.
    Byte,
}

/// The tokens with a part to play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecialTokens {
    /// Begins a text; BERT's `[CLS]`.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Ends a message within a turn.
    pub eom: Option<u32>,
    /// Stands for what has no token.
    pub unk: Option<u32>,
    /// Parts two texts; BERT's `[SEP]`.
    pub sep: Option<u32>,
    /// Fills up a batch.
    pub pad: Option<u32>,
    /// Stands for a word to guess.
    pub mask: Option<u32>,
}

impl SpecialTokens {
    /// Every one, by name.
    pub fn each(&self) -> [(&'static str, Option<u32>); 8] {
        [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("eom", self.eom),
            ("unk", self.unk),
            ("sep", self.sep),
            ("pad", self.pad),
            ("mask", self.mask),
        ]
    }
}
