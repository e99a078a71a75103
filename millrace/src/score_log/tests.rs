//! The log against crashes, against a location that fails, and to the bit.
//!
//! The store is RocksDB and the location a folder. A crash is one: the test's own program, started again as a child,
//! ends itself before its nth change of the store or of the location, for every n.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::env;
use std::ops::{ControlFlow, Range};
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use millrace_feature_store::{Horizons, MemoryStore, RocksStore, Scan, StoreError, Table};
use millrace_features::pack_rows;
use millrace_ingest::Step;
use object_store::path::Path;

use super::files::RangeFiles;
use super::*;
use crate::object_stores;
use crate::pipeline::Pipeline;
use crate::scorer::Scorer;
use crate::serve::tests::with_a_text;
use crate::workspace::Workspace;

mod faults;

use faults::Faulty;

pub(crate) const NOON: i64 = 1_522_584_000_000_000;
pub(crate) const HOUR: i64 = 3_600_000_000;

/// Set in a child: the folder it works in, and the change that it does not live to make.
const CHILD: &str = "MILLRACE_SCORE_LOG_TEST_FOLDER";
const LAST_CHANGE: &str = "MILLRACE_SCORE_LOG_TEST_CHANGE";
const TEST: &str = "score_log::tests::a_crash_at_any_change_logs_each_event_once";

#[test]
fn a_crash_at_any_change_logs_each_event_once() {
    if let Some(folder) = env::var_os(CHILD) {
        let changes = env::var(LAST_CHANGE).unwrap().parse().unwrap();
        return Trial::new(FilePath::new(&folder), changes).run(4);
    }
    let straight = tempfile::tempdir().unwrap();
    Trial::new(straight.path(), i64::MAX).run(9);
    let expected = logged(straight.path());
    let ids = ids(&events());
    assert_eq!(expected.keys().cloned().collect::<Vec<_>>(), ids);
    let mut change = 0;
    loop {
        change += 1;
        let folder = tempfile::tempdir().unwrap();
        let has_crashed = crash_at(folder.path(), change);
        // Kafka gives again what the store has not, in other steps.
        Trial::new(folder.path(), i64::MAX).run(7);
        let logged = logged(folder.path());
        // Not shown: they are long.
        assert!(logged == expected, "crashed at change {change}");
        if !has_crashed {
            break;
        }
    }
    println!("{} crashes", change - 1);
    assert!(change > 30, "{change}");
}

/// Lets a child work until it crashes. False where it came to its end.
fn crash_at(folder: &FilePath, change: i64) -> bool {
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--test-threads=1"])
        .env(CHILD, folder)
        .env(LAST_CHANGE, change.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    match status.code() {
        Some(0) => false,
        // A test that fails ends with a code, a crash with a signal.
        None => true,
        Some(code) => panic!("the child failed with {code} before change {change}"),
    }
}

#[test]
fn a_location_that_fails_now_and_then_loses_and_doubles_nothing() {
    let straight = tempfile::tempdir().unwrap();
    Trial::new(straight.path(), i64::MAX).run(9);
    for period in [3, 5, 7] {
        let folder = tempfile::tempdir().unwrap();
        let trial = Trial::new(folder.path(), i64::MAX);
        trial.faults.fail_every(period);
        trial.run(5);
        assert_eq!(logged(folder.path()), logged(straight.path()));
    }
}

#[test]
fn an_outage_holds_reading_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let trial = Trial::new(folder.path(), i64::MAX);
    trial.faults.fail_every(1);
    let events = events();
    let mut log = trial.log();
    log.settings.max_waiting_bytes = 1_000;
    let mut pipeline = trial.pipeline(log);
    let mut next = 0;
    while !pipeline.log().unwrap().is_full() {
        pipeline
            .apply(&step(&trial.live, &events, next..next + 1))
            .unwrap();
        pipeline.between_steps().unwrap();
        next += 1;
    }
    assert!((3..events.len()).contains(&next), "{next}");
    assert_eq!(files(folder.path()), [] as [PathBuf; 0]);

    trial.faults.fail_every(i64::MAX);
    while pipeline.log().unwrap().is_full() {
        pipeline.between_steps().unwrap();
    }
    pipeline
        .apply(&step(&trial.live, &events, next..events.len()))
        .unwrap();
    pipeline.finish().unwrap();
    assert_eq!(logged(folder.path()).len(), ids(&events).len());
}

