//! Numbers in words and digits.

use super::Spoken;
use crate::rng::Rng;

const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] =
    ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/// How numbers are put into words.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// "forty-five" rather than "forty five".
    pub hyphen: bool,
    /// "a hundred and five" rather than "a hundred five".
    pub and: bool,
    /// "a hundred" rather than "one hundred".
    pub a: bool,
}

impl Style {
    /// One at random.
    pub fn any(rng: &mut Rng) -> Self {
        Style { hyphen: rng.percent(50), and: rng.percent(65), a: rng.percent(40) }
    }
}

/// A number below a million in words.
pub fn words(n: u64, style: Style) -> String {
    let one = |count: u64| if style.a && count == 1 { "a".to_owned() } else { words(count, style) };
    let rest = |unit: u64, name: &str| {
        let head = format!("{} {name}", one(n / unit));
        match n % unit {
            0 => head,
            left if style.and && (unit == 100 || left < 100) => {
                format!("{head} and {}", words(left, Style { a: false, ..style }))
            }
            left => format!("{head} {}", words(left, Style { a: false, ..style })),
        }
    };
    match n {
        0..20 => ONES[n as usize].to_owned(),
        20..100 => {
            let tens = TENS[n as usize / 10];
            match n % 10 {
                0 => tens.to_owned(),
                one => {
                    let dash = if style.hyphen { "-" } else { " " };
                    format!("{tens}{dash}{}", ONES[one as usize])
                }
            }
        }
        100..1000 => rest(100, "hundred"),
        _ => rest(1000, "thousand"),
    }
}

/// A number in digits or words.
pub fn said(n: u64, rng: &mut Rng) -> String {
    if rng.percent(60) { n.to_string() } else { words(n, Style::any(rng)) }
}

/// The word for a number's place: "third", "twenty-first"; up to 31.
pub fn ordinal_word(n: u64, hyphen: bool) -> String {
    const FIRST: [&str; 20] = [
        "",
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
        "sixth",
        "seventh",
        "eighth",
        "ninth",
        "tenth",
        "eleventh",
        "twelfth",
        "thirteenth",
        "fourteenth",
        "fifteenth",
        "sixteenth",
        "seventeenth",
        "eighteenth",
        "nineteenth",
    ];
    let dash = if hyphen { "-" } else { " " };
    match n {
        0..20 => FIRST[n as usize].to_owned(),
        20 => "twentieth".to_owned(),
        30 => "thirtieth".to_owned(),
        _ => format!("{}{dash}{}", TENS[n as usize / 10], FIRST[n as usize % 10]),
    }
}

/// "3rd".
pub fn ordinal(n: u64) -> String {
    let ending = match (n % 100, n % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}

/// A whole percentage with its sign or word, or as a bare number.
pub fn percent(rng: &mut Rng) -> Spoken {
    let n = match rng.below(10) {
        0..5 => rng.range(1, 10) * 10,
        5..7 => rng.range(1, 19) * 5,
        _ => rng.range(0, 100),
    };
    let said = match rng.below(10) {
        0..3 => format!("{n} percent"),
        3..5 => format!("{n}%"),
        5 => format!("{n} per cent"),
        6 => format!("{} percent", words(n, Style::any(rng))),
        7 => words(n, Style::any(rng)),
        _ => n.to_string(),
    };
    Spoken::new(said, n)
}

/// A temperature that people set, whole degrees.
pub fn degrees(rng: &mut Rng) -> Spoken {
    let (n, unit) = match rng.below(10) {
        0..7 => (rng.range(15, 26), "celsius"),
        _ => (rng.range(60, 79), "fahrenheit"),
    };
    let number = said(n, rng);
    let said = match rng.below(10) {
        0..5 => format!("{number} degrees"),
        5 => format!("{n}°"),
        6 => format!("{number} degrees {unit}"),
        7 => format!("{n}{}", if unit == "celsius" { "°C" } else { "°F" }),
        _ => number,
    };
    Spoken::new(said, n)
}

/// A number from 2 to 12, copied as it is said.
pub fn small(rng: &mut Rng) -> Spoken {
    let n = rng.range(2, 12);
    Spoken::copied(said(n, rng))
}

/// A number up to a few hundred, copied as it is said.
pub fn count(rng: &mut Rng) -> Spoken {
    let n = if rng.percent(60) { rng.range(2, 40) } else { rng.range(2, 900) };
    Spoken::copied(if rng.percent(80) { n.to_string() } else { words(n, Style::any(rng)) })
}

/// Digits of some length, copied.
pub fn figure(rng: &mut Rng) -> Spoken {
    let top = rng.pick(&[10, 100, 1000, 10_000, 100_000]);
    Spoken::copied(rng.below(top).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_words() {
        let british = Style { hyphen: true, and: true, a: false };
        let american = Style { hyphen: false, and: false, a: true };
        for (n, first, second) in [
            (0, "zero", "zero"),
            (21, "twenty-one", "twenty one"),
            (100, "one hundred", "a hundred"),
            (305, "three hundred and five", "three hundred five"),
            (1_005, "one thousand and five", "a thousand five"),
            (1_250, "one thousand two hundred and fifty", "a thousand two hundred fifty"),
            (21_100, "twenty-one thousand one hundred", "twenty one thousand one hundred"),
        ] {
            assert_eq!(words(n, british), first);
            assert_eq!(words(n, american), second);
        }
    }

    #[test]
    fn places_become_words() {
        let both: Vec<_> = [1, 2, 3, 11, 12, 13, 20, 21, 22, 23, 30, 31]
            .map(|n| format!("{} {}", ordinal(n), ordinal_word(n, true)))
            .into();
        assert_eq!(
            both.join(", "),
            "1st first, 2nd second, 3rd third, 11th eleventh, 12th twelfth, 13th thirteenth, \
             20th twentieth, 21st twenty-first, 22nd twenty-second, 23rd twenty-third, \
             30th thirtieth, 31st thirty-first"
        );
    }
}
