//! What a training takes of memory, known before its first step.

use crate::{Training, TuneError};
use kinglet_graph::{Dims, Graph};
use kinglet_runtime::{MemoryReport, Plan, PlanOptions, Pool, Shared};
use serde::Serialize;
use std::sync::Arc;

/// Bytes that training takes, known before its first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What is trained, in f32.
    pub weights: usize,
    /// The optimiser's state, and sums of gradients.
    pub optimiser: usize,
    /// What attention holds of a batch.
    pub cache: usize,
    /// Activations, gradients and scratch: of a step, an update or an evaluation, whichever has most.
    pub activations: usize,
    /// What is not trained.
    pub frozen: usize,
}

/// The graphs of a training that are planned, with the sizes of their inputs.
pub(crate) struct Planned<'a> {
    pub step: (&'a Graph, Vec<Dims>),
    pub update: Option<(&'a Graph, Vec<Dims>)>,
    pub evaluation: Option<(&'a Graph, Vec<Dims>)>,
}

impl<'a> Planned<'a> {
    /// Those of `training`, whose inputs have the sizes `shapes`; `evaluates`: whether evaluations will be
    /// asked for.
    pub fn of(training: &'a Training, shapes: &[Dims], evaluates: bool) -> Planned<'a> {
        let rate = Dims::new();
        let own = shapes.to_vec();
        let with_rate = match training.update.is_some() || training.zeroth.is_some() {
            true => own.clone(),
            false => own.iter().cloned().chain([rate.clone()]).collect(),
        };
        // Without gradients, a step's own plan is of the loss alone.
        let evaluates = evaluates && training.zeroth.is_none();
        Planned {
            step: (&training.graph, with_rate),
            update: training.update.as_ref().map(|graph| (graph, vec![rate])),
            evaluation: evaluates.then_some((&training.evaluation, own)),
        }
    }
}

impl Memory {
    /// What [`crate::Trainer`] would take for `training`, which is not taken. What its inputs' sizes are
    /// `shapes` tells; whether evaluations will be asked for, `evaluates`.
    ///
    /// # Errors
    /// If a graph can't be planned.
    pub fn planned(
        training: &Training,
        shapes: &[Dims],
        pool: &Arc<Pool>,
        evaluates: bool,
    ) -> Result<Memory, TuneError> {
        let shared = Arc::new(Shared::default());
        let Planned { step, update, evaluation } = Planned::of(training, shapes, evaluates);
        let mut reports = Vec::new();
        for (graph, shapes) in [Some(step), update, evaluation].into_iter().flatten() {
            let options = PlanOptions {
                input_shapes: Some(shapes),
                pool: Some(pool.clone()),
                shared: Some(shared.clone()),
                ..PlanOptions::default()
            };
            reports.push(Plan::memory_of(graph, &options)?);
        }
        Ok(Memory::of(training, &reports, &shared))
    }

    /// That of plans of the graphs of `training`, whose packed weights are in `shared`.
    pub(crate) fn of(training: &Training, plans: &[MemoryReport], shared: &Shared) -> Memory {
        let states = training.graph.states();
        let size = |i: usize| states[i].ty.bytes().unwrap_or(0);
        let sum = |is: &dyn Fn(usize) -> bool| (0..states.len()).filter(|i| is(*i)).map(size).sum();
        let is_trained = |i: usize| training.trained.iter().any(|t| t.state.index() == i);
        let first = training.trained.iter().map(|t| t.state.index()).min().unwrap_or(0);
        let packed: usize = plans.iter().map(|p| p.packed).sum();
        Memory {
            weights: sum(&is_trained),
            optimiser: sum(&|i| i > first && !is_trained(i)),
            cache: sum(&|i| i < first),
            activations: plans.iter().map(|p| p.planned).max().unwrap_or(0),
            frozen: frozen(&training.graph, shared) + packed,
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.optimiser + self.cache + self.activations + self.frozen
    }
}

/// Bytes of constants, as they are stored and as copies that plans share.
fn frozen(graph: &Graph, shared: &Shared) -> usize {
    let constants = graph.values().iter().filter_map(|v| v.data.as_ref());
    constants.map(|t| t.raw().len() + shared.packed_size_of(t.raw())).sum()
}
