//! The way to a server, and what its refusals mean for a command.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::failure::{Failure, Outcome, with_causes};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The variable of the environment that holds the caller's token. An option would show it in the list of processes.
const TOKEN: &str = "MILLRACE_TOKEN";

/// A way to a server, on which each call has the caller's token.
pub(super) type Connection = InterceptedService<Channel, Token>;

/// The token of each call, if there is one.
#[derive(Clone)]
pub(super) struct Token(Option<MetadataValue<Ascii>>);

impl Token {
    fn from_env() -> Outcome<Self> {
        let Some(token) = std::env::var_os(TOKEN) else {
            return Ok(Self(None));
        };
        let value = token
            .to_str()
            .and_then(|token| format!("Bearer {}", token.trim()).parse().ok());
        let mut value: MetadataValue<Ascii> =
            value.ok_or_else(|| Failure::input(format!("{TOKEN}: this is no token")))?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Connects to `host:port`, with the token of the environment.
///
/// # Errors
/// A text that is no address, or a server that does not answer.
pub(super) async fn connect(server: &str) -> Outcome<Connection> {
    let token = Token::from_env()?;
    let uri = match server.contains("://") {
        true => server.to_owned(),
        false => format!("http://{server}"),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| {
        Failure::input(format!(
            "'{server}' is no address of a server: {}",
            with_causes(&error)
        ))
        .hint("write host:port: 127.0.0.1:7077")
    })?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| no_server(server, &with_causes(&error)))?;
    Ok(InterceptedService::new(channel, token))
}

/// What a status means for a command: the user's mistake (exit code 2) or not (1).
pub(super) fn failure(server: &str, status: &Status) -> Failure {
    let message = status.message();
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::OutOfRange => Failure::input(message),
        Code::FailedPrecondition => Failure::failed(message),
        Code::Unavailable => no_server(server, message),
        Code::Unimplemented => Failure::failed(format!(
            "the server at {server} does not know this call: is it Millrace, and of this release?"
        )),
        Code::Unauthenticated => {
            Failure::failed(format!("the server at {server} answers: {message}"))
                .hint(format!("put a token into the environment: {TOKEN}=…"))
        }
        code => Failure::failed(format!("the server at {server} answers: {code}: {message}")),
    }
}

fn no_server(server: &str, detail: &str) -> Failure {
    Failure::failed(format!("no Millrace server answers at {server}: {detail}"))
        .hint("start `millrace run --project …`, or name another with --server")
}
