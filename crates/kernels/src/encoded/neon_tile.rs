//! Four rows of `x` by 8 rows of weights in NEON assembly: their sums of a sub-block, scaled and added.
//!
//! 16 vectors of results, 8 of integer sums and what is multiplied just fit in the registers. Compiled,
//! they do not: the compiler loads far ahead, and a fifth of the instructions move sums out and in.

use std::arch::aarch64::*;
use std::arch::asm;

/// A sub-block of four rows and a strip. Pointers are good for it: `codes` as
/// [`super::lanes::Lanes::store_quads`] stores them, from the strip's on.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    pub codes: *const u8,
    pub x: *const u8,
    /// What the integer sums of each row start from.
    pub starts: *const i32,
    /// A scale for each row of weights, and of `x`.
    pub scales: *const f32,
    pub of_rows: *const f32,
}

/// Of each row of `x`, by four rows of weights and the next four.
pub(super) type Sums = [[float32x4_t; 2]; 4];

/// Adds the products of a quad of each row, at `$at`, with lanes of `$x`.
macro_rules! dot_quad {
    ($at:literal, $x:literal) => {
        concat!(
            "ldp {c0:q}, {c1:q}, [{codes}, #",
            $at,
            "]\n",
            "sdot {s00:v}.4s, {c0:v}.16b, {",
            $x,
            ":v}.4b[0]\n",
            "sdot {s01:v}.4s, {c1:v}.16b, {",
            $x,
            ":v}.4b[0]\n",
            "sdot {s10:v}.4s, {c0:v}.16b, {",
            $x,
            ":v}.4b[1]\n",
            "sdot {s11:v}.4s, {c1:v}.16b, {",
            $x,
            ":v}.4b[1]\n",
            "sdot {s20:v}.4s, {c0:v}.16b, {",
            $x,
            ":v}.4b[2]\n",
            "sdot {s21:v}.4s, {c1:v}.16b, {",
            $x,
            ":v}.4b[2]\n",
            "sdot {s30:v}.4s, {c0:v}.16b, {",
            $x,
            ":v}.4b[3]\n",
            "sdot {s31:v}.4s, {c1:v}.16b, {",
            $x,
            ":v}.4b[3]",
        )
    };
}

/// Adds the sums of row `$r`, scaled.
macro_rules! dot_scaled {
    ($r:literal) => {
        concat!(
            "fmul {x1:v}.4s, {c0:v}.4s, {x0:v}.s[",
            $r,
            "]\n",
            "fmul {t:v}.4s, {c1:v}.4s, {x0:v}.s[",
            $r,
            "]\n",
            "scvtf {s",
            $r,
            "0:v}.4s, {s",
            $r,
            "0:v}.4s\n",
            "scvtf {s",
            $r,
            "1:v}.4s, {s",
            $r,
            "1:v}.4s\n",
            "fmla {a",
            $r,
            "0:v}.4s, {s",
            $r,
            "0:v}.4s, {x1:v}.4s\n",
            "fmla {a",
            $r,
            "1:v}.4s, {s",
            $r,
            "1:v}.4s, {t:v}.4s",
        )
    };
}

