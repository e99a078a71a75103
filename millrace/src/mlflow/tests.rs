//! What is sent, to a small server that keeps it as MLflow would, and is away now and then.
//! `scripts/test-object-stores.sh` does the same with MLflow itself.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard};

use millrace_learner::{Calibration, Choice, Decided, Objects};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;

/// What was sent.
#[derive(Default)]
struct Kept {
    experiments: Vec<String>,
    runs: Vec<KeptRun>,
    versions: Vec<(String, String)>,
    aliases: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    calls: usize,
    /// Calls that are answered before the next one is not.
    answers: Option<usize>,
    authorization: Option<String>,
}

#[derive(Default)]
struct KeptRun {
    status: String,
    tags: BTreeMap<String, String>,
    params: BTreeMap<String, String>,
    metrics: BTreeMap<String, f64>,
}

#[derive(Clone)]
struct Server {
    url: Url,
    kept: Arc<Mutex<Kept>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/prefix/", listener.local_addr().unwrap());
        let server = Self {
            url: Url::parse(&url).unwrap(),
            kept: Arc::default(),
        };
        let kept = Arc::clone(&server.kept);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &kept);
            }
        });
        server
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

fn answer(stream: TcpStream, kept: &Mutex<Kept>) {
    let mut kept = kept.lock().unwrap();
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => kept.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    kept.calls += 1;
    let is_away = match &mut kept.answers {
        Some(0) => true,
        Some(answers) => {
            *answers -= 1;
            false
        }
        None => false,
    };
    let (status, text) = match is_away {
        true => (503, "away".to_owned()),
        false => {
            let target = first.split(' ').nth(1).unwrap();
            let url = Url::parse("http://x").unwrap().join(target).unwrap();
            let body = serde_json::from_slice(&body).unwrap_or(Json::Null);
            let is_delete = first.starts_with("DELETE");
            match kept.call(&url, &body, is_delete) {
                Some(json) => (200, json.to_string()),
                None => (
                    404,
                    json!({"error_code": "RESOURCE_DOES_NOT_EXIST"}).to_string(),
                ),
            }
        }
    };
    let length = text.len();
    let head =
        format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    reader
        .into_inner()
        .write_all((head + text.as_str()).as_bytes())
        .unwrap();
}

fn pairs(json: &Json) -> BTreeMap<String, String> {
    let pairs = json.as_array().into_iter().flatten();
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    pairs
        .map(|pair| (text(&pair["key"]), text(&pair["value"])))
        .collect()
}

impl Kept {
    fn call(&mut self, url: &Url, body: &Json, is_delete: bool) -> Option<Json> {
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        let call = url.path().strip_prefix("/prefix/api/2.0/mlflow/").unwrap();
        Some(match call {
            "experiments/get-by-name" => {
                let number = self
                    .experiments
                    .iter()
                    .position(|it| *it == query["experiment_name"])?;
                json!({"experiment": {"experiment_id": number.to_string()}})
            }
            "experiments/create" => {
                self.experiments.push(text("name"));
                json!({"experiment_id": (self.experiments.len() - 1).to_string()})
            }
            "runs/search" => {
                let filter = text("filter");
                let has = |run: &KeptRun, asked: &str| {
                    run.tags
                        .iter()
                        .any(|(key, value)| asked == format!("tags.`{key}` = '{value}'"))
                };
                let is_it = |run: &KeptRun| filter.split(" and ").all(|asked| has(run, asked));
                let found = self.runs.iter().enumerate().find(|(_, run)| is_it(run));
                let found = found.map(
                    |(id, run)| json!({"info": {"run_id": id.to_string(), "status": run.status}}),
                );
                json!({"runs": found.into_iter().collect::<Vec<_>>()})
            }
            "runs/create" => {
                assert_eq!(text("experiment_id"), "0");
                self.runs.push(KeptRun {
                    tags: pairs(&body["tags"]),
                    ..KeptRun::default()
                });
                json!({"run": {"info": {"run_id": (self.runs.len() - 1).to_string()}}})
            }
            "runs/log-batch" => {
                let run = &mut self.runs[text("run_id").parse::<usize>().unwrap()];
                run.tags.extend(pairs(&body["tags"]));
                for (key, value) in pairs(&body["params"]) {
                    let before = run.params.insert(key, value.clone());
                    assert!(
                        before.is_none_or(|before| before == value),
                        "a parameter was changed"
                    );
                }
                for metric in body["metrics"].as_array().unwrap() {
                    let key = metric["key"].as_str().unwrap().to_owned();
                    run.metrics.insert(key, metric["value"].as_f64().unwrap());
                }
                json!({})
            }
            "runs/update" => {
                self.runs[text("run_id").parse::<usize>().unwrap()].status = text("status");
                json!({})
            }
            "registered-models/get" => {
                assert_eq!(query["name"], "fraud");
                if self.tags.is_empty() {
                    return None;
                }
                let tags = self
                    .tags
                    .iter()
                    .map(|(key, value)| json!({"key": key, "value": value}));
                json!({"registered_model": {"tags": tags.collect::<Vec<_>>()}})
            }
            "registered-models/create" => {
                self.tags.insert("made".to_owned(), String::new());
                json!({})
            }
            "registered-models/set-tag" => {
                self.tags.insert(text("key"), text("value"));
                json!({})
            }
            "registered-models/alias" if is_delete => {
                self.aliases.remove(&text("alias"))?;
                json!({})
            }
            "registered-models/alias" => {
                self.aliases.insert(text("alias"), text("version"));
                json!({})
            }
            "model-versions/search" => {
                let is_it = |(_, (run, _)): &(usize, &(String, String))| {
                    query["filter"] == format!("name='fraud' and run_id='{run}'")
                };
                let found = self.versions.iter().enumerate().find(is_it);
                let found = found.map(|(number, _)| json!({"version": (number + 1).to_string()}));
                json!({"model_versions": found.into_iter().collect::<Vec<_>>()})
            }
            "model-versions/create" => {
                self.versions.push((text("run_id"), text("source")));
                json!({"model_version": {"version": self.versions.len().to_string()}})
            }
            other => panic!("{other} is no call of MLflow"),
        })
    }
}

