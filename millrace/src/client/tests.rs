//! Commands against a real server over a store in memory.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::failure::{Kind, Outcome};
use crate::registry::Place;
use crate::serve::tests::{commit, live, payment, registry, start};

fn events(lines: &[String]) -> impl Iterator<Item = Outcome<Event>> {
    let lines = lines.iter().cloned().enumerate();
    lines.map(|(index, json)| {
        Ok(Event {
            place: format!("line {}", index + 1),
            json: Ok(json),
        })
    })
}

/// The `id`s of printed scores.
fn ids(out: &[u8]) -> Vec<String> {
    let lines = std::str::from_utf8(out).unwrap().lines();
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].clone();
    lines
        .map(|line| id(line).as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_events_are_scored_in_order_whatever_stands_between() {
    let server = Server::at(start(live()).await.to_string());
    let mut lines: Vec<String> = (0..1_203)
        .map(|i| payment(&format!("tx{i}"), "c1", 1.0, 0))
        .collect();
    for bad in [0, 7, 8, 499, 500, 1_202] {
        lines[bad] = "{}".to_owned();
    }
    let mut out = Vec::new();
    let failure = score_events(&server, events(&lines), false, Shown::ALL, &mut out)
        .await
        .unwrap_err();
    assert_eq!(failure.kind, Kind::Input);
    assert_eq!(failure.message, "6 of 1203 events were not scored");
    let expected: Vec<String> = (0..1_203)
        .filter(|i| lines[*i] != "{}")
        .map(|i| format!("tx{i}"))
        .collect();
    assert_eq!(ids(&out), expected);

    let mut out = Vec::new();
    score_events(&server, events(&lines[1..2]), true, Shown::ALL, &mut out)
        .await
        .unwrap();
    let score: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(score["event_time"], "2018-04-01T12:00:00Z");
    assert_eq!(score["score"], serde_json::Value::Null);
    assert_eq!(score["decision"], serde_json::Value::Null);
    assert_eq!(score["inputs"]["amount"], 1.0);

    // A person sees the first ones; each is scored all the same.
    let some = Shown {
        scores: 20,
        faults: 1,
    };
    let mut out = Vec::new();
    let failure = score_events(&server, events(&lines), false, some, &mut out)
        .await
        .unwrap_err();
    assert_eq!(ids(&out), expected[..20]);
    assert_eq!(failure.message, "6 of 1203 events were not scored");
    assert!(failure.hint.unwrap().contains("--all-refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_say_what_to_do() {
    let live = live();
    commit(&live, &[payment("a", "c1", 10.0, 0)]);
    let server = Server::at(start(live).await.to_string());
    let card = ["card_id=c1".to_owned()];
    let get = |view: &'static str, keys: Vec<String>, as_of: Option<&'static str>| {
        let server = server.clone();
        async move { features_get(&server, view, &keys, as_of).await }
    };
    get("card_activity", card.to_vec(), Some("2018-04-01 12:30:00"))
        .await
        .unwrap();
    let cases = [
        (
            get("card_activiti", card.to_vec(), None).await,
            "did you mean 'card_activity'?",
        ),
        (
            get("card_activity", vec![], None).await,
            "'card_id' is missing",
        ),
        (
            get("card_activity", vec!["c1".to_owned()], None).await,
            "'c1' is no key",
        ),
        (
            get("card_activity", card.to_vec(), Some("soon")).await,
            "--as-of: 'soon'",
        ),
    ];
    for (outcome, message) in cases {
        let failure = outcome.unwrap_err();
        assert_eq!(failure.kind, Kind::Input, "{failure}");
        assert!(failure.message.contains(message), "{failure}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_so() {
    // The port was free a moment ago, and is so again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = free.local_addr().unwrap().to_string();
    drop(free);
    let failure = features_get(&Server::at(&server), "card_activity", &[], None)
        .await
        .unwrap_err();
    assert_eq!(failure.kind, Kind::Failed);
    assert!(
        failure
            .message
            .contains(&format!("no Millrace server answers at {server}"))
    );
    assert!(failure.hint.unwrap().contains("millrace run"));
    for wrong in ["no address", "htps://localhost:7077"] {
        let failure = features_get(&Server::at(wrong), "v", &[], None)
            .await
            .unwrap_err();
        assert_eq!(failure.kind, Kind::Input);
    }
}

/// A server that is encrypted, and lets in who shows a certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tls_is_asked() {
    use crate::serve::tls::{TlsSettings, tests::authority, tests::signed_by};
    let (ours, clients) = (authority(), authority());
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, pem: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, pem).unwrap();
        file
    };
    let (certificate, key) = signed_by(&ours);
    let mut live = live();
    commit(&live, &[payment("a", "c1", 10.0, 0)]);
    let workspace = std::sync::Arc::get_mut(&mut live.workspace).unwrap();
    workspace.settings.server.tls = Some(TlsSettings {
        certificate: put("server.pem", &certificate),
        key: put("server.key", &key),
        client_ca: Some(put("clients.pem", &clients.pem())),
    });
    let port = start(live).await.port();
    let (certificate, key) = signed_by(&clients);
    let server = Server {
        address: format!("https://localhost:{port}"),
        ca: Some(put("ca.pem", &ours.pem())),
        certificate: Some(put("client.pem", &certificate)),
        key: Some(put("client.key", &key)),
    };
    let card = ["card_id=c1".to_owned()];
    let ask = async |server: Server| features_get(&server, "card_activity", &card, None).await;
    ask(server.clone()).await.unwrap();
    let another = Server {
        ca: Some(put("other.pem", &clients.pem())),
        ..server.clone()
    };
    let plain = Server::at(format!("localhost:{port}"));
    let bare = Server {
        certificate: None,
        key: None,
        ..server.clone()
    };
    let half = Server {
        key: None,
        ..server.clone()
    };
    let absent = Server {
        ca: Some("/nowhere/ca.pem".into()),
        ..server.clone()
    };
    let elsewhere = Server {
        address: format!("https://127.0.0.1:{port}"),
        ..server.clone()
    };
    for (server, kind, said) in [
        (another, Kind::Failed, "--ca FILE"),
        (plain, Kind::Failed, "--server https://localhost"),
        (bare, Kind::Failed, "--certificate FILE --key FILE"),
        (half, Kind::Input, "--key FILE"),
        (absent, Kind::Input, "/nowhere/ca.pem: No such file"),
        (
            elsewhere,
            Kind::Failed,
            "a name that the certificate is for",
        ),
    ] {
        let failure = ask(server).await.unwrap_err();
        assert!(failure.to_string().contains(said), "{said}: {failure}");
        assert_eq!(failure.kind, kind, "{failure}");
    }
}

#[test]
fn an_answer_keeps_the_order_of_its_columns() {
    use millrace_proto::v1::{Column, GetFeaturesResponse, ViewFeatures};
    let column = |name: &str| Column {
        name: name.to_owned(),
        ..Column::default()
    };
    let view = ViewFeatures {
        features: vec![
            Column {
                int64s: vec![3],
                ..column("b")
            },
            Column {
                doubles: vec![f64::NAN],
                ..column("m")
            },
            Column {
                bytes: vec![vec![0, 255]],
                ..column("n")
            },
            Column {
                doubles: vec![0.0],
                nulls: vec![0],
                ..column("a")
            },
        ],
        statuses: vec![1],
        status: 2,
        ..ViewFeatures::default()
    };
    let answer = GetFeaturesResponse {
        views: vec![view],
        as_of: Some(crate::serve::timestamp(1)),
        first_row: 0,
    };
    assert_eq!(
        features::answer_json(&["z=c\"1".to_owned()], &answer).unwrap(),
        r#"{"z":"c\"1","b":3,"m":null,"n":"00ff","a":null,"as_of":"1970-01-01T00:00:00.000001Z","complete_until":null,"entity":"present","status":"behind"}"#
    );
}

#[test]
fn lines_of_a_file_know_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    std::fs::write(&path, b"{}\n\n  \r\n\xff\n{\"a\":1}").unwrap();
    let lines: Vec<Event> = json_lines(&path).unwrap().map(Result::unwrap).collect();
    let places: Vec<&str> = lines
        .iter()
        .filter_map(|e| e.place.rsplit(':').next())
        .collect();
    assert_eq!(places, ["1", "4", "5"]);
    assert_eq!(lines[0].json, Ok("{}".to_owned()));
    assert!(lines[1].json.is_err());
    assert!(json_lines(&folder.path().join("none")).is_err());
    let folder = json_lines(folder.path()).unwrap().next().unwrap();
    assert!(folder.unwrap_err().message.contains("is a folder"));
}

#[test]
fn the_table_of_models_says_what_is_not_known_yet() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path());
    let (version, state) = (3, millrace_learner::State::Champion);
    let event = millrace_learner::Event::Version {
        version,
        state,
        comparison: None,
        made: None,
    };
    let entry = millrace_learner::Entry {
        at_us: 0,
        event,
        reason: None,
        cause: None,
    };
    registry.note(&entry).unwrap();
    let versions = crate::serve::versions(&registry).unwrap();
    let numbers = |most: usize| -> Vec<u64> {
        let newest = models::newest(&versions, most).into_iter();
        newest.map(|version| version.manifest.version).collect()
    };
    assert_eq!(numbers(20), [3, 2, 1]);
    assert_eq!(numbers(1), [3]);
    let table = models::table(&models::newest(&versions, 20)).to_string();
    let row = |version: &str| {
        let row = table
            .lines()
            .find(|line| {
                line.trim_start_matches('│')
                    .trim_start()
                    .starts_with(version)
            })
            .unwrap()
            .to_owned();
        row.split(['│', '┆'])
            .map(|c| c.trim().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        row("1 ")[1..8],
        [
            "1",
            "–",
            "–",
            "2018-04-01T12:00:00Z",
            "32",
            "0.5000",
            "0.2500"
        ]
    );
    assert_eq!(
        row("3 *")[1..8],
        [
            "3 *",
            "1",
            "champion",
            "2018-04-01T12:00:00Z",
            "32",
            "–",
            "–"
        ]
    );
    let json = models::version_json(&versions[2]);
    assert_eq!(
        (&json["champion"], &json["labels"]),
        (&true.into(), &32.into())
    );
    assert_eq!(
        json["prequential_average_precision"],
        serde_json::Value::Null
    );

    // What a person decides, and what cannot be decided.
    let path = &Place::Folder(folder.path().to_owned());
    models::models_traffic(path, None, 2, 20).unwrap();
    assert_eq!(registry.challenger().unwrap(), Some((2, 20)));
    models::models_promote(path, None, 2).unwrap();
    assert_eq!(
        (registry.champion().unwrap(), registry.challenger().unwrap()),
        (Some(2), None)
    );
    models::models_rollback(path, None, None).unwrap();
    assert_eq!(registry.champion().unwrap(), Some(3));
    assert_eq!(
        registry.state(2).unwrap().unwrap().0,
        millrace_learner::State::RolledBack
    );
    models::models_rollback(path, None, Some(1)).unwrap();
    assert_eq!(registry.champion().unwrap(), Some(1));
    let said = |result: crate::failure::Outcome<()>| result.unwrap_err().to_string();
    assert!(said(models::models_promote(path, None, 9)).contains("versions 1 to 3 are kept"));
    assert!(said(models::models_show(path, 9)).contains("versions 1 to 3 are kept"));
    assert!(said(models::models_traffic(path, None, 1, 5)).contains("is the champion"));
    assert!(said(models::models_traffic(path, None, 2, 100)).contains("models promote 2"));
    assert!(said(models::models_rollback(path, None, None)).contains("--to VERSION"));
    let file = folder.path().join("model.onnx");
    assert!(said(models::models_export(path, Some(9), &file)).contains("versions 1 to 3 are kept"));

    // What cannot be loaded gets no traffic, and can be left.
    let cut = |version: &str| {
        let weights = folder.path().join(version).join("weights.safetensors");
        let whole = std::fs::read(&weights).unwrap();
        std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
        weights.display().to_string()
    };
    let weights = cut("v000002");
    for refused in [
        models::models_promote(path, None, 2),
        models::models_traffic(path, None, 2, 20),
        models::models_rollback(path, None, Some(2)),
    ] {
        let said = said(refused);
        assert!(
            said.contains(&format!("version 2 cannot serve: {weights}")),
            "{said}"
        );
        assert!(said.contains("hint: nothing was changed"), "{said}");
    }
    assert_eq!(registry.champion().unwrap(), Some(1));
    let weights = cut("v000001");
    let exported = said(models::models_export(path, None, &file));
    assert!(exported.contains(&weights), "{exported}");
    assert!(
        exported.contains("`millrace models rollback`"),
        "{exported}"
    );
    assert!(!file.exists());
    models::models_rollback(path, None, Some(3)).unwrap();
    assert_eq!(registry.champion().unwrap(), Some(3));

    let nowhere = &Place::Folder("/nowhere/models".into());
    assert!(said(models::models_promote(nowhere, None, 1)).contains("no model yet"));
    models_list(nowhere, true, None, String::new).unwrap();
    assert!(!Path::new("/nowhere/models").exists());
}

