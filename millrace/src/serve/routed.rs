//! The services of a project, by the paths that they are called at.
//!
//! tonic's router is open for services and bodies of all types, and makes a dozen allocations a call for that. What is
//! called for each payment is found here by a look at the path, and all else by the router. `unary` spares the two
//! methods that are called most another dozen.

use std::convert::Infallible;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use http::{Request, Response};
use millrace_proto::v1::feature_service_server::{self, FeatureService, FeatureServiceServer};
use millrace_proto::v1::scoring_service_server::{self, ScoringService, ScoringServiceServer};
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use super::features::Features;
use super::scoring::Scoring;
use super::{MAX_MESSAGE_BYTES, unary};

const GET_FEATURES: &str = "/millrace.v1.FeatureService/GetFeatures";
const SCORE: &str = "/millrace.v1.ScoringService/Score";

/// The services of a project.
pub(super) struct Routed {
    looking_up: Arc<Features>,
    scorer: Arc<Scoring>,
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
    pub(super) fn new(features: Features, scoring: Scoring, others: Routes) -> Self {
        let (looking_up, scorer) = (Arc::new(features), Arc::new(scoring));
        let features = FeatureServiceServer::from_arc(Arc::clone(&looking_up))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let scoring = ScoringServiceServer::from_arc(Arc::clone(&scorer))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self {
            looking_up,
            scorer,
            features,
            scoring,
            others: others.prepare(),
        }
    }

    pub(super) fn call(&self, request: Request<Body>) -> Answering {
        let path = request.uri().path();
        if path == GET_FEATURES {
            let (service, mut other) = (Arc::clone(&self.looking_up), self.features.clone());
            let answer = async move {
                match unary::read(request).await {
                    Ok(asked) => Ok(unary::written(service.get_features(asked).await)),
                    Err(request) => other.call(request).await,
                }
            };
            return Either::Left(answer.boxed());
        }
        if path == SCORE {
            let (service, mut other) = (Arc::clone(&self.scorer), self.scoring.clone());
            let answer = async move {
                match unary::read(request).await {
                    Ok(asked) => Ok(unary::written(service.score(asked).await)),
                    Err(request) => other.call(request).await,
                }
            };
            return Either::Left(answer.boxed());
        }
        match service_of(path) {
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
