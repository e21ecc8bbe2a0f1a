//! candle's quantised Llama, on GGUF files.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

/// Tokens before those that `decode` is asked for.
const PREFIX: usize = 256;

fn prompt(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 5 + i * 7919 % 20_000).collect()
}

/// The likeliest token after `tokens`, which come at `position`.
fn compute(model: &mut ModelWeights, tokens: &[u32], position: usize) -> Result<u32> {
    let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
    let logits = model.forward(&input, position)?.squeeze(0)?.to_dtype(DType::F32)?;
    Ok(logits.argmax(0)?.to_scalar::<u32>()?)
}

/// Loads the model, then answers until the questions end.
pub fn serve(path: &str) -> Result<()> {
    let began = Instant::now();
    let mut file = BufReader::new(File::open(path)?);
    let content = Content::read(&mut file)?;
    // Its cache grows with each token and can't be cut: each question has a copy, which shares the
    // weights.
    let model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    compute(&mut model.clone(), &prompt(16), 0)?;
    println!("{}", began.elapsed().as_nanos());

    let mut prefixed: Option<(ModelWeights, u32)> = None;
    let mut chosen: Vec<u32> = Vec::new();
    for question in std::io::stdin().lock().lines() {
        let question = question?;
        match question.split_once(' ') {
            Some(("prompt", n)) => {
                let (mut model, tokens) = (model.clone(), prompt(n.parse()?));
                let began = Instant::now();
                compute(&mut model, &tokens, 0)?;
                println!("{}", began.elapsed().as_nanos());
            }
            Some(("decode", n)) => {
                if prefixed.is_none() {
                    let mut model = model.clone();
                    let first = compute(&mut model, &prompt(PREFIX), 0)?;
                    prefixed = Some((model, first));
                }
                let (mut model, mut next) = prefixed.clone().context("computed above")?;
                chosen.clear();
                let began = Instant::now();
                for i in 0..n.parse()? {
                    chosen.push(next);
                    next = compute(&mut model, &[next], PREFIX + i)?;
                }
                println!("{}", began.elapsed().as_nanos());
            }
            _ if question == "tokens" => println!("{chosen:?}"),
            _ if question == "memory" => println!("{}", peak_memory()?),
            _ => bail!("unknown question {question:?}"),
        }
    }
    Ok(())
}

/// The most bytes of this process that were in memory so far.
fn peak_memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).context("no VmHWM")?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}
