//! The messages of `onnx.proto` that an importer needs, borrowed from the file.
//!
//! Field numbers and names are those of <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.
//! Fields that carry no meaning for inference (documentation, training info, device
//! configuration) are skipped.

use std::borrow::Cow;

use super::wire::{Field, Message, WireError, varint};

type Result<T> = std::result::Result<T, WireError>;

/// A repeated number field in its encoded form.
type Packed<'a> = Cow<'a, [u8]>;

fn read<'a, T: Default>(
    mut message: Message<'a>,
    mut set: impl FnMut(&mut T, Field<'a>) -> Result<()>,
) -> Result<T> {
    let mut out = T::default();
    while let Some(field) = message.next()? {
        set(&mut out, field)?;
    }
    Ok(out)
}

/// `ModelProto`.
#[derive(Debug, Default, Clone)]
pub struct Model<'a> {
    pub ir_version: i64,
    pub producer: &'a str,
    pub producer_version: &'a str,
    pub opset_imports: Vec<(&'a str, i64)>,
    pub graph: Option<Graph<'a>>,
    pub functions: Vec<Function<'a>>,
    pub metadata: Vec<(&'a str, &'a str)>,
}

impl<'a> Model<'a> {
    pub fn read(message: Message<'a>) -> Result<Self> {
        read(message, |m: &mut Self, f| match f.number {
            1 => f.int().map(|v| m.ir_version = v),
            2 => f.str().map(|v| m.producer = v),
            3 => f.str().map(|v| m.producer_version = v),
            7 => f.set(&mut m.graph, Graph::read(f.message()?)?),
            8 => f.push(&mut m.opset_imports, opset_import(f.message()?)?),
            14 => f.push(&mut m.metadata, string_pair(f.message()?)?),
            25 => f.push(&mut m.functions, Function::read(f.message()?)?),
            _ => Ok(()),
        })
    }
}

fn opset_import(message: Message<'_>) -> Result<(&str, i64)> {
    read(message, |m: &mut (&str, i64), f| match f.number {
        1 => f.str().map(|v| m.0 = v),
        2 => f.int().map(|v| m.1 = v),
        _ => Ok(()),
    })
}

fn string_pair(message: Message<'_>) -> Result<(&str, &str)> {
    read(message, |m: &mut (&str, &str), f| match f.number {
        1 => f.str().map(|v| m.0 = v),
        2 => f.str().map(|v| m.1 = v),
        _ => Ok(()),
    })
}

/// `FunctionProto`: an op defined by a graph of others.
#[derive(Debug, Default, Clone)]
pub struct Function<'a> {
    pub domain: &'a str,
    pub name: &'a str,
    pub overload: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    /// Attributes a call must give.
    pub attributes: Vec<&'a str>,
    /// Attributes with the value they have where a call gives none.
    pub defaults: Vec<Attribute<'a>>,
    pub nodes: Vec<Node<'a>>,
    pub opset_imports: Vec<(&'a str, i64)>,
}

impl<'a> Function<'a> {
    fn read(message: Message<'a>) -> Result<Self> {
        read(message, |m: &mut Self, f| match f.number {
            1 => f.str().map(|v| m.name = v),
            4 => f.push(&mut m.inputs, f.str()?),
            5 => f.push(&mut m.outputs, f.str()?),
            6 => f.push(&mut m.attributes, f.str()?),
            7 => f.push(&mut m.nodes, Node::read(f.message()?)?),
            9 => f.push(&mut m.opset_imports, opset_import(f.message()?)?),
            10 => f.str().map(|v| m.domain = v),
            11 => f.push(&mut m.defaults, Attribute::read(f.message()?)?),
            13 => f.str().map(|v| m.overload = v),
            _ => Ok(()),
        })
    }
}

