//! Nothing of the held-out sets is in the training data: no sentence pattern, and no word of the
//! names, places, titles and texts that fill arguments. The training grammar itself says what it
//! derives, not samples of it.

use std::collections::BTreeSet;

use kinglet_assistant::contract::Kind;
use kinglet_assistant::grammar::{Grammar, Pattern};
use kinglet_assistant::{Annotated, Contract, Generator, HeldOut, everyday, training_grammar};

const BEFORE: [&str; 3] = ["before_command", "before_question", "before_statement"];
const AFTER: [&str; 4] = ["after_command", "after_question", "after_statement", "after_text"];

/// What of an example the training grammar derives too.
fn shared(training: &Grammar, names: &BTreeSet<String>, of: &Annotated) -> Vec<String> {
    let (call, contract) = (&of.example.call, Contract::shipped());
    let mut found = Vec::new();
    let function = contract.function(&call.name).unwrap();
    let is_open = |name: &str| function.parameter(name).is_some_and(|p| p.kind.is_open());
    if training.derives(&call.name, &of.pattern, is_open, (&BEFORE, &AFTER)) {
        found.push(format!("{}: pattern {:?}", of.place, of.pattern.text()));
    }
    for (name, value) in &call.arguments {
        let kind = &function.parameter(name).unwrap().kind;
        let (Kind::Text, Some(text)) = (kind, value.as_str()) else { continue };
        // The names of lists are few, and so are rooms.
        if name == "list" {
            continue;
        }
        if training.fills(name, text) {
            found.push(format!("{}: {name} {text:?}", of.place));
        }
        for word in text.split([' ', '-']).filter(|word| is_name(word)) {
            let folded = word.to_lowercase().replace('\'', "");
            let plain =
                folded.strip_suffix('s').filter(|_| word.ends_with("'s")).unwrap_or(&folded);
            if names.contains(plain) {
                found.push(format!("{}: the name {word:?} of {text:?}", of.place));
            }
        }
    }
    found
}

/// Words with a capital are names, but for "I", days and a few that names share.
fn is_name(word: &str) -> bool {
    let common = ["The", "Mr", "Ms.", "Professor", "Home"];
    let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    word.chars().count() > 2
        && word.starts_with(char::is_uppercase)
        && !word.starts_with("I'")
        && !common.contains(&word)
        && !days.iter().any(|day| word.starts_with(day))
}

#[test]
fn training_derives_nothing_held_out() {
    let training = training_grammar().unwrap();
    let names = training.names();
    let mut found = Vec::new();
    for set in [HeldOut::Dev, HeldOut::Test] {
        for example in set.annotated().unwrap() {
            found.extend(shared(&training, &names, &example));
        }
    }
    assert!(found.is_empty(), "{} shared:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_sets_share_nothing_with_each_other() {
    let patterns = |set: HeldOut| -> BTreeSet<String> {
        set.annotated().unwrap().iter().map(|example| example.pattern.text()).collect()
    };
    let (dev, test) = (patterns(HeldOut::Dev), patterns(HeldOut::Test));
    let both: Vec<_> = dev.intersection(&test).collect();
    assert!(both.is_empty(), "{both:?}");
}

#[test]
fn each_function_is_tried_often() {
    for (set, least) in [(HeldOut::Dev, 10), (HeldOut::Test, 40)] {
        let examples = set.examples().unwrap();
        let said: BTreeSet<_> = examples.iter().map(|example| &example.say).collect();
        assert_eq!(said.len(), examples.len(), "a sentence is there twice");
        for function in Contract::shipped().functions {
            let count = examples.iter().filter(|e| e.call.name == function.name).count();
            assert!(count >= least, "{set:?} has {count} sentences of {}", function.name);
        }
    }
}

#[test]
fn the_grammar_knows_what_it_derives() {
    let grammar = Grammar::parse(&[
        ("call", "who = Ana | Ben\n> (call|ring) {who} (now|)\n? may I {who=speak to <@name>}"),
        ("frame", "before = hey,"),
    ])
    .unwrap();
    let pattern = |text: &str| {
        let pieces = text.split('_').enumerate();
        let texts: Vec<_> =
            pieces.flat_map(|(index, text)| [("x", index > 0), (text, false)]).skip(1).collect();
        Pattern::new(texts)
    };
    let derives =
        |text: &str| grammar.derives("call", &pattern(text), |_| true, (&["before"], &[]));
    for yes in ["call _", "Ring _ now!", "hey, call _", "may I _"] {
        assert!(derives(yes), "{yes}");
    }
    for no in ["call", "call _ then", "phone _", "call now", "hey call _ now now", "recall _"] {
        assert!(!derives(no), "{no}");
    }
    assert!(grammar.fills("who", "ana") && !grammar.fills("who", "An"));
    assert!(!grammar.fills("who", "speak to Zed") && !grammar.fills("what", "Ana"));
}

/// Ordinary sentences: of every function, and none of them is trained on.
#[test]
fn everyday_sentences_are_not_trained_on() {
    let plain = |say: &str| -> String {
        let kept = say.to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || *c == ' ').collect()
    };
    let examples = everyday();
    let said: BTreeSet<String> = examples.iter().map(|example| plain(&example.say)).collect();
    assert_eq!(said.len(), examples.len(), "a sentence is there twice");
    for function in Contract::shipped().functions {
        let count = examples.iter().filter(|e| e.call.name == function.name).count();
        assert!(count >= 4, "{count} sentences of {}", function.name);
    }
    let mut generator = Generator::new(1).unwrap();
    for _ in 0..50_000 {
        let example = generator.example().unwrap();
        assert!(!said.contains(&plain(&example.say)), "{}", example.say);
    }
}
