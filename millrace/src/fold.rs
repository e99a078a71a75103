//! When events of views with a resolution become totals: in the step that touches their entity, once they are settled.
//!
//! What a total is, and that it changes no answer, is the business of `millrace-features`; here it is decided which
//! entities are looked at. Nobody goes through the store for it. Each event decides by its own key whether its entity
//! is looked at (one in [`EVERY`] does), from where the last look ended, so folding costs each event as much as
//! reading it once more, on average. An event that is later than `late` has its step looked at at once. An entity that
//! is quiet keeps what it has.
//!
//! Which entities were looked at is in memory alone. After a restart they are looked at from their first row.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use millrace_feature_store::{EventKey, event_time_us};
use millrace_features::{FeatureError, FeatureView, StateReader};
use xxhash_rust::xxh3::xxh3_64;

use crate::failure::Outcome;
use crate::marks::Marks;
use crate::settings::StoreSection;
use crate::state::{Base, EventPlace, Overlay, Pending};

/// One event in so many has its entity looked at.
const EVERY: u64 = 32;

/// Rows that are looked at in one go: what is more waits for the entity's next turn.
const MOST_ROWS: usize = 100_000;

/// An entity with fewer rows is read again rather than remembered.
const WORTH_NOTING: usize = 256;

/// Entities that are remembered; if there are more, all are forgotten.
const MOST_ENTITIES: usize = 1 << 20;

/// Steps that grow old between two looks at an entity's old totals.
const OLD_STEPS: i64 = 64;

/// What an event key has after its entity's prefix: time and unique part.
const PLACE_BYTES: usize = 24;

/// Up to when entities were looked at, by a hash of their prefix.
#[derive(Debug, Default)]
pub struct Folder {
    looked: HashMap<u64, Looked>,
}

/// Up to when an entity was looked at, µs.
#[derive(Debug, Clone, Copy)]
struct Looked {
    settled: i64,
    old: i64,
}

/// An entity that a step touches.
struct Touched {
    prefix: Vec<u8>,
    /// Whether one of its events says that it is to be looked at.
    is_due: bool,
    /// Steps that were settled before an event of them came.
    late: Vec<i64>,
}

impl Folder {
    /// Replaces settled rows of the entities that `pending` touches by totals, in `views`. `marks` are those that are
    /// committed with it. Nothing may be read through an overlay with `pending` afterwards.
    ///
    /// # Errors
    /// A store that cannot be read, a damaged row.
    pub fn fold<'v>(
        &mut self,
        views: impl IntoIterator<Item = &'v Arc<FeatureView>>,
        marks: &Marks,
        settings: &StoreSection,
        committed: &(dyn Base + Sync),
        pending: &mut Pending,
    ) -> Outcome<()> {
        for view in views {
            let Some(settled) = marks.settled(view) else {
                continue;
            };
            let old = marks.old(view, settings).unwrap_or(i64::MIN);
            for touched in touched(view, pending, settled) {
                self.fold_entity(view, &touched, settled, old, committed, pending)?;
            }
        }
        Ok(())
    }

    /// Forgets who was looked at: what was folded may not have been committed.
    pub fn clear(&mut self) {
        self.looked.clear();
    }

    fn fold_entity(
        &mut self,
        view: &FeatureView,
        touched: &Touched,
        settled: i64,
        old: i64,
        committed: &(dyn Base + Sync),
        pending: &mut Pending,
    ) -> Outcome<()> {
        let name = xxh3_64(&touched.prefix);
        let looked = self.looked.get(&name).copied();
        let work = Work::new(view, touched, settled, old, looked);
        if work.ranges.is_empty() {
            return Ok(());
        }
        // A key of this prefix with any place gives the entity back.
        let key = [touched.prefix.as_slice(), &[0; PLACE_BYTES]].concat();
        let Some(EventKey { entity, .. }) = EventKey::read(&key) else {
            return Ok(());
        };
        let mut rows = 0;
        let mut until = settled;
        for range in &work.ranges {
            let read = read(view, &entity, range.clone(), committed, pending)?;
            rows += read.rows.len();
            if read.end < range.end {
                until = until.min(read.end);
            }
            let old = if range.start == i64::MIN {
                work.old.min(read.end)
            } else {
                i64::MIN
            };
            replace(view, &entity, read, old, committed, pending)?;
        }
        if touched.is_due && rows >= WORTH_NOTING {
            if self.looked.len() >= MOST_ENTITIES {
                self.looked.clear();
            }
            let old = if until < settled {
                i64::MIN
            } else {
                work.old.max(looked.map_or(i64::MIN, |l| l.old))
            };
            let looked = Looked {
                settled: until,
                old,
            };
            self.looked.insert(name, looked);
        }
        Ok(())
    }
}

