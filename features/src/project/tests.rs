//! What `Project::plan` says of projects, right and wrong.
#![allow(clippy::unwrap_used)]

use super::*;

const SOURCES: &str = "CREATE EXTERNAL TABLE tx (
  tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, terminal_id VARCHAR NOT NULL,
  amount DOUBLE, n INT, approved BOOLEAN, event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('key' 'card_id', 'id' 'tx_id');";

const WINDOW: &str = "(PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";

fn file(path: &str, text: &str) -> SqlFile {
    SqlFile {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

fn plan(view: &str, inputs: &str) -> Result<Project, Vec<Problem>> {
    let views = [file("features/v.sql", &view.replace("$W", WINDOW))];
    Project::plan(
        &file("sources.sql", SOURCES),
        &views,
        Some(&file("inputs.sql", inputs)),
    )
}

/// The problems of a view, a line each: `line:column message | hint`.
fn problems(view: &str) -> String {
    render(plan(view, ""))
}

fn render(result: Result<Project, Vec<Problem>>) -> String {
    let line = |problem: &Problem| {
        let hint = problem.hint.as_deref().unwrap_or("-");
        let Position { line, column, .. } = problem.position;
        format!("{line}:{column} {} | {hint}", problem.message)
    };
    match result {
        Ok(_) => "ok".to_owned(),
        Err(problems) => problems.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

use crate::problem::Position;

#[test]
fn a_view_is_planned() {
    let project = plan(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER h AS n_1h,
           sum(amount) FILTER (WHERE NOT approved) OVER h / nullif(count(*) OVER d, 0) AS ratio,
           coalesce(max(amount * 2) OVER d, 0) AS top, count(DISTINCT terminal_id) OVER d AS places
         FROM tx WHERE amount > 0
         WINDOW h AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
                d AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)",
        "CREATE VIEW i AS SELECT t.amount, v.n_1h, t.amount / nullif(v.top, 0) AS x FROM tx t JOIN v USING (card_id)",
    )
    .unwrap();
    let view = &project.views[0];
    assert_eq!(
        view.features().collect::<Vec<_>>(),
        ["n_1h", "ratio", "top", "places"]
    );
    assert_eq!(view.entity_columns().collect::<Vec<_>>(), ["card_id"]);
    assert_eq!(view.reach_us(), Some(86_400_000_000));
    assert_eq!(
        project.inputs[0].names().collect::<Vec<_>>(),
        ["amount", "n_1h", "x"]
    );
    assert_eq!(project.streams[0].required(), [0, 1, 2, 6]);
}

#[test]
fn mistakes_in_views_have_a_place_and_a_hint() {
    let check = |view: &str, expected: &str| {
        let got = problems(view);
        assert!(
            got.contains(expected),
            "{view}\n  says  {got}\n  wants {expected}"
        );
    };
    check(
        "CREATE VIEW v AS\nSELECT card_id, sum(amuont) OVER $W AS s FROM tx",
        "2:21 there is no column 'amuont' | did you mean 'amount'?",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS s FROM txs",
        "there is no stream or view 'txs' | did you mean 'tx'?",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, cuont(*) OVER $W AS s FROM tx",
        "1:34 Invalid function 'cuont'. | did you mean 'count'?",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, stdev(n) OVER $W AS s FROM tx",
        "1:34 Invalid function 'stdev'. | did you mean 'stddev'?",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, decayed_cuont(INTERVAL '1 hour') OVER $W AS s FROM tx",
        "did you mean 'decayed_count'?",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, how_often(n) OVER $W AS s FROM tx",
        "the aggregates are a",
    );
    check("CREATE VIEW v AS SELEC card_id FROM tx", "1:18 ");
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W FROM tx",
        "1:34 a feature needs a name | add AS name",
    );
    check(
        "CREATE VIEW v AS SELECT card_id,\n  amount, count(*) OVER $W AS n FROM tx",
        "2:3 'amount' is a column of one event",
    );
    check(
        "CREATE VIEW v AS SELECT count(*) OVER $W AS n FROM tx",
        "does not select its entity 'card_id'",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) AS n FROM tx GROUP BY card_id",
        "GROUP BY",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx ORDER BY n",
        "ORDER BY has no meaning",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx LIMIT 3",
        "LIMIT has no meaning",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, amount FROM tx",
        "needs at least one window aggregate",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER (PARTITION BY card_id) AS n FROM tx",
        "no ORDER BY",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER (ORDER BY event_time) AS n FROM tx",
        "no PARTITION BY",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, row_number() OVER $W AS n FROM tx",
        "row_number() is not kept up",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, lag(amount, 0) OVER $W AS n FROM tx",
        "looks back a fixed number of events",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, lag(amount, 2, 0.0) OVER $W AS n FROM tx",
        "takes no default here | wrap it: coalesce(lag(",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, nth_value(amount, -1) OVER $W AS n FROM tx",
        "counts from the frame's first event",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, decayed_sum(amount) OVER $W AS n FROM tx",
        "needs a fixed half-life | decayed_sum(amount, INTERVAL '1 hour')",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, decayed_sum(card_id, INTERVAL '1 hour') OVER $W AS n FROM tx",
        "takes a number and an interval",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER (PARTITION BY card_id ORDER BY amount) AS n FROM tx",
        "ordered by",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '2 months' PRECEDING AND CURRENT ROW) AS n FROM tx",
        "1:90 a window of months or years has no fixed length | use days: INTERVAL '60 days'",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER a / sum(n) OVER b AS n FROM tx\n\
         WINDOW a AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),\n\
         b AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '2 months' PRECEDING AND CURRENT ROW)",
        "3:48 a window of months or years",
    );
    check(
        "CREATE VIEW v AS SELECT card_id,\ncount(*) OVER (PARTITION BY card_id ORDER BY event_time ROWS BETWEEN UNBOUNDED FOLLOWING AND CURRENT ROW) AS n FROM tx",
        "2:57 Invalid window frame",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN CURRENT ROW AND INTERVAL '1 hour' FOLLOWING) AS n FROM tx",
        "covers no event",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, sum(n + random()) OVER $W AS s FROM tx",
        "random() answers differently",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx; SELECT 1",
        "this file holds views",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx; CREATE VIEW v AS SELECT card_id, sum(n) OVER $W AS n FROM tx",
        "declared twice",
    );
    check(
        "CREATE VIEW a AS SELECT card_id, count(*) OVER $W AS n FROM tx; CREATE VIEW v AS SELECT card_id, sum(n) OVER (PARTITION BY card_id ORDER BY n) AS s FROM a",
        "reads a stream, and 'a' is a view",
    );
}

