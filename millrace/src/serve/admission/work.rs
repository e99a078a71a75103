//! The work for a request that has a place.
//!
//! Work on another thread does not end with its request's future, which is dropped when the caller cancels and when the
//! deadline passes. So the place is the work's too: it is given back when both have ended. And a request that ends
//! leaves word that nobody waits any more, for the work to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::futures::TaskLocalFuture;

use super::gate::Place;

tokio::task_local! {
    /// What a task does, and the threads that do a part of it.
    static UNDER_WAY: Work;
}

/// Work for a request. The place is taken until the last clone is dropped.
#[derive(Debug, Clone)]
pub(in crate::serve) struct Work(Arc<Placed>);

#[derive(Debug)]
struct Placed {
    is_in_vain: AtomicBool,
    _place: Place,
}

impl Work {
    /// What is done here is a part of it; none where there is no place for that.
    fn under_way() -> Option<Self> {
        UNDER_WAY.try_with(Self::clone).ok()
    }

    /// What is under way here is so on another thread, for as long as `part` takes there.
    pub(in crate::serve) fn carried<T>(part: impl FnOnce() -> T) -> impl FnOnce() -> T {
        let work = Self::under_way();
        move || match work {
            Some(work) => UNDER_WAY.sync_scope(work, part),
            None => part(),
        }
    }
}

/// Whether what is done here is work that nobody waits for any more.
pub(crate) fn is_in_vain() -> bool {
    let is_so = UNDER_WAY.try_with(|Work(placed)| placed.is_in_vain.load(Ordering::Relaxed));
    is_so.unwrap_or(false)
}

/// A request's own hold on its place. Dropping it says that nobody waits for the work any more.
#[derive(Debug)]
pub(in crate::serve) struct Held(Work);

impl Held {
    pub(in crate::serve) fn new(place: Place) -> Self {
        Self(Work(Arc::new(Placed {
            is_in_vain: AtomicBool::new(false),
            _place: place,
        })))
    }

    /// What a future does as work for the request.
    pub(in crate::serve) fn during<F: Future>(&self, future: F) -> TaskLocalFuture<Work, F> {
        UNDER_WAY.scope(self.0.clone(), future)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Work(placed) = &self.0;
        placed.is_in_vain.store(true, Ordering::Relaxed);
    }
}
