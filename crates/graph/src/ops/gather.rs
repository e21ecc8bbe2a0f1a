//! Elements picked by index.

use super::movement::{Indices, axis_of, count, fail, row_major, whole, write_whole};
use super::scatter::{Reduction, ScatterElements, ScatterNdZeros};
use crate::op::{OpError, OpResult};
use crate::{Dim, Dims, Gradient, Gradients, InferCx, Inputs, Op, Outputs, Shape, ValueType};

/// Inputs: data, indices (integers). Replaces dimension `axis` of the data by the dimensions of
/// the indices, batch dimensions left out. Negative indices count from the end.
#[derive(Clone, Debug, Default)]
pub struct Gather {
    /// The dimension indexed; negative counts from the end.
    pub axis: i64,
    /// Leading dimensions that data and indices share; negative counts from the end of the
    /// indices.
    pub batch_dims: i64,
}

/// Inputs: data, indices (integers, of the data's rank). Each element of the output comes from
/// its own place in the data, but along `axis` from the index that stands there.
#[derive(Clone, Debug, Default)]
pub struct GatherElements {
    /// The dimension indexed; negative counts from the end.
    pub axis: i64,
}

/// Inputs: data, indices (integers). The last dimension of the indices holds places in the
/// leading dimensions of the data, those after `batch_dims`.
#[derive(Clone, Debug, Default)]
pub struct GatherNd {
    /// Leading dimensions that data and indices share.
    pub batch_dims: usize,
}

impl Gather {
    /// Axis and batch dimensions, checked.
    fn places(&self, rank: usize, indices: usize) -> OpResult<(usize, usize)> {
        let axis = axis_of(self.axis, rank)?;
        let batch = match self.batch_dims {
            0 => 0,
            b if b == indices as i64 => indices,
            b => axis_of(b, indices)?,
        };
        if batch > axis {
            return fail(format!("{batch} batch dimensions reach past axis {axis}"));
        }
        Ok((axis, batch))
    }
}

impl Op for Gather {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let one_scale = ty.quant.clone().filter(|q| q.axis.is_none());
        let shape = match (ty.shape.dims(), cx.dims(1)?) {
            (Some(data), Some(indices)) => {
                let (axis, batch) = self.places(data.len(), indices.len())?;
                [&data[..axis], &indices[batch..], &data[axis + 1..]].concat().into()
            }
            _ => Shape::unknown(),
        };
        Ok(vec![ValueType { dtype: ty.dtype, shape, quant: one_scale }])
    }

    fn sizes(&self, cx: &InferCx<'_>) -> OpResult<Option<Vec<Dim>>> {
        let (Some(sizes), Some(places)) = (cx.sizes(0)?, cx.ints(1)?) else {
            return Ok(None);
        };
        if cx.ty(0)?.shape.rank() != Some(1) || self.batch_dims != 0 {
            return Ok(None);
        }
        places
            .iter()
            .map(|p| Ok(sizes[axis_of(*p, sizes.len())?].clone()))
            .collect::<OpResult<_>>()
            .map(Some)
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, indices, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        let (rank, places) = (g.rank(x)?, g.rank(indices)?);
        let (axis, batch) = self.places(rank, places)?;
        if batch > 0 {
            return Err(OpError::new("has a gradient rule for indices without batch dimensions"));
        }
        // What was picked comes first, as rows that are added to those of the data.
        let last = rank - 1 + places;
        let picked = axis..axis + places;
        let order: Vec<usize> =
            picked.clone().chain((0..last).filter(|a| !picked.contains(a))).collect();
        let rows = g.transposed(dy, &order)?;
        let dims = g.dims(x)?;
        let rest = dims.iter().enumerate().filter(|(i, _)| *i != axis);
        let rest: Option<Vec<i64>> = rest.map(|(_, d)| d.fixed().map(|d| d as i64)).collect();
        let rest = rest.ok_or_else(|| OpError::new("only the indexed size may be a symbol"))?;
        let rows = g.reshaped(rows, &[&[-1], &rest[..]].concat())?;
        let sizes = match axis {
            0 => g.sizes_of(x)?,
            _ => {
                let size = g.fixed(x)?[axis] as i64;
                g.ints(&[&[size], &rest[..]].concat())?
            }
        };
        let indices = g.reshaped(indices, &[-1, 1])?;
        let sums = g.apply(ScatterNdZeros, &[indices, rows, sizes])?;
        let back: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..rank).collect();
        let dx = g.transposed(sums, &back)?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (data, places) = (inputs.get(0)?, inputs.get(1)?);
        let (axis, batch) = self.places(data.dims.len(), places.dims.len())?;
        if data.dims[..batch] != places.dims[..batch] {
            return fail(format!("indices {:?} do not fit data {:?}", places.dims, data.dims));
        }
        let indices = Indices::of(&places)?;
        let mut dims = Dims::from_slice(&data.dims[..axis]);
        dims.extend_from_slice(&places.dims[batch..]);
        dims.extend_from_slice(&data.dims[axis + 1..]);
        let src = whole(&data);
        let batches = count(&data.dims[..batch])?;
        let before = count(&data.dims[batch..axis])?;
        let size = data.dims[axis];
        let block = count(&data.dims[axis + 1..])? * src.width;
        let each = count(&places.dims[batch..])?;
        count(&dims)?;
        write_whole(outputs, 0, data.dtype, &dims, |dst| {
            if dst.is_empty() {
                return Ok(());
            }
            let mut out = dst.chunks_exact_mut(block);
            for b in 0..batches {
                for row in 0..before {
                    let row = (b * before + row) * size;
                    for k in b * each..(b + 1) * each {
                        let from = (row + indices.at(k, size)?) * block;
                        if let Some(out) = out.next() {
                            out.copy_from_slice(&src.bytes[from..from + block]);
                        }
                    }
                }
            }
            Ok(())
        })
    }
}

