#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array,
    LargeStringArray, StringArray, StringViewArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray,
};
use arrow::compute::concat_batches;
use arrow::csv;
use millrace_features::{Project, SqlFile};
use millrace_ingest::JsonDecoder;
use parquet::arrow::ArrowWriter;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::failure::Kind;
use crate::logged::logged;

const SOURCES: &str = "
CREATE EXTERNAL TABLE events (
  id VARCHAR NOT NULL, note VARCHAR, n BIGINT, amount DOUBLE, weight FLOAT, ok BOOLEAN, day DATE,
  price DECIMAL(12, 3), event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'events' WITH ORDER (event_time) OPTIONS ('key' 'id', 'id' 'id')";

fn stream() -> Arc<Stream> {
    let sources = SqlFile {
        path: "sources.sql".into(),
        text: SOURCES.into(),
    };
    let project = Project::plan(&sources, &[], None).unwrap();
    Arc::clone(&project.streams[0])
}

/// Random rows, with the values that formats break on.
fn random_batch(stream: &Stream, rows: usize, random: &mut Pcg64Mcg) -> RecordBatch {
    const TEXTS: [&str; 7] = [
        "plain",
        "with, comma",
        "\"quoted\"",
        "two\nlines",
        "żółć 🦀 \u{10ffff}",
        "back\\slash",
        "\t\u{1}",
    ];
    const NUMBERS: [f64; 9] = [
        0.1,
        -0.0,
        1e-320,
        f64::MAX,
        f64::MIN_POSITIVE,
        1e22,
        123_456_789.123_456_78,
        0.1 + 0.2,
        1e300,
    ];
    let present: Vec<bool> = (0..rows).map(|_| random.random_ratio(80, 100)).collect();
    let text = |random: &mut Pcg64Mcg| TEXTS[random.random_range(0..TEXTS.len())];
    let number = |random: &mut Pcg64Mcg| match random.random_range(0..3) {
        0 => NUMBERS[random.random_range(0..NUMBERS.len())],
        1 => random.random_range(-1e6..1e6),
        _ => Some(f64::from_bits(random.random()))
            .filter(|any| any.is_finite())
            .unwrap_or(0.0),
    };
    // From the year 1 to 9999, to the microsecond, the millisecond and the second.
    let time = |random: &mut Pcg64Mcg| {
        let unit = [1, 1_000, 1_000_000][random.random_range(0..3)];
        random.random_range(-62_135_596_800_000_000..=253_402_300_799_999_999_i64) / unit * unit
    };
    let ids: StringArray = (0..rows)
        .map(|row| Some(format!("{} {row}", text(random))))
        .collect();
    let notes: StringArray = present
        .iter()
        .map(|some| some.then(|| text(random)))
        .collect();
    let integers: Int64Array = present
        .iter()
        .map(|some| some.then(|| random.random::<i64>() >> random.random_range(0..64)))
        .collect();
    let amounts: Float64Array = present
        .iter()
        .map(|some| some.then(|| number(random)))
        .collect();
    let weights: Float32Array = present
        .iter()
        .map(|some| {
            some.then(|| number(random) as f32)
                .filter(|weight| weight.is_finite())
        })
        .collect();
    let flags: BooleanArray = present
        .iter()
        .map(|some| some.then(|| random.random()))
        .collect();
    let days: Date32Array = present
        .iter()
        .map(|some| some.then(|| random.random_range(-100_000..100_000)))
        .collect();
    let prices: Decimal128Array = present
        .iter()
        .map(|some| some.then(|| random.random_range(-999_999_999_999..=999_999_999_999)))
        .collect();
    let times: TimestampMicrosecondArray = (0..rows).map(|_| Some(time(random))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids),
        Arc::new(notes),
        Arc::new(integers),
        Arc::new(amounts),
        Arc::new(weights),
        Arc::new(flags),
        Arc::new(days),
        Arc::new(prices.with_precision_and_scale(12, 3).unwrap()),
        Arc::new(times),
    ];
    RecordBatch::try_new(stream.schema.clone(), columns).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn parquet(&self, batch: &RecordBatch) -> PathBuf {
        let path = self.path("events.parquet");
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        path
    }

    fn csv(&self, batch: &RecordBatch) -> PathBuf {
        let path = self.path("events.csv");
        let mut writer = csv::Writer::new(std::fs::File::create(&path).unwrap());
        writer.write(batch).unwrap();
        path
    }
}

