//! What can be asked for by name, and requests whose names were resolved before.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use metrics::Histogram;
use millrace_features::{FeatureView, Project};
use moka::sync::Cache;
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
const MOST_NAME_BYTES: u64 = 16 << 20;

/// What lists of names stand for, as far as they were asked for lately.
pub(super) struct ByNames<T>(Cache<Vec<String>, Arc<T>>);

impl<T: Send + Sync + 'static> ByNames<T> {
    pub(super) fn new() -> Self {
        let bytes = |names: &Vec<String>, _: &Arc<T>| {
            let texts: usize = names
                .iter()
                .map(|name| size_of::<String>() + name.len())
                .sum();
            u32::try_from(texts).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(MOST_NAME_BYTES);
        Self(cache.weigher(bytes).build())
    }

    /// What `names` stand for: resolved where it is not known. A refusal is not kept.
    pub(super) fn get(
        &self,
        names: &[String],
        resolve: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<Arc<T>, Refusal> {
        if let Some(known) = self.0.get(names) {
            return Ok(known);
        }
        let resolved = Arc::new(resolve()?);
        self.0.insert(names.to_vec(), Arc::clone(&resolved));
        Ok(resolved)
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
