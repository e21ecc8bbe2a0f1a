//! Tensors: typed bytes, owned or borrowed from a file mapping.

use crate::op::{OpError, StateMut};
use crate::{DType, Dims, Element, Quant};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Bytes that start at a multiple of 64.
pub type AlignedBytes = kinglet_kernels::aligned::Aligned<u8>;

/// A range of shared read-only bytes, such as a part of a memory-mapped file.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// All the bytes of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Bytes {
        let len = (*owner).as_ref().len();
        Bytes { owner, start: 0, len }
    }

    /// The part from `start`, `len` bytes long, or `None` where it leaves these bytes.
    pub fn slice(&self, start: usize, len: usize) -> Option<Bytes> {
        let end = start.checked_add(len)?;
        (end <= self.len).then(|| Bytes {
            owner: self.owner.clone(),
            start: self.start + start,
            len,
        })
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.start + self.len]
    }
}

enum Storage {
    Owned(AlignedBytes),
    /// Aligned on first use, where the file did not align it.
    Shared {
        bytes: Bytes,
        aligned: OnceLock<AlignedBytes>,
    },
}

/// A value with its data. Cloning shares the data.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    dims: Dims,
    storage: Arc<Storage>,
    quant: Option<Arc<Quant>>,
}

impl Tensor {
    /// Zeros. Fails where the sizes overflow the address space.
    pub fn zeros(dtype: DType, dims: &[usize]) -> Result<Tensor, OpError> {
        let len = dtype.bytes_of(dims)?;
        // A size that no machine has must be an error and not an abort of the process.
        let mut probe: Vec<u8> = Vec::new();
        if len > 1 << 30 && probe.try_reserve_exact(len).is_err() {
            return Err(OpError::new(format!("a tensor of {len} bytes does not fit in memory")));
        }
        Ok(Self::owned(dtype, dims, AlignedBytes::zeros(len)))
    }

    fn owned(dtype: DType, dims: &[usize], bytes: AlignedBytes) -> Tensor {
        let storage = Arc::new(Storage::Owned(bytes));
        Tensor { dtype, dims: dims.into(), storage, quant: None }
    }

