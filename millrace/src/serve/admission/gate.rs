//! The line with a clock: requests wait here for their places, and give them back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use metrics::Gauge;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;

use super::arrival::Arrival;
use super::items::Items;
use super::line::{Admission, Ticket, Turn};
use super::message::{Bounds, Message, PREFIX};
use super::refused::Refused;
use super::service::Job;
use super::work::Held;
use super::{Class, LimitSettings, Treatment};
use crate::serve::MAX_MESSAGE_BYTES;
use crate::serve::access::Caller;

/// [`Admission`] with a clock: one for a server, shared by all of its connections.
#[derive(Debug, Clone)]
pub(in crate::serve) struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held for some ten nanoseconds at a time, and never while anything waits.
    admission: Mutex<Admission>,
    max_wait: Duration,
    body_timeout: Duration,
    opened: Instant,
    in_place: Gauge,
    waiting: Gauge,
}

impl Gate {
    /// Longest wait that a clock can add up. A longer one is as good as none.
    pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

    /// Takes the metrics' recorder as it is now: install it before.
    pub(in crate::serve) fn new(settings: LimitSettings) -> Self {
        Self(Arc::new(Shared {
            max_wait: settings.max_wait.min(Self::LONGEST),
            body_timeout: settings.body_timeout.min(Self::LONGEST),
            admission: Mutex::new(Admission::new(settings)),
            opened: Instant::now(),
            in_place: metrics::gauge!("millrace_requests_in_place"),
            waiting: metrics::gauge!("millrace_requests_waiting"),
        }))
    }

    /// Lets a request in, at once or after it has waited. No pass is for what is not counted.
    ///
    /// A request that takes a place has come to its end before: what is handed on has all of it.
    pub(super) async fn admit(
        &self,
        arrival: &Arrival,
        request: Request<Body>,
    ) -> Result<(Option<Pass>, Request<Body>), Refused> {
        let Arrival {
            treatment,
            client,
            deadline,
            ..
        } = arrival;
        if *treatment == Treatment::Free {
            return Ok((None, request));
        }
        let open = self.open(client)?;
        let (job, request, kept) = match *treatment {
            Treatment::Free | Treatment::Open => {
                let place = None;
                return Ok((Some(Pass { place, open }), request));
            }
            // Nobody reads the body of a method that there is not, and it may be a stream.
            Treatment::Placed(class @ Class::Other, _) => (Job { class, items: 0 }, request, None),
            Treatment::Placed(class, items) => {
                let (request, items, kept) = self.whole(client, request, items, *deadline).await?;
                (Job { class, items }, request, kept)
            }
        };
        let place = Some(Held::new(self.place(job, client, *deadline).await?));
        // From here on places bound the bytes.
        drop(kept);
        Ok((Some(Pass { place, open }), request))
    }

    fn open(&self, client: &Arc<Caller>) -> Result<Open, Refused> {
        self.lock().enter(client.name())?;
        Ok(Open {
            gate: self.clone(),
            client: Arc::clone(client),
        })
    }

    /// The request with its message, all of it, and how many entities or events it is for.
    async fn whole(
        &self,
        client: &Arc<Caller>,
        request: Request<Body>,
        items: Items,
        deadline: Option<Instant>,
    ) -> Result<(Request<Body>, usize, Option<Kept>), Refused> {
        let (parts, body) = request.into_parts();
        let bounds = Bounds {
            bytes: MAX_MESSAGE_BYTES + PREFIX,
            announced: Some(MAX_MESSAGE_BYTES),
            deadline,
        };
        let message = Message::read(self, client, body, bounds).await?;
        let items = items.count(message.behind_prefix());
        let (body, kept) = message.into_body();
        Ok((Request::from_parts(parts, body), items, kept))
    }

    /// Reads a body that is not gRPC's, of at most so many bytes.
    pub(in crate::serve) async fn body(
        &self,
        client: &Arc<Caller>,
        body: Body,
        bytes: usize,
    ) -> Result<Message, Refused> {
        let bounds = Bounds {
            bytes,
            announced: None,
            deadline: None,
        };
        Message::read(self, client, body, bounds).await
    }

