//! What a view writes of each event: one row of state, under the entity's key and the event's time.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array, new_null_array,
};
use arrow::compute::{cast, concat, prep_null_mask_filter, take};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use crate::FeatureError;
use crate::fold;
use crate::key::{unique_of_id, unique_of_place};
use crate::packed;
use crate::state::{StateRow, StateWriter};
use crate::view::{FeatureView, Origin};

/// What a view keeps of some events: one value a row each.
pub(crate) struct Kept {
    pub(crate) entities: Vec<Vec<u8>>,
    pub(crate) times: Vec<i64>,
    pub(crate) uniques: Vec<[u8; 16]>,
    /// Their rows in the batch.
    pub(crate) rows: Vec<u64>,
    pub(crate) operands: Vec<ArrayRef>,
}

impl FeatureView {
    /// Writes the view's rows of a batch of its stream's events to `state`. Writing the same events again
    /// changes nothing.
    ///
    /// An event on which an expression of the view fails (an overflow, a division by zero) is left out of the
    /// view; its row number and the reason come back, and the others are written.
    ///
    /// `events` has the stream's schema; `origin` has one partition and offset a row, and matters only for
    /// streams without an id.
    ///
    /// # Errors
    /// [`FeatureError::Arguments`] when the batch does not fit the stream.
    pub fn state_rows(
        &self,
        events: &RecordBatch,
        origin: Origin<'_>,
        state: &mut dyn StateWriter,
    ) -> Result<Vec<(usize, String)>, FeatureError> {
        self.check_batch(events, origin)?;
        Ok(one_by_one_where_it_fails(
            events,
            origin,
            &mut |events, origin| self.write(events, origin, state),
        ))
    }

    pub(crate) fn check_batch(
        &self,
        events: &RecordBatch,
        origin: Origin<'_>,
    ) -> Result<(), FeatureError> {
        let types = |schema: &arrow::datatypes::Schema| -> Vec<DataType> {
            schema
                .fields()
                .iter()
                .map(|f| f.data_type().clone())
                .collect()
        };
        if types(&events.schema()) != types(&self.stream.schema) {
            return Err(FeatureError::Arguments(format!(
                "events of stream '{}' have the columns {}, got {}",
                self.stream.name,
                self.stream.schema,
                events.schema()
            )));
        }
        if origin.partitions.len() != events.num_rows() || origin.offsets.len() != events.num_rows()
        {
            return Err(FeatureError::Arguments(
                "one partition and offset a row".to_owned(),
            ));
        }
        Ok(())
    }

    fn write(
        &self,
        events: &RecordBatch,
        origin: Origin<'_>,
        state: &mut dyn StateWriter,
    ) -> Result<(), DataFusionError> {
        let kept = self.keep(events, origin)?;
        let mut values = packed::pack(&kept.operands, kept.times.len());
        if self.resolution.is_some() {
            values = values
                .iter()
                .map(|value| fold::event_value(value))
                .collect();
        }
        let places = kept.times.into_iter().zip(kept.rows);
        let rows = kept.entities.into_iter().zip(values).zip(kept.uniques);
        for (((entity, value), unique), (time_us, row)) in rows.zip(places) {
            let row = row as usize;
            state.put(StateRow {
                view: self.id,
                entity,
                time_us,
                unique,
                value,
                origin: (origin.partitions[row], origin.offsets[row]),
            });
        }
        Ok(())
    }

    /// What the view keeps of a batch of its stream's events, in columns.
    pub(crate) fn keep(
        &self,
        events: &RecordBatch,
        origin: Origin<'_>,
    ) -> Result<Kept, DataFusionError> {
        let rows = self.counted_rows(events)?;
        let counted = select(events, &rows)?;
        let entity: Vec<ArrayRef> = self
            .entity
            .iter()
            .map(|column| Arc::clone(counted.column(*column)))
            .collect();
        let operands = self
            .operands
            .iter()
            .zip(&self.operand_types)
            .map(|(expr, data_type)| evaluate(expr, &counted, data_type))
            .collect::<Result<Vec<_>, _>>()?;
        let times = counted
            .column(self.stream.time)
            .as_primitive::<TimestampMicrosecondType>();
        Ok(Kept {
            entities: packed::pack_keys(&entity),
            times: times.values().to_vec(),
            uniques: self.uniques(&counted, &rows, origin),
            operands,
            rows,
        })
    }

