//! Transitions over a store in memory: what is served, what is written, what is read.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use millrace_feature_store::{MemoryStore, entity_range, event_key};

use super::*;
use crate::settings::Settings;

const SOURCES: &str =
    "CREATE EXTERNAL TABLE pay (id VARCHAR NOT NULL, card VARCHAR NOT NULL, amount DOUBLE,
    event_time TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 'pay' WITH ORDER (event_time)
    OPTIONS ('format' 'json', 'key' 'card', 'id' 'id');";

fn view(name: &str, column: &str, days: u32) -> String {
    format!(
        "CREATE VIEW {name} AS SELECT card, {column} OVER w AS x FROM pay WINDOW w AS (PARTITION BY card \
         ORDER BY event_time RANGE BETWEEN INTERVAL '{days} days' PRECEDING AND CURRENT ROW);"
    )
}

fn project(sources: &str, views: &[String]) -> Arc<Workspace> {
    let file = |text: &str| SqlFile {
        path: "file.sql".to_owned(),
        text: text.to_owned(),
    };
    let sql = ProjectSql {
        sources: file(sources),
        views: vec![file(&views.join("\n"))],
        inputs: None,
    };
    Arc::new(Workspace::plan(Path::new("/project"), Settings::default(), sql).unwrap())
}

/// A store that serves a project and has read its topic up to 7.
fn store(served: &Arc<Workspace>) -> MemoryStore {
    let store = MemoryStore::new();
    assert!(begin(&store, served).unwrap().is_none());
    let mut commit = Commit::default();
    commit.offset("pay", 0, 7);
    store.commit(commit).unwrap();
    store
}

fn names(views: &[Arc<FeatureView>]) -> Vec<&str> {
    views.iter().map(|view| view.name.as_str()).collect()
}

fn state(store: &MemoryStore, workspace: &Workspace, name: &str) -> RowsState {
    state_of(store, workspace.project.view(name).unwrap().id)
}

fn state_of(store: &MemoryStore, id: u32) -> RowsState {
    ViewRecord::read(store, id).unwrap().unwrap().state
}

/// As the filler does when it has read everything.
fn catch_up(store: &MemoryStore, views: &[Arc<FeatureView>]) {
    for view in views {
        let mut commit = Commit::default();
        let record = ViewRecord::complete(view);
        record.write(view.id, &mut commit).unwrap();
        store.commit(commit).unwrap();
    }
}

#[test]
fn the_same_rows_are_served_at_once() {
    let store = store(&project(SOURCES, &[view("a", "sum(amount)", 7)]));
    // The same column, in a shorter window, in another aggregate; another view of nothing new.
    for (column, days) in [("sum(amount)", 7), ("avg(amount)", 3)] {
        let next = project(SOURCES, &[view("a", column, days)]);
        assert!(begin(&store, &next).unwrap().is_none());
    }
    // What was given up is wanted back.
    let next = project(SOURCES, &[view("a", "sum(amount)", 7)]);
    let transition = begin(&store, &next).unwrap().unwrap();
    assert_eq!(names(&transition.views), ["a"]);
}

#[test]
fn what_is_served_keeps_the_registry_of_its_models() {
    let project = |days: u32, registry: &str| {
        let labels = "CREATE EXTERNAL TABLE labels (id VARCHAR NOT NULL, fraud BOOLEAN, at TIMESTAMP NOT NULL)
            STORED AS KAFKA LOCATION 'labels' WITH ORDER (at) OPTIONS ('id' 'id');";
        let inputs = "CREATE VIEW inputs AS SELECT pay.amount, a.x FROM pay JOIN a USING (card);";
        let file = |text: &str| SqlFile {
            path: "file.sql".to_owned(),
            text: text.to_owned(),
        };
        let sql = ProjectSql {
            sources: file(&[SOURCES, labels].concat()),
            views: vec![file(&view("a", "sum(amount)", days))],
            inputs: Some(file(inputs)),
        };
        let settings = format!(
            "[model]\ninputs = \"inputs\"\nlabel = \"labels.fraud\"\nregistry = \"{registry}\""
        );
        let settings: Settings = toml::from_str(&settings).unwrap();
        Arc::new(Workspace::plan(Path::new("/project"), settings, sql).unwrap())
    };
    let registry = |workspace: &Workspace| workspace.registry().unwrap().to_string();
    let store = store(&project(7, "models"));
    let next = project(14, "models-of-14-days");
    let transition = begin(&store, &next).unwrap().unwrap();
    assert_eq!(registry(&transition.served), "/project/models");
    assert_eq!(registry(&transition.next), "/project/models-of-14-days");

    // Back before they have caught up, and back after that.
    let transition = begin(&store, &project(7, "models")).unwrap().unwrap();
    assert_eq!(registry(&transition.served), "/project/models");
    let transition = begin(&store, &next).unwrap().unwrap();
    catch_up(&store, &transition.views);
    finish(&store, &next).unwrap();
    let narrow = project(7, "models");
    assert!(begin(&store, &narrow).unwrap().is_none());
    let transition = begin(&store, &next).unwrap().unwrap();
    assert_eq!(registry(&transition.served), "/project/models");
}

