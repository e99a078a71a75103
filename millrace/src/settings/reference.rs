//! What docs/settings.md says of every setting, for messages; a test holds the page to the defaults.

use toml::de::DeTable;

use crate::files::nearest;

const PAGE: &str = include_str!("../../../docs/settings.md");

/// A setting, or a section of them.
struct Setting {
    /// `learner.training.members`; of a section `learner.training`.
    name: String,
    /// Its line, with its default.
    line: &'static str,
}

/// All sections and settings of the page.
fn all() -> Vec<Setting> {
    let block = PAGE.split("```toml").nth(1).unwrap_or_default();
    let block = block.split("```").next().unwrap_or_default();
    let mut section = "";
    let mut found = Vec::new();
    for line in block.lines() {
        // What has no default stands there as a comment.
        let line = line.strip_prefix("# ").unwrap_or(line);
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name;
            found.push(Setting {
                name: section.to_owned(),
                line,
            });
        } else if let Some((name, _)) = line.split_once('=') {
            found.push(Setting {
                name: format!("{section}.{}", name.trim()),
                line,
            });
        }
    }
    found
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Where a setting of that name stands, if it is in another section than it was looked for: `near` are the names there.
pub(super) fn elsewhere(wrong: &str, near: &[&str]) -> Option<String> {
    let all = all();
    let exact = all.iter().find(|setting| last(&setting.name) == wrong);
    if let Some(setting) = exact {
        return Some(setting.name.clone());
    }
    if nearest(wrong, near.iter().copied()).is_some() {
        return None;
    }
    let name = nearest(wrong, all.iter().map(|setting| last(&setting.name)))?;
    let setting = all.iter().find(|setting| last(&setting.name) == name);
    setting.map(|setting| setting.name.clone())
}

/// The line of a setting in the page: its name and its default.
pub(super) fn line_of(name: &str) -> Option<&'static str> {
    let all = all();
    let setting = all.iter().find(|setting| setting.name == name);
    setting.map(|setting| setting.line)
}

/// The setting that a place in a file is about, by its whole name.
pub(super) fn setting_at(text: &str, offset: usize) -> Option<String> {
    let before = text.get(..offset)?;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let (name, _) = text.get(start..)?.lines().next()?.split_once('=')?;
    let header = |line: &str| {
        let name = line.trim().strip_prefix('[')?.split(']').next()?;
        Some(name.trim().to_owned())
    };
    let section = before.lines().rev().find_map(header);
    let name = name.trim();
    Some(match section {
        Some(section) => format!("{section}.{name}"),
        None => name.to_owned(),
    })
}

/// Where the value of a setting begins in a file that has it, by its whole name.
pub(super) fn value_of(text: &str, name: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    value_in(table.get_ref(), name)
}

/// A name may have dots of its own, as those of Kafka's properties do.
fn value_in(table: &DeTable<'_>, name: &str) -> Option<usize> {
    table.iter().find_map(|(key, value)| {
        let key: &str = key.get_ref();
        match name.strip_prefix(key)? {
            "" => Some(value.span().start),
            rest => value_in(value.get_ref().as_table()?, rest.strip_prefix('.')?),
        }
    })
}

/// What serde says of a value of another type, in words.
pub(super) fn in_words(message: &str) -> String {
    let parts = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "));
    let Some((value, expected)) = parts else {
        return match message {
            "invalid boolean, expected `true`" | "invalid boolean, expected `false`" => {
                "this is neither true nor false; a text stands in quotes".to_owned()
            }
            "invalid float, expected nothing" => {
                "this is no number; a text stands in quotes".to_owned()
            }
            // Of a number that TOML does not have.
            "u64 value was too large" | "integer number overflowed" => {
                format!("this is too large: a whole number is {} at most", i64::MAX)
            }
            other => other.to_owned(),
        };
    };
    let largest = largest(expected);
    let expected = match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number that is not negative",
        "i64" | "i32" | "i16" => "a whole number",
        "f64" | "f32" => "a number",
        "a string" | "path string" => "a text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list: [ … ]",
        "a map" => "a table: { name = value }",
        other => other,
    };
    // A value stands in backticks, a text in quotes; a list or a table stands there by its kind alone.
    let value = match (value.split('`').nth(1), value.strip_prefix("string ")) {
        (Some(value), _) | (None, Some(value)) => value,
        (None, None) if value == "sequence" => "a list",
        (None, None) if value == "map" => "a table",
        (None, None) => value,
    };
    match largest.filter(|most| is_more(value, *most)) {
        Some(most) => format!("{value} is too large: it can be {most} at most"),
        None => format!("{value} is not {expected}"),
    }
}

/// The largest whole number of a type; TOML has no larger one than 64 bits with a sign.
fn largest(expected: &str) -> Option<i64> {
    Some(match expected {
        "usize" | "u64" | "i64" => i64::MAX,
        "u32" => i64::from(u32::MAX),
        "i32" => i64::from(i32::MAX),
        "u16" => i64::from(u16::MAX),
        "i16" => i64::from(i16::MAX),
        "u8" => i64::from(u8::MAX),
        _ => return None,
    })
}

/// Whether a value is a whole number that is larger than `most`. One that TOML does not have comes as a text.
fn is_more(value: &str, most: i64) -> bool {
    let digits = value.trim_matches('"');
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_within = digits.parse::<i64>().is_ok_and(|number| number <= most);
    is_whole && !is_within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_by_their_names() {
        let found = |wrong: &str| elsewhere(wrong, &["device", "seed"]);
        assert_eq!(
            found("replay_frauds").as_deref(),
            Some("learner.training.replay_frauds")
        );
        assert_eq!(
            found("replay_fruads").as_deref(),
            Some("learner.training.replay_frauds")
        );
        assert_eq!(found("gate").as_deref(), Some("learner.gate"));
        assert_eq!(
            found("tracking_uri").as_deref(),
            Some("model.mlflow.tracking_uri")
        );
        assert_eq!(found("devise"), None);
        assert_eq!(found("nothing_like_it"), None);
        assert_eq!(line_of("model.every"), Some("every = \"1h\""));
        let text = "[model]\nlabel = 'a'\n[learner.gate]\nmin_rows = 'x'\n";
        let at = text.find("'x'").unwrap_or_default();
        assert_eq!(
            setting_at(text, at).as_deref(),
            Some("learner.gate.min_rows")
        );
    }

    #[test]
    fn types_are_words() {
        for (said, expected) in [
            (
                "invalid type: string \"1000\", expected usize",
                "\"1000\" is not a whole number that is not negative",
            ),
            (
                "invalid value: integer `-5`, expected usize",
                "-5 is not a whole number that is not negative",
            ),
            (
                "invalid type: string \"18446744073709551615\", expected u64",
                "\"18446744073709551615\" is too large: it can be 9223372036854775807 at most",
            ),
            (
                "invalid type: integer `99999999999999999999` as i128, expected u64",
                "99999999999999999999 is too large: it can be 9223372036854775807 at most",
            ),
            (
                "invalid value: integer `4294967296`, expected i32",
                "4294967296 is too large: it can be 2147483647 at most",
            ),
            (
                "u64 value was too large",
                "this is too large: a whole number is 9223372036854775807 at most",
            ),
            (
                "invalid type: integer `3600`, expected a string",
                "3600 is not a text in quotes",
            ),
            (
                "invalid type: sequence, expected a map",
                "a list is not a table: { name = value }",
            ),
            ("anything else", "anything else"),
        ] {
            assert_eq!(in_words(said), expected);
        }
    }
}
