#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use clap::Parser;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;

fn small(seed: u64) -> SimulationSettings {
    SimulationSettings {
        customers: 300,
        terminals: 900,
        days: 40,
        seed,
        ..Default::default()
    }
}

fn simulation(settings: SimulationSettings) -> Simulation {
    Simulation::new(settings).unwrap()
}

/// FNV-1a over all that a payment says.
fn fingerprint<'a>(payments: impl IntoIterator<Item = &'a Payment>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for p in payments {
        let numbers = [
            p.event_time,
            p.card.into(),
            p.terminal.into(),
            p.cents,
            p.scenario.into(),
        ];
        for byte in numbers.into_iter().flat_map(i64::to_le_bytes) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The data set is a format: whoever generated it yesterday must get it again. A change of these numbers is
/// a change to be announced.
#[test]
fn the_payments_of_a_seed_are_pinned() {
    let payments: Vec<Payment> = simulation(small(0))
        .days()
        .flat_map(|day| day.payments)
        .collect();
    assert_eq!(
        (payments.len(), fingerprint(&payments)),
        (24_196, 3_030_133_236_460_481_779)
    );
}

#[test]
fn days_are_the_same_in_any_order_on_any_number_of_threads() {
    let simulation = simulation(small(1));
    let expected: Vec<u64> = simulation
        .days()
        .map(|day| fingerprint(&day.payments))
        .collect();
    for threads in [1, 2, 5] {
        let simulation = &simulation;
        let days_of = |thread: usize| (0..40).rev().filter(move |day| day % threads == thread);
        let mut days: Vec<(usize, u64)> = thread::scope(|scope| {
            let work = |thread| {
                move || {
                    days_of(thread)
                        .map(|d| (d, fingerprint(&simulation.payments(d as u32))))
                        .collect()
                }
            };
            let workers: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(work(thread)))
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| -> Vec<_> { worker.join().unwrap() })
                .collect()
        });
        days.sort_unstable();
        assert_eq!(
            days.into_iter().map(|day| day.1).collect::<Vec<_>>(),
            expected,
            "{threads} threads"
        );
    }
}

#[test]
fn a_shorter_data_set_is_the_start_of_a_longer_one() {
    let long = simulation(small(2));
    let short = simulation(SimulationSettings {
        days: 15,
        ..small(2)
    });
    assert_eq!(short.days().count(), 15);
    assert!(
        short
            .days()
            .zip(long.days())
            .all(|(a, b)| a.payments == b.payments && a.first_tx_id == b.first_tx_id)
    );
}

#[test]
fn payments_are_numbered_without_a_gap() {
    let mut next = 0;
    for day in simulation(small(2)).days() {
        assert_eq!(day.first_tx_id, next);
        next += day.payments.len() as u64;
    }
    assert!(next > 1_000);
}

#[test]
fn seeds_differ() {
    let payments = [3, 4].map(|seed| simulation(small(seed)).payments(0));
    assert_ne!(payments[0], payments[1]);
}

#[test]
fn payments_come_in_order_and_within_their_day() {
    let settings = small(5);
    for day in simulation(settings.clone()).days() {
        assert!(day.payments.is_sorted_by_key(|p| (p.event_time, p.card)));
        let midnight = settings.start + i64::from(day.day) * 86_400_000_000;
        let within = |p: &Payment| (1..86_400).contains(&((p.event_time - midnight) / 1_000_000));
        assert!(day.payments.iter().all(within));
        assert!(
            day.payments
                .iter()
                .all(|p| p.event_time % 1_000_000 == 0 && p.cents >= 0)
        );
    }
}

