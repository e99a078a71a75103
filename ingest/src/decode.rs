//! JSON messages become a `RecordBatch`; messages that cannot are told apart, each with its reason.
//!
//! Many messages are decoded in one pass of arrow-json's tape decoder. When a pass fails, its messages are halved
//! until the bad ones stand alone, so the good ones lose nothing but time, and their order stays.
//!
//! No Kafka and no clock here: payloads come in as bytes, and the latest allowed event time as a number. What
//! happens to bad messages is `dead_letters`; what else is known of a message (offset, key) stays with the caller,
//! who finds it by index.
//!
//! How values are read:
//! - A message is one JSON object. Fields that the schema does not have are ignored; absent and `null` are the same.
//!   Of a key that stands twice, the last value counts: arrow-json keeps no trace of the others, and to look for them
//!   would be a second way through each message.
//! - A number or boolean for a text column is taken as it is written (`7` is `"7"`); a text for a number column is
//!   parsed (`"7.5"` is `7.5`). What columns of DECIMAL and of whole numbers make of one is `numbers`' business, and what
//!   those of DATE do is `days`', and of BYTEA `bytes`'.
//! - `NaN` and infinities are refused: in a sum they would outlive the event that brought them.
//! - A timestamp is a text in RFC 3339 with any offset, or `YYYY-MM-DD[ HH:MM:SS[.f]]` in UTC; a number is
//!   milliseconds since 1970 (what Kafka and Java count in), a fraction of it included. More digits than
//!   microseconds are cut. `units` says which numbers an event time cannot be.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder;
use chrono::Utc;

use crate::bytes::bytes_of;
use crate::days::day_of;
use crate::error::IngestError;
use crate::numbers::{is_exact, numbers_of, time_of_number};
use crate::stream::StreamSpec;
use crate::units::{other_unit, utc};

/// Turns the messages of one stream into batches.
#[derive(Debug)]
pub struct JsonDecoder {
    spec: StreamSpec,
    required: BTreeSet<usize>,
    /// The columns that are decoded as text first: timestamps, dates, bytes, and numbers that are read digit by digit.
    texts: BTreeSet<usize>,
    /// The schema of the first pass: everything nullable, `texts` as text.
    text_schema: SchemaRef,
    /// A decoder that stands at a message boundary. It is lost when a pass fails.
    idle: Option<Decoder>,
}

/// What became of some messages.
#[derive(Debug)]
pub struct Decoded {
    /// The good messages, in the order given, with the stream's schema.
    pub batch: RecordBatch,
    /// For each row of `batch`, the index of its message.
    pub rows: Vec<usize>,
    /// The bad messages, by rising index. Together with `rows` they are all messages.
    pub bad: Vec<BadMessage>,
}

/// Why a message is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMessage {
    /// The index of the message among those given.
    pub index: usize,
    /// The kind of fault.
    pub reason: Reason,
    /// The fault, for people. At most [`DETAIL_BYTES`] long.
    pub detail: String,
}

/// The kinds of fault. Their texts are part of the interface: dead letters and metrics carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Not one JSON object, or a value that does not fit its column.
    Unparsable,
    /// A required column is absent or null.
    MissingField,
    /// The event time is later than allowed.
    FutureEventTime,
    /// The event time is not between the years 1 and 9999, or is a number in other units than milliseconds.
    EventTimeOutOfRange,
    /// A message without payload, with which Kafka marks a deletion.
    Tombstone,
}

impl Reason {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unparsable => "unparsable",
            Self::MissingField => "missing_field",
            Self::FutureEventTime => "future_event_time",
            Self::EventTimeOutOfRange => "event_time_out_of_range",
            Self::Tombstone => "tombstone",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fault's text is cut to this many bytes: it may quote the message.
pub const DETAIL_BYTES: usize = 256;

/// The messages of one pass. The tape's memory grows with it.
const PASS_MESSAGES: usize = 4_096;

/// Objects in objects, at most: deeper ones would exhaust the stack of the decoder's error path.
const MAX_DEPTH: usize = 64;

/// 0001-01-01T00:00:00Z and the last microsecond of 9999, in microseconds since 1970.
const EARLIEST_US: i64 = -62_135_596_800_000_000;
const LATEST_US: i64 = 253_402_300_799_999_999;

const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

type Fault = (Reason, String);

/// A message that may be good: its index and its bytes.
type Candidate<'a> = (usize, Cow<'a, [u8]>);

