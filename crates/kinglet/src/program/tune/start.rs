//! What a training starts from.

use std::path::{Path, PathBuf};

use clap::Args;
use kinglet::Error;
use kinglet_formats::lm::HfConfig;
use kinglet_lm::tokenizer::{Design, train};
use kinglet_tune::Course;
use kinglet_tune::data::all_texts;
use kinglet_tune::language::{ABOUT, Model, SPECIAL, TEMPLATE};
use serde_json::{Value, json};

use super::super::language::{expect_language_model, is_language_model, read_text};
use super::super::progress::Progress;
use super::{Common, files};

#[derive(Args)]
pub(super) struct Start {
    /// The model: a GGUF file, or a Hugging Face folder; or another net, a TFLite or ONNX file of floats
    #[arg(required_unless_present = "config")]
    model: Option<PathBuf>,
    /// Make a new model instead: a config.json with its class and numbers
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    config: Option<PathBuf>,
    /// Tokens of the new model's tokeniser, which is made for the data
    #[arg(long, value_name = "N", requires = "config", conflicts_with = "tokenizer")]
    vocab: Option<usize>,
    /// No token of that tokeniser joins a space with a word, so that words are spelled alike wherever
    /// they stand: for models that repeat words
    #[arg(long, requires = "config", conflicts_with = "tokenizer")]
    spaces_apart: bool,
    /// Texts, one on each line, that are one token of that tokeniser
    #[arg(long, value_name = "FILE", requires = "config", conflicts_with = "tokenizer")]
    whole: Option<PathBuf>,
    /// Take this tokenizer.json for the new model, and the tokenizer_config.json beside it
    #[arg(long, value_name = "FILE", requires = "config")]
    tokenizer: Option<PathBuf>,
    /// Take this chat template (Jinja) for the new model
    #[arg(long, value_name = "FILE", requires = "config")]
    template: Option<PathBuf>,
}

/// The tokeniser that was made for the data, kept for the same training to go on with.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// Tokens where nothing is said.
const VOCABULARY: usize = 4096;

impl Start {
    /// Refuses what is no model.
    pub fn check(&self) -> Result<(), Error> {
        match &self.model {
            Some(model) if self.net().is_none() => expect_language_model(model),
            _ => Ok(()),
        }
    }

    /// The file of a net that is no language model, where that is what is trained.
    pub fn net(&self) -> Option<&Path> {
        self.model.as_deref().filter(|model| model.is_file() && !is_language_model(model))
    }

    /// Whether the model is a new one.
    pub fn is_new(&self) -> bool {
        self.config.is_some()
    }

    /// What an adapter says of its base.
    pub fn base(&self) -> String {
        self.model.as_deref().map_or(String::new(), |model| model.display().to_string())
    }

    /// What a checkpoint must agree with.
    pub fn identity(&self) -> [(&'static str, Value); 2] {
        [("--vocab", json!(self.vocab)), ("--spaces-apart", json!(self.spaces_apart))]
    }

    /// The model. A tokeniser that is made for the data is kept in `folder`.
    pub fn model(
        &self,
        folder: &Path,
        data: &[PathBuf],
        seed: u64,
        common: &Common,
    ) -> Result<Model, Error> {
        let Some(config) = &self.config else {
            let model = self.model.as_deref().unwrap_or(Path::new(""));
            return Ok(Model::open(model)?);
        };
        let config = HfConfig::open(config)?;
        let template = match &self.template {
            Some(path) => read_text(path)?,
            None => TEMPLATE.to_string(),
        };
        let made = folder.join(TOKENIZER);
        let mut about = ABOUT.to_string();
        let tokenizer = match &self.tokenizer {
            Some(path) => {
                let beside = path.with_file_name("tokenizer_config.json");
                about = if beside.exists() { read_text(&beside)? } else { "{}".into() };
                read_text(path)?
            }
            None if Course::is_begun(folder) && made.exists() => read_text(&made)?,
            None => {
                let mut progress = Progress::new(common.quiet);
                progress.say(|| "making a tokeniser for the data".into());
                let told = config.get("vocab_size").and_then(|v| v.as_u64());
                let size = self.vocab.or(told.map(|n| n as usize)).unwrap_or(VOCABULARY);
                let whole = self.whole.as_deref().map(read_text).transpose()?.unwrap_or_default();
                let whole: Vec<String> = whole.lines().map(str::to_owned).collect();
                let spaces_apart = self.spaces_apart;
                let design =
                    Design { vocabulary: size, special: SPECIAL, whole: &whole, spaces_apart };
                let json = train(all_texts(data)?, &design)
                    .map_err(|e| Error::input(format!("tokeniser: {e}")))?;
                files::write(&made, json.as_bytes())
                    .map_err(|e| super::super::cannot_write_file(&made, "the tokeniser", &e))?;
                json
            }
        };
        Ok(Model::fresh(config, (&tokenizer, &about), &template, seed)?)
    }
}
