//! That a folder is a store, and of which format: a small JSON file beside RocksDB's own, read before RocksDB is
//! touched.
//!
//! Format 1 also named the project by the layout of its state, so that no other project could have the store. Since
//! format 2 the views of a project may change, and the store's records say which views it has: whose store it is
//! then is the caller's to check. A store of format 1 opens for the project that it was made for, and is of format 2
//! from then on; its rows are the same.
//!
//! It is written, and durable, before RocksDB creates its first file. A crash in between leaves an
//! empty store of the right project. A folder that holds anything else is refused untouched.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::StoreError;

/// The format of the store on disk: table names, key layouts, this file.
pub const STORE_FORMAT: u32 = 2;

const FILE: &str = "MILLRACE";
const UNFINISHED_FILE: &str = "MILLRACE.new";
/// Entries that a folder may have and still count as empty; a fresh ext4 volume has the last one.
const IGNORED: [&str; 2] = [UNFINISHED_FILE, "lost+found"];

/// Which project a store belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// The layout of the project's state, as a store of format 1 has it. It is not written any more.
    pub project_fingerprint: String,
    /// For people, say the project's name and folder. It is not compared.
    pub description: String,
}

/// All formats have this much in common.
#[derive(Serialize, Deserialize)]
struct Format {
    millrace_store_format: u32,
}

#[derive(Serialize)]
struct Contents<'a> {
    #[serde(flatten)]
    format: Format,
    description: &'a str,
}

/// Checks that the folder at `path` is a store of `identity`, and makes it one where it is empty or
/// missing.
pub(crate) fn claim(path: &Path, identity: &StoreIdentity) -> Result<(), StoreError> {
    match fs::read(path.join(FILE)) {
        Ok(contents) => match check(path, &contents, identity)? {
            STORE_FORMAT => Ok(()),
            _ => write(path, identity),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, identity),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(not_a_store(path, "it is a file".to_owned()))
        }
        Err(error) => Err(io_error("read", &path.join(FILE), error)),
    }
}

/// As [`claim`], of a store that is there and is not written to.
pub(crate) fn check_readable(path: &Path, identity: &StoreIdentity) -> Result<(), StoreError> {
    let file = path.join(FILE);
    let contents = fs::read(&file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_a_store(path, format!("it has no {FILE} file")),
        _ => io_error("read", &file, error),
    })?;
    check(path, &contents, identity).map(|_| ())
}

/// The format of a store that may be opened.
fn check(path: &Path, contents: &[u8], wanted: &StoreIdentity) -> Result<u32, StoreError> {
    let unreadable = |error| not_a_store(path, format!("its {FILE} file says {error}"));
    let format: Format = serde_json::from_slice(contents).map_err(unreadable)?;
    if format.millrace_store_format > STORE_FORMAT {
        return Err(StoreError::NewerFormat {
            path: path.to_owned(),
            found: format.millrace_store_format,
            supported: STORE_FORMAT,
        });
    }
    if format.millrace_store_format > 1 {
        return Ok(format.millrace_store_format);
    }
    let found: StoreIdentity = serde_json::from_slice(contents).map_err(unreadable)?;
    if found.project_fingerprint != wanted.project_fingerprint {
        return Err(StoreError::OtherProject {
            path: path.to_owned(),
            found_fingerprint: found.project_fingerprint,
            found_description: found.description,
            wanted_fingerprint: wanted.project_fingerprint.clone(),
        });
    }
    Ok(format.millrace_store_format)
}

fn create(path: &Path, identity: &StoreIdentity) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|error| io_error("create", path, error))?;
    if let Some(name) = first_entry(path).map_err(|error| io_error("read", path, error))? {
        return Err(not_a_store(
            path,
            format!("it holds {name}, and no {FILE} file"),
        ));
    }
    write(path, identity)
}

