//! Kinglet's side of `cargo xtask bench peers`: loads a model, then runs it when asked.
//!
//!     bench_worker MODEL THREADS INPUT
//!
//! The file INPUT holds the first input's elements. Answers are lines of nanoseconds. The first comes unasked:
//! the time from before the file is opened until the model is planned, and that of the first run,
//! from copying its input in to reading its output. A line `N` on standard input asks for N more
//! runs, answered by the time of each; `output FILE` writes the first output's elements, answered
//! by an empty line.

use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{self, BufRead, Write};
use std::time::Instant;

use kinglet::{Model, PlanOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [model, threads, input] = words.as_slice() else {
        return Err("usage: bench_worker MODEL THREADS INPUT".into());
    };
    let input = std::fs::read(input)?;
    let options = PlanOptions { threads: threads.parse()?, ..PlanOptions::default() };

    let began = Instant::now();
    let mut plan = Model::open(model)?.plan(options)?;
    let loaded = began.elapsed();
    let began = Instant::now();
    plan.inner().input_mut(0).copy_from_slice(&input);
    plan.run()?;
    black_box(plan.output(0).bytes.to_vec());
    println!("{} {}", loaded.as_nanos(), began.elapsed().as_nanos());

    for question in io::stdin().lock().lines() {
        let question = question?;
        if let Some(file) = question.strip_prefix("output ") {
            std::fs::write(file, plan.output(0).bytes)?;
            println!();
            continue;
        }
        let mut answer = String::new();
        for _ in 0..question.parse()? {
            // A plan may reuse its input's memory, so each run gets it anew.
            plan.inner().input_mut(0).copy_from_slice(&input);
            let began = Instant::now();
            plan.run()?;
            write!(answer, "{} ", began.elapsed().as_nanos())?;
        }
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}
