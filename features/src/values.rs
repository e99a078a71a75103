//! The columns of an answer, as they were folded: for one entity, an Arrow array costs more to make than what stands
//! in it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;

use crate::kernel::SlotColumn;

/// A column of an answer: one value an entity.
#[derive(Debug, Clone)]
pub enum Values {
    /// Of type Int64, and whether each is a value. Those that are null are 0.
    Whole(Vec<i64>, Vec<bool>),
    /// The same of type Float64.
    Floating(Vec<f64>, Vec<bool>),
    /// Of any type.
    Any(ArrayRef),
}

impl Default for Values {
    /// Of no entity.
    fn default() -> Self {
        Self::Whole(Vec::new(), Vec::new())
    }
}

impl Values {
    /// As an array.
    #[must_use]
    pub fn to_array(&self) -> ArrayRef {
        match self {
            Self::Whole(values, is_valid) => {
                Arc::new(Int64Array::new(values.clone().into(), nulls(is_valid)))
            }
            Self::Floating(values, is_valid) => {
                Arc::new(Float64Array::new(values.clone().into(), nulls(is_valid)))
            }
            Self::Any(values) => Arc::clone(values),
        }
    }
}

fn nulls(is_valid: &[bool]) -> Option<NullBuffer> {
    let any_null = is_valid.contains(&false);
    any_null.then(|| NullBuffer::from(is_valid.to_vec()))
}

impl SlotColumn {
    /// What was folded, as values of a type.
    pub(crate) fn into_values(self, data_type: &DataType) -> Result<Values, DataFusionError> {
        match (self, data_type) {
            (Self::Whole(values, is_valid), DataType::Int64) => Ok(Values::Whole(values, is_valid)),
            (Self::Floating(values, is_valid), DataType::Float64) => {
                Ok(Values::Floating(values, is_valid))
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
                Values::Whole(all, valid) => {
                    let mut rows = all.iter().zip(valid);
                    assert!(rows.all(|(value, is_valid)| *is_valid || *value == 0));
                }
                Values::Floating(all, valid) => {
                    let mut rows = all.iter().zip(valid);
                    assert!(rows.all(|(value, is_valid)| *is_valid || *value == 0.0));
                }
                Values::Any(_) => {}
            }
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