fn read(path: &Path) -> Outcome<RecordBatch> {
    let stream = stream();
    let file = EventFile::open(path, &stream)?;
    let batches = file.collect::<Outcome<Vec<_>>>()?;
    assert!(batches.iter().all(|batch| batch.num_rows() <= BATCH_ROWS));
    Ok(concat_batches(&stream.schema, &batches).unwrap())
}

#[test]
fn every_format_gives_back_what_was_written() {
    let stream = stream();
    let folder = Folder::new();
    for seed in 0..4 {
        println!("seed {seed}");
        // More than one batch, and not a whole number of them.
        let batch = random_batch(&stream, 9_000, &mut Pcg64Mcg::seed_from_u64(seed));
        let lines = write_json(&batch).unwrap().join("\n");
        assert_eq!(
            read(&folder.text("events.jsonl", &lines)).unwrap(),
            batch,
            "JSON lines"
        );
        let parquet = folder.parquet(&batch);
        assert_eq!(
            EventFile::open(&parquet, &stream).unwrap().rows(),
            Some(9_000)
        );
        assert_eq!(read(&parquet).unwrap(), batch, "Parquet");
        assert_eq!(read(&folder.csv(&batch)).unwrap(), batch, "CSV");
    }
}

#[test]
fn rows_as_json_are_messages_that_decode_to_the_same_rows() {
    let stream = stream();
    for seed in 100..104 {
        println!("seed {seed}");
        let batch = random_batch(&stream, 2_000, &mut Pcg64Mcg::seed_from_u64(seed));
        let lines = write_json(&batch).unwrap();
        let payloads: Vec<_> = lines.iter().map(|line| Some(line.as_bytes())).collect();
        let mut decoder = JsonDecoder::new(json_lines::spec(&stream)).unwrap();
        let decoded = decoder.decode(&payloads, i64::MAX).unwrap();
        assert_eq!(decoded.bad, []);
        assert_eq!(decoded.batch, batch);
    }
}

#[test]
fn rows_are_written_as_documented() {
    let batch = RecordBatch::try_from_iter_with_nullable([
        (
            "text",
            Arc::new(StringArray::from(vec!["a\n\"b\""])) as ArrayRef,
            true,
        ),
        (
            "none",
            Arc::new(Int64Array::from(vec![None])) as ArrayRef,
            true,
        ),
        (
            "number",
            Arc::new(Float64Array::from(vec![0.1 + 0.2])) as ArrayRef,
            true,
        ),
        (
            "whole",
            Arc::new(TimestampMicrosecondArray::from(vec![1_522_540_831_000_000])) as ArrayRef,
            true,
        ),
        (
            "fine",
            Arc::new(TimestampMicrosecondArray::from(vec![1_522_540_831_000_001])) as ArrayRef,
            true,
        ),
    ])
    .unwrap();
    let expected = "{\"text\":\"a\\n\\\"b\\\"\",\"number\":0.30000000000000004,\
                    \"whole\":\"2018-04-01T00:00:31Z\",\"fine\":\"2018-04-01T00:00:31.000001Z\"}";
    assert_eq!(write_json(&batch).unwrap(), [expected]);
}

