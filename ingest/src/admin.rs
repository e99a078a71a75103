//! Says which topics there are, and creates those that are missing. Everything else about topics (partitions that grow, access, deletion) is the
//! operator's.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use crate::error::IngestError;
use crate::group::{LastError, hear_errors};
use crate::settings::{IngestSettings, client};

type Admin = AdminClient<DefaultClientContext>;

/// Asks which topics there are: an admin client keeps to itself why no broker answers.
type Asker = BaseConsumer<Answers>;

#[derive(Default)]
struct Answers {
    last_error: LastError,
}

impl ClientContext for Answers {
    // What is wrong stands in the error that the caller gets.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.last_error.note(error.rdkafka_error_code(), reason);
    }
}

impl ConsumerContext for Answers {}

/// How long one request to the brokers may take, and how long a new topic may take to be seen.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a stop is heard while no broker is connected.
const HEED: Duration = Duration::from_millis(200);

/// The broker's own default for the number of replicas.
const DEFAULT_REPLICATION: i32 = -1;

/// Creates those of `topics` (name, partitions) that do not exist, and waits until they are seen. Their messages are
/// kept for ever (`retention.ms = -1`): Kafka is the log from which state is rebuilt, and old event times must not
/// make a broker delete them. Topics that exist are left as they are. Gives the names that were created.
///
/// # Errors
/// [`IngestError::BrokerUnreachable`], or [`IngestError::CreateTopic`] for the first topic that was refused.
pub fn ensure_topics(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topics: &[(String, i32)],
) -> Result<Vec<String>, IngestError> {
    let config = client(brokers, properties);
    let asker: Asker = config
        .create_with_context(Answers::default())
        .map_err(|error| IngestError::kafka("creating a client", error))?;
    let existing = topic_names(&asker, brokers, TIMEOUT, &never())?;
    let admin: Admin = config
        .create()
        .map_err(|error| IngestError::kafka("creating the admin client", error))?;
    let missing = topics.iter().filter(|(name, _)| !existing.contains(name));
    let mut created = Vec::new();
    for (name, partitions) in missing {
        create(&admin, name, *partitions)?;
        created.push(name.clone());
    }
    wait_until_seen(&asker, brokers, &created)?;
    Ok(created)
}

/// The names of the cluster's topics. All are asked for, and not one by its name: a broker may create a topic that it is
/// asked for. Once `stop` is set, no broker is waited for.
///
/// # Errors
/// [`IngestError::BrokerUnreachable`].
pub fn existing_topics(
    settings: &IngestSettings,
    stop: &AtomicBool,
) -> Result<Vec<String>, IngestError> {
    let asker: Asker = client(&settings.brokers, &settings.properties)
        .create_with_context(Answers::default())
        .map_err(|error| IngestError::kafka("creating a client", error))?;
    topic_names(&asker, &settings.brokers, settings.request_timeout, stop)
}

/// A stop that nobody asks for.
fn never() -> AtomicBool {
    AtomicBool::new(false)
}

/// Creates one topic. Old brokers, and some that speak the protocol, want a number of replicas: then it is one.
fn create(admin: &Admin, name: &str, partitions: i32) -> Result<(), IngestError> {
    let mut result = try_create(admin, name, partitions, DEFAULT_REPLICATION);
    if let Err(first) = result {
        result = try_create(admin, name, partitions, 1).map_err(|_| first);
    }
    result.map_err(|detail| IngestError::CreateTopic {
        topic: name.into(),
        detail,
    })
}

fn try_create(admin: &Admin, name: &str, partitions: i32, replication: i32) -> Result<(), String> {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication))
        .set("retention.ms", "-1");
    let options = AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT));
    let results =
        block_on(admin.create_topics([&topic], &options)).map_err(|error| error.to_string())?;
    let refused = results.into_iter().find_map(Result::err);
    match refused {
        // Somebody was faster.
        None | Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
        Some((_, code)) => Err(code.to_string()),
    }
}

fn wait_until_seen(asker: &Asker, brokers: &str, topics: &[String]) -> Result<(), IngestError> {
    let deadline = Instant::now() + TIMEOUT;
    while !topics.is_empty() {
        let existing = topic_names(asker, brokers, TIMEOUT, &never())?;
        let unseen = topics.iter().find(|name| !existing.contains(name));
        let Some(unseen) = unseen else { break };
        if Instant::now() >= deadline {
            return Err(IngestError::CreateTopic {
                topic: unseen.clone(),
                detail: "it was created, and no broker shows it".into(),
            });
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The topics that have partitions.
fn topic_names(
    asker: &Asker,
    brokers: &str,
    timeout: Duration,
    stop: &AtomicBool,
) -> Result<Vec<String>, IngestError> {
    let metadata = all_topics(asker, timeout, stop).map_err(|error| {
        hear_errors(asker);
        asker.context().last_error.unreachable(brokers, &error)
    })?;
    let topics = metadata.topics().iter();
    let topics = topics.filter(|topic| !topic.partitions().is_empty());
    Ok(topics.map(|topic| topic.name().to_string()).collect())
}

/// What the brokers say of all topics. A call of librdkafka cannot be ended, so it is made for short times until a broker
/// is connected; that one has all of the time to answer.
fn all_topics(asker: &Asker, timeout: Duration, stop: &AtomicBool) -> KafkaResult<Metadata> {
    let until = Instant::now() + timeout;
    let mut patience = HEED;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let error = match asker.fetch_metadata(None, left.min(patience)) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        if left <= patience || stop.load(Ordering::Relaxed) {
            return Err(error);
        }
        let is_connected =
            error.rdkafka_error_code() != Some(RDKafkaErrorCode::BrokerTransportFailure);
        patience = if is_connected { timeout } else { HEED };
    }
}

/// Runs a future to its end in this thread. The client completes its futures from a thread of its own, so nothing
/// of a runtime is needed, and it works inside of one and without.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_heard_while_no_broker_is_there() {
        let settings = IngestSettings {
            brokers: "127.0.0.1:1".to_owned(),
            request_timeout: Duration::from_secs(60),
            ..IngestSettings::default()
        };
        let began = Instant::now();
        let asked = existing_topics(&settings, &AtomicBool::new(true));
        let is_unreachable = matches!(asked, Err(IngestError::BrokerUnreachable { .. }));
        assert!(is_unreachable, "{asked:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
