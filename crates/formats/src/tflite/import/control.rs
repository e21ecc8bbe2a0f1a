//! Branches, loops, resource variables, and what runs once.

use kinglet_graph::ops::control::{If, While};
use kinglet_graph::{
    Dims, Fold, Graph, Op, OpError, OpResult, Shape, Tensor, ValueId, ValueType, infer, interpret,
    set_input_shapes,
};

use super::Builder;
use super::node::Node;
use super::state::{Key, Variable, VariableId};

/// What is computed when a model is loaded takes at most this many bytes, and as many
/// multiply-accumulates as [`ONCE_MACS`].
const ONCE_BYTES: usize = 16 << 20;
const ONCE_MACS: u64 = 1 << 30;

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("IF", branch),
    ("WHILE", repeat),
    ("CALL_ONCE", call_once),
    ("VAR_HANDLE", var_handle),
    ("READ_VARIABLE", read_variable),
    ("ASSIGN_VARIABLE", assign_variable),
];

/// The number of the subgraph that a field of the options names.
fn subgraph(node: &Node<'_, '_>, field: usize) -> OpResult<usize> {
    usize::try_from(node.option(field, 0i32)?)
        .map_err(|_| OpError::new("its subgraph does not exist"))
}

/// The subgraph that a field of the options names, built. Its inputs are the operator's from
/// `first` on.
fn body<'m>(node: &Node<'_, 'm>, field: usize, first: usize) -> OpResult<Builder<'m>> {
    let index = subgraph(node, field)?;
    let within = |e| OpError::new(format!("in subgraph {index}: {e}"));
    let outer = &*node.builder;
    let mut body = Builder::new(outer.file, index, outer.depth + 1).map_err(within)?;
    for (given, own) in node.operator.inputs.iter().skip(first).zip(&body.source.inputs) {
        if let Some(name) = given.and_then(|tensor| outer.handles.get(&tensor)) {
            body.handles.insert(*own, name.clone());
        }
    }
    body.build().map_err(within)?;
    Ok(body)
}

/// A body's graph. What sizes its inputs have, the caller tells.
fn finished(body: Builder<'_>) -> Graph {
    let mut graph = body.graph;
    for id in graph.inputs.clone() {
        graph.value_mut(id).ty.shape = Shape::unknown();
    }
    graph
}

