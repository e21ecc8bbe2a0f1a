//! Examples: what is said and the call that it asks for.

use serde::Serialize;

use crate::contract::{Call, CallError, Contract, Kind};
use crate::grammar::{Grammar, Piece, Sentence};
use crate::noise::{self, Part};
use crate::rng::Rng;

/// A sentence and the call that it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// What somebody says.
    pub say: String,
    /// What it asks for.
    pub call: Call,
}

impl Example {
    /// The example as a line of JSON, without the line's end.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }
}

/// Grammar and contract that make examples together.
#[derive(Debug)]
pub(crate) struct Maker {
    pub grammar: Grammar,
    pub contract: Contract,
}

impl Maker {
    /// The example that was derived from a sentence, just as it was derived.
    pub fn plain(&self, sentence: &Sentence, rng: &mut Rng) -> Result<Example, CallError> {
        let parts = self.parts(sentence, self.grammar.say(sentence, rng));
        self.example(sentence, &parts)
    }

    /// The same between words of politeness, written as somebody would write it.
    pub fn noisy(
        &self,
        sentence: &Sentence,
        around: (&str, &str),
        rng: &mut Rng,
    ) -> Result<Example, CallError> {
        let mut parts = self.parts(sentence, self.grammar.say_rule(around.0, rng));
        parts.push(Part::space());
        parts.extend(self.parts(sentence, self.grammar.say(sentence, rng)));
        let ends_in_text = parts.iter().rev().find(|part| !part.said.trim().is_empty());
        let after =
            if ends_in_text.is_some_and(|part| part.is_copied) { "after_text" } else { around.1 };
        parts.push(Part::space());
        parts.extend(self.parts(sentence, self.grammar.say_rule(after, rng)));
        noise::apply(&mut parts, sentence.form, rng);
        self.example(sentence, &parts)
    }

    pub fn kind(&self, function: &str, slot: usize) -> Option<&Kind> {
        let name = &self.grammar.slots()[slot];
        Some(&self.contract.function(function)?.parameter(name)?.kind)
    }

    fn parts(&self, sentence: &Sentence, pieces: Vec<Piece>) -> Vec<Part> {
        let part = |Piece { said, meant, slot }| {
            let kind = slot.and_then(|slot| self.kind(&sentence.function, slot));
            Part { said, meant, slot, is_copied: kind.is_some_and(Kind::is_copied) }
        };
        pieces.into_iter().map(part).collect()
    }

    fn example(&self, sentence: &Sentence, parts: &[Part]) -> Result<Example, CallError> {
        let name = &sentence.function;
        let function =
            self.contract.function(name).ok_or_else(|| CallError::Function(name.clone()))?;
        let mut arguments = Vec::new();
        for parameter in &function.parameters {
            let Some(slot) = self.grammar.slot(&parameter.name) else { continue };
            let mut of_slot = parts.iter().filter(|part| part.slot == Some(slot)).peekable();
            if of_slot.peek().is_none() {
                continue;
            }
            let text: String =
                of_slot.map(|part| part.meant.as_deref().unwrap_or(&part.said)).collect();
            let mut text = tidy(&text);
            if parameter.kind == Kind::Language {
                text = text.to_lowercase();
            }
            let value = parameter.kind.value(&text);
            let value = value.ok_or_else(|| {
                CallError::Value(name.clone(), parameter.name.clone(), format!("{text:?}"))
            })?;
            arguments.push((parameter.name.clone(), value));
        }
        let say = tidy(&parts.iter().map(|part| part.said.as_str()).collect::<String>());
        let call = Call { name: name.clone(), arguments };
        self.contract.check(&call)?;
        Ok(Example { say, call })
    }
}

/// Single spaces, none at the ends and none before a mark.
fn tidy(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    for c in text.trim().chars() {
        if matches!(c, ',' | '?' | '!' | ':' | ' ') && tidy.ends_with(' ') {
            tidy.pop();
        }
        tidy.push(c);
    }
    tidy
}
