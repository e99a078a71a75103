//! 50,000 payments with their labels: of the public stream where it is beside the clone, else generated.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use millrace::generate::{Simulation, SimulationSettings};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use crate::broker::repository;

pub const PAYMENTS: usize = 50_000;

pub struct Data {
    _folder: TempDir,
    pub payments: RecordBatch,
    /// The labels that are known when the last payment is made.
    pub labels: RecordBatch,
    /// Whether a payment is fraud, by its id: all payments, known or not.
    pub frauds: HashMap<String, bool>,
    pub first_half: PathBuf,
    pub second_half: PathBuf,
    pub labels_file: PathBuf,
}

impl Data {
    pub fn load() -> Self {
        let public = repository().join("../shared/data");
        let (payments, all_labels) = if public.join("transactions.parquet").exists() {
            eprintln!("payments of the public stream in {}", public.display());
            public_payments(&public)
        } else {
            eprintln!("generated payments: {} is not there", public.display());
            generated_payments()
        };
        assert_eq!(payments.num_rows(), PAYMENTS);
        let last = times(&payments)[PAYMENTS - 1];
        let labels = all_labels.slice(0, times(&all_labels).partition_point(|time| *time <= last));
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, batch: &RecordBatch| {
            let path = folder.path().join(name);
            let file = std::fs::File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(batch).unwrap();
            writer.close().unwrap();
            path
        };
        let half = PAYMENTS / 2;
        Self {
            first_half: write("first.parquet", &payments.slice(0, half)),
            second_half: write("second.parquet", &payments.slice(half, PAYMENTS - half)),
            labels_file: write("labels.parquet", &labels),
            _folder: folder,
            frauds: frauds(&all_labels),
            payments,
            labels,
        }
    }

    pub fn last_payment_us(&self) -> i64 {
        *times(&self.payments).last().unwrap()
    }

    pub fn last_label_us(&self) -> i64 {
        *times(&self.labels).last().unwrap()
    }
}

fn frauds(labels: &RecordBatch) -> HashMap<String, bool> {
    let ids = labels.column_by_name("tx_id").unwrap().as_string::<i32>();
    let frauds = labels.column_by_name("is_fraud").unwrap().as_boolean();
    (0..labels.num_rows())
        .map(|row| (ids.value(row).to_owned(), frauds.value(row)))
        .collect()
}

pub fn times(batch: &RecordBatch) -> &[i64] {
    batch
        .column_by_name("event_time")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>()
        .values()
}

/// Every tenth card, so that 50,000 payments are some fifty days: windows and labels of a month matter.
fn public_payments(folder: &Path) -> (RecordBatch, RecordBatch) {
    let parquet = |name: &str| folder.join(name).display().to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let context = SessionContext::new();
        let options = ParquetReadOptions::default;
        context.register_parquet("transactions", parquet("transactions.parquet"), options()).await.unwrap();
        context.register_parquet("labels", parquet("labels.parquet"), options()).await.unwrap();
        let collect = async |sql: String| {
            let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
            concat_batches(&batches[0].schema(), &batches).unwrap()
        };
        let columns = "CAST(tx_id AS VARCHAR) AS tx_id, CAST(card_id AS VARCHAR) AS card_id, CAST(terminal_id AS VARCHAR) AS terminal_id";
        let time = |name: &str| format!("arrow_cast({name}, 'Timestamp(Microsecond, None)') AS {name}");
        let payments = collect(format!(
            "SELECT {columns}, amount, {} FROM transactions WHERE CAST(card_id AS INT) % 10 = 0
             ORDER BY event_time, tx_id LIMIT {PAYMENTS}", time("event_time")
        ))
        .await;
        let labels = collect(format!(
            "SELECT {columns}, is_fraud, {}, {} FROM labels WHERE CAST(card_id AS INT) % 10 = 0 ORDER BY event_time, tx_id",
            time("tx_time"), time("event_time")
        ))
        .await;
        (as_strings(payments), as_strings(labels))
    })
}

/// String views become plain strings.
fn as_strings(batch: RecordBatch) -> RecordBatch {
    use arrow::datatypes::{DataType, Field, Schema};
    let data_type = |t: &DataType| {
        if t == &DataType::Utf8View {
            DataType::Utf8
        } else {
            t.clone()
        }
    };
    let fields: Vec<Field> = batch
        .schema()
        .fields()
        .iter()
        .map(|f| Field::new(f.name(), data_type(f.data_type()), true))
        .collect();
    let columns = batch
        .columns()
        .iter()
        .zip(&fields)
        .map(|(column, field)| arrow::compute::cast(column, field.data_type()).unwrap())
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn generated_payments() -> (RecordBatch, RecordBatch) {
    const DAY: i64 = 86_400_000_000;
    let settings = SimulationSettings {
        customers: 500,
        terminals: 1_000,
        days: 60,
        seed: 1,
        start: 1_522_540_800_000_000,
        label_delay: 7 * DAY,
    };
    let simulation = Simulation::new(settings).unwrap();
    let (mut payments, mut labels) = (Vec::new(), Vec::new());
    for day in simulation.days() {
        let tables = day.tables().unwrap();
        payments.push(tables.transactions);
        labels.push(tables.labels);
    }
    let payments = concat_batches(&payments[0].schema(), &payments)
        .unwrap()
        .slice(0, PAYMENTS);
    let labels = concat_batches(&labels[0].schema(), &labels).unwrap();
    (as_strings(payments), as_strings(labels))
}
