//! A server on a free port over a store in memory, asked as any client would.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use millrace_feature_store::{Commit, MemoryStore};
use millrace_features::Origin;
use millrace_ingest::JsonDecoder;
use millrace_learner::{
    Checkpoint, Device, Examples, InputKind, LearnerSettings, Manifest, Metrics, Model,
    Prequential, Registry, Update,
};
use millrace_proto::v1::{Column, GetFeaturesRequest, ScoreRequest};
use tokio::net::TcpListener;
use tonic::transport::Channel;

use super::{bind, serve, timestamp};
use crate::live::Live;
use crate::scorer::Scorer;
use crate::state::Pending;
use crate::streams::stream_specs;
use crate::traces::Traces;
use crate::workspace::Workspace;

mod look_ups;
mod messages;
mod models;
mod scoring;
mod server;
mod views;

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

/// The example project with a text among the inputs: the terminal's id, as `place`. Its folder goes with what is first.
pub(crate) fn with_a_text() -> (tempfile::TempDir, Workspace) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fraud");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("features")).unwrap();
    let views = std::fs::read_dir(example.join("features")).unwrap();
    let views = views.map(|file| Path::new("features").join(file.unwrap().file_name()));
    let others = ["millrace.toml", "sources.sql"].map(PathBuf::from);
    for file in views.chain(others) {
        std::fs::copy(example.join(&file), folder.path().join(&file)).unwrap();
    }
    let inputs = std::fs::read_to_string(example.join("inputs.sql")).unwrap();
    let inputs = inputs.replace(
        "SELECT t.amount,",
        "SELECT t.amount, t.terminal_id AS place,",
    );
    std::fs::write(folder.path().join("inputs.sql"), inputs).unwrap();
    let workspace = Workspace::open(folder.path()).unwrap();
    (folder, workspace)
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
    decode_of(live, "transactions", payments)
}

fn decode_of(live: &Live, stream: &str, messages: &[String]) -> RecordBatch {
    let spec = stream_specs(&live.workspace)
        .into_iter()
        .find(|s| s.name == stream);
    let payloads: Vec<Option<&[u8]>> = messages.iter().map(|m| Some(m.as_bytes())).collect();
    let mut decoder = JsonDecoder::new(spec.unwrap()).unwrap();
    let events = decoder.decode(&payloads, i64::MAX).unwrap().batch;
    assert_eq!(events.num_rows(), messages.len());
    events
}

/// Commits payments, as the pipeline does.
pub(crate) fn commit(live: &Live, payments: &[String]) {
    commit_to(live, "transactions", payments);
}

fn commit_to(live: &Live, stream: &str, messages: &[String]) {
    let events = decode_of(live, stream, messages);
    let zeros = vec![0; messages.len()];
    let offsets: Vec<i64> = (0..messages.len() as i64).collect();
    let origin = Origin {
        partitions: &zeros,
        offsets: &offsets,
    };
    let mut pending = Pending::default();
    for view in &live.workspace.project.views {
        if view.stream.name == stream {
            let failed = view.state_rows(&events, origin, &mut pending).unwrap();
            assert_eq!(failed, []);
        }
    }
    let mut rows = Commit::default();
    pending.drain_into(&mut rows);
    live.store.commit(rows).unwrap();
}

/// A listener on a free port, and its address.
async fn listen() -> (TcpListener, SocketAddr) {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Starts a server and gives its address.
pub(crate) async fn start(live: Live) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(serve(live, listener, std::future::pending()));
    address
}

async fn connect_to(address: SocketAddr) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    endpoint.unwrap().connect().await.unwrap()
}

async fn connect(live: Live) -> Channel {
    connect_to(start(live).await).await
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

/// Three payments of two cards within the hour after noon.
fn some_payments() -> [String; 3] {
    [
        payment("a", "c1", 10.0, 0),
        payment("b", "c1", 30.0, 50),
        payment("c", "c2", 5.0, 55),
    ]
}

fn score(event_json: Vec<String>, inputs: bool) -> ScoreRequest {
    ScoreRequest {
        event_json,
        include_inputs: inputs.then_some(true),
        ..ScoreRequest::default()
    }
}

/// A model of the project's inputs, which has learned next to nothing.
pub(crate) fn model(live: &Live) -> (Manifest, Checkpoint) {
    let plan = &live.scorer.as_ref().unwrap().plan;
    let update = small(plan.input_kinds());
    let manifest = Manifest {
        inputs: plan.input_names(),
        inputs_hash: plan.inputs_hash(),
        meanings: Vec::new(),
        ..manifest(1, None, update.metrics.after)
    };
    (manifest, update.checkpoint)
}

/// A model of inputs of these kinds, which has learned next to nothing.
fn small(kinds: Vec<InputKind>) -> Update {
    let width = kinds.len();
    let mut examples = Examples::of_kinds(kinds);
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
    millrace_learner::update(&settings, Device::Cpu, None, &examples, &empty, 0).unwrap()
}

/// Has events scored by a [`model`].
fn serve_model(live: &Live) {
    let (manifest, checkpoint) = model(live);
    let scorer = live.scorer.as_ref().unwrap();
    scorer
        .change()
        .swap(manifest, Model::new(&checkpoint))
        .unwrap();
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
        fitted_position: 17,
        seed: 0,
        code_version: "0.1.0".to_owned(),
        before: None,
        after,
        prequential: None,
        calibration: Default::default(),
        device: "cpu".to_owned(),
        offsets: BTreeMap::new(),
        settings: BTreeMap::new(),
        sha256: BTreeMap::new(),
    }
}

/// A registry of three versions of one input: 2 and 3 were both made from 1.
pub(crate) fn registry(root: &Path) -> Registry {
    let after = Metrics::of(&[0.0, 0.0], &[0.0, 1.0], &[1.0, 1.0]);
    let own = |version: u64, parent: Option<u64>| Manifest {
        inputs: vec!["amount".to_owned()],
        ..manifest(version, parent, after)
    };
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
        ..own(version, Some(1))
    };
    let checkpoint = small(vec![InputKind::Number]).checkpoint;
    let registry = Registry::open(root).unwrap();
    for manifest in [own(1, None), child(2, 0.25), child(3, 0.5)] {
        let version = manifest.version;
        assert_eq!(registry.publish(manifest, &checkpoint).unwrap(), version);
    }
    registry.set_champion(3).unwrap();
    registry
}
