//! The contents of a `TensorProto`: its element type, shape, and little-endian bytes, borrowed
//! from the file where they are stored as such.

use std::borrow::Cow;

use kinglet_graph::DType;

use super::proto;
use super::wire::{Budget, varint};

/// An element type that holds numbers: its `TensorProto.DataType`, and the typed field that holds
/// elements where `raw_data` does not.
const ELEMS: &[(i32, DType, Typed)] = &[
    (1, DType::F32, Typed::Floats),
    (2, DType::U8, Typed::Int32s),
    (3, DType::I8, Typed::Int32s),
    (4, DType::U16, Typed::Int32s),
    (5, DType::I16, Typed::Int32s),
    (6, DType::I32, Typed::Int32s),
    (7, DType::I64, Typed::Int64s),
    (9, DType::Bool, Typed::Int32s),
    (10, DType::F16, Typed::Int32s),
    (11, DType::F64, Typed::Doubles),
    (12, DType::U32, Typed::Uint64s),
    (13, DType::U64, Typed::Uint64s),
    (14, DType::C64, Typed::Floats),
    (15, DType::C128, Typed::Doubles),
    (16, DType::BF16, Typed::Int32s),
    (17, DType::F8E4M3FN, Typed::Int32s),
    (18, DType::F8E4M3FNUZ, Typed::Int32s),
    (19, DType::F8E5M2, Typed::Int32s),
    (20, DType::F8E5M2FNUZ, Typed::Int32s),
    (21, DType::U4, Typed::Int32s),
    (22, DType::I4, Typed::Int32s),
    (23, DType::F4E2M1, Typed::Int32s),
    (24, DType::F8E8M0, Typed::Int32s),
    (25, DType::U2, Typed::Int32s),
    (26, DType::I2, Typed::Int32s),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Typed {
    Floats,
    Doubles,
    Int32s,
    Int64s,
    Uint64s,
}

/// The element type of a `TensorProto.DataType`, or what is wrong with that number.
pub fn dtype(id: i64) -> Result<DType, String> {
    let known = ELEMS.iter().find(|e| i64::from(e.0) == id);
    known.map(|e| e.1).ok_or_else(|| match id {
        0 => "has no element type".into(),
        8 => "holds strings; only numbers are supported".into(),
        27 | 28 => "holds 6-bit floats, which are not supported".into(),
        _ => format!("has element type {id}, which ONNX does not define"),
    })
}

/// The decoded head of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The element type.
    pub dtype: DType,
    /// The dimensions.
    pub dims: Vec<usize>,
    /// Their product.
    pub count: usize,
    /// Bytes the elements take.
    pub size: usize,
}

/// Checks a tensor's type and shape.
pub fn head(data_type: i32, dims: Option<Vec<i64>>) -> Result<Head, String> {
    let dtype = dtype(data_type.into())?;
    let dims = dims.ok_or("has a damaged shape")?;
    let dims = dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| format!("has a dimension of {d}")))
        .collect::<Result<Vec<_>, _>>()?;
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let size = count.and_then(|n| dtype.bytes(n)).filter(|&n| isize::try_from(n).is_ok());
    let (Some(count), Some(size)) = (count, size) else {
        return Err(format!("has an impossible shape, {dims:?}"));
    };
    Ok(Head { dtype, dims, count, size })
}

/// The elements' bytes, of a tensor that holds them itself. `Err` says what is wrong.
pub fn bytes<'a>(
    tensor: &proto::Tensor<'a>,
    head: &Head,
    budget: &Budget,
) -> Result<Cow<'a, [u8]>, String> {
    if tensor.has_segment {
        return Err("is stored in segments, which ONNX never specified".into());
    }
    let bytes: Cow<'a, [u8]> = match tensor.raw {
        Some(raw) => Cow::Borrowed(raw),
        None => match typed(head.dtype) {
            Typed::Floats => tensor.floats.clone(),
            Typed::Doubles => tensor.doubles.clone(),
            Typed::Int32s => narrow(&tensor.int32s, head, budget)?.into(),
            Typed::Int64s => narrow(&tensor.int64s, head, budget)?.into(),
            Typed::Uint64s => narrow(&tensor.uint64s, head, budget)?.into(),
        },
    };
    if bytes.len() != head.size {
        return Err(format!(
            "has {} bytes of data where its type ({}) and shape ({:?}) need {}",
            bytes.len(),
            head.dtype,
            head.dims,
            head.size
        ));
    }
    Ok(bytes)
}

fn typed(dtype: DType) -> Typed {
    ELEMS.iter().find(|e| e.1 == dtype).map_or(Typed::Int32s, |e| e.2)
}

