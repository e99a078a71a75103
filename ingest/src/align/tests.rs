#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;

const A: Source = source(0, 0);
const B: Source = source(0, 1);
const C: Source = source(1, 0);

const fn source(stream: usize, partition: i32) -> Source {
    Source { stream, partition }
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn settings() -> AlignSettings {
    AlignSettings {
        patience: seconds(10),
        max_rows: 1_000,
        high_rows: 4,
        low_rows: 2,
        max_bytes: usize::MAX,
        high_bytes: usize::MAX,
        low_bytes: usize::MAX,
    }
}

/// How many bytes a message has.
const SIZE: usize = 10;

/// Rows with these event times, deletions where there is none; the only column repeats them. Offsets count on from `first_offset`, and every third has
/// a header with the offset in it.
fn rows(first_offset: i64, times: &[i64]) -> Rows {
    let schema = Schema::new(vec![Field::new("t", DataType::Int64, false)]);
    let events = times.iter().copied().filter(|time| *time != NO_TIME);
    let column = Arc::new(Int64Array::from_iter_values(events));
    let offsets: Vec<i64> = (first_offset..).take(times.len()).collect();
    Rows {
        batch: RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap(),
        times: times.to_vec(),
        kafka_ts: offsets.iter().map(|offset| offset * 10).collect(),
        sizes: vec![SIZE; times.len()],
        headers: headers(offsets.iter().copied()),
        deletions: (0..times.len())
            .filter(|entry| times[*entry] == NO_TIME)
            .map(|entry| (entry, offsets[entry].to_string()))
            .collect(),
        offsets,
    }
}

fn headers(offsets: impl Iterator<Item = i64>) -> Vec<RowHeader> {
    let thirds = offsets.enumerate().filter(|(_, offset)| offset % 3 == 0);
    let header = |(row, offset): (usize, i64)| RowHeader {
        row,
        name: "third",
        value: offset.to_string().into_bytes(),
    };
    thirds.map(header).collect()
}

/// A buffer that counts offsets by itself.
struct Harness {
    align: Align,
    next: BTreeMap<Source, i64>,
}

impl Harness {
    fn new(settings: AlignSettings, sources: &[Source]) -> Self {
        let mut align = Align::new(settings);
        for source in sources {
            align.add(*source, 0, Some(0));
        }
        Self {
            align,
            next: BTreeMap::new(),
        }
    }

    fn push(&mut self, source: Source, times: &[i64]) {
        let next = self.next.entry(source).or_default();
        let rows = rows(*next, times);
        *next += times.len() as i64;
        self.align.push(source, rows, *next);
    }

    /// The event times that leave at this clock, by stream, as one list.
    fn release(&mut self, clock: u64) -> Vec<i64> {
        let released = self.align.release(seconds(clock)).unwrap();
        released.batches.iter().flat_map(times_of).collect()
    }
}

fn times_of(batch: &StreamBatch) -> Vec<i64> {
    assert_eq!(batch.origin.len(), batch.batch.num_rows());
    assert_eq!(batch.kafka_ts.len(), batch.batch.num_rows());
    for ((_, offset), kafka_ts) in batch.origin.iter().zip(&batch.kafka_ts) {
        assert_eq!(*kafka_ts, offset * 10);
    }
    let expected = headers(batch.origin.iter().map(|(_, offset)| *offset));
    assert_eq!(batch.headers, expected);
    let times = batch.batch.column(0).as_primitive::<Int64Type>();
    times.values().to_vec()
}

#[test]
fn a_partition_that_is_behind_bounds_the_others() {
    let mut h = Harness::new(settings(), &[A, B]);
    h.push(A, &[10, 20, 30]);
    h.push(B, &[1, 15]);
    assert_eq!(h.release(0), [10, 1, 15]);
    assert_eq!(h.release(0), [] as [i64; 0]);
    h.push(B, &[29, 31]);
    assert_eq!(h.release(0), [20, 30, 29]);
}

#[test]
fn the_frontier_is_one_for_all_streams() {
    let mut h = Harness::new(settings(), &[A, C]);
    h.push(A, &[10, 20, 30]);
    h.push(C, &[5, 20]);
    let released = h.align.release(seconds(0)).unwrap();
    let by_stream: Vec<_> = released
        .batches
        .iter()
        .map(|batch| (batch.stream, times_of(batch)))
        .collect();
    assert_eq!(by_stream, [(0, vec![10, 20]), (1, vec![5, 20])]);
}

#[test]
fn a_partition_at_its_end_holds_nobody_back() {
    let mut h = Harness::new(settings(), &[A, B]);
    h.push(A, &[10, 20]);
    h.push(B, &[5]);
    h.align.at_end(B);
    assert!(!h.align.caught_up());
    assert_eq!(h.release(0), [10, 20, 5]);
    assert!(!h.align.caught_up());
    h.align.at_end(A);
    assert!(h.align.caught_up() && h.align.is_caught_up(A));
    // What comes then goes at once.
    h.push(A, &[21]);
    assert!(!h.align.caught_up());
    assert_eq!(h.release(0), [21]);
    // Having delivered, it may have more: until it says that it is at its end again, it counts.
    h.push(B, &[30]);
    assert_eq!(h.release(0), [] as [i64; 0]);
    h.align.at_end(A);
    assert_eq!(h.release(0), [30]);
}

#[test]
fn an_empty_partition_that_is_behind_is_waited_for_until_patience_ends() {
    let mut h = Harness::new(settings(), &[A, B]);
    h.push(A, &[10]);
    assert_eq!(h.release(100), [] as [i64; 0]);
    assert_eq!(h.release(109), [] as [i64; 0]);
    let released = h.align.release(seconds(110)).unwrap();
    assert_eq!(times_of(&released.batches[0]), [10]);
    assert_eq!(released.out_of_patience, [B]);
    // It stays ignored, and is named once.
    h.push(A, &[20]);
    let released = h.align.release(seconds(111)).unwrap();
    assert_eq!(times_of(&released.batches[0]), [20]);
    assert_eq!(released.out_of_patience, []);
    // Once it delivers, it counts again.
    h.push(B, &[25]);
    h.push(A, &[30]);
    assert_eq!(h.release(112), [25]);
    assert_eq!(h.release(113), [] as [i64; 0]);
    assert_eq!(h.release(123), [30]);
}

#[test]
fn late_rows_leave_at_once() {
    let mut h = Harness::new(settings(), &[A, B]);
    h.push(A, &[100]);
    h.push(B, &[100]);
    assert_eq!(h.release(0), [100, 100]);
    // B is empty and behind, so nothing newer may leave; what is late may.
    h.push(A, &[50, 99, 101]);
    let released = h.align.release(seconds(1)).unwrap();
    assert_eq!(times_of(&released.batches[0]), [50, 99]);
    assert_eq!(released.late_rows, 2);
}

#[test]
fn a_deletion_leaves_behind_the_rows_before_it_and_waits_for_nothing_else() {
    let mut h = Harness::new(settings(), &[A, B]);
    h.push(A, &[NO_TIME, 10, NO_TIME, 40, NO_TIME]);
    h.push(B, &[20]);
    let left = |h: &mut Harness| -> Vec<i64> {
        let released = h.align.release(seconds(0)).unwrap();
        assert_eq!(released.late_rows, 0);
        let of = |batch: &StreamBatch| batch.deletions.iter().map(|d| d.offset).collect::<Vec<_>>();
        released.batches.iter().flat_map(of).collect()
    };
    assert_eq!(left(&mut h), [0, 2]);
    assert_eq!(h.align.position(A), Some(3));
    h.align.at_end(B);
    assert_eq!(left(&mut h), [4]);
    h.push(A, &[NO_TIME]);
    assert_eq!(left(&mut h), [5]);
    assert_eq!(h.align.position(A), Some(6));
}

#[test]
fn order_inside_a_partition_is_kept_even_where_times_are_not_in_order() {
    let mut h = Harness::new(settings(), &[A, B]);
    h.push(A, &[10, 40, 20]);
    h.push(B, &[30]);
    assert_eq!(h.release(0), [10, 30]);
    h.align.at_end(B);
    assert_eq!(h.release(0), [40, 20]);
}

#[test]
fn a_step_has_at_most_max_rows_and_takes_the_oldest() {
    let limited = AlignSettings {
        max_rows: 3,
        ..settings()
    };
    let mut h = Harness::new(limited, &[A, B]);
    h.push(A, &[1, 3, 5, 7]);
    h.push(B, &[2, 4, 6, 8]);
    assert_eq!(h.release(0), [1, 3, 2]);
    assert_eq!(h.release(0), [5, 4, 6]);
    assert_eq!(h.release(0), [7]);
}

#[test]
fn a_full_partition_takes_no_more_until_it_is_half_empty() {
    let limited = AlignSettings {
        max_rows: 1,
        ..settings()
    };
    let mut h = Harness::new(limited, &[A]);
    assert_eq!(h.align.room(A), 4);
    h.push(A, &[1, 2, 3]);
    assert_eq!(h.align.room(A), 1);
    h.push(A, &[4]);
    for expected in [0, 0, 0, 3] {
        assert_eq!(h.align.room(A), expected, "{} buffered", h.align.buffered());
        h.release(0);
    }
    assert_eq!(h.align.room(B), 0, "not ours");
}

#[test]
fn a_step_ends_with_the_message_that_brings_it_to_its_bytes() {
    let limited = AlignSettings {
        max_bytes: 3 * SIZE - 1,
        ..settings()
    };
    let mut h = Harness::new(limited, &[A, B]);
    h.push(A, &[1, 3, 5, 7]);
    h.push(B, &[2, 4, 6, 8]);
    assert_eq!(h.release(0), [1, 3, 2]);
    assert_eq!(h.release(0), [5, 4, 6]);
    assert_eq!(h.release(0), [7]);
    // One message goes, however large.
    let mut h = Harness::new(
        AlignSettings {
            max_bytes: 1,
            ..settings()
        },
        &[A],
    );
    h.push(A, &[1, 2]);
    assert_eq!(h.release(0), [1]);
    assert_eq!(h.release(0), [2]);
}

#[test]
fn a_partition_is_full_by_its_bytes_too() {
    let limited = AlignSettings {
        max_rows: 1,
        high_rows: 1_000,
        low_rows: 500,
        high_bytes: 4 * SIZE,
        low_bytes: 2 * SIZE,
        ..settings()
    };
    let mut h = Harness::new(limited, &[A]);
    h.push(A, &[1, 2, NO_TIME]);
    assert_eq!(h.align.room(A), 997);
    h.push(A, &[4]);
    for (buffered, room) in [(4, 0), (3, 0), (2, 0), (1, 999), (0, 1_000)] {
        assert_eq!(h.align.buffered(), buffered);
        assert_eq!(h.align.room(A), room, "{buffered} buffered");
        h.release(0);
    }
}

#[test]
fn positions_pass_released_and_bad_messages_only() {
    let mut align = Align::new(settings());
    align.add(A, 5, None);
    align.add(B, 7, Some(7));
    align.add(C, 0, Some(1_000));
    // What the caller does not know, or knows wrong, is told first.
    let positions = align.release(seconds(0)).unwrap().positions;
    assert_eq!(positions, [(A, 5), (C, 0)]);

    // A: a bad message (5), rows at 6 and 9, a bad message (10). B: bad messages only.
    let mut two = rows(6, &[1, 100]);
    two.offsets[1] = 9;
    align.push(A, two, 11);
    align.push(B, rows(7, &[]), 9);
    align.at_end(B);
    align.push(C, rows(0, &[50]), 1);
    let positions = align.release(seconds(0)).unwrap().positions;
    assert_eq!(positions, [(A, 9), (B, 9), (C, 1)]);
    assert_eq!(align.position(A), Some(9));

    align.at_end(C);
    let positions = align.release(seconds(0)).unwrap().positions;
    assert_eq!(positions, [(A, 11)]);
    assert!(align.release(seconds(0)).unwrap().positions.is_empty());
}

#[test]
fn a_partition_that_is_read_from_elsewhere_says_so_once_what_it_had_has_left() {
    let mut align = Align::new(settings());
    align.add(A, 7, Some(7));
    align.push(A, rows(7, &[1]), 8);
    align.at_end(A);
    align.seek(A, 5);
    assert!(!align.is_caught_up(A));
    assert_eq!(align.position(A), Some(7));
    assert_eq!(align.release(seconds(0)).unwrap().positions, [(A, 5)]);
    align.at_end(A);
    assert!(align.is_caught_up(A));
}

#[test]
fn a_partition_that_leaves_takes_its_rows_along() {
    let mut h = Harness::new(settings(), &[A, B]);
    h.push(A, &[10]);
    h.push(B, &[5]);
    h.align.remove(B);
    assert_eq!(h.release(0), [10]);
    h.push(B, &[6]);
    assert_eq!(h.align.buffered(), 0);
}

/// Random deliveries of `events` (each partition in its order), in chunks, with a step after each.
/// Gives the steps' (source, offset, time).
fn run(
    rng: &mut Pcg64Mcg,
    max_rows: usize,
    events: &BTreeMap<Source, Vec<i64>>,
) -> Vec<Vec<(Source, i64, i64)>> {
    let settings = AlignSettings {
        max_rows,
        high_rows: 1_000,
        ..settings()
    };
    let sources: Vec<Source> = events.keys().copied().collect();
    let mut h = Harness::new(settings, &sources);
    let mut left: Vec<(Source, &[i64])> = events
        .iter()
        .map(|(s, times)| (*s, times.as_slice()))
        .collect();
    let mut steps = Vec::new();
    let mut positions: BTreeMap<Source, i64> = BTreeMap::new();
    while !h.align.caught_up() {
        if !left.is_empty() {
            let pick = rng.random_range(0..left.len());
            let (source, times) = left[pick];
            let (now, later) = times.split_at(rng.random_range(0..=times.len().min(8)));
            h.push(source, now);
            left[pick].1 = later;
            if later.is_empty() {
                h.align.at_end(source);
                left.swap_remove(pick);
            }
        }
        let released = h.align.release(seconds(0)).unwrap();
        positions.extend(released.positions.iter().copied());
        let mut step = Vec::new();
        for batch in &released.batches {
            for ((partition, offset), time) in batch.origin.iter().zip(times_of(batch)) {
                step.push((source(batch.stream, *partition), *offset, time));
            }
            for deletion in &batch.deletions {
                assert_eq!(deletion.id, deletion.offset.to_string());
                let of = source(batch.stream, deletion.partition);
                step.push((of, deletion.offset, NO_TIME));
            }
        }
        // A position is the offset after the last row that left.
        for (source, offset, _) in &step {
            assert!(positions[source] > *offset);
        }
        // Rows and deletions come apart, each in their order.
        step.sort_by_key(|(source, offset, _)| (*source, *offset));
        steps.push(step);
    }
    for (source, times) in events {
        assert_eq!(
            positions.get(source).copied().unwrap_or(0),
            times.len() as i64
        );
    }
    steps
}

fn random_events(rng: &mut Pcg64Mcg, in_order: bool) -> BTreeMap<Source, Vec<i64>> {
    let mut events = BTreeMap::new();
    for (stream, partition) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] {
        let count = rng.random_range(0..60);
        let mut times: Vec<i64> = (0..count).map(|_| rng.random_range(0..200)).collect();
        if in_order {
            times.sort_unstable();
        }
        for time in &mut times {
            if rng.random_bool(0.1) {
                *time = NO_TIME;
            }
        }
        events.insert(source(stream, partition), times);
    }
    events
}

