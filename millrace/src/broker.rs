//! A Kafka-protocol broker inside of this process, for the demo and for tests: all in memory, gone with it.
//!
//! It is `nisshi`. What it does: topics, keyed messages, consumer groups, watermarks, offsets for times,
//! idempotent producers. What it does not: transactions, replicas, any security; and it deletes messages of an old
//! timestamp unless their topic has `retention.ms=-1`, which the topics that Millrace creates have. Production is
//! Apache Kafka.
//!
//! Its log lines have the targets `nisshi_…` (one for each of its crates) and `rama…`.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use nisshi_broker::broker::Builder;
use nisshi_broker::coordinator::group::administrator::GroupCoordinatorConfig;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::runtime::Runtime;
use url::Url;

use crate::failure::{Failure, Outcome};

/// Directives for a log filter that keep the broker's own lines off the screen. It speaks of each client that
/// leaves as of an error.
pub const QUIET: &str = "nisshi=off,rama=off";

/// How long a broker may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How many free ports are tried: another program can take one between its being found and being used.
const PORTS_TRIED: usize = 5;

/// A running broker. Dropping it stops it, and all its messages are gone.
pub struct EmbeddedBroker {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl EmbeddedBroker {
    /// Starts a broker and waits until it answers. With port 0 it takes a free one. Blocks for about a tenth of a
    /// second; it may be called within a Tokio runtime or without.
    ///
    /// # Errors
    /// A port in use, an address that is not this machine's, no answer within ten seconds.
    pub fn start(listen: SocketAddr) -> Outcome<Self> {
        if listen.port() != 0 {
            return Self::start_at(listen).map_err(|reason| cannot_start(listen, &reason));
        }
        let mut reason = String::new();
        for _ in 0..PORTS_TRIED {
            let port = free_port(listen.ip()).map_err(|e| cannot_start(listen, &e.to_string()))?;
            match Self::start_at(SocketAddr::new(listen.ip(), port)) {
                Ok(broker) => return Ok(broker),
                Err(failed) => reason = failed,
            }
        }
        Err(cannot_start(listen, &reason))
    }

    /// The address that clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn start_at(listen: SocketAddr) -> Result<Self, String> {
        // Whoever holds the port might answer in this broker's stead, before this one has found the port taken.
        drop(TcpListener::bind(listen).map_err(|e| match e.kind() {
            ErrorKind::AddrInUse => IN_USE.to_owned(),
            _ => e.to_string(),
        })?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("broker")
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let address = reachable(listen);
        let (ended, ending) = channel();
        runtime.spawn(async move {
            let reason = serve(listen, address).await;
            // Nobody hears it once the broker has answered.
            let _ = ended.send(reason);
        });
        let broker = Self {
            address,
            runtime: Some(runtime),
        };
        wait_for_answer(address, &ending)?;
        Ok(broker)
    }
}

/// Blocks until the broker's tasks have ended, so that its port is free again.
impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // Within another runtime's thread Tokio refuses to wait, so that a thread of its own has to.
        let stopping = std::thread::Builder::new()
            .spawn(move || runtime.shutdown_timeout(Duration::from_secs(2)));
        if let Ok(stopping) = stopping {
            let _ = stopping.join();
        }
    }
}

const IN_USE: &str = "the port is in use";

/// Serves until it fails; gives the reason.
async fn serve(listen: SocketAddr, address: SocketAddr) -> String {
    let urls = [
        format!("tcp://{listen}"),
        format!("tcp://{address}"),
        "memory://demo".to_owned(),
    ];
    let [Ok(listener), Ok(advertised), Ok(storage)] = urls.map(|url| Url::parse(&url)) else {
        return format!("{listen} makes no URL");
    };
    // The incarnation's type is of a crate that is not a dependency here; its default is the nil UUID, and memory
    // storage does not read it.
    let builder: Builder<(), (), _, (), (), ()> = Builder::default();
    let broker = builder
        .node_id(1)
        .cluster_id("millrace")
        .listener(listener)
        .advertised_listener(advertised)
        .storage(storage)
        .silent(true)
        .group_coordinator(GroupCoordinatorConfig {
            // Kafka's three seconds let many members of a large group come together; here there are few.
            initial_rebalance_delay: Duration::from_millis(200),
            ..GroupCoordinatorConfig::default()
        })
        .build()
        .await;
    // Its own `main` would take the process's signals and clear the screen.
    let ended = match broker {
        Ok(mut broker) => match broker.register().await {
            Ok(()) => broker.listen(tokio::time::Instant::now()).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => "it stopped".to_owned(),
        Err(nisshi_broker::Error::ListenerInUse { .. }) => IN_USE.to_owned(),
        Err(error) => error.to_string(),
    }
}

fn wait_for_answer(address: SocketAddr, ending: &Receiver<String>) -> Result<(), String> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address.to_string())
        .set("reconnect.backoff.ms", "20")
        .set("log_level", "0")
        .create()
        .map_err(|e| e.to_string())?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match ending.try_recv() {
            Ok(reason) => return Err(reason),
            Err(TryRecvError::Disconnected) => return Err("it ended".to_owned()),
            Err(TryRecvError::Empty) => {}
        }
        match client.fetch_metadata(None, Duration::from_millis(200)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
            Err(_) => {}
        }
    }
}

/// An address for clients: a broker that listens everywhere is reached over the loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn free_port(ip: IpAddr) -> std::io::Result<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}

fn cannot_start(listen: SocketAddr, reason: &str) -> Failure {
    Failure::failed(format!(
        "the embedded broker cannot start at {listen}: {reason}"
    ))
    .hint(
        "give it another port (0 is any free one), or use a cluster of yours: --brokers HOST:PORT",
    )
}

#[cfg(test)]
mod tests;
