//! The registry of an older release: a folder with the files `champion`, `challenger` and `journal.jsonl` beside the
//! versions. They become the first entry of the log, and are removed.

use std::str::FromStr;

use super::log::{Aliases, Choice};
use super::objects::Objects;
use crate::error::LearnerError;

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
    let journal = journal.unwrap_or_default();
    let lines = journal.split(|byte| *byte == b'\n');
    Ok(Some(Choice {
        aliases,
        // A crash in the middle of a write left half a line: what it told did not happen.
        notes: lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect(),
    }))
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
