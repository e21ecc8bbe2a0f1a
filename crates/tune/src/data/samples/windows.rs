//! Tables of what sensors say, cut into windows.

use super::labels::Classes;
use super::{Goal, Sample, Samples, Target};
use crate::TuneError;
use crate::data::bad::{Bad, LeftOut};
use crate::net::Input;
use kinglet_graph::Tensor;
use kinglet_lm::Fnv;
use std::path::{Path, PathBuf};

/// How a table is cut.
#[derive(Clone, Debug, Default)]
pub struct WindowsOptions {
    /// The column that says what a row is; `None`: the one called `label`, else the last.
    pub label: Option<String>,
    /// Rows from the beginning of one window to that of the next; `None`: its own rows, so that windows
    /// share none.
    pub stride: Option<usize>,
}

/// Windows of CSV files: a row is a moment, a column a sensor, and one column a label. The rows of a window
/// follow each other in one file and have the same label. Labels are classes or, where one of them is a
/// number with a fraction, values.
#[derive(Debug)]
pub struct Windows {
    /// Rows of sensors, one after the other.
    values: Vec<f32>,
    /// The first row of each window.
    starts: Vec<usize>,
    targets: Vec<Target>,
    goal: Goal,
    classes: Classes,
    input: Input,
    rows: usize,
    sensors: usize,
    /// Whether the net takes a sensor's moments together.
    by_sensor: bool,
    bad: Vec<Bad>,
    fingerprint: String,
}

/// Rows of all files, before they are cut.
#[derive(Default)]
struct Table {
    sensors: usize,
    values: Vec<f32>,
    labels: Vec<String>,
    /// Rows that do not follow the row before them: the first of a file, and those after bad ones.
    breaks: Vec<usize>,
}

impl Windows {
    /// The windows in `files` for a net with this `input`, which holds a whole number of rows. Rows that
    /// are no numbers are left out, at most `most_bad` of them.
    ///
    /// # Errors
    /// If a file can't be read, more rows are bad, or no window is found.
    pub fn open(
        files: &[PathBuf],
        input: &Input,
        options: &WindowsOptions,
        most_bad: usize,
    ) -> Result<Windows, TuneError> {
        let (mut table, mut left_out) = (Table::default(), LeftOut::at_most(most_bad));
        for file in files {
            table.read(file, options.label.as_deref(), &mut left_out)?;
        }
        let place = files.first().map_or(String::new(), |file| file.display().to_string());
        let each: usize = input.dims.iter().product();
        let sensors = table.sensors;
        if sensors == 0 || !each.is_multiple_of(sensors) {
            return Err(TuneError::Input(format!(
                "{place}: it has {sensors} columns beside the label, and input '{}' takes {each} numbers: \
                 no whole number of rows",
                input.name
            )));
        }
        let rows = each / sensors;
        let stride = options.stride.unwrap_or(rows).max(1);
        let starts = table.windows(rows, stride);
        if starts.is_empty() {
            return Err(TuneError::Input(format!(
                "{place}: no {rows} rows of one label follow each other, as input '{}' takes them",
                input.name
            )));
        }
        let labels: Vec<&str> = starts.iter().map(|start| table.labels[*start].as_str()).collect();
        let numbers: Option<Vec<f32>> = labels.iter().map(|label| label.parse().ok()).collect();
        let values = numbers.filter(|all| all.iter().any(|v| v.fract() != 0.0));
        let classes = match values {
            Some(_) => Classes::default(),
            // A label of which there is no window is a class too.
            None => Classes::of(table.labels.iter().map(String::as_str)),
        };
        let (goal, targets) = match values {
            Some(values) => {
                (Goal::Values(1), values.into_iter().map(|v| Target::Values(vec![v])).collect())
            }
            None => {
                let number = |label: &&str| Target::Class(classes.number(label).unwrap_or(0));
                (Goal::Classes(classes.count), labels.iter().map(number).collect())
            }
        };
        let mut hash = Fnv::new();
        table.values.iter().for_each(|v| hash.take(&v.to_le_bytes()));
        table.labels.iter().for_each(|label| hash.take(label.as_bytes()));
        hash.take(&stride.to_le_bytes());
        let wide: Vec<usize> = input.dims.iter().copied().filter(|d| *d > 1).collect();
        Ok(Windows {
            by_sensor: wide == [sensors, rows] && sensors != rows,
            values: table.values,
            starts,
            targets,
            goal,
            classes,
            input: input.clone(),
            rows,
            sensors,
            bad: left_out.bad,
            fingerprint: hash.text(),
        })
    }

