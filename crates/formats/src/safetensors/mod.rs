//! safetensors files: named tensors, one file or several under an index.
//!
//! The [format](https://github.com/huggingface/safetensors#format): the length of a JSON header, eight
//! bytes; the header, which gives each tensor's type, sizes and place; the data, without holes.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use kinglet_graph::{Bytes, DType, GraphError, Tensor};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

mod write;

use crate::map::map;
use crate::{LoadError, Named};

pub use write::write;

/// A header may take this much, as in the reference implementation.
const LONGEST_HEADER: u64 = 100_000_000;

/// The index of a model in several files.
const INDEX: &str = "model.safetensors.index.json";
/// The file of a model in one.
const SINGLE: &str = "model.safetensors";

/// The header's key that is not a tensor's name.
const METADATA: &str = "__metadata__";

/// Element types by their names in headers.
const DTYPES: [(&str, DType); 19] = [
    ("BOOL", DType::Bool),
    ("U8", DType::U8),
    ("I8", DType::I8),
    ("F8_E5M2", DType::F8E5M2),
    ("F8_E4M3", DType::F8E4M3FN),
    ("F8_E8M0", DType::F8E8M0),
    ("F8_E4M3FNUZ", DType::F8E4M3FNUZ),
    ("F8_E5M2FNUZ", DType::F8E5M2FNUZ),
    ("F4", DType::F4E2M1),
    ("I16", DType::I16),
    ("U16", DType::U16),
    ("F16", DType::F16),
    ("BF16", DType::BF16),
    ("I32", DType::I32),
    ("U32", DType::U32),
    ("F32", DType::F32),
    ("I64", DType::I64),
    ("U64", DType::U64),
    ("F64", DType::F64),
];

/// The tensors of a file, or of all files of a model.
#[derive(Debug)]
pub struct SafeTensors {
    /// What the file says about itself; of a model in several files nothing.
    pub metadata: Named<String>,
    /// The tensors, in the header's or the index's order. They stay where they lie in the file.
    pub tensors: Named<Tensor>,
}

impl SafeTensors {
    /// Maps the file at `path`, or all those that an index (`.json`) names, or the model in a folder:
    /// what `model.safetensors.index.json` names, or `model.safetensors`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or a tensor is of an unsupported type.
    pub fn open(path: &Path) -> Result<SafeTensors, LoadError> {
        if path.is_dir() {
            let index = path.join(INDEX);
            return Self::open(&if index.exists() { index } else { path.join(SINGLE) });
        }
        let bytes = map(path)?;
        if path.extension().is_some_and(|e| e == "json") {
            return sharded(path, &bytes);
        }
        Self::parse(bytes).map_err(|e| LoadError::new(path, e))
    }

    /// The file in `bytes`.
    ///
    /// # Errors
    /// If it is damaged, or a tensor is of an unsupported type.
    pub fn parse(bytes: Bytes) -> Result<SafeTensors, GraphError> {
        let fail = |message: String| GraphError::new("header", message);
        let len = bytes.first_chunk::<8>().map(|len| u64::from_le_bytes(*len));
        let len = len.ok_or_else(|| fail("the file is too short to have one".into()))?;
        if len > LONGEST_HEADER {
            return Err(fail(format!("says that it takes {len} bytes: no safetensors file")));
        }
        let header = bytes.slice(8, len as usize).ok_or_else(|| {
            fail(format!("takes {len} bytes, and the file ends at {}", bytes.len()))
        })?;
        let entries: Ordered<Entry> =
            serde_json::from_slice(&header).map_err(|e| fail(format!("is damaged: {e}")))?;
        let start = 8 + header.len();
        let data = bytes.slice(start, bytes.len() - start).expect("the header is inside");
        let mut read = SafeTensors { metadata: Named::default(), tensors: Named::default() };
        let mut places = Vec::new();
        for (name, entry) in entries.0 {
            match entry {
                Entry::Tensor(info) if name != METADATA => {
                    let tensor = tensor(&data, &info)
                        .map_err(|m| GraphError::new(format!("tensor '{name}'"), m))?;
                    places.push((info.data_offsets, name.clone()));
                    if read.tensors.insert(name.clone(), tensor).is_some() {
                        return Err(GraphError::new(format!("tensor '{name}'"), "is there twice"));
                    }
                }
                Entry::Metadata(pairs) if name == METADATA => {
                    for (key, value) in pairs.0 {
                        read.metadata.insert(key, value);
                    }
                }
                _ => return Err(fail(format!("has an entry '{name}' that is no tensor"))),
            }
        }
        no_holes(places, data.len()).map_err(fail)?;
        Ok(read)
    }
}

/// A tensor's entry, or the metadata.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Tensor(Info),
    Metadata(Ordered<String>),
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    /// From the end of the header.
    data_offsets: (usize, usize),
}

fn tensor(data: &Bytes, info: &Info) -> Result<Tensor, String> {
    let dtype = DTYPES.iter().find(|row| row.0 == info.dtype).map(|row| row.1);
    let dtype = dtype.ok_or_else(|| format!("is of type {:?}, which is unknown", info.dtype))?;
    let (start, end) = info.data_offsets;
    let len = end.checked_sub(start).ok_or_else(|| format!("starts at {start}, ends at {end}"))?;
    let part = data.slice(start, len);
    let part = part.ok_or_else(|| format!("ends at {end}, after the file's {}", data.len()))?;
    Tensor::from_bytes(dtype, &info.shape, part).map_err(|e| e.to_string())
}

/// Checks that each byte of the data is of one tensor.
fn no_holes(mut places: Vec<((usize, usize), String)>, end: usize) -> Result<(), String> {
    places.sort_unstable();
    let mut at = 0;
    for ((from, to), name) in places {
        if from != at {
            return Err(format!("leaves a hole or an overlap at {at}, before tensor '{name}'"));
        }
        at = to;
    }
    if at == end { Ok(()) } else { Err(format!("tells of {at} bytes of data, there are {end}")) }
}

#[derive(Deserialize)]
struct Index {
    weight_map: Ordered<String>,
}

fn sharded(path: &Path, bytes: &[u8]) -> Result<SafeTensors, LoadError> {
    let fail = |message: String| LoadError::new(path, GraphError::new("index", message));
    let index: Index =
        serde_json::from_slice(bytes).map_err(|e| fail(format!("is damaged: {e}")))?;
    let mut files: HashMap<String, SafeTensors> = HashMap::new();
    let mut all = SafeTensors { metadata: Named::default(), tensors: Named::default() };
    for (name, file) in index.weight_map.0 {
        if file.contains(['/', '\\']) || file == ".." || file.is_empty() {
            return Err(fail(format!("names a file outside of the model's folder: {file:?}")));
        }
        let file = match files.entry(file) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let part = path.with_file_name(entry.key());
                let read = map(&part).and_then(|bytes| {
                    SafeTensors::parse(bytes).map_err(|e| LoadError::new(&part, e))
                });
                entry.insert(read?)
            }
        };
        let Some(tensor) = file.tensors.get(&name) else {
            return Err(fail(format!("says where tensor '{name}' is, and it is not there")));
        };
        if all.tensors.insert(name.clone(), tensor.clone()).is_some() {
            return Err(fail(format!("has tensor '{name}' twice")));
        }
    }
    Ok(all)
}

/// A JSON object's entries in order. One of two with the same key is not lost.
struct Ordered<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value();
                    let value = value.map_err(|e| A::Error::custom(format!("'{key}': {e}")))?;
                    entries.push((key, value));
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}
