//! ONNX's own test suite: every case that the `onnx` package carries is loaded and run, by the
//! reference implementations as the file stands, and as a plan.
//!
//! Cases that are not supported are listed with a reason in `onnx_unsupported.txt`. The list cannot
//! rot: a listed case that passes, an unlisted one that fails and a name that is no case all fail
//! the test. A listed case must be refused: a wrong number is no excuse. Where the expected numbers
//! are themselves further off than their tolerance, a reason `within X: …` says how far; `within
//! inf` compares types and sizes only.
//!
//! `KINGLET_ONNX_CASES` limits a run to the cases whose names hold it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kinglet_formats::onnx;
use kinglet_graph::ops::convert::floats;
use kinglet_graph::{Bytes, DType, Dims, Graph, Tensor, interpret};
use kinglet_runtime::{Plan, PlanOptions};

const KINDS: &[&str] = &["node", "simple", "pytorch-converted", "pytorch-operator", "light"];

/// At least this share of the node cases must pass.
const NODE_SHARE: f64 = 0.90;

/// How a case went.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Passed,
    /// An error: at loading or at running.
    Refused(String),
    /// A wrong result, or a panic.
    Wrong(String),
}

/// One case, and how close to the expected numbers it must come.
#[derive(Clone)]
struct Case {
    name: String,
    folder: PathBuf,
    rtol: f64,
    atol: f64,
}

fn cases(suite: &Path, kind: &str) -> Vec<Case> {
    let folder = suite.join(kind);
    let tolerances = std::fs::read_to_string(folder.join("tolerances.txt"))
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let case = |line: &str| {
        let mut parts = line.split(' ');
        let mut part = || parts.next().expect("a line is CASE RTOL ATOL");
        Case {
            name: part().to_string(),
            rtol: part().parse().expect("RTOL is a number"),
            atol: part().parse().expect("ATOL is a number"),
            folder: folder.join(line.split(' ').next().expect("a line names its case")),
        }
    };
    tolerances.lines().map(case).collect()
}

/// The listed cases, each with the reason under which it stands.
fn unsupported() -> BTreeMap<String, String> {
    let text = include_str!("onnx_unsupported.txt");
    let mut reason = "";
    let mut listed = BTreeMap::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => reason = line,
            Some(name) => {
                assert!(!reason.is_empty(), "{name} stands under no reason");
                let before = listed.insert(name.to_string(), reason.to_string());
                assert!(before.is_none(), "{name} is listed twice");
            }
        }
    }
    listed
}

/// How far off the numbers of a case may be that is listed for this reason.
fn allowance(reason: &str) -> Option<f64> {
    let (number, _) = reason.strip_prefix("within ")?.split_once(':')?;
    Some(number.parse().expect("`within` is followed by a number"))
}

fn read(path: &Path) -> Result<Tensor, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    onnx::tensor(&Bytes::new(Arc::new(bytes))).map_err(|e| format!("{}: {e}", path.display()))
}

/// The tensors `NAME_0.pb`, `NAME_1.pb` … of a folder.
fn tensors(folder: &Path, name: &str) -> Result<Vec<Tensor>, String> {
    let path = |i: usize| folder.join(format!("{name}_{i}.pb"));
    (0..).map(path).take_while(|p| p.exists()).map(|p| read(&p)).collect()
}

/// The plan of a graph for these inputs.
fn plan(graph: &Graph, inputs: &[Tensor]) -> Result<Plan, String> {
    let sizes = inputs.iter().map(|t| Dims::from_slice(t.dims())).collect();
    let options = PlanOptions { input_shapes: Some(sizes), threads: 1, ..PlanOptions::default() };
    Plan::new(graph, &options).map_err(|e| e.to_string())
}

/// The outputs of a plan made for these inputs.
fn planned(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let mut plan = plan(graph, inputs)?;
    for (i, input) in inputs.iter().enumerate() {
        plan.set_input(i, &input.view()).map_err(|e| e.to_string())?;
    }
    plan.run().map_err(|e| e.to_string())?;
    Ok((0..plan.outputs().len()).map(|i| Tensor::copy_of(&plan.output(i))).collect())
}

