//! Ops that run graphs: branches, loops, scans, calls.
//!
//! A body sees nothing of the graph around it. What it uses from there it gets as inputs of its
//! own, after those that the op gives it; they are the node's last inputs. State inside a body is
//! an error: state belongs to the whole model.

mod repeat;
mod scan;
#[cfg(test)]
mod tests;

pub use repeat::{Loop, While};
pub use scan::Scan;

use super::movement::fail;
use crate::op::{OpError, OpResult};
use crate::{Bool, Dim, Fold, Graph, InferCx, Inputs, Op, Outputs, Shape, Tensor, TensorView};
use crate::{ValueType, infer};
use std::collections::BTreeSet;

/// Inputs: condition (one truth value), then the inputs of `then`, then those of `otherwise`.
/// Outputs: those of the graph that runs.
#[derive(Clone, Debug)]
pub struct If {
    /// Runs when the condition holds.
    pub then: Graph,
    /// Runs when it does not.
    pub otherwise: Graph,
}

/// Inputs and outputs: the body's.
#[derive(Clone, Debug)]
pub struct Call {
    /// What runs.
    pub body: Graph,
}

/// What is known of a body's input.
#[derive(Clone)]
struct Given<'a> {
    ty: ValueType,
    data: Option<TensorView<'a>>,
}

impl<'a> Given<'a> {
    /// Inputs `range` of the node.
    fn range(cx: &InferCx<'a>, range: std::ops::Range<usize>) -> OpResult<Vec<Given<'a>>> {
        range.map(|i| Ok(Given { ty: cx.ty(i)?.clone(), data: cx.data(i) })).collect()
    }
}

/// A body with its shapes inferred for inputs such as these.
fn inferred(body: &Graph, inputs: &[Given<'_>]) -> OpResult<Graph> {
    let in_body = |m: String| OpError::new(format!("in '{}', {m}", body.name));
    if let Some(state) = body.states().first() {
        return Err(in_body(format!("state '{}': a body can have none", state.name)));
    }
    if body.inputs.len() != inputs.len() {
        let m = format!("there are {} inputs, {} are given", body.inputs.len(), inputs.len());
        return Err(in_body(m));
    }
    /// Larger constants are not what sizes are made of.
    const SMALL: usize = 1024;
    let mut body = body.clone();
    for (id, given) in body.inputs.clone().into_iter().zip(inputs) {
        let value = body.value_mut(id);
        if value.ty.dtype != given.ty.dtype {
            let m = format!("input '{}' is {}, given {}", value.name, value.ty, given.ty);
            return Err(in_body(m));
        }
        if given.ty.shape.rank().is_some() {
            value.ty.shape = given.ty.shape.clone();
        }
        value.data = given.data.filter(|d| d.bytes.len() <= SMALL).map(|d| Tensor::copy_of(&d));
    }
    infer(&mut body, Fold::Shapes).map_err(|e| in_body(e.to_string()))?;
    Ok(body)
}

/// The symbols in these types.
fn symbols<'a>(types: impl IntoIterator<Item = &'a ValueType>) -> BTreeSet<std::sync::Arc<str>> {
    let mut names = BTreeSet::new();
    for ty in types {
        for dim in ty.shape.dims().unwrap_or_default() {
            dim.symbols(&mut names);
        }
    }
    names
}

/// The types of a body's outputs, with symbols that mean nothing outside of it made new.
fn output_types(cx: &InferCx<'_>, body: &Graph, given: &[Given<'_>]) -> Vec<ValueType> {
    let known = symbols(given.iter().map(|g| &g.ty));
    let outside = |dim: &Dim| {
        let mut own = BTreeSet::new();
        dim.symbols(&mut own);
        if own.is_subset(&known) { dim.clone() } else { cx.unknown_dim() }
    };
    let types = body.outputs.iter().map(|v| &body.value(*v).ty);
    types
        .map(|ty| match ty.shape.dims() {
            Some(dims) => ty.with_shape(dims.iter().map(outside).collect::<Vec<_>>()),
            None => ty.clone(),
        })
        .collect()
}

