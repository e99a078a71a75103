//! Kafka topics become Arrow batches, in event-time order across partitions and topics.
//!
//! One [`Ingest`] is one member of a consumer group. Each [`Ingest::poll`] gives a [`Step`]: rows that are ready
//! to be applied, and the offsets that stand behind them. The caller applies the rows, stores the offsets with what
//! came of them, and polls again.
//!
//! What each module does:
//!
//! ```text
//! Kafka ─► consumer ─► decode ─────────► align ─► Step
//!          (group,     (JSON to Arrow)   (event-time order, bounds)
//!           offsets)        └─ bad messages ─► dead_letters ─► Kafka
//! ```
//!
//! [`ReadAhead`] is an `Ingest` in a thread of its own, which decodes while the caller applies.
//!
//! `decode` and `align` are pure: no socket, no clock, no Kafka type; so are `numbers` and `units`, which say what a
//! number means, `days` and `bytes`. `consumer` and `group` hold everything that librdkafka needs (`lane`: a partition's queue; `topics`:
//! whether they are there); `admin` lists and creates topics; `replay` reads a part of a topic again, for a view that is new.
//!
//! What is not here: windows and SQL (the `features` crate), the durable offsets (the `feature-store` crate; the
//! offsets that are committed to the group serve lag tools only), and the loop that ties them (the `millrace`
//! command).

mod admin;
mod ahead;
mod align;
mod bytes;
mod consumer;
mod days;
mod dead_letters;
mod decode;
mod deletion;
mod error;
mod group;
mod lane;
mod numbers;
mod rarely;
mod replay;
mod settings;
mod step;
mod stream;
mod telemetry;
mod topics;
mod units;

pub use admin::{ensure_topics, existing_topics};
pub use ahead::{Polled, ReadAhead};
pub use align::{Align, AlignSettings, NO_TIME, Released, RowHeader, Rows, Source, StreamBatch};
pub use bytes::{bytes_of, hex_of};
pub use consumer::Ingest;
pub use days::day_of;
pub use dead_letters::{DeadLetter, DeadLetters, header, is_too_large};
pub use decode::{BadMessage, DETAIL_BYTES, Decoded, JsonDecoder, Reason, not_finite_rows};
pub use deletion::{Deletion, ids_of};
pub use error::{IngestError, Remedy};
pub use group::LastError;
pub use numbers::{is_exact, numbers_of, time_of_number};
pub use rarely::Rarely;
pub use replay::{Replay, ReplayRange, Replayed};
pub use settings::IngestSettings;
pub use step::{Lost, StartOffsets, StateError, Step, Witness, Witnesses};
pub use stream::StreamSpec;
pub use units::other_unit;
