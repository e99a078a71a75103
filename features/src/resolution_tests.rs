//! Views with a resolution: their frames against a count of every event, and folding against not folding, to the bit.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::*;
use arrow::datatypes::{Float64Type, Int64Type};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::state::{Over, Read};
use crate::{
    EventTable, FeatureView, Made, MemoryState, Origin, Project, SqlFile, StateError, StateReader,
    StateRow, StateWriter,
};

const SOURCES: &str = "CREATE EXTERNAL TABLE tx (
  tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, shop BIGINT, amount DOUBLE, event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('id' 'tx_id');";

/// The frames of each view: oldest edge, newest edge, µs.
const FRAMES: [(Option<i64>, Option<i64>); 5] = [
    (Some(60 * SECOND), None),
    (Some(3_700 * SECOND), None),
    (Some(7_205 * SECOND), Some(1_801 * SECOND)),
    (None, None),
    (None, Some(600 * SECOND)),
];
const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const START: i64 = 1_700_000_000 * SECOND;

/// A view over the first `frames` of [`FRAMES`]; with all of them some are lifetimes.
fn view(frames: usize) -> Arc<FeatureView> {
    let mut items = vec!["card_id".to_owned()];
    for (f, (start, end)) in FRAMES[..frames].iter().enumerate() {
        let edge = |us: &i64| format!("INTERVAL '{us} microseconds' PRECEDING");
        let start = start
            .as_ref()
            .map_or("UNBOUNDED PRECEDING".to_owned(), edge);
        let end = end.as_ref().map_or("CURRENT ROW".to_owned(), edge);
        let over = format!(
            "OVER (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN {start} AND {end})"
        );
        let aggregates = [
            "count(*)",
            "sum(amount)",
            "avg(amount)",
            "max(amount)",
            "count(DISTINCT shop)",
            "stddev(amount)",
            "sum(shop) FILTER (WHERE amount > 20)",
            "decayed_sum(amount, INTERVAL '1 hour')",
        ];
        for (a, aggregate) in aggregates.iter().enumerate() {
            items.push(format!("{aggregate} {over} AS f{f}_a{a}"));
        }
    }
    planned(&format!(
        "CREATE VIEW v WITH (resolution = '1 minute', late = '10 minutes') AS SELECT {} FROM tx",
        items.join(", ")
    ))
}

fn planned(view: &str) -> Arc<FeatureView> {
    let file = |path: &str, text: &str| SqlFile {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let project = Project::plan(&file("sources.sql", SOURCES), &[file("v.sql", view)], None);
    project
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .views
        .remove(0)
}

#[derive(Debug, Clone)]
struct Event {
    id: usize,
    card: &'static str,
    shop: Option<i64>,
    amount: Option<f64>,
    time: i64,
}

/// A busy card and a quiet one; bursts, ties and gaps.
fn events(random: &mut Pcg64, count: usize) -> Vec<Event> {
    let mut time = START;
    (0..count)
        .map(|id| {
            time += match random.random_range(0..100) {
                0..30 => 0,
                30..98 => random.random_range(0..9 * SECOND),
                _ => random.random_range(0..2_000 * SECOND),
            };
            Event {
                id,
                card: if random.random_bool(0.97) {
                    "busy"
                } else {
                    "quiet"
                },
                shop: random.random_bool(0.9).then(|| random.random_range(0..30)),
                amount: random
                    .random_bool(0.95)
                    .then(|| f64::from(random.random_range(-500..5_000)) / 10.0),
                time,
            }
        })
        .collect()
}

fn batch(view: &FeatureView, events: &[Event]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            events.iter().map(|e| format!("t{}", e.id)),
        )),
        Arc::new(StringArray::from_iter_values(events.iter().map(|e| e.card))),
        Arc::new(events.iter().map(|e| e.shop).collect::<Int64Array>()),
        Arc::new(events.iter().map(|e| e.amount).collect::<Float64Array>()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            events.iter().map(|e| e.time),
        )),
    ];
    RecordBatch::try_new(Arc::clone(&view.stream.schema), columns).unwrap()
}

fn write(view: &FeatureView, events: &[Event], state: &mut MemoryState) {
    let places = vec![0; events.len()];
    let offsets = vec![0; events.len()];
    let origin = Origin {
        partitions: &places,
        offsets: &offsets,
    };
    let failed = view.state_rows(&batch(view, events), origin, state);
    assert!(failed.unwrap().is_empty());
}

