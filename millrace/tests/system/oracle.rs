//! What must be true of a finished run, by other means: DataFusion's batch windows over the same rows.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use millrace::labels::examples_after;
use millrace::state::Committed;
use millrace::workspace::Workspace;
use millrace_feature_store::{Scan, Table};
use millrace_features::{FeatureView, Stream};
use serde_json::Value;

use crate::data::{Data, times};
use crate::harness::{Scores, System};

/// Every feature of every view, as of each event of its stream, against batch SQL: the view's own text, with its
/// frames ended one microsecond earlier.
pub fn check_views(system: &System, data: &Data) {
    let workspace = system.workspace();
    let store = workspace.open_store().unwrap();
    for view in &workspace.project.views {
        let events = events_of(&view.stream, data);
        let keys: Vec<ArrayRef> = view
            .entity
            .iter()
            .map(|c| Arc::clone(events.column(*c)))
            .collect();
        let answers = view
            .answer(&Committed(&store), &keys, times(&events))
            .unwrap();
        let expected = batch_answers(&workspace, view, data);
        let rows = row_of_id(&events);
        let mut compared = 0;
        for row in 0..expected.num_rows() {
            let mine = rows[expected.column(0).as_string::<i32>().value(row)];
            for (column, name) in view.schema.fields().iter().map(|f| f.name()).enumerate() {
                let wanted = ScalarValue::try_from_array(expected.column(column + 1), row).unwrap();
                let got = ScalarValue::try_from_array(answers.column(column), mine).unwrap();
                assert_close(
                    &wanted,
                    &got,
                    &format!("{}.{name} of event {mine}", view.name),
                );
                compared += 1;
            }
        }
        assert_eq!(expected.num_rows(), events.num_rows());
        eprintln!("{}: {compared} values equal batch SQL", view.name);
    }
}

/// A view that is gone has no rows.
pub fn check_is_gone(system: &System, view: u32) {
    let store = system.workspace().open_store().unwrap();
    let prefix = view.to_be_bytes();
    for table in [Table::Events, Table::Tiles] {
        let mut rows = 0;
        let mut count = |key: &[u8], _: &[u8]| {
            rows += usize::from(key.starts_with(&prefix));
            ControlFlow::Continue(())
        };
        store.scan(table, &[], &[], false, &mut count).unwrap();
        assert_eq!(rows, 0, "of a view that is gone, in {table:?}");
    }
}

/// What was scored must be what the inputs are over all events: a replay, or a topic that was read late, must not
/// have hidden an earlier event.
pub fn check_scored_inputs(system: &System, data: &Data, scores: &Scores) {
    let workspace = system.workspace();
    let store = workspace.open_store().unwrap();
    let plan = workspace.model.as_ref().unwrap();
    let events = events_of(&plan.inputs.stream, data);
    let inputs = plan.inputs.evaluate(&Committed(&store), &events).unwrap();
    let matrix = plan.inputs.matrix(&inputs).unwrap();
    let names: Vec<&str> = plan.inputs.names().collect();
    let ids = events.column(plan.event_id).as_string::<i32>();
    let mut differing = 0;
    for row in 0..events.num_rows() {
        let scored = &scores[ids.value(row)]["inputs"];
        for (name, value) in names.iter().zip(&matrix[row * names.len()..]) {
            let scored = scored[name].as_f64();
            let same = match scored {
                Some(scored) => (scored - f64::from(*value)).abs() <= 1e-6 * scored.abs().max(1.0),
                None => value.is_nan(),
            };
            if !same && differing < 5 {
                eprintln!(
                    "event {}: {name} was scored as {scored:?} and is {value}",
                    ids.value(row)
                );
            }
            differing += usize::from(!same);
        }
    }
    assert_eq!(
        differing,
        0,
        "of {} inputs",
        events.num_rows() * names.len()
    );
}

