//! Texts beside numbers and times.

use super::Wrong;

/// The planner would cast the text, and events with one that is no number would leave the view.
#[test]
fn a_text_is_not_compared_with_a_number() {
    let wrong = Wrong::default();
    let condition = |condition: &str, expected: &str| wrong.condition(condition, expected);
    let item = |item: &str, expected: &str| wrong.value(item, expected);
    condition(
        "terminal_id > 5",
        "2:15 'terminal_id' is text, and > would read it as a number, which fails where it is none | '5' in quotes is a \
         text; TRY_CAST(terminal_id AS BIGINT) is a number, and null where the text is none",
    );
    condition("terminal_id = 5", "2:15 'terminal_id' is text, and = would");
    condition(
        "5.5 <= terminal_id",
        "2:22 'terminal_id' is text, and <= would",
    );
    condition(
        "terminal_id <> 5.5",
        "2:15 'terminal_id' is text, and != would read it as a number, which fails where it is none | '5.5' in quotes is \
         a text; TRY_CAST(terminal_id AS DOUBLE)",
    );
    condition(
        "n = terminal_id",
        "2:19 'terminal_id' is text, and = would read it as a number, which fails where it is none | CAST(… AS VARCHAR) \
         makes a text of a number; TRY_CAST(terminal_id AS BIGINT)",
    );
    condition(
        "CAST(amount AS DECIMAL(12, 2)) = terminal_id",
        "TRY_CAST(terminal_id AS DECIMAL(12, 2))",
    );
    condition(
        "terminal_id IS DISTINCT FROM 5",
        "2:15 'terminal_id' is text",
    );
    condition(
        "terminal_id BETWEEN 1 AND 5",
        "2:15 'terminal_id' is text, and BETWEEN would",
    );
    condition("n BETWEEN 1 AND terminal_id", "2:31 'terminal_id' is text");
    condition(
        "terminal_id IN (1, 2)",
        "2:15 'terminal_id' is text, and IN would",
    );
    condition("terminal_id NOT IN ('1', 2)", "2:15 'terminal_id' is text");
    condition("n IN (1, terminal_id)", "2:24 'terminal_id' is text");
    condition(
        "lower(terminal_id) > 5",
        "2:21 this is text, and > would read it as a number, which fails where it is none | '5' in quotes is a text; \
         TRY_CAST(… AS BIGINT)",
    );
    condition(
        "approved OR NOT terminal_id = 5",
        "2:31 'terminal_id' is text",
    );
    for right in [
        "terminal_id = '5'",
        "terminal_id IN ('1', '2')",
        "terminal_id BETWEEN '1' AND '5'",
        "TRY_CAST(terminal_id AS BIGINT) > 5",
        "CAST(terminal_id AS DOUBLE) BETWEEN 1 AND 5",
        "terminal_id = CAST(n AS VARCHAR)",
        "terminal_id || n = 'a5'",
        "terminal_id = NULL",
        "coalesce(terminal_id, '0') = '0'",
        "n > '5'",
        "n IN ('5', 6)",
        "amount BETWEEN '1' AND 5",
        "length(terminal_id) > 5",
        "event_time > '2024-01-01'",
        "event_time BETWEEN '2024-01-01' AND TIMESTAMP '2024-01-31 12:00:00'",
        "CAST(event_time AS DATE) = '2024-01-01'",
        "date_part('hour', event_time) > 5",
    ] {
        condition(right, "ok");
    }
    item(
        "count(*) FILTER (WHERE terminal_id > 5) OVER d1",
        "2:24 'terminal_id' is text, and > would",
    );
    item(
        "sum(CASE WHEN terminal_id = 5 THEN 1 END) OVER d1",
        "2:15 'terminal_id' is text, and = would",
    );
    item(
        "sum(CASE terminal_id WHEN 5 THEN 1 END) OVER d1",
        "2:10 'terminal_id' is text, and CASE would",
    );
    item("sum(CASE terminal_id WHEN '5' THEN 1 END) OVER d1", "ok");
    item(
        "count(nullif(terminal_id, 0)) OVER d1",
        "2:14 'terminal_id' is text, and nullif() would read it as a number, which fails where it is none | '0' in quotes",
    );
    item(
        "max(coalesce(n, terminal_id)) OVER d1",
        "2:17 'terminal_id' is text, and coalesce() would",
    );
    item(
        "max(greatest(terminal_id, 0)) OVER d1",
        "2:14 'terminal_id' is text, and greatest() would",
    );
    item("count(nullif(terminal_id, '0')) OVER d1", "ok");
    item("count(nullif(n, 0)) OVER d1", "ok");
    item(
        "last_value(terminal_id) OVER d1 > 5",
        "2:1 this is text, and > would",
    );
    item(
        "sum(n + terminal_id) OVER d1",
        "+ cannot take a number and text",
    );
    wrong.inputs(
        "CREATE VIEW i AS SELECT t.card_id > 5 AS x FROM tx t",
        "'card_id' is text, and > would",
    );
}

#[test]
fn a_text_is_not_compared_with_a_time() {
    let wrong = Wrong::default();
    let condition = |condition: &str, expected: &str| wrong.condition(condition, expected);
    condition(
        "terminal_id > event_time",
        "2:15 'terminal_id' is text, and > would read it as a time, which fails where it is none | CAST(… AS VARCHAR) \
         makes a text of a time; TRY_CAST(terminal_id AS TIMESTAMP) is a time, and null where the text is none",
    );
    condition(
        "CAST(event_time AS DATE) = terminal_id",
        "2:42 'terminal_id' is text, and = would read it as a date, which fails where it is none | CAST(… AS VARCHAR) \
         makes a text of a date; TRY_CAST(terminal_id AS DATE)",
    );
    condition(
        "terminal_id < TIMESTAMP '2024-01-31 12:00:00'",
        "2:15 'terminal_id' is text, and < would read it as a time",
    );
    condition(
        "event_time BETWEEN '2024-01-01' AND terminal_id",
        "'terminal_id' is text, and BETWEEN would read it as a time",
    );
    condition(
        "event_time IN ('2024-01-01', lower(terminal_id))",
        "this is text, and IN would read it as a time",
    );
    condition(
        "date_part('hour', terminal_id) > 5",
        "2:33 'terminal_id' is text, and date_part() would read it as a time",
    );
    for right in [
        "event_time > TRY_CAST(terminal_id AS TIMESTAMP)",
        "CAST(event_time AS VARCHAR) > terminal_id",
        "event_time IN ('2024-01-01', '2024-01-02 12:00:00')",
        "date_part('hour', event_time) > 5",
    ] {
        condition(right, "ok");
    }
}
