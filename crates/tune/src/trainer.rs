//! Plans of training graphs, and the state that they share.

use crate::data::Batch;
use crate::memory::Planned;
use crate::{Memory, Trained, Training, TuneError, ZerothOrder};
use kinglet_formats::{Named, map};
use kinglet_graph::{Dims, Graph, StateId, Tensor};
use kinglet_runtime::{Arena, Plan, PlanOptions, Pool, Shared};
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
    /// What the plans run in, one after the other.
    arena: Arena,
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
        let planned = Planned::of(&training, shapes, evaluates);
        let plan = |(graph, shapes): (&Graph, Vec<Dims>), shared: Option<Arc<Shared>>| {
            let options = PlanOptions {
                input_shapes: Some(shapes),
                pool: Some(pool.clone()),
                shared,
                ..PlanOptions::default()
            };
            Plan::new(graph, &options)
        };
        let mut step = plan(planned.step, None)?;
        let shared = step.shared().clone();
        let next = |graph| plan(graph, Some(shared.clone()));
        let mut update = planned.update.map(next).transpose()?;
        let mut evaluation = planned.evaluation.map(next).transpose()?;
        let states = training.graph.states();
        let kept: Vec<Trained> = training
            .kept
            .iter()
            .map(|state| Trained { name: states[state.index()].name.clone(), state: *state })
            .collect();
        let plans = [Some(&step), update.as_ref(), evaluation.as_ref()];
        let reports: Vec<_> = plans.iter().flatten().map(|p| p.memory()).collect();
        let memory = Memory::of(&training, &reports, &shared);
        shared.with_states(|states| {
            for (state, tensor) in initial {
                states[state.index()].bytes_mut().copy_from_slice(tensor.raw());
                // It is there twice now, and is not read again.
                map::release(tensor.raw());
            }
        });
        let (trained, zeroth) = (training.trained, training.zeroth);
        for plan in [Some(&mut step), update.as_mut(), evaluation.as_mut()].into_iter().flatten() {
            plan.take_arena();
        }
        let arena = Arena::default();
        Ok(Trainer { step, update, evaluation, shared, trained, kept, zeroth, memory, arena })
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
        let (mut loss, mut norm) = (0.0, None);
        let rate = (rate as f32).to_le_bytes();
        let updates = self.update.is_none();
        for part in parts {
            let told = running(&mut self.arena, &mut self.step, |plan| {
                feed(plan, part, share)?;
                if updates {
                    plan.input_mut(part.inputs.len() + 1).copy_from_slice(&rate);
                }
                plan.run()?;
                Ok((told(plan, 0)?, told(plan, 1)?))
            })?;
            loss += told.0.unwrap_or(0.0);
            norm = told.1;
        }
        if let Some(update) = &mut self.update {
            // What is no number must not get into the weights.
            if !loss.is_finite() {
                return Ok(Done { loss, norm: None });
            }
            norm = running(&mut self.arena, update, |plan| {
                plan.input_mut(0).copy_from_slice(&rate);
                plan.run()?;
                told(plan, 0)
            })?;
        }
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
            loss += running(&mut self.arena, &mut self.step, |plan| look(plan, part, share))?.loss;
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

    /// Looks at a batch, or a part of one, and learns nothing.
    ///
    /// # Errors
    /// If it was not planned for, or a kernel fails.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<Seen, TuneError> {
        let own = self.zeroth.map(|_| &mut self.step);
        let plan = own.or(self.evaluation.as_mut());
        let plan = plan.ok_or_else(|| TuneError::Work("no evaluation was planned".into()))?;
        running(&mut self.arena, plan, |plan| look(plan, batch, 1.0))
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

/// Calls `f` with `plan` while it has the arena.
fn running<R>(
    arena: &mut Arena,
    plan: &mut Plan,
    f: impl FnOnce(&mut Plan) -> Result<R, TuneError>,
) -> Result<R, TuneError> {
    plan.give_arena(std::mem::take(arena));
    let result = f(plan);
    *arena = plan.take_arena();
    result
}

/// Output `i` of the last run of a plan, a scalar, where it has so many.
fn told(plan: &Plan, i: usize) -> Result<Option<f64>, TuneError> {
    let output = (i < plan.outputs().len()).then(|| plan.output(i).scalar::<f32>());
    Ok(output.transpose()?.map(f64::from))
}

/// What a plan of the loss finds of a batch.
fn look(plan: &mut Plan, batch: &Batch, share: f32) -> Result<Seen, TuneError> {
    feed(plan, batch, share)?;
    plan.run()?;
    Ok(Seen { loss: told(plan, 0)?.unwrap_or(0.0), met: told(plan, 1)? })
}

/// Writes a batch into the inputs of a plan.
fn feed(plan: &mut Plan, batch: &Batch, share: f32) -> Result<(), TuneError> {
    for (i, tensor) in batch.inputs.iter().enumerate() {
        plan.set_input(i, &tensor.view())?;
    }
    plan.input_mut(batch.inputs.len()).copy_from_slice(&share.to_le_bytes());
    Ok(())
}
