//! `kinglet tune`.

mod document;
mod fit;
mod language;
mod net;
mod recipe;
mod report;
mod start;
mod teacher;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use kinglet::Error;
use kinglet_formats::map;
use kinglet_graph::Tensor;
use kinglet_measure::text::size;
use kinglet_runtime::Pool;
use kinglet_tune::data::Bad;
use kinglet_tune::language::Encoded;
use kinglet_tune::{
    Course, Ending, Event, Lock, Material, Memory, Objective, Recipe, Schedule, Settings, Trained,
    Trainer, TuneError, Way, batches_of_epochs,
};
use serde_json::{Map, Value, json};

use super::progress::Progress;
use super::{Common, files};
use document::Document;
use fit::Fitting;
use recipe::Learning;
use start::Start;
use teacher::Teacher;

/// `kinglet tune`.
#[derive(Args)]
pub(super) struct Tune {
    #[command(flatten)]
    start: Start,
    /// What is written: a folder, or a GGUF file where the name ends in .gguf; of another net, a file such
    /// as the one that was read
    #[arg(long, short, value_name = "OUT")]
    output: PathBuf,
    /// How most matrices of language models are written; blocks, such as q8_0, are for GGUF files [default:
    /// f32, or what --quantise says]
    #[arg(long, value_name = "TYPE", value_parser = encodings(false))]
    encoding: Option<Encoded>,
    /// Train weights that are written in this type: each step, and each evaluation, sees them as the file
    /// will hold them
    #[arg(long, value_name = "TYPE", value_parser = encodings(true), conflicts_with = "lora")]
    quantise: Option<Encoded>,
    #[command(flatten)]
    common: Common,
    #[command(flatten, next_help_heading = "Data")]
    examples: Examples,
    #[command(flatten, next_help_heading = "Data of nets that are no language models")]
    looking: net::Looking,
    #[command(flatten, next_help_heading = "Length")]
    length: Length,
    #[command(flatten, next_help_heading = "Learning")]
    learning: Learning,
    #[command(flatten, next_help_heading = "Memory")]
    fitting: Fitting,
    #[command(flatten, next_help_heading = "Teacher")]
    teacher: Teacher,
}

/// What weights are written as, or only what is no float.
fn encodings(blocks: bool) -> impl TypedValueParser<Value = Encoded> {
    let all = Encoded::all().filter(|e| !blocks || e.is_blocks());
    let names: Vec<PossibleValue> = all.map(|e| PossibleValue::new(e.dtype().name())).collect();
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Encoded>())
}

#[derive(Args)]
struct Examples {
    /// Files of examples: JSON lines or plain text; for other nets a folder of pictures with a folder for
    /// each class, an .npz file or .csv files
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// The share of the examples that is kept out of training and evaluated
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = share)]
    held_out: f64,
    /// Evaluate these files instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    evaluation_data: Vec<PathBuf>,
    /// Lines that may be no examples: they are named, and left out
    #[arg(long, value_name = "N", default_value_t = 0)]
    bad_lines: usize,
    /// The chance of each token of --data to be broken into smaller ones, so that words which are rare
    /// there are understood by their parts
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0, value_parser = share)]
    bpe_dropout: f64,
    /// Tokens that are seen at once; longer text is cut, and shorter examples share a line [default: 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    context: Option<u32>,
    /// Lines of --context tokens in a batch, or samples
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    batch: u32,
    /// Batches that make a step: memory of one, gradients of all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    accumulate: u32,
}

#[derive(Args)]
struct Length {
    /// Times through all examples
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = positive)]
    epochs: f64,
    /// Steps, instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    steps: Option<u64>,
    /// Steps from one evaluation to the next [default: a tenth of all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    evaluate_every: Option<u64>,
    /// End after so many evaluations that found nothing better; the best is written
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    early_stop: Option<u32>,
    /// Seconds from one checkpoint to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    save_every: u64,
    /// Of the order of examples, and of a new model's weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Examples {
    fn context(&self) -> usize {
        self.context.unwrap_or(CONTEXT) as usize
    }
}

/// Tokens where nothing is said.
const CONTEXT: u32 = 256;

fn share(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    found.ok_or_else(|| "give a number from 0 to below 1".into())
}

fn positive(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|n: &f64| *n > 0.0 && n.is_finite() && *n < 1e9);
    found.ok_or_else(|| "give a number above 0".into())
}

