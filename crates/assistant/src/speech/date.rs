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
        2..6 => {
            let said = match rng.below(16) {
                0..12 => "tomorrow",
                12 => "tmr",
                13 => "tomoz",
                _ => "tmrw",
            };
            Spoken::new(said, "tomorrow")
        }
        6..12 => {
            let day = rng.pick(&WEEKDAYS);
            let name = capital(day);
            let said = match rng.below(12) {
                10 => format!("{} {name}", rng.pick(&["the coming", "upcoming", "coming"])),
                11 => format!("this coming {name}"),
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
            let (words, days) = match rng.below(10) {
                6 => ("day after tomorrow".to_owned(), 2),
                7 => (format!("{} days from now", said(days, rng)), days),
                8 => ("a week from today".to_owned(), 7),
                9 => ("two weeks from today".to_owned(), 14),
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

/// A date of digits, as machines write it.
pub fn iso(rng: &mut Rng) -> Spoken {
    let (month, year) = (rng.range(1, 12), rng.range(2024, 2035));
    let day = rng.range(1, LENGTHS[month as usize - 1]);
    let iso = format!("{year}-{month:02}-{day:02}");
    Spoken::new(iso.clone(), iso)
}

/// A weekday and its date, "Friday the 12th of June".
pub fn full(rng: &mut Rng) -> Spoken {
    let name = capital(rng.pick(&WEEKDAYS));
    let name = if rng.percent(20) { short(&name).to_owned() } else { name };
    let comma = rng.pick(&["", "", ","]);
    let (said, month, day) = month_day(rng);
    Spoken::new(format!("{name}{comma} {said}"), format!("--{month:02}-{day:02}"))
}

fn month_day(rng: &mut Rng) -> (String, u64, u64) {
    let index = rng.below(12) as usize;
    let day = rng.range(1, LENGTHS[index]);
    let month = if rng.percent(12) { &MONTHS[index][..3] } else { MONTHS[index] };
    let said = match rng.below(15) {
        12 => format!("{} of {month}", ordinal(day)),
        13 => format!("{} of {month}", ordinal_word(day, rng.percent(50))),
        14 => format!("{month} the {}", ordinal_word(day, rng.percent(50))),
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
        "Wednesday" => "Weds",
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
        ("each morning", ALL),
        ("all seven days", ALL),
        ("7 days a week", ALL),
        ("everyday", ALL),
        ("day in day out", ALL),
        ("every day of the week", ALL),
        ("on every day", ALL),
        ("the whole week", ALL),
        ("each and every day", ALL),
        ("every evening", ALL),
        ("each weekday", "mon tue wed thu fri"),
        ("on weekday mornings", "mon tue wed thu fri"),
        ("every weekday morning", "mon tue wed thu fri"),
        ("weekday mornings", "mon tue wed thu fri"),
        ("on all weekdays", "mon tue wed thu fri"),
        ("every workday", "mon tue wed thu fri"),
        ("every working day", "mon tue wed thu fri"),
        ("workdays", "mon tue wed thu fri"),
        ("Monday thru Friday", "mon tue wed thu fri"),
        ("Mon to Fri", "mon tue wed thu fri"),
        ("Mon–Fri", "mon tue wed thu fri"),
        ("M-F", "mon tue wed thu fri"),
        ("Monday till Friday", "mon tue wed thu fri"),
        ("from Mon to Fri", "mon tue wed thu fri"),
        ("weekends", "sat sun"),
        ("each weekend", "sat sun"),
        ("on weekend mornings", "sat sun"),
        ("weekend mornings", "sat sun"),
        ("weekends only", "sat sun"),
        ("only at weekends", "sat sun"),
        ("on both weekend days", "sat sun"),
        ("Saturday and Sunday", "sat sun"),
        ("Sat and Sun", "sat sun"),
    ];
    if rng.percent(45) {
        let (said, meant) = rng.pick(SETS);
        return Spoken::new(said, meant);
    }
    if rng.percent(8) {
        let day = rng.below(7) as usize;
        let (every, but) = (
            rng.pick(&["every day", "each day", "all days", "daily"]),
            rng.pick(&["except", "but", "except for", "apart from"]),
        );
        let others: Vec<usize> = (0..7).filter(|&other| other != day).collect();
        return Spoken::new(format!("{every} {but} {}", capital(WEEKDAYS[day])), meant(&others));
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
    let (lead, plural) = rng.pick(&[
        ("on ", "s"),
        ("on ", ""),
        ("every ", ""),
        ("each ", ""),
        ("", "s"),
        ("", ""),
        ("every ", " morning"),
        ("on ", " mornings"),
    ]);
    let is_short = plural.is_empty() && rng.percent(25);
    let (last, part) = (chosen.len() - 1, plural.strip_prefix(' ').is_some());
    let name = |index: usize, day: usize| {
        let name = capital(WEEKDAYS[day]);
        let plural = if part && index < last { "" } else { plural };
        if is_short { short(&name).to_owned() } else { format!("{name}{plural}") }
    };
    let names: Vec<_> = chosen.iter().enumerate().map(|(index, &day)| name(index, day)).collect();
    let and = rng.pick(&["and", "and", "and", "and", "&", "plus"]);
    let said = match &names[..] {
        [_, _, ..] if rng.percent(15) => {
            format!("{lead}{}", names.join(rng.pick(&[", ", " ", "/"])))
        }
        [one] => format!("{lead}{one}"),
        [one, two] => format!("{lead}{one} {and} {two}"),
        [first @ .., last] => {
            let comma = rng.pick(&[",", "", ""]);
            format!("{lead}{}{comma} {and} {last}", first.join(", "))
        }
        [] => unreachable!("at least one day is chosen"),
    };
    chosen.sort_unstable();
    Spoken::new(said, meant(&chosen))
}

fn meant(days: &[usize]) -> String {
    days.iter().map(|&day| &WEEKDAYS[day][..3]).collect::<Vec<_>>().join(" ")
}
