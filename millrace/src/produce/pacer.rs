//! When each event is due. The clock is a parameter: the caller sleeps.

use std::time::Duration;

/// How fast events are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as it goes.
    Free,
    /// So many events a second, evenly.
    Rate(f64),
    /// With the gaps between event times, so many times faster.
    Speed(f64),
}

/// After a stall the schedule moves on, so that no more is caught up than what is due in this time: whoever
/// measures at a rate must not see a burst.
const MOST_CAUGHT_UP: Duration = Duration::from_millis(10);

/// Shorter waits are left out, as sleeping takes about as long: events are at most this much early.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Says when events are due.
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Pace,
    events: u64,
    first_us: Option<i64>,
    /// When the newest event was due, by the schedule alone.
    due: Duration,
    /// How much the schedule has moved on.
    moved: Duration,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            events: 0,
            first_us: None,
            due: Duration::ZERO,
            moved: Duration::ZERO,
        }
    }

    /// How long the next event has to wait, when `elapsed` has passed since the start. An event that is out of
    /// order waits for nothing.
    pub(super) fn wait(&mut self, elapsed: Duration, event_time_us: i64) -> Duration {
        let due = match self.pace {
            Pace::Free => return Duration::ZERO,
            Pace::Rate(rate) => seconds(self.events as f64 / rate),
            Pace::Speed(speed) => {
                let first = *self.first_us.get_or_insert(event_time_us);
                seconds(event_time_us.saturating_sub(first) as f64 / 1e6 / speed)
            }
        };
        self.events += 1;
        self.due = self.due.max(due);
        let due = self.due + self.moved;
        self.moved += elapsed.saturating_sub(due + MOST_CAUGHT_UP);
        let wait = due.saturating_sub(elapsed);
        if wait < SHORTEST_WAIT {
            Duration::ZERO
        } else {
            wait
        }
    }
}

/// What is no length of time that a clock can show is none, or the longest there can be: a century.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3.2e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The times at which events are sent on a clock that only waiting and `stall` move on.
    fn schedule(pace: Pace, times_us: &[i64], stall: impl Fn(usize) -> Duration) -> Vec<Duration> {
        let mut pacer = Pacer::new(pace);
        let mut now = Duration::ZERO;
        let mut sent = Vec::new();
        for (index, time_us) in times_us.iter().enumerate() {
            now += stall(index);
            now += pacer.wait(now, *time_us);
            sent.push(now);
        }
        sent
    }

    fn no_stall(_: usize) -> Duration {
        Duration::ZERO
    }

    #[test]
    fn a_rate_is_kept_evenly() {
        for rate in [10.0, 333.0, 5_000.0, 200_000.0] {
            let sent = schedule(Pace::Rate(rate), &[0; 20_000], no_stall);
            for (index, time) in sent.iter().enumerate() {
                let ideal = seconds(index as f64 / rate);
                assert!(
                    time.abs_diff(ideal) <= SHORTEST_WAIT,
                    "{rate}: {index} at {time:?}"
                );
            }
        }
    }

    #[test]
    fn gaps_of_event_time_are_kept_and_disorder_is_harmless() {
        let times = [0, 60_000_000, 30_000_000, 120_000_000].map(|us| us + 1_700_000_000_000_000);
        let sent = schedule(Pace::Speed(60.0), &times, no_stall);
        assert_eq!(sent, [0, 1_000, 1_000, 2_000].map(|ms| MS * ms));
    }

    #[test]
    fn a_stall_is_not_caught_up_in_a_burst() {
        let stall = |index: usize| {
            if index == 100 {
                Duration::from_secs(5)
            } else {
                Duration::ZERO
            }
        };
        let sent = schedule(Pace::Rate(1_000.0), &[0; 1_000], stall);
        let after_stall = MS * 99 + Duration::from_secs(5);
        let burst = sent
            .iter()
            .skip(100)
            .filter(|time| **time <= after_stall)
            .count();
        assert!(burst <= 12, "{burst} events in one burst");
        assert!(burst >= 9, "{burst}: what is due is sent");
    }

    #[test]
    fn a_free_pace_never_waits() {
        assert!(
            schedule(Pace::Free, &[0, i64::MAX, i64::MIN], no_stall)
                .iter()
                .all(Duration::is_zero)
        );
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        let sent = schedule(Pace::Speed(1e-300), &[i64::MIN, i64::MAX], no_stall);
        assert_eq!(sent[1], seconds(f64::MAX));
    }
}
