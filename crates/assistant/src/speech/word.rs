//! Words and names that nobody has heard, so that what is copied is copied letter by letter.

use super::Spoken;
use crate::rng::Rng;

/// How a language's words sound: what syllables begin with, turn on and end with.
#[derive(Clone, Copy)]
struct Sound {
    onsets: &'static [&'static str],
    vowels: &'static [&'static str],
    codas: &'static [&'static str],
}

static SOUNDS: &[Sound] = &[
    // As in English.
    Sound {
        onsets: &[
            "b", "br", "c", "ch", "cl", "cr", "d", "dr", "f", "fl", "g", "gl", "gr", "h", "j", "k",
            "l", "m", "n", "p", "pl", "pr", "qu", "r", "s", "sh", "sk", "sl", "sp", "st", "str",
            "t", "th", "tr", "v", "w", "wh", "y", "z",
        ],
        vowels: &["a", "e", "i", "o", "u", "ea", "ee", "oo", "ou", "ai", "y"],
        codas: &[
            "", "", "b", "ck", "d", "g", "ll", "m", "n", "nd", "ng", "p", "r", "rd", "s", "st",
            "t", "x",
        ],
    },
    // As in Italian, Spanish or Portuguese.
    Sound {
        onsets: &[
            "b", "c", "ch", "d", "f", "g", "gu", "l", "m", "n", "p", "qu", "r", "s", "t", "tr",
            "v", "z", "gi",
        ],
        vowels: &["a", "e", "i", "o", "u", "ia", "io", "ue"],
        codas: &["", "", "", "", "l", "n", "r", "s"],
    },
    // As in Slavic languages.
    Sound {
        onsets: &[
            "b", "br", "d", "dr", "g", "j", "k", "kr", "l", "m", "mi", "n", "p", "r", "s", "sl",
            "st", "v", "vl", "z", "zd", "sz", "cz",
        ],
        vowels: &["a", "e", "i", "o", "u", "y"],
        codas: &["", "", "k", "l", "n", "r", "slav", "v", "ska", "mir", "sz"],
    },
    // As in Japanese, or the Swahili of names.
    Sound {
        onsets: &[
            "k", "s", "sh", "t", "ch", "n", "h", "m", "y", "r", "w", "g", "z", "b", "mw", "nj", "",
        ],
        vowels: &["a", "i", "u", "e", "o", "ai", "uu"],
        codas: &["", "", "", "n"],
    },
    // As in Indian languages and Arabic.
    Sound {
        onsets: &[
            "a", "bh", "d", "dh", "f", "g", "h", "j", "k", "kh", "l", "m", "n", "p", "pr", "r",
            "s", "sh", "t", "v", "y", "z",
        ],
        vowels: &["a", "aa", "i", "u", "ee", "e"],
        codas: &["", "", "n", "m", "r", "sh", "t", "d", "l", "j"],
    },
];

fn sound(rng: &mut Rng) -> String {
    let sound = rng.pick(SOUNDS);
    let count = rng.pick(&[1, 2, 2, 2, 3, 3]);
    let mut word = String::new();
    for _ in 0..count {
        word.push_str(rng.pick(sound.onsets));
        word.push_str(rng.pick(sound.vowels));
        word.push_str(rng.pick(sound.codas));
    }
    if word.len() < 3 {
        word.push_str(rng.pick(&["ra", "no", "li", "sen"]));
    }
    word
}

/// A word.
pub fn word(rng: &mut Rng) -> Spoken {
    Spoken::copied(sound(rng))
}

/// A name, with a capital.
pub fn name(rng: &mut Rng) -> Spoken {
    let word = sound(rng);
    Spoken::copied(word[..1].to_uppercase() + &word[1..])
}

/// A code as things are numbered by: "B47", "4821", "AX-309".
pub fn code(rng: &mut Rng) -> Spoken {
    let letter = |rng: &mut Rng| char::from(b'A' + rng.below(26) as u8);
    let most = rng.pick(&[10, 100, 1000, 10_000]);
    let number = rng.below(most);
    Spoken::copied(match rng.below(4) {
        0 => format!("{}{number}", letter(rng)),
        1 => format!("{}{}-{number}", letter(rng), letter(rng)),
        2 => format!("{}{}{number}", letter(rng), letter(rng)),
        _ => number.to_string(),
    })
}
