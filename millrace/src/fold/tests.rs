//! Folding in the steps of a pipeline: through crashes, in any batches, beside files.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int64Type, SchemaRef};
use millrace_feature_store::{Commit, MemoryStore, Store, Table};
use millrace_features::{EventTable, Origin, StateReader, pack_rows};
use millrace_ingest::{Step, StreamBatch};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::*;
use crate::backfill::{BackfillArgs, backfill};
use crate::evolve::{Reading, RowsState, ViewRecord, begin};
use crate::fill::Filler;
use crate::live::{Live, Miss, Progress};
use crate::pipeline::Pipeline;
use crate::state::Committed;
use crate::workspace::Workspace;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_700_000_040 * SECOND;

const SOURCES: &str = "CREATE EXTERNAL TABLE tx (tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, amount DOUBLE,
  event_time TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('id' 'tx_id');";

const VIEWS: &str = "CREATE VIEW recent WITH (resolution = '1 minute', late = '5 minutes') AS SELECT card_id,
    count(*) OVER w AS n, sum(amount) OVER w AS s, max(amount) OVER w AS top
  FROM tx WINDOW w AS
    (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND CURRENT ROW);
  CREATE VIEW life WITH (resolution = '1 minute', late = '5 minutes') AS SELECT card_id,
    count(*) OVER w AS n, sum(amount) OVER w AS s, max(amount) OVER w AS top
  FROM tx WINDOW w AS
    (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);";

/// Beside them, for what stays in memory.
const EXACT: &str = "CREATE VIEW exact AS SELECT card_id, count(*) OVER h AS n, sum(amount) OVER h AS s, max(amount) OVER d AS top,
    stddev(amount) OVER h AS spread, count(DISTINCT amount) OVER d AS kinds, avg(amount) OVER h / 2 AS half
  FROM tx WINDOW
    h AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '20 minutes' PRECEDING AND CURRENT ROW),
    d AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '3 hours' PRECEDING AND CURRENT ROW);
  CREATE VIEW last_forty AS SELECT card_id, avg(amount) OVER r AS mean FROM tx WINDOW
    r AS (PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 40 PRECEDING AND CURRENT ROW);
  CREATE VIEW plain AS SELECT card_id, count(*) OVER w AS n, sum(amount) OVER w AS s
  FROM tx WINDOW w AS
    (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '40 minutes' PRECEDING AND CURRENT ROW);";

fn workspace(folder: &Path) -> Workspace {
    workspace_of(folder, VIEWS)
}

fn workspace_of(folder: &Path, views: &str) -> Workspace {
    workspace_with(folder, views, "")
}

fn workspace_with(folder: &Path, views: &str, store: &str) -> Workspace {
    std::fs::create_dir(folder.join("features")).unwrap();
    std::fs::write(folder.join("sources.sql"), SOURCES).unwrap();
    std::fs::write(folder.join("features/v.sql"), views).unwrap();
    let settings = format!("[store]\nhistory = \"10m\"\n{store}");
    std::fs::write(folder.join("millrace.toml"), settings).unwrap();
    Workspace::open(folder).unwrap()
}

#[derive(Debug, Clone)]
struct Event {
    id: usize,
    card: &'static str,
    amount: f64,
    time: i64,
}

/// Some hours of a busy card and a quiet one, as they arrive: up to four minutes late, some twice.
fn arrivals(random: &mut Pcg64, count: usize) -> Vec<Event> {
    let mut time = START;
    let mut all = Vec::new();
    for id in 0..count {
        time += random.random_range(0..5 * SECOND);
        let event = Event {
            id,
            card: if random.random_bool(0.97) {
                "busy"
            } else {
                "quiet"
            },
            amount: f64::from(random.random_range(0..9_999)) / 10.0,
            time,
        };
        let late = if random.random_bool(0.2) {
            240 * SECOND
        } else {
            1
        };
        for _ in 0..random.random_range(1..12) / 10 + 1 {
            all.push((time + random.random_range(0..late), event.clone()));
        }
    }
    all.sort_by_key(|(arrival, _)| *arrival);
    all.into_iter().map(|(_, event)| event).collect()
}

