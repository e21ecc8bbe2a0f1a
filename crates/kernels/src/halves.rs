//! Floats of 16 bits to singles and back.

use crate::encoded::Float;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// Writes the elements whose bytes are `from` to `to`.
///
/// # Panics
/// Where the lengths differ.
pub fn widen(isa: Isa, float: Float, from: &[u8], to: &mut [f32]) {
    assert_eq!(from.len(), to.len() * float.bytes(), "elements of other lengths");
    dispatch(isa, Widen { float, from, to });
}

/// Writes `from`, rounded to halves, to the bytes `to`.
///
/// # Panics
/// Where the lengths differ.
pub fn narrow(isa: Isa, from: &[f32], to: &mut [u8]) {
    assert_eq!(to.len(), from.len() * 2, "elements of other lengths");
    dispatch(isa, Narrow::<false> { from, to });
}

/// Writes `from`, rounded to bf16, to the bytes `to`.
///
/// # Panics
/// Where the lengths differ.
pub fn narrow_to_upper(isa: Isa, from: &[f32], to: &mut [u8]) {
    assert_eq!(to.len(), from.len() * 2, "elements of other lengths");
    dispatch(isa, Narrow::<true> { from, to });
}

struct Widen<'a> {
    float: Float,
    from: &'a [u8],
    to: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.float {
            Float::F32 => {
                for (to, from) in self.to.iter_mut().zip(self.from.as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*from);
                }
            }
            Float::BF16 => {
                for (to, from) in self.to.iter_mut().zip(self.from.as_chunks::<2>().0) {
                    *to = f32::from_bits(u32::from(u16::from_le_bytes(*from)) << 16);
                }
            }
            Float::F16 => {
                let whole = self.to.len() / S::LANES * S::LANES;
                for i in (0..whole).step_by(S::LANES) {
                    // SAFETY: `LANES` elements from `i` on are inside of both.
                    unsafe {
                        let v = s.load_half(self.from.as_ptr().add(2 * i));
                        s.store(self.to.as_mut_ptr().add(i), v);
                    }
                }
                let from = self.from[2 * whole..].as_chunks::<2>().0;
                for (to, from) in self.to[whole..].iter_mut().zip(from) {
                    *to = half::f16::from_le_bytes(*from).to_f32();
                }
            }
        }
    }
}

/// To bf16 where `UPPER`, else to halves.
struct Narrow<'a, const UPPER: bool> {
    from: &'a [f32],
    to: &'a mut [u8],
}

impl<const UPPER: bool> Kernel for Narrow<'_, UPPER> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.from.len() / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: `LANES` elements from `i` on are inside of both.
            unsafe {
                let v = s.load(self.from.as_ptr().add(i));
                let to = self.to.as_mut_ptr().add(2 * i);
                if UPPER { s.store_upper(to, v) } else { s.store_half(to, v) }
            }
        }
        let to = self.to[2 * whole..].as_chunks_mut::<2>().0;
        for (to, from) in to.iter_mut().zip(&self.from[whole..]) {
            *to = match UPPER {
                true => half::bf16::from_f32(*from).to_le_bytes(),
                false => half::f16::from_f32(*from).to_le_bytes(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Values;

    #[test]
    fn halves_are_those_of_the_standard() {
        let mut values: Vec<f32> = Values::new(2).floats(200).iter().map(|x| x * 300.0).collect();
        values.extend([0.0, -0.0, 65504.0, 65520.0, 1e-8, 6e-8, -3e-5, f32::INFINITY, 1e9]);
        for isa in Isa::available() {
            for n in [1, 7, 16, 33, values.len()] {
                let mut bytes = vec![0; 2 * n];
                narrow(isa, &values[..n], &mut bytes);
                let mut back = vec![0.0; n];
                widen(isa, Float::F16, &bytes, &mut back);
                for ((x, bytes), back) in values.iter().zip(bytes.as_chunks::<2>().0).zip(back) {
                    let want = half::f16::from_f32(*x);
                    assert_eq!(half::f16::from_le_bytes(*bytes), want, "{isa:?} {x}");
                    assert_eq!(back, want.to_f32(), "{isa:?} {x}");
                }
            }
        }
    }

    #[test]
    fn upper_halves_are_rounded_to_even() {
        // A tie below an odd and above an even one, both with a bit more, what rounds to infinity,
        // what is far below the normal ones, and NaNs, of which one has its bits in the lower half.
        let bits = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x7f7f_ffff, 0x8000_0001, 0x7f80_0001];
        let mut values: Vec<f32> = Values::new(3).floats(200);
        values.extend(bits.map(f32::from_bits));
        values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40]);
        assert_eq!(half::bf16::from_f32(values[200]).to_bits(), 0x3f80);
        assert_eq!(half::bf16::from_f32(values[201]).to_bits(), 0x3f82);
        for isa in Isa::available() {
            for start in [0, 1, 190, 197] {
                let values = &values[start..];
                let mut bytes = vec![0; 2 * values.len()];
                narrow_to_upper(isa, values, &mut bytes);
                for (x, bytes) in values.iter().zip(bytes.as_chunks::<2>().0) {
                    let (want, got) = (half::bf16::from_f32(*x), u16::from_le_bytes(*bytes));
                    assert_eq!(got, want.to_bits(), "{isa:?} {x}");
                }
            }
        }
    }

    #[test]
    fn upper_halves_and_singles_are_bits() {
        for isa in Isa::available() {
            let (mut out, x) = ([0.0; 2], [1.5f32, -3.25]);
            widen(isa, Float::F32, bytemuck::cast_slice(&x), &mut out);
            assert_eq!(out, x);
            let bits: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()[2..].to_vec()).collect();
            widen(isa, Float::BF16, &bits, &mut out);
            assert_eq!(out, x);
        }
    }
}
