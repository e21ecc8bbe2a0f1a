//! Products of rows of `f32` with encoded weights, by integer arithmetic.
//!
//! The rows are rounded to signed bytes ([`CodeLayout::round`]), each block of 32 by itself; the
//! weights keep their codes and scales, packed ([`CodeLayout::pack`]) so that a vector holds the
//! codes of 16 rows of weights, or are read as they are stored ([`CodeLayout::is_packed`]). Sums of a block are exact; the sums of blocks are of `f32`, in
//! their order. A row's results have the same bits whatever other rows are computed with it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod finish;
mod floats;
mod form;
mod lanes;
mod micro;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_tile;
mod pack;
mod round;
mod stored;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use finish::Finish;
pub use floats::{Float, FloatLayout, FloatProduct, FloatRows};

use crate::encoding::Encoding;
use crate::isa::Isa;
use crate::scratch::{carve, need};
use crate::shared::SharedMut;
use crate::simd::dispatch;
use form::{BLOCK, Form, PANEL, UNIT};
use lanes::{Lanes, Portable, Work};
use micro::{DIRECT_ROWS, Direct, EXPANDED, Expand, SIDE, Tile};
use round::{GroupLayout, Round};

/// Blocks of an expanded panel: as many as stay in the first-level cache while all rows pass by.
const CHUNK: usize = 2 * UNIT;

/// Panels whose sums few rows keep by them.
const DIRECT_PANELS: usize = 8;

#[repr(C, align(64))]
struct Sums([[f32; DIRECT_PANELS * PANEL]; DIRECT_ROWS]);

/// Rows of weights of a panel.
pub const PANEL_ROWS: usize = PANEL;

/// How encoded weights of `m` rows of `k` elements are packed and multiplied.
#[derive(Clone, Copy, Debug)]
pub struct CodeLayout {
    isa: Isa,
    encoding: Encoding,
    form: Form,
    /// Rows of the weights.
    pub m: usize,
    /// Elements of a row.
    pub k: usize,
}

/// Runs `work` on the vectors of `isa`.
fn run_on(isa: Isa, work: impl Work) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni(token) => token.outline(work),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(token) => avx2::Pairs::from(token).outline(work),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(token) => avx2::Pairs::from(token).outline(work),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(token) => neon::Fours(token).outline(work),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot(token) => neon::Fours(token).outline(work),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm(token) => neon::Fours(token).outline(work),
        _ => Portable.outline(work),
    }
}

/// What an instruction set asks of rows.
#[derive(Clone, Copy)]
struct Needs {
    rows: usize,
    float_rows: usize,
    wide_zero: i32,
    run: usize,
}

fn needs(isa: Isa) -> Needs {
    fn of<L: Lanes>(_: L) -> Needs {
        Needs { rows: L::ROWS, float_rows: L::FLOAT_ROWS, wide_zero: L::WIDE_ZERO, run: L::RUN }
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni(token) => of(token),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(token) => of(avx2::Pairs::from(token)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(token) => of(avx2::Pairs::from(token)),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(token) => of(neon::Fours(token)),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot(token) => of(neon::Fours(token)),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm(token) => of(neon::Fours(token)),
        _ => of(Portable),
    }
}

/// Rounded rows, and where their results go.
#[derive(Clone, Copy)]
pub struct RoundedRows<'a> {
    /// What [`CodeLayout::round`] made of each group of [`CodeLayout::group_rows`] rows (the last
    /// may have fewer), one after the other.
    pub data: &'a [u8],
    /// Rows.
    pub count: usize,
    /// For each row, the row of the result; `None`: the same.
    pub targets: Option<&'a [i32]>,
}

/// A product with packed weights.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// How the weights are packed.
    pub layout: &'a CodeLayout,
    /// The weights, packed where [`CodeLayout::is_packed`]: [`CodeLayout::bytes`].
    pub weights: &'a [u8],
    /// What is done with the sums.
    pub finish: Finish<'a>,
}

