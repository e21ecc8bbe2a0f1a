//! Constants stored sparsely, made dense.

use kinglet_graph::{DType, OpError, OpResult, Tensor};

use super::super::schema::{SparseDim, Sparsity};

/// A sparse constant grows at most by this factor: those in the field keep a tenth of their
/// elements or more.
const MAX_GROWTH: usize = 64;

/// The dense tensor of `dims` that `bytes` store as `sparsity` says: a tree over the dimensions in
/// traversal order, of which each level is dense or lists the indices that are there.
pub(super) fn dense(
    dtype: DType,
    dims: &[usize],
    sparsity: &Sparsity,
    bytes: &[u8],
) -> OpResult<Tensor> {
    let bad = |what: &str| OpError::new(format!("its sparsity {what}"));
    if dtype.bits() < 8 {
        return Err(bad("is of a type narrower than a byte, which is not supported"));
    }
    let size = dtype.bits() / 8;
    let rank = dims.len();
    let levels = sparsity.traversal_order.len();
    if levels != rank + sparsity.block_map.len() || levels != sparsity.dims.len() {
        return Err(bad("does not fit its shape"));
    }
    // Sizes of the levels in their own order: blocks divide the dimensions they map to.
    let mut sizes = dims.to_vec();
    for (i, dim) in sparsity.block_map.iter().enumerate() {
        let level = sparsity.traversal_order.iter().position(|l| *l == rank + i);
        let block = match level.map(|l| &sparsity.dims[l]) {
            Some(SparseDim::Dense(block)) if *block > 0 => *block,
            _ => return Err(bad("has a block that is not dense")),
        };
        let whole = sizes.get_mut(*dim).filter(|n| **n % block == 0 && *dim < rank);
        *whole.ok_or_else(|| bad("has a block that does not divide its shape"))? /= block;
        sizes.push(block);
    }
    let mut seen = vec![false; levels];
    for level in &sparsity.traversal_order {
        match seen.get_mut(*level) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(bad("has a traversal order that is none")),
        }
    }
    let elements = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let total =
        elements.and_then(|n| n.checked_mul(size)).filter(|n| *n / MAX_GROWTH <= bytes.len());
    let total = total.ok_or_else(|| bad("makes it too large for the data there is"))?;
    // Steps in the dense tensor of one index of each level.
    let mut strides = vec![size; levels];
    for dim in (0..rank).rev() {
        let inner = dims[dim + 1..].iter().product::<usize>() * size;
        strides[dim] = inner;
        let mut block = 1;
        for i in (0..sparsity.block_map.len()).rev().filter(|i| sparsity.block_map[*i] == dim) {
            strides[rank + i] = inner * block;
            block *= sizes[rank + i];
        }
        strides[dim] = inner * block;
    }
    let mut tensor = Tensor::zeros(dtype, dims)?;
    let out = tensor.bytes_mut();
    debug_assert_eq!(out.len(), total);
    // The positions in storage order, level by level.
    let mut places = vec![0usize];
    for (level, dim) in sparsity.traversal_order.iter().zip(&sparsity.dims) {
        let (stride, size_here) = (strides[*level], sizes[*level]);
        let mut next = Vec::new();
        match dim {
            SparseDim::Dense(n) => {
                if *n != size_here {
                    return Err(bad("has a dense level of another size than its shape"));
                }
                if places.len().saturating_mul(*n) > total {
                    return Err(bad("names more elements than there are"));
                }
                for place in places {
                    next.extend((0..*n).map(|i| place + i * stride));
                }
            }
            SparseDim::Csr { segments, indices } => {
                if segments.len() != places.len() + 1 {
                    return Err(bad("has segments that do not fit the level before"));
                }
                for (place, bounds) in places.into_iter().zip(segments.windows(2)) {
                    let run = indices.get(bounds[0]..bounds[1]);
                    for i in run.ok_or_else(|| bad("has segments outside of its indices"))? {
                        if *i >= size_here || next.len() >= total {
                            return Err(bad("has an index outside of its shape"));
                        }
                        next.push(place + i * stride);
                    }
                }
            }
        }
        places = next;
    }
    if places.len().checked_mul(size).is_none_or(|n| n > bytes.len()) {
        return Err(bad("names more elements than are stored"));
    }
    for (place, value) in places.into_iter().zip(bytes.chunks_exact(size)) {
        match out.get_mut(place..place + size) {
            Some(to) => to.copy_from_slice(value),
            None => return Err(bad("has an index outside of its shape")),
        }
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[[1, 0, 0, 0], [0, 2, 3, 0]]` as compressed rows, and as 1×2 blocks.
    #[test]
    fn rows_and_blocks_become_dense() {
        let rows = Sparsity {
            traversal_order: vec![0, 1],
            block_map: vec![],
            dims: vec![
                SparseDim::Dense(2),
                SparseDim::Csr { segments: vec![0, 1, 3], indices: vec![0, 1, 2] },
            ],
        };
        let want = [1i8, 0, 0, 0, 0, 2, 3, 0];
        let t = dense(DType::I8, &[2, 4], &rows, &[1, 2, 3]).unwrap();
        assert_eq!(t.slice::<i8>().unwrap(), want);
        let blocks = Sparsity {
            traversal_order: vec![0, 1, 2],
            block_map: vec![1],
            dims: vec![
                SparseDim::Dense(2),
                SparseDim::Csr { segments: vec![0, 1, 3], indices: vec![0, 0, 1] },
                SparseDim::Dense(2),
            ],
        };
        let t = dense(DType::I8, &[2, 4], &blocks, &[1, 0, 0, 2, 3, 0]).unwrap();
        assert_eq!(t.slice::<i8>().unwrap(), want);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let far = Sparsity {
            traversal_order: vec![0, 1],
            block_map: vec![],
            dims: vec![
                SparseDim::Dense(2),
                SparseDim::Csr { segments: vec![0, 1, 2], indices: vec![0, 9] },
            ],
        };
        assert!(dense(DType::I8, &[2, 4], &far, &[1, 2]).is_err());
        assert!(dense(DType::I8, &[2], &far, &[1, 2]).is_err());
        assert!(dense(DType::I8, &[1 << 20, 1 << 20], &far, &[1, 2]).is_err());
    }
}