#[test]
fn a_location_of_another_store_is_refused() {
    let one = tempfile::tempdir().unwrap();
    Trial::new(one.path(), i64::MAX).run(9);
    let other = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(other.path(), i64::MAX);
    trial.place.path = Path::from_absolute_path(one.path().join("log")).unwrap();
    let failure = first_failure(&trial);
    assert!(failure.contains("of another store"), "{failure}");
    assert_eq!(logged(one.path()).len(), ids(&events()).len());

    // A copy of the store from before the log: what it would write stands there under other numbers.
    let early = tempfile::tempdir().unwrap();
    let mut trial = Trial::new(early.path(), i64::MAX);
    let marker = std::fs::read_to_string(one.path().join("log/_millrace.json")).unwrap();
    let log = outbox::position(trial.live.store.as_ref()).unwrap();
    assert_eq!(log, None);
    let copied = trial.log();
    let name = &copied.outbox.position().log;
    let theirs: serde_json::Value = serde_json::from_str(&marker).unwrap();
    let marker = marker.replace(theirs["log"].as_str().unwrap(), name);
    drop(copied);
    std::fs::write(one.path().join("log/_millrace.json"), marker).unwrap();
    trial.place.path = Path::from_absolute_path(one.path().join("log")).unwrap();
    let failure = first_failure(&trial);
    assert!(failure.contains("an older copy"), "{failure}");
}

fn first_failure(trial: &Trial) -> String {
    let mut log = trial.log();
    loop {
        if let Err(failure) = log.tend_for(Duration::from_secs(10)) {
            return failure.to_string();
        }
    }
}

/// NaNs of several kinds, both zeros, nulls, the ends of the integers, texts and ids in all scripts.
#[test]
fn values_come_back_to_the_bit() {
    let (_folder, workspace) = with_a_text();
    let live = live_of(workspace, Arc::new(MemoryStore::new()));
    let plan = live.workspace.model().unwrap();
    let odd = [
        f64::from_bits(0x7ff8_0000_0000_0001),
        f64::from_bits(0xfff0_0000_dead_beef),
        -0.0,
        0.0,
        f64::MIN_POSITIVE / 2.0,
        f64::NEG_INFINITY,
    ];
    let whole = [i64::MIN, i64::MAX, 0, -1, 1, 1 << 53];
    let names = ["", "ü-😀", "a\0b", "交易", "\u{202e}rtl", "x"];
    let inputs = plan
        .inputs
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| {
            let of = |row: usize| (index + row) % 6;
            let column: ArrayRef = match field.data_type() {
                _ if index % 7 == 6 => new_null_array(field.data_type(), 6),
                DataType::Float64 => Arc::new(Float64Array::from_iter(
                    (0..6).map(|row| (row != index % 6).then(|| odd[of(row)])),
                )),
                DataType::Int64 => Arc::new(Int64Array::from_iter(
                    (0..6).map(|row| (row != index % 6).then(|| whole[of(row)])),
                )),
                DataType::Utf8 => Arc::new(StringArray::from_iter(
                    (0..6).map(|row| (row != index % 6).then(|| names[of(row)])),
                )),
                other => panic!("{other}"),
            };
            column
        });
    let inputs = RecordBatch::try_new(Arc::clone(&plan.inputs.schema), inputs.collect()).unwrap();
    let payments: Vec<Payment> = names
        .iter()
        .map(|name| Payment {
            id: (*name).to_owned(),
            card: (*name).to_owned(),
            amount: 1.0,
            time: NOON,
        })
        .collect();
    let events = batch(&live, &payments, 0..6);
    let scores = Scores {
        matrix: plan.inputs.matrix(&inputs).unwrap(),
        inputs: inputs.clone(),
        probabilities: Some(vec![0.1, f32::MIN_POSITIVE, 1.0, 0.0, 0.3, 0.25]),
        versions: vec![7; 6],
    };

    let columns = Columns::new(&live.workspace, plan).unwrap();
    let store = live.store.as_ref();
    let mut outbox = Outbox::open(store, &columns).unwrap();
    let mut commit = Commit::default();
    let rows = columns
        .pack(plan, &events, &scores, vec![true; 6], 5)
        .unwrap();
    let block = outbox.put(&rows, columns.tag, &mut commit).unwrap();
    store.commit(commit).unwrap();
    outbox.committed(block);
    // Each time the same bytes.
    let files = || {
        let files = RangeFiles::read(store, "log", 0..6).unwrap();
        files
            .files()
            .map(|file| file.unwrap().bytes)
            .collect::<Vec<_>>()
    };
    assert_eq!(files(), files());

    let back = table(files().remove(0));
    for input in inputs.schema().fields() {
        let expected = inputs.column_by_name(input.name()).unwrap();
        let column = back
            .column_by_name(&rows::input_column(plan, input.name()))
            .unwrap();
        assert_eq!(
            pack_rows(&[Arc::clone(column)]),
            pack_rows(&[Arc::clone(expected)])
        );
    }
    let ids = back.column_by_name("tx_id").unwrap().as_string::<i32>();
    assert_eq!(ids.iter().map(Option::unwrap).collect::<Vec<_>>(), names);
    let scores = back
        .column_by_name("score")
        .unwrap()
        .as_primitive::<Float64Type>();
    assert_eq!(scores.value(0), f64::from(0.1_f32));
}

