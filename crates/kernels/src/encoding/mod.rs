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
//! [`Encoding::encode`] picks codes with little error; other encoders pick others.

mod fit;
pub mod iq;
mod iq3_grid;
pub mod k;
pub mod legacy;
pub mod mx;
pub mod ternary;

use std::fmt;

macro_rules! encodings {
    ($($(#[$doc:meta])* $name:ident $text:literal $len:literal $bytes:literal $decode:path, $encode:path;)*) => {
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

            /// Encodes whole blocks: scales with about the least squared error, and each element
            /// the nearest that they allow. Elements must be finite and within what a half's scale
            /// reaches (about ±60 000); others are encoded as something.
            ///
            /// # Panics
            /// If `blocks` is not as many whole blocks as there are elements for.
            pub fn encode(self, elements: &[f32], blocks: &mut [u8]) {
                assert_eq!(
                    Some(blocks.len()), self.bytes(elements.len()),
                    "bytes of {} {self} elements", elements.len()
                );
                match self { $(
                    Encoding::$name => {
                        let (elements, _) = elements.as_chunks::<$len>();
                        let (blocks, _) = blocks.as_chunks_mut::<$bytes>();
                        for (elements, block) in elements.iter().zip(blocks) {
                            $encode(elements, block);
                        }
                    }
                )* }
            }

            /// The elements as [`Encoding::decode`] gives them once they went through
            /// [`Encoding::encode`].
            ///
            /// # Panics
            /// If the lengths differ, or are not whole blocks.
            pub fn round(self, elements: &[f32], out: &mut [f32]) {
                assert_eq!(elements.len(), out.len(), "elements to round");
                assert!(self.bytes(out.len()).is_some(), "{} {self} elements", out.len());
                match self { $(
                    Encoding::$name => {
                        let (elements, _) = elements.as_chunks::<$len>();
                        let (out, _) = out.as_chunks_mut::<$len>();
                        let mut block = [0; $bytes];
                        for (elements, out) in elements.iter().zip(out) {
                            $encode(elements, &mut block);
                            $decode(&block, out);
                        }
                    }
                )* }
            }
        }
    };
}

encodings! {
    /// 4.5 bits: 4-bit codes about 8, a scale for 32.
    Q4_0 "q4_0" 32 18 legacy::decode_q4_0, legacy::encode_q4_0;
    /// 5 bits: 4-bit codes, a scale and a minimum for 32.
    Q4_1 "q4_1" 32 20 legacy::decode_q4_1, legacy::encode_q4_1;
    /// 5.5 bits: 5-bit codes about 16, a scale for 32.
    Q5_0 "q5_0" 32 22 legacy::decode_q5_0, legacy::encode_q5_0;
    /// 6 bits: 5-bit codes, a scale and a minimum for 32.
    Q5_1 "q5_1" 32 24 legacy::decode_q5_1, legacy::encode_q5_1;
    /// 8.5 bits: signed bytes, a scale for 32.
    Q8_0 "q8_0" 32 34 legacy::decode_q8_0, legacy::encode_q8_0;
    /// 2.6 bits: 2-bit codes, a 4-bit scale and a 4-bit minimum for 16.
    Q2_K "q2_k" 256 84 k::decode_q2_k, k::encode_q2_k;
    /// 3.4 bits: 3-bit codes about 4, a 6-bit scale for 16.
    Q3_K "q3_k" 256 110 k::decode_q3_k, k::encode_q3_k;
    /// 4.5 bits: 4-bit codes, a 6-bit scale and a 6-bit minimum for 32.
    Q4_K "q4_k" 256 144 k::decode_q4_k, k::encode_q4_k;
    /// 5.5 bits: 5-bit codes, a 6-bit scale and a 6-bit minimum for 32.
    Q5_K "q5_k" 256 176 k::decode_q5_k, k::encode_q5_k;
    /// 6.6 bits: 6-bit codes about 32, an 8-bit scale for 16.
    Q6_K "q6_k" 256 210 k::decode_q6_k, k::encode_q6_k;
    /// 4.5 bits: 4-bit codes into a table, a scale for 32.
    IQ4_NL "iq4_nl" 32 18 iq::decode_iq4_nl, iq::encode_iq4_nl;
    /// 4.25 bits: 4-bit codes into a table, a 6-bit scale for 32.
    IQ4_XS "iq4_xs" 256 136 iq::decode_iq4_xs, iq::encode_iq4_xs;
    /// 3.4 bits: 9-bit codes of four magnitudes, signs, a 4-bit scale for 32.
    IQ3_S "iq3_s" 256 110 iq::decode_iq3_s, iq::encode_iq3_s;
    /// 1.7 bits: −1, 0 and 1, five to a byte.
    TQ1_0 "tq1_0" 256 54 ternary::decode_tq1_0, ternary::encode_tq1_0;
    /// 2.1 bits: −1, 0 and 1 in 2-bit codes.
    TQ2_0 "tq2_0" 256 66 ternary::decode_tq2_0, ternary::encode_tq2_0;
    /// 4.25 bits: 4-bit floats, a power of two for 32 (OCP microscaling).
    MXFP4 "mxfp4" 32 17 mx::decode_mxfp4, mx::encode_mxfp4;
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
    use crate::test_random::Random;

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

    fn gaussian(len: usize) -> Vec<f32> {
        let mut random = Random::new(5);
        let mut sum = || (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
        (0..len).map(|_| (sum() * 0.02) as f32).collect()
    }

    fn coded(encoding: Encoding, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let mut blocks = vec![0xa5; encoding.bytes(x.len()).unwrap()];
        encoding.encode(x, &mut blocks);
        let mut back = vec![f32::NAN; x.len()];
        encoding.decode(&blocks, &mut back);
        (blocks, back)
    }

    fn relative_error(x: &[f32], y: &[f32]) -> f64 {
        let square = |v: f32| f64::from(v) * f64::from(v);
        let error: f64 = x.iter().zip(y).map(|(a, b)| square(a - b)).sum();
        (error / x.iter().map(|v| square(*v)).sum::<f64>()).sqrt()
    }

    /// The error of normally distributed weights, relative to their spread, in thousandths: what
    /// was measured, rounded up.
    const ERRORS: [(Encoding, f64); 16] = [
        (Encoding::Q4_0, 80.0),
        (Encoding::Q4_1, 70.0),
        (Encoding::Q5_0, 40.0),
        (Encoding::Q5_1, 34.0),
        (Encoding::Q8_0, 5.5),
        (Encoding::Q2_K, 270.0),
        (Encoding::Q3_K, 145.0),
        (Encoding::Q4_K, 71.0),
        (Encoding::Q5_K, 36.0),
        (Encoding::Q6_K, 17.0),
        (Encoding::IQ4_NL, 75.0),
        (Encoding::IQ4_XS, 76.0),
        (Encoding::IQ3_S, 130.0),
        (Encoding::TQ1_0, 430.0),
        (Encoding::TQ2_0, 430.0),
        (Encoding::MXFP4, 113.0),
    ];

    #[test]
    fn rounding_is_encoding_and_decoding() {
        let x = gaussian(1024);
        for &encoding in Encoding::ALL {
            let mut rounded = vec![f32::NAN; x.len()];
            encoding.round(&x, &mut rounded);
            assert_eq!(rounded, coded(encoding, &x).1, "{encoding}");
        }
    }

    #[test]
    fn encoding_loses_little() {
        let x = gaussian(1 << 16);
        for (encoding, limit) in ERRORS {
            let (_, back) = coded(encoding, &x);
            let error = 1000.0 * relative_error(&x, &back);
            assert!(error < limit && error > 0.9 * limit, "{encoding}: {error}");
        }
        assert!(Encoding::ALL.iter().all(|e| ERRORS.iter().any(|row| row.0 == *e)));
    }

    #[test]
    fn what_was_decoded_encodes_well_again() {
        let x = gaussian(4096);
        for &encoding in Encoding::ALL {
            let (_, once) = coded(encoding, &x);
            let (_, twice) = coded(encoding, &once);
            let (lost, again) = (relative_error(&x, &once), relative_error(&once, &twice));
            assert!(again < 0.35 * lost, "{encoding}: {lost} and then {again}");
        }
    }

    #[test]
    fn ternary_weights_are_kept() {
        let mut random = Random::new(3);
        let x: Vec<f32> = (0..4096).map(|_| random.range(-1, 1) as f32 * 0.0371).collect();
        let exact = half::f16::from_f32(0.0371).to_f32();
        for encoding in [Encoding::TQ1_0, Encoding::TQ2_0] {
            let (_, back) = coded(encoding, &x);
            let kept = x.iter().zip(&back).all(|(x, y)| *y == x.signum() * x.abs().min(exact));
            assert!(kept || relative_error(&x, &back) < 1e-3, "{encoding}");
            assert!(x.iter().zip(&back).all(|(x, y)| (*x == 0.0) == (*y == 0.0)));
        }
    }

    #[test]
    fn odd_blocks_are_encoded() {
        let mut one = [0.0; 256];
        one[77] = -3.0;
        let rows = [[0.0; 256], [0.25; 256], [-7.0; 256], one, [1e-30; 256], [6e4; 256]];
        for &encoding in Encoding::ALL {
            for x in rows {
                let (_, back) = coded(encoding, &x);
                let peak = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                let worst = x.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(
                    worst <= 0.25 * peak + 1e-6,
                    "{encoding} {:?}: {:?}",
                    &x[70..80],
                    &back[70..80]
                );
            }
            for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
                let mut row = [0.5; 256];
                row[3] = x;
                coded(encoding, &row);
            }
        }
    }

    #[test]
    #[should_panic(expected = "bytes of 32 q8_0 elements")]
    fn a_wrong_size_is_refused() {
        Encoding::Q8_0.decode(&[0; 33], &mut [0.0; 32]);
    }
}
