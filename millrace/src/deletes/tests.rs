//! Deletes against a reference that never saw the events that were deleted.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use millrace_feature_store::{Commit, MemoryStore, Store, Table, entity_range};
use millrace_features::{EventTable, Origin, StateWriter, Tile, pack_keys, pack_rows};
use millrace_ingest::{JsonDecoder, Step, StreamBatch};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::*;
use crate::labels::examples_after;
use crate::live::{Live, Progress};
use crate::marks::Marks;
use crate::pipeline::Pipeline;
use crate::scorer::Scorer;
use crate::state::Committed;
use crate::streams::stream_spec;
use crate::workspace::Workspace;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_700_000_000 * SECOND;

const SOURCES: &str =
    "CREATE EXTERNAL TABLE tx (tx_id BIGINT NOT NULL, card_id VARCHAR NOT NULL, amount DOUBLE,
  event_time TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time)
  OPTIONS ('key' 'tx_id', 'id' 'tx_id');";

const VIEWS: &str = "CREATE VIEW card AS SELECT card_id, count(*) OVER w AS n, sum(amount) OVER w AS s,
    count(*) OVER all_time AS ever, last_value(amount) OVER w AS newest
  FROM tx WHERE card_id <> 'new' WINDOW
    w AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW),
    all_time AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);
  CREATE VIEW recent AS SELECT card_id, count(*) OVER w AS n, avg(amount) OVER w AS mean
  FROM tx WINDOW w AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW);
  CREATE VIEW in_steps WITH (resolution = '1 minute', late = '30 days') AS SELECT card_id, max(amount) OVER w AS top
  FROM tx WINDOW w AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW);";

const CARDS: [&str; 4] = ["busy", "quiet", "new", "nobody"];

fn workspace(folder: &Path) -> Workspace {
    std::fs::create_dir(folder.join("features")).unwrap();
    std::fs::write(folder.join("sources.sql"), SOURCES).unwrap();
    std::fs::write(folder.join("features/v.sql"), VIEWS).unwrap();
    std::fs::write(folder.join("millrace.toml"), "").unwrap();
    Workspace::open(folder).unwrap()
}

#[derive(Debug, Clone)]
struct Event {
    id: i64,
    card: &'static str,
    amount: f64,
    time: i64,
}

#[derive(Debug, Clone)]
enum Message {
    Put(Event),
    Delete(i64),
}

/// A partition's messages: events, some sent again as they were or changed, some deleted, some of those sent again.
fn messages(random: &mut Pcg64, count: usize, partition: i64) -> Vec<Message> {
    let mut time = START;
    let mut messages: Vec<Message> = Vec::new();
    for number in 0..count as i64 {
        time += random.random_range(0..4 * SECOND);
        let id = match random.random_bool(0.3) {
            true => random.random_range(0..=number),
            false => number,
        };
        if random.random_bool(0.15) {
            messages.push(Message::Delete(2 * id + partition));
            continue;
        }
        let again = messages.iter().rev().find_map(|message| match message {
            Message::Put(event) if event.id == 2 * id + partition => Some(event.clone()),
            _ => None,
        });
        messages.push(Message::Put(match again {
            // The same event, with another amount; or one of another time or card under the same id.
            Some(event) if random.random_bool(0.7) => Event {
                amount: f64::from(random.random_range(0..999)),
                ..event
            },
            _ => Event {
                id: 2 * id + partition,
                card: CARDS[random.random_range(0..12_usize).saturating_sub(9)],
                amount: f64::from(random.random_range(0..999)) / 7.0,
                time: time - random.random_range(0..60 * SECOND),
            },
        }));
    }
    messages
}

/// What is left of partitions: an event of an id, card and time as it came last, if it was not deleted since.
fn left(partitions: &[Vec<Message>]) -> Vec<Event> {
    let mut left: BTreeMap<(i64, &str, i64), Event> = BTreeMap::new();
    for message in partitions.iter().flatten() {
        match message {
            Message::Put(event) => {
                left.insert((event.id, event.card, event.time), event.clone());
            }
            Message::Delete(id) => left.retain(|(other, ..), _| other != id),
        }
    }
    left.into_values().collect()
}

fn batch(stream: &Stream, events: &[Event]) -> RecordBatch {
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
        events.iter().map(|event| event.card),
    ));
    let ids = events.iter().map(|event| event.id);
    let amounts = events.iter().map(|event| Some(event.amount));
    let times = events.iter().map(|event| event.time);
    let columns = vec![
        Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef,
        texts,
        Arc::new(amounts.collect::<Float64Array>()) as ArrayRef,
        Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
    ];
    RecordBatch::try_new(Arc::clone(&stream.schema), columns).unwrap()
}

