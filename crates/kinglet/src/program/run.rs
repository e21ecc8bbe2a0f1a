//! `kinglet run`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use kinglet::tasks::{Labels, Picture, Task, detect, pose};
use kinglet::{Answer, Error, Model, Plan, PlanOptions, Tensor, Vision, VisionOptions};

use super::language::{Generate, Given, is_language_model};
use super::output::{
    BoxLine, ClassLine, Document, Edges, Files, OutputLine, PointLine, ShareLine, Timing,
    milliseconds,
};
use super::pixels::{Pixels, choice};
use super::tensors::{Folder, read_inputs, to_array};
use super::{Common, assistant, names, probe};

/// `kinglet run`: a sentence is answered by the assistant; a language model goes on from a text; pictures are decoded, resized and quantised as
/// the model expects, and the answer is read as its task says: told from the model's shapes, or with
/// --task.
#[derive(Args)]
pub(super) struct Run {
    /// The model: a GGUF, TFLite or ONNX file. Without one, the words are a sentence for the built-in
    /// assistant, which answers with the call of a device function; - reads sentences from standard input,
    /// one a line
    #[arg(default_value = "", hide_default_value = true, value_parser = any_word())]
    model: PathBuf,
    /// A prompt (- reads it from standard input), pictures (PNG, JPEG, BMP, GIF, WebP), or tensors (.npy, .npz)
    #[arg(value_name = "INPUT", value_parser = any_word())]
    inputs: Vec<PathBuf>,
    /// A tensor for an input, by its name or number; a .npz gives each member to the input of its name
    #[arg(long, value_name = "NAME=FILE.npy")]
    input: Vec<String>,
    /// Write each output as NAME.npy, and masks and overlays as PNG, to this folder
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Say the sentence to the assistant in this GGUF file, which `kinglet tune` made, instead
    #[arg(long, value_name = "FILE")]
    assistant: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
    #[command(flatten, next_help_heading = LOOKING)]
    looking: Looking,
    #[command(flatten, next_help_heading = GENERATING)]
    generate: Generate,
    /// Headings of the help under which options were given, with the first of each.
    #[arg(skip)]
    headings: Vec<(String, String)>,
}

/// A word as it is: a prompt may be empty, as a path may not.
fn any_word() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

const LOOKING: &str = "Pictures and tensors";
const GENERATING: &str = "Language models";

/// What `run` takes for all other models.
#[derive(Args)]
struct Looking {
    /// What the model does [default: told from its shapes]
    #[arg(long, value_parser = choice(&TASKS))]
    task: Option<Task>,
    /// The names of its classes, one a line [default: those in the model file]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// How many classes to print
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// The least score to print or draw [default: 0 for classes, 0.3 for joints, 0.5 for boxes]
    #[arg(long, value_name = "SCORE")]
    threshold: Option<f32>,
    #[command(flatten)]
    pixels: Pixels,
    /// Sizes for an input whose sizes are open
    #[arg(long, value_name = "NAME=SIZE,…")]
    shape: Vec<String>,
}

const TASKS: [(&str, Task); 5] = [
    ("classify", Task::Classify),
    ("segment", Task::Segment),
    ("pose", Task::Pose),
    ("detect", Task::Detect),
    ("tensors", Task::Tensors),
];
impl Run {
    /// Remembers which kinds of model the options of `command` were given for.
    pub fn remember(&mut self, command: &clap::Command, matches: &ArgMatches) {
        let given = command.get_arguments().filter(|argument| {
            let source = matches.value_source(argument.get_id().as_str());
            source == Some(ValueSource::CommandLine)
        });
        self.headings = given
            .filter_map(|argument| {
                Some((argument.get_help_heading()?.into(), argument.get_long()?.into()))
            })
            .collect();
    }

    /// Refuses options that mean nothing for this model.
    fn refuse(&self, heading: &str, kind: &str) -> Result<(), Error> {
        match self.headings.iter().find(|(given, _)| given == heading) {
            Some((_, option)) => Err(Error::input(format!(
                "{}: this is {kind}, and --{option} means nothing for it",
                self.model.display()
            ))),
            None => Ok(()),
        }
    }

    /// Lets the assistant answer.
    fn say(&self) -> Result<(), Error> {
        let first = self.headings.first().map(|(_, option)| option.as_str());
        let input = (!self.input.is_empty()).then_some("input");
        let output = self.output_dir.as_ref().map(|_| "output-dir");
        if let Some(option) = first.or(input).or(output) {
            return Err(Error::input(format!(
                "this is a sentence for the assistant, and --{option} means nothing for it"
            )));
        }
        let words = std::iter::once(&self.model).chain(&self.inputs);
        let words: Vec<&OsStr> = words.map(|word| word.as_os_str()).collect();
        assistant::run(&words, self.assistant.as_deref(), &self.common)
    }

