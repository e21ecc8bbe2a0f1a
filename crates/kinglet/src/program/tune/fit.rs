//! How a training fits into memory.

use std::sync::Arc;

use clap::Args;
use kinglet::Error;
use kinglet_measure::text::size;
use kinglet_runtime::Pool;
use kinglet_tune::{
    Budget, Fit, Memory, Objective, Recipe, Selection, Training, Tried, TuneError, Way,
    differentiate, outline,
};

use super::super::language;
use super::{Subject, Tune};

#[derive(Args)]
pub(super) struct Fitting {
    /// Memory that the training may take beside the program itself, such as 64MB: what is trained, whether
    /// activations are computed again and in how many parts batches run is chosen so that it fits
    #[arg(long, value_name = "SIZE", value_parser = language::size)]
    memory: Option<usize>,
    /// Compute activations again when gradients need them, but for a few that are held: less memory, more
    /// work, the same result
    #[arg(long)]
    recompute: bool,
}

impl Fitting {
    /// Whether what fits is chosen.
    pub fn chooses(&self) -> bool {
        self.memory.is_some()
    }
}

impl Tune {
    /// The way to train that was asked for, or the one that fits, and why.
    pub(super) fn way(
        &self,
        subject: &dyn Subject,
        recipe: &Recipe,
        (pool, evaluates): (&Arc<Pool>, bool),
    ) -> Result<(Way, Option<Fit>), Error> {
        let train = self.learning.train().cloned();
        let asked = Way { train, recompute: self.fitting.recompute, parts: 1 };
        let Some(limit) = self.fitting.memory else { return Ok((asked, None)) };
        let all = subject.objective(1)?;
        let names = all.names();
        let budget = Budget {
            limit,
            asked,
            lines: subject.lines(),
            names: &names,
            layers: all.layers(),
            vectors: self.learning.lora().is_none(),
        };
        let fit = budget.fit(|way| {
            let objective = self.objective(subject, way)?;
            let training = self.training(&objective, &self.recipe_of(recipe, way), true)?;
            Memory::planned(&training, &objective.shapes, pool, evaluates)
        })?;
        Ok((fit.chosen.way.clone(), Some(fit)))
    }

    /// The recipe by which a step runs in `way`.
    pub(super) fn recipe_of(&self, recipe: &Recipe, way: &Way) -> Recipe {
        let accumulate = self.examples.accumulate > 1 || way.parts > 1;
        Recipe { accumulate, recompute: way.recompute, ..*recipe }
    }

    /// The loss of `subject` over parts of a batch, and what is learned of it.
    pub(super) fn objective(
        &self,
        subject: &dyn Subject,
        way: &Way,
    ) -> Result<Objective, TuneError> {
        let mut objective = subject.objective(way.parts)?;
        if let Some(selection) = &way.train {
            objective.select(selection)?;
        }
        if let Some(lora) = self.learning.lora() {
            objective.adapt(lora, self.length.seed)?;
        }
        subject.complete(self, &mut objective, way.parts)?;
        Ok(objective)
    }

    /// The training of `objective`; `outlined`, to be planned alone.
    pub(super) fn training(
        &self,
        objective: &Objective,
        recipe: &Recipe,
        outlined: bool,
    ) -> Result<Training, TuneError> {
        let Objective { graph, loss, weights, .. } = objective;
        let losses = objective.losses();
        let zeroth = self.learning.zeroth(self.length.seed);
        let training = match (zeroth, outlined) {
            (Some(zeroth), true) => zeroth.outline(graph, *loss, weights),
            (Some(zeroth), false) => zeroth.training(graph, *loss, weights),
            (None, true) => outline(graph, losses, weights, recipe),
            (None, false) => differentiate(graph, losses, weights, recipe),
        };
        training.map_err(|e| TuneError::Input(format!("this model can't be trained: {e}")))
    }
}

/// What was chosen and why, for people.
pub(super) fn why(fit: &Fit) -> String {
    let chosen = &fit.chosen.way;
    // Of the same weights what it takes without more ado, of others the least that they take.
    let mut larger: Vec<(&Option<Selection>, usize)> = Vec::new();
    for Tried { way, bytes } in &fit.too_large {
        match larger.iter_mut().find(|(train, _)| **train == way.train) {
            Some((train, _)) if **train == chosen.train => {}
            Some((_, least)) => *least = (*least).min(*bytes),
            None => larger.push((&way.train, *bytes)),
        }
    }
    let larger = larger.into_iter().map(|(train, bytes)| match *train == chosen.train {
        true => format!("as it is that takes {}", size(bytes)),
        false => {
            let way = Way { train: train.clone(), ..Way::default() };
            format!("{way} takes {} or more", size(bytes))
        }
    });
    let why: Vec<String> = larger.collect();
    let why = if why.is_empty() { "it fits as it is".into() } else { why.join(", ") };
    format!("chosen for {}: {chosen} ({why})", size(fit.limit))
}
