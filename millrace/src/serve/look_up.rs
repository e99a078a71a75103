//! The look-up behind all interfaces: what views say of entities as of a time.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::ArrayRef;
use arrow::datatypes::FieldRef;
use millrace_features::{FeatureView, StateReader, Values, pack_keys};
use millrace_proto::v1::{Column, EntityStatus, ViewStatus};
use prost_types::Timestamp;

use super::access::Caller;
use super::catalog::{Selected, Selection};
use super::columns::read_time;
use super::keys::{key_column, length};
use super::refusal::Refusal;
use crate::files::nearest;
use crate::gone::looks_back_us;
use crate::live::{Live, Miss, StreamProgress};
use crate::settings::micros;
use crate::state::Committed;
use crate::traces;

/// What one view says of some entities.
pub(super) struct ViewAnswer {
    /// The features asked for, one value an entity.
    pub(super) features: Vec<Values>,
    pub(super) statuses: Vec<EntityStatus>,
    pub(super) status: ViewStatus,
    /// Newest event time (µs) of its stream that the answer reflects.
    pub(super) complete_until_us: Option<i64>,
    /// The earliest time (µs) that it can be asked about.
    pub(super) answers_since_us: Option<i64>,
}

/// What all views of a selection say of the entities in `keys` (one column a key of the selection) as of one time,
/// from one moment of the store.
///
/// # Errors
/// A time before a view's horizon, a store that fails.
pub(super) fn look_up(
    live: &Live,
    selection: &Selection,
    keys: &[ArrayRef],
    as_of_us: i64,
) -> Result<Vec<ViewAnswer>, Refusal> {
    live.progress.asked();
    let mut step = traces::step("look-up");
    let entities = keys.first().map_or(0, |column| column.len());
    step.note("millrace.entities", entities as i64);
    let views = selection.views.iter();
    let asked = views.map(|selected| Asked::of(live, selected, as_of_us));
    let asked = asked.collect::<Result<Vec<_>, _>>()?;
    let moment = live.store.moment();
    let state = Committed(moment.as_ref());
    asked
        .iter()
        .map(|asked| asked.answer(&state, keys))
        .collect()
}

/// What is asked of one view.
struct Asked<'a> {
    live: &'a Live,
    selected: &'a Selected,
    as_of_us: i64,
    /// As of when no event of its windows has expired, µs; none where none has at all.
    kept_since_us: Option<i64>,
    /// Whether Kafka was in touch, as of before `reflected`: what it said last is in that.
    is_in_touch: bool,
    /// How far its stream was before the state was read: the answer reflects at least this much.
    reflected: StreamProgress,
}

impl<'a> Asked<'a> {
    /// # Errors
    /// A time before the view's horizon, or within a step.
    fn of(live: &'a Live, selected: &'a Selected, as_of_us: i64) -> Result<Self, Refusal> {
        let view = &selected.view;
        let kept_since_us = kept_since_us(live, view);
        check_kept(kept_since_us, view, &"as_of", as_of_us)?;
        check_step(live, view, &"as_of", as_of_us)?;
        Ok(Self {
            live,
            selected,
            as_of_us,
            kept_since_us,
            is_in_touch: live.progress.is_in_touch(),
            reflected: live.progress.stream(&view.stream.name),
        })
    }

    fn answer(&self, state: &dyn StateReader, keys: &[ArrayRef]) -> Result<ViewAnswer, Refusal> {
        let started = Instant::now();
        let view = &self.selected.view;
        let own: Vec<ArrayRef> = self
            .selected
            .keys
            .iter()
            .map(|key| ArrayRef::clone(&keys[*key]))
            .collect();
        let rows = own.first().map_or(0, |column| column.len());
        let times = vec![self.as_of_us; rows];
        let mut misses = Vec::new();
        let mut answer = view.look_up(state, &own, &times, &mut |tile| {
            if self
                .reflected
                .newest_us
                .is_some_and(|until| tile.span.end_us() <= until)
            {
                misses.push(tile.entity);
            }
        })?;
        if answer.is_rounded {
            // The step was settled between the check and the read.
            return Err(between_steps(view, &"as_of", self.as_of_us));
        }
        self.note_misses(&own, misses);
        let statuses = self.statuses(state, &own, &answer.is_present)?;
        let columns = self.selected.columns.iter();
        // Each stands there once.
        let features = columns.map(|column| std::mem::take(&mut answer.features[*column]));
        let answer = ViewAnswer {
            features: features.collect(),
            statuses,
            status: self.status(),
            complete_until_us: self.reflected.newest_us,
            answers_since_us: self.answers_since_us(),
        };
        self.selected.seconds.record(started.elapsed());
        Ok(answer)
    }

