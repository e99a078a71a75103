//! `ModelService`, and what is known about each version of the model.

use std::collections::BTreeMap;

use millrace_learner::{Aliases, Entry, Event, LearnerError, Manifest, Registry, State};
use millrace_proto::v1::model_service_server::ModelService;
use millrace_proto::v1::{
    GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse, Model,
    PromoteRequest, RollbackRequest, SetTrafficRequest, Step, TrafficResponse,
};
use tonic::{Request, Response, Status};

use super::columns::timestamp;
use super::refusal::Refusal;
use super::{LARGE, answered};
use crate::failure::{Failure, Kind, Outcome};
use crate::live::Live;
use crate::times::parse_time;
use crate::traffic::{no_such, promote, roll_back, set_share};
use crate::workspace::ModelPlan;

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
    let Aliases {
        champion,
        challenger,
    } = registry.aliases()?;
    let manifests = registry.list()?;
    if let Some(gone) = champion.filter(|it| manifests.iter().all(|m| m.version != *it)) {
        tracing::warn!(
            "version {gone} has the traffic by the registry's log, and there is no such version"
        );
    }
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
            state: states
                .get(&manifest.version)
                .map(|state| as_of_now(*state, manifest.version, challenger)),
            average_precision: child.and_then(|c| c.prequential?.average_precision),
            log_loss: child.and_then(|c| Some(c.before?.log_loss)),
        }
    };
    Ok(manifests.iter().map(version).collect())
}

/// A version's state: a share is only of the version that has it now. The journals of older releases do not say of one
/// that it has lost it to another.
fn as_of_now(noted: State, version: u64, challenger: Option<(u64, u8)>) -> State {
    match (noted, challenger) {
        (State::Canary { .. }, Some((other, percent))) if other == version && percent > 0 => {
            State::Canary { percent }
        }
        (State::Canary { .. }, _) => State::Replaced,
        (other, _) => other,
    }
}

/// The service.
#[derive(Clone)]
pub(super) struct Models {
    live: Live,
}

impl Models {
    pub(super) fn new(live: Live) -> Self {
        Self { live }
    }

    fn registry(&self) -> Result<&Registry, Refusal> {
        self.live.registry.as_deref().ok_or(Refusal::NoModel)
    }

    /// What a version that gets traffic must be of.
    fn plan(&self) -> Option<&ModelPlan> {
        self.live.scorer.as_ref().map(|scorer| &scorer.plan)
    }

    fn list(&self) -> Result<ListModelsResponse, Refusal> {
        let models = versions(self.registry()?)?.iter().map(model).collect();
        Ok(ListModelsResponse { models })
    }

    fn show(&self, asked: u64) -> Result<GetModelResponse, Refusal> {
        let registry = self.registry()?;
        let number = match asked {
            0 => registry
                .champion()?
                .ok_or_else(|| Refusal::NotNow("there is no champion yet".to_owned()))?,
            number => number,
        };
        let manifest = known(registry, "version", number)?;
        let all = versions(registry)?;
        let version = all
            .iter()
            .find(|version| version.manifest.version == number);
        Ok(GetModelResponse {
            model: version.map(model),
            life: life(registry, number)?,
            inputs: manifest.inputs,
        })
    }

    /// Makes a choice about a version, which is in a field of the request, follows it, and says who answers now.
    fn choose(
        &self,
        version: Option<(&str, u64)>,
        choice: impl FnOnce(&Registry) -> Outcome<String>,
    ) -> Result<TrafficResponse, Refusal> {
        let registry = self.registry()?;
        if let Some((field, version)) = version {
            known(registry, field, version)?;
        }
        let message = choice(registry).map_err(refused)?;
        tracing::info!(message, "a person moved the traffic");
        if let Some(scorer) = &self.live.scorer {
            scorer.follow(registry)?;
        }
        let Aliases {
            champion,
            challenger,
        } = registry.aliases()?;
        let canary = challenger.filter(|(_, percent)| *percent > 0);
        Ok(TrafficResponse {
            champion,
            canary: canary.map(|(version, _)| version),
            canary_percent: canary.map_or(0, |(_, percent)| percent.into()),
            message,
        })
    }
}

#[tonic::async_trait]
impl ModelService for Models {
    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let service = self.clone();
        answered("ListModels", LARGE, move || service.list()).await
    }

    async fn get_model(
        &self,
        request: Request<GetModelRequest>,
    ) -> Result<Response<GetModelResponse>, Status> {
        let (service, version) = (self.clone(), request.get_ref().version);
        answered("GetModel", LARGE, move || service.show(version)).await
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<TrafficResponse>, Status> {
        let version = request.get_ref().version;
        let service = self.clone();
        let answer = move || {
            let asked = Some(("version", version));
            service.choose(asked, |registry| promote(registry, service.plan(), version))
        };
        answered("Promote", LARGE, answer).await
    }

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<TrafficResponse>, Status> {
        let to = request.get_ref().to;
        let service = self.clone();
        let answer = move || {
            let asked = to.map(|to| ("to", to));
            service.choose(asked, |registry| roll_back(registry, service.plan(), to))
        };
        answered("Rollback", LARGE, answer).await
    }

    async fn set_traffic(
        &self,
        request: Request<SetTrafficRequest>,
    ) -> Result<Response<TrafficResponse>, Status> {
        let SetTrafficRequest { version, percent } = *request.get_ref();
        let service = self.clone();
        let answer = move || {
            let share = u8::try_from(percent).ok().filter(|percent| *percent < 100);
            let share = share.ok_or_else(|| {
                let reason = "a share is 0 to 99 of 100 entities; Promote gives all of them";
                Refusal::argument("percent", reason)
            })?;
            service.choose(Some(("version", version)), |registry| {
                set_share(registry, service.plan(), version, share)
            })
        };
        answered("SetTraffic", LARGE, answer).await
    }
}

/// What was written of a version, which is in a field of the request, when it was made.
fn known(registry: &Registry, field: &str, version: u64) -> Result<Manifest, Refusal> {
    registry.manifest(version).map_err(|error| match error {
        LearnerError::NoSuchVersion { .. } => {
            let failure = no_such(registry, error);
            let hint = failure.hint.as_deref().unwrap_or("none is kept");
            Refusal::unknown(field, &failure.message, hint)
        }
        other => other.into(),
    })
}

/// What a person wants and cannot be done as things stand.
fn refused(failure: Failure) -> Refusal {
    match (failure.kind, failure.hint) {
        (Kind::Failed, _) => Refusal::Internal(failure.message),
        (Kind::Away | Kind::Overtaken | Kind::Rival | Kind::Stopped, _) => {
            Refusal::Unavailable(failure.message)
        }
        (Kind::Input, None) => Refusal::NotNow(failure.message),
        (Kind::Input, Some(hint)) => Refusal::NotNow(format!("{}: {hint}", failure.message)),
    }
}

/// What became of a version, oldest first.
fn life(registry: &Registry, number: u64) -> Result<Vec<Step>, LearnerError> {
    let entries = registry.journal_entries()?.into_iter();
    let step = |entry: Entry| match entry.event {
        Event::Version { version, state, .. } if version == number => Some(Step {
            at: Some(timestamp(entry.at_us)),
            state: state.to_string(),
            reason: entry.reason.unwrap_or_default(),
        }),
        _ => None,
    };
    Ok(entries.filter_map(step).collect())
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
        state: version
            .state
            .map_or(String::new(), |state| state.to_string()),
    }
}
