//! dy W, W as its file holds it: some columns of it at a time are decoded into the packed form that
//! products of floats take, so that the whole of it never lies in memory as floats.

use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::lower::float::{Cut, GridCut};
use kinglet_graph::ops::rows::LinearTranspose;
use kinglet_graph::{DType, OpError, OpResult};
use kinglet_kernels::gemm_f32::{Epilogue, Gemm, PackLayout, Rows};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::shared::SharedMut;
use std::sync::OnceLock;

/// About how many bytes of decoded columns there are at once.
const COLUMNS_BYTES: usize = 8 << 20;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(_), Some(dy), Some(weights)) = (cx.op::<LinearTranspose>(), cx.input(0), cx.input(1))
    else {
        return Ok(None);
    };
    if dy.ty.dtype != DType::F32 {
        return Ok(None);
    }
    let (dims, dtype) = (cx.dims(weights)?, weights.ty.dtype);
    // Floats of full width are products like any other.
    let (&[m, k], true) = (&dims[..], dtype != DType::F32) else { return Ok(None) };
    let rows = cx.dims(cx.output(0))?.iter().product::<usize>() / k.max(1);
    if rows * m * k == 0 {
        return Ok(None);
    }
    // Whole blocks: panels are chosen by the columns decoded at once, and of as many they are whole too.
    let unit = match dtype.block().0 {
        1 => PackLayout::new(cx.isa, m, k).panel_columns(),
        block => block,
    };
    let columns = (COLUMNS_BYTES / 4 / m / unit).max(1) * unit;
    let columns = columns.min(k);
    let packed = PackLayout::new(cx.isa, m, columns).len().next_multiple_of(16);
    let scratch = (packed + cx.threads * columns).checked_mul(size_of::<f32>());
    let scratch = scratch.ok_or_else(|| OpError::new("the weights are too large"))?;
    let kernel =
        Transposed { isa: cx.isa, dtype, m, k, rows, columns, packed, threads: cx.threads };
    // From 4096 bytes on scratch is aligned.
    Ok(Some(Lowered::new(kernel).with_scratch(scratch.max(4096))))
}

struct Transposed {
    isa: Isa,
    dtype: DType,
    m: usize,
    k: usize,
    rows: usize,
    /// How many columns are decoded at once.
    columns: usize,
    /// Elements of scratch for them; each thread's line follows.
    packed: usize,
    threads: usize,
}

impl Kernel for Transposed {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let Transposed { m, k, rows, columns, .. } = *self;
        let dy: &[f32] = io.input(0)?;
        let weights = io.inputs[1].ok_or_else(|| OpError::new("the weights are missing"))?;
        let out = SharedMut::new(io.outputs[0].slice_mut::<f32>()?);
        let scratch: &mut [f32] = bytemuck::try_cast_slice_mut(io.scratch)
            .map_err(|e| OpError::new(format!("scratch: {e}")))?;
        let (packed, lines) = scratch.split_at_mut(self.packed);
        let (packed, lines) = (SharedMut::new(packed), SharedMut::new(lines));
        let failed = OnceLock::new();
        for first in (0..k).step_by(columns) {
            let n = columns.min(k - first);
            let layout = PackLayout::new(self.isa, m, n);
            let decoding = Cut::new(m, 1, 2 * m * n, self.threads);
            io.pool.run(decoding.tasks, |task, worker| {
                // SAFETY: every worker has a line of its own, and every task rows.
                let line = unsafe { lines.slice(worker * columns..worker * columns + n) };
                for row in decoding.part(task) {
                    if let Err(e) = weights.decode(row * k + first, line) {
                        // The first error is as good as any.
                        let _ = failed.set(e);
                    }
                    // SAFETY: as above.
                    unsafe { layout.put_row(row, line, packed) };
                }
            });
            // SAFETY: nobody writes it while it is shared.
            let b = unsafe { &*packed.slice(0..self.packed) };
            let gemm = Gemm { layout, b, epilogue: Epilogue::default() };
            let work = rows.saturating_mul(m).saturating_mul(n);
            let cut = GridCut::new(rows, layout.tile_rows(), layout.panels(), work, self.threads);
            io.pool.run(cut.tasks(), |task, _| {
                let (of_rows, panels) = cut.part(task);
                let out = out.part(first..rows * k);
                // SAFETY: every task has its own rows or panels.
                unsafe { gemm.run(of_rows, panels, Rows { data: dy, stride: m }, out, k) };
            });
        }
        failed.into_inner().map_or(Ok(()), Err)
    }

    fn describe(&self) -> String {
        format!(
            "gemm {} of {} decoded",
            PackLayout::new(self.isa, self.m, self.k).isa().name(),
            self.dtype
        )
    }

    fn why(&self) -> &'static str {
        "the weights stay as the file holds them, and a gradient wants floats"
    }
}
