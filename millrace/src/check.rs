//! `millrace check`: plans the project and shows the plan, or every mistake with its place.

use std::path::Path;

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use millrace_features::{FeatureView, Frame, Project};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::output::{print, tell};
use crate::registry::Place;
use crate::serve;
use crate::workspace::Workspace;

/// Checks the project in `folder`, and prints its plan.
///
/// # Errors
/// The project's mistakes.
pub fn check(folder: &Path, json: bool) -> Outcome<()> {
    let checked = Workspace::open(folder).and_then(|workspace| {
        let absent = serve::check_files(&workspace)?;
        check_model(&workspace)?;
        Ok((workspace, absent))
    });
    match checked {
        Ok((workspace, absent)) if json => {
            print(format_args!("{:#}", plan_json(&workspace, &absent)))?;
            Ok(())
        }
        Ok((workspace, absent)) => {
            print(plan_text(&workspace))?;
            for warning in absent {
                tell(format_args!("warning: {warning}"));
            }
            Ok(())
        }
        Err(failure) if json => {
            print(format_args!("{:#}", failure_json(&failure)))?;
            Err(Failure {
                hint: None,
                message: "the project has mistakes".to_owned(),
                ..failure
            })
        }
        Err(failure) => Err(failure),
    }
}

/// Whether the model that has the traffic, if its registry is a folder of this machine, was trained on the project's
/// inputs: `run` refuses it otherwise.
fn check_model(workspace: &Workspace) -> Outcome<()> {
    if workspace.model.is_none() {
        return Ok(());
    }
    let place @ Place::Folder(_) = workspace.registry()? else {
        return Ok(());
    };
    let registry = place.open_existing()?;
    registry.map_or(Ok(()), |registry| workspace.check_champion(&registry))
}

fn plan_text(workspace: &Workspace) -> String {
    let project = &workspace.project;
    let mut streams = table(&["stream", "topic", "columns", "event time", "key", "id"]);
    for stream in &project.streams {
        let name = |column: usize| stream.schema.field(column).name().clone();
        let optional = |column: Option<usize>| column.map_or_else(|| "–".to_owned(), name);
        streams.add_row([
            stream.name.clone(),
            stream.topic.clone(),
            stream.schema.fields().len().to_string(),
            name(stream.time),
            optional(stream.key),
            optional(stream.id),
        ]);
    }
    let mut views = table(&[
        "feature view",
        "entity",
        "stream",
        "features",
        "longest window",
        "resolution",
        "kept of an event",
    ]);
    for view in &project.views {
        views.add_row([
            view.name.clone(),
            view.entity_columns().collect::<Vec<_>>().join(", "),
            view.stream.name.clone(),
            view.features().count().to_string(),
            longest_window(view),
            resolution(view),
            kept(view),
        ]);
    }
    let ok = format!(
        "ok: {}, {}, {}",
        count(project.streams.len(), "stream"),
        count(project.views.len(), "feature view"),
        count(project.inputs.len(), "input view")
    );
    let mut parts = vec![streams.to_string(), views.to_string()];
    parts.extend(inputs_lines(project));
    parts.push(ok);
    parts.join("\n")
}

fn inputs_lines(project: &Project) -> impl Iterator<Item = String> {
    project.inputs.iter().map(|inputs| {
        let names: Vec<String> = inputs
            .names()
            .zip(inputs.are_texts())
            .map(|(name, is_text)| match is_text {
                true => format!("{name} (category)"),
                false => name.to_owned(),
            })
            .collect();
        format!(
            "inputs {} ({} of {}): {}",
            inputs.name,
            names.len(),
            inputs.stream.name,
            names.join(", ")
        )
    })
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}

