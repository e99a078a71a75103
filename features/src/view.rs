//! A feature view: window aggregates over one stream, per entity, planned once.
//!
//! This file reads the plan. What a view writes of each event is in `rows.rs`, how it answers in `answer.rs`.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{
    Column, DFSchema, DFSchemaRef, DataFusionError, ScalarValue, TableReference,
};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlan, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column as Place, Literal, binary, lit};
use xxhash_rust::xxh3::xxh3_64;

use crate::call::Call;
use crate::decay;
use crate::distinct::Distinct;
use crate::frame::Frame;
use crate::kernel::Kernel;
use crate::packed;
use crate::plan::{Planner, engine_schema};
use crate::problem::{Checked, Complaint, columns_span};
use crate::resolution::Resolution;
use crate::stream::Stream;
use crate::tile::{Ladder, Nodes, TileCodec};

/// A planned feature view.
#[derive(Debug)]
pub struct FeatureView {
    /// Its name in SQL.
    pub name: String,
    /// Names the view's rows in the state. It changes when what the view keeps of an event changes.
    pub id: u32,
    /// The stream that it reads.
    pub stream: Arc<Stream>,
    /// Columns of the stream that name an entity, in the order of PARTITION BY.
    pub entity: Vec<usize>,
    /// The columns of an answer.
    pub schema: SchemaRef,
    /// For each entity column its index in `schema`.
    pub entity_outputs: Vec<usize>,
    pub(crate) predicate: Option<Arc<dyn PhysicalExpr>>,
    /// What is kept of each event: the arguments and filters of the aggregates.
    pub(crate) operands: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) operand_types: Vec<DataType>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) measures: Vec<Measure>,
    pub(crate) slots: Vec<Slot>,
    /// How nodes become tiles; none where a state cannot be stored, and rows answer alone.
    pub(crate) tiles: Option<TileCodec>,
    /// From how many events on a span is a node.
    pub(crate) dense: u64,
    /// The same of a span of the lowest level.
    pub(crate) dense_unit: u64,
    /// How its windows are rounded, where they are.
    pub(crate) resolution: Option<Resolution>,
    /// Entity columns, one column a slot, the time asked for: what `outputs` are evaluated on.
    pub(crate) row_schema: SchemaRef,
    pub(crate) outputs: Vec<Arc<dyn PhysicalExpr>>,
}

/// Where the events of a batch stood in their topic, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Kafka partitions.
    pub partitions: &'a [i32],
    /// Kafka offsets.
    pub offsets: &'a [i64],
}

/// An aggregate, whatever the frame.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) aggregate: AggregateFunctionExpr,
    pub(crate) arguments: Vec<Operand>,
    pub(crate) filter: Option<Operand>,
    /// For a decayed aggregate: it loses half its value in that time.
    pub(crate) half_life_us: Option<i64>,
    /// Which columns of a node's state are its own.
    pub(crate) state: Range<usize>,
    /// How to fold it without an accumulator, where there is a way.
    pub(crate) kernel: Option<Kernel>,
    /// How to count distinct values without an accumulator, where it is that.
    pub(crate) distinct: Option<Distinct>,
}

/// An aggregate over a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// Index into the view's measures.
    pub(crate) measure: usize,
    /// Index into the view's frames.
    pub(crate) frame: usize,
}

/// A value that an aggregate takes of each event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// Index into the view's operands.
    Kept(usize),
    /// The same for each event, so not kept.
    Literal(ScalarValue),
}

impl FeatureView {
    /// How far back an answer looks, in µs; `None` when time does not bound it.
    #[must_use]
    pub fn reach_us(&self) -> Option<i64> {
        let rounded = self.step_us().unwrap_or(0);
        Some(self.longest_window_us()?.saturating_add(rounded))
    }

    /// The length of its longest window, in µs, as SQL states it; `None` when time does not bound it.
    #[must_use]
    pub fn longest_window_us(&self) -> Option<i64> {
        self.frames
            .iter()
            .map(Frame::reach_us)
            .try_fold(0, |longest, reach| Some(longest.max(reach?)))
    }

