//! Reductions over axes.

use kinglet_graph::OpResult;
use kinglet_graph::ops::quantized::{QReduce, QReduceKind, Rescale};

use super::node::Node;

pub(super) const HANDLERS: &[(&str, super::Handler)] = &[
    ("MEAN", |n| reduce(n, Some(QReduceKind::Mean))),
    ("SUM", |n| reduce(n, Some(QReduceKind::Sum))),
];

fn reduce(node: &mut Node<'_, '_>, quantized: Option<QReduceKind>) -> OpResult {
    let keep_dims = node.option(0, false)?;
    let inputs = node.inputs()?;
    if let (true, Some(kind)) = (node.is_quantized(0)?, quantized) {
        let mut axes = node.ints(1)?;
        let rank = node.info(0)?.shape.len() as i64;
        axes.iter_mut().filter(|a| **a < 0).for_each(|a| *a += rank);
        axes.sort_unstable();
        axes.dedup();
        let op = QReduce { kind, axes, keep_dims, rescale: Rescale::FixedPoint };
        return node.emit(op, vec![inputs[0]]);
    }
    Err(kinglet_graph::OpError::new("not yet"))
}