fn keys(view: &FeatureView, cards: &[&str]) -> (Vec<ArrayRef>, Vec<Vec<u8>>) {
    let column: ArrayRef = Arc::new(StringArray::from(cards.to_vec()));
    let packed = view.entity_keys(std::slice::from_ref(&column));
    (
        vec![column],
        packed.iter().flatten().map(<[u8]>::to_vec).collect(),
    )
}

fn bits(batch: &RecordBatch) -> Vec<Vec<u8>> {
    let column = |column: &ArrayRef| crate::pack_rows(&[Arc::clone(column)]).concat();
    batch.columns().iter().map(column).collect()
}

fn rows_of(view: &FeatureView, answer: &crate::Answer) -> RecordBatch {
    let columns = answer.features.iter().map(crate::Values::to_array);
    RecordBatch::try_new(Arc::clone(&view.schema), columns.collect()).unwrap()
}

fn floor(time: i64) -> i64 {
    time.div_euclid(MINUTE) * MINUTE
}

/// Whether an event counts as of `t`, by the rule in the documentation, word for word.
fn counts(event: &Event, (start, end): (Option<i64>, Option<i64>), t: i64) -> bool {
    let begins = start.is_none_or(|width| floor(t - width) <= event.time);
    begins && end.map_or(event.time < t, |width| event.time < floor(t - width))
}

#[test]
fn frames_begin_with_a_step() {
    let mut random = Pcg64::seed_from_u64(1);
    let view = view(5);
    let events = events(&mut random, 900);
    let last = events[899].time;
    let mut asked: Vec<i64> = (0..300)
        .map(|_| random.random_range(START - SECOND..last + 9_000 * SECOND))
        .collect();
    asked.extend(events.iter().step_by(7).map(|event| event.time));
    asked.extend((0..20).map(|step| floor(START) + step * 7 * MINUTE));
    let (key, _) = keys(&view, &vec!["busy"; asked.len()]);
    let mut state = MemoryState::default();
    write(&view, &events, &mut state);
    let answer = view.answer(&state, &key, &asked).unwrap();
    for (row, t) in asked.iter().enumerate() {
        for (f, frame) in FRAMES.into_iter().enumerate() {
            let covered = events
                .iter()
                .filter(|e| e.card == "busy" && counts(e, frame, *t));
            let covered: Vec<&Event> = covered.collect();
            let column = |a: usize| answer.column(1 + 8 * f + a);
            let count = column(0).as_primitive::<Int64Type>().value(row);
            assert_eq!(count, covered.len() as i64, "{frame:?} as of {t}");
            let sum: f64 = covered.iter().filter_map(|e| e.amount).sum();
            let got = column(1).as_primitive::<Float64Type>();
            let got = if got.is_null(row) {
                0.0
            } else {
                got.value(row)
            };
            assert!(
                (sum - got).abs() < 1e-6,
                "{frame:?} as of {t}: {sum}, {got}"
            );
            let shops: std::collections::BTreeSet<i64> =
                covered.iter().filter_map(|e| e.shop).collect();
            let distinct = column(4).as_primitive::<Int64Type>().value(row);
            assert_eq!(distinct, shops.len() as i64, "{frame:?} as of {t}");
        }
    }
    // From columns in memory: the same bits.
    let origin = Origin {
        partitions: &[0; 900],
        offsets: &[0; 900],
    };
    let (kept, _) = view.kept_of(&batch(&view, &events), origin).unwrap();
    let table = EventTable::new(&view, &[kept]).unwrap();
    assert_eq!(bits(&table.answer(&key, &asked).unwrap()), bits(&answer));
}

