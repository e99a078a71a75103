#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Int64Type, Schema, SchemaRef, TimeUnit,
};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_700_000_000_000_000;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("amount", DataType::Float64, false),
        Field::new("count", DataType::Int64, true),
        Field::new("approved", DataType::Boolean, true),
        Field::new("note", DataType::Utf8View, true),
        Field::new(
            "at",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            false,
        ),
    ]))
}

fn decoder() -> JsonDecoder {
    let spec = StreamSpec {
        name: "tx".into(),
        topic: "tx".into(),
        schema: schema(),
        time_column: 5,
        required: vec![],
        id: None,
    };
    JsonDecoder::new(spec).unwrap()
}

fn decode(payloads: &[&str]) -> Decoded {
    let payloads: Vec<_> = payloads.iter().map(|p| Some(p.as_bytes())).collect();
    decoder().decode(&payloads, NOW).unwrap()
}

fn reason_of(payload: &str) -> Option<Reason> {
    let decoded = decode(&[payload]);
    assert_eq!(decoded.rows.len() + decoded.bad.len(), 1);
    assert_eq!(decoded.batch.num_rows(), decoded.rows.len());
    decoded.bad.first().map(|bad| bad.reason)
}

fn time_of(at: &str) -> Option<i64> {
    let decoded = decode(&[&format!(r#"{{"id":"a","amount":1,"at":{at}}}"#)]);
    let times = decoded.batch.column(5);
    let times = times.as_primitive::<TimestampMicrosecondType>();
    times.iter().next().flatten()
}

#[test]
fn each_kind_of_bad_message_has_its_reason() {
    use Reason::*;
    let check = |payload: &str, expected: Option<Reason>| {
        assert_eq!(reason_of(payload), expected, "{payload}");
    };
    check(r#"{"id":"a","amount":1,"at":0}"#, None);
    check(
        "  {\"id\":\"a\",\n\"amount\":1,\"at\":0, \"more\": [{}]} \n",
        None,
    );

    check("", Some(Unparsable));
    check("  ", Some(Unparsable));
    check("null", Some(Unparsable));
    check("7", Some(Unparsable));
    check("hello", Some(Unparsable));
    check(r#"[{"id":"a","amount":1,"at":0}]"#, Some(Unparsable));
    check(r#"{"id":"a","amount":1,"at":0"#, Some(Unparsable));
    check(
        r#"{"id":"a","amount":1,"at":0}{"id":"a","amount":1,"at":0}"#,
        Some(Unparsable),
    );
    check(r#"{"id":"a","amount":1,"at":0} 5"#, Some(Unparsable));
    check(r#"{"id":"a","amount":1,"at":0}}"#, Some(Unparsable));
    check(r#"{"id":"a","amount":"much","at":0}"#, Some(Unparsable));
    check(r#"{"id":"a","amount":NaN,"at":0}"#, Some(Unparsable));
    check(r#"{"id":"a","amount":"NaN","at":0}"#, Some(Unparsable));
    check(r#"{"id":"a","amount":1e999,"at":0}"#, Some(Unparsable));
    check(r#"{"id":["a"],"amount":1,"at":0}"#, Some(Unparsable));
    check(
        r#"{"id":"a","amount":1,"at":0,"approved":"yes"}"#,
        Some(Unparsable),
    );
    check(
        r#"{"id":"a","amount":1,"at":"yesterday"}"#,
        Some(Unparsable),
    );
    check(r#"{"id":"a","amount":1,"at":true}"#, Some(Unparsable));
    check(
        r#"{"id":"a","amount":1,"at":0,"count":99999999999999999999}"#,
        Some(Unparsable),
    );
    check(r#"{"id":"\ud800","amount":1,"at":0}"#, Some(Unparsable));

    check("{}", Some(MissingField));
    check(r#"{"id":"a","at":0}"#, Some(MissingField));
    check(r#"{"id":null,"amount":1,"at":0}"#, Some(MissingField));
    check(r#"{"id":"a","amount":1}"#, Some(MissingField));

    check(r#"{"id":"a","amount":1,"at":1700000000000}"#, None);
    check(
        r#"{"id":"a","amount":1,"at":1700000000001}"#,
        Some(FutureEventTime),
    );
    check(
        r#"{"id":"a","amount":1,"at":1700000000000000}"#,
        Some(EventTimeOutOfRange),
    );
    check(
        r#"{"id":"a","amount":1,"at":9223372036854775807}"#,
        Some(EventTimeOutOfRange),
    );
    check(
        r#"{"id":"a","amount":1,"at":-1e300}"#,
        Some(EventTimeOutOfRange),
    );
    check(
        r#"{"id":"a","amount":1,"at":"0000-01-01"}"#,
        Some(EventTimeOutOfRange),
    );
}

/// What a column of one type makes of a value as JSON writes it: its array, or what is wrong.
fn read_as(data_type: &DataType, value: &str) -> Result<Arc<dyn Array>, String> {
    let time = Field::new(
        "at",
        DataType::Timestamp(TimeUnit::Microsecond, None),
        false,
    );
    let value_field = Field::new("value", data_type.clone(), true);
    let spec = StreamSpec {
        name: "tx".into(),
        topic: "tx".into(),
        schema: Arc::new(Schema::new(vec![value_field, time])),
        time_column: 1,
        required: vec![],
        id: None,
    };
    let message = format!(r#"{{"value":{value},"at":0}}"#);
    let mut decoder = JsonDecoder::new(spec).unwrap();
    let decoded = decoder.decode(&[Some(message.as_bytes())], NOW).unwrap();
    match decoded.bad.first() {
        Some(bad) => {
            assert_eq!(bad.reason, Reason::Unparsable, "{value}");
            Err(bad.detail.clone())
        }
        None => Ok(Arc::clone(decoded.batch.column(0))),
    }
}

#[test]
fn decimals_are_rounded_from_the_digits_that_were_sent() {
    let price = DataType::Decimal128(12, 2);
    let check = |value: &str, expected: i128| {
        let read = read_as(&price, value).unwrap();
        assert_eq!(read.data_type(), &price);
        let read = read.as_primitive::<Decimal128Type>();
        assert_eq!(read.value(0), expected, "{value}");
    };
    check("1.255", 126);
    check("\"1.255\"", 126);
    check("-1.259", -126);
    check("1.2549999999999999999999999", 125);
    check("1.5e3", 150_000);
    check("-0.0", 0);
    check("7", 700);
    for refused in [
        "9999999999.995",
        "1e10",
        "\"much\"",
        "true",
        "1.2.3",
        "\"\"",
    ] {
        let said = read_as(&price, refused).unwrap_err();
        assert!(said.contains("value: `"), "{said}");
        assert!(
            said.contains("is no number within Decimal128(12, 2)"),
            "{said}"
        );
    }
    assert!(read_as(&price, "[1]").is_err());
    assert!(read_as(&price, "null").unwrap().is_null(0));
}

#[test]
fn a_time_that_is_no_event_time_has_the_range_of_its_column() {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let read = read_as(&time, "9223372036854775").unwrap();
    let read = read.as_primitive::<TimestampMicrosecondType>();
    assert_eq!(read.value(0), 9_223_372_036_854_775_000);
    for beyond in ["9223372036854776", "1e30"] {
        let said = read_as(&time, beyond).unwrap_err();
        assert!(said.contains(beyond), "{said}");
    }
}

#[test]
fn a_column_of_whole_numbers_takes_no_fraction() {
    let check = |value: &str, expected: i64| {
        let read = read_as(&DataType::Int64, value).unwrap();
        let read = read.as_primitive::<Int64Type>();
        assert_eq!(read.value(0), expected, "{value}");
    };
    check("7", 7);
    check("\"7\"", 7);
    check("2.0", 2);
    check("2e3", 2_000);
    check("9007199254740993.0", 9_007_199_254_740_993);
    check("-9223372036854775808", i64::MIN);
    for refused in [
        "1.7",
        "\"1.7\"",
        "1e-1",
        "9223372036854775808",
        "1e30",
        "true",
    ] {
        let said = read_as(&DataType::Int64, refused).unwrap_err();
        assert!(said.contains("is no whole number within Int64"), "{said}");
    }
    assert!(read_as(&DataType::Int64, "[1]").is_err());
    assert!(read_as(&DataType::Int64, "null").unwrap().is_null(0));
    assert!(read_as(&DataType::Int16, "32768").is_err());
}

#[test]
fn a_date_loses_no_time_of_day() {
    let check = |value: &str, expected: i32| {
        let read = read_as(&DataType::Date32, value).unwrap();
        assert_eq!(
            read.as_primitive::<Date32Type>().value(0),
            expected,
            "{value}"
        );
    };
    check("\"2024-01-05\"", 19_727);
    check("\"2024-01-05T00:00:00Z\"", 19_727);
    check("\"20240105\"", 19_727);
    check("20240105", 19_727);
    check("19727", 19_727);
    check("19727.0", 19_727);
    let said = read_as(&DataType::Date32, "\"2024-01-05 12:30:00\"").unwrap_err();
    assert_eq!(
        said,
        "value: `2024-01-05 12:30:00` is not midnight in UTC, and a DATE has no time of day"
    );
    for refused in ["\"2024-01-05T00:00:00.5\"", "19727.5", "\"soon\"", "true"] {
        let said = read_as(&DataType::Date32, refused).unwrap_err();
        assert!(said.starts_with("value: `"), "{said}");
    }
    assert!(read_as(&DataType::Date32, "[1]").is_err());
    assert!(read_as(&DataType::Date32, "null").unwrap().is_null(0));
}

#[test]
fn bytes_are_hexadecimal_digits() {
    let check = |value: &str, expected: &[u8]| {
        let read = read_as(&DataType::Binary, value).unwrap();
        assert_eq!(read.as_binary::<i32>().value(0), expected, "{value}");
    };
    check("\"68656c6c6f\"", b"hello");
    check("\"00FF\"", &[0, 255]);
    check("\"\"", b"");
    let said = read_as(&DataType::Binary, "\"hello\"").unwrap_err();
    assert_eq!(said, "value: `hello` is not hexadecimal digits, two a byte");
    for refused in ["\"686\"", "true", "1.5"] {
        let said = read_as(&DataType::Binary, refused).unwrap_err();
        assert!(said.starts_with("value: `"), "{said}");
    }
    assert!(read_as(&DataType::Binary, "[1]").is_err());
    assert!(read_as(&DataType::Binary, "null").unwrap().is_null(0));
}

#[test]
fn bytes_that_are_no_text_and_tombstones_are_told_apart() {
    let good = br#"{"id":"a","amount":1,"at":0}"#.as_slice();
    let invalid = b"{\"id\":\"\xff\",\"amount\":1,\"at\":0}".as_slice();
    let payloads = [Some(good), None, Some(invalid), Some(good)];
    let decoded = decoder().decode(&payloads, NOW).unwrap();
    assert_eq!(decoded.rows, [0, 3]);
    let reasons: Vec<_> = decoded.bad.iter().map(|b| (b.index, b.reason)).collect();
    assert_eq!(reasons, [(1, Reason::Tombstone), (2, Reason::Unparsable)]);
}

#[test]
fn two_halves_never_make_a_row() {
    let decoded = decode(&[
        r#"{"id":"a","amount":1,"#,
        r#""at":0}"#,
        r#"{"id":"b","amount":2,"at":0"#,
        r#"}"#,
        r#"{"id":"c","amount":3,"at":0}"#,
    ]);
    assert_eq!(decoded.rows, [4]);
    assert_eq!(decoded.bad.len(), 4);
    assert_eq!(decoded.bad[0].detail, "the JSON ends early");
}

#[test]
fn the_missing_column_is_named() {
    let decoded = decode(&[r#"{"id":"a","at":0}"#]);
    assert_eq!(decoded.bad[0].detail, "`amount` is missing");
}

#[test]
fn of_a_key_that_stands_twice_the_last_value_counts() {
    let decoded = decode(&[
        r#"{"id":"a","amount":499.0,"at":0,"amount":1.0}"#,
        r#"{"id":"b","amount":499.0,"at":0,"amount":null}"#,
        r#"{"id":"c","amount":499.0,"at":0,"more":{"amount":1.0}}"#,
    ]);
    assert_eq!(decoded.rows, [0, 2]);
    assert_eq!(decoded.bad[0].detail, "`amount` is missing");
    let amounts = decoded.batch.column(1).as_primitive::<Float64Type>();
    assert_eq!(amounts.values(), &[1.0, 499.0]);
}

#[test]
fn times_are_read_as_documented() {
    let check = |at: &str, expected: i64| assert_eq!(time_of(at), Some(expected), "{at}");
    check("1600000000123", 1_600_000_000_123_000);
    check("\"1600000000123\"", 1_600_000_000_123_000);
    check("1600000000123.25", 1_600_000_000_123_250);
    check("1600000000123.2519", 1_600_000_000_123_251);
    check("1.6e12", 1_600_000_000_000_000);
    check("-1", -1_000);
    check("-0.0005", -1);
    check("\"1969-12-31T23:59:59.9999995Z\"", -1);
    check("\"2020-09-13T12:26:40Z\"", 1_600_000_000_000_000);
    check(
        "\"2020-09-13T12:26:40.000001+00:00\"",
        1_600_000_000_000_001,
    );
    check("\"2020-09-13T14:26:40+02:00\"", 1_600_000_000_000_000);
    check("\"2020-09-13 12:26:40\"", 1_600_000_000_000_000);
    check("\"2020-09-13 12:26:40.5\"", 1_600_000_000_500_000);
    check("\"2020-09-13T12:26:40.123456789Z\"", 1_600_000_000_123_456);
    check("\"2020-09-13\"", 1_599_955_200_000_000);
}

#[test]
fn a_time_that_is_no_event_time_is_named_with_its_date() {
    let detail = |at: &str| {
        let decoded = decode(&[&format!(r#"{{"id":"a","amount":1,"at":{at}}}"#)]);
        let bad = &decoded.bad[0];
        (bad.reason, bad.detail.clone())
    };
    let (reason, said) = detail("1527811200");
    assert_eq!(reason, Reason::EventTimeOutOfRange);
    assert!(said.starts_with("at: 1527811200 is 1970-01-18"), "{said}");
    assert!(
        said.contains("did you mean seconds, 2018-06-01T00:00:00Z?"),
        "{said}"
    );
    for other in [
        "\"1527811200\"",
        "1527811200.25",
        "1527811200000000",
        "1.5278112e18",
    ] {
        let (reason, said) = detail(other);
        assert_eq!(reason, Reason::EventTimeOutOfRange, "{other}");
        assert!(said.contains("did you mean"), "{said}");
    }
    for beyond in [
        "1e30",
        "-1e300",
        "99999999999999999999",
        "9223372036854775807",
        "\"0000-01-01\"",
    ] {
        let (reason, said) = detail(beyond);
        assert_eq!(reason, Reason::EventTimeOutOfRange, "{beyond}");
        let sent = format!("at: `{}` is not within", beyond.trim_matches('"'));
        assert!(said.starts_with(&sent), "{said}");
    }
    // A text says which day it means.
    assert_eq!(
        time_of("\"1970-01-18T16:23:31.2Z\""),
        Some(1_527_811_200_000)
    );
    let (reason, said) = detail("1700000000001");
    assert_eq!(reason, Reason::FutureEventTime);
    assert!(
        said.starts_with("2023-11-14T22:13:20.001Z is further ahead than 2023-11-14T22:13:20Z"),
        "{said}"
    );
}

#[test]
fn deep_nesting_is_refused_before_it_can_exhaust_the_stack() {
    let deep = |levels: usize| {
        let nest = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"id":"a","amount":1,"at":0,"more":{nest}}}"#)
    };
    assert_eq!(reason_of(&deep(MAX_DEPTH - 1)), None);
    assert_eq!(reason_of(&deep(MAX_DEPTH)), Some(Reason::Unparsable));
    assert_eq!(reason_of(&deep(300_000)), Some(Reason::Unparsable));
    let brackets_in_text = format!(
        r#"{{"id":"{}\"{}","amount":1,"at":0}}"#,
        "[".repeat(200),
        "{".repeat(200)
    );
    assert_eq!(reason_of(&brackets_in_text), None);
}

#[test]
fn characters_beyond_the_basic_plane_survive_escaping() {
    for text in ["😀", "𠀀", "\u{10FFFF}", "a\\𠮷\"b", r"\uD840\uDC00"] {
        let escaped: String = serde_json::to_string(text)
            .unwrap()
            .encode_utf16()
            .map(|unit| match char::from_u32(u32::from(unit)) {
                Some(c) if c.is_ascii() => c.to_string(),
                _ => format!("\\u{unit:04x}"),
            })
            .collect();
        let decoded = decode(&[&format!(r#"{{"id":{escaped},"amount":1,"at":0}}"#)]);
        assert_eq!(decoded.rows, [0], "{escaped}");
        let ids = decoded.batch.column(0).as_string::<i32>();
        assert_eq!(ids.value(0), text, "{escaped}");
    }
}

#[test]
fn details_are_short() {
    let long = "ä".repeat(1_000);
    let decoded = decode(&[&format!(r#"{{"id":"a","amount":"{long}","at":0}}"#)]);
    assert!(decoded.bad[0].detail.len() <= DETAIL_BYTES);
    assert!(decoded.bad[0].detail.ends_with('…'));
}

#[test]
fn a_schema_that_cannot_be_decoded_is_refused() {
    let spec = |time_column, required| StreamSpec {
        name: "tx".into(),
        topic: "tx".into(),
        schema: schema(),
        time_column,
        required,
        id: None,
    };
    for bad in [spec(0, vec![]), spec(6, vec![]), spec(5, vec![9])] {
        let refused = JsonDecoder::new(bad);
        assert!(matches!(refused, Err(IngestError::Schema { .. })));
    }
}

/// A message and what a plain JSON reader makes of it: the row, or nothing where it is bad.
fn random_message(rng: &mut Pcg64Mcg) -> (Vec<u8>, Option<Value>) {
    let ids = ["a", "Ωmega", "quote\"d", "tab\t", "𠀀😀", ""];
    // Earlier ones are taken for seconds.
    let ms = rng.random_range(5_000_000_000..NOW / 1_000);
    let mut row = json!({
        "id": ids.choose(rng).unwrap(),
        "amount": rng.random_range(-1e6..1e6),
        "at": ms,
    });
    if rng.random_bool(0.5) {
        row["count"] = json!(rng.random::<i64>());
    }
    if rng.random_bool(0.5) {
        row["approved"] = json!(rng.random::<bool>());
    }
    if rng.random_bool(0.5) {
        row["note"] = json!("x".repeat(rng.random_range(0..30)));
    }
    if rng.random_bool(0.3) {
        row["unknown"] = json!({"deep": [1, {"er": null}]});
    }
    let good = serde_json::to_vec(&row).unwrap();
    match rng.random_range(0..12) {
        0 => (good[..rng.random_range(0..good.len())].to_vec(), None),
        1 => ([good.as_slice(), good.as_slice()].concat(), None),
        2 => {
            let required = *["id", "amount", "at"].choose(rng).unwrap();
            row[required] = Value::Null;
            (serde_json::to_vec(&row).unwrap(), None)
        }
        3 => {
            row["amount"] = json!("much");
            (serde_json::to_vec(&row).unwrap(), None)
        }
        4 => {
            row["at"] = json!(NOW / 1_000 + 1);
            (serde_json::to_vec(&row).unwrap(), None)
        }
        5 => (b"\xfe\xff{}".to_vec(), None),
        _ => (good, Some(row)),
    }
}

/// The batch that a plain reader builds, value by value.
fn reference(rows: &[Value]) -> RecordBatch {
    let ids: StringArray = rows.iter().map(|r| r["id"].as_str()).collect();
    let amounts: Float64Array = rows.iter().map(|r| r["amount"].as_f64()).collect();
    let counts: Int64Array = rows.iter().map(|r| r["count"].as_i64()).collect();
    let approved: BooleanArray = rows.iter().map(|r| r["approved"].as_bool()).collect();
    let notes: arrow::array::StringViewArray = rows.iter().map(|r| r["note"].as_str()).collect();
    let at: TimestampMicrosecondArray = rows
        .iter()
        .map(|r| r["at"].as_i64().map(|ms| ms * 1_000))
        .collect();
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(ids),
        Arc::new(amounts),
        Arc::new(counts),
        Arc::new(approved),
        Arc::new(notes),
        Arc::new(at),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

#[test]
fn good_messages_arrive_whole_and_in_order_whatever_stands_between_them() {
    // One decoder for all rounds: a failed pass must not leave anything behind.
    let mut decoder = decoder();
    for seed in 0..300 {
        println!("seed {seed}");
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let messages: Vec<_> = (0..rng.random_range(0..80))
            .map(|_| random_message(&mut rng))
            .collect();
        let payloads: Vec<_> = messages.iter().map(|(m, _)| Some(m.as_slice())).collect();

        let decoded = decoder.decode(&payloads, NOW).unwrap();

        let good: Vec<usize> = (0..messages.len())
            .filter(|i| messages[*i].1.is_some())
            .collect();
        let bad: Vec<usize> = (0..messages.len())
            .filter(|i| messages[*i].1.is_none())
            .collect();
        let rows: Vec<Value> = messages.iter().filter_map(|(_, row)| row.clone()).collect();
        assert_eq!(decoded.rows, good);
        assert_eq!(decoded.bad.iter().map(|b| b.index).collect::<Vec<_>>(), bad);
        assert_eq!(decoded.batch, reference(&rows));
    }
}

#[test]
fn more_messages_than_one_pass_takes() {
    let payload = br#"{"id":"a","amount":1,"at":0}"#.as_slice();
    let mut payloads = vec![Some(payload); 2 * PASS_MESSAGES + 10];
    payloads[PASS_MESSAGES] = Some(b"{");
    let decoded = decoder().decode(&payloads, NOW).unwrap();
    assert_eq!(decoded.rows.len(), payloads.len() - 1);
    assert_eq!(decoded.bad.len(), 1);
    assert_eq!(decoded.bad[0].index, PASS_MESSAGES);
}
