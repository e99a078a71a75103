//! Events that a caller pushes: into their Kafka topic, from where they are read like all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use millrace_proto::feast::feast::types::Value;
use millrace_proto::feast::feast::types::value::Val;
use millrace_proto::feast::{PushRequest, WriteToOnlineStoreRequest};
use millrace_proto::v1::Column;
use tonic::Status;

use super::values::column;
use crate::failure::Kind;
use crate::produce::EventProducer;
use crate::serve::counted;
use crate::serve::refusal::Refusal;
use crate::serve::scoring::typed_events;
use crate::settings::micros;
use crate::streams::stream_specs;
use crate::times::now_us;
use crate::traces;
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
            let columns = columns(&request.features, &request.typed_features)?;
            Ok((stream.clone(), self.event(&stream, &columns)?))
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
                let columns = columns(&request.features, &request.typed_features)?;
                Ok((stream.clone(), self.event(&stream, &columns)?))
            });
        self.produce("WriteToOnlineStore", event).await
    }

    fn stream(&self, name: &str) -> Result<String, Refusal> {
        let project = &self.workspace.project;
        match project.stream(name) {
            Ok(stream) => Ok(stream.name.clone()),
            // Feast's clients name what they push to in either way.
            Err(hint) => self.stream_of_view(name).map_err(|_| Refusal::Unknown {
                what: format!("there is no stream '{name}'"),
                hint,
            }),
        }
    }

    fn stream_of_view(&self, name: &str) -> Result<String, Refusal> {
        let view = self.workspace.project.view(name);
        view.map(|view| view.stream.name.clone())
            .map_err(|hint| Refusal::Unknown {
                what: format!("there is no feature view '{name}'"),
                hint,
            })
    }

    fn event(
        &self,
        stream: &str,
        columns: &HashMap<String, Column>,
    ) -> Result<RecordBatch, Refusal> {
        let specs = stream_specs(&self.workspace);
        let spec = specs.into_iter().find(|spec| spec.name == stream);
        let spec = spec.ok_or_else(|| Refusal::Internal(format!("stream '{stream}' is gone")))?;
        let ahead = micros(self.workspace.settings.kafka.allowed_future);
        typed_events(&spec, columns, now_us().saturating_add(ahead))
    }

    async fn produce(
        self: &Arc<Self>,
        method: &'static str,
        event: Result<(String, RecordBatch), Refusal>,
    ) -> Result<(), Status> {
        let (stream, event) = counted(method, event)?;
        let pushes = Arc::clone(self);
        let sent = move || pushes.send(&stream, &event);
        let sent = tokio::task::spawn_blocking(traces::carried(sent)).await;
        let sent = sent.unwrap_or_else(|e| Err(Refusal::Internal(e.to_string())));
        sent.map_err(Status::from)
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
        .map(|(name, value)| Ok((name.clone(), column(name, &[value])?)))
        .collect()
}
