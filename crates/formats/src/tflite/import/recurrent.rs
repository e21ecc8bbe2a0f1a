//! Recurrent operators. Their memory is a variable tensor of the file: state of the graph.

use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::concat::{Concat, Split};
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::quantized::{
    Clamp, HybridLstm, QLstm, QLstmCell, QMatMul, QSvdf, Rescale, SequenceRnn, Svdf,
};
use kinglet_graph::ops::reshape::{Squeeze, Unsqueeze};
use kinglet_graph::ops::reverse::Reverse;
use kinglet_graph::ops::rnn::SequenceLstm;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{DType, Op, OpError, OpResult, Quant, Shape, ValueId, ValueType};

use super::node::{Fused, Node};
use super::quant;
use super::state::VariableId;

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("BIDIRECTIONAL_SEQUENCE_LSTM", bidirectional_lstm),
    ("BIDIRECTIONAL_SEQUENCE_RNN", bidirectional_rnn),
    ("LSTM", step_lstm),
    ("RNN", step_rnn),
    ("UNIDIRECTIONAL_SEQUENCE_LSTM", sequence_lstm),
    ("UNIDIRECTIONAL_SEQUENCE_RNN", sequence_rnn),
    ("SVDF", svdf),
];

/// The state that input `i`, a variable tensor, is.
fn state(node: &mut Node<'_, '_>, i: usize) -> OpResult<VariableId> {
    let tensor = node.operator.inputs.get(i).copied().flatten();
    let tensor = tensor.ok_or_else(|| OpError::new(format!("its state, input {i}, is missing")))?;
    if !node.builder.source.tensors[tensor].is_variable {
        return Err(OpError::new(format!("its state, input {i}, is not a variable tensor")));
    }
    node.builder.variable_tensor(tensor)
}

/// Adds `op`, whose outputs are the operator's own and the next contents of `states`.
fn emit_with_state(
    node: &mut Node<'_, '_>,
    op: impl Op,
    inputs: Vec<Option<ValueId>>,
    states: &[VariableId],
) -> OpResult {
    let y = node.output(0)?;
    emit_state_to(node, op, inputs, y, states)
}

