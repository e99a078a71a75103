//! Who may call what: tokens, the scopes they carry, and the layer that asks for them.
//!
//! Access control is on where `[server.access]` names static tokens or a key set for JWTs. Then nothing but health
//! checks is answered without a valid token, and a method of which nothing is said in `scope` needs `admin`. Which
//! views a caller may read is known in a request's message alone, so the services ask [`Caller::may_read`].
//!
//! Connections and certificates are `tls`'s. How much a caller may ask for is not decided here either: the layer only
//! says who it is.

mod jwt;
mod scope;
mod signature;
#[cfg(test)]
mod tests;
mod tokens;

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures::future::Either;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, Request, Response};
use serde::Deserialize;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::reloaded::Reloaded;
use crate::failure::{Failure, Outcome};
use jwt::Jwks;
use scope::{Need, Scope, goes_on, needed_by};
use tokens::Tokens;

/// `[server.access]`: who may call. Without `tokens` and `jwks`, everybody may do everything.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessSettings {
    /// File of static tokens.
    pub tokens: Option<PathBuf>,
    /// File with the JWK set of an identity provider, whose tokens are accepted.
    pub jwks: Option<PathBuf>,
    /// The issuer (`iss`) that those must have.
    pub issuer: Option<String>,
    /// The audience (`aud`) that those must have. Without it, tokens that the provider gave out for other services are
    /// accepted too, where they have scopes of the same names.
    pub audience: Option<String>,
}

impl AccessSettings {
    /// What can be said of them without their files.
    ///
    /// # Errors
    /// Settings for JWTs without their keys.
    pub(super) fn check(&self) -> Outcome<()> {
        if self.jwks.is_some() || (self.issuer.is_none() && self.audience.is_none()) {
            return Ok(());
        }
        let message =
            "server.access: issuer and audience are of JWTs, and there are no keys for those";
        Err(Failure::input(message)
            .hint("server.access.jwks names a file with the JWK set of the identity provider"))
    }
}

/// SHA-256 of a token.
type Digest = [u8; 32];

/// Most characters of a caller's name, which is a label of metrics.
const MAX_NAME: usize = 100;

/// The tokens that are accepted.
pub struct Access {
    tokens: Option<Reloaded<Tokens>>,
    jwks: Option<Reloaded<Jwks>>,
}

impl Access {
    /// Reads the files of the settings, whose paths are relative to `folder`. None where access control is off.
    /// `views` are the ones that a token may be for.
    ///
    /// # Errors
    /// A file that cannot be read or has a mistake; settings for JWTs without their keys.
    pub fn open(
        settings: &AccessSettings,
        folder: &Path,
        views: &[String],
    ) -> Outcome<Option<Self>> {
        settings.check()?;
        let tokens = settings.tokens.as_ref().map(|path| {
            let (path, views) = (folder.join(path), views.to_vec());
            Reloaded::open("tokens", vec![path.clone()], move || {
                Tokens::read(&path, &views)
            })
        });
        let jwks = settings.jwks.as_ref().map(|path| {
            let (path, settings) = (folder.join(path), settings.clone());
            Reloaded::open("jwks", vec![path.clone()], move || {
                Jwks::read(&path, &settings)
            })
        });
        let (tokens, jwks) = (tokens.transpose()?, jwks.transpose()?);
        let is_on = tokens.is_some() || jwks.is_some();
        Ok(is_on.then_some(Self { tokens, jwks }))
    }

    /// Whose token it is, if the method at a path may be called with it.
    fn admitted(&self, token: &str, path: &str) -> Result<Arc<Caller>, Denied> {
        let caller = self.caller(token)?;
        caller.check(needed_by(path), path)?;
        Ok(caller)
    }

    /// Whose token it is.
    fn caller(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        let digest = digest(token);
        let found = self
            .tokens
            .as_ref()
            .and_then(|tokens| tokens.get().find(&digest));
        match (found, &self.jwks) {
            (Some(found), _) => found,
            (None, Some(jwks)) => jwks.get().check(token, &digest),
            (None, None) => Err(Denied::NotAToken),
        }
    }
}

fn digest(token: &str) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref());
    digest
}

