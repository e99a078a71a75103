//! The events of one entity, as far as some look-ups need them: rows at the edges of their frames, tiles between. In a
//! view with a resolution, totals stand for the events of settled spans.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::filter;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::Accumulator;

use crate::FeatureError;
use crate::distinct::Distinct;
use crate::fold::{Held, held};
use crate::frame::Frame;
use crate::kernel::{Kernel, Partial};
use crate::packed;
use crate::state::{BestRead, Made, StateReader};
use crate::tile::{Ladder, Node, Span, TileCodec};
use crate::view::{FeatureView, Measure, Operand};

/// What look-ups of one entity read.
pub(crate) struct History<'a> {
    view: &'a FeatureView,
    ladder: Ladder,
    tag: NodeTag,
    /// All events that no tile of the same frame and no total sums up; where no tile was read, perhaps others.
    known: Arc<Events>,
    /// Tiles that were read, by start and level.
    stored: BTreeMap<(i64, u8), Arc<Node>>,
    /// Nodes that were made here, to be stored.
    made: Vec<Span>,
    keeps_nodes: bool,
    /// Whether a frame ended inside a total's span.
    is_rounded: bool,
}

/// Events of one entity.
pub(crate) struct Events {
    /// Event times, ascending.
    times: Vec<i64>,
    /// What the view keeps of each, one array an operand.
    operands: Vec<ArrayRef>,
    /// Totals beside them, by start and level.
    totals: BTreeMap<(i64, u8), Arc<Node>>,
    /// Spans that were looked at: their node, or none where they are not dense. Other aggregates of the same events
    /// have nodes of their own.
    nodes: Mutex<Nodes>,
    /// Bytes of all of this, about.
    bytes: Arc<AtomicUsize>,
}

type Nodes = BTreeMap<(NodeTag, Span), Option<Arc<Node>>>;

/// Which aggregates a node is of.
type NodeTag = [u8; 4];

impl Events {
    fn new(times: Vec<i64>, operands: Vec<ArrayRef>) -> Self {
        Self {
            times,
            operands,
            totals: BTreeMap::new(),
            nodes: Mutex::default(),
            bytes: Arc::default(),
        }
    }

    /// To be kept: counts its bytes.
    fn made(self) -> Made {
        let operands = self.operands.iter().map(|o| o.get_array_memory_size());
        let totals = self.totals.values().map(|node| node.bytes());
        let bytes = size_of::<Self>()
            + size_of::<i64>() * self.times.capacity()
            + operands.sum::<usize>()
            + totals.sum::<usize>();
        self.bytes.store(bytes, Ordering::Relaxed);
        Made {
            bytes: Arc::clone(&self.bytes),
            value: Arc::new(self),
        }
    }

    fn keep(&self, tag: NodeTag, span: Span, node: Option<Arc<Node>>) {
        let bytes = NODE_BYTES + node.as_ref().map_or(0, |node| node.bytes());
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.nodes().insert((tag, span), node);
    }

    /// Rows of state: times ascending, and values.
    ///
    /// # Errors
    /// What does not have the view's layout.
    fn of_rows<'v>(
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
            let nodes = codec.decode(&nodes)?.into_iter().map(Arc::new);
            events.totals = keys.into_iter().zip(nodes).collect();
        }
        Ok(events)
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        // Nothing that panics is done under the lock.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a node's place takes, about.
const NODE_BYTES: usize = 64;

/// A stretch of a frame, in the order of time.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Indexes of rows.
    Rows(Range<usize>),
    Node(Arc<Node>),
}

impl<'a> History<'a> {
    /// A history of all events that matter: `times` ascending, one array an operand.
    pub(crate) fn of_events(
        view: &'a FeatureView,
        times: Vec<i64>,
        operands: Vec<ArrayRef>,
    ) -> Self {
        Self::of(view, Arc::new(Events::new(times, operands)))
    }

    fn of(view: &'a FeatureView, known: Arc<Events>) -> Self {
        Self {
            view,
            ladder: view.ladder(),
            tag: view.tiles.as_ref().map(TileCodec::tag).unwrap_or_default(),
            known,
            stored: BTreeMap::new(),
            made: Vec::new(),
            keeps_nodes: false,
            is_rounded: false,
        }
    }

