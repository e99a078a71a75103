//! Who takes a place, who waits and who is refused. It reads no clock and waits for nothing: `gate` does.
//!
//! Clients take turns. A place that is free goes to the client that has waited for its turn the longest, and within a
//! client to its oldest request: however many requests of one client wait, another's next one waits for one of them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

use super::LimitSettings;
use super::refused::Refused;
use super::service::{Counts, Job, ServiceTimes};

/// What a request that is let in does first.
#[derive(Debug)]
pub(super) enum Turn {
    /// It takes a place.
    Now,
    /// It waits for one.
    Later(Ticket),
}

/// What a request in line has in hand.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) number: u64,
    /// Hears that it has a place, or why it is to have none.
    pub(super) called: oneshot::Receiver<Result<(), Refused>>,
}

/// A request in line.
#[derive(Debug)]
struct Waiter {
    number: u64,
    job: Job,
    deadline: Option<Duration>,
    call: oneshot::Sender<Result<(), Refused>>,
}

/// What a client has open.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// Its requests: in place, in line, and those that wait for their caller.
    pub(super) open: usize,
    /// Bytes that are kept for it: see [`Admission::keep`].
    pub(super) kept: usize,
    line: VecDeque<Waiter>,
}

/// Who is in place and who waits, how long work takes, and from both what becomes of a request.
///
/// `now` is the time since any fixed start.
#[derive(Debug)]
pub(super) struct Admission {
    places: usize,
    pub(super) settings: LimitSettings,
    pub(super) in_place: Counts,
    pub(super) waiting: Counts,
    pub(super) service: ServiceTimes,
    /// A client that has nothing open has no entry, so that there are no more than requests.
    pub(super) clients: HashMap<String, Client>,
    /// The clients that have requests in line, the one whose turn is next first.
    turns: VecDeque<String>,
    tickets: u64,
    /// Bytes that are kept for all clients.
    pub(super) kept: usize,
}

impl Admission {
    /// Bounds of the hint when to ask again. Earlier is a flood; and nobody knows what will be in ten seconds.
    const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

    pub(super) fn new(settings: LimitSettings) -> Self {
        Self {
            places: settings.places(),
            settings,
            in_place: Counts::default(),
            waiting: Counts::default(),
            service: ServiceTimes::default(),
            clients: HashMap::new(),
            turns: VecDeque::new(),
            tickets: 0,
            kept: 0,
        }
    }

    /// Counts a request of a client, until [`leave`](Self::leave).
    pub(super) fn enter(&mut self, client: &str) -> Result<(), Refused> {
        let limit = self.settings.client_concurrency;
        match self.clients.get_mut(client) {
            Some(known) if limit > 0 && known.open >= limit => Err(Refused::Client {
                client: client.to_owned(),
                limit,
                retry: self.retry(),
            }),
            Some(known) => {
                known.open += 1;
                Ok(())
            }
            None => {
                let open = Client {
                    open: 1,
                    ..Client::default()
                };
                self.clients.insert(client.to_owned(), open);
                Ok(())
            }
        }
    }

    pub(super) fn leave(&mut self, client: &str) {
        self.change(client, |known| known.open = known.open.saturating_sub(1));
    }

    /// Counts bytes of a request that is not worked on yet, until [`drop_kept`](Self::drop_kept).
    ///
    /// # Errors
    /// They would be more than one client, or all of them, may have.
    pub(super) fn keep(&mut self, client: &str, bytes: usize) -> Result<(), Refused> {
        let own = self.clients.get(client).map_or(0, |known| known.kept);
        self.check_kept(own.saturating_add(bytes), bytes)?;
        self.keep_answer(client, bytes);
        Ok(())
    }

    /// Counts bytes of an answer that is not read yet. It was worked out already, so it is counted in any case; the
    /// client's next requests are refused if it has too much.
    pub(super) fn keep_answer(&mut self, client: &str, bytes: usize) {
        self.kept = self.kept.saturating_add(bytes);
        self.clients.entry(client.to_owned()).or_default().kept += bytes;
    }

    pub(super) fn drop_kept(&mut self, client: &str, bytes: usize) {
        self.kept = self.kept.saturating_sub(bytes);
        self.change(client, |known| {
            known.kept = known.kept.saturating_sub(bytes)
        });
    }

    /// Changes what a client has, and forgets the client who has nothing then.
    fn change(&mut self, client: &str, change: impl FnOnce(&mut Client)) {
        let Some(known) = self.clients.get_mut(client) else {
            return;
        };
        change(known);
        if known.open == 0 && known.kept == 0 && known.line.is_empty() {
            self.clients.remove(client);
        }
    }

    /// Whether a client may have so many bytes, if `more` come to those that are kept. One that has none is not refused
    /// for what others have.
    fn check_kept(&self, own: usize, more: usize) -> Result<(), Refused> {
        let share = self.settings.client_bytes();
        let is_over = own > share || self.kept.saturating_add(more) > self.settings.buffer_bytes;
        match own > 0 && is_over {
            true => Err(Refused::Bytes {
                own,
                share,
                retry: self.retry(),
            }),
            false => Ok(()),
        }
    }

