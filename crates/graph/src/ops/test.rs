//! What the ops' unit tests share.

use crate::{
    Bool, DType, Dim, Element, Graph, InferCx, Inputs, Interpreter, Known, Op, OpResult, Outputs,
    Shape, Slot, Tensor, TensorView, ValueType,
};
use std::cell::Cell;

/// A tensor of sizes `dims`.
pub fn t<T: Element>(dims: &[usize], data: &[T]) -> Tensor {
    Tensor::from_slice(dims, data).unwrap()
}

/// A tensor of rank 1 of i64.
pub fn i(data: &[i64]) -> Tensor {
    t(&[data.len()], data)
}

/// A tensor of truth values.
pub fn b(dims: &[usize], data: &[bool]) -> Tensor {
    t(dims, &data.iter().map(|v| Bool::from(*v)).collect::<Vec<_>>())
}

/// Runs `op` on `inputs` and returns its `count` outputs, which must be as its shape rule says
/// when it knows all inputs and when it knows only their types.
pub fn run_opt(op: &dyn Op, inputs: &[Option<&Tensor>], count: usize) -> OpResult<Vec<Tensor>> {
    let types: Vec<Option<ValueType>> =
        inputs.iter().map(|t| t.map(|t| ValueType::new(t.dtype(), t.dims()))).collect();
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|t| t.map(Tensor::view)).collect();
    let inferred = |known: bool| {
        let known: Vec<Option<Known<'_>>> = types
            .iter()
            .zip(&views)
            .map(|(ty, data)| {
                ty.as_ref().map(|ty| Known { ty, data: if known { *data } else { None } })
            })
            .collect();
        let symbols = Cell::new(0);
        op.infer(&InferCx::new(&known, count, &symbols))
    };
    let (exact, vague) = (inferred(true)?, inferred(false)?);
    let slots = (0..count).map(|_| Slot::Open { quant: None, tensor: None });
    let mut outputs = Outputs::new(slots);
    let interpreter = Interpreter::new(&Graph::new("")).unwrap();
    op.eval(&Inputs::new(&views, &interpreter), &mut outputs)?;
    let mut tensors = Vec::new();
    for slot in outputs.into_slots() {
        let Slot::Open { tensor: Some(tensor), .. } = slot else {
            panic!("an output was not written");
        };
        tensors.push(tensor);
    }
    for types in [exact, vague] {
        assert_eq!(types.len(), count);
        for (ty, tensor) in types.iter().zip(&tensors) {
            assert_eq!(ty.dtype, tensor.dtype());
            assert!(ty.shape.admits(tensor.dims()), "{ty} for {tensor:?}");
        }
    }
    Ok(tensors)
}

/// [`run_opt`] of all inputs and one output.
pub fn run(op: &dyn Op, inputs: &[&Tensor]) -> OpResult<Tensor> {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|t| Some(*t)).collect();
    Ok(run_opt(op, &inputs, 1)?.remove(0))
}

/// The outputs of `op`, `outputs` of them, on inputs of which some may be left out.
pub fn eval_opt(op: &dyn Op, inputs: &[Option<Tensor>], outputs: usize) -> OpResult<Vec<Tensor>> {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
    run_opt(op, &inputs, outputs)
}

/// The one output of `op` on `inputs`, in a list.
pub fn eval(op: &dyn Op, inputs: &[Tensor]) -> Vec<Tensor> {
    vec![run(op, &inputs.iter().collect::<Vec<_>>()).unwrap()]
}

/// The message with which `op` refuses `inputs`.
pub fn eval_error(op: &dyn Op, inputs: &[Tensor]) -> String {
    error(op, &inputs.iter().collect::<Vec<_>>())
}

/// The message of the error that running `op` gives.
pub fn error(op: &dyn Op, inputs: &[&Tensor]) -> String {
    run(op, inputs).expect_err("should fail").to_string()
}

/// Asserts what running `op` gives.
pub fn check<T: Element>(op: &dyn Op, inputs: &[&Tensor], dims: &[usize], data: &[T]) {
    let out = run(op, inputs).unwrap();
    assert_eq!(out.dims(), dims);
    assert_eq!(out.slice::<T>().unwrap(), data);
}

/// A size for [`shape`]: a number or a symbol.
pub fn dim(text: &str) -> Dim {
    text.parse::<usize>().map_or_else(|_| Dim::symbol(text), Dim::from)
}

/// A type of sizes such as `"n, 3"`.
pub fn ty(dtype: DType, sizes: &str) -> ValueType {
    let dims = sizes.split(',').map(str::trim).filter(|s| !s.is_empty()).map(dim).collect();
    ValueType::new(dtype, Shape::new(dims))
}

/// The printed shape that `op` infers for its output 0 from an input of type `data` and known
/// further inputs.
pub fn shape(op: &dyn Op, data: &ValueType, rest: &[&Tensor]) -> String {
    let types: Vec<ValueType> = rest.iter().map(|t| ValueType::new(t.dtype(), t.dims())).collect();
    let mut known = vec![Some(Known { ty: data, data: None })];
    known.extend(types.iter().zip(rest).map(|(ty, t)| Some(Known { ty, data: Some(t.view()) })));
    let symbols = Cell::new(0);
    op.infer(&InferCx::new(&known, 1, &symbols)).unwrap()[0].shape.to_string()
}
