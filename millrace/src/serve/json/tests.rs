//! A health service of many answers behind the layer: by calls in JSON, in gRPC, and over HTTP/1.1.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::{self, BoxStream, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use prost_reflect::prost::Message;
use serde_json::{Value, json};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::serve::admission::LimitSettings;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const MAX_BYTES: usize = 200;

/// Answers as the name of the service in the request says.
struct Answers;

#[tonic::async_trait]
impl Health for Answers {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "details" => Err(detailed()),
            "headers" => Err(Status::unauthenticated(format!(
                "{:?} {:?} {:?}",
                request.metadata().get("authorization"),
                request.metadata().get("grpc-timeout"),
                request.metadata().get("content-length"),
            ))),
            "never" => std::future::pending().await,
            _ => {
                let mut response = tonic::Response::new(serving());
                response
                    .metadata_mut()
                    .insert("x-from", "here".parse().unwrap());
                Ok(response)
            }
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let one = Ok(serving());
        let failed = Err(detailed());
        let items = match request.get_ref().service.as_str() {
            "refused" => return Err(Status::not_found("no such service")),
            "fails at once" => vec![failed],
            "fails later" => vec![one, failed],
            "empty" => vec![],
            "stays" => {
                return Ok(tonic::Response::new(
                    stream::iter([one]).chain(stream::pending()).boxed(),
                ));
            }
            _ => vec![one.clone(), one],
        };
        Ok(tonic::Response::new(stream::iter(items).boxed()))
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    }
}

fn detailed() -> Status {
    let mut details = ErrorDetails::with_bad_request_violation("service", "dull");
    details.set_retry_info(Some(Duration::from_millis(1_500)));
    Status::with_error_details(Code::Unavailable, "not now", details)
}

fn layer() -> JsonLayer {
    let mut pool = DescriptorPool::new();
    for set in [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_types::pb::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(set).unwrap();
    }
    JsonLayer::new(pool, MAX_BYTES, Gate::new(LimitSettings::default()))
}