#[test]
fn what_is_new_is_filled_while_the_rest_is_served() {
    let old = project(
        SOURCES,
        &[view("a", "sum(amount)", 7), view("gone", "count(*)", 7)],
    );
    let store = store(&old);
    let next = project(
        SOURCES,
        &[view("a", "sum(amount)", 7), view("b", "max(amount)", 1)],
    );
    let transition = begin(&store, &next).unwrap().unwrap();
    assert_eq!(names(&transition.views), ["b"]);
    assert_eq!(names(&transition.served.project.views), ["a", "gone"]);
    let parts = vec![Part {
        partition: 0,
        next: None,
        until: 7,
    }];
    assert_eq!(state(&store, &next, "b"), RowsState::Filling(parts.clone()));

    // Stopped and started again: the events after 7 were written for it as they came, those before were not.
    let mut commit = Commit::default();
    commit.offset("pay", 0, 9);
    store.commit(commit).unwrap();
    begin(&store, &next).unwrap().unwrap();
    assert_eq!(state(&store, &next, "b"), RowsState::Filling(parts));

    catch_up(&store, &transition.views);
    finish(&store, &next).unwrap();
    assert!(begin(&store, &next).unwrap().is_none());
    assert_eq!(state(&store, &old, "gone"), RowsState::Abandoned);
    let gone = old.project.view("gone").unwrap().id;
    let kept = next.project.view("a").unwrap().id;
    let mut commit = Commit::default();
    for view in [gone, kept] {
        commit.put(Table::Events, event_key(view, b"c", 1, &[0; 16]), [1]);
    }
    store.commit(commit).unwrap();
    drop_unused(&store, &next).unwrap();
    let rows = |view| {
        let (from, to) = entity_range(view, b"c");
        let mut rows = 0;
        let mut count = |_: &[u8], _: &[u8]| {
            rows += 1;
            ControlFlow::Continue(())
        };
        use millrace_feature_store::Scan;
        store
            .scan(Table::Events, &from, &to, false, &mut count)
            .unwrap();
        rows
    };
    assert_eq!((rows(gone), rows(kept)), (0, 1));
    assert_eq!(ViewRecord::read(&store, gone).unwrap(), None);
}

#[test]
fn a_longer_window_is_filled_and_so_is_what_came_back() {
    let old = project(SOURCES, &[view("a", "sum(amount)", 7)]);
    let store = store(&old);
    let next = project(SOURCES, &[view("a", "sum(amount)", 8)]);
    let transition = begin(&store, &next).unwrap().unwrap();
    let reading = Reading::new(&transition).unwrap();
    assert_eq!(
        (names(&reading.views), names(&reading.wider)),
        (vec![], vec!["a"])
    );

    // Another change of mind: what was begun for the first is not gone on with later.
    let other = project(SOURCES, &[view("c", "min(amount)", 7)]);
    let second = begin(&store, &other).unwrap().unwrap();
    assert_eq!(names(&second.served.project.views), ["a"]);
    catch_up(&store, &second.views);
    finish(&store, &other).unwrap();
    assert_eq!(state(&store, &old, "a"), RowsState::Abandoned);
    let third = begin(&store, &old).unwrap().unwrap();
    assert_eq!(names(&third.served.project.views), ["c"]);
    assert!(matches!(state(&store, &old, "a"), RowsState::Filling(_)));
}

