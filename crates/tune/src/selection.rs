//! Which weights are trained: sparse updates, of some layers or of biases alone, as in "On-Device
//! Training Under 256KB Memory" (Lin et al., NeurIPS 2022, arXiv 2206.15472). What is left out has no
//! gradient and no optimiser's state; and what lies before the first weight that is trained, no
//! gradients and no activations that are kept.

use crate::TuneError;
use kinglet_formats::lm::adapter::rows_of;
use std::fmt;

/// Weights by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(Vec<Choice>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    /// So many of the last layers.
    Last(usize),
    /// A name in which `*` stands for any text.
    Name(String),
}

/// How GGUF calls a layer's tensors, before its number.
const LAYER: &str = "blk.";

impl Selection {
    /// The last `count` layers.
    pub fn last(count: usize) -> Selection {
        Selection(vec![Choice::Last(count)])
    }

    /// The vectors: norms and biases, of which `names` tell whether there are any.
    pub fn vectors(names: &[&str]) -> Option<Selection> {
        let chosen = ["*norm.weight", "*.bias"].into_iter();
        let chosen = chosen.filter(|pattern| names.iter().any(|name| matches(pattern, name)));
        let chosen: Vec<_> = chosen.map(|pattern| Choice::Name(pattern.into())).collect();
        (!chosen.is_empty()).then_some(Selection(chosen))
    }

    /// Of choices between commas: `last=2` is the last two layers, and anything else a name in which `*`
    /// stands for any text: `*.bias`, `blk.3.attn_*`, `output.weight`.
    ///
    /// # Errors
    /// What can't be understood.
    pub fn parse(text: &str) -> Result<Selection, String> {
        let choice = |part: &str| match part.trim().split_once('=') {
            Some(("last", count)) => match count.parse() {
                Ok(count) if count > 0 => Ok(Choice::Last(count)),
                _ => Err(format!("last={count}: give a number of layers, as last=2")),
            },
            Some((key, _)) => Err(format!("{key}= is not known: give last=N, or names with *")),
            None if part.trim().is_empty() => Err("a choice is empty".into()),
            None => Ok(Choice::Name(part.trim().into())),
        };
        text.split(',').map(choice).collect::<Result<_, _>>().map(Selection)
    }

    /// Of each of `weights`, by its name and its layer, whether it is chosen. Rows of a weight
    /// (`WEIGHT[0..64]`) are chosen with it.
    ///
    /// # Errors
    /// If a choice is of none.
    pub fn of(&self, weights: &[(&str, Option<usize>)]) -> Result<Vec<bool>, TuneError> {
        let layers = weights.iter().filter_map(|(_, layer)| *layer).map(|n| n + 1).max();
        let mut chosen = vec![false; weights.len()];
        for choice in &self.0 {
            let mut found = false;
            for ((name, layer), chosen) in weights.iter().zip(&mut chosen) {
                let name = rows_of(name).map_or(*name, |(whole, _)| whole);
                if choice.is_of(name, *layer, layers.unwrap_or(0)) {
                    (*chosen, found) = (true, true);
                }
            }
            if !found {
                let example = weights.first().map_or("", |(name, _)| name);
                return Err(TuneError::Input(format!(
                    "{choice}: no weight of the model is chosen by it; they are called as '{example}'"
                )));
            }
        }
        Ok(chosen)
    }
}

impl Choice {
    fn is_of(&self, name: &str, layer: Option<usize>, layers: usize) -> bool {
        match self {
            Choice::Last(count) => layer.is_some_and(|n| n.saturating_add(*count) >= layers),
            Choice::Name(pattern) => matches(pattern, name),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let choices: Vec<_> = self.0.iter().map(Choice::to_string).collect();
        f.write_str(&choices.join(","))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Last(count) => write!(f, "last={count}"),
            Choice::Name(pattern) => f.write_str(pattern),
        }
    }
}

/// The layer of a tensor of a language model, by its name.
pub(crate) fn layer(name: &str) -> Option<usize> {
    name.strip_prefix(LAYER)?.split('.').next()?.parse().ok()
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let start = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(start) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    // Each part where it first comes; the last at the end.
    while let Some(part) = parts.next() {
        match (parts.peek(), rest.find(part)) {
            (None, _) => return rest.ends_with(part),
            (Some(_), Some(at)) => rest = &rest[at + part.len()..],
            (Some(_), None) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = [
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.1.attn_q.bias",
        "blk.9.ffn_up.weight[0..64]",
        "blk.10.ffn_up.weight",
        "output.weight",
    ];

    fn named() -> Vec<(&'static str, Option<usize>)> {
        NAMES.iter().map(|name| (*name, layer(name))).collect()
    }

    fn chosen(text: &str) -> Vec<usize> {
        let chosen = Selection::parse(text).unwrap().of(&named()).unwrap();
        (0..NAMES.len()).filter(|i| chosen[*i]).collect()
    }

    #[test]
    fn layers_and_names_are_chosen() {
        assert_eq!(chosen("last=1"), [4]);
        assert_eq!(chosen("last=2,*.bias"), [2, 3, 4]);
        assert_eq!(chosen("last=99"), [1, 2, 3, 4]);
        assert_eq!(chosen("*"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(chosen(" output.weight , blk.*.attn_*"), [1, 2, 5]);
        assert_eq!(chosen("*ffn*"), [3, 4]);
        assert_eq!(chosen("blk.9.ffn_up.weight"), [3]);
        assert_eq!(chosen("last=18446744073709551615"), [1, 2, 3, 4]);
        let many = "*a".repeat(40);
        assert!(!matches(&many, &"a".repeat(39)) && matches(&many, &"a".repeat(41)));
    }

    #[test]
    fn what_chooses_nothing_is_said() {
        for (text, want) in [
            ("last=0", "last=2"),
            ("last=x", "last=2"),
            ("first=2", "not known"),
            ("a,,b", "empty"),
        ] {
            let error = Selection::parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        let error = Selection::parse("*.bias,norm").unwrap().of(&named()).unwrap_err().to_string();
        assert!(error.contains("norm: no weight") && error.contains("token_embd"), "{error}");
    }
}
