//! Nets that are no language models: their samples and how they are written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use kinglet::tasks::Preprocess;
use kinglet::{Error, Model, PlanOptions, Vision};
use kinglet_graph::Tensor;
use kinglet_tune::data::{
    Arrays, Bad, Goal, Images, Sampled, Samples, Source, Windows, WindowsOptions, split,
};
use kinglet_tune::net::{Input, Net};
use kinglet_tune::{Course, Material, Objective, Trained, TuneError};
use serde_json::{Value, json};

use super::super::files;
use super::super::pixels::Pixels;
use super::super::progress::Progress;
use super::{MOST_HELD_OUT, Opened, SAMPLES, Subject, Tune};

/// What training takes for nets that are no language models.
#[derive(Args)]
pub(super) struct Looking {
    /// Pictures are mirrored by chance
    #[arg(long)]
    mirror: bool,
    #[command(flatten)]
    pixels: Pixels,
    /// The column of CSV files that says what a row is [default: label, else the last]
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// Rows of CSV files from the beginning of one window to that of the next [default: those of a window]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,
}

impl Looking {
    /// The options that were given.
    pub fn given(&self) -> Vec<Option<&'static str>> {
        let own = [
            self.mirror.then_some("mirror"),
            self.label.as_ref().map(|_| "label"),
            self.stride.map(|_| "stride"),
        ];
        own.into_iter().chain(self.pixels.given()).collect()
    }
}

/// A net, and what is learned of a batch.
struct Looker {
    net: Net,
    goal: Goal,
    parameters: usize,
    batch: usize,
    names: Vec<String>,
}

/// The net, and the samples that it is trained on.
pub(super) fn open(tune: &Tune, model: &Path, folder: &Path) -> Result<Opened, Error> {
    let (examples, seed) = (&tune.examples, tune.length.seed);
    let net = Net::open(model)?;
    let mut look = None;
    let mut samples = |net: &Net, paths: &[PathBuf]| samples(tune, model, net, paths, &mut look);
    let found = samples(&net, &examples.data)?;
    let goal = found.samples.goal();
    let net = match goal {
        Goal::Classes(classes) => net.with_classes(classes)?,
        Goal::Values(_) => net,
    };
    let names = found.samples.names().to_vec();
    let batch = examples.batch as usize;
    let of = |samples: &Arc<dyn Samples>, chosen: Vec<u32>, varied: bool| {
        Sampled::new(samples.clone(), chosen, batch, seed, varied)
    };
    let all = |samples: &Arc<dyn Samples>| (0..samples.len() as u32).collect::<Vec<u32>>();
    let (own, held_out) = match examples.evaluation_data.as_slice() {
        [] => {
            let count = found.samples.len();
            let (own, kept) = split(count, examples.held_out, MOST_HELD_OUT, seed);
            (own, (!kept.is_empty()).then(|| of(&found.samples, kept, false)))
        }
        files => {
            let other = samples(&net, files)?.samples;
            if other.names() != names {
                return Err(Error::input(format!(
                    "--evaluation-data has the classes {}, and --data {}",
                    other.names().join(", "),
                    names.join(", ")
                )));
            }
            (all(&found.samples), Some(of(&other, all(&other), false)))
        }
    };
    tune.check_held_out(held_out.is_some())?;
    let examples = own.len();
    let source = of(&found.samples, own, tune.looking.mirror);
    let held_out = held_out.map(|held_out| Box::new(held_out) as Box<dyn Source>);
    let labels = labels_of(&tune.output);
    if !names.is_empty() && labels.exists() && !Course::is_begun(folder) {
        return Err(Error::input(format!(
            "{}: it is there already, and the classes' names would be written there: give another OUT, \
             or remove it",
            labels.display()
        )));
    }
    let objective = net.objective(&goal, 1)?;
    net.check_output(&objective)?;
    let parameters = objective.parameters();
    Ok(Opened {
        subject: Box::new(Looker { net, goal, parameters, batch, names }),
        material: Material { examples: Box::new(source), held_out },
        examples,
        bad: found.bad,
    })
}

/// Samples, and what was left out of them.
struct Found {
    samples: Arc<dyn Samples>,
    bad: Vec<Bad>,
}

