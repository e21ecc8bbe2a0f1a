//! cargo-nextest, the test runner: the one on the path, or one built into the cache.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{cache, command};

/// Built where the machine has none; a version that the project's Rust can build.
const VERSION: &str = "0.9.143";

/// `cargo nextest`, ready for its arguments, in the repository's root.
pub fn command() -> Result<Command> {
    let mut found = command::cargo();
    found.arg("nextest");
    if command::output(command::cargo().args(["nextest", "--version"])).is_ok() {
        return Ok(found);
    }
    let folder = cache::folder("nextest", VERSION, install)?;
    let mut built = Command::new(folder.join("bin/cargo-nextest"));
    built.arg("nextest").current_dir(command::root());
    if let Some(cargo) = std::env::var_os("CARGO") {
        built.env("CARGO", cargo);
    }
    Ok(built)
}

fn install(folder: &Path) -> Result<()> {
    println!("setup: cargo-nextest {VERSION} into {} (takes minutes)", folder.display());
    let mut install = command::cargo();
    // The runner's own speed does not matter, the time to build it does.
    install.args(["install", "--quiet", "--locked", "--debug", "cargo-nextest"]);
    command::run(install.args(["--version", VERSION, "--root"]).arg(folder))
}
