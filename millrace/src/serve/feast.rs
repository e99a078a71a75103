//! Feast's interface (`feast.serving.ServingService` and the package-less `GrpcFeatureServer`), over the same
//! look-up as our own: a program that asks a Feast server asks this one unchanged.

mod push;
mod values;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use millrace_proto::feast::feast::serving::get_online_features_request::Kind;
use millrace_proto::feast::feast::serving::get_online_features_response::FeatureVector;
use millrace_proto::feast::feast::serving::serving_service_server::ServingService;
use millrace_proto::feast::feast::serving::{
    FeatureList, FeatureViewMetadata, FieldStatus, GetFeastServingInfoRequest,
    GetFeastServingInfoResponse, GetOnlineFeaturesRequest, GetOnlineFeaturesResponse,
    GetOnlineFeaturesResponseMetadata,
};
use millrace_proto::feast::feast::types::Value;
use millrace_proto::feast::grpc_feature_server_server::GrpcFeatureServer;
use millrace_proto::feast::{
    PushRequest, PushResponse, WriteToOnlineStoreRequest, WriteToOnlineStoreResponse,
};
use millrace_proto::v1::{Column, EntityStatus};
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::access::Caller;
use super::catalog::{ByNames, Catalog, Selection};
use super::columns::timestamp;
use super::look_up::{ViewAnswer, check_views, key_columns, look_up};
use super::refusal::{Refusal, check_bytes, check_count};
use super::{answered, caller};
use crate::live::Live;
use crate::times::now_us;

use push::Pushes;
use values::{column, values};

/// How a name says that the newest version of its view is meant.
const LATEST: &str = "@latest:";

/// The services.
#[derive(Clone)]
pub(super) struct Feast {
    live: Live,
    catalog: Arc<Catalog>,
    /// The columns of the answer for a list of names, where features go by their own names, and by those of their views
    /// too.
    places: Arc<[ByNames<Vec<Place>>; 2]>,
    pushes: Arc<Pushes>,
}

/// A column of the answer: a feature of a view.
struct Place {
    name: String,
    view: usize,
    feature: usize,
}

impl Feast {
    pub(super) fn new(live: Live, catalog: Arc<Catalog>) -> Self {
        let pushes = Arc::new(Pushes::new(Arc::clone(&live.workspace)));
        Self {
            live,
            catalog,
            places: Arc::new([ByNames::new(), ByNames::new()]),
            pushes,
        }
    }

    fn online_features(
        &self,
        request: &GetOnlineFeaturesRequest,
        caller: &Caller,
        now_us: i64,
    ) -> Result<GetOnlineFeaturesResponse, Refusal> {
        let names = asked(request)?;
        let is_full = request.full_feature_names;
        let selection = self.catalog.selection(&names, caller);
        let selection = selection.map_err(|refusal| in_kind(request.kind.as_ref(), refusal))?;
        // Before anything is said of their features, whether or not they were asked for lately.
        check_views(caller, &selection)?;
        let places = self.places[usize::from(is_full)]
            .get(&names, || places(&names, &selection, is_full))?;
        let entities = entities(request)?;
        let keys = key_columns(&selection, &entities).map_err(in_entities)?;
        let rows = keys.first().map_or(0, |column| column.len());
        check_count("entities", rows, "ask in several calls")?;
        let answers = look_up(&self.live, &selection, &keys, now_us)?;

        let mut feature_names = Vec::new();
        let mut results = Vec::new();
        for field in &selection.keys {
            feature_names.push(field.name().clone());
            let given = request.entities.get(field.name());
            results.push(entity_vector(given.map_or(&[], |values| &values.val)));
        }
        for place in places.iter() {
            results.push(feature_vector(&answers[place.view], place.feature)?);
            feature_names.push(place.name.clone());
        }
        let views = selection.views.iter().map(|selected| FeatureViewMetadata {
            name: selected.view.name.clone(),
            version: 0,
        });
        let feature_view_metadata = match request.include_feature_view_version_metadata {
            true => views.collect(),
            false => Vec::new(),
        };
        let answer = GetOnlineFeaturesResponse {
            metadata: Some(GetOnlineFeaturesResponseMetadata {
                feature_names: Some(FeatureList { val: feature_names }),
                feature_view_metadata,
            }),
            results,
            status: false,
        };
        check_bytes(&answer, "ask for fewer entities or features at once")?;
        Ok(answer)
    }

