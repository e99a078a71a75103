//! A view of very many columns is planned in parts, and means what it means whole.

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;

use super::super::Planning;
use super::{SOURCES, file, problems};
use crate::syntax::Declares;
use crate::view::FeatureView;

const MANY: usize = 130;

/// A view with an item a line from line 2 on: some aggregates and windows come again and again.
fn view(item: impl Fn(usize) -> String, order: impl Fn(usize) -> &'static str) -> String {
    let items: Vec<String> = (0..MANY).map(item).collect();
    let window = |number: usize| {
        let order = order(number);
        format!(
            "w{number} AS (PARTITION BY card_id ORDER BY event_time{order} RANGE BETWEEN INTERVAL '{} hours' PRECEDING AND \
             CURRENT ROW)",
            number + 1
        )
    };
    let windows: Vec<String> = (0..5).map(window).collect();
    format!(
        "CREATE VIEW v AS SELECT card_id,\n{}\nFROM tx WHERE approved WINDOW {}",
        items.join(",\n"),
        windows.join(", ")
    )
}

fn item(number: usize) -> String {
    let (least, window) = (number % 7, number % 5);
    format!("coalesce(sum(amount) FILTER (WHERE n > {least}) OVER w{window}, 0) AS s{number}")
}

fn statement(text: &str) -> Statement {
    let parser = DFParserBuilder::new(text)
        .with_dialect(&GenericDialect {})
        .build();
    let statements = parser.and_then(|mut parser| parser.parse_statements());
    statements.unwrap().pop_front().unwrap()
}

fn planning() -> Planning {
    let mut planning = Planning::new();
    let sources = file("sources.sql", SOURCES);
    planning.file(&sources, Declares::Streams, Planning::stream);
    planning
}

#[test]
fn parts_are_the_whole() {
    let planning = planning();
    let statement = statement(&view(item, |_| ""));
    let (name, whole) = planning.view_plan(statement.clone()).unwrap();
    let (same, parts) = planning.feature_plans(statement).unwrap();
    assert_eq!((same.as_str(), parts.len()), (name.as_str(), 3));
    let view = |plans: &[_]| {
        let (streams, planner) = (&planning.streams, &planning.planner);
        FeatureView::plan(&name, plans, None, streams, planner).unwrap()
    };
    let (whole, parts) = (view(&[whole]), view(&parts));
    assert_eq!(parts.features().count(), MANY);
    assert_eq!(parts.schema, whole.schema);
    assert_eq!(parts.definition(), whole.definition());
    assert_eq!(parts.id, whole.id);
}

/// DataFusion puts windows of one order together: parts would have their aggregates in another order.
#[test]
fn windows_of_several_orders_are_planned_whole() {
    let planning = planning();
    let text = view(item, |window| match window {
        3 => " NULLS FIRST",
        _ => "",
    });
    let (_, plans) = planning.feature_plans(statement(&text)).unwrap();
    assert_eq!(plans.len(), 1);
}

#[test]
fn a_mistake_in_any_part_has_its_place() {
    for (wrong, expected) in [
        (
            "coumt(*) OVER w0 AS s100",
            "102:1 there is no function 'coumt' | did you mean 'count'?",
        ),
        (
            "avg(approved) OVER w0 AS s100",
            "102:1 avg() takes numbers, and this is a condition",
        ),
        (
            "count(*) OVER w0 AS s3",
            "102:21 two columns of the view are named 's3' | give one of them another name: AS s3_2",
        ),
        ("count(*) OVER w9 AS s100", "102:15 there is no window 'w9'"),
    ] {
        let text = view(
            |number| match number {
                100 => wrong.to_owned(),
                _ => item(number),
            },
            |_| "",
        );
        let said = problems(&text);
        assert!(said.starts_with(expected), "{said}");
    }
}
