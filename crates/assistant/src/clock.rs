//! Dates and times of calls.
//!
//! A sentence says "on the 3rd of May" and the call needs a year, which only the clock knows. So
//! a call's date may at first be incomplete, in the notations of XML Schema and ISO 8601, and
//! [`complete`] makes of it the YYYY-MM-DD that the contract asks for:
//!
//! | date | said | is |
//! |---|---|---|
//! | `--05-03` | the 3rd of May | the next 3 May, today included |
//! | `---14` | the 14th | the next 14th of a month, today included |
//! | `P2D` | in two days, the day after tomorrow | so many days after today |

use std::time::{SystemTime, UNIX_EPOCH};

use tz::TimeZone;

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// The year, at most four digits.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to the month's last.
    pub day: u8,
}

/// The days of a week as dates name them.
pub const WEEKDAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

impl Date {
    /// The day, where there is such a day.
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let there = year <= 9999
            && (1..=12).contains(&month)
            && (1..=month_days(year, month)).contains(&day);
        there.then_some(Date { year, month, day })
    }

    /// The day that so many seconds after 1970 began, in UTC, belong to.
    pub fn from_unix(seconds: u64) -> Option<Self> {
        let mut left = seconds / 86_400;
        let mut date = Date { year: 1970, month: 1, day: 1 };
        while left >= year_days(date.year) {
            left -= year_days(date.year);
            date.year = date.year.checked_add(1)?;
        }
        date.plus(left)
    }

    /// The day by the system's clock, where the system is: as the variable `TZ` or the file
    /// /etc/localtime says, and in UTC where neither does, as on Windows. `None` after the year 9999.
    pub fn today() -> Option<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        let zone = std::env::var("TZ").ok().filter(|zone| !zone.is_empty());
        Date::from_unix(seconds.saturating_add_signed(offset(zone.as_deref(), seconds)))
    }

    fn next(self) -> Option<Self> {
        let Date { year, month, day } = self;
        Date::new(year, month, day + 1)
            .or_else(|| Date::new(year, month + 1, 1))
            .or_else(|| Date::new(year + 1, 1, 1))
    }

    fn plus(self, days: u64) -> Option<Self> {
        (0..days).try_fold(self, |date, _| date.next())
    }

    fn text(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Seconds that the clocks of a zone, or of this place, are ahead of UTC at a time.
fn offset(zone: Option<&str>, seconds: u64) -> i64 {
    let zone = match zone {
        Some(zone) => TimeZone::from_posix_tz(zone),
        None => TimeZone::local(),
    };
    let ahead = zone.ok().and_then(|zone| {
        let at = i64::try_from(seconds).ok()?;
        Some(zone.find_local_time_type(at).ok()?.ut_offset())
    });
    ahead.unwrap_or(0).into()
}

fn is_leap(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn year_days(year: u16) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_days(year: u16, month: u8) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A date that the clock completes.
enum Incomplete {
    MonthDay(u8, u8),
    Day(u8),
    After(u64),
}

/// The most days ahead that a sentence may name.
const MOST_DAYS: u64 = 9999;

fn incomplete(text: &str) -> Option<Incomplete> {
    if let Some(day) = text.strip_prefix("---") {
        let day = digits(day, 2)?;
        return (1..=31).contains(&day).then_some(Incomplete::Day(day as u8));
    }
    if let Some(rest) = text.strip_prefix("--") {
        let (month, day) = rest.split_once('-')?;
        // 2000 has a 29 February.
        let date = Date::new(2000, digits(month, 2)? as u8, digits(day, 2)? as u8)?;
        return Some(Incomplete::MonthDay(date.month, date.day));
    }
    let days = text.strip_prefix('P')?.strip_suffix('D')?;
    let days: u64 = digits(days, days.len())?.into();
    (days <= MOST_DAYS).then_some(Incomplete::After(days))
}

fn digits(text: &str, count: usize) -> Option<u16> {
    let are = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    if are { text.parse().ok() } else { None }
}

/// The day of a complete date, YYYY-MM-DD.
pub fn parse_day(text: &str) -> Option<Date> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    Date::new(digits(year, 4)?, digits(month, 2)? as u8, digits(day, 2)? as u8)
}

/// Whether a text is HH:MM.
pub fn is_time(text: &str) -> bool {
    text.split_once(':').is_some_and(|(hour, minute)| {
        digits(hour, 2).is_some_and(|h| h < 24) && digits(minute, 2).is_some_and(|m| m < 60)
    })
}

/// Whether a text is a date, complete or to be completed.
pub fn is_date(text: &str) -> bool {
    is_complete(text) || incomplete(text).is_some()
}

/// Whether a text is a date of the contract: today, tomorrow, a weekday or YYYY-MM-DD.
pub fn is_complete(text: &str) -> bool {
    matches!(text, "today" | "tomorrow") || WEEKDAYS.contains(&text) || parse_day(text).is_some()
}

/// An incomplete date as YYYY-MM-DD; complete dates stay. `None` for what is no date.
pub fn complete(text: &str, today: Date) -> Option<String> {
    if is_complete(text) {
        return Some(text.to_owned());
    }
    // Between two 29 February lie at most eight years.
    const HORIZON: usize = 9 * 366;
    let mut days = std::iter::successors(Some(today), |date| date.next()).take(HORIZON);
    let date = match incomplete(text)? {
        Incomplete::MonthDay(month, day) => days.find(|d| (d.month, d.day) == (month, day)),
        Incomplete::Day(day) => days.find(|d| d.day == day),
        Incomplete::After(count) => today.plus(count),
    };
    date.map(Date::text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_completed() {
        let today = Date::new(2026, 11, 27).unwrap();
        for (text, is) in [
            ("--11-27", "2026-11-27"),
            ("--11-26", "2027-11-26"),
            ("--02-29", "2028-02-29"),
            ("---27", "2026-11-27"),
            ("---05", "2026-12-05"),
            ("---31", "2026-12-31"),
            ("P0D", "2026-11-27"),
            ("P40D", "2027-01-06"),
            ("friday", "friday"),
            ("2026-02-28", "2026-02-28"),
        ] {
            assert_eq!(complete(text, today).as_deref(), Some(is), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "someday",
            "2026-02-29",
            "2026-2-1",
            "--13-01",
            "--2-30",
            "---32",
            "P-1D",
            "PD",
            "P99999D",
        ] {
            assert!(!is_date(text), "{text}");
            assert_eq!(complete(text, Date::new(2026, 1, 1).unwrap()), None, "{text}");
        }
        let last = Date::new(9999, 12, 31).unwrap();
        assert_eq!(complete("P1D", last), None);
    }

    #[test]
    fn zones_are_ahead_or_behind() {
        let july = 1_784_000_000;
        assert_eq!(offset(Some("AAA-14"), july), 14 * 3600);
        assert_eq!(offset(Some("EST5EDT,M3.2.0,M11.1.0"), july), -4 * 3600);
        assert_eq!(offset(Some("no such zone"), july), 0);
    }

    #[test]
    fn days_are_counted_from_1970() {
        assert_eq!(Date::from_unix(0), Date::new(1970, 1, 1));
        assert_eq!(Date::from_unix(951_782_400), Date::new(2000, 2, 29));
        assert_eq!(Date::from_unix(1_795_737_599), Date::new(2026, 11, 26));
        assert_eq!(Date::from_unix(u64::MAX), None);
    }
}
