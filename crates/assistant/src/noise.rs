//! How people write and what speech recognisers make of it: letter case, punctuation, slips.
//!
//! What happens to a part that is copied into an argument happens to the argument too: arguments
//! are as said. Slips of the keyboard stay out of such parts.

use crate::grammar::Form;
use crate::rng::Rng;

/// A part of a sentence.
pub(crate) struct Part {
    pub said: String,
    pub meant: Option<String>,
    pub slot: Option<usize>,
    /// Whether it goes into an argument that holds words as they were said.
    pub is_copied: bool,
}

impl Part {
    pub fn space() -> Self {
        Part { said: " ".to_owned(), meant: None, slot: None, is_copied: false }
    }

    fn change(&mut self, how: impl Fn(&str) -> String) {
        self.said = how(&self.said);
        if self.is_copied
            && let Some(meant) = &mut self.meant
        {
            *meant = how(meant);
        }
    }

    /// Whether the said side may be changed alone.
    fn is_free(&self) -> bool {
        self.slot.is_none() || self.meant.is_some()
    }
}

/// Writes a sentence as somebody would.
pub(crate) fn apply(parts: &mut [Part], form: Form, rng: &mut Rng) {
    if rng.percent(5) {
        slip(parts, rng);
    }
    match rng.below(100) {
        0..50 => {}
        50..72 => typed(parts, form, rng),
        72..92 => dictated(parts, rng.percent(40)),
        92..98 => parts.iter_mut().for_each(|part| part.change(str::to_lowercase)),
        98 => parts.iter_mut().for_each(|part| part.change(str::to_uppercase)),
        _ => parts.iter_mut().for_each(|part| part.change(|text| text.replace('\'', "’"))),
    }
}

/// A capital first and a mark last.
fn typed(parts: &mut [Part], form: Form, rng: &mut Rng) {
    if let Some(first) = parts.iter_mut().find(|part| !part.said.trim().is_empty())
        && first.is_free()
    {
        let text = first.said.trim_start();
        first.said = text.chars().take(1).flat_map(char::to_uppercase).collect::<String>()
            + text.chars().next().map_or("", |c| &text[c.len_utf8()..]);
    }
    let mark = match form {
        Form::Question => rng.pick(&["?", "?", "?", ""]),
        Form::Command | Form::Statement => rng.pick(&[".", ".", "", "", "!"]),
    };
    if let Some(last) = parts.iter_mut().rev().find(|part| !part.said.trim().is_empty())
        && !last.said.trim_end().ends_with(['.', '?', '!'])
    {
        let meant = last.meant.get_or_insert_with(|| last.said.clone()).clone();
        last.said = format!("{}{mark}", last.said.trim_end());
        last.meant = last.slot.map(|_| meant);
    }
}

/// Small letters and hardly a mark, as dictation often is.
fn dictated(parts: &mut [Part], without_apostrophes: bool) {
    for part in parts {
        part.change(str::to_lowercase);
        part.said = unmarked(&part.said, without_apostrophes);
    }
}

fn unmarked(text: &str, without_apostrophes: bool) -> String {
    let mut kept = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let ends = chars.peek().is_none_or(|next| next.is_whitespace());
        let is_mark = c == '"' || matches!(c, ',' | '!' | '?' | ';' | ':') && ends;
        if !(is_mark || c == '\'' && without_apostrophes) {
            kept.push(c);
        }
    }
    kept
}

/// One or two slips of the keyboard, in words of at least four letters.
fn slip(parts: &mut [Part], rng: &mut Rng) {
    for _ in 0..rng.pick(&[1, 1, 1, 2]) {
        let mut places = Vec::new();
        for (index, part) in parts.iter().enumerate().filter(|(_, part)| part.is_free()) {
            let mut at = 0;
            for word in part.said.split(' ') {
                if word.len() >= 4 && word.bytes().all(|b| b.is_ascii_alphabetic()) {
                    places.push((index, at, word.len()));
                }
                at += word.len() + 1;
            }
        }
        if places.is_empty() {
            return;
        }
        let (index, at, length) = rng.pick(&places);
        let said = &mut parts[index].said;
        let word = slipped(&said[at..at + length], rng);
        said.replace_range(at..at + length, &word);
    }
}

/// Keys beside each other.
const ROWS: [&str; 3] = ["qwertyuiop", "asdfghjkl", "zxcvbnm"];

fn slipped(word: &str, rng: &mut Rng) -> String {
    let mut letters: Vec<char> = word.chars().collect();
    let at = rng.below(letters.len() as u64 - 1) as usize;
    match rng.below(5) {
        0 => letters.swap(at, at + 1),
        1 => drop(letters.remove(at + 1)),
        2 => letters.insert(at, letters[at]),
        3 => {
            let letter = letters[at + 1].to_ascii_lowercase();
            let beside = ROWS.iter().find_map(|row| {
                let place = row.find(letter)?;
                row.chars().nth(if place == 0 { 1 } else { place - 1 })
            });
            letters[at + 1] = beside.unwrap_or(letter);
        }
        _ => {
            let letter = letters[at + 1].to_ascii_lowercase();
            let beside = ROWS.iter().find_map(|row| row.chars().nth(row.find(letter)? + 1));
            letters[at + 1] = beside.unwrap_or(letter);
        }
    }
    letters.into_iter().collect()
}
