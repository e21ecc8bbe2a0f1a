//! What calls are written with beside their values: a tokeniser that has each of these texts as one
//! token spells a call in few tokens, and names a function by one.

use std::collections::BTreeSet;

use crate::contract::{Contract, Kind};

/// What stands before and after a value of a kind, and between several.
fn marks(kind: &Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Integer { .. } => ("", ""),
        Kind::Words(_) => ("[\"", "\"]"),
        _ => ("\"", "\""),
    }
}

impl Contract {
    /// The texts, none of them twice, in alphabetical order: up to the arguments of each function, from
    /// each value to the next, from the last to the end.
    pub fn skeleton(&self) -> Vec<String> {
        let mut texts = BTreeSet::from(["}}".to_owned(), "\",\"".to_owned()]);
        for function in &self.functions {
            texts.insert(format!("{{\"name\":\"{}\",\"arguments\":{{", function.name));
            for (i, parameter) in function.parameters.iter().enumerate() {
                let (before, after) = marks(&parameter.kind);
                let key = format!("\"{}\":{before}", parameter.name);
                let earlier = function.parameters[..i].iter().map(|p| marks(&p.kind).1);
                texts.extend(earlier.map(|after| format!("{after},{key}")));
                texts.insert(key);
                texts.insert(format!("{after}}}}}"));
            }
        }
        texts.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Generator;

    #[test]
    fn what_is_left_of_a_call_is_its_values() {
        let mut texts = Contract::shipped().skeleton();
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let mut generator = Generator::new(3).unwrap();
        for _ in 0..2000 {
            let call = generator.example().unwrap().call;
            let mut left = call.json();
            for text in &texts {
                left = left.replace(text.as_str(), "\n");
            }
            let values = call.arguments.iter().map(|(_, value)| match value {
                serde_json::Value::String(_) => value.to_string().trim_matches('"').to_owned(),
                serde_json::Value::Array(of) => {
                    of.iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join("\n")
                }
                other => other.to_string(),
            });
            let values: Vec<_> = values.collect();
            let left: Vec<_> = left.split('\n').filter(|part| !part.is_empty()).collect();
            assert_eq!(left.join("\n"), values.join("\n"), "{}", call.json());
        }
    }
}
