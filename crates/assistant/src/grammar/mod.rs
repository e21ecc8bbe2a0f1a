//! Sentences and their meanings as data: a grammar of pairs.
//!
//! The grammar is synchronous (Lewis and Stearns 1968, Aho and Ullman 1969): whatever it derives has
//! two sides, what is *said* and what is *meant*. Plain text is both; `[half past six->06:30]` is
//! said one way and meant another. A slot gives what is meant to an argument of the call.
//!
//! | notation | is |
//! |---|---|
//! | `name = a \| b ^3 \| c` | a rule; `^3` makes an alternative three times as likely; indented lines go on |
//! | `> …`, `? …`, `. …` | a sentence of the file's function: a command, a question, a statement; `>3` is three times as likely |
//! | `(a\|b\|)` | one of these; the last is empty |
//! | `<name>` | what a rule derives |
//! | `<@time>` | what code says and means: a time, a number, an unheard-of word ([`crate::speech`]) |
//! | `{text=…}`, `{text}` | the argument's value is what is meant here; the second is `{text=<text>}` |
//! | `[said->meant]` | said so, meant so; what is meant is plain text |
//! | `[<@time>]` | meant just as it is said: "half past six" |
//! | `\` | takes the next character as it is |
//! | `# …` | a comment, on a line of its own |
//!
//! Rules do not refer to themselves, so a grammar derives finitely many shapes: whether it derives a
//! sentence ([`Grammar::derives`]) and how often it fills an argument ([`Grammar::check`]) are known,
//! not sampled.

mod check;
mod derive;
mod expand;
mod parse;

pub use derive::Pattern;
pub use expand::Piece;

use crate::speech::Speaker;

/// Rules, and sentences made of them.
#[derive(Debug, Default)]
pub struct Grammar {
    rules: Vec<Rule>,
    sentences: Vec<Sentence>,
    /// Names of arguments; slots are numbered by their place here.
    slots: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    name: String,
    is_shared: bool,
    of: Vec<Node>,
}

/// A sentence of a function.
#[derive(Debug)]
pub struct Sentence {
    /// The function that it calls.
    pub function: String,
    /// Its place: file and line.
    pub place: String,
    /// Its form.
    pub form: Form,
    weight: u32,
    of: Vec<Node>,
}

/// What kind of sentence it is: what may be said before and after it depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// "set a timer".
    Command,
    /// "what's the weather like".
    Question,
    /// "I need to be up at six".
    Statement,
}

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Rule(usize),
    Speaker(&'static Speaker),
    Choice(Vec<Alternative>),
    AsSaid(Vec<Node>),
    Pair { said: Vec<Node>, meant: String },
    Slot { slot: usize, of: Vec<Node> },
}

#[derive(Clone, Debug)]
struct Alternative {
    weight: u32,
    of: Vec<Node>,
}

/// What is wrong with a grammar's text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct GrammarError {
    /// File and line.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl Grammar {
    /// The sentences, file by file.
    pub fn sentences(&self) -> &[Sentence] {
        &self.sentences
    }

    /// The number of a slot.
    pub fn slot(&self, argument: &str) -> Option<usize> {
        self.slots.iter().position(|name| name == argument)
    }

    /// The names of slots, by number.
    pub fn slots(&self) -> &[String] {
        &self.slots
    }

    /// A rule that all files see.
    fn shared_rule(&self, name: &str) -> Option<usize> {
        self.rules.iter().position(|rule| rule.is_shared && rule.name == name)
    }
}
