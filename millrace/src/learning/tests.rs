//! The loop over a store in memory, period by period, and a process that ends in the middle of a canary.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use millrace_feature_store::{Commit, MemoryStore};
use millrace_features::category_code;

use super::*;
use crate::labels::{LabelJoin, ScoredRecord};
use crate::traffic::{promote, roll_back, set_share};

mod champions;
mod genuine;
mod persons;
mod rivals;
mod rollbacks;
mod starts;

const HOUR: i64 = 3_600_000_000;

const SETTINGS: &str = r#"
[model]
inputs = "inputs"
label = "labels.is_fraud"
every = "1h"
min_labels = 200
min_frauds = 5
registry = "models"
[learner]
device = "cpu"
afresh_at_growth = 1.0
[learner.training]
hidden = []
members = 1
bins = 4
initial_passes = 100
initial_learning_rate = 0.05
learning_rate = 0.005
[learner.gate]
min_rows = 200
tolerance = 1.0
max_alert_ratio = 1000.0
"#;

const SOURCES: &str = "CREATE EXTERNAL TABLE tx (tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, amount DOUBLE \
    NOT NULL, event_time TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('key' \
    'card_id', 'id' 'tx_id');
    CREATE EXTERNAL TABLE labels (tx_id VARCHAR NOT NULL, is_fraud BOOLEAN NOT NULL, event_time TIMESTAMP NOT NULL) \
    STORED AS KAFKA LOCATION 'labels' WITH ORDER (event_time) OPTIONS ('key' 'tx_id', 'id' 'tx_id');";

/// A machine: what outlives a process.
struct Machine {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    join: LabelJoin,
    /// Labels that have come.
    labels: u64,
    /// What is added to all amounts from now on.
    shift: f32,
    /// Whether no label says fraud from now on.
    is_silent: bool,
    /// Whether no label says "genuine" from now on: those of genuine events do not come.
    is_without_genuine: bool,
    /// Whether every second label says fraud from now on, whatever the amount.
    is_flooded: bool,
    /// Whether one amount in ten is in cents.
    some_in_cents: bool,
}

impl Machine {
    fn new() -> Self {
        Self::with(SETTINGS)
    }

    fn with(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("millrace.toml", settings);
        write("sources.sql", SOURCES);
        write(
            "inputs.sql",
            "CREATE VIEW inputs AS SELECT t.amount FROM tx t",
        );
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        Self {
            join: LabelJoin::open(store.as_ref()).unwrap(),
            folder,
            store,
            labels: 0,
            shift: 0.0,
            is_silent: false,
            is_without_genuine: false,
            is_flooded: false,
            some_in_cents: false,
        }
    }

    /// A process that starts here.
    fn start(&self) -> Process {
        let workspace = Arc::new(Workspace::open(self.folder.path()).unwrap());
        let registry = Arc::new(registry(self.folder.path()));
        let scorer = Arc::new(Scorer::new(workspace.model().unwrap().clone()));
        let store = Arc::clone(&self.store);
        let learning = Learning::open(workspace, store, registry, Arc::clone(&scorer)).unwrap();
        Process { learning, scorer }
    }

    /// Labels of an hour come back: large amounts are fraud, mostly.
    fn hour(&mut self, hour: i64, labels: u64, tag: u32) {
        let mut step = self.join.begin(self.store.as_ref());
        for at in 0..labels {
            let number = self.labels + at;
            let id = number.to_be_bytes();
            let mut amount = (number * 37 % 100) as f32 + self.shift;
            if self.some_in_cents && number.is_multiple_of(10) {
                amount *= 100.0;
            }
            let time = hour * HOUR + at as i64;
            step.scored(&id, ScoredRecord::new(time, &[amount], tag))
                .unwrap();
            let fraud = match self.is_flooded {
                true => number.is_multiple_of(2),
                false => is_fraud(number) && !self.is_silent,
            };
            if fraud || !self.is_without_genuine {
                step.label(&id, fraud, time);
            }
        }
        let mut commit = Commit::default();
        step.finish(&mut self.join, &mut commit).unwrap();
        self.store.commit(commit).unwrap();
        self.labels += labels;
    }

    /// In an hour it is said of some events that their label was wrong.
    fn correct(&mut self, hour: i64, numbers: &[u64]) {
        let mut step = self.join.begin(self.store.as_ref());
        for number in numbers {
            let time = (hour + 1) * HOUR - 1;
            step.label(&number.to_be_bytes(), !is_fraud(*number), time);
        }
        let mut commit = Commit::default();
        step.finish(&mut self.join, &mut commit).unwrap();
        self.store.commit(commit).unwrap();
    }
}

fn is_fraud(number: u64) -> bool {
    let amount = number * 37 % 100;
    amount > 90 && !number.is_multiple_of(3) || number.is_multiple_of(97)
}

