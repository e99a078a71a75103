//! What `Project::plan` says of projects, right and wrong.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

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

/// What was said and should not have been, all of a test at once.
#[derive(Default)]
struct Wrong(RefCell<Vec<String>>);

impl Wrong {
    fn note(&self, text: &str, got: &str, expected: &str) {
        if !got.contains(expected) {
            let wrong = format!("{text}\n  says  {got}\n  wants {expected}");
            self.0.borrow_mut().push(wrong);
        }
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        let wrong = self.0.borrow();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

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
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| {
        let got = problems(view);
        wrong.note(view, &got, expected);
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
        "1:34 there is no function 'cuont' | did you mean 'count'?",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, stdev(n) OVER $W AS s FROM tx",
        "1:34 there is no function 'stdev' | write stddev(x)",
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
    let wrong = Wrong::default();
    let check = |options: &str, items: &str, expected: &str| {
        let view = format!("CREATE VIEW v WITH ({options})\nAS SELECT card_id, {items} FROM tx");
        let got = problems(&view);
        wrong.note(&view, &got, expected);
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
        "1:34 'soon' is not a length of time | write a number and a unit",
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

/// What a planner and a parser say of these is about themselves.
#[test]
fn mistakes_of_a_first_view_are_said_in_words() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| {
        let got = problems(view);
        wrong.note(view, &got, expected);
    };
    let item = |item: &str, expected: &str| {
        let view = format!("CREATE VIEW v AS SELECT card_id,\n{item}\nFROM tx WINDOW d1 AS $W");
        check(&view, expected);
    };
    item(
        "count(*) OVER d1 AS n, sum(n) OVER d1 AS n",
        "2:42 two columns of the view are named 'n' | give one of them another name: AS n_2",
    );
    item(
        "sum(n) OVER d1 AS s, 1 + sum(card_id) OVER d1 AS t",
        "2:26 sum() takes numbers, and this is text | count(DISTINCT",
    );
    item(
        "avg(approved) OVER d1 AS a",
        "2:1 avg() takes numbers, and this is a condition | count(*) FILTER (WHERE",
    );
    item(
        "stddev(terminal_id) OVER d1 AS s",
        "2:1 stddev() takes numbers, and this is text",
    );
    item(
        "sum(n, 2) OVER d1 AS s",
        "2:1 sum() takes 1 argument, and here are 2",
    );
    item("sum(*) OVER d1 AS s", "2:1 sum(*) says not what");
    item("sum() OVER d1 AS s", "2:1 sum() says not what");
    item(
        "count(DISTINCT card_id, n) OVER d1 AS s",
        "2:1 count(DISTINCT …) takes one column",
    );
    item(
        "sum(amount + card_id) OVER d1 AS s",
        "+ cannot take a number and text | CAST(card_id AS DOUBLE)",
    );
    item(
        "count(*) OVER d11 AS n",
        "2:15 there is no window 'd11' | did you mean 'd1'?",
    );
    item("count(*) OVER AS n", "2:15 OVER names no window");
    item(
        "count(*) OVER (d1) AS n",
        "2:1 a window's name stands after OVER without brackets",
    );
    item(
        "sum(n) AS s",
        "2:1 sum() has no OVER: of which events is it taken? | sum(n) OVER d1",
    );
    item(
        "max(sum(n) OVER d1) OVER d1 AS m",
        "an aggregate over a window stands inside another one",
    );
    item(
        "* , count(*) OVER d1 AS n2",
        "2:1 * is the columns of one event",
    );
    item(
        "date_part('huor', event_time) + count(*) OVER d1 AS h",
        "2:11 'huor' is no part of a time | did you mean 'hour'?",
    );
    item(
        "sum(CAST(n AS DOUBEL)) OVER d1 AS s",
        "2:15 there is no type 'DOUBEL' | did you mean 'DOUBLE'?",
    );
    item(
        "(SELECT 1) AS s, count(*) OVER d1 AS n",
        "2:2 a query inside the query",
    );
    let over = |window: &str, expected: &str| {
        item(
            &format!("sum(n) OVER (PARTITION BY card_id {window}) AS s"),
            expected,
        );
    };
    over(
        "ORDER BY 1 RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW",
        "2:44 the window is ordered by '1' | write ORDER BY event_time: the event time",
    );
    over(
        "ORDER BY amount RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW",
        "2:44 the window is ordered by 'amount' | write ORDER BY event_time",
    );
    over(
        "ORDER BY event_time DESC RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW",
        "2:44 the window is ordered from the newest event to the oldest | drop DESC",
    );
    over(
        "ORDER BY event_time, tx_id RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW",
        "2:56 the window is ordered by more than the event time",
    );
    over(
        "RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW",
        "the window has no ORDER BY",
    );
    let frame = |frame: &str, expected: &str| {
        over(
            &format!("ORDER BY event_time {frame} AND CURRENT ROW"),
            expected,
        );
    };
    frame(
        "RANGE BETWEEN INTERVAL '30 dayz' PRECEDING",
        "2:78 '30 dayz' is not a length of time | did you mean '30 days'?",
    );
    frame(
        "RANGE BETWEEN INTERVAL '30' PRECEDING",
        "2:78 '30' has no unit | INTERVAL '30 seconds', or minutes, hours, days",
    );
    frame(
        "RANGE BETWEEN INTERVAL 30 DAY PRECEDING",
        "2:78 the length of an INTERVAL stands in quotes | INTERVAL '30 day'",
    );
    frame(
        "RANGE BETWEEN 86400 PRECEDING",
        "2:69 86400 is not a length of time | RANGE counts time: INTERVAL '86400 seconds' PRECEDING",
    );
    frame(
        "ROWS BETWEEN INTERVAL '1 day' PRECEDING",
        "ROWS counts events, and INTERVAL '1 day' is a length of time | use RANGE BETWEEN INTERVAL '1 day'",
    );
    frame(
        "ROWS BETWEEN 1.5 PRECEDING",
        "2:68 '1.5' is not a number of rows | use a whole number",
    );
    let clause = |clause: &str, expected: &str| {
        let view = format!(
            "CREATE VIEW v AS SELECT card_id, count(*) OVER d1 AS n\n{clause}\nWINDOW d1 AS $W"
        );
        check(&view, expected);
    };
    clause("FROM tx WHERE amount > 'x'", "2:24 'x' is not a number");
    clause(
        "FROM tx WHERE amount",
        "2:15 WHERE takes a condition, and 'amount' is a number",
    );
    clause(
        "FROM tx WHERE event_time > 2024",
        "> cannot take a time and a number | a time is written",
    );
    clause(
        "FROM tx WHERE event_time > '2024'",
        "2:28 '2024' is not a time | write '2025-01-31'",
    );
    clause(
        "FROM tx WHERE sum(n) OVER d1 > 3",
        "2:15 WHERE looks at one event",
    );
    clause(
        "FROM tx GROUP BY card_id",
        "2:18 GROUP BY gives one row a group",
    );
    clause(
        "FROM tx JOIN tx u USING (card_id)",
        "2:14 a feature view reads one stream, without joins",
    );
    clause(
        "FROM (SELECT * FROM tx)",
        "2:7 a feature view reads a stream, and FROM has something else",
    );
    clause("", "the view names no stream | add FROM, and one of tx");
    check(
        "CREATE VIEW v OPTIONS (resolution = '1 minute') AS SELECT card_id, count(*) OVER $W AS n FROM tx",
        "a view's options stand in WITH (…)",
    );
    check(
        "CREATE MATERIALIZED VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx",
        "a view is MATERIALIZED here without saying so",
    );
}

/// The planner passes over many of these, or says of none where it stands.
#[test]
fn clauses_without_effect_are_refused() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| {
        let got = problems(view);
        wrong.note(view, &got, expected);
    };
    let select = "SELECT card_id, count(*) OVER $W AS n FROM tx";
    let head = |head: &str, expected: &str| {
        check(&format!("-- a view\nCREATE {head} AS {select}"), expected);
    };
    head("VIEW v", "ok");
    head("OR REPLACE VIEW v", "ok");
    head(
        "OR ALTER VIEW v",
        "2:8 a view is what its file says: there is none to replace | CREATE VIEW name AS",
    );
    head(
        "TEMPORARY VIEW v",
        "2:8 a view is kept up for as long as its file has it, and is not TEMPORARY",
    );
    head(
        "TEMP VIEW v",
        "2:8 a view is kept up for as long as its file has it",
    );
    head("ALGORITHM = MERGE VIEW v", "2:8 a view has no ALGORITHM");
    head("SECURE VIEW v", "2:8 SECURE has no effect on a view");
    head(
        "MATERIALIZED VIEW v",
        "2:8 a view is MATERIALIZED here without saying so",
    );
    head(
        "VIEW IF NOT EXISTS v",
        "2:13 a view is what its file says, whatever was there before",
    );
    head("VIEW v COPY GRANTS", "2:15 a view has no GRANTS");
    head(
        "VIEW v CLUSTER BY (card_id)",
        "2:15 a view's state is ordered by its entity",
    );
    head("VIEW v TO x", "2:15 a view writes TO no table");
    head(
        "VIEW v COMMENT = 'x'",
        "2:15 a view has no COMMENT | write it above the view, behind --",
    );
    head(
        "VIEW s.v",
        "2:13 a view is in no schema, and this one is 's.v' | CREATE VIEW v AS SELECT …",
    );
    head(
        "VIEW v (a, b)",
        "2:16 a view's columns are named in its SELECT, and not in a list",
    );
    let after = |clause: &str, expected: &str| {
        check(&format!("CREATE VIEW v AS {select}\n{clause}"), expected);
        check(&format!("CREATE VIEW v AS ({select}\n{clause})"), expected);
    };
    after("", "ok");
    after("LIMIT ALL", "ok");
    after(
        "ORDER BY n",
        "2:1 ORDER BY has no meaning for a view that is asked for one entity at a time | drop",
    );
    after("LIMIT 5", "2:1 LIMIT has no meaning");
    after("LIMIT 5, 5", "2:1 LIMIT has no meaning");
    after("OFFSET 5", "2:1 OFFSET has no meaning");
    after("FETCH FIRST 5 ROWS ONLY", "2:1 FETCH has no meaning");
    after("SETTINGS a = 1", "2:1 a view has no SETTINGS");
    after("FOR UPDATE", "2:1 a view locks nothing");
    after("FOR SHARE", "2:1 a view locks nothing");
    after("FOR XML AUTO", "2:1 a view locks nothing");
    after("FORMAT JSON", "2:1 a view has no FORMAT");
    after(
        "|> WHERE n > 1",
        "2:1 a view is one SELECT, and |> makes another one of it",
    );
    after("|> AS x", "2:1 a view is one SELECT");
    after(
        &format!("UNION ALL {select}"),
        "2:1 UNION is not kept up | make one view of each part",
    );
    after(&format!("EXCEPT {select}"), "2:1 EXCEPT is not kept up");
    after(
        "PREWHERE amount > 1",
        "2:1 PREWHERE is not kept up | write WHERE",
    );
    after(
        "START WITH n = 1 CONNECT BY n = 2",
        "2:1 CONNECT BY follows rows",
    );
    after(
        "LATERAL VIEW explode(n) u AS b",
        "2:1 LATERAL VIEW makes several rows of an event",
    );
    after("GROUP BY ALL", "2:1 GROUP BY gives one row a group");
    after("CLUSTER BY card_id", "2:1 CLUSTER BY is not kept up");
    after("DISTRIBUTE BY card_id", "2:1 DISTRIBUTE BY is not kept up");
    after("SORT BY card_id", "2:1 SORT BY is not kept up");
    after(
        "HAVING n > 1",
        "2:1 HAVING and QUALIFY filter answers, which a look-up cannot do",
    );
    after(
        "QUALIFY n > 1",
        "2:1 HAVING and QUALIFY filter answers, which a look-up cannot do",
    );
    after(
        "TABLESAMPLE BERNOULLI (10)",
        "2:1 a sample of the events would be another one each time",
    );
    after(
        "SAMPLE 10",
        "2:1 a sample of the events would be another one each time",
    );
    after("WITH (NOLOCK)", "2:1 a stream has no hints for its reader");
    after(
        "(NOLOCK)",
        "2:1 a stream or a view is named without brackets | FROM transactions t",
    );
    after(
        "PARTITION (p0)",
        "2:1 a view reads all partitions of its stream's topic",
    );
    after(
        "WITH ORDINALITY",
        "2:1 events have no number in their table",
    );
    after(
        "t (a, b)",
        "2:4 columns keep the names that their stream or view gives them",
    );
    let first = |words: &str, expected: &str| {
        let rest = "card_id, count(*) OVER $W AS n FROM tx";
        check(
            &format!("CREATE VIEW v AS SELECT\n{words} {rest}"),
            expected,
        );
    };
    first("ALL", "ok");
    first("/*+ a hint */", "ok");
    first(
        "DISTINCT",
        "2:1 SELECT DISTINCT is not kept up | drop DISTINCT",
    );
    first(
        "DISTINCT ON (card_id)",
        "2:1 DISTINCT ON keeps one event of several",
    );
    first("TOP 5", "2:1 TOP has no meaning");
    check(
        &format!("CREATE VIEW v AS\nWITH a AS (SELECT 1) {select}"),
        "2:1 a view is one SELECT, and WITH puts another one before it",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n\nINTO x FROM tx",
        "2:1 a view writes INTO no table",
    );
    check(
        "CREATE VIEW v AS\nVALUES (1)",
        "2:1 a view is a SELECT, and this is something else",
    );
    check(
        "CREATE VIEW v AS\nTABLE tx",
        "2:1 a view is a SELECT, and this is something else",
    );
    check(
        "CREATE VIEW v AS FROM tx SELECT card_id, count(*) OVER $W AS n",
        "ok",
    );
    check(
        &format!("CREATE VIEW u AS {select} WHERE n > 1;\nCREATE VIEW v AS {select}\nLIMIT 3"),
        "3:1 LIMIT has no meaning",
    );
    let view = "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";
    let inputs =
        "CREATE VIEW i AS SELECT t.amount, v.n FROM tx t JOIN v\nTABLESAMPLE (10) USING (card_id)";
    wrong.note(
        inputs,
        &render(plan(view, inputs)),
        "2:1 a sample of the events",
    );
}

/// What a function is not, and a window that builds on another one.
#[test]
fn what_is_said_of_a_call_has_an_effect() {
    let wrong = Wrong::default();
    let item = |item: &str, expected: &str| {
        let view = format!("CREATE VIEW v AS SELECT card_id,\n{item} FROM tx WINDOW d1 AS $W");
        let got = problems(&view);
        wrong.note(&view, &got, expected);
    };
    item(
        "round(sum(amount) OVER d1) FILTER (WHERE approved) AS s",
        "2:28 round() is no aggregate, and FILTER would have no effect on it | it belongs to the aggregate inside",
    );
    item(
        "abs(sum(amount) OVER d1) OVER d1 AS s",
        "2:26 abs() is no aggregate, and OVER would have no effect on it",
    );
    item(
        "abs(DISTINCT sum(amount) OVER d1) AS s",
        "2:1 abs() is no aggregate, and DISTINCT would have no effect on it",
    );
    item(
        "sum(5)(amount) OVER d1 AS s",
        "2:1 sum() has two lists of arguments",
    );
    item(
        "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY amount) OVER d1 AS s",
        "2:29 WITHIN GROUP is of all rows, and OVER says of which events | approx_percentile_cont(x, 0.9) OVER",
    );
    item(
        "count(*) OVER (d1 PARTITION BY card_id ORDER BY event_time) AS n",
        "2:1 a window's name stands after OVER without brackets",
    );
    let window = |window: &str, expected: &str| {
        let view = format!(
            "CREATE VIEW v AS SELECT card_id, count(*) OVER x AS n FROM tx WINDOW w AS $W,\n{window}"
        );
        let got = problems(&view);
        wrong.note(&view, &got, expected);
    };
    window(
        "x AS w",
        "2:6 window 'x' builds on window 'w' | write it whole: x AS (PARTITION BY",
    );
    window("x AS (w)", "2:7 window 'x' builds on window 'w'");
    window(
        "x AS (w PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)",
        "2:7 window 'x' builds on window 'w'",
    );
}

#[test]
fn modifiers_without_effect_are_refused() {
    let wrong = Wrong::default();
    let item = |item: &str, expected: &str| {
        let view = format!("CREATE VIEW v AS SELECT card_id,\n{item} OVER $W AS x FROM tx");
        let got = problems(&view);
        wrong.note(&view, &got, expected);
    };
    for call in [
        "count(DISTINCT n)",
        "count(DISTINCT 2)",
        "sum(DISTINCT n)",
        "avg(DISTINCT n)",
        "var_samp(DISTINCT amount)",
        "median(DISTINCT amount)",
        "percentile_cont(DISTINCT amount, 0.9)",
        "array_agg(DISTINCT n)",
        "bit_xor(DISTINCT n)",
        "max(DISTINCT n)",
        "bool_and(DISTINCT approved)",
        "any_value(DISTINCT n)",
        "first_value(n) IGNORE NULLS",
        "last_value(n) IGNORE NULLS",
        "last_value(n) RESPECT NULLS",
        "array_agg(n) IGNORE NULLS",
        "nth_value(n, 2) RESPECT NULLS",
        "lag(n, 2) RESPECT NULLS",
    ] {
        item(call, "ok");
    }
    item(
        "count(DISTINCT *)",
        "2:7 count(DISTINCT …) names no column whose values it counts | count(DISTINCT terminal_id)",
    );
    item("count(DISTINCT 1)", "2:7 count(DISTINCT …) names no column");
    item(
        "decayed_sum(DISTINCT amount, INTERVAL '1 hour')",
        "2:13 decayed_sum() does not tell equal values apart: DISTINCT has no effect on it | drop DISTINCT; count,",
    );
    item(
        "corr(DISTINCT amount, n)",
        "2:6 corr() does not tell equal values apart",
    );
    item(
        "covar_samp(DISTINCT amount, n)",
        "2:12 covar_samp() does not tell",
    );
    item(
        "regr_slope(DISTINCT amount, n)",
        "2:12 regr_slope() does not tell",
    );
    item(
        "stddev(DISTINCT amount)",
        "2:8 stddev() does not tell equal values apart: DISTINCT has no effect on it | sqrt(var_samp(DISTINCT x)",
    );
    item(
        "approx_distinct(DISTINCT card_id)",
        "2:17 approx_distinct() does not tell equal values apart: DISTINCT has no effect on it | drop DISTINCT: it counts",
    );
    item(
        "approx_percentile_cont(DISTINCT amount, 0.9)",
        "2:24 approx_percentile_cont() does not tell equal values apart: DISTINCT has no effect on it | percentile_cont(",
    );
    item(
        "approx_median(DISTINCT amount)",
        "| median(DISTINCT x) OVER …",
    );
    item(
        "lag(DISTINCT n)",
        "2:5 lag() does not tell equal values apart",
    );
    item(
        "last_value(DISTINCT n)",
        "2:12 last_value() does not tell equal values apart",
    );
    item(
        "nth_value(n, 2) IGNORE NULLS",
        "2:17 IGNORE NULLS has no effect on nth_value() | last_value(x) IGNORE NULLS gives the newest value",
    );
    item(
        "lag(n) IGNORE NULLS",
        "2:8 IGNORE NULLS has no effect on lag() | last_value(x) IGNORE",
    );
    item(
        "sum(n) IGNORE NULLS",
        "2:8 IGNORE NULLS has no effect on sum() | drop it: nulls are skipped",
    );
    item(
        "sum(n IGNORE NULLS)",
        "2:7 IGNORE NULLS has no effect on sum()",
    );
    item(
        "count(*) IGNORE NULLS",
        "2:10 IGNORE NULLS has no effect on count()",
    );
    item(
        "avg(n) RESPECT NULLS",
        "2:8 RESPECT NULLS has no effect on avg() | drop it, or take",
    );
    item(
        "lag(n, 1.5)",
        "2:1 lag() looks back a fixed number of events, at least one",
    );
    item(
        "nth_value(n, 1.5)",
        "2:1 nth_value() counts from the frame's first event, by a fixed number",
    );
}

/// The planner would cast what is none, and events would leave the view.
#[test]
fn a_filter_and_a_case_take_conditions() {
    let wrong = Wrong::default();
    let item = |item: &str, expected: &str| {
        let view = format!("CREATE VIEW v AS SELECT card_id,\n{item} AS x FROM tx WINDOW d1 AS $W");
        let got = problems(&view);
        wrong.note(&view, &got, expected);
    };
    for condition in [
        "approved",
        "NOT approved",
        "NULL",
        "n > 1",
        "card_id LIKE 'a%'",
        "n IN (1, 2)",
    ] {
        item(
            &format!("count(*) FILTER (WHERE {condition}) OVER d1"),
            "ok",
        );
        item(
            &format!("sum(CASE WHEN {condition} THEN 1 END) OVER d1"),
            "ok",
        );
    }
    item(
        "CASE n WHEN 1 THEN 2 END + count(*) OVER d1",
        "'n' is a column of one event",
    );
    item("sum(CASE n WHEN 1 THEN 2 END) OVER d1", "ok");
    item("CASE WHEN sum(n) OVER d1 > 1 THEN 1 END", "ok");
    item(
        "count(*) FILTER (WHERE terminal_id) OVER d1",
        "2:24 FILTER takes a condition, and 'terminal_id' is text | compare it: WHERE terminal_id = 'x', or terminal_id IS",
    );
    item(
        "count(*) FILTER (WHERE n) OVER d1",
        "2:24 FILTER takes a condition, and 'n' is a number | compare it: WHERE n > 0, or n IS NOT NULL",
    );
    item(
        "count(*) FILTER (WHERE amount + 1) OVER d1",
        "2:24 FILTER takes a condition, and this is a number | compare it: WHERE … > 0",
    );
    item(
        "count(*) FILTER (WHERE 1) OVER d1",
        "2:10 FILTER takes a condition, and this is a number",
    );
    item(
        "count(*) FILTER (WHERE event_time) OVER d1",
        "2:24 FILTER takes a condition, and 'event_time' is a time | compare it: WHERE event_time > TIMESTAMP '",
    );
    item(
        "sum(CASE WHEN n THEN 1 END) OVER d1",
        "2:15 WHEN takes a condition, and 'n' is a number | compare it: WHEN n > 0, or n IS NOT NULL",
    );
    item(
        "sum(n) FILTER (WHERE CASE WHEN terminal_id THEN true END) OVER d1",
        "2:32 WHEN takes a condition, and 'terminal_id' is text | compare it: WHEN terminal_id = 'x'",
    );
    item(
        "CASE WHEN sum(n) OVER d1 THEN 1 END",
        "2:6 WHEN takes a condition, and this is a number",
    );
    let view = "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";
    let check = |inputs: &str, expected: &str| {
        let got = render(plan(view, inputs));
        wrong.note(inputs, &got, expected);
    };
    check(
        "CREATE VIEW i AS SELECT CASE WHEN t.approved THEN 1 ELSE 0 END AS x FROM tx t",
        "ok",
    );
    check(
        "CREATE VIEW i AS SELECT CASE WHEN t.card_id THEN 1 ELSE 0 END AS x FROM tx t",
        "WHEN takes a condition, and 'card_id' is text",
    );
}

#[test]
fn names_are_such_that_files_and_tables_can_have_them() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| {
        let got = problems(view);
        wrong.note(view, &got, expected);
    };
    let named = |name: &str, expected: &str| {
        check(
            &format!("CREATE VIEW {name} AS SELECT card_id, count(*) OVER $W AS n FROM tx"),
            expected,
        );
    };
    named("\"Card activity.2\"", "ok");
    named(&"v".repeat(128), "ok");
    named(
        &"v".repeat(129),
        "1:13 the view has a name of 129 bytes, and 128 are the most",
    );
    named(
        "\"\"",
        "1:13 the view has an empty name | a name has letters, digits and _",
    );
    named(
        "\"a/b\"",
        "1:13 the view is named 'a/b', which is no name for a file or a column",
    );
    named("\"..\"", "1:13 the view is named '..', which is no name");
    named(
        "\"a\u{1}b\"",
        "1:13 the view is named 'a�b', which is no name",
    );
    let column = |name: &str, expected: &str| {
        let view = format!(
            "CREATE VIEW v AS SELECT card_id,\ncount(*) OVER d1 AS {name} FROM tx WINDOW d1 AS $W"
        );
        check(&view, expected);
    };
    column("\"n of a day\"", "ok");
    column("\"\"", "2:21 the column has an empty name");
    column(
        "\"a/b\"",
        "2:21 the column is named 'a/b', which is no name for a file or a column",
    );
    column(&"n".repeat(129), "2:21 the column has a name of 129 bytes");
    let view = "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";
    let inputs =
        |inputs: &str, expected: &str| wrong.note(inputs, &render(plan(view, inputs)), expected);
    inputs(
        "CREATE VIEW i AS SELECT t.amount, t.amount / 2 AS half FROM tx t",
        "ok",
    );
    inputs(
        "CREATE VIEW i AS SELECT t.amount, t.amount / 2 FROM tx t",
        "1:35 the column needs a name of letters, digits and _ | add AS name",
    );
    inputs(
        "CREATE VIEW \"i/i\" AS SELECT t.amount FROM tx t",
        "1:13 the view is named 'i/i'",
    );
    check(
        &format!("{view};\n{view}"),
        "2:13 'v' is declared twice | every stream and every view has a name of its own",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS a__b FROM tx;\n\
         CREATE VIEW v__a AS SELECT card_id, count(*) OVER $W AS b FROM tx",
        "2:37 a feature of view 'v' is named 'v__a__b' in training sets, as this one would be",
    );
}

#[test]
fn what_a_planner_says_of_itself_is_said_of_the_view() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| {
        let got = problems(view);
        wrong.note(view, &got, expected);
    };
    let item = |item: &str, expected: &str| {
        let view = format!("CREATE VIEW v AS SELECT card_id,\n{item} AS x FROM tx WINDOW d1 AS $W");
        check(&view, expected);
    };
    item(
        "last_value(n) FILTER (WHERE approved) OVER d1",
        "2:15 last_value() takes no FILTER | last_value(CASE WHEN … THEN x END) IGNORE NULLS OVER …",
    );
    item(
        "first_value(n) FILTER (WHERE approved) OVER d1",
        "2:16 first_value() takes no FILTER | first_value(CASE WHEN … THEN x END) IGNORE NULLS OVER …",
    );
    item(
        "lag(n) FILTER (WHERE approved) OVER d1",
        "2:8 lag() takes no FILTER | last_value(CASE WHEN … THEN x END) IGNORE NULLS OVER …",
    );
    item("approx_distinct(card_id) OVER d1", "ok");
    item(
        "approx_distinct(amount) OVER d1",
        "2:1 approx_distinct() takes whole numbers, texts and times, and this is none of them | count(DISTINCT x) OVER …",
    );
    item(
        "sum(n) OVER (PARTITION BY card_id, card_id ORDER BY event_time)",
        "2:36 PARTITION BY names a column of the entity twice | name each of them once",
    );
    item(
        "sum(n) OVER (PARTITION BY lower(card_id) ORDER BY event_time)",
        "2:33 PARTITION BY names columns, and this is an expression | an entity is named by columns of the stream",
    );
    item(
        "array_agg(make_array(n, 1)) OVER d1",
        "2:1 an aggregate takes values of type List(Int64) here, which the state does not keep",
    );
    item(
        "sum(n) OVER (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 year' PRECEDING AND CURRENT ROW)",
        "a window of months or years has no fixed length | use days: INTERVAL '365 days'",
    );
    item(
        "sum(n) OVER (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '14 months' PRECEDING AND CURRENT ROW)",
        "| use days: INTERVAL '425 days'",
    );
    for exclude in ["CURRENT ROW", "GROUP", "TIES", "NO OTHERS"] {
        item(
            &format!(
                "sum(n) OVER (PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 3 PRECEDING AND CURRENT ROW\n\
                 EXCLUDE {exclude})"
            ),
            "3:1 'EXCLUDE' is not expected here, but ) | drop it: the row that is asked for and its ties never count",
        );
    }
    let clause = |clause: &str, expected: &str| {
        check(
            &format!(
                "CREATE VIEW v AS SELECT card_id, count(*) OVER d1 AS n\n{clause}\nWINDOW d1 AS $W"
            ),
            expected,
        );
    };
    clause(
        "FROM tx WHERE count(*) > 3",
        "2:15 WHERE looks at one event, and an aggregate is of many | WHERE chooses the events that count",
    );
    clause(
        "FROM tx WHERE 1",
        "WHERE takes a condition, and this is a number | compare it: WHERE … > 0",
    );
    let view = "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";
    check(
        &format!("{view};\nCREATE VIEW w AS SELECT card_id, sum(n) OVER $W AS s\nFROM v"),
        "3:6 a feature view reads a stream, and 'v' is a view | compute it in one view over the stream",
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| {
        let got = problems(view);
        wrong.note(view, &got, expected);
    };
    let view = "\u{feff}CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";
    check(view, "ok");
    check(
        &view.replace("count", "cuont"),
        "1:34 there is no function 'cuont'",
    );
    check(
        &view.replace("CREATE", "CREAT"),
        "1:1 'CREAT' is not expected here",
    );
    check(&format!("{view}\nLIMIT 3"), "2:1 LIMIT has no meaning");
}

#[test]
fn what_is_no_sql_is_said_with_what_is_likely_meant() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| {
        let got = problems(view);
        wrong.note(view, &got, expected);
    };
    let select = "CREATE VIEW v AS SELECT";
    check(
        &format!("{select} card_id\ncount(*) OVER $W AS n FROM tx"),
        "2:1 '(' is not expected here | does a comma lack before 'count'?",
    );
    check(
        &format!("{select} card_id, count(*) OVER $W AS n\nmax(n) OVER $W AS m FROM tx"),
        "2:1 'max' is not expected here | does a comma lack before 'max'?",
    );
    check(
        &format!("{select} card_id, count(*) OVER $W AS n,\n, max(n) OVER $W AS m FROM tx"),
        "2:1 ',' is not expected here",
    );
    check(
        &format!("{select} card_id, count(*) OVER $W AS n FRM tx"),
        "'FRM' is not expected here | did you mean FROM?",
    );
    check(
        &format!("{select} card_id, count(*) OVER d1 AS n FROM tx\nWINDWO d1 AS $W"),
        "2:1 'd1' is not expected here | did you mean WINDOW?",
    );
    check(
        &format!(
            "{select} card_id, count(*) OVER (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEEDING AND CURRENT ROW) AS n FROM tx"
        ),
        "did you mean PRECEDING?",
    );
    check(
        &format!("{select} card_id, sum(n OVER $W AS n FROM tx"),
        "is the bracket closed that opens at 1:37?",
    );
    check(
        &format!("{select} card_id, sum(n)) OVER $W AS n FROM tx"),
        "1:40 ')' is not expected here | this bracket closes none",
    );
    check(
        &format!("{select} card_id, count(*) OVER $W AS 1h FROM tx"),
        "a name begins with a letter",
    );
    check(
        &format!(
            "{select} card_id, count(*) OVER d1 AS n FROM tx WINDOW d1 AS $W\nCREATE VIEW w AS SELECT 1"
        ),
        "2:1 'CREATE' is not expected here | end the statement before it with ;",
    );
    check(
        &format!("{select} card_id, count(*) OVER $W FILTER (WHERE n > 0) AS n FROM tx"),
        "with WHERE, and before OVER",
    );
    check(
        "CREATE VIEW v WITH (resolution '1 minute') AS SELECT 1",
        "WITH (resolution = '1 minute', late = '1 hour')",
    );
    check(
        "CREATE VIEW my-view AS SELECT 1",
        "a name has letters, digits and _",
    );
    check(
        "CREAT VIEW v AS SELECT 1",
        "1:1 'CREAT' is not expected here",
    );
    check("SELECT 'a", "1:8 a text begins here, and no quote ends it");
    check("SELECT ’a’", "plain quotes");
    check("/* no end", "nothing ends it");
}

