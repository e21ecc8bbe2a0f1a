//! Byte-level tokenisers of Hugging Face's kind as GGUF files hold them.

use super::pre::{self, Step, Whole};
use super::{EncodeOptions, Kind, Tokenizer, TokenizerError};
use kinglet_formats::gguf::{Array, Metadata, Value};
use serde_json::Value as Json;

/// A text on which a tokeniser and what was made of it must agree.
const PROBE: &str = "The  year 2024's “café”, naïve\n\n\ttabs 日本 12,345.67 don't!";

impl Tokenizer {
    /// Puts this tokeniser, whose `tokenizer.json` is `json`, into the metadata of a GGUF file.
    ///
    /// # Errors
    /// If it is of a kind that such files don't have, or that is not known by a name in them.
    pub fn to_gguf(&self, json: &[u8], metadata: &mut Metadata) -> Result<(), TokenizerError> {
        let fail = |m: &str| TokenizerError::Json(format!("{m}: GGUF files can't hold it"));
        let told: Json =
            serde_json::from_slice(json).map_err(|e| TokenizerError::Json(e.to_string()))?;
        let model = &told["model"];
        if model["type"] != "BPE" || !told["normalizer"].is_null() {
            return Err(fail("it is no byte-level BPE without a normaliser"));
        }
        let whole = model["ignore_merges"] == true;
        let pre = pre_name(&told["pre_tokenizer"], whole)
            .ok_or_else(|| fail("it cuts text in a way that has no name"))?;
        let merges = model["merges"].as_array().into_iter().flatten().map(|merge| match merge {
            Json::Array(pair) => {
                let part = |i: usize| pair.get(i).and_then(Json::as_str).unwrap_or_default();
                format!("{} {}", part(0), part(1))
            }
            other => other.as_str().unwrap_or_default().to_string(),
        });
        let merges = Array::of_strings(merges);
        let ids = 0..self.vocab_size() as u32;
        let kinds: Vec<i32> = ids.clone().map(|id| number(self.kind(id))).collect();
        let tokens = ids.map(|id| self.token_text(id).unwrap_or_default());
        metadata.insert("tokenizer.ggml.model", "gpt2".into());
        metadata.insert("tokenizer.ggml.pre", pre.into());
        metadata.insert("tokenizer.ggml.tokens", Value::Array(Array::of_strings(tokens)));
        metadata.insert("tokenizer.ggml.token_type", Value::from(&kinds[..]));
        metadata.insert("tokenizer.ggml.merges", Value::Array(merges));
        for (name, id) in self.special().each() {
            let name = match name {
                "unk" => "unknown",
                "sep" => "seperator",
                "pad" => "padding",
                name => name,
            };
            if let Some(id) = id {
                metadata.insert(format!("tokenizer.ggml.{name}_token_id"), id.into());
            }
        }
        let start = self.start()?.is_some();
        metadata.insert("tokenizer.ggml.add_bos_token", start.into());
        let read = Tokenizer::from_gguf(metadata)?;
        let own = self.encode(PROBE, EncodeOptions::default())?;
        match read.encode(PROBE, EncodeOptions::default())? == own {
            true => Ok(()),
            false => Err(fail("it cuts text in a way of its own")),
        }
    }
}

/// The name in GGUF files of how a `tokenizer.json` cuts text.
fn pre_name(told: &Json, whole: bool) -> Option<&'static str> {
    let one = std::slice::from_ref(told);
    let steps = told["pretokenizers"].as_array().map_or(one, Vec::as_slice);
    let (last, before) = steps.split_last()?;
    if last["type"] != "ByteLevel" || last["add_prefix_space"] == true {
        return None;
    }
    let own = last["use_regex"] != false;
    match before {
        [] if own && !whole => Some("gpt-2"),
        [digits] if own && !whole && digits["individual_digits"] == true => Some("smollm"),
        [split] if !own && split["type"] == "Split" => {
            let regex = split["pattern"]["Regex"].as_str()?;
            pre::named(|p| {
                matches!(p.steps, [Step::Match(known)] if *known == regex)
                    && (p.whole == Whole::Always) == whole
            })
        }
        _ => None,
    }
}

/// The number of a token's type.
fn number(kind: Kind) -> i32 {
    match kind {
        Kind::Normal => 1,
        Kind::Unknown => 2,
        Kind::Control => 3,
        Kind::UserDefined => 4,
        Kind::Unused => 5,
        Kind::Byte => 6,
    }
}
