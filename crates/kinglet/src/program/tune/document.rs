//! What is said of a training when it is done.

use kinglet_tune::data::Bad;
use kinglet_tune::{Course, Ending, Evaluation, Fit, Memory};
use serde::Serialize;

use super::{SAMPLES, Subject, TOKENS, Tune, folder_of, report, time};

/// What is said at the end.
#[derive(Serialize)]
pub(super) struct Document {
    output: String,
    ending: &'static str,
    steps: u64,
    steps_of: u64,
    loss: Option<f64>,
    evaluation: Option<Evaluation>,
    evaluation_before: Option<Evaluation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity: Option<f64>,
    parameters: usize,
    rows: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tok_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    samples_s: Option<f64>,
    memory: Memory,
    memory_total: usize,
    /// What the process had at its peak, beyond what it had before the training was planned.
    pub memory_measured: Option<usize>,
    /// What --memory chose, and what was too large.
    pub fit: Option<Fit>,
    pub bad_lines: Vec<Bad>,
    report: String,
}

impl Document {
    /// What the `course` of `subject` tells.
    pub fn of(course: &Course, ending: Ending, subject: &dyn Subject, tune: &Tune) -> Document {
        let (log, memory) = (course.log(), course.trainer().memory());
        let rows: u64 = log.steps.iter().map(|step| step.rows).sum();
        let seconds: f64 = log.steps.iter().map(|step| step.seconds).sum();
        let evaluation = match tune.length.early_stop {
            Some(_) => course.best(),
            None => log.evaluations.last().copied(),
        };
        let tokens = subject.unit() == TOKENS;
        let speed = (seconds > 0.0).then(|| (rows as f64 / seconds * 10.0).round() / 10.0);
        Document {
            output: tune.output.display().to_string(),
            ending: if ending == Ending::Early { "early" } else { "done" },
            steps: course.step(),
            steps_of: course.steps(),
            loss: report::smooth(&log.steps).last().map(|(_, loss)| *loss),
            evaluation,
            evaluation_before: log.evaluations.first().copied(),
            perplexity: evaluation.filter(|_| tokens).map(|e| e.evaluation.exp()),
            parameters: subject.parameters(),
            rows,
            seconds,
            tok_s: speed.filter(|_| tokens),
            samples_s: speed.filter(|_| !tokens),
            memory,
            memory_total: memory.total(),
            memory_measured: None,
            fit: None,
            bad_lines: Vec::new(),
            report: folder_of(&tune.output).join(report::FILE).display().to_string(),
        }
    }

    pub fn text(&self) -> String {
        let mut lines = vec![format!(
            "{}: {} of {} steps{}",
            self.output,
            self.steps,
            self.steps_of,
            if self.ending == "early" { ", ended early" } else { "" }
        )];
        if let Some(loss) = self.loss {
            lines.push(format!("loss        {loss:.4}"));
        }
        if let (Some(now), Some(before)) = (self.evaluation, self.evaluation_before) {
            let told = |e: Evaluation, perplexity: &str| match (e.accuracy, self.samples_s) {
                (Some(accuracy), _) => {
                    format!("{:.4} ({:.1} % right)", e.evaluation, 100.0 * accuracy)
                }
                (None, Some(_)) => format!("{:.4}", e.evaluation),
                (None, None) => {
                    format!("{:.4} ({perplexity}{:.3})", e.evaluation, e.evaluation.exp())
                }
            };
            let (now, before) = (told(now, "perplexity "), told(before, ""));
            lines.push(format!("held out    {now}; before the first step {before}"));
        }
        for (rate, unit) in [(self.tok_s, TOKENS), (self.samples_s, SAMPLES)] {
            let Some(rate) = rate else { continue };
            lines.push(format!("speed       {rate:.0} {unit}/s, {} in all", time(self.seconds)));
        }
        if !self.bad_lines.is_empty() {
            lines.push(format!("left out    {} bad lines", self.bad_lines.len()));
        }
        lines.push(format!("report      {}", self.report));
        lines.join("\n") + "\n"
    }
}
