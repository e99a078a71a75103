//! Views with a resolution: its options, and what needs single events.

use super::Wrong;

#[test]
fn mistakes_in_resolutions_have_a_place_and_a_hint() {
    let wrong = Wrong::default();
    let check = |options: &str, items: &str, expected: &str| {
        let view = format!("CREATE VIEW v WITH ({options})\nAS SELECT card_id, {items} FROM tx");
        wrong.view(&view, expected);
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
    wrong.inputs(
        "CREATE VIEW i WITH (resolution = '1 minute') AS SELECT t.amount FROM tx t",
        "inputs have no resolution",
    );
}
