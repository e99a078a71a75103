//! `millrace models`: the registry's versions, and which of them takes the traffic. It reads and
//! writes the folder, so it works without a server; a running one follows within a second.

use std::fs;
use std::path::{Path, PathBuf};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use millrace_learner::{Aliases, Entry, Event, Registry, State, to_onnx};
use serde_json::{Value as Json, json};

use crate::failure::{Failure, Outcome};
use crate::labels::examples_after;
use crate::output::print;
use crate::registry::Place;
use crate::serve::{Version, versions};
use crate::settings::ModelSettings;
use crate::times::rfc3339;
use crate::traffic::{no_such, promote, roll_back, set_share};
use crate::workspace::{ModelPlan, Workspace};

/// Prints the versions in a registry: as a table for people, newest first, at most `limit` of them or
/// 20; or as a JSON array, oldest first, of all or the newest `limit`. A folder that is not there is a
/// registry without versions; `none` says why there are none.
///
/// # Errors
/// A registry that cannot be read.
pub fn models_list(
    registry: &Place,
    json: bool,
    limit: Option<usize>,
    none: impl FnOnce() -> String,
) -> Outcome<()> {
    let versions = match registry.open_existing()? {
        Some(registry) => versions(&registry)?,
        None => Vec::new(),
    };
    let text = match (json, versions.as_slice()) {
        (true, versions) => {
            let first = versions.len() - limit.unwrap_or(versions.len()).min(versions.len());
            let array: Vec<Json> = versions[first..].iter().map(version_json).collect();
            serde_json::to_string_pretty(&array)
                .map_err(|e| Failure::failed(format!("as JSON: {e}")))?
        }
        (false, []) => format!("no model yet in {registry}: {}", none()),
        (false, versions) => {
            let shown = newest(versions, limit.unwrap_or(LISTED_VERSIONS));
            let left_out = versions.len() - shown.len();
            let more = match left_out {
                0 => String::new(),
                _ => format!(
                    "\n{left_out} older ones are left out: --limit {} has all.",
                    versions.len()
                ),
            };
            format!("{}\n{EXPLANATION}{more}", table(&shown))
        }
    };
    print(&text)?;
    Ok(())
}

/// Versions that a list for people has.
const LISTED_VERSIONS: usize = 20;

/// The newest versions, newest first, and those that have traffic, however old they are.
pub(super) fn newest(versions: &[Version], most: usize) -> Vec<&Version> {
    let has_traffic = |version: &Version| {
        let has_share = matches!(version.state, Some(State::Canary { .. }));
        version.champion || has_share
    };
    let ranked = versions.iter().rev().enumerate();
    ranked
        .filter(|(rank, version)| *rank < most || has_traffic(version))
        .map(|(_, version)| version)
        .collect()
}

/// Prints one version: what is written of it, and what became of it.
///
/// # Errors
/// A version that is not there, a registry that cannot be read.
pub fn models_show(registry: &Place, version: u64) -> Outcome<()> {
    let registry = open(registry)?;
    let manifest = registry
        .manifest(version)
        .map_err(|e| no_such(&registry, e))?;
    let is_about = |entry: &Entry| matches!(&entry.event, Event::Version { version: of, .. } if *of == version);
    let life: Vec<Json> = registry
        .journal_entries()?
        .iter()
        .filter(|entry| is_about(entry))
        .map(entry_json)
        .collect();
    let shown = json!({
        "champion": registry.champion()? == Some(version),
        "traffic_percent": share(&registry, version)?,
        "manifest": manifest,
        "life": life,
    });
    let text = serde_json::to_string_pretty(&shown);
    let text = text.map_err(|e| Failure::failed(format!("as JSON: {e}")))?;
    print(&text)?;
    Ok(())
}

/// Gives a version all of the traffic.
///
/// # Errors
/// A version that is not there or has other inputs than `plan`, a registry that cannot be written.
pub fn models_promote(registry: &Place, plan: Option<&ModelPlan>, version: u64) -> Outcome<()> {
    say(&promote(&open(registry)?, plan, version)?)
}

