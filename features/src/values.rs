//! The columns of an answer, as they were folded: for one entity, an Arrow array costs more to make than what stands
//! in it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;

use crate::slot_column::SlotColumn;

/// A column of an answer: one value an entity.
#[derive(Debug, Clone)]
pub enum Values {
    /// Of type Int64. Those that are null are 0.
    Whole(Vec<i64>, Validity),
    /// The same of type Float64.
    Floating(Vec<f64>, Validity),
    /// Of any type.
    Any(ArrayRef),
}

impl Default for Values {
    /// Of no entity.
    fn default() -> Self {
        Self::Whole(Vec::new(), Validity::none(0))
    }
}

impl Values {
    /// As an array.
    #[must_use]
    pub fn to_array(&self) -> ArrayRef {
        match self {
            Self::Whole(values, valid) => {
                Arc::new(Int64Array::new(values.clone().into(), valid.buffer()))
            }
            Self::Floating(values, valid) => {
                Arc::new(Float64Array::new(values.clone().into(), valid.buffer()))
            }
            Self::Any(values) => Arc::clone(values),
        }
    }
}

/// Which of some values are null.
#[derive(Debug, Clone)]
pub struct Validity(Bits);

#[derive(Debug, Clone)]
enum Bits {
    /// So many, with the lowest bit for the first: they need no memory of their own.
    Few(u64, usize),
    Many(Vec<bool>),
}

impl Validity {
    /// So many nulls.
    pub(crate) fn none(rows: usize) -> Self {
        Self(match rows <= u64::BITS as usize {
            true => Bits::Few(0, rows),
            false => Bits::Many(vec![false; rows]),
        })
    }

    pub(crate) fn set(&mut self, row: usize, is_valid: bool) {
        match &mut self.0 {
            Bits::Few(bits, _) => *bits = (*bits & !(1_u64 << row)) | (u64::from(is_valid) << row),
            Bits::Many(all) => all[row] = is_valid,
        }
    }

    /// Whether the value of a row is none that is null.
    #[must_use]
    pub fn is_valid(&self, row: usize) -> bool {
        match &self.0 {
            Bits::Few(bits, _) => (bits >> row) & 1 == 1,
            Bits::Many(all) => all[row],
        }
    }

    /// The rows that are null, in their order.
    pub fn nulls(&self) -> impl Iterator<Item = usize> {
        let rows = match &self.0 {
            Bits::Few(_, rows) => *rows,
            Bits::Many(all) => all.len(),
        };
        (0..rows).filter(|row| !self.is_valid(*row))
    }

    /// As Arrow has it; none where nothing is null.
    pub(crate) fn buffer(&self) -> Option<NullBuffer> {
        self.nulls().next()?;
        Some(match &self.0 {
            Bits::Few(_, rows) => (0..*rows).map(|row| self.is_valid(row)).collect(),
            Bits::Many(all) => NullBuffer::from(all.clone()),
        })
    }
}

impl SlotColumn {
    /// What was folded, as values of a type.
    pub(crate) fn into_values(self, data_type: &DataType) -> Result<Values, DataFusionError> {
        match (self, data_type) {
            (Self::Whole(values, valid), DataType::Int64) => Ok(Values::Whole(values, valid)),
            (Self::Floating(values, valid), DataType::Float64) => {
                Ok(Values::Floating(values, valid))
            }
            (values, _) => Ok(Values::Any(values.into_array(data_type)?)),
        }
    }

