//! Any element as a number, and any number as an element, for every real element type: what
//! reference implementations use where speed does not matter.

use crate::{DType, OpError, OpResult, TensorView};
use half::{bf16, f16};
use std::sync::OnceLock;

/// The exact value of an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Of an integer or a truth value.
    Int(i128),
    /// Of a float of any width.
    Float(f64),
}

impl Number {
    /// As a double; integers past 2^53 round.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Int(v) => v as f64,
            Number::Float(v) => v,
        }
    }

    /// As an integer; floats lose their fraction.
    pub fn as_i128(self) -> i128 {
        match self {
            Number::Int(v) => v,
            Number::Float(v) => v as i128,
        }
    }
}

/// How numbers become 8-bit floats. Every other type needs no choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// Whether what is too large becomes the largest number; else infinity or not-a-number.
    pub saturate: bool,
    /// How numbers between two powers of two become [`DType::F8E8M0`].
    pub to_power: PowerRounding,
}

/// The direction in which a number becomes a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRounding {
    /// Away from zero.
    Up,
    /// Towards zero.
    Down,
    /// To the nearest, ties up.
    Nearest,
}

impl Default for Rounding {
    fn default() -> Self {
        Rounding { saturate: true, to_power: PowerRounding::Up }
    }
}

/// A float format of at most 8 bits with a sign, `exponent` and `mantissa` bits.
struct Mini {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    /// The largest code of a finite number.
    max: u8,
    /// What overflows becomes without saturation.
    over: u8,
    nan: u8,
    /// Whether the sign bit of zero stays, and the sign of not-a-number.
    signed_zero: bool,
}

fn mini(dtype: DType) -> Option<&'static Mini> {
    static E4M3FN: Mini = Mini {
        exponent: 4,
        mantissa: 3,
        bias: 7,
        max: 0x7e,
        over: 0x7f,
        nan: 0x7f,
        signed_zero: true,
    };
    static E4M3FNUZ: Mini = Mini {
        exponent: 4,
        mantissa: 3,
        bias: 8,
        max: 0x7f,
        over: 0x80,
        nan: 0x80,
        signed_zero: false,
    };
    static E5M2: Mini = Mini {
        exponent: 5,
        mantissa: 2,
        bias: 15,
        max: 0x7b,
        over: 0x7c,
        nan: 0x7e,
        signed_zero: true,
    };
    static E5M2FNUZ: Mini = Mini {
        exponent: 5,
        mantissa: 2,
        bias: 16,
        max: 0x7f,
        over: 0x80,
        nan: 0x80,
        signed_zero: false,
    };
    // It has no infinity and no not-a-number.
    static E2M1: Mini = Mini {
        exponent: 2,
        mantissa: 1,
        bias: 1,
        max: 0x7,
        over: 0x7,
        nan: 0x8,
        signed_zero: true,
    };
    Some(match dtype {
        DType::F8E4M3FN => &E4M3FN,
        DType::F8E4M3FNUZ => &E4M3FNUZ,
        DType::F8E5M2 => &E5M2,
        DType::F8E5M2FNUZ => &E5M2FNUZ,
        DType::F4E2M1 => &E2M1,
        _ => return None,
    })
}

impl Mini {
    fn sign(&self) -> u8 {
        1 << (self.exponent + self.mantissa)
    }

    /// The value of a code without its sign, past the largest finite one too.
    fn magnitude(&self, code: u32) -> f64 {
        let steps = 1 << self.mantissa;
        let (exponent, mantissa) = ((code / steps) as i32, f64::from(code % steps));
        let scale = 2f64.powi(exponent.max(1) - self.bias - self.mantissa as i32);
        let leading = if exponent > 0 { f64::from(steps) } else { 0.0 };
        (leading + mantissa) * scale
    }

    fn decode(&self, code: u8) -> f64 {
        let (sign, low) = (code & self.sign() != 0, code & (self.sign() - 1));
        let value = if !self.signed_zero && code == self.nan {
            f64::NAN
        } else if low <= self.max {
            self.magnitude(low.into())
        } else if self.over != self.nan && low == self.over {
            f64::INFINITY
        } else {
            f64::NAN
        };
        if sign { -value } else { value }
    }

