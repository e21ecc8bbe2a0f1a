//! Elements of a row that are kept apart: those that outweigh the rest of their block.
//!
//! A block's scale is its largest element / 127, so one that is k times the others' size σ has their codes
//! rounded by k σ / 440 (a step's standard deviation), of σ: at k = 100 by a quarter. What that
//! adds to a product's error, in per cent of its size, with 4 such channels among 2048 normal elements
//! (`examples/rounding_error.rs`; in brackets by one scale, first as it is), where the channels have weights
//! like others, or weights so small that all products are alike:
//!
//! | | weights' own error | no outliers | 20 times | 100 times | 1000 times |
//! |---|--:|--:|--:|--:|--:|
//! | Q8_0 | 0.5 | 0.50 | 0.86 (0.86) | 0.12 (1.34) | 0.01 (0.60) |
//! | Q6_K | 1.7 | 0.50 | 0.86 (0.86) | 0.12 (1.34) | 0.01 (0.60) |
//! | Q4_0 | 8.8 | 0.50 | 0.85 (0.85) | 0.12 (1.34) | 0.01 (0.60) |
//! | Q8_0, small weights | 0.7 to 4 | 0.50 | 1.10 (1.10) | 0.50 (5.6) | 0.50 (24) |
//! | Q6_K, small weights | 2.3 to 4.4 | 0.50 | 1.10 (1.10) | 0.50 (5.6) | 0.50 (24) |
//! | Q4_0, small weights | 9 | 0.50 | 1.09 (1.09) | 0.49 (5.6) | 0.49 (24) |
//!
//! By one scale outliers add more than the weights' own error has, with Q8_0 always. So an element that
//! outweighs the rest of its block together, from k = 25 on, is 0 there, and its products with the
//! weights' column are added in f32 at the end. Rows that have none only look at a count.

use super::form::{BLOCK, Form, PANEL, Scale, UNIT};
use super::lanes::{Lanes, Work};
use super::micro::{self, Scales};
use super::round::GroupLayout;
use super::{stored, twos};

/// The most elements of a row that are kept apart. More are no outliers.
pub(super) const MOST: usize = 16;

/// What is kept apart of a row.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Apart {
    count: u32,
    places: [u32; MOST],
    values: [f32; MOST],
}

/// Bytes of an [`Apart`].
pub(super) const BYTES: usize = size_of::<Apart>();

impl Apart {
    /// Takes the largest element of block `block` out of `x`, if there is room.
    #[cold]
    pub fn take(&mut self, block: usize, x: &mut [f32; BLOCK]) -> bool {
        let at = self.count as usize;
        if at == MOST {
            return false;
        }
        let larger = |a: usize, b: usize| if x[b].abs() > x[a].abs() { b } else { a };
        let largest = (0..BLOCK).fold(0, larger);
        self.places[at] = (block * BLOCK + largest) as u32;
        self.values[at] = std::mem::take(&mut x[largest]);
        self.count += 1;
        true
    }

    /// What is kept apart of each of the `count` rows of a group.
    ///
    /// # Panics
    /// Where the group has too few bytes, or is not on a boundary of 4.
    pub fn of_group<'a>(layout: &GroupLayout, group: &'a [u8], count: usize) -> &'a [Apart] {
        bytemuck::cast_slice(&group[layout.apart(count)..][..count * BYTES])
    }

    /// Whether that is nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Element and value of each.
    pub fn each(&self) -> impl Iterator<Item = (usize, f32)> {
        let count = MOST.min(self.count as usize);
        self.places.iter().map(|place| *place as usize).zip(self.values).take(count)
    }
}

/// A panel, as it is multiplied.
#[derive(Clone, Copy)]
pub(super) enum Panel<'a> {
    Packed(&'a Form, *const u8),
    Stored(stored::Rows),
}

/// Adds the products of a panel's column `element` by `value` to 16 sums.
pub(super) struct AddColumn<'a> {
    pub panel: Panel<'a>,
    /// Blocks of the panel.
    pub blocks: usize,
    /// Below `32 · blocks`.
    pub element: usize,
    pub value: f32,
    /// 16 sums.
    pub sums: *mut f32,
}

impl Work for AddColumn<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        l.outline(Adding(self));
    }
}

struct Adding<'a>(AddColumn<'a>);

impl Work for Adding<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let AddColumn { panel, blocks, element, value, sums } = self.0;
        // SAFETY: the caller promises a panel that has the element, and room for the sums.
        unsafe {
            let [weight, min] = match panel {
                Panel::Packed(form, panel) => packed(l, form, panel, blocks, element),
                Panel::Stored(rows) => [stored::column(l, &rows, element), l.splat(0.0)],
            };
            let acc = l.fma(weight, l.splat(value), l.load_f(sums));
            l.store_f(sums, l.fma(min, l.splat(value), acc));
        }
    }
}

/// The weights of a packed panel's column, and what is to be added to each.
///
/// # Safety
/// The panel has `blocks` blocks, and the element.
#[inline(always)]
unsafe fn packed<L: Lanes>(
    l: L,
    form: &Form,
    panel: *const u8,
    blocks: usize,
    element: usize,
) -> [L::F; 2] {
    let (block, element) = (element / BLOCK, element % BLOCK);
    let (first, block) = (block / UNIT * UNIT, block % UNIT);
    let half = element / (BLOCK / 2);
    let unit = panel.wrapping_add(first / UNIT * form.unit(UNIT));
    let mut scales = Scales::new();
    let mut mins = Scales::new();
    // SAFETY: the caller's promise; there is room for a unit's scales.
    unsafe {
        let (s, m) = (scales.as_mut_ptr(), mins.as_mut_ptr());
        let codes = micro::load_scales(l, form, unit, UNIT.min(blocks - first), s, m, PANEL);
        let mut quads = micro::unpack_any(l, form, codes, block);
        if form.scale == Scale::Folded {
            let [factors, _] = twos::factors(unit);
            quads = twos::fold(l, quads, l.load_nibbles(factors.add(PANEL * block)));
        }
        let mut unit = [0; 4];
        unit[element % 4] = 1;
        let one = l.quad(unit.as_ptr());
        let ints = match form.is_wide() {
            true => l.dot_wide(l.isplat(-L::WIDE_ZERO), quads[element / 4], one),
            false => l.dot(l.isplat(-i32::from(form.zero)), quads[element / 4], one),
        };
        let at = |parts: usize| block * parts + if parts == 2 { half } else { 0 };
        let scale = l.load_f(s.add(at(form.subs()) * PANEL));
        let min = match form.mins() {
            0 => l.splat(0.0),
            parts => l.load_f(m.add(at(parts) * PANEL)),
        };
        [l.mul(l.float(ints), scale), min]
    }
}
