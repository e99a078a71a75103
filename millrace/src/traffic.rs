//! A person's choices of which version takes the traffic: what `millrace models` and `ModelService` both do.
//!
//! A choice is written to the registry; processes that serve follow it (`Scorer::follow`, `Learning::follow`).

use millrace_learner::{Entry, Event, LearnerError, Registry, State};

use crate::failure::{Failure, Outcome};
use crate::pipeline::now_us;

/// Gives a version all of the traffic, and says what was done.
///
/// # Errors
/// A version that is not there, a registry that cannot be written.
pub fn promote(registry: &Registry, version: u64) -> Outcome<String> {
    let before = registry.champion()?;
    if before == Some(version) {
        return Ok(format!("version {version} has all of the traffic already"));
    }
    registry
        .set_champion(version)
        .map_err(|e| no_such(registry, e))?;
    registry.set_challenger(None)?;
    if let Some(before) = before {
        note(registry, before, State::Replaced)?;
    }
    note(registry, version, State::Champion)?;
    let before = before.map_or("no version".to_owned(), |before| {
        format!("version {before}")
    });
    Ok(format!("version {version} serves in place of {before}"))
}

/// Gives the traffic back to a version that had it before: the one asked for, or the last.
///
/// # Errors
/// No such version, a registry that cannot be written.
pub fn roll_back(registry: &Registry, to: Option<u64>) -> Outcome<String> {
    let Some(bad) = registry.champion()? else {
        return Err(Failure::input("no version has the traffic")
            .hint("millrace models list shows what there is"));
    };
    let good = match to {
        Some(version) => version,
        None => champion_before(registry, bad)?.ok_or_else(|| {
            Failure::input(format!(
                "no version that had the traffic before version {bad} is kept"
            ))
            .hint(
                "name one: millrace models rollback --to VERSION; millrace models list shows them",
            )
        })?,
    };
    if good == bad {
        return Err(Failure::input(format!(
            "version {bad} has the traffic: there is nothing to go back from"
        )));
    }
    registry
        .set_champion(good)
        .map_err(|e| no_such(registry, e))?;
    registry.set_challenger(None)?;
    note(registry, bad, State::RolledBack)?;
    note(registry, good, State::Champion)?;
    Ok(format!(
        "version {good} serves again; version {bad} was rolled back"
    ))
}

/// Gives a version the traffic of so many of a hundred entities; 0 takes it back.
///
/// # Errors
/// A version that is not there or serves already, a share that is none, a registry that cannot be written.
pub fn set_share(registry: &Registry, version: u64, percent: u8) -> Outcome<String> {
    if percent >= 100 {
        return Err(
            Failure::input(format!("{percent} of 100 entities is no share")).hint(format!(
                "a share is 0 to 99; for all of them: millrace models promote {version}"
            )),
        );
    }
    if registry.champion()? == Some(version) {
        return Err(Failure::input(format!(
            "version {version} is the champion: it answers for all others"
        ))
        .hint("name the version that is to answer for a share"));
    }
    registry
        .manifest(version)
        .map_err(|e| no_such(registry, e))?;
    if percent == 0 {
        registry.set_challenger(None)?;
        note(registry, version, State::RolledBack)?;
        return Ok(format!("version {version} answers for nobody"));
    }
    registry.set_challenger(Some((version, percent)))?;
    note(registry, version, State::Canary { percent })?;
    Ok(format!(
        "version {version} answers for {percent} of 100 entities"
    ))
}

/// What is wrong with a version, with those that there are.
pub fn no_such(registry: &Registry, error: LearnerError) -> Failure {
    let known = registry.versions().unwrap_or_default();
    match (&error, known.as_slice()) {
        (LearnerError::NoSuchVersion { .. }, [first, .., last]) => Failure::from(error).hint(
            format!("versions {first} to {last} are kept: millrace models list"),
        ),
        _ => Failure::from(error),
    }
}

/// The last version that had the traffic before one, and still is kept.
fn champion_before(registry: &Registry, version: u64) -> Outcome<Option<u64>> {
    let known = registry.versions()?;
    let mut champions = Vec::new();
    for entry in registry.journal_entries()? {
        match entry.event {
            Event::Version {
                version,
                state: State::Champion,
                ..
            } => champions.push(version),
            // One that did harm is nothing to go back to.
            Event::Version {
                version,
                state: State::RolledBack,
                ..
            } => champions.retain(|v| *v != version),
            _ => {}
        }
    }
    let is_kept = |other: &u64| *other != version && known.contains(other);
    Ok(champions.into_iter().rfind(is_kept))
}

fn note(registry: &Registry, version: u64, state: State) -> Outcome<()> {
    Ok(registry.note(&Entry {
        at_us: now_us(),
        event: Event::Version {
            version,
            state,
            comparison: None,
        },
        reason: Some("chosen by a person".to_owned()),
    })?)
}
