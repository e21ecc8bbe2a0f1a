//! Products of rows of `f32` with weights of 16 or 32 bits, packed into panels of 16 rows: element
//! `j` of all rows of a panel lies together.
//!
//! Each result is one chain of fused sums in the order of the elements, whatever rows and panels
//! are computed with it.

use std::ops::Range;

use super::form::PANEL;
use super::lanes::{Lanes, Work};
use super::{SIDE, finish, needs, run_on};
use crate::elementwise::Unary;
use crate::isa::Isa;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;

/// The element type of float weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// IEEE singles.
    F32,
    /// IEEE halves.
    F16,
    /// The upper halves of singles.
    BF16,
}

impl Float {
    /// The name that dumps and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Float::F32 => "f32",
            Float::F16 => "f16",
            Float::BF16 => "bf16",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        if self == Float::F32 { 4 } else { 2 }
    }
}

/// Elements of an expanded panel: as many as stay in the first-level cache while all rows pass by.
const CHUNK: usize = 256;

/// Panels that a single row is multiplied by side by side, so that enough sums are under way.
const ABREAST: usize = 4;

/// How float weights of `m` rows of `k` elements are packed and multiplied.
#[derive(Clone, Copy, Debug)]
pub struct FloatLayout {
    isa: Isa,
    float: Float,
    /// Rows of the weights.
    pub m: usize,
    /// Elements of a row.
    pub k: usize,
}

impl FloatLayout {
    /// The layout for `m` rows of `k` elements.
    pub fn new(isa: Isa, float: Float, m: usize, k: usize) -> FloatLayout {
        FloatLayout { isa, float, m, k }
    }

    /// Panels: what [`FloatProduct::run`] can share out.
    pub fn panels(&self) -> usize {
        self.m.div_ceil(PANEL)
    }

    /// Bytes of a packed panel.
    pub fn panel_bytes(&self) -> usize {
        self.k * PANEL * self.float.bytes()
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// The element type.
    pub fn float(&self) -> Float {
        self.float
    }

    /// The instruction set that it runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Panels that are best shared out together.
    pub const GRAIN: usize = ABREAST;

    /// Packs `panels` of `weights`, the bytes of all rows, into `out`, which has room for just
    /// these panels.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub fn pack(&self, panels: Range<usize>, weights: &[u8], out: &mut [u8]) {
        for (panel, out) in panels.zip(out.chunks_exact_mut(self.panel_bytes().max(1))) {
            let rows = panel * PANEL..self.m.min((panel + 1) * PANEL);
            let row = self.k * self.float.bytes();
            let rows = &weights[rows.start * row..rows.end * row];
            match self.float {
                Float::F32 => interleave::<4>(rows, self.k, out),
                _ => interleave::<2>(rows, self.k, out),
            }
        }
    }

    /// Bytes of scratch that [`FloatProduct::run`] needs for `rows` rows.
    pub fn scratch(&self, rows: usize) -> usize {
        if rows <= needs(self.isa).0 {
            return 0;
        }
        need::<f32>(CHUNK * SIDE * PANEL) + need::<f32>(rows * SIDE * PANEL)
    }
}

fn interleave<const BYTES: usize>(rows: &[u8], k: usize, out: &mut [u8]) {
    out.fill(0);
    for (r, row) in rows.chunks_exact((k * BYTES).max(1)).enumerate() {
        let elements = row.as_chunks::<BYTES>().0;
        for (out, element) in out.chunks_exact_mut(PANEL * BYTES).zip(elements) {
            out[r * BYTES..(r + 1) * BYTES].copy_from_slice(element);
        }
    }
}

/// Rows of `f32`, and where their results go.
#[derive(Clone, Copy)]
pub struct FloatRows<'a> {
    /// Rows of `k` elements.
    pub data: &'a [f32],
    /// How many rows to multiply.
    pub count: usize,
    /// For each of them, which row of `data` it is; `None`: all in order.
    pub sources: Option<&'a [i32]>,
    /// For each of them, the row of the result; `None`: the same.
    pub targets: Option<&'a [i32]>,
}

/// A product with packed float weights.
#[derive(Clone, Copy)]
pub struct FloatProduct<'a> {
    /// How the weights are packed.
    pub layout: &'a FloatLayout,
    /// The packed weights: [`FloatLayout::bytes`].
    pub packed: &'a [u8],
    /// A value a row of weights.
    pub bias: Option<&'a [f32]>,
    /// Applied to the biased sums.
    pub activation: Unary,
}

