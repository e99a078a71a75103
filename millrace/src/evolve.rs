//! How a store follows the views of its project while both are in use.
//!
//! The store's records say which project it serves, as text, and which views it has rows of, from when on. A project
//! whose views all have their rows is served at once. Otherwise the project before it goes on being served, new
//! events are written for the views of both, and [`Filler`](crate::fill::Filler) reads the older events for the views
//! that are new. When those have caught up, the new project takes over ([`finish`]), and the rows of views that it
//! does not have are dropped.
//!
//! A view whose rows would be the same keeps them: another aggregate over columns that are kept already, or a shorter
//! window, costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use millrace_feature_store::{Commit, Store, Table, decode, encode, view_range};
use millrace_features::{FeatureView, SqlFile, Stream};
use millrace_ingest::{ReplayRange, Step, StreamBatch};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::deletes::index_of;
use crate::failure::{Failure, Outcome};
use crate::gone;
use crate::live::Progress;
use crate::registry::Place;
use crate::workspace::{ProjectSql, Workspace};

const SERVED: &[u8] = b"project";

/// Where the models of the project that is served lie, as its setting has it.
const REGISTRY: &[u8] = b"project-registry";
const VIEWS: &str = "view/";
const VIEWS_END: &[u8] = b"view0";

/// Since when a view has all of its events, as the pipeline found out: apart from its [`ViewRecord`], which a
/// [`Filler`](crate::fill::Filler) writes beside it.
const LACKS: &str = "lacks/";

/// The project that a store serves, as text.
#[derive(Debug, Serialize, Deserialize)]
struct Served {
    /// Path and text of `sources.sql`.
    sources: (String, String),
    /// Path and text of each file in `features/`.
    views: Vec<(String, String)>,
    inputs: Option<(String, String)>,
    /// The view of the model's inputs, and its label.
    model: Option<(String, String)>,
}

/// What a store has of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewRecord {
    /// Its name, for people.
    pub name: String,
    /// How far back rows were wanted, µs; none: all.
    pub reach_us: Option<i64>,
    /// Events before this time (µs) were not there to be read when it was filled; none: all were that Kafka or a file
    /// has had.
    pub since_us: Option<i64>,
    /// Whether its rows are all there.
    pub state: RowsState,
}

/// Whether the rows of a view are all there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowsState {
    /// They are, and those of new events are written.
    Complete,
    /// Those of new events are written, those of the events in these parts of its topic are not yet.
    Filling(Vec<Part>),
    /// Those of new events are not written any more.
    Abandoned,
}

/// A part of a partition that is still to be read for a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The partition of the view's topic.
    pub partition: i32,
    /// The next offset; none: the partition's first.
    pub next: Option<i64>,
    /// The offset after the last: from there on, events come as they come for every view.
    pub until: i64,
}

impl Part {
    /// What to read.
    #[must_use]
    pub fn range(&self) -> ReplayRange {
        ReplayRange {
            partition: self.partition,
            from: self.next,
            until: self.until,
        }
    }
}

impl ViewRecord {
    fn key(id: u32) -> String {
        format!("{VIEWS}{id:08x}")
    }

    /// What a store has of a view; none for one that it does not know.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn read(store: &dyn Store, id: u32) -> Outcome<Option<Self>> {
        let record = store.get(Table::Meta, Self::key(id).as_bytes())?;
        Ok(record.map(|bytes| decode(&bytes)).transpose()?)
    }

    /// All views of which a store has rows, by id.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn all(store: &dyn Store) -> Outcome<BTreeMap<u32, Self>> {
        let mut found = Vec::new();
        store.scan(
            Table::Meta,
            VIEWS.as_bytes(),
            VIEWS_END,
            false,
            &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            },
        )?;
        let mut all = BTreeMap::new();
        for (key, value) in found {
            let id = key
                .get(VIEWS.len()..)
                .and_then(|id| u32::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok());
            if let Some(id) = id {
                all.insert(id, decode(&value)?);
            }
        }
        Ok(all)
    }

    /// Makes the record part of a commit.
    ///
    /// # Errors
    /// A record that cannot be encoded.
    pub fn write(&self, id: u32, commit: &mut Commit) -> Outcome<()> {
        commit.put(Table::Meta, Self::key(id), encode(self)?);
        Ok(())
    }

    /// Makes part of a commit that a view lacks events before a time (µs).
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn lacks(store: &dyn Store, id: u32, time_us: i64, commit: &mut Commit) -> Outcome<()> {
        let known = Self::lacks_before(store, id)?;
        let time_us = known.map_or(time_us, |known| known.max(time_us));
        commit.put(Table::Meta, format!("{LACKS}{id:08x}"), encode(&time_us)?);
        Ok(())
    }

    fn lacks_before(store: &dyn Store, id: u32) -> Outcome<Option<i64>> {
        let known = store.get(Table::Meta, format!("{LACKS}{id:08x}").as_bytes())?;
        Ok(known.map(|bytes| decode(&bytes)).transpose()?)
    }

    /// Makes part of a commit that nothing is known of a view.
    fn delete(id: u32, commit: &mut Commit) {
        commit.delete(Table::Meta, Self::key(id));
        commit.delete(Table::Meta, format!("{LACKS}{id:08x}"));
    }

    fn complete(view: &FeatureView) -> Self {
        Self {
            name: view.name.clone(),
            reach_us: view.reach_us(),
            since_us: None,
            state: RowsState::Complete,
        }
    }

    /// Whether it has the rows that `view` wants.
    fn covers(&self, view: &FeatureView) -> bool {
        self.state == RowsState::Complete && reaches(self.reach_us, view.reach_us())
    }
}

