//! A training from its first step to its last, through any number of interruptions.
//!
//! All that a step depends on is the state before it and its number: the batch, the order of examples
//! and the learning rate follow from the settings. So a checkpoint is the state and the number, and a
//! training that is killed and started again goes on as if nothing had been.

use crate::checkpoint::{self, Lock};
use crate::data::{Batch, Epoch, Source};
use crate::log::{Evaluation, Log, Step};
use crate::trainer::Trainer;
use crate::{Schedule, TuneError};
use kinglet_formats::Named;
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a training goes on, and when it looks up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Steps in all.
    pub steps: u64,
    /// Batches that make a step.
    pub accumulate: usize,
    /// The learning rate of each step.
    pub schedule: Schedule,
    /// Steps from one evaluation to the next; one more comes before the first step, and one after the
    /// last.
    pub evaluate_every: u64,
    /// Ends after so many evaluations that found nothing better, and keeps the best.
    pub patience: Option<u32>,
    /// Time from one checkpoint to the next.
    pub save_every: Duration,
    /// What a checkpoint must agree with, for it to be gone on from: settings, model and data.
    pub identity: Map<String, Value>,
}

/// What a training is told about.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A step is done.
    Step(Step),
    /// The examples that were held out have been looked at.
    Evaluation(Evaluation),
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Done,
    /// Nothing better was found for too long.
    Early,
    /// Whoever was told about it said so; the same training can go on later.
    Stopped,
}

/// A training.
pub struct Course {
    trainer: Trainer,
    settings: Settings,
    material: Material,
    walk: Walk,
    folder: PathBuf,
    log: Log,
    /// Steps done.
    step: u64,
    saved: u64,
    best: Option<Evaluation>,
    /// Evaluations since the best.
    waited: u32,
    _lock: Lock,
}

/// What is trained on, and what is not.
pub struct Material {
    /// The examples that are trained on.
    pub examples: Box<dyn Source>,
    /// Those that are not.
    pub held_out: Option<Box<dyn Source>>,
}

impl Material {
    /// Lets each batch run in `parts`, one after the other.
    pub fn run_in_parts(&mut self, parts: usize) {
        self.examples.run_in_parts(parts);
        if let Some(held_out) = &mut self.held_out {
            held_out.run_in_parts(parts);
        }
    }
}

/// The batches of all epochs, one after the other.
struct Walk {
    number: u64,
    epoch: Epoch,
    /// Batches of the epochs before.
    before: u64,
}

impl Walk {
    fn new(examples: &dyn Source) -> Walk {
        Walk { epoch: examples.epoch(0), number: 0, before: 0 }
    }

    /// The parts of batch `number` of all; numbers only grow.
    fn batch(&mut self, number: u64, of: &dyn Source) -> Result<Vec<Batch>, TuneError> {
        while number - self.before >= self.epoch.len() as u64 {
            self.before += self.epoch.len() as u64;
            self.number += 1;
            self.epoch = of.epoch(self.number);
        }
        of.batch(&self.epoch, (number - self.before) as usize)
    }
}

/// Batches that so many epochs make.
pub fn batches_of_epochs(examples: &dyn Source, epochs: f64) -> u64 {
    let whole = epochs.floor() as u64;
    let all: u64 = (0..whole).map(|i| examples.epoch(i).len() as u64).sum();
    let part = epochs - epochs.floor();
    let rest = if part > 0.0 { part * examples.epoch(whole).len() as f64 } else { 0.0 };
    all + rest.round() as u64
}

const CHECKPOINT: &str = "checkpoint.safetensors";
const BEST: &str = "best.safetensors";
const LOG: &str = "log.jsonl";

