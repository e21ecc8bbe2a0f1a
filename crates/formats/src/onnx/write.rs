//! ONNX files with other weights.
//!
//! A file is copied field by field, so that whatever it holds besides (names, operators, metadata) stays
//! as it was; only tensors that are replaced are written anew.

use super::import;
use super::proto;
use super::wire::{Budget, Field, Message, WireError};
use crate::Named;
use kinglet_graph::{Bytes, DType, GraphError, Tensor};
use std::collections::BTreeSet;
use std::path::Path;

// Field numbers of onnx.proto.
const MODEL_GRAPH: u32 = 7;
const GRAPH_NODE: u32 = 1;
const GRAPH_INITIALIZER: u32 = 5;
const GRAPH_OUTPUT: u32 = 12;
const GRAPH_VALUE_INFO: u32 = 13;
const NODE_ATTRIBUTE: u32 = 5;
const ATTRIBUTE_TENSOR: u32 = 5;
const ATTRIBUTE_GRAPH: u32 = 6;
const INFO_TYPE: u32 = 2;
const TYPE_TENSOR: u32 = 1;
const TENSOR_SHAPE: u32 = 2;
const SHAPE_DIM: u32 = 1;

/// Element types of floats, by their number in onnx.proto.
const FLOATS: [(i32, DType); 4] =
    [(1, DType::F32), (10, DType::F16), (11, DType::F64), (16, DType::BF16)];

/// The model in `bytes`, whose external data lies in `folder`, with `weights`, tensors of f32, in the places
/// of its constants of these names, in the element types that they have there. The output of a name in
/// `outputs` has so many elements on its last axis. Other external data are put into the file too, which
/// may so be written to any folder.
///
/// Sizes that the file tells of intermediate tensors are left out where a weight's sizes change: they are
/// not needed.
///
/// # Errors
/// Where the bytes are damaged, external data can't be read, or a weight is not held as an initializer or
/// by a `Constant` node.
pub fn with_weights(
    bytes: &Bytes,
    folder: Option<&Path>,
    weights: &Named<Tensor>,
    outputs: &[(&str, usize)],
) -> Result<Vec<u8>, GraphError> {
    let budget = Budget::for_file(bytes.len());
    let damaged = |e: WireError| GraphError::new("ONNX file", e.to_string());
    let stored = import::Weights::new(bytes, folder, &budget);
    let mut writer = Writer { weights, outputs, stored, written: BTreeSet::new(), failed: None };
    let mut out = Vec::with_capacity(bytes.len() + 1024);
    let model = Message::root(bytes, &budget);
    copy(model, &mut out, &mut |field| match field.number {
        MODEL_GRAPH => writer.graph(field).map(Replaced::By),
        _ => Ok(Replaced::No),
    })
    .map_err(damaged)?;
    if let Some(error) = writer.failed {
        return Err(error);
    }
    match weights.iter().find(|(name, _)| !writer.written.contains(*name)) {
        None => Ok(out),
        Some((name, _)) => Err(GraphError::new(
            format!("weight '{name}'"),
            "the file holds it neither as an initializer nor by a Constant node",
        )),
    }
}

/// What becomes of a field.
enum Replaced {
    No,
    By(Vec<u8>),
    LeftOut,
}

/// Copies the fields of `message`, but for those that `f` replaces.
fn copy<'a>(
    mut message: Message<'a>,
    out: &mut Vec<u8>,
    f: &mut dyn FnMut(&Field<'a>) -> Result<Replaced, WireError>,
) -> Result<(), WireError> {
    while let Some((field, raw)) = message.next_raw()? {
        match f(&field)? {
            Replaced::No => out.extend_from_slice(raw),
            Replaced::By(content) => put(out, field.number, &content),
            Replaced::LeftOut => {}
        }
    }
    Ok(())
}

/// The content of `field`, a message, copied so.
fn copied<'a>(
    field: &Field<'a>,
    f: &mut dyn FnMut(&Field<'a>) -> Result<Replaced, WireError>,
) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    copy(field.message()?, &mut out, f)?;
    Ok(out)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value as u64);
}

