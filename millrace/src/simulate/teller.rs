//! How far a run is: a line that changes at a terminal, and a line now and then where there is none.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::failure::Outcome;
use crate::files::{EventFile, spinner};
use crate::output::tell;
use crate::simulate::feed::Feed;

/// A line for so many percent of the events,
const STEP: u64 = 5;

/// and where their number is not known, or they take long, one in this time.
const PAUSE: Duration = Duration::from_secs(30);

/// Tells a person or a log how far a run is.
pub(super) struct Teller {
    bar: ProgressBar,
    /// Where no bar is seen.
    lines: Option<Lines>,
}

struct Lines {
    /// Rows of all files; none where a format does not tell.
    all: Option<u64>,
    told: u64,
    at: Instant,
}

impl Teller {
    /// Of a run over these files.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub(super) fn new(feeds: &[Feed<'_>]) -> Outcome<Self> {
        let lines = match std::io::stderr().is_terminal() {
            true => None,
            false => Some(Lines {
                all: rows(feeds)?,
                told: 0,
                at: Instant::now(),
            }),
        };
        Ok(Self {
            bar: spinner(),
            lines,
        })
    }

    /// Tells how far it is, in events and in words.
    pub(super) fn tell(&mut self, events: u64, far: String) {
        if let Some(lines) = &mut self.lines
            && let Some(share) = lines.due(events)
        {
            tell(format_args!("{share}{far}"));
        }
        self.bar.set_message(far);
    }

    /// Takes the changing line away.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Lines {
    /// What a line begins with, if one is due.
    fn due(&mut self, events: u64) -> Option<String> {
        let percent = self.all.map(|all| 100 * events / all.max(1));
        let step = percent.map_or(0, |percent| percent / STEP);
        if step <= self.told && self.at.elapsed() < PAUSE {
            return None;
        }
        self.told = step.max(self.told);
        self.at = Instant::now();
        Some(percent.map_or(String::new(), |percent| format!("{percent} % · ")))
    }
}

fn rows(feeds: &[Feed<'_>]) -> Outcome<Option<u64>> {
    let mut all = Some(0);
    for feed in feeds {
        for path in feed.paths() {
            let rows = EventFile::open(path, feed.stream())?.rows();
            all = all.zip(rows).map(|(all, rows)| all + rows);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_with_each_step() {
        let mut lines = Lines {
            all: Some(1_000),
            told: 0,
            at: Instant::now(),
        };
        let told: Vec<u64> = (0..=1_000).filter(|n| lines.due(*n).is_some()).collect();
        assert_eq!(told, (1..=20).map(|step| 50 * step).collect::<Vec<_>>());
        lines.all = None;
        assert_eq!(lines.due(2_000), None);
    }
}
