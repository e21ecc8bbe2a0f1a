//! What the lowerings of float ops share.

use super::LowerCx;
use kinglet_graph::ops::activation::Activation;
use kinglet_graph::ops::unary::Unary as Function;
use kinglet_graph::ops::window::AxisWindow;
use kinglet_graph::{DType, OpResult};
use kinglet_kernels::elementwise::Unary;
use kinglet_kernels::window::{ImageShape, Window};
use std::ops::Range;

/// Whether every input among the first `inputs` and every output is of f32.
pub(super) fn is_f32(cx: &LowerCx<'_>, inputs: usize) -> bool {
    let is = |dtype| dtype == DType::F32;
    (0..inputs).filter_map(|i| cx.input(i)).all(|v| is(v.ty.dtype))
        && (0..cx.node.outputs.len()).all(|i| is(cx.output(i).ty.dtype))
}

/// The elements of a constant input of f32.
pub(super) fn constant<'a>(cx: &LowerCx<'a>, i: usize) -> OpResult<Option<&'a [f32]>> {
    cx.constant(i).map(|c| c.slice::<f32>()).transpose()
}

/// The kernels' name for a function, where they have it.
pub(super) fn function(f: Function) -> Option<Unary> {
    Some(match f {
        Function::Abs => Unary::Abs,
        Function::Neg => Unary::Neg,
        Function::Sign => Unary::Sign,
        Function::Ceil => Unary::Ceil,
        Function::Floor => Unary::Floor,
        Function::Round => Unary::Round,
        Function::Square => Unary::Square,
        Function::Sqrt => Unary::Sqrt,
        Function::Rsqrt => Unary::Rsqrt,
        Function::Reciprocal => Unary::Reciprocal,
        Function::Exp => Unary::Exp,
        Function::Log => Unary::Log,
        Function::Sin => Unary::Sin,
        Function::Cos => Unary::Cos,
        Function::Tanh => Unary::Tanh,
        Function::Erf => Unary::Erf,
        Function::Sigmoid => Unary::Sigmoid,
        Function::Relu => Unary::RELU,
        Function::Relu6 => Unary::RELU6,
        Function::ReluN1To1 => Unary::Clamp(-1.0, 1.0),
        Function::Relu0To1 => Unary::Clamp(0.0, 1.0),
        Function::Clamp { min, max } => Unary::Clamp(min, max),
        Function::LeakyRelu { alpha } => Unary::LeakyRelu(alpha),
        Function::Elu { alpha } => Unary::Elu(alpha),
        Function::Gelu => Unary::Gelu,
        Function::GeluTanh => Unary::GeluTanh,
        Function::HardSigmoid { alpha, beta } => Unary::HardSigmoid(alpha, beta),
        Function::HardSwish => Unary::HardSwish,
        Function::Silu => Unary::Silu,
        Function::Mish => Unary::Mish,
        Function::Softplus => Unary::Softplus,
        Function::Softsign => Unary::Softsign,
        _ => return None,
    })
}

/// The kernels' name for an activation, where they have it.
pub(super) fn activation(a: Activation) -> Option<Unary> {
    a.function().map_or(Some(Unary::Identity), function)
}

/// The kernels' geometry for windows over one or two spatial dimensions: the window, and the
/// images on either side of it. One dimension is an image of one line.
pub(super) fn geometry(
    windows: &[AxisWindow],
    in_channels: usize,
    out_channels: usize,
) -> Option<(Window, ImageShape, ImageShape)> {
    const LINE: AxisWindow = AxisWindow {
        input: 1,
        kernel: 1,
        stride: 1,
        dilation: 1,
        pad_before: 0,
        pad_after: 0,
        output: 1,
    };
    let [y, x] = match windows {
        [x] => [LINE, *x],
        [y, x] => [*y, *x],
        _ => return None,
    };
    let window = Window {
        kernel: [y.kernel, x.kernel],
        stride: [y.stride, x.stride],
        dilation: [y.dilation, x.dilation],
        padding: [y.pad_before, x.pad_before],
    };
    let input = ImageShape { height: y.input, width: x.input, channels: in_channels };
    let output = ImageShape { height: y.output, width: x.output, channels: out_channels };
    Some((window, input, output))
}

