//! A server on a free port over a store in memory, asked as any client would.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use millrace_feature_store::{Commit, MemoryStore};
use millrace_features::Origin;
use millrace_ingest::JsonDecoder;
use millrace_learner::{
    Checkpoint, Device, Examples, LearnerSettings, Manifest, Metrics, Model, Prequential, Registry,
};
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use millrace_proto::v1::model_service_client::ModelServiceClient;
use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::value::Kind;
use millrace_proto::v1::{
    Entity, GetFeaturesRequest, GetFeaturesResponse, ListModelsRequest, ListViewsRequest,
    ScoreRequest, Value,
};
use prost_types::Timestamp;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::pipeline::stream_specs;
use crate::scorer::Scorer;
use crate::state::Pending;
use crate::workspace::Workspace;

/// 2018-04-01T12:00:00Z.
const NOON: i64 = 1_522_584_000_000_000;
const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// The example project over an empty store, without a model.
pub(crate) fn live() -> Live {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fraud");
    let workspace = Arc::new(Workspace::open(&folder).unwrap());
    let plan = workspace.model().unwrap().clone();
    Live {
        workspace,
        store: Arc::new(MemoryStore::new()),
        scorer: Some(Arc::new(Scorer::new(plan))),
        registry: None,
        progress: Arc::default(),
        misses: Arc::default(),
    }
}

/// One payment as it stands in the topic, some minutes after noon.
pub(crate) fn payment(id: &str, card: &str, amount: f64, minute: i64) -> String {
    let time = crate::times::rfc3339(NOON + minute * MINUTE);
    format!(
        r#"{{"tx_id":"{id}","card_id":"{card}","terminal_id":"t1","amount":{amount},"event_time":"{time}"}}"#
    )
}

/// Commits payments, as the pipeline does.
pub(crate) fn commit(live: &Live, payments: &[String]) {
    let spec = stream_specs(&live.workspace)
        .into_iter()
        .find(|s| s.name == "transactions");
    let payloads: Vec<Option<&[u8]>> = payments.iter().map(|p| Some(p.as_bytes())).collect();
    let mut decoder = JsonDecoder::new(spec.unwrap()).unwrap();
    let events = decoder.decode(&payloads, i64::MAX).unwrap().batch;
    assert_eq!(events.num_rows(), payments.len());
    let zeros = vec![0; payments.len()];
    let offsets: Vec<i64> = (0..payments.len() as i64).collect();
    let origin = Origin {
        partitions: &zeros,
        offsets: &offsets,
    };
    let mut pending = Pending::default();
    for view in &live.workspace.project.views {
        if view.stream.name == "transactions" {
            let failed = view.state_rows(&events, origin, &mut pending).unwrap();
            assert_eq!(failed, []);
        }
    }
    let mut rows = Commit::default();
    pending.drain_into(&mut rows);
    live.store.commit(rows).unwrap();
}

/// Starts a server and gives its address.
pub(crate) async fn start(live: Live) -> SocketAddr {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(live, listener, std::future::pending()));
    address
}

async fn connect(live: Live) -> Channel {
    let address = start(live).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    endpoint.unwrap().connect().await.unwrap()
}

