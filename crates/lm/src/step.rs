//! Running a model's step: plans for a few row counts over one state.

use crate::cells::{Cells, Copy};
use crate::error::LmError;
use kinglet_graph::ops::rows::PAGE;
use kinglet_graph::{Graph, Tensor};
use kinglet_runtime::{Plan, PlanOptions, Pool, Shared};
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

struct Sized {
    rows: usize,
    wanted: usize,
    plan: Plan,
}

/// A model's graph, its plans, and the state that they share.
pub struct Stepper {
    graph: Graph,
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    plans: Vec<Sized>,
    vocabulary: usize,
    sequences: usize,
    pages: usize,
    reference: bool,
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
        let (shared, plans) = (Arc::default(), Vec::new());
        Stepper { graph, pool, shared, plans, vocabulary, sequences, pages, reference }
    }

    /// Runs one step over `rows`, at most [`MOST_ROWS`], and returns the logits of rows `wanted`, one
    /// after the other.
    pub fn run(
        &mut self,
        rows: &[Row],
        wanted: &[usize],
        cells: &Cells,
    ) -> Result<&[f32], LmError> {
        let count = COUNTS.iter().copied().find(|c| *c >= rows.len());
        let count = count.ok_or_else(|| LmError::Step(format!("{} rows at once", rows.len())))?;
        // Most steps want one row or all.
        let asked = if wanted.len() <= 1 { 1 } else { count };
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
        let pages = self.pages;
        let page = |i: usize| cells.pages(i / pages).get(i % pages).map_or(-1, |p| *p as i32);
        set(5, &mut (0..self.sequences * pages).map(page), -1);
        set(6, &mut wanted.iter().map(|w| int(*w)), 0);
        plan.run().map_err(|e| LmError::Step(e.to_string()))?;
        let logits = self.plans[i].plan.output(0).bytes;
        let logits: &[f32] = bytemuck::cast_slice(logits);
        Ok(&logits[..wanted.len() * self.vocabulary])
    }

    fn plan(&mut self, rows: usize, wanted: usize) -> Result<usize, LmError> {
        if let Some(i) = self.plans.iter().position(|p| (p.rows, p.wanted) == (rows, wanted)) {
            return Ok(i);
        }
        let shapes = (0..5)
            .map(|_| [rows].as_slice().into())
            .chain([[self.sequences, self.pages].as_slice().into(), [wanted].as_slice().into()]);
        let options = PlanOptions {
            input_shapes: Some(shapes.collect()),
            pool: Some(self.pool.clone()),
            shared: Some(self.shared.clone()),
            reference: self.reference,
            ..PlanOptions::default()
        };
        let plan = Plan::new(&self.graph, &options).map_err(|e| LmError::Step(e.to_string()))?;
        self.plans.push(Sized { rows, wanted, plan });
        Ok(self.plans.len() - 1)
    }

    /// Copies the cells of a page, in every layer.
    pub fn copy_page(&self, copy: Copy) {
        self.shared.with_states(|states| {
            for state in states.iter_mut().filter(|s| is_cache(s, self.pages)) {
                let page = state.raw().len() / self.pages;
                let from = copy.from as usize * page;
                state.bytes_mut().copy_within(from..from + page, copy.to as usize * page);
            }
        });
    }

    /// Copies the memories that recurrent layers have of a sequence.
    pub fn copy_memory(&self, from: usize, to: usize) {
        self.shared.with_states(|states| {
            for state in states.iter_mut().filter(|s| !is_cache(s, self.pages)) {
                let memory = state.raw().len() / self.sequences;
                state.bytes_mut().copy_within(from * memory..(from + 1) * memory, to * memory);
            }
        });
    }

    /// Whether the model has recurrent layers, which can't go back to an earlier position.
    pub fn recurrent(&self) -> bool {
        let cache = |s: &kinglet_graph::State| {
            s.ty.shape.fixed().is_some_and(|d| matches!(*d, [p, _, PAGE, _] if p == self.pages))
        };
        self.graph.states().iter().any(|s| !cache(s))
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

    /// Bytes that the plans made so far take for values between steps.
    pub fn planned_bytes(&self) -> usize {
        self.plans.iter().map(|p| p.plan.memory().planned).sum()
    }

    /// Forgets the plans; they are made again when they are needed.
    pub fn drop_plans(&mut self) {
        self.plans.clear();
    }
}

/// Whether a piece of state holds cells: [pages, heads, [`PAGE`], cell].
fn is_cache(state: &Tensor, pages: usize) -> bool {
    matches!(*state.dims(), [p, _, PAGE, _] if p == pages)
}
