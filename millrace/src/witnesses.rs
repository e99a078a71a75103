//! By what a partition of a topic is known again after a stop: messages of it that are in the store. A topic that was
//! deleted and made anew has other messages behind the same offsets, and so has one behind its last messages where it has
//! lost those.
//!
//! The newest message is a record of its own, as it is in stores of older releases, which go on reading it. Beside it is
//! one of older messages: the first that was read, and ever more of them the nearer to the position. Where a topic has
//! lost its last messages, the nearest that it still has is no farther from its end than what it has lost is long, but for
//! a few messages:
//!
//! ```text
//!   0                         48            80     96    112  ─► position
//! ```

use std::sync::Arc;

use millrace_feature_store::{Commit, Store, StoreError, Table, decode, encode};
use millrace_features::Stream;
use millrace_ingest::{StateError, Step, StreamBatch, Witness, Witnesses};

/// So many messages are between two older ones at least, the nearest of them too: what is noted of a partition is written
/// once in so many of its messages.
const SPACING: i64 = 16;

fn newest_key(topic: &str, partition: i32) -> String {
    format!("witness/{topic}/{partition}")
}

fn older_key(topic: &str, partition: i32) -> String {
    format!("witnesses/{topic}/{partition}")
}

/// Puts the last message that a step has of each partition, and of those before it what is to be kept.
///
/// # Errors
/// A store that cannot be read, a record that cannot be encoded.
pub(crate) fn put(
    step: &Step,
    streams: &[Arc<Stream>],
    store: &dyn Store,
    commit: &mut Commit,
) -> Result<(), StoreError> {
    for (topic, partition, next) in &step.positions {
        let stream = |index: usize| streams.get(index).is_some_and(|s| s.topic == *topic);
        let batch = step.batches.iter().find(|batch| stream(batch.stream));
        let read = batch.and_then(|batch| read_of(batch, *partition));
        // Reading may have gone back, to the first of these: what was noted from there on is gone.
        let (from, read) = read.unwrap_or((*next, Vec::new()));
        let key = newest_key(topic, *partition);
        match read.last() {
            Some(last) => commit.put(Table::Meta, key, encode(last)?),
            None if newest(store, topic, *partition)?.is_some_and(|w| w.offset >= from) => {
                commit.delete(Table::Meta, key);
            }
            None => {}
        }
        let known = older(store, topic, *partition)?;
        let kept = spaced(&known, from, &read);
        if kept != known {
            let key = older_key(topic, *partition);
            commit.put(Table::Meta, key, encode(&kept)?);
        }
    }
    Ok(())
}

/// Where what a batch has of a partition begins, and messages of it, in the order of their offsets: the first, the last, and
/// some between them. None where it has none.
fn read_of(batch: &StreamBatch, partition: i32) -> Option<(i64, Vec<Witness>)> {
    let place = |row: usize| batch.origin[row];
    let last = batch.origin.iter().rposition(|(of, _)| *of == partition)?;
    // A partition's rows are in the order of their offsets, but where reading went back.
    let follows = |row: &usize| place(*row).0 == partition && place(*row).1 < place(*row + 1).1;
    let first = last - (0..last).rev().take_while(follows).count();
    let distances = std::iter::successors(Some(SPACING as usize), |back| back.checked_mul(2));
    let between = distances.map_while(|back| last.checked_sub(back));
    let mut rows = vec![last];
    rows.extend(between.take_while(|row| *row > first));
    rows.push(first);
    rows.dedup();
    let witness = |row: usize| Witness {
        offset: place(row).1,
        kafka_ts: batch.kafka_ts[row],
    };
    let read = rows.into_iter().rev().map(witness);
    let read = read.filter(|witness| witness.kafka_ts >= 0).collect();
    Some((place(first).1, read))
}

/// What is kept of messages that are known, of those before an offset, and of others that follow.
fn spaced(known: &[Witness], from: i64, read: &[Witness]) -> Vec<Witness> {
    let before = known.iter().copied();
    let mut all: Vec<Witness> = before.filter(|witness| witness.offset < from).collect();
    for witness in read {
        let last = all.last();
        if last.is_none_or(|last| last.offset + SPACING <= witness.offset) {
            all.push(*witness);
        }
    }
    let end = all.last().map_or(0, |witness| witness.offset);
    let mut kept: Vec<Witness> = Vec::with_capacity(all.len());
    for (index, witness) in all.iter().enumerate().rev() {
        let older = index.checked_sub(1).map(|index| all[index]);
        // Without it the gap would be no longer than what is behind the gap.
        let is_between = kept.last().zip(older).is_some_and(|(newer, older)| {
            newer.offset - older.offset <= (end - newer.offset).max(SPACING)
        });
        if !is_between {
            kept.push(*witness);
        }
    }
    kept.reverse();
    kept
}

