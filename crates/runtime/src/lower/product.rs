//! The kernel of float matrix products: the right-hand side is packed ahead where it is constant, else
//! when the step runs; so is the left-hand side where tiles can't read it as it lies, some rows at a time.

use super::LowerCx;
use super::float::{Cut, GridCut};
use crate::kernel::{Io, Kernel, Lowered};
use crate::scratch::PerWorker;
use kinglet_graph::{Element, OpError, OpResult};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::gemm_f32::{Epilogue, Gemm, LeftLayout, PackLayout, PackedB, Rows, Term};
use kinglet_kernels::shared::SharedMut;
use std::ops::Range;

/// What is added to the product.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Added {
    Nothing,
    /// A value a column.
    Bias,
    /// A value a result.
    Residual,
}

/// Products of matrices [m, k] and [k, n] of two inputs, and what is done with them.
pub(super) struct Operands {
    /// Which inputs are multiplied.
    pub inputs: [usize; 2],
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// From a row to the next, and from a column to the next.
    pub a_strides: (usize, usize),
    pub b_strides: (usize, usize),
    /// For each product, which matrix of a and which of b.
    pub matrices: Vec<[usize; 2]>,
    /// Whether b is one matrix.
    pub one_b: bool,
    pub added: Added,
    pub activation: Unary,
}

/// The kernel of `operands`, whose matrices are multiplied in terms `T`.
pub(super) fn lower_product<T: Term<Element: Element>>(
    cx: &LowerCx<'_>,
    operands: Operands,
) -> OpResult<Option<Lowered>> {
    let Operands { inputs, m, k, n, .. } = operands;
    let layout = PackLayout::of::<T>(cx.isa, k, n);
    let constant = cx.constant(inputs[1]).filter(|_| operands.one_b);
    let packed = match constant.map(|b| b.slice::<T::Element>()).transpose()? {
        Some(b) => Some(PackedB::<T>::of(layout, b, operands.b_strides)),
        None => None,
    };
    let in_place = operands.a_strides.1 == 1 && k.is_multiple_of(T::ELEMENTS);
    let left = if in_place { None } else { Some(LeftLayout::of::<T>(&layout)) };
    let count = operands.matrices.len();
    let whole = count >= 2 * cx.threads;
    let too_large = || OpError::new("the product is too large");
    let bytes = |terms: usize| terms.checked_mul(size_of::<T>()).ok_or_else(too_large);
    let right_bytes = if packed.is_some() { 0 } else { bytes(layout.len())?.next_multiple_of(64) };
    let left_bytes = match &left {
        Some(left) => bytes(left.block.min(m).saturating_mul(left.stride))?,
        None => 0,
    };
    let own = PerWorker::new(left_bytes.saturating_add(if whole { right_bytes } else { 0 }));
    let shared = if whole { 0 } else { right_bytes };
    let scratch = shared.checked_add(own.planned(cx.threads)).ok_or_else(too_large)?;
    let work = m.saturating_mul(k).saturating_mul(n);
    let packed_bytes = packed.as_ref().map_or(0, |p| size_of_val(p.data()));
    let absorbed: &[usize] = if packed.is_some() { &inputs[1..] } else { &[] };
    let kernel = Product {
        by_matrix: Cut::new(count, 1, work.saturating_mul(count), cx.threads),
        inside: GridCut::new(m, layout.tile_rows(), layout.panels(), work, cx.threads),
        packing: Cut::new(layout.panels(), 1, k * n * 4, cx.threads),
        operands,
        layout,
        left,
        packed,
        whole,
        right_bytes,
        own,
    };
    // From 4096 bytes on scratch is aligned.
    let scratch = if scratch == 0 { 0 } else { scratch.max(4096) };
    Ok(Some(Lowered::new(kernel).with_absorbed(absorbed, packed_bytes).with_scratch(scratch)))
}

struct Product<T: Term> {
    operands: Operands,
    layout: PackLayout,
    left: Option<LeftLayout>,
    packed: Option<PackedB<T>>,
    /// Whether a thread does whole products.
    whole: bool,
    by_matrix: Cut,
    inside: GridCut,
    packing: Cut,
    /// Bytes of a right-hand side that is packed when run: each worker's where a thread does whole
    /// products.
    right_bytes: usize,
    own: PerWorker,
}

/// Inputs and the output of a run.
struct Matrices<'a, T: Term> {
    a: &'a [T::Element],
    b: &'a [T::Element],
    added: &'a [f32],
    out: SharedMut<'a, f32>,
}