fn batch(schema: &SchemaRef, events: &[Event]) -> RecordBatch {
    let texts = |text: fn(&Event) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(events.iter().map(text)))
    };
    let amounts = events.iter().map(|event| Some(event.amount));
    let times = events.iter().map(|event| event.time);
    let columns = vec![
        texts(|event| format!("t{}", event.id)),
        texts(|event| event.card.to_owned()),
        Arc::new(amounts.collect::<Float64Array>()) as ArrayRef,
        Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

/// A store in memory that can go back to an earlier commit, as a crash takes the one on disk.
struct Process<'a> {
    workspace: &'a Workspace,
    store: MemoryStore,
    commits: Vec<Commit>,
    marks: Marks,
    folder: Folder,
}

impl<'a> Process<'a> {
    fn start(workspace: &'a Workspace, commits: Vec<Commit>) -> Self {
        let store = MemoryStore::new();
        commits
            .iter()
            .for_each(|commit| store.commit(commit.clone()).unwrap());
        Self {
            workspace,
            marks: Marks::open(&store).unwrap(),
            folder: Folder::default(),
            store,
            commits,
        }
    }

    fn position(&self) -> usize {
        let offsets = self.store.offsets().unwrap();
        offsets.first().map_or(0, |offset| offset.next as usize)
    }

    fn apply(&mut self, events: &[Event]) {
        let project = &self.workspace.project;
        let batch = batch(&project.streams[0].schema, events);
        let mut pending = Pending::over(self.marks.seals(project));
        let places = vec![0; events.len()];
        let offsets = vec![0; events.len()];
        let origin = Origin {
            partitions: &places,
            offsets: &offsets,
        };
        for view in &project.views {
            view.state_rows(&batch, origin, &mut pending).unwrap();
        }
        for event in events {
            self.marks.advance("tx", event.time);
        }
        let settings = &self.workspace.settings.store;
        let committed = Committed(&self.store);
        let folded = self.folder.fold(
            &project.views,
            &self.marks,
            settings,
            &committed,
            &mut pending,
        );
        folded.unwrap();
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        self.marks.write(&mut commit);
        commit.offset("tx", 0, (self.position() + events.len()) as i64);
        self.commits.push(commit.clone());
        self.store.commit(commit).unwrap();
    }

    /// A look-up, whose tiles are kept as the pipeline keeps them.
    fn ask(&mut self, as_of: i64) {
        let mut pending = Pending::default();
        for view in &self.workspace.project.views {
            let keep = &mut |tile| {
                if self
                    .marks
                    .is_whole(view, &self.workspace.settings.store, &tile)
                {
                    pending.put_tile(tile);
                }
            };
            let state = Committed(&self.store);
            view.answer_and_sum_up(&state, &[key(&["busy"])], &[as_of], keep)
                .unwrap();
        }
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        self.commits.push(commit.clone());
        self.store.commit(commit).unwrap();
    }

    fn rows(&self, view: &FeatureView, card: &str) -> usize {
        let mut rows = 0;
        let all = i64::MIN..i64::MAX;
        let entity = pack_rows(&[key(&[card])]).remove(0);
        Committed(&self.store)
            .scan(view.id, &entity, all, &mut |_, _| {
                rows += 1;
                true
            })
            .unwrap();
        rows
    }
}

fn key(cards: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(cards.to_vec()))
}

fn bits(batch: &RecordBatch) -> Vec<Vec<u8>> {
    let column = |column: &ArrayRef| pack_rows(&[Arc::clone(column)]).concat();
    batch.columns().iter().map(column).collect()
}