/// Examples that are held out are no more than this many: evaluation is not to take long.
const MOST_HELD_OUT: usize = 500;

/// What is counted of language models' examples, and of others'.
const TOKENS: &str = "tokens";
const SAMPLES: &str = "samples";

/// What is trained, of one kind of models.
trait Subject {
    /// How many numbers its weights are.
    fn parameters(&self) -> usize;
    /// Tells other models from this one.
    fn fingerprint(&self) -> String;
    /// What a checkpoint must agree with, of this kind's own options.
    fn identity(&self, tune: &Tune) -> Vec<(&'static str, Value)>;
    /// What examples are counted in.
    fn unit(&self) -> &'static str;
    /// How many of them a batch has room for.
    fn batch(&self) -> usize;
    /// Of how many lines or samples a batch is, which can run in parts.
    fn lines(&self) -> usize;
    /// Bytes of weights that are in memory, and not in a mapped file.
    fn owned_bytes(&self) -> usize;
    /// Its loss over a batch that runs in so many parts.
    fn objective(&self, parts: usize) -> Result<Objective, TuneError>;
    /// What else belongs to that once it is known which weights are learned.
    fn complete(
        &self,
        _tune: &Tune,
        _objective: &mut Objective,
        _parts: usize,
    ) -> Result<(), TuneError> {
        Ok(())
    }
    /// Lets go of weights that a training holds.
    fn release(&mut self, trained: &[Trained]);
    /// Writes it with what was learned.
    fn write(&self, tune: &Tune, trained: Vec<(String, Tensor)>) -> Result<(), Error>;
}

/// What is trained, and on what.
struct Opened {
    subject: Box<dyn Subject>,
    material: Material,
    /// How many examples are trained on.
    examples: usize,
    /// What was left out of them.
    bad: Vec<Bad>,
}

impl Tune {
    pub fn run(self) -> Result<(), Error> {
        self.start.check()?;
        self.check_kind()?;
        self.encoded()?;
        self.teacher.check(self.learning.zeroth(0).is_none())?;
        if let Some(note) = self.learning.check_precision()? {
            self.common.note(note);
        }
        let folder = folder_of(&self.output);
        if self.output.exists() && !folder.exists() {
            return Err(Error::input(format!(
                "{}: it is there already: give another name, or remove it",
                self.output.display()
            )));
        }
        let cannot = |e| super::cannot_write_file(&folder, "the training", &e);
        fs::create_dir_all(&folder).map_err(cannot)?;
        let lock = Lock::take(&folder)?;
        let result = self.train(&folder, lock);
        if result.is_err() && !Course::is_begun(&folder) {
            // Nothing is there to go on with.
            for name in ["lock", start::TOKENIZER] {
                let _ = fs::remove_file(folder.join(name));
            }
            let _ = fs::remove_dir(&folder);
        }
        result
    }

    /// Refuses options that mean nothing for this kind of model.
    fn check_kind(&self) -> Result<(), Error> {
        let net = self.start.net();
        let without = match net {
            Some(_) => vec![
                self.examples.context.map(|_| "context"),
                (self.examples.bpe_dropout > 0.0).then_some("bpe-dropout"),
                self.learning.lora().map(|_| "lora"),
                self.encoding.map(|_| "encoding"),
                self.quantise.map(|_| "quantise"),
                self.teacher.given().then_some("teacher"),
            ],
            None => self.looking.given(),
        };
        let kind = if net.is_some() { "no language model" } else { "a language model" };
        match without.into_iter().flatten().next() {
            Some(option) => Err(Error::input(format!(
                "{} is {kind}, and --{option} means nothing for it",
                self.start.base()
            ))),
            None => Ok(()),
        }
    }

