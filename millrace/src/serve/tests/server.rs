//! The server itself: its port, its end, another project, health and reflection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use millrace_proto::v1::ListViewsRequest;
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::{connect, connect_to, listen, live, start};
use crate::live::Live;
use crate::serve::{Server, bind, serve};
use crate::workspace::Workspace;

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

/// What reads of Kafka and has heard of none yet, with an empty store, is not to be sent anybody.
#[tokio::test]
async fn a_server_is_healthy_when_there_is_something_to_answer_from() {
    let live = live();
    let progress = Arc::clone(&live.progress);
    progress.set_reading();
    let mut health = HealthClient::new(connect(live).await);
    let first = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(first.into_inner().status().as_str_name(), "NOT_SERVING");
    progress.reflect("transactions", 1);
    for _ in 0..100 {
        let next = health.check(HealthCheckRequest::default()).await.unwrap();
        if next.into_inner().status().as_str_name() == "SERVING" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it is not healthy yet");
}

/// grpcio-reflection and older releases of grpcurl ask for the version before.
#[tokio::test]
async fn reflection_answers_older_clients_too() {
    use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;

    let symbol = "millrace.v1.FeatureService".to_owned();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol)),
    };
    let mut client = ServerReflectionClient::new(connect(live()).await);
    let request = tokio_stream::once(request);
    let answers = client.server_reflection_info(request).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
        panic!("{answer:?}")
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn a_port_in_use_is_said_at_once() {
    let (_first, address) = listen().await;
    let failure = bind(address).await.unwrap_err();
    assert_eq!(failure.exit_code(), 1);
    assert!(failure.hint.unwrap().contains("--listen"));
}

#[tokio::test]
async fn a_server_ends_when_it_is_told_to() {
    let (listener, address) = listen().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = serve(live(), listener, async { stopped.await.unwrap() });
    let server = tokio::spawn(server);
    let channel = connect_to(address).await;
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// They come in one piece, so that the server has read all of them before it comes to the first.
#[tokio::test]
async fn calls_that_are_taken_back_leave_the_others_of_their_connection_alone() {
    let address = start(live()).await;
    let ask = move || {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        for stream in (1..).step_by(2).take(150) {
            // POST, http and /, as HPACK's table has them, and no more to come.
            bytes.extend(frame(HEADERS, 0x5, stream, &[0x83, 0x86, 0x84]));
            bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        bytes.extend(frame(PING, 0, 0, &[0; 8]));
        let mut connection = TcpStream::connect(address).unwrap();
        let patience = Some(Duration::from_secs(10));
        connection.set_read_timeout(patience).unwrap();
        connection.write_all(&bytes).unwrap();
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).unwrap();
            let [high, middle, low, kind, flags, ..] = head;
            let length = u32::from_be_bytes([0, high, middle, low]);
            let mut payload = vec![0; length as usize];
            connection.read_exact(&mut payload).unwrap();
            let said = String::from_utf8_lossy(&payload);
            assert_ne!(kind, GOAWAY, "{said}");
            if (kind, flags) == (PING, 1) {
                return;
            }
        }
    };
    tokio::task::spawn_blocking(ask).await.unwrap();
}

/// What another project says is what it has, on a connection that was open before.
#[tokio::test]
async fn another_project_takes_over_while_calls_go_on() {
    let (listener, address) = listen().await;
    let first = live();
    let server = Server::new(first.clone()).unwrap();
    tokio::spawn(server.clone().serve(listener, std::future::pending()));
    let mut client = FeatureServiceClient::new(connect_to(address).await);
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
