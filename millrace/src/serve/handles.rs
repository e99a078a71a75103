//! The requests that were prepared, by their handles.
//!
//! There is room for so many, which clients share: when it is used up, the client that holds the most loses some of its
//! own, those by which nobody has asked for the longest time. One that prepares without end takes no other's away.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::catalog::Selection;

/// One in so many of a client's handles goes when there is no room: to find the oldest takes a look at all of them.
const GIVEN_UP: usize = 16;

/// What was prepared. Asking by a handle changes nothing but, now and then, when that was.
pub(super) struct Handles {
    most: usize,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    prepared: HashMap<u64, Prepared>,
    /// The handles of each client that holds some.
    clients: HashMap<String, HashSet<u64>>,
    /// Handles of all clients, one that two hold twice.
    held: usize,
    /// How often something was prepared. It is what time is told by here.
    now: u64,
}

struct Prepared {
    selection: Arc<Selection>,
    /// Clients that hold the handle.
    holders: usize,
    /// When it was asked by, or prepared, last.
    used: AtomicU64,
}

impl Handles {
    /// None yet, and room for so many.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: RwLock::default(),
        }
    }

    /// What was prepared under a handle, by whomever.
    pub(super) fn get(&self, handle: u64) -> Option<Arc<Selection>> {
        let known = self.read();
        let prepared = known.prepared.get(&handle)?;
        // Where nothing is prepared meanwhile, those who ask write nothing that others read.
        if prepared.used.load(Ordering::Relaxed) != known.now {
            prepared.used.store(known.now, Ordering::Relaxed);
        }
        Some(Arc::clone(&prepared.selection))
    }

    /// Keeps a selection for a client. The one that is kept: equal selections have equal handles.
    pub(super) fn keep(&self, client: &str, handle: u64, selection: Selection) -> Arc<Selection> {
        let mut known = self.write();
        let selection = known.keep(client, handle, selection);
        if known.held > self.most {
            known.make_room();
        }
        selection
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn keep(&mut self, client: &str, handle: u64, selection: Selection) -> Arc<Selection> {
        self.now += 1;
        let prepared = self.prepared.entry(handle).or_insert_with(|| Prepared {
            selection: Arc::new(selection),
            holders: 0,
            used: AtomicU64::default(),
        });
        *prepared.used.get_mut() = self.now;
        let own = self.clients.entry(client.to_owned()).or_default();
        if own.insert(handle) {
            prepared.holders += 1;
            self.held += 1;
        }
        Arc::clone(&prepared.selection)
    }

    /// Takes handles from the client that holds the most.
    fn make_room(&mut self) {
        let Some((client, own)) = self.clients.iter_mut().max_by_key(|(_, own)| own.len()) else {
            return;
        };
        let used = |handle: &u64| {
            let prepared = self.prepared.get(handle);
            prepared.map_or(0, |prepared| prepared.used.load(Ordering::Relaxed))
        };
        let mut by_use: Vec<(u64, u64)> = own.iter().map(|h| (used(h), *h)).collect();
        by_use.sort_unstable();
        let count = by_use.len().div_ceil(GIVEN_UP);
        for (_, handle) in by_use.into_iter().take(count) {
            own.remove(&handle);
            self.held -= 1;
            if let Some(prepared) = self.prepared.get_mut(&handle) {
                prepared.holders -= 1;
                if prepared.holders == 0 {
                    self.prepared.remove(&handle);
                }
            }
        }
        if own.is_empty() {
            let client = client.clone();
            self.clients.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 32;

    fn keep(handles: &Handles, client: &str, numbers: std::ops::Range<u64>) {
        for handle in numbers {
            let nothing = Selection {
                views: Vec::new(),
                keys: Vec::new(),
            };
            handles.keep(client, handle, nothing);
        }
    }

    fn kept(handles: &Handles, numbers: std::ops::Range<u64>) -> usize {
        let is_kept = |handle: &u64| handles.get(*handle).is_some();
        numbers.filter(is_kept).count()
    }

    fn counts(handles: &Handles) -> (usize, usize) {
        let known = handles.read();
        let all = known.clients.values().map(HashSet::len).sum::<usize>();
        assert_eq!(known.held, all);
        (known.prepared.len(), known.held)
    }

    #[test]
    fn a_client_takes_no_other_clients_handles_away() {
        let handles = Handles::new(MOST);
        keep(&handles, "modest", 0..4);
        keep(&handles, "greedy", 100..1_000);
        assert_eq!(kept(&handles, 0..4), 4);
        assert_eq!(kept(&handles, 100..900), 0);
        // One that is asked by stays, whoever asks.
        assert!(handles.get(990).is_some());
        keep(&handles, "greedy", 2_000..2_020);
        assert!(handles.get(990).is_some());
        keep(&handles, "greedy", 3_000..3_100);
        assert!(handles.get(990).is_none());
        let (prepared, held) = counts(&handles);
        assert!(prepared == held && held > MOST - MOST / GIVEN_UP && held <= MOST);
        // Two clients who both want all of it have half of it each.
        keep(&handles, "modest", 5_000..6_000);
        let (greedy, modest) = (kept(&handles, 3_000..3_100), kept(&handles, 5_000..6_000));
        assert!(
            greedy >= MOST / 2 - 2 && modest >= MOST / 2 - 2,
            "{greedy} and {modest}"
        );
    }

    #[test]
    fn a_handle_is_kept_as_long_as_somebody_holds_it() {
        let handles = Handles::new(MOST);
        keep(&handles, "a", 0..3);
        keep(&handles, "b", 0..3);
        keep(&handles, "b", 0..3);
        assert_eq!(counts(&handles), (3, 6));
        keep(&handles, "a", 100..400);
        assert_eq!(kept(&handles, 0..3), 3);
        assert_eq!(handles.read().clients["b"].len(), 3);
        let given_up = Handles::new(0);
        keep(&given_up, "a", 0..5);
        assert_eq!(counts(&given_up), (0, 0));
        assert!(given_up.read().clients.is_empty());
    }
}
