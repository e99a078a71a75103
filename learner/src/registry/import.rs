//! The registry of an older release: a folder with the files `champion`, `challenger` and `journal.jsonl` beside the
//! versions. They become the first entry of the log, and are removed.

use std::str::FromStr;

use super::log::{Aliases, Choice};
use super::objects::Objects;
use crate::error::LearnerError;
use crate::journal::Entry;

const CHAMPION: &str = "champion";
const CHALLENGER: &str = "challenger";
const JOURNAL: &str = "journal.jsonl";

/// What the files say, if they are there.
pub(super) fn read(objects: &Objects) -> Result<Option<Choice>, LearnerError> {
    let names = [CHAMPION, CHALLENGER, JOURNAL].map(str::to_owned);
    let mut files = objects.get_all(&names)?.into_iter();
    let mut text = || files.next().flatten();
    let (champion, challenger, journal) = (text(), text(), text());
    if champion.is_none() && journal.is_none() {
        return Ok(None);
    }
    let aliases = Aliases {
        champion: parsed(objects, CHAMPION, champion, number)?,
        challenger: parsed(objects, CHALLENGER, challenger, |text| {
            let (version, percent) = text.split_once(' ')?;
            Some((number(version)?, number(percent)?))
        })?,
    };
    let notes = notes(&journal.unwrap_or_default()).map_err(|reason| LearnerError::Damaged {
        file: objects.full(JOURNAL),
        reason,
    })?;
    Ok(Some(Choice { aliases, notes }))
}

/// The entries of a journal, or which line is none, and why.
fn notes(journal: &[u8]) -> Result<Vec<Entry>, String> {
    let mut notes = Vec::new();
    for (at, line) in journal.split(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(note) => notes.push(note),
            // A crash in the middle of a write left half a line, behind which the next process went on: what it told did
            // not happen.
            Err(error) if error.is_eof() => {}
            Err(error) => {
                return Err(format!(
                    "line {} is no entry, by what stands at its column {}; mend it, or take it out if what it told may \
                     be forgotten",
                    at + 1,
                    error.column()
                ));
            }
        }
    }
    Ok(notes)
}

/// Removes them. An older release that is still run finds no champion, and does not follow one that is not.
pub(super) fn remove(objects: &Objects) -> Result<(), LearnerError> {
    [CHAMPION, CHALLENGER, JOURNAL]
        .into_iter()
        .try_for_each(|name| objects.delete(name))
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn parsed<T>(
    objects: &Objects,
    name: &str,
    bytes: Option<Vec<u8>>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, LearnerError> {
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    match parse(text.trim()) {
        Some(value) => Ok(Some(value)),
        None => Err(LearnerError::Damaged {
            file: objects.full(name),
            reason: format!("{:?} names no version", text.trim()),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LINES: [&str; 3] = [
        r#"{"at_us":5,"event":"version","version":1,"state":"champion"}"#,
        r#"{"at_us":-6,"event":"labels_refused","first":3,"last":8,"reason":"far \"too\" often: 1 – 2"}"#,
        r#"{"at_us":7,"event":"version","version":2,"state":{"canary":{"percent":10}}}"#,
    ];

    #[test]
    fn half_a_line_is_left_out_wherever_it_stands() {
        assert_eq!(notes(b"").unwrap(), []);
        let whole = notes(LINES.join("\n").as_bytes()).unwrap();
        assert_eq!(whole.len(), 3);
        let [first, second, third] = LINES.map(str::as_bytes);
        for cut in 0..second.len() {
            let journal = [first, b"\n", &second[..cut], b"\n", third, b"\n"].concat();
            let found = notes(&journal).unwrap();
            assert_eq!(found, [whole[0].clone(), whole[2].clone()], "{cut}");
        }
    }

    #[test]
    fn a_line_that_is_damaged_is_named() {
        for (old, new) in [
            ("\"first\":3", "\"first\":x"),
            ("labels_refused", "labels_rfused"),
            ("\"last\"", "\"lost\""),
            ("{\"at_us\":-6", "\0\0\0"),
        ] {
            assert!(LINES[1].contains(old));
            let journal = LINES.join("\n").replace(old, new);
            let reason = notes(journal.as_bytes()).unwrap_err();
            assert!(reason.starts_with("line 2 is no entry"), "{reason}");
        }
    }
}
