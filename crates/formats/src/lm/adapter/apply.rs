//! Adapters in a model's graph, counted as an input says.

use super::beside::{Low, beside};
use super::{Adapter, Part};
use kinglet_graph::ops::gather::Gather;
use kinglet_graph::{DType, Fold, Graph, GraphError, OpError, Shape, Tensor, ValueType, infer};
use std::collections::{BTreeMap, HashMap};

/// Puts `adapters` beside the weights of a model's `graph`, whose types are inferred, and adds an input
/// `adapters`, f32 [n]: how much each of the n counts.
///
/// # Errors
/// If two have one name; or one is for a weight that the graph lacks, that something else reads too, or
/// of other sizes.
pub fn adapt(graph: &mut Graph, adapters: &[Adapter]) -> Result<(), GraphError> {
    for (i, adapter) in adapters.iter().enumerate() {
        if adapters[..i].iter().any(|other| other.name == adapter.name) {
            let m = "two are called so, and could not be told apart: rename one";
            return Err(of(adapter, m));
        }
    }
    let shape = Shape::new(vec![adapters.len().into()]);
    let counts = graph.add_input("adapters", ValueType::new(DType::F32, shape));
    let mut factors = HashMap::new();
    // Of each adapter's parts, the rows that stand beside something.
    let mut used: Vec<BTreeMap<&str, usize>> = vec![BTreeMap::new(); adapters.len()];
    beside(graph, |graph, weight| {
        let name = graph.value(weight).name.clone();
        let (whole, first) = rows_of(&name).unwrap_or((&name, 0));
        let dims = graph.value(weight).data.as_ref().map_or(&[][..], |w| w.dims()).to_vec();
        let mut parts = Vec::new();
        for (i, adapter) in adapters.iter().enumerate() {
            let Some((own, part)) = adapter.parts.iter().find(|(own, _)| *own == whole) else {
                continue;
            };
            let part = part_rows(part, first, &dims);
            parts.push((i, part.map_err(|e| of(adapter, &format!("'{own}': {e}")))?));
            *used[i].entry(own).or_default() += dims[0];
        }
        let Some(&m) = dims.first().filter(|_| !parts.is_empty()) else { return Ok(None) };
        let fail = |e: OpError| GraphError::new(name.clone(), e.to_string());
        let each: Vec<_> = parts.iter().map(|(_, part)| (part, (0..m).collect())).collect();
        let Part { a, b, .. } = Part::stacked(m, &each).map_err(fail)?;
        let a = graph.add_constant(format!("{name}.lora_a"), a);
        let b = graph.add_constant(format!("{name}.lora_b"), b);
        let each = parts.iter().flat_map(|(i, p)| std::iter::repeat_n(*i as i32, p.rank()));
        let rows: Vec<i32> = each.collect();
        let factor = match factors.get(&rows) {
            Some(factor) => *factor,
            None => {
                let indices = Tensor::from_slice(&[rows.len()], &rows).map_err(fail)?;
                let indices = graph.add_constant("", indices);
                let op = Gather::default();
                let factor = graph.apply("adapters.rows", op, &[counts, indices], DType::F32);
                factors.insert(rows, factor);
                factor
            }
        };
        Ok(Some(Low { a, b, factor }))
    })?;
    for (adapter, used) in adapters.iter().zip(used) {
        for (name, part) in adapter.parts.iter() {
            let rows = part.b.dims()[0];
            let m = match used.get(name) {
                Some(used) if *used == rows => continue,
                Some(used) => format!("'{name}': B has {rows} rows, and the weight has {used}"),
                None => format!(
                    "it changes '{name}', and the model has no product by such a weight alone"
                ),
            };
            return Err(of(adapter, &m));
        }
    }
    infer(graph, Fold::Shapes)?;
    graph.verify()
}

fn of(adapter: &Adapter, message: &str) -> GraphError {
    GraphError::new(format!("adapter '{}'", adapter.name), message)
}

/// The tensor that a constant called `WEIGHT[first..end]` has rows of, and the first.
pub fn rows_of(name: &str) -> Option<(&str, usize)> {
    let (whole, range) = name.strip_suffix(']')?.rsplit_once('[')?;
    Some((whole, range.split_once("..")?.0.parse().ok()?))
}

/// The part for a weight of sizes `dims`, which has the rows from `first` on.
fn part_rows(part: &Part, first: usize, dims: &[usize]) -> Result<Part, String> {
    let wrong = || {
        format!("A is {:?} and B is {:?}, for a weight of {dims:?}", part.a.dims(), part.b.dims())
    };
    let &[m, k] = dims else { return Err(wrong()) };
    if part.a.dims()[1] != k || first + m > part.b.dims()[0] {
        return Err(wrong());
    }
    let b = part.b.rows(first, m).map_err(|e| e.to_string())?;
    Ok(Part { b, ..part.clone() })
}
