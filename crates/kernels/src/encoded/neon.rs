//! NEON with 8-bit dot products: a vector of 16 rows is four registers.

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::{Lanes, Work};
use crate::isa::{NeonDot, NeonI8mm};

/// Vectors of NEON with `dotprod`.
#[derive(Clone, Copy)]
pub(super) struct Fours(());

impl From<NeonDot> for Fours {
    fn from(_: NeonDot) -> Fours {
        Fours(())
    }
}

impl From<NeonI8mm> for Fours {
    fn from(_: NeonI8mm) -> Fours {
        Fours(())
    }
}

#[inline(always)]
fn four<T>(f: impl FnMut(usize) -> T) -> [T; 4] {
    std::array::from_fn(f)
}

/// `acc` plus, in each lane, the dot product of its four bytes of `a` and of `b`.
#[inline(always)]
fn sdot(acc: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: plain arithmetic on registers; whoever has a `Fours` has the instruction.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// Four halves as singles.
#[inline(always)]
fn widen(halves: uint16x4_t) -> float32x4_t {
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

/// The four quads of 16 bytes of four rows.
///
/// # Safety
/// The rows have the bytes.
#[inline(always)]
unsafe fn four_rows(rows: &[*const u8; 4], offset: usize) -> [uint8x16_t; 4] {
    // SAFETY: every aarch64 CPU has these instructions; the caller proves the memory.
    unsafe {
        let a = vreinterpretq_u32_u8(vld1q_u8(rows[0].add(offset)));
        let b = vreinterpretq_u32_u8(vld1q_u8(rows[1].add(offset)));
        let c = vreinterpretq_u32_u8(vld1q_u8(rows[2].add(offset)));
        let d = vreinterpretq_u32_u8(vld1q_u8(rows[3].add(offset)));
        let ab = vreinterpretq_u64_u32(vtrn1q_u32(a, b));
        let cd = vreinterpretq_u64_u32(vtrn1q_u32(c, d));
        let ab2 = vreinterpretq_u64_u32(vtrn2q_u32(a, b));
        let cd2 = vreinterpretq_u64_u32(vtrn2q_u32(c, d));
        [
            vreinterpretq_u8_u64(vtrn1q_u64(ab, cd)),
            vreinterpretq_u8_u64(vtrn1q_u64(ab2, cd2)),
            vreinterpretq_u8_u64(vtrn2q_u64(ab, cd)),
            vreinterpretq_u8_u64(vtrn2q_u64(ab2, cd2)),
        ]
    }
}

/// Four lanes whose sum is the dot product of a block.
///
/// # Safety
/// As for [`Lanes::block_dots`].
#[inline(always)]
unsafe fn dots_of_block(block: *const u8, x: *const u8) -> int32x4_t {
    // SAFETY: the caller's promise; every aarch64 CPU has these instructions.
    unsafe {
        let dots = sdot(vdupq_n_s32(0), vld1q_u8(block.add(2)), vld1q_s8(x.cast()));
        sdot(dots, vld1q_u8(block.add(18)), vld1q_s8(x.add(16).cast()))
    }
}

impl Lanes for Fours {
    type B = [uint8x16_t; 4];
    type I = [int32x4_t; 4];
    type F = [float32x4_t; 4];
    type X = int8x16_t;
    const WIDE_ZERO: i32 = 0;
    const ROWS: usize = 2;
    const FLOAT_ROWS: usize = 2;

    #[inline(always)]
    fn outline<W: Work>(self, work: W) {
        #[inline(never)]
        #[target_feature(enable = "neon,dotprod")]
        fn enter<W: Work>(lanes: Fours, work: W) {
            work.run(lanes);
        }
        // SAFETY: `self` proves the features.
        unsafe { enter(self, work) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> [uint8x16_t; 4] {
        // SAFETY: the caller proves the memory.
        four(|i| unsafe { vld1q_u8(p.add(16 * i)) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u8, v: [uint8x16_t; 4]) {
        // SAFETY: the caller proves the memory.
        four(|i| unsafe { vst1q_u8(p.add(16 * i), v[i]) });
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint, whatever the address.
        unsafe {
            asm!("prfm pldl2strm, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn bytes(self, x: u8) -> [uint8x16_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        [unsafe { vdupq_n_u8(x) }; 4]
    }
    #[inline(always)]
    fn and(self, a: [uint8x16_t; 4], b: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vandq_u8(a[i], b[i]) })
    }
    #[inline(always)]
    fn xor(self, a: [uint8x16_t; 4], b: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { veorq_u8(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const u8; 16], offset: usize) -> [[uint8x16_t; 4]; 4] {
        let mut out = [[self.bytes(0)[0]; 4]; 4];
        for (g, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: the caller proves the memory.
            let quads = unsafe { four_rows(rows, offset) };
            for (out, quad) in out.iter_mut().zip(quads) {
                out[g] = quad;
            }
        }
        out
    }
    #[inline(always)]
    fn or(self, a: [uint8x16_t; 4], b: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vorrq_u8(a[i], b[i]) })
    }
    #[inline(always)]
    fn shift(self, a: [uint8x16_t; 4], by: i32) -> [uint8x16_t; 4] {
        // What words would carry from byte to byte is masked off by the callers.
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vshlq_u8(a[i], vdupq_n_s8(-by as i8)) })
    }
    #[inline(always)]
    fn lookup(self, table: [uint8x16_t; 4], codes: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vqtbl1q_u8(table[i], codes[i]) })
    }
    #[inline(always)]
    fn table(self, table: &[u8; 16]) -> [uint8x16_t; 4] {
        // SAFETY: the table has 16 bytes.
        [unsafe { vld1q_u8(table.as_ptr()) }; 4]
    }
    #[inline(always)]
    unsafe fn quad(self, p: *const u8) -> int8x16_t {
        // SAFETY: the caller proves the memory.
        unsafe { vreinterpretq_s8_s32(vdupq_n_s32(p.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    fn dot(self, acc: [int32x4_t; 4], codes: [uint8x16_t; 4], x: int8x16_t) -> [int32x4_t; 4] {
        four(|i| sdot(acc[i], codes[i], x))
    }
    #[inline(always)]
    fn dot_wide(self, acc: [int32x4_t; 4], codes: [uint8x16_t; 4], x: int8x16_t) -> [int32x4_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| sdot(acc[i], unsafe { veorq_u8(codes[i], vdupq_n_u8(128)) }, x))
    }
    #[inline(always)]
    unsafe fn block_dots<const FOURS: usize>(
        self,
        blocks: *const u8,
        x: *const u8,
    ) -> [int32x4_t; 4] {
        let mut dots = self.isplat(0);
        // SAFETY: the caller proves the memory.
        unsafe {
            for (i, dots) in dots.iter_mut().take(FOURS).enumerate() {
                let (p, x) = (blocks.add(136 * i), x.add(128 * i));
                let (a, b) = (dots_of_block(p, x), dots_of_block(p.add(34), x.add(32)));
                let c = dots_of_block(p.add(68), x.add(64));
                let d = dots_of_block(p.add(102), x.add(96));
                *dots = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
            }
        }
        dots
    }
    #[inline(always)]
    fn ints(self, a: [uint8x16_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vreinterpretq_s32_u8(a[i]) })
    }
    #[inline(always)]
    fn iadd(self, a: [int32x4_t; 4], b: [int32x4_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vaddq_s32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: [int32x4_t; 4]) {
        // SAFETY: the caller proves the memory.
        four(|i| unsafe { vst1q_s32(p.add(4 * i), v[i]) });
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> [int32x4_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        [unsafe { vdupq_n_s32(x) }; 4]
    }
    #[inline(always)]
    fn float(self, a: [int32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vcvtq_f32_s32(a[i]) })
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [float32x4_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        [unsafe { vdupq_n_f32(x) }; 4]
    }
    #[inline(always)]
    fn mul(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn fma(
        self,
        a: [float32x4_t; 4],
        b: [float32x4_t; 4],
        c: [float32x4_t; 4],
    ) -> [float32x4_t; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    fn sums(self, a: [[float32x4_t; 4]; 4]) -> [f32; 4] {
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe {
            let a = a[i];
            let a = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            vpadds_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a)))
        })
    }
    #[inline(always)]
    unsafe fn load_f(self, p: *const f32) -> [float32x4_t; 4] {
        // SAFETY: the caller proves the memory.
        four(|i| unsafe { vld1q_f32(p.add(4 * i)) })
    }
    #[inline(always)]
    unsafe fn store_f(self, p: *mut f32, v: [float32x4_t; 4]) {
        // SAFETY: the caller proves the memory.
        four(|i| unsafe { vst1q_f32(p.add(4 * i), v[i]) });
    }
    #[inline(always)]
    unsafe fn load_half(self, p: *const u8) -> [float32x4_t; 4] {
        // SAFETY: the caller proves the memory.
        four(|i| widen(unsafe { vreinterpret_u16_u8(vld1_u8(p.add(8 * i))) }))
    }
    #[inline(always)]
    unsafe fn load_upper(self, p: *const u8) -> [float32x4_t; 4] {
        // SAFETY: the caller proves the memory.
        four(|i| unsafe {
            let bits = vreinterpret_u16_u8(vld1_u8(p.add(8 * i)));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))
        })
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> [float32x4_t; 4] {
        // SAFETY: the caller proves the memory.
        let bytes = unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(f32::from);
        // SAFETY: the array has 16 elements.
        unsafe { self.load_f(bytes.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> [float32x4_t; 4] {
        // SAFETY: the caller proves the memory.
        let bytes = unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(f32::from);
        // SAFETY: the array has 16 elements.
        unsafe { self.load_f(bytes.as_ptr()) }
    }
}
