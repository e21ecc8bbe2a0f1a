//! What Hugging Face's templates find around them, beside plain Jinja.

use std::borrow::Cow;
use std::{fmt, io};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;
use regex_automata::Input;
use regex_automata::meta::Regex;

use super::TemplateError;
use super::python::{self, Json};
use super::time;

/// The variable that holds the time.
pub(super) const NOW: &str = "__now";

/// How much a template may do: a conversation of thousands of messages takes a hundredth of it.
const FUEL: u64 = 20_000_000;

/// The longest text that a template may write, in bytes.
const MOST_TEXT: usize = 64 << 20;

/// What a template has written.
#[derive(Default)]
pub(super) struct Written(pub Vec<u8>);

impl io::Write for Written {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.0.len() + text.len() > MOST_TEXT {
            return Err(io::Error::other(format!("it writes more than {} MB", MOST_TEXT >> 20)));
        }
        self.0.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `raise_exception` was given.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment as `apply_chat_template` makes one.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(pycompat::unknown_method_callback);
    environment.set_formatter(format);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment.add_filter("from_json", from_json);
    environment.add_filter("string", |value: &Value| python::str(value));
    environment.add_filter("indent", indent);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_iterable);
    environment
}

/// What is not Jinja as it is implemented here, and how that says it.
const REWRITES: [(&str, &str); 4] = [
    // Only marks what a model said in training.
    (r"\{%([-+]?)\s*generation\s*([-+]?)%\}", "{%$1 if true $2%}"),
    (r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}", "{%$1 endif $2%}"),
    // Lists can't be changed, but what a namespace holds can.
    (
        r"\{%(-?)\s*set\s+_\s*=\s*(\w+\.\w+)\.append\(((?:[^()%]|\([^()%]*\))*)\)\s*(-?)%\}",
        "{%$1 set $2 = $2 + [$3] $4%}",
    ),
    (
        r"\{%(-?)\s*set\s+(\w+)\s*=\s*(\w+\.\w+)\.pop\(0\)\s*(-?)%\}",
        "{%$1 set $2 = $3[0] %}{% set $3 = $3[1:] $4%}",
    ),
];

/// `source` in the Jinja that is implemented here.
pub(super) fn plain_jinja(source: &str) -> String {
    REWRITES.iter().fold(source.to_owned(), |source, (from, to)| {
        let regex = Regex::new(from).expect("the expression is right");
        let mut captures = regex.create_captures();
        let (mut plain, mut done) = (String::with_capacity(source.len()), 0);
        while let Some(found) = {
            regex.search_captures(&Input::new(&source).range(done..), &mut captures);
            captures.get_match()
        } {
            plain.push_str(&source[done..found.start()]);
            captures.interpolate_string_into(&source, to, &mut plain);
            done = found.end();
        }
        plain + &source[done..]
    })
}

/// What went wrong, and in which line.
pub(super) fn describe(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// The template's own words, if it has raised an error, or else what failed.
pub(super) fn error(error: &Error) -> TemplateError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return TemplateError::Render(error.to_string());
        }
        source = cause.source();
    }
    TemplateError::Render(describe(error))
}

fn format(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    let text = match value.as_str() {
        Some(text) => Cow::from(text),
        None => Cow::from(python::str(value)),
    };
    out.write_str(&text).map_err(Error::from)
}

/// What Python can iterate over; it has a length and indices, too, except for generators.
fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), String | Seq | Map | Iterable | Undefined)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::str(message);
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

fn strftime_now(state: &State, format: &str) -> String {
    let now = state.lookup(NOW).and_then(|now| now.as_i64());
    time::strftime(format, now.unwrap_or_default())
}

fn from_json(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text)
        .map_err(|error| Error::new(ErrorKind::CannotDeserialize, error.to_string()))
}

/// Hugging Face's `tojson`, which is Python's `json.dumps` and escapes nothing for HTML.
fn tojson(value: &Value, indent: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
    });
    let separators = kwargs.get::<Option<Value>>("separators")?;
    let separators = match separators.filter(|separators| !separators.is_none()) {
        None => None,
        Some(list) => {
            let at = |index| list.get_item_by_index(index).map(|text| python::str(&text));
            Some((at(0)?, at(1)?))
        }
    };
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    python::json(value, &Json { indent, separators, ascii, sort_keys }).map(Value::from)
}

/// Jinja's `indent`, which keeps a newline at the end.
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => kwargs.get::<Option<Value>>("width")?,
    };
    let by = match &width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(width.as_usize().unwrap_or(0).min(1024)),
        },
    };
    let flag = |given: Option<bool>, name| match given {
        Some(flag) => Ok(flag),
        None => kwargs.get::<Option<bool>>(name).map(|flag| flag.unwrap_or(false)),
    };
    let (first, blank) = (flag(first, "first")?, flag(blank, "blank")?);
    kwargs.assert_all_used()?;
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out)
}
