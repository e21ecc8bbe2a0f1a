//! Hugging Face's `tokenizer.json`, by the `tokenizers` crate.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use super::spelling::{self, Spelling};
use super::texts::Strings;
use super::vocabulary::{Kind, SpecialTokens};
use super::{EncodeOptions, Encoder, Tokenizer, TokenizerError, ends};
use crate::tokenizer::texts::Texts;

/// Ids may leave gaps, but not many more than there are tokens.
const GAPS: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct HuggingFace {
    tokenizer: tokenizers::Tokenizer,
    /// The same, but with control tokens as plain text; made where it is needed.
    literal: OnceLock<Box<tokenizers::Tokenizer>>,
}

impl HuggingFace {
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = if options.parse_special {
            &self.tokenizer
        } else {
            self.literal.get_or_init(|| {
                let mut literal = self.tokenizer.clone();
                literal.set_encode_special_tokens(true);
                Box::new(literal)
            })
        };
        let encoding = tokenizer
            .encode_fast(text, options.add_special)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }
}

impl Tokenizer {
    /// The tokeniser in Hugging Face's `tokenizer.json`, or in a folder that holds one. Beside it,
    /// `tokenizer_config.json`, `special_tokens_map.json` and `generation_config.json` say which tokens
    /// have a part to play.
    ///
    /// # Errors
    /// If a file cannot be read, or the tokeniser has a part that is not known.
    pub fn from_huggingface(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let (file, folder) = match path.is_dir() {
            true => (path.join("tokenizer.json"), path),
            false => (path.to_owned(), path.parent().unwrap_or(Path::new(""))),
        };
        let fail =
            |reason: String| TokenizerError::File { file: file.display().to_string(), reason };
        let bytes = std::fs::read(&file).map_err(|error| fail(error.to_string()))?;
        let mut config = Config::default();
        for name in ["special_tokens_map.json", "tokenizer_config.json", "generation_config.json"] {
            config.read(&folder.join(name))?;
        }
        Tokenizer::from_json(&bytes, &config).map_err(|error| match error {
            TokenizerError::Json(reason) => fail(reason),
            error => error,
        })
    }

    /// The tokeniser in the text of a `tokenizer.json`, without the files beside it.
    ///
    /// # Errors
    /// If it is damaged, or has a part that is not known.
    pub fn from_huggingface_json(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_json(json, &Config::default())
    }

    /// The tokeniser in the texts of a `tokenizer.json` and of the `tokenizer_config.json` beside it.
    ///
    /// # Errors
    /// If one is damaged, or has a part that is not known.
    pub fn from_huggingface_texts(json: &[u8], about: &[u8]) -> Result<Tokenizer, TokenizerError> {
        let mut config = Config::default();
        config.take(about).map_err(|error| TokenizerError::Json(error.to_string()))?;
        Tokenizer::from_json(json, &config)
    }

    fn from_json(json: &[u8], config: &Config) -> Result<Tokenizer, TokenizerError> {
        let fail = |error: &dyn std::fmt::Display| TokenizerError::Json(error.to_string());
        let mut tokenizer = parse(json).map_err(|error| fail(&error))?;
        // Cutting off and filling up are for batches, and files are often left with them on.
        tokenizer.with_truncation(None).map_err(|error| fail(&error))?;
        tokenizer.with_padding(None);

        let ids = tokenizer.get_vocab(true);
        let tokens = ids.values().max().map_or(0, |&id| id as usize + 1);
        if tokens == 0 || tokens > 64 * ids.len() + GAPS {
            return Err(fail(&format!("has {} tokens, with ids up to {tokens}", ids.len())));
        }
        let mut list = vec![""; tokens];
        for (text, &id) in &ids {
            list[id as usize] = text;
        }
        let texts = Texts::new(&list)?;
        let decoder = part(tokenizer.get_decoder());
        let before = part(tokenizer.get_pre_tokenizer());
        let spelling = spelling_of(&decoder, &before);
        let mut kinds = vec![Kind::Normal; tokens];
        for (kind, text) in kinds.iter_mut().zip(&list) {
            if spelling == Spelling::Blocks && spelling::byte(text).is_some() {
                *kind = Kind::Byte;
            }
        }
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if let Some(kind) = kinds.get_mut(id as usize) {
                *kind = if token.special { Kind::Control } else { Kind::UserDefined };
            }
        }
        let mut bytes = Strings::with_capacity(tokens);
        let mut buffer = Vec::new();
        for (text, &kind) in list.iter().zip(&kinds) {
            buffer.clear();
            spelling.decode(text, kind, &mut buffer);
            bytes.push(&buffer);
        }
        let special = config.special(&texts, &kinds);
        let mut end_of_generation = ends::find(&texts, &kinds, &special);
        end_of_generation.extend(config.ends.iter().filter(|&&id| (id as usize) < tokens));
        Ok(Tokenizer {
            texts,
            bytes,
            kinds,
            special,
            end_of_generation,
            space_prefix: strips_space(&decoder) || spelling == Spelling::Hashes,
            encoder: Encoder::HuggingFace(Box::new(HuggingFace {
                tokenizer,
                literal: OnceLock::new(),
            })),
        })
    }
}

