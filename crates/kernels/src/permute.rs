//! Permutations of axes, for elements of 1, 2, 4, 8 or 16 bytes.

use std::ops::Range;

/// The most axes of a permutation, after those that stay together were joined.
const MAX_AXES: usize = 8;

/// A permutation of axes, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permute {
    /// Output sizes, and for each axis the distance in the input; joined where they can be.
    sizes: Vec<usize>,
    strides: Vec<usize>,
    /// Elements.
    len: usize,
}

/// Elements of a square that fits the first-level cache both ways.
const TILE: usize = 16;

impl Permute {
    /// Output axis i is input axis `axes[i]`; `sizes` are the input's. `None` where more than 8
    /// axes are left after joining, or `axes` is not a permutation.
    pub fn new(sizes: &[usize], axes: &[usize]) -> Option<Self> {
        let mut seen = vec![false; sizes.len()];
        for &axis in axes {
            if std::mem::replace(seen.get_mut(axis)?, true) {
                return None;
            }
        }
        if axes.len() != sizes.len() {
            return None;
        }
        let mut stride = 1usize;
        let mut input_strides = vec![0; sizes.len()];
        for (i, &size) in sizes.iter().enumerate().rev() {
            input_strides[i] = stride;
            stride = stride.checked_mul(size)?;
        }
        let (mut out_sizes, mut strides): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for &axis in axes {
            let (size, stride) = (sizes[axis], input_strides[axis]);
            if size == 1 {
                continue;
            }
            // Neighbours in both orders are one axis.
            match (out_sizes.last_mut(), strides.last_mut()) {
                (Some(last), Some(last_stride)) if *last_stride == stride * size => {
                    *last *= size;
                    *last_stride = stride;
                }
                _ => {
                    out_sizes.push(size);
                    strides.push(stride);
                }
            }
        }
        if out_sizes.is_empty() {
            (out_sizes, strides) = (vec![1], vec![1]);
        }
        (out_sizes.len() <= MAX_AXES).then_some(Self { sizes: out_sizes, strides, len: stride })
    }

    /// How many slices the work is cut into: the first axis of the output.
    pub fn slices(&self) -> usize {
        self.sizes[0]
    }

    /// Moves the output's slices `slices` into `out`, which holds just these.
    ///
    /// # Panics
    /// Where a slice has not the size that the shapes say.
    pub fn run<T: Copy>(&self, slices: Range<usize>, input: &[T], out: &mut [T]) {
        assert_eq!(input.len(), self.len, "input of a permutation");
        assert!(slices.end <= self.slices(), "slice out of range");
        let slice: usize = self.sizes[1..].iter().product();
        assert_eq!(out.len(), slices.len() * slice, "output of a permutation");
        if out.is_empty() {
            return;
        }
        let mut sizes = [1; MAX_AXES];
        let sizes = &mut sizes[..self.sizes.len()];
        sizes.copy_from_slice(&self.sizes);
        sizes[0] = slices.len();
        let input = &input[slices.start * self.strides[0]..];
        // The axis along which the input is contiguous; the output is along the last.
        let fast = self.strides.iter().position(|&s| s == 1);
        let last = sizes.len() - 1;
        match fast {
            Some(fast) if fast != last => self.transpose(sizes, fast, input, out),
            _ => self.copy_rows(sizes, input, out),
        }
    }

    /// The last axis is contiguous in both (or strided in the input, where nothing is).
    fn copy_rows<T: Copy>(&self, sizes: &[usize], input: &[T], out: &mut [T]) {
        let last = sizes.len() - 1;
        let (row, stride) = (sizes[last], self.strides[last]);
        let mut rows = out.chunks_exact_mut(row);
        let strides = &self.strides[..last];
        walk(&sizes[..last], strides, strides, |from, _| {
            if let Some(out) = rows.next() {
                if stride == 1 {
                    out.copy_from_slice(&input[from..from + row]);
                } else {
                    for (i, x) in out.iter_mut().enumerate() {
                        *x = input[from + i * stride];
                    }
                }
            }
        });
    }

