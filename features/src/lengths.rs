//! Functions that make as much as a number says.
//!
//! They take the memory for it at once, and a process that is refused memory ends, on the same event again at each
//! start. So the number stands in the query, and is small.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::Expr;

use crate::problem::{Checked, Complaint};

/// Characters of a text, or values of a list.
const MOST_LONG: u64 = 1_024;
/// What is repeated may be as long as a message.
const MOST_TIMES: u64 = 64;
/// Centroids of a sketch, of which an entity has one for each span of time that is summed up.
const MOST_CENTROIDS: u64 = 10_000;

/// Refuses a call, as written, that makes as much as an event says, or very much.
pub(crate) fn check(expr: &Expr) -> Checked<()> {
    let Some((name, arguments)) = call(expr) else {
        return Ok(());
    };
    // Which argument is the number, the most that it may be, and a call that works.
    let (place, most, example) = match name {
        "lpad" | "rpad" | "array_resize" => (1, MOST_LONG, "(x, 12)"),
        "repeat" | "array_repeat" => (1, MOST_TIMES, "(x, 12)"),
        "range" | "generate_series" => (0, MOST_LONG, "(0, 12)"),
        "approx_percentile_cont" => (2, MOST_CENTROIDS, "(x, 0.9, 200)"),
        "approx_percentile_cont_with_weight" => (3, MOST_CENTROIDS, "(x, weight, 0.9, 200)"),
        _ => return Ok(()),
    };
    let asked = match (name, arguments.get(place)) {
        ("range" | "generate_series", _) => between(arguments),
        (_, Some(argument)) => number(argument).map(|number| u64::try_from(number).unwrap_or(0)),
        // A sketch has a size of its own; of the others DataFusion says what they lack.
        (_, None) => return Ok(()),
    };
    let wrong = match asked {
        Some(asked) if asked > most => {
            format!("{name}() is to make {asked} of each value, which could take all memory")
        }
        None => format!(
            "{name}() makes as much as a value says, and that of one event could take all memory"
        ),
        Some(_) if is_repeated(name, arguments) => {
            format!("{name}() repeats what is repeated already, which could take all memory")
        }
        Some(_) => return Ok(()),
    };
    Err(Complaint::new(wrong)
        .hint(format!(
            "give it a number in the query itself, of {most} at most: {name}{example}"
        ))
        .word(name))
}

fn call(expr: &Expr) -> Option<(&str, &[Expr])> {
    match expr {
        Expr::ScalarFunction(call) => Some((call.func.name(), call.args.as_slice())),
        Expr::WindowFunction(window) => Some((window.fun.name(), window.params.args.as_slice())),
        _ => None,
    }
}

/// Whether both it and something in what it takes repeat: the numbers multiply.
fn is_repeated(name: &str, arguments: &[Expr]) -> bool {
    let repeats = |name: &str| matches!(name, "repeat" | "array_repeat");
    let inside = |argument: &Expr| {
        // The closure never fails, so neither does the walk.
        let found = argument.exists(|expr| Ok(call(expr).is_some_and(|(name, _)| repeats(name))));
        found.unwrap_or(false)
    };
    repeats(name) && arguments.iter().any(inside)
}

/// How many whole numbers a range has, at most; none where one of its ends is no literal.
fn between(arguments: &[Expr]) -> Option<u64> {
    let numbers = arguments.iter().map(number).collect::<Option<Vec<i64>>>()?;
    match numbers.as_slice() {
        [stop] => Some(stop.unsigned_abs()),
        [start, stop, ..] => Some(start.abs_diff(*stop)),
        [] => None,
    }
}

/// A whole number that stands in the query.
fn number(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(value, _) if value.data_type().is_integer() => {
            match value.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(number)) => number,
                _ => None,
            }
        }
        Expr::Cast(cast) => number(&cast.expr),
        _ => None,
    }
}
