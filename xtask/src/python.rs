//! Pythons with pinned packages, in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, command};

const REQUIREMENTS: &str = include_str!("../python/requirements.txt");

/// The interpreter with the packages of `requirements.txt`, which is made when missing.
pub fn interpreter() -> Result<PathBuf> {
    environment("python", &script("requirements.txt"))
}

/// The interpreter `NAME` with the packages that a file lists, all that they need included; made when
/// missing.
pub fn environment(name: &str, requirements: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(requirements)
        .with_context(|| format!("reading {}", requirements.display()))?;
    let name = format!("{name}-{}", cache::fingerprint(&text));
    let folder = cache::folder(&name, &text, |folder| create_environment(folder, requirements))?;
    Ok(folder.join("bin/python"))
}

/// The version that `requirements.txt` pins for a package.
pub fn pinned(package: &str) -> &'static str {
    let pin = |line: &'static str| line.strip_prefix(package)?.strip_prefix("==");
    REQUIREMENTS.lines().find_map(pin).expect("the package is pinned")
}

/// Path of a file in `xtask/python`.
pub fn script(name: &str) -> PathBuf {
    command::root().join("xtask/python").join(name)
}

fn create_environment(folder: &Path, requirements: &Path) -> Result<()> {
    println!("setup: Python packages into {}", folder.display());
    let python = system_python()?;
    let create = || command::output(Command::new(python).args(["-m", "venv"]).arg(folder));
    if let Err(error) = create() {
        // Debian ships Python's venv module apart.
        if !command::exists("apt-get") {
            return Err(error.context("creating a Python virtual environment"));
        }
        let version = command::output(Command::new(python).arg("--version"))?;
        let minor = version.trim().rsplit_once('.').map_or("", |(minor, _)| minor);
        let package = format!("{}-venv", minor.to_lowercase().replace(' ', ""));
        let mut install = Command::new("apt-get");
        install.args(["install", "-y", "-qq", "--no-install-recommends", &package]);
        command::run_as_root(&mut install, "installing Python's venv module")?;
        create()?;
    }
    let mut pip = Command::new(folder.join("bin/python"));
    // What a package needs stands in the list too, or it can do without.
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    command::run(pip.arg("-r").arg(requirements))
}

/// A Python of at least 3.11, which the pinned packages need.
fn system_python() -> Result<&'static str> {
    const RECENT: &str = "import sys; sys.exit(sys.version_info < (3, 11))";
    let is_recent = |name: &&str| command::output(Command::new(name).args(["-c", RECENT])).is_ok();
    match ["python3.11", "python3", "python3.12", "python3.13"].into_iter().find(is_recent) {
        Some(name) => Ok(name),
        None => bail!("no Python of at least 3.11 found: install one (apt-get install python3)"),
    }
}
