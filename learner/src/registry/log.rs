//! What was decided, in order: a log of numbered entries, of which everything else follows.
//!
//! ```text
//!   log/
//!     000000000-000000255.jsonl   a sealed segment: 256 entries, a line each
//!     000000256.json              single entries, numbered on
//!     000000257.json
//! ```
//!
//! An entry is created under the number after the last one, if there is none of that number yet. So whoever reads the
//! log up to its end, decides, and creates the next entry, has decided knowing all that was decided before; whoever
//! comes second reads on and decides anew. An entry tells which versions have the traffic after it, so the newest
//! one is all that a reader needs who follows.
//!
//! Full segments are sealed into one file each, and the single entries of a segment are removed when the next one is
//! sealed. A reader that slept meanwhile finds them in the segment. A writer that slept could then create an entry of
//! a number that is long given: so it looks for the segment afterwards, and whatever a segment says is the truth.
//!
//! A file that somebody has removed would look like the log's end. So whoever opens the log, or is about to write, looks
//! whether there are files of higher numbers. Whoever follows it asks for the entry after the next one too, and for all
//! files from time to time.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::import;
use super::objects::Objects;
use crate::error::LearnerError;
use crate::journal::{Entry, Event, State};

const FOLDER: &str = "log";

/// Says which release's files these are.
const FORMAT_FILE: &str = "format.json";

/// What this release writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Entries of a segment.
pub(super) const SEGMENT: u64 = 256;

/// Looks in a row that found nothing new after which all files are listed: about a minute of a process that follows.
const QUIET_LOOKS: u32 = 60;

/// Which versions have the traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aliases {
    /// The version that answers for all others.
    pub champion: Option<u64>,
    /// The version that is tested beside it, and for how many of a hundred entities it answers.
    pub challenger: Option<(u64, u8)>,
}

/// What is to be decided: who has the traffic from now on, and what is noted with it.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// All aliases as they are afterwards.
    pub aliases: Aliases,
    /// What happened.
    pub notes: Vec<Entry>,
}

/// Everything that was decided up to a moment.
#[derive(Debug, Default)]
pub struct Decided {
    /// Entries that it follows from.
    pub(super) entries: u64,
    /// Who has the traffic.
    pub aliases: Aliases,
    /// Everything that was noted, oldest first.
    pub journal: Vec<Entry>,
    /// Versions of which something was noted: their manifests were there before.
    pub(super) noted: BTreeSet<u64>,
    /// Versions that were removed.
    pub(super) removed: BTreeSet<u64>,
}

/// An entry, as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    number: u64,
    #[serde(default)]
    champion: Option<u64>,
    #[serde(default)]
    challenger: Option<Challenger>,
    #[serde(default)]
    notes: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Challenger {
    version: u64,
    percent: u8,
}

#[derive(Serialize, Deserialize)]
struct Format {
    format: u32,
}

/// The log, as far as it was read.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) decided: Decided,
    segment: u64,
    /// Looks in a row that found nothing new.
    quiet: u32,
    is_open: bool,
    /// Whether the store was seen to keep an object that is to be created again.
    is_safe: bool,
}

impl Decided {
    /// The last version that had all of the traffic before `version`, of those in `known`. One that was rolled back is
    /// nothing to go back to.
    #[must_use]
    pub fn champion_before(&self, version: u64, known: &[u64]) -> Option<u64> {
        let mut champions = Vec::new();
        for entry in &self.journal {
            match entry.event {
                Event::Version {
                    version,
                    state: State::Champion,
                    ..
                } => champions.push(version),
                Event::Version {
                    version,
                    state: State::RolledBack,
                    ..
                } => champions.retain(|other| *other != version),
                _ => {}
            }
        }
        let is_kept = |other: &u64| {
            *other != version && known.contains(other) && !self.removed.contains(other)
        };
        champions.into_iter().rfind(is_kept)
    }

    fn take(&mut self, line: Line) {
        self.entries = line.number + 1;
        self.aliases = Aliases {
            champion: line.champion,
            challenger: line.challenger.map(|it| (it.version, it.percent)),
        };
        for note in &line.notes {
            match &note.event {
                Event::Version { version, .. } => {
                    self.noted.insert(*version);
                }
                Event::Removed { versions } => self.removed.extend(versions),
                Event::LabelsRefused { .. } | Event::LabelsReleased { .. } => {}
            }
        }
        self.journal.extend(line.notes);
    }
}

impl Log {
    pub(super) fn new(segment: u64) -> Self {
        Self {
            decided: Decided::default(),
            segment,
            quiet: 0,
            is_open: false,
            is_safe: false,
        }
    }

    /// Reads on to the log's end.
    pub(super) fn refresh(&mut self, objects: &Objects) -> Result<(), LearnerError> {
        if !self.is_open {
            self.open(objects)?;
            self.is_open = true;
        }
        self.follow(objects)
    }

