//! The line with a clock: requests wait here for their places, and give them back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::arrival::Arrival;
use super::line::{Admission, Turn};
use super::refused::Refused;
use super::{Class, LimitSettings, Treatment};
use crate::serve::access::Caller;

/// [`Admission`] with a clock and a line: one for a server, shared by all of its connections.
#[derive(Debug, Clone)]
pub(in crate::serve) struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held for some ten nanoseconds at a time, and never while anything waits.
    admission: Mutex<Admission>,
    /// The line. It is fair, and who goes away while it waits has left it.
    places: Arc<Semaphore>,
    max_wait: Duration,
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
            places: Arc::new(Semaphore::new(settings.places())),
            max_wait: settings.max_wait.min(Self::LONGEST),
            admission: Mutex::new(Admission::new(settings)),
            opened: Instant::now(),
            in_place: metrics::gauge!("millrace_requests_in_place"),
            waiting: metrics::gauge!("millrace_requests_waiting"),
        }))
    }

    /// Lets a request in, at once or after it has waited. `None` is for what is not counted.
    pub(super) async fn admit(&self, arrival: Arrival) -> Result<Option<Pass>, Refused> {
        let Arrival {
            treatment,
            client,
            deadline,
        } = arrival;
        if treatment == Treatment::Free {
            return Ok(None);
        }
        self.lock().enter(client.name())?;
        let open = OpenRequest {
            gate: self.clone(),
            client,
        };
        let place = match treatment {
            Treatment::Placed(class) => Some(self.place(class, deadline).await?),
            _ => None,
        };
        Ok(Some(Pass {
            _place: place,
            _open: open,
        }))
    }

    /// Takes a place, at once or after a wait. Dropping the future leaves the line.
    pub(in crate::serve) async fn place(
        &self,
        class: Class,
        deadline: Option<Instant>,
    ) -> Result<Place, Refused> {
        let now = Instant::now();
        let turn = self
            .lock()
            .arrive(class, left(deadline, now), self.time(now))?;
        let mut place = Place::counted(self.clone(), class, turn, now);
        let permit = self.permit(now, deadline).await?;
        place.begin(permit, deadline)?;
        Ok(place)
    }

    /// Waits until a place is free. Estimates can be wrong, so what they bound is bounded here as well.
    ///
    /// Whoever takes a place at once does not wait here: a request is counted before it has a permit, and a permit is
    /// given back before its request is counted off, so that there are at least as many permits as free places.
    async fn permit(
        &self,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Result<OwnedSemaphorePermit, Refused> {
        let max_wait = self.0.max_wait;
        let latest = now + max_wait;
        let until = deadline.map_or(latest, |deadline| deadline.min(latest));
        let permit = Arc::clone(&self.0.places).acquire_owned();
        match timeout_at(until, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ if deadline.is_some_and(|deadline| deadline <= latest) => Err(Refused::Expired),
            _ => {
                let admission = self.lock();
                let (wait, retry) = (max_wait.saturating_add(admission.wait()), admission.retry());
                Err(Refused::Wait {
                    wait,
                    max_wait,
                    retry,
                })
            }
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Admission> {
        let admission = &self.0.admission;
        admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self, now: Instant) -> Duration {
        now.duration_since(self.0.opened)
    }

    fn gauge(&self, turn: Turn) -> &Gauge {
        match turn {
            Turn::Now => &self.0.in_place,
            Turn::Later => &self.0.waiting,
        }
    }
}

fn left(deadline: Option<Instant>, now: Instant) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(now))
}

/// A request in place, or on its way there. Dropping it gives the place back.
#[derive(Debug)]
pub(in crate::serve) struct Place {
    gate: Gate,
    class: Class,
    /// Where the request is counted.
    turn: Turn,
    began: Instant,
    permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    fn counted(gate: Gate, class: Class, turn: Turn, began: Instant) -> Self {
        gate.gauge(turn).increment(1.0);
        let permit = None;
        Self {
            gate,
            class,
            turn,
            began,
            permit,
        }
    }

    fn begin(
        &mut self,
        permit: OwnedSemaphorePermit,
        deadline: Option<Instant>,
    ) -> Result<(), Refused> {
        if self.turn == Turn::Later {
            let now = Instant::now();
            let time = self.gate.time(now);
            self.gate
                .lock()
                .start(self.class, left(deadline, now), time)?;
            self.gate.gauge(Turn::Later).decrement(1.0);
            self.gate.gauge(Turn::Now).increment(1.0);
            self.turn = Turn::Now;
            self.began = now;
        }
        self.permit = Some(permit);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before it is counted off: see `Gate::permit`.
        drop(self.permit.take());
        let now = Instant::now();
        let time = self.gate.time(now);
        match self.turn {
            Turn::Now => self.gate.lock().end(self.class, now - self.began, time),
            Turn::Later => self.gate.lock().give_up(self.class),
        }
        self.gate.gauge(self.turn).decrement(1.0);
    }
}

/// An open request of a client, until it is dropped.
#[derive(Debug)]
struct OpenRequest {
    gate: Gate,
    client: Arc<Caller>,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.gate.lock().leave(self.client.name());
    }
}

/// What a request holds until its answer has ended.
#[derive(Debug)]
pub(super) struct Pass {
    _place: Option<Place>,
    _open: OpenRequest,
}
