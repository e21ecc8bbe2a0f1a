//! Sums of a panel or two: integer products of a block, then its scales.
//!
//! Each result is a chain of sums in the order of the blocks, whatever rows and panels are
//! computed with it: a row's results do not depend on how many rows there are.

use std::mem::MaybeUninit;

use super::form::{BLOCK, Form, PANEL, Scale, UNIT};
use super::lanes::{Lanes, Work};
use super::pack::is_power;
use super::round::GroupLayout;

/// Bytes of the codes of a panel's block, one code a byte.
pub(super) const EXPANDED: usize = BLOCK * PANEL;

/// Sub-blocks of a unit, at most.
pub(super) const MOST_SUBS: usize = 2 * UNIT;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Scales([f32; MOST_SUBS * PANEL]);

/// Where a group's rounded rows are read.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    pub codes: *const u8,
    pub scales: *const f32,
    pub starts: *const i32,
    pub sums: *const f32,
}

impl Cursor {
    /// The group of `rows` rows at `group`, from block `block` on.
    #[inline(always)]
    pub fn new(layout: &GroupLayout, group: *const u8, rows: usize, block: usize) -> Cursor {
        let subs = layout.subs * block;
        Cursor {
            codes: group.wrapping_add(rows * block * BLOCK),
            scales: group
                .wrapping_add(layout.scales(rows))
                .cast::<f32>()
                .wrapping_add(rows * block),
            starts: group.wrapping_add(layout.starts(rows)).cast::<i32>().wrapping_add(rows * subs),
            sums: group.wrapping_add(layout.sums(rows)).cast::<f32>().wrapping_add(rows * subs),
        }
    }

    #[inline(always)]
    fn advance(&mut self, rows: usize, subs: usize) {
        self.codes = self.codes.wrapping_add(rows * BLOCK);
        self.scales = self.scales.wrapping_add(rows);
        self.starts = self.starts.wrapping_add(rows * subs);
        self.sums = self.sums.wrapping_add(rows * subs);
    }
}

/// Adds the products of one block of `C` panels by what broadcasts a quad of a row to all lanes.
/// `codes(j, c)`: quad `j` of panel `c`; `scales(sub, c)`: of its sub-blocks; `mins`: of each panel, and
/// `stride` elements on for the next sub-block.
///
/// # Safety
/// As for [`Lanes::add_block`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "tiles of registers: indices are constants")]
pub(super) unsafe fn add_block<
    L: Lanes,
    const HALVES: bool,
    const MINS: bool,
    const WIDE: bool,
    const R: usize,
    const C: usize,
>(
    l: L,
    codes: impl Fn(usize, usize) -> L::B,
    scales: impl Fn(usize, usize) -> L::F,
    mins: *const f32,
    stride: usize,
    rows: &Cursor,
    acc: &mut [[L::F; C]; R],
) {
    let subs = if HALVES { 2 } else { 1 };
    // SAFETY: the caller's promise.
    unsafe {
        for sub in 0..subs {
            let mut ints = [[l.isplat(0); C]; R];
            for (r, ints) in ints.iter_mut().enumerate() {
                *ints = [l.isplat(*rows.starts.add(sub * R + r)); C];
            }
            for j in 0..8 / subs {
                let j = j + sub * 4;
                let mut quads = [l.bytes(0); C];
                for (c, quad) in quads.iter_mut().enumerate() {
                    *quad = codes(j, c);
                }
                for (r, ints) in ints.iter_mut().enumerate() {
                    let x = l.quad(rows.codes.add((j * R + r) * 4));
                    for c in 0..C {
                        ints[c] = if WIDE {
                            l.dot_wide(ints[c], quads[c], x)
                        } else {
                            l.dot(ints[c], quads[c], x)
                        };
                    }
                }
            }
            for c in 0..C {
                let scale = scales(sub, c);
                for r in 0..R {
                    let scale = l.mul(scale, l.splat(*rows.scales.add(r)));
                    acc[r][c] = l.fma(l.float(ints[r][c]), scale, acc[r][c]);
                }
                if MINS {
                    let min = l.load_f(mins.add(sub * stride + c * PANEL));
                    for r in 0..R {
                        let sum = l.splat(*rows.sums.add(sub * R + r));
                        acc[r][c] = l.fma(min, sum, acc[r][c]);
                    }
                }
            }
        }
    }
}

