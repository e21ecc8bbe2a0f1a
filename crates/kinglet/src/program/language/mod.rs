//! Language models in the program: how they are told from others, loaded and listened to.

pub(super) mod chat;
mod choosing;
pub(super) mod embed;
pub(super) mod eval;
mod generate;
pub(super) mod inspect;
mod logits;
mod terminal;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kinglet::Error;
use kinglet::lm::{Cache, LanguageModel, Options};

pub(super) use choosing::Choosing;
pub(super) use generate::{Generate, Given};

/// Whether `path` is a language model, as its content tells: a GGUF file, or a Hugging Face folder.
pub(super) fn is_language_model(path: &Path) -> bool {
    if path.is_dir() {
        return path.join("config.json").is_file();
    }
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"GGUF"
}

/// How a language model is loaded.
#[derive(Args)]
pub(super) struct Loading {
    /// Tokens that the model sees at once [default: the model's, at most 4096; eval: 512;
    /// bench: as many as it takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    context: Option<u32>,
    /// What keys and values are held as [default: f16]
    #[arg(long, value_name = "TYPE")]
    cache: Option<CacheType>,
    /// Memory that the whole process may take, such as 512M or 2G: weights that do not fit are read
    /// again when they are needed
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<usize>,
    /// A low-rank adapter beside the model's weights: PEFT's folder, or a GGUF file; with =SCALE, how much
    /// it counts. May be given several times
    #[arg(long, value_name = "ADAPTER[=SCALE]", value_parser = adapter)]
    adapter: Vec<(PathBuf, f32)>,
}

fn adapter(text: &str) -> Result<(PathBuf, f32), String> {
    let told = text.rsplit_once('=').filter(|_| !Path::new(text).exists());
    let Some((path, scale)) = told else { return Ok((text.into(), 1.0)) };
    match scale.parse().ok().filter(|s: &f32| s.is_finite()) {
        Some(scale) => Ok((path.into(), scale)),
        None => {
            Err(format!("{scale:?} is no number: give ADAPTER or ADAPTER=SCALE, such as style=0.5"))
        }
    }
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    let wrong = "give a number of bytes, or one with K, M or G, such as 512M";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err(wrong.into()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong)?;
    let bytes = number * f64::from(1u32 << shift);
    if number.is_finite() && number > 0.0 && bytes < 1e18 {
        Ok(bytes as usize)
    } else {
        Err(wrong.into())
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum CacheType {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl Loading {
    /// The options that these and `threads` make.
    pub fn options(&self, threads: usize) -> Options {
        let cache = match self.cache {
            None => Cache::default(),
            Some(CacheType::F32) => Cache::F32,
            Some(CacheType::F16) => Cache::F16,
            Some(CacheType::Q8_0) => Cache::Q8_0,
        };
        Options {
            context: self.context(),
            cache,
            threads,
            memory: self.memory,
            adapters: self.adapter.clone(),
            ..Options::default()
        }
    }

    /// What `--context` says.
    pub fn context(&self) -> Option<usize> {
        self.context.map(|n| n as usize)
    }

    /// Loads the model at `path`.
    pub fn open(&self, path: &Path, threads: usize) -> Result<LanguageModel, Error> {
        Ok(LanguageModel::open(path, &self.options(threads))?)
    }
}

/// Refuses what is no language model, for a command that wants one.
pub(super) fn expect_language_model(path: &Path) -> Result<(), Error> {
    if is_language_model(path) {
        return Ok(());
    }
    // A file that cannot be read at all says so itself.
    let about = |message: String| Error::input(message).about(path.display());
    let about_file = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => about("there is no such file".into()),
        _ => about(format!("cannot open it: {error}")),
    })?;
    let what = match about_file.is_dir() {
        true => "this folder has no config.json",
        false => "this is no language model",
    };
    Err(about(format!("{what}; give a GGUF file, or a model's Hugging Face folder")))
}

/// The text of a file; `-` is standard input.
pub(super) fn read_text(path: &Path) -> Result<String, Error> {
    let piped = path == Path::new("-");
    let name = if piped { "standard input".into() } else { path.to_string_lossy() };
    let about = |message: String| Error::input(message).about(&name);
    let bytes = if piped {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = bytes.map_err(|error| about(format!("cannot read the text: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        about(format!("this is not text: byte {at} is no UTF-8"))
    })
}

/// A rate for JSON: `None` where nothing was done or no time was seen to pass.
fn rate(count: usize, seconds: f64) -> Option<f64> {
    (count > 0 && seconds > 0.0).then(|| (count as f64 / seconds * 1e3).round() / 1e3)
}

/// Text as it is written: what could command a terminal is not.
fn shown(text: &str, terminal: bool) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && c != '\n' && c != '\t';
    if terminal && text.contains(commands) {
        return text.replace(commands, "\u{fffd}").into();
    }
    text.into()
}
