//! Admission: limits that keep accepted requests fast when more come than can be answered.
//!
//! A request takes one of a few places, or waits in line for one, or is refused at once and told when to ask again.
//! `line` decides which, and whose turn it is: it is pure, and is told the time. `gate` gives it a clock; `layer`
//! stands in front of the services. Who a client is, `serve/access.rs` says.
//!
//! Whoever has a place is worked for. A request has none while it waits for its caller: `message` reads it to its end
//! before, and `answer` lets it go when its answer is there, whoever reads that when. What is kept of requests and
//! answers meanwhile is counted, and bounded. Work that outlives its request keeps the place: `work`.

mod answer;
mod arrival;
mod gate;
mod items;
mod layer;
mod line;
mod message;
mod refused;
mod service;
#[cfg(test)]
mod tests;
mod work;

use std::time::Duration;

use serde::Deserialize;

use crate::settings::duration;
use items::Items;

pub(super) use arrival::parse_timeout;
pub(super) use gate::{Gate, Place};
pub(super) use layer::AdmissionLayer;
pub(super) use message::Message;
pub(super) use refused::Refused;
pub(super) use service::Job;
pub(crate) use work::is_in_vain;
pub(super) use work::{Held, Work};

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
    /// How long a request may take to come, from its headers to the end of its message.
    #[serde(deserialize_with = "duration")]
    pub body_timeout: Duration,
    /// Bytes of requests that are still coming or wait for a place, and of answers that are not read yet. One client
    /// has a quarter of them at most.
    pub buffer_bytes: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            concurrency: 0,
            queue: 1_024,
            client_concurrency: 256,
            max_wait: Duration::from_millis(100),
            body_timeout: Duration::from_secs(10),
            buffer_bytes: 256 << 20,
        }
    }
}

impl LimitSettings {
    /// Four requests a core: a look-up that waits for the disk leaves its core to another, and more than a few would
    /// only take turns, so that all of them end late.
    fn places(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.concurrency {
            0 => 4 * cores(),
            places => places,
        }
    }

    /// What one client may have of [`buffer_bytes`](Self::buffer_bytes).
    fn client_bytes(&self) -> usize {
        self.buffer_bytes / 4
    }
}

/// Kinds of work. Each takes a time of its own for a request and for each of its entities or events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    LookUp,
    /// Names and keys are read, and nothing is looked up: what begins a stream of parts, for instance.
    Resolve,
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
    /// Takes a place when its message is there, until its answer is. A stream's handler takes one for each part too.
    Placed(Class, Items),
}

/// The first of these that a path begins with decides.
const METHODS: [(&str, Treatment); 9] = {
    use Class::{LookUp, Manage, Resolve, Score, Write};
    use Items::{Entities, Events, Keys, None};
    use Treatment::{Free, Open, Placed};
    [
        (
            "/millrace.v1.FeatureService/GetFeatures",
            Placed(LookUp, Keys),
        ),
        ("/grpc.health.v1.Health/", Free),
        ("/grpc.reflection.", Open),
        ("/millrace.v1.FeatureService/", Placed(Resolve, Keys)),
        ("/millrace.v1.ScoringService/", Placed(Score, Events)),
        ("/millrace.v1.ModelService/", Placed(Manage, None)),
        ("/feast.serving.ServingService/", Placed(LookUp, Entities)),
        (
            "/GrpcFeatureServer/GetOnlineFeatures",
            Placed(LookUp, Entities),
        ),
        ("/GrpcFeatureServer/", Placed(Write, None)),
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
        None => Treatment::Placed(Class::Other, Items::None),
    }
}
