//! `millrace produce`: the rows of a file to their topic, in order, keyed as sources.sql says.
//!
//! [`EventProducer`] does it for batches from anywhere. How messages reach the broker, and what becomes of those
//! that do not, is in `raw`; when each one is due, in `pacer`. Reading the file is `files`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use indicatif::{ProgressBar, ProgressStyle};
use millrace_features::Stream;
use millrace_ingest::{IngestSettings, ensure_topics, hex_of};

use crate::failure::{Failure, Kind, Outcome, with_causes};
use crate::files::{EventFile, json_text, nearest};
use crate::interrupt;
use crate::output::tell;
use crate::traces::current_headers;
use crate::workspace::Workspace;

mod pacer;
mod raw;

pub use pacer::Pace;
use pacer::Pacer;
pub use raw::RawProducer;

/// What `millrace produce` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ProduceArgs {
    /// The topic: the LOCATION of a stream in sources.sql, or the stream's name
    pub topic: String,
    /// The events: .parquet, .jsonl (.ndjson, .json) or .csv with a header
    pub file: PathBuf,
    /// Events a second, evenly; without it and --speed, as fast as it goes
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "speed")]
    pub rate: Option<f64>,
    /// Keep the gaps between event times, X times faster than they were
    #[arg(long, value_name = "X", value_parser = positive)]
    pub speed: Option<f64>,
    /// Delete the events of the file: send their keys without values, where the topic is keyed by the events' id
    #[arg(long)]
    pub delete: bool,
    /// Create the topic if it is missing, with topics.partitions partitions
    #[arg(long)]
    pub create: bool,
    /// Kafka's bootstrap servers, in place of kafka.brokers in millrace.toml
    #[arg(long, value_name = "HOST:PORT,…")]
    pub brokers: Option<String>,
}

