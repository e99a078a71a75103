//! Look-ups of features: as of any time, of several views, part by part, and what is wrong with them.

use std::sync::Arc;

use millrace_feature_store::Commit;
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use millrace_proto::v1::{
    Column, EntityStatus, GetFeaturesRequest, GetFeaturesResponse, PrepareRequest, ViewFeatures,
    ViewStatus,
};
use prost_types::Timestamp;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use super::{DAY, MINUTE, NOON, ask, commit, commit_to, connect, live, some_payments, texts};
use crate::gone::Gone;
use crate::live::Live;
use crate::marks::Marks;
use crate::pipeline::Pipeline;
use crate::serve::{MAX_ITEMS, MAX_MESSAGE_BYTES, time_us, timestamp};
use crate::workspace::Workspace;

/// Whole numbers of a feature, one an entity.
fn whole(view: &ViewFeatures, name: &str) -> Vec<i64> {
    let column = view.features.iter().find(|column| column.name == name);
    column.unwrap().int64s.clone()
}

/// Doubles of a feature, none where it is null.
fn doubles(view: &ViewFeatures, name: &str) -> Vec<Option<f64>> {
    let column = view.features.iter().find(|column| column.name == name);
    let column = column.unwrap();
    let value = |(row, value): (usize, &f64)| {
        let is_null = column.nulls.contains(&(row as u32));
        (!is_null).then_some(*value)
    };
    column.doubles.iter().enumerate().map(value).collect()
}

fn statuses(view: &ViewFeatures) -> Vec<EntityStatus> {
    view.statuses().collect()
}