fn entity(key: &[(&str, Kind)]) -> Entity {
    let value = |kind: &Kind| Value {
        kind: Some(kind.clone()),
    };
    Entity {
        key: key
            .iter()
            .map(|(n, k)| ((*n).to_owned(), value(k)))
            .collect(),
    }
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

fn ask(view: &str, key: &[(&str, Kind)], as_of: Option<i64>) -> GetFeaturesRequest {
    GetFeaturesRequest {
        view: view.to_owned(),
        entities: vec![entity(key)],
        as_of: as_of.map(timestamp),
    }
}

/// A feature of the answer's row.
fn feature(answer: &GetFeaturesResponse, row: usize, name: &str) -> Kind {
    let column = answer.columns.iter().position(|c| c == name).unwrap();
    answer.rows[row].values[column].kind.clone().unwrap()
}

fn null() -> Kind {
    Kind::NullValue(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_answer_as_of_their_time() {
    let live = live();
    let payments = [
        payment("a", "c1", 10.0, 0),
        payment("b", "c1", 30.0, 50),
        payment("c", "c2", 5.0, 55),
    ];
    commit(&live, &payments);
    let progress = Arc::clone(&live.progress);
    let mut client = FeatureServiceClient::new(connect(live).await);

    let mut request = ask("card_activity", &[("card_id", text("c1"))], None);
    request
        .entities
        .push(entity(&[("card_id", text("nobody"))]));
    request.as_of = Some(timestamp(NOON + 60 * MINUTE));
    let answer = client
        .get_features(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.as_of, Some(timestamp(NOON + 60 * MINUTE)));
    assert_eq!(answer.complete_until, None);
    assert_eq!(answer.columns[0], "card_id");
    assert_eq!(feature(&answer, 0, "card_id"), text("c1"));
    // The older edge counts, to the microsecond: see below.
    assert_eq!(feature(&answer, 0, "tx_count_1h"), Kind::Int64Value(2));
    assert_eq!(
        feature(&answer, 0, "amount_sum_1d"),
        Kind::DoubleValue(40.0)
    );
    assert_eq!(feature(&answer, 1, "tx_count_1h"), Kind::Int64Value(0));
    assert_eq!(feature(&answer, 1, "amount_avg_7d"), null());

    // What is finer than a microsecond is cut; one microsecond later the first payment has left.
    progress.reflect("transactions", NOON + 55 * MINUTE);
    let mut as_of = timestamp(NOON + 60 * MINUTE + 1);
    as_of.nanos += 999;
    request.as_of = Some(as_of);
    let answer = client
        .get_features(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.as_of, Some(timestamp(NOON + 60 * MINUTE + 1)));
    assert_eq!(answer.complete_until, Some(timestamp(NOON + 55 * MINUTE)));
    assert_eq!(feature(&answer, 0, "tx_count_1h"), Kind::Int64Value(1));
    assert_eq!(feature(&answer, 0, "tx_count_1d"), Kind::Int64Value(2));

    // Now is years later: the windows are empty.
    request.as_of = None;
    let answer = client.get_features(request).await.unwrap().into_inner();
    assert!(time_us(&answer.as_of.unwrap()).unwrap() > NOON + 365 * DAY);
    assert_eq!(feature(&answer, 0, "tx_count_30d"), Kind::Int64Value(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_a_look_up_are_named() {
    let live = live();
    let view = live.workspace.project.view("card_activity").unwrap();
    // The longest window is 30 days, so look-ups work from 30 days after the horizon on.
    live.store.horizons().set_view(view.id, NOON - 30 * DAY);
    let mut client = FeatureServiceClient::new(connect(live).await);
    let card = || ("card_id", text("c1"));
    let many = GetFeaturesRequest {
        entities: vec![entity(&[card()]); MAX_ITEMS + 1],
        ..ask("card_activity", &[], None)
    };
    let bad_time = GetFeaturesRequest {
        as_of: Some(Timestamp {
            seconds: 0,
            nanos: -1,
        }),
        ..ask("card_activity", &[card()], None)
    };
    let cases = [
        (
            ask("card_activty", &[card()], None),
            Code::NotFound,
            "did you mean 'card_activity'?",
        ),
        (
            ask("card_activity", &[], None),
            Code::InvalidArgument,
            "entities[0].key: 'card_id' is missing: view 'card_activity' is asked for by card_id",
        ),
        (
            ask(
                "card_activity",
                &[card(), ("terminal_id", text("t1"))],
                None,
            ),
            Code::InvalidArgument,
            "entities[0].key: 'terminal_id' names no entity here",
        ),
        (
            ask(
                "card_activity",
                &[("card_id", Kind::DoubleValue(1.5))],
                None,
            ),
            Code::InvalidArgument,
            "entities[0].key[\"card_id\"]: it is a double, and the column is of type Utf8",
        ),
        (
            ask("card_activity", &[("card_id", null())], None),
            Code::InvalidArgument,
            "it is null",
        ),
        (
            many,
            Code::InvalidArgument,
            "10001 in one call; at most 10000",
        ),
        (bad_time, Code::InvalidArgument, "as_of: 0 s and -1 ns"),
        (
            ask("card_activity", &[card()], Some(NOON - 1)),
            Code::OutOfRange,
            "view 'card_activity' answers from 2018-04-01T12:00:00Z on",
        ),
    ];
    for (request, code, message) in cases {
        let status = client.get_features(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(message), "{status}");
    }
    let edge = ask("card_activity", &[card()], Some(NOON));
    client.get_features(edge).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_described() {
    let mut client = FeatureServiceClient::new(connect(live()).await);
    let views = client.list_views(ListViewsRequest {}).await.unwrap();
    let views = views.into_inner().views;
    let card = views.iter().find(|v| v.name == "card_activity").unwrap();
    assert_eq!(card.stream, "transactions");
    assert_eq!(
        (card.entity.len(), card.entity[0].name.as_str()),
        (1, "card_id")
    );
    let days = card.longest_window.map(|window| window.seconds);
    assert_eq!(days, Some(30 * 86_400));
    let features: Vec<(&str, &str)> = card
        .features
        .iter()
        .map(|f| (f.name.as_str(), f.r#type.as_str()))
        .collect();
    assert_eq!(features[0], ("tx_count_1h", "Int64"));
    assert_eq!(features[2], ("amount_sum_1d", "Float64"));
    assert!(features.iter().all(|(name, _)| *name != "card_id"));
}

/// A model of the project's inputs, which has learned next to nothing.
fn model(live: &Live) -> (Manifest, Checkpoint) {
    let plan = &live.scorer.as_ref().unwrap().plan;
    let width = plan.input_names().len();
    let mut examples = Examples::new(width);
    for row in 0..32 {
        let row = row as f32;
        examples.push(&vec![row; width], row > 24.0, 1.0).unwrap();
    }
    let settings = LearnerSettings {
        hidden: vec![4],
        initial_passes: 1,
        ..LearnerSettings::default()
    };
    let empty = Examples::new(width);
    let update =
        millrace_learner::update(&settings, Device::Cpu, None, &examples, &empty, 0).unwrap();
    let manifest = Manifest {
        inputs: plan.input_names(),
        inputs_hash: plan.inputs_hash(),
        ..manifest(1, None, update.metrics.after)
    };
    (manifest, update.checkpoint)
}

fn manifest(version: u64, parent: Option<u64>, after: Metrics) -> Manifest {
    Manifest {
        version,
        parent,
        created: "2018-04-02T00:00:00Z".to_owned(),
        inputs: vec![],
        inputs_hash: String::new(),
        label_position: 0,
        trained_until_us: NOON,
        rows: 32,
        replayed: 0,
        fitted_rows: 10,
        seed: 0,
        code_version: "0.1.0".to_owned(),
        before: None,
        after,
        prequential: None,
        device: "cpu".to_owned(),
    }
}

fn score(event_json: Vec<String>, inputs: bool) -> ScoreRequest {
    ScoreRequest {
        event_json,
        include_inputs: inputs.then_some(true),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_scored_as_of_their_own_time() {
    let live = live();
    let history = [payment("a", "c1", 10.0, 0), payment("b", "c1", 30.0, 50)];
    commit(&live, &history);
    let scorer = live.scorer.clone().unwrap();
    let (manifest, checkpoint) = model(&live);
    let mut client = ScoringServiceClient::new(connect(live).await);

    let events = vec![payment("x", "c1", 60.0, 55), payment("y", "c1", 60.0, 20)];
    let answer = client
        .score(score(events.clone(), true))
        .await
        .unwrap()
        .into_inner();
    let [x, y] = &answer.scores[..] else {
        panic!("{answer:?}")
    };
    assert_eq!((x.id.as_str(), y.id.as_str()), ("x", "y"));
    assert_eq!(x.event_time, Some(timestamp(NOON + 55 * MINUTE)));
    assert_eq!((x.probability, x.model_version), (None, 0));
    assert_eq!(x.inputs["amount"], 60.0);
    assert_eq!(x.inputs["amount_over_avg_7d"], 3.0);
    assert_eq!(y.inputs["amount_over_avg_7d"], 6.0);
    assert_eq!(
        (x.inputs["tx_count_1h"], y.inputs["tx_count_1h"]),
        (2.0, 1.0)
    );
    // No label is known at the terminal, so its share of frauds is null.
    assert!(!x.inputs.contains_key("terminal_risk_1d"));

    scorer.swap(manifest, Model::new(&checkpoint)).unwrap();
    let answer = client
        .score(score(events, false))
        .await
        .unwrap()
        .into_inner();
    for score in &answer.scores {
        assert!((0.0..=1.0).contains(&score.probability.unwrap()));
        assert_eq!(score.model_version, 1);
        assert!(score.inputs.is_empty());
    }
    let none = client
        .score(score(vec![], false))
        .await
        .unwrap()
        .into_inner();
    assert!(none.scores.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_events_are_named() {
    let live = live();
    let view = live.workspace.project.view("card_activity").unwrap();
    live.store.horizons().set_view(view.id, NOON - 30 * DAY);
    let mut client = ScoringServiceClient::new(connect(live).await);
    let good = || payment("a", "c1", 10.0, 0);
    let ahead = (crate::pipeline::now_us() - NOON) / MINUTE + 60;
    let cases = [
        (
            vec![good(), "{}".to_owned()],
            "event_json[1]: missing_field: ",
        ),
        (
            vec![good(), "nothing".to_owned(), "{".to_owned()],
            "event_json[1]: unparsable: ",
        ),
        (
            vec!["{".to_owned(), good(), "{".to_owned()],
            "(and 1 more cannot be read)",
        ),
        (
            vec![good(), payment("b", "c1", 1.0, ahead)],
            "event_json[1]: future_event_time: ",
        ),
        (vec![good(); MAX_ITEMS + 1], "event_json: 10001 in one call"),
    ];
    for (events, message) in cases {
        let status = client.score(score(events, false)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(message), "{status}");
    }
    let early = vec![good(), payment("b", "c1", 1.0, -1)];
    let status = client.score(score(early, false)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(
        status
            .message()
            .starts_with("event_json[1]: 2018-04-01T11:59:00Z is too early")
    );
    // A bad event leaves nothing behind in the decoder.
    let answer = client
        .score(score(vec![good()], false))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.scores[0].id, "a");
}

#[tokio::test]
async fn a_project_without_a_model_has_no_scores() {
    let live = Live {
        scorer: None,
        ..live()
    };
    let channel = connect(live).await;
    let status = ScoringServiceClient::new(channel.clone())
        .score(score(vec![], false))
        .await;
    assert_eq!(status.unwrap_err().code(), Code::FailedPrecondition);
    let status = ModelServiceClient::new(channel)
        .list_models(ListModelsRequest {})
        .await;
    assert_eq!(status.unwrap_err().code(), Code::FailedPrecondition);
}

/// A registry of three versions with manifests alone: 2 and 3 were both made from 1.
pub(crate) fn registry(root: &Path) -> Registry {
    let after = Metrics::of(&[0.0, 0.0], &[0.0, 1.0], &[1.0, 1.0]);
    let child = |version: u64, ap: f64| Manifest {
        before: Some(Metrics {
            log_loss: ap / 2.0,
            ..after
        }),
        prequential: Some(Prequential {
            average_precision: Some(ap),
            rows: 10,
            frauds: 1,
        }),
        ..manifest(version, Some(1), after)
    };
    let manifests = [manifest(1, None, after), child(2, 0.25), child(3, 0.5)];
    for manifest in manifests {
        let folder = root.join(format!("v{:06}", manifest.version));
        std::fs::create_dir_all(&folder).unwrap();
        let text = serde_json::to_string(&manifest).unwrap();
        std::fs::write(folder.join("manifest.json"), text).unwrap();
    }
    let registry = Registry::open(root).unwrap();
    registry.set_champion(3).unwrap();
    registry
}

#[tokio::test]
async fn models_tell_how_they_did_on_what_came_after() {
    let folder = tempfile::tempdir().unwrap();
    let live = Live {
        registry: Some(Arc::new(registry(folder.path()))),
        ..live()
    };
    let mut client = ModelServiceClient::new(connect(live).await);
    let models = client.list_models(ListModelsRequest {}).await.unwrap();
    let models = models.into_inner().models;
    let parents: Vec<Option<u64>> = models.iter().map(|m| m.parent).collect();
    assert_eq!(parents, [None, Some(1), Some(1)]);
    let champions: Vec<bool> = models.iter().map(|m| m.champion).collect();
    assert_eq!(champions, [false, false, true]);
    // The newest child has seen the most of version 1's scores; nothing is known of the others yet.
    let precisions: Vec<Option<f64>> = models
        .iter()
        .map(|m| m.prequential_average_precision)
        .collect();
    assert_eq!(precisions, [Some(0.5), None, None]);
    assert_eq!(models[0].prequential_log_loss, Some(0.25));
    assert_eq!(models[0].created, Some(timestamp(NOON + DAY / 2)));
    assert_eq!(models[0].trained_until, Some(timestamp(NOON)));
}

#[tokio::test]
async fn health_and_reflection_know_the_services() {
    let services = [
        "millrace.v1.FeatureService",
        "millrace.v1.ModelService",
        "millrace.v1.ScoringService",
    ];
    let channel = connect(live()).await;
    let mut health = HealthClient::new(channel.clone());
    for service in services.iter().chain(&[""]) {
        let request = HealthCheckRequest {
            service: (*service).to_owned(),
        };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status.as_str_name(), "SERVING", "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(answer)) = answer else {
        panic!("{answer:?}")
    };
    let listed: Vec<&str> = answer.service.iter().map(|s| s.name.as_str()).collect();
    assert!(
        services.iter().all(|service| listed.contains(service)),
        "{listed:?}"
    );
    assert!(listed.contains(&"grpc.health.v1.Health"), "{listed:?}");
}

#[tokio::test]
async fn a_port_in_use_is_said_at_once() {
    let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let failure = bind(first.local_addr().unwrap()).await.unwrap_err();
    assert_eq!(failure.exit_code(), 1);
    assert!(failure.hint.unwrap().contains("--listen"));
}

#[tokio::test]
async fn a_server_ends_when_it_is_told_to() {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = serve(live(), listener, async { stopped.await.unwrap() });
    let server = tokio::spawn(server);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint.unwrap().connect().await.unwrap();
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[test]
fn times_become_messages_and_back() {
    for time in [
        0,
        -1,
        1,
        NOON,
        -62_135_596_800_000_000,
        253_402_300_799_999_999,
    ] {
        assert_eq!(time_us(&timestamp(time)), Some(time));
        assert!((0..1_000_000_000).contains(&timestamp(time).nanos));
    }
    assert_eq!(time_us(&timestamp(253_402_300_800_000_000)), None);
}
