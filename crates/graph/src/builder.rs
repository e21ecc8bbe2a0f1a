//! Building compositions of ops at the end of a graph, each node inferred as it is made.

use crate::ops::binary::{Binary, BinaryFn};
use crate::ops::expand::Expand;
use crate::ops::fill::ZerosLike;
use crate::ops::logic::Where;
use crate::ops::pad::Pad;
use crate::ops::reduce::{Reduce, ReduceKind};
use crate::ops::reshape::{Reshape, ShapeOf, Unsqueeze};
use crate::ops::transpose::Transpose;
use crate::ops::unary::{Slope, Unary};
use crate::{
    DType, Dim, Dims, Graph, InferCx, Known, Node, Op, OpError, OpResult, Tensor, ValueId,
};
use smallvec::SmallVec;
use std::cell::Cell;
use std::sync::Arc;

/// Appends nodes to a graph: the pieces that gradient rules, losses and optimisers are made of.
///
/// What is built gets its types at once, as far as they follow from those of the values that it is
/// made of; sizes that only running tells are named anew when the whole graph is inferred.
pub struct Builder<'a> {
    /// The graph.
    pub graph: &'a mut Graph,
    name: String,
}

impl<'a> Builder<'a> {
    /// At the end of `graph`; nodes and values are called `name`.
    pub fn new(graph: &'a mut Graph, name: impl Into<String>) -> Builder<'a> {
        Builder { graph, name: name.into() }
    }

    /// The element type of a value.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.graph.value(v).ty.dtype
    }

    /// The sizes of a value; an error where its rank is not known.
    pub fn dims(&self, v: ValueId) -> OpResult<Vec<Dim>> {
        let value = self.graph.value(v);
        value.ty.shape.dims().map(<[Dim]>::to_vec).ok_or_else(|| {
            OpError::new(format!(
                "the rank of '{}' is not known: give the inputs' sizes",
                value.name
            ))
        })
    }

    /// The sizes of a value; an error where one is not a number.
    pub fn fixed(&self, v: ValueId) -> OpResult<Dims> {
        let value = self.graph.value(v);
        value.ty.shape.fixed().ok_or_else(|| {
            let m = format!("'{}' is {}: give the inputs' sizes first", value.name, value.ty);
            OpError::new(m)
        })
    }

    /// The number of dimensions of a value.
    pub fn rank(&self, v: ValueId) -> OpResult<usize> {
        Ok(self.dims(v)?.len())
    }

    /// Adds a node and returns its outputs, `count` of them, of the types that its shape rule says.
    pub fn apply_all(
        &mut self,
        op: impl Op,
        inputs: &[Option<ValueId>],
        count: usize,
    ) -> OpResult<Vec<ValueId>> {
        self.push(Arc::new(op), inputs, count)
    }

    /// Adds a node of one output.
    pub fn apply(&mut self, op: impl Op, inputs: &[ValueId]) -> OpResult<ValueId> {
        let inputs: SmallVec<[Option<ValueId>; 4]> = inputs.iter().copied().map(Some).collect();
        Ok(self.apply_all(op, &inputs, 1)?[0])
    }

    /// Adds a node of an op that is shared.
    pub fn push(
        &mut self,
        op: Arc<dyn Op>,
        inputs: &[Option<ValueId>],
        count: usize,
    ) -> OpResult<Vec<ValueId>> {
        let known: Vec<Option<Known<'_>>> = inputs
            .iter()
            .map(|v| {
                v.map(|v| {
                    let value = self.graph.value(v);
                    Known { ty: &value.ty, data: value.data.as_ref().map(Tensor::view) }
                })
            })
            .collect();
        let types = op.infer(&InferCx::new(&known, count, &Cell::new(1 << 20)))?;
        let mut outputs = Vec::with_capacity(count);
        for ty in types {
            outputs.push(self.graph.add_value(self.name.clone(), ty));
        }
        let (name, inputs) = (self.name.clone(), inputs.to_vec());
        self.graph.push_node(Node { name, op, inputs, outputs: outputs.clone() });
        Ok(outputs)
    }

    /// A scalar constant of the element type of `like`.
    pub fn scalar(&mut self, v: f64, like: ValueId) -> OpResult<ValueId> {
        let dtype = self.dtype(like);
        let tensor = crate::dispatch_float!(dtype, T => {
            Tensor::scalar(<T as crate::number::Number>::of_f64(v))
        }, else => return Err(OpError::new(format!("gradients are floats, not {dtype}"))));
        Ok(self.graph.add_constant("", tensor))
    }

    /// A constant vector of integers.
    pub fn ints(&mut self, values: &[i64]) -> OpResult<ValueId> {
        Ok(self.graph.add_constant("", Tensor::from_slice(&[values.len()], values)?))
    }

    /// A function of the elements of two values that broadcast.
    pub fn binary(&mut self, function: BinaryFn, a: ValueId, b: ValueId) -> OpResult<ValueId> {
        self.apply(Binary::new(function), &[a, b])
    }