fn registry(folder: &Path) -> Registry {
    Registry::open(folder.join("models")).unwrap()
}

struct Process {
    learning: Learning,
    scorer: Arc<Scorer>,
}

impl Process {
    fn tag(&self) -> u32 {
        self.scorer.plan.inputs_tag()
    }

    /// Deals with the hour that has just ended.
    fn learn(&mut self, hour: i64) -> Period {
        let period = self
            .learning
            .next_period((hour + 1) * HOUR)
            .unwrap()
            .unwrap();
        assert_eq!(period.end_us, (hour + 1) * HOUR);
        assert!(
            self.learning
                .next_period((hour + 1) * HOUR)
                .unwrap()
                .is_none()
        );
        period
    }

    /// The version that answers for some entities, and for how many of a hundred.
    fn canary(&self, machine: &Machine) -> Option<(u64, u8)> {
        let challenger = registry(machine.folder.path()).challenger().unwrap();
        let (version, percent) = challenger?;
        assert!(
            self.scorer.of_version(version).is_some(),
            "the canary does not serve"
        );
        assert_ne!(self.scorer.serving().unwrap().version, version);
        Some((version, percent))
    }
}

fn learned(period: &Period) -> &Manifest {
    match &period.learned {
        Learned::Version(new) => &new.manifest,
        other => panic!("{other:?}"),
    }
}

fn verdict(period: &Period, version: u64) -> &Tested {
    period
        .tested
        .iter()
        .find(|tested| tested.version == version)
        .unwrap()
}

/// Hours until a version is canary, its version, and the hour to come.
fn until_canary(machine: &mut Machine, process: &mut Process) -> (u64, i64) {
    for hour in 0..20 {
        machine.hour(hour, 300, process.tag());
        process.learn(hour);
        if let Some((version, percent)) = process.canary(machine) {
            assert_eq!(percent, 10);
            return (version, hour + 1);
        }
    }
    panic!("no version became canary");
}

#[test]
fn a_text_is_learned_as_a_category() {
    let mut machine = Machine::new();
    let inputs = "CREATE VIEW inputs AS SELECT t.card_id AS channel FROM tx t";
    std::fs::write(machine.folder.path().join("inputs.sql"), inputs).unwrap();
    let mut process = machine.start();
    let tag = process.tag();
    let channel = |number: u64| ["shop", "web", "phone"][(number % 3) as usize];
    let mut step = machine.join.begin(machine.store.as_ref());
    for number in 0..600_u64 {
        let id = number.to_be_bytes();
        let record = ScoredRecord::new(number as i64, &[category_code(channel(number))], tag);
        step.scored(&id, record).unwrap();
        let is_fraud = channel(number) == "phone";
        step.label(&id, is_fraud, number as i64);
    }
    let mut commit = Commit::default();
    step.finish(&mut machine.join, &mut commit).unwrap();
    machine.store.commit(commit).unwrap();

    let period = process.learn(0);
    assert_eq!(learned(&period).inputs, ["channel"]);
    let serving = process.scorer.serving().unwrap();
    let score = |text: &str| serving.model.score(&[category_code(text)]).unwrap()[0];
    let scores = ["phone", "shop", "web", "never seen"].map(score);
    let [phone, shop, web, new] = scores;
    assert!(phone > 0.8 && shop < 0.2 && web < 0.2, "{scores:?}");
    assert!(new < phone && new > shop, "{scores:?}");
}

#[test]
fn a_canary_goes_on_in_the_next_process() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    let (canary, hour) = until_canary(&mut machine, &mut process);
    let shadow = process
        .learning
        .shadow
        .as_ref()
        .unwrap()
        .held
        .manifest
        .clone();
    drop(process);

    let mut process = machine.start();
    assert_eq!(process.canary(&machine), Some((canary, 10)));
    // Nothing is due: all labels have been learned.
    assert!(process.learning.next_period(i64::MAX).unwrap().is_none());
    machine.hour(hour, 300, process.tag());
    let period = process.learn(hour);
    assert_eq!(period.labels, 300);
    let tested = verdict(&period, canary);
    assert_eq!(tested.verdict, Verdict::Canary(50));
    // It is tested on all labels that it has not learned, those of the process before too, each once.
    assert_eq!(tested.comparison.unwrap().rows, 600);
    assert_eq!(process.canary(&machine), Some((canary, 50)));
    // And the next version goes on from the one that was tested when the process ended.
    let next = learned(&period);
    assert_eq!((next.parent, next.rows), (Some(shadow.version), 300));
    assert_eq!(next.label_position, shadow.label_position + 300);
    drop(process);

    let mut process = machine.start();
    assert_eq!(process.canary(&machine), Some((canary, 50)));
    machine.hour(hour + 1, 300, process.tag());
    let period = process.learn(hour + 1);
    assert_eq!(verdict(&period, canary).verdict, Verdict::Promoted);
    assert_eq!(process.scorer.serving().unwrap().version, canary);

    // No label was learned by two versions, and none was left out.
    let registry = registry(machine.folder.path());
    let mut position = 0;
    for manifest in registry.list().unwrap() {
        position += manifest.rows;
        assert_eq!(
            manifest.label_position, position,
            "version {}",
            manifest.version
        );
    }
    assert_eq!(position, machine.labels);
}