/// By dot products of four (`dotprod`): a sub-block of 4 quads, or 8 where `WHOLE`.
///
/// # Safety
/// The CPU has the instructions; the pointers are good.
#[inline(always)]
pub(super) unsafe fn dot_strip<const WHOLE: bool>(strip: Strip, mut sums: Sums) -> Sums {
    macro_rules! run {
        ($($products:expr,)*) => {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    ".arch_extension dotprod",
                    "ldr {x0:q}, [{starts}]",
                    "dup {s00:v}.4s, {x0:v}.s[0]",
                    "dup {s01:v}.4s, {x0:v}.s[0]",
                    "dup {s10:v}.4s, {x0:v}.s[1]",
                    "dup {s11:v}.4s, {x0:v}.s[1]",
                    "dup {s20:v}.4s, {x0:v}.s[2]",
                    "dup {s21:v}.4s, {x0:v}.s[2]",
                    "dup {s30:v}.4s, {x0:v}.s[3]",
                    "dup {s31:v}.4s, {x0:v}.s[3]",
                    $($products,)*
                    "ldr {x0:q}, [{of_rows}]",
                    "ldp {c0:q}, {c1:q}, [{scales}]",
                    dot_scaled!("0"),
                    dot_scaled!("1"),
                    dot_scaled!("2"),
                    dot_scaled!("3"),
                    codes = in(reg) strip.codes,
                    x = in(reg) strip.x,
                    starts = in(reg) strip.starts,
                    scales = in(reg) strip.scales,
                    of_rows = in(reg) strip.of_rows,
                    c0 = out(vreg) _, c1 = out(vreg) _,
                    x0 = out(vreg) _, x1 = out(vreg) _, t = out(vreg) _,
                    s00 = out(vreg) _, s01 = out(vreg) _, s10 = out(vreg) _, s11 = out(vreg) _,
                    s20 = out(vreg) _, s21 = out(vreg) _, s30 = out(vreg) _, s31 = out(vreg) _,
                    a00 = inout(vreg) sums[0][0], a01 = inout(vreg) sums[0][1],
                    a10 = inout(vreg) sums[1][0], a11 = inout(vreg) sums[1][1],
                    a20 = inout(vreg) sums[2][0], a21 = inout(vreg) sums[2][1],
                    a30 = inout(vreg) sums[3][0], a31 = inout(vreg) sums[3][1],
                    options(readonly, nostack, preserves_flags)
                );
            }
        };
    }
    if WHOLE {
        run!(
            "ldp {x0:q}, {x1:q}, [{x}]",
            dot_quad!("0", "x0"),
            dot_quad!("128", "x1"),
            "ldp {x0:q}, {x1:q}, [{x}, #32]",
            dot_quad!("256", "x0"),
            dot_quad!("384", "x1"),
            "ldp {x0:q}, {x1:q}, [{x}, #64]",
            dot_quad!("512", "x0"),
            dot_quad!("640", "x1"),
            "ldp {x0:q}, {x1:q}, [{x}, #96]",
            dot_quad!("768", "x0"),
            dot_quad!("896", "x1"),
        );
    } else {
        run!(
            "ldp {x0:q}, {x1:q}, [{x}]",
            dot_quad!("0", "x0"),
            dot_quad!("128", "x1"),
            "ldp {x0:q}, {x1:q}, [{x}, #32]",
            dot_quad!("256", "x0"),
            dot_quad!("384", "x1"),
        );
    }
    sums
}

/// Adds the products of eight codes of each row, at `$x` and at `$at` and 32 bytes on.
macro_rules! matrix_eight {
    ($x:literal, $at:literal, $on:literal) => {
        concat!(
            "ldp {x0:q}, {x1:q}, [{x}, #",
            $x,
            "]\n",
            "ldp {c0:q}, {c1:q}, [{codes}, #",
            $at,
            "]\n",
            "smmla {s00:v}.4s, {x0:v}.16b, {c0:v}.16b\n",
            "smmla {s10:v}.4s, {x1:v}.16b, {c0:v}.16b\n",
            "smmla {s01:v}.4s, {x0:v}.16b, {c1:v}.16b\n",
            "smmla {s11:v}.4s, {x1:v}.16b, {c1:v}.16b\n",
            "ldp {c0:q}, {c1:q}, [{codes}, #",
            $on,
            "]\n",
            "smmla {s02:v}.4s, {x0:v}.16b, {c0:v}.16b\n",
            "smmla {s12:v}.4s, {x1:v}.16b, {c0:v}.16b\n",
            "smmla {s03:v}.4s, {x0:v}.16b, {c1:v}.16b\n",
            "smmla {s13:v}.4s, {x1:v}.16b, {c1:v}.16b",
        )
    };
}

