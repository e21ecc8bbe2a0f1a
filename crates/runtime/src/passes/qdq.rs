//! Integer arithmetic for graphs that quantise and dequantise around float ops (QDQ, as ONNX's
//! quantisers write them).
//!
//! First the scales, which such files give as inputs of QuantizeLinear and DequantizeLinear,
//! become part of the values' types. Then a float op whose inputs were just dequantised and whose
//! result is quantised at once becomes the integer op that computes the same, rescaling in floats
//! and rounding half to even. What matches no rule stays as it was, and is right, only slower.

use super::Rewriter;
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::binary::{Binary, BinaryFn};
use kinglet_graph::ops::concat::Concat;
use kinglet_graph::ops::conv::Conv;
use kinglet_graph::ops::gather::Gather;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::pool::{Pool, PoolKind};
use kinglet_graph::ops::quantize_linear::{DequantizeLinear, Granularity, QuantizeLinear};
use kinglet_graph::ops::quantized::{
    Clamp, Dequantize, QBinary, QBinaryKind, QConv, QFunction, QMatMul, QPool, QPoolKind, QUnary,
    Quantize, Rescale, RoundTo,
};
use kinglet_graph::ops::reshape::{Flatten, Identity, Reshape, Squeeze, Unsqueeze};
use kinglet_graph::ops::slice::Slice;
use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{
    DType, Graph, GraphError, Node, NodeId, Op, OpResult, Quant, Tensor, ValueId, ValueType,
};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    for i in 0..graph.nodes().len() {
        scales_to_type(graph, i);
    }
    let links = Rewriter::new(graph);
    for i in 0..graph.nodes().len() {
        let id = graph.node_id(i);
        let Some(found) = Candidate::find(graph, &links, id) else { continue };
        let Some((op, inputs)) =
            integer_op(graph, &found).map_err(|e| GraphError::at(graph.node(id), &e))?
        else {
            continue;
        };
        let name = graph.node(id).name.clone();
        let target = &mut graph.nodes_mut()[found.quantize.index()];
        (target.op, target.inputs, target.name) = (op, inputs, name);
    }
    for i in 0..graph.nodes().len() {
        max_pool_of_codes(graph, i);
    }
    // Nodes that were added stand behind those that need them.
    graph.sort()?;
    graph.remove_unused();
    Ok(())
}

/// The quantisation that constant scale and zero point inputs of `node` mean for a tensor of
/// `rank` dimensions.
fn constant_quant(
    graph: &Graph,
    node: &Node,
    by: Granularity,
    value: ValueId,
) -> Option<Arc<Quant>> {
    let scale = graph.value(node.inputs.get(1).copied()??).data.as_ref()?;
    if by.block_size != 0 || scale.dims().len() > 1 {
        return None;
    }
    let scale = scale.slice::<f32>().ok()?.to_vec();
    let zero_point = match node.inputs.get(2).copied().flatten() {
        None => vec![0; scale.len()],
        Some(zero) => {
            let ints = graph.value(zero).data.as_ref()?.view().ints().ok()?;
            ints.into_iter().map(|z| i32::try_from(z).ok()).collect::<Option<Vec<_>>>()?
        }
    };
    let axis = match scale.len() {
        1 => None,
        _ => {
            let rank = graph.value(value).ty.shape.rank()? as i64;
            let axis = if by.axis < 0 { by.axis + rank } else { by.axis };
            Some(usize::try_from(axis).ok().filter(|axis| *axis < rank as usize)?)
        }
    };
    let fits = scale.len() == zero_point.len() && scale.iter().all(|s| s.is_finite() && *s > 0.0);
    fits.then(|| Arc::new(Quant { scale, zero_point, axis }))
}

