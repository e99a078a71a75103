//! Every metric of the Prometheus endpoint, with its meaning: what a scrape says of it, and docs/metrics.md lists.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It only grows, until the process starts again.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Quantiles of what was seen lately, and the sum and the number of all.
    Summary,
}

/// Name, kind, labels (comma-separated) and meaning.
type Metric = (&'static str, Kind, &'static str, &'static str);

const METRICS: &[Metric] = &[
    (
        "millrace_events_total",
        Kind::Counter,
        "stream",
        "Events that were committed.",
    ),
    (
        "millrace_consumer_lag",
        Kind::Gauge,
        "",
        "Messages of this process's partitions that are in Kafka and not committed, as of when Kafka was last heard.",
    ),
    (
        "millrace_kafka_silent_seconds",
        Kind::Gauge,
        "",
        "Seconds since the brokers of all partitions were heard, or since the start where they never were. From ten on, look-ups say STALE, and the lag may be more than it says.",
    ),
    (
        "millrace_freshness_seconds",
        Kind::Summary,
        "",
        "Seconds from a message's Kafka timestamp to its being visible in a look-up.",
    ),
    (
        "millrace_commit_seconds",
        Kind::Summary,
        "",
        "Seconds that one step took to score, join and commit.",
    ),
    (
        "millrace_ingest_messages_total",
        Kind::Counter,
        "topic",
        "Messages that were read, good and bad.",
    ),
    (
        "millrace_ingest_rows_total",
        Kind::Counter,
        "topic",
        "Messages that became events.",
    ),
    (
        "millrace_ingest_lag",
        Kind::Gauge,
        "",
        "Messages of this process's partitions that are in Kafka and not handed on, as of when Kafka was last heard.",
    ),
    (
        "millrace_ingest_buffered_rows",
        Kind::Gauge,
        "",
        "Decoded events that wait for their turn in event time.",
    ),
    (
        "millrace_ingest_partitions",
        Kind::Gauge,
        "",
        "Partitions that this process reads.",
    ),
    (
        "millrace_ingest_foreign_partitions",
        Kind::Gauge,
        "",
        "Partitions that another process of the consumer group reads: their events are not here, and look-ups say STALE.",
    ),
    (
        "millrace_ingest_late_rows_total",
        Kind::Counter,
        "",
        "Events that were handed on after later ones of another partition.",
    ),
    (
        "millrace_ingest_out_of_patience_total",
        Kind::Counter,
        "topic",
        "Times that a partition was silent for longer than kafka.patience, and the others went on without it.",
    ),
    (
        "millrace_ingest_lost_total",
        Kind::Counter,
        "topic",
        "Times that Kafka did not have what was to be read next: events may be missing.",
    ),
    (
        "millrace_ingest_partition_errors_total",
        Kind::Counter,
        "topic",
        "Errors of reading a partition; it is tried again.",
    ),
    (
        "millrace_ingest_group_commit_failures_total",
        Kind::Counter,
        "",
        "Commits of offsets to the consumer group that failed. Only lag tools read them.",
    ),
    (
        "millrace_kafka_errors_total",
        Kind::Counter,
        "code",
        "Errors of Kafka clients, by librdkafka's name.",
    ),
    (
        "millrace_dead_letters_total",
        Kind::Counter,
        "topic,reason",
        "Messages that no event could be made of, by the topic that they came from.",
    ),
    (
        "millrace_dead_letter_failures_total",
        Kind::Counter,
        "topic",
        "Times that a dead-letter topic did not take a message; no topic is read meanwhile.",
    ),
    (
        "millrace_dead_letters_cut_total",
        Kind::Counter,
        "topic",
        "Dead letters that were cut, as too large for their topic.",
    ),
    (
        "millrace_deletes_total",
        Kind::Counter,
        "stream,outcome",
        "Deletes of events by tombstones, by whether some view had the event.",
    ),
    (
        "millrace_events_left_out_total",
        Kind::Counter,
        "view",
        "Events that do not count in a view, which cannot be evaluated on them.",
    ),
    (
        "millrace_events_of_files_total",
        Kind::Counter,
        "view",
        "Events that a view with a resolution had from files already, and that were left out.",
    ),
    (
        "millrace_fill_events_total",
        Kind::Counter,
        "stream",
        "Older events that were read for views that are new.",
    ),
    (
        "millrace_fill_lag",
        Kind::Gauge,
        "stream",
        "Older events that are still to be read for views that are new.",
    ),
    (
        "millrace_tiles_written_total",
        Kind::Counter,
        "",
        "Partial sums that were stored, as look-ups had to add up many events.",
    ),
    (
        "millrace_rows_folded_total",
        Kind::Counter,
        "view",
        "Events of views with a resolution that were replaced by the sums of their steps.",
    ),
    (
        "millrace_store_commits_total",
        Kind::Counter,
        "",
        "Commits to the store.",
    ),
    (
        "millrace_store_commit_seconds",
        Kind::Summary,
        "",
        "Seconds that the store took for a commit.",
    ),
    (
        "millrace_store_rows_written_total",
        Kind::Counter,
        "",
        "Rows that were written to the store.",
    ),
    (
        "millrace_store_flush_seconds",
        Kind::Summary,
        "",
        "Seconds that the store took to make its commits durable.",
    ),
    (
        "millrace_store_disk_bytes",
        Kind::Gauge,
        "table",
        "Bytes of a table's files, as of the last flush.",
    ),
    (
        "millrace_store_expired_rows_total",
        Kind::Counter,
        "table",
        "Rows that were dropped as too old.",
    ),
    (
        "millrace_requests_total",
        Kind::Counter,
        "method,status",
        "Calls that were answered, by their gRPC status.",
    ),
    (
        "millrace_lookup_seconds",
        Kind::Summary,
        "view",
        "Seconds of one view's part of a look-up.",
    ),
    (
        "millrace_scoring_seconds",
        Kind::Summary,
        "",
        "Seconds of a call of Score; of events from Kafka, of one event in its step.",
    ),
    (
        "millrace_requests_in_place",
        Kind::Gauge,
        "",
        "Requests that are worked on.",
    ),
    (
        "millrace_requests_waiting",
        Kind::Gauge,
        "",
        "Requests that wait for a place.",
    ),
    (
        "millrace_requests_refused_total",
        Kind::Counter,
        "reason",
        "Requests that were refused because of limits: client, queue, wait, deadline, expired or malformed.",
    ),
    (
        "millrace_refused_calls_total",
        Kind::Counter,
        "status",
        "Calls without a valid token, or without the scope that they need.",
    ),
    (
        "millrace_failed_handshakes_total",
        Kind::Counter,
        "",
        "TLS handshakes that failed.",
    ),
    (
        "millrace_reloads_total",
        Kind::Counter,
        "what,result",
        "Times that changed files of tokens, keys or certificates were read again, or kept as they were because of a mistake.",
    ),
    (
        "millrace_spans_exported_total",
        Kind::Counter,
        "",
        "Spans that the collector of traces took.",
    ),
    (
        "millrace_spans_dropped_total",
        Kind::Counter,
        "reason",
        "Spans that were dropped, for a full queue or a collector that takes none.",
    ),
    (
        "millrace_scores_total",
        Kind::Counter,
        "",
        "Events that were scored as they came.",
    ),
    (
        "millrace_scores_too_large_total",
        Kind::Counter,
        "outcome",
        "Scores that were too large for their topic, by what was done: sent without_texts, or left_out.",
    ),
    (
        "millrace_labels_total",
        Kind::Counter,
        "outcome",
        "Labels that came: joined to a scored event, waiting for one, corrected or duplicate.",
    ),
    (
        "millrace_labels_settling_seconds",
        Kind::Gauge,
        "",
        "How long labels wait before they are learned, until they are settled (`model.settling`); 0 where they do not.",
    ),
    (
        "millrace_updates_total",
        Kind::Counter,
        "outcome",
        "Updates of the model that were tried: accepted, refused by the gate, or labels_refused as not to be believed.",
    ),
    (
        "millrace_rollbacks_total",
        Kind::Counter,
        "",
        "Versions that were taken back because they did harm.",
    ),
    (
        "millrace_model_version",
        Kind::Gauge,
        "",
        "The version that has the traffic; absent before the first one.",
    ),
    (
        "millrace_prequential_average_precision",
        Kind::Gauge,
        "",
        "Average precision of what was answered, over the newest 20,000 labels, none of which the version had learned; once \
         ten of them are frauds.",
    ),
    (
        "millrace_input_stability_index",
        Kind::Gauge,
        "input",
        "Population stability index of an input of the model over the last period, against the first events. Under the name score it is that of the scores.",
    ),
    (
        "millrace_drift_alarms_total",
        Kind::Counter,
        "input",
        "Periods in which an input, or under the name score the scores, moved more than is usual, or had more values beyond all \
         that the first model started from.",
    ),
    (
        "millrace_registry_reachable",
        Kind::Gauge,
        "",
        "1 where the registry of models answers, 0 where it does not.",
    ),
    (
        "millrace_registry_failures_total",
        Kind::Counter,
        "",
        "Requests to the registry of models that failed.",
    ),
    (
        "millrace_mlflow_behind",
        Kind::Gauge,
        "",
        "What MLflow is still to be told of versions.",
    ),
    (
        "millrace_mlflow_failures_total",
        Kind::Counter,
        "",
        "Times that MLflow did not answer; it is told later.",
    ),
    (
        "millrace_mlflow_refused_total",
        Kind::Counter,
        "",
        "Changes of versions that MLflow refuses to take notice of.",
    ),
    (
        "millrace_score_log_rows_total",
        Kind::Counter,
        "",
        "Rows that were written to the log of scores.",
    ),
    (
        "millrace_score_log_files_total",
        Kind::Counter,
        "",
        "Files that were written to the log of scores.",
    ),
    (
        "millrace_score_log_bytes_total",
        Kind::Counter,
        "",
        "Bytes that were written to the log of scores.",
    ),
    (
        "millrace_score_log_write_seconds",
        Kind::Summary,
        "",
        "Seconds that one write to the log of scores took.",
    ),
    (
        "millrace_score_log_failures_total",
        Kind::Counter,
        "",
        "Times that the place of the log of scores did not take a file; it is tried again.",
    ),
    (
        "millrace_score_log_waiting_rows",
        Kind::Gauge,
        "",
        "Rows that wait in the store for the log of scores.",
    ),
    (
        "millrace_score_log_waiting_bytes",
        Kind::Gauge,
        "",
        "Bytes of those rows.",
    ),
    (
        "millrace_score_log_holds_reading",
        Kind::Gauge,
        "",
        "1 where so many wait that no events are read, else 0.",
    ),
];

/// Says what each metric means. For a recorder that is installed.
pub(crate) fn describe() {
    for (name, kind, _, meaning) in METRICS {
        match kind {
            Kind::Counter => describe_counter!(*name, *meaning),
            Kind::Gauge => describe_gauge!(*name, *meaning),
            Kind::Summary => describe_histogram!(*name, *meaning),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    fn names() -> BTreeSet<String> {
        METRICS.iter().map(|metric| metric.0.to_owned()).collect()
    }

    /// All that begins with `millrace_` in a text.
    fn mentioned(text: &str) -> impl Iterator<Item = &str> {
        text.match_indices("millrace_").map(|(at, _)| {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            &rest[..end.unwrap_or(rest.len())]
        })
    }

    /// The files below a folder that end so.
    fn files(folder: &Path, ending: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, ending, found);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn the_page_lists_them_all() {
        let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
        let rows: BTreeSet<&str> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let row = |(name, kind, labels, meaning): &Metric| {
            let kind = format!("{kind:?}").to_lowercase();
            let labels = labels.split(',').filter(|label| !label.is_empty());
            let labels: Vec<String> = labels.map(|label| format!("`{label}`")).collect();
            format!("| `{name}` | {kind} | {} | {meaning} |", labels.join(", "))
        };
        let expected: Vec<String> = METRICS.iter().map(row).collect();
        let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
        assert_eq!(rows, expected);
    }

    /// Each call of a macro that counts something names one of them, of its kind, and each is named by one.
    #[test]
    fn the_program_has_them_all() {
        let mut sources = Vec::new();
        for crate_ in ["feature-store", "features", "ingest", "learner", "millrace"] {
            files(&root().join(crate_).join("src"), ".rs", &mut sources);
        }
        let mut used = BTreeSet::new();
        for source in &sources {
            for (call, kind) in [
                ("counter!(", Kind::Counter),
                ("gauge!(", Kind::Gauge),
                ("histogram!(", Kind::Summary),
            ] {
                for (at, _) in source.match_indices(call) {
                    let Some(rest) = source[at + call.len()..].trim_start().strip_prefix('"')
                    else {
                        continue;
                    };
                    let name = rest.split('"').next().unwrap();
                    if !name.starts_with("millrace_") {
                        continue;
                    }
                    let known = METRICS.iter().find(|metric| metric.0 == name);
                    let known = known.unwrap_or_else(|| panic!("{name} is not described"));
                    assert_eq!(known.1, kind, "{name}");
                    for label in known.2.split(',').filter(|label| !label.is_empty()) {
                        let call = &rest[..rest.find(';').unwrap_or(rest.len())];
                        let label = format!("\"{label}\" =>");
                        assert!(call.contains(&label), "{name} has {label}");
                    }
                    used.insert(name.to_owned());
                }
            }
        }
        assert_eq!(used, names());
    }

    /// Alerts and dashboards ask for nothing that is not there.
    #[test]
    fn what_is_watched_is_there() {
        let mut watched = Vec::new();
        files(&root().join("deploy"), ".yml", &mut watched);
        files(&root().join("deploy"), ".json", &mut watched);
        let names = names();
        let mut count = 0;
        for name in watched.iter().flat_map(|text| mentioned(text)) {
            assert!(names.contains(name), "{name}");
            count += 1;
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn a_scrape_says_what_each_means() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::gauge!("millrace_consumer_lag").set(3.0);
        });
        let scrape = handle.render();
        let help = "# HELP millrace_consumer_lag Messages of this process's partitions";
        assert!(scrape.contains(help), "{scrape}");
        assert!(scrape.contains("millrace_consumer_lag 3"), "{scrape}");
    }
}
