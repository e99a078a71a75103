//! What is wrong with a project, where, and the nearest thing that works.

use std::fmt;

use datafusion::common::Span;
use datafusion::logical_expr::Expr;
use datafusion::sql::sqlparser::ast::{Ident, Spanned};

use crate::places::Places;

/// A place in a project's file; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Path of the file, relative to the project's folder.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One mistake in a project. It is rendered as `file:line:col: message`, with the hint on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the mistake stands.
    pub position: Position,
    /// What is wrong.
    pub message: String,
    /// The nearest thing that works, where one is known.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// A mistake whose place is not known yet: planning code returns it, and [`Complaint::at`] places it.
#[derive(Debug)]
pub(crate) struct Complaint {
    message: String,
    hint: Option<Box<str>>,
    span: Option<Span>,
    /// The item of SELECT that is to blame, where no span is known.
    item: Option<usize>,
    /// Whether a window's frame is to blame.
    in_frame: bool,
    /// The word that is to blame, where no span is known.
    word: Option<Box<str>>,
    /// Whether it is of a name that there is not, and stands there.
    is_certain: bool,
}

pub(crate) type Checked<T> = Result<T, Complaint>;

impl Complaint {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            span: None,
            item: None,
            in_frame: false,
            word: None,
            is_certain: false,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into_boxed_str());
        self
    }

    /// This complaint with the other's hint, where it has none of its own.
    pub(crate) fn or(mut self, other: Self) -> Self {
        self.hint = self.hint.or(other.hint);
        self
    }

    /// Sets the place unless a more precise one is known already.
    pub(crate) fn span(mut self, span: Option<Span>) -> Self {
        self.span = self.span.or(span);
        self
    }

    /// Sets the place of a name that there is not. Where that is known, nothing else is to blame.
    pub(crate) fn named(self, span: Option<Span>) -> Self {
        let is_certain = span.is_some();
        Self { is_certain, ..self }.span(span)
    }

    /// Another complaint in place of this one, unless this one is certain.
    pub(crate) fn unless_certain(self, other: impl FnOnce() -> Option<Self>) -> Self {
        match self.is_certain {
            true => self,
            false => other().unwrap_or(self),
        }
    }

    /// Blames an item of SELECT unless one is blamed already.
    pub(crate) fn item(mut self, item: Option<usize>) -> Self {
        self.item = self.item.or(item);
        self
    }

    /// The same of a statement that has so many items before those that this one is about.
    pub(crate) fn behind(self, items: usize) -> Self {
        Self {
            item: self.item.map(|item| item + items),
            ..self
        }
    }

    /// Blames a window's frame.
    pub(crate) fn in_frame(self) -> Self {
        Self {
            in_frame: true,
            ..self
        }
    }

    /// Blames a word of the item, or of the statement where no item is blamed.
    pub(crate) fn word(mut self, word: &str) -> Self {
        self.word = self.word.or(Some(word.into()));
        self
    }

    /// Blames no word, where that would be found in something else.
    pub(crate) fn without_word(self) -> Self {
        Self { word: None, ..self }
    }

    /// Whether its place is known well enough.
    pub(crate) fn is_placed(&self) -> bool {
        self.span.is_some() || self.item.is_some() || self.in_frame
    }

    /// Places the complaint: at its span, else at its frame, its word or its item, else at `fallback`.
    pub(crate) fn at(self, file: &str, places: &Places, fallback: Span) -> Problem {
        let frame = match self.in_frame {
            true => places.frame(self.item),
            false => None,
        };
        let item = self.item.and_then(|item| places.item(item));
        let from = item.unwrap_or(fallback).start;
        let word = self.word.and_then(|word| places.word(&word, from));
        let start = self
            .span
            .or(frame)
            .or(word)
            .or(item)
            .unwrap_or(fallback)
            .start;
        Problem {
            position: Position {
                file: file.to_owned(),
                line: start.line.max(1),
                column: start.column.max(1),
            },
            message: self.message,
            hint: self.hint.map(String::from),
        }
    }
}

/// DataFusion's span of a piece of syntax.
pub(crate) fn sql_span(syntax: &impl Spanned) -> Option<Span> {
    Span::try_from_sqlparser_span(syntax.span())
}

/// The same of a name.
pub(crate) fn name_span(name: &Ident) -> Option<Span> {
    Span::try_from_sqlparser_span(name.span)
}

/// The place of the first column that an expression of a plan names.
pub(crate) fn columns_span(expr: &Expr) -> Option<Span> {
    let columns = expr.column_refs();
    columns
        .iter()
        .filter_map(|column| column.spans.first())
        .min()
}

/// An empty span at a line and a column.
pub(crate) fn point(line: u64, column: u64) -> Span {
    let location = datafusion::common::Location { line, column };
    Span::new(location, location)
}

/// "did you mean 'x'?" where one of `names` is close, else the list of them.
pub(crate) fn known_names(what: &str, wrong: &str, names: &[&str]) -> String {
    match near(wrong, names) {
        Some(name) => format!("did you mean '{name}'?"),
        None if names.is_empty() => format!("no {what} is declared before this place"),
        None => format!("known here: {}", names.join(", ")),
    }
}

/// The name that one may have meant.
pub(crate) fn near<'a>(wrong: &str, names: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(name, wrong);
    let close = names
        .iter()
        .filter(|name| distance(name) <= 1 + wrong.len() / 4);
    close.min_by_key(|name| (distance(name), **name)).copied()
}
