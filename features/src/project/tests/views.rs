//! Feature views as they should be, and what is said of those that are not.

use super::{Wrong, plan};

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
    let check = |view: &str, expected: &str| wrong.view(view, expected);
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
