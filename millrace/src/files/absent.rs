//! What is said of a file that is not there, or is a folder: which files could be meant. Whether a folder is empty.

use std::io::ErrorKind;
use std::path::Path;

use super::{Format, nearest};
use crate::failure::Failure;

/// Names that a hint has, at most.
const NAMED: usize = 5;

/// Files of a folder that are looked at, at most.
const LOOKED_AT: usize = 10_000;

/// A folder where a file is wanted.
pub(super) fn folder(path: &Path) -> Failure {
    let failure = Failure::input(format!("{}: this is a folder", path.display()));
    let tables = tables_in(path);
    match tables.is_empty() {
        true => failure
            .hint("name one file of events: it has none that ends in .parquet, .jsonl or .csv"),
        false => failure.hint(format!(
            "name one file of events; there are {}",
            listed(&tables)
        )),
    }
}

/// What is said of a folder that cannot be made, or is none.
pub(crate) fn no_folder(folder: &Path) -> String {
    match folder.ancestors().find(|path| path.exists()) {
        Some(file) if !file.is_dir() => {
            format!("{} is a file: name a folder", file.display())
        }
        Some(there) => format!(
            "nothing can be made in {}: name a folder in which you may write",
            there.display()
        ),
        None => "name a folder in which you may write".to_owned(),
    }
}

/// Whether a folder has nothing in it, or is not there.
///
/// # Errors
/// A folder that cannot be read, or is none.
pub(crate) fn is_empty_folder(folder: &Path) -> std::io::Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// The nearest thing to a file that is not there.
pub(super) fn hint(path: &Path) -> String {
    let wanted = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return format!("there is no folder {}", folder.display());
    }
    let tables = tables_in(folder);
    if wanted.contains(['*', '?']) {
        let tables: Vec<_> = tables
            .into_iter()
            .filter(|name| fits(name, &wanted))
            .collect();
        return format!(
            "a shell does not expand a pattern that stands behind a name and '='; name each file: {}",
            listed(&tables)
        );
    }
    match nearest(&wanted, tables.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("files of events there: {}", listed(&tables)),
    }
}

/// Whether a name could be meant by a pattern: it begins and ends as that does.
fn fits(name: &str, pattern: &str) -> bool {
    let is_wild = |letter: char| matches!(letter, '*' | '?');
    let (begin, _) = pattern.split_once(is_wild).unwrap_or((pattern, ""));
    let (_, end) = pattern.rsplit_once(is_wild).unwrap_or(("", pattern));
    name.starts_with(begin) && name.ends_with(end)
}

/// The names of a folder's tables, in order.
fn tables_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.flatten().take(LOOKED_AT).map(|entry| entry.path());
    let tables = paths.filter(|path| {
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        Format::of_ending(&ending).is_some() && path.is_file()
    });
    let names = tables.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

fn listed(names: &[String]) -> String {
    match names.len() {
        0 => "none".to_owned(),
        count if count > NAMED => {
            let first = names[..NAMED].join(", ");
            format!("{first} and {} more", count - NAMED)
        }
        _ => names.join(", "),
    }
}
