//! `kinglet tokenize`: text into tokens.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use kinglet::Error;
use kinglet_lm::tokenizer::{EncodeOptions, Tokenizer};
use serde::Serialize;

use super::{Common, print, print_json};

/// Text into a language model's tokens.
#[derive(Args)]
pub struct Tokenize {
    /// A GGUF file, a Hugging Face folder, or its tokenizer.json
    model: PathBuf,
    /// The text
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
    text: Option<String>,
    /// Read the text from a file; - is the standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Neither add special tokens, such as the one that starts a text, nor find them in the text
    #[arg(long)]
    no_special: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Document {
    tokens: Vec<u32>,
}

impl Tokenize {
    pub fn run(self) -> Result<(), Error> {
        let tokenizer = Tokenizer::open(&self.model).map_err(|error| {
            // An error of a file names it already.
            let (message, name) = (error.to_string(), self.model.display().to_string());
            let error = Error::input(&message);
            if message.contains(&name) { error } else { error.about(name) }
        })?;
        let text = match (self.text, &self.file) {
            (Some(text), _) => text,
            (None, Some(file)) => read(file)?,
            (None, None) => return Err(Error::input("there is no text")),
        };
        let special = !self.no_special;
        let options = EncodeOptions { add_special: special, parse_special: special };
        let tokens = tokenizer
            .encode(&text, options)
            .map_err(|error| Error::input(error.to_string()).about(self.model.display()))?;
        if self.common.json {
            return print_json(&Document { tokens });
        }
        let mut lines = String::new();
        for &id in &tokens {
            let piece = String::from_utf8_lossy(tokenizer.token_bytes(id));
            let _ = writeln!(lines, "{id:>7} {piece:?}");
        }
        print(&lines)?;
        self.common.note(format!("{} tokens", tokens.len()));
        Ok(())
    }
}

fn read(file: &Path) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let done = match file.to_str() {
        Some("-") => std::io::stdin().lock().read_to_end(&mut bytes).map(drop),
        _ => std::fs::read(file).map(|read| bytes = read),
    };
    let fail = |why: String| Error::input(why).about(file.display());
    done.map_err(|error| fail(format!("cannot read it: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        fail(format!("byte {at} is no UTF-8; the text must be"))
    })
}
