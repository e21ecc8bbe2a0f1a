//! Measurements against other engines; `bench/` holds how.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, make_model, models, python};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// Language models against llama.cpp, interleaved; writes bench/LANGUAGE.md
    Language {
        /// Models, as `make-model` names them
        #[arg(long, value_delimiter = ',', default_value = "smollm-135m,qwen2.5-0.5b,llama-1b")]
        models: Vec<String>,
        /// Encodings of their weights
        #[arg(long, value_delimiter = ',', default_value = "q4_0,q8_0,q4_k,f16")]
        encodings: Vec<String>,
        /// Threads for both engines
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Measurements of each
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Kinglet against LiteRT and ONNX Runtime, interleaved; writes bench/RESULTS.md
    Peers {
        /// Threads for every engine
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Bursts of each engine
        #[arg(long, default_value_t = 40)]
        rounds: usize,
        /// Timed runs in a burst
        #[arg(long, default_value_t = 20)]
        runs: usize,
    },
}

pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.bench {
        Bench::Peers { threads, rounds, runs } => peers(*threads, *rounds, *runs),
        Bench::Language { models, encodings, threads, rounds } => {
            language(models, encodings, *threads, *rounds)
        }
    }
}

fn language(models: &[String], encodings: &[String], threads: usize, rounds: usize) -> Result<()> {
    let python = python::llama()?;
    let mut build = command::cargo();
    build.args(["build", "--release", "--package", "kinglet-lm", "--example", "bench_language"]);
    command::run(&mut build)?;
    let mut bench = Command::new(python);
    bench.arg(command::root().join("bench/language.py"));
    bench.arg("--worker").arg(target().join("release/examples/bench_language"));
    bench.args(["--threads", &threads.to_string(), "--rounds", &rounds.to_string()]);
    for model in models {
        for encoding in encodings {
            bench.arg(make_model::made(model, encoding)?);
        }
    }
    command::run(&mut bench)
}

fn peers(threads: usize, rounds: usize, runs: usize) -> Result<()> {
    let models = models::folder().with_context(|| {
        format!("the models to measure are missing: {} names their folder", models::VARIABLE)
    })?;
    let python = python::interpreter()?;
    let mut build = command::cargo();
    build.args(["build", "--release", "--package", "kinglet"]);
    command::run(build.args(["--bin", "kinglet", "--example", "bench_worker"]))?;

    let release = target().join("release");
    let scratch = target().join("bench");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let mut peers = Command::new(python);
    peers.arg(command::root().join("bench/peers.py"));
    peers.arg("--worker").arg(release.join("examples/bench_worker"));
    peers.arg("--kinglet").arg(release.join("kinglet"));
    peers.arg("--models").arg(models);
    peers.arg("--scratch").arg(scratch);
    for (name, value) in [("--threads", threads), ("--rounds", rounds), ("--runs", runs)] {
        peers.arg(name).arg(value.to_string());
    }
    command::run(&mut peers)
}

/// Cargo's folder for what it builds.
fn target() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    command::root().join(folder)
}
