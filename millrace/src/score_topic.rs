//! The topic of scores: one JSON message an event, keyed by the event's id.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use opentelemetry::trace::SpanContext;
use serde_json::{Map, Value, json};

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
pub struct ScoreTopic {
    producer: RawProducer,
    topic: String,
    plan: ModelPlan,
    stop: Arc<AtomicBool>,
}

impl ScoreTopic {
    /// Scores of `plan` to its topic. Once `stop` is set, brokers that do not take them are not waited for.
    #[must_use]
    pub fn new(producer: RawProducer, plan: ModelPlan, stop: Arc<AtomicBool>) -> Self {
        Self {
            producer,
            topic: plan.settings.scores.clone(),
            plan,
            stop,
        }
    }
}

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
            self.producer.send_with(
                &self.topic,
                Some(id.as_bytes()),
                Some(message.to_string().as_bytes()),
                trace.map(|(_, trace)| traces::headers(trace)),
            )?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        let timeout = Duration::from_secs(60);
        self.producer.flush_unless(&self.stop, timeout)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::serve::tests::live;

    #[test]
    fn a_topic_that_is_not_there_is_named_with_what_is() {
        let live = live();
        let plan = live.workspace.model().unwrap();
        let check = |existing: &[&str]| {
            let existing: Vec<String> = existing.iter().map(|&name| name.to_owned()).collect();
            check_topic(plan, &existing)
        };
        assert!(check(&["labels", "scores"]).is_ok());
        let failure = check(&["labels", "transactions"]).unwrap_err().to_string();
        assert!(failure.contains("no topic `scores`"), "{failure}");
        assert!(failure.contains("--create-topics"), "{failure}");
        assert!(!failure.contains("did you mean"), "{failure}");
        let failure = check(&["Score"]).unwrap_err().to_string();
        assert!(failure.contains("did you mean 'Score'?"), "{failure}");
    }
}
