//! The plan of a view, taken apart: what it selects, over which windows, of which stream.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::common::{DFSchema, TableReference};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;

use crate::plan::{Planner, Scope};
use crate::problem::{Checked, Complaint};

/// The parts of a view's plan: projection over windows over an optional filter over a stream.
pub(super) struct Query<'a> {
    pub(super) projection: Vec<&'a Expr>,
    pub(super) output: Schema,
    pub(super) windows: Vec<((Option<TableReference>, Arc<Field>), &'a WindowFunction)>,
    filters: Vec<&'a Expr>,
    pub(super) source: Scope,
    pub(super) table: String,
}

impl<'a> Query<'a> {
    /// Of several plans, each is of a part of one statement: they differ in what they select alone.
    pub(super) fn read(plans: &'a [LogicalPlan]) -> Checked<Self> {
        let mut projection: Vec<&'a Expr> = Vec::new();
        let mut fields: Vec<Arc<Field>> = Vec::new();
        let mut windows = Vec::new();
        let mut known: HashMap<&str, &WindowFunction> = HashMap::new();
        let mut nodes = Vec::new();
        for plan in plans {
            let LogicalPlan::Projection(selected) = plan else {
                return Err(unsupported(plan));
            };
            projection.extend(&selected.expr);
            fields.extend(selected.schema.fields().iter().cloned());
            let mut node = selected.input.as_ref();
            while let LogicalPlan::Window(window) = node {
                let first = window.input.schema().fields().len();
                for (index, expr) in window.window_expr.iter().enumerate() {
                    let (qualifier, field) = window.schema.qualified_field(first + index);
                    let function = window_function(expr)?;
                    // Another part may have it too.
                    if known.get(field.name().as_str()) != Some(&function) {
                        known.insert(field.name(), function);
                        windows.push(((qualifier.cloned(), Arc::clone(field)), function));
                    }
                }
                node = window.input.as_ref();
            }
            nodes.push(node);
        }
        let (mut node, others) = match nodes.as_slice() {
            [first, others @ ..] => (*first, others),
            [] => return Err(no_window()),
        };
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
        for other in others {
            source_table(unfiltered(other))?;
        }
        check_names(&fields)?;
        Ok(Self {
            projection,
            output: Schema::new(fields),
            windows,
            filters,
            source: Scope::new(Arc::clone(node.schema())),
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
            let (qualifier, field) = self.source.schema.qualified_field(*index);
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

/// Whether the windows of all parts of a statement are of one order: then they come in that of its items, as they would
/// from the whole.
pub(crate) fn is_of_one_order(plans: &[LogicalPlan]) -> bool {
    let mut first: Option<&WindowFunction> = None;
    plans.iter().all(|plan| {
        let LogicalPlan::Projection(selected) = plan else {
            return false;
        };
        let LogicalPlan::Window(window) = selected.input.as_ref() else {
            // Columns of the entity alone.
            return true;
        };
        let function = window.window_expr.first().map(window_function);
        let (Some(Ok(function)), false) = (
            function,
            matches!(window.input.as_ref(), LogicalPlan::Window(_)),
        ) else {
            return false;
        };
        let (of, first) = (&function.params, &first.get_or_insert(function).params);
        of.partition_by == first.partition_by && of.order_by == first.order_by
    })
}

/// Where a plan has several columns of one name, DataFusion does not make it; plans of parts know nothing of each other.
fn check_names(fields: &[Arc<Field>]) -> Checked<()> {
    let mut known = HashSet::new();
    match fields.iter().find(|field| !known.insert(field.name())) {
        None => Ok(()),
        Some(field) => Err(Complaint::new(format!(
            "two columns of the view are named '{}'",
            field.name()
        ))
        .hint(format!(
            "give one of them another name: AS {}_2",
            field.name()
        ))),
    }
}

/// What stands under the filters of a plan.
fn unfiltered(mut node: &LogicalPlan) -> &LogicalPlan {
    while let LogicalPlan::Filter(filter) = node {
        node = filter.input.as_ref();
    }
    node
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
