//! Advanced SIMD, four lanes. Every aarch64 CPU has it, so the value proves nothing more.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Kernel, Simd};

/// Four halves as singles.
#[inline(always)]
pub(crate) fn widen(halves: uint16x4_t) -> float32x4_t {
    let out: float32x4_t;
    // SAFETY: plain arithmetic on registers that every aarch64 CPU has.
    unsafe {
        asm!(
            "fcvtl {out:v}.4s, {halves:v}.4h",
            out = lateout(vreg) out,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    out
}

/// Four singles as halves, rounded to nearest.
#[inline(always)]
fn narrow(singles: float32x4_t) -> uint16x4_t {
    let out: uint16x4_t;
    // SAFETY: plain arithmetic on registers that every aarch64 CPU has.
    unsafe {
        asm!(
            "fcvtn {out:v}.4h, {singles:v}.4s",
            out = lateout(vreg) out,
            singles = in(vreg) singles,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    out
}

#[derive(Clone, Copy)]
pub(super) struct NeonF32;

impl Simd for NeonF32 {
    type V = float32x4_t;
    type I = int32x4_t;
    type M = uint32x4_t;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn enter<K: Kernel>(simd: NeonF32, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        enter(self, kernel)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: the caller proves the memory.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> float32x4_t {
        let mut x = [0.0; 4];
        // SAFETY: the caller lets us read `n` ≤ 4 elements.
        unsafe {
            std::ptr::copy_nonoverlapping(p, x.as_mut_ptr(), n);
            vld1q_f32(x.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: the caller proves the memory.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: float32x4_t, n: usize) {
        let mut x = [0.0; 4];
        // SAFETY: the caller lets us write `n` ≤ 4 elements.
        unsafe {
            vst1q_f32(x.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(x.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn load_half(self, p: *const u8) -> float32x4_t {
        // SAFETY: the caller proves the memory.
        widen(unsafe { vreinterpret_u16_u8(vld1_u8(p)) })
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u8, v: float32x4_t) {
        // SAFETY: the caller proves the memory.
        unsafe { vst1_u8(p, vreinterpret_u8_u16(narrow(v))) };
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        // SAFETY: the caller proves the memory.
        unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| vld1q_f32(from.add(i * from_stride)));
            let pairs = [vtrn1q_f32(a, b), vtrn2q_f32(a, b), vtrn1q_f32(c, d), vtrn2q_f32(c, d)];
            let [ab, ab2, cd, cd2] = pairs.map(|v| vreinterpretq_f64_f32(v));
            let lines = [
                vtrn1q_f64(ab, cd),
                vtrn1q_f64(ab2, cd2),
                vtrn2q_f64(ab, cd),
                vtrn2q_f64(ab2, cd2),
            ];
            for (i, line) in lines.into_iter().enumerate() {
                vst1q_f32(to.add(i * to_stride), vreinterpretq_f32_f64(line));
            }
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: int32x4_t) {
        // SAFETY: every aarch64 CPU has these instructions; the caller proves the memory.
        unsafe {
            let words = vmovn_s32(v);
            let bytes = vmovn_s16(vcombine_s16(words, words));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_s8(bytes)));
        }
    }
    #[inline(always)]
    fn largest(self, a: float32x4_t) -> f32 {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vmaxvq_f32(a) }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn fnma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vfmsq_f32(c, a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vsqrtq_f32(a) }
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn floor(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vrndmq_f32(a) }
    }
    #[inline(always)]
    fn ceil(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vrndpq_f32(a) }
    }
    #[inline(always)]
    fn lt(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vcltq_f32(a, b) }
    }
    #[inline(always)]
    fn eq(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vceqq_f32(a, b) }
    }
    #[inline(always)]
    fn select(self, m: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vbslq_f32(m, a, b) }
    }
    #[inline(always)]
    fn bits(self, a: float32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vreinterpretq_s32_f32(a) }
    }
    #[inline(always)]
    fn of_bits(self, a: int32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vreinterpretq_f32_s32(a) }
    }
    #[inline(always)]
    fn to_int(self, a: float32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vcvtnq_s32_f32(a) }
    }
    #[inline(always)]
    fn to_float(self, a: int32x4_t) -> float32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vcvtq_f32_s32(a) }
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vdupq_n_s32(x) }
    }
    #[inline(always)]
    fn iadd(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vaddq_s32(a, b) }
    }
    #[inline(always)]
    fn imul(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vmulq_s32(a, b) }
    }
    #[inline(always)]
    fn isub(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vsubq_s32(a, b) }
    }
    #[inline(always)]
    fn iand(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vandq_s32(a, b) }
    }
    #[inline(always)]
    fn ior(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vorrq_s32(a, b) }
    }
    #[inline(always)]
    fn ishl<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vshlq_s32(a, vdupq_n_s32(N)) }
    }
    #[inline(always)]
    fn ishr<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        // SAFETY: every aarch64 CPU has these instructions.
        unsafe { vshlq_s32(a, vdupq_n_s32(-N)) }
    }
}