/// Events come late, out of order and twice, within what the view allows; rows are folded and tiles kept now and then:
/// answers have the bits of a state that has every event.
#[test]
fn folding_changes_no_answer() {
    for (seed, frames) in [(1, 3), (2, 5), (3, 5), (4, 2)] {
        let mut random = Pcg64::seed_from_u64(seed);
        let view = view(frames);
        let late = view.resolution().unwrap().late_us;
        let mut all = events(&mut random, 6_000);
        // Each arrives up to `late` after its time, some of them again.
        let again: Vec<Event> = all.iter().step_by(11).cloned().collect();
        all.extend(again);
        let mut arrivals: BTreeMap<(i64, usize), Event> = BTreeMap::new();
        for (number, event) in all.into_iter().enumerate() {
            let delay = match random.random_bool(0.3) {
                true => random.random_range(0..late),
                false => 0,
            };
            arrivals.insert((event.time + delay, number), event);
        }
        let (mut folded, mut whole) = (MemoryState::default(), MemoryState::default());
        let (mut newest, mut most_rows, mut compared) = (i64::MIN, 0, 0);
        let (key, packed) = keys(&view, &["busy", "quiet", "nobody"]);
        let arrivals: Vec<Event> = arrivals.into_values().collect();
        for events in arrivals.chunks(97) {
            write(&view, events, &mut folded);
            write(&view, events, &mut whole);
            newest = events.iter().map(|e| e.time).fold(newest, i64::max);
            let settled = floor(newest - late);
            if random.random_bool(0.5) {
                let old = match frames {
                    5 => settled - view.edges_us() - 4_000 * SECOND,
                    _ => i64::MIN,
                };
                for entity in &packed {
                    folded.fold(&view, entity, settled, old).unwrap();
                }
                most_rows = most_rows.max(folded.len());
            }
            let mut asked = vec![newest, newest + 1, newest + 100 * SECOND, settled];
            asked.push(random.random_range(settled..=newest));
            asked.push(floor(
                random.random_range(settled - 4_000 * SECOND..=settled),
            ));
            for t in asked {
                let mut tiles = Vec::new();
                let keep = &mut |tile| tiles.push(tile);
                let times = [t; 3];
                let got = view.look_up(&folded, &key, &times, keep).unwrap();
                let expected = view.answer(&whole, &key, &times).unwrap();
                assert!(!got.is_rounded);
                assert_eq!(
                    bits(&rows_of(&view, &got)),
                    bits(&expected),
                    "seed {seed}, as of {t}"
                );
                // Those that are over are kept, whether a late event will make them stale or not.
                tiles.retain(|tile| tile.span.end_us() <= newest && random.random_bool(0.5));
                tiles.into_iter().for_each(|tile| folded.put_tile(tile));
                compared += 1;
            }
        }
        assert!(compared > 300 && folded.tiles_len() > 0);
        let share = folded.len() as f64 / whole.len() as f64;
        println!(
            "seed {seed}: {} rows of {}, {share:.2}",
            folded.len(),
            whole.len()
        );
        assert!(share < 0.6, "{} of {}", folded.len(), whole.len());
        if frames == 5 {
            let (old, settled) = (
                floor(newest - late) - view.edges_us() - 4_000 * SECOND,
                floor(newest - late),
            );
            packed
                .iter()
                .for_each(|e| folded.fold(&view, e, settled, old).unwrap());
            let mut early = 0;
            crate::StateReader::scan(&folded, view.id, &packed[0], i64::MIN..old, &mut |_, _| {
                early += 1;
                true
            })
            .unwrap();
            println!(
                "a lifetime before the last {} s: {early} rows",
                (newest - old) / SECOND
            );
            assert!(
                early < 120,
                "a lifetime is a handful of totals, not {early} rows"
            );
        }
    }
}

/// A reader that keeps what a view makes of an entity's rows.
struct Keeping<'a> {
    state: &'a MemoryState,
    made: RefCell<Option<Made>>,
}

