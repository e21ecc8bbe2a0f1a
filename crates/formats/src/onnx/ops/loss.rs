//! Losses, composed.

use kinglet_graph::{OpError, OpResult, ValueId};

use super::elementwise::scalar_like;
use super::{Entry, op};
use crate::onnx::context::Cx;
use crate::onnx::proto::AttributeValue;

pub const TABLE: &[Entry] = &[
    op("NegativeLogLikelihoodLoss", 12, |cx| {
        let (x, target) = (cx.input(0)?, cx.input(1)?);
        let loss = negative_log_likelihood(cx, x, target, cx.opt(2))?;
        cx.finish(loss);
        Ok(())
    }),
    op("SoftmaxCrossEntropyLoss", 12, |cx| {
        let (x, target) = (cx.input(0)?, cx.input(1)?);
        let log = cx.call("LogSoftmax", &[x], &[("axis", AttributeValue::Int(1))])?;
        let loss = negative_log_likelihood(cx, log, target, cx.opt(2))?;
        cx.finish_all(vec![loss, log]);
        Ok(())
    }),
];

/// Minus `log` at the class `target`, weighted by class and reduced.
fn negative_log_likelihood(
    cx: &mut Cx<'_, '_>,
    log: ValueId,
    target: ValueId,
    weight: Option<ValueId>,
) -> OpResult<ValueId> {
    let reduction = cx.str("reduction", "mean")?;
    let ignored = cx.opt_int("ignore_index")?;
    let kept = match ignored {
        None => None,
        Some(index) => {
            let index = scalar_like(cx, target, index as f64)?;
            let ignored = cx.call("Equal", &[target, index], &[])?;
            Some(cx.call("Not", &[ignored], &[])?)
        }
    };
    // An ignored target may be no class at all.
    let class = match kept {
        None => target,
        Some(kept) => {
            let zero = scalar_like(cx, target, 0.0)?;
            cx.call("Where", &[kept, target, zero], &[])?
        }
    };
    let axis = [("axis", AttributeValue::Int(1))];
    let one = cx.ints(&[1])?;
    let index = cx.call("Unsqueeze", &[class, one], &[])?;
    let picked = cx.call("GatherElements", &[log, index], &axis)?;
    let picked = cx.call("Squeeze", &[picked, one], &[])?;
    let mut loss = cx.call("Neg", &[picked], &[])?;
    let mut weights = match weight {
        Some(weight) => Some(cx.call("Gather", &[weight, class], &[])?),
        None => None,
    };
    if let Some(kept) = kept {
        let zero = scalar_like(cx, log, 0.0)?;
        let unit = scalar_like(cx, log, 1.0)?;
        weights = Some(cx.call("Where", &[kept, weights.unwrap_or(unit), zero], &[])?);
    }
    if let Some(weights) = weights {
        loss = cx.call("Mul", &[loss, weights], &[])?;
    }
    let all = |cx: &mut Cx<'_, '_>, op_type: &str, x: ValueId| {
        cx.call(op_type, &[x], &[("keepdims", AttributeValue::Int(0))])
    };
    match (reduction, weights) {
        ("none", _) => Ok(loss),
        ("sum", _) => all(cx, "ReduceSum", loss),
        ("mean", None) => all(cx, "ReduceMean", loss),
        ("mean", Some(weights)) => {
            let (loss, weights) = (all(cx, "ReduceSum", loss)?, all(cx, "ReduceSum", weights)?);
            cx.call("Div", &[loss, weights], &[])
        }
        (other, _) => Err(OpError::new(format!("reduction '{other}' is not known"))),
    }
}