/// The parts of an answer, its body, and its trailers.
async fn answer(
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> (http::response::Parts, Bytes, HeaderMap) {
    let mut service = layer().layer(Routes::new(HealthServer::new(Answers)));
    let request = request.body(Full::new(body.into())).unwrap();
    let (parts, body) = service.call(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (parts, body.to_bytes(), trailers)
}

fn post(path: &str) -> http::request::Builder {
    Request::post(path).header("content-type", "application/json; charset=utf-8")
}

async fn call(path: &str, body: &str) -> (u16, HeaderMap, Value) {
    let (parts, body, _) = answer(post(path), body.to_owned()).await;
    let body = serde_json::from_slice(&body).unwrap();
    (parts.status.as_u16(), parts.headers, body)
}

#[tokio::test]
async fn a_call_in_json_is_the_call_in_grpc() {
    for body in [
        "",
        " \n",
        "{}",
        r#"{"service": "any"}"#,
        r#"{"service": null}"#,
    ] {
        let (status, headers, answer) = call(CHECK, body).await;
        assert_eq!(
            (status, answer),
            (200, json!({"status": "SERVING"})),
            "{body}"
        );
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["x-from"], "here");
        assert!(
            !headers
                .keys()
                .any(|name| name.as_str().starts_with("grpc-")),
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_call_in_grpc_passes_untouched() {
    let message = HealthCheckRequest::default().encode_to_vec();
    let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    frame.extend(message);
    let grpc = || Request::post(CHECK).header("content-type", "application/grpc+proto");
    let (parts, body, trailers) = answer(grpc(), frame.clone()).await;
    assert_eq!(&body[..], [0, 0, 0, 0, 2, 8, 1]);
    assert_eq!(trailers["grpc-status"], "0");
    let mut bare = Routes::new(HealthServer::new(Answers));
    let direct = bare
        .call(grpc().body(Body::new(Full::from(frame))).unwrap())
        .await
        .unwrap();
    assert_eq!(parts.headers, *direct.headers());
}

#[tokio::test]
async fn a_method_that_is_none_is_told_the_nearest_in_grpc_too() {
    let path = "/grpc.health.v1.Health/Chek";
    let grpc = Request::post(path).header("content-type", "application/grpc");
    let (parts, body, _) = answer(grpc, "").await;
    let status = Status::from_header_map(&parts.headers).unwrap();
    assert_eq!((parts.status.as_u16(), body.len()), (200, 0));
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(
        status
            .message()
            .contains("did you mean '/grpc.health.v1.Health/Check'?"),
        "{status}"
    );
    let (_, _, json) = call(path, "{}").await;
    assert_eq!(json["message"], status.message());
}

/// tonic's encoder gives a status for a message that is too large, and the message's bytes behind it.
#[tokio::test]
async fn what_comes_behind_the_status_is_no_message() {
    let pool = layer().gateway.pool.clone();
    let output = pool.get_message_by_name("grpc.health.v1.HealthCheckResponse");
    for (status, code) in [
        (Status::out_of_range("too large"), Code::OutOfRange),
        (Status::ok(""), Code::Internal),
    ] {
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).unwrap();
        let frames = [
            http_body::Frame::trailers(trailers),
            http_body::Frame::data(Bytes::from_static(&[0; 10])),
        ];
        let frames = stream::iter(frames.map(Ok::<_, Status>));
        let messages = Messages::new(Response::new(Body::new(StreamBody::new(frames))));
        let refused = response::unary(output.clone().unwrap(), messages).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.status().code(), code, "{}", refused.status());
    }
}

#[tokio::test]
async fn what_json_gets_wrong_is_told_with_its_place() {
    let long = format!(r#"{{"service": "{}"}}"#, "x".repeat(MAX_BYTES));
    let cases = [
        (
            CHECK,
            r#"{"servce": "x"}"#,
            400,
            "invalid_argument",
            "the request: unrecognized field name 'servce' at line 1 column 9: did you mean 'service'?",
        ),
        (
            CHECK,
            r#"{"what": 1}"#,
            400,
            "invalid_argument",
            "grpc.health.v1.HealthCheckRequest has service",
        ),
        (
            CHECK,
            r#"{"service": 1}"#,
            400,
            "invalid_argument",
            "service: invalid type: integer `1`, expected a string at line 1 column 13",
        ),
        (
            CHECK,
            r#"{"service": "x""#,
            400,
            "invalid_argument",
            "the request: EOF while parsing an object at line 1 column 15",
        ),
        (
            CHECK,
            "{} {}",
            400,
            "invalid_argument",
            "the request: trailing characters at line 1 column 4",
        ),
        (
            CHECK,
            "[]",
            400,
            "invalid_argument",
            "the request: invalid type: sequence, expected a map",
        ),
        (
            CHECK,
            &long,
            413,
            "resource_exhausted",
            "larger than 200 bytes",
        ),
        (
            "/grpc.health.v1.Health/Chek",
            "{}",
            404,
            "unimplemented",
            "did you mean '/grpc.health.v1.Health/Check'?",
        ),
        (
            "/x",
            "{}",
            404,
            "unimplemented",
            "the methods are /grpc.health.v1.Health/Check, ",
        ),
        (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "{}",
            501,
            "unimplemented",
            "only gRPC",
        ),
    ];
    for (path, body, http, code, message) in cases {
        let (status, _, answer) = call(path, body).await;
        assert_eq!(
            (status, &answer["code"]),
            (http, &json!(code)),
            "{body}: {answer}"
        );
        assert!(
            answer["message"].as_str().unwrap().contains(message),
            "{body}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_large_body_is_not_read_to_its_end() {
    let mut service = layer().layer(Routes::new(HealthServer::new(Answers)));
    let bytes = || Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(b"          ")));
    let too_far = stream::once(async { Err(Status::internal("read too far")) });
    let long = stream::repeat_with(bytes).take(MAX_BYTES).chain(too_far);
    let request = post(CHECK).body(StreamBody::new(long)).unwrap();
    assert_eq!(service.call(request).await.unwrap().status(), 413);
}

/// A caller over HTTP/2 who is still sending hears of it when he has ended, or does not end.
#[tokio::test(start_paused = true)]
async fn what_is_refused_is_read_to_its_end_before() {
    let mut service = layer().layer(Routes::new(HealthServer::new(Answers)));
    for (ends, seconds) in [(true, 0), (false, 1)] {
        let (frames, body) = tokio::sync::mpsc::channel(1);
        let body = tokio_stream::wrappers::ReceiverStream::new(body);
        let request = Request::post(CHECK).version(http::Version::HTTP_2);
        let request = request.body(StreamBody::new(body)).unwrap();
        let start = Instant::now();
        let call = tokio::spawn(service.call(request));
        let frame = http_body::Frame::data(Bytes::from_static(b"{}"));
        frames.send(Ok::<_, Status>(frame)).await.unwrap();
        let sending = (!ends).then_some(frames);
        let answer = call.await.unwrap().unwrap();
        assert_eq!(
            (answer.status().as_u16(), start.elapsed().as_secs()),
            (415, seconds)
        );
        drop(sending);
    }
}

/// A body that says how many bytes are left of it, and counts those that are read.
struct Announced {
    left: usize,
    read: Arc<AtomicUsize>,
}

impl http_body::Body for Announced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let bytes = self.left.min(10);
        self.left -= bytes;
        self.read.fetch_add(bytes, Ordering::Relaxed);
        let frame = http_body::Frame::data(Bytes::from(vec![b' '; bytes]));
        Poll::Ready((bytes > 0).then_some(Ok(frame)))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left as u64)
    }
}

