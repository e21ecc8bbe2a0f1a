//! The page about a training.

use std::path::Path;

use kinglet::Error;
use kinglet_measure::{Curve, curves, html};
use kinglet_tune::{Course, Step, Way};

use super::{TOKENS, files, grouped, time};

/// Its name, in the folder of the training.
pub(super) const FILE: &str = "report.html";

/// The most points of a curve: of more steps, neighbours are put together.
const POINTS: usize = 1000;

/// The loss, each the mean of about a fiftieth of all steps before it.
pub(super) fn smooth(steps: &[Step]) -> Vec<(f64, f64)> {
    let wide = (steps.len() / 50).max(1);
    let mut sum = 0.0;
    let mean = |(i, step): (usize, &Step)| {
        sum += step.loss;
        if i >= wide {
            sum -= steps[i - wide].loss;
        }
        (step.step as f64, sum / wide.min(i + 1) as f64)
    };
    steps.iter().enumerate().map(mean).collect()
}

/// Every so many points, so that few are left.
fn few(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last);
    kept.map(|(_, point)| point).collect()
}

/// Writes the page about `course` to `path`.
pub(super) fn write(
    path: &Path,
    out: &Path,
    course: &Course,
    (parameters, unit, way): (usize, &str, &Way),
) -> Result<(), Error> {
    let log = course.log();
    let each = |value: fn(&Step) -> Option<f64>| -> Vec<(f64, f64)> {
        few(log.steps.iter().filter_map(|s| Some((s.step as f64, value(s)?))).collect())
    };
    let curve = |name: &str, points, marked| Curve { name: name.into(), points, marked };
    let held_out: Vec<_> = log.evaluations.iter().map(|e| (e.step as f64, e.evaluation)).collect();
    let mut loss = vec![curve("loss", few(smooth(&log.steps)), false)];
    if !held_out.is_empty() {
        loss.push(curve("held out", held_out.clone(), true));
    }
    loss.push(curve("each step", each(|s| Some(s.loss)), false));
    let rate = vec![curve("learning rate", each(|s| Some(s.rate)), false)];
    let norm = vec![curve("gradient norm", each(|s| s.norm), false)];
    let mut plots = vec![
        (
            curves("step", "loss", &loss),
            "Loss in nats: the mean of the last steps, on examples that were held out, and of each step.",
        ),
        (curves("step", "learning rate", &rate), "Learning rate."),
    ];
    if log.steps.iter().any(|s| s.norm.is_some()) {
        plots.push((
            curves("step", "gradient norm", &norm),
            "Length of all gradients together, before they are scaled down.",
        ));
    }
    let rows: u64 = log.steps.iter().map(|s| s.rows).sum();
    let seconds: f64 = log.steps.iter().map(|s| s.seconds).sum();
    let card = |name: &str, value: String, below: String| (name.to_string(), value, below);
    let mut cards = vec![
        card("steps", grouped(log.steps.len()), format!("{} {unit}", grouped(rows as usize))),
        card("parameters", grouped(parameters), String::new()),
    ];
    if let Some((_, loss)) = smooth(&log.steps).last() {
        let below =
            if unit == TOKENS { format!("perplexity {:.2}", loss.exp()) } else { String::new() };
        cards.push(card("loss", format!("{loss:.3}"), below));
    }
    if let (Some((_, first)), Some((_, last))) = (held_out.first(), held_out.last()) {
        cards.push(card("held out", format!("{last:.3}"), format!("before {first:.3}")));
    }
    if seconds > 0.0 {
        let rate = grouped((rows as f64 / seconds) as usize);
        cards.push(card("speed", format!("{rate} {unit}/s"), time(seconds)));
    }
    let memory = kinglet_measure::text::size(course.trainer().memory().total());
    cards.push(card("memory", memory, format!("planned: {way}")));
    let about = format!("Kinglet {}", env!("CARGO_PKG_VERSION"));
    let page = html::plots("kinglet tune", &out.display().to_string(), &about, &cards, &plots);
    files::write(path, page.as_bytes())
        .map_err(|e| super::super::cannot_write_file(path, "the report", &e))
}