#[test]
fn versions_that_have_traffic_are_listed_however_old_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path());
    let path = &Place::Folder(folder.path().to_owned());
    let listed = |most: usize| -> Vec<u64> {
        let versions = crate::serve::versions(&registry).unwrap();
        let newest = models::newest(&versions, most).into_iter();
        newest.map(|version| version.manifest.version).collect()
    };
    models::models_promote(path, None, 2).unwrap();
    assert_eq!(listed(1), [3, 2]);
    models::models_traffic(path, None, 1, 40).unwrap();
    assert_eq!(listed(1), [3, 2, 1]);
    models::models_traffic(path, None, 1, 0).unwrap();
    assert_eq!(listed(1), [3, 2]);
}

#[test]
fn a_version_of_other_inputs_gets_no_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(folder.path());
    let path = &Place::Folder(folder.path().to_owned());
    let live = live();
    let plan = live.workspace.model.as_ref();
    let refused = |outcome: Outcome<()>| {
        let failure = outcome.unwrap_err();
        assert_eq!(failure.kind, Kind::Input, "{failure}");
        assert!(
            failure
                .message
                .contains("has other inputs than the project"),
            "{failure}"
        );
        failure.hint.unwrap()
    };
    let hint = refused(models::models_promote(path, plan, 2));
    assert!(hint.contains("no version fits"), "{hint}");
    let (manifest, checkpoint) = crate::serve::tests::model(&live);
    let publish = || registry.publish(manifest.clone(), &checkpoint).unwrap();
    assert_eq!(publish(), 4);
    for outcome in [
        models::models_promote(path, plan, 2),
        models::models_traffic(path, plan, 2, 20),
        models::models_rollback(path, plan, Some(2)),
    ] {
        let hint = refused(outcome);
        assert!(hint.ends_with("; version 4 fits"), "{hint}");
    }
    assert_eq!(registry.champion().unwrap(), Some(3));
    models::models_promote(path, plan, 4).unwrap();
    assert_eq!(registry.champion().unwrap(), Some(4));
    assert_eq!(publish(), 5);
    let hint = refused(models::models_promote(path, plan, 1));
    assert!(hint.ends_with("; versions 5, 4 fit"), "{hint}");
    (6..=9).for_each(|version| assert_eq!(publish(), version));
    let hint = refused(models::models_promote(path, plan, 1));
    assert!(
        hint.ends_with("; 6 versions fit, the newest of them 9, 8, 7, 6, 5"),
        "{hint}"
    );
}

