//! Elements put where indices say.

use super::gather::check_nd;
use super::gather::{GatherElements, GatherNd};
use super::movement::write_whole;
use super::movement::{Indices, axis_of, count, each_index, fail, ints_in, row_major, whole};
use crate::number::Number;
use crate::op::{OpError, OpResult};
use crate::{
    DType, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, Shape, TensorView, ValueType,
};

/// What an update does to what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Replaces it; of several updates of one element the last one stays.
    #[default]
    None,
    /// Is added.
    Add,
    /// Is multiplied.
    Mul,
    /// The smaller one stays.
    Min,
    /// The larger one stays.
    Max,
}

/// Inputs: data, indices (integers, of the data's rank), updates (of the indices' sizes). The
/// data with each update at its own place, but along `axis` at the index that stands there.
#[derive(Clone, Debug, Default)]
pub struct ScatterElements {
    /// The dimension indexed; negative counts from the end.
    pub axis: i64,
    /// What an update does.
    pub reduction: Reduction,
}

/// Inputs: data, indices (integers), updates. The data with each slice of the updates at the
/// place that the last dimension of the indices holds.
#[derive(Clone, Debug, Default)]
pub struct ScatterNd {
    /// What an update does.
    pub reduction: Reduction,
}

/// Inputs: indices (integers), updates, shape (integers). [`ScatterNd`] with addition, on zeros
/// of this shape (TFLite `SCATTER_ND`).
#[derive(Clone, Debug, Default)]
pub struct ScatterNdZeros;

/// Sets, or lets `reduction` change, `to` by `from`: as many elements each.
fn update(reduction: Reduction, dtype: DType, to: &mut [u8], from: &[u8]) -> OpResult {
    if reduction == Reduction::None {
        to.copy_from_slice(from);
        return Ok(());
    }
    if dtype == DType::Bool {
        for (to, from) in to.iter_mut().zip(from) {
            *to = match reduction {
                Reduction::Add | Reduction::Max => *to | *from,
                _ => *to & *from,
            };
        }
        return Ok(());
    }
    crate::dispatch_number!(dtype, T => {
        let size = size_of::<T>();
        for (to, from) in to.chunks_exact_mut(size).zip(from.chunks_exact(size)) {
            let (a, b): (T, T) = (bytemuck::pod_read_unaligned(to), bytemuck::pod_read_unaligned(from));
            to.copy_from_slice(bytemuck::bytes_of(&combined(reduction, a, b)));
        }
        Ok(())
    }, else => fail(format!("{dtype} has no arithmetic")))
}

fn combined<T: Number>(reduction: Reduction, a: T, b: T) -> T {
    match (reduction, a.to_integer(), b.to_integer()) {
        (Reduction::None, ..) => b,
        (Reduction::Add, Some(a), Some(b)) => T::of_integer(a.wrapping_add(b)),
        (Reduction::Mul, Some(a), Some(b)) => T::of_integer(a.wrapping_mul(b)),
        (Reduction::Add, ..) => T::of_f64(a.to_f64() + b.to_f64()),
        (Reduction::Mul, ..) => T::of_f64(a.to_f64() * b.to_f64()),
        (Reduction::Min, ..) => {
            if b < a || b.is_nan() {
                b
            } else {
                a
            }
        }
        (Reduction::Max, ..) => {
            if b > a || b.is_nan() {
                b
            } else {
                a
            }
        }
    }
}

/// Reductions on types narrower than a byte would need their arithmetic.
fn check_reduction(reduction: Reduction, dtype: DType) -> OpResult {
    if reduction != Reduction::None && dtype.bits() < 8 {
        return fail(format!("{dtype} has no arithmetic"));
    }
    Ok(())
}

fn same_dtype(data: DType, updates: DType) -> OpResult {
    if data == updates { Ok(()) } else { fail(format!("updates of {updates} for data of {data}")) }
}

