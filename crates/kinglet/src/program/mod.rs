//! The program's commands.

mod files;
mod inspect;
mod names;
mod output;
mod run;
mod svg;
mod tensors;

use std::io::{self, Write};

use clap::{Args, Parser, Subcommand};
use kinglet::Error;

/// On-device AI: runs the model files you already have.
#[derive(Parser)]
#[command(name = "kinglet", version)]
#[command(after_help = "Exit status: 0 done, 1 the work failed, 2 bad usage or bad input.")]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a model on pictures or tensors
    Run(run::Run),
    /// Say what a model is: inputs, outputs, ops, weights, work, memory
    Inspect(inspect::Inspect),
}

/// What every command takes.
#[derive(Args)]
struct Common {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print nothing but the answer
    #[arg(long, short)]
    quiet: bool,
}

impl Common {
    fn threads(&self) -> usize {
        self.threads.map_or(0, usize::from)
    }

    /// Says something beside the answer.
    fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }
}

/// Does what the command line asks.
pub fn run(program: Program) -> Result<(), Error> {
    match program.command {
        Command::Run(command) => command.run(),
        Command::Inspect(command) => command.run(),
    }
}

/// Prints the answer. A reader that has gone away, such as `head`, is no failure.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::work(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

fn print_json(document: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(document);
    print(&(text.map_err(|e| Error::work(format!("cannot write JSON: {e}")))? + "\n"))
}