impl Op for GatherElements {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let (ty, indices) = (cx.ty(0)?, cx.ty(1)?);
        if let (Some(a), Some(b)) = (ty.shape.rank(), indices.shape.rank()) {
            axis_of(self.axis, a)?;
            if a != b {
                return fail(format!("indices of rank {b} for data of rank {a}"));
            }
        }
        Ok(vec![ValueType::new(ty.dtype, indices.shape.clone())])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        let (x, indices, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        let zeros = g.zeros_like(x)?;
        let op = ScatterElements { axis: self.axis, reduction: Reduction::Add };
        let dx = g.apply(op, &[zeros, indices, dy])?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (data, places) = (inputs.get(0)?, inputs.get(1)?);
        let axis = axis_of(self.axis, data.dims.len())?;
        let fits = places.dims.len() == data.dims.len()
            && (0..data.dims.len()).all(|d| d == axis || places.dims[d] <= data.dims[d]);
        if !fits {
            return fail(format!("indices {:?} do not fit data {:?}", places.dims, data.dims));
        }
        let indices = Indices::of(&places)?;
        let mut strides = row_major(data.dims);
        let along = strides[axis] as usize;
        strides[axis] = 0;
        let src = whole(&data);
        let width = src.width;
        write_whole(outputs, 0, data.dtype, places.dims, |dst| {
            let mut k = 0;
            let mut failed = Ok(());
            super::movement::walk_offsets(places.dims, &strides, 0, |at| {
                match indices.at(k, data.dims[axis]) {
                    Ok(index) => {
                        let from = (at + index * along) * width;
                        dst[k * width..][..width].copy_from_slice(&src.bytes[from..from + width]);
                    }
                    Err(e) => failed = Err(e),
                }
                k += 1;
            });
            failed
        })
    }
}

/// Checks the ranks of data, indices and batch, and the length of an index.
pub(super) fn check_nd(data: usize, indices: usize, batch: usize, length: usize) -> OpResult {
    if indices == 0 || batch >= indices || batch > data {
        return fail(format!(
            "indices of rank {indices} with {batch} batch dimensions, data of rank {data}"
        ));
    }
    if length > data - batch {
        return fail(format!("an index of {length} places into data of rank {data}"));
    }
    Ok(())
}

