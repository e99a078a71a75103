//! The role ingest: the thread that reads events, and beside it those that fill views and free what is gone.
//!
//! None of it needs Kafka to start: what the store has is served while no broker answers, and reading begins when one does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millrace_ingest::{
    Ingest, IngestError, IngestSettings, Rarely, Remedy, StartOffsets, StreamSpec, Witnesses,
    ensure_topics, existing_topics,
};
use tracing::{info, warn};

use super::Running;
use super::threads::wait_for;
use crate::evolve::{self, Reading};
use crate::failure::{Failure, Outcome};
use crate::fill::Filler;
use crate::member::member;
use crate::pipeline::Pipeline;
use crate::priority::Priority;
use crate::score_log::ScoreLog;
use crate::score_topic::{ScoreSink, ScoreTopic, check_topic};
use crate::streams::{start_offsets, stream_spec, stream_specs};
use crate::witnesses::witnesses;
use crate::workspace::ModelPlan;

/// The pause before Kafka is tried again: the first,
const PAUSE: Duration = Duration::from_millis(500);

/// and the longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What reading needs of Kafka before it begins.
struct Entry {
    kafka: IngestSettings,
    streams: Vec<StreamSpec>,
    offsets: StartOffsets,
    witnesses: Witnesses,
    /// Headers that traces need.
    headers: &'static [&'static str],
    /// Topics that are made where they are missing, with their partitions.
    create: Vec<(String, i32)>,
    /// Models whose scores need a topic.
    plans: Vec<ModelPlan>,
    /// Whether the store has anything to serve meanwhile.
    has_events: bool,
}

/// Why reading does not begin.
struct Hindrance {
    failure: Failure,
    /// Whether it is tried again.
    may_pass: bool,
}

