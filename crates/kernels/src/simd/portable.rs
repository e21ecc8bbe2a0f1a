//! Plain Rust: four lanes that the compiler turns into what the target always has.

use super::{Kernel, Simd};

#[derive(Clone, Copy)]
pub(super) struct PortableF32;

#[inline(always)]
fn each<T: Copy, U: Copy + Default>(a: [T; 4], f: impl Fn(T) -> U) -> [U; 4] {
    let mut out = [U::default(); 4];
    for i in 0..4 {
        out[i] = f(a[i]);
    }
    out
}

#[inline(always)]
fn both<T: Copy, U: Copy + Default>(a: [T; 4], b: [T; 4], f: impl Fn(T, T) -> U) -> [U; 4] {
    let mut out = [U::default(); 4];
    for i in 0..4 {
        out[i] = f(a[i], b[i]);
    }
    out
}

impl Simd for PortableF32 {
    type V = [f32; 4];
    type I = [i32; 4];
    type M = [bool; 4];
    const LANES: usize = 4;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn enter<K: Kernel>(simd: PortableF32, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        enter(self, kernel)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 4] {
        // SAFETY: the caller lets us read four elements; no alignment is assumed.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: the caller lets us read `n` ≤ 4 elements.
        unsafe { std::ptr::copy_nonoverlapping(p, out.as_mut_ptr(), n) };
        out
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller lets us write four elements; no alignment is assumed.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: [f32; 4], n: usize) {
        // SAFETY: the caller lets us write `n` ≤ 4 elements.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), p, n) };
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        both(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        both(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        both(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        both(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn fnma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        self.sub(c, self.mul(a, b))
    }
    #[inline(always)]
    fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        both(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        both(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; 4]) -> [f32; 4] {
        each(a, f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: [f32; 4]) -> [f32; 4] {
        each(a, f32::round_ties_even)
    }
    #[inline(always)]
    fn floor(self, a: [f32; 4]) -> [f32; 4] {
        each(a, f32::floor)
    }
    #[inline(always)]
    fn ceil(self, a: [f32; 4]) -> [f32; 4] {
        each(a, f32::ceil)
    }
    #[inline(always)]
    fn lt(self, a: [f32; 4], b: [f32; 4]) -> [bool; 4] {
        both(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn eq(self, a: [f32; 4], b: [f32; 4]) -> [bool; 4] {
        both(a, b, |a, b| a == b)
    }
    #[inline(always)]
    fn select(self, m: [bool; 4], a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        let mut out = b;
        for i in 0..4 {
            if m[i] {
                out[i] = a[i];
            }
        }
        out
    }
    #[inline(always)]
    fn bits(self, a: [f32; 4]) -> [i32; 4] {
        each(a, |a| a.to_bits() as i32)
    }
    #[inline(always)]
    fn of_bits(self, a: [i32; 4]) -> [f32; 4] {
        each(a, |a| f32::from_bits(a as u32))
    }
    #[inline(always)]
    fn to_int(self, a: [f32; 4]) -> [i32; 4] {
        each(a, |a| a.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_float(self, a: [i32; 4]) -> [f32; 4] {
        each(a, |a| a as f32)
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> [i32; 4] {
        [x; 4]
    }
    #[inline(always)]
    fn iadd(self, a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        both(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn imul(self, a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        both(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    fn isub(self, a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        both(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn iand(self, a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        both(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn ior(self, a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
        both(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn ishl<const N: i32>(self, a: [i32; 4]) -> [i32; 4] {
        each(a, |a| a << N)
    }
    #[inline(always)]
    fn ishr<const N: i32>(self, a: [i32; 4]) -> [i32; 4] {
        each(a, |a| a >> N)
    }
}