/// Once the fraud of the past 28 days has built up, the handbook's share: 2 × 28 / 10,000 at terminals,
/// 3 × 14 / 5,000 / 3 with cards, and the few large amounts. It is the same at other sizes.
#[test]
fn the_share_of_fraud_is_that_of_the_handbook_at_any_size() {
    for (customers, terminals) in [(5_000, 10_000), (2_000, 2_000), (10_000, 5_000)] {
        let simulation = simulation(SimulationSettings {
            customers,
            terminals,
            ..small(6)
        });
        let mut counts = [0.0; 4];
        (30..50)
            .flat_map(|day| simulation.payments(day))
            .for_each(|p| counts[usize::from(p.scenario)] += 1.0);
        let total: f64 = counts.iter().sum();
        let shares = counts.map(|n| 100.0 * n / total);
        let near = |share: f64, expected: f64, margin: f64| (share - expected).abs() < margin;
        assert!(
            near(shares[1], 0.055, 0.025),
            "{customers} {terminals}: {shares:?} %"
        );
        assert!(
            near(shares[2], 0.56, 0.25),
            "{customers} {terminals}: {shares:?} %"
        );
        assert!(
            near(shares[3], 0.28, 0.12),
            "{customers} {terminals}: {shares:?} %"
        );
    }
}

/// Compromised terminals, found from the payments alone: where one payment is of scenario 2, all payments at
/// that terminal around it are fraud, for 28 days from the first to the last at most.
#[test]
fn a_compromised_terminal_has_no_genuine_payment() {
    let simulation = simulation(SimulationSettings {
        customers: 2_000,
        terminals: 200,
        ..small(7)
    });
    let mut spells: std::collections::BTreeMap<u32, Vec<(u32, u8)>> = Default::default();
    for day in simulation.days() {
        day.payments.iter().for_each(|p| {
            spells
                .entry(p.terminal)
                .or_default()
                .push((day.day, p.scenario))
        });
    }
    let mut compromised = 0;
    for (terminal, payments) in spells {
        let spell = |scenario: u8| scenario >= 2;
        let mut days: BTreeSet<u32> = payments.iter().filter(|p| p.1 == 2).map(|p| p.0).collect();
        let (Some(first), Some(last)) = (days.pop_first(), days.pop_last()) else {
            continue;
        };
        assert!(
            last - first < 28,
            "terminal {terminal}: days {first} to {last}"
        );
        let between = payments.iter().filter(|p| (first..=last).contains(&p.0));
        assert!(between.clone().all(|p| spell(p.1)), "terminal {terminal}");
        compromised += 1;
    }
    assert!(compromised > 0);
}

#[test]
fn tables_say_what_the_payments_say() {
    let simulation = simulation(SimulationSettings {
        label_delay: 90_000_000,
        ..small(8)
    });
    let day = simulation.days().nth(30).unwrap();
    let DayTables {
        transactions,
        labels,
    } = day.tables().unwrap();
    assert_eq!(
        (transactions.schema(), labels.schema()),
        (transactions_schema(), labels_schema())
    );
    assert_eq!(
        (transactions.num_rows(), labels.num_rows()),
        (day.payments.len(), day.payments.len())
    );
    let text = |batch: &RecordBatch, column: &str, row| {
        batch[column].as_string::<i32>().value(row).to_owned()
    };
    let time = |batch: &RecordBatch, column: &str, row| {
        batch[column]
            .as_primitive::<TimestampMicrosecondType>()
            .value(row)
    };
    let mut frauds = 0;
    for (row, payment) in day.payments.iter().enumerate() {
        for batch in [&transactions, &labels] {
            assert_eq!(
                text(batch, "tx_id", row),
                (day.first_tx_id + row as u64).to_string()
            );
            assert_eq!(text(batch, "card_id", row), payment.card.to_string());
            assert_eq!(
                text(batch, "terminal_id", row),
                payment.terminal.to_string()
            );
        }
        let amount = transactions["amount"]
            .as_primitive::<Float64Type>()
            .value(row);
        assert_eq!(
            amount.to_string(),
            (payment.cents as f64 / 100.0).to_string()
        );
        assert_eq!(
            labels["is_fraud"].as_boolean().value(row),
            payment.scenario > 0
        );
        assert_eq!(time(&transactions, "event_time", row), payment.event_time);
        assert_eq!(time(&labels, "tx_time", row), payment.event_time);
        assert_eq!(
            time(&labels, "event_time", row),
            payment.event_time + 90_000_000
        );
        frauds += usize::from(payment.is_fraud());
    }
    assert!(day.first_tx_id > 0 && frauds > 0);
}

