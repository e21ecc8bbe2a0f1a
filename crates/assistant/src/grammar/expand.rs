//! Derives sentences at random.

use super::{Grammar, Node, Sentence};
use crate::rng::Rng;

/// A part of what was derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What is said.
    pub said: String,
    /// What is meant, where that is not what is said.
    pub meant: Option<String>,
    /// The argument whose value it is a part of: its number among the grammar's slots.
    pub slot: Option<usize>,
}

impl Grammar {
    /// One of these sentences, by weight.
    pub fn pick<'a>(&'a self, of: &[usize], rng: &mut Rng) -> &'a Sentence {
        let index = rng.weighted(of.iter().map(|&index| self.sentences[index].weight));
        &self.sentences[of[index]]
    }

    /// Derives a sentence.
    pub fn say(&self, sentence: &Sentence, rng: &mut Rng) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.expand(&sentence.of, None, rng, &mut pieces);
        pieces
    }

    /// Derives from a shared rule; nothing where there is none of that name.
    pub fn say_rule(&self, name: &str, rng: &mut Rng) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Some(rule) = self.shared_rule(name) {
            self.expand(&self.rules[rule].of, None, rng, &mut pieces);
        }
        pieces
    }

    fn expand(&self, nodes: &[Node], slot: Option<usize>, rng: &mut Rng, into: &mut Vec<Piece>) {
        for node in nodes {
            match node {
                Node::Text(text) => into.push(Piece { said: text.clone(), meant: None, slot }),
                Node::Rule(rule) => self.expand(&self.rules[*rule].of, slot, rng, into),
                Node::Choice(of) => {
                    let index = rng.weighted(of.iter().map(|alternative| alternative.weight));
                    self.expand(&of[index].of, slot, rng, into);
                }
                Node::Slot { slot, of } => self.expand(of, Some(*slot), rng, into),
                Node::Speaker(speaker) => {
                    let spoken = (speaker.say)(rng);
                    into.push(Piece { said: spoken.said, meant: spoken.meant, slot });
                }
                Node::AsSaid(of) => {
                    into.push(Piece { said: self.said(of, rng), meant: None, slot });
                }
                Node::Pair { said, meant } => {
                    let (said, meant) = (self.said(said, rng), Some(meant.clone()));
                    into.push(Piece { said, meant, slot });
                }
            }
        }
    }

    fn said(&self, nodes: &[Node], rng: &mut Rng) -> String {
        let mut pieces = Vec::new();
        self.expand(nodes, None, rng, &mut pieces);
        pieces.into_iter().map(|piece| piece.said).collect()
    }
}
