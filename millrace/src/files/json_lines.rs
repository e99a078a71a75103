//! JSON lines: one object a line, decoded as a topic's messages are.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use millrace_features::Stream;
use millrace_ingest::{BadMessage, JsonDecoder, Reason, StreamSpec};
use tracing::warn;

use super::columns::nearest;
use super::{BATCH_ROWS, open_file, skip_mark, unreadable};
use crate::failure::{Failure, Outcome};
use crate::streams::stream_spec;

/// A line's bytes, at most: a file of one endless line must not fill the memory.
const MAX_LINE_BYTES: usize = 16 << 20;

/// A batch ends after so many bytes even when it has few rows.
const BATCH_BYTES: usize = 32 << 20;

/// The batches of a file of JSON lines. With `in_part`, the good lines before the first bad one are a batch too.
pub(super) fn open(
    path: &Path,
    stream: &Stream,
    in_part: bool,
) -> Outcome<impl Iterator<Item = Outcome<RecordBatch>> + Send + use<>> {
    let decoder = JsonDecoder::new(spec(stream))?;
    let mut reader = BufReader::with_capacity(1 << 18, open_file(path)?);
    skip_mark(&mut reader).map_err(|e| unreadable(path, &e))?;
    let names = stream
        .schema
        .fields()
        .iter()
        .map(|field| field.name().clone());
    let mut lines = JsonLines {
        path: path.to_owned(),
        reader,
        decoder,
        lines_before: 0,
        stream: stream.name.clone(),
        columns: names.collect(),
        empty: (0..stream.schema.fields().len()).collect(),
        left_out: None,
        in_part,
        failure: None,
    };
    Ok(std::iter::from_fn(move || lines.next_batch().transpose()))
}

/// A stream as the decoder of a file wants it described: a line has no key.
pub(crate) fn spec(stream: &Stream) -> StreamSpec {
    StreamSpec {
        id: None,
        ..stream_spec(stream)
    }
}

struct JsonLines {
    path: PathBuf,
    reader: BufReader<File>,
    decoder: JsonDecoder,
    lines_before: u64,
    stream: String,
    columns: Vec<String>,
    /// The columns that were null in all lines so far. Whether a line lacks a column or has null there, the decoder does
    /// not tell.
    empty: Vec<usize>,
    /// What the first line has and the stream does not, once it was read.
    left_out: Option<Vec<String>>,
    in_part: bool,
    /// What ends the reading, once the lines before it were given.
    failure: Option<Failure>,
}

/// Lines that hold something, each with its number.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    lines: Vec<(u64, std::ops::Range<usize>)>,
}

impl Chunk {
    fn line(&self, index: usize) -> &[u8] {
        self.lines
            .get(index)
            .map_or(&[], |(_, range)| &self.bytes[range.clone()])
    }
}

impl JsonLines {
    fn next_batch(&mut self) -> Outcome<Option<RecordBatch>> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let chunk = self.read_chunk()?;
        if chunk.lines.is_empty() {
            self.tell_empty();
            return Ok(None);
        }
        let payloads: Vec<_> = (0..chunk.lines.len())
            .map(|i| Some(chunk.line(i)))
            .collect();
        let decoded = self.decoder.decode(&payloads, i64::MAX)?;
        match decoded.bad.first() {
            None => {
                self.note_values(&chunk, &decoded.batch);
                Ok(Some(decoded.batch))
            }
            Some(bad) => {
                let failure = self.bad_line(&chunk, bad);
                if !self.in_part || bad.index == 0 {
                    return Err(failure);
                }
                self.failure = Some(failure);
                Ok(Some(decoded.batch.slice(0, bad.index)))
            }
        }
    }

    fn note_values(&mut self, chunk: &Chunk, batch: &RecordBatch) {
        let is_empty = |column: &usize| batch.column(*column).null_count() == batch.num_rows();
        self.empty.retain(is_empty);
        if self.left_out.is_none() {
            self.left_out = Some(unknown_keys(chunk.line(0), &self.columns));
        }
    }

    /// Says at the end of the file which columns are null in all of its events, as is said of files of other formats
    /// before they are read. Who goes on after a stop reads the file from its beginning too, so all of it is known.
    fn tell_empty(&mut self) {
        let Some(left_out) = self.left_out.take() else {
            return;
        };
        let empty = self.empty.iter();
        let empty: Vec<&str> = empty.map(|column| self.columns[*column].as_str()).collect();
        if !empty.is_empty() {
            warn!(
                file = %self.path.display(),
                columns = empty.join(", "),
                left_out = left_out.join(", "),
                "columns of the stream are null in all of the file's events: each of its lines lacks them, or has null \
                 there; what the first line has besides is left out"
            );
        }
    }

    fn read_chunk(&mut self) -> Outcome<Chunk> {
        let mut chunk = Chunk::default();
        while chunk.lines.len() < BATCH_ROWS && chunk.bytes.len() < BATCH_BYTES {
            let start = chunk.bytes.len();
            if !self.read_line(&mut chunk.bytes)? {
                break;
            }
            if !chunk.bytes[start..].trim_ascii().is_empty() {
                chunk
                    .lines
                    .push((self.lines_before, start..chunk.bytes.len()));
            }
        }
        Ok(chunk)
    }

    /// Appends the next line; false at the end of the file.
    fn read_line(&mut self, bytes: &mut Vec<u8>) -> Outcome<bool> {
        let mut bounded = self.reader.by_ref().take(MAX_LINE_BYTES as u64 + 1);
        let read = bounded
            .read_until(b'\n', bytes)
            .map_err(|e| unreadable(&self.path, &e))?;
        self.lines_before += 1;
        if read > MAX_LINE_BYTES {
            let what = format!("longer than {} MiB", MAX_LINE_BYTES >> 20);
            return Err(self.at(self.lines_before, &what).hint(ONE_OBJECT_A_LINE));
        }
        Ok(read > 0)
    }

    fn bad_line(&self, chunk: &Chunk, bad: &BadMessage) -> Failure {
        let number = chunk.lines.get(bad.index).map_or(0, |(number, _)| *number);
        let failure = self.at(number, &bad.detail);
        match bad.reason {
            Reason::MissingField => match near_key(chunk.line(bad.index), bad, &self.columns) {
                Some(near) => failure.hint(format!(
                    "did you mean '{near}'? Name it the same in the file and in sources.sql"
                )),
                None => failure.hint(format!(
                    "stream '{}' needs it: sources.sql declares its columns",
                    self.stream
                )),
            },
            Reason::Unparsable => failure.hint(ONE_OBJECT_A_LINE),
            _ => failure,
        }
    }

    fn at(&self, line: u64, what: &str) -> Failure {
        Failure::input(format!("{}:{line}: {what}", self.path.display()))
    }
}

/// Of an event that lacks a field: its key that no column has and that is nearly the field's name.
pub(crate) fn near_key(event: &[u8], bad: &BadMessage, columns: &[String]) -> Option<String> {
    if bad.reason != Reason::MissingField {
        return None;
    }
    let missing = bad.detail.split('`').nth(1)?;
    let others = unknown_keys(event, columns);
    nearest(missing, others.iter().map(String::as_str))
}

/// The keys of an event that no column has.
fn unknown_keys(event: &[u8], columns: &[String]) -> Vec<String> {
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(event);
    let keys = object.unwrap_or_default().into_iter().map(|(key, _)| key);
    keys.filter(|key| !columns.contains(key)).collect()
}

const ONE_OBJECT_A_LINE: &str = "one JSON object a line, with the types that sources.sql declares";