    /// A history of rows of state: times ascending, and values.
    pub(crate) fn of_rows<'v>(
        view: &'a FeatureView,
        rows: impl Iterator<Item = (i64, &'v [u8])>,
    ) -> Result<Self, FeatureError> {
        let events = Events::of_rows(view, rows).map_err(|detail| view.damaged(detail))?;
        Ok(Self::of(view, Arc::new(events)))
    }

    /// Reads what look-ups as of `asked` (not empty) need.
    pub(crate) fn load(
        view: &'a FeatureView,
        state: &dyn StateReader,
        entity: &[u8],
        asked: &[i64],
    ) -> Result<Self, FeatureError> {
        let oldest = asked.iter().copied().min().unwrap_or(i64::MIN);
        let newest = asked.iter().copied().max().unwrap_or(i64::MAX);
        // The earliest time that is read below; none where that takes a look at the rows.
        let starts = view.frames.iter().map(|frame| {
            let times = frame.times(oldest, view.step_us());
            times.map(|times| times.start)
        });
        let from: Option<Vec<i64>> = starts.collect();
        let from = from.map(|starts| starts.into_iter().min().unwrap_or(i64::MIN));
        if let Some(from) = from {
            // With all events at hand, tiles are neither read nor worth making: their sums are kept beside the events.
            if let Some(events) = Self::kept_events(view, state, entity, from)? {
                return Ok(Self::of(view, events));
            }
        }
        let from = from.unwrap_or(i64::MIN);
        let read = match view.tiles {
            Some(_) => state.best_read(view.id, entity, from)?,
            None => BestRead::Rows,
        };
        let mut plan = Plan {
            view,
            state,
            entity,
            read,
            rows: Vec::new(),
            tiles: BTreeMap::new(),
        };
        let mut cores = Vec::new();
        for frame in &view.frames {
            cores.extend(plan.frame(frame, oldest, newest)?);
        }
        if let (Some(codec), BestRead::Tiles(Some(top))) = (view.tiles.as_ref(), read) {
            plan.read_tiles(codec, top, cores)?;
        }
        plan.read()
    }

    /// All events from a time on, where the state keeps them as they are needed here.
    fn kept_events(
        view: &FeatureView,
        state: &dyn StateReader,
        entity: &[u8],
        from: i64,
    ) -> Result<Option<Arc<Events>>, FeatureError> {
        let mut damage = None;
        let made = state.made(view.id, entity, from, &mut |rows| {
            let events = Events::of_rows(view, rows);
            events
                .map(Events::made)
                .map_err(|detail| damage = Some(detail))
                .ok()
        })?;
        match damage {
            Some(detail) => Err(view.damaged(detail)),
            None => Ok(made.and_then(|made| made.value.downcast().ok())),
        }
    }

    /// Takes the nodes that were made here: worth storing where no event of their span is missing.
    pub(crate) fn take_made(&mut self) -> Vec<(Span, Arc<Node>)> {
        let made = std::mem::take(&mut self.made);
        let (tag, nodes) = (self.tag, self.known.nodes());
        made.into_iter()
            .filter_map(|span| Some((span, nodes.get(&(tag, span))?.clone()?)))
            .collect()
    }

    /// What a frame covers as of `t`.
    pub(crate) fn items(&mut self, frame: &Frame, t: i64) -> Result<Vec<Item>, DataFusionError> {
        let mut items = Vec::new();
        match frame.times(t, self.view.step_us()) {
            Some(mut times) if self.view.tiles.is_some() => {
                if let Some(span) = self.total_across(times.end) {
                    times.end = span.start_us;
                    self.is_rounded = true;
                }
                let width = times.end.saturating_sub(times.start);
                self.collect(self.ladder.top_level(width), times, &mut items)?;
            }
            _ => push_rows(&mut items, frame.cover(&self.known.times, t)),
        }
        Ok(items)
    }

