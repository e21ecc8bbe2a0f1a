//! What a training has done so far, step by step: a file of JSON lines.

use crate::TuneError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A step, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its number.
    pub step: u64,
    /// The loss before it, in nats.
    pub loss: f64,
    /// The learning rate.
    pub rate: f64,
    /// The root of the sum of all squared gradients, where it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<f64>,
    /// Rows that were read.
    pub rows: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// The loss on examples that were held out, after a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The step; 0: before the first.
    pub step: u64,
    /// The mean loss, in nats where it is of classes.
    pub evaluation: f64,
    /// The share of targets that were met, where it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// The steps and evaluations of a training, in memory and in its file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    /// The steps.
    pub steps: Vec<Step>,
    /// The evaluations.
    pub evaluations: Vec<Evaluation>,
}

impl Log {
    /// The log at `path` up to step `upto`; what comes after it is forgotten.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn open(path: &Path, upto: u64) -> Result<Log, TuneError> {
        let (mut steps, mut evaluations) = (Vec::<Step>::new(), Vec::<Evaluation>::new());
        let before = match upto {
            0 => String::new(),
            _ => std::fs::read_to_string(path).unwrap_or_default(),
        };
        // A line that was cut off when the process ended is of a later step.
        for line in before.lines() {
            if let Ok(step) = serde_json::from_str::<Step>(line) {
                steps.push(step);
            } else if let Ok(evaluation) = serde_json::from_str::<Evaluation>(line) {
                evaluations.push(evaluation);
            }
        }
        steps.retain(|s| s.step <= upto);
        evaluations.retain(|e| e.step <= upto);
        let mut text = String::new();
        let (mut of_steps, mut of_evaluations) = (steps.iter().peekable(), evaluations.iter());
        let mut next = of_evaluations.next();
        loop {
            let first = next.filter(|e| of_steps.peek().is_none_or(|s| s.step > e.step));
            let line = match (first, of_steps.peek()) {
                (Some(evaluation), _) => {
                    next = of_evaluations.next();
                    serde_json::to_string(evaluation)
                }
                (None, Some(step)) => {
                    let line = serde_json::to_string(step);
                    of_steps.next();
                    line
                }
                (None, None) => break,
            };
            text += &line.unwrap_or_default();
            text.push('\n');
        }
        let written = kinglet_formats::files::write(path, text.as_bytes());
        let file = written.and_then(|()| File::options().append(true).open(path));
        let file = file.map_err(|e| unwritable(path, &e))?;
        Ok(Log { path: path.into(), file: BufWriter::new(file), steps, evaluations })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn step(&mut self, step: Step) -> Result<(), TuneError> {
        self.steps.push(step);
        self.line(&step)
    }

    /// Adds an evaluation.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn evaluation(&mut self, evaluation: Evaluation) -> Result<(), TuneError> {
        self.evaluations.push(evaluation);
        self.line(&evaluation)
    }

    fn line(&mut self, entry: &impl Serialize) -> Result<(), TuneError> {
        let line = serde_json::to_string(entry).unwrap_or_default();
        writeln!(self.file, "{line}").map_err(|e| unwritable(&self.path, &e))
    }

    /// Writes what is not yet written.
    ///
    /// # Errors
    /// If it can't be.
    pub fn flush(&mut self) -> Result<(), TuneError> {
        self.file.flush().map_err(|e| unwritable(&self.path, &e))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> TuneError {
    TuneError::Work(format!("{}: cannot write it: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_from_a_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let step = |step| Step { step, loss: 1.5, rate: 0.1, norm: None, rows: 8, seconds: 0.5 };
        let mut log = Log::open(&path, 0).unwrap();
        log.evaluation(Evaluation { step: 0, evaluation: 2.0, accuracy: None }).unwrap();
        for i in 1..=4 {
            log.step(step(i)).unwrap();
        }
        log.evaluation(Evaluation { step: 4, evaluation: 1.0, accuracy: None }).unwrap();
        log.flush().unwrap();
        drop(log);
        let cut = std::fs::read_to_string(&path).unwrap() + "{\"step\": 5, \"lo";
        std::fs::write(&path, cut).unwrap();
        let mut log = Log::open(&path, 2).unwrap();
        assert_eq!(log.steps, [step(1), step(2)]);
        assert_eq!(log.evaluations, [Evaluation { step: 0, evaluation: 2.0, accuracy: None }]);
        log.step(step(3)).unwrap();
        log.flush().unwrap();
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), 4, "{lines}");
        assert!(lines.starts_with("{\"step\":0,"));
    }
}
