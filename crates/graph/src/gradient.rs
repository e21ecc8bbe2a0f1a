//! What a gradient rule works with: the node, the gradients of its outputs, and the graph to build in.

use crate::ops::activation::Activation;
use crate::ops::logic::Compare;
use crate::ops::scatter::ScatterNdZeros;
use crate::ops::slice::Slice;
use crate::{Builder, Graph, Node, Op, OpError, OpResult, Tensor, ValueId};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// The gradient of the loss with respect to each input of a node; `None`: zero, or not wanted.
pub type Gradients = Vec<Option<ValueId>>;

/// A node whose gradient rule is asked, and the [`Builder`] of the training graph that the rule builds
/// in. The types of the node's values are those that shape inference found.
pub struct Gradient<'a> {
    builder: Builder<'a>,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<ValueId>,
    output_gradients: &'a [Option<ValueId>],
    wanted: &'a [bool],
}

impl<'a> Deref for Gradient<'a> {
    type Target = Builder<'a>;

    fn deref(&self) -> &Builder<'a> {
        &self.builder
    }
}

impl<'a> DerefMut for Gradient<'a> {
    fn deref_mut(&mut self) -> &mut Builder<'a> {
        &mut self.builder
    }
}

impl<'a> Gradient<'a> {
    /// Of `node`, a node of `graph`, whose outputs have these gradients; `wanted` says for each
    /// input whether something asks for its gradient.
    pub fn new(
        graph: &'a mut Graph,
        node: &Node,
        output_gradients: &'a [Option<ValueId>],
        wanted: &'a [bool],
    ) -> Gradient<'a> {
        Gradient {
            builder: Builder::new(graph, format!("{}.gradient", node.name)),
            inputs: node.inputs.clone(),
            outputs: node.outputs.clone(),
            output_gradients,
            wanted,
        }
    }

    /// How many inputs the node lists, left-out ones included.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Input `i`; an error where it is left out.
    pub fn input(&self, i: usize) -> OpResult<ValueId> {
        self.opt_input(i).ok_or_else(|| OpError::new(format!("input {i} is missing")))
    }

    /// Input `i`, if it is there.
    pub fn opt_input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// Output `i` of the node.
    pub fn output(&self, i: usize) -> ValueId {
        self.outputs[i]
    }

    /// How many outputs the node has.
    pub fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Whether the gradient of input `i` is asked for. One that is not should not be computed.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// The gradient with respect to output `i`, if the loss depends on it.
    pub fn opt(&self, i: usize) -> Option<ValueId> {
        self.output_gradients.get(i).copied().flatten()
    }

    /// The gradient with respect to output 0, where no other output of the node has one.
    pub fn of_first(&self) -> OpResult<ValueId> {
        if let Some(i) = (1..self.outputs.len()).find(|i| self.opt(*i).is_some()) {
            return Err(OpError::new(format!("has no gradient rule for its output {i}")));
        }
        self.opt(0).ok_or_else(|| OpError::new("its output 0 has no gradient"))
    }

    /// The gradients: `found` for input 0, zero for all others.
    pub fn first_only(&self, found: Option<ValueId>) -> Gradients {
        let mut all = vec![None; self.inputs.len()];
        if let Some(first) = all.first_mut() {
            *first = found;
        }
        all
    }

    /// The integers that input `i` holds: an error where they are not constant.
    pub fn constant_ints(&self, i: usize) -> OpResult<Option<Vec<i64>>> {
        let Some(v) = self.opt_input(i) else { return Ok(None) };
        match &self.graph.value(v).data {
            Some(data) => data.view().ints().map(Some),
            None => Err(OpError::new(format!("input {i} must be constant to be differentiated"))),
        }
    }

    /// The gradient before an activation that output `i` of the node went through last.
    ///
    /// Of what only clamps, the output tells where it is flat. Of other functions `plain`, the op
    /// without its activation, is computed again.
    pub fn before(
        &mut self,
        activation: Activation,
        gradient: ValueId,
        plain: impl FnOnce() -> Arc<dyn Op>,
    ) -> OpResult<ValueId> {
        let Some((min, max)) = activation.clamp() else {
            let Some(function) = activation.function() else { return Ok(gradient) };
            let inputs = self.inputs.clone();
            let x = self.push(plain(), &inputs, 1)?[0];
            return self.slope(function, x, gradient);
        };
        let y = self.output(0);
        let mut gradient = gradient;
        for (bound, compare) in [(min, Compare::Greater), (max, Compare::Less)] {
            if bound.is_finite() {
                let bound = self.scalar(bound.into(), y)?;
                let inside = self.apply(compare, &[y, bound])?;
                gradient = self.only_where(inside, gradient)?;
            }
        }
        Ok(gradient)
    }

    /// The gradient with respect to input 0 of an op that only moves its elements, repeats them,
    /// leaves some out or puts zeros between them: it is told where to by `op` itself, moving the
    /// elements' numbers. `inputs` are the op's others. Needs all sizes.
    pub fn moved(&mut self, op: impl Op, inputs: &[Option<ValueId>]) -> OpResult<Gradients> {
        let (x, dy) = (self.input(0)?, self.of_first()?);
        let dims = self.fixed(x)?;
        let count = dims.iter().product::<usize>() as i64;
        // From 1 on: a zero that was put between them has number 0.
        let numbers: Vec<i64> = (1..=count).collect();
        let numbers = self.graph.add_constant("", Tensor::from_slice(&dims, &numbers)?);
        let mut all = vec![Some(numbers)];
        all.extend_from_slice(inputs);
        let places = self.apply_all(op, &all, 1)?[0];
        let (places, flat) = (self.reshaped(places, &[-1, 1])?, self.reshaped(dy, &[-1])?);
        let sizes = self.ints(&[count + 1])?;
        let sums = self.apply(ScatterNdZeros, &[places, flat, sizes])?;
        let (start, end) = (self.ints(&[1])?, self.ints(&[count + 1])?);
        let own = self.apply(Slice, &[sums, start, end])?;
        let dx = self.reshaped_like(own, x)?;
        Ok(self.first_only(Some(dx)))
    }

    /// All inputs but input 0.
    pub fn others(&self) -> Vec<Option<ValueId>> {
        self.inputs.iter().skip(1).copied().collect()
    }
}
