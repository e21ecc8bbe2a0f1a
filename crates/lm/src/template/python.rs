//! Values as Python writes them.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// How deep values may be nested: as Python's own limit, and before the stack ends.
const DEEPEST: usize = 200;

/// Options of `json.dumps`.
#[derive(Debug, Clone, Default)]
pub(super) struct Json {
    /// What each level of nesting is indented by; on one line without.
    pub indent: Option<String>,
    /// Between entries, and between key and value.
    pub separators: Option<(String, String)>,
    pub ascii: bool,
    pub sort_keys: bool,
}

/// `json.dumps(value)`.
pub(super) fn json(value: &Value, options: &Json) -> Result<String, Error> {
    let mut writer = JsonWriter { out: String::new(), options };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct JsonWriter<'o> {
    out: String,
    options: &'o Json,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(Error::new(ErrorKind::BadSerialization, "value nested too deep"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                self.out.push_str(&number(value, ["NaN", "Infinity", "-Infinity"]))
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.entries('[', ']', &items, depth, |writer, item| {
                    writer.value(item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut entries = pairs(value)?;
                if self.options.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.entries('{', '}', &entries, depth, |writer, (key, value)| {
                    match key.as_str() {
                        Some(key) => writer.string(key),
                        // Other keys are written as JSON, in quotes.
                        None => {
                            let key = json(key, &Json::default())?;
                            writer.string(&key);
                        }
                    }
                    let colon = writer.options.separators.as_ref().map_or(": ", |s| &s.1);
                    writer.out.push_str(colon);
                    writer.value(value, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    format!("a value of type {kind} is not JSON"),
                ));
            }
        }
        Ok(())
    }

    fn entries<T>(
        &mut self,
        open: char,
        close: char,
        entries: &[T],
        depth: usize,
        write: impl Fn(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let default = if self.options.indent.is_some() { "," } else { ", " };
        let comma = self.options.separators.as_ref().map_or(default, |s| &s.0);
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 {
                self.out.push_str(comma);
            }
            self.line(depth + 1);
            write(self, entry)?;
        }
        if !entries.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.options.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\u{1f}' => self.unit(char as u16),
                '\u{7f}'.. if self.options.ascii && char != '\u{7f}' => {
                    for &mut unit in char.encode_utf16(&mut [0; 2]) {
                        self.unit(unit);
                    }
                }
                char => self.out.push(char),
            }
        }
        self.out.push('"');
    }

    fn unit(&mut self, unit: u16) {
        let _ = write!(self.out, "\\u{unit:04x}");
    }
}

/// `str(value)`.
pub(super) fn str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => {
            let mut out = String::new();
            repr(value, &mut out, 0);
            out
        }
    }
}

/// Appends `repr(value)`.
fn repr(value: &Value, out: &mut String, depth: usize) {
    if depth > DEEPEST {
        out.push_str("...");
        return;
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value, ["nan", "inf", "-inf"])),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let items = value.try_iter().into_iter().flatten();
            for (index, item) in items.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(&item, out, depth + 1);
            }
            if tuple && value.len() == Some(1) {
                out.push(',');
            }
            out.push(if tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push('{');
            for (index, (key, value)) in pairs(value).unwrap_or_default().iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(key, out, depth + 1);
                out.push_str(": ");
                repr(value, out, depth + 1);
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
}

fn pairs(map: &Value) -> Result<Vec<(Value, Value)>, Error> {
    map.try_iter()?.map(|key| Ok((key.clone(), map.get_item(&key)?))).collect()
}

/// A string in Python's quotes: single ones, unless only these occur within.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => {
                out.push('\\');
                out.push(char);
            }
            '\0'..='\u{1f}' | '\u{7f}'..='\u{a0}' | '\u{ad}' => {
                let _ = write!(out, "\\x{:02x}", char as u32);
            }
            char => out.push(char),
        }
    }
    out.push(quote);
}

/// A number as Python writes it; `special` are not a number, infinity and its negative.
fn number(value: &Value, special: [&str; 3]) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    match float {
        _ if float.is_nan() => special[0].to_owned(),
        f64::INFINITY => special[1].to_owned(),
        f64::NEG_INFINITY => special[2].to_owned(),
        // Python changes to an exponent outside of 1e-4 to 1e16, of two digits at least.
        _ if float != 0.0 && !(1e-4..1e16).contains(&float.abs()) => {
            let text = format!("{float:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        _ => format!("{float:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    /// Against Python's `json.dumps` and `repr`.
    #[test]
    fn values_are_pythons() {
        let value = parse(
            r#"{"b": [1, 2.0, -0.5, 1e-7, 1e16, 123456789.125], "a": {"é\"'\\\n": null}, "c": [true, false, [], {}, "🚀", "it's"]}"#,
        );
        let json = |options: &Json| json(&value, options).unwrap();
        assert_eq!(
            json(&Json::default()),
            r#"{"b": [1, 2.0, -0.5, 1e-07, 1e+16, 123456789.125], "a": {"é\"'\\\n": null}, "c": [true, false, [], {}, "🚀", "it's"]}"#
        );
        assert_eq!(
            json(&Json { ascii: true, sort_keys: true, ..Json::default() }),
            r#"{"a": {"\u00e9\"'\\\n": null}, "b": [1, 2.0, -0.5, 1e-07, 1e+16, 123456789.125], "c": [true, false, [], {}, "\ud83d\ude80", "it's"]}"#
        );
        assert_eq!(
            str(&value),
            r#"{'b': [1, 2.0, -0.5, 1e-07, 1e+16, 123456789.125], 'a': {'é"\'\\\n': None}, 'c': [True, False, [], {}, '🚀', "it's"]}"#
        );
        let indented = Json { indent: Some("  ".to_owned()), ..Json::default() };
        let value = parse(r#"{"a": [1, {}], "b": []}"#);
        assert_eq!(
            super::json(&value, &indented).unwrap(),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"
        );
    }

    #[test]
    fn endless_nesting_is_an_error() {
        let value = (0..1000).fold(Value::from(1), |value, _| Value::from(vec![value]));
        assert!(str(&value).contains("..."));
        assert!(json(&value, &Json::default()).is_err());
    }
}