/// What a view keeps of an event, each once.
fn kept(view: &FeatureView) -> String {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in view.kept() {
        let name = without_places(&name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// `amount@3` is DataFusion's way to write column 3.
fn without_places(expression: &str) -> String {
    let mut parts = expression.split('@');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

/// How a view's windows are rounded, in words.
fn resolution(view: &FeatureView) -> String {
    match view.resolution() {
        None => "exact".to_owned(),
        Some(resolution) => {
            let (step, late) = (length(resolution.step_us), length(resolution.late_us));
            format!("{step}, events {late}")
        }
    }
}

/// `1 stream`, `2 streams`.
fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A length of time in days and what is less: `30 days`, `1 hour 30 minutes`.
fn length(us: i64) -> String {
    let mut left = us.unsigned_abs();
    let mut parts = Vec::new();
    for (unit, unit_us) in UNITS {
        let number = left / unit_us;
        left %= unit_us;
        if number > 0 {
            let plural = if number == 1 { "" } else { "s" };
            parts.push(format!("{number} {unit}{plural}"));
        }
    }
    match parts.is_empty() {
        true => "0 seconds".to_owned(),
        false => parts.join(" "),
    }
}

const UNITS: [(&str, u64); 6] = [
    ("day", 86_400_000_000),
    ("hour", 3_600_000_000),
    ("minute", 60_000_000),
    ("second", 1_000_000),
    ("millisecond", 1_000),
    ("microsecond", 1),
];

/// The longest window of a view, in words.
#[must_use]
pub fn longest_window(view: &FeatureView) -> String {
    match view.longest_window_us() {
        Some(reach) => length(reach),
        None if view
            .frames()
            .iter()
            .any(|frame| matches!(frame, Frame::Rows { start: Some(_), .. })) =>
        {
            "by rows".to_owned()
        }
        None => "lifetime".to_owned(),
    }
}

/// The plan, and what is not wrong yet and keeps the project from running.
fn plan_json(workspace: &Workspace, warnings: &[String]) -> Value {
    let project = &workspace.project;
    let streams = project.streams.iter().map(|stream| {
        json!({ "name": stream.name, "topic": stream.topic,
                "columns": stream.schema.fields().iter().map(|f| f.name()).collect::<Vec<_>>() })
    });
    let views = project.views.iter().map(|view| {
        json!({ "name": view.name, "stream": view.stream.name,
                "entity": view.entity_columns().collect::<Vec<_>>(),
                "features": view.features().collect::<Vec<_>>(),
                "longest_window_us": view.longest_window_us(),
                "resolution_us": view.resolution().map(|resolution| resolution.step_us),
                "late_us": view.resolution().map(|resolution| resolution.late_us) })
    });
    let inputs = project.inputs.iter().map(|inputs| {
        let are_texts = inputs.names().zip(inputs.are_texts());
        let categories = are_texts.filter(|(_, is_text)| *is_text);
        json!({ "name": inputs.name, "stream": inputs.stream.name, "inputs": inputs.names().collect::<Vec<_>>(),
                "categories": categories.map(|(name, _)| name).collect::<Vec<_>>() })
    });
    json!({ "ok": true, "streams": streams.collect::<Vec<_>>(), "views": views.collect::<Vec<_>>(),
            "inputs": inputs.collect::<Vec<_>>(), "warnings": warnings })
}

/// All that is wrong as one text, and its parts one by one.
fn failure_json(failure: &Failure) -> Value {
    json!({ "ok": false, "error": failure.message, "hint": failure.hint, "mistakes": failure.one_by_one() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::serve::tls::TlsSettings;

    #[test]
    fn mistakes_come_one_by_one_with_their_places() {
        let sources = "CREATE EXTERNAL TABLE tx (tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, event_time TIMESTAMP \
                       NOT NULL) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('id' 'tx_id');";
        let views = "CREATE VIEW a AS SELECT card_id, count(*) OVER w AS n FROM tx;\n\
                     CREATE VIEW b AS SELECT card_id, coumt(*) OVER (PARTITION BY card_id ORDER BY event_time) AS n FROM tx;";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("features")).unwrap();
        std::fs::write(path.join("sources.sql"), sources).unwrap();
        std::fs::write(path.join("features/v.sql"), views).unwrap();
        let says = |settings: &str| {
            std::fs::write(path.join("millrace.toml"), settings).unwrap();
            let said = failure_json(&Workspace::open(path).unwrap_err());
            assert_eq!(said["ok"], json!(false));
            said
        };
        let place = |mistake: &Value| json!([mistake["file"], mistake["line"], mistake["column"]]);

        let said = says("");
        let mistakes = said["mistakes"].as_array().unwrap();
        let places: Vec<Value> = mistakes.iter().map(place).collect();
        let of_views = [
            json!(["features/v.sql", 1, 48]),
            json!(["features/v.sql", 2, 34]),
        ];
        assert_eq!(places, of_views);
        assert_eq!(mistakes[0]["message"], "there is no window 'w'");
        assert_eq!(mistakes[1]["message"], "there is no function 'coumt'");
        assert_eq!(mistakes[1]["hint"], "did you mean 'count'?");
        let whole = said["error"].as_str().unwrap();
        assert!(
            whole.starts_with("features/v.sql:1:48: there is no window 'w'\n  hint: "),
            "{whole}"
        );

        for (settings, expected, message) in [
            (
                "[kafka]\nmax_rows = 'x'",
                json!(["millrace.toml", 2, 12]),
                "is not a whole number",
            ),
            (
                "[kafka]\nmax_rows = 0",
                json!(["millrace.toml", 2, 12]),
                "kafka.max_rows is below 1",
            ),
        ] {
            let said = says(settings);
            let mistakes = said["mistakes"].as_array().unwrap();
            assert_eq!(mistakes.len(), 1);
            assert_eq!(place(&mistakes[0]), expected);
            let text = mistakes[0]["message"].as_str().unwrap();
            assert!(
                text.contains(message) && !text.contains("millrace.toml"),
                "{text}"
            );
            assert_eq!(mistakes[0]["hint"], said["hint"]);
        }
        std::fs::remove_file(path.join("features/v.sql")).unwrap();
        let said = says("[model]\ninputs = 'i'\nlabel = 'tx.x'");
        let mistake = &said["mistakes"][0];
        assert_eq!(place(mistake), json!(["millrace.toml", 2, 10]));
        let text = mistake["message"].as_str().unwrap();
        assert!(text.contains("there is no inputs.sql"), "{text}");
        assert_eq!(mistake["hint"], said["hint"]);
        std::fs::write(path.join("inputs.sql"), "-- none yet").unwrap();
        let said = says("[model]\ninputs = 'i'\nlabel = 'tx.x'");
        let text = said["error"].as_str().unwrap();
        assert!(
            text.ends_with("model.inputs: there is no view 'i' in inputs.sql"),
            "{text}"
        );

        std::fs::remove_file(path.join("millrace.toml")).unwrap();
        let said = failure_json(&Workspace::open(path).unwrap_err());
        let mistake = json!({ "file": null, "line": null, "column": null, "message": said["error"], "hint": said["hint"] });
        assert_eq!(said["mistakes"], json!([mistake]));
    }

    #[test]
    fn files_that_are_not_here_are_told_and_those_that_are_here_are_read() {
        let (_folder, mut workspace) = crate::serve::tests::with_a_text();
        let server = &mut workspace.settings.server;
        server.access.tokens = Some("tokens.toml".into());
        server.tls = Some(TlsSettings {
            certificate: "server.pem".into(),
            key: "server.key".into(),
            client_ca: None,
        });
        let absent = serve::check_files(&workspace).unwrap();
        let names: Vec<&str> = absent
            .iter()
            .filter_map(|line| line.split(": ").next())
            .collect();
        let all = [
            "server.access.tokens",
            "server.tls.certificate",
            "server.tls.key",
        ];
        assert_eq!(names, all);
        assert_eq!(
            plan_json(&workspace, &absent)["warnings"][0],
            json!(absent[0])
        );

        let put = |name: &str, text: &str| {
            std::fs::write(workspace.path(Path::new(name)), text).unwrap();
        };
        let says = || {
            let failure = serve::check_files(&workspace).unwrap_err();
            failure.message
        };
        put("tokens.toml", "[[token]]\nname = 7\n");
        assert!(says().starts_with("server.access.tokens: "), "{}", says());
        put("tokens.toml", "");
        let run = serve::check_doors(&workspace).unwrap_err();
        assert!(
            run.message.starts_with("server.tls.certificate: ") && run.hint.is_some(),
            "{run}"
        );
        put("server.pem", "");
        let absent = serve::check_files(&workspace).unwrap();
        assert!(
            absent.len() == 1 && absent[0].starts_with("server.tls.key: "),
            "{absent:?}"
        );
        put("server.key", "");
        assert!(says().starts_with("server.tls.certificate: "), "{}", says());
    }

    #[test]
    fn the_plan_says_which_inputs_are_categories() {
        let (_folder, workspace) = crate::serve::tests::with_a_text();
        let plan = plan_json(&workspace, &[]);
        assert_eq!(plan["inputs"][0]["categories"], json!(["place"]));
        let names = &plan["inputs"][0]["inputs"];
        assert_eq!((&names[0], &names[1]), (&json!("amount"), &json!("place")));
    }

    #[test]
    fn lengths_and_counts_are_words() {
        for (us, expected) in [
            (30 * 86_400_000_000, "30 days"),
            (86_400_000_000, "1 day"),
            (5_400_000_000, "1 hour 30 minutes"),
            (1_500_000, "1 second 500 milliseconds"),
            (0, "0 seconds"),
        ] {
            assert_eq!(length(us), expected);
        }
        assert_eq!(count(1, "input view"), "1 input view");
        assert_eq!(count(0, "stream"), "0 streams");
        assert_eq!(without_places("amount@3"), "amount");
        assert_eq!(
            without_places("CAST(amount@3 AS Float64) > n@12 + 1"),
            "CAST(amount AS Float64) > n + 1"
        );
    }
}
