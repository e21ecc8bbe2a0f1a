//! Folders of pictures, a folder for each class.

use super::labels::Classes;
use super::{Goal, Sample, Samples, Target};
use crate::TuneError;
use crate::data::bad::{Bad, LeftOut};
use kinglet_graph::{Dims, Tensor};
use kinglet_lm::Fnv;
use kinglet_tasks::{Picture, Pixels, Preprocess};
use std::path::{Path, PathBuf};

/// Endings of pictures' names.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "gif", "webp"];

/// Pictures in `FOLDER/CLASS/*.jpg`, decoded each time that they are needed.
#[derive(Debug)]
pub struct Images {
    files: Vec<(PathBuf, u32)>,
    classes: Classes,
    preprocess: Preprocess,
    dims: Dims,
    bad: Vec<Bad>,
    fingerprint: String,
}

impl Images {
    /// The pictures in `folders`, made as `preprocess` says into tensors of `dims`. Files that are no
    /// pictures are left out, at most `most_bad` of them. `hear` is told how many of how many were read.
    ///
    /// # Errors
    /// If a folder can't be read or has no folders of pictures, or more files are none.
    pub fn open(
        folders: &[PathBuf],
        preprocess: Preprocess,
        dims: Dims,
        most_bad: usize,
        hear: &mut dyn FnMut(u64, u64),
    ) -> Result<Images, TuneError> {
        let mut found = Vec::new();
        for folder in folders {
            for class in listed(folder)?.into_iter().filter(|path| path.is_dir()) {
                let name = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let files = listed(&class)?.into_iter().filter(|path| is_picture(path));
                found.extend(files.map(|path| (path, name.clone())));
            }
        }
        let classes = Classes::of(found.iter().map(|(_, name)| name.as_str()));
        let (mut files, mut hash) = (Vec::new(), Fnv::new());
        let mut left_out = LeftOut::at_most(most_bad);
        let all = found.len() as u64;
        for (i, (path, name)) in found.into_iter().enumerate() {
            hear(i as u64, all);
            let bytes = std::fs::read(&path).map_err(|e| {
                TuneError::Input(format!("{}: cannot read it: {e}", path.display()))
            })?;
            if let Err(e) = Picture::decode(&bytes) {
                left_out.add(Bad { file: path, line: 0, reason: e.to_string() })?;
                continue;
            }
            hash.take(name.as_bytes());
            hash.take(&bytes);
            let class = classes.number(&name).unwrap_or(0);
            files.push((path, class));
        }
        if files.is_empty() {
            let place: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
            return Err(TuneError::Input(format!(
                "{}: no pictures in it: they are looked for as CLASS/NAME.png (.jpg, .bmp, .gif, .webp)",
                place.join(", ")
            )));
        }
        let (bad, fingerprint) = (left_out.bad, hash.text());
        Ok(Images { files, classes, preprocess, dims, bad, fingerprint })
    }

    /// The files that were left out.
    pub fn bad(&self) -> &[Bad] {
        &self.bad
    }
}

/// What is in a folder, by name.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, TuneError> {
    let fail = |e: std::io::Error| {
        TuneError::Input(format!("{}: cannot read the folder: {e}", folder.display()))
    };
    let entries = std::fs::read_dir(folder).map_err(fail)?;
    let mut paths =
        entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(fail)?;
    paths.sort();
    Ok(paths)
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

impl Samples for Images {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn goal(&self) -> Goal {
        Goal::Classes(self.classes.count)
    }

    fn names(&self) -> &[String] {
        &self.classes.names
    }

    /// Varied: mirrored or not, an even chance.
    fn sample(&self, i: usize, chance: Option<u64>) -> Result<Sample, TuneError> {
        let (path, class) = &self.files[i];
        let mut picture = Picture::open(path).map_err(|e| {
            let m = "the file is not as it was when the training began";
            TuneError::Work(format!("{}: {m}: {e}", path.display()))
        })?;
        if chance.is_some_and(|chance| chance & 1 == 1) {
            picture = picture.mirrored();
        }
        let (pixels, _) = self.preprocess.apply(&picture);
        let input = match pixels {
            Pixels::F32(values) => Tensor::from_slice(&self.dims, &values)?,
            Pixels::U8(values) => Tensor::from_slice(&self.dims, &values)?,
            Pixels::I8(values) => Tensor::from_slice(&self.dims, &values)?,
        };
        Ok(Sample { inputs: vec![input], target: Target::Class(*class) })
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}
