//! Mistakes that can be seen in a view's syntax.
//!
//! Whether a statement is right is the planner's to say. Where it refuses one, it often says what it could not do
//! rather than what was written, and not where: then what is found here is said in its place. So nothing here can
//! refuse a view that has a plan.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, GroupByExpr, Ident, Interval, NamedWindowExpr, OrderByExpr, Select, SelectItem,
    SetExpr, Statement as SqlStatement, TableFactor, Value, ValueWithSpan, Visit, WindowFrameBound,
    WindowFrameUnits, WindowSpec, WindowType, visit_expressions,
};

use crate::frame::{not_a_length, with_unit};
use crate::plan::Planner;
use crate::problem::{Complaint, known_names, name_span, sql_span};
use crate::stream::{Stream, table_name};
use crate::view::{FeatureView, not_a_stream};
use crate::words;

mod joins;

/// What a statement may name.
pub(crate) struct Slips<'a> {
    pub(crate) planner: &'a Planner,
    pub(crate) streams: &'a [Arc<Stream>],
    pub(crate) views: &'a [Arc<FeatureView>],
}

impl Slips<'_> {
    /// The first one in a feature view.
    pub(crate) fn in_feature_view(&self, statement: &Statement) -> Option<Complaint> {
        let select = select_of(statement)?;
        (self.wrong_source(select))
            .or_else(|| wrong_clause(select))
            .or_else(|| inner_query(select))
            .or_else(|| self.aggregate_in_filter(select))
            .or_else(|| wrong_window(select))
            .or_else(|| self.wrong_order(select))
            .or_else(|| wrong_edge(select))
            .or_else(|| wrong_interval(select))
            .or_else(|| twice(select))
            .or_else(|| self.aggregate_of_events(select))
    }

    /// A view in FROM of a feature view. It has no event time, and what its plan lacks is seldom what is wrong.
    pub(crate) fn view_as_source(&self, statement: &Statement) -> Option<Complaint> {
        let relation = &select_of(statement)?.from.first()?.relation;
        let name = relation_name(relation)?;
        let view = self.views.iter().find(|view| view.name == name)?;
        Some(not_a_stream(&view.name).span(sql_span(relation)))
    }

    /// The first one in a view of inputs.
    pub(crate) fn in_inputs(&self, statement: &Statement) -> Option<Complaint> {
        let select = select_of(statement)?;
        (self.wrong_join(select))
            .or_else(|| {
                group(
                    select,
                    "GROUP BY gives one row a group, and each event has inputs of its own",
                )
            })
            .or_else(|| inner_query(select))
            .or_else(|| self.aggregate_of_inputs(select))
            .or_else(|| wrong_interval(select))
            .or_else(|| twice(select))
    }

    /// FROM is one stream.
    fn wrong_source(&self, select: &Select) -> Option<Complaint> {
        let Some(first) = select.from.first() else {
            let names: Vec<&str> = self.streams.iter().map(|s| s.name.as_str()).collect();
            return Some(
                Complaint::new("the view names no stream")
                    .hint(format!("add FROM, and one of {}", names.join(", "))),
            );
        };
        let second = first.joins.first().map(|join| &join.relation);
        if let Some(other) = second.or(select.from.get(1).map(|other| &other.relation)) {
            return Some(
                Complaint::new("a feature view reads one stream, without joins")
                    .hint("make one view a stream, and join the views in inputs.sql")
                    .span(sql_span(other)),
            );
        }
        match &first.relation {
            TableFactor::Table { .. } => None,
            other => Some(
                Complaint::new("a feature view reads a stream, and FROM has something else")
                    .hint("FROM transactions; a WHERE stands beside it")
                    .span(sql_span(other)),
            ),
        }
    }

    fn stream(&self, select: &Select) -> Option<&Stream> {
        let name = relation_name(&select.from.first()?.relation)?;
        let stream = self.streams.iter().find(|stream| stream.name == name);
        stream.map(Arc::as_ref)
    }

    /// Every window is ordered by the event time.
    fn wrong_order(&self, select: &Select) -> Option<Complaint> {
        let stream = self.stream(select)?;
        let time = stream.schema.field(stream.time).name();
        let hint = format!("write ORDER BY {time}: the event time");
        windows(select).into_iter().find_map(|window| {
            let complaint = |message: String, at: Option<_>| {
                Some(Complaint::new(message).hint(hint.clone()).span(at))
            };
            let [order] = window.order_by.as_slice() else {
                return match window.order_by.get(1) {
                    Some(second) => complaint(
                        "the window is ordered by more than the event time".to_owned(),
                        sql_span(second),
                    ),
                    // That it has no PARTITION BY either is said of its plan.
                    None if window.partition_by.is_empty() && window.window_frame.is_none() => None,
                    None => complaint(
                        "the window has no ORDER BY".to_owned(),
                        window.partition_by.last().and_then(sql_span),
                    ),
                };
            };
            let column = column_name(&order.expr);
            if column.as_deref() == Some(time) {
                return newest_first(order);
            }
            // What there is not, the planner names.
            let is_known = column.is_none_or(|name| stream.schema.index_of(&name).is_ok());
            let message = format!("the window is ordered by '{}'", order.expr);
            complaint(message, sql_span(&order.expr)).filter(|_| is_known)
        })
    }

    /// An aggregate of a feature view is over a window.
    fn aggregate_of_events(&self, select: &Select) -> Option<Complaint> {
        let is_bare = |function: &Function| {
            function.over.is_none() && self.planner.is_aggregate(&name_of(function))
        };
        let window = match select.named_window.first() {
            Some(named) => named.0.to_string(),
            None => "(PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND \
                     CURRENT ROW)"
                .to_owned(),
        };
        function(&select.projection, is_bare, |function| {
            Complaint::new(format!(
                "{}() has no OVER: of which events is it taken?",
                name_of(function)
            ))
            .hint(format!("{function} OVER {window}"))
        })
    }

    /// FILTER looks at each event alone.
    fn aggregate_in_filter(&self, select: &Select) -> Option<Complaint> {
        let is_of_many = |function: &Function| {
            function.over.is_some() || self.planner.is_aggregate(&name_of(function))
        };
        let complaint = |expr: &Expr| match expr {
            Expr::Function(outer) => {
                function(&outer.filter, is_of_many, |_| words::aggregate_in_filter())
            }
            _ => None,
        };
        let filtered = expression(&select.projection, |expr| complaint(expr).is_some())?;
        complaint(&filtered)
    }

    /// An event of a model's inputs is one row.
    fn aggregate_of_inputs(&self, select: &Select) -> Option<Complaint> {
        let is_one = |function: &Function| {
            function.over.is_some() || self.planner.is_aggregate(&name_of(function))
        };
        function(&select.projection, is_one, |function| {
            Complaint::new(format!(
                "{}() is an aggregate, and inputs are of one event",
                name_of(function)
            ))
            .hint("compute it in a feature view, and join the view here")
        })
    }
}

