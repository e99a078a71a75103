//! `FeatureService`: what a view says of entities as of a time.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, RecordBatch};
use millrace_features::{FeatureView, pack_rows};
use millrace_proto::v1::feature_service_server::FeatureService;
use millrace_proto::v1::{
    Column, GetFeaturesRequest, GetFeaturesResponse, ListViewsRequest, ListViewsResponse, Row, View,
};
use prost_types::{Duration, Timestamp};
use tonic::{Request, Response, Status};

use super::answered;
use super::keys::entity_columns;
use super::refusal::{Refusal, check_count};
use super::values::{column_values, time_us, timestamp};
use crate::live::{Live, Miss};
use crate::pipeline::now_us;
use crate::state::Committed;

/// The service.
pub(super) struct Features {
    live: Live,
}

impl Features {
    pub(super) fn new(live: Live) -> Self {
        Self { live }
    }

    fn look_up(
        &self,
        request: &GetFeaturesRequest,
        now_us: i64,
    ) -> Result<GetFeaturesResponse, Refusal> {
        let started = Instant::now();
        let view = self.view(&request.view)?;
        check_count("entities", request.entities.len())?;
        let as_of = match &request.as_of {
            Some(time) => asked_time(time)?,
            None => now_us,
        };
        check_time(&self.live, view, "as_of", as_of)?;
        let keys = entity_columns(view, &request.entities)?;
        // Read before the state, so that the answer reflects at least this much.
        let complete_until = self.live.progress.newest(&view.stream.name);
        let state = Committed(self.live.store.as_ref());
        let times = vec![as_of; request.entities.len()];
        let mut misses = Vec::new();
        let answer = view.answer_and_sum_up(&state, &keys, &times, &mut |tile| {
            if complete_until.is_some_and(|until| tile.span.end_us() <= until) {
                misses.push(tile.entity);
            }
        })?;
        self.note_misses(view, &keys, as_of, misses);
        let response = GetFeaturesResponse {
            columns: names(&answer),
            rows: rows(&answer)?,
            as_of: Some(timestamp(as_of)),
            complete_until: complete_until.map(timestamp),
        };
        metrics::histogram!("millrace_lookup_seconds", "view" => view.name.clone())
            .record(started.elapsed());
        Ok(response)
    }

    /// Asks for the tiles that would have spared this look-up work.
    fn note_misses(
        &self,
        view: &Arc<FeatureView>,
        keys: &[ArrayRef],
        as_of_us: i64,
        mut entities: Vec<Vec<u8>>,
    ) {
        if entities.is_empty() {
            return;
        }
        entities.dedup();
        for (row, packed) in pack_rows(keys).iter().enumerate() {
            if entities.contains(packed) {
                self.live.misses.note(Miss {
                    view: Arc::clone(view),
                    entity: keys.iter().map(|column| column.slice(row, 1)).collect(),
                    as_of_us,
                });
            }
        }
    }

    fn view(&self, name: &str) -> Result<&Arc<FeatureView>, Refusal> {
        let project = &self.live.workspace.project;
        project.view(name).map_err(|hint| Refusal::UnknownView {
            name: name.to_owned(),
            hint,
        })
    }
}

#[tonic::async_trait]
impl FeatureService for Features {
    async fn get_features(
        &self,
        request: Request<GetFeaturesRequest>,
    ) -> Result<Response<GetFeaturesResponse>, Status> {
        let now_us = now_us();
        answered("GetFeatures", || self.look_up(request.get_ref(), now_us))
    }

    async fn list_views(
        &self,
        _: Request<ListViewsRequest>,
    ) -> Result<Response<ListViewsResponse>, Status> {
        answered("ListViews", || {
            let views = self.live.workspace.project.views.iter();
            Ok(ListViewsResponse {
                views: views.map(|view| described(view)).collect(),
            })
        })
    }
}

/// Refuses a time as of which a view's oldest events may have expired. `field` is where the caller
/// gave it.
pub(super) fn check_time(
    live: &Live,
    view: &FeatureView,
    field: &str,
    asked_us: i64,
) -> Result<(), Refusal> {
    // A window that time does not bound keeps its events for ever.
    let reach = view.reach_us();
    let horizon = live.store.horizons().view(view.id);
    let earliest = horizon.zip(reach).map(|(h, reach)| h.saturating_add(reach));
    match earliest {
        Some(earliest_us) if asked_us < earliest_us => Err(Refusal::TooEarly {
            field: field.to_owned(),
            view: view.name.clone(),
            asked_us,
            earliest_us,
        }),
        _ => Ok(()),
    }
}

fn asked_time(time: &Timestamp) -> Result<i64, Refusal> {
    time_us(time).ok_or_else(|| {
        let Timestamp { seconds, nanos } = time;
        let reason = format!("{seconds} s and {nanos} ns is no time in the years 1 to 9999");
        Refusal::argument("as_of", reason)
    })
}

fn names(answer: &RecordBatch) -> Vec<String> {
    let schema = answer.schema_ref();
    schema.fields().iter().map(|f| f.name().clone()).collect()
}

/// The rows of an answer, from its columns.
fn rows(answer: &RecordBatch) -> Result<Vec<Row>, Refusal> {
    let empty = || Vec::with_capacity(answer.num_columns());
    let mut rows: Vec<Row> = (0..answer.num_rows())
        .map(|_| Row { values: empty() })
        .collect();
    for column in answer.columns() {
        for (row, value) in rows.iter_mut().zip(column_values(column)?) {
            row.values.push(value);
        }
    }
    Ok(rows)
}

fn described(view: &FeatureView) -> View {
    let features = view.features().filter_map(|name| {
        let field = view.schema.field_with_name(name).ok()?;
        Some(column(name, field.data_type()))
    });
    let entity = view.entity.iter().map(|index| {
        let field = view.stream.schema.field(*index);
        column(field.name(), field.data_type())
    });
    View {
        name: view.name.clone(),
        stream: view.stream.name.clone(),
        entity: entity.collect(),
        features: features.collect(),
        longest_window: view.reach_us().map(duration),
    }
}

fn column(name: &str, data_type: &arrow::datatypes::DataType) -> Column {
    Column {
        name: name.to_owned(),
        r#type: data_type.to_string(),
    }
}

fn duration(us: i64) -> Duration {
    let Timestamp { seconds, nanos } = timestamp(us);
    Duration { seconds, nanos }
}
