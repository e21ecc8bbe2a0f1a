//! A body run along a dimension of its inputs.

use super::repeat::{never_run, type_of};
use super::{Given, all_pure, check_count, either, output_types, views};
use crate::op::{OpError, OpResult};
use crate::ops::movement::{axis_of, count, fail, ints_of};
use crate::{Dim, Dims, Graph, InferCx, Inputs, Op, Outputs, Shape, Tensor, TensorView, ValueType};

/// Runs `body` once for each index of a dimension of the scanned inputs (ONNX `Scan`).
///
/// Inputs: states, scanned inputs, and what the body captures. Inputs of the body: states, one
/// part of each scanned input, captures. Outputs of the body: states, scanned outputs. Outputs:
/// the states after the last part, then the scanned outputs, stacked.
///
/// `batched` (ONNX opset 8): the first input is the lengths (i64, optional), states and scanned
/// inputs have a batch as their first dimension, sequences as the second, and each item of the
/// batch is scanned by itself; what is past its length is zero.
#[derive(Clone, Debug)]
pub struct Scan {
    /// What runs for each part.
    pub body: Graph,
    /// How many values go from part to part.
    pub states: usize,
    /// How many inputs are scanned.
    pub scanned: usize,
    /// The dimension of each scanned input; absent entries are 0.
    pub input_axes: Vec<i64>,
    /// Whether each scanned input is walked from its end; absent entries are false.
    pub input_reversed: Vec<bool>,
    /// The dimension of each scanned output; absent entries are 0.
    pub output_axes: Vec<i64>,
    /// Whether each scanned output is filled from its end; absent entries are false.
    pub output_reversed: Vec<bool>,
    /// Whether a batch of sequences is scanned.
    pub batched: bool,
}

/// Sizes without dimension `axis`, and how many elements stand before and after it.
fn without(dims: &[usize], axis: usize) -> OpResult<(Dims, usize, usize)> {
    let mut rest = Dims::from_slice(dims);
    rest.remove(axis);
    Ok((rest, count(&dims[..axis])?, count(&dims[axis + 1..])?))
}

/// Part `i` of `view` along `axis`.
fn part(view: &TensorView<'_>, axis: usize, i: usize) -> OpResult<Tensor> {
    let (dims, _, after) = without(view.dims, axis)?;
    let (block, row) = (after * width(view)?, view.dims[axis]);
    let mut part = Tensor::zeros(view.dtype, &dims)?;
    if block > 0 {
        let blocks = view.bytes.chunks_exact(block).skip(i).step_by(row);
        part.bytes_mut()
            .chunks_exact_mut(block)
            .zip(blocks)
            .for_each(|(o, v)| o.copy_from_slice(v));
    }
    Ok(part)
}

fn width(view: &TensorView<'_>) -> OpResult<usize> {
    match view.dtype.bits() {
        bits if bits >= 8 => Ok(bits / 8),
        _ => fail(format!("{} can't be scanned", view.dtype)),
    }
}

impl Scan {
    /// Where states start, and captures.
    fn places(&self, inputs: usize) -> OpResult<(usize, usize)> {
        let first = usize::from(self.batched);
        let captures = self.states.saturating_add(self.scanned).saturating_add(first);
        if captures > inputs || self.scanned == 0 {
            let (s, n) = (self.states, self.scanned);
            return fail(format!("{inputs} inputs for {s} states and {n} scanned inputs"));
        }
        Ok((first, captures))
    }

    fn input_axis(&self, k: usize, rank: usize) -> OpResult<usize> {
        axis_of(self.input_axes.get(k).copied().unwrap_or(0), rank)
    }

    fn output_axis(&self, k: usize, rank: usize) -> OpResult<usize> {
        axis_of(self.output_axes.get(k).copied().unwrap_or(0), rank)
    }