/// Adds the sums by four rows of weights, whose scales are in `$c`, scaled: `$a` and `$b` are the first
/// two of them and the last two.
macro_rules! matrix_scaled {
    ($c:literal, $i:literal, $a:literal, $b:literal) => {
        concat!(
            "dup {t0:v}.2d, {",
            $c,
            ":v}.d[0]\n",
            "dup {t1:v}.2d, {",
            $c,
            ":v}.d[1]\n",
            "scvtf {s0",
            $a,
            ":v}.4s, {s0",
            $a,
            ":v}.4s\n",
            "scvtf {s0",
            $b,
            ":v}.4s, {s0",
            $b,
            ":v}.4s\n",
            "scvtf {s1",
            $a,
            ":v}.4s, {s1",
            $a,
            ":v}.4s\n",
            "scvtf {s1",
            $b,
            ":v}.4s, {s1",
            $b,
            ":v}.4s\n",
            "fmul {t2:v}.4s, {t0:v}.4s, {x0:v}.4s\n",
            "fmul {t0:v}.4s, {t0:v}.4s, {x1:v}.4s\n",
            "fmul {",
            $c,
            ":v}.4s, {t1:v}.4s, {x0:v}.4s\n",
            "fmul {t1:v}.4s, {t1:v}.4s, {x1:v}.4s\n",
            "fmla {a0",
            $i,
            ":v}.4s, {s0",
            $a,
            ":v}.4s, {t2:v}.4s\n",
            "fmla {a2",
            $i,
            ":v}.4s, {s1",
            $a,
            ":v}.4s, {t0:v}.4s\n",
            "fmla {a1",
            $i,
            ":v}.4s, {s0",
            $b,
            ":v}.4s, {",
            $c,
            ":v}.4s\n",
            "fmla {a3",
            $i,
            ":v}.4s, {s1",
            $b,
            ":v}.4s, {t1:v}.4s",
        )
    };
}

/// By products of two rows of eight with two (`i8mm`): a sub-block of 4 quads, or 8 where `WHOLE`. The
/// sums of two rows of `x` lie in 2 × 2: the first row's have both rows' by the first two of four rows
/// of weights.
///
/// # Safety
/// The CPU has the instructions; the pointers are good.
#[inline(always)]
pub(super) unsafe fn matrix_strip<const WHOLE: bool>(strip: Strip, mut sums: Sums) -> Sums {
    macro_rules! run {
        ($($products:expr,)*) => {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    ".arch_extension i8mm",
                    "ldr {x0:q}, [{starts}]",
                    "zip1 {s00:v}.4s, {x0:v}.4s, {x0:v}.4s",
                    "zip1 {s01:v}.4s, {x0:v}.4s, {x0:v}.4s",
                    "zip1 {s02:v}.4s, {x0:v}.4s, {x0:v}.4s",
                    "zip1 {s03:v}.4s, {x0:v}.4s, {x0:v}.4s",
                    "zip2 {s10:v}.4s, {x0:v}.4s, {x0:v}.4s",
                    "zip2 {s11:v}.4s, {x0:v}.4s, {x0:v}.4s",
                    "zip2 {s12:v}.4s, {x0:v}.4s, {x0:v}.4s",
                    "zip2 {s13:v}.4s, {x0:v}.4s, {x0:v}.4s",
                    $($products,)*
                    "ldr {x1:q}, [{of_rows}]",
                    "ldp {c0:q}, {c1:q}, [{scales}]",
                    "zip1 {x0:v}.4s, {x1:v}.4s, {x1:v}.4s",
                    "zip2 {x1:v}.4s, {x1:v}.4s, {x1:v}.4s",
                    matrix_scaled!("c0", "0", "0", "1"),
                    matrix_scaled!("c1", "1", "2", "3"),
                    codes = in(reg) strip.codes,
                    x = in(reg) strip.x,
                    starts = in(reg) strip.starts,
                    scales = in(reg) strip.scales,
                    of_rows = in(reg) strip.of_rows,
                    c0 = out(vreg) _, c1 = out(vreg) _, x0 = out(vreg) _, x1 = out(vreg) _,
                    t0 = out(vreg) _, t1 = out(vreg) _, t2 = out(vreg) _,
                    s00 = out(vreg) _, s01 = out(vreg) _, s02 = out(vreg) _, s03 = out(vreg) _,
                    s10 = out(vreg) _, s11 = out(vreg) _, s12 = out(vreg) _, s13 = out(vreg) _,
                    a00 = inout(vreg) sums[0][0], a01 = inout(vreg) sums[0][1],
                    a10 = inout(vreg) sums[1][0], a11 = inout(vreg) sums[1][1],
                    a20 = inout(vreg) sums[2][0], a21 = inout(vreg) sums[2][1],
                    a30 = inout(vreg) sums[3][0], a31 = inout(vreg) sums[3][1],
                    options(readonly, nostack, preserves_flags)
                );
            }
        };
    }
    if WHOLE {
        run!(
            matrix_eight!("0", "0", "32"),
            matrix_eight!("32", "256", "288"),
            matrix_eight!("64", "512", "544"),
            matrix_eight!("96", "768", "800"),
        );
    } else {
        run!(matrix_eight!("0", "0", "32"), matrix_eight!("32", "256", "288"),);
    }
    sums
}
