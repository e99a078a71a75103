//! What the filler does where Kafka is away, and where a topic is another one than before.
#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener};

use millrace_feature_store::MemoryStore;
use millrace_features::SqlFile;

use super::*;
use crate::evolve::begin;
use crate::settings::Settings;
use crate::workspace::ProjectSql;

fn project(brokers: SocketAddr, aggregate: &str) -> Arc<Workspace> {
    let file = |text: &str| SqlFile {
        path: "file.sql".to_owned(),
        text: text.to_owned(),
    };
    let view = format!(
        "CREATE VIEW v AS SELECT card, {aggregate} OVER (PARTITION BY card ORDER BY event_time RANGE BETWEEN INTERVAL \
         '7 days' PRECEDING AND CURRENT ROW) AS x FROM pay"
    );
    let sql = ProjectSql {
        sources: file(
            "CREATE EXTERNAL TABLE pay (card VARCHAR NOT NULL, amount DOUBLE, event_time TIMESTAMP NOT NULL)
             STORED AS KAFKA LOCATION 'pay' WITH ORDER (event_time)",
        ),
        views: vec![file(&view)],
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
    let (store, filler, view) = filler(SocketAddr::from(([127, 0, 0, 1], 1)), &[]);
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
    let first_us = crate::times::parse_time("2018-04-02").unwrap();

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
