//! Input views: their columns and their joins.

use super::Wrong;

#[test]
fn mistakes_in_inputs_are_named() {
    let wrong = Wrong::default();
    let check = |inputs: &str, expected: &str| wrong.inputs(inputs, expected);
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
