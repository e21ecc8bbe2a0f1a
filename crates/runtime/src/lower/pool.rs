//! Float pools over windows of one or two dimensions, and over whole images.

use super::LowerCx;
use super::float::{Cut, activation, geometry, is_f32};
use crate::kernel::{Io, Kernel, Lowered};
use kinglet_graph::OpResult;
use kinglet_graph::ops::pool::{GlobalPool, Pool, PoolKind};
use kinglet_graph::ops::window::{AxisWindow, Layout};
use kinglet_kernels::isa::Isa;
use kinglet_kernels::pool_f32::{PoolF32, Pooling};
use kinglet_kernels::reduce_f32::Reduction;

pub(super) fn lower(cx: &LowerCx<'_>) -> OpResult<Option<Lowered>> {
    let Some(x) = cx.input(0).filter(|_| is_f32(cx, 1)) else { return Ok(None) };
    if let Some(op) = cx.op::<Pool>() {
        let (_, channels, spatial) = op.layout.split(&cx.dims(x)?)?;
        let windows = op.window.resolve(&spatial, &op.kernel, op.ceil)?;
        return pool(cx, op, channels, &windows);
    }
    match cx.op::<GlobalPool>() {
        Some(op) => global(cx, op),
        None => Ok(None),
    }
}

fn pool(
    cx: &LowerCx<'_>,
    op: &Pool,
    channels: usize,
    windows: &[AxisWindow],
) -> OpResult<Option<Lowered>> {
    let after = match windows {
        [x] => [0, x.pad_after],
        [y, x] => [y.pad_after, x.pad_after],
        _ => return Ok(None),
    };
    let pooling = match op.kind {
        PoolKind::Max => Pooling::Max,
        PoolKind::Average { include_padding: false } => Pooling::Average,
        PoolKind::Average { include_padding: true } => Pooling::AveragePadded(after),
        PoolKind::RootMeanSquare => Pooling::RootMeanSquare,
        PoolKind::Lp { .. } => return Ok(None),
    };
    let (Some((window, input, output)), Some(activation)) =
        (geometry(windows, channels, channels), activation(op.activation))
    else {
        return Ok(None);
    };
    if op.layout != Layout::ChannelsLast {
        return Ok(None);
    }
    let batch = cx.dims(cx.output(0))?[0];
    let work = batch * output.len() * window.kernel[0] * window.kernel[1];
    let kernel = FloatPool {
        isa: cx.isa,
        pool: PoolF32 { input, output, window, pooling, activation },
        cut: Cut::new(batch * output.height, 1, work, cx.threads),
    };
    Ok(Some(Lowered::new(kernel)))
}

struct FloatPool {
    isa: Isa,
    pool: PoolF32,
    cut: Cut,
}

impl Kernel for FloatPool {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let x: &[f32] = io.input(0)?;
        let pool = io.pool;
        let line = self.pool.output.width * self.pool.output.channels;
        let lines = self.cut.chunk();
        pool.for_chunks(io.output::<f32>(0)?, lines * line, |i, out, _| {
            let first = i * lines;
            self.pool.run(self.isa, first..first + out.len() / line, x, out);
        });
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{:?} pool {}", self.pool.pooling, self.isa.name())
    }
}

fn global(cx: &LowerCx<'_>, op: &GlobalPool) -> OpResult<Option<Lowered>> {
    let Some(x) = cx.input(0) else { return Ok(None) };
    let (batch, channels, spatial) = op.layout.split(&cx.dims(x)?)?;
    let reduction = match op.kind {
        PoolKind::Max => Reduction::Max,
        PoolKind::Average { .. } => Reduction::Mean,
        _ => return Ok(None),
    };
    let area: usize = spatial.iter().product();
    // Channels last: whole pixels are added; channels first: each channel is a row.
    let (outer, inner) = match op.layout {
        Layout::ChannelsLast => (batch, channels),
        Layout::ChannelsFirst => (batch * channels, 1),
    };
    if area == 0 {
        return Ok(None);
    }
    let cut = Cut::new(outer, 1, outer * area * inner, cx.threads);
    Ok(Some(Lowered::new(super::reduce::Reduce::new(cx.isa, reduction, area, inner, cut))))
}