/// The bits of quad `j` in a plane of `WIDTH` lines, from bit `LOWEST` of the codes on.
#[inline(always)]
fn plane_bits<L: Lanes, const WIDTH: usize, const LOWEST: usize>(
    l: L,
    lines: &[L::B; WIDTH],
    j: usize,
) -> L::B {
    let mask = l.bytes((((1u32 << WIDTH) - 1) << LOWEST) as u8);
    let by = (WIDTH * (j / WIDTH)) as i32 - LOWEST as i32;
    l.and(l.shift(lines[j % WIDTH], by), mask)
}

/// The quads of a plane of codes at `p`.
///
/// # Safety
/// Its `WIDTH` lines can be read.
#[inline(always)]
unsafe fn plane<L: Lanes, const WIDTH: usize, const LOWEST: usize>(
    l: L,
    p: *const u8,
) -> [L::B; 8] {
    // SAFETY: the caller's promise.
    let lines: [L::B; WIDTH] = std::array::from_fn(|i| unsafe { l.load(p.add(64 * i)) });
    // One by one: a loop over them is left a loop, with shifts by what a register says and quads
    // in memory, at a quarter of the speed.
    [
        plane_bits::<L, WIDTH, LOWEST>(l, &lines, 0),
        plane_bits::<L, WIDTH, LOWEST>(l, &lines, 1),
        plane_bits::<L, WIDTH, LOWEST>(l, &lines, 2),
        plane_bits::<L, WIDTH, LOWEST>(l, &lines, 3),
        plane_bits::<L, WIDTH, LOWEST>(l, &lines, 4),
        plane_bits::<L, WIDTH, LOWEST>(l, &lines, 5),
        plane_bits::<L, WIDTH, LOWEST>(l, &lines, 6),
        plane_bits::<L, WIDTH, LOWEST>(l, &lines, 7),
    ]
}

/// Signed bytes as codes of 8 bits.
#[inline(always)]
pub(super) fn wide<L: Lanes>(l: L, bytes: L::B) -> L::B {
    if L::SIGNED { bytes } else { l.xor(bytes, l.bytes(128)) }
}

/// What a form's stored codes stand for.
#[inline(always)]
fn table<L: Lanes>(l: L, form: &Form) -> L::B {
    let flip = if form.is_wide() && L::SIGNED { 128 } else { 0 };
    l.table(&form.table.unwrap_or_default().map(|code| code ^ flip))
}

/// The codes of a block, one a byte, quad by quad; [`Form::planes`] says how they lie.
///
/// # Safety
/// A block of codes of `BITS` bits can be read at `p`.
#[inline(always)]
unsafe fn unpack<L: Lanes, const BITS: usize, const TABLE: bool>(
    l: L,
    table: L::B,
    p: *const u8,
) -> [L::B; 8] {
    // SAFETY: the caller's promise; a plane's lines follow those of the one before.
    let mut quads = unsafe {
        match BITS {
            2 => plane::<L, 2, 0>(l, p),
            3 => join(l, plane::<L, 2, 0>(l, p), plane::<L, 1, 2>(l, p.add(128))),
            4 => plane::<L, 4, 0>(l, p),
            5 => join(l, plane::<L, 4, 0>(l, p), plane::<L, 1, 4>(l, p.add(256))),
            8 => std::array::from_fn(|j| wide(l, l.load(p.add(64 * j)))),
            _ => join(l, plane::<L, 4, 0>(l, p), plane::<L, 2, 4>(l, p.add(256))),
        }
    };
    if TABLE {
        for quad in &mut quads {
            *quad = l.lookup(table, *quad);
        }
    }
    quads
}

// A loop, and no closure: those are not always inlined, and then lack the instructions.
#[inline(always)]
fn join<L: Lanes>(l: L, mut low: [L::B; 8], high: [L::B; 8]) -> [L::B; 8] {
    for (low, high) in low.iter_mut().zip(high) {
        *low = l.or(*low, high);
    }
    low
}

