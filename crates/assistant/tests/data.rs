//! The training data: it keeps the contract, and it is the same wherever it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kinglet_assistant::clock::{Date, is_complete};
use kinglet_assistant::contract::{CallError, FUNCTIONS_JSON};
use kinglet_assistant::grammar::Grammar;
use kinglet_assistant::{Contract, Example, Generator, HeldOut};
use serde_json::{Value, json};

fn examples(seed: u64, count: usize) -> Vec<Example> {
    let mut generator = Generator::new(seed).unwrap();
    (0..count).map(|_| generator.example().unwrap()).collect()
}

/// FNV-1a, to name bytes by.
fn fingerprint(examples: &[Example]) -> u64 {
    let bytes = examples.iter().flat_map(|example| example.line().into_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn a_seed_says_all() {
    let first = examples(11, 2000);
    assert_eq!(first, examples(11, 2000));
    assert_ne!(first, examples(12, 2000));
}

#[test]
fn fifty_thousand_calls_keep_the_contract() {
    let contract = Contract::shipped();
    let today = Date::new(2026, 11, 27).unwrap();
    let mut counts = BTreeMap::<String, usize>::new();
    let mut filled = BTreeSet::new();
    for example in examples(5, 50_000) {
        assert!(!example.say.is_empty());
        let line: Value = serde_json::from_str(&example.line()).unwrap();
        let call = contract.read(&line["call"]).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(call, example.call, "arguments keep the contract's order");
        let call = call.on(today);
        if let Some(date) = call.argument("date") {
            assert!(is_complete(date.as_str().unwrap()), "{line}");
        }
        *counts.entry(call.name.clone()).or_default() += 1;
        filled.extend(call.arguments.iter().map(|(name, _)| format!("{}.{name}", call.name)));
    }
    for function in contract.functions {
        let count = counts.get(&function.name).copied().unwrap_or_default();
        assert!(count > 500, "{} is called {count} times", function.name);
        for parameter in &function.parameters {
            let name = format!("{}.{}", function.name, parameter.name);
            assert!(filled.contains(&name), "nothing fills {name}");
        }
    }
}

/// What an argument copies stands in the sentence, letter by letter.
#[test]
fn copies_are_copies() {
    for example in examples(6, 20_000) {
        for name in ["who", "item", "query", "device", "title"] {
            if let Some(Value::String(text)) = example.call.argument(name)
                && text != "lights"
            {
                assert!(example.say.contains(text.as_str()), "{}", example.line());
            }
        }
    }
}

#[test]
fn sentences_are_varied() {
    let said: BTreeSet<_> = examples(7, 20_000).into_iter().map(|example| example.say).collect();
    assert!(said.len() > 18_000, "{} different sentences of 20000", said.len());
}

#[test]
fn the_contract_is_read() {
    let contract = Contract::shipped();
    assert_eq!(contract.functions.len(), 25);
    let event = contract.function("create_event").unwrap();
    let names: Vec<_> = event.parameters.iter().map(|p| (&*p.name, p.required)).collect();
    assert_eq!(names, [("title", true), ("date", true), ("time", true), ("minutes", false)]);
    let refused = |call: Value| contract.read(&call).unwrap_err();
    let call = |name: &str, arguments: Value| json!({"name": name, "arguments": arguments});
    assert_eq!(refused(call("fly", json!({}))), CallError::Function("fly".into()));
    for (name, arguments) in [
        ("set_alarm", json!({})),
        ("set_alarm", json!({"time": "7:00"})),
        ("set_alarm", json!({"time": "24:00"})),
        ("set_alarm", json!({"time": "07:00", "days": []})),
        ("set_alarm", json!({"time": "07:00", "days": ["tue", "mon"]})),
        ("set_alarm", json!({"time": "07:00", "date": "today"})),
        ("set_timer", json!({"seconds": 0})),
        ("set_timer", json!({"seconds": 1.5})),
        ("set_volume", json!({"percent": 101})),
        ("create_event", json!({"title": "x", "date": "someday", "time": "07:00"})),
        ("calculate", json!({"expression": "two+2"})),
        ("translate", json!({"text": "hi", "to": "French"})),
        ("call", json!({"who": ""})),
        ("no_call", json!({"reason": "lazy"})),
    ] {
        refused(call(name, arguments));
    }
    assert!(matches!(refused(json!("call Ana")), CallError::Form(_)));
    assert!(Contract::parse("{").is_err() && Contract::parse("[{}]").is_err());
    let shipped: Value = serde_json::from_str(FUNCTIONS_JSON).unwrap();
    assert_eq!(shipped.as_array().unwrap().len(), 25);
}

#[test]
fn every_file_is_carried() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let source = fs::read_to_string(data.join("../src/data.rs")).unwrap();
    for folder in ["train", "dev", "test"] {
        let block = source.split(&format!("{folder:?}:")).nth(1).unwrap();
        let block = block.split(");").next().unwrap();
        for file in fs::read_dir(data.join(folder)).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap().replace(".txt", "");
            assert!(block.contains(&format!("\"{name}\"")), "{folder}/{name} is not in data.rs");
        }
    }
}

#[test]
fn mistakes_in_a_grammar_are_named() {
    for (text, what) in [
        ("> call {who=(Ana}", "')'"),
        ("> call {who=Ana", "'}' is missing"),
        ("> call <nobody>", "no rule \"nobody\""),
        ("> call <@nobody>", "nothing speaks"),
        ("who = Ana\nwho = Ben\n> call {who}", "already"),
        ("who = <other>\nother = <who>\n> call {who}", "leads back"),
        ("call Ana", "neither"),
        ("  Ana", "goes on with nothing"),
        (">x call {who=Ana}", "no weight"),
        ("> call Ana)", "closes nothing"),
        (">", "empty"),
    ] {
        let error = Grammar::parse(&[("call", text)]).unwrap_err().to_string();
        assert!(error.contains(what), "{text:?}: {error}");
    }
    let contract = Contract::shipped();
    for (text, what) in [
        ("> call", "nothing fills who"),
        ("> call ({who=Ana}|)", "may stay empty"),
        ("> call {who=Ana} {who=Ben}", "twice"),
        ("> call {who=Ana} {where=home}", "takes no argument where"),
    ] {
        let error = Grammar::parse(&[("call", text)]).unwrap().check(&contract).unwrap_err();
        assert!(error.to_string().contains(what), "{text:?}: {error}");
    }
}

#[test]
fn held_out_calls_keep_the_contract() {
    let contract = Contract::shipped();
    for set in [HeldOut::Dev, HeldOut::Test] {
        for example in set.examples().unwrap() {
            contract.check(&example.call).unwrap();
        }
    }
}

/// The bytes that a seed gives are part of what makes the shipped assistant reproducible: changed
/// data changes this number, and means that the assistant is to be trained anew.
#[test]
fn the_bytes_are_known() {
    assert_eq!(format!("{:016x}", fingerprint(&examples(1, 5000))), "2db7d21123959d80");
}
