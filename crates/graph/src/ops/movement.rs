//! What the ops that move data share: elements as whole bytes, strided copies, axes, indices.

use super::broadcast::strides;
pub(crate) use super::broadcast::{axes_of, axis_of};
use crate::op::{OpError, OpResult};
use crate::{DType, Dim, Dims, Inputs, Outputs, TensorView, elements};
use smallvec::SmallVec;
use std::borrow::Cow;

/// Integers of an op's small input (axes, sizes, pads); up to twelve take no allocation.
pub(crate) type Ints = SmallVec<[i64; 12]>;

/// Distances between neighbours along each dimension, in elements.
pub(crate) type Strides = SmallVec<[isize; 6]>;

/// A shorthand for an op's failure.
pub(crate) fn fail<T>(message: impl Into<String>) -> OpResult<T> {
    Err(OpError::new(message))
}

/// The integers of a small input, of any integer type of at least 8 bits.
#[expect(clippy::useless_conversion, reason = "i64 is one of the types")]
pub(crate) fn ints_of(view: &TensorView<'_>) -> OpResult<Ints> {
    crate::dispatch!(view.dtype, T in [
        I64 i64, I32 i32, I16 i16, I8 i8, U32 u32, U16 u16, U8 u8,
    ] => Ok(view.slice::<T>()?.iter().map(|v| i64::from(*v)).collect()),
    else => fail(format!("expected integers, found {}", view.dtype)))
}

/// The integers of input `i`; an error where it is left out.
pub(crate) fn ints_in(inputs: &Inputs<'_>, i: usize) -> OpResult<Ints> {
    ints_of(&inputs.get(i)?)
}

/// The integers of input `i`, if it is there.
pub(crate) fn opt_ints_in(inputs: &Inputs<'_>, i: usize) -> OpResult<Option<Ints>> {
    inputs.opt(i).map(|v| ints_of(&v)).transpose()
}

