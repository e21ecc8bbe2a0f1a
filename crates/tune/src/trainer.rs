//! Plans of training graphs, and the state that they share.

use crate::data::Batch;
use crate::{Trained, Training, TuneError, ZerothOrder};
use kinglet_formats::Named;
use kinglet_graph::{Dims, Graph, StateId, Tensor};
use kinglet_runtime::{Plan, PlanOptions, Pool, Shared};
use serde::Serialize;
use std::sync::Arc;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    /// The loss before it.
    pub loss: f64,
    /// The root of the sum of all squared gradients, where the recipe clips.
    pub norm: Option<f64>,
}

/// What an evaluation of a batch found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// The sum of its losses.
    pub loss: f64,
    /// How many of its targets were met, where the objective tells.
    pub met: Option<f64>,
}

/// Bytes that training takes, known before its first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What is trained, in f32.
    pub weights: usize,
    /// The optimiser's state, and sums of gradients.
    pub optimiser: usize,
    /// What attention holds of a batch.
    pub cache: usize,
    /// Activations, gradients and scratch: of a step, an update and an evaluation.
    pub activations: usize,
    /// What is not trained.
    pub frozen: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.optimiser + self.cache + self.activations + self.frozen
    }
}

/// Trains by plans.
pub struct Trainer {
    step: Plan,
    update: Option<Plan>,
    evaluation: Option<Plan>,
    shared: Arc<Shared>,
    trained: Vec<Trained>,
    kept: Vec<Trained>,
    zeroth: Option<ZerothOrder>,
    memory: Memory,
}

impl Trainer {
    /// Plans the graphs of an [`crate::Objective`], whose inputs have the sizes `shapes`.
    /// `evaluates`: whether [`Trainer::evaluate`] will be asked for.
    ///
    /// # Errors
    /// If a graph can't be planned.
    pub fn new(
        mut training: Training,
        shapes: &[Dims],
        pool: &Arc<Pool>,
        evaluates: bool,
    ) -> Result<Trainer, TuneError> {
        // The weights would be in memory twice, as the graph's and as the plans' state.
        let mut initial: Vec<(StateId, Tensor)> = Vec::new();
        let all = (0..training.graph.states().len()).filter_map(|i| training.graph.state_id(i));
        let all: Vec<StateId> = all.collect();
        let graphs = [&mut training.graph, &mut training.evaluation];
        for graph in graphs.into_iter().chain(&mut training.update) {
            for state in &all {
                if let Some(tensor) = graph.state_mut(*state).initial.take()
                    && initial.iter().all(|(known, _)| known != state)
                {
                    initial.push((*state, tensor));
                }
            }
        }
        let plan = |graph: &Graph, shapes: Vec<Dims>, shared: Option<Arc<Shared>>| {
            let options = PlanOptions {
                input_shapes: Some(shapes),
                pool: Some(pool.clone()),
                shared,
                ..PlanOptions::default()
            };
            Plan::new(graph, &options)
        };
        let rate = || [Dims::new()].into_iter();
        let with_rate = match training.update.is_some() || training.zeroth.is_some() {
            true => shapes.to_vec(),
            false => shapes.iter().cloned().chain(rate()).collect(),
        };
        let step = plan(&training.graph, with_rate, None)?;
        let shared = step.shared().clone();
        let share = || Some(shared.clone());
        let update = training.update.as_ref().map(|g| plan(g, rate().collect(), share()));
        let update = update.transpose()?;
        // Without gradients, a step's own plan is of the loss alone.
        let evaluates = evaluates && training.zeroth.is_none();
        let evaluation = evaluates.then(|| plan(&training.evaluation, shapes.to_vec(), share()));
        let evaluation = evaluation.transpose()?;
        let states = training.graph.states();
        let kept: Vec<Trained> = training
            .kept
            .iter()
            .map(|state| Trained { name: states[state.index()].name.clone(), state: *state })
            .collect();
        let size = |i: usize| states[i].ty.bytes().unwrap_or(0);
        let sum = |is: &dyn Fn(usize) -> bool| (0..states.len()).filter(|i| is(*i)).map(size).sum();
        let is_trained = |i: usize| training.trained.iter().any(|t| t.state.index() == i);
        let first = training.trained.iter().map(|t| t.state.index()).min().unwrap_or(0);
        let plans = [Some(&step), update.as_ref(), evaluation.as_ref()];
        let memory = Memory {
            weights: sum(&is_trained),
            optimiser: sum(&|i| i > first && !is_trained(i)),
            cache: sum(&|i| i < first),
            activations: plans.iter().flatten().map(|p| p.memory().planned).sum(),
            frozen: frozen(&training.graph) + step.memory().packed,
        };
        shared.with_states(|states| {
            for (state, tensor) in initial {
                states[state.index()].bytes_mut().copy_from_slice(tensor.raw());
            }
        });
        let (trained, zeroth) = (training.trained, training.zeroth);
        Ok(Trainer { step, update, evaluation, shared, trained, kept, zeroth, memory })
    }

