//! Running a model's step: plans for a few row counts over one state.

use crate::cells::{Cells, Copy};
use crate::error::LmError;
use crate::hash::Fnv;
use crate::memory::{self, Residents, mapped};
use kinglet_graph::ops::rows::{Pages, RowAttention};
use kinglet_graph::{Graph, Tensor};
use kinglet_runtime::{Plan, PlanOptions, Pool, Shared, StepReport};
use std::sync::Arc;

/// A row of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token.
    pub token: u32,
    /// Its position in its sequence.
    pub position: usize,
    /// Its sequence.
    pub sequence: usize,
    /// The row of the same step that it follows; `None`: what its sequence holds.
    pub parent: Option<usize>,
    /// The cell that takes it in.
    pub slot: usize,
}

/// Row counts that plans are made for: a step runs in the smallest that it fits.
const COUNTS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// The most rows of a step; longer prompts are cut.
pub const MOST_ROWS: usize = COUNTS[COUNTS.len() - 1];

/// Logits of one step take at most about so many bytes.
const LOGITS_BYTES: usize = 32 << 20;

/// Of plans that are not in use, as many are kept as take about so many bytes.
const PLANS_BYTES: usize = 256 << 20;

struct Sized {
    rows: usize,
    wanted: usize,
    plan: Plan,
    /// Of each step, the weights that it reads from a mapped file.
    weights: Vec<Vec<Tensor>>,
    /// The run that it was last used for.
    used: u64,
}

/// What a piece of state is for.
#[derive(Clone, Copy)]
pub(crate) enum Held {
    /// Keys and values of one layer.
    Cells(Pages),
    /// A memory of each sequence.
    Memories,
}

/// A model's graph, its plans, and the state that they share.
pub struct Stepper {
    graph: Graph,
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    plans: Vec<Sized>,
    runs: u64,
    held: Vec<Held>,
    residents: Residents,
    most_rows: usize,
    logits_bytes: usize,
    plans_bytes: usize,
    vocabulary: usize,
    sequences: usize,
    pages: usize,
    reference: bool,
    /// How much each adapter counts.
    adapters: Vec<f32>,
}

impl Stepper {
    /// Of a graph that [`kinglet_formats::lm::build`] made for `sequences` sequences and `pages`
    /// pages. `reference`: by the ops' reference implementations.
    pub fn new(
        graph: Graph,
        pool: Arc<Pool>,
        sequences: usize,
        pages: usize,
        reference: bool,
    ) -> Stepper {
        let vocabulary = graph
            .outputs
            .first()
            .and_then(|v| graph.value(*v).ty.shape.dims()?.last()?.fixed())
            .unwrap_or(0);
        let mut held = vec![Held::Memories; graph.states().len()];
        for op in graph.nodes().iter().filter_map(|n| n.op.downcast::<RowAttention>()) {
            if let Ok(pages) = op.pages(graph.state(op.state).ty.dtype) {
                held[op.state.index()] = Held::Cells(pages);
            }
        }
        Stepper {
            graph,
            pool,
            shared: memory::shared(),
            plans: Vec::new(),
            runs: 0,
            held,
            residents: Residents::default(),
            most_rows: MOST_ROWS,
            logits_bytes: LOGITS_BYTES,
            plans_bytes: PLANS_BYTES,
            vocabulary,
            sequences,
            pages,
            reference,
            adapters: Vec::new(),
        }
    }

    /// Lets each of the graph's adapters count so much.
    pub(crate) fn count_adapters(&mut self, counts: Vec<f32>) {
        self.adapters = counts;
    }

    /// How much each adapter counts.
    pub fn adapters(&self) -> &[f32] {
        &self.adapters
    }

    /// Runs one step over `rows`, at most [`Stepper::most_rows`], and returns the logits of rows `wanted`, one
    /// after the other.
    pub fn run(
        &mut self,
        rows: &[Row],
        wanted: &[usize],
        cells: &Cells,
    ) -> Result<&[f32], LmError> {
        self.run_observed(rows, wanted, cells, &mut |_, _| {})
    }

