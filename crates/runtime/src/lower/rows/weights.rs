//! Weights of linear ops: packed when they are first used, and shared by all plans of a model.

use crate::lower::LowerCx;
use crate::{PackedWeight, Pool};
use kinglet_graph::{AlignedBytes, DType};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::encoded::{
    CodeLayout, Float, FloatLayout, FloatProduct, FloatRows, Product, RoundedRows,
};
use kinglet_kernels::shared::SharedMut;
use std::ops::Range;
use std::sync::Arc;

/// Stored bytes that are packed before those are let go.
const AT_ONCE: usize = 4 << 20;

/// How weights are packed and multiplied.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    Codes(CodeLayout),
    Floats(FloatLayout),
}

/// Constant weights [count, m, k].
pub(super) struct Weights {
    pub layout: Layout,
    packed: Arc<PackedWeight>,
    count: usize,
    /// Bytes of each matrix as stored.
    stored: usize,
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
            DType::Encoded(encoding) => Layout::Codes(CodeLayout::new(cx.isa, encoding, m, k)),
            _ => return None,
        };
        let stored = tensor.raw().len() / count.max(1);
        Some(Weights { layout, packed: cx.shared.packed(tensor, "panels"), count, stored })
    }

    pub fn panels(&self) -> usize {
        match &self.layout {
            Layout::Codes(l) => l.panels(),
            Layout::Floats(l) => l.panels(),
        }
    }

    fn panel_bytes(&self) -> usize {
        match &self.layout {
            Layout::Codes(l) => l.panel_bytes(),
            Layout::Floats(l) => l.panel_bytes(),
        }
    }

    /// Bytes of a packed matrix.
    pub fn matrix_bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// Bytes of a rounded row; 0 where rows are taken as they are.
    pub fn row_bytes(&self) -> usize {
        match &self.layout {
            Layout::Codes(l) => l.row_bytes(),
            Layout::Floats(_) => 0,
        }
    }

    /// Rows that are rounded together.
    pub fn group_rows(&self) -> usize {
        match &self.layout {
            Layout::Codes(l) => l.group_rows(),
            Layout::Floats(_) => 1,
        }
    }

    /// Bytes of scratch of each worker for `rows` rows.
    pub fn scratch(&self, rows: usize) -> usize {
        match &self.layout {
            Layout::Codes(l) => l.scratch(rows),
            Layout::Floats(l) => l.scratch(rows),
        }
    }

    /// The packed copy of all matrices; `stored` is what the graph holds.
    pub fn packed(&self, pool: &Pool, stored: &[u8]) -> Arc<AlignedBytes> {
        self.packed.get(|| {
            let mut bytes = AlignedBytes::to_fill(self.count * self.matrix_bytes());
            let out = SharedMut::new(bytes.as_mut());
            let (panels, size) = (self.panels(), self.panel_bytes());
            let of_panel = self.stored.div_ceil(panels);
            let batch = (AT_ONCE / of_panel.max(1)).max(pool.threads());
            let tasks = self.count * panels;
            for first in (0..tasks).step_by(batch) {
                let batch = first..tasks.min(first + batch);
                pool.run(batch.len(), |i, _| {
                    let task = first + i;
                    let (matrix, panel) = (task / panels, task % panels);
                    let stored = &stored[matrix * self.stored..][..self.stored];
                    // SAFETY: every task has its own panel.
                    let out = unsafe { out.slice(task * size..(task + 1) * size) };
                    match &self.layout {
                        Layout::Codes(l) => l.pack(panel..panel + 1, stored, out),
                        Layout::Floats(l) => l.pack(panel..panel + 1, stored, out),
                    }
                });
                let read = |task: usize| {
                    let (matrix, panel) = (task / panels, task % panels);
                    matrix * self.stored + (panel * of_panel).min(self.stored)
                };
                self.packed.let_go(&stored[read(batch.start)..read(batch.end)]);
            }
            bytes
        })
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
        if let Layout::Codes(layout) = &self.layout {
            let size = layout.row_bytes();
            // SAFETY: the caller's promise.
            let out = unsafe { rounded.slice(rows.start * size..rows.end * size) };
            let mut group: [&[f32]; 8] = [&[]; 8];
            group.iter_mut().zip(rows.clone()).for_each(|(to, i)| *to = row(i));
            layout.round(&group[..rows.len()], out);
        }
    }

    /// Multiplies all rows of `given` by `panels` of a packed matrix.
    ///
    /// # Safety
    /// Nobody else touches these columns of the results' rows.
    pub unsafe fn run(
        &self,
        matrix: &[u8],
        given: Given<'_>,
        (bias, activation): (Option<&[f32]>, Unary),
        panels: Range<usize>,
        out: SharedMut<'_, f32>,
        scratch: &mut [u8],
    ) {
        let Given { count, sources, targets, .. } = given;
        // SAFETY: the caller's promise.
        unsafe {
            match &self.layout {
                Layout::Codes(layout) => {
                    let product = Product { layout, packed: matrix, bias, activation };
                    let rows = RoundedRows { data: given.rounded, count, targets };
                    product.run(rows, panels, out, scratch);
                }
                Layout::Floats(layout) => {
                    let product = FloatProduct { layout, packed: matrix, bias, activation };
                    let rows = FloatRows { data: given.x, count, sources, targets };
                    product.run(rows, panels, out, scratch);
                }
            }
        }
    }

    /// Panels of a task, where `threads` share them: enough tasks to even out what threads are
    /// given.
    pub fn panels_of_task(&self, threads: usize) -> usize {
        let tasks = if threads > 1 { 8 * threads } else { 1 };
        let grain = match self.layout {
            Layout::Codes(_) => CodeLayout::GRAIN,
            Layout::Floats(_) => FloatLayout::GRAIN,
        };
        self.panels().div_ceil(tasks).next_multiple_of(grain).max(1)
    }

    /// For people: what is multiplied how.
    pub fn describe(&self) -> String {
        match &self.layout {
            Layout::Codes(l) => format!("{} panels {}", l.encoding(), l.isa().name()),
            Layout::Floats(l) => format!("{} panels {}", l.float().name(), l.isa().name()),
        }
    }
}