#[test]
fn a_canary_goes_a_step_a_period_however_few_labels_a_process_has_seen() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    let (canary, hour) = until_canary(&mut machine, &mut process);
    drop(process);
    for (hour, verdict_of, rows) in [
        (hour, Verdict::Canary(50), 300 + 120),
        (hour + 1, Verdict::Promoted, 300 + 240),
    ] {
        let mut process = machine.start();
        machine.hour(hour, 120, process.tag());
        let period = process.learn(hour);
        let tested = verdict(&period, canary);
        assert_eq!(tested.verdict, verdict_of);
        assert_eq!(tested.comparison.unwrap().rows, rows);
    }
}

#[test]
fn labels_of_several_periods_test_a_version_though_each_has_a_process_of_its_own() {
    let outcome = |one_process: bool| {
        let mut machine = Machine::new();
        let mut process = machine.start();
        machine.hour(0, 300, process.tag());
        process.learn(0);
        let mut tested = Vec::new();
        for hour in 1..9 {
            if !one_process {
                process = machine.start();
            }
            machine.hour(hour, 80, process.tag());
            let period = process.learn(hour);
            tested.extend(period.tested.iter().map(|tested| {
                let rows = tested.comparison.map(|comparison| comparison.rows);
                (hour, tested.version, rows, tested.verdict.clone())
            }));
        }
        tested
    };
    let tested = outcome(false);
    // Three periods have 240 labels, of the 200 that it takes.
    assert_eq!(tested[2], (4, 4, Some(240), Verdict::Canary(10)));
    assert_eq!(tested, outcome(true));
}

#[test]
fn what_a_person_took_back_does_not_return_with_the_next_process() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    let (bad, hour) = until_canary(&mut machine, &mut process);
    drop(process);
    let kept = registry(machine.folder.path());
    let good = kept.champion().unwrap().unwrap();
    promote(&kept, None, bad).unwrap();

    let mut process = machine.start();
    machine.hour(hour, 300, process.tag());
    let period = process.learn(hour);
    let child = learned(&period).clone();
    assert_eq!(child.parent, Some(bad));
    drop(process);
    roll_back(&kept, None, None).unwrap();
    assert_eq!(kept.champion().unwrap(), Some(good));

    for hour in hour + 1..hour + 4 {
        let mut process = machine.start();
        machine.hour(hour, 300, process.tag());
        let period = process.learn(hour);
        let is_gone = |tested: &Tested| ![bad, child.version].contains(&tested.version);
        assert!(period.tested.iter().all(is_gone), "{:?}", period.tested);
        // It goes on with the labels that have come since, from what serves.
        assert_eq!(period.labels, 300);
        let parent = learned(&period).parent.unwrap();
        assert!(![bad, child.version].contains(&parent), "{parent}");
    }
}

#[test]
fn a_process_for_one_period_gathers_the_labels_of_a_first_model() {
    let mut machine = Machine::new();
    let tag = machine.start().tag();
    let once = |machine: &Machine| machine.start().learning.once(i64::MAX / 2).unwrap();
    assert!(once(&machine).is_none());
    for hour in 0..3 {
        machine.hour(hour, 80, tag);
        let period = once(&machine).unwrap();
        assert_eq!(period.labels as u64, machine.labels);
        assert_eq!(period.end_us, (hour + 1) * HOUR);
        // Two hours have 160 labels, of the 200 that it takes.
        assert_eq!(matches!(period.learned, Learned::Version(_)), hour == 2);
    }
    // From then on, each has one period.
    for hour in 3..5 {
        machine.hour(hour, 80, tag);
    }
    for hour in 3..5 {
        let period = once(&machine).unwrap();
        assert_eq!((period.labels, period.end_us), (80, (hour + 1) * HOUR));
    }
    assert!(once(&machine).is_none());
}

