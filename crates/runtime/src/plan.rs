//! Plans: a graph compiled for given sizes and this CPU, with its memory, ready to run.

use crate::kernel::{Io, Lowered, OutView};
use crate::lower::{LowerCx, lower};
use crate::memory::{Item, Layout, lower_bound, place};
use crate::runner::PlanRunner;
use crate::{Pool, passes};
use kinglet_graph::ops::state::{StateRead, StateWrite};
use kinglet_graph::{
    AlignedBytes, DType, Dims, Graph, GraphError, Inputs, Interpreter, NodeId, Op, OpError,
    OpResult, Outputs, Quant, Slot, Tensor, TensorView, Value, ValueId, set_input_shapes,
};
use kinglet_kernels::isa::Isa;
use std::sync::Arc;

/// How to compile a plan.
#[derive(Clone, Default)]
pub struct PlanOptions {
    /// The sizes of each input. `None`: as the model says, which must then say all of them.
    pub input_shapes: Option<Vec<Dims>>,
    /// Threads to compute with; 0: as many as the machine has cores. Ignored where `pool` is set.
    pub threads: usize,
    /// A pool to share with other plans.
    pub pool: Option<Arc<Pool>>,
    /// The instruction set; `None`: the best, or the one that `KINGLET_ISA` names.
    pub isa: Option<Isa>,
    /// Run every node by its reference implementation, on the graph as loaded: slow; what the
    /// fast way is compared with.
    pub reference: bool,
}

/// Where a value lies while a plan runs.
#[derive(Clone)]
enum Place {
    /// In the arena, from this byte.
    Arena(usize),
    /// A constant of the graph.
    Constant(Tensor),
    /// The memory of a piece of state itself.
    State(usize),
    /// A tensor made when it is computed, as only then its sizes are known.
    Heap,
}

struct Operand {
    dtype: DType,
    dims: Dims,
    len: usize,
    quant: Option<Arc<Quant>>,
    place: Place,
}

enum Action {
    Kernel {
        lowered: Lowered,
        scratch: usize,
    },
    /// Sizes depend on data: the reference implementation makes its outputs.
    Dynamic(Arc<dyn Op>),
    ReadState(usize),
    WriteState(usize),
}

struct Step {
    node: NodeId,
    action: Action,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<ValueId>,
    /// Values whose tensors are not needed after this step.
    frees: Vec<ValueId>,
}

/// What a plan takes of memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// Activations and scratch: the arena.
    pub planned: usize,
    /// The largest sum of values needed at one step; no plan can take less.
    pub lower_bound: usize,
    /// Copies of weights packed for the kernels.
    pub packed: usize,
    /// State kept between runs.
    pub state: usize,
    /// Values whose size only running tells; they are not in `planned`.
    pub dynamic_values: usize,
}

/// One step of a plan, for people.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The node, an index into the plan's graph.
    pub node: NodeId,
    /// The kernel that runs it.
    pub kernel: String,
    /// Bytes of scratch.
    pub scratch: usize,
}

/// A graph compiled for given sizes and this CPU. Holds its memory and state: one run at a time.
pub struct Plan {
    graph: Graph,
    operands: Vec<Operand>,
    steps: Vec<Step>,
    arena: AlignedBytes,
    heap: Vec<Option<Tensor>>,
    states: Vec<Tensor>,
    pool: Arc<Pool>,
    memory: MemoryReport,
    runner: Arc<PlanRunner>,
    // Kept between runs for their capacity.
    views: Vec<Option<TensorView<'static>>>,
    outs: Vec<OutView<'static>>,
}

impl Plan {
    /// Compiles `graph`.
    pub fn new(graph: &Graph, options: &PlanOptions) -> Result<Plan, GraphError> {
        Plan::observed(graph, options, &mut |_, _| {})
    }

