//! Which threads a process that learns has.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::run::Role;
use crate::serve::tests::with_a_text;

#[test]
fn who_learns_follows_the_registry_beside_that() {
    let (_folder, workspace) = with_a_text();
    let running = Running::start(Arc::new(workspace), &[Role::Learn]).unwrap();
    let threads = running.threads.iter();
    let names: Vec<String> = threads
        .filter_map(|thread| thread.thread().name().map(str::to_owned))
        .collect();
    running.stop().unwrap();
    assert_eq!(names, ["registry", "learn"]);
}
