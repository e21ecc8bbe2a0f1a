//! One example: from a line or a text to tokens, of which some count.

use super::dropout::{Broken, Dropout};
use kinglet_lm::template::{ChatTemplate, Content, Conversation, Message};
use kinglet_lm::tokenizer::{EncodeOptions, Tokenizer};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// Tokens, and which of them the model is to learn to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// Of each token, whether its loss counts.
    pub counts: Vec<bool>,
}

impl Example {
    /// Rows that it takes: each token but the last is read, and followed by one.
    pub fn rows(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }

    fn push(&mut self, tokens: &[u32], counts: bool) {
        self.tokens.extend_from_slice(tokens);
        self.counts.resize(self.tokens.len(), counts);
    }
}

/// Makes examples of what files hold.
///
/// A line is a JSON object with one of:
///
/// - `text`: all of it counts;
/// - `messages` as in OpenAI's API, with `tools` where there are some: written by the model's chat
///   template, of which what the assistant says counts;
/// - `say` and `call`: a request and the function call that answers it, `{"name": …, "arguments": …}`.
///   A conversation in which the assistant answers with the call as JSON without white space, its keys
///   in the order of the file.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    start: Option<u32>,
    /// Conversations may have so many rows.
    longest: usize,
    dropout: Option<Dropout>,
}

#[derive(Deserialize)]
struct Line<'a> {
    text: Option<String>,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    tools: Vec<kinglet_lm::template::Value>,
    say: Option<String>,
    #[serde(borrow)]
    call: Option<&'a RawValue>,
}

/// What a call must have.
#[derive(Deserialize)]
struct Call {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "arguments")]
    _arguments: serde_json::Map<String, serde_json::Value>,
}

/// What a line holds.
enum Held {
    Text(String),
    Conversation(Box<Conversation>),
}

fn read(line: &str) -> Result<Held, String> {
    let line: Line<'_> = serde_json::from_str(line).map_err(|e| {
        // A line has one line.
        let text = e.to_string().replace(" at line 1 column", " at column");
        if e.is_data() { text } else { format!("it is no JSON: {text}") }
    })?;
    let of_messages = |messages, tools| {
        Held::Conversation(Box::new(Conversation { messages, tools, ..Conversation::default() }))
    };
    match line {
        Line { text: Some(text), messages: None, say: None, .. } => Ok(Held::Text(text)),
        Line { messages: Some(messages), text: None, say: None, tools, .. } => {
            Ok(of_messages(messages, tools))
        }
        Line { say: Some(say), call: Some(call), text: None, messages: None, .. } => {
            serde_json::from_str::<Call>(call.get()).map_err(|e| format!("\"call\": {e}"))?;
            let answer = without_space(call.get());
            let messages = vec![Message::new("user", say), Message::new("assistant", answer)];
            Ok(of_messages(messages, Vec::new()))
        }
        Line { say: Some(_), call: None, text: None, messages: None, .. } => {
            Err("\"say\" has no \"call\" beside it".into())
        }
        _ => Err("it must have one of \"text\", \"messages\", and \"say\" with \"call\"".into()),
    }
}

/// JSON without white space between its parts.
fn without_space(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    json.chars()
        .filter(|c| {
            let quote = *c == '"' && !escaped;
            escaped = inside && *c == '\\' && !escaped;
            inside ^= quote;
            inside || !c.is_ascii_whitespace()
        })
        .collect()
}

/// What is said in a line: what a tokeniser is made for.
///
/// # Errors
/// What is wrong with the line.
pub fn texts(line: &str) -> Result<Vec<String>, String> {
    let conversation = match read(line)? {
        Held::Text(text) => return Ok(vec![text]),
        Held::Conversation(conversation) => conversation,
    };
    let texts = conversation.messages.into_iter().filter_map(|message| match message.content? {
        Content::Text(text) => Some(text),
        Content::Parts(_) => None,
    });
    Ok(texts.collect())
}