#[test]
fn mistakes_in_inputs_are_named() {
    let view = "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";
    let wrong = Wrong::default();
    let check = |inputs: &str, expected: &str| {
        let got = render(plan(view, inputs));
        wrong.note(inputs, &got, expected);
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
        "no stream stands first in FROM",
    );
    let join = |join: &str, expected: &str| {
        check(
            &format!("CREATE VIEW i AS SELECT t.amount, v.n FROM tx t\n{join}"),
            expected,
        );
    };
    join(
        "JOIN v USING (crad_id)",
        "2:15 view 'v' is of 'card_id', and is joined on 'crad_id' | JOIN v USING (card_id)",
    );
    join(
        "JOIN v USING (terminal_id)",
        "2:15 view 'v' is of 'card_id', and is joined on 'terminal_id' | JOIN v USING (card_id)",
    );
    join(
        "JOIN v USING card_id",
        "put brackets around it: USING (card_id)",
    );
    join(
        "JOIN v",
        "2:6 view 'v' is not joined on its entity 'card_id' | JOIN v USING (card_id)",
    );
    join(
        "JOIN v ON card_id",
        "2:11 a view is joined on its entity's columns, and this is 'card_id'",
    );
    join(
        "JOIN v ON v.card_id = t.card_id AND v.n > 3",
        "2:11 a view is joined on its entity's columns, and this is",
    );
    join(
        "JOIN v ON v.card_id = t.card_id JOIN v w USING (card_id)",
        "2:11 ON leaves two columns 'card_id', and another join is USING (card_id) | JOIN v USING (card_id)",
    );
    join(
        "JOIN v t USING (card_id)",
        "2:6 two of the joined tables are named 't'",
    );
    check(
        "CREATE VIEW i AS SELECT card_id = 'x' AS a, v.n FROM tx t JOIN v ON v.card_id = t.card_id",
        "1:25 'card_id' is a column of more than one of the joined tables | say of which: t.card_id",
    );
    check(
        "CREATE VIEW i AS SELECT t.amount, sum(t.amount) AS s FROM tx t JOIN v USING (card_id)",
        "1:35 sum() is an aggregate, and inputs are of one event",
    );
    check(
        "CREATE VIEW i AS SELECT t.amount, v.n AS amount FROM tx t JOIN v USING (card_id)",
        "1:42 two columns of the view are named 'amount'",
    );
}

