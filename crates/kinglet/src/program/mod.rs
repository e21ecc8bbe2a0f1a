//! The program's commands.

mod assistant;
mod bench;
mod inspect;
mod language;
mod names;
mod output;
mod pixels;
mod probe;
mod progress;
mod run;
mod svg;
mod tensors;
mod tokenize;
mod tune;

use std::io::{self, Write};
use std::path::Path;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use kinglet::Error;
use kinglet_formats::files;

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
    /// Run a model on text, pictures or tensors, or say a sentence to the built-in assistant
    Run(Box<run::Run>),
    /// Hold a conversation with a language model
    #[command(after_help = CHAT)]
    Chat(Box<language::chat::Chat>),
    /// Measure how well a language model knows a text, or how far two are apart
    #[command(after_help = EVAL)]
    Eval(language::eval::Eval),
    /// Say what a model is: inputs, outputs, ops, weights, work, memory
    Inspect(inspect::Inspect),
    /// Train a language model on your data, or a new one from nothing
    #[command(after_help = TUNE)]
    Tune(Box<tune::Tune>),
    /// Measure how fast models run, layer by layer, against what the device can do
    #[command(after_help = BENCH)]
    Bench(Box<bench::Bench>),
    /// Measure the device: its arithmetic, memory, caches and cores
    #[command(after_help = PROBE)]
    Probe(probe::Probe),
    /// Turn texts into vectors that are near where their meanings are
    Embed(language::embed::Embed),
    /// Turn text into a language model's tokens
    Tokenize(tokenize::Tokenize),
}

impl Program {
    /// What the command line says; ends the program, with a message, where it says nothing that is
    /// understood.
    pub fn from_command_line() -> Program {
        let command = Program::command();
        let matches = command.clone().get_matches();
        let mut program = Program::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if let (Command::Run(run), Some((name, given))) =
            (&mut program.command, matches.subcommand())
            && let Some(command) = command.find_subcommand(name)
        {
            run.remember(command, given);
        }
        program
    }
}

const CHAT: &str = "\
A line is a message; one that ends in \\ goes on in the next, and Alt-Enter breaks lines too.
Ctrl-C stops an answer, Ctrl-D ends the conversation, /help lists what else there is.";

const EVAL: &str = "\
A text is cut into chunks of --context tokens, and the later half of each is looked at,
as llama.cpp does: its numbers can be compared.";

const TUNE: &str = "\
Data are plain text, or JSON lines with one of: \"text\"; \"messages\", of which what the assistant says
is learned; \"say\" and \"call\", a request and the call {\"name\": …, \"arguments\": …} that answers it.
What a training needs to go on is in the folder OUT.tune: checkpoint, log, report.html. The same command
goes on where it was interrupted, and at one thread comes to the same weights, bit for bit.";

const BENCH: &str = "\
The limit of a layer is the longer of two times: its multiply-accumulates at the measured peak, and
its bytes (weights as the file has them, inputs, outputs) at the measured rate of the memory or
cache that holds as much. A device that `kinglet probe` has not measured yet is measured first.";

const PROBE: &str = "\
What is measured is kept for other commands in kinglet/ of the user's folder for caches
($XDG_CACHE_HOME or ~/.cache), or in the folder that KINGLET_CACHE names, a file for each CPU, count
of cores and version of the program.";

/// What every command takes.
#[derive(Args)]
struct Common {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Threads to compute with [default: one for each core, or as many as `kinglet probe` found best]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print nothing but the answer
    #[arg(long, short)]
    quiet: bool,
}

impl Common {
    /// What `--threads` says, or the profile of the device; 0: one for each core.
    fn threads(&self) -> usize {
        self.threads.map_or_else(probe::threads, usize::from)
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
        Command::Chat(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Tune(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Probe(command) => command.run(),
        Command::Embed(command) => command.run(),
        Command::Tokenize(command) => command.run(),
    }
}

/// Prints the answer. A reader that has gone away, such as `head`, is no failure.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_else(cannot_write)
}

/// What it means that the answer can't be written: nothing where its reader has gone away.
fn cannot_write(error: io::Error) -> Result<(), Error> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Error::work(format!("cannot write the answer: {error}"))),
    }
}

/// That a file that was asked for can't be written: for its place, or in the course of the work.
fn cannot_write_file(path: &Path, what: &str, error: &io::Error) -> Error {
    let message = format!("{}: cannot write {what}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename => Error::input(message),
        _ => Error::work(message),
    }
}

fn print_json(document: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(document);
    print(&(text.map_err(|e| Error::work(format!("cannot write JSON: {e}")))? + "\n"))
}