/// Whether rows that are kept for so long (µs) are enough where they are wanted for so long; none: for ever.
fn reaches(has: Option<i64>, wanted: Option<i64>) -> bool {
    match (has, wanted) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(has), Some(wanted)) => has >= wanted,
    }
}

impl Served {
    fn of(workspace: &Workspace) -> Self {
        let file = |file: &SqlFile| (file.path.clone(), file.text.clone());
        let model = workspace.model.as_ref();
        Self {
            sources: file(&workspace.sql.sources),
            views: workspace.sql.views.iter().map(file).collect(),
            inputs: workspace.sql.inputs.as_ref().map(file),
            model: model.map(|m| (m.settings.inputs.clone(), m.settings.label.clone())),
        }
    }

    fn read(store: &dyn Store) -> Outcome<Option<Self>> {
        let bytes = store.get(Table::Meta, SERVED)?;
        Ok(bytes.map(|bytes| decode(&bytes)).transpose()?)
    }

    fn write(&self, commit: &mut Commit) -> Outcome<()> {
        commit.put(Table::Meta, SERVED, encode(self)?);
        Ok(())
    }

    /// Plans it, with the settings of the project that follows it, but for where its models lie.
    fn plan(&self, next: &Workspace, store: &dyn Store) -> Outcome<Workspace> {
        let file = |(path, text): &(String, String)| SqlFile {
            path: path.clone(),
            text: text.clone(),
        };
        let sql = ProjectSql {
            sources: file(&self.sources),
            views: self.views.iter().map(file).collect(),
            inputs: self.inputs.as_ref().map(file),
        };
        let mut settings = next.settings.clone();
        let registry = store.get(Table::Meta, REGISTRY)?;
        let registry =
            registry.and_then(|text| Place::try_from(String::from_utf8(text).ok()?).ok());
        settings.model = match (settings.model, &self.model) {
            (Some(model), Some((inputs, label))) => Some(crate::settings::ModelSettings {
                inputs: inputs.clone(),
                label: label.clone(),
                registry: registry.unwrap_or_else(|| model.registry.clone()),
                ..model
            }),
            _ => None,
        };
        Workspace::plan(&next.folder, settings, sql)
    }
}

/// Notes that a project is served.
fn serve(workspace: &Workspace, commit: &mut Commit) -> Outcome<()> {
    if let Some(model) = &workspace.model {
        let registry = model.settings.registry.to_string();
        commit.put(Table::Meta, REGISTRY, registry);
    }
    Served::of(workspace).write(commit)
}

/// A project that is served while the views of the next one are filled.
#[derive(Debug, Clone)]
pub struct Transition {
    /// What is served meanwhile.
    pub served: Arc<Workspace>,
    /// What is served then.
    pub next: Arc<Workspace>,
    /// The views of `next` that `served` lacks, or wants fewer rows of.
    pub views: Vec<Arc<FeatureView>>,
    /// Held from looking up what an event's id has until that is changed, by all who write.
    pub writing: Arc<Mutex<()>>,
}

impl Transition {
    /// Names that are not served yet.
    pub fn new_names(&self) -> impl Iterator<Item = String> {
        let is_served = |name: &str| self.served.project.views.iter().any(|v| v.name == name);
        let names = self.views.iter().map(|view| view.name.clone());
        names.filter(move |name| !is_served(name))
    }

