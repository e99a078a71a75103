//! Which topics there must be, and what becomes of scores that are too large, against librdkafka's mock cluster.
#![allow(clippy::unwrap_used)]

use millrace_feature_store::MemoryStore;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::live::Live;
use crate::score_log::tests::live_of;
use crate::serve::tests::{decode, live, payment, with_a_text};
use crate::state::Committed;

#[test]
fn a_topic_that_is_not_there_is_named_with_what_is() {
    let live = live();
    let plan = live.workspace.model().unwrap();
    let check = |existing: &[&str]| {
        let existing: Vec<String> = existing.iter().map(|&name| name.to_owned()).collect();
        check_topic(plan, &existing)
    };
    assert!(check(&["labels", "scores"]).is_ok());
    let failure = check(&["labels", "transactions"]).unwrap_err().to_string();
    assert!(failure.contains("no topic `scores`"), "{failure}");
    assert!(failure.contains("--create-topics"), "{failure}");
    assert!(!failure.contains("did you mean"), "{failure}");
    let failure = check(&["Score"]).unwrap_err().to_string();
    assert!(failure.contains("did you mean 'Score'?"), "{failure}");
}

/// A project with a text among the inputs, and a cluster that its scores go to.
struct Setting {
    live: Live,
    topic: ScoreTopic,
    mock: MockCluster<'static, DefaultProducerContext>,
    _folder: tempfile::TempDir,
}

impl Setting {
    /// With a client that sends messages of at most so many bytes.
    fn new(max_bytes: usize) -> Self {
        let (folder, workspace) = with_a_text();
        let live = live_of(workspace, Arc::new(MemoryStore::new()));
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("scores", 1, 1).unwrap();
        let properties = [
            ("message.max.bytes".to_owned(), max_bytes.to_string()),
            // All that is sent at once is one batch.
            ("linger.ms".to_owned(), "50".to_owned()),
        ];
        let kafka = IngestSettings {
            brokers: mock.bootstrap_servers(),
            properties: properties.into_iter().collect(),
            ..IngestSettings::default()
        };
        let plan = live.workspace.model().unwrap().clone();
        let topic = ScoreTopic::new(&kafka, plan, Arc::default()).unwrap();
        Self {
            live,
            topic,
            mock,
            _folder: folder,
        }
    }

    /// Has brokers refuse so many requests.
    fn refuse(&self, requests: usize) {
        let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        let errors = vec![too_large; requests];
        self.mock.request_errors(RDKafkaApiKey::Produce, &errors);
    }

    fn send(&mut self, payments: &[String]) {
        let events = decode(&self.live, payments);
        let moment = self.live.store.moment();
        let scorer = self.live.scorer.as_ref().unwrap();
        let scores = scorer.score(&Committed(moment.as_ref()), &events).unwrap();
        self.topic.send(&events, &scores, &[]).unwrap();
        self.topic.flush().unwrap();
    }

    /// The messages of the topic by their keys.
    fn read(&self) -> Vec<(String, Value)> {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.mock.bootstrap_servers())
            .set("group.id", "reader")
            .create()
            .unwrap();
        let patience = Duration::from_secs(10);
        let (_, count) = reader.fetch_watermarks("scores", 0, patience).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("scores", 0, Offset::Beginning)
            .unwrap();
        reader.assign(&list).unwrap();
        let mut read = Vec::new();
        for _ in 0..count {
            let message = reader.poll(patience).unwrap().unwrap();
            let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
            let score = serde_json::from_slice(message.payload().unwrap()).unwrap();
            read.push((key, score));
        }
        read.sort_by(|(one, _), (other, _)| one.cmp(other));
        read
    }
}

/// A payment at a terminal whose name has so many bytes.
fn at(id: &str, bytes: usize) -> String {
    let terminal = format!("\"{}\"", "t".repeat(bytes));
    payment(id, "c1", 10.0, 0).replace("\"t1\"", &terminal)
}

/// What `work` counts of scores that are too large: sent without texts, and left out.
fn counted(work: impl FnOnce()) -> [u64; 2] {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, work);
    let scrape = handle.render();
    ["without_texts", "left_out"].map(|outcome| {
        let name = format!("millrace_scores_too_large_total{{outcome=\"{outcome}\"}} ");
        let count = scrape.lines().find_map(|line| line.strip_prefix(&name));
        count.map_or(0, |count| count.parse().unwrap())
    })
}

#[test]
fn a_score_that_is_too_large_is_sent_without_its_texts_or_left_out() {
    let mut setting = Setting::new(3_000);
    let long = "x".repeat(2_000);
    let counted = counted(|| setting.send(&[at("a", 2), at("b", 5_000), at(&long, 2), at("c", 2)]));
    // The one with the long id was tried without its text.
    assert_eq!(counted, [2, 1]);
    let read = setting.read();
    let keys: Vec<&str> = read.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    for (key, score) in &read {
        assert_eq!(score["tx_id"], json!(key));
        assert_eq!(score["inputs"]["amount"], 10.0);
        let (place, left_out) = match key.as_str() {
            "b" => (Value::Null, json!(["place"])),
            _ => (json!("tt"), Value::Null),
        };
        assert_eq!(score["inputs"]["place"], place);
        assert_eq!(score["inputs_left_out"], left_out);
    }
    // Those after it come as ever.
    setting.send(&[at("d", 2)]);
    assert_eq!(setting.read().len(), 4);
}

/// The mock cluster refuses a request whole, as brokers do.
#[test]
fn scores_in_a_batch_that_is_too_large_are_sent_as_they_are() {
    let mut setting = Setting::new(1_000_000);
    setting.refuse(1);
    let counted = counted(|| setting.send(&[at("a", 2), at("b", 2), at("c", 2), at("d", 2)]));
    assert_eq!(counted, [0, 0]);
    let read = setting.read();
    assert_eq!(read.len(), 4);
    for (_, score) in read {
        assert_eq!(score["inputs"]["place"], "tt");
        assert_eq!(score["inputs_left_out"], Value::Null);
    }
}

#[test]
fn a_score_that_a_broker_refuses_each_time_holds_nothing_up() {
    let mut setting = Setting::new(1_000_000);
    setting.refuse(2);
    assert_eq!(counted(|| setting.send(&[at("a", 2)])), [1, 1]);
    setting.send(&[at("b", 2)]);
    let read = setting.read();
    let keys: Vec<&str> = read.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["b"]);
}
