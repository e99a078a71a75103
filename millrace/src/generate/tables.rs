//! A day of payments as Arrow batches of the two streams: transactions and labels.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::{Day, GenerateError};

const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

static TRANSACTIONS: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema(&[
        ("tx_id", DataType::Utf8),
        ("card_id", DataType::Utf8),
        ("terminal_id", DataType::Utf8),
        ("amount", DataType::Float64),
        ("event_time", TIMESTAMP),
    ])
});

static LABELS: LazyLock<SchemaRef> = LazyLock::new(|| {
    schema(&[
        ("tx_id", DataType::Utf8),
        ("card_id", DataType::Utf8),
        ("terminal_id", DataType::Utf8),
        ("is_fraud", DataType::Boolean),
        ("tx_time", TIMESTAMP),
        ("event_time", TIMESTAMP),
    ])
});

/// The schema of the transactions' stream: `tx_id`, `card_id`, `terminal_id` (strings), `amount` (double),
/// `event_time` (microseconds, UTC). No column has nulls.
pub fn transactions_schema() -> SchemaRef {
    Arc::clone(&TRANSACTIONS)
}

/// The schema of the labels' stream: `tx_id`, `card_id`, `terminal_id` (strings), `is_fraud`, `tx_time` (when
/// the payment was made) and `event_time` (when the label became known). No column has nulls.
pub fn labels_schema() -> SchemaRef {
    Arc::clone(&LABELS)
}

/// One day's rows of the two streams. Row i of both is the same payment.
#[derive(Clone, Debug)]
pub struct DayTables {
    /// The payments, of `transactions_schema`, in the order of `event_time`.
    pub transactions: RecordBatch,
    /// Their labels, of `labels_schema`, in the order of `event_time`, which is the label delay later.
    pub labels: RecordBatch,
}

impl DayTables {
    pub(super) fn new(day: &Day) -> Result<Self, GenerateError> {
        let payments = &day.payments;
        let tx_ids = (day.first_tx_id..).take(payments.len());
        let tx_id: ArrayRef = Arc::new(decimals(tx_ids));
        let card_id: ArrayRef = Arc::new(decimals(payments.iter().map(|p| u64::from(p.card))));
        let terminal_id: ArrayRef =
            Arc::new(decimals(payments.iter().map(|p| u64::from(p.terminal))));
        let amount = Float64Array::from_iter_values(payments.iter().map(|p| p.amount()));
        let is_fraud = BooleanArray::from_iter(payments.iter().map(|p| Some(p.is_fraud())));
        let tx_time: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(
            payments.iter().map(|p| p.event_time),
        ));
        let known = payments.iter().map(|p| p.event_time + day.label_delay);
        let known = TimestampMicrosecondArray::from_iter_values(known);

        let ids = [tx_id, card_id, terminal_id];
        let columns = [&ids[..], &[Arc::new(amount), Arc::clone(&tx_time)]].concat();
        let transactions = RecordBatch::try_new(transactions_schema(), columns)?;
        let columns = [&ids[..], &[Arc::new(is_fraud), tx_time, Arc::new(known)]].concat();
        let labels = RecordBatch::try_new(labels_schema(), columns)?;
        Ok(Self {
            transactions,
            labels,
        })
    }
}

/// The numbers as strings of decimal digits.
fn decimals(numbers: impl Iterator<Item = u64>) -> StringArray {
    let rows = numbers.size_hint().0;
    let mut strings = StringBuilder::with_capacity(rows, rows * 6);
    for number in numbers {
        // Writing into a builder only fails where the formatted value does, and an integer's does not.
        let _ = write!(strings, "{number}");
        strings.append_value("");
    }
    strings.finish()
}

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields = columns
        .iter()
        .map(|(name, data_type)| Field::new(*name, data_type.clone(), false));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
