//! A server on a free port over a store in memory, asked as any client would.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use millrace_feature_store::{Commit, MemoryStore};
use millrace_features::Origin;
use millrace_ingest::JsonDecoder;
use millrace_learner::{
    Checkpoint, Device, Examples, LearnerSettings, Manifest, Metrics, Model, Prequential, Registry,
};
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use millrace_proto::v1::model_service_client::ModelServiceClient;
use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::{
    Column, EntityStatus, GetFeaturesRequest, GetFeaturesResponse, ListModelsRequest,
    ListViewsRequest, PrepareRequest, ScoreRequest, ViewFeatures, ViewStatus,
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
use tonic_types::StatusExt;

use super::*;
use crate::scorer::Scorer;
use crate::state::Pending;
use crate::streams::stream_specs;
use crate::traces::Traces;
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
        traces: Traces::default(),
    }
}

/// One payment as it stands in the topic, some minutes after noon.
pub(crate) fn payment(id: &str, card: &str, amount: f64, minute: i64) -> String {
    let time = crate::times::rfc3339(NOON + minute * MINUTE);
    format!(
        r#"{{"tx_id":"{id}","card_id":"{card}","terminal_id":"t1","amount":{amount},"event_time":"{time}"}}"#
    )
}

/// Payments as the pipeline reads them.
pub(crate) fn decode(live: &Live, payments: &[String]) -> RecordBatch {
    let spec = stream_specs(&live.workspace)
        .into_iter()
        .find(|s| s.name == "transactions");
    let payloads: Vec<Option<&[u8]>> = payments.iter().map(|p| Some(p.as_bytes())).collect();
    let mut decoder = JsonDecoder::new(spec.unwrap()).unwrap();
    let events = decoder.decode(&payloads, i64::MAX).unwrap().batch;
    assert_eq!(events.num_rows(), payments.len());
    events
}