struct Writer<'w> {
    weights: &'w Named<Tensor>,
    outputs: &'w [(&'w str, usize)],
    /// Tensors as the file, and those beside it, hold them.
    stored: import::Weights<'w>,
    written: BTreeSet<&'w str>,
    failed: Option<GraphError>,
}

impl<'w> Writer<'w> {
    fn graph(&mut self, field: &Field<'_>) -> Result<Vec<u8>, WireError> {
        let resized = !self.outputs.is_empty();
        copied(field, &mut |field| match field.number {
            GRAPH_INITIALIZER => {
                let tensor = proto::Tensor::read(field.message()?)?;
                Ok(self.tensor(tensor.name, &tensor))
            }
            GRAPH_NODE => self.node(field),
            GRAPH_VALUE_INFO if resized => Ok(Replaced::LeftOut),
            GRAPH_OUTPUT => self.output(field),
            _ => Ok(Replaced::No),
        })
    }

    /// A `Constant` node's tensor has the name of the node's output; other nodes may have graphs.
    fn node(&mut self, field: &Field<'_>) -> Result<Replaced, WireError> {
        let node = proto::Node::read(field.message()?)?;
        let constant = node.op_type == "Constant";
        let name = node.outputs.first().copied().filter(|_| constant).unwrap_or_default();
        let content = copied(field, &mut |field| match field.number {
            NODE_ATTRIBUTE => Ok(Replaced::By(copied(field, &mut |field| match field.number {
                ATTRIBUTE_TENSOR => Ok(self.tensor(name, &proto::Tensor::read(field.message()?)?)),
                ATTRIBUTE_GRAPH => self.graph(field).map(Replaced::By),
                _ => Ok(Replaced::No),
            })?)),
            _ => Ok(Replaced::No),
        })?;
        Ok(Replaced::By(content))
    }

    /// `tensor` of the file, which is called `name`.
    fn tensor(&mut self, name: &str, tensor: &proto::Tensor<'_>) -> Replaced {
        let new = self.weights.iter().find(|(known, _)| *known == name);
        let content = match new {
            Some((known, new)) => {
                self.written.insert(known);
                encoded(tensor, new)
            }
            None if tensor.is_external => {
                self.stored.tensor(tensor).map(|own| held(tensor, own.dims(), own.raw()))
            }
            None => return Replaced::No,
        };
        content.map(Replaced::By).unwrap_or_else(|message| {
            let place = format!("tensor '{name}'");
            self.failed = self.failed.take().or(Some(GraphError::new(place, message)));
            Replaced::No
        })
    }

    /// An output, with the size of its last axis.
    fn output(&self, field: &Field<'_>) -> Result<Replaced, WireError> {
        let info = proto::ValueInfo::read(field.message()?)?;
        let Some((_, size)) = self.outputs.iter().find(|(name, _)| *name == info.name) else {
            return Ok(Replaced::No);
        };
        let mut dims = 0usize;
        let content = nested(field, &[INFO_TYPE, TYPE_TENSOR, TENSOR_SHAPE], &mut |field| {
            dims += usize::from(field.number == SHAPE_DIM);
            Ok(Replaced::No)
        })?;
        if dims == 0 {
            return Ok(Replaced::By(content));
        }
        let mut at = 0;
        let content = nested(field, &[INFO_TYPE, TYPE_TENSOR, TENSOR_SHAPE], &mut |field| {
            at += usize::from(field.number == SHAPE_DIM);
            if field.number != SHAPE_DIM || at != dims {
                return Ok(Replaced::No);
            }
            let mut dim = Vec::new();
            put_int(&mut dim, 1, *size as i64);
            Ok(Replaced::By(dim))
        })?;
        Ok(Replaced::By(content))
    }
}

/// Copies messages within messages, down the fields of `path`.
fn nested<'a>(
    field: &Field<'a>,
    path: &[u32],
    f: &mut dyn FnMut(&Field<'a>) -> Result<Replaced, WireError>,
) -> Result<Vec<u8>, WireError> {
    match path.split_first() {
        None => copied(field, f),
        Some((number, rest)) => copied(field, &mut |field| {
            if field.number == *number {
                nested(field, rest, f).map(Replaced::By)
            } else {
                Ok(Replaced::No)
            }
        }),
    }
}

