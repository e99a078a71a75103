//! What can be asked for by name, and requests whose names were resolved before.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::datatypes::FieldRef;
use metrics::Histogram;
use millrace_features::{FeatureView, Project};
use xxhash_rust::xxh3::xxh3_64;

use super::access::Caller;
use super::handles::Handles;
use super::look_up::check_view;
use super::refusal::{Refusal, Violation};
use crate::files::nearest;
use crate::live::{Filled, Live, Progress};
use crate::workspace::Workspace;

/// Handles that there is room for. Whoever has another one prepares again.
pub(super) const MOST_HANDLES: usize = 10_000;

/// The field of a request that has the names.
const FIELD: &str = "features";

/// Unknown names of one request that are told.
const MOST_UNKNOWN: usize = 10;

/// Bytes of names that are kept with what they stand for.
const MOST_NAME_BYTES: usize = 16 << 20;

/// What lists of names stand for, as far as they were asked for lately. When there are too many, it begins anew: to know
/// which of them were used last would cost each call more than to resolve a few again.
pub(super) struct ByNames<T> {
    most_bytes: usize,
    known: RwLock<Known<T>>,
}

struct Known<T> {
    by_names: HashMap<Vec<String>, Arc<T>>,
    /// Bytes of the names.
    bytes: usize,
}

impl<T> ByNames<T> {
    pub(super) fn new() -> Self {
        Self::of(MOST_NAME_BYTES)
    }

    fn of(most_bytes: usize) -> Self {
        let (by_names, bytes) = (HashMap::new(), 0);
        Self {
            most_bytes,
            known: RwLock::new(Known { by_names, bytes }),
        }
    }

    /// What `names` stand for: resolved where it is not known. A refusal is not kept.
    pub(super) fn get(
        &self,
        names: &[String],
        resolve: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<Arc<T>, Refusal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.by_names.get(names) {
            return Ok(Arc::clone(known));
        }
        drop(known);
        let resolved = Arc::new(resolve()?);
        self.keep(names, Arc::clone(&resolved));
        Ok(resolved)
    }

    fn keep(&self, names: &[String], resolved: Arc<T>) {
        let texts = names.iter().map(|name| size_of::<String>() + name.len());
        let bytes: usize = texts.sum();
        if bytes > self.most_bytes {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.bytes + bytes > self.most_bytes {
            known.by_names.clear();
            known.bytes = 0;
        }
        if known.by_names.insert(names.to_vec(), resolved).is_none() {
            known.bytes += bytes;
        }
    }
}

/// The views of a project by name, and the prepared requests.
pub(super) struct Catalog {
    workspace: Arc<Workspace>,
    progress: Arc<Progress>,
    versions: HashMap<String, String>,
    named: ByNames<Selection>,
    prepared: Handles,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Selection {
    /// In the order in which they were first named.
    pub(super) views: Vec<Selected>,
    /// The columns that name the entities, each once.
    pub(super) keys: Vec<FieldRef>,
}

/// What is asked of one view.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) view: Arc<FeatureView>,
    /// Columns of its answer, in the order asked for.
    pub(super) columns: Vec<usize>,
    /// Where its entity's columns are among the selection's keys.
    pub(super) keys: Vec<usize>,
    /// How long its look-ups take.
    pub(super) seconds: Histogram,
}

impl Selected {
    /// Names of the features, in the order asked for.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let fields = self.view.schema.fields();
        self.columns
            .iter()
            .map(|column| fields[*column].name().as_str())
    }
}

impl Catalog {
    pub(super) fn new(live: &Live) -> Self {
        let views = live.workspace.project.views.iter();
        let versions = views.map(|view| (view.name.clone(), version(view)));
        Self {
            versions: versions.collect(),
            workspace: Arc::clone(&live.workspace),
            progress: Arc::clone(&live.progress),
            named: ByNames::new(),
            prepared: Handles::new(MOST_HANDLES),
        }
    }

    fn project(&self) -> &Project {
        &self.workspace.project
    }

    /// What names a view's definition.
    pub(super) fn version(&self, view: &FeatureView) -> &str {
        self.versions.get(&view.name).map_or("", String::as_str)
    }

