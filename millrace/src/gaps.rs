//! Partitions of which events are missing: they had been deleted before they were read. The views of their streams have
//! all events from the first on that is read after them. A position moves past a gap at once, and that event may come
//! after a restart: the store has the gaps that are open.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use millrace_feature_store::{Commit, Offset, Store, Table, decode, encode};
use millrace_features::{FeatureView, Stream};
use millrace_ingest::Step;

use crate::failure::Outcome;

/// In place of a partition: the next event of any ends the gap. Kafka has no partitions below 0.
const ANY: i32 = -1;

const OPEN: &str = "gap/";
const OPEN_END: &[u8] = b"gap0";

/// Partitions whose next event is not known yet.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    open: BTreeSet<(String, i32)>,
    /// Positions in partitions that topics no longer have, until the store has noted that this was told.
    vanished: Vec<Offset>,
}

/// The end of a gap: topic, partition, and the first event time (µs) after it.
pub(crate) type GapEnd = (String, i32, i64);

impl Gaps {
    /// Those that were open when a store was written last.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub(crate) fn read(store: &dyn Store) -> Outcome<Self> {
        let mut gaps = Self::default();
        let from = OPEN.as_bytes();
        store.scan(Table::Meta, from, OPEN_END, false, &mut |key, _| {
            let gap = key.get(OPEN.len()..);
            let gap = gap.and_then(|gap| std::str::from_utf8(gap).ok()?.rsplit_once('/'));
            if let Some((topic, partition)) = gap
                && let Ok(partition) = partition.parse()
            {
                gaps.add(topic, partition);
            }
            ControlFlow::Continue(())
        })?;
        Ok(gaps)
    }

    pub(crate) fn add(&mut self, topic: &str, partition: i32) {
        self.open.insert((topic.to_owned(), partition));
    }

    /// Adds a partition that is gone, as its topic was made anew with fewer: what it had behind the position of the store is
    /// lost. Whether that is news.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub(crate) fn add_vanished(&mut self, offset: Offset, store: &dyn Store) -> Outcome<bool> {
        let told = store.get(Table::Meta, vanished(&offset).as_bytes())?;
        let told: Option<i64> = told.map(|bytes| decode(&bytes)).transpose()?;
        if told == Some(offset.next) || self.vanished.contains(&offset) {
            return Ok(false);
        }
        self.add(&offset.topic, ANY);
        self.vanished.push(offset);
        Ok(true)
    }

    /// Makes part of a commit which gaps are open behind it, and that nobody is to be told again of the partitions whose
    /// gaps end.
    ///
    /// # Errors
    /// A record that cannot be encoded.
    pub(crate) fn put(&self, ended: &[GapEnd], commit: &mut Commit) -> Outcome<()> {
        // Of partitions that are gone the next start tells by itself.
        for (topic, partition) in self.open.iter().filter(|(_, place)| *place != ANY) {
            let key = format!("{OPEN}{topic}/{partition}");
            let mut ended = ended.iter();
            match ended.any(|(of, place, _)| of == topic && place == partition) {
                true => commit.delete(Table::Meta, key),
                false => commit.put(Table::Meta, key, [1_u8]),
            }
        }
        for offset in self.vanished.iter().filter(|offset| is_of(ended, offset)) {
            commit.put(Table::Meta, vanished(offset), encode(&offset.next)?);
        }
        Ok(())
    }

    /// The gaps that end in a step of these streams.
    pub(crate) fn end(&self, step: &Step, streams: &[Arc<Stream>]) -> Vec<GapEnd> {
        let end = |(topic, partition): &(String, i32)| {
            let index = streams.iter().position(|stream| stream.topic == *topic)?;
            let batch = step.batches.iter().find(|batch| batch.stream == index)?;
            let times = batch.batch.column(streams[index].time);
            let times = times.as_primitive::<TimestampMicrosecondType>().values();
            let ours = batch.origin.iter().zip(times);
            let ours = ours.filter(|((place, _), _)| *partition == ANY || place == partition);
            let first = ours.map(|(_, time)| *time).min()?;
            Some((topic.clone(), *partition, first))
        };
        self.open.iter().filter_map(end).collect()
    }

    pub(crate) fn close(&mut self, ended: &[GapEnd]) {
        for (topic, partition, _) in ended {
            self.open.remove(&(topic.clone(), *partition));
        }
        self.vanished.retain(|offset| !is_of(ended, offset));
    }
}

/// Whether the gap of a partition that is gone is among those that end.
fn is_of(ended: &[GapEnd], offset: &Offset) -> bool {
    let mut ended = ended.iter();
    ended.any(|(topic, partition, _)| *topic == offset.topic && *partition == ANY)
}

fn vanished(offset: &Offset) -> String {
    format!("vanished/{}/{}", offset.topic, offset.partition)
}

