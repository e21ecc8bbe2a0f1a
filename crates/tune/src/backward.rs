//! The backward nodes of a graph.

use kinglet_formats::map;
use kinglet_graph::{
    Builder, DType, Fold, Gradient, Graph, GraphError, OpError, Tensor, ValueId, ValueType, infer,
};

/// The graph of a loss and its gradients: the inputs of `graph`; outputs the loss, and its gradient
/// with respect to each of the values `of`, which have their sizes.
///
/// The values may be inputs, constants (in 16 bits or encoded they become f32 first) or what nodes
/// compute. The loss is one float.
///
/// # Errors
/// Where a node between a value and the loss has no gradient rule; where the loss does not depend on
/// a value; where sizes are missing that a rule needs. The node or the value is named.
pub fn gradients(graph: &Graph, loss: ValueId, of: &[ValueId]) -> Result<Graph, GraphError> {
    let data = of.iter().map(|v| widened(graph, *v)).collect::<Result<Vec<_>, _>>()?;
    let mut graph = prepared(graph, of)?;
    let found = append(&mut graph, loss, of)?;
    for (v, data) in of.iter().zip(data) {
        graph.value_mut(*v).data = data;
    }
    graph.outputs = [loss].into_iter().chain(found).collect();
    finished(graph)
}

/// A copy of `graph` with its types inferred, in which `trained` constants are floats of full width and
/// have lost their data: what is computed from them alone must not be folded.
pub(crate) fn prepared(graph: &Graph, trained: &[ValueId]) -> Result<Graph, GraphError> {
    let mut graph = graph.clone();
    for v in trained {
        if let Some(data) = graph.value_mut(*v).data.take() {
            graph.value_mut(*v).ty = ValueType::new(wide_dtype(&graph, *v, &data)?, data.dims());
        }
    }
    infer(&mut graph, Fold::Shapes)?;
    Ok(graph)
}

/// The graph without what its outputs do not need, inferred and checked.
pub(crate) fn finished(mut graph: Graph) -> Result<Graph, GraphError> {
    graph.remove_unused();
    infer(&mut graph, Fold::Shapes)?;
    graph.remove_unused();
    graph.verify()?;
    Ok(graph)
}

/// The element type in which the constant `v`, which holds `data`, is trained.
fn wide_dtype(graph: &Graph, v: ValueId, data: &Tensor) -> Result<DType, GraphError> {
    match data.dtype() {
        DType::F32 | DType::F16 | DType::BF16 | DType::Encoded(_) => Ok(DType::F32),
        DType::F64 => Ok(DType::F64),
        _ => Err(GraphError::new(place(graph, v), "is trained, and so must be floats")),
    }
}

/// What the constant `v` holds, as floats of full width; `None` where it is none.
pub(crate) fn widened(graph: &Graph, v: ValueId) -> Result<Option<Tensor>, GraphError> {
    let Some(data) = &graph.value(v).data else { return Ok(None) };
    let dtype = wide_dtype(graph, v, data)?;
    if data.dtype() == dtype {
        return Ok(Some(data.clone()));
    }
    let at = |e: OpError| GraphError::new(place(graph, v), e.to_string());
    let mut wide = Tensor::zeros(dtype, data.dims()).map_err(at)?;
    data.view().decode(0, wide.slice_mut::<f32>().map_err(at)?).map_err(at)?;
    map::release(data.raw());
    Ok(Some(wide))
}

/// Makes a constant of 16 bits or in an encoding one of f32.
pub(crate) fn widen(graph: &mut Graph, v: ValueId) -> Result<(), GraphError> {
    if let Some(wide) = widened(graph, v)? {
        graph.set_constant(v, wide);
    }
    Ok(())
}

/// How messages call a value.
pub(crate) fn place(graph: &Graph, v: ValueId) -> String {
    format!("value {v} '{}'", graph.value(v).name)
}

/// Which of the values `of` the loss of `graph`, whose types are inferred, depends on.
///
/// # Errors
/// Where a node between one of them and the loss has no gradient rule.
pub(crate) fn depended_on(
    graph: &Graph,
    loss: ValueId,
    of: &[ValueId],
) -> Result<Vec<bool>, GraphError> {
    let found = backward(&mut graph.clone(), loss, of)?;
    Ok(of.iter().map(|v| found[v.index()].is_some()).collect())
}

