//! What DataFusion's planner says, in the words of somebody who writes a view.
//!
//! DataFusion's errors carry text and seldom a place. The texts that a project can cause are told apart here by how
//! they begin; one that is not known is passed on. What can be seen in the syntax alone is in `slips.rs`.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, SchemaError};

use crate::frame::not_a_length;
use crate::problem::{Complaint, known_names, near};

/// A complaint from DataFusion's error; `tables` are the names that a query may use.
pub(crate) fn complaint(error: &DataFusionError, tables: &[String]) -> Complaint {
    let span = error.diagnostic().and_then(|d| d.span);
    let root = error.find_root();
    if let DataFusionError::SchemaError(schema, _) = root
        && let SchemaError::FieldNotFound {
            field,
            valid_fields,
        } = schema.as_ref()
    {
        let names: BTreeSet<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let complaint = Complaint::new(format!("there is no column '{}'", field.flat_name()));
        return match names.is_empty() {
            true => complaint.hint("name the stream that has it: FROM transactions"),
            false => complaint
                .hint(known_names("column", &field.name, &names))
                .named(span),
        }
        .span(span);
    }
    let text = plain(&root.strip_backtrace());
    match table(&text, tables) {
        Some(complaint) => complaint.named(span),
        None => in_words(&text)
            .unwrap_or_else(|| Complaint::new(text))
            .span(span),
    }
}

/// The first line of an error's text, without the names of DataFusion's parts.
fn plain(text: &str) -> String {
    let mut text = text.lines().next().unwrap_or_default();
    const PARTS: [&str; 8] = [
        "Error during planning: ",
        "Schema error: ",
        "This feature is not implemented: ",
        "Internal error: ",
        "Execution error: ",
        "Arrow error: ",
        "Cast error: ",
        "Parser error: ",
    ];
    while let Some(rest) = PARTS.iter().find_map(|part| text.strip_prefix(part)) {
        text = rest;
    }
    text.to_owned()
}

fn in_words(text: &str) -> Option<Complaint> {
    function(text)
        .or_else(|| operator(text))
        .or_else(|| literal(text))
        .or_else(|| column(text))
        .or_else(|| data_type(text))
        .or_else(|| statement(text))
}

/// The name in DataFusion's "table 'datafusion.public.x' not found".
fn table(text: &str, tables: &[String]) -> Option<Complaint> {
    let name = text.strip_prefix("table '")?.strip_suffix("' not found")?;
    let name = name.rsplit('.').next()?;
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    Some(
        Complaint::new(format!("there is no stream or view '{name}'")).hint(known_names(
            "stream or view",
            name,
            &names,
        )),
    )
}

