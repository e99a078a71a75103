//! `millrace features get`: one look-up, printed as JSON.

use std::collections::HashMap;
use std::io;

use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use millrace_proto::v1::value::Kind;
use millrace_proto::v1::{Entity, GetFeaturesRequest, GetFeaturesResponse, Value};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::connection::{connect, failure};
use super::print_line;
use crate::failure::{Failure, Outcome};
use crate::serve::{MAX_MESSAGE_BYTES, time_us, timestamp};
use crate::times::{parse_time, rfc3339};

/// Asks `server` (host:port) for the features of one entity of `view` and prints them as one JSON
/// object: the view's columns in its order, then `as_of` and `complete_until`.
///
/// `keys` are `COLUMN=VALUE`; the server parses a value to its column's type. `as_of` is RFC 3339 or
/// `YYYY-MM-DD HH:MM:SS` in UTC; without it, it is the server's now. NaN and infinities print as
/// null, bytes as hexadecimal digits.
///
/// # Errors
/// Input: a key or a time that cannot be read, or what the server refuses. Failed: no server.
pub async fn features_get(
    server: &str,
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
    print_line(&mut io::stdout(), &answer_json(&answer.into_inner())?)?;
    Ok(())
}

fn request(view: &str, keys: &[String], as_of: Option<&str>) -> Outcome<GetFeaturesRequest> {
    let mut key = HashMap::new();
    for text in keys {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::input(format!("'{text}' is no key of an entity"))
                .hint("write COLUMN=VALUE: card_id=c1")
        })?;
        let kind = Some(Kind::StringValue(value.to_owned()));
        if key.insert(name.to_owned(), Value { kind }).is_some() {
            return Err(Failure::input(format!("'{name}' is given twice")));
        }
    }
    let as_of = as_of.map(parse_time).transpose();
    let as_of = as_of.map_err(|e| Failure::input(format!("--as-of: {e}")))?;
    Ok(GetFeaturesRequest {
        view: view.to_owned(),
        entities: vec![Entity { key }],
        as_of: as_of.map(timestamp),
    })
}

/// The answer about one entity as a JSON object.
pub(super) fn answer_json(answer: &GetFeaturesResponse) -> Outcome<String> {
    let values = answer.rows.first().map_or(&[][..], |row| &row.values);
    let columns = answer.columns.iter().map(String::as_str);
    let time = |time: &Option<_>| json!(time.as_ref().and_then(time_us).map(rfc3339));
    let mut fields: Vec<(&str, Json)> = columns.zip(values.iter().map(value_json)).collect();
    fields.push(("as_of", time(&answer.as_of)));
    fields.push(("complete_until", time(&answer.complete_until)));
    serde_json::to_string(&Object(&fields)).map_err(|e| Failure::failed(format!("as JSON: {e}")))
}

fn value_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => json!(value),
        Some(Kind::Int64Value(value)) => json!(value),
        Some(Kind::Uint64Value(value)) => json!(value),
        Some(Kind::DoubleValue(value)) => json!(value),
        Some(Kind::StringValue(value)) => json!(value),
        Some(Kind::BytesValue(value)) => {
            json!(value.iter().map(|b| format!("{b:02x}")).collect::<String>())
        }
        Some(Kind::TimestampValue(value)) => json!(time_us(value).map(rfc3339)),
    }
}

/// A JSON object whose fields stay in their order.
struct Object<'a>(&'a [(&'a str, Json)]);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