impl FloatProduct<'_> {
    /// Computes the columns of `panels` of all rows: row i of the result is
    /// `out[target(i) * m..][..m]`.
    ///
    /// # Safety
    /// Meanwhile nobody else touches these columns of these rows of `out`.
    ///
    /// # Panics
    /// Where a slice is too short.
    pub unsafe fn run(
        &self,
        rows: FloatRows<'_>,
        panels: Range<usize>,
        out: SharedMut<'_, f32>,
        mut scratch: &mut [u8],
    ) {
        let layout = self.layout;
        assert!(panels.end <= layout.panels(), "panel out of range");
        assert!(self.packed.len() >= layout.bytes(), "packed weights too short");
        assert!(self.bias.is_none_or(|b| b.len() >= layout.m), "bias too short");
        assert!(rows.targets.is_none_or(|t| t.len() >= rows.count), "targets too short");
        let most = needs(layout.isa).0;
        let direct = rows.count <= most;
        let expanded = if direct { 0 } else { CHUNK * SIDE * PANEL };
        let mut few = [0.0; super::MOST_ROWS * ABREAST * PANEL];
        let (chunk, sums) = match direct {
            true => (&mut [][..], &mut few[..]),
            false => {
                let chunk = carve::<f32>(&mut scratch, expanded);
                (chunk, carve::<f32>(&mut scratch, rows.count * SIDE * PANEL))
            }
        };
        let side = if direct { if rows.count == 1 { ABREAST } else { SIDE } } else { SIDE };
        let row = |i: usize| {
            let source = rows.sources.map_or(i, |sources| sources[i] as usize);
            rows.data[source * layout.k..][..layout.k].as_ptr()
        };
        for first in panels.clone().step_by(side) {
            let here = side.min(panels.end - first);
            let panel = self.packed[first * layout.panel_bytes()..].as_ptr();
            if direct {
                let mut at = [std::ptr::null(); super::MOST_ROWS];
                (0..rows.count).for_each(|i| at[i] = row(i));
                let work = Direct {
                    layout,
                    panel,
                    panels: here,
                    side,
                    rows: &at[..rows.count],
                    sums: sums.as_mut_ptr(),
                };
                run_on(layout.isa, work);
            } else {
                sums.fill(0.0);
                for start in (0..layout.k).step_by(CHUNK) {
                    let depth = CHUNK.min(layout.k - start);
                    let to = chunk.as_mut_ptr();
                    run_on(layout.isa, Expand { layout, panel, panels: here, start, depth, to });
                    for i in (0..rows.count).step_by(most) {
                        let count = most.min(rows.count - i);
                        let mut at = [std::ptr::null(); super::MOST_ROWS];
                        (0..count).for_each(|r| at[r] = row(i + r).wrapping_add(start));
                        let sums = sums[i * SIDE * PANEL..].as_mut_ptr();
                        run_on(layout.isa, Tile { depth, b: to, rows: &at[..count], sums });
                    }
                }
            }
            let width = here * PANEL;
            for (r, sums) in sums.chunks_exact(side * PANEL).take(rows.count).enumerate() {
                let target = rows.targets.map_or(r, |targets| targets[r] as usize);
                let place = (target * layout.m, first * PANEL..layout.m.min(first * PANEL + width));
                // SAFETY: the caller's promise.
                unsafe { finish(layout.isa, (self.bias, self.activation), place, sums, out) };
            }
        }
    }
}

/// Loads element `j` of a panel's rows.
#[inline(always)]
unsafe fn load<L: Lanes>(l: L, float: Float, p: *const u8) -> L::F {
    // SAFETY: the caller lets us read 16 elements.
    unsafe {
        match float {
            Float::F32 => l.load_f(p.cast()),
            Float::F16 => l.load_half(p),
            Float::BF16 => l.load_upper(p),
        }
    }
}

/// Sums of a few rows by up to `side` panels, straight from the packed weights.
struct Direct<'a> {
    layout: &'a FloatLayout,
    panel: *const u8,
    panels: usize,
    side: usize,
    rows: &'a [*const f32],
    /// For each row 16 sums of each panel.
    sums: *mut f32,
}

struct DirectRows<'a, const F16: bool, const R: usize, const C: usize>(Direct<'a>);

