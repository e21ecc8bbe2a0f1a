//! Elements chosen by their value: how many there are only running tells.

use super::movement::{axis_of, count, each_index, fail, whole};
use crate::op::OpResult;
use crate::{Bool, DType, Dim, Dims, InferCx, Inputs, Op, Outputs, TensorView, ValueType};

/// Input: data. Output: the indices of its nonzero elements, i64, a row for each element (TFLite
/// `WHERE`), or a column for each (ONNX `NonZero`).
#[derive(Clone, Debug)]
pub struct NonZero {
    /// Whether an index stands in a row.
    pub in_rows: bool,
}

/// Inputs: data, condition (truth values). Output: the parts of the data along `axis`, or its
/// elements in order, for which the condition holds. Parts past the end of the condition do not.
#[derive(Clone, Debug, Default)]
pub struct Compress {
    /// Negative counts from the end; `None`: the data as one row.
    pub axis: Option<i64>,
}

/// Calls `visit` with the place of every nonzero element.
fn each_nonzero(data: &TensorView<'_>, mut visit: impl FnMut(usize)) -> OpResult {
    if data.dtype.bits() < 8 || matches!(data.dtype, DType::C64 | DType::C128) {
        return fail(format!("no test for zero of {}", data.dtype));
    }
    if data.dtype == DType::Bool {
        let all = data.slice::<Bool>()?.iter().enumerate();
        all.filter(|(_, v)| v.get()).for_each(|(i, _)| visit(i));
        return Ok(());
    }
    crate::dispatch_number!(data.dtype, T => {
        let zero = <T as crate::number::Number>::of_f64(0.0);
        let all = data.slice::<T>()?.iter().enumerate();
        all.filter(|(_, v)| **v != zero).for_each(|(i, _)| visit(i));
        Ok(())
    }, else => fail(format!("no test for zero of {}", data.dtype)))
}

impl Op for NonZero {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        // A scalar counts as one element of rank 1 in ONNX, and has no index in TFLite.
        let rank = match cx.ty(0)?.shape.rank() {
            Some(0) if !self.in_rows => Dim::from(1),
            Some(rank) => Dim::from(rank),
            None => cx.unknown_dim(),
        };
        let found = cx.unknown_dim();
        let dims = if self.in_rows { vec![found, rank] } else { vec![rank, found] };
        Ok(vec![ValueType::new(DType::I64, dims)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let mut found = 0;
        each_nonzero(&data, |_| found += 1)?;
        let one = [1];
        let sizes: &[usize] = if data.dims.is_empty() && !self.in_rows { &one } else { data.dims };
        let rank = sizes.len();
        let dims = if self.in_rows { [found, rank] } else { [rank, found] };
        let out = outputs.slice::<i64>(0, &dims)?;
        let (across, down) = if self.in_rows { (1, rank) } else { (found, 1) };
        let mut k = 0;
        each_nonzero(&data, |mut at| {
            for d in (0..rank).rev() {
                out[k * down + d * across] = (at % sizes[d]) as i64;
                at /= sizes[d];
            }
            k += 1;
        })
    }
}

impl Op for Compress {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let kept = match cx.data(1) {
            Some(condition) => {
                let kept = condition.slice::<Bool>()?.iter().filter(|b| b.get()).count();
                Dim::from(kept)
            }
            None => cx.unknown_dim(),
        };
        let shape: crate::Shape = match (self.axis, ty.shape.dims()) {
            (None, _) => vec![kept].into(),
            (Some(_), None) => Default::default(),
            (Some(axis), Some(dims)) => {
                let mut dims = dims.to_vec();
                let axis = axis_of(axis, dims.len())?;
                dims[axis] = kept;
                dims.into()
            }
        };
        Ok(vec![ValueType::new(ty.dtype, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let condition = inputs.slice::<Bool>(1)?;
        let all = [count(data.dims)?];
        let (sizes, axis): (&[usize], usize) = match self.axis {
            None => (&all, 0),
            Some(axis) => (data.dims, axis_of(axis, data.dims.len())?),
        };
        let size = sizes[axis];
        let kept = condition.iter().filter(|b| b.get()).count();
        if condition.iter().rposition(|b| b.get()).is_some_and(|last| last >= size) {
            return fail(format!("a condition of {} for a dimension of {size}", condition.len()));
        }
        let mut dims = Dims::from_slice(sizes);
        dims[axis] = kept;
        let src = whole(&data);
        let block = count(&sizes[axis + 1..])? * src.width;
        super::movement::write_whole(outputs, 0, data.dtype, &dims, |dst| {
            if dst.is_empty() {
                return Ok(());
            }
            let mut out = dst.chunks_exact_mut(block);
            each_index(&sizes[..axis], |index| {
                let row = index.iter().zip(sizes).fold(0, |at, (i, size)| at * size + i);
                for (i, _) in condition.iter().enumerate().filter(|(_, b)| b.get()) {
                    if let Some(out) = out.next() {
                        out.copy_from_slice(&src.bytes[(row * size + i) * block..][..block]);
                    }
                }
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{b, check, error, t};
    use super::*;

    #[test]
    fn indices_of_what_is_not_zero() {
        let x = t(&[2, 2], &[1f32, 0., f32::NAN, -0.0]);
        check(&NonZero { in_rows: false }, &[&x], &[2, 2], &[0i64, 1, 0, 0]);
        check(&NonZero { in_rows: true }, &[&x], &[2, 2], &[0i64, 0, 1, 0]);
        check(&NonZero { in_rows: false }, &[&b(&[], &[true])], &[1, 1], &[0i64]);
        check::<i64>(&NonZero { in_rows: true }, &[&b(&[], &[true])], &[1, 0], &[]);
        check::<i64>(&NonZero { in_rows: false }, &[&t::<u8>(&[0, 3], &[])], &[2, 0], &[]);
    }

    #[test]
    fn compress_keeps_what_the_condition_says() {
        let x = t(&[3, 2], &[1i8, 2, 3, 4, 5, 6]);
        let rows = Compress { axis: Some(0) };
        check(&rows, &[&x, &b(&[3], &[false, true, true])], &[2, 2], &[3i8, 4, 5, 6]);
        check(&Compress { axis: Some(-1) }, &[&x, &b(&[2], &[false, true])], &[3, 1], &[2i8, 4, 6]);
        let flat = Compress { axis: None };
        check(&flat, &[&x, &b(&[5], &[false, true, false, false, true])], &[2], &[2i8, 5]);
        check::<i8>(&rows, &[&x, &b(&[1], &[false])], &[0, 2], &[]);
        assert!(error(&rows, &[&x, &b(&[4], &[false, false, false, true])]).contains("condition"));
    }
}
