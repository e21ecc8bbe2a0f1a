//! `kinglet chat`: a conversation in the terminal.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use kinglet::Error;
use kinglet::lm::sample::Sampling;
use kinglet::lm::template::{ChatTemplate, Content, Conversation, Message};
use kinglet::lm::{FinishReason, Generation, LanguageModel, Session};
use serde::{Deserialize, Serialize};

use super::super::{Common, files, inspect::bytes};
use super::terminal::{Line, Lines};
use super::{Choosing, Loading, expect_language_model, rate, shown};

/// `kinglet chat`. Without a terminal the messages are the lines of standard input, and the first
/// failure ends it.
#[derive(Args)]
pub(in crate::program) struct Chat {
    /// The model: a GGUF file
    model: PathBuf,
    /// Tell the model first who it is and what it is to do
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Go on with a conversation that /save wrote
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    loading: Loading,
    #[command(flatten)]
    common: Common,
}

/// A conversation as `/save` writes it, and as `--json` prints it at the end.
#[derive(Serialize, Deserialize)]
struct Saved {
    messages: Vec<Message>,
}

/// A conversation under way.
struct Talk {
    model: LanguageModel,
    session: Session,
    template: ChatTemplate,
    generation: Generation,
    /// What was said, the system's word first.
    messages: Vec<Message>,
    /// Messages from the start that no longer fit in the context.
    forgotten: usize,
    stopped: Arc<AtomicBool>,
    silent: bool,
    last: Option<Turn>,
}

/// What the last answer took.
struct Turn {
    prompt: usize,
    computed: usize,
    prompt_seconds: f64,
    answer: usize,
    answer_seconds: f64,
}

/// Whether the conversation goes on after a command.
type Next = Result<ControlFlow<()>, Error>;

struct Command {
    name: &'static str,
    argument: &'static str,
    what: &'static str,
    run: fn(&mut Talk, &str) -> Next,
}

const COMMANDS: [Command; 8] = [
    Command {
        name: "/system",
        argument: "TEXT",
        what: "tell the model who it is; without TEXT, forget what it was told",
        run: Talk::system,
    },
    Command { name: "/clear", argument: "", what: "begin anew", run: Talk::clear },
    Command { name: "/save", argument: "FILE", what: "write the conversation", run: Talk::save },
    Command {
        name: "/load",
        argument: "FILE",
        what: "go on with a conversation that was written",
        run: Talk::load,
    },
    Command {
        name: "/adapter",
        argument: "NAME N",
        what: "let an adapter count so much, 0 not at all; without NAME, list them",
        run: Talk::adapter,
    },
    Command { name: "/stats", argument: "", what: "tokens, speed, memory", run: Talk::stats },
    Command { name: "/help", argument: "", what: "this list", run: Talk::help },
    Command {
        name: "/quit",
        argument: "",
        what: "end the conversation (or Ctrl-D)",
        run: |_, _| Ok(ControlFlow::Break(())),
    },
];

/// Prompts are computed in pieces of so many tokens, so that Ctrl-C is heard between them.
const PIECE: usize = 256;

impl Chat {
    pub fn run(self) -> Result<(), Error> {
        expect_language_model(&self.model)?;
        let start = Instant::now();
        let mut model = self.loading.open(&self.model, self.common.threads())?;
        let usual = Generation {
            max_tokens: 1024,
            sampling: Sampling {
                temperature: 0.7,
                top_p: 0.95,
                seed: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |t| t.as_nanos() as u64),
                ..Sampling::default()
            },
            ..Generation::default()
        };
        let mut generation = self.choosing.generation(usual, model.vocabulary())?;
        let about = |error: Error| error.about(self.model.display());
        let template = model.chat_template().map_err(|e| about(e.into()))?;
        let plain = model.template().is_none();
        if plain {
            generation.stop.extend(["<|im_end|>", "<|im_start|>"].map(str::to_string));
        }
        let session = Session::new(&mut model)?;
        let mut talk = Talk {
            model,
            session,
            template,
            generation,
            messages: Vec::new(),
            forgotten: 0,
            stopped: Arc::default(),
            silent: self.common.json,
            last: None,
        };
        if let Some(path) = &self.load {
            talk.read(path)?;
        }
        if let Some(text) = &self.system {
            talk.set_system(text);
        }
        if plain {
            self.common.note(
                "note: the model has no chat template, so it is talked to in ChatML, and may not know how \
                 to answer",
            );
        }
        let mut lines = Lines::new(COMMANDS.iter().map(|command| command.name).collect())?;
        if lines.is_terminal() {
            let stopped = talk.stopped.clone();
            ctrlc::set_handler(move || stopped.store(true, Ordering::Relaxed))
                .map_err(|error| Error::work(format!("cannot listen for Ctrl-C: {error}")))?;
            self.common.note(format!(
                "{}: {} tokens of context, loaded in {:.0} ms. /help lists what there is; Ctrl-D ends.",
                self.model.display(),
                talk.model.context(),
                start.elapsed().as_secs_f64() * 1e3
            ));
        }
        talk.hold(&mut lines)?;
        if self.common.json {
            return super::super::print_json(&Saved { messages: talk.messages });
        }
        Ok(())
    }
}