#[test]
fn crashes_and_batches_change_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = workspace(folder.path());
    for seed in 0..3 {
        let mut random = Pcg64::seed_from_u64(seed);
        let arrivals = arrivals(&mut random, 12_000);
        let mut process = Process::start(&workspace, Vec::new());
        let mut crashes = 0;
        while process.position() < arrivals.len() {
            let from = process.position();
            let to = (from + random.random_range(1..400)).min(arrivals.len());
            process.apply(&arrivals[from..to]);
            if random.random_bool(0.3) {
                let newest = process.marks.newest("tx").unwrap();
                process.ask(newest + random.random_range(0..90 * SECOND));
            }
            if random.random_bool(0.1) {
                let mut commits = process.commits;
                // How far back it goes depends on when it was flushed.
                commits.truncate(commits.len().saturating_sub(random.random_range(0..8)));
                process = Process::start(&workspace, commits);
                crashes += 1;
            }
        }
        assert!(crashes > 4);
        let newest = process.marks.newest("tx").unwrap();
        let settled = process.marks.settled(&workspace.project.views[0]).unwrap();
        let mut asked = vec![newest, newest + 1, settled, newest + 3_600 * SECOND];
        asked.extend((0..60).map(|_| random.random_range(settled..=newest)));
        asked.extend((0..10).map(|step| settled - 60 * SECOND * step));
        for view in &workspace.project.views {
            let places = vec![0; arrivals.len()];
            let offsets = vec![0; arrivals.len()];
            let origin = Origin {
                partitions: &places,
                offsets: &offsets,
            };
            let all = batch(&view.stream.schema, &arrivals);
            let (kept, _) = view.kept_of(&all, origin).unwrap();
            let table = EventTable::new(view, &[kept]).unwrap();
            for card in ["busy", "quiet", "nobody"] {
                let key = [key(&vec![card; asked.len()])];
                let got = view
                    .answer(&Committed(&process.store), &key, &asked)
                    .unwrap();
                let expected = table.answer(&key, &asked).unwrap();
                assert!(
                    bits(&got) == bits(&expected),
                    "{} of {card}, seed {seed}",
                    view.name
                );
            }
            let counts = table.answer(&[key(&["busy"])], &[newest + 1]).unwrap();
            let count = counts.column(1).as_primitive::<Int64Type>().value(0) as usize;
            let rows = process.rows(view, "busy");
            println!(
                "{}: {rows} rows, {count} events in the window, {crashes} crashes",
                view.name
            );
        }
        // 12,000 events in 8 hours: of the lifetime the last 35 minutes and a handful of totals are left.
        let life = process.rows(&workspace.project.views[1], "busy");
        assert!(life < 600, "{life} rows");
    }
}

/// Each moment of a store whose rows, and what views make of them, stay in memory, says what a store without memory says:
/// the first time it is asked, the second, and later; after any commit.
#[test]
fn what_stays_in_memory_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    // The busy card is large, so that of it only what look-ups read is kept.
    let views = [VIEWS, EXACT].concat();
    let workspace = workspace_with(
        folder.path(),
        &views,
        "[store.rocksdb]\nentity_cache_rows = 100\n",
    );
    let rocks = workspace.open_store().unwrap();
    let mut random = Pcg64::seed_from_u64(11);
    let arrivals = arrivals(&mut random, 9_000);
    let mut process = Process::start(&workspace, Vec::new());
    let mut brought = 0;
    let mut kept = std::collections::BTreeMap::<String, usize>::new();
    let [busy, quiet] = ["busy", "quiet"].map(|card| pack_rows(&[key(&[card])]).remove(0));
    let mut parts = [0; 2];
    while process.position() < arrivals.len() {
        let from = process.position();
        // Often events of few cards, so that most of what is in memory stays, or changes a little.
        let most = [3, 40, 300][random.random_range(0..3)];
        let to = (from + random.random_range(1..=most)).min(arrivals.len());
        process.apply(&arrivals[from..to]);
        if random.random_bool(0.2) {
            let newest = process.marks.newest("tx").unwrap();
            process.ask(newest + random.random_range(0..90 * SECOND));
        }
        for commit in &process.commits[brought..] {
            rocks.commit(commit.clone()).unwrap();
        }
        brought = process.commits.len();
        if random.random_bool(0.5) {
            continue;
        }
        let newest = process.marks.newest("tx").unwrap();
        let cards = key(&["busy", "quiet", "nobody"]);
        for _ in 0..random.random_range(1..5) {
            let as_of = newest + random.random_range(0..600 * SECOND);
            let moment = rocks.moment();
            for view in &workspace.project.views {
                let (key, asked) = ([Arc::clone(&cards)], [as_of; 3]);
                let got = view.answer(&Committed(moment.as_ref()), &key, &asked);
                let expected = view.answer(&Committed(&process.store), &key, &asked);
                let (got, expected) = (got.unwrap(), expected.unwrap());
                assert!(
                    bits(&got) == bits(&expected),
                    "{} after {to} events as of {as_of}: {got:?} {expected:?}",
                    view.name
                );
                let state = Committed(moment.as_ref());
                let made = state.made(view.id, &quiet, as_of..i64::MAX, &mut |_| None);
                *kept.entry(view.name.clone()).or_default() += usize::from(made.unwrap().is_some());
                if view.name == "exact" {
                    let edge = as_of - 20 * 60 * SECOND;
                    let made = state.made(view.id, &busy, edge..edge + 1, &mut |_| None);
                    parts[0] += usize::from(made.unwrap().is_some());
                    let (start, end) = (edge, edge + 600 * SECOND);
                    let made = state.made_of_tiles(view.id, &busy, 1, start..end, &mut |_| None);
                    parts[1] += usize::from(made.unwrap().is_some());
                }
            }
        }
    }
    println!("{kept:?}");
    let of = |name: &str| kept.get(name).copied().unwrap_or_default();
    for name in ["recent", "life", "exact", "plain"] {
        assert!(of(name) > 20, "{name}");
    }
    println!("of the busy card: {parts:?}");
    assert!(parts.iter().all(|times| *times > 5), "{parts:?}");
}

