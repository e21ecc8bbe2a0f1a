//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Writes a file as [`Aside`] does.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut files = Aside::default();
    files.create(path)?.write_all(content)?;
    files.finish().map_err(|(_, error)| error)
}

/// Files in the making, under names of their own in the folders where they are to be, and moved into
/// place when all are written: a full disk or an interruption leaves what was there before, and of
/// several who write the same file at once one has written all of it. Those that are not moved into
/// place are removed, unless the process is killed: then a hidden `.NAME.….part` is left.
///
/// What is no plain file (a device, a pipe) is written to as it is.
#[derive(Debug, Default)]
pub struct Aside {
    files: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    aside: PathBuf,
    place: PathBuf,
}

impl Aside {
    /// A file that will be at `path`.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&mut self, path: &Path) -> io::Result<File> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // Through a link, the file that it leads to is replaced and not the link.
        let place = path.canonicalize().unwrap_or_else(|_| path.into());
        if fs::metadata(&place).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            return File::options().write(true).open(&place);
        }
        let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let short: String = name.chars().take(60).collect();
        let (process, count) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let aside = place.with_file_name(format!(".{short}.{process}.{count}.part"));
        let file = File::create(&aside)?;
        self.files.push(Made { aside, place });
        Ok(file)
    }

    /// As [`Aside::finish`], and returns once they would outlive a loss of power too: the content is
    /// on the disk before a file takes its place, and the place before this returns.
    ///
    /// # Errors
    /// What the system says, and of which place.
    pub fn finish_synced(self) -> Result<(), (PathBuf, io::Error)> {
        let of = |place: &Path, result: io::Result<()>| result.map_err(|e| (place.into(), e));
        for made in &self.files {
            of(&made.place, File::open(&made.aside).and_then(|file| file.sync_all()))?;
        }
        let places: Vec<PathBuf> = self.files.iter().map(|made| made.place.clone()).collect();
        self.finish()?;
        for place in places {
            // Only some systems let folders be opened; the others have no need of it.
            let folder = place.parent().filter(|p| !p.as_os_str().is_empty());
            if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
                of(&place, folder.sync_all())?;
            }
        }
        Ok(())
    }

    /// Moves all into place.
    ///
    /// # Errors
    /// What the system says, and of which place.
    pub fn finish(mut self) -> Result<(), (PathBuf, io::Error)> {
        while let Some(made) = self.files.first() {
            if let Err(error) = fs::rename(&made.aside, &made.place) {
                return Err((made.place.clone(), error));
            }
            self.files.remove(0);
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        for made in &self.files {
            // Nothing more can be done where even this fails.
            let _ = fs::remove_file(&made.aside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("kinglet-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn of_many_who_write_at_once_one_has_written_all() {
        let folder = folder("at-once");
        let path = folder.join("file");
        write(&path, &[0; 50_000]).unwrap();
        std::thread::scope(|scope| {
            for writer in 1..5 {
                let path = &path;
                scope.spawn(move || {
                    (0..50).for_each(|_| write(path, &vec![writer; 50_000]).unwrap());
                });
            }
            for _ in 0..200 {
                let found = fs::read(&path).unwrap();
                assert_eq!(found.len(), 50_000);
                assert!(found.iter().all(|byte| *byte == found[0]));
            }
        });
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let folder = folder("unfinished");
        let mut files = Aside::default();
        files.create(&folder.join("a")).unwrap().write_all(b"a").unwrap();
        fs::create_dir(folder.join("b")).unwrap();
        files.create(&folder.join("b")).unwrap();
        files.create(&folder.join("c")).unwrap();
        let (place, _) = files.finish().unwrap_err();
        assert_eq!(place.file_name().unwrap(), "b");
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
