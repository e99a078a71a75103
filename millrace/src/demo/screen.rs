//! What the demo shows: a panel that is drawn anew on a terminal, lines elsewhere, and the summary.

use std::fmt::Display;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use millrace_learner::Manifest;

use crate::live::Latency;
use crate::output::print;
use crate::run::Running;
use crate::times::rfc3339;

use super::caller::Caller;
use super::story::{Story, StoryProgress};

const LINES: usize = 5;
const DAY_US: i64 = 86_400_000_000;

/// The demo's screen.
pub(super) struct Screen {
    panel: MultiProgress,
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
    is_terminal: bool,
    rate: Mutex<Rate>,
    first_score_ms: AtomicU64,
    printed: Mutex<Instant>,
    was_live: std::sync::atomic::AtomicBool,
    latencies: Mutex<String>,
    peak_rate: AtomicU64,
}

/// Events a second over the last second or two.
struct Rate {
    since: Instant,
    events: u64,
    per_second: f64,
}

impl Screen {
    pub(super) fn new(story: &Story, broker: &str, running: &Running) -> Self {
        let panel = MultiProgress::new();
        let is_terminal = !panel.is_hidden();
        say(format_args!(
            "Millrace demo: {} cards, {} terminals, {} days of payments; {broker}.",
            story.customers, story.terminals, story.days
        ));
        say(format_args!(
            "It runs open, on loopback only. Training on {}.",
            running.device.as_deref().unwrap_or("nothing")
        ));
        let bar = panel.add(ProgressBar::new(u64::from(story.days)));
        // A constant that indicatif accepts.
        if let Ok(style) =
            ProgressStyle::with_template("\n  day {pos:>3} of {len}  [{bar:40.cyan/blue}]  {msg}")
        {
            bar.set_style(style);
        }
        let lines = (0..LINES).map(|_| {
            let line = panel.add(ProgressBar::new(1));
            if let Ok(style) = ProgressStyle::with_template("  {msg}") {
                line.set_style(style);
            }
            line
        });
        Self {
            lines: lines.collect(),
            panel,
            bar,
            is_terminal,
            rate: Mutex::new(Rate {
                since: Instant::now(),
                events: 0,
                per_second: 0.0,
            }),
            first_score_ms: AtomicU64::new(0),
            printed: Mutex::new(Instant::now()),
            was_live: false.into(),
            latencies: Mutex::default(),
            peak_rate: AtomicU64::new(0),
        }
    }

    pub(super) fn show(
        &self,
        running: &Running,
        story: &StoryProgress,
        caller: &Caller,
        elapsed: Duration,
    ) {
        let is_live = story.is_live() && running.live.progress.lag.load(Ordering::Relaxed) < 1_000;
        if is_live && !self.was_live.swap(true, Ordering::Relaxed) {
            // Latencies while the history was loaded say nothing of the live stream.
            running.live.progress.freshness().reset();
            caller.look_ups.reset();
            caller.scores.reset();
        }
        self.note_first_score(running, elapsed);
        let panel = self.panel_lines(running, story, caller);
        *lock(&self.latencies) = panel[1..4].join("\n  ");
        if self.is_terminal {
            self.bar
                .set_position(u64::from(story.days.load(Ordering::Relaxed)));
            self.bar
                .set_message(rfc3339(story.now_us.load(Ordering::Relaxed)));
            for (line, text) in self.lines.iter().zip(panel) {
                line.set_message(text);
            }
        } else if lock(&self.printed).elapsed() >= Duration::from_secs(5) {
            *lock(&self.printed) = Instant::now();
            let day = story.days.load(Ordering::Relaxed);
            say(format_args!(
                "[{:>4.0} s] day {day}\n  {}",
                elapsed.as_secs_f64(),
                panel.join("\n  ")
            ));
        }
    }

