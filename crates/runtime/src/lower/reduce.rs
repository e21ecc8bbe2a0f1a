//! Float reductions over neighbouring dimensions.

use super::LowerCx;
use super::float::{Cut, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::OpResult;
use kinglet_graph::ops::reduce::{Reduce as ReduceOp, ReduceKind};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::reduce_f32::Reduction;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(op), Some(x)) = (cx.op::<ReduceOp>(), cx.input(0)) else { return Ok(None) };
    if !is_f32(cx, 1) || (cx.input(1).is_some() && cx.constant(1).is_none()) {
        return Ok(None);
    }
    let (reduction, then) = match op.kind {
        ReduceKind::Sum => (Reduction::Sum, Unary::Identity),
        ReduceKind::Mean => (Reduction::Mean, Unary::Identity),
        ReduceKind::Max => (Reduction::Max, Unary::Identity),
        ReduceKind::Min => (Reduction::Min, Unary::Identity),
        ReduceKind::Product => (Reduction::Product, Unary::Identity),
        ReduceKind::L1 => (Reduction::SumOfMagnitudes, Unary::Identity),
        ReduceKind::L2 => (Reduction::SumOfSquares, Unary::Sqrt),
        ReduceKind::LogSum => (Reduction::Sum, Unary::Log),
        ReduceKind::SumSquare => (Reduction::SumOfSquares, Unary::Identity),
        ReduceKind::LogSumExp => return Ok(None),
    };
    let dims = cx.dims(x)?;
    let axes = cx.constant(1).map(|a| a.ints()).transpose()?;
    let axes = op.axes(axes.as_deref(), dims.len())?;
    // Dimensions of 1 stand between no others.
    let wide = |i: &usize| dims[*i] != 1;
    let first = axes.iter().copied().find(wide).unwrap_or(dims.len());
    let end = axes.iter().copied().rfind(wide).map_or(first, |i| i + 1);
    if (first..end).filter(wide).any(|i| !axes.contains(&i)) {
        return Ok(None);
    }
    let size = |range: &[usize]| range.iter().product::<usize>();
    let (outer, length, inner) =
        (size(&dims[..first]), size(&dims[first..end]), size(&dims[end..]));
    if outer * length * inner == 0 {
        return Ok(None);
    }
    let cut = Cut::new(outer, 1, outer * length * inner, cx.threads);
    let absorbed: &[usize] = if cx.constant(1).is_some() { &[1] } else { &[] };
    let kernel = Reduce { then, ..Reduce::new(cx.isa, reduction, length, inner, cut) };
    Ok(Some(Lowered::new(kernel).with_absorbed(absorbed, 0)))
}

/// Reduces the middle of `outer × length × inner` elements.
pub(super) struct Reduce {
    isa: Isa,
    reduction: Reduction,
    length: usize,
    inner: usize,
    /// Applied to the results.
    then: Unary,
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
        Reduce { isa, reduction, length, inner, then: Unary::Identity, cut }
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
            self.then.run(self.isa, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{:?} {}", self.reduction, self.isa.name())
    }
}