#[test]
fn a_file_has_rows_of_one_schema() {
    let live = live(&[], Arc::new(MemoryStore::new()));
    let store = live.store.as_ref();
    let columns = Columns::new(&live.workspace, live.workspace.model().unwrap()).unwrap();
    let mut outbox = Outbox::open(store, &columns).unwrap();
    for tag in [1, 1, 2, 2, 2, 1] {
        let mut commit = Commit::default();
        let block = outbox.put(&[vec![0], vec![1]], tag, &mut commit).unwrap();
        store.commit(commit).unwrap();
        outbox.committed(block);
    }
    let mut ranges = Vec::new();
    while outbox.rows() > 0 {
        outbox.decide(store, 5).unwrap();
        // A decision is for ever.
        let again = Outbox::open(store, &columns).unwrap();
        assert_eq!(again.position(), outbox.position());
        ranges.push(outbox.position().range().unwrap());
        outbox.remove_decided(store).unwrap();
    }
    assert_eq!(ranges, [0..4, 4..8, 8..10, 10..12]);
    assert_eq!(outbox.bytes(), 0);
    assert_eq!(Outbox::open(store, &columns).unwrap().rows(), 0);
}

/// A project in a folder, with its store in `store` and its log in `log`.
struct Trial {
    live: Live,
    place: Place,
    faults: Arc<Faults>,
}

/// What goes wrong.
struct Faults {
    changes_left: AtomicI64,
    requests: AtomicI64,
    fail_every: AtomicI64,
}

impl Faults {
    /// Ends the process, if it was to make no more changes.
    fn change(&self) {
        if self.changes_left.fetch_sub(1, Ordering::SeqCst) <= 1 {
            std::process::abort();
        }
    }

    /// True where a request of the location is to fail.
    fn is_refused(&self) -> bool {
        let request = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        request % self.fail_every.load(Ordering::SeqCst) == 0
    }

    fn fail_every(&self, period: i64) {
        self.fail_every.store(period, Ordering::SeqCst);
    }
}

impl Trial {
    /// A start of the process: it ends before its nth change.
    fn new(folder: &FilePath, changes: i64) -> Self {
        let faults = Arc::new(Faults {
            changes_left: AtomicI64::new(changes),
            requests: AtomicI64::new(0),
            fail_every: AtomicI64::new(i64::MAX),
        });
        let project = workspace(&["score_log.every=1ms", "score_log.max_rows=11"]);
        let store = CrashingStore {
            store: project.open_store_at(&folder.join("store")).unwrap(),
            faults: Arc::clone(&faults),
        };
        let (objects, path) = object_stores::open("log", folder).unwrap();
        let place = Place {
            objects: Arc::new(Faulty {
                objects,
                faults: Arc::clone(&faults),
            }),
            path,
            name: "log".to_owned(),
        };
        Self {
            live: live_of(project, Arc::new(store)),
            place,
            faults,
        }
    }

