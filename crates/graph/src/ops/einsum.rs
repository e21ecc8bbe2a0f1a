//! Sums of products named by letters.

use super::convert::{floats, write_floats};
use crate::{
    Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape, ValueType,
};
use std::collections::BTreeMap;

/// A sum of products of elements, in the notation of NumPy's `einsum`: letters name dimensions, an
/// ellipsis the broadcast rest, and letters that the output does not name are summed over.
#[derive(Clone, Debug)]
pub struct Einsum {
    inputs: Vec<Vec<Label>>,
    output: Vec<Label>,
}

/// What a term's place names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Rest,
    Letter(char),
}

/// A dimension of the whole index space: of the rest, counted from its end, or of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Axis {
    Rest(usize),
    Letter(char),
}

fn error<T>(message: impl Into<String>) -> OpResult<T> {
    Err(OpError::new(message))
}

fn term(text: &str) -> OpResult<Vec<Label>> {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            labels.push(Label::Rest);
            rest = after;
        } else if c.is_ascii_alphabetic() {
            labels.push(Label::Letter(c));
            rest = &rest[1..];
        } else {
            return error(format!("'{c}' in the term '{text}'"));
        }
    }
    match labels.iter().filter(|l| **l == Label::Rest).count() {
        0 | 1 => Ok(labels),
        _ => error(format!("two ellipses in the term '{text}'")),
    }
}

impl Einsum {
    /// Reads an equation such as `bij,bjk->bik`.
    pub fn new(equation: &str) -> OpResult<Einsum> {
        let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let inputs = left.split(',').map(term).collect::<OpResult<Vec<_>>>()?;
        let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
        for label in inputs.iter().flatten() {
            *counts.entry(*label).or_default() += 1;
        }
        let output = match right {
            Some(right) => term(right)?,
            // The rest, then the letters that occur once, in their order.
            None => counts
                .iter()
                .filter(|(label, n)| **label == Label::Rest || **n == 1)
                .map(|(label, _)| *label)
                .collect(),
        };
        if let Some(unknown) = output.iter().find(|l| **l != Label::Rest && !counts.contains_key(l))
        {
            return error(format!("the output's {unknown:?} is in no input"));
        }
        let twice = |l: &Label| output.iter().filter(|o| *o == l).count() > 1;
        match output.iter().find(|l| twice(l)) {
            Some(label) => error(format!("the output names {label:?} twice")),
            None => Ok(Einsum { inputs, output }),
        }
    }

    /// The axes of one term over a tensor of `rank` dimensions.
    fn axes(labels: &[Label], rank: usize) -> OpResult<Vec<Axis>> {
        let letters = labels.iter().filter(|l| **l != Label::Rest).count();
        let rest = match rank.checked_sub(letters) {
            Some(rest) if rest == 0 || labels.contains(&Label::Rest) => rest,
            _ => return error(format!("a term of {letters} letters for rank {rank}")),
        };
        let of = |label: &Label| match label {
            Label::Letter(c) => vec![Axis::Letter(*c)],
            Label::Rest => (0..rest).rev().map(Axis::Rest).collect(),
        };
        Ok(labels.iter().flat_map(of).collect())
    }

    /// The output's axes, and the size of every axis.
    fn sizes<D: Clone>(
        &self,
        dims: &[&[D]],
        join: impl Fn(&D, &D) -> OpResult<D>,
    ) -> OpResult<(Vec<Axis>, BTreeMap<Axis, D>)> {
        if dims.len() != self.inputs.len() {
            return error(format!("{} terms for {} inputs", self.inputs.len(), dims.len()));
        }
        let mut sizes: BTreeMap<Axis, D> = BTreeMap::new();
        for (labels, dims) in self.inputs.iter().zip(dims) {
            for (axis, size) in Self::axes(labels, dims.len())?.into_iter().zip(*dims) {
                let joined = match sizes.get(&axis) {
                    Some(before) => join(before, size)?,
                    None => size.clone(),
                };
                sizes.insert(axis, joined);
            }
        }
        let rest = sizes.keys().filter(|a| matches!(a, Axis::Rest(_))).count();
        let letters = self.output.iter().filter(|l| **l != Label::Rest).count();
        let has_rest = self.output.contains(&Label::Rest);
        let output = Self::axes(&self.output, letters + if has_rest { rest } else { 0 })?;
        Ok((output, sizes))
    }
}

