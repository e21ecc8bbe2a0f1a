//! The protobuf wire format, read in place.
//!
//! A [`Message`] walks the fields of one message over borrowed bytes: strings, byte fields and
//! packed numbers are slices of the file, so a mapped weight is never copied. Whatever must be
//! allocated is charged to a [`Budget`] first, and messages may nest only [`MAX_DEPTH`] deep, so a
//! hostile file costs no more than a multiple of its own size.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

use std::borrow::Cow;
use std::cell::Cell;

/// How deep messages may nest. A model with control flow uses five levels for each nested body.
pub const MAX_DEPTH: u32 = 100;

/// What is wrong with the bytes, and where.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("byte {offset}: {what}")]
pub struct WireError {
    /// Offset from the start of the file.
    pub offset: usize,
    /// What was found there.
    pub what: String,
}

/// The heap memory that reading may still use.
#[derive(Debug)]
pub struct Budget {
    left: Cell<usize>,
}

/// Reading would need more memory than its [`Budget`].
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("reading it needs more memory than three times its size: the file is damaged or hostile")]
pub struct OverBudget;

impl Budget {
    /// The allowance for a file of `len` bytes: three times its size and 48 MiB.
    pub fn for_file(len: usize) -> Self {
        Self { left: Cell::new(len.saturating_mul(3).saturating_add(48 << 20)) }
    }

    /// Takes `bytes` from the allowance.
    pub fn charge(&self, bytes: usize) -> Result<(), OverBudget> {
        let left = self.left.get().checked_sub(bytes).ok_or(OverBudget)?;
        self.left.set(left);
        Ok(())
    }
}

/// One message being read. Iterate with [`Message::next`].
#[derive(Debug, Clone)]
pub struct Message<'a> {
    rest: &'a [u8],
    offset: usize,
    depth: u32,
    budget: &'a Budget,
}

