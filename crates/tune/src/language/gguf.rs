//! Models as GGUF files.

use super::model::{Folder, encoded};
use crate::TuneError;
use kinglet_formats::gguf::{Metadata, Writer};
use kinglet_formats::lm::{Config, Family, to_gguf};
use kinglet_formats::{LoadError, Named};
use kinglet_graph::{DType, Encoding, Tensor};
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

/// Writes a file whose matrices are `dtype`.
pub fn write(
    metadata: &Metadata,
    weights: &Named<Tensor>,
    out: &Path,
    dtype: DType,
) -> Result<(), TuneError> {
    let mut metadata = metadata.clone();
    metadata.insert("general.file_type", file_type(dtype).into());
    let mut writer = Writer::new(metadata);
    let fail = |e| TuneError::from(LoadError::new(out, e));
    for (name, tensor) in weights.iter() {
        let matrix = tensor.dims().len() > 1 && tensor.dtype() == DType::F32;
        let whole = tensor.dims().last().is_some_and(|n| n.is_multiple_of(dtype.block().0));
        let held = match matrix {
            true if whole => encoded(tensor, dtype)?,
            // As llama.cpp does with rows that are no whole blocks.
            true => encoded(tensor, DType::F16)?,
            false => tensor.clone(),
        };
        writer.tensor(name, &held).map_err(fail)?;
    }
    writer.write(out).map_err(|e| TuneError::Work(e.to_string())).map(drop)
}

/// llama.cpp's number of a file in which most matrices are `dtype`.
fn file_type(dtype: DType) -> u32 {
    match dtype {
        DType::F16 => 1,
        DType::BF16 => 32,
        DType::Encoded(Encoding::Q8_0) => 7,
        _ => 0,
    }
}
