//! A person's choices of which version takes the traffic: what `millrace models` and `ModelService` both do.
//!
//! A choice is written to the registry; processes that serve follow it (`Scorer::follow`, `Learning::follow`).

use millrace_learner::{
    Aliases, Cause, Choice, Decided, Entry, Event, LearnerError, Registry, State,
};

use crate::failure::{Failure, Outcome, damaged_version};
use crate::times::now_us;
use crate::workspace::ModelPlan;

/// Gives a version all of the traffic, and says what was done. `plan` has the inputs that it is to have.
///
/// # Errors
/// A version that is not there, cannot be loaded or has other inputs; a registry that cannot be written.
pub fn promote(registry: &Registry, plan: Option<&ModelPlan>, version: u64) -> Outcome<String> {
    check_fit(registry, plan, version)?;
    let mut said = String::new();
    decide(registry, |decided| {
        let before = decided.aliases.champion;
        if before == Some(version) {
            let Some((other, percent)) = share(&decided.aliases) else {
                said = format!("version {version} has all of the traffic already");
                return Ok(None);
            };
            said = format!(
                "version {version} has all of the traffic: version {other} had {percent}% of it"
            );
            return Ok(Some(all_to(decided, version, Vec::new())));
        }
        let named = before.map(|before| format!("version {before}"));
        said = format!(
            "version {version} serves in place of {}",
            named.as_deref().unwrap_or("no version")
        );
        let replaced = before.map(|before| note(before, State::Replaced));
        let notes = replaced.into_iter().chain([note(version, State::Champion)]);
        Ok(Some(all_to(decided, version, notes.collect())))
    })?;
    Ok(said)
}

/// Gives the traffic back to a version that had it before: the one asked for, or the last.
///
/// # Errors
/// No such version, one that cannot be loaded or has other inputs; a registry that cannot be written.
pub fn roll_back(
    registry: &Registry,
    plan: Option<&ModelPlan>,
    to: Option<u64>,
) -> Outcome<String> {
    let known = registry.versions()?;
    let mut said = String::new();
    let mut whole = None;
    loop {
        // Which version it is, is known when all that was decided is; nothing is decided until it was loaded once.
        let mut unseen = None;
        decide(registry, |decided| {
            unseen = None;
            let (bad, good) = back(decided, to, &known)?;
            if whole != Some(good) {
                unseen = Some(good);
                return Ok(None);
            }
            said = format!("version {good} serves again; version {bad} was rolled back");
            let notes = vec![note(bad, State::RolledBack), note(good, State::Champion)];
            Ok(Some(all_to(decided, good, notes)))
        })?;
        let Some(version) = unseen else {
            return Ok(said);
        };
        check_fit(registry, plan, version)?;
        whole = Some(version);
    }
}

/// The champion, and the version that the traffic goes back to.
fn back(decided: &Decided, to: Option<u64>, known: &[u64]) -> Outcome<(u64, u64)> {
    let Some(bad) = decided.aliases.champion else {
        return Err(Failure::input("no version has the traffic")
            .hint("millrace models list shows what there is"));
    };
    let good = to.or_else(|| decided.champion_before(bad, known));
    let Some(good) = good else {
        let others: Vec<String> = (known.iter().filter(|version| **version != bad))
            .map(u64::to_string)
            .collect();
        let failure = Failure::input(format!(
            "no version that had the traffic before version {bad} is kept"
        ));
        return Err(match others.as_slice() {
            [] => failure.hint(format!("version {bad} is the only one that there is")),
            others => failure.hint(format!(
                "versions {} are kept: millrace models rollback --to VERSION gives the traffic to one",
                others.join(", ")
            )),
        });
    };
    if good == bad {
        return Err(Failure::input(format!(
            "version {bad} has the traffic: there is nothing to go back from"
        )));
    }
    Ok((bad, good))
}

/// Refuses a version that cannot be loaded whole, or has other inputs than the project: it would have the traffic by the
/// registry, and nobody could serve it.
fn check_fit(registry: &Registry, plan: Option<&ModelPlan>, version: u64) -> Outcome<()> {
    match registry.load(version) {
        Ok((manifest, _)) => match plan {
            Some(plan) => plan
                .check_inputs(&manifest)
                .map_err(|failure| failure.hint(which_fit(registry, plan))),
            None => Ok(()),
        },
        Err(LearnerError::Damaged { file, reason }) if damaged_version(&file) == Some(version) => {
            Err(Failure::input(format!(
                "version {version} cannot serve: {}: {reason}",
                file.display()
            ))
            .hint(
                "nothing was changed: put the file back from a backup, or name another version (millrace models list; \
                 millrace models rollback --to VERSION)",
            ))
        }
        Err(error) => Err(no_such(registry, error)),
    }
}

/// The versions that have the project's inputs, in words.
fn which_fit(registry: &Registry, plan: &ModelPlan) -> String {
    let known = registry.list().unwrap_or_default();
    let fit: Vec<u64> = known
        .iter()
        .filter(|manifest| plan.check_inputs(manifest).is_ok())
        .map(|manifest| manifest.version)
        .collect();
    let kept = "nothing was changed: its inputs are not those of inputs.sql";
    let newest: Vec<String> = fit.iter().rev().take(NAMED).map(u64::to_string).collect();
    let newest = newest.join(", ");
    match fit.len() {
        0 => format!(
            "{kept}, and no version fits; the first one is made once enough labels have come for events that were scored \
             with those"
        ),
        1 => format!("{kept}; version {newest} fits"),
        few if few <= NAMED => format!("{kept}; versions {newest} fit"),
        many => format!("{kept}; {many} versions fit, the newest of them {newest}"),
    }
}

