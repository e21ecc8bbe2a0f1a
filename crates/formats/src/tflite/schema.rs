//! TFLite's schema as data: what a `.tflite` file says.

use super::builtin;
use super::flatbuffer::{FlatError, Table};
use kinglet_graph::Quant;
use std::ops::Range;
use std::sync::Arc;

/// A problem of a file: where (subgraph, operator, tensor, byte) and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The bytes are not a FlatBuffer, or not a whole one.
    #[error("{place}{flat}")]
    Bytes {
        /// Which part of the model, ending in `: `, or empty.
        place: String,
        /// Which byte.
        flat: FlatError,
    },
    /// The parts of the model do not fit each other.
    #[error("{place}{what}")]
    Content {
        /// Which part of the model, ending in `: `, or empty.
        place: String,
        /// What is wrong.
        what: String,
    },
}

impl From<FlatError> for SchemaError {
    fn from(flat: FlatError) -> Self {
        SchemaError::Bytes { place: String::new(), flat }
    }
}

impl SchemaError {
    pub(super) fn content(what: impl Into<String>) -> Self {
        SchemaError::Content { place: String::new(), what: what.into() }
    }

    pub(super) fn within(self, outer: impl std::fmt::Display) -> Self {
        match self {
            SchemaError::Bytes { place, flat } => {
                SchemaError::Bytes { place: format!("{outer}: {place}"), flat }
            }
            SchemaError::Content { place, what } => {
                SchemaError::Content { place: format!("{outer}: {place}"), what }
            }
        }
    }
}

/// Element type codes of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TensorType {
    Float32,
    Float16,
    Int32,
    Uint8,
    Int64,
    String,
    Bool,
    Int16,
    Complex64,
    Int8,
    Float64,
    Complex128,
    Uint64,
    Resource,
    Variant,
    Uint32,
    Uint16,
    Int4,
    Bfloat16,
    Int2,
    Uint4,
}

impl TensorType {
    const ALL: [TensorType; 21] = [
        TensorType::Float32,
        TensorType::Float16,
        TensorType::Int32,
        TensorType::Uint8,
        TensorType::Int64,
        TensorType::String,
        TensorType::Bool,
        TensorType::Int16,
        TensorType::Complex64,
        TensorType::Int8,
        TensorType::Float64,
        TensorType::Complex128,
        TensorType::Uint64,
        TensorType::Resource,
        TensorType::Variant,
        TensorType::Uint32,
        TensorType::Uint16,
        TensorType::Int4,
        TensorType::Bfloat16,
        TensorType::Int2,
        TensorType::Uint4,
    ];

    /// The type of a schema code.
    ///
    /// # Errors
    /// For a code newer than this list.
    pub fn from_code(code: i32) -> Result<Self, SchemaError> {
        let known = usize::try_from(code).ok().and_then(|code| Self::ALL.get(code));
        known
            .copied()
            .ok_or_else(|| SchemaError::content(format!("unknown element type code {code}")))
    }

    /// Bits of one element; `None` for strings, resources and variants.
    pub fn bits(self) -> Option<usize> {
        Some(match self {
            TensorType::Int2 => 2,
            TensorType::Int4 | TensorType::Uint4 => 4,
            TensorType::Uint8 | TensorType::Bool | TensorType::Int8 => 8,
            TensorType::Float16 | TensorType::Int16 | TensorType::Uint16 | TensorType::Bfloat16 => {
                16
            }
            TensorType::Float32 | TensorType::Int32 | TensorType::Uint32 => 32,
            TensorType::Int64
            | TensorType::Float64
            | TensorType::Uint64
            | TensorType::Complex64 => 64,
            TensorType::Complex128 => 128,
            TensorType::String | TensorType::Resource | TensorType::Variant => return None,
        })
    }
}

