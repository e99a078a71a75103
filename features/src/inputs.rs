//! The inputs of a model: an event of a stream joined with the answers of feature views as of its time.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int64Type, SchemaRef, TimestampMicrosecondType,
};
use datafusion::common::{Column, DFSchemaRef, JoinType};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;

use crate::FeatureError;
use crate::answer::{batch, outputs_on};
use crate::category::category_code;
use crate::plan::{Planner, Scope, engine_schema};
use crate::problem::{Checked, Complaint};
use crate::state::StateReader;
use crate::stream::Stream;
use crate::tile::Tile;
use crate::view::{FeatureView, nullable, with_columns};

/// A planned view of a model's inputs.
#[derive(Debug)]
pub struct InputView {
    /// Its name in SQL.
    pub name: String,
    /// The stream whose events are scored.
    pub stream: Arc<Stream>,
    /// The inputs, each a number, a boolean, or a text (`Utf8`), which is a category.
    pub schema: SchemaRef,
    joins: Vec<ViewJoin>,
    columns: Vec<Source>,
    row_schema: SchemaRef,
    outputs: Vec<Arc<dyn PhysicalExpr>>,
}

#[derive(Debug)]
struct ViewJoin {
    view: Arc<FeatureView>,
    /// Columns of the stream that give the view's entity.
    keys: Vec<usize>,
}

/// Where a column of the joined row comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Event { column: usize },
    View { join: usize, column: usize },
}

