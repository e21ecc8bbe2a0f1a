//! Float resizes of one or two neighbouring dimensions.

use super::LowerCx;
use super::float::{Cut, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::OpResult;
use kinglet_graph::ops::resize::Resize;
use kinglet_kernels::isa::Isa;
use kinglet_kernels::resize_f32::{AxisTaps, ResizeF32};
use kinglet_kernels::window::ImageShape;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let (Some(op), Some(x)) = (cx.op::<Resize>(), cx.input(0)) else { return Ok(None) };
    // The sizes in the other inputs must be known: the samples are laid out now.
    let known = (1..4).all(|i| cx.input(i).is_none() || cx.constant(i).is_some());
    if x.ty.dtype != kinglet_graph::DType::F32 || !is_f32(cx, 1) || !known {
        return Ok(None);
    }
    let dims = cx.dims(x)?;
    let Some(taps) = op.taps(&dims, cx.constant(1), cx.constant(2), cx.constant(3))? else {
        return Ok(None);
    };
    let Some(first) = taps.iter().position(Option::is_some) else { return Ok(None) };
    let last = taps.iter().rposition(Option::is_some).unwrap_or(first);
    let (rows, columns, height) = match last - first {
        0 => (axis_taps(&[vec![(0, 1.0)]]), taps[first].as_deref(), 1),
        1 => {
            let Some(rows) = taps[first].as_deref() else { return Ok(None) };
            (axis_taps(rows), taps[last].as_deref(), dims[first])
        }
        _ => return Ok(None),
    };
    let Some(columns) = columns.map(axis_taps) else { return Ok(None) };
    let (batch, channels): (usize, usize) =
        (dims[..first].iter().product(), dims[last + 1..].iter().product());
    let input = ImageShape { height, width: dims[last], channels };
    if input.is_empty() || rows.indices.is_empty() || columns.indices.is_empty() {
        return Ok(None);
    }
    let work = rows.taps * columns.taps;
    let resize = ResizeF32::new(input, rows, columns);
    let output = resize.output();
    let cut = Cut::new(batch * output.height, 1, batch * output.len() * work, cx.threads);
    let absorbed: Vec<usize> = (1..4).filter(|i| cx.constant(*i).is_some()).collect();
    Ok(Some(Lowered::new(FloatResize { isa: cx.isa, resize, cut }).with_absorbed(&absorbed, 0)))
}

/// As many taps for every output: those that miss some repeat one with weight 0.
fn axis_taps(all: &[Vec<(usize, f64)>]) -> AxisTaps {
    let taps = all.iter().map(Vec::len).max().unwrap_or(1).max(1);
    let (mut indices, mut weights) = (Vec::new(), Vec::new());
    for one in all {
        for t in 0..taps {
            let (index, weight) = match one.get(t) {
                Some(tap) => *tap,
                None => (one.first().map_or(0, |tap| tap.0), 0.0),
            };
            indices.push(index);
            weights.push(weight as f32);
        }
    }
    AxisTaps { taps, indices, weights }
}

struct FloatResize {
    isa: Isa,
    resize: ResizeF32,
    /// Over the lines.
    cut: Cut,
}

impl Kernel for FloatResize {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let pool = io.pool;
        let output = self.resize.output();
        let line = output.width * output.channels;
        let lines = self.cut.chunk();
        pool.for_chunks(io.output::<f32>(0)?, lines * line, |i, out, _| {
            let first = i * lines;
            self.resize.run(self.isa, first..first + out.len() / line, x, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("resize {}", self.isa.name())
    }
}
