//! Messages to Kafka: keyed bytes in, and a count of those that the brokers have acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_ingest::{IngestSettings, LastError, is_too_large};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders, OwnedMessage, Timestamp};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::failure::{Failure, Outcome};

/// How soon a stop is heard while messages are on their way,
const HEED: Duration = Duration::from_millis(100);

/// and how long they have all the same: brokers that are there take less.
const GRACE: Duration = Duration::from_secs(1);

/// A producer of messages whose topics and bytes are the caller's.
///
/// It is idempotent: per partition, messages arrive in the order in which they were sent, and once each, whatever
/// is retried in between. A message is given up after two minutes; that many are counted, and never silently
/// lost. All threads may use one.
pub struct RawProducer {
    producer: ThreadedProducer<Deliveries>,
    brokers: String,
    request_timeout: Duration,
    sent: AtomicU64,
}

impl RawProducer {
    /// Connects, and waits until a broker has answered. Otherwise as [`new`](Self::new).
    ///
    /// # Errors
    /// A property that librdkafka does not know; no broker that answers within `settings.request_timeout`.
    pub fn connect(settings: &IngestSettings) -> Outcome<Self> {
        let producer = Self::new(settings)?;
        producer.topics()?;
        Ok(producer)
    }

    /// A producer that connects as soon as a broker is there. `settings.properties` reach librdkafka, and override the
    /// tuning; for a cluster without idempotent producers, `enable.idempotence = "false"`.
    ///
    /// # Errors
    /// A property that librdkafka does not know.
    pub fn new(settings: &IngestSettings) -> Outcome<Self> {
        Self::create(settings, Deliveries::default())
    }

    /// As [`new`](Self::new), for a sender who has something smaller to send: a message that is too large is no failure,
    /// and comes back from [`take_too_large`](Self::take_too_large).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn returning_too_large(settings: &IngestSettings) -> Outcome<Self> {
        let deliveries = Deliveries {
            returns_too_large: true,
            ..Deliveries::default()
        };
        Self::create(settings, deliveries)
    }

    fn create(settings: &IngestSettings, deliveries: Deliveries) -> Outcome<Self> {
        let producer = config(settings)
            .create_with_context(deliveries)
            .map_err(|e| refused_setting(&e))?;
        Ok(Self {
            producer,
            brokers: settings.brokers.clone(),
            request_timeout: settings.request_timeout,
            sent: AtomicU64::new(0),
        })
    }

    /// The brokers' addresses, as set.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The names of the cluster's topics. All are asked for, and not one by its name: a broker may create a topic
    /// that it is asked for.
    ///
    /// # Errors
    /// No broker answers.
    pub fn topics(&self) -> Outcome<Vec<String>> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(None, self.request_timeout);
        let last = &self.deliveries().last_error;
        let metadata = metadata.map_err(|error| last.unreachable(&self.brokers, &error))?;
        Ok(metadata
            .topics()
            .iter()
            .map(|topic| topic.name().to_owned())
            .collect())
    }

    /// Queues a message, which leaves some milliseconds later at most. While the queue is full (100,000 messages
    /// or 64 MiB), the call waits; it ends because the queue's messages are delivered or given up.
    ///
    /// # Errors
    /// A message that can never be sent: larger than `message.max.bytes`, or after a fatal error of the client.
    pub fn send(&self, topic: &str, key: Option<&[u8]>, payload: &[u8]) -> Outcome<()> {
        self.send_with(topic, key, Some(payload), None)
    }

    /// As [`send`](Self::send), with headers. Without a payload it is a tombstone.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
    ) -> Outcome<()> {
        let mut record = BaseRecord::to(topic);
        record.payload = payload;
        record.key = key;
        record.headers = headers;
        loop {
            record = match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    std::thread::sleep(Duration::from_millis(1));
                    unsent
                }
                Err((error, unsent)) if self.deliveries().returns(&error) => {
                    self.deliveries().lock().too_large.push(detached(unsent));
                    return Ok(());
                }
                Err((error, _)) => {
                    let message = format!("a message for topic '{topic}' cannot be sent: {error}");
                    let failure = Failure::failed(message);
                    return Err(match is_unknown_topic(&error) {
                        true => failure.hint(IS_IT_THERE),
                        false => failure,
                    });
                }
            };
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until every message that was sent is acknowledged or given up.
    ///
    /// # Errors
    /// Messages that were not delivered since the last call, with their number and the first one's cause; some
    /// whose fate is unknown after `timeout`.
    pub fn flush(&self, timeout: Duration) -> Outcome<()> {
        self.flush_unless(&AtomicBool::new(false), timeout)
    }

    /// As [`flush`](Self::flush), and for a second at most once `stop` is set.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn flush_unless(&self, stop: &AtomicBool, timeout: Duration) -> Outcome<()> {
        let began = Instant::now();
        // librdkafka's own flush is not used: through rdkafka it takes a tenth of a second at least.
        let unsettled = loop {
            let unsettled = self.deliveries().wait(&self.sent, HEED.min(timeout));
            let longest = match stop.load(Ordering::Relaxed) {
                true => GRACE.min(timeout),
                false => timeout,
            };
            if unsettled == 0 || began.elapsed() >= longest {
                break unsettled;
            }
        };
        self.check()?;
        if unsettled == 0 {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{unsettled} messages were not acknowledged within {} s",
            began.elapsed().as_secs()
        ))
        .hint("are the brokers up, and is each partition led by one?"))
    }

    /// Whether every message whose fate is known was delivered.
    ///
    /// # Errors
    /// As [`Self::flush`], and at once.
    pub fn check(&self) -> Outcome<()> {
        self.deliveries().take_failures()
    }

    /// The messages that Kafka's client or a broker found too large since the last call: those of a broker once they are
    /// [flushed](Self::flush). A broker refuses a batch as a whole, so of several each may be small enough.
    pub(crate) fn take_too_large(&self) -> Vec<OwnedMessage> {
        std::mem::take(&mut self.deliveries().lock().too_large)
    }

    /// Messages that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Messages that were acknowledged by every replica.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.deliveries().lock().delivered
    }

    fn deliveries(&self) -> &Deliveries {
        self.producer.context()
    }
}

