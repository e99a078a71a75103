//! Events of many entities in memory, and answers for many rows at once: training sets and back-tests.
//!
//! The meaning is that of a look-up, and the code too: what differs is that an entity's history is a slice of
//! sorted columns rather than rows of a store.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, RecordBatch, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat, concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::DataFusionError;

use crate::FeatureError;
use crate::history::History;
use crate::packed;
use crate::rows::one_by_one_where_it_fails;
use crate::slot_column::SlotColumn;
use crate::view::{FeatureView, Origin};

/// Rows that are answered before their values become columns: bounds the memory of values.
const CHUNK: usize = 8_192;

const KEY_COLUMNS: usize = 3;

/// What a view keeps of events, sorted by entity and time.
#[derive(Debug)]
pub struct EventTable<'a> {
    view: &'a FeatureView,
    /// Where each entity's events stand.
    entities: HashMap<Vec<u8>, Range<usize>>,
    times: Vec<i64>,
    operands: Vec<ArrayRef>,
}

impl FeatureView {
    /// The schema of [`kept_of`](Self::kept_of): the entity as bytes, the event time, what tells apart events of one
    /// microsecond, and what the view keeps of each event.
    #[must_use]
    pub fn kept_schema(&self) -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let mut fields = vec![
            Field::new("entity", DataType::Binary, false),
            Field::new("time", time, false),
            Field::new("unique", DataType::Binary, false),
        ];
        let operands = self.operand_types.iter().enumerate();
        fields.extend(operands.map(|(i, t)| Field::new(format!("kept_{i}"), t.clone(), true)));
        Arc::new(Schema::new(fields))
    }

    /// What the view keeps of a batch of its stream's events, as columns that can be set aside in files. Events on
    /// which an expression of the view fails are left out: their row numbers and the reasons come back.
    ///
    /// # Errors
    /// [`FeatureError::Arguments`] when the batch does not fit the stream.
    pub fn kept_of(
        &self,
        events: &RecordBatch,
        origin: Origin<'_>,
    ) -> Result<(RecordBatch, Vec<(usize, String)>), FeatureError> {
        self.check_batch(events, origin)?;
        let schema = self.kept_schema();
        let mut batches = Vec::new();
        let failed = one_by_one_where_it_fails(events, origin, &mut |events, origin| {
            let kept = self.keep(events, origin)?;
            let mut columns: Vec<ArrayRef> = vec![
                Arc::new(BinaryArray::from_iter_values(&kept.entities)),
                Arc::new(TimestampMicrosecondArray::from(kept.times)),
                Arc::new(BinaryArray::from_iter_values(&kept.uniques)),
            ];
            columns.extend(kept.operands);
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
            Ok(())
        });
        let all = concat_batches(&schema, &batches).map_err(|e| self.evaluating()(e.into()))?;
        Ok((all, failed))
    }

    /// Entities as bytes, as [`kept_of`](Self::kept_of) names them: one a row. A column of another type than the
    /// stream's names other entities.
    #[must_use]
    pub fn entity_keys(&self, entity: &[ArrayRef]) -> BinaryArray {
        BinaryArray::from_iter_values(packed::pack_keys(entity))
    }

    fn evaluating(&self) -> impl FnOnce(DataFusionError) -> FeatureError {
        FeatureError::evaluate(format!("view '{}'", self.name))
    }
}

