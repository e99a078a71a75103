//! What `GET /` answers: the services, their methods, and the fields of what they take.
//!
//! It says what a person needs for a first call. Programs have the `.proto` files and server reflection.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_reflect::{
    DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, ServiceDescriptor,
};
use serde_json::{Value, json};

use super::{JSON, path};

/// The index of a pool's services, as JSON for reading.
pub(super) fn of(pool: &DescriptorPool) -> Bytes {
    let mut messages = BTreeMap::new();
    let services: BTreeMap<_, _> = pool
        .services()
        .map(|service| {
            let described = described(&service, &mut messages);
            (service.full_name().to_owned(), described)
        })
        .collect();
    let index = json!({
        "call": format!("curl -d '{{}}' -H 'content-type: {JSON}' http://HOST:PORT/Service/Method"),
        "services": services,
        "messages": messages,
    });
    Bytes::from(format!("{index:#}\n"))
}

/// The methods of a service. The messages that they take go to `messages`.
fn described(service: &ServiceDescriptor, messages: &mut BTreeMap<String, Value>) -> Value {
    let methods = service.methods().map(|method| {
        add_message(&method.input(), messages);
        let mut entry = json!({ "path": path(&method), "request": method.input().full_name() });
        if let Some(about) = comment(&method) {
            entry["about"] = about.into();
        }
        if method.is_client_streaming() {
            entry["only"] = "gRPC".into();
        } else if method.is_server_streaming() {
            entry["answers"] = "a line of JSON a message".into();
        }
        (method.name().to_owned(), entry)
    });
    methods.collect()
}

/// The fields of a message, and of those that they have in turn.
fn add_message(message: &MessageDescriptor, messages: &mut BTreeMap<String, Value>) {
    if messages.contains_key(message.full_name()) {
        return;
    }
    messages.insert(message.full_name().to_owned(), fields(message).collect());
    for field in message.fields() {
        match element(&field) {
            Kind::Message(inner) if well_known(&inner).is_none() => add_message(&inner, messages),
            _ => {}
        }
    }
}

/// The fields of a message and their types, in words.
pub(super) fn fields(message: &MessageDescriptor) -> impl Iterator<Item = (String, String)> {
    let fields = message.fields();
    fields.map(|field| (field.json_name().to_owned(), type_of(&field)))
}

/// The kind of a field's values: those of a list's elements, of a map's values.
fn element(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

fn type_of(field: &FieldDescriptor) -> String {
    let element = name_of(&element(field));
    let repeated = match field.kind() {
        Kind::Message(entry) if entry.is_map_entry() => {
            let key = entry.map_entry_key_field().kind();
            format!("object of {} to {element}", name_of(&key))
        }
        _ if field.is_list() => format!("list of {element}"),
        _ => element,
    };
    match field.containing_oneof() {
        // A field that may be absent is alone in such a group, which has no meaning of its own.
        Some(group) if group.fields().len() > 1 => format!("{repeated}, one of {}", group.name()),
        _ => repeated,
    }
}

fn name_of(kind: &Kind) -> String {
    match kind {
        Kind::Bytes => "bytes in base64".into(),
        Kind::Enum(null) if null.full_name() == "google.protobuf.NullValue" => "null".into(),
        Kind::Enum(values) => {
            let values: Vec<_> = values.values().map(|v| v.name().to_owned()).collect();
            values.join(" | ")
        }
        Kind::Message(message) => well_known(message).unwrap_or(message.full_name()).into(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

/// What stands for a message of protobuf's own in JSON.
fn well_known(message: &MessageDescriptor) -> Option<&'static str> {
    let name = message.full_name().strip_prefix("google.protobuf.")?;
    Some(match name {
        "Timestamp" => "time such as \"2026-01-31T12:00:00Z\"",
        "Duration" => "duration such as \"1.5s\"",
        "FieldMask" => "field names such as \"a,b.c\"",
        "Struct" => "object",
        "ListValue" => "list",
        "Value" => "anything",
        "BoolValue" => "bool",
        "StringValue" => "string",
        "BytesValue" => "bytes in base64",
        "DoubleValue" | "FloatValue" => "double",
        "Int64Value" | "Int32Value" => "int64",
        "UInt64Value" | "UInt32Value" => "uint64",
        _ => return None,
    })
}

/// What the `.proto` file says before a method, if the descriptors have kept it.
fn comment(method: &MethodDescriptor) -> Option<String> {
    let file = method.parent_file();
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let place = info
        .location
        .iter()
        .find(|place| place.path == method.path())?;
    let words: Vec<_> = place.leading_comments().split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}