/// Writes the scales, and minima, of a unit of `blocks` blocks at `unit`: for each sub-block those
/// of the panel, `stride` elements apart. Returns where its codes start.
///
/// # Safety
/// The unit can be read, and `scales` and `mins` written.
#[inline(always)]
unsafe fn load_scales<L: Lanes>(
    l: L,
    form: &Form,
    unit: *const u8,
    blocks: usize,
    scales: *mut f32,
    mins: *mut f32,
    stride: usize,
) -> *const u8 {
    let subs = form.subs();
    let wide = form.wide_scales(blocks);
    let (second, small) = match form.mins {
        true => (unit.wrapping_add(2 * PANEL * wide), unit.wrapping_add(4 * PANEL * wide)),
        false => (unit, unit.wrapping_add(2 * PANEL * wide)),
    };
    let small_mins = small.wrapping_add(PANEL * form.small_scales(blocks));
    // SAFETY: the caller's promise; the parts are as `Form::header` counts them.
    unsafe {
        match form.scale {
            Scale::Block | Scale::Power => {
                for b in 0..blocks {
                    let at = 2 * PANEL * b;
                    let scale = match is_power(form) {
                        true => l.load_upper(unit.add(at)),
                        false => l.load_half(unit.add(at)),
                    };
                    l.store_f(scales.add(b * stride), scale);
                    if form.mins {
                        l.store_f(mins.add(b * stride), l.load_half(second.add(at)));
                    }
                }
            }
            Scale::Unit => {
                let scale = l.load_half(unit);
                (0..blocks).for_each(|b| l.store_f(scales.add(b * stride), scale));
            }
            Scale::Scaled => {
                let scale = l.load_half(unit);
                for b in 0..blocks * subs {
                    let scale = l.mul(scale, l.load_i8(small.add(PANEL * b)));
                    l.store_f(scales.add(b * stride), scale);
                }
                if form.mins {
                    let min = l.mul(l.load_half(second), l.splat(-1.0));
                    for b in 0..blocks * subs {
                        let min = l.mul(min, l.load_u8(small_mins.add(PANEL * b)));
                        l.store_f(mins.add(b * stride), min);
                    }
                }
            }
        }
    }
    unit.wrapping_add(form.header(blocks))
}

/// The most rows of a [`Direct`].
pub(super) const DIRECT_ROWS: usize = 2;

/// All sums of some panels for a group of few rows, straight from the packed codes.
#[derive(Clone, Copy)]
pub(super) struct Direct<'a> {
    pub form: &'a Form,
    pub layout: GroupLayout,
    /// The first panel; the others follow it.
    pub panel: *const u8,
    pub panels: usize,
    pub group: *const u8,
    /// Rows of the group.
    pub rows: usize,
    /// For each row, where the 16 sums of the first panel go; those of the others follow them.
    pub out: [*mut f32; DIRECT_ROWS],
}

/// A [`Direct`] of `R` rows.
struct DirectRows<
    'a,
    const BITS: usize,
    const TABLE: bool,
    const HALVES: bool,
    const MINS: bool,
    const WIDE: bool,
    const R: usize,
>(Direct<'a>);

impl<
    const BITS: usize,
    const TABLE: bool,
    const HALVES: bool,
    const MINS: bool,
    const WIDE: bool,
    const R: usize,
> Work for DirectRows<'_, BITS, TABLE, HALVES, MINS, WIDE, R>
{
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Direct { form, layout, panel, panels, group, out, .. } = self.0;
        let table = table(l, form);
        // Halves of their own, for each block: they are read where they are.
        let halves = const { !TABLE && !HALVES && !MINS && (BITS == 4 || BITS == 8) };
        debug_assert!(!halves || form.scale == Scale::Block);
        let mut scales = MaybeUninit::<Scales>::uninit();
        let mut mins = MaybeUninit::<Scales>::uninit();
        let mut p = panel;
        let subs = if HALVES { 2 } else { 1 };
        // SAFETY: the caller promises panels and rows of `blocks` blocks, and room for the sums.
        unsafe {
            for panel in 0..panels {
                let mut acc = [[l.splat(0.0); 1]; R];
                let mut rows = Cursor::new(&layout, group, R, 0);
                let mut left = layout.blocks;
                while left > 0 {
                    let here = left.min(UNIT);
                    let (s, m) = (scales.as_mut_ptr().cast(), mins.as_mut_ptr().cast());
                    let header = p;
                    p = match halves {
                        true => p.wrapping_add(form.header(here)),
                        false => load_scales(l, form, p, here, s, m, PANEL),
                    };
                    for b in 0..here {
                        let quads = unpack::<L, BITS, TABLE>(l, table, p);
                        p = p.add(64 * BITS);
                        let at = b * subs * PANEL;
                        let scale = |sub: usize| match halves {
                            true => l.load_half(header.add(2 * PANEL * b)),
                            false => l.load_f(s.add(at + sub * PANEL)),
                        };
                        let m = m.add(at);
                        l.add_block::<HALVES, MINS, WIDE, R>(
                            |j| quads[j],
                            scale,
                            m,
                            &rows,
                            &mut acc,
                        );
                        rows.advance(R, subs);
                    }
                    left -= here;
                }
                for (out, acc) in out.iter().zip(acc) {
                    l.store_f(out.add(panel * PANEL), acc[0]);
                }
            }
        }
    }
}

