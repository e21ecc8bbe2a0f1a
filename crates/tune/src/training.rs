//! The graphs of training steps.

use crate::backward::{append, finished, place, prepared, widened};
use crate::optimiser::{Parameter, Step, clipped, state, write};
use crate::precision::round_products;
use crate::recompute::recompute;
use crate::{Optimiser, Precision, ZerothOrder};
use kinglet_graph::ops::state::{StateRead, StateWrite};
use kinglet_graph::{
    Builder, DType, Graph, GraphError, Node, OpError, Shape, State, StateId, ValueId, ValueType,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How gradients are computed, and what a step does with them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// How they change what is trained.
    pub optimiser: Optimiser,
    /// They are scaled down together where the root of the sum of all their squares is larger.
    pub clip: Option<f64>,
    /// They are summed over several runs before they change anything: [`Training::update`].
    pub accumulate: bool,
    /// What products are computed of.
    pub precision: Precision,
    /// Activations are computed again when gradients need them, but for a few at narrow points of the
    /// graph, which alone are held (Chen et al., arXiv 1604.06174). Nothing else changes.
    pub recompute: bool,
}

impl Recipe {
    /// With this optimiser, no clipping, an update in every run, products of f32, and all activations held.
    pub fn new(optimiser: Optimiser) -> Recipe {
        let precision = Precision::F32;
        Recipe { optimiser, clip: None, accumulate: false, precision, recompute: false }
    }
}

/// The graphs of training. Their state is the same, in the same order, so that plans of them share it.
#[derive(Clone, Debug)]
pub struct Training {
    /// Inputs: those of the graph that it was made from, then `learning_rate`, a scalar of f32.
    /// Outputs: the loss before the step and, where [`Recipe::clip`] is set, the root of the sum of
    /// all squared gradients before they are scaled, both scalars.
    ///
    /// Where [`Recipe::accumulate`] is set, a run only adds its gradients to those of the runs before
    /// it: there is no learning rate, and no root.
    pub graph: Graph,
    /// Where [`Recipe::accumulate`] is set: makes a step of the gradients summed so far, and forgets
    /// them. Input: `learning_rate`. Output: the root, where [`Recipe::clip`] is set.
    pub update: Option<Graph>,
    /// The measure, and the outputs of the graph that it was made from; it changes nothing that a step
    /// depends on. Inputs: those of that graph.
    pub evaluation: Graph,
    /// What is trained, in the order given.
    pub trained: Vec<Trained>,
    /// The state that the next step depends on, once an update is done: what is trained, the optimiser's,
    /// and what the graph itself writes for its next run. A checkpoint is this.
    pub kept: Vec<StateId>,
    /// Where it is set, steps are made without gradients, of the loss that `graph` computes.
    pub zeroth: Option<ZerothOrder>,
}

/// A trained tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The name of the constant that it was, and of its state; made up where that had none of its own.
    pub name: String,
    /// Where it is held.
    pub state: StateId,
}

/// What a training makes smaller, and what tells how far it is: both one float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Losses {
    /// What steps make smaller.
    pub loss: ValueId,
    /// What evaluations compute.
    pub measure: ValueId,
}

impl From<ValueId> for Losses {
    /// The loss is its own measure.
    fn from(loss: ValueId) -> Losses {
        Losses { loss, measure: loss }
    }
}

/// The graph of a step that makes the loss smaller by changing the constants `trained`.
///
/// A step does not compute the outputs of `graph`, an evaluation does; its state is kept, and a step changes
/// it as a run of `graph` does.
///
/// # Errors
/// As [`crate::gradients`]; and where one of `trained` is no constant, or stands there twice.
pub fn differentiate(
    graph: &Graph,
    losses: impl Into<Losses>,
    trained: &[ValueId],
    recipe: &Recipe,
) -> Result<Training, GraphError> {
    outline(graph, losses, trained, recipe)?.beginning_with(graph, trained)
}

