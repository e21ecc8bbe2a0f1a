//! The graph of one training step.

use crate::Optimiser;
use crate::backward::{append, finished, place, prepared};
use crate::optimiser::{Parameter, Step, clipped, write};
use kinglet_graph::ops::state::{StateRead, StateWrite};
use kinglet_graph::{
    Builder, DType, Graph, GraphError, Node, OpError, Shape, State, StateId, Tensor, ValueId,
    ValueType,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a step does with the gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// How they change what is trained.
    pub optimiser: Optimiser,
    /// They are scaled down together where the root of the sum of all their squares is larger.
    pub clip: Option<f64>,
}

impl Recipe {
    /// With this optimiser and no clipping.
    pub fn new(optimiser: Optimiser) -> Recipe {
        Recipe { optimiser, clip: None }
    }
}

/// The graph of one training step.
#[derive(Clone, Debug)]
pub struct Training {
    /// Inputs: those of the graph that it was made from, then `learning_rate`, a scalar of f32.
    /// Outputs: the loss before the step and, where [`Recipe::clip`] is set, the root of the sum of
    /// all squared gradients before they are scaled, both scalars.
    pub graph: Graph,
    /// What is trained, in the order given.
    pub trained: Vec<Trained>,
}

/// A trained tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The name of the constant that it was, and of its state; made up where that had none of its own.
    pub name: String,
    /// Where it is held.
    pub state: StateId,
}

/// The graph of a step that makes `loss`, one float, smaller by changing the constants `trained`.
///
/// The outputs of `graph` are not kept; its state is, and a step changes it as a run of `graph` does.
///
/// # Errors
/// As [`crate::gradients`]; and where one of `trained` is no constant, or stands there twice.
pub fn differentiate(
    graph: &Graph,
    loss: ValueId,
    trained: &[ValueId],
    recipe: &Recipe,
) -> Result<Training, GraphError> {
    if trained.is_empty() {
        return Err(GraphError::new("trained", "nothing is to be trained: name a tensor"));
    }
    let (mut graph, data) = prepared(graph, trained)?;
    let forward_states = graph.states().len();
    let names = make_states(&mut graph, trained, data)?;
    let gradients = append(&mut graph, loss, trained)?;
    let backward = graph.nodes().len();
    let rate = ValueType::new(DType::F32, Shape::new(Vec::new()));
    let rate = graph.add_input("learning_rate", rate);
    let found = updates(&mut graph, rate, trained, &names, gradients, recipe);
    let norm = found.map_err(|e| GraphError::new("optimiser", e.to_string()))?;
    graph.outputs = [loss].into_iter().chain(norm).collect();
    update_early(&mut graph, backward);
    let states = (0..names.len()).filter_map(|i| graph.state_id(forward_states + i));
    let trained: Vec<Trained> = names
        .iter()
        .zip(states)
        .map(|(name, state)| Trained { name: name.clone(), state })
        .collect();
    Ok(Training { graph: finished(graph)?, trained })
}

/// Makes state of the constants `trained`, which held `data`, and returns its names.
fn make_states(
    graph: &mut Graph,
    trained: &[ValueId],
    data: Vec<Option<Tensor>>,
) -> Result<Vec<String>, GraphError> {
    let mut taken: BTreeSet<String> = graph.states().iter().map(|s| s.name.clone()).collect();
    let mut names = Vec::with_capacity(trained.len());
    let mut reads = Vec::with_capacity(trained.len());
    for (i, (v, data)) in trained.iter().zip(data).enumerate() {
        if trained[..i].contains(v) {
            return Err(GraphError::new(place(graph, *v), "is to be trained twice"));
        }
        let Some(data) = data else {
            let m = "is no constant: only constants are trained";
            return Err(GraphError::new(place(graph, *v), m));
        };
        let value = graph.value(*v);
        let mut name = value.name.clone();
        if name.is_empty() || taken.contains(&name) {
            name = format!("{name}{v}");
        }
        taken.insert(name.clone());
        let ty = value.ty.clone();
        let initial = Some(data);
        let state = graph.add_state(State { name: name.clone(), ty: ty.clone(), initial });
        reads.push(Node {
            name: name.clone(),
            op: Arc::new(StateRead { state, ty }),
            inputs: Vec::new(),
            outputs: vec![*v],
        });
        names.push(name);
    }
    graph.nodes_mut().splice(0..0, reads);
    Ok(names)
}

/// Appends what the recipe does with the gradients; returns their norm where it is told.
fn updates(
    graph: &mut Graph,
    rate: ValueId,
    trained: &[ValueId],
    names: &[String],
    mut gradients: Vec<ValueId>,
    recipe: &Recipe,
) -> Result<Option<ValueId>, OpError> {
    let states: Vec<StateId> = trained
        .iter()
        .map(|v| {
            let read = graph.nodes().iter().find(|n| n.outputs == [*v]);
            read.and_then(|n| n.op.state()).ok_or_else(|| OpError::new("a tensor has no state"))
        })
        .collect::<Result<_, _>>()?;
    let mut b = Builder::new(graph, "optimiser");
    let mut norm = None;
    if let Some(most) = recipe.clip {
        let (scaled, total) = clipped(&mut b, &gradients, most)?;
        (gradients, norm) = (scaled, Some(total));
    }
    let mut step = Step::new(recipe.optimiser, &mut b, rate)?;
    for (i, (value, gradient)) in trained.iter().zip(gradients).enumerate() {
        let mut b = Builder::new(b.graph, format!("{}.update", names[i]));
        let parameter = Parameter { name: &names[i], value: *value, gradient };
        let next = step.update(&mut b, parameter)?;
        write(&mut b, states[i], next);
    }
    Ok(norm)
}

/// Moves the nodes from `first` on, the updates, to where what they need is there, so that gradients
/// live no longer than they must. State is written once nothing reads what it held before.
fn update_early(graph: &mut Graph, first: usize) {
    let mut ready = vec![0usize; graph.values().len()];
    let mut last_read = vec![0usize; graph.values().len()];
    let mut held: Vec<Vec<ValueId>> = vec![Vec::new(); graph.states().len()];
    let mut places: Vec<usize> = Vec::with_capacity(graph.nodes().len());
    for (i, node) in graph.nodes().iter().enumerate() {
        let needs = node.inputs.iter().flatten().map(|v| ready[v.index()]).max().unwrap_or(0);
        let mut at = if i < first { i } else { needs };
        if let Some(write) = node.op.downcast::<StateWrite>().filter(|_| i >= first) {
            let reads = held[write.state.index()].iter().map(|v| last_read[v.index()]);
            at = reads.fold(at, usize::max);
        } else if let Some(read) = node.op.downcast::<StateRead>() {
            held[read.state.index()].extend(&node.outputs);
        }
        for v in node.inputs.iter().flatten() {
            last_read[v.index()] = last_read[v.index()].max(at);
        }
        for v in &node.outputs {
            ready[v.index()] = at;
        }
        places.push(at);
    }
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|i| places[*i]);
    let mut nodes: Vec<Option<Node>> = graph.nodes_mut().drain(..).map(Some).collect();
    *graph.nodes_mut() = order.into_iter().filter_map(|i| nodes[i].take()).collect();
}