/// What holds of a value that has one or the other type.
fn either(cx: &InferCx<'_>, a: &ValueType, b: &ValueType) -> OpResult<ValueType> {
    if a.dtype != b.dtype {
        return fail(format!("one way gives {a}, another {b}"));
    }
    let shape = match (a.shape.dims(), b.shape.dims()) {
        (Some(x), Some(y)) if x.len() == y.len() => {
            let dim = |(x, y): (&Dim, &Dim)| if x == y { x.clone() } else { cx.unknown_dim() };
            Shape::new(x.iter().zip(y).map(dim).collect())
        }
        _ => Shape::unknown(),
    };
    Ok(a.with_shape(shape))
}

/// One truth value.
fn truth(view: &TensorView<'_>) -> OpResult<bool> {
    match view.slice::<Bool>()? {
        [one] => Ok(one.get()),
        many => fail(format!("expected one condition, found {}", many.len())),
    }
}

/// Inputs `range`, all of which must be there.
fn views<'a>(inputs: &Inputs<'a>, range: std::ops::Range<usize>) -> OpResult<Vec<TensorView<'a>>> {
    range.map(|i| inputs.get(i)).collect()
}

fn put_all(outputs: &mut Outputs<'_>, tensors: &[Tensor]) -> OpResult {
    if tensors.len() != outputs.len() {
        return fail(format!("the body gives {} outputs of {}", tensors.len(), outputs.len()));
    }
    tensors.iter().enumerate().try_for_each(|(i, t)| outputs.put(i, &t.view()))
}

fn check_count(what: &str, body: &Graph, outputs: usize) -> OpResult {
    if body.outputs.len() == outputs {
        Ok(())
    } else {
        fail(format!("{what} '{}' has {} outputs, not {outputs}", body.name, body.outputs.len()))
    }
}

impl If {
    /// Where the inputs of `otherwise` start.
    fn middle(&self) -> usize {
        1 + self.then.inputs.len()
    }
}

impl Op for If {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        check_count("branch", &self.then, cx.outputs())?;
        check_count("branch", &self.otherwise, cx.outputs())?;
        let branch = |body: &Graph, range: std::ops::Range<usize>| {
            let given = Given::range(cx, range)?;
            Ok(output_types(cx, &inferred(body, &given)?, &given))
        };
        let then = || branch(&self.then, 1..self.middle());
        let otherwise = || branch(&self.otherwise, self.middle()..cx.len());
        match cx.data(0).map(|c| truth(&c)).transpose()? {
            Some(true) => then(),
            Some(false) => otherwise(),
            None => then()?.iter().zip(&otherwise()?).map(|(a, b)| either(cx, a, b)).collect(),
        }
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let results = if truth(&inputs.get(0)?)? {
            inputs.run(&self.then, &views(inputs, 1..self.middle())?)?
        } else {
            inputs.run(&self.otherwise, &views(inputs, self.middle()..inputs.len())?)?
        };
        put_all(outputs, &results)
    }

    fn is_pure(&self) -> bool {
        all_pure(&self.then) && all_pure(&self.otherwise)
    }

    fn subgraphs(&self) -> Vec<&Graph> {
        vec![&self.then, &self.otherwise]
    }
}

fn all_pure(body: &Graph) -> bool {
    body.nodes().iter().all(|n| n.op.is_pure())
}

impl Op for Call {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        check_count("body", &self.body, cx.outputs())?;
        let given = Given::range(cx, 0..cx.len())?;
        Ok(output_types(cx, &inferred(&self.body, &given)?, &given))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let results = inputs.run(&self.body, &views(inputs, 0..inputs.len())?)?;
        put_all(outputs, &results)
    }

    fn is_pure(&self) -> bool {
        all_pure(&self.body)
    }

    fn subgraphs(&self) -> Vec<&Graph> {
        vec![&self.body]
    }
}