impl Over for Keeping<'_> {
    fn state(&self) -> &MemoryState {
        self.state
    }

    fn made_over(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        make: &mut dyn FnMut(&mut dyn Iterator<Item = (i64, &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        let mut rows = Vec::new();
        self.state.scan(view, entity, times, &mut |time, value| {
            rows.push((time, value.to_vec()));
            true
        })?;
        let mut made = self.made.borrow_mut();
        let make = || make(&mut rows.iter().map(|(time, value)| (*time, value.as_slice())));
        *made = made.take().or_else(make);
        Ok(made.clone())
    }
}

/// An entity whose rows are hundreds of totals stays in memory at the price of its rows.
#[test]
fn what_is_made_of_many_totals_takes_about_what_they_take() {
    let view = planned(
        "CREATE VIEW v WITH (resolution = '1 minute', late = '10 minutes') AS SELECT card_id, count(*) OVER w AS n,
         sum(amount) OVER w AS total, max(amount) OVER w AS top FROM tx WINDOW w AS (PARTITION BY card_id
         ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW)",
    );
    let events = events(&mut Pcg64::seed_from_u64(13), 20_000);
    let newest = events[events.len() - 1].time;
    let mut state = MemoryState::default();
    write(&view, &events, &mut state);
    let (key, packed) = keys(&view, &["busy"]);
    state
        .fold(&view, &packed[0], floor(newest), i64::MIN)
        .unwrap();
    let (mut rows, mut bytes) = (0, 0);
    state
        .scan(view.id, &packed[0], i64::MIN..i64::MAX, &mut |_, value| {
            rows += 1;
            bytes += value.len() + size_of::<i64>();
            true
        })
        .unwrap();
    assert!(500 < rows && rows < events.len() / 2, "{rows} rows");
    let keeping = Read(Keeping {
        state: &state,
        made: RefCell::default(),
    });
    let got = view.answer(&keeping, &key, &[newest]).unwrap();
    assert_eq!(
        bits(&got),
        bits(&view.answer(&state, &key, &[newest]).unwrap())
    );
    let made = keeping.0.made.into_inner().unwrap();
    let made_bytes = made.bytes.load(Ordering::Relaxed);
    println!("{rows} rows of {bytes} bytes; made of them: {made_bytes}");
    assert!(bytes / 4 < made_bytes && made_bytes < 16 * bytes);
}

/// What comes after its step was folded counts at once and stays, however often it is folded.
#[test]
fn a_very_late_event_counts() {
    let mut random = Pcg64::seed_from_u64(9);
    for frames in [3, 5] {
        let view = view(frames);
        let mut all = events(&mut random, 2_000);
        all.retain(|event| event.card == "busy");
        let newest = all.iter().map(|e| e.time).max().unwrap();
        let settled = floor(newest - view.resolution().unwrap().late_us);
        let (early, late): (Vec<Event>, Vec<Event>) =
            all.iter().cloned().partition(|event| event.id % 10 > 0);
        let (key, packed) = keys(&view, &["busy"]);
        let (mut folded, mut whole) = (MemoryState::default(), MemoryState::default());
        write(&view, &early, &mut folded);
        write(&view, &all, &mut whole);
        let old = if frames == 5 {
            settled - view.edges_us()
        } else {
            i64::MIN
        };
        folded.fold(&view, &packed[0], settled, old).unwrap();
        let before = folded.len();
        for events in late.chunks(20) {
            write(&view, events, &mut folded);
            let counted = |state: &MemoryState| {
                let answer = view.answer(state, &key, &[newest + 1]).unwrap();
                answer.column(9).as_primitive::<Int64Type>().value(0)
            };
            let once = counted(&folded);
            folded.fold(&view, &packed[0], settled, old).unwrap();
            assert_eq!(counted(&folded), once);
        }
        assert!(folded.len() < before + late.len() / 2);
        let asked = [settled, newest + 1];
        for t in asked {
            let got = view.answer(&folded, &key, &[t]).unwrap();
            let expected = view.answer(&whole, &key, &[t]).unwrap();
            for (index, field) in got.schema().fields().iter().enumerate().skip(1) {
                let number = |batch: &RecordBatch| {
                    let column = arrow::compute::cast(
                        batch.column(index),
                        &arrow::datatypes::DataType::Float64,
                    );
                    column.unwrap().as_primitive::<Float64Type>().value(0)
                };
                let (got, expected) = (number(&got), number(&expected));
                let close = (got - expected).abs() <= 1e-9 * expected.abs().max(1.0);
                assert!(close, "{}: {got}, not {expected}", field.name());
            }
        }
    }
}

/// As of a time inside a folded step an answer says that it is as of the step's start.
#[test]
fn a_settled_step_is_not_taken_apart() {
    let view = view(3);
    let minute = |minute: i64| floor(START) + minute * MINUTE;
    let all: Vec<Event> = (0..60)
        .map(|id| Event {
            id,
            card: "busy",
            shop: None,
            amount: Some(id as f64),
            time: minute(0) + id as i64 * SECOND * 3,
        })
        .collect();
    let (key, packed) = keys(&view, &["busy"]);
    let mut state = MemoryState::default();
    write(&view, &all, &mut state);
    let inside = minute(1) + 30 * SECOND;
    let exact = view.look_up(&state, &key, &[inside], &mut |_| ()).unwrap();
    state.fold(&view, &packed[0], minute(2), i64::MIN).unwrap();
    assert_eq!(state.len(), 22);
    let rounded = view.look_up(&state, &key, &[inside], &mut |_| ()).unwrap();
    let aligned = view
        .look_up(&state, &key, &[minute(1)], &mut |_| ())
        .unwrap();
    assert!(!exact.is_rounded && rounded.is_rounded && !aligned.is_rounded);
    let count = |answer: &crate::Answer| {
        let column = answer.features[9].to_array();
        column.as_primitive::<Int64Type>().value(0)
    };
    assert_eq!(
        [count(&exact), count(&rounded), count(&aligned)],
        [30, 20, 20]
    );
}

/// A total that stands where no span of its level begins is refused, and not looked for without an end.
#[test]
fn a_damaged_total_is_refused() {
    let view = view(3);
    let mut all = events(&mut Pcg64::seed_from_u64(11), 500);
    all.retain(|event| event.card == "busy");
    let settled = floor(all.iter().map(|event| event.time).max().unwrap());
    let (key, packed) = keys(&view, &["busy"]);
    let mut state = MemoryState::default();
    write(&view, &all, &mut state);
    state.fold(&view, &packed[0], settled, i64::MIN).unwrap();
    let mut totals = Vec::new();
    let all = i64::MIN..i64::MAX;
    crate::StateReader::scan(&state, view.id, &packed[0], all, &mut |time, value| {
        if value[0] == 1 {
            totals.push((time, value.to_vec()));
        }
        true
    })
    .unwrap();
    let (start_us, value) = totals.swap_remove(totals.len() / 2);
    let levels = view.ladder().levels();
    for (level, time_us) in [
        (levels, start_us),
        (u8::MAX, start_us),
        (0, start_us + 1),
        (levels - 1, start_us),
    ] {
        let mut state = state.clone();
        let mut damaged = value.clone();
        damaged[1] = level;
        state.put(StateRow {
            view: view.id,
            entity: packed[0].clone(),
            time_us,
            unique: crate::Total::UNIQUE,
            origin: (0, 0),
            value: damaged,
        });
        let said = format!("a total of level {level} at {time_us} µs: no such span begins there");
        let error = view.answer(&state, &key, &[settled]).unwrap_err();
        assert!(error.to_string().contains(&said), "{error}");
        let error = state.fold(&view, &packed[0], settled, i64::MIN);
        assert!(error.unwrap_err().to_string().contains(&said));
    }
}

/// These bytes are state: a change of them needs a way to read the old ones.
#[test]
fn the_rows_are_pinned() {
    let view = planned(
        "CREATE VIEW v WITH (resolution = '1 minute') AS SELECT card_id, count(*) OVER w AS n, sum(amount) OVER w AS s,
         max(amount) OVER w AS top FROM tx WINDOW w AS
         (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)",
    );
    let event = |id: usize| Event {
        id,
        card: "c",
        shop: None,
        amount: Some(id as f64 / 2.0),
        time: floor(START) + id as i64,
    };
    let mut state = MemoryState::default();
    write(&view, &[event(0), event(1), event(2)], &mut state);
    let (_, packed) = keys(&view, &["c"]);
    let rows = |state: &MemoryState| {
        let mut rows = Vec::new();
        let all = i64::MIN..i64::MAX;
        crate::StateReader::scan(state, view.id, &packed[0], all, &mut |time, value| {
            let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
            rows.push((time - floor(START), hex));
            true
        })
        .unwrap();
        rows
    };
    assert_eq!(rows(&state)[1], (1, "0001000000000000e03f".to_owned()));
    state
        .fold(&view, &packed[0], floor(START) + MINUTE, i64::MIN)
        .unwrap();
    assert_eq!(rows(&state), [(0, PINNED_TOTAL.to_owned())]);
    assert_eq!(view.id, PINNED_VIEW);
}

const PINNED_TOTAL: &str =
    "0100d0ae4873030000000000000001800000000000000301bff800000000000001bff0000000000000";
const PINNED_VIEW: u32 = 387_510_782;

/// What decides the state has another id, so that sums of one are never read as those of another.
#[test]
fn a_change_of_what_is_summed_up_is_another_view() {
    let view = |options: &str, aggregate: &str| {
        planned(&format!(
            "CREATE VIEW v {options} AS SELECT card_id, {aggregate} OVER (PARTITION BY card_id ORDER BY event_time \
             RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM tx"
        ))
    };
    let minute = "WITH (resolution = '1 minute')";
    let ids = [
        view("", "sum(amount)").id,
        view(minute, "sum(amount)").id,
        view(minute, "max(amount)").id,
        view("WITH (resolution = '2 minutes')", "sum(amount)").id,
    ];
    let distinct: std::collections::BTreeSet<u32> = ids.into_iter().collect();
    assert_eq!(distinct.len(), 4);
    // How long events are kept decides nothing of the kind, and an exact view keeps what its aggregates take.
    let later = view(
        "WITH (resolution = INTERVAL '60 seconds', late = '2 hours')",
        "sum(amount)",
    );
    assert_eq!(later.id, ids[1]);
    assert_eq!(later.resolution().unwrap().late_us, 7_200 * SECOND);
    assert_eq!(view("", "max(amount)").id, ids[0]);
}
