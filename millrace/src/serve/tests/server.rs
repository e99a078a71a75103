//! The server itself: its port, its end, another project, health and reflection.

use std::sync::Arc;

use millrace_proto::v1::ListViewsRequest;
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::{connect, connect_to, listen, live};
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
