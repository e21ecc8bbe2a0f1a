//! Branches, loops, and resource variables.

use kinglet_graph::ops::control::{If, While};
use kinglet_graph::ops::reshape::Identity;
use kinglet_graph::ops::state::StateRead;
use kinglet_graph::{Graph, OpError, OpResult, Shape, State, StateId, Tensor, ValueType};

use super::super::builtin;
use super::Builder;
use super::node::Node;

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("IF", branch),
    ("WHILE", repeat),
    ("CALL_ONCE", call_once),
    ("VAR_HANDLE", var_handle),
    ("READ_VARIABLE", read_variable),
    ("ASSIGN_VARIABLE", assign_variable),
];

/// The subgraph that a field of the options names. What sizes its inputs have, the caller tells.
fn body(node: &Node<'_, '_>, field: usize) -> OpResult<Graph> {
    let index = usize::try_from(node.option(field, 0i32)?)
        .map_err(|_| OpError::new("its subgraph does not exist"))?;
    let builder = Builder::new(node.builder.file, index, node.builder.depth + 1);
    let mut graph = builder
        .and_then(Builder::build)
        .map_err(|e| OpError::new(format!("in subgraph {index}: {e}")))?;
    for id in graph.inputs.clone() {
        graph.value_mut(id).ty.shape = Shape::unknown();
    }
    Ok(graph)
}

fn branch(node: &mut Node<'_, '_>) -> OpResult {
    let (then, otherwise) = (body(node, 0)?, body(node, 1)?);
    let inputs = node.inputs()?;
    // Both branches take the same values; the op takes each branch's own.
    let mut all = inputs.clone();
    all.extend(inputs.iter().skip(1));
    node.emit_all(If { then, otherwise }, all)
}

fn repeat(node: &mut Node<'_, '_>) -> OpResult {
    let (condition, body) = (body(node, 0)?, body(node, 1)?);
    let inputs = node.inputs()?;
    node.emit_all(While { condition, body }, inputs)
}

/// The name of the variable that a `VAR_HANDLE` of `builder`'s subgraph gives tensor `handle`.
fn shared_name(node: &Node<'_, '_>, handle: usize) -> OpResult<String> {
    node.builder.handles.get(&handle).cloned().ok_or_else(|| {
        OpError::new("its resource is not a variable; hash tables are not supported")
    })
}

fn var_handle(node: &mut Node<'_, '_>) -> OpResult {
    let name = format!("{}/{}", node.text(0)?, node.text(1)?);
    let tensor = node.operator.outputs.first().copied();
    let tensor = tensor.ok_or_else(|| OpError::new("it has no output"))?;
    node.builder.handles.insert(tensor, name);
    // The handle stands for the variable at load; nothing reads its value.
    let name = node.name.clone();
    let handle = node.graph().add_constant(name, Tensor::from_slice(&[1], &[0i32])?);
    node.alias(0, handle)
}

/// The state of the variable behind input 0, of type `ty` and sizes `dims` where it is new.
fn variable(node: &mut Node<'_, '_>, ty: ValueType, dims: &[usize]) -> OpResult<StateId> {
    let handle = node.operator.inputs.first().copied().flatten();
    let handle = handle.ok_or_else(|| OpError::new("its resource is missing"))?;
    let name = shared_name(node, handle)?;
    if node.builder.depth > 0 {
        return Err(OpError::new("a variable inside control flow is not supported"));
    }
    if let Some(state) = node.builder.resources.get(&name) {
        let known = &node.builder.graph.state(*state).ty;
        return match known.dtype == ty.dtype {
            true => Ok(*state),
            false => Err(OpError::new(format!("the variable '{name}' is {known}, not {ty}"))),
        };
    }
    let initial = node.builder.initial.get(&name).cloned();
    let dims = initial.as_ref().map_or(dims, |t| t.dims());
    let ty = ValueType { shape: Shape::from(dims), ..ty };
    let state = State { name: format!("variable {name}"), ty, initial };
    let state = node.graph().add_state(state);
    node.builder.resources.insert(name, state);
    Ok(state)
}

fn read_variable(node: &mut Node<'_, '_>) -> OpResult {
    let ty = node.out_ty(0)?;
    let dims = node.out_info(0)?.shape.clone();
    let state = variable(node, ty, &dims)?;
    let ty = node.graph().state(state).ty.clone();
    node.emit(StateRead { state, ty }, vec![])
}

fn assign_variable(node: &mut Node<'_, '_>) -> OpResult {
    let ty = node.ty(1)?;
    let dims = node.info(1)?.shape.clone();
    let state = variable(node, ty.clone(), &dims)?;
    let value = node.input(1)?;
    // The state takes a value of its own: the assigned one may be a constant or an input.
    let value = node.apply(Identity, vec![Some(value)], ty.dtype, ty.quant)?;
    let name = node.name.clone();
    node.builder.write_state(&name, state, value);
    Ok(())
}

/// Takes the first contents of variables from the subgraph that assigns constants to them.
fn call_once(node: &mut Node<'_, '_>) -> OpResult {
    let index = usize::try_from(node.option(0, 0i32)?).unwrap_or(usize::MAX);
    let file = node.builder.file;
    let source = file.model.subgraphs.get(index);
    let source = source.ok_or_else(|| OpError::new("its subgraph does not exist"))?;
    let mut names = std::collections::HashMap::new();
    for operator in &source.operators {
        let code = &file.model.codes[operator.code];
        let unsupported = || {
            OpError::new(format!(
                "{} in what runs once is not supported: only constants",
                code.name()
            ))
        };
        match builtin::name(code.code) {
            Some("VAR_HANDLE") => {
                let text = |field| operator.options.map_or(Ok(String::new()), |t| t.string(field));
                let name = format!(
                    "{}/{}",
                    text(0).map_err(super::node::flat)?,
                    text(1).map_err(super::node::flat)?
                );
                names.insert(operator.outputs.first().copied(), name);
            }
            Some("ASSIGN_VARIABLE") => {
                let [Some(handle), Some(value)] = operator.inputs[..] else {
                    return Err(unsupported());
                };
                let name = names.get(&Some(handle)).ok_or_else(unsupported)?;
                let inner = Builder::new(file, index, node.builder.depth + 1)
                    .map_err(|e| OpError::new(e.to_string()))?;
                let data = inner.constant(value)?.ok_or_else(unsupported)?;
                node.builder.initial.insert(name.clone(), data);
            }
            _ => return Err(unsupported()),
        }
    }
    Ok(())
}
