//! What of a file comes into the store, and which files are refused.
#![allow(clippy::unwrap_used)]

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::datatypes::Int64Type;
use tempfile::TempDir;

use super::*;
use crate::failure::Kind;
use crate::files::BATCH_ROWS;
use crate::times::parse_time;

const COLUMNS: &str = "card_id VARCHAR NOT NULL, amount DOUBLE, event_time TIMESTAMP NOT NULL";

const VIEW: &str = "CREATE VIEW recent AS SELECT card_id, count(*) OVER w AS n FROM tx WINDOW w AS
  (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);";

struct Data {
    folder: TempDir,
    workspace: Arc<Workspace>,
}

impl Data {
    /// A project of one stream that names no id.
    fn new() -> Self {
        Self::of(COLUMNS, "")
    }

    fn of(columns: &str, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir(folder.path().join("features")).unwrap();
        write(
            "sources.sql",
            &format!(
                "CREATE EXTERNAL TABLE tx ({columns}) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) {options};"
            ),
        );
        write("features/v.sql", VIEW);
        write("millrace.toml", "");
        let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
        Self { folder, workspace }
    }

    fn write(&self, name: &str, lines: &[String]) {
        std::fs::write(self.folder.path().join(name), lines.join("\n")).unwrap();
    }

    fn backfill(&self, name: &str) -> Outcome<()> {
        let path = self.folder.path().join(name);
        let events = vec![format!("tx={}", path.display())];
        backfill(&self.workspace, &BackfillArgs { events })
    }

    fn newest(&self) -> Option<i64> {
        let store = self.workspace.open_store().unwrap();
        Marks::open(&store).unwrap().newest("tx")
    }

    /// A card's events up to a time.
    fn count(&self, card: &str, as_of: &str) -> i64 {
        let store = self.workspace.open_store().unwrap();
        let view = &self.workspace.project.views[0];
        let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![card]))];
        let as_of = [parse_time(as_of).unwrap()];
        let answer = view.answer(&Committed(&store), &keys, &as_of).unwrap();
        let counts = answer.column_by_name("n").unwrap();
        counts.as_primitive::<Int64Type>().value(0)
    }
}

#[track_caller]
fn fails(outcome: Outcome<()>, words: &[&str]) {
    let failure = outcome.unwrap_err();
    assert_eq!(failure.kind, Kind::Input, "{failure}");
    let text = failure.to_string();
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

fn event(card: &str, time: &str) -> String {
    format!("{{\"card_id\":\"{card}\",\"amount\":1,\"event_time\":\"{time}\"}}")
}

#[test]
fn files_and_partitions_are_other_places() {
    let places = ["/a.parquet", "/b.parquet", "/c/a.parquet"].map(|path| place_of(Path::new(path)));
    assert!(places.iter().all(|place| *place < 0), "{places:?}");
    assert!(places[0] != places[1] && places[0] != places[2] && places[1] != places[2]);
}

#[test]
fn an_event_that_is_far_ahead_of_the_clock_is_a_mistake_in_the_file() {
    let data = Data::new();
    let mut lines = vec![event("a", "2024-01-01T00:00:00Z"); 20];
    lines.push(event("a", "9024-01-01T00:00:00Z"));
    data.write("e.jsonl", &lines);
    fails(
        data.backfill("e.jsonl"),
        &[
            "e.jsonl: row 21: column 'event_time': 9024-01-01T00:00:00Z is further ahead",
            "kafka.allowed_future",
        ],
    );
    assert_eq!(data.newest(), None);

    lines.pop();
    data.write("e.jsonl", &lines);
    data.backfill("e.jsonl").unwrap();
    assert_eq!(data.newest(), Some(parse_time("2024-01-01").unwrap()));
    assert_eq!(data.count("a", "2024-01-02"), 20);
}

/// A view that is new reads the files that were back-filled, as they are now.
#[test]
fn an_event_that_is_far_ahead_of_the_clock_comes_into_no_new_view() {
    let mut data = Data::new();
    let mut lines = vec![event("a", "2024-01-01T00:00:00Z"); 3];
    data.write("e.jsonl", &lines);
    data.backfill("e.jsonl").unwrap();
    lines.push(event("a", "9024-01-01T00:00:00Z"));
    lines.push(event("a", "2024-01-01T00:00:01Z"));
    data.write("e.jsonl", &lines);
    let new = VIEW.replace("AS n", "AS n, sum(amount) OVER w AS s");
    data.write("features/v.sql", &[new]);
    data.workspace = Arc::new(Workspace::open(data.folder.path()).unwrap());
    data.write("more.jsonl", &[event("a", "2024-01-01T00:00:02Z")]);
    data.backfill("more.jsonl").unwrap();
    assert_eq!(data.count("a", "2024-01-02"), 5);
    assert_eq!(data.count("a", "9024-01-02"), 0);
}

#[test]
fn a_file_that_has_changed_is_refused_where_its_rows_are_not_known_by_an_id() {
    let data = Data::new();
    let at = |second: usize| event("a", &format!("2024-01-01T00:00:{second:02}Z"));
    let rows = |seconds: std::ops::Range<usize>| seconds.map(at).collect::<Vec<_>>();
    data.write("e.jsonl", &rows(0..3));
    data.backfill("e.jsonl").unwrap();
    data.backfill("e.jsonl").unwrap();
    data.write("e.jsonl", &rows(1..6));
    fails(
        data.backfill("e.jsonl"),
        &[
            "e.jsonl: it has changed since it was read",
            "its 3 rows",
            "another name",
        ],
    );
    assert_eq!(data.count("a", "2024-01-02"), 3);
    data.write("more.jsonl", &rows(3..6));
    data.backfill("more.jsonl").unwrap();
    assert_eq!(data.count("a", "2024-01-02"), 6);
}

#[test]
fn a_file_that_has_changed_is_read_again_where_its_rows_have_an_id() {
    let data = Data::of(
        &format!("tx_id VARCHAR NOT NULL, {COLUMNS}"),
        "OPTIONS ('id' 'tx_id')",
    );
    let row = |id: usize| {
        let event = event("a", &format!("2024-01-01T00:00:{id:02}Z"));
        event.replacen('{', &format!("{{\"tx_id\":\"t{id}\","), 1)
    };
    let rows = |ids: std::ops::Range<usize>| ids.map(row).collect::<Vec<_>>();
    data.write("e.jsonl", &rows(0..3));
    data.backfill("e.jsonl").unwrap();
    data.write("e.jsonl", &rows(1..6));
    data.backfill("e.jsonl").unwrap();
    assert_eq!(data.count("a", "2024-01-02"), 6);
}

#[test]
fn a_mistake_that_is_mended_does_not_make_a_file_another_one() {
    let data = Data::new();
    // What is before the mistake is a batch, and in the store.
    let mut lines = vec![event("a", "2024-01-01T00:00:00Z"); BATCH_ROWS];
    lines.push("oops".to_owned());
    data.write("e.jsonl", &lines);
    fails(data.backfill("e.jsonl"), &["e.jsonl:8193:"]);
    assert_eq!(data.count("a", "2024-01-02"), BATCH_ROWS as i64);
    lines[BATCH_ROWS] = event("a", "2024-01-01T00:00:00Z");
    data.write("e.jsonl", &lines);
    data.backfill("e.jsonl").unwrap();
    assert_eq!(data.count("a", "2024-01-02"), BATCH_ROWS as i64 + 1);
}
