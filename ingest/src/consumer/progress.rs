//! How far a member is behind what Kafka has, and how it tells that.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use super::Ingest;
use crate::align::Source;
use crate::lane::Lane;
use crate::telemetry;

impl Ingest {
    /// The messages that are in our partitions and were not handed out, by what is known of the partitions' ends
    /// (about a second old). A partition that nobody reads yet counts as one message: its end is not known.
    pub fn lag(&self) -> i64 {
        self.lags().iter().map(|(_, lag)| lag).sum()
    }

    /// The [`lag`](Self::lag) of each topic.
    pub fn lags(&self) -> Vec<(String, i64)> {
        let topics = self.streams.iter();
        let mut lags: Vec<(String, i64)> = topics.map(|s| (s.topic.clone(), 0)).collect();
        for (source, lane) in &self.lanes {
            if let Some((_, lag)) = lags.get_mut(source.stream) {
                *lag += self.lag_of(*source, lane);
            }
        }
        for (new, _) in &self.sharing.unshared {
            if let Some((_, lag)) = lags.iter_mut().find(|(topic, _)| topic == new) {
                *lag += 1;
            }
        }
        lags
    }

    fn lag_of(&self, source: Source, lane: &Lane) -> i64 {
        // At its end a partition has no lag, even if its last offsets hold transaction markers.
        if self.align.is_caught_up(source) {
            return 0;
        }
        let end = self.consumer.context().end_of(&lane.topic, lane.partition);
        let position = self.align.position(source).unwrap_or_default();
        (end.unwrap_or(lane.end) - position).max(0)
    }

    /// When the brokers of all of our partitions were last heard: what has come since is in no lag. None while the group
    /// has not said which partitions are ours, or who reads those that are new.
    pub fn heard(&self) -> Option<Instant> {
        if !self.sharing.is_complete() {
            return None;
        }
        let context = self.consumer.context();
        let of = |lane: &Lane| context.heard_of(&lane.topic, lane.partition);
        let all: Option<Vec<Instant>> = self.lanes.values().map(of).collect();
        // Without partitions there is nobody to hear.
        all.map(|all| all.into_iter().min().unwrap_or_else(Instant::now))
    }

    pub(super) fn gauge(&mut self) {
        let now = Instant::now();
        if now >= self.gauges_at {
            telemetry::progress(self.lag(), self.align.buffered(), self.lanes.len());
            telemetry::foreign_partitions(self.foreign().len());
            self.gauges_at = now + Duration::from_secs(1);
            self.tell_foreign(now);
        }
        self.tell_outside(now);
    }

    /// Messages that no event could be made of, since the start.
    pub fn dead_letters(&self) -> u64 {
        self.letters.taken()
    }
}
