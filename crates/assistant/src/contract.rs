//! The contract: which functions there are, and which arguments each of them takes.

use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::Value;

use crate::clock::{self, Date};

/// The functions as JSON schemas: what `data/functions.json` says.
pub const FUNCTIONS_JSON: &str = include_str!("../data/functions.json");

/// The functions that the assistant may call.
#[derive(Clone, Debug)]
pub struct Contract {
    /// In the contract's order.
    pub functions: Vec<Function>,
}

/// A function and its parameters.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// In the contract's order.
    pub parameters: Vec<Parameter>,
}

/// An argument that a function may take.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
    /// Whether each call has it.
    pub required: bool,
}

/// What the values of a parameter are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text that is not empty, as it was said.
    Text,
    /// A language, in English lower case.
    Language,
    /// Digits, operators, brackets, no words.
    Expression,
    /// A time of the day, HH:MM.
    Time,
    /// today, tomorrow, a weekday, YYYY-MM-DD, or a date that the clock completes ([`clock`]).
    Date,
    /// A whole number.
    Integer {
        /// The least.
        low: i64,
        /// The greatest.
        high: i64,
    },
    /// One of these words.
    Word(Vec<String>),
    /// Some of these words, each once, in this order.
    Words(Vec<String>),
}

impl Kind {
    /// Whether values are copied from the sentence, so that they change with its letter case.
    pub fn is_copied(&self) -> bool {
        *self == Kind::Text
    }

    /// Whether there are more values than a list could hold.
    pub fn is_open(&self) -> bool {
        !matches!(self, Kind::Word(_))
    }

    /// The value that a text means; `Words` are parted by spaces.
    pub fn value(&self, text: &str) -> Option<Value> {
        let value = match self {
            Kind::Integer { .. } => Value::from(text.parse::<i64>().ok()?),
            Kind::Words(_) => Value::from(text.split_whitespace().collect::<Vec<_>>()),
            _ => Value::from(text),
        };
        self.fits(&value).then_some(value)
    }

    /// Whether a value is one of this kind.
    pub fn fits(&self, value: &Value) -> bool {
        match self {
            Kind::Integer { low, high } => {
                value.as_i64().is_some_and(|n| (*low..=*high).contains(&n))
            }
            Kind::Words(of) => value.as_array().is_some_and(|items| {
                let places: Option<Vec<_>> =
                    items.iter().map(|item| of.iter().position(|word| item == word)).collect();
                places.is_some_and(|places| !places.is_empty() && places.is_sorted_by(|a, b| a < b))
            }),
            _ => value.as_str().is_some_and(|text| self.fits_text(text)),
        }
    }

    fn fits_text(&self, text: &str) -> bool {
        match self {
            Kind::Text => !text.is_empty() && text.trim() == text,
            Kind::Language => {
                !text.is_empty() && text.chars().all(|c| c.is_lowercase() || c == ' ')
            }
            Kind::Expression => {
                text.bytes().any(|b| b.is_ascii_digit())
                    && text.bytes().all(|b| b.is_ascii_digit() || b"+-*/().%".contains(&b))
            }
            Kind::Time => clock::is_time(text),
            Kind::Date => clock::is_date(text),
            Kind::Word(of) => of.iter().any(|word| word == text),
            Kind::Integer { .. } | Kind::Words(_) => false,
        }
    }
}

/// A call of a function: what a sentence means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub name: String,
    /// Names and values, in the contract's order.
    pub arguments: Vec<(String, Value)>,
}

impl Call {
    /// The value of an argument.
    pub fn argument(&self, name: &str) -> Option<&Value> {
        self.arguments.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// A call of nothing, for a reason of the contract: `chat`, `unsupported` or `missing`.
    pub fn none(reason: &str) -> Self {
        Call { name: "no_call".into(), arguments: vec![("reason".into(), reason.into())] }
    }

    /// `{"name":…,"arguments":{…}}`.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// The call with its incomplete dates completed, `today` being the day it is made on.
    pub fn on(mut self, today: Date) -> Self {
        for (name, value) in &mut self.arguments {
            if name == "date"
                && let Some(date) = value.as_str().and_then(|text| clock::complete(text, today))
            {
                *value = Value::from(date);
            }
        }
        self
    }
}

impl Serialize for Call {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Arguments<'a>(&'a [(String, Value)]);
        impl Serialize for Arguments<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
            }
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("arguments", &Arguments(&self.arguments))?;
        map.end()
    }
}

