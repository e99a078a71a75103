//! Days: what a text, or a number in JSON, is in a column of DATE. Topics, files and requests read them here, so that
//! one event has one value by whichever road it comes.
//!
//! - A text is a date, `2025-01-31` or `20250131`, or a time that is midnight in UTC. Any other time would lose its
//!   hours, or become the day before in another zone; it is refused, as a column of whole numbers refuses 1.7.
//! - A number is as many days since 1970, as in Arrow and Parquet, within the years 1 to 9999. Those have seven digits at
//!   most, so eight are the date that they say, in quotes or without.

use std::ops::RangeInclusive;

use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::datatypes::Date32Type;
use chrono::{NaiveTime, Utc};

use crate::numbers::whole;

/// 0001-01-01 and 9999-12-31, in days since 1970.
const NUMBERS: RangeInclusive<i128> = -719_162..=2_932_896;

const DAY_S: i64 = 86_400;

/// The day of a text or of a number's digits, in days since 1970.
///
/// # Errors
/// What is wrong, as it is said behind the text.
pub fn day_of(text: &str) -> Result<i32, &'static str> {
    // Nothing that is longer than a date is one, but for years with a sign and more digits.
    if text.len() > "2025-01-31".len()
        && let Ok(time) = string_to_datetime(&Utc, text)
    {
        if time.time() != NaiveTime::MIN {
            return Err("is not midnight in UTC, and a DATE has no time of day");
        }
        return i32::try_from(time.timestamp().div_euclid(DAY_S)).map_err(|_| NO_DATE);
    }
    let day = Date32Type::parse(text).or_else(|| {
        let number = whole(text).filter(|number| NUMBERS.contains(number))?;
        i32::try_from(number).ok()
    });
    day.ok_or(NO_DATE)
}

const NO_DATE: &str = "is no date";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_date_or_midnight_and_loses_no_time() {
        let check = |text: &str, expected: Result<i32, &str>| {
            assert_eq!(day_of(text), expected, "{text}");
        };
        let times = "is not midnight in UTC, and a DATE has no time of day";
        check("2024-01-05", Ok(19_727));
        check("20240105", Ok(19_727));
        check("1969-12-31", Ok(-1));
        check("+10999-12-31", Ok(3_298_139));
        check("2024-01-05 00:00:00", Ok(19_727));
        check("2024-01-05T00:00:00.000Z", Ok(19_727));
        check("1969-12-31T00:00:00Z", Ok(-1));
        check("2024-01-05T02:00:00+02:00", Ok(19_727));
        check("2024-01-05T00:00:00+02:00", Err(times));
        check("2024-01-05 12:30:00", Err(times));
        check("2024-01-05T00:00:00.5", Err(times));
        check("2024-01-05T00:00:00.000000001Z", Err(times));
        check("19727", Ok(19_727));
        check("-1", Ok(-1));
        check("19727.0", Ok(19_727));
        check("1.9727e4", Ok(19_727));
        check("-719162", Ok(-719_162));
        check("2932896", Ok(2_932_896));
        for refused in [
            "19727.5",
            "2932897",
            "-719163",
            "20241305",
            "1704412800000",
            "2024-13-05",
            "2024-01-05 25:00:00",
            "yesterday",
            "true",
            "",
        ] {
            check(refused, Err(NO_DATE));
        }
    }
}