    /// As [`resolve`](Self::resolve); names that were asked for lately are known, whoever asked for them.
    ///
    /// # Errors
    /// As there.
    pub(super) fn selection(
        &self,
        names: &[String],
        caller: &Caller,
    ) -> Result<Arc<Selection>, Refusal> {
        self.named.get(names, || self.resolve(names, caller))
    }

    /// Resolves `view`, `view:feature` and names of inputs. Whether the caller may read the views of inputs,
    /// `check_views` says.
    ///
    /// # Errors
    /// No name at all; names that the project does not have, with what the caller may know of others; a view that he
    /// may not read.
    pub(super) fn resolve(&self, names: &[String], caller: &Caller) -> Result<Selection, Refusal> {
        if names.is_empty() {
            let hint =
                "name views or features, as in [\"card_activity\", \"terminal_risk:frauds_28d\"]";
            return Err(Refusal::argument(
                "features",
                format!("none is named: {hint}"),
            ));
        }
        let mut selection = Selection {
            views: Vec::new(),
            keys: Vec::new(),
        };
        let mut unknown = Vec::new();
        for (place, name) in names.iter().enumerate() {
            match self.add(&mut selection, name, caller) {
                Ok(()) => {}
                Err(Refusal::Unknown(names)) => unknown.extend(names.into_iter().map(|name| {
                    // Which of the request's it is, is not known further in.
                    Violation::new(format!("{FIELD}[{place}]"), name.reason)
                })),
                Err(other) => return Err(other),
            }
            if unknown.len() == MOST_UNKNOWN {
                break;
            }
        }
        match unknown.is_empty() {
            true => Ok(selection),
            false => Err(Refusal::Unknown(unknown)),
        }
    }

    fn add(&self, selection: &mut Selection, name: &str, caller: &Caller) -> Result<(), Refusal> {
        let Some((view, feature)) = name.split_once(':') else {
            return self.add_whole(selection, name, caller);
        };
        let view = self.view(view, caller)?;
        let column = feature_column(view, feature)?;
        selection.add(view, &[column]);
        Ok(())
    }

    fn add_whole(
        &self,
        selection: &mut Selection,
        name: &str,
        caller: &Caller,
    ) -> Result<(), Refusal> {
        if let Ok(inputs) = self.project().input_view(name) {
            inputs
                .views()
                .for_each(|view| selection.add(view, &features(view)));
            return Ok(());
        }
        let view = self.view(name, caller)?;
        selection.add(view, &features(view));
        Ok(())
    }

    fn view(&self, name: &str, caller: &Caller) -> Result<&Arc<FeatureView>, Refusal> {
        let found = self.project().view(name);
        let found = found.map_err(|hint| match self.progress.filling().get(name) {
            Some(filled) => Refusal::NotNow(being_filled(name, *filled)),
            None => Refusal::unknown(
                FIELD,
                &format!("there is no feature view '{name}'"),
                &self.readable(name, caller).unwrap_or(hint),
            ),
        })?;
        // Before anything is said of its features.
        check_view(caller, &found.name)?;
        Ok(found)
    }

    /// The hint for who may not read all views: it names none of the others.
    fn readable(&self, name: &str, caller: &Caller) -> Option<String> {
        let views = &self.project().views;
        let readable: Vec<&str> = views
            .iter()
            .map(|view| view.name.as_str())
            .filter(|view| caller.may_read(view))
            .collect();
        if readable.len() == views.len() {
            return None;
        }
        let near = nearest(name, readable.iter().copied());
        Some(match (near, readable.as_slice()) {
            (Some(near), _) => format!("did you mean '{near}'?"),
            (None, []) => "the token may read none".to_owned(),
            (None, names) => format!("the token may read {}", names.join(", ")),
        })
    }

    /// Keeps a selection of a caller under its handle: equal selections of equal views have equal handles, on any
    /// server.
    pub(super) fn prepare(&self, selection: Selection, caller: &Caller) -> (u64, Arc<Selection>) {
        let handle = self.handle(&selection);
        let kept = self.prepared.keep(caller.name(), handle, selection);
        (handle, kept)
    }

