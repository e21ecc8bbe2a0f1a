//! Kinglet's side of the rows about training of `cargo xtask bench peers`: trains when asked.
//!
//!     bench_training CONFIG.json THREADS LINESxCONTEXT [CHOICES [PRECISION]]
//!     bench_training MODEL.gguf THREADS LINESxCONTEXT lora=RANK [PRECISION]
//!     bench_training NET.onnx|NET.tflite THREADS all [CHOICES [PRECISION]]
//!
//! Trains by AdamW, on data of chance, a language model of chance after a Hugging Face `config.json`, or a
//! net that classifies: all weights, or those that choices, as `kinglet tune --train` takes, are of; or
//! low-rank products beside the weights of a language model in whatever encoding. Products are of f32, or of
//! bf16 where that is the precision.
//! Answers are lines of nanoseconds. The first comes unasked: the time until the step is planned,
//! and that of a first step. A line `N` on standard input asks for N more steps, answered by the time of
//! each; `memory` for the bytes that the process had at its peak; `planned` for those of activations and
//! gradients; `ops` for JSON: the seconds that each op's kernels took of a step, in the median.

use kinglet_formats::gguf::Gguf;
use kinglet_formats::lm::{Build, Config, Family, HfConfig, Start, Weights, build, from_gguf};
use kinglet_formats::{Named, map};
use kinglet_graph::ops::rows::PAGE;
use kinglet_graph::{DType, Dim, Dims, Graph, Tensor, ValueId, ValueType};
use kinglet_measure::Recorder;
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_tune::data::Goal;
use kinglet_tune::net::Net;
use kinglet_tune::{
    Lora, Objective, Optimiser, Precision, Recipe, Selection, cross_entropy, differentiate,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    const USAGE: &str =
        "usage: bench_training MODEL THREADS LINESxCONTEXT|all [CHOICES [f32|bf16]]";
    let [model, threads, what, rest @ ..] = words.as_slice() else { return Err(USAGE.into()) };
    let (threads, choices) = (threads.parse()?, rest.first().unwrap_or(&"*"));
    let precision = match rest.get(1) {
        None | Some(&"f32") => Precision::F32,
        Some(&"bf16") => Precision::Bf16,
        Some(_) => return Err(USAGE.into()),
    };
    let began = Instant::now();
    let path = Path::new(model);
    let mut work = match path.extension().and_then(|e| e.to_str()) {
        Some("onnx" | "tflite") => net(path)?,
        Some("gguf") => {
            let file = Gguf::open(path)?;
            let (config, family) = from_gguf(&file)?;
            language_model(&config, family, &file, what)?
        }
        _ => {
            let (config, family, weights) = of_chance(path)?;
            language_model(&config, &family, &weights, what)?
        }
    };
    match choices.strip_prefix("lora=") {
        Some(rank) => work.adapt(rank.parse()?)?,
        None => work.objective.select(&Selection::parse(choices)?)?,
    }
    let (plan, inputs) = work.plan(threads, precision)?;
    let planned = began.elapsed();
    let mut training = Training { plan, inputs, recorder: Recorder::default() };
    println!("{} {}", planned.as_nanos(), training.step()?.as_nanos());
    for question in io::stdin().lock().lines() {
        match question?.as_str() {
            "memory" => println!("{}", map::process_peak().unwrap_or(0)),
            "planned" => println!("{}", training.plan.memory().planned),
            "ops" => println!("{}", training.ops()?),
            count => {
                let mut answer = String::new();
                for _ in 0..count.parse()? {
                    write!(answer, "{} ", training.step()?.as_nanos())?;
                }
                println!("{answer}");
            }
        }
        io::stdout().flush()?;
    }
    Ok(())
}

struct Training {
    plan: Plan,
    inputs: Vec<Tensor>,
    recorder: Recorder,
}