    fn train(&self, folder: &Path, lock: Lock) -> Result<(), Error> {
        let common = &self.common;
        let opened = match self.start.net() {
            Some(model) => net::open(self, model, folder)?,
            None => language::open(self, folder)?,
        };
        let Opened { mut subject, mut material, examples, bad } = opened;
        for bad in &bad {
            common.note(format!("left out: {bad}"));
        }
        let steps = self.steps(&material);
        let (recipe, schedule) = self.learning.recipe(steps, self.start.is_new());
        let (parameters, of_step) = (subject.parameters(), self.examples.accumulate as usize);

        let before = map::process_resident();
        let before = before.map(|bytes| bytes.saturating_sub(subject.owned_bytes()));
        map::reset_process_peak();
        let pool = Arc::new(Pool::new(self.threads()));
        let evaluates = material.held_out.is_some();
        let (way, fit) = self.way(&*subject, &recipe, (&pool, evaluates))?;
        let settings = self.settings(&*subject, &material, (&recipe, schedule), (steps, &way));
        let trainer = self.plan(&mut *subject, &recipe, &way, (&pool, evaluates))?;
        material.run_in_parts(way.parts);
        let memory = trainer.memory();
        common.note(format!(
            "{} parameters, {examples} examples, {steps} steps of {} {}",
            grouped(parameters),
            subject.batch() * of_step,
            subject.unit()
        ));
        common.note(parts_of(&memory));
        if let Some(fit) = &fit {
            common.note(fit::why(fit));
        }
        let mut course = Course::new(folder, lock, trainer, settings, material)?;
        if course.step() > 0 {
            common.note(format!("going on after step {}", course.step()));
        }
        let unit = subject.unit();
        let ending = follow(&mut course, steps, unit, common)?;
        let measured = before.and_then(|before| Some(map::process_peak()?.saturating_sub(before)));
        report::write(&folder.join(report::FILE), &self.output, &course, (parameters, unit, &way))?;
        if ending == Ending::Stopped {
            return Err(Error::work(format!(
                "stopped after step {} of {steps}: the same command goes on",
                course.step()
            )));
        }
        subject.write(self, course.result()?)?;
        let mut document = Document::of(&course, ending, &*subject, self);
        document.memory_measured = measured;
        document.fit = fit;
        document.bad_lines = bad;
        if common.json {
            return super::print_json(&document);
        }
        super::print(&document.text())
    }

    /// What is written.
    fn encoded(&self) -> Result<Encoded, Error> {
        match (self.encoding, self.quantise) {
            (Some(written), Some(trained)) if written != trained => Err(Error::input(format!(
                "--encoding {written} with --quantise {trained}: what is trained as {trained} is \
                 written so; leave --encoding out"
            ))),
            (written, trained) => Ok(trained.or(written).unwrap_or_default()),
        }
    }

    /// How many steps there are.
    fn steps(&self, material: &Material) -> u64 {
        let accumulate = u64::from(self.examples.accumulate);
        let all = batches_of_epochs(&*material.examples, self.length.epochs).max(1);
        self.length.steps.unwrap_or_else(|| all.div_ceil(accumulate))
    }

    /// How, and for how long, `subject` is trained on `material`.
    fn settings(
        &self,
        subject: &dyn Subject,
        material: &Material,
        (recipe, schedule): (&Recipe, Schedule),
        (steps, way): (u64, &Way),
    ) -> Settings {
        let length = &self.length;
        let mut identity = self.identity(subject, material, steps, recipe, &schedule);
        let chosen = self.fitting.chooses().then(|| way.to_string());
        identity.insert("--memory".into(), json!(chosen));
        Settings {
            steps,
            accumulate: self.examples.accumulate as usize,
            schedule,
            evaluate_every: length.evaluate_every.unwrap_or_else(|| steps.div_ceil(10)),
            patience: length.early_stop,
            save_every: Duration::from_secs(length.save_every),
            identity,
        }
    }

