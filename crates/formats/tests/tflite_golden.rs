//! Whole TFLite models, run by the graph's reference interpreter, against LiteRT's reference
//! kernels: integers exactly, floats within 1e-5 of their scale.

use kinglet_formats::tflite;
use kinglet_graph::{Fold, Graph, Interpreter, Tensor, infer};
use kinglet_testing::{golden, model};

mod compare;
use compare::{difference, tensor};

fn load(file: &str) -> Option<Graph> {
    let path = model(file)?;
    let mut graph = tflite::load(&path).unwrap_or_else(|e| panic!("{e}"));
    infer(&mut graph, Fold::Shapes).unwrap_or_else(|e| panic!("{file}: {e}"));
    graph.verify().unwrap_or_else(|e| panic!("{file}: {e}"));
    Some(graph)
}

/// Runs `folder/name.tflite` on its golden cases.
fn check(folder: &str, name: &str) {
    let (Some(graph), Some(cases)) = (load(&format!("{folder}/{name}.tflite")), golden(name))
    else {
        return;
    };
    for case in cases {
        // Each case was recorded from the initial state.
        let mut interpreter = Interpreter::new(&graph).unwrap();
        let inputs: Vec<Tensor> = case.inputs.iter().map(tensor).collect();
        let outputs = interpreter.run(&graph, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(outputs.len(), case.outputs.len(), "{name}");
        for (i, (got, want)) in outputs.iter().zip(&case.outputs).enumerate() {
            difference(got, want, 0.0, 1e-5)
                .unwrap_or_else(|e| panic!("{name}, {}, output {i}: {e}", case.name));
        }
    }
}

kinglet_testing::golden_models!(check);
