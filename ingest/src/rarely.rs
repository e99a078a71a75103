//! What goes on is logged ever more rarely: the pauses between its lines double, up to a minute.

use std::time::{Duration, Instant};

/// When something was logged that goes on.
#[derive(Debug)]
pub struct Rarely {
    said: Instant,
    seen: Instant,
    pause: Duration,
}

impl Rarely {
    const SHORTEST: Duration = Duration::from_secs(2);
    const LONGEST: Duration = Duration::from_secs(60);

    /// It was logged now.
    #[must_use]
    pub fn said(now: Instant) -> Self {
        Self {
            said: now,
            seen: now,
            pause: Self::SHORTEST,
        }
    }

    /// Whether it is to be logged now that it is seen again. What has not been seen for the longest pause is new.
    pub fn is_due(&mut self, now: Instant) -> bool {
        if now - self.seen >= Self::LONGEST {
            *self = Self::said(now);
            return true;
        }
        self.seen = now;
        let is_due = now - self.said >= self.pause;
        if is_due {
            self.said = now;
            self.pause = (self.pause * 2).min(Self::LONGEST);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_ever_more_rarely_until_it_ends() {
        let start = Instant::now();
        let second = |second: u64| start + Duration::from_secs(second);
        let mut rarely = Rarely::said(start);
        let said: Vec<u64> = (1..=200).filter(|at| rarely.is_due(second(*at))).collect();
        assert_eq!(said, [2, 6, 14, 30, 62, 122, 182]);
        assert!(rarely.is_due(second(260)));
        assert!(!rarely.is_due(second(261)));
        assert!(rarely.is_due(second(262)));
    }
}
