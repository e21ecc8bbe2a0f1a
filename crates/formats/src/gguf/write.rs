//! Writing, version 3.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use kinglet_graph::{DType, Dims, GraphError, Tensor};

use super::read::{MOST_DIMS, alignment};
use super::value::{Metadata, Value};
use super::{split, types};
use crate::files::Aside;
use crate::{LoadError, Named};

/// Names of tensors are shorter than this, in ggml.
const LONGEST_NAME: usize = 64;

/// A model to be written: its metadata, and tensors whose bytes are asked for one after the other
/// when their turn comes, so that a model need not fit in memory.
///
/// ```
/// # use kinglet_formats::gguf::{Gguf, Metadata, Value, Writer};
/// # use kinglet_graph::{DType, Tensor};
/// let mut metadata = Metadata::default();
/// metadata.insert("general.architecture", "llama".into());
/// let mut writer = Writer::new(metadata);
/// writer.tensor("output_norm.weight", &Tensor::from_slice(&[2], &[1f32, 1.0])?)?;
/// writer.streamed("token_embd.weight", DType::F16, &[3, 2], |out| out.write_all(&[0; 12]))?;
/// # let path = std::env::temp_dir().join(format!("kinglet-doc-{}.gguf", std::process::id()));
/// writer.write(&path)?;
/// # let read = Gguf::open(&path)?;
/// # assert_eq!(read.tensors["token_embd.weight"].dims(), [3, 2]);
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Writer<'a> {
    metadata: Metadata,
    tensors: Named<Planned<'a>>,
    part_bytes: u64,
}

/// Writes a tensor's bytes.
type Data<'a> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a>;

struct Planned<'a> {
    /// Outermost first.
    dims: Dims,
    id: u32,
    size: u64,
    data: Data<'a>,
}

impl<'a> Writer<'a> {
    /// A model with this metadata and no tensors yet. `general.alignment`, where it is there, is kept
    /// to.
    pub fn new(mut metadata: Metadata) -> Writer<'a> {
        metadata.retain(|key, _| !split::KEYS.contains(&key));
        Writer { metadata, tensors: Named::default(), part_bytes: u64::MAX }
    }

    /// Splits the model into files whose tensors take at most `bytes` each, if it takes more (and a
    /// single tensor does not).
    #[must_use]
    pub fn split_at(self, bytes: u64) -> Writer<'a> {
        Writer { part_bytes: bytes, ..self }
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// If GGUF files can't hold it: its type, rank or name; or there is one of that name.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<(), GraphError> {
        let data = tensor.clone();
        self.streamed(name, tensor.dtype(), tensor.dims(), move |out| out.write_all(data.raw()))
    }

    /// Adds a tensor whose bytes, as many as `dtype` and `dims` say, `data` will write.
    ///
    /// # Errors
    /// As for [`Writer::tensor`].
    pub fn streamed(
        &mut self,
        name: &str,
        dtype: DType,
        dims: &[usize],
        data: impl FnOnce(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> Result<(), GraphError> {
        let fail = |message| Err(GraphError::new(format!("tensor '{name}'"), message));
        let Some(id) = types::id(dtype) else {
            return fail(format!("is {dtype}, which GGUF files can't hold"));
        };
        if dims.len() > MOST_DIMS as usize || dims.contains(&0) {
            return fail(format!("has sizes {dims:?}; one to {MOST_DIMS} that are not 0 can be"));
        }
        if name.len() >= LONGEST_NAME {
            return fail(format!("has a name of {} bytes; at most 63 can be", name.len()));
        }
        let size = match dtype.bytes_of(dims) {
            Ok(size) => size as u64,
            Err(e) => return fail(e.to_string()),
        };
        let planned = Planned { dims: dims.into(), id, size, data: Box::new(data) };
        match self.tensors.insert(name, planned) {
            Some(_) => fail("is there twice".into()),
            None => Ok(()),
        }
    }

    /// Writes the file at `path`, or `NAME-00001-of-0000N.gguf` and so on beside it, and returns what
    /// was written. Files come into being, or take the place of others, when all are complete.
    ///
    /// # Errors
    /// If a file can't be written, or a tensor's data is not as long as was said.
    pub fn write(self, path: &Path) -> Result<Vec<PathBuf>, LoadError> {
        let fail = |e| LoadError::new(path, e);
        let alignment = alignment(&self.metadata).map_err(fail)? as u64;
        let parts = parts(self.tensors, alignment, self.part_bytes);
        let (count, total) = (parts.len(), parts.iter().map(Vec::len).sum::<usize>());
        if count > split::MOST_PARTS {
            return Err(fail(GraphError::new("size", format!("it would make {count} files"))));
        }
        let cannot = |path: &Path, error: io::Error| {
            LoadError::new(path, GraphError::new("cannot write", error.to_string()))
        };
        let (mut files, mut written) = (Aside::default(), Vec::new());
        for (no, tensors) in parts.into_iter().enumerate() {
            let (metadata, path) = match count {
                1 => (self.metadata.clone(), path.to_path_buf()),
                _ => (
                    split::metadata(&self.metadata, no, count, total),
                    split::part(path, no, count),
                ),
            };
            files
                .create(&path)
                .and_then(|file| write_file(file, &metadata, tensors, alignment))
                .map_err(|error| cannot(&path, error))?;
            written.push(path);
        }
        files.finish().map_err(|(path, error)| cannot(&path, error))?;
        Ok(written)
    }
}

type Part<'a> = Vec<(String, Planned<'a>)>;