    /// How far back the edges of its frames lie, in µs: what is older lies in the unbounded frames alone, and whole.
    #[must_use]
    pub fn edges_us(&self) -> i64 {
        let edge = |frame: &Frame| match *frame {
            Frame::Range { start_us, end_us } => start_us.or(end_us).unwrap_or(0),
            Frame::Rows { .. } => i64::MAX,
        };
        let furthest = self.frames.iter().map(edge).max().unwrap_or(0);
        furthest.saturating_add(self.step_us().unwrap_or(0))
    }

    /// How its windows are rounded, where they are.
    #[must_use]
    pub fn resolution(&self) -> Option<Resolution> {
        self.resolution
    }

    /// How time is cut into the spans of its tiles.
    #[must_use]
    pub fn ladder(&self) -> Ladder {
        self.step_us().map_or(Ladder::EXACT, Ladder::of_steps)
    }

    pub(crate) fn step_us(&self) -> Option<i64> {
        self.resolution.map(|resolution| resolution.step_us)
    }

    /// From how many events on a span of a level is a node.
    pub(crate) fn dense_at(&self, level: u8) -> u64 {
        match level {
            0 => self.dense_unit,
            _ => self.dense,
        }
    }

    /// The highest level of the view's tiles; none where it has none.
    #[must_use]
    pub fn top_tile_level(&self) -> Option<u8> {
        self.tiles.as_ref()?;
        // What a frame covers as of the end of time is as wide as it is at any time.
        let frames = self.frames.iter();
        let times = frames.filter_map(|frame| frame.times(i64::MAX, self.step_us()));
        let widths = times.map(|times| times.end.saturating_sub(times.start));
        widths
            .filter_map(|width| self.ladder().top_level(width))
            .max()
    }

    /// Names of the features: the columns of an answer that are not the entity's.
    pub fn features(&self) -> impl Iterator<Item = &str> {
        let is_feature = |(index, _): &(usize, &Arc<Field>)| !self.entity_outputs.contains(index);
        self.schema
            .fields()
            .iter()
            .enumerate()
            .filter(is_feature)
            .map(|(_, f)| f.name().as_str())
    }

    /// Names of the entity's columns.
    pub fn entity_columns(&self) -> impl Iterator<Item = &str> {
        self.entity
            .iter()
            .map(|column| self.stream.schema.field(*column).name().as_str())
    }

    /// The frames that the view's windows use, each once.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Names and types of what is kept of each event.
    pub fn kept(&self) -> impl Iterator<Item = (String, &DataType)> {
        self.operands
            .iter()
            .map(ToString::to_string)
            .zip(&self.operand_types)
    }

    pub(crate) fn plan(
        name: &str,
        plan: &LogicalPlan,
        resolution: Option<Resolution>,
        streams: &[Arc<Stream>],
        planner: &Planner,
    ) -> Checked<Arc<Self>> {
        let query = Query::read(plan)?;
        let stream = streams
            .iter()
            .find(|stream| stream.name == query.table)
            .ok_or_else(|| not_a_stream(&query.table))?;
        let mut slots = Slots::new(stream, &query.source, resolution, planner);
        for (_, window) in &query.windows {
            let culprit = query.item_of(window);
            slots.add(window).map_err(|c| c.item(culprit))?;
        }
        let entity = slots.entity.clone().unwrap_or_default();
        let row = query.row_schema(&entity, stream.time)?;
        let outputs = Outputs::plan(&query, &row, &entity, stream, planner)?;
        let predicate = query.predicate(planner)?;
        let codec = slots.tile_codec().map_err(|e| planner.complaint(&e))?;
        if codec.is_none() && resolution.is_some() {
            return Err(Complaint::new(
                "an aggregate of this view has a state that cannot be kept in place of events",
            )
            .hint("drop the resolution, or put the aggregate in a view of its own"));
        }
        let worth = slots
            .worth(codec.as_ref())
            .map_err(|e| planner.complaint(&e))?;
        let dense = worth.max(LEAST_DENSE);
        // A step's sums take the place of its events, which is worth it as soon as they are smaller.
        let dense_unit = resolution.map_or(dense, |_| worth.max(2));
        let mut view = Self {
            name: name.to_owned(),
            id: 0,
            stream: Arc::clone(stream),
            entity,
            schema: outputs.schema,
            entity_outputs: outputs.entity,
            predicate,
            operands: slots.operands,
            operand_types: slots.operand_types,
            frames: slots.frames,
            measures: slots.measures,
            slots: slots.slots,
            tiles: codec,
            dense,
            dense_unit,
            resolution,
            row_schema: engine_schema(row.as_arrow()),
            outputs: outputs.exprs,
        };
        view.id = xxh3_64(view.layout().as_bytes()) as u32;
        Ok(Arc::new(view))
    }