/// What is wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No such function.
    #[error("there is no function {0:?}")]
    Function(String),
    /// An argument that the function does not take.
    #[error("{0} takes no argument {1:?}")]
    Argument(String, String),
    /// A value that the argument cannot have.
    #[error("{0}: {1} cannot be {2}")]
    Value(String, String, String),
    /// An argument that each call must have.
    #[error("{0} lacks its argument {1}")]
    Missing(String, String),
    /// Not an object with a name and arguments.
    #[error("not a call: {0}; expected {{\"name\":…,\"arguments\":{{…}}}}")]
    Form(String),
}

impl Contract {
    /// The contract that Kinglet ships.
    pub fn shipped() -> Self {
        Contract::parse(FUNCTIONS_JSON).expect("the shipped contract is read by every test")
    }

    /// Reads function schemas; the message says what is not understood.
    pub fn parse(json: &str) -> Result<Self, String> {
        let document: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let schemas = document.as_array().ok_or("the document is not a list of functions")?;
        let functions = schemas.iter().map(|schema| function(&schema["function"]));
        Ok(Contract { functions: functions.collect::<Result<_, _>>()? })
    }

    /// A function by its name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.name == name)
    }

    /// Reads `{"name":…,"arguments":{…}}` and checks it.
    pub fn read(&self, value: &Value) -> Result<Call, CallError> {
        let form = || CallError::Form(value.to_string());
        let name = value["name"].as_str().ok_or_else(form)?.to_owned();
        let given = value["arguments"].as_object().ok_or_else(form)?;
        let mut arguments: Vec<_> =
            given.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        if let Some(function) = self.function(&name) {
            arguments.sort_by_key(|(name, _)| function.place(name));
        }
        let call = Call { name, arguments };
        self.check(&call).map(|()| call)
    }

    /// Reads the same from a JSON text.
    pub fn read_text(&self, json: &str) -> Result<Call, CallError> {
        let value = serde_json::from_str(json);
        self.read(&value.map_err(|_| CallError::Form(json.to_owned()))?)
    }

    /// Whether a call keeps the contract.
    pub fn check(&self, call: &Call) -> Result<(), CallError> {
        let name = &call.name;
        let function = self.function(name).ok_or_else(|| CallError::Function(name.clone()))?;
        for (argument, value) in &call.arguments {
            let parameter = function
                .parameter(argument)
                .ok_or_else(|| CallError::Argument(name.clone(), argument.clone()))?;
            if !parameter.kind.fits(value) {
                let value = value.to_string();
                return Err(CallError::Value(name.clone(), argument.clone(), value));
            }
        }
        match function.parameters.iter().find(|p| p.required && call.argument(&p.name).is_none()) {
            Some(parameter) => Err(CallError::Missing(name.clone(), parameter.name.clone())),
            None => Ok(()),
        }
    }
}

impl Function {
    /// A parameter by its name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    fn place(&self, name: &str) -> usize {
        let place = self.parameters.iter().position(|parameter| parameter.name == name);
        place.unwrap_or(self.parameters.len())
    }
}

fn function(schema: &Value) -> Result<Function, String> {
    let name = schema["name"].as_str().ok_or("a function without a name")?.to_owned();
    let properties = schema["parameters"]["properties"].as_object();
    let properties = properties.ok_or_else(|| format!("{name} has no properties"))?;
    let required = schema["parameters"]["required"].as_array();
    let mut parameters = Vec::new();
    for (parameter, schema) in properties {
        let kind = kind(parameter, schema).ok_or_else(|| {
            format!("{name}: the type of {parameter} is not understood: {schema}")
        })?;
        let required = required.is_some_and(|names| names.iter().any(|n| n == parameter));
        parameters.push(Parameter { name: parameter.clone(), kind, required });
    }
    Ok(Function { name, parameters })
}

fn kind(name: &str, schema: &Value) -> Option<Kind> {
    let words = |of: &Value| -> Option<Vec<String>> {
        of["enum"].as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let description = schema["description"].as_str().unwrap_or_default();
    Some(match schema["type"].as_str()? {
        "array" => Kind::Words(words(&schema["items"])?),
        "integer" => Kind::Integer {
            low: schema["minimum"].as_i64().unwrap_or(i64::MIN),
            high: schema["maximum"].as_i64().unwrap_or(i64::MAX),
        },
        "string" if schema["enum"].is_array() => Kind::Word(words(schema)?),
        "string" if schema["pattern"].is_string() => Kind::Time,
        "string" if name == "date" => Kind::Date,
        "string" if name == "expression" => Kind::Expression,
        "string" if description.starts_with("language") => Kind::Language,
        "string" => Kind::Text,
        _ => return None,
    })
}
