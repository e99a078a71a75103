//! Text that a parser stops at.

use super::Wrong;

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| wrong.view(view, expected);
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
    let check = |view: &str, expected: &str| wrong.view(view, expected);
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
    for (clause, hint) in [
        ("GROUP BY card_id", "leave it out, a view has no GROUP BY"),
        ("HAVING n > 1", "leave it out, a view has no HAVING"),
    ] {
        let view =
            format!("{select} card_id, count(*) OVER d1 AS n FROM tx WINDOW d1 AS $W\n{clause}");
        let word = clause.split(' ').next().unwrap_or_default();
        check(
            &view,
            &format!("2:1 '{word}' is not expected here | {hint}"),
        );
    }
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
