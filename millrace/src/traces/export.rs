//! Spans to the collector: OTLP over HTTP, in batches, from a thread of its own.
//!
//! The queue before it is bounded, and what it cannot take is dropped and counted: nobody who makes spans ever waits.
//! A collector that does not answer is said once, and once that it does again.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::trace::{Link, SpanKind, TraceId, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, Protocol, WithExportConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingResult, SdkTracer, SdkTracerProvider,
    ShouldSample, Span, SpanData, SpanExporter, SpanProcessor,
};

use super::{PERIOD, TraceSettings};
use crate::failure::{Failure, Outcome, with_causes};

/// The conventions by which spans and attributes are named.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Spans that may wait for the collector, where `OTEL_BSP_MAX_QUEUE_SIZE` does not say otherwise: some MiB at most.
const WAITING: usize = 2_048;

/// Makes the spans that `provider` sends.
pub(super) fn tracer(provider: &SdkTracerProvider) -> SdkTracer {
    let scope = InstrumentationScope::builder("millrace")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(CONVENTIONS);
    provider.tracer_with_scope(scope.build())
}

/// None without an endpoint.
pub(super) fn provider(settings: &TraceSettings) -> Outcome<Option<SdkTracerProvider>> {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let variables = [
        OTEL_EXPORTER_OTLP_ENDPOINT,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    ];
    if settings.endpoint.is_none() && !variables.into_iter().any(is_set) {
        return Ok(None);
    }
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary);
    if let Some(base) = &settings.endpoint {
        let base = base.as_str().trim_end_matches('/');
        exporter = exporter.with_endpoint(format!("{base}/v1/traces"));
    }
    let exporter = exporter.build().map_err(|e| {
        Failure::input(format!("traces: {}", with_causes(&e)))
            .hint("traces.endpoint in millrace.toml, or the variable OTEL_EXPORTER_OTLP_ENDPOINT, name a collector: http://localhost:4318")
    })?;
    Ok(Some(with_exporter(exporter, settings.sample)))
}

fn with_exporter(exporter: impl SpanExporter + 'static, sample: f64) -> SdkTracerProvider {
    let most = env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok();
    let most = most.and_then(|most| most.parse().ok()).unwrap_or(WAITING);
    let waiting = Arc::new(AtomicUsize::new(0));
    let exporter = Watched {
        exporter,
        waiting: Arc::clone(&waiting),
        is_failing: AtomicBool::new(false),
    };
    let config = BatchConfigBuilder::default().with_max_queue_size(most);
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config.build());
    let queue = Bounded {
        batches: batches.build(),
        waiting,
        most,
    };
    let root = Roots {
        share: Sampler::TraceIdRatioBased(sample),
    };
    SdkTracerProvider::builder()
        .with_resource(resource())
        .with_sampler(Sampler::ParentBased(Box::new(root)))
        .with_span_processor(queue)
        .build()
}

/// Who makes the spans, as OpenTelemetry's variables say; without a name among them, it is millrace.
fn resource() -> Resource {
    let name = Key::from_static_str("service.name");
    let detected = Resource::builder().build().get(&name);
    let is_unknown = detected.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder();
    let builder = match is_unknown {
        true => builder.with_service_name("millrace"),
        false => builder,
    };
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    builder.with_attribute(version).build()
}

/// Which traces that begin here are recorded: a share of the calls, and each update.
#[derive(Debug, Clone)]
struct Roots {
    share: Sampler,
}

impl ShouldSample for Roots {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = match name {
            PERIOD => &Sampler::AlwaysOn,
            _ => &self.share,
        };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

/// Lets no more spans into the queue than it takes, so that those which are dropped are known.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.most {
            self.batches.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            note_dropped(1, "queue");
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Counts what an exporter sends, and says when it begins and ends to fail.
#[derive(Debug)]
struct Watched<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let count = spans.len();
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        let sent = self.exporter.export(spans).await;
        match &sent {
            Ok(()) => {
                metrics::counter!("millrace_spans_exported_total").increment(count as u64);
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(error) => {
                note_dropped(count, "collector");
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = with_causes(error),
                        "the collector takes no traces; they are dropped until it does"
                    );
                }
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn note_dropped(spans: usize, reason: &'static str) {
    metrics::counter!("millrace_spans_dropped_total", "reason" => reason).increment(spans as u64);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use opentelemetry::trace::Tracer;
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    /// Takes a batch when it is told to, and says how many spans it had.
    #[derive(Debug)]
    struct Slow {
        go: Mutex<Receiver<bool>>,
        taken: Sender<usize>,
    }

    impl SpanExporter for Slow {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.taken.send(spans.len()).unwrap();
            match self.go.lock().unwrap().recv() {
                Ok(true) => Ok(()),
                _ => Err(OTelSdkError::InternalFailure("not taken".into())),
            }
        }
    }

    #[test]
    fn what_the_queue_cannot_take_is_dropped_and_counted() {
        const SPANS: usize = 5_000;
        let ((go, gone), (taken, taking)) = (channel(), channel());
        let go_on = Mutex::new(gone);
        let provider = with_exporter(Slow { go: go_on, taken }, 1.0);
        let tracer = tracer(&provider);
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            (0..SPANS).for_each(|_| drop(tracer.start("span")));
        });
        let dropped = recorder.handle().render();
        let dropped = dropped
            .lines()
            .find_map(|line| line.strip_prefix("millrace_spans_dropped_total{reason=\"queue\"} "));
        let dropped: usize = dropped.unwrap().parse().unwrap();
        // The first batch was taken out of the queue before the exporter waited.
        assert!(dropped >= SPANS - WAITING - 512, "{dropped}");
        (0..100).for_each(|_| go.send(true).unwrap());
        provider.force_flush().unwrap();
        assert_eq!(taking.try_iter().sum::<usize>(), SPANS - dropped);
    }
}
