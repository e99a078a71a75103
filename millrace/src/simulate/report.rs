//! report.html: one page without any other file, for a browser.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use millrace_learner::Calibration;
use plotters::style::RGBColor;

use super::plot::{Axes, Lines, plot};
use super::tally::{Day, Summary, UpdateLine};
use super::{Run, table};
use crate::scored_watch::{Alarm, Measure};
use crate::times::rfc3339;

const DAY_US: i64 = 86_400_000_000;

/// Colours of the runs, told apart in either kind of colour blindness (Okabe, Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;\
color:#222;background:#fff}table{display:block;overflow-x:auto;border-collapse:collapse;margin:1em 0;font-size:13px;font-variant-numeric:\
tabular-nums}td,th{padding:3px 9px;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child,\
td.text{text-align:left}th.run{overflow-wrap:anywhere;min-width:5em}svg{max-width:100%;height:auto}\
h2{margin-top:2em}p.note{color:#555;font-size:13px}\
p.keys{position:sticky;top:0;margin:0;padding:6px 0;background:#fff}\
span.key{display:inline-block;width:12px;height:12px;margin:0 5px 0 14px}details{margin:1em 0}";

/// The page of some runs.
pub(super) fn page(runs: &[Run]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Millrace simulation</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>Simulation</h1>\n"
    );
    let days: Vec<Vec<Day>> = runs.iter().map(|run| run.tally.days()).collect();
    summary(&mut html, runs);
    keys(&mut html, runs);
    section(
        &mut html,
        "Average precision by day",
        "Of each day's events, as they were scored when they came, against the labels that came back later.",
        &by_day(
            &days,
            &|day| day.average_precision,
            Axes {
                range: Some(0.0..1.0),
                ..Axes::of("average precision")
            },
        ),
    );
    section(
        &mut html,
        "Calibration",
        "Events in twenty groups of equal size by score: a calibrated model's lie on the diagonal.",
        &calibration(runs),
    );
    section(
        &mut html,
        "Alerts",
        &format!(
            "Share of each day's events, in percent, that score at least {}.",
            thresholds(runs)
        ),
        &by_day(&days, &|day| Some(100.0 * day.alerts), Axes::of("percent")),
    );
    section(
        &mut html,
        "Drift of scores",
        "Mean score of each day; in grey the share of frauds, which is known only later.",
        &drift(&days),
    );
    section(
        &mut html,
        "Updates that took traffic",
        "Versions of each day that passed their tests.",
        &updates_by_day(runs, &|line| line.accepted, "versions"),
    );
    section(
        &mut html,
        "Updates that were refused",
        "Periods of each day whose labels were put aside, or whose version was rejected or rolled back.",
        &updates_by_day(runs, &is_refused, "periods"),
    );
    section(
        &mut html,
        "Drift of inputs",
        "The largest population stability index of each day's alarms: of inputs of scored events that moved farther \
         than was usual. 0 on days without such an alarm.",
        &input_drift(runs, &days),
    );
    for run in runs {
        let _ = writeln!(html, "<h2>Updates: {}</h2>", escape(&run.summary.name));
        updates(&mut html, &run.tally.updates);
        alarms(&mut html, &run.tally.alarms);
        contributions(&mut html, run);
    }
    html.push_str("</body></html>\n");
    html
}

/// From which probability on events are alerts: of each run, where they differ.
fn thresholds(runs: &[Run]) -> String {
    let mut said: Vec<String> = runs
        .iter()
        .map(|run| run.tally.alert_threshold.to_string())
        .collect();
    said.dedup();
    said.join(", ")
}

/// Whether something of a period was refused, and not merely awaited.
fn is_refused(line: &UpdateLine) -> bool {
    let is_told = line.reason.is_some() && (line.rejected || line.version.is_none());
    (is_told && !line.waits) || line.rolled_back.is_some()
}

/// How many updates of each day are such, a line a run.
fn updates_by_day(runs: &[Run], is_such: &dyn Fn(&UpdateLine) -> bool, what: &str) -> String {
    let line = |run: &Run| -> Vec<(f64, f64)> {
        let mut days: BTreeMap<i64, u32> = BTreeMap::new();
        for update in &run.tally.updates {
            // A period belongs to the day in which it began to end.
            let day = (update.time_us - 1).div_euclid(DAY_US);
            *days.entry(day).or_default() += u32::from(is_such(update));
        }
        let point = |(day, count): (i64, u32)| (day as f64, f64::from(count));
        days.into_iter().map(point).collect()
    };
    let lines = runs.iter().enumerate();
    plot(
        lines.map(|(at, run)| (colour(at), line(run))).collect(),
        Axes::of(what),
    )
}

/// The largest index of each day's alarms, a line a run.
fn input_drift(runs: &[Run], days: &[Vec<Day>]) -> String {
    let line = |run: &Run, days: &[Day]| -> Vec<(f64, f64)> {
        let mut largest: BTreeMap<i64, f64> = days
            .iter()
            .map(|day| (day.day_us.div_euclid(DAY_US), 0.0))
            .collect();
        let indexes = run.tally.alarms.iter();
        for alarm in indexes.filter(|alarm| alarm.measure == Measure::StabilityIndex) {
            let index = largest
                .entry((alarm.until_us - 1).div_euclid(DAY_US))
                .or_default();
            *index = index.max(alarm.value);
        }
        let point = |(day, index): (i64, f64)| (day as f64, index);
        largest.into_iter().map(point).collect()
    };
    let lines = runs.iter().zip(days).enumerate();
    plot(
        lines
            .map(|(at, (run, days))| (colour(at), line(run, days)))
            .collect(),
        Axes::of("index"),
    )
}

fn section(html: &mut String, title: &str, note: &str, plot: &str) {
    let _ = writeln!(
        html,
        "<h2>{title}</h2>\n<p class=\"note\">{note}</p>\n{plot}"
    );
}

fn keys(html: &mut String, runs: &[Run]) {
    if runs.len() < 2 {
        return;
    }
    // It stays in sight of whoever reads on.
    html.push_str("<p class=\"keys\">");
    for (index, run) in runs.iter().enumerate() {
        let RGBColor(red, green, blue) = colour(index);
        let _ = write!(
            html,
            "<span class=\"key\" style=\"background:rgb({red},{green},{blue})\"></span>{}",
            escape(&run.summary.name)
        );
    }
    html.push_str("</p>\n");
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

fn summary(html: &mut String, runs: &[Run]) {
    let summaries: Vec<&Summary> = runs.iter().map(|run| &run.summary).collect();
    html.push_str("<table>\n");
    for (row, line) in table::lines(&summaries).iter().enumerate() {
        let (open, close) = match row {
            0 => ("<th class=\"run\">", "</th>"),
            _ => ("<td>", "</td>"),
        };
        let cells = line
            .iter()
            .map(|text| format!("{open}{}{close}", escape(text)));
        let _ = writeln!(html, "<tr>{}</tr>", cells.collect::<String>());
    }
    let from = table::measured_from(&summaries).map(|from| format!("; {from}"));
    let _ = writeln!(
        html,
        "</table>\n<p class=\"note\">Events are those that a model scored and whose label came back{}.</p>",
        from.unwrap_or_default()
    );
}

fn updates(html: &mut String, updates: &[UpdateLine]) {
    let versions = updates.iter().filter(|line| line.version.is_some()).count();
    let accepted = updates.iter().filter(|line| line.accepted).count();
    let shortened = updates.iter().filter(|line| line.afresh).count();
    let _ = writeln!(
        html,
        "<p>{} periods with labels, {versions} versions, {accepted} took traffic, {shortened} started afresh.</p>",
        updates.len()
    );
    let of_calibrated = updates.iter().filter_map(|line| {
        let calibration = line.calibration?;
        Some((line.version?, line.time_us, calibration))
    });
    html.push_str(&calibrated(&of_calibrated.collect::<Vec<_>>()));
    let refused: Vec<&UpdateLine> = updates
        .iter()
        .filter(|line| is_refused(line) || line.duplicate_labels > 0)
        .collect();
    let waiting: Vec<&UpdateLine> = updates.iter().filter(|line| line.waits).collect();
    if let Some(last) = waiting.last() {
        let _ = writeln!(
            html,
            "<p>{} periods until {} had too few labels for a first model.</p>",
            waiting.len(),
            rfc3339(last.time_us)
        );
    }
    if refused.is_empty() {
        html.push_str("<p>None was refused.</p>\n");
        return;
    }
    let _ = writeln!(
        html,
        "<details><summary>{} periods in which something was refused or came twice</summary>\n\
         <table><tr><th>until</th><th>version</th><th>labels</th><th>frauds</th><th>what, and why</th></tr>",
        refused.len()
    );
    for line in refused {
        let mut what: Vec<String> = line.reason.iter().cloned().collect();
        what.extend(
            line.rolled_back
                .iter()
                .map(|reason| format!("rolled back: {reason}")),
        );
        if line.duplicate_labels > 0 {
            what.push(format!(
                "{} labels came again, and were learned once",
                line.duplicate_labels
            ));
        }
        let version = line
            .version
            .map_or("–".to_owned(), |version| version.to_string());
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{version}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>",
            rfc3339(line.time_us),
            line.labels,
            line.frauds,
            escape(&what.join("; "))
        );
    }
    html.push_str("</table></details>\n");
}

/// What is said of versions whose probabilities were calibrated: number, end of the period, and line of each.
fn calibrated(versions: &[(u64, i64, Calibration)]) -> String {
    let Some((version, until_us, line)) = versions.last() else {
        return "<p>No version's probabilities were calibrated.</p>\n".to_owned();
    };
    format!(
        "<p>The probabilities of {} versions were calibrated, the last of them those of version {version}, of {}: its log \
         odds z became {:.2} z {:+.2}.</p>\n",
        versions.len(),
        rfc3339(*until_us),
        line.slope,
        line.intercept
    )
}

/// An index, or a share.
fn measured(measure: Measure, value: f64) -> String {
    match measure {
        Measure::StabilityIndex => format!("{value:.2}"),
        Measure::ShareBeyond => format!("{:.2}%", 100.0 * value),
    }
}

fn alarms(html: &mut String, alarms: &[Alarm]) {
    if alarms.is_empty() {
        html.push_str("<p>No input of a scored event moved farther than usual.</p>\n");
        return;
    }
    html.push_str(
        "<details><summary>Inputs of scored events that moved, when they were scored</summary>\n\
         <table><tr><th>until</th><th>input</th><th>what</th><th>how much</th><th>usual, at most</th></tr>\n",
    );
    for alarm in alarms {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{}</td><td>{}</td></tr>",
            rfc3339(alarm.until_us),
            escape(&alarm.input),
            alarm.measure.name(),
            measured(alarm.measure, alarm.value),
            measured(alarm.measure, alarm.usual)
        );
    }
    html.push_str("</table></details>\n");
}

fn contributions(html: &mut String, run: &Run) {
    if run.contributions.is_empty() {
        return;
    }
    html.push_str(
        "<h3>What each input contributes</h3>\n<p class=\"note\">How much worse the last version is on the newest \
         labelled events where the input's values are exchanged among them.</p>\n\
         <table><tr><th>input</th><th>log loss rises by</th><th>average precision falls by</th></tr>\n",
    );
    for contribution in &run.contributions {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{:.5}</td><td>{:.4}</td></tr>",
            escape(&contribution.input),
            contribution.log_loss,
            contribution.precision
        );
    }
    html.push_str("</table>\n");
}