    /// The same as an array.
    pub(crate) fn into_array(self, data_type: &DataType) -> Result<ArrayRef, DataFusionError> {
        let values = self.finish()?;
        // Some aggregates give texts of a kind that answers do not use.
        match values.data_type() == data_type {
            true => Ok(values),
            false => Ok(cast(&values, data_type)?),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{RecordBatch, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::{FeatureView, MemoryState, Origin, Project, SqlFile};

    const SOURCES: &str =
        "CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, n BIGINT, x DOUBLE, at TIMESTAMP NOT NULL)
        STORED AS KAFKA LOCATION 't' WITH ORDER (at)";

    fn view(columns: &str) -> Arc<FeatureView> {
        let file = |path: &str, text: &str| SqlFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let sql = format!(
            "CREATE VIEW v AS SELECT {columns} FROM t WINDOW w AS
             (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)"
        );
        let views = [file("v.sql", &sql)];
        let project = Project::plan(&file("sources.sql", SOURCES), &views, None);
        project.unwrap().views.remove(0)
    }

    /// Of each column, whether no array was made of it. All say what the arrays of an answer say.
    fn check(columns: &str, entities: &[&str], are_as_folded: &[bool]) {
        let view = view(columns);
        let events: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["a", "a", "b"])),
            Arc::new(Int64Array::from(vec![Some(1), Some(5), None])),
            Arc::new(Float64Array::from(vec![Some(0.5), None, None])),
            Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3])),
        ];
        let events = RecordBatch::try_new(Arc::clone(&view.stream.schema), events).unwrap();
        let mut state = MemoryState::default();
        let origin = Origin {
            partitions: &[0; 3],
            offsets: &[0, 1, 2],
        };
        view.state_rows(&events, origin, &mut state).unwrap();
        let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(entities.to_vec()))];
        let times = vec![10; entities.len()];
        let answer = view.look_up(&state, &keys, &times, &mut |_| ()).unwrap();
        let arrays = view.answer(&state, &keys, &times).unwrap();
        assert_eq!(answer.features.len(), are_as_folded.len());
        for (column, values) in answer.features.iter().enumerate() {
            assert_eq!(
                &values.to_array(),
                arrays.column(column),
                "{columns}, {column}"
            );
            let is_as_folded = !matches!(values, Values::Any(_));
            assert_eq!(is_as_folded, are_as_folded[column], "{columns}, {column}");
            match values {
                Values::Whole(all, valid) => assert!(valid.nulls().all(|row| all[row] == 0)),
                Values::Floating(all, valid) => assert!(valid.nulls().all(|row| all[row] == 0.0)),
                Values::Any(_) => {}
            }
        }
    }

    #[test]
    fn nulls_are_known_however_many_values_there_are() {
        for rows in [0, 1, 63, 64, 65, 200] {
            let mut valid = Validity::none(rows);
            assert_eq!(valid.nulls().count(), rows);
            for row in 0..rows {
                valid.set(row, true);
                valid.set(row, row % 3 != 1);
            }
            let nulls: Vec<usize> = (0..rows).filter(|row| row % 3 == 1).collect();
            assert_eq!(valid.nulls().collect::<Vec<_>>(), nulls);
            let buffer = valid.buffer();
            assert_eq!(
                buffer.as_ref().map_or(0, NullBuffer::null_count),
                nulls.len()
            );
            for row in nulls {
                assert!(buffer.as_ref().unwrap().is_null(row) && !valid.is_valid(row));
                valid.set(row, true);
            }
            assert!(valid.buffer().is_none());
        }
    }

    #[test]
    fn columns_are_what_an_answers_arrays_are() {
        let plain = "count(*) OVER w AS c, k, sum(n) OVER w AS s, avg(x) OVER w AS a,
            count(*) OVER w AS again, string_agg(k, ' ') OVER w AS names, max(x) OVER w AS m";
        let are_as_folded = [true, false, true, true, true, false, true];
        for entities in [&["a"][..], &["b"], &["nobody"], &["a", "nobody", "b", "a"]] {
            check(plain, entities, &are_as_folded);
            // With an expression over aggregates, all of them are arrays.
            let mixed = "k, count(*) OVER w AS c, sum(n) OVER w / count(*) OVER w AS share";
            check(mixed, entities, &[false; 3]);
        }
        check(plain, &[], &[false; 7]);
    }
}
