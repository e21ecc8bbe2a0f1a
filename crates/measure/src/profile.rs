//! What was measured of a device, and where it is kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kinglet_formats::files;
use kinglet_kernels::peak::Arithmetic;
use serde::{Deserialize, Serialize};

use crate::system::{Cache, Identity, Kind, System};

/// The environment variable that names the folder where profiles are kept.
pub const CACHE_VARIABLE: &str = "KINGLET_CACHE";

/// The layout of the file.
const VERSION: u32 = 2;

/// A rate that was measured several times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The highest: what the device does where nothing disturbs it.
    pub best: f64,
    /// The middle one.
    pub median: f64,
}

/// Arithmetic of one instruction set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeakRate {
    /// As `KINGLET_ISA` takes it.
    pub isa: String,
    /// `int8`, `f32`, `bf16`.
    pub arithmetic: String,
    /// Threads at once, each on a core of its own.
    pub threads: usize,
    /// 10⁹ multiply-accumulates a second.
    pub gmac_s: Rate,
}

/// Reading memory in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadRate {
    /// Threads at once.
    pub threads: usize,
    /// Bytes that all of them together read over and over.
    pub bytes: usize,
    /// 10⁹ bytes a second.
    pub gb_s: Rate,
}

/// One core by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoreRate {
    /// Its number.
    pub cpu: usize,
    /// 8-bit arithmetic of the best instruction set, 10⁹ multiply-accumulates a second.
    pub int8_gmac_s: Rate,
    /// Single-precision arithmetic, likewise.
    pub f32_gmac_s: Rate,
    /// Memory read in order, 10⁹ bytes a second.
    pub read_gb_s: Rate,
}

/// A 3 × 3 convolution of floats by its two ways, with one thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvolutionRate {
    /// Channels in and out.
    pub channels: usize,
    /// By products over the taps, 10⁹ multiply-accumulates a second.
    pub taps_gmac_s: Rate,
    /// By Winograd's transform, 10⁹ of the multiply-accumulates that it stands for a second.
    pub winograd_gmac_s: Rate,
}

/// What a device can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub(crate) version: u32,
    /// The version of the program that measured.
    pub program: String,
    /// The CPU's name.
    pub model: String,
    /// The architecture.
    pub arch: String,
    /// Cores that may be used at once.
    pub usable: usize,
    /// The cores by kind.
    pub kinds: Vec<Kind>,
    /// Each core, pinned; none where the system pins no threads.
    pub cores: Vec<CoreRate>,
    /// Data caches.
    pub caches: Vec<Cache>,
    /// Whether the caches were measured, as the system tells none.
    pub caches_measured: bool,
    /// Arithmetic of each instruction set, with one thread and with all.
    pub peaks: Vec<PeakRate>,
    /// Memory well beyond the last cache, by threads.
    pub memory: Vec<ReadRate>,
    /// By how much is read over and over, with one thread and with all.
    pub reads: Vec<ReadRate>,
    /// Convolutions of few and of many channels, by the best instruction set.
    pub convolutions: Vec<ConvolutionRate>,
    /// Seconds that measuring took.
    pub seconds: f64,
}

impl Profile {
    /// Of a device of which nothing is measured yet.
    pub(crate) fn unmeasured(system: &System) -> Profile {
        Profile {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            model: system.identity.model.clone(),
            arch: std::env::consts::ARCH.into(),
            usable: system.identity.usable,
            kinds: system.kinds.clone(),
            cores: Vec::new(),
            caches: system.caches.clone(),
            caches_measured: false,
            peaks: Vec::new(),
            memory: Vec::new(),
            reads: Vec::new(),
            convolutions: Vec::new(),
            seconds: 0.0,
        }
    }

    /// The most arithmetic of an instruction set with so many threads, 10⁹ multiply-accumulates a
    /// second: between one thread and all in proportion, but no more than all reach.
    pub fn peak(&self, isa: &str, arithmetic: Arithmetic, threads: usize) -> Option<f64> {
        let of = |peak: &&PeakRate| peak.isa == isa && peak.arithmetic == arithmetic.name();
        let rates = self.peaks.iter().filter(of).map(|peak| (peak.threads, peak.gmac_s.best));
        at_threads(rates, threads)
    }

