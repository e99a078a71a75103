//! Where the parts of a view's statement stand in its file, for messages.

use std::ops::ControlFlow;

use datafusion::common::{Location, Span};
use datafusion::logical_expr::WindowFrame;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, NamedWindowExpr, Select, WindowFrame as SqlFrame, WindowSpec, WindowType,
    visit_expressions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::frame::Frame;
use crate::problem::{point, sql_span};
use crate::windows::unused;

/// Where the items of a view's SELECT, the frames of its windows and the words of its file stand. Behind the items come
/// the windows that none of them is over.
#[derive(Default)]
pub(crate) struct Places {
    words: Vec<(String, Location)>,
    items: Vec<Option<Span>>,
    frames: Vec<Placed>,
}

/// A frame that an item of SELECT is over.
struct Placed {
    item: usize,
    /// Its first word: RANGE, ROWS or GROUPS.
    span: Option<Span>,
    /// Whether no view can have it.
    is_wrong: bool,
}

impl Placed {
    /// `from` is what stands before it.
    fn new(
        item: usize,
        frame: &SqlFrame,
        from: Option<Span>,
        words: &[(String, Location)],
    ) -> Self {
        let meaning = WindowFrame::try_from(frame.clone());
        Self {
            item,
            span: from.and_then(|from| units_after(words, from.start)),
            is_wrong: !meaning.is_ok_and(|frame| Frame::from_sql(&frame).is_ok()),
        }
    }
}

impl Places {
    /// Those of a statement that is no query.
    pub(crate) fn of_words(text: &str) -> Self {
        Self {
            words: words(text),
            ..Self::default()
        }
    }

    /// Those of a query in a file with this text.
    pub(crate) fn of(select: &Select, text: &str) -> Self {
        let words = words(text);
        let mut frames = Vec::new();
        for (item, projected) in select.projection.iter().enumerate() {
            let _ = visit_expressions(projected, |expr| {
                if let Expr::Function(function) = expr
                    && let Some((window, from)) = window(select, function)
                    && let Some(frame) = &window.window_frame
                {
                    frames.push(Placed::new(item, frame, from, &words));
                }
                ControlFlow::<()>::Continue(())
            });
        }
        let mut items: Vec<Option<Span>> = select.projection.iter().map(sql_span).collect();
        for window in unused(select) {
            let name = sql_span(window);
            if let NamedWindowExpr::WindowSpec(spec) = &window.1
                && let Some(frame) = &spec.window_frame
            {
                frames.push(Placed::new(items.len(), frame, name, &words));
            }
            items.push(name);
        }
        Self {
            items,
            frames,
            words,
        }
    }

    /// The first such word, or text in quotes, from a place on.
    pub(crate) fn word(&self, word: &str, from: Location) -> Option<Span> {
        let is_it = |(text, at): &&(String, Location)| {
            (at.line, at.column) >= (from.line, from.column) && text.eq_ignore_ascii_case(word)
        };
        let (_, at) = self.words.iter().find(is_it)?;
        Some(point(at.line, at.column))
    }

    /// An item of SELECT.
    pub(crate) fn item(&self, item: usize) -> Option<Span> {
        self.items.get(item).copied().flatten()
    }

    /// The frame that is to blame, of an item if that is known.
    pub(crate) fn frame(&self, item: Option<usize>) -> Option<Span> {
        let of_item = |frame: &&Placed| item.is_none_or(|item| frame.item == item);
        let mut frames = self.frames.iter().filter(of_item);
        match frames.clone().find(|frame| frame.is_wrong) {
            Some(wrong) => wrong.span,
            // Of several that look right, any may be meant.
            None => {
                let first = frames.next()?.span;
                frames.all(|frame| frame.span == first).then_some(first)?
            }
        }
    }
}

/// The window that a function is over, and what stands before it: the window's name or the function's.
fn window<'a>(
    select: &'a Select,
    function: &'a Function,
) -> Option<(&'a WindowSpec, Option<Span>)> {
    match function.over.as_ref()? {
        WindowType::WindowSpec(window) => Some((window, sql_span(&function.name))),
        WindowType::NamedWindow(name) => {
            let mut named = select.named_window.iter();
            let found = named.find(|named| named.0.value.eq_ignore_ascii_case(&name.value))?;
            match &found.1 {
                NamedWindowExpr::WindowSpec(window) => Some((window, sql_span(found))),
                NamedWindowExpr::NamedWindow(_) => None,
            }
        }
    }
}

/// The words and the texts in quotes of a file, but for quoted names, and where they stand.
fn words(text: &str) -> Vec<(String, Location)> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location();
    let word = |token: TokenWithSpan| {
        let text = match token.token {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_uppercase(),
            // In lower case, so that none is taken for a word of SQL.
            Token::SingleQuotedString(text) => text.to_lowercase(),
            _ => return None,
        };
        let at = token.span.start;
        let (line, column) = (at.line, at.column);
        Some((text, Location { line, column }))
    };
    tokens
        .unwrap_or_default()
        .into_iter()
        .filter_map(word)
        .collect()
}

/// The first word after a place that begins a frame.
fn units_after(words: &[(String, Location)], from: Location) -> Option<Span> {
    // They are in the order of the text, which may be long.
    let is_before = |(_, at): &(String, Location)| (at.line, at.column) < (from.line, from.column);
    let after = words.get(words.partition_point(is_before)..)?;
    let begins =
        |(word, _): &&(String, Location)| ["RANGE", "ROWS", "GROUPS"].contains(&word.as_str());
    let (_, at) = after.iter().find(begins)?;
    Some(point(at.line, at.column))
}