    /// A copy of `data`, whose length must be the product of `dims`.
    pub fn from_slice<T: Element>(dims: &[usize], data: &[T]) -> Result<Tensor, OpError> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        check_len(T::DTYPE, dims, bytes.len())?;
        Ok(Self::owned(T::DTYPE, dims, AlignedBytes::copy_of(bytes)))
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Self::owned(T::DTYPE, &[], AlignedBytes::copy_of(bytemuck::bytes_of(&value)))
    }

    /// A tensor over shared bytes (little-endian, row-major), which are not copied.
    pub fn from_bytes(dtype: DType, dims: &[usize], bytes: Bytes) -> Result<Tensor, OpError> {
        check_len(dtype, dims, bytes.len())?;
        let storage = Arc::new(Storage::Shared { bytes, aligned: OnceLock::new() });
        Ok(Tensor { dtype, dims: dims.into(), storage, quant: None })
    }

    /// A copy of a view.
    pub fn copy_of(view: &TensorView<'_>) -> Tensor {
        let mut tensor = Self::owned(view.dtype, view.dims, AlignedBytes::copy_of(view.bytes));
        tensor.quant = view.quant.cloned().map(Arc::new);
        tensor
    }

    /// `elements` stored as floats of `dtype`, or encoded. Encoded ones must be finite.
    ///
    /// # Errors
    /// If they are not as many as `dims` says, or `dtype` is neither an encoding nor f32, f16, bf16.
    pub fn encode(dtype: DType, dims: &[usize], elements: &[f32]) -> Result<Tensor, OpError> {
        let f32s = Tensor::from_slice(dims, elements)?;
        let mut tensor = Tensor::zeros(dtype, dims)?;
        let bytes = tensor.bytes_mut();
        let halves = elements.iter().zip(bytes.as_chunks_mut::<2>().0);
        match dtype {
            DType::Encoded(encoding) => encoding.encode(elements, bytes),
            DType::F32 => return Ok(f32s),
            DType::F16 => halves.for_each(|(v, h)| *h = half::f16::from_f32(*v).to_le_bytes()),
            DType::BF16 => halves.for_each(|(v, h)| *h = half::bf16::from_f32(*v).to_le_bytes()),
            other => return Err(OpError::new(format!("f32 can't be encoded as {other}"))),
        }
        Ok(tensor)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Quantisation, if the elements stand for other numbers.
    pub fn quant(&self) -> Option<&Arc<Quant>> {
        self.quant.as_ref()
    }

    /// The same data with other quantisation.
    #[must_use]
    pub fn with_quant(mut self, quant: Option<Arc<Quant>>) -> Tensor {
        self.quant = quant;
        self
    }

    /// The same data with other sizes of the same product.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Tensor, OpError> {
        check_len(self.dtype, dims, self.raw().len())?;
        Ok(Tensor { dims: dims.into(), ..self.clone() })
    }

    /// Rows `first` to before `first + n`, along the first dimension. The bytes are shared where
    /// they come from a file.
    pub fn rows(&self, first: usize, n: usize) -> Result<Tensor, OpError> {
        let bad = || OpError::new(format!("rows {first}..{} of {self:?}", first.saturating_add(n)));
        let (all, rest) = self.dims.split_first().ok_or_else(bad)?;
        let row = self.dtype.bytes_of(rest)?;
        if first.checked_add(n).is_none_or(|end| end > *all) || row * all != self.raw().len() {
            return Err(bad());
        }
        let mut dims = self.dims.clone();
        dims[0] = n;
        let storage = match &*self.storage {
            Storage::Shared { bytes, .. } => {
                let bytes = bytes.slice(first * row, n * row).ok_or_else(bad)?;
                Arc::new(Storage::Shared { bytes, aligned: OnceLock::new() })
            }
            Storage::Owned(bytes) => {
                let part = &bytes.as_ref()[first * row..][..n * row];
                Arc::new(Storage::Owned(AlignedBytes::copy_of(part)))
            }
        };
        Ok(Tensor { dims, storage, ..self.clone() })
    }

    /// The bytes as stored, at any alignment.
    pub fn raw(&self) -> &[u8] {
        match &*self.storage {
            Storage::Owned(bytes) => bytes.as_ref(),
            Storage::Shared { bytes, .. } => bytes,
        }
    }

    /// The bytes, aligned for the element type; a misaligned mapping is copied on first use.
    pub fn bytes(&self) -> &[u8] {
        match &*self.storage {
            Storage::Owned(bytes) => bytes.as_ref(),
            Storage::Shared { bytes, aligned } => {
                if bytes.as_ptr().align_offset(self.dtype.alignment()) == 0 {
                    bytes
                } else {
                    aligned.get_or_init(|| AlignedBytes::copy_of(bytes)).as_ref()
                }
            }
        }
    }

    /// The bytes to write, copied first where they are shared.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let owned = matches!(Arc::get_mut(&mut self.storage), Some(Storage::Owned(_)));
        if !owned {
            self.storage = Arc::new(Storage::Owned(AlignedBytes::copy_of(self.raw())));
        }
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Owned(bytes)) => bytes.as_mut(),
            _ => unreachable!("the storage was just made unique and owned"),
        }
    }

    /// The whole, to change in place; copied first where it is shared.
    pub fn state_mut(&mut self) -> StateMut<'_> {
        self.bytes_mut();
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Owned(bytes)) => {
                StateMut { dtype: self.dtype, dims: &self.dims, bytes: bytes.as_mut() }
            }
            _ => unreachable!("the storage was just made unique and owned"),
        }
    }

    /// A view of the whole.
    pub fn view(&self) -> TensorView<'_> {
        TensorView {
            dtype: self.dtype,
            dims: &self.dims,
            bytes: self.bytes(),
            quant: self.quant.as_deref(),
        }
    }

    /// The elements. Fails where `T` is not this tensor's element type.
    pub fn slice<T: Element>(&self) -> Result<&[T], OpError> {
        self.view().slice()
    }

    /// The elements to write. Fails where `T` is not this tensor's element type.
    pub fn slice_mut<T: Element>(&mut self) -> Result<&mut [T], OpError> {
        check_dtype::<T>(self.dtype)?;
        cast_mut(self.bytes_mut())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.dims.as_slice())
    }
}

/// A borrowed tensor. The bytes are aligned for the element type.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub dims: &'a [usize],
    /// Row-major elements.
    pub bytes: &'a [u8],
    /// Quantisation, if any.
    pub quant: Option<&'a Quant>,
}

impl<'a> TensorView<'a> {
    /// The elements. Fails where `T` is not this view's element type.
    pub fn slice<T: Element>(&self) -> Result<&'a [T], OpError> {
        check_dtype::<T>(self.dtype)?;
        bytemuck::try_cast_slice(self.bytes)
            .map_err(|e| OpError::new(format!("{} data in memory: {e}", self.dtype)))
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// The one element of a tensor that holds just one.
    pub fn scalar<T: Element>(&self) -> Result<T, OpError> {
        match self.slice::<T>()? {
            [one] => Ok(*one),
            many => Err(OpError::new(format!("expected one element, found {}", many.len()))),
        }
    }

    /// The elements `from..from + out.len()` of the flattened tensor as f32: floats are converted,
    /// encoded ones decoded. Encoded ones must start and end with a block.
    pub fn decode(&self, from: usize, out: &mut [f32]) -> Result<(), OpError> {
        let part = self.part(from, out.len())?;
        match self.dtype {
            DType::Encoded(encoding) => encoding.decode(part, out),
            DType::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(part),
            DType::F16 => half_floats(part, out, |v| half::f16::from_le_bytes(v).to_f32()),
            DType::BF16 => half_floats(part, out, |v| half::bf16::from_le_bytes(v).to_f32()),
            other => return Err(OpError::new(format!("{other} can't be decoded to f32"))),
        }
        Ok(())
    }

