//! Shape inference over a whole graph, folding what is known on the way.

use crate::graph::type_of;
use crate::interpret::eval_open;
use crate::{
    DType, Dim, Dims, Graph, GraphError, InferCx, Interpreter, Known, Shape, Tensor, TensorView,
    ValueId, ValueType, elements,
};
use smallvec::SmallVec;
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
    let mut sizes: Vec<Option<Vec<Dim>>> = vec![None; graph.values().len()];
    for i in 0..graph.nodes().len() {
        let node = &graph.nodes()[i];
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
        let of_inputs: Vec<Option<&[Dim]>> =
            node.inputs.iter().map(|v| v.and_then(|v| sizes[v.index()].as_deref())).collect();
        let cx = InferCx::new(&known, node.outputs.len(), &next_symbol).with_sizes(&of_inputs);
        let dtypes = known.iter().map(|k| k.map(|k| k.ty.dtype));
        node.op.check_encoded(dtypes).map_err(|e| GraphError::at(node, &e))?;
        let types = node.op.infer(&cx).map_err(|e| GraphError::at(node, &e))?;
        if types.len() != node.outputs.len() {
            return Err(GraphError::new(
                node.place(),
                format!("has {} outputs, the op makes {}", node.outputs.len(), types.len()),
            ));
        }
        let expressions = match types.first() {
            Some(ty) if ty.dtype.is_integer() && node.op.is_pure() && small(node, &known) => {
                node.op.sizes(&cx)
            }
            _ => Ok(None),
        };
        let expressions = expressions.map_err(|e| GraphError::at(node, &e))?;
        let folded = folds(graph, i, types.iter(), fold).then(|| {
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
            eval_open(graph, node, &views, None, &interpreter)
        });
        let outputs: SmallVec<[ValueId; 4]> = node.outputs.as_slice().into();
        for (id, ty) in outputs.iter().zip(types) {
            let value = graph.value(*id);
            let merged = merge(&value.ty, ty).map_err(|m| {
                let place = graph.nodes()[i].place();
                GraphError::new(format!("{place}, output '{}'", value.name), m)
            })?;
            graph.value_mut(*id).ty = merged;
        }
        // A node that fails when folded may never run (a branch not taken): running it tells.
        if let Some(Ok(tensors)) = folded {
            for (id, tensor) in outputs.iter().zip(tensors) {
                let quant = graph.value(*id).ty.quant.clone();
                let tensor = tensor.with_quant(quant);
                graph.value_mut(*id).ty = type_of(&tensor);
                graph.value_mut(*id).data = Some(tensor);
            }
        }
        if let (Some(id), Some(found)) = (outputs.first().copied(), expressions) {
            let value = graph.value_mut(id);
            if value.data.is_none() && found.len() <= SHAPE_ELEMENTS {
                value.data = constant_of(&value.ty, &found);
                sizes[id.index()] = Some(found);
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

/// Whether what a node reads is no larger than what sizes are made of.
fn small(node: &crate::Node, known: &[Option<Known<'_>>]) -> bool {
    known.iter().enumerate().all(|(i, k)| {
        let data = k.and_then(|k| k.data);
        data.is_none_or(|d| d.len() <= SHAPE_ELEMENTS || !node.op.reads(i))
    })
}

/// The tensor of these elements, when all are numbers and as many as `ty` has.
fn constant_of(ty: &ValueType, found: &[Dim]) -> Option<Tensor> {
    let ints: Vec<i64> = found.iter().map(Dim::as_i64).collect::<Option<_>>()?;
    let dims = ty.shape.fixed().filter(|d| elements(d) == Some(ints.len()))?;
    match ty.dtype {
        DType::I64 => Tensor::from_slice(&dims, &ints).ok(),
        DType::I32 => {
            let ints: Vec<i32> =
                ints.iter().map(|v| i32::try_from(*v).ok()).collect::<Option<_>>()?;
            Tensor::from_slice(&dims, &ints).ok()
        }
        _ => None,
    }
}

/// Whether [`infer`] has nothing left to find: all sizes are numbers, nothing more can be folded,
/// and no node computes what is constant.
pub fn is_settled(graph: &Graph, fold: Fold) -> bool {
    graph.nodes().iter().enumerate().all(|(i, node)| {
        let values = || node.outputs.iter().map(|v| graph.value(*v));
        let types = || values().map(|value| &value.ty);
        let computed = node.outputs.is_empty() || values().any(|value| value.data.is_none());
        let sized = types().all(|ty| ty.shape.fixed().is_some());
        computed && sized && !folds(graph, i, types(), fold)
    })
}

fn folds<'a>(
    graph: &Graph,
    node: usize,
    mut types: impl Iterator<Item = &'a ValueType>,
    fold: Fold,
) -> bool {
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
    types.all(|ty| match fold {
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

fn is_unknown(dim: &Dim) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ValueId;
    use crate::ops::activation::Activation;
    use crate::ops::binary::{Binary, BinaryFn};
    use crate::ops::concat::Concat;
    use crate::ops::expand::Expand;
    use crate::ops::gather::Gather;
    use crate::ops::reshape::{Reshape, ShapeOf, Unsqueeze};

    fn ints(graph: &mut Graph, dims: &[usize], data: &[i64]) -> ValueId {
        graph.add_constant("", Tensor::from_slice(dims, data).unwrap())
    }

    /// `x` of `[n, 3, h, w]` reshaped to `[n, -1]`, and a one expanded to `[2 n, 3]`, as exporters
    /// write it: with the sizes computed in the graph.
    fn model() -> Graph {
        let mut g = Graph::new("sizes");
        let sizes = ["n", "3", "h", "w"];
        let size = |s: &str| s.parse::<usize>().map_or_else(|_| Dim::symbol(s), Dim::from);
        let x = g.add_input("x", ValueType::new(DType::F32, sizes.map(size).to_vec()));
        let (zero, one) = (ints(&mut g, &[], &[0]), ints(&mut g, &[], &[1]));
        let (axes, rest) = (ints(&mut g, &[1], &[0]), ints(&mut g, &[1], &[-1]));
        let two = ints(&mut g, &[], &[2]);
        let all = g.apply("all", ShapeOf::default(), &[x], DType::I64);
        let n = g.apply("n", Gather::default(), &[all, zero], DType::I64);
        let row = g.apply("row", Unsqueeze, &[n, axes], DType::I64);
        let flat = g.apply("flat", Concat { axis: 0 }, &[row, rest], DType::I64);
        let out = g.apply("out", Reshape::default(), &[x, flat], DType::F32);
        let mul = Binary { function: BinaryFn::Mul, activation: Activation::None };
        let twice = g.apply("twice", mul, &[n, two], DType::I64);
        let twice = g.apply("row2", Unsqueeze, &[twice, axes], DType::I64);
        let three = g.apply("three", Gather::default(), &[all, one], DType::I64);
        let three = g.apply("row3", Unsqueeze, &[three, axes], DType::I64);
        let shape = g.apply("shape", Concat { axis: 0 }, &[twice, three], DType::I64);
        let ones = g.add_constant("ones", Tensor::from_slice(&[1, 1], &[1f32]).unwrap());
        let wide = g.apply("wide", Expand, &[ones, shape], DType::F32);
        g.outputs = vec![out, wide];
        g
    }

    fn shapes(graph: &Graph) -> Vec<String> {
        graph.outputs.iter().map(|v| graph.value(*v).ty.shape.to_string()).collect()
    }

    #[test]
    fn sizes_are_followed_through_arithmetic_as_expressions() {
        let mut graph = model();
        infer(&mut graph, Fold::Shapes).unwrap();
        graph.verify().unwrap();
        assert_eq!(shapes(&graph), ["[n, (3*h)*(w)]", "[2*n, 3]"]);
        // The 3 is a number whatever n is.
        assert!(!graph.nodes().iter().any(|n| n.name == "row3"));
    }

    #[test]
    fn given_sizes_leave_no_arithmetic() {
        let mut graph = model();
        infer(&mut graph, Fold::Shapes).unwrap();
        set_input_shapes(&mut graph, &[Dims::from_slice(&[5, 3, 2, 7])]).unwrap();
        infer(&mut graph, Fold::Shapes).unwrap();
        assert_eq!(shapes(&graph), ["[5, 42]", "[10, 3]"]);
        graph.remove_unused();
        let x = Tensor::zeros(DType::F32, &[5, 3, 2, 7]).unwrap();
        let out = crate::interpret(&graph, &[x]).unwrap();
        assert_eq!((out[0].dims(), out[1].dims()), (&[5, 42][..], &[10, 3][..]));
        assert!(graph.nodes().len() <= 1, "{graph}");
    }
}
