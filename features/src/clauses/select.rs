//! What stands in a SELECT.

use datafusion::sql::sqlparser::ast::{
    Distinct, GroupByExpr, NamedWindowDefinition, NamedWindowExpr, Select, SelectItem,
};

use super::calls::window_name;
use super::{Clause, Clauses, wrong_name};
use crate::problem::{Complaint, name_span, sql_span};

impl Clauses<'_> {
    pub(super) fn of_select(&self, select: &Select) -> Option<Complaint> {
        let Select {
            select_token: _,
            // A comment.
            optimizer_hints: _,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection: _,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            // FROM may stand before SELECT.
            flavor: _,
        } = select;
        const LEAVE: &str = "leave it out: a view is asked for one entity at a time";
        const ORDERED: &str = "leave it out: the events of an entity are in the order of time";
        const EACH: &str = "use count(*) OVER (PARTITION BY … ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' \
             PRECEDING AND CURRENT ROW)";
        let clauses = [
            Clause::new(
                matches!(distinct, Some(Distinct::On(_))),
                "DISTINCT",
                "DISTINCT ON keeps one event of several, which is not kept up",
                "last_value(x) OVER w is of the newest event, and first_value(x) OVER w of the oldest",
            ),
            Clause::new(
                matches!(distinct, Some(Distinct::Distinct)),
                "DISTINCT",
                "SELECT DISTINCT is not kept up",
                "drop DISTINCT; count(DISTINCT x) OVER w counts different values",
            ),
            Clause::new(
                top.is_some(),
                "TOP",
                "TOP has no meaning for a view that is asked for one entity at a time",
                "for the last n events use ROWS BETWEEN n PRECEDING AND CURRENT ROW",
            ),
            Clause::new(
                select_modifiers.is_some() || value_table_mode.is_some(),
                "AS STRUCT,AS VALUE,HIGH_PRIORITY,STRAIGHT_JOIN,SQL_SMALL_RESULT,SQL_BIG_RESULT,SQL_NO_CACHE,\
                 SQL_BUFFER_RESULT,SQL_CALC_FOUND_ROWS,DISTINCTROW",
                "a view's SELECT has no such word",
                LEAVE,
            ),
            Clause::new(
                exclude.is_some(),
                "EXCLUDE",
                "a view names its columns, and has nothing to EXCLUDE",
                "leave it out, and name the columns that the view has",
            ),
            Clause::new(
                into.is_some(),
                "INTO",
                "a view writes INTO no table: look-ups and joins ask for it",
                "leave it out; `millrace training-set` writes answers to a file",
            ),
            Clause::new(
                !lateral_views.is_empty(),
                "LATERAL VIEW",
                "LATERAL VIEW makes several rows of an event, and an event counts once",
                "give each its own message and stream",
            ),
            Clause::new(
                prewhere.is_some(),
                "PREWHERE",
                "PREWHERE is not kept up",
                "write WHERE: it chooses the events that count",
            ),
            Clause::new(
                !connect_by.is_empty(),
                "START WITH,CONNECT BY",
                "CONNECT BY follows rows to other rows, which is not kept up",
                "aggregate over the events of one entity: PARTITION BY card_id",
            ),
            Clause::new(
                matches!(group_by, GroupByExpr::All(_)),
                "GROUP BY",
                "GROUP BY gives one row a group, and a feature is asked for at a time",
                EACH,
            ),
            Clause::new(
                !cluster_by.is_empty(),
                "CLUSTER BY",
                "CLUSTER BY is not kept up",
                ORDERED,
            ),
            Clause::new(
                !distribute_by.is_empty(),
                "DISTRIBUTE BY",
                "DISTRIBUTE BY is not kept up",
                "leave it out: an entity is named by PARTITION BY inside OVER",
            ),
            Clause::new(
                !sort_by.is_empty(),
                "SORT BY",
                "SORT BY is not kept up",
                ORDERED,
            ),
            Clause::new(
                having.is_some() || qualify.is_some(),
                "HAVING,QUALIFY",
                "HAVING and QUALIFY filter answers, which a look-up cannot do",
                "use WHERE on events, FILTER (WHERE …) in an aggregate, or CASE over it",
            ),
            Clause::new(
                from.iter()
                    .any(|from| from.joins.iter().any(|join| join.global)),
                "GLOBAL",
                "a join is not GLOBAL: views are joined in memory",
                "leave the word out",
            ),
        ];
        self.first(sql_span(select), &clauses)
            .or_else(|| from.iter().find_map(|from| self.of_tables(from)))
            .or_else(|| named_window.iter().find_map(of_window))
            .or_else(|| projection.iter().find_map(of_item))
            .or_else(|| self.of_calls(select))
    }
}

/// The name that an item of SELECT is given.
fn of_item(item: &SelectItem) -> Option<Complaint> {
    match item {
        SelectItem::ExprWithAlias { expr: _, alias } => wrong_name("the column", alias),
        // The plan knows the names of these.
        _ => None,
    }
}

/// A window's name that another one builds on: the planner would leave out what it says.
fn of_window(window: &NamedWindowDefinition) -> Option<Complaint> {
    let NamedWindowDefinition(name, meaning) = window;
    let other = match meaning {
        NamedWindowExpr::NamedWindow(other) => other,
        NamedWindowExpr::WindowSpec(spec) => window_name(spec)?,
    };
    Some(
        Complaint::new(format!(
            "window '{}' builds on window '{}'",
            name.value, other.value
        ))
        .hint(format!(
            "write it whole: {} AS (PARTITION BY … ORDER BY … RANGE BETWEEN …)",
            name.value
        ))
        .span(name_span(other)),
    )
}
