//! A log that was tampered with, row by row and file by file: what the audit says of it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::{concat, concat_batches};
use arrow::datatypes::Float64Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::evolve;
use crate::pipeline::Pipeline;
use crate::score_log::ScoreLog;
use crate::score_log::tests::{HOUR, NOON, Payment, batch, files, live_of, step};
use crate::serve::tests::model;

const PAYMENTS: usize = 40;

/// The example project with a model, its scored payments of some days, and the log of them.
struct Scored {
    folder: TempDir,
}

impl Scored {
    fn new() -> Self {
        Self::of(project())
    }

    /// Of another project.
    fn of(folder: TempDir) -> Self {
        let scored = Self { folder };
        let workspace = scored.workspace();
        let store = Arc::new(workspace.open_store().unwrap());
        evolve::begin(store.as_ref(), &Arc::new(scored.workspace())).unwrap();
        let registry = workspace.registry().unwrap().open().unwrap();
        let live = live_of(workspace, store);
        let (manifest, checkpoint) = model(&live);
        let version = registry.publish(manifest, &checkpoint).unwrap();
        registry.set_champion(version).unwrap();
        live.scorer.as_ref().unwrap().follow(&registry).unwrap();
        let events = payments();
        scored.write("tx.parquet", &batch(&live, &events, 0..PAYMENTS).batch);
        let log = ScoreLog::open(&live).unwrap();
        let mut pipeline = Pipeline::new(live.clone(), None).unwrap().with_log(log);
        pipeline.apply(&step(&live, &events, 0..PAYMENTS)).unwrap();
        pipeline.finish().unwrap();
        scored
    }

    fn workspace(&self) -> Workspace {
        Workspace::open(self.folder.path()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, batch: &RecordBatch) {
        let file = std::fs::File::create(self.path(name)).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
    }

    /// The files of events, as they are given to the audit.
    fn events(&self) -> [String; 2] {
        [
            format!("transactions={}", self.path("tx.parquet").display()),
            format!("labels={}", self.path("labels.jsonl").display()),
        ]
    }

    /// What the audit finds in the log once a file of it was changed.
    fn audit(&self, change: impl FnOnce(&Path)) -> LogAudit {
        let file = files(self.folder.path()).into_iter().min().unwrap();
        let before = std::fs::read(&file).unwrap();
        change(&file);
        let found = compare(&self.workspace(), &self.events(), Some("log")).unwrap();
        assert_eq!(found.mismatched + found.missing + found.extra, 0);
        std::fs::write(&file, before).unwrap();
        found.log.unwrap()
    }
}

fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fraud");
    std::fs::create_dir(folder.path().join("features")).unwrap();
    let views = std::fs::read_dir(example.join("features")).unwrap();
    let views = views.map(|file| Path::new("features").join(file.unwrap().file_name()));
    let others = ["sources.sql", "inputs.sql"].map(PathBuf::from);
    for file in views.chain(others) {
        std::fs::copy(example.join(&file), folder.path().join(&file)).unwrap();
    }
    let settings = "[model]\ninputs = 'fraud_inputs'\nlabel = 'labels.is_fraud'\n\
                    decisions = { approve = 0.0, decline = 0.999 }\n\
                    [score_log]\nlocation = 'log'\n";
    std::fs::write(folder.path().join("millrace.toml"), settings).unwrap();
    // Of nobody's: an event in the file of labels.
    let label = json!({
        "tx_id": "none", "card_id": "none", "terminal_id": "none", "is_fraud": false,
        "tx_time": "2018-04-01T00:00:00Z", "event_time": "2018-04-02T00:00:00Z",
    });
    std::fs::write(folder.path().join("labels.jsonl"), format!("{label}\n")).unwrap();
    folder
}

fn payments() -> Vec<Payment> {
    let payment = |number: usize| Payment {
        id: format!("tx-{number:03}"),
        card: ["a", "b", "ü"][number % 3].to_owned(),
        amount: number as f64 / 8.0 + 1.0,
        time: NOON + number as i64 * HOUR,
    };
    (0..PAYMENTS).map(payment).collect()
}

/// Writes a file of the log anew, with other rows.
fn rewrite(file: &Path, change: impl FnOnce(RecordBatch) -> RecordBatch) {
    let bytes = bytes::Bytes::from(std::fs::read(file).unwrap());
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let noted = reader.metadata().file_metadata().key_value_metadata();
    let noted = noted.into_iter().flatten();
    let noted: Vec<KeyValue> = noted
        .filter(|pair| pair.key.starts_with("millrace."))
        .cloned()
        .collect();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let rows = change(concat_batches(&batches[0].schema(), &batches).unwrap());
    let properties = WriterProperties::builder().set_key_value_metadata(Some(noted));
    let out = std::fs::File::create(file).unwrap();
    let mut writer = ArrowWriter::try_new(out, rows.schema(), Some(properties.build())).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}

