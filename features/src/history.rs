//! What the frames of some look-ups of one entity cover: rows at their edges, tiles between. In a view with a
//! resolution, totals stand for the events of settled spans.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::filter;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::Accumulator;

use crate::FeatureError;
use crate::distinct::Distinct;
use crate::events::{Events, NodeTag, ReadTiles, Stretches};
use crate::frame::Frame;
use crate::kernel::{Kernel, Partial};
use crate::rows::is_of_values;
use crate::tile::{Ladder, Node, Nodes, Span, TileCodec};
use crate::view::{FeatureView, Measure, Operand};

/// What look-ups of one entity read.
pub(crate) struct History<'a> {
    view: &'a FeatureView,
    ladder: Ladder,
    tag: NodeTag,
    /// All events that no tile of the same frame and no total sums up; where no tile was read, perhaps others.
    known: Stretches,
    /// Tiles that were read.
    stored: ReadTiles,
    /// Spans of no single stretch that were looked at: their node, or none where they are not dense.
    nodes: BTreeMap<Span, Option<Node>>,
    /// Nodes that were made here, to be stored.
    made: Vec<Span>,
    keeps_nodes: bool,
    /// Whether a frame ended inside a total's span.
    is_rounded: bool,
}

/// A stretch of a frame, in the order of time.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Numbers of rows that follow each other.
    Rows(Range<usize>),
    /// Some of those nodes, in the order of time.
    Nodes(Arc<Nodes>, Range<usize>),
}

impl From<Node> for Item {
    fn from(node: Node) -> Self {
        Self::Nodes(node.of, node.row..node.row + 1)
    }
}

impl<'a> History<'a> {
    /// A history of all events that matter: `times` ascending, one array an operand.
    pub(crate) fn of_events(
        view: &'a FeatureView,
        times: Vec<i64>,
        operands: Vec<ArrayRef>,
    ) -> Self {
        let events = Arc::new(Events::new(times, operands));
        Self::of(view, Stretches::all(events))
    }

