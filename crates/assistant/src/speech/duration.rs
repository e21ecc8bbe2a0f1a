//! Lengths of time as people say them.

use super::Spoken;
use super::number::{Style, said, words};
use crate::rng::Rng;

/// The length of a timer, meant in seconds.
pub fn seconds(rng: &mut Rng) -> Spoken {
    let (said, seconds) = match rng.below(10) {
        0..5 => whole(
            common(rng, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 45, 50, 60, 90]),
            MINUTE,
            rng,
        ),
        5..7 => whole(common(rng, &[5, 10, 15, 20, 30, 40, 45, 50, 60, 75, 90, 120]), SECOND, rng),
        7 => whole(common(rng, &[1, 2, 3, 4, 5, 6, 8, 10, 12, 24]), HOUR, rng),
        8 => phrase(rng),
        _ => mixed(rng),
    };
    Spoken::new(said, seconds)
}

/// A countdown of a few seconds.
pub fn short_seconds(rng: &mut Rng) -> Spoken {
    let (said, seconds) =
        whole(common(rng, &[2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30]), SECOND, rng);
    Spoken::new(said, seconds)
}

/// A length as it stands before a noun, "ten minute", meant in seconds.
pub fn seconds_before(rng: &mut Rng) -> Spoken {
    let (said, seconds) = before(rng);
    Spoken::new(said, seconds)
}

/// The length of an event, meant in minutes.
pub fn minutes(rng: &mut Rng) -> Spoken {
    let (said, seconds) = match rng.below(10) {
        0..4 => whole(rng.pick(&[10, 15, 20, 25, 30, 40, 45, 50, 60, 75, 90, 120]), MINUTE, rng),
        4..6 => whole(common(rng, &[1, 1, 2, 2, 3, 4, 5, 6, 8]), HOUR, rng),
        6..9 => loop {
            let (said, seconds) = phrase(rng);
            if seconds >= 600 && seconds.is_multiple_of(60) {
                break (said, seconds);
            }
        },
        _ => {
            let (hours, minutes) = (rng.range(1, 3), rng.pick(&[10, 15, 20, 30, 40, 45]));
            let joint = rng.pick(&[" ", " and "]);
            let said =
                format!("{}{joint}{}", whole(hours, HOUR, rng).0, whole(minutes, MINUTE, rng).0);
            (said, hours * 3600 + minutes * 60)
        }
    };
    Spoken::new(said, seconds / 60)
}

/// A length as it stands before a noun, "half-hour", meant in minutes.
pub fn minutes_before(rng: &mut Rng) -> Spoken {
    loop {
        let (said, seconds) = before(rng);
        if seconds >= 300 && seconds.is_multiple_of(60) {
            return Spoken::new(said, seconds / 60);
        }
    }
}

/// A unit: its seconds, its name and short names.
struct Unit {
    seconds: u64,
    name: &'static str,
    short: &'static [&'static str],
}

static SECOND: &Unit = &Unit { seconds: 1, name: "second", short: &["sec", "s", "secs"] };
static MINUTE: &Unit = &Unit { seconds: 60, name: "minute", short: &["min", "m", "mins"] };
static HOUR: &Unit = &Unit { seconds: 3600, name: "hour", short: &["hr", "h", "hrs"] };

/// One of those that are often said, or now and then any up to the last.
fn common(rng: &mut Rng, of: &[u64]) -> u64 {
    if rng.percent(75) { rng.pick(of) } else { rng.range(1, of[of.len() - 1]) }
}

fn whole(count: u64, unit: &Unit, rng: &mut Rng) -> (String, u64) {
    let plural = if count == 1 { "" } else { "s" };
    let said = match rng.below(20) {
        0..2 => format!("{count} {}", short(count, unit, rng)),
        2 => format!("{count}{}", short(count, unit, rng)),
        3..8 if count == 1 => {
            format!("{} {}", if unit.seconds == 3600 { "an" } else { "a" }, unit.name)
        }
        _ => format!("{} {}{plural}", said(count, rng), unit.name),
    };
    (said, count * unit.seconds)
}

fn short<'a>(count: u64, unit: &'a Unit, rng: &mut Rng) -> &'a str {
    let of = if count == 1 { &unit.short[..2] } else { unit.short };
    rng.pick(of)
}

/// Lengths with halves and quarters.
fn phrase(rng: &mut Rng) -> (String, u64) {
    let n = rng.range(2, 9);
    let number = said(n, rng);
    let unit = if rng.percent(50) { MINUTE } else { HOUR };
    let (name, half) = (unit.name, unit.seconds / 2);
    let an = if unit.seconds == 3600 { "an" } else { "a" };
    match rng.below(12) {
        0 => (format!("half {an} {name}"), half),
        1 => (format!("{an} {name} and a half"), unit.seconds + half),
        2 => (format!("one and a half {name}s"), unit.seconds + half),
        3 => (format!("{number} and a half {name}s"), n * unit.seconds + half),
        4 => (format!("{n}.5 {name}s"), n * unit.seconds + half),
        5 => (format!("1.5 {name}s"), unit.seconds + half),
        6 => ("three quarters of an hour".to_owned(), 2700),
        7 => ((rng.pick(&["a quarter of an hour", "quarter of an hour"])).to_owned(), 900),
        8 => ((rng.pick(&["half an hour", "a half hour", "half hour"])).to_owned(), 1800),
        9 => (format!("a couple of {name}s"), 2 * unit.seconds),
        10 => (format!("{number} {name}s and a half"), n * unit.seconds + half),
        _ => {
            let written = words(n, Style { hyphen: true, and: true, a: false });
            (format!("{written} point five {name}s"), n * unit.seconds + half)
        }
    }
}

/// Two units.
fn mixed(rng: &mut Rng) -> (String, u64) {
    let (large, small) = if rng.percent(60) { (HOUR, MINUTE) } else { (MINUTE, SECOND) };
    let (first, second) = (rng.range(1, 5), common(rng, &[5, 10, 15, 20, 25, 30, 40, 45, 50]));
    let total = first * large.seconds + second * small.seconds;
    if rng.percent(15) {
        let letter = |unit: &Unit| unit.short[1].to_owned();
        let space = rng.pick(&["", " "]);
        return (format!("{first}{}{space}{second}{}", letter(large), letter(small)), total);
    }
    let joint = rng.pick(&[" ", " and ", " and "]);
    let said = format!("{}{joint}{}", whole(first, large, rng).0, whole(second, small, rng).0);
    (said, total)
}

fn before(rng: &mut Rng) -> (String, u64) {
    if rng.percent(12) {
        return match rng.below(3) {
            0 => ((rng.pick(&["half-hour", "half hour", "half an hour"])).to_owned(), 1800),
            1 => ("hour-long".to_owned(), 3600),
            _ => ((rng.pick(&["hour and a half", "one and a half hour"])).to_owned(), 5400),
        };
    }
    let unit = rng.pick(&[SECOND, MINUTE, MINUTE, MINUTE, MINUTE, HOUR]);
    let count = match unit.seconds {
        1 => rng.pick(&[10, 15, 20, 30, 40, 45, 60, 90]),
        60 => common(rng, &[1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 45, 50, 60]),
        _ => rng.range(1, 12),
    };
    let joint = rng.pick(&[" ", " ", "-"]);
    let name = if rng.percent(12) { unit.short[0] } else { unit.name };
    (format!("{}{joint}{name}", said(count, rng)), count * unit.seconds)
}
