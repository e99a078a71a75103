//! Settings that can be read and cannot work: said at once, and not when the first model is due.

use crate::failure::{Failure, Outcome};
use crate::object_stores::meant_as_url;
use crate::settings::Settings;

impl Settings {
    /// Says which setting is out of its range, if one is.
    ///
    /// # Errors
    /// The first such setting, by its name in `millrace.toml`.
    pub(super) fn check(&self) -> Outcome<()> {
        self.check_kafka()?;
        let server = &self.server;
        let is_one = server.listen == server.metrics && server.listen.port() != 0;
        require("server.metrics", !is_one, "is the address of server.listen")?;
        if let Some(model) = &self.model {
            require("model.scores", !model.scores.is_empty(), "names no topic")?;
            require("model.keep", model.keep >= 1, "is below 1")?;
            require("model.min_labels", model.min_labels >= 1, "is below 1")?;
            require("model.min_frauds", model.min_frauds >= 1, "is below 1")?;
        }
        let learner = &self.learner;
        require(
            "learner.history_rows",
            learner.history_rows >= 1,
            "is below 1",
        )?;
        let averaged = learner.training.averaged_updates;
        require(
            "learner.training.averaged_updates",
            averaged >= 1,
            "is below 1",
        )?;
        let training = learner.training.check();
        training.map_err(|e| wrong(&format!("learner.training: {e}")))?;
        let gate = learner.gate.check();
        gate.map_err(|e| wrong(&format!("learner: {e}")))?;
        let location = self.score_log.location.as_deref();
        require(
            "score_log.location",
            location != Some(""),
            "is empty: leave it out for no log",
        )?;
        match location.and_then(meant_as_url) {
            None => Ok(()),
            Some(url) => Err(wrong(&format!(
                "score_log.location = \"{}\": did you mean {url}?",
                location.unwrap_or_default()
            ))),
        }
    }

    fn check_kafka(&self) -> Outcome<()> {
        let kafka = &self.kafka;
        require(
            "kafka.brokers",
            !kafka.brokers.trim().is_empty(),
            "is empty",
        )?;
        require("kafka.group", !kafka.group.is_empty(), "is empty")?;
        require("kafka.max_rows", kafka.max_rows >= 1, "is below 1")?;
        require("kafka.buffer_rows", kafka.buffer_rows >= 1, "is below 1")?;
        let letters = kafka.dead_letter_topic.contains("{topic}");
        require(
            "kafka.dead_letter_topic",
            letters,
            "does not have {topic} in it: the dead letters of all topics would be one",
        )?;
        require(
            "topics.partitions",
            self.topics.partitions >= 1,
            "is below 1",
        )
    }
}

fn require(name: &str, holds: bool, reason: &str) -> Outcome<()> {
    match holds {
        true => Ok(()),
        false => Err(wrong(&format!("{name} {reason}"))),
    }
}

fn wrong(what: &str) -> Failure {
    Failure::input(format!("millrace.toml: {what}"))
        .hint("docs/settings.md lists every setting with its default")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        let of = |text: &str| toml::from_str::<Settings>(text).unwrap().check();
        of("").unwrap();
        of("[server]\nlisten = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"").unwrap();
        for (text, name) in [
            ("[kafka]\nbrokers = \"\"", "kafka.brokers"),
            ("[kafka]\nmax_rows = 0", "kafka.max_rows"),
            (
                "[kafka]\ndead_letter_topic = \"dl\"",
                "kafka.dead_letter_topic",
            ),
            ("[topics]\npartitions = 0", "topics.partitions"),
            ("[server]\nlisten = \"127.0.0.1:9187\"", "server.metrics"),
            ("[learner.training]\nmembers = 0", "members"),
            (
                "[learner.training]\naveraged_updates = 0",
                "averaged_updates",
            ),
            ("[learner.gate]\ncanary = [50, 10]", "gate.canary"),
            ("[score_log]\nlocation = \"\"", "score_log.location"),
            (
                "[score_log]\nlocation = \"s3:/b/l\"",
                "did you mean s3://b/l?",
            ),
        ] {
            let failure = of(text).unwrap_err();
            assert!(failure.message.contains(name), "{}", failure.message);
        }
    }
}
