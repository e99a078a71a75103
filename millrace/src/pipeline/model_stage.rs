//! What a step of a project with a model does on top: events are scored, and labels join them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use millrace_features::{DeletedId, Stream, Tile, pack_keys};
use millrace_ingest::StreamBatch;
use tracing::warn;

use crate::failure::{Failure, Outcome};
use crate::labels::{JoinStep, LabelJoin, ScoredRecord};
use crate::live::Progress;
use crate::marks::newest;
use crate::pipeline::StepFailure;
use crate::score_topic::ScoreSink;
use crate::scored_watch::ScoredWatch;
use crate::scorer::{Scorer, Scores};
use crate::state::Overlay;
use crate::times::rfc3339;
use crate::traces::EventTraces;
use crate::workspace::ModelPlan;

/// What a project with a model does on top.
pub(super) struct ModelStage {
    pub(super) scorer: Arc<Scorer>,
    pub(super) join: LabelJoin,
    pub(super) inputs_tag: u32,
    pub(super) topic: Option<Box<dyn ScoreSink>>,
    pub(super) watch: ScoredWatch,
}

impl ModelStage {
    /// Scores events, and says which of them are new: no event of their id and time was scored before.
    pub(super) fn score(
        &mut self,
        state: &Overlay<'_>,
        events: &RecordBatch,
        traces: &mut EventTraces,
        join: &mut JoinStep<'_>,
        tiles: &mut Vec<Tile>,
    ) -> Result<(Scores, Vec<bool>), StepFailure> {
        let under_way = traces.enter();
        let plan = &self.scorer.plan;
        let started = Instant::now();
        let keep = &mut |tile| tiles.push(tile);
        let scores = self.scorer.score_and_sum_up(state, events, keep)?;
        drop(under_way);
        metrics::histogram!("millrace_scoring_seconds")
            .record(started.elapsed().as_secs_f64() / events.num_rows().max(1) as f64);
        let ids = pack_keys(&[Arc::clone(events.column(plan.event_id))]);
        let times = events
            .column(plan.inputs.stream.time)
            .as_primitive::<TimestampMicrosecondType>();
        let mut new = Vec::with_capacity(ids.len());
        for (row, id) in ids.iter().enumerate() {
            let record = ScoredRecord::new(times.value(row), scores.row(row), self.inputs_tag);
            new.push(join.scored(
                id,
                record.answered(scores.probability(row), scores.versions[row]),
            )?);
        }
        if let Some(topic) = &mut self.topic {
            let traces = traces.send(&plan.settings.scores);
            let sent = topic.send(events, &scores, traces);
            sent.map_err(StepFailure::Scores)?;
        }
        Ok((scores, new))
    }

    /// Looks whether the inputs of scored events have moved.
    pub(super) fn look_for_drift(
        &mut self,
        events: &RecordBatch,
        scores: &Scores,
        progress: &Progress,
    ) {
        let newest = newest(events, self.scorer.plan.inputs.stream.time);
        let (Some(serving), Some(newest)) = (self.scorer.serving(), newest) else {
            return;
        };
        let probabilities = scores.probabilities.as_deref().unwrap_or_default();
        let alarms = self
            .watch
            .see(&serving.model, &scores.matrix, probabilities, newest);
        for alarm in alarms {
            warn!(
                input = alarm.input,
                measure = alarm.measure.name(),
                value = alarm.value,
                usual = alarm.usual,
                until = rfc3339(alarm.until_us),
                "an input of scored events moved"
            );
            progress.alarm(alarm);
        }
    }
}

pub(super) fn join_labels(
    plan: &ModelPlan,
    labels: &RecordBatch,
    join: &mut JoinStep<'_>,
) -> Outcome<()> {
    let ids = pack_keys(&[Arc::clone(labels.column(plan.label_id))]);
    let frauds = frauds(labels.column(plan.label_column))?;
    let times = labels
        .column(plan.labels.time)
        .as_primitive::<TimestampMicrosecondType>();
    for (row, (id, fraud)) in ids.iter().zip(frauds).enumerate() {
        if let Some(fraud) = fraud {
            join.label(id, fraud, times.value(row));
        }
    }
    Ok(())
}

/// Forgets scored events and labels that were deleted, but for those that came again behind their deletion.
pub(super) fn forget(
    plan: &ModelPlan,
    stream: &Arc<Stream>,
    batch: &StreamBatch,
    deleted: &[(DeletedId, bool)],
    join: &mut JoinStep<'_>,
) -> Outcome<()> {
    let Some(id) = stream.id.filter(|_| !deleted.is_empty()) else {
        return Ok(());
    };
    let ids = pack_keys(&[Arc::clone(batch.batch.column(id))]);
    let last: HashMap<Vec<u8>, (i32, i64)> =
        ids.into_iter().zip(batch.origin.iter().copied()).collect();
    for ((deleted, _), deletion) in deleted.iter().zip(&batch.deletions) {
        let came_again = last
            .get(&deleted.packed)
            .is_some_and(|(partition, offset)| {
                *partition == deletion.partition && *offset > deletion.offset
            });
        if came_again {
            continue;
        }
        if Arc::ptr_eq(stream, &plan.inputs.stream) && id == plan.event_id {
            join.forget_event(&deleted.packed)?;
        }
        if Arc::ptr_eq(stream, &plan.labels) && id == plan.label_id {
            join.forget_label(&deleted.packed)?;
        }
    }
    Ok(())
}

/// Labels as booleans: a number is fraud where it is not 0. A null label says nothing.
fn frauds(column: &ArrayRef) -> Outcome<Vec<Option<bool>>> {
    if column.data_type() == &DataType::Boolean {
        return Ok(column.as_boolean().iter().collect());
    }
    let numbers = cast(column, &DataType::Float64).map_err(|e| Failure::failed(e.to_string()))?;
    let numbers = numbers.as_primitive::<Float64Type>();
    Ok(numbers
        .iter()
        .map(|number| number.map(|number| number != 0.0))
        .collect())
}
