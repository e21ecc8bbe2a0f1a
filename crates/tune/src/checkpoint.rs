//! Checkpoints: files that are there whole or not at all, and who may write them.

use crate::TuneError;
use kinglet_formats::files::Aside;
use kinglet_formats::safetensors::{self, SafeTensors};
use kinglet_graph::Tensor;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// Writes a checkpoint, a safetensors file whose metadata say `about`. One that is there stays until
/// the new one is on the disk: neither a full disk nor a loss of power leaves none.
///
/// # Errors
/// What the system says.
pub fn write(
    path: &Path,
    about: &[(&str, &str)],
    tensors: &[(&str, &Tensor)],
) -> Result<(), TuneError> {
    let mut files = Aside::default();
    let written =
        files.create(path).and_then(|mut file| safetensors::write(&mut file, about, tensors));
    let written = written.and_then(|()| files.finish_synced().map_err(|(_, error)| error));
    written.map_err(|error| {
        TuneError::Work(format!(
            "{}: cannot write the checkpoint: {error}; one that was there before stays",
            path.display()
        ))
    })
}

/// The checkpoint at `path`; `None` where there is none.
///
/// # Errors
/// If it is damaged or can't be read.
pub fn read(path: &Path) -> Result<Option<SafeTensors>, TuneError> {
    match path.exists() {
        true => Ok(Some(SafeTensors::open(path)?)),
        false => Ok(None),
    }
}

/// That one process alone trains into a folder, for as long as this lives or the process does.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `folder`, which must be there.
    ///
    /// # Errors
    /// If another process has it, which is named.
    pub fn take(folder: &Path) -> Result<Lock, TuneError> {
        let path = folder.join("lock");
        let fail =
            |e: std::io::Error| TuneError::Work(format!("{}: cannot take it: {e}", path.display()));
        // Not emptied: it may be another's.
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                let owner = match owner.trim() {
                    "" => "another process".to_string(),
                    owner => owner.to_string(),
                };
                return Err(TuneError::Taken { folder: folder.into(), owner });
            }
            Err(TryLockError::Error(e)) => return Err(fail(e)),
        }
        let owner = format!("process {}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(owner.as_bytes()))
            .map_err(fail)?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_graph::Tensor;

    #[test]
    fn one_process_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        let error = Lock::take(folder.path()).unwrap_err().to_string();
        let owner = format!("process {} is training here now", std::process::id());
        assert!(error.contains(&owner), "{error}");
        drop(lock);
        Lock::take(folder.path()).unwrap();
    }

    #[test]
    fn what_cannot_be_written_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        assert!(read(&path).unwrap().is_none());
        let tensor = Tensor::from_slice(&[2], &[1f32, 2.0]).unwrap();
        write(&path, &[("step", "1")], &[("w", &tensor)]).unwrap();
        // Two of one name are refused while the file is made.
        write(&path, &[("step", "2")], &[("w", &tensor), ("w", &tensor)]).unwrap_err();
        let kept = read(&path).unwrap().unwrap();
        assert_eq!((kept.metadata["step"].as_str(), kept.tensors.len()), ("1", 1));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
