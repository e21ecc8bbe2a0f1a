//! GGUF files: language models' weights with their metadata.
//!
//! [`Gguf::open`] maps a file, versions 2 and 3, and reads its metadata and where its tensors lie;
//! weights, and large arrays of the metadata such as vocabularies, stay where they are. [`Writer`]
//! writes them. The format is
//! [ggml's](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

mod read;
mod split;
mod types;
mod value;
mod write;

use std::path::Path;

use kinglet_graph::{Bytes, GraphError, Tensor};

use crate::map::map;
use crate::{LoadError, Named};

pub use value::{Array, Kind, Metadata, Value};
pub use write::Writer;

/// What tensors' offsets are multiples of where a file does not say.
const DEFAULT_ALIGNMENT: usize = 32;
/// The key that says otherwise.
const ALIGNMENT: &str = "general.alignment";

/// Tensors by name, in the order of the file. Sizes are outermost first, the reverse of GGUF's: a
/// matrix is `[rows, columns]`, and its rows lie one after the other.
pub type Tensors = Named<Tensor>;

/// A GGUF file, or all the files of a model that was split.
#[derive(Debug)]
pub struct Gguf {
    /// Keys and values, in the order of the file; of a split model those of its first file, without
    /// what they say about the splitting.
    pub metadata: Metadata,
    /// The weights.
    pub tensors: Tensors,
}

impl Gguf {
    /// Maps the file at `path`. Of a model that was split any part will do: the others are found
    /// beside it.
    ///
    /// # Errors
    /// If it can't be read, is damaged, a part is missing, or a tensor is of an unsupported type.
    pub fn open(path: &Path) -> Result<Gguf, LoadError> {
        let fail = |e| LoadError::new(path, e);
        let file = read::read(&map(path)?).map_err(fail)?;
        match split::place(&file.metadata).map_err(fail)? {
            Some((no, count)) => split::join(path, file, no, count),
            None => Ok(Gguf { metadata: file.metadata, tensors: file.tensors }),
        }
    }

    /// The file in `bytes`, which must be a whole model.
    ///
    /// # Errors
    /// If it is damaged, one part of several, or a tensor is of an unsupported type.
    pub fn parse(bytes: Bytes) -> Result<Gguf, GraphError> {
        let file = read::read(&bytes)?;
        match split::place(&file.metadata)? {
            Some((no, count)) => Err(GraphError::new(
                "header",
                format!("this is part {} of {count}; open its file to find the others", no + 1),
            )),
            None => Ok(Gguf { metadata: file.metadata, tensors: file.tensors }),
        }
    }
}
