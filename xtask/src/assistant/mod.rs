//! The built-in assistant: its data, its training, and how right its answers are.

mod train;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kinglet_assistant::clock::Date;
use kinglet_assistant::{Contract, Example, Generator, HeldOut, Score};
use serde_json::Value;

use crate::command::root;

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Write train.jsonl, dev.jsonl and test.jsonl
    Data(DataArguments),
    /// Train it anew, with the program alone, and write weights, card and log (hours)
    Train(train::Arguments),
    /// Compare answers with what was wanted
    Score(ScoreArguments),
}

#[derive(Args)]
struct DataArguments {
    /// The folder to write into
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many training examples
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Print how often each function is called
    #[arg(long)]
    stats: bool,
}

#[derive(Args)]
struct ScoreArguments {
    /// JSON lines, one a sentence of the set and in its order: a call, or an object with a "call"
    #[arg(long)]
    answers: PathBuf,
    /// JSON lines as `data` writes them; without, the test set
    #[arg(long)]
    wanted: Option<PathBuf>,
    /// Print each wrong answer
    #[arg(long)]
    mistakes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Data(arguments) => data(arguments),
        What::Train(arguments) => train::train(arguments),
        What::Score(arguments) => score(arguments),
    }
}

/// The program, as `cargo build --release` makes it.
fn kinglet() -> Command {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Command::new(target.join("release/kinglet"))
}

fn data(arguments: &DataArguments) -> Result<()> {
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let (dev, test) = (HeldOut::Dev.examples()?, HeldOut::Test.examples()?);
    write(&out.join("dev.jsonl"), dev.iter().map(|example| Ok(example.clone())))?;
    write(&out.join("test.jsonl"), test.iter().map(|example| Ok(example.clone())))?;
    let mut generator = Generator::new(arguments.seed)?;
    let mut counts = BTreeMap::<String, u64>::new();
    let examples = (0..arguments.count).map(|_| {
        let example = generator.example()?;
        *counts.entry(example.call.name.clone()).or_default() += 1;
        Ok(example)
    });
    write(&out.join("train.jsonl"), examples)?;
    if arguments.stats {
        let of = |set: &[Example], name: &str| set.iter().filter(|e| e.call.name == name).count();
        println!("{:16} {:>9} {:>6} {:>6} {:>6}", "function", "train", "%", "dev", "test");
        for function in Contract::shipped().functions {
            let name = function.name.as_str();
            let count = counts.get(name).copied().unwrap_or_default();
            let share = 100.0 * count as f64 / arguments.count.max(1) as f64;
            let (dev, test) = (of(&dev, name), of(&test, name));
            println!("{name:16} {count:9} {share:6.1} {dev:6} {test:6}");
        }
        println!("{:16} {:9} {:6} {:6} {:6}", "all", arguments.count, "", dev.len(), test.len());
    }
    Ok(())
}

fn write(path: &Path, examples: impl Iterator<Item = Result<Example>>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    for example in examples {
        writeln!(file, "{}", example?.line())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    file.into_inner()?.sync_all().with_context(|| format!("cannot write {}", path.display()))
}

fn score(arguments: &ScoreArguments) -> Result<()> {
    let contract = Contract::shipped();
    let wanted = match &arguments.wanted {
        None => HeldOut::Test.examples()?,
        Some(path) => {
            let example = |line: Value| -> Result<Example> {
                let say = line["say"].as_str().context("a line has no \"say\"")?.to_owned();
                Ok(Example { say, call: contract.read(&line["call"])? })
            };
            lines(path)?.into_iter().map(example).collect::<Result<_>>()?
        }
    };
    let mut answers = lines(&arguments.answers)?;
    for (answer, example) in answers.iter_mut().zip(&wanted) {
        if answer.get("say").is_some_and(|say| *say != *example.say) {
            bail!("an answer is to {}, where {:?} was asked", answer["say"], example.say);
        }
        if let Some(call) = answer.get_mut("call") {
            *answer = call.take();
        }
    }
    let score = judge(&contract, wanted, &answers)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&score)?);
        return Ok(());
    }
    println!("{:16} {:>6} {:>9} {:>9} {:>11}", "%", "of", "function", "exact", "normalised");
    print!("{score}");
    if arguments.mistakes {
        println!("\nmistakes: said, wanted, answered");
        for mistake in &score.mistakes {
            println!("{}", mistake.say);
            println!("  + {}", serde_json::to_string(&mistake.wanted)?);
            println!("  - {}", mistake.answer);
        }
    }
    Ok(())
}

/// Scores answers. Dates that the clock completes may have been completed today.
fn judge(contract: &Contract, wanted: Vec<Example>, answers: &[Value]) -> Result<Score> {
    if answers.len() != wanted.len() {
        bail!(
            "there are {} answers to {} sentences; there is to be one for each, in the same order",
            answers.len(),
            wanted.len()
        );
    }
    let today = Date::today().context("the clock's day is none of this calendar")?;
    let wanted: Vec<_> = wanted
        .into_iter()
        .map(|Example { say, call }| Example { say, call: call.on(today) })
        .collect();
    let completed = |answer: &Value| match contract.read(answer) {
        Ok(call) => serde_json::to_value(call.on(today)),
        Err(_) => Ok(answer.clone()),
    };
    let answers = answers.iter().map(completed).collect::<Result<Vec<_>, _>>()?;
    Ok(kinglet_assistant::score(contract, &wanted, &answers))
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(index, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}, line {}: not JSON", path.display(), index + 1))
    };
    lines.map(read).collect()
}