macro_rules! by_rows {
    ($l:ident, $rows:expr, $work:ident<$($flag:literal),*>($args:expr)) => {
        match $rows {
            1 => $l.outline($work::<$($flag,)* 1>($args)),
            2 => $l.outline($work::<$($flag,)* 2>($args)),
            3 if const { 3 <= L::ROWS } => $l.outline($work::<$($flag,)* 3>($args)),
            4 if const { 4 <= L::ROWS } => $l.outline($work::<$($flag,)* 4>($args)),
            5 if const { 5 <= L::ROWS } => $l.outline($work::<$($flag,)* 5>($args)),
            6 if const { 6 <= L::ROWS } => $l.outline($work::<$($flag,)* 6>($args)),
            rows => unreachable!("a group of {rows} rows"),
        }
    };
}

impl Work for Direct<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let form = self.form;
        macro_rules! go {
            ($($flag:literal),*) => {
                match self.rows {
                    1 => l.outline(DirectRows::<$($flag,)* 1>(self)),
                    2 => l.outline(DirectRows::<$($flag,)* 2>(self)),
                    rows => unreachable!("{rows} rows straight from packed codes"),
                }
            };
        }
        match (form.bits, form.table.is_some(), form.halves, form.mins, form.is_wide()) {
            (2, false, false, false, false) => go!(2, false, false, false, false),
            (2, false, true, true, false) => go!(2, false, true, true, false),
            (3, false, true, false, false) => go!(3, false, true, false, false),
            (4, false, false, false, false) => go!(4, false, false, false, false),
            (4, false, false, true, false) => go!(4, false, false, true, false),
            (4, true, false, false, false) => go!(4, true, false, false, false),
            (4, true, false, false, true) => go!(4, true, false, false, true),
            (5, false, false, false, false) => go!(5, false, false, false, false),
            (5, false, false, true, false) => go!(5, false, false, true, false),
            (6, false, true, false, false) => go!(6, false, true, false, false),
            (8, false, false, false, true) => go!(8, false, false, false, true),
            _ => unreachable!("no kernel for {form:?}"),
        }
    }
}

/// Panels side by side in expanded form.
pub(super) const SIDE: usize = 2;

/// Writes units of a packed panel as bytes and singles: of each block, quad by quad, 64 codes of
/// each of [`SIDE`] panels, of which this is panel `side`; of each sub-block the scales likewise.
#[derive(Clone, Copy)]
pub(super) struct Expand<'a> {
    pub form: &'a Form,
    /// The first unit.
    pub unit: *const u8,
    pub blocks: usize,
    pub side: usize,
    pub codes: *mut u8,
    pub scales: *mut f32,
    pub mins: *mut f32,
}

struct ExpandBits<'a, const BITS: usize, const TABLE: bool>(Expand<'a>);

impl<const BITS: usize, const TABLE: bool> Work for ExpandBits<'_, BITS, TABLE> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Expand { form, unit, blocks, side, codes, scales, mins } = self.0;
        let table = table(l, form);
        let subs = form.subs();
        let mut p = unit;
        // SAFETY: the caller of `run_tiles` promises packed units and room for them.
        unsafe {
            for first in (0..blocks).step_by(UNIT) {
                let here = UNIT.min(blocks - first);
                let at = (first * subs * SIDE + side) * PANEL;
                let (s, m) = (scales.add(at), mins.wrapping_add(at));
                p = load_scales(l, form, p, here, s, m, SIDE * PANEL);
                for b in first..first + here {
                    let quads = unpack::<L, BITS, TABLE>(l, table, p);
                    p = p.add(64 * BITS);
                    l.store_quads(codes.add((b * 8 * SIDE + side) * 64), quads, |quad| quad);
                }
            }
        }
    }
}

