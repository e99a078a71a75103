//! Windows with a name that nothing is over.
//!
//! A plan has nothing of them, so what is wrong with one would be seen on the day that it is used. They are judged by a
//! view that has one aggregate more over each.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, NamedWindowDefinition, Select, SelectItem, Visit, WindowType, visit_expressions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// The windows of a SELECT that none of its items is over.
pub(crate) fn unused(select: &Select) -> Vec<&NamedWindowDefinition> {
    let used = used(&select.projection);
    let is_unused =
        |window: &&NamedWindowDefinition| !used.contains(&window.0.value.to_lowercase());
    select.named_window.iter().filter(is_unused).collect()
}

/// The names of the windows, in lower case, that a piece of syntax is over.
pub(crate) fn used(syntax: &impl Visit) -> HashSet<String> {
    let mut used = HashSet::new();
    let _ = visit_expressions(syntax, |expr| {
        if let Expr::Function(function) = expr
            && let Some(WindowType::NamedWindow(name)) = &function.over
        {
            used.insert(name.value.to_lowercase());
        }
        ControlFlow::<()>::Continue(())
    });
    used
}

/// An aggregate over each of them.
pub(crate) fn over_unused(select: &Select) -> Vec<SelectItem> {
    let windows = unused(select).into_iter().enumerate();
    windows
        .filter_map(|(number, window)| {
            let call = format!("count(*) OVER {}", window.0);
            let parser = Parser::new(&GenericDialect {}).try_with_sql(&call);
            Some(SelectItem::ExprWithAlias {
                expr: parser.ok()?.parse_expr().ok()?,
                alias: Ident::with_quote('"', format!("unused window {number}")),
            })
        })
        .collect()
}
