//! `kinglet chat` on a terminal, as a person sees it.

use crate::common::{folder, kinglet, model};
use crate::terminal::Terminal;
use kinglet::parts::formats::gguf::{Gguf, Writer};
use tempfile::TempDir;

const ENTER: &str = "\r";
const ALT_ENTER: &str = "\x1b\r";
const UP: &str = "\x1b[A";
const TAB: &str = "\t";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_U: &str = "\x15";

const STORIES: &str = "lm/tinystories-260k-f32.gguf";

/// A template under which the conversation is one story.
const STORY: &str = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}";

/// The story teller with a chat template in its file.
fn story_teller(folder: &TempDir) -> Option<String> {
    let from = Gguf::open(model(STORIES)?.as_ref()).unwrap();
    let mut metadata = from.metadata.clone();
    metadata.insert("tokenizer.chat_template", STORY.into());
    let mut writer = Writer::new(metadata);
    for (name, tensor) in from.tensors.iter() {
        writer.tensor(name, tensor).unwrap();
    }
    let path = folder.path().join("stories.gguf");
    writer.write(&path).unwrap();
    Some(path.to_str().unwrap().to_string())
}

fn chat(model: &str, more: &[&str]) -> Terminal {
    let words = ["chat", model, "--quiet", "--temperature", "0", "--cache", "f32"];
    let terminal = Terminal::start(&[&words, more].concat(), 24, 60);
    terminal.see("›");
    terminal
}

#[test]
fn a_template_in_the_file_is_used() {
    let folder = folder();
    let Some(path) = story_teller(&folder) else { return };
    let text = |path: &str, more: &[&str]| {
        let words = ["run", path, "Once upon a time", "--json", "--max-tokens", "40"];
        kinglet(words.iter().chain(more)).json()["text"].as_str().unwrap().to_string()
    };
    let without = model(STORIES).unwrap();
    let plain = text(&without, &[]);
    assert!(plain.starts_with(", there was a little girl named Lily."), "{plain}");
    // This template adds nothing to the prompt; ChatML does.
    assert_eq!(text(&path, &[]), plain);
    assert_eq!(text(&path, &["--raw"]), plain);
    assert_ne!(text(&without, &["--chat"]), plain);
}

#[test]
fn a_conversation_with_history_lines_and_commands() {
    let folder = folder();
    let Some(path) = story_teller(&folder) else { return };
    let saved = folder.path().join("talk.json");
    let mut terminal = chat(&path, &["--max-tokens", "24"]);
    terminal.press(&format!("Once upon a time{ENTER}"));
    terminal.see("\n›");
    // The last line again, with more at its end.
    terminal.press(UP);
    terminal.see("› Once upon a time");
    terminal.press(&format!(", Tim{ENTER}"));
    terminal.see("\n›");
    // A line that goes on, one that Alt-Enter breaks, and what is not of one byte.
    terminal.press(&format!("The dog\\{ENTER}saw a 😀{ALT_ENTER}é"));
    terminal.see("› The dog\\\nsaw a 😀\né");
    terminal.press(ENTER);
    insta::assert_snapshot!("conversation", terminal.see("\n›"));

    terminal.press(&format!("/fly{ENTER}"));
    terminal.until("a refusal", |screen| {
        screen.contains("no command is called /fly") && screen.ends_with("\n›")
    });
    terminal.press(&format!("/system Be kind.{ENTER}"));
    terminal.see("Be kind.\n›");
    terminal.press(&format!("/save {}{ENTER}", saved.display()));
    terminal.until("wrote", |screen| screen.contains("\nwrote ") && screen.ends_with("\n›"));
    let talk: serde_json::Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    let said: Vec<&str> = (talk["messages"].as_array().unwrap().iter())
        .filter(|message| message["role"] != "assistant")
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    let expected =
        ["Be kind.", "Once upon a time", "Once upon a time, Tim", "The dog\nsaw a 😀\né"];
    assert_eq!(said, expected);
    terminal.press(&format!("/clear{ENTER}"));
    terminal.see("/clear\n›");
    terminal.press(&format!("/load {}{ENTER}", saved.display()));
    terminal.until("what was loaded", |screen| {
        screen.contains("6 messages from") && screen.ends_with("\n›")
    });
    terminal.press(&format!("/he{TAB}"));
    terminal.see("› /help");
    terminal.press(ENTER);
    let help = terminal.see("\n›");
    insta::assert_snapshot!("commands", help[help.rfind("› /help").unwrap()..]);
    terminal.press(CTRL_D);
    assert!(terminal.end().success());
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let folder = folder();
    let Some(path) = story_teller(&folder) else { return };
    // Such an answer never ends by itself.
    let endless = ["--endless", "--ignore-end", "--max-tokens", "1000000000"];
    let mut terminal = chat(&path, &endless);
    for said in ["Once upon a time", "The dog"] {
        terminal.press(said);
        let asked = format!("› {said}");
        terminal.see(&asked);
        terminal.press(ENTER);
        terminal.until("an answer", |screen| !screen.ends_with(&asked) && !screen.ends_with('›'));
        terminal.press(CTRL_C);
        terminal.see("\n›");
    }
    terminal.press("never said");
    terminal.see("› never said");
    terminal.press(CTRL_C);
    terminal.see("› never said\nCtrl-D or /quit ends the conversation\n›");
    terminal.press(CTRL_D);
    assert!(terminal.end().success());
}

