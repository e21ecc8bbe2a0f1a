//! Reads the notation.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;
use std::str::Chars;

use super::{Alternative, Form, Grammar, GrammarError, Node, Rule, Sentence};
use crate::speech;

/// The scope of rules that all files see.
const SHARED: &str = "";

/// Where rules are, by scope and name.
type Names<'a> = HashMap<(&'a str, &'a str), usize>;

/// A rule's or sentence's text, its lines joined.
struct Entry<'a> {
    file: &'a str,
    line: usize,
    text: String,
}

impl Grammar {
    /// Reads files, given as names and texts. The sentences of a file are those of the function that
    /// its name says, and its rules are its own; rules of a file without sentences are for all.
    pub fn parse(files: &[(&str, &str)]) -> Result<Self, GrammarError> {
        let mut entries = Vec::new();
        for (file, text) in files {
            collect(file, text, &mut entries)?;
        }
        let mut grammar = Grammar::default();
        let of_functions: HashSet<&str> =
            entries.iter().filter(|entry| entry.form().is_some()).map(|entry| entry.file).collect();
        let mut names = Names::default();
        let mut bodies = Vec::new();
        for entry in entries.iter().filter(|entry| entry.form().is_none()) {
            let (name, body) = (entry.text.split_once('='))
                .ok_or_else(|| entry.fail("neither a sentence (>, ?, .) nor a rule (name = …)"))?;
            let name = name.trim();
            if !is_name(name) {
                return Err(entry.fail(format!("{name:?} is not a name of letters, digits and _")));
            }
            let scope = if of_functions.contains(entry.file) { entry.file } else { SHARED };
            if names.insert((scope, name), bodies.len()).is_some() {
                return Err(entry.fail(format!("there is a rule {name} already")));
            }
            bodies.push((entry, scope, name, body));
        }
        for (entry, scope, name, body) in bodies {
            let mut of = entry.read(body, &names, &mut grammar.slots)?;
            of.iter_mut().for_each(trim);
            grammar.rules.push(Rule { name: name.to_owned(), is_shared: scope == SHARED, of });
        }
        for entry in &entries {
            if let Some(form) = entry.form() {
                grammar.sentences.push(entry.sentence(form, &names, &mut grammar.slots)?);
            }
        }
        grammar.refuse_circles()?;
        Ok(grammar)
    }

    /// A rule that leads back to itself would derive without end.
    fn refuse_circles(&self) -> Result<(), GrammarError> {
        const UNSEEN: u8 = 0;
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        fn visit(grammar: &Grammar, rule: usize, state: &mut [u8]) -> Result<(), GrammarError> {
            if state[rule] == OPEN {
                let place = format!("rule {}", grammar.rules[rule].name);
                return Err(GrammarError { place, what: "leads back to itself".to_owned() });
            }
            if state[rule] == UNSEEN {
                state[rule] = OPEN;
                let mut inner = Vec::new();
                rules_in(&grammar.rules[rule].of, &mut inner);
                inner.into_iter().try_for_each(|rule| visit(grammar, rule, state))?;
                state[rule] = DONE;
            }
            Ok(())
        }
        let mut state = vec![UNSEEN; self.rules.len()];
        (0..self.rules.len()).try_for_each(|rule| visit(self, rule, &mut state))
    }
}

fn rules_in(nodes: &[Node], into: &mut Vec<usize>) {
    for node in nodes {
        match node {
            Node::Rule(rule) => into.push(*rule),
            Node::Choice(of) => of.iter().for_each(|alternative| rules_in(&alternative.of, into)),
            Node::AsSaid(of) | Node::Pair { said: of, .. } | Node::Slot { of, .. } => {
                rules_in(of, into);
            }
            Node::Text(_) | Node::Speaker(_) => {}
        }
    }
}

