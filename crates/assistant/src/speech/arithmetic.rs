//! Arithmetic in words and signs, meant as an expression.

use super::Spoken;
use super::number::{Style, words};
use crate::rng::Rng;

/// A number: how it is said and how it is written.
struct Number {
    said: String,
    written: String,
}

/// A sum to work out, without the words that ask for it.
pub fn say(rng: &mut Rng) -> Spoken {
    let (said, meant) = match rng.below(20) {
        0..8 => chain(1, rng),
        8..10 => chain(2, rng),
        10..14 => percentage(rng),
        14..16 => part(rng),
        16..18 => bracketed(rng),
        18 => power(rng),
        _ => signs(rng),
    };
    Spoken::new(said, meant)
}

/// A number of some size.
fn number(rng: &mut Rng) -> Number {
    let n = match rng.below(10) {
        0..3 => rng.range(2, 12),
        3..7 => rng.range(2, 99),
        7..9 => rng.range(100, 999),
        _ => rng.range(1000, 99_999),
    };
    if rng.percent(15) {
        return decimal(rng);
    }
    if n > 999 && rng.percent(50) {
        return Number { said: grouped(n), written: n.to_string() };
    }
    let in_words = rng.percent(35) && (n < 1000 || n.is_multiple_of(100));
    let said = if in_words { words(n, Style::any(rng)) } else { n.to_string() };
    Number { said, written: n.to_string() }
}

fn decimal(rng: &mut Rng) -> Number {
    let whole = rng.below(60);
    let written = if rng.percent(50) {
        format!("{whole}.{}", rng.range(1, 9))
    } else {
        format!("{whole}.{:02}", rng.range(1, 99))
    };
    if rng.percent(70) {
        return Number { said: written.clone(), written };
    }
    let style = Style { hyphen: true, and: true, a: false };
    let digits = written.split_once('.').map_or("", |(_, digits)| digits);
    let digits: Vec<_> = digits.bytes().map(|b| words(u64::from(b - b'0'), style)).collect();
    Number { said: format!("{} point {}", words(whole, style), digits.join(" ")), written }
}

/// "12,500".
fn grouped(n: u64) -> String {
    format!("{},{:03}", n / 1000, n % 1000)
}

/// Operators as they are said and written.
const OPERATORS: &[(&str, char)] = &[
    ("plus", '+'),
    ("plus", '+'),
    ("+", '+'),
    ("added to", '+'),
    ("and", '+'),
    ("minus", '-'),
    ("minus", '-'),
    ("-", '-'),
    ("less", '-'),
    ("take away", '-'),
    ("times", '*'),
    ("times", '*'),
    ("x", '*'),
    ("*", '*'),
    ("multiplied by", '*'),
    ("by", '*'),
    ("divided by", '/'),
    ("divided by", '/'),
    ("/", '/'),
    ("over", '/'),
    ("÷", '/'),
    ("×", '*'),
];

fn chain(operators: usize, rng: &mut Rng) -> (String, String) {
    let first = number(rng);
    let (mut said, mut written) = (first.said, first.written);
    for _ in 0..operators {
        let next = number(rng);
        let (word, sign) = rng.pick(OPERATORS);
        said = format!("{said} {word} {}", next.said);
        written = format!("{written}{sign}{}", next.written);
    }
    (said, written)
}

/// Digits and signs, with and without spaces.
fn signs(rng: &mut Rng) -> (String, String) {
    let count = rng.range(1, 3);
    let space = rng.pick(&["", "", " "]);
    let mut written = rng.range(1, 999).to_string();
    let mut said = written.clone();
    for _ in 0..count {
        let (sign, next) = (rng.pick(&['+', '-', '*', '/']), rng.range(1, 999));
        said = format!("{said}{space}{sign}{space}{next}");
        written = format!("{written}{sign}{next}");
    }
    (said, written)
}