#[test]
fn a_corrected_label_is_learned_in_the_period_in_which_it_became_known() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    machine.hour(0, 300, process.tag());
    process.learn(0);
    machine.hour(1, 300, process.tag());
    // Two of labels that were learned, and one of a label of the same hour.
    machine.correct(1, &[11, 12, 400]);
    let period = process.learn(1);
    assert_eq!((period.labels, period.corrected), (302, 3));
    let right = |number: &u64| match number {
        11 | 12 | 400 => !is_fraud(*number),
        _ => is_fraud(*number),
    };
    let of_period = (300..600).chain([11, 12]).filter(right).count();
    assert_eq!(period.frauds, of_period);
    assert_eq!(learned(&period).rows, 302);

    machine.hour(2, 300, process.tag());
    let period = process.learn(2);
    assert_eq!((period.labels, period.corrected), (300, 0));
    // Replays have each event once.
    let history = &process.learning.history;
    let believed: Vec<usize> = history.believed(0..history.len()).collect();
    let frauds = believed.iter().filter(|row| history.is_fraud(**row));
    assert_eq!(believed.len(), 900);
    assert_eq!(frauds.count(), (0..900).filter(right).count());
    drop(process);
    assert_eq!(machine.start().learning.history.len(), 900);
}

#[test]
fn a_unit_that_some_events_have_is_named_and_is_usual_after_some_periods() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    // Amounts that move from hour to hour, so that a tenth of them elsewhere is no unusual distribution.
    let shift_of = |hour: i64| if hour % 2 == 0 { 0.0 } else { 40.0 };
    for hour in 0..52 {
        machine.shift = shift_of(hour);
        machine.hour(hour, 100, process.tag());
        let period = process.learn(hour);
        let is_put_aside = matches!(period.learned, Learned::PutAside(_));
        assert!(!is_put_aside, "{hour}: {:?}", period.learned);
    }
    drop(process);
    machine.some_in_cents = true;
    for hour in 52..57 {
        // Each period has a process of its own.
        let mut process = machine.start();
        machine.shift = shift_of(hour);
        machine.hour(hour, 100, process.tag());
        match process.learn(hour).learned {
            Learned::PutAside(reason) => {
                let said = "values of input 'amount' are beyond all that the model started from";
                assert!(reason.starts_with(said), "{reason}");
            }
            other => panic!("{hour}: {other:?}"),
        }
    }
    for hour in 57..60 {
        let mut process = machine.start();
        machine.shift = shift_of(hour);
        machine.hour(hour, 100, process.tag());
        assert_eq!(learned(&process.learn(hour)).rows, 100, "{hour}");
    }
}

#[test]
fn labels_that_may_yet_be_corrected_are_not_replayed_where_frauds_are_corrections() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    for hour in 0..8 {
        machine.hour(hour, 300, process.tag());
        // Two hours later it is known which of them were frauds.
        if hour >= 2 {
            let from = (hour as u64 - 2) * 300;
            let genuine = (from..from + 300).filter(|number| !is_fraud(*number));
            let numbers: Vec<u64> = genuine.take(30).collect();
            machine.correct(hour, &numbers);
        }
        process.learn(hour);
    }
    let learning = &process.learning;
    let settling = learning.settling();
    assert!(settling > 500 && settling < 1_200, "{settling}");
    let history = &learning.history;
    let rows: Vec<usize> = history.believed(0..history.len()).collect();
    let settled = learning.settled(rows.clone());
    let until = history.newest() - settling;
    let is_left_out = |row: &&usize| history.number(**row) > until && !history.is_fraud(**row);
    assert_eq!(settled.iter().filter(is_left_out).count(), 0);
    let left_out = rows.iter().filter(is_left_out).count();
    assert_eq!(settled.len() + left_out, rows.len());
    // Few that are settled are no sample: all are one.
    let few = rows[..100].to_vec();
    assert_eq!(learning.settled(few.clone()), few);
}

#[test]
fn a_new_normal_is_believed_though_each_period_has_a_process_of_its_own() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    // As many periods as it takes to know what is usual.
    for hour in 0..52 {
        machine.hour(hour, 100, process.tag());
        process.learn(hour);
    }
    drop(process);
    machine.shift = 150.0;
    let put_aside = |period: &Period| match &period.learned {
        Learned::PutAside(reason) => reason.starts_with("input 'amount' moved"),
        _ => false,
    };
    for hour in 52..57 {
        let mut process = machine.start();
        machine.hour(hour, 100, process.tag());
        let period = process.learn(hour);
        assert!(put_aside(&period), "{:?}", period.learned);
    }
    let mut process = machine.start();
    machine.hour(57, 100, process.tag());
    assert_eq!(learned(&process.learn(57)).rows, 600);
    drop(process);
    // All of them with one entry of the log, or none.
    let files = std::fs::read_dir(machine.folder.path().join("models/log")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let released: Vec<usize> = files
        .filter(|file| file.extension().is_some_and(|it| it == "json"))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .map(|text| text.matches("labels_released").count())
        .filter(|released| *released > 0)
        .collect();
    assert_eq!(released, [6]);
    // It is usual from then on, in other processes too.
    let mut process = machine.start();
    machine.hour(58, 100, process.tag());
    assert_eq!(learned(&process.learn(58)).rows, 100);
}
