//! Scores of events, from JSON and in columns, and what is wrong with events.

use std::sync::Arc;

use millrace_feature_store::MemoryStore;
use millrace_features::category_code;
use millrace_proto::v1::model_service_client::ModelServiceClient;
use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::{Column, ListModelsRequest, ScoreRequest};
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    DAY, MINUTE, NOON, commit, connect, decode, live, payment, score, serve_model, texts,
    with_a_text,
};
use crate::live::Live;
use crate::score_log::tests::live_of;
use crate::score_topic::score_json;
use crate::serve::{MAX_ITEMS, timestamp};
use crate::state::Committed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_scored_as_of_their_own_time() {
    let live = live();
    let history = [payment("a", "c1", 10.0, 0), payment("b", "c1", 30.0, 50)];
    commit(&live, &history);
    let mut client = ScoringServiceClient::new(connect(live.clone()).await);

    let events = vec![payment("x", "c1", 60.0, 55), payment("y", "c1", 60.0, 20)];
    let answer = client
        .score(score(events.clone(), true))
        .await
        .unwrap()
        .into_inner();
    let [x, y] = &answer.scores[..] else {
        panic!("{answer:?}")
    };
    assert_eq!((x.id.as_str(), y.id.as_str()), ("x", "y"));
    assert_eq!(x.event_time, Some(timestamp(NOON + 55 * MINUTE)));
    assert_eq!((x.probability, x.model_version), (None, 0));
    assert_eq!(x.inputs["amount"], 60.0);
    assert_eq!(x.inputs["amount_over_avg_7d"], 3.0);
    assert_eq!(y.inputs["amount_over_avg_7d"], 6.0);
    assert_eq!(
        (x.inputs["tx_count_1h"], y.inputs["tx_count_1h"]),
        (2.0, 1.0)
    );
    // No label is known at the terminal, so its share of frauds is null.
    assert!(!x.inputs.contains_key("terminal_risk_1d"));
    // Its name is there all the same.
    let names = &answer.input_names;
    assert!(names.contains(&"terminal_risk_1d".to_owned()), "{names:?}");

    serve_model(&live);
    let answer = client
        .score(score(events, false))
        .await
        .unwrap()
        .into_inner();
    assert!(answer.input_names.is_empty());
    for score in &answer.scores {
        assert!((0.0..=1.0).contains(&score.probability.unwrap()));
        assert_eq!(score.model_version, 1);
        assert!(score.inputs.is_empty());
    }
    let none = client
        .score(score(vec![], false))
        .await
        .unwrap()
        .into_inner();
    assert!(none.scores.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_events_reasons_and_streams_say_the_same() {
    let live = live();
    commit(&live, &[payment("a", "c1", 10.0, 0)]);
    serve_model(&live);
    let mut client = ScoringServiceClient::new(connect(live).await);

    let from_json = ScoreRequest {
        top_reasons: Some(3),
        ..score(vec![payment("x", "c1", 60.0, 55)], true)
    };
    let time = crate::times::rfc3339(NOON + 55 * MINUTE);
    let columns = [
        ("tx_id", texts(&["x"])),
        ("card_id", texts(&["c1"])),
        ("terminal_id", texts(&["t1"])),
        ("event_time", texts(&[&time])),
        (
            "amount",
            Column {
                doubles: vec![60.0],
                ..Column::default()
            },
        ),
    ];
    let columns = columns.map(|(name, column)| (name.to_owned(), column));
    let typed = ScoreRequest {
        event_json: vec![],
        columns: columns.into_iter().collect(),
        ..from_json.clone()
    };
    let said = client.score(from_json.clone()).await.unwrap().into_inner();
    let again = client.score(typed.clone()).await.unwrap().into_inner();
    assert_eq!(said, again);
    let reasons = &said.scores[0].reasons;
    assert_eq!(reasons.len(), 3);
    let strength: Vec<f64> = reasons.iter().map(|r| r.contribution.abs()).collect();
    assert!(strength.is_sorted_by(|a, b| a >= b), "{strength:?}");
    for reason in reasons {
        assert_eq!(
            reason.value,
            said.scores[0].inputs.get(&reason.input).copied()
        );
    }

    let mut missing = typed.clone();
    missing.columns.remove("card_id");
    let mut typo = typed.clone();
    typo.columns.insert("amuont".to_owned(), texts(&["1"]));
    let mut both = typed.clone();
    both.event_json = from_json.event_json.clone();
    let mut endless = typed.clone();
    let amounts = &mut endless.columns.get_mut("amount").unwrap().doubles;
    *amounts.last_mut().unwrap() = f64::INFINITY;
    for (request, message) in [
        (
            endless,
            "columns[\"amount\"][0]: unparsable: it is not a finite number",
        ),
        (missing, "columns[\"card_id\"][0]: missing_field"),
        (typo, "did you mean 'amount'?"),
        (both, "and both are given"),
    ] {
        let status = client.score(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(message), "{status}");
    }

    let bad = score(vec!["{".to_owned()], false);
    let requests = [from_json.clone(), from_json.clone(), bad, from_json];
    let answers = client.score_stream(tokio_stream::iter(requests)).await;
    let answers: Vec<_> = answers.unwrap().into_inner().collect().await;
    let codes: Vec<Code> = answers
        .iter()
        .map(|answer| answer.as_ref().map_or_else(Status::code, |_| Code::Ok))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::InvalidArgument]);
    assert_eq!(answers[1].as_ref().unwrap(), &said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_is_text_is_told_as_it_is() {
    let (_folder, workspace) = with_a_text();
    let live = live_of(workspace, Arc::new(MemoryStore::new()));
    serve_model(&live);
    let mut client = ScoringServiceClient::new(connect(live.clone()).await);
    let event = payment("x", "c1", 60.0, 55);
    let request = ScoreRequest {
        top_reasons: Some(100),
        ..score(vec![event.clone()], true)
    };
    let answer = client.score(request).await.unwrap().into_inner();
    let said = &answer.scores[0];
    let place = said.text_inputs.get("place").map(String::as_str);
    assert_eq!((place, said.text_inputs.len()), (Some("t1"), 1));
    assert!(!said.inputs.contains_key("place"), "{:?}", said.inputs);
    assert_eq!(answer.input_names[..2], ["amount", "place"]);
    let reason = |input: &str| {
        let reason = said.reasons.iter().find(|reason| reason.input == input);
        let reason = reason.unwrap();
        (reason.value, reason.text.as_deref())
    };
    assert_eq!(reason("place"), (None, Some("t1")));
    assert_eq!(reason("amount"), (Some(60.0), None));

    // And in the topic of scores. What the model sees is its code.
    let scorer = live.scorer.as_ref().unwrap();
    let events = decode(&live, &[event]);
    let moment = live.store.moment();
    let scores = scorer.score(&Committed(moment.as_ref()), &events).unwrap();
    assert_eq!(scores.row(0)[1], category_code("t1"));
    assert_eq!(said.probability, scores.probability(0).map(f64::from));
    let message = score_json(&scorer.plan, "x", &events, &scores, 0);
    assert_eq!(message["inputs"]["place"], "t1");
    assert_eq!(message["inputs"]["amount"], 60.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_events_are_named() {
    let live = live();
    let view = live.workspace.project.view("card_activity").unwrap();
    live.store.horizons().set_view(view.id, NOON - 30 * DAY);
    let mut client = ScoringServiceClient::new(connect(live).await);
    let good = || payment("a", "c1", 10.0, 0);
    let ahead = (crate::times::now_us() - NOON) / MINUTE + 60;
    let cases = [
        (
            vec![good(), "{}".to_owned()],
            "event_json[1]: missing_field: ",
        ),
        (
            vec![good().replace("\"amount\"", "\"amout\"")],
            "event_json[0]: missing_field: `amount` is missing; it has 'amout', which stream 'transactions' does not \
             declare",
        ),
        (
            vec![good(), "nothing".to_owned(), "{".to_owned()],
            "event_json[1]: unparsable: ",
        ),
        (
            vec!["{".to_owned(), good(), "{".to_owned()],
            "(and 1 more are wrong)",
        ),
        (
            vec![good(), payment("b", "c1", 1.0, ahead)],
            "event_json[1]: future_event_time: ",
        ),
        (vec![good(); MAX_ITEMS + 1], "event_json: 10001 in one call"),
    ];
    for (events, message) in cases {
        let status = client.score(score(events, false)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(message), "{status}");
    }
    let early = vec![good(), payment("b", "c1", 1.0, -1)];
    let status = client.score(score(early, false)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(
        status
            .message()
            .starts_with("event_json[1]: 2018-04-01T11:59:00Z is too early")
    );
    let early = [-1, 0, -3, -2].map(|minute| payment("b", "c1", 1.0, minute));
    let status = client.score(score(early.to_vec(), false)).await;
    let details = status.unwrap_err().get_details_bad_request().unwrap();
    let named = details.field_violations.iter();
    let named: Vec<(&str, &str)> = named
        .map(|violation| (violation.field.as_str(), &violation.description[..20]))
        .collect();
    let expected = [
        ("event_json[2]", "2018-04-01T11:57:00Z"),
        ("event_json[0]", "2018-04-01T11:59:00Z"),
        ("event_json[3]", "2018-04-01T11:58:00Z"),
    ];
    assert_eq!(named, expected);
    let texts_of = |first: &str, second: &str| texts(&[first, second]);
    let times = [0, -1].map(|minute| crate::times::rfc3339(NOON + minute * MINUTE));
    let amounts = Column {
        doubles: vec![1.0, 1.0],
        ..Column::default()
    };
    let columns = [
        ("tx_id", texts_of("a", "b")),
        ("card_id", texts_of("c1", "c1")),
        ("terminal_id", texts_of("t1", "t1")),
        ("event_time", texts_of(&times[0], &times[1])),
        ("amount", amounts),
    ];
    let early = ScoreRequest {
        columns: columns
            .into_iter()
            .map(|(name, column)| (name.to_owned(), column))
            .collect(),
        ..ScoreRequest::default()
    };
    let status = client.score(early).await.unwrap_err();
    let place = "columns[\"event_time\"][1]: 2018-04-01T11:59:00Z is too early";
    assert!(status.message().starts_with(place), "{status}");
    // A bad event leaves nothing behind in the decoder.
    let answer = client
        .score(score(vec![good()], false))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.scores[0].id, "a");
}

#[tokio::test]
async fn a_project_without_a_model_has_no_scores() {
    let live = Live {
        scorer: None,
        ..live()
    };
    let channel = connect(live).await;
    let status = ScoringServiceClient::new(channel.clone())
        .score(score(vec![], false))
        .await;
    assert_eq!(status.unwrap_err().code(), Code::FailedPrecondition);
    let status = ModelServiceClient::new(channel)
        .list_models(ListModelsRequest {})
        .await;
    assert_eq!(status.unwrap_err().code(), Code::FailedPrecondition);
}