/// A `TensorProto` like `old` that holds `new`.
fn encoded(old: &proto::Tensor<'_>, new: &Tensor) -> Result<Vec<u8>, String> {
    let dtype = FLOATS.iter().find(|(number, _)| *number == old.data_type).map(|(_, d)| *d);
    let dtype = dtype.ok_or("is no tensor of floats in the file")?;
    let text = |e: kinglet_graph::OpError| e.to_string();
    let values = new.slice::<f32>().map_err(text)?;
    let raw = match dtype {
        DType::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        _ => Tensor::encode(dtype, new.dims(), values).map_err(text)?.raw().to_vec(),
    };
    Ok(held(old, new.dims(), &raw))
}

/// A `TensorProto` of `old`'s name and element type that holds these bytes itself.
fn held(old: &proto::Tensor<'_>, dims: &[usize], raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 64);
    for dim in dims {
        put_int(&mut out, 1, *dim as i64);
    }
    put_int(&mut out, 2, i64::from(old.data_type));
    put(&mut out, 8, old.name.as_bytes());
    put(&mut out, 9, raw);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        fields.iter().for_each(|(number, content)| put(&mut out, *number, content));
        out
    }

    /// y = x w + b, of w an initializer of f32, b a `Constant` of f16.
    fn model() -> Vec<u8> {
        let tensor = |name: &str, dims: &[i64], kind: i64, raw: &[u8]| {
            let mut out = Vec::new();
            dims.iter().for_each(|dim| put_int(&mut out, 1, *dim));
            put_int(&mut out, 2, kind);
            put(&mut out, 8, name.as_bytes());
            put(&mut out, 9, raw);
            out
        };
        let w = tensor("w", &[2, 3], 1, &[0; 24]);
        let b = tensor("", &[3], 10, &[0; 6]);
        let mut value = message(&[(1, b"value"), (5, &b)]);
        put_int(&mut value, 20, 4);
        let constant = message(&[(2, b"b16"), (4, b"Constant"), (5, &value)]);
        let mut to = message(&[(1, b"to")]);
        put_int(&mut to, 3, 1);
        put_int(&mut to, 20, 2);
        let cast = message(&[(1, b"b16"), (2, b"b"), (4, b"Cast"), (5, &to)]);
        let product = message(&[(1, b"x"), (1, b"w"), (2, b"p"), (4, b"MatMul")]);
        let sum = message(&[(1, b"p"), (1, b"b"), (2, b"y"), (4, b"Add")]);
        let info = |name: &[u8], sizes: &[i64]| {
            let mut shape = Vec::new();
            for size in sizes {
                let mut dim = Vec::new();
                put_int(&mut dim, 1, *size);
                put(&mut shape, 1, &dim);
            }
            let mut of = Vec::new();
            put_int(&mut of, 1, 1);
            put(&mut of, 2, &shape);
            message(&[(1, name), (2, &message(&[(1, &of)]))])
        };
        let graph = message(&[
            (1, &constant),
            (1, &cast),
            (1, &product),
            (1, &sum),
            (2, b"g"),
            (5, &w),
            (11, &info(b"x", &[1, 2])),
            (12, &info(b"y", &[1, 3])),
            (13, &info(b"p", &[1, 3])),
        ]);
        let mut out = Vec::new();
        put_int(&mut out, 1, 8);
        put(&mut out, 7, &graph);
        let mut opset = Vec::new();
        put_int(&mut opset, 2, 13);
        put(&mut out, 8, &opset);
        out
    }

    fn load(bytes: Vec<u8>) -> kinglet_graph::Graph {
        super::super::parse(Bytes::new(Arc::new(bytes)), None).unwrap()
    }

    fn rewritten(
        bytes: Vec<u8>,
        weights: &Named<Tensor>,
        outputs: &[(&str, usize)],
    ) -> Result<Vec<u8>, GraphError> {
        with_weights(&Bytes::new(Arc::new(bytes)), None, weights, outputs)
    }

    fn constant(graph: &kinglet_graph::Graph, name: &str) -> Tensor {
        let value = graph.values().iter().find(|v| v.name == name && v.data.is_some());
        value.unwrap().data.clone().unwrap()
    }

    #[test]
    fn nothing_changed_is_the_same_file() {
        let bytes = model();
        assert_eq!(rewritten(bytes.clone(), &Named::default(), &[]).unwrap(), bytes);
    }

    #[test]
    fn weights_are_replaced_in_their_types() {
        let mut weights = Named::default();
        let w: Vec<f32> = (0..6).map(|i| i as f32).collect();
        weights.insert("w", Tensor::from_slice(&[2, 3], &w).unwrap());
        weights.insert("b16", Tensor::from_slice(&[3], &[0.5f32, -1.0, 2.0]).unwrap());
        let graph = load(rewritten(model(), &weights, &[]).unwrap());
        assert_eq!(constant(&graph, "w").slice::<f32>().unwrap(), w);
        let b = constant(&graph, "b16");
        assert_eq!(b.dtype(), DType::F16);
        let mut wide = [0f32; 3];
        b.view().decode(0, &mut wide).unwrap();
        assert_eq!(wide, [0.5, -1.0, 2.0]);
    }

    #[test]
    fn other_sizes_reach_the_output() {
        let mut weights = Named::default();
        weights.insert("w", Tensor::from_slice(&[2, 5], &[1f32; 10]).unwrap());
        weights.insert("b16", Tensor::from_slice(&[5], &[0f32; 5]).unwrap());
        let graph = load(rewritten(model(), &weights, &[("y", 5)]).unwrap());
        let shape = graph.value(graph.outputs[0]).ty.shape.fixed();
        assert_eq!(shape.as_deref(), Some(&[1, 5][..]));
    }

    /// y = x w, of w beside the file.
    #[test]
    fn external_data_are_put_into_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let w = [1.5f32, -2.0];
        let beside: Vec<u8> = w.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(folder.path().join("w.bin"), [&[0; 4], &beside[..]].concat()).unwrap();
        let mut tensor = Vec::new();
        put_int(&mut tensor, 1, 2);
        put_int(&mut tensor, 2, 1);
        put(&mut tensor, 8, b"w");
        put(&mut tensor, 13, &message(&[(1, b"location"), (2, b"w.bin")]));
        put(&mut tensor, 13, &message(&[(1, b"offset"), (2, b"4")]));
        put_int(&mut tensor, 14, 1);
        let product = message(&[(1, b"w"), (1, b"w"), (2, b"y"), (4, b"Mul")]);
        let graph =
            message(&[(1, &product), (2, b"g"), (5, &tensor), (12, &message(&[(1, b"y")]))]);
        let mut bytes = Vec::new();
        put_int(&mut bytes, 1, 8);
        put(&mut bytes, 7, &graph);
        let mut opset = Vec::new();
        put_int(&mut opset, 2, 13);
        put(&mut bytes, 8, &opset);
        let bytes = Bytes::new(Arc::new(bytes));
        let out = with_weights(&bytes, Some(folder.path()), &Named::default(), &[]).unwrap();
        assert_eq!(constant(&load(out), "w").slice::<f32>().unwrap(), w);
        // Where it is not there, nothing is written that would lack it.
        let error = with_weights(&bytes, None, &Named::default(), &[]).unwrap_err().to_string();
        assert!(error.contains("'w'"), "{error}");
    }

    #[test]
    fn what_is_not_held_so_is_named() {
        let mut weights = Named::default();
        weights.insert("p", Tensor::from_slice(&[1], &[0f32]).unwrap());
        let error = rewritten(model(), &weights, &[]).unwrap_err().to_string();
        assert!(error.contains("'p'") && error.contains("initializer"), "{error}");
        let cut = model()[..40].to_vec();
        assert!(rewritten(cut, &Named::default(), &[]).is_err());
    }
}
