//! Reductions: one number from all along some axes; and running sums.

use crate::number::{Number, Wide, put_f64s, to_f64s};
use crate::ops::broadcast::{AroundAxis, Offsets, axes_of, axis_of, strides};
use crate::ops::logic::Compare;
use crate::ops::unary::{Unary, is_number};
use crate::{
    Bool, DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    ValueId, ValueType,
};

/// What a [`Reduce`] makes of the elements that fall together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    /// Σ x.
    Sum,
    /// The mean; of integers, rounded to zero.
    Mean,
    /// The largest, or whether any is true; the type's least value where there are none.
    Max,
    /// The smallest, or whether all are true; the type's largest value where there are none.
    Min,
    /// Π x.
    Product,
    /// Σ |x|.
    L1,
    /// √ Σ x².
    L2,
    /// log Σ x.
    LogSum,
    /// log Σ eˣ.
    LogSumExp,
    /// Σ x².
    SumSquare,
}

/// Reduces x along axes (input 1, integers, optional: all). ONNX's `Reduce…`; TFLite's too.
/// [`ReduceKind::Max`] and [`ReduceKind::Min`] of truth values are "any" and "all".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// What it makes of the elements.
    pub kind: ReduceKind,
    /// Keep reduced dimensions as 1.
    pub keep_dims: bool,
    /// Where no axes are given: reduce over none of them instead of over all.
    pub none_by_default: bool,
}

impl Reduce {
    /// The axes that are reduced in a tensor of `rank`, in rising order.
    pub fn axes(&self, axes: Option<&[i64]>, rank: usize) -> OpResult<Vec<usize>> {
        match axes {
            None | Some([]) if self.none_by_default => Ok(Vec::new()),
            None | Some([]) => Ok((0..rank).collect()),
            // Scalars are reduced along axis 0 or -1 without complaint.
            Some([0 | -1]) if rank == 0 => Ok(Vec::new()),
            Some(axes) => {
                let mut axes = axes_of(axes, rank)?.to_vec();
                axes.sort_unstable();
                Ok(axes)
            }
        }
    }
}

/// `dims` without `axes`, or with 1 in their place.
fn reduced<T: Clone>(dims: &[T], axes: &[usize], keep: bool, one: &T) -> Vec<T> {
    let each = dims.iter().enumerate();
    each.filter(|(i, _)| keep || !axes.contains(i))
        .map(|(i, d)| if axes.contains(&i) { one.clone() } else { d.clone() })
        .collect()
}

impl ReduceKind {
    fn takes(self, dtype: DType) -> bool {
        is_number(dtype)
            || dtype == DType::Bool && matches!(self, ReduceKind::Max | ReduceKind::Min)
    }

    fn of<T: Number>(self, values: impl Iterator<Item = T> + Clone) -> T {
        let reals = || values.clone().map(Number::to_f64);
        let wide = || values.clone().map(Number::wide);
        let add = |sum: T::Wide, x: T::Wide| sum.add(x);
        match self {
            ReduceKind::Sum => T::narrow(wide().fold(T::Wide::ZERO, add)),
            ReduceKind::Product => T::narrow(wide().fold(T::Wide::ONE, |p, x| p.mul(x))),
            ReduceKind::SumSquare => T::narrow(wide().map(|x| x.mul(x)).fold(T::Wide::ZERO, add)),
            ReduceKind::L1 => T::narrow(
                wide()
                    .map(|x| if x < T::Wide::ZERO { T::Wide::ZERO.sub(x) } else { x })
                    .fold(T::Wide::ZERO, add),
            ),
            ReduceKind::Max => values.fold(T::MIN, |m, x| if x > m || x.is_nan() { x } else { m }),
            ReduceKind::Min => values.fold(T::MAX, |m, x| if x < m || x.is_nan() { x } else { m }),
            ReduceKind::Mean => {
                let count = values.clone().count();
                match wide().fold(T::Wide::ZERO, add).divided_by(count) {
                    Some(mean) => T::narrow(mean),
                    None => T::of_f64(f64::NAN),
                }
            }
            ReduceKind::L2 => T::of_f64(reals().map(|x| x * x).sum::<f64>().sqrt()),
            ReduceKind::LogSum => T::of_f64(reals().sum::<f64>().ln()),
            ReduceKind::LogSumExp => {
                let max = reals().fold(f64::NEG_INFINITY, f64::max);
                let shift = if max.is_finite() { max } else { 0.0 };
                T::of_f64(reals().map(|x| (x - shift).exp()).sum::<f64>().ln() + shift)
            }
        }
    }
}