/// A view's SELECT.
pub(crate) fn select_of(statement: &Statement) -> Option<&Select> {
    let Statement::Statement(statement) = statement else {
        return None;
    };
    let SqlStatement::CreateView(view) = statement.as_ref() else {
        return None;
    };
    select_in(&view.query.body)
}

/// A SELECT, whether or not it stands in brackets.
fn select_in(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => select_in(&query.body),
        _ => None,
    }
}

/// Clauses that would make another set of rows.
fn wrong_clause(select: &Select) -> Option<Complaint> {
    let grouped = group(
        select,
        "GROUP BY gives one row a group, and a feature is asked for at a time",
    );
    if grouped.is_some() {
        return grouped;
    }
    if let Some(wildcard) = select.projection.iter().find(|item| is_wildcard(item)) {
        return Some(
            Complaint::new("* is the columns of one event, and an answer has no event of its own")
                .hint("name the entity and its aggregates: SELECT card_id, count(*) OVER … AS n")
                .span(sql_span(wildcard)),
        );
    }
    let is_over = |function: &Function| function.over.is_some();
    function(&select.selection, is_over, |_| words::aggregate_in_where())
}

/// GROUP BY, and why it cannot be.
fn group(select: &Select, why: &str) -> Option<Complaint> {
    let GroupByExpr::Expressions(columns, _) = &select.group_by else {
        return None;
    };
    let column = columns.first()?;
    Some(
        Complaint::new(why)
            .hint(
                "in a feature view use count(*) OVER (PARTITION BY … ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' \
                 PRECEDING AND CURRENT ROW)",
            )
            .span(sql_span(column)),
    )
}

