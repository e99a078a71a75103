//! What can go wrong, classed by what the caller should do about it.

use std::path::PathBuf;

/// An error of the store. The first five come from opening one and are the user's to mend; the
/// command renders them with a hint.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The path holds something else. Nothing in it was touched; point the store elsewhere.
    #[error("{} is not a Millrace store: {reason}", path.display())]
    NotAStore {
        /// The path that was opened.
        path: PathBuf,
        /// What was found there instead.
        reason: String,
    },
    /// A later release wrote the store. Run that release, or start from an empty folder: Kafka
    /// fills it again.
    #[error(
        "the store at {} has format {found}; this release reads formats up to {supported}",
        path.display()
    )]
    NewerFormat {
        /// The path that was opened.
        path: PathBuf,
        /// The format on disk.
        found: u32,
        /// The newest format that this release reads.
        supported: u32,
    },
    /// The store belongs to another project, so its rows mean something else.
    #[error(
        "the store at {} was made by another project ({found_description}, {found_fingerprint}); \
         this one is {wanted_fingerprint}",
        path.display()
    )]
    OtherProject {
        /// The path that was opened.
        path: PathBuf,
        /// The fingerprint in the store.
        found_fingerprint: String,
        /// How the project that made the store described itself.
        found_description: String,
        /// The fingerprint of the project that tried to open it.
        wanted_fingerprint: String,
    },
    /// A running process holds the store. Stop it, or wait for it.
    #[error("the store at {} is in use: {detail}", path.display())]
    Locked {
        /// The path that was opened.
        path: PathBuf,
        /// What RocksDB said.
        detail: String,
    },
    /// The folder of the store could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "read", "create" and the like.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// RocksDB failed: a full disk, a damaged file. Nothing of a failed commit is visible.
    #[error("the store could not {action}")]
    Engine {
        /// What was tried: "open", "commit" and the like.
        action: &'static str,
        /// What RocksDB said.
        #[source]
        source: rocksdb::Error,
    },
    /// A commit held a row that its table cannot keep. A defect in the caller; nothing was written.
    #[error("a row for table {table} was refused: {reason} (key {key})")]
    BadRow {
        /// The name of the table.
        table: &'static str,
        /// The key, in hex.
        key: String,
        /// What its table asks for.
        reason: &'static str,
    },
    /// A record of another version, say of a later release.
    #[error("a record has version {found}; this release reads version {supported}")]
    RecordVersion {
        /// The version in the record.
        found: u8,
        /// The version that this release reads.
        supported: u8,
    },
    /// A record that does not decode: damaged, or read as the wrong type.
    #[error("a record does not decode: {0}")]
    Record(String),
}
