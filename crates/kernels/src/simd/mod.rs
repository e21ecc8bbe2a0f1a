//! Vectors of `f32`, one module per instruction set, so that a kernel is written once.
//!
//! A kernel implements [`Kernel`] and is started by [`dispatch`], which compiles it anew for every
//! instruction set. Everything between the two must be `#[inline(always)]`: code that is not
//! inlined into the entry point is compiled without the instructions.

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::isa::{Bf16, Isa};

/// A kernel, generic over the vectors it runs on.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it; implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the vectors of `isa`.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(token) => x86::enter_avx2(token, kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Avx512Vnni(_) => x86::enter_avx512(isa, kernel),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(_) | Isa::NeonDot(_) | Isa::NeonI8mm(_) => neon::NeonF32.outline(kernel),
        _ => portable::PortableF32.outline(kernel),
    }
}

/// As [`dispatch`], for kernels whose work is [`Simd::add_pairs`].
pub(crate) fn dispatch_pairs<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match has_pairs(isa) {
        #[cfg(target_arch = "x86_64")]
        Some(token) => x86::enter_avx512_bf16(token, kernel),
        _ => dispatch(isa, kernel),
    }
}

/// The proof that this CPU has [`Simd::add_pairs`] as one instruction beside `isa`.
pub(crate) fn has_pairs(isa: Isa) -> Option<Bf16> {
    // Those of aarch64 have no vectors here yet.
    Bf16::of(isa).filter(|_| cfg!(target_arch = "x86_64"))
}

/// How many `f32` a vector of `isa` holds.
pub(crate) fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Avx2(_) => 8,
        Isa::Avx512(_) | Isa::Avx512Vnni(_) => 16,
        _ => 4,
    }
}

/// The vectors of one instruction set. A value proves that the CPU has it.
///
/// `min` and `max` return their second argument where either is NaN, except that NEON returns NaN:
/// put the value that may be NaN second, and it comes through everywhere.
pub trait Simd: Copy {
    /// A vector of [`Self::LANES`] `f32`.
    type V: Copy;
    /// As many `i32`.
    type I: Copy;
    /// As many truth values.
    type M: Copy;
    /// How many elements a vector has.
    const LANES: usize;
    /// How many vector registers there are.
    const REGISTERS: usize;

    /// Runs `kernel` in a function of its own, compiled with these instructions.
    fn outline<K: Kernel>(self, kernel: K) -> K::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Loads a whole vector.
    ///
    /// # Safety
    /// `LANES` elements at `p` can be read.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Loads the first `n` lanes (`n` ≤ `LANES`); the others are zero.
    ///
    /// # Safety
    /// `n` elements at `p` can be read.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V;
    /// Stores a whole vector.
    ///
    /// # Safety
    /// `LANES` elements at `p` can be written.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Stores the first `n` lanes (`n` ≤ `LANES`).
    ///
    /// # Safety
    /// `n` elements at `p` can be written.
    unsafe fn store_n(self, p: *mut f32, v: Self::V, n: usize);