#[test]
fn outputs_are_found_by_their_ending() {
    let check = |output: &str, transactions: &str, labels: &str| {
        let files = OutputFiles::new(Path::new(output)).unwrap();
        assert_eq!(
            (files.transactions.as_path(), files.labels.as_path()),
            (Path::new(transactions), Path::new(labels))
        );
    };
    check("data", "data/transactions.parquet", "data/labels.parquet");
    check(
        "data/run.1",
        "data/run.1/transactions.parquet",
        "data/run.1/labels.parquet",
    );
    check(
        "a/events.parquet",
        "a/events.parquet",
        "a/events-labels.parquet",
    );
    check("events.jsonl", "events.jsonl", "events-labels.jsonl");
    check("events.json", "events.json", "events-labels.json");
    check("my.events.CSV", "my.events.CSV", "my.events-labels.CSV");
    let folder = tempfile::Builder::new().suffix(".csv").tempdir().unwrap();
    let files = OutputFiles::new(folder.path()).unwrap();
    assert_eq!(
        files.transactions,
        folder.path().join("transactions.parquet")
    );
    for output in ["events.txt", "events.parqet"] {
        let error = OutputFiles::new(Path::new(output)).unwrap_err();
        assert!(
            matches!(error, GenerateError::Input(_)) && error.to_string().contains(".jsonl"),
            "{error}"
        );
    }
}

fn read_parquet(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = Arc::clone(reader.schema());
    concat_batches(
        &schema,
        &reader
            .build()
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>(),
    )
    .unwrap()
}

fn read_json_lines(path: &Path, schema: arrow::datatypes::SchemaRef) -> RecordBatch {
    let file = BufReader::new(File::open(path).unwrap());
    let reader = arrow::json::ReaderBuilder::new(Arc::clone(&schema))
        .build(file)
        .unwrap();
    concat_batches(&schema, &reader.map(Result::unwrap).collect::<Vec<_>>()).unwrap()
}

fn read_csv(path: &Path, schema: arrow::datatypes::SchemaRef) -> RecordBatch {
    let file = File::open(path).unwrap();
    let reader = arrow::csv::ReaderBuilder::new(Arc::clone(&schema))
        .with_header(true)
        .build(file)
        .unwrap();
    concat_batches(&schema, &reader.map(Result::unwrap).collect::<Vec<_>>()).unwrap()
}

/// Each format gives back the simulation's tables, and twice the same bytes.
#[test]
fn files_hold_the_tables_and_are_equal_byte_by_byte() {
    let folder = tempfile::tempdir().unwrap();
    let tables: Vec<DayTables> = simulation(small(9))
        .days()
        .map(|day| day.tables().unwrap())
        .collect();
    let transactions = concat_batches(
        &transactions_schema(),
        tables.iter().map(|t| &t.transactions),
    )
    .unwrap();
    let labels = concat_batches(&labels_schema(), tables.iter().map(|t| &t.labels)).unwrap();
    for ending in ["parquet", "jsonl", "csv"] {
        let mut told = Vec::new();
        let [one, two] = ["one", "two"].map(|name| {
            let files = OutputFiles::new(
                &folder
                    .path()
                    .join(name)
                    .join("events")
                    .with_extension(ending),
            )
            .unwrap();
            generate_files(small(9), files, |progress| told.push(progress)).unwrap()
        });
        assert_eq!(
            one.payments.iter().sum::<u64>(),
            transactions.num_rows() as u64
        );
        assert_eq!(
            (told.len(), told[79].days_done, told[79].payments),
            (80, 40, transactions.num_rows() as u64)
        );
        let same = |a: &Path, b: &Path| fs::read(a).unwrap() == fs::read(b).unwrap();
        assert!(
            same(&one.files.transactions, &two.files.transactions),
            "{ending}"
        );
        assert!(same(&one.files.labels, &two.files.labels), "{ending}");
        let read = |path: &Path, schema| match ending {
            "parquet" => read_parquet(path),
            "jsonl" => read_json_lines(path, schema),
            _ => read_csv(path, schema),
        };
        assert_eq!(
            read(&one.files.transactions, transactions_schema()),
            transactions,
            "{ending}"
        );
        assert_eq!(read(&one.files.labels, labels_schema()), labels, "{ending}");
        assert_eq!(
            fs::read_dir(folder.path().join("one")).unwrap().count() % 2,
            0,
            "a partial file is left"
        );
    }
}

