//! Versions of a model, and which of them have the traffic, on any object store: a folder, S3, GCS.
//!
//! ```text
//!   models/
//!     v000001/  encoder.json  weights.safetensors  optimizer.safetensors  manifest.json
//!     v000002/  …
//!     log/      what was decided: champion, challenger, what became of each version and why
//!     format.json
//!     id.json   what tells it from other registries, once that was asked for
//! ```
//!
//! Many processes may read it and write to it at once. All that is asked of a store is that an object is created
//! whole, and only if there is none of its name:
//!
//! - A version's number belongs to whoever creates its first file, the encoder. Its last one, the manifest, makes it a
//!   version: it is there whole or not at all, and never changes.
//! - What is decided is an entry of the log (`log.rs`), created under the number after the last. Whoever loses a race
//!   for a number decides anew, knowing what the other decided.
//! - A version is removed in the log first, then its manifest, then the rest.
//!
//! Who should have the traffic is decided elsewhere; here the decision is kept.

mod id;
mod import;
mod log;
mod objects;
mod retention;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::LearnerError;
use crate::journal::{Entry, Event, State};
use crate::manifest::Manifest;
use crate::metrics::Metrics;

pub use log::{Aliases, Choice, Decided};
use log::{Log, SEGMENT};
pub use objects::{Drive, Objects, Request};

const MANIFEST: &str = "manifest.json";

/// How often a choice is tried again when the store says that another was there first, and there is none.
const TRIES: usize = 10;

/// A store of model versions. Clones share what was read; a call waits for those of other threads.
#[derive(Debug, Clone)]
pub struct Registry {
    objects: Objects,
    log: Arc<Mutex<Log>>,
    /// What stands under the numbers that were looked at: a version never changes.
    known: Arc<Mutex<BTreeMap<u64, Number>>>,
    /// Versions of which it was said that they are left out, for their manifests cannot be read.
    left_out: Arc<Mutex<BTreeSet<u64>>>,
}

/// What a number of a version stands for.
#[derive(Debug, Clone)]
enum Number {
    Version(Arc<Manifest>),
    /// Whoever had it did not get as far as the manifest. Files may be left that this process has not removed yet.
    Abandoned {
        is_empty: bool,
    },
}

/// In a manifest's place, where a number was given and no version came of it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Abandoned {
    abandoned: bool,
}

