//! The logits of every position, for those who compare models: `run --output-dir`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Instant;

use kinglet::Error;
use kinglet::lm::{LanguageModel, Wanted};
use kinglet_npy::{Array, Type};

use super::super::Common;
use super::super::output::{Document, OutputLine, Timing, milliseconds};
use super::super::tensors::Folder;

/// Bytes that a file of tokens may take.
const LIMIT: usize = 256 << 20;

/// The tokens that `--input tokens=FILE.npy` names.
pub(super) fn read_tokens(inputs: &[String]) -> Result<Vec<u32>, Error> {
    let [input] = inputs else {
        return Err(Error::input("a language model has one input: --input tokens=FILE.npy"));
    };
    let (name, path) = input.split_once('=').unwrap_or(("tokens", input));
    if name != "tokens" {
        return Err(Error::input(format!(
            "--input {input}: a language model has one input: tokens=FILE.npy"
        )));
    }
    let about = |message: String| Error::input(message).about(path);
    if Path::new(path).is_dir() {
        return Err(about("this is a folder; give a .npy file".into()));
    }
    let file = File::open(path).map_err(|error| about(format!("cannot read it: {error}")))?;
    let array =
        Array::read(&mut BufReader::new(file), LIMIT).map_err(|error| about(error.to_string()))?;
    let row = matches!(*array.shape.as_slice(), [_] | [1, _]);
    let tokens = match array.dtype {
        Type::I32 => array.to_vec::<i32>().map(|all| all.into_iter().map(i64::from).collect()),
        Type::U32 => array.to_vec::<u32>().map(|all| all.into_iter().map(i64::from).collect()),
        Type::I64 => array.to_vec::<i64>(),
        _ => None,
    };
    let Some(tokens) = tokens.filter(|_| row) else {
        return Err(about("tokens are i32, u32 or i64 of one dimension".into()));
    };
    if tokens.is_empty() {
        return Err(about("there is no token in it".into()));
    }
    let token = |token: i64| {
        u32::try_from(token).map_err(|_| about(format!("{token} is no token's number")))
    };
    tokens.into_iter().map(token).collect()
}

/// Writes the logits after each of `tokens` to `logits.npy`: [tokens, vocabulary].
pub(super) fn write(
    model: &mut LanguageModel,
    tokens: &[u32],
    folder: &mut Folder,
    load_ms: f64,
    common: &Common,
) -> Result<(), Error> {
    let start = Instant::now();
    let sequence = model.open_sequence()?;
    let shape = vec![tokens.len(), model.vocabulary()];
    let mut data = Vec::with_capacity(4 * shape.iter().product::<usize>());
    let listen = |_: usize, logits: &[f32]| {
        data.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
    };
    model
        .extend(sequence, tokens, Wanted::All, listen)
        .map_err(|error| Error::from(error).about("the prompt"))?;
    let run_ms = milliseconds(start);
    let array = Array { dtype: Type::F32, shape: shape.clone(), data };
    let mut content = Vec::new();
    array.write(&mut content).map_err(|error| Error::work(error.to_string()))?;
    let path = folder.write("logits", "npy", &content)?;
    let output = OutputLine {
        name: "logits".into(),
        dtype: "f32",
        shape,
        file: Some(path.to_string_lossy().into_owned()),
        values: None,
    };
    let timing = Timing { load_ms, run_ms };
    let document = Document::Tensors { input: None, outputs: vec![output], timing };
    if common.json {
        return super::super::print_json(&document);
    }
    super::super::print(&document.to_string())?;
    common.note(format!("{run_ms:.1} ms, after {load_ms:.1} ms to load"));
    Ok(())
}