/// A line a run over the days.
fn by_day(days: &[Vec<Day>], value: &dyn Fn(&Day) -> Option<f64>, axes: Axes<'_>) -> String {
    let lines: Vec<Vec<(f64, f64)>> = days
        .iter()
        .map(|days| {
            let point = |day: &Day| Some((day_number(day), value(day)?));
            days.iter().filter_map(point).collect()
        })
        .collect();
    let lines = lines
        .into_iter()
        .enumerate()
        .map(|(index, line)| (colour(index), line))
        .collect();
    plot(lines, axes)
}

fn drift(days: &[Vec<Day>]) -> String {
    let percent = |days: &Vec<Day>, value: &dyn Fn(&Day) -> f64| -> Vec<(f64, f64)> {
        days.iter()
            .map(|day| (day_number(day), 100.0 * value(day)))
            .collect()
    };
    let mut lines = Vec::new();
    if let Some(first) = days.first() {
        lines.push((
            RGBColor(190, 190, 190),
            percent(first, &|day| day.fraud_rate),
        ));
    }
    for (index, days) in days.iter().enumerate() {
        lines.push((colour(index), percent(days, &|day| day.mean_score)));
    }
    plot(lines, Axes::of("percent"))
}

fn calibration(runs: &[Run]) -> String {
    let point = |(score, share): &(f64, f64)| {
        (*score > 0.0 && *share > 0.0).then(|| (score.log10(), share.log10()))
    };
    let mut lines: Lines = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let groups = run.tally.reliability();
        lines.push((colour(index), groups.iter().filter_map(point).collect()));
    }
    let all = lines
        .iter()
        .flat_map(|(_, line)| line)
        .flat_map(|(x, y)| [*x, *y]);
    let low = all.fold(0.0_f64, f64::min);
    lines.insert(0, (RGBColor(190, 190, 190), vec![(low, low), (0.0, 0.0)]));
    let axes = Axes {
        x: Some("log10 of the mean score"),
        ..Axes::of("log10 of the share of frauds")
    };
    plot(lines, axes)
}