/// Appends the backward nodes to `graph`, whose types are inferred, and returns the gradient with
/// respect to each of the values `of`.
pub(crate) fn append(
    graph: &mut Graph,
    loss: ValueId,
    of: &[ValueId],
) -> Result<Vec<ValueId>, GraphError> {
    let gradients = backward(graph, loss, of)?;
    of.iter()
        .map(|v| {
            let found = gradients[v.index()].ok_or_else(|| {
                let m = "has no gradient: the loss does not depend on it";
                GraphError::new(place(graph, *v), m)
            })?;
            check_sizes(graph, *v, found)?;
            Ok(found)
        })
        .collect()
}

/// Appends the backward nodes, and returns for each value of before its gradient, where it has one.
fn backward(
    graph: &mut Graph,
    loss: ValueId,
    of: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GraphError> {
    let wanted = wanted(graph, of);
    let ty = &graph.value(loss).ty;
    let one = ty.shape.fixed().is_some_and(|dims| dims.iter().all(|d| *d == 1));
    if !ty.dtype.is_float() || !one {
        return Err(GraphError::new(place(graph, loss), format!("is {ty}: a loss is one float")));
    }
    let (nodes, values) = (graph.nodes().len(), graph.values().len());
    let mut gradients = vec![None; values];
    let seed = seed(graph, loss).map_err(|e| GraphError::new(place(graph, loss), e.to_string()))?;
    gradients[loss.index()] = Some(seed);
    for i in (0..nodes).rev() {
        let node = graph.nodes()[i].clone();
        let of_outputs: Vec<Option<ValueId>> =
            node.outputs.iter().map(|v| gradients[v.index()]).collect();
        let wants: Vec<bool> =
            node.inputs.iter().map(|v| v.is_some_and(|v| wanted[v.index()])).collect();
        if of_outputs.iter().all(Option::is_none) || !wants.contains(&true) {
            continue;
        }
        let at = |e| GraphError::at(&node, &e);
        let found = {
            let mut g = Gradient::new(graph, &node, &of_outputs, &wants);
            node.op.gradient(&mut g).map_err(at)?
        };
        for ((input, wants), found) in node.inputs.iter().zip(wants).zip(found) {
            let (Some(input), true, Some(found)) = (input, wants, found) else { continue };
            let sum = match gradients[input.index()] {
                None => found,
                Some(sum) => {
                    let name = format!("{}.gradient", graph.value(*input).name);
                    Builder::new(graph, name).add(sum, found).map_err(at)?
                }
            };
            gradients[input.index()] = Some(sum);
        }
    }
    Ok(gradients)
}

fn seed(graph: &mut Graph, loss: ValueId) -> kinglet_graph::OpResult<ValueId> {
    let mut b = Builder::new(graph, "loss.gradient");
    let one = b.scalar(1.0, loss)?;
    b.expanded_like(one, loss)
}

/// For each value, whether it is a float that one of the values `of` has a part in.
pub(crate) fn wanted(graph: &Graph, of: &[ValueId]) -> Vec<bool> {
    let mut wanted = vec![false; graph.values().len()];
    for v in of {
        wanted[v.index()] = true;
    }
    for node in graph.nodes() {
        if node.inputs.iter().flatten().any(|v| wanted[v.index()]) {
            for out in &node.outputs {
                wanted[out.index()] |= graph.value(*out).ty.dtype.is_float();
            }
        }
    }
    wanted
}

/// A rule that makes a gradient of other sizes than the value's would train something else.
fn check_sizes(graph: &Graph, v: ValueId, gradient: ValueId) -> Result<(), GraphError> {
    let (own, found) = (&graph.value(v).ty, &graph.value(gradient).ty);
    let sizes = own.shape.fixed().zip(found.shape.fixed());
    if own.dtype == found.dtype && sizes.is_none_or(|(a, b)| a == b) {
        return Ok(());
    }
    Err(GraphError::new(place(graph, v), format!("is {own}, its gradient {found}")))
}
