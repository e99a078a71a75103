//! The role learn, and the registry that every process follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millrace_feature_store::Store;
use millrace_learner::Registry;
use tracing::{error, info, warn};

use super::Running;
use super::threads::pause;
use crate::failure::{Kind, Outcome};
use crate::learning::Learning;
use crate::live::Live;
use crate::mlflow::Exporter;
use crate::output::print;
use crate::priority::Priority;
use crate::registry::{Reach, is_away};
use crate::scorer::Scorer;
use crate::times::{now_us, rfc3339};
use crate::traces::Traces;
use crate::workspace::Workspace;

#[cfg(test)]
mod tests;

/// `millrace learn --once`: one period, if one has ended; before a first model, as many as it takes.
///
/// # Errors
/// A store or registry that cannot be read, a device that is not there; another process that is learning the period.
pub fn learn_once(workspace: Workspace) -> Outcome<()> {
    let plan = workspace.model()?.clone();
    let store: Arc<dyn Store> = Arc::new(workspace.open_store_to_read()?);
    let registry = Arc::new(workspace.registry()?.open()?);
    let scorer = Arc::new(Scorer::new(plan));
    let mlflow = exporter(&workspace, &registry)?;
    let traces = Traces::open(&workspace.settings.traces)?;
    let learning = Learning::open(Arc::new(workspace), store, registry, scorer)?;
    let mut learning = learning.traced(traces.clone());
    let learned = learning.once(now_us());
    traces.shut_down();
    match learned {
        Err(failure) if failure.kind == Kind::Rival => match learning.done_by_another()? {
            Some(end_us) => print(format_args!(
                "another process has dealt with the period until {} meanwhile: nothing to learn",
                rfc3339(end_us)
            ))?,
            None => return Err(failure),
        },
        learned => match learned? {
            None => match learning.waits_until() {
                Some((end_us, until_us)) => print(format_args!(
                    "the labels of the period until {} are learned from {} on, when they are settled (model.settling): \
                     nothing to learn yet",
                    rfc3339(end_us),
                    rfc3339(until_us)
                ))?,
                None => print("no period with new labels has ended: nothing to learn")?,
            },
            Some(period) => print(period)?,
        },
    };
    // What it cannot send now is sent by the next process that learns.
    if let Some(Err(error)) = mlflow.map(|mut mlflow| mlflow.catch_up()) {
        warn!(%error, "MLflow is told later");
    }
    Ok(())
}

impl Running {
    pub(super) fn start_learner(&mut self) -> Outcome<()> {
        let live = self.live.clone();
        let (Some(registry), Some(scorer)) = (live.registry.clone(), live.scorer.clone()) else {
            return Ok(());
        };
        let open = {
            let (live, stop) = (live.clone(), Arc::clone(&self.stop));
            move || {
                let (workspace, store) = (Arc::clone(&live.workspace), Arc::clone(&live.store));
                let (registry, scorer) = (Arc::clone(&registry), Arc::clone(&scorer));
                let learning = Learning::open(workspace, store, registry, scorer)?;
                Ok(learning
                    .traced(live.traces.clone())
                    .stopped_by(Arc::clone(&stop)))
            }
        };
        let learning = open()?;
        // Prometheus sees no increase of what it has not seen before.
        for outcome in ["accepted", "refused", "labels_refused"] {
            metrics::counter!("millrace_updates_total", "outcome" => outcome).increment(0);
        }
        self.device = Some(learning.device().to_string());
        self.tell_mlflow()?;
        self.role("learn", move |stop| {
            Priority::Updates.take();
            let mut learning = Some(learning);
            let mut clock = LabelClock::default();
            let mut is_held_up = false;
            while !stop.load(Ordering::Relaxed) {
                // After a registry that did not answer, it goes on from what is there, as after a restart.
                let outcome = match learning.take() {
                    Some(open) => Ok(open),
                    None => open(),
                };
                let outcome = outcome.and_then(|mut open| {
                    learn_until_stop(&mut open, &mut clock, &mut is_held_up, &live, stop)?;
                    learning = Some(open);
                    Ok(())
                });
                match outcome {
                    Err(failure) if is_away(&failure) => {
                        metrics::counter!("millrace_registry_failures_total").increment(1);
                        if !std::mem::replace(&mut is_held_up, true) {
                            warn!(
                                failure = failure.message,
                                hint = failure.hint,
                                "learning waits for the registry of models"
                            );
                        }
                        pause(stop, AWAY);
                    }
                    // It is opened anew, and goes on from what the other has done.
                    Err(failure) if failure.kind == Kind::Rival => {
                        warn!(
                            failure = failure.message,
                            hint = failure.hint,
                            "the labels are learned by another process too"
                        );
                    }
                    other => other?,
                }
            }
            Ok(())
        })
    }