fn run(case: &Case) -> Outcome {
    let graph = match onnx::load(&case.folder.join("model.onnx")) {
        Ok(graph) => graph,
        Err(e) => return Outcome::Refused(e.error.to_string()),
    };
    let sets = (0..).map(|i| case.folder.join(format!("test_data_set_{i}")));
    let mut count = 0;
    for set in sets.take_while(|set| set.exists()) {
        count += 1;
        let (inputs, want) = match (tensors(&set, "input"), tensors(&set, "output")) {
            (Ok(inputs), Ok(want)) => (inputs, want),
            (Err(e), _) | (_, Err(e)) => return Outcome::Refused(e),
        };
        // The reference implementations would take minutes for a whole model.
        if !case.folder.to_string_lossy().contains("light") {
            let got = match interpret(&graph, &inputs) {
                Ok(got) => got,
                Err(e) => return Outcome::Refused(e.to_string()),
            };
            if let Err(e) = compare(case, &got, &want) {
                return Outcome::Wrong(e);
            }
        }
        let as_plan = planned(&graph, &inputs).and_then(|got| compare(case, &got, &want));
        if let Err(e) = as_plan {
            return Outcome::Wrong(format!("as a plan: {e}"));
        }
    }
    match count {
        0 => Outcome::Wrong("it has no data".into()),
        _ => Outcome::Passed,
    }
}

/// As `numpy.testing.assert_allclose` and the suite's own runner.
fn compare(case: &Case, got: &[Tensor], want: &[Tensor]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} outputs, expected {}", got.len(), want.len()));
    }
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        if (got.dtype(), got.dims()) != (want.dtype(), want.dims()) {
            return Err(format!("output {i} is {got:?}, expected {want:?}"));
        }
        let rtol = match got.dtype() {
            DType::BF16 => case.rtol.max(1.0 / 64.0),
            _ => case.rtol,
        };
        let numbers = |t: &Tensor| floats(&t.view()).map_err(|e| e.to_string());
        for (k, (a, b)) in numbers(got)?.into_iter().zip(numbers(want)?).enumerate() {
            let close =
                (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= case.atol + rtol * b.abs();
            if !close {
                return Err(format!("output {i}, element {k}: {a}, expected {b}"));
            }
        }
    }
    Ok(())
}