/// Over HTTP/1.1 the answer may come first. Over HTTP/2 curl, for one, would not show it.
#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_passed_over_in_http2() {
    let mut service = layer().layer(Routes::new(HealthServer::new(Answers)));
    for (version, expected) in [
        (http::Version::HTTP_2, MAX_BYTES + 1),
        (http::Version::HTTP_11, 0),
    ] {
        let read = Arc::new(AtomicUsize::new(0));
        let body = Announced {
            left: MAX_BYTES + 1,
            read: Arc::clone(&read),
        };
        let request = post(CHECK).version(version).body(body).unwrap();
        assert_eq!(service.call(request).await.unwrap().status(), 413);
        assert_eq!(read.load(Ordering::Relaxed), expected, "{version:?}");
    }
}

#[test]
fn places_within_lists_maps_and_enums_are_named() {
    let pool = layer().gateway.pool.clone();
    let cases = [
        (
            "google.rpc.BadRequest",
            r#"{"fieldViolations": [{}, {"feild": ""}]}"#,
            "fieldViolations[1]: unrecognized field name 'feild' at line 1 column 33: did you mean 'field'?",
        ),
        (
            "google.rpc.BadRequest",
            r#"{"field_violation": []}"#,
            "did you mean 'field_violations'?",
        ),
        (
            "google.rpc.ErrorInfo",
            r#"{"metadata": {"a": {}}}"#,
            "metadata.a: invalid type: map, expected a string",
        ),
        (
            "grpc.health.v1.HealthCheckResponse",
            r#"{"status": "SERVIN"}"#,
            "status: unrecognized enum value 'SERVIN' at line 1 column 19: did you mean 'SERVING'?",
        ),
        (
            "google.rpc.BadRequest",
            r#"{"fieldViolations": [{"#,
            "fieldViolations[0]: EOF while parsing an object",
        ),
        (
            "google.rpc.RetryInfo",
            r#"{"retryDelay": "soon"}"#,
            "retryDelay: ",
        ),
    ];
    for (message, body, expected) in cases {
        let input = pool.get_message_by_name(message).unwrap();
        let refused = request::frame(&input, body.as_bytes()).err().unwrap();
        let answer = refused.status().message().to_owned();
        assert!(answer.contains(expected), "{body}: {answer}");
        // The details say the same, the place in a field of its own.
        let details = refused.status().get_details_bad_request();
        for told in details.into_iter().flat_map(|all| all.field_violations) {
            assert_eq!(answer, format!("{}: {}", told.field, told.description));
        }
    }
    let place = |message: &str, body: &str| {
        let input = pool.get_message_by_name(message).unwrap();
        let refused = request::frame(&input, body.as_bytes()).err().unwrap();
        let details = refused.status().get_details_bad_request()?;
        Some(details.field_violations[0].field.clone())
    };
    let check = |message: &str, body: &str, expected: Option<&str>| {
        assert_eq!(place(message, body).as_deref(), expected, "{body}");
    };
    let request = "google.rpc.BadRequest";
    let wrong = r#"{"fieldViolations": [{}, {"field": 7}]}"#;
    check(request, wrong, Some("fieldViolations[1].field"));
    let twice = r#"{"fieldViolations": [{"field": "a", "field": "b"}]}"#;
    check(request, twice, Some("fieldViolations[0]"));
    check(request, "[]", None);
}

