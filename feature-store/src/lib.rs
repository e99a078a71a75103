//! The online store: ordered tables and the Kafka offsets that they reflect, committed together.
//!
//! A [`Commit`] holds rows and offsets. All of it becomes visible at once, and after a crash the
//! store stands at one earlier commit as a whole, so replaying Kafka from [`Store::offsets`] repeats
//! nothing and loses nothing. Kafka is the log; this store writes none of its own.
//!
//! ```text
//!  Commit { deletes, puts, offsets } ──► Store ──┬─ RocksStore    on disk, durable at flush()
//!                                                └─ MemoryStore   for tests and simulation
//! ```
//!
//! What it does not do: it knows neither what a window is (`features`), nor how messages are read
//! (`ingest`), nor when to commit or flush (the `millrace` command). It reads no event time but the
//! one in a row's key or value, and only to let old rows expire ([`Horizons`]).

mod codec;
mod commit;
#[cfg(test)]
mod conformance;
mod entity_cache;
mod error;
mod expiry;
mod horizons;
mod identity;
mod keys;
#[cfg(test)]
mod kill_tests;
mod memory_store;
mod rocks_moment;
mod rocks_options;
mod rocks_store;
mod store;
mod tiled;

pub use codec::{RECORD_VERSION, decode, encode};
pub use commit::{Commit, Offset, Table};
pub use entity_cache::Memo;
pub use error::StoreError;
pub use horizons::Horizons;
pub use identity::{STORE_FORMAT, StoreIdentity};
pub use keys::{
    EventKey, entity_prefix, entity_range, event_key, event_range, event_time_us, tile_key,
    tile_of, tile_range, time_bytes, time_from_bytes, view_range,
};
pub use memory_store::MemoryStore;
pub use rocks_options::StoreSettings;
pub use rocks_store::RocksStore;
pub use store::{Scan, Store, try_scan};