    /// The most that so many threads read a second of `bytes` that they read over and over, 10⁹
    /// bytes: the highest rate that was measured with as many bytes or more.
    pub fn bandwidth(&self, bytes: usize, threads: usize) -> Option<f64> {
        let all = || self.reads.iter().chain(&self.memory);
        // Sizes go in steps; the one just below counts, as it may be all that fits in a cache.
        let below = all().map(|read| read.bytes).filter(|b| *b <= bytes).max().unwrap_or(0);
        let mut best: Vec<(usize, f64)> = Vec::new();
        for read in all().filter(|read| read.bytes >= below) {
            match best.iter_mut().find(|(threads, _)| *threads == read.threads) {
                Some((_, rate)) => *rate = rate.max(read.gb_s.best),
                None => best.push((read.threads, read.gb_s.best)),
            }
        }
        at_threads(best.into_iter(), threads)
    }

    /// The rate of memory with so many threads, 10⁹ bytes a second.
    pub fn memory_bandwidth(&self, threads: usize) -> Option<f64> {
        at_threads(self.memory.iter().map(|read| (read.threads, read.gb_s.best)), threads)
    }
}

/// A rate with `threads` threads, of those measured with other counts: no more than in proportion
/// to the next lower count, and no more than the next higher one's or the highest.
fn at_threads(rates: impl Iterator<Item = (usize, f64)>, threads: usize) -> Option<f64> {
    let mut rates: Vec<(usize, f64)> = rates.collect();
    rates.sort_by_key(|(count, _)| *count);
    let above = rates.iter().find(|(count, _)| *count >= threads);
    let below = rates.iter().rev().find(|(count, _)| *count <= threads);
    match (below, above) {
        (Some((count, low)), Some((_, high))) => {
            Some((low * threads as f64 / (*count).max(1) as f64).min(*high).max(*low))
        }
        (one, other) => one.or(other).map(|(_, rate)| *rate),
    }
}

/// What a stored profile is.
#[derive(Debug)]
pub enum Stored {
    /// The device's.
    Found(Box<Profile>),
    /// There is none.
    Missing,
    /// There is a file, of no use: why.
    Damaged(String),
}

/// The folder where profiles are kept: what [`CACHE_VARIABLE`] names, or the user's folder for
/// caches. `None` where the system has no such folder.
pub fn folder() -> Option<PathBuf> {
    let named = |variable: &str| {
        std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    };
    let home = |below: &str| named("HOME").map(|home| home.join(below));
    let caches = || match std::env::consts::OS {
        "windows" => named("LOCALAPPDATA"),
        "macos" | "ios" => home("Library/Caches"),
        // XDG Base Directory Specification: a relative path is to be ignored.
        _ => named("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| home(".cache")),
    };
    named(CACHE_VARIABLE).or_else(|| Some(caches()?.join("kinglet")))
}

/// Where a device's profile is kept in `folder`: by its CPU, its cores and this program's version.
pub fn place(folder: &Path, device: &Identity) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = device.model.chars().take(60).map(plain).collect();
    let (name, cores, version) = (name.trim_matches('-'), device.usable, env!("CARGO_PKG_VERSION"));
    folder.join(format!("profile-{name}-{cores}-{version}.json"))
}

/// The profile at `path`, if it is one of `device` by this program.
pub fn load(path: &Path, device: &Identity) -> Stored {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Stored::Missing,
        Err(error) => return Stored::Damaged(error.to_string()),
    };
    let profile: Profile = match serde_json::from_str(&text) {
        Ok(profile) => profile,
        Err(error) => return Stored::Damaged(error.to_string()),
    };
    let fits = (profile.version, profile.program.as_str(), profile.usable, &profile.model)
        == (VERSION, env!("CARGO_PKG_VERSION"), device.usable, &device.model);
    match fits {
        true if profile.makes_sense() => Stored::Found(Box::new(profile)),
        true => Stored::Damaged("a rate in it is no positive number".into()),
        false => Stored::Damaged("it is of another device or program".into()),
    }
}

