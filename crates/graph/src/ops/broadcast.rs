//! Shape helpers that ops share: NumPy broadcasting, axes, and walks over indices.

use crate::{Dim, Dims, InferCx, OpError, OpResult, Shape};
use smallvec::SmallVec;

/// The axis that `axis` means in a tensor of `rank` dimensions: negative counts from the back.
pub fn axis_of(axis: i64, rank: usize) -> OpResult<usize> {
    let r = i64::try_from(rank).unwrap_or(i64::MAX);
    let at = if axis < 0 { axis.saturating_add(r) } else { axis };
    usize::try_from(at)
        .ok()
        .filter(|a| *a < rank)
        .ok_or_else(|| OpError::new(format!("axis {axis} is outside of rank {rank}")))
}

/// The axes that `axes` mean, each once, in the order given.
pub fn axes_of(axes: &[i64], rank: usize) -> OpResult<SmallVec<[usize; 6]>> {
    let mut found = SmallVec::new();
    for axis in axes {
        let at = axis_of(*axis, rank)?;
        if found.contains(&at) {
            return Err(OpError::new(format!("axis {axis} is given twice")));
        }
        found.push(at);
    }
    Ok(found)
}

/// The size that two sizes broadcast to. A symbol meets a number above 1 as that number; of two
/// different symbols, the larger one.
pub fn broadcast_dim(a: &Dim, b: &Dim) -> OpResult<Dim> {
    match (a.fixed(), b.fixed()) {
        _ if a == b => Ok(a.clone()),
        (Some(1), _) => Ok(b.clone()),
        (_, Some(1)) => Ok(a.clone()),
        (Some(_), Some(_)) => Err(OpError::new(format!("sizes {a} and {b} do not broadcast"))),
        (Some(_), None) => Ok(a.clone()),
        (None, Some(_)) => Ok(b.clone()),
        (None, None) => Ok(a.min(b).at_least(a.max(b))),
    }
}

/// The shape that `shapes` broadcast to; unknown where one of them is.
pub fn broadcast_shapes(shapes: &[&Shape]) -> OpResult<Shape> {
    let mut all = Vec::with_capacity(shapes.len());
    for shape in shapes {
        match shape.dims() {
            Some(dims) => all.push(dims),
            None => return Ok(Shape::unknown()),
        }
    }
    let rank = all.iter().map(|d| d.len()).max().unwrap_or(0);
    let mut out = vec![Dim::from(1); rank];
    for dims in &all {
        for (to, d) in out[rank - dims.len()..].iter_mut().zip(*dims) {
            *to = broadcast_dim(to, d).map_err(|_| {
                let texts: Vec<String> = shapes.iter().map(|s| s.to_string()).collect();
                OpError::new(format!("shapes {} do not broadcast", texts.join(" and ")))
            })?;
        }
    }
    Ok(Shape::new(out))
}

/// The shape that all inputs in `range` which are there broadcast to.
pub fn broadcast_inputs(cx: &InferCx<'_>, range: std::ops::Range<usize>) -> OpResult<Shape> {
    let shapes: Vec<&Shape> = range.filter_map(|i| cx.opt(i)).map(|ty| &ty.shape).collect();
    broadcast_shapes(&shapes)
}

/// The sizes that `all` broadcast to.
pub fn broadcast_dims(all: &[&[usize]]) -> OpResult<Dims> {
    let rank = all.iter().map(|d| d.len()).max().unwrap_or(0);
    let mut out: Dims = SmallVec::from_elem(1, rank);
    for dims in all {
        for (to, d) in out[rank - dims.len()..].iter_mut().zip(*dims) {
            *to = match (*to, *d) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return Err(OpError::new(format!("sizes {all:?} do not broadcast"))),
            };
        }
    }
    Ok(out)
}

/// Row-major strides of `dims`, in elements.
pub fn strides(dims: &[usize]) -> Dims {
    let mut out: Dims = SmallVec::from_elem(1, dims.len());
    for i in (1..dims.len()).rev() {
        out[i - 1] = out[i].saturating_mul(dims[i]);
    }
    out
}

/// The strides with which a row-major tensor of `dims` is read as one of sizes `out`, which it
/// broadcasts to: 0 along repeated dimensions.
pub fn broadcast_strides(dims: &[usize], out: &[usize]) -> Dims {
    let own = strides(dims);
    let lead = out.len() - dims.len();
    let along = |i: usize| if i < lead || dims[i - lead] == 1 { 0 } else { own[i - lead] };
    (0..out.len()).map(along).collect()
}

