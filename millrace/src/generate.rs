//! `millrace generate`: the labelled card-payment simulation of the *Fraud Detection Handbook*, into files.
//!
//! [`Simulation`] is the simulation itself, which the demo runs without files; this module has its command
//! and the way from its days to a pair of files. It does not read files or send anything to Kafka: that is
//! `produce`.
//!
//! ```text
//!   simulation ──day──► transactions ──► a thread ──► transactions.parquet
//!               (Arrow) labels       ──► a thread ──► labels.parquet
//! ```

pub(crate) mod draw;
mod fraud;
mod output;
mod population;
mod simulation;
mod tables;
#[cfg(test)]
mod tests;

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use chrono::{NaiveDate, NaiveTime};
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Failure, Outcome};
use crate::settings::parse_delay;
use crate::times::parse_day;

pub use output::OutputFiles;
pub use simulation::{Day, Payment, Simulation, SimulationSettings};
pub use tables::{DayTables, labels_schema, transactions_schema};

use crate::files::TableFile;
use crate::output::tell;
use output::{create_pair, discard_pair, publish_pair};

/// Days that may wait for each of the two writers. They bound the memory: at this bound the simulation waits.
const DAYS_WAITING: usize = 2;

/// Write the labelled card-payment simulation of the Fraud Detection Handbook
///
/// Customers and terminals are placed on a map, customers pay at terminals near them, and three kinds of
/// fraud are laid over it: amounts over 220, compromised terminals, leaked cards. The same options give the
/// same files on every machine.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    /// Where to write: a folder takes transactions.parquet and labels.parquet; a file that ends in .parquet,
    /// .jsonl (.ndjson, .json) or .csv takes the transactions, and the labels go beside it: events.csv and events-labels.csv
    #[arg(long, value_name = "DIR|FILE")]
    pub output: PathBuf,

    /// Number of customers, each with one card; the number whose card leaks is in proportion to it
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub customers: u32,

    /// Number of terminals; the number that is compromised is in proportion to it
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub terminals: u32,

    /// Number of days
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub days: u32,

    /// Where the random draws start
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// The first day, from midnight UTC
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "2018-04-01", value_parser = parse_day)]
    pub start: NaiveDate,

    /// Time from a payment to the moment when its label becomes known
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_delay)]
    pub label_delay: Duration,
}

impl GenerateArgs {
    /// The simulation that the options ask for.
    ///
    /// # Errors
    /// `GenerateError::Input` where the label delay is longer than a timestamp can say.
    pub fn settings(&self) -> Result<SimulationSettings, GenerateError> {
        let label_delay = i64::try_from(self.label_delay.as_micros()).map_err(|_| {
            GenerateError::Input("--label-delay is longer than a timestamp can say".to_owned())
        })?;
        Ok(SimulationSettings {
            customers: self.customers,
            terminals: self.terminals,
            days: self.days,
            seed: self.seed,
            start: self
                .start
                .and_time(NaiveTime::MIN)
                .and_utc()
                .timestamp_micros(),
            label_delay,
        })
    }
}

/// Does what the command does, with a progress bar on a terminal.
///
/// # Errors
/// Of kind input: an ending that names no format, or times that no timestamp can say. Else: a file that cannot
/// be written.
pub fn generate(args: GenerateArgs) -> Outcome<()> {
    let files = OutputFiles::new(&args.output)?;
    let bar = progress_bar(u64::from(args.days));
    let started = Instant::now();
    let generated = generate_files(args.settings()?, files, |progress| {
        bar.set_position(u64::from(progress.days_done));
        bar.set_message(format!("{} payments", progress.payments));
    });
    bar.finish_and_clear();
    report(&generated?, started.elapsed());
    Ok(())
}