/// Gives the quantised value of node `i` its quantisation as type, if it is constant and the
/// value has no other.
fn scales_to_type(graph: &mut Graph, i: usize) {
    let node = &graph.nodes()[i];
    let (Some(input), [out]) = (node.inputs.first().copied().flatten(), &node.outputs[..]) else {
        return;
    };
    let (quantised, by, op): (_, _, Arc<dyn Op>) =
        if let Some(q) = node.op.downcast::<QuantizeLinear>() {
            let is_f32 = graph.value(input).ty.dtype == DType::F32;
            if !is_f32 || q.precision.is_some_and(|p| p != DType::F32) {
                return;
            }
            (*out, q.granularity, Arc::new(Quantize { to: q.to, round: RoundTo::Even }))
        } else if let Some(d) = node.op.downcast::<DequantizeLinear>() {
            if d.to != DType::F32 {
                return;
            }
            (input, d.granularity, Arc::new(Dequantize))
        } else {
            return;
        };
    let known = matches!(
        graph.value(quantised).ty.dtype,
        DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32
    );
    let Some(quant) = constant_quant(graph, node, by, quantised).filter(|_| known) else { return };
    let value = graph.value_mut(quantised);
    if value.ty.quant.as_ref().is_some_and(|own| **own != *quant) {
        return;
    }
    value.ty.quant = Some(quant.clone());
    value.data = value.data.take().map(|data| data.with_quant(Some(quant)));
    let node = &mut graph.nodes_mut()[i];
    node.op = op;
    node.inputs.truncate(1);
}

/// Makes node `i` an integer op where it is a pool that takes the largest of codes.
fn max_pool_of_codes(graph: &mut Graph, i: usize) {
    let node = &graph.nodes()[i];
    let Some(pool) = node.op.downcast::<Pool>() else { return };
    let ([Some(x)], [y]) = (&node.inputs[..], &node.outputs[..]) else { return };
    let (x, y) = (&graph.value(*x).ty, (*y, &graph.value(*y).ty));
    let single = x.quant.as_ref().is_some_and(|q| q.single().is_some());
    let (PoolKind::Max, Activation::None, false) = (pool.kind, pool.activation, pool.ceil) else {
        return;
    };
    let Some(clamp) = Clamp::of(x.dtype).ok().filter(|_| single) else { return };
    if y.1.quant.as_ref().is_some_and(|q| Some(q) != x.quant.as_ref()) {
        return;
    }
    let op = QPool {
        kind: QPoolKind::Max,
        kernel: pool.kernel.clone(),
        window: pool.window.clone(),
        layout: pool.layout,
        clamp,
        rescale: Rescale::Float,
    };
    let (y, quant) = (y.0, x.quant.clone());
    graph.value_mut(y).ty.quant = quant;
    graph.nodes_mut()[i].op = Arc::new(op);
}

/// A float op between dequantised inputs and a quantised result.
struct Candidate {
    node: NodeId,
    /// For each input, the quantised value that it was dequantised from, if it was.
    quantised: Vec<Option<ValueId>>,
    /// The activation between the op and the quantisation.
    activation: Activation,
    /// The node that quantises the result.
    quantize: NodeId,
    to: DType,
    /// The result's quantisation.
    quant: Arc<Quant>,
}

impl Candidate {
    fn find(graph: &Graph, links: &Rewriter, id: NodeId) -> Option<Candidate> {
        let node = graph.node(id);
        let [out] = node.outputs[..] else { return None };
        let from = |v: &Option<ValueId>| {
            let (_, dequantize, _) = links.producer::<Dequantize>(graph, (*v)?)?;
            dequantize.inputs[0]
        };
        let quantised: Vec<_> = node.inputs.iter().map(from).collect();
        quantised.first().copied().flatten()?;
        let mut activation = Activation::None;
        let mut user = links.only_user(out)?;
        if let Some(function) = graph.node(user).op.downcast::<Unary>() {
            activation = activation.then(*function)?;
            user = links.only_user(graph.node(user).outputs[0])?;
        }
        let quantize = graph.node(user).op.downcast::<Quantize>()?;
        let quant = graph.value(graph.node(user).outputs[0]).ty.quant.clone()?;
        (quantize.round == RoundTo::Even && quant.single().is_some()).then_some(Candidate {
            node: id,
            quantised,
            activation,
            quantize: user,
            to: quantize.to,
            quant,
        })
    }

    /// Whether codes of type `ty` mean what those of the result do.
    fn fits(&self, ty: &ValueType) -> bool {
        ty.dtype == self.to && ty.quant.as_deref() == Some(&*self.quant)
    }

    /// The stored range that the activation leaves; `None` where it does more than clamp.
    fn clamp(&self, own: Activation) -> Option<Clamp> {
        let (low, high) = match (own, self.activation.function()) {
            (_, None) => own.clamp()?,
            (own, Some(next)) => own.then(next)?.clamp()?,
        };
        let (scale, zero) = self.quant.single()?;
        let limits = Clamp::of(self.to).ok()?;
        let stored = |real: f32| {
            let steps = (f64::from(real) / f64::from(scale)).round_ties_even() + f64::from(zero);
            limits.apply(steps.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32)
        };
        Some(Clamp { low: stored(low), high: stored(high) })
    }
}

