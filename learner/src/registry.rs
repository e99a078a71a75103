//! Versions of a model as folders under one root:
//!
//! ```text
//!   models/
//!     v000001/  weights.safetensors  encoder.json  optimizer.safetensors  manifest.json
//!     v000002/  …
//!     champion       the number of the version that takes traffic
//!     challenger     the number of the version that is tested, and its share of the traffic in percent
//!     journal.jsonl  what became of each version, line by line
//! ```
//!
//! A version is written into a hidden folder beside the others, forced to disk, and renamed: it is
//! there whole or not at all. A version never changes. Which one should take traffic is decided
//! elsewhere; here the decision is only kept.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, io};
use crate::error::LearnerError;
use crate::journal::{Entry, Event, Journal, State};
use crate::manifest::Manifest;

const MANIFEST: &str = "manifest.json";
const CHAMPION: &str = "champion";
const CHALLENGER: &str = "challenger";
const JOURNAL: &str = "journal.jsonl";

/// A folder of model versions. Many processes may read it; one at a time may write.
#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
    /// Whether what is written is forced to disk.
    durable: bool,
}

impl Registry {
    /// Opens a registry, and makes its folder if there is none.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the folder cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LearnerError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|source| io("create", &root, source))?;
        Ok(Self {
            root,
            durable: true,
        })
    }

    /// Opens a registry that need not outlive a power cut: a simulation's.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the folder cannot be made.
    pub fn open_volatile(root: impl Into<PathBuf>) -> Result<Self, LearnerError> {
        let registry = Self::open(root)?;
        Ok(Self {
            durable: false,
            ..registry
        })
    }

    /// Notes what became of a version or of labels.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the journal cannot be written.
    pub fn note(&self, entry: &Entry) -> Result<(), LearnerError> {
        self.journal().add(entry)
    }

    /// Everything that was noted, oldest first.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the journal cannot be read.
    pub fn journal_entries(&self) -> Result<Vec<Entry>, LearnerError> {
        self.journal().entries()
    }

    /// Where a version is in its life, and why; none for one that the journal does not know.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the journal cannot be read.
    pub fn state(&self, version: u64) -> Result<Option<(State, Option<String>)>, LearnerError> {
        let entries = self.journal_entries()?;
        let newest = entries
            .into_iter()
            .rev()
            .find_map(|entry| match entry.event {
                Event::Version {
                    version: of, state, ..
                } if of == version => Some((state, entry.reason)),
                _ => None,
            });
        Ok(newest)
    }

    fn journal(&self) -> Journal {
        Journal {
            file: self.root.join(JOURNAL),
            durable: self.durable,
        }
    }

    /// The manifests of all versions, oldest first.
    ///
    /// # Errors
    /// [`LearnerError::Damaged`] or [`LearnerError::Io`], which name the file.
    pub fn list(&self) -> Result<Vec<Manifest>, LearnerError> {
        let versions = self.versions()?;
        versions.into_iter().map(|v| self.manifest(v)).collect()
    }

    /// The numbers of all versions, ascending.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the folder cannot be read.
    pub fn versions(&self) -> Result<Vec<u64>, LearnerError> {
        let failed = |source| io("read", &self.root, source);
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            versions.extend(name.to_str().and_then(parse_version));
        }
        versions.sort_unstable();
        Ok(versions)
    }

    /// The manifest of one version.
    ///
    /// # Errors
    /// [`LearnerError::NoSuchVersion`], and those of [`Registry::list`].
    pub fn manifest(&self, version: u64) -> Result<Manifest, LearnerError> {
        let folder = self.folder(version);
        if !folder.is_dir() {
            return Err(self.no_such_version(version));
        }
        let file = folder.join(MANIFEST);
        let text = fs::read(&file).map_err(|source| io("read", &file, source))?;
        let manifest = match serde_json::from_slice::<Manifest>(&text) {
            Ok(manifest) => manifest,
            Err(error) => return Err(damaged(file, error.to_string())),
        };
        if manifest.version != version {
            let reason = format!("it describes version {}", manifest.version);
            return Err(damaged(file, reason));
        }
        Ok(manifest)
    }

    /// A version's manifest and checkpoint.
    ///
    /// # Errors
    /// Those of [`Registry::manifest`] and [`Checkpoint::open`].
    pub fn load(&self, version: u64) -> Result<(Manifest, Checkpoint), LearnerError> {
        let manifest = self.manifest(version)?;
        let checkpoint = Checkpoint::open(&self.folder(version))?;
        let (inputs, width) = (manifest.inputs.len(), checkpoint.encoder().width());
        if inputs != width {
            let reason = format!("it names {inputs} inputs and the encoder has {width}");
            return Err(damaged(self.folder(version).join(MANIFEST), reason));
        }
        Ok((manifest, checkpoint))
    }

    /// Adds a version and returns its number, which is one above the highest; the manifest's own
    /// `version` is not read. When this returns, the version is on disk.
    ///
    /// # Errors
    /// [`LearnerError::Io`]; no version is added then.
    pub fn publish(
        &self,
        manifest: Manifest,
        checkpoint: &Checkpoint,
    ) -> Result<u64, LearnerError> {
        let version = self.versions()?.last().copied().unwrap_or(0) + 1;
        let draft = self.root.join(format!(".draft-v{version:06}"));
        let manifest = Manifest {
            version,
            ..manifest
        };
        let written = self
            .write_version(&draft, &manifest, checkpoint)
            .and_then(|()| rename(&draft, &self.folder(version)))
            .and_then(|()| self.sync_folder(&self.root));
        if written.is_err() {
            // The draft is hidden and the next one replaces it: failing to remove it does no harm.
            let _ = fs::remove_dir_all(&draft);
        }
        written.map(|()| version)
    }

    /// The version that takes traffic, if one was chosen.
    ///
    /// # Errors
    /// [`LearnerError::Damaged`] if the file holds no number.
    pub fn champion(&self) -> Result<Option<u64>, LearnerError> {
        let file = self.root.join(CHAMPION);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", &file, source)),
        };
        match text.trim().parse() {
            Ok(version) => Ok(Some(version)),
            Err(_) => Err(damaged(file, format!("{:?} is not a version", text.trim()))),
        }
    }

    /// The version that is tested beside the champion, and for how many of a hundred entities it answers.
    ///
    /// # Errors
    /// [`LearnerError::Damaged`] if the file does not hold two numbers.
    pub fn challenger(&self) -> Result<Option<(u64, u8)>, LearnerError> {
        let file = self.root.join(CHALLENGER);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", &file, source)),
        };
        let parsed = text.trim().split_once(' ').and_then(|(version, percent)| {
            let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
            Some((version.parse().ok()?, percent))
        });
        match parsed {
            Some(challenger) => Ok(Some(challenger)),
            None => Err(damaged(
                file,
                format!("{:?} is no version and share", text.trim()),
            )),
        }
    }

    /// Makes a version the challenger, or leaves none. A reader sees the old one or the new one.
    ///
    /// # Errors
    /// [`LearnerError::NoSuchVersion`] and [`LearnerError::Io`]; the old one stays then.
    pub fn set_challenger(&self, challenger: Option<(u64, u8)>) -> Result<(), LearnerError> {
        let file = self.root.join(CHALLENGER);
        let Some((version, percent)) = challenger else {
            return match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(io("remove", &file, error))
                }
                _ => self.sync_folder(&self.root),
            };
        };
        if !self.folder(version).is_dir() {
            return Err(self.no_such_version(version));
        }
        let draft = self.root.join(format!(".draft-{CHALLENGER}"));
        self.write_file(&draft, format!("{version} {percent}\n").as_bytes())?;
        rename(&draft, &file)?;
        self.sync_folder(&self.root)
    }

    /// Makes a version the one that takes traffic. A reader sees the old number or the new one.
    ///
    /// # Errors
    /// [`LearnerError::NoSuchVersion`] and [`LearnerError::Io`]; the old champion stays then.
    pub fn set_champion(&self, version: u64) -> Result<(), LearnerError> {
        if !self.folder(version).is_dir() {
            return Err(self.no_such_version(version));
        }
        let draft = self.root.join(format!(".draft-{CHAMPION}"));
        self.write_file(&draft, format!("{version}\n").as_bytes())?;
        rename(&draft, &self.root.join(CHAMPION))?;
        self.sync_folder(&self.root)
    }

    /// Removes all versions but the `newest` newest, the champion and the challenger, and returns the numbers of
    /// the removed ones.
    ///
    /// # Errors
    /// [`LearnerError::Io`]; some versions may be gone by then.
    pub fn retain(&self, newest: usize) -> Result<Vec<u64>, LearnerError> {
        let champion = self.champion()?;
        let mut versions = self.versions()?;
        versions.truncate(versions.len().saturating_sub(newest));
        let challenger = self.challenger()?.map(|(version, _)| version);
        versions.retain(|version| ![champion, challenger].contains(&Some(*version)));
        for version in &versions {
            self.remove(*version)?;
        }
        Ok(versions)
    }

    /// Hides a version and then removes it, so that no reader finds half of one.
    fn remove(&self, version: u64) -> Result<(), LearnerError> {
        let hidden = self.root.join(format!(".removed-v{version:06}"));
        remove_folder(&hidden)?;
        rename(&self.folder(version), &hidden)?;
        remove_folder(&hidden)
    }

    fn write_version(
        &self,
        folder: &Path,
        manifest: &Manifest,
        checkpoint: &Checkpoint,
    ) -> Result<(), LearnerError> {
        remove_folder(folder)?;
        fs::create_dir(folder).map_err(|source| io("create", folder, source))?;
        for (name, bytes) in checkpoint.to_files()? {
            self.write_file(&folder.join(name), &bytes)?;
        }
        let text = serde_json::to_vec_pretty(manifest);
        let text = text.map_err(|error| damaged(folder.join(MANIFEST), error.to_string()))?;
        self.write_file(&folder.join(MANIFEST), &text)?;
        self.sync_folder(folder)
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), LearnerError> {
        let written = File::create(path).and_then(|mut file| {
            file.write_all(bytes)?;
            if self.durable {
                file.sync_all()
            } else {
                Ok(())
            }
        });
        written.map_err(|source| io("write", path, source))
    }

    /// Makes renames in a folder last through a power cut. Windows keeps folders by itself and
    /// refuses to open them.
    fn sync_folder(&self, folder: &Path) -> Result<(), LearnerError> {
        if cfg!(windows) || !self.durable {
            return Ok(());
        }
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| io("sync", folder, source))
    }

    fn folder(&self, version: u64) -> PathBuf {
        self.root.join(format!("v{version:06}"))
    }

    fn no_such_version(&self, version: u64) -> LearnerError {
        LearnerError::NoSuchVersion {
            version,
            root: self.root.clone(),
        }
    }
}

/// The version of a folder's name, if it is one that [`Registry::folder`] gives.
fn parse_version(name: &str) -> Option<u64> {
    let version = name.strip_prefix('v')?.parse().ok()?;
    (name == format!("v{version:06}")).then_some(version)
}

fn rename(from: &Path, to: &Path) -> Result<(), LearnerError> {
    fs::rename(from, to).map_err(|source| io("rename to", to, source))
}

/// Removes a folder and what is in it; none is fine too.
fn remove_folder(folder: &Path) -> Result<(), LearnerError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", folder, error)),
        _ => Ok(()),
    }
}

fn damaged(file: PathBuf, reason: String) -> LearnerError {
    LearnerError::Damaged { file, reason }
}