    /// What the view means, as text: its state and all that is computed from it.
    #[must_use]
    pub fn definition(&self) -> String {
        let mut text = self.layout();
        for slot in &self.slots {
            let (measure, frame) = (&self.measures[slot.measure], self.frames[slot.frame]);
            let _ = write!(text, "|{} {frame:?}", measure.definition());
        }
        for (output, field) in self.outputs.iter().zip(self.schema.fields()) {
            let _ = write!(text, "|{} = {output}", field.name());
        }
        text
    }

    /// What a column of the answers means, as text, whatever else the view has.
    pub(crate) fn output_meaning(&self, output: usize) -> String {
        let schema = &self.stream.schema;
        let of_event = |index: usize| schema.field(index).name().clone();
        let operand = |operand: &Operand| match operand {
            Operand::Kept(kept) => format!(
                "{}:{}",
                with_columns(&self.operands[*kept], &of_event),
                self.operand_types[*kept]
            ),
            Operand::Literal(value) => format!("{value:?}"),
        };
        let slot = |slot: &Slot| {
            let (measure, frame) = (&self.measures[slot.measure], self.frames[slot.frame]);
            let aggregate = &measure.aggregate;
            format!(
                "{} of {:?} distinct {} ignoring nulls {} filter {:?} half life {:?} over {frame:?}",
                aggregate.fun().name(),
                measure.arguments.iter().map(operand).collect::<Vec<_>>(),
                aggregate.is_distinct(),
                aggregate.ignore_nulls(),
                measure.filter.as_ref().map(operand),
                measure.half_life_us,
            )
        };
        let entities = self.entity.len();
        let column = |index: usize| match index.checked_sub(entities) {
            None => of_event(self.entity[index]),
            Some(index) => self
                .slots
                .get(index)
                .map_or_else(|| "as of".to_owned(), slot),
        };
        let entity: Vec<String> = self.entity.iter().map(|column| of_event(*column)).collect();
        let predicate = self.predicate.as_ref();
        format!(
            "{} of {} {} by {} in {} at {:?} where {:?}",
            with_columns(&self.outputs[output], &column),
            self.stream.name,
            self.stream.topic,
            entity.join(", "),
            of_event(self.stream.time),
            self.step_us(),
            predicate.map(|predicate| with_columns(predicate, &of_event)),
        )
    }

    /// What decides the rows of state: the same text, the same rows.
    pub(crate) fn layout(&self) -> String {
        let stream = &self.stream;
        let mut text = format!(
            "{}|{}|{}|{:?}",
            self.name, stream.name, stream.topic, stream.id
        );
        for column in self.entity.iter().chain([&stream.time]) {
            let _ = write!(text, "|{}", stream.schema.field(*column));
        }
        let _ = write!(
            text,
            "|{:?}",
            self.predicate.as_ref().map(ToString::to_string)
        );
        for (operand, data_type) in self.operands.iter().zip(&self.operand_types) {
            let _ = write!(text, "|{operand}:{data_type}");
        }
        // Rows from before a topic was keyed by its ids have no index by which they can be deleted.
        if stream.is_keyed_by_id() {
            text.push_str("|deletes");
        }
        // Sums that took the place of events are of these aggregates and steps, and of no others.
        if let Some(Resolution { step_us, .. }) = self.resolution {
            let _ = write!(
                text,
                "|resolution {step_us} reach {:?} edges {}",
                self.reach_us(),
                self.edges_us()
            );
            for measure in &self.measures {
                let _ = write!(text, "|{}", measure.definition());
            }
        }
        text
    }
}

