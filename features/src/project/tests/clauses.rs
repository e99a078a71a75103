//! Clauses that have no meaning for a view, or no effect on it.

use super::Wrong;

/// The planner passes over many of these, or says of none where it stands.
#[test]
fn clauses_without_effect_are_refused() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| wrong.view(view, expected);
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
    wrong.inputs(
        "CREATE VIEW i AS SELECT t.amount, v.n FROM tx t JOIN v\nTABLESAMPLE (10) USING (card_id)",
        "2:1 a sample of the events",
    );
}
