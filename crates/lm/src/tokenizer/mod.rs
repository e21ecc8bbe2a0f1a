//! Tokenisers: text to the numbers that a model reads, and back.
//!
//! A [`Tokenizer`] is built from a [`Vocabulary`], which is what GGUF files hold, or from Hugging Face's
//! `tokenizer.json`. A [`StreamDecoder`] turns tokens into text as a model says them.

mod alphabet;
mod bpe;
mod charsmap;
mod ends;
mod error;
mod gguf;
mod huggingface;
mod merge;
pub mod pre;
mod sentencepiece;
mod special;
mod spelling;
mod split;
mod stream;
mod texts;
mod to_gguf;
mod train;
mod unigram;
mod vocabulary;
mod wordpiece;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use kinglet_formats::gguf::Gguf;

pub use error::TokenizerError;
pub use stream::StreamDecoder;
pub use train::{Design, train};
pub use vocabulary::{Kind, Model, SpecialTokens, Vocabulary};

use bpe::Bpe;
use huggingface::HuggingFace;
use sentencepiece::SentencePiece;
use special::{Finder, Part};
use spelling::Spelling;
use texts::{Strings, Texts};
use unigram::Unigram;
use wordpiece::WordPiece;

/// What to do with special tokens when text is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put the tokens that start and end a text around it, where the model was trained so.
    pub add_special: bool,
    /// Take the text of control tokens for these tokens: for what a chat template wrote, not for what
    /// people wrote.
    pub parse_special: bool,
}

impl EncodeOptions {
    /// For what a chat template wrote: it says itself where a text starts.
    pub const CHAT: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
}

impl Default for EncodeOptions {
    /// Adds special tokens, and finds none in the text.
    fn default() -> EncodeOptions {
        EncodeOptions { add_special: true, parse_special: false }
    }
}

/// A model's tokens.
#[derive(Debug)]
pub struct Tokenizer {
    texts: Texts,
    bytes: Strings,
    kinds: Vec<Kind>,
    special: SpecialTokens,
    end_of_generation: BTreeSet<u32>,
    space_prefix: bool,
    encoder: Encoder,
}

#[derive(Debug)]
enum Encoder {
    Own(Box<Own>),
    HuggingFace(Box<HuggingFace>),
}

/// A tokeniser that is written here.
#[derive(Debug)]
struct Own {
    model: OwnModel,
    finder: Finder,
    prefix: Option<u32>,
    suffix: Option<u32>,
}

#[derive(Debug)]
enum OwnModel {
    Bpe(Bpe),
    SentencePiece(SentencePiece),
    Unigram(Unigram),
    WordPiece(WordPiece),
}

impl Tokenizer {
    /// Builds the tokeniser of `vocabulary`.
    ///
    /// # Errors
    /// If the vocabulary is not in itself right, or is of a family that is not known.
    pub fn new(vocabulary: &Vocabulary) -> Result<Tokenizer, TokenizerError> {
        let tokens = vocabulary.tokens.len();
        if tokens == 0 {
            return Err(TokenizerError::Missing { what: "tokens", model: vocabulary.model });
        }
        for (what, found) in
            [("scores", vocabulary.scores.len()), ("token types", vocabulary.kinds.len())]
        {
            if found != 0 && found != tokens {
                return Err(TokenizerError::Count { what, found, tokens });
            }
        }
        let strips = vocabulary.left_strip.iter().chain(&vocabulary.right_strip);
        let named = vocabulary.special.each().into_iter();
        for (name, id) in named.chain(strips.map(|&id| ("stripping", Some(id)))) {
            if let Some(id) = id.filter(|&id| id as usize >= tokens) {
                return Err(TokenizerError::Special { name, id, tokens });
            }
        }
        let special = &vocabulary.special;
        let around = |wanted: bool, id: Option<u32>, what| match id {
            None if wanted => Err(TokenizerError::Missing { what, model: vocabulary.model }),
            id => Ok(id.filter(|_| wanted)),
        };
        let last = if vocabulary.model == Model::WordPiece { special.sep } else { special.eos };
        let prefix = around(vocabulary.add_bos, special.bos, "bos token")?;
        let suffix = around(vocabulary.add_eos, last, "token to end a text with")?;

        let texts = Texts::new(&vocabulary.tokens)?;
        let model = match vocabulary.model {
            Model::Bpe => OwnModel::Bpe(Bpe::new(vocabulary, &texts)?),
            Model::SentencePiece => {
                OwnModel::SentencePiece(SentencePiece::new(vocabulary, &texts)?)
            }
            Model::Unigram => OwnModel::Unigram(Unigram::new(vocabulary, &texts)?),
            Model::WordPiece => OwnModel::WordPiece(WordPiece::new(vocabulary)?),
        };
        let finder = Finder::new(vocabulary, &texts)?;
        let mut kinds = vocabulary.kinds.clone();
        kinds.resize(tokens, Kind::Normal);
        let spelling = match &model {
            OwnModel::Bpe(bpe) if !bpe.utf8() => Spelling::Alphabet,
            _ => Spelling::Blocks,
        };
        let mut bytes = Strings::with_capacity(tokens);
        let mut buffer = Vec::new();
        for (&text, &kind) in vocabulary.tokens.iter().zip(&kinds) {
            buffer.clear();
            spelling.decode(text, kind, &mut buffer);
            bytes.push(&buffer);
        }
        let space_prefix = match vocabulary.model {
            Model::Bpe => false,
            Model::WordPiece => true,
            Model::SentencePiece | Model::Unigram => vocabulary.add_space_prefix,
        };
        let mut special = *special;
        special.eot = special.eot.or_else(|| ends::turn(&texts, &kinds));
        Ok(Tokenizer {
            end_of_generation: ends::find(&texts, &kinds, &special),
            texts,
            bytes,
            kinds,
            special,
            space_prefix,
            encoder: Encoder::Own(Box::new(Own { model, finder, prefix, suffix })),
        })
    }

