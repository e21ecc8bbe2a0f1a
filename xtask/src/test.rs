//! The one test command: every check that a change must pass.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{aarch64, command, fixtures, models, nextest, python};

/// One check.
struct Step {
    name: &'static str,
    run: fn() -> Result<()>,
}

/// The checks, in the order of running.
const STEPS: [Step; 7] = [
    Step { name: "fmt", run: fmt },
    Step { name: "clippy", run: clippy },
    Step { name: "nextest", run: unit_tests },
    Step { name: "doc", run: doc_tests },
    Step { name: "bench", run: bench_tests },
    Step { name: "aarch64-max", run: || aarch64::test("max") },
    // A phone without dot-product instructions.
    Step { name: "aarch64-a53", run: || aarch64::test("cortex-a53") },
];

/// Runs every check, setting up what is missing: fmt, clippy, nextest, doc, bench,
/// aarch64-max and aarch64-a53. A name, or its beginning (`aarch64`), chooses among them.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run only these steps
    #[arg(long, value_delimiter = ',', value_name = "STEP", value_parser = step_name)]
    only: Vec<String>,
    /// Leave these steps out
    #[arg(long, value_delimiter = ',', value_name = "STEP", value_parser = step_name)]
    without: Vec<String>,
}

fn step_name(name: &str) -> Result<String, String> {
    if STEPS.iter().any(|step| matches(step, name)) {
        return Ok(name.into());
    }
    Err(format!("the steps are {}", STEPS.map(|step| step.name).join(", ")))
}

fn matches(step: &Step, name: &str) -> bool {
    !name.is_empty() && step.name.starts_with(name)
}

/// Runs the steps one after the other, up to the first that fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    let named = |names: &[String], step: &Step| names.iter().any(|name| matches(step, name));
    let chosen = |step: &Step| {
        (arguments.only.is_empty() || named(&arguments.only, step))
            && !named(&arguments.without, step)
    };
    let (steps, left_out): (Vec<_>, Vec<_>) = STEPS.into_iter().partition(chosen);

    let began = Instant::now();
    let mut times = Vec::new();
    for step in &steps {
        println!("\n=== {} ===", step.name);
        let step_began = Instant::now();
        let done = (step.run)();
        let seconds = step_began.elapsed().as_secs_f64();
        if let Err(error) = done {
            bail!("step {} failed after {seconds:.0} s: {error:#}", step.name);
        }
        times.push((step.name, seconds));
    }

    println!();
    for (name, seconds) in times {
        println!("{name:12} {seconds:6.0} s  passed");
    }
    println!("{:12} {:6.0} s", "all", began.elapsed().as_secs_f64());
    if !left_out.is_empty() {
        let names: Vec<_> = left_out.iter().map(|step| step.name).collect();
        println!("NOT RUN: {}", names.join(", "));
    }
    if models::folder().is_none() {
        println!(
            "SKIPPED: tests on trained models; {} names no folder and ../shared/models is absent",
            models::VARIABLE
        );
    }
    Ok(())
}

fn fmt() -> Result<()> {
    command::run(command::cargo().args(["fmt", "--all", "--", "--check"]))
}

fn clippy() -> Result<()> {
    let mut clippy = command::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    command::run(&mut clippy)
}

fn unit_tests() -> Result<()> {
    let (suite, encoder) = (fixtures::suite()?, fixtures::minilm()?);
    let mut run = nextest::command()?;
    run.args(["run", "--workspace"]).env(fixtures::VARIABLE, suite);
    run.env("KINGLET_MINILM", encoder);
    if let Some(models) = models::folder() {
        run.env(models::VARIABLE, models);
    }
    command::run(&mut run)
}

fn doc_tests() -> Result<()> {
    command::run(command::cargo().args(["test", "--quiet", "--workspace", "--doc"]))
}

/// Tests of what the measurements reckon; they measure nothing.
fn bench_tests() -> Result<()> {
    let mut test = Command::new(python::interpreter()?);
    test.args([
        "-m",
        "unittest",
        "discover",
        "--start-directory",
        "tests",
        "--top-level-directory",
    ]);
    command::run(test.arg(".").current_dir(command::root().join("bench")))
}
