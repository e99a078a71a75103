//! Input views: their columns and their joins.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};

use super::{VIEW, Wrong, plan};
use crate::category_code;

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
        "CREATE VIEW i AS SELECT t.terminal_id, v.n FROM tx t JOIN v USING (card_id)",
        "ok",
    );
    check(
        "CREATE VIEW i AS SELECT v.n, t.tx_id AS x FROM tx t JOIN v USING (card_id)",
        "1:30 input 'x' is the event's id, which is another one each time",
    );
    check(
        "CREATE VIEW i AS SELECT t.event_time, v.n FROM tx t JOIN v USING (card_id)",
        "a model takes numbers, booleans and text | take a part of it: date_part('hour', …)",
    );
    check(
        "CREATE VIEW i AS SELECT NULL AS a, v.n FROM tx t JOIN v USING (card_id)",
        "input 'a' is of type Null, and a model takes numbers, booleans and text",
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
fn a_text_is_a_category_beside_numbers() {
    let inputs = "CREATE VIEW i AS SELECT t.amount, t.terminal_id AS place, t.approved, lower(t.terminal_id) AS low, v.n \
                  FROM tx t JOIN v ON v.card_id = t.card_id";
    let project = plan(VIEW, inputs).unwrap();
    let inputs = project.input_view("i").unwrap();
    let texts: Vec<bool> = inputs.are_texts().collect();
    assert_eq!(texts, [false, true, false, true, false]);
    let places = ["grocery", "", "travel"];
    let nullable = |row: usize| (row != 2).then_some(places[row]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN)])),
        Arc::new(StringArray::from_iter((0..3).map(nullable))),
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        Arc::new(StringArray::from(places.to_vec())),
        Arc::new(Int64Array::from(vec![7, 8, 9])),
    ];
    let batch = RecordBatch::try_new(inputs.schema.clone(), columns).unwrap();
    let (grocery, travel, empty) = (
        category_code("grocery"),
        category_code("travel"),
        category_code(""),
    );
    let nan = f32::NAN;
    let expected = [
        [1.5, grocery, 1.0, grocery, 7.0],
        [nan, empty, 0.0, empty, 8.0],
        [nan, nan, nan, travel, 9.0],
    ];
    // NaN is no number that equals itself.
    let shown = |value: &f32| if value.is_nan() { -1.0 } else { *value };
    let matrix: Vec<f32> = inputs.matrix(&batch).unwrap().iter().map(shown).collect();
    let expected: Vec<f32> = expected.concat().iter().map(shown).collect();
    assert_eq!(matrix, expected);
}
