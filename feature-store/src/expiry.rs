//! Expiry in RocksDB: a filter that each compaction asks about each row that it rewrites.
//!
//! Which rows are old is decided in `horizons.rs`; when compactions run is set in
//! `rocks_options.rs`.

use std::ffi::CStr;
use std::sync::Arc;

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::horizons::HorizonValues;
use crate::{Horizons, Table};

/// Makes one filter for each compaction, with the horizons of that moment: no lock for each row.
pub(crate) struct ExpiryFactory {
    pub(crate) table: Table,
    pub(crate) horizons: Arc<Horizons>,
}

impl CompactionFilterFactory for ExpiryFactory {
    type Filter = Expiry;

    fn create(&mut self, _context: CompactionFilterContext) -> Expiry {
        Expiry {
            table: self.table,
            horizons: self.horizons.values(),
            dropped: 0,
        }
    }

    fn name(&self) -> &CStr {
        c"millrace.expiry"
    }
}

/// Drops the old rows of one table in one compaction, and counts them when it is done.
pub(crate) struct Expiry {
    table: Table,
    horizons: HorizonValues,
    dropped: u64,
}

impl CompactionFilter for Expiry {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if self.horizons.is_old(self.table, key, value) {
            self.dropped += 1;
            CompactionDecision::Remove
        } else {
            CompactionDecision::Keep
        }
    }

    fn name(&self) -> &CStr {
        c"millrace.expiry"
    }
}

impl Drop for Expiry {
    fn drop(&mut self) {
        if self.dropped > 0 {
            let table = self.table.name();
            metrics::counter!("millrace_store_expired_rows_total", "table" => table)
                .increment(self.dropped);
            tracing::debug!(table, rows = self.dropped, "old rows expired");
        }
    }
}
