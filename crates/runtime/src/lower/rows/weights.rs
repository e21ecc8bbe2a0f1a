//! Weights of linear ops: as they are stored, or packed when they are first used and shared by all
//! plans of a model.

use crate::lower::LowerCx;
use crate::{PackedWeight, Pool};
use kinglet_graph::{AlignedBytes, DType};
use kinglet_kernels::encoded::{
    CodeLayout, Finish, Float, FloatLayout, FloatProduct, FloatRows, Product, RoundedRows,
};
use kinglet_kernels::shared::SharedMut;
use std::ops::Range;
use std::sync::Arc;

/// How weights are multiplied: codes from a packed copy where there is one, floats as they are
/// stored.
#[derive(Clone)]
enum Layout {
    Codes(CodeLayout, Option<Arc<PackedWeight>>),
    Floats(FloatLayout),
}

/// Constant weights [count, m, k].
pub(super) struct Weights {
    layout: Layout,
    count: usize,
    /// Bytes of each matrix as stored.
    stored: usize,
}

/// All matrices, as they are multiplied.
pub(super) enum Matrices<'a> {
    Stored(&'a [u8]),
    Packed(Arc<AlignedBytes>),
}

impl Matrices<'_> {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Matrices::Stored(bytes) => bytes,
            Matrices::Packed(bytes) => (**bytes).as_ref(),
        }
    }
}

/// Rows to multiply: as they are, or, for codes, rounded.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub x: &'a [f32],
    pub rounded: &'a [u8],
    pub count: usize,
    /// For each row, its place in `x`; rounded rows are in order.
    pub sources: Option<&'a [i32]>,
    /// For each row, the row of the result.
    pub targets: Option<&'a [i32]>,
}

impl Weights {
    /// Input `i`, where it is constant and of a type that kernels take.
    pub fn new(cx: &LowerCx<'_>, i: usize, [count, m, k]: [usize; 3]) -> Option<Weights> {
        let tensor = cx.input(i)?.data.as_ref()?;
        let float = |float| Layout::Floats(FloatLayout::new(cx.isa, float, m, k));
        let layout = match tensor.dtype() {
            DType::F32 => float(Float::F32),
            DType::F16 => float(Float::F16),
            DType::BF16 => float(Float::BF16),
            DType::Encoded(encoding) => {
                let layout = CodeLayout::new(cx.isa, encoding, m, k);
                let size = count * layout.bytes();
                let packed = layout.is_packed().then(|| cx.shared.packed(tensor, "panels", size));
                Layout::Codes(layout, packed)
            }
            _ => return None,
        };
        let stored = tensor.raw().len() / count.max(1);
        Some(Weights { layout, count, stored })
    }

    pub fn panels(&self) -> usize {
        match &self.layout {
            Layout::Codes(l, _) => l.panels(),
            Layout::Floats(l) => l.panels(),
        }
    }

    /// Bytes of one of the [`Matrices`].
    pub fn matrix_bytes(&self) -> usize {
        match &self.layout {
            Layout::Codes(l, _) => l.bytes(),
            Layout::Floats(_) => self.stored,
        }
    }

    /// Bytes of a rounded row; 0 where rows are taken as they are.
    pub fn row_bytes(&self) -> usize {
        match &self.layout {
            Layout::Codes(l, _) => l.row_bytes(),
            Layout::Floats(_) => 0,
        }
    }

    /// Of `rows` rows, how many are rounded together.
    pub fn group_rows(&self, rows: usize) -> usize {
        match &self.layout {
            Layout::Codes(l, _) => l.group_rows(rows),
            Layout::Floats(_) => 1,
        }
    }

    /// Whether rows that are rounded for `other` are what these weights take.
    pub fn takes_rows_of(&self, other: &Weights) -> bool {
        match (&self.layout, &other.layout) {
            (Layout::Codes(a, _), Layout::Codes(b, _)) => a.encoding() == b.encoding(),
            (Layout::Floats(_), Layout::Floats(_)) => true,
            _ => false,
        }
    }

    /// Bytes of scratch of each worker for `rows` rows.
    pub fn scratch(&self, rows: usize) -> usize {
        match &self.layout {
            Layout::Codes(l, _) => l.scratch(rows),
            Layout::Floats(_) => 0,
        }
    }

