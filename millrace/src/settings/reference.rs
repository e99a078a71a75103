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
            other => other.to_owned(),
        };
    };
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
    format!("{value} is not {expected}")
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
