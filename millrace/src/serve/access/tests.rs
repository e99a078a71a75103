//! Access by data: what is written in files, what is called with which token, and what comes of it.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::fs::{self, File};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const SCORE: &str = "/millrace.v1.ScoringService/Score";

/// The service behind the layer: it answers with the caller and what is left open, and has to find no token.
#[derive(Clone)]
struct Echo;

impl Service<Request<()>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(!request.headers().contains_key(AUTHORIZATION));
        let mut response = Response::new(Body::empty());
        let extensions = response.extensions_mut();
        extensions.insert(request.extensions().get::<Arc<Caller>>().unwrap().clone());
        if let Some(open) = OpenCall::of(request.extensions()) {
            extensions.insert(open);
        }
        ready(Ok(response))
    }
}

fn open(settings: &str, folder: &Path) -> Outcome<Option<AccessLayer>> {
    let settings = toml::from_str(settings).unwrap();
    let views = ["card", "card_activity", "v"].map(str::to_owned);
    Access::open(&settings, folder, &views)
        .map(|access| access.map(|on| AccessLayer::new(Some(on))))
}

/// A layer over files of these names and contents.
fn layer(settings: &str, files: &[(&str, &str)]) -> (TempDir, AccessLayer) {
    let folder = TempDir::new().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let layer = open(settings, folder.path()).unwrap().unwrap();
    (folder, layer)
}

/// The caller's name, or the status and its text.
fn called(layer: &AccessLayer, path: &str, authorization: &[&str]) -> String {
    let mut request = Request::builder().uri(path);
    for value in authorization {
        request = request.header(AUTHORIZATION, *value);
    }
    let request = request.body(()).unwrap();
    let response = layer
        .layer(Echo)
        .call(request)
        .now_or_never()
        .unwrap()
        .unwrap();
    match Status::from_header_map(response.headers()) {
        Some(status) => format!("{:?}: {}", status.code(), status.message()),
        None => response
            .extensions()
            .get::<Arc<Caller>>()
            .unwrap()
            .name
            .clone(),
    }
}

fn with_token(layer: &AccessLayer, path: &str, token: &str) -> String {
    called(layer, path, &[&format!("Bearer {token}")])
}

