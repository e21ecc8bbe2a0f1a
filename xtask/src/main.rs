//! The project's chores: `cargo xtask --help` lists them. One file a chore.

mod aarch64;
mod assistant;
mod bench;
mod cache;
mod command;
mod fixtures;
mod instructions;
mod make_model;
mod models;
mod nextest;
mod python;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run every check that a change must pass, setting up what is missing
    Test(test::Arguments),
    /// Set up what the tests need besides Rust (`test` does it by itself)
    Setup(setup::Arguments),
    /// Write out the ONNX test suite and print its folder
    Fixtures,
    /// Write a language model of a real shape with random weights
    MakeModel(make_model::Arguments),
    /// Measure against other engines
    Bench(bench::Arguments),
    /// Make the data of the built-in assistant, train it, or score its answers
    Assistant(assistant::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Test(arguments) => test::run(&arguments),
        Chore::Setup(arguments) => setup::run(&arguments),
        Chore::Fixtures => fixtures::run(),
        Chore::MakeModel(arguments) => make_model::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Assistant(arguments) => assistant::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
