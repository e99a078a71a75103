//! What a planner would say of itself is said of the view, in the words of who wrote it.

use super::{VIEW, Wrong};

/// What a planner and a parser say of these is about themselves.
#[test]
fn mistakes_of_a_first_view_are_said_in_words() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| wrong.view(view, expected);
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
        "count(*) FILTER (WHERE count(*) OVER d1 > 1) OVER d1 AS m",
        "2:24 FILTER looks at one event, and an aggregate is of many | FILTER chooses the events that count",
    );
    item(
        "sum(n) FILTER (WHERE n > 1 AND max(n) > 1) OVER d1 AS m",
        "2:32 FILTER looks at one event",
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
    item(
        "count(*) OVER () AS n",
        "2:10 the window has no PARTITION BY | name the entity whose events count",
    );
    item(
        "sum(n) OVER d1 AS s, count(*) OVER (ORDER BY event_time) AS n",
        "2:31 the window has no PARTITION BY",
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
        "RANGE BETWEEN INTERVAL '01:30:00' PRECEDING",
        "2:78 '01:30:00' has no unit | INTERVAL '1 hour 30 minutes'",
    );
    frame(
        "RANGE BETWEEN INTERVAL '300000 years' PRECEDING",
        "a window of months or years has no fixed length | use days; use UNBOUNDED PRECEDING for a lifetime",
    );
    frame(
        "RANGE BETWEEN INTERVAL '1 month 3 days' PRECEDING",
        "a window of months or years has no fixed length | use days: INTERVAL '33 days'",
    );
    frame(
        "RANGE BETWEEN INTERVAL '1 fortnite' PRECEDING",
        "2:78 '1 fortnite' is not a length of time | write a number and a unit: '30 seconds'",
    );
    frame(
        "RANGE BETWEEN INTERVAL 30 DAY PRECEDING",
        "2:78 the length of an INTERVAL stands in quotes | INTERVAL '30 day'",
    );
    frame(
        "RANGE BETWEEN INTERVAL NULL PRECEDING",
        "an INTERVAL is a fixed length of time, and NULL is none | write it in quotes, with its unit: INTERVAL '1 hour'",
    );
    item(
        "decayed_sum(amount, INTERVAL n HOUR) OVER d1 AS s",
        "an INTERVAL is a fixed length of time, and n is none",
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
    over(
        "ORDER BY event_time ROWS BETWEEN 3 PRECEDING AND 5 PRECEDING",
        "2:55 the frame ends before it starts: it covers no event | write the older edge first: 14 PRECEDING AND 7",
    );
    over(
        "ORDER BY event_time ROWS BETWEEN 0 PRECEDING AND 5 PRECEDING",
        "2:55 the frame covers no event",
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

#[test]
fn what_a_planner_says_of_itself_is_said_of_the_view() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| wrong.view(view, expected);
    let item = |item: &str, expected: &str| wrong.value(item, expected);
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
    check(
        &format!("{VIEW};\nCREATE VIEW w AS SELECT card_id, sum(n) OVER $W AS s\nFROM v"),
        "3:6 a feature view reads a stream, and 'v' is a view | compute it in one view over the stream",
    );
}
