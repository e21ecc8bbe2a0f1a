//! AVX2: a vector of 16 rows is two registers. Products of bytes are summed in pairs of 16 bits,
//! which codes below 128 do not overflow; wider ones are multiplied as sign and magnitude.

use std::arch::x86_64::*;

use super::lanes::{Lanes, Work};
use crate::isa::{Avx2, Avx512};

/// Vectors of AVX2.
#[derive(Clone, Copy)]
pub(super) struct Pairs(());

impl From<Avx2> for Pairs {
    fn from(_: Avx2) -> Pairs {
        Pairs(())
    }
}

impl From<Avx512> for Pairs {
    fn from(_: Avx512) -> Pairs {
        Pairs(())
    }
}

#[inline(always)]
fn pair<T>(mut f: impl FnMut(usize) -> T) -> [T; 2] {
    [f(0), f(1)]
}

// Functions below are not closures, which are not always inlined and then lack the instructions.

/// 16 bytes of two rows, one after the other.
///
/// # Safety
/// The CPU has the instructions, and the rows the bytes.
#[inline(always)]
unsafe fn two_rows(low: *const u8, high: *const u8, offset: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(low.add(offset).cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(high.add(offset).cast()))
    }
}

/// Of 16 bytes of eight rows, dword d of all in register d.
///
/// # Safety
/// As for [`two_rows`].
#[inline(always)]
unsafe fn eight_rows(rows: &[*const u8], offset: usize) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let a = two_rows(rows[0], rows[4], offset);
        let b = two_rows(rows[1], rows[5], offset);
        let c = two_rows(rows[2], rows[6], offset);
        let d = two_rows(rows[3], rows[7], offset);
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab2, cd2) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab2, cd2),
            _mm256_unpackhi_epi64(ab2, cd2),
        ]
    }
}

/// Eight lanes whose sum is the dot product of a block.
///
/// # Safety
/// As for [`Lanes::block_dots`].
#[inline(always)]
unsafe fn dots_of_block(block: *const u8, x: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let codes = _mm256_loadu_si256(block.add(2).cast());
        let signed = _mm256_sign_epi8(_mm256_loadu_si256(x.cast()), codes);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), signed);
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
    }
}

/// For each half, the sums of its lanes of four blocks.
///
/// # Safety
/// As for [`Lanes::block_dots`].
#[inline(always)]
unsafe fn dots_of_four(p: *const u8, x: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (dots_of_block(p, x), dots_of_block(p.add(34), x.add(32)));
        let (c, d) = (dots_of_block(p.add(68), x.add(64)), dots_of_block(p.add(102), x.add(96)));
        _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d))
    }
}

impl Lanes for Pairs {
    type B = [__m256i; 2];
    type I = [__m256i; 2];
    type F = [__m256; 2];
    type X = __m256i;
    const WIDE_ZERO: i32 = 0;
    const ROWS: usize = 3;
    const FLOAT_ROWS: usize = 3;

