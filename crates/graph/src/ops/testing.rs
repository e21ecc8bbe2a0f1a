//! Running one op in a test: its shape rule and its reference must agree.

use crate::{InferCx, Inputs, Interpreter, Known, Op, OpResult, Outputs, Slot, Tensor, ValueType};
use std::cell::Cell;

/// The outputs of `op` on `inputs`, `outputs` of them.
pub(crate) fn eval_opt(
    op: &dyn Op,
    inputs: &[Option<Tensor>],
    outputs: usize,
) -> OpResult<Vec<Tensor>> {
    let types: Vec<Option<ValueType>> =
        inputs.iter().map(|t| t.as_ref().map(crate::graph::type_of)).collect();
    let known: Vec<Option<Known<'_>>> = types
        .iter()
        .zip(inputs)
        .map(|(ty, t)| ty.as_ref().map(|ty| Known { ty, data: t.as_ref().map(|t| t.view()) }))
        .collect();
    let inferred = op.infer(&InferCx::new(&known, outputs, &Cell::new(0)))?;
    let views: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|t| t.view())).collect();
    let runner = Interpreter::default();
    let mut out = Outputs::new((0..outputs).map(|_| Slot::Open { quant: None, tensor: None }));
    op.eval(&Inputs::new(&views, &runner), &mut out)?;
    let made: Vec<Tensor> = out
        .into_slots()
        .map(|slot| match slot {
            Slot::Open { tensor: Some(tensor), .. } => tensor,
            _ => panic!("{op:?} left an output unwritten"),
        })
        .collect();
    assert_eq!(inferred.len(), made.len());
    for (ty, tensor) in inferred.iter().zip(&made) {
        assert_eq!(ty.dtype, tensor.dtype());
        assert!(ty.shape.admits(tensor.dims()), "{op:?}: {ty} against {tensor:?}");
    }
    Ok(made)
}

/// The one output of `op` on `inputs`.
pub(crate) fn eval(op: &dyn Op, inputs: &[Tensor]) -> Vec<Tensor> {
    let inputs: Vec<_> = inputs.iter().cloned().map(Some).collect();
    eval_opt(op, &inputs, 1).unwrap()
}

/// The message with which `op` refuses `inputs`.
pub(crate) fn eval_error(op: &dyn Op, inputs: &[Tensor]) -> String {
    let inputs: Vec<_> = inputs.iter().cloned().map(Some).collect();
    eval_opt(op, &inputs, 1).unwrap_err().to_string()
}
