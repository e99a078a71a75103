//! Which crate may know which: the table of ARCHITECTURE.md, checked.

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::broker::repository;

/// Crates, and what they must not depend on.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    (
        "millrace-features",
        &[
            "rdkafka",
            "rocksdb",
            "tonic",
            "tokio",
            "burn",
            "millrace-ingest",
            "millrace-feature-store",
            "millrace-learner",
        ],
    ),
    (
        "millrace-feature-store",
        &[
            "rdkafka",
            "datafusion",
            "tonic",
            "burn",
            "tokio",
            "millrace-ingest",
            "millrace-features",
            "millrace-learner",
        ],
    ),
    (
        "millrace-ingest",
        &[
            "rocksdb",
            "datafusion",
            "tonic",
            "burn",
            "millrace-features",
            "millrace-feature-store",
            "millrace-learner",
        ],
    ),
    (
        "millrace-learner",
        &[
            "rdkafka",
            "rocksdb",
            "datafusion",
            "arrow",
            "tonic",
            "tokio",
            "millrace-ingest",
            "millrace-features",
            "millrace-feature-store",
        ],
    ),
    (
        "millrace-proto",
        &["rdkafka", "rocksdb", "datafusion", "burn"],
    ),
];

#[test]
fn dependencies_point_inward() {
    let metadata = MetadataCommand::new()
        .manifest_path(repository().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    for (name, forbidden) in FORBIDDEN {
        let package = metadata
            .packages
            .iter()
            .find(|package| package.name.as_str() == name)
            .unwrap();
        let known = package
            .dependencies
            .iter()
            .filter(|d| d.kind != DependencyKind::Development);
        for dependency in known {
            let dependency = dependency.name.as_str();
            assert!(
                !forbidden.contains(&dependency),
                "{name} must not know {dependency}"
            );
        }
    }
}
