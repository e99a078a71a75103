//! Versions of the model: how they did, and which of them has the traffic.

use std::sync::Arc;

use millrace_proto::v1::model_service_client::ModelServiceClient;
use millrace_proto::v1::{
    GetModelRequest, ListModelsRequest, PromoteRequest, RollbackRequest, SetTrafficRequest,
};
use tonic::Code;

use super::{DAY, NOON, connect, live, registry};
use crate::live::Live;
use crate::serve::timestamp;

#[tokio::test]
async fn models_tell_how_they_did_on_what_came_after() {
    let folder = tempfile::tempdir().unwrap();
    let live = Live {
        registry: Some(Arc::new(registry(folder.path()))),
        ..live()
    };
    let mut client = ModelServiceClient::new(connect(live).await);
    let models = client.list_models(ListModelsRequest {}).await.unwrap();
    let models = models.into_inner().models;
    let parents: Vec<Option<u64>> = models.iter().map(|m| m.parent).collect();
    assert_eq!(parents, [None, Some(1), Some(1)]);
    let champions: Vec<bool> = models.iter().map(|m| m.champion).collect();
    assert_eq!(champions, [false, false, true]);
    // The newest child has seen the most of version 1's scores; nothing is known of the others yet.
    let precisions: Vec<Option<f64>> = models
        .iter()
        .map(|m| m.prequential_average_precision)
        .collect();
    assert_eq!(precisions, [Some(0.5), None, None]);
    assert_eq!(models[0].prequential_log_loss, Some(0.25));
    assert_eq!(models[0].created, Some(timestamp(NOON + DAY / 2)));
    assert_eq!(models[0].trained_until, Some(timestamp(NOON)));
}

#[tokio::test]
async fn a_person_moves_the_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let live = Live {
        registry: Some(Arc::new(registry(folder.path()))),
        // The versions of this registry have other inputs than the project.
        scorer: None,
        ..live()
    };
    let mut client = ModelServiceClient::new(connect(live).await);
    let canary = SetTrafficRequest {
        version: 2,
        percent: 10,
    };
    let answer = client.set_traffic(canary).await.unwrap().into_inner();
    assert_eq!(
        (answer.champion, answer.canary, answer.canary_percent),
        (Some(3), Some(2), 10)
    );
    let answer = client
        .promote(PromoteRequest { version: 2 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.champion, answer.canary), (Some(2), None));
    let show = client
        .get_model(GetModelRequest { version: 0 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(show.model.unwrap().version, 2);
    let life: Vec<&str> = show.life.iter().map(|step| step.state.as_str()).collect();
    assert_eq!(life, ["canary 10%", "champion"]);
    let back = client
        .rollback(RollbackRequest { to: Some(3) })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(back.champion, Some(3));

    // A share is of one version, and its own alone can be taken back.
    let mut share = async |version: u64, percent: u32| {
        let request = SetTrafficRequest { version, percent };
        client.set_traffic(request).await
    };
    share(1, 20).await.unwrap();
    let status = share(2, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let message = "version 2 has no share; version 1 has 20%";
    assert!(status.message().contains(message), "{status}");
    let answer = share(2, 30).await.unwrap().into_inner();
    assert_eq!((answer.canary, answer.canary_percent), (Some(2), 30));
    let listed = client.list_models(ListModelsRequest {}).await.unwrap();
    let listed = listed.into_inner().models.into_iter();
    let states: Vec<String> = listed.map(|model| model.state).collect();
    assert_eq!(states, ["replaced", "canary 30%", "champion"]);
    // The champion has all of it, once more.
    let answer = client.promote(PromoteRequest { version: 3 }).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.champion, answer.canary), (Some(3), None));
    let shown = client.get_model(GetModelRequest { version: 2 }).await;
    let model = shown.unwrap().into_inner().model.unwrap();
    assert_eq!(model.state, "replaced");
    let nobody = SetTrafficRequest {
        version: 2,
        percent: 0,
    };
    let status = client.set_traffic(nobody).await.unwrap_err();
    assert!(status.message().contains("no version has one"), "{status}");

    let status = client
        .promote(PromoteRequest { version: 9 })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(
        status.message().contains("versions 1 to 3 are kept"),
        "{status}"
    );
    let all = SetTrafficRequest {
        version: 2,
        percent: 100,
    };
    let status = client.set_traffic(all).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let champion = SetTrafficRequest {
        version: 3,
        percent: 10,
    };
    let status = client.set_traffic(champion).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}