/// Messages of a partition from an offset on, as ingestion gives them.
fn stream_batch(stream: &Stream, parts: &[(i32, i64, &[Message])]) -> StreamBatch {
    let (mut events, mut origin, mut deletions) = (Vec::new(), Vec::new(), Vec::new());
    for (partition, first, messages) in parts {
        for (offset, message) in (*first..).zip(*messages) {
            match message {
                Message::Put(event) => {
                    events.push(event.clone());
                    origin.push((*partition, offset));
                }
                Message::Delete(id) => deletions.push(Deletion {
                    partition: *partition,
                    offset,
                    id: id.to_string(),
                }),
            }
        }
    }
    StreamBatch {
        stream: 0,
        batch: batch(stream, &events),
        kafka_ts: vec![-1; events.len()],
        origin,
        headers: Vec::new(),
        deletions,
    }
}

fn pipeline(workspace: Workspace, store: Arc<dyn Store>) -> Pipeline {
    let live = Live {
        workspace: Arc::new(workspace),
        store,
        scorer: None,
        registry: None,
        progress: Arc::new(Progress::default()),
        misses: Arc::default(),
        traces: crate::traces::Traces::default(),
    };
    Pipeline::new(live, None).unwrap()
}

/// Holds a store's answers, and its index, to those of the events that are left.
fn check(workspace: &Workspace, store: &dyn Store, left: &[Event], random: &mut Pcg64, seed: u64) {
    let end = left.iter().map(|event| event.time).max().unwrap();
    let asked: Vec<i64> = (0..60)
        .map(|_| random.random_range(START..=end + SECOND))
        .collect();
    for view in &workspace.project.views {
        let events = batch(&view.stream, left);
        let nowhere = vec![0; left.len()];
        let offsets = vec![0; left.len()];
        let origin = Origin {
            partitions: &nowhere,
            offsets: &offsets,
        };
        let (kept, _) = view.kept_of(&events, origin).unwrap();
        let table = EventTable::new(view, &[kept]).unwrap();
        for card in CARDS {
            let key: [ArrayRef; 1] = [Arc::new(StringArray::from(vec![card; asked.len()]))];
            let got = view.answer(&Committed(store), &key, &asked).unwrap();
            let expected = table.answer(&key, &asked).unwrap();
            let (got, expected) = (pack_rows(got.columns()), pack_rows(expected.columns()));
            assert!(got == expected, "{} of {card}, seed {seed}", view.name);
        }
        // No entry is left of what is gone, and each event has one.
        let count = |view: u32| {
            let (mut from, mut to) = entity_range(view, b"");
            from.truncate(4);
            to.truncate(4);
            let end = u32::from_be_bytes(to.try_into().unwrap()) + 1;
            let mut count = 0;
            let each = &mut |_: &[u8], _: &[u8]| {
                count += 1;
                std::ops::ControlFlow::Continue(())
            };
            store
                .scan(Table::Events, &from, &end.to_be_bytes(), false, each)
                .unwrap();
            count
        };
        assert_eq!(
            count(view.id),
            count(index_of(view.id)),
            "{}, seed {seed}",
            view.name
        );
    }
}

#[test]
fn what_is_deleted_has_never_been() {
    for seed in 0..6 {
        let mut random = Pcg64::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let workspace = workspace(folder.path());
        let stream = Arc::clone(&workspace.project.streams[0]);
        let partitions = [
            messages(&mut random, 2_000, 0),
            messages(&mut random, 2_000, 1),
        ];
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let mut steps = pipeline(Workspace::open(folder.path()).unwrap(), Arc::clone(&store));
        let (mut next, mut tiles) = ([0_usize; 2], 0);
        while next != [2_000, 2_000] {
            let until = next.map(|next| (next + random.random_range(0..90)).min(2_000));
            let parts: Vec<_> = (0..2_usize)
                .map(|p| (p as i32, next[p] as i64, &partitions[p][next[p]..until[p]]))
                .collect();
            let step = Step {
                batches: vec![stream_batch(&stream, &parts)],
                positions: (0..2_usize)
                    .map(|p| ("tx".to_owned(), p as i32, until[p] as i64))
                    .collect(),
                ..Step::default()
            };
            steps.apply(&step).unwrap();
            next = until;
            if random.random_bool(0.1) {
                // Tiles are made of what is there, and must go with what is deleted of them.
                let mut pending = Pending::default();
                let marks = Marks::open(store.as_ref()).unwrap();
                let settings = &workspace.settings.store;
                for view in &workspace.project.views {
                    let Some(newest) = marks.newest("tx") else {
                        continue;
                    };
                    let key: [ArrayRef; 1] = [Arc::new(StringArray::from(vec!["busy"]))];
                    let put = &mut |tile: Tile| {
                        if marks.is_whole(view, settings, &tile) {
                            tiles += 1;
                            pending.put_tile(tile);
                        }
                    };
                    view.answer_and_sum_up(&Committed(store.as_ref()), &key, &[newest], put)
                        .unwrap();
                }
                let mut commit = Commit::default();
                pending.drain_into(&mut commit);
                store.commit(commit).unwrap();
            }
            if random.random_bool(0.1) {
                let so_far = [0, 1].map(|p| partitions[p][..next[p]].to_vec());
                let left = left(&so_far);
                if !left.is_empty() {
                    check(&workspace, store.as_ref(), &left, &mut random, seed);
                }
                // A restart.
                steps = pipeline(Workspace::open(folder.path()).unwrap(), Arc::clone(&store));
            }
        }
        let left = left(&partitions);
        assert!(left.len() > 300 && tiles > 10, "{} and {tiles}", left.len());
        check(&workspace, store.as_ref(), &left, &mut random, seed);
    }
}