impl Op for ScatterElements {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (ty, indices) = (cx.ty(0)?, cx.ty(1)?);
        same_dtype(ty.dtype, cx.dtype(2)?)?;
        if let Some(rank) = ty.shape.rank() {
            axis_of(self.axis, rank)?;
            if indices.shape.rank().is_some_and(|r| r != rank) {
                return fail(format!("indices {indices} for data {ty}"));
            }
        }
        Ok(vec![ty.clone()])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (indices, updates, dy) = (g.input(1)?, g.input(2)?, g.of_first()?);
        let of_data = match self.reduction {
            Reduction::Add => dy,
            // What was replaced has no part in the result; of several updates of one element only
            // the last has, which indices alone do not tell.
            Reduction::None if !g.wants(2) => {
                let zeros = g.zeros_like(updates)?;
                g.apply(self.clone(), &[dy, indices, zeros])?
            }
            other => {
                return Err(OpError::new(format!(
                    "has no gradient rule for updates that are put by {other:?}"
                )));
            }
        };
        let of_updates = match g.wants(2) {
            true => Some(g.apply(GatherElements { axis: self.axis }, &[dy, indices])?),
            false => None,
        };
        Ok(vec![Some(of_data), None, of_updates])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (data, places, updates) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        same_dtype(data.dtype, updates.dtype)?;
        check_reduction(self.reduction, data.dtype)?;
        let axis = axis_of(self.axis, data.dims.len())?;
        let fits = places.dims == updates.dims
            && places.dims.len() == data.dims.len()
            && (0..data.dims.len()).all(|d| d == axis || places.dims[d] <= data.dims[d]);
        if !fits {
            return fail(format!(
                "indices {:?} and updates {:?} for data {:?}",
                places.dims, updates.dims, data.dims
            ));
        }
        let indices = Indices::of(&places)?;
        let mut strides = row_major(data.dims);
        let along = strides[axis] as usize;
        strides[axis] = 0;
        let (src, new) = (whole(&data), whole(&updates));
        let width = src.width;
        write_whole(outputs, 0, data.dtype, data.dims, |dst| {
            dst.copy_from_slice(&src.bytes);
            let mut k = 0;
            let mut failed = Ok(());
            super::movement::walk_offsets(places.dims, &strides, 0, |at| {
                let done = indices.at(k, data.dims[axis]).and_then(|index| {
                    let to = &mut dst[(at + index * along) * width..][..width];
                    update(self.reduction, data.dtype, to, &new.bytes[k * width..][..width])
                });
                if done.is_err() {
                    failed = done;
                }
                k += 1;
            });
            failed
        })
    }
}

/// Puts each slice of `updates` at its place in `dst`, which has sizes `dims`.
fn scatter_nd(
    reduction: Reduction,
    dst: &mut [u8],
    dims: &[usize],
    places: &TensorView<'_>,
    updates: &TensorView<'_>,
) -> OpResult {
    let n = places.dims.last().copied().unwrap_or(0);
    check_nd(dims.len(), places.dims.len(), 0, n)?;
    let lead = &places.dims[..places.dims.len() - 1];
    let mut want = Dims::from_slice(lead);
    want.extend_from_slice(&dims[n..]);
    if updates.dims != want.as_slice() {
        return fail(format!("updates {:?}, indices and data take {want:?}", updates.dims));
    }
    let indices = Indices::of(places)?;
    let new = whole(updates);
    let block = count(&dims[n..])? * new.width;
    if block == 0 {
        return Ok(());
    }
    let mut k = 0;
    let mut failed = Ok(());
    each_index(lead, |_| {
        let mut at = Ok(0);
        for (d, size) in dims[..n].iter().enumerate() {
            at = at.and_then(|at| Ok(at * size + indices.at(k * n + d, *size)?));
        }
        let done = at.and_then(|at: usize| {
            let to = &mut dst[at * block..][..block];
            update(reduction, updates.dtype, to, &new.bytes[k * block..][..block])
        });
        if done.is_err() {
            failed = done;
        }
        k += 1;
    });
    failed
}

impl Op for ScatterNd {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        same_dtype(ty.dtype, cx.dtype(2)?)?;
        if let (Some(data), Some(indices)) = (ty.shape.rank(), cx.dims(1)?) {
            let n = indices.last().and_then(|n| n.fixed()).unwrap_or(0);
            check_nd(data, indices.len(), 0, n)?;
        }
        Ok(vec![ty.clone()])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (indices, updates, dy) = (g.input(1)?, g.input(2)?, g.of_first()?);
        let of_data = match self.reduction {
            Reduction::Add => dy,
            // What was replaced has no part in the result; of several updates of one element only
            // the last has, which indices alone do not tell.
            Reduction::None if !g.wants(2) => {
                let zeros = g.zeros_like(updates)?;
                g.apply(self.clone(), &[dy, indices, zeros])?
            }
            other => {
                return Err(OpError::new(format!(
                    "has no gradient rule for updates that are put by {other:?}"
                )));
            }
        };
        let of_updates = match g.wants(2) {
            true => Some(g.apply(GatherNd::default(), &[dy, indices])?),
            false => None,
        };
        Ok(vec![Some(of_data), None, of_updates])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (data, places, updates) = (inputs.get(0)?, inputs.get(1)?, inputs.get(2)?);
        same_dtype(data.dtype, updates.dtype)?;
        check_reduction(self.reduction, data.dtype)?;
        let src = whole(&data);
        write_whole(outputs, 0, data.dtype, data.dims, |dst| {
            dst.copy_from_slice(&src.bytes);
            scatter_nd(self.reduction, dst, data.dims, &places, &updates)
        })
    }
}

