//! Files of several streams as one flow in the order of time.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use millrace_features::Stream;
use millrace_ingest::StreamBatch;

use crate::failure::{Failure, Outcome};
use crate::files::EventFile;
use crate::times::rfc3339;

/// The files of one stream, one after the other.
///
/// A row arrives at its event time, or with the row before it where its event time is earlier: what stands later in
/// a file cannot have come sooner.
pub(super) struct Feed<'a> {
    index: usize,
    stream: &'a Stream,
    paths: VecDeque<PathBuf>,
    file: Option<EventFile>,
    /// Rows that were read and not taken.
    rows: RecordBatch,
    /// When each of them arrives, µs.
    arrivals: Vec<i64>,
    newest_us: i64,
    /// Rows that were taken.
    taken: i64,
    /// Length of a period, µs.
    every_us: i64,
    disorder: Disorder,
}

/// Rows of a feed that stand behind newer ones.
#[derive(Default)]
struct Disorder {
    /// Rows that were read.
    rows: u64,
    /// Those that arrive more than a period after their event time.
    late: u64,
    /// How long after it a row arrives at most, µs.
    most_us: i64,
}

/// One late row in so many is told of: fewer are events that came late.
const LATE_ONE_IN: u64 = 100;

impl<'a> Feed<'a> {
    /// A feed of the project's stream number `index`, for periods of `every_us`.
    pub(super) fn new(
        index: usize,
        stream: &'a Stream,
        paths: Vec<PathBuf>,
        every_us: i64,
    ) -> Self {
        Self {
            index,
            stream,
            paths: paths.into(),
            file: None,
            rows: RecordBatch::new_empty(stream.schema.clone()),
            arrivals: Vec::new(),
            newest_us: i64::MIN,
            taken: 0,
            every_us,
            disorder: Disorder::default(),
        }
    }

    /// The stream that it feeds.
    pub(super) fn stream(&self) -> &'a Stream {
        self.stream
    }

    /// The files that were not opened yet.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.paths.iter()
    }

    /// When the next row arrives, or none at the end.
    pub(super) fn next_us(&mut self) -> Outcome<Option<i64>> {
        while self.arrivals.is_empty() && self.read_more()? {}
        Ok(self.arrivals.first().copied())
    }

    /// What is said of rows that do not stand in the order of time, where they are more than come late as a rule.
    pub(super) fn disorder(&self) -> Option<String> {
        let Disorder {
            rows,
            late,
            most_us,
        } = self.disorder;
        if late == 0 || late.saturating_mul(LATE_ONE_IN) < rows {
            return None;
        }
        let most = Duration::from_secs(u64::try_from(most_us / 1_000_000).unwrap_or_default());
        Some(format!(
            "{late} of {rows} rows of stream '{}' stand behind newer ones, the farthest by {}: each came with the row \
             before it, as a file is read in its order. Sort its rows by {}, and name several files of a stream in the \
             order of time",
            self.stream.name,
            humantime::format_duration(most),
            self.stream.schema.field(self.stream.time).name()
        ))
    }

    /// Until when all rows have been read: none where no row is left in the files.
    fn known_until(&self) -> Option<i64> {
        let is_over = self.file.is_none() && self.paths.is_empty();
        (!is_over).then_some(self.newest_us)
    }

    /// Reads another batch; false at the end.
    fn read_more(&mut self) -> Outcome<bool> {
        loop {
            if self.file.is_none() {
                let Some(path) = self.paths.pop_front() else {
                    return Ok(false);
                };
                self.file = Some(EventFile::open(&path, self.stream)?);
            }
            match self.file.as_mut().and_then(Iterator::next) {
                Some(batch) => {
                    self.add(&batch?)?;
                    return Ok(true);
                }
                None => self.file = None,
            }
        }
    }

    fn add(&mut self, batch: &RecordBatch) -> Outcome<()> {
        let times = batch.column(self.stream.time);
        for time in times.as_primitive::<TimestampMicrosecondType>().values() {
            self.newest_us = self.newest_us.max(*time);
            self.arrivals.push(self.newest_us);
            let late_us = self.newest_us.saturating_sub(*time);
            self.disorder.rows += 1;
            self.disorder.late += u64::from(late_us > self.every_us);
            self.disorder.most_us = self.disorder.most_us.max(late_us);
        }
        self.rows = concat_batches(&self.stream.schema, [&self.rows, batch])
            .map_err(|e| Failure::failed(e.to_string()))?;
        Ok(())
    }

    /// Takes the rows that arrive before a time.
    fn take_before(&mut self, time_us: i64) -> Option<StreamBatch> {
        let count = self.arrivals.partition_point(|arrival| *arrival < time_us);
        if count == 0 {
            return None;
        }
        let batch = self.rows.slice(0, count);
        self.rows = self.rows.slice(count, self.rows.num_rows() - count);
        self.arrivals.drain(..count);
        let offsets = self.taken..self.taken + count as i64;
        self.taken = offsets.end;
        Some(StreamBatch {
            stream: self.index,
            batch,
            origin: offsets.map(|offset| (0, offset)).collect(),
            kafka_ts: vec![-1; count],
            headers: Vec::new(),
            deletions: Vec::new(),
        })
    }
}

