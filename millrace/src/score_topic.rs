//! The topic of scores: one JSON message an event, keyed by the event's id.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millrace_ingest::{IngestSettings, Rarely};
use opentelemetry::trace::SpanContext;
use rdkafka::message::{Message, OwnedHeaders, OwnedMessage};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::failure::{Failure, Outcome};
use crate::files::nearest;
use crate::produce::RawProducer;
use crate::scorer::Scores;
use crate::times::rfc3339;
use crate::traces;
use crate::workspace::ModelPlan;

/// Where scores go.
pub trait ScoreSink: Send {
    /// Sends the scores of a batch of events. `traces` are those that the scores go on with, by rising row.
    ///
    /// # Errors
    /// A sink that does not take them.
    fn send(
        &mut self,
        events: &RecordBatch,
        scores: &Scores,
        traces: &[(usize, SpanContext)],
    ) -> Outcome<()>;

    /// Waits until all of them are taken.
    ///
    /// # Errors
    /// A sink that did not take them.
    fn flush(&mut self) -> Outcome<()>;
}

/// Refuses a project whose scores are to go to a topic that is not among those that there are.
///
/// # Errors
/// Of kind input.
pub(crate) fn check_topic(plan: &ModelPlan, existing: &[String]) -> Outcome<()> {
    let topic = &plan.settings.scores;
    if existing.contains(topic) {
        return Ok(());
    }
    let near = nearest(topic, existing.iter().map(String::as_str));
    let near = near.map_or(String::new(), |near| {
        format!("did you mean '{near}'? Else ")
    });
    let failure = Failure::input(format!(
        "there is no topic `{topic}`, which the scores are to go to"
    ));
    Err(failure.hint(format!(
        "{near}create it: `millrace run --create-topics`, or kafka-topics.sh --create --topic {topic}; model.scores in \
         millrace.toml names it"
    )))
}

/// Sends scores to Kafka.
///
/// A score that is too large for its topic would be so each time: it is sent without its text inputs, and where that does
/// not help, left out.
pub struct ScoreTopic {
    producer: RawProducer,
    topic: String,
    plan: ModelPlan,
    stop: Arc<AtomicBool>,
    /// When it was said of a score that it is too large.
    said: Rarely,
}

impl ScoreTopic {
    /// Scores of `plan` to its topic. Once `stop` is set, brokers that do not take them are not waited for.
    ///
    /// # Errors
    /// A property that librdkafka does not know.
    pub fn new(kafka: &IngestSettings, plan: ModelPlan, stop: Arc<AtomicBool>) -> Outcome<Self> {
        Ok(Self {
            producer: RawProducer::returning_too_large(kafka)?,
            topic: plan.settings.scores.clone(),
            plan,
            stop,
            said: Rarely::default(),
        })
    }

    fn queue(
        &self,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
    ) -> Outcome<()> {
        let queued = self.producer.send_with(&self.topic, key, payload, headers);
        // The step comes again, and with it all that is too large.
        queued.inspect_err(|_| drop(self.producer.take_too_large()))
    }

    /// What is sent in place of a score that is too large: the same without its text inputs. None where it has none.
    fn smaller(&mut self, score: OwnedMessage) -> Option<OwnedMessage> {
        let smaller = score.payload().and_then(without_texts);
        let outcome = match smaller {
            Some(_) => "without_texts",
            None => "left_out",
        };
        metrics::counter!("millrace_scores_too_large_total", "outcome" => outcome).increment(1);
        if self.said.is_due(Instant::now()) {
            let id = String::from_utf8_lossy(score.key().unwrap_or_default());
            let id: String = id.chars().take(SHOWN_OF_AN_ID).collect();
            let bytes = score.payload().map_or(0, <[u8]>::len);
            warn!(
                topic = self.topic,
                id,
                bytes,
                outcome,
                "a score is too large for its topic (max.message.bytes) or for Kafka's client (message.max.bytes in \
                 [kafka.properties]): it is sent without its text inputs, or else left out"
            );
        }
        Some(score.set_payload(Some(smaller?)))
    }
}

/// Most characters of an id that the log shows: it may be what is too large.
const SHOWN_OF_AN_ID: usize = 64;

impl ScoreSink for ScoreTopic {
    fn send(
        &mut self,
        events: &RecordBatch,
        scores: &Scores,
        traces: &[(usize, SpanContext)],
    ) -> Outcome<()> {
        let mut traced = traces.iter().peekable();
        let id_column = events.column(self.plan.event_id);
        let options = FormatOptions::default();
        let ids = ArrayFormatter::try_new(id_column, &options)
            .map_err(|e| Failure::failed(e.to_string()))?;
        for row in 0..events.num_rows() {
            let id = ids.value(row).to_string();
            let message = score_json(&self.plan, &id, events, scores, row);
            let trace = traced.next_if(|(traced, _)| *traced == row);
            self.queue(
                Some(id.as_bytes()),
                Some(message.to_string().as_bytes()),
                trace.map(|(_, trace)| traces::headers(trace)),
            )?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        let timeout = Duration::from_secs(60);
        let mut waiting: Vec<Vec<OwnedMessage>> = Vec::new();
        loop {
            let flushed = self.producer.flush_unless(&self.stop, timeout);
            let mut refused = self.producer.take_too_large();
            flushed?;
            // Of a batch that a broker refuses, each half is sent again by itself, until one score is left that is too
            // large: those that came with it are not.
            if refused.len() > 1 {
                waiting.push(refused.split_off(refused.len() / 2));
                waiting.push(refused);
            } else if let Some(score) = refused.pop() {
                waiting.extend(self.smaller(score).map(|smaller| vec![smaller]));
            }
            let Some(scores) = waiting.pop() else {
                return Ok(());
            };
            for score in scores {
                self.queue(score.key(), score.payload(), score.headers().cloned())?;
            }
        }
    }
}

/// One score, as it stands in the topic.
#[must_use]
pub fn score_json(
    plan: &ModelPlan,
    id: &str,
    events: &RecordBatch,
    scores: &Scores,
    row: usize,
) -> Value {
    let stream = &plan.inputs.stream;
    let time = events
        .column(stream.time)
        .as_primitive::<TimestampMicrosecondType>()
        .value(row);
    let values = scores.row(row).iter().enumerate();
    let values = values.map(|(input, value)| match scores.text(row, input) {
        Some(text) => json!(text),
        None => json!(value.is_finite().then_some(*value)),
    });
    let names = plan.inputs.names().map(str::to_owned);
    let inputs: Map<String, Value> = names.zip(values).collect();
    let id_name = stream.schema.field(plan.event_id).name();
    let probability = scores.probability(row);
    let mut score = json!({
        id_name: id,
        "event_time": rfc3339(time),
        "score": probability,
        "model_version": scores.versions[row],
        "inputs": inputs,
    });
    if let Some(decision) = probability.and_then(|p| plan.settings.decisions.of(p.into())) {
        score["decision"] = json!(decision);
    }
    score
}

/// A score without the inputs that are texts, whose names it has. None where it has no such inputs.
fn without_texts(message: &[u8]) -> Option<Vec<u8>> {
    let mut score: Map<String, Value> = serde_json::from_slice(message).ok()?;
    let inputs = score.get_mut("inputs")?.as_object_mut()?;
    let mut texts = Vec::new();
    inputs.retain(|name, value| {
        if value.is_string() {
            texts.push(name.clone());
        }
        !value.is_string()
    });
    if texts.is_empty() {
        return None;
    }
    score.insert("inputs_left_out".to_owned(), json!(texts));
    serde_json::to_vec(&score).ok()
}

#[cfg(test)]
mod tests;
