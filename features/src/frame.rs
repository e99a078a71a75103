//! Which events a window frame covers when it is asked for at a time t.
//!
//! A look-up at t answers as if a row stood at t and were not itself counted. With W and a >= b as lengths of
//! time, n >= m as numbers of rows, and events in the order of (event time, unique part of the key):
//!
//! | frame | events covered |
//! |---|---|
//! | `RANGE BETWEEN W PRECEDING AND CURRENT ROW` | t − W ≤ event_time < t |
//! | `RANGE BETWEEN a PRECEDING AND b PRECEDING` | t − a ≤ event_time ≤ t − b |
//! | `RANGE BETWEEN UNBOUNDED PRECEDING AND …` | no lower edge |
//! | `ROWS BETWEEN n PRECEDING AND CURRENT ROW` | the last n events with event_time < t |
//! | `ROWS BETWEEN n PRECEDING AND m PRECEDING` | of those, all but the newest m − 1 |
//!
//! In a view with a resolution, where ⌊x⌋ is x rounded down to a step:
//!
//! | frame | events covered |
//! |---|---|
//! | `RANGE BETWEEN W PRECEDING AND CURRENT ROW` | ⌊t − W⌋ ≤ event_time < t |
//! | `RANGE BETWEEN a PRECEDING AND b PRECEDING` | ⌊t − a⌋ ≤ event_time < ⌊t − b⌋ |

use std::ops::Range;

use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};

use crate::events::positions;
use crate::problem::{Checked, Complaint, near};
use crate::resolution::step_start;

/// A window frame, its lengths in microseconds or rows before the row that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Frame {
    /// By event time.
    Range {
        /// Oldest edge, inclusive; `None` is unbounded.
        start_us: Option<i64>,
        /// Newest edge, inclusive; `None` is the row asked for, exclusive.
        end_us: Option<i64>,
    },
    /// By number of events before t.
    Rows {
        /// How many events back the frame starts; `None` is unbounded.
        start: Option<u64>,
        /// How many events back it ends; 0 is the row asked for, which does not count itself.
        end: u64,
    },
}

impl Frame {
    /// The indexes of the covered events in `times` (µs, ascending) as of `t`.
    pub(crate) fn cover(&self, times: &[i64], t: i64) -> Range<usize> {
        let (start, end) = match *self {
            Self::Range { .. } => {
                return positions(times, &self.times(t, None).unwrap_or_default());
            }
            Self::Rows { start, end } => {
                let earlier = times.partition_point(|time| *time < t);
                let back =
                    |rows: u64| earlier.saturating_sub(usize::try_from(rows).unwrap_or(usize::MAX));
                (start.map_or(0, back), back(end.saturating_sub(1)))
            }
        };
        start.min(end)..end
    }

    /// The times that a RANGE frame covers as of `t`, in a view whose resolution has steps of `step_us` where it has
    /// one; none for a ROWS frame.
    pub(crate) fn times(&self, t: i64, step_us: Option<i64>) -> Option<Range<i64>> {
        let Self::Range { start_us, end_us } = *self else {
            return None;
        };
        let back = |width: i64| t.saturating_sub(width);
        Some(match step_us {
            None => {
                let end = end_us.map_or(t, |width| back(width).saturating_add(1));
                start_us.map_or(i64::MIN, back)..end
            }
            Some(step_us) => {
                let rounded = |width| step_start(step_us, back(width));
                start_us.map_or(i64::MIN, rounded)..end_us.map_or(t, rounded)
            }
        })
    }

    /// How far before t the frame reaches, in µs; `None` when time does not bound it.
    pub(crate) fn reach_us(&self) -> Option<i64> {
        match self {
            Self::Range { start_us, .. } => *start_us,
            Self::Rows { .. } => None,
        }
    }

    /// The frame that SQL states, or why it cannot be kept up incrementally.
    pub(crate) fn from_sql(frame: &WindowFrame) -> Checked<Self> {
        let frame = match frame.units {
            WindowFrameUnits::Range => range(frame),
            WindowFrameUnits::Rows => rows(frame),
            WindowFrameUnits::Groups => Err(Complaint::new("a GROUPS frame is not kept up")
                .hint("use RANGE BETWEEN INTERVAL '…' PRECEDING AND CURRENT ROW, or ROWS")),
        };
        frame.map_err(Complaint::in_frame)
    }
}

fn range(frame: &WindowFrame) -> Checked<Frame> {
    let start_us = match &frame.start_bound {
        WindowFrameBound::Preceding(value) if value.is_null() => None,
        WindowFrameBound::Preceding(value) => Some(microseconds(value)?),
        WindowFrameBound::CurrentRow => return Err(empty_frame()),
        WindowFrameBound::Following(_) => return Err(future_frame()),
    };
    let end_us = match &frame.end_bound {
        WindowFrameBound::Preceding(value) if value.is_null() => return Err(empty_frame()),
        WindowFrameBound::Preceding(value) => Some(microseconds(value)?).filter(|us| *us > 0),
        WindowFrameBound::CurrentRow => None,
        WindowFrameBound::Following(_) => return Err(future_frame()),
    };
    match (start_us, end_us) {
        (Some(0), _) => Err(empty_frame()),
        (Some(start), Some(end)) if start < end => Err(backwards("'14 days'", "'7 days'")),
        _ => Ok(Frame::Range { start_us, end_us }),
    }
}

