//! Times of the day as people say them.

use super::Spoken;
use super::number::{Style, words};
use crate::rng::Rng;

/// What an hour means that is said without a part of the day, and which hours are said at all.
#[derive(Clone, Copy, Debug)]
pub struct Sense {
    /// The hours that may be meant, and how often each.
    hours: &'static [(u64, u32)],
    /// For each of 1 to 12 as said, the hour that is meant.
    bare: [u64; 12],
    /// Whether the part of the day has been said already, so that it is not said again.
    known: bool,
}

const AS_SAID: [u64; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const LATER: [u64; 12] = [13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 12];

impl Sense {
    /// Alarms: a bare hour is one of the morning.
    pub const ALARM: Sense = Sense {
        hours: &[
            (0, 2),
            (1, 2),
            (2, 2),
            (3, 3),
            (4, 6),
            (5, 12),
            (6, 18),
            (7, 18),
            (8, 12),
            (9, 8),
            (10, 6),
            (11, 4),
            (12, 4),
            (13, 3),
            (14, 3),
            (15, 3),
            (16, 3),
            (17, 3),
            (18, 4),
            (19, 3),
            (20, 3),
            (21, 3),
            (22, 3),
            (23, 3),
        ],
        bare: AS_SAID,
        known: false,
    };
    /// Reminders and events: a bare hour is one of the day, 7 to 18.
    pub const DAY: Sense = Sense {
        hours: &[
            (0, 2),
            (1, 1),
            (5, 1),
            (6, 2),
            (7, 6),
            (8, 8),
            (9, 10),
            (10, 10),
            (11, 8),
            (12, 8),
            (13, 8),
            (14, 9),
            (15, 9),
            (16, 8),
            (17, 8),
            (18, 8),
            (19, 8),
            (20, 7),
            (21, 5),
            (22, 3),
            (23, 2),
        ],
        bare: [13, 14, 15, 16, 17, 18, 7, 8, 9, 10, 11, 12],
        known: false,
    };
    /// After "in the morning" or the like.
    pub const MORNING: Sense = Sense {
        hours: &[(5, 1), (6, 3), (7, 4), (8, 5), (9, 6), (10, 5), (11, 4)],
        bare: AS_SAID,
        known: true,
    };
    /// After "this afternoon" or the like.
    pub const AFTERNOON: Sense = Sense {
        hours: &[(12, 1), (13, 4), (14, 5), (15, 5), (16, 5), (17, 4)],
        bare: LATER,
        known: true,
    };
    /// After "tonight" or the like.
    pub const EVENING: Sense = Sense {
        hours: &[(17, 1), (18, 4), (19, 6), (20, 6), (21, 5), (22, 3), (23, 2)],
        bare: LATER,
        known: true,
    };
}

/// Says a time.
pub fn say(sense: Sense, rng: &mut Rng) -> Spoken {
    let hour = sense.hours[rng.weighted(sense.hours.iter().map(|(_, weight)| *weight))].0;
    let minute = match rng.below(20) {
        0..9 => 0,
        9..13 => 30,
        13..16 => rng.pick(&[15, 45]),
        16..19 => rng.below(12) * 5,
        _ => rng.below(60),
    };
    Spoken::new(words_for(hour, minute, sense, rng), format!("{hour:02}:{minute:02}"))
}

fn words_for(hour: u64, minute: u64, sense: Sense, rng: &mut Rng) -> String {
    if minute == 0 && hour.is_multiple_of(12) && rng.percent(60) {
        let names: &[&str] = if hour == 12 {
            &["noon", "midday", "12 noon"]
        } else {
            &["midnight", "midnight", "12 midnight"]
        };
        return (rng.pick(names)).to_owned();
    }
    // The clock of 24 hours says all.
    if rng.percent(if sense.known { 6 } else { 14 })
        && let Some(said) = military(hour, minute, rng)
    {
        return said;
    }
    let said = to_twelve(hour);
    // "quarter to" names the next hour, and that hour's part of the day.
    let (core, named) = core(hour, minute, rng);
    let next = named != hour;
    let fits = sense.bare[said as usize - 1] == hour
        && (!next || sense.bare[to_twelve(named) as usize - 1] == named);
    if fits && (sense.known || rng.percent(50)) {
        return core;
    }
    format!("{core}{}", part(hour, core.ends_with(|c: char| c.is_ascii_digit()), rng))
}

fn to_twelve(hour: u64) -> u64 {
    match hour % 12 {
        0 => 12,
        hour => hour,
    }
}

/// "18:30", "0600 hours", "18h30"; `None` where the form would be mistaken.
fn military(hour: u64, minute: u64, rng: &mut Rng) -> Option<String> {
    let style = Style { hyphen: rng.percent(50), and: false, a: false };
    let hours = if rng.percent(30) { " hours" } else { "" };
    Some(match rng.below(10) {
        0..6 => format!("{hour:02}:{minute:02}"),
        6 => format!("{hour:02}{minute:02}{hours}"),
        7 if hour > 12 => {
            format!("{hour}h{}", if minute == 0 { String::new() } else { format!("{minute:02}") })
        }
        7 if hour > 12 => format!("{hour}.{minute:02}"),
        8 if hour > 12 && minute == 0 => format!("{} hundred{hours}", words(hour, style)),
        9 if hour > 12 && minute >= 10 => {
            format!("{} {}", words(hour, style), words(minute, style))
        }
        _ => return None,
    })
}

/// The time on a dial, and the hour that it names.
fn core(hour: u64, minute: u64, rng: &mut Rng) -> (String, u64) {
    let style = Style { hyphen: rng.percent(50), and: false, a: false };
    let twelve = to_twelve(hour);
    let as_words = rng.percent(40);
    let name = |hour: u64| {
        let hour = to_twelve(hour);
        if as_words { words(hour, style) } else { hour.to_string() }
    };
    let digits = match rng.below(8) {
        0 => format!("{twelve}.{minute:02}"),
        1 if minute > 0 => format!("{twelve} {minute:02}"),
        _ => format!("{twelve}:{minute:02}"),
    };
    let next = (hour + 1) % 24;
    let number = |n: u64| if as_words { words(n, style) } else { n.to_string() };
    let count = |n: u64, rng: &mut Rng| {
        let unit = if !n.is_multiple_of(5) || rng.percent(15) { " minutes" } else { "" };
        let unit = if n == 1 { " minute" } else { unit };
        format!("{}{unit}", number(n))
    };
    let a = if rng.percent(30) { "a " } else { "" };
    let past = rng.pick(&["past", "past", "past", "after"]);
    let to = rng.pick(&["to", "to", "to", "till", "of"]);
    let in_words = match minute {
        0 => match rng.below(4) {
            0 => format!("{} o'clock", name(hour)),
            _ => name(hour),
        },
        15 if rng.percent(60) => format!("{a}quarter {past} {}", name(hour)),
        30 if rng.percent(60) => {
            let half = if rng.percent(12) { "half" } else { "half past" };
            let hour = if half == "half" { words(twelve, style) } else { name(hour) };
            format!("{half} {hour}")
        }
        45 if rng.percent(60) => return (format!("{a}quarter {to} {}", name(next)), next),
        1..10 if rng.percent(50) => {
            format!("{} {} {}", words(twelve, style), rng.pick(&["oh", "o"]), words(minute, style))
        }
        1..30 if minute.is_multiple_of(5) && rng.percent(60) => {
            format!("{} {past} {}", count(minute, rng), name(hour))
        }
        31.. if minute.is_multiple_of(5) && rng.percent(60) => {
            return (format!("{} {to} {}", count(60 - minute, rng), name(next)), next);
        }
        10.. => format!("{} {}", words(twelve, style), words(minute, style)),
        _ => format!("{} {past} {}", count(minute, rng), name(hour)),
    };
    if minute == 0 {
        return (if rng.percent(20) { digits } else { in_words }, hour);
    }
    (if rng.percent(45) { digits } else { in_words }, hour)
}

/// The part of the day that an hour belongs to, said after it.
fn part(hour: u64, after_digits: bool, rng: &mut Rng) -> String {
    let half = if hour < 12 { 'a' } else { 'p' };
    if rng.percent(60) {
        let space = if after_digits && rng.percent(50) { "" } else { " " };
        return match rng.below(8) {
            0 => format!("{space}{half}.m."),
            1 => format!("{space}{}M", half.to_ascii_uppercase()),
            2 if !after_digits => format!(" {half} m"),
            _ => format!("{space}{half}m"),
        };
    }
    let parts: &[&str] = match hour {
        0 => &["at night"],
        1..4 => &["in the morning", "at night"],
        4..12 => &["in the morning"],
        12..17 => &["in the afternoon"],
        17 => &["in the afternoon", "in the evening"],
        18..21 => &["in the evening"],
        21 => &["in the evening", "at night"],
        _ => &["at night"],
    };
    format!(" {}", rng.pick(parts))
}
