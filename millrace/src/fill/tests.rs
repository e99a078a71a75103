//! What the filler does where Kafka is away, where a topic is another one than before, and with files.
#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::path::PathBuf;

use millrace_feature_store::{EventKey, MemoryStore, Scan, Table, view_range};
use millrace_features::{SqlFile, StateReader, Tile};
use tempfile::TempDir;

use super::*;
use crate::evolve::begin;
use crate::logged::logged;
use crate::settings::Settings;
use crate::stored_files;
use crate::times::parse_time;
use crate::workspace::ProjectSql;

const PAY: &str =
    "CREATE EXTERNAL TABLE pay (card VARCHAR NOT NULL, amount DOUBLE, event_time TIMESTAMP NOT NULL)
     STORED AS KAFKA LOCATION 'pay' WITH ORDER (event_time)";

const PAY_WITH_ID: &str =
    "CREATE EXTERNAL TABLE pay (id VARCHAR NOT NULL, card VARCHAR NOT NULL, amount DOUBLE,
     event_time TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 'pay' WITH ORDER (event_time) OPTIONS ('id' 'id')";

fn view(options: &str, aggregate: &str, days: u32) -> String {
    format!(
        "CREATE VIEW v {options} AS SELECT card, {aggregate} OVER (PARTITION BY card ORDER BY event_time \
         RANGE BETWEEN INTERVAL '{days} days' PRECEDING AND CURRENT ROW) AS x FROM pay"
    )
}

fn project(brokers: SocketAddr, aggregate: &str) -> Arc<Workspace> {
    planned(brokers, PAY, &view("", aggregate, 7))
}

fn planned(brokers: SocketAddr, sources: &str, view: &str) -> Arc<Workspace> {
    let file = |text: &str| SqlFile {
        path: "file.sql".to_owned(),
        text: text.to_owned(),
    };
    let sql = ProjectSql {
        sources: file(sources),
        views: vec![file(view)],
        inputs: None,
    };
    let mut settings = Settings::default();
    settings.kafka.brokers = brokers.to_string();
    settings.kafka.request_timeout = Duration::from_secs(60);
    Arc::new(Workspace::plan(Path::new("/project"), settings, sql).unwrap())
}

/// A filler of a view that is new, over a store that has read some partitions up to an offset.
fn filler(brokers: SocketAddr, read: &[(i32, i64)]) -> (Arc<MemoryStore>, Filler, u32) {
    let store = Arc::new(MemoryStore::new());
    let before = project(brokers, "count(*)");
    assert!(begin(store.as_ref(), &before).unwrap().is_none());
    let mut commit = Commit::default();
    for (partition, next) in read {
        commit.offset("pay", *partition, *next);
    }
    store.commit(commit).unwrap();
    let next = project(brokers, "sum(amount)");
    let transition = begin(store.as_ref(), &next).unwrap().unwrap();
    let view = transition.views[0].id;
    let filler = Filler::new(Arc::clone(&store) as Arc<dyn Store>, &transition);
    (store, filler, view)
}

/// Where no broker is.
fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

/// A store that serves a project, and has read files of its stream.
struct Files {
    folder: TempDir,
    store: Arc<MemoryStore>,
}

impl Files {
    fn of(served: &Arc<Workspace>) -> Self {
        let store = Arc::new(MemoryStore::new());
        assert!(begin(store.as_ref(), served).unwrap().is_none());
        let folder = tempfile::tempdir().unwrap();
        Self { folder, store }
    }

    /// A file that was read before, with what is in it by now.
    fn add(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut commit = Commit::default();
        commit.put(Table::Meta, stored_files::key("pay", &path), [1_u8]);
        self.store.commit(commit).unwrap();
        path
    }

    /// Notes how far the stream was when its files had been read.
    fn reach(&self, newest: &str) {
        let mut marks = Marks::default();
        marks.advance("pay", time(newest));
        marks.fill("pay");
        let mut commit = Commit::default();
        marks.write(&mut commit);
        self.store.commit(commit).unwrap();
    }

