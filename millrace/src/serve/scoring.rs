//! `ScoringService`: fraud scores of events that the caller brings.
//!
//! The events mean here what they mean in their topic: the same decoder reads them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millrace_ingest::{BadMessage, JsonDecoder, StreamSpec};
use millrace_proto::v1::scoring_service_server::ScoringService;
use millrace_proto::v1::{Score, ScoreRequest, ScoreResponse};
use tonic::{Request, Response, Status};

use super::answered;
use super::features::check_time;
use super::refusal::{Refusal, check_count};
use super::values::timestamp;
use crate::failure::{Outcome, with_causes};
use crate::live::Live;
use crate::pipeline::{now_us, stream_specs};
use crate::scorer::{Scorer, Scores};
use crate::settings::micros;
use crate::state::Committed;
use crate::workspace::ModelPlan;

/// The service.
pub(super) struct Scoring {
    live: Live,
    /// None where the project has no model.
    decoders: Option<Decoders>,
}

impl Scoring {
    /// # Errors
    /// The model's stream has a type that cannot be decoded.
    pub(super) fn new(live: Live) -> Outcome<Self> {
        let specs = stream_specs(&live.workspace);
        let model = live.scorer.as_ref().map(|scorer| &scorer.plan);
        let spec = model.and_then(|plan| {
            let is_scored = |spec: &StreamSpec| spec.name == plan.inputs.stream.name;
            specs.into_iter().find(is_scored)
        });
        let decoders = spec.map(Decoders::new).transpose()?;
        Ok(Self { live, decoders })
    }

    fn score(&self, request: &ScoreRequest, now_us: i64) -> Result<ScoreResponse, Refusal> {
        let started = Instant::now();
        let (Some(scorer), Some(decoders)) = (&self.live.scorer, &self.decoders) else {
            return Err(Refusal::NoModel);
        };
        check_count("event_json", request.event_json.len())?;
        let ahead = micros(self.live.workspace.settings.kafka.allowed_future);
        let events = decoders.decode(&request.event_json, now_us.saturating_add(ahead))?;
        self.check_times(scorer, &events)?;
        let scores = scorer.score(&Committed(self.live.store.as_ref()), &events)?;
        let mut answer = answer(&scorer.plan, &events, &scores)?;
        if request.include_inputs() {
            add_inputs(&mut answer, &scores.inputs)?;
        }
        metrics::histogram!("millrace_scoring_seconds").record(started.elapsed());
        Ok(ScoreResponse { scores: answer })
    }

    /// Refuses events for whose inputs there may be too little left.
    fn check_times(&self, scorer: &Scorer, events: &RecordBatch) -> Result<(), Refusal> {
        let inputs = &scorer.plan.inputs;
        let times = events
            .column(inputs.stream.time)
            .as_primitive::<TimestampMicrosecondType>();
        let Some((index, oldest)) = times.values().iter().enumerate().min_by_key(|(_, t)| **t)
        else {
            return Ok(());
        };
        inputs
            .views()
            .try_for_each(|view| check_time(&self.live, view, &path(index), *oldest))
    }
}

#[tonic::async_trait]
impl ScoringService for Scoring {
    async fn score(
        &self,
        request: Request<ScoreRequest>,
    ) -> Result<Response<ScoreResponse>, Status> {
        let now_us = now_us();
        answered("Score", || self.score(request.get_ref(), now_us))
    }
}

/// The field of one event in a request.
fn path(index: usize) -> String {
    format!("event_json[{index}]")
}

/// Ids, times and probabilities.
fn answer(plan: &ModelPlan, events: &RecordBatch, scores: &Scores) -> Result<Vec<Score>, Refusal> {
    let options = FormatOptions::default();
    let ids = ArrayFormatter::try_new(events.column(plan.event_id), &options)?;
    let times = events
        .column(plan.inputs.stream.time)
        .as_primitive::<TimestampMicrosecondType>();
    let probabilities = scores.probabilities.as_ref();
    let score = |row: usize| Score {
        id: ids.value(row).to_string(),
        event_time: Some(timestamp(times.value(row))),
        probability: probabilities
            .and_then(|p| p.get(row))
            .map(|p| f64::from(*p)),
        model_version: scores.versions[row],
        ..Score::default()
    };
    Ok((0..events.num_rows()).map(score).collect())
}

/// Adds to each score what the model saw; null and NaN are left out.
fn add_inputs(scores: &mut [Score], inputs: &RecordBatch) -> Result<(), Refusal> {
    for (field, column) in inputs.schema_ref().fields().iter().zip(inputs.columns()) {
        let column = cast(column, &DataType::Float64)?;
        let values = column.as_primitive::<Float64Type>();
        for (score, value) in scores.iter_mut().zip(values) {
            if let Some(value) = value.filter(|value| !value.is_nan()) {
                score.inputs.insert(field.name().clone(), value);
            }
        }
    }
    Ok(())
}

/// Decoders that are not in use: one is costly to make, and serves one call at a time. There are at
/// most as many as calls were decoded at once.
struct Decoders {
    spec: StreamSpec,
    idle: Mutex<Vec<JsonDecoder>>,
}

impl Decoders {
    fn new(spec: StreamSpec) -> Outcome<Self> {
        let first = JsonDecoder::new(spec.clone())?;
        Ok(Self {
            spec,
            idle: Mutex::new(vec![first]),
        })
    }

    /// The events as a batch of the stream's schema, or the first one that is bad.
    fn decode(&self, events: &[String], latest_us: i64) -> Result<RecordBatch, Refusal> {
        let idle = self.idle().pop();
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => JsonDecoder::new(self.spec.clone()).map_err(|e| internal(&e))?,
        };
        let payloads: Vec<Option<&[u8]>> = events.iter().map(|e| Some(e.as_bytes())).collect();
        let decoded = decoder.decode(&payloads, latest_us);
        self.idle().push(decoder);
        let decoded = decoded.map_err(|e| internal(&e))?;
        match decoded.bad.as_slice() {
            [] => Ok(decoded.batch),
            [first, others @ ..] => Err(bad_event(first, others.len())),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<JsonDecoder>> {
        // Nothing is done under the lock that could leave the vector half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bad_event(first: &BadMessage, others: usize) -> Refusal {
    let BadMessage {
        index,
        reason,
        detail,
    } = first;
    let others = match others {
        0 => String::new(),
        others => format!(" (and {others} more cannot be read)"),
    };
    Refusal::argument(path(*index), format!("{reason}: {detail}{others}"))
}

fn internal(error: &dyn std::error::Error) -> Refusal {
    Refusal::Internal(with_causes(error))
}