/// µs since 1970. A clock that stands before it lets every token expire.
fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.ok()
        .and_then(|now| i64::try_from(now.as_micros()).ok())
        .unwrap_or(i64::MAX)
}

/// Who calls, and what they may do. Every request that has passed [`AccessLayer`] has one as `Arc<Caller>` in its
/// extensions.
#[derive(Debug)]
pub(crate) struct Caller {
    name: String,
    scopes: Vec<Scope>,
}

impl Caller {
    pub(super) fn new(name: String, scopes: Vec<Scope>) -> Self {
        let name = match name.char_indices().nth(MAX_NAME) {
            Some((end, _)) => name[..end].to_owned(),
            None => name,
        };
        Self { name, scopes }
    }

    /// Who the access control has found to call; without one, somebody who may do nothing.
    pub(super) fn of(extensions: &http::Extensions) -> Arc<Self> {
        let known = extensions.get::<Arc<Self>>().cloned();
        known.unwrap_or_else(|| Arc::new(Self::new("unknown".to_owned(), Vec::new())))
    }

    /// The token's name or subject; without a token, the peer's address. For metrics and limits.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether look-ups in a view are allowed.
    pub(crate) fn may_read(&self, view: &str) -> bool {
        self.scopes.iter().any(|scope| match scope {
            Scope::Admin | Scope::AllViews => true,
            Scope::View(name) => name == view,
            Scope::Score | Scope::ReadModels | Scope::Models => false,
        })
    }

    fn check(&self, need: Need, path: &str) -> Result<(), Denied> {
        if need.is_met_by(&self.scopes) {
            return Ok(());
        }
        Err(Denied::Scope {
            caller: self.name.clone(),
            need,
            path: path.to_owned(),
        })
    }
}

/// The other end of a connection: who calls through it without a token, by its IP address. Each request of the
/// connection has it in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Peer(Arc<Unnamed>);

#[derive(Debug)]
struct Unnamed {
    /// Where there is no access control.
    may_do_all: Arc<Caller>,
    /// Where there is.
    may_do_nothing: Arc<Caller>,
}

impl Peer {
    pub(super) fn new(address: Option<SocketAddr>) -> Self {
        let name = address.map_or_else(
            || "unknown".to_owned(),
            |address| address.ip().to_canonical().to_string(),
        );
        let caller = |scopes| Arc::new(Caller::new(name.clone(), scopes));
        Self(Arc::new(Unnamed {
            may_do_all: caller(vec![Scope::Admin]),
            may_do_nothing: caller(Vec::new()),
        }))
    }

    /// The one of a request.
    pub(super) fn of(extensions: &Extensions) -> Self {
        let known = extensions.get::<Self>().cloned();
        known.unwrap_or_else(|| Self::new(None))
    }

    /// As a caller who may do nothing: for limits.
    pub(super) fn caller(&self) -> Arc<Caller> {
        Arc::clone(&self.0.may_do_nothing)
    }

    fn name(&self) -> &str {
        self.0.may_do_nothing.name()
    }
}

/// A call that goes on after it was let in, with its token: that is looked at again, for it may have been taken back or
/// have expired since. Calls of methods that [`goes_on`] knows have one as `Arc<OpenCall>` in their extensions, where
/// access control is on.
pub(super) struct OpenCall {
    access: Arc<Access>,
    token: String,
    path: String,
    peer: Peer,
}

impl OpenCall {
    /// The one of a call; none where its token counts once.
    pub(super) fn of(extensions: &Extensions) -> Option<Arc<Self>> {
        extensions.get::<Arc<Self>>().cloned()
    }

    fn new<B>(access: Option<&Arc<Access>>, request: &Request<B>) -> Option<Arc<Self>> {
        let path = request.uri().path();
        let access = access.filter(|_| goes_on(path))?;
        Some(Arc::new(Self {
            access: Arc::clone(access),
            token: bearer(request.headers()).ok()?.to_owned(),
            path: path.to_owned(),
            peer: Peer::of(request.extensions()),
        }))
    }

    /// Who calls now.
    ///
    /// # Errors
    /// As for a new call: the token is not good any more.
    pub(super) fn caller(&self) -> Result<Arc<Caller>, Status> {
        self.access
            .admitted(&self.token, &self.path)
            .map_err(|denied| {
                note_refused(&denied, &self.peer, &self.path);
                Status::from(denied)
            })
    }
}

