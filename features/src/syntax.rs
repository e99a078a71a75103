//! What the parser says of a text that is no SQL, in the words of somebody who writes it.
//!
//! The parser stops at the first word that it cannot use, which is often behind the mistake: a comma that is missing
//! makes a name of the next expression. So the words around the place are looked at for what they look like.

use datafusion::common::{DataFusionError, Span};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::problem::{Complaint, point};

/// What a file declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declares {
    Streams,
    Views,
}

/// A complaint about the text of a file that the parser refused.
pub(crate) fn complaint(error: &DataFusionError, text: &str, declares: Declares) -> Complaint {
    let said = words_of(error);
    let (said, place) = match said.rsplit_once(" at Line: ") {
        Some((said, place)) => (said.to_owned(), position(place)),
        None => (said, None),
    };
    let (line, column) = match place {
        Some(place) => place,
        // The end of the text has no place.
        None if said.ends_with("found: EOF") => (text.lines().count() as u64 + 1, 1),
        None => return incomplete(&said, text, declares),
    };
    let at = point(line, column);
    if let Some(complaint) = not_closed(&said) {
        return complaint.span(Some(at));
    }
    let tokens = Around::new(text, line, column);
    let expected = expected(&said);
    let message = match (expected, tokens.found()) {
        (None, _) => said.clone(),
        (Some(_), None) => "the text ends early".to_owned(),
        (Some(expected), Some(found)) => {
            let found = quoted(found);
            match in_words(expected) {
                Some(expected) => format!("{found} is not expected here, but {expected}"),
                None => format!("{found} is not expected here"),
            }
        }
    };
    let (hint, span) = tokens.hint(expected.unwrap_or_default(), declares);
    Complaint::new(message)
        .hint(hint)
        .span(Some(span.unwrap_or(at)))
}

fn words_of(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    let text = text.lines().next().unwrap_or_default();
    text.trim_start_matches("SQL error: ")
        .trim_start_matches("ParserError(\"")
        .trim_start_matches("TokenizerError(\"")
        .trim_end_matches("\")")
        .replace("\\'", "'")
}

/// `3, Column: 8`
fn position(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split(", Column: ").map(|n| n.trim().parse());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(line)), Some(Ok(column))) => Some((line, column)),
        _ => None,
    }
}

/// The X of `Expected: X, found: Y`.
fn expected(said: &str) -> Option<&str> {
    let (expected, _) = said.strip_prefix("Expected: ")?.rsplit_once(", found: ")?;
    Some(expected)
}

/// A word in quotes; a text has its own.
fn quoted(word: &str) -> String {
    match word.starts_with('\'') {
        true => word.to_owned(),
        false => format!("'{word}'"),
    }
}

/// What the parser wants, as a person would say it; none where that helps nobody.
fn in_words(expected: &str) -> Option<&str> {
    match expected {
        "end of statement" | "end of statement or ;" | "fileformat" | "HEADER" => None,
        "an expression" => Some("a column, a number or a function"),
        "an SQL statement" => Some("a statement: CREATE …"),
        "an object type after CREATE" => Some("what is created: VIEW or EXTERNAL TABLE"),
        "a list of columns in parentheses" => Some("columns in brackets"),
        "an identifier after AS" | "identifier" => Some("a name"),
        other => Some(other),
    }
}

/// A quote or a comment without an end.
fn not_closed(said: &str) -> Option<Complaint> {
    if said.starts_with("Unterminated string literal") {
        return Some(
            Complaint::new("a text begins here, and no quote ends it")
                .hint("put ' behind it; a quote inside a text is written twice: 'it''s'"),
        );
    }
    if said.contains("multi-line comment") {
        return Some(
            Complaint::new("a comment begins with /* before here, and nothing ends it")
                .hint("put */ behind it"),
        );
    }
    said.starts_with("Expected close delimiter").then(|| {
        Complaint::new("a name begins here with \", and no \" ends it").hint("put \" behind it")
    })
}

/// A statement that lacks a part; the parser says of none where.
fn incomplete(said: &str, text: &str, declares: Declares) -> Complaint {
    let last = |tokens: &[Written]| {
        let create = tokens.iter().rev().find(|token| token.is("CREATE"));
        create.or(tokens.last()).map(|token| token.span)
    };
    let span = last(&written(text));
    let complaint = match said {
        "Missing STORED AS clause in CREATE EXTERNAL TABLE statement" => {
            Complaint::new("the stream lacks STORED AS KAFKA").hint(STREAM)
        }
        "Missing LOCATION clause in CREATE EXTERNAL TABLE statement" => {
            Complaint::new("the stream lacks LOCATION, which names its topic").hint(STREAM)
        }
        other => Complaint::new(other).hint(whole(declares)),
    };
    complaint.span(span)
}

