//! From JSON messages to committed state, without a broker, beside decoding alone; and look-ups beside empty ones.
//!
//! How a look-up's time grows with an entity's events, and a commit's with the number of entities. Then a terminal with a million events a week beside a card with a hundred, in a view that is exact and in the same
//! view with a resolution: bytes on disk, and how long a look-up takes.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use millrace::fold::Folder;
use millrace::marks::Marks;
use millrace::settings::StoreSection;
use millrace::state::{Committed, Pending};
use millrace_benches::{SOURCES, VIEW, fastest, payments, report};
use millrace_feature_store::{Commit, RocksStore, Store, StoreIdentity};
use millrace_features::{Origin, Project, SqlFile};
use millrace_ingest::{JsonDecoder, StreamSpec};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};

const EVENTS: usize = 400_000;
const BATCH: usize = 8_192;
const LOOK_UPS: usize = 20_000;
/// Events that are spread over more and more cards.
const SPREAD: usize = 1_000_000;

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
            "look_up_us": {
                "busiest_card_before_it_has_tiles": busy, "card_in_the_middle": typical, "absent_card": absent,
            },
            "look_up_us_by_events_a_week": by_events()?,
            "commits_per_second_by_entities": by_entities(&project)?,
            "million_events_a_week": {
                "exact": million("")?,
                "resolution_1_minute": million("WITH (resolution = '1 minute')")?,
            },
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
        id: None,
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
    commit_all(project, &decode(project, messages)?)
}

fn commit_all(project: &Project, batches: &[RecordBatch]) -> Filled {
    let folder = tempfile::tempdir()?;
    let identity = StoreIdentity {
        project_fingerprint: "bench".into(),
        description: "bench".into(),
    };
    let store = RocksStore::open(&folder.path().join("store"), &identity)?;
    for (number, batch) in batches.iter().enumerate() {
        let places = vec![0; batch.num_rows()];
        let offsets = vec![0; batch.num_rows()];
        let origin = Origin {
            partitions: &places,
            offsets: &offsets,
        };
        let mut pending = Pending::default();
        project.views[0].state_rows(batch, origin, &mut pending)?;
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        commit.offset("tx", 0, (number + 1) as i64);
        store.commit(commit)?;
    }
    store.flush()?;
    Ok((folder, store))
}

/// Median microseconds of a look-up of an entity with so many events in a week, in an exact view.
fn by_events() -> Result<Value, Box<dyn Error>> {
    let mut figures = serde_json::Map::new();
    for count in [100, 1_000, 10_000, 100_000] {
        let week = a_week("", count)?;
        figures.insert(count.to_string(), week["median_look_up_us"]["hot"].clone());
    }
    Ok(figures.into())
}

