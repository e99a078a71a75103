//! Labels join what was scored: a scored event waits, under its id, for its label; the pair is an example.
//!
//! The labels of a step are numbered in the order in which they became known, whatever partition they came from: while a
//! loop catches up, a step has labels of many periods, one partition's after the other's. Those of one event stay in the
//! order in which they came, and a label that comes after a newer one was numbered counts as known with that.
//!
//! A label is learned once. A second delivery of it changes nothing. A later one that says the opposite takes its
//! example away and adds one with the right label at the end of the sequence, so that whoever reads on learns that, once;
//! a row beside it tells whose place it took. A label that comes before its event waits for it. An example that is
//! deleted leaves a row too: whoever has read it learns by that that it is gone.
//!
//! Rows: `Scored` holds `[0][id]` → [`ScoredRecord`], `[1][id]` → [`WaitingLabel`], `[3][sequence number: u64 BE]` →
//! the number of the example that a correction replaces, and `[5][number of the next example: u64 BE][number: u64 BE]` →
//! the number of an example that was deleted before that one came; `Examples` holds `[sequence number: u64 BE]` →
//! [`Example`]. Each value starts with its time, by which it expires.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use millrace_feature_store::{
    Commit, Store, StoreError, Table, decode, encode, time_bytes, try_scan,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// An event that was scored, and its label once that is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredRecord {
    /// Event time, µs.
    pub event_time_us: i64,
    /// What the model saw, NaN where missing.
    pub inputs: Vec<f32>,
    /// Tells inputs of one meaning from those of another.
    pub inputs_tag: u32,
    /// The probability that was answered; none before there was a model.
    pub probability: Option<f32>,
    /// The version that answered, 0 before there was a model.
    pub version: u64,
    /// The label and its example, once known.
    label: Option<Label>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Label {
    fraud: bool,
    example: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct WaitingLabel {
    known_us: i64,
    fraud: bool,
}

/// A scored event with its label: what the model learns from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// When the label became known, in the order of the sequence: never before the example in front, µs.
    pub known_us: i64,
    /// The event's own time, µs.
    pub event_time_us: i64,
    /// What the model saw, NaN where missing.
    pub inputs: Vec<f32>,
    /// Tells inputs of one meaning from those of another.
    pub inputs_tag: u32,
    /// The label.
    pub fraud: bool,
    /// The probability that was answered when the event came.
    pub probability: Option<f32>,
    /// The version that answered.
    pub version: u64,
}

/// What became of labels, by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// Joined to a scored event: new examples.
    pub joined: u64,
    /// Came before their event, and wait for it.
    pub waiting: u64,
    /// Delivered before.
    pub duplicate: u64,
    /// Said the opposite of an earlier one.
    pub corrected: u64,
}

/// The join's own position, kept with the rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Position {
    next_example: u64,
    known_us: i64,
    waiting: u64,
}

const POSITION: &[u8] = b"labels";

/// The join, between steps.
pub struct LabelJoin {
    position: Position,
}

/// The join within one step: what it adds is committed with the step, or not at all.
pub struct JoinStep<'a> {
    store: &'a dyn Store,
    position: Position,
    /// None where an event was deleted.
    scored: HashMap<Vec<u8>, Option<ScoredRecord>>,
    /// Labels that wait since this step; none where one waits no longer.
    waiting: BTreeMap<Vec<u8>, Option<WaitingLabel>>,
    /// The step's examples, by number; none where one is dropped.
    examples: BTreeMap<u64, Option<Example>>,
    /// Labels that were heard in the step and are not numbered yet, as they came.
    heard: Vec<Heard>,
    /// What is not looked for within the step.
    commit: Commit,
    counts: LabelCounts,
}

/// A label that was heard.
struct Heard {
    id: Vec<u8>,
    fraud: bool,
    known_us: i64,
}

impl LabelJoin {
    /// Goes on where the store stands.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn open(store: &dyn Store) -> Result<Self, StoreError> {
        let position = match store.get(Table::Meta, POSITION)? {
            Some(bytes) => decode(&bytes)?,
            None => Position {
                next_example: 1,
                known_us: i64::MIN,
                waiting: 0,
            },
        };
        Ok(Self { position })
    }

    /// Begins a step.
    pub fn begin<'a>(&self, store: &'a dyn Store) -> JoinStep<'a> {
        JoinStep {
            store,
            position: self.position,
            scored: HashMap::new(),
            waiting: BTreeMap::new(),
            examples: BTreeMap::new(),
            heard: Vec::new(),
            commit: Commit::default(),
            counts: LabelCounts::default(),
        }
    }

    /// Sequence number of the next example.
    #[must_use]
    pub fn next_example(&self) -> u64 {
        self.position.next_example
    }
}