/// Two views whose rows are the same, and whose sums are not.
#[test]
fn other_aggregates_of_the_same_rows_have_sums_of_their_own() {
    let view = |aggregate: &str| {
        format!(
            "CREATE VIEW v AS SELECT card_id, {aggregate} OVER w AS top FROM tx WINDOW w AS (PARTITION BY card_id
             ORDER BY event_time RANGE BETWEEN INTERVAL '3 hours' PRECEDING AND CURRENT ROW);"
        )
    };
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = workspace_of(folders[0].path(), &view("max(amount)"));
    let second = workspace_of(folders[1].path(), &view("min(amount)"));
    let (highest, lowest) = (&first.project.views[0], &second.project.views[0]);
    assert_eq!(highest.id, lowest.id);
    let rocks = first.open_store().unwrap();
    let mut process = Process::start(&first, Vec::new());
    process.apply(&arrivals(&mut Pcg64::seed_from_u64(3), 600));
    rocks.commit(process.commits[0].clone()).unwrap();
    let (cards, asked) = ([key(&["busy"])], [process.marks.newest("tx").unwrap()]);
    for _ in 0..4 {
        for view in [highest, lowest] {
            let moment = rocks.moment();
            let got = view.answer(&Committed(moment.as_ref()), &cards, &asked);
            let expected = view.answer(&Committed(&process.store), &cards, &asked);
            assert_eq!(bits(&got.unwrap()), bits(&expected.unwrap()));
        }
    }
}

/// A process over a project without a model.
fn pipeline(workspace: Workspace, store: Arc<dyn Store>) -> Pipeline {
    Pipeline::new(live(Arc::new(workspace), store), None).unwrap()
}

fn live(workspace: Arc<Workspace>, store: Arc<dyn Store>) -> Live {
    Live {
        workspace,
        store,
        scorer: None,
        registry: None,
        progress: Arc::new(Progress::default()),
        misses: Arc::default(),
        traces: crate::traces::Traces::default(),
    }
}

/// A file of events in a folder, for a back-fill.
fn file_of(folder: &Path, events: &[Event]) -> BackfillArgs {
    let lines = events.iter().map(|event| {
        let time = crate::times::rfc3339(event.time);
        format!(
            "{{\"tx_id\":\"t{}\",\"card_id\":\"{}\",\"amount\":{},\"event_time\":\"{time}\"}}\n",
            event.id, event.card, event.amount
        )
    });
    let path = folder.join("tx.jsonl");
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    BackfillArgs {
        events: vec![format!("tx={}", path.display())],
    }
}

/// A step of events from an offset of the topic on.
fn step_of(workspace: &Workspace, topic: &str, offset: i64, events: &[Event]) -> Step {
    let offsets = (offset..).take(events.len());
    Step {
        batches: vec![StreamBatch {
            stream: 0,
            batch: batch(&workspace.project.streams[0].schema, events),
            origin: offsets.map(|offset| (0, offset)).collect(),
            kafka_ts: vec![-1; events.len()],
            headers: Vec::new(),
            deletions: Vec::new(),
        }],
        positions: vec![(topic.to_owned(), 0, offset + events.len() as i64)],
        ..Step::default()
    }
}

