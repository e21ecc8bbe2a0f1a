//! TFLite models of one operator, against LiteRT's reference kernels. `tflite/make.py` makes them.

use kinglet_formats::tflite;
use kinglet_graph::{Bytes, Fold, Graph, Interpreter, Tensor, infer};
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_testing::Array;
use std::collections::BTreeMap;
use std::sync::Arc;

mod compare;
use compare::{difference, tensor};

struct Case {
    model: Vec<u8>,
    runs: Vec<(Vec<Array>, Vec<Array>)>,
}

fn cases() -> BTreeMap<String, Case> {
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for (key, array) in kinglet_testing::tflite_cases() {
        if let Some(name) = key.strip_suffix(".model") {
            cases.insert(name.into(), Case { model: array.data, runs: Vec::new() });
            continue;
        }
        let (name, rest) = key.split_once('/').expect("NAME/RUN.PART");
        let (run, part) = rest.split_once('.').expect("RUN.PART");
        let run: usize = run.parse().expect("a run is a number");
        let runs = &mut cases.get_mut(name).expect("the model comes first").runs;
        while runs.len() <= run {
            runs.push((Vec::new(), Vec::new()));
        }
        let side = if part.starts_with("in") { &mut runs[run].0 } else { &mut runs[run].1 };
        side.push(array);
    }
    cases
}

fn load(model: &[u8]) -> Result<Graph, String> {
    let bytes = Bytes::new(Arc::new(model.to_vec()));
    let mut graph = tflite::parse(bytes).map_err(|e| e.to_string())?;
    infer(&mut graph, Fold::Shapes).map_err(|e| e.to_string())?;
    graph.verify().map_err(|e| e.to_string())?;
    Ok(graph)
}

/// How far integers may be off: a step where a function of floats is tabulated or approximated, and
/// in sums of int8, whose reference kernel is wrong and whose optimised one rounds once.
fn steps(name: &str) -> f64 {
    let one = ["log_softmax_", "gelu_", "exp_", "elu_", "sum_i8_"];
    f64::from(u8::from(one.iter().any(|prefix| name.starts_with(prefix))))
}

/// Runs a case by the interpreter, then by a plan.
fn run(name: &str, case: &Case) -> Result<(), String> {
    let graph = load(&case.model)?;
    let mut interpreter = Interpreter::new(&graph).map_err(|e| e.to_string())?;
    compare(name, case, |inputs| interpreter.run(&graph, inputs).map_err(|e| e.to_string()))?;
    let sizes = case.runs[0].0.iter().map(|input| input.shape.as_slice().into()).collect();
    let options = PlanOptions { input_shapes: Some(sizes), threads: 1, ..PlanOptions::default() };
    let mut plan = Plan::new(&graph, &options).map_err(|e| format!("to plan: {e}"))?;
    compare(name, case, |inputs| {
        for (i, input) in inputs.iter().enumerate() {
            plan.set_input(i, &input.view()).map_err(|e| e.to_string())?;
        }
        plan.run().map_err(|e| e.to_string())?;
        Ok((0..plan.outputs().len()).map(|i| Tensor::copy_of(&plan.output(i))).collect())
    })
    .map_err(|e| format!("as a plan: {e}"))
}

/// What `execute` makes of each run's inputs, one run after the other, against what is recorded.
fn compare(
    name: &str,
    case: &Case,
    mut execute: impl FnMut(&[Tensor]) -> Result<Vec<Tensor>, String>,
) -> Result<(), String> {
    for (k, (inputs, wanted)) in case.runs.iter().enumerate() {
        let inputs: Vec<_> = inputs.iter().map(tensor).collect();
        let outputs = execute(&inputs).map_err(|e| format!("run {k}: {e}"))?;
        if outputs.len() != wanted.len() {
            return Err(format!("{} outputs, not {}", outputs.len(), wanted.len()));
        }
        for (i, (got, want)) in outputs.iter().zip(wanted).enumerate() {
            difference(got, want, steps(name), 1e-5)
                .map_err(|e| format!("run {k}, output {i}: {e}"))?;
        }
    }
    Ok(())
}

/// Cases that are not supported, with the reason that the importer gives.
const REFUSED: &[(&str, &str)] = &[];

#[test]
fn every_operator_computes_what_lite_rt_does() {
    let cases = cases();
    assert!(cases.len() > 500, "{}", cases.len());
    let mut failures = Vec::new();
    for (name, case) in &cases {
        let refused = REFUSED.iter().find(|(n, _)| n == name);
        match (run(name, case), refused) {
            (Ok(()), None) => {}
            (Err(e), Some((_, why))) if e.contains(why) => {}
            (Ok(()), Some(_)) => failures.push(format!("{name}: runs, and is listed as refused")),
            (Err(e), _) => failures.push(format!("{name}: {e}")),
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}
