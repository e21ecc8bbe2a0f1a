//! Chat templates: a conversation as the text that a model was trained on.
//!
//! A model's template is written in Jinja for Hugging Face's `apply_chat_template`, whose Python a
//! template may call. [`ChatTemplate`] renders it to the same text.

mod environment;
mod python;
mod time;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::tokenizer::Tokenizer;
use minijinja::Environment;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

pub use minijinja::Value;

/// The template of models that have none: ChatML, in which most of them were trained.
pub const CHATML: &str = "\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}";

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template itself refuses the conversation, in its own words.
    #[error("{0}")]
    Raised(String),
    /// The template is not right.
    #[error("the chat template cannot be read: {0}")]
    Syntax(String),
    /// The template does something that cannot be done with this conversation.
    #[error("the chat template fails: {0}")]
    Render(String),
}

/// Messages, and what else a template looks at.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// What was said.
    pub messages: Vec<Message>,
    /// Tools that the model may call, each as OpenAI's JSON describes it.
    pub tools: Vec<Value>,
    /// Documents to answer from.
    pub documents: Vec<Value>,
    /// Whether the model is to speak next.
    pub add_generation_prompt: bool,
    /// More variables, such as `enable_thinking`.
    pub extra: BTreeMap<String, Value>,
    /// The time for templates that tell it (UTC); by default the time of rendering.
    pub now: Option<SystemTime>,
}

/// One message, in the form of OpenAI's API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: Option<Content>,
    /// What the model thought before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls of tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that this message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The name of the speaker, or of the tool that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Message {
        let content = Some(Content::Text(text.into()));
        Message { role: role.into(), content, ..Message::default() }
    }
}

/// What a message says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// Text, pictures and sounds, each as OpenAI's JSON describes it.
    Parts(Vec<Value>),
}

/// A model's call of a tool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolCall {
    /// A name for this call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is called; always `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// The function.
    pub function: FunctionCall,
}

fn function() -> String {
    "function".to_owned()
}

/// A function's name and arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The name.
    pub name: String,
    /// The arguments: an object, or an object as JSON text.
    pub arguments: Value,
}

