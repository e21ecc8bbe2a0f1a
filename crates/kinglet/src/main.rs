//! The `kinglet` program.

mod program;

use std::process::ExitCode;

use kinglet::Fault;

fn main() -> ExitCode {
    match program::run(program::Program::from_command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            match error.fault() {
                Fault::Work => ExitCode::from(1),
                Fault::Input => ExitCode::from(2),
            }
        }
    }
}
