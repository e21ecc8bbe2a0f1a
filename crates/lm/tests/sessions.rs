//! Conversations with a small model: text as it comes, where it ends, and what it costs.

use kinglet_lm::sample::{Sampling, log_sum_exp};
use kinglet_lm::tokenizer::{StreamDecoder, Tokenizer};
use kinglet_lm::{
    Answer, Constraint, FinishReason, Generation, LanguageModel, LmError, Options, Session,
};
use kinglet_testing::{Rng, model};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::PathBuf;

fn stories(context: usize) -> Option<LanguageModel> {
    let path = model("lm/tinystories-260k-f32.gguf")?;
    let options =
        Options { context: Some(context), sequences: 2, threads: 2, ..Options::default() };
    Some(LanguageModel::open(&path, &options).unwrap())
}

/// The answer to `prompt`, which must be what was heard of it.
fn answer(
    model: &mut LanguageModel,
    prompt: &str,
    generation: &Generation,
) -> Result<Answer, LmError> {
    let mut session = Session::new(model)?;
    session.push_text(model, prompt)?;
    let mut heard = String::new();
    let listen = |text: &str| {
        assert!(!text.is_empty());
        heard.push_str(text);
        ControlFlow::Continue(())
    };
    let answer = session.generate(model, generation, listen);
    session.close(model);
    let answer = answer?;
    assert_eq!(heard, answer.text);
    Ok(answer)
}

fn tokens(n: usize) -> Generation {
    Generation { max_tokens: n, ..Generation::default() }
}

fn hot(n: usize, seed: u64) -> Generation {
    let sampling = Sampling { temperature: 1.5, seed, ..Sampling::default() };
    Generation { sampling, ..tokens(n) }
}

#[test]
fn greedy_text_is_llama_cpps() {
    let Some(mut model) = stories(256) else { return };
    let path = kinglet_testing::model("lm/tinystories-260k.json").unwrap();
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let want = case["greedy_text"].as_str().unwrap();
        let found = answer(&mut model, case["prompt"].as_str().unwrap(), &tokens(80)).unwrap();
        assert!(found.text.starts_with(want), "{:?} is not {want:?}", found.text);
    }
}

