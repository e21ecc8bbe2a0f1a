//! Telephone numbers and e-mail addresses.

use super::Spoken;
use super::number::{Style, words};
use super::word;
use crate::rng::Rng;

/// A telephone number, as it is said.
pub fn phone(rng: &mut Rng) -> Spoken {
    const SHAPES: &[&str] = &[
        "###-####",
        "### ####",
        "###-###-####",
        "(###) ###-####",
        "### ### ####",
        "##########",
        "+## ### ######",
        "+## ## #### ####",
        "0### ### ####",
        "0#### ######",
        "0##########",
        "+1 ### ### ####",
        "###",
        "0800 ### ###",
        "## ## ## ## ##",
        "+49 ### #######",
        "### ### ###",
        "#### ####",
        "1-800-###-####",
    ];
    let digit = |rng: &mut Rng| char::from(b'0' + rng.below(10) as u8);
    if rng.percent(10) {
        let style = Style { hyphen: false, and: false, a: false };
        let count = rng.pick(&[3, 6, 7, 7, 10]);
        let digits: Vec<_> = (0..count)
            .map(|_| match rng.below(10) {
                0 if rng.percent(50) => "oh".to_owned(),
                n => words(n, style),
            })
            .collect();
        return Spoken::copied(digits.join(" "));
    }
    let shape = rng.pick(SHAPES);
    Spoken::copied(shape.chars().map(|c| if c == '#' { digit(rng) } else { c }).collect::<String>())
}

/// An e-mail address; now and then spelled out in words.
pub fn email(rng: &mut Rng) -> Spoken {
    const HOSTS: &[&str] = &[
        "gmail.com",
        "outlook.com",
        "yahoo.com",
        "hotmail.com",
        "icloud.com",
        "example.com",
        "example.org",
        "proton.me",
        "gmx.net",
        "mail.com",
    ];
    const ENDS: &[&str] = &["com", "org", "net", "io", "co.uk", "de", "fr", "eu", "edu", "es"];
    const BOXES: &[&str] = &[
        "info", "support", "office", "hello", "contact", "sales", "hr", "team", "billing", "press",
    ];
    let name = |rng: &mut Rng| word::name(rng).said.to_lowercase();
    let user = match rng.below(6) {
        0 => (rng.pick(BOXES)).to_owned(),
        1 => format!("{}.{}", name(rng), name(rng)),
        2 => format!("{}{}", name(rng), rng.range(1, 99)),
        3 => format!("{}_{}", name(rng), name(rng)),
        4 => format!("{}.{}", char::from(b'a' + rng.below(26) as u8), name(rng)),
        _ => name(rng),
    };
    let host = if rng.percent(55) {
        (rng.pick(HOSTS)).to_owned()
    } else {
        format!("{}.{}", word::word(rng).said, rng.pick(ENDS))
    };
    let address = format!("{user}@{host}");
    if rng.percent(12) && !address.contains('_') {
        let said = address.replace('.', " dot ").replace('@', " at ");
        return Spoken::new(said, address);
    }
    Spoken::copied(address)
}