    /// To the nearest, ties to even.
    fn encode(&self, value: f64, saturate: bool) -> u8 {
        let sign = if value.is_sign_negative() { self.sign() } else { 0 };
        let signed = |low: u8| match low {
            0 if !self.signed_zero => 0,
            low if low >= self.sign() => low,
            low => low | sign,
        };
        let size = value.abs();
        if size.is_nan() {
            return signed(self.nan);
        }
        // The first code that is not less, one past the largest where there is none.
        let (mut above, mut end) = (0u32, u32::from(self.max) + 1);
        while above < end {
            let middle = (above + end) / 2;
            match self.magnitude(middle) < size {
                true => above = middle + 1,
                false => end = middle,
            }
        }
        let nearest = match above.checked_sub(1) {
            None => 0,
            Some(below) => {
                let (down, up) = (size - self.magnitude(below), self.magnitude(above) - size);
                if down < up || (down == up && below % 2 == 0) { below } else { above }
            }
        };
        match u8::try_from(nearest) {
            Ok(code) if code <= self.max => signed(code),
            _ if saturate => signed(self.max),
            _ => signed(self.over),
        }
    }
}

fn decode_power(code: u8) -> f64 {
    match code {
        0xff => f64::NAN,
        code => 2f64.powi(i32::from(code) - 127),
    }
}

fn encode_power(value: f64, rounding: Rounding) -> u8 {
    const NAN: u8 = 0xff;
    let out_of_range = |code| if rounding.saturate { code } else { NAN };
    if value.is_nan() || value < 0.0 {
        return NAN;
    }
    if value == 0.0 {
        return out_of_range(0);
    }
    if value.is_infinite() {
        return out_of_range(0xfe);
    }
    let mut exponent = -1100;
    while 2f64.powi(exponent + 1) <= value && exponent < 1022 {
        exponent += 1;
    }
    let fraction = value / 2f64.powi(exponent);
    exponent += i32::from(match rounding.to_power {
        PowerRounding::Up => fraction > 1.0,
        PowerRounding::Down => false,
        PowerRounding::Nearest => fraction >= 1.5,
    });
    match exponent {
        ..-127 => out_of_range(0),
        128.. => out_of_range(0xfe),
        exponent => (exponent + 127) as u8,
    }
}

/// A table of the values of all codes of a format of at most 8 bits.
fn table(dtype: DType) -> Option<&'static [f64; 256]> {
    static TABLES: [OnceLock<[f64; 256]>; 6] = [const { OnceLock::new() }; 6];
    let formats = [
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F4E2M1,
        DType::F8E8M0,
    ];
    let at = formats.iter().position(|d| *d == dtype)?;
    Some(TABLES[at].get_or_init(|| {
        std::array::from_fn(|code| match mini(dtype) {
            Some(mini) => mini.decode(code as u8),
            None => decode_power(code as u8),
        })
    }))
}

/// Reads element `i` of packed elements of `bits` bits.
fn unpack(bytes: &[u8], bits: usize, i: usize) -> u8 {
    let at = i * bits;
    (bytes[at / 8] >> (at % 8)) & ((1u16 << bits) - 1) as u8
}

/// Writes element `i` of packed elements of `bits` bits.
fn pack(bytes: &mut [u8], bits: usize, i: usize, value: u8) {
    let (at, mask) = (i * bits, ((1u16 << bits) - 1) as u8);
    let byte = &mut bytes[at / 8];
    *byte = (*byte & !(mask << (at % 8))) | ((value & mask) << (at % 8));
}

/// The elements of a view as numbers, by index.
pub struct Numbers<'a>(Stored<'a>);

