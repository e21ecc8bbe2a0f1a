//! The built-in assistant: what somebody says to a device becomes the call of a device function.
//!
//! ```
//! use kinglet::assistant::Assistant;
//!
//! let mut assistant = Assistant::built_in()?;
//! let call = assistant.answer("wake me at 6:45")?;
//! println!("{}", call.json()); // {"name":"set_alarm","arguments":{"time":"06:45"}}
//! # Ok::<(), kinglet::Error>(())
//! ```
//!
//! The model lies in the program, 3 MB, and nothing leaves the device. There are 25 functions
//! ([`Contract::shipped`]), among them `no_call`, whose reason says why nothing is called. Decoding is held
//! to them, and to words of the sentence where an argument repeats some: an answer is always a valid call,
//! and names in it were said. It may still be the wrong call; the model's card
//! (`crates/assistant/model/CARD.md`) says how often.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use kinglet_assistant::MODEL;
pub use kinglet_assistant::clock::Date;
pub use kinglet_assistant::{Call, Contract};
use kinglet_formats::gguf::Gguf;
use kinglet_graph::Bytes;
use kinglet_lm::template::{Conversation, Message};
use kinglet_lm::tokenizer::EncodeOptions;
use kinglet_lm::{Constraint, FinishReason, Generation, LanguageModel, Options, Session};

use crate::Error;

/// A small language model that answers with calls.
pub struct Assistant {
    model: LanguageModel,
    session: Session,
    contract: Contract,
    /// Tokens before and after a sentence.
    around: [Vec<u32>; 2],
}

/// Tokens of a call that are not words of the sentence, at most about so many.
const FRAME: usize = 48;

/// What is written like a special token is text, too.
const TEXT: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

/// What stands for the sentence while the chat template is looked at: a character of no language.
const SENTENCE: &str = "\u{F8FF}";

impl Assistant {
    /// The assistant that is built in.
    ///
    /// # Errors
    /// If the system gives it no memory or no threads.
    pub fn built_in() -> Result<Assistant, Error> {
        Assistant::built_in_with(0)
    }

    /// The same, computing with so many threads; 0: as many as there are cores.
    ///
    /// # Errors
    /// As [`Assistant::built_in`].
    pub fn built_in_with(threads: usize) -> Result<Assistant, Error> {
        let about = |error: String| Error::work(error).about("the built-in assistant");
        let file = Gguf::parse(Bytes::new(Arc::new(MODEL))).map_err(|e| about(e.to_string()))?;
        let model = LanguageModel::from_gguf(&file, &options(threads));
        Assistant::of(model.map_err(|e| about(e.to_string()))?)
    }

    /// The assistant in the file at `path`, a language model that `kinglet tune` trained on sentences and
    /// calls of the same functions; `threads` as for [`Assistant::built_in_with`].
    ///
    /// # Errors
    /// If the file is no language model with a tokeniser and a chat template.
    pub fn open(path: impl AsRef<Path>, threads: usize) -> Result<Assistant, Error> {
        let path = path.as_ref();
        let model = LanguageModel::open(path, &options(threads))?;
        Assistant::of(model).map_err(|error| error.about(path.display()))
    }

    fn of(mut model: LanguageModel) -> Result<Assistant, Error> {
        let around = around(&model)?;
        let session = Session::new(&mut model)?;
        Ok(Assistant { model, session, contract: Contract::shipped(), around })
    }

    /// The call that `say` asks for, its dates completed by today's, as the system's clock and
    /// [`Date::today`] tell it.
    ///
    /// # Errors
    /// If nothing is said, or more than fits in the model's context.
    pub fn answer(&mut self, say: &str) -> Result<Call, Error> {
        let today = Date::today().ok_or_else(|| Error::work("the clock is past the year 9999"))?;
        self.answer_on(say, today)
    }

    /// The call that `say` asks for on the day `today`.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn answer_on(&mut self, say: &str, today: Date) -> Result<Call, Error> {
        let say = tidy(say);
        if say.is_empty() {
            return Err(Error::input(
                "nothing is said: say what you want, as in \"wake me at 6:45\"",
            ));
        }
        let [before, after] = &self.around;
        let said = self.model.tokenizer()?.encode(&say, TEXT);
        let said = said.map_err(|e| Error::input(e.to_string()))?;
        let room = self.model.context().saturating_sub(before.len() + after.len() + FRAME) / 2;
        if said.len() > room {
            return Err(Error::input(format!(
                "what is said has {} tokens, and the assistant takes at most {room}: say it in fewer words",
                said.len()
            )));
        }
        let prompt = [before.as_slice(), &said, after].concat();
        let most = self.model.context() - prompt.len();
        self.session.rewrite(&mut self.model, prompt);
        let generation = Generation {
            max_tokens: most,
            constraint: Some(Constraint::Lark(self.contract.grammar(&say))),
            ..Generation::default()
        };
        let answer =
            self.session.generate(&mut self.model, &generation, |_| ControlFlow::Continue(()))?;
        match answer.finish_reason {
            FinishReason::Stop => self.read(&answer.text, today),
            // It lost itself in an argument without end: it did not understand.
            _ => Ok(Call::none("unsupported")),
        }
    }

    fn read(&self, text: &str, today: Date) -> Result<Call, Error> {
        let call = self.contract.read_text(text).map(|call| call.on(today));
        call.map_err(|e| Error::work(format!("the assistant's answer breaks its contract: {e}")))
    }
}

fn options(threads: usize) -> Options {
    Options { threads, ..Options::default() }
}

/// The tokens that `model`'s chat template has before and after a sentence.
fn around(model: &LanguageModel) -> Result<[Vec<u32>; 2], Error> {
    let conversation = Conversation {
        messages: vec![Message::new("user", SENTENCE.to_string())],
        add_generation_prompt: true,
        ..Conversation::default()
    };
    let template = model.chat_template()?;
    let text = template.render(&conversation).map_err(|e| Error::input(e.to_string()))?;
    let (before, after) = text.split_once(SENTENCE).ok_or_else(|| {
        Error::input("its chat template leaves out what the user says: it is no assistant")
    })?;
    let encode = |text: &str| {
        let tokens = model.tokenizer()?.encode(text, EncodeOptions::CHAT);
        tokens.map_err(|e| Error::input(e.to_string()))
    };
    let (mut before, after) = (encode(before)?, encode(after)?);
    let start = model.start_token()?;
    if before.first().copied() != start {
        before.splice(0..0, start);
    }
    Ok([before, after])
}

/// Single spaces between words: white space and control characters are as good as any.
fn tidy(say: &str) -> String {
    let words = say.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_tidied() {
        assert_eq!(tidy(" wake\tme\r\nat \u{0} 6\u{1b}[0m "), "wake me at 6 [0m");
        assert_eq!(tidy("\u{3000} \n"), "");
    }
}
