//! The form of an answer: the contract as a grammar that decoding is held to.
//!
//! A call is written as training data write it: JSON without spaces, arguments in the contract's order.
//! So its form is a regular language, written as terminals of
//! [Lark](https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md). It is narrower than the
//! JSON schemas: an argument that holds somebody's words ([`Kind::Text`]) can only be words of the
//! sentence, one after the other as they stand there.

use std::fmt::Write;

use crate::contract::{Contract, Function, Kind, Parameter};

/// Texts that are written as their sender would write them: "tell Ben his car is ready" says
/// `your car is ready`.
const REWRITTEN: [(&str, &str); 2] = [("send_message", "text"), ("send_email", "body")];

/// Texts that may also be an address that is spelled in the sentence: "ana at home dot org".
const ADDRESSES: [(&str, &str); 1] = [("send_email", "to")];

/// Terminals that do not depend on the sentence. Dates are those that the module `clock` knows.
const FIXED: &str = r#"
TIME: /([01][0-9]|2[0-3]):[0-5][0-9]/
DAY_OF_MONTH: /(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31/
DATE: /today|tomorrow|monday|tuesday|wednesday|thursday|friday|saturday|sunday/
    | /[0-9]{4}-/ DAY_OF_MONTH | "--" DAY_OF_MONTH | "--02-29"
    | /([0-9][0-9](0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29/
    | /---(0[1-9]|[12][0-9]|3[01])/ | /P[0-9]{1,4}D/
EXPRESSION: /[-+*\/().%]*[0-9][-+*\/().%0-9]*/
ADDRESS: /[^\s"\\@\x00-\x1F\x7F]+@[^\s"\\@\x00-\x1F\x7F]+/
TEXT: /([^\s"\\\x00-\x1F\x7F]|\\["\\])(([^"\\\x00-\x1F\x7F]|\\["\\])*([^\s"\\\x00-\x1F\x7F]|\\["\\]))?/
"#;

impl Contract {
    /// The grammar of the calls that `say` may ask for. `say` has no white space at its ends, no control
    /// characters, and is not empty.
    pub fn grammar(&self, say: &str) -> String {
        let mut grammar = String::from("start: CALL\n");
        let names: Vec<_> =
            self.functions.iter().map(|f| format!("TO_{}", f.name.to_uppercase())).collect();
        let mut line = |name: &str, is: &str| {
            let _ = writeln!(grammar, "{name}: {is}");
        };
        line("CALL", &format!("{} ({}) \"}}}}\"", quoted("{\"name\":\""), names.join(" | ")));
        for (function, name) in self.functions.iter().zip(&names) {
            let head = quoted(&format!("{}\",\"arguments\":{{", function.name));
            line(name, &format!("{head} {}", arguments(function, &function.parameters, true)));
        }
        line("SAID", "SUBSTRING & TEXT");
        let chunks = serde_json::to_string(&chunks(say)).expect("texts are JSON");
        line("SUBSTRING", &format!("%regex {{\"substring_chunks\": {chunks}}}"));
        line("LANGUAGE", &languages(say));
        grammar + FIXED
    }
}

/// What may stand between the braces of a function's arguments, or what follows the first of them.
fn arguments(function: &Function, parameters: &[Parameter], first: bool) -> String {
    let Some((parameter, rest)) = parameters.split_first() else { return String::new() };
    let comma = if first { "" } else { "," };
    let name = quoted(&format!("{comma}\"{}\":", parameter.name));
    let value = value(function, parameter);
    let with = format!("{name} {value} {}", arguments(function, rest, false));
    let without = arguments(function, rest, first);
    match (parameter.required, without.is_empty()) {
        (true, _) => with,
        (false, true) => format!("({with})?"),
        (false, false) => format!("({with} | {without})"),
    }
}

fn value(function: &Function, parameter: &Parameter) -> String {
    let is_of = |list: &[(&str, &str)]| list.contains(&(&function.name, &parameter.name));
    let text = match &parameter.kind {
        Kind::Integer { low, high } => return integer(*low, *high),
        Kind::Words(of) => return words(of),
        Kind::Word(of) => of.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" | "),
        Kind::Text if is_of(&REWRITTEN) => "TEXT".into(),
        Kind::Text if is_of(&ADDRESSES) => "SAID | ADDRESS".into(),
        Kind::Text => "SAID".into(),
        Kind::Language => "LANGUAGE".into(),
        Kind::Expression => "EXPRESSION".into(),
        Kind::Time => "TIME".into(),
        Kind::Date => "DATE".into(),
    };
    format!("\"\\\"\" ({text}) \"\\\"\"")
}

/// Whole numbers: all of few, and of many those of at most nine digits.
fn integer(low: i64, high: i64) -> String {
    const FEW: i64 = 1000;
    if high.saturating_sub(low) < FEW {
        let all: Vec<_> = (low..=high).map(|n| n.to_string()).collect();
        return format!("/{}/", all.join("|"));
    }
    let sign = if low < 0 { "-?" } else { "" };
    let zero = if low <= 0 { "0|" } else { "" };
    format!("/{zero}{sign}[1-9][0-9]{{0,8}}/")
}

/// Lists of some of these words, in their order.
fn words(of: &[String]) -> String {
    let word = |word: &String| quoted(&format!("\"{word}\""));
    let later = |word: &String| format!("{}?", quoted(&format!(",\"{word}\"")));
    let each = of.iter().enumerate().map(|(i, first)| {
        let rest: Vec<_> = of[i + 1..].iter().map(later).collect();
        format!("{} {}", word(first), rest.join(" "))
    });
    format!("\"[\" ({}) \"]\"", each.collect::<Vec<_>>().join(" | "))
}

/// A literal of the grammar.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

/// The sentence in parts, between which words may begin and end, as JSON strings have them.
fn chunks(say: &str) -> Vec<String> {
    let mut chunks = Vec::<String>::new();
    let mut in_word = false;
    for c in say.chars() {
        let word = c.is_alphanumeric();
        if !(word && in_word) {
            chunks.push(String::new());
        }
        in_word = word;
        let chunk = chunks.last_mut().expect("one was just pushed");
        if matches!(c, '"' | '\\') {
            chunk.push('\\');
        }
        chunk.push(c);
    }
    chunks
}

/// One or two words of the sentence, in lower case; any where it has none.
fn languages(say: &str) -> String {
    let say = say.to_lowercase();
    let words: Vec<_> = say.split(|c: char| !c.is_lowercase()).filter(|w| !w.is_empty()).collect();
    let pairs = words.windows(2).map(|pair| quoted(&pair.join(" ")));
    let all: Vec<_> = words.iter().map(|word| quoted(word)).chain(pairs).collect();
    if all.is_empty() { "/[a-z]+/".into() } else { all.join(" | ") }
}