impl Op for ScatterNdZeros {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let shape = match cx.sizes(2)? {
            Some(sizes) if sizes.iter().any(|s| s.as_i64().is_some_and(|s| s < 0)) => {
                return fail("the shape has a negative size");
            }
            Some(sizes) => Shape::new(sizes),
            None => match cx.dims(2)?.and_then(|d| d.first()?.fixed()) {
                Some(rank) if rank <= 64 => cx.unknown_dims(rank),
                _ => Shape::unknown(),
            },
        };
        Ok(vec![ValueType::new(cx.dtype(1)?, shape)])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (indices, dy) = (g.input(0)?, g.of_first()?);
        Ok(vec![None, Some(g.apply(GatherNd::default(), &[dy, indices])?), None])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (places, updates) = (inputs.get(0)?, inputs.get(1)?);
        let size =
            |s: &i64| usize::try_from(*s).map_err(|_| OpError::new(format!("{s} is no size")));
        let dims = ints_in(inputs, 2)?.iter().map(size).collect::<OpResult<Dims>>()?;
        check_reduction(Reduction::Add, updates.dtype)?;
        count(&dims)?;
        write_whole(outputs, 0, updates.dtype, &dims, |dst| {
            dst.fill(0);
            scatter_nd(Reduction::Add, dst, &dims, &places, &updates)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, t};
    use super::*;

    #[test]
    fn elements_are_put_along_an_axis() {
        let x = t(&[1, 5], &[1f32, 2., 3., 4., 5.]);
        let (at, new) = (t(&[1, 2], &[1i64, -2]), t(&[1, 2], &[1.5f32, 2.5]));
        let op = |axis, reduction| ScatterElements { axis, reduction };
        check(&op(1, Reduction::None), &[&x, &at, &new], &[1, 5], &[1f32, 1.5, 3., 2.5, 5.]);
        let twice = t(&[1, 2], &[1i32, 1]);
        check(&op(-1, Reduction::Add), &[&x, &twice, &new], &[1, 5], &[1f32, 6., 3., 4., 5.]);
        check(&op(1, Reduction::Mul), &[&x, &twice, &new], &[1, 5], &[1f32, 7.5, 3., 4., 5.]);
        check(&op(1, Reduction::Max), &[&x, &twice, &new], &[1, 5], &[1f32, 2.5, 3., 4., 5.]);
        check(&op(1, Reduction::Min), &[&x, &twice, &new], &[1, 5], &[1f32, 1.5, 3., 4., 5.]);
        assert!(
            error(&op(1, Reduction::None), &[&x, &t(&[1, 2], &[0i64, 5]), &new])
                .contains("index 5")
        );
        assert!(
            error(&op(0, Reduction::None), &[&x, &t(&[1, 1], &[0i64]), &new]).contains("indices")
        );
        assert!(error(&op(0, Reduction::None), &[&x, &at, &at]).contains("i64"));
    }

    #[test]
    fn slices_are_put_where_indices_say() {
        let x = t(&[3, 2], &[1i32, 2, 3, 4, 5, 6]);
        let (at, new) = (t(&[2, 1], &[2i64, 0]), t(&[2, 2], &[7i32, 8, 9, 10]));
        check(&ScatterNd::default(), &[&x, &at, &new], &[3, 2], &[9i32, 10, 3, 4, 7, 8]);
        let add = ScatterNd { reduction: Reduction::Add };
        let both = t(&[2, 2], &[0i64, 1, 0, 1]);
        let ones = t(&[2], &[1i32, 1]);
        check(&add, &[&x, &both, &ones], &[3, 2], &[1i32, 4, 3, 4, 5, 6]);
        assert!(
            error(&add, &[&x, &t(&[1, 1], &[3i64]), &t(&[1, 2], &[0i32, 0])]).contains("index 3")
        );
        assert!(error(&add, &[&x, &at, &ones]).contains("updates"));
        assert!(error(&add, &[&x, &t(&[1, 3], &[0i64; 3]), &ones]).contains("3 places"));
        let zeros = t(&[3, 2], &[0i32, 0, 1, 2, 0, 0]);
        let (at, row) = (t(&[2, 1], &[1i32, 1]), t(&[2, 2], &[0i32, 1, 1, 1]));
        let want = zeros.slice::<i32>().unwrap();
        check(&ScatterNdZeros, &[&at, &row, &i(&[3, 2])], &[3, 2], want);
        assert!(error(&ScatterNdZeros, &[&at, &row, &i(&[-3, 2])]).contains("negative"));
        assert!(
            error(&ScatterNdZeros, &[&at, &row, &i(&[1 << 40, 1 << 40])]).contains("too large")
        );
    }
}