/// The training that [`differentiate`] makes, but for what is trained: it begins with zeros. What a
/// training takes of memory is known from it.
///
/// # Errors
/// As [`differentiate`].
pub fn outline(
    graph: &Graph,
    losses: impl Into<Losses>,
    trained: &[ValueId],
    recipe: &Recipe,
) -> Result<Training, GraphError> {
    let Losses { loss, measure } = losses.into();
    let (mut graph, names) = with_states(graph, trained)?;
    let forward_states = graph.states().len() - names.len();
    let trained_states = trained_of(&graph, forward_states, names);
    let mut evaluation = graph.clone();
    evaluation.outputs.insert(0, measure);
    let written: Vec<StateId> = written(&evaluation).collect();
    evaluation.nodes_mut().retain(|node| !node.op.is::<StateWrite>());
    let mut forward = graph.nodes().len();
    let gradients = append(&mut graph, loss, trained)?;
    graph.outputs = vec![loss];
    if recipe.precision == Precision::Bf16 {
        forward = round_products(&mut graph, forward, trained)?;
    }
    if recipe.recompute {
        recompute(&mut graph, forward);
    }
    let values = trained;
    let trained = trained_states;
    let backward = graph.nodes().len();
    let place = |e: OpError| GraphError::new("optimiser", e.to_string());
    let mut sums = Vec::new();
    let update = match recipe.accumulate {
        true => {
            sums = accumulate(&mut graph, &trained, &gradients).map_err(place)?;
            Some(update_graph(&mut graph, &trained, &sums, recipe).map_err(place)?)
        }
        false => {
            let norm = updates(&mut graph, &trained, values, gradients, recipe).map_err(place)?;
            graph.outputs.extend(norm);
            None
        }
    };
    update_early(&mut graph, backward);
    for i in evaluation.states().len()..graph.states().len() {
        evaluation.add_state(graph.states()[i].clone());
    }
    let made = (forward_states..graph.states().len()).filter_map(|i| graph.state_id(i));
    let made = made.filter(|state| !sums.contains(state));
    let kept = made.chain(written).collect();
    Ok(Training {
        kept,
        graph: finished(graph)?,
        update: update.map(finished).transpose()?,
        evaluation: finished(evaluation)?,
        trained,
        zeroth: None,
    })
}

/// The states that the graph writes for its next run.
fn written(graph: &Graph) -> impl Iterator<Item = StateId> {
    graph.nodes().iter().filter_map(|node| node.op.downcast::<StateWrite>().map(|op| op.state))
}

/// Appends the sums of gradients; returns their states.
fn accumulate(
    graph: &mut Graph,
    trained: &[Trained],
    gradients: &[ValueId],
) -> Result<Vec<StateId>, OpError> {
    let mut sums = Vec::with_capacity(trained.len());
    for (trained, gradient) in trained.iter().zip(gradients) {
        let ty = graph.state(trained.state).ty.clone();
        let name = format!("{}.gradient_sum", trained.name);
        let mut b = Builder::new(graph, name.clone());
        let (sum, before) = state(&mut b, &name, ty)?;
        let next = b.add(before, *gradient)?;
        write(&mut b, sum, next);
        sums.push(sum);
    }
    Ok(sums)
}

/// The graph that makes a step of the `sums` of gradients. `graph` gets its states.
fn update_graph(
    graph: &mut Graph,
    trained: &[Trained],
    sums: &[StateId],
    recipe: &Recipe,
) -> Result<Graph, OpError> {
    let mut update = Graph::new(graph.name.clone());
    for state in graph.states() {
        update.add_state(state.clone());
    }
    let mut b = Builder::new(&mut update, "update");
    let mut read = |state: StateId| -> Result<ValueId, OpError> {
        let ty = b.graph.state(state).ty.clone();
        Ok(b.apply_all(StateRead { state, ty }, &[], 1)?[0])
    };
    let values = trained.iter().map(|t| read(t.state)).collect::<Result<Vec<_>, _>>()?;
    let gradients = sums.iter().map(|s| read(*s)).collect::<Result<Vec<_>, _>>()?;
    let norm = updates(&mut update, trained, &values, gradients.clone(), recipe)?;
    let mut b = Builder::new(&mut update, "update");
    for (sum, gradient) in sums.iter().zip(gradients) {
        // As constants zeros would be held, as many as there are gradients.
        let zeros = b.scaled(gradient, 0.0)?;
        write(&mut b, *sum, zeros);
    }
    update.outputs = norm.into_iter().collect();
    for i in graph.states().len()..update.states().len() {
        graph.add_state(update.states()[i].clone());
    }
    update_early(&mut update, 0);
    Ok(update)
}

/// What is trained: the states from number `first` on, which [`with_states`] made.
pub(crate) fn trained_of(graph: &Graph, first: usize, names: Vec<String>) -> Vec<Trained> {
    let states = (first..).map_while(|i| graph.state_id(i));
    names.into_iter().zip(states).map(|(name, state)| Trained { name, state }).collect()
}

impl Training {
    /// The same training, which begins with what the constants `trained` of `graph` hold.
    pub(crate) fn beginning_with(
        mut self,
        graph: &Graph,
        trained: &[ValueId],
    ) -> Result<Training, GraphError> {
        for (Trained { state, .. }, v) in self.trained.iter().zip(trained) {
            let data = widened(graph, *v)?;
            let graphs = [&mut self.graph, &mut self.evaluation];
            for graph in graphs.into_iter().chain(&mut self.update) {
                graph.state_mut(*state).initial.clone_from(&data);
            }
        }
        Ok(self)
    }
}