impl JoinStep<'_> {
    /// Notes that an event was scored. Its label may wait already. True where the event is new: it is not a second
    /// delivery of one that was scored.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn scored(&mut self, id: &[u8], mut record: ScoredRecord) -> Result<bool, StoreError> {
        let before = self.find(id)?;
        let is_new = before
            .as_ref()
            .is_none_or(|before| before.event_time_us != record.event_time_us);
        if let Some(before) = before {
            // A second delivery or a replay: the label that was learned stays learned.
            record.label = before.label;
        }
        self.scored.insert(id.to_vec(), Some(record));
        if let Some(label) = self.take_waiting(id)? {
            self.label(id, label.fraud, label.known_us);
        }
        Ok(is_new)
    }

    /// Notes a label that became known at a time (µs). It is numbered when the step ends, or something is forgotten.
    pub fn label(&mut self, id: &[u8], fraud: bool, known_us: i64) {
        self.heard.push(Heard {
            id: id.to_vec(),
            fraud,
            known_us,
        });
    }

    /// Joins the labels that were heard, in the order in which they became known.
    fn settle(&mut self) -> Result<(), StoreError> {
        let heard = std::mem::take(&mut self.heard);
        let mut newest: HashMap<&[u8], i64> = HashMap::with_capacity(heard.len());
        let mut order = Vec::with_capacity(heard.len());
        for (at, label) in heard.iter().enumerate() {
            // The last of an event's labels is what counts: none passes one that came before.
            let known = newest.entry(&label.id).or_insert(label.known_us);
            *known = label.known_us.max(*known);
            order.push((*known, at));
        }
        order.sort_unstable();
        for (_, at) in order {
            let label = &heard[at];
            self.join(&label.id, label.fraud, label.known_us)?;
        }
        Ok(())
    }

    fn join(&mut self, id: &[u8], fraud: bool, known_us: i64) -> Result<(), StoreError> {
        let Some(mut record) = self.find(id)? else {
            return self.wait(id, WaitingLabel { known_us, fraud });
        };
        match record.label {
            Some(label) if label.fraud == fraud => {
                self.counts.duplicate += 1;
                return Ok(());
            }
            Some(label) => {
                self.counts.corrected += 1;
                let example = self.correct(label.example, fraud, known_us)?;
                record.label = Some(Label { fraud, example });
            }
            None => {
                self.counts.joined += 1;
                let example = self.add_example(&record, fraud, known_us);
                record.label = Some(Label { fraud, example });
            }
        }
        self.scored.insert(id.to_vec(), Some(record));
        Ok(())
    }

    /// Forgets a scored event that was deleted, and its example. A model that has learned that keeps what it learned.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn forget_event(&mut self, id: &[u8]) -> Result<(), StoreError> {
        self.settle()?;
        if let Some(record) = self.find(id)? {
            self.scored.insert(id.to_vec(), None);
            if let Some(label) = record.label {
                self.forget_example(label.example, record.event_time_us)?;
            }
        }
        Ok(())
    }

    /// Forgets a label that was deleted, and its example: the event waits for another.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn forget_label(&mut self, id: &[u8]) -> Result<(), StoreError> {
        self.settle()?;
        self.take_waiting(id)?;
        if let Some(mut record) = self.find(id)?
            && let Some(label) = record.label.take()
        {
            self.forget_example(label.example, record.event_time_us)?;
            self.scored.insert(id.to_vec(), Some(record));
        }
        Ok(())
    }

    /// Drops an example that was deleted, and leaves a row for those who have read it.
    fn forget_example(&mut self, number: u64, event_time_us: i64) -> Result<(), StoreError> {
        self.examples.insert(number, None);
        // The row stays for as long as the event would, at least.
        let time_us = self.position.known_us.max(event_time_us);
        let key = deletion_key(self.position.next_example, number);
        self.commit
            .put(Table::Scored, key, timed(time_us, &number)?);
        Ok(())
    }

    /// Moves the step's rows into a commit; `join` goes on from there once that is committed.
    ///
    /// # Errors
    /// A store that cannot be read, or a record that cannot be encoded.
    pub fn finish(
        mut self,
        join: &mut LabelJoin,
        commit: &mut Commit,
    ) -> Result<LabelCounts, StoreError> {
        self.settle()?;
        for (id, label) in self.waiting {
            let value = label.map(|label| timed(label.known_us, &label));
            let key = key(WAITING, &id);
            put_or_delete(&mut self.commit, Table::Scored, key, value.transpose()?);
        }
        for (number, example) in self.examples {
            let value = example.map(|example| timed(example.known_us, &example));
            let key = number.to_be_bytes().to_vec();
            put_or_delete(&mut self.commit, Table::Examples, key, value.transpose()?);
        }
        for (id, record) in self.scored {
            let value = record.map(|record| timed(record.event_time_us, &record));
            let key = key(SCORED, &id);
            put_or_delete(&mut self.commit, Table::Scored, key, value.transpose()?);
        }
        if self.position != join.position {
            self.commit
                .put(Table::Meta, POSITION, encode(&self.position)?);
        }
        commit.puts.append(&mut self.commit.puts);
        commit.deletes.append(&mut self.commit.deletes);
        join.position = self.position;
        Ok(self.counts)
    }

    fn find(&self, id: &[u8]) -> Result<Option<ScoredRecord>, StoreError> {
        match self.scored.get(id) {
            Some(record) => Ok(record.clone()),
            None => read(self.store, Table::Scored, &key(SCORED, id)),
        }
    }

    fn wait(&mut self, id: &[u8], label: WaitingLabel) -> Result<(), StoreError> {
        if self.find_waiting(id)?.is_some() {
            self.counts.duplicate += 1;
        } else {
            self.counts.waiting += 1;
            self.position.waiting += 1;
        }
        self.waiting.insert(id.to_vec(), Some(label));
        Ok(())
    }

    /// Takes the label that waits for an event, where one does.
    fn take_waiting(&mut self, id: &[u8]) -> Result<Option<WaitingLabel>, StoreError> {
        if self.position.waiting == 0 {
            return Ok(None);
        }
        let label = self.find_waiting(id)?;
        if label.is_some() {
            self.waiting.insert(id.to_vec(), None);
            self.position.waiting -= 1;
        }
        Ok(label)
    }

    fn find_waiting(&self, id: &[u8]) -> Result<Option<WaitingLabel>, StoreError> {
        match self.waiting.get(id) {
            Some(label) => Ok(*label),
            None => read(self.store, Table::Scored, &key(WAITING, id)),
        }
    }

    fn add_example(&mut self, record: &ScoredRecord, fraud: bool, known_us: i64) -> u64 {
        self.append(Example {
            known_us,
            event_time_us: record.event_time_us,
            inputs: record.inputs.clone(),
            inputs_tag: record.inputs_tag,
            fraud,
            probability: record.probability,
            version: record.version,
        })
    }

    /// Adds an example at the end of the sequence. Its number.
    fn append(&mut self, example: Example) -> u64 {
        let number = self.position.next_example;
        self.position.next_example += 1;
        self.position.known_us = self.position.known_us.max(example.known_us);
        let known_us = self.position.known_us;
        let example = Example {
            known_us,
            ..example
        };
        self.examples.insert(number, Some(example));
        number
    }

    /// Replaces an example by one with the opposite label. Its number.
    fn correct(&mut self, number: u64, fraud: bool, known_us: i64) -> Result<u64, StoreError> {
        let example = match self.examples.get(&number) {
            Some(example) => example.clone(),
            None => read(self.store, Table::Examples, &number.to_be_bytes())?,
        };
        let Some(example) = example else {
            // It has expired.
            return Ok(number);
        };
        self.examples.insert(number, None);
        let corrected = self.append(Example {
            fraud,
            known_us,
            ..example
        });
        let replaced = timed(self.position.known_us, &number)?;
        self.commit
            .put(Table::Scored, correction_key(corrected), replaced);
        Ok(corrected)
    }
}

