//! How much memory a model takes, and doing with less.
//!
//! Weights lie in a file that the system maps: they take memory when they are used, and can be let
//! go at any time. Within a budget the first of them are kept, as many as fit, and the others are
//! let go after each use and read again for the next.

use crate::error::LmError;
use crate::model::LanguageModel;
use crate::step::{MOST_ROWS, Stepper};
use kinglet_formats::map;
use kinglet_graph::{GraphError, Tensor};
use kinglet_runtime::{PackedWeight, Shared};
use std::collections::HashMap;
use std::sync::Arc;

/// What a model takes of memory now, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Weights in mapped files.
    pub weights_mapped: usize,
    /// Those of them that are in memory; `None` where the system does not tell.
    pub weights_resident: Option<usize>,
    /// Copies of weights packed for the kernels.
    pub packed: usize,
    /// Keys, values and memories of all sequences. Those not used yet take no memory.
    pub cache: usize,
    /// Values between steps.
    pub plans: usize,
}

/// What to give back, each with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trim {
    /// Copies of weights packed for the kernels, and plans.
    Packed,
    /// What sequences hold: sessions compute it again from their tokens when they go on.
    Cache,
    /// Weights, which are read from their file again.
    Weights,
}

/// Heap that is not counted by itself: logits, tokens, what an answer is made of.
const SLACK: usize = 6 << 20;
/// Taken for what a process has in memory before a model, where the system does not tell.
const USUAL_PROCESS: usize = 32 << 20;
/// Weights below so many bytes are not worth letting go.
const SMALL: usize = 1 << 16;

/// Around what is read of a weight, the system maps neighbours that are in its page cache: measured
/// on Linux, at most about so many bytes for each weight.
const AROUND: usize = 3 << 16;

/// What becomes of a weight after a step that used it.
#[derive(Clone, Copy)]
enum Fate {
    Kept,
    LetGo,
}

/// Which weights stay in memory between steps.
#[derive(Default)]
pub(crate) struct Residents {
    /// Bytes that those kept may take; `None`: all are kept.
    room: Option<usize>,
    kept: usize,
    fates: HashMap<usize, Fate>,
}

impl Residents {
    pub fn limit(&mut self, room: usize) {
        *self = Residents { room: Some(room), ..Residents::default() };
    }

    /// Begins anew, as nothing is in memory any more.
    pub fn forget(&mut self) {
        (self.kept, self.fates) = (0, HashMap::new());
    }

    /// Lets go of what a step used, where it must.
    pub fn after_step(&mut self, weights: &[Tensor], shared: &Shared) {
        for weight in weights {
            let bytes = weight.raw();
            let key = bytes.as_ptr() as usize;
            let fate = match self.fates.get(&key) {
                Some(Fate::Kept) => continue,
                Some(fate) => *fate,
                None => {
                    let packed = shared.packed_size_of(bytes);
                    let cost = if packed > 0 { packed } else { bytes.len() };
                    let keeps = self.room.is_none_or(|room| self.kept + cost <= room);
                    let fate = if keeps { Fate::Kept } else { Fate::LetGo };
                    if keeps {
                        self.kept += cost;
                    }
                    self.fates.insert(key, fate);
                    fate
                }
            };
            if let Fate::LetGo = fate {
                shared.trim_weight(bytes);
                map::release(bytes);
            }
        }
    }
}

/// What the plans of a model share; weights leave memory as they are packed, part by part.
pub(crate) fn shared() -> Arc<Shared> {
    Arc::new(Shared::letting_go(|stored| {
        map::release(stored);
    }))
}

/// The weights among `tensors` that are worth letting go: large, and in a mapped file.
pub(crate) fn mapped<'t>(
    tensors: impl Iterator<Item = &'t Tensor>,
) -> impl Iterator<Item = &'t Tensor> {
    tensors.filter(|t| t.raw().len() >= SMALL && map::is_mapped(t.raw()))
}

/// Bytes in memory at most while a step uses `weight`: as it is stored, or its packed copy and what is
/// not let go yet of what that is made of.
pub(crate) fn in_use(weight: &Tensor, shared: &Shared) -> usize {
    let stored = weight.raw().len();
    match shared.packed_size_of(weight.raw()) {
        0 => stored,
        packed => packed + stored.min(PackedWeight::AT_ONCE),
    }
}

/// Sees to it that the process stays within `budget` bytes, if the model can run in so many.
/// `before`: what the process had in memory before its cache and plans were made.
pub(crate) fn keep_within(
    stepper: &mut Stepper,
    budget: usize,
    before: Option<usize>,
) -> Result<(), GraphError> {
    let fail = |e: LmError| GraphError::new("memory", e.to_string());
    stepper.ready().map_err(fail)?;
    let (one, cache) = (stepper.planned_bytes(), stepper.state_bytes());
    let sizes: Vec<usize> = mapped(stepper.constants()).map(|t| t.raw().len()).collect();
    let passing = stepper.weights_in_use();
    let logits = 8 * stepper.vocabulary() * 4;
    let around = sizes.iter().sum::<usize>().min(sizes.len() * AROUND);
    let before = before.unwrap_or(USUAL_PROCESS);
    let fixed = before + cache + one + passing + around + logits + SLACK;
    if fixed > budget {
        let mb = |bytes: usize| bytes.div_ceil(1 << 20);
        return Err(GraphError::new(
            "memory",
            format!(
                "{} MB are too little: this model needs at least {} MB, of which {} MB hold the \
                 context; a shorter context or a smaller cache takes less",
                mb(budget),
                mb(fixed),
                mb(cache)
            ),
        ));
    }
    let rest = budget - fixed;
    let mut rows = MOST_ROWS;
    let planned = loop {
        if rows == 1 {
            break 0;
        }
        let planned = stepper.planned_for(rows).map_err(fail)?;
        if planned <= rest / 2 {
            break planned;
        }
        rows /= 2;
    };
    stepper.limit(rows, logits, one + planned + logits);
    stepper.residents().limit(rest - planned);
    Ok(())
}

impl LanguageModel {
    /// What the model takes of memory now.
    pub fn memory(&self) -> Report {
        let stepper = self.stepper();
        // Constants may be parts of each other: those of a file are counted by their bytes.
        let mut spans: Vec<(usize, usize)> = mapped(stepper.constants())
            .map(|t| (t.raw().as_ptr() as usize, t.raw().len()))
            .collect();
        spans.sort_unstable();
        spans.dedup();
        let resident =
            mapped(stepper.constants()).map(|t| map::resident(t.raw())).sum::<Option<usize>>();
        Report {
            weights_mapped: spans.iter().map(|(_, len)| len).sum(),
            weights_resident: resident,
            packed: stepper.shared().packed_bytes(),
            cache: stepper.state_bytes(),
            plans: stepper.planned_bytes(),
        }
    }

    /// Gives memory back, as under pressure. The next call makes or reads what it needs again;
    /// what is computed stays the same.
    ///
    /// From [`Trim::Cache`] on, sequences hold nothing any more: sessions compute their tokens again,
    /// and whoever uses [`LanguageModel::extend`] must.
    pub fn trim(&mut self, level: Trim) {
        self.stepper_mut().drop_packed();
        if level >= Trim::Cache {
            for sequence in 0..self.sequences() {
                self.truncate(sequence, 0);
            }
            self.stepper_mut().drop_state();
        }
        if level >= Trim::Weights {
            for weight in self.stepper().constants() {
                map::release(weight.raw());
            }
        }
    }
}
