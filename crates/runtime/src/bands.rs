//! Steps that run together, a few lines of an image at a time, so that what one hands to the next
//! stays in the cache and takes no place in the plan: a depthwise convolution and the pointwise
//! ones around it, which are a block of a MobileNet (line buffers as in "Fused-Layer CNN
//! Accelerators", Alwani et al. 2016).
//!
//! Each task has a stretch of the last step's lines. For a few of them it works out, back through
//! the steps, which lines each needs, makes those that its buffers do not hold yet, and keeps the
//! ones that the next few lines need again. Only where two stretches meet are lines made twice.

use crate::kernel::{Io, Kernel, Lowered};
use crate::plan::{Action, Step};
use crate::scratch::PerWorker;
use kinglet_graph::{Graph, OpError, OpResult, TensorView, ValueId};
use kinglet_kernels::shared::SharedMut;
use kinglet_kernels::window::Lines;
use std::ops::Range;
use std::sync::Mutex;

/// A kernel that can make some lines of its image by themselves.
pub trait Banded: Send + Sync {
    /// Its sizes.
    fn shape(&self) -> BandShape;

    /// The lines of input 0 that output lines `lines` are made of.
    fn lines_read(&self, lines: Range<usize>) -> Range<usize>;

    /// Makes lines of output.
    fn run_band(&self, band: Band<'_>) -> OpResult;
}

/// The sizes of a kernel that works in bands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandShape {
    /// Lines of output, over the whole batch.
    pub lines: usize,
    /// Bytes of a line of output.
    pub line_bytes: usize,
    /// Bytes of scratch.
    pub scratch: usize,
    /// Whether each pixel is made of one pixel.
    pub pointwise: bool,
}

/// What [`Banded::run_band`] works on.
pub struct Band<'a> {
    /// The output lines to make.
    pub lines: Range<usize>,
    /// Input 0: at least the lines that these are made of.
    pub input: Lines<&'a [u8]>,
    /// The step's inputs, for those after input 0.
    pub inputs: &'a [Option<TensorView<'a>>],
    /// Those lines, and no others.
    pub out: &'a mut [u8],
    /// Of the size asked for.
    pub scratch: &'a mut [u8],
}

/// Bytes that buffers should not exceed.
const BUFFERS: usize = 192 << 10;

/// The most lines made at once.
const LINES: usize = 8;

/// The most steps of a block.
const STAGES: usize = 3;

/// Lines of a stretch, at least, where there are more stretches than threads.
const STRETCH: usize = 32;

struct Stage {
    kernel: Box<dyn Kernel>,
    /// Its part of the step's inputs; in those after the first, input 0 has no view.
    inputs: Range<usize>,
}

impl Stage {
    fn banded(&self) -> &dyn Banded {
        self.kernel.banded().expect("only banded kernels are joined")
    }
}

/// What a stage needs: where its lines are kept, and of how many.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    at: usize,
    line: usize,
    lines: usize,
}

/// Steps as one.
struct Bands {
    stages: Vec<Stage>,
    /// Of all stages but the last.
    buffers: Vec<Buffer>,
    /// Bytes of all buffers, after which scratch begins.
    buffered: usize,
    /// Lines of output made at once.
    step: usize,
    tasks: usize,
    scratch: PerWorker,
}

impl Bands {
    fn new(stages: Vec<Stage>, threads: usize) -> Bands {
        let lines = stages[stages.len() - 1].banded().shape().lines;
        let tasks = (lines / STRETCH).clamp(threads, 4 * threads).min(lines).max(1);
        let scratch = stages.iter().map(|stage| stage.banded().shape().scratch).max();
        let mut bands = Bands {
            stages,
            buffers: Vec::new(),
            buffered: 0,
            step: 1,
            tasks,
            scratch: PerWorker::new(0),
        };
        for step in [LINES, LINES / 2, LINES / 4, 1] {
            bands.step = step;
            bands.place_buffers(lines);
            if bands.buffered <= BUFFERS {
                break;
            }
        }
        bands.scratch = PerWorker::new(bands.buffered + scratch.unwrap_or(0));
        bands
    }

    /// Sets the buffers for [`Bands::step`].
    fn place_buffers(&mut self, lines: usize) {
        let mut most = [0; STAGES];
        for task in 0..self.tasks {
            for (_, needs) in self.needs(self.stretch(lines, task)) {
                for (most, needs) in most.iter_mut().zip(&needs) {
                    *most = needs.len().max(*most);
                }
            }
        }
        (self.buffers, self.buffered) = (Vec::new(), 0);
        for (stage, lines) in self.stages[..self.stages.len() - 1].iter().zip(most) {
            let line = stage.banded().shape().line_bytes;
            self.buffers.push(Buffer { at: self.buffered, line, lines });
            self.buffered += (line * lines).next_multiple_of(64);
        }
    }