type IntegerOp = (Arc<dyn Op>, Vec<Option<ValueId>>);

/// The integer op for a candidate, with its inputs.
fn integer_op(graph: &mut Graph, found: &Candidate) -> OpResult<Option<IntegerOp>> {
    let node = graph.node(found.node).clone();
    let op = &*node.op;
    let Some(x) = found.quantised[0] else { return Ok(None) };
    let x_type = graph.value(x).ty.clone();
    let to = found.to;
    let rescale = Rescale::Float;
    if !matches!(x_type.dtype, DType::I8 | DType::U8) || !matches!(to, DType::I8 | DType::U8) {
        return Ok(None);
    }
    if let Some(conv) = op.downcast::<Conv>() {
        let (Some(clamp), Some(Some(w)), None) =
            (found.clamp(conv.activation), found.quantised.get(1).copied(), node.inputs.get(3))
        else {
            return Ok(None);
        };
        let op = QConv {
            window: conv.window.clone(),
            groups: conv.groups,
            layout: conv.layout,
            weight_layout: conv.weight_layout,
            to,
            clamp,
            rescale,
        };
        return with_bias(graph, found, &node, [x, w], Arc::new(op));
    }
    if let Some(matmul) = op.downcast::<MatMul>() {
        let (Some(clamp), Some(Some(w))) =
            (found.clamp(matmul.activation), found.quantised.get(1).copied())
        else {
            return Ok(None);
        };
        let op = QMatMul {
            transpose_a: matmul.transpose_a,
            transpose_b: matmul.transpose_b,
            to,
            clamp,
            rescale,
        };
        return with_bias(graph, found, &node, [x, w], Arc::new(op));
    }
    if let Some(binary) = op.downcast::<Binary>() {
        let kind = match binary.function {
            BinaryFn::Add => QBinaryKind::Add,
            BinaryFn::Sub => QBinaryKind::Sub,
            BinaryFn::Mul => QBinaryKind::Mul,
            BinaryFn::Div => QBinaryKind::Div,
            _ => return Ok(None),
        };
        let (Some(clamp), Some(Some(y))) =
            (found.clamp(binary.activation), found.quantised.get(1).copied())
        else {
            return Ok(None);
        };
        if graph.value(y).ty.dtype != x_type.dtype || to != x_type.dtype {
            return Ok(None);
        }
        let op = QBinary { kind, clamp, rescale, power_of_two: false };
        return Ok(Some((Arc::new(op), vec![Some(x), Some(y)])));
    }
    if let Some(function) = op.downcast::<Unary>() {
        let function = match function {
            Unary::Sigmoid => QFunction::Logistic,
            Unary::Tanh => QFunction::Tanh,
            Unary::HardSwish => QFunction::HardSwish,
            _ => return Ok(None),
        };
        let Some(clamp) = found.clamp(Activation::None) else { return Ok(None) };
        let op = QUnary { function, to, clamp, rescale };
        return Ok(Some((Arc::new(op), vec![Some(x)])));
    }
    if let Some(pool) = op.downcast::<Pool>().filter(|p| !p.ceil)
        && let PoolKind::Average { include_padding: false } = pool.kind
        && to == x_type.dtype
    {
        let Some(clamp) = found.clamp(pool.activation) else { return Ok(None) };
        let op = QPool {
            kind: QPoolKind::Average,
            kernel: pool.kernel.clone(),
            window: pool.window.clone(),
            layout: pool.layout,
            clamp,
            rescale,
        };
        return Ok(Some((Arc::new(op), vec![Some(x)])));
    }
    if op.is::<Concat>() {
        let all: Option<Vec<ValueId>> = found.quantised.iter().copied().collect();
        let bytes = |v: &ValueId| matches!(graph.value(*v).ty.dtype, DType::I8 | DType::U8);
        let plain = found.activation == Activation::None;
        let Some(all) = all.filter(|all| plain && all.iter().all(bytes)) else { return Ok(None) };
        let all = all.into_iter().map(|v| Ok(Some(rescaled(graph, found, v)?)));
        return Ok(Some((node.op.clone(), all.collect::<OpResult<_>>()?)));
    }
    // Moving numbers about is the same for their codes, where these mean the same.
    if found.fits(&x_type) && found.activation == Activation::None && moves(op) {
        let mut inputs = node.inputs.clone();
        inputs[0] = Some(x);
        return Ok(Some((node.op.clone(), inputs)));
    }
    Ok(None)
}

