//! DataFusion's planner, as a project uses it: its own dialect, its type rules, and positions for messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, DataFusionError, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;

use crate::comparisons;
use crate::conditions;
use crate::decay;
use crate::lengths;
use crate::problem::{Checked, Complaint, near};
use crate::walk;
use crate::words;

/// The columns that an expression may name, and no row of them.
pub(crate) struct Scope {
    pub(crate) schema: DFSchemaRef,
    /// Made once: it takes as long as the columns are many, and is asked for each expression.
    none: RecordBatch,
}

impl Scope {
    pub(crate) fn new(schema: DFSchemaRef) -> Self {
        let none = RecordBatch::new_empty(Arc::new(schema.as_arrow().clone()));
        Self { schema, none }
    }
}

/// Plans statements against the streams and views that are known so far.
pub(crate) struct Planner {
    context: SessionContext,
    names: Vec<String>,
}

impl Planner {
    pub(crate) fn new() -> Self {
        let config = SessionConfig::new()
            .set_bool("datafusion.sql_parser.collect_spans", true)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        let context = SessionContext::new_with_config(config);
        decay::functions()
            .into_iter()
            .for_each(|function| context.register_udaf(function));
        Self {
            context,
            names: Vec::new(),
        }
    }

    /// Makes a stream or a view known to later statements.
    pub(crate) fn register(&mut self, name: &str, schema: SchemaRef) -> Checked<()> {
        self.check_new(name)?;
        let table = Arc::new(EmptyTable::new(schema));
        self.context
            // As it is: a text would be read as SQL, in lower case where it is not in quotes.
            .register_table(TableReference::bare(name), table)
            .map_err(|e| self.complaint(&e))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Refuses a name that a stream or a view has already, in whichever case: most people would read one for the other.
    pub(crate) fn check_new(&self, name: &str) -> Checked<()> {
        let folded = name.to_lowercase();
        let is_same = |known: &&String| known.to_lowercase() == folded;
        let message = match self.names.iter().find(is_same) {
            None => return Ok(()),
            Some(known) if known == name => format!("'{name}' is declared twice"),
            Some(known) => {
                format!("'{name}' and '{known}', which is declared before it, differ in case alone")
            }
        };
        Err(Complaint::new(message).hint("every stream and every view has a name of its own"))
    }

    /// The logical plan of a statement, as written: not yet type-checked.
    pub(crate) fn logical_plan(&self, statement: Statement) -> Checked<LogicalPlan> {
        let state = self.context.state();
        // Planning awaits nothing but the catalog, which is in memory.
        futures::executor::block_on(state.statement_to_plan(statement))
            .map_err(|e| self.complaint(&e))
    }

    /// The same plan with DataFusion's type coercion applied.
    pub(crate) fn typed(&self, plan: LogicalPlan) -> Checked<LogicalPlan> {
        walk::each(&plan, |expr, schema| {
            lengths::check(expr)?;
            conditions::check(expr, schema)?;
            comparisons::check(expr, schema)
        })?;
        let state = self.context.state();
        state
            .analyzer()
            .execute_and_check(plan, state.config_options(), |_, _| {})
            .map_err(|e| self.complaint(&e))
    }

    pub(crate) fn physical(&self, expr: &Expr, scope: &Scope) -> Checked<Arc<dyn PhysicalExpr>> {
        deterministic(expr)?;
        self.simplified(expr, &scope.schema)
            .and_then(|expr| self.state().create_physical_expr(expr, &scope.schema))
            .and_then(|expr| {
                // Some functions look at their literals when they are called: date_part('huor', …) fails on no row too.
                expr.evaluate(&scope.none)?;
                Ok(expr)
            })
            .map_err(|e| self.complaint(&e))
    }

    /// Some of DataFusion's functions (coalesce, for one) are evaluated only in the simpler form that its optimizer
    /// gives them.
    fn simplified(&self, expr: &Expr, schema: &DFSchemaRef) -> Result<Expr, DataFusionError> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(schema))
            .with_config_options(Arc::clone(self.state().config_options()))
            .build();
        let simplifier = ExprSimplifier::new(context);
        simplifier.simplify(simplifier.coerce(expr.clone(), schema)?)
    }

    pub(crate) fn complaint(&self, error: &DataFusionError) -> Complaint {
        let text = error.find_root().strip_backtrace();
        match unknown_function(&text) {
            Some(name) => Complaint::new(format!("there is no function '{name}'"))
                .hint(self.known_functions(name))
                .named(error.diagnostic().and_then(|d| d.span))
                .word(name),
            None => words::complaint(error, &self.names),
        }
    }

    /// Whether there is an aggregate of that name.
    pub(crate) fn is_aggregate(&self, name: &str) -> bool {
        self.state().aggregate_functions().contains_key(name)
    }

    /// Whether there is a function of one row's values of that name.
    pub(crate) fn is_scalar(&self, name: &str) -> bool {
        self.state().scalar_functions().contains_key(name)
    }

    /// The function that one may have meant, or else the aggregates that there are.
    fn known_functions(&self, wrong: &str) -> String {
        let wrong = wrong.to_lowercase();
        if let Some((_, meant)) = ELSEWHERE
            .iter()
            .find(|(names, _)| names.contains(&wrong.as_str()))
        {
            return format!("write {meant}");
        }
        let state = self.state();
        let (aggregates, scalars) = (state.aggregate_functions(), state.scalar_functions());
        let all: Vec<&str> = (aggregates.keys().chain(scalars.keys()))
            .map(String::as_str)
            .collect();
        if let Some(near) = near(&wrong, &all) {
            return format!("did you mean '{near}'?");
        }
        let names: BTreeSet<&str> = aggregates
            .values()
            .map(|function| function.name())
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        format!("the aggregates are {}", names.join(", "))
    }

    fn state(&self) -> SessionState {
        self.context.state()
    }
}