impl ProduceArgs {
    fn pace(&self) -> Pace {
        match (self.rate, self.speed) {
            (Some(rate), _) => Pace::Rate(rate),
            (None, Some(speed)) => Pace::Speed(speed),
            (None, None) => Pace::Free,
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("give a number above 0".to_owned()),
    }
}

/// The time that acknowledgements may take when all is sent. It is longer than the time after which librdkafka
/// gives a message up, so that the count at the end is of messages whose fate is known.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(150);

/// Sends a file's rows, and returns when the brokers have acknowledged each of them. Blocks its thread.
///
/// # Errors
/// Of kind input: no such stream, no such topic, a mistake in the file (what stands before it is sent). Else: a
/// broker that does not answer or does not take a message, with the numbers of what was delivered and what not.
pub fn produce(workspace: &Workspace, args: &ProduceArgs) -> Outcome<()> {
    let stream = find_stream(workspace, &args.topic)?;
    if args.delete && !stream.is_keyed_by_id() {
        let failure = Failure::input(format!(
            "--delete: the topic of stream '{}' is not keyed by its events' id, so a tombstone names no event",
            stream.name
        ));
        return Err(failure.hint(match stream.id {
            Some(id) => {
                let id = stream.schema.field(id).name();
                format!("if its messages' keys are the ids, say so in sources.sql: OPTIONS ('key' '{id}', 'id' '{id}')")
            }
            None => "name the column of the id in sources.sql: OPTIONS ('key' '…', 'id' '…')".to_owned(),
        }));
    }
    let file = EventFile::open(&args.file, &stream)?;
    let mut kafka = workspace.settings.kafka.clone();
    if let Some(brokers) = &args.brokers {
        kafka.brokers.clone_from(brokers);
    }
    let partitions = workspace.settings.topics.partitions;
    if args.create {
        create_topic(&kafka, &stream.topic, partitions)?;
    }
    let bar = progress_bar(file.rows());
    let mut producer = EventProducer::connect(&kafka, stream, partitions)?
        .deleting(args.delete)
        .with_pace(args.pace())
        .with_progress(bar.clone());
    let started = Instant::now();
    let sent = send_file(file, &mut producer);
    let flushed = producer.flush();
    bar.finish_and_clear();
    sent.and(flushed)
        .map_err(|failure| with_counts(failure, &producer))?;
    report(&producer, started.elapsed());
    Ok(())
}

fn send_file(file: EventFile, producer: &mut EventProducer) -> Outcome<()> {
    for batch in file {
        producer.send_batch(&batch?)?;
    }
    Ok(())
}

fn with_counts(mut failure: Failure, producer: &EventProducer) -> Failure {
    let raw = producer.raw();
    let (sent, delivered) = (raw.sent(), raw.delivered());
    if failure.kind == Kind::Stopped {
        failure.message = format!(
            "{delivered} events of the file were delivered to topic '{}', in order, and none after them was sent",
            producer.stream.topic
        );
        return failure.hint(match producer.stream.id {
            Some(_) => "the same command sends all of them from the first on: those that are there already count once",
            None => "the same command sends all of them from the first on: the stream names no id, so those that are \
                     there already count twice",
        });
    }
    if sent > 0 {
        failure.message.push_str(&format!(
            "\n  the first {sent} events of the file were sent to topic '{}': {delivered} were delivered, {} were \
             not; nothing after them was sent",
            producer.stream.topic,
            sent.saturating_sub(delivered)
        ));
    }
    failure
}

fn report(producer: &EventProducer, took: Duration) {
    let events = producer.raw().delivered();
    let seconds = took.as_secs_f64();
    let rate = events as f64 / seconds.max(1e-9);
    let topic = &producer.stream.topic;
    let what = match producer.deletes {
        true => "deletes",
        false => "events",
    };
    tell(format_args!(
        "{events} {what} delivered to topic '{topic}' in {seconds:.1} s ({rate:.0} a second)"
    ));
}

fn progress_bar(rows: Option<u64>) -> ProgressBar {
    let (bar, template) = match rows {
        Some(rows) => (
            ProgressBar::new(rows),
            "{bar:32} {human_pos} of {human_len} events  {per_sec}  {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos} events  {per_sec}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The stream that a topic's or a stream's name means.
fn find_stream(workspace: &Workspace, name: &str) -> Outcome<Arc<Stream>> {
    let streams = &workspace.project.streams;
    let by_topic = streams.iter().find(|stream| stream.topic == name);
    if let Some(stream) = by_topic.or_else(|| streams.iter().find(|stream| stream.name == name)) {
        return Ok(Arc::clone(stream));
    }
    let topics: Vec<&str> = streams.iter().map(|stream| stream.topic.as_str()).collect();
    let names = streams.iter().map(|stream| stream.name.as_str());
    let failure = Failure::input(format!("no stream in sources.sql has the topic '{name}'"));
    Err(match nearest(name, topics.iter().copied().chain(names)) {
        Some(near) => failure.hint(format!("did you mean '{near}'?")),
        None => failure.hint(format!("topics of this project: {}", topics.join(", "))),
    })
}

fn create_topic(kafka: &IngestSettings, topic: &str, partitions: i32) -> Outcome<()> {
    let topics = [(topic.to_owned(), partitions)];
    let created = ensure_topics(&kafka.brokers, &kafka.properties, &topics)?;
    for topic in created {
        tell(format_args!("created topic '{topic}'"));
    }
    Ok(())
}

/// Sends batches of one stream to its topic: each row as a JSON object, keyed by the stream's key column, in the
/// order given. The Kafka timestamp is the time of sending, so that consumers can measure how fresh they are.
///
/// Keys choose partitions as they do in Kafka's Java client, so producers in other languages and this one put a
/// key into the same partition.
pub struct EventProducer {
    stream: Arc<Stream>,
    raw: RawProducer,
    pacer: Pacer,
    started: Option<Instant>,
    progress: ProgressBar,
    /// Whether values are left out.
    deletes: bool,
}

impl EventProducer {
    /// A producer for a stream, given by its name or its topic.
    ///
    /// # Errors
    /// No such stream, no broker that answers, no such topic.
    pub fn new(workspace: &Workspace, stream: &str) -> Outcome<Self> {
        let stream = find_stream(workspace, stream)?;
        let settings = &workspace.settings;
        Self::connect(&settings.kafka, stream, settings.topics.partitions)
    }

    fn connect(kafka: &IngestSettings, stream: Arc<Stream>, partitions: i32) -> Outcome<Self> {
        let raw = RawProducer::connect(kafka)?;
        check_topic(&raw, &stream.topic, partitions)?;
        Ok(Self {
            stream,
            raw,
            pacer: Pacer::new(Pace::Free),
            started: None,
            progress: ProgressBar::hidden(),
            deletes: false,
        })
    }

    /// Sends at a pace, instead of as fast as it goes.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pacer = Pacer::new(pace);
        self.started = None;
        self
    }

    /// Deletes the events, instead of sending them.
    fn deleting(mut self, deletes: bool) -> Self {
        self.deletes = deletes;
        self
    }

    /// Counts what was sent in a progress bar.
    #[must_use]
    pub fn with_progress(mut self, progress: ProgressBar) -> Self {
        self.progress = progress;
        self
    }

    /// Sends the rows of a batch, in order. Waits as the pace demands, and while the producer's queue is full; a
    /// slow pace makes for a long call, which shorter batches avoid.
    ///
    /// # Errors
    /// A message that the queue refused, or an earlier one that was not delivered.
    pub fn send_batch(&mut self, batch: &RecordBatch) -> Outcome<()> {
        let text = json_text(batch)?;
        let keys = self.keys(batch)?;
        let times = self.times(batch)?;
        let started = *self.started.get_or_insert_with(Instant::now);
        for (row, line) in text.lines().enumerate() {
            if interrupt::is_asked() {
                return Err(Failure::stopped("while events were sent"));
            }
            let time_us = times.get(row).copied().unwrap_or_default();
            self.wait_until_due(started, time_us)?;
            let key = keys
                .as_ref()
                .filter(|keys| keys.is_valid(row))
                .map(|keys| keys.value(row));
            self.raw.send_with(
                &self.stream.topic,
                key.map(str::as_bytes),
                Some(line.as_bytes()).filter(|_| !self.deletes),
                current_headers(),
            )?;
            self.progress.inc(1);
        }
        self.raw.check()
    }

    /// Waits until the brokers have acknowledged everything that was sent.
    ///
    /// # Errors
    /// Messages that were not delivered, with their number and the first one's cause.
    pub fn flush(&self) -> Outcome<()> {
        self.raw.flush(FLUSH_TIMEOUT)
    }

    /// The producer underneath, with its counts.
    #[must_use]
    pub fn raw(&self) -> &RawProducer {
        &self.raw
    }

    fn wait_until_due(&mut self, started: Instant, time_us: i64) -> Outcome<()> {
        /// A long wait looks up now and then, to see that what was sent did not fail.
        const NAP: Duration = Duration::from_millis(200);
        let mut wait = self.pacer.wait(started.elapsed(), time_us);
        while !wait.is_zero() && !interrupt::is_asked() {
            self.raw.check()?;
            let nap = wait.min(NAP);
            std::thread::sleep(nap);
            wait = wait.saturating_sub(nap);
        }
        Ok(())
    }

    /// The keys as text, which is what Kafka's own tools write.
    fn keys(&self, batch: &RecordBatch) -> Outcome<Option<StringArray>> {
        let Some(index) = self.stream.key else {
            return Ok(None);
        };
        key_texts(self.column(batch, index)?).map(Some)
    }

    fn times<'a>(&self, batch: &'a RecordBatch) -> Outcome<&'a [i64]> {
        let column = self.column(batch, self.stream.time)?;
        let times = column.as_primitive_opt::<TimestampMicrosecondType>();
        times.map(|times| times.values().as_ref()).ok_or_else(|| {
            Failure::failed(format!(
                "the event time is {}, not microseconds",
                column.data_type()
            ))
        })
    }

    fn column<'a>(&self, batch: &'a RecordBatch, index: usize) -> Outcome<&'a ArrayRef> {
        let name = self.stream.schema.field(index).name();
        batch.column_by_name(name).ok_or_else(|| {
            Failure::failed(format!(
                "a batch for '{}' has no column '{name}'",
                self.stream.name
            ))
        })
    }
}

/// Keys as they stand in a topic: bytes as in its messages, where they are text too.
fn key_texts(keys: &ArrayRef) -> Outcome<StringArray> {
    if let Some(keys) = keys.as_binary_opt::<i32>() {
        return Ok(keys.iter().map(|key| key.map(hex_of)).collect());
    }
    let keys = cast(keys, &DataType::Utf8).map_err(|e| Failure::failed(with_causes(&e)))?;
    Ok(keys.as_string::<i32>().clone())
}

fn check_topic(raw: &RawProducer, topic: &str, partitions: i32) -> Outcome<()> {
    if raw.topics()?.iter().any(|name| name == topic) {
        return Ok(());
    }
    Err(
        Failure::input(format!("there is no topic '{topic}' at {}", raw.brokers())).hint(format!(
            "--create creates it, with {partitions} partitions (topics.partitions)"
        )),
    )
}

#[cfg(test)]
mod tests;
