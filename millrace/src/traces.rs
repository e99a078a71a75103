//! Traces: what a call, an event or an update took its time for, as OpenTelemetry's spans, to a collector.
//!
//! A trace begins with the caller, whose W3C context comes in a call's metadata or in a message's headers, and goes
//! on with who reads the scores. Without an endpoint nothing is made: [`Traces`] is empty, no header is read, and
//! [`step`] finds nothing to be a part of.
//!
//! What is under way in a thread is OpenTelemetry's current [`Context`]: `serve/traced.rs` sets it for calls, `events`
//! for batches of messages, [`Traces::period`] for updates. So the parts in between, which say [`step`] where they take
//! time, need not know of whom they are a part. `export` sends the spans, and neither waits nor fails where no
//! collector does; `w3c` reads and writes contexts.

mod events;
mod export;
mod logs;
#[cfg(test)]
mod tests;
pub(crate) mod w3c;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer,
};
use opentelemetry::{Context, ContextGuard, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::failure::Outcome;
use crate::times::rfc3339;

pub(crate) use events::{EventTraces, Origin, current_headers, headers};
pub(crate) use logs::LogFields;

/// `[traces]`: without an endpoint there are none.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceSettings {
    /// Base address of the collector, which takes OTLP over HTTP.
    #[serde(deserialize_with = "endpoint")]
    pub endpoint: Option<Url>,
    /// Share of the traces that begin here which are recorded, 0 to 1. Of others, their beginner has decided.
    #[serde(deserialize_with = "share")]
    pub sample: f64,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            sample: 0.01,
        }
    }
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let url = Url::parse(&text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let wrong = || format!("'{text}' is no address over HTTP: write http://localhost:4318");
    url.map(Some)
        .ok_or_else(|| serde::de::Error::custom(wrong()))
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err(serde::de::Error::custom(format!(
            "sample is a share of the traces, 0 to 1, and not {share}"
        ))),
    }
}

/// The name of an update's span. It is recorded whatever share of the calls is.
const PERIOD: &str = "learn period";

/// Longest that the end of the process waits for the last spans to be taken.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Makes spans, or none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Source>>);

struct Source {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl Traces {
    /// Makes spans if the settings, or OpenTelemetry's variables `OTEL_EXPORTER_OTLP_ENDPOINT` and
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, say where to send them. The collector need not be there yet.
    ///
    /// # Errors
    /// A variable of OpenTelemetry's with a mistake.
    pub fn open(settings: &TraceSettings) -> Outcome<Self> {
        let source = export::provider(settings)?.map(|provider| {
            let tracer = export::tracer(&provider);
            Arc::new(Source { tracer, provider })
        });
        Ok(Self(source))
    }

    /// Sends what is left, for which it takes two seconds at most. No spans are made any more.
    pub fn shut_down(&self) {
        if let Some(source) = &self.0 {
            // What was not sent is counted where it is lost.
            let _ = source.provider.shutdown_with_timeout(LAST_SPANS);
        }
    }

    /// Sends the spans that have ended until now.
    #[cfg(test)]
    pub(crate) fn flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
        let source = self.0.as_ref();
        source.map_or(Ok(()), |source| source.provider.force_flush())
    }

    /// A span of `kind` without a name yet, under the caller's where there is one. None where nobody records it.
    pub(crate) fn begin(&self, kind: SpanKind, caller: Option<&SpanContext>) -> Option<Work> {
        let tracer = &self.0.as_ref()?.tracer;
        let parent = caller.map_or_else(Context::new, |caller| {
            Context::new().with_remote_span_context(caller.clone())
        });
        Work::begin(tracer, SpanBuilder::from_name("").with_kind(kind), &parent)
    }

    /// Names of the Kafka headers that ingestion is to keep.
    #[must_use]
    pub fn headers(&self) -> &'static [&'static str] {
        match self.0 {
            Some(_) => &[w3c::PARENT, w3c::STATE],
            None => &[],
        }
    }

    /// The update of the period that ends at `end_us` is under way in this thread until the guard is dropped.
    pub(crate) fn period(&self, end_us: i64) -> Option<Entered> {
        let tracer = &self.0.as_ref()?.tracer;
        let work = Work::begin(tracer, SpanBuilder::from_name(PERIOD), &Context::new())?;
        work.note("millrace.period.end", rfc3339(end_us));
        Some(work.enter())
    }

    /// Whether spans are made.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

/// Something that a recorded span is about. The span ends with the last clone, or by [`end`](Self::end).
#[derive(Clone)]
pub(crate) struct Work {
    /// The span, and as a value what [`step`] needs.
    context: Context,
}

/// What steps of the work in a thread are parts of.
struct Steps {
    tracer: SdkTracer,
    parents: Vec<Context>,
}

impl Work {
    fn begin(tracer: &SdkTracer, span: SpanBuilder, parent: &Context) -> Option<Self> {
        let span = tracer.build_with_context(span, parent);
        if !span.is_recording() {
            return None;
        }
        let own = parent.with_span(span);
        let steps = Steps {
            tracer: tracer.clone(),
            parents: vec![own.clone()],
        };
        Some(Self {
            context: own.with_value(Arc::new(steps)),
        })
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn rename(&self, name: impl Into<Cow<'static, str>>) {
        self.context.span().update_name(name);
    }

    pub(crate) fn note(&self, key: &'static str, value: impl Into<Value>) {
        let attribute = KeyValue::new(key, value.into());
        self.context.span().set_attribute(attribute);
    }

    pub(crate) fn fail(&self, why: String) {
        self.context.span().set_status(Status::error(why));
    }

    pub(crate) fn end(&self) {
        self.context.span().end();
    }

    /// It is under way in this thread until the guard is dropped.
    fn enter(self) -> Entered {
        Entered {
            _guard: self.context.clone().attach(),
            work: self,
        }
    }
}

/// Work that is under way in this thread.
pub(crate) struct Entered {
    _guard: ContextGuard,
    work: Work,
}

impl Entered {
    pub(crate) fn note(&self, key: &'static str, value: impl Into<Value>) {
        self.work.note(key, value);
    }

    pub(crate) fn fail(&self, why: String) {
        self.work.fail(why);
    }
}

/// A part of what is under way in this thread begins, and ends when what is returned is dropped.
pub(crate) fn step(name: &'static str) -> Step {
    let steps = Context::map_current(|context| context.get::<Arc<Steps>>().cloned());
    let spans = steps.map_or_else(Vec::new, |steps| {
        let parents = steps.parents.iter();
        parents
            .map(|parent| steps.tracer.start_with_context(name, parent))
            .collect()
    });
    Step { spans }
}

/// A part of some work: a span for each of those that it is a part of.
pub(crate) struct Step {
    spans: Vec<Span>,
}

impl Step {
    pub(crate) fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        for span in &mut self.spans {
            span.set_attribute(KeyValue::new(key, value.clone()));
        }
    }
}

/// What is under way in this thread is so in another, for as long as `work` takes there.
pub(crate) fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let context = Context::current();
    move || {
        let _under_way = context.attach();
        work()
    }
}
