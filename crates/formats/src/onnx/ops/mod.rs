//! The table of ops: for each, the operator-set version from which an entry holds, and the import
//! function. Entries stand by subject in the files of this folder.

mod attention;
mod control;
mod detection;
mod elementwise;
mod image;
mod integer;
mod linear_algebra;
mod microsoft;
mod ml;
mod movement;
mod nn;
mod norm;
mod optional;
mod quantize;
mod random;
mod reduce;
mod rnn;
mod scatter;
mod signal;

use kinglet_graph::{OpError, OpResult};

use super::context::Cx;

/// The newest operator set known.
pub const NEWEST_OPSET: i64 = 28;

/// Turns one node into ops of the graph.
pub type Import = fn(&mut Cx<'_, '_>) -> OpResult;

/// From `since` on, `op_type` is imported by `import`.
pub struct Entry {
    domain: &'static str,
    op_type: &'static str,
    since: i64,
    import: Import,
}

/// An entry of the default domain.
const fn op(op_type: &'static str, since: i64, import: Import) -> Entry {
    Entry { domain: "", op_type, since, import }
}

/// An entry of another domain.
const fn op_in(domain: &'static str, op_type: &'static str, since: i64, import: Import) -> Entry {
    Entry { domain, op_type, since, import }
}

/// The whole table.
const TABLE: &[&[Entry]] = &[
    attention::TABLE,
    control::TABLE,
    detection::TABLE,
    elementwise::TABLE,
    image::TABLE,
    integer::TABLE,
    linear_algebra::TABLE,
    microsoft::TABLE,
    ml::TABLE,
    movement::TABLE,
    nn::TABLE,
    norm::TABLE,
    optional::TABLE,
    quantize::TABLE,
    random::TABLE,
    reduce::TABLE,
    rnn::TABLE,
    scatter::TABLE,
    signal::TABLE,
];

/// How `op_type` is imported at `version` of its domain.
pub fn find(domain: &str, op_type: &str, version: i64) -> OpResult<Import> {
    let entries = || {
        let all = TABLE.iter().copied().flatten();
        all.filter(move |e| e.domain == domain && e.op_type == op_type)
    };
    if let Some(entry) = entries().filter(|e| e.since <= version).max_by_key(|e| e.since) {
        return Ok(entry.import);
    }
    Err(OpError::new(match entries().map(|e| e.since).min() {
        Some(since) => format!(
            "the file uses it as of operator set {version}; it is supported from {since}: convert \
             the model with onnx.version_converter"
        ),
        None => "this op is not supported".into(),
    }))
}
