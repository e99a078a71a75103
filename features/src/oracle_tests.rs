//! Answers against DataFusion's own window functions, run in batch over the same events.
//!
//! In batch a row stands in its own frame, and a look-up's does not: a frame that ends at the instant before the
//! row (`INTERVAL '1 microsecond' PRECEDING`) is the same thing.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::{EventTable, FeatureView, MemoryState, Origin, Project, SqlFile};

const SOURCES: &str = "CREATE EXTERNAL TABLE tx (
  tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, shop INT, amount DOUBLE, units BIGINT, approved BOOLEAN,
  event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('id' 'tx_id');";

/// Aggregates that each view takes over its windows; `$W` is the window. DataFusion's batch windows can slide
/// only aggregates that take a row back, so those that cannot (approx_distinct, bool_or) are not among them.
const AGGREGATES: [&str; 17] = [
    "count(*) OVER $W",
    "count(amount) OVER $W",
    "sum(amount) OVER $W",
    "avg(amount) OVER $W",
    "min(amount) OVER $W",
    "max(units) OVER $W",
    "sum(units) OVER $W",
    "var_samp(amount) OVER $W",
    "var_pop(units) OVER $W",
    "count(DISTINCT shop) OVER $W",
    "median(amount) OVER $W",
    "avg(units) OVER $W",
    "count(*) FILTER (WHERE NOT approved) OVER $W",
    "sum(amount * 2 + 1) FILTER (WHERE units > 3) OVER $W",
    "sum(amount) OVER $W / nullif(count(*) OVER $W, 0)",
    "coalesce(sum(amount) OVER $W, -1) / 4",
    "CASE WHEN max(amount) OVER $W > 20 THEN 'high' ELSE 'low' END",
];

const FRAMES: [&str; 5] = [
    "INTERVAL '10 seconds' PRECEDING AND CURRENT ROW",
    "INTERVAL '1 minute' PRECEDING AND CURRENT ROW",
    "INTERVAL '5 minutes' PRECEDING AND INTERVAL '30 seconds' PRECEDING",
    "INTERVAL '1 microsecond' PRECEDING AND CURRENT ROW",
    "UNBOUNDED PRECEDING AND CURRENT ROW",
];

fn view(name: &str, entity: &str, filter: &str) -> String {
    let mut items = vec![entity.to_owned()];
    for (f, frame) in FRAMES.iter().enumerate() {
        let window = format!("(PARTITION BY {entity} ORDER BY event_time RANGE BETWEEN {frame})");
        for (a, aggregate) in AGGREGATES.iter().enumerate() {
            items.push(format!("{} AS f{f}_a{a}", aggregate.replace("$W", &window)));
        }
    }
    format!(
        "CREATE VIEW {name} AS SELECT {} FROM tx {filter}",
        items.join(", ")
    )
}

