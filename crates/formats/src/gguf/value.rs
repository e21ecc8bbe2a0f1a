//! Values of a GGUF file's metadata.

use std::fmt;
use std::sync::Arc;

use kinglet_graph::{Bytes, GraphError};

use crate::Named;

macro_rules! kinds {
    ($($name:ident $id:literal $width:literal $text:literal,)*) => {
        /// The type of a value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "their names say it")]
        pub enum Kind { $($name,)* }

        impl Kind {
            /// The type whose number in files is `id`.
            pub(super) fn from_id(id: u32) -> Option<Kind> {
                match id { $($id => Some(Kind::$name),)* _ => None }
            }

            /// Its number in files.
            pub(super) fn id(self) -> u32 {
                match self { $(Kind::$name => $id,)* }
            }

            /// Bytes that a value takes, or at least takes.
            pub(super) fn width(self) -> usize {
                match self { $(Kind::$name => $width,)* }
            }
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Kind::$name => $text,)* })
            }
        }
    };
}

kinds! {
    U8 0 1 "u8", I8 1 1 "i8", U16 2 2 "u16", I16 3 2 "i16", U32 4 4 "u32", I32 5 4 "i32",
    F32 6 4 "f32", Bool 7 1 "bool", String 8 8 "string", Array 9 12 "array",
    U64 10 8 "u64", I64 11 8 "i64", F64 12 8 "f64",
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::F32(_) => Kind::F32,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F64(_) => Kind::F64,
        }
    }

    /// A scalar of `kind` from its bytes, of which there must be as many as its width. `None` where
    /// they hold none.
    pub(super) fn scalar(kind: Kind, bytes: &[u8]) -> Option<Value> {
        macro_rules! read {
            ($T:ty) => {
                <$T>::from_le_bytes(bytes.try_into().ok()?)
            };
        }
        Some(match kind {
            Kind::U8 => Value::U8(read!(u8)),
            Kind::I8 => Value::I8(read!(i8)),
            Kind::U16 => Value::U16(read!(u16)),
            Kind::I16 => Value::I16(read!(i16)),
            Kind::U32 => Value::U32(read!(u32)),
            Kind::I32 => Value::I32(read!(i32)),
            Kind::F32 => Value::F32(read!(f32)),
            Kind::Bool => match bytes {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
            Kind::U64 => Value::U64(read!(u64)),
            Kind::I64 => Value::I64(read!(i64)),
            Kind::F64 => Value::F64(read!(f64)),
            Kind::String | Kind::Array => return None,
        })
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// An integer of any width.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.try_into().ok()?,
            Value::I64(v) => v,
            _ => return None,
        })
    }

    /// An integer of any width that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::U64(v) => Some(*v),
            other => other.as_i64()?.try_into().ok(),
        }
    }

    /// [`Value::as_u64`], for sizes.
    pub fn as_usize(&self) -> Option<usize> {
        self.as_u64()?.try_into().ok()
    }

    /// A float of either width.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// An array of strings, all of them UTF-8.
    pub fn array_of_strings(&self) -> Option<Vec<&str>> {
        self.as_array()?.strings()?.map(|text| std::str::from_utf8(text).ok()).collect()
    }

    /// An array of floats.
    pub fn array_of_f32(&self) -> Option<Vec<f32>> {
        self.array_of(Value::as_f32)
    }

    /// An array of integers, of any width, that fit.
    pub fn array_of_i32(&self) -> Option<Vec<i32>> {
        self.array_of(|v| v.as_i64()?.try_into().ok())
    }

    /// An array of integers, of any width, none negative.
    pub fn array_of_u64(&self) -> Option<Vec<u64>> {
        self.array_of(Value::as_u64)
    }

    /// An array of truth values.
    pub fn array_of_bool(&self) -> Option<Vec<bool>> {
        self.array_of(Value::as_bool)
    }

    fn array_of<T>(&self, element: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        self.as_array()?.scalars()?.map(|v| element(&v)).collect()
    }
}

/// The value as people read it; of long strings and arrays the start.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::String(text) => match text.char_indices().nth(60) {
                Some((end, _)) => write!(f, "{:?}…", &text[..end]),
                None => write!(f, "{text:?}"),
            },
            Value::Array(array) => array.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
        }
    }
}

macro_rules! from {
    ($($T:ty => $name:ident,)*) => {$(
        impl From<$T> for Value {
            fn from(value: $T) -> Value {
                Value::$name(value)
            }
        }
        impl From<&[$T]> for Array {
            fn from(values: &[$T]) -> Array {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                Array::new(Kind::$name, values.len(), bytes)
            }
        }
        impl From<&[$T]> for Value {
            fn from(values: &[$T]) -> Value {
                Value::Array(values.into())
            }
        }
    )*};
}

from! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64,
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text)
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Value {
        Value::Array(array)
    }
}

/// Values of one type, in the bytes of the file: a large vocabulary takes no memory until it is
/// asked for.
#[derive(Clone)]
pub struct Array {
    kind: Kind,
    len: usize,
    bytes: Bytes,
}

impl Array {
    fn new(kind: Kind, len: usize, bytes: Vec<u8>) -> Array {
        Array { kind, len, bytes: Bytes::new(Arc::new(bytes)) }
    }

