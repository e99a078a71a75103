//! The events of one entity that look-ups have at hand: stretches of time without a gap, each decoded once.
//!
//! Of an entity with few events there is one stretch, with all of them. Of a large one there are the edges of its
//! windows, between which tiles stand for the events.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef};

use crate::fold::{Held, held};
use crate::packed;
use crate::state::Made;
use crate::tile::{Node, Nodes, Span, TileCodec};
use crate::view::FeatureView;

/// Events of one entity.
pub(crate) struct Events {
    /// Event times, ascending.
    times: Vec<i64>,
    /// What the view keeps of each, one array an operand.
    operands: Vec<ArrayRef>,
    /// Totals beside them, by start and level.
    totals: BTreeMap<TotalKey, Node>,
    /// The highest level of a total.
    top_total: Option<u8>,
    /// Spans that were looked at.
    spans: Mutex<Spans>,
    /// Bytes of all of this, about.
    bytes: Arc<AtomicUsize>,
}

/// A total's first µs, and its level.
type TotalKey = (i64, u8);

/// Spans that were looked at: their node, or none where they are not dense. Other aggregates of the same events have
/// nodes of their own.
type Spans = BTreeMap<(NodeTag, Span), Option<Node>>;

/// Which aggregates a node is of.
pub(crate) type NodeTag = [u8; 4];

/// What a span's place takes, about.
const SPAN_BYTES: usize = 64;

impl Events {
    pub(crate) fn new(times: Vec<i64>, operands: Vec<ArrayRef>) -> Self {
        Self {
            times,
            operands,
            totals: BTreeMap::new(),
            top_total: None,
            spans: Mutex::default(),
            bytes: Arc::default(),
        }
    }

    /// Rows of state: times ascending, and values.
    ///
    /// # Errors
    /// What does not have the view's layout.
    pub(crate) fn of_rows<'v>(
        view: &FeatureView,
        rows: impl Iterator<Item = (i64, &'v [u8])>,
    ) -> Result<Self, String> {
        let (mut times, mut kept) = (Vec::new(), Vec::new());
        let (mut keys, mut nodes) = (Vec::new(), Vec::new());
        for (time, value) in rows {
            match view.resolution {
                None => kept.push(value),
                Some(_) => match held(value)? {
                    Held::Event(value) => kept.push(value),
                    Held::Total(level, node) => {
                        keys.push((time, level));
                        nodes.push(node);
                        continue;
                    }
                },
            }
            times.push(time);
        }
        let operands = packed::unpack(&view.operand_types, &kept)?;
        let mut events = Self::new(times, operands);
        if let Some(codec) = view.tiles.as_ref().filter(|_| !nodes.is_empty()) {
            if nodes.iter().any(|node| !codec.is_current(node)) {
                return Err("a total of other aggregates".to_owned());
            }
            let ladder = view.ladder();
            let is_none = |(start_us, level): &&TotalKey| {
                *level >= ladder.levels() || ladder.span(*level, *start_us).start_us != *start_us
            };
            if let Some((start_us, level)) = keys.iter().find(is_none) {
                return Err(format!(
                    "a total of level {level} at {start_us} µs: no such span begins there"
                ));
            }
            let nodes = Arc::new(codec.decode(&nodes)?);
            let totals = keys.into_iter().enumerate().map(|(row, key)| {
                let of = Arc::clone(&nodes);
                (key, Node { of, row })
            });
            events.totals = totals.collect();
            let levels = events.totals.keys().map(|(_, level)| *level);
            events.top_total = levels.max();
        }
        Ok(events)
    }

    /// To be kept: counts its bytes.
    pub(crate) fn made(self) -> Made {
        let operands = self.operands.iter().map(|o| o.get_array_memory_size());
        // They were read together, and have like shares of it.
        let total = self.totals.values().next().map_or(0, Node::bytes);
        let bytes = size_of::<Self>()
            + size_of::<i64>() * self.times.capacity()
            + operands.sum::<usize>()
            + (SPAN_BYTES + total) * self.totals.len();
        self.bytes.store(bytes, Ordering::Relaxed);
        Made {
            bytes: Arc::clone(&self.bytes),
            value: Arc::new(self),
        }
    }

