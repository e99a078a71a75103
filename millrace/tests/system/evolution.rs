//! Views change under a project in use: what is new catches up while the rest is served, what is gone goes.

use std::sync::PoisonError;

use arrow::array::AsArray;
use millrace::times::rfc3339;

use crate::broker::TestBroker;
use crate::data::{Data, times};
use crate::harness::System;
use crate::{ONE_AT_A_TIME, oracle};

/// Less of the terminals than the example keeps, and a view that it does not have.
const BEFORE: &str = "\
CREATE VIEW terminal_activity AS
SELECT terminal_id, count(*) OVER d1 AS tx_count_1d, count(*) OVER d7 AS tx_count_7d
FROM transactions
WINDOW d1 AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day'  PRECEDING AND CURRENT ROW),
       d7 AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);
CREATE VIEW terminal_lifetime AS
SELECT terminal_id, sum(amount) OVER w AS amount_sum
FROM transactions
WINDOW w AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);
";

/// New rows, over the whole past.
const ADDED: &str = "\
CREATE VIEW card_at_terminal AS
SELECT card_id, terminal_id, count(*) OVER w AS visits, max(amount) OVER w AS amount_max
FROM transactions
WINDOW w AS (PARTITION BY card_id, terminal_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);
";

#[test]
fn views_change_in_a_project_that_is_in_use() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = TestBroker::embedded();
    let data = Data::load();
    let mut system = System::new(&broker, &data);
    let after = std::fs::read_to_string(crate::harness::example().join("features/terminal.sql"));
    system.write("features/terminal.sql", BEFORE);
    let gone = ["terminal_activity", "terminal_lifetime"].map(|name| {
        let workspace = system.workspace();
        workspace.project.view(name).unwrap().id
    });

    system.produce("transactions", &data.first_half);
    system.produce("labels", &data.labels_file);
    system.start();
    let middle = rfc3339(times(&data.payments)[data.payments.num_rows() / 2 - 1]);
    let terminals = data.payments.column_by_name("terminal_id").unwrap();
    let key = format!("terminal_id={}", terminals.as_string::<i32>().value(0));
    system.wait_for_look_up("terminal_lifetime", &key, &middle);
    system.terminate();

    system.write("features/terminal.sql", &after.unwrap());
    system.write("features/visits.sql", ADDED);
    system.produce("transactions", &data.second_half);
    system.start();
    system.wait_for_log("older events are being read");
    system.kill();
    if cfg!(feature = "failpoints") {
        system.start_with("filled=1*off->return");
        system.wait_for_crash("filled");
    }
    let killed = system.log().len();
    system.start_with("removed=return");
    // What is gone answers until what is new has caught up.
    let mut answers = 0;
    while !system.log()[killed..].contains("the views have caught up, and are served") {
        let answer = system.look_up("terminal_lifetime", &key, None);
        if answer.is_some() {
            answers += 1;
        } else if answers > 0 {
            system.wait_for_log("the views have caught up, and are served");
        }
    }
    assert!(answers > 0, "the views before were not served");
    if cfg!(feature = "failpoints") {
        system.wait_for_crash("removed");
        system.start();
    }
    system.wait_for_log("the rows of a view that is gone were dropped");
    let last = rfc3339(data.last_payment_us());
    system.wait_for_look_up("terminal_activity", &key, &last);
    assert!(system.look_up("terminal_lifetime", &key, None).is_none());
    // The newest event says nothing of a partition that the group has given to nobody yet: a score of each does.
    system.wait_for_all_scores(&data);
    system.wait_for_reading(&data);
    system.terminate();

    oracle::check_views(&system, &data);
    for view in gone {
        oracle::check_is_gone(&system, view);
    }

    // Another project's store is refused, and so is one in which nothing is the same.
    system.write("sources.sql", "CREATE EXTERNAL TABLE clicks (user_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL) \
        STORED AS KAFKA LOCATION 'clicks' WITH ORDER (event_time) OPTIONS ('format' 'json', 'key' 'user_id');");
    for name in ["card", "terminal", "labels", "visits"] {
        system.remove(&format!("features/{name}.sql"));
    }
    system.remove("inputs.sql");
    let settings = "[store]\npath = \"data/store\"\n[server]\nmetrics = \"127.0.0.1:0\"\n";
    system.write("millrace.toml", settings);
    let refused = system.command(&["run"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        message.contains("store of another project") && message.contains("transactions"),
        "{message}"
    );
}
