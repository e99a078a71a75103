//! One project, run by the command's own processes.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use millrace::workspace::Workspace;
use millrace_learner::Registry;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use tempfile::TempDir;

use crate::broker::{TestBroker, free_ports, repository};
use crate::data::{Data, PAYMENTS};

const PATIENCE: Duration = Duration::from_secs(300);

pub struct System {
    folder: TempDir,
    brokers: String,
    process: Option<Child>,
}

/// A score as it stood in the topic; of several of one event, the last.
pub type Scores = HashMap<String, Value>;

impl System {
    pub fn new(broker: &TestBroker, _data: &Data) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_project(folder.path());
        let port = free_ports(2);
        let settings = format!(
            "[kafka]\nbrokers = \"{}\"\npatience = \"60s\"\n\
             [store]\nflush_every = \"500ms\"\nhistory = \"100d\"\n\
             [server]\nlisten = \"127.0.0.1:{port}\"\nmetrics = \"127.0.0.1:{}\"\n\
             [model]\ninputs = \"fraud_inputs\"\nlabel = \"labels.is_fraud\"\nevery = \"12h\"\n\
             [learner]\ndevice = \"cpu\"\n[learner.training]\nreplay_frauds = 1024\nreplay_negatives = 3072\nhidden = [64, 32]\n\
             [score_log]\nlocation = \"data/scores\"\nevery = \"1s\"\nmax_rows = 4000\n",
            broker.address(),
            port + 1
        );
        std::fs::write(folder.path().join("millrace.toml"), settings).unwrap();
        Self {
            folder,
            brokers: broker.address(),
            process: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the project.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Takes a file of the project away.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    /// Where what was scored is logged.
    pub fn score_log(&self) -> PathBuf {
        self.folder.path().join("data/scores")
    }

    pub fn workspace(&self) -> Workspace {
        Workspace::open(self.folder.path()).unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        command(self.folder.path(), arguments)
    }

    pub fn produce(&self, topic: &str, file: &Path) {
        succeed(self.command(&["produce", topic, &file.display().to_string(), "--create"]));
    }

    pub fn produce_raw(&self, topic: &str, messages: &[&str]) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .create()
            .unwrap();
        for message in messages {
            producer
                .send(
                    BaseRecord::<str, str>::to(topic)
                        .key("bad")
                        .payload(message),
                )
                .map_err(|(e, _)| e)
                .unwrap();
        }
        producer.flush(Duration::from_secs(20)).unwrap();
    }

    pub fn start(&mut self) {
        self.start_with("");
    }

