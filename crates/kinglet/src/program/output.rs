//! What `kinglet run` answers: as one JSON document, and for people.

use std::fmt;
use std::time::Instant;

use kinglet::TensorView;
use serde::Serialize;

/// An answer. Its JSON says its task under `task`.
#[derive(Serialize)]
#[serde(tag = "task", rename_all = "lowercase")]
pub(super) enum Document {
    Classify {
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        top: Vec<ClassLine>,
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<Files>,
        timing: Timing,
    },
    Segment {
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        classes: Vec<ShareLine>,
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<Files>,
        timing: Timing,
    },
    Pose {
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        keypoints: Vec<PointLine>,
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<Files>,
        timing: Timing,
    },
    Detect {
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        boxes: Vec<BoxLine>,
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<Files>,
        timing: Timing,
    },
    Tensors {
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        outputs: Vec<OutputLine>,
        timing: Timing,
    },
}

#[derive(Serialize, Clone, Copy)]
pub(super) struct Timing {
    #[serde(serialize_with = "microseconds")]
    pub load_ms: f64,
    #[serde(serialize_with = "microseconds")]
    pub run_ms: f64,
}

/// Milliseconds to the microsecond: more digits are noise, of clocks and of sums.
pub(super) fn microseconds<S: serde::Serializer>(
    ms: &f64,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((ms * 1e3).round() / 1e3)
}

pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[derive(Serialize)]
pub(super) struct ClassLine {
    pub index: usize,
    pub label: Option<String>,
    pub score: f32,
}

#[derive(Serialize)]
pub(super) struct ShareLine {
    pub index: usize,
    pub label: Option<String>,
    pub share: f32,
}

#[derive(Serialize)]
pub(super) struct PointLine {
    pub name: &'static str,
    pub x: f32,
    pub y: f32,
    pub score: f32,
}

#[derive(Serialize)]
pub(super) struct BoxLine {
    pub index: usize,
    pub label: Option<String>,
    pub score: f32,
    #[serde(rename = "box")]
    pub bounds: Edges,
}

/// In the picture's pixels.
#[derive(Serialize)]
pub(super) struct Edges {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

/// Files that were written.
#[derive(Serialize)]
pub(super) struct Files {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    pub outputs: Vec<String>,
}

impl Files {
    /// These files, if there are any.
    pub fn some(self) -> Option<Files> {
        let any = self.mask.is_some() || self.overlay.is_some() || !self.outputs.is_empty();
        any.then_some(self)
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.mask.iter().chain(&self.overlay).chain(&self.outputs)
    }
}

#[derive(Serialize)]
pub(super) struct OutputLine {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The stored elements, of a small output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<serde_json::Value>>,
}

/// Outputs of at most this many elements are shown.
const SHOWN: usize = 64;

impl OutputLine {
    pub fn new(name: &str, view: &TensorView<'_>, file: Option<String>) -> OutputLine {
        OutputLine {
            name: name.into(),
            dtype: view.dtype.name(),
            shape: view.dims.to_vec(),
            file,
            values: if view.len() <= SHOWN { values(view) } else { None },
        }
    }
}

/// The stored elements; a float that is no number is `null`, as JSON has none.
fn values(view: &TensorView<'_>) -> Option<Vec<serde_json::Value>> {
    use kinglet::DType;
    fn all<T: Copy>(values: &[T], json: impl Fn(T) -> serde_json::Value) -> Vec<serde_json::Value> {
        values.iter().map(|value| json(*value)).collect()
    }
    Some(match view.dtype {
        DType::F32 => all(view.slice::<f32>().ok()?, |v| v.into()),
        DType::F64 => all(view.slice::<f64>().ok()?, |v| v.into()),
        DType::F16 => all(view.slice::<half::f16>().ok()?, |v| v.to_f32().into()),
        DType::BF16 => all(view.slice::<half::bf16>().ok()?, |v| v.to_f32().into()),
        DType::Bool => all(view.bytes, |v| (v != 0).into()),
        DType::U64 => all(view.slice::<u64>().ok()?, |v| v.into()),
        _ => all(&view.ints().ok()?, |v| v.into()),
    })
}

impl Document {
    pub fn timing(&self) -> Timing {
        match self {
            Document::Classify { timing, .. }
            | Document::Segment { timing, .. }
            | Document::Pose { timing, .. }
            | Document::Detect { timing, .. }
            | Document::Tensors { timing, .. } => *timing,
        }
    }

