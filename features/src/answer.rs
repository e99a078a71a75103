//! Answers of a view as of a time: the events that each frame covers, through DataFusion's accumulators.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter;
use datafusion::common::{DataFusionError, ScalarValue};

use crate::FeatureError;
use crate::packed;
use crate::rows::evaluate;
use crate::state::StateReader;
use crate::view::{FeatureView, Operand, Slot};

/// The events of one entity, in the order of their keys.
struct History {
    times: Vec<i64>,
    operands: Vec<ArrayRef>,
}

impl FeatureView {
    /// What the view says of each row's entity as of the row's time.
    ///
    /// `entity` has the view's entity columns in the order of PARTITION BY, of the stream's types; `as_of` one
    /// time (UTC µs) a row. The answer has the view's schema and one row a row. An entity that is unknown or
    /// null has no events: its counts are 0 and its other aggregates null.
    ///
    /// # Errors
    /// [`FeatureError::State`] when the store fails, [`FeatureError::Damaged`] when a row does not have the
    /// view's layout, [`FeatureError::Evaluate`] when an expression fails on an answer.
    pub fn answer(
        &self,
        state: &dyn StateReader,
        entity: &[ArrayRef],
        as_of: &[i64],
    ) -> Result<RecordBatch, FeatureError> {
        self.check_entity_columns(entity, as_of.len())?;
        let keys = packed::pack(entity, as_of.len());
        let mut values = vec![vec![ScalarValue::Null; as_of.len()]; self.slots.len()];
        for (key, rows) in group(&keys) {
            let history = self.history(state, key, &rows, as_of)?;
            for row in rows {
                self.answer_row(&history, as_of[row], |slot, value| {
                    values[slot][row] = value
                })?;
            }
        }
        self.project(entity, values, as_of.len())
    }

    fn check_entity_columns(&self, entity: &[ArrayRef], rows: usize) -> Result<(), FeatureError> {
        let expected = self
            .entity
            .iter()
            .map(|column| self.stream.schema.field(*column).data_type());
        let fits = entity.len() == self.entity.len()
            && entity
                .iter()
                .zip(expected)
                .all(|(a, t)| a.data_type() == t && a.len() == rows);
        if fits {
            return Ok(());
        }
        let names: Vec<&str> = self.entity_columns().collect();
        Err(FeatureError::Arguments(format!(
            "view '{}' is asked for by {}, one value of each a row",
            self.name,
            names.join(", ")
        )))
    }

    /// The events that any of `rows` may count.
    fn history(
        &self,
        state: &dyn StateReader,
        entity: &[u8],
        rows: &[usize],
        as_of: &[i64],
    ) -> Result<History, FeatureError> {
        let asked = rows.iter().map(|row| as_of[*row]);
        let newest = asked.clone().max().unwrap_or(i64::MIN);
        let oldest = asked.min().unwrap_or(i64::MAX);
        let from = self
            .reach_us()
            .map_or(i64::MIN, |reach| oldest.saturating_sub(reach));
        let mut times = Vec::new();
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        state.scan(self.id, entity, from..newest, &mut |time, value| {
            times.push(time);
            bytes.extend_from_slice(value);
            ends.push(bytes.len());
            true
        })?;
        let starts = [0].into_iter().chain(ends.iter().copied());
        let packed: Vec<&[u8]> = starts
            .zip(&ends)
            .map(|(start, end)| &bytes[start..*end])
            .collect();
        let operands = packed::unpack(&self.operand_types, &packed).map_err(|detail| {
            FeatureError::Damaged {
                view: self.name.clone(),
                detail,
            }
        })?;
        Ok(History { times, operands })
    }

    fn answer_row(
        &self,
        history: &History,
        as_of: i64,
        mut set: impl FnMut(usize, ScalarValue),
    ) -> Result<(), FeatureError> {
        let covers: Vec<_> = self
            .frames
            .iter()
            .map(|frame| frame.cover(&history.times, as_of))
            .collect();
        for (index, slot) in self.slots.iter().enumerate() {
            let cover = &covers[slot.frame];
            let value = slot
                .aggregate_over(history, cover.start, cover.len())
                .map_err(FeatureError::evaluate(format!("view '{}'", self.name)))?;
            set(index, value);
        }
        Ok(())
    }

    fn project(
        &self,
        entity: &[ArrayRef],
        values: Vec<Vec<ScalarValue>>,
        rows: usize,
    ) -> Result<RecordBatch, FeatureError> {
        if rows == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let context = || FeatureError::evaluate(format!("view '{}'", self.name));
        let slots = values.into_iter().map(ScalarValue::iter_to_array);
        let slots = slots.collect::<Result<Vec<_>, _>>().map_err(context())?;
        let columns = entity.iter().cloned().chain(slots).collect();
        let row = batch(&self.row_schema, columns, rows).map_err(context())?;
        let outputs = self
            .outputs
            .iter()
            .zip(self.schema.fields())
            .map(|(output, field)| evaluate(output, &row, field.data_type()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(context())?;
        batch(&self.schema, outputs, rows).map_err(context())
    }
}

impl Slot {
    fn aggregate_over(
        &self,
        history: &History,
        start: usize,
        length: usize,
    ) -> Result<ScalarValue, DataFusionError> {
        let keep = self
            .filter
            .as_ref()
            .map(|f| f.values(history, start, length))
            .transpose()?;
        let keep = keep.as_ref().map(|keep| keep.as_boolean());
        let arguments = self
            .arguments
            .iter()
            .map(|argument| argument.filtered(history, start, length, keep))
            .collect::<Result<Vec<_>, _>>()?;
        let mut accumulator = self.aggregate.create_accumulator()?;
        if arguments.first().is_some_and(|first| !first.is_empty()) {
            accumulator.update_batch(&arguments)?;
        }
        accumulator.evaluate()
    }
}

impl Operand {
    fn values(
        &self,
        history: &History,
        start: usize,
        length: usize,
    ) -> Result<ArrayRef, DataFusionError> {
        match self {
            Self::Kept(index) => Ok(history.operands[*index].slice(start, length)),
            Self::Literal(value) => value.to_array_of_size(length),
        }
    }

    fn filtered(
        &self,
        history: &History,
        start: usize,
        length: usize,
        keep: Option<&BooleanArray>,
    ) -> Result<ArrayRef, DataFusionError> {
        let values = self.values(history, start, length)?;
        Ok(match keep {
            Some(keep) => filter(&values, keep)?,
            None => values,
        })
    }
}

/// Rows by key, in the order of their first appearance.
fn group(keys: &[Vec<u8>]) -> Vec<(&[u8], Vec<usize>)> {
    let mut groups: Vec<(&[u8], Vec<usize>)> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(keys.len());
    for (row, key) in keys.iter().enumerate() {
        let place = *places.entry(key).or_insert_with(|| {
            groups.push((key, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(row);
    }
    groups
}

/// A batch of `schema`, also when it has no columns.
pub(crate) fn batch(
    schema: &arrow::datatypes::SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, DataFusionError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}
