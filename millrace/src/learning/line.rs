//! The versions that score labels again which others have scored before: those that served then, by the log, as far as
//! they are kept.
//!
//! Where the traffic was taken back, or a person has moved it, the scores of what served before say nothing of what goes
//! on: older labels are scored by the versions that lead to the one that serves since.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_learner::{Examples, LearnerError, Made, Model};

use super::Learning;
use super::history::History;
use super::past::Past;
use crate::failure::Outcome;

/// Versions that score labels again, at most. Of more, the newest half stays, and of the others one in so many.
const RECALLED: usize = 32;

/// What is known of those who learned before: the log, and the versions that score labels again. Several lines have the
/// same ones, and a version in an object store is some requests: each is loaded once.
pub(super) struct Known {
    pub(super) past: Past,
    /// None of a version that is gone or damaged.
    models: BTreeMap<u64, Option<Arc<Model>>>,
}

impl Known {
    pub(super) fn of(past: Past) -> Self {
        Self {
            past,
            models: BTreeMap::new(),
        }
    }
}

/// Versions by the number of a label, ascending: each scores those after it. It has learned none of them.
#[derive(Default)]
pub(super) struct Line(Vec<(u64, Arc<Model>)>);

/// Rows that one version scores.
pub(super) struct Run<'a> {
    pub(super) model: &'a Model,
    pub(super) rows: &'a [(u64, usize)],
    /// The examples of these rows.
    pub(super) labels: Examples,
}

impl Line {
    /// Rows in runs, each with the version that scores them. A row has a label's number before it, by which rows ascend;
    /// the first ones, which no version scores, are left out.
    pub(super) fn runs<'a>(
        &'a self,
        history: &'a History,
        rows: &'a [(u64, usize)],
    ) -> impl Iterator<Item = Outcome<Run<'a>>> + 'a {
        let runs = rows.chunk_by(move |a, b| self.before(a.0) == self.before(b.0));
        runs.filter_map(move |rows| {
            let model = self.model_of(rows.first()?.0)?;
            let labels = history.unweighted(rows.iter().map(|(_, row)| *row));
            Some(labels.map(|labels| Run {
                model,
                rows,
                labels,
            }))
        })
    }

    /// The version that scores a label, if one is left that has not learned it.
    pub(super) fn model_of(&self, number: u64) -> Option<&Model> {
        let newest = self.before(number).checked_sub(1)?;
        self.0.get(newest).map(|(_, model)| model.as_ref())
    }

    /// How many versions score a label or older ones.
    fn before(&self, number: u64) -> usize {
        self.0.partition_point(|(position, _)| *position < number)
    }
}

impl Learning {
    /// The versions for labels from a number on.
    ///
    /// # Errors
    /// A registry that cannot be read.
    pub(super) fn line(&self, oldest: u64, known: &mut Known) -> Outcome<Line> {
        let Some(champion) = &self.champion else {
            return Ok(Line::default());
        };
        let serving = champion.manifest.version;
        let past = &known.past;
        let reigns = past.reigns.since_moved();
        let is_known = reigns
            .last()
            .is_some_and(|(_, version)| *version == serving);
        let versions = match reigns.split_first() {
            Some((first, later)) if is_known && oldest <= first.0 => {
                let mut versions = self.line_to(first.1, oldest, past)?;
                versions.extend(later);
                versions
            }
            Some(_) if is_known => reigns.to_vec(),
            _ => self.line_to(serving, oldest, past)?,
        };
        self.load_line(versions, oldest, known)
    }

    /// The versions that served, for labels from a number on, whatever was taken back since.
    ///
    /// # Errors
    /// A registry that cannot be read.
    pub(super) fn served_line(&self, oldest: u64, known: &mut Known) -> Outcome<Line> {
        let served = known.past.reigns.all().to_vec();
        match served.is_empty() {
            true => self.line(oldest, known),
            false => self.load_line(served, oldest, known),
        }
    }

    /// Loads versions, each of which scores the labels after a number.
    fn load_line(
        &self,
        mut versions: Vec<(u64, u64)>,
        oldest: u64,
        known: &mut Known,
    ) -> Outcome<Line> {
        let needed = versions.partition_point(|(after, _)| *after < oldest);
        versions.drain(..needed.saturating_sub(1));
        let mut line = Vec::new();
        let mut from = 0;
        for (after, version) in thinned(versions) {
            let Some(made) = self.made_of(version, &known.past)? else {
                continue;
            };
            // Where one is gone, the one before it stands for it: it has not learned the labels either.
            if let Some(model) = self.model_of(version, known)? {
                // Logs of older releases do not say what was learned when.
                from = after.max(made.label_position).max(from);
                line.push((from, model));
            }
        }
        Ok(Line(line))
    }

    /// A version, if it is there and whole.
    fn model_of(&self, version: u64, known: &mut Known) -> Outcome<Option<Arc<Model>>> {
        if let Some(model) = known.models.get(&version) {
            return Ok(model.clone());
        }
        let champion = self.champion.as_ref();
        let champion = champion.filter(|champion| champion.manifest.version == version);
        let model = match champion {
            Some(champion) => Some(champion.model.clone()),
            None => self.load_if_whole(version)?.map(|held| held.model),
        };
        let model = model.map(Arc::new);
        known.models.insert(version, model.clone());
        Ok(model)
    }

    /// Label positions and numbers of the versions that lead to one, in order: from the last that had not learned a label
    /// on.
    fn line_to(&self, version: u64, oldest: u64, past: &Past) -> Outcome<Vec<(u64, u64)>> {
        let mut line = Vec::new();
        let mut next = Some(version);
        while let Some(version) = next {
            let Some(made) = self.made_of(version, past)? else {
                break;
            };
            line.push((made.label_position, version));
            if made.label_position < oldest {
                break;
            }
            next = made.parent.filter(|parent| *parent < version);
        }
        line.reverse();
        Ok(line)
    }

    /// What a version was made of, if it is kept: by the log, or by its manifest where an older release has noted less.
    fn made_of(&self, version: u64, past: &Past) -> Outcome<Option<Made>> {
        if let Some(made) = past.kept(version) {
            return Ok(Some(*made));
        }
        match self.registry.manifest(version) {
            Ok(manifest) => Ok(Some(manifest.made())),
            Err(LearnerError::NoSuchVersion { .. } | LearnerError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Some of many versions: the first and the newest ones are among them.
fn thinned(versions: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    if versions.len() <= RECALLED {
        return versions;
    }
    let older = versions.len() - RECALLED / 2;
    let step = older.div_ceil(RECALLED / 2);
    let versions = versions.into_iter().enumerate();
    let kept = versions.filter(|(at, _)| *at >= older || at.is_multiple_of(step));
    kept.map(|(_, version)| version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_versions_the_first_and_the_newest_stay() {
        let versions = |count: u64| (0..count).map(|at| (10 * at, at)).collect::<Vec<_>>();
        assert_eq!(thinned(versions(32)), versions(32));
        let kept = thinned(versions(100));
        assert!(kept.len() <= RECALLED, "{}", kept.len());
        assert_eq!(kept[..2], [(0, 0), (60, 6)]);
        assert_eq!(kept[kept.len() - 16..], versions(100)[84..]);
    }
}