    /// What it takes of memory.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Makes a step at the learning rate `rate` by a batch that comes in `parts`: one, where the recipe
    /// does not accumulate.
    ///
    /// # Errors
    /// If a kernel fails.
    pub fn step(&mut self, parts: &[Batch], rate: f64) -> Result<Done, TuneError> {
        let counted: usize = parts.iter().map(|part| part.counted).sum();
        let share = 1.0 / counted.max(1) as f32;
        if let Some(zeroth) = self.zeroth {
            return self.zeroth_step(zeroth, parts, share, rate);
        }
        let mut loss = 0.0;
        let rate = (rate as f32).to_le_bytes();
        for part in parts {
            feed(&mut self.step, part, share)?;
            if self.update.is_none() {
                self.step.input_mut(part.inputs.len() + 1).copy_from_slice(&rate);
            }
            self.step.run()?;
            loss += f64::from(self.step.output(0).scalar::<f32>()?);
        }
        let told = match &mut self.update {
            // What is no number must not get into the weights.
            Some(_) if !loss.is_finite() => return Ok(Done { loss, norm: None }),
            Some(update) => {
                update.input_mut(0).copy_from_slice(&rate);
                update.run()?;
                (update.outputs().len() > 0).then(|| update.output(0))
            }
            None => (self.step.outputs().len() > 1).then(|| self.step.output(1)),
        };
        let norm = told.map(|norm| norm.scalar::<f32>()).transpose()?.map(f64::from);
        Ok(Done { loss, norm })
    }

    /// A step by the losses on both sides of where the weights are.
    fn zeroth_step(
        &mut self,
        zeroth: ZerothOrder,
        parts: &[Batch],
        share: f32,
        rate: f64,
    ) -> Result<Done, TuneError> {
        let number = self.steps()?;
        let epsilon = zeroth.epsilon as f32;
        let shift = |trainer: &mut Trainer, by| trainer.shift(zeroth, number, by);
        shift(self, epsilon)?;
        let above = self.loss(parts, share);
        shift(self, -2.0 * epsilon)?;
        let below = above.and_then(|above| Ok((above, self.loss(parts, share)?)));
        let slope = below.as_ref().map_or(0.0, |(a, b)| (a - b) / (2.0 * zeroth.epsilon));
        // What is no number must not get into the weights.
        let by = if slope.is_finite() { -rate * slope } else { 0.0 };
        shift(self, epsilon + by as f32)?;
        let (above, below) = below?;
        self.count()?;
        Ok(Done { loss: (above + below) / 2.0, norm: None })
    }

    /// The loss of a batch in parts.
    fn loss(&mut self, parts: &[Batch], share: f32) -> Result<f64, TuneError> {
        let mut loss = 0.0;
        for part in parts {
            feed(&mut self.step, part, share)?;
            self.step.run()?;
            loss += f64::from(self.step.output(0).scalar::<f32>()?);
        }
        Ok(loss)
    }

    /// Steps without gradients so far: what is kept last.
    fn steps(&self) -> Result<u64, TuneError> {
        let steps = self.with_kept(|kept| kept.last().map(|(_, t)| t.view().scalar::<i64>()));
        Ok(steps.transpose()?.unwrap_or(0) as u64)
    }

