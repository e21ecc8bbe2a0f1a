//! Rotary position embedding.

use crate::kernel::{Io, Kernel, Lowered};
use crate::lower::LowerCx;
use crate::lower::float::Cut;
use kinglet_graph::OpResult;
use kinglet_graph::ops::rows::{Angles, Rotate};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::rotate::{Rotation, rotate};
use kinglet_kernels::shared::SharedMut;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let sizes = |i: usize| cx.dims(cx.output(i));
    if let Some(op) = cx.op::<Angles>() {
        let (&[n, pairs], scale) = (&sizes(0)?[..], op.scale) else { return Ok(None) };
        if n * pairs == 0 {
            return Ok(None);
        }
        // Some tens of operations for each sine.
        let cut = Cut::new(n, 1, 64 * n * pairs, cx.threads);
        return Ok(Some(Lowered::new(AngleRows { scale: f64::from(scale), pairs, cut })));
    }
    let (Some(op), Some(cos)) = (cx.op::<Rotate>(), cx.input(1)) else { return Ok(None) };
    let (out, cos) = (sizes(0)?, cx.dims(cos)?);
    let (&[n, width], &[rows, pairs]) = (&out[..], &cos[..]) else { return Ok(None) };
    if n * width == 0 || rows != n || op.start + 2 * pairs > op.size {
        return Ok(None);
    }
    let Rotate { size, start, interleaved } = *op;
    let cut = Cut::new(n, 1, 2 * n * width, cx.threads);
    let rotation = Rotation { size, start, pairs, interleaved };
    Ok(Some(Lowered::new(RotateRows { isa: cx.isa, rotation, width, cut })))
}

/// In f64: positions of a million times a frequency of 1 leave singles no digits after the point.
struct AngleRows {
    scale: f64,
    pairs: usize,
    cut: Cut,
}

impl Kernel for AngleRows {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (positions, frequencies): (&[i32], &[f32]) = (io.input(0)?, io.input(1)?);
        let [cos, sin] = &mut io.outputs[..] else { unreachable!("two outputs") };
        let (cos, sin) = (cos.slice_mut::<f32>()?, sin.slice_mut::<f32>()?);
        let sin = SharedMut::new(sin);
        let rows = self.cut.chunk();
        io.pool.for_chunks(cos, rows * self.pairs, |task, cos, _| {
            let start = task * rows * self.pairs;
            // SAFETY: every task has the same part of both outputs.
            let sin = unsafe { sin.slice(start..start + cos.len()) };
            let lines = cos.chunks_exact_mut(self.pairs).zip(sin.chunks_exact_mut(self.pairs));
            for ((cos, sin), position) in lines.zip(&positions[task * rows..]) {
                for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
                    let angle = f64::from(*position) * f64::from(*frequency);
                    let (s, c) = angle.sin_cos();
                    (*cos, *sin) = ((c * self.scale) as f32, (s * self.scale) as f32);
                }
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        "angles".into()
    }
}

struct RotateRows {
    isa: Isa,
    rotation: Rotation,
    width: usize,
    cut: Cut,
}

impl Kernel for RotateRows {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let (x, cos, sin): (&[f32], &[f32], &[f32]) = (io.input(0)?, io.input(1)?, io.input(2)?);
        let (rows, pairs, pool) = (self.cut.chunk(), self.rotation.pairs, io.pool);
        pool.for_chunks(io.output::<f32>(0)?, rows * self.width, |task, out, _| {
            out.copy_from_slice(&x[task * rows * self.width..][..out.len()]);
            for (i, out) in out.chunks_exact_mut(self.width).enumerate() {
                let at = (task * rows + i) * pairs;
                rotate(self.isa, &self.rotation, &cos[at..at + pairs], &sin[at..at + pairs], out);
            }
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("rotate {}", self.isa.name())
    }
}