fn settings(url: &Url) -> MlflowSettings {
    let text = format!("tracking_uri = '{url}'\nregistered_model = 'fraud'\nexperiment = 'cards'");
    toml::from_str(&text).unwrap()
}

/// A registry in memory, into which manifests are put by hand: MLflow is told nothing of weights.
struct Models {
    store: Arc<dyn ObjectStore>,
    registry: Arc<Registry>,
}

impl Models {
    fn new() -> Self {
        Self::at("/models")
    }

    /// The same in another place.
    fn at(folder: &str) -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let objects = Objects::at_hand(Arc::clone(&store), folder);
        let registry = Arc::new(Registry::on(objects));
        Self { store, registry }
    }

    fn publish(&self, version: u64) {
        let after = Metrics {
            rows: 400,
            frauds: 3,
            mean_prediction: 0.01,
            log_loss: 0.125,
            average_precision: Some(0.5),
            roc_auc: None,
        };
        let manifest = Manifest {
            version,
            parent: version.checked_sub(1).filter(|parent| *parent > 0),
            created: "2026-01-02T03:04:05Z".to_owned(),
            inputs: vec!["amount".to_owned(), "hour".to_owned()],
            inputs_hash: "abc".to_owned(),
            meanings: Vec::new(),
            label_position: 17,
            trained_until_us: 1_767_323_045_000_000,
            rows: 400,
            replayed: 20,
            fitted_rows: 400,
            fitted_position: 17,
            seed: 7,
            code_version: "0.1.0".to_owned(),
            before: (version > 1).then_some(Metrics {
                average_precision: None,
                ..after
            }),
            after,
            prequential: None,
            calibration: Calibration {
                slope: 0.75,
                intercept: -0.5,
            },
            device: "cpu".to_owned(),
            offsets: [("cards".to_owned(), [(0, 9)].into())].into(),
            settings: [
                ("hidden".to_owned(), json!([128, 64])),
                ("members".to_owned(), json!(8)),
            ]
            .into(),
            sha256: [].into(),
        };
        let path = format!("v{version:06}/manifest.json").as_str().into();
        let text = serde_json::to_vec(&manifest).unwrap();
        let put = self.store.put(&path, text.into());
        futures::executor::block_on(put).unwrap();
    }

    fn decide(&self, champion: u64, challenger: Option<(u64, u8)>, notes: &[(u64, State)]) {
        let note = |(version, state): &(u64, State)| Entry {
            at_us: 5_000,
            event: Event::Version {
                version: *version,
                state: *state,
                comparison: None,
                made: None,
            },
            reason: Some("a test".to_owned()),
            cause: None,
        };
        let choose = |_: &Decided| {
            Ok::<_, LearnerError>(Some(Choice {
                aliases: Aliases {
                    champion: Some(champion),
                    challenger,
                },
                notes: notes.iter().map(note).collect(),
            }))
        };
        self.registry.decide(choose).unwrap();
    }
}

/// Three versions: one that served, one that serves, one in test, and one that answers for a share.
fn story(models: &Models) {
    (1..=4).for_each(|version| models.publish(version));
    models.decide(1, None, &[(1, State::Champion)]);
    models.decide(1, None, &[(2, State::Shadow)]);
    models.decide(2, None, &[(1, State::Replaced), (2, State::Champion)]);
    models.decide(2, Some((3, 10)), &[(3, State::Canary { percent: 10 })]);
    models.decide(2, Some((3, 10)), &[(4, State::Shadow)]);
}

