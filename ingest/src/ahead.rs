//! Reading and decoding in a thread of its own, while the caller applies the step that it has.
//!
//! Only messages are read ahead. All else that a poll does (the group's decisions, dead letters, lost positions, the
//! choice of a step) it does when the caller asks, who has applied the step before by then. So a partition that
//! changes hands starts where the caller's state stands, as without this thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::consumer::{Ingest, NAP};
use crate::error::IngestError;
use crate::group::Wake;
use crate::step::Step;
use crate::telemetry;

/// How long leaving the group may take. With a broker that has gone it takes longer, and librdkafka's way out of a group
/// can wait for an answer that never comes, when it leaves while the group shares its partitions out. A member with a name
/// tells nobody that it leaves.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// How soon a stop is heard while a poll waits for a broker.
const HEED: Duration = Duration::from_millis(100);

/// An [`Ingest`] in a thread of its own. The thread ends when this is dropped, and with it the group's membership.
pub struct ReadAhead {
    /// None once it is being dropped.
    requests: Option<Sender<Request>>,
    answers: Receiver<Result<Polled, IngestError>>,
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

/// What one poll gives, and how far the consumer is.
#[derive(Clone, Debug, Default)]
pub struct Polled {
    /// As of [`Ingest::poll`].
    pub step: Step,
    /// As of [`Ingest::lags`].
    pub lags: Vec<(String, i64)>,
    /// As of [`Ingest::heard`].
    pub heard: Option<Instant>,
    /// As of [`Ingest::dead_letters`].
    pub dead_letters: u64,
    /// As of [`Ingest::foreign`].
    pub foreign: Vec<(String, i32)>,
    /// As of [`Ingest::partition_counts`].
    pub partition_counts: Vec<(String, i32)>,
}

impl Polled {
    pub(crate) fn new(step: Step, ingest: &Ingest) -> Self {
        Self {
            step,
            lags: ingest.lags(),
            heard: ingest.heard(),
            dead_letters: ingest.dead_letters(),
            foreign: ingest.foreign(),
            partition_counts: ingest.partition_counts(),
        }
    }
}

enum Request {
    Poll {
        now_us: i64,
        timeout: Duration,
        most_rows: usize,
    },
    Commit(Vec<(String, i32, i64)>),
    Stay,
}

impl ReadAhead {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`IngestError::Fatal`] when the system gives no thread.
    pub fn start(ingest: Ingest) -> Result<Self, IngestError> {
        let (requests, asked) = channel();
        let (answer, answers) = channel();
        let wake = ingest.wake();
        let thread = Builder::new()
            .name("read".to_owned())
            .spawn(move || serve(ingest, &asked, &answer))
            .map_err(|error| IngestError::Fatal {
                detail: format!("no thread to read in: {error}"),
            })?;
        Ok(Self {
            requests: Some(requests),
            answers,
            wake,
            thread: Some(thread),
        })
    }

    /// As [`Ingest::poll`].
    ///
    /// # Errors
    /// As there, of reading ahead too.
    pub fn poll(
        &mut self,
        now_us: i64,
        timeout: Duration,
        most_rows: usize,
    ) -> Result<Polled, IngestError> {
        self.ask(Request::Poll {
            now_us,
            timeout,
            most_rows,
        })?;
        self.answers.recv().map_err(|_| thread_is_gone())?
    }

    /// As [`poll`](Self::poll), for a caller who may be told to stop meanwhile: a poll waits long for brokers that do not
    /// answer. None once `stop` is set, and then this is to be dropped.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn poll_unless(
        &mut self,
        stop: &AtomicBool,
        now_us: i64,
        timeout: Duration,
        most_rows: usize,
    ) -> Result<Option<Polled>, IngestError> {
        self.ask(Request::Poll {
            now_us,
            timeout,
            most_rows,
        })?;
        loop {
            match self.answers.recv_timeout(HEED) {
                Ok(polled) => return polled.map(Some),
                Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(thread_is_gone()),
            }
        }
    }

    /// Stays in the group, for a caller who cannot apply the step that it has: says how far Kafka is, with no step. It
    /// must be called as often as [`poll`](Self::poll).
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn stay(&mut self) -> Result<Polled, IngestError> {
        self.ask(Request::Stay)?;
        self.answers.recv().map_err(|_| thread_is_gone())?
    }

    /// As [`Ingest::commit`]; what the client refuses is logged.
    ///
    /// # Errors
    /// [`IngestError::Fatal`] when the thread has ended.
    pub fn commit(&self, positions: Vec<(String, i32, i64)>) -> Result<(), IngestError> {
        self.ask(Request::Commit(positions))
    }

    fn ask(&self, request: Request) -> Result<(), IngestError> {
        let sent = self.requests.as_ref().map(|sender| sender.send(request));
        self.wake.raise();
        sent.and_then(Result::ok).ok_or_else(thread_is_gone)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.requests = None;
        self.wake.raise();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let until = Instant::now() + LEAVE_WITHIN;
        while !thread.is_finished() {
            if Instant::now() >= until {
                telemetry::not_left(LEAVE_WITHIN);
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Whether it has panicked was seen by who asked it.
        let _ = thread.join();
    }
}

fn thread_is_gone() -> IngestError {
    IngestError::Fatal {
        detail: "the thread that reads has ended".to_owned(),
    }
}

fn serve(
    mut ingest: Ingest,
    asked: &Receiver<Request>,
    answer: &Sender<Result<Polled, IngestError>>,
) {
    // The caller's clock, as of its last poll: nothing is read before it.
    let mut clock = None;
    let mut failed = None;
    loop {
        match asked.try_recv() {
            Ok(Request::Poll {
                now_us,
                timeout,
                most_rows,
            }) => {
                clock = Some((now_us, Instant::now()));
                let polled = match failed.take() {
                    Some(error) => Err(error),
                    None => ingest.poll(now_us, timeout, most_rows),
                };
                let polled = polled.map(|step| Polled::new(step, &ingest));
                if answer.send(polled).is_err() {
                    return;
                }
            }
            Ok(Request::Stay) => {
                let stayed = ingest.stay();
                let polled = stayed.map(|()| Polled::new(Step::default(), &ingest));
                if answer.send(polled).is_err() {
                    return;
                }
            }
            Ok(Request::Commit(positions)) => {
                if let Err(error) = ingest.commit(&positions) {
                    tracing::warn!(%error, "the group's offsets were not committed");
                }
            }
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => match (clock, &failed) {
                (Some((now_us, at)), None) => {
                    let passed = i64::try_from(at.elapsed().as_micros()).unwrap_or(0);
                    match ingest.read_ahead(now_us.saturating_add(passed)) {
                        // Nobody waits for what is read ahead.
                        Ok(true) => std::thread::yield_now(),
                        Ok(false) => ingest.wake().wait(NAP),
                        Err(error) => failed = Some(error),
                    }
                }
                _ => ingest.wake().wait(NAP),
            },
        }
    }
}
