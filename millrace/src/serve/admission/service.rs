//! How long requests hold a place: by the class of their work, and by how many entities or events they are for.
//!
//! Of each class, the newest requests of some sizes have a mean. The line that is nearest to those means says what a
//! request takes by itself, and what each of its entities takes more.

use std::time::Duration;

use super::{CLASSES, Class};

/// The work of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) struct Job {
    pub(in crate::serve) class: Class,
    /// Entities or events that it is for; 0 and 1 are the same.
    pub(in crate::serve) items: usize,
}

/// Sizes of requests that are told apart: 1, 2 to 7, 8 to 31, and so on.
const SIZES: usize = 8;

/// Requests of one class and of about one size.
const KINDS: usize = CLASSES * SIZES;

impl Job {
    fn kind(self) -> usize {
        let size = self.items.max(1).ilog2().div_ceil(2) as usize;
        self.class as usize * SIZES + size.min(SIZES - 1)
    }

    fn items(self) -> f64 {
        self.items.max(1) as f64
    }
}

/// Requests, counted by kind.
#[derive(Debug)]
pub(super) struct Counts {
    all: usize,
    of_kind: [usize; KINDS],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            all: 0,
            of_kind: [0; KINDS],
        }
    }
}

impl Counts {
    pub(super) fn all(&self) -> usize {
        self.all
    }

    pub(super) fn add(&mut self, job: Job) {
        self.all += 1;
        self.of_kind[job.kind()] += 1;
    }

    pub(super) fn remove(&mut self, job: Job) {
        self.all -= 1;
        self.of_kind[job.kind()] -= 1;
    }
}

/// How long requests of each kind take.
#[derive(Debug)]
pub(super) struct ServiceTimes([Mean; KINDS]);

impl Default for ServiceTimes {
    fn default() -> Self {
        Self([Mean::default(); KINDS])
    }
}

impl ServiceTimes {
    /// What is assumed before any was measured.
    const FIRST_SECONDS: f64 = 1e-3;

    pub(super) fn note(&mut self, job: Job, held: Duration, now: Duration) {
        self.0[job.kind()].note(job.items(), held, now);
    }

    /// For what may refuse a request; zero when it is not known.
    pub(super) fn usual(&self, job: Job, now: Duration) -> Duration {
        let of_class = self.of_class(job.class as usize);
        let trusted = of_class.filter(|mean| mean.is_trusted(now));
        let seconds = Line::through(trusted).map_or(0.0, |line| line.at(job.items()));
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// For estimates of the wait: what `of` makes of the seconds that each of some requests is expected to take, in sum.
    pub(super) fn sum(&self, requests: &Counts, of: fn(f64) -> f64) -> f64 {
        let counted = requests.of_kind.iter().enumerate();
        let counted = counted.filter(|(_, count)| **count > 0);
        counted
            .map(|(kind, count)| *count as f64 * of(self.expected(kind)))
            .sum()
    }

    fn expected(&self, kind: usize) -> f64 {
        let mean = &self.0[kind];
        if mean.measured > 0 {
            return mean.seconds;
        }
        let (class, size) = (kind / SIZES, kind % SIZES);
        // The middle of its sizes, more or less.
        let items = f64::from(1_u32 << (2 * size));
        let line = Line::through(self.of_class(class).filter(|mean| mean.measured > 0));
        line.map_or(Self::FIRST_SECONDS, |line| line.at(items))
    }

    fn of_class(&self, class: usize) -> impl Iterator<Item = &Mean> {
        self.0[class * SIZES..][..SIZES].iter()
    }
}

/// How long requests of a kind hold a place, and how many items they are for: exponentially weighted means.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    seconds: f64,
    items: f64,
    /// How many were measured, up to [`MEMORY`](Self::MEMORY).
    measured: u32,
    last: Duration,
}

