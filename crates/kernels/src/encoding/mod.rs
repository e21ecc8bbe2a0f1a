//! Block encodings of weights, as GGUF files hold them: what their bytes mean.
//!
//! Elements are stored in blocks of 32 or 256 along a row. A block holds a scale or several and the
//! elements' codes, with no padding, so a row of `n` elements takes `n / block_len × block_bytes`
//! bytes and blocks start at any address. All numbers are little-endian. Layouts, with the meaning of
//! each field and the order of elements, stand with each family: [`legacy`], [`k`], [`iq`],
//! [`ternary`], [`mx`].
//!
//! [`Encoding::decode`] defines the meaning: each operation is rounded to `f32`, in the order
//! written here, which is that of ggml. Kernels that compute on codes may round otherwise.

pub mod iq;
mod iq3_grid;
pub mod k;
pub mod legacy;
pub mod mx;
pub mod ternary;

use std::fmt;

macro_rules! encodings {
    ($($(#[$doc:meta])* $name:ident $text:literal $len:literal $bytes:literal $decode:path,)*) => {
        /// How the elements of a weight are packed into blocks. Named as in GGUF.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(non_camel_case_types, reason = "the names of the field")]
        pub enum Encoding { $($(#[$doc])* $name,)* }

        impl Encoding {
            /// Every encoding.
            pub const ALL: &'static [Encoding] = &[$(Encoding::$name,)*];

            /// The name that dumps and messages use: `q4_0`.
            pub const fn name(self) -> &'static str {
                match self { $(Encoding::$name => $text,)* }
            }

            /// Elements of one block.
            pub const fn block_len(self) -> usize {
                match self { $(Encoding::$name => $len,)* }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Encoding::$name => $bytes,)* }
            }

            /// The elements of whole blocks, to the last bit as ggml decodes them.
            ///
            /// # Panics
            /// If `blocks` is not as many whole blocks as `out` has room for.
            pub fn decode(self, blocks: &[u8], out: &mut [f32]) {
                assert_eq!(
                    Some(blocks.len()), self.bytes(out.len()),
                    "bytes of {} {self} elements", out.len()
                );
                match self { $(
                    Encoding::$name => {
                        let (out, _) = out.as_chunks_mut::<$len>();
                        let (blocks, _) = blocks.as_chunks::<$bytes>();
                        for (block, out) in blocks.iter().zip(out) {
                            $decode(block, out);
                        }
                    }
                )* }
            }
        }
    };
}

encodings! {
    /// 4.5 bits: 4-bit codes about 8, a scale for 32.
    Q4_0 "q4_0" 32 18 legacy::decode_q4_0,
    /// 5 bits: 4-bit codes, a scale and a minimum for 32.
    Q4_1 "q4_1" 32 20 legacy::decode_q4_1,
    /// 5.5 bits: 5-bit codes about 16, a scale for 32.
    Q5_0 "q5_0" 32 22 legacy::decode_q5_0,
    /// 6 bits: 5-bit codes, a scale and a minimum for 32.
    Q5_1 "q5_1" 32 24 legacy::decode_q5_1,
    /// 8.5 bits: signed bytes, a scale for 32.
    Q8_0 "q8_0" 32 34 legacy::decode_q8_0,
    /// 2.6 bits: 2-bit codes, a 4-bit scale and a 4-bit minimum for 16.
    Q2_K "q2_k" 256 84 k::decode_q2_k,
    /// 3.4 bits: 3-bit codes about 4, a 6-bit scale for 16.
    Q3_K "q3_k" 256 110 k::decode_q3_k,
    /// 4.5 bits: 4-bit codes, a 6-bit scale and a 6-bit minimum for 32.
    Q4_K "q4_k" 256 144 k::decode_q4_k,
    /// 5.5 bits: 5-bit codes, a 6-bit scale and a 6-bit minimum for 32.
    Q5_K "q5_k" 256 176 k::decode_q5_k,
    /// 6.6 bits: 6-bit codes about 32, an 8-bit scale for 16.
    Q6_K "q6_k" 256 210 k::decode_q6_k,
    /// 4.5 bits: 4-bit codes into a table, a scale for 32.
    IQ4_NL "iq4_nl" 32 18 iq::decode_iq4_nl,
    /// 4.25 bits: 4-bit codes into a table, a 6-bit scale for 32.
    IQ4_XS "iq4_xs" 256 136 iq::decode_iq4_xs,
    /// 3.4 bits: 9-bit codes of four magnitudes, signs, a 4-bit scale for 32.
    IQ3_S "iq3_s" 256 110 iq::decode_iq3_s,
    /// 1.7 bits: −1, 0 and 1, five to a byte.
    TQ1_0 "tq1_0" 256 54 ternary::decode_tq1_0,
    /// 2.1 bits: −1, 0 and 1 in 2-bit codes.
    TQ2_0 "tq2_0" 256 66 ternary::decode_tq2_0,
    /// 4.25 bits: 4-bit floats, a power of two for 32 (OCP microscaling).
    MXFP4 "mxfp4" 32 17 mx::decode_mxfp4,
}

impl Encoding {
    /// The encoding of this name, in either case.
    pub fn from_name(name: &str) -> Option<Encoding> {
        Self::ALL.iter().copied().find(|e| e.name().eq_ignore_ascii_case(name))
    }

    /// Bytes that `elements` elements take; `None` where they are not whole blocks, or past the
    /// address space.
    pub const fn bytes(self, elements: usize) -> Option<usize> {
        if elements.is_multiple_of(self.block_len()) {
            (elements / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The IEEE half at `at`, as a single.
fn half(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_either_case() {
        for &encoding in Encoding::ALL {
            assert_eq!(Encoding::from_name(encoding.name()), Some(encoding));
            assert_eq!(Encoding::from_name(&format!("{encoding:?}")), Some(encoding));
        }
        assert_eq!(Encoding::from_name("q4"), None);
    }

    #[test]
    fn only_whole_blocks_have_a_size() {
        assert_eq!(Encoding::Q4_0.bytes(64), Some(36));
        assert_eq!(Encoding::Q4_0.bytes(33), None);
        assert_eq!(Encoding::Q4_K.bytes(0), Some(0));
        assert_eq!(Encoding::Q8_0.bytes(usize::MAX / 32 * 32), None);
    }

    #[test]
    #[should_panic(expected = "bytes of 32 q8_0 elements")]
    fn a_wrong_size_is_refused() {
        Encoding::Q8_0.decode(&[0; 33], &mut [0.0; 32]);
    }
}
