//! A closed loop of callers: so many calls are always under way, and how long each took.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// What callers saw.
#[derive(Clone)]
pub struct Load {
    /// Calls that were answered.
    pub calls: u64,
    /// Of them, those that were refused.
    pub failed: u64,
    /// How long it went on.
    pub elapsed: Duration,
    latencies_us: Histogram<u64>,
}

impl Load {
    /// Calls a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency in milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies_us.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Adds another round of the same.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.elapsed += other.elapsed;
        // Equal bounds, so nothing is left out.
        let _ = self.latencies_us.add(&other.latencies_us);
    }

    /// The figures, with `items` in each call.
    #[must_use]
    pub fn figures(&self, items: usize) -> Value {
        json!({
            "calls_per_second": self.rate().round(),
            "items_per_second": (self.rate() * items as f64).round(),
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
            "failed": self.failed,
        })
    }
}

/// Connections to a server, each with its own HTTP/2 connection.
///
/// # Errors
/// A server that does not answer.
pub async fn connect(
    address: SocketAddr,
    connections: usize,
) -> Result<Vec<Channel>, Box<dyn Error + Send + Sync>> {
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

/// Calls for `time`, with `callers` calls under way on the channels in turn. `call` gets a channel and the call's
/// number.
pub async fn load<F, R>(channels: &[Channel], callers: usize, time: Duration, call: F) -> Load
where
    F: Fn(Channel, u64) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Status>> + Send,
{
    let call = Arc::new(call);
    let number = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = Vec::with_capacity(callers);
    for caller in 0..callers {
        let channel = channels[caller % channels.len()].clone();
        let (call, number) = (Arc::clone(&call), Arc::clone(&number));
        tasks.push(tokio::spawn(async move {
            let mut latencies = histogram();
            let mut failed = 0;
            while started.elapsed() < time {
                let begun = Instant::now();
                let answer = call(channel.clone(), number.fetch_add(1, Ordering::Relaxed)).await;
                failed += u64::from(answer.is_err());
                let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                latencies.saturating_record(micros.max(1));
            }
            (latencies, failed)
        }));
    }
    let (mut latencies_us, mut failed) = (histogram(), 0);
    for task in tasks {
        if let Ok((latencies, refused)) = task.await {
            failed += refused;
            let _ = latencies_us.add(&latencies);
        }
    }
    Load {
        calls: latencies_us.len(),
        failed,
        elapsed: started.elapsed(),
        latencies_us,
    }
}

fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, 60_000_000, 3) {
        Ok(histogram) => histogram,
        Err(_) => unreachable!("the bounds are constants within the histogram's limits"),
    }
}
