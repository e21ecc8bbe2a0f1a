//! Training the built-in assistant: data from the generator, `kinglet tune` and nothing else, and what
//! came of it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use kinglet_assistant::{Contract, Example, HeldOut, Score, everyday};
use serde_json::Value;

use super::DataArguments;
use crate::command::{cargo, output, root, run};

/// What repeats the training, with `crates/assistant/model/config.json` and the generator's data.
const SEED: u64 = 1;
const EXAMPLES: u64 = 1_000_000;
const STEPS: u64 = 8000;
const TUNING: [&str; 14] = [
    "--vocab",
    "2048",
    "--context",
    "256",
    "--batch",
    "8",
    "--rate",
    "2e-3",
    "--last-rate",
    "0.02",
    "--evaluate-every",
    "500",
    "--encoding",
    "q8_0",
];

/// Of the steps in the log that is kept, one of so many.
const LOGGED: u64 = 100;

#[derive(Args)]
pub struct Arguments {
    /// Train on so many examples, for a trial: scores are printed, and no committed file changes
    #[arg(long)]
    examples: Option<u64>,
    /// Train for so many steps, for a trial
    #[arg(long)]
    steps: Option<u64>,
    /// The folder of data, checkpoints and the result [default: assistant, or of a trial
    /// assistant-trial, in the target folder]. Interrupted, the same command goes on there; emptied, it
    /// starts anew
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn train(arguments: &Arguments) -> Result<()> {
    let trial = arguments.examples.is_some() || arguments.steps.is_some();
    let usual = if trial { "target/assistant-trial" } else { "target/assistant" };
    let out = arguments.out.clone().unwrap_or_else(|| root().join(usual));
    let model = root().join("crates/assistant/model");

    run(cargo().args(["build", "--release", "--package", "kinglet"]))?;
    let count = arguments.examples.unwrap_or(EXAMPLES);
    super::data(&DataArguments { out: out.clone(), seed: SEED, count, stats: false })?;

    let trained = out.join("assistant.gguf");
    let mut tune = super::kinglet();
    tune.args(["tune", "--json", "--config"]).arg(model.join("config.json"));
    tune.arg("--data").arg(out.join("train.jsonl"));
    tune.arg("--evaluation-data").arg(out.join("dev.jsonl"));
    tune.arg("--output").arg(&trained).args(["--seed", &SEED.to_string()]).args(TUNING);
    tune.args(["--steps", &arguments.steps.unwrap_or(STEPS).to_string()]);
    tune.stderr(std::process::Stdio::inherit());
    let told: Value = serde_json::from_str(&output(&mut tune)?)?;

    let mut figures = training(&told, &trained)?;
    let sets = [
        ("dev", HeldOut::Dev.examples()?),
        ("test", HeldOut::Test.examples()?),
        ("everyday", everyday()),
    ];
    for (name, examples) in sets {
        let score = score(&trained, &out.join(name), examples)?;
        println!("{name}\n{score}");
        write_score(&mut figures, name, &score)?;
    }
    if trial {
        return Ok(());
    }
    let log = fs::read_to_string(out.join("assistant.gguf.tune/log.jsonl"))?;
    replace(&model.join("training.jsonl"), &thinned(&log)?)?;
    let card = model.join("CARD.md");
    replace(&card, &between_markers(&fs::read_to_string(&card)?, &figures)?)?;
    let to = model.join("assistant.gguf");
    fs::copy(&trained, &to).with_context(|| format!("cannot write {}", to.display()))?;
    println!("written: {} (build kinglet anew to have it in the program)", to.display());
    Ok(())
}

/// What the program answers to the sentences of `examples`, judged. `place`: where they are kept, but for
/// how the names end.
fn score(trained: &Path, place: &Path, examples: Vec<Example>) -> Result<Score> {
    let says: Vec<&str> = examples.iter().map(|example| example.say.as_str()).collect();
    let input = place.with_extension("txt");
    replace(&input, &(says.join("\n") + "\n"))?;
    let mut answer = super::kinglet();
    answer.args(["run", "--json", "--quiet", "--assistant"]).arg(trained).arg("-");
    answer.stdin(fs::File::open(&input)?);
    let answers = output(&mut answer)?;
    replace(&place.with_extension("answers.jsonl"), &answers)?;
    let answers = answers.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    super::judge(&Contract::shipped(), examples, &answers)
}

/// What the training was, for the card.
fn training(told: &Value, trained: &Path) -> Result<String> {
    let number = |key: &str| told[key].as_f64().with_context(|| format!("tune told no {key}"));
    let bytes = fs::metadata(trained)?.len();
    let mut text = String::new();
    writeln!(text, "| training | |\n|---|--:|")?;
    writeln!(text, "| parameters | {} |", number("parameters")?)?;
    writeln!(text, "| file, bytes | {bytes} |")?;
    writeln!(text, "| examples | {EXAMPLES} |")?;
    writeln!(text, "| steps | {} |", number("steps")?)?;
    writeln!(text, "| tokens | {} |", number("rows")?)?;
    writeln!(text, "| hours | {:.2} |", number("seconds")? / 3600.0)?;
    writeln!(text, "| loss on the dev set, nats a token | {:.4} |", last_evaluation(told)?)?;
    Ok(text)
}

fn last_evaluation(told: &Value) -> Result<f64> {
    told["evaluation"]["evaluation"].as_f64().context("tune told no evaluation")
}

fn write_score(text: &mut String, name: &str, score: &Score) -> Result<()> {
    let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
    writeln!(text, "\n| {name}, % | sentences | function | exact | normalised |")?;
    writeln!(text, "|---|--:|--:|--:|--:|")?;
    let all = std::iter::once(("**all**", &score.all));
    let each = score.functions.iter().map(|(name, counts)| (name.as_str(), counts));
    for (name, c) in all.chain(each) {
        let (function, exact) = (share(c.function, c.of), share(c.exact, c.of));
        let normalised = share(c.normalised, c.of);
        writeln!(text, "| {name} | {} | {function:.1} | {exact:.1} | {normalised:.1} |", c.of)?;
    }
    Ok(())
}

/// All evaluations of a log, and a few of its steps.
fn thinned(log: &str) -> Result<String> {
    let mut text = String::new();
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line)?;
        let step = entry["step"].as_u64().unwrap_or_default();
        if entry["evaluation"].is_number() || step == 1 || step.is_multiple_of(LOGGED) {
            writeln!(text, "{line}")?;
        }
    }
    Ok(text)
}

const BEGIN: &str = "<!-- figures: written by cargo xtask assistant train -->";
const END: &str = "<!-- end of figures -->";

fn between_markers(card: &str, figures: &str) -> Result<String> {
    let parts = card.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    match parts {
        Some((before, after)) => Ok(format!("{before}{BEGIN}\n\n{figures}\n{END}{after}")),
        None => bail!("the model card lacks its markers, {BEGIN} and {END}"),
    }
}

fn replace(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