    async fn answer(
        &self,
        request: Request<GetOnlineFeaturesRequest>,
    ) -> Result<Response<GetOnlineFeaturesResponse>, Status> {
        let now_us = now_us();
        let (service, caller) = (self.clone(), caller(&request));
        let request = request.into_inner();
        let rows = request.entities.values().map(|values| values.val.len());
        let rows = rows.max().unwrap_or(1);
        let answer = move || service.online_features(&request, &caller, now_us);
        answered("GetOnlineFeatures", rows, answer).await
    }
}

#[tonic::async_trait]
impl ServingService for Feast {
    async fn get_feast_serving_info(
        &self,
        _: Request<GetFeastServingInfoRequest>,
    ) -> Result<Response<GetFeastServingInfoResponse>, Status> {
        let version = concat!("millrace ", env!("CARGO_PKG_VERSION")).to_owned();
        let answer = move || Ok(GetFeastServingInfoResponse { version });
        answered("GetFeastServingInfo", 1, answer).await
    }

    async fn get_online_features(
        &self,
        request: Request<GetOnlineFeaturesRequest>,
    ) -> Result<Response<GetOnlineFeaturesResponse>, Status> {
        self.answer(request).await
    }
}

#[tonic::async_trait]
impl GrpcFeatureServer for Feast {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        self.pushes.push(request.into_inner()).await?;
        Ok(Response::new(PushResponse { status: true }))
    }

    async fn write_to_online_store(
        &self,
        request: Request<WriteToOnlineStoreRequest>,
    ) -> Result<Response<WriteToOnlineStoreResponse>, Status> {
        self.pushes.write(request.into_inner()).await?;
        Ok(Response::new(WriteToOnlineStoreResponse { status: true }))
    }

    async fn get_online_features(
        &self,
        request: Request<GetOnlineFeaturesRequest>,
    ) -> Result<Response<GetOnlineFeaturesResponse>, Status> {
        self.answer(request).await
    }
}

/// The names that a request asks for.
fn asked(request: &GetOnlineFeaturesRequest) -> Result<Cow<'_, [String]>, Refusal> {
    match &request.kind {
        Some(Kind::FeatureService(name)) => Ok(std::slice::from_ref(name).into()),
        Some(Kind::Features(list)) if list.val.iter().any(|name| name.contains(LATEST)) => {
            // Feast's clients may say which version of a view they mean, and there is one: the latest.
            let plain = list.val.iter().map(|name| name.replacen(LATEST, ":", 1));
            Ok(plain.collect())
        }
        Some(Kind::Features(list)) => Ok(list.val.as_slice().into()),
        None => Err(Refusal::argument(
            "features",
            "name features as view:feature, or a feature_service: a view, or the inputs of a model",
        )),
    }
}

/// The columns of the answer, in the order asked for, each once.
fn places(names: &[String], selection: &Selection, full: bool) -> Result<Vec<Place>, Refusal> {
    let mut places: Vec<Place> = Vec::new();
    for (view, selected) in selection.views.iter().enumerate() {
        for (feature, name) in selected.names().enumerate() {
            let view_name = &selected.view.name;
            let name = match full {
                true => format!("{view_name}__{name}"),
                false => name.to_owned(),
            };
            places.push(Place {
                name,
                view,
                feature,
            });
        }
    }
    // What was asked for by `view:feature` comes in the order of the request, across views.
    let turn = |place: &Place| {
        let selected = &selection.views[place.view];
        let feature = selected.names().nth(place.feature).unwrap_or_default();
        let is_it = |name: &String| match name.split_once(':') {
            Some((view, asked)) => view == selected.view.name && asked == feature,
            None => *name == selected.view.name,
        };
        names.iter().position(is_it).unwrap_or(0)
    };
    places.sort_by_key(turn);
    let mut seen = HashMap::new();
    for place in &places {
        if let Some(other) = seen.insert(&place.name, place.view) {
            let views = [other, place.view].map(|view| selection.views[view].view.name.as_str());
            let reason = format!(
                "'{}' is a feature of {}: set full_feature_names",
                place.name,
                views.join(" and of ")
            );
            return Err(Refusal::argument("features", reason));
        }
    }
    Ok(places)
}

fn entities(request: &GetOnlineFeaturesRequest) -> Result<HashMap<String, Column>, Refusal> {
    let entities = request.entities.iter();
    entities
        .map(|(name, values)| {
            Ok((
                name.clone(),
                column(&format!("entities[{name:?}]"), &values.val)?,
            ))
        })
        .collect()
}

