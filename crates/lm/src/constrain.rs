//! Answers that must be of a form: JSON of a schema, a regular expression, a grammar.
//!
//! llguidance follows the form and says before each token which may come.

use crate::error::LmError;
use crate::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// A JSON value that fits a JSON schema; `{}` is any value. It is written on one line, as a small
    /// model may else fill what it may say with white space. llguidance's
    /// [`x-guidance`](https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md) in
    /// the schema says otherwise.
    JsonSchema(serde_json::Value),
    /// A text that a regular expression matches as a whole, in the syntax of the `regex` crate.
    Regex(String),
    /// A text of a grammar in llguidance's form of
    /// [Lark](https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
    Lark(String),
}

impl Constraint {
    fn name(&self) -> &'static str {
        match self {
            Constraint::JsonSchema(_) => "JSON schema",
            Constraint::Regex(_) => "regular expression",
            Constraint::Lark(_) => "grammar",
        }
    }

    fn grammar(&self) -> TopLevelGrammar {
        match self {
            Constraint::JsonSchema(schema) => {
                let mut schema = match schema {
                    Value::Bool(true) => json!({}),
                    schema => schema.clone(),
                };
                if let Some(schema) = schema.as_object_mut() {
                    schema.entry("x-guidance").or_insert_with(|| {
                        json!({
                            "whitespace_flexible": false,
                            "item_separator": ", ",
                            "key_separator": ": "
                        })
                    });
                }
                TopLevelGrammar::from_json_schema(schema)
            }
            Constraint::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Constraint::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        }
    }
}

/// A tokeniser's tokens, ordered for following forms. Costs a moment for a large vocabulary: made
/// once for a model.
pub struct Forms {
    factory: ParserFactory,
}

impl Forms {
    /// Of a tokeniser's tokens.
    pub fn new(tokenizer: &Tokenizer) -> Result<Forms, LmError> {
        let count = tokenizer.vocab_size() as u32;
        let mut words: Vec<Vec<u8>> = (0..count)
            .map(|id| match tokenizer.is_control(id) || tokenizer.is_end_of_generation(id) {
                // No text: llguidance marks such tokens by this byte.
                true => {
                    let name = tokenizer.token_text(id).unwrap_or_default();
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
                }
                false => tokenizer.token_bytes(id).to_vec(),
            })
            .collect();
        let mut ends: Vec<u32> =
            tokenizer.end_of_generation().iter().copied().filter(|id| *id < count).collect();
        if ends.is_empty() {
            // A form needs a token that ends it; this one is past those that can be chosen.
            ends.push(count);
            words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], &b"<end>"[..]].concat());
        }
        let info = TokRxInfo::new(words.len() as u32, ends[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let env: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env)
            .map_err(|e| LmError::Sampling(format!("constraint: {e}")))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Forms { factory })
    }

    /// Follows an answer of the form of `constraint` from its start.
    ///
    /// # Errors
    /// If the schema, expression or grammar is not right, or too large; says where and why.
    pub fn follow(&self, constraint: &Constraint) -> Result<Following, LmError> {
        let parser = self.factory.create_parser(constraint.grammar());
        let mut matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(e) => {
                Err(LmError::Sampling(format!("{}: {}", constraint.name(), in_one_line(&e))))
            }
            None => {
                // What can't be told of the form before it is first used.
                let allowed = matcher.compute_mask_or_eos();
                allowed.map_err(|e| LmError::Sampling(format!("{}: {e}", constraint.name())))?;
                Ok(Following { matcher, name: constraint.name() })
            }
        }
    }
}

/// A message without the pictures of where in the text: lines of source with a caret below.
fn in_one_line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).collect();
    let is_caret = |line: &&str| line.starts_with('^');
    let told = lines.iter().enumerate().filter(|(i, line)| {
        !line.is_empty() && !is_caret(line) && !lines.get(i + 1).is_some_and(is_caret)
    });
    told.map(|(_, line)| *line).collect::<Vec<_>>().join(" ")
}

impl fmt::Debug for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forms").finish_non_exhaustive()
    }
}

/// An answer that is followed through its form.
pub struct Following {
    matcher: Matcher,
    name: &'static str,
}

/// Tokens that may come: a bit for each.
pub struct Allowed(SimpleVob);

impl Allowed {
    /// A bit for each token that may come, lowest first.
    pub fn bits(&self) -> &[u32] {
        self.0.as_slice()
    }

    /// The token, where only one may come.
    pub fn only(&self) -> Option<u32> {
        let words = self.0.as_slice();
        let (i, word) = words.iter().enumerate().find(|(_, w)| **w != 0)?;
        let one = word.is_power_of_two() && words[i + 1..].iter().all(|w| *w == 0);
        one.then(|| i as u32 * 32 + word.trailing_zeros())
    }
}

impl Following {
    /// Whether the answer is whole and nothing more may come.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// The tokens that may come next: those that end a text, too, where the answer may end.
    pub fn allowed(&mut self) -> Result<Allowed, LmError> {
        self.matcher.compute_mask_or_eos().map(Allowed).map_err(|e| self.error(&e.to_string()))
    }

    /// Goes on by a token.
    pub fn push(&mut self, token: u32) -> Result<(), LmError> {
        self.matcher.consume_token(token).map_err(|e| self.error(&e.to_string()))
    }

    fn error(&self, message: &str) -> LmError {
        LmError::Sampling(format!("{}: {message}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_one_line() {
        let message = "regex parse error:\n    a(\n     ^\nerror: unclosed group\n   1 | x: /a(/\n          ^";
        assert_eq!(in_one_line(message), "regex parse error: error: unclosed group");
        assert_eq!(in_one_line("at 1: no rule"), "at 1: no rule");
    }
}