    fn count(&mut self) -> Result<(), TuneError> {
        let next = self.steps()? as i64 + 1;
        let Some(Trained { state, .. }) = self.kept.last() else { return Ok(()) };
        self.shared.with_states(|states| {
            states[state.index()].bytes_mut().copy_from_slice(&next.to_le_bytes());
        });
        Ok(())
    }

    /// Moves the weights along the direction of a step.
    fn shift(&mut self, zeroth: ZerothOrder, number: u64, by: f32) -> Result<(), TuneError> {
        self.shared.with_states(|states| {
            for (i, trained) in self.trained.iter().enumerate() {
                let values = states[trained.state.index()].slice_mut::<f32>()?;
                zeroth.shift(number, i, by, values);
            }
            Ok(())
        })
    }

    /// Looks at a batch and learns nothing.
    ///
    /// # Errors
    /// If it was not planned for, or a kernel fails.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<Seen, TuneError> {
        let own = self.zeroth.map(|_| &mut self.step);
        let plan = own.or(self.evaluation.as_mut());
        let plan = plan.ok_or_else(|| TuneError::Work("no evaluation was planned".into()))?;
        feed(plan, batch, 1.0)?;
        plan.run()?;
        let told = |i: usize| plan.output(i).scalar::<f32>().map(f64::from);
        let met = (plan.outputs().len() > 1).then(|| told(1)).transpose()?;
        Ok(Seen { loss: told(0)?, met })
    }

    /// Calls `f` with what the next step depends on, by name.
    pub fn with_kept<R>(&self, f: impl FnOnce(&[(&str, &Tensor)]) -> R) -> R {
        self.with(&self.kept, f)
    }

    /// Calls `f` with what is trained, by name.
    pub fn with_trained<R>(&self, f: impl FnOnce(&[(&str, &Tensor)]) -> R) -> R {
        self.with(&self.trained, f)
    }

    fn with<R>(&self, these: &[Trained], f: impl FnOnce(&[(&str, &Tensor)]) -> R) -> R {
        self.shared.with_states(|states| {
            let named = these.iter().map(|t| (t.name.as_str(), &states[t.state.index()]));
            f(&named.collect::<Vec<_>>())
        })
    }

    /// Puts back what [`Trainer::with_kept`] or [`Trainer::with_trained`] gave.
    ///
    /// # Errors
    /// If a tensor is missing, or of another type or size.
    pub fn restore(&self, all: bool, tensors: &Named<Tensor>) -> Result<(), TuneError> {
        self.shared.with_states(|states| {
            for Trained { name, state } in if all { &self.kept } else { &self.trained } {
                let own = &mut states[state.index()];
                let fits = |t: &&Tensor| t.dtype() == own.dtype() && t.dims() == own.dims();
                let found = tensors.get(name).filter(fits).ok_or_else(|| {
                    TuneError::Input(format!("the checkpoint has no '{name}' such as the model's"))
                })?;
                own.bytes_mut().copy_from_slice(found.raw());
            }
            Ok(())
        })
    }

    /// Whether all that is trained is finite.
    pub fn finite(&self) -> bool {
        self.with_trained(|tensors| {
            let finite = |t: &Tensor| match t.slice::<f32>() {
                Ok(values) => values.iter().all(|v| v.is_finite()),
                Err(_) => true,
            };
            tensors.iter().all(|(_, t)| finite(t))
        })
    }
}

/// Bytes of constants.
fn frozen(graph: &Graph) -> usize {
    graph.values().iter().filter_map(|v| v.data.as_ref()).map(|t| t.raw().len()).sum()
}

/// Writes a batch into the inputs of a plan.
fn feed(plan: &mut Plan, batch: &Batch, share: f32) -> Result<(), TuneError> {
    for (i, tensor) in batch.inputs.iter().enumerate() {
        plan.set_input(i, &tensor.view())?;
    }
    plan.input_mut(batch.inputs.len()).copy_from_slice(&share.to_le_bytes());
    Ok(())
}