fn check_story(server: &Server) {
    let kept = server.kept();
    assert_eq!(kept.experiments, ["cards"]);
    let of_version = |version: u64| {
        let version = version.to_string();
        let mut runs = kept.runs.iter().filter(|run| run.tags[VERSION] == version);
        let run = runs.next().unwrap();
        assert!(runs.next().is_none(), "version {version} has two runs");
        run
    };
    assert_eq!(kept.runs.len(), 4);
    let second = of_version(2);
    assert_eq!(second.status, "FINISHED");
    assert_eq!(second.params["parent"], "1");
    assert_eq!(second.params["training.hidden"], "[128,64]");
    assert_eq!(second.metrics["after.log_loss"], 0.125);
    assert_eq!(second.metrics["before.log_loss"], 0.125);
    assert_eq!(second.metrics["calibration.slope"], 0.75);
    assert_eq!(second.metrics["calibration.intercept"], -0.5);
    assert!(
        !second.metrics.contains_key("before.average_precision"),
        "it is not known"
    );
    assert_eq!(second.tags["millrace.state"], "champion");
    assert_eq!(second.tags["millrace.offsets"], "{\"cards\":{\"0\":9}}");
    assert_eq!(of_version(1).tags["millrace.state"], "replaced");
    assert_eq!(of_version(4).tags["millrace.state"], "shadow");
    let sources: Vec<&str> = kept
        .versions
        .iter()
        .map(|(_, source)| source.as_str())
        .collect();
    let expected = [1, 2, 3].map(|version| format!("millrace:///models/v00000{version}"));
    assert_eq!(sources, expected);
    let aliases = [("champion", "2"), ("challenger", "3")];
    assert_eq!(
        kept.aliases,
        aliases.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    );
    let sent = kept.tags.iter().filter(|(key, _)| key.starts_with(SENT));
    let sent: Vec<&String> = sent.map(|(_, value)| value).collect();
    assert_eq!(sent, ["6"]);
}

#[test]
fn versions_become_runs_and_aliases_follow() {
    let (models, server) = (Models::new(), Server::start());
    story(&models);
    let mut exporter = Exporter::new(&settings(&server.url), Arc::clone(&models.registry)).unwrap();
    assert_eq!(exporter.catch_up().unwrap(), 6);
    check_story(&server);
    // Nothing new costs one call; another process that sends the same changes nothing.
    let calls = server.kept().calls;
    assert_eq!(exporter.catch_up().unwrap(), 0);
    assert_eq!(server.kept().calls, calls + 1);
    let tag = exporter.sent_tag();
    server.kept().tags.insert(tag, "0".to_owned());
    let again = Exporter::new(&settings(&server.url), Arc::clone(&models.registry));
    assert_eq!(again.unwrap().catch_up().unwrap(), 6);
    check_story(&server);
    // The challenger is taken back, by a person.
    models.decide(2, None, &[(3, State::RolledBack)]);
    assert_eq!(exporter.catch_up().unwrap(), 1);
    assert!(!server.kept().aliases.contains_key("challenger"));
}

/// MLflow goes away after any of the calls, and comes back: nothing is missing then, and nothing is there twice.
#[test]
fn an_mlflow_that_goes_away_is_told_later() {
    for answers in 0.. {
        let (models, server) = (Models::new(), Server::start());
        story(&models);
        server.kept().answers = Some(answers);
        let open = || Exporter::new(&settings(&server.url), Arc::clone(&models.registry)).unwrap();
        let mut exporter = open();
        let outcome = exporter.catch_up();
        server.kept().answers = None;
        if outcome.is_ok() {
            assert!(answers > 20, "{answers} calls are too few");
            break;
        }
        // By this process, or by the next one.
        if answers % 2 == 0 {
            exporter = open();
        }
        exporter.catch_up().unwrap();
        check_story(&server);
    }
}

#[test]
fn an_mlflow_that_begins_anew_is_told_all_of_it() {
    let (models, server) = (Models::new(), Server::start());
    story(&models);
    let mut exporter = Exporter::new(&settings(&server.url), Arc::clone(&models.registry)).unwrap();
    exporter.catch_up().unwrap();
    *server.kept() = Kept::default();
    assert_eq!(exporter.catch_up().unwrap(), 6);
    check_story(&server);
}