const STREAM: &str = "CREATE EXTERNAL TABLE name (column TYPE NOT NULL, …) STORED AS KAFKA LOCATION 'topic' WITH ORDER \
                      (event_time) OPTIONS ('key' 'card_id', 'id' 'tx_id');";
const VIEW: &str = "CREATE VIEW name AS SELECT card_id, count(*) OVER d1 AS n FROM transactions WINDOW d1 AS (PARTITION BY \
                    card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW);";

/// A whole statement of a file.
fn whole(declares: Declares) -> &'static str {
    match declares {
        Declares::Streams => STREAM,
        Declares::Views => VIEW,
    }
}

/// The words that a project's statements are made of.
const WORDS: [&str; 43] = [
    "CREATE",
    "VIEW",
    "EXTERNAL",
    "TABLE",
    "STORED",
    "KAFKA",
    "LOCATION",
    "WITH",
    "ORDER",
    "OPTIONS",
    "SELECT",
    "DISTINCT",
    "FROM",
    "WHERE",
    "WINDOW",
    "PARTITION",
    "RANGE",
    "ROWS",
    "BETWEEN",
    "PRECEDING",
    "FOLLOWING",
    "CURRENT",
    "UNBOUNDED",
    "INTERVAL",
    "OVER",
    "FILTER",
    "JOIN",
    "LEFT",
    "INNER",
    "USING",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "CAST",
    "NULL",
    "NULLIF",
    "DOUBLE",
    "VARCHAR",
    "TIMESTAMP",
    "BOOLEAN",
    "DECIMAL",
];

/// The words that join them.
const JOINTS: [&str; 20] = [
    "AS", "BY", "AND", "OR", "NOT", "ON", "IN", "IS", "LIKE", "GROUP", "HAVING", "LIMIT",
    "QUALIFY", "ASC", "DESC", "ROW", "IGNORE", "NULLS", "FIRST", "UNION",
];

/// A word, a number, a sign of a text.
pub(crate) struct Written {
    text: String,
    /// Whether it is a word without quotes.
    is_word: bool,
    /// Where it begins.
    pub(crate) span: Span,
}

impl Written {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text.eq_ignore_ascii_case(text)
    }

    /// Whether it is a word that may be a name.
    fn is_name(&self) -> bool {
        let upper = self.text.to_uppercase();
        let has_sense = WORDS.contains(&upper.as_str()) || JOINTS.contains(&upper.as_str());
        self.is_word && !has_sense
    }

    /// Whether a value, a name or a type ends with it.
    fn ends_value(&self) -> bool {
        let ends = [
            "END",
            "NULL",
            "ROW",
            "DOUBLE",
            "VARCHAR",
            "TIMESTAMP",
            "BOOLEAN",
            "DECIMAL",
            ")",
        ];
        let is_literal = self.text.starts_with(['\'', '"'])
            || self.text.starts_with(|c: char| c.is_ascii_digit());
        self.is_name() || is_literal || ends.iter().any(|end| self.is(end))
    }

    /// The word of a statement that it is nearly.
    fn meant(&self) -> Option<&'static str> {
        let upper = self.text.to_uppercase();
        // A short name is near to too much.
        if !self.is_name() || upper.len() < 3 {
            return None;
        }
        let most = if upper.len() < 5 { 1 } else { 2 };
        let distance = |word: &str| strsim::damerau_levenshtein(word, &upper);
        let near = WORDS.into_iter().filter(|word| distance(word) <= most);
        near.min_by_key(|word| distance(word))
    }
}

/// The words, numbers and signs of a text, in their order.
pub(crate) fn written(text: &str) -> Vec<Written> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location();
    let is_seen = |token: &TokenWithSpan| !matches!(token.token, Token::Whitespace(_) | Token::EOF);
    tokens
        .unwrap_or_default()
        .into_iter()
        .filter(is_seen)
        .map(|token| Written {
            text: token.token.to_string(),
            is_word: matches!(&token.token, Token::Word(word) if word.quote_style.is_none()),
            span: point(token.span.start.line, token.span.start.column),
        })
        .collect()
}

/// The words of a text, and the one at which the parser stopped.
struct Around {
    tokens: Vec<Written>,
    at: usize,
}

type Hint = (String, Option<Span>);

