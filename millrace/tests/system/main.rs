//! The whole system, as a user runs it: the command's own processes, a broker, real files, kill -9.
//!
//! The same story runs against the embedded broker and, where Java 17 and Maven are there, Apache Kafka.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod broker;
mod commands;
#[cfg(feature = "failpoints")]
mod crashes;
mod data;
mod evolution;
mod harness;
mod made_anew;
mod oracle;
mod simulation;
mod structure;

use std::sync::{Mutex, PoisonError};

use broker::TestBroker;
use data::Data;
use harness::System;

/// Messages that no event can be made of, and the reason that each must get.
const MALFORMED: [(&str, &str); 4] = [
    ("{\"tx_id\": \"bad-1\", \"card_id\": ", "unparsable"),
    ("not json at all", "unparsable"),
    (
        "{\"tx_id\":\"bad-2\",\"terminal_id\":\"1\",\"amount\":1.0,\"event_time\":\"2018-04-02T00:00:00Z\"}",
        "missing_field",
    ),
    (
        "{\"tx_id\":\"bad-3\",\"card_id\":\"1\",\"terminal_id\":\"1\",\"amount\":1.0,\"event_time\":\"2999-01-01T00:00:00Z\"}",
        "future_event_time",
    ),
];

/// Two systems at once starve each other on two cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn whole_story(broker: &TestBroker) {
    let data = Data::load();
    let mut system = System::new(broker, &data);

    // Half of the payments, then messages that are none, then the rest and the labels.
    system.produce("transactions", &data.first_half);
    system.produce_raw("transactions", &MALFORMED.map(|(text, _)| text));
    system.produce("transactions", &data.second_half);
    system.produce("labels", &data.labels_file);

    system.start();
    system.wait_for_scores(data.payments.num_rows() / 3);
    system.kill();
    system.start();
    let scores = system.wait_for_all_scores(&data);
    system.wait_for_reading(&data);

    system.wait_for_learning(&data);

    let look_ups = system.look_ups(&data);
    let unseen = system.score_unlabelled(&data);
    system.terminate();

    system.check_dead_letters("transactions.dead-letters", &MALFORMED);
    oracle::check_look_ups(&data, &look_ups);
    oracle::check_views(&system, &data);
    oracle::check_scored_inputs(&system, &data, &scores);
    oracle::check_audit(&system, &data);
    oracle::check_score_log(&system, &data);
    oracle::check_model_beats_chance(&data, &unseen);
    oracle::check_labels_are_learned_once(&system, &data);
}

#[test]
fn the_whole_system_on_the_embedded_broker() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    whole_story(&TestBroker::embedded());
}

#[test]
fn the_whole_system_on_apache_kafka() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    match TestBroker::apache_kafka() {
        Some(kafka) => {
            whole_story(&kafka);
            made_anew::counts_all_events_of_both(&kafka, &Data::load());
        }
        None => eprintln!("skipped: Apache Kafka needs Java 17 and Maven"),
    }
}