/// The rows with another value in one place.
fn with(rows: &RecordBatch, column: &str, row: usize, value: ArrayRef) -> RecordBatch {
    let index = rows.schema().index_of(column).unwrap();
    let mut columns = rows.columns().to_vec();
    let old = &columns[index];
    let (before, after) = (old.slice(0, row), old.slice(row + 1, old.len() - row - 1));
    let parts = [before.as_ref(), value.as_ref(), after.as_ref()];
    columns[index] = concat(&parts).unwrap();
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}

fn number(value: f64) -> ArrayRef {
    Arc::new(Float64Array::from(vec![value]))
}

fn text(value: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

/// Checks that one difference was found, and is named; gives it as JSON has it.
fn only(found: &LogAudit, kind: &str) -> Value {
    let json = serde_json::to_value(found).unwrap();
    assert_eq!(json[kind], 1, "{json:#}");
    assert_eq!(found.differences(), 1, "{json:#}");
    assert_eq!(json["first"].as_array().unwrap().len(), 1, "{json:#}");
    let first = json["first"][0].clone();
    assert_eq!(first["kind"], kind);
    first
}

#[test]
fn a_log_is_compared_value_by_value_and_view_by_view() {
    let scored = Scored::new();
    let log = scored.audit(|_| ());
    assert_eq!(log.differences(), 0, "{}", log.text());
    let all = PAYMENTS as u64;
    assert_eq!((log.rows, log.compared), (all, all));
    assert_eq!((log.scores_checked, log.scores_unchecked), (all, 0));
    assert_eq!((log.decisions_checked, log.decisions_unchecked), (all, 0));
    assert!(log.views.values().all(|view| *view == LogView::default()));
    assert!(log.files > 1);

    // A value of one view. What the model says of it may be named in front.
    let mut before = 0.0;
    let log = scored.audit(|file| {
        rewrite(file, |rows| {
            let column = "fraud_inputs__amount_sum_1d";
            let sums = rows.column_by_name(column).unwrap();
            before = sums.as_primitive::<Float64Type>().value(5);
            with(&rows, column, 5, number(123.25))
        });
    });
    assert_eq!(log.mismatched, 1);
    let view = |name: &str| log.views[name].clone();
    let expected = LogView {
        mismatched: 1,
        ..LogView::default()
    };
    assert_eq!(view("card_activity"), expected);
    assert_eq!(view("terminal_activity"), LogView::default());
    let json = serde_json::to_value(&log).unwrap();
    assert_eq!(
        json["first"].as_array().unwrap().last().unwrap(),
        &json!({
            "kind": "mismatched", "id": "tx-005", "event_time": "2018-04-01T17:00:00Z", "column": "amount_sum_1d",
            "views": ["card_activity"], "logged": 123.25, "recomputed": before,
        })
    );
    let text = log.text();
    assert!(
        text.contains("view card_activity: 1 mismatched, 0 of another entity"),
        "{text}"
    );
    assert!(
        text.contains(
            "tx-005 of 2018-04-01T17:00:00Z: amount_sum_1d of card_activity: logged 123.25"
        ),
        "{text}"
    );
}

#[test]
fn a_text_of_the_log_is_compared_as_it_is() {
    let folder = project();
    let inputs = folder.path().join("inputs.sql");
    let sql = std::fs::read_to_string(&inputs).unwrap();
    let sql = sql.replace(
        "SELECT t.amount,",
        "SELECT t.amount, t.terminal_id AS place,",
    );
    std::fs::write(&inputs, sql).unwrap();
    let scored = Scored::of(folder);
    let log = scored.audit(|_| ());
    assert_eq!(log.differences(), 0, "{}", log.text());

    let column = "fraud_inputs__place";
    let log = scored.audit(|file| rewrite(file, |rows| with(&rows, column, 5, text("zzz"))));
    assert_eq!(log.mismatched, 1);
    let json = serde_json::to_value(&log).unwrap();
    let last = json["first"].as_array().unwrap().last().unwrap();
    let said = json!([last["column"], last["logged"], last["recomputed"]]);
    assert_eq!(said, json!(["place", "zzz", "ü"]));
}

#[test]
fn a_row_that_names_another_entity_is_a_difference_of_its_views() {
    let scored = Scored::new();
    let log = scored.audit(|file| rewrite(file, |rows| with(&rows, "card_id", 5, text("zzz"))));
    let first = only(&log, "other_entity");
    assert_eq!(first["column"], "card_id");
    assert_eq!(first["logged"], "zzz");
    assert_eq!(first["recomputed"], "ü");
    assert_eq!(log.entities["card_id"], 1);
    for (name, view) in &log.views {
        let by_card = u64::from(name.starts_with("card_"));
        assert_eq!(view.other_entity, by_card, "{name}");
    }
}

#[test]
fn scores_and_decisions_are_checked_where_they_stand() {
    let scored = Scored::new();
    let log = scored.audit(|file| {
        rewrite(file, |rows| {
            let scores = rows.column_by_name("score").unwrap();
            let score = scores.as_primitive::<Float64Type>().value(5);
            with(&rows, "score", 5, number(score * 0.99))
        });
    });
    let first = only(&log, "other_score");
    assert_eq!(
        (&first["id"], &first["column"]),
        (&json!("tx-005"), &json!("score"))
    );

    let log = scored.audit(|file| rewrite(file, |rows| with(&rows, "decision", 5, text("never"))));
    let first = only(&log, "other_decision");
    assert_eq!(first["logged"], "never");

    // What no registry can say is not checked, and is no difference.
    std::fs::remove_dir_all(scored.path("data/models")).unwrap();
    let log = scored.audit(|_| ());
    assert_eq!(log.differences(), 0, "{}", log.text());
    assert_eq!(log.scores_unchecked, PAYMENTS as u64);
    assert!(log.text().contains("no registry"), "{}", log.text());
}

#[test]
fn events_that_are_missing_too_much_or_twice_are_named() {
    let scored = Scored::new();
    let log = scored.audit(|file| {
        rewrite(file, |rows| {
            let (before, after) = (rows.slice(0, 5), rows.slice(6, rows.num_rows() - 6));
            concat_batches(&rows.schema(), &[before, after]).unwrap()
        });
    });
    assert_eq!(only(&log, "missing")["id"], "tx-005");
    assert!(log.views.values().all(|view| view.missing == 1));

    let log = scored.audit(|file| {
        rewrite(file, |rows| {
            concat_batches(&rows.schema(), &[rows.clone(), rows.slice(5, 1)]).unwrap()
        });
    });
    assert_eq!(only(&log, "twice")["id"], "tx-005");

    let log = scored.audit(|file| {
        rewrite(file, |rows| {
            let another = with(&rows.slice(5, 1), "tx_id", 0, text("new-one"));
            concat_batches(&rows.schema(), &[rows, another]).unwrap()
        });
    });
    let first = only(&log, "extra");
    assert_eq!(first["id"], "new-one");
    assert_eq!(first["event_time"], "2018-04-01T17:00:00Z");
    assert!(log.views.values().all(|view| view.extra == 1));
}

#[test]
fn an_event_that_the_files_have_twice_stands_for_no_other() {
    let scored = Scored::new();
    rewrite(&scored.path("tx.parquet"), |rows| {
        let (most, again) = (rows.slice(0, PAYMENTS - 1), rows.slice(5, 1));
        concat_batches(&rows.schema(), &[most, again]).unwrap()
    });
    let found = compare(&scored.workspace(), &scored.events(), Some("log")).unwrap();
    let all = PAYMENTS as u64;
    assert_eq!((found.events, found.compared), (all, all - 1));
    assert_eq!((found.mismatched, found.missing, found.extra), (0, 0, 1));
    let log = found.log.unwrap();
    assert_eq!((log.compared, log.extra), (all - 1, 1));
    assert_eq!(log.differences(), 1, "{}", log.text());
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_are_compared() {
    let scored = Scored::new();
    let changes: [fn(&Path); 3] = [
        |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        },
        |file| std::fs::write(file, "").unwrap(),
        |file| {
            rewrite(file, |rows| {
                let index = rows.schema().index_of("score").unwrap();
                let others: Vec<usize> = (0..rows.num_columns()).filter(|i| *i != index).collect();
                rows.project(&others).unwrap()
            });
        },
    ];
    for change in changes {
        let mut name = PathBuf::new();
        let log = scored.audit(|file| {
            name = file.to_owned();
            change(file);
        });
        assert_eq!(log.unreadable_files, 1, "{}", log.text());
        let whole = name.canonicalize().unwrap();
        let named = Path::new(&log.unreadable[0].file);
        assert!(named.is_absolute(), "{named:?}");
        assert_eq!(named.canonicalize().unwrap(), whole);
        // Its events are in no other file.
        assert!(log.missing > 0 && log.compared > 0, "{}", log.text());
        assert_eq!(log.missing + log.compared, PAYMENTS as u64);
        assert_eq!(log.differences(), log.missing + 1);
    }
}

#[test]
fn where_nothing_was_ever_scored_that_is_said_and_no_store_is_made() {
    let folder = project();
    let workspace = Workspace::open(folder.path()).unwrap();
    let payment = crate::serve::tests::payment("x", "c1", 60.0, 55);
    std::fs::write(folder.path().join("tx.jsonl"), format!("{payment}\n")).unwrap();
    let events = ["transactions=tx.jsonl", "labels=labels.jsonl"].map(|event| {
        let (stream, file) = event.split_once('=').unwrap();
        format!("{stream}={}", folder.path().join(file).display())
    });
    let failure = compare(&workspace, &events, None).unwrap_err();
    assert!(
        failure.message.starts_with("nothing was scored yet: "),
        "{failure}"
    );
    assert_eq!(failure.exit_code(), 2);
    // A log that is named is looked for all the same.
    let failure = compare(&workspace, &events, Some("log")).unwrap_err();
    assert!(
        failure.message.contains("there is no log of scores"),
        "{failure}"
    );
    assert!(!workspace.path(&workspace.settings.store.path).exists());
}
