//! Event times as people read and write them. All are UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat};

use crate::settings::micros;

/// A time (µs since 1970) in RFC 3339, with as many digits as it needs.
#[must_use]
pub fn rfc3339(time_us: i64) -> String {
    match DateTime::from_timestamp_micros(time_us) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{time_us} µs"),
    }
}

/// A time in RFC 3339, or `YYYY-MM-DD`, with or without `HH:MM:SS[.ffffff]`, read as UTC.
///
/// # Errors
/// What is wrong, and how a time is written.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_micros());
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(time.and_utc().timestamp_micros());
        }
    }
    match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        Ok(date) => Ok(date
            .and_time(chrono::NaiveTime::MIN)
            .and_utc()
            .timestamp_micros()),
        Err(_) => Err(format!(
            "'{text}' is not a time: write 2026-03-01T12:00:00Z or '2026-03-01 12:00:00' (UTC)"
        )),
    }
}

/// A day: `YYYY-MM-DD`.
///
/// # Errors
/// How a day is written.
pub fn parse_day(text: &str) -> Result<NaiveDate, String> {
    let day = text.trim().parse();
    day.map_err(|_| format!("'{text}' is no day of the calendar: write 2018-04-01"))
}

/// The wall clock, µs since 1970.
#[must_use]
pub fn now_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    micros(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        let noon = 1_522_584_000_000_000;
        for text in [
            "2018-04-01T12:00:00Z",
            "2018-04-01 12:00:00",
            "2018-04-01T14:00:00+02:00",
        ] {
            assert_eq!(parse_time(text), Ok(noon));
        }
        assert_eq!(parse_time("2018-04-01"), Ok(noon - 12 * 3_600_000_000));
        assert_eq!(rfc3339(noon), "2018-04-01T12:00:00Z");
        assert_eq!(parse_time(&rfc3339(noon + 1)), Ok(noon + 1));
        assert!(parse_time("yesterday").is_err());
        let day = parse_day("2018-04-01").unwrap_or_default();
        assert_eq!(day.to_string(), "2018-04-01");
        for wrong in ["2018", "2018-13-01", "2018-02-29", "soon"] {
            let expected = format!("'{wrong}' is no day of the calendar: write 2018-04-01");
            assert_eq!(parse_day(wrong), Err(expected));
        }
    }
}
