//! The loop around an engine that runs nets: what it is asked, and its answers.

use std::fmt::Write as _;
use std::io::BufRead;
use std::time::Instant;

use anyhow::Result;

/// An engine that has loaded a model of one float input.
pub trait Engine {
    /// Runs it on its input; returns the elements of its first output.
    fn run(&mut self) -> Result<Vec<f32>>;
}

/// Loads an engine with the input in the file `input`, then answers until the questions end.
pub fn serve<E: Engine>(input: &str, load: impl FnOnce(Vec<f32>) -> Result<E>) -> Result<()> {
    let bytes = std::fs::read(input)?;
    let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let floats = floats.collect();
    let began = Instant::now();
    let mut engine = load(floats)?;
    let loaded = began.elapsed();
    let began = Instant::now();
    let mut output = engine.run()?;
    println!("{} {}", loaded.as_nanos(), began.elapsed().as_nanos());
    for question in std::io::stdin().lock().lines() {
        let question = question?;
        if let Some(file) = question.strip_prefix("output ") {
            let bytes: Vec<u8> = output.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(file, bytes)?;
            println!();
            continue;
        }
        let mut answer = String::new();
        for _ in 0..question.parse()? {
            let began = Instant::now();
            output = engine.run()?;
            write!(answer, "{} ", began.elapsed().as_nanos())?;
        }
        println!("{answer}");
    }
    Ok(())
}
