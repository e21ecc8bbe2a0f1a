//! Whether a grammar derives a given sentence.

use std::collections::BTreeSet;

use super::{Grammar, Node, Sentence};

/// Stands for the value of an argument in a sentence whose pattern is looked for.
const VALUE: char = '\u{FFFC}';

/// A sentence as it is looked for: lower case, without punctuation, values left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<char>);

impl Pattern {
    /// What is said as pieces, and whether each is an argument's value.
    pub fn new<'a>(pieces: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        let mut chars = Vec::new();
        let mut open = false;
        for (text, is_value) in pieces {
            // Pieces of one value stand beside each other.
            if is_value && !open {
                chars.push(VALUE);
            } else if !is_value {
                chars.extend(plain(text));
            }
            open = is_value;
        }
        chars.dedup_by(|b, a| *a == ' ' && *b == ' ');
        while chars.last() == Some(&' ') {
            chars.pop();
        }
        let leading = usize::from(chars.first() == Some(&' '));
        Pattern(chars.split_off(leading))
    }

    /// The pattern as text, values as `_`.
    pub fn text(&self) -> String {
        self.0.iter().map(|&c| if c == VALUE { '_' } else { c }).collect()
    }
}

/// Lower case; punctuation is as good as a space.
fn plain(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase).filter(|c| *c != '\'').map(|c| {
        if c.is_whitespace() || matches!(c, ',' | '.' | '?' | '!' | ':' | ';' | '"' | '-') {
            ' '
        } else {
            c
        }
    })
}

type Places = BTreeSet<usize>;

impl Grammar {
    /// Whether a sentence of a function has this pattern, between what the rules `before` and
    /// `after` derive. What code speaks counts only where a value is open.
    pub fn derives(
        &self,
        function: &str,
        pattern: &Pattern,
        before: &[&str],
        after: &[&str],
    ) -> bool {
        let around = |names: &[&str], from: Places| {
            let mut to = from.clone();
            for rule in names.iter().filter_map(|name| self.shared_rule(name)) {
                to.extend(self.step(&self.rules[rule].of, &pattern.0, &from, true));
            }
            to
        };
        let starts = around(before, Places::from([0]));
        let of_function = |sentence: &&Sentence| sentence.function == function;
        self.sentences.iter().filter(of_function).any(|sentence| {
            let ends = around(after, self.step(&sentence.of, &pattern.0, &starts, true));
            ends.contains(&pattern.0.len())
        })
    }

    /// Whether an argument, in a sentence of any function, can be filled with just this.
    pub fn fills(&self, argument: &str, value: &str) -> bool {
        let Some(slot) = self.slot(argument) else { return false };
        let wanted = Pattern::new([(value, false)]);
        let bodies = self.sentences.iter().map(|s| &s.of).chain(self.rules.iter().map(|r| &r.of));
        let mut found = false;
        for body in bodies {
            self.each_slot(body, &mut |filled, of| {
                if filled == slot && !found {
                    let ends = self.step(of, &wanted.0, &Places::from([0]), false);
                    found = ends.contains(&wanted.0.len());
                }
            });
        }
        found
    }

    /// Every word of the grammar's texts, in lower case.
    pub fn words(&self) -> BTreeSet<String> {
        let mut words = BTreeSet::new();
        let bodies = self.sentences.iter().map(|s| &s.of).chain(self.rules.iter().map(|r| &r.of));
        bodies.for_each(|body| words_in(body, &mut words));
        words
    }

    fn each_slot(&self, nodes: &[Node], visit: &mut impl FnMut(usize, &[Node])) {
        for node in nodes {
            match node {
                Node::Slot { slot, of } => visit(*slot, of),
                Node::Choice(of) => of.iter().for_each(|a| self.each_slot(&a.of, visit)),
                Node::AsSaid(of) | Node::Pair { said: of, .. } => self.each_slot(of, visit),
                // Rules are visited by themselves.
                Node::Rule(_) | Node::Text(_) | Node::Speaker(_) => {}
            }
        }
    }

    /// The places to which nodes lead from places in the text.
    fn step(&self, nodes: &[Node], text: &[char], from: &Places, open: bool) -> Places {
        let mut places = from.clone();
        for node in nodes {
            if places.is_empty() {
                break;
            }
            places = match node {
                Node::Text(said) => {
                    places.iter().filter_map(|&place| literal(said, text, place)).collect()
                }
                Node::Rule(rule) => self.step(&self.rules[*rule].of, text, &places, open),
                Node::Choice(of) => {
                    of.iter().flat_map(|a| self.step(&a.of, text, &places, open)).collect()
                }
                Node::AsSaid(of) | Node::Pair { said: of, .. } => {
                    self.step(of, text, &places, open)
                }
                Node::Slot { .. } if open => {
                    let here = |&&place: &&usize| text.get(place) == Some(&VALUE);
                    let mut after: Places =
                        places.iter().filter(here).map(|place| place + 1).collect();
                    if self.may_be_silent(node) {
                        after.extend(&places);
                    }
                    after
                }
                Node::Slot { of, .. } => self.step(of, text, &places, open),
                Node::Speaker(_) => Places::new(),
            };
        }
        places
    }

    /// Whether a slot is filled without a word, as `{state=[->on]}` is.
    fn may_be_silent(&self, node: &Node) -> bool {
        match node {
            Node::Text(text) => text.trim().is_empty(),
            Node::Rule(rule) => self.rules[*rule].of.iter().all(|node| self.may_be_silent(node)),
            Node::Choice(of) => of.iter().any(|a| a.of.iter().all(|node| self.may_be_silent(node))),
            Node::AsSaid(of) | Node::Pair { said: of, .. } | Node::Slot { of, .. } => {
                of.iter().all(|node| self.may_be_silent(node))
            }
            Node::Speaker(_) => false,
        }
    }
}

/// The place after a literal that stands at a place; spaces need not be doubled.
fn literal(said: &str, text: &[char], mut place: usize) -> Option<usize> {
    for c in plain(said) {
        if c == ' ' {
            if text.get(place) == Some(&' ') {
                place += 1;
            } else if !(place == 0 || place == text.len() || text[place - 1] == ' ') {
                return None;
            }
        } else if text.get(place) == Some(&c) {
            place += 1;
        } else {
            return None;
        }
    }
    Some(place)
}

fn words_in(nodes: &[Node], into: &mut BTreeSet<String>) {
    for node in nodes {
        match node {
            Node::Text(text) => {
                let text: String = plain(text).collect();
                into.extend(text.split_whitespace().map(str::to_owned));
            }
            Node::Choice(of) => of.iter().for_each(|a| words_in(&a.of, into)),
            Node::AsSaid(of) | Node::Pair { said: of, .. } | Node::Slot { of, .. } => {
                words_in(of, into);
            }
            Node::Rule(_) | Node::Speaker(_) => {}
        }
    }
}
