//! Recurrent operators. Their memory is a variable tensor of the file: state of the graph.

use kinglet_graph::ops::quantized::{HybridLstm, QLstm, QSvdf, SequenceRnn, Svdf};
use kinglet_graph::ops::rnn::SequenceLstm;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, OpError, OpResult, Quant, StateId, ValueId};

use super::node::{Fused, Node};
use super::quant;

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("UNIDIRECTIONAL_SEQUENCE_LSTM", sequence_lstm),
    ("UNIDIRECTIONAL_SEQUENCE_RNN", sequence_rnn),
    ("SVDF", svdf),
];

/// The state that input `i`, a variable tensor, is.
fn state(node: &mut Node<'_, '_>, i: usize) -> OpResult<StateId> {
    let tensor = node.operator.inputs.get(i).copied().flatten();
    let tensor = tensor.ok_or_else(|| OpError::new(format!("its state, input {i}, is missing")))?;
    if !node.builder.source.tensors[tensor].is_variable {
        return Err(OpError::new(format!("its state, input {i}, is not a variable tensor")));
    }
    node.builder.variable(tensor)
}

/// Adds `op`, whose outputs after the first are the next contents of `states`.
fn emit_with_state(
    node: &mut Node<'_, '_>,
    op: impl kinglet_graph::Op,
    inputs: Vec<Option<ValueId>>,
    states: &[StateId],
) -> OpResult {
    let mut outputs = vec![node.output(0)?];
    for state in states {
        let ty = node.graph().state(*state).ty.clone();
        outputs.push(node.temp(ty));
    }
    let next = outputs[1..].to_vec();
    node.emit_to(op, inputs, outputs)?;
    for (state, value) in states.iter().zip(next) {
        let name = node.graph().state(*state).name.clone();
        node.builder.write_state(&name, *state, value);
    }
    Ok(())
}

fn svdf(node: &mut Node<'_, '_>) -> OpResult {
    let rank = node.option(0, 0i32)?;
    let rank = usize::try_from(rank).map_err(|_| OpError::new(format!("a rank of {rank}")))?;
    let fused = node.fused(1)?;
    let asymmetric = node.option(2, false)?;
    let memory = state(node, 4)?;
    let inputs = node.inputs()?;
    if node.is_quantized(0)? {
        // The integer kernel knows no activation but the type's own limits.
        let clamp = Fused::None.clamp(&node.out_ty(0)?)?;
        if !matches!(fused, Fused::None | Fused::Relu) {
            return Err(OpError::new("this activation of an integer SVDF is not supported"));
        }
        return emit_with_state(node, QSvdf { rank, clamp }, inputs, &[memory]);
    }
    let op = Svdf { rank, activation: fused.float(), asymmetric };
    emit_with_state(node, op, inputs, &[memory])
}

/// The activation of an LSTM's cell.
fn cell_activation(fused: Fused) -> OpResult<Unary> {
    match fused {
        Fused::Tanh => Ok(Unary::Tanh),
        Fused::Relu => Ok(Unary::Relu),
        Fused::Relu6 => Ok(Unary::Relu6),
        other => {
            Err(OpError::new(format!("an LSTM with the activation {other:?} is not supported")))
        }
    }
}

/// The quantisation of an inner result.
fn intermediate(node: &Node<'_, '_>, i: usize) -> OpResult<(f32, i32)> {
    let tensor = node.operator.intermediates.get(i);
    let info = tensor.map(|t| &node.builder.source.tensors[*t]);
    let quant = info.map(quant).transpose()?.flatten();
    quant
        .as_deref()
        .and_then(Quant::single)
        .ok_or_else(|| OpError::new(format!("the quantisation of inner result {i} is missing")))
}

const X: usize = 0;
const FIRST_WEIGHTS: usize = 2;
const DIAGONAL: std::ops::Range<usize> = 5..9;
const STATE: usize = 18;
const CELL: usize = 19;
const NORMALISATION: std::ops::Range<usize> = 20..24;

fn sequence_lstm(node: &mut Node<'_, '_>) -> OpResult {
    let fused = node.fused(0)?;
    let (cell_clip, projection_clip) = (node.option(1, 0f32)?, node.option(2, 0f32)?);
    let time_major = node.option(3, false)?;
    if DIAGONAL.into_iter().any(|i| node.opt_info(i).is_some_and(|t| t.shape.len() == 1)) {
        return Err(OpError::new("diagonal recurrent weights are not supported"));
    }
    let states = [state(node, STATE)?, state(node, CELL)?];
    let inputs = node.inputs()?;
    if node.is_quantized(X)? {
        let normal = NORMALISATION.into_iter().any(|i| node.opt_info(i).is_some());
        let gate_scales = match normal {
            true => {
                let first = usize::from(node.opt_info(NORMALISATION.start).is_none());
                let mut scales = [1.0; 4];
                for (i, scale) in scales.iter_mut().enumerate().skip(first) {
                    *scale = intermediate(node, i)?.0;
                }
                Some(scales)
            }
            false => None,
        };
        let hidden = intermediate(node, 4)?;
        let op = QLstm { cell_clip, projection_clip, time_major, gate_scales, hidden };
        return emit_with_state(node, op, inputs, &states);
    }
    let bound = |clip: f32| (clip > 0.0).then_some(clip);
    let lstm = SequenceLstm {
        activation: cell_activation(fused)?,
        cell_clip: bound(cell_clip),
        projection_clip: bound(projection_clip),
        time_major,
    };
    if node.dtype(FIRST_WEIGHTS)? != DType::F32 {
        let asymmetric = node.option(4, false)?;
        return emit_with_state(node, HybridLstm { lstm, asymmetric }, inputs, &states);
    }
    emit_with_state(node, lstm, inputs, &states)
}

fn sequence_rnn(node: &mut Node<'_, '_>) -> OpResult {
    let time_major = node.option(0, false)?;
    let activation = cell_activation(node.fused(1)?)?;
    let asymmetric = node.option(2, false)?;
    let memory = state(node, 4)?;
    let inputs = node.inputs()?;
    emit_with_state(node, SequenceRnn { activation, time_major, asymmetric }, inputs, &[memory])
}
