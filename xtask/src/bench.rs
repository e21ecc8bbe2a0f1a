//! Measurements against other engines; `bench/` holds how.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, models, python};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
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
    let Bench::Peers { threads, rounds, runs } = arguments.bench;
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
