//! W3C Trace Context: the header `traceparent`, and `tracestate` beside it
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! A header with a mistake is as none: whoever sent it must not be refused for it. OpenTelemetry's own propagator
//! takes ids that are too short, and writes a `tracestate` that is empty.

use std::str::FromStr;

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The trace, the span in it, and whether it is recorded.
pub(crate) const PARENT: &str = "traceparent";
/// What tracing systems add for themselves.
pub(crate) const STATE: &str = "tracestate";

/// Most bytes of a `tracestate` that is passed on: as many as everybody has to.
const MAX_STATE: usize = 512;

/// Who calls, by the headers of a call.
pub(crate) fn of_headers(headers: &HeaderMap) -> Option<SpanContext> {
    let mut parents = headers.get_all(PARENT).iter();
    // Which of two it is that a proxy has added, nobody knows.
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return None;
    };
    let states = headers.get_all(STATE).iter();
    let states: Vec<&str> = states.filter_map(|state| state.to_str().ok()).collect();
    parse(parent.as_bytes(), states.join(",").as_bytes())
}

/// The context that two headers give; none where `traceparent` has a mistake. A mistake in `tracestate` costs that alone.
pub(crate) fn parse(parent: &[u8], state: &[u8]) -> Option<SpanContext> {
    let parent = std::str::from_utf8(parent).ok()?.trim();
    let (version, rest) = parent.split_once('-')?;
    let (trace_id, rest) = rest.split_once('-')?;
    let (span_id, rest) = rest.split_once('-')?;
    let version = hex(version, 2)? as u8;
    let flags = match (version, rest.split_once('-')) {
        (u8::MAX, _) => return None,
        // Later versions may have more fields.
        (1.., Some((flags, _))) => flags,
        (_, Some(_)) => return None,
        (_, None) => rest,
    };
    let context = SpanContext::new(
        TraceId::from(hex(trace_id, 32)?),
        SpanId::from(hex(span_id, 16)? as u64),
        TraceFlags::new(hex(flags, 2)? as u8) & TraceFlags::SAMPLED,
        true,
        trace_state(state),
    );
    // An id of zeros is none.
    context.is_valid().then_some(context)
}

fn trace_state(state: &[u8]) -> TraceState {
    let state = std::str::from_utf8(state).unwrap_or_default();
    match state.len() <= MAX_STATE {
        true => TraceState::from_str(state).unwrap_or_default(),
        false => TraceState::default(),
    }
}

/// A number of so many lowercase hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_well_formed = text.len() == digits && text.bytes().all(is_digit);
    is_well_formed.then(|| u128::from_str_radix(text, 16).ok())?
}

/// `traceparent` of a context.
pub(crate) fn parent(context: &SpanContext) -> String {
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags() & TraceFlags::SAMPLED
    )
}

/// `tracestate` of a context, where there is something in it.
pub(crate) fn state(context: &SpanContext) -> Option<String> {
    Some(context.trace_state().header()).filter(|state| !state.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_and_written_alike() {
        let context = parse(SAMPLED.as_bytes(), b"vendor=a,other=b").unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(parent(&context), SAMPLED);
        assert_eq!(state(&context).as_deref(), Some("vendor=a,other=b"));
        let not_recorded = SAMPLED.replace("-01", "-00");
        let context = parse(not_recorded.as_bytes(), b"").unwrap();
        assert!(!context.is_sampled());
        assert_eq!(
            (parent(&context), state(&context)),
            (not_recorded.to_string(), None)
        );
    }

    #[test]
    fn later_versions_and_unknown_flags_are_read() {
        for text in [
            SAMPLED.replace("-01", "-ff"),
            SAMPLED.replacen("00", "cc", 1),
            format!("{}-what-comes-later", SAMPLED.replacen("00", "cc", 1)),
        ] {
            let context = parse(text.as_bytes(), b"").unwrap();
            assert_eq!(parent(&context), SAMPLED, "{text}");
        }
    }

    #[test]
    fn a_mistake_is_as_no_context() {
        let upper = SAMPLED.to_uppercase();
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let no_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let short = "00-af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let signed = "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let later = SAMPLED.replacen("00", "ff", 1);
        let longer = format!("{SAMPLED}-more");
        for wrong in [
            "",
            "-",
            "nonsense",
            "00-1-2-01",
            zeros,
            no_span,
            short,
            signed,
            &upper,
            &later,
            &longer,
        ] {
            assert_eq!(parse(wrong.as_bytes(), b""), None, "{wrong}");
        }
        assert_eq!(parse(&[0xff; 55], b""), None);
    }

    #[test]
    fn a_mistake_in_the_state_costs_the_state_alone() {
        let long = format!("vendor={}", "x".repeat(600));
        for wrong in ["no pair", long.as_str()] {
            let context = parse(SAMPLED.as_bytes(), wrong.as_bytes()).unwrap();
            assert_eq!(state(&context), None, "{wrong}");
        }
        assert!(parse(SAMPLED.as_bytes(), &[0xff]).is_some());
    }

    #[test]
    fn headers_are_one_context() {
        let mut headers = HeaderMap::new();
        assert_eq!(of_headers(&headers), None);
        headers.insert(PARENT, SAMPLED.parse().unwrap());
        headers.append(STATE, "vendor=a".parse().unwrap());
        headers.append(STATE, "other=b".parse().unwrap());
        let context = of_headers(&headers).unwrap();
        assert_eq!(state(&context).as_deref(), Some("vendor=a,other=b"));
        headers.append(PARENT, SAMPLED.parse().unwrap());
        assert_eq!(of_headers(&headers), None);
    }
}
