//! The services of a project, by the paths that they are called at.
//!
//! tonic's router is open for services and bodies of all types, and makes a dozen allocations a call for that. What is
//! called for each payment is found here by a look at the path, and all else by the router.

use std::convert::Infallible;

use futures::future::{BoxFuture, Either};
use http::{Request, Response};
use millrace_proto::v1::feature_service_server::{self, FeatureServiceServer};
use millrace_proto::v1::scoring_service_server::{self, ScoringServiceServer};
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use super::features::Features;
use super::scoring::Scoring;

/// The services of a project.
pub(super) struct Routed {
    features: FeatureServiceServer<Features>,
    scoring: ScoringServiceServer<Scoring>,
    others: Routes,
}

/// An answer that is being made.
pub(super) type Answering = Either<
    BoxFuture<'static, Result<Response<Body>, Infallible>>,
    <Routes as Service<Request<Body>>>::Future,
>;

impl Routed {
    pub(super) fn new(
        features: FeatureServiceServer<Features>,
        scoring: ScoringServiceServer<Scoring>,
        others: Routes,
    ) -> Self {
        Self {
            features,
            scoring,
            others: others.prepare(),
        }
    }

    pub(super) fn call(&self, request: Request<Body>) -> Answering {
        match service_of(request.uri().path()) {
            feature_service_server::SERVICE_NAME => {
                Either::Left(self.features.clone().call(request))
            }
            scoring_service_server::SERVICE_NAME => {
                Either::Left(self.scoring.clone().call(request))
            }
            _ => Either::Right(self.others.clone().call(request)),
        }
    }
}

/// The name in `/package.Service/Method`.
fn service_of(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or_default();
    path.split_once('/').map_or("", |(service, _)| service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_service() {
        for (path, expected) in [
            (
                "/millrace.v1.FeatureService/GetFeatures",
                feature_service_server::SERVICE_NAME,
            ),
            (
                "/millrace.v1.ScoringService/Score",
                scoring_service_server::SERVICE_NAME,
            ),
            ("/millrace.v1.FeatureService/", "millrace.v1.FeatureService"),
            ("/millrace.v1.FeatureService", ""),
            ("millrace.v1.FeatureService/GetFeatures", ""),
            ("", ""),
        ] {
            assert_eq!(service_of(path), expected, "{path}");
        }
    }
}
