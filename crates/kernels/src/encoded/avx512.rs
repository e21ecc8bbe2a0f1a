//! AVX-512 with VNNI: a vector of 16 rows is one register.

use std::arch::x86_64::*;

use super::lanes::{Lanes, Work};
use crate::isa::Avx512Vnni;

// Functions below are not closures, which are not always inlined and then lack the instructions.

/// 16 bytes of four rows, one after the other.
///
/// # Safety
/// The CPU has the instructions, and the rows the bytes.
#[inline(always)]
unsafe fn four_rows(rows: [*const u8; 4], offset: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm512_castsi128_si512(_mm_loadu_si128(rows[0].add(offset).cast()));
        let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(rows[1].add(offset).cast()));
        let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(rows[2].add(offset).cast()));
        _mm512_inserti32x4::<3>(v, _mm_loadu_si128(rows[3].add(offset).cast()))
    }
}

/// For each 128 bits, the sums of the four lanes of a, b, c and d.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn sums_of_fours([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}

/// For each of four blocks, four lanes whose sum is its dot product.
///
/// # Safety
/// As for [`Lanes::block_dots`].
#[inline(always)]
unsafe fn dots_of_four(p: *const u8, x: *const u8) -> __m512i {
    // SAFETY: the caller's promise; four blocks are 136 bytes.
    unsafe {
        let (zero, wide) = (_mm512_setzero_si512(), _mm512_set1_epi8(-128));
        let (ab, cd) = (two_blocks(p), two_blocks(p.add(68)));
        let ab = _mm512_xor_si512(ab, wide);
        let ab = _mm512_dpbusd_epi32(zero, ab, _mm512_loadu_si512(x.cast()));
        let cd = _mm512_xor_si512(cd, wide);
        let cd = _mm512_dpbusd_epi32(zero, cd, _mm512_loadu_si512(x.add(64).cast()));
        let even = _mm512_shuffle_i64x2::<0b10_00_10_00>(ab, cd);
        _mm512_add_epi32(even, _mm512_shuffle_i64x2::<0b11_01_11_01>(ab, cd))
    }
}

/// The codes of two blocks.
///
/// # Safety
/// The CPU has the instructions, and `p` the blocks.
#[inline(always)]
unsafe fn two_blocks(p: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_loadu_si256(p.add(2).cast());
        let high = _mm256_loadu_si256(p.add(36).cast());
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    }
}

impl Lanes for Avx512Vnni {
    type B = __m512i;
    type I = __m512i;
    type F = __m512;
    type X = __m512i;
    const WIDE_ZERO: i32 = 128;
    // Sums of two panels, integers and floats, are 24 registers.
    const ROWS: usize = 6;
    const FLOAT_ROWS: usize = 4;

    #[inline(always)]
    fn outline<W: Work>(self, work: W) {
        #[inline(never)]
        #[target_feature(
            enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c"
        )]
        fn enter<W: Work>(lanes: Avx512Vnni, work: W) {
            work.run(lanes);
        }
        // SAFETY: `self` proves the features.
        unsafe { enter(self, work) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> __m512i {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u8, v: __m512i) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn bytes(self, x: u8) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_epi8(x as i8) }
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const u8; 16], offset: usize) -> [__m512i; 4] {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let a = four_rows([rows[0], rows[4], rows[8], rows[12]], offset);
            let b = four_rows([rows[1], rows[5], rows[9], rows[13]], offset);
            let c = four_rows([rows[2], rows[6], rows[10], rows[14]], offset);
            let d = four_rows([rows[3], rows[7], rows[11], rows[15]], offset);
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab2, cd2),
                _mm512_unpackhi_epi64(ab2, cd2),
            ]
        }
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn shift(self, a: __m512i, by: i32) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe {
            match by {
                0 => a,
                1.. => _mm512_srl_epi16(a, _mm_cvtsi32_si128(by)),
                _ => _mm512_sll_epi16(a, _mm_cvtsi32_si128(-by)),
            }
        }
    }
    #[inline(always)]
    fn lookup(self, table: __m512i, codes: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_shuffle_epi8(table, codes) }
    }
    #[inline(always)]
    fn table(self, table: &[u8; 16]) -> __m512i {
        // SAFETY: `self` proves the instructions, and the table has 16 bytes.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn quad(self, p: *const u8) -> __m512i {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_dpbusd_epi32(acc, codes, x) }
    }
    #[inline(always)]
    fn dot_wide(self, acc: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        self.dot(acc, codes, x)
    }
    #[inline(always)]
    unsafe fn block_dots<const FOURS: usize>(self, blocks: *const u8, x: *const u8) -> __m512i {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let mut dots = [_mm512_setzero_si512(); 4];
            for (i, dots) in dots.iter_mut().take(FOURS).enumerate() {
                *dots = dots_of_four(blocks.add(136 * i), x.add(128 * i));
            }
            // Block b of each four is in 128 bits of its own.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, sums_of_fours(dots))
        }
    }
    #[inline(always)]
    fn ints(self, a: __m512i) -> __m512i {
        a
    }
    #[inline(always)]
    fn iadd(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: __m512i) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn float(self, a: __m512i) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sums(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        // Lanes of 128 bits: two of each of two vectors, then one of each of four.
        // SAFETY: `self` proves the instructions, and the array has room for four.
        unsafe {
            let halves = |a, b| {
                let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
                _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
            };
            let (ab, cd) = (halves(a, b), halves(c, d));
            let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
            let all = _mm512_add_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
            let all = _mm512_add_ps(all, _mm512_permute_ps::<0b11_10_11_10>(all));
            let all = _mm512_add_ps(all, _mm512_permute_ps::<0b01_01_01_01>(all));
            let firsts = _mm512_maskz_compress_ps(0x1111, all);
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(firsts));
            sums
        }
    }
    #[inline(always)]
    unsafe fn load_f(self, p: *const f32) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_f(self, p: *mut f32, v: __m512) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_half(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_upper(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
}