/// A copy of `graph` in which the constants `trained` are state, the last that it has, of zeros; and the
/// names of that state.
pub(crate) fn with_states(
    graph: &Graph,
    trained: &[ValueId],
) -> Result<(Graph, Vec<String>), GraphError> {
    if trained.is_empty() {
        return Err(GraphError::new("trained", "nothing is to be trained: name a tensor"));
    }
    for (i, v) in trained.iter().enumerate() {
        let wrong = match (&graph.value(*v).data, trained[..i].contains(v)) {
            (_, true) => "is to be trained twice",
            (None, _) => "is no constant: only constants are trained",
            (Some(_), false) => continue,
        };
        return Err(GraphError::new(place(graph, *v), wrong));
    }
    let mut graph = prepared(graph, trained)?;
    let mut taken: BTreeSet<String> = graph.states().iter().map(|s| s.name.clone()).collect();
    let mut names = Vec::with_capacity(trained.len());
    let mut reads = Vec::with_capacity(trained.len());
    for v in trained {
        let value = graph.value(*v);
        let mut name = value.name.clone();
        if name.is_empty() || taken.contains(&name) {
            name = format!("{name}{v}");
        }
        taken.insert(name.clone());
        let ty = value.ty.clone();
        let state = graph.add_state(State { name: name.clone(), ty: ty.clone(), initial: None });
        reads.push(Node {
            name: name.clone(),
            op: Arc::new(StateRead { state, ty }),
            inputs: Vec::new(),
            outputs: vec![*v],
        });
        names.push(name);
    }
    graph.nodes_mut().splice(0..0, reads);
    Ok((graph, names))
}

/// Appends what the recipe does with the gradients of `values`, which are read from what is trained;
/// returns their norm where it is told.
fn updates(
    graph: &mut Graph,
    trained: &[Trained],
    values: &[ValueId],
    mut gradients: Vec<ValueId>,
    recipe: &Recipe,
) -> Result<Option<ValueId>, OpError> {
    let rate = ValueType::new(DType::F32, Shape::new(Vec::new()));
    let rate = graph.add_input("learning_rate", rate);
    let mut b = Builder::new(graph, "optimiser");
    let mut norm = None;
    if let Some(most) = recipe.clip {
        let (scaled, total) = clipped(&mut b, &gradients, most)?;
        (gradients, norm) = (scaled, Some(total));
    }
    let mut step = Step::new(recipe.optimiser, &mut b, rate)?;
    for ((trained, value), gradient) in trained.iter().zip(values).zip(gradients) {
        let mut b = Builder::new(b.graph, format!("{}.update", trained.name));
        let parameter = Parameter { name: &trained.name, value: *value, gradient };
        let next = step.update(&mut b, parameter)?;
        write(&mut b, trained.state, next);
    }
    Ok(norm)
}

/// Moves the nodes from `first` on, the updates, to where what they need is there, so that gradients
/// live no longer than they must; those that need state alone, to where they are needed themselves, as
/// their results are held besides the state. State is written once nothing reads what it held before.
fn update_early(graph: &mut Graph, first: usize) {
    let nodes = graph.nodes();
    let mut places: Vec<usize> = (0..nodes.len()).collect();
    // Of each value, the place where it is there; `None`: it is at any time.
    let mut ready: Vec<Option<usize>> = vec![None; graph.values().len()];
    let mut waits = vec![false; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        let needs = node.inputs.iter().flatten().filter_map(|v| ready[v.index()]).max();
        if i >= first {
            places[i] = needs.unwrap_or(0);
            waits[i] = needs.is_none();
        }
        let at = (i < first && !node.op.is::<StateRead>()).then_some(i).or(needs);
        node.outputs.iter().for_each(|v| ready[v.index()] = at);
    }
    let writes = |i: usize| nodes[i].op.downcast::<StateWrite>();
    let mut needed: Vec<Option<usize>> = vec![None; graph.values().len()];
    for i in (first..nodes.len()).rev().filter(|i| writes(*i).is_none()) {
        if waits[i] {
            let users = nodes[i].outputs.iter().filter_map(|v| needed[v.index()]);
            places[i] = users.min().unwrap_or(0);
        }
        for v in nodes[i].inputs.iter().flatten() {
            let first = needed[v.index()].get_or_insert(places[i]);
            *first = places[i].min(*first);
        }
    }
    let mut made = vec![0; graph.values().len()];
    let mut last_read = vec![0; graph.values().len()];
    let mut held: Vec<Vec<ValueId>> = vec![Vec::new(); graph.states().len()];
    for (i, node) in nodes.iter().enumerate() {
        if let Some(write) = writes(i).filter(|_| i >= first) {
            let reads = held[write.state.index()].iter().map(|v| last_read[v.index()]);
            let needs = node.inputs.iter().flatten().map(|v| made[v.index()]);
            places[i] = reads.chain(needs).max().unwrap_or(0);
        } else if let Some(read) = node.op.downcast::<StateRead>() {
            held[read.state.index()].extend(&node.outputs);
        }
        for v in node.inputs.iter().flatten() {
            last_read[v.index()] = places[i].max(last_read[v.index()]);
        }
        node.outputs.iter().for_each(|v| made[v.index()] = places[i]);
    }
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|i| places[*i]);
    let mut nodes: Vec<Option<Node>> = graph.nodes_mut().drain(..).map(Some).collect();
    *graph.nodes_mut() = order.into_iter().filter_map(|i| nodes[i].take()).collect();
}