    fn input(&self) -> &Option<String> {
        match self {
            Document::Classify { input, .. }
            | Document::Segment { input, .. }
            | Document::Pose { input, .. }
            | Document::Detect { input, .. }
            | Document::Tensors { input, .. } => input,
        }
    }

    fn files(&self) -> Option<&Files> {
        match self {
            Document::Classify { files, .. }
            | Document::Segment { files, .. }
            | Document::Pose { files, .. }
            | Document::Detect { files, .. } => files.as_ref(),
            Document::Tensors { .. } => None,
        }
    }
}

fn named(label: &Option<String>, index: usize) -> String {
    label.clone().unwrap_or_else(|| format!("class {index}"))
}

fn percent(share: f32) -> f32 {
    share * 100.0
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(input) = self.input() {
            writeln!(f, "{input}")?;
        }
        match self {
            Document::Classify { top, .. } => {
                if top.iter().all(|line| percent(line.score) < 0.05) {
                    writeln!(f, "no class scores enough to tell")?;
                }
                // What rounds to nothing tells a reader nothing.
                let seen = |line: &&ClassLine| percent(line.score) >= 0.05;
                for line in top.iter().filter(seen) {
                    writeln!(
                        f,
                        "{:5.1} %  {}",
                        percent(line.score),
                        named(&line.label, line.index)
                    )?;
                }
            }
            Document::Segment { classes, .. } => {
                for line in classes {
                    writeln!(
                        f,
                        "{:5.1} %  {}",
                        percent(line.share),
                        named(&line.label, line.index)
                    )?;
                }
            }
            Document::Pose { keypoints, .. } => {
                for point in keypoints {
                    writeln!(
                        f,
                        "{:5.1} %  {:14}  x {:6.1}  y {:6.1}",
                        percent(point.score),
                        point.name,
                        point.x,
                        point.y
                    )?;
                }
            }
            Document::Detect { boxes, .. } => {
                if boxes.is_empty() {
                    writeln!(f, "nothing found")?;
                }
                let wide = boxes.iter().map(|b| named(&b.label, b.index).chars().count()).max();
                for line in boxes {
                    let Edges { left, top, right, bottom } = line.bounds;
                    writeln!(
                        f,
                        "{:5.1} %  {:wide$}  x {left:.0} to {right:.0}, y {top:.0} to {bottom:.0}",
                        percent(line.score),
                        named(&line.label, line.index),
                        wide = wide.unwrap_or(0)
                    )?;
                }
            }
            Document::Tensors { outputs, .. } => {
                let wide = outputs.iter().map(|output| output.name.chars().count()).max();
                for output in outputs {
                    write!(
                        f,
                        "{:wide$}  {}{:?}",
                        output.name,
                        output.dtype,
                        output.shape,
                        wide = wide.unwrap_or(0)
                    )?;
                    if let Some(values) = output.values.as_ref().filter(|_| output.file.is_none()) {
                        let values: Vec<String> = values.iter().map(|v| v.to_string()).collect();
                        write!(f, "  {}", values.join(" "))?;
                    }
                    match &output.file {
                        Some(file) => writeln!(f, "  {file}")?,
                        None => writeln!(f)?,
                    }
                }
            }
        }
        for file in self.files().into_iter().flat_map(Files::all) {
            writeln!(f, "wrote {file}")?;
        }
        Ok(())
    }
}