impl Entry {
    /// Waits until reading can begin, and says why it does not: once, then ever more rarely. None where it is told to stop
    /// before.
    ///
    /// # Errors
    /// What cannot pass by itself. Topics that are missing are that where the store is empty: on a first start their names
    /// may be wrong, and nothing is lost by an end.
    fn wait(&self, pipeline: &mut Pipeline, stop: &AtomicBool) -> Outcome<Option<Ingest>> {
        let began = Instant::now();
        let mut rarely = Rarely::default();
        let mut has_waited = false;
        let mut pause = PAUSE;
        while !stop.load(Ordering::Relaxed) {
            let failure = match self.open(stop) {
                Ok(ingest) => {
                    if has_waited {
                        let seconds = began.elapsed().as_secs();
                        info!(
                            seconds,
                            "Kafka has what is to be read: events are read from now on"
                        );
                    }
                    return Ok(Some(ingest));
                }
                Err(Hindrance { failure, may_pass }) if !may_pass => return Err(failure),
                Err(hindrance) => hindrance.failure,
            };
            if stop.load(Ordering::Relaxed) {
                break;
            }
            has_waited = true;
            let now = Instant::now();
            if rarely.is_due(now) {
                warn!(
                    failure = failure.message,
                    hint = failure.hint,
                    has_events = self.has_events,
                    "no events are read yet: what the store has is served meanwhile, and Kafka is tried again"
                );
            }
            metrics::gauge!("millrace_kafka_silent_seconds").set(began.elapsed().as_secs_f64());
            let until = now + pause;
            while Instant::now() < until && !stop.load(Ordering::Relaxed) {
                pipeline.between_steps()?;
                std::thread::sleep(Duration::from_millis(50));
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        Ok(None)
    }

    fn open(&self, stop: &AtomicBool) -> Result<Ingest, Hindrance> {
        let hindered = |error: IngestError| Hindrance {
            may_pass: self.may_pass(&error),
            failure: error.into(),
        };
        // Before what cannot hear a stop, or gives a broker longer to answer.
        let mut existing = existing_topics(&self.kafka, stop).map_err(hindered)?;
        if !self.create.is_empty() {
            let kafka = &self.kafka;
            let created = ensure_topics(&kafka.brokers, &kafka.properties, &self.create);
            for topic in created.map_err(hindered)? {
                info!(topic, "a topic was created");
                existing.push(topic);
            }
        }
        // Of topics of streams that are missing, the next call tells.
        if self.streams.iter().all(|s| existing.contains(&s.topic)) {
            let missing = |failure| Hindrance {
                may_pass: self.has_events,
                failure,
            };
            let mut plans = self.plans.iter();
            plans.try_for_each(|plan| check_topic(plan, &existing).map_err(missing))?;
        }
        let offsets = Arc::clone(&self.offsets);
        let ingest = Ingest::start(self.kafka.clone(), self.streams.clone(), offsets);
        Ok(ingest
            .map_err(hindered)?
            .keeping(self.headers)
            .recognizing(Arc::clone(&self.witnesses)))
    }

    fn may_pass(&self, error: &IngestError) -> bool {
        match error {
            IngestError::UnknownTopic { .. } | IngestError::CreateTopic { .. } => self.has_events,
            other => other.remedy() == Remedy::Retry,
        }
    }
}

impl Running {
    pub(super) fn start_ingest(&mut self) -> Outcome<()> {
        let workspace = &self.live.workspace;
        let offsets = start_offsets(&self.live.store)?;
        let mut kafka = workspace.settings.kafka.clone();
        if kafka.instance.is_none() {
            kafka.instance = Some(member(self.live.store.as_ref())?);
        }
        kafka.check()?;
        let topic = match &workspace.model {
            Some(plan) => {
                let topic = ScoreTopic::new(&kafka, plan.clone(), Arc::clone(&self.stop))?;
                let topic: Box<dyn ScoreSink> = Box::new(topic);
                Some(topic)
            }
            None => None,
        };
        let log = ScoreLog::open(&self.live)?;
        let live = self.live.clone();
        let (pipeline, streams) = match &self.filling {
            None => (Pipeline::new(live, topic)?, stream_specs(workspace)),
            Some(filling) => {
                let reading = Reading::new(&filling.transition)?;
                let streams = reading.streams.iter().map(|s| stream_spec(s)).collect();
                (Pipeline::reading(live, topic, reading)?, streams)
            }
        };
        let mut pipeline = pipeline.with_log(log);
        // What the next project needs is said now, and not when its views have caught up.
        let next = self.filling.iter().map(|filling| &filling.transition.next);
        let projects = next.chain([workspace]);
        let entry = Entry {
            kafka,
            streams,
            offsets,
            witnesses: witnesses(&self.live.store),
            headers: self.live.traces.headers(),
            create: self.create.clone(),
            plans: projects
                .filter_map(|project| project.model.clone())
                .collect(),
            has_events: self.live.progress.newest_of_all().is_some(),
        };
        self.role("ingest", move |stop| {
            Priority::Events.take();
            match entry.wait(&mut pipeline, stop)? {
                Some(ingest) => pipeline.run(ingest, stop),
                None => pipeline.finish(),
            }
        })
    }

    /// Older events for the views that are new.
    pub(super) fn start_filler(&mut self) -> Outcome<()> {
        let Some(filling) = &self.filling else {
            return Ok(());
        };
        let filler = Filler::new(Arc::clone(&self.live.store), &filling.transition)
            .telling(Arc::clone(&self.live.progress));
        let has_caught_up = Arc::clone(&filling.has_caught_up);
        self.role("fill", move |stop| {
            Priority::Spare.take();
            has_caught_up.store(filler.run(stop)?, Ordering::Relaxed);
            wait_for(stop);
            Ok(())
        })
    }

    /// Frees the space of views that are gone.
    pub(super) fn start_sweep(&mut self) -> Outcome<()> {
        let live = self.live.clone();
        self.role("sweep", move |stop| {
            Priority::Spare.take();
            evolve::drop_unused(live.store.as_ref(), &live.workspace)?;
            wait_for(stop);
            Ok(())
        })
    }
}

#[cfg(all(test, feature = "embedded-broker"))]
mod tests;
