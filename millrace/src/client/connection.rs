//! The way to a server, and what its refusals mean for a command.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::failure::{Failure, Outcome, with_causes};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to `host:port`.
///
/// # Errors
/// A text that is no address, or a server that does not answer.
pub(super) async fn connect(server: &str) -> Outcome<Channel> {
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
    channel.map_err(|error| no_server(server, &with_causes(&error)))
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
        code => Failure::failed(format!("the server at {server} answers: {code}: {message}")),
    }
}

fn no_server(server: &str, detail: &str) -> Failure {
    Failure::failed(format!("no Millrace server answers at {server}: {detail}"))
        .hint("start `millrace run --project …`, or name another with --server")
}