/// Indices into a dimension, read one at a time.
#[derive(Clone, Copy)]
pub(crate) enum Indices<'a> {
    I64(&'a [i64]),
    I32(&'a [i32]),
    I16(&'a [i16]),
    I8(&'a [i8]),
    U8(&'a [u8]),
}

impl<'a> Indices<'a> {
    pub fn of(view: &TensorView<'a>) -> OpResult<Indices<'a>> {
        Ok(match view.dtype {
            DType::I64 => Indices::I64(view.slice()?),
            DType::I32 => Indices::I32(view.slice()?),
            DType::I16 => Indices::I16(view.slice()?),
            DType::I8 => Indices::I8(view.slice()?),
            DType::U8 => Indices::U8(view.slice()?),
            other => return fail(format!("expected indices, found {other}")),
        })
    }

    /// Number `k`, as it stands.
    pub fn get(&self, k: usize) -> i64 {
        match self {
            Indices::I64(v) => v[k],
            Indices::I32(v) => i64::from(v[k]),
            Indices::I16(v) => i64::from(v[k]),
            Indices::I8(v) => i64::from(v[k]),
            Indices::U8(v) => i64::from(v[k]),
        }
    }

    /// Number `k` as an index into `size` places; negative counts from the end.
    pub fn at(&self, k: usize, size: usize) -> OpResult<usize> {
        let index = self.get(k);
        let from_end = if index < 0 { index.saturating_add(size as i64) } else { index };
        match usize::try_from(from_end) {
            Ok(i) if i < size => Ok(i),
            _ => fail(format!("index {index} is outside a dimension of size {size}")),
        }
    }
}

/// Elements of at least a byte each: `width` bytes, or one byte for types narrower than that.
pub(crate) struct Whole<'a> {
    pub width: usize,
    pub bytes: Cow<'a, [u8]>,
}

/// The elements of `view` in whole bytes.
pub(crate) fn whole<'a>(view: &TensorView<'a>) -> Whole<'a> {
    let bits = view.dtype.bits();
    if bits >= 8 {
        return Whole { width: bits / 8, bytes: Cow::Borrowed(view.bytes) };
    }
    let (each, mask) = (8 / bits, (1u8 << bits) - 1);
    let unpacked =
        (0..view.len()).map(|i| (view.bytes[i / each] >> (i % each * bits)) & mask).collect();
    Whole { width: 1, bytes: Cow::Owned(unpacked) }
}

/// Lets `write` fill output `i` in whole bytes, as [`whole`] gives them.
pub(crate) fn write_whole(
    outputs: &mut Outputs<'_>,
    i: usize,
    dtype: DType,
    dims: &[usize],
    write: impl FnOnce(&mut [u8]) -> OpResult,
) -> OpResult {
    let bits = dtype.bits();
    let bytes = outputs.bytes(i, dtype, dims)?;
    if bits >= 8 {
        return write(bytes);
    }
    let each = 8 / bits;
    let mut unpacked = vec![0u8; elements(dims).unwrap_or(0)];
    write(&mut unpacked)?;
    for (byte, group) in bytes.iter_mut().zip(unpacked.chunks(each)) {
        *byte = group.iter().rev().fold(0, |b, v| (b << bits) | v);
    }
    Ok(())
}

/// [`strides`] as distances that may be turned around.
pub(crate) fn row_major(dims: &[usize]) -> Strides {
    // Only a tensor without elements can overflow here, and nothing walks it.
    strides(dims).into_iter().map(|s| s as isize).collect()
}

/// Some elements of a buffer in the order in which they are wanted: element `i, j, …` lies at
/// `start + i × strides[0] + j × strides[1] + …`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Walk {
    pub start: usize,
    pub dims: Dims,
    pub strides: Strides,
}

impl Walk {
    /// All of a row-major tensor.
    pub fn over(dims: &[usize]) -> Walk {
        Walk { start: 0, dims: dims.into(), strides: row_major(dims) }
    }

    /// The same walk with fewer, longer dimensions.
    fn merged(&self) -> Walk {
        let mut walk = Walk { start: self.start, dims: Dims::new(), strides: Strides::new() };
        for (d, s) in self.dims.iter().zip(&self.strides) {
            match (walk.dims.last_mut(), walk.strides.last_mut()) {
                _ if *d == 1 => {}
                (Some(last), Some(stride)) if *stride == s * *d as isize => {
                    *last *= d;
                    *stride = *s;
                }
                _ => {
                    walk.dims.push(*d);
                    walk.strides.push(*s);
                }
            }
        }
        if walk.dims.is_empty() {
            walk.dims.push(1);
            walk.strides.push(1);
        }
        walk
    }

    /// Copies the walk's elements from `src`, `width` bytes each, to `dst`, one after the other.
    pub fn copy(&self, src: &[u8], dst: &mut [u8], width: usize) {
        if self.dims.contains(&0) {
            return;
        }
        let walk = self.merged();
        match width {
            _ if walk.strides.last() == Some(&1) => walk.copy_rows(src, dst, width),
            1 => walk.copy_elements::<1>(src, dst),
            2 => walk.copy_elements::<2>(src, dst),
            4 => walk.copy_elements::<4>(src, dst),
            8 => walk.copy_elements::<8>(src, dst),
            _ => walk.copy_elements::<16>(src, dst),
        }
    }

    fn copy_rows(&self, src: &[u8], dst: &mut [u8], width: usize) {
        let (outer, inner) = self.dims.split_at(self.dims.len() - 1);
        let row = inner[0] * width;
        let mut rows = dst.chunks_exact_mut(row);
        walk_offsets(outer, &self.strides, self.start, |at| {
            if let Some(out) = rows.next() {
                out.copy_from_slice(&src[at * width..][..row]);
            }
        });
    }

    fn copy_elements<const W: usize>(&self, src: &[u8], dst: &mut [u8]) {
        let src = src.as_chunks::<W>().0;
        let dst = dst.as_chunks_mut::<W>().0;
        let last = self.dims.len() - 1;
        let (across, step) = (self.dims[last], self.strides[last]);
        // A dimension that is contiguous in the source is walked together with the innermost, in
        // tiles, so that both sides stay in cache.
        let Some(along) = self.strides.iter().position(|s| *s == 1) else {
            let mut rows = dst.chunks_exact_mut(across);
            walk_offsets(&self.dims[..last], &self.strides, self.start, |at| {
                let Some(row) = rows.next() else { return };
                for (i, out) in row.iter_mut().enumerate() {
                    *out = src[at.wrapping_add_signed(i as isize * step)];
                }
            });
            return;
        };
        const TILE: usize = 16;
        let own = row_major(&self.dims);
        let rows = self.dims[along];
        let (mut dims, mut from, mut to) = (Dims::new(), Strides::new(), Strides::new());
        for d in (0..last).filter(|d| *d != along) {
            dims.push(self.dims[d]);
            from.push(self.strides[d]);
            to.push(own[d]);
        }
        let stride = own[along] as usize;
        walk_offset_pairs(&dims, &from, &to, self.start, |at, out| {
            for j0 in (0..across).step_by(TILE) {
                for i0 in (0..rows).step_by(TILE) {
                    for i in i0..(i0 + TILE).min(rows) {
                        let j1 = (j0 + TILE).min(across);
                        let row = &mut dst[out + i * stride..][j0..j1];
                        for (j, cell) in (j0..j1).zip(row) {
                            *cell = src[(at + i).wrapping_add_signed(j as isize * step)];
                        }
                    }
                }
            }
        });
    }
}

/// Calls `visit` with the offset of every index of `dims`, in row-major order.
pub(crate) fn walk_offsets(
    dims: &[usize],
    strides: &[isize],
    start: usize,
    mut visit: impl FnMut(usize),
) {
    walk_offset_pairs(dims, strides, strides, start, |at, _| visit(at));
}

/// Calls `visit` with two offsets of every index of `dims`, in row-major order; the second
/// starts at 0.
pub(crate) fn walk_offset_pairs(
    dims: &[usize],
    first: &[isize],
    second: &[isize],
    start: usize,
    mut visit: impl FnMut(usize, usize),
) {
    if dims.contains(&0) {
        return;
    }
    let mut index: Dims = smallvec::smallvec![0; dims.len()];
    // Offsets between visits may lie before the buffer; those visited do not.
    let (mut a, mut b) = (start, 0usize);
    loop {
        visit(a, b);
        let mut d = dims.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            a = a.wrapping_add_signed(first[d]);
            b = b.wrapping_add_signed(second[d]);
            if index[d] < dims[d] {
                break;
            }
            a = a.wrapping_add_signed(-first[d].wrapping_mul(dims[d] as isize));
            b = b.wrapping_add_signed(-second[d].wrapping_mul(dims[d] as isize));
            index[d] = 0;
        }
    }
}