#[test]
fn mistakes_in_resolutions_have_a_place_and_a_hint() {
    let check = |options: &str, items: &str, expected: &str| {
        let view = format!("CREATE VIEW v WITH ({options})\nAS SELECT card_id, {items} FROM tx");
        let got = problems(&view);
        assert!(
            got.contains(expected),
            "{view}\n  says  {got}\n  wants {expected}"
        );
    };
    let count = "count(*) OVER $W AS n";
    let minute = "resolution = '1 minute'";
    check(minute, count, "ok");
    check(
        "resolution = INTERVAL '1 minute', late = '2 hours'",
        count,
        "ok",
    );
    check(
        "resolutoin = '1 minute'",
        count,
        "1:21 a view has no option 'resolutoin' | did you mean 'resolution'?",
    );
    check(
        "resolution = 60",
        count,
        "1:34 resolution = 60 is not a length of time | write it as resolution = '1 minute'",
    );
    check(
        "resolution = '60'",
        count,
        "1:34 resolution = '60' is not a length",
    );
    check(
        "resolution = 'soon'",
        count,
        "1:34 'soon' is not an interval of time",
    );
    check("resolution = '1 month'", count, "no fixed length");
    check(
        "resolution = '1 ms'",
        count,
        "1:21 a resolution is between a second and a day",
    );
    check("late = '1 hour'", count, "1:21 'late' says how long");
    check(
        "resolution = '1 minute', resolution = '2 minutes'",
        count,
        "1:46 'resolution' is set twice",
    );
    check(
        minute,
        "count(*) OVER (PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND CURRENT ROW) AS n",
        "2:20 a ROWS frame counts single events",
    );
    check(
        minute,
        "lag(amount) OVER (PARTITION BY card_id ORDER BY event_time) AS n",
        "2:20 lag() needs single events in their order",
    );
    check(
        minute,
        "first_value(amount) OVER $W AS n",
        "first_value() needs single events",
    );
    check(
        minute,
        "count(*) OVER $W AS n, median(amount) OVER $W AS m",
        "2:141 median() needs every value, and a view with a resolution keeps sums of whole steps | approx_median(x)",
    );
    check(
        "resolution = '2 hours'",
        count,
        "2:20 the frame is shorter than a step of the view's resolution",
    );
    check(
        "resolution = '1 hour'",
        "count(*) OVER (PARTITION BY card_id ORDER BY event_time \
         RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND INTERVAL '90 minutes' PRECEDING) AS n",
        "2:20 the frame is shorter than a step",
    );
    let view = "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";
    let inputs = "CREATE VIEW i WITH (resolution = '1 minute') AS SELECT t.amount FROM tx t";
    assert!(render(plan(view, inputs)).contains("inputs have no resolution"));
}