    /// Compiles `graph`; `observe` sees it after each pass, with the pass's name.
    pub fn observed(
        graph: &Graph,
        options: &PlanOptions,
        observe: &mut dyn FnMut(&str, &Graph),
    ) -> Result<Plan, GraphError> {
        let isa = match options.isa {
            Some(isa) => isa,
            None => Isa::from_env().map_err(|e| GraphError::new("instruction set", e))?,
        };
        let pool = options.pool.clone().unwrap_or_else(|| {
            let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
            Arc::new(Pool::new(if options.threads == 0 { cores() } else { options.threads }))
        });
        let mut graph = graph.clone();
        if let Some(shapes) = &options.input_shapes {
            set_input_shapes(&mut graph, shapes)?;
        }
        for id in &graph.inputs {
            let value = graph.value(*id);
            if value.ty.shape.fixed().is_none() {
                return Err(GraphError::new(
                    format!("input '{}'", value.name),
                    format!("its sizes {} are open: say which to plan for", value.ty.shape),
                ));
            }
        }
        if options.reference {
            kinglet_graph::infer(&mut graph, kinglet_graph::Fold::Shapes)?;
        } else {
            passes::optimise(&mut graph, observe)?;
        }
        graph.verify()?;
        Compiler::new(&graph, pool, isa, options.reference)?.finish()
    }