    fn filler(&self, next: &Arc<Workspace>) -> Filler {
        let transition = begin(self.store.as_ref(), next).unwrap().unwrap();
        Filler::new(Arc::clone(&self.store) as Arc<dyn Store>, &transition)
    }
}

/// A time of the day on which the events are, µs.
fn time(time: &str) -> i64 {
    parse_time(&format!("2018-04-02T{time}Z")).unwrap()
}

/// A line of a file.
fn event(time: &str) -> String {
    let event_time = format!("2018-04-02T{time}Z");
    format!("{{\"id\":\"{time}\",\"card\":\"c\",\"amount\":1,\"event_time\":\"{event_time}\"}}\n")
}

/// A view that is served wants rows for longer. One of a file's rows is in it; the other was not there, or was refused.
#[test]
fn a_tile_goes_where_a_row_of_its_span_is_new() {
    let served = planned(nowhere(), PAY, &view("", "count(*)", 1));
    let asked = &served.project.views[0];
    let files = Files::of(&served);
    let times = ["10:00:00", "10:00:05"];
    let path = files.add("e.jsonl", &times.map(event).concat());
    files.reach("12:00:00");
    let mut events = EventFile::open(&path, &asked.stream).unwrap();
    let first = events.next().unwrap().unwrap().slice(0, 1);
    let origin = Origin {
        partitions: &[place_of(&path)],
        offsets: &[0],
    };
    let mut pending = Pending::default();
    asked.state_rows(&first, origin, &mut pending).unwrap();
    let key = EventKey::read(pending.keys_of(asked.id).next().unwrap()).unwrap();
    let spans = times.map(|at| asked.ladder().span(0, time(at)));
    for span in spans {
        pending.put_tile(Tile {
            view: asked.id,
            entity: key.entity.clone(),
            span,
            value: vec![1],
        });
    }
    let mut commit = Commit::default();
    pending.drain_into(&mut commit);
    files.store.commit(commit).unwrap();

    let filler = files.filler(&planned(nowhere(), PAY, &view("", "count(*)", 7)));
    assert!(filler.run(&AtomicBool::new(false)).unwrap());
    let (mut starts, all) = (Vec::new(), i64::MIN..i64::MAX);
    Committed(files.store.as_ref())
        .tiles(asked.id, &key.entity, 0, all, &mut |start, _| {
            starts.push(start);
        })
        .unwrap();
    assert_eq!(starts, [spans[0].start_us]);
}

/// The rows that a store has of a view.
fn rows(store: &MemoryStore, view: u32) -> usize {
    let (from, to) = view_range(view);
    let mut rows = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        rows += 1;
        ControlFlow::Continue(())
    };
    store
        .scan(Table::Events, &from, &to, false, &mut count)
        .unwrap();
    rows
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_again_holds_no_view_up() {
    let files = Files::of(&project(nowhere(), "count(*)"));
    // In the order of their names.
    let gone = files.add("a.jsonl", "");
    std::fs::remove_file(gone).unwrap();
    let begun = format!(
        "{}{{\"card\":",
        ["10:00:00", "10:00:05"].map(event).concat()
    );
    files.add("b.jsonl", &begun);
    files.add("c.jsonl", &event("11:00:00"));
    let next = project(nowhere(), "sum(amount)");
    let filler = files.filler(&next);
    let said = logged(|| assert!(filler.run(&AtomicBool::new(false)).unwrap()));
    let view = next.project.views[0].id;
    assert_eq!(rows(&files.store, view), 3);
    let record = ViewRecord::read(files.store.as_ref(), view)
        .unwrap()
        .unwrap();
    assert_eq!(record.state, RowsState::Complete);
    assert_eq!(record.since_us, Some(time("10:00:00")));
    let told: Vec<&str> = said.lines().filter(|l| l.contains("back-filled")).collect();
    let [gone, begun] = told.as_slice() else {
        panic!("{said}");
    };
    assert!(gone.contains("a.jsonl"), "{gone}");
    assert!(begun.contains("b.jsonl:3:"), "{begun}");
}