/// The samples in `paths`: folders of pictures, an .npz file, or .csv files. `look` is how the model looks
/// at pictures, once that is known.
fn samples(
    tune: &Tune,
    model: &Path,
    net: &Net,
    paths: &[PathBuf],
    look: &mut Option<Preprocess>,
) -> Result<Found, Error> {
    let inputs = net.inputs()?;
    let bad_lines = tune.examples.bad_lines;
    let ending = |path: &PathBuf| {
        path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
    };
    let only = || match inputs.as_slice() {
        [input] => Ok(input),
        _ => Err(Error::input(format!(
            "{}: the net has {} inputs, and such data fill one: give an .npz file",
            model.display(),
            inputs.len()
        ))),
    };
    if paths.iter().all(|path| path.is_dir()) {
        let input = only()?;
        let preprocess = match look {
            Some(known) => known.clone(),
            None => look.insert(preprocess(tune, model, input)?).clone(),
        };
        let mut progress = Progress::new(tune.common.quiet);
        let mut hear =
            |at: u64, all: u64| progress.say(|| format!("reading pictures: {at} of {all}"));
        let images = Images::open(paths, preprocess, input.dims.clone(), bad_lines, &mut hear)?;
        return Ok(Found { bad: images.bad().to_vec(), samples: Arc::new(images) });
    }
    if let [file] = paths
        && ending(file) == "npz"
    {
        return Ok(Found { samples: Arc::new(Arrays::open(file, &inputs)?), bad: Vec::new() });
    }
    if paths.iter().all(|path| ending(path) == "csv") {
        let options = WindowsOptions {
            label: tune.looking.label.clone(),
            stride: tune.looking.stride.map(|rows| rows as usize),
        };
        let windows = Windows::open(paths, only()?, &options, bad_lines)?;
        return Ok(Found { bad: windows.bad().to_vec(), samples: Arc::new(windows) });
    }
    if let Some(missing) = paths.iter().find(|path| !path.exists()) {
        let m = "there is no such file or folder";
        return Err(Error::input(m).about(missing.display()));
    }
    let wrong = paths.iter().find(|path| !path.is_dir() && ending(path) != "csv");
    Err(Error::input(format!(
        "{}: a net that is no language model is trained on folders of pictures (FOLDER/CLASS/*.jpg), one \
         .npz file, or .csv files",
        wrong.map_or(String::new(), |path| path.display().to_string())
    )))
}

/// How `model` looks at pictures, its `input`.
fn preprocess(tune: &Tune, model: &Path, input: &Input) -> Result<Preprocess, Error> {
    let opened = Model::open(model)?;
    let dims: Vec<usize> = [1].into_iter().chain(input.dims.iter().copied()).collect();
    let shapes = [(0, dims)].into_iter().collect();
    let plan = opened.plan(PlanOptions { shapes, ..PlanOptions::default() })?;
    let vision = Vision::of(&opened, &plan, &tune.looking.pixels.options())?.ok_or_else(|| {
        Error::input(format!("{}: this model takes no picture: give an .npz file", model.display()))
    })?;
    if vision.assumes_values() {
        tune.common.note(
            "note: the model does not say which numbers it takes for a pixel, so this is a guess; \
             --pixels sets them",
        );
    }
    Ok(vision.preprocess().clone())
}

/// Where the names of a net's classes are written: one a line, as `kinglet run --labels` takes them.
fn labels_of(out: &Path) -> PathBuf {
    out.with_extension("labels.txt")
}

impl Subject for Looker {
    fn parameters(&self) -> usize {
        self.parameters
    }

    fn fingerprint(&self) -> String {
        self.net.fingerprint()
    }

    fn identity(&self, tune: &Tune) -> Vec<(&'static str, Value)> {
        let looking = &tune.looking;
        vec![
            ("--mirror", json!(looking.mirror)),
            ("how pictures are read", json!(format!("{:?}", looking.pixels.options()))),
        ]
    }

    fn unit(&self) -> &'static str {
        SAMPLES
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn owned_bytes(&self) -> usize {
        0
    }

    fn lines(&self) -> usize {
        self.batch
    }

    fn objective(&self, parts: usize) -> Result<Objective, TuneError> {
        self.net.objective(&self.goal, self.batch.div_ceil(parts.max(1)))
    }

    /// The graph's weights are in the file's map.
    fn release(&mut self, _trained: &[Trained]) {}

    fn write(&self, tune: &Tune, trained: Vec<(String, Tensor)>) -> Result<(), Error> {
        self.net.write(trained, &tune.output)?;
        if self.names.is_empty() {
            return Ok(());
        }
        let path = labels_of(&tune.output);
        files::write(&path, (self.names.join("\n") + "\n").as_bytes())
            .map_err(|e| super::super::cannot_write_file(&path, "the classes' names", &e))?;
        tune.common.note(format!("the classes' names: {}", path.display()));
        Ok(())
    }
}