/// What stands for events that are read once more would count beside them.
#[test]
fn what_came_back_is_filled_from_nothing() {
    let steps = view("a", "sum(amount)", 7)
        .replace(" AS SELECT", " WITH (resolution = '1 minute') AS SELECT");
    let old = project(SOURCES, &[steps]);
    let store = store(&old);
    let id = old.project.view("a").unwrap().id;
    let mut commit = Commit::default();
    commit.put(Table::Events, event_key(id, b"c", 1, &[0xFF; 16]), [1, 0]);
    store.commit(commit).unwrap();
    let other = project(SOURCES, &[view("c", "min(amount)", 7)]);
    let transition = begin(&store, &other).unwrap().unwrap();
    catch_up(&store, &transition.views);
    finish(&store, &other).unwrap();
    assert!(has_rows(&store, id).unwrap());
    begin(&store, &old).unwrap().unwrap();
    assert!(matches!(state(&store, &old, "a"), RowsState::Filling(_)));
    assert!(!has_rows(&store, id).unwrap());
}

/// A project that cannot be read beside the one before it, and that one again: its views answer while they are filled.
#[test]
fn what_is_served_again_is_not_complete() {
    let old = project(SOURCES, &[view("a", "sum(amount)", 7)]);
    let store = store(&old);
    let elsewhere = SOURCES.replace("LOCATION 'pay'", "LOCATION 'paid'");
    let mistaken = project(&elsewhere, &[view("a", "sum(amount)", 7)]);
    let transition = begin(&store, &mistaken).unwrap().unwrap();
    assert!(Arc::ptr_eq(&transition.served, &mistaken));
    let reading = Reading::new(&transition).unwrap();
    assert_eq!(names(&reading.wider), ["a"]);
    assert_eq!(state(&store, &old, "a"), RowsState::Abandoned);

    let transition = begin(&store, &old).unwrap().unwrap();
    assert_eq!(names(&transition.served.project.views), ["a"]);
    assert!(matches!(state(&store, &old, "a"), RowsState::Filling(_)));
    let reading = Reading::new(&transition).unwrap();
    assert_eq!(names(&reading.wider), ["a"]);
}

#[test]
fn some_views_catch_up_before_others() {
    let old = project(SOURCES, &[view("a", "sum(amount)", 7)]);
    let store = store(&old);
    let next = project(
        SOURCES,
        &[view("b", "sum(amount)", 7), view("c", "min(amount)", 7)],
    );
    let transition = begin(&store, &next).unwrap().unwrap();
    catch_up(&store, &transition.views[..1]);
    // New events must still be written for the one that has.
    let again = begin(&store, &next).unwrap().unwrap();
    assert_eq!(names(&again.views), ["b", "c"]);
    assert_eq!(names(&Reading::new(&again).unwrap().views), ["b", "c"]);
}

/// What it was filled with must not expire as the shorter window has it, which is served until the other has caught up.
#[test]
fn a_longer_window_that_caught_up_before_others_is_still_wider() {
    let store = store(&project(SOURCES, &[view("a", "sum(amount)", 7)]));
    let next = project(
        SOURCES,
        &[view("a", "sum(amount)", 14), view("b", "min(amount)", 7)],
    );
    let transition = begin(&store, &next).unwrap().unwrap();
    catch_up(&store, &transition.views[..1]);
    let again = begin(&store, &next).unwrap().unwrap();
    let reading = Reading::new(&again).unwrap();
    assert_eq!(
        (names(&reading.views), names(&reading.wider)),
        (vec!["b"], vec!["a"])
    );
    assert_eq!(state(&store, &next, "a"), RowsState::Complete);
}