impl<'a> EventTable<'a> {
    /// Sorts what [`FeatureView::kept_of`] gave. Of an event that was delivered twice the later one counts.
    ///
    /// # Errors
    /// [`FeatureError::Arguments`] when a batch is not of the view's kept schema.
    pub fn new(view: &'a FeatureView, kept: &[RecordBatch]) -> Result<Self, FeatureError> {
        let schema = view.kept_schema();
        if let Some(other) = kept.iter().find(|batch| batch.schema() != schema) {
            return Err(FeatureError::Arguments(format!(
                "view '{}' keeps {schema}, got {}",
                view.name,
                other.schema()
            )));
        }
        let all = concat_batches(&schema, kept).map_err(|e| view.evaluating()(e.into()))?;
        let (order, entities) = sorted(&all);
        let times = all
            .column(1)
            .as_primitive::<TimestampMicrosecondType>()
            .values();
        let times = order.iter().map(|row| times[*row as usize]).collect();
        let order = UInt32Array::from(order);
        let operands = all.columns()[KEY_COLUMNS..]
            .iter()
            .map(|column| take(column, &order, None))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| view.evaluating()(e.into()))?;
        Ok(Self {
            view,
            entities,
            times,
            operands,
        })
    }

    /// What the view says of each row's entity as of the row's time, in the view's schema. `entity` and `as_of` as
    /// in [`FeatureView::answer`]. Rows of one entity are answered together, whatever their order.
    ///
    /// # Errors
    /// As [`FeatureView::answer`], but for a store.
    pub fn answer(&self, entity: &[ArrayRef], as_of: &[i64]) -> Result<RecordBatch, FeatureError> {
        let view = self.view;
        view.check_entity_columns(entity, as_of.len())?;
        let keys = view.entity_keys(entity);
        let mut order: Vec<u32> = (0..as_of.len() as u32).collect();
        order.sort_unstable_by_key(|row| (keys.value(*row as usize), as_of[*row as usize], *row));
        let mut answers = Vec::new();
        let mut covered = vec![Vec::new(); view.frames.len()];
        let mut history: Option<(&[u8], History<'_>)> = None;
        for rows in order.chunks(CHUNK) {
            let mut values = view.slot_columns(rows.len());
            for (place, row) in rows.iter().map(|row| *row as usize).enumerate() {
                let key = keys.value(row);
                if history.as_ref().is_none_or(|(of, _)| *of != key) {
                    history = Some((key, self.history(key)));
                }
                if let Some((_, history)) = &mut history {
                    view.answer_row(history, as_of[row], &mut covered, &mut values, place)?;
                }
            }
            answers.push(self.project(entity, values, as_of, rows)?);
        }
        self.in_order(&answers, &order)
    }

    fn history(&self, key: &[u8]) -> History<'a> {
        let rows = self.entities.get(key).cloned().unwrap_or_default();
        let times = self.times[rows.clone()].to_vec();
        let operands = self
            .operands
            .iter()
            .map(|column| column.slice(rows.start, rows.len()));
        History::of_events(self.view, times, operands.collect())
    }

    fn project(
        &self,
        entity: &[ArrayRef],
        values: Vec<SlotColumn>,
        as_of: &[i64],
        rows: &[u32],
    ) -> Result<RecordBatch, FeatureError> {
        let indexes = UInt32Array::from(rows.to_vec());
        let entity = entity
            .iter()
            .map(|column| take(column, &indexes, None))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| self.view.evaluating()(e.into()))?;
        let as_of: Vec<i64> = rows.iter().map(|row| as_of[*row as usize]).collect();
        self.view.project(&entity, values, &as_of)
    }

    /// The answers as their rows were asked for.
    fn in_order(
        &self,
        answers: &[RecordBatch],
        order: &[u32],
    ) -> Result<RecordBatch, FeatureError> {
        let mut back = vec![0; order.len()];
        for (place, row) in order.iter().enumerate() {
            back[*row as usize] = place as u32;
        }
        let back = UInt32Array::from(back);
        let columns = (0..self.view.schema.fields().len()).map(|index| {
            let parts: Vec<&dyn Array> = answers
                .iter()
                .map(|batch| batch.column(index).as_ref())
                .collect();
            match parts.as_slice() {
                [] => Ok(arrow::array::new_empty_array(
                    self.view.schema.field(index).data_type(),
                )),
                parts => take(&concat(parts)?, &back, None),
            }
        });
        let columns = columns.collect::<Result<Vec<_>, _>>();
        columns
            .and_then(|columns| RecordBatch::try_new(Arc::clone(&self.view.schema), columns))
            .map_err(|e| self.view.evaluating()(e.into()))
    }
}

/// Row numbers by entity, time and unique part, each event once, and where each entity's stand.
fn sorted(kept: &RecordBatch) -> (Vec<u32>, HashMap<Vec<u8>, Range<usize>>) {
    let entities = kept.column(0).as_binary::<i32>();
    let times = kept
        .column(1)
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let uniques = kept.column(2).as_binary::<i32>();
    let mut numbers: HashMap<&[u8], u32> = HashMap::new();
    let mut rows: Vec<(u32, i64, u32)> = Vec::with_capacity(kept.num_rows());
    for (row, time) in times.iter().enumerate() {
        let next = numbers.len() as u32;
        let number = *numbers.entry(entities.value(row)).or_insert(next);
        rows.push((number, *time, row as u32));
    }
    let unique = |row: u32| uniques.value(row as usize);
    rows.sort_unstable_by(|a, b| {
        (a.0, a.1)
            .cmp(&(b.0, b.1))
            .then_with(|| unique(a.2).cmp(unique(b.2)))
            .then(b.2.cmp(&a.2))
    });
    // The newest delivery of an event comes first, and stays.
    rows.dedup_by(|b, a| (a.0, a.1) == (b.0, b.1) && unique(a.2) == unique(b.2));
    let mut ranges = vec![0..0; numbers.len()];
    for (place, (number, _, _)) in rows.iter().enumerate() {
        let range = &mut ranges[*number as usize];
        *range = if *range == (0..0) {
            place..place + 1
        } else {
            range.start..place + 1
        };
    }
    let entities = numbers.into_iter();
    let entities = entities.map(|(key, number)| (key.to_vec(), ranges[number as usize].clone()));
    (
        rows.iter().map(|(_, _, row)| *row).collect(),
        entities.collect(),
    )
}