impl InputView {
    /// Names of the inputs, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
    }

    /// Of each input, in order, whether it is a text: its values are categories and have no order.
    pub fn are_texts(&self) -> impl Iterator<Item = bool> {
        let fields = self.schema.fields().iter();
        fields.map(|field| field.data_type() == &DataType::Utf8)
    }

    /// What the inputs mean, as text: the same text, the same inputs of the same events. What else the views and
    /// streams have does not matter to it.
    #[must_use]
    pub fn definition(&self) -> String {
        let mut text = self.stream.name.clone();
        for (meaning, field) in self.meanings().iter().zip(self.schema.fields()) {
            let _ = write!(text, "\n{} {meaning}", field.name());
        }
        text
    }

    /// What each input means, as [`definition`](Self::definition) has it.
    #[must_use]
    pub fn meanings(&self) -> Vec<String> {
        let column = |index: usize| match self.columns[index] {
            Source::Event { column } => self.stream.schema.field(column).name().clone(),
            Source::View { join, column } => {
                let join = &self.joins[join];
                let key = |column: &usize| self.stream.schema.field(*column).name().as_str();
                let keys: Vec<&str> = join.keys.iter().map(key).collect();
                format!(
                    "[{} by {}]",
                    join.view.output_meaning(column),
                    keys.join(", ")
                )
            }
        };
        let outputs = self.outputs.iter().zip(self.schema.fields());
        outputs
            .map(|(output, field)| {
                let output = with_columns(output, &column);
                format!("{} = {output}", field.data_type())
            })
            .collect()
    }

    /// The feature views that the inputs use.
    pub fn views(&self) -> impl Iterator<Item = &Arc<FeatureView>> {
        self.joins.iter().map(|join| &join.view)
    }

    /// The columns of the stream that name an entity of one of the views, each once, in the stream's order.
    #[must_use]
    pub fn entity_columns(&self) -> Vec<usize> {
        let keys = self.joins.iter().flat_map(|join| &join.keys);
        let columns: std::collections::BTreeSet<usize> = keys.copied().collect();
        columns.into_iter().collect()
    }

    /// Names of the feature views whose entity a column of the stream names, or a part of it.
    #[must_use]
    pub fn views_by(&self, column: usize) -> Vec<String> {
        let joins = self.joins.iter();
        let by = joins.filter(|join| join.keys.contains(&column));
        by.map(|join| join.view.name.clone()).collect()
    }

    /// Names of the feature views that an input is computed from, by the input's place.
    #[must_use]
    pub fn views_of(&self, input: usize) -> Vec<String> {
        let columns = collect_columns(&self.outputs[input]);
        let mut views: Vec<String> = columns
            .iter()
            .filter_map(|column| match self.columns[column.index()] {
                Source::View { join, .. } => Some(self.joins[join].view.name.clone()),
                Source::Event { .. } => None,
            })
            .collect();
        views.sort();
        views.dedup();
        views
    }

    /// The inputs of each event as of its own time: one row a row of `events`, in the view's schema.
    ///
    /// # Errors
    /// As [`FeatureView::answer`].
    pub fn evaluate(
        &self,
        state: &dyn StateReader,
        events: &RecordBatch,
    ) -> Result<RecordBatch, FeatureError> {
        self.evaluate_and_sum_up(state, events, &mut |_| ())
    }

    /// As [`evaluate`](Self::evaluate), with the tiles of [`FeatureView::answer_and_sum_up`].
    ///
    /// # Errors
    /// As [`FeatureView::answer`].
    pub fn evaluate_and_sum_up(
        &self,
        state: &dyn StateReader,
        events: &RecordBatch,
        tiles: &mut dyn FnMut(Tile),
    ) -> Result<RecordBatch, FeatureError> {
        let times = events
            .column(self.stream.time)
            .as_primitive::<TimestampMicrosecondType>();
        let answers = self
            .joins
            .iter()
            .map(|join| {
                let keys: Vec<ArrayRef> = join
                    .keys
                    .iter()
                    .map(|column| Arc::clone(events.column(*column)))
                    .collect();
                join.view
                    .answer_and_sum_up(state, &keys, times.values(), tiles)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let columns = self.columns.iter().map(|source| match *source {
            Source::Event { column } => Arc::clone(events.column(column)),
            Source::View { join, column } => Arc::clone(answers[join].column(column)),
        });
        self.project(columns.collect(), events.num_rows())
    }

    fn project(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, FeatureError> {
        let context = |e| FeatureError::evaluate(format!("inputs '{}'", self.name))(e);
        let row = batch(&self.row_schema, columns, rows).map_err(context)?;
        outputs_on(&self.outputs, &row, &self.schema).map_err(context)
    }

    /// Inputs as a row-major matrix of `rows × names`, null and NaN alike as NaN, a text as its [`category_code`].
    ///
    /// It is the one place where inputs become what a model sees: when an event is scored, and so in what is learned.
    ///
    /// # Errors
    /// [`FeatureError::Arguments`] when `inputs` is not of the view's schema.
    pub fn matrix(&self, inputs: &RecordBatch) -> Result<Vec<f32>, FeatureError> {
        let width = inputs.num_columns();
        let mut matrix = vec![f32::NAN; inputs.num_rows() * width];
        for (index, column) in inputs.columns().iter().enumerate() {
            let mut set = |row: usize, value: f32| matrix[row * width + index] = value;
            // What most inputs are, without an array between.
            if let Some(values) = column.as_primitive_opt::<Float64Type>() {
                valid(values).for_each(|row| set(row, values.value(row) as f32));
                continue;
            }
            if let Some(values) = column.as_primitive_opt::<Int64Type>() {
                valid(values).for_each(|row| set(row, values.value(row) as f32));
                continue;
            }
            if let Some(texts) = column.as_string_opt::<i32>() {
                valid(texts).for_each(|row| set(row, category_code(texts.value(row))));
                continue;
            }
            let values = cast(column, &DataType::Float32)
                .map_err(|e| FeatureError::Arguments(e.to_string()))?;
            let values = values.as_primitive::<Float32Type>();
            valid(values).for_each(|row| set(row, values.value(row)));
        }
        Ok(matrix)
    }

    pub(crate) fn plan(
        name: &str,
        plan: &LogicalPlan,
        streams: &[Arc<Stream>],
        views: &[Arc<FeatureView>],
        planner: &Planner,
    ) -> Checked<Arc<Self>> {
        let LogicalPlan::Projection(projection) = plan else {
            return Err(unsupported());
        };
        let source = projection.input.schema();
        let mut leaves = Leaves {
            streams,
            views,
            stream: None,
            joins: Vec::new(),
            columns: Vec::new(),
        };
        let mut equal = Vec::new();
        leaves.walk(&projection.input, &mut equal)?;
        let stream = leaves.stream.clone().ok_or_else(no_stream)?;
        let equal = Equalities::new(source, &equal, planner)?;
        let joins = leaves.joins(&equal)?;
        let schema = nullable(&engine_schema(projection.schema.as_arrow()));
        for (index, field) in schema.fields().iter().enumerate() {
            check_type(field).map_err(|c| c.item(Some(index)))?;
            if field.data_type() == &DataType::Utf8
                && is_id(&projection.expr[index], source, &leaves)
            {
                return Err(id_of_event(field.name()).item(Some(index)));
            }
        }
        let scope = Scope::new(Arc::clone(source));
        let outputs = projection
            .expr
            .iter()
            .enumerate()
            .map(|(index, expr)| {
                let expr = expr.clone().unalias();
                planner
                    .physical(&expr, &scope)
                    .map_err(|c| c.item(Some(index)))
            })
            .collect::<Checked<Vec<_>>>()?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            stream,
            schema,
            joins,
            columns: leaves.columns,
            row_schema: nullable(&engine_schema(source.as_arrow())),
            outputs,
        }))
    }
}

