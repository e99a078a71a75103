//! Bad messages go to a dead-letter topic: whole, with the reason and where they came from.
//!
//! [`DeadLetters::deliver`] returns when every replica has them, and only then may a position pass them. What a topic will
//! never take of a letter (its size, its timestamp) is changed, so that no message holds the others up for ever. After a
//! crash in between, a letter can be there twice: its headers tell, as topic, partition and offset name a message.
//!
//! What makes a message bad is decided in `decode`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use crate::admin::ensure_topics;
use crate::decode::{BadMessage, Reason};
use crate::error::IngestError;
use crate::group::{self, lock};
use crate::settings::IngestSettings;
use crate::telemetry;

/// The names of the headers that a dead letter gets in addition to its own.
pub mod header {
    /// The kind of fault, see [`Reason`](crate::Reason).
    pub const REASON: &str = "millrace.reason";
    /// The fault, for people.
    pub const DETAIL: &str = "millrace.detail";
    /// The topic that the message came from.
    pub const TOPIC: &str = "millrace.topic";
    /// Its partition there, in decimal.
    pub const PARTITION: &str = "millrace.partition";
    /// Its offset there, in decimal.
    pub const OFFSET: &str = "millrace.offset";
    /// What was cut, and what there was of it: bytes of the `payload` and the `key`, and the number of the message's own
    /// `headers`, as in `payload 900, headers 2, key 70000`. Only there if the topic does not take the message whole.
    pub const CUT: &str = "millrace.cut";
}

/// A message that is no event.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    /// The message's own, unread: their names need not be text.
    headers: OwnedHeaders,
    reason: Reason,
    detail: String,
    /// What was cut, and what there was of it.
    cut: Vec<(&'static str, usize)>,
}

impl DeadLetter {
    /// A letter from a message and what is wrong with it.
    pub fn new(message: &BorrowedMessage<'_>, bad: &BadMessage) -> Self {
        Self {
            topic: message.topic().into(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: message
                .headers()
                .map_or_else(OwnedHeaders::new, |headers| headers.detach()),
            reason: bad.reason,
            detail: bad.detail.clone(),
            cut: Vec::new(),
        }
    }

    fn all_headers(&self) -> OwnedHeaders {
        let partition = self.partition.to_string();
        let offset = self.offset.to_string();
        let cut = self.cut_text();
        let added = [
            (header::REASON, Some(self.reason.as_str())),
            (header::DETAIL, Some(self.detail.as_str())),
            (header::TOPIC, Some(self.topic.as_str())),
            (header::PARTITION, Some(partition.as_str())),
            (header::OFFSET, Some(offset.as_str())),
            (header::CUT, cut.as_deref()),
        ];
        let present = added.into_iter().filter(|(_, value)| value.is_some());
        present.fold(self.headers.clone(), |headers, (key, value)| {
            headers.insert(Header { key, value })
        })
    }

    fn cut_text(&self) -> Option<String> {
        let parts = self.cut.iter();
        let parts: Vec<String> = parts.map(|(part, had)| format!("{part} {had}")).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Changes what its topic does not take of it. False if nothing can be changed, or the error is not of this letter.
    fn mend(&mut self, error: &KafkaError) -> bool {
        use RDKafkaErrorCode::{InvalidRecord, InvalidTimestamp};
        if is_too_large(error) {
            return self.cut();
        }
        // The message is older than its topic takes, or its producer's clock is ahead: without it, the letter has the time
        // at which it is sent.
        let code = error.rdkafka_error_code();
        matches!(code, Some(InvalidTimestamp | InvalidRecord)) && self.timestamp_ms.take().is_some()
    }

    /// Makes it smaller, for a topic that does not take it whole: its payload to half; once there is none, its own headers
    /// go, and then its key to half. What is added says where the message is. False if there is nothing to cut.
    fn cut(&mut self) -> bool {
        let (part, had) = if let Some(bytes) = halve(&mut self.payload) {
            ("payload", bytes)
        } else if self.headers.count() > 0 {
            ("headers", std::mem::take(&mut self.headers).count())
        } else if let Some(bytes) = halve(&mut self.key) {
            ("key", bytes)
        } else {
            return false;
        };
        if self.cut.iter().all(|(other, _)| *other != part) {
            self.cut.push((part, had));
        }
        true
    }
}

/// Cuts bytes to half, and gives how many there were. None if there is nothing to cut.
fn halve(bytes: &mut Option<Vec<u8>>) -> Option<usize> {
    let bytes = bytes.as_mut().filter(|bytes| !bytes.is_empty())?;
    let had = bytes.len();
    bytes.truncate(had / 2);
    Some(had)
}

/// The way to the dead-letter topics. It connects when the first letter comes.
pub struct DeadLetters {
    settings: IngestSettings,
    producer: Option<BaseProducer<Receipts>>,
    pending: Vec<DeadLetter>,
    /// Source topics whose dead-letter topic was seen to.
    ready: BTreeSet<String>,
    taken: u64,
    /// Whether each letter has a batch of its own.
    apart: bool,
    /// After a refusal: when the next delivery may begin.
    pause_until: Option<Instant>,
}

/// The pause after a refusal. A refusal can come at once, and a caller who polls again at once must not become a
/// busy loop.
const PAUSE: Duration = Duration::from_millis(500);

/// What became of the records of one delivery: the letter's index, and the error if it was not taken.
#[derive(Default)]
struct Receipts(Mutex<Vec<(usize, Option<KafkaError>)>>);

impl ClientContext for Receipts {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        group::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let code = code.map_or_else(|| "none".into(), |code| format!("{code:?}"));
        telemetry::client_error(&code, reason);
    }
}

impl ProducerContext for Receipts {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, letter: usize) {
        let error = result.as_ref().err().map(|(error, _)| error.clone());
        lock(&self.0).push((letter, error));
    }
}

