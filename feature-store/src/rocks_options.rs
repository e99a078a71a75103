//! How RocksDB is set up: sized for a laptop with two cores, grown by [`StoreSettings`].

use std::sync::Arc;

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options, SliceTransform};
use serde::{Deserialize, Serialize};

use crate::expiry::ExpiryFactory;
use crate::keys::VIEW_BYTES;
use crate::{Horizons, Table, keys};

/// What a user may tune. Wrong values cost speed or memory, never rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Bytes of memory for blocks, indexes and filters that were read; all tables share them.
    pub block_cache_bytes: usize,
    /// Bytes of memory for the events of entities that were looked up lately.
    pub entity_cache_bytes: usize,
    /// Rows of an entity up to which all of them are kept in that memory; of one with more, only
    /// those that look-ups read.
    pub entity_cache_rows: usize,
    /// Bytes of a table that collect in memory before RocksDB flushes by itself. All tables together
    /// take at most twice this.
    pub write_buffer_bytes: usize,
    /// Within how many seconds every file is rewritten once, so that old rows go even where nothing
    /// new is written.
    pub sweep_seconds: u64,
    /// Threads for flushes and compactions.
    pub background_jobs: i32,
    /// Files that may be open at a time.
    pub max_open_files: i32,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            block_cache_bytes: 128 << 20,
            entity_cache_bytes: 128 << 20,
            entity_cache_rows: 1_024,
            write_buffer_bytes: 16 << 20,
            sweep_seconds: 24 * 60 * 60,
            background_jobs: 2,
            max_open_files: 512,
        }
    }
}

/// The options of the database as a whole.
pub(crate) fn database(settings: &StoreSettings) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Writes skip the log, so a crash leaves what was flushed. Flushing all tables as one is what
    // keeps rows and offsets of one commit together, whoever started the flush.
    options.set_atomic_flush(true);
    options.set_max_background_jobs(settings.background_jobs);
    options.set_max_open_files(settings.max_open_files);
    options.set_db_write_buffer_size(2 * settings.write_buffer_bytes);
    options.set_bytes_per_sync(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options
}

/// The options of one table.
pub(crate) fn family(
    table: Table,
    settings: &StoreSettings,
    cache: &Cache,
    horizons: &Arc<Horizons>,
) -> Result<Options, rocksdb::Error> {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(settings.write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    options.set_target_file_size_base(settings.write_buffer_bytes as u64);
    options.set_max_bytes_for_level_base(8 * settings.write_buffer_bytes as u64);
    options.set_block_based_table_factory(&blocks(table, cache));
    match table {
        Table::Events | Table::Tiles => {
            options.set_prefix_extractor(entity_extractor());
            options.set_memtable_prefix_bloom_ratio(0.1);
            expire(&mut options, table, settings, horizons);
        }
        Table::Scored | Table::Examples => expire(&mut options, table, settings, horizons),
        Table::Meta => {}
    }
    // A commit's rows of a view come in order: the place of one is near the place of the one before it. There is no
    // other way to say so from Rust.
    options.get_options_from_string(format!(
        "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.{VIEW_BYTES}"
    ))
}

fn blocks(table: Table, cache: &Cache) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_size(16 << 10);
    blocks.set_block_cache(cache);
    // Counted in the cache, so that its size bounds the memory however large the store grows.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_bloom_filter(10.0, false);
    // Events are read by entity; one filter entry for each entity is enough, and far smaller.
    blocks.set_whole_key_filtering(!table.is_by_entity());
    blocks
}

/// RocksDB's prefix: all of one entity's events, as `keys.rs` draws it. The name is stored in every
/// file; a changed rule needs a new name.
fn entity_extractor() -> SliceTransform {
    fn prefix(key: &[u8]) -> &[u8] {
        let length = keys::prefix_len(key).unwrap_or(key.len());
        key.get(..length).unwrap_or(key)
    }
    fn has_prefix(key: &[u8]) -> bool {
        keys::prefix_len(key).is_some()
    }
    SliceTransform::create("millrace.entity.1", prefix, Some(has_prefix))
}

fn expire(options: &mut Options, table: Table, settings: &StoreSettings, horizons: &Arc<Horizons>) {
    options.set_compaction_filter_factory(ExpiryFactory {
        table,
        horizons: Arc::clone(horizons),
    });
    options.set_periodic_compaction_seconds(settings.sweep_seconds);
}
