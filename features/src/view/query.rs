//! The plan of a view, taken apart: what it selects, over which windows, of which stream.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::{DFSchema, DFSchemaRef, TableReference};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;

use crate::plan::Planner;
use crate::problem::{Checked, Complaint};

/// The parts of a view's plan: projection over windows over an optional filter over a stream.
pub(super) struct Query<'a> {
    pub(super) projection: &'a [Expr],
    pub(super) output: &'a DFSchemaRef,
    pub(super) windows: Vec<((Option<TableReference>, Arc<Field>), &'a WindowFunction)>,
    filters: Vec<&'a Expr>,
    pub(super) source: DFSchemaRef,
    pub(super) table: String,
}

impl<'a> Query<'a> {
    pub(super) fn read(plan: &'a LogicalPlan) -> Checked<Self> {
        let LogicalPlan::Projection(projection) = plan else {
            return Err(unsupported(plan));
        };
        let mut windows = Vec::new();
        let mut node = projection.input.as_ref();
        while let LogicalPlan::Window(window) = node {
            let first = window.input.schema().fields().len();
            for (index, expr) in window.window_expr.iter().enumerate() {
                let (qualifier, field) = window.schema.qualified_field(first + index);
                windows.push((
                    (qualifier.cloned(), Arc::clone(field)),
                    window_function(expr)?,
                ));
            }
            node = window.input.as_ref();
        }
        let mut filters = Vec::new();
        while let LogicalPlan::Filter(filter) = node {
            filters.push(&filter.predicate);
            node = filter.input.as_ref();
        }
        if windows.is_empty() {
            return Err(match node {
                LogicalPlan::TableScan(_) | LogicalPlan::SubqueryAlias(_) => no_window(),
                other => unsupported(other),
            });
        }
        let table = source_table(node)?;
        Ok(Self {
            projection: &projection.expr,
            output: &projection.schema,
            windows,
            filters,
            source: Arc::clone(node.schema()),
            table,
        })
    }

    /// The item of SELECT that uses a window.
    pub(super) fn item_of(&self, window: &WindowFunction) -> Option<usize> {
        let ((_, field), _) = self
            .windows
            .iter()
            .find(|(_, other)| std::ptr::eq(*other, window))?;
        self.projection.iter().position(|expr| {
            expr.column_refs()
                .iter()
                .any(|column| column.name == *field.name())
        })
    }

    pub(super) fn predicate(&self, planner: &Planner) -> Checked<Option<Arc<dyn PhysicalExpr>>> {
        let all = self.filters.iter().copied().cloned().reduce(Expr::and);
        all.map(|expr| planner.physical(&expr, &self.source))
            .transpose()
    }

    /// Entity columns, then windows, then the event time: in an answer, the time asked for.
    pub(super) fn row_schema(&self, entity: &[usize], time: usize) -> Checked<DFSchema> {
        let column = |index: &usize| {
            let (qualifier, field) = self.source.qualified_field(*index);
            (qualifier.cloned(), Arc::clone(field))
        };
        let windows = self.windows.iter().map(|(field, _)| field.clone());
        let fields = entity
            .iter()
            .map(column)
            .chain(windows)
            .chain([column(&time)]);
        let fields = fields.map(|(qualifier, field)| {
            (
                qualifier,
                Arc::new(field.as_ref().clone().with_nullable(true)),
            )
        });
        DFSchema::new_with_metadata(fields.collect(), HashMap::new())
            .map_err(|e| Complaint::new(e.strip_backtrace()))
    }
}

fn window_function(expr: &Expr) -> Checked<&WindowFunction> {
    match expr {
        Expr::WindowFunction(window) => Ok(window),
        Expr::Alias(alias) => window_function(&alias.expr),
        other => Err(Complaint::new(format!(
            "'{other}' is not a window aggregate"
        ))),
    }
}

fn source_table(node: &LogicalPlan) -> Checked<String> {
    match node {
        LogicalPlan::TableScan(scan) => Ok(scan.table_name.table().to_owned()),
        LogicalPlan::SubqueryAlias(alias) => source_table(&alias.input),
        other => Err(unsupported(other)),
    }
}

fn no_window() -> Complaint {
    Complaint::new("a feature view needs at least one window aggregate").hint(
        "count(*) OVER (PARTITION BY card_id ORDER BY event_time \
         RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS tx_count_1h",
    )
}

fn unsupported(plan: &LogicalPlan) -> Complaint {
    let (what, hint) = match plan {
        LogicalPlan::Aggregate(_) => (
            "GROUP BY gives one row a group, and a feature is asked for at a time",
            "use count(*) OVER (PARTITION BY … ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' \
             PRECEDING AND CURRENT ROW)",
        ),
        LogicalPlan::Join(_) => (
            "a feature view reads one stream, without joins",
            "make one view a stream, and join the views in inputs.sql",
        ),
        _ => (
            "this query cannot be kept up incrementally",
            "SELECT entity, aggregate OVER window, … FROM stream [WHERE …] WINDOW …",
        ),
    };
    Complaint::new(what).hint(hint)
}

/// A feature view over a view.
pub(crate) fn not_a_stream(table: &str) -> Complaint {
    Complaint::new(format!(
        "a feature view reads a stream, and '{table}' is a view"
    ))
    .hint("compute it in one view over the stream, or join the views in inputs.sql")
}
