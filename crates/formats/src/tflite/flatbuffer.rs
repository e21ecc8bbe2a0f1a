//! A bounds-checked view of FlatBuffers data: tables, vectors and strings read in place.
//!
//! Every offset is checked where it is followed, so a view never reaches outside the bytes,
//! whatever they hold; nothing is copied. A schema without recursive tables (TFLite's) bounds
//! the depth by itself. Format: <https://flatbuffers.dev/internals/>.

use std::marker::PhantomData;

/// What is wrong with a FlatBuffers file, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: {what}")]
pub struct FlatError {
    /// Position in the file.
    pub at: usize,
    /// What was expected there and not found.
    pub what: &'static str,
}

/// A fixed-size little-endian value that tables and vectors hold.
pub trait Scalar: Copy + 'static {
    /// Bytes of one value.
    const SIZE: usize;
    /// Reads one value; `bytes` holds exactly [`Self::SIZE`].
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! scalars {
    ($($t:ty),*) => {$(
        impl Scalar for $t {
            const SIZE: usize = size_of::<$t>();
            fn read(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$t>()];
                raw.copy_from_slice(bytes);
                <$t>::from_le_bytes(raw)
            }
        }
    )*};
}
scalars!(u8, i8, u16, i16, u32, i32, u64, i64, f32);

impl Scalar for bool {
    const SIZE: usize = 1;
    fn read(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
}

fn scalar_at<T: Scalar>(bytes: &[u8], at: usize) -> Result<T, FlatError> {
    let end = at.checked_add(T::SIZE);
    match end.and_then(|end| bytes.get(at..end)) {
        Some(raw) => Ok(T::read(raw)),
        None => Err(FlatError { at, what: "a value reaches past the end of the file" }),
    }
}

/// Follows the unsigned 32-bit offset stored at `at`.
fn follow(bytes: &[u8], at: usize) -> Result<usize, FlatError> {
    let offset = scalar_at::<u32>(bytes, at)? as usize;
    match at.checked_add(offset) {
        Some(target) if offset != 0 && target < bytes.len() => Ok(target),
        _ => Err(FlatError { at, what: "an offset points outside the file" }),
    }
}

/// A table: numbered fields, each present or not.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    vtable: usize,
    vtable_len: usize,
    len: usize,
}

impl<'a> Table<'a> {
    /// The root table, after checking the four-letter identifier at byte 4.
    ///
    /// # Errors
    /// When the file is too short, is not of this kind, or its root lies outside it.
    pub fn root(bytes: &'a [u8], identifier: &[u8; 4]) -> Result<Self, FlatError> {
        if bytes.get(4..8) != Some(identifier) {
            return Err(FlatError { at: 4, what: "the file identifier is missing" });
        }
        Self::at(bytes, follow(bytes, 0)?)
    }

    fn at(bytes: &'a [u8], at: usize) -> Result<Self, FlatError> {
        let back = scalar_at::<i32>(bytes, at)?;
        let bad = FlatError { at, what: "a table's field list lies outside the file" };
        let vtable = i64::try_from(at).ok().and_then(|at| at.checked_sub(i64::from(back)));
        let vtable = vtable.and_then(|v| usize::try_from(v).ok()).ok_or(bad)?;
        let vtable_len = usize::from(scalar_at::<u16>(bytes, vtable).map_err(|_| bad)?);
        let len = usize::from(scalar_at::<u16>(bytes, vtable + 2).map_err(|_| bad)?);
        let fits =
            |at: usize, len: usize| at.checked_add(len).is_some_and(|end| end <= bytes.len());
        if vtable_len < 4 || len < 4 || !fits(vtable, vtable_len) || !fits(at, len) {
            return Err(bad);
        }
        Ok(Self { bytes, at, vtable, vtable_len, len })
    }

    /// Where the table lies in the file, for messages.
    pub fn position(self) -> usize {
        self.at
    }

    /// The position of a field's value; `None` where the field is absent.
    fn field(self, index: usize, size: usize) -> Result<Option<usize>, FlatError> {
        let slot = 4 + 2 * index;
        if slot + 2 > self.vtable_len {
            return Ok(None);
        }
        match usize::from(scalar_at::<u16>(self.bytes, self.vtable + slot)?) {
            0 => Ok(None),
            offset if offset >= 4 && offset + size <= self.len => Ok(Some(self.at + offset)),
            _ => Err(FlatError { at: self.at, what: "a field lies outside its table" }),
        }
    }

    /// A scalar field, `default` where absent.
    ///
    /// # Errors
    /// When the field lies outside its table.
    pub fn scalar<T: Scalar>(self, index: usize, default: T) -> Result<T, FlatError> {
        match self.field(index, T::SIZE)? {
            Some(at) => scalar_at(self.bytes, at),
            None => Ok(default),
        }
    }

