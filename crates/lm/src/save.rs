//! Conversations in files: what the model holds of them, so that it need not be computed again.
//!
//! A file is a safetensors file. Its metadata tell the model, what keys and values are held as, how
//! many positions are held, and a checksum of everything; `tokens` are all tokens; of each layer
//! with attention `NAME` there are `NAME.keys` [heads, positions, elements] and `NAME.values`, and
//! of each recurrent layer its memory under its own name. Blocks of Q8_0 are bytes.

use crate::error::LmError;
use crate::hash::Fnv;
use crate::model::LanguageModel;
use crate::session::Session;
use crate::step::Held;
use kinglet_graph::ops::rows::{Pages, Part};
use kinglet_graph::{DType, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What the metadata call this kind of file.
const FORMAT: &str = "kinglet.session.1";

type Result<T> = std::result::Result<T, LmError>;

fn fail(message: impl Into<String>) -> LmError {
    LmError::Saved(message.into())
}

/// A tensor of the file.
struct Entry {
    dtype: Dtype,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

impl safetensors::View for &Entry {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.dims
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Session {
    /// Writes the conversation with what `model` holds of it to `path`. A file that is there is
    /// replaced once the new one is whole.
    pub fn save(&self, model: &LanguageModel, path: &Path) -> Result<()> {
        let length = model.length(self.sequence()).min(self.tokens().len());
        let mut parts = BTreeMap::new();
        let tokens = self.tokens().iter().flat_map(|t| t.to_le_bytes()).collect();
        let dims = vec![self.tokens().len()];
        parts.insert("tokens".to_string(), Entry { dtype: Dtype::U32, dims, bytes: tokens });
        let cells: Vec<usize> =
            (0..length).filter_map(|p| model.cells().cell(self.sequence(), p)).collect();
        model.stepper().each_state(|i, held, state| match held {
            Held::Cells(pages) if length > 0 => {
                let name = &model.stepper().graph().states()[i].name;
                for (part, dims) in parts_of(pages, state.dtype(), length) {
                    let mut bytes = vec![0; dims.iter().product::<usize>() * unit(state.dtype())];
                    let mut saved = bytes.chunks_exact_mut(pages.part_bytes(part));
                    // The file has heads outermost.
                    for head in 0..pages.heads {
                        for (cell, to) in cells.iter().zip(&mut saved) {
                            pages.get(&state.raw()[pages.page_of(*cell, head)], *cell, part, to);
                        }
                    }
                    let dtype = stored(state.dtype());
                    parts.insert(
                        format!("{name}.{}", name_of(part)),
                        Entry { dtype, dims: dims.to_vec(), bytes },
                    );
                }
            }
            Held::Memories if length > 0 => {
                let name = &model.stepper().graph().states()[i].name;
                let dims = state.dims()[1..].to_vec();
                let bytes = state.raw().len() / state.dims()[0].max(1);
                let bytes = state.raw()[self.sequence() * bytes..][..bytes].to_vec();
                parts.insert(name.clone(), Entry { dtype: Dtype::F32, dims, bytes });
            }
            _ => {}
        });
        let mut about = HashMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("model".to_string(), model.fingerprint()),
            ("cache".to_string(), model.cache().name().to_string()),
            ("length".to_string(), length.to_string()),
        ]);
        let sum =
            checksum(&about, parts.iter().map(|(n, p)| (n.as_str(), &p.dims[..], &p.bytes[..])));
        about.insert("checksum".to_string(), sum);
        let unwritable = |e: &dyn std::fmt::Display| fail(format!("{}: {e}", path.display()));
        let bytes =
            safetensors::serialize(parts.iter(), Some(about)).map_err(|e| unwritable(&e))?;
        kinglet_formats::files::write(path, &bytes).map_err(|e| unwritable(&e))
    }

    /// Reads a conversation that [`Session::save`] wrote, with what the model held of it.
    ///
    /// # Errors
    /// If the file is damaged, of another model, of another [`Cache`](crate::Cache), or longer than
    /// the context.
    pub fn load(model: &mut LanguageModel, path: &Path) -> Result<Session> {
        let at = |e: LmError| match e {
            LmError::Saved(m) => fail(format!("{}: {m}", path.display())),
            other => other,
        };
        let bytes = std::fs::read(path).map_err(|e| at(fail(e.to_string())))?;
        Session::parse(model, &bytes).map_err(at)
    }

    /// As [`Session::load`], from the bytes of a file.
    pub fn parse(model: &mut LanguageModel, bytes: &[u8]) -> Result<Session> {
        let damaged = |m: String| fail(format!("damaged, or no saved conversation: {m}"));
        let read = |e: safetensors::SafeTensorError| damaged(e.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(read)?;
        let file = SafeTensors::deserialize(bytes).map_err(read)?;
        let mut about = header.metadata().clone().unwrap_or_default();
        let sum = about.remove("checksum");
        let mut parts: Vec<(&str, TensorView<'_>)> = file.iter().collect();
        parts.sort_by_key(|(name, _)| *name);
        let found = checksum(&about, parts.iter().map(|(n, t)| (*n, t.shape(), t.data())));
        let say = |key: &str| about.get(key).map_or("", String::as_str);
        if say("format") != FORMAT {
            return Err(damaged(format!("its format is '{}', not {FORMAT}", say("format"))));
        }
        if sum != Some(found) {
            return Err(damaged("its checksum is another".into()));
        }
        if say("model") != model.fingerprint() {
            return Err(fail("it is of another model"));
        }
        if say("cache") != model.cache().name() {
            let (held, cache) = (say("cache"), model.cache().name());
            let m = format!("its keys and values are held as {held}, the model's as {cache}");
            return Err(fail(m));
        }
        let mut parts: HashMap<&str, TensorView<'_>> = parts.into_iter().collect();
        let tokens = parts.remove("tokens").filter(|t| t.dtype() == Dtype::U32);
        let tokens = tokens.ok_or_else(|| damaged("it has no tokens".into()))?;
        let tokens: Vec<u32> =
            tokens.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let length = say("length").parse().ok().filter(|n| *n <= tokens.len());
        let length: usize = length.ok_or_else(|| damaged("of a length that can't be".into()))?;
        let vocabulary = model.vocabulary();
        if let Some(token) = tokens.iter().find(|t| **t as usize >= vocabulary) {
            return Err(LmError::Token { token: *token, vocabulary });
        }
        if length > model.context() {
            return Err(LmError::Context { needed: length, context: model.context() });
        }
        let sequence = model.open_sequence()?;
        match restore(model, sequence, length, &parts) {
            Ok(()) => Ok(Session::of(sequence, tokens)),
            Err(e) => {
                model.close_sequence(sequence);
                Err(e)
            }
        }
    }
}

/// Writes the parts of a file to the model's state.
fn restore(
    model: &mut LanguageModel,
    sequence: usize,
    length: usize,
    parts: &HashMap<&str, TensorView<'_>>,
) -> Result<()> {
    if length == 0 {
        return Ok(());
    }
    let cells = model.hold(sequence, length)?;
    let mut wrong = None;
    let mut saved = |name: &str, dtype: DType, dims: &[usize]| {
        let found = parts.get(name).filter(|t| t.dtype() == stored(dtype) && t.shape() == dims);
        if found.is_none() {
            wrong = Some(fail(format!("'{name}' is not there, or not of sizes {dims:?}")));
        }
        found.map(|t| t.data())
    };
    model.stepper().each_state(|i, held, state: &mut Tensor| {
        let name = &model.stepper().graph().states()[i].name;
        let dtype = state.dtype();
        match held {
            Held::Cells(pages) => {
                for (part, dims) in parts_of(pages, dtype, length) {
                    let name = format!("{name}.{}", name_of(part));
                    let Some(bytes) = saved(&name, dtype, &dims) else { return };
                    let mut saved = bytes.chunks_exact(pages.part_bytes(part));
                    for head in 0..pages.heads {
                        for (cell, from) in cells.iter().zip(&mut saved) {
                            let page = &mut state.bytes_mut()[pages.page_of(*cell, head)];
                            pages.put(page, *cell, part, from);
                        }
                    }
                }
            }
            Held::Memories => {
                let dims = state.dims()[1..].to_vec();
                let Some(bytes) = saved(name, dtype, &dims) else { return };
                state.bytes_mut()[sequence * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
            }
        }
    });
    wrong.map_or(Ok(()), Err)
}

fn name_of(part: Part) -> &'static str {
    match part {
        Part::Key => "keys",
        Part::Value => "values",
    }
}

/// The parts of a layer's cells that a file has, with their sizes.
fn parts_of(pages: Pages, dtype: DType, length: usize) -> impl Iterator<Item = (Part, [usize; 3])> {
    let sizes = move |part| [pages.heads, length, pages.part_bytes(part) / unit(dtype)];
    pages.parts().map(move |part| (part, sizes(part)))
}

/// Bytes of an element as the file has it.
fn unit(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 4,
        DType::F16 => 2,
        _ => 1,
    }
}

fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        _ => Dtype::U8,
    }
}

fn checksum<'a>(
    about: &HashMap<String, String>,
    parts: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>,
) -> String {
    let mut sum = Fnv::new();
    for (key, value) in BTreeMap::from_iter(about) {
        sum.take(key.as_bytes());
        sum.take(value.as_bytes());
    }
    for (name, dims, bytes) in parts {
        sum.take(name.as_bytes());
        dims.iter().for_each(|d| sum.take(&(*d as u64).to_le_bytes()));
        sum.take(bytes);
    }
    sum.text()
}