fn newest(store: &dyn Store, topic: &str, partition: i32) -> Result<Option<Witness>, StoreError> {
    let record = store.get(Table::Meta, newest_key(topic, partition).as_bytes())?;
    record.map(|bytes| decode(&bytes)).transpose()
}

fn older(store: &dyn Store, topic: &str, partition: i32) -> Result<Vec<Witness>, StoreError> {
    let record = store.get(Table::Meta, older_key(topic, partition).as_bytes())?;
    record.map_or_else(|| Ok(Vec::new()), |bytes| decode(&bytes))
}

/// What the store has, for ingestion to compare.
pub(crate) fn witnesses(store: &Arc<dyn Store>) -> Witnesses {
    let store = Arc::clone(store);
    let read = move |topic: &str, partition: i32| -> Result<Vec<Witness>, StateError> {
        let mut all = older(store.as_ref(), topic, partition)?;
        if let Some(newest) = newest(store.as_ref(), topic, partition)? {
            // A release that knows the newest alone may have gone back.
            all.retain(|witness| witness.offset < newest.offset);
            all.push(newest);
        }
        Ok(all)
    };
    Arc::new(read)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ops::Range;

    use arrow::array::RecordBatch;
    use millrace_feature_store::MemoryStore;
    use millrace_features::{Project, SqlFile};

    use super::*;

    fn streams() -> Vec<Arc<Stream>> {
        let file = |path: &str, text: &str| SqlFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let sources = file(
            "sources.sql",
            "CREATE EXTERNAL TABLE a (k VARCHAR NOT NULL, at TIMESTAMP NOT NULL)
             STORED AS KAFKA LOCATION 'tx' WITH ORDER (at);",
        );
        let view = file(
            "a.sql",
            "CREATE VIEW of_a AS SELECT k, count(*) OVER (PARTITION BY k ORDER BY at
             RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM a",
        );
        Project::plan(&sources, &[view], None).unwrap().streams
    }

    /// The Kafka timestamp of a message, as of the topic with this number.
    fn witness(offset: i64, topic: i64) -> Witness {
        Witness {
            offset,
            kafka_ts: 1_000_000 * topic + offset,
        }
    }

    /// A step of these messages of partition 0 behind some of partition 1.
    fn step(streams: &[Arc<Stream>], topic: i64, offsets: Range<i64>) -> Step {
        let others = (0..3).map(|offset| ((1, offset), -1));
        let ours = offsets.clone();
        let ours = ours.map(|offset| ((0, offset), witness(offset, topic).kafka_ts));
        let (origin, kafka_ts): (Vec<(i32, i64)>, Vec<i64>) = others.chain(ours).unzip();
        let batch = StreamBatch {
            stream: 0,
            batch: RecordBatch::new_empty(Arc::clone(&streams[0].schema)),
            origin,
            kafka_ts,
            headers: Vec::new(),
            deletions: Vec::new(),
        };
        Step {
            batches: vec![batch],
            positions: vec![("tx".to_owned(), 0, offsets.end)],
            ..Step::default()
        }
    }

    /// A store, and what it knows again.
    struct Known {
        store: Arc<dyn Store>,
        streams: Vec<Arc<Stream>>,
    }

    impl Known {
        fn new() -> Self {
            Self {
                store: Arc::new(MemoryStore::new()),
                streams: streams(),
            }
        }

        fn apply(&self, step: &Step) -> Vec<Witness> {
            let mut commit = Commit::default();
            put(step, &self.streams, self.store.as_ref(), &mut commit).unwrap();
            self.store.commit(commit).unwrap();
            witnesses(&self.store)("tx", 0).unwrap()
        }

        fn read(&self, topic: i64, offsets: Range<i64>) -> Vec<Witness> {
            self.apply(&step(&self.streams, topic, offsets))
        }
    }

    /// Steps of one message, of a hundred and of all: wherever the topic ends, one that it still has is no farther from
    /// there than what it has lost is long, and a little.
    #[test]
    fn a_message_is_known_near_wherever_a_topic_ends() {
        const ALL: i64 = 20_000;
        for length in [1, 100, ALL] {
            let known = Known::new();
            let mut all = Vec::new();
            for from in (0..ALL).step_by(length as usize) {
                all = known.read(1, from..from + length);
            }
            assert!(all.is_sorted_by_key(|w| w.offset), "{all:?}");
            assert!(all.iter().all(|w| *w == witness(w.offset, 1)), "{all:?}");
            assert_eq!(all.first(), Some(&witness(0, 1)));
            assert_eq!(all.last(), Some(&witness(ALL - 1, 1)));
            assert!(all.len() < 30, "{all:?}");
            for lost in 1..ALL {
                let end = ALL - lost;
                let left = all.iter().rev().find(|w| w.offset < end).unwrap();
                let away = end - left.offset;
                assert!(away <= lost + 2 * SPACING, "{lost}: {away}, {all:?}");
            }
        }
    }

    #[test]
    fn what_was_read_behind_a_place_to_which_reading_went_back_is_forgotten() {
        let known = Known::new();
        known.read(1, 0..1_000);
        let all = known.read(2, 900..910);
        assert!(all.contains(&witness(0, 1)));
        assert!(
            all.iter()
                .all(|w| (w.offset < 900) == (*w == witness(w.offset, 1)))
        );
        assert_eq!(all.last(), Some(&witness(909, 2)));
        // A position alone, as where a topic is read from its end.
        let step = Step {
            positions: vec![("tx".to_owned(), 0, 500)],
            ..Step::default()
        };
        let all = known.apply(&step);
        assert!(all.last().is_some_and(|w| w.offset < 500), "{all:?}");
        let all = known.read(3, 0..1);
        assert_eq!(all, [witness(0, 3)]);
        // In the middle of a step: what had been read before comes first.
        let mut twice = step_of_two(&known.streams);
        let all = known.apply(&twice);
        assert_eq!(all, [witness(0, 3), witness(40, 4), witness(49, 4)]);
        twice.batches.clear();
        assert_eq!(known.apply(&twice), all);
    }

    /// Messages 90 to 99, and then others from 40 to 49.
    fn step_of_two(streams: &[Arc<Stream>]) -> Step {
        let mut before = step(streams, 3, 90..100);
        let mut after = step(streams, 4, 40..50);
        let behind = after.batches.remove(0);
        // Without those of partition 1.
        before.batches[0].origin.extend(&behind.origin[3..]);
        before.batches[0].kafka_ts.extend(&behind.kafka_ts[3..]);
        before.positions = after.positions;
        before
    }

    /// Older releases read the newest alone, and what they wrote is read here.
    #[test]
    fn records_are_those_of_older_releases_and_one_beside_them() {
        let known = Known::new();
        let newest = encode(&witness(5, 1)).unwrap();
        let mut commit = Commit::default();
        commit.put(Table::Meta, "witness/tx/0", newest.clone());
        known.store.commit(commit).unwrap();
        assert_eq!(witnesses(&known.store)("tx", 0).unwrap(), [witness(5, 1)]);
        let all = known.read(1, 6..8);
        assert_eq!(all, [witness(6, 1), witness(7, 1)]);
        let record = known.store.get(Table::Meta, b"witness/tx/0").unwrap();
        assert_eq!(record, Some(encode(&witness(7, 1)).unwrap()));
        // It goes back, in a release that knows the newest alone.
        let mut commit = Commit::default();
        commit.put(Table::Meta, "witness/tx/0", newest);
        known.store.commit(commit).unwrap();
        assert_eq!(witnesses(&known.store)("tx", 0).unwrap(), [witness(5, 1)]);
        // Version, length, and of each zigzag numbers: 2 and 1, -3 and 64.
        let pinned = [1_u8, 2, 4, 2, 5, 128];
        let read: Vec<Witness> = decode(&pinned).unwrap();
        let numbers: Vec<_> = read.iter().map(|w| (w.offset, w.kafka_ts)).collect();
        assert_eq!(numbers, [(2, 1), (-3, 64)]);
        assert_eq!(encode(&read).unwrap(), pinned);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_an_error() {
        let known = Known::new();
        let mut commit = Commit::default();
        commit.put(Table::Meta, "witnesses/tx/0", [9_u8]);
        known.store.commit(commit).unwrap();
        assert!(witnesses(&known.store)("tx", 0).is_err());
        assert!(witnesses(&known.store)("tx", 1).unwrap().is_empty());
    }
}