    /// Starts a process that ends itself: `point=5*off->return` at a point between two steps, when it has passed it
    /// five times.
    pub fn start_with(&mut self, failpoints: &str) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("run.log"))
            .unwrap();
        let process = self
            .command(&["run", "--create-topics"])
            .env("FAILPOINTS", failpoints)
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits until the process has ended itself.
    pub fn wait_for_crash(&mut self, what: &str) {
        let mut process = self.process.take().unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                // By a signal: an error of its own would have a code.
                assert_eq!(status.code(), None, "{what}: {status}\n{}", self.log());
                return;
            }
            if begun.elapsed() > PATIENCE {
                process.kill().unwrap();
                panic!("{what} was not passed\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn terminate(&mut self) {
        let status = terminate(self.process.take().unwrap());
        assert!(
            status.success(),
            "millrace run ended with {status}\n{}",
            self.log()
        );
    }

    /// Waits until the process has said something.
    pub fn wait_for_log(&mut self, text: &str) {
        self.wait(text, |system| system.log().contains(text));
    }

    /// What the server answers for an entity of a view, if it knows the view and has come so far.
    pub fn look_up(&self, view: &str, key: &str, until: Option<&str>) -> Option<Value> {
        let mut arguments = vec!["features", "get", view, key];
        arguments.extend(until.iter().flat_map(|until| ["--as-of", until]));
        let output = self.command(&arguments).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        let is_there = until.is_none_or(|until| answer["complete_until"].as_str() == Some(until));
        (output.status.success() && is_there).then_some(answer)
    }

    /// Waits until a look-up reflects all until a time.
    pub fn wait_for_look_up(&mut self, view: &str, key: &str, until: &str) -> Value {
        let mut answer = None;
        self.wait(view, |system| {
            answer = system.look_up(view, key, Some(until));
            answer.is_some()
        });
        answer.unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("run.log")).unwrap_or_default()
    }

    fn check_alive(&mut self) {
        if let Some(process) = &mut self.process
            && let Some(status) = process.try_wait().unwrap()
        {
            panic!("millrace run ended with {status}\n{}", self.log());
        }
    }

    /// Waits until something is so.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            self.check_alive();
            assert!(
                begun.elapsed() < PATIENCE,
                "{what} did not come\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the topic of scores has some messages.
    pub fn wait_for_scores(&mut self, count: usize) {
        self.wait("the first scores", |system| {
            system.messages("scores") >= count as i64
        });
    }

    /// Waits until the topic of scores has one for each payment, and gives them.
    pub fn wait_for_all_scores(&mut self, data: &Data) -> Scores {
        let mut reader = TopicReader::new(&self.brokers, "scores");
        let mut scores = Scores::new();
        self.wait("a score for each payment", |_| {
            for (key, message) in reader.read() {
                scores.insert(key, serde_json::from_str(&message).unwrap());
            }
            scores.len() >= data.payments.num_rows()
        });
        assert_eq!(scores.len(), PAYMENTS);
        scores
    }

    /// Waits until look-ups reflect the last label, and the learner has had its turn.
    pub fn wait_for_reading(&mut self, data: &Data) {
        let last = millrace::times::rfc3339(data.last_label_us());
        self.wait("the last label", |system| {
            let output = system
                .command(&[
                    "features",
                    "get",
                    "terminal_risk",
                    "terminal_id=1",
                    "--as-of",
                    &last,
                ])
                .output()
                .unwrap();
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            answer["complete_until"].as_str() == Some(last.as_str())
        });
    }

    /// Waits until a version knows the labels of all periods that have ended. The one before it serves.
    pub fn wait_for_learning(&mut self, data: &Data) {
        let registry = Registry::open(self.folder.path().join("data/models")).unwrap();
        let period = 12 * 3_600_000_000;
        let learned = |registry: &Registry| {
            let version = *registry.versions().unwrap().last()?;
            Some(registry.manifest(version).unwrap().trained_until_us)
        };
        self.wait("the last update", |_| {
            learned(&registry).is_some_and(|until| until > data.last_label_us() - period)
        });
        // The server follows the registry within a second.
        std::thread::sleep(Duration::from_millis(1_500));
    }

    /// What the server answers for the payments whose labels are not known yet.
    pub fn score_unlabelled(&self, data: &Data) -> Vec<Value> {
        let labelled = data.labels.num_rows();
        let unlabelled = data.payments.slice(labelled, PAYMENTS - labelled);
        let file = self.folder.path().join("unlabelled.jsonl");
        std::fs::write(
            &file,
            millrace::files::write_json(&unlabelled).unwrap().join("\n"),
        )
        .unwrap();
        let output = succeed(self.command(&["score", &file.display().to_string()]));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What the command says of some cards, as of the last payment.
    pub fn look_ups(&self, data: &Data) -> BTreeMap<String, Value> {
        use arrow::array::AsArray;
        let as_of = millrace::times::rfc3339(data.last_payment_us());
        let cards = data
            .payments
            .column_by_name("card_id")
            .unwrap()
            .as_string::<i32>();
        (0..5)
            .map(|n| {
                let card = cards
                    .value(data.payments.num_rows() - 1 - n * 10)
                    .to_owned();
                let key = format!("card_id={card}");
                let arguments = ["features", "get", "card_activity", &key, "--as-of", &as_of];
                let output = succeed(self.command(&arguments));
                (card, serde_json::from_slice(&output.stdout).unwrap())
            })
            .collect()
    }

    pub fn check_dead_letters(&self, topic: &str, expected: &[(&str, &str)]) {
        let mut reader = TopicReader::new(&self.brokers, topic);
        let begun = Instant::now();
        let mut letters = Vec::new();
        // A crash may have sent some of them twice: none may be missing, none may be another.
        while letters.len() < expected.len() && begun.elapsed() < Duration::from_secs(30) {
            letters.extend(reader.read_with_reasons());
        }
        for (text, reason) in expected {
            let found = letters
                .iter()
                .any(|(payload, why)| payload == text && why == reason);
            assert!(found, "no letter {text} for {reason} among {letters:?}");
        }
        let known = |letter: &(String, String)| {
            expected
                .iter()
                .any(|(t, r)| *t == letter.0 && *r == letter.1)
        };
        assert!(letters.iter().all(known), "{letters:?}");
    }

    fn messages(&self, topic: &str) -> i64 {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .create()
            .unwrap();
        let timeout = Duration::from_secs(10);
        let Ok(metadata) = consumer.fetch_metadata(Some(topic), timeout) else {
            return 0;
        };
        let partitions = metadata.topics()[0].partitions();
        partitions
            .iter()
            .map(|p| {
                consumer
                    .fetch_watermarks(topic, p.id(), timeout)
                    .map_or(0, |(low, high)| high - low)
            })
            .sum()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("the log of millrace run:\n{}", self.log());
        }
    }
}

/// Reads a topic from its beginning, outside any group.
struct TopicReader(BaseConsumer);

impl TopicReader {
    fn new(brokers: &str, topic: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set(
                "group.id",
                format!("reader-of-{topic}-{}", std::process::id()),
            )
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&[topic]).unwrap();
        Self(consumer)
    }

    fn messages<T>(
        &mut self,
        read: impl Fn(&rdkafka::message::BorrowedMessage<'_>) -> T,
    ) -> Vec<T> {
        let mut all = Vec::new();
        let mut timeout = Duration::from_millis(500);
        while let Some(message) = self.0.poll(timeout) {
            // An error here is a topic that does not exist yet.
            if let Ok(message) = message {
                all.push(read(&message));
            }
            timeout = Duration::ZERO;
        }
        all
    }

    fn read(&mut self) -> Vec<(String, String)> {
        self.messages(|message| (text(message.key()), text(message.payload())))
    }

    fn read_with_reasons(&mut self) -> Vec<(String, String)> {
        self.messages(|message| {
            let headers = message.headers().unwrap();
            let reason = headers
                .iter()
                .find(|header| header.key == "millrace.reason")
                .unwrap();
            (text(message.payload()), text(reason.value))
        })
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
}

/// The command, in a project's folder.
pub fn command(project: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command
        .arg("--project")
        .arg(project)
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// Asks a process to end, and waits until it has.
pub fn terminate(mut process: Child) -> ExitStatus {
    let killed = Command::new("kill")
        .arg("-TERM")
        .arg(process.id().to_string())
        .status()
        .unwrap();
    assert!(killed.success());
    process.wait().unwrap()
}

pub fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn example() -> PathBuf {
    repository().join("examples/fraud")
}

/// Copies the example project.
pub fn copy_project(to: &Path) {
    std::fs::create_dir_all(to.join("features")).unwrap();
    for name in [
        "sources.sql",
        "inputs.sql",
        "millrace.toml",
        "features/card.sql",
        "features/terminal.sql",
        "features/labels.sql",
    ] {
        std::fs::copy(example().join(name), to.join(name)).unwrap();
    }
}
