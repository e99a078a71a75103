//! How many files and connections the process may have open at a time.

use std::io::Error;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::debug;

/// What helps where there are too many.
pub(crate) const MORE: &str =
    "the process may have no more files open: `ulimit -n 65536` before the command allows more";

/// Raises the limit as far as the process may: what it is given at first is small for the sake of old programs.
pub(crate) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        debug!(%error, "the number of files that may be open stays as it is");
    }
}

/// How many may be open; none where the system does not say.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(now, _)| now)
}

/// Whether that is why a file could not be opened.
pub(crate) fn is_limit(error: &Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_may_open_as_much_as_it_is_allowed() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // Little less, as other tests have files open.
        setrlimit(Resource::RLIMIT_NOFILE, most - 1, most).unwrap();
        assert_eq!(limit(), Some(most - 1));
        raise_limit();
        assert_eq!(limit(), Some(most));
    }
}