    fn threads(&self) -> usize {
        match self.common.threads() {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }

    /// The plans of a training, which holds the weights of `subject` from then on.
    fn plan(
        &self,
        subject: &mut dyn Subject,
        recipe: &Recipe,
        way: &Way,
        (pool, evaluates): (&Arc<Pool>, bool),
    ) -> Result<Trainer, Error> {
        let objective = self.objective(subject, way)?;
        let training = self.training(&objective, &self.recipe_of(recipe, way), false)?;
        let shapes = objective.shapes;
        drop(objective.graph);
        subject.release(&training.trained);
        Ok(Trainer::new(training, &shapes, pool, evaluates)?)
    }

    /// What a checkpoint must agree with.
    fn identity(
        &self,
        subject: &dyn Subject,
        material: &Material,
        steps: u64,
        recipe: &Recipe,
        schedule: &Schedule,
    ) -> Map<String, Value> {
        let (examples, length) = (&self.examples, &self.length);
        let other = material.held_out.as_ref().filter(|_| !examples.evaluation_data.is_empty());
        let own = [
            ("model", json!(subject.fingerprint())),
            ("data", json!(material.examples.fingerprint())),
            ("evaluation data", json!(other.map(|other| other.fingerprint()))),
            ("--held-out", json!(examples.held_out)),
            ("--batch", json!(examples.batch)),
            ("--accumulate", json!(examples.accumulate)),
            ("--seed", json!(length.seed)),
            ("steps", json!(steps)),
            ("--evaluate-every", json!(length.evaluate_every)),
            ("--early-stop", json!(length.early_stop)),
            ("optimiser", json!(format!("{:?}", recipe.optimiser))),
            ("--epsilon", json!(self.learning.zeroth(0).map(|zeroth| zeroth.epsilon))),
            ("--clip", json!(recipe.clip)),
            ("--precision", json!(self.learning.rounding())),
            ("--train", json!(self.learning.train().map(ToString::to_string))),
            ("--lora", json!(self.learning.lora().map(|lora| (lora.rank, lora.alpha)))),
            ("learning rate", json!(format!("{schedule:?}"))),
        ];
        let all = subject.identity(self).into_iter().chain(own);
        all.map(|(key, value)| (key.to_string(), value)).collect()
    }

    /// Refuses to end early where nothing is held out.
    fn check_held_out(&self, any: bool) -> Result<(), Error> {
        match self.length.early_stop {
            Some(_) if !any => Err(Error::input(
                "--early-stop needs examples that are held out, and there are too few",
            )),
            _ => Ok(()),
        }
    }
}

/// What a training takes of memory, for people.
fn parts_of(memory: &Memory) -> String {
    let parts = [
        ("weights", memory.weights),
        ("optimiser", memory.optimiser),
        ("attention", memory.cache),
        ("activations", memory.activations),
        ("not trained", memory.frozen),
    ];
    let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
    let parts: Vec<_> = parts.map(|(name, bytes)| format!("{name} {}", size(*bytes))).collect();
    format!("memory: {} ({})", size(memory.total()), parts.join(", "))
}

/// Where a training into `out` is kept.
fn folder_of(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".tune");
    out.with_file_name(name)
}

/// Goes on to the end, and shows how far it is.
fn follow(course: &mut Course, steps: u64, unit: &str, common: &Common) -> Result<Ending, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    // Without it, Ctrl-C ends the program at once: what came after the last checkpoint is done again.
    let _ = ctrlc::set_handler(move || asked.store(true, Ordering::Relaxed));
    let mut progress = Progress::new(common.quiet);
    let (began, first) = (Instant::now(), course.step());
    let (mut rows, mut loss, mut last) = (0u64, None::<f64>, None);
    let ending = course.run(|event| {
        match event {
            Event::Evaluation(evaluation) => last = Some(evaluation.evaluation),
            Event::Step(step) => {
                rows += step.rows;
                loss = Some(loss.map_or(step.loss, |l| l + SMOOTH * (step.loss - l)));
                let each = began.elapsed().as_secs_f64() / (step.step - first).max(1) as f64;
                let left = each * (steps - step.step) as f64;
                progress.say(|| {
                    let held_out = last.map_or(String::new(), |e| format!(", held out {e:.3}"));
                    format!(
                        "step {} of {steps}: loss {:.3}{held_out}, {:.0} {unit}/s, {} left",
                        step.step,
                        loss.unwrap_or(step.loss),
                        rows as f64 / began.elapsed().as_secs_f64().max(1e-9),
                        time(left)
                    )
                });
            }
        }
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    drop(progress);
    Ok(ending?)
}

/// What a new loss counts in the one that is shown.
const SMOOTH: f64 = 0.1;

/// `45 s`, `12 min`, `3 h 05 min`.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{} h {:02} min", (s / 3600.0) as u64, (s / 60.0) as u64 % 60),
    }
}

/// `1,234,567`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_are_for_people() {
        assert_eq!([5.4, 89.0, 600.0, 11_100.0].map(time), ["5 s", "89 s", "10 min", "3 h 05 min"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_training_is_kept_beside_its_output() {
        assert_eq!(folder_of(Path::new("a/b.gguf")), Path::new("a/b.gguf.tune"));
        assert_eq!(folder_of(Path::new("out/")), Path::new("out.tune"));
    }
}
