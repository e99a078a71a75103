//! What the log says of a scored event: its columns, and how rows wait in the outbox.
//!
//! A row is packed as rows of state are, to the bit. Its columns stand once, as an Arrow schema under a tag: a
//! project may change its inputs while rows of the old ones wait.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use millrace_features::{pack_rows, unpack_rows};
use millrace_ingest::StreamBatch;
use xxhash_rust::xxh3::xxh3_64;

use crate::failure::{Failure, Outcome};
use crate::scorer::Scores;
use crate::workspace::{ModelPlan, Workspace};

/// The column of event times, µs UTC.
pub(crate) const EVENT_TIME: &str = "event_time";
/// The column of a row's number in the log. It is not packed: a block says where its rows begin.
pub(crate) const SEQUENCE: &str = "sequence";
/// The key in a schema's and a file's metadata that says what the inputs meant.
pub(crate) const INPUTS_HASH: &str = "millrace.inputs_hash";
/// The key that says from which score on each decision held, as JSON.
pub(crate) const DECISIONS: &str = "millrace.decisions";

/// The columns of the log of a project.
pub(crate) struct Columns {
    schema: SchemaRef,
    /// The schema with its metadata, as Arrow's IPC writes it.
    pub(crate) bytes: Vec<u8>,
    /// Tells apart schemas.
    pub(crate) tag: u64,
    id_and_entity: Vec<usize>,
    time: usize,
}

impl Columns {
    /// # Errors
    /// Of kind input: two columns of one name.
    pub(crate) fn new(workspace: &Workspace, plan: &ModelPlan) -> Outcome<Self> {
        let stream = &plan.inputs.stream;
        let mut id_and_entity = vec![plan.event_id];
        let entity = plan.inputs.entity_columns().into_iter();
        id_and_entity.extend(entity.filter(|column| *column != plan.event_id));
        let of_event = id_and_entity
            .iter()
            .map(|column| stream.schema.field(*column).clone());
        let mut fields: Vec<Field> = of_event.collect();
        fields.extend([
            Field::new(EVENT_TIME, timestamp(), false),
            Field::new("score", DataType::Float64, true),
            Field::new("model_version", DataType::Int64, false),
            Field::new("decision", DataType::Utf8, true),
        ]);
        fields.extend(plan.inputs.schema.fields().iter().map(|input| {
            let name = input_column(plan, input.name());
            Field::new(name, input.data_type().clone(), true)
        }));
        fields.extend([
            Field::new("scored_at", timestamp(), false),
            Field::new("kafka_partition", DataType::Int32, false),
            Field::new("kafka_offset", DataType::Int64, false),
        ]);
        check_names(&fields)?;
        let schema = Schema::new_with_metadata(fields, metadata(workspace, plan));
        let bytes = schema_bytes(&schema).map_err(failed)?;
        Ok(Self {
            tag: xxh3_64(&bytes),
            bytes,
            schema: Arc::new(schema),
            id_and_entity,
            time: stream.time,
        })
    }

    /// The events of a batch that are `new`, with their scores, one packed row each.
    pub(crate) fn pack(
        &self,
        plan: &ModelPlan,
        events: &StreamBatch,
        scores: &Scores,
        new: Vec<bool>,
        scored_at_us: i64,
    ) -> Outcome<Vec<Vec<u8>>> {
        let batch = self.batch(plan, events, scores, scored_at_us);
        let batch = batch.map_err(failed)?;
        let batch = match new.iter().all(|new| *new) {
            true => batch,
            false => filter_record_batch(&batch, &BooleanArray::from(new)).map_err(failed)?,
        };
        Ok(pack_rows(batch.columns()))
    }

