//! Crashes between any two steps of a commit, and at any other time: nothing is lost, nothing counts twice.

use std::sync::PoisonError;
use std::time::Duration;

use crate::broker::TestBroker;
use crate::data::Data;
use crate::harness::System;
use crate::{ONE_AT_A_TIME, oracle};

/// The points of the way of a step, in its order, and how often each is passed before the crash there.
const POINTS: [(&str, u32); 8] = [
    ("rows", 2),
    ("scored", 1),
    ("acknowledged", 3),
    ("committed", 0),
    ("committed", 4),
    ("applied", 2),
    ("flush", 1),
    ("flushed", 1),
];

#[test]
fn a_crash_between_any_two_steps_changes_nothing() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = TestBroker::embedded();
    let data = Data::load();
    let mut system = System::new(&broker, &data);
    // Small steps: each crash leaves most of the events for the next. A name of its own gives a worker its partitions
    // back at once.
    let settings = std::fs::read_to_string(system.path("millrace.toml")).unwrap();
    let settings = settings.replace(
        "[kafka]",
        "[kafka]\nmax_rows = 512\ninstance = \"worker-1\"",
    );
    system.write("millrace.toml", &settings.replace("\"500ms\"", "\"100ms\""));
    system.produce("transactions", &data.first_half);
    system.produce("transactions", &data.second_half);
    system.produce("labels", &data.labels_file);

    for (point, passes) in POINTS {
        system.start_with(&format!("{point}={passes}*off->return"));
        system.wait_for_crash(point);
    }
    for pause in [700, 1_300, 400] {
        system.start();
        std::thread::sleep(Duration::from_millis(pause));
        system.kill();
    }
    system.start();
    let scores = system.wait_for_all_scores(&data);
    system.wait_for_reading(&data);
    system.wait_for_learning(&data);
    system.terminate();
    oracle::check_views(&system, &data);
    oracle::check_scored_inputs(&system, &data, &scores);
    oracle::check_audit(&system, &data);
    oracle::check_labels_are_learned_once(&system, &data);
}