impl JsonDecoder {
    /// A decoder for `spec`'s messages.
    ///
    /// # Errors
    /// [`IngestError::Schema`] when the event time is no timestamp in microseconds, a required column does not
    /// exist, or a column has a type that JSON cannot give.
    pub fn new(spec: StreamSpec) -> Result<Self, IngestError> {
        spec.check()?;
        let texts = columns_of(&spec.schema, |data_type| {
            [TIMESTAMP, DataType::Date32, DataType::Binary].contains(data_type)
                || is_exact(data_type)
        });
        let mut decoder = Self {
            required: spec.required_columns(),
            text_schema: text_schema(&spec.schema, &texts),
            texts,
            spec,
            idle: None,
        };
        let idle = decoder
            .ready_decoder()
            .map_err(|error| decoder.spec.schema_error(error.to_string()))?;
        decoder.idle = Some(idle);
        Ok(decoder)
    }

    /// What a message is read by.
    pub(crate) fn spec(&self) -> &StreamSpec {
        &self.spec
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.spec.schema
    }

    /// The event times of a batch that this decoder made, in microseconds since 1970.
    pub fn event_times(&self, batch: &RecordBatch) -> Vec<i64> {
        let times = batch.column(self.spec.time_column);
        times
            .as_primitive::<TimestampMicrosecondType>()
            .values()
            .to_vec()
    }

    /// Decodes `payloads` (`None` is a tombstone). Event times after `latest_us` (microseconds since 1970) are
    /// refused.
    ///
    /// # Errors
    /// Only for defects: what messages can cause ends in [`Decoded::bad`].
    pub fn decode(
        &mut self,
        payloads: &[Option<&[u8]>],
        latest_us: i64,
    ) -> Result<Decoded, IngestError> {
        self.decode_by(payloads, &|_| latest_us)
    }

