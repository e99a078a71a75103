//! The columns of a view's answers.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;

use super::query::Query;
use crate::plan::{Planner, Scope, engine_schema};
use crate::problem::{Checked, Complaint};
use crate::stream::Stream;

/// The columns that a view gives.
pub(super) struct Outputs {
    pub(super) exprs: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) schema: SchemaRef,
    pub(super) entity: Vec<usize>,
}

impl Outputs {
    pub(super) fn plan(
        query: &Query<'_>,
        row: &Scope,
        entity: &[usize],
        stream: &Stream,
        planner: &Planner,
    ) -> Checked<Self> {
        let mut exprs = Vec::new();
        let mut entity_outputs = vec![None; entity.len()];
        for (index, expr) in query.projection.iter().copied().enumerate() {
            check_columns(expr, &row.schema).map_err(|c| c.item(Some(index)))?;
            match expr.clone().unalias() {
                Expr::Column(column) => {
                    // The entity's columns come first in a row.
                    if let Some(slot) = row
                        .schema
                        .maybe_index_of_column(&column)
                        .filter(|i| *i < entity.len())
                    {
                        entity_outputs[slot] = Some(index);
                    } else {
                        check_named(expr).map_err(|c| c.item(Some(index)))?;
                    }
                }
                _ => check_named(expr).map_err(|c| c.item(Some(index)))?,
            }
            let physical = planner.physical(&expr.clone().unalias(), row);
            exprs.push(physical.map_err(|c| c.item(Some(index)))?);
        }
        let missing = entity_outputs.iter().position(Option::is_none);
        if let Some(column) = missing.and_then(|slot| entity.get(slot)) {
            let name = stream.schema.field(*column).name();
            return Err(
                Complaint::new(format!("the view does not select its entity '{name}'"))
                    .hint(format!("add {name} to SELECT: look-ups and joins name it")),
            );
        }
        let entity = entity_outputs.into_iter().flatten().collect();
        Ok(Self {
            exprs,
            schema: nullable(&engine_schema(&query.output)),
            entity,
        })
    }
}

/// Whether an event's own value or nothing at all decides an output.
fn check_columns(expr: &Expr, row: &DFSchema) -> Checked<()> {
    let mut culprit = None;
    // The closure never fails, so neither does the walk.
    let _ = expr.apply(|node| {
        if let Expr::Column(column) = node
            && row.maybe_index_of_column(column).is_none()
        {
            culprit = Some(column.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match culprit {
        Some(column) => Err(Complaint::new(format!(
            "'{}' is a column of one event, and an answer has no event of its own",
            column.name
        ))
        .hint(format!(
            "aggregate it, e.g. last_value({0}) OVER (…) AS last_{0}, or use it in inputs.sql",
            column.name
        ))
        .span(column.spans.first())),
        None => Ok(()),
    }
}

/// DataFusion names a window expression by its text, which every feature without a name of its own has in its own.
fn check_named(expr: &Expr) -> Checked<()> {
    if expr.schema_name().to_string().contains("PARTITION BY [") {
        return Err(Complaint::new("a feature needs a name").hint("add AS name"));
    }
    Ok(())
}

/// Every column may be null: an entity without events has none to aggregate.
pub(crate) fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
