//! Tokens of an identity provider: JWTs that are signed with a key of a JWK set.
//!
//! RS256, ES256 and EdDSA (Ed25519) alone. Each key has the one algorithm that its kind names; what a token's header
//! says is compared with it and decides nothing, so that neither `none` nor HMAC with a public key as the secret can
//! be slipped in. The set is a file: fetching it is the business of who deploys.

use std::collections::HashSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use moka::sync::Cache;
use serde::Deserialize;

use super::{AccessSettings, Caller, Denied, Digest, now_us, signature};
use crate::failure::{Failure, Outcome};

/// How far the clocks of the issuer and of this machine may differ.
const LEEWAY_S: u64 = 30;

/// Longest token that is looked at. The tokens of identity providers have 1 to 2 KiB.
const MAX_BYTES: usize = 8 << 10;

/// Tokens that are known to be good. Beyond, the least used one is checked again at its next call. Only good tokens
/// come in, so nobody can push them out with bad ones.
const CACHED_TOKENS: u64 = 10_000;

/// How long a token is known to be good without its signature being checked again: that takes some 50 µs, as long as
/// the call that it is for. Its expiry is looked at in each call.
const CACHED_FOR: Duration = Duration::from_secs(60);

/// RSA keys below 2048 bits are broken, or will be.
const RSA_BYTES: RangeInclusive<usize> = 256..=1024;

/// The keys of a set, and the tokens that they have signed. A set that is read again begins with no tokens.
pub(super) struct Jwks {
    keys: Vec<Key>,
    good: Cache<Digest, Good>,
}

struct Key {
    id: Option<String>,
    public: DecodingKey,
    /// With the algorithm of this key alone.
    validation: Validation,
}

#[derive(Clone)]
struct Good {
    caller: Arc<Caller>,
    until_us: i64,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// What is read of a token, beside what `Validation` checks.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    sub: Option<String>,
    client_id: Option<String>,
    azp: Option<String>,
    scope: Option<Words>,
    scp: Option<Words>,
    scopes: Option<Words>,
}

/// Providers write scopes as one text with spaces or as a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Jwks {
    /// Reads a JWK set. Keys that sign nothing that is accepted here are passed over: sets hold some for encryption,
    /// or for other algorithms. A set without any key is right, and warned of: it takes all tokens back.
    ///
    /// # Errors
    /// A file that cannot be read or is no JWK set, a key that is damaged, two keys with one id, no key that is left of
    /// some.
    pub(super) fn read(path: &Path, settings: &AccessSettings) -> Outcome<Self> {
        signature::install();
        let wrong = |reason: String| Failure::input(format!("{}: {reason}", path.display()));
        let bytes = fs::read(path).map_err(|e| wrong(e.to_string()))?;
        let set: Set = serde_json::from_slice(&bytes).map_err(|e| {
            let (line, column) = (e.line(), e.column());
            wrong(format!("line {line}, column {column}: not a JWK set")).hint(
                "a JWK set is {\"keys\": [...]}, as the identity provider's jwks_uri gives it",
            )
        })?;
        let is_empty = set.keys.is_empty();
        let mut keys: Vec<Key> = Vec::new();
        for (index, value) in set.keys.into_iter().enumerate() {
            let key = Key::new(value, settings)
                .map_err(|reason| wrong(format!("key {}: {reason}", index + 1)))?;
            let Some(key) = key else { continue };
            if keys.iter().any(|other| other.id == key.id) {
                let reason = "another key has the same kid, or like this one has none";
                return Err(wrong(format!("key {}: {reason}", index + 1)));
            }
            keys.push(key);
        }
        if is_empty {
            tracing::warn!(
                file = %path.display(),
                "the JWK set has no keys: no token of the identity provider is good"
            );
        } else if keys.is_empty() {
            return Err(wrong(
                "no key in it is for signatures by RS256, ES256 or EdDSA".to_owned(),
            )
            .hint("public keys of kty RSA, EC with P-256, or OKP with Ed25519"));
        }
        let good = Cache::builder()
            .max_capacity(CACHED_TOKENS)
            .time_to_live(CACHED_FOR)
            .build();
        Ok(Self { keys, good })
    }

    /// Whose token it is.
    pub(super) fn check(&self, token: &str, digest: &Digest) -> Result<Arc<Caller>, Denied> {
        let good = match self.good.get(digest) {
            Some(good) => good,
            None => {
                let good = self.verified(token)?;
                self.good.insert(*digest, good.clone());
                good
            }
        };
        if good.until_us <= now_us() {
            return Err(Denied::token("it has expired"));
        }
        Ok(good.caller)
    }

    fn verified(&self, token: &str) -> Result<Good, Denied> {
        if token.len() > MAX_BYTES {
            return Err(Denied::token(format!("it has more than {MAX_BYTES} bytes")));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Denied::NotAToken)?;
        // Extensions that have to be understood: there are none that are.
        if header.crit.is_some() {
            return Err(Denied::token(
                "it has an extension (crit) that is not known",
            ));
        }
        let key = self.key(header.kid.as_deref())?;
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.public, &key.validation);
        let claims = decoded.map_err(|e| Denied::token(key.refusal(&e)))?.claims;
        Ok(Good {
            until_us: claims.until_us(),
            caller: Arc::new(claims.into_caller()),
        })
    }

    /// The key that a token names. One that names none is meant for the only key.
    fn key(&self, id: Option<&str>) -> Result<&Key, Denied> {
        match (id, self.keys.as_slice()) {
            (Some(id), keys) => keys
                .iter()
                .find(|key| key.id.as_deref() == Some(id))
                .ok_or_else(|| Denied::token("its key (kid) is not in the server's key set")),
            (None, [only]) => Ok(only),
            (None, _) => Err(Denied::token("its header names no key (kid)")),
        }
    }
}

