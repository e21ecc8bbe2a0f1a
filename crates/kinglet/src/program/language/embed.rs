//! `kinglet embed`: texts into vectors.

use std::path::PathBuf;

use clap::Args;
use kinglet::Error;
use kinglet::lm::Encoder;
use serde::Serialize;

use super::super::{Common, print, print_json};

/// Texts into an encoder's vectors.
#[derive(Args)]
pub struct Embed {
    /// An encoder, such as MiniLM or BGE: a GGUF file, or a Hugging Face folder
    model: PathBuf,
    /// The texts
    #[arg(required = true, allow_negative_numbers = true)]
    texts: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Serialize)]
struct Document {
    embeddings: Vec<Vec<f32>>,
}

impl Embed {
    pub fn run(self) -> Result<(), Error> {
        let mut encoder = Encoder::open(&self.model, self.common.threads())?;
        let embeddings: Vec<Vec<f32>> =
            self.texts.iter().map(|text| encoder.embed(text)).collect::<Result<_, _>>()?;
        if self.common.json {
            return print_json(&Document { embeddings });
        }
        for embedding in embeddings {
            let numbers: Vec<String> = embedding.iter().map(f32::to_string).collect();
            print(&(numbers.join(" ") + "\n"))?;
        }
        Ok(())
    }
}