/// `GraphProto`.
#[derive(Debug, Default, Clone)]
pub struct Graph<'a> {
    pub name: &'a str,
    pub nodes: Vec<Node<'a>>,
    pub initializers: Vec<Tensor<'a>>,
    pub sparse_initializers: Vec<SparseTensor<'a>>,
    pub inputs: Vec<ValueInfo<'a>>,
    pub outputs: Vec<ValueInfo<'a>>,
}

impl<'a> Graph<'a> {
    fn read(message: Message<'a>) -> Result<Self> {
        read(message, |m: &mut Self, f| match f.number {
            1 => f.push(&mut m.nodes, Node::read(f.message()?)?),
            2 => f.str().map(|v| m.name = v),
            5 => f.push(&mut m.initializers, Tensor::read(f.message()?)?),
            11 => f.push(&mut m.inputs, ValueInfo::read(f.message()?)?),
            12 => f.push(&mut m.outputs, ValueInfo::read(f.message()?)?),
            15 => f.push(&mut m.sparse_initializers, SparseTensor::read(f.message()?)?),
            _ => Ok(()),
        })
    }
}

/// `NodeProto`.
#[derive(Debug, Default, Clone)]
pub struct Node<'a> {
    pub name: &'a str,
    pub domain: &'a str,
    pub op_type: &'a str,
    pub overload: &'a str,
    /// An empty name is an optional input left out.
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    pub attributes: Vec<Attribute<'a>>,
}

impl<'a> Node<'a> {
    pub fn read(message: Message<'a>) -> Result<Self> {
        read(message, |m: &mut Self, f| match f.number {
            1 => f.push(&mut m.inputs, f.str()?),
            2 => f.push(&mut m.outputs, f.str()?),
            3 => f.str().map(|v| m.name = v),
            4 => f.str().map(|v| m.op_type = v),
            5 => f.push(&mut m.attributes, Attribute::read(f.message()?)?),
            7 => f.str().map(|v| m.domain = v),
            8 => f.str().map(|v| m.overload = v),
            _ => Ok(()),
        })
    }
}

/// `AttributeProto`: a name and a value, or the name of the enclosing function's attribute that
/// gives the value.
#[derive(Debug, Default, Clone)]
pub struct Attribute<'a> {
    pub name: &'a str,
    pub reference: &'a str,
    pub value: AttributeValue<'a>,
}

