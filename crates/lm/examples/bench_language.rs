//! Kinglet's side of `cargo xtask bench language`: loads a language model, then runs it when asked.
//!
//!     bench_language MODEL THREADS
//!
//! The first answer comes unasked: nanoseconds from before the file is opened until the logits after
//! a prompt of 16 tokens are there. Then, a line each: `prompt N` and `decode N` are answered by the
//! nanoseconds that N tokens at once, or one after the other, take a fresh conversation of 0 and of
//! 256 tokens; `tokens` by the greedy tokens of the last `decode`; `memory` by the process's peak.

use std::error::Error;
use std::io::{self, BufRead};
use std::path::Path;
use std::time::Instant;

use kinglet_formats::map::process_peak;
use kinglet_lm::sample::best;
use kinglet_lm::{LanguageModel, Options, Session};

/// Tokens that make a prompt: any will do, as long as both engines take the same.
fn prompt(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 5 + i * 7919 % 20_000).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, threads] = words.as_slice() else {
        return Err("usage: bench_language MODEL THREADS".into());
    };
    let options = Options { context: Some(512), threads: threads.parse()?, ..Options::default() };
    let began = Instant::now();
    let mut model = LanguageModel::open(Path::new(model), &options)?;
    let mut session = Session::new(&mut model)?;
    session.push(&prompt(16));
    session.compute(&mut model)?;
    println!("{}", began.elapsed().as_nanos());

    let mut chosen: Vec<u32> = Vec::new();
    for question in io::stdin().lock().lines() {
        let question = question?;
        match question.split_once(' ') {
            Some(("prompt", n)) => {
                session.rewrite(&mut model, Vec::new());
                session.push(&prompt(n.parse()?));
                let began = Instant::now();
                session.compute(&mut model)?;
                println!("{}", began.elapsed().as_nanos());
            }
            Some(("decode", n)) => {
                session.rewrite(&mut model, prompt(256));
                session.compute(&mut model)?;
                chosen.clear();
                let began = Instant::now();
                for _ in 0..n.parse()? {
                    let token = best(session.logits()).ok_or("no logits")?;
                    chosen.push(token);
                    session.push(&[token]);
                    session.compute(&mut model)?;
                }
                println!("{}", began.elapsed().as_nanos());
            }
            _ if question == "tokens" => println!("{chosen:?}"),
            _ if question == "memory" => {
                println!("{}", process_peak().ok_or("the system tells no peak")?)
            }
            _ => return Err(format!("unknown question {question:?}").into()),
        }
    }
    Ok(())
}
