//! What the registry's log is told of versions.

use millrace_learner::{Cause, Comparison, Entry, Event, Made, State};

/// Where a version is now.
pub(super) fn came_to(
    version: u64,
    state: State,
    comparison: Option<Comparison>,
    reason: Option<String>,
    at_us: i64,
) -> Entry {
    Entry {
        at_us,
        event: Event::Version {
            version,
            state,
            comparison: comparison.map(Box::new),
            made: None,
        },
        reason,
        cause: Some(Cause::Learner),
    }
}

/// The same note, of a version that was made just now.
pub(super) fn just_made(mut note: Entry, of: Made) -> Entry {
    if let Event::Version { made, .. } = &mut note.event {
        *made = Some(Box::new(of));
    }
    note
}

/// Why a version goes with the one that it was made from.
pub(super) fn of_bad_descent(ancestor: u64) -> String {
    format!("it comes from version {ancestor}, which was taken back")
}