impl ReduceKind {
    /// The gradient with respect to x, where y and dy keep the reduced dimensions as 1. Of equal
    /// largest or smallest elements each gets its part.
    pub(crate) fn gradient(
        self,
        g: &mut Gradient<'_>,
        x: ValueId,
        y: ValueId,
        dy: ValueId,
        axes: &[usize],
    ) -> OpResult<ValueId> {
        let slope = match self {
            ReduceKind::Sum => return g.expanded_like(dy, x),
            ReduceKind::Mean => {
                let ones = g.scalar(1.0, x)?;
                let ones = g.expanded_like(ones, x)?;
                let count = g.sum(ones, axes, true)?;
                let share = g.div(dy, count)?;
                return g.expanded_like(share, x);
            }
            ReduceKind::Max | ReduceKind::Min => {
                let chosen = g.apply(Compare::Equal, &[x, y])?;
                let one = g.scalar(1.0, x)?;
                let chosen = g.only_where(chosen, one)?;
                let count = g.sum(chosen, axes, true)?;
                let share = g.div(dy, count)?;
                return g.mul(chosen, share);
            }
            ReduceKind::Product => {
                let [axis] = axes else {
                    return Err(OpError::new("has a gradient rule for products along one axis"));
                };
                // The product of all others, which a zero does not spoil.
                let axis = g.ints(&[*axis as i64])?;
                let [before, after] = [false, true].map(|reverse| Cumulative {
                    product: true,
                    exclusive: true,
                    reverse,
                });
                let (before, after) = (g.apply(before, &[x, axis])?, g.apply(after, &[x, axis])?);
                g.mul(before, after)?
            }
            ReduceKind::L1 => g.apply(Unary::Sign, &[x])?,
            ReduceKind::L2 => g.div(x, y)?,
            ReduceKind::LogSum => {
                let less = g.apply(Unary::Neg, &[y])?;
                g.apply(Unary::Exp, &[less])?
            }
            ReduceKind::LogSumExp => {
                let less = g.sub(x, y)?;
                g.apply(Unary::Exp, &[less])?
            }
            ReduceKind::SumSquare => g.scaled(x, 2.0)?,
        };
        let dx = g.mul(dy, slope)?;
        g.expanded_like(dx, x)
    }
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "ReduceSum",
            ReduceKind::Mean => "ReduceMean",
            ReduceKind::Max => "ReduceMax",
            ReduceKind::Min => "ReduceMin",
            ReduceKind::Product => "ReduceProduct",
            ReduceKind::L1 => "ReduceL1",
            ReduceKind::L2 => "ReduceL2",
            ReduceKind::LogSum => "ReduceLogSum",
            ReduceKind::LogSumExp => "ReduceLogSumExp",
            ReduceKind::SumSquare => "ReduceSumSquare",
        }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        if !self.kind.takes(dtype) {
            return Err(OpError::new(format!("{} does not take {dtype}", self.name())));
        }
        let shape = match (cx.dims(0)?, cx.opt(1), cx.ints(1)?) {
            (None, ..) => Shape::unknown(),
            (Some(dims), Some(_), None) if self.keep_dims => cx.unknown_dims(dims.len()),
            (Some(_), Some(_), None) => Shape::unknown(),
            (Some(dims), _, axes) => {
                let axes = self.axes(axes.as_deref(), dims.len())?;
                reduced(dims, &axes, self.keep_dims, &Dim::from(1)).into()
            }
        };
        Ok(vec![ValueType::new(dtype, shape)])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, dy) = (g.input(0)?, g.of_first()?);
        let rank = g.rank(x)?;
        let axes = self.axes(g.constant_ints(1)?.as_deref(), rank)?;
        let (mut y, mut dy) = (g.output(0), dy);
        if !self.keep_dims {
            (y, dy) = (g.unsqueezed(y, &axes)?, g.unsqueezed(dy, &axes)?);
        }
        let dx = self.kind.gradient(g, x, y, dy, &axes)?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let axes = inputs.opt(1).map(|a| a.ints()).transpose()?;
        let axes = self.axes(axes.as_deref(), x.dims.len())?;
        let out_dims = reduced(x.dims, &axes, self.keep_dims, &1);
        let steps = strides(x.dims);
        let kept = |of: &[usize]| reduced(of, &axes, false, &1);
        let across = |of: &[usize]| axes.iter().map(|a| of[*a]).collect::<Vec<_>>();
        let starts = Offsets::new(&kept(x.dims), [&kept(&steps)]);
        let inside: Vec<usize> =
            Offsets::new(&across(x.dims), [&across(&steps)]).map(|[at]| at).collect();
        if x.dtype == DType::Bool {
            let x = x.slice::<Bool>()?;
            let out = outputs.slice::<Bool>(0, &out_dims)?;
            for (to, [start]) in out.iter_mut().zip(starts) {
                let mut all = inside.iter().map(|i| x[start + i].get());
                *to = Bool::from(match self.kind {
                    ReduceKind::Max => all.any(|v| v),
                    _ => all.all(|v| v),
                });
            }
            return Ok(());
        }
        crate::dispatch_number!(x.dtype, T => {
            let x = x.slice::<T>()?;
            let out = outputs.slice::<T>(0, &out_dims)?;
            for (to, [start]) in out.iter_mut().zip(starts) {
                *to = self.kind.of(inside.iter().map(|i| x[start + i]));
            }
            Ok(())
        }, else => Err(OpError::new(format!("{} does not take {}", self.name(), x.dtype))))
    }
}