impl Course {
    /// A training that is kept in `folder`, which must be there: where it holds a checkpoint of the same
    /// training, goes on from it.
    ///
    /// # Errors
    /// If another process trains there, or the checkpoint is of another training.
    pub fn new(
        folder: &Path,
        lock: Lock,
        trainer: Trainer,
        settings: Settings,
        material: Material,
    ) -> Result<Course, TuneError> {
        let found = checkpoint::read(&folder.join(CHECKPOINT)).map_err(|e| {
            TuneError::Input(format!("{e}: the checkpoint is damaged; remove it to begin anew"))
        })?;
        let (mut step, mut best, mut waited) = (0, None, 0);
        if let Some(found) = found {
            same_training(folder, &found.metadata, &settings.identity)?;
            let number = |key: &str| found.metadata.get(key).and_then(|text| text.parse().ok());
            step = number("step").unwrap_or(0);
            waited = number("waited").unwrap_or(0) as u32;
            best = found.metadata.get("best").and_then(|text| serde_json::from_str(text).ok());
            trainer.restore(true, &found.tensors)?;
        }
        let log = Log::open(&folder.join(LOG), step)?;
        let mut course = Course {
            trainer,
            settings,
            walk: Walk::new(&*material.examples),
            material,
            folder: folder.into(),
            log,
            step,
            saved: step,
            best,
            waited,
            _lock: lock,
        };
        if step == 0 {
            course.save()?;
        }
        Ok(course)
    }

    /// Whether `folder` holds a training that can go on.
    pub fn is_begun(folder: &Path) -> bool {
        folder.join(CHECKPOINT).exists()
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.settings.steps
    }

    /// Steps done so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What was done so far.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The best evaluation so far.
    pub fn best(&self) -> Option<Evaluation> {
        self.best
    }