    /// A sub-table field.
    ///
    /// # Errors
    /// When the field or its table lies outside the file.
    pub fn table(self, index: usize) -> Result<Option<Table<'a>>, FlatError> {
        match self.field(index, 4)? {
            Some(at) => Ok(Some(Self::at(self.bytes, follow(self.bytes, at)?)?)),
            None => Ok(None),
        }
    }

    /// A vector of scalars, empty where absent.
    ///
    /// # Errors
    /// When the vector reaches past the end of the file.
    pub fn vector<T: Scalar>(self, index: usize) -> Result<Vector<'a, T>, FlatError> {
        match self.field(index, 4)? {
            Some(at) => Vector::at(self.bytes, follow(self.bytes, at)?),
            None => Ok(Vector { bytes: self.bytes, at: 0, len: 0, of: PhantomData }),
        }
    }

    /// A vector of tables, empty where absent.
    ///
    /// # Errors
    /// When the vector reaches past the end of the file.
    pub fn tables(self, index: usize) -> Result<Tables<'a>, FlatError> {
        self.vector(index).map(Tables)
    }

    /// A string, empty where absent. Bytes that are no UTF-8 become the replacement character.
    ///
    /// # Errors
    /// When the string reaches past the end of the file.
    pub fn string(self, index: usize) -> Result<String, FlatError> {
        Ok(String::from_utf8_lossy(self.vector::<u8>(index)?.bytes()).into_owned())
    }
}

/// A vector of scalars.
#[derive(Debug, Clone, Copy)]
pub struct Vector<'a, T> {
    bytes: &'a [u8],
    at: usize,
    len: usize,
    of: PhantomData<T>,
}

impl<'a, T: Scalar> Vector<'a, T> {
    fn at(bytes: &'a [u8], at: usize) -> Result<Self, FlatError> {
        let len = scalar_at::<u32>(bytes, at)? as usize;
        let start = at + 4;
        match len.checked_mul(T::SIZE).and_then(|size| start.checked_add(size)) {
            Some(end) if end <= bytes.len() => Ok(Self { bytes, at: start, len, of: PhantomData }),
            _ => Err(FlatError { at, what: "a vector reaches past the end of the file" }),
        }
    }

    /// How many values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The position of the first value in the file.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The values' bytes.
    pub fn bytes(&self) -> &'a [u8] {
        &self.bytes[self.at..self.at + self.len * T::SIZE]
    }

    /// The values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + 'a {
        self.bytes().chunks_exact(T::SIZE).map(T::read)
    }
}

/// A vector of tables.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a>(Vector<'a, u32>);

impl<'a> Tables<'a> {
    /// How many tables.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The tables in order; an item is an error where its table lies outside the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Table<'a>, FlatError>> + 'a {
        let (bytes, start) = (self.0.bytes, self.0.at);
        (0..self.0.len).map(move |i| Table::at(bytes, follow(bytes, start + 4 * i)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root table with field 0 = 7 (i32), field 1 absent, field 2 = the vector [1, 2, 3] of u16.
    fn sample() -> Vec<u8> {
        let mut b = Vec::new();
        b.extend(20u32.to_le_bytes()); // root at 20
        b.extend(b"TEST");
        b.extend([10, 0, 12, 0, 4, 0, 0, 0, 8, 0, 0, 0]); // vtable at 8
        b.extend(12i32.to_le_bytes()); // table at 20
        b.extend(7i32.to_le_bytes());
        b.extend(4u32.to_le_bytes()); // vector at 32
        b.extend(3u32.to_le_bytes());
        b.extend([1, 0, 2, 0, 3, 0]);
        b
    }

    #[test]
    fn reads_fields_and_defaults() {
        let b = sample();
        let t = Table::root(&b, b"TEST").unwrap();
        assert_eq!(t.scalar(0, 0i32), Ok(7));
        assert_eq!(t.scalar(1, 5i32), Ok(5));
        assert_eq!(t.scalar(9, 6i32), Ok(6));
        assert_eq!(t.vector::<u16>(2).unwrap().iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert!(Table::root(&b, b"TFL3").is_err());
    }

    #[test]
    fn every_truncation_is_an_error_or_the_same_value() {
        let b = sample();
        for cut in 0..b.len() {
            let read = Table::root(&b[..cut], b"TEST").and_then(|t| t.vector::<u16>(2));
            assert!(read.is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn offsets_out_of_the_file_and_huge_vectors_are_errors() {
        let mut b = sample();
        b[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        let t = Table::root(&b, b"TEST").unwrap();
        assert_eq!(t.vector::<u16>(2).unwrap_err().at, 32);
        b[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
        let t = Table::root(&b, b"TEST").unwrap();
        assert_eq!(t.vector::<u16>(2).unwrap_err().at, 28);
        b[20..24].copy_from_slice(&i32::MIN.to_le_bytes());
        assert!(Table::root(&b, b"TEST").is_err());
    }
}
