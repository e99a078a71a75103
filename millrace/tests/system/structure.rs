//! Which crate may know which: the table of ARCHITECTURE.md, checked. And what the image is built from.

use std::fs;
use std::path::{Path, PathBuf};
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

/// The image is built from what .dockerignore lets in: a file that is compiled into the program must be among it.
#[test]
fn the_image_has_all_that_is_compiled_in() {
    let root = repository();
    let ignored = fs::read_to_string(root.join(".dockerignore")).unwrap();
    let let_in: Vec<PathBuf> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .map(|name| root.join(name).canonicalize().unwrap())
        .collect();
    let mut sources = Vec::new();
    for member in [
        "feature-store",
        "features",
        "ingest",
        "learner",
        "millrace",
        "proto",
    ] {
        add_sources(&root.join(member).join("src"), &mut sources);
    }
    let mut included = 0;
    for source in &sources {
        let text = fs::read_to_string(source).unwrap();
        for after in text.split("include_str!(").skip(1) {
            let name = after.trim_start().strip_prefix('"').unwrap();
            let name = name.split('"').next().unwrap();
            let file = source.parent().unwrap().join(name);
            let file = file.canonicalize().unwrap();
            assert!(
                let_in.iter().any(|place| file.starts_with(place)),
                "{} includes {name}, which .dockerignore does not let into the image's build",
                source.display()
            );
            included += 1;
        }
    }
    assert!(included > 0, "no source includes a file");
}

fn add_sources(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
