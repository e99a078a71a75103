//! Brokers for tests: the embedded one, and Apache Kafka in a process of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use millrace::broker::EmbeddedBroker;
use tempfile::TempDir;

pub enum TestBroker {
    Embedded(EmbeddedBroker),
    Kafka { folder: TempDir, port: u16 },
}

impl TestBroker {
    pub fn embedded() -> Self {
        Self::Embedded(EmbeddedBroker::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap())
    }

    /// None where Java or Maven is missing.
    pub fn apache_kafka() -> Option<Self> {
        let fetched = script().arg("fetch").status().unwrap();
        if fetched.code() == Some(3) {
            return None;
        }
        assert!(fetched.success(), "kafka.sh fetch: {fetched}");
        let folder = tempfile::tempdir().unwrap();
        let port = free_ports(2);
        let started = script()
            .arg("start")
            .arg(folder.path())
            .arg(port.to_string())
            .status()
            .unwrap();
        assert!(started.success(), "kafka.sh start: {started}");
        Some(Self::Kafka { folder, port })
    }

    pub fn address(&self) -> String {
        match self {
            Self::Embedded(broker) => broker.address().to_string(),
            Self::Kafka { port, .. } => format!("127.0.0.1:{port}"),
        }
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        if let Self::Kafka { folder, .. } = self {
            let _ = script().arg("stop").arg(folder.path()).status();
        }
    }
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn script() -> Command {
    Command::new(repository().join("scripts/kafka.sh"))
}

/// The first of `count` ports in a row that are free.
pub fn free_ports(count: u16) -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let is_free = |offset| {
            first
                .checked_add(offset)
                .is_some_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        };
        if (0..count).all(is_free) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}
