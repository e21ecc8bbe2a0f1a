//! AVX2 with FMA (8 lanes) and AVX-512 (16 lanes), the latter with or without BF16.

use std::arch::x86_64::*;

use super::{Kernel, Simd, add_halves, rounded_upper};
use crate::isa::{Avx2, Bf16, Isa};

/// Runs `kernel` on 8 lanes.
pub(super) fn enter_avx2<K: Kernel>(_: Avx2, kernel: K) -> K::Output {
    Avx2F32(()).outline(kernel)
}

/// Runs `kernel` on 16 lanes; `isa` is one of the AVX-512 variants.
pub(super) fn enter_avx512<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(matches!(isa, Isa::Avx512(_) | Isa::Avx512Vnni(_)));
    Avx512F32::<false>(()).outline(kernel)
}

/// Runs `kernel` on 16 lanes, with BF16 instructions.
pub(super) fn enter_avx512_bf16<K: Kernel>(_: Bf16, kernel: K) -> K::Output {
    Avx512F32::<true>(()).outline(kernel)
}

mod avx2_mask {
    use std::arch::x86_64::*;

    static HEADS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    /// A mask of the first `n` lanes.
    #[inline(always)]
    pub(super) unsafe fn head(n: usize) -> __m256i {
        debug_assert!(n <= 8);
        // SAFETY: `n` ≤ 8, so eight elements follow; the caller has AVX2.
        unsafe { _mm256_loadu_si256(HEADS.as_ptr().add(8 - n).cast()) }
    }
}

/// A mask of the first `n` ≤ 16 lanes.
#[inline(always)]
fn avx512_head(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// Vectors of 8 lanes.
#[derive(Clone, Copy)]
pub(super) struct Avx2F32(());

impl Simd for Avx2F32 {
    type V = __m256;
    type I = __m256i;
    type M = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enter<K: Kernel>(simd: Avx2F32, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` proves the features.
        unsafe { enter(self, kernel) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory of the lanes not masked.
        unsafe { _mm256_maskload_ps(p, avx2_mask::head(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: `self` proves the instructions, the caller the memory of the lanes not masked.
        unsafe { _mm256_maskstore_ps(p, avx2_mask::head(n), v) }
    }
    #[inline(always)]
    unsafe fn load_half(self, p: *const u8) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u8, v: __m256) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_upper(self, p: *const u8) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        let bits = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())) };
        self.of_bits(self.ishl::<16>(bits))
    }
    #[inline(always)]
    unsafe fn store_upper(self, p: *mut u8, v: __m256) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let words = _mm256_srli_epi32::<16>(rounded_upper(self, v));
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), _mm_packus_epi32(low, high));
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: __m256i) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let low = _mm256_and_si256(v, _mm256_set1_epi32(0xff));
            let words =
                _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storel_epi64(p.cast(), _mm_packus_epi16(words, words));
        }
    }
    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn floor(self, a: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn ceil(self, a: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn lt(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn eq(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, m: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_blendv_ps(b, a, m) }
    }
    #[inline(always)]
    fn bits(self, a: __m256) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_castps_si256(a) }
    }
    #[inline(always)]
    fn of_bits(self, a: __m256i) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_castsi256_ps(a) }
    }
    #[inline(always)]
    fn to_int(self, a: __m256) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn to_float(self, a: __m256i) -> __m256 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    fn iadd(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    fn imul(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_mullo_epi32(a, b) }
    }
    #[inline(always)]
    fn isub(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn iand(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    fn ior(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    fn ishl<const N: i32>(self, a: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn ishr<const N: i32>(self, a: __m256i) -> __m256i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_srai_epi32::<N>(a) }
    }
}

/// Vectors of 16 lanes; `BF16`: the CPU has AVX512-BF16.
#[derive(Clone, Copy)]
pub(super) struct Avx512F32<const BF16: bool>(());

impl<const BF16: bool> Simd for Avx512F32<BF16> {
    type V = __m512;
    type I = __m512i;
    type M = __mmask16;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn enter<K: Kernel>(simd: Avx512F32<false>, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[inline(never)]
        #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn enter_bf16<K: Kernel>(simd: Avx512F32<true>, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` proves the features.
        unsafe {
            match BF16 {
                true => enter_bf16(Avx512F32(()), kernel),
                false => enter(Avx512F32(()), kernel),
            }
        }
    }
    #[inline(always)]
    fn add_pairs(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        if BF16 {
            // SAFETY: `self` proves the instructions; bits are bits.
            unsafe {
                let [a, b] = [a, b].map(|x| std::mem::transmute::<__m512, __m512bh>(x));
                return _mm512_dpbf16_ps(sum, a, b);
            }
        }
        add_halves(self, a, b, sum)
    }
    #[inline(always)]
    unsafe fn load_upper(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        let bits = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) };
        self.of_bits(self.ishl::<16>(bits))
    }
    #[inline(always)]
    unsafe fn store_upper(self, p: *mut u8, v: __m512) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let halves = _mm512_cvtepi32_epi16(self.ishr::<16>(rounded_upper(self, v)));
            _mm256_storeu_si256(p.cast(), halves);
        }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory of the lanes not masked.
        unsafe { _mm512_maskz_loadu_ps(avx512_head(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: `self` proves the instructions, the caller the memory of the lanes not masked.
        unsafe { _mm512_mask_storeu_ps(p, avx512_head(n), v) }
    }
    #[inline(always)]
    unsafe fn load_half(self, p: *const u8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u8, v: __m512) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: __m512i) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(i * from_stride));
            }
            // Squares of four, then squares of squares.
            let mut fours = [_mm512_setzero_ps(); 16];
            for i in (0..16).step_by(4) {
                let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                fours[i] = _mm512_shuffle_ps::<0x44>(ab, cd);
                fours[i + 1] = _mm512_shuffle_ps::<0xee>(ab, cd);
                let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                fours[i + 2] = _mm512_shuffle_ps::<0x44>(ab, cd);
                fours[i + 3] = _mm512_shuffle_ps::<0xee>(ab, cd);
            }
            for j in 0..4 {
                let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
                let (ab, cd) =
                    (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                _mm512_storeu_ps(to.add(j * to_stride), _mm512_shuffle_f32x4::<0x88>(ab, cd));
                _mm512_storeu_ps(to.add((8 + j) * to_stride), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
                let (ab, cd) =
                    (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                _mm512_storeu_ps(to.add((4 + j) * to_stride), _mm512_shuffle_f32x4::<0x88>(ab, cd));
                _mm512_storeu_ps(
                    to.add((12 + j) * to_stride),
                    _mm512_shuffle_f32x4::<0xdd>(ab, cd),
                );
            }
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn floor(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn ceil(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn eq(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    fn bits(self, a: __m512) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    fn of_bits(self, a: __m512i) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    fn to_int(self, a: __m512) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn iadd(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn imul(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_mullo_epi32(a, b) }
    }
    #[inline(always)]
    fn isub(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn iand(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn ior(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn ishl<const N: i32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(N)) }
    }
    #[inline(always)]
    fn ishr<const N: i32>(self, a: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_srav_epi32(a, _mm512_set1_epi32(N)) }
    }
}
