//! From TFLite's schema to a graph.
//!
//! Tensors become values, operators nodes. What shapes the file declares for computed tensors is
//! not taken over: the ops' shape rules tell, as they do in TFLite. A variable tensor, a resource
//! variable, or a recurrent op's memory becomes state, read where an operator takes it and written
//! after.
//!
//! How an operator comes in: a line of [`HANDLERS`], which names it and the function that turns it
//! into ops of the graph.

mod control;
mod conv;
mod detection;
mod elementwise;
mod matmul;
mod node;
mod quantize;
mod recurrent;
mod reduce;
mod shape;
mod sparse;
mod state;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use kinglet_graph::{
    Bytes, DType, Dim, Graph, GraphError, OpError, OpResult, Quant, Shape, Tensor, ValueId,
    ValueType,
};
use std::sync::Arc;

use super::schema::{Model, SubGraph, Tensor as FileTensor, TensorType};
use node::Node;
use state::{Held, Key};

/// Turns one operator into ops of the graph.
type Handler = fn(&mut Node<'_, '_>) -> OpResult;

/// The operators that are supported, by the schema's names; custom ones by their own.
fn handler(name: &str) -> Option<Handler> {
    [
        conv::HANDLERS,
        matmul::HANDLERS,
        elementwise::HANDLERS,
        shape::HANDLERS,
        reduce::HANDLERS,
        quantize::HANDLERS,
        recurrent::HANDLERS,
        control::HANDLERS,
        detection::HANDLERS,
    ]
    .into_iter()
    .flatten()
    .find(|(known, _)| *known == name)
    .map(|(_, handler)| *handler)
}

/// What is common to all subgraphs of a file.
struct File<'m> {
    bytes: Bytes,
    model: &'m Model<'m>,
    /// Operators built so far, against [`MAX_OPERATORS`].
    operators: Cell<usize>,
}

/// Deepest nesting of control flow.
const MAX_DEPTH: usize = 16;

/// How many operators a file may come to when the bodies of control flow are counted where they
/// are used: a body used by many is built for each.
const MAX_OPERATORS: usize = 1 << 20;

/// The graph of the first subgraph of `model`, which was read from `bytes`.
///
/// # Errors
/// What is not supported or does not fit, with subgraph and operator.
pub(super) fn model(model: &Model<'_>, bytes: Bytes) -> Result<Graph, GraphError> {
    let file = File { bytes, model, operators: Cell::new(0) };
    let mut builder = Builder::new(&file, 0, 0)?;
    builder.build()?;
    let mut graph = builder.graph;
    name_by_signature(&mut graph, model);
    Ok(graph)
}

/// Gives inputs and outputs the names that the file's signature has for them.
fn name_by_signature(graph: &mut Graph, model: &Model<'_>) {
    let main = &model.subgraphs[0];
    let Some(signature) = model.signatures.iter().find(|s| s.subgraph == 0) else { return };
    let places = [(&main.inputs, &signature.inputs), (&main.outputs, &signature.outputs)];
    for (side, (tensors, names)) in places.into_iter().enumerate() {
        for (i, tensor) in tensors.iter().enumerate() {
            let ids = if side == 0 { &graph.inputs } else { &graph.outputs };
            let id = ids[i];
            if let Some((name, _)) = names.iter().find(|(_, t)| t == tensor) {
                graph.value_mut(id).name.clone_from(name);
            }
        }
    }
}

/// Builds one subgraph.
struct Builder<'m> {
    file: &'m File<'m>,
    index: usize,
    depth: usize,
    source: &'m SubGraph<'m>,
    graph: Graph,
    values: Vec<Option<ValueId>>,
    /// The variables in use so far.
    held: Vec<Held>,
    /// What resource variables start with.
    initial: HashMap<Key, Tensor>,
    /// The subgraphs that ran once, at load.
    called: HashSet<usize>,
    /// The names of the variables that tensors are handles of.
    handles: HashMap<usize, String>,
}

impl<'m> Builder<'m> {
    fn new(file: &'m File<'m>, index: usize, depth: usize) -> Result<Self, GraphError> {
        let place = || GraphError::new(format!("subgraph {index}"), String::new());
        let source = file
            .model
            .subgraphs
            .get(index)
            .ok_or_else(|| GraphError { message: "does not exist".into(), ..place() })?;
        file.operators.set(file.operators.get().saturating_add(source.operators.len()));
        if depth > MAX_DEPTH || file.operators.get() > MAX_OPERATORS {
            return Err(GraphError {
                message: "control flow is nested too deep, or in a circle".into(),
                ..place()
            });
        }
        let name = match source.name.as_str() {
            "" => format!("subgraph {index}"),
            name => name.to_string(),
        };
        Ok(Builder {
            file,
            index,
            depth,
            source,
            graph: Graph::new(name),
            values: vec![None; source.tensors.len()],
            held: Vec::new(),
            initial: HashMap::new(),
            called: HashSet::new(),
            handles: HashMap::new(),
        })
    }

