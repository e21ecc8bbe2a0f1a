//! Losses: what a step makes smaller.

use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::loss::{ClassLoss, LossReduction};
use kinglet_graph::ops::reduce::ReduceKind;
use kinglet_graph::{Builder, Fold, Graph, GraphError, ValueId, infer};

/// The mean cross entropy, in nats, of `logits` [n, classes] (or [n, classes, ..]) with `targets`,
/// integers [n] (or [n, ..]): −log softmax(logits) at the target class. Targets of `ignore` do not
/// count; where none does, the loss is NaN.
///
/// # Errors
/// Where the two do not fit.
pub fn cross_entropy(
    graph: &mut Graph,
    logits: ValueId,
    targets: ValueId,
    ignore: Option<i64>,
) -> Result<ValueId, GraphError> {
    let op = ClassLoss { softmax: true, reduction: LossReduction::Mean, ignore };
    build(graph, "cross_entropy", |b| b.apply(op, &[logits, targets]))
}

/// The sum of the cross entropies of which [`cross_entropy`] is the mean; 0 where no target counts. What
/// a batch that comes in several parts is trained by: each part's sum, divided by the whole batch's
/// count of targets.
///
/// # Errors
/// Where the two do not fit.
pub fn cross_entropy_sum(
    graph: &mut Graph,
    logits: ValueId,
    targets: ValueId,
    ignore: Option<i64>,
) -> Result<ValueId, GraphError> {
    let op = ClassLoss { softmax: true, reduction: LossReduction::Sum, ignore };
    build(graph, "cross_entropy_sum", |b| b.apply(op, &[logits, targets]))
}

/// The mean of (a − b)² over all elements.
///
/// # Errors
/// Where the two do not broadcast or are of different types.
pub fn mean_squared_error(
    graph: &mut Graph,
    a: ValueId,
    b: ValueId,
) -> Result<ValueId, GraphError> {
    build(graph, "mean_squared_error", |builder| {
        let squares = builder.binary(BinaryFn::SquaredDifference, a, b)?;
        let axes: Vec<usize> = (0..builder.rank(squares)?).collect();
        builder.reduce(ReduceKind::Mean, squares, &axes, false)
    })
}

fn build(
    graph: &mut Graph,
    name: &str,
    make: impl FnOnce(&mut Builder<'_>) -> kinglet_graph::OpResult<ValueId>,
) -> Result<ValueId, GraphError> {
    // What has been applied so far may have no types yet.
    infer(graph, Fold::Shapes)?;
    make(&mut Builder::new(graph, name)).map_err(|e| GraphError::new(name, e.to_string()))
}
