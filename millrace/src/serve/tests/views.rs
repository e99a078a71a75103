//! What is said of views: to whom, and of those that are still being filled.

use millrace_proto::v1::ListViewsRequest;
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use tonic::Code;

use super::{ask, connect, live, texts};
use crate::live::Filled;
use crate::serve::access::Caller;
use crate::serve::catalog::{Catalog, MOST_HANDLES};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_described() {
    let mut client = FeatureServiceClient::new(connect(live()).await);
    let views = client.list_views(ListViewsRequest {}).await.unwrap();
    let views = views.into_inner().views;
    let card = views.iter().find(|v| v.name == "card_activity").unwrap();
    assert_eq!(card.stream, "transactions");
    assert_eq!(
        (card.entity.len(), card.entity[0].name.as_str()),
        (1, "card_id")
    );
    assert_eq!(card.version.len(), 16);
    let days = card.longest_window.map(|window| window.seconds);
    assert_eq!(days, Some(30 * 86_400));
    let features: Vec<(&str, &str)> = card
        .features
        .iter()
        .map(|f| (f.name.as_str(), f.r#type.as_str()))
        .collect();
    assert_eq!(features[0], ("tx_count_1h", "Int64"));
    assert_eq!(features[2], ("amount_sum_1d", "Float64"));
    assert!(features.iter().all(|(name, _)| *name != "card_id"));
}

/// A token for one view is told of no other.
#[test]
fn what_a_caller_may_not_read_is_not_named() {
    let catalog = Catalog::new(&live());
    let said = |name: &str, scope: &str| {
        let caller = Caller::new("x".to_owned(), vec![scope.parse().unwrap()]);
        let refused = catalog.resolve(&[name.to_owned()], &caller);
        refused.unwrap_err().to_string()
    };
    let one = "features:card_activity";
    let unknown = said("nothing_like_it", one);
    assert!(
        unknown.ends_with("the token may read card_activity"),
        "{unknown}"
    );
    let near = said("terminal_riks", one);
    assert!(!near.contains("terminal_risk"), "{near}");
    let hidden = said("terminal_risk:nothing", one);
    assert!(
        hidden.contains("features:terminal_risk is missing"),
        "{hidden}"
    );
    assert!(!hidden.contains("frauds_7d"), "{hidden}");
    let all = said("terminal_riks", "features");
    assert!(all.contains("did you mean 'terminal_risk'?"), "{all}");
}

/// Who asks by a handle keeps it, however many are prepared meanwhile.
#[test]
fn the_handles_that_were_used_last_are_kept() {
    let live = live();
    let catalog = Catalog::new(&live);
    let caller = Caller::new("x".to_owned(), vec!["features".parse().unwrap()]);
    let view = live.workspace.project.view("card_activity").unwrap();
    let features = view.features().map(|name| format!("{}:{name}", view.name));
    let features: Vec<String> = features.collect();
    // Five features in an order of their own for each number.
    let prepare = |mut number: usize| {
        let mut left = features.clone();
        let mut names = Vec::new();
        while names.len() < 5 {
            let place = number % left.len();
            number /= left.len();
            names.push(left.swap_remove(place));
        }
        let selection = catalog.resolve(&names, &caller).unwrap();
        catalog.prepare(selection, &caller).0
    };
    let (used, idle) = (prepare(0), prepare(1));
    for number in 2..MOST_HANDLES + 200 {
        prepare(number);
        assert!(catalog.prepared(used).is_some(), "{number}");
    }
    assert!(catalog.prepared(idle).is_none());
}

/// A view of the next project is not one that does not exist.
#[tokio::test]
async fn a_view_that_is_being_filled_says_how_far_it_is() {
    let live = live();
    live.progress.set_filling(["shop_activity".to_owned()]);
    let filled = Filled {
        read: 1_200,
        left: Some(300),
    };
    live.progress.fill("shop_activity", filled);
    live.progress.fill("card_activity", filled);
    let mut client = FeatureServiceClient::new(connect(live.clone()).await);
    let mut said = async |view: &str| {
        let asked = ask(&[view], &[("card_id", texts(&["c1"]))], None);
        let status = client.get_features(asked).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let (code, message) = said("shop_activity").await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        message.contains("1200 are read, and 300 are left"),
        "{message}"
    );
    assert_eq!(said("shop_activities").await.0, Code::NotFound);
    live.progress.set_filling([]);
    assert_eq!(said("shop_activity").await.0, Code::NotFound);
}