impl Around {
    fn new(text: &str, line: u64, column: u64) -> Self {
        let tokens = written(text);
        let place = |token: &Written| (token.span.start.line, token.span.start.column);
        let at = tokens.partition_point(|token| place(token) < (line, column));
        Self { tokens, at }
    }

    fn found(&self) -> Option<&str> {
        self.tokens.get(self.at).map(|token| token.text.as_str())
    }

    /// The word that stands so many before the one at which the parser stopped.
    fn before(&self, back: usize) -> Option<&Written> {
        self.tokens.get(self.at.checked_sub(back)?)
    }

    fn hint(&self, expected: &str, declares: Declares) -> Hint {
        (self.quotes())
            .or_else(|| self.misspelt())
            .or_else(|| self.clause(expected, declares))
            .or_else(|| self.comma(expected))
            .or_else(|| self.bracket(expected))
            .unwrap_or_else(|| (format!("one that works: {}", whole(declares)), None))
    }

    /// Quotes as word processors write them.
    fn quotes(&self) -> Option<Hint> {
        let is_curly = |token: &&Written| token.text.contains(['‘', '’', '“', '”', '`', '´']);
        let nearby = [self.before(0), self.before(1)];
        nearby.into_iter().flatten().find(is_curly)?;
        Some(("a text stands in plain quotes: '1 day'".to_owned(), None))
    }

    /// A word of a statement with a letter wrong, at the place or beside it.
    fn misspelt(&self) -> Option<Hint> {
        let nearby = [self.before(0), self.before(1), self.tokens.get(self.at + 1)];
        let wrong = |token: &Written| Some((token.meant()?, token.span));
        let (meant, span) = nearby.into_iter().flatten().find_map(wrong)?;
        Some((format!("did you mean {meant}?"), Some(span)))
    }

    /// Parts of a statement that have a form of their own.
    fn clause(&self, expected: &str, declares: Declares) -> Option<Hint> {
        let found = self.before(0);
        let is = |back: usize, text: &str| self.before(back).is_some_and(|token| token.is(text));
        let text = found.map_or("", |token| token.text.as_str());
        let in_options = declares == Declares::Views && self.is_in_with();
        let hint = match expected {
            _ if is(0, "CREATE") => "end the statement before it with ;",
            _ if is(0, "EXCLUDE") => {
                "drop it: the row that is asked for and its ties never count, see docs/semantics.md"
            }
            "end of statement" | "end of statement or ;" if is(0, "GROUP") => {
                "leave it out, a view has no GROUP BY: count(*) OVER (PARTITION BY card_id ORDER BY event_time RANGE \
                 BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW) is of a card's last day"
            }
            "end of statement" | "end of statement or ;" if is(0, "HAVING") => {
                "leave it out, a view has no HAVING: use WHERE on events, FILTER (WHERE …) in an aggregate, or CASE over it"
            }
            "HEADER" => {
                "a stream's topic is its LOCATION, its time WITH ORDER (event_time), all else OPTIONS ('key' 'card_id', \
                 'id' 'tx_id')"
            }
            "fileformat" => "a stream is a CREATE EXTERNAL TABLE",
            "an object type after CREATE" | "an SQL statement" => match declares {
                Declares::Streams => {
                    "CREATE EXTERNAL TABLE transactions (…) STORED AS KAFKA LOCATION 'transactions'"
                }
                Declares::Views => "CREATE VIEW card_activity AS SELECT …",
            },
            "a list of columns in parentheses" => {
                return Some((format!("put brackets around it: USING ({text})"), None));
            }
            "an identifier after AS" => {
                return Some((
                    format!(
                        "a name begins with a letter, or stands in double quotes: AS \"{text}…\""
                    ),
                    None,
                ));
            }
            "string or numeric value" => {
                "an option is a name and a value, without =: 'key' 'card_id'"
            }
            "PRECEDING or FOLLOWING" if is(1, "CURRENT") || is(0, ")") => {
                "a frame ends with CURRENT ROW, or with INTERVAL '1 day' PRECEDING"
            }
            "PRECEDING or FOLLOWING" => "RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW",
            "ROWS, RANGE, GROUPS" if is(0, "PARTITION") => {
                "PARTITION BY card_id ORDER BY event_time"
            }
            _ if is(0, "BY") && is(1, "PARTITION") => {
                "WINDOW d1 AS (PARTITION BY …): with brackets"
            }
            _ if is(2, "OVER") && is(3, ",") => "drop the comma before OVER",
            _ if is(0, "PRECEDING") || (is(0, "AND") && is(1, "PRECEDING")) => {
                "RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW"
            }
            _ if is(1, "FILTER") || is(0, "FILTER") => {
                "count(*) FILTER (WHERE amount > 0) OVER d1: with WHERE, and before OVER"
            }
            _ if self.is_after("FILTER", 3) => {
                "count(*) FILTER (WHERE amount > 0) OVER d1: with WHERE, and before OVER"
            }
            _ if is(0, "WHERE") => {
                "one WHERE, behind FROM: WHERE amount > 0 AND …; in an aggregate FILTER (WHERE …)"
            }
            _ if is(1, "WHERE") || is(1, "WINDOW") => {
                "the parts stand in this order: SELECT … FROM … WHERE … WINDOW …"
            }
            "AS" if is(0, "-") => "a name has letters, digits and _: card_activity",
            "end of statement or ;" if is(0, "-") => {
                "a name has letters, digits and _: card_activity"
            }
            "AS" if is(0, "(") || is(0, "SELECT") => {
                if is(0, "(") {
                    "WINDOW d1 AS (PARTITION BY …)"
                } else {
                    "CREATE VIEW name AS SELECT …"
                }
            }
            _ if is(0, "END") || is(0, "WHEN") || self.is_after("CASE", 12) => {
                "CASE WHEN amount > 100 THEN 1 ELSE 0 END"
            }
            "(" if is(1, "WITH") => "WITH (resolution = '1 minute')",
            "(" if is(1, "ORDER") => "WITH ORDER (event_time)",
            _ if in_options => "WITH (resolution = '1 minute', late = '1 hour')",
            _ if declares == Declares::Streams && is(0, "ORDER") => "WITH ORDER (event_time)",
            _ if declares == Declares::Streams && is(0, "TOPIC") => {
                "the topic of a stream is its LOCATION 'topic'"
            }
            "identifier" | "an expression" if is(1, ",") => "a comma too many stands before it",
            "an expression" if is(0, ",") => "a comma too many stands here",
            "an expression" => "something is missing before it",
            _ => return None,
        };
        Some((hint.to_owned(), None))
    }