fn config(settings: &IngestSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("enable.idempotence", "true");
    config.set("compression.type", "lz4");
    // The Java client's choice of a partition, so that a key has one partition, whoever sends it.
    config.set("partitioner", "murmur2_random");
    config.set("linger.ms", "5");
    config.set("queue.buffering.max.messages", "100000");
    config.set("queue.buffering.max.kbytes", "65536");
    config.set("message.timeout.ms", "120000");
    config.extend(
        settings
            .properties
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    config.set("bootstrap.servers", &settings.brokers);
    config.set("acks", "all");
    let debug = settings.properties.contains_key("debug");
    config.set_log_level(if debug {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Warning
    });
    config
}

/// A message that was not sent, as one that was sent comes back.
fn detached(unsent: BaseRecord<'_, [u8], [u8]>) -> OwnedMessage {
    let (key, payload) = (unsent.key, unsent.payload);
    OwnedMessage::new(
        payload.map(<[u8]>::to_vec),
        key.map(<[u8]>::to_vec),
        unsent.topic.to_owned(),
        Timestamp::NotAvailable,
        -1,
        0,
        unsent.headers,
    )
}

/// What helps where brokers do not know a topic.
const IS_IT_THERE: &str = "is the topic there? `millrace run --create-topics` creates the project's, or kafka-topics.sh \
                           --create";

fn is_unknown_topic(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    matches!(
        error.rdkafka_error_code(),
        Some(UnknownTopic | UnknownTopicOrPartition | UnknownPartition)
    )
}

fn refused_setting(error: &KafkaError) -> Failure {
    match error {
        KafkaError::ClientConfig(_, detail, key, _) => Failure::input(format!(
            "millrace.toml: the Kafka property '{key}' is not accepted: {detail}"
        ))
        .hint("[kafka.properties] are librdkafka's"),
        other => Failure::failed(format!("creating a Kafka producer: {other}"))
            .hint("[kafka.properties] are librdkafka's; the files that they name must be there"),
    }
}

/// What became of messages. The producer's own thread writes it.
#[derive(Default)]
struct Deliveries {
    /// Whether messages that are too large are given back, and are no failures.
    returns_too_large: bool,
    settled: Mutex<Settled>,
    all_settled: Condvar,
    /// Whether it was said that no broker answers, since the last message that one took.
    unreachable: AtomicBool,
    last_error: LastError,
}

#[derive(Default)]
struct Settled {
    delivered: u64,
    failed: u64,
    /// Those that are given back.
    too_large: Vec<OwnedMessage>,
    /// Those that nobody was told of.
    untold: u64,
    first_untold: String,
    /// The first of them was for a topic that the brokers do not know.
    is_unknown_topic: bool,
    /// To wake nobody is a system call too, and there is a delivery for each message.
    waiting: usize,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message that failed so is given back.
    fn returns(&self, error: &KafkaError) -> bool {
        self.returns_too_large && is_too_large(error)
    }

    fn settle(&self, result: &DeliveryResult<'_>) {
        if result.is_ok() {
            self.unreachable.store(false, Ordering::Relaxed);
        }
        let mut settled = self.lock();
        match result {
            Ok(_) => settled.delivered += 1,
            Err((error, message)) if self.returns(error) => {
                settled.failed += 1;
                settled.too_large.push(message.detach());
            }
            Err((error, _)) => settled.fail(error),
        }
        if settled.waiting > 0 {
            self.all_settled.notify_all();
        }
    }

    /// Waits for as many messages as were sent; gives the number of those that are still on their way.
    fn wait(&self, sent: &AtomicU64, timeout: Duration) -> u64 {
        let on_their_way =
            |settled: &Settled| sent.load(Ordering::Relaxed).saturating_sub(settled.total());
        let mut settled = self.lock();
        settled.waiting += 1;
        let (mut settled, _) = self
            .all_settled
            .wait_timeout_while(settled, timeout, |settled| on_their_way(settled) > 0)
            .unwrap_or_else(PoisonError::into_inner);
        settled.waiting -= 1;
        on_their_way(&settled)
    }

    fn take_failures(&self) -> Outcome<()> {
        let mut settled = self.lock();
        if settled.untold == 0 {
            return Ok(());
        }
        let message = format!(
            "{} messages were not delivered; the first: {}",
            settled.untold, settled.first_untold
        );
        settled.untold = 0;
        let failure = Failure::failed(message);
        Err(match settled.is_unknown_topic {
            true => failure.hint(IS_IT_THERE),
            false => failure,
        })
    }
}

impl Settled {
    fn total(&self) -> u64 {
        self.delivered + self.failed
    }

    fn fail(&mut self, error: &KafkaError) {
        if self.untold == 0 {
            self.first_untold = error.to_string();
            self.is_unknown_topic = is_unknown_topic(error);
        }
        self.failed += 1;
        self.untold += 1;
    }
}

/// While no broker answers, librdkafka says so dozens of times a second: the screen needs it once.
impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(facility, message, "Kafka producer");
            }
            // A connection that failed; it comes as an error too.
            _ if facility == "FAIL" => tracing::debug!(facility, message, "Kafka producer"),
            _ => tracing::warn!(facility, message, "Kafka producer"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure};
        self.last_error.note(error.rdkafka_error_code(), reason);
        match error.rdkafka_error_code() {
            Some(AllBrokersDown) if !self.unreachable.swap(true, Ordering::Relaxed) => {
                tracing::warn!("no Kafka broker answers; the producer goes on trying");
            }
            Some(AllBrokersDown | BrokerTransportFailure) => {
                tracing::debug!(%error, reason, "Kafka producer");
            }
            _ => tracing::warn!(%error, reason, "Kafka producer"),
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        self.settle(result);
    }
}
