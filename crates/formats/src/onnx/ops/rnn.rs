//! Recurrent nets.

use kinglet_graph::ops::rnn::{Cell, Direction, Recurrent};
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{OpError, OpResult};

use super::{Entry, op};
use crate::onnx::context::Cx;

pub const TABLE: &[Entry] = &[
    op("GRU", 7, |cx| {
        let linear_before_reset = cx.flag("linear_before_reset", false)?;
        recurrent(cx, Cell::Gru { linear_before_reset })
    }),
    op("LSTM", 7, |cx| {
        let input_forget = cx.flag("input_forget", false)?;
        recurrent(cx, Cell::Lstm { input_forget })
    }),
    op("RNN", 7, |cx| recurrent(cx, Cell::Simple)),
];

fn recurrent(cx: &mut Cx<'_, '_>, cell: Cell) -> OpResult {
    let direction = match cx.str("direction", "forward")? {
        "forward" => Direction::Forward,
        "reverse" => Direction::Reverse,
        "bidirectional" => Direction::Both,
        other => return Err(OpError::new(format!("direction '{other}' is not known"))),
    };
    let mut op = Recurrent::new(cell, direction);
    op.clip = cx.opt_float("clip")?;
    op.batch_first = cx.flag("layout", false)?;
    if let Some(names) = cx.opt_strs("activations")? {
        if names.len() != op.activations.len() {
            let (given, due) = (names.len(), op.activations.len());
            return Err(OpError::new(format!("{given} activations where {due} are due")));
        }
        op.activations = activations(cx, &names)?;
    } else {
        cx.ignore(&["activation_alpha", "activation_beta"]);
    }
    let weights = cx.input(2)?;
    let own = cx.ty(weights).shape.dims().and_then(|d| d.last()).and_then(|d| d.fixed());
    let hidden = cx.opt_int("hidden_size")?;
    if hidden.is_some_and(|h| own.is_some_and(|own| usize::try_from(h) != Ok(own))) {
        return Err(OpError::new(format!("hidden_size is {hidden:?}, the weights have {own:?}")));
    }
    cx.emit(op)
}

/// Functions by name; those with parameters take the next ones of the lists, or their defaults.
fn activations(cx: &Cx<'_, '_>, names: &[&str]) -> OpResult<Vec<Unary>> {
    let mut alphas = cx.opt_floats("activation_alpha")?.unwrap_or_default().iter().copied();
    let mut betas = cx.opt_floats("activation_beta")?.unwrap_or_default().iter().copied();
    let mut alpha = |default: f32| alphas.next().unwrap_or(default);
    let mut beta = |default: f32| betas.next().unwrap_or(default);
    let function = |name: &&str| {
        Ok(match name.to_ascii_lowercase().as_str() {
            "relu" => Unary::Relu,
            "tanh" => Unary::Tanh,
            "sigmoid" => Unary::Sigmoid,
            "softsign" => Unary::Softsign,
            "softplus" => Unary::Softplus,
            "affine" => Unary::Affine { alpha: alpha(1.0), beta: beta(0.0) },
            "leakyrelu" => Unary::LeakyRelu { alpha: alpha(0.01) },
            "scaledtanh" => Unary::ScaledTanh { alpha: alpha(1.0), beta: beta(1.0) },
            "hardsigmoid" => Unary::HardSigmoid { alpha: alpha(0.2), beta: beta(0.5) },
            "elu" => Unary::Elu { alpha: alpha(1.0) },
            _ => return Err(OpError::new(format!("activation '{name}' is not supported"))),
        })
    };
    names.iter().map(function).collect()
}
