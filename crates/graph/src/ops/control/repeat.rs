//! Bodies run again and again on what they gave before.

use super::{Given, all_pure, check_count, either, inferred, output_types, put_all, truth, views};
use crate::ValueType;
use crate::op::{OpError, OpResult};
use crate::ops::movement::fail;
use crate::ops::reshape::Identity;
use crate::{Bool, DType, Dim, Dims, Graph, InferCx, Inputs, Op, Outputs, Tensor, TensorView};

/// Runs `body` while it says so, at most as often as the trip count says (ONNX `Loop`).
///
/// Inputs: trip count (one i64, optional), condition (one truth value, optional), `carried`
/// values, and what the body captures. Inputs of the body: turn (i64 scalar), condition, carried
/// values, captures. Outputs of the body: condition, carried values, scanned values. Outputs: the
/// carried values after the last turn, then each scanned value with all turns stacked along a
/// new first dimension.
#[derive(Clone, Debug)]
pub struct Loop {
    /// What runs each turn.
    pub body: Graph,
    /// How many values go from turn to turn.
    pub carried: usize,
}

/// Runs `body` on its own outputs while `condition`, run on the same values, gives true (TFLite
/// `WHILE`). Inputs, outputs, inputs of both graphs and outputs of the body: the carried values.
#[derive(Clone, Debug)]
pub struct While {
    /// Gives one truth value.
    pub condition: Graph,
    /// What runs each turn.
    pub body: Graph,
}

/// The types that carried values have at the start of any turn, and the body inferred for them.
/// `carried` of `given` start at `at`; `results` picks their types from the body's outputs.
pub(super) fn settle<'a>(
    cx: &InferCx<'_>,
    body: &Graph,
    mut given: Vec<Given<'a>>,
    at: usize,
    carried: usize,
    first_result: usize,
) -> OpResult<(Vec<Given<'a>>, Graph)> {
    for g in &mut given[at..at + carried] {
        g.data = None;
    }
    loop {
        let done = inferred(body, &given)?;
        let types = output_types(cx, &done, &given);
        let mut changed = false;
        for i in 0..carried {
            let (from, to) = (&given[at + i].ty, &types[first_result + i]);
            let settled = match (from.shape.dims(), to.shape.dims()) {
                (None, _) => true,
                (Some(_), None) => false,
                // A size that is new each turn is as general as it gets.
                (Some(a), Some(b)) => {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || is_new(a))
                }
            };
            let both = either(cx, from, to)?;
            if !settled {
                given[at + i].ty = both;
                changed = true;
            }
        }
        // Each time round a size or a rank becomes unknown, and stays so.
        if !changed {
            return Ok((given, done));
        }
    }
}

fn is_new(dim: &Dim) -> bool {
    dim.as_symbol().is_some_and(|name| name.starts_with('?'))
}

fn scalar(dtype: DType) -> ValueType {
    ValueType::new(dtype, Vec::new())
}

impl Loop {
    fn captures(&self, inputs: usize) -> std::ops::Range<usize> {
        2 + self.carried..inputs
    }

    /// Whether every turn asks for another one.
    fn never_stops(&self, body: &Graph) -> bool {
        let Some(out) = body.outputs.first().copied() else { return false };
        let holds = |t: &Tensor| truth(&t.view()).unwrap_or(false);
        let passed_on = || {
            let node = body.nodes().iter().find(|n| n.outputs.contains(&out));
            let from = node.filter(|n| n.op.is::<Identity>()).and_then(|n| n.inputs[0]);
            from.unwrap_or(out) == body.inputs[1]
        };
        body.value(out).data.as_ref().map_or_else(passed_on, holds)
    }
}

