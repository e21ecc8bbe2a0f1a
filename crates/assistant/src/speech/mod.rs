//! What code says better than lists do: times, dates, numbers, arithmetic, words nobody has heard.

mod arithmetic;
mod contact;
mod date;
mod duration;
pub mod number;
mod time;
mod word;

use crate::rng::Rng;

/// Something said, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The words.
    pub said: String,
    /// Their meaning, where that is not the words themselves.
    pub meant: Option<String>,
}

impl Spoken {
    fn new(said: impl Into<String>, meant: impl ToString) -> Self {
        Spoken { said: said.into(), meant: Some(meant.to_string()) }
    }

    fn copied(said: impl Into<String>) -> Self {
        Spoken { said: said.into(), meant: None }
    }
}

/// A kind of thing that code says, `<@name>` in a grammar.
#[derive(Debug)]
pub struct Speaker {
    /// Its name.
    pub name: &'static str,
    /// Says one at random.
    pub say: fn(&mut Rng) -> Spoken,
}

const fn speaker(name: &'static str, say: fn(&mut Rng) -> Spoken) -> Speaker {
    Speaker { name, say }
}

/// All of them.
pub static SPEAKERS: &[Speaker] = &[
    speaker("time.alarm", |rng| time::say(time::Sense::ALARM, rng)),
    speaker("time.day", |rng| time::say(time::Sense::DAY, rng)),
    speaker("time.morning", |rng| time::say(time::Sense::MORNING, rng)),
    speaker("time.afternoon", |rng| time::say(time::Sense::AFTERNOON, rng)),
    speaker("time.evening", |rng| time::say(time::Sense::EVENING, rng)),
    speaker("seconds", duration::seconds),
    speaker("seconds.short", duration::short_seconds),
    speaker("seconds.before", duration::seconds_before),
    speaker("minutes", duration::minutes),
    speaker("minutes.before", duration::minutes_before),
    speaker("date", |rng| date::say(true, rng)),
    speaker("date.bare", |rng| date::say(false, rng)),
    speaker("days", date::days),
    speaker("percent", number::percent),
    speaker("degrees", number::degrees),
    speaker("small", number::small),
    speaker("count", number::count),
    speaker("figure", number::figure),
    speaker("sum", arithmetic::say),
    speaker("phone", contact::phone),
    speaker("email", contact::email),
    speaker("word", word::word),
    speaker("name", word::name),
    speaker("code", word::code),
];
