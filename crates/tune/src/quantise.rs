//! Training that is aware of quantisation: weights are trained in f32, and all that reads them sees them
//! as they will be stored; gradients pass the rounding straight through (Bengio et al., arXiv 1308.3432;
//! Jacob et al., arXiv 1712.05877; of three values, BitNet b1.58, arXiv 2402.17764).
//!
//! Each function here changes a graph before it is differentiated. A value that it is asked to round may
//! be a constant, which can be among those that are trained, or anything that a node computes.

use crate::backward::{place, widen};
use crate::optimiser::{state, write};
use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::fake_quantize::{FakeEncode, FakeQuantize, Integers};
use kinglet_graph::ops::reduce::ReduceKind;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{
    Builder, DType, Fold, Graph, GraphError, OpError, OpResult, Shape, StateId, Tensor, ValueId,
    ValueType, infer,
};

/// Lets all that reads `v` see it as a file holds it in `dtype`: f16, bf16 or an encoding of blocks.
/// Returns what they read now.
///
/// # Errors
/// If it is no float, or its rows are no whole blocks.
pub fn store_as(graph: &mut Graph, v: ValueId, dtype: DType) -> Result<ValueId, GraphError> {
    rounded(graph, v, |b| b.apply(FakeEncode { dtype }, &[v]))
}

/// Where the scale of a weight's integers comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The largest magnitude is the highest integer.
    Largest,
    /// It is learned (LSQ; Esser et al., arXiv 1902.08153), from where that paper lets it begin.
    Learned,
}

/// Lets all that reads the constant `weight` see it as symmetric integers of `bits` bits, 2 to 8, with a
/// scale for each index along `axis`, or one for all. Returns the scale that is to be trained with it,
/// where it is learned: a constant that is called as the weight is, and `.scale`.
///
/// # Errors
/// If it is no constant of floats, or has no such axis.
pub fn integer_weight(
    graph: &mut Graph,
    weight: ValueId,
    bits: u32,
    axis: Option<usize>,
    scale: Scale,
) -> Result<Option<ValueId>, GraphError> {
    let at = |graph: &Graph, e: OpError| GraphError::new(place(graph, weight), e.to_string());
    let integers = Integers::symmetric(bits, axis).map_err(|e| at(graph, e))?;
    widen(graph, weight)?;
    let value = graph.value(weight);
    let Some(data) = value.data.clone() else {
        return Err(GraphError::new(place(graph, weight), "is no constant"));
    };
    let mut learned = None;
    if scale == Scale::Learned {
        let name = format!("{}.scale", value.name);
        let start = first_scale(integers, &data).map_err(|e| at(graph, e))?;
        learned = Some(graph.add_constant(name, start));
    }
    rounded(graph, weight, |b| {
        let scale = match learned {
            Some(scale) => scale,
            None => largest(b, weight, integers)?,
        };
        b.apply(FakeQuantize { integers, learned: learned.is_some() }, &[weight, scale])
    })?;
    Ok(learned)
}

/// Where the range of a value's integers comes from. It always has 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// The least and the largest element of the batch.
    Batch,
    /// A running mean of those of all batches before: what a model that is written needs to know. Of the
    /// old one `keep` is kept; the first is `low` to `high`.
    Running {
        /// The share of the range that is kept.
        keep: f32,
        /// Where the range begins.
        low: f32,
        /// Where it ends.
        high: f32,
    },
}

/// Lets all that reads the activations `v` see them as unsigned integers of `bits` bits, 2 to 8, about a
/// zero point, with one scale for all of a batch. A running range is state, called as the value is, and
/// `.range`: what is stored of a model that is trained so.
///
/// # Errors
/// If they are no f32, or of no known rank.
pub fn integer_activation(
    graph: &mut Graph,
    v: ValueId,
    bits: u32,
    seen: Range,
) -> Result<(), GraphError> {
    let integers = Integers::unsigned(bits, None);
    let integers = integers.map_err(|e| GraphError::new(place(graph, v), e.to_string()))?;
    infer(graph, Fold::Shapes)?;
    rounded(graph, v, |b| {
        let axes: Vec<usize> = (0..b.rank(v)?).collect();
        let low = b.reduce(ReduceKind::Min, v, &axes, false)?;
        let high = b.reduce(ReduceKind::Max, v, &axes, false)?;
        let (mut ends, mut running) = ([low, high], Vec::new());
        if let Range::Running { keep, low, high } = seen {
            for (now, first) in ends.iter_mut().zip([("low", low), ("high", high)]) {
                let end = end(b, v, first, *now, f64::from(keep))?;
                *now = end.before;
                running.push(end);
            }
        }
        let zero = b.scalar(0.0, v)?;
        let low = b.binary(BinaryFn::Min, ends[0], zero)?;
        let high = b.binary(BinaryFn::Max, ends[1], zero)?;
        let range = b.sub(high, low)?;
        let scale = b.scaled(range, 1.0 / f64::from(integers.high))?;
        let scale = above_zero(b, scale)?;
        let steps = b.div(low, scale)?;
        let steps = b.apply(Unary::Round, &[steps])?;
        let zero_point = b.apply(Unary::Neg, &[steps])?;
        let op = FakeQuantize { integers, learned: false };
        let rounded = b.apply(op, &[v, scale, zero_point])?;
        // Once nothing reads what was there before.
        for end in running {
            write(b, end.state, end.after);
        }
        Ok(rounded)
    })?;
    Ok(())
}