    /// Over `len` values in a file's bytes, whose lengths were checked.
    pub(super) fn in_file(kind: Kind, len: usize, bytes: Bytes) -> Array {
        Array { kind, len, bytes }
    }

    /// Of these strings.
    pub fn of_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Array {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for text in strings {
            let text = text.as_ref();
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text);
            len += 1;
        }
        Array::new(Kind::String, len, bytes)
    }

    /// Of these truth values.
    pub fn of_bools(values: &[bool]) -> Array {
        Array::new(Kind::Bool, values.len(), values.iter().map(|v| u8::from(*v)).collect())
    }

    /// The type of its elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as a file holds them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements of an array of strings; files need not hold UTF-8.
    pub fn strings(&self) -> Option<impl Iterator<Item = &[u8]>> {
        let mut rest: &[u8] = &self.bytes;
        (self.kind == Kind::String).then(|| {
            std::iter::from_fn(move || {
                let (len, after) = rest.split_first_chunk::<8>()?;
                let (text, after) = after.split_at_checked(u64::from_le_bytes(*len) as usize)?;
                rest = after;
                Some(text)
            })
        })
    }

    /// The elements of an array of numbers or truth values.
    pub fn scalars(&self) -> Option<impl Iterator<Item = Value>> {
        (self.kind != Kind::String).then(|| {
            let elements = self.bytes.chunks_exact(self.kind.width());
            elements.filter_map(|bytes| Value::scalar(self.kind, bytes))
        })
    }
}

impl PartialEq for Array {
    fn eq(&self, other: &Array) -> bool {
        self.kind == other.kind && self.len == other.len && *self.bytes == *other.bytes
    }
}

/// The first elements, and how many there are.
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        let text = |s| Value::from(String::from_utf8_lossy(s).into_owned()).to_string();
        let strings = self.strings().into_iter().flatten().map(text);
        let scalars = self.scalars().into_iter().flatten().map(|v| v.to_string());
        let shown: Vec<String> = strings.chain(scalars).take(SHOWN).collect();
        write!(f, "[{}", shown.join(", "))?;
        if self.len > SHOWN {
            write!(f, ", … {} {}s", self.len, self.kind)?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys and values of a file, in its order.
pub type Metadata = Named<Value>;

impl Metadata {
    /// The value of `key` as `as_type` reads it, if it is there.
    ///
    /// ```
    /// # use kinglet_formats::gguf::{Metadata, Value};
    /// let mut metadata = Metadata::default();
    /// metadata.insert("llama.block_count", 16u32.into());
    /// assert_eq!(metadata.read("llama.block_count", Value::as_usize).unwrap(), Some(16));
    /// assert!(metadata.read("llama.block_count", Value::as_str).is_err());
    /// ```
    ///
    /// # Errors
    /// If it is there and of another type.
    pub fn read<'a, T>(
        &'a self,
        key: &str,
        as_type: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GraphError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        as_type(value).map(Some).ok_or_else(|| {
            let message = format!("is {value} ({}), which can't be used here", value.kind());
            GraphError::new(format!("metadata '{key}'"), message)
        })
    }

    /// As [`Metadata::read`], for a value that must be there.
    ///
    /// # Errors
    /// If it is missing, or of another type.
    pub fn need<'a, T>(
        &'a self,
        key: &str,
        as_type: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, GraphError> {
        self.read(key, as_type)?.ok_or_else(|| {
            GraphError::new(format!("metadata '{key}'"), "is missing, and the model needs it")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_are_read_where_they_fit() {
        assert_eq!(Value::from(7u8).as_u64(), Some(7));
        assert_eq!(Value::from(-7i16).as_i64(), Some(-7));
        assert_eq!(Value::from(-7i32).as_u64(), None);
        assert_eq!(Value::from(u64::MAX).as_i64(), None);
        assert_eq!(Value::from(u64::MAX).as_u64(), Some(u64::MAX));
        assert_eq!(Value::from(1.0f32).as_u64(), None);
        assert_eq!(Value::from(&[3i64, 4][..]).array_of_i32(), Some(vec![3, 4]));
        assert_eq!(Value::from(&[1i64 << 40][..]).array_of_i32(), None);
        assert_eq!(Value::from(&[1i64][..]).array_of_f32(), None);
    }

    #[test]
    fn strings_are_read_in_place() {
        let array = Value::from(Array::of_strings(["a", "", "βγ"]));
        assert_eq!(array.array_of_strings(), Some(vec!["a", "", "βγ"]));
        assert_eq!(array.array_of_i32(), None);
        assert_eq!(Value::from(Array::of_strings([b"\xff"])).array_of_strings(), None);
        assert_eq!(Value::from(&[1u32][..]).array_of_strings(), None);
    }

    #[test]
    fn long_values_are_shown_by_their_start() {
        assert_eq!(Value::from(&[1u8; 9][..]).to_string(), "[1, 1, 1, 1, 1, 1, … 9 u8s]");
        assert_eq!(Value::from("é".repeat(70)).to_string(), format!("{:?}…", "é".repeat(60)));
        assert_eq!(Value::from(Array::of_bools(&[true])).to_string(), "[true]");
    }
}