fn collect<'a>(
    file: &'a str,
    text: &str,
    entries: &mut Vec<Entry<'a>>,
) -> Result<(), GrammarError> {
    let first = entries.len();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if !line.starts_with(' ') {
            entries.push(Entry { file, line: index + 1, text: line.trim_end().to_owned() });
        } else if entries.len() > first {
            let last = entries.last_mut().expect("there is one of this file");
            last.text.push(' ');
            last.text.push_str(line.trim());
        } else {
            let place = format!("{file}:{}", index + 1);
            let what = "an indented line goes on with nothing".to_owned();
            return Err(GrammarError { place, what });
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl Entry<'_> {
    fn fail(&self, what: impl Into<String>) -> GrammarError {
        GrammarError { place: format!("{}:{}", self.file, self.line), what: what.into() }
    }

    /// The form of a sentence; a rule has none.
    fn form(&self) -> Option<Form> {
        match self.text.as_bytes()[0] {
            b'>' => Some(Form::Command),
            b'?' => Some(Form::Question),
            b'.' => Some(Form::Statement),
            _ => None,
        }
    }

    fn sentence(
        &self,
        form: Form,
        names: &Names<'_>,
        slots: &mut Vec<String>,
    ) -> Result<Sentence, GrammarError> {
        let (weight, text) =
            self.text[1..].split_once(' ').ok_or_else(|| self.fail("an empty sentence"))?;
        let weight = match weight {
            "" => 1,
            weight => weight.parse().map_err(|_| self.fail(format!("{weight:?} is no weight")))?,
        };
        let of = self.read(text, names, slots)?;
        let (function, place) = (self.file.to_owned(), format!("{}:{}", self.file, self.line));
        Ok(Sentence { function, place, form, weight, of })
    }

    fn read(
        &self,
        text: &str,
        names: &Names<'_>,
        slots: &mut Vec<String>,
    ) -> Result<Vec<Node>, GrammarError> {
        let mut reader =
            Reader { chars: text.trim().chars().peekable(), file: self.file, names, slots };
        let choice = reader.choice().map_err(|what| self.fail(what))?;
        match reader.chars.next() {
            Some(extra) => Err(self.fail(format!("{extra:?} closes nothing"))),
            None => Ok(vec![choice]),
        }
    }
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    file: &'a str,
    names: &'a Names<'a>,
    slots: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// Alternatives, up to what closes them.
    fn choice(&mut self) -> Result<Node, String> {
        let mut alternatives = vec![self.alternative()?];
        while self.chars.next_if_eq(&'|').is_some() {
            alternatives.push(self.alternative()?);
        }
        Ok(Node::Choice(alternatives))
    }

    fn alternative(&mut self) -> Result<Alternative, String> {
        let mut of = Vec::new();
        let mut text = String::new();
        let mut weight = 1;
        while let Some(&next) = self.chars.peek() {
            if matches!(next, '|' | ')' | '}' | ']') || (next == '-' && self.at_arrow()) {
                break;
            }
            self.chars.next();
            let node = match next {
                '(' => self.group()?,
                '<' => self.reference()?,
                '{' => self.slot()?,
                '[' => self.pair()?,
                '^' => {
                    weight = self.number()?;
                    continue;
                }
                '\\' => {
                    text.push(self.chars.next().ok_or("\\ ends the line")?);
                    continue;
                }
                other => {
                    text.push(other);
                    continue;
                }
            };
            push_text(&mut of, &mut text);
            of.push(node);
        }
        push_text(&mut of, &mut text);
        Ok(Alternative { weight, of })
    }

    fn at_arrow(&self) -> bool {
        let mut ahead = self.chars.clone();
        ahead.next() == Some('-') && ahead.next() == Some('>')
    }

    fn expect(&mut self, close: char) -> Result<(), String> {
        match self.chars.next() {
            Some(c) if c == close => Ok(()),
            Some(c) => Err(format!("{c:?} where {close:?} was to come")),
            None => Err(format!("{close:?} is missing")),
        }
    }

    fn group(&mut self) -> Result<Node, String> {
        let choice = self.choice()?;
        self.expect(')').map(|()| choice)
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        let part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@');
        while let Some(c) = self.chars.next_if(part) {
            word.push(c);
        }
        word
    }

    fn number(&mut self) -> Result<u32, String> {
        let word = self.word();
        word.parse().map_err(|_| format!("^{word} is no weight"))
    }

    fn reference(&mut self) -> Result<Node, String> {
        let name = self.word();
        self.expect('>')?;
        self.named(&name)
    }

    fn named(&self, name: &str) -> Result<Node, String> {
        if let Some(speaker) = name.strip_prefix('@') {
            let speaker = speech::SPEAKERS.iter().find(|known| known.name == speaker);
            return speaker.map(Node::Speaker).ok_or_else(|| format!("nothing speaks {name}"));
        }
        let rule = self.names.get(&(self.file, name)).or_else(|| self.names.get(&(SHARED, name)));
        let rule = rule.ok_or_else(|| format!("there is no rule {name:?}"))?;
        Ok(Node::Rule(*rule))
    }

    fn slot(&mut self) -> Result<Node, String> {
        let name = self.word();
        if !is_name(&name) {
            return Err(format!("{name:?} is no argument's name"));
        }
        let of = match self.chars.next_if_eq(&'=') {
            Some(_) => self.choice()?,
            None => self.named(&name)?,
        };
        self.expect('}')?;
        let slot = self.slots.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.slots.push(name);
            self.slots.len() - 1
        });
        Ok(Node::Slot { slot, of: vec![of] })
    }

    fn pair(&mut self) -> Result<Node, String> {
        let said = vec![self.choice()?];
        if self.chars.next_if_eq(&']').is_some() {
            return Ok(Node::AsSaid(said));
        }
        self.expect('-')?;
        self.expect('>')?;
        let mut meant = String::new();
        while let Some(c) = self.chars.next_if(|c| *c != ']') {
            meant.push(c);
        }
        self.expect(']')?;
        Ok(Node::Pair { said, meant })
    }
}

/// Takes away the spaces that part a rule's alternatives from the bars between them.
fn trim(rule: &mut Node) {
    let Node::Choice(alternatives) = rule else { return };
    for Alternative { of, .. } in alternatives {
        if let Some(Node::Text(text)) = of.first_mut() {
            *text = text.trim_start().to_owned();
        }
        if let Some(Node::Text(text)) = of.last_mut() {
            text.truncate(text.trim_end().len());
        }
    }
}

fn push_text(of: &mut Vec<Node>, text: &mut String) {
    if !text.is_empty() {
        of.push(Node::Text(std::mem::take(text)));
    }
}
