//! Float softmax and its logarithm.

use super::LowerCx;
use super::float::{Cut, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::OpResult;
use kinglet_graph::ops::softmax::{LogSoftmax, Softmax, lines};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::softmax_f32::SoftmaxF32;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (softmax, axis, flatten) = if let Some(op) = cx.op::<Softmax>() {
        (SoftmaxF32 { scale: op.beta, logarithm: false }, op.axis, op.flatten)
    } else if let Some(op) = cx.op::<LogSoftmax>() {
        (SoftmaxF32 { scale: 1.0, logarithm: true }, op.axis, op.flatten)
    } else {
        return Ok(None);
    };
    let Some(x) = cx.input(0).filter(|_| is_f32(cx, 1)) else { return Ok(None) };
    let around = lines(&cx.dims(x)?, axis, flatten)?;
    let (length, inner) = (around.len, around.inner);
    let work = around.outer * length * inner * 20;
    let cut = Cut::new(around.outer, 1, work, cx.threads);
    Ok(Some(Lowered::new(FloatSoftmax { isa: cx.isa, softmax, length, inner, cut })))
}

struct FloatSoftmax {
    isa: Isa,
    softmax: SoftmaxF32,
    length: usize,
    inner: usize,
    /// Over the outer blocks.
    cut: Cut,
}

impl Kernel for FloatSoftmax {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let pool = io.pool;
        let piece = self.cut.chunk() * self.length * self.inner;
        pool.for_chunks(io.output::<f32>(0)?, piece, |i, out, _| {
            let x = &x[i * piece..][..out.len()];
            self.softmax.run(self.isa, x, self.length, self.inner, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("softmax {}", self.isa.name())
    }
}