impl<const F16: bool, const R: usize, const C: usize> Work for DirectRows<'_, F16, R, C> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Direct { layout, panel, panels, rows, sums, .. } = self.0;
        let float = if F16 { Float::F16 } else { layout.float };
        let rows: [*const f32; R] = std::array::from_fn(|r| rows[r]);
        let step = PANEL * float.bytes();
        // Panels that are not there are the first one again.
        let at: [*const u8; C] = std::array::from_fn(|c| {
            panel.wrapping_add(if c < panels { c * layout.panel_bytes() } else { 0 })
        });
        let mut acc = [[l.splat(0.0); C]; R];
        // SAFETY: `FloatProduct::run` checked the packed weights, the rows and the sums.
        unsafe {
            for j in 0..layout.k {
                // A loop, and no closure: closures are not always inlined, and then lack the
                // instructions.
                let mut w = [l.splat(0.0); C];
                for c in 0..C {
                    w[c] = load(l, float, at[c].add(j * step));
                }
                for r in 0..R {
                    let x = l.splat(*rows[r].add(j));
                    for c in 0..C {
                        acc[r][c] = l.fma(x, w[c], acc[r][c]);
                    }
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                for (c, acc) in acc.into_iter().enumerate() {
                    l.store_f(sums.add((r * C + c) * PANEL), acc);
                }
            }
        }
    }
}

impl Work for Direct<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        // The type that models have is compiled for itself.
        match (self.layout.float == Float::F16, self.side, self.rows.len()) {
            (true, ABREAST, _) => l.outline(DirectRows::<true, 1, ABREAST>(self)),
            (false, ABREAST, _) => l.outline(DirectRows::<false, 1, ABREAST>(self)),
            (true, _, n) => direct_rows::<L, true>(l, n, self),
            (false, _, n) => direct_rows::<L, false>(l, n, self),
        }
    }
}

#[inline(always)]
fn direct_rows<L: Lanes, const F16: bool>(l: L, rows: usize, work: Direct<'_>) {
    macro_rules! by_rows {
        ($($n:literal)*) => {
            match rows {
                $($n if const { $n <= L::ROWS } => l.outline(DirectRows::<F16, $n, SIDE>(work)),)*
                _ => unreachable!("a group of {rows} rows"),
            }
        };
    }
    by_rows!(2 3 4 5 6);
}

/// Writes `depth` elements from element `start` on of panels as singles, [`SIDE`] panels side by
/// side.
struct Expand<'a> {
    layout: &'a FloatLayout,
    panel: *const u8,
    panels: usize,
    start: usize,
    depth: usize,
    to: *mut f32,
}

struct ExpandAs<'a>(Expand<'a>);

impl Work for ExpandAs<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Expand { layout, panel, panels, start, depth, to } = self.0;
        let step = PANEL * layout.float.bytes();
        // SAFETY: `FloatProduct::run` checked the packed weights and the scratch.
        unsafe {
            for c in 0..panels {
                let p = panel.add(c * layout.panel_bytes() + start * step);
                for j in 0..depth {
                    let v = load(l, layout.float, p.add(j * step));
                    l.store_f(to.add((j * SIDE + c) * PANEL), v);
                }
            }
        }
    }
}

impl Work for Expand<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        l.outline(ExpandAs(self));
    }
}

/// Adds the products of some expanded elements to the sums of a few rows.
struct Tile<'a> {
    depth: usize,
    b: *const f32,
    rows: &'a [*const f32],
    sums: *mut f32,
}

struct TileRows<'a, const R: usize>(Tile<'a>);

impl<const R: usize> Work for TileRows<'_, R> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Tile { depth, b, rows, sums } = self.0;
        let rows: [*const f32; R] = std::array::from_fn(|r| rows[r]);
        // SAFETY: `FloatProduct::run` checked the rows and the scratch.
        unsafe {
            let at = |r: usize, c: usize| sums.add((r * SIDE + c) * PANEL);
            let mut acc = [[l.splat(0.0); SIDE]; R];
            for (r, acc) in acc.iter_mut().enumerate() {
                for (c, acc) in acc.iter_mut().enumerate() {
                    *acc = l.load_f(at(r, c));
                }
            }
            for j in 0..depth {
                let mut w = [l.splat(0.0); SIDE];
                for (c, w) in w.iter_mut().enumerate() {
                    *w = l.load_f(b.add((j * SIDE + c) * PANEL));
                }
                for r in 0..R {
                    let x = l.splat(*rows[r].add(j));
                    for c in 0..SIDE {
                        acc[r][c] = l.fma(x, w[c], acc[r][c]);
                    }
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                for (c, acc) in acc.into_iter().enumerate() {
                    l.store_f(at(r, c), acc);
                }
            }
        }
    }
}

impl Work for Tile<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        macro_rules! by_rows {
            ($($n:literal)*) => {
                match self.rows.len() {
                    $($n if const { $n <= L::ROWS } => l.outline(TileRows::<$n>(self)),)*
                    rows => unreachable!("a group of {rows} rows"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6);
    }
}