    #[inline(always)]
    fn outline<W: Work>(self, work: W) {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enter<W: Work>(lanes: Pairs, work: W) {
            work.run(lanes);
        }
        // SAFETY: `self` proves the features.
        unsafe { enter(self, work) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe { _mm256_loadu_si256(p.add(32 * i).cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u8, v: [__m256i; 2]) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe { _mm256_storeu_si256(p.add(32 * i).cast(), v[i]) });
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn bytes(self, x: u8) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        [unsafe { _mm256_set1_epi8(x as i8) }; 2]
    }
    #[inline(always)]
    fn and(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe { _mm256_and_si256(a[i], b[i]) })
    }
    #[inline(always)]
    fn xor(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe { _mm256_xor_si256(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const u8; 16], offset: usize) -> [[__m256i; 2]; 4] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let (a, b) = (eight_rows(&rows[..8], offset), eight_rows(&rows[8..], offset));
            [[a[0], b[0]], [a[1], b[1]], [a[2], b[2]], [a[3], b[3]]]
        }
    }
    #[inline(always)]
    fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe { _mm256_or_si256(a[i], b[i]) })
    }
    #[inline(always)]
    fn shift(self, a: [__m256i; 2], by: i32) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe {
            match by {
                0 => a[i],
                1.. => _mm256_srl_epi16(a[i], _mm_cvtsi32_si128(by)),
                _ => _mm256_sll_epi16(a[i], _mm_cvtsi32_si128(-by)),
            }
        })
    }
    #[inline(always)]
    fn lookup(self, table: [__m256i; 2], codes: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe { _mm256_shuffle_epi8(table[i], codes[i]) })
    }
    #[inline(always)]
    fn table(self, table: &[u8; 16]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions, and the table has 16 bytes.
        [unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) }; 2]
    }
    #[inline(always)]
    unsafe fn quad(self, p: *const u8) -> __m256i {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn dot(self, acc: [__m256i; 2], codes: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe {
            let pairs = _mm256_maddubs_epi16(codes[i], x);
            _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }
    #[inline(always)]
    fn dot_wide(self, acc: [__m256i; 2], codes: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe {
            let signed = _mm256_xor_si256(codes[i], _mm256_set1_epi8(-128));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed));
            _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }
    #[inline(always)]
    unsafe fn block_dots<const FOURS: usize>(
        self,
        blocks: *const u8,
        x: *const u8,
    ) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let mut dots = [_mm256_setzero_si256(); 4];
            for (i, dots) in dots.iter_mut().take(FOURS).enumerate() {
                *dots = dots_of_four(blocks.add(136 * i), x.add(128 * i));
            }
            pair(|i| {
                let (a, b) = (dots[2 * i], dots[2 * i + 1]);
                let low = _mm256_permute2x128_si256::<0x20>(a, b);
                _mm256_add_epi32(low, _mm256_permute2x128_si256::<0x31>(a, b))
            })
        }
    }
    #[inline(always)]
    fn ints(self, a: [__m256i; 2]) -> [__m256i; 2] {
        a
    }
    #[inline(always)]
    fn iadd(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe { _mm256_add_epi32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: [__m256i; 2]) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe { _mm256_storeu_si256(p.add(8 * i).cast(), v[i]) });
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        [unsafe { _mm256_set1_epi32(x) }; 2]
    }
    #[inline(always)]
    fn float(self, a: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe { _mm256_cvtepi32_ps(a[i]) })
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }
    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe { _mm256_mul_ps(a[i], b[i]) })
    }
    #[inline(always)]
    fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions.
        pair(|i| unsafe { _mm256_fmadd_ps(a[i], b[i], c[i]) })
    }
    #[inline(always)]
    fn sums(self, [a, b, c, d]: [[__m256; 2]; 4]) -> [f32; 4] {
        // SAFETY: `self` proves the instructions, and the array has room for four.
        unsafe {
            let four = |a: [__m256; 2]| {
                let a = _mm256_add_ps(a[0], a[1]);
                _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a))
            };
            let two = |a, b| _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
            let (ab, cd) = (two(four(a), four(b)), two(four(c), four(d)));
            let even = _mm_shuffle_ps::<0b10_00_10_00>(ab, cd);
            let all = _mm_add_ps(even, _mm_shuffle_ps::<0b11_01_11_01>(ab, cd));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), all);
            sums
        }
    }
    #[inline(always)]
    unsafe fn load_f(self, p: *const f32) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe { _mm256_loadu_ps(p.add(8 * i)) })
    }
    #[inline(always)]
    unsafe fn store_f(self, p: *mut f32, v: [__m256; 2]) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe { _mm256_storeu_ps(p.add(8 * i), v[i]) });
    }
    #[inline(always)]
    unsafe fn load_half(self, p: *const u8) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.add(16 * i).cast())) })
    }
    #[inline(always)]
    unsafe fn load_upper(self, p: *const u8) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16 * i).cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        })
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8 * i).cast())))
        })
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        pair(|i| unsafe {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8 * i).cast())))
        })
    }
}
