//! A feature view: window aggregates over one stream, per entity, planned once.
//!
//! Here is what a view is. Its plan is taken apart in `query`; `slots` are its aggregates, `outputs` the columns of its
//! answers, and `meaning` says it as text. What a view writes of each event is in `rows.rs`, how it answers in
//! `answer.rs`.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use xxhash_rust::xxh3::xxh3_64;

use crate::answer::plain_places;
use crate::distinct::Distinct;
use crate::frame::Frame;
use crate::kernel::Kernel;
use crate::plan::{Planner, Scope, engine_schema};
use crate::problem::{Checked, Complaint};
use crate::resolution::Resolution;
use crate::stream::Stream;
use crate::tile::{Ladder, TileCodec};

mod meaning;
mod outputs;
mod query;
mod slots;

pub(crate) use meaning::with_columns;
pub(crate) use outputs::nullable;
pub(crate) use query::{is_of_one_order, not_a_stream};

use outputs::Outputs;
use query::Query;
use slots::Slots;

/// Fewer events are read as fast as the node that would stand for them.
const LEAST_DENSE: u64 = 32;

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
    /// Where the outputs stand in `row_schema`, if all are columns of it as they are, and none is the time.
    pub(crate) plain: Option<Vec<usize>>,
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

    /// Of the plan of its statement, or of the plans of the statement's parts, one after the other (`parts.rs`).
    pub(crate) fn plan(
        name: &str,
        plans: &[LogicalPlan],
        resolution: Option<Resolution>,
        streams: &[Arc<Stream>],
        planner: &Planner,
    ) -> Checked<Arc<Self>> {
        let query = Query::read(plans)?;
        let stream = streams
            .iter()
            .find(|stream| stream.name == query.table)
            .ok_or_else(|| not_a_stream(&query.table))?;
        let mut slots = Slots::new(stream, &query.source, resolution, planner);
        for (_, window) in &query.windows {
            slots
                .add(window)
                .map_err(|c| c.item(query.item_of(window)))?;
        }
        let entity = slots.entity.clone().unwrap_or_default();
        let row = Scope::new(Arc::new(query.row_schema(&entity, stream.time)?));
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
        let row_schema = engine_schema(row.schema.as_arrow());
        let mut view = Self {
            name: name.to_owned(),
            id: 0,
            stream: Arc::clone(stream),
            entity,
            plain: plain_places(&outputs.exprs, &outputs.schema, &row_schema),
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
            row_schema,
            outputs: outputs.exprs,
        };
        view.id = xxh3_64(view.layout().as_bytes()) as u32;
        Ok(Arc::new(view))
    }
}