impl<T: Term> Product<T> {
    /// Computes the rows and panels of number `matrix`, of which `b` is the packed right-hand side;
    /// `own` has room for a block of the left-hand side.
    ///
    /// # Safety
    /// Meanwhile nobody else touches these results.
    unsafe fn multiply(
        &self,
        given: &Matrices<'_, T>,
        matrix: usize,
        (rows, panels): (Range<usize>, Range<usize>),
        b: &[T],
        own: &mut [T],
    ) {
        let Operands { m, k, n, activation, .. } = self.operands;
        let a = &given.a[self.operands.matrices[matrix][0] * m * k..][..m * k];
        let results = matrix * m * n..(matrix + 1) * m * n;
        // Rows from `first` on.
        let run = |first: usize, rows: Range<usize>, a: Rows<'_, T>| {
            let plain = Epilogue { activation, ..Epilogue::default() };
            let epilogue = match self.operands.added {
                Added::Nothing => plain,
                Added::Bias => Epilogue { bias: Some(given.added), ..plain },
                Added::Residual => Epilogue {
                    residual: Some(Rows {
                        data: &given.added[results.clone()][first * n..],
                        stride: n,
                    }),
                    after: activation,
                    ..Epilogue::default()
                },
            };
            let gemm = Gemm { layout: self.layout, b, epilogue };
            let out = given.out.part(results.start + first * n..results.end);
            // SAFETY: the caller's promise.
            unsafe { gemm.run(rows, panels.clone(), a, out, n) };
        };
        let Some(left) = &self.left else {
            return run(0, rows, Rows { data: bytemuck::cast_slice(a), stride: k / T::ELEMENTS });
        };
        for first in rows.clone().step_by(left.block) {
            let block = first..rows.end.min(first + left.block);
            left.pack(block.clone(), a, self.operands.a_strides, own);
            run(first, 0..block.len(), Rows { data: own, stride: left.stride });
        }
    }
}

impl<T: Term<Element: Element>> Kernel for Product<T> {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Operands { inputs, k, n, b_strides, .. } = self.operands;
        let pool = io.pool;
        let given = &Matrices::<T> {
            a: io.input(inputs[0])?,
            b: if self.packed.is_some() { &[] } else { io.input(inputs[1])? },
            added: if self.operands.added == Added::Nothing { &[] } else { io.input(2)? },
            out: SharedMut::new(io.outputs[0].slice_mut::<f32>()?),
        };
        let b_of = |matrix: usize| {
            let at = self.operands.matrices[matrix][1];
            &given.b[at * k * n..][..k * n]
        };
        let shared = if self.whole { 0 } else { self.right_bytes };
        let (right, planned) = io.scratch.split_at_mut(shared);
        let right: &mut [T] = bytemuck::try_cast_slice_mut(right)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let (right, planned) = (SharedMut::new(right), SharedMut::new(planned));
        if self.whole {
            pool.run(self.by_matrix.tasks, |task, worker| {
                // SAFETY: every worker has its own scratch.
                let own = unsafe { self.own.of(pool, planned, worker) };
                let (own_b, own_a) =
                    bytemuck::cast_slice_mut(own).split_at_mut(self.right_bytes / size_of::<T>());
                let panels = 0..self.layout.panels();
                for matrix in self.by_matrix.part(task) {
                    let b = match &self.packed {
                        Some(packed) => packed.data(),
                        None => {
                            self.layout.pack(panels.clone(), b_of(matrix), b_strides, own_b);
                            &*own_b
                        }
                    };
                    let all = (0..self.operands.m, panels.clone());
                    // SAFETY: every task has its own products.
                    unsafe { self.multiply(given, matrix, all, b, own_a) };
                }
            });
            return Ok(());
        }
        for matrix in 0..self.operands.matrices.len() {
            if self.packed.is_none() {
                pool.run(self.packing.tasks, |task, _| {
                    let panels = self.packing.part(task);
                    // SAFETY: panels lie one after the other; every task has its own.
                    let own = unsafe { right.slice(self.layout.place(panels.clone())) };
                    self.layout.pack(panels, b_of(matrix), b_strides, own);
                });
            }
            // SAFETY: nobody writes it while it is shared.
            let packed = unsafe { &*right.slice(0..right.len()) };
            let b = self.packed.as_ref().map_or(packed, |p| p.data());
            pool.run(self.inside.tasks(), |task, worker| {
                // SAFETY: every worker has its own scratch, every task its own rows or panels.
                unsafe {
                    let own = self.own.of(pool, planned, worker);
                    let own = bytemuck::cast_slice_mut(own);
                    self.multiply(given, matrix, self.inside.part(task), b, own);
                }
            });
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let how = if self.packed.is_some() { "" } else { ", packed when run" };
        let of = if T::ELEMENTS == 1 { String::new() } else { format!(" {}", T::NAME) };
        format!("gemm{of} {}{how}", self.layout.isa().name())
    }

    fn why(&self) -> &'static str {
        match &self.packed {
            Some(_) => "the right matrix is constant, so it is packed once",
            None => "the right matrix is computed, so it is packed in every run",
        }
    }
}
