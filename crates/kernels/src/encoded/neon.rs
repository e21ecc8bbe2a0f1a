//! NEON: a vector of 16 rows is four registers.
//!
//! What multiplies codes differs: widening products, dot products of four (`dotprod`), or of eight by
//! two rows each (`i8mm`). Sums are made for 8 rows of weights at a time, so that those of four rows
//! of `x` by 16 of weights stay in registers beside them.

use std::arch::aarch64::*;
use std::arch::asm;

use super::form::PANEL;
use super::lanes::{Lanes, Work};
use super::micro::{Cursor, SIDE};
use super::neon_tile;
use crate::isa::{Neon, NeonDot, NeonI8mm};
use crate::simd::neon::widen;

/// Vectors of NEON, with the products of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct Fours<P>(pub P);

/// The sums of `R` rows by 8 rows of weights.
type Strip<const R: usize> = [[int32x4_t; 2]; R];

/// How codes are multiplied. Codes are signed and `starts` zero where `WIDE`; otherwise codes are below
/// 64, and below 32 where `WHOLE`.
pub(super) trait Products: Copy {
    /// Rows of `x` of a group.
    const ROWS: usize;
    /// Codes of a row of `x` that lie together.
    const RUN: usize;
    /// Whether a tile's sums of two rows of `x` lie in 2 × 2, as their codes are stored.
    const PAIRED: bool;

    /// The sums of a sub-block of 4 quads, or 8 where `WHOLE`, for the rows of weights from 8 ·
    /// `strip` on.
    ///
    /// # Safety
    /// `x` has the codes and `starts` the starts of `R` rows.
    unsafe fn strip<const WHOLE: bool, const WIDE: bool, const R: usize>(
        self,
        codes: impl Fn(usize) -> [uint8x16_t; 4],
        strip: usize,
        x: *const u8,
        starts: *const i32,
    ) -> Strip<R>;

    /// The same for codes that [`Lanes::store_quads`] stored.
    ///
    /// # Safety
    /// They can be read.
    #[inline(always)]
    unsafe fn tile_strip<const WHOLE: bool, const WIDE: bool, const R: usize>(
        self,
        codes: *const u8,
        strip: usize,
        x: *const u8,
        starts: *const i32,
    ) -> Strip<R> {
        // SAFETY: the caller's promise; every aarch64 CPU has these instructions.
        unsafe {
            let quads = |j: usize| four(|i| vld1q_u8(codes.add(j * SIDE * 64 + 16 * i)));
            self.strip::<WHOLE, WIDE, R>(quads, strip, x, starts)
        }
    }

    /// The same for four rows, scaled and added to their sums; `at` is the strip's number.
    ///
    /// # Safety
    /// The pointers are good, `codes` for the strip where codes are stored in quads.
    #[inline(always)]
    unsafe fn four_rows<const WHOLE: bool>(
        self,
        _: neon_tile::Strip,
        _: usize,
        _: neon_tile::Sums,
    ) -> neon_tile::Sums {
        unreachable!("groups have {} rows", Self::ROWS)
    }
}

/// The same for each number: a loop might be left a loop, with an index where a constant belongs.
macro_rules! unrolled {
    ($i:ident in [$($n:literal)*] $body:block) => { $({ let $i: usize = $n; $body })* };
}

#[inline(always)]
fn four<T>(f: impl FnMut(usize) -> T) -> [T; 4] {
    std::array::from_fn(f)
}

#[inline(always)]
fn signed(codes: uint8x16_t) -> int8x16_t {
    // SAFETY: every aarch64 CPU has these instructions.
    unsafe { vreinterpretq_s8_u8(codes) }
}

/// `R` starts, each for 8 rows.
///
/// # Safety
/// As for [`values`].
#[inline(always)]
unsafe fn start<const R: usize>(starts: *const i32) -> Strip<R> {
    // SAFETY: the caller's promise; every aarch64 CPU has these instructions.
    unsafe {
        let starts = vreinterpretq_s32_f32(values::<R>(starts.cast()));
        let mut sums = [[starts; 2]; R];
        unrolled!(r in [0 1 2 3] {
            if r < R {
                sums[r] = [match r {
                    0 => vdupq_laneq_s32::<0>(starts),
                    1 => vdupq_laneq_s32::<1>(starts),
                    2 => vdupq_laneq_s32::<2>(starts),
                    _ => vdupq_laneq_s32::<3>(starts),
                }; 2];
            }
        });
        sums
    }
}

