//! Cutting text by the rules of a pre-tokeniser.

use std::borrow::Cow;
use std::ops::Range;

use regex_automata::meta;
use regex_automata::{Anchored, Input, PatternID};

use super::pre::Step::{self, Match, Threes};

/// Cuts text as a pre-tokeniser says.
#[derive(Debug)]
pub(super) struct Splitter {
    steps: Vec<Cutter>,
}

impl Splitter {
    pub fn new(steps: &[Step]) -> Splitter {
        let cutter = |step: &Step| match step {
            Match(rule) => Cutter { rule: Rule::new(rule), threes: false },
            Threes(rule) => Cutter { rule: Rule::new(rule), threes: true },
        };
        Splitter { steps: steps.iter().map(cutter).collect() }
    }

    /// The pieces of `text`, in order; none is empty, and together they are the text.
    pub fn split(&self, text: &str) -> Vec<Range<usize>> {
        let whole = 0..text.len();
        let mut pieces = if text.is_empty() { Vec::new() } else { vec![whole] };
        for step in &self.steps {
            let mut finer = Vec::with_capacity(pieces.len());
            for piece in pieces {
                step.cut(&text[piece.clone()], piece.start, &mut finer);
            }
            pieces = finer;
        }
        pieces
    }
}

#[derive(Debug)]
struct Cutter {
    rule: Rule,
    threes: bool,
}

impl Cutter {
    /// Appends the pieces of `text`, which starts at `offset` of the whole.
    fn cut(&self, text: &str, offset: usize, pieces: &mut Vec<Range<usize>>) {
        let mut done = 0;
        while let Some(found) = self.rule.find(text, done).filter(|found| !found.is_empty()) {
            if found.start > done {
                pieces.push(offset + done..offset + found.start);
            }
            done = found.end;
            let found_at = offset + found.start;
            if self.threes {
                threes(&text[found], found_at, pieces);
            } else {
                pieces.push(found_at..offset + found.end);
            }
        }
        if done < text.len() {
            pieces.push(offset + done..offset + text.len());
        }
    }
}

/// Cuts `text` into threes of characters from its end.
fn threes(text: &str, offset: usize, pieces: &mut Vec<Range<usize>>) {
    let mut left = text.chars().count();
    let mut start = 0;
    for (at, _) in text.char_indices() {
        if at > start && left.is_multiple_of(3) {
            pieces.push(offset + start..offset + at);
            start = at;
        }
        left -= 1;
    }
    pieces.push(offset + start..offset + text.len());
}

/// A regular expression. Most need to look ahead only in `\s+(?!\S)|\s+`, all white space but the last
/// character before a word: that much is done by hand here, and the rest by an automaton, which is many
/// times faster than an engine that goes back.
#[derive(Debug)]
enum Rule {
    Automaton { regex: meta::Regex, space: Option<PatternID> },
    LookAround(fancy_regex::Regex),
}

const SPACE: &str = r"|\s+(?!\S)|\s+";

impl Rule {
    /// # Panics
    /// If `rule` is no regular expression: a test tries all of the table.
    fn new(rule: &str) -> Rule {
        let (patterns, space) = match rule.strip_suffix(SPACE) {
            Some(head) => (vec![Cow::from(head), Cow::from(r"\s+")], Some(PatternID::must(1))),
            None => (vec![Cow::from(rule)], None),
        };
        match meta::Regex::new_many(&patterns) {
            Ok(regex) => Rule::Automaton { regex, space },
            Err(_) => Rule::LookAround(
                fancy_regex::Regex::new(rule).expect("the table's expressions are right"),
            ),
        }
    }

