//! What tonic says of a request that never came to a service, as what it is: the caller's mistake.
//!
//! tonic calls bytes that are no message INTERNAL, as gRPC's libraries do, and a message that is too large
//! OUT_OF_RANGE. Here the first is a defect, and the second a time that is too early. What tonic says is known by its
//! text, with which nothing begins that a service says.

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

use super::count_answer;

/// tonic's code, how its text begins, and the code that is meant.
const TEXTS: [(Code, &str, Code); 5] = {
    use Code::{Internal, InvalidArgument, OutOfRange, ResourceExhausted};
    [
        (
            OutOfRange,
            "Error, decoded message length too large",
            ResourceExhausted,
        ),
        (
            Internal,
            "failed to decode Protobuf message",
            InvalidArgument,
        ),
        (Internal, "Unexpected EOF decoding stream", InvalidArgument),
        (Internal, "Missing request message", InvalidArgument),
        (
            Internal,
            "protocol error: received message with",
            InvalidArgument,
        ),
    ]
};

/// The answer with the status that is meant, which is counted where no service has done so.
pub(super) fn put_right(method: &'static str, response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if meant(&status).is_some() => told(method, status).into_http(),
        _ => response,
    }
}

/// The status that is meant.
pub(super) fn told(method: &'static str, status: Status) -> Status {
    let Some(code) = meant(&status) else {
        return status;
    };
    count_answer(method, code);
    Status::new(code, format!("the request: {}", status.message()))
}

fn meant(status: &Status) -> Option<Code> {
    let is_it = |(code, text, _): &&(Code, &str, Code)| {
        *code == status.code() && status.message().starts_with(text)
    };
    TEXTS.iter().find(is_it).map(|(_, _, meant)| *meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tonic_says_is_told_from_what_a_service_says() {
        for (status, expected) in [
            (
                Status::internal("failed to decode Protobuf message: buffer underflow"),
                Code::InvalidArgument,
            ),
            (
                Status::out_of_range(
                    "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
                ),
                Code::ResourceExhausted,
            ),
            (
                Status::internal("Unexpected EOF decoding stream."),
                Code::InvalidArgument,
            ),
            (Status::internal("the store cannot be read"), Code::Internal),
            (
                Status::out_of_range("as_of: it is too early"),
                Code::OutOfRange,
            ),
            (
                Status::unavailable("failed to decode Protobuf message"),
                Code::Unavailable,
            ),
        ] {
            let answer = put_right("Score", status.clone().into_http());
            let told = Status::from_header_map(answer.headers());
            assert_eq!(told.map(|told| told.code()), Some(expected), "{status}");
        }
    }
}
