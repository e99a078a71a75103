//! Names of views, of their columns and of inputs.

use super::{VIEW, Wrong, plan, render};

#[test]
fn names_are_such_that_files_and_tables_can_have_them() {
    let wrong = Wrong::default();
    let check = |view: &str, expected: &str| wrong.view(view, expected);
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
        wrong.item(&format!("count(*) OVER d1 AS {name}"), expected);
    };
    column("\"n of a day\"", "ok");
    column("\"\"", "2:21 the column has an empty name");
    column(
        "\"a/b\"",
        "2:21 the column is named 'a/b', which is no name for a file or a column",
    );
    column(&"n".repeat(129), "2:21 the column has a name of 129 bytes");
    let inputs = |inputs: &str, expected: &str| wrong.inputs(inputs, expected);
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
        &format!("{VIEW};\n{VIEW}"),
        "2:13 'v' is declared twice | every stream and every view has a name of its own",
    );
    check(
        &format!("{VIEW};\n{}", VIEW.replace("VIEW v", "VIEW \"V\"")),
        "2:13 'V' and 'v', which is declared before it, differ in case alone | every stream and every view has a name",
    );
    named(
        "\"TX\"",
        "1:13 'TX' and 'tx', which is declared before it, differ in case alone",
    );
    wrong.note(
        "a view with capitals in inputs",
        &render(plan(
            &VIEW.replace("VIEW v", "VIEW \"Card\""),
            "CREATE VIEW i AS SELECT t.amount, c.n FROM tx t JOIN \"Card\" c USING (card_id)",
        )),
        "ok",
    );
    check(
        "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS a__b FROM tx;\n\
         CREATE VIEW v__a AS SELECT card_id, count(*) OVER $W AS b FROM tx",
        "2:37 a feature of view 'v' is named 'v__a__b' in training sets, as this one would be",
    );
}
