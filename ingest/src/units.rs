//! Event times that come as a number. A number is read as milliseconds since 1970; one in other units is told apart
//! here where it can be, before it is taken for a day of January 1970 or of the year 50,000.
//!
//! A number is refused where it says a time of the years 1980 to 2099 in seconds, microseconds or nanoseconds. In
//! milliseconds those are 1970-01-04 to 1970-02-17, and times after the year 9999, which no event time may have. Who
//! has events of those weeks of 1970 sends texts: `1970-01-05T00:00:00Z`.

use chrono::{DateTime, SecondsFormat};

/// 1980-01-01T00:00:00Z and 2100-01-01T00:00:00Z, in seconds since 1970.
const PLAUSIBLE: std::ops::Range<f64> = 315_532_800.0..4_102_444_800.0;

/// Units in which times are sent by mistake, and how many make a second.
const UNITS: [(&str, f64); 3] = [
    ("seconds", 1.0),
    ("microseconds", 1e6),
    ("nanoseconds", 1e9),
];

/// What is wrong with a number as an event time, where it is in other units than milliseconds; none where it may be
/// one.
#[must_use]
pub fn other_unit(number: f64) -> Option<String> {
    let (unit, seconds) = UNITS
        .iter()
        .map(|(unit, per_second)| (unit, number / per_second))
        .find(|(_, seconds)| PLAUSIBLE.contains(seconds))?;
    let milliseconds = (seconds * 1e3).round() as i64;
    let meant = utc(milliseconds * 1_000);
    let read = match *unit {
        "seconds" => utc((number * 1e3).round() as i64),
        _ => "after the year 9999".to_owned(),
    };
    Some(format!(
        "{number} is {read} if it is in milliseconds, as numbers are; did you mean {unit}, {meant}? Send {milliseconds} or \
         \"{meant}\""
    ))
}

/// A time (µs since 1970) in RFC 3339.
pub(crate) fn utc(time_us: i64) -> String {
    match DateTime::from_timestamp_micros(time_us) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{time_us} µs since 1970"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn seconds_microseconds_and_nanoseconds_are_told_from_milliseconds() {
        let says = |number: f64| other_unit(number).unwrap();
        assert_eq!(
            says(1_527_811_200.0),
            "1527811200 is 1970-01-18T16:23:31.200Z if it is in milliseconds, as numbers are; did you mean seconds, \
             2018-06-01T00:00:00Z? Send 1527811200000 or \"2018-06-01T00:00:00Z\""
        );
        assert_eq!(
            says(1_527_811_200_500_000.0),
            "1527811200500000 is after the year 9999 if it is in milliseconds, as numbers are; did you mean microseconds, \
             2018-06-01T00:00:00.500Z? Send 1527811200500 or \"2018-06-01T00:00:00.500Z\""
        );
        assert!(says(1_527_811_200e9).contains("did you mean nanoseconds, 2018-06-01T00:00:00Z?"));
    }

    #[test]
    fn no_milliseconds_but_those_of_some_weeks_of_1970_are_refused() {
        let days = |day: f64| day * 86_400e3;
        for milliseconds in [
            0.0,
            -1.0,
            1_000.0,
            days(3.0),
            days(48.0),
            days(365.0),
            days(-365.0 * 1_900.0),
            1_527_811_200_000.0,
            253_402_300_799_999.0,
        ] {
            assert_eq!(other_unit(milliseconds), None, "{milliseconds}");
        }
        assert!(other_unit(days(5.0)).is_some());
    }
}