/// An end of a running range.
struct End {
    state: StateId,
    /// Before this batch.
    before: ValueId,
    /// With this batch in it.
    after: ValueId,
}

/// The end of `v`'s running range that is called `part` and was `first` at first, where this batch's is
/// `now`.
fn end(
    b: &mut Builder<'_>,
    v: ValueId,
    (part, first): (&str, f32),
    now: ValueId,
    keep: f64,
) -> OpResult<End> {
    let name = format!("{}.range.{part}", b.graph.value(v).name);
    let ty = ValueType::new(b.dtype(v), Shape::new(Vec::new()));
    let (state, before) = state(b, &name, ty)?;
    b.graph.state_mut(state).initial = Some(Tensor::scalar(first));
    let (old, new) = (b.scaled(before, keep)?, b.scaled(now, 1.0 - keep)?);
    Ok(End { state, before, after: b.add(old, new)? })
}

/// The scale by which the largest magnitude is the highest integer.
fn largest(b: &mut Builder<'_>, weight: ValueId, integers: Integers) -> OpResult<ValueId> {
    let axes: Vec<usize> = (0..b.rank(weight)?).filter(|a| Some(*a) != integers.axis).collect();
    let magnitudes = b.apply(Unary::Abs, &[weight])?;
    let most = b.reduce(ReduceKind::Max, magnitudes, &axes, false)?;
    let scale = b.scaled(most, 1.0 / f64::from(integers.high))?;
    above_zero(b, scale)
}

/// Where all elements are 0, any scale serves them.
fn above_zero(b: &mut Builder<'_>, scale: ValueId) -> OpResult<ValueId> {
    let least = b.scalar(f64::from(f32::MIN_POSITIVE), scale)?;
    b.binary(BinaryFn::Max, scale, least)
}

/// Twice the mean magnitude over the root of the highest integer.
fn first_scale(integers: Integers, weight: &Tensor) -> OpResult<Tensor> {
    let around = integers.around(weight.dims())?;
    let values = weight.slice::<f32>()?;
    let mut sums = vec![0f64; around.len];
    for (i, v) in values.iter().enumerate() {
        sums[i / around.inner % around.len] += f64::from(v.abs());
    }
    let count = (values.len() / around.len.max(1)).max(1) as f64;
    let root = f64::from(integers.high).sqrt();
    let start = sums.iter().map(|sum| (2.0 * sum / count / root).max(f64::from(f32::MIN_POSITIVE)));
    let start: Vec<f32> = start.map(|s| s as f32).collect();
    Tensor::from_slice(integers.axis.map_or(&[][..], |_| std::slice::from_ref(&around.len)), &start)
}

/// Lets all that reads `v` read what `make` makes of it, by nodes that come just before the first of them.
fn rounded(
    graph: &mut Graph,
    v: ValueId,
    make: impl FnOnce(&mut Builder<'_>) -> OpResult<ValueId>,
) -> Result<ValueId, GraphError> {
    widen(graph, v)?;
    let reads = |node: &kinglet_graph::Node| node.inputs.contains(&Some(v));
    let end = graph.nodes().len();
    let first = graph.nodes().iter().position(reads).unwrap_or(end);
    let name = format!("{}.rounded", graph.value(v).name);
    let made = make(&mut Builder::new(graph, name));
    let new = made.map_err(|e| GraphError::new(place(graph, v), e.to_string()))?;
    let nodes: Vec<_> = graph.nodes_mut().drain(end..).collect();
    graph.replace_uses(v, new);
    graph.nodes_mut().splice(first..first, nodes);
    Ok(new)
}