impl Measure {
    /// What decides its state, given what is kept of the events.
    fn definition(&self) -> String {
        let aggregate = &self.aggregate;
        format!(
            "{} distinct {} ignore nulls {} {:?} {:?}",
            aggregate.fun().name(),
            aggregate.is_distinct(),
            aggregate.ignore_nulls(),
            self.arguments,
            self.filter,
        )
    }
}

/// An expression as text, with other names for its columns than their places.
pub(crate) fn with_columns(expr: &Arc<dyn PhysicalExpr>, name: &dyn Fn(usize) -> String) -> String {
    let named = Arc::clone(expr).transform(|node| {
        let column = (node.as_ref() as &dyn Any).downcast_ref::<Place>();
        Ok(match column.map(Place::index) {
            Some(index) => Transformed::yes(Arc::new(Place::new(&name(index), 0)) as _),
            None => Transformed::no(node),
        })
    });
    // The closure does not fail.
    named.map_or_else(|_| expr.to_string(), |named| named.data.to_string())
}

/// A feature view over a view.
pub(crate) fn not_a_stream(table: &str) -> Complaint {
    Complaint::new(format!(
        "a feature view reads a stream, and '{table}' is a view"
    ))
    .hint("compute it in one view over the stream, or join the views in inputs.sql")
}

/// The parts of a view's plan: projection over windows over an optional filter over a stream.
struct Query<'a> {
    projection: &'a [Expr],
    output: &'a DFSchemaRef,
    windows: Vec<((Option<TableReference>, Arc<Field>), &'a WindowFunction)>,
    filters: Vec<&'a Expr>,
    source: DFSchemaRef,
    table: String,
}

