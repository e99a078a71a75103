//! `millrace simulate` on generated payments: it learns, says the same twice, and learns nothing of what would do
//! harm.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, UInt64Type};
use millrace_learner::average_precision;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::harness::{command, copy_project, succeed};

/// Days that are generated, and the hours of a period.
const DAYS: u32 = 42;
const PERIOD_HOURS: u32 = 3;

/// Payments and labels as JSON objects, in the order of time.
#[derive(Clone)]
struct Stream {
    payments: Vec<Value>,
    labels: Vec<Value>,
}

struct Simulated {
    folder: PathBuf,
    updates: Vec<Value>,
    /// Score and version by payment.
    scores: HashMap<String, (f64, u64)>,
}

impl Stream {
    fn generate(folder: &Path) -> Self {
        let file = folder.join("payments.jsonl");
        let days = DAYS.to_string();
        let output = file.display().to_string();
        let arguments = [
            "generate",
            "--customers",
            "2000",
            "--terminals",
            "2000",
            "--seed",
            "5",
            "--days",
            &days,
            "--output",
            &output,
        ];
        succeed(command(folder, &arguments));
        Self {
            payments: read_lines(&file),
            labels: read_lines(&folder.join("payments-labels.jsonl")),
        }
    }

    fn simulate(&self, folder: &Path, name: &str) -> Simulated {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        copy_project(&folder);
        write_lines(&folder.join("payments.jsonl"), &self.payments);
        write_lines(&folder.join("labels.jsonl"), &self.labels);
        let file = |stream: &str, name: &str| format!("{stream}={}", folder.join(name).display());
        let output = folder.join("out");
        succeed(command(
            &folder,
            &[
                "simulate",
                "--events",
                &file("transactions", "payments.jsonl"),
                &file("labels", "labels.jsonl"),
                "--output",
                &output.display().to_string(),
                "--set",
                &format!("model.every={PERIOD_HOURS}h"),
                // Small, for it is the loop that is tested.
                "--set",
                "learner.training.members=2",
                "--set",
                "learner.training.hidden=[32]",
            ],
        ));
        Simulated {
            updates: read_lines(&output.join("updates.jsonl")),
            scores: read_scores(&output.join("scores.parquet")),
            folder: output,
        }
    }
}

impl Simulated {
    /// The period that ended a while after a time: its line of updates.jsonl.
    fn period(&self, day: u32, hour: u32) -> &Value {
        let end = time(day, hour + PERIOD_HOURS) + "Z";
        let found = self
            .updates
            .iter()
            .find(|update| update["time"] == json!(end));
        found.unwrap_or_else(|| panic!("no period ends at {end}"))
    }

    fn report(&self) -> String {
        std::fs::read_to_string(self.folder.join("report.html")).unwrap()
    }

    /// Average precision on the payments of a day and later that are in `truth`.
    fn precision(&self, truth: &HashMap<String, bool>) -> f64 {
        let (scores, labels): (Vec<f32>, Vec<f32>) = truth
            .iter()
            .map(|(id, fraud)| (self.scores[id].0 as f32, f32::from(u8::from(*fraud))))
            .unzip();
        average_precision(&scores, &labels, &vec![1.0; labels.len()]).unwrap()
    }
}