/// `millrace audit` finds no difference, and finds one where there is one: a payment that the files lack.
pub fn check_audit(system: &System, data: &Data) {
    let audit = |files: &[&std::path::Path]| {
        let payments = files.iter().map(|file| ("transactions", *file));
        let labels = [("labels", data.labels_file.as_path())];
        let events = payments.chain(labels);
        let events: Vec<String> = events
            .map(|(stream, file)| format!("{stream}={}", file.display()))
            .collect();
        let mut arguments = vec!["audit", "--json", "--events"];
        arguments.extend(events.iter().map(String::as_str));
        let output = system.command(&arguments).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), found)
    };
    let (code, found) = audit(&[&data.first_half, &data.second_half]);
    assert_eq!(code, Some(0), "{found:#}");
    assert_eq!(found["compared"], data.payments.num_rows());
    for kind in ["mismatched", "missing", "extra", "other_inputs"] {
        assert_eq!(found[kind], 0, "{found:#}");
    }
    let log = &found["log"];
    assert_eq!(log["rows"], data.payments.num_rows());
    assert_eq!(log["compared"], data.payments.num_rows());
    for kind in [
        "waiting",
        "mismatched",
        "missing",
        "extra",
        "twice",
        "other_inputs",
        "other_entity",
        "other_score",
        "other_decision",
        "decisions_unchecked",
        "unreadable_files",
    ] {
        assert_eq!(log[kind], 0, "{log:#}");
    }
    let (code, found) = audit(&[&data.first_half]);
    assert_eq!(code, Some(1));
    assert!(found["extra"].as_u64().unwrap() > 0, "{found:#}");
    assert!(found["log"]["extra"].as_u64().unwrap() > 0, "{found:#}");
}

/// Through kill -9, every payment stands in the log of scores once, under a number of its own and without a gap.
pub fn check_score_log(system: &System, data: &Data) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let counts = runtime.block_on(async {
        let context = SessionContext::new();
        let folder = system.score_log().display().to_string();
        context
            .register_parquet("log", folder, Default::default())
            .await
            .unwrap();
        let sql = "SELECT count(*), count(DISTINCT tx_id), max(sequence) + 1 FROM log";
        context.sql(sql).await.unwrap().collect().await.unwrap()
    });
    for column in counts[0].columns() {
        let count = column
            .as_primitive::<arrow::datatypes::Int64Type>()
            .value(0);
        assert_eq!(count, data.payments.num_rows() as i64);
    }
}

/// Average precision on payments whose labels nobody had yet, far above their fraud rate.
pub fn check_model_beats_chance(data: &Data, scores: &[Value]) {
    let scored = scores.iter().map(|score| {
        let id = score["id"].as_str().unwrap();
        (score["score"].as_f64().unwrap(), data.frauds[id])
    });
    let mut scored: Vec<(f64, bool)> = scored.collect();
    assert!(
        scored.len() > 4_000,
        "{} payments have no label yet",
        scored.len()
    );
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let base = scored.iter().filter(|(_, fraud)| *fraud).count() as f64 / scored.len() as f64;
    let precision = average_precision(&scored);
    eprintln!(
        "average precision {precision:.3} over {} payments, of which {base:.4} are frauds",
        scored.len()
    );
    assert!(
        precision > 10.0 * base,
        "average precision {precision} where chance is {base}"
    );
}

fn average_precision(descending: &[(f64, bool)]) -> f64 {
    let (mut frauds, mut sum) = (0.0, 0.0);
    for (index, (_, fraud)) in descending.iter().enumerate() {
        if *fraud {
            frauds += 1.0;
            sum += frauds / (index + 1) as f64;
        }
    }
    sum / f64::max(frauds, 1.0)
}

/// One example a label, although the process was killed and read topics again.
pub fn check_labels_are_learned_once(system: &System, data: &Data) {
    let store = system.workspace().open_store().unwrap();
    let (mut examples, mut frauds, mut last) = (0, 0, 0);
    examples_after(&store, 0, &mut |number, example| {
        assert_eq!(number, last + 1);
        last = number;
        examples += 1;
        frauds += usize::from(example.fraud);
        true
    })
    .unwrap();
    let expected = labels_by_id(data);
    assert_eq!(examples, expected.len());
    assert_eq!(frauds, expected.values().filter(|fraud| **fraud).count());
}