    /// Says whether a request takes a place, or waits for one, and counts it there; `left` is the time to its deadline.
    ///
    /// While a place is free no estimate refuses anything: the place would be idle, and an estimate that is wrong is
    /// put right by letting a request in.
    pub(super) fn arrive(
        &mut self,
        client: &str,
        job: Job,
        left: Option<Duration>,
        now: Duration,
    ) -> Result<Turn, Refused> {
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Refused::Expired);
        }
        if self.kept > 0 {
            let own = self.clients.get(client).map_or(0, |known| known.kept);
            self.check_kept(own, 0)?;
        }
        if self.in_place.all() + self.waiting.all() < self.places {
            self.in_place.add(job);
            return Ok(Turn::Now);
        }
        self.check_line(client, job, left, now)?;
        let deadline = left.map(|left| now.saturating_add(left));
        Ok(Turn::Later(self.queue_up(client, job, deadline)))
    }

    fn queue_up(&mut self, client: &str, job: Job, deadline: Option<Duration>) -> Ticket {
        let (call, called) = oneshot::channel();
        let number = self.tickets;
        self.tickets += 1;
        let line = &mut self.clients.entry(client.to_owned()).or_default().line;
        if line.is_empty() {
            self.turns.push_back(client.to_owned());
        }
        line.push_back(Waiter {
            number,
            job,
            deadline,
            call,
        });
        self.waiting.add(job);
        Ticket { number, called }
    }

    fn check_line(
        &self,
        client: &str,
        job: Job,
        left: Option<Duration>,
        now: Duration,
    ) -> Result<(), Refused> {
        let LimitSettings {
            queue, max_wait, ..
        } = self.settings;
        let (wait, retry) = (self.wait_of(client), self.retry());
        let service = self.service.usual(job, now);
        if self.waiting.all() >= queue {
            return Err(Refused::Queue { queue, retry });
        }
        if wait > max_wait {
            return Err(Refused::Wait {
                wait,
                max_wait,
                retry,
            });
        }
        match left {
            Some(left) if wait.saturating_add(service) > left => Err(Refused::Deadline {
                left,
                wait,
                service,
                retry,
            }),
            _ => Ok(()),
        }
    }

    /// A request leaves the line before its turn. False if it was called meanwhile.
    pub(super) fn give_up(&mut self, client: &str, ticket: &Ticket) -> bool {
        let mut gone = None;
        self.change(client, |known| {
            let is_it = |waiter: &Waiter| waiter.number == ticket.number;
            let place = known.line.iter().position(is_it);
            let waiter = place.and_then(|place| known.line.remove(place));
            gone = waiter.map(|waiter| (waiter.job, known.line.is_empty()));
        });
        let Some((job, was_last)) = gone else {
            return false;
        };
        if was_last {
            self.turns.retain(|name| name != client);
        }
        self.waiting.remove(job);
        true
    }

    /// A request that was in place for `held` leaves it: it is the next one's.
    pub(super) fn end(&mut self, job: Job, held: Duration, now: Duration) {
        self.service.note(job, held, now);
        self.decline(job, now);
    }

    /// A place is given back by a request that was called, and had gone.
    pub(super) fn decline(&mut self, job: Job, now: Duration) {
        self.in_place.remove(job);
        self.call(now);
    }

    /// Calls those who wait into the places that are free.
    ///
    /// A request that has less time left than its work usually takes is given up: its client would be gone before the
    /// answer, and the next in line would be late as well.
    fn call(&mut self, now: Duration) {
        while self.in_place.all() < self.places {
            let Some((waiter, kept)) = self.next_in_line() else {
                return;
            };
            let job = waiter.job;
            let left = waiter.deadline.map(|end| end.saturating_sub(now));
            let service = self.service.usual(job, now);
            let turn = match left {
                Some(left) if left.is_zero() || left < service => Err(Refused::Expired),
                _ => self.check_kept(kept, 0),
            };
            let has_place = turn.is_ok();
            if waiter.call.send(turn).is_ok() && has_place {
                self.in_place.add(job);
            }
        }
    }

    /// The oldest request of the client whose turn it is, and the bytes that are kept for that client.
    fn next_in_line(&mut self) -> Option<(Waiter, usize)> {
        let name = self.turns.pop_front()?;
        let known = self.clients.get_mut(&name)?;
        let waiter = known.line.pop_front()?;
        let (kept, was_last) = (known.kept, known.line.is_empty());
        match was_last {
            false => self.turns.push_back(name),
            // A part of a stream may wait longer than its request is open.
            true => self.change(&name, |_| ()),
        }
        self.waiting.remove(waiter.job);
        Some((waiter, kept))
    }

    /// How long a client's next request would wait. Of those of others in line only as many are before it as turns come
    /// before its own.
    pub(super) fn wait_of(&self, client: &str) -> Duration {
        let own = self.clients.get(client).map_or(0, |known| known.line.len());
        let lines = self.turns.iter().filter_map(|name| self.clients.get(name));
        let ahead: usize = lines.map(|known| known.line.len().min(own + 1)).sum();
        self.wait_behind(ahead as f64 / self.waiting.all().max(1) as f64)
    }

    /// How long a request would wait behind all that wait now.
    pub(super) fn wait(&self) -> Duration {
        self.wait_behind(1.0)
    }

    /// How long a request would wait behind a share of the line: until the first place is free, and then for the line
    /// to move up.
    ///
    /// With one kind of requests this is (waiting + 1) × service time / places. By kind, a few long requests do not
    /// count for more than the places they hold.
    fn wait_behind(&self, share: f64) -> Duration {
        let answers_a_second = self.service.sum(&self.in_place, f64::recip);
        let first = if answers_a_second > 0.0 {
            answers_a_second.recip()
        } else {
            0.0
        };
        let line = share * self.service.sum(&self.waiting, |seconds| seconds) / self.places as f64;
        Duration::try_from_secs_f64(first + line).unwrap_or(Duration::MAX)
    }

    /// When whoever waits now will have been let in.
    pub(super) fn retry(&self) -> Duration {
        self.wait().clamp(Self::RETRY.0, Self::RETRY.1)
    }
}
