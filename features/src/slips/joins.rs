//! Joins of a view of inputs that are on something else than an entity.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Join, JoinConstraint, JoinOperator, Select, TableFactor,
};

use super::{Slips, column_name, expression, relation_name};
use crate::problem::{Complaint, sql_span};
use crate::stream::table_name;
use crate::view::FeatureView;

impl Slips<'_> {
    /// Views are joined on their entities.
    pub(super) fn wrong_join(&self, select: &Select) -> Option<Complaint> {
        let names = select.from.iter().flat_map(|from| {
            let joined = from.joins.iter().map(|join| &join.relation);
            std::iter::once(&from.relation).chain(joined)
        });
        let mut known: Vec<String> = Vec::new();
        for relation in names {
            let Some(name) = alias_name(relation) else {
                continue;
            };
            if known.contains(&name) {
                return Some(
                    Complaint::new(format!("two of the joined tables are named '{name}'"))
                        .hint("give each a name of its own: JOIN card_activity c")
                        .span(sql_span(relation)),
                );
            }
            known.push(name);
        }
        let first = select.from.first().map(|from| &from.relation)?;
        if self.way(first).is_some() {
            return Some(
                Complaint::new("no stream stands first in FROM: there is no event to score")
                    .hint("start with FROM transactions t, and join the feature views")
                    .span(sql_span(first)),
            );
        }
        let using = using_columns(select);
        let joins = || select.from.iter().flat_map(|from| &from.joins);
        let comma = select.from.iter().skip(1).map(|from| &from.relation);
        (joins().find_map(|join| self.wrong_condition(join, &using)))
            .or_else(|| comma.into_iter().find_map(|to| self.not_joined(to)))
    }

    fn wrong_condition(&self, join: &Join, using: &[String]) -> Option<Complaint> {
        let relation = &join.relation;
        let name = relation_name(relation);
        if self
            .streams
            .iter()
            .any(|stream| Some(&stream.name) == name.as_ref())
        {
            return Some(
                Complaint::new("two streams are joined, and an event comes from one")
                    .hint("make a feature view of the other stream, and join the view")
                    .span(sql_span(relation)),
            );
        }
        match constraint(&join.join_operator)? {
            JoinConstraint::Using(columns) => {
                let (view, way) = self.way(relation)?;
                let wrong = columns.iter().find(|column| {
                    let name = table_name(&column.to_string());
                    !view.entity_columns().any(|entity| entity == name)
                })?;
                Some(
                    Complaint::new(format!(
                        "view '{}' is of {}, and is joined on '{wrong}'",
                        view.name,
                        entity(view)
                    ))
                    .hint(way)
                    .span(sql_span(wrong)),
                )
            }
            JoinConstraint::On(condition) => {
                let hint = match self.way(relation) {
                    Some((_, way)) => way,
                    None => "JOIN card_activity c USING (card_id)".to_owned(),
                };
                if !sets_columns_equal(condition) {
                    return Some(
                        Complaint::new(format!(
                            "a view is joined on its entity's columns, and this is '{condition}'"
                        ))
                        .hint(hint)
                        .span(sql_span(condition)),
                    );
                }
                // ON leaves both columns, and USING cannot choose between them.
                let both = using.iter().find(|name| sets_both(condition, name))?;
                Some(
                    Complaint::new(format!(
                        "ON leaves two columns '{both}', and another join is USING ({both})"
                    ))
                    .hint(hint)
                    .span(sql_span(condition)),
                )
            }
            JoinConstraint::None => self.not_joined(relation),
            JoinConstraint::Natural => None,
        }
    }

    fn not_joined(&self, relation: &TableFactor) -> Option<Complaint> {
        let (view, way) = self.way(relation)?;
        Some(
            Complaint::new(format!(
                "view '{}' is not joined on its entity {}",
                view.name,
                entity(view)
            ))
            .hint(way)
            .span(sql_span(relation)),
        )
    }

    /// The view that is joined, and how it can be.
    fn way(&self, relation: &TableFactor) -> Option<(&FeatureView, String)> {
        let name = relation_name(relation)?;
        let view = self.views.iter().find(|view| view.name == name)?;
        let columns: Vec<&str> = view.entity_columns().collect();
        let way = format!("JOIN {relation} USING ({})", columns.join(", "));
        Some((view, way))
    }
}

/// `'card_id'`, or `'card_id', 'device_id'`.
fn entity(view: &FeatureView) -> String {
    let columns = view.entity_columns().map(|column| format!("'{column}'"));
    columns.collect::<Vec<_>>().join(", ")
}

/// What a joined table is called in the query.
fn alias_name(relation: &TableFactor) -> Option<String> {
    match relation {
        TableFactor::Table {
            alias: Some(alias), ..
        } => Some(table_name(&alias.name.to_string())),
        other => relation_name(other),
    }
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::CrossJoin(constraint) => Some(constraint),
        _ => None,
    }
}

/// The columns that some join is USING.
fn using_columns(select: &Select) -> Vec<String> {
    let joins = select.from.iter().flat_map(|from| &from.joins);
    joins
        .filter_map(|join| match constraint(&join.join_operator)? {
            JoinConstraint::Using(columns) => Some(columns),
            _ => None,
        })
        .flatten()
        .map(|column| table_name(&column.to_string()))
        .collect()
}

/// Whether a condition says of columns that they are equal, and no more.
fn sets_columns_equal(condition: &Expr) -> bool {
    match condition {
        Expr::Nested(inner) => sets_columns_equal(inner),
        Expr::BinaryOp { left, op, right } => match op {
            BinaryOperator::And => sets_columns_equal(left) && sets_columns_equal(right),
            BinaryOperator::Eq => column_name(left).is_some() && column_name(right).is_some(),
            _ => false,
        },
        _ => false,
    }
}

/// Whether a condition names a column of that name on both sides of an `=`.
fn sets_both(condition: &Expr, name: &str) -> bool {
    let is_both = |expr: &Expr| match expr {
        Expr::BinaryOp { left, right, .. } => [left, right]
            .iter()
            .all(|side| column_name(side).as_deref() == Some(name)),
        _ => false,
    };
    expression(condition, is_both).is_some()
}