/// One event in the types and the order of columns that other programs write.
#[test]
fn types_of_other_programs_are_cast() {
    let folder = Folder::new();
    let time_us = 1_522_540_831_123_456;
    let check = |time: ArrayRef, expected_us: i64| {
        let batch = RecordBatch::try_from_iter([
            ("extra", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
            ("event_time", time),
            ("amount", Arc::new(Int64Array::from(vec![7])) as ArrayRef),
            (
                "note",
                Arc::new(StringViewArray::from(vec!["view"])) as ArrayRef,
            ),
            (
                "id",
                Arc::new(LargeStringArray::from(vec!["large"])) as ArrayRef,
            ),
            ("ok", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ])
        .unwrap();
        let read = read(&folder.parquet(&batch)).unwrap();
        let expected = format!(
            "{{\"id\":\"large\",\"note\":\"view\",\"amount\":7.0,\"ok\":true,\"event_time\":\"{}\"}}",
            chrono::DateTime::from_timestamp_micros(expected_us)
                .unwrap()
                .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
        );
        assert_eq!(write_json(&read).unwrap(), [expected]);
    };
    check(Arc::new(TimestampNanosecondArray::from(vec![-500])), -1);
    check(Arc::new(TimestampNanosecondArray::from(vec![-1_000])), -1);
    let nanos = TimestampNanosecondArray::from(vec![time_us * 1_000 + 789]);
    check(Arc::new(nanos.clone()), time_us);
    check(Arc::new(nanos.with_timezone("+05:30")), time_us);
    check(
        Arc::new(TimestampMillisecondArray::from(vec![time_us / 1_000])),
        time_us / 1_000 * 1_000,
    );
    check(
        Arc::new(Int64Array::from(vec![time_us / 1_000])),
        time_us / 1_000 * 1_000,
    );
    check(
        Arc::new(StringArray::from(vec!["2018-04-01T02:00:31.123456+02:00"])),
        time_us,
    );
    check(
        Arc::new(Date32Array::from(vec![17_622])),
        1_522_540_800_000_000,
    );
}

/// The files of one event whose column `column` is a number: JSON lines, the number and its text; CSV; and Parquet,
/// where it is a DOUBLE.
fn files_of(folder: &Folder, column: &str, number: &str) -> [PathBuf; 4] {
    let json = |value: &str| format!("{{\"id\":\"a\",\"{column}\":{value},\"event_time\":0}}");
    let double = number.parse::<f64>().unwrap();
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
        (
            column,
            Arc::new(Float64Array::from(vec![double])) as ArrayRef,
        ),
        (
            "event_time",
            Arc::new(Int64Array::from(vec![0])) as ArrayRef,
        ),
    ])
    .unwrap();
    [
        folder.text("number.jsonl", &json(number)),
        folder.text("text.jsonl", &json(&format!("\"{number}\""))),
        folder.text(
            "events.csv",
            &format!("id,{column},event_time\na,{number},0\n"),
        ),
        folder.parquet(&batch),
    ]
}

#[test]
fn a_number_has_one_value_in_every_format() {
    let folder = Folder::new();
    let check = |column: &str, number: &str, expected: &str| {
        for path in files_of(&folder, column, number) {
            let read = read(&path).unwrap();
            let read = read.column_by_name(column).unwrap();
            let read = arrow::util::display::array_value_to_string(read, 0).unwrap();
            assert_eq!(read, expected, "{number} in {}", path.display());
        }
    };
    check("price", "1.2555", "1.256");
    check("price", "-1.2559", "-1.256");
    check("price", "0.1235", "0.124");
    check("price", "2.0005e3", "2000.500");
    check("price", "-0.0004", "0.000");
    check("n", "-7", "-7");
    check("n", "2.0", "2");
    check("n", "2e3", "2000");
    for path in files_of(&folder, "price", "999999999.9995") {
        says(&path, &["price", "999999999.9995", "(12, 3)"]);
    }
    for path in files_of(&folder, "n", "1.7") {
        says(&path, &["1", "n", "1.7"]);
    }
    for path in files_of(&folder, "n", "-9223372036854775809") {
        says(&path, &["n", " is no "]);
    }
}

