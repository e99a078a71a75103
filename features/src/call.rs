//! Which aggregate a window function of SQL is, and over which frame.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::functions_aggregate::nth_value::nth_value_udaf;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::{AggregateUDF, Expr, WindowFunctionDefinition};

use crate::frame::Frame;
use crate::problem::{Checked, Complaint};

/// An aggregate, what it takes of each event, and the events that count.
pub(crate) struct Call {
    pub(crate) function: Arc<AggregateUDF>,
    pub(crate) arguments: Vec<Expr>,
    pub(crate) frame: Frame,
}

impl Call {
    pub(crate) fn read(window: &WindowFunction) -> Checked<Self> {
        check_distinct(window)?;
        check_nulls(window)?;
        let arguments = &window.params.args;
        let over_frame = |function: Arc<AggregateUDF>| -> Checked<Self> {
            Ok(Self {
                function,
                arguments: arguments.clone(),
                frame: Frame::from_sql(&window.params.window_frame)?,
            })
        };
        match &window.fun {
            WindowFunctionDefinition::AggregateUDF(function) => over_frame(Arc::clone(function)),
            WindowFunctionDefinition::WindowUDF(function) => match function.name() {
                "first_value" => over_frame(first_value_udaf()),
                "last_value" => over_frame(last_value_udaf()),
                "nth_value" => {
                    check_nth(arguments)?;
                    over_frame(nth_value_udaf())
                }
                "lag" => lag(window),
                name => Err(Complaint::new(format!("{name}() is not kept up")).hint(
                    "use an aggregate: count, sum, avg, min, max, first_value, last_value, nth_value, \
                     lag, approx_distinct, …",
                )),
            },
        }
    }
}

/// Some functions pass over DISTINCT, and of some it changes nothing.
fn check_distinct(window: &WindowFunction) -> Checked<()> {
    let name = window.fun.name();
    if !window.params.distinct {
        return Ok(());
    }
    // What DataFusion makes of a star.
    let is_star =
        |argument: &Expr| matches!(argument, Expr::Literal(ScalarValue::Int64(Some(1)), _));
    if name == "count" && window.params.args.iter().all(is_star) {
        return Err(
            Complaint::new("count(DISTINCT …) names no column whose values it counts")
                .hint("count(DISTINCT terminal_id); count(*) alone counts events")
                .word("DISTINCT"),
        );
    }
    match without_distinct(name) {
        None => Ok(()),
        Some(hint) => Err(Complaint::new(format!(
            "{name}() does not tell equal values apart: DISTINCT has no effect on it"
        ))
        .hint(hint)
        .word("DISTINCT")),
    }
}

/// What works in place of DISTINCT, for a function that does not take it.
fn without_distinct(name: &str) -> Option<&'static str> {
    const PLAIN: Option<&str> =
        Some("drop DISTINCT; count, sum, avg, var_samp, median and array_agg take it");
    match name {
        // DataFusion's accumulators keep one of each.
        "count" | "sum" | "avg" | "var" | "var_pop" | "median" | "percentile_cont"
        | "array_agg" | "string_agg" | "bit_xor" => None,
        // One of each gives the same as all of them.
        "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "any_value" => None,
        "stddev" => Some("sqrt(var_samp(DISTINCT x) OVER …)"),
        "stddev_pop" => Some("sqrt(var_pop(DISTINCT x) OVER …)"),
        "approx_distinct" => Some("drop DISTINCT: it counts different values already"),
        "approx_median" => Some("median(DISTINCT x) OVER …"),
        "approx_percentile_cont" => Some("percentile_cont(DISTINCT x, 0.9) OVER …"),
        "first_value" | "last_value" | "nth_value" | "lag" => {
            Some("drop DISTINCT: it is the value of one event")
        }
        "corr"
        | "covar_samp"
        | "covar_pop"
        | "decayed_sum"
        | "decayed_count"
        | "approx_percentile_cont_with_weight" => PLAIN,
        name if name.starts_with("regr_") => PLAIN,
        // Somebody's own function knows what it does with it.
        _ => None,
    }
}

/// Most functions skip nulls, whatever is said of them.
fn check_nulls(window: &WindowFunction) -> Checked<()> {
    let name = window.fun.name();
    let (word, hint) = match (name, window.params.null_treatment) {
        (_, None)
        | ("first_value" | "last_value" | "array_agg", _)
        | ("nth_value" | "lag", Some(NullTreatment::RespectNulls)) => return Ok(()),
        ("nth_value" | "lag", Some(NullTreatment::IgnoreNulls)) => (
            "IGNORE",
            "last_value(x) IGNORE NULLS gives the newest value that is not null, first_value(x) IGNORE NULLS the oldest",
        ),
        (_, Some(NullTreatment::IgnoreNulls)) => (
            "IGNORE",
            "drop it: nulls are skipped anyway, but for count(*), which counts events",
        ),
        (_, Some(NullTreatment::RespectNulls)) => (
            "RESPECT",
            "drop it, or take something for a null: coalesce(x, 0)",
        ),
    };
    Err(
        Complaint::new(format!("{word} NULLS has no effect on {name}()"))
            .hint(hint)
            .word(word),
    )
}

/// `lag(x, n)` is the last value of the frame that holds the n-th newest earlier event alone.
fn lag(window: &WindowFunction) -> Checked<Call> {
    let arguments = &window.params.args;
    let back = match arguments.get(1) {
        Some(offset) => whole_number(offset).filter(|n| *n > 0),
        None => Some(1),
    };
    let (Some(value), Some(back)) = (arguments.first(), back) else {
        return Err(
            Complaint::new("lag() looks back a fixed number of events, at least one")
                .hint("lag(amount, 2) OVER (PARTITION BY card_id ORDER BY event_time)"),
        );
    };
    if arguments.get(2).is_some_and(|default| !is_null(default)) {
        return Err(Complaint::new("lag() takes no default here")
            .hint("wrap it: coalesce(lag(amount, 2) OVER (…), 0)"));
    }
    Ok(Call {
        function: last_value_udaf(),
        arguments: vec![value.clone()],
        frame: Frame::Rows {
            start: Some(back),
            end: back,
        },
    })
}

fn check_nth(arguments: &[Expr]) -> Checked<()> {
    match arguments.get(1).and_then(whole_number) {
        Some(n) if n > 0 => Ok(()),
        _ => Err(Complaint::new(
            "nth_value() counts from the frame's first event, by a fixed number",
        )
        .hint("nth_value(amount, 2) for the second; lag(amount, 2) for the second newest")),
    }
}

fn whole_number(expr: &Expr) -> Option<u64> {
    match expr {
        // A cast cuts a fraction off.
        Expr::Literal(value, _) if !value.data_type().is_integer() => None,
        Expr::Literal(value, _) => match value.cast_to(&arrow::datatypes::DataType::UInt64) {
            Ok(ScalarValue::UInt64(number)) => number,
            _ => None,
        },
        Expr::Cast(cast) => whole_number(&cast.expr),
        _ => None,
    }
}

fn is_null(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) => value.is_null(),
        Expr::Cast(cast) => is_null(&cast.expr),
        _ => false,
    }
}