    /// Whether one of the words before the place is that one, and no bracket or comma ends what it began.
    fn is_after(&self, word: &str, most: usize) -> bool {
        (1..=most)
            .map_while(|back| self.before(back))
            .take_while(|token| !["FROM", ",", ";"].contains(&token.text.to_uppercase().as_str()))
            .any(|token| token.is(word))
    }

    /// Whether the place is among the options of a view.
    fn is_in_with(&self) -> bool {
        let mut before = (1..).map_while(|back| self.before(back));
        let first = before.find(|token| {
            ["WITH", "AS", "SELECT"].iter().any(|word| token.is(word)) || token.is("VIEW")
        });
        first.is_some_and(|token| token.is("WITH") || token.is("VIEW"))
    }

    /// A comma that lacks: a value stands behind a value.
    fn comma(&self, expected: &str) -> Option<Hint> {
        let ends = |back: usize| self.before(back).is_some_and(Written::ends_value);
        let starts = |back: usize| self.before(back).is_some_and(Written::is_name);
        let is_open = self.before(0).is_some_and(|token| token.text == "(");
        // `a count(` makes a name of count.
        let back = match (is_open, expected) {
            (true, _) if starts(1) && ends(2) => 1,
            (false, _) if (starts(0) || self.ends_text(0)) && ends(1) => 0,
            _ => return None,
        };
        let token = self.before(back)?;
        Some((
            format!("does a comma lack before {}?", quoted(&token.text)),
            Some(token.span),
        ))
    }

    fn ends_text(&self, back: usize) -> bool {
        self.before(back)
            .is_some_and(|token| token.text.starts_with('\''))
    }

    /// Brackets that do not match.
    fn bracket(&self, expected: &str) -> Option<Hint> {
        let mut open: Vec<&Written> = Vec::new();
        let statement = self.tokens.iter().take(self.at);
        for token in statement {
            match token.text.as_str() {
                "(" => open.push(token),
                ")" => {
                    open.pop();
                }
                ";" => open.clear(),
                _ => {}
            }
        }
        if expected.contains("column definition") {
            return Some((
                "a column is its name, its type and NOT NULL, with a comma behind it: amount DOUBLE NOT NULL,".to_owned(),
                None,
            ));
        }
        match (open.last(), self.found()) {
            (None, Some(")")) => Some(("this bracket closes none: drop it".to_owned(), None)),
            (Some(open), _) if expected.contains(')') => {
                let at = open.span.start;
                Some((
                    format!(
                        "is the bracket closed that opens at {}:{}?",
                        at.line, at.column
                    ),
                    None,
                ))
            }
            _ => None,
        }
    }
}