/// Gives the traffic back to a version that had it before: the one asked for, or the last.
///
/// # Errors
/// No such version, one of other inputs than `plan`, a registry that cannot be written.
pub fn models_rollback(registry: &Place, plan: Option<&ModelPlan>, to: Option<u64>) -> Outcome<()> {
    say(&roll_back(&open(registry)?, plan, to)?)
}

/// Gives a version the traffic of so many of a hundred entities; 0 takes it back.
///
/// # Errors
/// A version that is not there, serves already or has other inputs than `plan`; a share that is none; a registry that
/// cannot be written.
pub fn models_traffic(
    registry: &Place,
    plan: Option<&ModelPlan>,
    version: u64,
    percent: u8,
) -> Outcome<()> {
    say(&set_share(&open(registry)?, plan, version, percent)?)
}

/// Writes a version, or else the champion, as an ONNX graph.
///
/// # Errors
/// A version that is not there or is damaged, a file that cannot be written.
pub fn models_export(registry: &Place, version: Option<u64>, output: &Path) -> Outcome<()> {
    let registry = open(registry)?;
    let version = match version {
        Some(version) => version,
        None => registry.champion()?.ok_or_else(|| {
            Failure::input("no version has the traffic")
                .hint("name one: millrace models export VERSION; millrace models list shows them")
        })?,
    };
    let (manifest, checkpoint) = registry.load(version).map_err(|e| no_such(&registry, e))?;
    let bytes = to_onnx(&manifest, &checkpoint);
    fs::write(output, &bytes)
        .map_err(|e| Failure::input(format!("cannot write {}: {e}", output.display())))?;
    let inputs = manifest.inputs.len();
    say(&format!(
        "version {version} is in {}: {inputs} inputs, {} KiB",
        output.display(),
        bytes.len().div_ceil(1024)
    ))
}

fn say(text: &str) -> Outcome<()> {
    print(text)?;
    Ok(())
}

/// A registry that is there already: a command that changes one must not make one.
fn open(registry: &Place) -> Outcome<Registry> {
    registry.open_existing()?.ok_or_else(|| {
        Failure::input(format!("there is no model yet in {registry}"))
            .hint("millrace models list says what is missing for the first one")
    })
}

/// Why a project has no version of its model: how many labels have come of those that the first one needs, and which
/// registries there are besides.
#[must_use]
pub fn why_no_model(workspace: &Workspace) -> String {
    let mut said = match to_the_first(workspace) {
        Ok(said) => said,
        Err(failure) => format!(
            "the first one is made when enough labels are known ({})",
            failure.message
        ),
    };
    let others = registries_below(&workspace.folder);
    if !others.is_empty() {
        let others: Vec<String> = others
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        said.push_str(&format!(
            "\nversions are in {}: model.registry in millrace.toml says which folder is the project's",
            others.join(", ")
        ));
    }
    said
}

fn to_the_first(workspace: &Workspace) -> Outcome<String> {
    let plan = workspace.model()?;
    let settings = &plan.settings;
    let store = workspace.path(&workspace.settings.store.path);
    let (mut labels, mut frauds) = (0, 0);
    if store.exists() {
        let store = workspace.open_store_to_read()?;
        let tag = plan.inputs_tag();
        examples_after(&store, 0, &mut |_, example| {
            if example.inputs_tag == tag {
                labels += 1;
                frauds += usize::from(example.fraud);
            }
            true
        })?;
    }
    Ok(how_far(settings, labels, frauds))
}

