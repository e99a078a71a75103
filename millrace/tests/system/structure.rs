//! Which crate may know which: the table of ARCHITECTURE.md, checked.

use std::process::Command;

use serde_json::Value;

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
            "reqwest",
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
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(repository())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    for (name, forbidden) in FORBIDDEN {
        let package = packages
            .iter()
            .find(|package| package["name"] == name)
            .unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let is_for_tests = dependency["kind"] == "dev";
            let dependency = dependency["name"].as_str().unwrap();
            let is_forbidden = forbidden.contains(&dependency);
            assert!(
                is_for_tests || !is_forbidden,
                "{name} must not know {dependency}"
            );
        }
    }
}
