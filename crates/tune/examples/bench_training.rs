//! The speed of whole training steps: `bench_training CONFIG.json [LINES [CONTEXT [STEPS [THREADS]]]]`.
//!
//! Makes a language model of chance after a Hugging Face `config.json`, trains all of it by AdamW on
//! random tokens, LINES × CONTEXT a step, and prints JSON: the seconds of each step, of the ops by the
//! kernels that ran them, and the bytes planned.

use kinglet_formats::lm::{Build, HfConfig, Start, build};
use kinglet_graph::ops::rows::PAGE;
use kinglet_graph::{DType, Dim, Tensor, ValueType};
use kinglet_measure::Recorder;
use kinglet_runtime::{Plan, PlanOptions};
use kinglet_tune::{Optimiser, Recipe, cross_entropy, differentiate};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| -> Result<usize> {
        arguments.get(i).map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let config = arguments.first().ok_or("which config.json?")?;
    let (lines, context) = (number(1, 8)?, number(2, 256)?);
    let (steps, threads) = (number(3, 5)?, number(4, 2)?);
    let (mut plan, inputs) = plan(&HfConfig::open(Path::new(config))?, lines, context, threads)?;
    let mut recorder = Recorder::default();
    let count = plan.steps().len();
    let mut seconds = Vec::with_capacity(steps);
    for step in 0..=steps {
        let start = Instant::now();
        for (i, input) in inputs.iter().enumerate() {
            plan.set_input(i, &input.view())?;
        }
        recorder.begin(0);
        for i in 0..count {
            if step > 0 {
                recorder.observe(&plan, i);
            }
            plan.run_step(i)?;
        }
        // The first step finds memory.
        if step > 0 {
            recorder.observe(&plan, count);
            recorder.end();
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let mut ops: BTreeMap<(&str, String), f64> = BTreeMap::new();
    for step in recorder.steps()? {
        *ops.entry((step.work.op, step.work.kernel)).or_default() += step.seconds;
    }
    let mut ops: Vec<_> = ops.into_iter().collect();
    ops.sort_by(|a, b| b.1.total_cmp(&a.1));
    let ops: Vec<_> = ops
        .into_iter()
        .map(|((op, kernel), s)| serde_json::json!({"op": op, "kernel": kernel, "seconds": s}))
        .collect();
    let planned = plan.memory().planned;
    let document = serde_json::json!({
        "rows": lines * context, "step_s": seconds, "planned": planned, "ops": ops,
    });
    println!("{document}");
    Ok(())
}

/// The plan of a step, and its inputs.
fn plan(
    config: &HfConfig,
    lines: usize,
    context: usize,
    threads: usize,
) -> Result<(Plan, Vec<Tensor>)> {
    let mut chance = Chance(1);
    let mut tensors = kinglet_formats::Named::default();
    for fresh in config.fresh()? {
        let count: usize = fresh.dims.iter().product();
        let values: Vec<f32> = match fresh.start {
            Start::Ones => vec![1.0; count],
            Start::Zeros => vec![0.0; count],
            _ => (0..count).map(|_| (chance.share() - 0.5) * 0.07).collect(),
        };
        tensors.insert(fresh.name, Tensor::from_slice(&fresh.dims, &values)?);
    }
    let (config, family, weights) = config.model(&tensors)?;
    let n = lines * context;
    let (of_line, all) = (context.div_ceil(PAGE), lines * context.div_ceil(PAGE));
    let sizes = Build { pages: all, sequences: lines, cache: DType::F32 };
    let mut graph = build(&config, &family, &weights, sizes)?;
    let logits = graph.outputs[0];
    let targets = ValueType::new(DType::I32, vec![Dim::symbol("wanted")]);
    let targets = graph.add_input("targets", targets);
    let loss = cross_entropy(&mut graph, logits, targets, None)?;
    let trained: Vec<_> = graph
        .values_with_ids()
        .filter(|(_, v)| v.data.as_ref().is_some_and(|d| d.dtype() == DType::F32))
        .filter(|(_, v)| v.name.ends_with(".weight") || v.name.ends_with(']'))
        .map(|(id, _)| id)
        .collect();
    let recipe = Recipe { clip: Some(1.0), ..Recipe::new(Optimiser::adam_w()) };
    let training = differentiate(&graph, loss, &trained, &recipe)?;

    let rows = |f: &dyn Fn(usize, usize) -> usize| -> Vec<i32> {
        (0..n).map(|i| f(i / context, i % context) as i32).collect()
    };
    let parents: Vec<i32> =
        (0..n as i32).map(|i| if i as usize % context == 0 { -1 } else { i - 1 }).collect();
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
    let inputs = [
        of_rows(&tokens())?,
        of_rows(&rows(&|_, position| position))?,
        of_rows(&rows(&|line, _| line))?,
        of_rows(&parents)?,
        of_rows(&rows(&|line, position| line * of_line * PAGE + position))?,
        Tensor::from_slice(&[lines, all], &pages)?,
        of_rows(&rows(&|line, position| line * context + position))?,
        of_rows(&tokens())?,
        Tensor::scalar(1e-3f32),
    ];
    let options = PlanOptions {
        input_shapes: Some(inputs.iter().map(|t| t.dims().into()).collect()),
        threads,
        ..PlanOptions::default()
    };
    Ok((Plan::new(&training.graph, &options)?, inputs.into()))
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
