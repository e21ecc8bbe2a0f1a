//! `kinglet tune`.

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
use kinglet_measure::text::size;
use kinglet_runtime::Pool;
use kinglet_tune::data::{Bad, Batches, Data, Dropout, Encoder};
use kinglet_tune::language::{Encoded, Model, objective};
use kinglet_tune::{
    Course, Ending, Evaluation, Event, Goal, HeldOut, Lock, Material, Memory, PROJECTION, Recipe,
    Schedule, Settings, Trainer, batches_of_epochs, differentiate,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::progress::Progress;
use super::{Common, files};
use recipe::Learning;
use start::Start;
use teacher::Teacher;

/// `kinglet tune`.
#[derive(Args)]
pub(super) struct Tune {
    #[command(flatten)]
    start: Start,
    /// What is written: a folder, or a GGUF file where the name ends in .gguf
    #[arg(long, short, value_name = "OUT")]
    output: PathBuf,
    /// How most matrices are written; blocks, such as q8_0, are for GGUF files [default: f32, or what
    /// --quantise says]
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
    #[command(flatten, next_help_heading = "Length")]
    length: Length,
    #[command(flatten, next_help_heading = "Learning")]
    learning: Learning,
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
    /// Files of examples: JSON lines, or plain text
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
    /// Tokens that are seen at once; longer text is cut, and shorter examples share a line
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    context: u32,
    /// Lines of --context tokens in a batch
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

/// Bytes of text for each token of the context: pieces of plain text have about as many tokens.
const BYTES_A_TOKEN: usize = 4;

/// What is said at the end.
#[derive(Serialize)]
struct Document {
    output: String,
    ending: &'static str,
    steps: u64,
    steps_of: u64,
    loss: Option<f64>,
    evaluation: Option<Evaluation>,
    evaluation_before: Option<Evaluation>,
    perplexity: Option<f64>,
    parameters: usize,
    rows: u64,
    seconds: f64,
    tok_s: Option<f64>,
    memory: Memory,
    memory_total: usize,
    /// What the process had at its peak, beyond what it had before the training was planned.
    memory_measured: Option<usize>,
    bad_lines: Vec<Bad>,
    report: String,
}

impl Tune {
    pub fn run(self) -> Result<(), Error> {
        self.start.check()?;
        self.teacher.check(self.learning.zeroth(0).is_none())?;
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

    fn train(&self, folder: &Path, lock: Lock) -> Result<(), Error> {
        let (examples, common) = (&self.examples, &self.common);
        let seed = self.length.seed;
        let (context, lines) = (examples.context as usize, examples.batch as usize);
        let mut model = self.start.model(folder, &examples.data, seed, common)?;
        match self.learning.adapter() {
            true => model.check_adapter_output(&self.output)?,
            false => model.check_output(&self.output, self.encoded()?)?,
        }
        let encoder = || Encoder::new(model.tokenizer.clone(), model.chat_template()?, context);
        let chance = examples.bpe_dropout;
        let broken = encoder()?.with_dropout(Dropout { chance, seed });
        let data = self.open(&examples.data, if chance > 0.0 { broken } else { encoder()? })?;
        let (trained_on, held_out) = self.held_out(&data, encoder()?)?;
        let batches = Batches::new(&data, &trained_on, context, lines, seed);
        let material = Material { data, batches, held_out };
        let teacher = self.teacher.open()?;
        let (recipe, settings) = self.settings((&model, teacher.as_ref()), &material);
        let (parameters, steps) = (model.parameters(), settings.steps);

        let before = map::process_resident();
        let before = before.map(|bytes| bytes.saturating_sub(model.owned_bytes()));
        map::reset_process_peak();
        let trainer = self.plan(&mut model, teacher, &material, &recipe)?;
        let memory = trainer.memory();
        common.note(format!(
            "{} parameters, {} examples, {steps} steps of {} tokens",
            grouped(parameters),
            trained_on.len(),
            lines * context * settings.accumulate
        ));
        common.note(parts_of(&memory));
        let mut course = Course::new(folder, lock, trainer, settings, material)?;
        if course.step() > 0 {
            common.note(format!("going on after step {}", course.step()));
        }
        let ending = follow(&mut course, steps, common)?;
        let measured = before.and_then(|before| Some(map::process_peak()?.saturating_sub(before)));
        report::write(&folder.join(report::FILE), &self.output, &course, parameters)?;
        if ending == Ending::Stopped {
            return Err(Error::work(format!(
                "stopped after step {} of {steps}: the same command goes on",
                course.step()
            )));
        }
        let mut trained = course.result()?;
        // Projections onto the teacher's widths are no part of the model.
        trained.retain(|(name, _)| !name.starts_with(PROJECTION));
        let work = |e: kinglet_graph::OpError| Error::work(e.to_string());
        let encoded = self.encoded()?;
        match self.learning.lora() {
            None => model.write(trained, &self.output, encoded)?,
            Some(lora) if self.learning.adapter() => {
                let name = self.output.file_stem().unwrap_or_default().to_string_lossy();
                let rows = |weight: &str| model.weights().get(weight)?.dims().first().copied();
                let adapter = lora.adapter(&name, &trained, rows).map_err(work)?;
                model.write_adapter(&adapter, &self.output, &self.start.base())?;
            }
            Some(lora) => {
                let merged = lora.merged(&trained, |name, rows| model.constant(name, rows));
                model.write(merged.map_err(work)?, &self.output, encoded)?;
            }
        }
        self.answer(&course, steps, ending, parameters, (memory, measured), folder)
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

    /// How, and for how long, `model` is trained on `material`.
    fn settings(
        &self,
        models: (&Model, Option<&Model>),
        material: &Material,
    ) -> (Recipe, Settings) {
        let length = &self.length;
        let accumulate = self.examples.accumulate as usize;
        let all = batches_of_epochs(&material.batches, length.epochs).max(1);
        let steps = length.steps.unwrap_or_else(|| all.div_ceil(accumulate as u64));
        let (recipe, schedule) = self.learning.recipe(steps, accumulate > 1, self.start.is_new());
        let settings = Settings {
            steps,
            accumulate,
            schedule,
            evaluate_every: length.evaluate_every.unwrap_or_else(|| steps.div_ceil(10)),
            patience: length.early_stop,
            save_every: Duration::from_secs(length.save_every),
            identity: self.identity(models, material, steps, &recipe, &schedule),
        };
        (recipe, settings)
    }

    /// The plans of a training, which holds the weights of `model` from then on.
    fn plan(
        &self,
        model: &mut Model,
        teacher: Option<Model>,
        material: &Material,
        recipe: &Recipe,
    ) -> Result<Trainer, Error> {
        let mut objective = objective(model, &material.batches)?;
        if let Some(selection) = self.learning.train() {
            objective.select(selection)?;
        }
        if let Some(quantise) = self.quantise {
            objective.quantise(quantise, model)?;
        }
        let lora = self.learning.lora();
        if let Some(lora) = lora {
            objective.adapt(lora, self.length.seed)?;
        }
        if let Some(teacher) = teacher {
            let batches = &material.batches;
            self.teacher.teach(&teacher, &mut objective, model, batches, self.length.seed)?;
        }
        let (graph, loss, weights) = (&objective.graph, objective.loss, &objective.weights);
        let goal = Goal { loss, measure: objective.measure };
        let training = match self.learning.zeroth(self.length.seed) {
            Some(zeroth) => zeroth.training(graph, loss, weights),
            None => differentiate(graph, goal, weights, recipe),
        };
        let training =
            training.map_err(|e| Error::input(format!("this model can't be trained: {e}")))?;
        let shapes = objective.shapes;
        drop(objective.graph);
        if lora.is_none() && self.learning.train().is_none() {
            model.release();
        }
        let threads = match self.common.threads() {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = Arc::new(Pool::new(threads));
        Ok(Trainer::new(training, &shapes, &pool, material.held_out.is_some())?)
    }

    /// The examples in `files`.
    fn open(&self, files: &[PathBuf], encoder: Encoder) -> Result<Data, Error> {
        let mut progress = Progress::new(self.common.quiet);
        let piece = BYTES_A_TOKEN * self.examples.context as usize;
        let bad_lines = self.examples.bad_lines;
        let data = Data::open(files, encoder, piece, bad_lines, &mut |at, all| {
            progress
                .say(|| format!("reading data: {} of {}", size(at as usize), size(all as usize)));
        })?;
        drop(progress);
        for bad in data.bad() {
            self.common.note(format!("left out: {bad}"));
        }
        Ok(data)
    }

    /// The examples that are trained on, and those that are not.
    fn held_out(
        &self,
        data: &Data,
        encoder: Encoder,
    ) -> Result<(Vec<u32>, Option<HeldOut>), Error> {
        let examples = &self.examples;
        let (context, lines) = (examples.context as usize, examples.batch as usize);
        let seed = self.length.seed;
        if !examples.evaluation_data.is_empty() {
            let other = self.open(&examples.evaluation_data, encoder)?;
            let all: Vec<u32> = (0..other.len() as u32).collect();
            let batches = Batches::new(&other, &all, context, lines, seed);
            let held_out = HeldOut { data: Some(other), batches };
            return Ok(((0..data.len() as u32).collect(), Some(held_out)));
        }
        let (own, kept_out) = data.split(examples.held_out, MOST_HELD_OUT, seed);
        if kept_out.is_empty() {
            if self.length.early_stop.is_some() {
                let m = "--early-stop needs examples that are held out, and there are too few";
                return Err(Error::input(m));
            }
            return Ok((own, None));
        }
        let batches = Batches::new(data, &kept_out, context, lines, seed);
        Ok((own, Some(HeldOut { data: None, batches })))
    }

    /// What a checkpoint must agree with.
    fn identity(
        &self,
        (model, teacher): (&Model, Option<&Model>),
        material: &Material,
        steps: u64,
        recipe: &Recipe,
        schedule: &Schedule,
    ) -> Map<String, Value> {
        let (examples, length) = (&self.examples, &self.length);
        let other = material.held_out.as_ref().and_then(|held_out| held_out.data.as_ref());
        let own = [
            ("model", json!(model.fingerprint())),
            ("data", json!(material.data.fingerprint())),
            ("evaluation data", json!(other.map(Data::fingerprint))),
            ("--held-out", json!(examples.held_out)),
            ("--bpe-dropout", json!(examples.bpe_dropout)),
            ("--context", json!(examples.context)),
            ("--batch", json!(examples.batch)),
            ("--accumulate", json!(examples.accumulate)),
            ("--seed", json!(length.seed)),
            ("steps", json!(steps)),
            ("--evaluate-every", json!(length.evaluate_every)),
            ("--early-stop", json!(length.early_stop)),
            ("optimiser", json!(format!("{:?}", recipe.optimiser))),
            ("--epsilon", json!(self.learning.zeroth(0).map(|zeroth| zeroth.epsilon))),
            ("--clip", json!(recipe.clip)),
            ("--train", json!(self.learning.train().map(ToString::to_string))),
            ("--quantise", json!(self.quantise.map(|encoded| encoded.to_string()))),
            ("--lora", json!(self.learning.lora().map(|lora| (lora.rank, lora.alpha)))),
            ("learning rate", json!(format!("{schedule:?}"))),
        ];
        let all =
            self.start.identity().into_iter().chain(self.teacher.identity(teacher)).chain(own);
        all.map(|(key, value)| (key.to_string(), value)).collect()
    }

    fn answer(
        &self,
        course: &Course,
        steps: u64,
        ending: Ending,
        parameters: usize,
        (memory, memory_measured): (Memory, Option<usize>),
        folder: &Path,
    ) -> Result<(), Error> {
        let log = course.log();
        let rows: u64 = log.steps.iter().map(|step| step.rows).sum();
        let seconds: f64 = log.steps.iter().map(|step| step.seconds).sum();
        let evaluation = match self.length.early_stop {
            Some(_) => course.best(),
            None => log.evaluations.last().copied(),
        };
        let document = Document {
            output: self.output.display().to_string(),
            ending: if ending == Ending::Early { "early" } else { "done" },
            steps: course.step(),
            steps_of: steps,
            loss: report::smooth(&log.steps).last().map(|(_, loss)| *loss),
            evaluation,
            evaluation_before: log.evaluations.first().copied(),
            perplexity: evaluation.map(|e| e.evaluation.exp()),
            parameters,
            rows,
            seconds,
            tok_s: (seconds > 0.0).then(|| (rows as f64 / seconds * 10.0).round() / 10.0),
            memory,
            memory_total: memory.total(),
            memory_measured,
            bad_lines: course.data().bad().to_vec(),
            report: folder.join(report::FILE).display().to_string(),
        };
        if self.common.json {
            return super::print_json(&document);
        }
        super::print(&document.text())
    }
}

impl Document {
    fn text(&self) -> String {
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
            lines.push(format!(
                "held out    {:.4} (perplexity {:.3}); before the first step {:.4} ({:.3})",
                now.evaluation,
                now.evaluation.exp(),
                before.evaluation,
                before.evaluation.exp()
            ));
        }
        if let Some(rate) = self.tok_s {
            lines.push(format!("speed       {rate:.0} tokens/s, {} in all", time(self.seconds)));
        }
        if !self.bad_lines.is_empty() {
            lines.push(format!("left out    {} bad lines", self.bad_lines.len()));
        }
        lines.push(format!("report      {}", self.report));
        lines.join("\n") + "\n"
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
fn follow(course: &mut Course, steps: u64, common: &Common) -> Result<Ending, Error> {
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
                        "step {} of {steps}: loss {:.3}{held_out}, {:.0} tokens/s, {} left",
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
