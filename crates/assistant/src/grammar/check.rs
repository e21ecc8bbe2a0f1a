//! Whether each sentence fills the arguments that its function takes, and each at most once.

use super::{Grammar, GrammarError, Node, Sentence};
use crate::contract::Contract;

/// For each slot, how often a derivation fills it: at least and at most.
type Counts = Vec<(u32, u32)>;

impl Grammar {
    /// Checks all sentences against a contract.
    pub fn check(&self, contract: &Contract) -> Result<(), GrammarError> {
        let mut known = vec![None; self.rules.len()];
        self.sentences.iter().try_for_each(|sentence| {
            self.check_sentence(sentence, contract, &mut known)
                .map_err(|what| GrammarError { place: sentence.place.clone(), what })
        })
    }

    fn check_sentence(
        &self,
        sentence: &Sentence,
        contract: &Contract,
        known: &mut [Option<Counts>],
    ) -> Result<(), String> {
        let name = &sentence.function;
        let function =
            contract.function(name).ok_or_else(|| format!("there is no function {name}"))?;
        for (slot, (least, most)) in self.counts(&sentence.of, known).into_iter().enumerate() {
            let argument = &self.slots[slot];
            match function.parameter(argument) {
                None if most > 0 => return Err(format!("{name} takes no argument {argument}")),
                Some(_) if most > 1 => return Err(format!("{argument} may be filled twice")),
                Some(parameter) if parameter.required && least == 0 => {
                    return Err(format!("{argument} may stay empty, which {name} requires"));
                }
                _ => {}
            }
        }
        let filled = |name: &String| self.slots.contains(name);
        match function.parameters.iter().find(|p| p.required && !filled(&p.name)) {
            Some(parameter) => Err(format!("nothing fills {}", parameter.name)),
            None => Ok(()),
        }
    }

    /// The counts of nodes; `known` holds those of rules that were asked for before.
    fn counts(&self, nodes: &[Node], known: &mut [Option<Counts>]) -> Counts {
        let mut sum = vec![(0, 0); self.slots.len()];
        for node in nodes {
            let of_node = match node {
                Node::Text(_) | Node::Speaker(_) => continue,
                Node::Rule(rule) => match &known[*rule] {
                    Some(counts) => counts.clone(),
                    None => {
                        let counts = self.counts(&self.rules[*rule].of, known);
                        known[*rule].insert(counts).clone()
                    }
                },
                Node::AsSaid(of) | Node::Pair { said: of, .. } => self.counts(of, known),
                Node::Slot { slot, of } => {
                    let mut counts = self.counts(of, known);
                    counts[*slot].0 += 1;
                    counts[*slot].1 += 1;
                    counts
                }
                Node::Choice(of) => {
                    let counts = of.iter().map(|alternative| self.counts(&alternative.of, known));
                    let wider = |a: Counts, b: Counts| {
                        a.iter().zip(&b).map(|(a, b)| (a.0.min(b.0), a.1.max(b.1))).collect()
                    };
                    counts.reduce(wider).expect("a choice has an alternative")
                }
            };
            for (sum, of_node) in sum.iter_mut().zip(of_node) {
                sum.0 += of_node.0;
                sum.1 += of_node.1;
            }
        }
        sum
    }
}
