//! Passes: each a function from a graph to an equal but cheaper one, in one file.
//!
//! A pass leaves the graph valid and its results the same (to the last bit for integers). The
//! list below is the order in which they run; `kinglet inspect --stage NAME` prints the graph
//! after one.

mod activation;
mod affine;
mod fold;
mod layout;
mod linears;
mod pad;
mod qdq;
mod residual;
mod rewrite;
mod simplify;

use kinglet_graph::{Fold, Graph, GraphError};

pub use rewrite::Rewriter;

/// One pass.
pub struct Pass {
    /// Its name, as `--stage` takes it.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub what: &'static str,
    run: fn(&mut Graph) -> Result<(), GraphError>,
}

/// All passes, in order.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "infer",
        what: "sizes and types of every value",
        run: |graph| kinglet_graph::infer(graph, Fold::Shapes),
    },
    Pass {
        name: "qdq",
        what: "float ops between quantisations compute in integers",
        run: qdq::run,
    },
    Pass {
        name: "fold",
        what: "computes what is constant, removes what is unused",
        run: fold::run,
    },
    Pass { name: "simplify", what: "moves of nothing become views or vanish", run: simplify::run },
    Pass { name: "pad", what: "zeros around an image join the convolution", run: pad::run },
    Pass { name: "affine", what: "a bias, a scale, a norm join the op before", run: affine::run },
    Pass {
        name: "activation",
        what: "functions of elements join the op before",
        run: activation::run,
    },
    Pass { name: "residual", what: "a sum joins the convolution before", run: residual::run },
    Pass {
        name: "linears",
        what: "products of one input are computed together",
        run: linears::run,
    },
    Pass { name: "layout", what: "channels last, as the kernels want them", run: layout::run },
    Pass { name: "tidy", what: "folds and simplifies what the passes left", run: tidy },
];

fn tidy(graph: &mut Graph) -> Result<(), GraphError> {
    fold::run(graph)?;
    simplify::run(graph)
}

/// Runs all passes. `observe` sees the graph as loaded (stage `load`) and after each pass.
pub fn optimise(
    graph: &mut Graph,
    observe: &mut dyn FnMut(&str, &Graph),
) -> Result<(), GraphError> {
    observe("load", graph);
    for pass in PASSES {
        (pass.run)(graph).map_err(|e| {
            GraphError::new(e.place, format!("{} (in pass '{}')", e.message, pass.name))
        })?;
        debug_assert_eq!(graph.verify(), Ok(()), "after pass {}", pass.name);
        observe(pass.name, graph);
    }
    Ok(())
}
