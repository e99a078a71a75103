//! `millrace score`: events through the server's model, scores as JSON lines, in order; a person at a terminal sees the
//! first of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;

use millrace_features::Stream;
use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::{Score, ScoreRequest};
use serde_json::{Value as Json, json};
use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt};

use super::connection::{Connection, Server, connect, failure};
use crate::failure::{Failure, Outcome};
use crate::files::{EventFile, Format, json_text};
use crate::output::{go_on, print_line, tell};
use crate::serve::{MAX_MESSAGE_BYTES, time_us};
use crate::times::rfc3339;
use crate::workspace::Workspace;

/// Most events of one call.
const BATCH_EVENTS: usize = 500;

/// Lines that a terminal gets of scores, and standard error of events without one.
const FIRST_LINES: u64 = 20;

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

/// Scores the events of a file, or the JSON lines of standard input where `path` is `-`, and prints one JSON
/// line a score, in order: `id`, `event_time`, `score`, `decision`, `model_version` and, with `inputs`, the
/// model's inputs. A terminal gets the first lines of many, and a summary.
///
/// A line that cannot be scored is named on standard error with the reason (the first of many, unless all are asked
/// for), and the others are scored; in the end it is the user's mistake (exit code 2), so that a script notices.
///
/// `project` is the folder of the project whose stream says what the columns of Parquet and CSV mean.
///
/// # Errors
/// Input: a file that cannot be opened, or lines that were not scored. Failed: no server, a server
/// without a model, a file that cannot be read to its end.
pub async fn score(
    server: &Server,
    path: &Path,
    project: &Path,
    inputs: bool,
    all_refused: bool,
) -> Outcome<()> {
    let shown = Shown {
        scores: match io::stdout().is_terminal() {
            true => FIRST_LINES,
            false => u64::MAX,
        },
        // A log is flooded as a terminal is.
        faults: match all_refused {
            true => u64::MAX,
            false => FIRST_LINES,
        },
    };
    match Format::of_ending(&path.extension().unwrap_or_default().to_string_lossy()) {
        Some(Format::Parquet | Format::Csv) => {
            let workspace = Workspace::open(project)?;
            let events = table_rows(path, &workspace.model()?.inputs.stream)?;
            score_events(server, events, inputs, shown, io::stdout()).await
        }
        _ => score_events(server, json_lines(path)?, inputs, shown, io::stdout()).await,
    }
}

/// Most lines of scores, and of events that were not scored, that are printed.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// Of scores.
    pub scores: u64,
    /// Of events without one.
    pub faults: u64,
}

impl Shown {
    /// Every line.
    pub const ALL: Self = Self {
        scores: u64::MAX,
        faults: u64::MAX,
    };
}

/// As [`score`], for events from anywhere, to anywhere.
///
/// # Errors
/// As [`score`].
pub async fn score_events(
    server: &Server,
    events: impl Iterator<Item = Outcome<Event>>,
    inputs: bool,
    shown: Shown,
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
        shown,
        out: BufWriter::new(out),
        events: 0,
        bad: 0,
        seen: Seen::default(),
    };
    let is_read_on = scoring.all(events).await?;
    let Scoring {
        events, bad, seen, ..
    } = scoring;
    if is_read_on && seen.scores > shown.scores {
        tell(seen.summary(shown.scores));
    }
    if is_read_on && bad > 0 {
        let message = format!("{bad} of {events} events were not scored");
        return Err(Failure::input(message).hint(match bad > shown.faults {
            true => {
                "the first of them stand above, with the reason; --all-refused names all of them"
            }
            false => "standard error names each, with the reason",
        }));
    }
    Ok(())
}

/// What the scores were, for a person who does not see all of them.
#[derive(Debug, Default)]
struct Seen {
    scores: u64,
    /// Events with a probability, by its tenth.
    tenths: [u64; 10],
    versions: BTreeSet<u64>,
    highest: Option<(f64, String)>,
}

impl Seen {
    fn note(&mut self, score: &Score) {
        self.scores += 1;
        let Some(probability) = score.probability else {
            return;
        };
        self.versions.insert(score.model_version);
        self.tenths[((probability * 10.0) as usize).min(9)] += 1;
        if self
            .highest
            .as_ref()
            .is_none_or(|(most, _)| probability > *most)
        {
            self.highest = Some((probability, score.id.clone()));
        }
    }

    fn summary(&self, shown: u64) -> String {
        let mut lines = vec![format!(
            "… and {} more; > FILE takes all of them, a line of JSON each",
            self.scores - shown
        )];
        let scored: u64 = self.tenths.iter().sum();
        let versions: Vec<String> = self.versions.iter().map(u64::to_string).collect();
        match &self.highest {
            None => lines.push(format!("{} events, without a model yet", self.scores)),
            Some((highest, id)) => {
                let plural = if versions.len() == 1 { "" } else { "s" };
                lines.push(format!(
                    "{} events, {scored} with a score, of version{plural} {}; the highest is {highest:.4}, of '{id}'",
                    self.scores,
                    versions.join(", ")
                ));
                let tenth = |(tenth, events): (usize, &u64)| {
                    format!(
                        "  {:.1} to {:.1}: {events}",
                        tenth as f64 / 10.0,
                        (tenth + 1) as f64 / 10.0
                    )
                };
                let filled = self
                    .tenths
                    .iter()
                    .enumerate()
                    .filter(|(_, events)| **events > 0);
                lines.extend(filled.map(tenth));
            }
        }
        lines.join("\n")
    }
}