    /// The bytes of `len` elements from element `from`, whole blocks.
    fn part(&self, from: usize, len: usize) -> Result<&'a [u8], OpError> {
        let (start, size) = (self.dtype.bytes(from), self.dtype.bytes(len));
        let range = start.zip(size).and_then(|(start, size)| Some(start..start.checked_add(size)?));
        range.and_then(|range| self.bytes.get(range)).ok_or_else(|| {
            OpError::new(format!(
                "{len} elements from {from} are no whole part of {}{:?}",
                self.dtype, self.dims
            ))
        })
    }

    /// The elements as i64, from any integer type of at least 8 bits.
    #[expect(clippy::useless_conversion, reason = "i64 is one of the types")]
    pub fn ints(&self) -> Result<Vec<i64>, OpError> {
        crate::dispatch!(self.dtype, T in [
            I64 i64, I32 i32, I16 i16, I8 i8, U32 u32, U16 u16, U8 u8,
        ] => Ok(self.slice::<T>()?.iter().map(|v| i64::from(*v)).collect()),
        else => Err(OpError::new(format!("expected integers, found {}", self.dtype))))
    }
}

fn half_floats(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; 2]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = convert(*bytes);
    }
}

fn check_dtype<T: Element>(dtype: DType) -> Result<(), OpError> {
    if dtype == T::DTYPE {
        Ok(())
    } else {
        Err(OpError::new(format!("expected {}, found {dtype}", T::DTYPE)))
    }
}

pub(crate) fn cast_mut<T: Element>(bytes: &mut [u8]) -> Result<&mut [T], OpError> {
    bytemuck::try_cast_slice_mut(bytes)
        .map_err(|e| OpError::new(format!("{} data in memory: {e}", T::DTYPE)))
}

fn check_len(dtype: DType, dims: &[usize], len: usize) -> Result<(), OpError> {
    let want = dtype.bytes_of(dims)?;
    if want == len {
        Ok(())
    } else {
        Err(OpError::new(format!("{dtype}{dims:?} takes {want} bytes, found {len}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misaligned_bytes_are_readable() {
        let mut file = vec![0u8; 1];
        file.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
        let bytes = Bytes::new(Arc::new(file)).slice(1, 8).unwrap();
        let t = Tensor::from_bytes(DType::F32, &[2], bytes).unwrap();
        assert_eq!(t.slice::<f32>().unwrap(), [1.5, -2.0]);
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Tensor::from_slice::<f32>(&[3], &[0.0; 2]).is_err());
        assert!(Tensor::zeros(DType::F32, &[usize::MAX, 2]).is_err());
        assert!(Tensor::zeros(DType::F32, &[1 << 60]).is_err());
        let t = Tensor::zeros(DType::I4, &[3]).unwrap();
        assert_eq!(t.raw().len(), 2);
    }

    #[test]
    fn encoded_rows_are_whole_blocks() {
        let dtype = DType::Encoded(crate::Encoding::Q8_0);
        let error = Tensor::zeros(dtype, &[64, 31]).unwrap_err().to_string();
        assert!(error.contains("multiple of 32"), "{error}");
        assert!(Tensor::zeros(dtype, &[]).is_err());
        let mut t = Tensor::zeros(dtype, &[2, 64]).unwrap();
        assert_eq!(t.raw().len(), 4 * 34);
        assert!(t.reshaped(&[4, 32]).is_ok() && t.reshaped(&[8, 16]).is_err());
        // Block 2 starts row 1: its scale is 2, its first element -3.
        t.bytes_mut()[68..71].copy_from_slice(&[0, 0x40, 253]);
        let mut row = [1.0; 64];
        t.view().decode(64, &mut row).unwrap();
        assert_eq!(row[..2], [-6.0, 0.0]);
        assert!(t.view().decode(16, &mut row).is_err());
        assert!(t.view().decode(96, &mut row).is_err());
    }

    #[test]
    fn what_is_encoded_decodes() {
        let x: Vec<f32> = (0..64).map(|i| i as f32 - 20.0).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16, crate::Encoding::Q8_0.into()] {
            let t = Tensor::encode(dtype, &[2, 32], &x).unwrap();
            let mut back = [0.0; 64];
            t.view().decode(0, &mut back).unwrap();
            assert!(x.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.2), "{dtype}: {back:?}");
        }
        assert!(Tensor::encode(DType::F16, &[2, 31], &x).is_err());
        assert!(Tensor::encode(DType::I8, &[64], &x).is_err());
    }

    #[test]
    fn floats_decode_to_themselves() {
        let halves = [1.5, -2.0].map(half::bf16::from_f32);
        let t = Tensor::from_slice(&[2], &halves).unwrap();
        let mut out = [0.0; 1];
        t.view().decode(1, &mut out).unwrap();
        assert_eq!(out, [-2.0]);
        assert!(Tensor::scalar(1i8).view().decode(0, &mut out).is_err());
    }

    #[test]
    fn writing_a_clone_leaves_the_original() {
        let a = Tensor::scalar(1i32);
        let mut b = a.clone();
        b.slice_mut::<i32>().unwrap()[0] = 2;
        assert_eq!((a.slice::<i32>().unwrap()[0], b.slice::<i32>().unwrap()[0]), (1, 2));
    }
}
