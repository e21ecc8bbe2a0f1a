//! Element types and the Rust types that hold them.

use crate::{OpError, OpResult, elements};
use half::{bf16, f16};
use kinglet_kernels::encoding::Encoding;
use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident $text:literal $bits:literal,)*) => {
        /// What one element of a tensor is. Types narrower than a byte are stored packed,
        /// lowest bits first, over the flattened tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType {
            $($(#[$doc])* $name,)*
            /// Real numbers packed in blocks along the last dimension, which is a whole number of
            /// them. Only constants are: few ops read them ([`crate::Op::reads_encoded`]), and none
            /// writes them.
            Encoded(Encoding),
        }

        impl DType {
            /// Every scalar element type; [`Encoding::ALL`] are the others.
            pub const ALL: &'static [DType] = &[$(DType::$name,)*];

            /// The short name that dumps and messages use.
            pub fn name(self) -> &'static str {
                match self {
                    $(DType::$name => $text,)*
                    DType::Encoded(encoding) => encoding.name(),
                }
            }

            /// Bits of one element; 0 for encoded ones, which have no place of their own.
            pub fn bits(self) -> usize {
                match self {
                    $(DType::$name => $bits,)*
                    DType::Encoded(_) => 0,
                }
            }
        }
    };
}

dtypes! {
    /// IEEE double.
    F64 "f64" 64,
    /// IEEE single.
    F32 "f32" 32,
    /// IEEE half.
    F16 "f16" 16,
    /// The upper half of an IEEE single.
    BF16 "bf16" 16,
    /// 8-bit float, 4 exponent bits, no infinities (OCP).
    F8E4M3FN "f8e4m3fn" 8,
    /// 8-bit float, 4 exponent bits, no negative zero.
    F8E4M3FNUZ "f8e4m3fnuz" 8,
    /// 8-bit float, 5 exponent bits (OCP).
    F8E5M2 "f8e5m2" 8,
    /// 8-bit float, 5 exponent bits, no negative zero.
    F8E5M2FNUZ "f8e5m2fnuz" 8,
    /// 8-bit power-of-two scale (OCP microscaling).
    F8E8M0 "f8e8m0" 8,
    /// 4-bit float (OCP microscaling).
    F4E2M1 "f4e2m1" 4,
    /// Signed 64-bit.
    I64 "i64" 64,
    /// Signed 32-bit.
    I32 "i32" 32,
    /// Signed 16-bit.
    I16 "i16" 16,
    /// Signed 8-bit.
    I8 "i8" 8,
    /// Signed 4-bit.
    I4 "i4" 4,
    /// Signed 2-bit.
    I2 "i2" 2,
    /// Unsigned 64-bit.
    U64 "u64" 64,
    /// Unsigned 32-bit.
    U32 "u32" 32,
    /// Unsigned 16-bit.
    U16 "u16" 16,
    /// Unsigned 8-bit.
    U8 "u8" 8,
    /// Unsigned 4-bit.
    U4 "u4" 4,
    /// Unsigned 2-bit.
    U2 "u2" 2,
    /// Truth value, one byte, 0 or 1.
    Bool "bool" 8,
    /// Two f32: real, imaginary.
    C64 "c64" 64,
    /// Two f64: real, imaginary.
    C128 "c128" 128,
}

impl DType {
    /// The smallest whole part of a tensor: its elements and its bytes. More than one element
    /// where they are encoded, or narrower than a byte.
    pub fn block(self) -> (usize, usize) {
        match self {
            DType::Encoded(encoding) => (encoding.block_len(), encoding.block_bytes()),
            _ if self.bits() < 8 => (8 / self.bits(), 1),
            _ => (1, self.bits() / 8),
        }
    }