impl Op for Loop {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let Some(scanned) = cx.outputs().checked_sub(self.carried) else {
            return fail(format!("{} outputs for {} carried values", cx.outputs(), self.carried));
        };
        check_count("body", &self.body, 1 + self.carried + scanned)?;
        let mut given = vec![
            Given { ty: scalar(DType::I64), data: None },
            Given { ty: scalar(DType::Bool), data: None },
        ];
        given.extend(Given::range(cx, 2..cx.len())?);
        let (given, body) = settle(cx, &self.body, given, 2, self.carried, 1)?;
        let types = output_types(cx, &body, &given);
        let mut out = Vec::new();
        for i in 0..self.carried {
            // No turn may run at all.
            let last = either(cx, cx.ty(2 + i)?, &types[1 + i])?;
            out.push(ValueType { quant: given[2 + i].ty.quant.clone(), ..last });
        }
        let starts = match (cx.opt(1), cx.data(1)) {
            (None, _) => true,
            (_, Some(condition)) => truth(&condition)?,
            _ => false,
        };
        let turns = match cx.sizes(0)?.as_deref() {
            Some([n]) if starts && self.never_stops(&body) => match n.as_i64() {
                Some(n) => Dim::constant(n.max(0)),
                None if n.is_nonnegative() => n.clone(),
                None => cx.unknown_dim(),
            },
            _ => cx.unknown_dim(),
        };
        for ty in &types[1 + self.carried..] {
            out.push(match ty.shape.dims() {
                Some(dims) => ty.with_shape([std::slice::from_ref(&turns), dims].concat()),
                None => ty.clone(),
            });
        }
        Ok(out)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let limit = match inputs.opt(0) {
            Some(n) => Some(n.scalar::<i64>()?),
            None => None,
        };
        let mut goes_on = inputs.opt(1).map_or(Ok(true), |c| truth(&c))?;
        let mut carried: Vec<Tensor> =
            views(inputs, 2..2 + self.carried)?.iter().map(Tensor::copy_of).collect();
        let captures = views(inputs, self.captures(inputs.len()))?;
        let scanned = outputs.len().saturating_sub(self.carried);
        let mut stacks: Vec<Stack> = Vec::new();
        let mut turn = 0i64;
        while goes_on && limit.is_none_or(|n| turn < n) {
            let (count, condition) = (Tensor::scalar(turn), Tensor::scalar(Bool::from(goes_on)));
            let own = [count.view(), condition.view()];
            let given: Vec<TensorView<'_>> = own
                .into_iter()
                .chain(carried.iter().map(Tensor::view))
                .chain(captures.iter().copied())
                .collect();
            let mut results = inputs.run(&self.body, &given)?.into_iter();
            if results.len() != 1 + self.carried + scanned {
                return fail(format!("the body gives {} values", results.len()));
            }
            goes_on = results.next().map_or(Ok(false), |c| truth(&c.view()))?;
            carried = results.by_ref().take(self.carried).collect();
            if turn == 0 {
                stacks = results.map(|t| Stack::new(&t)).collect::<OpResult<_>>()?;
            } else {
                stacks.iter_mut().zip(results).try_for_each(|(stack, t)| stack.push(&t))?;
            }
            turn += 1;
        }
        for (i, tensor) in carried.iter().enumerate() {
            outputs.put(i, &tensor.view())?;
        }
        for (i, stack) in stacks.iter().enumerate() {
            outputs
                .bytes(self.carried + i, stack.dtype, &stack.dims)?
                .copy_from_slice(&stack.bytes);
        }
        if turn == 0 {
            let mut given = vec![scalar(DType::I64), scalar(DType::Bool)];
            given.extend(carried.iter().map(|t| type_of(&t.view())));
            given.extend(captures.iter().map(type_of));
            let types = never_run(&self.body, given)?;
            for (i, (dtype, mut dims)) in types.into_iter().skip(1 + self.carried).enumerate() {
                dims.insert(0, 0);
                outputs.bytes(self.carried + i, dtype, &dims)?;
            }
        }
        Ok(())
    }

    fn is_pure(&self) -> bool {
        all_pure(&self.body)
    }

    fn subgraphs(&self) -> Vec<&Graph> {
        vec![&self.body]
    }
}

/// The type and sizes that each output of `body` would have, given inputs of these types: what a
/// body that never ran stacks none of. Sizes that can't be told are 0.
pub(super) fn never_run(body: &Graph, given: Vec<ValueType>) -> OpResult<Vec<(DType, Dims)>> {
    let given: Vec<Given<'_>> = given.into_iter().map(|ty| Given { ty, data: None }).collect();
    let body = inferred(body, &given)?;
    let size = |d: &Dim| d.fixed().unwrap_or(0);
    let types = body.outputs.iter().map(|v| &body.value(*v).ty);
    Ok(types
        .map(|ty| (ty.dtype, ty.shape.dims().unwrap_or_default().iter().map(size).collect()))
        .collect())
}

/// The type of a tensor that is there.
pub(super) fn type_of(view: &TensorView<'_>) -> ValueType {
    ValueType::new(view.dtype, view.dims)
}

/// Values of every turn, one after the other.
struct Stack {
    dtype: DType,
    dims: Dims,
    bytes: Vec<u8>,
}

impl Stack {
    fn new(first: &Tensor) -> OpResult<Stack> {
        if first.dtype().bits() < 8 {
            return fail(format!("{} can't be stacked", first.dtype()));
        }
        let mut dims: Dims = smallvec::smallvec![1];
        dims.extend_from_slice(first.dims());
        Ok(Stack { dtype: first.dtype(), dims, bytes: first.raw().to_vec() })
    }

    fn push(&mut self, next: &Tensor) -> OpResult {
        if next.dtype() != self.dtype || next.dims() != &self.dims[1..] {
            return fail(format!("{next:?} follows values of {:?}", &self.dims[1..]));
        }
        let room = self.bytes.try_reserve(next.raw().len());
        room.map_err(|_| OpError::new("the values of all turns do not fit in memory"))?;
        self.bytes.extend_from_slice(next.raw());
        self.dims[0] += 1;
        Ok(())
    }
}

impl Op for While {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let n = cx.len();
        if cx.outputs() != n {
            return fail(format!("{} outputs for {n} carried values", cx.outputs()));
        }
        check_count("condition", &self.condition, 1)?;
        check_count("body", &self.body, n)?;
        let (given, body) = settle(cx, &self.body, Given::range(cx, 0..n)?, 0, n, 0)?;
        inferred(&self.condition, &given)?;
        let types = output_types(cx, &body, &given);
        (0..n).map(|i| either(cx, cx.ty(i)?, &types[i])).collect()
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let start = views(inputs, 0..inputs.len())?;
        let mut carried: Vec<Tensor> = start.iter().map(Tensor::copy_of).collect();
        loop {
            let given: Vec<TensorView<'_>> = carried.iter().map(Tensor::view).collect();
            match inputs.run(&self.condition, &given)?.as_slice() {
                [goes_on] if truth(&goes_on.view())? => carried = inputs.run(&self.body, &given)?,
                [_] => return put_all(outputs, &carried),
                many => return fail(format!("the condition gives {} values", many.len())),
            }
        }
    }

    fn is_pure(&self) -> bool {
        all_pure(&self.condition) && all_pure(&self.body)
    }

    fn subgraphs(&self) -> Vec<&Graph> {
        vec![&self.condition, &self.body]
    }
}