    /// Reads on, where there is more, and refuses a gap. Three requests at once where there is not.
    fn follow(&mut self, objects: &Objects) -> Result<(), LearnerError> {
        let next = self.decided.entries;
        let segment = self.segment_path(next / self.segment);
        let found = objects.get_all(&[segment, entry_path(next), entry_path(next + 1)])?;
        let is_quiet = found.iter().all(Option::is_none);
        if !is_quiet {
            self.read_on(objects)?;
        }
        let is_stuck = self.decided.entries == next;
        self.quiet = if is_stuck { self.quiet + 1 } else { 0 };
        // Nobody writes an entry who has not read the one before it.
        if is_stuck && (!is_quiet || self.quiet >= QUIET_LOOKS) {
            self.quiet = 0;
            self.check_end(objects, &objects.list(FOLDER)?.files)?;
        }
        Ok(())
    }

    fn read_on(&mut self, objects: &Objects) -> Result<(), LearnerError> {
        loop {
            let segment = self.decided.entries / self.segment;
            // The segment first: it is right where a single entry is not.
            if let Some(text) = objects.get(&self.segment_path(segment))? {
                self.take_segment(objects, segment, &text)?;
                continue;
            }
            while self.decided.entries / self.segment == segment {
                let path = entry_path(self.decided.entries);
                let Some(text) = objects.get(&path)? else {
                    return Ok(());
                };
                let line = parse(&text).map_err(|e| damaged(objects.full(&path), e))?;
                self.take(objects, &path, line)?;
            }
        }
    }

    /// Appends an entry at the end up to which the log was read. False where another writer was there first.
    pub(super) fn append(
        &mut self,
        objects: &Objects,
        choice: Choice,
    ) -> Result<bool, LearnerError> {
        self.check_store(objects)?;
        let number = self.decided.entries;
        self.check_end(objects, &objects.list(FOLDER)?.files)?;
        if self.decided.entries != number {
            return Ok(false);
        }
        let mut notes = choice.notes;
        notes.iter_mut().for_each(Entry::leave_out_odd_numbers);
        let line = Line {
            number,
            champion: choice.aliases.champion,
            challenger: choice
                .aliases
                .challenger
                .map(|(version, percent)| Challenger { version, percent }),
            notes,
        };
        let mut text = serde_json::to_vec(&line).map_err(|e| LearnerError::Bug(e.to_string()))?;
        text.push(b'\n');
        let path = entry_path(line.number);
        if !objects.create_or_find(&path, &text)? {
            return Ok(false);
        }
        let segment = line.number / self.segment;
        if let Some(sealed) = objects.get(&self.segment_path(segment))?
            && !sealed
                .split_inclusive(|byte| *byte == b'\n')
                .any(|it| it == text)
        {
            objects.delete(&path)?;
            return Ok(false);
        }
        self.decided.take(line);
        if self.decided.entries.is_multiple_of(self.segment) {
            // The next one to fill a segment seals what this one could not.
            let _ = self.seal(objects);
        }
        Ok(true)
    }

    /// Makes sure that the store keeps what is there when it is to be created: all else rests on that.
    pub(super) fn check_store(&mut self, objects: &Objects) -> Result<(), LearnerError> {
        if self.is_safe {
            return Ok(());
        }
        let text = serde_json::to_vec(&Format { format: FORMAT });
        let text = text.map_err(|e| LearnerError::Bug(e.to_string()))?;
        // The first of the two may have made it.
        if objects.create(FORMAT_FILE, &text)? && objects.create(FORMAT_FILE, &text)? {
            return Err(LearnerError::Unsafe {
                root: objects.name().to_owned(),
            });
        }
        self.is_safe = true;
        Ok(())
    }

    /// Reads all that is there: segments and entries at once, and not one after the other.
    fn open(&mut self, objects: &Objects) -> Result<(), LearnerError> {
        check_format(objects)?;
        self.decided = Decided::default();
        let listed = objects.list(FOLDER)?.files;
        let mut segments: Vec<u64> = listed.iter().filter_map(|n| self.segment_of(n)).collect();
        segments.sort_unstable();
        let paths: Vec<String> = segments.iter().map(|it| self.segment_path(*it)).collect();
        for (segment, text) in segments.into_iter().zip(objects.get_all(&paths)?) {
            // A gap is read entry by entry, in `read_on`.
            if let Some(text) = text.filter(|_| self.decided.entries == segment * self.segment) {
                self.take_segment(objects, segment, &text)?;
            }
        }
        let mut entries: Vec<u64> = listed.iter().filter_map(|n| entry_of(n)).collect();
        entries.retain(|number| *number >= self.decided.entries);
        entries.sort_unstable();
        let paths: Vec<String> = entries.iter().map(|number| entry_path(*number)).collect();
        for ((number, path), text) in entries.iter().zip(&paths).zip(objects.get_all(&paths)?) {
            let Some(text) = text.filter(|_| self.decided.entries == *number) else {
                break;
            };
            let line = parse(&text).map_err(|e| damaged(objects.full(path), e))?;
            self.take(objects, path, line)?;
        }
        self.read_on(objects)?;
        self.check_end(objects, &listed)?;
        if self.decided.entries == 0
            && let Some(choice) = import::read(objects)?
        {
            // Where another process does the same, its entry is this one.
            self.append(objects, choice)?;
            import::remove(objects)?;
        }
        Ok(())
    }

