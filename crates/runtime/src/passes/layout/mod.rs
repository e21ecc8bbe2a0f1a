//! Channels last: convolution nets that arrive channels first (ONNX) are turned, as the kernels
//! want them, without a transpose between two ops that agree.
//!
//! The pass goes forward through the nodes. A convolution or a pool is turned, and its output
//! then exists channels last; an op that does not care which dimension is which is turned along
//! with its inputs; any other op finds its input in the old order again, by a transpose that is
//! made once and only when someone asks.

mod rules;

use kinglet_graph::ops::transpose::Transpose;
use kinglet_graph::{
    Graph, GraphError, Node, OpError, OpResult, Quant, Shape, Tensor, ValueId, ValueType,
};
use rules::{Feed, Turned, to_first, to_last, turned};
use std::sync::Arc;

pub(super) fn run(graph: &mut Graph) -> Result<(), GraphError> {
    let nodes = std::mem::take(graph.nodes_mut());
    let count = graph.values().len();
    let mut turn = Turn { graph, last: vec![None; count], absent: vec![false; count] };
    for node in nodes {
        match turned(turn.graph, &node, |v| turn.last[v.index()].is_some()) {
            Some(new) => turn.push_turned(node, new).map_err(|(n, e)| GraphError::at(&n, &e))?,
            None => turn.push(node)?,
        }
    }
    for v in turn.graph.outputs.clone() {
        turn.channels_first(v)?;
    }
    turn.graph.remove_unused();
    Ok(())
}

/// The graph under way.
struct Turn<'g> {
    graph: &'g mut Graph,
    /// For each value, the one that holds it channels last, if any.
    last: Vec<Option<ValueId>>,
    /// Values that so far exist channels last only.
    absent: Vec<bool>,
}

impl Turn<'_> {
    fn new_value(&mut self, name: String, ty: ValueType) -> ValueId {
        self.last.push(None);
        self.absent.push(false);
        self.graph.add_value(name, ty)
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.last.push(None);
        self.absent.push(false);
        self.graph.add_constant("", tensor)
    }

    fn ints(&mut self, ints: &[i64]) -> OpResult<ValueId> {
        Ok(self.constant(Tensor::from_slice(&[ints.len()], ints)?))
    }

    fn transpose(&mut self, from: ValueId, to: ValueId, order: &[usize]) -> OpResult {
        let order: Vec<i64> = order.iter().map(|a| *a as i64).collect();
        let order = self.ints(&order)?;
        self.graph.add_node("", Transpose, vec![Some(from), Some(order)], vec![to]);
        Ok(())
    }

    /// The type of `v` channels last.
    fn type_last(&self, v: ValueId) -> OpResult<ValueType> {
        let ty = &self.graph.value(v).ty;
        let dims = ty.shape.dims().ok_or_else(|| OpError::new("its rank is not known"))?;
        let order = to_last(dims.len());
        let shape = Shape::new(order.iter().map(|a| dims[*a].clone()).collect());
        let quant = ty.quant.as_ref().map(|q| {
            let axis = q.axis.and_then(|axis| order.iter().position(|a| *a == axis));
            Arc::new(Quant { axis, ..(**q).clone() })
        });
        Ok(ValueType { dtype: ty.dtype, shape, quant })
    }

    fn channels_last(&mut self, v: ValueId) -> OpResult<ValueId> {
        if let Some(last) = self.last[v.index()] {
            return Ok(last);
        }
        let ty = self.type_last(v)?;
        let rank = ty.shape.rank().unwrap_or_default();
        let last = self.new_value(String::new(), ty);
        self.transpose(v, last, &to_last(rank))?;
        self.last[v.index()] = Some(last);
        Ok(last)
    }

    fn channels_first(&mut self, v: ValueId) -> Result<(), GraphError> {
        if let (true, Some(last)) = (self.absent[v.index()], self.last[v.index()]) {
            let rank = self.graph.value(last).ty.shape.rank().unwrap_or_default();
            self.transpose(last, v, &to_first(rank))
                .map_err(|e| GraphError::new(format!("value {v}"), e.to_string()))?;
            self.absent[v.index()] = false;
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<(), GraphError> {
        for v in node.inputs.iter().flatten() {
            self.channels_first(*v)?;
        }
        self.graph.push_node(node);
        Ok(())
    }

    fn push_turned(&mut self, node: Node, new: Turned) -> Result<(), (Node, OpError)> {
        self.try_push_turned(&node, new).map_err(|e| (node, e))
    }

    fn try_push_turned(&mut self, node: &Node, new: Turned) -> OpResult {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let given = node.inputs.iter().chain(std::iter::repeat(&None));
        for (v, feed) in given.zip(&new.feeds) {
            inputs.push(match (v, feed) {
                (_, Feed::Ints(ints)) => Some(self.ints(ints)?),
                (None, _) => None,
                (Some(v), Feed::Same) => {
                    self.channels_first(*v).map_err(|e| OpError::new(e.to_string()))?;
                    Some(*v)
                }
                (Some(v), Feed::Last) => Some(self.channels_last(*v)?),
                (Some(v), Feed::Broadcast(rank)) => {
                    let Some(data) = self.graph.value(*v).data.clone() else {
                        return Err(OpError::new("expected a constant"));
                    };
                    let mut dims = vec![1; rank - data.dims().len()];
                    dims.extend_from_slice(data.dims());
                    let wide = self.constant(data.reshaped(&dims)?);
                    Some(self.channels_last(wide)?)
                }
            });
        }
        let mut outputs = node.outputs.clone();
        for (out, v) in outputs.iter_mut().zip(&node.outputs).take(new.outputs) {
            let (name, ty) = (self.graph.value(*v).name.clone(), self.type_last(*v)?);
            *out = self.new_value(name, ty);
            self.last[v.index()] = Some(*out);
            self.absent[v.index()] = true;
        }
        let name = node.name.clone();
        self.graph.push_node(Node { name, op: new.op, inputs, outputs });
        Ok(())
    }
}