fn is_wildcard(item: &SelectItem) -> bool {
    matches!(
        item,
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
    )
}

fn inner_query(select: &Select) -> Option<Complaint> {
    let is_query = |expr: &Expr| {
        matches!(
            expr,
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. }
        )
    };
    let query = expression(&select.projection, is_query)
        .or_else(|| expression(&select.selection, is_query))?;
    Some(
        Complaint::new("a query inside the query is not kept up")
            .hint("make a view of it over its stream, and join the views in inputs.sql")
            .span(sql_span(&query)),
    )
}

/// The names of windows: each is declared once.
fn wrong_window(select: &Select) -> Option<Complaint> {
    let declared = |name: &Ident| {
        let mut all = select.named_window.iter();
        all.any(|named| named.0.value.eq_ignore_ascii_case(&name.value))
    };
    for (place, named) in select.named_window.iter().enumerate() {
        let mut before = select.named_window.iter().take(place);
        if before.any(|other| other.0.value.eq_ignore_ascii_case(&named.0.value)) {
            return Some(
                Complaint::new(format!("window '{}' is declared twice", named.0.value))
                    .hint("give one of them another name, and use that after OVER")
                    .span(sql_span(named)),
            );
        }
    }
    let is_unknown = |function: &Function| match &function.over {
        Some(WindowType::NamedWindow(name)) => !declared(name),
        _ => false,
    };
    let unknown = expression(
        &select.projection,
        |expr| matches!(expr, Expr::Function(function) if is_unknown(function)),
    );
    if let Some(Expr::Function(function)) = unknown
        && let Some(WindowType::NamedWindow(name)) = &function.over
    {
        return Some(no_such_window(select, name));
    }
    let inside = |expr: &Expr| {
        let Expr::Function(outer) = expr else {
            return false;
        };
        let is_over = |expr: &Expr| matches!(expr, Expr::Function(inner) if inner.over.is_some());
        outer.over.is_some() && expression(&outer.args, is_over).is_some()
    };
    expression(&select.projection, inside).map(|outer| {
        Complaint::new("an aggregate over a window stands inside another one")
            .hint("take each of the events themselves, and combine the two: max(amount) OVER d1 / avg(amount) OVER d7")
            .span(sql_span(&outer))
    })
}

fn no_such_window(select: &Select, name: &Ident) -> Complaint {
    let names: Vec<&str> = select
        .named_window
        .iter()
        .map(|named| named.0.value.as_str())
        .collect();
    let (message, hint) = match (name.value.eq_ignore_ascii_case("as"), names.is_empty()) {
        (true, _) => (
            "OVER names no window".to_owned(),
            "OVER d1, of WINDOW d1 AS (…); or OVER (PARTITION BY … ORDER BY …)".to_owned(),
        ),
        (false, true) => (
            format!("there is no window '{}'", name.value),
            format!(
                "declare it behind FROM: WINDOW {} AS (PARTITION BY … ORDER BY … RANGE BETWEEN …)",
                name.value
            ),
        ),
        (false, false) => (
            format!("there is no window '{}'", name.value),
            known_names("window", &name.value, &names),
        ),
    };
    Complaint::new(message).hint(hint).span(name_span(name))
}

