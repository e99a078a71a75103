//! Answers of a view as of a time: the events that each frame covers, through DataFusion's accumulators.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use crate::FeatureError;
use crate::decay::decayed_to;
use crate::history::{History, Item};
use crate::packed;
use crate::read_plan;
use crate::rows::{evaluate_or_null, is_of_values};
use crate::slot_column::SlotColumn;
use crate::state::StateReader;
use crate::tile::Tile;
use crate::values::Values;
use crate::view::{FeatureView, Measure};

/// What a view says of some entities.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The columns of the view's schema, one value an entity.
    pub features: Vec<Values>,
    /// Whether a window of the view covers an event of the entity.
    pub is_present: Vec<bool>,
    /// Whether a time asked for lay inside a span whose events a view with a resolution knows only in sum: the answer
    /// is as of the span's start.
    pub is_rounded: bool,
}

impl FeatureView {
    /// What the view says of each row's entity as of the row's time.
    ///
    /// `entity` has the view's entity columns in the order of PARTITION BY, of the stream's types; `as_of` one
    /// time (UTC µs) a row. The answer has the view's schema and one row a row. An entity that is unknown or
    /// null has no events: its counts are 0 and its other aggregates null.
    ///
    /// # Errors
    /// [`FeatureError::State`] when the store fails, or does not [go on](StateReader::go_on);
    /// [`FeatureError::Damaged`] when a row does not have the view's layout, [`FeatureError::Evaluate`] when an
    /// expression fails on an answer.
    pub fn answer(
        &self,
        state: &dyn StateReader,
        entity: &[ArrayRef],
        as_of: &[i64],
    ) -> Result<RecordBatch, FeatureError> {
        self.answer_and_sum_up(state, entity, as_of, &mut |_| ())
    }

