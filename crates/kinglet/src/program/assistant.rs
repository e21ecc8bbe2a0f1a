//! `kinglet run` on a sentence: what the assistant makes of it.

use std::ffi::OsStr;
use std::io::{self, BufRead, Read};
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
        let mut input = io::stdin().lock();
        for number in 1.. {
            let about = |error: Error| error.about(format!("standard input, line {number}"));
            let Some(line) = next_line(&mut input).map_err(about)? else { break };
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

/// Bytes of a line of standard input with its end, at most: far more than the assistant takes, so that
/// input without end takes no memory.
const LONGEST: u64 = 64 << 10;

/// The next line, without its end; `None` where there is none.
fn next_line(input: &mut impl BufRead) -> Result<Option<String>, Error> {
    let mut line = Vec::new();
    let read = input.take(LONGEST + 1).read_until(b'\n', &mut line);
    match read.map_err(|e| Error::input(e.to_string()))? {
        0 => return Ok(None),
        n if n as u64 > LONGEST => {
            let m = format!("it is longer than {LONGEST} bytes: say one sentence a line");
            return Err(Error::input(m));
        }
        _ => {}
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|_| Error::input("it is no UTF-8"))
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
    fn lines_are_read_and_bounded() {
        let longest = "a".repeat(LONGEST as usize);
        let text = format!("one\n\nthree\r\n{longest}\n");
        let mut input = text.as_bytes();
        for line in ["one", "", "three\r"] {
            assert_eq!(next_line(&mut input).unwrap().as_deref(), Some(line));
        }
        assert!(next_line(&mut input).unwrap_err().to_string().contains("longer than 65536"));
        assert_eq!(next_line(&mut "".as_bytes()).unwrap(), None);
        assert_eq!(next_line(&mut "end".as_bytes()).unwrap().as_deref(), Some("end"));
        assert!(next_line(&mut &b"\xff\n"[..]).is_err());
    }

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