fn rows(frame: &WindowFrame) -> Checked<Frame> {
    let start = match &frame.start_bound {
        WindowFrameBound::Preceding(value) if value.is_null() => None,
        WindowFrameBound::Preceding(value) => Some(row_count(value)?),
        WindowFrameBound::CurrentRow => return Err(empty_frame()),
        WindowFrameBound::Following(_) => return Err(future_frame()),
    };
    let end = match &frame.end_bound {
        WindowFrameBound::Preceding(value) if value.is_null() => return Err(empty_frame()),
        WindowFrameBound::Preceding(value) => row_count(value)?,
        WindowFrameBound::CurrentRow => 0,
        WindowFrameBound::Following(_) => return Err(future_frame()),
    };
    match start {
        Some(0) => Err(empty_frame()),
        Some(start) if start < end => Err(backwards("14", "7")),
        _ => Ok(Frame::Rows { start, end }),
    }
}

/// `older` and `newer` are edges of a frame that is right.
fn backwards(older: &str, newer: &str) -> Complaint {
    Complaint::new("the frame ends before it starts: it covers no event").hint(format!(
        "write the older edge first: {older} PRECEDING AND {newer} PRECEDING"
    ))
}

fn empty_frame() -> Complaint {
    Complaint::new("the frame covers no event: the row that is asked for does not count itself")
        .hint("use RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW, for instance")
}

fn future_frame() -> Complaint {
    Complaint::new(
        "a frame that reaches past the current row asks for events that have not come yet",
    )
    .hint("end the frame at CURRENT ROW or at an INTERVAL PRECEDING")
}

fn row_count(value: &ScalarValue) -> Checked<u64> {
    match value.cast_to(&DataType::UInt64) {
        Ok(ScalarValue::UInt64(Some(rows))) => Ok(rows),
        _ => Err(Complaint::new(format!("'{value}' is not a number of rows"))
            .hint("use a whole number: ROWS BETWEEN 10 PRECEDING AND CURRENT ROW")),
    }
}

/// What is wrong with a text that is to be a length of time; none where it is one.
pub(crate) fn not_a_length(text: &str) -> Option<Complaint> {
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    match ScalarValue::from(text).cast_to(&interval) {
        Ok(value) if !value.is_null() => None,
        _ => Some(no_length(text)),
    }
}

fn no_length(text: &str) -> Complaint {
    const ONE: [&str; 5] = ["second", "minute", "hour", "day", "week"];
    const SEVERAL: [&str; 5] = ["seconds", "minutes", "hours", "days", "weeks"];
    let units = match text.trim_start().starts_with("1 ") {
        true => ONE,
        false => SEVERAL,
    };
    let is_unit = |word: &str| word.len() > 2 && word.chars().all(char::is_alphabetic);
    let wrong = text.split_whitespace().find(|word| is_unit(word));
    let meant = match wrong {
        Some(wrong) => near(&wrong.to_lowercase(), &units).map(|unit| text.replace(wrong, unit)),
        None => of_clock(text),
    };
    let meant = meant.filter(|meant| meant != text && is_length(meant));
    Complaint::new(format!("'{text}' is not a length of time")).hint(match meant {
        Some(meant) => format!("did you mean '{meant}'?"),
        None => {
            "write a number and a unit: '30 seconds', '15 minutes', '1 hour', '7 days'".to_owned()
        }
    })
}

/// Of a text that says no unit: `INTERVAL` with the one that is meant.
pub(crate) fn with_unit(text: &str) -> String {
    let in_seconds = format!("{text} seconds");
    match is_length(&in_seconds) {
        true => format!("INTERVAL '{in_seconds}', or minutes, hours, days"),
        false => {
            let meant = of_clock(text).filter(|meant| is_length(meant));
            format!("INTERVAL '{}'", meant.as_deref().unwrap_or("30 seconds"))
        }
    }
}

/// A length that is written as a clock shows it, 01:30 or 01:30:00, in units.
fn of_clock(text: &str) -> Option<String> {
    let parts: Option<Vec<u32>> = text
        .trim()
        .split(':')
        .map(|part| part.parse().ok())
        .collect();
    let parts = parts.filter(|parts| matches!(parts.len(), 2 | 3))?;
    let shown = parts.iter().zip(["hour", "minute", "second"]);
    let shown = shown.filter(|(number, _)| **number > 0);
    let shown: Vec<String> = shown
        .map(|(number, unit)| match number {
            1 => format!("1 {unit}"),
            _ => format!("{number} {unit}s"),
        })
        .collect();
    Some(shown.join(" "))
}