/// Versions that a message names, at most.
const NAMED: usize = 5;

/// Gives a version the traffic of so many of a hundred entities; 0 takes it back. The learner leaves it at that, unless the
/// version does harm.
///
/// # Errors
/// A version that is not there, cannot be loaded, has other inputs, or serves already, or that has no share to take back;
/// a share that is none; a registry that cannot be written.
pub fn set_share(
    registry: &Registry,
    plan: Option<&ModelPlan>,
    version: u64,
    percent: u8,
) -> Outcome<String> {
    if percent >= 100 {
        return Err(
            Failure::input(format!("{percent} of 100 entities is no share")).hint(format!(
                "a share is 0 to 99; for all of them: millrace models promote {version}"
            )),
        );
    }
    match percent {
        // What is damaged, or does not fit, can be taken out of the traffic.
        0 => registry
            .manifest(version)
            .map(|_| ())
            .map_err(|e| no_such(registry, e))?,
        _ => check_fit(registry, plan, version)?,
    }
    decide(registry, |decided| {
        if decided.aliases.champion == Some(version) {
            return Err(Failure::input(format!(
                "version {version} is the champion: it answers for all others"
            ))
            .hint("name the version that is to answer for a share")
            .into());
        }
        let (challenger, state) = match percent {
            0 => {
                check_share(&decided.aliases, version)?;
                (None, State::RolledBack)
            }
            _ => (Some((version, percent)), State::Canary { percent }),
        };
        let displaced = displaced(&decided.aliases, version);
        let notes = displaced.into_iter().chain([note(version, state)]);
        Ok(Some(Choice {
            aliases: Aliases {
                challenger,
                ..decided.aliases
            },
            notes: notes.collect(),
        }))
    })?;
    Ok(match percent {
        0 => format!("version {version} answers for nobody"),
        _ => format!("version {version} answers for {percent} of 100 entities"),
    })
}

/// Decides, and says which versions there are where the one that is wanted is not.
fn decide(
    registry: &Registry,
    choose: impl FnMut(&Decided) -> Result<Option<Choice>, Undecided>,
) -> Outcome<()> {
    match registry.decide(choose) {
        Ok(_) => Ok(()),
        Err(Undecided::Registry(error)) => Err(no_such(registry, error)),
        Err(Undecided::Refused(failure)) => Err(failure),
    }
}

/// Why nothing was decided.
enum Undecided {
    Registry(LearnerError),
    Refused(Failure),
}

impl From<LearnerError> for Undecided {
    fn from(error: LearnerError) -> Self {
        Self::Registry(error)
    }
}

impl From<Failure> for Undecided {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// All of the traffic for one version.
fn all_to(decided: &Decided, version: u64, notes: Vec<Entry>) -> Choice {
    let displaced = displaced(&decided.aliases, version);
    Choice {
        aliases: Aliases {
            champion: Some(version),
            challenger: None,
        },
        notes: displaced.into_iter().chain(notes).collect(),
    }
}

/// The version that has a share of the traffic, and of how many of a hundred entities.
fn share(aliases: &Aliases) -> Option<(u64, u8)> {
    aliases.challenger.filter(|(_, percent)| *percent > 0)
}

/// Refuses to take a share back from a version that has none.
fn check_share(aliases: &Aliases, version: u64) -> Result<(), Failure> {
    let whose = match share(aliases) {
        Some((other, _)) if other == version => return Ok(()),
        Some((other, percent)) => format!("version {other} has {percent}%"),
        None => "no version has one".to_owned(),
    };
    let failure = Failure::input(format!("version {version} has no share; {whose}"));
    Err(failure.hint("millrace models list shows who has what"))
}

/// What becomes of a version that loses its share to another.
fn displaced(aliases: &Aliases, version: u64) -> Option<Entry> {
    let (other, _) = share(aliases).filter(|(other, _)| *other != version)?;
    Some(Entry {
        reason: Some(format!("version {version} was chosen by a person")),
        ..note(other, State::Replaced)
    })
}

/// What is wrong with a version, with those that there are.
pub fn no_such(registry: &Registry, error: LearnerError) -> Failure {
    let known = registry.versions().unwrap_or_default();
    match (&error, known.as_slice()) {
        (LearnerError::NoSuchVersion { .. }, [first, .., last]) => Failure::from(error).hint(
            format!("versions {first} to {last} are kept: millrace models list"),
        ),
        (LearnerError::NoSuchVersion { .. }, [only]) => {
            Failure::from(error).hint(format!("version {only} is the only one that there is"))
        }
        (LearnerError::NoSuchVersion { .. }, []) => Failure::from(error).hint(
            "it has no version: model.registry in millrace.toml says where it is, and millrace models list what is \
             missing for the first one",
        ),
        _ => Failure::from(error),
    }
}

fn note(version: u64, state: State) -> Entry {
    Entry {
        at_us: now_us(),
        event: Event::Version {
            version,
            state,
            comparison: None,
            made: None,
        },
        reason: Some("chosen by a person".to_owned()),
        cause: Some(Cause::Person),
    }
}
