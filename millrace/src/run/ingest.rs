//! The role ingest: the thread that reads events, and beside it those that fill views and free what is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_ingest::Ingest;

use super::Running;
use super::threads::wait_for;
use crate::evolve::{self, Reading};
use crate::failure::Outcome;
use crate::fill::Filler;
use crate::member::member;
use crate::pipeline::Pipeline;
use crate::priority::Priority;
use crate::produce::RawProducer;
use crate::score_log::ScoreLog;
use crate::score_topic::{ScoreSink, ScoreTopic, check_topic};
use crate::streams::{start_offsets, stream_spec, stream_specs};
use crate::witnesses::witnesses;

impl Running {
    pub(super) fn start_ingest(&mut self) -> Outcome<()> {
        let workspace = &self.live.workspace;
        let offsets = start_offsets(&self.live.store)?;
        let mut kafka = workspace.settings.kafka.clone();
        if kafka.instance.is_none() {
            kafka.instance = Some(member(self.live.store.as_ref())?);
        }
        let mut existing = None;
        let topic = match &workspace.model {
            Some(plan) => {
                let producer = RawProducer::connect(&kafka)?;
                existing = Some(producer.topics()?);
                let topic: Box<dyn ScoreSink> = Box::new(ScoreTopic::new(producer, plan.clone()));
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
        let pipeline = pipeline.with_log(log);
        // Of topics of streams that are missing, the next call tells.
        let are_there =
            |existing: &Vec<String>| streams.iter().all(|s| existing.contains(&s.topic));
        if let Some(existing) = existing.filter(are_there) {
            // What the next project needs is said now, and not when its views have caught up.
            let next = self.filling.iter().map(|filling| &filling.transition.next);
            let projects = next.chain([workspace]);
            let mut plans = projects.filter_map(|project| project.model.as_ref());
            plans.try_for_each(|plan| check_topic(plan, &existing))?;
        }
        let headers = self.live.traces.headers();
        let ingest = Ingest::start(kafka, streams, offsets)?
            .keeping(headers)
            .recognizing(witnesses(&self.live.store));
        self.role("ingest", move |stop| {
            Priority::Events.take();
            pipeline.run(ingest, stop)
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
