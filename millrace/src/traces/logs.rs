//! A log line's fields, and the id of the trace that is under way in its thread.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

/// Formats fields as they are by default, and adds `trace_id`.
#[derive(Default)]
pub(crate) struct LogFields(DefaultFields);

impl<'writer> FormatFields<'writer> for LogFields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        self.0.format_fields(writer.by_ref(), fields)?;
        let trace = Context::map_current(|context| {
            let is_traced = context.has_active_span();
            is_traced.then(|| context.span().span_context().trace_id())
        });
        match trace {
            Some(trace) => write!(writer, " trace_id={trace}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::logged::logged;
    use crate::traces::w3c;

    #[test]
    fn a_line_names_the_trace_that_is_under_way() {
        let text = logged(|| {
            tracing::warn!(number = 1, "before");
            let caller = w3c::parse(
                b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                b"",
            );
            let context = Context::new().with_remote_span_context(caller.unwrap());
            let _under_way = context.attach();
            tracing::warn!(number = 2, "in it");
        });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("before number=1"), "{text}");
        let expected = "in it number=2 trace_id=0af7651916cd43dd8448eb211c80319c";
        assert!(lines[1].ends_with(expected), "{text}");
    }
}
