//! The score, on answers whose faults are known.

use kinglet_assistant::{Contract, Example, score};
use serde_json::{Value, json};

fn call(name: &str, arguments: Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

#[test]
fn faults_are_counted_where_they_are() {
    let contract = Contract::shipped();
    let cases = [
        // Right, in another order.
        (
            call("send_message", json!({"to": "Ana", "text": "I'm late"})),
            call("send_message", json!({"text": "I'm late", "to": "Ana"})),
        ),
        // Right but for case and a mark.
        (
            call("send_message", json!({"to": "Ana", "text": "can you come?"})),
            call("send_message", json!({"to": "ana", "text": "Can you  come"})),
        ),
        // A wrong and a missing argument.
        (
            call("set_alarm", json!({"time": "06:45", "label": "gym"})),
            call("set_alarm", json!({"time": "06:40"})),
        ),
        // Another function.
        (call("call", json!({"who": "Ben"})), call("no_call", json!({"reason": "missing"}))),
        // No call at all.
        (call("set_volume", json!({"percent": 20})), call("set_volume", json!({"percent": 200}))),
        (call("cancel_alarm", json!({})), json!("oh")),
    ];
    let example = |wanted| Example { say: "…".into(), call: contract.read(wanted).unwrap() };
    let examples: Vec<_> = cases.iter().map(|(wanted, _)| example(wanted)).collect();
    let answers: Vec<_> = cases.iter().map(|(_, answer)| answer.clone()).collect();
    let score = score(&contract, &examples, &answers);
    let all = score.all;
    assert_eq!((all.of, all.function, all.exact, all.normalised), (6, 3, 1, 2));
    assert_eq!(score.functions["send_message"].normalised, 2);
    assert_eq!(score.invalid, 2);
    assert_eq!(score.mistakes.len(), 4);
    let confusion = ("call".to_owned(), "no_call".to_owned(), 1);
    assert!(score.confusions.contains(&confusion), "{:?}", score.confusions);
    let arguments: Vec<_> = score.arguments.iter().map(|(name, n)| (&**name, *n)).collect();
    assert_eq!(arguments, [("set_alarm.label", 1), ("set_alarm.time", 1)]);
    let table = score.to_string();
    assert!(table.starts_with("all "), "{table}");
    assert!(table.contains("call → no_call") && table.contains("2 answers break"), "{table}");
}