#[test]
fn ctrl_c_before_the_answer_takes_the_question_back() {
    let folder = folder();
    let Some(path) = story_teller(&folder) else { return };
    let [long, saved] = ["long.json", "saved.json"].map(|name| folder.path().join(name));
    let [long, saved] = [&long, &saved].map(|path| path.to_str().unwrap());
    // This takes minutes to read.
    let story = "Once upon a time, there was a dog. ".repeat(10_000);
    let talk = serde_json::json!({ "messages": [{ "role": "user", "content": story }, { "role": "assistant", "content": "The end." }] });
    std::fs::write(long, talk.to_string()).unwrap();
    let mut terminal = chat(&path, &["--context", "200000", "--max-tokens", "24", "--load", long]);
    for _ in 0..2 {
        terminal.press("And then?");
        terminal.see("› And then?");
        terminal.press(ENTER);
        terminal.until_heard();
        terminal.press(CTRL_C);
        terminal.see("stopped before the answer; ↑ brings back what you said\n›");
    }
    terminal.press(UP);
    terminal.see("\n› And then?");
    terminal.press(CTRL_U);
    terminal.press(&format!("/save {saved}{ENTER}"));
    terminal.until("wrote", |screen| screen.contains("wrote ") && screen.ends_with("\n›"));
    let read: serde_json::Value = serde_json::from_slice(&std::fs::read(saved).unwrap()).unwrap();
    assert_eq!(read, talk);
    // What comes next is answered as if nothing had been asked.
    terminal.press(&format!("/clear{ENTER}"));
    terminal.see("/clear\n›");
    terminal.press(&format!("Once upon a time{ENTER}"));
    terminal.until("an answer", |screen| {
        screen.contains("› Once upon a time\n, there was a little girl named Lily.")
            && screen.ends_with("\n›")
    });
    terminal.press(CTRL_D);
    assert!(terminal.end().success());
}

#[test]
fn a_line_is_drawn_anew_in_a_window_made_narrower_or_wider() {
    let Some(path) = model(STORIES) else { return };
    let mut terminal = chat(&path, &[]);
    let line = "one two three four five six seven eight nine ten";
    terminal.press(line);
    terminal.see(line);
    for columns in [20, 60].into_iter().cycle().take(40) {
        terminal.resize(24, columns);
        let rows = if columns == 20 { 3 } else { 1 };
        terminal.until("the line drawn anew", |screen| {
            let drawn: Vec<&str> = screen.lines().rev().take(rows).collect();
            let whole: Vec<&str> = drawn.iter().rev().copied().collect();
            whole[0].starts_with("› one")
                && whole.join("").replace(' ', "").ends_with("eightnineten")
        });
    }
    terminal.press(CTRL_U);
    terminal.press(&format!("/quit{ENTER}"));
    assert!(terminal.end().success());
}

#[test]
fn long_lines_wrap_and_long_pastes_are_refused() {
    let Some(path) = model(STORIES) else { return };
    let mut terminal = chat(&path, &["--max-tokens", "4"]);
    let line = "one two three four five six seven eight nine ten ".repeat(3);
    terminal.press(&line);
    terminal
        .until("the line", |screen| screen.ends_with("nine ten") && screen.lines().count() == 3);
    terminal.press(CTRL_U);
    terminal.until("an empty line", |screen| screen.ends_with('›'));
    // A paste of many lines is one message, which is too long for the context.
    let paste = "a line of a long text\n".repeat(500);
    terminal.press(&format!("\x1b[200~{paste}\x1b[201~{ENTER}"));
    terminal.until("a refusal", |screen| {
        screen.replace('\n', "").contains("do not fit in a context") && screen.ends_with('›')
    });
    terminal.press(&format!("/quit{ENTER}"));
    assert!(terminal.end().success());
}

#[test]
fn a_full_context_forgets_whole_turns_and_says_so() {
    let folder = folder();
    let Some(path) = story_teller(&folder) else { return };
    let mut terminal = chat(&path, &["--context", "64", "--max-tokens", "24"]);
    for said in ["Once upon a time", "The dog ran", "It was red", "Then he saw a cat"] {
        terminal.press(&format!("{said}{ENTER}"));
        terminal.until("an answer", |screen| {
            screen.contains(&format!("› {said}\n")) && screen.ends_with("\n›")
        });
    }
    // What is refused makes the model forget nothing.
    terminal.press(&format!("{}{ENTER}", "one two three ".repeat(30)));
    terminal.until("a refusal", |screen| {
        screen.replace('\n', "").contains("do not fit in a context") && screen.ends_with("\n›")
    });
    terminal.press(&format!("The end{ENTER}"));
    let screen = terminal
        .until("an answer", |screen| screen.contains("› The end\n") && screen.ends_with("\n›"));
    insta::assert_snapshot!("full", screen);
    terminal.press(CTRL_D);
    assert!(terminal.end().success());
}