#[test]
fn answers_end_where_they_should() {
    let Some(mut model) = stories(256) else { return };
    let prompt = "Once upon a time";
    let long = answer(&mut model, prompt, &tokens(60)).unwrap();
    assert_eq!((long.tokens.len(), long.finish_reason), (60, FinishReason::Length));
    let none = answer(&mut model, prompt, &tokens(0)).unwrap();
    assert_eq!((none.text.as_str(), none.tokens.len()), ("", 0));
    assert_eq!(none.finish_reason, FinishReason::Length);
    // At a stop text, the earliest of several, which is left out.
    for stops in [vec!["Lily"], vec!["zebra", "ily. She", "Lily. "]] {
        let stop: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let stopped = answer(&mut model, prompt, &Generation { stop, ..tokens(60) }).unwrap();
        let at = stops.iter().filter_map(|s| long.text.find(s)).min().unwrap();
        assert_eq!(stopped.text, long.text[..at]);
        assert_eq!(stopped.finish_reason, FinishReason::Stop);
    }
    // When nobody listens any more; the conversation goes on from there.
    let mut session = Session::new(&mut model).unwrap();
    session.push_text(&model, prompt).unwrap();
    let mut heard = String::new();
    let cut = session
        .generate(&mut model, &tokens(60), |text| {
            heard.push_str(text);
            if heard.len() > 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(cut.finish_reason, FinishReason::Cancelled);
    let rest = session.generate(&mut model, &tokens(30), |_| ControlFlow::Continue(())).unwrap();
    assert!(long.text.starts_with(&(cut.text + &rest.text)));
    session.close(&mut model);
    // At the context's end.
    let Some(mut small) = stories(32) else { return };
    let full = answer(&mut small, prompt, &tokens(100)).unwrap();
    assert_eq!(full.finish_reason, FinishReason::Length);
    // Five tokens of the prompt, and one more than there are positions, as the last needs none.
    assert_eq!(full.tokens.len(), 32 - 5 + 1);
    assert!(long.text.starts_with(&full.text));
}

#[test]
fn nothing_said_and_too_much_said() {
    let Some(mut model) = stories(32) else { return };
    // Without a prompt, a text from its start.
    let mut session = Session::new(&mut model).unwrap();
    let found = session.generate(&mut model, &tokens(5), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(found.tokens.len(), 5);
    let bos = model.tokenizer().unwrap().special().bos.unwrap();
    assert_eq!(session.tokens()[0], bos);
    session.close(&mut model);
    let found = answer(&mut model, "", &tokens(5)).unwrap();
    assert_eq!(found.tokens.len(), 5);
    // Too long: says by how much.
    let long = "Once upon a time there was a little girl. ".repeat(8);
    let e = answer(&mut model, &long, &tokens(5)).unwrap_err();
    assert!(matches!(e, LmError::Context { needed, context: 32 } if needed > 32), "{e}");
    assert!(e.to_string().contains("context of 32"), "{e}");
    // Numbers that make no sense are named.
    let sampling = Sampling { top_p: 1.5, ..Sampling::default() };
    let e = answer(&mut model, "a", &Generation { sampling, ..tokens(5) }).unwrap_err();
    assert!(e.to_string().contains("top-p is 1.5"), "{e}");
    // As many sessions as there are sequences, and again once one is closed.
    let (a, _b) = (Session::new(&mut model).unwrap(), Session::new(&mut model).unwrap());
    assert_eq!(Session::new(&mut model).err(), Some(LmError::Sequences(2)));
    a.close(&mut model);
    assert!(Session::new(&mut model).is_ok());
}

#[test]
fn the_same_seed_says_the_same() {
    let Some(mut model) = stories(128) else { return };
    let mut say = |seed| answer(&mut model, "The dog was", &hot(40, seed)).unwrap();
    let (a, b, c) = (say(1), say(1), say(2));
    assert_eq!(a, b);
    assert_ne!(a.text, c.text);
}

#[test]
fn log_probabilities_are_the_models() {
    let Some(mut model) = stories(128) else { return };
    let found = answer(&mut model, "The dog was", &hot(20, 3)).unwrap();
    let mut session = Session::new(&mut model).unwrap();
    session.push_text(&model, "The dog was").unwrap();
    for chosen in &found.tokens {
        session.compute(&mut model).unwrap();
        let logits = session.logits();
        let want = logits[chosen.token as usize] - log_sum_exp(logits);
        assert!((chosen.log_probability - want).abs() < 1e-4, "{chosen:?}, not {want}");
        session.push(&[chosen.token]);
    }
}

#[test]
fn text_without_end_within_a_context() {
    let Some(mut model) = stories(64) else { return };
    let mut session = Session::new(&mut model).unwrap();
    session.push_text(&model, "Once upon a time").unwrap();
    let endless = |n| Generation { sinks: Some(4), ignore_end: true, ..tokens(n) };
    let mut say = |session: &mut Session, n| {
        session.generate(&mut model, &endless(n), |_| ControlFlow::Continue(())).unwrap()
    };
    say(&mut session, 64);
    let first = session.tokens()[..4].to_vec();
    let before = (model.stepper().planned_bytes(), model.stepper().shared().packed_bytes());
    let said = session.generate(&mut model, &endless(256), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((said.tokens.len(), said.finish_reason), (256, FinishReason::Length));
    assert!(session.tokens().len() <= 65, "{}", session.tokens().len());
    assert_eq!(session.tokens()[..4], first);
    let after = (model.stepper().planned_bytes(), model.stepper().shared().packed_bytes());
    assert_eq!(before, after);
}

#[test]
fn what_is_kept_of_endless_text_is_what_a_start_with_it_would_be() {
    let Some(mut model) = stories(64) else { return };
    let mut session = Session::new(&mut model).unwrap();
    session.push_text(&model, "Once upon a time").unwrap();
    let generation = Generation { sinks: Some(4), ignore_end: true, ..tokens(150) };
    session.generate(&mut model, &generation, |_| ControlFlow::Continue(())).unwrap();
    if session.tokens().len() > 64 {
        let shorter = session.tokens()[..64].to_vec();
        session.rewrite(&mut model, shorter);
    }
    session.compute(&mut model).unwrap();
    let mut fresh = Session::new(&mut model).unwrap();
    fresh.push(session.tokens());
    fresh.compute(&mut model).unwrap();
    for (a, b) in session.logits().iter().zip(fresh.logits()) {
        assert!((a - b).abs() < 1e-3, "{a}, not {b}");
    }
}

/// Text of one to four bytes a character.
fn text(rng: &mut Rng) -> String {
    let ranges = [(0x20, 0x7f), (0xa0, 0x500), (0x3040, 0x30ff), (0x1f300, 0x1f600)];
    (0..1 + rng.below(40))
        .filter_map(|_| {
            let (low, high) = ranges[rng.below(ranges.len())];
            char::from_u32((low + rng.below(high - low)) as u32)
        })
        .collect()
}

#[test]
fn streams_never_split_a_character() {
    let Some(models) = kinglet_testing::models() else { return };
    for name in ["gpt-2", "qwen2", "llama-spm"] {
        let path: PathBuf = models.join(format!("tokenizers/ggml-vocab-{name}.gguf"));
        let file = kinglet_formats::gguf::Gguf::open(&path).unwrap();
        let tokenizer = Tokenizer::from_gguf(&file.metadata).unwrap();
        let mut rng = Rng::new(1);
        let mut held_back = 0;
        for _ in 0..300 {
            let text = text(&mut rng);
            let options =
                kinglet_lm::tokenizer::EncodeOptions { add_special: false, parse_special: false };
            let tokens = tokenizer.encode(&text, options).unwrap();
            let mut decoder = StreamDecoder::new(&tokenizer);
            let mut found = String::new();
            for token in tokens {
                let piece = decoder.push(token);
                assert!(!piece.contains('\u{fffd}'), "{name}: {text:?} gave {piece:?}");
                held_back += usize::from(piece.is_empty());
                found.push_str(&piece);
                assert!(text.starts_with(&found), "{name}: {found:?} of {text:?}");
            }
            found.push_str(&decoder.finish());
            assert_eq!(found, text, "{name}");
        }
        assert!(held_back > 100, "{name}: no character was ever in pieces");
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "kind": {"enum": ["dog", "cat", "bird"]},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}
        },
        "required": ["name", "age", "kind", "tags"],
        "additionalProperties": false
    })
}

#[test]
fn constrained_json_always_fits_its_schema() {
    let Some(mut model) = stories(256) else { return };
    let constraint = Some(Constraint::JsonSchema(schema()));
    let mut names = std::collections::HashSet::new();
    for seed in 0..50 {
        let generation = Generation { constraint: constraint.clone(), ..hot(200, seed) };
        let found = answer(&mut model, "Once upon a time", &generation).unwrap();
        let text = &found.text;
        assert_eq!(found.finish_reason, FinishReason::Stop, "{text}");
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let object = value.as_object().unwrap();
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        assert_eq!(keys, ["name", "age", "kind", "tags"], "{text}");
        assert!(object["name"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!((0..=120).contains(&object["age"].as_i64().unwrap()), "{text}");
        assert!(["dog", "cat", "bird"].contains(&object["kind"].as_str().unwrap()), "{text}");
        let tags = object["tags"].as_array().unwrap();
        assert!(tags.len() <= 3 && tags.iter().all(Value::is_boolean), "{text}");
        // Tokens that had to come have their log-probability, too.
        assert!(found.tokens.iter().all(|c| c.log_probability <= 0.0), "{:?}", found.tokens);
        names.insert(object["name"].to_string());
    }
    assert!(names.len() > 25, "{names:?}");
}

#[test]
fn constrained_text_always_matches() {
    let Some(mut model) = stories(256) else { return };
    let pattern = r"(Mr|Mrs)\. [A-Z][a-z]{2,9} is [1-9][0-9]? years old[.!?]";
    let regex = regex_automata::meta::Regex::new(&format!("^(?:{pattern})$")).unwrap();
    let grammar = "start: sum\nsum: NUMBER (\" + \" NUMBER){1,4}\nNUMBER: /[1-9][0-9]{0,2}/\n";
    let sums = regex_automata::meta::Regex::new("^[1-9][0-9]{0,2}( \\+ [1-9][0-9]{0,2}){1,4}$");
    let sums = sums.unwrap();
    for seed in 0..50 {
        for (constraint, check) in
            [(Constraint::Regex(pattern.into()), &regex), (Constraint::Lark(grammar.into()), &sums)]
        {
            let generation = Generation { constraint: Some(constraint), ..hot(120, seed) };
            let found = answer(&mut model, "Once upon a time", &generation).unwrap();
            assert_eq!(found.finish_reason, FinishReason::Stop, "{}", found.text);
            assert!(check.is_match(&found.text), "{:?}", found.text);
        }
    }
}

#[test]
fn forced_tokens_have_the_log_probabilities_that_asking_gives() {
    let Some(mut model) = stories(128) else { return };
    let constraint = Some(Constraint::Regex("( the)( little girl| big dog) was \\(sad\\)".into()));
    let found =
        answer(&mut model, "Once upon a time", &Generation { constraint, ..tokens(60) }).unwrap();
    let mut session = Session::new(&mut model).unwrap();
    session.push_text(&model, "Once upon a time").unwrap();
    for chosen in &found.tokens {
        session.compute(&mut model).unwrap();
        let logits = session.logits();
        let want = logits[chosen.token as usize] - log_sum_exp(logits);
        assert!((chosen.log_probability - want).abs() < 1e-4, "{chosen:?}, not {want}");
        session.push(&[chosen.token]);
    }
}

#[test]
fn constraints_that_are_wrong_say_what_is() {
    let Some(mut model) = stories(64) else { return };
    let cases = [
        (Constraint::JsonSchema(json!({"type": "strin"})), "strin"),
        (Constraint::JsonSchema(json!({"$ref": "#/$defs/missing"})), "missing"),
        (Constraint::JsonSchema(json!({"type": "string", "pattern": "(a"})), "JSON schema"),
        (Constraint::JsonSchema(json!(7)), "JSON schema"),
        (Constraint::JsonSchema(json!({"type": "integer", "minimum": 5, "maximum": 2})), "JSON"),
        (Constraint::Regex("(a".into()), "regular expression"),
        (Constraint::Lark("start: nothing".into()), "nothing"),
        (Constraint::Lark("".into()), "grammar"),
    ];
    for (constraint, says) in cases {
        let generation = Generation { constraint: Some(constraint.clone()), ..tokens(5) };
        let e = answer(&mut model, "a", &generation).map(|a| a.text);
        let e = e.expect_err(&format!("{constraint:?}")).to_string();
        println!("{e}");
        assert!(e.contains(says), "{constraint:?}: {e}");
    }
}