/// Commits payments, as the pipeline does.
pub(crate) fn commit(live: &Live, payments: &[String]) {
    let events = decode(live, payments);
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

/// A column of texts.
fn texts(values: &[&str]) -> Column {
    Column {
        strings: values.iter().map(|value| (*value).to_owned()).collect(),
        ..Column::default()
    }
}

fn ask(features: &[&str], keys: &[(&str, Column)], as_of: Option<i64>) -> GetFeaturesRequest {
    let keys = keys.iter();
    GetFeaturesRequest {
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        keys: keys
            .map(|(name, column)| ((*name).to_owned(), column.clone()))
            .collect(),
        as_of: as_of.map(timestamp),
        handle: None,
    }
}

/// Whole numbers of a feature, one an entity.
fn whole(view: &ViewFeatures, name: &str) -> Vec<i64> {
    let column = view.features.iter().find(|column| column.name == name);
    column.unwrap().int64s.clone()
}

/// Doubles of a feature, none where it is null.
fn doubles(view: &ViewFeatures, name: &str) -> Vec<Option<f64>> {
    let column = view.features.iter().find(|column| column.name == name);
    let column = column.unwrap();
    let value = |(row, value): (usize, &f64)| {
        let is_null = column.nulls.contains(&(row as u32));
        (!is_null).then_some(*value)
    };
    column.doubles.iter().enumerate().map(value).collect()
}

fn statuses(view: &ViewFeatures) -> Vec<EntityStatus> {
    view.statuses().collect()
}

/// Three payments of two cards within the hour after noon.
fn some_payments() -> [String; 3] {
    [
        payment("a", "c1", 10.0, 0),
        payment("b", "c1", 30.0, 50),
        payment("c", "c2", 5.0, 55),
    ]
}

async fn get(
    client: &mut FeatureServiceClient<Channel>,
    request: &GetFeaturesRequest,
) -> GetFeaturesResponse {
    let answer = client.get_features(request.clone()).await;
    answer.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_answer_as_of_their_time() {
    let live = live();
    commit(&live, &some_payments());
    let progress = Arc::clone(&live.progress);
    let mut client = FeatureServiceClient::new(connect(live).await);

    let cards = [("card_id", texts(&["c1", "nobody"]))];
    let hour = NOON + 60 * MINUTE;
    let mut request = ask(&["card_activity"], &cards, Some(hour));
    let answer = get(&mut client, &request).await;
    assert_eq!(answer.as_of, Some(timestamp(hour)));
    let [view] = &answer.views[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (view.view.as_str(), view.complete_until),
        ("card_activity", None)
    );
    assert_eq!(view.status(), ViewStatus::Empty);
    assert_eq!(
        statuses(view),
        [EntityStatus::Present, EntityStatus::Unknown]
    );
    assert_eq!(view.version.len(), 16);
    // The older edge counts, to the microsecond: see below.
    assert_eq!(whole(view, "tx_count_1h"), [2, 0]);
    assert_eq!(doubles(view, "amount_sum_1d"), [Some(40.0), None]);
    assert_eq!(doubles(view, "amount_avg_7d"), [Some(20.0), None]);

    // What is finer than a microsecond is cut; one microsecond later the first payment has left.
    progress.reflect("transactions", NOON + 55 * MINUTE);
    // Nobody has heard of Kafka yet.
    let answer = get(&mut client, &request).await;
    assert_eq!(answer.views[0].status(), ViewStatus::Stale);
    progress.hear(std::time::Instant::now());
    let mut as_of = timestamp(hour + 1);
    as_of.nanos += 999;
    request.as_of = Some(as_of);
    let answer = get(&mut client, &request).await;
    let view = &answer.views[0];
    assert_eq!(answer.as_of, Some(timestamp(hour + 1)));
    assert_eq!(view.complete_until, Some(timestamp(NOON + 55 * MINUTE)));
    assert_eq!(view.status(), ViewStatus::Current);
    assert_eq!(whole(view, "tx_count_1h"), [1, 0]);
    assert_eq!(whole(view, "tx_count_1d"), [2, 0]);

    // Now is years later: the windows are empty, and the card is known all the same.
    request.as_of = None;
    let answer = get(&mut client, &request).await;
    assert!(time_us(&answer.as_of.unwrap()).unwrap() > NOON + 365 * DAY);
    let view = &answer.views[0];
    assert_eq!(whole(view, "tx_count_30d"), [0, 0]);
    assert_eq!(
        statuses(view),
        [EntityStatus::OutOfWindow, EntityStatus::Unknown]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_views_are_one_answer_and_names_can_be_resolved_before() {
    let live = live();
    commit(&live, &some_payments());
    let mut client = FeatureServiceClient::new(connect(live).await);
    let keys = [
        ("card_id", texts(&["c1", "c2"])),
        ("terminal_id", texts(&["t1", "t1"])),
    ];
    let names = [
        "terminal_activity:tx_count_1d",
        "card_activity:tx_count_1h",
        "terminal_activity:tx_count_7d",
    ];
    let hour = Some(NOON + 60 * MINUTE);
    let answer = get(&mut client, &ask(&names, &keys, hour)).await;
    let [terminal, card] = &answer.views[..] else {
        panic!("{answer:?}")
    };
    let columns: Vec<&str> = terminal.features.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(columns, ["tx_count_1d", "tx_count_7d"]);
    assert_eq!(whole(terminal, "tx_count_1d"), [3, 3]);
    assert_eq!(whole(card, "tx_count_1h"), [2, 1]);

    let features = names.map(str::to_owned).to_vec();
    let prepared = client
        .prepare(PrepareRequest { features })
        .await
        .unwrap()
        .into_inner();
    let asked: Vec<&str> = prepared.keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(asked, ["terminal_id", "card_id"]);
    let by_handle = GetFeaturesRequest {
        handle: Some(prepared.handle),
        ..ask(&[], &keys, hour)
    };
    let answer = get(&mut client, &by_handle).await;
    // The names were told before.
    assert_eq!(answer.views[0].view, "");
    let mut named = answer.clone();
    for (view, said) in named.views.iter_mut().zip(&prepared.views) {
        view.view.clone_from(&said.name);
        view.version.clone_from(&said.version);
        for (column, field) in view.features.iter_mut().zip(&said.features) {
            column.name.clone_from(&field.name);
        }
    }
    assert_eq!(named.views, [terminal.clone(), card.clone()]);
    let unknown = GetFeaturesRequest {
        handle: Some(prepared.handle ^ 1),
        ..by_handle.clone()
    };
    let status = client.get_features(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    // All names that are wrong are told.
    let features = ["card_activty", "terminal_risk", "card_activity:tx_count"];
    let features = features.map(str::to_owned).to_vec();
    let status = client.prepare(PrepareRequest { features }).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    for part in [
        "there is no feature view 'card_activty': did you mean 'card_activity'?; ",
        "view 'card_activity' has no feature 'tx_count': ",
    ] {
        assert!(status.message().contains(part), "{status}");
    }

    // The model's inputs stand for the views that they join.
    let inputs = get(&mut client, &ask(&["fraud_inputs"], &keys, hour)).await;
    let views: Vec<&str> = inputs.views.iter().map(|view| view.view.as_str()).collect();
    assert_eq!(
        views,
        [
            "card_activity",
            "terminal_activity",
            "terminal_risk",
            "card_risk"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_answers_part_by_part() {
    let live = live();
    commit(&live, &some_payments());
    let mut client = FeatureServiceClient::new(connect(live).await);
    let cards: Vec<String> = (0..20_000).map(|number| format!("c{number}")).collect();
    let cards: Vec<&str> = cards.iter().map(String::as_str).collect();
    let request = ask(
        &["card_activity:tx_count_1h"],
        &[("card_id", texts(&cards))],
        Some(NOON + 60 * MINUTE),
    );
    let mut parts = client
        .stream_features(request.clone())
        .await
        .unwrap()
        .into_inner();
    let mut counts = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part.unwrap();
        assert_eq!(part.first_row as usize, counts.len());
        counts.extend(whole(&part.views[0], "tx_count_1h"));
    }
    assert_eq!(counts.len(), cards.len());
    assert_eq!(counts[..4], [0, 2, 1, 0]);
    // One call takes fewer; a caller who reads no further costs nothing more.
    let status = client.get_features(request.clone()).await.unwrap_err();
    assert!(status.message().contains("20000 in one call"), "{status}");
    let mut left = client.stream_features(request).await.unwrap().into_inner();
    left.next().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_a_look_up_are_named() {
    let live = live();
    let view = live.workspace.project.view("card_activity").unwrap();
    // The longest window is 30 days, so look-ups work from 30 days after the horizon on.
    live.store.horizons().set_view(view.id, NOON - 30 * DAY);
    let mut client = FeatureServiceClient::new(connect(live).await);
    let card = || ("card_id", texts(&["c1"]));
    let bad_time = GetFeaturesRequest {
        as_of: Some(Timestamp {
            seconds: 0,
            nanos: -1,
        }),
        ..ask(&["card_activity"], &[card()], None)
    };
    let double = Column {
        doubles: vec![1.5],
        ..Column::default()
    };
    let null = Column {
        nulls: vec![0],
        ..texts(&[""])
    };
    let many = texts(&vec!["c1"; MAX_ITEMS + 1]);
    let both = Column {
        int64s: vec![1],
        ..texts(&["c1"])
    };
    let cases = [
        (
            ask(&["card_activty"], &[card()], None),
            Code::NotFound,
            "did you mean 'card_activity'?",
        ),
        (
            ask(&["card_activity:tx_count"], &[card()], None),
            Code::NotFound,
            "view 'card_activity' has no feature 'tx_count'",
        ),
        (
            ask(&[], &[card()], None),
            Code::InvalidArgument,
            "features: none is named",
        ),
        (
            ask(&["card_activity"], &[], None),
            Code::InvalidArgument,
            "keys: 'card_id' is missing: card_activity is asked for by it",
        ),
        (
            ask(&["card_activity"], &[("card", texts(&["c1"]))], None),
            Code::InvalidArgument,
            "keys: 'card_id' is missing: card_activity is asked for by it, and not by 'card'",
        ),
        (
            ask(
                &["card_activity"],
                &[card(), ("terminal_id", texts(&["t1"]))],
                None,
            ),
            Code::InvalidArgument,
            "keys: 'terminal_id' names no entity here",
        ),
        (
            ask(
                &["card_activity", "terminal_risk"],
                &[card(), ("terminal_id", texts(&["t1", "t2"]))],
                None,
            ),
            Code::InvalidArgument,
            "keys[\"terminal_id\"]: it has 2 values, and keys[\"card_id\"] has 1",
        ),
        (
            ask(&["card_activity"], &[("card_id", double)], None),
            Code::InvalidArgument,
            "keys[\"card_id\"][0]: it is a double, and the column is of type Utf8",
        ),
        (
            ask(&["card_activity"], &[("card_id", null)], None),
            Code::InvalidArgument,
            "it is null",
        ),
        (
            ask(&["card_activity"], &[("card_id", both)], None),
            Code::InvalidArgument,
            "a column is of one kind",
        ),
        (
            ask(&["card_activity"], &[("card_id", many)], None),
            Code::InvalidArgument,
            "10001 in one call; at most 10000 are answered: StreamFeatures takes more",
        ),
        (bad_time, Code::InvalidArgument, "as_of: 0 s and -1 ns"),
        (
            ask(&["card_activity"], &[card()], Some(NOON - 1)),
            Code::OutOfRange,
            "view 'card_activity' answers from 2018-04-01T12:00:00Z on",
        ),
    ];
    for (request, code, message) in cases {
        let status = client.get_features(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(message), "{status}");
        let has_details = matches!(code, Code::InvalidArgument | Code::OutOfRange);
        let violations = status.get_details_bad_request();
        assert_eq!(violations.is_some(), has_details, "{status}");
        for violation in violations.into_iter().flat_map(|all| all.field_violations) {
            // The field has a place of its own.
            let repeated = format!("{}: ", violation.field);
            assert!(!violation.description.starts_with(&repeated), "{status}");
        }
    }
    let edge = ask(&["card_activity"], &[card()], Some(NOON));
    client.get_features(edge).await.unwrap();
}

/// A token for one view is told of no other.
#[test]
fn what_a_caller_may_not_read_is_not_named() {
    let catalog = Catalog::new(&live());
    let said = |name: &str, scope: &str| {
        let caller = Caller::new("x".to_owned(), vec![scope.parse().unwrap()]);
        let refused = catalog.resolve(&[name.to_owned()], &caller);
        refused.unwrap_err().to_string()
    };
    let one = "features:card_activity";
    let unknown = said("nothing_like_it", one);
    assert!(
        unknown.ends_with("the token may read card_activity"),
        "{unknown}"
    );
    let near = said("terminal_riks", one);
    assert!(!near.contains("terminal_risk"), "{near}");
    let hidden = said("terminal_risk:nothing", one);
    assert!(
        hidden.contains("features:terminal_risk is missing"),
        "{hidden}"
    );
    assert!(!hidden.contains("frauds_7d"), "{hidden}");
    let all = said("terminal_riks", "features");
    assert!(all.contains("did you mean 'terminal_risk'?"), "{all}");
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
    assert_eq!(card.version.len(), 16);
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
pub(crate) fn model(live: &Live) -> (Manifest, Checkpoint) {
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
        meanings: Vec::new(),
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
        meanings: Vec::new(),
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
        offsets: BTreeMap::new(),
        settings: BTreeMap::new(),
    }
}

fn score(event_json: Vec<String>, inputs: bool) -> ScoreRequest {
    ScoreRequest {
        event_json,
        include_inputs: inputs.then_some(true),
        ..ScoreRequest::default()
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
async fn typed_events_reasons_and_streams_say_the_same() {
    let live = live();
    commit(&live, &[payment("a", "c1", 10.0, 0)]);
    let scorer = live.scorer.clone().unwrap();
    let (manifest, checkpoint) = model(&live);
    scorer.swap(manifest, Model::new(&checkpoint)).unwrap();
    let mut client = ScoringServiceClient::new(connect(live).await);

    let from_json = ScoreRequest {
        top_reasons: Some(3),
        ..score(vec![payment("x", "c1", 60.0, 55)], true)
    };
    let time = crate::times::rfc3339(NOON + 55 * MINUTE);
    let columns = [
        ("tx_id", texts(&["x"])),
        ("card_id", texts(&["c1"])),
        ("terminal_id", texts(&["t1"])),
        ("event_time", texts(&[&time])),
        (
            "amount",
            Column {
                doubles: vec![60.0],
                ..Column::default()
            },
        ),
    ];
    let columns = columns.map(|(name, column)| (name.to_owned(), column));
    let typed = ScoreRequest {
        event_json: vec![],
        columns: columns.into_iter().collect(),
        ..from_json.clone()
    };
    let said = client.score(from_json.clone()).await.unwrap().into_inner();
    let again = client.score(typed.clone()).await.unwrap().into_inner();
    assert_eq!(said, again);
    let reasons = &said.scores[0].reasons;
    assert_eq!(reasons.len(), 3);
    let strength: Vec<f64> = reasons.iter().map(|r| r.contribution.abs()).collect();
    assert!(strength.is_sorted_by(|a, b| a >= b), "{strength:?}");
    for reason in reasons {
        assert_eq!(
            reason.value,
            said.scores[0].inputs.get(&reason.input).copied()
        );
    }

    let mut missing = typed.clone();
    missing.columns.remove("card_id");
    let mut typo = typed.clone();
    typo.columns.insert("amuont".to_owned(), texts(&["1"]));
    let mut both = typed.clone();
    both.event_json = from_json.event_json.clone();
    let mut endless = typed.clone();
    let amounts = &mut endless.columns.get_mut("amount").unwrap().doubles;
    *amounts.last_mut().unwrap() = f64::INFINITY;
    for (request, message) in [
        (
            endless,
            "columns[\"amount\"][0]: unparsable: it is not a finite number",
        ),
        (missing, "columns[\"card_id\"][0]: missing_field"),
        (typo, "did you mean 'amount'?"),
        (both, "and both are given"),
    ] {
        let status = client.score(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(message), "{status}");
    }

    let bad = score(vec!["{".to_owned()], false);
    let requests = [from_json.clone(), from_json.clone(), bad, from_json];
    let answers = client.score_stream(tokio_stream::iter(requests)).await;
    let answers: Vec<_> = answers.unwrap().into_inner().collect().await;
    let codes: Vec<Code> = answers
        .iter()
        .map(|answer| answer.as_ref().map_or_else(Status::code, |_| Code::Ok))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::InvalidArgument]);
    assert_eq!(answers[1].as_ref().unwrap(), &said);
}

/// As of an older time the events of its step are known in sum alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_step_is_asked_about_as_of_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("features")).unwrap();
    write("millrace.toml", "[store]\nhistory = \"1d\"\n");
    write(
        "sources.sql",
        "CREATE EXTERNAL TABLE tx (card_id VARCHAR NOT NULL, at TIMESTAMP NOT NULL)
         STORED AS KAFKA LOCATION 'tx' WITH ORDER (at)",
    );
    write(
        "features/v.sql",
        "CREATE VIEW v WITH (resolution = '1 minute', late = '10 minutes') AS SELECT card_id,
         count(*) OVER (PARTITION BY card_id ORDER BY at RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS n FROM tx",
    );
    let live = Live {
        workspace: Arc::new(Workspace::open(folder.path()).unwrap()),
        store: Arc::new(MemoryStore::new()),
        scorer: None,
        registry: None,
        progress: Arc::default(),
        misses: Arc::default(),
        traces: Traces::default(),
    };
    live.progress.reflect("tx", NOON + 30 * 1_000_000);
    let mut client = FeatureServiceClient::new(connect(live).await);
    let settled = NOON - 10 * MINUTE;
    let cases = [
        (settled - 1, Some("ask as of 2018-04-01T11:49:00")),
        (settled - MINUTE, None),
        (settled, None),
        (settled + 1, None),
        (NOON + DAY, None),
        (NOON - 2 * DAY, Some("is too early")),
    ];
    for (as_of, refusal) in cases {
        let request = ask(&["v"], &[("card_id", texts(&["c1"]))], Some(as_of));
        let answer = client.get_features(request).await;
        match (answer, refusal) {
            (Ok(answer), None) => assert_eq!(whole(&answer.into_inner().views[0], "n"), [0]),
            (Err(status), Some(message)) => {
                assert_eq!(status.code(), Code::OutOfRange, "{status}");
                assert!(status.message().contains(message), "{status}");
            }
            (answer, _) => panic!("as of {as_of}: {answer:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_events_are_named() {
    let live = live();
    let view = live.workspace.project.view("card_activity").unwrap();
    live.store.horizons().set_view(view.id, NOON - 30 * DAY);
    let mut client = ScoringServiceClient::new(connect(live).await);
    let good = || payment("a", "c1", 10.0, 0);
    let ahead = (crate::times::now_us() - NOON) / MINUTE + 60;
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
            "(and 1 more are wrong)",
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
    let texts_of = |first: &str, second: &str| texts(&[first, second]);
    let times = [0, -1].map(|minute| crate::times::rfc3339(NOON + minute * MINUTE));
    let amounts = Column {
        doubles: vec![1.0, 1.0],
        ..Column::default()
    };
    let columns = [
        ("tx_id", texts_of("a", "b")),
        ("card_id", texts_of("c1", "c1")),
        ("terminal_id", texts_of("t1", "t1")),
        ("event_time", texts_of(&times[0], &times[1])),
        ("amount", amounts),
    ];
    let early = ScoreRequest {
        columns: columns
            .into_iter()
            .map(|(name, column)| (name.to_owned(), column))
            .collect(),
        ..ScoreRequest::default()
    };
    let status = client.score(early).await.unwrap_err();
    let place = "columns[\"event_time\"][1]: 2018-04-01T11:59:00Z is too early";
    assert!(status.message().starts_with(place), "{status}");
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

/// Frames of any bytes, and answers that are not looked into.
#[derive(Clone, Copy, Default)]
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(
        &mut self,
        item: Vec<u8>,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, Status> {
        let length = bytes::Buf::remaining(buffer);
        bytes::Buf::advance(buffer, length);
        Ok(Some(()))
    }
}

/// Requests that were cut or changed in any place get an answer or a status that blames the request, and the server
/// goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_requests_are_refused_and_nothing_breaks() {
    use prost_reflect::prost::Message;
    use rand::{Rng, SeedableRng};
    let live = live();
    commit(&live, &some_payments());
    let (manifest, checkpoint) = model(&live);
    let scorer = live.scorer.clone().unwrap();
    scorer.swap(manifest, Model::new(&checkpoint)).unwrap();
    let channel = connect(live).await;
    let keys = [
        ("card_id", texts(&["c1", "c2"])),
        ("terminal_id", texts(&["t1", "t1"])),
    ];
    let look_up = ask(
        &["card_activity", "terminal_risk:frauds_7d"],
        &keys,
        Some(NOON),
    )
    .encode_to_vec();
    let amount = Column {
        doubles: vec![f64::NAN],
        nulls: vec![0],
        ..Column::default()
    };
    let typed = ScoreRequest {
        columns: [
            ("amount".to_owned(), amount),
            ("tx_id".to_owned(), texts(&["x"])),
        ]
        .into(),
        top_reasons: Some(2),
        ..ScoreRequest::default()
    };
    let valid = [
        ("/millrace.v1.FeatureService/GetFeatures", look_up.clone()),
        ("/millrace.v1.FeatureService/Prepare", look_up),
        (
            "/millrace.v1.ScoringService/Score",
            score(vec![payment("x", "c1", 1.0, 5)], true).encode_to_vec(),
        ),
        ("/millrace.v1.ScoringService/Score", typed.encode_to_vec()),
        ("/feast.serving.ServingService/GetOnlineFeatures", {
            let text = b"\x12\x1d\n\x1bcard_activity:tx_count_1h\x1a\x14\n\x07card_id\x12\t\n\x03\x12\x01c\n\x02 \x07";
            text.to_vec()
        }),
    ];
    let mut random = rand_pcg::Pcg64::seed_from_u64(11);
    let mut refused = 0;
    for round in 0..1_500 {
        let (path, request) = &valid[round % valid.len()];
        let mut bytes = request.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = random.random(),
                2 => bytes[at] ^= 1 << random.random_range(0..8),
                _ => bytes.insert(at, random.random()),
            }
        }
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let call = grpc.unary(tonic::Request::new(bytes.clone()), path, RawCodec);
        let Err(status) = call.await else { continue };
        refused += 1;
        let blames = matches!(
            status.code(),
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange | Code::FailedPrecondition
        );
        assert!(blames, "{status} for {bytes:?}");
    }
    assert!(refused > 500, "{refused}");
}

/// A message that is too large, of a method that takes one and of one that takes a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_refused() {
    let mut client = ScoringServiceClient::new(connect(live()).await);
    let large = || score(vec!["x".repeat(MAX_MESSAGE_BYTES + 1)], false);
    let status = client.score(large()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let answers = client.score_stream(tokio_stream::once(large())).await;
    let answer = answers.unwrap().into_inner().next().await.unwrap();
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[tokio::test]
async fn a_person_moves_the_traffic() {
    use millrace_proto::v1::{GetModelRequest, PromoteRequest, RollbackRequest, SetTrafficRequest};
    let folder = tempfile::tempdir().unwrap();
    let live = Live {
        registry: Some(Arc::new(registry(folder.path()))),
        // The versions of this registry have no weights.
        scorer: None,
        ..live()
    };
    let mut client = ModelServiceClient::new(connect(live).await);
    let canary = SetTrafficRequest {
        version: 2,
        percent: 10,
    };
    let answer = client.set_traffic(canary).await.unwrap().into_inner();
    assert_eq!(
        (answer.champion, answer.canary, answer.canary_percent),
        (Some(3), Some(2), 10)
    );
    let answer = client
        .promote(PromoteRequest { version: 2 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.champion, answer.canary), (Some(2), None));
    let show = client
        .get_model(GetModelRequest { version: 0 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(show.model.unwrap().version, 2);
    let life: Vec<&str> = show.life.iter().map(|step| step.state.as_str()).collect();
    assert_eq!(life, ["canary 10%", "champion"]);
    let back = client
        .rollback(RollbackRequest { to: Some(3) })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(back.champion, Some(3));

    // A share is of one version, and its own alone can be taken back.
    let mut share = async |version: u64, percent: u32| {
        let request = SetTrafficRequest { version, percent };
        client.set_traffic(request).await
    };
    share(1, 20).await.unwrap();
    let status = share(2, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let message = "version 2 has no share; version 1 has 20%";
    assert!(status.message().contains(message), "{status}");
    let answer = share(2, 30).await.unwrap().into_inner();
    assert_eq!((answer.canary, answer.canary_percent), (Some(2), 30));
    let listed = client.list_models(ListModelsRequest {}).await.unwrap();
    let listed = listed.into_inner().models.into_iter();
    let states: Vec<String> = listed.map(|model| model.state).collect();
    assert_eq!(states, ["replaced", "canary 30%", "champion"]);
    // The champion has all of it, once more.
    let answer = client.promote(PromoteRequest { version: 3 }).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.champion, answer.canary), (Some(3), None));
    let shown = client.get_model(GetModelRequest { version: 2 }).await;
    let model = shown.unwrap().into_inner().model.unwrap();
    assert_eq!(model.state, "replaced");
    let nobody = SetTrafficRequest {
        version: 2,
        percent: 0,
    };
    let status = client.set_traffic(nobody).await.unwrap_err();
    assert!(status.message().contains("no version has one"), "{status}");

    let status = client
        .promote(PromoteRequest { version: 9 })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(
        status.message().contains("versions 1 to 3 are kept"),
        "{status}"
    );
    let all = SetTrafficRequest {
        version: 2,
        percent: 100,
    };
    let status = client.set_traffic(all).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let champion = SetTrafficRequest {
        version: 3,
        percent: 10,
    };
    let status = client.set_traffic(champion).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
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
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
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

/// What another project says is what it has, on a connection that was open before.
#[tokio::test]
async fn another_project_takes_over_while_calls_go_on() {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let first = live();
    let server = Server::new(first.clone()).unwrap();
    tokio::spawn(server.clone().serve(listener, std::future::pending()));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint.unwrap().connect().await.unwrap();
    let mut client = FeatureServiceClient::new(channel);
    let mut names = async || {
        let views = client.list_views(ListViewsRequest {}).await.unwrap();
        let views = views.into_inner().views.into_iter();
        views.map(|view| view.name).collect::<Vec<_>>()
    };
    assert_eq!(names().await.len(), 4);
    let mut sql = first.workspace.sql.clone();
    sql.views.retain(|file| file.path.ends_with("card.sql"));
    sql.inputs = None;
    let mut settings = first.workspace.settings.clone();
    settings.model = None;
    let workspace = Workspace::plan(&first.workspace.folder, settings, sql).unwrap();
    let second = Live {
        workspace: Arc::new(workspace),
        scorer: None,
        ..first
    };
    server.take_over(second).unwrap();
    assert_eq!(names().await, ["card_activity"]);
}

/// A view of the next project is not one that does not exist.
#[tokio::test]
async fn a_view_that_is_being_filled_says_how_far_it_is() {
    let live = live();
    live.progress.set_filling(["shop_activity".to_owned()]);
    let filled = crate::live::Filled {
        read: 1_200,
        left: Some(300),
    };
    live.progress.fill("shop_activity", filled);
    live.progress.fill("card_activity", filled);
    let mut client = FeatureServiceClient::new(connect(live.clone()).await);
    let mut said = async |view: &str| {
        let asked = ask(&[view], &[("card_id", texts(&["c1"]))], None);
        let status = client.get_features(asked).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let (code, message) = said("shop_activity").await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        message.contains("1200 are read, and 300 are left"),
        "{message}"
    );
    assert_eq!(said("shop_activities").await.0, Code::NotFound);
    live.progress.set_filling([]);
    assert_eq!(said("shop_activity").await.0, Code::NotFound);
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