    /// All matrices, packed where they must be; `stored` is what the graph holds.
    pub fn matrices<'a>(&self, pool: &Pool, stored: &'a [u8]) -> Matrices<'a> {
        match &self.layout {
            Layout::Codes(layout, Some(packed)) => Matrices::Packed(
                packed.get(|| self.pack(layout, pool, stored, &|bytes| packed.let_go(bytes))),
            ),
            _ => Matrices::Stored(stored),
        }
    }

    /// A packed copy of `stored`; parts of it that have been packed are told to `let_go`.
    fn pack(
        &self,
        layout: &CodeLayout,
        pool: &Pool,
        stored: &[u8],
        let_go: &dyn Fn(&[u8]),
    ) -> AlignedBytes {
        let mut bytes = AlignedBytes::to_fill(self.count * layout.bytes());
        let out = SharedMut::new(bytes.as_mut());
        let (panels, size) = (layout.panels(), layout.panel_bytes());
        let stored_panel = self.stored.div_ceil(panels);
        let batch = (PackedWeight::AT_ONCE / stored_panel.max(1)).max(pool.threads());
        let tasks = self.count * panels;
        for first in (0..tasks).step_by(batch) {
            let end = tasks.min(first + batch);
            pool.run(end - first, |i, _| {
                let task = first + i;
                let (matrix, panel) = (task / panels, task % panels);
                let stored = &stored[matrix * self.stored..][..self.stored];
                // SAFETY: every task has its own panel.
                let out = unsafe { out.slice(task * size..(task + 1) * size) };
                layout.pack(panel..panel + 1, stored, out);
            });
            let start_of = |task: usize| {
                let (matrix, panel) = (task / panels, task % panels);
                matrix * self.stored + (panel * stored_panel).min(self.stored)
            };
            let_go(&stored[start_of(first)..start_of(end)]);
        }
        bytes
    }

    /// Rounds the rows `rows` of `given`, a group, to their place in `rounded`, which starts with
    /// the first of all rows.
    ///
    /// # Safety
    /// Nobody else has these rows of `rounded`.
    pub unsafe fn round<'a>(
        &self,
        rows: Range<usize>,
        row: impl Fn(usize) -> &'a [f32],
        rounded: SharedMut<'_, u8>,
    ) {
        if let Layout::Codes(layout, _) = &self.layout {
            let size = layout.row_bytes();
            // SAFETY: the caller's promise.
            let out = unsafe { rounded.slice(rows.start * size..rows.end * size) };
            let mut group: [&[f32]; 8] = [&[]; 8];
            group.iter_mut().zip(rows.clone()).for_each(|(to, i)| *to = row(i));
            layout.round(&group[..rows.len()], out);
        }
    }

    /// Multiplies all rows of `given` by `panels` of one of the [`Matrices`].
    ///
    /// # Safety
    /// Nobody else touches these columns of the results' rows.
    pub unsafe fn run(
        &self,
        matrix: &[u8],
        given: Given<'_>,
        finish: Finish<'_>,
        panels: Range<usize>,
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let Given { count, sources, targets, .. } = given;
        // SAFETY: the caller's promise.
        unsafe {
            match &self.layout {
                Layout::Codes(layout, _) => {
                    let product = Product { layout, weights: matrix, finish };
                    let rows = RoundedRows { data: given.rounded, count, targets };
                    product.run(rows, panels, out, scratch);
                }
                Layout::Floats(layout) => {
                    let product = FloatProduct { layout, weights: matrix, finish };
                    let rows = FloatRows { data: given.x, count, sources, targets };
                    product.run(rows, panels, out);
                }
            }
        }
    }

    /// Panels of a task for `rows` rows, where `threads` share `panels` of these and like weights:
    /// enough tasks to even out what threads are given.
    pub fn panels_of_task(&self, panels: usize, rows: usize, threads: usize) -> usize {
        let tasks = if threads > 1 { 8 * threads } else { 1 };
        let grain = match &self.layout {
            Layout::Codes(l, _) => l.grain(rows),
            Layout::Floats(_) => 1,
        };
        panels.div_ceil(tasks).next_multiple_of(grain).max(1)
    }

    /// For people: what is multiplied how.
    pub fn describe(&self) -> String {
        match &self.layout {
            Layout::Codes(l, packed) => {
                let form = if packed.is_some() { "panels" } else { "rows" };
                format!("{} {form} {}", l.encoding(), l.isa().name())
            }
            Layout::Floats(l) => format!("{} rows {}", l.float().name(), l.isa().name()),
        }
    }

    pub fn why(&self) -> &'static str {
        match &self.layout {
            Layout::Codes(_, Some(_)) => {
                "packed once: these codes become bytes faster in the order of the registers"
            }
            Layout::Codes(_, None) => "as the file has them: a packed copy would be no faster",
            Layout::Floats(_) => "as the file has them: floats need no unpacking",
        }
    }
}