/// A function that is called with what it does not take.
fn function(text: &str) -> Option<Complaint> {
    if let Some(rest) = text.strip_prefix("Function '") {
        let (name, rest) = rest.split_once("' failed to match any signature")?;
        let received = between(rest, "(DataType: ", ").");
        return Some(match received.filter(|_| !rest.contains(" expects ")) {
            Some(received) => wrong_argument(name, received),
            None => wrong_number(name, rest),
        });
    }
    if let Some(rest) = text.strip_prefix("Failed to coerce arguments to satisfy a call to '") {
        let (name, rest) = rest.split_once("' function: coercion from ")?;
        let (received, signature) = rest.split_once(" to the signature ")?;
        if signature.starts_with("Exact(Float64)") {
            return Some(wrong_argument(name, received));
        }
        let received: Vec<&str> = received.split(", ").map(kind).collect();
        let message = format!("{name}() cannot be called with {}", received.join(" and "));
        return Some(
            Complaint::new(message)
                .hint("it takes another number of arguments, or arguments of other types")
                .word(name),
        );
    }
    if let Some((name, _)) = text
        .strip_prefix('\'')
        .and_then(|rest| rest.split_once("' does not support zero arguments"))
    {
        let message = format!("{name}() says not what it is taken of");
        return Some(
            Complaint::new(message)
                .hint(format!("{name}(amount); count(*) alone counts events"))
                .word(name),
        );
    }
    if let Some((name, _)) = text
        .strip_prefix("[return_type] ")
        .and_then(|rest| rest.split_once(" not supported for Null"))
    {
        let name = name.to_lowercase();
        return Some(
            Complaint::new(format!("{name}(*) says not what it is taken of"))
                .hint(format!("{name}(amount); count(*) alone counts events"))
                .word(&name),
        );
    }
    let filtered = "FILTER clause can only be used with aggregate window functions. Found in '";
    if let Some((name, _)) = text
        .strip_prefix(filtered)
        .and_then(|rest| rest.split_once('('))
    {
        let value = if name == "first_value" {
            name
        } else {
            "last_value"
        };
        return Some(
            Complaint::new(format!("{name}() takes no FILTER"))
                .hint(format!(
                    "{value}(CASE WHEN … THEN x END) IGNORE NULLS OVER …"
                ))
                .word("FILTER"),
        );
    }
    if text.starts_with("Support for 'approx_distinct' for data type ") {
        return Some(
            Complaint::new(
                "approx_distinct() takes whole numbers, texts and times, and this is none of them",
            )
            .hint("count(DISTINCT x) OVER …, or approx_distinct(CAST(x AS VARCHAR)) OVER …")
            .word("approx_distinct"),
        );
    }
    if text.starts_with("COUNT DISTINCT with multiple arguments") {
        return Some(
            Complaint::new("count(DISTINCT …) takes one column")
                .hint("join them to one: count(DISTINCT card_id || ' ' || terminal_id)")
                .word("count"),
        );
    }
    None
}

fn wrong_argument(name: &str, received: &str) -> Complaint {
    let hint = match kind(received) {
        TEXT => format!("count(DISTINCT …) counts different texts; {name}(CAST(… AS DOUBLE)) reads numbers in them"),
        CONDITION => "count(*) FILTER (WHERE …) counts what it holds for; CASE WHEN … THEN 1 ELSE 0 END is a number"
            .to_owned(),
        TIME => "max(…) and min(…) take times; date_part('epoch', …) is a number of seconds".to_owned(),
        _ => "look at the type of its column in sources.sql".to_owned(),
    };
    Complaint::new(format!(
        "{name}() takes numbers, and this is {}",
        kind(received)
    ))
    .hint(hint)
    .word(name)
}

/// A function with too many arguments or too few.
fn wrong_number(name: &str, text: &str) -> Complaint {
    let number = |rest: &str| rest.split_whitespace().next().and_then(|n| n.parse().ok());
    let expected = text.split(" expects ").skip(1).filter_map(number);
    let expected: BTreeSet<u32> = expected.collect();
    let expected: Vec<String> = expected.iter().map(u32::to_string).collect();
    let received: Option<u32> = text.split(" received ").nth(1).and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    let plural = match expected.as_slice() {
        [one] if one == "1" => "",
        _ => "s",
    };
    let message = match received {
        Some(received) => format!(
            "{name}() takes {} argument{plural}, and here {} {received}",
            expected.join(" or "),
            if received == 1 { "is" } else { "are" }
        ),
        None => format!("{name}() takes other arguments"),
    };
    let hint = match name {
        "approx_percentile_cont" => {
            "approx_percentile_cont(amount, 0.9) is the value that 9 of 10 stay below"
        }
        _ => "each call is of one column or expression; put the others into calls of their own",
    };
    Complaint::new(message).hint(hint).word(name)
}

