//! `millrace features get`: one look-up, printed as JSON.

use std::collections::HashMap;

use millrace_ingest::hex_of;
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use millrace_proto::v1::{
    Column, EntityStatus, GetFeaturesRequest, GetFeaturesResponse, ViewFeatures, ViewStatus,
};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::connection::{Server, connect, failure};
use crate::failure::{Failure, Outcome};
use crate::output::print;
use crate::serve::{MAX_MESSAGE_BYTES, time_us, timestamp};
use crate::times::{parse_time, rfc3339};

/// Asks `server` for the features of one entity of `view` and prints them as one JSON
/// object: the keys, the features in the view's order, then `as_of`, `complete_until`, `entity` and `status`.
///
/// `keys` are `COLUMN=VALUE`; the server parses a value to its column's type. `as_of` is RFC 3339 or
/// `YYYY-MM-DD HH:MM:SS` in UTC; without it, it is the server's now. NaN and infinities print as
/// null, bytes as hexadecimal digits.
///
/// # Errors
/// Input: a key or a time that cannot be read, or what the server refuses. Failed: no server.
pub async fn features_get(
    server: &Server,
    view: &str,
    keys: &[String],
    as_of: Option<&str>,
) -> Outcome<()> {
    let request = request(view, keys, as_of)?;
    let channel = connect(server).await?;
    let mut client =
        FeatureServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let answer = client.get_features(request).await;
    let answer = answer.map_err(|status| failure(server, &status))?;
    print(answer_json(keys, &answer.into_inner())?)?;
    Ok(())
}

fn request(view: &str, keys: &[String], as_of: Option<&str>) -> Outcome<GetFeaturesRequest> {
    let mut columns = HashMap::new();
    for text in keys {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::input(format!("'{text}' is no key of an entity"))
                .hint("write COLUMN=VALUE: card_id=c1")
        })?;
        let column = Column {
            strings: vec![value.to_owned()],
            ..Column::default()
        };
        if columns.insert(name.to_owned(), column).is_some() {
            return Err(Failure::input(format!("'{name}' is given twice")));
        }
    }
    let as_of = as_of.map(parse_time).transpose();
    let as_of = as_of.map_err(|e| Failure::input(format!("--as-of: {e}")))?;
    Ok(GetFeaturesRequest {
        features: vec![view.to_owned()],
        keys: columns,
        as_of: as_of.map(timestamp),
        ..GetFeaturesRequest::default()
    })
}

/// The answer about one entity as a JSON object: its keys as they were given, the features (of several views, as
/// `view__feature`), what is known of the entity, and how much the answer reflects.
pub(super) fn answer_json(keys: &[String], answer: &GetFeaturesResponse) -> Outcome<String> {
    let time = |time: &Option<_>| json!(time.as_ref().and_then(time_us).map(rfc3339));
    let keys = keys.iter().filter_map(|key| key.split_once('='));
    let mut fields: Vec<(String, Json)> = keys
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    for view in &answer.views {
        for column in &view.features {
            let name = match answer.views.len() {
                1 => column.name.clone(),
                _ => format!("{}__{}", view.view, column.name),
            };
            fields.push((name, value_json(column)));
        }
    }
    fields.push(("as_of".to_owned(), time(&answer.as_of)));
    // What is slowest decides how far all of it is.
    let until = answer.views.iter().map(|view| &view.complete_until);
    let until = until.min_by_key(|until| until.as_ref().and_then(time_us));
    fields.push(("complete_until".to_owned(), until.map_or(Json::Null, time)));
    let entity = answer.views.iter().filter_map(|view| view.statuses.first());
    let entity = entity
        .min()
        .and_then(|status| EntityStatus::try_from(*status).ok());
    fields.push(("entity".to_owned(), json!(entity.map(status_text))));
    // The least good of them is what the whole answer is.
    let worst = answer.views.iter().map(ViewFeatures::status);
    let worst = worst.max_by_key(|status| WORSE.iter().position(|other| other == status));
    fields.push(("status".to_owned(), json!(worst.map(view_status_text))));
    serde_json::to_string(&Object(&fields)).map_err(|e| Failure::failed(format!("as JSON: {e}")))
}

/// From the best to the worst.
const WORSE: [ViewStatus; 4] = [
    ViewStatus::Current,
    ViewStatus::Stale,
    ViewStatus::Behind,
    ViewStatus::Empty,
];

/// How much of its stream an answer reflects, for people.
fn view_status_text(status: ViewStatus) -> &'static str {
    match status {
        ViewStatus::Unspecified => "unspecified",
        ViewStatus::Current => "current",
        ViewStatus::Behind => "behind",
        ViewStatus::Empty => "empty",
        ViewStatus::Stale => "stale",
    }
}

/// What a look-up says of its entity, for people.
fn status_text(status: EntityStatus) -> &'static str {
    match status {
        EntityStatus::Unspecified => "unspecified",
        EntityStatus::Present => "present",
        EntityStatus::OutOfWindow => "out of window",
        EntityStatus::Unknown => "unknown",
    }
}

/// The value of a column's only row.
fn value_json(column: &Column) -> Json {
    if column.nulls.contains(&0) {
        return Json::Null;
    }
    let times = column.timestamps.first();
    let json = [
        column.bools.first().map(|value| json!(value)),
        column.int64s.first().map(|value| json!(value)),
        column.uint64s.first().map(|value| json!(value)),
        column.doubles.first().map(|value| json!(value)),
        column.strings.first().map(|value| json!(value)),
        column.bytes.first().map(|bytes| json!(hex_of(bytes))),
        times.map(|time| json!(time_us(time).map(rfc3339))),
    ];
    json.into_iter().flatten().next().unwrap_or_default()
}

/// A JSON object whose fields stay in their order.
struct Object<'a>(&'a [(String, Json)]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