    pub fn run(self) -> Result<(), Error> {
        if self.assistant.is_some() || assistant::is_sentence(&self.model, &self.inputs) {
            return self.say();
        }
        if is_language_model(&self.model) {
            self.refuse(LOOKING, "a language model")?;
            return self.generate.run(&Given {
                model: &self.model,
                words: &self.inputs,
                inputs: &self.input,
                output_dir: self.output_dir.as_deref(),
                common: &self.common,
            });
        }
        let start = Instant::now();
        let model = Model::open(&self.model)?;
        self.refuse(GENERATING, "no language model")?;
        let mut folder = self.output_dir.as_deref().map(Folder::create).transpose()?;
        let mut load_ms = milliseconds(start);
        let tensors = |path: &PathBuf| {
            path.extension().is_some_and(|extension| extension == "npy" || extension == "npz")
        };
        let pictures = !self.inputs.is_empty() && !self.inputs.iter().all(tensors);
        if pictures && !self.input.is_empty() {
            return Err(Error::input("give pictures or --input tensors, not both"));
        }
        let options = PlanOptions {
            shapes: names::shapes(&model, &self.looking.shape)?,
            threads: self.common.threads(),
            choices: probe::choices(),
            ..PlanOptions::default()
        };
        let documents = if pictures {
            self.on_pictures(&model, options, &mut folder, load_ms)?
        } else {
            let listed = self.inputs.iter().map(|path| path.to_string_lossy().into_owned());
            let arguments: Vec<String> = self.input.iter().cloned().chain(listed).collect();
            let inputs = read_inputs(&model, &arguments)?;
            let start = Instant::now();
            let mut plan = self.plan_for(&model, options, &inputs)?;
            load_ms += milliseconds(start);
            for (index, tensor) in inputs.iter().enumerate() {
                plan.set_input(index, tensor)?;
            }
            let run_ms = timed_run(&mut plan)?;
            let outputs = outputs(&plan, &mut folder, "")?;
            vec![Document::Tensors { input: None, outputs, timing: Timing { load_ms, run_ms } }]
        };
        if self.common.json {
            match documents.as_slice() {
                [one] => super::print_json(one),
                many => super::print_json(&many),
            }
        } else {
            let text: Vec<String> = documents.iter().map(Document::to_string).collect();
            super::print(&text.join("\n"))?;
            let timing = documents.last().map(Document::timing);
            if let Some(Timing { load_ms, run_ms }) = timing {
                self.common.note(format!("{run_ms:.1} ms, after {load_ms:.1} ms to load"));
            }
            Ok(())
        }
    }

    /// A plan for the sizes of these tensors.
    fn plan_for(
        &self,
        model: &Model,
        options: PlanOptions,
        inputs: &[Tensor],
    ) -> Result<Plan, Error> {
        let shapes = inputs.iter().map(|tensor| tensor.dims().to_vec()).enumerate().collect();
        model.plan(PlanOptions { shapes, ..options })
    }

    fn on_pictures(
        &self,
        model: &Model,
        options: PlanOptions,
        folder: &mut Option<Folder>,
        mut load_ms: f64,
    ) -> Result<Vec<Document>, Error> {
        let looks = VisionOptions {
            task: self.looking.task,
            labels: self.looking.labels.as_deref().map(read_labels).transpose()?,
            ..self.looking.pixels.options()
        };
        let about_labels = |error: Error| match &self.looking.labels {
            Some(path) if error.to_string().contains("labels") => error.about(path.display()),
            _ => error.about(model.path().display()),
        };
        let start = Instant::now();
        let mut plan = model.plan(options)?;
        load_ms += milliseconds(start);
        let vision = Vision::of(model, &plan, &looks).map_err(about_labels)?.ok_or_else(|| {
            Error::input(format!(
                "{}: this model takes no picture: its inputs are {}; give them with --input NAME=FILE.npy",
                model.path().display(),
                names::inputs(model)
            ))
        })?;
        if vision.assumes_values() {
            self.common.note(
                "note: the model does not say which numbers it takes for a pixel, so this is a guess; \
                 --pixels sets them",
            );
        }
        let mut documents = Vec::new();
        for path in &self.inputs {
            let picture = Picture::open(path)
                .map_err(|e| Error::input(e.to_string()).about(path.display()))?;
            let placement = vision.set_input(&mut plan, &picture)?;
            let run_ms = timed_run(&mut plan)?;
            let threshold = self.looking.threshold.unwrap_or(match vision.task() {
                Task::Pose => 0.3,
                Task::Detect => 0.5,
                _ => 0.0,
            });
            let answer = vision.answer(&plan, &picture, &placement, threshold)?;
            let input = path.to_string_lossy().into_owned();
            let one = One {
                name: (self.inputs.len() > 1).then_some(input),
                path,
                picture: &picture,
                labels: vision.labels(),
                top: self.looking.top,
                threshold,
                timing: Timing { load_ms, run_ms },
            };
            documents.push(one.document(&plan, answer, folder)?);
            plan.reset_state()?;
        }
        Ok(documents)
    }
}