enum Stored<'a> {
    F64(&'a [f64]),
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    I16(&'a [i16]),
    I8(&'a [i8]),
    U64(&'a [u64]),
    U32(&'a [u32]),
    U16(&'a [u16]),
    U8(&'a [u8]),
    Bool(&'a [u8]),
    /// Integers of so many bits, packed.
    Packed {
        bytes: &'a [u8],
        bits: usize,
        signed: bool,
    },
    /// Codes of so many bits, packed, and what they stand for.
    Codes {
        bytes: &'a [u8],
        bits: usize,
        values: &'static [f64; 256],
    },
    /// What blocks of encoded numbers stand for.
    Decoded(Vec<f32>),
}

impl Numbers<'_> {
    /// Element `i`.
    pub fn at(&self, i: usize) -> Number {
        match &self.0 {
            Stored::F64(v) => Number::Float(v[i]),
            Stored::F32(v) => Number::Float(v[i].into()),
            Stored::F16(v) => Number::Float(v[i].into()),
            Stored::BF16(v) => Number::Float(v[i].into()),
            Stored::I64(v) => Number::Int(v[i].into()),
            Stored::I32(v) => Number::Int(v[i].into()),
            Stored::I16(v) => Number::Int(v[i].into()),
            Stored::I8(v) => Number::Int(v[i].into()),
            Stored::U64(v) => Number::Int(v[i].into()),
            Stored::U32(v) => Number::Int(v[i].into()),
            Stored::U16(v) => Number::Int(v[i].into()),
            Stored::U8(v) => Number::Int(v[i].into()),
            Stored::Bool(v) => Number::Int((v[i] != 0).into()),
            Stored::Packed { bytes, bits, signed } => {
                let (code, up) = (unpack(bytes, *bits, i), 8 - bits);
                Number::Int(if *signed { ((code << up) as i8 >> up).into() } else { code.into() })
            }
            Stored::Codes { bytes, bits, values } => {
                Number::Float(values[usize::from(unpack(bytes, *bits, i))])
            }
            Stored::Decoded(v) => Number::Float(v[i].into()),
        }
    }
}

/// The elements of `view` as numbers. Fails for complex ones.
pub fn numbers<'a>(view: &TensorView<'a>) -> OpResult<Numbers<'a>> {
    let (bytes, bits) = (view.bytes, view.dtype.bits());
    Ok(Numbers(match view.dtype {
        DType::F64 => Stored::F64(view.slice()?),
        DType::F32 => Stored::F32(view.slice()?),
        DType::F16 => Stored::F16(view.slice()?),
        DType::BF16 => Stored::BF16(view.slice()?),
        DType::I64 => Stored::I64(view.slice()?),
        DType::I32 => Stored::I32(view.slice()?),
        DType::I16 => Stored::I16(view.slice()?),
        DType::I8 => Stored::I8(view.slice()?),
        DType::U64 => Stored::U64(view.slice()?),
        DType::U32 => Stored::U32(view.slice()?),
        DType::U16 => Stored::U16(view.slice()?),
        DType::U8 => Stored::U8(view.slice()?),
        DType::Bool => Stored::Bool(bytes),
        DType::U4 | DType::U2 => Stored::Packed { bytes, bits, signed: false },
        DType::I4 | DType::I2 => Stored::Packed { bytes, bits, signed: true },
        DType::Encoded(_) => {
            let mut decoded = vec![0.0; view.len()];
            view.decode(0, &mut decoded)?;
            Stored::Decoded(decoded)
        }
        DType::C64 | DType::C128 => {
            return Err(OpError::new(format!("expected real numbers, found {}", view.dtype)));
        }
        _ => match table(view.dtype) {
            Some(values) => Stored::Codes { bytes, bits, values },
            None => return Err(OpError::new(format!("{} has no numbers", view.dtype))),
        },
    }))
}

/// All elements of `view` as doubles.
pub fn floats(view: &TensorView<'_>) -> OpResult<Vec<f64>> {
    let numbers = numbers(view)?;
    Ok((0..view.len()).map(|i| numbers.at(i).as_f64()).collect())
}

/// Writes numbers as the elements of `dtype` in `bytes`. Integers wrap; floats that become integers
/// lose their fraction, and wrap too.
pub fn write(
    dtype: DType,
    bytes: &mut [u8],
    rounding: Rounding,
    values: impl Iterator<Item = Number>,
) -> OpResult {
    let bits = dtype.bits();
    macro_rules! to {
        ($T:ty, $v:ident => $element:expr) => {{
            for (out, $v) in crate::tensor::cast_mut::<$T>(bytes)?.iter_mut().zip(values) {
                *out = $element;
            }
        }};
    }
    match dtype {
        DType::F64 => to!(f64, v => v.as_f64()),
        DType::F32 => to!(f32, v => match v {
            Number::Int(v) => v as f32,
            Number::Float(v) => v as f32,
        }),
        DType::F16 => to!(f16, v => f16::from_f64(v.as_f64())),
        DType::BF16 => to!(bf16, v => bf16::from_f64(v.as_f64())),
        DType::I64 => to!(i64, v => v.as_i128() as i64),
        DType::I32 => to!(i32, v => v.as_i128() as i32),
        DType::I16 => to!(i16, v => v.as_i128() as i16),
        DType::I8 => to!(i8, v => v.as_i128() as i8),
        DType::U64 => to!(u64, v => v.as_i128() as u64),
        DType::U32 => to!(u32, v => v.as_i128() as u32),
        DType::U16 => to!(u16, v => v.as_i128() as u16),
        DType::U8 => to!(u8, v => v.as_i128() as u8),
        DType::Bool => {
            for (out, v) in bytes.iter_mut().zip(values) {
                *out = u8::from(match v {
                    Number::Int(v) => v != 0,
                    Number::Float(v) => v != 0.0,
                });
            }
        }
        DType::I4 | DType::I2 | DType::U4 | DType::U2 => {
            bytes.fill(0);
            for (i, v) in values.enumerate() {
                pack(bytes, bits, i, v.as_i128() as u8);
            }
        }
        DType::F8E8M0 => {
            for (out, v) in bytes.iter_mut().zip(values) {
                *out = encode_power(v.as_f64(), rounding);
            }
        }
        DType::C64 | DType::C128 => {
            return Err(OpError::new(format!("a real number can't become {dtype}")));
        }
        _ => {
            let Some(mini) = mini(dtype) else {
                return Err(OpError::new(format!("{dtype} can't be written")));
            };
            bytes.fill(0);
            for (i, v) in values.enumerate() {
                pack(bytes, bits, i, mini.encode(v.as_f64(), rounding.saturate));
            }
        }
    }
    Ok(())
}

/// Writes doubles as the elements of `dtype` in `bytes`, rounded to the nearest.
pub fn write_floats(dtype: DType, bytes: &mut [u8], values: impl Iterator<Item = f64>) -> OpResult {
    write(dtype, bytes, Rounding::default(), values.map(Number::Float))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn cast(dtype: DType, values: &[f64], saturate: bool) -> Vec<f64> {
        let mut tensor = Tensor::zeros(dtype, &[values.len()]).unwrap();
        let rounding = Rounding { saturate, ..Rounding::default() };
        let numbers = values.iter().map(|v| Number::Float(*v));
        write(dtype, tensor.bytes_mut(), rounding, numbers).unwrap();
        floats(&tensor.view()).unwrap()
    }

    #[test]
    fn every_code_of_every_small_type_round_trips() {
        for dtype in DType::ALL.iter().copied().filter(|d| d.bits() <= 8 && d.is_float()) {
            for code in 0..1u32 << dtype.bits() {
                let mut tensor = Tensor::zeros(dtype, &[1]).unwrap();
                tensor.bytes_mut()[0] = code as u8;
                let value = floats(&tensor.view()).unwrap()[0];
                if value.is_finite() {
                    let again = cast(dtype, &[value], true)[0];
                    assert_eq!(value.to_bits(), again.to_bits(), "{dtype} {code:#x}");
                }
            }
        }
    }

    #[test]
    fn limits_are_those_of_the_formats() {
        for (dtype, max, least) in [
            (DType::F8E4M3FN, 448.0, 2f64.powi(-9)),
            (DType::F8E4M3FNUZ, 240.0, 2f64.powi(-10)),
            (DType::F8E5M2, 57344.0, 2f64.powi(-16)),
            (DType::F8E5M2FNUZ, 57344.0, 2f64.powi(-17)),
            (DType::F4E2M1, 6.0, 0.5),
        ] {
            let at = |v| cast(dtype, &[v], true)[0];
            assert_eq!((at(max), at(1e9), at(f64::INFINITY)), (max, max, max), "{dtype}");
            assert_eq!((at(-1e9), at(least), at(least / 2.0)), (-max, least, 0.0), "{dtype}");
        }
        assert!(cast(DType::F8E4M3FN, &[1e9], false)[0].is_nan());
        assert_eq!(cast(DType::F8E5M2, &[-1e9], false)[0], f64::NEG_INFINITY);
        // Ties go to even codes: 448 has the even one.
        assert_eq!(cast(DType::F8E4M3FN, &[464.0], false)[0], 448.0);
        assert!(cast(DType::F8E4M3FN, &[465.0], false)[0].is_nan());
    }

    #[test]
    fn powers_round_as_asked() {
        let to = |value, to_power, saturate| encode_power(value, Rounding { saturate, to_power });
        assert_eq!(to(3.0, PowerRounding::Up, true), 129);
        assert_eq!(to(3.0, PowerRounding::Down, true), 128);
        assert_eq!(to(2.9, PowerRounding::Nearest, true), 128);
        assert_eq!(to(3.0, PowerRounding::Nearest, true), 129);
        assert_eq!(to(f64::INFINITY, PowerRounding::Up, true), 0xfe);
        assert_eq!(to(1e-60, PowerRounding::Up, true), 0);
        assert_eq!(to(0.0, PowerRounding::Nearest, false), 0xff);
    }

    #[test]
    fn packed_integers_keep_their_sign() {
        assert_eq!(cast(DType::I4, &[-8.0, 7.0, -1.0], true), [-8.0, 7.0, -1.0]);
        assert_eq!(
            cast(DType::I2, &[-2.0, 1.0, 0.0, -1.0, 1.0], true),
            [-2.0, 1.0, 0.0, -1.0, 1.0]
        );
        assert_eq!(cast(DType::U4, &[15.0, 16.0, 3.0], true), [15.0, 0.0, 3.0]);
    }
}