    /// [`Stepper::run`]; `observe` is called with the plan and the number of each of its steps
    /// before that step, and with their count after the last.
    pub fn run_observed(
        &mut self,
        rows: &[Row],
        wanted: &[usize],
        cells: &Cells,
        observe: &mut impl FnMut(&Plan, usize),
    ) -> Result<&[f32], LmError> {
        let count = COUNTS.iter().copied().find(|c| *c >= rows.len());
        let count = count.ok_or_else(|| LmError::Step(format!("{} rows at once", rows.len())))?;
        let asked = COUNTS.iter().copied().find(|c| *c >= wanted.len()).unwrap_or(count);
        let i = self.plan(count, asked)?;
        let plan = &mut self.plans[i].plan;
        let mut set = |input: usize, values: &mut dyn Iterator<Item = i32>, rest: i32| {
            let (words, _) = plan.input_mut(input).as_chunks_mut::<4>();
            for word in words {
                *word = values.next().unwrap_or(rest).to_le_bytes();
            }
        };
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        set(0, &mut rows.iter().map(|r| r.token as i32), -1);
        set(1, &mut rows.iter().map(|r| int(r.position)), 0);
        set(2, &mut rows.iter().map(|r| int(r.sequence)), -1);
        set(3, &mut rows.iter().map(|r| r.parent.map_or(-1, int)), -1);
        set(4, &mut rows.iter().map(|r| int(r.slot)), -1);
        set(6, &mut wanted.iter().map(|w| int(*w)), 0);
        if !self.adapters.is_empty() {
            plan.input_mut(7).copy_from_slice(bytemuck::cast_slice(&self.adapters));
        }
        // Only pages that rows of this step can see, and the end of each: a table for a long
        // context is large.
        let (table, _) = plan.input_mut(5).as_chunks_mut::<4>();
        let mut written = None;
        for row in rows.iter().filter(|r| written.replace(r.sequence) != Some(r.sequence)) {
            let pages = cells.pages(row.sequence).iter().map(|p| *p as i32).chain([-1]);
            let line = &mut table[row.sequence * self.pages..][..self.pages];
            line.iter_mut().zip(pages).for_each(|(word, page)| *word = page.to_le_bytes());
        }
        let Sized { plan, weights, .. } = &mut self.plans[i];
        for (step, weights) in weights.iter().enumerate() {
            observe(plan, step);
            plan.run_step(step).map_err(|e| LmError::Step(e.to_string()))?;
            self.residents.after_step(weights, &self.shared);
        }
        observe(plan, weights.len());
        let logits = self.plans[i].plan.output(0).bytes;
        let logits: &[f32] = bytemuck::cast_slice(logits);
        Ok(&logits[..wanted.len() * self.vocabulary])
    }

    /// The plan for so many rows, made where it is not there yet.
    fn plan(&mut self, rows: usize, wanted: usize) -> Result<usize, LmError> {
        self.runs += 1;
        if let Some(i) = self.plans.iter().position(|p| (p.rows, p.wanted) == (rows, wanted)) {
            self.plans[i].used = self.runs;
            return Ok(i);
        }
        let plan = self.compile(rows, wanted)?;
        let room = self.plans_bytes.saturating_sub(plan.memory().planned);
        while self.planned_bytes() > room {
            let oldest = (0..self.plans.len()).min_by_key(|i| self.plans[*i].used);
            let Some(oldest) = oldest else { break };
            self.plans.swap_remove(oldest);
        }
        let graph = plan.graph();
        let inputs = |step: StepReport| graph.node(step.node).inputs.iter().flatten();
        let weights = plan
            .steps()
            .map(|step| mapped(inputs(step).filter_map(|v| graph.value(*v).data.as_ref())).cloned())
            .map(Iterator::collect)
            .collect();
        self.plans.push(Sized { rows, wanted, plan, weights, used: self.runs });
        Ok(self.plans.len() - 1)
    }

    fn compile(&self, rows: usize, wanted: usize) -> Result<Plan, LmError> {
        let adapters = !self.adapters.is_empty();
        let shapes = (0..5)
            .map(|_| [rows].as_slice().into())
            .chain([[self.sequences, self.pages].as_slice().into(), [wanted].as_slice().into()])
            .chain(adapters.then(|| [self.adapters.len()].as_slice().into()));
        let options = PlanOptions {
            input_shapes: Some(shapes.collect()),
            pool: Some(self.pool.clone()),
            shared: Some(self.shared.clone()),
            reference: self.reference,
            ..PlanOptions::default()
        };
        Plan::new(&self.graph, &options).map_err(|e| LmError::Step(e.to_string()))
    }

    /// Bytes that a plan for so many rows would take.
    pub(crate) fn planned_for(&self, rows: usize) -> Result<usize, LmError> {
        self.compile(rows, 1).map(|plan| plan.memory().planned)
    }

    /// Bounds rows of a step, bytes of its logits, and bytes of plans.
    pub(crate) fn limit(&mut self, rows: usize, logits: usize, plans: usize) {
        (self.most_rows, self.logits_bytes, self.plans_bytes) = (rows, logits, plans);
    }

    /// The most rows of a step.
    pub fn most_rows(&self) -> usize {
        self.most_rows
    }