impl Registry {
    /// Opens a registry in a folder, and makes the folder if there is none.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the folder cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LearnerError> {
        Ok(Self::on(Objects::folder(&root.into(), true)?))
    }

    /// Opens a registry in a folder that need not outlive a power cut: a simulation's.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the folder cannot be made.
    pub fn open_volatile(root: impl Into<PathBuf>) -> Result<Self, LearnerError> {
        Ok(Self::on(Objects::folder(&root.into(), false)?))
    }

    /// A registry on any store. Nothing is read or written yet.
    #[must_use]
    pub fn on(objects: Objects) -> Self {
        Self::with_segments(objects, SEGMENT)
    }

    fn with_segments(objects: Objects, segment: u64) -> Self {
        Self {
            objects,
            log: Arc::new(Mutex::new(Log::new(segment))),
            known: Arc::default(),
            left_out: Arc::default(),
        }
    }

    /// What messages call it: a folder, or `s3://bucket/prefix`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.objects.name()
    }

    /// Which versions have the traffic. Costs three small requests at once where nothing has changed.
    ///
    /// # Errors
    /// Those of every call that reads the log: [`LearnerError::Store`] where the store does not answer,
    /// [`LearnerError::Damaged`] where a file cannot be understood.
    pub fn aliases(&self) -> Result<Aliases, LearnerError> {
        Ok(self.refreshed()?.decided.aliases)
    }

    /// The version that takes traffic, if one was chosen.
    ///
    /// # Errors
    /// As [`Registry::aliases`].
    pub fn champion(&self) -> Result<Option<u64>, LearnerError> {
        Ok(self.aliases()?.champion)
    }

    /// The version that is tested beside the champion, and for how many of a hundred entities it answers.
    ///
    /// # Errors
    /// As [`Registry::aliases`].
    pub fn challenger(&self) -> Result<Option<(u64, u8)>, LearnerError> {
        Ok(self.aliases()?.challenger)
    }

    /// Everything that was noted, oldest first.
    ///
    /// # Errors
    /// As [`Registry::aliases`].
    pub fn journal_entries(&self) -> Result<Vec<Entry>, LearnerError> {
        self.journal_after(0)
    }

    /// How many notes there are.
    ///
    /// # Errors
    /// As [`Registry::aliases`].
    pub fn journal_len(&self) -> Result<usize, LearnerError> {
        Ok(self.refreshed()?.decided.journal.len())
    }

    /// What was noted after the first `read` notes.
    ///
    /// # Errors
    /// As [`Registry::aliases`].
    pub fn journal_after(&self, read: usize) -> Result<Vec<Entry>, LearnerError> {
        let log = self.refreshed()?;
        Ok(log.decided.journal.get(read..).unwrap_or_default().to_vec())
    }

    /// Where a version is in its life, and why; none for one that the journal does not know.
    ///
    /// # Errors
    /// As [`Registry::aliases`].
    pub fn state(&self, version: u64) -> Result<Option<(State, Option<String>)>, LearnerError> {
        let log = self.refreshed()?;
        let newest = log.decided.journal.iter().rev();
        let mut of_version = newest.filter_map(|entry| match &entry.event {
            Event::Version {
                version: of, state, ..
            } if *of == version => Some((*state, entry.reason.clone())),
            _ => None,
        });
        Ok(of_version.next())
    }

    /// Decides, knowing all that was decided before: `choose` says who has the traffic from now on, or that all stays
    /// as it is. It is asked again where another process has decided meanwhile. What is decided is durable when this
    /// returns, all of it or nothing.
    ///
    /// # Errors
    /// Those of `choose`; [`LearnerError::NoSuchVersion`] for a new champion or challenger that is not there; those of
    /// [`Registry::aliases`]. With [`LearnerError::Store`], the choice may have been kept, and only the answer be lost.
    pub fn decide<E: From<LearnerError>>(
        &self,
        mut choose: impl FnMut(&Decided) -> Result<Option<Choice>, E>,
    ) -> Result<Aliases, E> {
        let mut log = self.lock();
        let mut tries = 0;
        let mut read = None;
        while tries < TRIES {
            log.refresh(&self.objects)?;
            tries = match read == Some(log.decided.entries) {
                true => tries + 1,
                false => 0,
            };
            read = Some(log.decided.entries);
            let Some(choice) = choose(&log.decided)? else {
                return Ok(log.decided.aliases);
            };
            self.check(&log.decided, &choice.aliases)?;
            if log.append(&self.objects, choice)? {
                return Ok(log.decided.aliases);
            }
        }
        Err(E::from(LearnerError::Unsafe {
            root: self.name().to_owned(),
        }))
    }

    /// Makes a version the one that takes traffic.
    ///
    /// # Errors
    /// As [`Registry::decide`].
    pub fn set_champion(&self, version: u64) -> Result<(), LearnerError> {
        self.decide(|decided| {
            Ok::<_, LearnerError>(Some(Choice {
                aliases: Aliases {
                    champion: Some(version),
                    ..decided.aliases
                },
                notes: Vec::new(),
            }))
        })?;
        Ok(())
    }

    /// Notes what became of a version or of labels.
    ///
    /// # Errors
    /// As [`Registry::decide`].
    pub fn note(&self, entry: &Entry) -> Result<(), LearnerError> {
        self.decide(|decided| {
            Ok::<_, LearnerError>(Some(Choice {
                aliases: decided.aliases,
                notes: vec![entry.clone()],
            }))
        })?;
        Ok(())
    }

    /// The manifests of all versions, oldest first, but for those that cannot be read: the log names their files.
    ///
    /// # Errors
    /// As [`Registry::aliases`].
    pub fn list(&self) -> Result<Vec<Manifest>, LearnerError> {
        let versions = self.versions()?;
        let known = lock(&self.known);
        let manifests = versions
            .iter()
            .filter_map(|version| match known.get(version) {
                Some(Number::Version(manifest)) => Some(manifest.as_ref().clone()),
                _ => None,
            });
        Ok(manifests.collect())
    }

    /// The numbers of all versions whose manifests can be read, ascending.
    ///
    /// # Errors
    /// As [`Registry::aliases`].
    pub fn versions(&self) -> Result<Vec<u64>, LearnerError> {
        let numbers = self.numbers()?;
        let removed = self.refreshed()?.decided.removed.clone();
        self.versions_of(&numbers, &removed)
    }

    /// The manifest of one version.
    ///
    /// # Errors
    /// [`LearnerError::NoSuchVersion`], and those of [`Registry::aliases`].
    pub fn manifest(&self, version: u64) -> Result<Manifest, LearnerError> {
        let removed = self.refreshed()?.decided.removed.contains(&version);
        match self.look_at(version)? {
            Some(Number::Version(manifest)) if !removed => Ok(manifest.as_ref().clone()),
            _ => Err(self.no_such_version(version)),
        }
    }

    /// A version's manifest and checkpoint.
    ///
    /// # Errors
    /// Those of [`Registry::manifest`]; [`LearnerError::Damaged`], which names the file.
    pub fn load(&self, version: u64) -> Result<(Manifest, Checkpoint), LearnerError> {
        let manifest = self.manifest(version)?;
        let paths = Checkpoint::FILES.map(|name| path(version, name));
        let files = self.objects.get_all(&paths)?;
        if files.iter().any(Option::is_none)
            && self.objects.get(&path(version, MANIFEST))?.is_none()
        {
            // It was removed meanwhile.
            return Err(self.no_such_version(version));
        }
        let mut files: BTreeMap<_, _> = Checkpoint::FILES.into_iter().zip(files).collect();
        let checkpoint = Checkpoint::from_files(|name| {
            let wrong = |reason: &str| damaged(PathBuf::from(name), reason.to_owned());
            let bytes = files.remove(name).flatten();
            let bytes = bytes.ok_or_else(|| wrong("there is no such file"))?;
            match manifest.sha256.get(name) {
                Some(written) if *written != sha256(&bytes) => {
                    Err(wrong("it is not what was written: its SHA-256 is another"))
                }
                _ => Ok(bytes),
            }
        });
        let checkpoint = checkpoint.map_err(|error| match error {
            LearnerError::Damaged { file, reason } => {
                damaged(self.full(version, &file.to_string_lossy()), reason)
            }
            other => other,
        })?;
        let (inputs, width) = (manifest.inputs.len(), checkpoint.encoder().width());
        if inputs != width {
            let reason = format!("it names {inputs} inputs and the encoder has {width}");
            return Err(damaged(self.full(version, MANIFEST), reason));
        }
        Ok((manifest, checkpoint))
    }

    /// Adds a version and returns its number, which was never given before; the manifest's own `version` and `sha256`
    /// are not read. When this returns, the version is durable.
    ///
    /// # Errors
    /// [`LearnerError::Store`]; no version is added then, unless only the last answer was lost.
    pub fn publish(
        &self,
        manifest: Manifest,
        checkpoint: &Checkpoint,
    ) -> Result<u64, LearnerError> {
        let files = checkpoint.to_files()?;
        let named = |(name, bytes): &(&str, Vec<u8>)| ((*name).to_owned(), sha256(bytes));
        let manifest = Manifest {
            sha256: files.iter().map(named).collect(),
            // JSON has no number that is not finite.
            before: manifest.before.filter(Metrics::is_finite),
            ..manifest
        };
        let mut version = self.highest_number()?;
        loop {
            version += 1;
            let manifest = Manifest {
                version,
                ..manifest.clone()
            };
            if self.write_version(&manifest, &files)? {
                lock(&self.known).insert(version, Number::Version(Arc::new(manifest)));
                return Ok(version);
            }
        }
    }

    /// Writes a version under its number; false where the number is another's.
    fn write_version(
        &self,
        manifest: &Manifest,
        files: &[(&'static str, Vec<u8>)],
    ) -> Result<bool, LearnerError> {
        let version = manifest.version;
        let Some(((claim, claimed), rest)) = files.split_first() else {
            return Err(LearnerError::Bug("a checkpoint has no files".to_owned()));
        };
        self.lock().check_store(&self.objects)?;
        if !self.objects.create(&path(version, claim), claimed)? {
            return Ok(false);
        }
        if self.refreshed()?.decided.removed.contains(&version) {
            // It was given, and its version removed, since the numbers were listed.
            self.objects.delete(&path(version, claim))?;
            return Ok(false);
        }
        for (name, bytes) in rest {
            if !self.objects.create_or_find(&path(version, name), bytes)? {
                return Ok(false);
            }
        }
        let text = serde_json::to_vec_pretty(manifest);
        let text = text.map_err(|e| LearnerError::Bug(e.to_string()))?;
        let is_there = self
            .objects
            .create_or_find(&path(version, MANIFEST), &text)?;
        if !is_there {
            // The number was abandoned meanwhile, for this took too long.
            self.remove_files(version)?;
        }
        Ok(is_there)
    }

    fn remove_files(&self, version: u64) -> Result<(), LearnerError> {
        // The claim last: while there is a file, the number is not given again.
        let mut files = Checkpoint::FILES.iter().rev();
        files.try_for_each(|name| self.objects.delete(&path(version, name)))
    }

    /// All numbers that were given and have files, ascending.
    fn numbers(&self) -> Result<Vec<u64>, LearnerError> {
        let folders = self.objects.list("")?.folders;
        let mut numbers: Vec<u64> = folders.iter().filter_map(|it| parse_version(it)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The highest number that was ever given.
    fn highest_number(&self) -> Result<u64, LearnerError> {
        let highest = self.numbers()?.last().copied();
        let log = self.refreshed()?;
        let removed = log.decided.removed.last().copied();
        Ok(highest.max(removed).unwrap_or(0))
    }

    /// The versions among numbers whose manifests can be read.
    fn versions_of(
        &self,
        numbers: &[u64],
        removed: &BTreeSet<u64>,
    ) -> Result<Vec<u64>, LearnerError> {
        let mut versions: Vec<u64> = numbers.to_vec();
        versions.retain(|number| !removed.contains(number));
        let unknown: Vec<u64> = {
            let known = lock(&self.known);
            let unknown = versions.iter().filter(|number| !known.contains_key(number));
            unknown.copied().collect()
        };
        let paths: Vec<String> = unknown.iter().map(|it| path(*it, MANIFEST)).collect();
        for (number, text) in unknown.into_iter().zip(self.objects.get_all(&paths)?) {
            let Some(text) = text else {
                continue;
            };
            match self.parse(number, &text) {
                Ok(found) => {
                    lock(&self.known).insert(number, found);
                }
                // It fails whoever needs this very version, and no one else.
                Err(error) => {
                    if lock(&self.left_out).insert(number) {
                        tracing::warn!(%error, "version {number} is left out: its manifest cannot be read");
                    }
                }
            }
        }
        let known = lock(&self.known);
        versions.retain(|number| matches!(known.get(number), Some(Number::Version(_))));
        Ok(versions)
    }

    /// What a number stands for; none where there is no such number, or its version is not there yet.
    fn look_at(&self, number: u64) -> Result<Option<Number>, LearnerError> {
        if let Some(found) = lock(&self.known).get(&number) {
            return Ok(Some(found.clone()));
        }
        let Some(text) = self.objects.get(&path(number, MANIFEST))? else {
            return Ok(None);
        };
        let found = self.parse(number, &text)?;
        lock(&self.known).insert(number, found.clone());
        Ok(Some(found))
    }

    fn parse(&self, number: u64, text: &[u8]) -> Result<Number, LearnerError> {
        let file = || self.full(number, MANIFEST);
        match serde_json::from_slice::<Manifest>(text) {
            Ok(manifest) if manifest.version == number => Ok(Number::Version(Arc::new(manifest))),
            Ok(manifest) => {
                let reason = format!("it describes version {}", manifest.version);
                Err(damaged(file(), reason))
            }
            Err(_) if serde_json::from_slice::<Abandoned>(text).is_ok() => {
                Ok(Number::Abandoned { is_empty: false })
            }
            Err(error) => Err(damaged(file(), error.to_string())),
        }
    }

    /// A version that is to take traffic must be there.
    fn check(&self, decided: &Decided, new: &Aliases) -> Result<(), LearnerError> {
        let challenger = |aliases: &Aliases| aliases.challenger.map(|(version, _)| version);
        let old = [decided.aliases.champion, challenger(&decided.aliases)];
        for version in [new.champion, challenger(new)].into_iter().flatten() {
            let is_new = !old.contains(&Some(version));
            let is_there = || {
                let found = self.look_at(version)?;
                let is_version = matches!(found, Some(Number::Version(_)));
                Ok::<_, LearnerError>(is_version && !decided.removed.contains(&version))
            };
            if is_new && !is_there()? {
                return Err(self.no_such_version(version));
            }
        }
        Ok(())
    }

    fn refreshed(&self) -> Result<MutexGuard<'_, Log>, LearnerError> {
        let mut log = self.lock();
        log.refresh(&self.objects)?;
        Ok(log)
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn full(&self, version: u64, name: &str) -> PathBuf {
        self.objects.full(&path(version, name))
    }

    fn no_such_version(&self, version: u64) -> LearnerError {
        LearnerError::NoSuchVersion {
            version,
            root: self.name().to_owned(),
        }
    }
}

/// The path of a version's file.
fn path(version: u64, name: &str) -> String {
    format!("v{version:06}/{name}")
}

/// The version of a folder's name.
fn parse_version(name: &str) -> Option<u64> {
    let version = name.strip_prefix('v')?.parse().ok()?;
    (name == format!("v{version:06}")).then_some(version)
}

/// The SHA-256 of a file's content, in hexadecimal digits.
fn sha256(bytes: &[u8]) -> String {
    let sum = digest(&SHA256, bytes);
    sum.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn damaged(file: PathBuf, reason: String) -> LearnerError {
    LearnerError::Damaged { file, reason }
}

/// What a holder of the lock was about when it panicked was no more than reading on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
