//! `kinglet probe`.

use clap::Args;
use kinglet::Choices;
use kinglet::Error;
use kinglet_measure::profile::{self, Profile, Stored};
use kinglet_measure::system::{Identity, System};
use kinglet_measure::{choices, probe, text, threads};
use serde::Serialize;

use super::progress::Progress;

/// `kinglet probe`.
#[derive(Args)]
pub(super) struct Probe {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print nothing but the answer
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Serialize)]
struct Document {
    /// Where the profile is kept.
    file: Option<String>,
    /// Threads that commands take where nothing says how many.
    threads: usize,
    #[serde(flatten)]
    profile: Profile,
}

impl Probe {
    pub fn run(self) -> Result<(), Error> {
        let profile = measured(self.quiet);
        let kept = keep(&profile);
        let file = kept.as_ref().ok().cloned();
        if self.json {
            super::print_json(&Document { file, threads: threads::choose(&profile), profile })?;
        } else {
            super::print(&text::profile(&profile))?;
            if let (Some(file), false) = (file, self.quiet) {
                eprintln!("kept in {file}");
            }
        }
        kept.map(|_| ())
    }
}

/// The device as measured now.
fn measured(quiet: bool) -> Profile {
    let mut progress = Progress::new(quiet);
    probe::probe(System::here(), &mut |what| progress.say(|| format!("measuring {what}")))
}

/// Keeps a profile; the answer is the file's path.
fn keep(profile: &Profile) -> Result<String, Error> {
    let device = Identity { model: profile.model.clone(), usable: profile.usable };
    let folder = profile::folder().ok_or_else(|| {
        Error::work(format!(
            "the profile is not kept: there is no folder for caches; set {}",
            profile::CACHE_VARIABLE
        ))
    })?;
    let path = profile::place(&folder, &device);
    let shown = path.display().to_string();
    match profile::store(&path, profile) {
        Ok(()) => Ok(shown),
        Err(error) => Err(Error::work(format!("the profile is not kept: {error}")).about(shown)),
    }
}

/// What is kept of this device, and where it would be.
fn kept() -> Option<(String, Stored)> {
    let device = Identity::here();
    let path = profile::place(&profile::folder()?, &device);
    Some((path.display().to_string(), profile::load(&path, &device)))
}

/// This device's profile: the one that is kept, or, where there is none or `again` asks for it, one
/// that is measured now and kept.
pub(super) fn device(again: bool, quiet: bool) -> Profile {
    if !again {
        match kept() {
            Some((_, Stored::Found(profile))) => return *profile,
            Some((path, Stored::Damaged(why))) => {
                eprintln!("note: {path}: measuring anew, as it is of no use: {why}");
            }
            _ => {}
        }
    }
    let profile = measured(quiet);
    if let Err(error) = keep(&profile) {
        eprintln!("note: {error}");
    }
    profile
}

/// What the kept profile says is faster; the default where there is none.
pub(super) fn choices() -> Choices {
    match kept() {
        Some((_, Stored::Found(profile))) => choices::choose(&profile),
        _ => Choices::default(),
    }
}

/// How many threads the kept profile says are best; 0 where there is none.
pub(super) fn threads() -> usize {
    match kept() {
        Some((_, Stored::Found(profile))) => threads::choose(&profile),
        _ => 0,
    }
}
