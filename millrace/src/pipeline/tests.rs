//! What a pipeline lets go of, and what it keeps of a step that is applied again, over a store in memory.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use millrace_feature_store::{MemoryStore, Table};
use millrace_features::SqlFile;
use millrace_learner::Model;
use opentelemetry::trace::SpanContext;

use super::*;
use crate::evolve::{begin, note_completeness};
use crate::fill::Filler;
use crate::live::Progress;
use crate::score_log::tests::{Payment, step};
use crate::scorer::Scores;
use crate::serve::tests as served;
use crate::settings::Settings;
use crate::workspace::ProjectSql;

const DAY: i64 = 24 * 3_600 * 1_000_000;
const NEWEST: i64 = 20_000 * DAY;

const SOURCES: &str =
    "CREATE EXTERNAL TABLE pay (id VARCHAR NOT NULL, card VARCHAR NOT NULL, amount DOUBLE,
    event_time TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 'pay' WITH ORDER (event_time)
    OPTIONS ('format' 'json', 'key' 'id', 'id' 'id');";

/// A project of one view, with a window of some days, that keeps what is older for some days.
fn project(window: u32, history: u32) -> Arc<Workspace> {
    planned(SOURCES, &[view("a", "sum(amount)", "pay", window)], history)
}

fn view(name: &str, aggregate: &str, stream: &str, window: u32) -> String {
    format!(
        "CREATE VIEW {name} AS SELECT card, {aggregate} OVER w AS x FROM {stream} WINDOW w AS (PARTITION BY card \
         ORDER BY event_time RANGE BETWEEN INTERVAL '{window} days' PRECEDING AND CURRENT ROW);"
    )
}

fn planned(sources: &str, views: &[String], history: u32) -> Arc<Workspace> {
    let file = |text: &str| SqlFile {
        path: "file.sql".to_owned(),
        text: text.to_owned(),
    };
    let sql = ProjectSql {
        sources: file(sources),
        views: vec![file(&views.concat())],
        inputs: None,
    };
    let settings = format!("[store]\nhistory = \"{history}d\"");
    let settings: Settings = toml::from_str(&settings).unwrap();
    Arc::new(Workspace::plan(Path::new("/project"), settings, sql).unwrap())
}

fn live(workspace: &Arc<Workspace>, store: &Arc<dyn Store>) -> Live {
    Live {
        workspace: Arc::clone(workspace),
        store: Arc::clone(store),
        scorer: None,
        registry: None,
        progress: Arc::new(Progress::default()),
        misses: Arc::default(),
        traces: crate::traces::Traces::default(),
    }
}

/// A store that serves a project and has read its topic up to an event.
fn store(served: &Arc<Workspace>) -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    assert!(begin(store.as_ref(), served).unwrap().is_none());
    let mut marks = Marks::default();
    marks.advance("pay", NEWEST);
    let mut commit = Commit::default();
    marks.write(&mut commit);
    store.commit(commit).unwrap();
    store
}

#[test]
fn a_longer_window_keeps_what_it_is_filled_with_before_a_step_comes() {
    let store = store(&project(1, 20));
    let next = project(50, 20);
    let transition = begin(store.as_ref(), &next).unwrap().unwrap();
    let reading = Reading::new(&transition).unwrap();
    drop(Pipeline::reading(live(&transition.served, &store), None, reading).unwrap());
    let view = &next.project.views[0];
    for kept in [view.id, index_of(view.id), deleted_of(&view.stream)] {
        assert_eq!(store.horizons().view(kept), Some(NEWEST - 70 * DAY));
    }
}

/// What the store notes of the one view of a project.
fn gone(store: &Arc<dyn Store>, workspace: &Workspace) -> Option<i64> {
    let marks = Marks::open(store.as_ref()).unwrap();
    marks.gone().before(workspace.project.views[0].id)
}

/// Of no step: on a quiet topic too, settings let go of what they then keep.
#[test]
fn what_a_shorter_history_has_let_go_of_is_not_there_for_a_longer_one() {
    let first = project(1, 60);
    let store = store(&first);
    let id = first.project.views[0].id;
    assert_eq!(gone(&store, &first), None);
    for (history, horizon, expected) in [(60, 61, 61), (20, 21, 21), (60, 61, 21)] {
        let live = live(&project(1, history), &store);
        drop(Pipeline::new(live.clone(), None).unwrap());
        assert_eq!(store.horizons().view(id), Some(NEWEST - horizon * DAY));
        let expected = Some(NEWEST - expected * DAY);
        assert_eq!(gone(&store, &first), expected);
        assert_eq!(live.progress.gone_before(id), expected);
    }
}

/// A step notes what goes with it.
#[test]
fn what_a_step_lets_go_of_is_part_of_its_commit() {
    let workspace = project(1, 20);
    let store = store(&workspace);
    let mut pipeline = Pipeline::new(live(&workspace, &store), None).unwrap();
    let stream = &workspace.project.streams[0];
    pipeline
        .apply(&step_of(stream, 0, NEWEST + 5 * DAY))
        .unwrap();
    assert_eq!(gone(&store, &workspace), Some(NEWEST - 16 * DAY));
}

