//! What tiles multiply, 32 bits at a time.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use crate::isa::Isa;
use crate::simd::{self, Kernel, Simd};

/// Elements that follow each other in a dot product and are multiplied by one instruction: 32 bits, so
/// that tiles and packed matrices look the same whatever they are made of.
pub trait Term: Pod + Send + Sync {
    /// What the matrices are made of.
    type Element: Pod;
    /// Elements of a term.
    const ELEMENTS: usize;
    /// The name of the elements' type.
    const NAME: &'static str;

    /// The instruction set whose vectors `columns` columns of results fill best.
    fn isa(isa: Isa, columns: usize) -> Isa;
    /// Runs `kernel` with the best vectors of `isa` for these terms.
    fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output;
    /// All lanes this term.
    fn splat<S: Simd>(s: S, term: Self) -> S::V;
    /// Loads terms.
    ///
    /// # Safety
    /// `LANES` terms at `p` can be read.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;
    /// `sum` and the products of the elements of each lane.
    fn add_product<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V;
    /// Makes terms of the elements of `lines`, element i of all of them a term; zeros stand for a line
    /// that is missing.
    ///
    /// # Safety
    /// `LANES` elements of each line can be read.
    unsafe fn across<S: Simd>(s: S, lines: [Option<*const Self::Element>; 2]) -> S::V;
}

impl Term for f32 {
    type Element = f32;
    const ELEMENTS: usize = 1;
    const NAME: &'static str = "f32";

    fn isa(isa: Isa, columns: usize) -> Isa {
        isa.for_floats(columns)
    }
    #[inline(always)]
    fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        simd::dispatch(isa, kernel)
    }
    #[inline(always)]
    fn splat<S: Simd>(s: S, term: f32) -> S::V {
        s.splat(term)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    fn add_product<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        s.fma(a, b, sum)
    }
    #[inline(always)]
    unsafe fn across<S: Simd>(s: S, [line, _]: [Option<*const f32>; 2]) -> S::V {
        // SAFETY: the caller's promise.
        line.map_or(s.zero(), |line| unsafe { s.load(line) })
    }
}

/// Two bf16 that follow each other in a dot product. Their products are exact in f32; BF16
/// instructions take numbers below 2⁻¹²⁶ for zero.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Pair([bf16; 2]);

impl Pair {
    /// Whether `isa` has an instruction for them on this CPU; where it has none, products take longer
    /// than those of f32.
    pub fn is_fast(isa: Isa) -> bool {
        simd::has_pairs(isa).is_some()
    }
}

impl Term for Pair {
    type Element = bf16;
    const ELEMENTS: usize = 2;
    const NAME: &'static str = "bf16";

    fn isa(isa: Isa, _: usize) -> Isa {
        isa
    }
    #[inline(always)]
    fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        simd::dispatch_pairs(isa, kernel)
    }
    #[inline(always)]
    fn splat<S: Simd>(s: S, term: Pair) -> S::V {
        s.of_bits(s.isplat(bytemuck::cast(term)))
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Pair) -> S::V {
        // SAFETY: the caller's promise; a load looks at no bits.
        unsafe { s.load(p.cast()) }
    }
    #[inline(always)]
    fn add_product<S: Simd>(s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        s.add_pairs(a, b, sum)
    }
    #[inline(always)]
    unsafe fn across<S: Simd>(s: S, lines: [Option<*const bf16>; 2]) -> S::V {
        let [low, high] = lines.map(|line| match line {
            // SAFETY: the caller's promise.
            Some(line) => unsafe { s.bits(s.load_upper(line.cast())) },
            None => s.isplat(0),
        });
        let low = s.iand(s.ishr::<16>(low), s.isplat(0xffff));
        s.of_bits(s.ior(low, high))
    }
}
