//! Versions that lead to the champion: what scores again labels that others have scored before.

use millrace_learner::{LearnerError, Made, Model};

use super::Learning;
use super::past::Past;
use crate::failure::Outcome;

/// Versions that score labels again, at most.
const RECALLED: usize = 8;

/// Some of the versions that lead to a champion, by the number of the last label that each has learned.
pub(super) struct Line(Vec<(u64, Model)>);

impl Line {
    /// Rows in runs, each with the newest version that had learned none of its labels. A row has a label's number before
    /// it, by which rows ascend; the first ones, which all versions have learned, are left out.
    pub(super) fn runs<'a>(
        &'a self,
        rows: &'a [(u64, usize)],
    ) -> impl Iterator<Item = (&'a Model, &'a [(u64, usize)])> + 'a {
        let runs = rows.chunk_by(move |a, b| self.before(a.0) == self.before(b.0));
        runs.filter_map(move |run| {
            let newest = self.before(run.first()?.0).checked_sub(1)?;
            Some((&self.0.get(newest)?.1, run))
        })
    }

    /// How many versions had not learned a label.
    fn before(&self, number: u64) -> usize {
        self.0.partition_point(|(position, _)| *position < number)
    }
}

impl Learning {
    /// The champion's line for labels from a number on.
    ///
    /// # Errors
    /// A registry that cannot be read.
    pub(super) fn line(&self, oldest: u64, past: &Past) -> Outcome<Line> {
        let mut line = Vec::new();
        for (position, version) in self.line_of_champion(oldest, past)? {
            let champion = self.champion.as_ref();
            let champion = champion.filter(|champion| champion.manifest.version == version);
            let model = match champion {
                Some(champion) => Some(champion.model.clone()),
                // Where one is gone, the one before it stands for it: it has not learned the labels either.
                None => self.load_if_whole(version)?.map(|held| held.model),
            };
            line.extend(model.map(|model| (position, model)));
        }
        Ok(Line(line))
    }

    /// Label positions and numbers of versions that lead to the champion, in order: from the last that had not learned a
    /// label on.
    fn line_of_champion(&self, oldest: u64, past: &Past) -> Outcome<Vec<(u64, u64)>> {
        let Some(champion) = &self.champion else {
            return Ok(Vec::new());
        };
        let champion = &champion.manifest;
        let mut line = vec![(champion.label_position, champion.version)];
        let mut next = champion.parent;
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
        let step = line.len().div_ceil(RECALLED).max(1);
        Ok(line.into_iter().rev().step_by(step).collect())
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