/// A project of one file of views.
fn planned(sources: &str, views: &str) -> Project {
    let file = |path: &str, text: &str| SqlFile {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let project = Project::plan(&file("sources.sql", sources), &[file("v.sql", views)], None);
    project.unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Events with bursts, ties, gaps and nulls.
fn events(random: &mut Pcg64, schema: &Arc<Schema>, rows: usize) -> RecordBatch {
    let mut time = 1_700_000_000_000_000_i64;
    let mut times = Vec::new();
    for _ in 0..rows {
        time += match random.random_range(0..10) {
            0..3 => 0,
            3..5 => 1,
            5..9 => random.random_range(0..20_000_000),
            _ => random.random_range(0..400_000_000),
        };
        times.push(time);
    }
    let mut maybe = |share: f64| random.random_bool(share);
    let null: Vec<[bool; 4]> = (0..rows)
        .map(|_| [maybe(0.1), maybe(0.1), maybe(0.1), maybe(0.1)])
        .collect();
    let cards: Vec<String> = (0..rows)
        .map(|_| format!("c{}", random.random_range(0..4)))
        .collect();
    let mut number = |row: usize, column: usize, below: i64| {
        let value = random.random_range(0..below);
        (!null[row][column]).then_some(value)
    };
    let shops: Int32Array = (0..rows)
        .map(|r| number(r, 0, 5).map(|n| n as i32))
        .collect();
    let amounts: Float64Array = (0..rows)
        .map(|r| number(r, 1, 4_000).map(|n| n as f64 / 100.0))
        .collect();
    let units: Int64Array = (0..rows).map(|r| number(r, 2, 9)).collect();
    let approved: BooleanArray = (0..rows).map(|r| number(r, 3, 2).map(|n| n == 0)).collect();
    let ids: Vec<String> = (0..rows).map(|r| format!("t{r}")).collect();
    RecordBatch::try_new(
        Arc::clone(schema),
        vec![
            Arc::new(StringArray::from(ids)),
            Arc::new(StringArray::from(cards)),
            Arc::new(shops),
            Arc::new(amounts),
            Arc::new(units),
            Arc::new(approved),
            Arc::new(TimestampMicrosecondArray::from(times)),
        ],
    )
    .unwrap()
}

/// The view over all events at once, by DataFusion, in the order of tx_id.
fn batch_answers(view: &str, events: &RecordBatch) -> RecordBatch {
    let select = view.split_once(" AS SELECT ").unwrap().1;
    let select = select.replace("CURRENT ROW", "INTERVAL '1 microsecond' PRECEDING");
    let sql = format!("SELECT tx_id AS oracle_id, {select}");
    let context = SessionContext::new();
    let table = MemTable::try_new(events.schema(), vec![vec![events.clone()]]).unwrap();
    context.register_table("tx", Arc::new(table)).unwrap();
    let batches =
        runtime().block_on(async { context.sql(&sql).await.unwrap().collect().await.unwrap() });
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

fn assert_equal(expected: &ScalarValue, got: &ScalarValue, context: &str) {
    match (expected, got) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => {
            // A sliding sum forgets by subtraction, so the batch engine is the less exact of the two.
            let close = (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0);
            assert!(
                close || (a.is_nan() && b.is_nan()),
                "{context}: {a} in batch, {b} here"
            );
        }
        _ => assert_eq!(expected, got, "{context}"),
    }
}

/// Writes the events in random batches, some of them twice, in a random order; asks for each as of its time. The
/// number of tiles that were made.
fn check(seed: u64, entity: &str, filter: &str) -> usize {
    let mut random = Pcg64::seed_from_u64(seed);
    let view_sql = view("v", entity, filter);
    let project = planned(SOURCES, &view_sql);
    let view = &project.views[0];
    let events = events(&mut random, &project.streams[0].schema, 400);
    let mut state = MemoryState::default();
    for _ in 0..40 {
        let from = random.random_range(0..events.num_rows());
        let rows = random.random_range(1..=30.min(events.num_rows() - from));
        write(view, &events.slice(from, rows), &mut state);
    }
    write(view, &events, &mut state);

    let times = events
        .column(6)
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let keys: Vec<ArrayRef> = view
        .entity
        .iter()
        .map(|c| Arc::clone(events.column(*c)))
        .collect();
    let answers = view.answer(&state, &keys, times).unwrap();
    let tiles = same_with_tiles(view, &mut state, &keys, times, &answers);
    same_in_a_table(view, &events, &keys, times, &answers);
    let expected = batch_answers(&view_sql, &events);
    let ids = expected.column(0).as_string::<i32>();
    assert!(
        expected.num_rows() > 20,
        "the filter leaves enough to compare"
    );
    for row in 0..expected.num_rows() {
        let mine: usize = ids.value(row)[1..].parse().unwrap();
        for column in 1..expected.num_columns() {
            let wanted = ScalarValue::try_from_array(expected.column(column), row).unwrap();
            let got = ScalarValue::try_from_array(answers.column(column - 1), mine).unwrap();
            let name = expected.schema().field(column).name().clone();
            assert_equal(&wanted, &got, &format!("seed {seed}, event {mine}, {name}"));
        }
    }
    tiles
}

/// Asks for each row alone while tiles are being kept, and again over the tiles: the same bits.
fn same_with_tiles(
    view: &FeatureView,
    state: &mut MemoryState,
    keys: &[ArrayRef],
    times: &[i64],
    expected: &RecordBatch,
) -> usize {
    let mut made_at_first = 0;
    for round in 0..2 {
        let mut made = 0;
        for (row, time) in times.iter().enumerate() {
            let key: Vec<ArrayRef> = keys.iter().map(|column| column.slice(row, 1)).collect();
            let mut tiles = Vec::new();
            let keep = &mut |tile| tiles.push(tile);
            let got = view.answer_and_sum_up(state, &key, &[*time], keep).unwrap();
            assert_eq!(
                bits(&got),
                bits(&expected.slice(row, 1)),
                "event {row}, round {round}"
            );
            made += tiles.len();
            tiles.into_iter().for_each(|tile| state.put_tile(tile));
        }
        assert!(round == 0 || made == 0, "what was kept is not made again");
        made_at_first += made;
    }
    assert_eq!(
        bits(&view.answer(state, keys, times).unwrap()),
        bits(expected)
    );
    made_at_first
}

/// The same rows answered from columns in memory: the same bits.
fn same_in_a_table(
    view: &FeatureView,
    events: &RecordBatch,
    keys: &[ArrayRef],
    times: &[i64],
    expected: &RecordBatch,
) {
    let rows = events.num_rows();
    let kept: Vec<RecordBatch> = [0..rows / 3, rows / 4..rows, 0..rows / 2]
        .into_iter()
        .map(|part| {
            let (places, offsets) = (vec![0; part.len()], vec![0; part.len()]);
            let origin = Origin {
                partitions: &places,
                offsets: &offsets,
            };
            view.kept_of(&events.slice(part.start, part.len()), origin)
                .unwrap()
                .0
        })
        .collect();
    let table = EventTable::new(view, &kept).unwrap();
    assert_eq!(bits(&table.answer(keys, times).unwrap()), bits(expected));
}

/// Values as they are, floating point to the bit.
fn bits(batch: &RecordBatch) -> Vec<Vec<u8>> {
    let column = |column: &ArrayRef| {
        let one = crate::pack_rows(&[Arc::clone(column)]);
        one.concat()
    };
    batch.columns().iter().map(column).collect()
}

fn write(view: &crate::FeatureView, events: &RecordBatch, state: &mut MemoryState) {
    let places = vec![0; events.num_rows()];
    let offsets = vec![0; events.num_rows()];
    let origin = Origin {
        partitions: &places,
        offsets: &offsets,
    };
    assert!(view.state_rows(events, origin, state).unwrap().is_empty());
}

#[test]
fn answers_are_those_of_batch_sql() {
    for seed in 0..6 {
        assert!(check(seed, "card_id", "") > 0, "tiles are tested");
        check(seed, "card_id", "WHERE amount > 5 AND approved");
        check(seed, "shop, card_id", "WHERE shop IS NOT NULL");
    }
}

#[test]
fn a_late_event_counts_over_tiles() {
    for seed in 10..14 {
        let mut random = Pcg64::seed_from_u64(seed);
        let project = planned(SOURCES, &view("v", "card_id", ""));
        let view = &project.views[0];
        let events = events(&mut random, &project.streams[0].schema, 1_000);
        let times = events
            .column(6)
            .as_primitive::<TimestampMicrosecondType>()
            .values();
        let keys = [Arc::clone(events.column(1))];
        let mut whole = MemoryState::default();
        write(view, &events, &mut whole);
        let expected = view.answer(&whole, &keys, times).unwrap();
        // Some of the events come after look-ups have left their tiles, and make some of those stale.
        let late: Vec<usize> = (0..1_000).filter(|row| row % 100 == 55).collect();
        let mut state = MemoryState::default();
        for row in (0..1_000).filter(|row| !late.contains(row)) {
            write(view, &events.slice(row, 1), &mut state);
        }
        let mut tiles = Vec::new();
        view.answer_and_sum_up(&state, &keys, times, &mut |tile| tiles.push(tile))
            .unwrap();
        let made = tiles.len();
        tiles.into_iter().for_each(|tile| state.put_tile(tile));
        for row in late {
            write(view, &events.slice(row, 1), &mut state);
        }
        assert!(0 < state.tiles_len() && state.tiles_len() < made);
        assert_eq!(
            bits(&view.answer(&state, &keys, times).unwrap()),
            bits(&expected)
        );
    }
}

#[test]
fn a_quiet_entity_falls_to_zero_and_an_unknown_one_is_empty() {
    let sql = "CREATE VIEW v AS SELECT card_id, count(*) OVER w AS n, sum(amount) OVER w AS s FROM tx
        WINDOW w AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";
    let project = planned(SOURCES, sql);
    let view = &project.views[0];
    let schema = &project.streams[0].schema;
    let mut random = Pcg64::seed_from_u64(1);
    let events = events(&mut random, schema, 1);
    let mut state = MemoryState::default();
    write(view, &events, &mut state);
    let time = events
        .column(6)
        .as_primitive::<TimestampMicrosecondType>()
        .value(0);
    let hour = 3_600_000_000;
    let asked = [time, time + 1, time + hour, time + hour + 1, time - 1];
    let card = events.column(1).as_string::<i32>().value(0).to_owned();
    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![card; 5]))];
    let answer = view.answer(&state, &keys, &asked).unwrap();
    let counts = answer.column(1).as_primitive::<Int64Type>();
    assert_eq!(counts.values(), &[0, 1, 1, 0, 0]);
    let unknown: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![Some("nobody"), None]))];
    let answer = view
        .answer(&state, &unknown, &[time + 1, time + 1])
        .unwrap();
    assert_eq!(
        answer.column(1).as_primitive::<Int64Type>().values(),
        &[0, 0]
    );
    assert_eq!(answer.column(2).null_count(), 2);
    assert_eq!(
        schema.field(6).data_type(),
        &DataType::Timestamp(TimeUnit::Microsecond, None)
    );
}

