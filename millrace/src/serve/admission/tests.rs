//! The decisions by data, and the gate under a clock that tests move.

#![allow(clippy::unwrap_used)]

mod line;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{Full, StreamBody};
use millrace_feature_store::MemoryStore;
use millrace_features::StateReader as _;
use millrace_proto::v1::ScoreRequest;
use prost_reflect::prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower_layer::Layer;
use tower_service::Service;

use super::arrival::{Arrival, parse_timeout};
use super::*;
use crate::serve::access::Caller;
use crate::serve::elsewhere;
use crate::state::Committed;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const SERVICE: Duration = Duration::from_millis(10);
const SCORE: &str = "/millrace.v1.ScoringService/Score";
/// The score of an event.
const ONE: Job = Job {
    class: Class::Score,
    items: 1,
};

fn settings(text: &str) -> LimitSettings {
    toml::from_str(text).unwrap()
}

#[test]
fn methods_are_told_apart() {
    use Treatment::{Free, Open, Placed};
    let score = Placed(Class::Score, Items::Events);
    let feast = Placed(Class::LookUp, Items::Entities);
    for (path, expected) in [
        (SCORE, score),
        ("/millrace.v1.ScoringService/ScoreStream", Open),
        ("/millrace.v1.ModelService/WatchModels", Open),
        (
            "/millrace.v1.FeatureService/GetFeatures",
            Placed(Class::LookUp, Items::Keys),
        ),
        (
            "/millrace.v1.FeatureService/StreamFeatures",
            Placed(Class::Resolve, Items::Keys),
        ),
        ("/feast.serving.ServingService/GetOnlineFeatures", feast),
        ("/GrpcFeatureServer/GetOnlineFeatures", feast),
        ("/GrpcFeatureServer/Push", Placed(Class::Write, Items::None)),
        ("/grpc.health.v1.Health/Check", Free),
        ("/grpc.health.v1.Health/Watch", Free),
        (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            Open,
        ),
        ("/unknown/Method", Placed(Class::Other, Items::None)),
        ("", Placed(Class::Other, Items::None)),
    ] {
        assert_eq!(treatment(path), expected, "{path}");
    }
}

#[test]
fn timeouts_are_read_as_grpc_writes_them() {
    for (text, expected) in [
        ("1H", Some(3_600 * SECOND)),
        ("2M", Some(120 * SECOND)),
        ("3S", Some(3 * SECOND)),
        ("250m", Some(250 * MS)),
        ("1000u", Some(MS)),
        ("1000000n", Some(MS)),
        ("0m", Some(Duration::ZERO)),
        ("99999999H", Some(Duration::from_secs(3_600 * 99_999_999))),
        ("123456789m", None),
        ("m", None),
        ("", None),
        ("5s", None),
        ("+5m", None),
        ("-5m", None),
        ("1.5S", None),
        ("5µ", None),
    ] {
        assert_eq!(parse_timeout(text), expected, "{text}");
    }
}

#[test]
fn limits_are_settings() {
    let defaults = settings("");
    assert_eq!((defaults.queue, defaults.client_concurrency), (1_024, 256));
    assert!(defaults.places() >= 4);
    assert_eq!(settings("concurrency = 3\nmax_wait = '2s'").places(), 3);
    assert!(toml::from_str::<LimitSettings>("max_waiting = '2s'").is_err());
}

/// Services that answer after `SERVICE`, behind a gate.
fn served(text: &str) -> (Gate, impl Fn(Request<Body>) -> Answering + Clone) {
    let gate = Gate::new(settings(text));
    let service = AdmissionLayer::new(gate.clone()).layer(Slow);
    (gate, move |request| service.clone().call(request))
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

#[derive(Clone)]
struct Slow;

impl Service<Request<Body>> for Slow {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Answering {
        Box::pin(async {
            sleep(SERVICE).await;
            Ok(Response::new(Body::new("an answer".to_owned())))
        })
    }
}

fn client(name: &str) -> Arc<Caller> {
    Arc::new(Caller::new(name.to_owned(), Vec::new()))
}

fn request(path: &str, name: &str, timeout: &str) -> Request<Body> {
    let request = Request::builder().uri(path).header("grpc-timeout", timeout);
    let request = request.extension(client(name));
    request.body(Body::empty()).unwrap()
}

/// The status of an answer; one that has a body is read to its end.
async fn status(answering: Answering) -> Status {
    let response = answering.await.unwrap();
    let refused = Status::from_header_map(response.headers());
    read(&mut response.into_body()).await;
    refused.unwrap_or_else(|| Status::ok(""))
}

async fn read(body: &mut Body) {
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        frame.unwrap();
    }
}