impl Mean {
    /// The newest counts for one in so many. Some thousand requests a second renew the mean in a few hundredths.
    const MEMORY: u32 = 64;
    /// From so many on, one request counts at most as [`OUTLIER`](Self::OUTLIER) that are usual for its size: that the
    /// disk stalled once must not have a thousand requests refused.
    const SETTLED: u32 = 8;
    const OUTLIER: f64 = 4.0;
    /// Keeps rates finite.
    const LEAST_SECONDS: f64 = 1e-6;
    /// A mean that nothing confirmed for so long refuses nobody. Else a kind that is always refused because it was
    /// slow would never show that it is fast again.
    const TRUSTED: Duration = Duration::from_secs(1);

    fn note(&mut self, items: f64, held: Duration, now: Duration) {
        let mut seconds = held.as_secs_f64();
        if self.measured >= Self::SETTLED {
            let usual = self.seconds * (items / self.items).max(1.0);
            seconds = seconds.min(Self::OUTLIER * usual);
        }
        self.measured = (self.measured + 1).min(Self::MEMORY);
        let share = f64::from(self.measured).recip();
        self.seconds += (seconds - self.seconds) * share;
        self.seconds = self.seconds.max(Self::LEAST_SECONDS);
        self.items += (items - self.items) * share;
        self.last = now;
    }

    fn is_trusted(&self, now: Duration) -> bool {
        self.measured > 0 && now.saturating_sub(self.last) <= Self::TRUSTED
    }
}

/// What requests of a class take by their size.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// Seconds of a request by itself.
    fixed: f64,
    /// Seconds of each of its items.
    each: f64,
    /// Of larger requests no more is known than that they take as long as one of so many items.
    most_items: f64,
}

impl Line {
    /// Means of sizes that differ by less than this say nothing of what an item takes.
    const APART: f64 = 2.0;
    /// What was measured says something of requests that are so many times as large.
    const REACH: f64 = 16.0;