    /// Whether a view is asked while its rows are put: the served project has it too.
    #[must_use]
    pub fn serves(&self, view: &FeatureView) -> bool {
        let mut views = self.served.project.views.iter();
        views.any(|served| served.id == view.id)
    }
}

/// Refuses a store that another project has filled.
///
/// # Errors
/// Of kind input: no stream of what the store serves is one of the project's. A store that cannot be read.
pub fn check_project(store: &dyn Store, workspace: &Workspace) -> Outcome<()> {
    let Some(served) = Served::read(store)? else {
        return Ok(());
    };
    let Ok(served) = served.plan(workspace, store) else {
        // An older release's; its rows are found by their views' ids, or not at all.
        return Ok(());
    };
    let streams = &workspace.project.streams;
    let is_shared = |old: &Arc<Stream>| {
        let same = |new: &&Arc<Stream>| new.name == old.name && new.topic == old.topic;
        streams.iter().any(|new| same(&new))
    };
    let old = &served.project.streams;
    if old.is_empty() || old.iter().any(is_shared) {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{} is the store of another project, with the {}; this one has the {}",
        workspace.path(&workspace.settings.store.path).display(),
        named(old),
        named(streams)
    ))
    .hint("give store.path in millrace.toml a folder of this project's own"))
}

/// Streams with their topics: `streams tx (topic transactions), labels (topic labels)`.
fn named(streams: &[Arc<Stream>]) -> String {
    let of = |stream: &Arc<Stream>| format!("{} (topic {})", stream.name, stream.topic);
    let all: Vec<String> = streams.iter().map(of).collect();
    let what = if all.len() == 1 { "stream" } else { "streams" };
    format!("{what} {}", all.join(", "))
}

/// Notes what a project asks of its store: none where it is served at once, otherwise what is served until its new
/// views have caught up.
///
/// # Errors
/// A store that cannot be read or written.
pub fn begin(store: &dyn Store, next: &Arc<Workspace>) -> Outcome<Option<Transition>> {
    let views = &next.project.views;
    let Some(served) = Served::read(store)? else {
        // A new store, or one of format 1, which no other views could fill.
        let mut commit = Commit::default();
        for view in views {
            ViewRecord::complete(view).write(view.id, &mut commit)?;
        }
        serve(next, &mut commit)?;
        store.commit(commit)?;
        return Ok(None);
    };
    let records = ViewRecord::all(store)?;
    let lacks = |view: &&Arc<FeatureView>| {
        let record = records.get(&view.id);
        !record.is_some_and(|record| record.covers(view))
    };
    let missing: Vec<&Arc<FeatureView>> = views.iter().filter(lacks).collect();
    if missing.is_empty() {
        finish(store, next)?;
        return Ok(None);
    }
    let old = served.plan(next, store).and_then(|old| readable(old, next));
    let offsets = store.offsets()?;
    let mut commit = Commit::default();
    abandon(&records, &mut commit, |id| {
        let has = |project: &Workspace| project.project.views.iter().any(|view| view.id == id);
        has(next) || old.as_ref().is_ok_and(has)
    })?;
    for view in &missing {
        let is_under_way = |known: &ViewRecord| {
            matches!(known.state, RowsState::Filling(_)) && known.reach_us == view.reach_us()
        };
        let mut known = records.get(&view.id);
        if known.is_some_and(is_under_way) {
            continue;
        }
        if known.is_some_and(|known| known.state == RowsState::Abandoned) {
            // Rows of before may be totals, and what is read for a second time would count beside them.
            remove_rows(store, view.id)?;
            known = None;
        }
        // It may be served meanwhile, and says until then what it lacks.
        let since_us = match known {
            Some(known) => known
                .since_us
                .max(ViewRecord::lacks_before(store, view.id)?),
            None => None,
        };
        ViewRecord::delete(view.id, &mut commit);
        match known {
            Some(_) => gone::forget_filling(view.id, &mut commit),
            None => gone::forget(view.id, &mut commit),
        }
        let of_topic = offsets.iter().filter(|o| o.topic == view.stream.topic);
        let parts = of_topic.map(|offset| Part {
            partition: offset.partition,
            next: None,
            until: offset.next,
        });
        let record = ViewRecord {
            state: RowsState::Filling(parts.collect()),
            since_us,
            ..ViewRecord::complete(view)
        };
        record.write(view.id, &mut commit)?;
    }
    store.commit(commit)?;
    // What events are written for from now on must be known after a crash.
    store.flush()?;
    let names: Vec<&str> = missing.iter().map(|view| view.name.as_str()).collect();
    let names = names.join(", ");
    let served = match old {
        Ok(old) => {
            info!(
                views = names,
                "the views are new or have changed: the project before them is served until they have caught up"
            );
            Arc::new(old)
        }
        Err(failure) => {
            warn!(
                failure = failure.message,
                hint = failure.hint,
                views = names,
                "the project that was served before cannot be served any more: the views answer at \
                 once, from what has been read for them so far"
            );
            Arc::clone(next)
        }
    };
    // One that has caught up before others wants its rows for longer than the one that is served until they have.
    let serves = |view: &FeatureView| {
        let mut views = served.project.views.iter();
        views.any(|old| old.id == view.id && reaches(old.reach_us(), view.reach_us()))
    };
    let is_new = |view: &&Arc<FeatureView>| lacks(view) || !serves(view);
    let views = views.iter().filter(is_new).cloned().collect();
    Ok(Some(Transition {
        served,
        next: Arc::clone(next),
        views,
        writing: Arc::default(),
    }))
}

