//! What tests of the loop share: a machine, the processes that run there one after the other, and what they have learned.

use std::ops::Range;
use std::path::{Path, PathBuf};

use millrace_feature_store::{Commit, MemoryStore};
use millrace_learner::{Made, State, update};

use crate::labels::{JoinStep, LabelJoin, ScoredRecord};
use crate::learning::notes::{came_to, just_made};
use crate::learning::*;

pub(super) const HOUR: i64 = 3_600_000_000;

pub(super) const SETTINGS: &str = r#"
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
pub(super) struct Machine {
    pub(super) folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    join: LabelJoin,
    /// Labels that have come.
    pub(super) labels: u64,
    /// What is added to all amounts from now on.
    pub(super) shift: f32,
    /// Whether no label says fraud from now on.
    pub(super) is_silent: bool,
    /// Whether no label says "genuine" from now on: those of genuine events do not come.
    pub(super) is_without_genuine: bool,
    /// Whether every second label says fraud from now on, whatever the amount.
    pub(super) is_flooded: bool,
    /// Whether one amount in ten is in cents.
    pub(super) some_in_cents: bool,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self::with(SETTINGS)
    }

    pub(super) fn with(settings: &str) -> Self {
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
    pub(super) fn start(&self) -> Process {
        let workspace = Arc::new(Workspace::open(self.folder.path()).unwrap());
        let registry = Arc::new(registry(self.folder.path()));
        let scorer = Arc::new(Scorer::new(workspace.model().unwrap().clone()));
        let store = Arc::clone(&self.store);
        let learning = Learning::open(workspace, store, registry, Arc::clone(&scorer)).unwrap();
        Process { learning, scorer }
    }

    /// The machine after some hours with so many labels each, and the process that has learned them.
    pub(super) fn after(mut self, hours: i64, labels: u64) -> (Self, Process) {
        let mut process = self.start();
        process.pass(&mut self, 0..hours, labels);
        (self, process)
    }

    /// The machine when a version is canary: the process that has made it so, the version, and the hour to come.
    pub(super) fn until_canary(mut self) -> (Self, Process, u64, i64) {
        let mut process = self.start();
        for hour in 0..20 {
            process.pass(&mut self, hour..hour + 1, 300);
            if let Some((version, percent)) = process.canary(&self) {
                assert_eq!(percent, 10);
                return (self, process, version, hour + 1);
            }
        }
        panic!("no version became canary");
    }

    /// So many labels come in each of some hours, and are learned, by one process or by one for each hour. What versions
    /// were tested: the hour, the version, on how many labels, and what came of it.
    pub(super) fn tested(
        &mut self,
        mut process: Process,
        hours: Range<i64>,
        labels: u64,
        one_process: bool,
    ) -> Vec<(i64, u64, Option<u64>, Verdict)> {
        let mut all = Vec::new();
        for hour in hours {
            if !one_process {
                process = self.start();
            }
            self.hour(hour, labels, process.tag());
            all.extend(process.learn(hour).tested.into_iter().map(|tested| {
                let rows = tested.comparison.map(|comparison| comparison.rows);
                (hour, tested.version, rows, tested.verdict)
            }));
        }
        all
    }

    /// Labels of an hour come back: large amounts are fraud, mostly.
    pub(super) fn hour(&mut self, hour: i64, labels: u64, tag: u32) {
        let numbers = self.labels..self.labels + labels;
        let events: Vec<Event> = numbers.map(|number| self.event(number)).collect();
        self.labels += labels;
        self.events(hour, tag, &events);
    }

    fn event(&self, number: u64) -> Event {
        let mut input = amount(number) + self.shift;
        if self.some_in_cents && number.is_multiple_of(10) {
            input *= 100.0;
        }
        let fraud = match self.is_flooded {
            true => number.is_multiple_of(2),
            false => is_fraud(number) && !self.is_silent,
        };
        let label = (fraud || !self.is_without_genuine).then_some(fraud);
        (number, input, label)
    }

    /// Events of an hour are scored, and labelled at once.
    pub(super) fn events(&mut self, hour: i64, tag: u32, events: &[Event]) {
        self.step(|step| {
            for (at, (number, input, label)) in events.iter().enumerate() {
                let time = hour * HOUR + at as i64;
                let id = number.to_be_bytes();
                let record = ScoredRecord::new(time, &[*input], tag);
                step.scored(&id, record).unwrap();
                if let Some(fraud) = label {
                    step.label(&id, *fraud, time);
                }
            }
        });
    }

    /// In an hour it is said of some events that their label was wrong.
    pub(super) fn correct(&mut self, hour: i64, numbers: &[u64]) {
        self.relabel(hour, numbers, |number| !is_fraud(number));
    }

    /// In an hour some events have another label.
    pub(super) fn relabel(&mut self, hour: i64, numbers: &[u64], label: impl Fn(u64) -> bool) {
        self.step(|step| {
            for number in numbers {
                let time = (hour + 1) * HOUR - 1;
                step.label(&number.to_be_bytes(), label(*number), time);
            }
        });
    }

    /// The files of the registry's log, the newest last.
    pub(super) fn log(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.folder.path().join("models/log")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let is_entry = |file: &PathBuf| file.extension().is_some_and(|it| it == "json");
        let mut entries: Vec<PathBuf> = files.filter(is_entry).collect();
        entries.sort_unstable();
        entries
    }

    /// The newest decision did not come to the log: the process ended before. The version that it was of is there.
    pub(super) fn lose_newest_decision(&self) {
        std::fs::remove_file(self.log().last().unwrap()).unwrap();
    }

    /// Labels of some events are deleted.
    pub(super) fn delete(&mut self, numbers: &[u64]) {
        self.step(|step| {
            for number in numbers {
                step.forget_label(&number.to_be_bytes()).unwrap();
            }
        });
    }

    fn step(&mut self, join: impl FnOnce(&mut JoinStep<'_>)) {
        let mut step = self.join.begin(self.store.as_ref());
        join(&mut step);
        let mut commit = Commit::default();
        step.finish(&mut self.join, &mut commit).unwrap();
        self.store.commit(commit).unwrap();
    }
}

/// The number of an event, what the model sees of it, and what its label says, if one comes.
pub(super) type Event = (u64, f32, Option<bool>);

pub(super) fn amount(number: u64) -> f32 {
    (number * 37 % 100) as f32
}

pub(super) fn is_fraud(number: u64) -> bool {
    amount(number) > 90.0 && !number.is_multiple_of(3) || number.is_multiple_of(97)
}

pub(super) fn registry(folder: &Path) -> Registry {
    Registry::open(folder.join("models")).unwrap()
}

pub(super) struct Process {
    pub(super) learning: Learning,
    pub(super) scorer: Arc<Scorer>,
}

impl Process {
    pub(super) fn tag(&self) -> u32 {
        self.scorer.plan.inputs_tag()
    }

    /// Deals with the hour that has just ended.
    pub(super) fn learn(&mut self, hour: i64) -> Period {
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

    /// So many labels come in each of some hours, and are learned.
    pub(super) fn pass(&mut self, machine: &mut Machine, hours: Range<i64>, labels: u64) {
        for hour in hours {
            machine.hour(hour, labels, self.tag());
            self.learn(hour);
        }
    }

    /// So do 300 labels, and two hours later it is known that of those that said fraud, or said genuine, so many were
    /// wrong.
    pub(super) fn pass_with_corrections(
        &mut self,
        machine: &mut Machine,
        hours: Range<i64>,
        said_fraud: bool,
        wrong: usize,
    ) {
        for hour in hours {
            machine.hour(hour, 300, self.tag());
            if hour >= 2 {
                let from = (hour as u64 - 2) * 300;
                let said = (from..from + 300).filter(|number| is_fraud(*number) == said_fraud);
                let numbers: Vec<u64> = said.take(wrong).collect();
                machine.correct(hour, &numbers);
            }
            self.learn(hour);
        }
    }

    /// The version that answers.
    pub(super) fn serving(&self) -> u64 {
        self.scorer.serving().unwrap().version
    }

    /// A model that is made of amounts and whether they were frauds.
    pub(super) fn trained(&self, labels: impl Iterator<Item = (f32, bool)>) -> Checkpoint {
        let mut examples = Examples::new(1);
        for (amount, fraud) in labels {
            examples.push(&[amount], fraud, 1.0).unwrap();
        }
        let training = &self.learning.settings().training;
        let nothing = Examples::new(1);
        let made = update(training, Device::Cpu, None, &examples, &nothing, 7);
        made.unwrap().checkpoint
    }

    /// A model that calls half of all events fraud.
    pub(super) fn harmful(&self) -> Checkpoint {
        self.trained((0..300_u64).map(|number| {
            let fraud = is_fraud(number) || number.is_multiple_of(2);
            (amount(number), fraud)
        }))
    }

    /// A model is kept, as a version that comes from a parent, with the manifest of another.
    pub(super) fn publish(&self, like: &Manifest, parent: Option<u64>, model: Checkpoint) -> Held {
        let manifest = Manifest {
            parent,
            ..like.clone()
        };
        let registry = &self.learning.registry;
        let version = registry.publish(manifest.clone(), &model).unwrap();
        Held::new(
            Manifest {
                version,
                ..manifest
            },
            model,
        )
    }

    /// A model takes the traffic, as a version with the manifest of another. Its number.
    pub(super) fn serve(&mut self, like: &Manifest, model: Checkpoint, at_us: i64) -> u64 {
        let held = self.publish(like, like.parent, model);
        let version = held.manifest.version;
        self.learning.promote(held, at_us, None, None).unwrap();
        version
    }

    /// A model comes to answer for a tenth of the entities, as a version that was published so. Its number.
    pub(super) fn begin_canary(
        &mut self,
        like: &Manifest,
        parent: Option<u64>,
        model: Checkpoint,
    ) -> u64 {
        let trial = Trial::new(self.publish(like, parent, model));
        let version = trial.held.manifest.version;
        let at_us = like.trained_until_us;
        self.learning.step_forward(trial, 0, None, at_us).unwrap();
        version
    }

    /// A model comes to be tested in place of the version before, as one that was published so. Its number.
    pub(super) fn begin_shadow(
        &mut self,
        like: &Manifest,
        parent: Option<u64>,
        model: Checkpoint,
    ) -> u64 {
        let held = self.publish(like, parent, model);
        let version = held.manifest.version;
        let learning = &mut self.learning;
        let made = Made {
            watched: learning.anchor.as_ref().map(Anchor::watched),
            ..held.manifest.made()
        };
        let shadow = came_to(version, State::Shadow, None, None, like.trained_until_us);
        learning.note(vec![just_made(shadow, made)]).unwrap();
        learning.shadow = Some(Trial::new(held));
        version
    }

    /// The version that answers for some entities, and for how many of a hundred.
    pub(super) fn canary(&self, machine: &Machine) -> Option<(u64, u8)> {
        let challenger = registry(machine.folder.path()).challenger().unwrap();
        let (version, percent) = challenger?;
        assert!(
            self.scorer.of_version(version).is_some(),
            "the canary does not serve"
        );
        assert_ne!(self.serving(), version);
        Some((version, percent))
    }
}

pub(super) fn learned(period: &Period) -> &Manifest {
    match &period.learned {
        Learned::Version(new) => &new.manifest,
        other => panic!("{other:?}"),
    }
}

/// Why a period's labels were put aside, if they were.
pub(super) fn put_aside(period: &Period) -> Option<&str> {
    match &period.learned {
        Learned::PutAside(reason) => Some(reason),
        _ => None,
    }
}

pub(super) fn verdict(period: &Period, version: u64) -> &Tested {
    period
        .tested
        .iter()
        .find(|tested| tested.version == version)
        .unwrap()
}
