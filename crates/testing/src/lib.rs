//! What the tests of every crate share: the folder of test models, the outputs expected of them, and
//! seeded numbers.
//!
//! The models are not part of the repository. `KINGLET_TEST_MODELS` names their folder; without it,
//! `../shared/models` beside the repository is used. Where the folder is absent, a test that needs it
//! says what it skips; under `CI=true` it fails instead.

mod damage;
mod golden;
mod memory;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

pub use damage::{Layout, Specimen};
pub use golden::{Case, golden};
pub use kinglet_npy::{Array, Element, Type};
pub use memory::Counting;

/// The folder of test models; `None`, said on stderr, where it is absent.
///
/// # Panics
/// Under `CI=true` where it is absent.
pub fn models() -> Option<PathBuf> {
    let folder = match std::env::var_os("KINGLET_TEST_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models"),
    };
    if folder.is_dir() {
        return Some(folder);
    }
    let folder = folder.display();
    skip(&format!("no test models in {folder} (KINGLET_TEST_MODELS names their folder)"));
    None
}

/// The folder of ONNX's own test suite, which `KINGLET_ONNX_SUITE` names: `KIND/CASE/model.onnx` with
/// `test_data_set_N/input_K.pb` and `output_K.pb`. `None`, said on stderr, where it is absent; `cargo
/// xtask fixtures` writes it and prints its place.
///
/// # Panics
/// Under `CI=true` where it is absent.
pub fn onnx_suite() -> Option<PathBuf> {
    let folder = std::env::var_os("KINGLET_ONNX_SUITE").map(PathBuf::from);
    if folder.as_ref().is_some_and(|folder| folder.is_dir()) {
        return folder;
    }
    skip(
        "no ONNX test suite (KINGLET_ONNX_SUITE names its folder, cargo xtask fixtures writes it)",
    );
    None
}

/// The folder of the sentence encoder all-MiniLM-L6-v2, as Hugging Face keeps it: `KINGLET_MINILM` or,
/// where `cargo xtask setup` puts it, the cache. `None`, said on stderr, where it is absent.
///
/// # Panics
/// Under `CI=true` where it is absent.
pub fn minilm() -> Option<PathBuf> {
    let cache = || match std::env::var_os("KINGLET_CACHE") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/kinglet")),
    };
    let folder = std::env::var_os("KINGLET_MINILM").map(PathBuf::from);
    let folder = folder.or_else(|| Some(cache()?.join("minilm")));
    if folder.as_ref().is_some_and(|folder| folder.join("model.safetensors").exists()) {
        return folder;
    }
    skip("no MiniLM (cargo xtask setup downloads it, KINGLET_MINILM names its folder)");
    None
}

/// Says on stderr that this test is skipped, and why.
///
/// # Panics
/// Under `CI=true`: there everything runs.
fn skip(why: &str) {
    let test = std::thread::current();
    let message = format!("{}: {why}", test.name().unwrap_or("a test"));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    eprintln!("SKIPPED {message}");
}

/// A file below [`models`], such as `vision/deeplabv3_mnv2_pascal_quant.tflite`.
///
/// # Panics
/// If the folder is there and the file is not: a test that names a wrong file must not pass.
pub fn model(path: &str) -> Option<PathBuf> {
    let file = models()?.join(path);
    assert!(file.exists(), "no {path} among the test models");
    Some(file)
}

/// A file of the repository's own fixtures, such as `onnx/convnet.onnx`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// Every array of an `.npz` file.
///
/// # Panics
/// If it cannot be read.
pub fn npz(path: &Path) -> Vec<(String, Array)> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    kinglet_npy::read_npz(BufReader::new(file), 1 << 30)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// TFLite models of one operator or few, `NAME.model`, and what LiteRT's reference kernels make of
/// inputs in run K, `NAME/K.inI` and `NAME/K.outI`: `crates/formats/tests/tflite/make.py` records
/// them.
///
/// # Panics
/// If they cannot be read.
pub fn tflite_cases() -> Vec<(String, Array)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/tflite/ops.npz");
    // An archive in an archive.
    let inner = npz(&path).remove(0).1.data;
    kinglet_npy::read_npz(std::io::Cursor::new(inner), 1 << 26).expect("ops.npz is whole")
}

/// Seeded numbers: the same on every machine (SplitMix64).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Numbers that follow from `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end`, without `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end.max(1) as u64) as usize
    }

    /// A number from `low` to `high`.
    pub fn float(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1u32 << 24) as f32)
    }

    /// `len` numbers from `low` to `high`.
    pub fn floats(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| self.float(low, high)).collect()
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.bits() as u8).collect()
    }

    /// `len` random signed bytes.
    pub fn signed_bytes(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| self.bits() as i8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_range_and_repeat() {
        let mut rng = Rng::new(7);
        assert!(rng.floats(1000, -2.0, 3.0).iter().all(|v| (-2.0..=3.0).contains(v)));
        assert!((0..1000).all(|_| rng.below(3) < 3));
        assert_eq!(Rng::new(1).bytes(9), Rng::new(1).bytes(9));
    }
}