    /// The next match at or after `from`.
    fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
        match self {
            Rule::Automaton { regex, space } => {
                let input = Input::new(text).range(from..);
                // A match usually starts right here, and then its start need not be looked for.
                let found = regex
                    .search(&input.clone().anchored(Anchored::Yes))
                    .or_else(|| regex.search(&input))?;
                let mut range = found.range();
                if Some(found.pattern()) == *space && range.end < text.len() {
                    let last = text[range.clone()].char_indices().next_back();
                    range.end = last
                        .filter(|(at, _)| *at > 0)
                        .map_or(range.end, |(at, _)| range.start + at);
                }
                Some(range)
            }
            // The engine gives up on a text that makes it go back too often: then the rest is a piece.
            Rule::LookAround(regex) => {
                regex.find_from_pos(text, from).ok().flatten().map(|found| found.range())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kinglet_testing::Rng;

    use super::super::pre;
    use super::*;

    /// Text of all that the rules tell apart, at random.
    fn text(rng: &mut Rng) -> String {
        const PARTS: &[&str] = &[
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            "\u{a0}",
            "\u{3000}",
            "a",
            "B",
            "é",
            "ß",
            "word",
            "Word",
            "'s",
            "'LL",
            "'",
            ".",
            "...",
            "!",
            "，",
            "。",
            "$",
            "`",
            "|",
            "_",
            "/",
            "1",
            "12",
            "345",
            "٣",
            "½",
            "一",
            "漢字",
            "ひら",
            "カナ",
            "한글",
            "ไทย",
            "ក្រុម",
            "e\u{301}",
            "\u{301}",
            "🚀",
            "👩‍🚀",
            "ǅ",
            "ʰ",
            "‘",
            "～",
            "ſ",
            "\u{0}",
            "IMGIMGAZ",
            "Я",
            "ё",
        ];
        (0..rng.below(24)).map(|_| PARTS[rng.below(PARTS.len())]).collect()
    }

    #[test]
    fn pieces_are_the_text() {
        let mut rng = Rng::new(5);
        for pre in pre::table() {
            let splitter = Splitter::new(pre.steps);
            for _ in 0..300 {
                let text = text(&mut rng);
                let pieces = splitter.split(&text);
                assert!(pieces.iter().all(|piece| !piece.is_empty()), "{:?}: {text:?}", pre.names);
                let joined: String = pieces.into_iter().map(|piece| &text[piece]).collect();
                assert_eq!(joined, text, "{:?}", pre.names);
            }
        }
    }

    /// The automaton against an engine that looks ahead by itself.
    #[test]
    fn looking_ahead_by_hand_changes_nothing() {
        let mut rng = Rng::new(6);
        for rule in pre::table().iter().flat_map(|pre| pre.steps) {
            let Match(rule) = rule else { continue };
            let slow = Cutter {
                rule: Rule::LookAround(fancy_regex::Regex::new(rule).unwrap()),
                threes: false,
            };
            let fast = Cutter { rule: Rule::new(rule), threes: false };
            for _ in 0..200 {
                let text = text(&mut rng);
                let cut = |cutter: &Cutter| {
                    let mut pieces = Vec::new();
                    cutter.cut(&text, 0, &mut pieces);
                    pieces
                };
                assert_eq!(cut(&fast), cut(&slow), "{rule}: {text:?}");
            }
        }
    }

    /// Cutting into threes against the expressions of the models' own files.
    #[test]
    fn threes_are_counted_from_the_end() {
        for (run, own) in [
            (r"\d+\b", r"\d{1,3}(?=(?:\d{3})*\b)"),
            (r"\p{Nd}+", r"\p{Nd}{1,3}(?=(?:\p{Nd}{3})*(?!\p{Nd}))"),
        ] {
            let threes = Cutter { rule: Rule::new(run), threes: true };
            let own = Cutter { rule: Rule::new(own), threes: false };
            for text in ["1", "12", "123", "1234", "1234567 and 12,3456", "٣٣٣٣", "1234abc 99"]
            {
                let cut = |cutter: &Cutter| {
                    let mut pieces = Vec::new();
                    cutter.cut(text, 0, &mut pieces);
                    pieces
                };
                assert_eq!(cut(&threes), cut(&own), "{run}: {text:?}");
            }
        }
    }
}