impl CodeLayout {
    /// The layout for `m` rows of `k` elements in `encoding`; `k` is whole blocks.
    ///
    /// # Panics
    /// Where `k` is not.
    pub fn new(isa: Isa, encoding: Encoding, m: usize, k: usize) -> CodeLayout {
        assert!(k.is_multiple_of(encoding.block_len()), "{k} elements are no blocks of {encoding}");
        CodeLayout { isa, encoding, form: Form::of(encoding), m, k }
    }

    /// Panels: what [`Product::run`] can share out.
    pub fn panels(&self) -> usize {
        self.m.div_ceil(PANEL)
    }

    /// Whether weights are multiplied from a packed copy; otherwise as they are stored.
    pub fn is_packed(&self) -> bool {
        !self.form.stored
    }

    /// Bytes of a stored row.
    fn row_stored(&self) -> usize {
        self.encoding.bytes(self.k).expect("whole blocks")
    }

    /// Bytes of a packed panel.
    pub fn panel_bytes(&self) -> usize {
        let blocks = self.k / BLOCK;
        let last = blocks % UNIT;
        let rest = if last > 0 { self.form.unit(last) } else { 0 };
        blocks / UNIT * self.form.unit(UNIT) + rest
    }

    /// Bytes of the weights as they are multiplied.
    pub fn bytes(&self) -> usize {
        if self.is_packed() {
            self.panels() * self.panel_bytes()
        } else {
            self.m * self.row_stored()
        }
    }

    /// Of `rows` rows, how many are rounded together.
    pub fn group_rows(&self, rows: usize) -> usize {
        if !self.is_packed() && self.is_direct(rows) { 1 } else { needs(self.isa).rows }
    }

    /// Whether so few rows meet the weights without an expanded copy.
    fn is_direct(&self, rows: usize) -> bool {
        let long_enough = self.is_packed() || self.k / BLOCK >= stored::LEAST_BLOCKS;
        rows <= DIRECT_ROWS && long_enough
    }

    /// Bytes of a rounded row.
    pub fn row_bytes(&self) -> usize {
        self.group().row_bytes()
    }

    /// The encoding.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The instruction set that it runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn group(&self) -> GroupLayout {
        GroupLayout {
            blocks: self.k / BLOCK,
            subs: self.form.subs(),
            mins: self.form.mins,
            run: needs(self.isa).run,
        }
    }

    /// Packs `panels` of `weights`, which are all rows as the encoding has them, into `out`, which
    /// has room for just these panels.
    ///
    /// # Panics
    /// Where a slice is too short, or the layout is not packed.
    pub fn pack(&self, panels: Range<usize>, weights: &[u8], out: &mut [u8]) {
        assert!(self.is_packed(), "{} is multiplied as it is stored", self.encoding);
        let row = self.row_stored();
        let blocks = self.k / BLOCK;
        for (panel, out) in panels.zip(out.chunks_exact_mut(self.panel_bytes())) {
            let rows = panel * PANEL..self.m.min((panel + 1) * PANEL);
            let rows = &weights[rows.start * row..rows.end * row];
            pack::pack_panel(self.isa, self.encoding, &self.form, blocks, rows, row, out);
        }
    }

    /// Rounds a group of at most [`CodeLayout::group_rows`] rows of `k` elements into `out`, which
    /// has [`CodeLayout::row_bytes`] for each. Rows that hold a NaN or an infinity give NaN.
    ///
    /// # Panics
    /// Where sizes differ from that.
    pub fn round(&self, rows: &[&[f32]], out: &mut [u8]) {
        assert!(rows.len() <= needs(self.isa).rows, "too many rows for a group");
        assert!(rows.iter().all(|r| r.len() == self.k), "rows of other lengths");
        assert!(out.len() == rows.len() * self.row_bytes(), "room for other rows");
        let wide = needs(self.isa).wide_zero;
        let zero = if self.form.is_wide() { wide } else { i32::from(self.form.zero) };
        dispatch(self.isa, Round { layout: self.group(), zero, rows, out });
    }

    /// Bytes of scratch that [`Product::run`] needs for `rows` rows or fewer.
    pub fn scratch(&self, rows: usize) -> usize {
        // Of many rows, parts may be few: those of an expert.
        let direct = if self.is_packed() { 0 } else { stored::scratch() };
        if self.is_direct(rows) {
            return direct;
        }
        let subs = CHUNK * self.form.subs() * SIDE * PANEL;
        let tiles = need::<u8>(CHUNK * SIDE * EXPANDED)
            + 2 * need::<f32>(subs)
            + need::<f32>(rows * SIDE * PANEL);
        tiles.max(direct)
    }

    /// Panels that are best shared out together for so many rows.
    pub fn grain(&self, rows: usize) -> usize {
        if self.is_direct(rows) { 1 } else { SIDE }
    }
}

