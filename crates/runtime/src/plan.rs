//! Plans: a graph compiled for given sizes and this CPU, with its memory, ready to run.

use crate::compile::{Compiler, Target, initial_states};
use crate::kernel::{Io, Lowered, OutView};
use crate::runner::PlanRunner;
use crate::{Choices, Pool, Shared, passes};
use kinglet_graph::{
    AlignedBytes, DType, Dims, Graph, GraphError, Inputs, NodeId, Op, OpError, OpResult, Outputs,
    Quant, Slot, StateMut, Tensor, TensorView, Value, ValueId, set_input_shapes,
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
    /// The state and packed weights of another plan of the same model, to share.
    pub shared: Option<Arc<Shared>>,
    /// Which way is faster, where there are several.
    pub choices: Choices,
    /// Run every node by its reference implementation, on the graph as loaded: slow; what the
    /// fast way is compared with.
    pub reference: bool,
}

/// Where a value lies while a plan runs.
#[derive(Clone)]
pub(crate) enum Place {
    /// In the arena, from this byte.
    Arena(usize),
    /// A constant of the graph.
    Constant(Tensor),
    /// The memory of a piece of state itself.
    State(usize),
    /// A tensor made when it is computed, as only then its sizes are known.
    Heap,
}

pub(crate) struct Operand {
    pub dtype: DType,
    pub dims: Dims,
    pub len: usize,
    pub quant: Option<Arc<Quant>>,
    pub place: Place,
}

pub(crate) enum Action {
    Kernel {
        lowered: Lowered,
        scratch: usize,
    },
    /// Sizes depend on data: the reference implementation makes its outputs.
    Dynamic(Arc<dyn Op>),
    ReadState(usize),
    WriteState(usize),
}

pub(crate) struct Step {
    pub node: NodeId,
    /// Nodes whose work this step does as well; they come before `node`.
    pub before: Vec<NodeId>,
    pub action: Action,
    pub inputs: Vec<Option<ValueId>>,
    pub outputs: Vec<ValueId>,
    /// Values whose tensors are not needed after this step.
    pub frees: Vec<ValueId>,
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
    /// Nodes before it whose work the step does as well, each handing its one output on to the next.
    pub before: Vec<NodeId>,
    /// The kernel that runs it.
    pub kernel: String,
    /// Why that kernel; empty where nothing was to be chosen.
    pub why: &'static str,
    /// Bytes of scratch.
    pub scratch: usize,
}

/// Memory for what a plan computes while it runs.
pub struct Arena(AlignedBytes);

impl Default for Arena {
    /// None yet.
    fn default() -> Arena {
        Arena(AlignedBytes::zeros(0))
    }
}