#[test]
fn older_events_do_not_bring_back_what_was_deleted() {
    for seed in 0..30 {
        let folder = tempfile::tempdir().unwrap();
        fill_beside_the_topic(&workspace(folder.path()), seed, |_| true);
    }
}

/// In a topic that is not keyed by ids, too: a card's events are in one partition, in the order of their deliveries.
#[test]
fn older_deliveries_do_not_take_the_place_of_newer_ones() {
    for seed in 0..30 {
        let folder = tempfile::tempdir().unwrap();
        workspace(folder.path());
        let sources = SOURCES.replace("'key' 'tx_id'", "'key' 'card_id'");
        std::fs::write(folder.path().join("sources.sql"), sources).unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        assert!(!workspace.project.streams[0].is_keyed_by_id());
        let is_delivery = |message: &Message| matches!(message, Message::Put(_));
        fill_beside_the_topic(&workspace, seed, is_delivery);
    }
}

/// A file first; then the topic from a place on by the one who reads it, and up to there by the one who fills the views,
/// in turns of any order.
fn fill_beside_the_topic(workspace: &Workspace, seed: u64, has: fn(&Message) -> bool) {
    let mut random = Pcg64::seed_from_u64(seed);
    let stream = Arc::clone(&workspace.project.streams[0]);
    let views: Vec<&FeatureView> = workspace.project.views.iter().map(AsRef::as_ref).collect();
    let mut topic = messages(&mut random, 600, 0);
    topic.retain(has);
    let file: Vec<Message> = messages(&mut random, 300, 0)
        .into_iter()
        .filter(|message| matches!(message, Message::Put(_)))
        .collect();
    let all = topic.len();
    let cut = random.random_range(0..all);
    let store = MemoryStore::new();
    let write = |first: i64, partition: i32, messages: &[Message], is_older: bool| {
        let batch = stream_batch(&stream, &[(partition, first, messages)]);
        let mut pending = Pending::default().ordering(&workspace.project.views);
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = batch.origin.iter().copied().unzip();
        let origin = Origin {
            partitions: &partitions,
            offsets: &offsets,
        };
        for view in &views {
            view.state_rows(&batch.batch, origin, &mut pending as &mut dyn StateWriter)
                .unwrap();
        }
        let committed = Committed(&store);
        let views = &workspace.project.views;
        let deletes = Deletes::new(&stream, views, &committed, is_older);
        if is_older {
            deletes.keep_what_stands(&mut pending).unwrap();
        }
        deletes
            .apply(&batch.deletions, START, &mut pending)
            .unwrap();
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        store.commit(commit).unwrap();
    };
    let mut newer = cut;
    let mut older = 0;
    let mut of_file = 0;
    while newer < all || older < cut || of_file < file.len() {
        if random.random_bool(0.5) {
            let until = (newer + random.random_range(0..40)).min(all);
            write(newer as i64, 0, &topic[newer..until], false);
            newer = until;
        } else if of_file < file.len() {
            let until = (of_file + random.random_range(0..40)).min(file.len());
            write(of_file as i64, -7, &file[of_file..until], true);
            of_file = until;
        } else {
            // Stopped and started, a part is read once more.
            let from = older - random.random_range(0..=older.min(20));
            let until = (from + random.random_range(0..60)).min(cut);
            write(from as i64, 0, &topic[from..until], true);
            older = older.max(until);
        }
    }
    let left = left(&[[file, topic].concat()]);
    check(workspace, &store, &left, &mut random, seed);
}