#[test]
fn what_the_first_version_waits_for_is_said() {
    let settings: crate::settings::Settings = toml::from_str(
        "[model]\ninputs = 'i'\nlabel = 'l.x'\nmin_labels = 100\nmin_frauds = 5\nevery = '1h'",
    )
    .unwrap();
    let said = |labels, frauds| models::how_far(settings.model.as_ref().unwrap(), labels, frauds);
    assert!(
        said(99, 7)
            .ends_with("the first version needs 100 and 5 (model.min_labels, model.min_frauds)")
    );
    assert!(said(120, 4).contains("needs 100 and 5"));
    assert!(said(120, 7).contains("enough"), "{}", said(120, 7));
    assert!(said(120, 70).contains("enough"), "{}", said(120, 70));
    assert!(said(120, 71).contains("half must say genuine"));
    assert!(said(120, 7).ends_with("has ended in event time (model.every, 1h)"));
}

#[tokio::test]
async fn an_address_without_a_host_or_a_port_is_none() {
    for (address, message, hint) in [
        (
            "7277",
            "is a port, and names no host",
            "--server 127.0.0.1:7277",
        ),
        (
            ":7277",
            "is a port, and names no host",
            "--server 127.0.0.1:7277",
        ),
        ("localhost", "names no port", "--server localhost:7077"),
    ] {
        let keys = ["card_id=c1".to_owned()];
        let asked = super::features_get(&Server::at(address), "card_activity", &keys, None).await;
        let failure = asked.unwrap_err();
        assert_eq!(failure.kind, Kind::Input);
        assert!(failure.message.contains(message), "{failure}");
        assert!(failure.hint.unwrap().contains(hint));
    }
}