    /// The earliest time (µs) as of which the view has all events of its windows; none where nothing has expired and
    /// nothing was missing.
    fn answers_since_us(&self) -> Option<i64> {
        let view = &self.selected.view;
        let since = self.live.progress.complete_since(view.id);
        // What a window that time does not bound lacked, it lacks for ever.
        let reach = || view.reach_us().unwrap_or(0);
        let complete = since.map(|since| since.saturating_add(reach()));
        self.kept_since_us.into_iter().chain(complete).max()
    }

    fn status(&self) -> ViewStatus {
        match self.reflected.newest_us {
            None => ViewStatus::Empty,
            Some(_) if self.reflected.lag > 0 => ViewStatus::Behind,
            Some(_) if self.reflected.is_partial() => ViewStatus::Stale,
            Some(_) if !self.is_in_touch => ViewStatus::Stale,
            Some(_) => ViewStatus::Current,
        }
    }

    /// Of an entity without events in the windows, whether there are older ones.
    fn statuses(
        &self,
        state: &dyn StateReader,
        keys: &[ArrayRef],
        is_present: &[bool],
    ) -> Result<Vec<EntityStatus>, Refusal> {
        if !is_present.contains(&false) {
            return Ok(vec![EntityStatus::Present; is_present.len()]);
        }
        let packed = pack_keys(keys);
        let status = |(entity, is_present): (&Vec<u8>, &bool)| {
            if *is_present {
                return Ok(EntityStatus::Present);
            }
            state.go_on()?;
            // From the oldest on: of an entity with few events, what is read so stays in memory.
            let (id, before) = (self.selected.view.id, i64::MIN..self.as_of_us);
            let mut is_known = false;
            state.scan(id, entity, before, &mut |_, _| {
                is_known = true;
                false
            })?;
            Ok(match is_known {
                true => EntityStatus::OutOfWindow,
                false => EntityStatus::Unknown,
            })
        };
        packed.iter().zip(is_present).map(status).collect()
    }

    /// Asks for the tiles that would have spared this look-up work.
    fn note_misses(&self, keys: &[ArrayRef], mut entities: Vec<Vec<u8>>) {
        if entities.is_empty() {
            return;
        }
        entities.dedup();
        for (row, packed) in pack_keys(keys).iter().enumerate() {
            if entities.contains(packed) {
                self.live.misses.note(Miss {
                    view: Arc::clone(&self.selected.view),
                    entity: keys.iter().map(|column| column.slice(row, 1)).collect(),
                    as_of_us: self.as_of_us,
                });
            }
        }
    }
}

/// The earliest time (µs) as of which no event of a view's windows has expired; none where nothing has.
fn kept_since_us(live: &Live, view: &FeatureView) -> Option<i64> {
    // A window that time does not bound keeps its events for ever. With a resolution it keeps them in sum.
    let back = looks_back_us(view)?;
    let now = match view.reach_us() {
        Some(_) => live.store.horizons().view(view.id),
        None => live.progress.newest(&view.stream.name).map(|newest| {
            let history = micros(live.workspace.settings.store.history);
            newest.saturating_sub(history).saturating_sub(back)
        }),
    };
    // A longer history than before brings nothing back.
    let gone = live.progress.gone_before(view.id).max(now)?;
    Some(gone.saturating_add(back))
}

/// Refuses a time as of which a view's oldest events may have expired. `field` is where the caller gave it. Where
/// events were missing from the start there is no better answer to come: it is given, and says since when it is
/// complete.
pub(super) fn check_time(
    live: &Live,
    view: &FeatureView,
    field: &dyn Display,
    asked_us: i64,
) -> Result<(), Refusal> {
    check_kept(kept_since_us(live, view), view, field, asked_us)?;
    check_step(live, view, field, asked_us)
}

/// Refuses a time before the earliest as of which no event has expired.
fn check_kept(
    kept_since_us: Option<i64>,
    view: &FeatureView,
    field: &dyn Display,
    asked_us: i64,
) -> Result<(), Refusal> {
    match kept_since_us {
        Some(earliest_us) if asked_us < earliest_us => Err(Refusal::TooEarly {
            field: field.to_string(),
            view: view.name.clone(),
            asked_us,
            earliest_us,
            others: Vec::new(),
        }),
        _ => Ok(()),
    }
}

/// Refuses a time inside a step whose events may be known in sum alone.
pub(super) fn check_step(
    live: &Live,
    view: &FeatureView,
    field: &dyn Display,
    asked_us: i64,
) -> Result<(), Refusal> {
    let Some(resolution) = view.resolution() else {
        return Ok(());
    };
    let Some(newest) = live.progress.newest(&view.stream.name) else {
        return Ok(());
    };
    let settled = resolution.step_start(newest.saturating_sub(resolution.late_us));
    match asked_us < settled && resolution.step_start(asked_us) != asked_us {
        true => Err(between_steps(view, field, asked_us)),
        false => Ok(()),
    }
}

