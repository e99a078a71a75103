//! The way to a server, and what its refusals mean for a command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::failure::{Failure, Outcome, with_causes};
use crate::serve::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The variable of the environment that holds the caller's token. An option would show it in the list of processes.
const TOKEN: &str = "MILLRACE_TOKEN";

/// Those that hold the names of files, in place of the options `--ca`, `--certificate` and `--key`.
const CA: &str = "MILLRACE_CA";
const CERTIFICATE: &str = "MILLRACE_CERTIFICATE";
const KEY: &str = "MILLRACE_KEY";

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

/// A server, and what a connection with it takes.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// `host:port`, or `https://host:port` where it speaks TLS.
    pub address: String,
    /// File of the authorities, PEM, one of which must have signed the server's certificate; by default those that
    /// the machine trusts.
    pub ca: Option<PathBuf>,
    /// File of the certificate, PEM, that is shown to a server which asks for one,
    pub certificate: Option<PathBuf>,
    /// and of its private key.
    pub key: Option<PathBuf>,
}

impl Server {
    /// A server with nothing but an address.
    pub fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            ..Self::default()
        }
    }

    /// With the files that the environment names, where none are named here.
    #[must_use]
    pub fn or_from_env(mut self) -> Self {
        let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
        self.ca = self.ca.or_else(|| of(CA));
        // A certificate of one place and a key of another are no pair.
        if self.certificate.is_none() && self.key.is_none() {
            (self.certificate, self.key) = (of(CERTIFICATE), of(KEY));
        }
        self
    }

    fn is_encrypted(&self) -> bool {
        self.address.starts_with("https://")
    }

    /// What TLS takes; none for a connection without.
    fn tls(&self) -> Outcome<Option<ClientTlsConfig>> {
        let files = [&self.ca, &self.certificate, &self.key];
        if !self.is_encrypted() {
            // What the environment names may be for another server.
            return Ok(None);
        }
        let mut config = ClientTlsConfig::new();
        config = match &self.ca {
            None => config.with_native_roots(),
            Some(file) => {
                tls::certificates(file)?;
                config.ca_certificate(Certificate::from_pem(read(file)?))
            }
        };
        match files {
            [_, Some(certificate), Some(key)] => {
                tls::certificates(certificate)?;
                tls::private_key(key)?;
                let identity = Identity::from_pem(read(certificate)?, read(key)?);
                Ok(Some(config.identity(identity)))
            }
            [_, None, None] => Ok(Some(config)),
            [_, certificate, _] => {
                let (given, missing) = match certificate {
                    Some(_) => ("a certificate is given without its key", "--key"),
                    None => ("a key is given without its certificate", "--certificate"),
                };
                Err(Failure::input(given).hint(format!("{missing} FILE names it")))
            }
        }
    }
}

fn read(file: &Path) -> Outcome<Vec<u8>> {
    std::fs::read(file).map_err(|e| Failure::input(format!("{}: {e}", file.display())))
}

/// Connects to a server, with the token of the environment.
///
/// # Errors
/// A text that is no address, a file that cannot be used, or a server that does not answer.
pub(super) async fn connect(server: &Server) -> Outcome<Connection> {
    let token = Token::from_env()?;
    let address = &server.address;
    let uri = match address.contains("://") {
        true => address.clone(),
        false => format!("http://{address}"),
    };
    let no_address = |reason: &str| {
        Failure::input(format!("'{address}' is no address of a server: {reason}")).hint(
            "write host:port: 127.0.0.1:7077, or https://host:port where the server speaks TLS",
        )
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| no_address(&with_causes(&error)))?;
    if let Some(failure) = half_an_address(address) {
        return Err(failure);
    }
    if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
        return Err(no_address("it begins with neither http:// nor https://"));
    }
    let mut endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    if let Some(tls) = server.tls()? {
        let wrong = |error| Failure::input(format!("TLS: {}", with_causes(&error)));
        endpoint = endpoint.tls_config(tls).map_err(wrong)?;
    }
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| no_server(server, &with_causes(&error)))?;
    Ok(InterceptedService::new(channel, token))
}