    fn rows(&self, times: &Range<i64>) -> Range<usize> {
        let own = &self.known.times;
        let start = own.partition_point(|time| *time < times.start);
        let end = start + own[start..].partition_point(|time| *time < times.end);
        start..end
    }

    /// Whether an answer left events out that are known only in sum with later ones.
    pub(crate) fn is_rounded(&self) -> bool {
        self.is_rounded
    }

    /// The total whose span holds times on both sides of `end`.
    fn total_across(&self, end: i64) -> Option<Span> {
        if self.known.totals.is_empty() {
            return None;
        }
        let mut spans = (0..self.ladder.levels()).map(|level| self.ladder.span(level, end));
        spans.find(|span| {
            span.start_us < end && self.known.totals.contains_key(&(span.start_us, span.level))
        })
    }

    /// How many events there are in `times`, or at least `enough`.
    fn events(&self, times: &Range<i64>, enough: u64) -> u64 {
        let mut events = self.rows(times).len() as u64;
        let starts = (times.start, 0)..(times.end, 0);
        if events >= enough || starts.is_empty() {
            return events;
        }
        for ((start, level), node) in self.stored.range(starts.clone()) {
            if self.ladder.span(*level, *start).end_us() <= times.end {
                events += node.events;
            }
            if events >= enough {
                return events;
            }
        }
        for node in self.known.totals.range(starts).map(|(_, node)| node) {
            events += node.events;
            if events >= enough {
                break;
            }
        }
        events
    }

    /// Largest nodes inside `times`, and the rows between them.
    fn collect(
        &mut self,
        level: Option<u8>,
        times: Range<i64>,
        items: &mut Vec<Item>,
    ) -> Result<(), DataFusionError> {
        // The least events that a node has.
        let least = self.view.dense_unit;
        let Some(level) = level.filter(|_| self.events(&times, least) >= least) else {
            push_rows(items, self.rows(&times));
            return Ok(());
        };
        let below = level.checked_sub(1);
        let whole = self.ladder.inner(level, &times);
        if whole.is_empty() {
            return self.collect(below, times, items);
        }
        self.collect(below, times.start..whole.start, items)?;
        self.spans(level, &whole, items)?;
        self.collect(below, whole.end..times.end, items)
    }

    /// The spans of a level in `times`, which they fill: nodes, or what they hold where they are none.
    fn spans(
        &mut self,
        level: u8,
        times: &Range<i64>,
        items: &mut Vec<Item>,
    ) -> Result<(), DataFusionError> {
        let mut from = times.start;
        while let Some(time) = self.next_occupied(from..times.end) {
            let span = self.span(level, time);
            match self.node(span)? {
                Some(node) => items.push(Item::Node(node)),
                None => self.collect(span.level.checked_sub(1), span.times(), items)?,
            }
            from = span.end_us();
        }
        Ok(())
    }

    /// The span of a level that holds `time`, or that of a larger total that begins there.
    fn span(&self, level: u8, time: i64) -> Span {
        let larger = (time, level + 1)..=(time, u8::MAX);
        let total = self.known.totals.range(larger).next_back();
        let level = total.map_or(level, |((_, level), _)| *level);
        self.ladder.span(level, time)
    }

    fn next_occupied(&self, times: Range<i64>) -> Option<i64> {
        if times.is_empty() {
            return None;
        }
        let own = &self.known.times;
        let row = own.partition_point(|time| *time < times.start);
        let row = own.get(row).copied();
        let first = |nodes: &BTreeMap<(i64, u8), Arc<Node>>| {
            let first = nodes.range((times.start, 0)..).next();
            first.map(|((start, _), _)| *start)
        };
        row.into_iter()
            .chain(first(&self.stored))
            .chain(first(&self.known.totals))
            .min()
            .filter(|time| *time < times.end)
    }