/// A step of one event, of the stream that steps number so.
fn step_of(stream: &Stream, index: usize, time_us: i64) -> Step {
    let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let batch = RecordBatch::try_new(
        Arc::clone(&stream.schema),
        vec![
            texts("t1"),
            texts("c1"),
            Arc::new(Float64Array::from(vec![1.0])),
            Arc::new(TimestampMicrosecondArray::from(vec![time_us])),
        ],
    );
    Step {
        batches: vec![StreamBatch {
            stream: index,
            batch: batch.unwrap(),
            origin: vec![(0, 0)],
            kafka_ts: vec![-1],
            headers: Vec::new(),
            deletions: Vec::new(),
        }],
        positions: vec![(stream.topic.clone(), 0, 1)],
        ..Step::default()
    }
}

/// They are filled with what came before the gap, and have what comes after it.
#[test]
fn a_gap_is_known_of_the_views_that_are_being_filled() {
    let served = project(1, 20);
    let store = store(&served);
    let refunds = SOURCES.replace("pay", "refunds");
    let views = [
        view("a", "sum(amount)", "pay", 1),
        view("b", "max(card)", "pay", 1),
        view("c", "sum(amount)", "refunds", 1),
    ];
    let next = planned(&[SOURCES, refunds.as_str()].concat(), &views, 20);
    let transition = begin(store.as_ref(), &next).unwrap().unwrap();
    let reading = Reading::new(&transition).unwrap();
    let streams = reading.streams.clone();
    let live = live(&transition.served, &store);
    let mut pipeline = Pipeline::reading(live, None, reading).unwrap();
    // Of a topic that was read already, and of one that is new.
    pipeline.gaps.add("pay", 0);
    pipeline.note_trimmed("refunds", 0).unwrap();
    for (index, stream) in streams.iter().enumerate() {
        let time_us = NEWEST + index as i64;
        pipeline.apply(&step_of(stream, index, time_us)).unwrap();
    }
    let filler = Filler::new(Arc::clone(&store), &transition);
    assert!(filler.run(&AtomicBool::new(false)).unwrap());
    let progress = Progress::default();
    note_completeness(store.as_ref(), &progress).unwrap();
    for (name, since_us) in [("a", NEWEST), ("b", NEWEST), ("c", NEWEST + 1)] {
        let view = next.project.view(name).unwrap().id;
        assert_eq!(progress.complete_since(view), Some(since_us), "{name}");
    }
}

/// A topic that does not take scores, so many times.
struct Refusing(usize);

impl ScoreSink for Refusing {
    fn send(
        &mut self,
        _events: &RecordBatch,
        _scores: &Scores,
        _traces: &[(usize, SpanContext)],
    ) -> Outcome<()> {
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                Err(Failure::failed("the broker is away"))
            }
            None => Ok(()),
        }
    }
}

#[test]
fn events_of_a_step_that_is_applied_again_are_looked_at_once_for_drift() {
    let kept = |refusals: usize| {
        let live = served::live();
        let (manifest, checkpoint) = served::model(&live);
        let scorer = live.scorer.as_ref().unwrap();
        scorer
            .change()
            .swap(manifest, Model::new(&checkpoint))
            .unwrap();
        let payment = |number: usize| Payment {
            id: format!("tx-{number}"),
            card: format!("card-{number}"),
            amount: (number % 100) as f64,
            time: NEWEST + number as i64,
        };
        // So many that what was seen is kept with the step.
        let payments: Vec<Payment> = (0..1_000).map(payment).collect();
        let step = step(&live, &payments, 0..payments.len());
        let topic = Box::new(Refusing(refusals));
        let mut pipeline = Pipeline::new(live.clone(), Some(topic)).unwrap();
        for _ in 0..refusals {
            let applied = pipeline.apply(&step);
            assert!(matches!(applied, Err(StepFailure::Scores(_))));
        }
        pipeline.apply(&step).unwrap();
        let kept = |key: &str| live.store.get(Table::Meta, key.as_bytes()).unwrap();
        ["drift-reference", "drift-lately"].map(kept)
    };
    let once = kept(0);
    assert!(once.iter().all(Option::is_some));
    assert!(kept(3) == once, "the events were counted more than once");
}

#[test]
fn what_was_gone_is_there_again_once_it_was_read_again() {
    let narrow = project(1, 20);
    let store = store(&narrow);
    drop(Pipeline::new(live(&narrow, &store), None).unwrap());
    let wide = project(50, 20);
    let transition = begin(store.as_ref(), &wide).unwrap().unwrap();
    let reading = Reading::new(&transition).unwrap();
    let live = live(&transition.served, &store);
    drop(Pipeline::reading(live.clone(), None, reading).unwrap());
    // Until then it is asked about no more than before.
    let view = &wide.project.views[0];
    assert_eq!(live.progress.gone_before(view.id), Some(NEWEST - 21 * DAY));
    let filler = Filler::new(Arc::clone(&store), &transition);
    assert!(filler.run(&AtomicBool::new(false)).unwrap());
    assert_eq!(gone(&store, &wide), Some(NEWEST - 70 * DAY));
}