    /// Bytes that `elements` elements take; `None` past the address space, or where encoded ones
    /// are not whole blocks.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        match self {
            DType::Encoded(encoding) => encoding.bytes(elements),
            _ if self.bits() < 8 => Some(elements.checked_mul(self.bits())?.div_ceil(8)),
            _ => elements.checked_mul(self.bits() / 8),
        }
    }

    /// Bytes that a tensor of these sizes takes.
    ///
    /// # Errors
    /// Where they pass the address space, or rows of encoded elements are not whole blocks.
    pub fn bytes_of(self, dims: &[usize]) -> OpResult<usize> {
        if let DType::Encoded(encoding) = self {
            let (row, block) = (dims.last().copied().unwrap_or(1), encoding.block_len());
            if !row.is_multiple_of(block) {
                return Err(OpError::new(format!(
                    "the last of the sizes {dims:?} is not a multiple of {block}, a block of {self}"
                )));
            }
        }
        elements(dims)
            .and_then(|n| self.bytes(n))
            .filter(|n| isize::try_from(*n).is_ok())
            .ok_or_else(|| OpError::new(format!("sizes {dims:?} are too large")))
    }

    /// Bytes that elements in memory start at a multiple of.
    pub fn alignment(self) -> usize {
        match self {
            DType::Encoded(_) => 1,
            _ => self.bits().div_ceil(8).min(8),
        }
    }

    /// The encoding of blocks, where this is one.
    pub fn encoding(self) -> Option<Encoding> {
        match self {
            DType::Encoded(encoding) => Some(encoding),
            _ => None,
        }
    }

    /// Whether this is a floating-point type of any width (not [`DType::Encoded`]).
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(
            self,
            F64 | F32 | F16 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F4E2M1
        )
    }

    /// Whether this is a signed or unsigned integer of any width (not [`DType::Bool`]).
    pub fn is_integer(self) -> bool {
        use DType::*;
        !self.is_float() && !matches!(self, Bool | C64 | C128 | Encoded(_))
    }
}

impl From<Encoding> for DType {
    fn from(encoding: Encoding) -> DType {
        DType::Encoded(encoding)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is one element of a [`DType`].
pub trait Element: bytemuck::Pod + PartialEq + Send + Sync + fmt::Debug {
    /// The element type it holds.
    const DTYPE: DType;
}

/// One byte that is false when 0 and true otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Bool(pub u8);

impl Bool {
    /// As Rust's `bool`.
    pub fn get(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Bool {
    fn from(b: bool) -> Self {
        Bool(b as u8)
    }
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident,)*) => {$(
        impl Element for $rust { const DTYPE: DType = DType::$dtype; }
    )*};
}

elements! {
    f64 => F64, f32 => F32, f16 => F16, bf16 => BF16,
    i64 => I64, i32 => I32, i16 => I16, i8 => I8,
    u64 => U64, u32 => U32, u16 => U16, u8 => U8,
    Bool => Bool, [f32; 2] => C64, [f64; 2] => C128,
}

/// Runs `$body` with the type alias `$T` standing for the Rust type of `$dtype`, for the listed
/// dtypes; any other evaluates `$other`.
///
/// ```
/// use kinglet_graph::{DType, dispatch};
/// let size = dispatch!(DType::I32, T in [F32 f32, I32 i32] => Some(size_of::<T>()), else => None);
/// assert_eq!(size, Some(4));
/// ```
#[macro_export]
macro_rules! dispatch {
    ($dtype:expr, $T:ident in [$($D:ident $R:ty),+ $(,)?] => $body:expr, else => $other:expr) => {
        match $dtype {
            $($crate::DType::$D => { type $T = $R; $body })+
            _ => $other,
        }
    };
}

/// [`dispatch!`] over the number types that have arithmetic in Rust or `half`.
#[macro_export]
macro_rules! dispatch_number {
    ($dtype:expr, $T:ident => $body:expr, else => $other:expr) => {
        $crate::dispatch!($dtype, $T in [
            F64 f64, F32 f32, F16 half::f16, BF16 half::bf16,
            I64 i64, I32 i32, I16 i16, I8 i8, U64 u64, U32 u32, U16 u16, U8 u8,
        ] => $body, else => $other)
    };
}

/// [`dispatch!`] over the float types that have arithmetic in Rust or `half`.
#[macro_export]
macro_rules! dispatch_float {
    ($dtype:expr, $T:ident => $body:expr, else => $other:expr) => {
        $crate::dispatch!($dtype, $T in [
            F64 f64, F32 f32, F16 half::f16, BF16 half::bf16,
        ] => $body, else => $other)
    };
}