/// Notes that no rows are written any more for the views that are not `used`.
fn abandon(
    records: &BTreeMap<u32, ViewRecord>,
    commit: &mut Commit,
    used: impl Fn(u32) -> bool,
) -> Outcome<()> {
    for (id, record) in records.iter().filter(|(id, _)| !used(**id)) {
        let state = RowsState::Abandoned;
        let record = record.clone();
        ViewRecord { state, ..record }.write(*id, commit)?;
    }
    Ok(())
}

/// A project whose streams can be read as the next one declares them.
fn readable(old: Workspace, next: &Workspace) -> Outcome<Workspace> {
    for stream in &old.project.streams {
        if let Some(new) = next.project.streams.iter().find(|s| s.name == stream.name) {
            let name = |stream: &Stream, column: usize| stream.schema.field(column).name().clone();
            let id = |stream: &Stream| stream.id.map(|id| name(stream, id));
            if new.topic != stream.topic
                || name(new, new.time) != name(stream, stream.time)
                || id(new) != id(stream)
            {
                return Err(Failure::failed(format!(
                    "stream '{}' has another topic, id or event time",
                    stream.name
                )));
            }
            columns_in(stream, new)?;
        }
    }
    Ok(old)
}

/// Where the columns of a stream are in a later declaration of it.
fn columns_in(old: &Stream, new: &Stream) -> Outcome<Vec<usize>> {
    let place = |field: &arrow::datatypes::FieldRef| {
        let (place, found) = new.schema.column_with_name(field.name())?;
        (found.data_type() == field.data_type()).then_some(place)
    };
    let find = |field| {
        place(field).ok_or_else(|| {
            Failure::failed(format!(
                "stream '{}' no longer has the column {} {}",
                old.name,
                field.name(),
                field.data_type()
            ))
        })
    };
    old.schema.fields().iter().map(find).collect()
}

/// Serves a project whose views have all caught up: notes it. [`drop_unused`] frees the space of those that it lacks.
///
/// # Errors
/// A store that cannot be written.
pub fn finish(store: &dyn Store, workspace: &Workspace) -> Outcome<()> {
    let mut commit = Commit::default();
    serve(workspace, &mut commit)?;
    let records = ViewRecord::all(store)?;
    let views = &workspace.project.views;
    abandon(&records, &mut commit, |id| {
        views.iter().any(|view| view.id == id)
    })?;
    for view in views {
        // Rows that only a longer reach wanted go from now on.
        if let Some(record) = records.get(&view.id) {
            let reach_us = view.reach_us();
            let record = record.clone();
            ViewRecord { reach_us, ..record }.write(view.id, &mut commit)?;
        }
    }
    store.commit(commit)?;
    crash_point!("switched");
    Ok(store.flush()?)
}