    fn spans(&self) -> MutexGuard<'_, Spans> {
        // Nothing that panics is done under the lock.
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where those of some times are, in times that ascend.
pub(crate) fn positions(ascending: &[i64], times: &Range<i64>) -> Range<usize> {
    let start = ascending.partition_point(|time| *time < times.start);
    let end = start + ascending[start..].partition_point(|time| *time < times.end);
    start..end
}

/// Events of some times, without a gap.
struct Stretch {
    events: Arc<Events>,
    /// What lies outside of these is not looked at: tiles may stand for it.
    times: Range<i64>,
    /// The events of these times.
    rows: Range<usize>,
    /// The number of the first of them.
    first: usize,
}

impl Stretch {
    fn own_times(&self) -> &[i64] {
        &self.events.times[self.rows.clone()]
    }

    /// Whether it has nothing of some times. It is so as a rule: most of what is asked for lies between two stretches,
    /// where tiles are.
    fn is_apart_from(&self, times: &Range<i64>) -> bool {
        times.end <= self.times.start || self.times.end <= times.start
    }

    /// Numbers of the events of some times.
    fn numbers(&self, times: &Range<i64>) -> Range<usize> {
        if self.is_apart_from(times) {
            return self.first..self.first;
        }
        let rows = positions(self.own_times(), times);
        self.first + rows.start..self.first + rows.end
    }

    /// Keys of totals that start in these times, and lie between two keys.
    fn totals(&self, keys: Range<TotalKey>) -> impl Iterator<Item = (&TotalKey, &Node)> {
        // In an empty range, the bounds below would stand the wrong way round.
        let start = keys.start.max((self.times.start, 0));
        let end = keys.end.min((self.times.end, 0)).max(start);
        self.events.totals.range(start..end)
    }
}

/// Stretches in the order of time. Their events are numbered, and those of two stretches do not follow each other.
#[derive(Default)]
pub(crate) struct Stretches {
    stretches: Vec<Stretch>,
    /// Which of them is the list that frames of rows read.
    list: usize,
}

impl Stretches {
    /// All events that are looked at, whatever they are.
    pub(crate) fn all(events: Arc<Events>) -> Self {
        let mut all = Self::default();
        all.push(events, i64::MIN..i64::MAX);
        all
    }

    /// Adds the events of some times, which are later than those before.
    pub(crate) fn push(&mut self, events: Arc<Events>, times: Range<i64>) {
        let rows = positions(&events.times, &times);
        self.push_rows(events, times, rows);
    }

    /// Adds all of some events as the list that frames of rows read, after all others. No frame of times finds them:
    /// tiles may stand for some of them.
    pub(crate) fn push_list(&mut self, events: Arc<Events>) {
        self.list = self.stretches.len();
        let rows = 0..events.times.len();
        self.push_rows(events, i64::MAX..i64::MAX, rows);
    }

    fn push_rows(&mut self, events: Arc<Events>, times: Range<i64>, rows: Range<usize>) {
        let last = self.stretches.last();
        self.stretches.push(Stretch {
            first: last.map_or(0, |last| last.first + last.rows.len() + 1),
            events,
            times,
            rows,
        });
    }

    /// Numbers of those events of the list that `cover` chooses by their times.
    pub(crate) fn list(&self, cover: impl FnOnce(&[i64]) -> Range<usize>) -> Range<usize> {
        self.stretches.get(self.list).map_or(0..0, |stretch| {
            let rows = cover(stretch.own_times());
            stretch.first + rows.start..stretch.first + rows.end
        })
    }

    /// Numbers of the events of some times, where all of them are known one by one.
    pub(crate) fn one_by_one(&self, times: &Range<i64>) -> Option<Range<usize>> {
        let stretch = self.around(times)?;
        let has_totals = stretch.events.top_total.is_some();
        (!has_totals).then(|| stretch.numbers(times))
    }

    /// The stretch of events that follow each other: none where there are none.
    fn of(&self, numbers: &Range<usize>) -> Option<&Stretch> {
        let after = self.stretches.partition_point(|s| s.first <= numbers.start);
        after.checked_sub(1).map(|index| &self.stretches[index])
    }

    /// When the first of some events that follow each other was.
    pub(crate) fn first_time(&self, numbers: &Range<usize>) -> Option<i64> {
        let stretch = self.of(numbers).filter(|_| !numbers.is_empty())?;
        stretch
            .own_times()
            .get(numbers.start - stretch.first)
            .copied()
    }