    /// The same, where each message has a latest event time of its own, by its index.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn decode_by(
        &mut self,
        payloads: &[Option<&[u8]>],
        latest_us: &dyn Fn(usize) -> i64,
    ) -> Result<Decoded, IngestError> {
        let (candidates, mut bad) = screen_all(payloads);
        let mut rows = Vec::with_capacity(candidates.len());
        let mut batches = Vec::new();
        for pass in candidates.chunks(PASS_MESSAGES) {
            self.parse(pass, &mut batches, &mut rows, &mut bad);
        }
        // One pass is the rule, and of an event that is scored all there is: its columns are taken as they are.
        let text = match batches.as_slice() {
            [whole] => whole.clone(),
            parts => concat_batches(&self.text_schema, parts)?,
        };
        let decoded = self.judge(text, rows, latest_us, &mut bad);
        bad.sort_by_key(|message| message.index);
        decoded.map(|(batch, rows)| Decoded { batch, rows, bad })
    }

    /// Parses messages, halving them until the bad ones stand alone.
    fn parse(
        &mut self,
        messages: &[Candidate<'_>],
        batches: &mut Vec<RecordBatch>,
        rows: &mut Vec<usize>,
        bad: &mut Vec<BadMessage>,
    ) {
        match (self.parse_whole(messages), messages) {
            (_, []) => {}
            (Ok(batch), _) => {
                batches.push(batch);
                rows.extend(messages.iter().map(|(index, _)| index));
            }
            (Err(detail), [(index, _)]) => {
                bad.push(bad_message(*index, (Reason::Unparsable, detail)));
            }
            (Err(_), _) => {
                let (left, right) = messages.split_at(messages.len() / 2);
                self.parse(left, batches, rows, bad);
                self.parse(right, batches, rows, bad);
            }
        }
    }

    /// Parses messages that are all good, or says what is wrong with one of them.
    fn parse_whole(&mut self, messages: &[Candidate<'_>]) -> Result<RecordBatch, String> {
        let mut decoder = self.ready_decoder().map_err(|error| error.to_string())?;
        let batch = feed(&mut decoder, messages)?;
        self.idle = Some(decoder);
        Ok(batch)
    }

    fn ready_decoder(&mut self) -> Result<Decoder, ArrowError> {
        self.idle.take().map_or_else(
            || {
                ReaderBuilder::new(Arc::clone(&self.text_schema))
                    .with_coerce_primitive(true)
                    // One more than a pass has, so that a second object in the last message is seen.
                    .with_batch_size(PASS_MESSAGES + 1)
                    .build_decoder()
            },
            Ok,
        )
    }

    /// Reads what was decoded as text, and drops the rows that break a rule.
    fn judge(
        &self,
        text: RecordBatch,
        rows: Vec<usize>,
        latest_us: &dyn Fn(usize) -> i64,
        bad: &mut Vec<BadMessage>,
    ) -> Result<(RecordBatch, Vec<usize>), IngestError> {
        let mut faults = BTreeMap::new();
        let columns = self.read_texts(&text, &mut faults);
        self.find_missing(&columns, &mut faults);
        self.find_not_finite(&columns, &mut faults);
        self.find_bad_times(&columns, |row| latest_us(rows[row]), &mut faults);

        if faults.is_empty() {
            let batch = RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?;
            return Ok((batch, rows));
        }
        let nullable = RecordBatch::try_new(nullable(&self.spec.schema), columns)?;
        let keep: BooleanArray = (0..rows.len())
            .map(|row| Some(!faults.contains_key(&row)))
            .collect();
        let kept = filter_record_batch(&nullable, &keep)?;
        let batch = RecordBatch::try_new(Arc::clone(&self.spec.schema), kept.columns().to_vec())?;

        let good = (0..rows.len())
            .filter(|row| keep.value(*row))
            .map(|row| rows[row])
            .collect();
        bad.extend(
            faults
                .into_iter()
                .map(|(row, fault)| bad_message(rows[row], fault)),
        );
        Ok((batch, good))
    }

    fn read_texts(&self, text: &RecordBatch, faults: &mut BTreeMap<usize, Fault>) -> Vec<ArrayRef> {
        let mut columns = Vec::with_capacity(text.num_columns());
        for (column, values) in text.columns().iter().enumerate() {
            if !self.texts.contains(&column) {
                columns.push(Arc::clone(values));
                continue;
            }
            let texts = values.as_string::<i32>();
            let field = self.spec.schema.field(column);
            let is_event_time = column == self.spec.time_column;
            columns.push(match field.data_type() {
                DataType::Date32 => parsed::<_, Date32Array>(field.name(), texts, faults, |text| {
                    day_of(text).map_err(|reason| unparsable(text, reason))
                }),
                DataType::Binary => parsed::<_, BinaryArray>(field.name(), texts, faults, |text| {
                    bytes_of(text).map_err(|reason| unparsable(text, reason))
                }),
                exact if is_exact(exact) => self.read_numbers(column, texts, faults),
                _ => parsed::<_, TimestampMicrosecondArray>(field.name(), texts, faults, |text| {
                    read_timestamp(text, is_event_time)
                }),
            });
        }
        columns
    }

    fn read_numbers(
        &self,
        column: usize,
        texts: &StringArray,
        faults: &mut BTreeMap<usize, Fault>,
    ) -> ArrayRef {
        let field = self.spec.schema.field(column);
        let numbers = numbers_of(texts, field.data_type());
        if numbers.null_count() > texts.null_count() {
            let is_lost = |row: &usize| texts.is_valid(*row) && numbers.is_null(*row);
            for row in (0..texts.len()).filter(is_lost) {
                let (name, text) = (field.name(), texts.value(row));
                let kind = match field.data_type() {
                    whole if whole.is_integer() => format!("whole number within {whole}"),
                    decimal => format!("number within {decimal}"),
                };
                let fault = || (Reason::Unparsable, format!("{name}: `{text}` is no {kind}"));
                faults.entry(row).or_insert_with(fault);
            }
        }
        numbers
    }

    fn find_missing(&self, columns: &[ArrayRef], faults: &mut BTreeMap<usize, Fault>) {
        for column in self.required.iter().copied() {
            let values = &columns[column];
            if values.null_count() == 0 {
                continue;
            }
            let name = self.spec.schema.field(column).name();
            for row in (0..values.len()).filter(|row| values.is_null(*row)) {
                faults
                    .entry(row)
                    .or_insert_with(|| (Reason::MissingField, format!("`{name}` is missing")));
            }
        }
    }

    fn find_not_finite(&self, columns: &[ArrayRef], faults: &mut BTreeMap<usize, Fault>) {
        for (column, values) in columns.iter().enumerate() {
            for row in not_finite_rows(values) {
                let name = self.spec.schema.field(column).name();
                let fault = || {
                    (
                        Reason::Unparsable,
                        format!("`{name}` is not a finite number"),
                    )
                };
                faults.entry(row).or_insert_with(fault);
            }
        }
    }

    fn find_bad_times(
        &self,
        columns: &[ArrayRef],
        latest_us: impl Fn(usize) -> i64,
        faults: &mut BTreeMap<usize, Fault>,
    ) {
        let times = columns[self.spec.time_column].as_primitive::<TimestampMicrosecondType>();
        for (row, time) in times.iter().enumerate() {
            if let Some(fault) = time.and_then(|time| time_fault(time, latest_us(row))) {
                faults.entry(row).or_insert(fault);
            }
        }
    }
}

/// Parses a column's texts. What is refused is null in the column, and a fault that begins with the column's name.
fn parsed<T, A>(
    name: &str,
    texts: &StringArray,
    faults: &mut BTreeMap<usize, Fault>,
    parse: impl Fn(&str) -> Result<T, Fault>,
) -> ArrayRef
where
    A: Array + FromIterator<Option<T>> + 'static,
{
    let values = texts.iter().enumerate().map(|(row, text)| {
        parse(text?)
            .map_err(|(reason, detail)| {
                let fault = || (reason, format!("{name}: {detail}"));
                faults.entry(row).or_insert_with(fault);
            })
            .ok()
    });
    Arc::new(values.collect::<A>())
}

fn unparsable(text: &str, reason: impl fmt::Display) -> Fault {
    (Reason::Unparsable, format!("`{text}` {reason}"))
}

/// Feeds whole messages to a decoder that stands at a boundary, and takes the rows. On an error the decoder's
/// state is unknown.
fn feed(decoder: &mut Decoder, messages: &[Candidate<'_>]) -> Result<RecordBatch, String> {
    for (row, (_, payload)) in messages.iter().enumerate() {
        let read = decoder.decode(payload).map_err(|error| error.to_string())?;
        // Without this, a truncated message and its neighbour could make a row together.
        if decoder.has_partial_record() {
            return Err("the JSON ends early".into());
        }
        if read != payload.len() || decoder.len() != row + 1 {
            return Err("more than one JSON value in one message".into());
        }
    }
    let batch = decoder.flush().map_err(|error| error.to_string())?;
    batch.ok_or_else(|| "no JSON value".into())
}

/// Sorts out what can be seen without parsing.
fn screen_all<'a>(payloads: &[Option<&'a [u8]>]) -> (Vec<Candidate<'a>>, Vec<BadMessage>) {
    let mut candidates = Vec::with_capacity(payloads.len());
    let mut bad = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        match screen(*payload) {
            Ok(bytes) => candidates.push((index, bytes)),
            Err(fault) => bad.push(bad_message(index, fault)),
        }
    }
    (candidates, bad)
}