impl Key {
    /// A key of a set; none where it signs nothing that is accepted here.
    fn new(value: serde_json::Value, settings: &AccessSettings) -> Result<Option<Self>, String> {
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| "not a JWK".to_owned())?;
        let Some(algorithm) = algorithm(&jwk) else {
            return Ok(None);
        };
        let public = DecodingKey::from_jwk(&jwk).map_err(|_| "its numbers are not base64url")?;
        if !has_right_length(algorithm, &public) {
            return Err(format!("its length is not that of a key for {algorithm:?}"));
        }
        Ok(Some(Self {
            id: jwk.common.key_id,
            public,
            validation: validation(algorithm, settings),
        }))
    }

    fn refusal(&self, error: &Error) -> String {
        let expected = |set: &Option<HashSet<String>>| {
            let first = set.iter().flatten().next();
            first.map_or_else(String::new, |name| format!(" is not '{name}'"))
        };
        match error.kind() {
            ErrorKind::ExpiredSignature => "it has expired".to_owned(),
            ErrorKind::ImmatureSignature => "it is not valid yet (nbf)".to_owned(),
            ErrorKind::InvalidSignature => "its signature is wrong".to_owned(),
            ErrorKind::InvalidAlgorithm => "its algorithm (alg) is not that of its key".to_owned(),
            ErrorKind::InvalidAudience => format!("aud{}", expected(&self.validation.aud)),
            ErrorKind::InvalidIssuer => format!("iss{}", expected(&self.validation.iss)),
            ErrorKind::MissingRequiredClaim(claim) => format!("it has no claim {claim}"),
            _ => "its claims are not understood".to_owned(),
        }
    }
}

/// The one algorithm of a key.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return None;
    }
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let said = jwk.common.key_algorithm;
    said.is_none_or(|said| said == name).then_some(algorithm)
}

fn has_right_length(algorithm: Algorithm, key: &DecodingKey) -> bool {
    match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => {
            RSA_BYTES.contains(&n.len())
        }
        // 4 for "uncompressed", and two coordinates.
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => point.len() == 65,
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => point.len() == 32,
        _ => false,
    }
}

fn validation(algorithm: Algorithm, settings: &AccessSettings) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    let mut required = vec!["exp"];
    validation.validate_aud = settings.audience.is_some();
    if let Some(audience) = &settings.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    if let Some(issuer) = &settings.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

impl Claims {
    /// When the token ends, leeway included. `Validation` refuses one that does not; the cast stops at the ends of the
    /// range.
    fn until_us(&self) -> i64 {
        self.exp
            .map_or(0, |exp| ((exp + LEEWAY_S as f64) * 1e6) as i64)
    }

    /// Scopes of other services are passed over: a token is often good for several.
    fn into_caller(self) -> Caller {
        let words = [self.scope, self.scp, self.scopes].into_iter().flatten();
        let words: Vec<String> = words.flat_map(Words::into_words).collect();
        let scopes = words.iter().filter_map(|word| word.parse().ok()).collect();
        let name = self.sub.or(self.client_id).or(self.azp);
        Caller::new(name.unwrap_or_else(|| "jwt".to_owned()), scopes)
    }
}

impl Words {
    fn into_words(self) -> Vec<String> {
        match self {
            Self::One(text) => text.split_whitespace().map(str::to_owned).collect(),
            Self::Many(words) => words,
        }
    }
}
