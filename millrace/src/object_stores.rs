//! Where files are kept that other programs read: a folder, S3 or Google Cloud Storage, by one name.
//!
//! Credentials come from the environment, as the clouds' own tools take them.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use crate::failure::{Failure, Outcome, with_causes};

const FORMS: &str =
    "write a folder of the project (data/scores), s3://bucket/path or gs://bucket/path";

/// A store and the path in it that `location` names: a folder, relative to the project's, or `file://`, `s3://` or
/// `gs://`. Nothing is asked of it yet. What it has taken is durable.
///
/// # Errors
/// Of kind input: a scheme that is none of these, a URL without a bucket, credentials that make no sense.
pub fn open(location: &str, project_folder: &FilePath) -> Outcome<(Arc<dyn ObjectStore>, Path)> {
    if let Some(url) = meant_as_url(location) {
        return Err(Failure::input(format!("{location}: did you mean {url}?")).hint(FORMS));
    }
    if !location.contains("://") {
        return folder(&project_folder.join(location), location);
    }
    let url = Url::parse(location).map_err(|e| refused(location, &e))?;
    match url.scheme() {
        "file" => {
            let path = url
                .to_file_path()
                .map_err(|()| Failure::input(format!("{location}: this is no path")).hint(FORMS))?;
            folder(&path, location)
        }
        "s3" | "gs" if url.host_str().is_none_or(str::is_empty) => {
            Err(Failure::input(format!("{location}: this names no bucket")).hint(FORMS))
        }
        "s3" | "gs" => bucket(&url),
        scheme => Err(
            Failure::input(format!("{location}: there is no store of kind {scheme}://"))
                .hint(FORMS),
        ),
    }
}

/// What a location was meant to be that is taken for a folder's name and looks like a URL: `s3:/bucket`.
pub(crate) fn meant_as_url(location: &str) -> Option<String> {
    let (scheme, path) = location.split_once(':')?;
    let is_scheme = scheme.len() >= 2 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_known = ["s3", "gs", "file"].contains(&scheme.to_lowercase().as_str());
    if path.starts_with("//") || !is_scheme || !(is_known || path.starts_with('/')) {
        return None;
    }
    let slashes = if scheme.eq_ignore_ascii_case("file") {
        ":///"
    } else {
        "://"
    };
    let path = path.trim_start_matches('/');
    Some(format!("{}{slashes}{path}", scheme.to_lowercase()))
}

/// The store of a bucket, `s3://bucket/path` or `gs://bucket/path`, and the path. Credentials and the endpoint come
/// from the environment, as every tool of the cloud reads them. Nothing is asked of it yet.
///
/// # Errors
/// Of kind input: settings in the environment that make no sense.
pub fn bucket(url: &Url) -> Outcome<(Arc<dyn ObjectStore>, Path)> {
    let wrong = |error: object_store::Error| refused(url.as_str(), &error).hint(CREDENTIALS);
    let (scheme, path) = ObjectStoreScheme::parse(url).map_err(|error| wrong(error.into()))?;
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::GoogleCloudStorage => {
            let client = GoogleConfigKey::Client;
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_config(client(ClientConfigKey::Timeout), REQUEST)
                .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT)
                .with_retry(retries())
                .with_url(url.as_str());
            Arc::new(builder.build().map_err(wrong)?)
        }
        _ => {
            let client = AmazonS3ConfigKey::Client;
            let builder = AmazonS3Builder::from_env()
                .with_config(client(ClientConfigKey::Timeout), REQUEST)
                .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT)
                .with_retry(retries())
                .with_url(url.as_str());
            Arc::new(builder.build().map_err(wrong)?)
        }
    };
    Ok((store, path))
}

/// What a person can do about a bucket that refuses.
pub(crate) const CREDENTIALS: &str = "S3 takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or the \
     machine's role; another S3 service AWS_ENDPOINT_URL too (and AWS_ALLOW_HTTP=true without TLS). Google takes \
     GOOGLE_SERVICE_ACCOUNT. The bucket must be there";

/// How long one request may take; a few megabytes of weights are the largest.
const REQUEST: &str = "30s";

/// How long a connection may take.
const CONNECT: &str = "5s";

fn folder(path: &FilePath, location: &str) -> Outcome<(Arc<dyn ObjectStore>, Path)> {
    let path = std::path::absolute(path).map_err(|e| refused(location, &e))?;
    let path = Path::from_absolute_path(path).map_err(|e| refused(location, &e))?;
    // The store of the whole disk, so that a folder is made by whoever writes to it, and by nobody else.
    Ok((Arc::new(LocalFileSystem::new().with_fsync(true)), path))
}

/// A caller that repeats what failed wants to know of it soon.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 5,
        retry_timeout: Duration::from_secs(20),
        ..RetryConfig::default()
    }
}

fn refused(location: &str, error: &dyn std::error::Error) -> Failure {
    Failure::input(format!("{location}: {}", with_causes(error)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn path(location: &str) -> String {
        let opened = open(location, FilePath::new("/srv/fraud"));
        opened.unwrap().1.to_string()
    }

    fn refused(location: &str) -> String {
        let opened = open(location, FilePath::new("/srv/fraud"));
        opened.unwrap_err().to_string()
    }

    #[test]
    fn a_location_is_a_folder_or_a_url() {
        assert_eq!(path("data/scores"), "srv/fraud/data/scores");
        assert_eq!(path("/mnt/log"), "mnt/log");
        assert_eq!(path("2026:log"), "srv/fraud/2026:log");
        assert_eq!(path("file:///mnt/log"), "mnt/log");
        assert_eq!(path("s3://risk/log/eu"), "log/eu");
        assert_eq!(path("s3://risk"), "");
    }

    #[test]
    fn what_is_none_is_refused_with_what_is_one() {
        for (location, message) in [
            ("ftp://host/path", "no store of kind ftp://"),
            ("s3:///path", "names no bucket"),
            ("s3:/risk/log", "did you mean s3://risk/log?"),
            ("s3:risk/log", "did you mean s3://risk/log?"),
            ("GS:/risk", "did you mean gs://risk?"),
            ("file:/mnt/log", "did you mean file:///mnt/log?"),
            ("az:/container", "did you mean az://container?"),
            ("az://container/path", "no store of kind az://"),
        ] {
            let failure = refused(location);
            assert!(failure.contains(message), "{failure}");
            assert!(failure.contains("s3://bucket/path"), "{failure}");
        }
    }
}