impl Op for Einsum {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        let mut dims: Vec<&[Dim]> = Vec::with_capacity(cx.len());
        for i in 0..cx.len() {
            match cx.dims(i)? {
                Some(d) => dims.push(d),
                None => return Ok(vec![ValueType::new(dtype, Shape::unknown())]),
            }
        }
        let (output, sizes) = self.sizes(&dims, super::broadcast::broadcast_dim)?;
        let out: Vec<Dim> = output.iter().map(|axis| sizes[axis].clone()).collect();
        Ok(vec![ValueType::new(dtype, out)])
    }

    /// The product of the gradient and all other terms, summed to the letters of the one left out.
    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let dy = g.of_first()?;
        let mut gradients = vec![None; g.inputs()];
        let wanted: Vec<usize> = (0..self.inputs.len()).filter(|i| g.wants(*i)).collect();
        for i in wanted {
            let own = &self.inputs[i];
            let mut terms = vec![self.output.clone()];
            let mut values = vec![dy];
            for (j, term) in self.inputs.iter().enumerate().filter(|(j, _)| *j != i) {
                terms.push(term.clone());
                values.push(g.input(j)?);
            }
            let alone = |label: &Label| !terms.iter().any(|t| t.contains(label));
            let repeated = (1..own.len()).any(|k| own[..k].contains(&own[k]));
            if repeated || own.iter().any(alone) {
                return Err(OpError::new(
                    "has a gradient rule for terms whose letters each stand there once and in another term",
                ));
            }
            let back = Einsum { inputs: terms, output: own.clone() };
            let (wide, input) = (g.apply(back, &values)?, g.input(i)?);
            gradients[i] = Some(g.summed_to(wide, wide, input)?);
        }
        Ok(gradients)
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let dtype = inputs.get(0)?.dtype;
        let views: Vec<_> = (0..inputs.len()).map(|i| inputs.get(i)).collect::<OpResult<_>>()?;
        let dims: Vec<&[usize]> = views.iter().map(|v| v.dims).collect();
        let (output, sizes) = self.sizes(&dims, |a, b| match (*a, *b) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            (a, b) => error(format!("one letter names sizes {a} and {b}")),
        })?;
        // All axes: the output's first, then those summed over.
        let mut axes = output.clone();
        axes.extend(sizes.keys().filter(|axis| !output.contains(axis)));
        let whole: Vec<usize> = axes.iter().map(|axis| sizes[axis]).collect();
        let mut operands = Vec::with_capacity(views.len());
        for (view, labels) in views.iter().zip(&self.inputs) {
            let own = Self::axes(labels, view.dims.len())?;
            let steps = super::broadcast::strides(view.dims);
            let step = |axis: &Axis| {
                let places = own.iter().zip(view.dims.iter().zip(&steps));
                let along = places.filter(|(a, (dim, _))| *a == axis && **dim != 1);
                along.map(|(_, (_, step))| *step).sum::<usize>()
            };
            operands.push((floats(view)?, axes.iter().map(step).collect::<Vec<_>>()));
        }
        let out_dims = &whole[..output.len()];
        let out = outputs.bytes(0, dtype, out_dims)?;
        let count: usize = out_dims.iter().product();
        let summed: usize = whole[output.len()..].iter().product();
        let value = |at: usize| -> f64 {
            let term = |k: usize| -> f64 {
                let (mut rest, mut index) = (at * summed + k, vec![0; whole.len()]);
                for (i, size) in index.iter_mut().zip(&whole).rev() {
                    (*i, rest) = (rest % size, rest / size);
                }
                let place =
                    |steps: &[usize]| steps.iter().zip(&index).map(|(s, i)| s * i).sum::<usize>();
                operands.iter().map(|(data, steps)| data[place(steps)]).product()
            };
            (0..summed).map(term).sum()
        };
        write_floats(dtype, out, (0..count).map(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::ops::test::{eval, eval_error};

    #[test]
    fn sums_products_and_traces() {
        let a = Tensor::from_slice(&[2, 2], &[1f32, 2.0, 3.0, 4.0]).unwrap();
        let run = |equation: &str, inputs: &[Tensor]| {
            let out = eval(&Einsum::new(equation).unwrap(), inputs);
            out[0].slice::<f32>().unwrap().to_vec()
        };
        assert_eq!(run("ij,jk->ik", &[a.clone(), a.clone()]), [7.0, 10.0, 15.0, 22.0]);
        assert_eq!(run("ii", std::slice::from_ref(&a)), [5.0]);
        assert_eq!(run("ij->ji", std::slice::from_ref(&a)), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(run("...j->...", std::slice::from_ref(&a)), [3.0, 7.0]);
        let op = Einsum::new("ij,ij->ij").unwrap();
        assert!(eval_error(&op, std::slice::from_ref(&a)).contains("2 terms"));
        for wrong in ["i->k", "i1", "......", "ij->ii"] {
            assert!(Einsum::new(wrong).is_err(), "{wrong}");
        }
    }
}