    /// The graph as compiled: after all passes.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The input values, in order.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.graph.inputs.iter().map(|v| self.graph.value(*v))
    }

    /// The output values, in order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.graph.outputs.iter().map(|v| self.graph.value(*v))
    }

    /// The memory that input `i` is read from: write the elements before each run, as running
    /// may use it for other values.
    pub fn input_mut(&mut self, i: usize) -> &mut [u8] {
        let operand = &self.operands[self.graph.inputs[i].index()];
        match operand.place {
            Place::Arena(at) => &mut self.arena.as_mut()[at..at + operand.len],
            _ => unreachable!("inputs are planned in the arena"),
        }
    }

    /// Copies `tensor` into input `i`. Fails where its type or sizes differ.
    pub fn set_input(&mut self, i: usize, tensor: &TensorView<'_>) -> Result<(), GraphError> {
        let Some(id) = self.graph.inputs.get(i) else {
            let m = format!("the model has {} inputs", self.graph.inputs.len());
            return Err(GraphError::new(format!("input {i}"), m));
        };
        let value = self.graph.value(*id);
        let operand = &self.operands[id.index()];
        if operand.dtype != tensor.dtype || operand.dims.as_slice() != tensor.dims {
            return Err(GraphError::new(
                format!("input '{}'", value.name),
                format!("takes {}, was given {}{:?}", value.ty, tensor.dtype, tensor.dims),
            ));
        }
        self.input_mut(i).copy_from_slice(tensor.bytes);
        Ok(())
    }

    /// Output `i` of the last run.
    pub fn output(&self, i: usize) -> TensorView<'_> {
        let id = self.graph.outputs[i];
        let operand = &self.operands[id.index()];
        let bytes = match &operand.place {
            Place::Arena(at) => &self.arena.as_ref()[*at..at + operand.len],
            Place::Constant(tensor) => tensor.bytes(),
            Place::State(state) => self.states[*state].bytes(),
            Place::Heap => match &self.heap[id.index()] {
                Some(tensor) => return tensor.view(),
                None => &[],
            },
        };
        let quant = operand.quant.as_deref();
        TensorView { dtype: operand.dtype, dims: &operand.dims, bytes, quant }
    }

    /// Puts all state back to its initial content.
    pub fn reset_state(&mut self) -> Result<(), GraphError> {
        self.states = initial_states(&self.graph)?;
        Ok(())
    }

    /// What this plan takes of memory.
    pub fn memory(&self) -> MemoryReport {
        self.memory
    }

    /// Threads that this plan computes with.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The steps, in order, with the kernel of each.
    pub fn steps(&self) -> impl Iterator<Item = StepReport> {
        self.steps.iter().map(|step| {
            let (kernel, scratch) = match &step.action {
                Action::Kernel { lowered, .. } => (lowered.kernel.describe(), lowered.scratch),
                Action::Dynamic(_) => ("reference, sizes from data".to_string(), 0),
                Action::ReadState(_) | Action::WriteState(_) => ("copy".to_string(), 0),
            };
            StepReport { node: step.node, kernel, scratch }
        })
    }

    /// Runs the model on the inputs set before. Allocates nothing, but for values whose sizes
    /// depend on data.
    pub fn run(&mut self) -> Result<(), GraphError> {
        (0..self.steps.len()).try_for_each(|i| self.run_step(i))
    }

    /// Runs step `i` of [`Plan::steps`] alone: what a profiler calls one after the other.
    pub fn run_step(&mut self, i: usize) -> Result<(), GraphError> {
        let step = &self.steps[i];
        let node = step.node;
        let result = match &step.action {
            Action::Kernel { .. } => self.run_kernel(i),
            Action::Dynamic(op) => self.run_dynamic(step, op.as_ref()).and_then(|tensors| {
                let outputs = self.steps[i].outputs.clone();
                outputs.iter().zip(tensors).try_for_each(|(v, tensor)| self.keep(*v, tensor))
            }),
            Action::ReadState(state) => {
                let (out, tensor) = (step.outputs[0], self.states[*state].clone());
                self.keep(out, tensor)
            }
            Action::WriteState(state) => self.write_state(step.inputs[0], *state),
        };
        result.map_err(|e| GraphError::at(self.graph.node(node), &e))?;
        for v in &self.steps[i].frees {
            self.heap[v.index()] = None;
        }
        Ok(())
    }

    fn run_kernel(&mut self, i: usize) -> OpResult {
        let base = self.arena.as_mut().as_mut_ptr();
        let mut views = recycle(std::mem::take(&mut self.views));
        let mut outputs = recycle(std::mem::take(&mut self.outs));
        let step = &self.steps[i];
        let Action::Kernel { lowered, scratch } = &step.action else {
            unreachable!("called for kernels only")
        };
        self.view_inputs(step, base, &mut views);
        outputs.extend(step.outputs.iter().map(|v| self.out_view(*v, base)));
        // SAFETY: within the arena; the layout keeps a step's scratch clear of its inputs and
        // outputs.
        let scratch = unsafe { slice_mut(base, *scratch, lowered.scratch) };
        let mut io = Io { inputs: &views, outputs, scratch, pool: &self.pool };
        let result = lowered.kernel.run(&mut io);
        let (outs, views) = (recycle(io.outputs), recycle(views));
        (self.outs, self.views) = (outs, views);
        result
    }

    /// Views of a step's inputs, where the kernel did not absorb them. `base` is the arena's.
    fn view_inputs<'a>(
        &'a self,
        step: &'a Step,
        base: *const u8,
        views: &mut Vec<Option<TensorView<'a>>>,
    ) {
        let absorbed: &[usize] = match &step.action {
            Action::Kernel { lowered, .. } => &lowered.absorbed,
            _ => &[],
        };
        views.extend(step.inputs.iter().enumerate().map(|(i, v)| {
            let v = v.filter(|_| !absorbed.contains(&i))?;
            let operand = &self.operands[v.index()];
            let bytes = match &operand.place {
                // SAFETY: within the arena, as planned; the layout keeps a step's inputs clear of
                // its outputs and scratch.
                Place::Arena(at) => unsafe { slice(base, *at, operand.len) },
                Place::Constant(tensor) => tensor.bytes(),
                Place::State(state) => self.states[*state].bytes(),
                Place::Heap => return self.heap[v.index()].as_ref().map(|t| t.view()),
            };
            let quant = operand.quant.as_deref();
            Some(TensorView { dtype: operand.dtype, dims: &operand.dims, bytes, quant })
        }));
    }

    fn out_view(&self, v: ValueId, base: *mut u8) -> OutView<'_> {
        let operand = &self.operands[v.index()];
        let bytes: &mut [u8] = match operand.place {
            // SAFETY: within the arena, as planned; a step's outputs are clear of each other and
            // of its inputs and scratch.
            Place::Arena(at) => unsafe { slice_mut(base, at, operand.len) },
            _ => unreachable!("kernels write to the arena"),
        };
        let quant = operand.quant.as_deref();
        OutView { dtype: operand.dtype, dims: &operand.dims, bytes, quant }
    }

    /// Runs a node whose sizes depend on data, and returns what it made.
    fn run_dynamic(&self, step: &Step, op: &dyn Op) -> OpResult<Vec<Tensor>> {
        let mut views = Vec::with_capacity(step.inputs.len());
        self.view_inputs(step, self.arena.as_ref().as_ptr(), &mut views);
        let slots = step
            .outputs
            .iter()
            .map(|v| Slot::Open { quant: self.graph.value(*v).ty.quant.as_deref(), tensor: None });
        let mut outputs = Outputs::new(slots);
        op.eval(&Inputs::new(&views, &*self.runner), &mut outputs)?;
        outputs.into_slots().map(made).collect()
    }

    /// Puts a tensor made at run time where its value was planned.
    fn keep(&mut self, v: ValueId, tensor: Tensor) -> OpResult {
        let operand = &self.operands[v.index()];
        match operand.place {
            Place::Arena(at) if tensor.dims() == operand.dims.as_slice() => {
                self.arena.as_mut()[at..at + operand.len].copy_from_slice(tensor.raw());
            }
            Place::Heap => self.heap[v.index()] = Some(tensor.with_quant(operand.quant.clone())),
            _ => {
                let planned = operand.dims.as_slice();
                return Err(OpError::new(format!("made {tensor:?}, planned as {planned:?}")));
            }
        }
        Ok(())
    }

    fn write_state(&mut self, value: Option<ValueId>, state: usize) -> OpResult {
        let v = value.ok_or_else(|| OpError::new("its input is missing"))?;
        let operand = &self.operands[v.index()];
        let tensor = match &operand.place {
            Place::Arena(at) => {
                let bytes = &self.arena.as_ref()[*at..at + operand.len];
                let (dtype, dims) = (operand.dtype, operand.dims.as_slice());
                let view = TensorView { dtype, dims, bytes, quant: None };
                return copy_to_state(&mut self.states[state], &view);
            }
            Place::Constant(tensor) => tensor.clone(),
            Place::State(from) => self.states[*from].clone(),
            Place::Heap => self.heap[v.index()]
                .clone()
                .ok_or_else(|| OpError::new("its input has no value"))?,
        };
        copy_to_state(&mut self.states[state], &tensor.view())
    }
}

