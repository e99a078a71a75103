//! A walk over a view's plan as it is written. DataFusion's type rules are not in it yet: what they would cast without a
//! word is seen here.

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::problem::Checked;

/// Asks `check` about each expression of a plan and all that stands inside it, with the columns that it may name.
///
/// # Errors
/// The first complaint. What a join compares is not asked about: `inputs.rs` has its own rules for that.
pub(crate) fn each(
    plan: &LogicalPlan,
    mut check: impl FnMut(&Expr, &DFSchema) -> Checked<()>,
) -> Checked<()> {
    let mut checked = Ok(());
    // The closures never fail, so neither do the walks.
    let _ = plan.apply(|node| {
        let schema = match node.inputs().as_slice() {
            [] => node.schema(),
            [input] => input.schema(),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        for written in node.expressions() {
            let _ = written.apply(|expr| {
                checked = check(expr, schema);
                Ok(on_while(&checked))
            });
            if checked.is_err() {
                break;
            }
        }
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

/// What a person would call an expression that is a column; the names of what a window gives are DataFusion's own.
pub(crate) fn name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) if !column.name.contains('(') => Some(&column.name),
        _ => None,
    }
}