#[test]
fn mistakes_in_sources_are_named() {
    let wrong = Wrong::default();
    let check = |sources: &str, expected: &str| {
        let got = render(Project::plan(&file("sources.sql", sources), &[], None));
        wrong.note(sources, &got, expected);
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
    let with = |columns: &str, rest: &str| {
        format!("CREATE EXTERNAL TABLE s ({columns})\nSTORED AS KAFKA LOCATION 's' {rest}")
    };
    let order = "WITH ORDER (t)";
    check(
        &with("id VARCHAR NOT NULL, t TIMESTAMP, x DOUBEL", order),
        "1:62 there is no type 'DOUBEL' | did you mean 'DOUBLE'?",
    );
    check(
        &with("id VARCHAR, t DATETIME", order),
        "1:40 there is no type 'DATETIME' | did you mean 'TIMESTAMP'?",
    );
    check(
        &with("id VARCHAR NOT NULL, x NOT NULL, t TIMESTAMP", order),
        "1:47 column 'x' has no type | write its type behind its name: x DOUBLE NOT NULL",
    );
    check(
        &with("id VARCHAR NOT NULL DEFAULT 'x', t TIMESTAMP", order),
        "1:26 column 'id' is declared with a DEFAULT, which a stream cannot have | leave it out: what a message lacks",
    );
    check(
        &with("id VARCHAR PRIMARY KEY, t TIMESTAMP", order),
        "1:26 column 'id' is declared with a key, which a stream cannot have | leave it out, and say by which column",
    );
    check(
        &with("id VARCHAR CHECK (id <> ''), t TIMESTAMP", order),
        "1:26 column 'id' is declared with a CHECK, which a stream cannot have | leave it out: a view's WHERE",
    );
    check(
        &with("id VARCHAR, t TIMESTAMP, PRIMARY KEY (id)", order),
        "1:51 a stream has no constraint: PRIMARY KEY (id) | leave it out, and say",
    );
    check(
        &with(
            "id VARCHAR, t TIMESTAMP",
            "PARTITIONED BY (id) WITH ORDER (t)",
        ),
        "2:30 a stream has the partitions of its topic | leave PARTITIONED BY out",
    );
    check(
        &with("id VARCHAR, t TIMESTAMP", "WITH ORDER (t DESC)"),
        "2:35 events come in the order of time, the earliest first, and not by t DESC | WITH ORDER (t)",
    );
    check(
        &with("id VARCHAR, id INT, t TIMESTAMP", order),
        "column 'id' is declared twice",
    );
    check(
        &with("id VARCHAR, tt TIMESTAMP", order),
        "2:42 there is no column 't' | did you mean 'tt'?",
    );
    check(
        &with("id VARCHAR, t TIMESTAMP, x INTERVAL", order),
        "1:51 column 'x' is of type INTERVAL, which a stream cannot carry | a length of time is a number of seconds: x DOUBLE",
    );
    check(
        &with("id VARCHAR, t TIMESTAMP, x INT[]", order),
        "1:51 column 'x' is of type INT[], which a stream cannot carry | use BOOLEAN, an integer",
    );
    check(
        &with("\"\" VARCHAR, t TIMESTAMP", order),
        "1:26 a column has an empty name",
    );
    check(
        "CREATE EXTERNAL TABLE \"\" (t TIMESTAMP) STORED AS KAFKA LOCATION 's' WITH ORDER (t)",
        "the stream has an empty name",
    );
    let columns = "id VARCHAR, t TIMESTAMP";
    check(
        &with(columns, "WITH ORDR (t)"),
        "2:35 'ORDR' is not expected here | did you mean ORDER?",
    );
    check(
        &with(columns, "WITH (topik = 'x')"),
        "a stream's topic is its LOCATION, its time WITH ORDER (event_time)",
    );
    check(
        &with(columns, "OPTION ('id' 'id')"),
        "did you mean OPTIONS?",
    );
    check(
        &with(columns, "WITH ORDER (t) OPTIONS ('id' = 'id')"),
        "an option is a name and a value, without =",
    );
    check(
        &with(columns, "WITH ORDER (t) OPTIONS ('kee' 'id')"),
        "2:54 a stream has no option 'kee' | did you mean 'key'?",
    );
    check(
        &with(columns, "WITH ORDER (t) OPTIONS ('id' 'id', 'id' 't')"),
        "option 'id' is set twice",
    );
    check(
        "CREATE EXTERNAL TABLE s (id VARCHAR, t TIMESTAMP) STORED AS KAFKA WITH ORDER (t)",
        "1:1 the stream lacks LOCATION",
    );
    check(
        "CREATE EXTERNAL TABLE s (id VARCHAR NOT NULL t TIMESTAMP) STORED AS KAFKA LOCATION 's'",
        "1:46 't' is not expected here, but ',' or ')' after column definition | does a comma lack before 't'?",
    );
    check("SELECT 1", "sources.sql declares streams");
    check(
        "CREATE EXTERNAL TABLE s (id VARCHAR,, t TIMESTAMP)",
        "1:37 ",
    );
}