fn screen(payload: Option<&[u8]>) -> Result<Cow<'_, [u8]>, Fault> {
    let unparsable = |detail: &str| Err((Reason::Unparsable, detail.to_string()));
    let Some(payload) = payload else {
        return Err((Reason::Tombstone, "the message has no payload".into()));
    };
    match payload.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => unparsable("the payload is empty"),
        Some(b'{') if is_deeper_than(payload, MAX_DEPTH) => unparsable("nested too deeply"),
        Some(b'{') => Ok(without_surrogate_escapes(payload)),
        Some(_) => unparsable("the payload is not a JSON object"),
    }
}

/// Whether brackets nest deeper than `limit`. Most payloads are settled by counting.
fn is_deeper_than(payload: &[u8], limit: usize) -> bool {
    let opening = |byte: &&u8| matches!(byte, b'{' | b'[');
    payload.iter().filter(opening).count() > limit && depth(payload) > limit
}

/// The deepest nesting outside of strings.
fn depth(payload: &[u8]) -> usize {
    let (mut deepest, mut now) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in payload {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => now += 1,
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(now);
    }
    deepest
}

/// Writes `\uD83D\uDE00`-style pairs as the character that they mean.
///
/// arrow-json 59 joins the halves of a pair with "or" where it must add, which is wrong beyond U+1FFFF; encoders
/// that escape everything (Python's default) do send such pairs. Halves without their other half are left to the
/// decoder, which refuses them.
fn without_surrogate_escapes(payload: &[u8]) -> Cow<'_, [u8]> {
    let escape = |window: &[u8]| matches!(window, [b'\\', b'u', b'd' | b'D']);
    if !payload.contains(&b'\\') || !payload.windows(3).any(escape) {
        return Cow::Borrowed(payload);
    }
    let mut out = Vec::with_capacity(payload.len());
    let mut rest = payload;
    while let Some((first, after)) = rest.split_first() {
        if let (b'\\', Some(character)) = (first, surrogate_pair(rest)) {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[12..];
        } else if let (b'\\', Some((second, after))) = (first, after.split_first()) {
            out.extend_from_slice(&[*first, *second]);
            rest = after;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    Cow::Owned(out)
}

/// The character of the pair of escapes (12 bytes) with which `bytes` begins, if it does.
fn surrogate_pair(bytes: &[u8]) -> Option<char> {
    let high = escaped_unit(bytes.get(..6)?)?;
    let low = escaped_unit(bytes.get(6..12)?)?;
    char::decode_utf16([high, low])
        .next()?
        .ok()
        .filter(|_| (0xD800..0xDC00).contains(&high))
}

fn escaped_unit(escape: &[u8]) -> Option<u16> {
    let digits = escape.strip_prefix(b"\\u")?;
    let digits = str::from_utf8(digits).ok()?;
    // `from_str_radix` would take a sign.
    let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16).ok().filter(|_| all_hex)
}