fn newest_first(order: &OrderByExpr) -> Option<Complaint> {
    (order.options.asc == Some(false)).then(|| {
        Complaint::new("the window is ordered from the newest event to the oldest")
            .hint("drop DESC: PRECEDING looks back from the newest event")
            .span(sql_span(&order.expr))
    })
}

/// The edges of frames: RANGE counts time, ROWS counts events.
fn wrong_edge(select: &Select) -> Option<Complaint> {
    let frames = windows(select)
        .into_iter()
        .filter_map(|window| window.window_frame);
    let mut edges = frames.flat_map(|frame| {
        [Some(frame.start_bound), frame.end_bound].map(|edge| (frame.units, edge))
    });
    edges.find_map(|(units, edge)| {
        let (WindowFrameBound::Preceding(Some(expr)) | WindowFrameBound::Following(Some(expr))) =
            edge?
        else {
            return None;
        };
        let complaint = match (units, number(&expr), length(&expr)) {
            (WindowFrameUnits::Range, Some(number), _) => {
                Complaint::new(format!("{number} is not a length of time")).hint(format!(
                    "RANGE counts time: INTERVAL '{number} seconds' PRECEDING; to count events write ROWS BETWEEN \
                     {number} PRECEDING AND CURRENT ROW"
                ))
            }
            (WindowFrameUnits::Range, None, Some(text)) if !text.chars().any(char::is_alphabetic) => {
                Complaint::new(format!("'{text}' has no unit"))
                    .hint(with_unit(&text))
            }
            (WindowFrameUnits::Range, None, Some(text)) => not_a_length(&text)?,
            (WindowFrameUnits::Rows, None, Some(_)) => {
                Complaint::new(format!("ROWS counts events, and {expr} is a length of time"))
                    .hint(format!("use RANGE BETWEEN {expr} PRECEDING AND CURRENT ROW"))
            }
            (WindowFrameUnits::Rows, Some(number), _) if number.parse::<u64>().is_err() => {
                Complaint::new(format!("'{number}' is not a number of rows"))
                    .hint("use a whole number: ROWS BETWEEN 10 PRECEDING AND CURRENT ROW")
            }
            _ => return None,
        };
        Some(complaint.span(sql_span(expr.as_ref())))
    })
}

/// A number of SQL as it is written.
fn number(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(ValueWithSpan {
            value: Value::Number(number, _),
            ..
        }) => Some(number.to_string()),
        Expr::UnaryOp { op, expr } => number(expr).map(|number| format!("{op}{number}")),
        _ => None,
    }
}

/// The text of an interval, with its unit.
fn length(expr: &Expr) -> Option<String> {
    let (value, unit) = match expr {
        Expr::Interval(Interval {
            value,
            leading_field,
            ..
        }) => (value.as_ref(), leading_field.as_ref()),
        other => (other, None),
    };
    match value {
        Expr::Value(ValueWithSpan {
            value: Value::SingleQuotedString(text),
            ..
        }) => Some(match unit {
            Some(unit) => format!("{text} {unit}"),
            None => text.clone(),
        }),
        _ => None,
    }
}

/// An INTERVAL that is none.
fn wrong_interval(select: &Select) -> Option<Complaint> {
    let complaint = |expr: &Expr| {
        let Expr::Interval(interval) = expr else {
            return None;
        };
        match length(expr) {
            Some(text) => not_a_length(&text),
            None => match number(&interval.value) {
                Some(number) => {
                    let unit = interval.leading_field.as_ref();
                    let unit =
                        unit.map_or("days".to_owned(), |unit| unit.to_string().to_lowercase());
                    let in_quotes = Complaint::new("the length of an INTERVAL stands in quotes");
                    Some(in_quotes.hint(format!("INTERVAL '{number} {unit}'")))
                }
                None => no_constant(&interval.value),
            },
        }
        .map(|complaint| complaint.span(sql_span(interval.value.as_ref())))
    };
    let found = expression(select, |expr| complaint(expr).is_some())?;
    complaint(&found)
}

