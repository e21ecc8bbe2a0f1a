//! `kinglet bench`.

mod language;
mod net;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use kinglet::Error;
use kinglet_formats::map;
use kinglet_measure::profile::Profile;
use kinglet_measure::{Recorder, Roof, html, text, threads};

use super::language::{Loading, is_language_model};
use super::progress::Progress;
use super::{Common, files, probe};

/// `kinglet bench`.
#[derive(Args)]
pub(super) struct Bench {
    /// The models: GGUF, TFLite or ONNX files, or Hugging Face folders
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// Write a page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How often everything is measured [default: 5 times for language models, else as often as 2
    /// seconds allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeats: Option<u32>,
    /// Measure the device again, and not only where that was never done
    #[arg(long)]
    again: bool,
    /// Sizes for an input whose sizes are open
    #[arg(long, value_name = "NAME=SIZE,…")]
    shape: Vec<String>,
    #[command(flatten)]
    common: Common,
    #[command(flatten, next_help_heading = "Language models")]
    length: Length,
    #[command(flatten, next_help_heading = "Language models")]
    loading: Loading,
}

/// What language models are measured on: random tokens.
#[derive(Args)]
struct Length {
    /// Tokens of the prompt [default: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    prompt: Option<u32>,
    /// Tokens that are decoded one by one after the prompt [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    decode: Option<u32>,
}

/// What every measurement needs to know.
struct Given<'a> {
    bench: &'a Bench,
    profile: &'a Profile,
    threads: usize,
}

impl Bench {
    pub fn run(self) -> Result<(), Error> {
        self.check()?;
        // Before the work, so that a place that can't be written to is known at once.
        let mut page = files::Aside::default();
        let cannot = |path: &Path, error| super::cannot_write_file(path, "the page", &error);
        let file = match &self.html {
            Some(path) => Some((path, page.create(path).map_err(|e| cannot(path, e))?)),
            None => None,
        };
        let profile = probe::device(self.again, self.common.quiet);
        let threads = match self.common.threads {
            Some(threads) => threads.into(),
            None => threads::choose(&profile),
        };
        let given = Given { bench: &self, profile: &profile, threads };
        let mut reports = Vec::new();
        let mut progress = Progress::new(self.common.quiet);
        for path in &self.models {
            progress.say(|| format!("measuring {}", path.display()));
            map::reset_process_peak();
            reports.push(match is_language_model(path) {
                true => language::measure(path, &given)?,
                false => net::measure(path, &given)?,
            });
        }
        drop(progress);
        if let Some((path, mut file)) = file {
            file.write_all(html::page(&profile, &reports).as_bytes())
                .map_err(|e| cannot(path, e))?;
            drop(file);
            page.finish().map_err(|(path, error)| cannot(&path, error))?;
        }
        match (self.common.json, reports.as_slice()) {
            (true, [one]) => super::print_json(one),
            (true, many) => super::print_json(&many),
            (false, many) => {
                let mut pages: Vec<String> = many.iter().map(text::report).collect();
                if many.len() > 1 {
                    pages.push(text::comparison(many));
                }
                super::print(&pages.join("\n"))
            }
        }
    }

    /// Refuses options that mean nothing for any of the models.
    fn check(&self) -> Result<(), Error> {
        let languages = self.models.iter().filter(|path| is_language_model(path)).count();
        let Length { prompt, decode } = &self.length;
        let of_language = [
            ("prompt", prompt.is_some()),
            ("decode", decode.is_some()),
            ("context", self.loading.context().is_some()),
        ];
        let misplaced = match languages {
            0 => of_language.into_iter().find(|(_, given)| *given).map(|(name, _)| name),
            n if n == self.models.len() && !self.shape.is_empty() => Some("shape"),
            _ => None,
        };
        let models = if languages == 0 {
            "no model is a language model"
        } else {
            "all models are language models"
        };
        match misplaced {
            Some(option) => Err(Error::input(format!("--{option} means nothing here: {models}"))),
            None => Ok(()),
        }
    }
}

impl Given<'_> {
    /// The roof over what `recorder` recorded.
    fn roof(&self, recorder: &Recorder) -> Result<Roof<'_>, Error> {
        Roof::here(self.profile, self.threads, recorder.touched()).map_err(Error::input)
    }
}
