//! `FeatureService`: what views say of entities as of a time. The look-up itself is in `look_up`.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use millrace_features::FeatureView;
use millrace_proto::v1::feature_service_server::FeatureService;
use millrace_proto::v1::{
    Column, Field, GetFeaturesRequest, GetFeaturesResponse, ListViewsRequest, ListViewsResponse,
    PrepareRequest, PrepareResponse, View, ViewFeatures,
};
use prost_types::{Duration, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::access::Caller;
use super::admission::{Class, Gate, Held, Job, Place};
use super::catalog::{Catalog, Selection, features};
use super::columns::{timestamp, values_message};
use super::keys::most_values;
use super::look_up::{ViewAnswer, asked_time, check_views, key_columns, look_up};
use super::refusal::{Refusal, check_bytes, check_count};
use super::{answered, caller, counted, elsewhere};
use crate::live::Live;
use crate::times::now_us;

/// Entities of one part of a stream.
const PART_ROWS: usize = 512;

/// So many values fit into a message, unless they are texts or bytes.
const FITTING_VALUES: usize = 100_000;

/// Parts that wait for a caller who reads slowly. More are not made before he has read on.
const WAITING_PARTS: usize = 2;

/// The service. It is cloned for each call.
#[derive(Clone)]
pub(super) struct Features {
    live: Arc<Live>,
    catalog: Arc<Catalog>,
    gate: Gate,
}

/// A request whose names were resolved and whose keys were read.
struct Resolved {
    selection: Arc<Selection>,
    keys: Vec<ArrayRef>,
    as_of_us: i64,
    /// Whether the caller knows the names already.
    is_prepared: bool,
}

impl Features {
    pub(super) fn new(live: Live, catalog: Arc<Catalog>, gate: Gate) -> Self {
        Self {
            live: Arc::new(live),
            catalog,
            gate,
        }
    }

    fn get(
        &self,
        request: &GetFeaturesRequest,
        caller: &Caller,
        now_us: i64,
    ) -> Result<GetFeaturesResponse, Refusal> {
        let resolved = self.resolve(request, caller, now_us)?;
        let rows = resolved.rows();
        check_count("keys", rows, "StreamFeatures takes more")?;
        self.part(&resolved, 0..rows)
    }

    fn resolve(
        &self,
        request: &GetFeaturesRequest,
        caller: &Caller,
        now_us: i64,
    ) -> Result<Resolved, Refusal> {
        let selection = match request.handle {
            None => self.catalog.selection(&request.features, caller)?,
            Some(_) if !request.features.is_empty() => {
                let reason = "a handle stands for names: give one or the other";
                return Err(Refusal::argument("features", reason));
            }
            Some(handle) => self
                .catalog
                .prepared(handle)
                .ok_or_else(|| unknown_handle(handle))?,
        };
        check_views(caller, &selection)?;
        Ok(Resolved {
            keys: key_columns(&selection, &request.keys)?,
            as_of_us: asked_time(request.as_of.as_ref(), now_us)?,
            is_prepared: request.handle.is_some(),
            selection,
        })
    }

    fn part(
        &self,
        resolved: &Resolved,
        rows: std::ops::Range<usize>,
    ) -> Result<GetFeaturesResponse, Refusal> {
        let keys = resolved.keys_of(&rows);
        let answers = look_up(&self.live, &resolved.selection, &keys, resolved.as_of_us)?;
        let views = resolved.selection.views.iter().zip(answers);
        let views = views.map(|(selected, answer)| {
            let mut message = view_message(answer)?;
            if !resolved.is_prepared {
                message.view.clone_from(&selected.view.name);
                self.catalog
                    .version(&selected.view)
                    .clone_into(&mut message.version);
                for (column, name) in message.features.iter_mut().zip(selected.names()) {
                    name.clone_into(&mut column.name);
                }
            }
            Ok(message)
        });
        let answer = GetFeaturesResponse {
            views: views.collect::<Result<_, Refusal>>()?,
            as_of: Some(timestamp(resolved.as_of_us)),
            // A message has fewer entities than that.
            first_row: rows.start as u32,
        };
        if may_be_large(&answer, rows.len()) {
            let instead =
                "ask for fewer entities or features at once; StreamFeatures answers in parts";
            check_bytes(&answer, instead)?;
        }
        Ok(answer)
    }

    /// Part after part, until the caller has gone.
    async fn send_parts(
        self,
        resolved: Arc<Resolved>,
        caller: Arc<Caller>,
        parts: mpsc::Sender<Result<GetFeaturesResponse, Status>>,
    ) {
        let rows = resolved.rows();
        let (mut from, mut most) = (0, PART_ROWS);
        // Whoever does not read on has no place meanwhile, and no thread.
        while let Ok(room) = parts.reserve().await {
            let to = rows.min(from + most);
            let part = tokio::select! {
                part = self.part_in_place(&resolved, from..to, &caller) => part,
                () = parts.closed() => return,
            };
            if matches!(part, Err(Refusal::TooLarge { .. })) && to - from > 1 {
                // The parts behind it would be as large.
                most = (to - from).div_ceil(2);
                continue;
            }
            let is_last = to == rows || part.is_err();
            room.send(part.map_err(Status::from));
            if is_last {
                return;
            }
            from = to;
        }
    }

    /// A part, once there is a place for the work.
    async fn part_in_place(
        &self,
        resolved: &Arc<Resolved>,
        rows: std::ops::Range<usize>,
        caller: &Caller,
    ) -> Result<GetFeaturesResponse, Refusal> {
        let held = Held::new(self.place(rows.len(), caller).await?);
        let (service, resolved) = (self.clone(), Arc::clone(resolved));
        let part = move || service.part(&resolved, rows);
        held.during(elsewhere(part)).await
    }

    /// A place for the next part, of so many entities. A stream that has begun is not refused, but goes on later: its
    /// caller would have to begin again.
    async fn place(&self, items: usize, caller: &Caller) -> Result<Place, Refusal> {
        let class = Class::LookUp;
        loop {
            let refused = match self.gate.place(Job { class, items }, caller, None).await {
                Ok(place) => return Ok(place),
                Err(refused) => refused,
            };
            match refused.retry() {
                Some(after) => tokio::time::sleep(after).await,
                None => return Err(Refusal::Unavailable(refused.to_string())),
            }
        }
    }

    fn prepare(
        &self,
        request: &PrepareRequest,
        caller: &Caller,
    ) -> Result<PrepareResponse, Refusal> {
        let selection = self.catalog.resolve(&request.features, caller)?;
        check_views(caller, &selection)?;
        let (handle, selection) = self.catalog.prepare(selection, caller);
        let views = selection.views.iter();
        Ok(PrepareResponse {
            handle,
            views: views
                .map(|selected| self.described(&selected.view, &selected.columns))
                .collect(),
            keys: selection
                .keys
                .iter()
                .map(|field| field_message(field.name(), field.data_type()))
                .collect(),
        })
    }

    fn described(&self, view: &FeatureView, columns: &[usize]) -> View {
        let features = columns.iter().map(|column| {
            let field = view.schema.field(*column);
            field_message(field.name(), field.data_type())
        });
        let entity = view.entity.iter().map(|index| {
            let field = view.stream.schema.field(*index);
            field_message(field.name(), field.data_type())
        });
        View {
            name: view.name.clone(),
            stream: view.stream.name.clone(),
            entity: entity.collect(),
            features: features.collect(),
            longest_window: view.longest_window_us().map(duration),
            version: self.catalog.version(view).to_owned(),
        }
    }
}

impl Resolved {
    fn rows(&self) -> usize {
        self.keys.first().map_or(0, |column| column.len())
    }

    /// The keys of some rows.
    fn keys_of(&self, rows: &std::ops::Range<usize>) -> Cow<'_, [ArrayRef]> {
        if rows.len() == self.rows() {
            return Cow::Borrowed(self.keys.as_slice());
        }
        let keys = self.keys.iter();
        keys.map(|column| column.slice(rows.start, rows.len()))
            .collect()
    }
}

