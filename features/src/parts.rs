//! A statement of very many columns, in parts that are planned one by one.
//!
//! What DataFusion's planner takes grows with the square of a SELECT's items. Each column of a feature view means what
//! it means whatever stands beside it, so that the plans of the parts are the plan of the whole, cut.

use std::collections::HashSet;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    NamedWindowDefinition, Select, SelectItem, SetExpr, Statement as SqlStatement,
};

use crate::slips::select_of;
use crate::windows::used;

/// Items of a part. A statement of no more is planned whole.
pub(crate) const ITEMS: usize = 64;

/// The parts of a view's statement, of [`ITEMS`] items each, with the windows that these are over; none of a statement that
/// is planned whole.
pub(crate) fn of(statement: &Statement) -> Option<Vec<Statement>> {
    let select = select_of(statement)?;
    if select.projection.len() <= ITEMS || !windows_differ(select) {
        return None;
    }
    let mut rest = statement.clone();
    let whole = select_mut(&mut rest)?;
    let items = std::mem::take(&mut whole.projection);
    let windows = std::mem::take(&mut whole.named_window);
    let part = |items: &[SelectItem]| {
        let items = items.to_vec();
        let used = used(&items);
        let is_used =
            |window: &&NamedWindowDefinition| used.contains(&window.0.value.to_lowercase());
        let mut part = rest.clone();
        let select = select_mut(&mut part)?;
        select.named_window = windows.iter().filter(is_used).cloned().collect();
        select.projection = items;
        Some(part)
    };
    items.chunks(ITEMS).map(part).collect()
}

/// Whether each window has a name of its own, in whichever case: a part would not see another one's.
fn windows_differ(select: &Select) -> bool {
    let mut names = HashSet::new();
    let mut windows = select.named_window.iter();
    windows.all(|window| names.insert(window.0.value.to_lowercase()))
}

/// A view's SELECT.
pub(crate) fn select_mut(statement: &mut Statement) -> Option<&mut Select> {
    let Statement::Statement(statement) = statement else {
        return None;
    };
    let SqlStatement::CreateView(view) = statement.as_mut() else {
        return None;
    };
    select_in(&mut view.query.body)
}

fn select_in(body: &mut SetExpr) -> Option<&mut Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => select_in(&mut query.body),
        _ => None,
    }
}
