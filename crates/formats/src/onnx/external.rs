//! Weights stored in files beside the model (`TensorProto.external_data`), memory-mapped.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

/// Where a tensor's bytes lie, as `external_data` says it.
#[derive(Debug, PartialEq, Eq)]
pub struct Location<'a> {
    file: &'a str,
    offset: usize,
    length: Option<usize>,
}

impl<'a> Location<'a> {
    /// Reads the key-value pairs. `Err` says what is wrong with them.
    pub fn new(pairs: &[(&'a str, &'a str)]) -> Result<Self, String> {
        let get = |key| pairs.iter().find(|(k, _)| *k == key).map(|&(_, v)| v);
        let number = |key| {
            get(key)
                .map(|v| v.parse().map_err(|_| format!("has external data with a {key} of {v:?}")))
                .transpose()
        };
        Ok(Self {
            file: get("location").ok_or("has external data without a location")?,
            offset: number("offset")?.unwrap_or(0),
            length: number("length")?,
        })
    }
}

/// The files of a model's folder that its weights lie in, each mapped once.
#[derive(Debug)]
pub struct ExternalFiles {
    folder: Option<PathBuf>,
    maps: HashMap<PathBuf, Arc<Mmap>>,
}

impl ExternalFiles {
    /// Files of `folder`; with `None` (a model that is not a file) there are none.
    pub fn new(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Into::into), maps: HashMap::new() }
    }

    /// The mapping, and the range of `size` bytes in it, of a tensor at `location`.
    ///
    /// A location may only name a regular file within the model's folder: neither `..`, nor an
    /// absolute path, nor a link that leads out of it.
    pub fn get(
        &mut self,
        location: &Location<'_>,
        size: usize,
    ) -> Result<(Arc<Mmap>, usize), String> {
        let file = location.file;
        let map = self.map(file)?;
        if location.length.is_some_and(|length| length != size) {
            return Err(format!(
                "has external data of {} bytes where its type and shape need {size}",
                location.length.unwrap_or(0)
            ));
        }
        let end = location.offset.checked_add(size).filter(|&end| end <= map.len());
        end.ok_or_else(|| {
            format!(
                "needs {size} bytes at offset {} of {file:?}, which has {}",
                location.offset,
                map.len()
            )
        })?;
        Ok((map, location.offset))
    }

    fn map(&mut self, name: &str) -> Result<Arc<Mmap>, String> {
        let path = Path::new(name);
        let inside = |c| matches!(c, Component::Normal(_) | Component::CurDir);
        if name.is_empty() || name.contains('\\') || !path.components().all(inside) {
            return Err(format!("has external data outside of the model's folder: {name:?}"));
        }
        let folder = self.folder.as_ref().ok_or_else(|| {
            format!("has external data in {name:?}; load the model from its file to reach it")
        })?;
        let unreadable = |e: std::io::Error| format!("has external data in {name:?}: {e}");
        let root = folder.canonicalize().map_err(unreadable)?;
        let real = root.join(path).canonicalize().map_err(unreadable)?;
        if !real.starts_with(&root) {
            return Err(format!("has external data outside of the model's folder: {name:?}"));
        }
        if let Some(map) = self.maps.get(&real) {
            return Ok(map.clone());
        }
        let file = File::open(&real).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(format!("has external data in {name:?}, which is not a file"));
        }
        // SAFETY: the map is read-only. As with every mapped model, whoever changes the file while
        // it is in use changes the weights; the bytes are only ever read as numbers.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(unreadable)?);
        self.maps.insert(real, map.clone());
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("kinglet-external-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("sub/w.bin"), [0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        folder
    }

    fn get(pairs: &[(&str, &str)], size: usize) -> Result<Vec<u8>, String> {
        let folder = folder();
        let mut files = ExternalFiles::new(Some(&folder));
        let (map, at) = files.get(&Location::new(pairs)?, size)?;
        Ok(map[at..at + size].to_vec())
    }

    #[test]
    fn reads_ranges() {
        let file = ("location", "sub/w.bin");
        assert_eq!(get(&[file, ("offset", "3")], 2), Ok(vec![3, 4]));
        assert_eq!(get(&[file, ("offset", "4"), ("length", "4")], 4), Ok(vec![4, 5, 6, 7]));
        for (wrong, size) in [
            (("offset", "7"), 2),
            (("offset", "18446744073709551615"), 2),
            (("offset", "-1"), 1),
            (("length", "3"), 4),
            (("length", "many"), 4),
        ] {
            assert!(get(&[file, wrong], size).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn stays_inside_the_folder() {
        for outside in ["/etc/hostname", "../w.bin", "sub/../../x", "", "sub\\w.bin", "sub"] {
            let got = get(&[("location", outside)], 1);
            assert!(got.is_err(), "{outside}: {got:?}");
        }
        assert!(get(&[], 1).is_err());
        assert!(ExternalFiles::new(None).map("w.bin").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        let link = folder().join("link");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(std::env::temp_dir(), &link).unwrap();
        let target = std::env::temp_dir().join("kinglet-external-target");
        std::fs::write(&target, [1]).unwrap();
        let got = get(&[("location", "link/kinglet-external-target")], 1);
        assert!(got.unwrap_err().contains("outside"));
        std::fs::remove_file(target).unwrap();
    }
}