    /// The node of a span; none where it holds too few events to be one.
    fn node(&mut self, span: Span) -> Result<Option<Arc<Node>>, DataFusionError> {
        if let Some(known) = self.known.nodes().get(&(self.tag, span)) {
            return Ok(known.clone());
        }
        if let Some(stored) = self.stored.get(&(span.start_us, span.level)) {
            return Ok(Some(Arc::clone(stored)));
        }
        let times = span.times();
        let dense = self.view.dense_at(span.level);
        let node = if let Some(total) = self.known.totals.get(&(span.start_us, span.level)) {
            Some(self.with_late(span, Arc::clone(total))?)
        } else if self.events(&times, dense) >= dense {
            let mut items = Vec::new();
            match span.level.checked_sub(1) {
                Some(below) => self.spans(below, &times, &mut items)?,
                None => push_rows(&mut items, self.rows(&times)),
            }
            if self.keeps_nodes {
                self.made.push(span);
            }
            Some(Arc::new(self.sum_up(&items)?))
        } else {
            None
        };
        self.known.keep(self.tag, span, node.clone());
        Ok(node)
    }

    /// A total with what came after it was made.
    fn with_late(&self, span: Span, total: Arc<Node>) -> Result<Arc<Node>, DataFusionError> {
        let mut items = vec![Item::Node(total)];
        items.extend(self.inside(span).map(Item::Node));
        push_rows(&mut items, self.rows(&span.times()));
        match items.as_slice() {
            [Item::Node(total)] => Ok(Arc::clone(total)),
            items => Ok(Arc::new(self.sum_up(items)?)),
        }
    }

    /// Totals inside a span, but for its own.
    fn inside(&self, span: Span) -> impl Iterator<Item = Arc<Node>> + '_ {
        let times = span.times();
        let others = self.known.totals.range((times.start, 0)..(times.end, 0));
        others
            .filter(move |(key, _)| **key != (span.start_us, span.level))
            .map(|(_, node)| Arc::clone(node))
    }

    /// The spans whose rows are to be replaced by a total, and the totals: steps, and spans of any level that end at
    /// or before `old_us`.
    pub(crate) fn fold_spans(
        &mut self,
        old_us: i64,
    ) -> Result<Vec<(Span, Arc<Node>)>, DataFusionError> {
        let mut folded = Vec::new();
        let top = match old_us {
            i64::MIN => 0,
            _ => self.ladder.levels() - 1,
        };
        self.fold_level(top, i64::MIN..i64::MAX, old_us, &mut folded)?;
        Ok(folded)
    }

    fn fold_level(
        &mut self,
        level: u8,
        times: Range<i64>,
        old_us: i64,
        folded: &mut Vec<(Span, Arc<Node>)>,
    ) -> Result<(), DataFusionError> {
        let mut from = times.start;
        while let Some(time) = self.next_occupied(from..times.end) {
            let span = self.span(level, time);
            let total = self.known.totals.get(&(span.start_us, span.level));
            let may = span.level == 0 || total.is_some() || span.end_us() <= old_us;
            let node = match may {
                true => self.node(span)?,
                false => None,
            };
            match (node, span.level.checked_sub(1)) {
                (Some(node), _) if self.rows_inside(span) > 1 => folded.push((span, node)),
                (None, Some(below)) => self.fold_level(below, span.times(), old_us, folded)?,
                _ => {}
            }
            from = span.end_us();
        }
        Ok(())
    }

    /// How many rows of state a span has: events and totals.
    fn rows_inside(&self, span: Span) -> usize {
        let own = (span.start_us, span.level);
        self.rows(&span.times()).len()
            + self.inside(span).count()
            + usize::from(self.known.totals.contains_key(&own))
    }

    fn sum_up(&self, items: &[Item]) -> Result<Node, DataFusionError> {
        let events = items.iter().map(|item| match item {
            Item::Rows(rows) => rows.len() as u64,
            Item::Node(node) => node.events,
        });
        let mut state = Vec::new();
        for measure in &self.view.measures {
            match measure.kernel {
                Some(kernel) => state.extend(kernel.state(self.fold(kernel, measure, items)?)),
                None => state.extend(self.accumulate(measure, items)?.state()?),
            }
        }
        Node::new(events.sum(), state)
    }

    /// A measure with a kernel over a frame's items.
    pub(crate) fn fold(
        &self,
        kernel: Kernel,
        measure: &Measure,
        items: &[Item],
    ) -> Result<Partial, DataFusionError> {
        kernel.fold(&self.known.operands, &measure.state, items)
    }

    /// A count of distinct values over a frame's items.
    pub(crate) fn count_distinct(
        &self,
        distinct: Distinct,
        measure: &Measure,
        items: &[Item],
    ) -> Result<i64, DataFusionError> {
        distinct.count(&self.known.operands, measure.state.start, items)
    }

    /// Any measure over a frame's items.
    pub(crate) fn accumulate(
        &self,
        measure: &Measure,
        items: &[Item],
    ) -> Result<Box<dyn Accumulator>, DataFusionError> {
        let mut accumulator = measure.aggregate.create_accumulator()?;
        for item in items {
            match item {
                Item::Rows(rows) => {
                    let arguments = self.arguments(measure, rows)?;
                    if arguments.first().is_some_and(|first| !first.is_empty()) {
                        accumulator.update_batch(&arguments)?;
                    }
                }
                Item::Node(node) => {
                    accumulator.merge_batch(&node.fields(measure.state.clone())?)?
                }
            }
        }
        Ok(accumulator)
    }

    fn arguments(
        &self,
        measure: &Measure,
        rows: &Range<usize>,
    ) -> Result<Vec<ArrayRef>, DataFusionError> {
        let keep = measure
            .filter
            .as_ref()
            .map(|filter| self.values(filter, rows))
            .transpose()?;
        let keep = keep.as_ref().map(|keep| keep.as_boolean());
        let kept = |argument: &Operand| -> Result<ArrayRef, DataFusionError> {
            let values = self.values(argument, rows)?;
            Ok(match keep {
                Some(keep) => filter(&values, keep as &BooleanArray)?,
                None => values,
            })
        };
        measure.arguments.iter().map(kept).collect()
    }

    fn values(&self, operand: &Operand, rows: &Range<usize>) -> Result<ArrayRef, DataFusionError> {
        match operand {
            Operand::Kept(index) => Ok(self.known.operands[*index].slice(rows.start, rows.len())),
            Operand::Literal(value) => value.to_array_of_size(rows.len()),
        }
    }
}

