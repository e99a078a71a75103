//! Clauses that no view can have, refused before it is planned.
//!
//! DataFusion's parser knows the clauses of many systems, and its planner passes over some of them: a view would be
//! planned as if they were not there. So every part of a view's statement is judged here. The parser's structs are
//! taken apart whole, without `..`: a part that a later version adds does not compile before somebody has judged it.
//! Mistakes in what a view can have are found by its plan; how they are said is in `slips.rs`.
//!
//! Here is how a clause is found in the text. What is judged stands in a module for each part of a statement.

use datafusion::common::Span;
use datafusion::sql::sqlparser::ast::{CreateView, Ident};

use crate::names;
use crate::plan::Planner;
use crate::problem::{Checked, Complaint, name_span, sql_span};
use crate::syntax::{Written, written};

mod calls;
mod select;
mod statement;
mod tables;

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
