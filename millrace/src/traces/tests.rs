//! Real spans of a real server and a real pipeline, to a collector in the test.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use millrace_ingest::{RowHeader, StreamBatch};
use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::{ScoreRequest, ScoreResponse};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span as Exported;
use prost_reflect::prost::Message as _;
use tonic::{Code, Response, Status as CallStatus};
use tonic_types::StatusExt;

use super::*;
use crate::live::Live;
use crate::serve::tests::{commit, live, payment, start};

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLERS_SPAN: &str = "b7ad6b7169203331";
const SCORE: &str = "millrace.v1.ScoringService/Score";

/// Takes OTLP over HTTP on a free port.
struct Collector {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
        };
        let requests = Arc::clone(&collector.requests);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let requests = Arc::clone(&requests);
                std::thread::spawn(move || {
                    let mut connection = BufReader::new(connection);
                    while let Some(body) = body(&mut connection) {
                        let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
                        requests.lock().unwrap().push(request);
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        connection.get_mut().write_all(answer).unwrap();
                    }
                });
            }
        });
        collector
    }

    fn traces(&self, sample: f64) -> Traces {
        let endpoint = Url::parse(&format!("http://{}", self.address)).unwrap();
        let settings = TraceSettings {
            endpoint: Some(endpoint),
            sample,
        };
        Traces::open(&settings).unwrap()
    }

    fn spans(&self) -> Vec<Exported> {
        let requests = self.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The only span of a name.
    fn span(&self, name: &str) -> Exported {
        let spans = self.spans();
        let mut found = spans.iter().filter(|span| span.name == name);
        let span = found
            .next()
            .unwrap_or_else(|| panic!("no {name} among {spans:#?}"));
        assert!(found.next().is_none(), "several {name}");
        span.clone()
    }
}

/// The body of the next request of a connection, which must be one of OTLP's.
fn body(connection: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = || {
        let mut line = String::new();
        let read = connection.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_ascii_lowercase())
    };
    assert_eq!(line()?, "post /v1/traces http/1.1");
    let mut length = 0;
    loop {
        let header = line()?;
        match header.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("content-type", value)) => assert_eq!(value, "application/x-protobuf"),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).ok()?;
    Some(body)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Exported, key: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    let value = found.and_then(|pair| pair.value.as_ref()?.value.clone());
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} of {}: {other:?}", span.name),
    }
}

fn traced(traces: &Traces) -> Live {
    let live = Live {
        traces: traces.clone(),
        ..live()
    };
    commit(&live, &[payment("a", "c1", 10.0, 0)]);
    live
}

async fn score(
    server: SocketAddr,
    parent: Option<&'static str>,
    event: String,
) -> Result<Response<ScoreResponse>, CallStatus> {
    let client = ScoringServiceClient::connect(format!("http://{server}"));
    let mut request = tonic::Request::new(ScoreRequest {
        event_json: vec![event],
        ..ScoreRequest::default()
    });
    if let Some(parent) = parent {
        let parent = parent.parse().unwrap();
        request.metadata_mut().insert(w3c::PARENT, parent);
        let state = "vendor=a".parse().unwrap();
        request.metadata_mut().insert(w3c::STATE, state);
    }
    client.await.unwrap().score(request).await
}

