//! The instructions that panels are computed with: vectors of 16 rows, four codes each.

use super::form::PANEL;
use super::micro::{self, Cursor, SIDE};

/// What runs on the vectors of one instruction set.
pub(super) trait Work {
    /// Runs it; implementations are `#[inline(always)]`.
    fn run<L: Lanes>(self, lanes: L);
}

/// The vectors of one instruction set. A value proves that the CPU has it.
pub(super) trait Lanes: Copy {
    /// 64 bytes.
    type B: Copy;
    /// 16 `i32`.
    type I: Copy;
    /// 16 `f32`.
    type F: Copy;
    /// Four signed bytes for all lanes.
    type X: Copy;
    /// The code of 0 that [`Self::dot_wide`] leaves to its caller to subtract, of 128.
    const WIDE_ZERO: i32;
    /// Rows of a group.
    const ROWS: usize;
    /// Rows that float weights are multiplied by side by side.
    const FLOAT_ROWS: usize;
    /// Codes of a rounded row that lie together.
    const RUN: usize = 4;
    /// Panels that a group of rows meets at once.
    const PANELS: usize = SIDE;
    /// Whether unpacked codes of 8 bits are signed: 128 less than otherwise.
    const SIGNED: bool = false;

    /// Runs `work` in a function of its own, compiled with these instructions.
    fn outline<W: Work>(self, work: W);

    /// # Safety
    /// 64 bytes at `p` can be read.
    unsafe fn load(self, p: *const u8) -> Self::B;
    /// # Safety
    /// 64 bytes at `p` can be written.
    unsafe fn store(self, p: *mut u8, v: Self::B);
    /// Asks for the line at `p`, which need not exist, to be read into the second-level cache.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
    fn bytes(self, x: u8) -> Self::B;
    fn and(self, a: Self::B, b: Self::B) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    fn xor(self, a: Self::B, b: Self::B) -> Self::B;
    /// Quad j of 16 bytes of each of 16 rows, `offset` bytes on, for all j.
    ///
    /// # Safety
    /// The bytes can be read.
    unsafe fn transpose(self, rows: &[*const u8; PANEL], offset: usize) -> [Self::B; 4];
    /// Shifts words of 16 bits right, or left where `by` is negative.
    fn shift(self, a: Self::B, by: i32) -> Self::B;
    /// Entries of a table that [`Self::table`] made; the codes are below 16.
    fn lookup(self, table: Self::B, codes: Self::B) -> Self::B;
    fn table(self, table: &[u8; 16]) -> Self::B;

