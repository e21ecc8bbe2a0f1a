//! Constants computed ahead, identities and dead nodes removed.

use kinglet_graph::{Fold, Graph, GraphError};

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    if !kinglet_graph::is_settled(graph, Fold::All) {
        kinglet_graph::infer(graph, Fold::All)?;
    }
    graph.remove_unused();
    Ok(())
}