impl Work for Expand<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match (self.form.bits, self.form.table.is_some()) {
            (2, _) => l.outline(ExpandBits::<2, false>(self)),
            (3, _) => l.outline(ExpandBits::<3, false>(self)),
            (4, false) => l.outline(ExpandBits::<4, false>(self)),
            (4, true) => l.outline(ExpandBits::<4, true>(self)),
            (5, _) => l.outline(ExpandBits::<5, false>(self)),
            (8, _) => l.outline(ExpandBits::<8, false>(self)),
            _ => l.outline(ExpandBits::<6, false>(self)),
        }
    }
}

/// Adds the products of some blocks of two expanded panels to the sums of a group of rows.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub form: &'a Form,
    pub layout: GroupLayout,
    /// Blocks to add.
    pub first: usize,
    pub blocks: usize,
    pub codes: *const u8,
    pub scales: *const f32,
    pub mins: *const f32,
    pub group: *const u8,
    pub rows: usize,
    /// For each row 16 sums of each panel; they start from 0 at the first block.
    pub sums: *mut f32,
}

struct TileRows<'a, const HALVES: bool, const MINS: bool, const WIDE: bool, const R: usize>(
    Tile<'a>,
);

impl<const HALVES: bool, const MINS: bool, const WIDE: bool, const R: usize> Work
    for TileRows<'_, HALVES, MINS, WIDE, R>
{
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if const { L::PANELS == SIDE } {
            self.panels::<L, SIDE>(l, 0);
        } else {
            (0..SIDE).for_each(|side| self.panels::<L, 1>(l, side));
        }
    }
}

impl<const HALVES: bool, const MINS: bool, const WIDE: bool, const R: usize>
    TileRows<'_, HALVES, MINS, WIDE, R>
{
    /// `C` panels from panel `side` on.
    #[inline(always)]
    fn panels<L: Lanes, const C: usize>(&self, l: L, side: usize) {
        let Tile { layout, first, blocks, codes, scales, mins, group, sums, .. } = self.0;
        let mut acc = [[l.splat(0.0); C]; R];
        let mut rows = Cursor::new(&layout, group, R, first);
        let subs = if HALVES { 2 } else { 1 };
        // SAFETY: the caller of `run_tiles` promises expanded panels, rounded rows and sums.
        unsafe {
            let sums = sums.add(side * PANEL);
            if first > 0 {
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (c, acc) in acc.iter_mut().enumerate() {
                        *acc = l.load_f(sums.add((r * SIDE + c) * PANEL));
                    }
                }
            }
            l.turn(&mut acc);
            for b in 0..blocks {
                let here = codes.add(b * SIDE * EXPANDED + side * 64);
                let at = (b * subs * SIDE + side) * PANEL;
                let (s, m) = (scales.add(at), mins.wrapping_add(at));
                l.add_tile_block::<HALVES, MINS, WIDE, R, C>(here, s, m, &rows, &mut acc);
                rows.advance(R, subs);
            }
            l.turn(&mut acc);
            for (r, acc) in acc.into_iter().enumerate() {
                for (c, acc) in acc.into_iter().enumerate() {
                    l.store_f(sums.add((r * SIDE + c) * PANEL), acc);
                }
            }
        }
    }
}

impl Work for Tile<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        macro_rules! go {
            ($($flag:literal),*) => { by_rows!(l, self.rows, TileRows<$($flag),*>(self)) };
        }
        let wide = self.form.is_wide() && L::WIDE_ZERO != 128;
        match (self.form.halves, self.form.mins, wide) {
            (false, false, false) => go!(false, false, false),
            (false, false, true) => go!(false, false, true),
            (false, true, _) => go!(false, true, false),
            (true, false, _) => go!(true, false, false),
            (true, true, _) => go!(true, true, false),
        }
    }
}
