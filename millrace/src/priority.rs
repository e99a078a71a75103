//! Which threads go first where there are more of them than cores: calls before events, events before updates of the
//! model, and all of them before what nobody waits for.

use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tracing::warn;

/// A priority below that of the threads that answer calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Events become state.
    Events,
    /// Updates of the model.
    Updates,
    /// What nobody waits for.
    Spare,
}

impl Priority {
    /// Gives it to the current thread, and to the threads that this one starts from now on.
    pub fn take(self) {
        // Of 100 steps; on Linux they are niceness 5, 10 and 19.
        let priority = match self {
            Self::Events => crossplatform(35),
            Self::Updates => crossplatform(22),
            Self::Spare => ThreadPriority::Min,
        };
        if let Err(error) = set_current_thread_priority(priority) {
            warn!(
                ?self,
                ?error,
                "a thread keeps the priority of those that answer"
            );
        }
    }
}

/// Lets threads that wait for this one's core go first. A thread that wakes up gets its core only at the kernel's next
/// tick, some milliseconds later, whatever the priority of the one that runs there: long work says now and then that
/// it can wait.
pub fn step_aside() {
    std::thread::yield_now();
}

fn crossplatform(step: u8) -> ThreadPriority {
    // The steps above are in range.
    ThreadPriorityValue::try_from(step).map_or(ThreadPriority::Min, ThreadPriority::Crossplatform)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own word: field 19 of a thread's stat is its niceness.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_and_its_children_step_back() {
        let niceness = || -> Option<i32> {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
            let (_, rest) = stat.rsplit_once(')')?;
            rest.split_whitespace().nth(16)?.parse().ok()
        };
        for (priority, expected) in [
            (Priority::Events, 5),
            (Priority::Updates, 10),
            (Priority::Spare, 19),
        ] {
            let found = std::thread::spawn(move || {
                let before = niceness();
                priority.take();
                let child = std::thread::spawn(niceness).join().ok().flatten();
                (before, niceness(), child)
            });
            let (before, own, child) = found.join().unwrap_or_default();
            // A process that was started with less may not take more.
            if before.is_some_and(|before| before <= expected) {
                assert_eq!((own, child), (Some(expected), Some(expected)));
            }
        }
    }
}
