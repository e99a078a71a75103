//! What a stream is: a topic and how its messages are read. Where it is declared (SQL) is the caller's business.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};

use crate::error::IngestError;

/// One stream: a topic whose messages are JSON objects with (at least) the columns of `schema`.
#[derive(Clone, Debug)]
pub struct StreamSpec {
    /// The stream's name in SQL.
    pub name: String,
    /// The Kafka topic.
    pub topic: String,
    /// The columns, in order. Timestamps are `Timestamp(Microsecond, None)`, in UTC.
    pub schema: SchemaRef,
    /// The column that holds the event time.
    pub time_column: usize,
    /// Columns without which an event is of no use: the entity keys, the id. Columns that the schema declares NOT
    /// NULL and the event time are required whether they stand here or not.
    pub required: Vec<usize>,
    /// The column whose value is the key of the topic's messages and names the event: a message without a value then
    /// deletes the event that its key names. None where the key is something else, and such a message is bad.
    pub id: Option<usize>,
}

impl StreamSpec {
    /// The required columns, by index: those listed, those declared NOT NULL, and the event time.
    pub fn required_columns(&self) -> BTreeSet<usize> {
        let declared = self.schema.fields().iter().enumerate();
        let not_null = declared
            .filter(|(_, field)| !field.is_nullable())
            .map(|(i, _)| i);
        let listed = self.required.iter().copied();
        not_null.chain(listed).chain([self.time_column]).collect()
    }

    /// Checks what the type system cannot: the event time's type and that indices are in range.
    pub(crate) fn check(&self) -> Result<(), IngestError> {
        let columns = self.schema.fields().len();
        if let Some(beyond) = self.required_columns().into_iter().find(|i| *i >= columns) {
            return Err(self.schema_error(format!("column {beyond} of {columns} does not exist")));
        }
        if let Some(beyond) = self.id.filter(|i| *i >= columns) {
            return Err(self.schema_error(format!("column {beyond} of {columns} does not exist")));
        }
        let time = self.schema.field(self.time_column);
        if time.data_type() != &DataType::Timestamp(TimeUnit::Microsecond, None) {
            return Err(self.schema_error(format!(
                "the event time `{}` is {}, not a timestamp in microseconds",
                time.name(),
                time.data_type()
            )));
        }
        Ok(())
    }

    pub(crate) fn schema_error(&self, detail: String) -> IngestError {
        IngestError::Schema {
            stream: self.name.clone(),
            detail,
        }
    }
}