/// An address without its host, or without its port, which would lead to another server or to none.
fn half_an_address(address: &str) -> Option<Failure> {
    if address.contains("://") {
        return None;
    }
    let of_port = |port: &str| {
        Failure::input(format!("'{address}' is a port, and names no host"))
            .hint(format!("--server 127.0.0.1:{port} is this machine's"))
    };
    match address.rsplit_once(':') {
        Some(("", port)) => Some(of_port(port)),
        Some(_) => None,
        None if address.bytes().all(|byte| byte.is_ascii_digit()) => Some(of_port(address)),
        None => Some(
            Failure::input(format!("'{address}' names no port"))
                .hint(format!("--server {address}:7077 is the one by default")),
        ),
    }
}

/// What a status means for a command: the user's mistake (exit code 2) or not (1).
pub(super) fn failure(server: &Server, status: &Status) -> Failure {
    let (message, address) = (status.message(), &server.address);
    if let Some(detail) = hung_up(status) {
        return Failure::failed(format!("the server at {address} hung up: {detail}"))
            .hint(way_to(server, &detail).unwrap_or_else(|| why_hung_up(server)));
    }
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::OutOfRange => Failure::input(message),
        Code::FailedPrecondition => Failure::failed(message),
        Code::Unimplemented => Failure::failed(format!(
            "the server at {address} does not know this call: is it Millrace, and of this release?"
        ))
        .hint(LISTEN),
        Code::Unauthenticated => {
            Failure::failed(format!("the server at {address} answers: {message}"))
                .hint(format!("put a token into the environment: {TOKEN}=…"))
        }
        Code::PermissionDenied | Code::Unavailable => {
            Failure::failed(format!("the server at {address} answers: {message}"))
        }
        code => Failure::failed(format!(
            "the server at {address} answers: {code}: {message}"
        )),
    }
}

/// What a connection failed with that gave no answer; none where the status is the server's own.
fn hung_up(status: &Status) -> Option<String> {
    match std::error::Error::source(status) {
        Some(cause) => Some(with_causes(cause)),
        None => {
            let message = status.message();
            let is_ours = status.code() == Code::Cancelled || message.contains("http2 error");
            is_ours.then(|| message.to_owned())
        }
    }
}

fn no_server(server: &Server, detail: &str) -> Failure {
    let hint = way_to(server, detail);
    Failure::failed(format!(
        "no Millrace server answers at {}: {detail}",
        server.address
    ))
    .hint(
        hint.unwrap_or_else(|| match detail.contains("connection error") {
            // Somebody is there.
            true => why_hung_up(server),
            false => "start `millrace run --project …`, or name another with --server".to_owned(),
        }),
    )
}

/// What to look at, by what the connection failed with.
fn way_to(server: &Server, detail: &str) -> Option<String> {
    if detail.contains("not valid for name") {
        Some("--server must have a name that the certificate is for".to_owned())
    } else if detail.contains("invalid peer certificate") || detail.contains("native certs") {
        Some(format!(
            "--ca FILE, or {CA}, names the authority that the server's certificate is of"
        ))
    } else if detail.contains("InvalidContentType") {
        let host = server.address.trim_start_matches("https://");
        Some(format!(
            "does the server speak TLS? Without: --server {host}"
        ))
    } else {
        None
    }
}

const LISTEN: &str = "server.listen in millrace.toml is the address that answers; server.metrics is for Prometheus alone";

/// Why a server may hang up without a word. What it said of that, if anything, may be lost with the connection.
fn why_hung_up(server: &Server) -> String {
    let host = server.address.trim_start_matches("http://");
    match (server.is_encrypted(), &server.certificate) {
        (false, _) => format!("does it speak TLS? --server https://{host}; {LISTEN}"),
        (true, None) => format!(
            "does it let in only who shows a certificate? --certificate FILE --key FILE, or {CERTIFICATE} and {KEY}"
        ),
        (true, Some(_)) => {
            "is the certificate of an authority that it lets in, and was it not stopped?".to_owned()
        }
    }
}