#[tokio::test]
async fn other_requests_are_told_what_works() {
    let cases = [
        (
            Request::get(CHECK).header("host", "here:1"),
            405,
            "allow",
            "POST",
            "http://here:1/grpc.health.v1.Health/Check",
        ),
        (
            Request::post(CHECK).header("content-type", "text/plain"),
            415,
            "accept",
            "application/json",
            "-H 'content-type: application/json'",
        ),
        (
            Request::post(CHECK),
            415,
            "accept",
            "application/json",
            "application/json, or gRPC",
        ),
        (
            post(CHECK).header("content-encoding", "gzip"),
            501,
            "content-type",
            "application/json",
            "uncompressed",
        ),
        (
            post(CHECK).header("connect-timeout-ms", "soon"),
            400,
            "content-type",
            "application/json",
            "no number of milliseconds",
        ),
    ];
    for (request, http, header, value, message) in cases {
        let (parts, body, _) = answer(request, "{}").await;
        assert_eq!(
            (parts.status.as_u16(), &parts.headers[header]),
            (http, &value.parse().unwrap())
        );
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert!(
            body["message"].as_str().unwrap().contains(message),
            "{body}"
        );
    }
}

/// As a call in gRPC is whose message is none: its service never sees it.
#[test]
fn what_is_no_message_of_the_method_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            for body in ["{", r#"{"services": ""}"#, r#"{"service": 7}"#] {
                assert_eq!(call(CHECK, body).await.0, 400, "{body}");
            }
            let text = Request::post(CHECK).header("content-type", "text/plain");
            answer(text, "{}").await;
            answer(Request::get(CHECK), "").await;
            // A method that there is not, and a call that its service counts.
            call("/grpc.health.v1.Health/Chek", "{}").await;
            call(CHECK, "{}").await;
        });
    });
    let scrape = handle.render();
    let counted: Vec<&str> = scrape
        .lines()
        .filter(|line| line.starts_with("millrace_requests_total{"))
        .collect();
    let count = |status: &str| {
        let line = counted.iter().find(|line| line.contains(status));
        line.and_then(|line| line.rsplit(' ').next())
    };
    assert_eq!(count("\"invalid_argument\""), Some("4"), "{scrape}");
    assert_eq!(count("\"other\""), Some("1"), "{scrape}");
    assert_eq!(counted.len(), 2, "{scrape}");
}

/// Whether a body says so before, or is found to be as it comes.
#[test]
fn a_body_that_is_too_large_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let (parts, _, _) = answer(post(CHECK), " ".repeat(MAX_BYTES + 1)).await;
            assert_eq!(parts.status, 413);
            let mut service = layer().layer(Routes::new(HealthServer::new(Answers)));
            let bytes = || Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(b"  ")));
            let unannounced = StreamBody::new(stream::repeat_with(bytes).take(MAX_BYTES));
            let request = post(CHECK).body(unannounced).unwrap();
            assert_eq!(service.call(request).await.unwrap().status(), 413);
            // As large as may be: it is read, and is no message.
            assert_eq!(call(CHECK, &"x".repeat(MAX_BYTES)).await.0, 400);
        });
    });
    let scrape = handle.render();
    let counted = r#"millrace_requests_refused_total{reason="malformed"} 2"#;
    assert!(scrape.contains(counted), "{scrape}");
}