fn hash(token: &str) -> String {
    digest(token)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn entry(name: &str, token: &str, scopes: &str) -> String {
    let sha256 = hash(token);
    format!("[[token]]\nname = '{name}'\nsha256 = '{sha256}'\nscopes = [{scopes}]\n")
}

#[test]
fn a_scope_is_known_or_its_nearest_is_named() {
    let check = |text: &str, expected: &str| {
        let said = match text.parse::<Scope>() {
            Ok(scope) => format!("{scope:?}"),
            Err(reason) => reason,
        };
        assert_eq!(said, expected, "{text}");
    };
    check("features", "AllViews");
    check("features:card_activity", "View(\"card_activity\")");
    check("models:read", "ReadModels");
    check("scor", "there is no scope 'scor': did you mean 'score'?");
    check("Admin", "there is no scope 'Admin': did you mean 'admin'?");
    check(
        "model:read",
        "there is no scope 'model:read': did you mean 'models:read'?",
    );
    check(
        "feature:card",
        "there is no scope 'feature:card': did you mean 'features:card'?",
    );
    check("features:", "'features:' lacks the view's name");
    check(
        "openid",
        "there is no scope 'openid': there are features, features:<view>, score, models:read, models and admin",
    );
}

#[test]
fn a_method_asks_for_its_scope() {
    let all = [
        "features",
        "features:v",
        "score",
        "models:read",
        "models",
        "admin",
    ];
    // Who may call: one letter a scope of `all`.
    let check = |path: &str, expected: &str| {
        let allowed = |scope: &&str| {
            let caller = Caller::new(String::new(), vec![scope.parse().unwrap()]);
            caller.check(needed_by(path), path).is_ok()
        };
        let letters = all.iter().zip("fvsrma".chars());
        let allowed: String = letters
            .filter(|(s, _)| allowed(s))
            .map(|(_, c)| c)
            .collect();
        assert_eq!(allowed, expected, "{path}");
    };
    check("/millrace.v1.FeatureService/GetFeatures", "fva");
    check(SCORE, "sa");
    check("/millrace.v1.ModelService/ListModels", "rma");
    check("/millrace.v1.ModelService/GetModel", "rma");
    check("/millrace.v1.ModelService/Promote", "ma");
    check("/feast.serving.ServingService/GetOnlineFeatures", "fva");
    check("/GrpcFeatureServer/GetOnlineFeatures", "fva");
    check("/GrpcFeatureServer/Push", "a");
    check("/GrpcFeatureServer/WriteToOnlineStore", "a");
    check(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "fvsrma",
    );
    check("/grpc.health.v1.Health/Check", "fvsrma");
    check("/millrace.v2.FeatureService/GetFeatures", "a");
    check("//millrace.v1.ScoringService/Score", "a");
    check("/grpc.health.v1.HealthToo/Check", "a");
    check("/", "a");
}

#[test]
fn a_view_is_read_by_who_may() {
    let check = |scope: &str, view: &str, expected: bool| {
        let caller = Caller::new("x".to_owned(), vec![scope.parse().unwrap()]);
        assert_eq!(caller.may_read(view), expected, "{scope} {view}");
    };
    check("features", "card", true);
    check("features:card", "card", true);
    check("features:card", "card_activity", false);
    check("features:card_activity", "card", false);
    check("score", "card", false);
    check("admin", "card", true);
}

#[test]
fn a_call_is_let_in_by_its_token() {
    let expired = format!(
        "{}expires = '2020-01-01T00:00:00Z'\n",
        entry("old", "gone", "'admin'")
    );
    let ends = format!(
        "{}expires = 2999-01-01T00:00:00Z\n",
        entry("new", "ends", "'score'")
    );
    let files = [
        entry("scorer", "s3cret", "'score', 'features:card'"),
        expired,
        ends,
    ]
    .concat();
    let (_folder, layer) = layer("tokens = 't.toml'", &[("t.toml", &files)]);
    let check = |path: &str, authorization: &[&str], expected: &str| {
        assert_eq!(
            called(&layer, path, authorization),
            expected,
            "{path} {authorization:?}"
        );
    };
    let models = "/millrace.v1.ModelService/ListModels";
    check(SCORE, &["Bearer s3cret"], "scorer");
    check(SCORE, &["bearer s3cret"], "scorer");
    check(
        "/millrace.v1.FeatureService/ListViews",
        &["Bearer s3cret"],
        "scorer",
    );
    check(SCORE, &["Bearer ends"], "new");
    check("/grpc.health.v1.Health/Watch", &[], "unknown");
    check(
        SCORE,
        &[],
        "Unauthenticated: no token: send the metadata `authorization: Bearer <token>`",
    );
    let form = "Unauthenticated: the metadata `authorization` is not of the form `Bearer <token>`";
    check(SCORE, &["s3cret"], form);
    check(SCORE, &["Basic s3cret"], form);
    check(SCORE, &["Bearer s3cret", "Bearer other"], form);
    let unknown = "Unauthenticated: the token is not known to this server";
    check(SCORE, &["Bearer S3cret"], unknown);
    check(SCORE, &["Bearer "], unknown);
    check(SCORE, &[&format!("Bearer {}", hash("s3cret"))], unknown);
    check(
        SCORE,
        &["Bearer gone"],
        "Unauthenticated: the token is not valid: it has expired",
    );
    check(
        models,
        &["Bearer s3cret"],
        "PermissionDenied: caller 'scorer' lacks the scope 'models:read', which \
         /millrace.v1.ModelService/ListModels needs",
    );
}

#[test]
fn without_access_control_everybody_may_do_everything() {
    assert!(open("", Path::new("/nowhere")).unwrap().is_none());
    let layer = AccessLayer::new(None);
    let mut request = Request::builder().uri("/any/Thing").body(()).unwrap();
    let peer = Peer::new(Some(([192, 0, 2, 7], 999).into()));
    request.extensions_mut().insert(peer);
    let response = layer
        .layer(Echo)
        .call(request)
        .now_or_never()
        .unwrap()
        .unwrap();
    let caller = response.extensions().get::<Arc<Caller>>().unwrap();
    assert_eq!(
        (caller.name.as_str(), caller.may_read("v")),
        ("192.0.2.7", true)
    );
}

/// Each is told where it is, and none repeats what stands there.
#[test]
fn a_mistake_in_a_file_is_told() {
    let secret = hash("x");
    let check = |content: &str, expected: &str| {
        let content = content.replace('#', &secret);
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("t.toml"), content).unwrap();
        let failure = open("tokens = 't.toml'", folder.path()).err().unwrap();
        let message = failure
            .message
            .replace(&format!("{}/", folder.path().display()), "");
        assert_eq!(message, expected);
        assert!(
            !failure.to_string().contains(&secret) && !format!("{failure:?}").contains(&secret)
        );
    };
    let one = "[[token]]\nname = 'a'\nsha256 = '#'\nscopes = ['score']\n";
    check(
        &one.replace("'#'", "'#0'"),
        "t.toml: token 1 ('a'): sha256 is not 64 hexadecimal digits",
    );
    check(
        &one.replace("'a'", "''"),
        "t.toml: token 1 (''): has no name",
    );
    check(
        &one.replace("'score'", ""),
        "t.toml: token 1 ('a'): has no scopes, and is good for nothing",
    );
    check(
        &one.replace("score", "scores"),
        "t.toml: token 1 ('a'): there is no scope 'scores': did you mean 'score'?",
    );
    check(
        &one.replace("score", "features:card_activty"),
        "t.toml: token 1 ('a'): scope 'features:card_activty' names no view of the project: did you mean \
         'features:card_activity'?",
    );
    check(
        &one.replace("score", "features:shop"),
        "t.toml: token 1 ('a'): scope 'features:shop' names no view of the project: its views are card, \
         card_activity, v",
    );
    check(
        &[one, &one.replace("'a'", "'b'")].concat(),
        "t.toml: token 2 ('b'): has the same sha256 as the one of 'a'",
    );
    check(
        &format!("{one}expires = 'soon'"),
        "t.toml: token 1 ('a'): expires: 'soon' is not a time: write 2026-03-01T12:00:00Z or '2026-03-01 12:00:00' \
         (UTC)",
    );
    check(
        &one.replace("'#'", "#"),
        "t.toml: line 3: string values must be quoted, expected literal string",
    );
    check(
        &one.replace("['score']", "'#'"),
        "t.toml: line 4: expected a sequence",
    );
    check("# = 'a'", "t.toml: line 1: expected `token`");
    check("token = '#'", "t.toml: line 1: expected a sequence");
    check(
        &one.replace("scopes", "scope"),
        "t.toml: line 4: expected one of `name`, `sha256`, `scopes`, `expires`",
    );
    check(
        &one.replace("sha256 = '#'\n", ""),
        "t.toml: line 1: missing field `sha256`",
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let check = |settings: &str, expected: &str| {
        let failure = open(settings, Path::new("/nowhere")).err().unwrap();
        assert!(failure.message.starts_with(expected), "{failure}");
    };
    check("tokens = 't.toml'", "/nowhere/t.toml: No such file");
    check("jwks = 'k.json'", "/nowhere/k.json: No such file");
    check(
        "audience = 'millrace'",
        "server.access: issuer and audience are of JWTs",
    );
}

/// Gives a file a new content and a new time: within a clock's tick it would keep the old one.
fn rewrite(path: &Path, content: &str) {
    let old = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, content).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(old + Duration::from_secs(1)).unwrap();
}

