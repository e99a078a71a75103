//! From JSON messages to committed state, without a broker, beside decoding alone; and look-ups beside empty ones.

use std::error::Error;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use millrace::state::{Committed, Pending};
use millrace_benches::{SOURCES, VIEW, fastest, payments, report};
use millrace_feature_store::{Commit, RocksStore, Store, StoreIdentity};
use millrace_features::{Origin, Project, SqlFile};
use millrace_ingest::{JsonDecoder, StreamSpec};
use serde_json::json;

const EVENTS: usize = 400_000;
const BATCH: usize = 8_192;
const LOOK_UPS: usize = 20_000;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let project = Project::plan(
        &file("sources.sql", SOURCES),
        &[file("card.sql", VIEW)],
        None,
    )
    .map_err(|problems| {
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    let messages = payments(EVENTS, 1);
    let decode_only = fastest(3, || drop(decode(&project, &messages)));
    let mut stores = Vec::new();
    let whole = fastest(3, || stores.push(fill(&project, &messages)));
    let (folder, store) = stores.pop().ok_or("no store")?.map_err(|e| e.to_string())?;
    let busy = look_ups(&project, &store, "c000000")?;
    let typical = look_ups(&project, &store, "c020000")?;
    let absent = look_ups(&project, &store, "nobody")?;
    let rate = |seconds: f64| (EVENTS as f64 / seconds).round();
    report(
        "state",
        &json!({
            "events": EVENTS,
            "decode_only_per_second": rate(decode_only.as_secs_f64()),
            "decode_and_commit_per_second": rate(whole.as_secs_f64()),
            "ratio_to_decode_only": decode_only.as_secs_f64() / whole.as_secs_f64(),
            "look_up_us": { "busiest_card": busy, "card_in_the_middle": typical, "absent_card": absent },
            "busiest_to_absent": busy / absent,
        }),
    )?;
    drop(store);
    Ok(folder.close()?)
}

fn file(path: &str, text: &str) -> SqlFile {
    SqlFile {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

fn decode(project: &Project, messages: &[String]) -> Result<Vec<RecordBatch>, Box<dyn Error>> {
    let stream = &project.streams[0];
    let mut decoder = JsonDecoder::new(StreamSpec {
        name: stream.name.clone(),
        topic: stream.topic.clone(),
        schema: Arc::clone(&stream.schema),
        time_column: stream.time,
        required: stream.required(),
    })?;
    messages
        .chunks(BATCH)
        .map(|chunk| {
            let payloads: Vec<Option<&[u8]>> =
                chunk.iter().map(|text| Some(text.as_bytes())).collect();
            Ok(decoder.decode(&payloads, i64::MAX)?.batch)
        })
        .collect()
}

type Filled = Result<(tempfile::TempDir, RocksStore), Box<dyn Error>>;

fn fill(project: &Project, messages: &[String]) -> Filled {
    let folder = tempfile::tempdir()?;
    let identity = StoreIdentity {
        project_fingerprint: "bench".into(),
        description: "bench".into(),
    };
    let store = RocksStore::open(&folder.path().join("store"), &identity)?;
    for (number, batch) in decode(project, messages)?.into_iter().enumerate() {
        let places = vec![0; batch.num_rows()];
        let offsets = vec![0; batch.num_rows()];
        let origin = Origin {
            partitions: &places,
            offsets: &offsets,
        };
        let mut pending = Pending::default();
        project.views[0].state_rows(&batch, origin, &mut pending)?;
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        commit.offset("tx", 0, (number + 1) as i64);
        store.commit(commit)?;
    }
    store.flush()?;
    Ok((folder, store))
}

/// Mean microseconds of a look-up of one card, one after the other.
fn look_ups(project: &Project, store: &RocksStore, card: &str) -> Result<f64, Box<dyn Error>> {
    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![card]))];
    // The end of the stream: about EVENTS × 1.3 s after its start.
    let as_of = 1_767_225_600_000_000_i64 + EVENTS as i64 * 1_300_000;
    let mut failed = None;
    let time = fastest(3, || {
        for _ in 0..LOOK_UPS / 10 {
            let moment = store.moment();
            let state = Committed(moment.as_ref());
            if let Err(error) = project.views[0].answer(&state, &keys, &[as_of]) {
                failed = Some(error);
            }
        }
    });
    failed.map_or(
        Ok(time.as_secs_f64() * 1e6 / (LOOK_UPS / 10) as f64),
        |error| Err(error.into()),
    )
}