/// One picture and what is known of it.
struct One<'a> {
    name: Option<String>,
    path: &'a Path,
    picture: &'a Picture,
    labels: &'a Labels,
    top: usize,
    threshold: f32,
    timing: Timing,
}

impl One<'_> {
    fn document(
        self,
        plan: &Plan,
        answer: Answer,
        folder: &mut Option<Folder>,
    ) -> Result<Document, Error> {
        let stem = self.path.file_stem().map_or("picture".into(), |stem| stem.to_string_lossy());
        let prefix = if self.name.is_some() { format!("{stem}.") } else { String::new() };
        let outputs = outputs(plan, folder, &prefix)?;
        let picture = self.picture;
        let (overlay, mask) = match &answer {
            Answer::Mask(mask) => (Some(mask.overlay(picture)), Some(mask.png())),
            Answer::Pose(points) => (Some(pose::overlay(picture, points, self.threshold)), None),
            Answer::Things(things) => (Some(detect::overlay(picture, things, self.labels)), None),
            Answer::Classes(_) | Answer::Tensors => (None, None),
        };
        let mut write = |what: &str, content: Option<Vec<u8>>| match (folder.as_mut(), content) {
            (Some(folder), Some(content)) => {
                let path = folder.write(&format!("{stem}.{what}"), "png", &content)?;
                Ok(Some(path.to_string_lossy().into_owned()))
            }
            _ => Ok::<_, Error>(None),
        };
        let files = Files {
            mask: write("mask", mask)?,
            overlay: write("overlay", overlay.map(|picture| picture.png()))?,
            outputs: outputs.iter().filter_map(|output| output.file.clone()).collect(),
        };
        let label = |index: usize| self.labels.get(index).map(str::to_string);
        let (input, timing) = (self.name, self.timing);
        Ok(match answer {
            Answer::Tensors => Document::Tensors { input, outputs, timing },
            Answer::Classes(_) => {
                let top =
                    answer.top(self.top, self.threshold).into_iter().map(|candidate| ClassLine {
                        index: candidate.index,
                        label: label(candidate.index),
                        score: candidate.score,
                    });
                Document::Classify { input, top: top.collect(), files: files.some(), timing }
            }
            Answer::Mask(mask) => {
                let classes = mask.shares().into_iter().map(|share| ShareLine {
                    index: share.class.into(),
                    label: label(share.class.into()),
                    share: share.share,
                });
                Document::Segment { input, classes: classes.collect(), files: files.some(), timing }
            }
            Answer::Pose(points) => {
                let keypoints = points.into_iter().map(|point| PointLine {
                    name: point.name,
                    x: point.x,
                    y: point.y,
                    score: point.score,
                });
                Document::Pose {
                    input,
                    keypoints: keypoints.collect(),
                    files: files.some(),
                    timing,
                }
            }
            Answer::Things(things) => {
                let boxes = things.into_iter().map(|thing| {
                    let [left, top, right, bottom] = thing.bounds;
                    BoxLine {
                        index: thing.class,
                        label: label(thing.class),
                        score: thing.score,
                        bounds: Edges { left, top, right, bottom },
                    }
                });
                Document::Detect { input, boxes: boxes.collect(), files: files.some(), timing }
            }
        })
    }
}

fn outputs(
    plan: &Plan,
    folder: &mut Option<Folder>,
    prefix: &str,
) -> Result<Vec<OutputLine>, Error> {
    let line = |(index, (name, _)): (usize, (&str, _))| {
        let view = plan.output(index);
        let file = match folder {
            Some(folder) => {
                let mut content = Vec::new();
                let array = to_array(&view).map_err(|e| e.about(format!("output '{name}'")))?;
                array.write(&mut content).map_err(|e| Error::work(e.to_string()))?;
                let stem =
                    if name.is_empty() { format!("output{index}") } else { name.to_string() };
                let path = folder.write(&format!("{prefix}{stem}"), "npy", &content)?;
                Some(path.to_string_lossy().into_owned())
            }
            None => None,
        };
        Ok(OutputLine::new(name, &view, file))
    };
    plan.outputs().enumerate().map(line).collect()
}

fn read_labels(path: &Path) -> Result<Labels, Error> {
    let about = |message: String| Error::input(message).about(path.display());
    if path.is_dir() {
        return Err(about("this is a folder; give a file of labels, one a line".into()));
    }
    let bytes = fs::read(path).map_err(|e| about(format!("cannot read the labels: {e}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| about("this is not text; labels are lines of UTF-8".into()))?;
    Labels::parse(&text).map_err(|e| about(e.to_string()))
}

fn timed_run(plan: &mut Plan) -> Result<f64, Error> {
    let start = Instant::now();
    plan.run()?;
    Ok(milliseconds(start))
}
