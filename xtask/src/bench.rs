//! Measurements against other engines; `bench/` holds how.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, instructions, make_model, models, python};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// Kinglet and other engines by turns on the same files; writes bench/RESULTS.md
    Peers(Peers),
    /// Of those, only the rows about instructions that QEMU counts on aarch64
    Instructions,
}

#[derive(clap::Args, Default)]
struct Peers {
    /// Only rows that this regular expression finds in `SECTION: NAME`, as in "language: llama.*q4_0";
    /// the others keep what was measured before
    #[arg(long, value_name = "REGEX")]
    only: Option<String>,
    /// Rounds of each row, instead of its own number
    #[arg(long)]
    rounds: Option<usize>,
    /// Threads for every engine, where a row does not say otherwise
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Install, build and make what the rows need, and measure nothing
    #[arg(long)]
    prepare: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.bench {
        Bench::Peers(peers) => compare(peers),
        Bench::Instructions => {
            compare(&Peers { only: Some("^instructions: ".into()), threads: 2, ..Peers::default() })
        }
    }
}

fn compare(peers: &Peers) -> Result<()> {
    let models = models::folder().with_context(|| {
        format!("the models to measure are missing: {} names their folder", models::VARIABLE)
    })?;
    let driver = || -> Result<Command> {
        let mut driver = Command::new(python::interpreter()?);
        driver.arg(bench("peers.py"));
        driver.args(peers.only.iter().flat_map(|only| ["--only", only]));
        Ok(driver)
    };
    let needs = command::output(driver()?.arg("--needs"))?;
    // Rows that only count run no program of this machine.
    let of_machine = |need: &str| need.starts_with("program ") && need != "program aarch64";
    let counts_only = needs.contains("program aarch64") && !needs.lines().any(of_machine);
    let kinglet = if counts_only { Vec::new() } else { build()? };
    let scratch = target().join("bench");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;

    let mut measure = driver()?;
    for (name, path) in kinglet {
        measure.arg("--program").arg(format!("{name}={}", path.display()));
    }
    for need in needs.lines() {
        match need.split(' ').collect::<Vec<_>>().as_slice() {
            ["program", name] => match install(name) {
                Ok(path) => measure.arg("--program").arg(format!("{name}={}", path.display())),
                // The others can be measured all the same; the table says why this one was not.
                Err(error) => {
                    eprintln!("bench: {name}: {error:#}");
                    let said = error.to_string();
                    let line = said.lines().next().unwrap_or_default();
                    measure.arg("--missing").arg(format!("{name}={line}"))
                }
            },
            ["model", name, encoding] => {
                make_model::made(name, encoding)?;
                &mut measure
            }
            _ => bail!("bench/peers.py needs what nobody knows: {need:?}"),
        };
    }
    if peers.prepare {
        return Ok(());
    }
    measure.arg("--models").arg(models);
    measure.arg("--made").arg(make_model::folder());
    measure.arg("--scratch").arg(scratch);
    measure.arg("--threads").arg(peers.threads.to_string());
    if let Some(rounds) = peers.rounds {
        measure.arg("--rounds").arg(rounds.to_string());
    }
    command::run(&mut measure)
}

/// Builds Kinglet's side; the programs by name.
fn build() -> Result<Vec<(&'static str, PathBuf)>> {
    const EXAMPLES: [&str; 4] =
        ["bench_worker", "bench_language", "bench_training", "read_bandwidth"];
    const PACKAGES: [&str; 3] = ["kinglet", "kinglet-lm", "kinglet-tune"];
    let mut build = command::cargo();
    build.args(["build", "--release"]).args(PACKAGES.iter().flat_map(|name| ["--package", name]));
    build.args(["--bin", "kinglet"]).args(EXAMPLES.iter().flat_map(|name| ["--example", name]));
    command::run(&mut build)?;
    let release = target().join("release");
    let examples = EXAMPLES.map(|name| (name, release.join("examples").join(name)));
    Ok([("kinglet", release.join("kinglet"))].into_iter().chain(examples).collect())
}

/// The program that another engine needs, installed or built when missing: a Python with its packages
/// (llama.cpp's are built, which takes a C++ compiler and a quarter of an hour on two cores), the
/// program of those in Rust, or the folder of programs for aarch64.
fn install(name: &str) -> Result<PathBuf> {
    const RUST: &str = "rust-peers";
    if name == instructions::NAME {
        return instructions::programs(&target().join("bench").join(name));
    }
    if name != RUST {
        return python::environment(name, &bench("engines").join(format!("{name}.txt")));
    }
    let mut build = command::cargo();
    // There, so that cargo finds the flags that are set for it.
    build.args(["build", "--release", "--locked", "--target-dir"]).arg(target().join(RUST));
    command::run(build.current_dir(bench(RUST)))?;
    Ok(target().join(RUST).join("release").join(RUST))
}

/// A path in `bench/`.
pub fn bench(name: &str) -> PathBuf {
    command::root().join("bench").join(Path::new(name))
}

/// Cargo's folder for what it builds.
fn target() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    command::root().join(folder)
}