fn made(slot: Slot<'_>) -> OpResult<Tensor> {
    match slot {
        Slot::Open { tensor: Some(tensor), .. } => Ok(tensor),
        _ => Err(OpError::new("an output was not written")),
    }
}

fn copy_to_state(state: &mut Tensor, view: &TensorView<'_>) -> OpResult {
    if state.dims() != view.dims || state.dtype() != view.dtype {
        return Err(OpError::new(format!(
            "the state is {state:?}, the value written {}{:?}",
            view.dtype, view.dims
        )));
    }
    state.bytes_mut().copy_from_slice(view.bytes);
    Ok(())
}

/// The emptied vector with its capacity, for elements of another lifetime.
fn recycle<A, B>(mut items: Vec<A>) -> Vec<B> {
    items.clear();
    items.into_iter().map(|_| unreachable!("it was emptied")).collect()
}

/// # Safety
/// `len` bytes from `at` lie in the allocation of `base`, and nothing writes them while this
/// lives.
unsafe fn slice<'a>(base: *const u8, at: usize, len: usize) -> &'a [u8] {
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts(base.add(at), len) }
}

/// # Safety
/// `len` bytes from `at` lie in the allocation of `base`, and nothing else uses them while this
/// lives.
unsafe fn slice_mut<'a>(base: *mut u8, at: usize, len: usize) -> &'a mut [u8] {
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts_mut(base.add(at), len) }
}

fn initial_states(graph: &Graph) -> Result<Vec<Tensor>, GraphError> {
    Ok(Interpreter::new(graph)?.into_states())
}

/// A plan in the making.
struct Compiler<'g> {
    graph: &'g Graph,
    pool: Arc<Pool>,
    runner: Arc<PlanRunner>,
    states: Vec<Tensor>,
    /// For each value, the one whose bytes it is.
    root: Vec<ValueId>,
    dynamic: Vec<bool>,
    steps: Vec<Step>,
}