/// A graph compiled for given sizes and this CPU. Holds its memory and state: one run at a time.
pub struct Plan {
    pub(crate) graph: Graph,
    pub(crate) operands: Vec<Operand>,
    pub(crate) steps: Vec<Step>,
    pub(crate) arena: AlignedBytes,
    pub(crate) heap: Vec<Option<Tensor>>,
    // Holds the state while it runs; between runs `shared` does.
    pub(crate) states: Vec<Tensor>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) memory: MemoryReport,
    pub(crate) runner: Arc<PlanRunner>,
    // Kept between runs for their capacity.
    pub(crate) views: Vec<Option<TensorView<'static>>>,
    pub(crate) outs: Vec<OutView<'static>>,
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
        let graph = optimised(graph, options, observe)?;
        let plan = compiler(&graph, options)?.finish()?;
        Ok(Plan { graph, ..plan })
    }

    /// What the plan of `graph` would take of memory, which is not held: kernels are chosen and values
    /// placed, but they get no arena.
    pub fn memory_of(graph: &Graph, options: &PlanOptions) -> Result<MemoryReport, GraphError> {
        let graph = optimised(graph, options, &mut |_, _| {})?;
        Ok(compiler(&graph, options)?.memory())
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
            Place::State(_) => unreachable!("outputs have places of their own"),
            Place::Heap => match &self.heap[id.index()] {
                Some(tensor) => return tensor.view(),
                None => &[],
            },
        };
        let quant = operand.quant.as_deref();
        TensorView { dtype: operand.dtype, dims: &operand.dims, bytes, quant }
    }

    /// Gives up the memory that the plan runs in, with its inputs and outputs: for another plan that runs
    /// by turns with it. It has none from then on, and neither inputs nor outputs, until it is given some.
    pub fn take_arena(&mut self) -> Arena {
        Arena(std::mem::replace(&mut self.arena, Arena::default().0))
    }

    /// Gives the plan this memory to run in, or as much as it needs where it is too small.
    pub fn give_arena(&mut self, arena: Arena) {
        let fits = arena.0.as_ref().len() >= self.memory.planned;
        self.arena = if fits { arena.0 } else { AlignedBytes::to_fill(self.memory.planned) };
    }

    /// Puts all state back to its initial content.
    pub fn reset_state(&mut self) -> Result<(), GraphError> {
        let initial = initial_states(&self.graph)?;
        self.shared.with_states(|states| states.clone_from_slice(&initial));
        Ok(())
    }

    /// The state and the packed weights, to share with other plans of the same model.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
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
    pub fn steps(&self) -> impl ExactSizeIterator<Item = StepReport> {
        self.steps.iter().map(|step| {
            let (kernel, why, scratch) = match &step.action {
                Action::Kernel { lowered, .. } => {
                    (lowered.kernel.describe(), lowered.kernel.why(), lowered.scratch)
                }
                Action::Dynamic(_) => ("reference".to_string(), "its sizes depend on data", 0),
                Action::ReadState(_) => {
                    ("copy".to_string(), "the state changes before it is used", 0)
                }
                Action::WriteState(_) => ("copy".to_string(), "", 0),
            };
            StepReport { node: step.node, before: step.before.clone(), kernel, why, scratch }
        })
    }

    /// Runs the model on the inputs set before. Allocates nothing, but for values whose sizes
    /// depend on data.
    pub fn run(&mut self) -> Result<(), GraphError> {
        self.with_states(|plan| (0..plan.steps.len()).try_for_each(|i| plan.step(i)))
    }

    /// Runs step `i` of [`Plan::steps`] alone: what a profiler calls one after the other.
    pub fn run_step(&mut self, i: usize) -> Result<(), GraphError> {
        self.with_states(|plan| plan.step(i))
    }

    /// Runs `f` while this plan holds the state.
    fn with_states<R>(&mut self, f: impl FnOnce(&mut Plan) -> R) -> R {
        self.states =
            std::mem::take(&mut self.shared.states.lock().unwrap_or_else(|e| e.into_inner()));
        let result = f(self);
        *self.shared.states.lock().unwrap_or_else(|e| e.into_inner()) =
            std::mem::take(&mut self.states);
        result
    }

    fn step(&mut self, i: usize) -> Result<(), GraphError> {
        if self.arena.as_ref().len() < self.memory.planned {
            let m = "it was taken, and none was given: nothing can run";
            return Err(GraphError::new("the plan's arena", m));
        }
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
        let changed = self.graph.node(self.steps[i].node).op.state().map(|s| s.index());
        let memory = changed.map(|s| std::ptr::from_mut(self.states[s].bytes_mut()));
        let step = &self.steps[i];
        let Action::Kernel { lowered, scratch } = &step.action else {
            unreachable!("called for kernels only")
        };
        self.view_inputs(step, base, &mut views);
        outputs.extend(step.outputs.iter().map(|v| self.out_view(*v, base)));
        // SAFETY: within the arena; the layout keeps a step's scratch clear of its inputs and
        // outputs.
        let scratch = unsafe { slice_mut(base, *scratch, lowered.scratch) };
        let state = changed.zip(memory).map(|(s, memory)| {
            let (dtype, dims) = (self.states[s].dtype(), self.states[s].dims());
            // SAFETY: the state's own memory, just made unique; a value that is read in place from
            // a state is not needed at a step that changes it.
            StateMut { dtype, dims, bytes: unsafe { &mut *memory } }
        });
        let mut io = Io { inputs: &views, outputs, state, scratch, pool: &self.pool };
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

/// `graph` with the sizes that are asked for, after all passes.
fn optimised(
    graph: &Graph,
    options: &PlanOptions,
    observe: &mut dyn FnMut(&str, &Graph),
) -> Result<Graph, GraphError> {
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
    Ok(graph)
}

fn compiler<'g>(graph: &'g Graph, options: &PlanOptions) -> Result<Compiler<'g>, GraphError> {
    let isa = match options.isa {
        Some(isa) => isa,
        None => Isa::from_env().map_err(|e| GraphError::new("instruction set", e))?,
    };
    let pool = options.pool.clone().unwrap_or_else(|| {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        Arc::new(Pool::new(if options.threads == 0 { cores() } else { options.threads }))
    });
    let shared = options.shared.clone().unwrap_or_default();
    let target = Target { isa, choices: options.choices };
    Compiler::new(graph, pool, shared, target, options.reference)
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
