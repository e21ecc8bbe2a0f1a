//! That no op is forgotten: the sources of the ops are read, so that the lists below can't fall
//! behind them.

use std::collections::BTreeSet;
use std::path::Path;

/// Ops that have no gradient rule, and why.
const WITHOUT: &[(&str, &[&str])] = &[
    (
        "gives integers or truth values, which have no gradients",
        &[
            "ArgReduce",
            "Bitwise",
            "Compare",
            "FloatTest",
            "Logical",
            "NonMaxSuppression",
            "NonZero",
            "Not",
            "OneHot",
            "RankOf",
            "ShapeOf",
            "SizeOf",
            "SoftNonMaxSuppression",
            "DetectionPostProcess",
            "Multinomial",
            "BitCast",
        ],
    ),
    (
        "depends on no float that is trained",
        &[
            "Fill",
            "Random",
            "RandomLike",
            "Bernoulli",
            "Range",
            "MelWeightMatrix",
            "Window",
            "Angles",
            "StateRead",
            "StateWrite",
        ],
    ),
    (
        "computes on stored integers: training these is a task of its own",
        &[
            "Dequantize",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "FakeQuant",
            "HybridConv",
            "HybridLstm",
            "HybridMatMul",
            "Quantize",
            "QuantizeLinear",
            "QBinary",
            "QCompare",
            "QConv",
            "QConvAdd",
            "QConvTranspose",
            "QL2Norm",
            "QLogSoftmax",
            "QLstm",
            "QLstmCell",
            "QMatMul",
            "QPRelu",
            "QPool",
            "QReduce",
            "QSoftmax",
            "QSvdf",
            "QUnary",
        ],
    ),
    (
        "is made by gradient rules, whose own gradients nothing asks for",
        &[
            "BatchNormGradient",
            "ConvWeightGradient",
            "FakeQuantizeGradient",
            "LinearTranspose",
            "PoolGradient",
            "RowAttentionGradient",
            "Slope",
            "SoftLossGradient",
        ],
    ),
    ("is made by the runtime's passes, after differentiation", &["Linears"]),
    ("runs other graphs", &["Call", "If", "Loop", "Scan", "While"]),
    (
        "holds a memory from row to row or step to step, to be unrolled",
        &[
            "DeltaRule",
            "LinearAttention",
            "Recurrent",
            "RowConv",
            "SelectiveScan",
            "SequenceLstm",
            "SequenceRnn",
            "Svdf",
        ],
    ),
    ("a mixture of experts is not trained yet", &["ExpertLinear"]),
    (
        "is not found in nets that are trained on devices; nobody needed it yet",
        &[
            "AffineGrid",
            "Attention",
            "CenterCropPad",
            "Col2Im",
            "Compress",
            "DeformConv",
            "Det",
            "Dft",
            "Dropout",
            "GridSample",
            "LocalResponseNorm",
            "MatrixDiag",
            "MatrixSetDiag",
            "MaxRoiPool",
            "MaxUnpool",
            "Resize",
            "RoiAlign",
            "RotaryEmbedding",
            "Stft",
            "TensorScatter",
            "Unique",
            "UpdateSlice",
        ],
    ),
];

/// Every source file of the ops.
fn sources(folder: &Path, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn all_sources() -> Vec<String> {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../graph/src/ops"), &mut all);
    all
}

/// The names of all ops, and whether each has a gradient rule.
fn ops() -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for text in all_sources() {
        for part in text.split("\nimpl Op for ").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric()).collect();
            let body = &part[..part.find("\n}").expect("an implementation ends")];
            let rule = body.contains("fn gradient(") || body.contains("gradient_of_a_view!()");
            found.push((name, rule));
        }
    }
    found
}

#[test]
fn every_op_has_a_gradient_row_or_a_reason() {
    let ops = ops();
    assert!(ops.len() > 120, "only {} ops found", ops.len());
    let rows: BTreeSet<&str> = super::covered().0.into_iter().collect();
    let listed: BTreeSet<&str> = WITHOUT.iter().flat_map(|(_, names)| *names).copied().collect();
    let mut wrong = Vec::new();
    for (name, rule) in &ops {
        match (rule, rows.contains(name.as_str()), listed.contains(name.as_str())) {
            (true, true, false) | (false, false, true) => {}
            (true, false, _) => wrong.push(format!("{name} has a rule and no row in the table")),
            (true, true, true) => wrong.push(format!("{name} has a rule: take it off the list")),
            (false, ..) => wrong.push(format!("{name} has no rule: give it one, or say why not")),
        }
    }
    let names: BTreeSet<&str> = ops.iter().map(|(name, _)| name.as_str()).collect();
    for stale in listed.iter().chain(&rows).filter(|name| !names.contains(*name)) {
        wrong.push(format!("{stale} is no op"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The functions that the tables of `Unary` and `Binary` have.
fn functions() -> Vec<String> {
    let mut found = Vec::new();
    for text in all_sources() {
        let tables = text.split("\nfunctions! {\n").skip(1);
        for table in tables.map(|t| &t[..t.find("\n}").expect("a table ends")]) {
            for line in table.lines().filter_map(|l| l.strip_prefix("    ")) {
                let name: String = line.chars().take_while(|c| c.is_alphanumeric()).collect();
                if name.starts_with(char::is_uppercase) {
                    found.push(name);
                }
            }
        }
    }
    found
}

#[test]
fn every_function_of_elements_has_a_row() {
    let functions = functions();
    assert!(functions.len() > 50, "only {functions:?} found");
    let rows: BTreeSet<&str> = super::covered().1.into_iter().collect();
    let missing: Vec<_> = functions.iter().filter(|f| !rows.contains(f.as_str())).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}
