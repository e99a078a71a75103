//! The first differences of each kind, by the events that they are of: where somebody begins to look.

use arrow::array::{Array, ArrayRef};
use arrow::util::display::array_value_to_string;
use serde::Serialize;
use serde_json::Value;

use crate::times::rfc3339;

/// Differences of one kind, in one column, that are named.
const NAMED: usize = 3;

/// An event, by its place among others.
#[derive(Clone, Copy)]
pub(super) struct EventAt<'a> {
    pub(super) ids: &'a ArrayRef,
    pub(super) row: usize,
    pub(super) time_us: i64,
}

/// An event that the log has otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogDifference {
    /// The name of the count that it is part of.
    pub kind: &'static str,
    /// The event's id.
    pub id: String,
    /// Its time.
    pub event_time: String,
    /// The input, or the column, that differs, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The views that an input is computed from, or whose entity a column names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<String>,
    /// What the log has, and what it should have.
    #[serde(flatten)]
    pub values: Option<Values>,
}

/// Two values that should be one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Values {
    /// What the log has.
    pub logged: Value,
    /// What the events, the model or the thresholds say.
    pub recomputed: Value,
}

/// The first differences of each kind.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct FirstDifferences(Vec<LogDifference>);

impl FirstDifferences {
    /// Names an event, unless enough of its kind are named.
    pub(super) fn name(&mut self, kind: &'static str, event: EventAt<'_>) {
        if self.wants(kind, None) {
            self.0.push(event.differs(kind));
        }
    }

    /// Whether another difference of a kind, in a column, is to be named.
    pub(super) fn wants(&self, kind: &str, column: Option<&str>) -> bool {
        let same = self.0.iter();
        let same = same.filter(|it| it.kind == kind && it.column.as_deref() == column);
        same.count() < NAMED
    }

    /// Names a difference in a column. Whoever makes it asks [`wants`](Self::wants) first.
    pub(super) fn push(&mut self, difference: LogDifference) {
        self.0.push(difference);
    }

    /// All of them, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &LogDifference> {
        self.0.iter()
    }
}

impl EventAt<'_> {
    pub(super) fn differs(&self, kind: &'static str) -> LogDifference {
        LogDifference {
            kind,
            id: array_value_to_string(self.ids, self.row).unwrap_or_default(),
            event_time: rfc3339(self.time_us),
            column: None,
            views: Vec::new(),
            values: None,
        }
    }
}

impl LogDifference {
    pub(super) fn in_column(self, column: &str, views: &[String]) -> Self {
        Self {
            column: Some(column.to_owned()),
            views: views.to_vec(),
            ..self
        }
    }

    pub(super) fn between(self, logged: Value, recomputed: Value) -> Self {
        let values = Some(Values { logged, recomputed });
        Self { values, ..self }
    }

    /// For people, on one line.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}: {} of {}", self.kind, self.id, self.event_time);
        if let Some(column) = &self.column {
            let of = match self.views.as_slice() {
                [] => String::new(),
                views => format!(" of {}", views.join(", ")),
            };
            text.push_str(&format!(": {column}{of}"));
        }
        if let Some(Values { logged, recomputed }) = &self.values {
            text.push_str(&format!(": logged {logged}, recomputed {recomputed}"));
        }
        text
    }
}

/// A value of a column, as JSON has it: a number that it has none for (infinity, NaN) is text.
pub(super) fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    let text = array_value_to_string(column, row).unwrap_or_default();
    let data_type = column.data_type();
    match data_type.is_numeric() || *data_type == arrow::datatypes::DataType::Boolean {
        true => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        false => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray};
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_those_of_json() {
        let cases: [(ArrayRef, Value); 7] = [
            (Arc::new(Float64Array::from(vec![123.25])), json!(123.25)),
            (Arc::new(Float64Array::from(vec![1e300])), json!(1e300)),
            (Arc::new(Float64Array::from(vec![f64::NAN])), json!("NaN")),
            (Arc::new(Int64Array::from(vec![i64::MIN])), json!(i64::MIN)),
            (Arc::new(Int64Array::from(vec![None::<i64>])), Value::Null),
            (Arc::new(BooleanArray::from(vec![true])), json!(true)),
            (Arc::new(StringArray::from(vec!["12"])), json!("12")),
        ];
        for (column, expected) in cases {
            assert_eq!(value(&column, 0), expected);
        }
    }

    #[test]
    fn the_first_of_each_kind_are_named() {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..9).map(|row| format!("tx-{row}")),
        ));
        let mut first = FirstDifferences::default();
        for row in 0..9 {
            let event = EventAt {
                ids: &ids,
                row,
                time_us: 1_522_584_000_000_000,
            };
            first.name("missing", event);
            if first.wants("mismatched", Some("amount")) {
                let differs = event.differs("mismatched");
                let differs = differs.in_column("amount", &["a".to_owned(), "b".to_owned()]);
                first.push(differs.between(json!(1.5), Value::Null));
            }
        }
        let texts: Vec<String> = first.iter().map(LogDifference::text).collect();
        assert_eq!(texts.len(), 6);
        assert_eq!(texts[0], "missing: tx-0 of 2018-04-01T12:00:00Z");
        assert_eq!(
            texts[1],
            "mismatched: tx-0 of 2018-04-01T12:00:00Z: amount of a, b: logged 1.5, recomputed null"
        );
        let json = serde_json::to_value(&first).unwrap();
        let missing =
            json!({"kind": "missing", "id": "tx-0", "event_time": "2018-04-01T12:00:00Z"});
        assert_eq!(json[0], missing);
        assert_eq!(json[1]["logged"], json!(1.5));
        assert_eq!(json[1]["recomputed"], Value::Null);
    }
}