fn progress_bar(days: u64) -> ProgressBar {
    let bar = ProgressBar::new(days);
    match ProgressStyle::with_template("{bar:32} day {pos} of {len}  {msg}  {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn report(generated: &Generated, took: Duration) {
    let [_, large, terminal, card] = generated.payments;
    let payments: u64 = generated.payments.iter().sum();
    tell(format_args!(
        "{payments} payments in {:.1} s, of which {} are fraud: {large} large amounts, {terminal} at compromised \
         terminals, {card} with leaked cards",
        took.as_secs_f64(),
        large + terminal + card
    ));
    for file in [&generated.files.transactions, &generated.files.labels] {
        tell(format_args!("  {}", file.display()));
    }
}

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Days that are simulated.
    pub days_done: u32,
    /// Days in all.
    pub days: u32,
    /// Payments in those that are simulated.
    pub payments: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The files, which are whole and have their names.
    pub files: OutputFiles,
    /// The number of payments by scenario: genuine, large amount, compromised terminal, leaked card.
    pub payments: [u64; 4],
}

/// Why a data set could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The user's options ask for what cannot be done.
    #[error("{0}")]
    Input(String),
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was in the way.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A defect of Millrace: the columns of a day do not fit each other.
    #[error("a day's columns do not fit each other: {0}")]
    Tables(#[from] ArrowError),
}

impl From<GenerateError> for Failure {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Input(message) => Self::input(message),
            _ => Self::failed(error.to_string()),
        }
    }
}

/// Simulates day after day and writes both files, telling `progress` after each day. Holds a few days in
/// memory, however many there are. Files that exist are replaced when the new ones are whole.
///
/// # Errors
/// `GenerateError::Input` as [`Simulation::new`], and `GenerateError::Write` for a file; what was
/// written in part is removed.
pub fn generate_files(
    settings: SimulationSettings,
    files: OutputFiles,
    progress: impl FnMut(Progress),
) -> Result<Generated, GenerateError> {
    let simulation = Simulation::new(settings)?;
    let pair = create_pair(&files, transactions_schema(), labels_schema())?;
    match write_days(&simulation, pair, progress)
        .and_then(|payments| publish_pair(&files).map(|()| payments))
    {
        Ok(payments) => Ok(Generated { files, payments }),
        Err(e) => {
            discard_pair(&files);
            Err(e)
        }
    }
}

/// Simulates on this thread and writes each file on one of its own, which is where most of the time goes.
fn write_days(
    simulation: &Simulation,
    (transactions, labels): (TableFile, TableFile),
    progress: impl FnMut(Progress),
) -> Result<[u64; 4], GenerateError> {
    thread::scope(|scope| {
        let (transactions_sender, receiver) = sync_channel(DAYS_WAITING);
        let transactions = scope.spawn(move || write_table(transactions, receiver));
        let (labels_sender, receiver) = sync_channel(DAYS_WAITING);
        let labels = scope.spawn(move || write_table(labels, receiver));
        let payments = send_days(simulation, transactions_sender, labels_sender, progress);
        join(transactions)?;
        join(labels)?;
        payments
    })
}

/// Sends all days, or those until a writer stops: why it did is for the writer to say. Gives the number of
/// payments by scenario.
fn send_days(
    simulation: &Simulation,
    transactions: SyncSender<RecordBatch>,
    labels: SyncSender<RecordBatch>,
    mut progress: impl FnMut(Progress),
) -> Result<[u64; 4], GenerateError> {
    let mut payments = [0; 4];
    for day in simulation.days() {
        day.payments
            .iter()
            .for_each(|payment| payments[usize::from(payment.scenario)] += 1);
        let tables = day.tables()?;
        if transactions.send(tables.transactions).is_err() || labels.send(tables.labels).is_err() {
            break;
        }
        let days = simulation.settings().days;
        progress(Progress {
            days_done: day.day + 1,
            days,
            payments: payments.iter().sum(),
        });
    }
    Ok(payments)
}

/// Writes what comes until the sender is gone, and ends the file.
fn write_table(mut file: TableFile, batches: Receiver<RecordBatch>) -> Result<(), GenerateError> {
    for batch in batches {
        file.write(&batch)?;
    }
    Ok(file.finish()?)
}

fn join(writer: ScopedJoinHandle<'_, Result<(), GenerateError>>) -> Result<(), GenerateError> {
    writer.join().unwrap_or_else(|panic| resume_unwind(panic))
}
