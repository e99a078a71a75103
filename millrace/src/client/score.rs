//! `millrace score`: events through the server's model, scores as JSON lines, in order.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::Path;

use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::{Score, ScoreRequest};
use serde_json::{Value as Json, json};
use tonic::{Code, Status};

use super::connection::{Connection, connect, failure};
use super::{go_on, print_line};
use crate::failure::{Failure, Outcome};
use crate::serve::{MAX_MESSAGE_BYTES, time_us};
use crate::times::rfc3339;

/// Most events of one call.
const BATCH_EVENTS: usize = 500;

/// A batch is sent when it has this many bytes, however few its events: far below the most that a
/// message may have.
const BATCH_BYTES: usize = 4 << 20;

/// An event to score.
#[derive(Debug, Clone)]
pub struct Event {
    /// Where it comes from, for messages: `events.jsonl:17`.
    pub place: String,
    /// One JSON object as it stands in the topic, or why there is none.
    pub json: Result<String, String>,
}

/// Scores the JSON lines of a file, or of standard input where `path` is `-`, and prints one JSON
/// line a score, in order: `id`, `event_time`, `score`, `model_version` and, with `inputs`, the
/// model's inputs.
///
/// A line that cannot be scored is named on standard error with the reason, and the others are
/// scored; in the end it is the user's mistake (exit code 2), so that a script notices.
///
/// # Errors
/// Input: a file that cannot be opened, or lines that were not scored. Failed: no server, a server
/// without a model, a file that cannot be read to its end.
pub async fn score(server: &str, path: &Path, inputs: bool) -> Outcome<()> {
    score_events(server, json_lines(path)?, inputs, io::stdout()).await
}

/// As [`score`], for events from anywhere, to anywhere.
///
/// # Errors
/// As [`score`].
pub async fn score_events(
    server: &str,
    events: impl Iterator<Item = Outcome<Event>>,
    inputs: bool,
    out: impl Write,
) -> Outcome<()> {
    let channel = connect(server).await?;
    let client = ScoringServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut scoring = Scoring {
        server,
        client,
        inputs,
        out: BufWriter::new(out),
        events: 0,
        bad: 0,
    };
    if scoring.all(events).await? && scoring.bad > 0 {
        let Scoring { events, bad, .. } = scoring;
        let message = format!("{bad} of {events} events were not scored");
        return Err(Failure::input(message).hint("standard error names each, with the reason"));
    }
    Ok(())
}

/// The lines of a file, or of standard input where `path` is `-`. Empty lines are passed over.
///
/// # Errors
/// A file that cannot be opened; as an item, one that cannot be read on.
pub fn json_lines(path: &Path) -> Outcome<Box<dyn Iterator<Item = Outcome<Event>>>> {
    let name = path.display().to_string();
    if name == "-" {
        return Ok(Box::new(lines("stdin".to_owned(), io::stdin().lock())));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(lines(name, BufReader::new(file)))),
        Err(error) => Err(Failure::input(format!("cannot open {name}: {error}"))
            .hint("name a file of JSON lines, or - for standard input")),
    }
}

fn lines(name: String, input: impl BufRead) -> impl Iterator<Item = Outcome<Event>> {
    let numbered = (1_u64..).zip(input.split(b'\n'));
    numbered.filter_map(move |(number, line)| {
        let line = match line {
            Ok(line) if line.trim_ascii().is_empty() => return None,
            Ok(line) => line,
            Err(error) if error.kind() == ErrorKind::IsADirectory => {
                return Some(Err(Failure::input(format!("{name} is a folder"))));
            }
            Err(error) => {
                return Some(Err(Failure::failed(format!("cannot read {name}: {error}"))));
            }
        };
        let json = String::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned());
        let place = format!("{name}:{number}");
        Some(Ok(Event { place, json }))
    })
}

struct Scoring<'a, W: Write> {
    server: &'a str,
    client: ScoringServiceClient<Connection>,
    inputs: bool,
    out: BufWriter<W>,
    events: u64,
    bad: u64,
}

impl<W: Write> Scoring<'_, W> {
    /// Scores all events, in batches. False when nobody reads the scores any more.
    async fn all(&mut self, events: impl Iterator<Item = Outcome<Event>>) -> Outcome<bool> {
        let mut batch = Vec::with_capacity(BATCH_EVENTS);
        let mut bytes = 0;
        for event in events {
            let event = event?;
            self.events += 1;
            match event.json {
                Ok(json) => {
                    bytes += json.len();
                    batch.push((event.place, json));
                }
                Err(reason) => self.report(&event.place, &reason),
            }
            if batch.len() == BATCH_EVENTS || bytes >= BATCH_BYTES {
                if !self.batch(&batch).await? {
                    return Ok(false);
                }
                batch.clear();
                bytes = 0;
            }
        }
        self.batch(&batch).await
    }

    /// Scores events, halving a call that the server refuses until the bad ones stand alone: good
    /// ones lose nothing but time, and their order stays.
    async fn batch(&mut self, events: &[(String, String)]) -> Outcome<bool> {
        let mut waiting = vec![events];
        while let Some(part) = waiting.pop() {
            match (self.call(part).await, part) {
                (_, []) => {}
                (Ok(scores), _) => {
                    for score in &scores {
                        if !print_line(&mut self.out, &score_json(score, self.inputs).to_string())?
                        {
                            return Ok(false);
                        }
                    }
                }
                (Err(status), _) if !is_about_events(&status) => {
                    return Err(failure(self.server, &status));
                }
                (Err(status), [(place, _)]) => self.report(place, reason(&status)),
                (Err(_), _) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    waiting.extend([second, first]);
                }
            }
        }
        go_on(self.out.flush())
    }

    async fn call(&mut self, events: &[(String, String)]) -> Result<Vec<Score>, Status> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let request = ScoreRequest {
            event_json: events.iter().map(|(_, json)| json.clone()).collect(),
            include_inputs: Some(self.inputs),
            ..ScoreRequest::default()
        };
        Ok(self.client.score(request).await?.into_inner().scores)
    }

    fn report(&mut self, place: &str, reason: &str) {
        self.bad += 1;
        eprintln!("{place}: {reason}");
    }
}

/// Whether a call is refused for the sake of an event in it.
fn is_about_events(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange)
}

/// Why a single event was refused; its place in the call, which the user did not make, is left out.
fn reason(status: &Status) -> &str {
    let message = status.message();
    message.strip_prefix("event_json[0]: ").unwrap_or(message)
}

fn score_json(score: &Score, inputs: bool) -> Json {
    let mut json = json!({
        "id": score.id,
        "event_time": score.event_time.as_ref().and_then(time_us).map(rfc3339),
        "score": score.probability,
        "model_version": score.model_version,
    });
    if inputs {
        json["inputs"] = json!(score.inputs);
    }
    json
}