/// Why a call is not let in. None of the texts repeats a part of a token.
#[derive(Debug, thiserror::Error)]
enum Denied {
    /// No metadata `authorization`.
    #[error("no token: send the metadata `authorization: Bearer <token>`")]
    NoToken,
    /// It is there, and is something else.
    #[error("the metadata `authorization` is not of the form `Bearer <token>`")]
    NotBearer,
    /// It is no static token, and not of the form of a JWT if those are accepted.
    #[error("the token is not known to this server")]
    NotAToken,
    /// It is of the right form, and not valid.
    #[error("the token is not valid: {0}")]
    Token(String),
    /// It is not good for the method.
    #[error("caller '{caller}' lacks the scope {need}, which {path} needs")]
    Scope {
        caller: String,
        need: Need,
        path: String,
    },
}

impl Denied {
    fn token(reason: impl Into<String>) -> Self {
        Self::Token(reason.into())
    }

    fn code(&self) -> Code {
        match self {
            Self::NoToken | Self::NotBearer | Self::NotAToken | Self::Token(_) => {
                Code::Unauthenticated
            }
            Self::Scope { .. } => Code::PermissionDenied,
        }
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let mut status = Self::new(denied.code(), denied.to_string());
        if status.code() == Code::Unauthenticated {
            let scheme = MetadataValue::from_static("Bearer realm=\"millrace\"");
            status.metadata_mut().insert("www-authenticate", scheme);
        }
        status
    }
}

/// Lets in who may come in. It belongs around the gRPC services alone: what is translated to gRPC comes by here.
#[derive(Clone)]
pub(crate) struct AccessLayer {
    access: Option<Arc<Access>>,
}

impl AccessLayer {
    /// Without access control, every call is let in under the name of its peer's address.
    pub(crate) fn new(access: Option<Access>) -> Self {
        Self {
            access: access.map(Arc::new),
        }
    }

    /// Whether it asks for tokens.
    pub(crate) fn is_on(&self) -> bool {
        self.access.is_some()
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            access: self.access.clone(),
            inner,
        }
    }
}

/// Services behind an [`AccessLayer`].
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    access: Option<Arc<Access>>,
    inner: S,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match caller(self.access.as_deref(), &request) {
            Ok(caller) => {
                let open = OpenCall::new(self.access.as_ref(), &request);
                let extensions = request.extensions_mut();
                extensions.insert(caller);
                if let Some(open) = open {
                    extensions.insert(open);
                }
                // Nobody further in has a use for it, and what is not there is not logged.
                request.headers_mut().remove(AUTHORIZATION);
                Either::Left(self.inner.call(request))
            }
            Err(denied) => {
                let peer = Peer::of(request.extensions());
                note_refused(&denied, &peer, request.uri().path());
                Either::Right(ready(Ok(Status::from(denied).into_http())))
            }
        }
    }
}

fn caller<B>(access: Option<&Access>, request: &Request<B>) -> Result<Arc<Caller>, Denied> {
    let Some(access) = access else {
        let Peer(unnamed) = Peer::of(request.extensions());
        return Ok(Arc::clone(&unnamed.may_do_all));
    };
    let path = request.uri().path();
    let need = needed_by(path);
    if need == Need::Nothing {
        return Ok(Peer::of(request.extensions()).caller());
    }
    access.admitted(bearer(request.headers())?, path)
}

/// The token of `authorization: Bearer <token>`.
fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(Denied::NoToken),
        (Some(value), None) => value.to_str().map_err(|_| Denied::NotBearer)?,
        // Which of two a proxy has checked is not known.
        (Some(_), Some(_)) => return Err(Denied::NotBearer),
    };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Denied::NotBearer),
    }
}

fn note_refused(denied: &Denied, peer: &Peer, path: &str) {
    let status = match denied.code() {
        Code::PermissionDenied => "permission_denied",
        _ => "unauthenticated",
    };
    metrics::counter!("millrace_refused_calls_total", "status" => status).increment(1);
    tracing::debug!(
        peer = peer.name(),
        path,
        reason = %denied,
        "a call was refused"
    );
}