/// The products of the upper halves. (An intrinsic's are of lower halves after a move where the
/// compiler sees that those of `x` are the same.)
#[inline(always)]
fn smull2(a: int8x16_t, x: int8x16_t) -> int16x8_t {
    let out: int16x8_t;
    // SAFETY: plain arithmetic on registers that every aarch64 CPU has.
    unsafe {
        asm!(
            "smull2 {out:v}.8h, {a:v}.16b, {x:v}.16b",
            out = lateout(vreg) out,
            a = in(vreg) a,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    out
}

/// `acc` plus the products of the upper halves.
#[inline(always)]
fn smlal2(acc: int16x8_t, a: int8x16_t, x: int8x16_t) -> int16x8_t {
    let mut acc = acc;
    // SAFETY: plain arithmetic on registers that every aarch64 CPU has.
    unsafe {
        asm!(
            "smlal2 {acc:v}.8h, {a:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

impl Products for Neon {
    const ROWS: usize = 2;
    const RUN: usize = 4;
    const PAIRED: bool = false;

    /// Sums of 16 bits hold a sub-block, and of codes of 8 bits two products.
    #[inline(always)]
    unsafe fn strip<const WHOLE: bool, const WIDE: bool, const R: usize>(
        self,
        codes: impl Fn(usize) -> [uint8x16_t; 4],
        strip: usize,
        x: *const u8,
        starts: *const i32,
    ) -> Strip<R> {
        // SAFETY: the caller's promise; every aarch64 CPU has these instructions.
        unsafe {
            let zero = vdupq_n_s16(0);
            let mut short = [[[zero; 2]; 2]; R];
            let mut long = [[[vdupq_n_s32(0); 2]; 2]; R];
            unrolled!(j in [0 1 2 3 4 5 6 7] {
                if WHOLE || j < 4 {
                    let codes = codes(j);
                    for r in 0..R {
                        let x = x.add(4 * (j * R + r)).cast::<i32>();
                        let x = vreinterpretq_s8_s32(vdupq_n_s32(x.read_unaligned()));
                        for i in 0..2 {
                            let codes = signed(codes[2 * strip + i]);
                            let [low, high] = &mut short[r][i];
                            if j == 0 || WIDE && j % 2 == 0 {
                                *low = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
                                *high = smull2(codes, x);
                            } else {
                                *low = vmlal_s8(*low, vget_low_s8(codes), vget_low_s8(x));
                                *high = smlal2(*high, codes, x);
                            }
                            if WIDE && j % 2 == 1 {
                                let sums = &mut long[r][i];
                                sums[0] = vpadalq_s16(sums[0], *low);
                                sums[1] = vpadalq_s16(sums[1], *high);
                            }
                        }
                    }
                }
            });
            std::array::from_fn(|r| {
                std::array::from_fn(|i| {
                    if WIDE {
                        return vpaddq_s32(long[r][i][0], long[r][i][1]);
                    }
                    let [low, high] = short[r][i].map(|sums| vpaddlq_s16(sums));
                    vaddq_s32(vpaddq_s32(low, high), vdupq_n_s32(*starts.add(r)))
                })
            })
        }
    }
}

/// `acc` plus, in each lane, the dot product of its four bytes of `a` and of lane `LANE` of `b`.
#[inline(always)]
fn sdot<const LANE: i32>(acc: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: plain arithmetic on registers; only who has the instruction multiplies by it.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// The dot products with a lane that the compiler knows.
#[inline(always)]
fn sdot_lane(acc: int32x4_t, a: uint8x16_t, b: int8x16_t, lane: usize) -> int32x4_t {
    match lane {
        0 => sdot::<0>(acc, a, b),
        1 => sdot::<1>(acc, a, b),
        2 => sdot::<2>(acc, a, b),
        _ => sdot::<3>(acc, a, b),
    }
}

/// [`Products::strip`] by dot products of four; `RUN` codes of a row of `x` lie together.
#[inline(always)]
unsafe fn dots<const WHOLE: bool, const WIDE: bool, const RUN: usize, const R: usize>(
    codes: impl Fn(usize) -> [uint8x16_t; 4],
    strip: usize,
    x: *const u8,
    starts: *const i32,
) -> Strip<R> {
    // SAFETY: the caller's promise. Where a row's quads are read with what follows them, these are at
    // least the scales.
    unsafe {
        let mut sums = if WIDE { [[vdupq_n_s32(0); 2]; R] } else { start::<R>(starts) };
        unrolled!(j in [0 1 2 3 4 5 6 7] {
            if WHOLE || j < 4 {
                let codes = codes(j);
                let first = if R == 1 { j / 4 * 4 } else if R == 2 { j / 2 * 2 } else { j };
                let x = vld1q_s8(x.add(4 * R * first).cast());
                unrolled!(r in [0 1 2 3] {
                    if r < R {
                        let lane = match R {
                            1 => j % 4,
                            2 if RUN == 8 => 2 * r + j % 2,
                            2 => 2 * (j % 2) + r,
                            _ => r,
                        };
                        let [low, high] = &mut sums[r];
                        *low = sdot_lane(*low, codes[2 * strip], x, lane);
                        *high = sdot_lane(*high, codes[2 * strip + 1], x, lane);
                    }
                });
            }
        });
        sums
    }
}

impl Products for NeonDot {
    const ROWS: usize = 4;
    const RUN: usize = 4;
    const PAIRED: bool = false;

    #[inline(always)]
    unsafe fn strip<const WHOLE: bool, const WIDE: bool, const R: usize>(
        self,
        codes: impl Fn(usize) -> [uint8x16_t; 4],
        strip: usize,
        x: *const u8,
        starts: *const i32,
    ) -> Strip<R> {
        // SAFETY: the caller's promise.
        unsafe { dots::<WHOLE, WIDE, 4, R>(codes, strip, x, starts) }
    }

    #[inline(always)]
    unsafe fn four_rows<const WHOLE: bool>(
        self,
        strip: neon_tile::Strip,
        _: usize,
        sums: neon_tile::Sums,
    ) -> neon_tile::Sums {
        // SAFETY: the caller's promise; `self` proves the instructions.
        unsafe { neon_tile::dot_strip::<WHOLE>(strip, sums) }
    }
}

/// `acc` plus the products of the two rows of eight bytes of `x` with those of `codes`.
#[inline(always)]
fn smmla(acc: int32x4_t, x: int8x16_t, codes: uint8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: plain arithmetic on registers; only who has the instruction multiplies by it.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {acc:v}.4s, {x:v}.16b, {codes:v}.16b",
            acc = inout(vreg) acc,
            x = in(vreg) x,
            codes = in(vreg) codes,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// The lower halves of two vectors, and the upper ones.
#[inline(always)]
fn turn(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 2] {
    // SAFETY: every aarch64 CPU has these instructions.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
        [vtrn1q_f64(a, b), vtrn2q_f64(a, b)].map(|v| vreinterpretq_f32_f64(v))
    }
}

impl Products for NeonI8mm {
    const ROWS: usize = 4;
    const RUN: usize = 8;
    const PAIRED: bool = true;

    #[inline(always)]
    unsafe fn strip<const WHOLE: bool, const WIDE: bool, const R: usize>(
        self,
        codes: impl Fn(usize) -> [uint8x16_t; 4],
        strip: usize,
        x: *const u8,
        starts: *const i32,
    ) -> Strip<R> {
        // SAFETY: the caller's promise.
        unsafe { dots::<WHOLE, WIDE, 8, R>(codes, strip, x, starts) }
    }

    /// Codes are stored in eights, those of the rows of a strip one after the other. The sums of two
    /// rows of `x` lie in 2 × 2; those of a last one by itself do not.
    #[inline(always)]
    unsafe fn tile_strip<const WHOLE: bool, const WIDE: bool, const R: usize>(
        self,
        codes: *const u8,
        strip: usize,
        x: *const u8,
        starts: *const i32,
    ) -> Strip<R> {
        // SAFETY: the caller's promise; every aarch64 CPU has these instructions.
        unsafe {
            // Of each pair of rows, by pairs of rows of weights.
            let mut sums = [[vdupq_n_s32(0); 4]; 2];
            if !WIDE {
                let starts = vreinterpretq_s32_f32(values::<R>(starts.cast()));
                sums = [[vzip1q_s32(starts, starts); 4], [vzip2q_s32(starts, starts); 4]];
            }
            let codes = codes.add(SIDE * 64 * strip);
            unrolled!(e in [0 1 2 3] {
                if WHOLE || e < 2 {
                    let (codes, x) = (codes.add(2 * SIDE * 64 * e), x.add(8 * e * R));
                    unrolled!(pair in [0 1] {
                        if 2 * pair < R {
                            let row = vld1_s8(x.add(16 * pair).cast());
                            let other = match 2 * pair + 1 < R {
                                true => vld1_s8(x.add(16 * pair + 8).cast()),
                                false => row,
                            };
                            let x = vcombine_s8(row, other);
                            for (i, sums) in sums[pair].iter_mut().enumerate() {
                                *sums = smmla(*sums, x, vld1q_u8(codes.add(16 * i)));
                            }
                        }
                    });
                }
            });
            std::array::from_fn(|r| {
                let of = sums[r / 2];
                if r ^ 1 < R {
                    // Of these two rows the first has the first two of each four sums of both.
                    return [of[r % 2], of[2 + r % 2]];
                }
                let low = |v: int32x4_t| vget_low_s32(v);
                [vcombine_s32(low(of[0]), low(of[1])), vcombine_s32(low(of[2]), low(of[3]))]
            })
        }
    }

    #[inline(always)]
    unsafe fn four_rows<const WHOLE: bool>(
        self,
        strip: neon_tile::Strip,
        at: usize,
        sums: neon_tile::Sums,
    ) -> neon_tile::Sums {
        // Eights of 8 rows of weights take the room of two quads of 16.
        let codes = strip.codes.wrapping_add(at * (SIDE * 64 - 32));
        // SAFETY: the caller's promise; `self` proves the instructions.
        unsafe { neon_tile::matrix_strip::<WHOLE>(neon_tile::Strip { codes, ..strip }, sums) }
    }
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

/// A value of each of `R` rows of `x`, in the first lanes.
///
/// # Safety
/// They can be read, and where there are more than two, four.
#[inline(always)]
unsafe fn values<const R: usize>(p: *const f32) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        match R {
            1 => vdupq_n_f32(*p),
            2 => vcombine_f32(vld1_f32(p), vdup_n_f32(0.0)),
            _ => vld1q_f32(p),
        }
    }
}

/// `a` times the value in a lane that the compiler knows.
#[inline(always)]
fn times(a: float32x4_t, values: float32x4_t, lane: usize) -> float32x4_t {
    // SAFETY: every aarch64 CPU has these instructions.
    unsafe {
        match lane {
            0 => vmulq_laneq_f32::<0>(a, values),
            1 => vmulq_laneq_f32::<1>(a, values),
            2 => vmulq_laneq_f32::<2>(a, values),
            _ => vmulq_laneq_f32::<3>(a, values),
        }
    }
}

/// `acc` plus `a` times the value in a lane.
#[inline(always)]
fn add_times(acc: float32x4_t, a: float32x4_t, values: float32x4_t, lane: usize) -> float32x4_t {
    // SAFETY: every aarch64 CPU has these instructions.
    unsafe {
        match lane {
            0 => vfmaq_laneq_f32::<0>(acc, a, values),
            1 => vfmaq_laneq_f32::<1>(acc, a, values),
            2 => vfmaq_laneq_f32::<2>(acc, a, values),
            _ => vfmaq_laneq_f32::<3>(acc, a, values),
        }
    }
}

/// Each of the first two lanes twice, and each of the last two.
#[inline(always)]
fn twice(values: float32x4_t) -> [float32x4_t; 2] {
    // SAFETY: every aarch64 CPU has these instructions.
    unsafe { [vzip1q_f32(values, values), vzip2q_f32(values, values)] }
}

/// Adds a strip's sums times the scales of four times four rows of weights and those of rows of `x`.
/// With `PAIRED` sums of two rows of `x` lie in 2 × 2.
///
/// # Safety
/// As for [`values`].
#[inline(always)]
unsafe fn add_scaled<const PAIRED: bool, const R: usize>(
    ints: Strip<R>,
    strip: usize,
    scales: [float32x4_t; 4],
    of_rows: *const f32,
    acc: &mut [&mut [float32x4_t; 4]; R],
) {
    // SAFETY: the caller's promise; every aarch64 CPU has these instructions.
    unsafe {
        let of_rows = values::<R>(of_rows);
        let of_pairs = twice(of_rows);
        unrolled!(i in [0 1] {
            let at = 2 * strip + i;
            let pairs = turn(scales[at], scales[at]);
            unrolled!(r in [0 1 2 3] {
                if r < R {
                    let scale = match PAIRED && r ^ 1 < R {
                        true => vmulq_f32(pairs[r % 2], of_pairs[r / 2]),
                        false => times(scales[at], of_rows, r),
                    };
                    acc[r][at] = vfmaq_f32(acc[r][at], vcvtq_f32_s32(ints[r][i]), scale);
                }
            });
        });
    }
}

/// Adds the minima of a strip times the sums of rows of `x`, likewise.
///
/// # Safety
/// As for [`values`].
#[inline(always)]
unsafe fn add_mins<const PAIRED: bool, const R: usize>(
    strip: usize,
    mins: [float32x4_t; 4],
    of_rows: *const f32,
    acc: &mut [&mut [float32x4_t; 4]; R],
) {
    // SAFETY: the caller's promise; every aarch64 CPU has these instructions.
    unsafe {
        let of_rows = values::<R>(of_rows);
        let of_pairs = twice(of_rows);
        unrolled!(i in [0 1] {
            let at = 2 * strip + i;
            let pairs = turn(mins[at], mins[at]);
            unrolled!(r in [0 1 2 3] {
                if r < R {
                    acc[r][at] = match PAIRED && r ^ 1 < R {
                        true => vfmaq_f32(acc[r][at], pairs[r % 2], of_pairs[r / 2]),
                        false => add_times(acc[r][at], mins[at], of_rows, r),
                    };
                }
            });
        });
    }
}

impl<P: Products> Lanes for Fours<P> {
    type B = [uint8x16_t; 4];
    type I = [int32x4_t; 4];
    type F = [float32x4_t; 4];
    type X = int8x16_t;
    const WIDE_ZERO: i32 = 0;
    const ROWS: usize = P::ROWS;
    const FLOAT_ROWS: usize = 2;
    const RUN: usize = P::RUN;
    const PANELS: usize = 1;
    const SIGNED: bool = true;

    #[inline(always)]
    fn outline<W: Work>(self, work: W) {
        #[inline(never)]
        fn enter<P: Products, W: Work>(lanes: Fours<P>, work: W) {
            work.run(lanes);
        }
        enter(self, work);
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
        // SAFETY: every aarch64 CPU has these instructions.
        four(|i| unsafe {
            let codes = signed(codes[i]);
            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
            let high = vmull_high_s8(codes, x);
            vaddq_s32(acc[i], vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
        })
    }
    #[inline(always)]
    fn dot_wide(self, acc: [int32x4_t; 4], codes: [uint8x16_t; 4], x: int8x16_t) -> [int32x4_t; 4] {
        self.dot(acc, codes, x)
    }
    #[inline(always)]
    unsafe fn add_block<const HALVES: bool, const MINS: bool, const WIDE: bool, const R: usize>(
        self,
        codes: impl Fn(usize) -> [uint8x16_t; 4],
        scales: impl Fn(usize) -> [float32x4_t; 4],
        mins: *const f32,
        rows: &Cursor,
        acc: &mut [[[float32x4_t; 4]; 1]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            unrolled!(sub in [0 1] {
                if HALVES || sub == 0 {
                    let codes = |j| codes(j + 4 * sub);
                    let (scales, mins) = (scales(sub), mins.wrapping_add(sub * PANEL));
                    let (x, starts) = (rows.codes.add(16 * sub * R), rows.starts.add(sub * R));
                    let sums = rows.sums.wrapping_add(sub * R);
                    unrolled!(strip in [0 1] {
                        let ints = match HALVES {
                            true => self.0.strip::<false, WIDE, R>(codes, strip, x, starts),
                            false => self.0.strip::<true, WIDE, R>(codes, strip, x, starts),
                        };
                        let mut acc = acc.each_mut().map(|[acc]| acc);
                        add_scaled::<false, R>(ints, strip, scales, rows.scales, &mut acc);
                        if MINS {
                            add_mins::<false, R>(strip, self.load_f(mins), sums, &mut acc);
                        }
                    });
                }
            });
        }
    }
    #[inline(always)]
    unsafe fn add_tile_block<
        const HALVES: bool,
        const MINS: bool,
        const WIDE: bool,
        const R: usize,
        const C: usize,
    >(
        self,
        codes: *const u8,
        scales: *const f32,
        mins: *const f32,
        rows: &Cursor,
        acc: &mut [[[float32x4_t; 4]; C]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            unrolled!(sub in [0 1] {
                if HALVES || sub == 0 {
                    let codes = codes.add(4 * sub * SIDE * 64);
                    let at = sub * SIDE * PANEL;
                    let (scales, mins) = (scales.add(at), mins.wrapping_add(at));
                    let (x, starts) = (rows.codes.add(16 * sub * R), rows.starts.add(sub * R));
                    let sums = rows.sums.wrapping_add(sub * R);
                    unrolled!(strip in [0 1] {
                        let mut acc = acc.each_mut().map(|acc| &mut acc[0]);
                        if R == 4 && P::ROWS == 4 {
                            let part = neon_tile::Strip {
                                codes: codes.add(32 * strip),
                                x,
                                starts,
                                scales: scales.add(8 * strip),
                                of_rows: rows.scales,
                            };
                            let of_strip = |r: usize| [acc[r][2 * strip], acc[r][2 * strip + 1]];
                            let added = std::array::from_fn(of_strip);
                            let added = match HALVES {
                                true => self.0.four_rows::<false>(part, strip, added),
                                false => self.0.four_rows::<true>(part, strip, added),
                            };
                            for (acc, added) in acc.iter_mut().zip(added) {
                                [acc[2 * strip], acc[2 * strip + 1]] = added;
                            }
                        } else {
                            let ints = match HALVES {
                                true => self.0.tile_strip::<false, WIDE, R>(codes, strip, x, starts),
                                false => self.0.tile_strip::<true, WIDE, R>(codes, strip, x, starts),
                            };
                            let (scales, of_rows) = (self.load_f(scales), rows.scales);
                            match P::PAIRED {
                                true => add_scaled::<true, R>(ints, strip, scales, of_rows, &mut acc),
                                false => {
                                    add_scaled::<false, R>(ints, strip, scales, of_rows, &mut acc);
                                }
                            }
                        }
                        if MINS {
                            let mins = self.load_f(mins);
                            match P::PAIRED {
                                true => add_mins::<true, R>(strip, mins, sums, &mut acc),
                                false => add_mins::<false, R>(strip, mins, sums, &mut acc),
                            }
                        }
                    });
                }
            });
        }
    }
    #[inline(always)]
    fn turn<const R: usize, const C: usize>(self, acc: &mut [[[float32x4_t; 4]; C]; R]) {
        if !P::PAIRED {
            return;
        }
        for pair in acc.as_chunks_mut::<2>().0 {
            for c in 0..C {
                for i in 0..4 {
                    [pair[0][c][i], pair[1][c][i]] = turn(pair[0][c][i], pair[1][c][i]);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn store_quads<const N: usize>(
        self,
        to: *mut u8,
        quads: [[uint8x16_t; 4]; N],
        code: impl Fn([uint8x16_t; 4]) -> [uint8x16_t; 4],
    ) {
        let zip = |a: uint8x16_t, b: uint8x16_t| {
            // SAFETY: every aarch64 CPU has these instructions.
            let both = unsafe {
                let (a, b) = (vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b));
                [vzip1q_u32(a, b), vzip2q_u32(a, b)]
            };
            // SAFETY: as above.
            both.map(|v| unsafe { vreinterpretq_u8_u32(v) })
        };
        for (e, [a, b]) in quads.as_chunks::<2>().0.iter().enumerate() {
            let [a, b] = [code(*a), code(*b)];
            let mut pairs = [a, b];
            if P::PAIRED {
                let eights = four(|g| zip(a[g], b[g]));
                pairs = [0, 2]
                    .map(|g| [eights[g][0], eights[g][1], eights[g + 1][0], eights[g + 1][1]]);
            }
            for (i, pairs) in pairs.into_iter().enumerate() {
                // SAFETY: the caller proves the memory.
                unsafe { self.store(to.add((2 * e + i) * SIDE * 64), pairs) };
            }
        }
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
