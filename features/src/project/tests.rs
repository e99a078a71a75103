//! What `Project::plan` says of projects, right and wrong.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use super::{Project, SqlFile};
use crate::problem::{Position, Problem};

mod calls;
mod clauses;
mod comparisons;
mod inputs;
mod names;
mod parts;
mod planner;
mod resolutions;
mod sources;
mod syntax;
mod views;

const SOURCES: &str = "CREATE EXTERNAL TABLE tx (
  tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, terminal_id VARCHAR NOT NULL,
  amount DOUBLE, n INT, approved BOOLEAN, event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('key' 'card_id', 'id' 'tx_id');";

/// `$W` in the text of a view.
const WINDOW: &str = "(PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";

/// A view, to be joined or to stand beside another one.
const VIEW: &str = "CREATE VIEW v AS SELECT card_id, count(*) OVER $W AS n FROM tx";

fn file(path: &str, text: &str) -> SqlFile {
    SqlFile {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

fn plan(view: &str, inputs: &str) -> Result<Project, Vec<Problem>> {
    let views = [file("features/v.sql", &view.replace("$W", WINDOW))];
    Project::plan(
        &file("sources.sql", SOURCES),
        &views,
        Some(&file("inputs.sql", inputs)),
    )
}

/// The problems of a view, a line each: `line:column message | hint`.
fn problems(view: &str) -> String {
    render(plan(view, ""))
}

fn render(result: Result<Project, Vec<Problem>>) -> String {
    let line = |problem: &Problem| {
        let hint = problem.hint.as_deref().unwrap_or("-");
        let Position { line, column, .. } = problem.position;
        format!("{line}:{column} {} | {hint}", problem.message)
    };
    match result {
        Ok(_) => "ok".to_owned(),
        Err(problems) => problems.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

/// What was said and should not have been, all of a test at once.
#[derive(Default)]
struct Wrong(RefCell<Vec<String>>);

impl Wrong {
    fn note(&self, text: &str, got: &str, expected: &str) {
        if !got.contains(expected) {
            let wrong = format!("{text}\n  says  {got}\n  wants {expected}");
            self.0.borrow_mut().push(wrong);
        }
    }

    fn view(&self, view: &str, expected: &str) {
        self.note(view, &problems(view), expected);
    }

    /// Of an item in line 2 of a view that has a window `d1`.
    fn item(&self, item: &str, expected: &str) {
        let view = format!("CREATE VIEW v AS SELECT card_id,\n{item} FROM tx WINDOW d1 AS $W");
        self.view(&view, expected);
    }

    /// Of an item that is named, as [`item`](Self::item).
    fn value(&self, item: &str, expected: &str) {
        self.item(&format!("{item} AS x"), expected);
    }

    /// Of what stands behind WHERE in line 2 of a view.
    fn condition(&self, condition: &str, expected: &str) {
        let view = format!(
            "CREATE VIEW v AS SELECT card_id, count(*) OVER d1 AS n\nFROM tx WHERE {condition}\nWINDOW d1 AS $W"
        );
        self.view(&view, expected);
    }

    /// Of a window in line 2 of a view, behind one that is named `d1`; `used` is the one that its item is over.
    fn window(&self, used: &str, window: &str, expected: &str) {
        let view = format!(
            "CREATE VIEW v AS SELECT card_id, count(*) OVER {used} AS n FROM tx WINDOW d1 AS $W,\n{window}"
        );
        self.view(&view, expected);
    }

    /// Of inputs beside [`VIEW`].
    fn inputs(&self, inputs: &str, expected: &str) {
        self.note(inputs, &render(plan(VIEW, inputs)), expected);
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        let wrong = self.0.borrow();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