/// The variables that any of `bodies` uses and `keep` holds of, each once.
fn variables(bodies: &[Builder<'_>; 2], keep: fn(&super::Held) -> bool) -> Vec<Variable> {
    let mut all: Vec<Variable> = Vec::new();
    for held in bodies.iter().flat_map(|b| &b.held).filter(|h| keep(h)) {
        if all.iter().all(|v| v.key != held.variable.key) {
            all.push(held.variable.clone());
        }
    }
    all
}

/// What `variables` hold in the subgraph around. A body's variable tensors start anew whenever the
/// operator runs, and go on from turn to turn only.
fn contents(node: &mut Node<'_, '_>, variables: &[Variable]) -> OpResult<Vec<Option<ValueId>>> {
    let name = node.name.clone();
    let content = |v: &Variable| match v.key {
        Key::Resource(_) => {
            let id = node.builder.hold(v.clone())?;
            Ok(Some(node.builder.read(id, &name)))
        }
        Key::Tensor { .. } => {
            let start = start(v)?;
            Ok(Some(node.graph().add_constant(v.name.clone(), start)))
        }
    };
    variables.iter().map(content).collect()
}

/// What a variable holds before anything ran.
fn start(variable: &Variable) -> OpResult<Tensor> {
    let Variable { ty, initial, .. } = variable;
    let start = match initial {
        Some(tensor) => tensor.clone(),
        None if ty.bytes().is_none_or(|size| size > ONCE_BYTES) => {
            let name = &variable.name;
            return Err(OpError::new(format!("'{name}', {ty}, is too large to start at zero")));
        }
        None => Tensor::zeros(ty.dtype, &ty.shape.fixed().unwrap_or_default())?,
    };
    Ok(start.with_quant(ty.quant.clone()))
}

/// Adds `op`, whose outputs are the operator's own and then what the bodies left in `variables`.
fn emit(
    node: &mut Node<'_, '_>,
    op: impl Op,
    inputs: Vec<Option<ValueId>>,
    variables: &[Variable],
) -> OpResult {
    let mut outputs =
        (0..node.output_count()).map(|i| node.output(i)).collect::<OpResult<Vec<_>>>()?;
    let own = outputs.len();
    outputs.extend(variables.iter().map(|v| node.temp(v.ty.clone())));
    let left = outputs[own..].to_vec();
    node.emit_to(op, inputs, outputs)?;
    for (variable, value) in variables.iter().zip(left) {
        if let Key::Resource(_) = variable.key {
            let id = node.builder.hold(variable.clone())?;
            node.builder.write(id, value);
        }
    }
    Ok(())
}

/// The variable that output `i` of a body is a handle of.
fn handle_out(body: &Builder<'_>, i: usize) -> Option<String> {
    body.handles.get(body.source.outputs.get(i)?).cloned()
}

/// Makes output `i` of the operator a handle of the variable `name`.
fn pass_handle(node: &mut Node<'_, '_>, i: usize, name: Option<String>) {
    if let (Some(tensor), Some(name)) = (node.operator.outputs.get(i), name) {
        node.builder.handles.insert(*tensor, name);
    }
}

fn branch(node: &mut Node<'_, '_>) -> OpResult {
    let mut bodies = [body(node, 0, 1)?, body(node, 1, 1)?];
    let used = variables(&bodies, |_| true);
    let changed = variables(&bodies, super::Held::is_changed);
    for body in &mut bodies {
        body.carry(&used)?;
        body.give_back(&changed)?;
    }
    for i in 0..node.output_count() {
        let [then, otherwise] = [0, 1].map(|b| handle_out(&bodies[b], i));
        if then != otherwise {
            return Err(OpError::new(format!("output {i} may be one variable or another")));
        }
        pass_handle(node, i, then);
    }
    // Both branches take the same values; the op takes each branch's own.
    let mut each = node.inputs()?.split_off(1.min(node.len()));
    each.extend(contents(node, &used)?);
    let mut inputs = vec![Some(node.input(0)?)];
    inputs.extend(each.iter().chain(&each));
    let [then, otherwise] = bodies.map(finished);
    emit(node, If { then, otherwise }, inputs, &changed)
}

fn repeat(node: &mut Node<'_, '_>) -> OpResult {
    let mut bodies = [body(node, 0, 0)?, body(node, 1, 0)?];
    if let Some(held) = bodies[0].held.iter().find(|h| h.is_changed()) {
        let name = &held.variable.name;
        return Err(OpError::new(format!(
            "a condition that changes state ('{name}') is not supported"
        )));
    }
    let used = variables(&bodies, |_| true);
    for body in &mut bodies {
        body.carry(&used)?;
    }
    bodies[1].give_back(&used)?;
    for i in 0..node.output_count() {
        let given = node.operator.inputs.get(i).copied().flatten();
        let given = given.and_then(|tensor| node.builder.handles.get(&tensor)).cloned();
        if handle_out(&bodies[1], i) != given {
            return Err(OpError::new(format!("output {i} is another variable each turn")));
        }
        pass_handle(node, i, given);
    }
    let mut inputs = node.inputs()?;
    inputs.extend(contents(node, &used)?);
    let [condition, body] = bodies.map(finished);
    emit(node, While { condition, body }, inputs, &used)
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

/// The variable behind input 0, of type `ty` and sizes `dims` where it is new.
fn variable(node: &mut Node<'_, '_>, ty: ValueType, dims: &[usize]) -> OpResult<VariableId> {
    let handle = node.operator.inputs.first().copied().flatten();
    let handle = handle.ok_or_else(|| OpError::new("its resource is missing"))?;
    let name = node.builder.handles.get(&handle).cloned().ok_or_else(|| {
        OpError::new("its resource is not a variable; hash tables are not supported")
    })?;
    let ty = ValueType { shape: Shape::from(dims), ..ty };
    let label = format!("variable {name}");
    node.builder.hold(Variable { key: Key::Resource(name), name: label, ty, initial: None })
}

fn read_variable(node: &mut Node<'_, '_>) -> OpResult {
    let ty = node.out_ty(0)?;
    let dims = node.out_info(0)?.shape.clone();
    let variable = variable(node, ty, &dims)?;
    let name = node.name.clone();
    let value = node.builder.read(variable, &name);
    node.alias(0, value)
}

fn assign_variable(node: &mut Node<'_, '_>) -> OpResult {
    let ty = node.ty(1)?;
    let dims = node.info(1)?.shape.clone();
    let variable = variable(node, ty, &dims)?;
    let value = node.input(1)?;
    node.builder.assign(variable, value);
    Ok(())
}

/// Runs a subgraph now; what it leaves in variables is what they start with.
fn call_once(node: &mut Node<'_, '_>) -> OpResult {
    if node.builder.depth > 0 {
        return Err(OpError::new("inside control flow it is not supported"));
    }
    let index = subgraph(node, 0)?;
    if !node.builder.called.insert(index) {
        return Ok(());
    }
    let mut once = body(node, 0, 0)?;
    let held = |keep: fn(&super::Held) -> bool| -> Vec<Variable> {
        once.held.iter().filter(|h| keep(h)).map(|h| h.variable.clone()).collect()
    };
    let (used, changed) = (held(|_| true), held(super::Held::is_changed));
    for variable in &used {
        let in_use = node.builder.held.iter().any(|h| h.variable.key == variable.key);
        if in_use {
            let m = format!("it initialises '{}', which is in use before it", variable.name);
            return Err(OpError::new(m));
        }
    }
    let before =
        |v: &Variable| node.builder.initial.get(&v.key).cloned().map_or_else(|| start(v), Ok);
    let inputs = used.iter().map(before).collect::<OpResult<Vec<_>>>()?;
    once.carry(&used)?;
    once.graph.outputs.clear();
    once.give_back(&changed)?;
    let in_body = |e| OpError::new(format!("in subgraph {index}: {e}"));
    let mut graph = finished(once);
    let dims: Vec<Dims> = inputs.iter().map(|t| t.dims().into()).collect();
    set_input_shapes(&mut graph, &dims).map_err(in_body)?;
    infer(&mut graph, Fold::Shapes).map_err(in_body)?;
    check_runs_at_load(&graph)?;
    let left = interpret(&graph, &inputs).map_err(in_body)?;
    for (variable, tensor) in changed.into_iter().zip(left) {
        node.builder.initial.insert(variable.key, tensor);
    }
    Ok(())
}

/// That to run `graph` when a model is loaded takes bounded time and memory.
fn check_runs_at_load(graph: &Graph) -> OpResult {
    let mut bytes = 0usize;
    for node in graph.nodes() {
        if !node.op.subgraphs().is_empty() {
            return Err(OpError::new("control flow in what runs once is not supported"));
        }
        for v in &node.outputs {
            let size = graph.value(*v).ty.bytes();
            let size = size.ok_or_else(|| {
                OpError::new("what runs once makes values whose sizes depend on data")
            })?;
            bytes = bytes.saturating_add(size);
        }
    }
    let macs = graph.cost().total.macs;
    if bytes > ONCE_BYTES || macs > ONCE_MACS {
        return Err(OpError::new(format!(
            "what runs once makes {bytes} bytes by {macs} multiply-accumulates; \
             {ONCE_BYTES} and {ONCE_MACS} are the most that is computed at load"
        )));
    }
    Ok(())
}
