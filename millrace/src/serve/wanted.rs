//! State that is read as long as somebody waits for the answer.

use std::ops::Range;

use millrace_features::{BestRead, Made, StateError, StateReader};

use super::admission::Work;

/// A state whose reads fail once the work that they are a part of is in vain. A look-up reads for each of its entities,
/// so that one of thousands stops soon after its caller has gone. Nobody hears of the error.
pub(super) struct Wanted<'a> {
    state: &'a dyn StateReader,
    work: Option<Work>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(state: &'a dyn StateReader) -> Self {
        let work = Work::under_way();
        Self { state, work }
    }

    fn check(&self) -> Result<(), StateError> {
        match self.work.as_ref().is_some_and(Work::is_in_vain) {
            true => Err(StateError("nobody waits for the answer".to_owned())),
            false => Ok(()),
        }
    }
}

impl StateReader for Wanted<'_> {
    fn scan(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        self.check()?;
        self.state.scan(view, entity, times, visit)
    }

    fn made(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        make: &mut dyn FnMut(&mut dyn Iterator<Item = (i64, &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        self.check()?;
        self.state.made(view, entity, times, make)
    }

    fn made_of_tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        make: &mut dyn FnMut(&mut dyn Iterator<Item = ((u8, i64), &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        self.check()?;
        self.state.made_of_tiles(view, entity, level, starts, make)
    }

    fn scan_back(
        &self,
        view: u32,
        entity: &[u8],
        before: i64,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        self.check()?;
        self.state.scan_back(view, entity, before, visit)
    }

    fn tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), StateError> {
        self.check()?;
        self.state.tiles(view, entity, level, starts, visit)
    }

    fn best_read(&self, view: u32, entity: &[u8], from: i64) -> Result<BestRead, StateError> {
        self.check()?;
        self.state.best_read(view, entity, from)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use millrace_features::MemoryState;

    use super::*;
    use crate::serve::access::Caller;
    use crate::serve::admission::{Class, Gate, Held, LimitSettings};

    #[tokio::test]
    async fn nothing_is_read_for_a_request_that_has_ended() {
        let gate = Gate::new(LimitSettings::default());
        let caller = Caller::new("x".to_owned(), Vec::new());
        let place = gate.place(Class::LookUp, &caller, None).await.unwrap();
        let held = Held::new(place);
        let state = MemoryState::default();
        let wanted = held.during(async { Wanted::new(&state) }).await;
        let of_no_request = Wanted::new(&state);
        let is_read = |state: &Wanted<'_>| state.scan(1, b"card", 0..1, &mut |_, _| true).is_ok();
        assert!(is_read(&wanted));
        drop(held);
        assert!(!is_read(&wanted) && is_read(&of_no_request));
    }
}