/// The rows that are not null.
fn valid(array: &dyn Array) -> impl Iterator<Item = usize> + '_ {
    (0..array.len()).filter(|row| array.is_valid(*row))
}

fn check_type(field: &arrow::datatypes::Field) -> Checked<()> {
    let data_type = field.data_type();
    if data_type.is_numeric() || matches!(data_type, DataType::Boolean | DataType::Utf8) {
        return Ok(());
    }
    let instead = match data_type {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            "take a part of it: date_part('hour', …), or 'dow' for the day of the week"
        }
        DataType::Time32(_) | DataType::Time64(_) => "take a part of it: date_part('hour', …)",
        DataType::Duration(_) | DataType::Interval(_) => {
            "take its seconds: date_part('epoch', a) - date_part('epoch', b)"
        }
        DataType::Binary | DataType::FixedSizeBinary(_) => {
            "where it holds text: CAST(… AS VARCHAR); else drop it"
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            "take a number of it, array_length(…), or drop it"
        }
        DataType::Null => "give it a type, CAST(NULL AS DOUBLE), or drop it",
        _ => "turn it into a number or a text, or drop it",
    };
    Err(Complaint::new(format!(
        "input '{}' is of type {data_type}, and a model takes numbers, booleans and text",
        field.name()
    ))
    .hint(instead))
}

/// Whether an input is the event's id as it is.
fn is_id(expr: &Expr, source: &DFSchemaRef, leaves: &Leaves<'_>) -> bool {
    let Expr::Column(column) = expr.clone().unalias() else {
        return false;
    };
    let place = source.index_of_column(&column).ok();
    let id = leaves.stream.as_ref().and_then(|stream| stream.id);
    match place.and_then(|place| leaves.columns.get(place)) {
        Some(Source::Event { column }) => id == Some(*column),
        _ => false,
    }
}

fn id_of_event(name: &str) -> Complaint {
    Complaint::new(format!(
        "input '{name}' is the event's id, which is another one each time: nothing can be learned of it"
    ))
    .hint("drop it; a text that many events share is a category, as t.merchant_category")
}

fn unsupported() -> Complaint {
    Complaint::new("the inputs of a model are one stream joined with feature views").hint(
        "SELECT t.amount, c.tx_count_1h FROM transactions t JOIN card_activity c USING (card_id)",
    )
}

fn no_stream() -> Complaint {
    Complaint::new("no stream stands in FROM: there is no event to score")
        .hint("start with FROM transactions t and join the feature views")
}

/// The stream and the views of a join, in the order of their columns.
struct Leaves<'a> {
    streams: &'a [Arc<Stream>],
    views: &'a [Arc<FeatureView>],
    stream: Option<Arc<Stream>>,
    joins: Vec<Arc<FeatureView>>,
    columns: Vec<Source>,
}

