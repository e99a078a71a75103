//! `ModelService`, and what is known about each version of the model.

use std::collections::BTreeMap;

use millrace_learner::{Event, LearnerError, Manifest, Registry, State};
use millrace_proto::v1::model_service_server::ModelService;
use millrace_proto::v1::{ListModelsRequest, ListModelsResponse, Model};
use tonic::{Request, Response, Status};

use super::answered;
use super::refusal::Refusal;
use super::values::timestamp;
use crate::live::Live;
use crate::times::parse_time;

/// A version of the model, with what became known about it later.
#[derive(Debug)]
pub(crate) struct Version {
    /// What was written when it was made.
    pub(crate) manifest: Manifest,
    /// Whether it takes the traffic.
    pub(crate) champion: bool,
    /// Where it is in its life, where the journal says so.
    pub(crate) state: Option<State>,
    /// Average precision of its live scores against labels that came after its update.
    pub(crate) average_precision: Option<f64>,
    /// Its log loss (nats a label) on labels that it had not learned.
    pub(crate) log_loss: Option<f64>,
}

/// All versions of a registry, oldest first.
///
/// A manifest tells how its *parent* did on the labels that the update was made of, which the parent
/// had not seen. Here it is told of the version that it is about: the newest child says it, for it
/// has seen the most of its parent's scores.
///
/// # Errors
/// A registry that cannot be read.
pub(crate) fn versions(registry: &Registry) -> Result<Vec<Version>, LearnerError> {
    let champion = registry.champion()?;
    let manifests = registry.list()?;
    let mut states = BTreeMap::new();
    for entry in registry.journal_entries()? {
        if let Event::Version { version, state, .. } = entry.event {
            states.insert(version, state);
        }
    }
    let newest_child = |version: u64| manifests.iter().rfind(|m| m.parent == Some(version));
    let version = |manifest: &Manifest| {
        let child = newest_child(manifest.version);
        Version {
            manifest: manifest.clone(),
            champion: champion == Some(manifest.version),
            state: states.get(&manifest.version).copied(),
            average_precision: child.and_then(|c| c.prequential?.average_precision),
            log_loss: child.and_then(|c| Some(c.before?.log_loss)),
        }
    };
    Ok(manifests.iter().map(version).collect())
}

/// The service.
pub(super) struct Models {
    live: Live,
}

impl Models {
    pub(super) fn new(live: Live) -> Self {
        Self { live }
    }

    fn list(&self) -> Result<ListModelsResponse, Refusal> {
        let registry = self.live.registry.as_ref().ok_or(Refusal::NoModel)?;
        let models = versions(registry)?.iter().map(model).collect();
        Ok(ListModelsResponse { models })
    }
}

#[tonic::async_trait]
impl ModelService for Models {
    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        answered("ListModels", || self.list())
    }
}

fn model(version: &Version) -> Model {
    let manifest = &version.manifest;
    Model {
        version: manifest.version,
        parent: manifest.parent,
        // A manifest's time is one that was written by a machine; one that is not is left out.
        created: parse_time(&manifest.created).ok().map(timestamp),
        rows: manifest.rows,
        trained_until: Some(timestamp(manifest.trained_until_us)),
        prequential_average_precision: version.average_precision,
        champion: version.champion,
        prequential_log_loss: version.log_loss,
        device: manifest.device.clone(),
    }
}
