//! Runs a graph by its ops' reference implementations, one node after the other.

use crate::op::fixed_dims;
use crate::ops::state::{StateRead, StateWrite};
use crate::{Graph, GraphError, Inputs, Node, OpError, OpResult, Outputs, Runner, Slot, StateMut};
use crate::{Tensor, TensorView};

/// Runs `graph` once, its state at its initial content. For many runs with state kept between
/// them, make an [`Interpreter`].
pub fn interpret(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, GraphError> {
    Interpreter::new(graph)?.run(graph, inputs)
}

/// The reference way to run a graph: the definition of what any plan of it computes.
#[derive(Clone, Debug, Default)]
pub struct Interpreter {
    states: Vec<Tensor>,
}

impl Interpreter {
    /// With the state of `graph` at its initial content.
    pub fn new(graph: &Graph) -> Result<Interpreter, GraphError> {
        let states = graph.states().iter().map(|state| {
            let tensor = match &state.initial {
                Some(tensor) => Ok(tensor.clone()),
                None => fixed_dims(&state.ty.shape)
                    .and_then(|dims| Tensor::zeros(state.ty.dtype, &dims)),
            };
            tensor
                .map(|t| t.with_quant(state.ty.quant.clone()))
                .map_err(|e| GraphError::new(format!("state '{}'", state.name), e.to_string()))
        });
        Ok(Interpreter { states: states.collect::<Result<_, _>>()? })
    }

    /// The state, in the order of [`Graph::states`].
    pub fn into_states(self) -> Vec<Tensor> {
        self.states
    }

    /// Runs `graph`, which must be the one that this was made for, and keeps its state.
    pub fn run(&mut self, graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, GraphError> {
        check_inputs(graph, inputs.iter().map(Tensor::view))?;
        let mut values: Vec<Option<Tensor>> =
            graph.values().iter().map(|v| v.data.clone()).collect();
        for (id, tensor) in graph.inputs.iter().zip(inputs) {
            let quant = graph.value(*id).ty.quant.clone();
            values[id.index()] = Some(tensor.clone().with_quant(quant));
        }
        let mut last_use = vec![usize::MAX; values.len()];
        for (i, node) in graph.nodes().iter().enumerate() {
            for v in node.inputs.iter().flatten() {
                last_use[v.index()] = i;
            }
        }
        for v in &graph.outputs {
            last_use[v.index()] = usize::MAX;
        }
        for (i, node) in graph.nodes().iter().enumerate() {
            if let Some(write) = node.op.downcast::<StateWrite>() {
                let value = node.inputs.first().copied().flatten();
                let value = value.and_then(|v| values[v.index()].clone());
                self.states[write.state.index()] =
                    value.ok_or_else(|| GraphError::new(node.place(), "its input has no value"))?;
            } else if let Some(read) = node.op.downcast::<StateRead>() {
                values[node.outputs[0].index()] = Some(self.states[read.state.index()].clone());
            } else {
                let outputs = {
                    let mut views = Vec::with_capacity(node.inputs.len());
                    for v in &node.inputs {
                        views.push(match v {
                            None => None,
                            Some(v) => Some(
                                values[v.index()]
                                    .as_ref()
                                    .ok_or_else(|| {
                                        GraphError::new(
                                            node.place(),
                                            format!("uses {v} before it has a value"),
                                        )
                                    })?
                                    .view(),
                            ),
                        });
                    }
                    let state = node.op.state().map(|id| self.states[id.index()].state_mut());
                    eval_open(graph, node, &views, state, &Interpreter::default())
                        .map_err(|e| GraphError::at(node, &e))?
                };
                for (v, tensor) in node.outputs.iter().zip(outputs) {
                    let quant = graph.value(*v).ty.quant.clone();
                    values[v.index()] = Some(tensor.with_quant(quant));
                }
            }
            for v in node.inputs.iter().flatten() {
                if last_use[v.index()] == i && graph.value(*v).data.is_none() {
                    values[v.index()] = None;
                }
            }
        }
        graph
            .outputs
            .iter()
            .map(|v| {
                values[v.index()]
                    .clone()
                    .ok_or_else(|| GraphError::new(format!("output {v}"), "nothing computes it"))
            })
            .collect()
    }
}

impl Runner for Interpreter {
    fn run_subgraph(&self, graph: &Graph, inputs: &[TensorView<'_>]) -> OpResult<Vec<Tensor>> {
        let inputs: Vec<Tensor> = inputs.iter().map(Tensor::copy_of).collect();
        interpret(graph, &inputs).map_err(|e| OpError::new(format!("in '{}', {e}", graph.name)))
    }
}

/// Runs one node's reference implementation, and makes its output tensors.
pub(crate) fn eval_open(
    graph: &Graph,
    node: &Node,
    views: &[Option<TensorView<'_>>],
    state: Option<StateMut<'_>>,
    runner: &dyn Runner,
) -> OpResult<Vec<Tensor>> {
    let slots = node
        .outputs
        .iter()
        .map(|v| Slot::Open { quant: graph.value(*v).ty.quant.as_deref(), tensor: None });
    node.op.check_encoded(views.iter().map(|v| v.map(|v| v.dtype)))?;
    let mut outputs = Outputs::new(slots).with_state(state);
    node.op.eval(&Inputs::new(views, runner), &mut outputs)?;
    outputs
        .into_slots()
        .enumerate()
        .map(|(i, slot)| match slot {
            Slot::Open { tensor: Some(tensor), .. } => Ok(tensor),
            _ => Err(OpError::new(format!("output {i} was not written"))),
        })
        .collect()
}

/// Checks that `inputs` are as many, and of the types and sizes, as the graph takes.
pub(crate) fn check_inputs<'a>(
    graph: &Graph,
    inputs: impl ExactSizeIterator<Item = TensorView<'a>>,
) -> Result<(), GraphError> {
    if inputs.len() != graph.inputs.len() {
        return Err(GraphError::new(
            "inputs",
            format!("the model has {}, {} were given", graph.inputs.len(), inputs.len()),
        ));
    }
    for (id, tensor) in graph.inputs.iter().zip(inputs) {
        let value = graph.value(*id);
        if value.ty.dtype != tensor.dtype || !value.ty.shape.admits(tensor.dims) {
            return Err(GraphError::new(
                format!("input '{}'", value.name),
                format!("takes {}, was given {}{:?}", value.ty, tensor.dtype, tensor.dims),
            ));
        }
    }
    Ok(())
}
