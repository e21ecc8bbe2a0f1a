//! The part of FlexBuffers that TFLite's custom options use: a map of scalars at the root.
//!
//! A FlexBuffer is read from its end: the last byte is the width of the root value, the byte
//! before it the root's type, then the root itself. Format:
//! <https://flatbuffers.dev/flexbuffers_internals/>.

use super::flatbuffer::FlatError;

/// One scalar of a map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A signed or unsigned integer.
    Int(i64),
    /// A float, widened.
    Float(f64),
    /// A boolean.
    Bool(bool),
}

impl Value {
    /// The value as a float; a boolean is 0 or 1.
    pub fn as_f32(self) -> f32 {
        match self {
            Value::Int(v) => v as f32,
            Value::Float(v) => v as f32,
            Value::Bool(v) => f32::from(u8::from(v)),
        }
    }

    /// The value as an integer; a float is truncated.
    pub fn as_i64(self) -> i64 {
        match self {
            Value::Int(v) => v,
            Value::Float(v) => v as i64,
            Value::Bool(v) => i64::from(v),
        }
    }

    /// The value as a boolean: anything but zero.
    pub fn as_bool(self) -> bool {
        match self {
            Value::Int(v) => v != 0,
            Value::Float(v) => v != 0.0,
            Value::Bool(v) => v,
        }
    }
}

const INT: u8 = 1;
const UINT: u8 = 2;
const FLOAT: u8 = 3;
const INDIRECT_INT: u8 = 6;
const INDIRECT_UINT: u8 = 7;
const INDIRECT_FLOAT: u8 = 8;
const MAP: u8 = 9;
const BOOL: u8 = 26;

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn raw(&self, at: usize, width: usize) -> Result<&'a [u8], FlatError> {
        let end = at.checked_add(width);
        end.and_then(|end| self.0.get(at..end))
            .ok_or(FlatError { at, what: "custom options reach past their end" })
    }

    fn unsigned(&self, at: usize, width: usize) -> Result<u64, FlatError> {
        let mut value = [0; 8];
        value[..width].copy_from_slice(self.raw(at, width)?);
        Ok(u64::from_le_bytes(value))
    }

    fn signed(&self, at: usize, width: usize) -> Result<i64, FlatError> {
        let shift = 64 - 8 * width as u32;
        Ok(((self.unsigned(at, width)? << shift) as i64) >> shift)
    }

    fn float(&self, at: usize, width: usize) -> Result<f64, FlatError> {
        let bits = self.unsigned(at, width)?;
        match width {
            4 => Ok(f64::from(f32::from_bits(bits as u32))),
            8 => Ok(f64::from_bits(bits)),
            _ => Err(FlatError { at, what: "a float of custom options is not 4 or 8 bytes" }),
        }
    }

    /// Follows the offset stored at `at`, which counts backwards.
    fn back(&self, at: usize, width: usize) -> Result<usize, FlatError> {
        let offset = self.unsigned(at, width)?;
        let target = usize::try_from(offset).ok().and_then(|offset| at.checked_sub(offset));
        target.ok_or(FlatError { at, what: "an offset of custom options points outside them" })
    }

    fn value(&self, at: usize, parent: usize, packed: u8) -> Result<Option<Value>, FlatError> {
        let width = 1 << (packed & 3);
        Ok(Some(match packed >> 2 {
            INT => Value::Int(self.signed(at, parent)?),
            UINT => Value::Int(self.unsigned(at, parent)? as i64),
            FLOAT => Value::Float(self.float(at, parent)?),
            INDIRECT_INT => Value::Int(self.signed(self.back(at, parent)?, width)?),
            INDIRECT_UINT => Value::Int(self.unsigned(self.back(at, parent)?, width)? as i64),
            INDIRECT_FLOAT => Value::Float(self.float(self.back(at, parent)?, width)?),
            BOOL => Value::Bool(self.unsigned(at, parent)? != 0),
            _ => return Ok(None),
        }))
    }
}

/// The scalars of the map that `bytes` holds, by name; entries of other kinds are left out.
///
/// # Errors
/// When the root is no map, or any offset leads outside `bytes`. The position in the error
/// counts from the start of `bytes`.
pub fn map(bytes: &[u8]) -> Result<Vec<(String, Value)>, FlatError> {
    let reader = Reader(bytes);
    let not_a_map = FlatError { at: bytes.len(), what: "custom options are not a FlexBuffer map" };
    let [.., packed, root_width] = *bytes else {
        return Err(not_a_map);
    };
    if packed >> 2 != MAP || ![1, 2, 4, 8].contains(&root_width) {
        return Err(not_a_map);
    }
    let root_width = usize::from(root_width);
    let root_at = (bytes.len() - 2).checked_sub(root_width).ok_or(not_a_map)?;
    let values = reader.back(root_at, root_width)?;
    // Before a map's values lie, each `width` wide: the offset of its keys, their width, its length.
    let width = 1usize << (packed & 3);
    let header = values.checked_sub(3 * width).ok_or(not_a_map)?;
    let keys = reader.back(header, width)?;
    let key_width = reader.unsigned(header + width, width)?;
    if ![1, 2, 4, 8].contains(&key_width) {
        return Err(not_a_map);
    }
    let key_width = key_width as usize;
    let len = reader.unsigned(header + 2 * width, width)?;
    let len = usize::try_from(len).ok().filter(|&len| len <= bytes.len()).ok_or(not_a_map)?;
    let mut entries = Vec::new();
    for i in 0..len {
        let name_at = reader.back(keys + i * key_width, key_width)?;
        let name = bytes[name_at..].split(|&b| b == 0).next().unwrap_or_default();
        let packed = reader.raw(values + len * width + i, 1)?[0];
        if let Some(value) = reader.value(values + i * width, width, packed)? {
            entries.push((String::from_utf8_lossy(name).into_owned(), value));
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"a": 5, "b": true, "f": 0.5}` as the reference writer lays it out.
    const SAMPLE: &[u8] = &[
        b'a',
        0,
        b'b',
        0,
        b'f',
        0, // keys
        3,
        7,
        6,
        5, // key vector: length, then offsets back to each key
        0,
        0, // padding to 4
        5,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        3,
        0,
        0,
        0, // keys' offset, keys' width, length
        5,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0x3f, // values
        INT << 2 | 2,
        BOOL << 2 | 2,
        FLOAT << 2 | 2, // types
        15,
        MAP << 2 | 2,
        1, // root
    ];

    #[test]
    fn reads_a_map() {
        let entries = map(SAMPLE).unwrap();
        let want = [("a", Value::Int(5)), ("b", Value::Bool(true)), ("f", Value::Float(0.5))];
        let want: Vec<_> = want.map(|(name, value)| (name.to_string(), value)).into();
        assert_eq!(entries, want);
    }

    #[test]
    fn corruption_never_panics() {
        for cut in 0..SAMPLE.len() {
            let _ = map(&SAMPLE[..cut]);
        }
        for at in 0..SAMPLE.len() {
            for value in 0..=255 {
                let mut bytes = SAMPLE.to_vec();
                bytes[at] = value;
                let _ = map(&bytes);
            }
        }
    }
}