#[test]
fn what_files_have_brought_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut random = Pcg64::seed_from_u64(5);
    let arrivals = arrivals(&mut random, 3_000);
    let (first, rest) = arrivals.split_at(2_000);
    let args = file_of(path, first);
    let workspace = Arc::new(workspace(path));
    backfill(&workspace, &args).unwrap();

    // The topic has all of it again, and more.
    let store: Arc<dyn Store> = Arc::new(workspace.open_store().unwrap());
    let mut pipeline = pipeline(Workspace::open(path).unwrap(), Arc::clone(&store));
    let mut offset = 0;
    for events in [first, rest].concat().chunks(250) {
        let step = step_of(&workspace, "tx", offset, events);
        pipeline.apply(&step).unwrap();
        offset += events.len() as i64;
    }
    let ids: std::collections::BTreeSet<usize> = arrivals.iter().map(|event| event.id).collect();
    let newest = arrivals.iter().map(|event| event.time).max().unwrap();
    let life = &workspace.project.views[1];
    let cards = key(&["busy", "quiet"]);
    let answer = life
        .answer(&Committed(store.as_ref()), &[cards], &[newest + 1; 2])
        .unwrap();
    let counts = answer.column(1).as_primitive::<Int64Type>();
    assert_eq!(counts.value(0) + counts.value(1), ids.len() as i64);
    let mut rows = 0;
    store
        .scan(Table::Events, &[], &[], false, &mut |_, _| {
            rows += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(rows < 2 * ids.len() * 2 / 3, "{rows} rows of two views");
    drop((pipeline, store));

    let failure = backfill(&workspace, &args).unwrap_err();
    assert!(
        failure.to_string().contains("could count twice"),
        "{failure}"
    );
}

/// What was served before cannot be served any more, so that views answer while a file is read for them, twice.
#[test]
fn views_that_answer_before_they_are_filled_are_right_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut random = Pcg64::seed_from_u64(11);
    let arrivals = arrivals(&mut random, 3_000);
    let (first, rest) = arrivals.split_at(2_000);
    let args = file_of(path, first);
    let before = Arc::new(workspace_of(path, &[VIEWS, EXACT].concat()));
    backfill(&before, &args).unwrap();
    let sources = SOURCES.replace("LOCATION 'tx'", "LOCATION 'tx2'");
    std::fs::write(path.join("sources.sql"), sources).unwrap();
    let workspace = Arc::new(Workspace::open(path).unwrap());
    let store: Arc<dyn Store> = Arc::new(before.open_store().unwrap());
    let transition = begin(store.as_ref(), &workspace).unwrap().unwrap();
    assert!(Arc::ptr_eq(&transition.served, &workspace));

    let live = live(Arc::clone(&workspace), Arc::clone(&store));
    let misses = Arc::clone(&live.misses);
    let reading = Reading::new(&transition).unwrap();
    let mut pipeline = Pipeline::reading(live, None, reading).unwrap();
    let mut newest = i64::MIN;
    for (number, events) in (0..).zip(rest.chunks(50)) {
        let step = step_of(&workspace, "tx2", 50 * number, events);
        pipeline.apply(&step).unwrap();
        newest = events.iter().map(|event| event.time).fold(newest, i64::max);
        for view in &workspace.project.views {
            misses.note(Miss {
                view: Arc::clone(view),
                entity: vec![key(&["busy"])],
                as_of_us: newest,
            });
        }
        pipeline.between_steps().unwrap();
        if number % 8 == 4 {
            // Stopped before it had noted that it was done.
            for view in &transition.views {
                let record = ViewRecord::read(store.as_ref(), view.id).unwrap().unwrap();
                let state = RowsState::Filling(Vec::new());
                let mut commit = Commit::default();
                let record = ViewRecord { state, ..record };
                record.write(view.id, &mut commit).unwrap();
                store.commit(commit).unwrap();
            }
            let filler = Filler::new(Arc::clone(&store), &transition);
            assert!(filler.run(&AtomicBool::new(false)).unwrap());
        }
    }
    let marks = Marks::open(store.as_ref()).unwrap();
    let settled = marks.settled(&workspace.project.views[0]).unwrap();
    let asked: Vec<i64> = (0..40)
        .map(|_| random.random_range(settled..=newest + SECOND))
        .collect();
    for view in &workspace.project.views {
        let (partitions, offsets) = (vec![0; arrivals.len()], vec![0; arrivals.len()]);
        let origin = Origin {
            partitions: &partitions,
            offsets: &offsets,
        };
        let all = batch(&view.stream.schema, &arrivals);
        let (kept, _) = view.kept_of(&all, origin).unwrap();
        let table = EventTable::new(view, &[kept]).unwrap();
        let key = [key(&vec!["busy"; asked.len()])];
        let got = view
            .answer(&Committed(store.as_ref()), &key, &asked)
            .unwrap();
        let expected = table.answer(&key, &asked).unwrap();
        assert!(bits(&got) == bits(&expected), "{}", view.name);
    }
}