impl Training {
    fn step(&mut self) -> Result<Duration> {
        // A plan may reuse its inputs' memory, so each step gets them anew.
        for (i, input) in self.inputs.iter().enumerate() {
            self.plan.set_input(i, &input.view())?;
        }
        let began = Instant::now();
        self.recorder.begin(0);
        let count = self.plan.steps().len();
        for i in 0..count {
            self.recorder.observe(&self.plan, i);
            self.plan.run_step(i)?;
        }
        self.recorder.observe(&self.plan, count);
        self.recorder.end();
        let took = began.elapsed();
        let loss: f32 = self.plan.output(0).scalar()?;
        if !loss.is_finite() {
            return Err(format!("the loss is {loss}").into());
        }
        Ok(took)
    }

    fn ops(&self) -> Result<serde_json::Value> {
        let mut seconds: BTreeMap<(&str, String), f64> = BTreeMap::new();
        for step in self.recorder.steps()? {
            *seconds.entry((step.work.op, step.work.kernel)).or_default() += step.seconds;
        }
        let mut ops: Vec<_> = seconds.into_iter().collect();
        ops.sort_by(|a, b| b.1.total_cmp(&a.1));
        let line = |((op, kernel), seconds)| serde_json::json!([op, kernel, seconds]);
        Ok(ops.into_iter().map(line).collect())
    }
}

/// What is trained, and on what.
struct Work {
    objective: Objective,
    batch: Vec<Tensor>,
}

impl Work {
    fn new(
        graph: Graph,
        (loss, scores): (ValueId, ValueId),
        trained: Vec<ValueId>,
        batch: Vec<Tensor>,
    ) -> Work {
        let shapes = batch.iter().map(|t| t.dims().into()).collect();
        Work { objective: Objective::new(graph, (loss, scores), trained, shapes), batch }
    }

    /// Trains products of this rank beside the weights alone.
    fn adapt(&mut self, rank: usize) -> Result<()> {
        Ok(self.objective.adapt(Lora { rank, alpha: 2.0 * rank as f64 }, 1)?)
    }

    /// The plan of a step, and its inputs.
    fn plan(self, threads: usize, precision: Precision) -> Result<(Plan, Vec<Tensor>)> {
        let recipe = Recipe { clip: Some(1.0), precision, ..Recipe::new(Optimiser::adam_w()) };
        let Objective { graph, loss, weights, .. } = &self.objective;
        let training = differentiate(graph, *loss, weights, &recipe)?;
        let inputs: Vec<Tensor> = self.batch.into_iter().chain([Tensor::scalar(1e-3f32)]).collect();
        let options = PlanOptions {
            input_shapes: Some(inputs.iter().map(|t| t.dims().into()).collect()),
            threads,
            ..PlanOptions::default()
        };
        Ok((Plan::new(&training.graph, &options)?, inputs))
    }
}

/// The constants of f32 of which `wanted` tells.
fn constants(graph: &Graph, wanted: impl Fn(&str) -> bool) -> Vec<ValueId> {
    graph
        .values_with_ids()
        .filter(|(_, v)| v.data.as_ref().is_some_and(|d| d.dtype() == DType::F32))
        .filter(|(_, v)| wanted(&v.name))
        .map(|(id, _)| id)
        .collect()
}