    /// As [`answer`](Self::answer); `tiles` gets the partial aggregates that were made on the way. Stored, they
    /// spare later answers the work. One is worth storing when all events of its span are known, and stale as
    /// soon as another event of its span comes.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn answer_and_sum_up(
        &self,
        state: &dyn StateReader,
        entity: &[ArrayRef],
        as_of: &[i64],
        tiles: &mut dyn FnMut(Tile),
    ) -> Result<RecordBatch, FeatureError> {
        let part = self.part(state, entity, as_of, tiles)?;
        self.project(entity, part.values, as_of)
    }

    /// As [`answer_and_sum_up`](Self::answer_and_sum_up), with which entities have events in the windows. No arrays are
    /// made where they can be spared.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn look_up(
        &self,
        state: &dyn StateReader,
        entity: &[ArrayRef],
        as_of: &[i64],
        tiles: &mut dyn FnMut(Tile),
    ) -> Result<Answer, FeatureError> {
        let part = self.part(state, entity, as_of, tiles)?;
        Ok(Answer {
            features: self.values(entity, part.values, as_of)?,
            is_present: part.is_present,
            is_rounded: part.is_rounded,
        })
    }

    /// What the view's aggregates are.
    fn part(
        &self,
        state: &dyn StateReader,
        entity: &[ArrayRef],
        as_of: &[i64],
        tiles: &mut dyn FnMut(Tile),
    ) -> Result<Part, FeatureError> {
        self.check_entity_columns(entity, as_of.len())?;
        let keys = packed::pack_keys(entity);
        let groups = group(&keys);
        let mut part = match state.shared().filter(|_| as_of.len() >= WORTH_THREADS) {
            Some(shared) => self.answer_on_all_cores(shared, groups, as_of)?,
            None => self.answer_groups(state, groups, as_of)?,
        };
        part.tiles.drain(..).for_each(tiles);
        Ok(part)
    }

    /// Answers rows by entity.
    fn answer_groups(
        &self,
        state: &dyn StateReader,
        groups: Vec<Group<'_>>,
        as_of: &[i64],
    ) -> Result<Part, FeatureError> {
        let mut part = Part::new(self, as_of.len());
        let mut asked = Vec::new();
        let mut covered = vec![Vec::new(); self.frames.len()];
        for (key, rows) in groups {
            state.go_on()?;
            asked.clear();
            asked.extend(rows.iter().map(|row| as_of[*row]));
            let mut history = read_plan::load(self, state, key, &asked)?;
            for row in rows {
                let time = as_of[row];
                part.is_present[row] =
                    self.answer_row(&mut history, time, &mut covered, &mut part.values, row)?;
            }
            part.is_rounded |= history.is_rounded();
            self.hand_out(key, &mut history, &mut |tile| part.tiles.push(tile))?;
        }
        Ok(part)
    }

    /// As [`answer_groups`](Self::answer_groups), some entities on each core.
    fn answer_on_all_cores(
        &self,
        state: &(dyn StateReader + Sync),
        groups: Vec<Group<'_>>,
        as_of: &[i64],
    ) -> Result<Part, FeatureError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut shares = shares(groups, as_of.len().div_ceil(cores));
        let work = |share: &mut Share<'_>| {
            let asked: Vec<i64> = share.rows.iter().map(|row| as_of[*row]).collect();
            self.answer_groups(state, std::mem::take(&mut share.groups), &asked)
        };
        let parts = std::thread::scope(|scope| {
            let Some((first, others)) = shares.split_first_mut() else {
                return Vec::new();
            };
            let others: Vec<_> = others
                .iter_mut()
                .map(|share| scope.spawn(|| work(share)))
                .collect();
            let first = work(first);
            let joined = others.into_iter().map(|thread| {
                let part = thread.join();
                part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            std::iter::once(first).chain(joined).collect()
        });
        let mut all = Part::new(self, as_of.len());
        for (share, part) in shares.iter().zip(parts) {
            all.put(&share.rows, part?);
        }
        Ok(all)
    }

    /// A column a slot, of `rows` nulls.
    pub(crate) fn slot_columns(&self, rows: usize) -> Vec<SlotColumn> {
        let slots = self.slots.iter();
        slots
            .map(|slot| SlotColumn::new(&self.measures[slot.measure], rows))
            .collect()
    }

    pub(crate) fn damaged(&self, detail: String) -> FeatureError {
        FeatureError::Damaged {
            view: self.name.clone(),
            detail,
        }
    }

    fn hand_out(
        &self,
        entity: &[u8],
        history: &mut History<'_>,
        tiles: &mut dyn FnMut(Tile),
    ) -> Result<(), FeatureError> {
        let Some(codec) = &self.tiles else {
            return Ok(());
        };
        for (span, node) in history.take_made() {
            let value = codec.encode(&node).map_err(|e| {
                FeatureError::evaluate(format!("a tile of view '{}'", self.name))(e.into())
            })?;
            tiles(Tile {
                view: self.id,
                entity: entity.to_vec(),
                span,
                value,
            });
        }
        Ok(())
    }

    pub(crate) fn check_entity_columns(
        &self,
        entity: &[ArrayRef],
        rows: usize,
    ) -> Result<(), FeatureError> {
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

    /// Sets `row` of the slots' columns to what they are as of a time, and `covered` to what each frame covers. True
    /// where a frame covers an event.
    pub(crate) fn answer_row(
        &self,
        history: &mut History<'_>,
        as_of: i64,
        covered: &mut [Vec<Item>],
        values: &mut [SlotColumn],
        row: usize,
    ) -> Result<bool, FeatureError> {
        let context = |e| FeatureError::evaluate(format!("view '{}'", self.name))(e);
        for (frame, items) in self.frames.iter().zip(covered.iter_mut()) {
            history.items(frame, as_of, items).map_err(context)?;
        }
        for (slot, column) in self.slots.iter().zip(values) {
            let measure = &self.measures[slot.measure];
            let items = &covered[slot.frame];
            match self.answer_slot(history, measure, items, as_of, column, row) {
                // Null, as where an expression over aggregates fails.
                Err(error) if is_of_values(&error) => {}
                answered => answered.map_err(context)?,
            }
        }
        Ok(covered.iter().any(|items| !items.is_empty()))
    }

    fn answer_slot(
        &self,
        history: &History<'_>,
        measure: &Measure,
        items: &[Item],
        as_of: i64,
        column: &mut SlotColumn,
        row: usize,
    ) -> Result<(), DataFusionError> {
        if let Some(kernel) = measure.kernel {
            column.set_folded(row, kernel, history.fold(kernel, measure, items)?);
            return Ok(());
        }
        if let Some(distinct) = measure.distinct {
            let count = history.count_distinct(distinct, measure, items)?;
            column.set_count(row, count);
            return Ok(());
        }
        let mut accumulator = history.accumulate(measure, items)?;
        let value = match measure.half_life_us {
            Some(half_life) => decayed_to(as_of, half_life, &accumulator.state()?),
            None => accumulator.evaluate(),
        };
        column.set(row, value?);
        Ok(())
    }

    /// The view's columns of what was folded.
    fn values(
        &self,
        entity: &[ArrayRef],
        slots: Vec<SlotColumn>,
        as_of: &[i64],
    ) -> Result<Vec<Values>, FeatureError> {
        let plain = self.plain.as_ref().filter(|_| !as_of.is_empty());
        let Some(places) = plain else {
            let batch = self.project(entity, slots, as_of)?;
            return Ok(batch.columns().iter().cloned().map(Values::Any).collect());
        };
        let context = |e| FeatureError::evaluate(format!("view '{}'", self.name))(e);
        let mut slots: Vec<Option<SlotColumn>> = slots.into_iter().map(Some).collect();
        let mut columns: Vec<Values> = Vec::with_capacity(places.len());
        for (place, field) in places.iter().zip(self.schema.fields()) {
            let values = match place.checked_sub(entity.len()) {
                None => Values::Any(Arc::clone(&entity[*place])),
                Some(slot) => match slots.get_mut(slot).and_then(Option::take) {
                    Some(values) => values.into_values(field.data_type()).map_err(context)?,
                    // It is selected twice.
                    None => {
                        let first = places.iter().position(|other| other == place);
                        first
                            .and_then(|first| columns.get(first).cloned())
                            .unwrap_or_default()
                    }
                },
            };
            columns.push(values);
        }
        Ok(columns)
    }

    pub(crate) fn project(
        &self,
        entity: &[ArrayRef],
        values: Vec<SlotColumn>,
        as_of: &[i64],
    ) -> Result<RecordBatch, FeatureError> {
        let rows = as_of.len();
        if rows == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let context = |e| FeatureError::evaluate(format!("view '{}'", self.name))(e);
        let types = self.row_schema.fields().iter().skip(entity.len());
        let slots = values.into_iter().zip(types);
        let slots = slots
            .map(|(values, field)| values.into_array(field.data_type()))
            .collect::<Result<Vec<_>, DataFusionError>>()
            .map_err(context)?;
        let mut columns: Vec<ArrayRef> = entity.iter().cloned().chain(slots).collect();
        if let Some(places) = &self.plain {
            let outputs = places.iter().map(|place| Arc::clone(&columns[*place]));
            return batch(&self.schema, outputs.collect(), rows).map_err(context);
        }
        columns.push(Arc::new(TimestampMicrosecondArray::from(as_of.to_vec())));
        let row = batch(&self.row_schema, columns, rows).map_err(context)?;
        outputs_on(&self.outputs, &row, &self.schema).map_err(context)
    }
}

/// Where each of a view's columns stands in a row of the entity's columns and the aggregates, if each is one of those as
/// it is. The last column of `row` is the time asked for, which is none of them.
pub(crate) fn plain_places(
    outputs: &[Arc<dyn PhysicalExpr>],
    schema: &Schema,
    row: &Schema,
) -> Option<Vec<usize>> {
    let time = row.fields().len().checked_sub(1)?;
    let place = |(output, field): (&Arc<dyn PhysicalExpr>, &Arc<Field>)| {
        let place = output.downcast_ref::<Column>()?.index();
        let is_same = row.fields().get(place)?.data_type() == field.data_type();
        (is_same && place < time).then_some(place)
    };
    outputs.iter().zip(schema.fields()).map(place).collect()
}

/// So many rows are worth a thread on each core: each takes microseconds.
const WORTH_THREADS: usize = 512;

/// An entity, and the rows that ask for it.
type Group<'a> = (&'a [u8], Vec<usize>);

