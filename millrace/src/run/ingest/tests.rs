//! What a process does before there is a broker, and when one comes.

#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::*;
use crate::broker::EmbeddedBroker;
use crate::failure::Kind;
use crate::produce::RawProducer;
use crate::run::{Role, topics};
use crate::serve::tests::live;
use crate::workspace::Workspace;

/// An address that nobody listens on.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap()
}

/// The example project without its model, with a broker at an address.
fn project(folder: &Path, brokers: SocketAddr) -> Arc<Workspace> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fraud");
    std::fs::create_dir_all(folder.join("features")).unwrap();
    for name in ["sources.sql", "features/card.sql"] {
        std::fs::copy(example.join(name), folder.join(name)).unwrap();
    }
    let settings = format!("[kafka]\nbrokers = '{brokers}'\nrequest_timeout = '500ms'\n");
    std::fs::write(folder.join("millrace.toml"), settings).unwrap();
    Arc::new(Workspace::open(folder).unwrap())
}

fn entry(brokers: SocketAddr, has_events: bool) -> Entry {
    Entry {
        kafka: IngestSettings {
            brokers: brokers.to_string(),
            request_timeout: Duration::from_millis(200),
            ..IngestSettings::default()
        },
        streams: stream_specs(&live().workspace),
        offsets: Arc::new(|_, _| Ok(None)),
        witnesses: Arc::new(|_, _| Ok(Vec::new())),
        headers: &[],
        create: Vec::new(),
        plans: Vec::new(),
        has_events,
    }
}

fn within_a_minute(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn events_are_read_as_soon_as_a_broker_comes() {
    let address = nobody();
    let folder = tempfile::tempdir().unwrap();
    let workspace = project(folder.path(), address);
    let create = topics(&workspace);
    let roles = [Role::Ingest];
    let running = Running::start_with(Arc::clone(&workspace), &roles, create).unwrap();
    assert!(running.live.progress.is_blank());

    let _broker = EmbeddedBroker::start(address).unwrap();
    let kafka = &workspace.settings.kafka;
    within_a_minute("the topics are made", || {
        existing_topics(kafka, &AtomicBool::new(false))
            .is_ok_and(|all| all.contains(&"transactions".to_owned()))
    });
    let producer = RawProducer::connect(kafka).unwrap();
    let payment = r#"{"tx_id": "a", "card_id": "c", "terminal_id": "t", "amount": 1.0, "event_time": "2018-04-02T00:00:00Z"}"#;
    let sent = producer.send("transactions", Some(b"c"), payment.as_bytes());
    sent.unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
    within_a_minute("the event is read", || running.live.progress.events() == 1);
    assert!(!running.has_ended());
    running.stop().unwrap();
}

#[test]
fn a_first_start_ends_where_a_topic_is_missing() {
    let broker = EmbeddedBroker::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let workspace = project(folder.path(), broker.address());
    let running = Running::start(workspace, &[Role::Ingest]).unwrap();
    within_a_minute("it ends", || running.has_ended());
    let failure = running.stop().unwrap_err();
    assert_eq!(failure.kind, Kind::Input);
    assert!(failure.message.contains("there is no topic `"), "{failure}");
    // With events to serve it is waited for.
    let stop = AtomicBool::new(false);
    let hindrance = entry(broker.address(), true).open(&stop).err().unwrap();
    assert!(hindrance.may_pass);
    let said = hindrance.failure.to_string();
    assert!(said.contains("there is no topic `"), "{said}");
}

#[test]
fn a_broker_that_is_away_is_waited_for_until_a_stop() {
    let mut entry = entry(nobody(), false);
    let hindrance = entry.open(&AtomicBool::new(false)).err().unwrap();
    assert!(hindrance.may_pass);
    let said = hindrance.failure.to_string();
    assert!(said.contains(&entry.kafka.brokers), "{said}");
    assert!(said.contains("is Kafka up?"), "{said}");

    entry.kafka.request_timeout = Duration::from_secs(60);
    let began = Instant::now();
    let mut pipeline = Pipeline::new(live(), None).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
        })
    };
    assert!(entry.wait(&mut pipeline, &stop).unwrap().is_none());
    stopping.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn what_passes_by_itself_is_told_from_what_does_not() {
    let topic = || "t".to_owned();
    let missing = IngestError::UnknownTopic {
        topic: topic(),
        near: Vec::new(),
    };
    let refused = IngestError::CreateTopic {
        topic: topic(),
        detail: String::new(),
    };
    let same = IngestError::DuplicateTopic { topic: topic() };
    let gone = IngestError::BrokerUnreachable {
        brokers: String::new(),
        detail: String::new(),
    };
    for has_events in [false, true] {
        let entry = entry(nobody(), has_events);
        let passes = [&missing, &refused, &same, &gone].map(|error| entry.may_pass(error));
        assert_eq!(passes, [has_events, has_events, false, true]);
    }
}
