//! One file: header, metadata, tensor descriptions, data.

use kinglet_graph::{Bytes, Dims, GraphError, Tensor};

use super::value::{Array, Kind, Metadata, Value};
use super::{ALIGNMENT, DEFAULT_ALIGNMENT, Tensors, types};

/// Bytes that a key with its value, and a tensor's description, take at least.
const SMALLEST_PAIR: u64 = 8 + 4 + 1;
const SMALLEST_TENSOR: u64 = 8 + 4 + 4 + 8;

/// The most dimensions that ggml has.
pub(super) const MOST_DIMS: u32 = 4;

/// What one file holds.
#[derive(Debug)]
pub(super) struct File {
    pub metadata: Metadata,
    pub tensors: Tensors,
}

pub(super) fn read(bytes: &Bytes) -> Result<File, GraphError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let header = |message: String| GraphError::new("header", message);
    if !bytes.starts_with(b"GGUF") {
        return Err(header("this is no GGUF file: it does not start with GGUF".into()));
    }
    cursor.at = 4;
    match cursor.u32().map_err(header)? {
        2 | 3 => {}
        1 => return Err(header("GGUF version 1 is not supported; convert the model anew".into())),
        version if version & 0xffff == 0 => {
            return Err(header("this file is big-endian, only little-endian ones are read".into()));
        }
        version => return Err(header(format!("GGUF version {version} is not known"))),
    }
    let tensors = cursor.count("tensors", SMALLEST_TENSOR).map_err(header)?;
    let pairs = cursor.count("metadata pairs", SMALLEST_PAIR).map_err(header)?;
    let metadata = metadata(&mut cursor, pairs)?;
    let alignment = alignment(&metadata)?;
    let described = (0..tensors)
        .map(|i| {
            let at = cursor.at;
            describe(&mut cursor)
                .map_err(|m| GraphError::new(format!("description of tensor {i} at byte {at}"), m))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let data = cursor.at.checked_next_multiple_of(alignment);
    let mut tensors = Tensors::default();
    for Description { name, dims, id, offset } in described {
        let tensor = data
            .ok_or_else(|| "starts past the address space".to_string())
            .and_then(|data| tensor(bytes, data, alignment, &dims, id, offset))
            .map_err(|m| GraphError::new(format!("tensor '{name}'"), m))?;
        if tensors.contains(&name) {
            return Err(GraphError::new(format!("tensor '{name}'"), "is there twice"));
        }
        tensors.insert(name, tensor);
    }
    Ok(File { metadata, tensors })
}

fn metadata(cursor: &mut Cursor<'_>, pairs: u64) -> Result<Metadata, GraphError> {
    let mut metadata = Metadata::default();
    for i in 0..pairs {
        let at = cursor.at;
        let key = cursor
            .text("its key")
            .map_err(|m| GraphError::new(format!("metadata pair {i} at byte {at}"), m))?;
        let at = cursor.at;
        let fail = |m| GraphError::new(format!("metadata '{key}' at byte {at}"), m);
        let value = cursor.value().map_err(fail)?;
        if metadata.contains(&key) {
            return Err(fail("is there twice".into()));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

pub(super) fn alignment(metadata: &Metadata) -> Result<usize, GraphError> {
    let alignment = metadata.read(ALIGNMENT, Value::as_usize)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        let message = format!("is {alignment}, which is not a power of two");
        return Err(GraphError::new(format!("metadata '{ALIGNMENT}'"), message));
    }
    Ok(alignment)
}

struct Description {
    name: String,
    /// Outermost first.
    dims: Dims,
    id: u32,
    offset: u64,
}

fn describe(cursor: &mut Cursor<'_>) -> Result<Description, String> {
    let name = cursor.text("its name")?;
    let within = |m: String| format!("('{name}') {m}");
    let rank = cursor.u32().map_err(within)?;
    if rank > MOST_DIMS {
        return Err(within(format!("has {rank} dimensions; at most {MOST_DIMS} are allowed")));
    }
    let mut dims = Dims::new();
    for _ in 0..rank {
        let size = cursor.u64().map_err(within)?;
        match usize::try_from(size) {
            Ok(size) if size > 0 && i64::try_from(size).is_ok() => dims.push(size),
            _ => return Err(within(format!("has a dimension of size {}", size as i64))),
        }
    }
    dims.reverse();
    let id = cursor.u32().map_err(within)?;
    let offset = cursor.u64().map_err(within)?;
    Ok(Description { name, dims, id, offset })
}

fn tensor(
    bytes: &Bytes,
    data: usize,
    alignment: usize,
    dims: &[usize],
    id: u32,
    offset: u64,
) -> Result<Tensor, String> {
    let dtype = types::dtype(id)?;
    let size = dtype.bytes_of(dims).map_err(|e| e.to_string())?;
    if !offset.is_multiple_of(alignment as u64) {
        return Err(format!("is at offset {offset}, which is not a multiple of {alignment}"));
    }
    let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
    let data = start.and_then(|start| bytes.slice(start, size)).ok_or_else(|| {
        format!(
            "{dtype}{dims:?} takes {size} bytes at offset {offset} after byte {data}, \
             and the file ends at {}; it is damaged or not whole",
            bytes.len()
        )
    })?;
    Tensor::from_bytes(dtype, dims, data).map_err(|e| e.to_string())
}

/// A place in the file. Messages say what is wrong there, callers say what they read.
struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, len: u64) -> Result<Bytes, String> {
        let taken = usize::try_from(len).ok().and_then(|len| self.bytes.slice(self.at, len));
        let taken = taken.ok_or_else(|| {
            format!("needs {len} bytes at {}, and the file ends at {}", self.at, self.bytes.len())
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(&self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// How many of something follow that takes at least `smallest` bytes.
    fn count(&mut self, what: &str, smallest: u64) -> Result<u64, String> {
        let count = self.u64()?;
        if count.checked_mul(smallest).is_none_or(|size| size > self.rest()) {
            let left = self.rest();
            return Err(format!("says {count} {what} follow, where {left} bytes do"));
        }
        Ok(count)
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        let len = self.u64()?;
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(&bytes);
        text.map(Into::into).map_err(|_| format!("has no UTF-8 text for {what}"))
    }

    fn kind(&mut self) -> Result<Kind, String> {
        let id = self.u32()?;
        Kind::from_id(id).ok_or_else(|| format!("is of the unknown type {id}"))
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.kind()? {
            Kind::String => Ok(Value::String(self.text("its value")?)),
            Kind::Array => Ok(Value::Array(self.array_of()?)),
            kind => {
                let bytes = self.take(kind.width() as u64)?;
                Value::scalar(kind, &bytes).ok_or_else(|| format!("is no {kind}: {:?}", &*bytes))
            }
        }
    }

    fn array_of(&mut self) -> Result<Array, String> {
        let kind = self.kind()?;
        if kind == Kind::Array {
            return Err("is an array of arrays, which is not supported".into());
        }
        let len = self.count(&format!("{kind}s"), kind.width() as u64)?;
        let start = self.at;
        if kind == Kind::String {
            for i in 0..len {
                let len = self.u64()?;
                self.take(len).map_err(|m| format!("string {i} {m}"))?;
            }
        } else {
            self.at += len as usize * kind.width();
        }
        let bytes = self.bytes.slice(start, self.at - start);
        let bytes = bytes.expect("the cursor stays inside");
        if kind == Kind::Bool && bytes.iter().any(|b| *b > 1) {
            return Err("holds a truth value that is neither 0 nor 1".into());
        }
        Ok(Array::in_file(kind, len as usize, bytes))
    }
}