    fn log(&self) -> ScoreLog {
        let plan = self.live.workspace.model().unwrap();
        ScoreLog::at(&self.live, plan, self.place.clone()).unwrap()
    }

    fn pipeline(&self, log: ScoreLog) -> Pipeline {
        let pipeline = Pipeline::new(self.live.clone(), None).unwrap();
        pipeline.with_log(Some(log))
    }

    /// Goes on where the store stands, in steps of so many events, to the end.
    fn run(self, step_rows: usize) {
        let events = events();
        let mut pipeline = self.pipeline(self.log());
        let offsets = self.live.store.offsets().unwrap();
        let mut next = offsets.first().map_or(0, |offset| offset.next as usize);
        for count in 1.. {
            let end = (next + step_rows).min(events.len());
            if next == end {
                break;
            }
            pipeline
                .apply(&step(&self.live, &events, next..end))
                .unwrap();
            next = end;
            if count % 3 == 0 {
                pipeline.flush().unwrap();
            }
            self.wait_for_writer(&mut pipeline);
        }
        pipeline.finish().unwrap();
        assert_eq!(pipeline.log().unwrap().outbox.rows(), 0);
    }

    /// So that a run is the same each time: nothing is applied while the store is flushed and the writer works.
    fn wait_for_writer(&self, pipeline: &mut Pipeline) {
        loop {
            pipeline.between_steps().unwrap();
            match pipeline.log().unwrap().phase {
                Phase::Decided | Phase::Writing => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Phase::Waiting => break,
            }
        }
    }
}

/// RocksDB, in a process that ends before one of its changes.
struct CrashingStore {
    store: RocksStore,
    faults: Arc<Faults>,
}

impl Scan for CrashingStore {
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to_exclusive: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.store.scan(table, from, to_exclusive, reverse, visit)
    }
}

impl Store for CrashingStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(table, key)
    }

    fn moment(&self) -> Box<dyn Scan + '_> {
        self.store.moment()
    }

    fn commit(&self, commit: Commit) -> Result<(), StoreError> {
        self.faults.change();
        self.store.commit(commit)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.faults.change();
        self.store.flush()
    }

    fn horizons(&self) -> &Horizons {
        self.store.horizons()
    }

    fn expire(&self) -> Result<(), StoreError> {
        self.store.expire()
    }

    fn remove_view(&self, view: u32) -> Result<(), StoreError> {
        self.store.remove_view(view)
    }

    fn compact_view(&self, view: u32) -> Result<(), StoreError> {
        self.store.compact_view(view)
    }
}

fn workspace(changes: &[&str]) -> Workspace {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fraud");
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    Workspace::open_with(&folder, &changes).unwrap()
}

fn live(changes: &[&str], store: Arc<dyn Store>) -> Live {
    live_of(workspace(changes), store)
}

pub(crate) fn live_of(workspace: Workspace, store: Arc<dyn Store>) -> Live {
    let plan = workspace.model().unwrap().clone();
    Live {
        workspace: Arc::new(workspace),
        store,
        scorer: Some(Arc::new(Scorer::new(plan))),
        registry: None,
        progress: Arc::default(),
        misses: Arc::default(),
        traces: crate::traces::Traces::default(),
    }
}

pub(crate) struct Payment {
    pub(crate) id: String,
    /// Of the terminal, too.
    pub(crate) card: String,
    pub(crate) amount: f64,
    pub(crate) time: i64,
}

/// Payments of three days, some of them late, some delivered twice. Late ones have a card and a terminal of their own:
/// whether a payment's inputs count a later one's is decided by the step, which a crash may change.
fn events() -> Vec<Payment> {
    let payment = |number: i64| Payment {
        id: format!("tx-{number:03}"),
        card: match number % 8 {
            5 => format!("late-{number}"),
            _ => ["a", "b", "ü"][(number % 3) as usize].to_owned(),
        },
        amount: number as f64 / 8.0,
        time: NOON + number * HOUR - if number % 8 == 5 { 30 * HOUR } else { 0 },
    };
    let numbers = (0..60).flat_map(|number| match number {
        20 | 41 => vec![number, number - 3],
        30 => vec![number, number],
        _ => vec![number],
    });
    numbers.map(payment).collect()
}

