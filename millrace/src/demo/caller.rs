//! A caller of the demo's server: look-ups and scores over gRPC, one after the other, and how long each took.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::{Column, GetFeaturesRequest, ScoreRequest};
use serde_json::json;
use tonic::transport::Channel;

use crate::live::{Latency, Live};
use crate::serve::timestamp;
use crate::times::rfc3339;

/// Pause between two calls: what is measured is a call's time, not how many there can be.
const PAUSE: Duration = Duration::from_millis(5);

/// Latencies of calls, as the caller sees them.
pub(super) struct Caller {
    address: SocketAddr,
    pub(super) look_ups: Latency,
    pub(super) scores: Latency,
    stopped: AtomicBool,
}

impl Caller {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            look_ups: Latency::default(),
            scores: Latency::default(),
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) async fn call_until_dropped(self: Arc<Self>, live: Live) {
        let Ok(endpoint) = Channel::from_shared(format!("http://{}", self.address)) else {
            return;
        };
        let Ok(channel) = endpoint.connect().await else {
            return;
        };
        let mut features = FeatureServiceClient::new(channel.clone());
        let mut scoring = ScoringServiceClient::new(channel);
        let mut turn = 0_u64;
        while !self.stopped.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE).await;
            let Some(now_us) = live.progress.newest("transactions") else {
                continue;
            };
            turn += 1;
            // A stride that is prime to the number of cards visits them all.
            let card = (turn * 7_919 % 1_000).to_string();
            let begun = Instant::now();
            if features.get_features(look_up(&card, now_us)).await.is_ok() {
                self.look_ups.record(elapsed_us(begun));
            }
            let begun = Instant::now();
            let answer = scoring.score(payment(turn, &card, now_us)).await;
            if answer.is_ok_and(|answer| has_probability(answer.get_ref())) {
                self.scores.record(elapsed_us(begun));
            }
        }
    }
}

fn elapsed_us(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn look_up(card: &str, as_of_us: i64) -> GetFeaturesRequest {
    let cards = Column {
        strings: vec![card.to_owned()],
        ..Column::default()
    };
    GetFeaturesRequest {
        features: vec!["card_activity".to_owned()],
        keys: HashMap::from([("card_id".to_owned(), cards)]),
        as_of: Some(timestamp(as_of_us)),
        ..GetFeaturesRequest::default()
    }
}

fn payment(turn: u64, card: &str, now_us: i64) -> ScoreRequest {
    let event = json!({
        "tx_id": format!("asked-{turn}"),
        "card_id": card,
        "terminal_id": (turn * 104_729 % 2_000).to_string(),
        "amount": (turn % 300) as f64 + 0.99,
        "event_time": rfc3339(now_us),
    });
    ScoreRequest {
        event_json: vec![event.to_string()],
        ..ScoreRequest::default()
    }
}

fn has_probability(answer: &millrace_proto::v1::ScoreResponse) -> bool {
    answer
        .scores
        .first()
        .is_some_and(|score| score.probability.is_some())
}