/// Those of some views that lack events before a time (µs), because of gaps.
pub(crate) fn views_of<'a>(
    views: impl IntoIterator<Item = &'a Arc<FeatureView>>,
    gaps: &'a [GapEnd],
) -> impl Iterator<Item = (&'a FeatureView, i64)> {
    views.into_iter().filter_map(|view| {
        let of_stream = gaps
            .iter()
            .filter(|(topic, ..)| *topic == view.stream.topic);
        let last = of_stream.map(|(_, _, time)| *time).max()?;
        Some((view.as_ref(), last))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
    use millrace_feature_store::MemoryStore;
    use millrace_features::{Project, SqlFile};
    use millrace_ingest::StreamBatch;

    use super::*;

    fn project() -> Project {
        let file = |path: &str, text: &str| SqlFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let stream = |name: &str| {
            format!(
                "CREATE EXTERNAL TABLE {name} (k VARCHAR NOT NULL, at TIMESTAMP NOT NULL)
                 STORED AS KAFKA LOCATION '{name}-topic' WITH ORDER (at);"
            )
        };
        let view = |name: &str| {
            let sql = format!(
                "CREATE VIEW of_{name} AS SELECT k, count(*) OVER (PARTITION BY k ORDER BY at
                 RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM {name}"
            );
            file(&format!("{name}.sql"), &sql)
        };
        let sources = file("sources.sql", &[stream("a"), stream("b")].concat());
        Project::plan(&sources, &[view("a"), view("b")], None).unwrap()
    }

    fn step(stream: &Stream, index: usize, rows: &[(i32, i64)]) -> Step {
        let times = rows.iter().map(|(_, time)| *time);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["k"; rows.len()])),
            Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
        ];
        let batch = StreamBatch {
            stream: index,
            batch: RecordBatch::try_new(Arc::clone(&stream.schema), columns).unwrap(),
            origin: rows.iter().map(|(partition, _)| (*partition, 0)).collect(),
            kafka_ts: vec![-1; rows.len()],
            headers: Vec::new(),
            deletions: Vec::new(),
        };
        Step {
            batches: vec![batch],
            ..Step::default()
        }
    }

    #[test]
    fn a_view_has_all_events_from_the_first_after_the_last_gap_on() {
        let project = project();
        let streams = &project.streams;
        let mut gaps = Gaps::default();
        gaps.add("a-topic", 0);
        gaps.add("a-topic", 2);
        // Nothing yet of these partitions.
        assert!(
            gaps.end(&step(&streams[0], 0, &[(1, 5)]), streams)
                .is_empty()
        );
        assert!(
            gaps.end(&step(&streams[1], 1, &[(0, 5)]), streams)
                .is_empty()
        );
        let ended = gaps.end(
            &step(&streams[0], 0, &[(0, 9), (0, 7), (1, 5), (2, 8)]),
            streams,
        );
        assert_eq!(
            ended,
            [("a-topic".to_owned(), 0, 7), ("a-topic".to_owned(), 2, 8)]
        );
        let views: Vec<_> = views_of(&project.views, &ended)
            .map(|(view, time)| (view.name.as_str(), time))
            .collect();
        assert_eq!(views, [("of_a", 8)]);
        // A step that was not committed says the same again.
        let again = gaps.end(&step(&streams[0], 0, &[(2, 8)]), streams);
        gaps.close(&again);
        assert_eq!(
            gaps.end(&step(&streams[0], 0, &[(0, 9), (2, 8)]), streams)
                .len(),
            1
        );
    }

    #[test]
    fn a_gap_is_open_after_a_restart_until_an_event_ends_it() {
        let project = project();
        let streams = &project.streams;
        let store = MemoryStore::new();
        let noted = |gaps: &Gaps, ended: &[GapEnd]| {
            let mut commit = Commit::default();
            gaps.put(ended, &mut commit).unwrap();
            store.commit(commit).unwrap();
            Gaps::read(&store).unwrap()
        };
        let mut gaps = Gaps::default();
        gaps.add("a-topic", 0);
        gaps.add("a-topic", 12);
        // A step without an event of either: the positions behind the gaps are in the same commit.
        let gaps = noted(&gaps, &[]);
        let ended = gaps.end(&step(&streams[0], 0, &[(12, 9), (3, 4)]), streams);
        assert_eq!(ended, [("a-topic".to_owned(), 12, 9)]);
        let gaps = noted(&gaps, &ended);
        let ended = gaps.end(&step(&streams[0], 0, &[(12, 9), (0, 10)]), streams);
        assert_eq!(ended, [("a-topic".to_owned(), 0, 10)]);
        let gaps = noted(&gaps, &ended);
        let ended = gaps.end(&step(&streams[0], 0, &[(12, 9), (0, 10)]), streams);
        assert!(ended.is_empty());
    }

    #[test]
    fn a_partition_that_is_gone_is_told_of_until_a_step_has_noted_it() {
        let project = project();
        let streams = &project.streams;
        let store = MemoryStore::new();
        let gone = |next| Offset {
            topic: "a-topic".to_owned(),
            partition: 3,
            next,
        };
        // The second time is after a restart.
        for _ in 0..2 {
            let mut gaps = Gaps::default();
            assert!(gaps.add_vanished(gone(7), &store).unwrap());
            assert!(!gaps.add_vanished(gone(7), &store).unwrap());
        }
        let mut gaps = Gaps::default();
        gaps.add_vanished(gone(7), &store).unwrap();
        // No event of the partition comes any more: any of its topic ends the gap.
        let ended = gaps.end(&step(&streams[0], 0, &[(0, 9), (1, 8)]), streams);
        let views: Vec<_> = views_of(&project.views, &ended)
            .map(|(view, time)| (view.name.as_str(), time))
            .collect();
        assert_eq!(views, [("of_a", 8)]);
        let mut commit = Commit::default();
        gaps.put(&ended, &mut commit).unwrap();
        store.commit(commit).unwrap();
        gaps.close(&ended);
        assert!(!gaps.add_vanished(gone(7), &store).unwrap());
        assert!(Gaps::default().add_vanished(gone(9), &store).unwrap());
        let after = gaps.end(&step(&streams[0], 0, &[(0, 9)]), streams);
        assert!(after.is_empty());
    }
}