/// An operator between what it cannot take.
fn operator(text: &str) -> Option<Complaint> {
    const CAST: &str = "CAST(card_id AS DOUBLE) makes a number of a text; a text stands in single quotes, a number in none";
    for begin in [
        "Cannot coerce arithmetic expression ",
        "Cannot infer common argument type for comparison operation ",
        "Cannot infer common argument type for logical boolean operation ",
    ] {
        if let Some(rest) = text.strip_prefix(begin) {
            let rest = rest.trim_end_matches(" to valid types");
            // A type may have brackets and no spaces outside of them.
            let (left, rest) = rest.split_once(' ')?;
            let (operator, right) = rest.rsplit_once(' ')?;
            let message = format!("{operator} cannot take {} and {}", kind(left), kind(right));
            let hint = match (kind(left), kind(right)) {
                (TIME, _) | (_, TIME) => {
                    "a time is written TIMESTAMP '2025-01-31 12:00:00', a length of time INTERVAL '1 hour'"
                }
                _ if begin.contains("boolean") => "compare first: amount > 0 AND …",
                _ => CAST,
            };
            return Some(Complaint::new(message).hint(hint));
        }
    }
    if let Some((_, received)) = text
        .strip_prefix("Unary operator 'NOT'")
        .and_then(|rest| rest.split_once("got "))
    {
        return Some(
            Complaint::new(format!(
                "NOT takes a condition, and this is {}",
                kind(received)
            ))
            .hint("compare first: NOT amount > 0"),
        );
    }
    if let Some(types) = between(text, "There isn't a common type to coerce ", " in LIKE") {
        let (left, right) = types.split_once(" and ")?;
        return Some(
            Complaint::new(format!(
                "LIKE compares texts, and here are {} and {}",
                kind(left),
                kind(right)
            ))
            .hint("CAST(… AS VARCHAR) makes a text of a number"),
        );
    }
    if let Some(rest) = text.strip_prefix("Cannot create filter with non-boolean predicate '") {
        let (predicate, received) = rest.split_once("' returning ")?;
        let is_named = !predicate.contains(['(', ' ']);
        let name = predicate.rsplit('.').next().filter(|_| is_named);
        return Some(no_condition("WHERE", name, received));
    }
    None
}

/// What stands where a condition is due, behind one of WHERE, FILTER and WHEN.
pub(crate) fn no_condition(clause: &str, name: Option<&str>, data_type: &str) -> Complaint {
    let kind = kind(data_type);
    let other = match kind {
        TEXT => "= 'x'",
        TIME => "> TIMESTAMP '2025-01-31 12:00:00'",
        _ => "> 0",
    };
    let begin = if clause == "WHEN" { clause } else { "WHERE" };
    let (shown, name) = match name {
        Some(name) => (format!("'{name}'"), name),
        None => ("this".to_owned(), "…"),
    };
    Complaint::new(format!("{clause} takes a condition, and {shown} is {kind}")).hint(format!(
        "compare it: {begin} {name} {other}, or {name} IS NOT NULL"
    ))
}

/// A text that something would read as a number or a time; `literal` is a number that stands beside it in the query.
pub(crate) fn text_read_as(
    by: &str,
    name: Option<&str>,
    data_type: &DataType,
    literal: Option<&str>,
) -> Complaint {
    let (shown, name) = match name {
        Some(name) => (format!("'{name}'"), name),
        None => ("this".to_owned(), "…"),
    };
    let (kind, to) = match data_type {
        DataType::Timestamp(..) => (TIME, "TIMESTAMP".to_owned()),
        DataType::Date32 | DataType::Date64 => ("a date", "DATE".to_owned()),
        DataType::Time32(_) | DataType::Time64(_) => ("a time of day", "TIME".to_owned()),
        DataType::Decimal128(precision, scale) => {
            ("a number", format!("DECIMAL({precision}, {scale})"))
        }
        whole if whole.is_integer() => ("a number", "BIGINT".to_owned()),
        _ => ("a number", "DOUBLE".to_owned()),
    };
    let text = match literal {
        Some(literal) => format!("'{literal}' in quotes is a text"),
        None => format!("CAST(… AS VARCHAR) makes a text of {kind}"),
    };
    Complaint::new(format!(
        "{shown} is text, and {by} would read it as {kind}, which fails where it is none"
    ))
    .hint(format!(
        "{text}; TRY_CAST({name} AS {to}) is {kind}, and null where the text is none"
    ))
}

