//! The resolution of a view: `CREATE VIEW … WITH (resolution = '1 minute', late = '1 hour') AS …`.
//!
//! With a resolution time is cut into steps, and frames begin with a step. So the events of a step that is over can
//! be replaced by their sums: what an entity takes is bounded by the number of steps, however many events it has.
//! `frame.rs` says which events a frame covers then, `fold.rs` how events become sums.

use datafusion::common::{ScalarValue, Span};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    CreateTableOptions, Expr, SqlOption, Statement as SqlStatement, Value, ValueWithSpan,
};

use crate::frame::{Frame, microseconds};
use crate::problem::{Checked, Complaint, known_names, sql_span};

/// How finely a view tells times apart, and for how long single events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// Steps are multiples of that since 1970 UTC, in µs.
    pub step_us: i64,
    /// Events are kept one by one until they are that much older (µs) than the newest of their stream.
    pub late_us: i64,
}

const OPTIONS: [&str; 2] = ["resolution", "late"];
const LATE_US: i64 = 3_600_000_000;
const FINEST_US: i64 = 1_000_000;
const COARSEST_US: i64 = 86_400_000_000;

/// Needs every event in its order.
const ORDERED: [&str; 6] = [
    "lag",
    "first_value",
    "last_value",
    "nth_value",
    "array_agg",
    "string_agg",
];
/// Needs every value.
const EXACT_QUANTILES: [&str; 3] = ["median", "percentile_cont", "quantile_cont"];

impl Resolution {
    /// The start of the step that holds `time_us`.
    #[must_use]
    pub const fn step_start(&self, time_us: i64) -> i64 {
        step_start(self.step_us, time_us)
    }

    pub(crate) fn check_function(&self, name: &str) -> Checked<()> {
        if ORDERED.contains(&name) {
            return Err(Complaint::new(format!(
                "{name}() needs single events in their order, and a view with a resolution keeps sums of whole steps"
            ))
            .hint("put it in a view of its own, without a resolution"));
        }
        if EXACT_QUANTILES.contains(&name) {
            return Err(Complaint::new(format!(
                "{name}() needs every value, and a view with a resolution keeps sums of whole steps"
            ))
            .hint(
                "approx_median(x) and approx_percentile_cont(x, 0.9) merge; or put it in a view of its own, without a resolution",
            ));
        }
        Ok(())
    }

    pub(crate) fn check_frame(&self, frame: &Frame) -> Checked<()> {
        let Frame::Range { start_us, end_us } = *frame else {
            return Err(Complaint::new(
                "a ROWS frame counts single events, and a view with a resolution keeps sums of whole steps",
            )
            .hint(
                "use RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW, or put it in a view of its own, \
                 without a resolution",
            ));
        };
        let width = start_us.map(|start| start - end_us.unwrap_or(0));
        if width.is_some_and(|width| width < self.step_us) {
            return Err(Complaint::new(
                "the frame is shorter than a step of the view's resolution",
            )
            .hint("make the resolution finer, or the frame at least as long as a step"));
        }
        Ok(())
    }
}

/// The multiple of `step_us` at or before `time_us`.
pub(crate) const fn step_start(step_us: i64, time_us: i64) -> i64 {
    time_us.div_euclid(step_us).saturating_mul(step_us)
}

/// Takes the options off a view's statement, which DataFusion would refuse with them.
pub(crate) fn take(statement: &mut Statement) -> Checked<Option<Resolution>> {
    let options = take_options(statement)?;
    let (mut step, mut late) = (None, None);
    for option in &options {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(Complaint::new(format!("'{option}' is not an option"))
                .hint("WITH (resolution = '1 minute')")
                .span(sql_span(option)));
        };
        let name = key.value.to_lowercase();
        let span = Span::try_from_sqlparser_span(key.span);
        let slot = match name.as_str() {
            "resolution" => &mut step,
            "late" => &mut late,
            _ => {
                return Err(Complaint::new(format!("a view has no option '{name}'"))
                    .hint(known_names("option", &name, &OPTIONS))
                    .span(span));
            }
        };
        if slot.is_some() {
            return Err(Complaint::new(format!("'{name}' is set twice"))
                .hint("drop one of the two")
                .span(span));
        }
        let length = length(&name, value).map_err(|c| c.span(sql_span(value)).span(span))?;
        *slot = Some((length, span));
    }
    match (step, late) {
        (None, None) => Ok(None),
        (None, Some((_, span))) => Err(Complaint::new(
            "'late' says how long a view with a resolution keeps single events",
        )
        .hint("add resolution = '1 minute', or drop it: a view without one keeps all events of its windows")
        .span(span)),
        (Some((step_us, span)), late) => {
            if !(FINEST_US..=COARSEST_US).contains(&step_us) {
                return Err(
                    Complaint::new("a resolution is between a second and a day")
                        .hint("leave it out for windows that are exact to the event")
                        .span(span),
                );
            }
            let late_us = late.map_or(LATE_US, |(late_us, _)| late_us);
            Ok(Some(Resolution { step_us, late_us }))
        }
    }
}

fn take_options(statement: &mut Statement) -> Checked<Vec<SqlOption>> {
    let Statement::Statement(statement) = statement else {
        return Ok(Vec::new());
    };
    let SqlStatement::CreateView(view) = statement.as_mut() else {
        return Ok(Vec::new());
    };
    match std::mem::take(&mut view.options) {
        CreateTableOptions::None => Ok(Vec::new()),
        CreateTableOptions::With(options) => Ok(options),
        other => Err(Complaint::new("a view's options stand in WITH (…)")
            .hint("CREATE VIEW name WITH (resolution = '1 minute') AS SELECT …")
            .span(sql_span(&other))),
    }
}

fn length(name: &str, value: &Expr) -> Checked<i64> {
    let text = match value {
        Expr::Value(ValueWithSpan {
            value: Value::SingleQuotedString(text),
            ..
        }) => Some(text),
        Expr::Interval(interval) => match interval.value.as_ref() {
            Expr::Value(ValueWithSpan {
                value: Value::SingleQuotedString(text),
                ..
            }) if interval.leading_field.is_none() => Some(text),
            _ => None,
        },
        _ => None,
    };
    let wrong = || {
        Complaint::new(format!("{name} = {value} is not a length of time"))
            .hint(format!("write it as {name} = '1 minute'"))
    };
    let text = text.ok_or_else(wrong)?;
    // Arrow reads an interval without a unit as seconds; here that is a slip.
    if !text.chars().any(char::is_alphabetic) {
        return Err(wrong());
    }
    microseconds(&ScalarValue::from(text.as_str())).map_err(|complaint| complaint.or(wrong()))
}
