//! What stands around a SELECT.

use datafusion::sql::sqlparser::ast::{CreateView, LimitClause, Query, SetExpr};

use super::{Clause, Clauses, wrong_name};
use crate::problem::{Complaint, sql_span};

impl Clauses<'_> {
    /// Between CREATE and AS.
    pub(super) fn of_view(&self, view: &CreateView) -> Option<Complaint> {
        let CreateView {
            or_alter,
            // That is what is done.
            or_replace: _,
            materialized,
            secure,
            name,
            // Where IF NOT EXISTS stands.
            name_before_not_exists: _,
            columns,
            query: _,
            // `resolution.rs` takes them.
            options: _,
            cluster_by,
            comment,
            with_no_schema_binding,
            if_not_exists,
            temporary,
            copy_grants,
            to,
            params,
        } = view;
        const PLAIN: &str = "CREATE VIEW name AS SELECT …: a view that is changed in its file takes the place of \
                             the one before";
        let clauses = [
            Clause::new(
                *or_alter,
                "OR ALTER",
                "a view is what its file says: there is none to replace",
                PLAIN,
            ),
            Clause::new(
                params.is_some(),
                "ALGORITHM,DEFINER,SQL SECURITY",
                "a view has no ALGORITHM, no DEFINER and no SQL SECURITY",
                "CREATE VIEW name AS SELECT …: who may ask for it is said in millrace.toml",
            ),
            Clause::new(
                *temporary,
                "TEMPORARY,TEMP",
                "a view is kept up for as long as its file has it, and is not TEMPORARY",
                "CREATE VIEW name AS SELECT …; take it out of its file when nobody asks for it any more",
            ),
            Clause::new(
                *secure,
                "SECURE",
                "SECURE has no effect on a view",
                "CREATE VIEW name AS SELECT …: who may ask for it is said in millrace.toml",
            ),
            Clause::new(
                *materialized,
                "MATERIALIZED",
                "a view is MATERIALIZED here without saying so",
                "CREATE VIEW name AS SELECT …: its state is kept up with the events",
            ),
            Clause::new(
                *if_not_exists,
                "IF NOT EXISTS",
                "a view is what its file says, whatever was there before",
                PLAIN,
            ),
            Clause::new(
                *copy_grants,
                "COPY GRANTS",
                "a view has no GRANTS",
                "leave it out: who may ask for it is said in millrace.toml",
            ),
            Clause::new(
                !cluster_by.is_empty(),
                "CLUSTER BY",
                "a view's state is ordered by its entity, and not CLUSTER BY columns",
                "leave it out",
            ),
            Clause::new(
                to.is_some(),
                "TO",
                "a view writes TO no table: look-ups and joins ask for it",
                "leave it out; `millrace training-set` writes answers to a file",
            ),
            Clause::new(
                comment.is_some(),
                "COMMENT",
                "a view has no COMMENT",
                "write it above the view, behind --",
            ),
            Clause::new(
                *with_no_schema_binding,
                "WITH NO SCHEMA BINDING",
                "a view is always bound to the columns of its stream",
                "leave it out",
            ),
        ];
        self.first(None, &clauses)
            .or_else(|| match name.0.as_slice() {
                [part] => part
                    .as_ident()
                    .and_then(|name| wrong_name("the view", name)),
                parts => Some(
                    Complaint::new(format!("a view is in no schema, and this one is '{name}'"))
                        .hint(format!(
                            "CREATE VIEW {} AS SELECT …",
                            parts.last().map(ToString::to_string).unwrap_or_default()
                        ))
                        .span(sql_span(name)),
                ),
            })
            .or_else(|| {
                let column = columns.first()?;
                Some(
                    Complaint::new("a view's columns are named in its SELECT, and not in a list")
                        .hint("leave the list out, and name each column: count(*) OVER d1 AS n")
                        .span(sql_span(column)),
                )
            })
    }

    /// Around and behind SELECT.
    pub(super) fn of_query(&self, query: &Query) -> Option<Complaint> {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        let (limits, skips) = limits(limit_clause.as_ref());
        let clauses = [
            Clause::new(
                with.is_some(),
                "WITH",
                "a view is one SELECT, and WITH puts another one before it",
                "make a view of each, and join them in inputs.sql",
            ),
            Clause::new(
                order_by.is_some(),
                "ORDER BY",
                "ORDER BY has no meaning for a view that is asked for one entity at a time",
                "drop the ORDER BY of the query; the one inside OVER stays",
            ),
            Clause::new(
                limits,
                "LIMIT",
                "LIMIT has no meaning for a view that is asked for one entity at a time",
                "for the last n events use ROWS BETWEEN n PRECEDING AND CURRENT ROW",
            ),
            Clause::new(
                skips,
                "OFFSET",
                "OFFSET has no meaning for a view that is asked for one entity at a time",
                "for older events end the frame earlier: … AND INTERVAL '1 day' PRECEDING",
            ),
            Clause::new(
                fetch.is_some(),
                "FETCH",
                "FETCH has no meaning for a view that is asked for one entity at a time",
                "for the last n events use ROWS BETWEEN n PRECEDING AND CURRENT ROW",
            ),
            Clause::new(
                settings.is_some(),
                "SETTINGS",
                "a view has no SETTINGS",
                "leave it out; Millrace's own are in millrace.toml",
            ),
            Clause::new(
                !locks.is_empty() || for_clause.is_some(),
                "FOR",
                "a view locks nothing, and its answers have the form of the service: FOR has no meaning",
                "leave it out: all reads of a request are of one moment",
            ),
            Clause::new(
                format_clause.is_some(),
                "FORMAT",
                "a view has no FORMAT",
                "leave it out: who asks gets gRPC or JSON",
            ),
            Clause::new(
                !pipe_operators.is_empty(),
                "|>",
                "a view is one SELECT, and |> makes another one of it",
                "write it in the SELECT: WHERE on events, and expressions over aggregates",
            ),
        ];
        self.of_body(body)
            .or_else(|| self.first(sql_span(query), &clauses))
    }

    fn of_body(&self, body: &SetExpr) -> Option<Complaint> {
        match body {
            SetExpr::Select(select) => self.of_select(select),
            SetExpr::Query(query) => self.of_query(query),
            SetExpr::SetOperation { op, .. } => Some(
                Complaint::new(format!("{op} is not kept up"))
                    .hint("make one view of each part")
                    .span(self.place(sql_span(body), "UNION,EXCEPT,INTERSECT,MINUS")),
            ),
            _ => Some(
                Complaint::new("a view is a SELECT, and this is something else")
                    .hint("SELECT entity, aggregate OVER window, … FROM stream [WHERE …] WINDOW …")
                    .span(self.place(sql_span(body), "VALUES,TABLE,INSERT,UPDATE,DELETE,MERGE")),
            ),
        }
    }
}

/// Whether a LIMIT and an OFFSET are there; LIMIT ALL is none.
fn limits(clause: Option<&LimitClause>) -> (bool, bool) {
    match clause {
        None => (false, false),
        Some(LimitClause::LimitOffset {
            limit,
            offset,
            limit_by,
        }) => (limit.is_some() || !limit_by.is_empty(), offset.is_some()),
        Some(LimitClause::OffsetCommaLimit {
            offset: _,
            limit: _,
        }) => (true, true),
    }
}
