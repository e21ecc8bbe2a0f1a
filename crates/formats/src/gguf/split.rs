//! A model in several files: `NAME-00001-of-00003.gguf` and so on.

use std::path::{Path, PathBuf};

use kinglet_graph::GraphError;

use super::read::{File, read};
use super::value::{Metadata, Value};
use super::{ALIGNMENT, Gguf};
use crate::LoadError;
use crate::map::map;

/// The keys of this file's number (from 0), of the number of files, and of the number of tensors in
/// all of them.
pub(super) const KEYS: [&str; 3] = [NO, COUNT, TENSORS];
const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// The most files that their count's sixteen bits hold.
pub(super) const MOST_PARTS: usize = u16::MAX as usize;

/// Which of how many files this metadata is in; `None` where it is alone.
pub(super) fn place(metadata: &Metadata) -> Result<Option<(usize, usize)>, GraphError> {
    let count = metadata.read(COUNT, Value::as_usize)?.unwrap_or(1);
    if count <= 1 {
        return Ok(None);
    }
    let no = metadata.need(NO, Value::as_usize)?;
    if no >= count || count > MOST_PARTS {
        let message = format!("is {no}, of {count} files");
        return Err(GraphError::new(format!("metadata '{NO}'"), message));
    }
    Ok(Some((no, count)))
}

/// The metadata of file `no` of `count`, which hold `tensors` tensors: all of it in the first.
pub(super) fn metadata(whole: &Metadata, no: usize, count: usize, tensors: usize) -> Metadata {
    let mut metadata = whole.clone();
    metadata.retain(|key, _| no == 0 || key == ALIGNMENT);
    metadata.insert(NO, Value::U16(no as u16));
    metadata.insert(COUNT, Value::U16(count as u16));
    metadata.insert(TENSORS, Value::I32(tensors as i32));
    metadata
}

/// The path of file `no` of `count` of the model that is `NAME.gguf` whole.
pub(super) fn part(whole: &Path, no: usize, count: usize) -> PathBuf {
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    whole.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", no + 1))
}

/// The path of the whole model that `path` would be part `no` of `count` of, by its name.
fn whole(path: &Path, no: usize, count: usize) -> Option<PathBuf> {
    let suffix = format!("-{:05}-of-{count:05}.gguf", no + 1);
    let name = path.file_name()?.to_str()?.strip_suffix(&suffix)?;
    Some(path.with_file_name(format!("{name}.gguf")))
}

/// Joins the file at `path`, already read, with the others beside it.
pub(super) fn join(path: &Path, file: File, no: usize, count: usize) -> Result<Gguf, LoadError> {
    let fail = |path: &Path, message: String| {
        LoadError::new(path, GraphError::new(format!("part {} of {count}", no + 1), message))
    };
    let whole = whole(path, no, count).ok_or_else(|| {
        let name = part(Path::new("NAME"), no, count);
        let message = format!("its name must be {}, to find the others by", name.display());
        fail(path, message)
    })?;
    let mut own = Some(file);
    let mut joined: Option<File> = None;
    for i in 0..count {
        let path = part(&whole, i, count);
        let file = match own.take_if(|_| i == no) {
            Some(file) => file,
            None => {
                let error = |e| LoadError::new(&path, e);
                let file = read(&map(&path)?).map_err(error)?;
                if place(&file.metadata).map_err(error)? != Some((i, count)) {
                    let message = format!("its metadata does not say that it is part {}", i + 1);
                    return Err(fail(&path, message));
                }
                file
            }
        };
        let Some(all) = &mut joined else {
            joined = Some(file);
            continue;
        };
        for (name, tensor) in file.tensors {
            if all.tensors.insert(name.clone(), tensor).is_some() {
                return Err(fail(&path, format!("tensor '{name}' is in another part too")));
            }
        }
    }
    let mut all = joined.expect("there is a first part");
    let said = all.metadata.read(TENSORS, Value::as_usize).map_err(|e| LoadError::new(path, e))?;
    if said.is_some_and(|said| said != all.tensors.len()) {
        let (said, found) = (said.unwrap_or_default(), all.tensors.len());
        return Err(fail(path, format!("the parts hold {found} tensors, {said} are announced")));
    }
    all.metadata.retain(|key, _| !KEYS.contains(&key));
    Ok(Gguf { metadata: all.metadata, tensors: all.tensors })
}