    /// A thread that tells MLflow what the registry's journal says, as far as MLflow listens.
    fn tell_mlflow(&mut self) -> Outcome<()> {
        let live = &self.live;
        let exporter = match &live.registry {
            Some(registry) => exporter(&live.workspace, registry)?,
            None => None,
        };
        let Some(mut exporter) = exporter else {
            return Ok(());
        };
        self.role("mlflow", move |stop| {
            Priority::Spare.take();
            let mut wait = TELL;
            while !stop.load(Ordering::Relaxed) {
                match exporter.catch_up() {
                    Ok(_) => wait = TELL,
                    Err(error) => {
                        metrics::counter!("millrace_mlflow_failures_total").increment(1);
                        if wait == TELL {
                            warn!(%error, "MLflow is told later; learning goes on");
                        }
                        wait = (2 * wait).min(TELL_AGAIN);
                    }
                }
                pause(stop, wait);
            }
            Ok(())
        })
    }

    /// What a person chooses, or a learner elsewhere, answers within a second: whatever the learner here is at.
    pub(super) fn follow_registry(&mut self) {
        let live = self.live.clone();
        let follow = move |stop: &AtomicBool| {
            let mut reach = Reach::default();
            while !stop.load(Ordering::Relaxed) {
                if let (Some(registry), Some(scorer)) = (&live.registry, &live.scorer) {
                    reach.note(&scorer.follow(registry));
                }
                pause(stop, FOLLOW);
            }
            Ok(())
        };
        // Without the thread the process serves what it has.
        if let Err(failure) = self.role("registry", follow) {
            error!(
                failure = failure.message,
                hint = failure.hint,
                "the registry is not followed"
            );
        }
    }
}

/// How often the registry is asked what was chosen.
const FOLLOW: Duration = Duration::from_secs(1);

/// How often MLflow is told what is new,
const TELL: Duration = Duration::from_secs(5);

/// and how often at least it is tried when it does not answer.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Who tells MLflow, where the project has one.
fn exporter(workspace: &Workspace, registry: &Arc<Registry>) -> Outcome<Option<Exporter>> {
    let settings = workspace.model()?.settings.mlflow.as_ref();
    let exporter = settings.map(|settings| Exporter::new(settings, Arc::clone(registry)));
    exporter.transpose()
}

/// How long a registry that did not answer is left alone.
const AWAY: Duration = Duration::from_secs(5);

fn learn_until_stop(
    learning: &mut Learning,
    clock: &mut LabelClock,
    is_held_up: &mut bool,
    live: &Live,
    stop: &AtomicBool,
) -> Outcome<()> {
    let mut followed = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if followed.elapsed() > FOLLOW {
            // What a person has chosen meanwhile. A registry that is away is asked again; what was learned stays. Whether it
            // is, says who follows it (`follow_registry`).
            match learning.follow() {
                Err(failure) if !is_away(&failure) => return Err(failure),
                _ => followed = Instant::now(),
            }
        }
        let period = match learning.next_period(clock.now_us(live)) {
            // The process is to end, and the next one begins the period anew.
            Err(failure) if failure.kind == Kind::Stopped => return Ok(()),
            other => other?,
        };
        if std::mem::take(is_held_up) {
            info!("learning goes on");
        }
        if period.is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// The event time by which periods end: the newest label's; the wall clock once no label has come for a while,
/// so that a quiet stream's last period ends too.
#[derive(Default)]
struct LabelClock {
    newest_us: Option<i64>,
    since: Option<Instant>,
}

const QUIET: Duration = Duration::from_secs(30);

impl LabelClock {
    fn now_us(&mut self, live: &Live) -> i64 {
        let labels = live
            .workspace
            .model
            .as_ref()
            .map(|model| model.labels.name.as_str());
        let newest = labels.and_then(|labels| live.progress.newest(labels));
        if newest != self.newest_us || self.since.is_none() {
            self.newest_us = newest;
            self.since = Some(Instant::now());
        }
        let is_quiet = self.since.is_some_and(|since| since.elapsed() >= QUIET);
        match newest {
            // The wall clock may be years ahead of the first label.
            None => i64::MIN,
            Some(_) if is_quiet => now_us(),
            Some(newest) => newest,
        }
    }
}
