//! A topic is deleted and made anew under a process that reads it, and has grown past the position when it is read next.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::broker::{TestBroker, free_ports};
use crate::data::Data;
use crate::harness::System;

const TOPIC: &str = "visits";

const SOURCES: &str = "\
CREATE EXTERNAL TABLE visits (visit_id VARCHAR NOT NULL, card VARCHAR NOT NULL, at TIMESTAMP NOT NULL)
STORED AS KAFKA LOCATION 'visits' WITH ORDER (at) OPTIONS ('id' 'visit_id');
";

const VIEW: &str = "\
CREATE VIEW card AS SELECT card, count(*) OVER w AS n FROM visits
WINDOW w AS (PARTITION BY card ORDER BY at RANGE BETWEEN INTERVAL '10000 days' PRECEDING AND CURRENT ROW);
";

/// More in the new topic than in the old one: the old position is one of the new topic's.
const BEFORE: usize = 60;
const AFTER: usize = 80;

pub fn counts_all_events_of_both(broker: &TestBroker, data: &Data) {
    let mut system = System::new(broker, data);
    for name in ["card", "terminal", "labels"] {
        system.remove(&format!("features/{name}.sql"));
    }
    system.remove("inputs.sql");
    system.write("sources.sql", SOURCES);
    system.write("features/card.sql", VIEW);
    let port = free_ports(2);
    system.write(
        "millrace.toml",
        &format!(
            "[kafka]\nbrokers = \"{}\"\ngroup = \"made-anew\"\n[store]\nhistory = \"7d\"\n\
             [server]\nlisten = \"127.0.0.1:{port}\"\nmetrics = \"127.0.0.1:{}\"\n",
            broker.address(),
            port + 1
        ),
    );
    let all = BEFORE + AFTER;
    system.write("before.jsonl", &visits(0..BEFORE));
    system.write("after.jsonl", &visits(BEFORE..all));

    make_anew(&broker.address());
    system.produce(TOPIC, &system.path("before.jsonl"));
    system.start();
    let count = |system: &System, expected: usize| {
        let answer = system.look_up("card", "card=c", None);
        answer.is_some_and(|answer| answer["n"] == expected)
    };
    system.wait("all events before", |system| count(system, BEFORE));

    make_anew(&broker.address());
    system.produce(TOPIC, &system.path("after.jsonl"));
    system.wait("all events of both topics", |system| count(system, all));
    let log = system.log();
    assert!(
        log.contains("the topic was deleted and created anew"),
        "{log}"
    );
    assert!(log.contains("from=60 to=0"), "{log}");

    system.terminate();
    system.start();
    system.wait("the same after a restart", |system| count(system, all));
    system.terminate();
}

fn time(number: usize) -> String {
    format!("2018-04-02T00:{:02}:{:02}Z", number / 60, number % 60)
}

fn visits(numbers: std::ops::Range<usize>) -> String {
    let visit = |number| {
        let at = time(number);
        format!("{{\"visit_id\":\"{number}\",\"card\":\"c\",\"at\":\"{at}\"}}\n")
    };
    numbers.map(visit).collect()
}

/// One partition, so that its place is known. There need not be one before.
fn make_anew(brokers: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        admin.delete_topics(&[TOPIC], &options).await.unwrap();
        let topic = [NewTopic::new(TOPIC, 1, TopicReplication::Fixed(1))];
        // The name is free a moment later.
        for _ in 0..200 {
            let made = admin.create_topics(&topic, &options).await.unwrap();
            if made.iter().all(Result::is_ok) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the topic cannot be made anew");
    });
}