    /// What is trained, and by which plans.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Goes on to the end. `hear` is told of each step and evaluation, and may end it; a checkpoint is
    /// then written first.
    ///
    /// # Errors
    /// If a step fails, the loss is not finite, a file has changed, or a checkpoint can't be written.
    pub fn run(
        &mut self,
        mut hear: impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Ending, TuneError> {
        let mut last_save = Instant::now();
        if self.step == 0 && self.log.evaluations.is_empty() && self.evaluate(&mut hear)?.is_break()
        {
            return Ok(Ending::Stopped);
        }
        let mut parts = Vec::with_capacity(self.settings.accumulate);
        while self.step < self.settings.steps {
            if self.early() {
                break;
            }
            let began = Instant::now();
            let rate = self.settings.schedule.at(self.step);
            parts.clear();
            for i in 0..self.settings.accumulate as u64 {
                let number = self.step * self.settings.accumulate as u64 + i;
                parts.extend(self.walk.batch(number, &*self.material.examples)?);
            }
            let done = self.trainer.step(&parts, rate)?;
            if !done.loss.is_finite() || done.norm.is_some_and(|norm| !norm.is_finite()) {
                return Err(TuneError::NotFinite { step: self.step + 1, kept: self.saved });
            }
            self.step += 1;
            let step = Step {
                step: self.step,
                loss: done.loss,
                rate,
                norm: done.norm,
                rows: parts.iter().map(|part| part.rows as u64).sum(),
                seconds: began.elapsed().as_secs_f64(),
            };
            self.log.step(step)?;
            let mut flow = hear(&Event::Step(step));
            let last = self.step == self.settings.steps;
            if last || self.step.is_multiple_of(self.settings.evaluate_every.max(1)) {
                let after = self.evaluate(&mut hear)?;
                flow = if flow.is_break() { flow } else { after };
            }
            if last || flow.is_break() || last_save.elapsed() >= self.settings.save_every {
                self.save()?;
                last_save = Instant::now();
            }
            if flow.is_break() && !last {
                return Ok(Ending::Stopped);
            }
        }
        match self.early() {
            true => {
                self.save()?;
                Ok(Ending::Early)
            }
            false => Ok(Ending::Done),
        }
    }

    /// Whether nothing better has been found for too long.
    fn early(&self) -> bool {
        self.settings.patience.is_some_and(|patience| self.waited >= patience)
    }

    fn evaluate(
        &mut self,
        hear: &mut impl FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TuneError> {
        let Some(held_out) = &self.material.held_out else { return Ok(ControlFlow::Continue(())) };
        let epoch = held_out.epoch(0);
        let (mut sum, mut counted, mut met) = (0.0, 0, None);
        for i in 0..epoch.len() {
            for part in held_out.batch(&epoch, i)? {
                let seen = self.trainer.evaluate(&part)?;
                sum += seen.loss;
                counted += part.counted;
                met = seen.met.map(|own| met.unwrap_or(0.0) + own);
            }
        }
        let all = counted.max(1) as f64;
        let (evaluation, accuracy) = (sum / all, met.map(|met| met / all));
        let evaluation = Evaluation { step: self.step, evaluation, accuracy };
        self.log.evaluation(evaluation)?;
        if self.best.is_none_or(|best| evaluation.evaluation < best.evaluation) {
            self.waited = 0;
            self.best = Some(evaluation);
            if self.settings.patience.is_some() {
                let path = self.folder.join(BEST);
                self.trainer.with_trained(|tensors| checkpoint::write(&path, &[], tensors))?;
            }
        } else {
            self.waited += 1;
        }
        Ok(hear(&Event::Evaluation(evaluation)))
    }

    /// Writes a checkpoint, if what is trained is finite.
    fn save(&mut self) -> Result<(), TuneError> {
        if !self.trainer.finite() {
            return Err(TuneError::NotFinite { step: self.step, kept: self.saved });
        }
        // Before the checkpoint, which stands for all that the log has of its steps.
        self.log.flush()?;
        let text = |value: &Value| value.to_string();
        let identity = text(&Value::Object(self.settings.identity.clone()));
        let best = self.best.map(|best| serde_json::to_string(&best).unwrap_or_default());
        let (step, waited) = (self.step.to_string(), self.waited.to_string());
        let mut about = vec![("step", step.as_str()), ("waited", &waited), ("training", &identity)];
        if let Some(best) = &best {
            about.push(("best", best));
        }
        let path = self.folder.join(CHECKPOINT);
        self.trainer.with_kept(|tensors| checkpoint::write(&path, &about, tensors))?;
        self.saved = self.step;
        Ok(())
    }

    /// What was trained: the weights of the best evaluation where the course may end early, else the
    /// last.
    ///
    /// # Errors
    /// If the file of the best can't be read.
    pub fn result(&self) -> Result<Vec<(String, kinglet_graph::Tensor)>, TuneError> {
        if self.settings.patience.is_some()
            && let Some(best) = checkpoint::read(&self.folder.join(BEST))?
        {
            self.trainer.restore(false, &best.tensors)?;
        }
        let owned = |tensors: &[(&str, &kinglet_graph::Tensor)]| {
            tensors.iter().map(|(name, t)| (name.to_string(), (*t).clone())).collect()
        };
        Ok(self.trainer.with_trained(owned))
    }
}

/// Refuses to go on from the checkpoint of another training.
fn same_training(
    folder: &Path,
    about: &Named<String>,
    identity: &Map<String, Value>,
) -> Result<(), TuneError> {
    let was = about.get("training").and_then(|text| serde_json::from_str::<Value>(text).ok());
    let was = was.as_ref().and_then(Value::as_object);
    // What an earlier version did not know was not asked for.
    let before = |key: &str| was.and_then(|was| was.get(key)).unwrap_or(&Value::Null);
    let differs = |(key, now): &(&String, &Value)| before(key) != *now;
    let Some((key, now)) = identity.iter().find(differs) else { return Ok(()) };
    Err(TuneError::Input(format!(
        "{}: a training with other settings is kept here ({key} was {}, and is {now}): go on \
         with the same, give another place, or remove that folder",
        folder.display(),
        before(key)
    )))
}
