//! How right answers are.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::contract::{Call, Contract};
use crate::example::Example;

/// Counts of right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Sentences.
    pub of: usize,
    /// Answers that call the right function.
    pub function: usize,
    /// Answers that are right in every argument, letter by letter.
    pub exact: usize,
    /// Answers that are right but for letter case, spaces and a mark at the end of texts.
    pub normalised: usize,
}

/// An answer that is not right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The sentence.
    pub say: String,
    /// What it asks for.
    pub wanted: Call,
    /// What was answered; text where that is no call of the contract.
    pub answer: Value,
}

/// A score of many answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    /// Over all sentences.
    pub all: Counts,
    /// For each function that was asked for.
    pub functions: BTreeMap<String, Counts>,
    /// Functions wanted and answered instead, and how often; the most frequent first.
    pub confusions: Vec<(String, String, usize)>,
    /// Arguments that were wrong though the function was right, as `function.argument`.
    pub arguments: BTreeMap<String, usize>,
    /// Answers that break the contract.
    pub invalid: usize,
    /// What was not right, normalised.
    pub mistakes: Vec<Mistake>,
}

/// Scores answers, one for each example in the same order.
pub fn score(contract: &Contract, examples: &[Example], answers: &[Value]) -> Score {
    let mut score = Score::default();
    let mut confusions = BTreeMap::<(String, String), usize>::new();
    for (example, answer) in examples.iter().zip(answers) {
        let wanted = &example.call;
        let call = contract.read(answer).ok();
        let named = call.as_ref().map_or("(invalid)", |call| &call.name);
        let same = named == wanted.name;
        let exact = call.as_ref() == Some(wanted);
        let normalised = call.as_ref().is_some_and(|call| normal(call) == normal(wanted));
        for counts in [&mut score.all, score.functions.entry(wanted.name.clone()).or_default()] {
            counts.of += 1;
            counts.function += usize::from(same);
            counts.exact += usize::from(exact);
            counts.normalised += usize::from(normalised);
        }
        score.invalid += usize::from(call.is_none());
        if !same {
            *confusions.entry((wanted.name.clone(), named.to_owned())).or_default() += 1;
        } else if let Some(call) = &call {
            for name in wrong_arguments(call, wanted) {
                *score.arguments.entry(format!("{}.{name}", wanted.name)).or_default() += 1;
            }
        }
        if !normalised {
            let (say, wanted) = (example.say.clone(), wanted.clone());
            score.mistakes.push(Mistake { say, wanted, answer: answer.clone() });
        }
    }
    score.confusions = confusions.into_iter().map(|((a, b), count)| (a, b, count)).collect();
    score.confusions.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    score
}

fn normal(call: &Call) -> Call {
    let arguments = call.arguments.iter();
    let arguments = arguments.map(|(name, value)| (name.clone(), normal_value(value))).collect();
    Call { name: call.name.clone(), arguments }
}

fn normal_value(value: &Value) -> Value {
    let Some(text) = value.as_str() else { return value.clone() };
    let text = text.replace('’', "'").to_lowercase();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Value::from(text.trim_end_matches(['.', '!', '?', ' ']))
}

fn wrong_arguments(answer: &Call, wanted: &Call) -> Vec<String> {
    let (answer, wanted) = (normal(answer), normal(wanted));
    let names = answer.arguments.iter().chain(&wanted.arguments).map(|(name, _)| name.clone());
    let mut names: Vec<_> =
        names.filter(|name| answer.argument(name) != wanted.argument(name)).collect();
    names.sort();
    names.dedup();
    names
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
        let mut row = |name: &str, c: &Counts| {
            let (function, exact) = (share(c.function, c.of), share(c.exact, c.of));
            let normalised = share(c.normalised, c.of);
            writeln!(f, "{name:16} {:6} {function:9.1} {exact:9.1} {normalised:11.1}", c.of)
        };
        row("all", &self.all)?;
        for (name, counts) in &self.functions {
            row(name, counts)?;
        }
        if self.invalid > 0 {
            writeln!(f, "\n{} answers break the contract", self.invalid)?;
        }
        if !self.confusions.is_empty() {
            writeln!(f, "\nwanted, answered")?;
        }
        for (wanted, answered, count) in &self.confusions {
            writeln!(f, "{count:6} {wanted} → {answered}")?;
        }
        if !self.arguments.is_empty() {
            writeln!(f, "\nwrong arguments of the right function")?;
        }
        let mut arguments: Vec<_> = self.arguments.iter().collect();
        arguments.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (argument, count) in arguments {
            writeln!(f, "{count:6} {argument}")?;
        }
        Ok(())
    }
}
