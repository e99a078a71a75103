//! What stands after FILTER (WHERE and CASE WHEN is a condition.
//!
//! DataFusion checks that of WHERE alone. Anywhere else it casts what stands there: of numbers, 0 would be false, and
//! most texts would fail the cast and so leave their events out of the view.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

use crate::problem::{Checked, columns_span};
use crate::words;

/// Refuses a plan, as written, that has something else there.
pub(crate) fn check(plan: &LogicalPlan) -> Checked<()> {
    let mut checked = Ok(());
    // The closures never fail, so neither do the walks.
    let _ = plan.apply(|node| {
        let schema = match node.inputs().as_slice() {
            [input] => input.schema(),
            _ => node.schema(),
        };
        let expressions = node.expressions();
        checked = expressions
            .iter()
            .try_for_each(|expr| check_inside(expr, schema));
        Ok(on_while(&checked))
    });
    checked
}

fn check_inside(expr: &Expr, schema: &DFSchema) -> Checked<()> {
    let mut checked = Ok(());
    let _ = expr.apply(|node| {
        checked = match node {
            Expr::WindowFunction(window) => {
                let mut filters = window.params.filter.iter();
                filters.try_for_each(|filter| check_one(filter, schema, "FILTER"))
            }
            Expr::Case(case) if case.expr.is_none() => {
                let mut branches = case.when_then_expr.iter();
                branches.try_for_each(|(when, _)| check_one(when, schema, "WHEN"))
            }
            _ => Ok(()),
        };
        Ok(on_while(&checked))
    });
    checked
}

fn on_while(checked: &Checked<()>) -> TreeNodeRecursion {
    match checked {
        Ok(()) => TreeNodeRecursion::Continue,
        Err(_) => TreeNodeRecursion::Stop,
    }
}

fn check_one(condition: &Expr, schema: &DFSchema, clause: &str) -> Checked<()> {
    let data_type = match condition.get_type(schema) {
        Ok(DataType::Boolean | DataType::Null) => return Ok(()),
        // What has no type is refused with its own reason.
        Err(_) => return Ok(()),
        Ok(other) => other.to_string(),
    };
    let complaint = words::no_condition(clause, name(condition), &data_type);
    Err(complaint.span(columns_span(condition)).word(clause))
}

/// What a person would call it; the names of what a window gives are DataFusion's own.
fn name(condition: &Expr) -> Option<&str> {
    match condition {
        Expr::Column(column) if !column.name.contains('(') => Some(&column.name),
        _ => None,
    }
}
