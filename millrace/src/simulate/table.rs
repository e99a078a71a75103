//! The runs in numbers, at a terminal and in report.html: a column a run, so that neither is too narrow for them.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::tally::Summary;

/// What the values of a run are.
const TITLES: [&str; 16] = [
    "run",
    "events, scored and labelled",
    "frauds",
    "average precision",
    "ROC AUC",
    "log loss",
    "calibration error",
    "mean score",
    "fraud rate",
    "versions",
    "accepted",
    "rejected",
    "periods put aside",
    "rolled back",
    "learning",
    "all",
];

/// Lines of a title and a value a run; the first has the runs' names.
pub(super) fn lines(summaries: &[&Summary]) -> Vec<Vec<String>> {
    let mut lines: Vec<Vec<String>> = TITLES
        .iter()
        .map(|title| vec![(*title).to_owned()])
        .collect();
    for summary in summaries {
        for (line, value) in lines.iter_mut().zip(values(summary)) {
            line.push(value);
        }
    }
    lines
}

fn values(summary: &Summary) -> [String; 16] {
    let quality = &summary.quality;
    [
        summary.name.clone(),
        quality.events.to_string(),
        quality.frauds.to_string(),
        number(quality.average_precision, 4),
        number(quality.roc_auc, 4),
        number(quality.log_loss, 5),
        number(quality.calibration_error, 5),
        number(quality.mean_score, 5),
        number(quality.fraud_rate, 5),
        summary.versions.to_string(),
        summary.accepted.to_string(),
        summary.rejected.to_string(),
        summary.periods_put_aside.to_string(),
        summary.rollbacks.to_string(),
        format!("{:.0} s", summary.learning_seconds),
        format!("{:.0} s", summary.seconds),
    ]
}

/// A number with so many decimals, or a dash where there is none.
fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.decimals$}"))
}

/// The runs for a terminal, and from when on they are measured.
pub(super) fn table(summaries: &[&Summary]) -> String {
    let mut lines = lines(summaries).into_iter();
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_header(lines.next().unwrap_or_default());
    for line in lines {
        table.add_row(line);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    match measured_from(summaries) {
        None => table.to_string(),
        Some(from) => format!("{table}\n{from}"),
    }
}

/// From when on the runs are measured, where that is not from the first model's first event on.
pub(super) fn measured_from(summaries: &[&Summary]) -> Option<String> {
    let from = summaries.first()?.quality.from.as_ref()?;
    Some(match summaries.len() {
        1 => format!("measured on events from {from} on"),
        _ => format!("measured on the same events of each run, from {from} on"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::tally::Tally;

    #[test]
    fn a_run_is_a_column_and_the_table_says_from_when_on_is_measured() {
        let run = |name: &str, from_us| Tally::new(from_us, 0.25).summary(name, &[], 7.0, 10);
        let runs = [
            run("as the project is", 0),
            run("learner.training.members=1,learner.training.hidden=[]", 0),
        ];
        let both: Vec<&Summary> = runs.iter().collect();
        let lines = lines(&both);
        assert_eq!(
            lines[0],
            [
                "run",
                "as the project is",
                "learner.training.members=1,learner.training.hidden=[]"
            ]
        );
        assert_eq!(lines[5], ["log loss", "–", "–"]);
        assert_eq!(lines[15], ["all", "7 s", "7 s"]);
        let shown = table(&both);
        let from = "\nmeasured on the same events of each run, from 1970-01-01T00:00:00Z on";
        assert!(shown.ends_with(from), "{shown}");
        // One run fits into a terminal of the least width.
        let alone = table(&[&run("as the project is", i64::MIN)]);
        let widest = alone.lines().map(|line| line.chars().count()).max();
        assert!(widest < Some(80), "{alone}");
        assert!(!alone.contains("measured on"), "{alone}");
    }
}