/// Lines or rows in parts, each of which is summed up by itself: sums are added up in the same order on
/// any number of threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    lines: usize,
}

impl Parts {
    const MOST: usize = 8;

    pub fn of(lines: usize) -> Parts {
        Parts { lines }
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.lines.min(Self::MOST)
    }

    /// The lines of part `i`.
    pub fn part(self, i: usize) -> Range<usize> {
        let count = self.count();
        self.lines * i / count..self.lines * (i + 1) / count
    }
}

/// How work is cut into tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Tasks.
    pub tasks: usize,
    total: usize,
    grain: usize,
}

/// Work of fewer operations than this is done before another thread would have begun.
const SMALL: usize = 20_000;

/// Operations of a task, at least, where there are more tasks than threads: some microseconds.
const TASK: usize = 500_000;

/// Tasks for each thread, at most. Threads claim them one by one, so that each does what its core is
/// able to: unequal cores get unequal shares.
const MOST_TASKS: usize = 4;

impl Cut {
    /// Cuts `total` pieces, at multiples of `grain`, of about `work` operations in all.
    pub fn new(total: usize, grain: usize, work: usize, threads: usize) -> Cut {
        let grain = grain.max(1);
        let units = total.div_ceil(grain);
        let wanted = (work / TASK).clamp(threads, MOST_TASKS * threads);
        let tasks = if work < SMALL || threads <= 1 { 1 } else { wanted };
        Cut { tasks: tasks.min(units).max(1), total, grain }
    }

    /// The most pieces of a task, for cutting into equal chunks.
    pub fn chunk(&self) -> usize {
        (self.total.div_ceil(self.grain).div_ceil(self.tasks) * self.grain).max(1)
    }

    /// The pieces of task `task`.
    pub fn part(&self, task: usize) -> Range<usize> {
        let units = self.total.div_ceil(self.grain);
        let at = |task: usize| (units * task / self.tasks * self.grain).min(self.total);
        at(task)..at(task + 1)
    }
}

/// How a grid of rows and panels is cut into tasks: along the rows where there are enough of
/// them, else along the panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct GridCut {
    rows: Cut,
    panels: Cut,
}

impl GridCut {
    /// Cuts rows, at multiples of `tile`, or panels.
    pub fn new(rows: usize, tile: usize, panels: usize, work: usize, threads: usize) -> GridCut {
        let tiles = rows.div_ceil(tile.max(1));
        let by_rows = tiles >= 4 * threads || panels < threads;
        let all = |total| Cut { tasks: 1, total, grain: 1 };
        if by_rows {
            GridCut { rows: Cut::new(rows, tile, work, threads), panels: all(panels) }
        } else {
            GridCut { rows: all(rows), panels: Cut::new(panels, 1, work, threads) }
        }
    }

    /// Tasks.
    pub fn tasks(&self) -> usize {
        self.rows.tasks * self.panels.tasks
    }

    /// The rows and panels of task `task`.
    pub fn part(&self, task: usize) -> (Range<usize>, Range<usize>) {
        (self.rows.part(task / self.panels.tasks), self.panels.part(task % self.panels.tasks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_is_cut_so_that_unequal_cores_take_unequal_shares() {
        let tasks = |work, threads| Cut::new(1000, 1, work, threads).tasks;
        assert_eq!([tasks(1 << 30, 8), tasks(1 << 30, 1), tasks(100, 8)], [32, 1, 1]);
        assert_eq!([tasks(SMALL, 8), tasks(10 * TASK, 8)], [8, 10]);
    }

    #[test]
    fn cuts_cover_everything_once() {
        for (total, grain, work, threads) in
            [(0, 1, 1 << 20, 2), (49, 14, 1 << 20, 2), (3136, 9, 1 << 20, 3), (7, 1, 10, 4)]
        {
            let cut = Cut::new(total, grain, work, threads);
            let all: Vec<usize> = (0..cut.tasks).flat_map(|i| cut.part(i)).collect();
            assert_eq!(all, (0..total).collect::<Vec<_>>());
        }
        let grid = GridCut::new(49, 14, 20, 1 << 20, 2);
        let cells: usize =
            (0..grid.tasks()).map(|i| grid.part(i).0.len() * grid.part(i).1.len()).sum();
        assert_eq!(cells, 49 * 20);
    }
}