impl Leaves<'_> {
    fn walk(&mut self, plan: &LogicalPlan, equal: &mut Vec<(Column, Column)>) -> Checked<()> {
        match plan {
            LogicalPlan::Join(join) => {
                check_join(join)?;
                self.walk(&join.left, equal)?;
                self.walk(&join.right, equal)?;
                equal.extend(join_columns(join)?);
                Ok(())
            }
            LogicalPlan::SubqueryAlias(alias) => self.walk(&alias.input, equal),
            LogicalPlan::TableScan(scan) => self.leaf(scan.table_name.table()),
            LogicalPlan::Filter(_) => {
                Err(Complaint::new("WHERE would leave events without a score")
                    .hint("drop WHERE; to count only some events use WHERE in the feature view"))
            }
            _ => Err(unsupported()),
        }
    }

    fn leaf(&mut self, name: &str) -> Checked<()> {
        if let Some(view) = self.views.iter().find(|view| view.name == name) {
            let join = self.joins.len();
            self.joins.push(Arc::clone(view));
            let columns = 0..view.schema.fields().len();
            self.columns
                .extend(columns.map(|column| Source::View { join, column }));
            return Ok(());
        }
        let stream = self.streams.iter().find(|stream| stream.name == name);
        let stream = stream.ok_or_else(unsupported)?;
        if self.stream.is_some() {
            return Err(
                Complaint::new("two streams are joined, and an event comes from one")
                    .hint("make a feature view of the other stream, and join the view"),
            );
        }
        self.stream = Some(Arc::clone(stream));
        let columns = 0..stream.schema.fields().len();
        self.columns
            .extend(columns.map(|column| Source::Event { column }));
        Ok(())
    }

    /// The joins with the columns of the event that name each view's entity.
    fn joins(&self, equal: &Equalities) -> Checked<Vec<ViewJoin>> {
        let place = |source: Source| self.columns.iter().position(|known| *known == source);
        let key = |join: usize, view: &FeatureView, entity: usize| {
            let column = view.entity_outputs[entity];
            let class = place(Source::View { join, column }).map(|place| equal.class(place));
            let event = self
                .columns
                .iter()
                .enumerate()
                .find_map(|(place, source)| match source {
                    Source::Event { column } if Some(equal.class(place)) == class => Some(*column),
                    _ => None,
                });
            event.ok_or_else(|| {
                let name = view.schema.field(column).name();
                Complaint::new(format!(
                    "view '{}' is not joined on its entity '{name}'",
                    view.name
                ))
                .hint(format!("JOIN {} USING ({name})", view.name))
            })
        };
        let join = |(index, view): (usize, &Arc<FeatureView>)| {
            let keys = (0..view.entity.len()).map(|entity| key(index, view, entity));
            Ok(ViewJoin {
                view: Arc::clone(view),
                keys: keys.collect::<Checked<Vec<_>>>()?,
            })
        };
        self.joins.iter().enumerate().map(join).collect()
    }
}

fn check_join(join: &Join) -> Checked<()> {
    match join.join_type {
        JoinType::Inner | JoinType::Left => Ok(()),
        other => Err(
            Complaint::new(format!("a {other} join has no meaning for one event"))
                .hint("use JOIN: an entity without events is joined too, its counts are 0"),
        ),
    }
}

/// The pairs of columns that a join sets equal.
fn join_columns(join: &Join) -> Checked<Vec<(Column, Column)>> {
    let filter = join
        .filter
        .as_ref()
        .map(datafusion::logical_expr::utils::split_conjunction);
    let on = join.on.iter().map(|(left, right)| (left, right));
    let compared = filter.into_iter().flatten().map(|expr| match expr {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq => {
            Ok((binary.left.as_ref(), binary.right.as_ref()))
        }
        other => Err(not_columns(&other.to_string())),
    });
    on.map(Ok)
        .chain(compared)
        .map(|pair| match pair? {
            (Expr::Column(left), Expr::Column(right)) => Ok((left.clone(), right.clone())),
            (left, right) => Err(not_columns(&format!("{left} = {right}"))),
        })
        .collect()
}

fn not_columns(condition: &str) -> Complaint {
    Complaint::new(format!(
        "a view is joined on its entity's columns, and this is '{condition}'"
    ))
    .hint("JOIN card_activity c USING (card_id), or ON c.card_id = t.card_id, of the same type")
}

/// Classes of columns that the joins set equal.
struct Equalities(Vec<usize>);

impl Equalities {
    fn new(schema: &DFSchemaRef, pairs: &[(Column, Column)], planner: &Planner) -> Checked<Self> {
        let mut classes: Vec<usize> = (0..schema.fields().len()).collect();
        for (left, right) in pairs {
            let place = |c| schema.index_of_column(c).map_err(|e| planner.complaint(&e));
            let (left, right) = (classes[place(left)?], classes[place(right)?]);
            classes
                .iter_mut()
                .filter(|class| **class == right)
                .for_each(|class| *class = left);
        }
        Ok(Self(classes))
    }

    fn class(&self, column: usize) -> usize {
        self.0[column]
    }
}