    fn handle(&self, selection: &Selection) -> u64 {
        let mut text = String::new();
        for selected in &selection.views {
            text.push_str(self.version(&selected.view));
            for name in selected.names() {
                text.push('\0');
                text.push_str(name);
            }
            text.push('\n');
        }
        xxh3_64(text.as_bytes())
    }

    /// What was prepared under a handle.
    pub(super) fn prepared(&self, handle: u64) -> Option<Arc<Selection>> {
        self.prepared.get(handle)
    }
}

impl Selection {
    fn add(&mut self, view: &Arc<FeatureView>, columns: &[usize]) {
        let place = match self.views.iter().position(|s| s.view.name == view.name) {
            Some(place) => place,
            None => self.add_view(view),
        };
        let selected = &mut self.views[place].columns;
        for column in columns {
            if !selected.contains(column) {
                selected.push(*column);
            }
        }
    }

    fn add_view(&mut self, view: &Arc<FeatureView>) -> usize {
        let fields = view.entity.iter().map(|column| {
            let field = &view.stream.schema.fields()[*column];
            // Two streams may give one name to columns of two types.
            let is_same =
                |key: &FieldRef| key.name() == field.name() && key.data_type() == field.data_type();
            let known = self.keys.iter().position(is_same);
            known.unwrap_or_else(|| {
                self.keys.push(FieldRef::clone(field));
                self.keys.len() - 1
            })
        });
        let keys = fields.collect();
        self.views.push(Selected {
            view: Arc::clone(view),
            columns: Vec::new(),
            keys,
            seconds: metrics::histogram!("millrace_lookup_seconds", "view" => view.name.clone()),
        });
        self.views.len() - 1
    }
}

/// The columns of a view's answer that are not its entity's.
pub(super) fn features(view: &FeatureView) -> Vec<usize> {
    let all = 0..view.schema.fields().len();
    all.filter(|column| !view.entity_outputs.contains(column))
        .collect()
}

fn feature_column(view: &FeatureView, feature: &str) -> Result<usize, Refusal> {
    view.schema.index_of(feature).map_err(|_| {
        let nearest = nearest(feature, view.features());
        let all: Vec<&str> = view.features().collect();
        let hint = nearest.map_or_else(
            || format!("it has {}", all.join(", ")),
            |near| format!("did you mean '{near}'?"),
        );
        let what = format!("view '{}' has no feature '{feature}'", view.name);
        Refusal::unknown(FIELD, &what, &hint)
    })
}

/// What is said of a view of the next project.
fn being_filled(name: &str, filled: Filled) -> String {
    let far = match filled {
        Filled {
            read,
            left: Some(0),
        } => format!("all {read} are read; it waits for the other views"),
        Filled {
            read,
            left: Some(left),
        } => format!("{read} are read, and {left} are left"),
        Filled { read, left: None } => format!("{read} are read"),
    };
    format!(
        "view '{name}' is new, and is not served before its older events are in the store: {far}. Ask again later"
    )
}

fn version(view: &FeatureView) -> String {
    format!("{:016x}", xxh3_64(view.definition().as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_resolved_once_and_take_no_more_than_their_room() {
        let room = 10 * (size_of::<String>() + 3);
        let named = ByNames::of(room);
        let mut count = 0;
        let mut get = |name: &str| {
            let resolve = || {
                count += 1;
                Ok(name.to_owned())
            };
            let got = named.get(&[name.to_owned()], resolve).unwrap();
            assert_eq!(got.as_str(), name);
            count
        };
        assert_eq!(
            [get("aaa"), get("aaa"), get("bbb"), get("aaa")],
            [1, 1, 2, 2]
        );
        for number in 0..100 {
            get(&format!("{number:03}"));
        }
        assert_eq!((get("099"), get("aaa")), (102, 103));
        // What is larger than all of the room is resolved each time.
        let large = "x".repeat(room);
        assert_eq!((get(&large), get(&large)), (104, 105));
        let known = named.known.read().unwrap();
        let texts = known.by_names.keys().flatten().map(String::len);
        let bytes: usize = texts.map(|length| size_of::<String>() + length).sum();
        assert!(bytes == known.bytes && bytes <= room && bytes > 0);
    }
}