impl Talk {
    fn hold(&mut self, lines: &mut Lines) -> Result<(), Error> {
        loop {
            // Here and not where an answer begins, so that Ctrl-C is heard from the end of the line on.
            self.stopped.store(false, Ordering::Relaxed);
            let text = match lines.next()? {
                Line::End => return Ok(()),
                Line::Interrupted => {
                    eprintln!("Ctrl-D or /quit ends the conversation");
                    continue;
                }
                Line::Said(text) => text,
            };
            match self.hear(&text) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                Err(error) if lines.is_terminal() => eprintln!("error: {error}"),
                Err(error) => return Err(error),
            }
        }
    }

    /// Does what a line says: a command, or a message to answer.
    fn hear(&mut self, text: &str) -> Next {
        let line = text.trim();
        if line.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if !line.starts_with('/') || line.starts_with("//") {
            let message = if line.starts_with("//") { &line[1..] } else { text };
            return self.answer(message);
        }
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let command = COMMANDS.iter().find(|command| command.name == name).ok_or_else(|| {
            Error::input(format!(
                "no command is called {name}; /help lists them, and //{} says it to the model",
                &name[1..]
            ))
        })?;
        (command.run)(self, argument.trim())
    }

    fn answer(&mut self, text: &str) -> Next {
        let forgotten = self.forgotten;
        self.messages.push(Message::new("user", text));
        let answer = self.say();
        if !matches!(answer, Ok(Some(_))) {
            // As if it had not been said: it may be said otherwise.
            self.messages.pop();
            self.forgotten = forgotten;
        }
        match answer? {
            Some(answer) => self.messages.push(Message::new("assistant", answer)),
            // The terminal has written `^C`.
            None => eprintln!("\nstopped before the answer; ↑ brings back what you said"),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Lets the model answer the last message. `None` where Ctrl-C came before the answer began.
    fn say(&mut self) -> Result<Option<String>, Error> {
        let tokens = self.tokens()?;
        let start = Instant::now();
        let Some(computed) = self.compute(&tokens)? else { return Ok(None) };
        let prompted = start.elapsed().as_secs_f64();
        let mut out = io::stdout().lock();
        let terminal = out.is_terminal();
        let (stopped, silent) = (self.stopped.clone(), self.silent);
        let mut lost = None;
        let answer = self.session.generate(&mut self.model, &self.generation, |text| {
            let said = match silent {
                true => Ok(()),
                false => out.write_all(shown(text, terminal).as_bytes()).and_then(|()| out.flush()),
            };
            lost = said.err();
            match lost.is_some() || stopped.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        drop(out);
        if let Some(error) = lost {
            return super::super::cannot_write(error).map(|()| Some(answer.text));
        }
        if !self.silent {
            super::super::print("\n")?;
        }
        self.generation.sampling.seed = self.generation.sampling.seed.wrapping_add(1);
        self.last = Some(Turn {
            prompt: tokens.len(),
            computed,
            prompt_seconds: prompted,
            answer: answer.tokens.len(),
            answer_seconds: start.elapsed().as_secs_f64() - prompted,
        });
        if answer.finish_reason == FinishReason::Length {
            let why = match answer.tokens.len() >= self.generation.max_tokens {
                true => "as long as --max-tokens lets it be",
                false => "the context is full",
            };
            eprintln!("note: the answer was cut off: {why}");
        }
        Ok(Some(answer.text))
    }

    /// The conversation's tokens, without the oldest turns where all do not fit with room to answer.
    fn tokens(&mut self) -> Result<Vec<u32>, Error> {
        let context = self.model.context();
        let room = self.generation.max_tokens.min(context / 4);
        let system = usize::from(self.messages.first().is_some_and(|m| m.role == "system"));
        let seen = self.forgotten;
        loop {
            let first = system + self.forgotten;
            let kept = self.messages[..system].iter().chain(&self.messages[first..]);
            let conversation = Conversation {
                messages: kept.cloned().collect(),
                add_generation_prompt: true,
                ..Conversation::default()
            };
            let tokens = self.model.encode_conversation(&self.template, &conversation)?;
            if tokens.len() + room <= context {
                if self.forgotten > seen {
                    eprintln!(
                        "note: the context is full: the model no longer sees the first {} messages",
                        self.forgotten
                    );
                }
                return Ok(tokens);
            }
            // Turns go whole: a question with its answer.
            let next = self.messages[first + 1..].iter().position(|m| m.role == "user");
            match next {
                Some(next) => self.forgotten += next + 1,
                None if tokens.len() <= context => return Ok(tokens),
                None => {
                    return Err(Error::input(format!(
                        "{} tokens do not fit in a context of {context}: say less, or start with a longer \
                         --context",
                        tokens.len()
                    )));
                }
            }
        }
    }

    /// Lets the model read `tokens`, of which it holds a part already. Returns how many it read, `None`
    /// where Ctrl-C came first.
    fn compute(&mut self, tokens: &[u32]) -> Result<Option<usize>, Error> {
        let same = self.session.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let mut computed = 0;
        let mut end = same;
        while end < tokens.len() || computed == 0 {
            end = (end + PIECE).min(tokens.len());
            self.session.rewrite(&mut self.model, tokens[..end].to_vec());
            computed += self.session.compute(&mut self.model)?;
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if end == tokens.len() {
                break;
            }
        }
        Ok(Some(computed))
    }

    fn set_system(&mut self, text: &str) {
        if self.messages.first().is_some_and(|message| message.role == "system") {
            self.messages.remove(0);
        }
        if !text.is_empty() {
            self.messages.insert(0, Message::new("system", text));
        }
    }

    fn system(&mut self, text: &str) -> Next {
        self.set_system(text);
        Ok(ControlFlow::Continue(()))
    }

    fn clear(&mut self, _: &str) -> Next {
        self.messages.retain(|message| message.role == "system");
        self.forgotten = 0;
        self.last = None;
        Ok(ControlFlow::Continue(()))
    }

    fn save(&mut self, path: &str) -> Next {
        if path.is_empty() {
            return Err(Error::input("/save: name a file"));
        }
        let messages = self.messages.clone();
        let fail = |why: String| Error::input(format!("{path}: cannot write it: {why}"));
        let text = serde_json::to_string_pretty(&Saved { messages });
        let text = text.map_err(|error| fail(error.to_string()))? + "\n";
        files::write(path.as_ref(), text.as_bytes()).map_err(|error| fail(error.to_string()))?;
        eprintln!("wrote {path}");
        Ok(ControlFlow::Continue(()))
    }

    fn load(&mut self, path: &str) -> Next {
        if path.is_empty() {
            return Err(Error::input("/load: name a file"));
        }
        self.read(&PathBuf::from(path))?;
        let said = self.messages.iter().filter(|message| message.role != "system").count();
        eprintln!("{said} messages from {path}");
        Ok(ControlFlow::Continue(()))
    }

    fn read(&mut self, path: &PathBuf) -> Result<(), Error> {
        let about = |message: String| Error::input(message).about(path.display());
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| about(format!("cannot read it: {error}")))?;
        let saved: Saved = serde_json::from_str(&text)
            .map_err(|error| about(format!("this is no saved conversation: {error}")))?;
        let text = |message: &Message| matches!(message.content, Some(Content::Text(_)));
        if let Some(at) = saved.messages.iter().position(|message| !text(message)) {
            return Err(about(format!("message {} has no text", at + 1)));
        }
        self.messages = saved.messages;
        self.forgotten = 0;
        Ok(())
    }

    fn adapter(&mut self, told: &str) -> Next {
        let mut counts: Vec<f32> = self.model.adapters().map(|(_, count)| count).collect();
        if told.is_empty() {
            for (name, count) in self.model.adapters() {
                eprintln!("{name}  {count}");
            }
            if counts.is_empty() {
                eprintln!("none: give the model some with --adapter");
            }
            return Ok(ControlFlow::Continue(()));
        }
        let (name, count) = told.rsplit_once(char::is_whitespace).unwrap_or((told, ""));
        let place = self.model.adapters().position(|(own, _)| own == name.trim());
        let (Some(place), Ok(count)) = (place, count.parse()) else {
            let m = format!("/adapter {told}: give the name of an adapter and a number");
            return Err(Error::input(m));
        };
        counts[place] = count;
        self.model.count_adapters(&counts)?;
        Ok(ControlFlow::Continue(()))
    }

    fn stats(&mut self, _: &str) -> Next {
        let held = self.model.length(self.session.sequence());
        eprintln!("context   {held} of {} tokens", self.model.context());
        if let Some(turn) = &self.last {
            let speed = |count, seconds| rate(count, seconds).map_or(0.0, |rate| rate);
            eprintln!(
                "prompt    {} tokens, of which {} were new: {:.1} ms, {:.1} a second",
                turn.prompt,
                turn.computed,
                turn.prompt_seconds * 1e3,
                speed(turn.computed, turn.prompt_seconds)
            );
            eprintln!(
                "answer    {} tokens: {:.1} ms, {:.1} a second",
                turn.answer,
                turn.answer_seconds * 1e3,
                speed(turn.answer.saturating_sub(1), turn.answer_seconds)
            );
        }
        if let Some(peak) = kinglet_formats::map::process_peak() {
            eprintln!("memory    {} at the most so far", bytes(peak));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn help(&mut self, _: &str) -> Next {
        for Command { name, argument, what, .. } in COMMANDS {
            eprintln!("{:14}  {what}", format!("{name} {argument}"));
        }
        eprintln!("A line that ends in \\ goes on in the next. Ctrl-C stops an answer.");
        Ok(ControlFlow::Continue(()))
    }
}