/// The tensors of each file, at least one file.
fn parts(tensors: Named<Planned<'_>>, alignment: u64, limit: u64) -> Vec<Part<'_>> {
    let mut parts = vec![Vec::new()];
    let mut filled = 0u64;
    for (name, planned) in tensors {
        let size = planned.size.next_multiple_of(alignment);
        let part = parts.last_mut().expect("there is one");
        if !part.is_empty() && filled.saturating_add(size) > limit {
            parts.push(vec![(name, planned)]);
            filled = size;
        } else {
            part.push((name, planned));
            filled = filled.saturating_add(size);
        }
    }
    parts
}

fn write_file(file: File, metadata: &Metadata, tensors: Part<'_>, align: u64) -> io::Result<()> {
    let mut head = b"GGUF\x03\0\0\0".to_vec();
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_text(&mut head, key.as_bytes());
        head.extend(value.kind().id().to_le_bytes());
        put_value(&mut head, value);
    }
    let mut offset = 0u64;
    for (name, planned) in &tensors {
        put_text(&mut head, name.as_bytes());
        head.extend((planned.dims.len() as u32).to_le_bytes());
        planned.dims.iter().rev().for_each(|n| head.extend((*n as u64).to_le_bytes()));
        head.extend(planned.id.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += planned.size.next_multiple_of(align);
    }
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&head)?;
    pad(&mut out, head.len() as u64, align)?;
    for (name, planned) in tensors {
        let mut exact = Exact { out: &mut out, left: planned.size };
        let written = (planned.data)(&mut exact).and_then(|()| exact.finish());
        written.map_err(|e| io::Error::new(e.kind(), format!("tensor '{name}': {e}")))?;
        pad(&mut out, planned.size, align)?;
    }
    out.flush()
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(text) => put_text(out, text.as_bytes()),
        Value::Array(array) => {
            out.extend(array.kind().id().to_le_bytes());
            out.extend((array.len() as u64).to_le_bytes());
            out.extend(array.bytes());
        }
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

/// Zeros from `len` to the next multiple of `align`.
fn pad(out: &mut impl Write, len: u64, align: u64) -> io::Result<()> {
    let zeros = len.next_multiple_of(align) - len;
    io::copy(&mut io::Read::take(io::repeat(0), zeros), out).map(drop)
}

/// Takes just so many bytes.
struct Exact<'w, W> {
    out: &'w mut W,
    left: u64,
}

impl<W> Exact<'_, W> {
    fn finish(self) -> io::Result<()> {
        match self.left {
            0 => Ok(()),
            left => Err(io::Error::other(format!("its data ends {left} bytes early"))),
        }
    }
}

impl<W: Write> Write for Exact<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("its data is longer than its type and sizes say"));
        }
        let written = self.out.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
