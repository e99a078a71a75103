//! The limit of a service: a bare tonic server that answers bytes with as many bytes as it is asked for, and does
//! nothing else.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{GrpcMethod, Request, Response, Status};
use tonic_prost::ProstCodec;

const PATH: &str = "/millrace.bench.Echo/Echo";

/// Answers with the first bytes of the request as a length: `answer_bytes` zeros.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "millrace.bench.Echo";
}

impl UnaryService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type Future = std::future::Ready<Result<Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let length = request.get_ref().first_chunk::<4>();
        let length = length.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        std::future::ready(Ok(Response::new(vec![0; length as usize])))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
            let mut grpc = Grpc::new(codec);
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

/// Serves until the runtime ends.
///
/// # Errors
/// No free port.
pub async fn serve_echo() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder()
        .add_service(Echo)
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    Ok(address)
}

/// Asks once: a request of `request_bytes`, an answer of `answer_bytes`.
///
/// # Errors
/// A server that does not answer.
pub async fn ask_echo(
    channel: &Channel,
    request_bytes: usize,
    answer_bytes: usize,
) -> Result<(), Status> {
    let mut payload = vec![0; request_bytes.max(4)];
    payload[..4].copy_from_slice(&(answer_bytes as u32).to_le_bytes());
    let mut grpc = tonic::client::Grpc::new(channel.clone())
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20);
    grpc.ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = Request::new(payload);
    request
        .extensions_mut()
        .insert(GrpcMethod::new("millrace.bench.Echo", "Echo"));
    let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
    let path = http::uri::PathAndQuery::from_static(PATH);
    let answer = grpc.unary(request, path, codec).await?;
    match answer.get_ref().len() == answer_bytes {
        true => Ok(()),
        false => Err(Status::internal("an answer of another length")),
    }
}