/// Refuses a time behind all events of a stream's files: of their replay, which may be long, nothing would be measured.
///
/// They are read up to the first event from that time on.
///
/// # Errors
/// Of kind input: such a time, or a file that cannot be read.
pub(super) fn check_from<'a>(
    stream: &Stream,
    paths: impl Iterator<Item = &'a Path>,
    from_us: i64,
) -> Outcome<()> {
    let mut newest_us: Option<i64> = None;
    for path in paths {
        for batch in EventFile::open(path, stream)? {
            let batch = batch?;
            let times = batch
                .column(stream.time)
                .as_primitive::<TimestampMicrosecondType>();
            newest_us = newest_us.max(times.values().iter().copied().max());
            if newest_us >= Some(from_us) {
                return Ok(());
            }
        }
    }
    match newest_us {
        None => Ok(()),
        Some(newest_us) => Err(Failure::input(format!(
            "--from {}: the newest event of '{}' is of {}",
            rfc3339(from_us),
            stream.name,
            rfc3339(newest_us)
        ))
        .hint("nothing would be measured: name an earlier time, or leave --from out")),
    }
}

/// When the next row of any feed arrives, or none at the end of all.
pub(super) fn next_us(feeds: &mut [Feed<'_>]) -> Outcome<Option<i64>> {
    let mut next: Option<i64> = None;
    for feed in feeds {
        next = next.into_iter().chain(feed.next_us()?).min();
    }
    Ok(next)
}

/// The rows of all feeds that arrive before `end_us`, or as many of them as were read: empty where none is left.
pub(super) fn take(feeds: &mut [Feed<'_>], end_us: i64) -> Outcome<Vec<StreamBatch>> {
    loop {
        if next_us(feeds)?.is_none_or(|next| next >= end_us) {
            return Ok(Vec::new());
        }
        let until = feeds.iter().filter_map(Feed::known_until).min();
        let until = until.map_or(end_us, |until| until.min(end_us));
        let batches: Vec<StreamBatch> = feeds
            .iter_mut()
            .filter_map(|feed| feed.take_before(until))
            .collect();
        if !batches.is_empty() {
            return Ok(batches);
        }
        // All that was read of a stream arrives at one time, and more may: it is read on.
        for feed in feeds.iter_mut() {
            if feed.known_until().is_some_and(|known| known <= until) {
                feed.read_more()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::serve::tests::{decode, live, payment, with_a_text};
    use crate::times::parse_time;

    #[test]
    fn a_time_behind_all_events_is_refused_before_they_are_replayed() {
        let (folder, workspace) = with_a_text();
        let stream = workspace.project.stream("transactions").unwrap();
        let write = |name: &str, lines: &[String]| {
            let path = folder.path().join(name);
            std::fs::write(&path, lines.concat()).unwrap();
            path
        };
        let line = |minute| payment("a", "c1", 60.0, minute) + "\n";
        let paths = [
            write("first.jsonl", &[line(5), line(7)]),
            write("second.jsonl", &[line(6)]),
            write("empty.jsonl", &[]),
        ];
        let newest: serde_json::Value = serde_json::from_str(&line(7)).unwrap();
        let newest = newest["event_time"].as_str().unwrap();
        let newest_us = parse_time(newest).unwrap();
        let check = |paths: &[PathBuf], from_us| {
            check_from(stream, paths.iter().map(PathBuf::as_path), from_us)
        };
        assert!(check(&paths, newest_us).is_ok());
        let refused = check(&paths, newest_us + 1_000_000).unwrap_err().message;
        let expected = format!("the newest event of 'transactions' is of {newest}");
        assert!(refused.contains(&expected), "{refused}");
        // Files without an event are no mistake of this option.
        assert!(check(&paths[2..], newest_us).is_ok());
    }

    /// What is said of a file with payments of these minutes.
    fn said(minutes: &[i64]) -> Option<String> {
        let live = live();
        let streams = &live.workspace.project.streams;
        let stream = streams.iter().find(|stream| stream.name == "transactions");
        let payments = minutes.iter().enumerate();
        let payments = payments.map(|(row, minute)| payment(&row.to_string(), "c1", 1.0, *minute));
        let batch = decode(&live, &payments.collect::<Vec<_>>());
        let mut feed = Feed::new(0, stream.unwrap(), Vec::new(), 3_600_000_000);
        feed.add(&batch).unwrap();
        feed.disorder()
    }

    #[test]
    fn a_file_that_is_not_in_the_order_of_time_is_told() {
        assert_eq!(said(&[0, 10, 200]), None);
        // Late, within the period.
        assert_eq!(said(&[0, 60, 0]), None);
        let reversed = said(&[300, 200, 100, 0]).unwrap();
        let expected =
            "3 of 4 rows of stream 'transactions' stand behind newer ones, the farthest by 5h: ";
        assert!(reversed.starts_with(expected), "{reversed}");
        assert!(
            reversed.contains("Sort its rows by event_time"),
            "{reversed}"
        );
        // One of many came late.
        let mut many: Vec<i64> = (0..150).collect();
        many.push(0);
        assert_eq!(said(&many), None);
    }
}