/// One dimension of a sparse tensor's storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SparseDim {
    /// Every index is stored.
    Dense(usize),
    /// Compressed: for each outer position `segments` bounds the run of stored `indices`.
    Csr {
        /// Bounds, one more than outer positions.
        segments: Vec<usize>,
        /// Stored indices.
        indices: Vec<usize>,
    },
}

/// How a sparse constant is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparsity {
    /// Storage order of the dimensions, the blocks' after the tensor's.
    pub traversal_order: Vec<usize>,
    /// The tensor dimension of each block dimension.
    pub block_map: Vec<usize>,
    /// One for each entry of `traversal_order`.
    pub dims: Vec<SparseDim>,
}

/// A tensor of a subgraph.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name; need not be unique.
    pub name: String,
    /// Element type.
    pub dtype: TensorType,
    /// Sizes. Empty means a scalar, or an unknown shape where `has_rank` is false and it is computed.
    pub shape: Vec<usize>,
    /// Sizes with −1 where any size may be given; empty where the file has none.
    pub signature: Vec<i32>,
    /// The buffer that holds its data, where it is constant.
    pub data: Option<Range<usize>>,
    /// Affine quantisation, where given.
    pub quantization: Option<Arc<Quant>>,
    /// Whether it keeps its contents between runs.
    pub is_variable: bool,
    /// How the data is stored, where sparse.
    pub sparsity: Option<Sparsity>,
}

/// Which operator: a builtin code, or a custom name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorCode {
    /// Builtin code, [`builtin::CUSTOM`] for a custom one.
    pub code: i32,
    /// Name of a custom operator.
    pub custom: String,
    /// Version that the file asks for.
    pub version: i32,
}

impl OperatorCode {
    /// The operator's name for messages.
    pub fn name(&self) -> String {
        match builtin::name(self.code) {
            _ if self.code == builtin::CUSTOM => format!("custom operator '{}'", self.custom),
            Some(name) => name.to_string(),
            None => format!("builtin operator {}", self.code),
        }
    }
}

/// One operation of a subgraph.
#[derive(Debug, Clone)]
pub struct Operator<'a> {
    /// Index of its [`OperatorCode`], within bounds.
    pub code: usize,
    /// Tensors read; `None` for an optional one left out.
    pub inputs: Vec<Option<usize>>,
    /// Tensors written.
    pub outputs: Vec<usize>,
    /// Tensors that hold the quantisation of inner results (LSTM).
    pub intermediates: Vec<usize>,
    /// Builtin options.
    pub options: Option<Table<'a>>,
    /// Builtin options of the newer kind.
    pub options_2: Option<Table<'a>>,
    /// Custom options.
    pub custom_options: &'a [u8],
}

/// A graph of the file; the first is the main one.
#[derive(Debug)]
pub struct SubGraph<'a> {
    /// Its name.
    pub name: String,
    /// All tensors.
    pub tensors: Vec<Tensor>,
    /// Tensors fed from outside.
    pub inputs: Vec<usize>,
    /// Tensors handed out.
    pub outputs: Vec<usize>,
    /// Operators in running order.
    pub operators: Vec<Operator<'a>>,
}

/// Names for the inputs and outputs of a subgraph.
#[derive(Debug)]
pub struct Signature {
    /// Its name, such as `serving_default`.
    pub key: String,
    /// Which subgraph.
    pub subgraph: usize,
    /// Name and tensor of each input.
    pub inputs: Vec<(String, usize)>,
    /// Name and tensor of each output.
    pub outputs: Vec<(String, usize)>,
}

/// A whole file.
#[derive(Debug)]
pub struct Model<'a> {
    /// Free text of the writer.
    pub description: String,
    /// Operators that the file uses.
    pub codes: Vec<OperatorCode>,
    /// Graphs, at least one.
    pub subgraphs: Vec<SubGraph<'a>>,
    /// Names of inputs and outputs.
    pub signatures: Vec<Signature>,
    /// Named byte ranges of the file, such as label files' descriptions.
    pub metadata: Vec<(String, Range<usize>)>,
}