#[test]
fn tokens_are_read_again() {
    let old = entry("scorer", "old", "'score'");
    let (folder, layer) = layer("tokens = 't.toml'", &[("t.toml", &old)]);
    let path = folder.path().join("t.toml");
    let callers = |expected: [&str; 2]| {
        let access = layer.access.as_ref().unwrap();
        access.tokens.as_ref().unwrap().look();
        let said = ["old", "new"].map(|token| with_token(&layer, SCORE, token));
        assert_eq!(said, expected);
    };
    let unknown = "Unauthenticated: the token is not known to this server";
    callers(["scorer", unknown]);
    rewrite(&path, &[&*old, &entry("other", "new", "'score'")].concat());
    callers(["scorer", "other"]);
    rewrite(&path, "[[token");
    callers(["scorer", "other"]);
    // A file that is wrong is read each time, whatever its time and length say.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "#[token").unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    callers([unknown, unknown]);
    rewrite(&path, &old);
    callers(["scorer", unknown]);
    fs::remove_file(&path).unwrap();
    callers(["scorer", unknown]);
}

#[test]
fn an_open_stream_ends_with_its_token() {
    let old = entry("scorer", "old", "'score'");
    let (folder, layer) = layer("tokens = 't.toml'", &[("t.toml", &old)]);
    let open = |path: &str| {
        let request = Request::builder().uri(path);
        let request = request
            .header(AUTHORIZATION, "Bearer old")
            .body(())
            .unwrap();
        let response = layer.layer(Echo).call(request).now_or_never().unwrap();
        OpenCall::of(response.unwrap().extensions())
    };
    assert!(open(SCORE).is_none());
    let call = open("/millrace.v1.ScoringService/ScoreStream").unwrap();
    let check = |expected: &str| {
        let access = layer.access.as_ref().unwrap();
        access.tokens.as_ref().unwrap().look();
        let said = match call.caller() {
            Ok(caller) => caller.name.clone(),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        assert_eq!(said, expected);
    };
    let path = folder.path().join("t.toml");
    check("scorer");
    rewrite(&path, &entry("renamed", "old", "'score'"));
    check("renamed");
    rewrite(&path, &entry("scorer", "old", "'models'"));
    check(
        "PermissionDenied: caller 'scorer' lacks the scope 'score', which \
         /millrace.v1.ScoringService/ScoreStream needs",
    );
    rewrite(&path, "");
    check("Unauthenticated: the token is not known to this server");
    rewrite(&path, &old);
    check("scorer");
}

/// What an identity provider has.
struct Issuer {
    p256: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let p256 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            p256: EcdsaKeyPair::from_pkcs8(algorithm, p256.as_ref(), &random).unwrap(),
            ed25519: Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).unwrap(),
        }
    }

    fn keys(&self) -> String {
        let (x, y) = self.p256.public_key().as_ref()[1..].split_at(32);
        let okp = encoded(self.ed25519.public_key().as_ref());
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": encoded(x), "y": encoded(y)},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": okp},
            {"kty": "RSA", "kid": "rsa", "alg": "RS256", "n": RSA_MODULUS, "e": "AQAB"},
            {"kty": "RSA", "kid": "for encryption", "use": "enc", "n": RSA_MODULUS, "e": "AQAB"},
            {"kty": "oct", "kid": "secret", "k": encoded(b"secret")},
            {"kty": "of tomorrow", "kid": "new"},
        ]})
        .to_string()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let parts = [header, claims].map(|part| encoded(part.to_string().as_bytes()));
        let message = parts.join(".");
        let signature = match header["kid"].as_str() {
            Some("ed") => self.ed25519.sign(message.as_bytes()).as_ref().to_vec(),
            _ => {
                let signed = self.p256.sign(&SystemRandom::new(), message.as_bytes());
                signed.unwrap().as_ref().to_vec()
            }
        };
        format!("{message}.{}", encoded(&signature))
    }

    /// A token that is good, but for what is changed in its claims.
    fn token(&self, changes: Value) -> String {
        let mut claims = json!({
            "sub": "bob", "iss": "https://id", "aud": ["other", "millrace"], "exp": now_s() + 60,
            "scope": "openid score",
        });
        for (claim, value) in changes.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        self.sign(&json!({"alg": "ES256", "kid": "ec"}), &claims)
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now_s() -> i64 {
    now_us() / 1_000_000
}

const JWTS: &str = "jwks = 'k.json'\naudience = 'millrace'\nissuer = 'https://id'";

#[test]
fn a_jwt_is_checked() {
    let issuer = Issuer::new();
    let (_folder, layer) = layer(JWTS, &[("k.json", &issuer.keys())]);
    let check = |token: &str, expected: &str| {
        let expected = match expected.strip_prefix("not valid") {
            Some(rest) => format!("Unauthenticated: the token is not valid{rest}"),
            None => expected.to_owned(),
        };
        // The second is answered from the cache, where the first was good.
        assert_eq!(with_token(&layer, SCORE, token), expected);
        assert_eq!(with_token(&layer, SCORE, token), expected);
    };
    let claims = |changes: Value, expected: &str| check(&issuer.token(changes), expected);
    claims(json!({}), "bob");
    claims(json!({"sub": null, "azp": "app"}), "app");
    claims(
        json!({"aud": "millrace", "scope": null, "scp": ["score"]}),
        "bob",
    );
    claims(json!({"scope": null, "scopes": ["admin"]}), "bob");
    claims(json!({"exp": now_s() - 20, "nbf": now_s() + 20}), "bob");
    claims(json!({"exp": now_s() - 40}), "not valid: it has expired");
    claims(json!({"exp": null}), "not valid: it has no claim exp");
    claims(
        json!({"exp": "4102444800"}),
        "not valid: its claims are not understood",
    );
    claims(
        json!({"nbf": now_s() + 40}),
        "not valid: it is not valid yet (nbf)",
    );
    claims(
        json!({"nbf": "0"}),
        "not valid: its claims are not understood",
    );
    claims(json!({"aud": "other"}), "not valid: aud is not 'millrace'");
    claims(json!({"aud": null}), "not valid: it has no claim aud");
    claims(
        json!({"iss": "https://evil"}),
        "not valid: iss is not 'https://id'",
    );
    claims(json!({"iss": null}), "not valid: it has no claim iss");
    claims(
        json!({"sub": "x".repeat(9_000)}),
        "not valid: it has more than 8192 bytes",
    );
    claims(
        json!({"scope": "openid scores"}),
        "PermissionDenied: caller 'bob' lacks the scope 'score', which /millrace.v1.ScoringService/Score needs",
    );
    let good = json!({"sub": "eve", "iss": "https://id", "aud": "millrace", "exp": now_s() + 60, "scope": "admin"});
    let header = |header: Value, expected: &str| check(&issuer.sign(&header, &good), expected);
    header(json!({"alg": "EdDSA", "kid": "ed"}), "eve");
    let algorithm = "not valid: its algorithm (alg) is not that of its key";
    header(json!({"alg": "EdDSA", "kid": "ec"}), algorithm);
    header(json!({"alg": "HS256", "kid": "ec"}), algorithm);
    header(json!({"alg": "ES256", "kid": "rsa"}), algorithm);
    header(
        json!({"alg": "RS256", "kid": "rsa"}),
        "not valid: its signature is wrong",
    );
    let no_key = "not valid: its key (kid) is not in the server's key set";
    header(json!({"alg": "RS256", "kid": "for encryption"}), no_key);
    header(json!({"alg": "HS256", "kid": "secret"}), no_key);
    header(
        json!({"alg": "ES256"}),
        "not valid: its header names no key (kid)",
    );
    header(
        json!({"alg": "ES256", "kid": "ec", "crit": ["exp"]}),
        "not valid: it has an extension (crit) that is not known",
    );
    let unknown = "Unauthenticated: the token is not known to this server";
    header(json!({"alg": "none", "kid": "ec"}), unknown);
    let token = issuer.token(json!({}));
    let (message, signature) = token.rsplit_once('.').unwrap();
    check(&format!("{message}."), "not valid: its signature is wrong");
    check(message, unknown);
    let (header, _) = message.split_once('.').unwrap();
    let claims = encoded(good.to_string().as_bytes());
    check(
        &format!("{header}.{claims}.{signature}"),
        "not valid: its signature is wrong",
    );
    let other = Issuer::new();
    check(&other.token(json!({})), "not valid: its signature is wrong");
    let ed = json!({"alg": "EdDSA", "kid": "ed"});
    check(&other.sign(&ed, &good), "not valid: its signature is wrong");
}

#[test]
fn rs256_is_accepted() {
    let (_folder, layer) = layer("jwks = 'k.json'", &[("k.json", &Issuer::new().keys())]);
    assert_eq!(with_token(&layer, SCORE, RSA_TOKEN), "rsa-caller");
    let (message, signature) = RSA_TOKEN.rsplit_once('.').unwrap();
    let damaged = format!("{message}.A{}", &signature[1..]);
    assert_eq!(
        with_token(&layer, SCORE, &damaged),
        "Unauthenticated: the token is not valid: its signature is wrong"
    );
}

#[test]
fn a_jwt_ends_in_the_cache_too() {
    let issuer = Issuer::new();
    let (_folder, layer) = layer(JWTS, &[("k.json", &issuer.keys())]);
    let token = issuer.token(json!({"exp": now_s() - 28}));
    assert_eq!(with_token(&layer, SCORE, &token), "bob");
    std::thread::sleep(Duration::from_millis(2_100));
    let access = layer.access.as_ref().unwrap();
    let jwks = access.jwks.as_ref().unwrap().get();
    let denied = jwks.check(&token, &digest(&token)).unwrap_err();
    assert_eq!(denied.to_string(), "the token is not valid: it has expired");
}

#[test]
fn a_key_that_is_taken_away_takes_its_tokens_along() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let (folder, layer) = layer(JWTS, &[("k.json", &old.keys())]);
    let token = old.token(json!({}));
    assert_eq!(with_token(&layer, SCORE, &token), "bob");
    rewrite(&folder.path().join("k.json"), &new.keys());
    layer.access.as_ref().unwrap().jwks.as_ref().unwrap().look();
    assert!(with_token(&layer, SCORE, &token).ends_with("its signature is wrong"));
    assert_eq!(with_token(&layer, SCORE, &new.token(json!({}))), "bob");
}

