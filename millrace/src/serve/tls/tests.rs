//! Handshakes with certificates that are made here: who is let in, and what a change of a file does.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::SocketAddr;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The PEM of a certificate for `localhost`, and of its key.
pub(crate) fn signed_by(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn settings(client_ca: bool) -> TlsSettings {
    TlsSettings {
        certificate: "server.pem".into(),
        key: "server.key".into(),
        client_ca: client_ca.then(|| "clients.pem".into()),
    }
}

fn put(folder: &TempDir, files: &[(&str, &str)]) {
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
}

fn put_server(folder: &TempDir, (certificate, key): &(String, String)) {
    put(folder, &[("server.pem", certificate), ("server.key", key)]);
}

/// Answers `!` to each client that it lets in.
async fn serve(tls: Tls) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = Box::pin(connections(Some(Arc::new(tls)), accepted(listener)));
        while let Some(Ok(mut connection)) = connections.next().await {
            let peer = connection.connect_info().caller();
            assert_eq!(peer.name(), "127.0.0.1");
            connection.write_all(b"!").await.unwrap();
            connection.shutdown().await.unwrap();
        }
    });
    address
}

/// `ok`, or why a client that trusts `trusted`, with a certificate or without, is not answered.
async fn asked(
    server: SocketAddr,
    trusted: &Authority,
    identity: Option<&(String, String)>,
) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let tcp = TcpStream::connect(server).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let answer = async {
        let mut connection = connector.connect(name, tcp).await?;
        assert_eq!(connection.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.map(|_| answer)
    };
    let answer: io::Result<String> = answer.await;
    answer
        .map(|text| assert_eq!(text, "!"))
        .map_err(|e| e.to_string())
}

#[tokio::test]
async fn a_client_trusts_the_authority_or_hangs_up() {
    let (ours, other) = (authority(), authority());
    let folder = TempDir::new().unwrap();
    put_server(&folder, &signed_by(&ours));
    let server = serve(Tls::open(&settings(false), folder.path()).unwrap()).await;
    // Who begins no handshake, and who breaks one off, hold nobody up.
    let _silent = TcpStream::connect(server).await.unwrap();
    let mut rude = TcpStream::connect(server).await.unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(asked(server, &ours, None).await, Ok(()));
    let refused = asked(server, &other, None).await.unwrap_err();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
    assert_eq!(asked(server, &ours, None).await, Ok(()));
}

#[tokio::test]
async fn a_client_shows_a_certificate_where_it_must() {
    let (ours, clients, other) = (authority(), authority(), authority());
    let folder = TempDir::new().unwrap();
    put_server(&folder, &signed_by(&ours));
    put(&folder, &[("clients.pem", &clients.pem())]);
    let server = serve(Tls::open(&settings(true), folder.path()).unwrap()).await;
    assert_eq!(
        asked(server, &ours, Some(&signed_by(&clients))).await,
        Ok(())
    );
    let refused = asked(server, &ours, None).await.unwrap_err();
    assert!(refused.contains("CertificateRequired"), "{refused}");
    let foreign = signed_by(&other);
    assert!(asked(server, &ours, Some(&foreign)).await.is_err());
    assert_eq!(
        asked(server, &ours, Some(&signed_by(&clients))).await,
        Ok(())
    );
}

/// Makes files newer by a second: within a clock's tick they would keep their time.
fn touch(folder: &TempDir, name: &str) {
    let file = File::options()
        .write(true)
        .open(folder.path().join(name))
        .unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.set_modified(time + Duration::from_secs(1)).unwrap();
}

#[tokio::test]
async fn certificates_are_read_again() {
    let (old, new) = (authority(), authority());
    let folder = TempDir::new().unwrap();
    put_server(&folder, &signed_by(&old));
    let tls = Tls::open(&settings(false), folder.path()).unwrap();
    let server = serve(tls).await;
    assert_eq!(asked(server, &old, None).await, Ok(()));
    let (certificate, key) = signed_by(&new);
    // The certificate alone does not fit the key, so the old ones stay.
    put(&folder, &[("server.pem", &certificate)]);
    touch(&folder, "server.pem");
    sleep(Duration::from_millis(1_050)).await;
    assert_eq!(asked(server, &old, None).await, Ok(()));
    put(&folder, &[("server.key", &key)]);
    touch(&folder, "server.key");
    sleep(Duration::from_millis(1_050)).await;
    assert_eq!(asked(server, &new, None).await, Ok(()));
    assert!(asked(server, &old, None).await.is_err());
}

#[test]
fn a_mistake_in_a_file_is_told() {
    let ours = authority();
    let ((certificate, key), (_, other_key)) = (signed_by(&ours), signed_by(&ours));
    let check = |file: &str, content: &str, expected: &str| {
        let folder = TempDir::new().unwrap();
        put(&folder, &[("clients.pem", &ours.pem())]);
        put_server(&folder, &(certificate.clone(), key.clone()));
        put(&folder, &[(file, content)]);
        let failure = Tls::open(&settings(true), folder.path()).err().unwrap();
        let message = failure
            .message
            .replace(&format!("{}/", folder.path().display()), "");
        assert_eq!(message, expected);
        assert_eq!(failure.exit_code(), 2);
    };
    check("server.pem", &key, "server.pem: no certificate in PEM");
    check(
        "server.pem",
        "-----BEGIN CERTIFICATE-----\n7",
        "server.pem: damaged PEM",
    );
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(
        "server.pem",
        not_der,
        "server.pem: invalid peer certificate: BadEncoding",
    );
    check(
        "server.key",
        &certificate,
        "server.key: no private key in PEM",
    );
    check(
        "server.key",
        &other_key,
        "server.key: not the key of the certificate in server.pem",
    );
    check("clients.pem", "", "clients.pem: no certificate in PEM");
    check(
        "clients.pem",
        not_der,
        "clients.pem: invalid peer certificate: BadEncoding",
    );
    let failure = Tls::open(&settings(false), Path::new("/nowhere"))
        .err()
        .unwrap();
    assert!(
        failure
            .message
            .starts_with("/nowhere/server.pem: No such file"),
        "{failure}"
    );
}