impl Product<'_> {
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
        rows: RoundedRows<'_>,
        panels: Range<usize>,
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let layout = self.layout;
        if rows.count == 0 || panels.is_empty() || layout.k == 0 {
            return;
        }
        assert!(panels.end <= layout.panels(), "panel out of range");
        assert!(self.weights.len() >= layout.bytes(), "weights too short");
        assert!(rows.data.len() >= rows.count * layout.row_bytes(), "rounded rows too short");
        assert!(rows.data.as_ptr().cast::<f32>().is_aligned(), "rounded rows out of line");
        self.finish.check(layout.m, out);
        assert!(rows.targets.is_none_or(|t| t.len() >= rows.count), "targets too short");
        // SAFETY: sizes were just checked; the rest is the caller's promise.
        unsafe {
            if layout.is_direct(rows.count) {
                self.direct(rows, panels, out, scratch);
            } else {
                self.tiles(rows, panels, out, scratch);
            }
        }
    }

    /// Where the results of a row by `panels` go: the row's start, and its columns.
    fn place(
        &self,
        rows: RoundedRows<'_>,
        row: usize,
        panels: Range<usize>,
    ) -> (usize, Range<usize>) {
        let m = self.layout.m;
        let row = rows.targets.map_or(row, |targets| targets[row] as usize);
        (row * m, panels.start * PANEL..m.min(panels.end * PANEL))
    }

    fn stored_rows(&self, panel: usize) -> stored::Rows {
        stored::rows(self.weights, self.layout.row_stored(), self.layout.m, panel)
    }

    /// Panels for few rows.
    unsafe fn direct(
        &self,
        rows: RoundedRows<'_>,
        panels: Range<usize>,
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let layout = self.layout;
        let mut sums = Sums([[0.0; DIRECT_PANELS * PANEL]; DIRECT_ROWS]);
        for first in panels.clone().step_by(DIRECT_PANELS) {
            let here = first..panels.end.min(first + DIRECT_PANELS);
            let room = sums.0.each_mut().map(|sums| sums.as_mut_ptr());
            // SAFETY: there is room for so many panels of each row.
            unsafe { self.direct_to(rows, here.clone(), room, scratch) };
            for (r, sums) in sums.0.iter_mut().enumerate().take(rows.count) {
                let at = self.place(rows, r, here.clone());
                // SAFETY: the caller's promise.
                unsafe { self.finish.place(layout.isa, at, sums, out) };
            }
        }
    }

    /// Sums of panels for few rows: each row's to `out`, 16 a panel.
    ///
    /// # Safety
    /// There is room for them.
    unsafe fn direct_to(
        &self,
        rows: RoundedRows<'_>,
        panels: Range<usize>,
        out: [*mut f32; DIRECT_ROWS],
        scratch: &mut [u8],
    ) {
        let layout = self.layout;
        if panels.is_empty() {
            return;
        }
        if layout.is_packed() {
            let work = Direct {
                form: &layout.form,
                layout: layout.group(),
                panel: self.weights[panels.start * layout.panel_bytes()..].as_ptr(),
                panels: panels.len(),
                group: rows.data.as_ptr(),
                rows: rows.count,
                out,
            };
            return run_on(layout.isa, work);
        }
        for panel in panels.clone() {
            let weights = &self.stored_rows(panel);
            for (row, out) in rows.data.chunks_exact(layout.row_bytes()).zip(out) {
                let work = stored::Direct {
                    layout: layout.group(),
                    weights,
                    count: PANEL.min(layout.m - panel * PANEL),
                    row: row.as_ptr(),
                    scratch,
                    out: out.wrapping_add((panel - panels.start) * PANEL),
                };
                run_on(layout.isa, work);
            }
        }
    }

    /// Asks for what is expanded next, while rows are multiplied: the blocks from `first` on of packed
    /// panels, or, where there are none left, the first ones of those that follow.
    fn ask_for(&self, panels: &Range<usize>, first: usize) {
        let layout = self.layout;
        if !layout.is_packed() {
            return;
        }
        let at_end = first >= layout.k / BLOCK;
        let (panels, first) = match at_end {
            true => (panels.end..layout.panels().min(panels.end + SIDE), 0),
            false => (panels.clone(), first),
        };
        for panel in panels {
            let start = panel * layout.panel_bytes() + first / UNIT * layout.form.unit(UNIT);
            let bytes = CHUNK / UNIT * layout.form.unit(UNIT);
            let end = self.weights.len().min(start + bytes);
            run_on(layout.isa, Ask(&self.weights[start.min(end)..end]));
        }
    }

    /// Panels, two at a time, for all rows.
    unsafe fn tiles(
        &self,
        rows: RoundedRows<'_>,
        panels: Range<usize>,
        out: SharedMut<'_, f32>,
        mut scratch: &mut [u8],
    ) {
        let layout = self.layout;
        let form = &layout.form;
        let (blocks, group_rows) = (layout.k / BLOCK, layout.group_rows(rows.count));
        let subs = CHUNK * form.subs() * SIDE * PANEL;
        let codes = carve::<u8>(&mut scratch, CHUNK * SIDE * EXPANDED).as_mut_ptr();
        let scales = carve::<f32>(&mut scratch, subs).as_mut_ptr();
        let mins = carve::<f32>(&mut scratch, subs).as_mut_ptr();
        let sums = carve::<f32>(&mut scratch, rows.count * SIDE * PANEL);
        let row_bytes = layout.row_bytes();
        for pair in panels.clone().step_by(SIDE) {
            let pair = pair..panels.end.min(pair + SIDE);
            for first in (0..blocks).step_by(CHUNK) {
                let here = CHUNK.min(blocks - first);
                for panel in pair.clone() {
                    let (blocks, side) = (here, panel - pair.start);
                    if layout.is_packed() {
                        let start = panel * layout.panel_bytes() + first / UNIT * form.unit(UNIT);
                        let unit = self.weights[start..].as_ptr();
                        run_on(
                            layout.isa,
                            Expand { form, unit, blocks, side, codes, scales, mins },
                        );
                    } else {
                        let weights = &self.stored_rows(panel);
                        let work = stored::Expand { weights, first, blocks, side, codes, scales };
                        run_on(layout.isa, work);
                    }
                }
                self.ask_for(&pair, first + CHUNK);
                for start in (0..rows.count).step_by(group_rows) {
                    let work = Tile {
                        form,
                        layout: layout.group(),
                        first,
                        blocks: here,
                        codes,
                        scales,
                        mins,
                        group: rows.data[start * row_bytes..].as_ptr(),
                        rows: group_rows.min(rows.count - start),
                        sums: sums[start * SIDE * PANEL..].as_mut_ptr(),
                    };
                    run_on(layout.isa, work);
                }
            }
            for (r, sums) in sums.chunks_exact_mut(SIDE * PANEL).enumerate() {
                let at = self.place(rows, r, pair.clone());
                // SAFETY: the caller's promise.
                unsafe { self.finish.place(layout.isa, at, sums, out) };
            }
        }
    }
}

/// Asks for bytes to be read into the second-level cache.
struct Ask<'a>(&'a [u8]);

impl Work for Ask<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for line in self.0.chunks(64) {
            l.prefetch(line.as_ptr());
        }
    }
}
