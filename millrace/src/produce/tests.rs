#![allow(clippy::unwrap_used)]

use arrow::array::{BinaryArray, Int64Array};

use super::*;

#[test]
fn keys_are_text_whatever_they_are_of() {
    let texts = |keys: ArrayRef| -> Vec<Option<String>> {
        let texts = key_texts(&keys).unwrap();
        texts.iter().map(|text| text.map(str::to_owned)).collect()
    };
    let bytes: [Option<&[u8]>; 3] = [Some(b"\xff\0"), None, Some(b"hello")];
    let hex = texts(Arc::new(BinaryArray::from_iter(bytes)));
    let expected = [Some("ff00".to_owned()), None, Some("68656c6c6f".to_owned())];
    assert_eq!(hex, expected);
    let numbers = texts(Arc::new(Int64Array::from(vec![17])));
    assert_eq!(numbers, [Some("17".to_owned())]);
}

#[test]
fn a_rate_is_a_number_above_0() {
    assert_eq!(positive("2.5"), Ok(2.5));
    for wrong in ["0", "-1", "inf", "NaN", "fast", ""] {
        assert!(positive(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_stop_is_heard_while_no_broker_takes_messages() {
    let settings = IngestSettings {
        brokers: "127.0.0.1:1".to_owned(),
        ..IngestSettings::default()
    };
    let producer = RawProducer::new(&settings).unwrap();
    producer.send("t", None, b"x").unwrap();
    let began = std::time::Instant::now();
    let stop = std::sync::atomic::AtomicBool::new(true);
    let failure = producer.flush_unless(&stop, std::time::Duration::from_secs(60));
    let said = failure.unwrap_err().to_string();
    assert!(said.contains("1 messages were not acknowledged"), "{said}");
    assert!(began.elapsed() < std::time::Duration::from_secs(30));
}

/// The command as a whole, against a broker. These take seconds.
#[cfg(feature = "embedded-broker")]
mod with_a_broker {
    use std::fmt::Write as _;
    use std::path::Path;

    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message;

    use super::*;
    use crate::broker::EmbeddedBroker;
    use crate::failure::Kind;

    struct Setting {
        broker: Option<EmbeddedBroker>,
        workspace: Workspace,
        folder: tempfile::TempDir,
    }

    impl Setting {
        fn new() -> Self {
            let broker = EmbeddedBroker::start(([127, 0, 0, 1], 0).into()).unwrap();
            let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/fraud");
            let mut workspace = Workspace::open(Path::new(example)).unwrap();
            workspace.settings.kafka.brokers = broker.address().to_string();
            let properties = &mut workspace.settings.kafka.properties;
            properties.insert("message.timeout.ms".into(), "2000".into());
            workspace.settings.kafka.request_timeout = Duration::from_secs(2);
            Self {
                broker: Some(broker),
                workspace,
                folder: tempfile::tempdir().unwrap(),
            }
        }

        /// Payments one second apart, of five cards.
        fn payments(&self, count: usize) -> ProduceArgs {
            let mut text = "tx_id,card_id,terminal_id,amount,event_time\n".to_owned();
            for row in 0..count {
                let (card, minute, second) = (row % 5, row / 60, row % 60);
                writeln!(
                    text,
                    "{row},c{card},t,1.5,2025-01-01T00:{minute:02}:{second:02}Z"
                )
                .unwrap();
            }
            self.file(&text)
        }

        fn file(&self, text: &str) -> ProduceArgs {
            let file = self.folder.path().join("events.csv");
            std::fs::write(&file, text).unwrap();
            ProduceArgs {
                topic: "transactions".into(),
                file,
                rate: None,
                speed: None,
                delete: false,
                create: true,
                brokers: None,
            }
        }

        fn produce(&self, args: &ProduceArgs) -> Outcome<()> {
            produce(&self.workspace, args)
        }

        #[track_caller]
        fn fails(&self, args: &ProduceArgs, kind: Kind, parts: &[&str]) {
            let failure = self.produce(args).unwrap_err();
            assert_eq!(failure.kind, kind, "{failure}");
            let text = failure.to_string();
            assert!(
                parts.iter().all(|part| text.contains(part)),
                "{text}\nlacks one of {parts:?}"
            );
        }

        /// Messages of the topic, by (partition, key, payload).
        fn messages(&self, count: usize) -> Vec<(i32, String, String)> {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", &self.workspace.settings.kafka.brokers)
                .set("group.id", "test")
                .set("auto.offset.reset", "earliest")
                .create()
                .unwrap();
            consumer.subscribe(&["transactions"]).unwrap();
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut messages = Vec::new();
            while messages.len() < count && Instant::now() < deadline {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    let key = text(message.key());
                    messages.push((message.partition(), key, text(message.payload())));
                }
            }
            messages
        }
    }

    #[test]
    fn deletes_need_a_topic_that_is_keyed_by_ids() {
        let setting = Setting::new();
        let args = ProduceArgs {
            delete: true,
            ..setting.payments(3)
        };
        setting.fails(
            &args,
            Kind::Input,
            &["not keyed by its events' id", "'key' 'tx_id', 'id' 'tx_id'"],
        );
    }

    #[test]
    fn rows_arrive_in_order_under_their_keys() {
        let setting = Setting::new();
        setting.produce(&setting.payments(1_000)).unwrap();
        let mut messages = setting.messages(1_000);
        assert_eq!(messages.len(), 1_000);
        assert!(
            messages
                .iter()
                .all(|(_, key, payload)| payload.contains(&format!("\"card_id\":\"{key}\"")))
        );
        let first = messages
            .iter()
            .find(|(_, _, payload)| payload.starts_with("{\"tx_id\":\"0\""));
        let expected = "{\"tx_id\":\"0\",\"card_id\":\"c0\",\"terminal_id\":\"t\",\"amount\":1.5,\
                        \"event_time\":\"2025-01-01T00:00:00Z\"}";
        assert_eq!(first.unwrap().2, expected);
        // A stable sort by key keeps each key's own order.
        messages.sort_by(|a, b| a.1.cmp(&b.1));
        for rows in messages.chunk_by(|a, b| a.1 == b.1) {
            assert!(
                rows.iter().all(|row| row.0 == rows[0].0),
                "a key has one partition"
            );
            let id = |payload: &str| payload.split('"').nth(3).unwrap().parse::<usize>().unwrap();
            assert!(rows.is_sorted_by_key(|row| id(&row.2)));
        }
    }

    #[test]
    fn mistakes_are_told_before_anything_is_sent() {
        let setting = Setting::new();
        let good = setting.payments(1);
        let without_create = ProduceArgs {
            create: false,
            ..good.clone()
        };
        setting.fails(
            &without_create,
            Kind::Input,
            &["no topic 'transactions'", "--create"],
        );
        let topic = |name: &str| ProduceArgs {
            topic: name.into(),
            ..good.clone()
        };
        setting.fails(
            &topic("transactoins"),
            Kind::Input,
            &["did you mean 'transactions'?"],
        );
        setting.fails(&topic("payments"), Kind::Input, &["transactions, labels"]);
    }

    #[test]
    fn a_bad_row_says_what_was_sent_before_it() {
        let setting = Setting::new();
        let mut args = setting.payments(3);
        let mut text = std::fs::read_to_string(&args.file).unwrap();
        // In the second batch of the file.
        text.push_str(&"x,c,t,1,2025-01-01T01:00:00Z\n".repeat(9_000));
        text.push_str("y,c,t,much,2025-01-01T01:00:00Z\n");
        args = setting.file(&text);
        let parts = [
            "row 9004",
            "'much' is no DOUBLE",
            "the first 8192 events",
            "8192 were delivered, 0",
        ];
        setting.fails(&args, Kind::Input, &parts);
        assert_eq!(setting.messages(8_192).len(), 8_192);
    }

    #[test]
    fn a_broker_that_goes_away_is_told() {
        let mut setting = Setting::new();
        let args = setting.payments(10);
        let mut producer = {
            setting.produce(&args).unwrap();
            EventProducer::new(&setting.workspace, "transactions").unwrap()
        };
        setting.broker = None;
        let stream = find_stream(&setting.workspace, "transactions").unwrap();
        for batch in EventFile::open(&args.file, &stream).unwrap() {
            producer.send_batch(&batch.unwrap()).unwrap();
        }
        let failure = producer.flush().unwrap_err().to_string();
        assert!(
            failure.contains("10 messages were not delivered"),
            "{failure}"
        );
        setting.fails(
            &args,
            Kind::Failed,
            &["no Kafka broker answered", "--brokers"],
        );
        let other = EmbeddedBroker::start(([127, 0, 0, 1], 0).into()).unwrap();
        let brokers = Some(other.address().to_string());
        setting.produce(&ProduceArgs { brokers, ..args }).unwrap();
    }

    #[test]
    fn paces_are_kept() {
        let setting = Setting::new();
        let args = setting.payments(300);
        let took = |args: &ProduceArgs| {
            let started = Instant::now();
            setting.produce(args).unwrap();
            started.elapsed()
        };
        // 300 rows, 299 seconds of event time: both take a second, and never less.
        let second = Duration::from_millis(990);
        assert!(
            took(&ProduceArgs {
                rate: Some(300.0),
                ..args.clone()
            }) >= second
        );
        assert!(
            took(&ProduceArgs {
                speed: Some(299.0),
                ..args.clone()
            }) >= second
        );
        assert_eq!(setting.messages(600).len(), 600);
    }
}
