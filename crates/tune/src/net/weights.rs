//! Which constants of a net are learned.

use crate::backward::depended_on;
use kinglet_graph::{Graph, GraphError, ValueId};

/// The constants of `graph` that are learned: floats of more than one element that the loss depends on,
/// but for statistics. Bounds and factors are single numbers, and stay.
///
/// # Errors
/// Where a node between one of them and the loss has no gradient rule.
pub(super) fn learned(graph: &Graph, loss: ValueId) -> Result<Vec<ValueId>, GraphError> {
    let kept = |v: ValueId| {
        let reads = graph.nodes().iter().flat_map(|node| {
            let own = node.inputs.iter().enumerate().filter(move |(_, input)| **input == Some(v));
            own.map(move |(i, _)| node.op.is_learned(i))
        });
        reads.fold(None, |all: Option<bool>, one| Some(all.unwrap_or(true) && one)) == Some(true)
    };
    let floats = graph.values_with_ids().filter(|(_, value)| {
        value.data.as_ref().is_some_and(|d| d.dtype().is_float() && d.view().len() > 1)
    });
    let all: Vec<ValueId> = floats.map(|(v, _)| v).filter(|v| kept(*v)).collect();
    let mut reached = depended_on(graph, loss, &all)?.into_iter();
    Ok(all.into_iter().filter(|_| reached.next().unwrap_or(false)).collect())
}
