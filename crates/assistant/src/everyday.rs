//! Sentences as ordinary people say them, by somebody who knew the contract and the conventions and had
//! seen nothing of the training data. None of them, letter case and punctuation aside, is among the
//! million examples that the shipped model was trained on; their words and forms may be.

use serde_json::Value;

use crate::{Contract, Example};

const LINES: &str = include_str!("../data/everyday.jsonl");

/// The sentences and the calls that they ask for.
pub fn everyday() -> Vec<Example> {
    let contract = Contract::shipped();
    let example = |line: &str| -> Option<Example> {
        let line: Value = serde_json::from_str(line).ok()?;
        let call = contract.read(&line["call"]).ok()?;
        Some(Example { say: line["say"].as_str()?.to_owned(), call })
    };
    LINES.lines().map(|line| example(line).expect("a test reads every line")).collect()
}