fn percentage(rng: &mut Rng) -> (String, String) {
    let share = match rng.below(4) {
        0 => decimal(rng),
        1 => number(rng),
        _ => {
            let n = rng.pick(&[5, 8, 10, 12, 15, 18, 20, 25, 30, 35, 40, 50, 60, 75]);
            let said = if rng.percent(35) { words(n, Style::any(rng)) } else { n.to_string() };
            Number { said, written: n.to_string() }
        }
    };
    let is_digits = share.said.ends_with(|c: char| c.is_ascii_digit());
    let sign = match rng.below(10) {
        0..4 if is_digits => "%",
        4 => " per cent",
        _ => " percent",
    };
    let base = number(rng);
    let (p, b) = (format!("{}{sign}", share.said), &base.said);
    let (pw, bw) = (&share.written, &base.written);
    match rng.below(12) {
        0 => (format!("{p} off {b}"), format!("{bw}-{bw}*{pw}/100")),
        1 => (format!("{b} minus {p}"), format!("{bw}-{bw}*{pw}/100")),
        2 => (format!("{b} plus {p}"), format!("{bw}+{bw}*{pw}/100")),
        3 => (format!("a {p} tip on {b}"), format!("{bw}*{pw}/100")),
        4 => (format!("{p} on {b}"), format!("{bw}*{pw}/100")),
        _ => (format!("{p} of {b}"), format!("{bw}*{pw}/100")),
    }
}

fn part(rng: &mut Rng) -> (String, String) {
    let base = number(rng);
    let (b, bw) = (&base.said, &base.written);
    if rng.percent(25) {
        let (times, sign) = rng.pick(&[("double", "2*"), ("twice", "2*"), ("triple", "3*")]);
        return (format!("{times} {b}"), format!("{sign}{bw}"));
    }
    let (of, meant) = rng.pick(&[
        ("half of", "/2"),
        ("half", "/2"),
        ("a third of", "/3"),
        ("one third of", "/3"),
        ("two thirds of", "*2/3"),
        ("a quarter of", "/4"),
        ("three quarters of", "*3/4"),
        ("a fifth of", "/5"),
        ("a tenth of", "/10"),
    ]);
    (format!("{of} {b}"), format!("{bw}{meant}"))
}

fn bracketed(rng: &mut Rng) -> (String, String) {
    let (a, b, c) = (number(rng), number(rng), number(rng));
    let (word, sign) = rng.pick(OPERATORS);
    let (aw, bw, cw) = (&a.written, &b.written, &c.written);
    let (open, close) = rng.pick(&[("(", ")"), ("(", ")"), ("open bracket ", " close bracket")]);
    match rng.below(6) {
        0 => (
            format!("the sum of {} and {} {word} {}", a.said, b.said, c.said),
            format!("({aw}+{bw}){sign}{cw}"),
        ),
        1 => (format!("the sum of {} and {}", a.said, b.said), format!("{aw}+{bw}")),
        2 => (format!("the product of {} and {}", a.said, b.said), format!("{aw}*{bw}")),
        3 => (format!("the difference between {} and {}", a.said, b.said), format!("{aw}-{bw}")),
        4 => (
            format!("{} times {open}{} plus {}{close}", c.said, a.said, b.said),
            format!("{cw}*({aw}+{bw})"),
        ),
        _ => (
            format!("{open}{} minus {}{close} {word} {}", a.said, b.said, c.said),
            format!("({aw}-{bw}){sign}{cw}"),
        ),
    }
}

fn power(rng: &mut Rng) -> (String, String) {
    let a = number(rng);
    let w = &a.written;
    match rng.below(4) {
        0 => (format!("{} cubed", a.said), format!("{w}*{w}*{w}")),
        1 => (format!("the square of {}", a.said), format!("{w}*{w}")),
        2 => (format!("{} modulo {}", a.said, 7), format!("{w}%7")),
        _ => (format!("{} squared", a.said), format!("{w}*{w}")),
    }
}