    fn note_first_score(&self, running: &Running, elapsed: Duration) {
        let progress = &running.live.progress;
        let serving = running
            .live
            .scorer
            .as_ref()
            .and_then(|scorer| scorer.serving());
        if progress.scores.load(Ordering::Relaxed) > 0 && serving.is_some() {
            let now = elapsed.as_millis() as u64;
            let _ =
                self.first_score_ms
                    .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn panel_lines(
        &self,
        running: &Running,
        story: &StoryProgress,
        caller: &Caller,
    ) -> [String; LINES] {
        let progress = &running.live.progress;
        let rate = self.rate(progress.events());
        let behind = progress.newest("transactions").map_or(0, |newest| {
            (story.now_us.load(Ordering::Relaxed) - newest).max(0) / 60_000_000
        });
        [
            format!(
                "events     {rate:>8.0} a second   {:>9} in all   {:>7} messages behind   story {behind} min behind",
                grouped(progress.events()),
                grouped(progress.lag.load(Ordering::Relaxed).unsigned_abs())
            ),
            format!(
                "freshness  {}   from produce to visible in a look-up",
                quantiles(progress.freshness())
            ),
            format!(
                "look-up    {}   10 features of a card, over gRPC",
                quantiles(&caller.look_ups)
            ),
            format!(
                "scoring    {}   event to probability, over gRPC",
                quantiles(&caller.scores)
            ),
            model_line(running),
        ]
    }

    fn rate(&self, events: u64) -> f64 {
        let mut rate = lock(&self.rate);
        let seconds = rate.since.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            rate.per_second = (events - rate.events) as f64 / seconds;
            rate.events = events;
            rate.since = Instant::now();
            self.peak_rate
                .fetch_max(rate.per_second as u64, Ordering::Relaxed);
        }
        rate.per_second
    }

    /// Whether everything that was sent is read, and the learner has dealt with every whole period.
    pub(super) fn is_settled(&self, running: &Running) -> bool {
        let live = &running.live;
        let Some(plan) = &live.workspace.model else {
            return true;
        };
        let newest = live.progress.newest(&plan.labels.name);
        let every = crate::settings::micros(plan.settings.every);
        // The newest version has learned all; which one serves is told by labels that are still to come.
        let newest_version = live.registry.as_ref().and_then(|registry| {
            let version = *registry.versions().ok()?.last()?;
            registry.manifest(version).ok()
        });
        let learned = newest_version.map(|manifest| manifest.trained_until_us);
        // The last periods may have been put aside.
        let unlearned = 2 + live.workspace.settings.learner.gate.unusual_periods as i64;
        let caught_up = live.progress.lag.load(Ordering::Relaxed) == 0;
        caught_up
            && newest
                .zip(learned)
                .is_some_and(|(newest, learned)| newest - learned < unlearned * every)
    }

    pub(super) fn clear(&self) {
        // A panel that cannot be cleared is only untidy.
        let _ = self.panel.clear();
    }

    pub(super) fn summary(&self, running: &Running, folder: &Path, elapsed: Duration, stays: bool) {
        self.clear();
        let progress = &running.live.progress;
        let count = |counter: &AtomicU64| grouped(counter.load(Ordering::Relaxed));
        say(format_args!(
            "\nThe story in {:.0} s",
            elapsed.as_secs_f64()
        ));
        say(format_args!(
            "  events     {} read, at most {} a second; {} scored, the first {:.1} s after the start",
            grouped(progress.events()),
            count(&self.peak_rate),
            count(&progress.scores),
            self.first_score_ms.load(Ordering::Relaxed) as f64 / 1_000.0
        ));
        say(format_args!("  {}", lock(&self.latencies)));
        say(format_args!(
            "  labels     {} joined to what was scored, {} dead letters",
            count(&progress.labels),
            count(&progress.dead_letters)
        ));
        print_versions(running);
        print_next(running, folder, stays);
    }
}

fn print_versions(running: &Running) {
    let Some(registry) = &running.live.registry else {
        return;
    };
    match registry.list() {
        Ok(versions) if !versions.is_empty() => {
            say(format_args!(
                "\n  version   learned until          labels   replayed   prequential AP (frauds among labels)"
            ));
            let step = versions.len().div_ceil(8).max(1);
            let shown = versions.iter().rev().step_by(step).collect::<Vec<_>>();
            for manifest in shown.into_iter().rev() {
                say(version_row(manifest));
            }
        }
        Ok(_) => say("  no model was trained"),
        Err(error) => say(format_args!("  the registry cannot be read: {error}")),
    }
}

fn version_row(manifest: &Manifest) -> String {
    let prequential = manifest.prequential.as_ref();
    let precision = prequential.and_then(|p| p.average_precision);
    format!(
        "  {:>7}   {:<20}   {:>6}   {:>8}   {} {}",
        manifest.version,
        rfc3339(manifest.trained_until_us),
        manifest.rows,
        manifest.replayed,
        precision.map_or_else(|| "   –".to_owned(), |value| format!("{value:.3}")),
        prequential.map_or_else(String::new, |p| format!(
            "({} in {})",
            p.frauds,
            grouped(p.rows)
        ))
    )
}

/// What to try: with the server where it stays up, and else with what it left.
fn print_next(running: &Running, folder: &Path, stays: bool) {
    let now = running
        .live
        .progress
        .newest("transactions")
        .unwrap_or_default()
        + 1;
    // The last day that is over.
    let as_of = rfc3339(now - now.rem_euclid(DAY_US));
    let folder = folder.display();
    let place = if stays { ", in another terminal" } else { "" };
    say(format_args!(
        "\nTry next{place} (millrace is built by `make build`, which says where it is):"
    ));
    say(format_args!("  millrace models list --project {folder}"));
    say(format_args!("  millrace check --project {folder}"));
    if stays {
        say(format_args!(
            "  millrace features get card_activity card_id=42 --as-of {as_of} --project {folder}"
        ));
        say(format_args!(
            "  echo '{{\"tx_id\":\"me-1\",\"card_id\":\"42\",\"terminal_id\":\"7\",\"amount\":499.0,\"event_time\":\"{as_of}\"}}' \\\n    | millrace score - --project {folder}"
        ));
    }
    say("");
}

fn model_line(running: &Running) -> String {
    let serving = running
        .live
        .scorer
        .as_ref()
        .and_then(|scorer| scorer.serving());
    match serving {
        None => "model      waits for its first labels".to_owned(),
        Some(serving) => {
            let manifest = &serving.manifest;
            let precision = manifest
                .prequential
                .as_ref()
                .and_then(|p| p.average_precision);
            let precision =
                precision.map_or_else(|| "not known yet".to_owned(), |value| format!("{value:.3}"));
            format!(
                "model      version {:>4}   learned until {}   prequential average precision {precision}",
                serving.version,
                rfc3339(manifest.trained_until_us)
            )
        }
    }
}

fn quantiles(latency: &Latency) -> String {
    match latency.quantiles([0.5, 0.99]) {
        Some([median, tail]) => format!(
            "p50 {:>8.2} ms   p99 {:>8.2} ms",
            median as f64 / 1e3,
            tail as f64 / 1e3
        ),
        None => "p50        – ms   p99        – ms".to_owned(),
    }
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The demo goes on without who watched it.
pub(super) fn say(line: impl Display) {
    let _ = print(line);
}

/// A lock whose holder panicked still guards what is shown.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1_000, 1_234_567]
                .map(grouped)
                .map(|t| t.leak() as &str)
        );
    }
}
