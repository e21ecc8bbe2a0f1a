//! The header: a magic number, a version, and a Python dictionary in ASCII.

use std::io::Read;

use crate::Error;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Far above any header that NumPy writes for a plain type.
const LONGEST: usize = 1 << 16;
/// NumPy itself allows 64.
const MOST_AXES: usize = 64;

pub(crate) struct Header {
    pub descr: String,
    pub fortran_order: bool,
    pub shape: Vec<usize>,
}

pub(crate) fn read(reader: &mut dyn Read) -> Result<Header, Error> {
    let mut start = [0; 8];
    fill(reader, &mut start).map_err(|error| match error {
        Error::Header(_) => Error::NotNpy,
        other => other,
    })?;
    if &start[..6] != MAGIC {
        return Err(Error::NotNpy);
    }
    let length = match start[6] {
        1 => {
            let mut bytes = [0; 2];
            fill(reader, &mut bytes)?;
            usize::from(u16::from_le_bytes(bytes))
        }
        2 | 3 => {
            let mut bytes = [0; 4];
            fill(reader, &mut bytes)?;
            u32::from_le_bytes(bytes) as usize
        }
        version => return Err(Error::Header(format!("unknown version {version}"))),
    };
    if length > LONGEST {
        return Err(Error::Header(format!("it claims to be {length} bytes long")));
    }
    let mut text = vec![0; length];
    fill(reader, &mut text)?;
    let text = String::from_utf8_lossy(&text);
    Parser { rest: &text }.dictionary()
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<(), Error> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Header("it is cut off".into()),
        _ => Error::Io(error),
    })
}

/// A version 1 header, padded so that the elements start at a multiple of 64 bytes.
pub(crate) fn bytes(descr: &str, shape: &[usize]) -> Vec<u8> {
    let mut dims = shape.iter().map(|d| format!("{d}, ")).collect::<String>();
    if shape.len() > 1 {
        dims.truncate(dims.len() - 2);
    } else if shape.len() == 1 {
        dims.truncate(dims.len() - 1);
    }
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    let prefix = MAGIC.len() + 4;
    let padding = (prefix + text.len() + 1).next_multiple_of(64) - (prefix + text.len() + 1);
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn dictionary(mut self) -> Result<Header, Error> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.take('}') {
            let key = self.string()?;
            self.expect(':')?;
            match key.as_str() {
                "descr" => descr = Some(self.string()?),
                "fortran_order" => fortran_order = Some(self.boolean()?),
                "shape" => shape = Some(self.tuple()?),
                other => return Err(Error::Header(format!("unknown key {other:?}"))),
            }
            if !self.take(',') {
                self.expect('}')?;
                break;
            }
        }
        let missing = |key: &str| Error::Header(format!("no {key:?}"));
        Ok(Header {
            descr: descr.ok_or_else(|| missing("descr"))?,
            fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }

    fn take(&mut self, what: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, what: char) -> Result<(), Error> {
        if self.take(what) {
            return Ok(());
        }
        let found: String = self.rest.chars().take(20).collect();
        Err(Error::Header(format!("{what:?} expected, {found:?} found")))
    }

    fn string(&mut self) -> Result<String, Error> {
        let quote = if self.take('"') { '"' } else { self.expect('\'').map(|()| '\'')? };
        let (text, rest) = self
            .rest
            .split_once(quote)
            .ok_or_else(|| Error::Header("a string does not end".into()))?;
        self.rest = rest;
        Ok(text.to_string())
    }

    fn boolean(&mut self) -> Result<bool, Error> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(Error::Header("True or False expected".into()))
    }

    fn tuple(&mut self) -> Result<Vec<usize>, Error> {
        let mut dims = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            if dims.len() == MOST_AXES {
                return Err(Error::Header(format!("more than {MOST_AXES} axes")));
            }
            self.rest = self.rest.trim_start();
            let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = self.rest.split_at(digits);
            let bad = |_| Error::Header(format!("a dimension is not a size: {number:?}"));
            dims.push(number.parse().map_err(bad)?);
            // Python 2 wrote its long integers with an L.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(dims)
    }
}