/// Running sums or products of x along the axis that input 1 (one integer) names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cumulative {
    /// Products instead of sums.
    pub product: bool,
    /// Each result leaves out the element at its own place.
    pub exclusive: bool,
    /// From the end to the start.
    pub reverse: bool,
}

impl Op for Cumulative {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        if !is_number(ty.dtype) {
            return Err(OpError::new(format!("Cumulative does not take {}", ty.dtype)));
        }
        if let (Some(rank), Some(axis)) = (ty.shape.rank(), cx.ints(1)?) {
            single_axis(&axis, rank)?;
        }
        Ok(vec![ValueType::new(ty.dtype, ty.shape.clone())])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        if self.product {
            return Err(OpError::new("has no gradient rule for running products"));
        }
        let (axis, dy) = (g.input(1)?, g.of_first()?);
        let back = Cumulative { reverse: !self.reverse, ..*self };
        let dx = g.apply(back, &[dy, axis])?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let axis = single_axis(&inputs.get(1)?.ints()?, x.dims.len())?;
        let around = AroundAxis::new(x.dims, axis);
        crate::dispatch_number!(x.dtype, T => {
            type W = <T as Number>::Wide;
            let out = outputs.slice::<T>(0, x.dims)?;
            let x = x.slice::<T>()?;
            for start in around.lines() {
                let mut sum = if self.product { W::ONE } else { W::ZERO };
                for i in 0..around.len {
                    let i = if self.reverse { around.len - 1 - i } else { i };
                    let at = start + i * around.inner;
                    let before = sum;
                    sum = match self.product {
                        true => sum.mul(x[at].wide()),
                        false => sum.add(x[at].wide()),
                    };
                    out[at] = T::narrow(if self.exclusive { before } else { sum });
                }
            }
            Ok(())
        }, else => Err(OpError::new(format!("Cumulative does not take {}", x.dtype))))
    }
}

fn single_axis(axis: &[i64], rank: usize) -> OpResult<usize> {
    match axis {
        [axis] => axis_of(*axis, rank),
        _ => Err(OpError::new(format!("takes one axis, was given {axis:?}"))),
    }
}

/// The mean over some axes and the standard deviation are taken out: (x − mean) / (σ + 10⁻⁹).
/// ONNX `MeanVarianceNormalization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeanVarianceNorm {
    /// The axes; negative ones count from the back.
    pub axes: Vec<i64>,
}

impl Op for MeanVarianceNorm {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = crate::ops::conv::float(cx, 1)?;
        let shape = &cx.ty(0)?.shape;
        shape.rank().map(|rank| axes_of(&self.axes, rank)).transpose()?;
        Ok(vec![ValueType::new(dtype, shape.clone())])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, y, dy) = (g.input(0)?, g.output(0), g.of_first()?);
        let axes = axes_of(&self.axes, g.rank(x)?)?.to_vec();
        // y = c / (σ + ε), σ = √ mean c²: dx = (dy − mean dy − c mean(dy y) / σ) / (σ + ε).
        let mean = g.reduce(ReduceKind::Mean, x, &axes, true)?;
        let centred = g.sub(x, mean)?;
        let square = g.mul(centred, centred)?;
        let variance = g.reduce(ReduceKind::Mean, square, &axes, true)?;
        let deviation = g.apply(Unary::Sqrt, &[variance])?;
        let epsilon = g.scalar(1e-9, x)?;
        let divisor = g.add(deviation, epsilon)?;
        let unit = g.div(centred, deviation)?;
        let along = g.mul(dy, y)?;
        let along = g.reduce(ReduceKind::Mean, along, &axes, true)?;
        let along = g.mul(unit, along)?;
        let level = g.reduce(ReduceKind::Mean, dy, &axes, true)?;
        let off = g.sub(dy, level)?;
        let off = g.sub(off, along)?;
        Ok(vec![Some(g.div(off, divisor)?)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let axes = axes_of(&self.axes, x.dims.len())?;
        let steps = strides(x.dims);
        let part = |of: &[usize], inside: bool| {
            let each = of.iter().enumerate();
            let chosen = each.filter(|(i, _)| axes.contains(i) == inside);
            chosen.map(|(_, d)| *d).collect::<Vec<_>>()
        };
        let starts = Offsets::new(&part(x.dims, false), [&part(&steps, false)]);
        let inside: Vec<usize> =
            Offsets::new(&part(x.dims, true), [&part(&steps, true)]).map(|[at]| at).collect();
        let mut values = to_f64s(&x)?;
        for [start] in starts {
            let all = || inside.iter().map(|i| values[start + i]);
            let (mean, variance) = moments(all());
            for i in &inside {
                let v = &mut values[start + i];
                *v = (*v - mean) / (variance.sqrt() + 1e-9);
            }
        }
        put_f64s(outputs, 0, x.dtype, x.dims, &values)
    }
}