/// What `millrace features get` printed, against a count and a mean by hand.
pub fn check_look_ups(data: &Data, look_ups: &BTreeMap<String, Value>) {
    let cards = data
        .payments
        .column_by_name("card_id")
        .unwrap()
        .as_string::<i32>();
    let amounts = data.payments.column_by_name("amount").unwrap();
    let amounts = amounts.as_primitive::<arrow::datatypes::Float64Type>();
    let (times, now) = (times(&data.payments), data.last_payment_us());
    for (card, answer) in look_ups {
        let week = 7 * 86_400_000_000;
        let within: Vec<f64> = (0..times.len())
            .filter(|row| {
                cards.value(*row) == card && now - week <= times[*row] && times[*row] < now
            })
            .map(|row| amounts.value(row))
            .collect();
        assert_eq!(
            answer["tx_count_7d"].as_u64(),
            Some(within.len() as u64),
            "card {card}: {answer}"
        );
        let mean = within.iter().sum::<f64>() / within.len() as f64;
        match answer["amount_avg_7d"].as_f64() {
            Some(got) => assert!(
                (got - mean).abs() < 1e-9 * mean,
                "card {card}: {got} and {mean}"
            ),
            None => assert!(within.is_empty()),
        }
    }
}

fn labels_by_id(data: &Data) -> HashMap<String, bool> {
    let ids = data
        .labels
        .column_by_name("tx_id")
        .unwrap()
        .as_string::<i32>();
    ids.iter()
        .flatten()
        .map(|id| (id.to_owned(), data.frauds[id]))
        .collect()
}

/// The rows of a stream, with the stream's columns.
fn events_of(stream: &Stream, data: &Data) -> RecordBatch {
    let rows = if stream.name == "labels" {
        &data.labels
    } else {
        &data.payments
    };
    let columns = stream.schema.fields().iter().map(|field| {
        let column = rows.column_by_name(field.name()).unwrap();
        arrow::compute::cast(column, field.data_type()).unwrap()
    });
    RecordBatch::try_new(Arc::clone(&stream.schema), columns.collect()).unwrap()
}

fn row_of_id(events: &RecordBatch) -> HashMap<String, usize> {
    let ids = events.column_by_name("tx_id").unwrap().as_string::<i32>();
    ids.iter()
        .enumerate()
        .map(|(row, id)| (id.unwrap().to_owned(), row))
        .collect()
}

fn batch_answers(workspace: &Workspace, view: &FeatureView, data: &Data) -> RecordBatch {
    let text = view_text(workspace, &view.name);
    let select = text.replace("CURRENT ROW", "INTERVAL '1 microsecond' PRECEDING");
    let sql = format!(
        "SELECT tx_id AS oracle_id, {}",
        select.trim().strip_prefix("SELECT").unwrap()
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let context =
            SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
        for (name, batch) in [("transactions", &data.payments), ("labels", &data.labels)] {
            let table = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
            context.register_table(name, Arc::new(table)).unwrap();
        }
        let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
        concat_batches(&batches[0].schema(), &batches).unwrap()
    })
}

/// The SELECT of a view of the project.
fn view_text(workspace: &Workspace, name: &str) -> String {
    for file in &workspace.sql.views {
        if let Some((_, rest)) = file.text.split_once(&format!("CREATE VIEW {name} AS")) {
            return rest.split(';').next().unwrap().to_owned();
        }
    }
    panic!("no view {name} in the project");
}

fn assert_close(wanted: &ScalarValue, got: &ScalarValue, context: &str) {
    match (wanted, got) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => {
            // Batch windows forget events by subtracting them: the difference is theirs.
            assert!(
                (a - b).abs() <= 1e-7 * a.abs().max(b.abs()).max(1.0),
                "{context}: {a} in batch, {b} here"
            );
        }
        _ => assert_eq!(wanted, got, "{context}"),
    }
}