    /// Axis `fast` is contiguous in the input, the last in the output: squares of the two.
    fn transpose<T: Copy>(&self, sizes: &mut [usize], fast: usize, input: &[T], out: &mut [T]) {
        let last = sizes.len() - 1;
        let mut out_strides = [1; MAX_AXES];
        for i in (0..last).rev() {
            out_strides[i] = out_strides[i + 1] * sizes[i + 1];
        }
        let (rows, columns) = (sizes[fast], sizes[last]);
        let (to, from) = (out_strides[fast], self.strides[last]);
        (sizes[fast], sizes[last]) = (1, 1);
        walk(sizes, &self.strides, &out_strides, |source, target| {
            for r in (0..rows).step_by(TILE) {
                for c in (0..columns).step_by(TILE) {
                    for i in r..rows.min(r + TILE) {
                        let width = TILE.min(columns - c);
                        let out = &mut out[target + i * to + c..][..width];
                        let input = &input[source + i + c * from..][..(width - 1) * from + 1];
                        for (j, x) in out.iter_mut().enumerate() {
                            *x = input[j * from];
                        }
                    }
                }
            }
        });
    }
}

/// Visits all positions of `sizes` in order, with their offsets by two sets of strides.
fn walk(
    sizes: &[usize],
    a_strides: &[usize],
    b_strides: &[usize],
    mut visit: impl FnMut(usize, usize),
) {
    let total: usize = sizes.iter().product();
    let mut index = [0usize; MAX_AXES];
    let (mut a, mut b) = (0, 0);
    for _ in 0..total {
        visit(a, b);
        for axis in (0..sizes.len()).rev() {
            index[axis] += 1;
            a += a_strides[axis];
            b += b_strides[axis];
            if index[axis] < sizes[axis] {
                break;
            }
            a -= a_strides[axis] * sizes[axis];
            b -= b_strides[axis] * sizes[axis];
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Values;

    fn check<T: Copy + PartialEq + std::fmt::Debug + Default>(of: impl Fn(usize) -> T) {
        let mut values = Values::new(19);
        for _ in 0..300 {
            let rank = values.below(6);
            let sizes: Vec<usize> = (0..rank).map(|_| values.below(9)).collect();
            let sizes: Vec<usize> =
                sizes.iter().map(|&s| if s > 6 { 20 + s } else { s.max(1) }).collect();
            let mut axes: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                axes.swap(i, values.below(i + 1));
            }
            let len: usize = sizes.iter().product();
            if len > 100_000 {
                continue;
            }
            let input: Vec<T> = (0..len).map(&of).collect();
            let permute = Permute::new(&sizes, &axes).unwrap();
            let mut out = vec![T::default(); len];
            let cut = values.below(permute.slices() + 1);
            let (first, second) = out.split_at_mut(len / permute.slices() * cut);
            permute.run(0..cut, &input, first);
            permute.run(cut..permute.slices(), &input, second);
            let mut index = vec![0; rank];
            for (at, got) in out.iter().enumerate() {
                let mut rest = at;
                for i in (0..rank).rev() {
                    index[axes[i]] = rest % sizes[axes[i]];
                    rest /= sizes[axes[i]];
                }
                let from = index.iter().zip(&sizes).fold(0, |n, (i, size)| n * size + i);
                assert_eq!(*got, input[from], "{sizes:?} {axes:?} at {at}");
            }
        }
    }

    #[test]
    fn permutations_are_right() {
        check(|i| i as u8);
        check(|i| i as u16);
        check(|i| i as u32);
        check(|i| i as u64);
    }

    #[test]
    fn nothing_and_nonsense() {
        assert!(Permute::new(&[2, 3], &[0, 0]).is_none());
        assert!(Permute::new(&[2, 3], &[0]).is_none());
        assert!(Permute::new(&[2, 3], &[0, 5]).is_none());
        let empty = Permute::new(&[2, 0, 3], &[2, 1, 0]).unwrap();
        empty.run::<u8>(0..empty.slices(), &[], &mut []);
    }
}
