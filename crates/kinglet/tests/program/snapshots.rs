//! What `kinglet inspect` says of one small model of each format, and every stage of its graph.
//!
//! By the portable kernels and one thread, so that every machine says the same.

use crate::common::{file, folder, kinglet_with};
use kinglet_testing::fixture;

/// Keeps what `inspect` prints of a model, and of its stages, as snapshots called `name`.
fn check(name: &str, model: &str) {
    let variables = [("KINGLET_ISA", "portable")];
    let words = ["inspect", model, "--threads", "1"];
    let report = kinglet_with(words, variables);
    assert_eq!(report.status, 0, "{}", report.stderr);
    insta::assert_snapshot!(format!("{name}_report"), report.stdout.replace(model, name));
    let stages = kinglet_with(words.into_iter().chain(["--stage", "all"]), variables);
    assert_eq!(stages.status, 0, "{}", stages.stderr);
    insta::assert_snapshot!(format!("{name}_stages"), stages.stdout);
}

#[test]
fn an_onnx_model() {
    check("onnx", fixture("onnx/qdq_u8s8_channel.onnx").to_str().unwrap());
}

#[test]
fn a_tflite_model() {
    // With state, control of its first content, and a shape of its own.
    let cases = kinglet_testing::tflite_cases();
    let model = &cases.iter().find(|(name, _)| name == "resource_variable.model").unwrap().1;
    let folder = folder();
    check("tflite", &file(&folder, "model.tflite", &model.data));
}