impl ScoredRecord {
    /// A scored event whose label is not known yet.
    #[must_use]
    pub fn new(event_time_us: i64, inputs: &[f32], inputs_tag: u32) -> Self {
        Self {
            event_time_us,
            inputs: inputs.to_vec(),
            inputs_tag,
            probability: None,
            version: 0,
            label: None,
        }
    }

    /// Adds what a model answered.
    #[must_use]
    pub fn answered(mut self, probability: Option<f32>, version: u64) -> Self {
        self.probability = probability;
        self.version = version;
        self
    }
}

/// The scored event of an id, where it is still waiting or has not expired.
///
/// # Errors
/// A store that cannot be read.
pub fn scored_record(store: &dyn Store, id: &[u8]) -> Result<Option<ScoredRecord>, StoreError> {
    read(store, Table::Scored, &key(SCORED, id))
}

/// Shows the examples with a sequence number above `after`, in order, until `visit` returns false.
///
/// # Errors
/// A store that cannot be read, or an example that does not decode.
pub fn examples_after(
    store: &dyn Store,
    after: u64,
    visit: &mut dyn FnMut(u64, Example) -> bool,
) -> Result<(), StoreError> {
    let from = (after + 1).to_be_bytes();
    walk(store, Table::Examples, &from, &[], &mut |key, example| {
        let number = number_of(key, "an example's key is not 8 bytes")?;
        Ok(match visit(number, example) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    })
}

/// Shows the examples of corrected labels with a sequence number above `after`, up to `until`, in order: the number, and
/// that of the example whose place it took.
///
/// # Errors
/// A store that cannot be read, or a row that does not decode.
pub fn corrections_between(
    store: &dyn Store,
    after: u64,
    until: u64,
    visit: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    let (from, end) = (
        correction_key(after.saturating_add(1)),
        correction_key(until.saturating_add(1)),
    );
    walk(store, Table::Scored, &from, &end, &mut |key, replaced| {
        let number = number_of(&key[1..], "a correction's key is not 9 bytes")?;
        visit(number, replaced);
        Ok(ControlFlow::Continue(()))
    })
}

/// Shows the numbers of the examples that were deleted since the one with the number `after` was the newest; the same
/// ones again until there is a newer one.
///
/// # Errors
/// A store that cannot be read, or a row that does not decode.
pub fn deletions_after(
    store: &dyn Store,
    after: u64,
    visit: &mut dyn FnMut(u64),
) -> Result<(), StoreError> {
    let from = key(DELETED, &after.saturating_add(1).to_be_bytes());
    let end = [DELETED + 1];
    walk(store, Table::Scored, &from, &end, &mut |_, number| {
        visit(number);
        Ok(ControlFlow::Continue(()))
    })
}

/// The keys of all scored events, from the first on, to that of what follows them.
pub(crate) const SCORED_START: &[u8] = &[SCORED];
pub(crate) const SCORED_END: &[u8] = &[WAITING];

const SCORED: u8 = 0;
const WAITING: u8 = 1;
/// 2 is that of the rows that an audit compares, and 4 of the events that it has seen.
const CORRECTED: u8 = 3;
const DELETED: u8 = 5;

fn key(kind: u8, id: &[u8]) -> Vec<u8> {
    [&[kind], id].concat()
}

fn correction_key(number: u64) -> Vec<u8> {
    key(CORRECTED, &number.to_be_bytes())
}

fn deletion_key(next: u64, number: u64) -> Vec<u8> {
    [&[DELETED][..], &next.to_be_bytes(), &number.to_be_bytes()].concat()
}

fn put_or_delete(commit: &mut Commit, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        Some(value) => commit.put(table, key, value),
        None => commit.delete(table, key),
    }
}

