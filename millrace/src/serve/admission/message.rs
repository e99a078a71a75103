//! A request's message, read to its end before anything is done for it.
//!
//! The usual request is there at once: its bytes are handed on as they came, and neither a clock nor a count is asked.
//! What is still coming has a limit on its time, and is counted among the bytes that its client has under way.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

use super::gate::{Gate, Kept};
use super::refused::Refused;
use crate::serve::access::Caller;

/// Bytes of a message that need no count, where it is there at once. Of such messages no more wait than may be in line.
pub(super) const SMALL: usize = 64 << 10;

/// What a request that is still coming costs beside its bytes.
const OVERHEAD: usize = 16 << 10;

/// gRPC's bytes before a message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// The bytes of a request.
#[derive(Debug, Default)]
pub(in crate::serve) struct Message {
    /// All there is, as it came; empty once there is more.
    first: Bytes,
    more: BytesMut,
    kept: Option<Kept>,
}

/// What a message may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of the body.
    pub(super) bytes: usize,
    /// Bytes that gRPC's length before the message may say; none where the body is not gRPC's.
    pub(super) announced: Option<usize>,
    pub(super) deadline: Option<Instant>,
}

/// When a request must be there.
struct Clock {
    timeout: Duration,
    deadline: Option<Instant>,
    /// Known once there was something to wait for.
    latest: Option<Instant>,
}

impl Message {
    /// Reads a body to its end.
    pub(super) async fn read(
        gate: &Gate,
        client: &Arc<Caller>,
        mut body: Body,
        bounds: Bounds,
    ) -> Result<Self, Refused> {
        let mut message = Self::default();
        let mut clock = Clock::new(gate.body_timeout(), bounds.deadline);
        loop {
            let frame =
                match poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await
                {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => {
                        message.keep(gate, client)?;
                        clock.wait(&mut body).await?
                    }
                };
            let Some(data) = data_of(frame)? else {
                return Ok(message);
            };
            message.add(data, bounds)?;
            if message.kept.is_some() || message.len() > SMALL {
                message.keep(gate, client)?;
            }
            if body.is_end_stream() {
                return Ok(message);
            }
        }
    }

    fn add(&mut self, data: Bytes, bounds: Bounds) -> Result<(), Refused> {
        let found = self.len() + data.len();
        if found > bounds.bytes {
            let most = bounds.announced.unwrap_or(bounds.bytes);
            return Err(Refused::TooLarge { found, most });
        }
        if self.is_empty() {
            self.first = data;
        } else {
            // In one piece: a message in many small ones would keep far more than its bytes.
            self.more
                .extend_from_slice(&std::mem::take(&mut self.first));
            self.more.extend_from_slice(&data);
        }
        match (self.announced(), bounds.announced) {
            (Some(found), Some(most)) if found > most => Err(Refused::TooLarge { found, most }),
            _ => Ok(()),
        }
    }

    /// Counts what has come, as its client's.
    fn keep(&mut self, gate: &Gate, client: &Arc<Caller>) -> Result<(), Refused> {
        let bytes = OVERHEAD + self.len();
        let kept = self.kept.get_or_insert_with(|| Kept::nothing(gate, client));
        kept.grow(bytes)
    }

    fn bytes(&self) -> &[u8] {
        match self.more.is_empty() {
            true => &self.first,
            false => &self.more,
        }
    }

    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The length that stands before the message in gRPC.
    fn announced(&self) -> Option<usize> {
        let [_, length @ ..] = *self.bytes().first_chunk::<PREFIX>()?;
        usize::try_from(u32::from_be_bytes(length)).ok()
    }

    /// The bytes of the first message, where the body is gRPC's.
    pub(super) fn behind_prefix(&self) -> &[u8] {
        self.bytes().get(PREFIX..).unwrap_or_default()
    }

    /// The bytes, and what counts them until it is dropped.
    pub(in crate::serve) fn into_parts(self) -> (Bytes, Option<Kept>) {
        let bytes = match self.more.is_empty() {
            true => self.first,
            false => self.more.freeze(),
        };
        (bytes, self.kept)
    }

    /// The same as a body that is all there.
    pub(super) fn into_body(self) -> (Body, Option<Kept>) {
        let (bytes, kept) = self.into_parts();
        (Body::new(Full::new(bytes)), kept)
    }
}

/// The data of a frame; none after the last. What may come behind it, of a request, says nothing.
fn data_of(frame: Option<Result<Frame<Bytes>, Status>>) -> Result<Option<Bytes>, Refused> {
    match frame {
        Some(Ok(frame)) => Ok(frame.into_data().ok()),
        Some(Err(status)) => Err(Refused::BrokenOff(status.message().to_owned())),
        None => Ok(None),
    }
}

impl Clock {
    fn new(timeout: Duration, deadline: Option<Instant>) -> Self {
        Self {
            timeout,
            deadline,
            latest: None,
        }
    }

    async fn wait(
        &mut self,
        body: &mut Body,
    ) -> Result<Option<Result<Frame<Bytes>, Status>>, Refused> {
        let timeout = self.timeout;
        let latest = *self.latest.get_or_insert_with(|| Instant::now() + timeout);
        let until = self.deadline.map_or(latest, |end| end.min(latest));
        let frame = timeout_at(until, body.frame()).await;
        frame.map_err(|_| match self.deadline {
            Some(end) if end <= latest => Refused::Expired,
            _ => Refused::Incomplete { timeout },
        })
    }
}