fn counts(gate: &Gate) -> (usize, usize, usize) {
    let admission = gate.lock();
    let clients = admission.clients.values().map(|client| client.open).sum();
    (admission.in_place.all(), admission.waiting.all(), clients)
}

/// A burst of requests: of each its status, and when it had it.
async fn burst(
    call: &(impl Fn(Request<Body>) -> Answering + Clone),
    size: usize,
) -> Vec<(Status, Duration)> {
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..size {
        let answering = call(request(SCORE, "burst", "50m"));
        calls.spawn(async move { (status(answering).await, start.elapsed()) });
    }
    calls.join_all().await
}

#[tokio::test(start_paused = true)]
async fn in_a_burst_some_are_answered_in_time_and_the_rest_is_refused_at_once() {
    let (gate, call) = served("concurrency = 4\nclient_concurrency = 0");
    let cold = burst(&call, 1_000).await;
    // Before anything was measured more are let in than there is time for; none has its place for nothing.
    assert!(cold.iter().all(|(_, after)| *after <= 51 * MS));
    assert_eq!(counts(&gate), (0, 0, 0));

    let warm = burst(&call, 1_000).await;
    let (answered, refused): (Vec<_>, Vec<_>) = warm
        .iter()
        .partition(|(status, _)| status.code() == Code::Ok);
    // Four places, and four rounds of 10 ms after the first.
    assert!((16..=20).contains(&answered.len()), "{}", answered.len());
    assert!(
        answered.iter().all(|(_, after)| *after <= 50 * MS),
        "{answered:?}"
    );
    for (status, after) in refused {
        assert_eq!(
            (status.code(), *after),
            (Code::ResourceExhausted, Duration::ZERO)
        );
        let retry = status
            .get_details_retry_info()
            .unwrap()
            .retry_delay
            .unwrap();
        assert!(retry >= 30 * MS && retry <= 50 * MS, "{retry:?}");
    }
    assert_eq!(counts(&gate), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_over_its_limit_hurts_no_other() {
    let (gate, call) = served("concurrency = 4\nclient_concurrency = 3");
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        calls.spawn(status(call(request(SCORE, "greedy", "1S"))));
    }
    tokio::task::yield_now().await;
    let health = call(request("/grpc.health.v1.Health/Check", "greedy", "1S"));
    assert_eq!(counts(&gate), (3, 0, 3));
    assert_eq!(status(health).await.code(), Code::Ok);
    let start = Instant::now();
    assert_eq!(
        status(call(request(SCORE, "modest", "1S"))).await.code(),
        Code::Ok
    );
    assert!(start.elapsed() <= 11 * MS);
    let statuses = calls.join_all().await;
    let answered = statuses.iter().filter(|status| status.code() == Code::Ok);
    assert_eq!(answered.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_the_line() {
    let (gate, call) = served("concurrency = 1\nqueue = 1");
    let poll = |answering: &mut Answering| {
        let polled = answering
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    };
    let [mut first, mut second] = [(); 2].map(|()| call(request(SCORE, "a", "1S")));
    poll(&mut first);
    poll(&mut second);
    assert_eq!(counts(&gate), (1, 1, 2));
    assert_eq!(
        status(call(request(SCORE, "a", "1S"))).await.code(),
        Code::ResourceExhausted
    );
    drop(second);
    assert_eq!(counts(&gate), (1, 0, 1));
    let mut third = call(request(SCORE, "a", "1S"));
    poll(&mut third);
    // The one in place goes away too: its place is the next one's.
    drop(first);
    assert_eq!(status(third).await.code(), Code::Ok);
    assert_eq!(counts(&gate), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_while_there_is_work() {
    let (gate, call) = served("concurrency = 1\nmax_wait = '30ms'");
    // The answer is there and not read: its place is another's.
    let unread = call(request(SCORE, "a", "1S")).await.unwrap();
    assert_eq!(counts(&gate), (0, 0, 1));
    let place = gate.place(ONE, &client("b"), None).await.unwrap();
    // Health is answered, and a stream opened, without a place.
    let health = call(request("/grpc.health.v1.Health/Check", "a", "no time"));
    assert_eq!(status(health).await.code(), Code::Ok);
    let stream = call(request(
        "/millrace.v1.ScoringService/ScoreStream",
        "a",
        "1S",
    ));
    assert_eq!(status(stream).await.code(), Code::Ok);
    // The others wait, but not for ever, whatever the estimate was.
    let start = Instant::now();
    let expired = status(call(request(SCORE, "a", "25m"))).await;
    assert_eq!(
        (expired.code(), start.elapsed()),
        (Code::DeadlineExceeded, 25 * MS)
    );
    let waited = status(call(request(SCORE, "a", "1S"))).await;
    assert_eq!(
        (waited.code(), start.elapsed()),
        (Code::ResourceExhausted, 55 * MS)
    );
    drop(place);
    read(&mut unread.into_body()).await;
    assert_eq!(counts(&gate), (0, 0, 0));
    let again = status(call(request(SCORE, "a", "1S"))).await;
    assert_eq!(again.code(), Code::Ok);
    let malformed = status(call(request(SCORE, "a", "5s"))).await;
    assert_eq!(malformed.code(), Code::InvalidArgument);
    assert!(
        malformed.message().contains("'5s' is no length of time"),
        "{malformed}"
    );
    assert_eq!(counts(&gate), (0, 0, 0));
}

/// Services that work on another thread until they are told to end, and say whether that was in vain.
#[derive(Clone)]
struct Elsewhere {
    begun: mpsc::UnboundedSender<()>,
    end: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
    in_vain: mpsc::UnboundedSender<bool>,
}

impl Service<Request<Body>> for Elsewhere {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Answering {
        let service = self.clone();
        let work = move || {
            service.begun.send(()).unwrap();
            service.end.lock().unwrap().recv().unwrap();
            service.in_vain.send(is_in_vain()).unwrap();
            Ok(())
        };
        Box::pin(async {
            elsewhere(work).await.unwrap();
            Ok(Response::new(Body::empty()))
        })
    }
}

/// In vain or not, work has its place until it ends: more than there are places is not worked on at a time.
#[tokio::test]
async fn work_that_outlives_its_request_keeps_the_place() {
    let gate = Gate::new(settings("concurrency = 1"));
    let (begun, mut has_begun) = mpsc::unbounded_channel();
    let (end, ends) = std::sync::mpsc::channel();
    let (in_vain, mut was_in_vain) = mpsc::unbounded_channel();
    let service = Elsewhere {
        begun,
        end: Arc::new(Mutex::new(ends)),
        in_vain,
    };
    let service = AdmissionLayer::new(gate.clone()).layer(service);
    for goes_away in [true, false] {
        let call = tokio::spawn(service.clone().call(request(SCORE, "a", "1H")));
        has_begun.recv().await.unwrap();
        if goes_away {
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
            assert_eq!(counts(&gate), (1, 0, 0));
            end.send(()).unwrap();
        } else {
            end.send(()).unwrap();
            call.await.unwrap().unwrap();
        }
        assert_eq!(was_in_vain.recv().await, Some(goes_away));
        while counts(&gate) != (0, 0, 0) {
            sleep(MS).await;
        }
    }
}

#[tokio::test]
async fn no_answer_goes_on_for_a_request_that_has_ended() {
    let gate = Gate::new(settings(""));
    let place = gate.place(ONE, &client("a"), None).await;
    let held = Held::new(place.unwrap());
    let goes_on = || Committed(&MemoryStore::default()).go_on().is_ok();
    let at_first = held.during(async { goes_on() }).await;
    let later = held.during(async { Work::carried(goes_on) }).await;
    drop(held);
    // What is done for no request has nobody who could go away.
    assert_eq!((at_first, later(), goes_on()), (true, false, true));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_during_the_work_is_one() {
    let (gate, call) = served("concurrency = 1");
    let start = Instant::now();
    let late = status(call(request(SCORE, "a", "5m"))).await;
    assert_eq!(
        (late.code(), start.elapsed()),
        (Code::DeadlineExceeded, 5 * MS)
    );
    assert_eq!(counts(&gate), (0, 0, 0));
}

/// A request whose message comes in parts, as they are sent.
fn coming(client: &str) -> (mpsc::Sender<Result<Frame<Bytes>, Status>>, Request<Body>) {
    let (frames, body) = mpsc::channel(4);
    let body = Body::new(StreamBody::new(ReceiverStream::new(body)));
    let (parts, _) = request(SCORE, client, "1H").into_parts();
    (frames, Request::from_parts(parts, body))
}

#[tokio::test(start_paused = true)]
async fn who_has_yet_to_send_has_no_place() {
    let (gate, call) = served("concurrency = 2\nclient_concurrency = 8");
    let mut calls = JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..8 {
        let (frames, request) = coming("stalled");
        senders.push(frames);
        calls.spawn(status(call(request)));
    }
    tokio::task::yield_now().await;
    assert_eq!(counts(&gate), (0, 0, 8));
    let start = Instant::now();
    let other = status(call(request(SCORE, "b", "1S"))).await;
    assert_eq!(other.code(), Code::Ok);
    assert!(start.elapsed() <= 11 * MS);
    // One goes on to send, and is answered. The others' time ends.
    let frames = senders.pop().unwrap();
    for part in [vec![0, 0, 0], vec![0, 2], vec![7], vec![7]] {
        let frame = Frame::data(Bytes::from(part));
        frames.send(Ok(frame)).await.unwrap();
    }
    drop(frames);
    let answered = calls.join_next().await.unwrap().unwrap();
    assert_eq!(answered.code(), Code::Ok);
    let statuses = calls.join_all().await;
    assert!(start.elapsed() <= 11 * SECOND);
    for status in statuses {
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("within 10s"), "{status}");
    }
    assert_eq!((counts(&gate), gate.lock().kept), ((0, 0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large_is_refused_by_what_it_says() {
    let (gate, call) = served("concurrency = 2");
    let (frames, request) = coming("a");
    let announced = Bytes::from_static(&[0, 1, 0, 0, 1]);
    frames.send(Ok(Frame::data(announced))).await.unwrap();
    let refused = status(call(request)).await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("16777217 bytes"), "{refused}");
    assert_eq!(counts(&gate), (0, 0, 0));
}

/// tonic's encoder gives a status for a message that is too large, and the message's bytes behind it.
#[tokio::test(start_paused = true)]
async fn an_answer_ends_with_its_status() {
    let gate = Gate::new(settings(""));
    for is_read_before in [true, false] {
        let path = match is_read_before {
            true => SCORE,
            false => "/millrace.v1.ScoringService/ScoreStream",
        };
        let request = request(path, "a", "1S");
        let arrival = Arrival::of(&request, Instant::now()).unwrap();
        let (pass, _) = gate.admit(&arrival, request).await.unwrap();
        let mut trailers = HeaderMap::new();
        let status = Status::out_of_range("too large");
        status.add_header(&mut trailers).unwrap();
        let frames = [
            Frame::trailers(trailers),
            Frame::data(Bytes::from_static(b"x")),
        ];
        let frames = futures::stream::iter(frames.map(Ok::<_, Status>));
        let body = Body::new(StreamBody::new(frames));
        let mut body = pass.unwrap().answer(Response::new(body)).await.into_body();
        let mut frames = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            frames.push(frame.unwrap().is_trailers());
        }
        assert_eq!(frames, [true]);
    }
}

/// The message says of how many events it is, and so what its deadline must leave.
#[tokio::test(start_paused = true)]
async fn a_large_request_is_refused_where_a_small_one_has_the_time() {
    let (gate, call) = served("concurrency = 1\nmax_wait = '1s'");
    for (items, services) in [(1, 1), (1_000, 100)] {
        let job = Job { items, ..ONE };
        let held = services * SERVICE;
        gate.lock().service.note(job, held, Duration::ZERO);
    }
    let place = gate.place(ONE, &client("b"), None).await.unwrap();
    let of = |events: usize| {
        let message = ScoreRequest {
            event_json: vec!["{}".to_owned(); events],
            ..ScoreRequest::default()
        };
        let mut body = vec![0];
        body.extend((message.encoded_len() as u32).to_be_bytes());
        message.encode(&mut body).unwrap();
        let (parts, _) = request(SCORE, "a", "500m").into_parts();
        let body = Body::new(Full::new(Bytes::from(body)));
        status(call(Request::from_parts(parts, body)))
    };
    let until_later = async {
        sleep(SERVICE).await;
        drop(place);
    };
    let (small, middling, large, ()) = tokio::join!(of(1), of(300), of(1_000), until_later);
    assert_eq!((small.code(), middling.code()), (Code::Ok, Code::Ok));
    assert_eq!(large.code(), Code::ResourceExhausted);
    assert!(large.message().contains("1.0s of work"), "{large}");
}

/// What waits for a place is counted, where it is more than a little.
#[tokio::test(start_paused = true)]
async fn the_bytes_of_requests_in_line_are_counted() {
    let (gate, call) = served("concurrency = 1\nbuffer_bytes = 1000000");
    let place = gate.place(ONE, &client("b"), None).await.unwrap();
    let mut calls: Vec<Answering> = (0..3)
        .map(|_| {
            let (parts, _) = request(SCORE, "a", "1S").into_parts();
            let body = Body::new(Full::new(Bytes::from(vec![0; 100_000])));
            call(Request::from_parts(parts, body))
        })
        .collect();
    let mut polled = calls.iter_mut().map(|answering| {
        let context = &mut Context::from_waker(Waker::noop());
        answering.as_mut().poll(context).is_pending()
    });
    // A quarter of all has room for two.
    let is_waiting = [(); 3].map(|()| polled.next());
    assert_eq!(is_waiting, [Some(true), Some(true), Some(false)]);
    assert!(gate.lock().kept > 200_000);
    drop(place);
    drop(calls);
    assert_eq!((counts(&gate), gate.lock().kept), ((0, 0, 0), 0));
}
