//! The connections of the server, with TLS or without: certificates that are read again, and handshakes that hold
//! nobody up.
//!
//! With `client_ca`, only who shows a certificate of that authority is let in (mTLS); what they may call is still
//! decided by their tokens, in `access`.

#[cfg(test)]
pub(crate) mod tests;

use std::fs;
use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::access::Peer;
use super::reloaded::Reloaded;
use crate::failure::{Failure, Outcome, with_causes};

/// `[server.tls]`: without this section, connections are not encrypted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// File of the server's certificate, PEM, followed by those between it and the authority.
    pub certificate: PathBuf,
    /// File of the certificate's private key, PEM.
    pub key: PathBuf,
    /// File of the authorities, PEM, one of which must have signed a client's certificate. Without it, clients show
    /// none.
    pub client_ca: Option<PathBuf>,
}

/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Handshakes under way. Beyond, connections wait in the listener's queue; as each handshake ends within ten seconds,
/// so does the wait.
const MAX_HANDSHAKES: usize = 512;

/// How long no connection is accepted after one could not be, for want of file handles for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What a server speaks, the best first. Without `h2`, gRPC clients hang up.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Certificates and keys of a server.
pub struct Tls {
    config: Reloaded<ServerConfig>,
}

impl Tls {
    /// Reads the files of the settings, whose paths are relative to `folder`.
    ///
    /// # Errors
    /// A file that cannot be read, or does not hold what it should; a key that is of another certificate.
    pub fn open(settings: &TlsSettings, folder: &Path) -> Outcome<Self> {
        let settings = TlsSettings {
            certificate: folder.join(&settings.certificate),
            key: folder.join(&settings.key),
            client_ca: settings.client_ca.as_ref().map(|file| folder.join(file)),
        };
        let mut files = vec![settings.certificate.clone(), settings.key.clone()];
        files.extend(settings.client_ca.clone());
        let config = Reloaded::open("tls", files, move || read(&settings))?;
        Ok(Self { config })
    }
}

/// What a listener accepts. The stream does not end.
pub(crate) fn accepted(listener: TcpListener) -> impl Stream<Item = TcpStream> {
    stream::unfold(listener, |listener| async {
        Some((accept(&listener).await, listener))
    })
}

/// Connections to serve; with `tls`, those whose handshake has succeeded. The stream has no errors: a client that
/// breaks a handshake off is no reason to stop serving the others.
pub(crate) fn connections(
    tls: Option<Arc<Tls>>,
    accepted: impl Stream<Item = TcpStream>,
) -> impl Stream<Item = io::Result<Connection>> {
    accepted
        .map(move |tcp| {
            let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.config.get()));
            // Tasks of their own, so that signatures are made on all cores.
            tokio::spawn(open(acceptor, tcp))
        })
        .buffer_unordered(MAX_HANDSHAKES)
        .filter_map(|connection| ready(connection.ok().flatten().map(Ok)))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => return tcp,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Clients that have gone before they were accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

async fn open(acceptor: Option<TlsAcceptor>, tcp: TcpStream) -> Option<Connection> {
    // A small answer must not wait for a larger one to share its packet. It fails on a connection that has gone.
    let _ = tcp.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return Some(Connection::Plain(tcp));
    };
    let peer = tcp.peer_addr().ok();
    let reason = match timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => return Some(Connection::Tls(Box::new(stream))),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("not done in {} s", HANDSHAKE_LIMIT.as_secs()),
    };
    metrics::counter!("millrace_failed_handshakes_total").increment(1);
    tracing::debug!(?peer, reason, "a TLS handshake failed");
    None
}

/// A connection. An encrypted one tells its peer's address as one that is not encrypted does.
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        Peer::new(tcp.peer_addr().ok())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    /// To such connections h2 writes what it has copied together: on others, each message of 256 bytes and more is a
    /// system call of its own, also where eight answers are ready at once.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// A mistake in a file.
fn wrong(file: &Path, reason: impl std::fmt::Display) -> Failure {
    Failure::input(format!("{}: {reason}", file.display()))
}

fn read(settings: &TlsSettings) -> Outcome<ServerConfig> {
    // Named here, for a process may have several, and rustls then chooses none of them.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let TlsSettings {
        certificate, key, ..
    } = settings;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Failure::failed(with_causes(&e)))?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => builder.with_client_cert_verifier(client_verifier(file, provider)?),
    };
    let mut config = builder
        .with_single_cert(certificates(certificate)?, private_key(key)?)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let reason = format!(
                    "not the key of the certificate in {}",
                    certificate.display()
                );
                wrong(key, reason)
            }
            rustls::Error::InvalidCertificate(_) => wrong(certificate, error),
            _ => wrong(key, error),
        })?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// The certificates of a file.
///
/// # Errors
/// A file that cannot be read, or holds none.
pub(crate) fn certificates(file: &Path) -> Outcome<Vec<CertificateDer<'static>>> {
    let pem = fs::read(file).map_err(|e| wrong(file, e))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            let hint = "it holds a section -----BEGIN CERTIFICATE-----";
            Err(wrong(file, "no certificate in PEM").hint(hint))
        }
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(wrong(file, "damaged PEM")),
    }
}

/// The private key of a file.
///
/// # Errors
/// A file that cannot be read, or holds none. What is wrong is not told in more detail: the text of an error may
/// repeat a part of the key.
pub(crate) fn private_key(file: &Path) -> Outcome<PrivateKeyDer<'static>> {
    let pem = fs::read(file).map_err(|e| wrong(file, e))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        wrong(file, "no private key in PEM").hint(
            "it holds a section -----BEGIN PRIVATE KEY----- (or RSA, or EC), which is not encrypted",
        )
    })
}

fn client_verifier(
    file: &Path,
    provider: Arc<CryptoProvider>,
) -> Outcome<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(file)? {
        authorities.add(certificate).map_err(|e| wrong(file, e))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider)
        .build()
        .map_err(|e| wrong(file, e))
}