#[tonic::async_trait]
impl FeatureService for Features {
    type StreamFeaturesStream = ReceiverStream<Result<GetFeaturesResponse, Status>>;

    async fn get_features(
        &self,
        request: Request<GetFeaturesRequest>,
    ) -> Result<Response<GetFeaturesResponse>, Status> {
        let now_us = now_us();
        let (service, caller) = (self.clone(), caller(&request));
        let request = request.into_inner();
        let size = size(&request);
        let answer = move || service.get(&request, &caller, now_us);
        answered("GetFeatures", size, answer).await
    }

    async fn stream_features(
        &self,
        request: Request<GetFeaturesRequest>,
    ) -> Result<Response<Self::StreamFeaturesStream>, Status> {
        let caller = caller(&request);
        let resolved = self.resolve(request.get_ref(), &caller, now_us());
        let resolved = counted("StreamFeatures", resolved)?;
        let (parts, receiver) = mpsc::channel(WAITING_PARTS);
        let service = self.clone();
        tokio::spawn(service.send_parts(Arc::new(resolved), caller, parts));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let caller = caller(&request);
        let service = self.clone();
        let answer = move || service.prepare(request.get_ref(), &caller);
        answered("Prepare", 1, answer).await
    }

    async fn list_views(
        &self,
        request: Request<ListViewsRequest>,
    ) -> Result<Response<ListViewsResponse>, Status> {
        let caller = caller(&request);
        let service = self.clone();
        let answer = move || {
            let views = service.live.workspace.project.views.iter();
            let readable = views.filter(|view| caller.may_read(&view.name));
            Ok(ListViewsResponse {
                views: readable
                    .map(|view| service.described(view, &features(view)))
                    .collect(),
            })
        };
        answered("ListViews", 1, answer).await
    }
}