    /// Runs the body over one sequence. `emit` takes scanned output `k` of step `t`.
    fn sequence(
        &self,
        inputs: &Inputs<'_>,
        states: &[TensorView<'_>],
        scanned: &[TensorView<'_>],
        steps: usize,
        mut emit: impl FnMut(usize, usize, &Tensor) -> OpResult,
    ) -> OpResult<Vec<Tensor>> {
        let captures = views(inputs, self.places(inputs.len())?.1..inputs.len())?;
        let mut states: Vec<Tensor> = states.iter().map(Tensor::copy_of).collect();
        for t in 0..steps {
            let mut parts = Vec::with_capacity(scanned.len());
            for (k, view) in scanned.iter().enumerate() {
                let axis = self.input_axis(k, view.dims.len())?;
                let reversed = self.input_reversed.get(k).copied().unwrap_or(false);
                let last = view.dims[axis] - 1;
                parts.push(part(view, axis, if reversed { last - t } else { t })?);
            }
            let own = states.iter().chain(&parts).map(Tensor::view);
            let given: Vec<TensorView<'_>> = own.chain(captures.iter().copied()).collect();
            let mut results = inputs.run(&self.body, &given)?;
            if results.len() < self.states {
                return fail(format!("the body gives {} values", results.len()));
            }
            for (k, tensor) in results.drain(self.states..).enumerate() {
                emit(k, t, &tensor)?;
            }
            states = results;
        }
        Ok(states)
    }

    /// Writes scanned output `k` of step `t` of `steps` in item `item` of a batch.
    fn put_step(
        &self,
        outputs: &mut Outputs<'_>,
        k: usize,
        (t, steps): (usize, usize),
        item: Option<(usize, usize)>,
        tensor: &Tensor,
    ) -> OpResult {
        let axis = self.output_axis(k, tensor.dims().len() + 1)?;
        let mut dims = Dims::from_slice(tensor.dims());
        dims.insert(axis, steps);
        let size = count(&dims)?;
        if let Some((_, batch)) = item {
            dims.insert(0, batch);
        }
        let block = count(&tensor.dims()[axis..])? * width(&tensor.view())?;
        let width = width(&tensor.view())?;
        let reversed = self.output_reversed.get(k).copied().unwrap_or(false);
        let at = if reversed { steps - 1 - t } else { t };
        let out = outputs.bytes(self.states + k, tensor.dtype(), &dims)?;
        if t == 0 && item.is_none_or(|(b, _)| b == 0) {
            out.fill(0);
        }
        let start = item.map_or(0, |(b, _)| b * size * width);
        let out = &mut out[start..start + size * width];
        if block > 0 {
            let places = out.chunks_exact_mut(block).skip(at).step_by(steps);
            places.zip(tensor.raw().chunks_exact(block)).for_each(|(o, v)| o.copy_from_slice(v));
        }
        Ok(())
    }

    fn unbatched(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let states = views(inputs, 0..self.states)?;
        let scanned = views(inputs, self.states..self.states + self.scanned)?;
        let mut steps = None;
        for (k, view) in scanned.iter().enumerate() {
            let size = view.dims[self.input_axis(k, view.dims.len())?];
            match steps.replace(size) {
                Some(other) if other != size => {
                    return fail(format!(
                        "sequences of {other} and of {size} are scanned together"
                    ));
                }
                _ => {}
            }
        }
        let steps = steps.unwrap_or(0);
        let states = self.sequence(inputs, &states, &scanned, steps, |k, t, tensor| {
            self.put_step(outputs, k, (t, steps), None, tensor)
        })?;
        for (i, state) in states.iter().enumerate() {
            outputs.put(i, &state.view())?;
        }
        if steps == 0 {
            let mut given: Vec<ValueType> =
                views(inputs, 0..inputs.len())?.iter().map(type_of).collect();
            for (k, view) in scanned.iter().enumerate() {
                let axis = self.input_axis(k, view.dims.len())?;
                given[self.states + k].shape = without(view.dims, axis)?.0.as_slice().into();
            }
            let types = never_run(&self.body, given)?;
            for (k, (dtype, mut dims)) in types.into_iter().skip(self.states).enumerate() {
                let axis = self.output_axis(k, dims.len() + 1)?;
                dims.insert(axis, 0);
                outputs.bytes(self.states + k, dtype, &dims)?;
            }
        }
        Ok(())
    }

    fn in_batch(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (first, captures) = self.places(inputs.len())?;
        let all = views(inputs, first..captures)?;
        let batch = all.first().and_then(|v| v.dims.first().copied()).unwrap_or(0);
        let steps = all[self.states].dims.get(1).copied().unwrap_or(0);
        for (i, view) in all.iter().enumerate() {
            let scanned = i >= self.states;
            if view.dims.first() != Some(&batch) || (scanned && view.dims.get(1) != Some(&steps)) {
                return fail(format!("{:?} in a batch of {batch}, {steps} steps", view.dims));
            }
        }
        let lengths = inputs.opt(0).map(|l| ints_of(&l)).transpose()?;
        if lengths.as_ref().is_some_and(|l| l.len() != batch) || batch == 0 || steps == 0 {
            return fail(format!("a batch of {batch} sequences of {steps} steps"));
        }
        for b in 0..batch {
            let item = |v: &TensorView<'_>| -> OpResult<(Dims, std::ops::Range<usize>)> {
                let dims = Dims::from_slice(&v.dims[1..]);
                let size = count(&dims)? * width(v)?;
                Ok((dims, b * size..(b + 1) * size))
            };
            let places = all.iter().map(item).collect::<OpResult<Vec<_>>>()?;
            let items: Vec<TensorView<'_>> = all
                .iter()
                .zip(&places)
                .map(|(v, (dims, range))| TensorView { dims, bytes: &v.bytes[range.clone()], ..*v })
                .collect();
            let (states, scanned) = items.split_at(self.states);
            let length = match lengths.as_ref().map(|l| l[b]) {
                None => steps,
                Some(n) => match usize::try_from(n) {
                    Ok(n) if n <= steps => n,
                    _ => return fail(format!("a length of {n} of {steps} steps")),
                },
            };
            let states = self.sequence(inputs, states, scanned, length, |k, t, tensor| {
                self.put_step(outputs, k, (t, steps), Some((b, batch)), tensor)
            })?;
            for (i, state) in states.iter().enumerate() {
                let mut dims: Dims = smallvec::smallvec![batch];
                dims.extend_from_slice(state.dims());
                let size = state.raw().len();
                let out = outputs.bytes(i, state.dtype(), &dims)?;
                out[b * size..(b + 1) * size].copy_from_slice(state.raw());
            }
        }
        Ok(())
    }
}

impl Op for Scan {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (first, captures) = self.places(cx.len())?;
        let Some(scans) = cx.outputs().checked_sub(self.states) else {
            return fail(format!("{} outputs for {} states", cx.outputs(), self.states));
        };
        check_count("body", &self.body, cx.outputs())?;
        let mut given = Given::range(cx, first..cx.len())?;
        let (mut batch, mut steps) = (cx.unknown_dim(), cx.unknown_dim());
        for (i, g) in given.iter_mut().enumerate().take(captures - first) {
            g.data = None;
            let Some(dims) = g.ty.shape.dims() else { continue };
            let mut dims = dims.to_vec();
            let take = |dims: &mut Vec<Dim>, axis: usize, size: &mut Dim| {
                let taken = dims.remove(axis);
                if size.fixed().is_none() {
                    *size = taken;
                }
            };
            if self.batched {
                axis_of(0, dims.len())?;
                take(&mut dims, 0, &mut batch);
            }
            if let Some(k) = i.checked_sub(self.states) {
                let axis = self.input_axis(k, dims.len())?;
                take(&mut dims, axis, &mut steps);
            }
            g.ty.shape = Shape::new(dims);
        }
        let start = given.clone();
        let (given, body) = super::repeat::settle(cx, &self.body, given, 0, self.states, 0)?;
        let types = output_types(cx, &body, &given);
        let whole = |ty: &ValueType, axis: Option<usize>| match ty.shape.dims() {
            None => Ok(ty.clone()),
            Some(dims) => {
                let mut dims = dims.to_vec();
                if let Some(k) = axis {
                    dims.insert(self.output_axis(k, dims.len() + 1)?, steps.clone());
                }
                if self.batched {
                    dims.insert(0, batch.clone());
                }
                Ok(ty.with_shape(dims))
            }
        };
        let states = (0..self.states).map(|i| whole(&either(cx, &start[i].ty, &types[i])?, None));
        let scanned = (0..scans).map(|k| whole(&types[self.states + k], Some(k)));
        states.chain(scanned).collect()
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (_, captures) = self.places(inputs.len())?;
        if captures - usize::from(self.batched) + inputs.len() - captures != self.body.inputs.len()
        {
            return Err(OpError::new(format!(
                "{} inputs for a body of {}",
                inputs.len(),
                self.body.inputs.len()
            )));
        }
        if self.batched { self.in_batch(inputs, outputs) } else { self.unbatched(inputs, outputs) }
    }

    fn is_pure(&self) -> bool {
        all_pure(&self.body)
    }

    fn subgraphs(&self) -> Vec<&Graph> {
        vec![&self.body]
    }
}
