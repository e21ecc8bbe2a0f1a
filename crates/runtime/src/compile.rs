//! The making of a plan: steps and kernels for the nodes, lifetimes, places.

use crate::kernel::Lowered;
use crate::lower::{LowerCx, lower};
use crate::memory::{Item, Layout, lower_bound, place};
use crate::plan::{Action, MemoryReport, Operand, Place, Plan, Step};
use crate::runner::PlanRunner;
use crate::{Choices, Pool, Shared, bands};
use kinglet_graph::ops::state::{StateRead, StateWrite};
use kinglet_graph::{AlignedBytes, Graph, GraphError, Interpreter, Node, Tensor, ValueId};
use kinglet_kernels::isa::Isa;
use std::sync::{Arc, OnceLock};

pub(crate) fn initial_states(graph: &Graph) -> Result<Vec<Tensor>, GraphError> {
    let mut states = Interpreter::new(graph)?.into_states();
    // A first run must not find them shared with the graph, which would make it copy them.
    for state in &mut states {
        state.bytes_mut();
    }
    Ok(states)
}

/// Sees to it that the state of `graph` is there, and returns its bytes. What another plan put
/// there stays, and must be of the same types.
fn share_states(graph: &Graph, shared: &Shared) -> Result<usize, GraphError> {
    let mut states = shared.states.lock().unwrap_or_else(|e| e.into_inner());
    if states.is_empty() {
        *states = initial_states(graph)?;
    }
    let same = states.len() == graph.states().len()
        && states
            .iter()
            .zip(graph.states())
            .all(|(t, s)| t.dtype() == s.ty.dtype && s.ty.shape.admits(t.dims()));
    if !same {
        return Err(GraphError::new("state", "shared with a plan of another model"));
    }
    Ok(states.iter().map(|s| s.raw().len()).sum())
}

/// What kernels are chosen by.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub isa: Isa,
    pub choices: Choices,
}

/// Where everything lies while a plan runs.
struct Places {
    /// For each value that has bytes of its own, the first and last step that needs them.
    lives: Vec<Option<(usize, usize)>>,
    /// Of each step, whether it reads state in place.
    in_place: Vec<bool>,
    /// Of each value that is needed and has bytes of its own.
    values: Vec<Option<Place>>,
    /// Of each step, the offset of its scratch.
    scratch: Vec<usize>,
    memory: MemoryReport,
}

/// A plan in the making.
pub(crate) struct Compiler<'g> {
    graph: &'g Graph,
    pool: Arc<Pool>,
    runner: Arc<PlanRunner>,
    shared: Arc<Shared>,
    state_bytes: usize,
    /// For each value, the one whose bytes it is.
    root: Vec<ValueId>,
    dynamic: Vec<bool>,
    steps: Vec<Step>,
}