    fn of(view: &'a FeatureView, known: Stretches) -> Self {
        Self {
            view,
            ladder: view.ladder(),
            tag: view.tiles.as_ref().map(TileCodec::tag).unwrap_or_default(),
            known,
            stored: ReadTiles::default(),
            nodes: BTreeMap::new(),
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
        Ok(Self::of(view, Stretches::all(Arc::new(events))))
    }

    /// A history of what look-ups have read: stretches of events, and tiles.
    pub(crate) fn of_read(
        view: &'a FeatureView,
        known: Stretches,
        stored: ReadTiles,
        keeps_nodes: bool,
    ) -> Self {
        Self {
            stored,
            keeps_nodes,
            ..Self::of(view, known)
        }
    }

    /// Takes the nodes that were made here: worth storing where no event of their span is missing.
    pub(crate) fn take_made(&mut self) -> Vec<(Span, Node)> {
        let made = std::mem::take(&mut self.made);
        made.into_iter()
            .filter_map(|span| Some((span, self.looked_at(span)??)))
            .collect()
    }

    /// What a frame covers as of `t`, in place of what is in `items`.
    pub(crate) fn items(
        &mut self,
        frame: &Frame,
        t: i64,
        items: &mut Vec<Item>,
    ) -> Result<(), DataFusionError> {
        items.clear();
        match frame.times(t, self.view.step_us()) {
            Some(mut times) if self.view.tiles.is_some() => {
                if let Some(span) = self.total_across(times.end) {
                    times.end = span.start_us;
                    self.is_rounded = true;
                }
                let width = times.end.saturating_sub(times.start);
                self.collect(self.ladder.top_level(width), times, items)?;
            }
            Some(times) => self.push_rows(items, &times),
            None => push_numbers(items, self.known.list(|times| frame.cover(times, t))),
        }
        Ok(())
    }

    fn push_rows(&self, items: &mut Vec<Item>, times: &Range<i64>) {
        let stretches = self.known.numbers(times);
        stretches.for_each(|numbers| push_numbers(items, numbers));
    }

    /// Whether an answer left events out that are known only in sum with later ones.
    pub(crate) fn is_rounded(&self) -> bool {
        self.is_rounded
    }

    /// The total whose span holds times on both sides of `end`.
    fn total_across(&self, end: i64) -> Option<Span> {
        let top = self.known.top_total()?;
        let mut spans = (0..=top).map(|level| self.ladder.span(level, end));
        spans.find(|span| {
            span.start_us < end && self.known.total(span.start_us, span.level).is_some()
        })
    }

    /// Whether `times`, which whole spans up to `top` may lie in, hold `enough` events: at most as many as a node of
    /// the lowest level needs, for a tile of a higher level counts as enough.
    fn hold(&self, top: u8, times: &Range<i64>, enough: u64) -> bool {
        if times.is_empty() {
            return enough == 0;
        }
        // Above the lowest level, a tile alone is enough.
        let has_tile = |level| {
            let first = self.stored.first_from(level, times.start);
            first.is_some_and(|(run, row)| {
                self.ladder.span(level, run.start(row)).end_us() <= times.end
            })
        };
        let levels = self.stored.levels().min(top.saturating_add(1));
        (1..levels).rev().any(has_tile)
            || self.known.events(times) + self.events_of_lowest_tiles(times) >= enough
    }

    /// How many events the lowest level's tiles in some times hold, but for those that are known one by one too, for
    /// another frame.
    fn events_of_lowest_tiles(&self, times: &Range<i64>) -> u64 {
        let mut events = 0;
        let mut from = times.start;
        while let Some((run, row)) = self.stored.first_from(0, from) {
            let span = self.ladder.span(0, run.start(row));
            if span.end_us() > times.end {
                break;
            }
            let of_tile = run.nodes().events(row..row + 1);
            events += of_tile.saturating_sub(self.known.events(&span.times()));
            from = span.end_us();
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
        if let Some(rows) = self.known.one_by_one(&times) {
            return self.collect_rows(level, times, rows, items);
        }
        let largest = self.largest_inside(level, &times);
        let least = self.view.dense_unit;
        match largest.filter(|(level, _)| self.hold(*level, &times, least)) {
            Some((level, whole)) => {
                let below = level.checked_sub(1);
                self.collect(below, times.start..whole.start, items)?;
                self.spans(level, &whole, items)?;
                self.collect(below, whole.end..times.end, items)
            }
            None => {
                self.push_rows(items, &times);
                Ok(())
            }
        }
    }

    /// The highest of the levels up to `top` of which whole spans lie in some times, and the times that they fill.
    fn largest_inside(&self, top: Option<u8>, times: &Range<i64>) -> Option<(u8, Range<i64>)> {
        let levels = (0..=top?).rev();
        let mut whole = levels.map(|level| (level, self.ladder.inner(level, times)));
        whole.find(|(_, whole)| !whole.is_empty())
    }

    /// As [`collect`](Self::collect), where all events of `times` are known one by one: they are `rows`.
    fn collect_rows(
        &mut self,
        level: Option<u8>,
        times: Range<i64>,
        rows: Range<usize>,
        items: &mut Vec<Item>,
    ) -> Result<(), DataFusionError> {
        let largest = match rows.len() as u64 >= self.view.dense_unit {
            true => self.largest_inside(level, &times),
            false => None,
        };
        let Some((level, whole)) = largest else {
            push_numbers(items, rows);
            return Ok(());
        };
        let below = level.checked_sub(1);
        let inner = self.known.among(&rows, &whole);
        let before = rows.start..inner.start;
        self.collect_rows(below, times.start..whole.start, before, items)?;
        self.span_rows(level, inner.clone(), items)?;
        self.collect_rows(below, whole.end..times.end, inner.end..rows.end, items)
    }

    /// As [`spans`](Self::spans), where all events are known one by one: they are `rows`.
    fn span_rows(
        &mut self,
        level: u8,
        mut rows: Range<usize>,
        items: &mut Vec<Item>,
    ) -> Result<(), DataFusionError> {
        while let Some(first) = self.known.first_time(&rows) {
            let span = self.ladder.span(level, first);
            let own = self.known.among(&rows, &span.times());
            rows.start = own.end;
            let node = match own.len() as u64 >= self.view.dense_at(level) {
                true => self.node_of_rows(span, own.clone())?,
                false => None,
            };
            match node {
                Some(node) => items.push(node.into()),
                None => self.collect_rows(level.checked_sub(1), span.times(), own, items)?,
            }
        }
        Ok(())
    }

    /// The node of a span whose events are known one by one: they are `rows`, and enough. None where there can be none.
    fn node_of_rows(
        &mut self,
        span: Span,
        rows: Range<usize>,
    ) -> Result<Option<Node>, DataFusionError> {
        let known = self.known.node(self.tag, span).flatten();
        if let Some(known) = known.or_else(|| self.stored.node(span)) {
            return Ok(Some(known));
        }
        let mut items = Vec::new();
        match span.level.checked_sub(1) {
            Some(below) => self.span_rows(below, rows, &mut items)?,
            None => push_numbers(&mut items, rows),
        }
        self.new_node(span, &items)
    }

    /// Makes the node of a span of what it consists of: none where an aggregate fails on it. What is in it then stands
    /// by itself, and only the aggregates that fail have no answer.
    fn new_node(&mut self, span: Span, items: &[Item]) -> Result<Option<Node>, DataFusionError> {
        let node = match self.sum_up(items) {
            Ok(nodes) => Some(Node::from(nodes)),
            Err(error) if is_of_values(&error) => None,
            Err(error) => return Err(error),
        };
        if self.keeps_nodes && node.is_some() {
            self.made.push(span);
        }
        self.note(span, node.clone());
        Ok(node)
    }

    /// Notes what was found out of a span.
    fn note(&mut self, span: Span, node: Option<Node>) {
        if !self.known.keep(self.tag, span, &node) {
            self.nodes.insert(span, node);
        }
    }

    /// The spans of a level in `times`, which they fill: nodes, or what they hold where they are none.
    fn spans(
        &mut self,
        level: u8,
        times: &Range<i64>,
        items: &mut Vec<Item>,
    ) -> Result<(), DataFusionError> {
        // A larger total goes before tiles.
        let may_be_tiles = self.known.top_total().is_none_or(|top| top <= level);
        let mut from = times.start;
        loop {
            if may_be_tiles {
                from = self.push_tiles(level, from..times.end, items);
            }
            let Some(time) = self.next_occupied(from..times.end) else {
                return Ok(());
            };
            let span = self.span(level, time);
            match self.node(span)? {
                Some(node) => items.push(node.into()),
                None => self.collect(span.level.checked_sub(1), span.times(), items)?,
            }
            from = span.end_us();
        }
    }

    /// The tiles of a level at the start of `times`, as far as each begins where the one before it ends. Returns where
    /// the last one ends.
    fn push_tiles(&self, level: u8, times: Range<i64>, items: &mut Vec<Item>) -> i64 {
        let mut from = times.start;
        while from < times.end {
            let Some((run, first)) = self.stored.first_from(level, from) else {
                break;
            };
            let mut next = first;
            while from < times.end && next < run.end() && run.start(next) == from {
                from = self.ladder.span(level, from).end_us();
                next += 1;
            }
            if next == first {
                break;
            }
            items.push(Item::Nodes(Arc::clone(run.nodes()), first..next));
        }
        from
    }

    /// The span of a level that holds `time`, or that of a larger total that begins there.
    fn span(&self, level: u8, time: i64) -> Span {
        let larger = self.known.level_above(time, level);
        self.ladder.span(larger.unwrap_or(level), time)
    }

    fn next_occupied(&self, times: Range<i64>) -> Option<i64> {
        if times.is_empty() {
            return None;
        }
        let of_level = |level| {
            let (run, row) = self.stored.first_from(level, times.start)?;
            Some(run.start(row)).filter(|start| *start < times.end)
        };
        let stored = (0..self.stored.levels()).filter_map(of_level);
        stored.chain(self.known.first_of(&times)).min()
    }

    /// What is known of a span that was looked at.
    fn looked_at(&self, span: Span) -> Option<Option<Node>> {
        let known = self.known.node(self.tag, span);
        known.or_else(|| self.nodes.get(&span).cloned())
    }

    /// The node of a span; none where it holds too few events to be one.
    fn node(&mut self, span: Span) -> Result<Option<Node>, DataFusionError> {
        if let Some(stored) = self.stored.node(span) {
            return Ok(Some(stored));
        }
        if let Some(known) = self.looked_at(span) {
            return Ok(known);
        }
        let times = span.times();
        let dense = self.view.dense_at(span.level);
        if let Some(total) = self.known.total(span.start_us, span.level) {
            let node = self.with_late(span, total.clone())?;
            self.note(span, Some(node.clone()));
            return Ok(Some(node));
        }
        if !self.hold(span.level, &times, dense) {
            self.note(span, None);
            return Ok(None);
        }
        let mut items = Vec::new();
        match span.level.checked_sub(1) {
            Some(below) => self.spans(below, &times, &mut items)?,
            None => self.push_rows(&mut items, &times),
        }
        self.new_node(span, &items)
    }

    /// A total with what came after it was made.
    fn with_late(&self, span: Span, total: Node) -> Result<Node, DataFusionError> {
        let mut items = vec![total.clone().into()];
        items.extend(self.inside(span).map(Item::from));
        self.push_rows(&mut items, &span.times());
        match items.len() {
            1 => Ok(total),
            _ => Ok(self.sum_up(&items)?.into()),
        }
    }

    /// Totals inside a span, but for its own.
    fn inside(&self, span: Span) -> impl Iterator<Item = Node> + '_ {
        let others = self.known.totals(span.times());
        others
            .filter(move |(key, _)| **key != (span.start_us, span.level))
            .map(|(_, node)| node.clone())
    }

    /// The spans whose rows are to be replaced by a total, and the totals: steps, and spans of any level that end at
    /// or before `old_us`.
    pub(crate) fn fold_spans(&mut self, old_us: i64) -> Result<Vec<(Span, Node)>, DataFusionError> {
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
        folded: &mut Vec<(Span, Node)>,
    ) -> Result<(), DataFusionError> {
        let mut from = times.start;
        while let Some(time) = self.next_occupied(from..times.end) {
            let span = self.span(level, time);
            let total = self.known.total(span.start_us, span.level);
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
        self.known.count(&span.times())
            + self.inside(span).count()
            + usize::from(self.known.total(span.start_us, span.level).is_some())
    }

    fn sum_up(&self, items: &[Item]) -> Result<Nodes, DataFusionError> {
        let events = items.iter().map(|item| match item {
            Item::Rows(rows) => rows.len() as u64,
            Item::Nodes(nodes, rows) => nodes.events(rows.clone()),
        });
        let mut state = Vec::new();
        for measure in &self.view.measures {
            match measure.kernel {
                Some(kernel) => state.extend(kernel.state(self.fold(kernel, measure, items)?)),
                None => state.extend(self.accumulate(measure, items)?.state()?),
            }
        }
        Nodes::one(events.sum(), &state)
    }

    /// A measure with a kernel over a frame's items.
    pub(crate) fn fold(
        &self,
        kernel: Kernel,
        measure: &Measure,
        items: &[Item],
    ) -> Result<Partial, DataFusionError> {
        kernel.fold(&self.known, &measure.state, items)
    }

    /// A count of distinct values over a frame's items.
    pub(crate) fn count_distinct(
        &self,
        distinct: Distinct,
        measure: &Measure,
        items: &[Item],
    ) -> Result<i64, DataFusionError> {
        distinct.count(&self.known, measure.state.start, items)
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
                // One by one: a sum of several is in another order.
                Item::Nodes(nodes, rows) => {
                    for row in rows.clone() {
                        accumulator.merge_batch(&nodes.state(row, measure.state.clone())?)?;
                    }
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
            Operand::Kept(index) => {
                let (kept, rows) = self.known.kept(rows);
                Ok(kept[*index].slice(rows.start, rows.len()))
            }
            Operand::Literal(value) => value.to_array_of_size(rows.len()),
        }
    }
}

/// Rows that follow each other are one item.
fn push_numbers(items: &mut Vec<Item>, rows: Range<usize>) {
    match items.last_mut() {
        _ if rows.is_empty() => {}
        Some(Item::Rows(last)) if last.end == rows.start => last.end = rows.end,
        _ => items.push(Item::Rows(rows)),
    }
}