/// The rows of a table, as they would stand in the stream's topic.
fn table_rows(path: &Path, stream: &Stream) -> Outcome<impl Iterator<Item = Outcome<Event>>> {
    let name = path.display().to_string();
    let file = EventFile::open(path, stream)?;
    let rows = file.flat_map(|batch| {
        let text = batch.and_then(|batch| json_text(&batch));
        let lines: Vec<Outcome<String>> = match text {
            Ok(text) => text.lines().map(|line| Ok(line.to_owned())).collect(),
            Err(failure) => vec![Err(failure)],
        };
        lines
    });
    Ok((1_u64..).zip(rows).map(move |(row, json)| {
        json.map(|json| Event {
            place: format!("{name}: row {row}"),
            json: Ok(json),
        })
    }))
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
    server: &'a Server,
    client: ScoringServiceClient<Connection>,
    inputs: bool,
    shown: Shown,
    out: BufWriter<W>,
    events: u64,
    bad: u64,
    seen: Seen,
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

    /// Scores events. Of a call that the server refuses, those that it names are left out, and where it names no more
    /// than one, the call is halved until the bad ones stand alone: good ones lose nothing but time, and their order
    /// stays.
    async fn batch(&mut self, events: &[(String, String)]) -> Outcome<bool> {
        let mut waiting: Vec<Vec<&(String, String)>> = vec![events.iter().collect()];
        while let Some(mut part) = waiting.pop() {
            let status = match self.call(&part).await {
                Ok(scores) => match self.print(&scores)? {
                    true => continue,
                    false => return Ok(false),
                },
                Err(status) => status,
            };
            if !is_about_events(&status) {
                return Err(failure(self.server, &status));
            }
            let named = named(&status, part.len());
            if let [(place, _)] = part.as_slice() {
                self.report(place, reason(&status));
            } else if named.len() > 1 {
                for (index, reason) in &named {
                    self.report(&part[*index].0, reason);
                }
                let others = part.into_iter().enumerate();
                let others = others.filter(|(index, _)| !named.contains_key(index));
                waiting.push(others.map(|(_, event)| event).collect());
            } else {
                let second = part.split_off(part.len() / 2);
                waiting.extend([second, part]);
            }
        }
        go_on(self.out.flush())
    }

    /// Prints scores, as far as they are shown. False when nobody reads any more.
    fn print(&mut self, scores: &[Score]) -> Outcome<bool> {
        for score in scores {
            self.seen.note(score);
            if self.seen.scores <= self.shown.scores
                && !print_line(&mut self.out, score_json(score, self.inputs))?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn call(&mut self, events: &[&(String, String)]) -> Result<Vec<Score>, Status> {
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
        if self.bad <= self.shown.faults {
            tell(format_args!("{place}: {reason}"));
        }
    }
}

/// Whether a call is refused for the sake of an event in it.
fn is_about_events(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange)
}

/// The events of a call that its refusal names, with the reasons: of many the first.
fn named(status: &Status, events: usize) -> BTreeMap<usize, String> {
    let details = status.get_details_bad_request();
    let violations = details.map_or_else(Vec::new, |details| details.field_violations);
    let of_event = |violation: FieldViolation| {
        let place = violation.field.strip_prefix("event_json[")?;
        let index = place.strip_suffix(']')?.parse::<usize>().ok()?;
        (index < events).then_some((index, violation.description))
    };
    violations.into_iter().filter_map(of_event).collect()
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
        "decision": Some(&score.decision).filter(|decision| !decision.is_empty()),
        "model_version": score.model_version,
    });
    if inputs {
        let mut values = json!(score.inputs);
        for (name, text) in &score.text_inputs {
            values[name.as_str()] = json!(text);
        }
        json["inputs"] = values;
    }
    json
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_names_events_by_their_places() {
        let fields = [
            ("event_json[3]", "it is too early"),
            ("event_json[0]", "amount is missing"),
            ("event_json[9]", "of another call"),
            ("event_json", "too many"),
        ];
        let violations = fields.map(|(field, reason)| FieldViolation::new(field, reason));
        let details = ErrorDetails::with_bad_request(Vec::from(violations));
        let status = Status::with_error_details(Code::InvalidArgument, "wrong", details);
        let expected = [(0_usize, "amount is missing"), (3, "it is too early")];
        let expected = expected.map(|(index, reason)| (index, reason.to_owned()));
        assert_eq!(named(&status, 9), BTreeMap::from(expected));
        assert!(named(&Status::invalid_argument("wrong"), 9).is_empty());
    }

    #[test]
    fn texts_stand_among_the_inputs() {
        let score = Score {
            inputs: HashMap::from([("amount".to_owned(), 1.5)]),
            text_inputs: HashMap::from([("place".to_owned(), "t1".to_owned())]),
            ..Score::default()
        };
        let line = score_json(&score, true);
        assert_eq!(line["inputs"], json!({ "amount": 1.5, "place": "t1" }));
        assert!(score_json(&score, false).get("inputs").is_none());
    }
}
