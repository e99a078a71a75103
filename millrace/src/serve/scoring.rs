//! `ScoringService`: fraud scores of events that the caller brings.
//!
//! Events as JSON mean here what they mean in their topic: the same decoder reads them. Events in columns are read
//! by the rules of look-ups' keys.

use std::fmt::{self, Display, Formatter};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::{Stream, StreamExt};
use millrace_ingest::{BadMessage, JsonDecoder, StreamSpec, not_finite_rows};
use millrace_proto::v1::scoring_service_server::ScoringService;
use millrace_proto::v1::{Column, Reason, Score, ScoreRequest, ScoreResponse};
use tonic::{Request, Response, Status, Streaming};

use super::access::{Caller, OpenCall};
use super::admission::{Class, Gate, Held, Job};
use super::blame::told;
use super::columns::timestamp;
use super::keys::{length, most_values, value_column};
use super::look_up::{check_step, check_time};
use super::refusal::{MOST_VIOLATIONS, Refusal, Violation, check_bytes, check_count};
use super::{answered, caller};
use crate::failure::{Outcome, with_causes};
use crate::files::{near_key, nearest};
use crate::live::Live;
use crate::scorer::{Scorer, Scores};
use crate::settings::micros;
use crate::state::Committed;
use crate::streams::stream_specs;
use crate::times::{now_us, rfc3339};
use crate::workspace::ModelPlan;

/// The service. It is cloned for each call.
#[derive(Clone)]
pub(super) struct Scoring {
    live: Arc<Live>,
    /// None where the project has no model.
    decoders: Option<Arc<Decoders>>,
    gate: Gate,
}

impl Scoring {
    /// # Errors
    /// The model's stream has a type that cannot be decoded.
    pub(super) fn new(live: Live, gate: Gate) -> Outcome<Self> {
        let specs = stream_specs(&live.workspace);
        let model = live.scorer.as_ref().map(|scorer| &scorer.plan);
        let spec = model.and_then(|plan| {
            let is_scored = |spec: &StreamSpec| spec.name == plan.inputs.stream.name;
            specs.into_iter().find(is_scored)
        });
        let decoders = spec.map(Decoders::new).transpose()?.map(Arc::new);
        Ok(Self {
            live: Arc::new(live),
            decoders,
            gate,
        })
    }

    fn score_request(
        &self,
        request: &ScoreRequest,
        caller: &Caller,
    ) -> Result<ScoreResponse, Refusal> {
        let started = Instant::now();
        self.live.progress.asked();
        let (Some(scorer), Some(decoders)) = (&self.live.scorer, &self.decoders) else {
            return Err(Refusal::NoModel);
        };
        check_scopes(scorer, request, caller)?;
        let events = self.events(request, decoders)?;
        let time = decoders.spec.schema.field(decoders.spec.time_column);
        let place = |row: usize| Place {
            column: (!request.columns.is_empty()).then(|| time.name().as_str()),
            row,
        };
        self.check_times(scorer, &events, &place)?;
        let moment = self.live.store.moment();
        let scores = scorer.score(&Committed(moment.as_ref()), &events)?;
        let mut answer = answer(&scorer.plan, &events, &scores)?;
        let mut input_names = Vec::new();
        if request.include_inputs() {
            let fields = scores.inputs.schema_ref().fields().iter();
            input_names.extend(fields.map(|field| field.name().clone()));
            add_inputs(&mut answer, &scores.inputs)?;
        }
        if request.top_reasons() > 0 {
            add_reasons(&mut answer, scorer, &scores, request.top_reasons())?;
        }
        metrics::histogram!("millrace_scoring_seconds").record(started.elapsed());
        let answer = ScoreResponse {
            scores: answer,
            input_names,
        };
        let instead = "send fewer events at once, or ask for no inputs and no reasons";
        check_bytes(&answer, instead)?;
        Ok(answer)
    }

    fn events(&self, request: &ScoreRequest, decoders: &Decoders) -> Result<RecordBatch, Refusal> {
        let ahead = micros(self.live.workspace.settings.kafka.allowed_future);
        let latest_us = now_us().saturating_add(ahead);
        if request.columns.is_empty() {
            check_count("event_json", request.event_json.len(), INSTEAD)?;
            return decoders.decode(&request.event_json, latest_us);
        }
        if !request.event_json.is_empty() {
            let reason = "events come as event_json or as columns, and both are given";
            return Err(Refusal::argument("columns", reason));
        }
        typed_events(&decoders.spec, &request.columns, latest_us)
    }