impl Encoder {
    /// For a model with this tokeniser and template; conversations take at most `longest` rows.
    ///
    /// # Errors
    /// If the tokeniser fails.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        longest: usize,
    ) -> Result<Encoder, crate::TuneError> {
        let start = tokenizer.start().map_err(|e| crate::TuneError::Input(e.to_string()))?;
        Ok(Encoder { tokenizer, template, start, longest, dropout: None })
    }

    /// The same, with tokens broken by chance.
    #[must_use]
    pub fn with_dropout(self, dropout: Dropout) -> Encoder {
        Encoder { dropout: Some(dropout), ..self }
    }

    /// The tokens of `text`, which is part of an example.
    fn encode(
        &self,
        text: &str,
        options: EncodeOptions,
        broken: &mut Option<Broken<'_>>,
    ) -> Result<Vec<u32>, String> {
        let tokens = self.tokenizer.encode(text, options).map_err(|e| e.to_string())?;
        Ok(match broken {
            Some(broken) => broken.of(&tokens),
            None => tokens,
        })
    }

    fn broken(&self, example: &str) -> Option<Broken<'_>> {
        self.dropout.map(|dropout| dropout.of(example, &self.tokenizer))
    }

    /// The example in a line of JSON.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn line(&self, line: &str) -> Result<Example, String> {
        match read(line)? {
            Held::Text(text) => self.text(&text, true),
            Held::Conversation(conversation) => {
                self.conversation(*conversation, &mut self.broken(line))
            }
        }
    }

    /// The example of a text; `ends`: which ends there, and does not go on in the next one.
    ///
    /// # Errors
    /// If the tokeniser has no tokens for it, or there is nothing to learn from it.
    pub fn text(&self, text: &str, ends: bool) -> Result<Example, String> {
        let tokens = self.encode(text, EncodeOptions::default(), &mut self.broken(text))?;
        let mut example = Example::default();
        example.push(&tokens, true);
        let eos = self.tokenizer.special().eos.filter(|eos| example.tokens.last() != Some(eos));
        if let (true, Some(eos)) = (ends, eos) {
            example.push(&[eos], true);
        }
        learnable(example)
    }

    /// What is said before each answer, and the answer, are encoded by themselves: as when the model
    /// is asked, and then says the answer token by token.
    fn conversation(
        &self,
        mut conversation: Conversation,
        broken: &mut Option<Broken<'_>>,
    ) -> Result<Example, String> {
        let messages = std::mem::take(&mut conversation.messages);
        let mut example = Example::default();
        example.push(self.start.as_slice(), false);
        let (mut said, mut answers) = (String::new(), 0);
        let mut go_on = |upto: usize, ask: bool, counts: bool| -> Result<(), String> {
            conversation.messages = messages[..upto].to_vec();
            conversation.add_generation_prompt = ask;
            let text = self.template.render(&conversation).map_err(|e| e.to_string())?;
            let more = text.strip_prefix(said.as_str()).ok_or(
                "the chat template writes what was said before otherwise once the conversation \
                 goes on: give each answer a line of its own",
            )?;
            let mut tokens = self.encode(more, EncodeOptions::CHAT, broken)?;
            if said.is_empty() && tokens.first().copied() == self.start && self.start.is_some() {
                tokens.remove(0);
            }
            // What follows the end of an answer is the template's.
            let end = tokens.iter().rposition(|t| self.tokenizer.is_end_of_generation(*t));
            let (own, rest) = tokens.split_at(end.map_or(tokens.len(), |end| end + 1));
            example.push(own, counts);
            example.push(rest, false);
            said = text;
            Ok(())
        };
        for (i, message) in messages.iter().enumerate() {
            if message.role == "assistant" {
                go_on(i, true, false)?;
                go_on(i + 1, false, true)?;
                answers += 1;
            }
        }
        if answers == 0 {
            return Err("no message is the assistant's: there is nothing to learn".into());
        }
        if example.rows() > self.longest {
            let (rows, most) = (example.rows(), self.longest);
            return Err(format!("{rows} tokens, and the context has {most}: raise --context"));
        }
        learnable(example)
    }
}

