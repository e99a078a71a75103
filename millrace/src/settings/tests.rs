//! What a file of settings, and changes of it, are read as.

#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn an_empty_file_is_the_defaults() {
    let settings: Settings = toml::from_str("").unwrap();
    assert_eq!(settings.kafka.group, "millrace");
    assert!(settings.model.is_none());
}

/// docs/settings.md shows every setting with its default: what it shows must parse, and be the default.
#[test]
fn the_reference_is_the_defaults() {
    let page = include_str!("../../../docs/settings.md");
    let block = page
        .split("```toml")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let shown: Settings = toml::from_str(block).unwrap();
    let least = "[model]\ninputs = 'fraud_inputs'\nlabel = 'labels.is_fraud'";
    let defaults: Settings = toml::from_str(least).unwrap();
    assert_eq!(format!("{shown:#?}"), format!("{defaults:#?}"));
}

#[test]
fn settings_can_be_changed_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[model]\ninputs='a'\nlabel='b.c'\nevery='1h'\n";
    std::fs::write(folder.path().join("millrace.toml"), text).unwrap();
    let read = |changes: &[&str]| {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        Settings::read_with(folder.path(), &changes)
    };
    let changed = read(&[
        "model.every=6h",
        "learner.training.hidden=[32]",
        "learner.gate.tolerance=0.5",
    ]);
    let changed = changed.unwrap();
    assert_eq!(changed.model.unwrap().every, Duration::from_secs(6 * 3_600));
    assert_eq!(changed.learner.training.hidden, [32]);
    assert_eq!(changed.learner.gate.tolerance, 0.5);
    let every = read(&["learner.every=12h"]).unwrap().model.unwrap().every;
    assert_eq!(every, Duration::from_secs(12 * 3_600));
    assert_eq!(read(&["kafka.group=7"]).unwrap().kafka.group, "7");
    for (wrong, message) in [
        ("learner.training.member=3", "unknown field `member`"),
        ("learner.training.member=3", "did you mean 'members'?"),
        (
            "learner.replay_frauds=3",
            "unknown field `replay_frauds`\n  hint: did you mean 'learner.training.replay_frauds'?",
        ),
        ("model.min_labels=-1", "-1 is not a whole number"),
        (
            "learner.seed=18446744073709551615",
            "is too large: it can be 9223372036854775807 at most",
        ),
        ("modle.every=6h", "did you mean 'model'?"),
        (
            "model.settling=soon",
            "write 90s, 15m, 1h or 7d, or auto\n  hint: its default is settling = \"auto\"",
        ),
        ("model.settling=60d", "is not shorter than store.examples"),
        ("model.calibration=platt", "unknown variant `platt`"),
        ("model.calibration=platt", "hint: there are auto, none;"),
        ("model.every=24", "'24' lacks a unit: write 90s, 15m, 1h"),
        ("model.every=1 fortnight", "not a length of time"),
        (
            "model.every=1 fortnight",
            "hint: its default is every = \"1h\"",
        ),
        ("learner.device=gpu", "hint: its default is device = "),
        (
            "learner.gate.min_rows=0",
            "error: learner.gate.min_rows=0: learner.gate.min_rows: 0 is below 1",
        ),
        ("model.every=1ns", "error: model.every=1ns: model.every is"),
        ("model.every", "gives no value"),
        ("model.every.x=3", "no section"),
    ] {
        let failure = read(&[wrong]).unwrap_err().to_string();
        assert!(
            failure.contains(message) && failure.contains(wrong),
            "{failure}"
        );
    }
}