/// A timestamp's text in microseconds since 1970. Only the event time has a range.
fn read_timestamp(text: &str, is_event_time: bool) -> Result<i64, Fault> {
    let time_us = match time_of_number(text) {
        Some(time_us) => {
            if is_event_time {
                check_unit(text)?;
            }
            i64::try_from(time_us).ok()
        }
        None => Some(read_date(text)?),
    };
    if is_event_time {
        let time_us = time_us.filter(|time_us| (EARLIEST_US..=LATEST_US).contains(time_us));
        return time_us.ok_or_else(|| {
            let detail = format!(
                "`{text}` is not within the years 1 to 9999 (numbers are read as milliseconds)"
            );
            (Reason::EventTimeOutOfRange, detail)
        });
    }
    time_us.ok_or_else(|| {
        let detail = format!("`{text}` ms since 1970 is beyond all times");
        (Reason::Unparsable, detail)
    })
}

fn read_date(text: &str) -> Result<i64, Fault> {
    string_to_datetime(&Utc, text)
        .map(|time| time.timestamp_micros())
        .map_err(|_| {
            let detail = format!("`{text}` is neither RFC 3339 nor milliseconds since 1970");
            (Reason::Unparsable, detail)
        })
}

/// Refuses an event time that is a number of seconds, microseconds or nanoseconds.
fn check_unit(text: &str) -> Result<(), Fault> {
    match text.trim().parse::<f64>().ok().and_then(other_unit) {
        Some(detail) => Err((Reason::EventTimeOutOfRange, detail)),
        None => Ok(()),
    }
}

fn time_fault(time_us: i64, latest_us: i64) -> Option<Fault> {
    (time_us > latest_us).then(|| {
        let detail = format!(
            "{} is further ahead than {}, the latest that is taken now (the clock and kafka.allowed_future)",
            utc(time_us),
            utc(latest_us)
        );
        (Reason::FutureEventTime, detail)
    })
}

/// The rows of a column of DOUBLE or FLOAT that are NaN or infinite, ascending.
#[must_use]
pub fn not_finite_rows(values: &ArrayRef) -> Vec<usize> {
    let rows_where = |bad: &dyn Fn(usize) -> bool| {
        (0..values.len())
            .filter(|row| values.is_valid(*row) && bad(*row))
            .collect()
    };
    match values.data_type() {
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>();
            rows_where(&|row| !values.value(row).is_finite())
        }
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>();
            rows_where(&|row| !values.value(row).is_finite())
        }
        _ => Vec::new(),
    }
}

fn bad_message(index: usize, (reason, mut detail): Fault) -> BadMessage {
    if detail.len() > DETAIL_BYTES {
        let end = (0..=DETAIL_BYTES - '…'.len_utf8())
            .rev()
            .find(|end| detail.is_char_boundary(*end));
        detail.truncate(end.unwrap_or(0));
        detail.push('…');
    }
    BadMessage {
        index,
        reason,
        detail,
    }
}

fn columns_of(schema: &Schema, is: impl Fn(&DataType) -> bool) -> BTreeSet<usize> {
    let fields = schema.fields().iter().enumerate();
    fields
        .filter(|(_, field)| is(field.data_type()))
        .map(|(column, _)| column)
        .collect()
}

fn text_schema(schema: &Schema, texts: &BTreeSet<usize>) -> SchemaRef {
    let fields = schema.fields().iter().enumerate();
    let fields = fields.map(|(column, field)| {
        let data_type = if texts.contains(&column) {
            DataType::Utf8
        } else {
            field.data_type().clone()
        };
        Field::new(field.name(), data_type, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests;