/// Adds `op`, whose outputs are `y` and the next contents of `states`.
fn emit_state_to(
    node: &mut Node<'_, '_>,
    op: impl Op,
    inputs: Vec<Option<ValueId>>,
    y: ValueId,
    states: &[VariableId],
) -> OpResult {
    let mut outputs = vec![y];
    for state in states {
        let ty = node.builder.variable(*state).ty.clone();
        outputs.push(node.temp(ty));
    }
    let next = outputs[1..].to_vec();
    node.emit_to(op, inputs, outputs)?;
    for (state, value) in states.iter().zip(next) {
        node.builder.write(*state, value);
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
    let quant = info.and_then(quant);
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
    let net = LstmOptions {
        activation: node.fused(0)?,
        cell_clip: node.option(1, 0f32)?,
        projection_clip: node.option(2, 0f32)?,
        time_major: node.option(3, false)?,
        asymmetric: node.option(4, false)?,
    };
    let (inputs, y) = (node.inputs()?, node.output(0)?);
    lstm(node, &net, inputs, y)
}

/// A sequence of one step, whose x and output have no dimension for steps.
fn step_lstm(node: &mut Node<'_, '_>) -> OpResult {
    if node.option(3, 0i8)? != 0 {
        return basic_lstm(node);
    }
    let net = LstmOptions {
        activation: node.fused(0)?,
        cell_clip: node.option(1, 0f32)?,
        projection_clip: node.option(2, 0f32)?,
        time_major: true,
        asymmetric: node.option(4, false)?,
    };
    one_step(node, |node, inputs, y| lstm(node, &net, inputs, y))
}

/// One step of the basic kernel type: all gates by one product of x and the last output, side by
/// side. Inputs: x, the last output, weights, biases, cell. Outputs: the next output and cell, the
/// two side by side, the gates before their activation.
fn basic_lstm(node: &mut Node<'_, '_>) -> OpResult {
    const LAST: usize = 1;
    const CELL: usize = 4;
    if node.fused(0)? != Fused::Tanh || node.option(1, 0f32)? != 0.0 || node.option(2, 0f32)? != 0.0
    {
        return Err(OpError::new(
            "a basic LSTM other than with tanh and unclipped is not supported",
        ));
    }
    let [x, last, weights, bias, cell] = node.inputs()?[..] else {
        return Err(OpError::new(format!("a basic LSTM has 5 inputs, not {}", node.len())));
    };
    let quantized = node.is_quantized(X)?;
    if quantized {
        check_basic_quantization(node)?;
    } else if (X..=CELL).any(|i| node.dtype(i).is_ok_and(|dtype| dtype != DType::F32)) {
        return Err(OpError::new("a basic LSTM of floats has no inputs of other types"));
    }
    let ty = node.ty(X)?;
    let side_by_side = node.apply(Concat { axis: 1 }, vec![x, last], ty.dtype, ty.quant)?;
    let operands = vec![Some(side_by_side), weights, bias];
    node.alias(2, side_by_side)?;
    let (transpose_a, transpose_b) = (false, true);
    let (y, next, gates) = (node.output(0)?, node.output(1)?, node.output(3)?);
    if quantized {
        let (to, rescale) = (DType::I32, Rescale::None);
        let op = QMatMul { transpose_a, transpose_b, to, clamp: Clamp::of(to)?, rescale };
        let sums = node.apply(op, operands, to, node.ty(3)?.quant)?;
        node.emit_to(QLstmCell, vec![Some(sums), cell], vec![y, next, gates])?;
    } else {
        let op = MatMul { transpose_a, transpose_b, ..MatMul::new() };
        node.emit_to(op, operands, vec![gates])?;
        let parts: Vec<ValueId> =
            (0..4).map(|_| node.temp(ValueType::new(DType::F32, Shape::unknown()))).collect();
        node.emit_to(Split { axis: 1 }, vec![Some(gates)], parts.clone())?;
        let mut apply = |function, v| node.apply(function, vec![Some(v)], DType::F32, None);
        let input = apply(Unary::Sigmoid, parts[0])?;
        let content = apply(Unary::Tanh, parts[1])?;
        let forget = apply(Unary::Sigmoid, parts[2])?;
        let output = apply(Unary::Sigmoid, parts[3])?;
        let times = || Binary::new(BinaryFn::Mul);
        let taken = node.apply(times(), vec![Some(input), Some(content)], DType::F32, None)?;
        let kept = node.apply(times(), vec![Some(forget), cell], DType::F32, None)?;
        let sum = vec![Some(taken), Some(kept)];
        node.emit_to(Binary::new(BinaryFn::Add), sum, vec![next])?;
        let shown = node.apply(Unary::Tanh, vec![Some(next)], DType::F32, None)?;
        node.emit_to(times(), vec![Some(output), Some(shown)], vec![y])?;
    }
    for (i, value) in [(LAST, y), (CELL, next)] {
        if node.info(i)?.is_variable {
            let memory = state(node, i)?;
            node.builder.assign(memory, value);
        }
    }
    Ok(())
}

/// That an integer basic LSTM has the types and scales that its arithmetic stands for.
fn check_basic_quantization(node: &Node<'_, '_>) -> OpResult {
    let unit = |ty: &ValueType| {
        let (scale, zero) = ty.quant.as_deref().and_then(Quant::single).unwrap_or_default();
        ty.dtype == DType::U8 && zero == 128 && (scale * 128.0 - 1.0).abs() < 1e-3
    };
    let types = [2, 3, 4].map(|i| node.dtype(i).ok());
    if !(unit(&node.ty(0)?) && unit(&node.ty(1)?) && unit(&node.out_ty(0)?)) {
        return Err(OpError::new(
            "its x and output must be uint8 with a scale of 1/128 around 128",
        ));
    }
    if types != [DType::U8, DType::I32, DType::I16].map(Some) {
        return Err(OpError::new("its weights must be uint8, its biases int32, its cell int16"));
    }
    Ok(())
}

/// Gives `sequence` the operator's inputs with x as a sequence of one step, steps first, and makes
/// the one step of what it computes the output.
fn one_step(
    node: &mut Node<'_, '_>,
    sequence: impl FnOnce(&mut Node<'_, '_>, Vec<Option<ValueId>>, ValueId) -> OpResult,
) -> OpResult {
    let mut inputs = node.inputs()?;
    let axis = Some(node.constant_ints(&[0])?);
    let (x, y) = (node.ty(X)?, node.out_ty(0)?);
    inputs[X] = Some(node.apply(Unsqueeze, vec![inputs[X], axis], x.dtype, x.quant)?);
    let y = node.temp(y);
    sequence(node, inputs, y)?;
    node.emit(Squeeze, vec![Some(y), axis])
}

/// What the options of an LSTM say.
struct LstmOptions {
    activation: Fused,
    cell_clip: f32,
    projection_clip: f32,
    time_major: bool,
    asymmetric: bool,
}

/// An LSTM of inputs in the order of `UNIDIRECTIONAL_SEQUENCE_LSTM`, from the operator's own where
/// types and quantisation are looked up.
fn lstm(
    node: &mut Node<'_, '_>,
    net: &LstmOptions,
    inputs: Vec<Option<ValueId>>,
    y: ValueId,
) -> OpResult {
    if DIAGONAL.into_iter().any(|i| node.opt_info(i).is_some_and(|t| t.shape.len() == 1)) {
        return Err(OpError::new("diagonal recurrent weights are not supported"));
    }
    let states = [state(node, STATE)?, state(node, CELL)?];
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
        let LstmOptions { cell_clip, projection_clip, time_major, .. } = *net;
        let hidden = intermediate(node, 4)?;
        let op = QLstm { cell_clip, projection_clip, time_major, gate_scales, hidden };
        return emit_state_to(node, op, inputs, y, &states);
    }
    let weights = node.dtype(FIRST_WEIGHTS)?;
    float_lstm(node, net, weights, inputs, y, states)
}