/// The value of an [`Attribute`].
#[derive(Debug, Default, Clone)]
pub enum AttributeValue<'a> {
    #[default]
    None,
    Float(f32),
    Int(i64),
    String(&'a [u8]),
    Tensor(Box<Tensor<'a>>),
    Graph(Box<Graph<'a>>),
    SparseTensor(Box<SparseTensor<'a>>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<&'a [u8]>),
    /// A kind that no supported op takes.
    Other,
}

impl<'a> Attribute<'a> {
    fn read(message: Message<'a>) -> Result<Self> {
        #[derive(Default)]
        struct Raw<'a> {
            name: &'a str,
            reference: &'a str,
            kind: i32,
            float: Option<f32>,
            int: Option<i64>,
            string: Option<&'a [u8]>,
            tensor: Option<Tensor<'a>>,
            graph: Option<Graph<'a>>,
            sparse: Option<SparseTensor<'a>>,
            floats: Packed<'a>,
            ints: Packed<'a>,
            strings: Vec<&'a [u8]>,
        }
        use AttributeValue as V;
        let mut raw = read(message, |m: &mut Raw<'a>, f| match f.number {
            1 => f.str().map(|v| m.name = v),
            2 => f.set(&mut m.float, f.float()?),
            3 => f.set(&mut m.int, f.int()?),
            4 => f.set(&mut m.string, f.bytes()?),
            5 => f.set(&mut m.tensor, Tensor::read(f.message()?)?),
            6 => f.set(&mut m.graph, Graph::read(f.message()?)?),
            7 => f.append_list(&mut m.floats),
            8 => f.append_list(&mut m.ints),
            9 => f.push(&mut m.strings, f.bytes()?),
            20 => f.int32().map(|v| m.kind = v),
            21 => f.str().map(|v| m.reference = v),
            22 => f.set(&mut m.sparse, SparseTensor::read(f.message()?)?),
            _ => Ok(()),
        })?;
        if raw.kind == 0 {
            // Files older than IR version 2 name no type: the field that is there tells it.
            raw.kind = match &raw {
                Raw { float: Some(_), .. } => 1,
                Raw { int: Some(_), .. } => 2,
                Raw { string: Some(_), .. } => 3,
                Raw { tensor: Some(_), .. } => 4,
                Raw { graph: Some(_), .. } => 5,
                _ if !raw.floats.is_empty() => 6,
                _ if !raw.ints.is_empty() => 7,
                _ if !raw.strings.is_empty() => 8,
                _ => 0,
            };
        }
        // A scalar that has its default may be left out.
        let value = match raw.kind {
            1 => Some(V::Float(raw.float.unwrap_or_default())),
            2 => Some(V::Int(raw.int.unwrap_or_default())),
            3 => Some(V::String(raw.string.unwrap_or_default())),
            4 => raw.tensor.map(|t| V::Tensor(Box::new(t))),
            5 => raw.graph.map(|g| V::Graph(Box::new(g))),
            6 => floats(&raw.floats).map(V::Floats),
            7 => varints(&raw.ints).map(V::Ints),
            8 => Some(V::Strings(raw.strings)),
            11 => raw.sparse.map(|t| V::SparseTensor(Box::new(t))),
            _ => Some(V::Other),
        };
        let value = value.unwrap_or(V::None);
        Ok(Self { name: raw.name, reference: raw.reference, value })
    }
}

fn floats(packed: &[u8]) -> Option<Vec<f32>> {
    let (words, rest) = packed.as_chunks::<4>();
    rest.is_empty().then(|| words.iter().map(|&w| f32::from_le_bytes(w)).collect())
}

/// Decodes packed varints.
pub fn varints(mut packed: &[u8]) -> Option<Vec<i64>> {
    let mut out = Vec::new();
    while !packed.is_empty() {
        let (value, len) = varint(packed)?;
        out.push(value as i64);
        packed = &packed[len..];
    }
    Some(out)
}

fn dims(packed: &[u8]) -> Option<Vec<i64>> {
    const MAX_RANK: usize = 64;
    varints(packed.get(..packed.len().min(10 * MAX_RANK + 1))?).filter(|d| d.len() <= MAX_RANK)
}

/// `TensorProto`.
#[derive(Debug, Default, Clone)]
pub struct Tensor<'a> {
    pub name: &'a str,
    pub data_type: i32,
    pub dims: Packed<'a>,
    pub raw: Option<&'a [u8]>,
    pub floats: Packed<'a>,
    pub doubles: Packed<'a>,
    /// `int32_data`, `int64_data` and `uint64_data`, as varints.
    pub int32s: Packed<'a>,
    pub int64s: Packed<'a>,
    pub uint64s: Packed<'a>,
    pub strings: usize,
    pub external: Vec<(&'a str, &'a str)>,
    /// `data_location == EXTERNAL`.
    pub is_external: bool,
    pub has_segment: bool,
}

impl<'a> Tensor<'a> {
    /// Reads a tensor that is a file of its own, as the ONNX test suite stores them.
    pub fn read(message: Message<'a>) -> Result<Self> {
        read(message, |m: &mut Self, f| match f.number {
            1 => f.append_packed(&mut m.dims),
            2 => f.int32().map(|v| m.data_type = v),
            3 => {
                m.has_segment = true;
                Ok(())
            }
            4 => f.append_packed(&mut m.floats),
            5 => f.append_packed(&mut m.int32s),
            6 => {
                m.strings += 1;
                Ok(())
            }
            7 => f.append_packed(&mut m.int64s),
            8 => f.str().map(|v| m.name = v),
            9 => f.set(&mut m.raw, f.bytes()?),
            10 => f.append_packed(&mut m.doubles),
            11 => f.append_packed(&mut m.uint64s),
            13 => f.push(&mut m.external, string_pair(f.message()?)?),
            14 => f.int().map(|v| m.is_external = v == 1),
            _ => Ok(()),
        })
    }

