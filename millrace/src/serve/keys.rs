//! The entities of a request as columns of their stream's types.
//!
//! A text is parsed to its column's type; a number goes into any column of numbers or text that can
//! hold it whole; everything else must be of the column's own kind. Cutting a fraction, or reading
//! TRUE as 1, would ask about another entity than the caller meant.

use arrow::array::{ArrayRef, new_empty_array};
use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use millrace_features::FeatureView;
use millrace_proto::v1::value::Kind;
use millrace_proto::v1::{Entity, Value};

use super::refusal::Refusal;
use super::values::time_us;

/// The columns of a view's entity, in the order of PARTITION BY, one row an entity.
///
/// # Errors
/// A column that is missing, too much, null, or of another type, by its path in the message.
pub(super) fn entity_columns(
    view: &FeatureView,
    entities: &[Entity],
) -> Result<Vec<ArrayRef>, Refusal> {
    for (index, entity) in entities.iter().enumerate() {
        check_names(view, index, entity)?;
    }
    let field = |column: &usize| view.stream.schema.field(*column);
    view.entity
        .iter()
        .map(|column| key_column(field(column), entities))
        .collect()
}

fn check_names(view: &FeatureView, index: usize, entity: &Entity) -> Result<(), Refusal> {
    let missing = view
        .entity_columns()
        .find(|name| !entity.key.contains_key(*name));
    let known = |name: &String| view.entity_columns().any(|column| column == name.as_str());
    // The alphabet's first, so that the same mistake gives the same message.
    let extra = entity.key.keys().filter(|name| !known(name)).min();
    let mistake = match (extra, missing) {
        (Some(name), _) => format!("'{name}' names no entity here"),
        (None, Some(name)) => format!("'{name}' is missing"),
        (None, None) => return Ok(()),
    };
    let columns: Vec<&str> = view.entity_columns().collect();
    let view = &view.name;
    let reason = format!(
        "{mistake}: view '{view}' is asked for by {}",
        columns.join(" and ")
    );
    Err(Refusal::argument(format!("entities[{index}].key"), reason))
}

/// One column of the key, over all entities.
fn key_column(field: &Field, entities: &[Entity]) -> Result<ArrayRef, Refusal> {
    if entities.is_empty() {
        return Ok(new_empty_array(field.data_type()));
    }
    let name = field.name();
    let values = entities.iter().enumerate().map(|(index, entity)| {
        let value = entity.key.get(name);
        key_value(value, field.data_type())
            .map_err(|reason| Refusal::argument(format!("entities[{index}].key[{name:?}]"), reason))
    });
    let values = values.collect::<Result<Vec<_>, _>>()?;
    ScalarValue::iter_to_array(values).map_err(|e| Refusal::Internal(e.strip_backtrace()))
}

/// A value as one of a type, or why it is none.
fn key_value(value: Option<&Value>, data_type: &DataType) -> Result<ScalarValue, String> {
    let kind = value
        .and_then(|value| value.kind.as_ref())
        .filter(|kind| !matches!(kind, Kind::NullValue(_)))
        .ok_or("it is null, and no entity is named by null")?;
    let (scalar, what) = scalar(kind)?;
    if !is_meant(kind, data_type) {
        return Err(format!(
            "it is {what}, and the column is of type {data_type}"
        ));
    }
    match scalar.cast_to(data_type) {
        Ok(cast) if !cast.is_null() => Ok(cast),
        _ => Err(format!("'{scalar}' is no value of type {data_type}")),
    }
}

/// A value as DataFusion has it, and what to call its kind.
fn scalar(kind: &Kind) -> Result<(ScalarValue, &'static str), String> {
    Ok(match kind {
        Kind::NullValue(_) => (ScalarValue::Null, "null"),
        Kind::BoolValue(value) => (ScalarValue::Boolean(Some(*value)), "a boolean"),
        Kind::Int64Value(value) => (ScalarValue::Int64(Some(*value)), "an integer"),
        Kind::Uint64Value(value) => (ScalarValue::UInt64(Some(*value)), "an integer"),
        Kind::DoubleValue(value) => (ScalarValue::Float64(Some(*value)), "a double"),
        Kind::StringValue(value) => (ScalarValue::Utf8(Some(value.clone())), "a text"),
        Kind::BytesValue(value) => (ScalarValue::Binary(Some(value.clone())), "bytes"),
        Kind::TimestampValue(value) => {
            let time = time_us(value).ok_or("its time is not in the years 1 to 9999")?;
            let time = ScalarValue::TimestampMicrosecond(Some(time), None);
            (time, "a timestamp")
        }
    })
}

/// Whether a value of a kind says what it means in a column of a type.
fn is_meant(kind: &Kind, data_type: &DataType) -> bool {
    match kind {
        Kind::NullValue(_) => false,
        Kind::StringValue(_) => true,
        Kind::BoolValue(_) => data_type == &DataType::Boolean,
        Kind::Int64Value(_) | Kind::Uint64Value(_) => {
            data_type.is_numeric() || data_type == &DataType::Utf8
        }
        Kind::DoubleValue(_) => data_type.is_floating(),
        Kind::BytesValue(_) => data_type == &DataType::Binary,
        Kind::TimestampValue(_) => matches!(data_type, DataType::Timestamp(_, _)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::datatypes::TimeUnit;

    fn check(kind: Kind, data_type: DataType, expected: Result<ScalarValue, &str>) {
        let got = key_value(Some(&Value { kind: Some(kind) }), &data_type);
        match expected {
            Ok(value) => assert_eq!(got, Ok(value)),
            Err(part) => {
                let message = got.unwrap_err();
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn values_become_what_they_mean_or_are_refused() {
        let text = |text: &str| Kind::StringValue(text.to_owned());
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        check(text("c1"), DataType::Utf8, Ok(ScalarValue::from("c1")));
        check(text("-7"), DataType::Int64, Ok(ScalarValue::from(-7_i64)));
        check(text("true"), DataType::Boolean, Ok(ScalarValue::from(true)));
        check(
            text("2018-04-01T12:00:00Z"),
            time.clone(),
            Ok(ScalarValue::TimestampMicrosecond(
                Some(1_522_584_000_000_000),
                None,
            )),
        );
        check(
            text("seven"),
            DataType::Int64,
            Err("'seven' is no value of type Int64"),
        );
        check(
            Kind::Int64Value(7),
            DataType::Utf8,
            Ok(ScalarValue::from("7")),
        );
        check(
            Kind::Int64Value(7),
            DataType::Int16,
            Ok(ScalarValue::from(7_i16)),
        );
        check(
            Kind::Int64Value(70_000),
            DataType::Int16,
            Err("no value of type Int16"),
        );
        check(
            Kind::Uint64Value(u64::MAX),
            DataType::Int64,
            Err("no value of type Int64"),
        );
        check(
            Kind::DoubleValue(7.0),
            DataType::Int64,
            Err("it is a double"),
        );
        check(
            Kind::DoubleValue(7.0),
            DataType::Utf8,
            Err("it is a double"),
        );
        check(
            Kind::BoolValue(true),
            DataType::Int64,
            Err("it is a boolean"),
        );
        check(Kind::Int64Value(7), time, Err("it is an integer"));
        check(Kind::NullValue(0), DataType::Utf8, Err("it is null"));
    }
}