impl Op for GatherNd {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let shape = match (ty.shape.dims(), cx.dims(1)?) {
            (Some(data), Some(indices)) => {
                check_nd(data.len(), indices.len(), self.batch_dims, 0)?;
                match indices.last().and_then(Dim::fixed) {
                    None => Shape::unknown(),
                    Some(n) => {
                        check_nd(data.len(), indices.len(), self.batch_dims, n)?;
                        let rest = &data[self.batch_dims + n..];
                        [&indices[..indices.len() - 1], rest].concat().into()
                    }
                }
            }
            _ => Shape::unknown(),
        };
        Ok(vec![ValueType::new(ty.dtype, shape)])
    }

    fn gradient(&self, g: &mut Gradient<'_>) -> OpResult<Gradients> {
        if self.batch_dims > 0 {
            return Err(OpError::new("has a gradient rule for indices without batch dimensions"));
        }
        let (x, indices, dy) = (g.input(0)?, g.input(1)?, g.of_first()?);
        let sizes = g.sizes_of(x)?;
        let dx = g.apply(ScatterNdZeros, &[indices, dy, sizes])?;
        Ok(g.first_only(Some(dx)))
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let (data, places) = (inputs.get(0)?, inputs.get(1)?);
        let batch = self.batch_dims;
        let n = places.dims.last().copied().unwrap_or(0);
        check_nd(data.dims.len(), places.dims.len(), batch, n)?;
        let lead = &places.dims[..places.dims.len() - 1];
        if data.dims[..batch] != lead[..batch] {
            return fail(format!("indices {:?} do not fit data {:?}", places.dims, data.dims));
        }
        let indices = Indices::of(&places)?;
        let mut dims = Dims::from_slice(lead);
        dims.extend_from_slice(&data.dims[batch + n..]);
        let indexed = &data.dims[batch..batch + n];
        let src = whole(&data);
        let block = count(&data.dims[batch + n..])? * src.width;
        let (per_batch, each) = (count(indexed)?, count(&lead[batch..])?);
        write_whole(outputs, 0, data.dtype, &dims, |dst| {
            if dst.is_empty() {
                return Ok(());
            }
            for (k, out) in dst.chunks_exact_mut(block).enumerate() {
                let mut at = 0;
                for (d, size) in indexed.iter().enumerate() {
                    at = at * size + indices.at(k * n + d, *size)?;
                }
                let from = (k / each * per_batch + at) * block;
                out.copy_from_slice(&src.bytes[from..from + block]);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{check, error, i, shape, t, ty};
    use super::*;
    use crate::DType;

    #[test]
    fn gather_replaces_an_axis() {
        let x = t(&[3, 2], &[1i32, 2, 3, 4, 5, 6]);
        check(&Gather::default(), &[&x, &t(&[1, 2], &[2i32, -3])], &[1, 2, 2], &[5i32, 6, 1, 2]);
        check(&Gather { axis: -1, batch_dims: 0 }, &[&x, &t(&[], &[1i64])], &[3], &[2i32, 4, 6]);
        let batched = Gather { axis: 1, batch_dims: 1 };
        check(&batched, &[&x, &t(&[3, 1], &[1i32, 0, 1])], &[3, 1], &[2i32, 3, 6]);
        assert!(error(&Gather::default(), &[&x, &i(&[3])]).contains("index 3"));
        assert!(error(&Gather::default(), &[&x, &i(&[-4])]).contains("index -4"));
        assert!(error(&batched, &[&x, &t(&[2, 1], &[1i32, 0])]).contains("do not fit"));
        let none = t::<i32>(&[0, 2], &[]);
        assert!(error(&Gather::default(), &[&none, &i(&[0])]).contains("size 0"));
        assert_eq!(shape(&Gather::default(), &ty(DType::F32, "n, c"), &[&i(&[0, 0])]), "[2, c]");
    }

    #[test]
    fn gather_elements_follows_every_index() {
        let x = t(&[3, 3], &[1f32, 2., 3., 4., 5., 6., 7., 8., 9.]);
        let at = t(&[2, 3], &[1i64, 2, 0, -1, 0, 0]);
        check(&GatherElements { axis: 0 }, &[&x, &at], &[2, 3], &[4f32, 8., 3., 7., 2., 3.]);
        let at = t(&[2, 1], &[2i32, 0]);
        check(&GatherElements { axis: 1 }, &[&x, &at], &[2, 1], &[3f32, 4.]);
        assert!(
            error(&GatherElements { axis: 1 }, &[&x, &t(&[1, 1], &[3i64])]).contains("index 3")
        );
        assert!(error(&GatherElements { axis: 0 }, &[&x, &t(&[1, 4], &[0i64; 4])]).contains("fit"));
    }

    #[test]
    fn gather_nd_takes_slices_and_batches() {
        let x = t(&[2, 2, 2], &[0i8, 1, 2, 3, 4, 5, 6, 7]);
        check(&GatherNd::default(), &[&x, &t(&[2, 2], &[0i64, 1, 1, 0])], &[2, 2], &[2i8, 3, 4, 5]);
        let batched = GatherNd { batch_dims: 1 };
        check(&batched, &[&x, &t(&[2, 1], &[1i64, 0])], &[2, 2], &[2i8, 3, 4, 5]);
        let all = t::<i64>(&[1, 0], &[]);
        check(&GatherNd::default(), &[&x, &all], &[1, 2, 2, 2], &[0i8, 1, 2, 3, 4, 5, 6, 7]);
        assert!(error(&GatherNd::default(), &[&x, &t(&[1, 4], &[0i64; 4])]).contains("4 places"));
        assert!(error(&GatherNd::default(), &[&x, &t(&[1, 1], &[2i64])]).contains("index 2"));
    }
}
