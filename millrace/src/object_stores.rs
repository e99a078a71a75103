//! Where files are kept that other programs read: a folder, S3 or Google Cloud Storage, by one name.
//!
//! Credentials come from the environment, as the clouds' own tools take them.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, RetryConfig};
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
    if !location.contains("://") {
        return folder(&project_folder.join(location), location);
    }
    let url = Url::parse(location).map_err(|e| refused(location, &e))?;
    let has_bucket = url.host_str().is_some_and(|bucket| !bucket.is_empty());
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "file" => {
            let path = url
                .to_file_path()
                .map_err(|()| Failure::input(format!("{location}: this is no path")).hint(FORMS))?;
            return folder(&path, location);
        }
        "s3" | "gs" if !has_bucket => {
            return Err(Failure::input(format!("{location}: this names no bucket")).hint(FORMS));
        }
        "s3" => {
            let builder = AmazonS3Builder::from_env().with_url(location);
            let store = builder.with_retry(retries()).build();
            Arc::new(store.map_err(|e| {
                refused(location, &e).hint(
                    "credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, \
                     AWS_ENDPOINT, AWS_ALLOW_HTTP, or the machine's own role",
                )
            })?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(location);
            let store = builder.with_retry(retries()).build();
            Arc::new(store.map_err(|e| {
                refused(location, &e).hint(
                    "credentials come from the environment: GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT, \
                     or the machine's own account",
                )
            })?)
        }
        scheme => {
            return Err(Failure::input(format!(
                "{location}: there is no store of kind {scheme}://"
            ))
            .hint(FORMS));
        }
    };
    let path = Path::from_url_path(url.path()).map_err(|e| refused(location, &e))?;
    Ok((store, path))
}

fn folder(path: &FilePath, location: &str) -> Outcome<(Arc<dyn ObjectStore>, Path)> {
    let path = std::path::absolute(path).map_err(|e| refused(location, &e))?;
    let path = Path::from_absolute_path(path).map_err(|e| refused(location, &e))?;
    // The store of the whole disk, so that a folder is made by whoever writes to it, and by nobody else.
    Ok((Arc::new(LocalFileSystem::new().with_fsync(true)), path))
}

/// A caller that repeats what failed wants to know of it soon.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 3,
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
        assert_eq!(path("file:///mnt/log"), "mnt/log");
        assert_eq!(path("s3://risk/log/eu"), "log/eu");
        assert_eq!(path("s3://risk"), "");
    }

    #[test]
    fn what_is_none_is_refused_with_what_is_one() {
        for (location, message) in [
            ("ftp://host/path", "no store of kind ftp://"),
            ("s3:///path", "names no bucket"),
            ("az://container/path", "no store of kind az://"),
        ] {
            let failure = refused(location);
            assert!(failure.contains(message), "{failure}");
            assert!(failure.contains("s3://bucket/path"), "{failure}");
        }
    }
}