    /// Builds the whole subgraph into `graph`.
    fn build(&mut self) -> Result<(), GraphError> {
        let source = self.source;
        for (i, tensor) in source.inputs.iter().enumerate() {
            let info = &source.tensors[*tensor];
            let ty = self.declared_type(*tensor).map_err(|e| self.tensor_error(*tensor, &e))?;
            let ty = ValueType { shape: input_shape(info, i), ..ty };
            if self.values[*tensor].is_some() {
                return Err(self.tensor_error(*tensor, &OpError::new("is an input twice")));
            }
            let id = self.graph.add_input(info.name.clone(), ty);
            self.values[*tensor] = Some(id);
        }
        for (i, operator) in source.operators.iter().enumerate() {
            let name = self.file.model.codes[operator.code].name();
            let place = format!("subgraph {}, operator {i} ({name})", self.index);
            let code = &self.file.model.codes[operator.code];
            let key = if code.custom.is_empty() { name.as_str() } else { code.custom.as_str() };
            let result = match handler(key) {
                Some(handle) => Node::new(self, operator, i).and_then(|mut node| {
                    handle(&mut node)?;
                    node.finish()
                }),
                None => Err(OpError::new("this operator is not supported")),
            };
            result.map_err(|e| GraphError::new(place, e.to_string()))?;
        }
        for tensor in &source.outputs {
            let id = self.value(*tensor).map_err(|e| self.tensor_error(*tensor, &e))?;
            self.graph.outputs.push(id);
        }
        Ok(())
    }

    fn tensor_error(&self, tensor: usize, error: &OpError) -> GraphError {
        let name = &self.source.tensors[tensor].name;
        GraphError::new(
            format!("subgraph {}, tensor {tensor} '{name}'", self.index),
            error.to_string(),
        )
    }

    /// The type that the file gives a tensor; its shape only where it is constant or an input.
    fn declared_type(&self, tensor: usize) -> OpResult<ValueType> {
        let info = &self.source.tensors[tensor];
        Ok(ValueType { dtype: dtype(info.dtype)?, shape: Shape::unknown(), quant: quant(info) })
    }

    /// The value of a tensor that is read: an input, a constant, a variable, or computed before.
    fn value(&mut self, tensor: usize) -> OpResult<ValueId> {
        if let Some(id) = self.values[tensor] {
            return Ok(id);
        }
        let info = &self.source.tensors[tensor];
        if info.is_variable {
            let variable = self.variable_tensor(tensor)?;
            return Ok(self.read(variable, &info.name));
        }
        let data = self.constant(tensor)?.ok_or_else(|| {
            OpError::new(format!(
                "tensor {tensor} '{}' is read before anything computes it",
                info.name
            ))
        })?;
        let id = self.graph.add_constant(info.name.clone(), data);
        self.values[tensor] = Some(id);
        Ok(id)
    }

    /// The data of a constant tensor.
    fn constant(&self, tensor: usize) -> OpResult<Option<Tensor>> {
        let info = &self.source.tensors[tensor];
        let empty = info.shape.contains(&0) && info.data.is_none() && !info.is_variable;
        let dtype = dtype(info.dtype)?;
        let quant = quant(info);
        let Some(range) = &info.data else {
            // A constant without elements needs no buffer.
            let made = empty.then(|| Tensor::zeros(dtype, &info.shape)).transpose()?;
            return Ok(made.map(|t| t.with_quant(quant)));
        };
        let bytes = self.file.bytes.slice(range.start, range.len());
        let bytes = bytes.ok_or_else(|| OpError::new("its data lies outside the file"))?;
        let data = match &info.sparsity {
            Some(sparsity) => sparse::dense(dtype, &info.shape, sparsity, &bytes)?,
            None => Tensor::from_bytes(dtype, &info.shape, bytes)?,
        };
        Ok(Some(data.with_quant(quant)))
    }
}

/// The sizes of input `i`; those that the file leaves open get names.
fn input_shape(info: &FileTensor, i: usize) -> Shape {
    let open = |d: usize| info.signature.get(d) == Some(&-1);
    let dims = info.shape.iter().enumerate().map(|(d, size)| match open(d) {
        true if i == 0 && d == 0 => Dim::symbol("n"),
        true => Dim::symbol(format!("in{i}_{d}")),
        false => Dim::from(*size),
    });
    Shape::new(dims.collect())
}

/// The graph's element type of a file's one.
fn dtype(ty: TensorType) -> OpResult<DType> {
    Ok(match ty {
        TensorType::Float32 => DType::F32,
        TensorType::Float16 => DType::F16,
        TensorType::Bfloat16 => DType::BF16,
        TensorType::Float64 => DType::F64,
        TensorType::Int64 => DType::I64,
        TensorType::Int32 => DType::I32,
        TensorType::Int16 => DType::I16,
        TensorType::Int8 => DType::I8,
        TensorType::Int4 => DType::I4,
        TensorType::Int2 => DType::I2,
        TensorType::Uint64 => DType::U64,
        TensorType::Uint32 => DType::U32,
        TensorType::Uint16 => DType::U16,
        TensorType::Uint8 => DType::U8,
        TensorType::Uint4 => DType::U4,
        TensorType::Bool => DType::Bool,
        TensorType::Complex64 => DType::C64,
        TensorType::Complex128 => DType::C128,
        // A handle is never computed with; it stands for a name.
        TensorType::Resource => DType::I32,
        TensorType::String | TensorType::Variant => {
            return Err(OpError::new(format!("tensors of type {ty:?} are not supported")));
        }
    })
}

/// The graph's quantisation of a tensor. Floats that carry one (for people's use) have none.
fn quant(info: &FileTensor) -> Option<Arc<Quant>> {
    let integer = matches!(
        info.dtype,
        TensorType::Int2
            | TensorType::Int4
            | TensorType::Uint4
            | TensorType::Int8
            | TensorType::Uint8
            | TensorType::Int16
            | TensorType::Uint16
            | TensorType::Int32
            | TensorType::Int64
    );
    info.quantization.as_ref().filter(|q| integer && q.scale.iter().any(|s| *s != 0.0)).cloned()
}
