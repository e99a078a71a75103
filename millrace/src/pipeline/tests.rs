//! What a pipeline lets go of, over a store in memory.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use millrace_feature_store::MemoryStore;
use millrace_features::SqlFile;

use super::*;
use crate::evolve::begin;
use crate::live::Progress;
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
    let view = format!(
        "CREATE VIEW a AS SELECT card, sum(amount) OVER w AS x FROM pay WINDOW w AS (PARTITION BY card \
         ORDER BY event_time RANGE BETWEEN INTERVAL '{window} days' PRECEDING AND CURRENT ROW);"
    );
    let file = |text: &str| SqlFile {
        path: "file.sql".to_owned(),
        text: text.to_owned(),
    };
    let sql = ProjectSql {
        sources: file(SOURCES),
        views: vec![file(&view)],
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
