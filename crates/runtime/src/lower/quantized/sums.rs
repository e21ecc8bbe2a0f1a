//! Sums of products of bytes with constant weights, as 32-bit accumulators: what ops that
//! rescale by rules of their own are made of.

use super::{part, tasks};
use crate::pool::Pool;
use crate::scratch::PerWorker;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::qconv::{ConvShape, PackedQConv, QOutput, QWeights};
use kinglet_kernels::qdepthwise::PackedQDepthwise;
use kinglet_kernels::requant::Byte;
use kinglet_kernels::shared::SharedMut;

/// A convolution or matrix product to accumulators.
pub(super) struct Sums {
    packed: Packed,
    scratch: PerWorker,
    tasks: usize,
    /// Tasks are parts of the columns, else of the rows.
    by_columns: bool,
}

enum Packed {
    Dense(PackedQConv),
    Depthwise(PackedQDepthwise),
}

impl Sums {
    /// Of an input of type and zero point `x`, for `threads` threads.
    pub fn dense(
        isa: Isa,
        shape: &ConvShape,
        x: (Byte, i32),
        weights: &QWeights<'_>,
        threads: usize,
    ) -> Sums {
        let packed = PackedQConv::new(isa, shape, x, weights, &QOutput::Accumulators);
        let by_columns = shape.rows() < threads;
        let units = if by_columns { packed.panels() } else { shape.rows() };
        let cost = shape.output_len().saturating_mul(shape.depth());
        let scratch = PerWorker::new(packed.scratch_bytes());
        let tasks = tasks(units, cost, threads);
        Sums { packed: Packed::Dense(packed), scratch, tasks, by_columns }
    }

    /// The same for a depthwise convolution, whose weights lie kernel, then channels.
    pub fn depthwise(
        isa: Isa,
        shape: &ConvShape,
        x: (Byte, i32),
        weights: &QWeights<'_>,
        threads: usize,
    ) -> Sums {
        let packed = PackedQDepthwise::new(isa, shape, x, weights, &QOutput::Accumulators);
        let by_columns = packed.blocks() >= packed.lines();
        let units = if by_columns { packed.blocks() } else { packed.lines() };
        let cost = shape.output_len().saturating_mul(8 * shape.kernel[0] * shape.kernel[1]);
        let scratch = PerWorker::new(packed.scratch_bytes());
        let tasks = tasks(units, cost, threads);
        Sums { packed: Packed::Depthwise(packed), scratch, tasks, by_columns }
    }

    /// Bytes of scratch to plan, for `threads` threads.
    pub fn planned(&self, threads: usize) -> usize {
        self.scratch.planned(if self.tasks <= 1 { 1 } else { threads })
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        match &self.packed {
            Packed::Dense(packed) => packed.packed_bytes(),
            Packed::Depthwise(packed) => packed.packed_bytes(),
        }
    }

    /// Bytes of scratch of [`Sums::run_alone`].
    pub fn alone(&self) -> usize {
        match &self.packed {
            Packed::Dense(packed) => packed.scratch_bytes(),
            Packed::Depthwise(packed) => packed.scratch_bytes(),
        }
    }

    /// Computes all sums on this thread.
    pub fn run_alone(&self, input: &[u8], out: &mut [i32], scratch: &mut [u8]) {
        let out = SharedMut::new(out);
        // SAFETY: the output is borrowed for this call alone.
        unsafe {
            match &self.packed {
                Packed::Dense(p) => {
                    p.run_accumulators(0..p.rows(), 0..p.panels(), input, out, scratch);
                }
                Packed::Depthwise(p) => {
                    p.run_accumulators(0..p.lines(), 0..p.blocks(), input, out, scratch);
                }
            }
        }
    }

    /// Computes all sums; `planned` is scratch of the size asked for.
    pub fn run(&self, pool: &Pool, input: &[u8], out: &mut [i32], planned: &mut [u8]) {
        let (out, planned) = (SharedMut::new(out), SharedMut::new(planned));
        let (rows, columns) = match &self.packed {
            Packed::Dense(packed) => (packed.rows(), packed.panels()),
            Packed::Depthwise(packed) => (packed.lines(), packed.blocks()),
        };
        let units = if self.by_columns { columns } else { rows };
        pool.run(self.tasks, |i, worker| {
            let mine = part(units, self.tasks, i);
            let (rows, columns) =
                if self.by_columns { (0..rows, mine) } else { (mine, 0..columns) };
            // SAFETY: each worker has its own scratch, each task its own part of the output.
            unsafe {
                let scratch = self.scratch.of(pool, planned, worker);
                match &self.packed {
                    Packed::Dense(p) => p.run_accumulators(rows, columns, input, out, scratch),
                    Packed::Depthwise(p) => {
                        p.run_accumulators(rows, columns, input, out, scratch);
                    }
                }
            }
        });
    }
}