/// As a file of tokens without a token does.
#[test]
fn a_key_set_without_keys_takes_all_tokens_back() {
    let issuer = Issuer::new();
    let (folder, layer) = layer(JWTS, &[("k.json", &issuer.keys())]);
    let token = issuer.token(json!({}));
    let check = |content: &str, expected: &str| {
        rewrite(&folder.path().join("k.json"), content);
        layer.access.as_ref().unwrap().jwks.as_ref().unwrap().look();
        assert_eq!(with_token(&layer, SCORE, &token), expected, "{content}");
    };
    check("{\"keys\": [{\"kty\": \"oct\", \"k\": \"AA\"}]}", "bob");
    check("{\"keys\": [", "bob");
    check("", "bob");
    check(
        "{\"keys\": []}",
        "Unauthenticated: the token is not valid: its key (kid) is not in the server's key set",
    );
    check(&issuer.keys(), "bob");
}

#[test]
fn a_mistake_in_a_key_set_is_told() {
    let check = |content: &str, expected: &str| {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("k.json"), content).unwrap();
        let failure = open(JWTS, folder.path()).err().unwrap();
        let message = failure
            .message
            .replace(&format!("{}/", folder.path().display()), "");
        assert_eq!(message, expected);
    };
    check("{}", "k.json: line 1, column 2: not a JWK set");
    check("{\"keys\": [7]}", "k.json: key 1: not a JWK");
    let none = "k.json: no key in it is for signatures by RS256, ES256 or EdDSA";
    check("{\"keys\": [{\"kty\": \"oct\", \"k\": \"AA\"}]}", none);
    let short = json!({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}).to_string();
    check(
        &short,
        "k.json: key 1: its length is not that of a key for RS256",
    );
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(&[7; 32])});
    let twice = json!({"keys": [key, key]}).to_string();
    check(
        &twice,
        "k.json: key 2: another key has the same kid, or like this one has none",
    );
}

