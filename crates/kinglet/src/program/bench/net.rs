//! Models that are no language models.

use std::path::Path;
use std::time::Instant;

use kinglet::{Error, Model, PlanOptions};
use kinglet_formats::map;
use kinglet_measure::{Figures, Limits, Phase, Report, Spread, choices, nets};

use super::super::names;
use super::super::output::milliseconds;
use super::Given;

/// Measures the model at `path`.
pub(super) fn measure(path: &Path, given: &Given<'_>) -> Result<Report, Error> {
    let about = |error: Error| error.about(path.display());
    let began = Instant::now();
    let model = Model::open(path)?;
    // Of several models, each takes the sizes that name its inputs.
    let shapes = &given.bench.shape;
    let own: Vec<String> = match given.bench.models.len() {
        1 => shapes.clone(),
        _ => shapes.iter().filter(|shape| names::split(&model, shape).is_some()).cloned().collect(),
    };
    let options = PlanOptions {
        shapes: names::shapes(&model, &own)?,
        threads: given.threads,
        choices: choices::choose(given.profile),
        ..PlanOptions::default()
    };
    let mut plan = model.plan(options)?;
    let load_ms = milliseconds(began);
    let repeats = given.bench.repeats.map(|n| n as usize);
    let runs = nets::time(plan.inner(), repeats)
        .map_err(|e| about(Error::work(format!("it cannot run on random inputs: {e}"))))?;
    let roof = given.roof(&runs.steps)?;
    let layers = Phase::new("run", "a run", &runs.steps, &roof).map_err(Error::work)?;
    let latency_ms = Spread::of(&runs.ms).ok_or_else(|| Error::work("it was never run"))?;
    Ok(Report {
        model: path.display().to_string(),
        kind: model.graph().metadata.format.clone(),
        threads: plan.threads(),
        load_ms,
        first_run_ms: runs.first_ms,
        peak_bytes: map::process_peak(),
        figures: Figures::Net { latency_ms },
        limits: Limits::new(&roof),
        phases: vec![layers],
    })
}
