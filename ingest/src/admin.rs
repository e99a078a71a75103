//! Creates topics that are missing. Everything else about topics (partitions that grow, access, deletion) is the
//! operator's.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use crate::error::IngestError;
use crate::settings::client;

type Admin = AdminClient<DefaultClientContext>;

/// How long one request to the brokers may take, and how long a new topic may take to be seen.
const TIMEOUT: Duration = Duration::from_secs(10);

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
    let admin: Admin = client(brokers, properties)
        .create()
        .map_err(|error| IngestError::kafka("creating the admin client", error))?;
    let existing = topic_names(&admin, brokers)?;
    let missing = topics.iter().filter(|(name, _)| !existing.contains(name));
    let mut created = Vec::new();
    for (name, partitions) in missing {
        create(&admin, name, *partitions)?;
        created.push(name.clone());
    }
    wait_until_seen(&admin, brokers, &created)?;
    Ok(created)
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

fn wait_until_seen(admin: &Admin, brokers: &str, topics: &[String]) -> Result<(), IngestError> {
    let deadline = Instant::now() + TIMEOUT;
    while !topics.is_empty() {
        let existing = topic_names(admin, brokers)?;
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
fn topic_names(admin: &Admin, brokers: &str) -> Result<Vec<String>, IngestError> {
    let metadata = admin
        .inner()
        .fetch_metadata(None, TIMEOUT)
        .map_err(|error| IngestError::BrokerUnreachable {
            brokers: brokers.into(),
            detail: error.to_string(),
        })?;
    let topics = metadata.topics().iter();
    let topics = topics.filter(|topic| !topic.partitions().is_empty());
    Ok(topics.map(|topic| topic.name().to_string()).collect())
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