/// Drops the rows of views that the project does not have, and indexes that were wanted while views were filled.
///
/// # Errors
/// A store that cannot be read or written.
pub fn drop_unused(store: &dyn Store, workspace: &Workspace) -> Outcome<()> {
    let used: BTreeSet<u32> = workspace.project.views.iter().map(|view| view.id).collect();
    for (id, record) in ViewRecord::all(store)? {
        if used.contains(&id) {
            continue;
        }
        remove_rows(store, id)?;
        for dropped in [id, index_of(id)] {
            store.compact_view(dropped)?;
        }
        let mut commit = Commit::default();
        ViewRecord::delete(id, &mut commit);
        gone::forget(id, &mut commit);
        store.commit(commit)?;
        info!(
            view = record.name,
            "the rows of a view that is gone were dropped"
        );
    }
    // An index that was wanted while a view was filled, and for deletes is not.
    let filled = workspace.project.views.iter();
    for view in filled.filter(|view| !view.stream.is_keyed_by_id()) {
        let index = index_of(view.id);
        if has_rows(store, index)? {
            store.remove_view(index)?;
            store.flush()?;
            store.compact_view(index)?;
        }
    }
    Ok(())
}

/// Drops all that a view has. Its record changes after that: a crash in between drops it again.
fn remove_rows(store: &dyn Store, view: u32) -> Outcome<()> {
    store.remove_view(view)?;
    store.remove_view(index_of(view))?;
    crash_point!("removed");
    store.flush()?;
    Ok(())
}

fn has_rows(store: &dyn Store, view: u32) -> Outcome<bool> {
    let (from, to) = view_range(view);
    let mut has = false;
    store.scan(Table::Events, &from, &to, false, &mut |_, _| {
        has = true;
        ControlFlow::Break(())
    })?;
    Ok(has)
}

/// Tells look-ups since when each view has all of its events.
///
/// # Errors
/// A store that cannot be read.
pub fn note_completeness(store: &dyn Store, progress: &Progress) -> Outcome<()> {
    let mut all = Vec::new();
    for (id, record) in ViewRecord::all(store)? {
        let since = record.since_us.max(ViewRecord::lacks_before(store, id)?);
        all.extend(since.map(|since| (id, since)));
    }
    progress.set_complete_since(all.into_iter().collect());
    Ok(())
}

/// How steps are read during a [`Transition`]: with the columns that the next project declares, for the views of both.
#[derive(Debug)]
pub struct Reading {
    /// The streams as they are read: first those of the served project, in its order.
    pub streams: Vec<Arc<Stream>>,
    /// The views whose rows the served project does not write.
    pub views: Vec<Arc<FeatureView>>,
    /// The views of the next project that want the rows of a served one for longer, or anew. They are asked while rows are
    /// put between theirs, so that no sum of them may be kept.
    pub wider: Vec<Arc<FeatureView>>,
    /// For each stream of the served project, where its columns are in what is read.
    columns: Vec<Vec<usize>>,
    /// As in the [`Transition`].
    pub writing: Arc<Mutex<()>>,
}

impl Reading {
    /// How the steps of a transition are read.
    ///
    /// # Errors
    /// Never for a transition that [`begin`] has made.
    pub fn new(transition: &Transition) -> Outcome<Self> {
        let served = &transition.served.project.streams;
        let next = &transition.next.project.streams;
        let read = |old: &Arc<Stream>| {
            let new = next.iter().find(|new| new.name == old.name);
            Arc::clone(new.unwrap_or(old))
        };
        let mut streams: Vec<Arc<Stream>> = served.iter().map(read).collect();
        let columns = served.iter().zip(&streams);
        let columns = columns
            .map(|(old, new)| columns_in(old, new))
            .collect::<Outcome<_>>()?;
        for new in next {
            if !streams.iter().any(|stream| stream.name == new.name) {
                streams.push(Arc::clone(new));
            }
        }
        let views = transition.views.iter().cloned();
        let (wider, views) = views.partition(|view| transition.serves(view));
        Ok(Self {
            streams,
            views,
            wider,
            columns,
            writing: Arc::clone(&transition.writing),
        })
    }

    /// A step as the served project reads it.
    ///
    /// # Errors
    /// A batch that is not of its stream.
    pub fn served(&self, step: &Step) -> Outcome<Step> {
        let of = |batch: &StreamBatch| -> Option<Outcome<StreamBatch>> {
            let columns = self.columns.get(batch.stream)?;
            let project = |rows: &RecordBatch| {
                rows.project(columns)
                    .map_err(|e| Failure::failed(e.to_string()))
            };
            Some(project(&batch.batch).map(|rows| StreamBatch {
                batch: rows,
                ..batch.clone()
            }))
        };
        let batches = step.batches.iter().filter_map(of);
        Ok(Step {
            batches: batches.collect::<Outcome<_>>()?,
            ..step.clone()
        })
    }
}

#[cfg(test)]
mod tests;