/// Events a second into the committed, flushed store, by the number of cards that they are spread over.
fn by_entities(project: &Project) -> Result<Value, Box<dyn Error>> {
    let mut figures = serde_json::Map::new();
    for cards in [1_000, 10_000, 100_000, 1_000_000] {
        let mut random = Pcg64::seed_from_u64(1);
        let messages: Vec<String> = payments(SPREAD, 1)
            .into_iter()
            .map(|message| {
                let card = random.random_range(0..cards);
                let (before, rest) = message.split_once("\"card_id\":\"").unwrap_or_default();
                let after = rest.split_once('"').map_or("", |(_, after)| after);
                format!("{before}\"card_id\":\"c{card:07}\"{after}")
            })
            .collect();
        let batches = decode(project, &messages)?;
        let time = fastest(2, || drop(commit_all(project, &batches)));
        let rate = (SPREAD as f64 / time.as_secs_f64()).round();
        figures.insert(cards.to_string(), json!(rate));
    }
    Ok(figures.into())
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

const MILLION: usize = 1_000_000;
/// Events of the quiet entity.
const QUIET: usize = 100;
const WEEK_US: i64 = 7 * 86_400_000_000;
const WEEK_START_US: i64 = 1_767_225_600_000_000;

const MILLION_SOURCES: &str = "CREATE EXTERNAL TABLE tx (
  tx_id VARCHAR NOT NULL, entity VARCHAR NOT NULL, amount DOUBLE NOT NULL, units BIGINT NOT NULL,
  approved BOOLEAN NOT NULL, event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('id' 'tx_id');";

/// Three columns of each event are kept.
const MILLION_VIEW: &str = "AS SELECT entity,
  count(*) OVER h1 AS n_1h, sum(amount) OVER h1 AS sum_1h, avg(amount) OVER h1 AS avg_1h,
  count(*) OVER d1 AS n_1d, sum(amount) OVER d1 AS sum_1d, max(units) OVER d1 AS units_1d,
  count(*) OVER d7 AS n_7d, sum(amount) OVER d7 AS sum_7d, avg(amount) OVER d7 AS avg_7d, max(units) OVER d7 AS units_7d,
  count(*) FILTER (WHERE approved) OVER d7 AS approved_7d
FROM tx
WINDOW h1 AS (PARTITION BY entity ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
       d1 AS (PARTITION BY entity ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
       d7 AS (PARTITION BY entity ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW)";

/// A million events of one entity and a hundred of another, in a week and in the order of time, through the steps of a
/// pipeline: what they take, and how long look-ups of both take.
fn million(options: &str) -> Result<Value, Box<dyn Error>> {
    a_week(options, MILLION)
}

/// As [`million`], with as many events of the hot entity as are asked for.
fn a_week(options: &str, count: usize) -> Result<Value, Box<dyn Error>> {
    let view = file("v.sql", &format!("CREATE VIEW v {options} {MILLION_VIEW}"));
    let project = Project::plan(&file("sources.sql", MILLION_SOURCES), &[view], None)
        .map_err(|problems| format!("{problems:?}"))?;
    let folder = tempfile::tempdir()?;
    let identity = StoreIdentity {
        project_fingerprint: "bench".into(),
        description: "bench".into(),
    };
    let store = RocksStore::open(folder.path(), &identity)?;
    let settings = StoreSection::default();
    let mut random = Pcg64::seed_from_u64(1);
    let mut marks = Marks::default();
    let mut folder_of_rows = Folder::default();
    let mut slowest_us = 0;
    let started = std::time::Instant::now();
    for first in (0..count).step_by(2_000) {
        let step = std::time::Instant::now();
        let last = count.min(first + 2_000);
        let batch = week(&project, count, first..last, &mut random)?;
        let places = vec![0; batch.num_rows()];
        let origin = Origin {
            partitions: &places,
            offsets: &vec![0; batch.num_rows()],
        };
        let mut pending = Pending::over(marks.seals(&project));
        project.views[0].state_rows(&batch, origin, &mut pending)?;
        marks.advance("tx", time_of(last - 1, count));
        let committed = Committed(&store);
        folder_of_rows
            .fold(&project.views, &marks, &settings, &committed, &mut pending)
            .map_err(|e| e.to_string())?;
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        marks.write(&mut commit);
        store.commit(commit)?;
        slowest_us = slowest_us.max(step.elapsed().as_micros());
    }
    let seconds = started.elapsed().as_secs_f64();
    store.flush()?;
    store.expire()?;
    let bytes = bytes_of_tables(folder.path())?;
    let end = time_of(count, count);
    let hot = hot_look_up(&project, &store, &marks, &settings, "hot", end)?;
    let quiet = hot_look_up(&project, &store, &marks, &settings, "quiet", end)?;
    store.flush()?;
    store.expire()?;
    let result = json!({
        "events": count + QUIET,
        "bytes_on_disk": bytes,
        "bytes_an_event": bytes as f64 / (count + QUIET) as f64,
        "bytes_on_disk_with_tiles": bytes_of_tables(folder.path())?,
        "commit_per_second": (count as f64 / seconds).round(),
        "slowest_commit_us": slowest_us as u64,
        "median_look_up_us": { "hot": hot, "quiet": quiet },
        "hot_to_quiet": hot / quiet,
    });
    drop(store);
    folder.close()?;
    Ok(result)
}

fn time_of(number: usize, count: usize) -> i64 {
    WEEK_START_US + (number as i64) * (WEEK_US / count as i64)
}

/// Events of the hot entity, and now and then one of the quiet one.
fn week(
    project: &Project,
    count: usize,
    numbers: std::ops::Range<usize>,
    random: &mut Pcg64,
) -> Result<RecordBatch, Box<dyn Error>> {
    let of = |number: usize| match number % (count / QUIET) {
        0 => vec![(number, "hot"), (number, "quiet")],
        _ => vec![(number, "hot")],
    };
    let events: Vec<(usize, &str)> = numbers.flat_map(of).collect();
    let ids = events
        .iter()
        .map(|(number, entity)| format!("{entity}-{number}"));
    let amounts: Float64Array = events
        .iter()
        .map(|_| Some(f64::from(random.random_range(100..20_000)) / 100.0))
        .collect();
    let units: Int64Array = events
        .iter()
        .map(|_| Some(random.random_range(1..9)))
        .collect();
    let approved: BooleanArray = events
        .iter()
        .map(|_| Some(random.random_bool(0.9)))
        .collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(ids)),
        Arc::new(StringArray::from_iter_values(
            events.iter().map(|(_, entity)| entity),
        )),
        Arc::new(amounts),
        Arc::new(units),
        Arc::new(approved),
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            events.iter().map(|(number, _)| time_of(*number, count)),
        )),
    ];
    Ok(RecordBatch::try_new(
        Arc::clone(&project.streams[0].schema),
        columns,
    )?)
}

/// Median microseconds of a look-up of an entity, each as of another time within a minute, once its tiles are there.
fn hot_look_up(
    project: &Project,
    store: &RocksStore,
    marks: &Marks,
    settings: &StoreSection,
    entity: &str,
    end: i64,
) -> Result<f64, Box<dyn Error>> {
    let view = &project.views[0];
    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![entity]))];
    let times: Vec<i64> = (0..2_000).map(|i| end + i * 30_011).collect();
    for time in [times[0], times[1_999]] {
        let mut pending = Pending::default();
        let state = Committed(store);
        view.answer_and_sum_up(&state, &keys, &[time], &mut |tile| {
            if marks.is_whole(view, settings, &tile) {
                pending.put_tile(tile);
            }
        })?;
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        store.commit(commit)?;
    }
    let mut single = Vec::with_capacity(3 * times.len());
    for time in times.iter().cycle().take(3 * times.len()) {
        let started = std::time::Instant::now();
        let moment = store.moment();
        view.answer(&Committed(moment.as_ref()), &keys, &[*time])?;
        single.push(started.elapsed());
    }
    single.sort_unstable();
    Ok(single[single.len() / 2].as_secs_f64() * 1e6)
}

fn bytes_of_tables(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_some_and(|ending| ending == "sst")
        {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}