/// How far it is to the first version, with so many labels and frauds among them.
pub(super) fn how_far(settings: &ModelSettings, labels: usize, frauds: usize) -> String {
    let come = format!("{labels} labels of scored events have come, {frauds} of them fraud");
    if settings.make_a_first(labels, frauds) {
        return format!(
            "{come}, which is enough: a running `millrace run` makes the first version when the period that they came in \
             has ended in event time (model.every, {})",
            humantime::format_duration(settings.every)
        );
    }
    if labels >= settings.min_labels && frauds >= settings.min_frauds {
        return format!(
            "{come}; of the {} labels that the first version needs (model.min_labels) half must say genuine: does the \
             feed of labels say which events are not frauds?",
            settings.min_labels
        );
    }
    format!(
        "{come}; the first version needs {} and {} (model.min_labels, model.min_frauds)",
        settings.min_labels, settings.min_frauds
    )
}

/// Whether a folder holds versions of a model.
fn is_registry(folder: &Path) -> bool {
    let is_version = |name: &str| {
        let number = name.strip_prefix('v').unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    folder.join("format.json").exists()
        && entries.any(|entry| is_version(&entry.file_name().to_string_lossy()))
}

/// How deep below the project's folder registries are looked for, and in how many folders at most.
const DEPTH: usize = 4;
const MOST_FOLDERS: usize = 2_000;

/// Folders below a project's that hold versions of a model: a simulation leaves some.
fn registries_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![(folder.to_owned(), 0)];
    let mut looked = 0;
    while let Some((folder, depth)) = waiting.pop() {
        looked += 1;
        if is_registry(&folder) {
            found.push(folder);
            continue;
        }
        if depth == DEPTH || looked > MOST_FOLDERS {
            continue;
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|it| it.is_dir());
        waiting.extend(
            entries
                .filter(is_folder)
                .map(|entry| (entry.path(), depth + 1)),
        );
    }
    found.sort();
    found
}

fn share(registry: &Registry, version: u64) -> Outcome<u8> {
    let Aliases {
        champion,
        challenger,
    } = registry.aliases()?;
    let ours = challenger
        .filter(|(other, _)| *other == version)
        .map(|(_, percent)| percent);
    Ok(match (ours, champion == Some(version)) {
        (Some(percent), _) => percent,
        (None, true) => 100 - challenger.map_or(0, |(_, percent)| percent),
        (None, false) => 0,
    })
}

fn entry_json(entry: &Entry) -> Json {
    let mut json = serde_json::to_value(entry).unwrap_or_default();
    if let Some(object) = json.as_object_mut() {
        object.remove("at_us");
        object.remove("event");
        object.remove("version");
        // The manifest stands beside it.
        object.remove("made");
        object.insert("at".to_owned(), json!(rfc3339(entry.at_us)));
    }
    json
}

const EXPLANATION: &str = "* takes the traffic. AP (average precision) and log loss are measured on \
                           labels that came after the version was made.";

pub(super) fn table(versions: &[&Version]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "version",
        "parent",
        "state",
        "trained until",
        "labels",
        "prequential AP",
        "log loss",
        "device",
    ]);
    for version in versions {
        let manifest = &version.manifest;
        table.add_row([
            format!(
                "{}{}",
                manifest.version,
                if version.champion { " *" } else { "" }
            ),
            manifest.parent.map_or("–".to_owned(), |p| p.to_string()),
            version
                .state
                .map_or("–".to_owned(), |state| state.to_string()),
            rfc3339(manifest.trained_until_us),
            manifest.rows.to_string(),
            digits(version.average_precision),
            digits(version.log_loss),
            manifest.device.clone(),
        ]);
    }
    for number in [4, 5, 6] {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Four digits: the metrics of a few thousand labels have no more.
fn digits(metric: Option<f64>) -> String {
    metric.map_or("–".to_owned(), |value| format!("{value:.4}"))
}

pub(super) fn version_json(version: &Version) -> Json {
    let manifest = &version.manifest;
    json!({
        "version": manifest.version,
        "champion": version.champion,
        "state": version.state.map(|state| state.to_string()),
        "parent": manifest.parent,
        "created": manifest.created,
        "trained_until": rfc3339(manifest.trained_until_us),
        "labels": manifest.rows,
        "prequential_average_precision": version.average_precision,
        "prequential_log_loss": version.log_loss,
        "device": manifest.device,
    })
}