fn learnable(example: Example) -> Result<Example, String> {
    match example.counts.iter().skip(1).any(|counts| *counts) {
        true => Ok(example),
        false => Err("it has no token to learn".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_lm::tokenizer::{Design, train};

    const TEMPLATE: &str = "\
{%- for m in messages -%}{{ '<|' + m.role + '|>' + m.content + '<|end|>\\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}";

    fn encoder(longest: usize) -> Encoder {
        let special = ["<|end|>", "<|user|>", "<|assistant|>"];
        let texts = ["wake me at six", "lamp on, lamp off"].map(str::to_string);
        let design = Design { vocabulary: 280, special: &special, ..Design::default() };
        let json = train(texts.into_iter(), &design).unwrap();
        let tokenizer = Tokenizer::from_huggingface_json(json.as_bytes()).unwrap();
        let template = ChatTemplate::new(TEMPLATE, "", "").unwrap();
        Encoder::new(Arc::new(tokenizer), template, longest).unwrap()
    }

    #[test]
    fn dropout_breaks_a_token_alike_throughout_an_example() {
        let text = |encoder: &Encoder, example: &Example| -> String {
            let bytes = example.tokens.iter().map(|t| encoder.tokenizer.token_bytes(*t));
            String::from_utf8(bytes.flatten().copied().collect()).unwrap()
        };
        let plain = encoder(200);
        let dropout = |chance, seed| encoder(200).with_dropout(Dropout { chance, seed });
        let line = r#"{"say": "lamp at six", "call": {"name": "lamp", "arguments": {}}}"#;
        let whole = plain.line(line).unwrap();
        assert_eq!(dropout(0.0, 1).line(line).unwrap(), whole);
        let all = dropout(1.0, 1).line(line).unwrap();
        assert_eq!(text(&plain, &all), text(&plain, &whole));
        let lengths = all.tokens.iter().map(|t| plain.tokenizer.token_bytes(*t).len());
        let control = |t: &&u32| plain.tokenizer.is_control(**t);
        assert_eq!(lengths.filter(|n| *n > 1).count(), all.tokens.iter().filter(control).count());

        let mut different = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let half = dropout(0.5, seed).line(line).unwrap();
            assert_eq!(text(&plain, &half), text(&plain, &whole));
            assert_eq!(half, dropout(0.5, seed).line(line).unwrap());
            let of = |token: &str| -> Vec<u32> {
                plain.tokenizer.encode(token, EncodeOptions::CHAT).unwrap()
            };
            let mut broken = Dropout { chance: 0.5, seed }.of(line, &plain.tokenizer);
            let lamp = broken.of(&of("lamp"));
            let times = half.tokens.windows(lamp.len()).filter(|w| *w == lamp).count();
            assert!(times >= 2, "{lamp:?} in {:?}", half.tokens);
            different.insert(half.tokens);
        }
        assert!(different.len() > 3, "{}", different.len());
    }

    fn shown(encoder: &Encoder, example: &Example) -> String {
        let pieces = example.tokens.iter().zip(&example.counts).map(|(token, counts)| {
            let text = String::from_utf8_lossy(encoder.tokenizer.token_bytes(*token)).into_owned();
            if *counts { text.to_uppercase() } else { text }
        });
        pieces.collect()
    }

    #[test]
    fn what_the_assistant_says_counts() {
        let encoder = encoder(200);
        let show = |line: &str| shown(&encoder, &encoder.line(line).unwrap());
        assert_eq!(
            show(
                r#"{"say": "lamp on", "call": {"name": "lamp", "arguments": {"b": "o \" n", "a": 1}}}"#
            ),
            "<|user|>lamp on<|end|>\n<|assistant|>\
             {\"NAME\":\"LAMP\",\"ARGUMENTS\":{\"B\":\"O \\\" N\",\"A\":1}}<|END|>\n"
        );
        assert_eq!(
            show(concat!(
                r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},"#,
                r#"{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#
            )),
            "<|user|>a<|end|>\n<|assistant|>B<|END|>\n<|user|>c<|end|>\n<|assistant|>D<|END|>\n"
        );
        assert_eq!(show(r#"{"text": "wake me"}"#), "WAKE ME");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let encoder = encoder(8);
        let refused = |line: &str, want: &str| {
            let error = encoder.line(line).unwrap_err();
            assert!(error.contains(want), "{line}: {error}");
        };
        refused("{", "it is no JSON: EOF while parsing an object at column 1");
        refused("[]", "invalid length 0");
        refused("{\"txt\": \"a\"}", "one of \"text\", \"messages\"");
        refused("{\"text\": \"a\", \"say\": \"b\"}", "one of \"text\", \"messages\"");
        refused("{\"text\": \"a\"}", "no token to learn");
        refused("{\"text\": 7}", "invalid type: integer `7`");
        refused("{\"say\": \"a\"}", "has no \"call\"");
        refused("{\"say\": \"a\", \"call\": {\"name\": \"b\"}}", "missing field `arguments`");
        refused("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "nothing to learn");
        let long = "lamp ".repeat(9);
        let line =
            format!("{{\"say\": {long:?}, \"call\": {{\"name\": \"a\", \"arguments\": {{}}}}}}");
        refused(&line, "and the context has 8: raise --context");
    }
}