/// The amounts of a card: 40 at 100 s, 30 at 70 s, 20 at 40 s, 10 at 10 s.
#[test]
fn functions_of_order_and_decay() {
    let sql = "CREATE VIEW v AS SELECT card_id,
            lag(amount) OVER o AS newest, lag(amount, 3) OVER o AS third, lag(amount, 5) OVER o AS fifth,
            nth_value(amount, 2) OVER w AS second_of_window, first_value(amount) OVER w AS first,
            decayed_count(INTERVAL '30 seconds') OVER w AS n, decayed_sum(amount, INTERVAL '30 seconds') OVER w AS s,
            date_part('epoch', event_time) - date_part('epoch', max(event_time) OVER w) AS idle,
            avg(amount) OVER r AS last_two
        FROM tx
        WINDOW o AS (PARTITION BY card_id ORDER BY event_time),
            r AS (PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 2 PRECEDING AND CURRENT ROW),
            w AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '70 seconds' PRECEDING AND CURRENT ROW)";
    let project = planned(SOURCES, sql);
    let view = &project.views[0];
    let second = 1_000_000;
    let schema = &project.streams[0].schema;
    let events = RecordBatch::try_new(
        Arc::clone(schema),
        vec![
            Arc::new(StringArray::from(vec!["a", "b", "c", "d"])),
            Arc::new(StringArray::from(vec!["card"; 4])),
            Arc::new(Int32Array::from(vec![None; 4])),
            Arc::new(Float64Array::from(vec![10.0, 20.0, 30.0, 40.0])),
            Arc::new(Int64Array::from(vec![None; 4])),
            Arc::new(BooleanArray::from(vec![None; 4])),
            Arc::new(TimestampMicrosecondArray::from(vec![
                10 * second,
                40 * second,
                70 * second,
                100 * second,
            ])),
        ],
    )
    .unwrap();
    let mut state = MemoryState::default();
    write(view, &events, &mut state);
    let asked = [100 * second, 100 * second + 1, 130 * second, 1_000 * second];
    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["card"; 4]))];
    let answer = view.answer(&state, &keys, &asked).unwrap();
    let column = |name: &str| -> Vec<Option<f64>> {
        let column =
            arrow::compute::cast(answer.column_by_name(name).unwrap(), &DataType::Float64).unwrap();
        column
            .as_primitive::<arrow::datatypes::Float64Type>()
            .iter()
            .collect()
    };
    let some = |values: [f64; 4]| values.map(Some).to_vec();
    assert_eq!(column("newest"), some([30.0, 40.0, 40.0, 40.0]));
    assert_eq!(column("third"), some([10.0, 20.0, 20.0, 20.0]));
    assert_eq!(column("fifth"), [None; 4]);
    assert_eq!(column("last_two"), some([25.0, 35.0, 35.0, 35.0]));
    assert_eq!(
        column("second_of_window"),
        [Some(30.0), Some(30.0), Some(40.0), None]
    );
    assert_eq!(column("first"), [Some(20.0), Some(20.0), Some(30.0), None]);
    let close = |name: &str, expected: [Option<f64>; 4]| {
        for (got, expected) in column(name).into_iter().zip(expected) {
            match (got, expected) {
                (Some(got), Some(expected)) => assert!(
                    (got - expected).abs() < 1e-5,
                    "{name}: {got}, not {expected}"
                ),
                (got, expected) => assert_eq!(got, expected, "{name}"),
            }
        }
    };
    // As of 100 s: 30 at one half-life, 20 at two; as of 130 s: 40 at one, 30 at two.
    close("n", [Some(0.75), Some(1.75), Some(0.75), Some(0.0)]);
    close("s", [Some(20.0), Some(60.0), Some(27.5), None]);
    close("idle", [Some(30.0), Some(0.000_001), Some(30.0), None]);
}