/// The times whose rows are looked at: whole steps, disjoint, in order.
struct Work {
    ranges: Vec<Range<i64>>,
    /// Before when spans of all lengths become totals; `i64::MIN` where old totals are left alone.
    old: i64,
}

impl Work {
    fn new(
        view: &FeatureView,
        touched: &Touched,
        settled: i64,
        old: i64,
        looked: Option<Looked>,
    ) -> Self {
        let step_us = view.ladder().width_us(0);
        let mut ranges: Vec<Range<i64>> = touched
            .late
            .iter()
            .map(|start| *start..start.saturating_add(step_us))
            .collect();
        if touched.is_due {
            ranges.push(looked.map_or(i64::MIN, |looked| looked.settled)..settled);
        }
        // Old totals may be of any length, so all are read to change one.
        let grown = looked.is_none_or(|l| old.saturating_sub(l.old) >= OLD_STEPS * step_us);
        let is_late = touched.late.iter().any(|start| *start < old);
        let old = match old > i64::MIN && ((touched.is_due && grown) || is_late) {
            true => old,
            false => i64::MIN,
        };
        ranges.push(i64::MIN..old);
        Self {
            ranges: disjoint(ranges),
            old,
        }
    }
}

fn disjoint(mut ranges: Vec<Range<i64>>) -> Vec<Range<i64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut disjoint: Vec<Range<i64>> = Vec::new();
    for range in ranges {
        match disjoint.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => disjoint.push(range),
        }
    }
    disjoint
}

/// The entities that a step touches in a view.
fn touched(view: &FeatureView, pending: &Pending, settled: i64) -> Vec<Touched> {
    let ladder = view.ladder();
    let mut all: Vec<Touched> = Vec::new();
    for key in pending.keys_of(view.id) {
        let prefix = &key[..key.len().saturating_sub(PLACE_BYTES)];
        if all.last().is_none_or(|last| last.prefix != prefix) {
            all.push(Touched {
                prefix: prefix.to_vec(),
                is_due: false,
                late: Vec::new(),
            });
        }
        let Some(entity) = all.last_mut() else {
            continue;
        };
        entity.is_due |= xxh3_64(key).is_multiple_of(EVERY);
        if let Some(time) = event_time_us(key).filter(|time| *time < settled) {
            let step = ladder.span(0, time).start_us;
            if entity.late.last() != Some(&step) {
                entity.late.push(step);
            }
        }
    }
    all.retain(|entity| entity.is_due || !entity.late.is_empty());
    all
}

/// Rows of an entity, in order: those of whole steps up to `end`.
struct Read {
    places: Vec<EventPlace>,
    rows: Vec<(i64, Vec<u8>)>,
    end: i64,
}

fn read(
    view: &FeatureView,
    entity: &[u8],
    times: Range<i64>,
    committed: &(dyn Base + Sync),
    pending: &Pending,
) -> Outcome<Read> {
    let ladder = view.ladder();
    let (mut places, mut rows) = (Vec::new(), Vec::new());
    let mut end = times.end;
    let overlay = Overlay { committed, pending };
    let mut step_end = i64::MIN;
    overlay
        .each(view.id, entity, times, false, &mut |place, value| {
            if rows.len() >= MOST_ROWS && place.0 >= step_end {
                end = step_end;
                return false;
            }
            step_end = step_end.max(ladder.span(0, place.0).end_us());
            places.push(place);
            rows.push((place.0, value.to_vec()));
            true
        })
        .map_err(FeatureError::from)?;
    Ok(Read { places, rows, end })
}

fn replace(
    view: &FeatureView,
    entity: &[u8],
    read: Read,
    old: i64,
    committed: &(dyn Base + Sync),
    pending: &mut Pending,
) -> Outcome<()> {
    for total in view.fold(&read.rows, old)? {
        let span = total.span.times();
        if total.span.level > 0 {
            drop_tiles(view, entity, total.span.level, &span, committed, pending)?;
        }
        let first = read.places.partition_point(|(time, _)| *time < span.start);
        let last = read.places.partition_point(|(time, _)| *time < span.end);
        metrics::counter!("millrace_rows_folded_total", "view" => view.name.clone())
            .increment((last - first) as u64);
        pending.replace(view.id, entity, &read.places[first..last], total);
    }
    Ok(())
}

/// Drops the tiles inside a total's span: a look-up that found one there would not look for the total.
fn drop_tiles(
    view: &FeatureView,
    entity: &[u8],
    top: u8,
    span: &Range<i64>,
    committed: &(dyn Base + Sync),
    pending: &mut Pending,
) -> Outcome<()> {
    for level in 0..=top {
        let mut starts = Vec::new();
        let overlay = Overlay { committed, pending };
        overlay
            .tiles(view.id, entity, level, span.clone(), &mut |start, _| {
                starts.push(start);
            })
            .map_err(FeatureError::from)?;
        for start in starts {
            pending.drop_tile(view.id, entity, level, start);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