/// Rows that follow each other are one stretch.
fn push_rows(items: &mut Vec<Item>, rows: Range<usize>) {
    match items.last_mut() {
        _ if rows.is_empty() => {}
        Some(Item::Rows(last)) if last.end == rows.start => last.end = rows.end,
        _ => items.push(Item::Rows(rows)),
    }
}

/// What to read for some look-ups.
struct Plan<'a, 'b> {
    view: &'a FeatureView,
    state: &'b dyn StateReader,
    entity: &'b [u8],
    read: BestRead,
    /// Times whose rows are needed.
    rows: Vec<Range<i64>>,
    tiles: BTreeMap<(i64, u8), Vec<u8>>,
}

impl<'a> Plan<'a, '_> {
    /// Notes which rows a frame needs; returns the times to be read as tiles, if there are such.
    fn frame(
        &mut self,
        frame: &Frame,
        oldest: i64,
        newest: i64,
    ) -> Result<Option<Range<i64>>, FeatureError> {
        let step = self.view.step_us();
        let (Some(first), Some(last)) = (frame.times(oldest, step), frame.times(newest, step))
        else {
            let start = self.rows_start(frame, oldest, newest)?;
            self.rows.push(start..newest);
            return Ok(None);
        };
        // What every look-up covers is read as tiles; what only some of them cover, as rows.
        let core = last.start..first.end;
        match self.read {
            BestRead::Tiles(Some(_)) if !core.is_empty() => {
                self.rows.push(first.start..core.start);
                self.rows.push(core.end..last.end);
                Ok(Some(core))
            }
            _ => {
                self.rows.push(first.start..last.end);
                Ok(None)
            }
        }
    }

    /// Tiles inside each of the frames' times, the largest first, and rows where there are none. Frames end together as
    /// a rule, so a level is read for all of them at once.
    fn read_tiles(
        &mut self,
        codec: &TileCodec,
        top: u8,
        frames: Vec<Range<i64>>,
    ) -> Result<(), FeatureError> {
        let ladder = self.view.ladder();
        let mut open: Vec<Vec<Range<i64>>> = frames.into_iter().map(|times| vec![times]).collect();
        for level in (0..=top).rev() {
            let wanted = open.iter().flatten();
            let wanted = wanted.map(|times| ladder.inner(level, times)).collect();
            let mut found = Vec::new();
            for times in united(wanted) {
                let tiles = &mut self.tiles;
                let mut keep = |start, value: &[u8]| {
                    if codec.is_current(value) {
                        found.push(start);
                        tiles.insert((start, level), value.to_vec());
                    }
                };
                self.state
                    .tiles(self.view.id, self.entity, level, times, &mut keep)?;
            }
            for open in &mut open {
                let mut gaps = Vec::new();
                for times in open.drain(..) {
                    let whole = ladder.inner(level, &times);
                    let first = found.partition_point(|start| *start < whole.start);
                    let inside = found[first..].iter().take_while(|s| **s < whole.end);
                    let mut from = times.start;
                    for start in inside {
                        push_times(&mut gaps, from..*start);
                        from = ladder.span(level, *start).end_us();
                    }
                    push_times(&mut gaps, from..times.end);
                }
                *open = gaps;
            }
        }
        self.rows.extend(open.into_iter().flatten());
        Ok(())
    }

    /// From when on a ROWS frame needs rows.
    fn rows_start(&self, frame: &Frame, oldest: i64, newest: i64) -> Result<i64, FeatureError> {
        let Frame::Rows {
            start: Some(rows), ..
        } = *frame
        else {
            return Ok(i64::MIN);
        };
        let mut start = i64::MIN;
        let mut left = rows;
        self.state
            .scan_back(self.view.id, self.entity, newest, &mut |time, _| {
                start = time;
                left -= u64::from(time < oldest);
                left > 0
            })?;
        Ok(if left > 0 { i64::MIN } else { start })
    }

    fn read(mut self) -> Result<History<'a>, FeatureError> {
        let merged = united(std::mem::take(&mut self.rows));
        let mut times = Vec::new();
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for range in merged {
            self.state
                .scan(self.view.id, self.entity, range, &mut |time, value| {
                    times.push(time);
                    bytes.extend_from_slice(value);
                    ends.push(bytes.len());
                    true
                })?;
        }
        let starts = [0].into_iter().chain(ends.iter().copied());
        let values = starts.zip(&ends).map(|(start, end)| &bytes[start..*end]);
        let mut history = History::of_rows(self.view, times.into_iter().zip(values))?;
        history.keeps_nodes = self.read != BestRead::Rows;
        if let Some(codec) = self.view.tiles.as_ref().filter(|_| !self.tiles.is_empty()) {
            let (keys, values): (Vec<_>, Vec<_>) = self.tiles.into_iter().unzip();
            let nodes = codec.decode(&values);
            let nodes = nodes.map_err(|detail| self.view.damaged(detail))?;
            history.stored = keys
                .into_iter()
                .zip(nodes.into_iter().map(Arc::new))
                .collect();
        }
        Ok(history)
    }
}

/// The same times, in order, none of them twice.
fn united(mut ranges: Vec<Range<i64>>) -> Vec<Range<i64>> {
    ranges.retain(|times| !times.is_empty());
    ranges.sort_unstable_by_key(|times| times.start);
    let mut united: Vec<Range<i64>> = Vec::with_capacity(ranges.len());
    for times in ranges {
        match united.last_mut() {
            Some(last) if times.start <= last.end => last.end = last.end.max(times.end),
            _ => united.push(times),
        }
    }
    united
}

/// Times that follow each other are one range.
fn push_times(ranges: &mut Vec<Range<i64>>, times: Range<i64>) {
    match ranges.last_mut() {
        _ if times.is_empty() => {}
        Some(last) if last.end == times.start => last.end = times.end,
        _ => ranges.push(times),
    }
}
