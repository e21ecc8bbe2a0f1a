//! Distillation: a student learns from a teacher that stands beside it and stays as it is (Hinton et al.,
//! arXiv 1503.02531), from its hidden values too (FitNets; Romero et al., arXiv 1412.6550).

use crate::random::Random;
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::logic::Compare;
use kinglet_graph::ops::reduce::ReduceKind;
use kinglet_graph::ops::rows::Linear;
use kinglet_graph::ops::soft_loss::SoftLoss;
use kinglet_graph::{
    Builder, DType, Fold, Graph, GraphError, OpError, OpResult, Tensor, ValueId, infer,
};

/// How much of what a teacher knows counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// w, from 0 to 1: the loss is (1 − w) times the student's own, by targets, and w times that by the
    /// teacher's probabilities.
    pub weight: f64,
    /// T, above 0, over which scores are divided before they become probabilities.
    pub temperature: f64,
    /// What the mean squared errors of features are multiplied by, before they are added to that.
    pub features: f64,
    /// Of the chance that projections begin with.
    pub seed: u64,
}

/// What of a graph is a student.
#[derive(Clone, Debug)]
pub struct Student {
    /// Its own loss, one f32.
    pub loss: ValueId,
    /// Its scores: f32 [n, classes].
    pub scores: ValueId,
    /// The classes that rows should have, integers [n], and the one of rows that do not count; `None`:
    /// all count.
    pub targets: Option<(ValueId, i64)>,
    /// What its loss multiplies sums over rows by, one f32; `None`: its loss is a mean.
    pub share: Option<ValueId>,
    /// Hidden values that are to be as the teacher's: f32 [n, width], or [n, ..] of the teacher's sizes.
    pub features: Vec<ValueId>,
}

/// A student's loss beside a teacher.
#[derive(Clone, Debug)]
pub struct Distilled {
    /// The loss.
    pub loss: ValueId,
    /// What is to be trained with the student, and thrown away then: from the width of its features to
    /// those of the teacher's, where they differ. Constants called [`PROJECTION`] and their number.
    pub projections: Vec<ValueId>,
}

/// What names of a teacher's values begin with.
pub const TEACHER: &str = "teacher.";

/// What names of projections begin with.
pub const PROJECTION: &str = "teacher.projection.";

/// Puts `teacher` into `graph`, before the student, where it reads `inputs` in place of its inputs. Its
/// outputs are its scores and then one for each of the student's features. Nothing of it is trained and no
/// gradient passes through it, so that it takes the memory of inference, and of what its outputs hold.
///
/// # Errors
/// If the teacher does not fit the inputs, or its outputs the student's.
pub fn distil(
    graph: &mut Graph,
    student: &Student,
    teacher: &Graph,
    inputs: &[ValueId],
    how: &Distillation,
) -> Result<Distilled, GraphError> {
    let Distillation { weight, temperature, features, .. } = *how;
    let fail = |m: String| Err(GraphError::new("distillation", m));
    if !((0.0..=1.0).contains(&weight) && features >= 0.0 && features.is_finite()) {
        return fail(format!(
            "a weight of {weight} and {features}: must be 0 to 1, and 0 or above"
        ));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return fail(format!("a temperature of {temperature}: must be above 0"));
    }
    if teacher.outputs.len() != 1 + student.features.len() {
        return fail(format!(
            "the teacher gives {} values: scores and {} features are wanted",
            teacher.outputs.len(),
            student.features.len()
        ));
    }
    let own = graph.nodes().len();
    let mut given = graph.append(teacher, inputs, TEACHER)?;
    graph.nodes_mut().rotate_left(own);
    infer(graph, Fold::Shapes)?;
    let mut b = Builder::new(graph, "distillation");
    let made = build(&mut b, student, given.remove(0), &given, how);
    made.map_err(|e| GraphError::new("distillation", e.to_string()))
}