/// What stands behind INTERVAL and is neither a text nor a number; sums of them and signs the planner knows.
fn no_constant(value: &Expr) -> Option<Complaint> {
    let is_known = match value {
        Expr::Value(value) => matches!(
            value.value,
            Value::SingleQuotedString(_) | Value::DoubleQuotedString(_) | Value::Number(..)
        ),
        Expr::BinaryOp { .. } | Expr::UnaryOp { .. } => true,
        _ => false,
    };
    (!is_known).then(|| {
        Complaint::new(format!(
            "an INTERVAL is a fixed length of time, and {value} is none"
        ))
        .hint("write it in quotes, with its unit: INTERVAL '1 hour'")
    })
}

/// Every column of a view has a name of its own.
fn twice(select: &Select) -> Option<Complaint> {
    let mut known: Vec<String> = Vec::new();
    for item in &select.projection {
        let named = match item {
            SelectItem::ExprWithAlias { alias, .. } => {
                Some((table_name(&alias.to_string()), name_span(alias)))
            }
            SelectItem::UnnamedExpr(expr) => column_name(expr).map(|name| (name, sql_span(expr))),
            _ => None,
        };
        let Some((name, span)) = named else { continue };
        if known.contains(&name) {
            return Some(
                Complaint::new(format!("two columns of the view are named '{name}'"))
                    .hint(format!("give one of them another name: AS {name}_2"))
                    .span(span),
            );
        }
        known.push(name);
    }
    None
}

/// The windows of a SELECT: those with a name, and those behind an OVER.
fn windows(select: &Select) -> Vec<WindowSpec> {
    let named = select.named_window.iter();
    let mut windows: Vec<WindowSpec> = named
        .filter_map(|named| match &named.1 {
            NamedWindowExpr::WindowSpec(spec) => Some(spec.clone()),
            NamedWindowExpr::NamedWindow(_) => None,
        })
        .collect();
    let _ = visit_expressions(&select.projection, |expr| {
        if let Expr::Function(function) = expr
            && let Some(WindowType::WindowSpec(spec)) = &function.over
        {
            windows.push(spec.clone());
        }
        ControlFlow::<()>::Continue(())
    });
    windows
}

/// The first expression of that kind in a piece of syntax.
fn expression(syntax: &impl Visit, is_one: impl Fn(&Expr) -> bool) -> Option<Expr> {
    let found = visit_expressions(syntax, |expr| match is_one(expr) {
        true => ControlFlow::Break(expr.clone()),
        false => ControlFlow::Continue(()),
    });
    found.break_value()
}

/// A complaint about the first call of that kind in a piece of syntax.
fn function(
    syntax: &impl Visit,
    is_one: impl Fn(&Function) -> bool,
    complaint: impl Fn(&Function) -> Complaint,
) -> Option<Complaint> {
    let call = |expr: &Expr| matches!(expr, Expr::Function(function) if is_one(function));
    match expression(syntax, call)? {
        Expr::Function(function) => Some(complaint(&function).span(sql_span(&function.name))),
        _ => None,
    }
}

fn name_of(function: &Function) -> String {
    function.name.to_string().to_lowercase()
}

/// The name of a column, without its table's.
fn column_name(expr: &Expr) -> Option<String> {
    let name = match expr {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(names) => names.last()?,
        _ => return None,
    };
    Some(table_name(&name.to_string()))
}

fn relation_name(relation: &TableFactor) -> Option<String> {
    match relation {
        TableFactor::Table { name, .. } => Some(table_name(&name.to_string())),
        _ => None,
    }
}
