//! What is wrong with a project, where, and the nearest thing that works.

use std::fmt;

use datafusion::common::{DataFusionError, SchemaError, Span};
use datafusion::sql::sqlparser::ast::Spanned;

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
    hint: Option<String>,
    span: Option<Span>,
    /// The item of SELECT that is to blame, where no span is known.
    item: Option<usize>,
    /// Whether a window's frame is to blame.
    in_frame: bool,
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
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
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

    /// Blames an item of SELECT unless one is blamed already.
    pub(crate) fn item(mut self, item: Option<usize>) -> Self {
        self.item = self.item.or(item);
        self
    }

    /// Blames a window's frame.
    pub(crate) fn in_frame(self) -> Self {
        Self {
            in_frame: true,
            ..self
        }
    }

    /// Places the complaint: at its span, else at its frame or its item, else at `fallback`.
    pub(crate) fn at(self, file: &str, places: &Places, fallback: Span) -> Problem {
        let frame = match self.in_frame {
            true => places.frame(self.item),
            false => None,
        };
        let item = self.item.and_then(|item| places.item(item));
        let start = self.span.or(frame).or(item).unwrap_or(fallback).start;
        Problem {
            position: Position {
                file: file.to_owned(),
                line: start.line.max(1),
                column: start.column.max(1),
            },
            message: self.message,
            hint: self.hint,
        }
    }

    /// A complaint from DataFusion's words; `tables` are the names that a query may use.
    pub(crate) fn from_datafusion(error: &DataFusionError, tables: &[String]) -> Self {
        let span = error.diagnostic().and_then(|d| d.span);
        let root = error.find_root();
        if let DataFusionError::SchemaError(schema, _) = root
            && let SchemaError::FieldNotFound {
                field,
                valid_fields,
            } = schema.as_ref()
        {
            let names: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
            let complaint = Self::new(format!("there is no column '{}'", field.flat_name()));
            return complaint
                .hint(known_names("column", &field.name, &names))
                .span(span);
        }
        let text = first_line(&root.strip_backtrace());
        if let Some(name) = missing_table(&text) {
            let names: Vec<&str> = tables.iter().map(String::as_str).collect();
            let complaint = Self::new(format!("there is no stream or view '{name}'"));
            return complaint
                .hint(known_names("stream or view", &name, &names))
                .span(span);
        }
        let complaint = Self::new(text).span(span);
        if complaint.message.contains("unique expression names") {
            // A cast is no part of DataFusion's names.
            return complaint.hint(
                "two aggregates that differ in a cast alone are one to the planner: write one argument another way, \
                 CAST(amount + 0 AS BIGINT), or put it in a view of its own",
            );
        }
        if complaint.message.contains("window frame") {
            return complaint.in_frame().hint(
                "RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW is one, for instance",
            );
        }
        complaint
    }

    /// The name of the function that there is not, if that is what is wrong.
    pub(crate) fn unknown_function(&self) -> Option<&str> {
        let (name, _) = self
            .message
            .strip_prefix("Invalid function '")?
            .split_once('\'')?;
        Some(name)
    }

    /// A complaint from a parser's message, whose position stands at its end in words.
    pub(crate) fn from_parser(error: &DataFusionError) -> Self {
        let text = first_line(&error.find_root().strip_backtrace());
        let text = text
            .trim_start_matches("SQL error: ")
            .trim_start_matches("ParserError(\"")
            .trim_end_matches("\")")
            .replace("\\'", "'");
        match text.rsplit_once(" at Line: ") {
            Some((message, place)) => {
                let mut numbers = place.split(", Column: ").map(|n| n.trim().parse::<u64>());
                let span = match (numbers.next(), numbers.next()) {
                    (Some(Ok(line)), Some(Ok(column))) => Some(point(line, column)),
                    _ => None,
                };
                Self::new(message).span(span)
            }
            None => Self::new(text),
        }
    }
}

/// DataFusion's span of a piece of syntax.
pub(crate) fn sql_span(syntax: &impl Spanned) -> Option<Span> {
    Span::try_from_sqlparser_span(syntax.span())
}

/// An empty span at a line and a column.
pub(crate) fn point(line: u64, column: u64) -> Span {
    let location = datafusion::common::Location { line, column };
    Span::new(location, location)
}

fn first_line(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("Error during planning: ")
        .trim_start_matches("Schema error: ")
        .trim_start_matches("This feature is not implemented: ")
        .to_owned()
}

/// The name in DataFusion's "table 'datafusion.public.x' not found".
fn missing_table(text: &str) -> Option<String> {
    let name = text.strip_prefix("table '")?.strip_suffix("' not found")?;
    name.rsplit('.').next().map(str::to_owned)
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