    /// The most rows of a step whose logits may be asked for.
    pub fn most_wanted(&self) -> usize {
        // Logits of many rows of a large vocabulary are many bytes.
        (self.logits_bytes / 4 / self.vocabulary.max(1)).clamp(1, self.most_rows)
    }

    /// Which weights stay in memory.
    pub(crate) fn residents(&mut self) -> &mut Residents {
        &mut self.residents
    }

    /// The constants of the graph.
    pub(crate) fn constants(&self) -> impl Iterator<Item = &Tensor> {
        self.graph.values().iter().filter_map(|v| v.data.as_ref())
    }

    /// Bytes of all state.
    pub(crate) fn state_bytes(&self) -> usize {
        self.shared.with_states(|states| states.iter().map(|s| s.raw().len()).sum())
    }

    /// Gives back packed copies and plans.
    pub(crate) fn drop_packed(&mut self) {
        self.plans.clear();
        self.shared.trim();
        self.residents.forget();
    }

    /// Gives back what sequences hold.
    pub(crate) fn drop_state(&mut self) {
        self.each_state(|_, _, state| {
            // Zeros that were never written take no memory.
            if let Ok(fresh) = Tensor::zeros(state.dtype(), state.dims()) {
                *state = fresh;
            }
        });
    }

    /// Sees to it that the state is there, so that it can be written before the first step.
    pub(crate) fn ready(&mut self) -> Result<(), LmError> {
        self.plan(1, 1).map(|_| ())
    }

    /// Calls `f` with each piece of state and what it is for.
    pub(crate) fn each_state(&self, mut f: impl FnMut(usize, Held, &mut Tensor)) {
        self.shared.with_states(|states| {
            for (i, (state, held)) in states.iter_mut().zip(&self.held).enumerate() {
                f(i, *held, state);
            }
        });
    }

    /// Copies the cells of a page, in every layer.
    pub fn copy_page(&self, copy: Copy) {
        self.each_state(|_, held, state| {
            if let Held::Cells(_) = held {
                let page = state.raw().len() / self.pages.max(1);
                let from = copy.from as usize * page;
                state.bytes_mut().copy_within(from..from + page, copy.to as usize * page);
            }
        });
    }

    /// Copies one cell, in every layer.
    pub fn copy_cell(&self, from: usize, to: usize) {
        self.each_state(|_, held, state| {
            if let Held::Cells(pages) = held {
                let bytes = state.bytes_mut();
                for (head, part) in
                    (0..pages.heads).flat_map(|h| pages.parts().map(move |p| (h, p)))
                {
                    let mut held = vec![0; pages.part_bytes(part)];
                    pages.get(&bytes[pages.page_of(from, head)], from, part, &mut held);
                    pages.put(&mut bytes[pages.page_of(to, head)], to, part, &held);
                }
            }
        });
    }

    /// Copies the memories that recurrent layers have of a sequence.
    pub fn copy_memory(&self, from: usize, to: usize) {
        self.each_state(|_, held, state| {
            if let Held::Memories = held {
                let memory = state.raw().len() / self.sequences.max(1);
                state.bytes_mut().copy_within(from * memory..(from + 1) * memory, to * memory);
            }
        });
    }

    /// Tells models apart: a hash of the names, sizes and some of the bytes of all constants.
    pub fn fingerprint(&self) -> String {
        const SAMPLE: usize = 256;
        let mut hash = Fnv::new();
        self.adapters.iter().for_each(|count| hash.take(&count.to_le_bytes()));
        for value in self.graph.values() {
            let Some(data) = &value.data else { continue };
            hash.take(value.name.as_bytes());
            hash.take(format!("{data:?}").as_bytes());
            let bytes = data.raw();
            for at in [0, bytes.len() / 2, bytes.len().saturating_sub(SAMPLE)] {
                hash.take(&bytes[at..bytes.len().min(at + SAMPLE)]);
            }
        }
        hash.text()
    }

    /// Whether the model has recurrent layers, which can't go back to an earlier position.
    pub fn recurrent(&self) -> bool {
        self.held.iter().any(|h| matches!(h, Held::Memories))
    }

    /// Elements of a row of logits.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The model's graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The state and packed weights.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Bytes of weights in memory at most during one step of the plans made so far, where none is kept
    /// for the next.
    pub(crate) fn weights_in_use(&self) -> usize {
        let of =
            |weights: &Vec<Tensor>| weights.iter().map(|w| memory::in_use(w, &self.shared)).sum();
        self.plans.iter().flat_map(|plan| plan.weights.iter().map(of)).max().unwrap_or(0)
    }

    /// Bytes that the plans made so far take for values between steps.
    pub fn planned_bytes(&self) -> usize {
        self.plans.iter().map(|p| p.plan.memory().planned).sum()
    }
}
