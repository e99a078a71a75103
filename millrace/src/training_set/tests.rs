//! A training set is what look-ups answer, and a stopped run goes on.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use millrace_features::pack_rows;
use tempfile::TempDir;

use super::*;
use crate::backfill::{BackfillArgs, backfill};
use crate::failure::Kind;
use crate::generate::{GenerateArgs, OutputFiles, generate_files};
use crate::state::Committed;

struct Data {
    folder: TempDir,
    workspace: Arc<Workspace>,
}

impl Data {
    /// The example project, and forty days of a few cards' payments.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fraud");
        std::fs::create_dir(folder.path().join("features")).unwrap();
        for file in ["sources.sql", "inputs.sql"] {
            std::fs::copy(project.join(file), folder.path().join(file)).unwrap();
        }
        for file in std::fs::read_dir(project.join("features")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(
                file.path(),
                folder.path().join("features").join(file.file_name()),
            )
            .unwrap();
        }
        std::fs::write(
            folder.path().join("features/terminal_steps.sql"),
            "CREATE VIEW terminal_steps WITH (resolution = '1 hour', late = '60 days') AS SELECT terminal_id,
               count(*) OVER w AS n, sum(amount) OVER w AS s, avg(amount) OVER life AS avg_of_all
             FROM transactions WINDOW
               w AS (PARTITION BY terminal_id ORDER BY event_time
                     RANGE BETWEEN INTERVAL '7 days' PRECEDING AND INTERVAL '1 day' PRECEDING),
               life AS (PARTITION BY terminal_id ORDER BY event_time
                     RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
        )
        .unwrap();
        std::fs::write(
            folder.path().join("millrace.toml"),
            "[store]\nhistory = \"100d\"\n",
        )
        .unwrap();
        let arguments = [
            "generate",
            "--output",
            "x",
            "--customers",
            "60",
            "--terminals",
            "40",
            "--days",
            "40",
        ];
        let arguments = <Generate as clap::Parser>::try_parse_from(arguments).unwrap();
        let files = OutputFiles::new(&folder.path().join("tx.parquet")).unwrap();
        generate_files(arguments.args.settings().unwrap(), files, |_| ()).unwrap();
        let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
        Self { folder, workspace }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn events(&self) -> Vec<String> {
        let file = |stream: &str, name: &str| format!("{stream}={}", self.path(name).display());
        vec![
            file("transactions", "tx.parquet"),
            file("labels", "tx-labels.parquet"),
        ]
    }

    fn args(&self, output: &str) -> TrainingSetArgs {
        TrainingSetArgs {
            events: self.events(),
            spine: self.path("tx.parquet"),
            output: self.path(output),
            views: Vec::new(),
        }
    }

    fn read(&self, name: &str) -> RecordBatch {
        let file = RowsFile::open(&self.path(name), None).unwrap();
        let schema = Arc::clone(&file.schema);
        concat_batches(&schema, &file.collect::<Outcome<Vec<_>>>().unwrap()).unwrap()
    }

    fn fails(&self, change: impl FnOnce(&mut TrainingSetArgs), words: &[&str]) {
        let mut args = self.args("never.parquet");
        change(&mut args);
        let failure = training_set(&self.workspace, &args).unwrap_err();
        assert_eq!(failure.kind, Kind::Input, "{failure}");
        for word in words {
            assert!(
                failure.to_string().contains(word),
                "'{word}' is not in: {failure}"
            );
        }
        assert!(!args.output.exists());
    }
}

/// The arguments of `millrace generate`, by themselves.
#[derive(clap::Parser)]
struct Generate {
    #[command(flatten)]
    args: GenerateArgs,
}

#[test]
fn it_is_what_look_ups_answer_and_a_stopped_run_goes_on() {
    let data = Data::new();
    training_set(&data.workspace, &data.args("all.parquet")).unwrap();
    let all = data.read("all.parquet");
    let spine = data.read("tx.parquet");
    assert!(all.num_rows() > 500 && all.num_rows() == spine.num_rows());
    assert_eq!(&all.columns()[..spine.num_columns()], spine.columns());
    assert!(!data.path("all.parquet.work").exists());

    // The same events in the online store, asked for row by row.
    let fill = BackfillArgs {
        events: data.events(),
    };
    backfill(&data.workspace, &fill).unwrap();
    backfill(&data.workspace, &fill).unwrap();
    let store = data.workspace.open_store().unwrap();
    let times = column_as(spine.column_by_name(TIME).unwrap(), &TIMESTAMP).unwrap();
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let mut compared = 0;
    for view in &data.workspace.project.views {
        let keys: Vec<ArrayRef> = view
            .entity_columns()
            .map(|name| column_as(spine.column_by_name(name).unwrap(), &DataType::Utf8).unwrap())
            .collect();
        let answer = view
            .answer(&Committed(&store), &keys, times.values())
            .unwrap();
        for name in view.features() {
            let live = pack_rows(&[Arc::clone(answer.column_by_name(name).unwrap())]);
            let column = all
                .column_by_name(&format!("{}__{name}", view.name))
                .unwrap();
            assert!(
                pack_rows(&[Arc::clone(column)]) == live,
                "{}.{name}",
                view.name
            );
            compared += 1;
        }
    }
    assert_eq!(compared, all.num_columns() - spine.num_columns());
    let counts = all.column_by_name("card_activity__tx_count_7d").unwrap();
    assert!(arrow::compute::sum(counts.as_primitive::<Int64Type>()).unwrap() > 2_000);

    // A run that was stopped after some parts: what it has is used, and the rest is made.
    let args = data.args("again.parquet");
    let job = Job::plan(&data.workspace, &args).unwrap();
    let bar = ProgressBar::hidden();
    job.split(&bar).unwrap();
    job.answer_part(0, 0).unwrap();
    let kept = std::fs::metadata(job.path(0, "answers", 0))
        .unwrap()
        .modified()
        .unwrap();
    job.split(&bar).unwrap();
    job.answer(&bar).unwrap();
    let now = std::fs::metadata(job.path(0, "answers", 0))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(kept, now);
    training_set(&data.workspace, &args).unwrap();
    assert!(data.read("again.parquet") == all);
}

#[test]
fn a_file_that_is_read_is_not_written_over() {
    let data = Data::new();
    let args = data.args("never.parquet");
    let events = args.events[0].split_once('=').unwrap().1;
    for read in [args.spine.clone(), PathBuf::from(events)] {
        let before = std::fs::read(&read).unwrap();
        let args = TrainingSetArgs {
            output: read.clone(),
            ..data.args("never.parquet")
        };
        let failure = training_set(&data.workspace, &args).unwrap_err();
        assert!(
            failure
                .message
                .contains("is one of the files that are read"),
            "{failure}"
        );
        assert!(std::fs::read(&read).unwrap() == before);
    }
}

#[test]
fn all_parts_can_be_open_at_a_time() {
    let many = 1_000_000_000;
    for (views, limit) in [(4, 1_024), (9, 1_024), (1, 256), (40, 4_096)] {
        let parts = parts(many, views, Some(limit));
        assert!(parts > 1 && (2 * views * parts) as u64 + OTHER_FILES <= limit);
    }
    assert_eq!(parts(many, 4, Some(20_000)), MOST_PARTS as usize);
    assert_eq!(parts(many, 4, None), MOST_PARTS as usize);
    assert_eq!(parts(many, 1_000, Some(1_024)), 1);
    assert_eq!(parts(1, 1, Some(1_024)), parts(1, 1, None));
}

#[test]
fn a_view_that_is_named_twice_is_answered_once() {
    let data = Data::new();
    let mut args = data.args("never.parquet");
    args.views = vec![
        "card_risk".into(),
        "card_activity".into(),
        "card_risk".into(),
    ];
    let job = Job::plan(&data.workspace, &args).unwrap();
    let views: Vec<&str> = job.views.iter().map(|view| view.name.as_str()).collect();
    assert_eq!(views, ["card_risk", "card_activity"]);
}

#[test]
fn mistakes_are_named() {
    let data = Data::new();
    data.fails(
        |args| args.events = vec!["tx.parquet".into()],
        &["names no stream", "transactions="],
    );
    data.fails(
        |args| args.events = vec!["transaction=tx.parquet".into()],
        &["no stream 'transaction'", "transactions"],
    );
    data.fails(
        |args| args.events.push(args.events[0].clone()),
        &[
            "tx.parquet: this file is named twice\n",
            "each file of a stream once",
        ],
    );
    let link = data.path("link.parquet");
    std::os::unix::fs::symlink(data.path("tx.parquet"), &link).unwrap();
    for other in [link, data.path("./features/../tx.parquet")] {
        data.fails(
            |args| {
                args.events
                    .push(format!("transactions={}", other.display()));
            },
            &["this file is named twice, as ", "tx.parquet"],
        );
    }
    data.fails(
        |args| args.events.truncate(1),
        &["reads stream 'labels'", "--events labels=FILE"],
    );
    data.fails(
        |args| args.views = vec!["card_activty".into()],
        &["no feature view 'card_activty'", "card_activity"],
    );
    data.fails(
        |args| args.output = "out.txt".into(),
        &["its ending names no format"],
    );
    let spine = |text: &str| {
        let path = data.path("spine.csv");
        std::fs::write(&path, text).unwrap();
        path
    };
    data.fails(
        |args| args.spine = spine("card_id,time\n1,2018-04-05\n"),
        &["no column 'event_time'"],
    );
    data.fails(
        |args| args.spine = spine("card,event_time\n1,2018-04-05\n"),
        &["entity columns of no view", "card_id"],
    );
    let near = "cardid,terminal_id,event_time\n1,2,2018-04-05\n";
    data.fails(
        |args| {
            args.spine = spine(near);
            args.views = vec!["card_activity".into()];
        },
        &[
            "no column 'card_id', which names the entity of view 'card_activity'",
            "did you mean 'cardid'? Rename it to card_id",
        ],
    );
    data.fails(
        |args| args.spine = spine("cardid,event_time\n1,2018-04-05\n"),
        &[
            "no column 'card_id', which names the entity of view",
            "did you mean 'cardid'?",
        ],
    );
    data.fails(
        |args| args.spine = spine("card_id,event_time\n1,2018-04-05\n2,soon\n"),
        &["row 2", "'soon'", "event_time"],
    );
    data.fails(
        |args| args.spine = spine("card_id,event_time\n1,2018-04-05\n2,1522886400\n"),
        &["row 2", "did you mean seconds, 2018-04-05T00:00:00Z?"],
    );
    data.fails(
        |args| args.spine = spine("card_id,event_time\n1,0\n2,-99999999999999\n"),
        &["row 2", "'event_time'", "years 1 to 9999"],
    );
    data.fails(
        |args| args.spine = spine("card_id,event_time,card_risk__frauds_7d\n1,2018-04-05,0\n"),
        &["has a column 'card_risk__frauds_7d' already"],
    );
}
