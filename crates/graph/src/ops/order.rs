//! What stands where in order: the place of the largest, and the k largest.

use super::scatter::{Reduction, ScatterElements};
use crate::number::Number;
use crate::ops::broadcast::{AroundAxis, axis_of};
use crate::ops::unary::is_number;
use crate::{
    DType, Dim, Gradient, Gradients, InferCx, Inputs, Op, OpError, OpResult, Outputs, Shape,
    ValueType,
};
use std::cmp::Ordering;

/// The index of the largest or smallest element along an axis. A NaN stands before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgReduce {
    /// Look for the largest; else the smallest.
    pub largest: bool,
    /// The axis; negative counts from the back.
    pub axis: i64,
    /// Keep the axis as 1.
    pub keep_dims: bool,
    /// Of equal ones take the last; else the first.
    pub last: bool,
    /// Type of the output: `I64` or `I32`.
    pub index: DType,
}

fn put_index(
    outputs: &mut Outputs<'_>,
    i: usize,
    dtype: DType,
    dims: &[usize],
    values: impl Iterator<Item = usize>,
) -> OpResult {
    crate::dispatch!(dtype, T in [I64 i64, I32 i32, I16 i16, U32 u32, U16 u16] => {
        for (to, v) in outputs.slice::<T>(i, dims)?.iter_mut().zip(values) {
            *to = T::try_from(v).map_err(|_| {
                OpError::new(format!("index {v} does not fit in {dtype}"))
            })?;
        }
        Ok(())
    }, else => Err(OpError::new(format!("{dtype} is no type for indices"))))
}

fn check_number(name: &str, dtype: DType) -> OpResult {
    match is_number(dtype) {
        true => Ok(()),
        false => Err(OpError::new(format!("{name} does not take {dtype}"))),
    }
}

impl Op for ArgReduce {
    fn name(&self) -> &'static str {
        if self.largest { "ArgMax" } else { "ArgMin" }
    }

    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        check_number(self.name(), cx.dtype(0)?)?;
        let Some(dims) = cx.dims(0)? else {
            return Ok(vec![ValueType::new(self.index, Shape::unknown())]);
        };
        let axis = axis_of(self.axis, dims.len())?;
        if dims[axis].fixed() == Some(0) {
            return Err(OpError::new(format!("{} of no elements", self.name())));
        }
        let mut dims = dims.to_vec();
        match self.keep_dims {
            true => dims[axis] = Dim::from(1),
            false => drop(dims.remove(axis)),
        }
        Ok(vec![ValueType::new(self.index, dims)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let out_dims = &outputs.dims(self, inputs)?[0];
        let around = AroundAxis::new(x.dims, axis_of(self.axis, x.dims.len())?);
        let found: Vec<usize> = crate::dispatch_number!(x.dtype, T => {
            let x = x.slice::<T>()?;
            around.lines().map(|start| {
                let at = |i: usize| x[start + i * around.inner];
                (1..around.len).fold(0, |best, i| {
                    let order = match self.largest {
                        true => rank(at(i), at(best)),
                        false if at(i).is_nan() || at(best).is_nan() => rank(at(i), at(best)),
                        false => rank(at(best), at(i)),
                    };
                    let better = order == Ordering::Greater || self.last && order == Ordering::Equal;
                    if better { i } else { best }
                })
            }).collect()
        }, else => return check_number(self.name(), x.dtype));
        put_index(outputs, 0, self.index, out_dims, found.into_iter())
    }
}

/// Order of numbers in which NaN is the largest.
fn rank<T: Number>(a: T, b: T) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The k largest or smallest elements along an axis, best first, and their indices; of equal
/// ones, the one with the lower index stands first. Inputs x and k (one integer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK {
    /// The axis; negative counts from the back.
    pub axis: i64,
    /// The largest; else the smallest.
    pub largest: bool,
    /// Type of output 1: `I64`, `I32` or `I16`.
    pub index: DType,
}