    /// The line for which the sum of squares of relative errors is least, of those that fall nowhere and begin at zero
    /// or above it. None without means.
    fn through<'a>(means: impl Iterator<Item = &'a Mean>) -> Option<Self> {
        // Sums over means, each by its weight w, of: 1, the items n, n², the seconds t, n·t.
        let (mut w, mut wn, mut wnn, mut wt, mut wnt) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for Mean { seconds, items, .. } in means {
            let weight = (seconds * seconds).recip();
            w += weight;
            wn += weight * items;
            wnn += weight * items * items;
            wt += weight * seconds;
            wnt += weight * items * seconds;
            (least, most) = (least.min(*items), most.max(*items));
        }
        if w <= 0.0 {
            return None;
        }
        if most < Self::APART * least {
            // A smaller request takes less, as far as is known, and a larger one as long.
            return Some(Self {
                fixed: 0.0,
                each: wnt / wnn,
                most_items: most,
            });
        }
        let each = (w * wnt - wn * wt) / (w * wnn - wn * wn);
        let fixed = (wt - each * wn) / w;
        let (fixed, each) = match (fixed > 0.0, each > 0.0) {
            (true, true) => (fixed, each),
            (true, false) => (wt / w, 0.0),
            (false, _) => (0.0, wnt / wnn),
        };
        Some(Self {
            fixed,
            each,
            most_items: Self::REACH * most,
        })
    }

    /// Seconds of a request of so many items.
    fn at(&self, items: f64) -> f64 {
        self.fixed + self.each * items.min(self.most_items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NOW: Duration = Duration::from_secs(100);

    fn look_up(items: usize) -> Job {
        Job {
            class: Class::LookUp,
            items,
        }
    }

    /// A class in which a request takes 2 ms, and each of its items 0.1 ms more, measured at some sizes.
    fn measured(sizes: &[usize]) -> ServiceTimes {
        let mut times = ServiceTimes::default();
        for _ in 0..20 {
            for items in sizes {
                times.note(look_up(*items), 2 * MS + *items as u32 * MS / 10, NOW);
            }
        }
        times
    }

    fn usual_ms(times: &ServiceTimes, items: usize) -> f64 {
        let usual = times.usual(look_up(items), NOW).as_secs_f64();
        (usual * 1e5).round() / 1e2
    }

    #[test]
    fn a_request_takes_a_part_by_itself_and_a_part_for_each_item() {
        for sizes in [[1, 1_000], [1_000, 1], [100, 10_000]] {
            let times = measured(&sizes);
            for (items, ms) in [(1, 2.1), (100, 12.0), (1_000, 102.0), (10_000, 1_002.0)] {
                assert_eq!(usual_ms(&times, items), ms, "{items}, as of {sizes:?}");
            }
            // Another class has times of its own.
            let score = Job {
                class: Class::Score,
                ..look_up(1)
            };
            assert_eq!(times.usual(score, NOW), Duration::ZERO);
        }
        assert_eq!(
            usual_ms(&measured(&[1, 2, 20, 500, 9_000]), 10_000),
            1_002.0
        );
    }

    #[test]
    fn of_sizes_that_were_not_measured_no_more_is_said_than_is_known() {
        let of_ones = measured(&[1]);
        assert_eq!([1, 10_000].map(|n| usual_ms(&of_ones, n)), [2.1, 2.1]);
        let of_large = measured(&[1_000]);
        let usual = [1, 500, 1_000, 10_000].map(|n| usual_ms(&of_large, n));
        assert_eq!(usual, [0.1, 51.0, 102.0, 102.0]);
        // Sizes that lie so near say nothing of an item.
        let near = measured(&[7, 8]);
        assert!(usual_ms(&near, 10_000) < 3.0);
        // From ones and tens, thousands are as 160 of them at least.
        let of_small = measured(&[1, 10]);
        assert_eq!([160, 9_000].map(|n| usual_ms(&of_small, n)), [18.0, 18.0]);
        let mut times = measured(&[1, 1_000]);
        assert_eq!(
            times.usual(look_up(1_000), NOW + Duration::from_secs(2)),
            Duration::ZERO
        );
        // Large ones that are as fast as small ones: neither is said to take less than nothing.
        for _ in 0..1_000 {
            times.note(look_up(1_000), MS, NOW);
        }
        let (one, many) = (usual_ms(&times, 1), usual_ms(&times, 1_000));
        assert!(one > 0.9 && one <= 2.1 && one == many, "{one} and {many}");
    }

    #[test]
    fn times_follow_what_lasts_and_not_what_happens_once() {
        let mut times = ServiceTimes::default();
        assert_eq!(times.usual(look_up(1), NOW), Duration::ZERO);
        let mut after = |count, held| {
            (0..count).for_each(|_| times.note(look_up(1), held, NOW));
            (times.usual(look_up(1), NOW).as_secs_f64() * 1e3).round()
        };
        assert_eq!(after(100, 10 * MS), 10.0);
        assert_eq!(after(2, 5_000 * MS), 11.0);
        assert_eq!(after(300, 100 * MS), 99.0);
        assert_eq!(after(300, MS), 2.0);
        assert_eq!(after(1_000, Duration::ZERO), 0.0);
        assert!(times.usual(look_up(1), NOW) > Duration::ZERO);
    }

    #[test]
    fn a_large_request_is_no_outlier_among_smaller_ones_of_its_kind() {
        let mut times = ServiceTimes::default();
        for _ in 0..20 {
            times.note(look_up(2_048), 200 * MS, NOW);
        }
        let before = usual_ms(&times, 2_048);
        for _ in 0..300 {
            times.note(look_up(8_000), 800 * MS, NOW);
        }
        let after = usual_ms(&times, 8_000);
        assert!(before == 200.0 && after > 780.0, "{before} and {after}");
    }

    #[test]
    fn waits_are_of_sizes_too() {
        let mut waiting = Counts::default();
        for items in [1, 1, 1, 1_000] {
            waiting.add(look_up(items));
        }
        let sum = |times: &ServiceTimes| (times.sum(&waiting, |seconds| seconds) * 1e4).round();
        assert_eq!(sum(&ServiceTimes::default()), 40.0);
        assert_eq!(sum(&measured(&[1, 1_000])), 3.0 * 21.0 + 1_020.0);
        waiting.remove(look_up(900));
        assert_eq!(waiting.all(), 3);
        let times = measured(&[1, 1_000]);
        assert_eq!((times.sum(&waiting, |seconds| seconds) * 1e4).round(), 63.0);
    }
}