    /// The dimensions; `None` where the list is damaged or longer than any shape.
    pub fn dims(&self) -> Option<Vec<i64>> {
        dims(&self.dims)
    }
}

/// `SparseTensorProto`.
#[derive(Debug, Default, Clone)]
pub struct SparseTensor<'a> {
    pub values: Option<Tensor<'a>>,
    pub indices: Option<Tensor<'a>>,
    dims: Packed<'a>,
}

impl<'a> SparseTensor<'a> {
    fn read(message: Message<'a>) -> Result<Self> {
        read(message, |m: &mut Self, f| match f.number {
            1 => f.set(&mut m.values, Tensor::read(f.message()?)?),
            2 => f.set(&mut m.indices, Tensor::read(f.message()?)?),
            3 => f.append_packed(&mut m.dims),
            _ => Ok(()),
        })
    }

    /// The dense tensor's dimensions; `None` where the list is damaged or longer than any shape.
    pub fn dims(&self) -> Option<Vec<i64>> {
        dims(&self.dims)
    }
}

/// `ValueInfoProto`.
#[derive(Debug, Default, Clone)]
pub struct ValueInfo<'a> {
    pub name: &'a str,
    pub ty: Type<'a>,
}

impl<'a> ValueInfo<'a> {
    pub fn read(message: Message<'a>) -> Result<Self> {
        read(message, |m: &mut Self, f| match f.number {
            1 => f.str().map(|v| m.name = v),
            2 => Type::read(f.message()?).map(|v| m.ty = v),
            _ => Ok(()),
        })
    }
}

/// `TypeProto`.
#[derive(Debug, Default, Clone)]
pub enum Type<'a> {
    #[default]
    Unknown,
    /// A dense tensor: `TensorProto.DataType`, and the shape where it is given.
    Tensor(i32, Option<Vec<Dim<'a>>>),
    /// Any other kind of value, by name.
    Other(&'static str),
}

/// One dimension of a declared shape.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Dim<'a> {
    #[default]
    Unknown,
    Known(i64),
    Named(&'a str),
}

impl<'a> Type<'a> {
    fn read(message: Message<'a>) -> Result<Self> {
        read(message, |m: &mut Self, f| {
            *m = match f.number {
                1 => {
                    let (elem, shape) =
                        read(f.message()?, |m: &mut (i32, Option<Vec<Dim<'a>>>), f| {
                            match f.number {
                                1 => f.int32().map(|v| m.0 = v),
                                2 => f.set(&mut m.1, shape(f.message()?)?),
                                _ => Ok(()),
                            }
                        })?;
                    Type::Tensor(elem, shape)
                }
                4 => Type::Other("sequence"),
                5 => Type::Other("map"),
                7 => Type::Other("opaque"),
                8 => Type::Other("sparse tensor"),
                9 => Type::Other("optional"),
                _ => return Ok(()),
            };
            Ok(())
        })
    }
}

fn shape(message: Message<'_>) -> Result<Vec<Dim<'_>>> {
    read(message, |m: &mut Vec<Dim<'_>>, f| match f.number {
        1 => {
            let dim = read(f.message()?, |d: &mut Dim<'_>, f| {
                *d = match f.number {
                    1 => Dim::Known(f.int()?),
                    2 if f.str()?.is_empty() => Dim::Unknown,
                    2 => Dim::Named(f.str()?),
                    _ => return Ok(()),
                };
                Ok(())
            })?;
            f.push(m, dim)
        }
        _ => Ok(()),
    })
}