    /// a + b.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> OpResult<ValueId> {
        self.binary(BinaryFn::Add, a, b)
    }

    /// a − b.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> OpResult<ValueId> {
        self.binary(BinaryFn::Sub, a, b)
    }

    /// a b.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> OpResult<ValueId> {
        self.binary(BinaryFn::Mul, a, b)
    }

    /// a / b.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> OpResult<ValueId> {
        self.binary(BinaryFn::Div, a, b)
    }

    /// x times a number.
    pub fn scaled(&mut self, x: ValueId, factor: f64) -> OpResult<ValueId> {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = self.scalar(factor, x)?;
        self.mul(x, factor)
    }

    /// x where `condition` (bool) holds, else zero.
    pub fn only_where(&mut self, condition: ValueId, x: ValueId) -> OpResult<ValueId> {
        let zero = self.scalar(0.0, x)?;
        self.apply(Where, &[condition, x, zero])
    }

    /// As many zeros as `like` has elements.
    pub fn zeros_like(&mut self, like: ValueId) -> OpResult<ValueId> {
        self.apply(ZerosLike, &[like])
    }

    /// Sums `x` over axes, of which there may be none.
    pub fn sum(&mut self, x: ValueId, axes: &[usize], keep_dims: bool) -> OpResult<ValueId> {
        self.reduce(ReduceKind::Sum, x, axes, keep_dims)
    }

    /// Reduces `x` over axes, of which there may be none.
    pub fn reduce(
        &mut self,
        kind: ReduceKind,
        x: ValueId,
        axes: &[usize],
        keep_dims: bool,
    ) -> OpResult<ValueId> {
        if axes.is_empty() {
            return Ok(x);
        }
        let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
        let axes = self.ints(&axes)?;
        self.apply(Reduce { kind, keep_dims, none_by_default: true }, &[x, axes])
    }

    /// `x` under the sizes of `like`, which has as many elements.
    pub fn reshaped_like(&mut self, x: ValueId, like: ValueId) -> OpResult<ValueId> {
        if self.graph.value(x).ty.shape == self.graph.value(like).ty.shape
            && self.graph.value(x).ty.shape.dims().is_some()
        {
            return Ok(x);
        }
        let sizes = self.sizes_of(like)?;
        self.apply(Reshape { allow_zero: true }, &[x, sizes])
    }

    /// `x` under other sizes, of which one may be -1.
    pub fn reshaped(&mut self, x: ValueId, sizes: &[i64]) -> OpResult<ValueId> {
        let sizes = self.ints(sizes)?;
        self.apply(Reshape::default(), &[x, sizes])
    }

    /// `x`, all dimensions but the last as one.
    pub fn rows(&mut self, x: ValueId) -> OpResult<ValueId> {
        let dims = self.dims(x)?;
        match (dims.len(), dims.last().and_then(Dim::fixed)) {
            (2, _) => Ok(x),
            (_, Some(last)) => self.reshaped(x, &[-1, last as i64]),
            _ => Err(OpError::new("the last size must be known")),
        }
    }

    /// `x` broadcast to the sizes of `like`.
    pub fn expanded_like(&mut self, x: ValueId, like: ValueId) -> OpResult<ValueId> {
        let sizes = self.sizes_of(like)?;
        self.apply(Expand, &[x, sizes])
    }

    /// `x` with dimensions of 1 put at `axes` of the result.
    pub fn unsqueezed(&mut self, x: ValueId, axes: &[usize]) -> OpResult<ValueId> {
        if axes.is_empty() {
            return Ok(x);
        }
        let axes: Vec<i64> = axes.iter().map(|a| *a as i64).collect();
        let axes = self.ints(&axes)?;
        self.apply(Unsqueeze, &[x, axes])
    }

    /// The sizes of a value as integers: a constant where they are known.
    pub fn sizes_of(&mut self, v: ValueId) -> OpResult<ValueId> {
        match self.graph.value(v).ty.shape.fixed() {
            Some(dims) => {
                let sizes: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
                self.ints(&sizes)
            }
            None => self.apply(ShapeOf::default(), &[v]),
        }
    }

    /// Undoes a broadcast: `gradient`, which has the sizes of `from`, summed to those of `to`, which
    /// broadcasts to them.
    pub fn summed_to(
        &mut self,
        gradient: ValueId,
        from: ValueId,
        to: ValueId,
    ) -> OpResult<ValueId> {
        let (wide, own) = (self.dims(from)?, self.dims(to)?);
        let lead = wide.len().checked_sub(own.len()).ok_or_else(|| {
            OpError::new(format!("rank {} does not broadcast to rank {}", own.len(), wide.len()))
        })?;
        let mut axes: Vec<usize> = Vec::new();
        for (i, (wide, own)) in wide[lead..].iter().zip(&own).enumerate() {
            match own.fixed() {
                _ if wide == own => {}
                Some(1) => axes.push(lead + i),
                // A symbol that met a number above 1 may stand for just this number, or for 1.
                _ => {
                    return Err(OpError::new(format!(
                        "whether {own} was broadcast to {wide} only running tells: give the sizes"
                    )));
                }
            }
        }
        let summed = self.sum(gradient, &axes, true)?;
        let leading: Vec<usize> = (0..lead).collect();
        self.sum(summed, &leading, false)
    }

    /// `x` with its dimensions in another order.
    pub fn transposed(&mut self, x: ValueId, order: &[usize]) -> OpResult<ValueId> {
        if order.is_sorted() {
            return Ok(x);
        }
        let order: Vec<i64> = order.iter().map(|a| *a as i64).collect();
        let order = self.ints(&order)?;
        self.apply(Transpose, &[x, order])
    }

    /// `x` with zeros put before and after it along one axis, or cropped where negative.
    pub fn padded(
        &mut self,
        x: ValueId,
        axis: usize,
        before: i64,
        after: i64,
    ) -> OpResult<ValueId> {
        if (before, after) == (0, 0) {
            return Ok(x);
        }
        let (pads, axes) = (self.ints(&[before, after])?, self.ints(&[axis as i64])?);
        Ok(self.apply_all(Pad::default(), &[Some(x), Some(pads), None, Some(axes)], 1)?[0])
    }

    /// `gradient` times the derivative of `function` at `x`.
    pub fn slope(&mut self, function: Unary, x: ValueId, gradient: ValueId) -> OpResult<ValueId> {
        self.apply(Slope { function }, &[x, gradient])
    }
}
