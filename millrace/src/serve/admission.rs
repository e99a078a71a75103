//! Admission: limits that keep accepted requests fast when more come than can be answered.
//!
//! A request takes one of a few places, or waits in line for one, or is refused at once and told when to ask again.
//! `line` decides which: it is pure, and is told the time. `gate` gives it a clock, and keeps the line in the order of
//! arrival; `layer` stands in front of the services. Who a client is, `serve/access.rs` says. What happens to a request
//! that is in place when its deadline passes is tonic's to decide, which enforces `grpc-timeout` itself.

mod arrival;
mod gate;
mod layer;
mod line;
mod refused;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::settings::duration;

pub(super) use arrival::parse_timeout;
pub(super) use gate::Gate;
pub(super) use layer::AdmissionLayer;

/// `[server.limits]`: how much is worked on and waits before requests are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Requests that are worked on at once; 0 means four for each core.
    pub concurrency: usize,
    /// Requests that may wait for a place. Above it, all that would have to wait are refused.
    pub queue: usize,
    /// Requests of one client at once, in place and waiting, with its open streams; 0 means no limit of its own.
    pub client_concurrency: usize,
    /// Longest wait for a place: a request that would wait longer is refused at once.
    #[serde(deserialize_with = "duration")]
    pub max_wait: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            concurrency: 0,
            queue: 1_024,
            client_concurrency: 256,
            max_wait: Duration::from_millis(100),
        }
    }
}

impl LimitSettings {
    /// Four requests a core: a look-up that waits for the disk leaves its core to another, and more than a few would
    /// only take turns, so that all of them end late.
    fn places(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let places = match self.concurrency {
            0 => 4 * cores(),
            places => places,
        };
        places.min(Semaphore::MAX_PERMITS)
    }
}

/// Kinds of requests whose work takes about as long. Each has a service time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    LookUp,
    Score,
    Write,
    Manage,
    Other,
}

const CLASSES: usize = Class::Other as usize + 1;

/// How a method's requests are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// Always let in, and counted nowhere. An orchestrator that asks an overloaded server for its health and is
    /// refused would restart it.
    Free,
    /// Counts as one of its client's requests while it is open, and takes no place: it may be idle for hours. A
    /// handler that works on a stream's messages asks [`Gate::place`] for each.
    Open,
    /// Takes a place until its answer has ended.
    Placed(Class),
}

/// The first of these that a path begins with decides.
const METHODS: [(&str, Treatment); 8] = {
    use Class::{LookUp, Manage, Score, Write};
    use Treatment::{Free, Open, Placed};
    [
        ("/grpc.health.v1.Health/", Free),
        ("/grpc.reflection.", Open),
        ("/millrace.v1.FeatureService/", Placed(LookUp)),
        ("/millrace.v1.ScoringService/", Placed(Score)),
        ("/millrace.v1.ModelService/", Placed(Manage)),
        ("/feast.serving.ServingService/", Placed(LookUp)),
        ("/GrpcFeatureServer/GetOnlineFeatures", Placed(LookUp)),
        ("/GrpcFeatureServer/", Placed(Write)),
    ]
};

/// Methods that stay open by themselves are named `SomethingStream` or `WatchSomething`.
fn treatment(path: &str) -> Treatment {
    let listed = METHODS.iter().find(|(prefix, _)| path.starts_with(prefix));
    let method = path.rsplit('/').next().unwrap_or_default();
    match listed {
        Some((_, Treatment::Free)) => Treatment::Free,
        _ if method.ends_with("Stream") || method.starts_with("Watch") => Treatment::Open,
        Some((_, treatment)) => *treatment,
        None => Treatment::Placed(Class::Other),
    }
}
