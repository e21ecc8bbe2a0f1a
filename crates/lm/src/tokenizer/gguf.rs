//! Vocabularies of GGUF files.

use kinglet_formats::gguf::{Metadata, Value};

use super::vocabulary::{Kind, Model, SpecialTokens, Vocabulary};
use super::{Tokenizer, TokenizerError, pre};

/// What a kind of tokeniser is like where the file does not say.
struct Defaults {
    /// The name in files.
    name: &'static str,
    model: Model,
    special: SpecialTokens,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

const NO_TOKENS: SpecialTokens = SpecialTokens {
    bos: None,
    eos: None,
    eot: None,
    eom: None,
    unk: None,
    sep: None,
    pad: None,
    mask: None,
};

const DEFAULTS: [Defaults; 5] = [
    Defaults {
        name: "gpt2",
        model: Model::Bpe,
        special: NO_TOKENS,
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
    },
    Defaults {
        name: "gemma4",
        model: Model::Bpe,
        special: NO_TOKENS,
        add_bos: true,
        add_eos: false,
        add_space_prefix: false,
    },
    Defaults {
        name: "llama",
        model: Model::SentencePiece,
        special: SpecialTokens { bos: Some(1), eos: Some(2), unk: Some(0), ..NO_TOKENS },
        add_bos: true,
        add_eos: false,
        add_space_prefix: true,
    },
    Defaults {
        name: "t5",
        model: Model::Unigram,
        special: SpecialTokens { eos: Some(1), unk: Some(2), pad: Some(0), ..NO_TOKENS },
        add_bos: false,
        add_eos: true,
        add_space_prefix: true,
    },
    Defaults {
        name: "bert",
        model: Model::WordPiece,
        special: SpecialTokens {
            bos: Some(101),
            unk: Some(100),
            sep: Some(102),
            pad: Some(0),
            mask: Some(103),
            ..NO_TOKENS
        },
        add_bos: true,
        add_eos: true,
        add_space_prefix: false,
    },
];

impl Tokenizer {
    /// The tokeniser of a GGUF file, whose keys are described in
    /// [ggml's documentation](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer).
    ///
    /// # Errors
    /// If there is none, it is of a kind or family that is not known, or damaged.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
        let reader = Reader(metadata);
        let name = reader.need("model", Value::as_str)?;
        let defaults = DEFAULTS
            .iter()
            .find(|defaults| defaults.name == name)
            .ok_or_else(|| TokenizerError::UnknownModel(name.to_owned()))?;
        let model = defaults.model;
        let tokens = reader.need("tokens", Value::array_of_strings)?;
        let pre = match name {
            "gemma4" => name,
            _ => reader.read("pre", Value::as_str)?.unwrap_or("default"),
        };
        // Older files hold scores and types for fewer tokens than there are, never for more.
        let scores = reader.read("scores", Value::array_of_f32)?.unwrap_or_default();
        let kinds = reader.read("token_type", Value::array_of_i32)?.unwrap_or_default();
        let kinds: Vec<Kind> = kinds.into_iter().map(kind).collect();
        let merges = match model {
            Model::Bpe => reader.read("merges", Value::array_of_strings)?.unwrap_or_default(),
            _ => Vec::new(),
        };
        let charsmap = reader.read("precompiled_charsmap", Value::array_of_i32)?;
        let charsmap: Vec<u8> =
            charsmap.unwrap_or_default().into_iter().map(|byte| byte as u8).collect();
        let add_bos = match model {
            Model::Bpe => defaults.add_bos || pre::find(pre)?.add_bos,
            _ => defaults.add_bos,
        };
        let (left_strip, right_strip) = strips(metadata, pre, &tokens, &kinds);
        let flag = |key, default| Ok(reader.read(key, Value::as_bool)?.unwrap_or(default));
        let vocabulary = Vocabulary {
            model,
            pre,
            special: special(&reader, &defaults.special, tokens.len())?,
            // An encoder's texts stand between two tokens, whatever the flags say: those for its last
            // one are about pairs of texts.
            add_bos: flag("add_bos_token", add_bos)?
                || pre == "gemma4"
                || model == Model::WordPiece,
            add_eos: flag("add_eos_token", defaults.add_eos)? || model == Model::WordPiece,
            add_space_prefix: flag("add_space_prefix", defaults.add_space_prefix)?,
            remove_extra_whitespaces: flag("remove_extra_whitespaces", false)?,
            lowercase: flag("normalizer.lowercase", true)?,
            tokens,
            scores,
            kinds,
            merges,
            precompiled_charsmap: &charsmap,
            left_strip,
            right_strip,
        };
        Tokenizer::new(&vocabulary)
    }
}