fn between_steps(view: &FeatureView, field: &dyn Display, asked_us: i64) -> Refusal {
    let step = view.resolution();
    Refusal::BetweenSteps {
        field: field.to_string(),
        view: view.name.clone(),
        asked_us,
        step_start_us: step.map_or(asked_us, |step| step.step_start(asked_us)),
    }
}

/// Refuses views that the caller may not read.
pub(super) fn check_views(caller: &Caller, selection: &Selection) -> Result<(), Refusal> {
    let mut views = selection.views.iter();
    views.try_for_each(|selected| check_view(caller, &selected.view.name))
}

/// Refuses a view that the caller may not read.
pub(super) fn check_view(caller: &Caller, name: &str) -> Result<(), Refusal> {
    match caller.may_read(name) {
        true => Ok(()),
        false => Err(Refusal::Forbidden(format!(
            "'{}' may not read view '{name}': the scope features:{name} is missing",
            caller.name(),
        ))),
    }
}

/// A time of a request (µs), or the server's now.
pub(super) fn asked_time(as_of: Option<&Timestamp>, now_us: i64) -> Result<i64, Refusal> {
    let Some(time) = as_of else { return Ok(now_us) };
    read_time(time).map_err(|reason| Refusal::argument("as_of", reason))
}

/// A request's keys as columns, one a key of the selection, in its order.
///
/// # Errors
/// A column that is missing, too much, longer or shorter than the others, null, or of another type.
pub(super) fn key_columns(
    selection: &Selection,
    keys: &HashMap<String, Column>,
) -> Result<Vec<ArrayRef>, Refusal> {
    check_names(selection, keys)?;
    let path = |name: &str| format!("keys[{name:?}]");
    // All of them are there.
    let columns = selection.keys.iter();
    let columns = columns.filter_map(|field| Some((field, keys.get(field.name())?)));
    let columns: Vec<(&FieldRef, &Column)> = columns.collect();
    let mut rows: Option<(&str, usize)> = None;
    for (field, column) in &columns {
        let length = length(format_args!("keys[{:?}]", field.name()), column)?;
        match rows {
            Some((first, expected)) if length != expected => {
                let reason = format!("it has {length} values, and keys[{first:?}] has {expected}");
                return Err(Refusal::argument(path(field.name()), reason));
            }
            _ => rows = Some((field.name(), length)),
        }
    }
    let rows = rows.map_or(0, |(_, rows)| rows);
    columns
        .into_iter()
        .map(|(field, column)| {
            let path = format_args!("keys[{:?}]", field.name());
            key_column(path, field, column, rows)
        })
        .collect()
}

fn check_names(selection: &Selection, keys: &HashMap<String, Column>) -> Result<(), Refusal> {
    let names = || selection.keys.iter().map(|field| field.name().as_str());
    // The alphabet's first, so that the same mistake gives the same message.
    let extra = keys
        .keys()
        .filter(|name| !names().any(|known| known == name.as_str()))
        .min();
    if let Some(missing) = names().find(|name| !keys.contains_key(*name)) {
        let views = selection.views.iter();
        let asks = views.filter(|s| s.view.entity_columns().any(|column| column == missing));
        let asking: Vec<&str> = asks.map(|s| s.view.name.as_str()).collect();
        let given = extra.map_or(String::new(), |extra| format!(", and not by '{extra}'"));
        let verb = if asking.len() == 1 { "is" } else { "are" };
        let reason = format!(
            "'{missing}' is missing: {} {verb} asked for by it{given}",
            asking.join(" and ")
        );
        return Err(Refusal::argument("keys", reason));
    }
    match extra {
        None => Ok(()),
        Some(extra) => {
            let all: Vec<&str> = names().collect();
            let hint = nearest(extra, names());
            let hint = hint.map_or(String::new(), |near| format!("; did you mean '{near}'?"));
            let reason = format!(
                "'{extra}' names no entity here: what is asked for goes by {}{hint}",
                all.join(" and ")
            );
            Err(Refusal::argument("keys", reason))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::serve::catalog::Catalog;
    use crate::serve::tests::live;

    /// The lag that was read before is of a time when nobody knew it.
    #[test]
    fn what_kafka_says_while_a_look_up_is_under_way_does_not_make_it_current() {
        let live = live();
        let caller = Caller::new("x".to_owned(), vec!["features".parse().unwrap()]);
        let names = ["card_activity".to_owned()];
        let selection = Catalog::new(&live).resolve(&names, &caller).unwrap();
        live.progress.reflect("transactions", 1);
        let status = || Asked::of(&live, &selection.views[0], 2).unwrap().status();
        let before = Asked::of(&live, &selection.views[0], 2).unwrap();
        live.progress.set_lag("transactions", 5);
        live.progress.hear(Instant::now());
        assert_eq!(before.status(), ViewStatus::Stale);
        assert_eq!(status(), ViewStatus::Behind);
        live.progress.set_lag("transactions", 0);
        assert_eq!(status(), ViewStatus::Current);
    }
}
