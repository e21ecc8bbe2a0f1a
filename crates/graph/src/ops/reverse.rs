//! Dimensions walked backwards.

use super::movement::{
    Indices, Walk, axes_of, axis_of, fail, ints_in, row_major, whole, write_whole,
};
use crate::op::OpResult;
use crate::{Gradient, Gradients, InferCx, Inputs, Op, Outputs, ValueType};

/// Inputs: data, axes (integers). Reverses these dimensions (TFLite `REVERSE_V2`).
#[derive(Clone, Debug, Default)]
pub struct Reverse;

/// Inputs: data, lengths (integers, one for each index of `batch_axis`). Reverses the first
/// elements of each sequence, as many as its length, along `time_axis`.
#[derive(Clone, Debug)]
pub struct ReverseSequence {
    /// The dimension that sequences stand beside each other in.
    pub batch_axis: i64,
    /// The dimension that is reversed.
    pub time_axis: i64,
}

impl Op for Reverse {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let mut inputs = vec![Some(g.of_first()?)];
        inputs.extend(g.others());
        let dx = g.apply_all(self.clone(), &inputs, 1)?[0];
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let mut walk = Walk::over(data.dims);
        if !data.is_empty() {
            for axis in axes_of(&ints_in(inputs, 1)?, data.dims.len())? {
                walk.start += (data.dims[axis] - 1) * walk.strides[axis] as usize;
                walk.strides[axis] = -walk.strides[axis];
            }
        }
        let src = whole(&data);
        write_whole(outputs, 0, data.dtype, data.dims, |dst| {
            walk.copy(&src.bytes, dst, src.width);
            Ok(())
        })
    }
}

impl ReverseSequence {
    fn axes(&self, rank: usize) -> OpResult<(usize, usize)> {
        let (batch, time) = (axis_of(self.batch_axis, rank)?, axis_of(self.time_axis, rank)?);
        if batch == time {
            return fail(format!("batch and time are both axis {batch}"));
        }
        Ok((batch, time))
    }
}

impl Op for ReverseSequence {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        cx.ty(1)?;
        if let Some(dims) = cx.dims(0)? {
            self.axes(dims.len())?;
        }
        Ok(vec![cx.ty(0)?.clone()])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let mut inputs = vec![Some(g.of_first()?)];
        inputs.extend(g.others());
        let dx = g.apply_all(self.clone(), &inputs, 1)?[0];
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (data, lengths) = (inputs.get(0)?, inputs.get(1)?);
        let (batch, time) = self.axes(data.dims.len())?;
        if lengths.dims != [data.dims[batch]] {
            return fail(format!("lengths {:?} for {} sequences", lengths.dims, data.dims[batch]));
        }
        let lengths = Indices::of(&lengths)?;
        let strides = row_major(data.dims);
        let src = whole(&data);
        // Elements after both axes move together.
        let after = batch.max(time) + 1;
        let block = data.dims[after..].iter().product::<usize>() * src.width;
        write_whole(outputs, 0, data.dtype, data.dims, |dst| {
            let mut failed = Ok(());
            let mut cells = dst.chunks_exact_mut(block.max(1));
            super::movement::each_index(&data.dims[..after], |index| {
                let Some(cell) = cells.next() else { return };
                let length = match usize::try_from(lengths.get(index[batch])) {
                    Ok(n) if n <= data.dims[time] => n,
                    _ => {
                        let n = lengths.get(index[batch]);
                        failed = fail(format!("length {n} of sequences of {}", data.dims[time]));
                        return;
                    }
                };
                let t = index[time];
                let place = if t < length { length - 1 - t } else { t };
                let at: usize = (0..after)
                    .map(|d| if d == time { place } else { index[d] } * strides[d] as usize)
                    .sum();
                cell.copy_from_slice(&src.bytes[at * src.width..][..block]);
            });
            failed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, t};
    use super::*;

    #[test]
    fn dimensions_are_reversed() {
        let x = t(&[2, 3], &[1i32, 2, 3, 4, 5, 6]);
        check(&Reverse, &[&x, &i(&[1])], &[2, 3], &[3i32, 2, 1, 6, 5, 4]);
        check(&Reverse, &[&x, &i(&[0, -1])], &[2, 3], &[6i32, 5, 4, 3, 2, 1]);
        check(&Reverse, &[&x, &i(&[])], &[2, 3], &[1i32, 2, 3, 4, 5, 6]);
        check::<u8>(&Reverse, &[&t::<u8>(&[0, 2], &[]), &i(&[0])], &[0, 2], &[]);
        assert!(error(&Reverse, &[&x, &i(&[2])]).contains("axis 2"));
    }

    #[test]
    fn sequences_are_reversed_to_their_length() {
        let x = t(&[2, 3, 2], &(0..12).collect::<Vec<i32>>());
        let op = ReverseSequence { batch_axis: 0, time_axis: 1 };
        let want = [2, 3, 0, 1, 4, 5, 10, 11, 8, 9, 6, 7];
        check(&op, &[&x, &i(&[2, 3])], &[2, 3, 2], &want);
        let op = ReverseSequence { batch_axis: 2, time_axis: 0 };
        check(&op, &[&x, &i(&[2, 0])], &[2, 3, 2], &[6, 1, 8, 3, 10, 5, 0, 7, 2, 9, 4, 11]);
        assert!(error(&op, &[&x, &i(&[2, 3])]).contains("length 3"));
        assert!(error(&op, &[&x, &i(&[2, -1])]).contains("length -1"));
        assert!(error(&op, &[&x, &i(&[2])]).contains("sequences"));
        let same = ReverseSequence { batch_axis: 0, time_axis: -3 };
        assert!(error(&same, &[&x, &i(&[1, 1])]).contains("both"));
    }
}
