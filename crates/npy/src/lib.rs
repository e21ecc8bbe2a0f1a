//! NumPy's `.npy` and `.npz` files.
//!
//! An [`Array`] holds what a file says: element type, shape, and the elements in row-major order and
//! little-endian bytes, whatever order and endianness the file had. The format is NumPy's
//! [NEP 1](https://numpy.org/neps/nep-0001-npy-format.html), versions 1 to 3.
//!
//! Reading trusts nothing: sizes are checked before memory is taken, and no array grows beyond the
//! bytes that are really there nor beyond the caller's limit.

mod header;
mod npz;

use std::io::{self, Read, Write};

pub use npz::{read_npz, write_npz};

/// The type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// One byte, 0 or 1.
    Bool,
    /// Signed, 8 bits.
    I8,
    /// Signed, 16 bits.
    I16,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Two [`Type::F32`]: real and imaginary part.
    C64,
    /// Two [`Type::F64`]: real and imaginary part.
    C128,
    /// Text of at most this many code points, each of four bytes, padded with zeros.
    Text(usize),
}

impl Type {
    const NUMBERS: [(Type, &'static str, usize); 14] = [
        (Type::Bool, "b1", 1),
        (Type::I8, "i1", 1),
        (Type::I16, "i2", 2),
        (Type::I32, "i4", 4),
        (Type::I64, "i8", 8),
        (Type::U8, "u1", 1),
        (Type::U16, "u2", 2),
        (Type::U32, "u4", 4),
        (Type::U64, "u8", 8),
        (Type::F16, "f2", 2),
        (Type::F32, "f4", 4),
        (Type::F64, "f8", 8),
        (Type::C64, "c8", 8),
        (Type::C128, "c16", 16),
    ];

    /// Bytes of one element; `None` if a text type is too long to count.
    fn size(self) -> Option<usize> {
        match self {
            Type::Text(points) => points.checked_mul(4),
            number => Self::NUMBERS.iter().find(|row| row.0 == number).map(|row| row.2),
        }
    }

    /// Bytes that endianness reverses together.
    fn word(self) -> usize {
        match self {
            Type::Text(_) | Type::C64 => 4,
            Type::C128 => 8,
            number => number.size().unwrap_or(1),
        }
    }

    /// The type and endianness (true: big) of a NumPy type string such as `<f4`.
    fn from_descr(descr: &str) -> Option<(Type, bool)> {
        let (order, kind) = descr.split_at_checked(1)?;
        let big = match order {
            "<" | "|" | "=" => false,
            ">" => true,
            _ => return None,
        };
        let kind = if kind == "?" { "b1" } else { kind };
        if let Some(points) = kind.strip_prefix('U') {
            return Some((Type::Text(points.parse().ok()?), big));
        }
        let row = Self::NUMBERS.iter().find(|row| row.1 == kind)?;
        Some((row.0, big))
    }

    fn descr(self) -> String {
        let name = match self {
            Type::Text(points) => return format!("<U{points}"),
            number => Self::NUMBERS.iter().find(|row| row.0 == number).map_or("", |row| row.1),
        };
        let order = if self.size() == Some(1) { '|' } else { '<' };
        format!("{order}{name}")
    }
}

/// A Rust type that is the element type of some arrays.
pub trait Element: bytemuck::Pod {
    /// Its array type.
    const TYPE: Type;
}

macro_rules! elements {
    ($($rust:ty => $name:ident),*) => {
        $(impl Element for $rust { const TYPE: Type = Type::$name; })*
    };
}
elements!(i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    half::f16 => F16, f32 => F32, f64 => F64);

/// An array as a file holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The element type.
    pub dtype: Type,
    /// The shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, row-major, little-endian.
    pub data: Vec<u8>,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not start as a `.npy` file does.
    #[error("not a .npy file (its first bytes are not \\x93NUMPY)")]
    NotNpy,
    /// The header cannot be understood.
    #[error("bad .npy header: {0}")]
    Header(String),
    /// The element type is not a plain number, bool or text.
    #[error("element type {0:?} is not supported; save the array as a plain number or bool type")]
    Type(String),
    /// The file ends before the elements do.
    #[error("the file is cut off: {expected} bytes of elements expected, {found} found")]
    Truncated {
        /// Bytes that the shape and type ask for.
        expected: usize,
        /// Bytes in the file.
        found: usize,
    },
    /// The array is larger than the caller allows.
    #[error("an array of shape {shape:?} is larger than the {limit} bytes allowed here")]
    TooLarge {
        /// The array's shape.
        shape: Vec<usize>,
        /// The caller's limit in bytes.
        limit: usize,
    },
    /// The `.npz` archive is damaged.
    #[error("bad .npz archive: {0}")]
    Zip(String),
    /// A member of the archive is wrong.
    #[error("member {name:?}: {source}")]
    Member {
        /// The member's name.
        name: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
}

impl Array {
    /// An array of `values` with `shape`.
    ///
    /// # Panics
    /// If the shape does not hold as many elements as there are values.
    pub fn new<T: Element>(shape: &[usize], values: &[T]) -> Array {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let mut data = bytemuck::cast_slice(values).to_vec();
        if cfg!(target_endian = "big") {
            reverse_words(&mut data, T::TYPE.word());
        }
        Array { dtype: T::TYPE, shape: shape.to_vec(), data }
    }