/// Walks all indices of a shape in row-major order and yields, for each, the offset into each of
/// `N` operands that have strides of their own.
///
/// ```
/// use kinglet_graph::ops::broadcast::Offsets;
/// let transposed: Vec<_> = Offsets::new(&[2, 3], [&[1, 2]]).map(|[at]| at).collect();
/// assert_eq!(transposed, [0, 2, 4, 1, 3, 5]);
/// ```
#[derive(Clone, Debug)]
pub struct Offsets<const N: usize> {
    dims: Dims,
    strides: [Dims; N],
    index: Dims,
    at: [usize; N],
    left: usize,
}

impl<const N: usize> Offsets<N> {
    /// Over `dims`, with each operand's strides.
    pub fn new(dims: &[usize], strides: [&[usize]; N]) -> Offsets<N> {
        Offsets {
            dims: dims.into(),
            strides: strides.map(Dims::from),
            index: SmallVec::from_elem(0, dims.len()),
            at: [0; N],
            left: dims.iter().product(),
        }
    }

    /// Over the sizes `out`, with operands of sizes `dims` that broadcast to it.
    pub fn broadcast(out: &[usize], dims: [&[usize]; N]) -> Offsets<N> {
        let strides = dims.map(|d| broadcast_strides(d, out));
        Offsets::new(out, std::array::from_fn(|i| strides[i].as_slice()))
    }

    /// The index that the next item stands for.
    pub fn index(&self) -> &[usize] {
        &self.index
    }
}

impl<const N: usize> Iterator for Offsets<N> {
    type Item = [usize; N];

    fn next(&mut self) -> Option<[usize; N]> {
        self.left = self.left.checked_sub(1)?;
        let item = self.at;
        for d in (0..self.dims.len()).rev() {
            self.index[d] += 1;
            for (at, strides) in self.at.iter_mut().zip(&self.strides) {
                *at += strides[d];
            }
            if self.index[d] < self.dims[d] {
                break;
            }
            for (at, strides) in self.at.iter_mut().zip(&self.strides) {
                *at -= strides[d] * self.dims[d];
            }
            self.index[d] = 0;
        }
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<const N: usize> ExactSizeIterator for Offsets<N> {}

/// A tensor seen around one axis: `outer` × `len` × `inner` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AroundAxis {
    /// Product of the sizes before the axis.
    pub outer: usize,
    /// Size of the axis.
    pub len: usize,
    /// Product of the sizes after the axis: the stride along it.
    pub inner: usize,
}

impl AroundAxis {
    /// Of a tensor of `dims` around `axis`, which is one of its own.
    pub fn new(dims: &[usize], axis: usize) -> AroundAxis {
        AroundAxis {
            outer: dims[..axis].iter().product(),
            len: dims[axis],
            inner: dims[axis + 1..].iter().product(),
        }
    }

    /// The offset of the first element of each line along the axis.
    pub fn lines(self) -> impl Iterator<Item = usize> {
        let step = self.len * self.inner;
        (0..self.outer).flat_map(move |o| (0..self.inner).map(move |i| o * step + i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_survive_broadcasting() {
        let n = Dim::symbol("n");
        let a = Shape::new(vec![n.clone(), 1.into(), 4.into()]);
        let b = Shape::new(vec![3.into(), 1.into()]);
        let out = broadcast_shapes(&[&a, &b]).unwrap();
        assert_eq!(out.dims().unwrap(), [n.clone(), 3.into(), 4.into()]);
        assert_eq!(broadcast_dim(&n, &3.into()).unwrap(), 3);
        let m = Dim::symbol("m");
        assert_eq!(broadcast_dim(&n, &m).unwrap().to_string(), "max(m, n)");
        assert_eq!(broadcast_dim(&n, &m), broadcast_dim(&m, &n));
        assert!(broadcast_dim(&2.into(), &3.into()).is_err());
        assert_eq!(broadcast_dim(&0.into(), &1.into()).unwrap(), 0);
    }

    #[test]
    fn offsets_repeat_along_dimensions_of_one() {
        let out = broadcast_dims(&[&[2, 1], &[3]]).unwrap();
        assert_eq!(out.as_slice(), [2, 3]);
        let all: Vec<_> = Offsets::broadcast(&out, [&[2, 1], &[3]]).collect();
        assert_eq!(all, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]);
        assert_eq!(Offsets::broadcast(&[2, 0], [&[2, 0]]).count(), 0);
        assert_eq!(Offsets::broadcast(&[], [&[]]).count(), 1);
    }

    #[test]
    fn axes_count_from_either_end() {
        assert_eq!(axis_of(-1, 3).unwrap(), 2);
        assert!(axis_of(3, 3).is_err());
        assert!(axis_of(i64::MIN, 3).is_err());
        assert!(axes_of(&[1, -2], 3).is_err());
    }

    #[test]
    fn lines_start_at_each_element_beside_the_axis() {
        let around = AroundAxis::new(&[2, 3, 2], 1);
        assert_eq!(around.lines().collect::<Vec<_>>(), [0, 1, 6, 7]);
    }
}
