//! The cache folder: what the chores build or download once and keep between runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache folder: `$KINGLET_CACHE`, or `~/.cache/kinglet`. It is created when missing.
pub fn root() -> Result<PathBuf> {
    let folder = match std::env::var_os("KINGLET_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = std::env::var_os("HOME").context("set HOME or KINGLET_CACHE")?;
            Path::new(&home).join(".cache/kinglet")
        }
    };
    let create = || -> std::io::Result<PathBuf> {
        fs::create_dir_all(&folder)?;
        folder.canonicalize()
    };
    create().with_context(|| format!("creating the cache folder {}", folder.display()))
}

/// The folder `name` of the cache, filled by `fill` once.
///
/// `stamp` says what it was filled from: with another stamp it is filled anew. `fill` gets the
/// empty folder at its final place; if it fails or is interrupted, the next call starts over. Two
/// processes that ask for the same folder wait for each other.
pub fn folder(name: &str, stamp: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let root = root()?;
    let lock = root.join(format!("{name}.lock"));
    let lock_file = File::create(&lock).with_context(|| lock.display().to_string())?;
    lock_file.lock().with_context(|| format!("locking {}", lock.display()))?;

    let folder = root.join(name);
    let done = root.join(format!("{name}.done"));
    if fs::read_to_string(&done).is_ok_and(|found| found == stamp) && folder.is_dir() {
        return Ok(folder);
    }
    let prepare = || -> std::io::Result<()> {
        remove_if_there(fs::remove_file(&done))?;
        remove_if_there(fs::remove_dir_all(&folder))?;
        fs::create_dir(&folder)
    };
    prepare().with_context(|| folder.display().to_string())?;
    fill(&folder)?;
    fs::write(&done, stamp).with_context(|| done.display().to_string())?;
    Ok(folder)
}

/// A short name for a text: equal texts have equal names.
pub fn fingerprint(text: &str) -> String {
    format!("{:016x}", hash(text))
}

/// FNV-1a.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn remove_if_there(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
