//! Calls of functions: what stands beside their arguments, and the conditions in them.

use super::Wrong;

/// What a function is not, and a window that builds on another one.
#[test]
fn what_is_said_of_a_call_has_an_effect() {
    let wrong = Wrong::default();
    let item = |item: &str, expected: &str| wrong.item(item, expected);
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
    let window = |window: &str, expected: &str| wrong.window("x", window, expected);
    window(
        "x AS d1",
        "2:6 window 'x' builds on window 'd1' | write it whole: x AS (PARTITION BY",
    );
    window("x AS (d1)", "2:7 window 'x' builds on window 'd1'");
    window(
        "x AS (d1 PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)",
        "2:7 window 'x' builds on window 'd1'",
    );
}

/// What is wrong with a window is wrong before it is used.
#[test]
fn a_window_that_nothing_is_over_is_judged_too() {
    let wrong = Wrong::default();
    let window = |window: &str, expected: &str| wrong.window("d1", window, expected);
    window("b AS $W", "ok");
    window("b AS (PARTITION BY card_id ORDER BY event_time)", "ok");
    window(
        "b AS (PARTITION BY nocol ORDER BY event_time)",
        "2:20 there is no column 'nocol'",
    );
    window(
        "b AS (PARTITION BY card_id)",
        "2:20 the window has no ORDER BY | write ORDER BY event_time",
    );
    window(
        "b AS (PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 3 PRECEDING AND 5 FOLLOWING)",
        "2:48 a frame that reaches past the current row",
    );
    window(
        "c AS $W,\nb AS (ORDER BY event_time);\nCREATE VIEW x AS SELECT card_id, count(*) OVER $W AS n FROM tx",
        "3:1 the window has no PARTITION BY",
    );
    window(
        "b AS (PARTITION BY terminal_id ORDER BY event_time)",
        "the windows of a view have different PARTITION BY columns",
    );
    wrong.inputs(
        "CREATE VIEW i AS SELECT t.amount FROM tx t\nWINDOW w AS (PARTITION BY card_id)",
        "2:8 nothing is over window 'w': inputs are of one event | declare it in a feature view",
    );
}

#[test]
fn modifiers_without_effect_are_refused() {
    let wrong = Wrong::default();
    let item = |item: &str, expected: &str| {
        let view = format!("CREATE VIEW v AS SELECT card_id,\n{item} OVER $W AS x FROM tx");
        wrong.view(&view, expected);
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
    let item = |item: &str, expected: &str| wrong.value(item, expected);
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
    let inputs = |inputs: &str, expected: &str| wrong.inputs(inputs, expected);
    inputs(
        "CREATE VIEW i AS SELECT CASE WHEN t.approved THEN 1 ELSE 0 END AS x FROM tx t",
        "ok",
    );
    inputs(
        "CREATE VIEW i AS SELECT CASE WHEN t.card_id THEN 1 ELSE 0 END AS x FROM tx t",
        "WHEN takes a condition, and 'card_id' is text",
    );
}

/// A process that is refused memory ends, and on the same event again at each start.
#[test]
fn no_event_says_how_much_a_function_makes() {
    let wrong = Wrong::default();
    let item = |item: &str, expected: &str| wrong.value(item, expected);
    for fine in [
        "max(lpad(card_id, 12)) OVER d1",
        "max(lpad(card_id, -1)) OVER d1",
        "max(rpad(card_id, 1024, '0')) OVER d1",
        "lpad(max(card_id) OVER d1, 12)",
        "count(DISTINCT repeat(card_id, 64)) OVER d1",
        "max(repeat(lpad(card_id, 3), 2)) OVER d1",
        "sum(array_length(array_repeat(amount, 3))) OVER d1",
        "sum(array_length(array_resize(make_array(amount), 3))) OVER d1",
        "count(*) FILTER (WHERE array_has(range(-5, 6), CAST(n AS BIGINT))) OVER d1",
        "approx_percentile_cont(amount, 0.9) OVER d1",
        "approx_percentile_cont(amount, 0.9, 200) OVER d1",
    ] {
        item(fine, "ok");
    }
    item(
        "max(lpad(card_id, n)) OVER d1",
        "2:5 lpad() makes as much as a value says, and that of one event could take all memory | give it a number in the query itself, of 1024 at most: lpad(x, 12)",
    );
    item(
        "max(rpad(card_id, 1025)) OVER d1",
        "2:5 rpad() is to make 1025 of each value, which could take all memory | give it a number",
    );
    item(
        "max(lpad(card_id, 10 + n, '0')) OVER d1",
        "2:5 lpad() makes",
    );
    item(
        "lpad(max(card_id) OVER d1, max(n) OVER d1)",
        "2:1 lpad() makes",
    );
    item(
        "count(*) FILTER (WHERE repeat(card_id, n) = 'x') OVER d1",
        "2:24 repeat() makes as much as a value says",
    );
    item(
        "max(repeat(card_id, 65)) OVER d1",
        "2:5 repeat() is to make 65 of each value, which could take all memory | give it a number in the query itself, of 64 at most",
    );
    item(
        "max(repeat(lower(repeat(card_id, 64)), 64)) OVER d1",
        "2:5 repeat() repeats what is repeated already",
    );
    item(
        "sum(array_length(array_repeat(amount, n))) OVER d1",
        "2:18 array_repeat() makes as much as a value says",
    );
    item(
        "sum(array_length(array_resize(make_array(amount), n))) OVER d1",
        "2:18 array_resize() makes as much as a value says",
    );
    item(
        "sum(array_length(range(0, n))) OVER d1",
        "2:18 range() makes as much as a value says, and that of one event could take all memory | give it a number in the query itself, of 1024 at most: range(0, 12)",
    );
    item(
        "sum(array_length(generate_series(-600, 600))) OVER d1",
        "2:18 generate_series() is to make 1200",
    );
    item(
        "approx_percentile_cont(amount, 0.9, 9000000000000000000) OVER d1",
        "2:1 approx_percentile_cont() is to make 9000000000000000000",
    );
    wrong.condition(
        "lpad(card_id, n) = 'x'",
        "lpad() makes as much as a value says",
    );
    wrong.inputs(
        "CREATE VIEW i AS SELECT lpad(t.card_id, t.n) AS x FROM tx t",
        "1:25 lpad() makes as much as a value says",
    );
}