    /// Which of some events that follow each other are of some times.
    pub(crate) fn among(&self, numbers: &Range<usize>, times: &Range<i64>) -> Range<usize> {
        let Some(stretch) = self.of(numbers) else {
            return numbers.start..numbers.start;
        };
        let own = numbers.start - stretch.first..numbers.end - stretch.first;
        let found = positions(&stretch.own_times()[own], times);
        numbers.start + found.start..numbers.start + found.end
    }

    /// Numbers of the events of some times, by stretch; some may be empty.
    pub(crate) fn numbers(&self, times: &Range<i64>) -> impl Iterator<Item = Range<usize>> {
        self.stretches.iter().map(|stretch| stretch.numbers(times))
    }

    /// How many events of some times are known one by one.
    pub(crate) fn count(&self, times: &Range<i64>) -> usize {
        self.numbers(times).map(|numbers| numbers.len()).sum()
    }

    /// How many events there are in some times, those of totals too.
    pub(crate) fn events(&self, times: &Range<i64>) -> u64 {
        let totals = self.totals(times.clone()).map(|(_, node)| node.events());
        self.count(times) as u64 + totals.sum::<u64>()
    }

    /// What is kept of events that follow each other, and where they are in it.
    pub(crate) fn kept(&self, numbers: &Range<usize>) -> (&[ArrayRef], Range<usize>) {
        match self.of(numbers) {
            Some(stretch) => {
                let start = stretch.rows.start + numbers.start - stretch.first;
                (&stretch.events.operands, start..start + numbers.len())
            }
            None => (&[], 0..0),
        }
    }

    /// When the first event or total of some times is, or starts.
    pub(crate) fn first_of(&self, times: &Range<i64>) -> Option<i64> {
        let stretches = self.stretches.iter();
        let near = stretches.filter(|stretch| !stretch.is_apart_from(times));
        let firsts = near.map(|stretch| {
            let own = stretch.own_times();
            let event = own.get(own.partition_point(|time| *time < times.start));
            let total = stretch.totals((times.start, 0)..(times.end, 0)).next();
            let total = total.map(|((start, _), _)| *start);
            event.copied().into_iter().chain(total).min()
        });
        firsts.flatten().min().filter(|time| *time < times.end)
    }

    /// The highest level of a total, or a higher one.
    pub(crate) fn top_total(&self) -> Option<u8> {
        let stretches = self.stretches.iter();
        stretches.filter_map(|s| s.events.top_total).max()
    }

    pub(crate) fn total(&self, start_us: i64, level: u8) -> Option<&Node> {
        let mut stretches = self.stretches.iter();
        let stretch = stretches.find(|stretch| stretch.times.contains(&start_us))?;
        stretch.events.totals.get(&(start_us, level))
    }

    /// The highest level above `level` of a total that starts at a time.
    pub(crate) fn level_above(&self, start_us: i64, level: u8) -> Option<u8> {
        let mut stretches = self.stretches.iter();
        let stretch = stretches.find(|stretch| stretch.times.contains(&start_us))?;
        let above = (start_us, level + 1)..=(start_us, u8::MAX);
        let highest = stretch.events.totals.range(above).next_back();
        highest.map(|((_, level), _)| *level)
    }

    /// Totals that start in some times.
    pub(crate) fn totals(&self, times: Range<i64>) -> impl Iterator<Item = (&TotalKey, &Node)> {
        let keys = (times.start, 0)..(times.end.max(times.start), 0);
        self.stretches
            .iter()
            .flat_map(move |stretch| stretch.totals(keys.clone()))
    }

    /// What is known of a span that lies in one stretch: kept with the stretch, for all who read it.
    pub(crate) fn node(&self, tag: NodeTag, span: Span) -> Option<Option<Node>> {
        let stretch = self.around(&span.times())?;
        stretch.events.spans().get(&(tag, span)).cloned()
    }

