//! A teacher beside a language model that is trained.

use super::Model;
use super::loss::{SHARE, TARGETS, step};
use crate::data::{Batches, IGNORED};
use crate::{Distillation, Objective, Student, TuneError, distil};
use kinglet_graph::{Graph, ValueId};
use kinglet_lm::tokenizer::Tokenizer;
use std::fmt;

impl Objective {
    /// Lets the student `model`, whose objective this is, learn from `teacher` too, which reads the same
    /// rows; from the hidden values of its `layers`, where they are given. What is learned may come to have
    /// projections, which are no part of the model: [`crate::PROJECTION`].
    ///
    /// # Errors
    /// If the teacher has other tokens, or lacks a layer.
    pub fn distil(
        &mut self,
        model: &Model,
        teacher: &Model,
        batches: &Batches,
        layers: Option<&Layers>,
        how: &Distillation,
    ) -> Result<(), TuneError> {
        same_tokens(model, teacher)?;
        let mut graph = step(teacher, batches)?;
        let pairs = layers.map_or(Ok(Vec::new()), |layers| {
            layers.pairs(model.config.layers, teacher.config.layers).map_err(TuneError::Input)
        })?;
        let mut features = Vec::with_capacity(pairs.len());
        for (own, theirs) in pairs {
            features.push(hidden(&self.graph, own)?);
            let theirs = hidden(&graph, theirs)?;
            graph.outputs.push(theirs);
        }
        let input = |name: &str| {
            let mut inputs = self.graph.inputs.iter().copied();
            inputs.find(|v| self.graph.value(*v).name == name).ok_or_else(|| {
                TuneError::Work(format!("the student's graph has no input '{name}'"))
            })
        };
        let names = graph.inputs.iter().map(|v| graph.value(*v).name.as_str());
        let inputs = names.map(input).collect::<Result<Vec<_>, _>>()?;
        let student = Student {
            loss: self.loss,
            scores: self.scores,
            targets: Some((input(TARGETS)?, IGNORED.into())),
            share: Some(input(SHARE)?),
            features,
        };
        let made = distil(&mut self.graph, &student, &graph, &inputs, how)
            .map_err(|e| TuneError::Input(e.to_string()))?;
        self.loss = made.loss;
        self.learn_too(made.projections);
        Ok(())
    }
}

/// The hidden values after a layer.
fn hidden(graph: &Graph, layer: usize) -> Result<ValueId, TuneError> {
    let name = format!("blk.{layer}.out");
    let last = graph.values_with_ids().filter(|(_, value)| value.name == name).last();
    let (found, _) = last.ok_or_else(|| {
        TuneError::Input(format!("layer {layer} has no hidden values of its own to learn from"))
    })?;
    Ok(found)
}

/// Refuses a teacher whose tokens are others.
fn same_tokens(model: &Model, teacher: &Model) -> Result<(), TuneError> {
    let (own, theirs) = (&model.tokenizer, &teacher.tokenizer);
    let differs = |m: String| {
        Err(TuneError::Input(format!(
            "the teacher's vocabulary is not the student's ({m}): a teacher of the same one is needed"
        )))
    };
    if own.vocab_size() != theirs.vocab_size() {
        return differs(format!("{} tokens, and {}", theirs.vocab_size(), own.vocab_size()));
    }
    let other = |id: &u32| {
        own.token_text(*id) != theirs.token_text(*id) || own.kind(*id) != theirs.kind(*id)
    };
    match (0..own.vocab_size() as u32).find(other) {
        None => Ok(()),
        Some(id) => {
            let text = |of: &Tokenizer| of.token_text(id).unwrap_or_default().to_string();
            differs(format!("token {id} is {:?}, and {:?}", text(theirs), text(own)))
        }
    }
}

/// Which layers of a student learn from which of a teacher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// The last from the last.
    Last,
    /// Each, from the one that is as far on.
    All,
    /// Pairs: the student's, the teacher's, counted from 0.
    Pairs(Vec<(usize, usize)>),
}

impl Layers {
    /// `last`, `all`, or pairs N=M between commas: the student's layer N learns from the teacher's M.
    ///
    /// # Errors
    /// What can't be understood.
    pub fn parse(text: &str) -> Result<Layers, String> {
        let pair = |part: &str| {
            let pair = part.trim().split_once('=');
            let numbers =
                pair.and_then(|(own, theirs)| Some((own.parse().ok()?, theirs.parse().ok()?)));
            numbers.ok_or_else(|| format!("{part}: give last, all, or layers as 2=5,3=7"))
        };
        match text {
            "last" => Ok(Layers::Last),
            "all" => Ok(Layers::All),
            pairs => pairs.split(',').map(pair).collect::<Result<_, _>>().map(Layers::Pairs),
        }
    }

    /// The pairs, of a student and a teacher of so many layers.
    fn pairs(&self, own: usize, theirs: usize) -> Result<Vec<(usize, usize)>, String> {
        if own == 0 || theirs == 0 {
            return Err("there are no layers to learn from".into());
        }
        let pairs = match self {
            Layers::Last => vec![(own - 1, theirs - 1)],
            Layers::All => (0..own)
                .map(|i| (i, (i + 1) * theirs / own))
                .map(|(i, j)| (i, j.max(1) - 1))
                .collect(),
            Layers::Pairs(pairs) => pairs.clone(),
        };
        match pairs.iter().find(|(i, j)| *i >= own || *j >= theirs) {
            None => Ok(pairs),
            Some((i, j)) => Err(format!(
                "{i}={j}: the student has layers 0 to {}, the teacher 0 to {}",
                own - 1,
                theirs - 1
            )),
        }
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layers::Last => f.write_str("last"),
            Layers::All => f.write_str("all"),
            Layers::Pairs(pairs) => {
                let all: Vec<String> = pairs.iter().map(|(i, j)| format!("{i}={j}")).collect();
                f.write_str(&all.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_paired() {
        let pairs = |text: &str, own, theirs| Layers::parse(text).unwrap().pairs(own, theirs);
        assert_eq!(pairs("last", 2, 6), Ok(vec![(1, 5)]));
        assert_eq!(pairs("all", 2, 6), Ok(vec![(0, 2), (1, 5)]));
        assert_eq!(pairs("all", 3, 2), Ok(vec![(0, 0), (1, 0), (2, 1)]));
        assert_eq!(pairs("0=4, 1=5", 2, 6), Ok(vec![(0, 4), (1, 5)]));
        assert!(pairs("0=6", 2, 6).unwrap_err().contains("the teacher 0 to 5"));
        assert!(pairs("last", 0, 6).is_err());
        for text in ["", "first", "1", "1=", "1=2,"] {
            assert!(Layers::parse(text).unwrap_err().contains("2=5"), "{text}");
        }
        assert_eq!(Layers::parse("0=4, 1=5").unwrap().to_string(), "0=4,1=5");
    }
}
