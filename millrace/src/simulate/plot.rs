//! Lines as SVG, for report.html.

use std::ops::Range;

use plotters::prelude::*;

use super::report::escape;
use crate::times::rfc3339;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 280;

/// A colour and the points of each line.
pub(super) type Lines = Vec<(RGBColor, Vec<(f64, f64)>)>;

/// What the axes are.
pub(super) struct Axes<'a> {
    /// Title of x; none where dates tell what it is.
    pub(super) x: Option<&'a str>,
    /// Title of y.
    pub(super) y: &'a str,
    /// Least and largest y, where not from 0 to what there is.
    pub(super) range: Option<Range<f64>>,
}

impl<'a> Axes<'a> {
    /// Dates, and what is counted or measured on them.
    pub(super) fn of(y: &'a str) -> Self {
        Self {
            x: None,
            y,
            range: None,
        }
    }
}

/// Lines as SVG. An x above 10,000 is a day since 1970, and shown as a date.
pub(super) fn plot(lines: Lines, axes: Axes<'_>) -> String {
    let points = || lines.iter().flat_map(|(_, line)| line);
    let bounds = |value: &dyn Fn(&(f64, f64)) -> f64| {
        let values = points().map(value);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        })
    };
    if points().next().is_none() {
        return "<p>There is nothing to show.</p>".to_owned();
    }
    let (first, last) = bounds(&|point| point.0);
    let x = first..last.max(first + 1e-9);
    let y = axes.range.clone().unwrap_or_else(|| {
        let (low, high) = bounds(&|point| point.1);
        let low = low.min(0.0);
        match high > low {
            true => low..high + 0.05 * (high - low),
            // Nothing but zeros: numbers of an axis without a length would all be the same.
            false => low..low + 1.0,
        }
    });
    let mut svg = String::new();
    // Drawing into a text cannot fail but for a bug of the library; the page then lacks a plot.
    let drawn = draw(&mut svg, &lines, &axes, x, y);
    match drawn {
        Ok(()) => svg,
        Err(error) => format!("<p>The plot could not be drawn: {}</p>", escape(&error)),
    }
}

fn draw(
    svg: &mut String,
    lines: &[(RGBColor, Vec<(f64, f64)>)],
    axes: &Axes<'_>,
    x: Range<f64>,
    y: Range<f64>,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let area = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    let dates = x.start > 10_000.0;
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(48)
        .x_label_area_size(if axes.x.is_some() { 44 } else { 28 })
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)
        .map_err(|e| text(&e))?;
    let date = |day: &f64| match dates {
        true => rfc3339((*day * 86_400e6) as i64).chars().take(10).collect(),
        false => number(*day),
    };
    let value = |value: &f64| number(*value);
    {
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&date)
            .y_label_formatter(&value)
            .y_desc(axes.y);
        if let Some(title) = axes.x {
            mesh.x_desc(title);
        }
        mesh.draw().map_err(|e| text(&e))?;
    }
    for (colour, line) in lines {
        let style = colour.stroke_width(2);
        let series = LineSeries::new(line.iter().copied(), style);
        chart.draw_series(series).map_err(|e| text(&e))?;
    }
    area.present().map_err(|e| text(&e))
}

/// A number of an axis, with the decimals that it has: a count has none.
fn number(value: f64) -> String {
    let rounded = (value * 1e5).round() / 1e5;
    // There is a negative zero, too.
    if rounded == 0.0 {
        return "0".to_owned();
    }
    rounded.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written in a plot, in the order of writing.
    fn texts(svg: &str) -> Vec<&str> {
        let texts = svg.split("</text>").filter_map(|part| {
            let (_, text) = part.rsplit_once('>')?;
            Some(text.trim())
        });
        texts.filter(|text| !text.is_empty()).collect()
    }

    fn plot_of(points: &[(f64, f64)], axes: Axes<'_>) -> String {
        plot(vec![(BLACK, points.to_vec())], axes)
    }

    #[test]
    fn an_axis_has_a_title_and_numbers_that_differ() {
        let days = |values: [f64; 2]| {
            let [first, second] = values;
            plot_of(
                &[(17_622.0, first), (17_623.0, second)],
                Axes::of("versions"),
            )
        };
        for (values, has, lacks) in [
            ([0.0, 0.0], ["versions", "0.2", "0.8"], "0.0"),
            ([0.0, 5.0], ["versions", "1", "5"], "5.0"),
            ([0.25, 0.5], ["versions", "0.1", "0.5"], "0.0"),
        ] {
            let svg = days(values);
            let texts = texts(&svg);
            for text in has {
                assert!(texts.contains(&text), "{values:?} lacks {text}: {texts:?}");
            }
            assert!(!texts.contains(&lacks), "{values:?}: {texts:?}");
            assert!(texts.contains(&"2018-04-01"), "{texts:?}");
            let zeros = texts.iter().filter(|text| **text == "0").count();
            assert_eq!(zeros, 1, "{values:?}: {texts:?}");
        }
    }

    #[test]
    fn an_axis_of_numbers_has_a_title_too() {
        let axes = Axes {
            x: Some("score"),
            ..Axes::of("share")
        };
        let svg = plot_of(&[(-2.0, -2.0), (0.0, 0.0)], axes);
        let texts = texts(&svg);
        for text in ["score", "share", "-2", "-1", "0"] {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
    }

    #[test]
    fn a_number_has_the_decimals_that_it_has() {
        for (value, expected) in [
            (5.0, "5"),
            (0.1 + 0.2, "0.3"),
            (-1e-12, "0"),
            (-0.0, "0"),
            (0.00012, "0.00012"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(number(value), expected);
        }
    }
}
