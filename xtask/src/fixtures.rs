//! The ONNX test suite, written out as files for the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{cache, command, python};

/// The variable by which the tests find the suite.
pub const VARIABLE: &str = "KINGLET_ONNX_SUITE";

const SCRIPT: &str = include_str!("../python/onnx_suite.py");

/// Writes the suite where it is missing and prints its folder.
pub fn run() -> Result<()> {
    println!("{VARIABLE}={}", suite()?.display());
    Ok(())
}

/// The folder of the suite, written when missing.
pub fn suite() -> Result<PathBuf> {
    let write = |folder: &Path| {
        let python = python::interpreter()?;
        println!("setup: ONNX test suite into {}", folder.display());
        command::run(Command::new(python).arg(python::script("onnx_suite.py")).arg(folder))
    };
    let name = format!("onnx-suite-{}", python::pinned("onnx"));
    cache::folder(&name, &cache::fingerprint(SCRIPT), write)
}