/// The name in DataFusion's "Invalid function 'x'."
fn unknown_function(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("Invalid function '")?;
    rest.split_once('\'').map(|(name, _)| name)
}

/// What functions of other systems are here.
const ELSEWHERE: [(&[&str], &str); 13] = [
    (&["average"], "avg(x)"),
    (&["std", "stdev"], "stddev(x)"),
    (&["variance"], "var_samp(x)"),
    (
        &[
            "percentile",
            "quantile",
            "approx_quantile",
            "percentile_approx",
        ],
        "approx_percentile_cont(x, 0.9)",
    ),
    (
        &["nunique", "count_distinct", "countdistinct", "uniq"],
        "count(DISTINCT x), or approx_distinct(x) where there are many",
    ),
    (&["first"], "first_value(x)"),
    (&["last", "latest"], "last_value(x)"),
    (&["countif", "count_if"], "count(*) FILTER (WHERE …)"),
    (&["sumif", "sum_if"], "sum(x) FILTER (WHERE …)"),
    (&["len"], "length(x)"),
    (&["if", "iff"], "CASE WHEN … THEN 1 ELSE 0 END"),
    (
        &["hour", "weekday", "dayofweek", "to_hour"],
        "date_part('hour', t), or 'dow' for the day of the week",
    ),
    (
        &["datediff", "date_diff", "timestampdiff", "unix_timestamp"],
        "date_part('epoch', a) - date_part('epoch', b), in seconds",
    ),
];

/// Refuses what would make an answer depend on anything but the events.
fn deterministic(expr: &Expr) -> Checked<()> {
    let mut culprit = None;
    // The closure never fails, so neither does the walk.
    let _ = expr.apply(|node| {
        if let Expr::ScalarFunction(call) = node
            && call.func.signature().volatility != Volatility::Immutable
        {
            culprit = Some(call.func.name().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match culprit {
        Some(name) => Err(Complaint::new(format!(
            "{name}() answers differently each time it is called, so a feature may not use it"
        ))
        .hint("a feature is a fact about the events: use the event's own columns")),
        None => Ok(()),
    }
}

/// The types that streams and answers use: times in UTC microseconds, strings as `Utf8`.
pub(crate) fn engine_schema(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| {
        Field::new(
            field.name(),
            engine_type(field.data_type()),
            field.is_nullable(),
        )
    };
    Arc::new(Schema::new(
        schema.fields().iter().map(field).collect::<Vec<_>>(),
    ))
}

fn engine_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        other => other.clone(),
    }
}
