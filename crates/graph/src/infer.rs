//! Shape inference over a whole graph, folding what is known on the way.

use crate::graph::type_of;
use crate::interpret::eval_open;
use crate::{
    Dims, Graph, GraphError, InferCx, Interpreter, Known, Shape, TensorView, ValueType, elements,
};
use std::cell::Cell;

/// What [`infer`] may compute ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Small integer tensors only: what sizes are made of.
    Shapes,
    /// Every pure node whose inputs are constant, within [`FOLD_LIMIT`].
    All,
}

/// A folded constant takes at most this many bytes, or as many as its inputs together.
pub const FOLD_LIMIT: usize = 1 << 20;

/// Sizes are made of tensors of at most this many elements.
const SHAPE_ELEMENTS: usize = 64;

/// Gives the graph's inputs these sizes, and forgets what was inferred from others.
pub fn set_input_shapes(graph: &mut Graph, dims: &[Dims]) -> Result<(), GraphError> {
    if dims.len() != graph.inputs.len() {
        return Err(GraphError::new(
            "inputs",
            format!("the model has {}, {} were given", graph.inputs.len(), dims.len()),
        ));
    }
    for (id, dims) in graph.inputs.clone().into_iter().zip(dims) {
        let value = graph.value_mut(id);
        if !value.ty.shape.admits(dims) {
            return Err(GraphError::new(
                format!("input '{}'", value.name),
                format!("the model takes {}, the tensor is {dims:?}", value.ty),
            ));
        }
        value.ty.shape = dims.as_slice().into();
    }
    Ok(())
}

/// Runs every node's shape rule in order, and makes constants of what `fold` allows. Types that
/// the file declared are kept where the rule knows less, and an error where the two disagree.
pub fn infer(graph: &mut Graph, fold: Fold) -> Result<(), GraphError> {
    let next_symbol = Cell::new(first_free_symbol(graph));
    let interpreter = Interpreter::default();
    for i in 0..graph.nodes().len() {
        let node = graph.nodes()[i].clone();
        let known: Vec<Option<Known<'_>>> = node
            .inputs
            .iter()
            .map(|v| {
                v.map(|v| {
                    let value = graph.value(v);
                    Known { ty: &value.ty, data: value.data.as_ref().map(|d| d.view()) }
                })
            })
            .collect();
        let cx = InferCx::new(&known, node.outputs.len(), &next_symbol);
        let types = node.op.infer(&cx).map_err(|e| GraphError::at(&node, &e))?;
        if types.len() != node.outputs.len() {
            return Err(GraphError::new(
                node.place(),
                format!("has {} outputs, the op makes {}", node.outputs.len(), types.len()),
            ));
        }
        let folded = folds(graph, i, &types, fold).then(|| {
            let dims: Vec<Dims> = known
                .iter()
                .map(|k| k.and_then(|k| k.ty.shape.fixed()).unwrap_or_default())
                .collect();
            let views: Vec<Option<TensorView<'_>>> = known
                .iter()
                .zip(&dims)
                .map(|(k, dims)| {
                    k.map(|k| {
                        k.data.unwrap_or(TensorView {
                            dtype: k.ty.dtype,
                            dims,
                            bytes: &[],
                            quant: k.ty.quant.as_deref(),
                        })
                    })
                })
                .collect();
            eval_open(graph, &node, &views, &interpreter)
        });
        drop(known);
        for (id, ty) in node.outputs.iter().zip(types) {
            let value = graph.value_mut(*id);
            let name = value.name.clone();
            value.ty = merge(&value.ty, ty)
                .map_err(|m| GraphError::new(format!("{}, output '{name}'", node.place()), m))?;
        }
        // A node that fails when folded may never run (a branch not taken): running it tells.
        if let Some(Ok(tensors)) = folded {
            for (id, tensor) in node.outputs.iter().zip(tensors) {
                let quant = graph.value(*id).ty.quant.clone();
                let tensor = tensor.with_quant(quant);
                graph.value_mut(*id).ty = type_of(&tensor);
                graph.value_mut(*id).data = Some(tensor);
            }
        }
    }
    let mut i = 0;
    let mut constant = Vec::new();
    for node in graph.nodes() {
        let all = node.outputs.iter().all(|v| graph.value(*v).data.is_some());
        constant.push(all && !node.outputs.is_empty());
    }
    graph.nodes_mut().retain(|_| {
        i += 1;
        !constant[i - 1]
    });
    Ok(())
}

fn folds(graph: &Graph, node: usize, types: &[ValueType], fold: Fold) -> bool {
    let node = &graph.nodes()[node];
    if !node.op.is_pure() || node.op.state().is_some() || !node.op.subgraphs().is_empty() {
        return false;
    }
    let mut input_bytes = 0usize;
    for (i, v) in node.inputs.iter().enumerate() {
        let Some(v) = v else { continue };
        let value = graph.value(*v);
        match &value.data {
            Some(data) => input_bytes = input_bytes.saturating_add(data.raw().len()),
            None if node.op.reads(i) || value.ty.shape.fixed().is_none() => return false,
            None => {}
        }
    }
    types.iter().all(|ty| match fold {
        // Sizes are integers, and some exporters compute them in floats.
        Fold::Shapes => {
            !node.op.decodes()
                && ty.shape.fixed().and_then(|d| elements(&d)).is_some_and(|n| n <= SHAPE_ELEMENTS)
        }
        Fold::All => match ty.shape.fixed() {
            Some(_) => ty.bytes().is_some_and(|b| b <= input_bytes.max(FOLD_LIMIT)),
            // What a data-dependent op makes is no larger than its inputs, by and large.
            None => input_bytes <= FOLD_LIMIT,
        },
    })
}

fn merge(declared: &ValueType, inferred: ValueType) -> Result<ValueType, String> {
    if declared.dtype != inferred.dtype {
        return Err(format!("declared as {declared}, computed as {inferred}"));
    }
    let shape = match (declared.shape.dims(), inferred.shape.dims()) {
        (None, _) => inferred.shape,
        (_, None) => declared.shape.clone(),
        (Some(a), Some(b)) if a.len() != b.len() => {
            return Err(format!("declared as {declared}, computed as {inferred}"));
        }
        (Some(a), Some(b)) => {
            let mut dims = Vec::with_capacity(a.len());
            for (a, b) in a.iter().zip(b) {
                dims.push(match (a.fixed(), b.fixed()) {
                    (Some(x), Some(y)) if x != y => {
                        return Err(format!("declared as {declared}, computed as {inferred}"));
                    }
                    (Some(_), _) => a.clone(),
                    (None, Some(_)) => b.clone(),
                    // A rule that knows an expression knows more than a name of its own making.
                    (None, None) if is_unknown(b) => a.clone(),
                    (None, None) => b.clone(),
                });
            }
            Shape::new(dims)
        }
    };
    Ok(ValueType { dtype: inferred.dtype, shape, quant: declared.quant.clone().or(inferred.quant) })
}

fn is_unknown(dim: &crate::Dim) -> bool {
    dim.as_symbol().is_some_and(|name| name.starts_with('?'))
}

fn first_free_symbol(graph: &Graph) -> usize {
    let mut names = std::collections::BTreeSet::new();
    for value in graph.values() {
        for dim in value.ty.shape.dims().unwrap_or_default() {
            dim.symbols(&mut names);
        }
    }
    let numbers = names.iter().filter_map(|n| n.strip_prefix('?')?.parse::<usize>().ok());
    numbers.max().map_or(0, |n| n.saturating_add(1))
}
