//! Apache Kafka for a benchmark: one broker on the loopback, gone afterwards.

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tempfile::TempDir;

/// A running broker.
pub struct Kafka {
    folder: TempDir,
    /// Its bootstrap address.
    pub brokers: String,
}

impl Kafka {
    /// Starts a broker with an empty log.
    ///
    /// # Errors
    /// No Java 17 or no Maven here, or a broker that does not start.
    pub fn start() -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        // The controller takes the next port.
        let port = (19_092..19_292)
            .step_by(2)
            .find(|port| {
                [*port, port + 1]
                    .iter()
                    .all(|p| TcpListener::bind(("127.0.0.1", *p)).is_ok())
            })
            .ok_or("no free port")?;
        let done = script()
            .arg("start")
            .arg(folder.path())
            .arg(port.to_string())
            .status()?;
        if !done.success() {
            return Err(format!("Apache Kafka does not start: {done}").into());
        }
        Ok(Self {
            folder,
            brokers: format!("127.0.0.1:{port}"),
        })
    }
}

/// What ours is measured beside: a consumer of all partitions of a topic, outside of any group's decisions.
///
/// # Errors
/// What the client refuses.
pub fn bare_consumer(
    brokers: &str,
    topic: &str,
    partitions: i32,
    from: Offset,
) -> KafkaResult<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bare")
        .set("fetch.wait.max.ms", "100")
        // As ours: with its default of a second, a queue that was full starves.
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, from)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = script().arg("kill").arg(self.folder.path()).status();
    }
}

fn script() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(root.join("scripts/kafka.sh"));
    command.stdout(std::process::Stdio::null());
    command
}
