//! What look-ups of one entity read of its state: tiles inside the frames' times, rows at their edges and where no tile
//! is, and for frames of rows a list of the last ones.

use std::ops::Range;
use std::sync::Arc;

use crate::FeatureError;
use crate::events::{Events, ReadTiles, Stretches, Tiles};
use crate::frame::Frame;
use crate::history::History;
use crate::state::{BestRead, StateReader};
use crate::tile::TileCodec;
use crate::view::FeatureView;

/// Reads what look-ups as of `asked` (not empty) need.
///
/// # Errors
/// A state that cannot be read, or is damaged.
pub(crate) fn load<'a>(
    view: &'a FeatureView,
    state: &dyn StateReader,
    entity: &[u8],
    asked: &[i64],
) -> Result<History<'a>, FeatureError> {
    let oldest = asked.iter().copied().min().unwrap_or(i64::MIN);
    let newest = asked.iter().copied().max().unwrap_or(i64::MAX);
    let starts = view.frames.iter().filter_map(|frame| {
        let times = frame.times(oldest, view.step_us())?;
        Some(times.start)
    });
    let from = starts.min();
    let are_by_time = !view.frames.iter().any(|f| matches!(f, Frame::Rows { .. }));
    if let Some(from) = from.filter(|_| are_by_time) {
        // With all events at hand, tiles are neither read nor worth making: their sums are kept beside the events.
        if let Some(events) = kept_events(view, state, entity, from..i64::MAX)? {
            return Ok(History::of_read(
                view,
                Stretches::all(events),
                ReadTiles::default(),
                false,
            ));
        }
    }
    let read = match (&view.tiles, from) {
        (Some(_), Some(from)) => state.best_read(view.id, entity, from)?,
        _ => BestRead::Rows,
    };
    let mut plan = Plan {
        view,
        state,
        entity,
        read,
        list: None,
        rows: Vec::new(),
        stored: ReadTiles::default(),
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

/// What to read for some look-ups.
struct Plan<'a, 'b> {
    view: &'a FeatureView,
    state: &'b dyn StateReader,
    entity: &'b [u8],
    read: BestRead,
    /// The times that frames of rows list.
    list: Option<Range<i64>>,
    /// Times whose rows frames of times need.
    rows: Vec<Range<i64>>,
    stored: ReadTiles,
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
            let start = self.list.as_ref().map_or(start, |l| l.start.min(start));
            self.list = Some(start..newest);
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
        let mut scanned: Vec<((u8, i64), Vec<u8>)> = Vec::new();
        let mut scans = Vec::new();
        // Where the highest level is not kept decoded yet, no other is asked for: this is one look-up.
        let mut are_kept = true;
        for level in (0..=top).rev() {
            let wanted = open.iter().flatten();
            let wanted = wanted.map(|times| ladder.inner(level, times)).collect();
            let mut found = Vec::new();
            for starts in united(wanted) {
                let kept = match are_kept {
                    true => self.kept_tiles(codec, level, starts.clone())?,
                    false => None,
                };
                are_kept &= kept.is_some() || !self.stored.is_empty();
                if let Some(kept) = kept {
                    let run = kept.run(level, &starts);
                    found.extend(run.starts());
                    self.stored.push(level, run);
                    continue;
                }
                scans.push((level, starts.clone()));
                let mut keep = |start, value: &[u8]| {
                    if codec.is_current(value) {
                        found.push(start);
                        scanned.push(((level, start), value.to_vec()));
                    }
                };
                self.state
                    .tiles(self.view.id, self.entity, level, starts, &mut keep)?;
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
        let rows = scanned.iter();
        let rows = rows.map(|(place, value)| (*place, value.as_slice()));
        let tiles = Tiles::of_rows(codec, rows).map_err(|detail| self.view.damaged(detail))?;
        let tiles = Arc::new(tiles);
        for (level, starts) in scans {
            self.stored.push(level, tiles.run(level, &starts));
        }
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

    /// All tiles of a level that start in some times and perhaps others, where the state keeps them decoded.
    fn kept_tiles(
        &self,
        codec: &TileCodec,
        level: u8,
        starts: Range<i64>,
    ) -> Result<Option<Arc<Tiles>>, FeatureError> {
        let id = self.view.id;
        let mut make = |rows: &mut dyn Iterator<Item = ((u8, i64), &[u8])>| {
            // One that is damaged is found where it is needed.
            Some(Tiles::of_rows(codec, rows).ok()?.made())
        };
        let made = self
            .state
            .made_of_tiles(id, self.entity, level, starts, &mut make)?;
        let tiles = made.and_then(|made| made.value.downcast::<Tiles>().ok());
        Ok(tiles.filter(|tiles| tiles.are_of(codec)))
    }

    fn read(mut self) -> Result<History<'a>, FeatureError> {
        let (view, state) = (self.view, self.state);
        let wanted = united(std::mem::take(&mut self.rows));
        let mut parts = Vec::with_capacity(wanted.len());
        // All are asked for before any is read: what is read twice is kept, and this is one look-up.
        for times in wanted {
            let kept = match self.read {
                BestRead::Rows => None,
                BestRead::Tiles(_) => kept_events(view, state, self.entity, times.clone())?,
            };
            parts.push((times, kept));
        }
        let others = parts.iter().filter(|(_, kept)| kept.is_none());
        let others = self.scan(others.map(|(times, _)| times))?;
        let mut known = Stretches::default();
        for (times, kept) in parts {
            known.push(kept.unwrap_or_else(|| Arc::clone(&others)), times);
        }
        if let Some(list) = &self.list {
            known.push_list(self.scan([list])?);
        }
        let keeps_nodes = self.read != BestRead::Rows;
        Ok(History::of_read(view, known, self.stored, keeps_nodes))
    }

    /// The rows of some times, which ascend.
    fn scan<'t>(
        &self,
        ranges: impl IntoIterator<Item = &'t Range<i64>>,
    ) -> Result<Arc<Events>, FeatureError> {
        let mut times = Vec::new();
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for range in ranges {
            let (view, range) = (self.view.id, range.clone());
            self.state
                .scan(view, self.entity, range, &mut |time, value| {
                    times.push(time);
                    bytes.extend_from_slice(value);
                    ends.push(bytes.len());
                    true
                })?;
        }
        if ends.is_empty() {
            return Ok(Arc::new(Events::new(Vec::new(), Vec::new())));
        }
        let starts = [0].into_iter().chain(ends.iter().copied());
        let values = starts.zip(&ends).map(|(start, end)| &bytes[start..*end]);
        let events = Events::of_rows(self.view, times.into_iter().zip(values));
        Ok(Arc::new(
            events.map_err(|detail| self.view.damaged(detail))?,
        ))
    }
}

/// All events of some times and perhaps others, where the state keeps them as they are needed here.
fn kept_events(
    view: &FeatureView,
    state: &dyn StateReader,
    entity: &[u8],
    times: Range<i64>,
) -> Result<Option<Arc<Events>>, FeatureError> {
    let made = state.made(view.id, entity, times, &mut |rows| {
        // One that is damaged is found where it is needed.
        Some(Events::of_rows(view, rows).ok()?.made())
    })?;
    Ok(made.and_then(|made| made.value.downcast().ok()))
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
