//! Whether a grammar derives a given sentence.

use std::collections::{BTreeSet, HashMap};

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

/// A text that is looked for; what was found of each rule at each place is kept.
struct Search<'a> {
    grammar: &'a Grammar,
    text: &'a [char],
    /// Of each slot, whether its value is left open.
    open: Vec<bool>,
    known: HashMap<(usize, usize), Places>,
}

impl Grammar {
    /// Whether a sentence of a function has this pattern, between what the shared rules `before` and
    /// `after` derive. `is_open` says of which arguments the values are left open; what code speaks
    /// counts only there.
    pub fn derives(
        &self,
        function: &str,
        pattern: &Pattern,
        is_open: impl Fn(&str) -> bool,
        (before, after): (&[&str], &[&str]),
    ) -> bool {
        let open = self.slots.iter().map(|slot| is_open(slot)).collect();
        let mut search = Search { open, ..Search::new(self, pattern) };
        let starts = search.around(before, Places::from([0]));
        let of_function = |sentence: &&Sentence| sentence.function == function;
        self.sentences.iter().filter(of_function).any(|sentence| {
            let ends = search.step(&sentence.of, &starts);
            search.around(after, ends).contains(&pattern.0.len())
        })
    }

    /// Whether an argument, in a sentence of any function, can be filled with just this.
    pub fn fills(&self, argument: &str, value: &str) -> bool {
        let Some(wanted) = self.slot(argument) else { return false };
        let pattern = Pattern::new([(value, false)]);
        let mut search = Search::new(self, &pattern);
        let bodies = self.sentences.iter().map(|s| &s.of).chain(self.rules.iter().map(|r| &r.of));
        let mut found = false;
        for body in bodies {
            each_slot(body, &mut |slot, of| {
                found = found
                    || slot == wanted
                        && search.step(of, &Places::from([0])).contains(&pattern.0.len());
            });
        }
        found
    }

    /// Every word of the grammar's texts that has a capital, in lower case.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let bodies = self.sentences.iter().map(|s| &s.of).chain(self.rules.iter().map(|r| &r.of));
        bodies.for_each(|body| names_in(body, &mut names));
        names
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

impl<'a> Search<'a> {
    fn new(grammar: &'a Grammar, pattern: &'a Pattern) -> Self {
        let open = vec![false; grammar.slots.len()];
        Search { grammar, text: &pattern.0, open, known: HashMap::new() }
    }

    /// The places after what one of some rules derives, or nothing.
    fn around(&mut self, rules: &[&str], from: Places) -> Places {
        let mut to = from.clone();
        for rule in rules.iter().filter_map(|name| self.grammar.shared_rule(name)) {
            to.extend(self.rule(rule, &from));
        }
        // A space parts them from the sentence.
        let spaces: Vec<_> =
            to.iter().filter(|place| self.text.get(**place) == Some(&' ')).map(|p| p + 1).collect();
        to.extend(spaces);
        to
    }

    fn rule(&mut self, rule: usize, from: &Places) -> Places {
        let grammar = self.grammar;
        let mut to = Places::new();
        for &place in from {
            if !self.known.contains_key(&(rule, place)) {
                let places = self.step(&grammar.rules[rule].of, &Places::from([place]));
                self.known.insert((rule, place), places);
            }
            to.extend(&self.known[&(rule, place)]);
        }
        to
    }

    /// The places to which nodes lead from places in the text.
    fn step(&mut self, nodes: &[Node], from: &Places) -> Places {
        let mut places = from.clone();
        for node in nodes {
            if places.is_empty() {
                break;
            }
            places = match node {
                Node::Text(said) => {
                    places.iter().filter_map(|&place| literal(said, self.text, place)).collect()
                }
                Node::Rule(rule) => self.rule(*rule, &places),
                Node::Choice(of) => of.iter().flat_map(|a| self.step(&a.of, &places)).collect(),
                Node::Slot { slot, .. } if self.open[*slot] => {
                    let here = |place: &&usize| self.text.get(**place) == Some(&VALUE);
                    let mut after: Places =
                        places.iter().filter(here).map(|place| place + 1).collect();
                    if self.grammar.may_be_silent(node) {
                        after.extend(&places);
                    }
                    after
                }
                Node::AsSaid(of) | Node::Pair { said: of, .. } | Node::Slot { of, .. } => {
                    self.step(of, &places)
                }
                Node::Speaker(_) => Places::new(),
            };
        }
        places
    }
}

fn each_slot(nodes: &[Node], visit: &mut impl FnMut(usize, &[Node])) {
    for node in nodes {
        match node {
            Node::Slot { slot, of } => visit(*slot, of),
            Node::Choice(of) => of.iter().for_each(|a| each_slot(&a.of, visit)),
            Node::AsSaid(of) | Node::Pair { said: of, .. } => each_slot(of, visit),
            // Rules are visited by themselves.
            Node::Rule(_) | Node::Text(_) | Node::Speaker(_) => {}
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

fn names_in(nodes: &[Node], into: &mut BTreeSet<String>) {
    for node in nodes {
        match node {
            Node::Text(text) => {
                let names =
                    text.split([' ', '-']).filter(|word| word.starts_with(char::is_uppercase));
                into.extend(names.map(|name| plain(name).collect::<String>().trim().to_owned()));
            }
            Node::Choice(of) => of.iter().for_each(|a| names_in(&a.of, into)),
            Node::AsSaid(of) | Node::Pair { said: of, .. } | Node::Slot { of, .. } => {
                names_in(of, into);
            }
            Node::Rule(_) | Node::Speaker(_) => {}
        }
    }
}