/// Whether a view can have a window of that length.
fn is_length(text: &str) -> bool {
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    match ScalarValue::from(text).cast_to(&interval) {
        Ok(ScalarValue::IntervalMonthDayNano(Some(interval))) => {
            interval.months == 0 && width_us(&interval).is_some_and(|us| us > 0)
        }
        _ => false,
    }
}

/// The length of an interval without months, where it is within what can be counted, and fine enough.
fn width_us(interval: &IntervalMonthDayNano) -> Option<i64> {
    let days = i64::from(interval.days).checked_mul(DAY_US)?;
    let width = days.checked_add(interval.nanoseconds / 1_000)?;
    (interval.nanoseconds % 1_000 == 0).then_some(width)
}

const DAY_US: i64 = 86_400_000_000;

pub(crate) fn microseconds(value: &ScalarValue) -> Checked<i64> {
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    let Ok(ScalarValue::IntervalMonthDayNano(Some(interval))) = value.cast_to(&interval) else {
        return Err(no_length(&value.to_string()));
    };
    if interval.months != 0 {
        let months = i64::from(interval.months);
        let days = months / 12 * 365 + months % 12 * 30 + i64::from(interval.days);
        let days = format!("{days} days");
        let complaint = Complaint::new("a window of months or years has no fixed length");
        return Err(complaint.hint(match is_length(&days) {
            true => format!("use days: INTERVAL '{days}'"),
            false => "use days; use UNBOUNDED PRECEDING for a lifetime".to_owned(),
        }));
    }
    match width_us(&interval) {
        Some(us) if us >= 0 => Ok(us),
        Some(_) => Err(Complaint::new("the interval is negative")
            .hint("drop the sign: PRECEDING looks back already")),
        _ => Err(
            Complaint::new("the interval is finer than a microsecond or too long")
                .hint("event times have microseconds; use UNBOUNDED PRECEDING for a lifetime"),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The table in the module's documentation, word for word, event by event.
    fn covers(frame: Frame, times: &[i64], t: i64, index: usize) -> bool {
        let time = times[index];
        match frame {
            Frame::Range { start_us, end_us } => {
                start_us.is_none_or(|width| t - width <= time)
                    && end_us.map_or(time < t, |width| time <= t - width)
            }
            Frame::Rows { start, end } => {
                let newer = times
                    .iter()
                    .skip(index + 1)
                    .filter(|other| **other < t)
                    .count() as u64;
                time < t && start.is_none_or(|rows| newer < rows) && newer + 1 >= end
            }
        }
    }

    #[test]
    fn cover_agrees_with_the_definition() {
        let times = [-7, 0, 1, 1, 1, 4, 5, 5, 9, 30];
        let mut frames = vec![];
        for a in [None, Some(1), Some(4), Some(6), Some(100)] {
            for b in [None, Some(1), Some(3)] {
                frames.push(Frame::Range {
                    start_us: a,
                    end_us: b,
                });
            }
            for b in 0..4 {
                frames.push(Frame::Rows {
                    start: a.map(|a: i64| a as u64),
                    end: b,
                });
            }
        }
        for frame in frames {
            for t in -10..40 {
                let expected: Vec<usize> = (0..times.len())
                    .filter(|i| covers(frame, &times, t, *i))
                    .collect();
                let got: Vec<usize> = frame.cover(&times, t).collect();
                assert_eq!(got, expected, "{frame:?} as of {t}");
                if let Some(range) = frame.times(t, None) {
                    let by_time = (0..times.len()).filter(|i| range.contains(&times[*i]));
                    assert_eq!(by_time.collect::<Vec<_>>(), expected, "{frame:?} as of {t}");
                }
            }
        }
    }

    #[test]
    fn with_a_resolution_all_edges_but_the_current_row_are_steps() {
        let frame = |start_us, end_us| Frame::Range { start_us, end_us };
        let times = |frame: Frame, t| frame.times(t, Some(10)).unwrap();
        assert_eq!(times(frame(Some(25), None), 67), 40..67);
        assert_eq!(times(frame(Some(25), None), 70), 40..70);
        assert_eq!(times(frame(Some(25), None), 65), 40..65);
        assert_eq!(times(frame(Some(25), None), 7), -20..7);
        assert_eq!(times(frame(Some(30), Some(12)), 67), 30..50);
        assert_eq!(times(frame(None, Some(12)), 67), i64::MIN..50);
        assert_eq!(times(frame(None, None), 67), i64::MIN..67);
        // Two frames that follow each other share no event and leave none out.
        for t in -30..30 {
            let (far, near) = (frame(Some(25), Some(11)), frame(Some(11), None));
            assert_eq!(times(far, t).end, times(near, t).start);
        }
    }
}