/// An LSTM of floats, whose weights may be of another type.
fn float_lstm(
    node: &mut Node<'_, '_>,
    net: &LstmOptions,
    weights: DType,
    inputs: Vec<Option<ValueId>>,
    y: ValueId,
    states: [VariableId; 2],
) -> OpResult {
    let bound = |clip: f32| (clip > 0.0).then_some(clip);
    let lstm = SequenceLstm {
        activation: cell_activation(net.activation)?,
        cell_clip: bound(net.cell_clip),
        projection_clip: bound(net.projection_clip),
        time_major: net.time_major,
    };
    match weights {
        DType::F32 => emit_state_to(node, lstm, inputs, y, &states),
        _ => {
            let op = HybridLstm { lstm, asymmetric: net.asymmetric };
            emit_state_to(node, op, inputs, y, &states)
        }
    }
}

fn sequence_rnn(node: &mut Node<'_, '_>) -> OpResult {
    let time_major = node.option(0, false)?;
    let activation = cell_activation(node.fused(1)?)?;
    let asymmetric = node.option(2, false)?;
    let memory = state(node, 4)?;
    let inputs = node.inputs()?;
    emit_with_state(node, SequenceRnn { activation, time_major, asymmetric }, inputs, &[memory])
}

fn step_rnn(node: &mut Node<'_, '_>) -> OpResult {
    let activation = cell_activation(node.fused(0)?)?;
    let asymmetric = node.option(1, false)?;
    let memory = state(node, 4)?;
    one_step(node, |node, inputs, y| {
        let op = SequenceRnn { activation, time_major: true, asymmetric };
        emit_state_to(node, op, inputs, y, &[memory])
    })
}

/// Two nets over x, the second from its last step to its first: side by side in one output, or
/// each in its own. `way` makes one of them (0 or 1) of x and its output.
fn both_directions(
    node: &mut Node<'_, '_>,
    (time_major, merge, auxiliary): (bool, bool, usize),
    mut way: impl FnMut(&mut Node<'_, '_>, usize, ValueId, ValueId) -> OpResult,
) -> OpResult {
    if (auxiliary..node.len()).any(|i| node.opt_info(i).is_some()) {
        return Err(OpError::new("a second input is not supported"));
    }
    let x = node.input(X)?;
    let y_type = node.out_ty(0)?;
    let axis = Some(node.constant_ints(&[if time_major { 0 } else { 1 }])?);
    let turned = node.apply(Reverse, vec![Some(x), axis], DType::F32, None)?;
    let mut ys = [node.temp(y_type.clone()), node.temp(y_type)];
    way(node, 0, x, ys[0])?;
    way(node, 1, turned, ys[1])?;
    ys[1] = node.apply(Reverse, vec![Some(ys[1]), axis], DType::F32, None)?;
    if merge {
        return node.emit(Concat { axis: 2 }, ys.map(Some).to_vec());
    }
    for (i, y) in ys.into_iter().enumerate() {
        node.alias(i, y)?;
    }
    Ok(())
}

fn bidirectional_rnn(node: &mut Node<'_, '_>) -> OpResult {
    let (time_major, merge) = (node.option(0, false)?, node.option(2, false)?);
    let activation = cell_activation(node.fused(1)?)?;
    let asymmetric = node.option(3, false)?;
    both_directions(node, (time_major, merge, 9), |node, way, x, y| {
        let first = 1 + 4 * way;
        let memory = state(node, first + 3)?;
        let mut inputs = vec![Some(x)];
        for i in first..first + 4 {
            inputs.push(node.opt(i)?);
        }
        let op = SequenceRnn { activation, time_major, asymmetric };
        emit_state_to(node, op, inputs, y, &[memory])
    })
}

fn bidirectional_lstm(node: &mut Node<'_, '_>) -> OpResult {
    let merge = node.option(3, false)?;
    let net = LstmOptions {
        activation: node.fused(0)?,
        cell_clip: node.option(1, 0f32)?,
        projection_clip: node.option(2, 0f32)?,
        time_major: node.option(4, true)?,
        asymmetric: node.option(5, false)?,
    };
    if node.is_quantized(X)? {
        return Err(OpError::new("an integer LSTM of both directions is not supported"));
    }
    both_directions(node, (net.time_major, merge, 39), |node, way, x, y| {
        // Matrices, peepholes, biases and projection of each way, then the states of both.
        let own = (1 + 17 * way..18 + 17 * way).chain(35 + 2 * way..37 + 2 * way);
        let states = [state(node, 35 + 2 * way)?, state(node, 36 + 2 * way)?];
        let weights = node.dtype(1 + 17 * way + 1)?;
        let mut inputs = vec![Some(x)];
        for i in own {
            inputs.push(node.opt(i)?);
        }
        float_lstm(node, &net, weights, inputs, y, states)
    })
}
