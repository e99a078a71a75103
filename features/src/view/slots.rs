//! The aggregates of a view, and what they need of each event.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Column, DataFusionError};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{AggregateUDF, Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Literal, binary, lit};

use super::{Measure, Operand, Slot};
use crate::call::Call;
use crate::decay;
use crate::distinct::Distinct;
use crate::frame::Frame;
use crate::kernel::Kernel;
use crate::packed;
use crate::plan::{Planner, Scope};
use crate::problem::{Checked, Complaint, columns_span};
use crate::resolution::Resolution;
use crate::stream::Stream;
use crate::tile::{Nodes, TileCodec};

/// What a row of state takes, roughly.
const EVENT_BYTES: u64 = 16;

/// Collects the aggregates of a view and what they need of each event.
pub(super) struct Slots<'a> {
    stream: &'a Stream,
    source: &'a Scope,
    resolution: Option<Resolution>,
    planner: &'a Planner,
    /// Where each measure is, by what it is.
    known: HashMap<String, usize>,
    pub(super) entity: Option<Vec<usize>>,
    pub(super) operands: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) operand_types: Vec<DataType>,
    pub(super) frames: Vec<Frame>,
    pub(super) measures: Vec<Measure>,
    pub(super) slots: Vec<Slot>,
}

impl<'a> Slots<'a> {
    pub(super) fn new(
        stream: &'a Stream,
        source: &'a Scope,
        resolution: Option<Resolution>,
        planner: &'a Planner,
    ) -> Self {
        Self {
            stream,
            source,
            resolution,
            planner,
            known: HashMap::new(),
            entity: None,
            operands: Vec::new(),
            operand_types: Vec::new(),
            frames: Vec::new(),
            measures: Vec::new(),
            slots: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, window: &WindowFunction) -> Checked<()> {
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
                let time = self.source.schema.qualified_field(self.stream.time);
                let time = Expr::Column(Column::from(time));
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
        let schema = self.source.schema.as_arrow();
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
        let next = self.measures.len();
        match self.known.entry(measure.definition()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                unknown.insert(next);
                self.measures.push(measure);
                next
            }
        }
    }

    /// How the states of all measures become bytes.
    pub(super) fn tile_codec(&self) -> Result<Option<TileCodec>, DataFusionError> {
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
    pub(super) fn worth(&self, codec: Option<&TileCodec>) -> Result<u64, DataFusionError> {
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
            .schema(Arc::new(self.source.schema.as_arrow().clone()))
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
            .data_type(self.source.schema.as_arrow())
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
            .schema
            .index_of_column(column)
            .map_err(|e| self.planner.complaint(&e))
    }
}
