//! Days as people say them.

use super::Spoken;
use super::number::{Style, ordinal, ordinal_word, said, words};
use crate::clock::WEEKDAYS;
use crate::rng::Rng;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The days that each month has in every year.
const LENGTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// A date, with the preposition that it takes in a sentence ("on Friday", "tomorrow") or without.
pub fn say(preposition: bool, rng: &mut Rng) -> Spoken {
    let on = if preposition { "on " } else { "" };
    match rng.below(20) {
        0..2 => Spoken::new("today", "today"),
        2..6 => Spoken::new(rng.pick(&["tomorrow", "tomorrow", "tomorrow", "tmrw"]), "tomorrow"),
        6..12 => {
            let day = rng.pick(&WEEKDAYS);
            let name = capital(day);
            let said = match rng.below(10) {
                0..6 => format!("{on}{name}"),
                6 => format!("this {name}"),
                7 => format!("next {name}"),
                8 if preposition => name,
                8 => format!("this coming {name}"),
                _ => format!("{on}{}", short(&name)),
            };
            Spoken::new(said, day)
        }
        12..16 => {
            let (said, month, day) = month_day(rng);
            Spoken::new(format!("{on}{said}"), format!("--{month:02}-{day:02}"))
        }
        16 => {
            let (said, month, day) = month_day(rng);
            let year = rng.range(2024, 2032);
            let comma = rng.pick(&["", ","]);
            let spoken = if rng.percent(15) {
                let style = Style { hyphen: true, and: false, a: false };
                format!("twenty {}", words(year - 2000, style))
            } else {
                year.to_string()
            };
            Spoken::new(
                format!("{on}{said}{comma} {spoken}"),
                format!("{year}-{month:02}-{day:02}"),
            )
        }
        17 => {
            let (month, year) = (rng.range(1, 12), rng.range(2024, 2032));
            let day = rng.range(1, LENGTHS[month as usize - 1]);
            let iso = format!("{year}-{month:02}-{day:02}");
            Spoken::new(format!("{on}{iso}"), iso)
        }
        18 => {
            let day = rng.range(1, 31);
            let said =
                if rng.percent(70) { ordinal(day) } else { ordinal_word(day, rng.percent(50)) };
            Spoken::new(format!("{on}the {said}"), format!("---{day:02}"))
        }
        _ => {
            let days = rng.range(2, 10);
            let (words, days) = match rng.below(6) {
                0..2 => ("the day after tomorrow".to_owned(), 2),
                2 if preposition => ("in a week".to_owned(), 7),
                3 if preposition => ("in two weeks".to_owned(), 14),
                _ if preposition => (format!("in {} days", said(days, rng)), days),
                _ => ("the day after tomorrow".to_owned(), 2),
            };
            Spoken::new(words, format!("P{days}D"))
        }
    }
}

fn month_day(rng: &mut Rng) -> (String, u64, u64) {
    let index = rng.below(12) as usize;
    let day = rng.range(1, LENGTHS[index]);
    let month = if rng.percent(12) { &MONTHS[index][..3] } else { MONTHS[index] };
    let said = match rng.below(12) {
        0..3 => format!("{month} {}", ordinal(day)),
        3..5 => format!("{month} {day}"),
        5..7 => format!("the {} of {month}", ordinal(day)),
        7 => format!("{day} {month}"),
        8 => format!("{} {month}", ordinal(day)),
        9 => format!("the {} of {month}", ordinal_word(day, rng.percent(50))),
        10 => format!("{month} {}", ordinal_word(day, rng.percent(50))),
        _ => format!("{month} the {}", ordinal(day)),
    };
    (said, index as u64 + 1, day)
}

fn capital(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

fn short(day: &str) -> &str {
    match day {
        "Tuesday" => "Tues",
        "Thursday" => "Thurs",
        _ => &day[..3],
    }
}

/// The days on which an alarm repeats, meant as `mon tue …`.
pub fn days(rng: &mut Rng) -> Spoken {
    const ALL: &str = "mon tue wed thu fri sat sun";
    const SETS: &[(&str, &str)] = &[
        ("every day", ALL),
        ("daily", ALL),
        ("each day", ALL),
        ("every single day", ALL),
        ("every morning", ALL),
        ("seven days a week", ALL),
        ("all week", ALL),
        ("on weekdays", "mon tue wed thu fri"),
        ("every weekday", "mon tue wed thu fri"),
        ("weekdays", "mon tue wed thu fri"),
        ("on workdays", "mon tue wed thu fri"),
        ("on working days", "mon tue wed thu fri"),
        ("Monday to Friday", "mon tue wed thu fri"),
        ("Monday through Friday", "mon tue wed thu fri"),
        ("from Monday to Friday", "mon tue wed thu fri"),
        ("Mon-Fri", "mon tue wed thu fri"),
        ("on weekends", "sat sun"),
        ("at weekends", "sat sun"),
        ("at the weekend", "sat sun"),
        ("every weekend", "sat sun"),
        ("on the weekend", "sat sun"),
    ];
    if rng.percent(45) {
        let (said, meant) = rng.pick(SETS);
        return Spoken::new(said, meant);
    }
    if rng.percent(12) {
        let first = rng.below(5) as usize;
        let last = rng.range(first as u64 + 2, 6) as usize;
        let to = rng.pick(&["to", "through", "till"]);
        let said = format!("{} {to} {}", capital(WEEKDAYS[first]), capital(WEEKDAYS[last]));
        return Spoken::new(said, meant(&(first..=last).collect::<Vec<_>>()));
    }
    let count = rng.pick(&[1, 1, 1, 2, 2, 3]);
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < count {
        let day = rng.below(7) as usize;
        if !chosen.contains(&day) {
            chosen.push(day);
        }
    }
    if rng.percent(80) {
        chosen.sort_unstable();
    }
    let (lead, plural) = rng.pick(&[("on ", "s"), ("on ", ""), ("every ", ""), ("each ", "")]);
    let names: Vec<_> =
        chosen.iter().map(|&day| format!("{}{plural}", capital(WEEKDAYS[day]))).collect();
    let said = match &names[..] {
        [one] => format!("{lead}{one}"),
        [one, two] => format!("{lead}{one} and {two}"),
        [first @ .., last] => {
            let comma = rng.pick(&[",", "", ""]);
            format!("{lead}{}{comma} and {last}", first.join(", "))
        }
        [] => unreachable!("at least one day is chosen"),
    };
    chosen.sort_unstable();
    Spoken::new(said, meant(&chosen))
}

fn meant(days: &[usize]) -> String {
    days.iter().map(|&day| &WEEKDAYS[day][..3]).collect::<Vec<_>>().join(" ")
}