    /// Refuses events for whose inputs there may be too little left. `place` is where an event's time came from.
    fn check_times<'a>(
        &self,
        scorer: &Scorer,
        events: &RecordBatch,
        place: &dyn Fn(usize) -> Place<'a>,
    ) -> Result<(), Refusal> {
        let inputs = &scorer.plan.inputs;
        let times = events
            .column(inputs.stream.time)
            .as_primitive::<TimestampMicrosecondType>();
        let Some((index, oldest)) = times.values().iter().enumerate().min_by_key(|(_, t)| **t)
        else {
            return Ok(());
        };
        for view in inputs.views() {
            check_time(&self.live, view, &place(index), *oldest)
                .map_err(|refusal| with_others(refusal, times.values(), index, place))?;
            if view.resolution().is_some() {
                for (index, time) in times.values().iter().enumerate() {
                    check_step(&self.live, view, &place(index), *time)?;
                }
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl ScoringService for Scoring {
    type ScoreStreamStream = Pin<Box<dyn Stream<Item = Result<ScoreResponse, Status>> + Send>>;

    async fn score(
        &self,
        request: Request<ScoreRequest>,
    ) -> Result<Response<ScoreResponse>, Status> {
        let (service, caller) = (self.clone(), caller(&request));
        let request = request.into_inner();
        let size = size(&request);
        let answer = move || service.score_request(&request, &caller);
        answered("Score", size, answer).await
    }

    async fn score_stream(
        &self,
        request: Request<Streaming<ScoreRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        let (service, client) = (self.clone(), caller(&request));
        let open = OpenCall::of(request.extensions());
        let answers = request.into_inner().then(move |request| {
            let (service, client, open) = (service.clone(), Arc::clone(&client), open.clone());
            async move {
                let request = request.map_err(|status| told("ScoreStream", status))?;
                let client = match open {
                    Some(open) => open.caller()?,
                    None => client,
                };
                // An open stream takes no place among the requests that are worked on: each of its messages does.
                let job = Job {
                    class: Class::Score,
                    items: events(&request),
                };
                let place = service.gate.place(job, &client, None).await;
                let held = Held::new(place.map_err(Status::from)?);
                let size = size(&request);
                let answer = move || service.score_request(&request, &client);
                let answer = held.during(answered("ScoreStream", size, answer)).await;
                answer.map(Response::into_inner)
            }
        });
        // The first error ends the stream.
        let mut failed = false;
        let answers = answers.take_while(move |answer| {
            let go_on = !failed;
            failed |= answer.is_err();
            futures::future::ready(go_on)
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Inputs are what views say, and reasons tell them: whoever asks for them may read those views.
fn check_scopes(scorer: &Scorer, request: &ScoreRequest, caller: &Caller) -> Result<(), Refusal> {
    let field = match request.include_inputs() {
        true => "include_inputs",
        false if request.top_reasons() > 0 => "top_reasons",
        false => return Ok(()),
    };
    let views = scorer.plan.inputs.views();
    let hidden = views.filter(|view| !caller.may_read(&view.name));
    let lacking: Vec<String> = hidden
        .map(|view| format!("features:{}", view.name))
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!(
        "{field}: '{}' may not read all views that the inputs join: its scopes lack {}",
        caller.name(),
        lacking.join(", ")
    )))
}

/// Where one event is too early, names the others that are, as many as a status has room for: whoever sends a file of
/// them need not ask for each.
fn with_others<'a>(
    refusal: Refusal,
    times: &[i64],
    oldest: usize,
    place: &dyn Fn(usize) -> Place<'a>,
) -> Refusal {
    match refusal {
        Refusal::TooEarly {
            field,
            view,
            asked_us,
            earliest_us,
            ..
        } => {
            let rows = times.iter().enumerate();
            let early = rows.filter(|(row, time)| *row != oldest && **time < earliest_us);
            let others = early.map(|(row, time)| (place(row).to_string(), *time));
            Refusal::TooEarly {
                field,
                view,
                asked_us,
                earliest_us,
                others: others.take(MOST_VIOLATIONS - 1).collect(),
            }
        }
        other => other,
    }
}

/// How many events a request has.
fn events(request: &ScoreRequest) -> usize {
    let columns = request.columns.values().map(most_values);
    columns.max().unwrap_or(0).max(request.event_json.len())
}

/// How many answers of views a request asks for, roughly: an event's inputs join several.
fn size(request: &ScoreRequest) -> usize {
    const VIEWS: usize = 4;
    VIEWS * events(request)
}

/// What is done with more events than a call takes.
const INSTEAD: &str = "send them in several calls, or on a ScoreStream";

/// The field of an event's time in a request. Written out only where it is at fault.
struct Place<'a> {
    /// None where events come as JSON.
    column: Option<&'a str>,
    row: usize,
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let row = self.row;
        match self.column {
            Some(column) => write!(f, "columns[{column:?}][{row}]"),
            None => f.write_str(&path(row)),
        }
    }
}

/// The field of one event in a request.
fn path(index: usize) -> String {
    format!("event_json[{index}]")
}

/// Ids, times, probabilities and decisions.
fn answer(plan: &ModelPlan, events: &RecordBatch, scores: &Scores) -> Result<Vec<Score>, Refusal> {
    let options = FormatOptions::default();
    let ids = ArrayFormatter::try_new(events.column(plan.event_id), &options)?;
    let times = events
        .column(plan.inputs.stream.time)
        .as_primitive::<TimestampMicrosecondType>();
    let probabilities = scores.probabilities.as_ref();
    let score = |row: usize| {
        let probability = probabilities
            .and_then(|p| p.get(row))
            .map(|p| f64::from(*p));
        let decision = probability.and_then(|p| plan.settings.decisions.of(p));
        Score {
            id: ids.value(row).to_string(),
            event_time: Some(timestamp(times.value(row))),
            probability,
            model_version: scores.versions[row],
            decision: decision.unwrap_or_default().to_owned(),
            ..Score::default()
        }
    };
    Ok((0..events.num_rows()).map(score).collect())
}

/// Adds to each score what the model saw, a text as it is; null and NaN are left out.
fn add_inputs(scores: &mut [Score], inputs: &RecordBatch) -> Result<(), Refusal> {
    for (field, column) in inputs.schema_ref().fields().iter().zip(inputs.columns()) {
        if let Some(texts) = column.as_string_opt::<i32>() {
            for (score, text) in scores.iter_mut().zip(texts) {
                let text = text.map(|text| (field.name().clone(), text.to_owned()));
                score.text_inputs.extend(text);
            }
            continue;
        }
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

/// Adds to each score the inputs that moved it most, by the model that gave it.
fn add_reasons(
    answer: &mut [Score],
    scorer: &Scorer,
    scores: &Scores,
    most: u32,
) -> Result<(), Refusal> {
    let names = scorer.plan.input_names();
    for (row, score) in answer.iter_mut().enumerate() {
        let Some(serving) = scorer.of_version(scores.versions[row]) else {
            continue;
        };
        let inputs = scores.row(row);
        let contributions = serving.model.contributions(inputs)?;
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by(|a, b| contributions[*b].abs().total_cmp(&contributions[*a].abs()));
        order.truncate(most as usize);
        let reason = |input: usize| {
            let text = scores.text(row, input);
            let number = Some(f64::from(inputs[input])).filter(|value| !value.is_nan());
            Reason {
                input: names[input].clone(),
                value: number.filter(|_| text.is_none()),
                contribution: contributions[input],
                text: text.map(str::to_owned),
            }
        };
        score.reasons = order.into_iter().map(reason).collect();
    }
    Ok(())
}

/// Events that came in columns, as a batch of the stream's schema.
pub(super) fn typed_events(
    spec: &StreamSpec,
    columns: &std::collections::HashMap<String, Column>,
    latest_us: i64,
) -> Result<RecordBatch, Refusal> {
    let path = |name: &str| format!("columns[{name:?}]");
    let fields = spec.schema.fields();
    let names = || fields.iter().map(|field| field.name().as_str());
    let unknown = columns
        .keys()
        .filter(|name| spec.schema.index_of(name).is_err());
    if let Some(unknown) = unknown.min() {
        let hint = nearest(unknown, names()).map_or_else(
            || format!("its columns: {}", names().collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean '{near}'?"),
        );
        let reason = format!("stream '{}' has no such column: {hint}", spec.name);
        return Err(Refusal::argument(path(unknown), reason));
    }
    let mut rows = None;
    for (name, column) in columns {
        let length = length(format_args!("columns[{name:?}]"), column)?;
        let others = *rows.get_or_insert(length);
        if others != length {
            let reason = format!("it has {length} values, and another column has {others}");
            return Err(Refusal::argument(path(name), reason));
        }
    }
    let rows = rows.unwrap_or(0);
    check_count("columns", rows, INSTEAD)?;
    let column = |field: &Arc<arrow::datatypes::Field>| match columns.get(field.name()) {
        Some(column) => {
            let path = format_args!("columns[{:?}]", field.name());
            value_column(path, field, column, rows)
        }
        None => Ok(new_null_array(field.data_type(), rows)),
    };
    let arrays = fields.iter().map(column).collect::<Result<Vec<_>, _>>()?;
    check_events(spec, &arrays, latest_us)?;
    Ok(RecordBatch::try_new(Arc::clone(&spec.schema), arrays)?)
}

/// What the decoder checks of a message: nothing is missing that must be there, numbers are finite, and no time is in
/// the future.
fn check_events(
    spec: &StreamSpec,
    arrays: &[arrow::array::ArrayRef],
    latest_us: i64,
) -> Result<(), Refusal> {
    let mut violations = Vec::new();
    for column in spec.required_columns() {
        let name = spec.schema.field(column).name();
        let array = &arrays[column];
        let nulls = (0..array.len()).filter(|row| array.is_null(*row));
        violations.extend(nulls.map(|row| {
            Violation::new(
                format!("columns[{name:?}][{row}]"),
                "missing_field: it is null, and an event needs it",
            )
        }));
    }
    for (field, values) in spec.schema.fields().iter().zip(arrays) {
        let rows = not_finite_rows(values).into_iter();
        violations.extend(rows.map(|row| {
            let reason = "unparsable: it is not a finite number";
            Violation::new(format!("columns[{:?}][{row}]", field.name()), reason)
        }));
    }
    let times = arrays[spec.time_column].as_primitive::<TimestampMicrosecondType>();
    for row in (0..times.len()).filter(|row| times.is_valid(*row)) {
        if times.value(row) > latest_us {
            let name = spec.schema.field(spec.time_column).name();
            violations.push(Violation::new(
                format!("columns[{name:?}][{row}]"),
                format!(
                    "future_event_time: {} is further ahead than {}, the latest that is taken now (the clock and \
                     kafka.allowed_future)",
                    rfc3339(times.value(row)),
                    rfc3339(latest_us)
                ),
            ));
        }
    }
    match violations.is_empty() {
        true => Ok(()),
        false => Err(Refusal::Arguments(violations)),
    }
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

    /// The events as a batch of the stream's schema, or all that are bad.
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
        match decoded.bad.is_empty() {
            true => Ok(decoded.batch),
            false => Err(Refusal::Arguments(self.bad_events(&decoded.bad, events))),
        }
    }

    /// What is wrong with events; of a field that one lacks, also which of its own may be meant by it.
    fn bad_events(&self, bad: &[BadMessage], events: &[String]) -> Vec<Violation> {
        let fields = self.spec.schema.fields().iter();
        let columns: Vec<String> = fields.map(|field| field.name().clone()).collect();
        let violation = |bad: &BadMessage| {
            let event = events.get(bad.index).map_or("", String::as_str);
            let mut reason = format!("{}: {}", bad.reason, bad.detail);
            if let Some(near) = near_key(event.as_bytes(), bad, &columns) {
                reason = format!(
                    "{reason}; it has '{near}', which stream '{}' does not declare",
                    self.spec.name
                );
            }
            Violation::new(path(bad.index), reason)
        };
        bad.iter().map(violation).collect()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<JsonDecoder>> {
        // Nothing is done under the lock that could leave the vector half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn internal(error: &dyn std::error::Error) -> Refusal {
    Refusal::Internal(with_causes(error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::serve::tests::{live, payment};

    #[test]
    fn inputs_and_reasons_are_for_who_may_read_their_views() {
        let live = live();
        let gate = Gate::new(live.workspace.settings.server.limits.clone());
        let scoring = Scoring::new(live, gate).unwrap();
        let said = |scopes: &[&str], include_inputs: bool, top_reasons: u32| {
            let scopes = scopes.iter().map(|scope| scope.parse().unwrap());
            let caller = Caller::new("x".to_owned(), scopes.collect());
            let request = ScoreRequest {
                event_json: vec![payment("a", "c1", 10.0, 0)],
                include_inputs: Some(include_inputs),
                top_reasons: Some(top_reasons),
                ..ScoreRequest::default()
            };
            match scoring.score_request(&request, &caller) {
                Ok(answer) => format!("{} scores", answer.scores.len()),
                Err(refusal) => refusal.to_string(),
            }
        };
        let scores = "1 scores";
        assert_eq!(said(&["score"], false, 0), scores);
        assert_eq!(
            said(&["score"], true, 0),
            "include_inputs: 'x' may not read all views that the inputs join: its scopes lack features:card_activity, \
             features:terminal_activity, features:terminal_risk, features:card_risk"
        );
        let reasons = said(&["score"], false, 1);
        assert!(reasons.starts_with("top_reasons: 'x' may not"), "{reasons}");
        let some = ["score", "features:card_activity", "features:card_risk"];
        let some = said(&some, true, 1);
        assert!(
            some.ends_with("lack features:terminal_activity, features:terminal_risk"),
            "{some}"
        );
        assert_eq!(said(&["score", "features"], true, 1), scores);
        assert_eq!(said(&["admin"], true, 1), scores);
    }
}