/// What was found out for some rows.
struct Part {
    values: Vec<SlotColumn>,
    is_present: Vec<bool>,
    is_rounded: bool,
    tiles: Vec<Tile>,
}

impl Part {
    fn new(view: &FeatureView, rows: usize) -> Self {
        Self {
            values: view.slot_columns(rows),
            is_present: vec![false; rows],
            is_rounded: false,
            tiles: Vec::new(),
        }
    }

    /// Puts what was found out for these rows.
    fn put(&mut self, rows: &[usize], part: Self) {
        for (values, of_rows) in self.values.iter_mut().zip(part.values) {
            values.put(rows, of_rows);
        }
        for (row, is_present) in rows.iter().zip(part.is_present) {
            self.is_present[*row] = is_present;
        }
        self.is_rounded |= part.is_rounded;
        self.tiles.extend(part.tiles);
    }
}

/// Some entities, whose rows are counted from 0, and which rows those are.
#[derive(Default)]
struct Share<'a> {
    groups: Vec<Group<'a>>,
    rows: Vec<usize>,
}

/// Cuts groups into shares of about so many rows.
fn shares(groups: Vec<Group<'_>>, rows: usize) -> Vec<Share<'_>> {
    let mut shares = vec![Share::default()];
    for (key, of_key) in groups {
        if shares.last().is_none_or(|last| last.rows.len() >= rows) {
            shares.push(Share::default());
        }
        if let Some(last) = shares.last_mut() {
            let first = last.rows.len();
            last.rows.extend(of_key);
            last.groups.push((key, (first..last.rows.len()).collect()));
        }
    }
    shares
}

/// Rows by key, in the order of their first appearance.
fn group(keys: &[Vec<u8>]) -> Vec<Group<'_>> {
    if let [key] = keys {
        return vec![(key, vec![0])];
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
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

/// The outputs on each row of a batch, as a batch of `schema`.
pub(crate) fn outputs_on(
    outputs: &[Arc<dyn PhysicalExpr>],
    row: &RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, DataFusionError> {
    let columns = outputs
        .iter()
        .zip(schema.fields())
        .map(|(output, field)| evaluate_or_null(output, row, field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    batch(schema, columns, row.num_rows())
}

/// A batch of `schema`, also when it has no columns.
pub(crate) fn batch(
    schema: &SchemaRef,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use arrow::array::{AsArray, Float32Array, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::state::{MemoryState, Over, Read, StateError, StateRow, StateWriter};
    use crate::view::Origin;
    use crate::{Project, SqlFile};

    fn file(path: &str, text: &str) -> SqlFile {
        SqlFile {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn an_output_that_fails_on_an_answer_is_null_in_that_answer() {
        let sources =
            "CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, n BIGINT, at TIMESTAMP NOT NULL)
            STORED AS KAFKA LOCATION 't' WITH ORDER (at)";
        let sql = "CREATE VIEW v AS SELECT k, 100 / count(*) OVER w AS share,
            string_agg(k, ' ') OVER w AS names FROM t
            WINDOW w AS (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";
        let project = Project::plan(&file("sources.sql", sources), &[file("v.sql", sql)], None);
        let view = project.unwrap().views.remove(0);
        let events: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["a", "a"])),
            Arc::new(Int64Array::from(vec![1, 2])),
            Arc::new(TimestampMicrosecondArray::from(vec![1, 2])),
        ];
        let events = RecordBatch::try_new(Arc::clone(&view.stream.schema), events).unwrap();
        let mut state = MemoryState::default();
        let origin = Origin {
            partitions: &[0, 0],
            offsets: &[0, 1],
        };
        view.state_rows(&events, origin, &mut state).unwrap();
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "nobody", "a"]));
        let answer = view.answer(&state, &[keys], &[3, 3, 2]).unwrap();
        let share = answer.column_by_name("share").unwrap();
        let share: Vec<_> = share.as_primitive::<Int64Type>().iter().collect();
        assert_eq!(share, [Some(50), None, Some(100)]);
        let names = answer.column_by_name("names").unwrap();
        let names: Vec<_> = names.as_string::<i32>().iter().collect();
        assert_eq!(names, [Some("a a"), None, Some("a")]);
    }

    /// A state that goes on for so many entities.
    struct Ending {
        state: MemoryState,
        left: Cell<usize>,
    }

    impl Over for Ending {
        fn state(&self) -> &MemoryState {
            &self.state
        }

        fn go_on_over(&self) -> Result<(), StateError> {
            let left = self.left.get().checked_sub(1);
            let left = left.ok_or_else(|| StateError("nobody waits".to_owned()))?;
            self.left.set(left);
            Ok(())
        }
    }

    #[test]
    fn an_answer_that_is_not_wanted_any_more_ends_with_an_entity() {
        let sources = "CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, at TIMESTAMP NOT NULL)
            STORED AS KAFKA LOCATION 't' WITH ORDER (at)";
        let sql = "CREATE VIEW v AS SELECT k, count(*) OVER w AS c FROM t
            WINDOW w AS (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";
        let project = Project::plan(&file("sources.sql", sources), &[file("v.sql", sql)], None);
        let view = project.unwrap().views.remove(0);
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "a"]));
        let answered = |entities| {
            let state = Read(Ending {
                state: MemoryState::default(),
                left: Cell::new(entities),
            });
            view.answer(&state, &[Arc::clone(&keys)], &[5; 3])
        };
        assert_eq!(answered(2).unwrap().num_rows(), 3);
        let ended = answered(1).unwrap_err();
        assert!(matches!(ended, FeatureError::State(_)), "{ended}");
    }

    #[test]
    fn zero_is_one_entity_and_one_value_whatever_its_sign() {
        let sources =
            "CREATE EXTERNAL TABLE t (k DOUBLE NOT NULL, x DOUBLE, y REAL, at TIMESTAMP NOT NULL)
            STORED AS KAFKA LOCATION 't' WITH ORDER (at)";
        let sql = "CREATE VIEW v AS SELECT k, count(*) OVER w AS c, count(DISTINCT x) OVER w AS d,
            count(DISTINCT y) OVER w AS e FROM t
            WINDOW w AS (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";
        let project = Project::plan(&file("sources.sql", sources), &[file("v.sql", sql)], None);
        let view = project.unwrap().views.remove(0);
        let zeros = [0.0, -0.0, 0.0, -0.0];
        let events: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from_iter_values(zeros)),
            Arc::new(Float64Array::from(vec![0.0, 0.0, -0.0, 7.0])),
            Arc::new(Float32Array::from(vec![-0.0, -0.0, 0.0, 0.0])),
            Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3, 4])),
        ];
        let events = RecordBatch::try_new(Arc::clone(&view.stream.schema), events).unwrap();
        let mut state = MemoryState::default();
        let origin = Origin {
            partitions: &[0; 4],
            offsets: &[0, 1, 2, 3],
        };
        view.state_rows(&events, origin, &mut state).unwrap();
        let keys: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0]));
        let answer = view.answer(&state, &[keys], &[5, 5]).unwrap();
        for (name, expected) in [("c", 4), ("d", 2), ("e", 1)] {
            let values = answer.column_by_name(name).unwrap();
            let values: Vec<_> = values.as_primitive::<Int64Type>().iter().collect();
            assert_eq!(values, [Some(expected); 2], "{name}");
        }
    }

    /// The rows that a view puts, in their order.
    #[derive(Default)]
    struct Put(Vec<StateRow>);

    impl StateWriter for Put {
        fn put(&mut self, row: StateRow) {
            self.0.push(row);
        }
    }

    #[test]
    fn zero_is_one_id_whatever_its_sign() {
        let sources =
            "CREATE EXTERNAL TABLE t (id DOUBLE NOT NULL, k VARCHAR NOT NULL, at TIMESTAMP NOT NULL)
            STORED AS KAFKA LOCATION 't' WITH ORDER (at) OPTIONS ('key' 'id', 'id' 'id')";
        let sql = "CREATE VIEW v AS SELECT k, count(*) OVER w AS c FROM t
            WINDOW w AS (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";
        let project = Project::plan(&file("sources.sql", sources), &[file("v.sql", sql)], None);
        let view = project.unwrap().views.remove(0);
        let events: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from(vec![0.0, -0.0, 1.0])),
            Arc::new(StringArray::from(vec!["a", "a", "a"])),
            Arc::new(TimestampMicrosecondArray::from(vec![1, 1, 1])),
        ];
        let events = RecordBatch::try_new(Arc::clone(&view.stream.schema), events).unwrap();
        let origin = Origin {
            partitions: &[0; 3],
            offsets: &[0, 1, 2],
        };
        let mut put = Put::default();
        view.state_rows(&events, origin, &mut put).unwrap();
        let [first, again, other] = put.0.as_slice() else {
            panic!("{:?}", put.0);
        };
        assert_eq!(first.unique, again.unique);
        assert_ne!(first.unique, other.unique);
        // Either sign of a tombstone's key deletes it.
        let ids: ArrayRef = Arc::new(Float64Array::from(vec![-0.0, 0.0]));
        for id in view.stream.deleted_ids(&ids).unwrap() {
            assert_eq!(id.unique, first.unique);
        }
    }

    #[test]
    fn all_cores_say_what_one_says() {
        let sources =
            "CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, n BIGINT, at TIMESTAMP NOT NULL)
            STORED AS KAFKA LOCATION 't' WITH ORDER (at)";
        let sql = "CREATE VIEW v AS SELECT k, count(*) OVER w AS c, avg(n) OVER w AS a,
            stddev(n) OVER w AS s, count(DISTINCT n) OVER w AS d FROM t
            WINDOW w AS (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";
        let project = Project::plan(&file("sources.sql", sources), &[file("v.sql", sql)], None);
        let view = project.unwrap().views.remove(0);
        // One entity has half of the rows, and there are tiles to be made.
        let count = 4_000_i64;
        let keys = (0..count).map(|row| match row % 2 {
            0 => "busy".to_owned(),
            _ => format!("quiet {}", row % 301),
        });
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(keys));
        let times: Vec<i64> = (0..count).map(|row| row * 1_000_000).collect();
        let events: Vec<ArrayRef> = vec![
            Arc::clone(&keys),
            Arc::new(Int64Array::from_iter_values(0..count)),
            Arc::new(TimestampMicrosecondArray::from(times.clone())),
        ];
        let events = RecordBatch::try_new(Arc::clone(&view.stream.schema), events).unwrap();
        let mut state = MemoryState::default();
        let origin = Origin {
            partitions: &vec![0; count as usize],
            offsets: &(0..count).collect::<Vec<_>>(),
        };
        view.state_rows(&events, origin, &mut state).unwrap();
        let packed = packed::pack(&[keys], times.len());
        let columns = |part: Part| {
            let columns = part.values.into_iter().map(SlotColumn::finish);
            columns.collect::<Result<Vec<_>, _>>().unwrap()
        };
        let sorted = |part: &mut Part| {
            let mut tiles = std::mem::take(&mut part.tiles);
            tiles.sort_by(|a, b| (&a.entity, a.span).cmp(&(&b.entity, b.span)));
            tiles
        };
        let mut one = view.answer_groups(&state, group(&packed), &times).unwrap();
        let mut all = view
            .answer_on_all_cores(&state, group(&packed), &times)
            .unwrap();
        assert_eq!(sorted(&mut all), sorted(&mut one));
        assert_eq!(all.is_present, one.is_present);
        assert_eq!(columns(all), columns(one));
    }
}