    /// Takes a place, at once or after a wait. Dropping the future leaves the line.
    pub(in crate::serve) async fn place(
        &self,
        job: Job,
        client: &Caller,
        deadline: Option<Instant>,
    ) -> Result<Place, Refused> {
        let now = Instant::now();
        let ticket = match self.turn(job, client, deadline, now)? {
            Turn::Now => return Ok(Place::taken(self, job, now)),
            Turn::Later(ticket) => ticket,
        };
        let mut in_line = InLine {
            gate: self,
            client,
            job,
            ticket,
            is_over: false,
        };
        let max_wait = self.0.max_wait;
        // Estimates can be wrong, so what they bound is bounded here as well.
        let latest = now + max_wait;
        let until = deadline.map_or(latest, |deadline| deadline.min(latest));
        match timeout_at(until, &mut in_line.ticket.called).await {
            Ok(Ok(turn)) => {
                in_line.is_over = true;
                turn.map(|()| Place::taken(self, job, Instant::now()))
            }
            _ if deadline.is_some_and(|deadline| deadline <= latest) => Err(Refused::Expired),
            _ => Err(self.waited(max_wait)),
        }
    }

    fn turn(
        &self,
        job: Job,
        client: &Caller,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Result<Turn, Refused> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let mut admission = self.lock();
        let turn = admission.arrive(client.name(), job, left, self.time(now))?;
        self.show(&admission);
        Ok(turn)
    }

    fn waited(&self, max_wait: Duration) -> Refused {
        let admission = self.lock();
        Refused::Wait {
            wait: max_wait.saturating_add(admission.wait()),
            max_wait,
            retry: admission.retry(),
        }
    }

    pub(super) fn body_timeout(&self) -> Duration {
        self.0.body_timeout
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Admission> {
        let admission = &self.0.admission;
        admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self, now: Instant) -> Duration {
        now.duration_since(self.0.opened)
    }

    /// Tells the metrics how many are where.
    fn show(&self, admission: &Admission) {
        self.0.in_place.set(admission.in_place.all() as f64);
        self.0.waiting.set(admission.waiting.all() as f64);
    }
}

/// A request in line, which leaves it when it is dropped.
struct InLine<'a> {
    gate: &'a Gate,
    client: &'a Caller,
    job: Job,
    ticket: Ticket,
    /// It was called, and has heard so.
    is_over: bool,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let time = self.gate.time(Instant::now());
        let mut admission = self.gate.lock();
        let was_called = !admission.give_up(self.client.name(), &self.ticket);
        if was_called && matches!(self.ticket.called.try_recv(), Ok(Ok(()))) {
            admission.decline(self.job, time);
        }
        self.gate.show(&admission);
    }
}

/// A request in place. Dropping it gives the place back.
#[derive(Debug)]
pub(in crate::serve) struct Place {
    gate: Gate,
    job: Job,
    began: Instant,
}

impl Place {
    fn taken(gate: &Gate, job: Job, began: Instant) -> Self {
        let gate = gate.clone();
        Self { gate, job, began }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = Instant::now();
        let time = self.gate.time(now);
        let mut admission = self.gate.lock();
        admission.end(self.job, now.duration_since(self.began), time);
        self.gate.show(&admission);
    }
}

/// An open request of a client, until it is dropped.
#[derive(Debug)]
pub(super) struct Open {
    gate: Gate,
    client: Arc<Caller>,
}

impl Open {
    /// Counts the bytes of the request's answer.
    pub(super) fn kept(&self, bytes: usize) -> Kept {
        self.gate.lock().keep_answer(self.client.name(), bytes);
        let mut kept = Kept::nothing(&self.gate, &self.client);
        kept.bytes = bytes;
        kept
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gate.lock().leave(self.client.name());
    }
}

/// Bytes that are kept for a client, counted until it is dropped.
#[derive(Debug)]
pub(in crate::serve) struct Kept {
    gate: Gate,
    client: Arc<Caller>,
    bytes: usize,
}

impl Kept {
    pub(super) fn nothing(gate: &Gate, client: &Arc<Caller>) -> Self {
        Self {
            gate: gate.clone(),
            client: Arc::clone(client),
            bytes: 0,
        }
    }

    /// # Errors
    /// So many are too many for the client, or for all.
    pub(super) fn grow(&mut self, to: usize) -> Result<(), Refused> {
        let more = to.saturating_sub(self.bytes);
        self.gate.lock().keep(self.client.name(), more)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut admission = self.gate.lock();
        admission.drop_kept(self.client.name(), self.bytes);
    }
}

/// What a request holds until its answer is there, and, but for the place, until that has ended.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) place: Option<Held>,
    pub(super) open: Open,
}
