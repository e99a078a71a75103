//! Static tokens: a file with the SHA-256 of each, who holds it and what it is good for.
//!
//! The file holds no token, and neither tokens nor hashes leave this module: no error or log line repeats them, and
//! nothing here can be printed with `Debug`. Tokens of an identity provider are `jwt`'s.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::scope::Scope;
use super::{Caller, Denied, Digest, now_us};
use crate::failure::{Failure, Outcome};
use crate::files::nearest;
use crate::times::parse_time;

const HOW: &str = "a token is written [[token]] name = \"scorer\", sha256 = \"...\", scopes = [\"score\"]; \
                   `openssl rand -hex 32` makes one, `printf %s TOKEN | sha256sum` its hash";

/// The tokens of a file, by their digest.
///
/// Looking a digest up takes a time that depends on the digest, not on the token. Who measures it learns at most how
/// some digest begins, and has to invert SHA-256 to make use of that: comparing in constant time would add nothing.
/// The hash is a plain one because tokens are drawn at random; it would not protect a password.
pub(super) struct Tokens {
    by_digest: HashMap<Digest, Token>,
}

struct Token {
    caller: Arc<Caller>,
    expires_us: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    scopes: Vec<String>,
    expires: Option<Time>,
}

/// A time with quotation marks or without.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Text(String),
    Toml(toml::value::Datetime),
}

impl Tokens {
    /// Reads a file of tokens for a project with these views. One without a token is right: it takes all of them back.
    ///
    /// # Errors
    /// A file that cannot be read, or has a mistake: with its line or its entry.
    pub(super) fn read(path: &Path, views: &[String]) -> Outcome<Self> {
        let wrong =
            |reason: String| Failure::input(format!("{}: {reason}", path.display())).hint(HOW);
        let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let file: File = toml::from_str(&text).map_err(|e| wrong(place(&text, &e)))?;
        let mut by_digest = HashMap::with_capacity(file.token.len());
        for (index, entry) in file.token.into_iter().enumerate() {
            let title = format!("token {} ('{}')", index + 1, entry.name);
            let (digest, token) =
                checked(entry, views).map_err(|reason| wrong(format!("{title}: {reason}")))?;
            if let Some(Token { caller, .. }) = by_digest.insert(digest, token) {
                let reason = format!("has the same sha256 as the one of '{}'", caller.name());
                return Err(wrong(format!("{title}: {reason}")));
            }
        }
        Ok(Self { by_digest })
    }

    /// Whose token it is; none where it is in no entry.
    pub(super) fn find(&self, digest: &Digest) -> Option<Result<Arc<Caller>, Denied>> {
        let token = self.by_digest.get(digest)?;
        Some(match token.expires_us {
            Some(expires_us) if expires_us <= now_us() => Err(Denied::token("it has expired")),
            _ => Ok(Arc::clone(&token.caller)),
        })
    }
}

fn checked(entry: Entry, views: &[String]) -> Result<(Digest, Token), String> {
    if entry.name.is_empty() {
        return Err("has no name".to_owned());
    }
    let digest = from_hex(&entry.sha256).ok_or("sha256 is not 64 hexadecimal digits")?;
    if entry.scopes.is_empty() {
        return Err("has no scopes, and is good for nothing".to_owned());
    }
    let scopes = entry.scopes.iter().map(|text| {
        let scope = text.parse()?;
        known(&scope, views).map(|()| scope)
    });
    let expires = entry.expires.map(|time| match time {
        Time::Text(text) => text,
        Time::Toml(time) => time.to_string(),
    });
    let token = Token {
        caller: Arc::new(Caller::new(
            entry.name,
            scopes.collect::<Result<_, String>>()?,
        )),
        expires_us: expires
            .map(|time| parse_time(&time))
            .transpose()
            .map_err(|reason| format!("expires: {reason}"))?,
    };
    Ok((digest, token))
}

/// Refuses the scope of a view that the project does not have: its holder would be refused each call, and not know
/// why.
fn known(scope: &Scope, views: &[String]) -> Result<(), String> {
    let Scope::View(view) = scope else {
        return Ok(());
    };
    let mut names = views.iter().map(String::as_str);
    if names.clone().any(|name| name == view) {
        return Ok(());
    }
    let hint = match nearest(view, names.clone()) {
        Some(near) => format!("did you mean 'features:{near}'?"),
        None if names.next().is_none() => "it has none".to_owned(),
        None => format!("its views are {}", views.join(", ")),
    };
    Err(format!(
        "scope 'features:{view}' names no view of the project: {hint}"
    ))
}

fn from_hex(text: &str) -> Option<Digest> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        })
        .collect();
    let bytes: Vec<u8> = digits?
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    bytes.try_into().ok().filter(|_| text.len() == 64)
}

/// The line and what is wrong there. Neither the line itself nor a name or a value in it, which toml's own text shows:
/// it may be a hash, or a token that was put there by mistake.
fn place(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {}", without_quotes(error.message()))
}

fn without_quotes(message: &str) -> String {
    let quotes = |text: &str| text.contains(['"', '\'', '`']);
    match message.split_once(", expected ") {
        Some((found, expected)) if quotes(found) => format!("expected {expected}"),
        None if quotes(message) && !message.starts_with("missing field") => {
            "not understood".to_owned()
        }
        _ => message.to_owned(),
    }
}