#[test]
fn registries_that_tell_the_same_mlflow_are_told_apart() {
    let server = Server::start();
    let exporter = |models: &Models| {
        Exporter::new(&settings(&server.url), Arc::clone(&models.registry)).unwrap()
    };
    // An older release has told of a version 2, and not of which registry.
    let older = || BTreeMap::from([(VERSION.to_owned(), "2".to_owned())]);
    server.kept().tags.insert(SENT.to_owned(), "99".to_owned());
    server.kept().runs.push(KeptRun {
        status: "FINISHED".to_owned(),
        tags: older(),
        ..KeptRun::default()
    });
    let first = Models::at("/first");
    story(&first);
    let mut of_first = exporter(&first);
    assert_eq!(of_first.catch_up().unwrap(), 6);
    // One that was begun anew in another folder, and has more to tell by now.
    let second = Models::at("/second");
    story(&second);
    second.decide(3, None, &[(2, State::Replaced), (3, State::Champion)]);
    let mut of_second = exporter(&second);
    assert_eq!(of_second.catch_up().unwrap(), 8);
    // Neither begins again for the other.
    assert_eq!(of_first.catch_up().unwrap(), 0);
    assert_eq!(of_second.catch_up().unwrap(), 0);

    let ids = [&first, &second].map(|models| models.registry.id("unused").unwrap());
    let kept = server.kept();
    assert_eq!(kept.runs.len(), 1 + 4 + 4);
    assert_eq!(kept.runs[0].tags, older());
    assert!(kept.runs[0].params.is_empty());
    let states = [
        ["replaced", "champion", "canary 10%", "shadow"],
        ["replaced", "replaced", "champion", "shadow"],
    ];
    for (id, states) in ids.iter().zip(states) {
        let is_its = |run: &&KeptRun| run.tags.get(REGISTRY) == Some(id);
        let runs: Vec<&KeptRun> = kept.runs.iter().filter(is_its).collect();
        let found: Vec<&String> = runs.iter().map(|run| &run.tags["millrace.state"]).collect();
        assert_eq!(found, states);
        // All of the manifest was sent.
        assert!(runs.iter().all(|run| run.status == "FINISHED"));
        assert!(runs.iter().all(|run| run.params["seed"] == "7"));
    }
    let sources: Vec<&str> = kept.versions.iter().map(|(_, it)| it.as_str()).collect();
    let of = |folder: &str| [1, 2, 3].map(|it| format!("millrace:///{folder}/v00000{it}"));
    assert_eq!(sources, [of("first"), of("second")].concat());
}

#[test]
fn what_was_removed_before_it_was_sent_holds_nothing_up() {
    let (models, server) = (Models::new(), Server::start());
    story(&models);
    models.registry.retain(1, &[], 0).unwrap();
    let mut exporter = Exporter::new(&settings(&server.url), Arc::clone(&models.registry)).unwrap();
    exporter.catch_up().unwrap();
    models.publish(5);
    models.decide(5, None, &[(5, State::Champion)]);
    models.registry.retain(1, &[], 0).unwrap();
    models.publish(6);
    models.decide(6, None, &[(6, State::Champion)]);
    models.registry.retain(1, &[], 0).unwrap();
    models.publish(7);
    models.decide(7, None, &[(7, State::Champion)]);
    models.registry.retain(1, &[], 0).unwrap();
    exporter.catch_up().unwrap();
    // Version 5 was removed meanwhile.
    let versions: Vec<String> = server
        .kept()
        .runs
        .iter()
        .map(|run| run.tags[VERSION].clone())
        .collect();
    assert_eq!(versions, ["1", "2", "3", "4", "6", "7"]);
    assert!(server.kept().aliases.contains_key("champion"));
}

#[test]
fn a_server_that_is_not_there_is_an_error_and_settings_have_hints() {
    let models = Models::new();
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()
    };
    let mut exporter = Exporter::new(&settings(&nobody), models.registry).unwrap();
    assert!(matches!(exporter.catch_up(), Err(ExportError::Mlflow(_))));
    let wrong = |text: &str| {
        toml::from_str::<MlflowSettings>(text)
            .unwrap_err()
            .to_string()
    };
    assert!(wrong("tracking_uri = 'sqlite:///x'").contains("http://localhost:5000"));
    assert!(wrong("tracking_uri = 'localhost'").contains("http://localhost:5000"));
    assert!(wrong("tracking_uri = 'http://a'\nexperimnt = 'x'").contains("experimnt"));
}

#[test]
fn a_token_is_sent() {
    let server = Server::start();
    let credentials = Credentials {
        token: Some("secret".to_owned()),
        user: Some(("a".to_owned(), "b".to_owned())),
    };
    let client = Client::new(&server.url, credentials).unwrap();
    client.experiment("cards").unwrap();
    assert_eq!(
        server.kept().authorization.as_deref(),
        Some("Bearer secret")
    );
}