/// Mean and variance (of the population).
pub(crate) fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (mean, values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test::{check, error, i, t};

    fn reduce(kind: ReduceKind) -> Reduce {
        Reduce { kind, keep_dims: false, none_by_default: false }
    }

    #[test]
    fn each_kind_by_hand() {
        let x = t(&[2, 2], &[1f32, -2., 3., 4.]);
        for (kind, rows) in [
            (ReduceKind::Sum, [-1., 7.]),
            (ReduceKind::Mean, [-0.5, 3.5]),
            (ReduceKind::Max, [1., 4.]),
            (ReduceKind::Min, [-2., 3.]),
            (ReduceKind::Product, [-2., 12.]),
            (ReduceKind::L1, [3., 7.]),
            (ReduceKind::L2, [5f32.sqrt(), 5.]),
            (ReduceKind::SumSquare, [5., 25.]),
            (
                ReduceKind::LogSumExp,
                [(1f32.exp() + (-2f32).exp()).ln(), (3f64.exp() + 4f64.exp()).ln() as f32],
            ),
        ] {
            check(&reduce(kind), &[&x, &i(&[-1])], &[2], &rows);
        }
    }

    #[test]
    fn which_axes_where_none_are_given() {
        let x = t(&[2, 2], &[1i32, -2, 3, 4]);
        let none = i(&[]);
        check(&reduce(ReduceKind::Sum), &[&x], &[], &[6i32]);
        check(&reduce(ReduceKind::Sum), &[&x, &none], &[], &[6i32]);
        let op = Reduce { none_by_default: true, ..reduce(ReduceKind::SumSquare) };
        check(&op, &[&x, &none], &[2, 2], &[1i32, 4, 9, 16]);
        let op = Reduce { keep_dims: true, ..reduce(ReduceKind::Max) };
        check(&op, &[&x, &i(&[0])], &[1, 2], &[3i32, 4]);
        assert!(error(&op, &[&x, &i(&[2])]).contains("axis 2"));
        assert!(error(&op, &[&x, &i(&[0, 0])]).contains("twice"));
    }

    #[test]
    fn nothing_to_reduce() {
        let x = t::<f32>(&[2, 0], &[]);
        check(&reduce(ReduceKind::Sum), &[&x, &i(&[1])], &[2], &[0f32, 0.]);
        check(&reduce(ReduceKind::Max), &[&x, &i(&[1])], &[2], &[f32::NEG_INFINITY; 2]);
        check(&reduce(ReduceKind::LogSumExp), &[&x, &i(&[1])], &[2], &[f32::NEG_INFINITY; 2]);
        let x = t::<i32>(&[0], &[]);
        check(&reduce(ReduceKind::Mean), &[&x], &[], &[0i32]);
    }

    #[test]
    fn any_and_all() {
        let x = crate::ops::test::b(&[2, 2], &[true, false, true, true]);
        check(&reduce(ReduceKind::Max), &[&x, &i(&[1])], &[2], &[Bool(1), Bool(1)]);
        check(&reduce(ReduceKind::Min), &[&x, &i(&[1])], &[2], &[Bool(0), Bool(1)]);
        assert!(error(&reduce(ReduceKind::Sum), &[&x]).contains("bool"));
    }

    #[test]
    fn running_sums_of_every_kind() {
        let x = t(&[3], &[1i32, 2, 3]);
        let axis = i(&[0]);
        let op = |product, exclusive, reverse| Cumulative { product, exclusive, reverse };
        check(&op(false, false, false), &[&x, &axis], &[3], &[1, 3, 6]);
        check(&op(false, true, false), &[&x, &axis], &[3], &[0, 1, 3]);
        check(&op(false, false, true), &[&x, &axis], &[3], &[6, 5, 3]);
        check(&op(true, true, true), &[&x, &axis], &[3], &[6, 3, 1]);
        assert!(error(&op(true, true, true), &[&x, &i(&[0, 1])]).contains("one axis"));
    }

    #[test]
    fn mean_and_deviation_taken_out() {
        let x = t(&[2, 2], &[1f32, 10., 3., 30.]);
        check(&MeanVarianceNorm { axes: vec![0] }, &[&x], &[2, 2], &[-1f32, -1., 1., 1.]);
    }
}