fn build(
    b: &mut Builder<'_>,
    student: &Student,
    scores: ValueId,
    given: &[ValueId],
    how: &Distillation,
) -> OpResult<Distilled> {
    let mean = student.share.is_none();
    let shared = |b: &mut Builder<'_>, v| student.share.map_or(Ok(v), |share| b.mul(v, share));
    let soft = SoftLoss {
        temperature: how.temperature as f32,
        mean,
        ignore: student.targets.map(|(_, ignore)| ignore),
    };
    let mut loss = None;
    if how.weight < 1.0 {
        loss = Some(b.scaled(student.loss, 1.0 - how.weight)?);
    }
    if how.weight > 0.0 {
        let targets = student.targets.map(|(targets, _)| targets);
        let soft = b.apply_all(soft, &[Some(student.scores), Some(scores), targets], 1)?[0];
        let soft = shared(b, soft)?;
        let soft = b.scaled(soft, how.weight)?;
        loss = Some(added(b, loss, soft)?);
    }
    let mut projections = Vec::new();
    for (i, (own, theirs)) in student.features.iter().zip(given).enumerate() {
        let mut own = *own;
        if let Some(projection) = projection(b, own, *theirs, i, how.seed)? {
            own = b.apply(Linear::default(), &[own, projection])?;
            projections.push(projection);
        }
        let off = b.binary(BinaryFn::SquaredDifference, own, *theirs)?;
        let axes: Vec<usize> = (1..b.rank(off)?).collect();
        let mut rows = b.reduce(ReduceKind::Mean, off, &axes, false)?;
        let mut counted = None;
        if let Some((targets, ignore)) = student.targets {
            let ignore = match b.dtype(targets) {
                DType::I32 => i32::try_from(ignore).map(Tensor::scalar).ok(),
                DType::I64 => Some(Tensor::scalar(ignore)),
                _ => None,
            };
            let ignore = ignore.ok_or_else(|| OpError::new("takes targets of i32 and i64"))?;
            let ignore = b.graph.add_constant("", ignore);
            let counts = b.apply(Compare::NotEqual, &[targets, ignore])?;
            rows = b.only_where(counts, rows)?;
            if mean {
                let one = b.scalar(1.0, rows)?;
                let ones = b.expanded_like(one, rows)?;
                let ones = b.only_where(counts, ones)?;
                counted = Some(b.sum(ones, &[0], false)?);
            }
        }
        let error = match (mean, counted) {
            (true, None) => b.reduce(ReduceKind::Mean, rows, &[0], false)?,
            (true, Some(counted)) => {
                let sum = b.sum(rows, &[0], false)?;
                b.div(sum, counted)?
            }
            (false, _) => {
                let sum = b.sum(rows, &[0], false)?;
                shared(b, sum)?
            }
        };
        let error = b.scaled(error, how.features)?;
        loss = Some(added(b, loss, error)?);
    }
    let loss = loss.ok_or_else(|| OpError::new("nothing is learned"))?;
    Ok(Distilled { loss, projections })
}

fn added(b: &mut Builder<'_>, sum: Option<ValueId>, more: ValueId) -> OpResult<ValueId> {
    sum.map_or(Ok(more), |sum| b.add(sum, more))
}

/// A matrix from the width of `own` to that of `theirs`, where they differ.
fn projection(
    b: &mut Builder<'_>,
    own: ValueId,
    theirs: ValueId,
    number: usize,
    seed: u64,
) -> OpResult<Option<ValueId>> {
    let (from, to) = (b.fixed(own)?, b.fixed(theirs)?);
    match (&*from, &*to) {
        (from, to) if from == to => Ok(None),
        (&[rows, from], &[of, to]) if rows == of => {
            let mut random = Random::new(seed, number as u64);
            let spread = 1.0 / (from.max(1) as f64).sqrt();
            let values: Vec<f32> =
                (0..from * to).map(|_| (spread * random.normal()) as f32).collect();
            let values = Tensor::from_slice(&[to, from], &values)?;
            Ok(Some(b.graph.add_constant(format!("{PROJECTION}{number}"), values)))
        }
        _ => Err(OpError::new(format!(
            "features of {from:?} can't be as the teacher's of {to:?}: they must be [n, width], or alike"
        ))),
    }
}
