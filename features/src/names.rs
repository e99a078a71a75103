//! Names of views and of their columns: files, Parquet columns and tools have them too.

use crate::problem::{Checked, Complaint};

/// More than any view needs, and less than a file system or a catalog allows.
const LONGEST: usize = 128;

/// Refuses a name that not every file and every table can have; `what` bears it.
pub(crate) fn check(what: &str, name: &str) -> Checked<()> {
    let is_odd = |c: char| matches!(c, '/' | '\\') || c.is_control();
    let message = if name.is_empty() {
        format!("{what} has an empty name")
    } else if name.len() > LONGEST {
        format!(
            "{what} has a name of {} bytes, and {LONGEST} are the most",
            name.len()
        )
    } else if name.starts_with('.') || name.contains(is_odd) {
        let shown: String = name
            .chars()
            .map(|c| if c.is_control() { '�' } else { c })
            .collect();
        format!("{what} is named '{shown}', which is no name for a file or a column")
    } else {
        return Ok(());
    };
    Err(Complaint::new(message)
        .hint("a name has letters, digits and _: CREATE VIEW card_activity, or AS tx_count_1h"))
}