/// A net that classifies as many samples at once as its file says, or 16.
fn net(path: &Path) -> Result<Work> {
    let mut chance = Chance(1);
    let net = Net::open(path)?;
    let classes = net.classes()?;
    let first = |v: &ValueId| net.graph().value(*v).ty.shape.dims()?.first()?.fixed();
    let batch = net.graph().inputs.first().and_then(first).filter(|n| *n > 1).unwrap_or(16);
    let objective = net.objective(&Goal::Classes(classes), batch)?;
    let count = |dims: &Dims| dims.iter().product::<usize>();
    let mut of_chance = |dims: &Dims, value: &dyn Fn(&mut Chance) -> f32| {
        let values: Vec<f32> = (0..count(dims)).map(|_| value(&mut chance)).collect();
        Tensor::from_slice(dims, &values)
    };
    let (share, rest) = objective.shapes.split_last().ok_or("a net without inputs")?;
    let (targets, inputs) = rest.split_last().ok_or("a net without inputs")?;
    let each = |dims: &Dims| of_chance(dims, &|chance| chance.share());
    let mut tensors = inputs.iter().map(each).collect::<std::result::Result<Vec<_>, _>>()?;
    let of: Vec<i32> = (0..batch).map(|_| (chance.next() % classes as u64) as i32).collect();
    tensors.push(Tensor::from_slice(targets, &of)?);
    tensors.push(Tensor::from_slice(share, &[1.0 / batch as f32])?);
    Ok(Work { objective, batch: tensors })
}

/// A language model of chance, after a `config.json`.
fn of_chance(config: &Path) -> Result<(Config, Family, Named<Tensor>)> {
    let config = HfConfig::open(config)?;
    let mut chance = Chance(1);
    let mut tensors = Named::default();
    for fresh in config.fresh()? {
        let count: usize = fresh.dims.iter().product();
        let values: Vec<f32> = match fresh.start {
            Start::Ones => vec![1.0; count],
            Start::Zeros => vec![0.0; count],
            _ => (0..count).map(|_| (chance.share() - 0.5) * 0.07).collect(),
        };
        tensors.insert(fresh.name, Tensor::from_slice(&fresh.dims, &values)?);
    }
    Ok(config.model(&tensors)?)
}

fn language_model(
    config: &Config,
    family: &Family,
    weights: &dyn Weights,
    size: &str,
) -> Result<Work> {
    let (lines, context) = size.split_once('x').ok_or("a size is LINESxCONTEXT, as 8x256")?;
    let (lines, context): (usize, usize) = (lines.parse()?, context.parse()?);
    let mut chance = Chance(1);
    let n = lines * context;
    let (of_line, all) = (context.div_ceil(PAGE), lines * context.div_ceil(PAGE));
    let sizes = Build { pages: all, sequences: lines, cache: DType::F32 };
    let mut graph = build(config, family, weights, sizes)?;
    let logits = graph.outputs[0];
    let targets = ValueType::new(DType::I32, vec![Dim::symbol("wanted")]);
    let targets = graph.add_input("targets", targets);
    let loss = cross_entropy(&mut graph, logits, targets, None)?;
    let trained = constants(&graph, |name| name.ends_with(".weight") || name.ends_with(']'));

    let rows = |f: &dyn Fn(usize, usize) -> usize| -> Vec<i32> {
        (0..n).map(|i| f(i / context, i % context) as i32).collect()
    };
    let parents: Vec<i32> = (0..n as i32)
        .map(|i| if (i as usize).is_multiple_of(context) { -1 } else { i - 1 })
        .collect();
    let vocabulary = config.vocabulary;
    let mut tokens =
        || -> Vec<i32> { (0..n).map(|_| (chance.next() % vocabulary as u64) as i32).collect() };
    let mut pages = vec![-1; lines * all];
    for line in 0..lines {
        for page in 0..of_line {
            pages[line * all + page] = (line * of_line + page) as i32;
        }
    }
    let of_rows = |numbers: &[i32]| Tensor::from_slice(&[n], numbers);
    let batch = vec![
        of_rows(&tokens())?,
        of_rows(&rows(&|_, position| position))?,
        of_rows(&rows(&|line, _| line))?,
        of_rows(&parents)?,
        of_rows(&rows(&|line, position| line * of_line * PAGE + position))?,
        Tensor::from_slice(&[lines, all], &pages)?,
        of_rows(&rows(&|line, position| line * context + position))?,
        of_rows(&tokens())?,
    ];
    Ok(Work::new(graph, (loss, logits), trained, batch))
}

/// A generator of Marsaglia's xorshift family: any numbers will do.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn share(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 24) as f32
    }
}