/// The topic has the file's ten events too, and two that came after them.
#[test]
fn what_files_have_of_a_topic_counts_once_in_a_view_that_is_filled() {
    let events = |minutes: std::ops::Range<u32>| -> String {
        minutes
            .map(|minute| event(&format!("10:{minute:02}:00")))
            .collect()
    };
    let steps = "WITH (resolution = '1 minute', late = '1 minute')";
    for (sources, options, newest, expected) in [
        // The last two of the file are not settled, as in a view that was there before.
        (PAY, steps, "10:09:00", 14),
        (PAY_WITH_ID, steps, "10:09:00", 12),
        // The topic had been read already, and the file was added to it.
        (PAY, steps, "11:00:00", 22),
        (PAY, "", "10:09:00", 22),
    ] {
        let served = planned(nowhere(), sources, &view(options, "count(*)", 1));
        let files = Files::of(&served);
        files.add("e.jsonl", &events(0..10));
        files.reach(newest);
        let next = planned(nowhere(), sources, &view(options, "sum(amount)", 1));
        let filler = files.filler(&next);
        let new = &next.project.views[0];
        let mut job = Job::new(&filler, &new.stream).unwrap().unwrap();
        assert!(job.read_files(&AtomicBool::new(false), &mut 0).unwrap());
        let topic = files.folder.path().join("topic.jsonl");
        std::fs::write(&topic, events(0..12)).unwrap();
        let mut topic = EventFile::open(&topic, &new.stream).unwrap();
        let origin: Vec<(i32, i64)> = (0..12).map(|offset| (0, offset)).collect();
        let batch = topic.next().unwrap().unwrap();
        job.write(&batch, &origin, &[], &[]).unwrap();
        let rows = rows(&files.store, new.id);
        assert_eq!(rows, expected, "{sources} {options} {newest}");
    }
}

#[test]
fn a_filler_stops_while_kafka_is_away() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (_, filler, _) = filler(address, &[(0, 7)]);
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let filled = scope.spawn(|| filler.run(&stop));
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        assert!(!filled.join().unwrap().unwrap());
    });
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// A process that starts again goes on behind what it has read, and does not see what was gone before that.
#[test]
fn what_was_missed_before_a_restart_is_told_when_a_view_has_caught_up() {
    let (store, filler, view) = filler(nowhere(), &[]);
    let missed = Missed {
        first: BTreeMap::from([(0, Some(7)), (1, None), (2, Some(5))]),
        is_another: false,
    };
    let mut commit = Commit::default();
    missed.note(view, &mut commit).unwrap();
    store.commit(commit).unwrap();
    assert!(filler.run(&AtomicBool::new(false)).unwrap());
    let record = ViewRecord::read(store.as_ref(), view).unwrap().unwrap();
    assert_eq!(
        (record.state, record.since_us),
        (RowsState::Complete, Some(7))
    );
    let mut noted = Missed::default();
    noted.add_noted(store.as_ref(), view).unwrap();
    assert_eq!(noted, Missed::default());
}

/// The topic was made anew with fewer partitions: what the others had is gone, and is said to be.
#[cfg(feature = "embedded-broker")]
#[test]
fn partitions_that_are_gone_are_not_waited_for() {
    use millrace_ingest::ensure_topics;

    use crate::broker::EmbeddedBroker;
    use crate::produce::RawProducer;

    let broker = EmbeddedBroker::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = broker.address();
    let topics = [("pay".to_owned(), 1)];
    ensure_topics(&address.to_string(), &BTreeMap::new(), &topics).unwrap();
    let workspace = project(address, "count(*)");
    let producer = RawProducer::connect(&workspace.settings.kafka).unwrap();
    let event = br#"{"card": "c", "amount": 1.0, "event_time": "2018-04-02T00:00:00Z"}"#;
    producer.send("pay", Some(b"c"), event).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
    let first_us = time("00:00:00");

    let partitions = [(0, 1), (3, 9)];
    for (read, since_us) in [(&partitions[..1], None), (&partitions[..], Some(first_us))] {
        let (store, filler, view) = filler(address, read);
        assert!(filler.run(&AtomicBool::new(false)).unwrap());
        let record = ViewRecord::read(store.as_ref(), view).unwrap().unwrap();
        assert_eq!(
            (record.state, record.since_us),
            (RowsState::Complete, since_us)
        );
    }
}
