//! Events that a caller pushes: into their Kafka topic, from where they are read like all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use millrace_ingest::StreamSpec;
use millrace_proto::feast::feast::types::Value;
use millrace_proto::feast::feast::types::value::Val;
use millrace_proto::feast::{PushRequest, WriteToOnlineStoreRequest};
use millrace_proto::v1::Column;
use tonic::Status;

use super::values::column;
use crate::failure::Kind;
use crate::produce::EventProducer;
use crate::serve::refusal::Refusal;
use crate::serve::scoring::typed_events;
use crate::serve::{counted, elsewhere};
use crate::settings::micros;
use crate::streams::stream_specs;
use crate::times::now_us;
use crate::workspace::Workspace;

/// Producers of the streams that were pushed to.
pub(super) struct Pushes {
    workspace: Arc<Workspace>,
    producers: Mutex<HashMap<String, EventProducer>>,
}

impl Pushes {
    pub(super) fn new(workspace: Arc<Workspace>) -> Self {
        Self {
            workspace,
            producers: Mutex::default(),
        }
    }

    /// Takes one event into a stream, and returns when the broker has it.
    pub(super) async fn push(self: &Arc<Self>, request: PushRequest) -> Result<(), Status> {
        let event = check_target(&request.to).and_then(|()| {
            let stream = self.stream(&request.stream_feature_view)?;
            let event = self.event(&stream, &request.features, &request.typed_features)?;
            Ok((stream, event))
        });
        self.produce("Push", event).await
    }

    /// The same, for the stream that a view reads.
    pub(super) async fn write(
        self: &Arc<Self>,
        request: WriteToOnlineStoreRequest,
    ) -> Result<(), Status> {
        let event = self
            .stream_of_view(&request.feature_view_name)
            .and_then(|stream| {
                let event = self.event(&stream, &request.features, &request.typed_features)?;
                Ok((stream, event))
            });
        self.produce("WriteToOnlineStore", event).await
    }

    fn stream(&self, name: &str) -> Result<String, Refusal> {
        let project = &self.workspace.project;
        match project.stream(name) {
            Ok(stream) => Ok(stream.name.clone()),
            // Feast's clients name what they push to in either way.
            Err(hint) => self.stream_of_view(name).map_err(|_| {
                let what = format!("there is no stream '{name}'");
                Refusal::unknown("stream_feature_view", &what, &hint)
            }),
        }
    }

    fn stream_of_view(&self, name: &str) -> Result<String, Refusal> {
        let view = self.workspace.project.view(name);
        view.map(|view| view.stream.name.clone()).map_err(|hint| {
            let what = format!("there is no feature view '{name}'");
            Refusal::unknown("feature_view_name", &what, &hint)
        })
    }

    fn event(
        &self,
        stream: &str,
        texts: &HashMap<String, String>,
        typed: &HashMap<String, Value>,
    ) -> Result<RecordBatch, Refusal> {
        let columns = columns(texts, typed)?;
        let specs = stream_specs(&self.workspace);
        let spec = specs.into_iter().find(|spec| spec.name == stream);
        let spec = spec.ok_or_else(|| Refusal::Internal(format!("stream '{stream}' is gone")))?;
        if columns.is_empty() {
            return Err(no_features(&spec));
        }
        let ahead = micros(self.workspace.settings.kafka.allowed_future);
        let field = match typed.is_empty() {
            true => "features",
            false => "typed_features",
        };
        let event = typed_events(&spec, &columns, now_us().saturating_add(ahead));
        event.map_err(|refusal| in_features(field, refusal))
    }

    async fn produce(
        self: &Arc<Self>,
        method: &'static str,
        event: Result<(String, RecordBatch), Refusal>,
    ) -> Result<(), Status> {
        let (stream, event) = counted(method, event)?;
        let pushes = Arc::clone(self);
        let sent = move || pushes.send(&stream, &event);
        elsewhere(sent).await.map_err(Status::from)
    }

    fn send(&self, stream: &str, event: &RecordBatch) -> Result<(), Refusal> {
        let mut producers = self
            .producers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !producers.contains_key(stream) {
            let producer = EventProducer::new(&self.workspace, stream).map_err(not_taken)?;
            producers.insert(stream.to_owned(), producer);
        }
        if let Some(producer) = producers.get_mut(stream) {
            producer.send_batch(event).map_err(not_taken)?;
            producer.flush().map_err(not_taken)?;
        }
        Ok(())
    }
}