impl DeadLetters {
    /// No connection yet.
    pub fn new(settings: IngestSettings) -> Self {
        Self {
            settings,
            producer: None,
            pending: Vec::new(),
            ready: BTreeSet::new(),
            taken: 0,
            apart: false,
            pause_until: None,
        }
    }

    /// Letters that were taken since the start.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether no letter waits to be delivered.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes a letter for the next delivery.
    pub fn push(&mut self, letter: DeadLetter) {
        self.taken += 1;
        self.pending.push(letter);
    }

    /// Sends what was pushed and waits until it is safe. After a refusal it waits for half a second first.
    ///
    /// # Errors
    /// [`IngestError::DeadLetters`] if a letter was not taken within the request timeout. It stays for the next call.
    pub fn deliver(&mut self) -> Result<(), IngestError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Some(until) = self.pause_until.take() {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        // Each round delivers, fails, changes a letter that is not taken as it is, or sets all apart.
        while !self.pending.is_empty() {
            self.make_topics_ready();
            let receipts = self.send_all()?;
            self.settle(receipts)?;
        }
        self.set_apart(false);
        Ok(())
    }

    fn set_apart(&mut self, apart: bool) {
        if self.apart != apart {
            self.apart = apart;
            // It is a property of the client.
            self.producer = None;
        }
    }

    /// Creates dead-letter topics that are missing. If that is not allowed, sending will tell whether it matters.
    fn make_topics_ready(&mut self) {
        let topics: BTreeSet<&String> = self.pending.iter().map(|letter| &letter.topic).collect();
        let new = topics
            .into_iter()
            .filter(|topic| !self.ready.contains(*topic));
        let new: Vec<String> = new.cloned().collect();
        if new.is_empty() {
            return;
        }
        if self.settings.create_dead_letter_topics {
            let names = new
                .iter()
                .map(|topic| (self.settings.dead_letter_topic_of(topic), 1));
            let names: Vec<(String, i32)> = names.collect();
            let made = ensure_topics(&self.settings.brokers, &self.settings.properties, &names);
            if let Err(error) = made {
                telemetry::client_error("dead_letter_topic", &error.to_string());
            }
        }
        self.ready.extend(new);
    }

