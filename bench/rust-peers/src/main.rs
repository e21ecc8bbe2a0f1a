//! Rust engines' side of `cargo xtask bench peers`.
//!
//!     rust-peers rten|tract MODEL.onnx THREADS INPUT
//!     rust-peers candle MODEL.gguf THREADS CONTEXT
//!
//! Questions and answers are those of Kinglet's workers: `crates/kinglet/examples/bench_worker.rs`
//! for ONNX, `crates/lm/examples/bench_language.rs` for language models.

mod candle;
mod net;
mod rten;
mod tract;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["rten", model, threads, input] => {
            net::serve(input, |input| rten::Engine::new(model, threads.parse()?, input))
        }
        ["tract", model, threads, input] => {
            net::serve(input, |input| tract::Engine::new(model, threads.parse()?, input))
        }
        ["candle", model, _, _] if model.ends_with(".onnx") => {
            bail!("cannot: building candle-onnx takes protoc, not only a Rust toolchain")
        }
        // Its threads are rayon's, whose number the driver puts into the environment.
        ["candle", model, _, _] => candle::serve(model),
        _ => bail!("usage: rust-peers rten|tract|candle MODEL THREADS INPUT|CONTEXT"),
    }
}