    /// Refuses a log that has files after its end: what they decided would be undone, and their numbers given again.
    /// `listed` are the files that were there before.
    fn check_end(&mut self, objects: &Objects, listed: &[String]) -> Result<(), LearnerError> {
        let last = |name: &String| match self.segment_of(name) {
            Some(segment) => Some((segment + 1) * self.segment - 1),
            None => entry_of(name),
        };
        let Some(newest) = listed.iter().filter_map(last).max() else {
            return Ok(());
        };
        while self.decided.entries <= newest {
            let lacking = self.decided.entries;
            self.read_on(objects)?;
            let segment = self.segment_path(lacking / self.segment);
            // An entry may be gone because it was sealed meanwhile. Its segment was there before it went.
            if self.decided.entries > lacking || objects.get(&segment)?.is_some() {
                continue;
            }
            let of_segment = |name: &String| {
                entry_of(name).is_some_and(|it| it / self.segment == lacking / self.segment)
            };
            let file = match listed.iter().any(of_segment) {
                true => entry_path(lacking),
                false => segment,
            };
            let reason = format!("it is missing, and the log goes on to entry {newest}");
            return Err(damaged(objects.full(&file), reason));
        }
        Ok(())
    }

    /// Seals the full segments that are not, and removes the entries of all but the newest of them.
    fn seal(&self, objects: &Objects) -> Result<(), LearnerError> {
        let listed = objects.list(FOLDER)?.files;
        let full = self.decided.entries / self.segment;
        let sealed: BTreeSet<u64> = listed.iter().filter_map(|n| self.segment_of(n)).collect();
        for segment in (0..full).filter(|segment| !sealed.contains(segment)) {
            let numbers = segment * self.segment..(segment + 1) * self.segment;
            let paths: Vec<String> = numbers.map(entry_path).collect();
            let entries: Option<Vec<Vec<u8>>> = objects.get_all(&paths)?.into_iter().collect();
            let Some(entries) = entries else {
                // Another process has sealed it, and removes them.
                return Ok(());
            };
            // Whoever seals it writes the same.
            objects.create(&self.segment_path(segment), &entries.concat())?;
        }
        let old = full.saturating_sub(1) * self.segment;
        for number in listed.iter().filter_map(|n| entry_of(n)) {
            if number < old {
                objects.delete(&entry_path(number))?;
            }
        }
        Ok(())
    }

    fn take(&mut self, objects: &Objects, path: &str, line: Line) -> Result<(), LearnerError> {
        if line.number != self.decided.entries {
            let reason = format!(
                "it has entry {} where {} was expected",
                line.number, self.decided.entries
            );
            return Err(damaged(objects.full(path), reason));
        }
        self.decided.take(line);
        Ok(())
    }

    /// Takes the entries of a segment that were not read singly.
    fn take_segment(
        &mut self,
        objects: &Objects,
        segment: u64,
        text: &[u8],
    ) -> Result<(), LearnerError> {
        let path = self.segment_path(segment);
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        for (number, line) in (segment * self.segment..).zip(lines) {
            if number >= self.decided.entries {
                let line = parse(line).map_err(|e| damaged(objects.full(&path), e))?;
                self.take(objects, &path, line)?;
            }
        }
        let end = (segment + 1) * self.segment;
        if self.decided.entries != end {
            let reason = format!("it ends at entry {} and not {end}", self.decided.entries);
            return Err(damaged(objects.full(&path), reason));
        }
        Ok(())
    }

    fn segment_path(&self, segment: u64) -> String {
        let first = segment * self.segment;
        format!("{FOLDER}/{first:09}-{:09}.jsonl", first + self.segment - 1)
    }

    /// The segment of a file's name, if it is one that [`Log::segment_path`] gives.
    fn segment_of(&self, name: &str) -> Option<u64> {
        let first: u64 = name
            .strip_suffix(".jsonl")?
            .split_once('-')?
            .0
            .parse()
            .ok()?;
        let segment = first / self.segment;
        (self.segment_path(segment) == format!("{FOLDER}/{name}")).then_some(segment)
    }
}

fn check_format(objects: &Objects) -> Result<(), LearnerError> {
    let Some(text) = objects.get(FORMAT_FILE)? else {
        return Ok(());
    };
    let file = || objects.full(FORMAT_FILE);
    let found: Format =
        serde_json::from_slice(&text).map_err(|e| damaged(file(), e.to_string()))?;
    if found.format > FORMAT {
        let reason = format!(
            "format {} was written by a newer release; this one reads up to {FORMAT}",
            found.format
        );
        return Err(damaged(file(), reason));
    }
    Ok(())
}

fn parse(text: &[u8]) -> Result<Line, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

fn entry_path(number: u64) -> String {
    format!("{FOLDER}/{number:09}.json")
}

/// The number of a file's name, if it is one that [`entry_path`] gives.
fn entry_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".json")?.parse().ok()?;
    (entry_path(number) == format!("{FOLDER}/{name}")).then_some(number)
}

fn damaged(file: PathBuf, reason: String) -> LearnerError {
    LearnerError::Damaged { file, reason }
}