/// A key whose private part was thrown away when it had signed [`RSA_TOKEN`].
const RSA_MODULUS: &str = "\
    sOoIAwFUVyEG1mEIkEhtY_4HuVgZnIpLelaqy3gsUpGbsp9Eyuo0p08hjfDiiuLuxFD8jm4owkmOcdpirzI2mwyGkvGmp6XEpIvq\
    Fzxm0H9HKLs7axFFUPXWHNJxiwzXydKP_z03dyHAE-T8tDBKigeXu8X4SubjESYTAFJM_QsCZNDAN3MiupUJGwkw0m2QTkn7oomx\
    43TOghWq1QtKmSDRh7_IIYUS0qtPyYGAETK7LJiop8ckLB_y7GARz68V1X72faxejuS_Bhg3jhnBIIqjBLOTtz8RZ1dH7BqsNPUd\
    TC7QD5df9WaRjQyhv4gzNYTxR7nF7br02mXca4LHCw";

/// Good until 2100.
const RSA_TOKEN: &str = "\
    eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJzdWIiOiJyc2EtY2FsbGVyIiwiZXhwIjo0MTAyNDQ0ODAwLCJzY29wZSI6InN\
    jb3JlIn0.SK2P2Ryj1EkXjtXYjCE_6beii3nKsW4ZHRHdXZVWjRwDg6RD46xaiByXXmOEtVrk_wrIQ3Lo1DpFBrr-E5BarDMnXih\
    _Ei-l8gdzqAjsidl_aYj2drYGiUDTPGhfCoCG0qoLfUUcCrqzIXcirh8u9_cpYG6A7xogdbwwOMoUGPqSdUK3SoiFZEvjDJeYX1h\
    S0ROi6i6W8RWgu7t5tJeVGIe1oJLoME0B9kUqotTBRT5iNnRdWaB7TB4Zrr-W5vcVlCmGiDPga_EPNdOz4hQR-9dEvCs3YIzYnT5\
    nTtuEJh8gLvcGTJ0Lg1jIxnifLoRqYCotbOLP00sxAjNnKjweMA";