    fn batch(
        &self,
        plan: &ModelPlan,
        events: &StreamBatch,
        scores: &Scores,
        scored_at_us: i64,
    ) -> Result<RecordBatch, ArrowError> {
        let rows = events.batch.num_rows();
        let of_event = |column: &usize| Arc::clone(events.batch.column(*column));
        let mut columns: Vec<ArrayRef> = self.id_and_entity.iter().map(of_event).collect();
        let probabilities = (0..rows).map(|row| scores.probability(row));
        let decision = |probability: Option<f32>| {
            probability.and_then(|probability| plan.settings.decisions.of(probability.into()))
        };
        let decisions: StringArray = probabilities.clone().map(decision).collect();
        let probabilities: Float64Array = probabilities
            .map(|probability| probability.map(f64::from))
            .collect();
        let versions = scores.versions.iter().map(|version| *version as i64);
        columns.extend([
            of_event(&self.time),
            Arc::new(probabilities) as ArrayRef,
            Arc::new(Int64Array::from_iter_values(versions)),
            Arc::new(decisions),
        ]);
        columns.extend(scores.inputs.columns().iter().map(Arc::clone));
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = events.origin.iter().copied().unzip();
        columns.extend([
            Arc::new(TimestampMicrosecondArray::from_value(scored_at_us, rows)) as ArrayRef,
            Arc::new(Int32Array::from(partitions)),
            Arc::new(Int64Array::from(offsets)),
        ]);
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

/// Packed rows as columns again, the first of them with the number `first`.
///
/// # Errors
/// A schema or rows that are damaged.
pub(crate) fn unpack(schema: &[u8], rows: &[&[u8]], first: u64) -> Outcome<RecordBatch> {
    let reader = StreamReader::try_new(schema, None).map_err(failed)?;
    let schema = reader.schema();
    let fields = schema.fields().iter();
    let types: Vec<DataType> = fields
        .clone()
        .map(|field| field.data_type().clone())
        .collect();
    let mut columns = unpack_rows(&types, rows)
        .map_err(|e| Failure::failed(format!("a row of the score log does not decode: {e}")))?;
    let numbers = (first as i64..).take(rows.len());
    columns.push(Arc::new(Int64Array::from_iter_values(numbers)));
    let sequence = Arc::new(Field::new(SEQUENCE, DataType::Int64, false));
    let fields: Vec<_> = fields.cloned().chain([sequence]).collect();
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    RecordBatch::try_new(Arc::new(schema), columns).map_err(failed)
}

/// The name of an input's column: as in a training set, the view's name stands in front.
pub(crate) fn input_column(plan: &ModelPlan, input: &str) -> String {
    format!("{}__{input}", plan.inputs.name)
}

/// What stands in the metadata of the schema, and then of each file.
fn metadata(workspace: &Workspace, plan: &ModelPlan) -> HashMap<String, String> {
    let inputs = serde_json::Value::from(plan.input_names()).to_string();
    HashMap::from([
        ("millrace.project".to_owned(), workspace.fingerprint()),
        (
            "millrace.stream".to_owned(),
            plan.inputs.stream.name.clone(),
        ),
        ("millrace.inputs_view".to_owned(), plan.inputs.name.clone()),
        ("millrace.inputs".to_owned(), inputs),
        (INPUTS_HASH.to_owned(), plan.inputs_hash()),
        (DECISIONS.to_owned(), plan.settings.decisions.to_json()),
    ])
}

/// A schema's metadata in a fixed order.
pub(crate) fn sorted_metadata(schema: &Schema) -> BTreeMap<String, String> {
    let metadata = schema.metadata().iter();
    metadata
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn schema_bytes(schema: &Schema) -> Result<Vec<u8>, ArrowError> {
    StreamWriter::try_new(Vec::new(), schema)?.into_inner()
}

fn check_names(fields: &[Field]) -> Outcome<()> {
    let mut known = HashSet::from([SEQUENCE]);
    match fields.iter().find(|field| !known.insert(field.name())) {
        None => Ok(()),
        Some(field) => Err(Failure::input(format!(
            "score_log: two columns of the log would be called '{}'",
            field.name()
        ))
        .hint("rename the stream's column of that name in sources.sql")),
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

pub(crate) fn failed(error: impl std::error::Error) -> Failure {
    Failure::failed(format!(
        "the score log: {}",
        crate::failure::with_causes(&error)
    ))
}