impl<'a> Query<'a> {
    fn read(plan: &'a LogicalPlan) -> Checked<Self> {
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
    fn item_of(&self, window: &WindowFunction) -> Option<usize> {
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

    fn predicate(&self, planner: &Planner) -> Checked<Option<Arc<dyn PhysicalExpr>>> {
        let all = self.filters.iter().copied().cloned().reduce(Expr::and);
        all.map(|expr| planner.physical(&expr, &self.source))
            .transpose()
    }

    /// Entity columns, then windows, then the event time: in an answer, the time asked for.
    fn row_schema(&self, entity: &[usize], time: usize) -> Checked<DFSchema> {
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

/// Collects the aggregates of a view and what they need of each event.
struct Slots<'a> {
    stream: &'a Stream,
    source: &'a DFSchemaRef,
    resolution: Option<Resolution>,
    planner: &'a Planner,
    entity: Option<Vec<usize>>,
    operands: Vec<Arc<dyn PhysicalExpr>>,
    operand_types: Vec<DataType>,
    frames: Vec<Frame>,
    measures: Vec<Measure>,
    slots: Vec<Slot>,
}

impl<'a> Slots<'a> {
    fn new(
        stream: &'a Stream,
        source: &'a DFSchemaRef,
        resolution: Option<Resolution>,
        planner: &'a Planner,
    ) -> Self {
        Self {
            stream,
            source,
            resolution,
            planner,
            entity: None,
            operands: Vec::new(),
            operand_types: Vec::new(),
            frames: Vec::new(),
            measures: Vec::new(),
            slots: Vec::new(),
        }
    }

    fn add(&mut self, window: &WindowFunction) -> Checked<()> {
        self.check_entity(&window.params)?;
        self.check_order(&window.params)?;
        if let Some(resolution) = self.resolution {
            resolution.check_function(window.fun.name())?;
        }
        let call = Call::read(window)?;
        if let Some(resolution) = self.resolution {
            resolution.check_frame(&call.frame)?;
        }
        let mut expressions = call
            .arguments
            .iter()
            .map(|arg| self.planner.physical(arg, self.source))
            .collect::<Checked<Vec<_>>>()?;
        if window.params.distinct
            && let Some(first) = expressions.first_mut()
        {
            *first = self.with_one_zero(first)?;
        }
        let half_life_us = match decay::half_life_us(&call.function, &call.arguments)? {
            // Decay is from the event's time on.
            Some(half_life) => {
                let time =
                    Expr::Column(Column::from(self.source.qualified_field(self.stream.time)));
                expressions.push(self.planner.physical(&time, self.source)?);
                Some(half_life)
            }
            None => None,
        };
        let arguments = expressions
            .iter()
            .map(|e| self.operand(e))
            .collect::<Checked<Vec<_>>>()?;
        let filter = window
            .params
            .filter
            .as_deref()
            .map(|f| self.planner.physical(f, self.source));
        let filter = filter.transpose()?.map(|f| self.operand(&f)).transpose()?;
        let aggregate = self.aggregate(call.function, expressions, &window.params)?;
        let fields = aggregate
            .state_fields()
            .map_err(|e| self.planner.complaint(&e))?;
        let first = self.measures.last().map_or(0, |last| last.state.end);
        let distinct = Distinct::of(&aggregate, &arguments, filter.as_ref(), &self.operand_types);
        let kernel = Kernel::of(&aggregate, &arguments, filter.as_ref(), &self.operand_types);
        let measure = Measure {
            aggregate,
            arguments,
            filter,
            half_life_us,
            state: first..first + fields.len(),
            kernel,
            distinct,
        };
        let slot = Slot {
            measure: self.measure(measure),
            frame: self.frame(call.frame),
        };
        self.slots.push(slot);
        Ok(())
    }

    /// A value by which events are told apart: −0.0 and 0.0 are one, and DataFusion's accumulators compare bits.
    fn with_one_zero(&self, expr: &Arc<dyn PhysicalExpr>) -> Checked<Arc<dyn PhysicalExpr>> {
        let schema = self.source.as_arrow();
        let zero = match expr.data_type(schema) {
            _ if (expr.as_ref() as &dyn Any).is::<Literal>() => return Ok(Arc::clone(expr)),
            Ok(DataType::Float32) => lit(0.0_f32),
            Ok(DataType::Float64) => lit(0.0_f64),
            _ => return Ok(Arc::clone(expr)),
        };
        binary(Arc::clone(expr), Operator::Plus, zero, schema)
            .map_err(|e| self.planner.complaint(&e))
    }

    fn measure(&mut self, measure: Measure) -> usize {
        let definition = measure.definition();
        let known = self
            .measures
            .iter()
            .position(|m| m.definition() == definition);
        known.unwrap_or_else(|| {
            self.measures.push(measure);
            self.measures.len() - 1
        })
    }

    /// How the states of all measures become bytes.
    fn tile_codec(&self) -> Result<Option<TileCodec>, DataFusionError> {
        let mut types = Vec::new();
        let mut definition = String::new();
        if let Some(Resolution { step_us, .. }) = self.resolution {
            let _ = write!(definition, "resolution {step_us}");
        }
        for measure in &self.measures {
            let fields = measure.aggregate.state_fields()?;
            types.extend(fields.iter().map(|field| field.data_type().clone()));
            let _ = write!(definition, "|{}", measure.definition());
        }
        Ok(TileCodec::new(&definition, types))
    }

    /// From how many events on a node is smaller than what it sums up: a HyperLogLog of 16 KB takes a thousand.
    fn worth(&self, codec: Option<&TileCodec>) -> Result<u64, DataFusionError> {
        let Some(codec) = codec else {
            return Ok(u64::MAX);
        };
        let mut state = Vec::new();
        for measure in &self.measures {
            state.extend(measure.aggregate.create_accumulator()?.state()?);
        }
        let bytes = codec.encode(&Nodes::one(0, &state)?.into())?.len();
        Ok(bytes as u64 / EVENT_BYTES)
    }

    fn aggregate(
        &self,
        function: Arc<AggregateUDF>,
        arguments: Vec<Arc<dyn PhysicalExpr>>,
        params: &WindowFunctionParams,
    ) -> Checked<AggregateFunctionExpr> {
        let name = function.name().to_owned();
        AggregateExprBuilder::new(function, arguments)
            .schema(Arc::new(self.source.as_arrow().clone()))
            .alias(name)
            .with_ignore_nulls(params.null_treatment == Some(NullTreatment::IgnoreNulls))
            .with_distinct(params.distinct)
            .build()
            .and_then(|aggregate| aggregate.create_accumulator().map(|_| aggregate))
            .map_err(|e| self.planner.complaint(&e))
    }

    fn frame(&mut self, frame: Frame) -> usize {
        self.frames
            .iter()
            .position(|known| *known == frame)
            .unwrap_or_else(|| {
                self.frames.push(frame);
                self.frames.len() - 1
            })
    }

    fn operand(&mut self, expr: &Arc<dyn PhysicalExpr>) -> Checked<Operand> {
        if let Some(literal) = (expr.as_ref() as &dyn Any).downcast_ref::<Literal>() {
            return Ok(Operand::Literal(literal.value().clone()));
        }
        if let Some(index) = self.operands.iter().position(|known| known == expr) {
            return Ok(Operand::Kept(index));
        }
        let data_type = expr
            .data_type(self.source.as_arrow())
            .map_err(|e| self.planner.complaint(&e))?;
        if !packed::is_supported(&data_type) {
            return Err(Complaint::new(format!(
                "an aggregate takes values of type {data_type} here, which the state does not keep"
            ))
            .hint("aggregate over booleans, numbers, text, dates or times"));
        }
        self.operands.push(Arc::clone(expr));
        self.operand_types.push(data_type);
        Ok(Operand::Kept(self.operands.len() - 1))
    }

    fn check_entity(&mut self, params: &WindowFunctionParams) -> Checked<()> {
        let entity = params
            .partition_by
            .iter()
            .map(|expr| match expr {
                Expr::Column(column) => self.column(column),
                other => Err(Complaint::new(
                    "PARTITION BY names columns, and this is an expression",
                )
                .hint("an entity is named by columns of the stream: PARTITION BY card_id")
                .span(columns_span(other))),
            })
            .collect::<Checked<Vec<_>>>()?;
        if entity.is_empty() {
            return Err(Complaint::new("the window has no PARTITION BY")
                .hint("name the entity whose events count: PARTITION BY card_id")
                .word("OVER"));
        }
        let is_twice = |place: &usize| entity[..*place].contains(&entity[*place]);
        let twice = (1..entity.len()).find(is_twice);
        if let Some(column) = twice.and_then(|place| params.partition_by.get(place)) {
            return Err(
                Complaint::new("PARTITION BY names a column of the entity twice")
                    .hint("name each of them once: PARTITION BY card_id")
                    .span(columns_span(column)),
            );
        }
        match &self.entity {
            Some(known) if *known != entity => Err(Complaint::new(
                "the windows of a view have different PARTITION BY columns",
            )
            .hint("make one view an entity")),
            _ => {
                self.entity = Some(entity);
                Ok(())
            }
        }
    }

    fn check_order(&self, params: &WindowFunctionParams) -> Checked<()> {
        let time = self.stream.schema.field(self.stream.time).name();
        let complaint = |message: String| {
            Err(Complaint::new(message).hint(format!("write ORDER BY {time}: the event time")))
        };
        match params.order_by.as_slice() {
            [] => complaint("the window has no ORDER BY".to_owned()),
            [sort] => match &sort.expr {
                Expr::Column(column) if self.column(column)? == self.stream.time && sort.asc => {
                    Ok(())
                }
                _ => complaint(format!("the window is ordered by '{sort}'")),
            },
            _ => complaint("the window is ordered by more than the event time".to_owned()),
        }
    }

    fn column(&self, column: &Column) -> Checked<usize> {
        self.source
            .index_of_column(column)
            .map_err(|e| self.planner.complaint(&e))
    }
}

/// What a row of state takes, roughly.
const EVENT_BYTES: u64 = 16;
/// Fewer events are read as fast as the node that would stand for them.
const LEAST_DENSE: u64 = 32;

/// The columns that a view gives.
struct Outputs {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    entity: Vec<usize>,
}

impl Outputs {
    fn plan(
        query: &Query<'_>,
        row: &DFSchema,
        entity: &[usize],
        stream: &Stream,
        planner: &Planner,
    ) -> Checked<Self> {
        let mut exprs = Vec::new();
        let mut entity_outputs = vec![None; entity.len()];
        for (index, expr) in query.projection.iter().enumerate() {
            check_columns(expr, row).map_err(|c| c.item(Some(index)))?;
            match expr.clone().unalias() {
                Expr::Column(column) => {
                    // The entity's columns come first in a row.
                    if let Some(slot) = row
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
            schema: nullable(&engine_schema(query.output.as_arrow())),
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
