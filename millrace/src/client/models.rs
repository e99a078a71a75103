//! `millrace models list`: the registry's versions. It reads the folder, so it works without a
//! server.

use std::io;
use std::path::Path;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use millrace_learner::Registry;
use serde_json::{Value as Json, json};

use super::print_line;
use crate::failure::{Failure, Outcome};
use crate::serve::{Version, versions};
use crate::times::rfc3339;

/// Prints the versions in a registry's folder, oldest first, as a table for people or as a JSON
/// array. A folder that is not there is a registry without versions.
///
/// # Errors
/// A registry that cannot be read.
pub fn models_list(registry: &Path, json: bool) -> Outcome<()> {
    // Opening would make the folder, and a command that lists should leave nothing behind.
    let versions = match registry.is_dir() {
        true => versions(&Registry::open(registry)?)?,
        false => Vec::new(),
    };
    let text = match (json, versions.as_slice()) {
        (true, versions) => {
            let array: Vec<Json> = versions.iter().map(version_json).collect();
            serde_json::to_string_pretty(&array)
                .map_err(|e| Failure::failed(format!("as JSON: {e}")))?
        }
        (false, []) => format!(
            "no model yet in {}: the first one is made when enough labels are known",
            registry.display()
        ),
        (false, versions) => format!("{}\n{EXPLANATION}", table(versions)),
    };
    print_line(&mut io::stdout(), &text)?;
    Ok(())
}

const EXPLANATION: &str = "* takes the traffic. AP (average precision) and log loss are measured on \
                           labels that came after the version was made.";

pub(super) fn table(versions: &[Version]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "version",
        "parent",
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
            rfc3339(manifest.trained_until_us),
            manifest.rows.to_string(),
            digits(version.average_precision),
            digits(version.log_loss),
            manifest.device.clone(),
        ]);
    }
    for number in [3, 4, 5] {
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
        "parent": manifest.parent,
        "created": manifest.created,
        "trained_until": rfc3339(manifest.trained_until_us),
        "labels": manifest.rows,
        "prequential_average_precision": version.average_precision,
        "prequential_log_loss": version.log_loss,
        "device": manifest.device,
    })
}