/// Parses `tokenizer.json`. The crate panics on some damaged files, which is an error here; JSON that is
/// none is found before.
fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|error| error.to_string())?;
    let parsed = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json));
    let parsed = parsed.map_err(|_| "has a part that is damaged".to_owned())?;
    parsed.map_err(|error| error.to_string())
}

fn part(part: Option<&impl serde::Serialize>) -> Value {
    part.and_then(|part| serde_json::to_value(part).ok()).unwrap_or_default()
}

/// The parts of a decoder or pre-tokeniser: itself, or what it is a sequence of.
fn parts(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let inner = ["decoders", "pretokenizers"].iter().find_map(|key| value[*key].as_array());
    let one = inner.is_none().then_some(value);
    let all = inner.into_iter().flatten().chain(one);
    all.filter_map(|part| Some((part["type"].as_str()?, part)))
}

fn spelling_of(decoder: &Value, before: &Value) -> Spelling {
    let has = |value, name| parts(value).any(|(kind, _)| kind == name);
    if has(decoder, "ByteLevel") || decoder.is_null() && has(before, "ByteLevel") {
        Spelling::Alphabet
    } else if has(decoder, "WordPiece") {
        Spelling::Hashes
    } else if let Some((_, bpe)) = parts(decoder).find(|(kind, _)| *kind == "BPEDecoder") {
        match bpe["suffix"].as_str() {
            Some("</w>") | None => Spelling::WordEnds,
            Some(_) => Spelling::Blocks,
        }
    } else {
        Spelling::Blocks
    }
}

/// Whether a text's first space is the tokeniser's own.
fn strips_space(decoder: &Value) -> bool {
    parts(decoder).any(|(kind, part)| match kind {
        "Strip" => part["content"] == " " && part["start"].as_u64() > Some(0),
        "Metaspace" => part["prepend_scheme"] != "never" && part["add_prefix_space"] != false,
        _ => false,
    })
}

/// What the files beside `tokenizer.json` say.
#[derive(Debug, Default)]
struct Config {
    /// Tokens' texts by their part, such as `bos_token`.
    named: Vec<(String, String)>,
    /// The tokens that end what a model says.
    ends: Vec<u32>,
}

impl Config {
    fn read(&mut self, file: &Path) -> Result<(), TokenizerError> {
        let Ok(bytes) = std::fs::read(file) else { return Ok(()) };
        self.take(&bytes).map_err(|error| TokenizerError::File {
            file: file.display().to_string(),
            reason: error.to_string(),
        })
    }

    /// What the text of such a file says.
    fn take(&mut self, json: &[u8]) -> Result<(), serde_json::Error> {
        let document: Value = serde_json::from_slice(json)?;
        for (key, value) in document.as_object().into_iter().flatten() {
            if key == "eos_token_id" {
                let list = value.as_array().map_or(std::slice::from_ref(value), |list| list);
                let ids = list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok());
                self.ends.extend(ids);
            } else if let Some(text) = value.as_str().or_else(|| value["content"].as_str()) {
                self.named.push((key.clone(), text.to_owned()));
            }
        }
        Ok(())
    }

    fn special(&self, texts: &Texts, kinds: &[Kind]) -> SpecialTokens {
        let id = |name: &str| {
            let named = self.named.iter().rev().filter(|(key, _)| key == name);
            named.filter_map(|(_, text)| texts.id(text.as_bytes())).next()
        };
        SpecialTokens {
            bos: id("bos_token").or_else(|| id("cls_token")),
            eos: id("eos_token"),
            eot: ends::turn(texts, kinds),
            eom: None,
            unk: id("unk_token"),
            sep: id("sep_token"),
            pad: id("pad_token"),
            mask: id("mask_token"),
        }
    }
}