#[tokio::test]
async fn an_error_has_its_details() {
    let (status, headers, answer) = call(CHECK, r#"{"service": "details"}"#).await;
    assert_eq!((status, &headers["retry-after"]), (503, &2.into()));
    assert_eq!(
        (&answer["code"], &answer["message"]),
        (&json!("unavailable"), &json!("not now"))
    );
    let details = answer["details"].as_array().unwrap();
    let of = |name: &str| {
        details
            .iter()
            .find(|detail| detail["type"] == name)
            .unwrap()
    };
    assert_eq!(
        of("google.rpc.RetryInfo")["debug"],
        json!({"retryDelay": "1.500s"})
    );
    let bad = of("google.rpc.BadRequest");
    let violation = json!({"field": "service", "description": "dull"});
    assert_eq!(bad["debug"], json!({"fieldViolations": [violation]}));
    assert_eq!(bad["value"], "Cg8KB3NlcnZpY2USBGR1bGw");
}

#[tokio::test]
async fn headers_and_the_timeout_pass_on() {
    let request = post(CHECK)
        .header("authorization", "Bearer x")
        .header("content-length", "22")
        .header("connect-timeout-ms", "100000000");
    let (parts, body, _) = answer(request, r#"{"service": "headers"}"#).await;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(parts.status, 401);
    assert_eq!(body["message"], r#"Some("Bearer x") Some("100000S") None"#);
}

#[tokio::test]
async fn the_time_of_a_call_ends() {
    for (path, body, http, lines) in [
        (CHECK, r#"{"service": "never"}"#, 504, 1),
        (WATCH, r#"{"service": "stays"}"#, 200, 2),
    ] {
        let (parts, body, _) = answer(post(path).header("connect-timeout-ms", "50"), body).await;
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(
            (parts.status.as_u16(), body.lines().count()),
            (http, lines),
            "{body}"
        );
        assert!(body.contains(r#""code":"deadline_exceeded""#), "{body}");
    }
}

#[tokio::test]
async fn a_stream_is_a_line_a_message() {
    let serving = json!({"status": "SERVING"});
    let cases = [
        ("two", 200, vec![Some(&serving), Some(&serving)]),
        ("empty", 200, vec![]),
        ("fails later", 200, vec![Some(&serving), None]),
        ("fails at once", 503, vec![None]),
        ("refused", 404, vec![None]),
    ];
    for (name, http, expected) in cases {
        let (parts, body, _) = answer(post(WATCH), json!({ "service": name }).to_string()).await;
        assert_eq!(parts.status, http, "{name}");
        let kind = if http == 200 {
            "application/x-ndjson"
        } else {
            "application/json"
        };
        assert_eq!(parts.headers["content-type"], kind);
        let lines = String::from_utf8(body.to_vec()).unwrap();
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, expected) in lines.iter().zip(expected) {
            match expected {
                Some(expected) => assert_eq!(line, expected),
                None if http == 200 => assert_eq!(line["error"]["code"], "unavailable"),
                None => assert!(line["code"].is_string(), "{line}"),
            }
        }
    }
}

#[tokio::test]
async fn the_index_names_methods_and_fields() {
    let (parts, body, _) = answer(Request::get("/"), "").await;
    assert_eq!(parts.status, 200);
    let index: Value = serde_json::from_slice(&body).unwrap();
    let health = &index["services"]["grpc.health.v1.Health"];
    assert_eq!(health["Check"]["path"], CHECK);
    assert_eq!(health["Watch"]["answers"], "a line of JSON a message");
    assert_eq!(
        index["messages"]["grpc.health.v1.HealthCheckRequest"],
        json!({"service": "string"})
    );
    let types: HashMap<String, String> = [
        "google.rpc.RetryInfo",
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
    ]
    .into_iter()
    .flat_map(|name| {
        let message = layer().gateway.pool.get_message_by_name(name).unwrap();
        index::fields(&message).collect::<Vec<_>>()
    })
    .collect();
    assert_eq!(types["retryDelay"], "duration such as \"1.5s\"");
    assert_eq!(types["metadata"], "object of string to string");
    assert_eq!(
        types["fieldViolations"],
        "list of google.rpc.BadRequest.FieldViolation"
    );
}

/// What a tonic server with the layer answers to the bytes of a request.
async fn over_http1(request: String) -> String {
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder()
        .accept_http1(true)
        .layer(layer())
        .add_service(HealthServer::new(Answers))
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let ask = move || {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = tokio::task::spawn_blocking(ask).await.unwrap();
    server.abort();
    answer
}

#[test]
fn a_wrong_shape_is_told_the_right_one() {
    let mut pool = DescriptorPool::new();
    let set = millrace_proto::FILE_DESCRIPTOR_SET;
    pool.decode_file_descriptor_set(set).unwrap();
    let input = pool.get_message_by_name("millrace.v1.GetFeaturesRequest");
    let keys = r#"write "keys": {"card_id": {"strings": ["42", "43"]}}"#;
    let time = r#"write "2026-03-01T12:00:00Z""#;
    for (json, right) in [
        (r#"{"keys": {"card_id": ["42"]}}"#, keys),
        (r#"{"keys": {"card_id": "42"}}"#, keys),
        (r#"{"keys": {"card_id": {"strings": "42"}}}"#, keys),
        (r#"{"keys": ["42"]}"#, keys),
        (
            r#"{"keys": {"card_id": {"string": ["42"]}}}"#,
            "did you mean 'strings'?",
        ),
        (r#"{"asOf": "2018-05-01 12:00"}"#, time),
        (r#"{"asOf": 5}"#, time),
        (r#"{"features": "card_activity"}"#, "features: invalid type"),
    ] {
        let refused = request::frame(input.as_ref().unwrap(), json.as_bytes()).unwrap_err();
        let message = refused.status().message();
        assert!(message.contains(right), "{json}: {message}");
    }
    let input = pool.get_message_by_name("millrace.v1.ScoreRequest");
    for (json, name) in [
        (r#"{"eventJson": [{"tx_id": "a"}]}"#, "eventJson"),
        (r#"{"event_json": {"tx_id": "a"}}"#, "event_json"),
        (r#"{"eventJson": ["{"tx_id": "a"}"]}"#, "eventJson"),
    ] {
        let refused = request::frame(input.as_ref().unwrap(), json.as_bytes()).unwrap_err();
        let message = refused.status().message();
        let right = format!(r#"write "{name}": ["{{\"tx_id\": \"t1\"}}"]"#);
        assert!(message.contains(&right), "{json}: {message}");
    }
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let mut pool = DescriptorPool::new();
    let set = millrace_proto::FILE_DESCRIPTOR_SET;
    pool.decode_file_descriptor_set(set).unwrap();
    let input = pool.get_message_by_name("millrace.v1.GetFeaturesRequest");
    let input = input.unwrap();
    for (json, name) in [
        (
            r#"{"features": ["a"], "features": ["b"]}"#,
            "the request: 'features' is given twice",
        ),
        (
            r#"{"keys": {"card_id": {"strings": ["1"]}, "card_id": {"strings": ["2"]}}}"#,
            "keys: 'card_id' is given twice",
        ),
        (
            r#"{"keys": {"card_id": {"strings": ["1"], "strings": ["2"]}}}"#,
            "keys.card_id: 'strings' is given twice",
        ),
        // One field by both of its names.
        (
            r#"{"asOf": "2018-05-01T12:00:00Z", "as_of": "2018-05-02T12:00:00Z"}"#,
            "'as_of' is given twice",
        ),
    ] {
        let refused = request::frame(&input, json.as_bytes()).unwrap_err();
        let status = refused.status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(name), "{json}: {status}");
    }
    // One name in two objects, and a column that is called as a field is.
    let right =
        r#"{"features": [], "keys": {"features": {"strings": []}, "keys": {"strings": []}}}"#;
    assert!(request::frame(&input, right.as_bytes()).is_ok());
}

/// gRPC's timeout on a call in JSON: tonic's own clock runs outside of the layer.
#[tokio::test]
async fn the_end_of_grpcs_timeout_is_json() {
    let body = r#"{"service": "never"}"#;
    for timeout in ["20m", "1n"] {
        let answer = over_http1(format!(
            "POST {CHECK} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ngrpc-timeout: {timeout}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        assert!(
            answer.contains(r#"{"code":"deadline_exceeded""#),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn curl_is_answered() {
    let request = |path: &str, length: usize, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let checked = over_http1(request(CHECK, 2, "{}")).await;
    assert!(checked.starts_with("HTTP/1.1 200 OK\r\n"), "{checked}");
    assert!(
        checked.ends_with("\r\n\r\n{\"status\":\"SERVING\"}"),
        "{checked}"
    );
    let watched = over_http1(request(WATCH, 0, "")).await;
    assert!(watched.contains("transfer-encoding: chunked"), "{watched}");
    // Refused by its announced length: not one byte of it is sent.
    let large = over_http1(request(CHECK, MAX_BYTES + 1, "")).await;
    assert!(large.starts_with("HTTP/1.1 413 "), "{large}");
}
