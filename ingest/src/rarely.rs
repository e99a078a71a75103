//! What goes on is logged ever more rarely: the pauses between its lines double, up to a minute.

use std::time::{Duration, Instant};

/// When something was logged that goes on, if it was.
#[derive(Debug, Default)]
pub struct Rarely(Option<Last>);

#[derive(Debug)]
struct Last {
    said: Instant,
    seen: Instant,
    pause: Duration,
}

impl Rarely {
    const SHORTEST: Duration = Duration::from_secs(2);
    const LONGEST: Duration = Duration::from_secs(60);

    /// Whether it is to be logged now that it is seen. What has not been seen for the longest pause is new.
    pub fn is_due(&mut self, now: Instant) -> bool {
        match &mut self.0 {
            Some(last) if now - last.seen < Self::LONGEST => {
                last.seen = now;
                let is_due = now - last.said >= last.pause;
                if is_due {
                    last.said = now;
                    last.pause = (last.pause * 2).min(Self::LONGEST);
                }
                is_due
            }
            _ => {
                self.0 = Some(Last {
                    said: now,
                    seen: now,
                    pause: Self::SHORTEST,
                });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_ever_more_rarely_until_it_ends() {
        let start = Instant::now();
        let second = |second: u64| start + Duration::from_secs(second);
        let mut rarely = Rarely::default();
        assert!(rarely.is_due(start));
        let said: Vec<u64> = (1..=200).filter(|at| rarely.is_due(second(*at))).collect();
        assert_eq!(said, [2, 6, 14, 30, 62, 122, 182]);
        assert!(rarely.is_due(second(260)));
        assert!(!rarely.is_due(second(261)));
        assert!(rarely.is_due(second(262)));
    }
}
