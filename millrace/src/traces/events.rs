//! Traces of messages: from the `traceparent` of an event's producer to that of its score.
//!
//! By OpenTelemetry's conventions for messaging, an event whose producer's trace is recorded has a span `process TOPIC`
//! under the producer's, and its score a span `send TOPIC` under that, which is what the score's `traceparent` names.
//! All events of a step are processed together, so they have their parts' times in common.
//!
//! A trace that is not recorded is passed on all the same, lest who reads the scores begins another.

use std::sync::Arc;

use millrace_ingest::{RowHeader, StreamBatch};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, TraceContextExt, Tracer as _,
};
use opentelemetry::{Context, ContextGuard, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use rdkafka::message::{Header, OwnedHeaders};

use super::{Steps, Traces, Work, w3c};

/// Most events of one batch that have spans. Of a replay whose producer records everything, the first ones tell as much;
/// all others are passed on without.
const MOST: usize = 32;

/// The traces of a batch's events: nothing where messages have no `traceparent`.
#[derive(Default)]
pub(crate) struct EventTraces {
    /// By rising row, what is passed on with what is made of an event.
    rows: Vec<(usize, SpanContext)>,
    /// The events that have spans: their places in `rows`.
    works: Vec<(usize, Work)>,
    /// Scores that are on their way.
    sends: Vec<Span>,
    steps: Option<Arc<Steps>>,
}

/// Where messages come from, as spans name it.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) topic: &'a str,
    pub(crate) group: &'a str,
}

impl Traces {
    /// The traces of a batch's events, which begin to be processed.
    pub(crate) fn events(&self, batch: &StreamBatch, from: Origin<'_>) -> EventTraces {
        let mut traces = EventTraces::default();
        let Some(source) = self.0.as_ref().filter(|_| !batch.headers.is_empty()) else {
            return traces;
        };
        for headers in batch.headers.chunk_by(|a, b| a.row == b.row) {
            let row = headers[0].row;
            let value = |name| {
                let found = headers
                    .iter()
                    .find(|header: &&RowHeader| header.name == name);
                found.map_or(&[][..], |header| &header.value)
            };
            let Some(producer) = w3c::parse(value(w3c::PARENT), value(w3c::STATE)) else {
                continue;
            };
            if producer.is_sampled() && traces.works.len() < MOST {
                let place = traces.rows.len();
                let work = process(&source.tracer, &producer, from, batch, row);
                traces.works.extend(work.map(|work| (place, work)));
            }
            traces.rows.push((row, producer));
        }
        if !traces.works.is_empty() {
            let works = traces.works.iter();
            traces.steps = Some(Arc::new(Steps {
                tracer: source.tracer.clone(),
                parents: works.map(|(_, work)| work.context.clone()).collect(),
            }));
        }
        traces
    }
}

impl EventTraces {
    /// The events are under way in this thread until what is returned is dropped.
    pub(crate) fn enter(&self) -> Option<ContextGuard> {
        let steps = self.steps.as_ref()?;
        Some(Context::new().with_value(Arc::clone(steps)).attach())
    }

    /// The events' scores are on their way to a topic. What their messages pass on, by rising row.
    pub(crate) fn send(&mut self, topic: &str) -> &[(usize, SpanContext)] {
        for (place, work) in &self.works {
            let Some(steps) = &self.steps else {
                break;
            };
            let attributes = [
                KeyValue::new("messaging.system", "kafka"),
                KeyValue::new("messaging.operation.name", "send"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.destination.name", topic.to_owned()),
            ];
            let span = SpanBuilder::from_name(format!("send {topic}"))
                .with_kind(SpanKind::Producer)
                .with_attributes(attributes);
            let span = steps.tracer.build_with_context(span, &work.context);
            self.rows[*place].1 = span.span_context().clone();
            self.sends.push(span);
        }
        &self.rows
    }

    /// The brokers have the scores.
    pub(crate) fn sent(&mut self) {
        self.sends.clear();
    }

    /// The events are not processed: they come again.
    pub(crate) fn fail(&self, why: &str) {
        for (_, work) in &self.works {
            work.fail(why.to_owned());
        }
    }
}

/// The span of an event.
fn process(
    tracer: &SdkTracer,
    producer: &SpanContext,
    from: Origin<'_>,
    batch: &StreamBatch,
    row: usize,
) -> Option<Work> {
    let (partition, offset) = batch.origin[row];
    let attributes = [
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.name", from.topic.to_owned()),
        KeyValue::new("messaging.destination.partition.id", partition.to_string()),
        KeyValue::new("messaging.kafka.offset", offset),
        KeyValue::new("messaging.consumer.group.name", from.group.to_owned()),
        KeyValue::new("millrace.step.events", batch.batch.num_rows() as i64),
    ];
    let span = SpanBuilder::from_name(format!("process {}", from.topic))
        .with_kind(SpanKind::Consumer)
        .with_attributes(attributes);
    let parent = Context::new().with_remote_span_context(producer.clone());
    Work::begin(tracer, span, &parent)
}

/// What a message passes on of a trace.
pub(crate) fn headers(trace: &SpanContext) -> OwnedHeaders {
    let parent = w3c::parent(trace);
    let headers = OwnedHeaders::new_with_capacity(2).insert(Header {
        key: w3c::PARENT,
        value: Some(&parent),
    });
    match &w3c::state(trace) {
        None => headers,
        state => headers.insert(Header {
            key: w3c::STATE,
            value: state.as_ref(),
        }),
    }
}

/// What a message passes on of what is under way in this thread.
pub(crate) fn current_headers() -> Option<OwnedHeaders> {
    Context::map_current(|context| {
        let is_traced = context.has_active_span();
        is_traced.then(|| headers(context.span().span_context()))
    })
}
