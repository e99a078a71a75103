//! What stands in FROM.

use datafusion::sql::sqlparser::ast::{Join, TableAlias, TableFactor, TableWithJoins};

use super::{Clause, Clauses};
use crate::problem::{Complaint, name_span, sql_span};

impl Clauses<'_> {
    /// A relation of FROM and those that are joined with it.
    pub(super) fn of_tables(&self, from: &TableWithJoins) -> Option<Complaint> {
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