fn not_taken(failure: crate::failure::Failure) -> Refusal {
    match failure.kind {
        Kind::Input => Refusal::NotNow(failure.message),
        _ => Refusal::Unavailable(failure.message),
    }
}

fn check_target(to: &str) -> Result<(), Refusal> {
    match to {
        "" | "online" | "online_and_offline" => Ok(()),
        other => {
            let reason = format!("'{other}' is nowhere here: push to online or online_and_offline");
            Err(Refusal::argument("to", reason))
        }
    }
}

/// Without features there is no event: columns of no rows would be none, and nothing would be sent.
fn no_features(spec: &StreamSpec) -> Refusal {
    let required = spec.required_columns().into_iter();
    let names: Vec<&str> = required
        .map(|column| spec.schema.field(column).name().as_str())
        .collect();
    let reason = format!(
        "there are none, and an event of stream '{}' needs {}",
        spec.name,
        names.join(", ")
    );
    Refusal::argument("features", reason)
}

/// Events in columns speak of those and of their rows; here they are features of one event.
fn in_features(field: &str, refusal: Refusal) -> Refusal {
    let Refusal::Arguments(mut violations) = refusal else {
        return refusal;
    };
    for violation in &mut violations {
        if let Some(name) = violation.field.strip_prefix("columns") {
            let name = name.strip_suffix("[0]").unwrap_or(name);
            violation.field = format!("{field}{name}");
        }
    }
    Refusal::Arguments(violations)
}

/// The event's columns, of one row.
fn columns(
    texts: &HashMap<String, String>,
    typed: &HashMap<String, Value>,
) -> Result<HashMap<String, Column>, Refusal> {
    if !texts.is_empty() && !typed.is_empty() {
        let reason = "features and typed_features are both given: use one";
        return Err(Refusal::argument("typed_features", reason));
    }
    let text = |text: &String| Value {
        val: Some(Val::StringVal(text.clone())),
    };
    let texts = texts.iter().map(|(name, value)| (name, text(value)));
    let typed = typed.iter().map(|(name, value)| (name, value.clone()));
    texts
        .chain(typed)
        .map(|(name, value)| {
            // A text is always a column, so what is said of its place is said of a typed one.
            let path = format!("typed_features[{name:?}]");
            Ok((name.clone(), column(&path, &[value])?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use millrace_proto::feast::feast::types::StringList;
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;
    use crate::serve::tests::live;

    #[test]
    fn an_event_without_features_is_refused() {
        let pushes = Pushes::new(live().workspace);
        let refused = pushes.event("transactions", &HashMap::new(), &HashMap::new());
        let status = Status::from(refused.unwrap_err());
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "features");
        for part in ["stream 'transactions' needs ", "tx_id", "event_time"] {
            assert!(violations[0].description.contains(part), "{violations:?}");
        }
    }

    #[test]
    fn a_value_that_is_no_column_is_told_with_its_place() {
        let pushes = Pushes::new(live().workspace);
        let list = Val::StringListVal(StringList::default());
        let typed = HashMap::from([("amount".to_owned(), Value { val: Some(list) })]);
        let refused = pushes.event("transactions", &HashMap::new(), &typed);
        let status = Status::from(refused.unwrap_err());
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "typed_features[\"amount\"].val[0]");
    }

    #[test]
    fn a_number_that_json_does_not_have_is_refused() {
        let pushes = Pushes::new(live().workspace);
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let event = |amount: &str| {
            HashMap::from([
                text("tx_id", "x"),
                text("card_id", "c1"),
                text("terminal_id", "t1"),
                text("event_time", "2018-04-01T12:00:00Z"),
                text("amount", amount),
            ])
        };
        let none = HashMap::new();
        let taken = pushes.event("transactions", &event("12.5"), &none);
        assert_eq!(taken.unwrap().num_rows(), 1);
        for amount in ["NaN", "Infinity", "-inf", "1e400"] {
            let refused = pushes.event("transactions", &event(amount), &none);
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("amount"), "{amount}: {refused}");
        }
        let mut typed = HashMap::new();
        for (name, value) in event("1") {
            let val = match name.as_str() {
                "amount" => Val::DoubleVal(f64::NAN),
                _ => Val::StringVal(value),
            };
            typed.insert(name, Value { val: Some(val) });
        }
        let refused = pushes.event("transactions", &HashMap::new(), &typed);
        let status = Status::from(refused.unwrap_err());
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "typed_features[\"amount\"]");
        assert!(
            violations[0].description.contains("not a finite number"),
            "{violations:?}"
        );
    }
}