    /// # Safety
    /// Four bytes at `p` can be read.
    unsafe fn quad(self, p: *const u8) -> Self::X;
    /// `acc` plus, in each lane, the dot product of its four codes, below 128, with `x`.
    fn dot(self, acc: Self::I, codes: Self::B, x: Self::X) -> Self::I;
    /// The same for codes of 8 bits, less 128 − [`Self::WIDE_ZERO`] each.
    fn dot_wide(self, acc: Self::I, codes: Self::B, x: Self::X) -> Self::I;
    /// In the first `4 · FOURS` lanes, the dot products of as many blocks of 32 codes, one after the
    /// other, with blocks of bytes. Each block starts with a half; its codes are signed, and taken as
    /// that and [`Self::WIDE_ZERO`].
    ///
    /// # Safety
    /// The blocks can be read at `blocks`, and 32 bytes for each at `x`.
    #[inline(always)]
    unsafe fn block_dots<const FOURS: usize>(self, blocks: *const u8, x: *const u8) -> Self::I {
        let mut dots = [0i32; PANEL];
        for (b, dot) in dots.iter_mut().take(4 * FOURS).enumerate() {
            // SAFETY: the caller proves the memory.
            unsafe {
                let codes = blocks.add(34 * b + 2).cast::<[i8; 32]>().read_unaligned();
                let x = x.add(32 * b).cast::<[i8; 32]>().read_unaligned();
                let code = |code: &i8| i32::from(*code) + Self::WIDE_ZERO;
                *dot = codes.iter().zip(x).map(|(c, x)| code(c) * i32::from(x)).sum();
            }
        }
        // SAFETY: the array has 64 bytes.
        self.ints(unsafe { self.load(dots.as_ptr().cast()) })
    }
    /// Adds the products of one block of a panel to the sums of `R` rows. `codes(j)`: quad `j`;
    /// `scales(sub)`, `mins`: of each sub-block.
    ///
    /// # Safety
    /// With `MINS` `mins`, and the pointers of `rows`, are good for a block.
    #[inline(always)]
    unsafe fn add_block<const HALVES: bool, const MINS: bool, const WIDE: bool, const R: usize>(
        self,
        codes: impl Fn(usize) -> Self::B,
        scales: impl Fn(usize) -> Self::F,
        mins: *const f32,
        rows: &Cursor,
        acc: &mut [[Self::F; 1]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let (codes, scales) = (|j, _| codes(j), |sub, _| scales(sub));
            micro::add_block::<Self, HALVES, MINS, WIDE, R, 1>(
                self, codes, scales, mins, PANEL, rows, acc,
            );
        }
    }
    /// Adds those of `C` panels of a tile, whose codes [`Self::store_quads`] stored; `scales` and
    /// `mins` are [`SIDE`] panels apart.
    ///
    /// # Safety
    /// As for [`Self::add_block`]; codes and scales can be read.
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
        acc: &mut [[Self::F; C]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let quads = |j: usize, c: usize| self.load(codes.add((j * SIDE + c) * 64));
            let scales = |sub: usize, c: usize| self.load_f(scales.add((sub * SIDE + c) * PANEL));
            micro::add_block::<Self, HALVES, MINS, WIDE, R, C>(
                self,
                quads,
                scales,
                mins,
                SIDE * PANEL,
                rows,
                acc,
            );
        }
    }
    /// Turns a tile's sums from an order of their own into rows, and back.
    #[inline(always)]
    fn turn<const R: usize, const C: usize>(self, _acc: &mut [[Self::F; C]; R]) {}
    /// Stores quads of a block, an even number, each made by `code`, as a tile reads them: every
    /// [`SIDE`] · 64 bytes.
    ///
    /// # Safety
    /// There is room.
    #[inline(always)]
    unsafe fn store_quads<const N: usize>(
        self,
        to: *mut u8,
        quads: [Self::B; N],
        code: impl Fn(Self::B) -> Self::B,
    ) {
        for (j, quad) in quads.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.store(to.add(j * SIDE * 64), code(quad)) };
        }
    }
    /// Lanes of four bytes as integers.
    fn ints(self, a: Self::B) -> Self::I;
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I;
    /// # Safety
    /// 64 bytes at `p` can be written.
    unsafe fn store_i(self, p: *mut i32, v: Self::I);
    fn isplat(self, x: i32) -> Self::I;
    fn float(self, a: Self::I) -> Self::F;

    fn splat(self, x: f32) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once where the instruction set can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The sum of each: halves are added until one is left.
    fn sums(self, a: [Self::F; 4]) -> [f32; 4];
    /// # Safety
    /// 16 elements at `p` can be read.
    unsafe fn load_f(self, p: *const f32) -> Self::F;
    /// # Safety
    /// 16 elements at `p` can be written.
    unsafe fn store_f(self, p: *mut f32, v: Self::F);
    /// # Safety
    /// 16 halves at `p` can be read.
    unsafe fn load_half(self, p: *const u8) -> Self::F;
    /// Upper halves of singles.
    ///
    /// # Safety
    /// 16 halves at `p` can be read.
    unsafe fn load_upper(self, p: *const u8) -> Self::F;
    /// # Safety
    /// 16 bytes at `p` can be read.
    unsafe fn load_i8(self, p: *const u8) -> Self::F;
    /// # Safety
    /// 16 bytes at `p` can be read.
    unsafe fn load_u8(self, p: *const u8) -> Self::F;
}

/// Plain Rust that the compiler turns into what the target always has.
#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn each<T>(f: impl FnMut(usize) -> T) -> [T; PANEL] {
    std::array::from_fn(f)
}

#[inline(always)]
fn products(codes: impl Fn(usize) -> i32, x: [i8; 4], acc: [i32; PANEL]) -> [i32; PANEL] {
    each(|r| {
        let of = |i: usize| codes(4 * r + i) * i32::from(x[i]);
        acc[r] + of(0) + of(1) + of(2) + of(3)
    })
}

impl Lanes for Portable {
    type B = [u8; 64];
    type I = [i32; PANEL];
    type F = [f32; PANEL];
    type X = [i8; 4];
    const WIDE_ZERO: i32 = 128;
    const ROWS: usize = 2;
    const FLOAT_ROWS: usize = 2;

