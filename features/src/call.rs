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
    if window.params.null_treatment == Some(NullTreatment::IgnoreNulls) {
        return Err(Complaint::new("lag() IGNORE NULLS is not kept up").hint(
            "last_value(amount) IGNORE NULLS OVER (…) gives the newest value that is not null",
        ));
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