fn ids(events: &[Payment]) -> Vec<String> {
    let mut ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    ids.sort();
    ids.dedup();
    ids
}

pub(crate) fn batch(live: &Live, events: &[Payment], range: Range<usize>) -> StreamBatch {
    let stream = &live.workspace.model().unwrap().inputs.stream;
    let events = &events[range.clone()];
    let texts = |text: fn(&Payment) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(events.iter().map(text)))
    };
    let amounts = events.iter().map(|event| event.amount);
    let columns = stream.schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "tx_id" => texts(|event| &event.id),
            "card_id" | "terminal_id" => texts(|event| &event.card),
            "amount" => Arc::new(Float64Array::from_iter_values(amounts.clone())),
            _ => Arc::new(TimestampMicrosecondArray::from_iter_values(
                events.iter().map(|event| event.time),
            )),
        }
    });
    let streams = &live.workspace.project.streams;
    StreamBatch {
        stream: streams
            .iter()
            .position(|other| Arc::ptr_eq(other, stream))
            .unwrap(),
        batch: RecordBatch::try_new(Arc::clone(&stream.schema), columns.collect()).unwrap(),
        origin: range.clone().map(|offset| (0, offset as i64)).collect(),
        kafka_ts: vec![-1; range.len()],
        headers: Vec::new(),
        deletions: Vec::new(),
    }
}

pub(crate) fn step(live: &Live, events: &[Payment], range: Range<usize>) -> Step {
    Step {
        positions: vec![("transactions".to_owned(), 0, range.end as i64)],
        batches: vec![batch(live, events, range)],
        ..Step::default()
    }
}

pub(crate) fn files(folder: &FilePath) -> Vec<PathBuf> {
    let days = std::fs::read_dir(folder.join("log")).into_iter().flatten();
    let days = days
        .map(|day| day.unwrap().path())
        .filter(|day| day.is_dir());
    let files = days.flat_map(|day| std::fs::read_dir(day).unwrap());
    let files = files.map(|file| file.unwrap().path());
    // A crash may leave a file that is not whole, under a name that no reader asks for.
    let is_whole = |file: &PathBuf| file.extension().is_some_and(|name| name == "parquet");
    files.filter(is_whole).collect()
}

fn table(bytes: bytes::Bytes) -> RecordBatch {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// All rows of the log by id: what is the same however often the process was started. Each id stands once, the
/// numbers have no gap, and each file has rows of its day.
fn logged(folder: &FilePath) -> BTreeMap<String, Vec<u8>> {
    let mut rows = BTreeMap::new();
    let mut numbers: Vec<i64> = Vec::new();
    for file in files(folder) {
        let day = file.parent().unwrap().file_name().unwrap();
        let day = day
            .to_str()
            .unwrap()
            .strip_prefix("dt=")
            .unwrap()
            .to_owned();
        let table = table(std::fs::read(&file).unwrap().into());
        let schema = table.schema();
        let same = schema.fields().iter().enumerate();
        let same =
            same.filter(|(_, field)| !["scored_at", "sequence"].contains(&field.name().as_str()));
        let same: Vec<usize> = same.map(|(index, _)| index).collect();
        let packed = pack_rows(table.project(&same).unwrap().columns());
        let ids = table.column_by_name("tx_id").unwrap().as_string::<i32>();
        let times = table.column_by_name("event_time").unwrap();
        for (row, packed) in packed.into_iter().enumerate() {
            let time = arrow::util::display::array_value_to_string(times, row).unwrap();
            assert!(time.starts_with(&day), "{time} in {file:?}");
            let id = ids.value(row).to_owned();
            assert_eq!(rows.insert(id.clone(), packed), None, "{id} stands twice");
        }
        let sequence = table
            .column_by_name("sequence")
            .unwrap()
            .as_primitive::<Int64Type>();
        assert!(sequence.values().is_sorted());
        numbers.extend(sequence.values());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..rows.len() as i64).collect::<Vec<_>>());
    let marker = std::fs::read_to_string(folder.join("log/_millrace.json")).unwrap();
    let marker: serde_json::Value = serde_json::from_str(&marker).unwrap();
    assert_eq!(marker["complete_to"], rows.len());
    rows
}