    #[inline(always)]
    fn outline<W: Work>(self, work: W) {
        #[inline(never)]
        fn enter<W: Work>(lanes: Portable, work: W) {
            work.run(lanes);
        }
        enter(self, work);
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> [u8; 64] {
        // SAFETY: the caller proves the memory.
        unsafe { p.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u8, v: [u8; 64]) {
        // SAFETY: the caller proves the memory.
        unsafe { p.cast::<[u8; 64]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn bytes(self, x: u8) -> [u8; 64] {
        [x; 64]
    }
    #[inline(always)]
    fn and(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn xor(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    unsafe fn transpose(self, rows: &[*const u8; PANEL], offset: usize) -> [[u8; 64]; 4] {
        let mut out = [[0; 64]; 4];
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: the caller proves the memory.
            let bytes = unsafe { row.add(offset).cast::<[u8; 16]>().read_unaligned() };
            for (out, quad) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                out[4 * r..4 * r + 4].copy_from_slice(quad);
            }
        }
        out
    }
    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shift(self, a: [u8; 64], by: i32) -> [u8; 64] {
        // What crosses from one byte into the next is masked off by the callers.
        std::array::from_fn(|i| if by < 0 { a[i] << -by } else { a[i] >> by })
    }
    #[inline(always)]
    fn lookup(self, table: [u8; 64], codes: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| table[usize::from(codes[i] & 15)])
    }
    #[inline(always)]
    fn table(self, table: &[u8; 16]) -> [u8; 64] {
        std::array::from_fn(|i| table[i % 16])
    }
    #[inline(always)]
    unsafe fn quad(self, p: *const u8) -> [i8; 4] {
        // SAFETY: the caller proves the memory.
        unsafe { p.cast::<[i8; 4]>().read_unaligned() }
    }
    #[inline(always)]
    fn dot(self, acc: [i32; PANEL], codes: [u8; 64], x: [i8; 4]) -> [i32; PANEL] {
        products(|i| i32::from(codes[i]), x, acc)
    }
    #[inline(always)]
    fn dot_wide(self, acc: [i32; PANEL], codes: [u8; 64], x: [i8; 4]) -> [i32; PANEL] {
        self.dot(acc, codes, x)
    }
    #[inline(always)]
    fn ints(self, a: [u8; 64]) -> [i32; PANEL] {
        bytemuck::cast(a)
    }
    #[inline(always)]
    fn iadd(self, a: [i32; PANEL], b: [i32; PANEL]) -> [i32; PANEL] {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, v: [i32; PANEL]) {
        // SAFETY: the caller proves the memory.
        unsafe { p.cast::<[i32; PANEL]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> [i32; PANEL] {
        [x; PANEL]
    }
    #[inline(always)]
    fn float(self, a: [i32; PANEL]) -> [f32; PANEL] {
        each(|i| a[i] as f32)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; PANEL] {
        [x; PANEL]
    }
    #[inline(always)]
    fn mul(self, a: [f32; PANEL], b: [f32; PANEL]) -> [f32; PANEL] {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; PANEL], b: [f32; PANEL], c: [f32; PANEL]) -> [f32; PANEL] {
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn sums(self, a: [[f32; PANEL]; 4]) -> [f32; 4] {
        a.map(|mut a| {
            for half in [8, 4, 2, 1] {
                (0..half).for_each(|i| a[i] += a[i + half]);
            }
            a[0]
        })
    }
    #[inline(always)]
    unsafe fn load_f(self, p: *const f32) -> [f32; PANEL] {
        // SAFETY: the caller proves the memory.
        unsafe { p.cast::<[f32; PANEL]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_f(self, p: *mut f32, v: [f32; PANEL]) {
        // SAFETY: the caller proves the memory.
        unsafe { p.cast::<[f32; PANEL]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_half(self, p: *const u8) -> [f32; PANEL] {
        // SAFETY: the caller proves the memory.
        let bits = unsafe { p.cast::<[u16; PANEL]>().read_unaligned() };
        bits.map(|b| half::f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn load_upper(self, p: *const u8) -> [f32; PANEL] {
        // SAFETY: the caller proves the memory.
        let bits = unsafe { p.cast::<[u16; PANEL]>().read_unaligned() };
        bits.map(|b| f32::from_bits(u32::from(b) << 16))
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> [f32; PANEL] {
        // SAFETY: the caller proves the memory.
        unsafe { p.cast::<[i8; PANEL]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> [f32; PANEL] {
        // SAFETY: the caller proves the memory.
        unsafe { p.cast::<[u8; PANEL]>().read_unaligned() }.map(f32::from)
    }
}