/// Calls `visit` with every index of `dims`, in row-major order.
pub(crate) fn each_index(dims: &[usize], mut visit: impl FnMut(&[usize])) {
    if dims.contains(&0) {
        return;
    }
    let mut index: Dims = smallvec::smallvec![0; dims.len()];
    loop {
        visit(&index);
        let Some(d) = (0..dims.len()).rev().find(|d| index[*d] + 1 < dims[*d]) else {
            return;
        };
        index[d] += 1;
        index[d + 1..].fill(0);
    }
}

/// Fills `dst` with copies of `element`.
pub(crate) fn fill(dst: &mut [u8], element: &[u8]) {
    if element.iter().all(|b| *b == element[0]) {
        dst.fill(element[0]);
    } else {
        dst.chunks_exact_mut(element.len()).for_each(|out| out.copy_from_slice(element));
    }
}

/// The product of sizes, with factors that are numbers first.
pub(crate) fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1usize), |n, d| n.mul(d))
}

/// The product of sizes that must fit the address space.
pub(crate) fn count(dims: &[usize]) -> OpResult<usize> {
    elements(dims).ok_or_else(|| OpError::new(format!("sizes {dims:?} are too large")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn bytes(n: u8) -> Vec<u8> {
        (0..n).collect()
    }

    #[test]
    fn a_walk_copies_in_any_order() {
        let copy = |start, dims: &[usize], strides: &[isize], width: usize| {
            let walk = Walk { start, dims: dims.into(), strides: strides.into() };
            let mut out = vec![0; dims.iter().product::<usize>() * width];
            walk.copy(&bytes(24), &mut out, width);
            out
        };
        assert_eq!(copy(0, &[3, 2], &[1, 3], 1), [0, 3, 1, 4, 2, 5]);
        assert_eq!(copy(5, &[2, 3], &[-3, -1], 1), [5, 4, 3, 2, 1, 0]);
        assert_eq!(copy(1, &[2, 2], &[0, 1], 2), [2, 3, 4, 5, 2, 3, 4, 5]);
        assert_eq!(copy(0, &[2, 2], &[1, 0], 1), [0, 0, 1, 1]);
        assert_eq!(copy(7, &[], &[], 1), [7]);
        assert_eq!(copy(0, &[0, 4], &[4, 1], 1), []);
        // 2×3×4 to 4×3×2
        let t = copy(0, &[4, 3, 2], &[1, 4, 12], 1);
        assert_eq!(t[..6], [0, 12, 4, 16, 8, 20]);
        assert_eq!(t[18..], [3, 15, 7, 19, 11, 23]);
    }

    #[test]
    fn large_transposes_are_tiled_right() {
        let (h, w) = (37usize, 50usize);
        let src: Vec<u8> = (0..h * w).flat_map(|i| (i as u32).to_le_bytes()).collect();
        let mut out = vec![0; src.len()];
        let walk = Walk {
            start: 0,
            dims: Dims::from_slice(&[w, h]),
            strides: Strides::from_slice(&[1, w as isize]),
        };
        walk.copy(&src, &mut out, 4);
        for (k, v) in out.as_chunks::<4>().0.iter().enumerate() {
            assert_eq!(u32::from_le_bytes(*v) as usize, (k % h) * w + k / h);
        }
    }

    #[test]
    fn narrow_types_are_unpacked_and_packed_again() {
        let mut t = Tensor::zeros(DType::U4, &[3]).unwrap();
        t.bytes_mut().copy_from_slice(&[0x21, 0x03]);
        assert_eq!(&*whole(&t.view()).bytes, [1, 2, 3]);
        let slot = crate::Slot::Open { quant: None, tensor: None };
        let mut outputs = Outputs::new([slot]);
        write_whole(&mut outputs, 0, DType::U2, &[5], |b| {
            b.copy_from_slice(&[3, 2, 1, 0, 1]);
            Ok(())
        })
        .unwrap();
        assert_eq!(outputs.bytes(0, DType::U2, &[5]).unwrap(), [0b0001_1011, 1]);
    }
}
