//! Models as GGUF files.

use super::Encoded;
use super::model::{Folder, OUTPUT, encoded};
use crate::TuneError;
use kinglet_formats::gguf::{Metadata, Writer};
use kinglet_formats::lm::{Config, Family, to_gguf};
use kinglet_formats::{LoadError, Named};
use kinglet_graph::{DType, Tensor};
use kinglet_lm::tokenizer::Tokenizer;
use std::path::Path;

/// The metadata and the weights of a folder's model.
///
/// # Errors
/// If GGUF files can't hold it.
pub fn of_folder(
    folder: &Folder,
    (config, family): (&Config, &Family),
    weights: Named<Tensor>,
    template: Option<&str>,
    tokenizer: &Tokenizer,
) -> Result<(Metadata, Named<Tensor>), TuneError> {
    let input = |e: &dyn std::fmt::Display| TuneError::Input(format!("the model as GGUF: {e}"));
    let file = to_gguf(config, family, weights).map_err(|e| input(&e))?;
    let mut metadata = file.metadata;
    let json = folder.tokenizer().ok_or_else(|| input(&"its folder has no tokenizer.json"))?;
    tokenizer.to_gguf(json, &mut metadata).map_err(|e| input(&e))?;
    if let Some(template) = template {
        metadata.insert("tokenizer.chat_template", template.into());
    }
    Ok((metadata, file.tensors))
}

/// Writes a file whose matrices are `kind`, but for those that are better something else.
pub fn write(
    metadata: &Metadata,
    weights: &Named<Tensor>,
    out: &Path,
    kind: Encoded,
) -> Result<(), TuneError> {
    let mut metadata = metadata.clone();
    metadata.insert("general.file_type", kind.file_type().into());
    let mut writer = Writer::new(metadata);
    let fail = |e| TuneError::from(LoadError::new(out, e));
    let tied = !weights.contains(OUTPUT);
    for (name, tensor) in weights.iter() {
        let held = match tensor.dtype() {
            DType::F32 => encoded(tensor, kind.of(name, tensor.dims(), tied))?,
            _ => tensor.clone(),
        };
        writer.tensor(name, &held).map_err(fail)?;
    }
    writer.write(out).map_err(|e| TuneError::Work(e.to_string())).map(drop)
}