#[test]
fn a_date_has_no_time_of_day_in_any_format() {
    let folder = Folder::new();
    let parquet = |day: ArrayRef| {
        folder.parquet(
            &RecordBatch::try_from_iter([
                ("id", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
                ("day", day),
                (
                    "event_time",
                    Arc::new(Int64Array::from(vec![0])) as ArrayRef,
                ),
            ])
            .unwrap(),
        )
    };
    let files = |text: &str, time_ms: i64| {
        [
            folder.text(
                "events.jsonl",
                &format!("{{\"id\":\"a\",\"day\":\"{text}\",\"event_time\":0}}"),
            ),
            folder.text("events.csv", &format!("id,day,event_time\na,{text},0\n")),
            parquet(Arc::new(TimestampMillisecondArray::from(vec![time_ms]))),
        ]
    };
    let midnight = 1_704_412_800_000;
    for path in files("2024-01-05T00:00:00Z", midnight) {
        let read = read(&path).unwrap();
        let day = read.column_by_name("day").unwrap();
        let day = arrow::util::display::array_value_to_string(day, 0).unwrap();
        assert_eq!(day, "2024-01-05", "{}", path.display());
    }
    for path in files("2024-01-05T12:30:00Z", midnight + 45_000_000) {
        says(&path, &["day", "2024-01-05T12:30:00"]);
    }
}

fn failure(path: &Path) -> String {
    let failure = read(path).unwrap_err();
    assert_eq!(failure.kind, Kind::Input, "{failure}");
    failure.to_string()
}

#[track_caller]
fn says(path: &Path, parts: &[&str]) {
    let text = failure(path);
    assert!(
        parts.iter().all(|part| text.contains(part)),
        "{text}\nlacks one of {parts:?}"
    );
}

#[test]
fn files_that_are_none_are_told() {
    let folder = Folder::new();
    says(
        &folder.path("missing.parquet"),
        &["missing.parquet", "No such file"],
    );
    says(
        &folder.text("events.xlsx", ""),
        &["events.xlsx", ".parquet", ".csv"],
    );
    says(&folder.text("events", ""), &["names no format"]);
    says(
        &folder.text("no.parquet", "id,amount\n"),
        &["no.parquet", "Parquet", "hint: is it a whole Parquet file?"],
    );
    std::fs::create_dir(folder.path("folder.csv")).unwrap();
    says(&folder.path("folder.csv"), &["this is a folder"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    let folder = Folder::new();
    let file = folder.text("events.csv", "");
    let said = format!("{} is a file: name a folder", file.display());
    assert_eq!(no_folder(&file), said);
    assert_eq!(no_folder(&file.join("out/deeper")), said);
    let below = no_folder(&folder.path("out"));
    assert!(below.starts_with("nothing can be made in "), "{below}");
    assert_eq!(
        no_folder(Path::new("")),
        "name a folder in which you may write"
    );
    let schema = SchemaRef::clone(&stream().schema);
    let table = TableFile::create(&file.join("x.csv"), Format::Csv, schema, &[]);
    let error = table.err().unwrap().to_string();
    assert!(error.ends_with(&said), "{error}");
}

#[test]
fn a_folder_that_is_not_there_is_as_good_as_an_empty_one() {
    let folder = Folder::new();
    assert!(is_empty_folder(&folder.path("")).unwrap());
    assert!(is_empty_folder(&folder.path("missing")).unwrap());
    let file = folder.text("events.csv", "");
    assert!(!is_empty_folder(&folder.path("")).unwrap());
    assert!(is_empty_folder(&file).is_err());
}

#[test]
fn what_could_be_meant_by_a_file_that_is_not_there_is_named() {
    let folder = Folder::new();
    says(
        &folder.path(""),
        &["this is a folder", "it has none that ends in"],
    );
    says(
        &folder.path("away/events.csv"),
        &["events.csv: No such file", "there is no folder", "away"],
    );
    says(&folder.path("events.csv"), &["files of events there: none"]);
    for name in ["g1.jsonl", "g2.jsonl", "payments.jsonl", "notes.txt"] {
        folder.text(name, "");
    }
    std::fs::create_dir(folder.path("folder.csv")).unwrap();
    says(
        &folder.path(""),
        &["there are g1.jsonl, g2.jsonl, payments.jsonl"],
    );
    says(
        &folder.path("payment.jsonl"),
        &[
            "payment.jsonl: No such file",
            "did you mean 'payments.jsonl'?",
        ],
    );
    says(
        &folder.path("transactions.parquet"),
        &["files of events there: g1.jsonl, g2.jsonl, payments.jsonl"],
    );
    says(
        &folder.path("g*.jsonl"),
        &["name each file: g1.jsonl, g2.jsonl"],
    );
    says(&folder.path("x?.jsonl"), &["name each file: none"]);
    for name in 3..9 {
        folder.text(&format!("g{name}.jsonl"), "");
    }
    says(
        &folder.path("*.jsonl"),
        &["g1.jsonl, g2.jsonl, g3.jsonl, g4.jsonl, g5.jsonl and 4 more"],
    );
}

#[test]
fn mistakes_in_json_lines_are_told_with_their_line() {
    let folder = Folder::new();
    let good = "{\"id\":\"a\",\"event_time\":\"2025-01-01T00:00:00Z\"}\n\n";
    let wrong = |line: &str| folder.text("events.jsonl", &format!("{good}{line}\n{good}"));
    says(
        &wrong("{\"id\":\"b\","),
        &["events.jsonl:3:", "one JSON object a line"],
    );
    says(&wrong("[1]"), &["events.jsonl:3:", "not a JSON object"]);
    says(
        &wrong("{\"id\":\"b\",\"amount\":\"x\",\"event_time\":0}"),
        &[":3:", "amount"],
    );
    says(
        &wrong("{\"id\":\"b\",\"event_tme\":0}"),
        &[":3:", "event_time", "did you mean 'event_tme'?"],
    );
    says(&wrong("{\"event_time\":0}"), &[":3:", "id", "sources.sql"]);
    says(
        &wrong("{\"id\":\"b\",\"event_time\":\"soon\"}"),
        &[":3:", "soon"],
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    let folder = Folder::new();
    let line = "{\"id\":\"a\",\"event_time\":\"2025-01-01T00:00:00Z\"}";
    let plain = read(&folder.text("events.jsonl", line)).unwrap();
    let marked = read(&folder.text("events.jsonl", &format!("\u{feff}{line}"))).unwrap();
    assert_eq!(marked, plain);
    assert_eq!(plain.num_rows(), 1);
    let nothing = read(&folder.text("events.jsonl", "\u{feff}")).unwrap();
    assert_eq!(nothing.num_rows(), 0);
}

#[test]
fn an_endless_line_does_not_fill_the_memory() {
    let folder = Folder::new();
    let path = folder.text("events.json", &" ".repeat((16 << 20) + 1));
    says(&path, &["events.json:1:", "longer than 16 MiB"]);
}

#[test]
fn mistakes_in_csv_are_told_with_their_row() {
    let folder = Folder::new();
    let csv = |text: &str| folder.text("events.csv", text);
    let time = "2025-01-01T00:00:00Z";
    says(
        &csv(""),
        &["there is no column 'id'", "the stream's columns: id, note"],
    );
    says(
        &csv("id,amuont,event_time\n"),
        &["no column 'amount'", "did you mean 'amuont'?"],
    );
    says(
        &csv("tx,event_time\n"),
        &["no column 'id'", "event_time; the file has besides: tx"],
    );
    says(
        &csv("ID,event_time\n"),
        &["no column 'id'", "did you mean 'ID'?"],
    );
    says(
        &csv(&format!(
            "id,amount,event_time\na,1,{time}\nb,much,{time}\n"
        )),
        &["events.csv: row 2", "'amount': 'much' is no DOUBLE"],
    );
    says(
        &csv(&format!("id,amount,event_time\na,NaN,{time}\n")),
        &["row 1", "not a finite number"],
    );
    says(
        &csv(&format!("id,event_time\n,{time}\n")),
        &["row 1", "'id' is null"],
    );
    says(
        &csv("id,event_time\na,1e17\n"),
        &["row 1", "years 1 to 9999", "milliseconds"],
    );
    says(
        &csv("id,event_time\na,1738324800000\nb,1738324800\n"),
        &[
            "row 2: column 'event_time': 1738324800 is 1970-01-21T02:52:04.800Z if it is in milliseconds",
            "did you mean seconds, 2025-01-31T12:00:00Z?",
        ],
    );
    says(
        &csv("id,event_time\na,1738324800000000\n"),
        &["row 1", "did you mean microseconds, 2025-01-31T12:00:00Z?"],
    );
    says(
        &csv(&format!("id,n,event_time, n\na,1,{time},2\n")),
        &["events.csv: 2 columns have the name 'n'", "another name"],
    );
    // Those that are left out may have any.
    assert!(
        read(&csv(&format!(
            "id,elsewhere,event_time,elsewhere\na,1,{time},2\n"
        )))
        .is_ok()
    );
    says(
        &csv(&format!("id,event_time\na,{time},1\n")),
        &["line 2", "expected 2 got"],
    );
}

#[test]
fn a_row_is_counted_over_all_batches() {
    let folder = Folder::new();
    let mut text = "id,event_time\n".to_owned();
    (0..20_000).for_each(|row| text.push_str(&format!("{row},{row}\n")));
    text.push_str("x,never\n");
    says(
        &folder.text("events.csv", &text),
        &["row 20001", "'never' is no TIMESTAMP"],
    );
}

#[test]
fn columns_of_csv_may_be_missing_reordered_and_marked() {
    let folder = Folder::new();
    let path = folder.text(
        "events.CSV",
        "\u{feff}event_time, ok ,id\r\n1738324800000,true,a\r\n,,\r\n",
    );
    // The last row has no id: what is before it is in the same batch, so that nothing is given.
    says(&path, &["row 2", "'id' is null"]);
    let path = folder.text(
        "events.CSV",
        "\u{feff}event_time, ok ,id\r\n1738324800000,true,a\r\n",
    );
    let expected = "{\"id\":\"a\",\"ok\":true,\"event_time\":\"2025-01-31T12:00:00Z\"}";
    assert_eq!(write_json(&read(&path).unwrap()).unwrap(), [expected]);
    // A column of one letter is no slip of another such.
    let path = folder.text("events.csv", "id,event_time,k\na,1738324800000,7\n");
    assert_eq!(read(&path).unwrap().num_rows(), 1);
}

#[test]
fn the_log_names_the_columns_that_a_file_lacks_once() {
    // More than one batch.
    let rows = 0..20_000;
    let mut csv = "id,event_time,remark\n".to_owned();
    rows.clone()
        .for_each(|row| csv.push_str(&format!("{row},{row},x\n")));
    let line = |row: i32| {
        format!("{{\"id\":\"{row}\",\"event_time\":{row},\"remark\":\"x\",\"n\":null}}\n")
    };
    let lines: String = rows.map(line).collect();
    for (name, text) in [("events.csv", &csv), ("events.jsonl", &lines)] {
        let said = log_of_reading(name, text);
        assert_eq!(said.lines().count(), 1, "{said}");
        for part in [
            name,
            "columns=\"note, n, amount, weight, ok, day, price\"",
            "left_out=\"remark\"",
        ] {
            assert!(said.contains(part), "{said}\nlacks {part}");
        }
    }
    // One line that has a value is enough, wherever it is.
    let last = r#"{"id":"z","event_time":0,"note":"","n":1,"amount":1,"weight":1,"ok":true,"day":"2025-01-31"}"#;
    let said = log_of_reading("events.jsonl", &format!("{lines}{last}\n"));
    assert!(said.contains("columns=\"price\""), "{said}");
    let all = r#"{"id":"z","event_time":0,"price":1}"#;
    let said = log_of_reading("events.jsonl", &format!("{all}\n{last}\n{lines}"));
    assert_eq!(said, "");
    assert_eq!(log_of_reading("empty.jsonl", "\n"), "");
}

/// What the log says when a file is read.
fn log_of_reading(name: &str, text: &str) -> String {
    let folder = Folder::new();
    let path = folder.text(name, text);
    logged(|| {
        // Commands look at a file before they read it.
        EventFile::open(&path, &stream()).unwrap();
        read(&path).unwrap();
    })
}

#[test]
fn a_type_that_cannot_become_the_streams_is_refused_before_reading() {
    let folder = Folder::new();
    let seconds = RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
        (
            "event_time",
            Arc::new(Float64Array::from(vec![1.7e9])) as ArrayRef,
        ),
    ])
    .unwrap();
    says(
        &folder.parquet(&seconds),
        &["'event_time' is Float64", "TIMESTAMP", "milliseconds"],
    );
}

#[test]
fn reading_ends_with_the_first_mistake() {
    let folder = Folder::new();
    let path = folder.text("events.jsonl", "oops\n{\"id\":\"a\",\"event_time\":0}\n");
    let mut file = EventFile::open(&path, &stream()).unwrap();
    assert!(file.next().unwrap().is_err());
    assert!(file.next().is_none());
}

#[test]
fn who_goes_on_without_the_rest_gets_all_lines_before_the_first_mistake() {
    let folder = Folder::new();
    let good = "{\"id\":\"a\",\"event_time\":0}\n";
    let path = folder.text("events.jsonl", &format!("{good}\n{good}oops\n{good}"));
    let mut whole = EventFile::open(&path, &stream()).unwrap();
    assert!(whole.next().unwrap().is_err());
    let mut part = EventFile::open_in_part(&path, &stream()).unwrap();
    assert_eq!(part.next().unwrap().unwrap().num_rows(), 2);
    let failure = part.next().unwrap().unwrap_err();
    assert!(failure.message.contains("events.jsonl:4:"), "{failure}");
    assert!(part.next().is_none());
}