    fn stretch(&self, lines: usize, task: usize) -> Range<usize> {
        lines * task / self.tasks..lines * (task + 1) / self.tasks
    }

    /// For a few lines of a stretch after the other: these, and the lines that each stage makes.
    fn needs(
        &self,
        stretch: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, [Range<usize>; STAGES])> {
        let last = self.stages.len() - 1;
        stretch.clone().step_by(self.step).map(move |first| {
            let lines = first..stretch.end.min(first + self.step);
            let mut needs = [const { 0..0 }; STAGES];
            needs[last] = lines.clone();
            for stage in (0..last).rev() {
                needs[stage] = self.stages[stage + 1].banded().lines_read(needs[stage + 1].clone());
            }
            (lines, needs)
        })
    }

    /// Makes a stretch of lines, `out`.
    fn make(
        &self,
        stretch: Range<usize>,
        inputs: &[Option<TensorView<'_>>],
        out: &mut [u8],
        scratch: &mut [u8],
    ) -> OpResult {
        let (buffers, scratch) = scratch.split_at_mut(self.buffered);
        let Some(Some(whole)) = inputs.first() else {
            return Err(OpError::new("input 0 is missing"));
        };
        let last = self.stages.len() - 1;
        let line_bytes = self.stages[last].banded().shape().line_bytes;
        // The lines that each buffer holds.
        let mut held = [const { 0..0 }; STAGES];
        for (lines, needs) in self.needs(stretch.clone()) {
            for (index, stage) in self.stages.iter().enumerate() {
                let (before, rest) = match self.buffers.get(index) {
                    Some(buffer) => buffers.split_at_mut(buffer.at),
                    None => (&mut *buffers, &mut [][..]),
                };
                let input = match index.checked_sub(1) {
                    None => Lines::all(whole.bytes),
                    Some(i) => Lines { data: &before[self.buffers[i].at..], first: held[i].start },
                };
                let (made, to) = match self.buffers.get(index) {
                    Some(buffer) => {
                        let (held, needed) = (&mut held[index], &needs[index]);
                        let rest = &mut rest[..buffer.line * buffer.lines];
                        keep(rest, buffer.line, held, needed);
                        let missing = held.end..needed.end;
                        let place = held.end - held.start;
                        held.end = needed.end;
                        let place = place * buffer.line..(needed.end - held.start) * buffer.line;
                        (missing, &mut rest[place])
                    }
                    None => {
                        let first = (lines.start - stretch.start) * line_bytes;
                        (lines.clone(), &mut out[first..][..lines.len() * line_bytes])
                    }
                };
                if !made.is_empty() {
                    stage.banded().run_band(Band {
                        lines: made,
                        input,
                        inputs: &inputs[stage.inputs.clone()],
                        out: to,
                        scratch,
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Moves those of the lines `held` that are needed to the start of `buffer`; `held` begins with the
/// first needed one then.
fn keep(buffer: &mut [u8], line: usize, held: &mut Range<usize>, needed: &Range<usize>) {
    if held.contains(&needed.start) && !needed.is_empty() {
        let from = (needed.start - held.start) * line..(held.end - held.start) * line;
        buffer.copy_within(from, 0);
        held.start = needed.start;
    } else {
        *held = needed.start..needed.start;
    }
}

impl Kernel for Bands {
    fn run(&self, io: &mut Io<'_>) -> OpResult {
        let shape = self.stages[self.stages.len() - 1].banded().shape();
        let out = SharedMut::new(&mut *io.outputs[0].bytes);
        let (pool, planned, inputs) = (io.pool, SharedMut::new(&mut *io.scratch), io.inputs);
        let failed = Mutex::new(Ok(()));
        pool.run(self.tasks, |task, worker| {
            let lines = self.stretch(shape.lines, task);
            let bytes = lines.start * shape.line_bytes..lines.end * shape.line_bytes;
            // SAFETY: each worker has its own scratch, each task its own lines of output.
            let (out, scratch) =
                unsafe { (out.slice(bytes), self.scratch.of(pool, planned, worker)) };
            if let Err(error) = self.make(lines, inputs, out, scratch) {
                *failed.lock().unwrap_or_else(|e| e.into_inner()) = Err(error);
            }
        });
        failed.into_inner().unwrap_or_else(|e| e.into_inner())
    }

    fn describe(&self) -> String {
        let stages: Vec<_> = self.stages.iter().map(|stage| stage.kernel.describe()).collect();
        format!("bands of {}: {}", self.step, stages.join(", "))
    }

    fn why(&self) -> &'static str {
        "what these steps hand on is more than a core's cache: some lines at a time it stays there"
    }
}

/// Joins steps that are a block and hand on `worthwhile` bytes or more. `root` gives the value whose
/// bytes a value is.
pub(crate) fn join(
    graph: &Graph,
    steps: Vec<Step>,
    root: &[ValueId],
    (threads, worthwhile): (usize, usize),
) -> Vec<Step> {
    let mut uses = vec![0usize; graph.values().len()];
    for v in steps.iter().flat_map(|step| step.inputs.iter().flatten()).chain(&graph.outputs) {
        uses[root[v.index()].index()] += 1;
    }
    let mut joined: Vec<Step> = Vec::with_capacity(steps.len());
    let mut steps = steps.into_iter().peekable();
    let mut rest: Vec<Step> = Vec::new();
    while let Some(step) = rest.pop().or_else(|| steps.next()) {
        let mut block = vec![step];
        while block.len() < STAGES {
            let Some(next) = rest.pop().or_else(|| steps.next()) else { break };
            let hands_on = {
                let before = &block[block.len() - 1];
                hands_on(before, &next, |v| uses[root[v.index()].index()] == 1)
            };
            if hands_on && fits(&block, &next) {
                block.push(next);
            } else {
                rest.push(next);
                break;
            }
        }
        let between = |step: &Step| graph.value(step.outputs[0]).ty.bytes().unwrap_or(0);
        let handed: usize = block[..block.len() - 1].iter().map(between).sum();
        let has_depthwise = block.iter().any(|step| !is_pointwise(step));
        if block.len() > 1 && has_depthwise && handed >= worthwhile {
            joined.push(as_one(block, threads));
        } else {
            // Any but the first may begin a block of its own.
            let mut block = block.into_iter();
            joined.extend(block.next());
            rest.extend(block.rev());
        }
    }
    joined
}

fn banded(step: &Step) -> Option<BandShape> {
    match &step.action {
        Action::Kernel { lowered, .. } => Some(lowered.kernel.banded()?.shape()),
        _ => None,
    }
}

fn is_pointwise(step: &Step) -> bool {
    banded(step).is_some_and(|shape| shape.pointwise)
}

/// Whether all that `step` makes is `next`'s input 0 and nothing else's.
fn hands_on(step: &Step, next: &Step, used_once: impl Fn(ValueId) -> bool) -> bool {
    let ([made], Some(Some(read))) = (&step.outputs[..], next.inputs.first()) else {
        return false;
    };
    banded(step).is_some() && banded(next).is_some() && made == read && used_once(*made)
}

/// Whether `next` goes on with the block: one depthwise convolution, pointwise ones around it.
fn fits(block: &[Step], next: &Step) -> bool {
    let depthwise = |step: &Step| !is_pointwise(step);
    match block {
        [first] => depthwise(first) != depthwise(next),
        [.., last] => depthwise(last) && !depthwise(next),
        [] => false,
    }
}

fn as_one(block: Vec<Step>, threads: usize) -> Step {
    let (mut stages, mut before) = (Vec::new(), Vec::new());
    let (mut inputs, mut outputs, mut absorbed, mut packed) =
        (Vec::new(), Vec::new(), Vec::new(), 0);
    for step in block {
        let Action::Kernel { lowered, .. } = step.action else {
            unreachable!("only kernels are joined")
        };
        let first = inputs.len();
        inputs.extend(step.inputs);
        if first > 0 {
            // It is in a buffer.
            inputs[first] = None;
        }
        absorbed.extend(lowered.absorbed.iter().map(|i| first + i));
        packed += lowered.packed;
        stages.push(Stage { kernel: lowered.kernel, inputs: first..inputs.len() });
        before.push(step.node);
        outputs = step.outputs;
    }
    let node = before.pop().expect("a block has steps");
    let bands = Bands::new(stages, threads);
    let scratch = bands.scratch.planned(if bands.tasks <= 1 { 1 } else { threads });
    let lowered = Lowered::new(bands).with_scratch(scratch).with_absorbed(&absorbed, packed);
    let action = Action::Kernel { lowered, scratch: 0 };
    Step { node, before, action, inputs, outputs, frees: Vec::new() }
}