    /// The rows that were left out.
    pub fn bad(&self) -> &[Bad] {
        &self.bad
    }
}

impl Table {
    fn read(
        &mut self,
        file: &Path,
        label: Option<&str>,
        left_out: &mut LeftOut,
    ) -> Result<(), TuneError> {
        let fail = |m: String| TuneError::Input(format!("{}: {m}", file.display()));
        let text = std::fs::read(file).map_err(|e| fail(format!("cannot read it: {e}")))?;
        // A record is said to begin where the one before ends, be it with empty lines.
        let line_of = |at: Option<&csv::Position>| {
            at.map_or(0, |at| {
                let rest = text.get(at.byte() as usize..).unwrap_or_default();
                let empty = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
                at.line() + empty.filter(|b| **b == b'\n').count() as u64
            })
        };
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(text.as_slice());
        let mut place = None;
        self.breaks.push(self.labels.len());
        for record in reader.records() {
            let record = match record {
                Ok(record) => record,
                Err(e) => {
                    self.leave_out(file, line_of(e.position()), e.to_string(), left_out)?;
                    continue;
                }
            };
            let line = line_of(record.position());
            let Some(at) = place else {
                // A first row without any number has the columns' names.
                let named = record.iter().all(|field| field.parse::<f32>().is_err());
                let called = |name: &str| record.iter().position(|field| named && field == name);
                let last = record.len().saturating_sub(1);
                let at = match label {
                    Some(name) => called(name).ok_or_else(|| {
                        fail(format!("no column is called '{name}'; the first row says which are"))
                    })?,
                    None => called("label").unwrap_or(last),
                };
                place = Some(at);
                let sensors = record.len() - 1;
                if self.sensors != 0 && self.sensors != sensors {
                    return Err(fail(format!(
                        "it has {sensors} columns beside the label, files before it {}",
                        self.sensors
                    )));
                }
                self.sensors = sensors;
                if !named {
                    self.row(file, line, &record, at, left_out)?;
                }
                continue;
            };
            self.row(file, line, &record, at, left_out)?;
        }
        Ok(())
    }

    fn row(
        &mut self,
        file: &Path,
        line: u64,
        record: &csv::StringRecord,
        label: usize,
        left_out: &mut LeftOut,
    ) -> Result<(), TuneError> {
        if record.len() != self.sensors + 1 {
            let reason = format!("it has {} columns, not {}", record.len(), self.sensors + 1);
            return self.leave_out(file, line, reason, left_out);
        }
        let before = self.values.len();
        for (i, field) in record.iter().enumerate().filter(|(i, _)| *i != label) {
            match field.parse::<f32>().ok().filter(|v| v.is_finite()) {
                Some(value) => self.values.push(value),
                None => {
                    self.values.truncate(before);
                    let reason = format!("column {} is '{field}', and no number", i + 1);
                    return self.leave_out(file, line, reason, left_out);
                }
            }
        }
        self.labels.push(record[label].to_string());
        Ok(())
    }

    fn leave_out(
        &mut self,
        file: &Path,
        line: u64,
        reason: String,
        left_out: &mut LeftOut,
    ) -> Result<(), TuneError> {
        self.breaks.push(self.labels.len());
        left_out.add(Bad { file: file.into(), line, reason })
    }

    /// Where windows of `rows` rows begin, `stride` rows from one to the next.
    fn windows(&self, rows: usize, stride: usize) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut first = 0;
        for end in 1..=self.labels.len() {
            let goes_on = end < self.labels.len()
                && self.labels[end] == self.labels[first]
                && self.breaks.binary_search(&end).is_err();
            if !goes_on {
                starts.extend((first..).step_by(stride).take_while(|start| start + rows <= end));
                first = end;
            }
        }
        starts
    }
}

impl Samples for Windows {
    fn len(&self) -> usize {
        self.starts.len()
    }

    fn goal(&self) -> Goal {
        self.goal.clone()
    }

    fn names(&self) -> &[String] {
        &self.classes.names
    }

    fn sample(&self, i: usize, _chance: Option<u64>) -> Result<Sample, TuneError> {
        let (first, each) = (self.starts[i] * self.sensors, self.rows * self.sensors);
        let own = &self.values[first..first + each];
        let input = match self.by_sensor {
            false => Tensor::from_slice(&self.input.dims, own),
            true => {
                let of = |k: usize| own[(k % self.rows) * self.sensors + k / self.rows];
                Tensor::from_slice(&self.input.dims, &(0..each).map(of).collect::<Vec<f32>>())
            }
        };
        Ok(Sample { inputs: vec![input?], target: self.targets[i].clone() })
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}