/// A text in quotes that is read as something else, for it stands beside that.
fn literal(text: &str) -> Option<Complaint> {
    if let Some(rest) = text.strip_prefix("Cannot cast string '") {
        let (value, data_type) = rest.rsplit_once("' to value of ")?;
        let expected = kind(data_type.trim_end_matches(" type"));
        return Some(
            Complaint::new(format!("'{value}' is not {expected}, which the column beside it is"))
                .hint("a text stands in single quotes, a number in none; CAST(… AS VARCHAR) makes a text of a column")
                .word(value),
        );
    }
    if let Some(rest) = text.strip_prefix("Error parsing timestamp from '") {
        let (value, _) = rest.split_once('\'')?;
        return Some(
            Complaint::new(format!("'{value}' is not a time"))
                .hint("write '2025-01-31', '2025-01-31 12:00:00' or '2025-01-31T12:00:00Z'")
                .word(value),
        );
    }
    let part = text
        .strip_prefix("Date part '")
        .or_else(|| text.strip_prefix("Unsupported date_trunc granularity: '"));
    if let Some((part, _)) = part.and_then(|rest| rest.split_once('\'')) {
        const PARTS: [&str; 10] = [
            "year", "quarter", "month", "week", "day", "hour", "minute", "second", "dow", "epoch",
        ];
        return Some(
            Complaint::new(format!("'{part}' is no part of a time"))
                .hint(known_names("part", part, &PARTS))
                .word(part),
        );
    }
    let value = text.strip_prefix("Invalid input syntax for type interval: \"")?;
    let value = value.strip_suffix('"')?;
    not_a_length(value).map(|complaint| complaint.word(value))
}

/// A name that says nothing, or two things.
fn column(text: &str) -> Option<Complaint> {
    if let Some(name) = text.strip_prefix("Ambiguous reference to unqualified field ") {
        let name = name.trim_matches('"');
        return Some(
            Complaint::new(format!(
                "'{name}' is a column of more than one of the joined tables"
            ))
            .hint(format!(
                "say of which: t.{name}; a join that is USING ({name}) leaves one of them"
            )),
        );
    }
    if let Some(name) = text.strip_prefix("Schema contains duplicate unqualified field name ") {
        let name = name.trim_matches('"');
        return Some(
            Complaint::new(format!("column '{name}' is declared twice"))
                .hint("drop one of them, or name it as the events do"),
        );
    }
    if let Some(name) = text.strip_prefix("Schema contains duplicate qualified field name ") {
        let table = name.split('.').next()?.trim_matches('"');
        return Some(
            Complaint::new(format!("two of the joined tables are named '{table}'"))
                .hint("give each a name of its own: JOIN card_activity c"),
        );
    }
    if text.starts_with("Projections require unique expression names") {
        // `slips.rs` finds those that are written twice.
        return Some(
            Complaint::new("two columns of the view have the same name")
                .hint("give one of them another name: AS …; in place of * name the columns"),
        );
    }
    // A cast is no part of DataFusion's names.
    text.contains("unique expression names").then(|| {
        Complaint::new("two aggregates of the view are the same to the planner").hint(
            "two that differ in a cast alone are: write one argument another way, CAST(amount + 0 AS BIGINT), or put it \
             in a view of its own",
        )
    })
}