#[test]
fn what_cannot_be_written_is_said_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = generate_files(
        small(0),
        OutputFiles::new(&file.join("events.csv")).unwrap(),
        |_| (),
    )
    .unwrap_err();
    assert!(
        matches!(&error, GenerateError::Write { path, .. } if path.ends_with("events.csv")),
        "{error}"
    );

    fs::create_dir(folder.path().join("events-labels.csv.partial")).unwrap();
    let error = generate_files(
        small(0),
        OutputFiles::new(&folder.path().join("events.csv")).unwrap(),
        |_| (),
    )
    .unwrap_err();
    assert!(
        matches!(&error, GenerateError::Write { path, .. } if path.ends_with("events-labels.csv")),
        "{error}"
    );
    assert!(!folder.path().join("events.csv.partial").exists());

    let taken = folder.path().join("taken.csv");
    let files = OutputFiles::new(&taken).unwrap();
    fs::create_dir(&taken).unwrap();
    let error = generate_files(small(0), files, |_| ()).unwrap_err();
    assert!(
        matches!(&error, GenerateError::Write { path, .. } if *path == taken),
        "{error}"
    );
    assert!(!folder.path().join("taken.csv.partial").exists());
    assert!(!folder.path().join("taken-labels.csv.partial").exists());
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: GenerateArgs,
}

fn settings_of(options: &str) -> Result<SimulationSettings, String> {
    let words = ["generate", "--output", "x"]
        .into_iter()
        .chain(options.split_whitespace());
    let command = Command::try_parse_from(words).map_err(|e| e.to_string())?;
    command.args.settings().map_err(|e| e.to_string())
}

#[test]
fn options_become_settings() {
    assert_eq!(settings_of(""), Ok(SimulationSettings::default()));
    let settings = settings_of(
        "--customers 7 --terminals 8 --days 9 --seed 10 --start 1970-01-02 --label-delay 90m",
    );
    let (start, label_delay) = (86_400_000_000, 5_400_000_000);
    let expected = SimulationSettings {
        customers: 7,
        terminals: 8,
        days: 9,
        seed: 10,
        start,
        label_delay,
    };
    assert_eq!(settings, Ok(expected));
    for wrong in [
        "--customers 0",
        "--days -1",
        "--start 2018-13-01",
        "--label-delay soon",
        "--label-delay 999999y",
    ] {
        assert!(settings_of(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_command_writes_and_classes_its_failures() {
    let folder = tempfile::tempdir().unwrap();
    let run = |output: &str, options: &str| {
        let output = folder.path().join(output);
        let words = ["generate", "--customers", "9", "--output"].map(OsStr::new);
        let words = words.into_iter().chain([output.as_os_str()]);
        let words = words.chain(options.split_whitespace().map(OsStr::new));
        generate(Command::try_parse_from(words).unwrap().args)
            .map_err(|failure| failure.exit_code())
    };
    assert_eq!(run("data", "--days 2"), Ok(()));
    assert!(folder.path().join("data/labels.parquet").exists());
    assert_eq!(run("data.xlsx", ""), Err(2));
    assert_eq!(run("far", "--days 4294967295"), Err(2));
    assert_eq!(run("data/labels.parquet/data.csv", ""), Err(1));
}

#[test]
fn times_that_cannot_be_are_refused() {
    for settings in [
        SimulationSettings {
            days: u32::MAX,
            ..small(0)
        },
        SimulationSettings {
            label_delay: i64::MAX,
            ..small(0)
        },
        SimulationSettings {
            label_delay: -1,
            ..small(0)
        },
        SimulationSettings {
            start: i64::MAX - 1,
            ..small(0)
        },
    ] {
        assert!(matches!(
            Simulation::new(settings),
            Err(GenerateError::Input(_))
        ));
    }
}