async fn flush(traces: &Traces) {
    let traces = traces.clone();
    let flushed = tokio::task::spawn_blocking(move || traces.flush());
    flushed.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_a_span_under_its_callers_and_its_parts_are_under_it() {
    let collector = Collector::start();
    let traces = collector.traces(0.0);
    let server = start(traced(&traces)).await;
    let answer = score(server, Some(CALLER), payment("b", "c1", 20.0, 5)).await;
    assert_eq!(answer.unwrap().into_inner().scores.len(), 1);
    flush(&traces).await;

    let call = collector.span(SCORE);
    assert_eq!(
        (hex(&call.trace_id), hex(&call.parent_span_id)),
        (TRACE.into(), CALLERS_SPAN.into())
    );
    assert_eq!((call.kind, call.trace_state.as_str()), (2, "vendor=a"));
    assert_eq!(call.status.clone().unwrap_or_default().code, 0);
    for (key, expected) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "millrace.v1.ScoringService"),
        ("rpc.method", "Score"),
        ("rpc.grpc.status_code", "0"),
        ("server.address", "127.0.0.1"),
    ] {
        assert_eq!(attribute(&call, key), expected);
    }
    for name in ["admission", "look-up", "model"] {
        let part = collector.span(name);
        assert_eq!(hex(&part.trace_id), TRACE);
        assert_eq!(part.parent_span_id, call.span_id, "{name}");
        assert!(part.start_time_unix_nano >= call.start_time_unix_nano);
        assert!(part.end_time_unix_nano <= call.end_time_unix_nano);
    }
    let requests = collector.requests.lock().unwrap();
    let resource = requests[0].resource_spans[0].resource.clone().unwrap();
    let name = resource
        .attributes
        .iter()
        .find(|pair| pair.key == "service.name");
    assert!(format!("{name:?}").contains("millrace"), "{name:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_beginner_of_a_trace_decides_whether_it_is_recorded() {
    const BAD: [&str; 3] = [
        "nonsense",
        "00-1-2-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    ];
    const UNRECORDED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let collector = Collector::start();
    let none = collector.traces(0.0);
    let server = start(traced(&none)).await;
    for parent in [None, Some(UNRECORDED)].into_iter().chain(BAD.map(Some)) {
        let answer = score(server, parent, payment("b", "c1", 20.0, 5)).await;
        assert!(answer.is_ok(), "{parent:?}");
    }
    flush(&none).await;
    assert_eq!(collector.spans(), []);

    // All that begin here.
    let all = collector.traces(1.0);
    let server = start(traced(&all)).await;
    for parent in [Some(UNRECORDED), None].into_iter().chain(BAD.map(Some)) {
        score(server, parent, payment("b", "c1", 20.0, 5))
            .await
            .unwrap();
    }
    flush(&all).await;
    let spans = collector.spans();
    let calls: Vec<_> = spans.iter().filter(|span| span.name == SCORE).collect();
    assert_eq!(calls.len(), 1 + BAD.len());
    for call in calls {
        assert_eq!(hex(&call.parent_span_id), "");
        assert_ne!(hex(&call.trace_id), TRACE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_names_its_trace() {
    let collector = Collector::start();
    let traces = collector.traces(0.0);
    let server = start(traced(&traces)).await;
    let wrong = score(server, Some(CALLER), "{}".into()).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let details = wrong.get_error_details();
    assert_eq!(details.request_info().unwrap().request_id, TRACE);
    // What else there is to say stays.
    assert!(!details.bad_request().unwrap().field_violations.is_empty());
    let untraced = score(server, None, "{}".into()).await.unwrap_err();
    assert!(untraced.get_error_details().request_info().is_none());
    flush(&traces).await;
    let call = collector.span(SCORE);
    // The caller's fault is not the server's.
    assert_eq!(attribute(&call, "rpc.grpc.status_code"), "3");
    assert_eq!(call.status.unwrap_or_default().code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_json_and_one_of_no_known_method_are_calls() {
    let collector = Collector::start();
    let traces = collector.traces(0.0);
    let server = start(traced(&traces)).await;
    let post = move |path: &'static str, body: String| {
        reqwest::blocking::Client::new()
            .post(format!("http://{server}/{path}"))
            .header(w3c::PARENT, CALLER)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .unwrap()
            .text()
            .unwrap()
    };
    let event = serde_json::json!({"eventJson": [payment("b", "c1", 20.0, 5)]}).to_string();
    let wrong = serde_json::json!({"eventJson": ["{}"]}).to_string();
    let answers = tokio::task::spawn_blocking(move || (post(SCORE, event), post(SCORE, wrong)));
    let (scored, wrong) = answers.await.unwrap();
    assert!(scored.contains("scores"), "{scored}");
    assert!(
        wrong.contains(&format!("\"requestId\":\"{TRACE}\"")),
        "{wrong}"
    );
    // An origin's path comes before the method's.
    let origin = format!("http://{server}/nowhere").parse().unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{server}"));
    let channel = channel.unwrap().connect().await.unwrap();
    let mut lost = ScoringServiceClient::with_origin(channel, origin);
    let mut request = tonic::Request::new(ScoreRequest::default());
    request
        .metadata_mut()
        .insert(w3c::PARENT, CALLER.parse().unwrap());
    let answer = lost.score(request).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);

    flush(&traces).await;
    let spans = collector.spans();
    let calls = spans.iter().filter(|span| span.name == SCORE);
    let codes: Vec<String> = calls
        .map(|call| attribute(call, "rpc.grpc.status_code"))
        .collect();
    assert_eq!(codes, ["0", "3"]);
    let unknown = collector.span("grpc");
    assert_eq!(attribute(&unknown, "rpc.grpc.status_code"), "12");
    assert_eq!(unknown.status.unwrap().code, 2);
}

#[test]
fn a_period_is_recorded_whatever_share_of_the_calls_is() {
    let collector = Collector::start();
    let traces = collector.traces(0.0);
    let period = traces.period(0).unwrap();
    drop(step("gate"));
    let elsewhere = carried(|| drop(step("update")));
    std::thread::spawn(elsewhere).join().unwrap();
    period.note("millrace.period.labels", 7);
    drop(period);
    drop(step("of nothing"));
    traces.flush().unwrap();
    let period = collector.span(PERIOD);
    assert_eq!(attribute(&period, "millrace.period.labels"), "7");
    assert_eq!(
        attribute(&period, "millrace.period.end"),
        "1970-01-01T00:00:00Z"
    );
    for name in ["gate", "update"] {
        assert_eq!(collector.span(name).parent_span_id, period.span_id);
    }
    assert_eq!(collector.spans().len(), 3);
}

#[test]
fn without_an_endpoint_nothing_is_made() {
    let traces = Traces::open(&TraceSettings::default()).unwrap();
    assert!(!traces.is_on() && traces.headers().is_empty());
    assert!(traces.begin(SpanKind::Server, None).is_none());
    assert!(traces.period(0).is_none());
    traces.shut_down();
}

#[test]
fn of_many_events_the_first_have_spans_and_all_are_passed_on() {
    let collector = Collector::start();
    let traces = collector.traces(0.0);
    // Every second row has a trace.
    let header = |row| RowHeader {
        row,
        name: w3c::PARENT,
        value: CALLER.into(),
    };
    let batch = StreamBatch {
        stream: 0,
        batch: RecordBatch::new_empty(Arc::new(Schema::empty())),
        origin: (0..100).map(|offset| (3, offset)).collect(),
        kafka_ts: vec![-1; 100],
        headers: (0..50).map(|number| header(2 * number)).collect(),
        deletions: Vec::new(),
    };
    let from = Origin {
        topic: "transactions",
        group: "group",
    };
    let mut events = traces.events(&batch, from);
    let under_way = events.enter();
    drop(step("look-up"));
    drop(under_way);
    let passed_on = events.send("scores").to_vec();
    events.sent();
    drop(events);
    traces.flush().unwrap();

    let rows: Vec<usize> = passed_on.iter().map(|(row, _)| *row).collect();
    assert_eq!(rows, (0..50).map(|number| 2 * number).collect::<Vec<_>>());
    let spans = collector.spans();
    for name in ["process transactions", "look-up", "send scores"] {
        let count = spans.iter().filter(|span| span.name == name).count();
        assert_eq!(count, 32, "{name}");
    }
    let sent = spans.iter().filter(|span| span.name == "send scores");
    let sent: Vec<String> = sent.map(|span| hex(&span.span_id)).collect();
    for (place, (_, context)) in passed_on.iter().enumerate() {
        assert_eq!(context.trace_id().to_string(), TRACE);
        let span = context.span_id().to_string();
        match place < 32 {
            true => assert!(sent.contains(&span)),
            false => assert_eq!(span, CALLERS_SPAN),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_there_delays_nobody() {
    // A port that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Url::parse(&format!("http://{}", silent.local_addr().unwrap())).unwrap();
    let settings = TraceSettings {
        endpoint: Some(endpoint),
        sample: 1.0,
    };
    let traces = Traces::open(&settings).unwrap();
    let server = start(traced(&traces)).await;
    let began = Instant::now();
    for _ in 0..20 {
        score(server, None, payment("b", "c1", 20.0, 5))
            .await
            .unwrap();
    }
    tokio::task::spawn_blocking(move || traces.shut_down())
        .await
        .unwrap();
    score(server, None, payment("b", "c1", 20.0, 5))
        .await
        .unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

#[cfg(feature = "embedded-broker")]
mod messages {
    //! From a producer's message to the score's, through a broker.

    use millrace_ingest::ensure_topics;
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;
    use crate::broker::EmbeddedBroker;
    use crate::run::{Role, Running};
    use crate::workspace::Workspace;

    const UNRECORDED: &str = "00-1111111111111111111111111111111a-2222222222222222-00";

    /// The example project, with its events from `broker` and its spans to `collector`.
    fn project(folder: &Path, broker: &EmbeddedBroker, collector: &Collector) -> Workspace {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fraud");
        std::fs::create_dir_all(folder.join("features")).unwrap();
        for name in [
            "sources.sql",
            "inputs.sql",
            "features/card.sql",
            "features/terminal.sql",
            "features/labels.sql",
        ] {
            std::fs::copy(example.join(name), folder.join(name)).unwrap();
        }
        let settings = format!(
            "[kafka]\nbrokers = '{}'\n[traces]\nendpoint = 'http://{}'\nsample = 0.0\n\
             [model]\ninputs = 'fraud_inputs'\nlabel = 'labels.is_fraud'",
            broker.address(),
            collector.address
        );
        std::fs::write(folder.join("millrace.toml"), settings).unwrap();
        Workspace::open(folder).unwrap()
    }

    fn produce(broker: &EmbeddedBroker, messages: &[(String, Option<&str>)]) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", broker.address().to_string())
            .create()
            .unwrap();
        for (payload, parent) in messages {
            let mut record = BaseRecord::to("transactions").key("c1").payload(payload);
            if parent.is_some() {
                let state = Header {
                    key: w3c::STATE,
                    value: Some("vendor=a"),
                };
                let parent = Header {
                    key: w3c::PARENT,
                    value: *parent,
                };
                record = record.headers(OwnedHeaders::new().insert(parent).insert(state));
            }
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(Duration::from_secs(20)).unwrap();
    }

    /// Key, `traceparent` and `tracestate` of so many scores, by key.
    fn scores(
        broker: &EmbeddedBroker,
        count: usize,
    ) -> Vec<(String, Option<String>, Option<String>)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker.address().to_string())
            .set("group.id", "reader")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        consumer.subscribe(&["scores"]).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let mut scores = Vec::new();
        while scores.len() < count && Instant::now() < until {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
                continue;
            };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let header = |name| {
                let mut headers = message.headers()?.iter();
                headers.find(|header| header.key == name)?.value.map(text)
            };
            let key = text(message.key().unwrap());
            scores.push((key, header(w3c::PARENT), header(w3c::STATE)));
        }
        assert_eq!(scores.len(), count);
        scores.sort();
        scores
    }

    #[test]
    fn a_score_goes_on_with_the_trace_of_its_events_producer() {
        let collector = Collector::start();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let broker = EmbeddedBroker::start(any_port).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let workspace = Arc::new(project(folder.path(), &broker, &collector));
        let topics = crate::run::topics(&workspace);
        ensure_topics(&broker.address().to_string(), &Default::default(), &topics).unwrap();
        produce(
            &broker,
            &[
                (payment("none", "c1", 1.0, 0), None),
                (payment("recorded", "c1", 2.0, 1), Some(CALLER)),
                ("no event".into(), Some(CALLER)),
                (payment("unrecorded", "c1", 3.0, 2), Some(UNRECORDED)),
                (payment("wrong", "c1", 4.0, 3), Some("00-nonsense-01")),
            ],
        );
        let running = Running::start(workspace, &[Role::Ingest]).unwrap();
        let scores = scores(&broker, 4);
        running.live.traces.flush().unwrap();
        // The span of an event ends after the commit, which comes after its score.
        let until = Instant::now() + Duration::from_secs(20);
        while !collector
            .spans()
            .iter()
            .any(|span| span.name == "process transactions")
        {
            assert!(Instant::now() < until, "{:#?}", collector.spans());
            std::thread::sleep(Duration::from_millis(20));
            running.live.traces.flush().unwrap();
        }
        running.stop().unwrap();

        let process = collector.span("process transactions");
        assert_eq!(
            (
                hex(&process.trace_id),
                hex(&process.parent_span_id),
                process.kind
            ),
            (TRACE.into(), CALLERS_SPAN.into(), 5)
        );
        for (key, expected) in [
            ("messaging.system", "kafka"),
            ("messaging.destination.name", "transactions"),
            ("messaging.kafka.offset", "1"),
            ("messaging.consumer.group.name", "millrace"),
        ] {
            assert_eq!(attribute(&process, key), expected);
        }
        let send = collector.span("send scores");
        assert_eq!(send.kind, 4);
        for part in [&send, &collector.span("look-up"), &collector.span("model")] {
            assert_eq!(hex(&part.trace_id), TRACE);
            assert_eq!(part.parent_span_id, process.span_id, "{}", part.name);
        }
        let score = |key: &str, parent: Option<String>| {
            let state = parent.as_ref().map(|_| "vendor=a".to_owned());
            (key.to_owned(), parent, state)
        };
        let recorded = format!("00-{TRACE}-{}-01", hex(&send.span_id));
        assert_eq!(
            scores,
            [
                score("none", None),
                score("recorded", Some(recorded)),
                score("unrecorded", Some(UNRECORDED.to_owned())),
                score("wrong", None),
            ]
        );
    }
}