    /// The elements, or `None` if they are of another type.
    pub fn to_vec<T: Element>(&self) -> Option<Vec<T>> {
        if self.dtype != T::TYPE {
            return None;
        }
        if cfg!(target_endian = "big") {
            let mut data = self.data.clone();
            reverse_words(&mut data, T::TYPE.word());
            return Some(bytemuck::allocation::pod_collect_to_vec(&data));
        }
        Some(bytemuck::allocation::pod_collect_to_vec(&self.data))
    }

    /// A scalar's text, or `None` if it is not text.
    pub fn text(&self) -> Option<String> {
        match self.dtype {
            Type::Text(_) if self.shape.is_empty() => self
                .data
                .chunks_exact(4)
                .map(|point| u32::from_le_bytes([point[0], point[1], point[2], point[3]]))
                .take_while(|&point| point != 0)
                .map(char::from_u32)
                .collect(),
            _ => None,
        }
    }

    /// Reads a `.npy` file of at most `limit` bytes of elements.
    pub fn read(reader: &mut dyn Read, limit: usize) -> Result<Array, Error> {
        let header = header::read(reader)?;
        let (dtype, big_endian) =
            Type::from_descr(&header.descr).ok_or_else(|| Error::Type(header.descr.clone()))?;
        let size = dtype.size();
        let bytes =
            header.shape.iter().try_fold(size.unwrap_or(usize::MAX), |n, &d| n.checked_mul(d));
        let bytes = match bytes {
            Some(bytes) if bytes <= limit => bytes,
            _ => {
                return Err(Error::TooLarge { shape: header.shape, limit });
            }
        };
        let mut data = Vec::new();
        reader.take(bytes as u64).read_to_end(&mut data)?;
        if data.len() != bytes {
            return Err(Error::Truncated { expected: bytes, found: data.len() });
        }
        if big_endian {
            reverse_words(&mut data, dtype.word());
        }
        if header.fortran_order {
            data = row_major(&data, &header.shape, size.unwrap_or(1));
        }
        if dtype == Type::Bool {
            data.iter_mut().for_each(|byte| *byte = (*byte != 0).into());
        }
        Ok(Array { dtype, shape: header.shape, data })
    }

    /// Writes a `.npy` file, version 1.
    pub fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        writer.write_all(&header::bytes(&self.dtype.descr(), &self.shape))?;
        writer.write_all(&self.data)
    }
}

fn reverse_words(data: &mut [u8], word: usize) {
    if word > 1 {
        data.chunks_exact_mut(word).for_each(<[u8]>::reverse);
    }
}

/// The column-major elements of `shape` in row-major order.
fn row_major(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for &dim in shape {
        strides.push(stride);
        stride *= dim;
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    while out.len() < data.len() {
        out.extend_from_slice(&data[at..at + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(header: &str, data: &[u8]) -> Result<Array, Error> {
        Array::read(&mut file(header, data).as_slice(), 1 << 20)
    }

    #[test]
    fn every_type_survives_a_round_trip() {
        let bytes: Vec<u8> = (0..96).map(|i| i % 2).collect();
        for (dtype, ..) in Type::NUMBERS {
            let size = dtype.size().unwrap();
            let array = Array { dtype, shape: vec![2, 3], data: bytes[..6 * size].to_vec() };
            let mut out = Vec::new();
            array.write(&mut out).unwrap();
            assert_eq!((out.len() - array.data.len()) % 64, 0);
            assert_eq!(Array::read(&mut out.as_slice(), 96).unwrap(), array);
        }
    }

    #[test]
    fn column_major_big_endian_becomes_row_major_little_endian() {
        let data: Vec<u8> = [1i16, 4, 2, 5, 3, 6].iter().flat_map(|v| v.to_be_bytes()).collect();
        let array = read("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3)}", &data);
        assert_eq!(array.unwrap().to_vec::<i16>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn scalars_text_and_empty_arrays() {
        let text: Vec<u8> = "né\0".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        let array = read("{'descr': '<U3', 'fortran_order': False, 'shape': ()}", &text);
        assert_eq!(array.unwrap().text().unwrap(), "né");
        let empty = read("{'descr': '<f4', 'fortran_order': True, 'shape': (0, 7)}", &[]);
        assert_eq!(empty.unwrap().shape, [0, 7]);
        let bools = read("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", &[7, 0]);
        assert_eq!(bools.unwrap().data, [1, 0]);
    }

    #[test]
    fn hostile_files_are_refused() {
        let cases = [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}", "cut off"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999)}",
                "larger",
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999,)}", "larger"),
            (
                "{'descr': '<U99999999999999999999', 'fortran_order': False, 'shape': ()}",
                "not supported",
            ),
            ("{'descr': '<U9999999999999999999', 'fortran_order': False, 'shape': ()}", "larger"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "\"|O\" is not supported"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "header"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "header"),
            ("{'descr': '<f4', 'fortran_order': False}", "shape"),
            ("{'descr': '<f4'", "header"),
            ("", "header"),
        ];
        for (header, expected) in cases {
            let message = read(header, &[0; 8]).unwrap_err().to_string();
            assert!(message.contains(expected), "{header}: {message}");
        }
        assert!(matches!(Array::read(&mut &b"PK\x03\x04 and more"[..], 1), Err(Error::NotNpy)));
    }
}