impl<'g> Compiler<'g> {
    pub(crate) fn new(
        graph: &'g Graph,
        pool: Arc<Pool>,
        shared: Arc<Shared>,
        target: Target,
        reference: bool,
    ) -> Result<Compiler<'g>, GraphError> {
        let mut compiler = Compiler {
            graph,
            state_bytes: share_states(graph, &shared)?,
            shared,
            root: graph.values_with_ids().map(|(id, _)| id).collect(),
            dynamic: graph.values().iter().map(|v| v.ty.bytes().is_none()).collect(),
            steps: Vec::new(),
            runner: Arc::new(PlanRunner::new(pool.clone(), target.isa, reference)),
            pool,
        };
        compiler.make_steps(target, reference)?;
        let (steps, threads) = (std::mem::take(&mut compiler.steps), compiler.pool.threads());
        compiler.steps =
            bands::join(graph, steps, &compiler.root, (threads, target.choices.band_bytes));
        Ok(compiler)
    }

    fn make_steps(&mut self, target: Target, reference: bool) -> Result<(), GraphError> {
        let graph = self.graph;
        let mut kernels = self.make_kernels(target, reference)?;
        for (i, node) in graph.nodes().iter().enumerate() {
            if let Some(input) = self.aliased(node) {
                self.root[node.outputs[0].index()] = self.root[input.index()];
                continue;
            }
            let action = if let Some(read) = node.op.downcast::<StateRead>() {
                Action::ReadState(read.state.index())
            } else if let Some(write) = node.op.downcast::<StateWrite>() {
                Action::WriteState(write.state.index())
            } else {
                match kernels[i].take() {
                    Some(lowered) => Action::Kernel { lowered, scratch: 0 },
                    None => Action::Dynamic(node.op.clone()),
                }
            };
            self.steps.push(Step {
                node: graph.node_id(i),
                before: Vec::new(),
                action,
                inputs: node.inputs.clone(),
                outputs: node.outputs.clone(),
                frees: Vec::new(),
            });
        }
        Ok(())
    }

    /// The kernel of each node that has one. Packing weights is most of what loading a model
    /// takes, so the pool's threads share it.
    fn make_kernels(
        &self,
        target: Target,
        reference: bool,
    ) -> Result<Vec<Option<Lowered>>, GraphError> {
        let graph = self.graph;
        let threads = self.pool.threads();
        let made: Vec<OnceLock<Result<Lowered, GraphError>>> =
            graph.nodes().iter().map(|_| OnceLock::new()).collect();
        self.pool.run(graph.nodes().len(), |i, _| {
            let node = &graph.nodes()[i];
            let moves_state = node.op.is::<StateRead>() || node.op.is::<StateWrite>();
            if self.is_dynamic(node) || self.aliased(node).is_some() || moves_state {
                return;
            }
            let lowered = if reference {
                Ok(crate::lower::reference(node, &self.runner))
            } else {
                let Target { isa, choices } = target;
                let shared = &self.shared;
                lower(&LowerCx { graph, node, isa, choices, threads, shared }, &self.runner)
            };
            // Each node is one task's, so the place was empty.
            let _ = made[i].set(lowered);
        });
        made.into_iter().map(|lowered| lowered.into_inner().transpose()).collect()
    }

    /// Whether sizes of the node's values depend on data.
    fn is_dynamic(&self, node: &Node) -> bool {
        node.inputs.iter().flatten().chain(&node.outputs).any(|v| self.dynamic[v.index()])
    }

    /// The input whose bytes the node's one output is.
    fn aliased(&self, node: &Node) -> Option<ValueId> {
        let input = node.inputs[node.op.alias()?]?;
        (node.outputs.len() == 1 && !self.is_dynamic(node)).then_some(input)
    }

    /// For each value that has bytes of its own, the first and last step that needs them.
    fn lifetimes(&self) -> Vec<Option<(usize, usize)>> {
        let end = self.steps.len().saturating_sub(1);
        let mut lives: Vec<Option<(usize, usize)>> = vec![None; self.graph.values().len()];
        let mut touch = |v: ValueId, step: usize| {
            let life = lives[self.root[v.index()].index()].get_or_insert((step, step));
            *life = (life.0.min(step), life.1.max(step));
        };
        for v in &self.graph.inputs {
            touch(*v, 0);
        }
        for (i, step) in self.steps.iter().enumerate() {
            for v in step.inputs.iter().flatten().chain(&step.outputs) {
                touch(*v, i);
            }
        }
        for v in &self.graph.outputs {
            touch(*v, end);
        }
        lives
    }

    /// Whether the value that step `i` reads from state may be the state's own memory: nothing
    /// writes the state while the value is needed.
    fn reads_in_place(&self, i: usize, lives: &[Option<(usize, usize)>]) -> bool {
        let Action::ReadState(state) = self.steps[i].action else { return false };
        let out = self.steps[i].outputs[0];
        let Some((first, last)) = lives[out.index()] else { return false };
        let is_output = self.graph.outputs.iter().any(|v| self.root[v.index()] == out);
        let written = |step: &Step| {
            !matches!(step.action, Action::ReadState(_))
                && self.graph.node(step.node).op.state().is_some_and(|s| s.index() == state)
        };
        // A write at the last step may read the very value it writes.
        !is_output && !self.steps[first..=last].iter().any(written)
    }

    /// Where everything lies.
    fn places(&self) -> Places {
        let graph = self.graph;
        let lives = self.lifetimes();
        let in_place: Vec<bool> =
            (0..self.steps.len()).map(|i| self.reads_in_place(i, &lives)).collect();
        let mut own_place: Vec<Option<Place>> = vec![None; graph.values().len()];
        for (i, step) in self.steps.iter().enumerate() {
            if let (Action::ReadState(state), true) = (&step.action, in_place[i]) {
                own_place[step.outputs[0].index()] = Some(Place::State(*state));
            }
        }
        let mut items = Vec::new();
        let mut item_of = vec![None; graph.values().len()];
        for (id, value) in graph.values_with_ids() {
            let i = id.index();
            if let Some(data) = &value.data {
                own_place[i] = Some(Place::Constant(data.clone()));
            } else if self.dynamic[i] {
                own_place[i] = Some(Place::Heap);
            } else if let (None, Some((first, last))) = (&own_place[i], lives[i]) {
                item_of[i] = Some(items.len());
                items.push(Item { size: value.ty.bytes().unwrap_or(0), first, last });
            }
        }
        let bound = lower_bound(&items);
        let values = items.len();
        let mut packed = 0;
        for (i, step) in self.steps.iter().enumerate() {
            let (size, of_weights) = match &step.action {
                Action::Kernel { lowered, .. } => (lowered.scratch, lowered.packed),
                _ => (0, 0),
            };
            packed += of_weights;
            items.push(Item { size, first: i, last: i });
        }
        let layout = place(&items);
        check_disjoint(&items, &layout);
        for (own, item) in own_place.iter_mut().zip(item_of) {
            if let (None, Some(item)) = (&own, item) {
                *own = Some(Place::Arena(layout.offsets[item]));
            }
        }
        let memory = MemoryReport {
            planned: layout.size,
            lower_bound: bound,
            packed,
            state: self.state_bytes,
            dynamic_values: self.dynamic.iter().filter(|d| **d).count(),
        };
        Places {
            lives,
            in_place,
            values: own_place,
            scratch: layout.offsets[values..].into(),
            memory,
        }
    }

    /// What the plan takes of memory.
    pub(crate) fn memory(&self) -> MemoryReport {
        self.places().memory
    }

    /// The plan, its memory placed, but for the graph itself.
    pub(crate) fn finish(mut self) -> Result<Plan, GraphError> {
        let graph = self.graph;
        let Places { lives, in_place, values, scratch: of_steps, memory } = self.places();
        for (step, at) in self.steps.iter_mut().zip(of_steps) {
            if let Action::Kernel { scratch, .. } = &mut step.action {
                *scratch = at;
            }
        }
        let mut operands = Vec::with_capacity(graph.values().len());
        for (id, value) in graph.values_with_ids() {
            let root = self.root[id.index()].index();
            operands.push(Operand {
                dtype: value.ty.dtype,
                dims: value.ty.shape.fixed().unwrap_or_default(),
                len: value.ty.bytes().unwrap_or(0),
                quant: value.ty.quant.clone(),
                // Nothing needs it: a value of no uses.
                place: values[root].clone().unwrap_or(Place::Heap),
            });
        }
        self.warm_constants(&operands);
        self.set_frees(&lives);
        let steps: Vec<Step> = self
            .steps
            .into_iter()
            .zip(in_place)
            .filter_map(|(step, in_place)| (!in_place).then_some(step))
            .collect();
        let widest = steps.iter().map(|s| s.inputs.len()).max().unwrap_or(0);
        let most_outputs = steps.iter().map(|s| s.outputs.len()).max().unwrap_or(0);
        Ok(Plan {
            // The caller's, who has it to give away.
            graph: Graph::default(),
            operands,
            steps,
            arena: arena(memory.planned)?,
            heap: vec![None; graph.values().len()],
            states: Vec::new(),
            shared: self.shared,
            pool: self.pool,
            memory,
            runner: self.runner,
            views: Vec::with_capacity(widest),
            outs: Vec::with_capacity(most_outputs),
        })
    }

    /// Aligns the constants that will be read at run time now rather than in the first run.
    fn warm_constants(&self, operands: &[Operand]) {
        for step in &self.steps {
            let absorbed: &[usize] = match &step.action {
                Action::Kernel { lowered, .. } => &lowered.absorbed,
                _ => &[],
            };
            for (i, v) in step.inputs.iter().enumerate() {
                if let (Some(v), false) = (v, absorbed.contains(&i))
                    && let Place::Constant(tensor) = &operands[v.index()].place
                {
                    tensor.bytes();
                }
            }
        }
    }

    fn set_frees(&mut self, lives: &[Option<(usize, usize)>]) {
        for (i, life) in lives.iter().enumerate() {
            let id = self.root[i];
            let is_output = self.graph.outputs.contains(&id);
            if let (true, false, Some((_, last))) = (self.dynamic[i], is_output, life) {
                self.steps[*last].frees.push(id);
            }
        }
    }
}

fn arena(size: usize) -> Result<AlignedBytes, GraphError> {
    // A size that no machine has must be an error and not an abort of the process.
    let mut probe: Vec<u8> = Vec::new();
    if probe.try_reserve_exact(size).is_err() {
        let m = format!("{size} bytes for the values between steps do not fit in memory");
        return Err(GraphError::new("memory plan", m));
    }
    drop(probe);
    // Planned without gaps, so a run writes nearly all of it.
    Ok(AlignedBytes::to_fill(size))
}

/// The contract of `run_step`'s slices.
fn check_disjoint(items: &[Item], layout: &Layout) {
    for (i, a) in items.iter().enumerate() {
        let a_range = layout.offsets[i]..layout.offsets[i] + a.size;
        assert!(a_range.end <= layout.size, "the memory plan leaves the arena");
        for (j, b) in items.iter().enumerate().skip(i + 1) {
            let b_range = layout.offsets[j]..layout.offsets[j] + b.size;
            let together = a.first <= b.last && b.first <= a.last;
            let overlap = a_range.start < b_range.end && b_range.start < a_range.end;
            assert!(!(together && overlap && a.size > 0 && b.size > 0), "the memory plan overlaps");
        }
    }
}
