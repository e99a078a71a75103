//! Many writers at once, in one process and in many.

use super::*;

/// What one of many writers did.
#[derive(Default)]
struct Done {
    published: Vec<u64>,
    reasons: Vec<String>,
}

const WRITERS: usize = 6;
const ROUNDS: usize = 12;

/// Publishes, promotes, moves traffic and removes as fast as it can.
fn race(registry: &Registry, writer: usize) -> Done {
    let mut done = Done::default();
    for round in 0..ROUNDS {
        let version = publish(registry);
        done.published.push(version);
        let reason = format!("{writer}/{round}");
        let aliases = |decided: &Decided| match round % 3 {
            0 => Aliases {
                champion: Some(version),
                challenger: None,
            },
            1 => Aliases {
                challenger: Some((version, writer as u8)),
                ..decided.aliases
            },
            _ => decided.aliases,
        };
        let outcome = registry.decide(|decided| {
            Ok::<_, LearnerError>(Some(Choice {
                aliases: aliases(decided),
                notes: vec![note(version, State::Champion, &reason)],
            }))
        });
        match outcome {
            Ok(_) => done.reasons.push(reason),
            // Another writer has removed it already.
            Err(LearnerError::NoSuchVersion { version: of, .. }) => assert_eq!(of, version),
            Err(error) => panic!("{error}"),
        }
        if round % 4 == 3 {
            registry.retain(5, &[], 0).unwrap();
        }
    }
    done
}

fn check_race(place: &Place, done: Vec<Done>) {
    let registry = (place.open)();
    let mut published: Vec<u64> = done.iter().flat_map(|it| it.published.clone()).collect();
    published.sort_unstable();
    published.dedup();
    assert_eq!(
        published.len(),
        WRITERS * ROUNDS,
        "a number was given twice"
    );
    let mut reasons: Vec<String> = done.into_iter().flat_map(|it| it.reasons).collect();
    reasons.sort_unstable();
    let journal = registry.journal_entries().unwrap();
    let mut noted: Vec<String> = journal.into_iter().filter_map(|it| it.reason).collect();
    noted.sort_unstable();
    assert_eq!(noted, reasons, "a decision was lost, or kept twice");
    check_whole(&registry);
}

#[test]
fn many_writers_at_once_lose_nothing() {
    for place in Place::all() {
        let done = std::thread::scope(|scope| {
            let start = |writer| {
                scope.spawn({
                    let place = &place;
                    move || race(&(place.open)(), writer)
                })
            };
            let writers: Vec<_> = (0..WRITERS).map(start).collect();
            writers.into_iter().map(|it| it.join().unwrap()).collect()
        });
        check_race(&place, done);
    }
}

const RACE_FOLDER: &str = "MILLRACE_RACE_FOLDER";

/// Not a test by itself: what each process of the race below runs.
#[test]
#[ignore = "is run by many_processes_at_once_lose_nothing"]
fn one_process_of_the_race() {
    let folder = std::env::var_os(RACE_FOLDER).unwrap();
    let objects = Objects::folder(folder.as_ref(), true).unwrap();
    let writer = std::process::id() as usize;
    let done = race(&Registry::with_segments(objects, FEW), writer);
    let line = |kind: &str, value: String| println!("\nrace {kind} {value}");
    done.published
        .iter()
        .for_each(|it| line("published", it.to_string()));
    done.reasons
        .iter()
        .for_each(|it| line("reason", it.clone()));
}

#[test]
fn many_processes_at_once_lose_nothing() {
    let place = Place::folder(true);
    let root = place._folder.as_ref().unwrap().path().join("data/models");
    let start = |_| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "registry::tests::races::one_process_of_the_race",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(RACE_FOLDER, &root)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..WRITERS).map(start).collect();
    let mut done = Vec::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        let mut of_process = Done::default();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["race", "published", version] => {
                    of_process.published.push(version.parse().unwrap())
                }
                ["race", "reason", reason] => of_process.reasons.push(reason.to_owned()),
                _ => {}
            }
        }
        done.push(of_process);
    }
    check_race(&place, done);
}