    fn send_all(&mut self) -> Result<BTreeMap<usize, Option<KafkaError>>, IngestError> {
        let deadline = Instant::now() + 2 * self.settings.request_timeout;
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => self.connect()?,
        };
        let producer = self.producer.insert(producer);
        lock(&producer.context().0).clear();
        for (index, letter) in self.pending.iter().enumerate() {
            let topic = self.settings.dead_letter_topic_of(&letter.topic);
            send(producer, &topic, letter, index, deadline);
        }
        // What is still unsent then has run into its own timeout, which ends before this one.
        let left = deadline.saturating_duration_since(Instant::now());
        let flushed = producer.flush(left);
        let receipts = std::mem::take(&mut *lock(&producer.context().0));
        if flushed.is_err() {
            // Drop the producer with what it holds: the next delivery sends all of it again.
            self.producer = None;
        }
        Ok(receipts.into_iter().collect())
    }

    fn connect(&self) -> Result<BaseProducer<Receipts>, IngestError> {
        let mut config = self.settings.producer();
        if self.apart {
            config.set("batch.num.messages", "1");
        }
        let producer = config.create_with_context(Receipts::default());
        producer.map_err(|error| IngestError::kafka("creating the dead-letter producer", error))
    }

    /// Drops and counts what was taken; keeps the rest, changed where that may help, and fails where nothing does.
    ///
    /// A broker refuses a batch as a whole. So that no letter is changed for another one's sake, each has a batch of its
    /// own first.
    fn settle(
        &mut self,
        mut receipts: BTreeMap<usize, Option<KafkaError>>,
    ) -> Result<(), IngestError> {
        let mut refused = None;
        let mut delivered = Vec::new();
        let is_alone = self.apart || self.pending.len() == 1;
        let mut apart = false;
        let pending = std::mem::take(&mut self.pending).into_iter().enumerate();
        for (index, mut letter) in pending {
            let error = match receipts.remove(&index) {
                Some(None) => {
                    delivered.push(letter);
                    continue;
                }
                Some(Some(error)) => error,
                None => KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut),
            };
            if !is_alone && is_of_a_message(&error) {
                apart = true;
            } else if !letter.mend(&error) {
                refused.get_or_insert((letter.topic.clone(), error.to_string()));
            }
            self.pending.push(letter);
        }
        report(&delivered);
        self.set_apart(self.apart || apart);
        let Some((topic, detail)) = refused else {
            return Ok(());
        };
        // A client remembers what it was refused; a new one asks again.
        self.producer = None;
        self.pause_until = Some(Instant::now() + PAUSE);
        telemetry::dead_letters_refused(&topic, self.pending.len(), &detail);
        let topic = self.settings.dead_letter_topic_of(&topic);
        Err(IngestError::DeadLetters { topic, detail })
    }
}

/// Hands one letter to the producer, waiting while its queue is full. A failure becomes a receipt.
fn send(
    producer: &BaseProducer<Receipts>,
    topic: &str,
    letter: &DeadLetter,
    index: usize,
    deadline: Instant,
) {
    let record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, index);
    let mut record = record.headers(letter.all_headers());
    record.key = letter.key.as_deref();
    record.payload = letter.payload.as_deref();
    record.timestamp = letter.timestamp_ms;
    while let Err((error, back)) = producer.send(record) {
        let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
        if !full || Instant::now() >= deadline {
            lock(&producer.context().0).push((index, Some(error)));
            return;
        }
        record = back;
        producer.poll(Duration::from_millis(50));
    }
}

/// Whether a message is too large for Kafka's client, or it or the batch that it came in for its topic.
pub fn is_too_large(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidMessageSize, MessageBatchTooLarge, MessageSizeTooLarge};
    matches!(
        error.rdkafka_error_code(),
        Some(MessageSizeTooLarge | MessageBatchTooLarge | InvalidMessageSize)
    )
}

/// Whether a message is not taken for what it is, or for what another one of its batch is.
fn is_of_a_message(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidDifferentRecord, InvalidRecord, InvalidTimestamp};
    let code = error.rdkafka_error_code();
    is_too_large(error)
        || matches!(
            code,
            Some(InvalidTimestamp | InvalidRecord | InvalidDifferentRecord)
        )
}

/// Counts all, and logs those that were cut, and one example a topic and reason: a broken producer makes many.
fn report(delivered: &[DeadLetter]) {
    let mut groups: BTreeMap<(&str, Reason), (u64, &DeadLetter)> = BTreeMap::new();
    for letter in delivered {
        if let Some(cut) = letter.cut_text() {
            telemetry::dead_letter_cut(&letter.topic, letter.partition, letter.offset, &cut);
        }
        let group = groups.entry((&letter.topic, letter.reason));
        group.or_insert((0, letter)).0 += 1;
    }
    for ((topic, reason), (count, example)) in groups {
        telemetry::dead_lettered(
            topic,
            reason,
            count,
            (example.partition, example.offset, &example.detail),
        );
    }
}

#[cfg(test)]
mod tests;