fn day_number(day: &Day) -> f64 {
    day.day_us as f64 / 86_400e6
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::tally::Tally;

    #[test]
    fn each_number_of_a_run_is_a_row_and_each_run_a_column() {
        let run = |name: &str| {
            let tally = Tally::new(i64::MIN, 0.25);
            Run {
                summary: tally.summary(name, &[], 7.0, 10),
                tally,
                contributions: Vec::new(),
            }
        };
        let page = page(&[run("as the project is"), run("a.b=\"<x>\"")]);
        for row in [
            "<tr><th class=\"run\">run</th><th class=\"run\">as the project is</th><th class=\"run\">\
             a.b=&quot;&lt;x&gt;&quot;</th></tr>",
            "<tr><td>log loss</td><td>–</td><td>–</td></tr>",
            "<tr><td>all</td><td>7 s</td><td>7 s</td></tr>",
        ] {
            assert!(page.contains(row), "{page}");
        }
    }

    #[test]
    fn calibration_is_told_of_the_last_version_that_has_one() {
        assert!(calibrated(&[]).contains("No version's"));
        let line = |slope, intercept| Calibration { slope, intercept };
        let versions = [(3, 0, line(0.7, 0.2)), (4, 3_600_000_000, line(0.98, -1.5))];
        let told = calibrated(&versions);
        let expected = "of 2 versions were calibrated, the last of them those of version 4, of 1970-01-01T01:00:00Z: \
             its log odds z became 0.98 z -1.50.";
        assert!(told.contains(expected), "{told}");
    }
}