/// All rows once, each partition in its order.
fn assert_complete(steps: &[Vec<(Source, i64, i64)>], events: &BTreeMap<Source, Vec<i64>>) {
    let mut seen: BTreeMap<Source, Vec<i64>> =
        events.keys().map(|source| (*source, vec![])).collect();
    for (source, offset, time) in steps.iter().flatten() {
        let of_source = seen.get_mut(source).unwrap();
        assert_eq!(*offset, of_source.len() as i64);
        of_source.push(*time);
    }
    assert_eq!(&seen, events);
}

#[test]
fn steps_never_go_back_in_time_however_the_partitions_deliver() {
    for seed in 0..500 {
        println!("seed {seed}");
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let events = random_events(&mut rng, true);
        let max_rows = rng.random_range(1..40);
        let steps = run(&mut rng, max_rows, &events);
        assert_complete(&steps, &events);
        let mut newest = i64::MIN;
        for step in &steps {
            assert!(step.len() <= max_rows);
            let times = || {
                step.iter()
                    .map(|(_, _, time)| *time)
                    .filter(|t| *t != NO_TIME)
            };
            assert!(times().all(|time| time >= newest));
            newest = times().max().unwrap_or(newest).max(newest);
        }
    }
}

#[test]
fn nothing_is_lost_or_doubled_where_times_are_in_no_order() {
    for seed in 0..500 {
        println!("seed {seed}");
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let events = random_events(&mut rng, false);
        let max_rows = rng.random_range(1..100);
        let steps = run(&mut rng, max_rows, &events);
        assert_complete(&steps, &events);
    }
}

#[test]
fn one_step_is_what_the_rule_says() {
    for seed in 0..500 {
        println!("seed {seed}");
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let events = random_events(&mut rng, false);
        let sources: Vec<Source> = events.keys().copied().collect();
        let mut h = Harness::new(settings(), &sources);
        let mut frontier = i64::MAX;
        for (source, times) in &events {
            h.push(*source, times);
            if rng.random_bool(0.3) {
                h.align.at_end(*source);
            } else {
                frontier = frontier.min(times.iter().copied().max().unwrap_or(i64::MIN));
            }
        }
        let expected: Vec<i64> = events
            .values()
            .flat_map(|times| times.iter().take_while(|time| **time <= frontier))
            .copied()
            .filter(|time| *time != NO_TIME)
            .collect();
        assert_eq!(h.release(0), expected);
    }
}