fn write(path: &Path, identity: &StoreIdentity) -> Result<(), StoreError> {
    let contents = Contents {
        format: Format {
            millrace_store_format: STORE_FORMAT,
        },
        description: &identity.description,
    };
    serde_json::to_vec_pretty(&contents)
        .map_err(io::Error::from)
        .and_then(|contents| write_durably(path, &contents))
        .map_err(|error| io_error("write", &path.join(FILE), error))
}

/// The name of some entry of the folder, if it is not empty.
fn first_entry(path: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !IGNORED.contains(&name.as_str()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Writes the file so that it is there whole or not at all.
fn write_durably(path: &Path, contents: &[u8]) -> io::Result<()> {
    let unfinished = path.join(UNFINISHED_FILE);
    let mut file = File::create(&unfinished)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&unfinished, path.join(FILE))?;
    File::open(path)?.sync_all()
}

fn not_a_store(path: &Path, reason: String) -> StoreError {
    StoreError::NotAStore {
        path: path.to_owned(),
        reason,
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn identity(fingerprint: &str) -> StoreIdentity {
        StoreIdentity {
            project_fingerprint: fingerprint.to_owned(),
            description: "cards \"east\"\n".to_owned(),
        }
    }

    fn claim_with(contents: &str) -> StoreError {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), contents).unwrap();
        claim(folder.path(), &identity("p1")).unwrap_err()
    }

    #[test]
    fn a_store_of_format_1_knows_its_project_and_becomes_one_of_format_2() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path();
        fs::write(path.join(FILE), FORMAT_1).unwrap();
        check_readable(path, &identity("p1")).unwrap();
        let error = claim(path, &identity("p2")).unwrap_err();
        assert!(
            matches!(&error, StoreError::OtherProject { found_fingerprint, wanted_fingerprint, .. }
                if found_fingerprint == "p1" && wanted_fingerprint == "p2"),
            "{error:?}"
        );
        assert_eq!(fs::read_to_string(path.join(FILE)).unwrap(), FORMAT_1);
        claim(path, &identity("p1")).unwrap();
        assert_eq!(fs::read_to_string(path.join(FILE)).unwrap(), FORMAT_2);
        claim(path, &identity("p2")).unwrap();
    }

    const FORMAT_1: &str = "{\n  \"millrace_store_format\": 1,\n  \"project_fingerprint\": \"p1\",\n  \
         \"description\": \"cards \\\"east\\\"\\n\"\n}";
    const FORMAT_2: &str =
        "{\n  \"millrace_store_format\": 2,\n  \"description\": \"cards \\\"east\\\"\\n\"\n}";

    #[test]
    fn format_2_is_pinned() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state/store");
        claim(&path, &identity("p1")).unwrap();
        claim(&path, &identity("p1")).unwrap();
        assert_eq!(fs::read_to_string(path.join(FILE)).unwrap(), FORMAT_2);
        check_readable(&path, &identity("p2")).unwrap();
        assert!(check_readable(parent.path(), &identity("p1")).is_err());
    }

    #[test]
    fn a_later_format_is_named_whatever_else_it_says() {
        let error = claim_with("{\"millrace_store_format\": 3, \"owner\": []}");
        assert!(
            matches!(
                error,
                StoreError::NewerFormat {
                    found: 3,
                    supported: 2,
                    ..
                }
            ),
            "{error:?}"
        );
    }

    #[test]
    fn what_is_no_store_is_left_alone() {
        assert!(matches!(claim_with("hello"), StoreError::NotAStore { .. }));
        assert!(matches!(claim_with("{}"), StoreError::NotAStore { .. }));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photo.jpg");
        fs::write(&file, "x").unwrap();
        let error = claim(folder.path(), &identity("p1")).unwrap_err();
        assert!(error.to_string().contains("photo.jpg"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = claim(&file, &identity("p1")).unwrap_err();
        assert!(error.to_string().contains("it is a file"), "{error}");
    }

    #[test]
    fn an_unfinished_creation_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(UNFINISHED_FILE), "{\"mill").unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        claim(folder.path(), &identity("p1")).unwrap();
        claim(folder.path(), &identity("p1")).unwrap();
    }
}