/// Keeps `profile` at `path`.
///
/// # Errors
/// What the system says.
pub fn store(path: &Path, profile: &Profile) -> io::Result<()> {
    let text = serde_json::to_string_pretty(profile).map_err(io::Error::other)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    files::write(path, (text + "\n").as_bytes())
}

impl Profile {
    /// Whether rates are there and are positive numbers.
    fn makes_sense(&self) -> bool {
        let cores = self.cores.iter().flat_map(|c| [c.int8_gmac_s, c.f32_gmac_s, c.read_gb_s]);
        let reads = self.memory.iter().chain(&self.reads).map(|read| read.gb_s);
        let convolutions =
            self.convolutions.iter().flat_map(|c| [c.taps_gmac_s, c.winograd_gmac_s]);
        let peaks = self.peaks.iter().map(|peak| peak.gmac_s);
        let mut rates = peaks.chain(reads).chain(cores).chain(convolutions);
        !self.peaks.is_empty()
            && !self.memory.is_empty()
            && rates.all(|rate| [rate.best, rate.median].iter().all(|r| r.is_finite() && *r > 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{profile, system};

    #[test]
    fn what_is_stored_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (device, profile) = (system().identity, profile());
        let path = place(&folder.path().join("new"), &device);
        assert!(matches!(load(&path, &device), Stored::Missing));
        store(&path, &profile).unwrap();
        let Stored::Found(found) = load(&path, &device) else { panic!("not found") };
        assert_eq!(*found, profile);
        // Of another machine that has the same name for a file.
        let other = Identity { model: "Made-up CPU!".into(), ..device.clone() };
        assert_eq!(place(folder.path(), &other), place(folder.path(), &device));
        let Stored::Damaged(why) = load(&path, &other) else { panic!("taken for its own") };
        assert!(why.contains("another device"), "{why}");
    }

    #[test]
    fn damaged_profiles_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let (device, profile) = (system().identity, profile());
        let path = place(folder.path(), &device);
        let text = serde_json::to_string(&profile).unwrap();
        let worse = [
            String::new(),
            "[1, 2]".into(),
            text[..text.len() / 2].into(),
            text.replace("\"version\":2", "\"version\":99"),
            text.replace("\"best\":40.0", "\"best\":-40.0"),
            text.replace("\"best\":40.0", "\"best\":null"),
            text.replace("\"best\":40.0", "\"best\":1e999"),
        ];
        for text in worse {
            fs::write(&path, &text).unwrap();
            assert!(matches!(load(&path, &device), Stored::Damaged(_)), "{text}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(load(&path, &device), Stored::Damaged(_)));
    }

    #[test]
    fn rates_between_measured_counts() {
        let of = |threads| at_threads([(1, 10.0), (2, 18.0), (8, 40.0)].into_iter(), threads);
        assert_eq!(of(1), Some(10.0));
        assert_eq!(of(2), Some(18.0));
        assert_eq!(of(3), Some(27.0));
        assert_eq!(of(6), Some(40.0));
        assert_eq!(of(64), Some(40.0));
        assert_eq!(at_threads([].into_iter(), 3), None);
    }

    #[test]
    fn bandwidth_is_that_of_the_cache_that_holds_it() {
        let profile = profile();
        assert_eq!(profile.bandwidth(1 << 10, 1), Some(200.0));
        assert_eq!(profile.bandwidth(16 << 10, 1), Some(200.0));
        assert_eq!(profile.bandwidth(1 << 20, 1), Some(60.0));
        assert_eq!(profile.bandwidth(2 << 20, 2), Some(120.0));
        assert_eq!(profile.bandwidth(1 << 40, 2), profile.memory_bandwidth(2));
    }
}