/// A field's number, and its value by wire type.
#[derive(Debug)]
pub struct Field<'a> {
    /// The number the schema gives the field.
    pub number: u32,
    value: Value<'a>,
    offset: usize,
    depth: u32,
    budget: &'a Budget,
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Varint(&'a [u8], u64),
    Fixed64(&'a [u8]),
    Fixed32(&'a [u8]),
    Bytes(&'a [u8]),
}

/// Decodes one varint from the front of `bytes`: the value and its length.
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

impl<'a> Message<'a> {
    /// The outermost message: a whole file.
    pub fn root(file: &'a [u8], budget: &'a Budget) -> Self {
        Self { rest: file, offset: 0, depth: 0, budget }
    }

    fn error(&self, what: &str) -> WireError {
        WireError { offset: self.offset, what: what.into() }
    }

    fn varint(&mut self) -> Result<(&'a [u8], u64), WireError> {
        let (value, len) = varint(self.rest).ok_or_else(|| self.error("a broken varint"))?;
        Ok((self.take(len)?, value))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| {
            self.error(&format!(
                "a field of {len} bytes where {} are left: the file is cut short or damaged",
                self.rest.len()
            ))
        })?;
        self.rest = rest;
        self.offset += len;
        Ok(head)
    }

    /// The next field, with all its bytes.
    pub fn next_raw(&mut self) -> Result<Option<(Field<'a>, &'a [u8])>, WireError> {
        let before = self.rest;
        let field = self.next()?;
        let raw = &before[..before.len() - self.rest.len()];
        Ok(field.map(|field| (field, raw)))
    }

    /// The next field, or `None` at the end of the message.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.offset;
        let (_, key) = self.varint()?;
        let number = u32::try_from(key >> 3)
            .ok()
            .filter(|&n| n != 0)
            .ok_or_else(|| WireError { offset: start, what: "a broken field number".into() })?;
        let mut offset = self.offset;
        let value = match key & 7 {
            0 => {
                let (bytes, value) = self.varint()?;
                Value::Varint(bytes, value)
            }
            1 => Value::Fixed64(self.take(8)?),
            2 => {
                let (_, len) = self.varint()?;
                offset = self.offset;
                Value::Bytes(self.take(usize::try_from(len).unwrap_or(usize::MAX))?)
            }
            5 => Value::Fixed32(self.take(4)?),
            kind => {
                let what =
                    format!("field {number} has wire type {kind}, which protobuf does not use");
                return Err(WireError { offset: start, what });
            }
        };
        Ok(Some(Field { number, value, offset, depth: self.depth, budget: self.budget }))
    }
}

impl<'a> Field<'a> {
    /// An error at this field.
    pub fn error(&self, what: impl Into<String>) -> WireError {
        WireError { offset: self.offset, what: what.into() }
    }

    fn mismatch(&self, wanted: &str) -> WireError {
        self.error(format!("field {} should hold {wanted}", self.number))
    }

    /// A byte string, borrowed from the file.
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.mismatch("bytes")),
        }
    }

    /// A UTF-8 string, borrowed from the file.
    pub fn str(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.mismatch("UTF-8 text"))
    }

    /// An `int64`, or an `int32` or enum as sign-extended.
    pub fn int(&self) -> Result<i64, WireError> {
        match self.value {
            Value::Varint(_, value) => Ok(value as i64),
            _ => Err(self.mismatch("an integer")),
        }
    }

    /// An `int32` or an enum.
    pub fn int32(&self) -> Result<i32, WireError> {
        i32::try_from(self.int()?).map_err(|_| self.mismatch("a 32-bit integer"))
    }

    /// A `float`.
    pub fn float(&self) -> Result<f32, WireError> {
        match self.value {
            Value::Fixed32(bytes) => bytes.try_into().map(f32::from_le_bytes),
            _ => return Err(self.mismatch("a float")),
        }
        .map_err(|_| self.mismatch("a float"))
    }

    /// A message one level down.
    pub fn message(&self) -> Result<Message<'a>, WireError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(format!("messages nested more than {MAX_DEPTH} deep")));
        }
        Ok(Message {
            rest: self.bytes()?,
            offset: self.offset,
            depth: self.depth + 1,
            budget: self.budget,
        })
    }

    /// Appends a repeated number, packed or not, in its encoded form: varints, or little-endian
    /// words of 4 or 8 bytes. The one packed run that writers emit stays borrowed.
    pub fn append_packed(&self, to: &mut Cow<'a, [u8]>) -> Result<(), WireError> {
        let run = match self.value {
            Value::Bytes(bytes) | Value::Varint(bytes, _) => bytes,
            Value::Fixed32(bytes) | Value::Fixed64(bytes) => bytes,
        };
        if to.is_empty() {
            *to = Cow::Borrowed(run);
            return Ok(());
        }
        // Growth doubles, and the first run is copied once.
        let copied = if matches!(to, Cow::Borrowed(_)) { to.len() } else { 0 };
        self.charge((copied + run.len()).saturating_mul(2))?;
        to.to_mut().extend_from_slice(run);
        Ok(())
    }

    /// [`append_packed`](Self::append_packed) for a list that will be decoded: its memory, at most
    /// eight bytes for each encoded one and as much again while it grows, is charged here.
    pub fn append_list(&self, to: &mut Cow<'a, [u8]>) -> Result<(), WireError> {
        let before = to.len();
        self.append_packed(to)?;
        self.charge((to.len() - before).saturating_mul(16))
    }

    /// Pushes onto a list whose memory is charged to the budget.
    pub fn push<T>(&self, list: &mut Vec<T>, item: T) -> Result<(), WireError> {
        self.charge(2 * size_of::<T>())?;
        list.push(item);
        Ok(())
    }

    /// Stores a field that may occur only once.
    pub fn set<T>(&self, slot: &mut Option<T>, value: T) -> Result<(), WireError> {
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.error(format!("field {} occurs twice", self.number))),
        }
    }

    fn charge(&self, bytes: usize) -> Result<(), WireError> {
        self.budget.charge(bytes).map_err(|e| self.error(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<u32>, WireError> {
        let budget = Budget::for_file(bytes.len());
        let mut message = Message::root(bytes, &budget);
        let mut numbers = Vec::new();
        while let Some(field) = message.next()? {
            numbers.push(field.number);
        }
        Ok(numbers)
    }

    #[test]
    fn varints_of_every_length() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            let mut v = value;
            while v > 127 {
                bytes.push(v as u8 | 0x80);
                v >>= 7;
            }
            bytes.push(v as u8);
            assert_eq!(varint(&bytes), Some((value, bytes.len())));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(varint(&[0xff; 10]), None);
    }

    #[test]
    fn walks_every_wire_type() {
        let bytes = [
            0x08, 0x96, 0x01, // 1: varint 150
            0x11, 1, 2, 3, 4, 5, 6, 7, 8, // 2: fixed64
            0x1a, 0x02, b'h', b'i', // 3: bytes
            0x25, 0, 0, 0x80, 0x3f, // 4: fixed32, 1.0
        ];
        assert_eq!(fields(&bytes), Ok(vec![1, 2, 3, 4]));
        for cut in [1, 2, 5, 11, 13, 15, 17, 20] {
            assert!(fields(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn refuses_groups_and_field_zero() {
        assert!(fields(&[0x0b]).is_err());
        assert!(fields(&[0x00, 0x00]).is_err());
    }

    #[test]
    fn packed_runs_borrow_until_they_must_join() {
        let bytes = [0x0a, 2, 1, 2, 0x08, 3];
        let budget = Budget::for_file(0);
        let mut message = Message::root(&bytes, &budget);
        let mut packed = Cow::Borrowed(&[][..]);
        message.next().unwrap().unwrap().append_packed(&mut packed).unwrap();
        assert!(matches!(packed, Cow::Borrowed(_)));
        message.next().unwrap().unwrap().append_packed(&mut packed).unwrap();
        assert_eq!(&*packed, [1, 2, 3]);
    }

    #[test]
    fn budget_runs_out() {
        let budget = Budget::for_file(10);
        assert_eq!(budget.charge((48 << 20) + 30), Ok(()));
        assert_eq!(budget.charge(1), Err(OverBudget));
    }
}
