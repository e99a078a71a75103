//! Clauses that no view can have, refused before it is planned.
//!
//! DataFusion's parser knows the clauses of many systems, and its planner passes over some of them: a view would be
//! planned as if they were not there. So every part of a view's statement is judged here. The parser's structs are
//! taken apart whole, without `..`: a part that a later version adds does not compile before somebody has judged it.
//! Mistakes in what a view can have are found by its plan; how they are said is in `slips.rs`.

use std::ops::ControlFlow;

use datafusion::common::Span;
use datafusion::sql::sqlparser::ast::{
    CreateView, Distinct, Expr, Function, FunctionArgumentList, FunctionArguments, GroupByExpr,
    Ident, Join, LimitClause, NamedWindowDefinition, NamedWindowExpr, Query, Select, SelectItem,
    SetExpr, TableAlias, TableFactor, TableWithJoins, WindowSpec, WindowType, visit_expressions,
};

use crate::names;
use crate::plan::Planner;
use crate::problem::{Checked, Complaint, name_span, sql_span};
use crate::syntax::{Written, written};

/// A clause that no view can have.
struct Clause {
    is_there: bool,
    /// The phrases with which it can begin, with commas between them.
    begins: &'static str,
    /// What is wrong with it.
    message: &'static str,
    /// The nearest thing that works.
    hint: &'static str,
}

impl Clause {
    fn new(
        is_there: bool,
        begins: &'static str,
        message: &'static str,
        hint: &'static str,
    ) -> Self {
        Self {
            is_there,
            begins,
            message,
            hint,
        }
    }

    /// Of a stream or a view, or of what stands in brackets in its place.
    fn sample(is_there: bool) -> Self {
        Self::new(
            is_there,
            "TABLESAMPLE,SAMPLE",
            "a sample of the events would be another one each time",
            "choose events by what they are: WHERE right(tx_id, 1) = '0'",
        )
    }
}

/// Refuses a view with such a clause; `text` is that of its file.
pub(crate) fn check(view: &CreateView, text: &str, planner: &Planner) -> Checked<()> {
    let clauses = Clauses {
        words: words(text, sql_span(&view.name)),
        planner,
    };
    let found = clauses
        .of_view(view)
        .or_else(|| clauses.of_query(&view.query));
    found.map_or(Ok(()), Err)
}

/// Refuses names that a view or a column cannot have.
fn wrong_name(what: &str, name: &Ident) -> Option<Complaint> {
    let wrong = names::check(what, &name.value).err()?;
    Some(wrong.span(name_span(name)))
}

struct Clauses<'a> {
    /// The words of the view's statement, each with the number of brackets that it stands in.
    words: Vec<(usize, Written)>,
    planner: &'a Planner,
}

/// The words of the statement that has that name.
fn words(text: &str, name: Option<Span>) -> Vec<(usize, Written)> {
    let Some(name) = name else { return Vec::new() };
    let mut words = written(text);
    let at = words.partition_point(|word| word.span.start < name.start);
    let before = words.iter().take(at).rposition(|word| word.is(";"));
    words.drain(..before.map_or(0, |end| end + 1));
    let mut open: usize = 0;
    let statement = words.into_iter().take_while(|word| !word.is(";"));
    let deep = statement.map(|word| {
        if word.is(")") {
            open = open.saturating_sub(1);
        }
        let depth = open;
        open += usize::from(word.is("("));
        (depth, word)
    });
    deep.collect()
}