impl<'g> Compiler<'g> {
    fn new(
        graph: &'g Graph,
        pool: Arc<Pool>,
        isa: Isa,
        reference: bool,
    ) -> Result<Compiler<'g>, GraphError> {
        let mut compiler = Compiler {
            graph,
            states: initial_states(graph)?,
            root: graph.values_with_ids().map(|(id, _)| id).collect(),
            dynamic: graph.values().iter().map(|v| v.ty.bytes().is_none()).collect(),
            steps: Vec::new(),
            runner: Arc::new(PlanRunner::new(pool.clone(), isa, reference)),
            pool,
        };
        compiler.make_steps(isa, reference)?;
        Ok(compiler)
    }

    fn make_steps(&mut self, isa: Isa, reference: bool) -> Result<(), GraphError> {
        let graph = self.graph;
        for (i, node) in graph.nodes().iter().enumerate() {
            let is_dynamic = |v: &ValueId| self.dynamic[v.index()];
            let any_dynamic =
                node.inputs.iter().flatten().any(is_dynamic) || node.outputs.iter().any(is_dynamic);
            let aliased = node.op.alias().and_then(|i| node.inputs[i]);
            if let (Some(input), [output], false) = (aliased, node.outputs.as_slice(), any_dynamic)
            {
                self.root[output.index()] = self.root[input.index()];
                continue;
            }
            let action = if let Some(read) = node.op.downcast::<StateRead>() {
                Action::ReadState(read.state.index())
            } else if let Some(write) = node.op.downcast::<StateWrite>() {
                Action::WriteState(write.state.index())
            } else if any_dynamic {
                Action::Dynamic(node.op.clone())
            } else {
                let cx = LowerCx { graph, node, isa, threads: self.pool.threads() };
                let lowered = if reference {
                    crate::lower::reference(node, &self.runner)
                } else {
                    lower(&cx, &self.runner)?
                };
                Action::Kernel { lowered, scratch: 0 }
            };
            self.steps.push(Step {
                node: graph.node_id(i),
                action,
                inputs: node.inputs.clone(),
                outputs: node.outputs.clone(),
                frees: Vec::new(),
            });
        }
        Ok(())
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
        let written = |step: &Step| matches!(step.action, Action::WriteState(s) if s == state);
        // A write at the last step may read the very value it writes.
        !is_output && !self.steps[first..=last].iter().any(written)
    }

    fn finish(mut self) -> Result<Plan, GraphError> {
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
        let scratch_items = items.len();
        for (i, step) in self.steps.iter().enumerate() {
            let size = match &step.action {
                Action::Kernel { lowered, .. } => lowered.scratch,
                _ => 0,
            };
            items.push(Item { size, first: i, last: i });
        }
        let layout = place(&items);
        check_disjoint(&items, &layout);
        let mut packed = 0;
        for (i, step) in self.steps.iter_mut().enumerate() {
            if let Action::Kernel { lowered, scratch } = &mut step.action {
                *scratch = layout.offsets[scratch_items + i];
                packed += lowered.packed;
            }
        }
        let mut operands = Vec::with_capacity(graph.values().len());
        for (id, value) in graph.values_with_ids() {
            let root = self.root[id.index()].index();
            let place = match (&own_place[root], item_of[root]) {
                (Some(place), _) => place.clone(),
                (None, Some(item)) => Place::Arena(layout.offsets[item]),
                // Nothing needs it: a value of no uses.
                (None, None) => Place::Heap,
            };
            operands.push(Operand {
                dtype: value.ty.dtype,
                dims: value.ty.shape.fixed().unwrap_or_default(),
                len: value.ty.bytes().unwrap_or(0),
                quant: value.ty.quant.clone(),
                place,
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
        let memory = MemoryReport {
            planned: layout.size,
            lower_bound: bound,
            packed,
            state: self.states.iter().map(|s| s.raw().len()).sum(),
            dynamic_values: self.dynamic.iter().filter(|d| **d).count(),
        };
        let widest = steps.iter().map(|s| s.inputs.len()).max().unwrap_or(0);
        let most_outputs = steps.iter().map(|s| s.outputs.len()).max().unwrap_or(0);
        Ok(Plan {
            graph: graph.clone(),
            operands,
            steps,
            arena: arena(layout.size)?,
            heap: vec![None; graph.values().len()],
            states: self.states,
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
    Tensor::zeros(DType::U8, &[size])
        .map(|_| AlignedBytes::zeroed(size))
        .map_err(|e| GraphError::new("memory plan", e.to_string()))
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
