//! Who takes a place, who waits and who is refused. It reads no clock and waits for nothing: `gate` does.

use std::collections::HashMap;
use std::time::Duration;

use super::refused::Refused;
use super::{CLASSES, Class, LimitSettings};

/// What a request that is let in does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It takes a place.
    Now,
    /// It waits for one.
    Later,
}

/// Who is in place and who waits, how long work takes, and from both what becomes of a request.
///
/// `now` is the time since any fixed start.
#[derive(Debug)]
pub(super) struct Admission {
    places: usize,
    pub(super) settings: LimitSettings,
    pub(super) in_place: [usize; CLASSES],
    pub(super) waiting: [usize; CLASSES],
    pub(super) service: [ServiceTime; CLASSES],
    /// Open requests by client. A client that has none has no entry, so that there are no more than requests.
    pub(super) clients: HashMap<String, usize>,
}

impl Admission {
    /// Bounds of the hint when to ask again. Earlier is a flood; and nobody knows what will be in ten seconds.
    const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

    pub(super) fn new(settings: LimitSettings) -> Self {
        Self {
            places: settings.places(),
            settings,
            in_place: [0; CLASSES],
            waiting: [0; CLASSES],
            service: [ServiceTime::default(); CLASSES],
            clients: HashMap::new(),
        }
    }

    /// Counts a request of a client, until [`leave`](Self::leave).
    pub(super) fn enter(&mut self, client: &str) -> Result<(), Refused> {
        let limit = self.settings.client_concurrency;
        match self.clients.get_mut(client) {
            Some(open) if limit > 0 && *open >= limit => Err(Refused::Client {
                client: client.to_owned(),
                limit,
                retry: self.retry(),
            }),
            Some(open) => {
                *open += 1;
                Ok(())
            }
            None => {
                self.clients.insert(client.to_owned(), 1);
                Ok(())
            }
        }
    }

    pub(super) fn leave(&mut self, client: &str) {
        match self.clients.get_mut(client) {
            Some(open) if *open > 1 => *open -= 1,
            _ => {
                self.clients.remove(client);
            }
        }
    }

    /// Says whether a request takes a place, or waits for one, and counts it there; `left` is the time to its deadline.
    ///
    /// While a place is free no estimate refuses anything: the place would be idle, and an estimate that is wrong is
    /// put right by letting a request in.
    pub(super) fn arrive(
        &mut self,
        class: Class,
        left: Option<Duration>,
        now: Duration,
    ) -> Result<Turn, Refused> {
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Refused::Expired);
        }
        if count(&self.in_place) + count(&self.waiting) < self.places {
            self.in_place[class as usize] += 1;
            return Ok(Turn::Now);
        }
        self.check_line(class, left, now)?;
        self.waiting[class as usize] += 1;
        Ok(Turn::Later)
    }

    fn check_line(
        &self,
        class: Class,
        left: Option<Duration>,
        now: Duration,
    ) -> Result<(), Refused> {
        let LimitSettings {
            queue, max_wait, ..
        } = self.settings;
        let (wait, retry) = (self.wait(), self.retry());
        let service = self.service[class as usize].usual(now);
        if count(&self.waiting) >= queue {
            return Err(Refused::Queue { queue, retry });
        }
        if wait > max_wait {
            return Err(Refused::Wait {
                wait,
                max_wait,
                retry,
            });
        }
        match left {
            Some(left) if wait.saturating_add(service) > left => Err(Refused::Deadline {
                left,
                wait,
                service,
                retry,
            }),
            _ => Ok(()),
        }
    }

    /// The turn of a request that waited. One that has less time left than its work usually takes is given up: its
    /// client would be gone before the answer, and the next in line would be late as well.
    pub(super) fn start(
        &mut self,
        class: Class,
        left: Option<Duration>,
        now: Duration,
    ) -> Result<(), Refused> {
        let service = self.service[class as usize].usual(now);
        if left.is_some_and(|left| left.is_zero() || left < service) {
            return Err(Refused::Expired);
        }
        self.give_up(class);
        self.in_place[class as usize] += 1;
        Ok(())
    }

    /// A request that waited leaves the line.
    pub(super) fn give_up(&mut self, class: Class) {
        self.waiting[class as usize] -= 1;
    }

    /// A request that was in place for `held` leaves it.
    pub(super) fn end(&mut self, class: Class, held: Duration, now: Duration) {
        self.in_place[class as usize] -= 1;
        self.service[class as usize].note(held, now);
    }

    /// How long the next request would wait: until the first place is free, and then for the line to move up.
    ///
    /// With one class of requests this is (waiting + 1) × service time / places. By class, a few long requests do not
    /// count for more than the places they hold.
    pub(super) fn wait(&self) -> Duration {
        let sum = |counts: &[usize; CLASSES], of: fn(f64) -> f64| -> f64 {
            let each = counts.iter().zip(&self.service);
            each.map(|(n, time)| *n as f64 * of(time.expected())).sum()
        };
        let answers_a_second = sum(&self.in_place, f64::recip);
        let first = if answers_a_second > 0.0 {
            answers_a_second.recip()
        } else {
            0.0
        };
        let line = sum(&self.waiting, |seconds| seconds) / self.places as f64;
        Duration::try_from_secs_f64(first + line).unwrap_or(Duration::MAX)
    }

    /// When whoever waits now will have been let in.
    pub(super) fn retry(&self) -> Duration {
        self.wait().clamp(Self::RETRY.0, Self::RETRY.1)
    }
}

pub(super) fn count(by_class: &[usize; CLASSES]) -> usize {
    by_class.iter().sum()
}

/// How long requests of a class hold a place: an exponentially weighted mean.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServiceTime {
    pub(super) mean_seconds: f64,
    /// How many were measured, up to [`MEMORY`](Self::MEMORY).
    measured: u32,
    last: Duration,
}

impl ServiceTime {
    /// The newest counts for one in so many. Some thousand requests a second renew the mean in a few hundredths.
    const MEMORY: u32 = 64;
    /// From so many on, one request counts at most as [`OUTLIER`](Self::OUTLIER) means: that the disk stalled once
    /// must not have a thousand requests refused.
    pub(super) const SETTLED: u32 = 8;
    const OUTLIER: f64 = 4.0;
    /// What is assumed before any was measured.
    const FIRST_SECONDS: f64 = 1e-3;
    /// Keeps rates finite.
    const LEAST_SECONDS: f64 = 1e-6;
    /// A mean that nothing confirmed for so long refuses nobody. Else a class that is always refused because it was
    /// slow would never show that it is fast again.
    const TRUSTED: Duration = Duration::from_secs(1);

    pub(super) fn note(&mut self, held: Duration, now: Duration) {
        let mut seconds = held.as_secs_f64();
        if self.measured >= Self::SETTLED {
            seconds = seconds.min(Self::OUTLIER * self.mean_seconds);
        }
        self.measured = (self.measured + 1).min(Self::MEMORY);
        self.mean_seconds += (seconds - self.mean_seconds) / f64::from(self.measured);
        self.mean_seconds = self.mean_seconds.max(Self::LEAST_SECONDS);
        self.last = now;
    }

    /// For estimates of the wait, in seconds.
    pub(super) fn expected(&self) -> f64 {
        match self.measured {
            0 => Self::FIRST_SECONDS,
            _ => self.mean_seconds,
        }
    }

    /// For what may refuse a request of this class; zero when it is not known.
    pub(super) fn usual(&self, now: Duration) -> Duration {
        if self.measured == 0 || now.saturating_sub(self.last) > Self::TRUSTED {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(self.mean_seconds).unwrap_or(Duration::MAX)
    }
}
