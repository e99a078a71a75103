//! Mistakes that users make, and what the command says: the message, a hint, and the exit code.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::TestBroker;
use crate::harness::{command, copy_project, succeed, terminate};

struct Project(TempDir);

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_project(folder.path());
        Self(folder)
    }

    /// On a broker, with ports of its own.
    fn on(broker: &TestBroker) -> Self {
        let project = Self::new();
        let port = crate::broker::free_ports(2);
        project.edit("millrace.toml", "127.0.0.1:9092", &broker.address());
        let path = project.path().join("millrace.toml");
        let settings = std::fs::read_to_string(&path).unwrap();
        let server = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nmetrics = \"127.0.0.1:{}\"\n",
            port + 1
        );
        std::fs::write(path, format!("{settings}\n{server}")).unwrap();
        project
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(self.path(), arguments)
    }

    /// Runs a command that must fail with a code, and must say all of `words`.
    fn fails(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(code),
            "millrace {arguments:?} said: {said}"
        );
        for word in words {
            assert!(
                said.contains(word),
                "millrace {arguments:?} does not say '{word}' but: {said}"
            );
        }
    }
}

#[test]
fn a_project_without_mistakes_is_planned() {
    let output = succeed(Project::new().command(&["check"]));
    let said = String::from_utf8_lossy(&output.stdout);
    for word in [
        "card_activity",
        "30 days",
        "fraud_inputs",
        "ok: 2 streams, 4 feature views, 1 input view",
    ] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn mistakes_in_a_project_are_placed() {
    let check = |file: &str, from: &str, to: &str, words: &[&str]| {
        let project = Project::new();
        project.edit(file, from, to);
        project.fails(&["check"], 2, words);
    };
    check(
        "features/card.sql",
        "max(amount)",
        "max(amuont)",
        &["features/card.sql:7:", "amuont", "did you mean 'amount'?"],
    );
    check(
        "features/card.sql",
        "FROM transactions",
        "FROM transaction",
        &["features/card.sql:", "did you mean 'transactions'?"],
    );
    check(
        "features/card.sql",
        "CREATE VIEW",
        "CREATE VEIW",
        &["features/card.sql:2:"],
    );
    check(
        "inputs.sql",
        "c.tx_count_1h",
        "c.tx_count_1hour",
        &["inputs.sql:7:", "did you mean 'tx_count_1h'?"],
    );
    check(
        "sources.sql",
        "amount DOUBLE",
        "amount DUBLE",
        &["sources.sql:"],
    );
    check(
        "millrace.toml",
        "every = \"1h\"",
        "every = \"soon\"",
        &["millrace.toml:", "write 90s, 15m, 1h or 7d"],
    );
    check(
        "millrace.toml",
        "label = \"labels.is_fraud\"",
        "label = \"labels.fraud\"",
        &["has no column 'fraud'", "is_fraud"],
    );
    check(
        "millrace.toml",
        "inputs = \"fraud_inputs\"",
        "inputs = \"fraud_input\"",
        &["did you mean 'fraud_inputs'?"],
    );
    check(
        "millrace.toml",
        "[kafka]",
        "[kafak]",
        &["millrace.toml:", "kafak"],
    );
}

#[test]
fn a_folder_that_is_no_project_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let output = command(empty.path(), &["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a Millrace project"));
}

#[test]
fn what_is_not_there_is_named() {
    let project = Project::new();
    project.edit("millrace.toml", "127.0.0.1:9092", "127.0.0.1:9");
    project.fails(
        &[
            "features",
            "get",
            "card_activity",
            "card_id=1",
            "--server",
            "127.0.0.1:9",
        ],
        1,
        &["no Millrace server", "millrace run"],
    );
    project.fails(
        &["score", "nowhere.jsonl", "--server", "127.0.0.1:9"],
        2,
        &["nowhere.jsonl"],
    );
    project.fails(
        &["produce", "transactions", "nowhere.parquet"],
        2,
        &["nowhere.parquet"],
    );
    project.fails(
        &["produce", "transaction", "nowhere.parquet"],
        2,
        &["transactions"],
    );
    project.fails(
        &["generate", "--output", "x.xlsx", "--days", "1"],
        2,
        &["x.xlsx", ".parquet"],
    );
    succeed(project.command(&["models", "list"]));
}

#[test]
fn a_process_without_a_broker_says_what_it_waits_for() {
    let project = Project::new();
    project.edit("millrace.toml", "127.0.0.1:9092", "127.0.0.1:9");
    let log = project.path().join("run.log");
    let said = || std::fs::read_to_string(&log).unwrap();
    // At ports that no other program has.
    let mut process = project
        .command(&["run", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let words = ["ready", "127.0.0.1:9:", "hint", "docker compose up"];
    let begun = Instant::now();
    while !words.iter().all(|word| said().contains(word)) {
        let ended = process.try_wait().unwrap();
        assert_eq!(ended, None, "{}", said());
        if begun.elapsed() > Duration::from_secs(60) {
            process.kill().unwrap();
            panic!("it said only: {}", said());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = terminate(process);
    assert!(status.success(), "{status}: {}", said());
}

#[test]
fn a_running_system_says_what_is_in_its_way() {
    let broker = TestBroker::embedded();
    let project = Project::on(&broker);
    project.fails(&["run"], 2, &["transactions", "--create-topics"]);
    let streams = ["transactions", "labels"].map(|topic| (topic.to_owned(), 1));
    millrace_ingest::ensure_topics(&broker.address(), &Default::default(), &streams).unwrap();
    project.fails(&["run"], 2, &["`scores`", "--create-topics"]);
    succeed(project.command(&["learn", "--once"]));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    project.fails(
        &["run", "--create-topics", "--listen", &address],
        1,
        &[&address, "hint", "--listen"],
    );
    project.fails(
        &["run", "--create-topics", "--metrics", &address],
        1,
        &[&address, "hint", "--metrics"],
    );
}