/// The form in which messages are given to a template: not all take the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    /// Calls' arguments are JSON text, not an object.
    arguments_as_text: bool,
    /// A message that says nothing has an empty text, not `none`.
    empty_content: bool,
    /// Parts that are text are one text.
    joined_parts: bool,
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    /// Whether it knows tools as `functions` only.
    wants_functions: bool,
    takes_parts: OnceLock<bool>,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles `source`. `bos` and `eos` are the texts of these tokens, empty where there are none.
    ///
    /// # Errors
    /// If `source` is no Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate, TemplateError> {
        let mut environment = environment::new();
        let source = environment::plain_jinja(source);
        let syntax = |error| TemplateError::Syntax(environment::describe(&error));
        environment.add_template_owned(NAME, source.clone()).map_err(syntax)?;
        let names = environment.get_template(NAME).map_err(syntax)?.undeclared_variables(false);
        let wants_functions = names.contains("functions") && !names.contains("tools");
        let (bos, eos) = (bos.to_owned(), eos.to_owned());
        let takes_parts = OnceLock::new();
        Ok(ChatTemplate { environment, source, bos, eos, wants_functions, takes_parts })
    }

    /// The template `source` of a model with this tokeniser; [`CHATML`] where it has none.
    ///
    /// # Errors
    /// If `source` is no Jinja.
    pub fn of(tokenizer: &Tokenizer, source: Option<&str>) -> Result<ChatTemplate, TemplateError> {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).unwrap_or("");
        let special = tokenizer.special();
        let (bos, eos) = (text(special.bos), text(special.eos));
        match source {
            Some(source) => ChatTemplate::new(source, bos, eos),
            None => Ok(ChatTemplate::chatml(bos, eos)),
        }
    }

    /// The template for models that have none: [`CHATML`].
    pub fn chatml(bos: &str, eos: &str) -> ChatTemplate {
        ChatTemplate::new(CHATML, bos, eos).expect("ChatML is Jinja")
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of `conversation`.
    ///
    /// Templates differ in what they take: most want the arguments of a tool call as an object, some as
    /// JSON text; some fail on a message without content, and on content in parts. What a template
    /// fails on is given to it in another form.
    ///
    /// What a template does is bounded, and the text that it writes, but not the memory that it takes:
    /// one made to do harm can double a text in a variable until there is no memory left.
    ///
    /// # Errors
    /// With the template's own words if it refuses, and if it fails.
    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let messages = &conversation.messages;
        let calls = messages.iter().any(|message| !message.tool_calls.is_empty());
        let empty = messages.iter().any(|message| message.content.is_none());
        let parts =
            messages.iter().any(|message| matches!(message.content, Some(Content::Parts(_))));
        let joined_parts = parts && !self.takes_parts();
        let mut first = None;
        for empty_content in [false, true] {
            for arguments_as_text in [false, true] {
                if empty_content && !empty || arguments_as_text && !calls {
                    continue;
                }
                let form = Form { arguments_as_text, empty_content, joined_parts };
                match self.render_as(conversation, form) {
                    Err(error @ TemplateError::Render(_)) => first = first.or(Some(error)),
                    result => return result,
                }
            }
        }
        Err(first.unwrap_or_else(|| TemplateError::Render("there is no message".to_owned())))
    }

    /// Whether the template knows content in parts. One that does not fails, or writes the list down.
    fn takes_parts(&self) -> bool {
        *self.takes_parts.get_or_init(|| {
            let part = Value::from_pairs([("type", "text"), ("text", "probe")]);
            let content = Some(Content::Parts(vec![part]));
            let message = Message { role: "user".to_owned(), content, ..Message::default() };
            let probe = Conversation { messages: vec![message], ..Conversation::default() };
            let form = Form { arguments_as_text: false, empty_content: false, joined_parts: false };
            let quoted = |text: &str| text.contains("'probe'") || text.contains("\"probe\"");
            self.render_as(&probe, form).is_ok_and(|text| text.contains("probe") && !quoted(&text))
        })
    }

    fn render_as(&self, conversation: &Conversation, form: Form) -> Result<String, TemplateError> {
        let optional = |list: &[Value]| match list {
            [] => Value::from(()),
            list => Value::from(list.to_vec()),
        };
        let messages: Vec<Value> = conversation.messages.iter().map(|m| message(m, form)).collect();
        let mut context: BTreeMap<&str, Value> = BTreeMap::from([
            ("messages", messages.into()),
            ("tools", optional(&conversation.tools)),
            ("documents", optional(&conversation.documents)),
            ("add_generation_prompt", conversation.add_generation_prompt.into()),
            ("bos_token", self.bos.as_str().into()),
            ("eos_token", self.eos.as_str().into()),
            (environment::NOW, time::seconds(conversation.now).into()),
        ]);
        if self.wants_functions {
            // Firefunction's names for what others call tools, and for the time.
            let tools = python::json(&optional(&conversation.tools), &python::Json::default());
            context.insert("functions", tools.unwrap_or_default().into());
            let now = time::seconds(conversation.now);
            context.insert("datetime", time::strftime("%Y-%m-%d %H:%M:%S UTC", now).into());
        }
        context.extend(conversation.extra.iter().map(|(name, value)| (&name[..], value.clone())));
        let mut written = environment::Written::default();
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(context, &mut written).map(drop))
            .map_err(|error| environment::error(&error))?;
        String::from_utf8(written.0).map_err(|error| TemplateError::Render(error.to_string()))
    }
}

/// A message as a template sees it.
fn message(message: &Message, form: Form) -> Value {
    let mut message = message.clone();
    for call in &mut message.tool_calls {
        let given = &mut call.function.arguments;
        match given.as_str() {
            Some(text) if !form.arguments_as_text => {
                if let Ok(object) = serde_json::from_str(text) {
                    *given = object;
                }
            }
            None if form.arguments_as_text => {
                if let Ok(text) = python::json(given, &python::Json::default()) {
                    *given = text.into();
                }
            }
            _ => {}
        }
    }
    message.content = match message.content {
        None if form.empty_content => Some(Content::Text(String::new())),
        Some(Content::Parts(parts)) if form.joined_parts => Some(joined(parts)),
        content => content,
    };
    Value::from(Serde(message))
}

/// The text of `parts`; they stay as they are where one is no text.
fn joined(parts: Vec<Value>) -> Content {
    let text = |part: &Value| part.get_attr("text").ok()?.as_str().map(str::to_owned);
    match parts.iter().map(text).collect::<Option<Vec<String>>>() {
        Some(texts) => Content::Text(texts.join("\n")),
        None => Content::Parts(parts),
    }
}
