//! DataFusion's planner, as a project uses it: its own dialect, its type rules, and positions for messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;

use crate::decay;
use crate::problem::{Checked, Complaint, near};

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
        if self.names.iter().any(|known| known == name) {
            return Err(Complaint::new(format!("'{name}' is declared twice"))
                .hint("every stream and every view has a name of its own"));
        }
        let table = Arc::new(EmptyTable::new(schema));
        self.context
            .register_table(name, table)
            .map_err(|e| Complaint::from_datafusion(&e, &self.names))?;
        self.names.push(name.to_owned());
        Ok(())
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
        let state = self.context.state();
        state
            .analyzer()
            .execute_and_check(plan, state.config_options(), |_, _| {})
            .map_err(|e| self.complaint(&e))
    }

    pub(crate) fn physical(
        &self,
        expr: &Expr,
        schema: &DFSchema,
    ) -> Checked<Arc<dyn PhysicalExpr>> {
        deterministic(expr)?;
        self.simplified(expr, schema)
            .and_then(|expr| self.state().create_physical_expr(expr, schema))
            .map_err(|e| self.complaint(&e))
    }

    /// Some of DataFusion's functions (coalesce, for one) are evaluated only in the simpler form that its optimizer
    /// gives them.
    fn simplified(&self, expr: &Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(self.state().config_options()))
            .build();
        let simplifier = ExprSimplifier::new(context);
        simplifier.simplify(simplifier.coerce(expr.clone(), schema)?)
    }

    pub(crate) fn complaint(&self, error: &DataFusionError) -> Complaint {
        let complaint = Complaint::from_datafusion(error, &self.names);
        match complaint
            .unknown_function()
            .map(|name| self.known_functions(name))
        {
            Some(hint) => complaint.hint(hint),
            None => complaint,
        }
    }

    /// The function that one may have meant, or else the aggregates that there are.
    fn known_functions(&self, wrong: &str) -> String {
        let state = self.state();
        let (aggregates, scalars) = (state.aggregate_functions(), state.scalar_functions());
        let all: Vec<&str> = (aggregates.keys().chain(scalars.keys()))
            .map(String::as_str)
            .collect();
        if let Some(near) = near(&wrong.to_lowercase(), &all) {
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