/// Types of SQL, and those of other systems with the type that is meant.
const TYPES: [(&str, &str); 27] = [
    ("BOOLEAN", "BOOLEAN"),
    ("SMALLINT", "SMALLINT"),
    ("INT", "INT"),
    ("INTEGER", "INTEGER"),
    ("BIGINT", "BIGINT"),
    ("FLOAT", "FLOAT"),
    ("DOUBLE", "DOUBLE"),
    ("DECIMAL", "DECIMAL(12, 2)"),
    ("VARCHAR", "VARCHAR"),
    ("TEXT", "VARCHAR"),
    ("STRING", "VARCHAR"),
    ("DATE", "DATE"),
    ("TIMESTAMP", "TIMESTAMP"),
    ("INT8", "SMALLINT"),
    ("INT16", "SMALLINT"),
    ("INT32", "INT"),
    ("INT64", "BIGINT"),
    ("LONG", "BIGINT"),
    ("FLOAT32", "FLOAT"),
    ("FLOAT64", "DOUBLE"),
    ("NUMBER", "DOUBLE' or 'DECIMAL(12, 2)"),
    ("MONEY", "DECIMAL(12, 2)"),
    ("UUID", "VARCHAR"),
    ("JSON", "VARCHAR"),
    ("ENUM", "VARCHAR"),
    ("DATETIME", "TIMESTAMP"),
    ("UTF8", "VARCHAR"),
];

fn data_type(text: &str) -> Option<Complaint> {
    let written = text.strip_prefix("Unsupported SQL type ")?;
    let name = written.split('(').next()?.trim().to_uppercase();
    let names = TYPES.map(|(name, _)| name);
    let meant = near(&name, &names).and_then(|near| TYPES.iter().find(|(name, _)| *name == near));
    let hint = match meant {
        Some((_, meant)) => format!("did you mean '{meant}'?"),
        None => "there are BOOLEAN, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(12, 2), VARCHAR, DATE and TIMESTAMP"
            .to_owned(),
    };
    Some(
        Complaint::new(format!("there is no type '{written}'"))
            .hint(hint)
            .word(&name),
    )
}

/// WHERE with an aggregate in it.
pub(crate) fn aggregate_in_where() -> Complaint {
    Complaint::new("WHERE looks at one event, and an aggregate is of many").hint(
        "WHERE chooses the events that count; a condition on an aggregate is a feature: CASE WHEN … THEN 1 ELSE 0 END",
    )
}

/// FILTER with an aggregate in it.
pub(crate) fn aggregate_in_filter() -> Complaint {
    Complaint::new("FILTER looks at one event, and an aggregate is of many").hint(
        "FILTER chooses the events that count; a condition on an aggregate stands around the other one: CASE WHEN \
         count(*) OVER d1 > 1 THEN sum(amount) OVER d1 END",
    )
}

fn statement(text: &str) -> Option<Complaint> {
    if text.starts_with("Aggregate functions are not allowed in the WHERE clause") {
        return Some(aggregate_in_where());
    }
    if text.starts_with("Substring without for/from") {
        return Some(
            Complaint::new("substr() says not which part of the text it takes")
                .hint("substr(card_id, 1, 4) is its first four characters"),
        );
    }
    if text.starts_with("Operator DIV") {
        return Some(
            Complaint::new("// is no operator")
                .hint("a / b; of whole numbers it is a whole number"),
        );
    }
    if text.contains("ScalarSubquery") || text.contains("InSubquery") || text.contains("Exists(") {
        return Some(
            Complaint::new("a query inside the query is not kept up")
                .hint("make a view of it over its stream, and join the views in inputs.sql"),
        );
    }
    text.contains("window frame").then(|| {
        Complaint::new(text)
            .in_frame()
            .hint("RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW is one, for instance")
    })
}

const TEXT: &str = "text";
const CONDITION: &str = "a condition";
const TIME: &str = "a time";

/// An Arrow type, as people say it.
pub(crate) fn kind(data_type: &str) -> &'static str {
    let is = |names: &[&str]| names.iter().any(|name| data_type.trim().starts_with(name));
    if is(&["Utf8", "LargeUtf8", "String"]) {
        TEXT
    } else if is(&["Boolean"]) {
        CONDITION
    } else if is(&["Timestamp"]) {
        TIME
    } else if is(&["Interval", "Duration"]) {
        "a length of time"
    } else if is(&["Date"]) {
        "a date"
    } else if is(&["Int", "UInt", "Float", "Decimal"]) {
        "a number"
    } else {
        "of another type"
    }
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    rest.split_once(end).map(|(inner, _)| inner)
}