#[test]
fn an_event_that_cannot_be_evaluated_is_left_out_alone() {
    let sql = "CREATE VIEW v AS SELECT card_id, sum(10 / units) OVER w AS s FROM tx
        WINDOW w AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";
    let project = planned(SOURCES, sql);
    let view = &project.views[0];
    let mut random = Pcg64::seed_from_u64(5);
    let events = events(&mut random, &project.streams[0].schema, 60);
    let units = events.column(4).as_primitive::<Int64Type>();
    let zeros: Vec<usize> = (0..60)
        .filter(|r| units.is_valid(*r) && units.value(*r) == 0)
        .collect();
    assert!(!zeros.is_empty());
    let mut state = MemoryState::default();
    let nowhere = vec![0; 60];
    let offsets = vec![0; 60];
    let origin = Origin {
        partitions: &nowhere,
        offsets: &offsets,
    };
    let failed = view.state_rows(&events, origin, &mut state).unwrap();
    assert_eq!(
        failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(),
        zeros
    );
    assert_eq!(state.len(), 60 - zeros.len());
}

/// Of the times of one frame, tiles stand for events that a frame of rows does not read.
/// What one entity's events do to an aggregate is that aggregate's answer for that entity, and nobody else's.
#[test]
fn an_aggregate_that_fails_is_null() {
    let sources = SOURCES.replace("amount DOUBLE", "amount DECIMAL(38, 18)");
    let frame = "RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW";
    let text = format!(
        "CREATE VIEW v AS SELECT card_id, avg(amount) OVER w AS mean, count(*) OVER w AS n, sum(units) OVER w AS units
         FROM tx WINDOW w AS (PARTITION BY card_id ORDER BY event_time {frame})"
    );
    let plain = planned(SOURCES, &view("plain", "card_id", ""));
    let project = planned(&sources, &text);
    let view = &project.views[0];
    let events = events(
        &mut Pcg64::seed_from_u64(4),
        &plain.streams[0].schema,
        1_000,
    );
    let cards = events.column(1).as_string::<i32>();
    let times = events
        .column(6)
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let last = times.iter().max().unwrap() + 1;
    // From about 10^16 on, the mean has no room for more digits.
    let amounts = cards
        .iter()
        .map(|card| Some(10_i128.pow(if card == Some("c1") { 37 } else { 18 })));
    let amounts = Decimal128Array::from_iter(amounts)
        .with_precision_and_scale(38, 18)
        .unwrap();
    let mut columns = events.columns().to_vec();
    columns[3] = Arc::new(amounts);
    let schema = Arc::clone(&project.streams[0].schema);
    let events = RecordBatch::try_new(schema, columns).unwrap();
    let mut state = MemoryState::default();
    write(view, &events, &mut state);

    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["c0", "c1", "c2"]))];
    let answer = view.answer(&state, &keys, &[last; 3]).unwrap();
    let is_null: Vec<bool> = (0..3).map(|row| answer.column(1).is_null(row)).collect();
    assert_eq!(is_null, [false, true, false]);
    let counts = answer.column(2).as_primitive::<Int64Type>();
    assert!(
        counts.values().iter().all(|count| *count > 50),
        "{counts:?}"
    );
    let all: Vec<ArrayRef> = vec![Arc::clone(events.column(1))];
    let expected = view.answer(&state, &all, times).unwrap();
    assert!(expected.column(1).null_count() > 100 && expected.column(1).null_count() < 500);
    assert_eq!(expected.column(2).null_count(), 0);
    same_with_tiles(view, &mut state, &all, times, &expected);
    same_in_a_table(view, &events, &all, times, &expected);
}

#[test]
fn frames_of_rows_and_of_times_stand_in_one_view() {
    let rows =
        "(PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND 1 PRECEDING)";
    let text = view("v", "card_id", "");
    let text = text.replace(
        " FROM tx",
        &format!(", sum(units) OVER {rows} AS last FROM tx"),
    );
    for seed in 20..23 {
        let mut random = Pcg64::seed_from_u64(seed);
        let project = planned(SOURCES, &text);
        let view = &project.views[0];
        let events = events(&mut random, &project.streams[0].schema, 1_000);
        let times = events.column(6).as_primitive::<TimestampMicrosecondType>();
        let times = times.values();
        let keys = [Arc::clone(events.column(1))];
        let mut state = MemoryState::default();
        write(view, &events, &mut state);
        let expected = view.answer(&state, &keys, times).unwrap();
        assert!(same_with_tiles(view, &mut state, &keys, times, &expected) > 0);
    }
}
