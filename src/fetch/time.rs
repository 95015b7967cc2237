//! The times of signed files: `YYYY-MM-DDThh:mm:ssZ` and nothing else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::delta::clock::rfc3339;

/// Seconds since 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(pub(super) u64);

impl Time {
    /// Reads exactly what [`Time::text`] writes. `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Time> {
        let digits = |at: usize, len: usize| -> Option<u64> {
            let part = text.get(at..at + len)?;
            part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
        };
        let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
        let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
        if year < 1970 || !(1..=12).contains(&month) || day == 0 {
            return None;
        }
        // Years start in March here, so that the leap day is the last of its year.
        let year_of_march = if month <= 2 { year - 1 } else { year };
        let month_of_march = (month + 9) % 12;
        let days = year_of_march * 365 + year_of_march / 4 - year_of_march / 100
            + year_of_march / 400
            + (153 * month_of_march + 2) / 5
            + day
            - 1;
        let time = Time(days.checked_sub(719_468)? * 86_400 + hour * 3_600 + minute * 60 + second);
        // A day that its month does not have, or an hour 24, comes back as another text.
        (time.text() == text).then_some(time)
    }

    pub(super) fn of(time: SystemTime) -> Time {
        // A clock before 1970 is not set: then only the floor counts.
        Time(time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    pub(super) fn text(self) -> String {
        rfc3339(UNIX_EPOCH + Duration::from_secs(self.0.min(253_402_300_799)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for seconds in
            [0, 1, 951_782_399, 951_782_400, 1_709_251_200, 4_107_542_400, 253_402_300_799]
        {
            assert_eq!(Time::parse(&Time(seconds).text()), Some(Time(seconds)));
        }
        for day in 0..40_000u64 {
            let time = Time(day * 86_400 + day % 86_400);
            assert_eq!(Time::parse(&time.text()), Some(time));
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00+00:00",
            "2026-01-01T00:00:00Z ",
            "+026-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "20\u{e4}6-01-01T00:00:0Z",
        ] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }
}