/// How many answers of views a request asks for, roughly.
fn size(request: &GetFeaturesRequest) -> usize {
    let columns = request.keys.values();
    let rows = columns.map(|column| most_values(column).max(1));
    rows.max().unwrap_or(1) * request.features.len().max(1)
}

/// Whether an answer may be larger than a message: its bytes are not counted for nothing, for that takes a tenth of a
/// small look-up's time.
fn may_be_large(answer: &GetFeaturesResponse, rows: usize) -> bool {
    let columns = || answer.views.iter().flat_map(|view| &view.features);
    let is_of_any_size = |column: &Column| !(column.strings.is_empty() && column.bytes.is_empty());
    columns().count() * rows > FITTING_VALUES || columns().any(is_of_any_size)
}

fn unknown_handle(handle: u64) -> Refusal {
    Refusal::NotNow(format!(
        "handle {handle} is not known here: this server has started or has taken another project over since, or many others \
         were prepared; call Prepare again"
    ))
}

fn view_message(answer: ViewAnswer) -> Result<ViewFeatures, Refusal> {
    let features = answer.features.into_iter().map(values_message);
    Ok(ViewFeatures {
        view: String::new(),
        features: features.collect::<Result<Vec<Column>, _>>()?,
        statuses: answer.statuses.into_iter().map(i32::from).collect(),
        status: answer.status.into(),
        complete_until: answer.complete_until_us.map(timestamp),
        answers_since: answer.answers_since_us.map(timestamp),
        version: String::new(),
    })
}

fn field_message(name: &str, data_type: &DataType) -> Field {
    Field {
        name: name.to_owned(),
        r#type: data_type.to_string(),
    }
}

fn duration(us: i64) -> Duration {
    let Timestamp { seconds, nanos } = timestamp(us);
    Duration { seconds, nanos }
}