async fn get(
    client: &mut FeatureServiceClient<Channel>,
    request: &GetFeaturesRequest,
) -> GetFeaturesResponse {
    let answer = client.get_features(request.clone()).await;
    answer.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_answer_as_of_their_time() {
    let live = live();
    commit(&live, &some_payments());
    let progress = Arc::clone(&live.progress);
    let mut client = FeatureServiceClient::new(connect(live).await);

    let cards = [("card_id", texts(&["c1", "nobody"]))];
    let hour = NOON + 60 * MINUTE;
    let mut request = ask(&["card_activity"], &cards, Some(hour));
    let answer = get(&mut client, &request).await;
    assert_eq!(answer.as_of, Some(timestamp(hour)));
    let [view] = &answer.views[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (view.view.as_str(), view.complete_until),
        ("card_activity", None)
    );
    assert_eq!(view.status(), ViewStatus::Empty);
    assert_eq!(
        statuses(view),
        [EntityStatus::Present, EntityStatus::Unknown]
    );
    assert_eq!(view.version.len(), 16);
    // The older edge counts, to the microsecond: see below.
    assert_eq!(whole(view, "tx_count_1h"), [2, 0]);
    assert_eq!(doubles(view, "amount_sum_1d"), [Some(40.0), None]);
    assert_eq!(doubles(view, "amount_avg_7d"), [Some(20.0), None]);

    // What is finer than a microsecond is cut; one microsecond later the first payment has left.
    progress.reflect("transactions", NOON + 55 * MINUTE);
    // Nobody has heard of Kafka yet.
    let answer = get(&mut client, &request).await;
    assert_eq!(answer.views[0].status(), ViewStatus::Stale);
    progress.hear(std::time::Instant::now());
    let mut as_of = timestamp(hour + 1);
    as_of.nanos += 999;
    request.as_of = Some(as_of);
    let answer = get(&mut client, &request).await;
    let view = &answer.views[0];
    assert_eq!(answer.as_of, Some(timestamp(hour + 1)));
    assert_eq!(view.complete_until, Some(timestamp(NOON + 55 * MINUTE)));
    assert_eq!(view.status(), ViewStatus::Current);
    // What waits in the topic of another stream is none of its events.
    for (stream, lag, status) in [
        ("labels", 150_000, ViewStatus::Current),
        ("transactions", 1, ViewStatus::Behind),
        ("transactions", 0, ViewStatus::Current),
    ] {
        progress.set_lag(stream, lag);
        let answer = get(&mut client, &request).await;
        assert_eq!(answer.views[0].status(), status, "{stream} {lag}");
    }
    assert_eq!(whole(view, "tx_count_1h"), [1, 0]);
    assert_eq!(whole(view, "tx_count_1d"), [2, 0]);

    // Others have read a part of its topic for a while: nobody knows what is in there.
    let now = std::time::Instant::now();
    let before = now.checked_sub(std::time::Duration::from_secs(11)).unwrap();
    for (is_partial, status) in [(true, ViewStatus::Stale), (false, ViewStatus::Current)] {
        progress.set_partial("transactions", is_partial, before);
        let answer = get(&mut client, &request).await;
        assert_eq!(answer.views[0].status(), status);
    }

    // Now is years later: the windows are empty, and the card is known all the same.
    request.as_of = None;
    let answer = get(&mut client, &request).await;
    assert!(time_us(&answer.as_of.unwrap()).unwrap() > NOON + 365 * DAY);
    let view = &answer.views[0];
    assert_eq!(whole(view, "tx_count_30d"), [0, 0]);
    assert_eq!(
        statuses(view),
        [EntityStatus::OutOfWindow, EntityStatus::Unknown]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_views_are_one_answer_and_names_can_be_resolved_before() {
    let live = live();
    commit(&live, &some_payments());
    let mut client = FeatureServiceClient::new(connect(live).await);
    let keys = [
        ("card_id", texts(&["c1", "c2"])),
        ("terminal_id", texts(&["t1", "t1"])),
    ];
    let names = [
        "terminal_activity:tx_count_1d",
        "card_activity:tx_count_1h",
        "terminal_activity:tx_count_7d",
    ];
    let hour = Some(NOON + 60 * MINUTE);
    let answer = get(&mut client, &ask(&names, &keys, hour)).await;
    let [terminal, card] = &answer.views[..] else {
        panic!("{answer:?}")
    };
    let columns: Vec<&str> = terminal.features.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(columns, ["tx_count_1d", "tx_count_7d"]);
    assert_eq!(whole(terminal, "tx_count_1d"), [3, 3]);
    assert_eq!(whole(card, "tx_count_1h"), [2, 1]);

    let features = names.map(str::to_owned).to_vec();
    let prepared = client
        .prepare(PrepareRequest { features })
        .await
        .unwrap()
        .into_inner();
    let asked: Vec<&str> = prepared.keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(asked, ["terminal_id", "card_id"]);
    let by_handle = GetFeaturesRequest {
        handle: Some(prepared.handle),
        ..ask(&[], &keys, hour)
    };
    let answer = get(&mut client, &by_handle).await;
    // The names were told before.
    assert_eq!(answer.views[0].view, "");
    let mut named = answer.clone();
    for (view, said) in named.views.iter_mut().zip(&prepared.views) {
        view.view.clone_from(&said.name);
        view.version.clone_from(&said.version);
        for (column, field) in view.features.iter_mut().zip(&said.features) {
            column.name.clone_from(&field.name);
        }
    }
    assert_eq!(named.views, [terminal.clone(), card.clone()]);
    let unknown = GetFeaturesRequest {
        handle: Some(prepared.handle ^ 1),
        ..by_handle.clone()
    };
    let status = client.get_features(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    // All names that are wrong are told.
    let features = ["card_activty", "terminal_risk", "card_activity:tx_count"];
    let features = features.map(str::to_owned).to_vec();
    let status = client.prepare(PrepareRequest { features }).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    for part in [
        "there is no feature view 'card_activty': did you mean 'card_activity'?; ",
        "view 'card_activity' has no feature 'tx_count': ",
    ] {
        assert!(status.message().contains(part), "{status}");
    }
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["features[0]", "features[2]"]);

    // The model's inputs stand for the views that they join.
    let inputs = get(&mut client, &ask(&["fraud_inputs"], &keys, hour)).await;
    let views: Vec<&str> = inputs.views.iter().map(|view| view.view.as_str()).collect();
    assert_eq!(
        views,
        [
            "card_activity",
            "terminal_activity",
            "terminal_risk",
            "card_risk"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_answers_part_by_part() {
    let live = live();
    commit(&live, &some_payments());
    let mut client = FeatureServiceClient::new(connect(live).await);
    let cards: Vec<String> = (0..20_000).map(|number| format!("c{number}")).collect();
    let cards: Vec<&str> = cards.iter().map(String::as_str).collect();
    let request = ask(
        &["card_activity:tx_count_1h"],
        &[("card_id", texts(&cards))],
        Some(NOON + 60 * MINUTE),
    );
    let mut parts = client
        .stream_features(request.clone())
        .await
        .unwrap()
        .into_inner();
    let mut counts = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part.unwrap();
        assert_eq!(part.first_row as usize, counts.len());
        counts.extend(whole(&part.views[0], "tx_count_1h"));
    }
    assert_eq!(counts.len(), cards.len());
    assert_eq!(counts[..4], [0, 2, 1, 0]);
    // One call takes fewer; a caller who reads no further costs nothing more.
    let status = client.get_features(request.clone()).await.unwrap_err();
    assert!(status.message().contains("20000 in one call"), "{status}");
    let mut left = client.stream_features(request).await.unwrap().into_inner();
    left.next().await.unwrap().unwrap();
}

/// 600 texts of 40,000 bytes are more than a message may have, and so are the 512 of a part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_is_refused_and_comes_in_smaller_parts() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("features")).unwrap();
    write("millrace.toml", "[store]\nhistory = \"1d\"\n");
    write(
        "sources.sql",
        "CREATE EXTERNAL TABLE tx (card_id VARCHAR NOT NULL, note VARCHAR, at TIMESTAMP NOT NULL)
         STORED AS KAFKA LOCATION 'tx' WITH ORDER (at)",
    );
    write(
        "features/v.sql",
        "CREATE VIEW v AS SELECT card_id, last_value(note) OVER (PARTITION BY card_id ORDER BY at
         RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW) AS note FROM tx",
    );
    let live = Live {
        workspace: Arc::new(Workspace::open(folder.path()).unwrap()),
        scorer: None,
        ..live()
    };
    let note = "x".repeat(40_000);
    let time = crate::times::rfc3339(NOON);
    let event = format!(r#"{{"card_id":"c1","note":"{note}","at":"{time}"}}"#);
    commit_to(&live, "tx", &[event]);
    let client = FeatureServiceClient::new(connect(live).await);
    let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
    let cards = texts(&["c1"; 600]);
    let request = ask(&["v"], &[("card_id", cards)], Some(NOON + MINUTE));
    let status = client.get_features(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(
        status.message().contains("StreamFeatures answers in parts"),
        "{status}"
    );
    let parts = client.stream_features(request).await.unwrap();
    let mut parts = parts.into_inner();
    let mut rows = 0;
    while let Some(part) = parts.next().await {
        let part = part.unwrap();
        assert_eq!(part.first_row as usize, rows);
        let notes = &part.views[0].features[0].strings;
        assert!(notes.iter().all(|answered| *answered == note));
        rows += notes.len();
    }
    assert_eq!(rows, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_a_look_up_are_named() {
    let live = live();
    let view = live.workspace.project.view("card_activity").unwrap();
    // The longest window is 30 days, so look-ups work from 30 days after the horizon on.
    live.store.horizons().set_view(view.id, NOON - 30 * DAY);
    let mut client = FeatureServiceClient::new(connect(live).await);
    let card = || ("card_id", texts(&["c1"]));
    let bad_time = GetFeaturesRequest {
        as_of: Some(Timestamp {
            seconds: 0,
            nanos: -1,
        }),
        ..ask(&["card_activity"], &[card()], None)
    };
    let double = Column {
        doubles: vec![1.5],
        ..Column::default()
    };
    let null = Column {
        nulls: vec![0],
        ..texts(&[""])
    };
    let many = texts(&vec!["c1"; MAX_ITEMS + 1]);
    let both = Column {
        int64s: vec![1],
        ..texts(&["c1"])
    };
    let cases = [
        (
            ask(&["card_activty"], &[card()], None),
            Code::NotFound,
            "did you mean 'card_activity'?",
        ),
        (
            ask(&["card_activity:tx_count"], &[card()], None),
            Code::NotFound,
            "view 'card_activity' has no feature 'tx_count'",
        ),
        (
            ask(&[], &[card()], None),
            Code::InvalidArgument,
            "features: none is named",
        ),
        (
            ask(&["card_activity"], &[], None),
            Code::InvalidArgument,
            "keys: 'card_id' is missing: card_activity is asked for by it",
        ),
        (
            ask(&["card_activity"], &[("card", texts(&["c1"]))], None),
            Code::InvalidArgument,
            "keys: 'card_id' is missing: card_activity is asked for by it, and not by 'card'",
        ),
        (
            ask(
                &["card_activity"],
                &[card(), ("terminal_id", texts(&["t1"]))],
                None,
            ),
            Code::InvalidArgument,
            "keys: 'terminal_id' names no entity here",
        ),
        (
            ask(
                &["card_activity", "terminal_risk"],
                &[card(), ("terminal_id", texts(&["t1", "t2"]))],
                None,
            ),
            Code::InvalidArgument,
            "keys[\"terminal_id\"]: it has 2 values, and keys[\"card_id\"] has 1",
        ),
        (
            ask(&["card_activity"], &[("card_id", double)], None),
            Code::InvalidArgument,
            "keys[\"card_id\"][0]: it is a double, and the column is of type Utf8",
        ),
        (
            ask(&["card_activity"], &[("card_id", null)], None),
            Code::InvalidArgument,
            "it is null",
        ),
        (
            ask(&["card_activity"], &[("card_id", both)], None),
            Code::InvalidArgument,
            "a column is of one kind",
        ),
        (
            ask(&["card_activity"], &[("card_id", many)], None),
            Code::InvalidArgument,
            "10001 in one call; at most 10000 are answered: StreamFeatures takes more",
        ),
        (
            bad_time,
            Code::InvalidArgument,
            "as_of: its nanos are -1: they are 0 to 999,999,999",
        ),
        (
            ask(&["card_activity"], &[card()], Some(NOON - 1)),
            Code::OutOfRange,
            "view 'card_activity' answers from 2018-04-01T12:00:00Z on",
        ),
    ];
    for (request, code, message) in cases {
        let status = client.get_features(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(message), "{status}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert!(!violations.is_empty(), "{status}");
        for violation in violations {
            // The field has a place of its own.
            let repeated = format!("{}: ", violation.field);
            assert!(!violation.description.starts_with(&repeated), "{status}");
        }
    }
    let edge = ask(&["card_activity"], &[card()], Some(NOON));
    client.get_features(edge).await.unwrap();
}

/// As of an older time the events of its step are known in sum alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_step_is_asked_about_as_of_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("features")).unwrap();
    write("millrace.toml", "[store]\nhistory = \"1d\"\n");
    write(
        "sources.sql",
        "CREATE EXTERNAL TABLE tx (card_id VARCHAR NOT NULL, at TIMESTAMP NOT NULL)
         STORED AS KAFKA LOCATION 'tx' WITH ORDER (at)",
    );
    write(
        "features/v.sql",
        "CREATE VIEW v WITH (resolution = '1 minute', late = '10 minutes') AS SELECT card_id,
         count(*) OVER (PARTITION BY card_id ORDER BY at RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS n FROM tx",
    );
    let live = Live {
        workspace: Arc::new(Workspace::open(folder.path()).unwrap()),
        scorer: None,
        ..live()
    };
    live.progress.reflect("tx", NOON + 30 * 1_000_000);
    let mut client = FeatureServiceClient::new(connect(live).await);
    let settled = NOON - 10 * MINUTE;
    let cases = [
        (settled - 1, Some("ask as of 2018-04-01T11:49:00")),
        (settled - MINUTE, None),
        (settled, None),
        (settled + 1, None),
        (NOON + DAY, None),
        (NOON - 2 * DAY, Some("is too early")),
    ];
    for (as_of, refusal) in cases {
        let request = ask(&["v"], &[("card_id", texts(&["c1"]))], Some(as_of));
        let answer = client.get_features(request).await;
        match (answer, refusal) {
            (Ok(answer), None) => assert_eq!(whole(&answer.into_inner().views[0], "n"), [0]),
            (Err(status), Some(message)) => {
                assert_eq!(status.code(), Code::OutOfRange, "{status}");
                assert!(status.message().contains(message), "{status}");
            }
            (answer, _) => panic!("as of {as_of}: {answer:?}"),
        }
    }
}

/// What has expired does not come back with a longer history: it is refused as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_history_answers_no_earlier() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("features")).unwrap();
    write(
        "sources.sql",
        "CREATE EXTERNAL TABLE tx (card_id VARCHAR NOT NULL, at TIMESTAMP NOT NULL)
         STORED AS KAFKA LOCATION 'tx' WITH ORDER (at)",
    );
    write(
        "features/v.sql",
        "CREATE VIEW daily AS SELECT card_id, count(*) OVER
           (PARTITION BY card_id ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW) AS n FROM tx;
         CREATE VIEW life WITH (resolution = '1 minute', late = '10 minutes') AS SELECT card_id, count(*) OVER
           (PARTITION BY card_id ORDER BY at RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS n FROM tx;",
    );
    let store = live().store;
    let mut marks = Marks::default();
    marks.advance("tx", NOON);
    let mut newest = Commit::default();
    marks.write(&mut newest);
    store.commit(newest).unwrap();
    // The last is a process that does not read.
    for (history, reads) in [("20d", true), ("60d", true), ("60d", false)] {
        write(
            "millrace.toml",
            &format!("[store]\nhistory = \"{history}\"\n"),
        );
        let live = Live {
            workspace: Arc::new(Workspace::open(folder.path()).unwrap()),
            store: Arc::clone(&store),
            scorer: None,
            ..live()
        };
        match reads {
            true => drop(Pipeline::new(live.clone(), None).unwrap()),
            false => live.progress.set_gone(Gone::read(store.as_ref()).unwrap()),
        }
        let mut client = FeatureServiceClient::new(connect(live).await);
        for view in ["daily", "life"] {
            let ask = |days: i64| {
                ask(
                    &[view],
                    &[("card_id", texts(&["c1"]))],
                    Some(NOON - days * DAY),
                )
            };
            let status = client.get_features(ask(30)).await.unwrap_err();
            assert!(status.message().contains("is too early"), "{status}");
            let answer = get(&mut client, &ask(20)).await;
            assert_eq!(
                answer.views[0].answers_since,
                Some(timestamp(NOON - 20 * DAY)),
                "{view}"
            );
        }
    }
}