/// `v` at the scale of a candidate's result.
fn rescaled(graph: &mut Graph, found: &Candidate, v: ValueId) -> OpResult<ValueId> {
    let ty = graph.value(v).ty.clone();
    if found.fits(&ty) {
        return Ok(v);
    }
    let op = QUnary {
        function: QFunction::Identity,
        to: found.to,
        clamp: Clamp::of(found.to)?,
        rescale: Rescale::Float,
    };
    let out = ValueType { dtype: found.to, shape: ty.shape, quant: Some(found.quant.clone()) };
    let out = graph.add_value("", out);
    graph.add_node("", op, vec![Some(v)], vec![out]);
    Ok(out)
}

/// Whether `op` moves the elements of input 0 and does nothing else.
fn moves(op: &dyn Op) -> bool {
    op.is::<Reshape>()
        || op.is::<Flatten>()
        || op.is::<Squeeze>()
        || op.is::<Unsqueeze>()
        || op.is::<Identity>()
        || op.is::<Transpose>()
        || op.is::<Slice>()
        || op.is::<Gather>()
        || op.downcast::<Pool>().is_some_and(|p| p.kind == PoolKind::Max)
}

/// `op` on x and weights, with the bias of `node` as integers at the scale of their product.
fn with_bias(
    graph: &mut Graph,
    found: &Candidate,
    node: &Node,
    [x, w]: [ValueId; 2],
    op: Arc<dyn Op>,
) -> OpResult<Option<IntegerOp>> {
    let (Some(xq), Some(wq)) = (&graph.value(x).ty.quant, &graph.value(w).ty.quant) else {
        return Ok(None);
    };
    let Some((x_scale, _)) = xq.single() else { return Ok(None) };
    if !matches!(graph.value(w).ty.dtype, DType::I8 | DType::U8) {
        return Ok(None);
    }
    let product: Vec<f32> = wq.scale.iter().map(|s| s * x_scale).collect();
    let at = |i: usize| product[if product.len() == 1 { 0 } else { i }];
    let mut inputs = vec![Some(x), Some(w)];
    let Some(bias) = node.inputs.get(2).copied().flatten() else {
        return Ok(Some((op, inputs)));
    };
    let quantised = found.quantised.get(2).copied().flatten();
    let own_scale = |v: ValueId| {
        let ty = &graph.value(v).ty;
        let near = |(i, s): (usize, &f32)| (s - at(i)).abs() <= at(i) * 1e-5;
        ty.dtype == DType::I32
            && ty.quant.as_ref().is_some_and(|q| {
                (q.scale.len() == product.len() || q.scale.len() == 1 && product.len() == 1)
                    && q.scale.iter().enumerate().all(near)
                    && q.zero_point.iter().all(|z| *z == 0)
            })
    };
    if let Some(v) = quantised.filter(|v| own_scale(*v)) {
        inputs.push(Some(v));
        return Ok(Some((op, inputs)));
    }
    let Some(data) = graph.value(bias).data.clone() else { return Ok(None) };
    let Ok(reals) = data.slice::<f32>() else { return Ok(None) };
    if data.dims().len() != 1 || (product.len() != 1 && product.len() != reals.len()) {
        return Ok(None);
    }
    let steps: Vec<f64> =
        reals.iter().enumerate().map(|(i, b)| (f64::from(*b) / f64::from(at(i))).round()).collect();
    // Room above for the sum of products.
    if steps.iter().any(|s| s.is_nan() || s.abs() > f64::from(i32::MAX / 2)) {
        return Ok(None);
    }
    let ints: Vec<i32> = steps.iter().map(|s| *s as i32).collect();
    let axis = (product.len() > 1).then_some(0);
    let quant = Quant { zero_point: vec![0; product.len()], scale: product, axis };
    let tensor = Tensor::from_slice(data.dims(), &ints)?.with_quant(Some(Arc::new(quant)));
    inputs.push(Some(graph.add_constant("", tensor)));
    Ok(Some((op, inputs)))
}
