//! An answer on its way to its caller, who may take his time: the place is given back before.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::gate::{Kept, Open, Pass};
use super::message::SMALL;

/// So many frames has the answer of a method that gives one message: the message, and the status behind it.
const FRAMES: usize = 2;

impl Pass {
    /// The answer of a service. What is ready of it is encoded while there is a place for that, which then is given
    /// back.
    pub(super) async fn answer(self, response: Response<Body>) -> Response<Body> {
        let Self { place, open } = self;
        let (parts, body) = response.into_parts();
        let mut answer = Answer {
            ready: [None, None],
            body,
            open: Some(open),
            _kept: None,
        };
        if place.is_some() {
            poll_fn(|context| {
                answer.take_ready(context);
                Poll::Ready(())
            })
            .await;
            answer.keep();
        }
        drop(place);
        Response::from_parts(parts, Body::new(answer))
    }
}

type Polled = Result<Frame<Bytes>, Status>;

/// Whether a body has ended: with trailers, an error, or nothing more. It is not asked again, for some go on: the encoder
/// of a message that it refused gives its bytes behind the status.
fn is_last(polled: Option<&Polled>) -> bool {
    !matches!(polled, Some(Ok(frame)) if frame.is_data())
}

/// The body of an answer: a request of its client's until it has ended.
#[derive(Debug)]
struct Answer {
    /// What was taken of the body before it was asked for.
    ready: [Option<Polled>; FRAMES],
    body: Body,
    open: Option<Open>,
    /// Counts what was taken, where that is much.
    _kept: Option<Kept>,
}

impl Answer {
    fn take_ready(&mut self, context: &mut Context<'_>) {
        for ready in &mut self.ready {
            let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(context) else {
                return;
            };
            let is_last = is_last(polled.as_ref());
            *ready = polled;
            if is_last {
                self.body = Body::empty();
                return;
            }
        }
    }

    fn keep(&mut self) {
        let frames = self.ready.iter().flatten().flatten();
        let bytes: usize = frames.filter_map(Frame::data_ref).map(Bytes::len).sum();
        if bytes > SMALL {
            self._kept = self.open.as_ref().map(|open| open.kept(bytes));
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Polled>> {
        let ready = self.ready.iter_mut().find_map(Option::take);
        let polled = match ready {
            Some(ready) => Poll::Ready(Some(ready)),
            None => Pin::new(&mut self.body).poll_frame(context),
        };
        if let Poll::Ready(polled) = &polled
            && is_last(polled.as_ref())
        {
            // What remains is not this server's work.
            self.open = None;
            self.body = Body::empty();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ready.iter().all(Option::is_none) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.ready.iter().all(Option::is_none) {
            true => self.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}
