//! The loss of a net over a batch of samples.

use super::{Net, weights};
use crate::data::{Goal, IGNORED};
use crate::{Objective, TuneError, cross_entropy_sum};
use kinglet_formats::LoadError;
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::logic::Compare;
use kinglet_graph::ops::order::ArgReduce;
use kinglet_graph::ops::reduce::ReduceKind;
use kinglet_graph::{
    Builder, DType, Dims, Graph, GraphError, OpError, OpResult, Shape, ValueId, ValueType,
};

impl Net {
    /// Its loss over batches of `batch` samples, as [`crate::data::Sampled`] makes them: for classes, the
    /// mean cross entropy in nats, and how many are right as an output; for values, their mean squared
    /// error.
    ///
    /// # Errors
    /// If the net does not take so many samples at once, its output is not of that goal, or a node has no
    /// gradient rule.
    pub fn objective(&self, goal: &Goal, batch: usize) -> Result<Objective, TuneError> {
        let mut graph = self.sized(batch)?;
        let scores = self.scores;
        let found = graph.value(scores).ty.shape.fixed().unwrap_or_default();
        let (first, each) = (found.first().copied(), found.iter().skip(1).product::<usize>());
        let wanted = match goal {
            Goal::Classes(classes) => *classes,
            Goal::Values(count) => *count,
        };
        let file = self.path.display();
        if first != Some(batch) {
            return Err(TuneError::Input(format!(
                "{file}: the net's output is {found:?} for {batch} samples: it takes one at a time"
            )));
        }
        if each != wanted {
            return Err(TuneError::Input(format!(
                "{file}: the net's output is {found:?}, of {each} numbers a sample, and the data have {goal}"
            )));
        }
        let fail = |e: OpError| LoadError::new(&self.path, GraphError::new("loss", e.to_string()));
        let mut shapes: Vec<Dims> = graph
            .inputs
            .iter()
            .map(|v| graph.value(*v).ty.shape.fixed().unwrap_or_default())
            .collect();
        let of = |dims: &[usize]| ValueType::new(DType::F32, dims);
        graph.outputs.clear();
        let (sum, scores) = match goal {
            Goal::Classes(classes) => {
                let targets = ValueType::new(DType::I32, &[batch][..]);
                let targets = graph.add_input("targets", targets);
                shapes.push([batch].as_slice().into());
                let scores = flat(&mut graph, scores, batch, *classes).map_err(fail)?;
                let sum = cross_entropy_sum(&mut graph, scores, targets, Some(IGNORED.into()));
                let right = right(&mut graph, scores, targets).map_err(fail)?;
                graph.outputs = vec![right];
                (sum.map_err(|e| LoadError::new(&self.path, e))?, scores)
            }
            Goal::Values(count) => {
                let targets = graph.add_input("targets", of(&[batch, *count]));
                let counts = graph.add_input("counts", of(&[batch, 1]));
                shapes.extend([[batch, *count], [batch, 1]].map(|d| d.as_slice().into()));
                let scores = flat(&mut graph, scores, batch, *count).map_err(fail)?;
                (squares(&mut graph, scores, targets, counts).map_err(fail)?, scores)
            }
        };
        let share = graph.add_input("share", ValueType::new(DType::F32, Shape::new(Vec::new())));
        shapes.push(Dims::new());
        let mut b = Builder::new(&mut graph, "loss");
        let loss = b.binary(BinaryFn::Mul, sum, share).map_err(fail)?;
        let learned = weights::learned(&graph, loss).map_err(|e| LoadError::new(&self.path, e))?;
        if learned.is_empty() {
            return Err(TuneError::Input(format!("{file}: the net has no weights of floats")));
        }
        Ok(Objective::new(graph, (loss, scores), learned, shapes))
    }
}

/// `x` as [batch, each], in f32.
fn flat(graph: &mut Graph, x: ValueId, batch: usize, each: usize) -> OpResult<ValueId> {
    let mut b = Builder::new(graph, "scores");
    let x = match b.dtype(x) {
        DType::F32 => x,
        _ => b.apply(Cast::new(DType::F32), &[x])?,
    };
    match b.rank(x)? {
        2 => Ok(x),
        _ => b.reshaped(x, &[batch as i64, each as i64]),
    }
}

/// How many of the largest scores are the targets'.
fn right(graph: &mut Graph, scores: ValueId, targets: ValueId) -> OpResult<ValueId> {
    let mut b = Builder::new(graph, "right");
    let first =
        ArgReduce { largest: true, axis: 1, keep_dims: false, last: false, index: DType::I32 };
    let best = b.apply(first, &[scores])?;
    let same = b.apply(Compare::Equal, &[best, targets])?;
    let same = b.apply(Cast::new(DType::F32), &[same])?;
    b.reduce(ReduceKind::Sum, same, &[0], false)
}

/// The sum over the samples that count of their mean squared errors.
fn squares(
    graph: &mut Graph,
    scores: ValueId,
    targets: ValueId,
    counts: ValueId,
) -> OpResult<ValueId> {
    let mut b = Builder::new(graph, "squared_error");
    let squares = b.binary(BinaryFn::SquaredDifference, scores, targets)?;
    let each = b.reduce(ReduceKind::Mean, squares, &[1], true)?;
    let each = b.mul(each, counts)?;
    b.reduce(ReduceKind::Sum, each, &[0, 1], false)
}
