//! `kinglet run` on a sentence: what the assistant makes of it.

use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kinglet::Error;
use kinglet::assistant::{Assistant, Call};

use super::Common;
use super::output::milliseconds;

/// What files of models end in.
const MODELS: [&str; 4] = ["gguf", "tflite", "onnx", "safetensors"];

/// Whether the words of `run` are a sentence, and not a model and its inputs: the first names nothing
/// that is there, does not look like a path, and no other names a file for it.
pub(super) fn is_sentence(first: &Path, others: &[PathBuf]) -> bool {
    let piped = first == Path::new("-") && others.is_empty();
    piped || !(first.exists() || looks_like_a_path(first) || others.iter().any(|o| o.is_file()))
}

fn looks_like_a_path(word: &Path) -> bool {
    let text = word.to_string_lossy();
    let (stem, extension) = text.rsplit_once('.').unwrap_or((&text, ""));
    let named = !stem.is_empty() && extension.starts_with(|c: char| c.is_ascii_alphabetic());
    match text.contains(char::is_whitespace) {
        true => MODELS.iter().any(|model| extension.eq_ignore_ascii_case(model)),
        false => named || text.starts_with('~') || text.contains(['/', '\\']),
    }
}

/// Answers the sentence of `words`, or each line of standard input where they are `-`.
pub(super) fn run(words: &[&OsStr], file: Option<&Path>, common: &Common) -> Result<(), Error> {
    if words.iter().all(|word| word.is_empty()) {
        let m =
            "nothing is said: give a sentence, as in kinglet run \"wake me at 6:45\", or a model";
        return Err(Error::input(m));
    }
    let start = Instant::now();
    let mut assistant = match file {
        None => Assistant::built_in_with(common.threads())?,
        Some(file) => Assistant::open(file, common.threads())?,
    };
    let load_ms = milliseconds(start);
    let mut answer = |say: &str| {
        let call = assistant.answer(say)?;
        super::print(&(if common.json { call.json() } else { told(&call) } + "\n"))
    };
    if words == [OsStr::new("-")] {
        let mut heard = false;
        for (i, line) in io::stdin().lock().lines().enumerate() {
            let about = |error: Error| error.about(format!("standard input, line {}", i + 1));
            let line = line.map_err(|e| about(Error::input(e.to_string())))?;
            if !line.trim().is_empty() {
                answer(&line).map_err(about)?;
                heard = true;
            }
        }
        return if heard { Ok(()) } else { answer("") };
    }
    let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
    let words = words.ok_or_else(|| Error::input("the sentence is no UTF-8"))?;
    let start = Instant::now();
    answer(&words.join(" "))?;
    if !common.json {
        common.note(format!("{:.1} ms, after {load_ms:.1} ms to load", milliseconds(start)));
    }
    Ok(())
}

/// A call for people.
fn told(call: &Call) -> String {
    if call.name == "no_call" {
        let reason = call.argument("reason").and_then(|reason| reason.as_str()).unwrap_or_default();
        let means = match reason {
            "chat" => "this is talk, nothing to do for a device",
            "missing" => "the request lacks something, such as who, what or when",
            _ => "no function of the device does this",
        };
        return format!("no call ({reason}): {means}");
    }
    let arguments = call.arguments.iter().map(|(name, value)| format!("{name}: {value}"));
    format!("{}({})", call.name, arguments.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_told_from_models() {
        let says = |words: &[&str]| {
            let others: Vec<PathBuf> = words[1..].iter().map(PathBuf::from).collect();
            is_sentence(Path::new(words[0]), &others)
        };
        for sentence in [
            &["wake me at 6:45"][..],
            &["wake", "me", "at", "6:45"],
            &["hi."],
            &["3.5+2"],
            &["text Ana and/or Ben"],
            &["email joe@example.com"],
            &["-"],
            &[""],
        ] {
            assert!(says(sentence), "{sentence:?}");
        }
        for model in [
            &["modle.gguf", "hi"][..],
            &["models/llama", "hi"],
            &["~/llama"],
            &["my model.GGUF"],
            &["mobilenet.tfllite", "cat.jpg"],
            &["mobilenet", "Cargo.toml"],
            &["Cargo.toml"],
            &["src"],
        ] {
            assert!(!says(model), "{model:?}");
        }
    }
}