/// Payments 1 to 4 are scored and labelled; a payment and a label are deleted, each in a step that has nothing else.
#[test]
fn what_is_deleted_is_no_example() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    workspace(path);
    let labels = "CREATE EXTERNAL TABLE labels (tx_id BIGINT NOT NULL, is_fraud BOOLEAN, event_time TIMESTAMP NOT NULL)
      STORED AS KAFKA LOCATION 'labels' WITH ORDER (event_time) OPTIONS ('key' 'tx_id', 'id' 'tx_id');";
    std::fs::write(path.join("sources.sql"), [SOURCES, labels].concat()).unwrap();
    let inputs =
        "CREATE VIEW inputs AS SELECT tx.amount, recent.n FROM tx JOIN recent USING (card_id);";
    std::fs::write(path.join("inputs.sql"), inputs).unwrap();
    let settings = "[model]\ninputs = \"inputs\"\nlabel = \"labels.is_fraud\"\n";
    std::fs::write(path.join("millrace.toml"), settings).unwrap();
    let workspace = Workspace::open(path).unwrap();
    let plan = workspace.model().unwrap().clone();
    let streams = workspace.project.streams.clone();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let live = Live {
        workspace: Arc::new(workspace),
        store: Arc::clone(&store),
        scorer: Some(Arc::new(Scorer::new(plan))),
        registry: None,
        progress: Arc::default(),
        misses: Arc::default(),
        traces: crate::traces::Traces::default(),
    };
    let mut pipeline = Pipeline::new(live, None).unwrap();
    let mut apply = |batch: StreamBatch| {
        let step = Step {
            batches: vec![batch],
            ..Step::default()
        };
        pipeline.apply(&step).unwrap();
    };
    let payments = (1..=4).map(|id| {
        Message::Put(Event {
            id,
            card: "busy",
            amount: 1.0,
            time: START + id * SECOND,
        })
    });
    let payments: Vec<Message> = payments.collect();
    apply(stream_batch(&streams[0], &[(0, 0, &payments)]));
    let known = (1..=4_i64).map(|id| START + 60 * SECOND + id);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(1..=4)),
        Arc::new(BooleanArray::from(vec![true, false, true, false])),
        Arc::new(TimestampMicrosecondArray::from_iter_values(known)),
    ];
    let none = stream_batch(&streams[0], &[]);
    apply(StreamBatch {
        stream: 1,
        batch: RecordBatch::try_new(Arc::clone(&streams[1].schema), columns).unwrap(),
        origin: (0..4).map(|offset| (0, offset)).collect(),
        kafka_ts: vec![-1; 4],
        ..none
    });
    let examples = || {
        let mut known = Vec::new();
        examples_after(store.as_ref(), 0, &mut |_, example| {
            known.push((example.event_time_us - START) / SECOND);
            true
        })
        .unwrap();
        known
    };
    assert_eq!(examples(), [1, 2, 3, 4]);
    apply(stream_batch(&streams[0], &[(0, 4, &[Message::Delete(2)])]));
    assert_eq!(examples(), [1, 3, 4]);
    let gone = |id: i64| Deletion {
        partition: 0,
        offset: 3 + id,
        id: id.to_string(),
    };
    apply(StreamBatch {
        stream: 1,
        batch: RecordBatch::new_empty(Arc::clone(&streams[1].schema)),
        deletions: vec![gone(3), gone(9)],
        ..stream_batch(&streams[0], &[])
    });
    assert_eq!(examples(), [1, 4]);
}

/// A tombstone's key says of an id what a message's JSON says of it.
#[test]
fn an_id_of_bytes_is_deleted_by_its_hexadecimal_digits() {
    let folder = tempfile::tempdir().unwrap();
    workspace(folder.path());
    let sources = SOURCES.replace("tx_id BIGINT", "tx_id BYTEA");
    std::fs::write(folder.path().join("sources.sql"), sources).unwrap();
    let workspace = Workspace::open(folder.path()).unwrap();
    let stream = &workspace.project.streams[0];
    let message = br#"{"tx_id":"ff00","card_id":"busy","event_time":"2025-01-01T00:00:00Z"}"#;
    let mut decoder = JsonDecoder::new(stream_spec(stream)).unwrap();
    let events = decoder.decode(&[Some(message.as_slice())], i64::MAX);
    let ids = pack_keys(&[Arc::clone(events.unwrap().batch.column(0))]);
    let store = MemoryStore::new();
    let committed = Committed(&store);
    let deletes = Deletes::new(stream, &workspace.project.views, &committed, false);
    for key in ["ff00", "FF00"] {
        let gone = Deletion {
            partition: 0,
            offset: 1,
            id: key.to_owned(),
        };
        let deleted = deletes.ids(&[gone]).unwrap();
        assert_eq!(deleted[0].packed, ids[0], "{key}");
    }
}
