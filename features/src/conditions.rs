//! What stands after FILTER (WHERE and CASE WHEN is a condition.
//!
//! DataFusion checks that of WHERE alone. Anywhere else it casts what stands there: of numbers, 0 would be false, and
//! most texts would fail the cast and so leave their events out of the view.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, ExprSchemable};

use crate::problem::{Checked, columns_span};
use crate::walk;
use crate::words;

/// Refuses an expression, as written, that has something else there.
pub(crate) fn check(expr: &Expr, schema: &DFSchema) -> Checked<()> {
    match expr {
        Expr::WindowFunction(window) => {
            let mut filters = window.params.filter.iter();
            filters.try_for_each(|filter| check_one(filter, schema, "FILTER"))
        }
        Expr::Case(case) if case.expr.is_none() => {
            let mut branches = case.when_then_expr.iter();
            branches.try_for_each(|(when, _)| check_one(when, schema, "WHEN"))
        }
        _ => Ok(()),
    }
}

fn check_one(condition: &Expr, schema: &DFSchema, clause: &str) -> Checked<()> {
    let data_type = match condition.get_type(schema) {
        Ok(DataType::Boolean | DataType::Null) => return Ok(()),
        // What has no type is refused with its own reason.
        Err(_) => return Ok(()),
        Ok(other) => other.to_string(),
    };
    let complaint = words::no_condition(clause, walk::name(condition), &data_type);
    Err(complaint.span(columns_span(condition)).word(clause))
}