/// The same events and settings give the same files; and the model learns.
#[test]
fn a_simulation_learns_and_is_the_same_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = Stream::generate(folder.path());
    stream
        .payments
        .retain(|payment| payment["event_time"].as_str() < Some(&time(20, 0)));
    stream
        .labels
        .retain(|label| label["event_time"].as_str() < Some(&time(27, 0)));
    let first = stream.simulate(folder.path(), "first");
    let second = stream.simulate(folder.path(), "second");
    let read = |run: &Simulated| std::fs::read(run.folder.join("scores.parquet")).unwrap();
    assert!(read(&first) == read(&second), "the scores differ");
    let without_seconds = |run: &Simulated| -> Vec<Value> {
        let mut updates = run.updates.clone();
        for update in &mut updates {
            update.as_object_mut().unwrap().remove("seconds");
        }
        updates
    };
    assert_eq!(without_seconds(&first), without_seconds(&second));
    assert_eq!(first.scores.len(), stream.payments.len());

    // Scored before their labels were known, long after the first model.
    let late = truth(&stream, 13);
    let base_rate = late.values().filter(|fraud| **fraud).count() as f64 / late.len() as f64;
    let precision = first.precision(&late);
    println!("average precision {precision:.3} at a fraud rate of {base_rate:.4}");
    assert!(precision > 15.0 * base_rate, "{precision}");
    let accepted = first
        .updates
        .iter()
        .filter(|update| update["accepted"] == json!(true))
        .count();
    assert!(accepted > 10, "{accepted} versions served");
}

/// Five ways in which a period may be wrong. None of them takes traffic, each is named, and the model is as good
/// afterwards as it would have been without.
#[test]
fn what_would_do_harm_is_named_and_takes_no_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let clean = Stream::generate(folder.path());
    let mut harmed = clean.clone();
    let within = |row: &Value, day: u32, hours: u32| {
        let at = row["event_time"].as_str();
        at >= Some(&time(day, 12)) && at < Some(&time(day, 12 + hours))
    };
    // Cards and terminals about which something wrong is known from then on, whatever the model does.
    let mut touched: HashSet<String> = HashSet::new();
    let mut touch = |row: &Value| {
        for column in ["card_id", "terminal_id"] {
            touched.insert(format!("{column} {}", row[column]));
        }
    };
    let id = |row: &Value| row["tx_id"].as_str().unwrap().to_owned();

    // Amounts in cents, and cards that nothing is known of, so that most inputs are missing.
    for payment in &mut harmed.payments {
        if within(payment, 24, 1) {
            touch(payment);
            payment["amount"] = json!(payment["amount"].as_f64().unwrap() * 100.0);
        }
        if within(payment, 26, PERIOD_HOURS) {
            payment["card_id"] = json!(format!("new-{}", id(payment)));
        }
    }
    // Labels that come twice, and labels that are turned round.
    let again: Vec<Value> = harmed
        .labels
        .iter()
        .filter(|label| within(label, 23, 1))
        .cloned()
        .collect();
    for label in &mut harmed.labels {
        if within(label, 38, 1) {
            touch(label);
            label["is_fraud"] = json!(!label["is_fraud"].as_bool().unwrap());
        }
    }
    let duplicates = again.len();
    harmed.labels.extend(again);
    // Thousands of reports about one terminal.
    for number in 0..3_000_u32 {
        let flood = json!({
            "tx_id": format!("flood-{number}"),
            "card_id": format!("flood-{number}"),
            "terminal_id": "17",
            "amount": 30.0,
            "event_time": format!("{}:{:02}:{:02}", &time(28, 12 + number / 1_200)[..13], number / 20 % 60, number % 20 * 3),
        });
        let mut label = flood.clone();
        label["tx_time"] = flood["event_time"].clone();
        label["event_time"] = json!(
            flood["event_time"]
                .as_str()
                .unwrap()
                .replace("2018-04-29", "2018-05-06")
        );
        label["is_fraud"] = json!(true);
        touch(&flood);
        harmed.payments.push(flood);
        harmed.labels.push(label);
    }
    let in_time = |rows: &mut Vec<Value>| {
        rows.sort_by(|a, b| a["event_time"].as_str().cmp(&b["event_time"].as_str()));
    };
    in_time(&mut harmed.payments);
    in_time(&mut harmed.labels);

    let without = clean.simulate(folder.path(), "clean");
    let with = harmed.simulate(folder.path(), "harmed");
    let report = with.report();
    for (what, day, reason) in [
        ("amounts in cents", 31, "input 'amount' moved"),
        ("missing inputs", 33, "moved: its stability index"),
        (
            "a flood of labels",
            35,
            "labels are frauds where the champion expected",
        ),
        (
            "labels turned round",
            38,
            "labels are frauds where the champion expected",
        ),
    ] {
        let period = with.period(day, 12);
        assert_eq!(period["version"], Value::Null, "{what}: {period}");
        let told = period["reason"].as_str().unwrap();
        assert!(told.contains(reason), "{what}: {told}");
        let shown = told.replace('&', "&amp;");
        assert!(report.contains(&shown), "{what} is not in the report");
        assert!(
            without.period(day, 12)["version"].is_u64(),
            "{what}: {}",
            without.period(day, 12)
        );
    }
    // Named already when the payments were scored, a week before their labels.
    let alarm = |day: u32, input: &str| {
        let row = format!(
            "<tr><td>{}Z</td><td class=\"text\">{input}</td>",
            time(day, 12 + PERIOD_HOURS)
        );
        assert!(report.contains(&row), "no alarm for {input} on day {day}");
    };
    alarm(24, "amount");
    alarm(26, "tx_count_1d");
    let twice = with.period(23, 12);
    assert_eq!(twice["duplicate_labels"], json!(duplicates), "{twice}");
    assert!(report.contains(&format!(
        "{duplicates} labels came again, and were learned once"
    )));
    assert_eq!(twice["examples"], without.period(23, 12)["examples"]);

    // From the first wrong label on, on payments of cards and terminals that nothing wrong is known about, against
    // their true labels.
    let mut late = truth(&clean, 31);
    for label in &clean.labels {
        let is_touched = |column: &str| touched.contains(&format!("{column} {}", label[column]));
        if is_touched("card_id") || is_touched("terminal_id") {
            late.remove(&id(label));
        }
    }
    let frauds = late.values().filter(|fraud| **fraud).count();
    assert!(frauds > 50, "{frauds} frauds are too few to tell");
    let (before, after) = (without.precision(&late), with.precision(&late));
    println!("average precision without harm {before:.3}, with it {after:.3}");
    assert!(
        after > before - 0.05,
        "{after} where {before} would have been"
    );
}