impl Clauses<'_> {
    /// Between CREATE and AS.
    fn of_view(&self, view: &CreateView) -> Option<Complaint> {
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
    fn of_query(&self, query: &Query) -> Option<Complaint> {
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

    fn of_select(&self, select: &Select) -> Option<Complaint> {
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

    /// A relation of FROM and those that are joined with it.
    fn of_tables(&self, from: &TableWithJoins) -> Option<Complaint> {
        let TableWithJoins { relation, joins } = from;
        self.of_table(relation).or_else(|| {
            joins.iter().find_map(|join| {
                let Join {
                    relation,
                    // A clause of the SELECT.
                    global: _,
                    // The plan has it.
                    join_operator: _,
                } = join;
                self.of_table(relation)
            })
        })
    }

    fn of_table(&self, relation: &TableFactor) -> Option<Complaint> {
        let TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } = relation
        else {
            return self.of_other_relation(relation);
        };
        let clauses = [
            Clause::sample(sample.is_some()),
            Clause::new(
                args.is_some(),
                "(",
                "a stream or a view is named without brackets",
                "FROM transactions t",
            ),
            Clause::new(
                *with_ordinality,
                "WITH ORDINALITY",
                "events have no number in their table",
                "leave it out; count(*) OVER (… ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) counts them",
            ),
            Clause::new(
                !with_hints.is_empty() || !index_hints.is_empty(),
                "WITH,USE,FORCE,IGNORE",
                "a stream has no hints for its reader",
                "leave it out: Millrace chooses how it reads",
            ),
            Clause::new(
                version.is_some(),
                "FOR,TIMESTAMP,VERSION,AT,BEFORE,CHANGES",
                "a stream has no versions",
                "leave it out: each look-up says as of which time it asks",
            ),
            Clause::new(
                !partitions.is_empty(),
                "PARTITION",
                "a view reads all partitions of its stream's topic",
                "leave it out; an entity is named by PARTITION BY inside OVER",
            ),
            Clause::new(
                json_path.is_some(),
                "[,:",
                "a stream or a view is named by a name alone",
                "FROM transactions t",
            ),
        ];
        self.first(sql_span(name), &clauses)
            .or_else(|| of_alias(alias.as_ref()))
    }

    /// What is in brackets; that there is a plan for it is for the planner to say.
    fn of_other_relation(&self, relation: &TableFactor) -> Option<Complaint> {
        match relation {
            TableFactor::Derived {
                lateral: _,
                subquery,
                alias,
                sample,
            } => self
                .first(None, &[Clause::sample(sample.is_some())])
                .or_else(|| of_alias(alias.as_ref()))
                .or_else(|| self.of_query(subquery)),
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } => of_alias(alias.as_ref()).or_else(|| self.of_tables(table_with_joins)),
            _ => None,
        }
    }

    /// What is said of a call of a function.
    fn of_calls(&self, select: &Select) -> Option<Complaint> {
        let found = visit_expressions(select, |expr| {
            let Expr::Function(call) = expr else {
                return ControlFlow::Continue(());
            };
            match self.of_call(call) {
                Some(complaint) => ControlFlow::Break(complaint),
                None => ControlFlow::Continue(()),
            }
        });
        found.break_value()
    }

    fn of_call(&self, call: &Function) -> Option<Complaint> {
        let Function {
            name,
            // Brackets around the call.
            uses_odbc_syntax: _,
            parameters,
            args,
            filter,
            null_treatment,
            over,
            within_group,
        } = call;
        let at = sql_span(name);
        let name = name.to_string().to_lowercase();
        if !matches!(parameters, FunctionArguments::None) {
            return Some(
                Complaint::new(format!("{name}() has two lists of arguments"))
                    .hint("put all of them in one: approx_percentile_cont(amount, 0.9)")
                    .span(at),
            );
        }
        if let Some(WindowType::WindowSpec(spec)) = over
            && window_name(spec).is_some()
        {
            return Some(
                Complaint::new("a window's name stands after OVER without brackets")
                    .hint(
                        "OVER d1, or OVER (PARTITION BY … ORDER BY … RANGE …) with all that it is",
                    )
                    .span(at),
            );
        }
        if over.is_some() && !within_group.is_empty() {
            return Some(
                Complaint::new("WITHIN GROUP is of all rows, and OVER says of which events")
                    .hint(
                        "approx_percentile_cont(x, 0.9) OVER …, or percentile_cont(x, 0.9) OVER …",
                    )
                    .span(self.near(at, "WITHIN GROUP").or(at)),
            );
        }
        if !self.planner.is_scalar(&name) {
            return None;
        }
        let (is_distinct, is_ordered) = match args {
            FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment,
                args: _,
                clauses,
            }) => (duplicate_treatment.is_some(), !clauses.is_empty()),
            FunctionArguments::None | FunctionArguments::Subquery(_) => (false, false),
        };
        let clauses = [
            (is_distinct, "DISTINCT"),
            (is_ordered, "ORDER BY"),
            (!within_group.is_empty(), "WITHIN GROUP"),
            (filter.is_some(), "FILTER"),
            (null_treatment.is_some(), "NULLS"),
            (over.is_some(), "OVER"),
        ];
        let (_, clause) = clauses.into_iter().find(|(is_there, _)| *is_there)?;
        Some(
            Complaint::new(format!(
                "{name}() is no aggregate, and {clause} would have no effect on it"
            ))
            .hint(format!(
                "it belongs to the aggregate inside: {name}(sum(amount) FILTER (WHERE …) OVER d1)"
            ))
            .span(self.near(at, clause).or(at)),
        )
    }

    /// The first clause that is there, at its place behind `from`.
    fn first(&self, from: Option<Span>, clauses: &[Clause]) -> Option<Complaint> {
        let clause = clauses.iter().find(|clause| clause.is_there)?;
        let place = self.place(from, clause.begins);
        Some(Complaint::new(clause.message).hint(clause.hint).span(place))
    }

    /// Where a clause begins: behind `from`, or else anywhere in the statement outside of brackets.
    fn place(&self, from: Option<Span>, begins: &str) -> Option<Span> {
        from.and_then(|from| self.near(Some(from), begins))
            .or_else(|| self.near(None, begins))
    }

    /// Where one of several phrases stands behind a place, in the brackets in which that is. Commas are between them.
    fn near(&self, from: Option<Span>, phrases: &str) -> Option<Span> {
        let is_behind =
            |(_, word): &(usize, Written)| from.is_none_or(|from| word.span.start >= from.start);
        let rest = self.words.get(self.words.iter().position(is_behind)?..)?;
        let (depth, _) = rest.first()?;
        let inside = rest.iter().take_while(|(at, _)| at >= depth);
        let beside: Vec<&Written> = inside
            .filter(|(at, _)| at == depth)
            .map(|(_, word)| word)
            .collect();
        phrases.split(',').find_map(|phrase| {
            let phrase: Vec<&str> = phrase.split(' ').collect();
            let is_it =
                |words: &&[&Written]| words.iter().zip(&phrase).all(|(word, text)| word.is(text));
            let found = beside.windows(phrase.len()).find(is_it)?;
            found.first().map(|word| word.span)
        })
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

fn window_name(spec: &WindowSpec) -> Option<&Ident> {
    let WindowSpec {
        window_name,
        partition_by: _,
        order_by: _,
        window_frame: _,
    } = spec;
    window_name.as_ref()
}

/// The name of a relation in the query has no more to it.
fn of_alias(alias: Option<&TableAlias>) -> Option<Complaint> {
    let TableAlias {
        explicit: _,
        name: _,
        columns,
        at,
    } = alias?;
    let place = match (columns.first(), at) {
        (Some(column), _) => sql_span(column),
        (None, Some(index)) => name_span(index),
        (None, None) => return None,
    };
    Some(
        Complaint::new("columns keep the names that their stream or view gives them")
            .hint("leave the list out, and rename in SELECT: amount AS a")
            .span(place),
    )
}