/// Decodes varints into elements of the type's width. An entry holds one element, or one byte of
/// elements where those are smaller.
fn narrow(mut packed: &[u8], head: &Head, budget: &Budget) -> Result<Vec<u8>, String> {
    let width = head.dtype.bits().div_ceil(8);
    let mut left = head.size / width;
    // Each entry takes at least a byte of the file, which bounds what a false shape can ask for.
    if packed.len() < left {
        return Err(format!("has fewer elements than its shape, {:?}", head.dims));
    }
    budget.charge(head.size).map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(head.size);
    while !packed.is_empty() {
        let (value, len) = varint(packed).ok_or("has damaged data")?;
        packed = &packed[len..];
        left = left
            .checked_sub(1)
            .ok_or_else(|| format!("has more elements than its shape, {:?}", head.dims))?;
        out.extend_from_slice(&value.to_le_bytes()[..width]);
    }
    Ok(out)
}

/// Scatters a sparse tensor's values over zeros: the dense bytes.
pub fn densify(
    head: &Head,
    values: &[u8],
    indices: &[i64],
    rank: usize,
) -> Result<Vec<u8>, String> {
    if !head.dtype.bits().is_multiple_of(8) {
        return Err(format!("is a sparse tensor of {}, which is not supported", head.dtype));
    }
    let width = head.dtype.bits() / 8;
    let count = values.len() / width;
    if indices.len() != count * rank {
        return Err(format!("has {count} sparse values but {} indices", indices.len()));
    }
    let mut out = vec![0u8; head.size];
    for (index, value) in indices.chunks_exact(rank).zip(values.chunks_exact(width)) {
        let at = match *index {
            // A linear index, or coordinates.
            [at] if head.dims.len() != 1 => usize::try_from(at).ok().filter(|&at| at < head.count),
            _ => index.iter().zip(&head.dims).try_fold(0, |at, (&i, &dim)| {
                let i = usize::try_from(i).ok().filter(|&i| i < dim)?;
                Some(at * dim + i)
            }),
        };
        let at = at.ok_or_else(|| format!("has a sparse index out of its shape: {index:?}"))?;
        out[at * width..][..width].copy_from_slice(value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(data_type: i32, ints: &[u8]) -> proto::Tensor<'_> {
        proto::Tensor { data_type, int32s: Cow::Borrowed(ints), ..Default::default() }
    }

    fn decode(data_type: i32, dims: &[i64], ints: &[u8]) -> Result<Vec<u8>, String> {
        let head = head(data_type, Some(dims.to_vec()))?;
        let budget = Budget::for_file(ints.len());
        bytes(&tensor(data_type, ints), &head, &budget).map(Cow::into_owned)
    }

    #[test]
    fn ints_narrow_to_their_type() {
        // -1 as a varint takes ten bytes.
        let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(decode(3, &[1], &minus_one), Ok(vec![0xff]));
        assert_eq!(decode(6, &[1], &minus_one), Ok(vec![0xff; 4]));
        assert_eq!(decode(10, &[2], &[1, 0x80, 0x78]), Ok(vec![1, 0, 0, 0x3c]));
        // Three 4-bit elements are two bytes.
        assert_eq!(decode(22, &[3], &[0x21, 0x03]), Ok(vec![0x21, 0x03]));
    }

    #[test]
    fn sizes_must_agree() {
        assert!(decode(3, &[2], &[1]).is_err());
        assert!(decode(3, &[1], &[1, 1]).is_err());
        assert!(decode(3, &[-1], &[]).is_err());
        assert!(decode(6, &[i64::MAX, 8], &[]).is_err());
        assert!(decode(6, &[1 << 40], &[1]).is_err());
        assert_eq!(decode(6, &[1 << 40, 0], &[]), Ok(vec![]));
        for no_numbers in [0, 8, 27, 99, -1] {
            assert!(decode(no_numbers, &[], &[1]).is_err());
        }
    }

    #[test]
    fn sparse_values_land_in_place() {
        let head = head(2, Some(vec![2, 3])).unwrap();
        assert_eq!(densify(&head, &[7, 9], &[0, 1, 1, 2], 2), Ok(vec![0, 7, 0, 0, 0, 9]));
        assert_eq!(densify(&head, &[7, 9], &[1, 5], 1), Ok(vec![0, 7, 0, 0, 0, 9]));
        assert!(densify(&head, &[7], &[2, 0], 2).is_err());
        assert!(densify(&head, &[7], &[6], 1).is_err());
        assert!(densify(&head, &[7], &[-1], 1).is_err());
        assert!(densify(&head, &[7, 9], &[1], 1).is_err());
    }
}