#[test]
fn mistakes_in_inputs_are_named() {
    let view = "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";
    let check = |inputs: &str, expected: &str| {
        let got = render(plan(view, inputs));
        assert!(
            got.contains(expected),
            "{inputs}\n  says  {got}\n  wants {expected}"
        );
    };
    check("CREATE VIEW i AS SELECT t.amount FROM tx t", "ok");
    check(
        "CREATE VIEW i AS SELECT t.amount, v.n FROM tx t JOIN v ON v.card_id = t.card_id",
        "ok",
    );
    check(
        "CREATE VIEW i AS SELECT t.amount, v.n FROM tx t LEFT JOIN v USING (card_id)",
        "ok",
    );
    check(
        "CREATE VIEW i AS SELECT t.amount, v.n FROM tx t JOIN v ON v.card_id = t.terminal_id",
        "ok",
    );
    check(
        "CREATE VIEW i AS SELECT t.amount, v.m FROM tx t JOIN v USING (card_id)",
        "there is no column 'v.m'",
    );
    check(
        "CREATE VIEW i AS SELECT t.tx_id, v.n FROM tx t JOIN v USING (card_id)",
        "1:25 input 'tx_id' is of type Utf8",
    );
    check(
        "CREATE VIEW i AS SELECT t.amount, v.n FROM tx t CROSS JOIN v",
        "not joined on its entity",
    );
    check(
        "CREATE VIEW i AS SELECT t.amount FROM tx t WHERE t.amount > 0",
        "WHERE would leave events without a score",
    );
    check(
        "CREATE VIEW i AS SELECT v.n FROM v",
        "no stream stands in FROM",
    );
}

#[test]
fn mistakes_in_sources_are_named() {
    let check = |sources: &str, expected: &str| {
        let got = render(Project::plan(&file("sources.sql", sources), &[], None));
        assert!(
            got.contains(expected),
            "{sources}\n  says  {got}\n  wants {expected}"
        );
    };
    let columns = "(id VARCHAR, t TIMESTAMP)";
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (t)"),
        "ok",
    );
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's'"),
        "add WITH ORDER",
    );
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS PARQUET LOCATION 's' WITH ORDER (t)"),
        "STORED AS KAFKA",
    );
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (id)"),
        "declare it as TIMESTAMP",
    );
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's s' WITH ORDER (t)"),
        "not a name that a Kafka topic can have",
    );
    check(
        &format!(
            "CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (t) OPTIONS ('kee' 'id')"
        ),
        "did you mean 'key'?",
    );
    check(
        &format!(
            "CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (t) OPTIONS ('id' 'idd')"
        ),
        "did you mean 'id'?",
    );
    check(
        &format!(
            "CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (t) OPTIONS ('format' 'avro')"
        ),
        "use 'format' 'json'",
    );
    check("SELECT 1", "sources.sql declares streams");
    check(
        "CREATE EXTERNAL TABLE s (id VARCHAR,, t TIMESTAMP)",
        "1:37 ",
    );
}