    /// The tokeniser of a model: of a GGUF file, of a `tokenizer.json`, or of a Hugging Face folder.
    ///
    /// # Errors
    /// If the file cannot be read, or its tokeniser is damaged or not known.
    pub fn open(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let mut magic = [0; 4];
        let gguf = path.is_file()
            && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
            && &magic == b"GGUF";
        if gguf {
            let gguf = Gguf::open(path).map_err(TokenizerError::Load)?;
            Tokenizer::from_gguf(&gguf.metadata)
        } else {
            Tokenizer::from_huggingface(path)
        }
    }

    /// The tokens of `text`.
    ///
    /// # Errors
    /// If a tokeniser read from `tokenizer.json` has no token for some of the text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let Own { model, finder, prefix, suffix } = match &self.encoder {
            Encoder::Own(own) => &**own,
            Encoder::HuggingFace(tokenizer) => return tokenizer.encode(text, options),
        };
        let mut out = Vec::new();
        out.extend(prefix.filter(|_| options.add_special));
        let mut starts = true;
        for part in finder.split(text, options.parse_special) {
            match part {
                Part::Token(id) => out.push(id),
                Part::Text(text) => match model {
                    OwnModel::Bpe(bpe) => bpe.encode(text, &self.texts, &mut out),
                    OwnModel::SentencePiece(m) => m.encode(text, starts, &self.texts, &mut out),
                    OwnModel::Unigram(unigram) => unigram.encode(text, &mut out),
                    OwnModel::WordPiece(m) => m.encode(text, &self.texts, &mut out),
                },
            }
            starts = matches!(part, Part::Token(_));
        }
        out.extend(suffix.filter(|_| options.add_special));
        Ok(out)
    }

    /// The token that every text starts with, if there is one.
    ///
    /// # Errors
    /// If the tokeniser can't encode the empty text.
    pub fn start(&self) -> Result<Option<u32>, TokenizerError> {
        let empty = self.encode("", EncodeOptions::default())?;
        Ok(self.special.bos.filter(|bos| empty.first() == Some(bos)))
    }

    /// The text of `ids`, without control tokens. Bytes that are no UTF-8, and ids that are no tokens,
    /// become U+FFFD; the space that SentencePiece puts before a text is taken off.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, StreamDecoder::new(self))
    }

    /// The text of `ids` by `decoder`, for other wishes than those of [`Tokenizer::decode`].
    pub fn decode_with(&self, ids: &[u32], mut decoder: StreamDecoder) -> String {
        let mut text = String::new();
        for &id in ids {
            text.push_str(&decoder.push(id));
        }
        text + &decoder.finish()
    }

    /// The bytes that a token stands for, those of a part of a character perhaps; for a control token
    /// its name. Empty for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// A token's text in the vocabulary's own spelling, such as `Ġthe` or `<|im_end|>`.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        if id as usize >= self.texts.len() {
            return None;
        }
        std::str::from_utf8(self.texts.get(id)).ok()
    }

    /// The token of a text in the vocabulary's own spelling.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.texts.id(text.as_bytes())
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.texts.len()
    }

    /// The tokens with a part to play: bos, eos, eot, pad, unk, …
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// What a token is for; [`Kind::Unused`] for an id that is no token.
    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    /// Whether a token is a sign between program and model, and no text.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.kind(id), Kind::Control | Kind::Unknown)
    }

    /// Whether a model that says this token has said all.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.contains(&id)
    }

    /// The tokens that end what a model says: eos, the end of a turn, …
    pub fn end_of_generation(&self) -> &BTreeSet<u32> {
        &self.end_of_generation
    }

    /// Whether a text's first space is SentencePiece's own.
    fn space_prefix(&self) -> bool {
        self.space_prefix
    }
}