#[test]
fn a_name_that_is_near_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let said = |text: &str| {
        std::fs::write(folder.path().join("millrace.toml"), text).unwrap();
        Settings::read(folder.path()).unwrap_err().to_string()
    };
    assert_eq!(
        said("\n[modle]\ninputs = 'a'"),
        "error: millrace.toml:2:2: unknown field `modle`\n  hint: did you mean 'model'? docs/settings.md lists \
         every setting"
    );
    assert!(
        said("[kafka]\nbrokers = 127.0.0.1:9092").contains(": this is no number; a text stands")
    );
    assert!(said("[topics]\nfoo = 1").contains("hint: there are partitions; "));
    assert_eq!(
        said("[learner]\nreplay_frauds = 5"),
        "error: millrace.toml:2:1: unknown field `replay_frauds`\n  hint: did you mean \
         'learner.training.replay_frauds'? docs/settings.md lists every setting"
    );
    assert_eq!(
        said("[server]\nlisten = '7077'"),
        "error: millrace.toml:2:10: '7077' is not an address and its port\n  hint: its default is listen = \
         \"127.0.0.1:7077\"; docs/settings.md says what it is"
    );
    for (text, expected) in [
        (
            "[learner.gate]\nmin_rows = 5\ncanary = [50, 10]",
            "error: millrace.toml:3:10: learner.gate.canary: [50, 10] does not rise from 1 to 99\n",
        ),
        (
            "learner.training = { passes = 2, members = 0 }",
            "error: millrace.toml:1:44: learner.training.members: 0 is below 1\n",
        ),
        (
            "[kafka.properties]\n\"security.protocl\" = \"ssl\"",
            "error: millrace.toml:2:22: kafka.properties: \"security.protocl\" is no property of Kafka's client\n",
        ),
        (
            "[score_log]\nlocation = \"\"",
            "error: millrace.toml:2:12: score_log.location is empty",
        ),
        (
            // The other address is the default.
            "[server]\nlisten = \"127.0.0.1:9187\"",
            "error: millrace.toml: server.metrics is the address of server.listen\n",
        ),
    ] {
        let said = said(text);
        assert!(said.starts_with(expected), "{text}: {said}");
    }
    assert_eq!(
        said("[learner]\nseed = 18446744073709551615"),
        "error: millrace.toml:2:8: this is too large: a whole number is 9223372036854775807 at most\n  hint: its \
         default is seed = 0; docs/settings.md says what it is"
    );
}

#[test]
fn a_password_in_a_list_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let said = |text: &str, changes: &[String]| {
        std::fs::write(folder.path().join("millrace.toml"), text).unwrap();
        let read = Settings::read_with(folder.path(), changes);
        read.unwrap_err().to_string()
    };
    for value in ["[\"hunter2\"]", "[[\"hunter2\"]]", "2.25", "true"] {
        let text = format!("[kafka.properties]\n\"sasl.password\" = {value}");
        let error = said(&text, &[]);
        let start = "error: millrace.toml:2:2: kafka.properties: \"sasl.password\": a property of";
        assert!(error.starts_with(start), "{error}");
        assert!(
            !error.contains(value) && !error.contains("hunter2"),
            "{error}"
        );
    }
    let change = "kafka.properties.password=[\"hunter2\"]".to_owned();
    let error = said("", &[change]);
    assert!(error.contains("kafka.properties: \"password\""), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn mistakes_are_named() {
    let wrong = |text: &str| toml::from_str::<Settings>(text).unwrap_err().to_string();
    assert!(wrong("[kafka]\nbroker = 'x'").contains("broker"));
    assert!(wrong("[model]\ninputs='a'\nlabel='b.c'\nevery='1 fortnight'").contains("1h"));
    assert!(wrong("[model]\ninputs='a'\nlabel='b.c'\nevery='0s'").contains("no time at all"));
    let decisions = |text: &str| {
        wrong(&format!(
            "[model]\ninputs='a'\nlabel='b.c'\ndecisions={text}"
        ))
    };
    assert!(decisions("{ review = 20 }").contains("a probability is 0 to 1"));
    assert!(decisions("{ a = 0.5, b = 0.5 }").contains("both hold from 0.5 on"));
}

#[test]
fn traces_go_to_an_address_over_http() {
    let read = |text: &str| toml::from_str::<Settings>(&format!("[traces]\n{text}"));
    let traces = read("endpoint = 'https://collector:4318'").unwrap().traces;
    assert_eq!(traces.endpoint.unwrap().host_str(), Some("collector"));
    assert!(Settings::default().traces.endpoint.is_none());
    for (wrong, message) in [
        ("endpoint = 'localhost:4318'", "write http://localhost:4318"),
        ("endpoint = ''", "write http://localhost:4318"),
        ("sample = 1.5", "0 to 1"),
        ("sample = nan", "0 to 1"),
    ] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.contains(message), "{wrong}: {error}");
    }
}

#[test]
fn a_probability_leads_to_the_highest_decision_that_it_reaches() {
    let thresholds = [("decline", 0.7), ("approve", 0.0), ("review", 0.2)];
    let thresholds = thresholds.map(|(name, from)| (name.to_owned(), from));
    let decisions = Decisions::try_from(BTreeMap::from(thresholds)).unwrap();
    let cases = [
        (0.0, "approve"),
        (0.1999, "approve"),
        (0.2, "review"),
        (1.0, "decline"),
    ];
    for (probability, expected) in cases {
        assert_eq!(decisions.of(probability), Some(expected));
    }
    let again: Decisions = serde_json::from_str(&decisions.to_json()).unwrap();
    assert_eq!(again, decisions);
    assert_eq!(Decisions::default().of(0.9), None);
}
