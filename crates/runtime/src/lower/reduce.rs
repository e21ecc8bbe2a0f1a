//! Float reductions over neighbouring dimensions.

use super::float::Cut;
use crate::kernel::{Io, Kernel};
use kinglet_graph::OpResult;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::reduce_f32::Reduction;

/// Reduces the middle of `outer × length × inner` elements.
pub(super) struct Reduce {
    isa: Isa,
    reduction: Reduction,
    length: usize,
    inner: usize,
    /// Over the outer blocks.
    cut: Cut,
}

impl Reduce {
    /// `cut` is over the outer blocks.
    pub(super) fn new(
        isa: Isa,
        reduction: Reduction,
        length: usize,
        inner: usize,
        cut: Cut,
    ) -> Reduce {
        Reduce { isa, reduction, length, inner, cut }
    }
}

impl Kernel for Reduce {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let pool = io.pool;
        let blocks = self.cut.chunk();
        pool.for_chunks(io.output::<f32>(0)?, blocks * self.inner, |i, out, _| {
            let block = self.length * self.inner;
            let x = &x[i * blocks * block..][..out.len() / self.inner.max(1) * block];
            self.reduction.run(self.isa, x, self.length, self.inner, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{:?} {}", self.reduction, self.isa.name())
    }
}