/// The catalog speaks of `features`, which are a list's or stand for one name here.
fn in_kind(kind: Option<&Kind>, refusal: Refusal) -> Refusal {
    let Refusal::Unknown(mut names) = refusal else {
        return refusal;
    };
    for name in &mut names {
        match kind {
            Some(Kind::FeatureService(_)) => name.field = "feature_service".to_owned(),
            _ => name.field = name.field.replacen("features[", "features.val[", 1),
        }
    }
    Refusal::Unknown(names)
}

/// The look-up speaks of `keys`; here they are called `entities`.
fn in_entities(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Arguments(mut violations) => {
            for violation in &mut violations {
                if let Some(rest) = violation.field.strip_prefix("keys") {
                    violation.field = format!("entities{rest}");
                }
                violation.reason = violation.reason.replace("keys[", "entities[");
            }
            Refusal::Arguments(violations)
        }
        other => other,
    }
}

/// An entity column comes back as it was given.
fn entity_vector(given: &[Value]) -> FeatureVector {
    FeatureVector {
        values: given.to_vec(),
        statuses: vec![FieldStatus::Present.into(); given.len()],
        event_timestamps: vec![Timestamp::default(); given.len()],
    }
}

fn feature_vector(answer: &ViewAnswer, feature: usize) -> Result<FeatureVector, Refusal> {
    let column = &answer.features[feature];
    let values = values(&column.to_array())?;
    let until = answer.complete_until_us.map(timestamp).unwrap_or_default();
    let status = |(value, entity): (&Value, &EntityStatus)| {
        let status = match entity {
            EntityStatus::Unknown => FieldStatus::NotFound,
            EntityStatus::OutOfWindow => FieldStatus::OutsideMaxAge,
            _ if value.val.is_none() => FieldStatus::NullValue,
            _ => FieldStatus::Present,
        };
        i32::from(status)
    };
    Ok(FeatureVector {
        statuses: values.iter().zip(&answer.statuses).map(status).collect(),
        event_timestamps: vec![until; values.len()],
        values,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::serve::tests::live;

    #[test]
    fn a_name_that_is_none_is_told_with_its_place() {
        let live = live();
        let catalog = Arc::new(Catalog::new(&live));
        let feast = Feast::new(live, catalog);
        let caller = Caller::new("x".to_owned(), vec!["features".parse().unwrap()]);
        let check = |kind: Kind, field: &str| {
            let request = GetOnlineFeaturesRequest {
                kind: Some(kind),
                ..GetOnlineFeaturesRequest::default()
            };
            let refused = feast.online_features(&request, &caller, 0);
            let Refusal::Unknown(names) = refused.unwrap_err() else {
                panic!("{field}")
            };
            assert_eq!(names[0].field, field);
        };
        check(Kind::FeatureService("shop".to_owned()), "feature_service");
        let names = ["card_activity:tx_count_1h", "card_activity:shops"];
        let names = names.map(str::to_owned).to_vec();
        check(
            Kind::Features(FeatureList { val: names }),
            "features.val[1]",
        );
    }

    /// Views of the example's inputs have features of the same names, which nobody is told who may not read all of them.
    #[test]
    fn what_a_caller_may_not_read_is_not_named_whoever_asked_before() {
        let live = live();
        let catalog = Arc::new(Catalog::new(&live));
        let feast = Feast::new(live, catalog);
        let said = |scope: &str, full_feature_names: bool| {
            let caller = Caller::new("x".to_owned(), vec![scope.parse().unwrap()]);
            let request = GetOnlineFeaturesRequest {
                kind: Some(Kind::FeatureService("fraud_inputs".to_owned())),
                full_feature_names,
                ..GetOnlineFeaturesRequest::default()
            };
            let refused = feast.online_features(&request, &caller, 0);
            refused.unwrap_err().to_string()
        };
        // What stands for the names is known the second time.
        for _ in 0..2 {
            for full_feature_names in [false, true] {
                let hidden = said("features:card_activity", full_feature_names);
                assert!(hidden.contains("may not read view"), "{hidden}");
            }
            let ambiguous = said("features", false);
            assert!(ambiguous.contains("set full_feature_names"), "{ambiguous}");
            let without_entities = said("features", true);
            assert!(
                without_entities.contains("is missing"),
                "{without_entities}"
            );
        }
    }
}