struct Reader<'m>(&'m Metadata);

impl<'m> Reader<'m> {
    fn read<T>(
        &self,
        key: &str,
        as_type: impl FnOnce(&'m Value) -> Option<T>,
    ) -> Result<Option<T>, TokenizerError> {
        let key = format!("tokenizer.ggml.{key}");
        self.0.read(&key, as_type).map_err(|error| TokenizerError::Metadata(error.to_string()))
    }

    fn need<T>(
        &self,
        key: &str,
        as_type: impl FnOnce(&'m Value) -> Option<T>,
    ) -> Result<T, TokenizerError> {
        let key = format!("tokenizer.ggml.{key}");
        self.0.need(&key, as_type).map_err(|error| TokenizerError::Metadata(error.to_string()))
    }
}

/// What a token's type in a file says.
fn kind(id: i32) -> Kind {
    match id {
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        _ => Kind::Normal,
    }
}

fn special(
    reader: &Reader,
    defaults: &SpecialTokens,
    tokens: usize,
) -> Result<SpecialTokens, TokenizerError> {
    // A default is for vocabularies like the first ones; one of the file has to be right.
    let id = |keys: &[&str], default: Option<u32>| {
        for key in keys {
            let key = format!("{key}_token_id");
            if let Some(id) = reader.read(&key, Value::as_i64)? {
                // Some files say "none" as -1, signed or not.
                return Ok(u32::try_from(id).ok().filter(|&id| id != u32::MAX));
            }
        }
        Ok(default.filter(|&id| (id as usize) < tokens))
    };
    Ok(SpecialTokens {
        bos: id(&["bos", "cls"], defaults.bos)?,
        eos: id(&["eos"], defaults.eos)?,
        eot: id(&["eot"], defaults.eot)?,
        eom: id(&["eom"], defaults.eom)?,
        unk: id(&["unknown"], defaults.unk)?,
        // The format's own spelling.
        sep: id(&["seperator", "separator"], defaults.sep)?,
        pad: id(&["padding"], defaults.pad)?,
        mask: id(&["mask"], defaults.mask)?,
    })
}

/// Special tokens that swallow white space before or after them, which files do not say.
fn strips(metadata: &Metadata, pre: &str, tokens: &[&str], kinds: &[Kind]) -> (Vec<u32>, Vec<u32>) {
    let general = |key| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = general("general.name").to_lowercase();
    let architecture = general("general.architecture");
    let ids = |wanted: &dyn Fn(&str, Kind) -> bool| {
        let token = |(id, text): (usize, &&str)| {
            let kind = kinds.get(id).copied().unwrap_or_default();
            wanted(text, kind).then_some(id as u32)
        };
        tokens.iter().enumerate().filter_map(token).collect::<Vec<u32>>()
    };
    let jina = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].contains(&pre);
    if jina || ["nomic-bert-moe", "jina-bert-v3"].contains(&architecture) {
        (ids(&|text, _| text == "<mask>"), Vec::new())
    } else if name.contains("modern-bert") {
        (ids(&|text, _| text == "[MASK]"), Vec::new())
    } else if name.contains("phi-3") || name.contains("phi3") {
        let right = |text: &str, kind| {
            let sign = matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined);
            sign && !["<unk>", "<s>", "<|endoftext|>"].contains(&text)
        };
        (Vec::new(), ids(&right))
    } else {
        (Vec::new(), Vec::new())
    }
}