/// Whether the payments from a day on are frauds.
fn truth(stream: &Stream, day: u32) -> HashMap<String, bool> {
    let is_late = |label: &&Value| label["tx_time"].as_str() >= Some(&time(day, 0));
    let known = stream.labels.iter().filter(is_late);
    known
        .map(|label| {
            let id = label["tx_id"].as_str().unwrap().to_owned();
            (id, label["is_fraud"].as_bool().unwrap())
        })
        .collect()
}

/// An hour of a day, counted from the first.
fn time(day: u32, hour: u32) -> String {
    let start = chrono::NaiveDate::from_ymd_opt(2018, 4, 1).unwrap();
    let start = start.and_hms_opt(0, 0, 0).unwrap();
    let time = start + chrono::TimeDelta::hours(i64::from(24 * day + hour));
    time.format("%Y-%m-%dT%H:%M:%S").to_string()
}

fn read_lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn write_lines(file: &Path, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(file, lines.join("\n") + "\n").unwrap();
}

fn read_scores(file: &Path) -> HashMap<String, (f64, u64)> {
    let file = std::fs::File::open(file).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let mut scores = HashMap::new();
    for batch in reader {
        let batch = batch.unwrap();
        let ids = batch.column_by_name("tx_id").unwrap();
        let values = batch
            .column_by_name("score")
            .unwrap()
            .as_primitive::<Float64Type>();
        let versions = batch
            .column_by_name("model_version")
            .unwrap()
            .as_primitive::<UInt64Type>();
        for row in 0..batch.num_rows() {
            let version = if versions.is_null(row) {
                0
            } else {
                versions.value(row)
            };
            let id = ids.as_string::<i32>().value(row).to_owned();
            scores.insert(id, (values.value(row), version));
        }
    }
    scores
}
