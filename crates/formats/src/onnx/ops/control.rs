//! Control flow. What a body captures becomes an input of its own.

use kinglet_graph::ops::control::{If, Loop, Scan};
use kinglet_graph::{Bool, DType, Dim, OpError, OpResult, Shape, ValueId, ValueType};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] =
    &[op("If", 1, if_), op("Loop", 1, loop_), op("Scan", 8, scan_batched), op("Scan", 9, scan)];

fn if_(cx: &mut Cx<'_, '_>) -> OpResult {
    let condition = cx.input(0)?;
    let (then, otherwise) = (cx.graph("then_branch")?, cx.graph("else_branch")?);
    // A branch that is settled takes the node's place.
    if let Some(settled) = cx.data(condition) {
        let holds = settled.view().scalar::<Bool>()?.get();
        let results = cx.inline_all(if holds { then } else { otherwise }, &[])?;
        cx.finish_all(results);
        return Ok(());
    }
    let (then, otherwise) = (cx.body(then, &[])?, cx.body(otherwise, &[])?);
    let captures = then.captures.iter().chain(&otherwise.captures);
    let inputs = std::iter::once(&condition).chain(captures).copied().map(Some).collect();
    let outputs = then.graph.outputs.len();
    emit(cx, If { then: then.graph, otherwise: otherwise.graph }, inputs, outputs)
}

/// Every output of the op, whether the node names it or not.
fn emit(
    cx: &mut Cx<'_, '_>,
    op: impl kinglet_graph::Op,
    inputs: Vec<Option<ValueId>>,
    outputs: usize,
) -> OpResult {
    let results = cx.apply_many(op, inputs, outputs)?;
    cx.finish_all(results);
    Ok(())
}

fn loop_(cx: &mut Cx<'_, '_>) -> OpResult {
    let graph = cx.graph("body")?;
    let carried: Vec<ValueId> =
        (2..cx.input_count()).map(|i| cx.input(i)).collect::<OpResult<_>>()?;
    let scalar = |dtype| ValueType::new(dtype, Shape::new(Vec::new()));
    let mut types = vec![scalar(DType::I64), scalar(DType::Bool)];
    // Their sizes may change from turn to turn.
    types.extend(carried.iter().map(|id| cx.unshaped(*id)));
    let body = cx.body(graph, &types)?;
    let mut inputs = cx.first_inputs(2);
    inputs.extend(carried.iter().chain(&body.captures).copied().map(Some));
    let outputs = body.graph.outputs.len().saturating_sub(1);
    emit(cx, Loop { carried: carried.len(), body: body.graph }, inputs, outputs)
}

/// The type of one part of `id`, from which `dropped` leading dimensions and `axis` are taken.
fn part(cx: &mut Cx<'_, '_>, id: ValueId, axis: i64, dropped: usize) -> OpResult<ValueType> {
    let ty = cx.ty(id);
    let Some(dims) = ty.shape.dims() else { return Ok(ty) };
    let rank = dims.len() as i64;
    let axis = if axis < 0 { axis + rank } else { axis };
    if axis < dropped as i64 || axis >= rank {
        return Err(OpError::new(format!("axis {axis} of a scanned input of rank {rank}")));
    }
    let kept = dims.iter().enumerate().filter(|(i, _)| *i >= dropped && *i as i64 != axis);
    let dims: Vec<Dim> = kept.map(|(_, d)| d.clone()).collect();
    Ok(ty.with_shape(dims))
}

fn directions(cx: &Cx<'_, '_>, name: &str) -> OpResult<Vec<bool>> {
    Ok(cx.opt_ints(name)?.unwrap_or_default().iter().map(|d| *d != 0).collect())
}

fn scan(cx: &mut Cx<'_, '_>) -> OpResult {
    let graph = cx.graph("body")?;
    let (states, scanned) = counts(cx, 0)?;
    let axes = |name| -> OpResult<Vec<i64>> { Ok(cx.opt_ints(name)?.unwrap_or_default().to_vec()) };
    let (input_axes, output_axes) = (axes("scan_input_axes")?, axes("scan_output_axes")?);
    let input_reversed = directions(cx, "scan_input_directions")?;
    let output_reversed = directions(cx, "scan_output_directions")?;
    let mut types = Vec::new();
    for i in 0..states + scanned {
        let id = cx.input(i)?;
        types.push(match i.checked_sub(states) {
            None => cx.unshaped(id),
            Some(k) => part(cx, id, input_axes.get(k).copied().unwrap_or(0), 0)?,
        });
    }
    let body = cx.body(graph, &types)?;
    let mut inputs = cx.inputs();
    inputs.extend(body.captures.iter().copied().map(Some));
    let outputs = body.graph.outputs.len();
    let op = Scan {
        body: body.graph,
        states,
        scanned,
        input_axes,
        input_reversed,
        output_axes,
        output_reversed,
        batched: false,
    };
    emit(cx, op, inputs, outputs)
}

/// In version 8 every input had a batch before its sequence, and input 0 was the sequences' lengths.
fn scan_batched(cx: &mut Cx<'_, '_>) -> OpResult {
    let graph = cx.graph("body")?;
    let (states, scanned) = counts(cx, 1)?;
    let input_reversed = directions(cx, "directions")?;
    let mut types = Vec::new();
    for i in 0..states + scanned {
        let id = cx.input(1 + i)?;
        types.push(if i < states { part(cx, id, 0, 0)? } else { part(cx, id, 1, 1)? });
    }
    let body = cx.body(graph, &types)?;
    let mut inputs = cx.inputs();
    inputs.extend(body.captures.iter().copied().map(Some));
    let outputs = body.graph.outputs.len();
    let op = Scan {
        body: body.graph,
        states,
        scanned,
        input_axes: Vec::new(),
        input_reversed,
        output_axes: Vec::new(),
        output_reversed: Vec::new(),
        batched: true,
    };
    emit(cx, op, inputs, outputs)
}

/// How many states and scanned inputs there are, after `before` other inputs.
fn counts(cx: &Cx<'_, '_>, before: usize) -> OpResult<(usize, usize)> {
    let scanned = cx.need("num_scan_inputs", cx.opt_int("num_scan_inputs")?)?;
    let all = cx.input_count().saturating_sub(before);
    let scanned = usize::try_from(scanned).ok().filter(|n| *n <= all);
    let scanned =
        scanned.ok_or_else(|| OpError::new(format!("num_scan_inputs of {all} inputs")))?;
    Ok((all - scanned, scanned))
}
