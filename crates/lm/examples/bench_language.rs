//! Kinglet's side of `cargo xtask bench peers` for language models: loads one, then runs it when asked.
//!
//!     bench_language MODEL THREADS CONTEXT
//!
//! The first answer comes unasked: nanoseconds from before the file is opened until the logits after
//! a prompt of 16 tokens are there. Then, a line each: `prompt N` and `decode N` are answered by the
//! nanoseconds that N tokens at once, or one after the other, take a fresh conversation of 0 and of
//! 256 tokens; `tokens` by the greedy tokens of the last `decode`; `memory` by the process's peak;
//! `logits TOKENS FROM FILE`, an empty line, writes to FILE the logits after each token from the place
//! FROM on, where the file TOKENS holds 32-bit numbers, from a fresh conversation.

use std::error::Error;
use std::io::{self, BufRead};
use std::path::Path;
use std::time::Instant;

use kinglet_formats::map::process_peak;
use kinglet_lm::sample::best;
use kinglet_lm::{LanguageModel, Options, Session, Wanted};

/// Tokens before those that `decode` is asked for.
const PREFIX: usize = 256;

/// Tokens that make a prompt: any will do, as long as both engines take the same.
fn prompt(model: &LanguageModel, n: usize) -> Vec<u32> {
    let vocabulary = model.vocabulary() as u32;
    (0..n as u32).map(|i| (5 + i * 7919 % 20_000) % vocabulary).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [model, threads, context] = words.as_slice() else {
        return Err("usage: bench_language MODEL THREADS CONTEXT".into());
    };
    let options = Options {
        context: Some(context.parse()?),
        threads: threads.parse()?,
        ..Options::default()
    };
    let began = Instant::now();
    let mut model = LanguageModel::open(Path::new(model), &options)?;
    let mut session = Session::new(&mut model)?;
    session.push(&prompt(&model, 16));
    session.compute(&mut model)?;
    println!("{}", began.elapsed().as_nanos());

    let mut chosen: Vec<u32> = Vec::new();
    for question in io::stdin().lock().lines() {
        let question = question?;
        match question.split_once(' ') {
            Some(("prompt", n)) => {
                session.rewrite(&mut model, Vec::new());
                session.push(&prompt(&model, n.parse()?));
                let began = Instant::now();
                session.compute(&mut model)?;
                println!("{}", began.elapsed().as_nanos());
            }
            Some(("decode", n)) => {
                let prefix = prompt(&model, PREFIX);
                session.rewrite(&mut model, prefix);
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
            Some(("logits", words)) => {
                let words: Vec<&str> = words.split(' ').collect();
                let [tokens, from, file] = words.as_slice() else {
                    return Err("the question is logits TOKENS FROM FILE".into());
                };
                write_logits(&mut model, &mut session, tokens, from.parse()?, file)?;
                println!();
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

fn write_logits(
    model: &mut LanguageModel,
    session: &mut Session,
    tokens: &str,
    from: usize,
    file: &str,
) -> Result<(), Box<dyn Error>> {
    let bytes = std::fs::read(tokens)?;
    let tokens: Vec<u32> =
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let mut out = Vec::new();
    session.rewrite(model, Vec::new());
    session.push(&tokens[..from]);
    session.compute(model)?;
    model.extend(session.sequence(), &tokens[from..], Wanted::All, |_, logits| {
        out.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
    })?;
    Ok(std::fs::write(file, out)?)
}