impl Op for TopK {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let dtype = cx.dtype(0)?;
        check_number("TopK", dtype)?;
        let shape = match cx.dims(0)? {
            None => Shape::unknown(),
            Some(dims) => {
                let axis = axis_of(self.axis, dims.len())?;
                let mut out = dims.to_vec();
                out[axis] = match cx.ints(1)?.as_deref() {
                    None => cx.unknown_dim(),
                    Some([k]) => {
                        let k = usize::try_from(*k).ok();
                        let k = k.filter(|k| dims[axis].fixed().is_none_or(|n| *k <= n));
                        Dim::from(k.ok_or_else(|| {
                            OpError::new(format!(
                                "the {:?} best of {} elements",
                                cx.ints(1).ok().flatten().unwrap_or_default(),
                                dims[axis]
                            ))
                        })?)
                    }
                    Some(k) => return Err(OpError::new(format!("k is {k:?}, not one number"))),
                };
                Shape::new(out)
            }
        };
        let both = [ValueType::new(dtype, shape.clone()), ValueType::new(self.index, shape)];
        Ok(both.into())
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, places, dy) = (g.input(0)?, g.output(1), g.of_first()?);
        let zeros = g.zeros_like(x)?;
        let op = ScatterElements { axis: self.axis, reduction: Reduction::Add };
        let dx = g.apply(op, &[zeros, places, dy])?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let x = inputs.get(0)?;
        let out_dims = &inputs.output_dims(self, 2)?[0];
        let axis = axis_of(self.axis, x.dims.len())?;
        let (around, to) = (AroundAxis::new(x.dims, axis), AroundAxis::new(out_dims, axis));
        let mut indices = vec![0; out_dims.iter().product()];
        crate::dispatch_number!(x.dtype, T => {
            let x = x.slice::<T>()?;
            let values = outputs.slice::<T>(0, out_dims)?;
            let mut order: Vec<usize> = Vec::with_capacity(around.len);
            for (start, put) in around.lines().zip(to.lines()) {
                let at = |i: usize| x[start + i * around.inner];
                order.clear();
                order.extend(0..around.len);
                // The sort is stable: equal elements stay in the order of their indices.
                order.sort_by(|a, b| match self.largest {
                    true => rank(at(*b), at(*a)),
                    false => rank(at(*a), at(*b)),
                });
                for (i, from) in order[..to.len].iter().enumerate() {
                    values[put + i * to.inner] = at(*from);
                    indices[put + i * to.inner] = *from;
                }
            }
        }, else => return check_number("TopK", x.dtype));
        put_index(outputs, 1, self.index, out_dims, indices.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test::{check, error, i, run_opt, t};

    #[test]
    fn first_or_last_of_equals() {
        let x = t(&[2, 3], &[1f32, 5., 5., 2., -1., -1.]);
        let mut op =
            ArgReduce { largest: true, axis: 1, keep_dims: false, last: false, index: DType::I64 };
        check(&op, &[&x], &[2], &[1i64, 0]);
        op.last = true;
        check(&op, &[&x], &[2], &[2i64, 0]);
        op = ArgReduce { largest: false, keep_dims: true, index: DType::I32, ..op };
        check(&op, &[&x], &[2, 1], &[0i32, 2]);
        op.axis = 2;
        assert!(error(&op, &[&x]).contains("axis 2"));
        op.axis = 0;
        assert!(error(&op, &[&t::<f32>(&[0, 1], &[])]).contains("no elements"));
    }

    #[test]
    fn nan_is_found_first() {
        let x = t(&[3], &[1f32, f32::NAN, 0.]);
        for largest in [true, false] {
            let op =
                ArgReduce { largest, axis: 0, keep_dims: false, last: false, index: DType::I64 };
            check(&op, &[&x], &[], &[1i64]);
        }
    }

    #[test]
    fn the_best_with_their_places() {
        let x = t(&[2, 3], &[3i32, 1, 2, 7, 7, 8]);
        let op = TopK { axis: -1, largest: true, index: DType::I64 };
        let out = run_opt(&op, &[Some(&x), Some(&i(&[2]))], 2).unwrap();
        assert_eq!(out[0].slice::<i32>().unwrap(), [3, 2, 8, 7]);
        assert_eq!(out[1].slice::<i64>().unwrap(), [0, 2, 2, 0]);
        let op = TopK { axis: 0, largest: false, index: DType::I32 };
        let out = run_opt(&op, &[Some(&x), Some(&i(&[1]))], 2).unwrap();
        assert_eq!(out[0].slice::<i32>().unwrap(), [3, 1, 2]);
        assert_eq!(out[1].slice::<i32>().unwrap(), [0, 0, 0]);
        assert!(run_opt(&op, &[Some(&x), Some(&i(&[4]))], 2).is_err());
        assert!(run_opt(&op, &[Some(&x), Some(&i(&[-1]))], 2).is_err());
    }
}