    /// Loads halves.
    ///
    /// # Safety
    /// `LANES` halves at `p` can be read; their address may be odd.
    #[inline(always)]
    unsafe fn load_half(self, p: *const u8) -> Self::V {
        let mut out = [0.0; 16];
        for (i, out) in out.iter_mut().take(Self::LANES).enumerate() {
            // SAFETY: the caller's promise.
            let bits = unsafe { p.cast::<u16>().add(i).read_unaligned() };
            *out = half::f16::from_bits(bits).to_f32();
        }
        // SAFETY: no instruction set has more than 16 lanes.
        unsafe { self.load(out.as_ptr()) }
    }
    /// Stores halves, rounded to nearest.
    ///
    /// # Safety
    /// `LANES` halves at `p` can be written; their address may be odd.
    #[inline(always)]
    unsafe fn store_half(self, p: *mut u8, v: Self::V) {
        for (i, x) in self.lanes(v).into_iter().take(Self::LANES).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { p.cast::<u16>().add(i).write_unaligned(half::f16::from_f32(x).to_bits()) };
        }
    }
    /// Loads bf16.
    ///
    /// # Safety
    /// `LANES` of them at `p` can be read; their address may be odd.
    #[inline(always)]
    unsafe fn load_upper(self, p: *const u8) -> Self::V {
        let mut out = [0.0; 16];
        for (i, out) in out.iter_mut().take(Self::LANES).enumerate() {
            // SAFETY: the caller's promise.
            let bits = unsafe { p.cast::<u16>().add(i).read_unaligned() };
            *out = f32::from_bits(u32::from(bits) << 16);
        }
        // SAFETY: no instruction set has more than 16 lanes.
        unsafe { self.load(out.as_ptr()) }
    }
    /// Stores bf16, rounded to nearest, ties to even.
    ///
    /// # Safety
    /// `LANES` of them at `p` can be written; their address may be odd.
    #[inline(always)]
    unsafe fn store_upper(self, p: *mut u8, v: Self::V) {
        for (i, x) in self.lanes(v).into_iter().take(Self::LANES).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { p.cast::<u16>().add(i).write_unaligned(half::bf16::from_f32(x).to_bits()) };
        }
    }
    /// `sum` and both products of the bf16 that share a lane, upper half by upper half and lower half
    /// by lower half.
    #[inline(always)]
    fn add_pairs(self, a: Self::V, b: Self::V, sum: Self::V) -> Self::V {
        add_halves(self, a, b, sum)
    }
    /// Stores the lowest byte of each lane.
    ///
    /// # Safety
    /// `LANES` bytes at `p` can be written.
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: Self::I) {
        for (i, x) in self.lanes(self.of_bits(v)).into_iter().take(Self::LANES).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *p.add(i) = x.to_bits() as u8 };
        }
    }
    /// Transposes a square of `LANES` lines, `from_stride` and `to_stride` elements apart.
    ///
    /// # Safety
    /// `LANES` elements of as many lines can be read and written.
    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: the caller's promise.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
        }
    }

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c − a · b`, rounded once where the instruction set can.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// To the nearest integer, halves to even.
    fn round(self, a: Self::V) -> Self::V;
    fn floor(self, a: Self::V) -> Self::V;
    fn ceil(self, a: Self::V) -> Self::V;

    /// `a < b`; false where either is NaN, as all comparisons.
    fn lt(self, a: Self::V, b: Self::V) -> Self::M;
    fn eq(self, a: Self::V, b: Self::V) -> Self::M;
    /// `a` where `m` holds, else `b`.
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;

    /// The bits of each lane.
    fn bits(self, a: Self::V) -> Self::I;
    /// The `f32` with these bits.
    fn of_bits(self, a: Self::I) -> Self::V;
    /// To the nearest integer; the argument's magnitude is below 2³¹.
    fn to_int(self, a: Self::V) -> Self::I;
    fn to_float(self, a: Self::I) -> Self::V;
    fn isplat(self, x: i32) -> Self::I;
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low half of the product.
    fn imul(self, a: Self::I, b: Self::I) -> Self::I;
    fn isub(self, a: Self::I, b: Self::I) -> Self::I;
    fn iand(self, a: Self::I, b: Self::I) -> Self::I;
    fn ior(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shifts left.
    fn ishl<const N: i32>(self, a: Self::I) -> Self::I;
    /// Shifts right, keeping the sign.
    fn ishr<const N: i32>(self, a: Self::I) -> Self::I;

    /// The magnitude.
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        self.of_bits(self.iand(self.bits(a), self.isplat(i32::MAX)))
    }
    /// The other sign, also of zero and NaN.
    #[inline(always)]
    fn neg(self, a: Self::V) -> Self::V {
        let sign = self.isplat(i32::MIN);
        let bits = self.bits(a);
        let flipped = self.isub(self.ior(bits, sign), self.iand(bits, sign));
        self.of_bits(flipped)
    }
    /// The magnitude of `a` with the sign of `b`; `a` is not negative.
    #[inline(always)]
    fn with_sign(self, a: Self::V, b: Self::V) -> Self::V {
        let sign = self.iand(self.bits(b), self.isplat(i32::MIN));
        self.of_bits(self.ior(self.bits(a), sign))
    }
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
    /// The lanes, in the first `LANES` elements.
    #[inline(always)]
    fn lanes(self, a: Self::V) -> [f32; 16] {
        let mut out = [0.0; 16];
        // SAFETY: no instruction set has more than 16 lanes.
        unsafe { self.store(out.as_mut_ptr(), a) };
        out
    }
    /// The sum of the lanes, halves first: lane i with lane i + LANES/2, and so on.
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        let mut x = self.lanes(a);
        let mut n = Self::LANES / 2;
        while n > 0 {
            for i in 0..n {
                x[i] += x[i + n];
            }
            n /= 2;
        }
        x[0]
    }
    /// The largest lane; where one is NaN, that or any other.
    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        let mut x = self.lanes(a);
        let mut n = Self::LANES / 2;
        while n > 0 {
            for i in 0..n {
                x[i] = if x[i + n] > x[i] { x[i + n] } else { x[i] };
            }
            n /= 2;
        }
        x[0]
    }
}

/// [`Simd::add_pairs`], of what every instruction set has.
#[inline(always)]
fn add_halves<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
    let upper = |x| s.of_bits(s.iand(s.bits(x), s.isplat(-1 << 16)));
    let lower = |x| s.of_bits(s.ishl::<16>(s.bits(x)));
    s.fma(upper(a), upper(b), s.fma(lower(a), lower(b), sum))
}

/// The bits of `v` rounded to bf16, to nearest and ties to even, in the upper half of each lane; the
/// lower half holds anything.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn rounded_upper<S: Simd>(s: S, v: S::V) -> S::I {
    let bits = s.bits(v);
    let odd = s.iand(s.ishr::<16>(bits), s.isplat(1));
    let rounded = s.iadd(bits, s.iadd(odd, s.isplat(0x7fff)));
    // A NaN stays one.
    let quiet = s.ior(bits, s.isplat(0x40_0000));
    s.bits(s.select(s.eq(v, v), s.of_bits(rounded), s.of_bits(quiet)))
}

#[cfg(test)]
mod tests;