/// Runs all cases on all cores.
fn run_all(cases: &[Case]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut outcomes: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(case) = cases.get(at) else { break };
                let outcome = std::panic::catch_unwind(|| run(case))
                    .unwrap_or_else(|_| Outcome::Wrong("it panicked".into()));
                done.push((at, outcome));
            }
            done
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|w| w.join().expect("workers catch panics")).collect()
    });
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[test]
fn the_suite_passes_but_for_the_listed_cases() {
    let Some(suite) = kinglet_testing::onnx_suite() else { return };
    let only = std::env::var("KINGLET_ONNX_CASES").ok();
    let listed = unsupported();
    let mut names = BTreeSet::new();
    let mut complaints = String::new();
    let mut by_reason: BTreeMap<&str, usize> = BTreeMap::new();
    for kind in KINDS {
        let mut cases = cases(&suite, kind);
        cases.retain(|c| only.as_ref().is_none_or(|only| c.name.contains(only)));
        let outcomes = run_all(&cases);
        let passed = outcomes.iter().filter(|o| **o == Outcome::Passed).count();
        println!("{kind}: {passed} of {} cases pass", cases.len());
        if *kind == "node" && only.is_none() && (passed as f64) < NODE_SHARE * cases.len() as f64 {
            writeln!(complaints, "node: fewer than {NODE_SHARE} pass").expect("a string grows");
        }
        for (case, outcome) in cases.iter().zip(outcomes) {
            names.insert(case.name.clone());
            let reason = listed.get(&case.name).map(String::as_str);
            if let Some(reason) = reason {
                *by_reason.entry(reason).or_default() += 1;
            }
            let name = format!("{kind}/{}", case.name);
            let allowed = reason.and_then(allowance);
            let near = |atol: f64| run(&Case { atol, ..case.clone() }) == Outcome::Passed;
            let complaint = match (outcome, reason) {
                (Outcome::Passed, None) => continue,
                (Outcome::Refused(_), Some(_)) if allowed.is_none() => continue,
                (Outcome::Wrong(_), Some(_)) if allowed.is_some_and(near) => continue,
                // Numbers that are drawn may be the expected ones.
                (Outcome::Passed, Some(_)) if allowed == Some(f64::INFINITY) => continue,
                (Outcome::Passed, Some(reason)) => format!("{name}: listed ({reason}) but passes"),
                (Outcome::Refused(e), _) => format!("{name}: refused: {e}"),
                (Outcome::Wrong(e), _) => format!("{name}: WRONG: {e}"),
            };
            writeln!(complaints, "{complaint}").expect("a string grows");
        }
    }
    for (reason, count) in by_reason {
        println!("not supported, {count} cases: {reason}");
    }
    if only.is_none() {
        for name in listed.keys().filter(|name| !names.contains(*name)) {
            writeln!(complaints, "{name}: listed, but no such case").expect("a string grows");
        }
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

/// A length-delimited field of a protobuf message, and what follows it.
fn field(message: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (key, at) = varint(message)?;
    let rest = &message[at..];
    Some(match key & 7 {
        0 => {
            let (_, n) = varint(rest)?;
            (key, &rest[..n], &rest[n..])
        }
        2 => {
            let (len, n) = varint(rest)?;
            let end = n + usize::try_from(len).ok()?;
            (key, &rest[n..end], &rest[end..])
        }
        other => panic!("wire type {other}"),
    })
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let end = bytes.iter().position(|b| *b < 0x80)?;
    let value = bytes[..=end].iter().rev().fold(0, |value, b| value << 7 | u64::from(b & 0x7f));
    Some((value, end + 1))
}

fn put(message: &mut Vec<u8>, number: u64) {
    let mut left = number;
    while left > 0x7f {
        message.push(left as u8 | 0x80);
        left >>= 7;
    }
    message.push(left as u8);
}

fn put_field(message: &mut Vec<u8>, key: u64, content: &[u8]) {
    put(message, key);
    if key & 7 == 2 {
        put(message, content.len() as u64);
    }
    message.extend(content);
}

/// A model file with these serialised tensors as initializers of its graph.
fn with_initializers(model: &[u8], tensors: &[Vec<u8>]) -> Vec<u8> {
    const GRAPH: u64 = 7 << 3 | 2;
    const INITIALIZER: u64 = 5 << 3 | 2;
    let (mut out, mut rest) = (Vec::new(), model);
    while let Some((key, content, after)) = field(rest) {
        let mut content = content.to_vec();
        if key == GRAPH {
            tensors.iter().for_each(|tensor| put_field(&mut content, INITIALIZER, tensor));
        }
        put_field(&mut out, key, &content);
        rest = after;
    }
    out
}

/// The suite gives all operands when the graph runs; quantised files have all but one as constants,
/// and integer kernels then.
#[test]
fn integer_cases_pass_with_constant_operands_and_by_integer_kernels() {
    let Some(suite) = kinglet_testing::onnx_suite() else { return };
    let only = ["qlinear", "integer"];
    let cases: Vec<Case> = cases(&suite, "node")
        .into_iter()
        .filter(|case| only.iter().any(|part| case.name.contains(part)))
        .collect();
    assert!(cases.len() >= 12);
    for case in cases {
        let name = &case.name;
        let set = case.folder.join("test_data_set_0");
        let inputs = tensors(&set, "input").unwrap();
        let want = tensors(&set, "output").unwrap();
        // The zero point of an integer product may be known when running only.
        let dynamic = name.contains("integer") && inputs.len() > 2;
        for kept in [&[0][..], &[0, 2]].into_iter().take(1 + usize::from(dynamic)) {
            let frozen: Vec<Vec<u8>> = (0..inputs.len())
                .filter(|i| !kept.contains(i))
                .map(|i| std::fs::read(set.join(format!("input_{i}.pb"))).unwrap())
                .collect();
            let model = std::fs::read(case.folder.join("model.onnx")).unwrap();
            let model = Bytes::new(Arc::new(with_initializers(&model, &frozen)));
            let graph = onnx::parse(model, None).unwrap_or_else(|e| panic!("{name}: {e}"));
            let inputs: Vec<Tensor> = kept.iter().map(|i| inputs[*i].clone()).collect();
            let got = interpret(&graph, &inputs).unwrap();
            compare(&case, &got, &want).unwrap_or_else(|e| panic!("{name}: {e}"));
            let got = planned(&graph, &inputs).unwrap();
            compare(&case, &got, &want).unwrap_or_else(|e| panic!("{name} as a plan: {e}"));
            let plan = plan(&graph, &inputs).unwrap();
            let kernels: Vec<String> = plan.steps().map(|step| step.kernel).collect();
            // Scales of half precision are no quantisation of ours, stacks of matrices no weights.
            let rare = name.contains("float16") || name.contains("3D");
            let integer = kernels.iter().any(|k| k.starts_with("qconv"));
            assert_eq!(integer, !rare, "{name} {kept:?}: {kernels:?}");
        }
    }
}