    /// Keeps what was found out of a span; false where it lies in no stretch.
    pub(crate) fn keep(&self, tag: NodeTag, span: Span, node: &Option<Node>) -> bool {
        let Some(stretch) = self.around(&span.times()) else {
            return false;
        };
        let bytes = SPAN_BYTES + node.as_ref().map_or(0, Node::bytes);
        let before = stretch.events.spans().insert((tag, span), node.clone());
        // Another look-up may have come first.
        if before.is_none() {
            stretch.events.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        true
    }

    fn around(&self, times: &Range<i64>) -> Option<&Stretch> {
        let holds = |s: &&Stretch| s.times.start <= times.start && times.end <= s.times.end;
        self.stretches.iter().find(holds)
    }
}

/// Tiles that were read together, decoded.
pub(crate) struct Tiles {
    tag: NodeTag,
    /// Level and start of each: the highest level first, and then by start.
    places: Vec<(u8, i64)>,
    nodes: Arc<Nodes>,
}

impl Tiles {
    /// Tiles of state, the highest level first and then by start; those of other aggregates are left out.
    ///
    /// # Errors
    /// What is no tile.
    pub(crate) fn of_rows<'v>(
        codec: &TileCodec,
        rows: impl Iterator<Item = ((u8, i64), &'v [u8])>,
    ) -> Result<Self, String> {
        let current = rows.filter(|(_, value)| codec.is_current(value));
        let (places, values): (Vec<_>, Vec<_>) = current.unzip();
        Ok(Self {
            tag: codec.tag(),
            places,
            nodes: Arc::new(codec.decode(&values)?),
        })
    }

    /// To be kept.
    pub(crate) fn made(self) -> Made {
        let bytes = size_of::<Self>()
            + size_of::<(u8, i64)>() * self.places.capacity()
            + self.nodes.bytes();
        let value: Arc<dyn Any + Send + Sync> = Arc::new(self);
        Made {
            value,
            bytes: Arc::new(bytes.into()),
        }
    }

    /// Whether they are of a view's aggregates.
    pub(crate) fn are_of(&self, codec: &TileCodec) -> bool {
        self.tag == codec.tag()
    }

    /// Those of a level that start in some times.
    pub(crate) fn run(self: &Arc<Self>, level: u8, starts: &Range<i64>) -> Run {
        let below = |start: i64| {
            let is_before = |(l, s): (u8, i64)| l > level || (l == level && s < start);
            self.places.partition_point(|place| is_before(*place))
        };
        let first = below(starts.start);
        Run {
            rows: first..below(starts.end).max(first),
            tiles: Arc::clone(self),
        }
    }
}

/// Tiles of one level, in the order of time, without one of the same times between them that was read.
pub(crate) struct Run {
    tiles: Arc<Tiles>,
    rows: Range<usize>,
}

impl Run {
    pub(crate) fn starts(&self) -> impl Iterator<Item = i64> + '_ {
        let places = self.tiles.places[self.rows.clone()].iter();
        places.map(|(_, start)| *start)
    }

    /// The first that starts at a time or later.
    fn first_from(&self, start_us: i64) -> Option<usize> {
        let places = &self.tiles.places[self.rows.clone()];
        let before = places.partition_point(|(_, start)| *start < start_us);
        Some(self.rows.start + before).filter(|row| *row < self.rows.end)
    }

    /// The number after the last one's.
    pub(crate) fn end(&self) -> usize {
        self.rows.end
    }

    pub(crate) fn start(&self, row: usize) -> i64 {
        self.tiles.places[row].1
    }

    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.tiles.nodes
    }
}

/// The tiles that some look-ups have read: the runs of each level, the lowest level first, in the order of time.
#[derive(Default)]
pub(crate) struct ReadTiles(Vec<Vec<Run>>);

impl ReadTiles {
    /// Adds tiles that were not read yet.
    pub(crate) fn push(&mut self, level: u8, run: Run) {
        if run.rows.is_empty() {
            return;
        }
        let level = usize::from(level);
        let levels = self.0.len().max(level + 1);
        self.0.resize_with(levels, Vec::new);
        let runs = &mut self.0[level];
        let start = run.start(run.rows.start);
        let before = runs.partition_point(|other| other.start(other.rows.start) < start);
        runs.insert(before, run);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first tile of a level that starts at a time or later: its run, and where it is in it.
    pub(crate) fn first_from(&self, level: u8, start_us: i64) -> Option<(&Run, usize)> {
        let runs = self.0.get(usize::from(level))?;
        let after = runs.partition_point(|run| run.start(run.rows.start) <= start_us);
        let within = after.checked_sub(1).map(|index| &runs[index]);
        let within = within.and_then(|run| Some((run, run.first_from(start_us)?)));
        within.or_else(|| runs.get(after).map(|run| (run, run.rows.start)))
    }

    /// The tile of a span.
    pub(crate) fn node(&self, span: Span) -> Option<Node> {
        let (run, row) = self.first_from(span.level, span.start_us)?;
        let of = Arc::clone(run.nodes());
        (run.start(row) == span.start_us).then_some(Node { of, row })
    }

    /// One level above the highest that was read.
    pub(crate) fn levels(&self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }
}