    /// Rows that pass WHERE and have an entity and a time.
    fn counted_rows(&self, events: &RecordBatch) -> Result<Vec<u64>, DataFusionError> {
        let passes = match &self.predicate {
            Some(predicate) => {
                let passes = evaluate(predicate, events, &DataType::Boolean)?;
                Some(null_is_false(passes.as_boolean()))
            }
            None => None,
        };
        let named = |row: &usize| {
            let mut columns = self.entity.iter().chain([&self.stream.time]);
            columns.all(|column| events.column(*column).is_valid(*row))
        };
        let passed = |row: &usize| passes.as_ref().is_none_or(|passes| passes.value(*row));
        Ok((0..events.num_rows())
            .filter(passed)
            .filter(named)
            .map(|row| row as u64)
            .collect())
    }

    fn uniques(&self, counted: &RecordBatch, rows: &[u64], origin: Origin<'_>) -> Vec<[u8; 16]> {
        match self.stream.id {
            Some(id) => {
                let ids = packed::pack_keys(&[Arc::clone(counted.column(id))]);
                ids.iter().map(|id| unique_of_id(id)).collect()
            }
            None => rows
                .iter()
                .map(|row| *row as usize)
                .map(|row| unique_of_place(origin.partitions[row], origin.offsets[row]))
                .collect(),
        }
    }
}

/// Does all events at once, and where one or more cannot be evaluated, one at a time to find out which: their row
/// numbers and the reasons.
pub(crate) fn one_by_one_where_it_fails(
    events: &RecordBatch,
    origin: Origin<'_>,
    work: &mut dyn FnMut(&RecordBatch, Origin<'_>) -> Result<(), DataFusionError>,
) -> Vec<(usize, String)> {
    if work(events, origin).is_ok() {
        return Vec::new();
    }
    let mut failed = Vec::new();
    for row in 0..events.num_rows() {
        let place = Origin {
            partitions: &origin.partitions[row..=row],
            offsets: &origin.offsets[row..=row],
        };
        if let Err(error) = work(&events.slice(row, 1), place) {
            failed.push((row, error.strip_backtrace()));
        }
    }
    failed
}

/// A filter that is null does not pass.
fn null_is_false(passes: &BooleanArray) -> BooleanArray {
    match passes.null_count() {
        0 => passes.clone(),
        _ => prep_null_mask_filter(passes),
    }
}

fn select(events: &RecordBatch, rows: &[u64]) -> Result<RecordBatch, DataFusionError> {
    if rows.len() == events.num_rows() {
        return Ok(events.clone());
    }
    let indexes = UInt64Array::from(rows.to_vec());
    let columns = events
        .columns()
        .iter()
        .map(|column| take(column, &indexes, None))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(events.schema(), columns)?)
}

/// As [`evaluate`], with null for rows on which the expression fails (a division by zero, a failed cast): one row of a
/// batch does not keep the others from their answers.
pub(crate) fn evaluate_or_null(
    expr: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    data_type: &DataType,
) -> Result<ArrayRef, DataFusionError> {
    let error = match evaluate(expr, batch, data_type) {
        Ok(values) => return Ok(values),
        Err(error) => error,
    };
    if !is_of_values(&error) {
        return Err(error);
    }
    let rows = (0..batch.num_rows()).map(|row| {
        let value = evaluate(expr, &batch.slice(row, 1), data_type);
        value.unwrap_or_else(|_| new_null_array(data_type, 1))
    });
    let rows: Vec<ArrayRef> = rows.collect();
    let rows: Vec<&dyn Array> = rows.iter().map(AsRef::as_ref).collect();
    Ok(concat(&rows)?)
}

/// Whether values are to blame, and not the expression or the aggregate.
pub(crate) fn is_of_values(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::Execution(_) => true,
        DataFusionError::ArrowError(error, _) => !matches!(
            error.as_ref(),
            ArrowError::SchemaError(_) | ArrowError::NotYetImplemented(_)
        ),
        _ => false,
    }
}

/// A column of `data_type` with one value a row of `batch`.
pub(crate) fn evaluate(
    expr: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    data_type: &DataType,
) -> Result<ArrayRef, DataFusionError> {
    let array = match expr.downcast_ref::<Column>() {
        // Most outputs of a view: the general way checks the schema each time.
        Some(column) if column.index() < batch.num_columns() => {
            Arc::clone(batch.column(column.index()))
        }
        _ => expr.evaluate(batch)?.into_array(batch.num_rows())?,
    };
    if array.data_type() == data_type {
        return Ok(array);
    }
    Ok(cast(&array, data_type)?)
}