fn timed<T: Serialize>(time_us: i64, record: &T) -> Result<Vec<u8>, StoreError> {
    let mut value = time_bytes(time_us).to_vec();
    value.extend_from_slice(&encode(record)?);
    Ok(value)
}

fn read<T: DeserializeOwned>(
    store: &dyn Store,
    table: Table,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    store
        .get(table, key)?
        .map(|value| parse(&value))
        .transpose()
}

/// Shows rows of a table with what they hold, in the order of their keys, until `visit` breaks off or one fails.
fn walk<T: DeserializeOwned>(
    store: &dyn Store,
    table: Table,
    from: &[u8],
    to_exclusive: &[u8],
    visit: &mut dyn FnMut(&[u8], T) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    try_scan(store, table, from, to_exclusive, &mut |key, value| {
        visit(key, parse(value)?)
    })
}

/// The sequence number that a key is; what is wrong if it is none.
fn number_of(key: &[u8], wrong: &str) -> Result<u64, StoreError> {
    let bytes = <[u8; 8]>::try_from(key);
    bytes
        .map(u64::from_be_bytes)
        .map_err(|_| StoreError::Record(wrong.to_owned()))
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, StoreError> {
    let record = value
        .get(8..)
        .ok_or_else(|| StoreError::Record("no time in front".to_owned()))?;
    decode(record)
}

#[cfg(test)]
mod tests;