#[test]
fn a_stream_may_grow_and_a_smaller_one_is_served_no_more() {
    let store = store(&project(SOURCES, &[view("a", "sum(amount)", 7)]));
    let wider = SOURCES.replace("(id VARCHAR", "(country VARCHAR, id VARCHAR");
    let grown = project(
        &wider,
        &[view("a", "sum(amount)", 7), view("b", "count(country)", 7)],
    );
    let transition = begin(&store, &grown).unwrap().unwrap();
    let reading = Reading::new(&transition).unwrap();
    assert_eq!(reading.streams[0].schema.fields().len(), 5);
    let batch = StreamBatch {
        stream: 0,
        batch: RecordBatch::new_empty(Arc::clone(&reading.streams[0].schema)),
        origin: Vec::new(),
        kafka_ts: Vec::new(),
        headers: Vec::new(),
        deletions: Vec::new(),
    };
    let step = Step {
        batches: vec![batch],
        ..Step::default()
    };
    let served = reading.served(&step).unwrap();
    let old = &transition.served.project.streams[0].schema;
    assert_eq!(served.batches[0].batch.schema().fields(), old.fields());

    let smaller = SOURCES.replace("amount DOUBLE,", "");
    let smaller = project(&smaller, &[view("b", "count(*)", 7)]);
    let transition = begin(&store, &smaller).unwrap().unwrap();
    assert!(Arc::ptr_eq(&transition.served, &smaller));
}

/// The pipeline finds out what is lacking while the filler works: neither takes away what the other says.
#[test]
fn what_is_lacking_is_noted_beside_what_is_filled() {
    let store = store(&project(SOURCES, &[view("a", "sum(amount)", 7)]));
    let next = project(SOURCES, &[view("a", "sum(amount)", 14)]);
    let id = next.project.view("a").unwrap().id;
    begin(&store, &next).unwrap().unwrap();
    let lacks = |time_us| {
        let mut commit = Commit::default();
        ViewRecord::lacks(&store, id, time_us, &mut commit).unwrap();
        commit
    };
    let since = || {
        let progress = Progress::default();
        note_completeness(&store, &progress).unwrap();
        progress.complete_since(id)
    };
    assert_eq!(since(), None);

    // Each is made before the other is written.
    let (found, filled) = (lacks(5), ViewRecord::read(&store, id).unwrap().unwrap());
    let state = RowsState::Complete;
    let mut commit = Commit::default();
    ViewRecord { state, ..filled }
        .write(id, &mut commit)
        .unwrap();
    store.commit(commit).unwrap();
    store.commit(found).unwrap();
    assert_eq!(
        (since(), state_of(&store, id)),
        (Some(5), RowsState::Complete)
    );
    store.commit(lacks(3)).unwrap();
    assert_eq!(since(), Some(5));
    finish(&store, &next).unwrap();
    assert_eq!(since(), Some(5));

    // Filled once more, as of a time that files reach back to. Until then it says what it said.
    let longer = project(SOURCES, &[view("a", "sum(amount)", 21)]);
    let views = begin(&store, &longer).unwrap().unwrap().views;
    assert_eq!(since(), Some(5));
    catch_up(&store, &views);
    let filled = ViewRecord::read(&store, id).unwrap().unwrap();
    let (mut commit, since_us) = (Commit::default(), Some(2));
    ViewRecord { since_us, ..filled }
        .write(id, &mut commit)
        .unwrap();
    store.commit(commit).unwrap();
    finish(&store, &longer).unwrap();
    assert_eq!(since(), Some(2));

    // What is given up and comes back is filled from nothing.
    let other = project(SOURCES, &[view("b", "avg(amount)", 1)]);
    catch_up(&store, &begin(&store, &other).unwrap().unwrap().views);
    finish(&store, &other).unwrap();
    begin(&store, &next).unwrap().unwrap();
    assert_eq!(since(), None);
}

#[test]
fn the_store_of_another_project_is_refused() {
    let store = store(&project(SOURCES, &[view("a", "sum(amount)", 7)]));
    let same = project(SOURCES, &[]);
    check_project(&store, &same).unwrap();
    let other = project(&SOURCES.replace("pay", "clicks"), &[]);
    let failure = check_project(&store, &other).unwrap_err();
    let said = "the stream pay (topic pay); this one has the stream clicks (topic clicks)";
    assert!(failure.to_string().contains(said), "{failure}");
}
