//! The people and the shops of the simulation, and what a customer buys on a day before anyone cheats.
//!
//! Frauds are laid over these payments in the neighbour `fraud`.

use super::Payment;
use super::draw::{Draw, Purpose};

/// Microseconds in a second and seconds in a day.
pub(super) const SECOND: i64 = 1_000_000;
pub(super) const DAY_SECONDS: i64 = 86_400;

/// Customers and terminals live on a square with this side.
const SQUARE: f64 = 100.0;

/// A customer pays at terminals that are nearer than this.
const RADIUS: f64 = 5.0;

/// The standard deviation, in seconds, of the time of day of a payment around noon.
const TIME_SPREAD: f64 = 20_000.0;

/// All customers and terminals.
pub(super) struct Population {
    seed: u64,
    start: i64,
    customers: Vec<Customer>,
    terminals: TerminalMap,
}

struct Customer {
    place: Place,
    /// Mean amount of a payment. The standard deviation is half of it.
    mean_amount: f64,
    /// exp(−mean payments a day), which is what a Poisson draw needs.
    exp_minus_rate: f64,
    /// Whether any terminal is near enough. Who reaches none pays nothing.
    reaches_a_terminal: bool,
}

impl Population {
    /// `start` is the first microsecond of day 0.
    pub(super) fn new(seed: u64, start: i64, customers: u32, terminals: u32) -> Self {
        let terminals = TerminalMap::new(
            (0..terminals)
                .map(|terminal| {
                    let mut draw = Draw::new(seed, Purpose::Terminal, u64::from(terminal), 0);
                    Place::draw(&mut draw)
                })
                .collect(),
        );
        let customers = (0..customers)
            .map(|customer| Customer::draw(seed, customer, &terminals))
            .collect();
        Self {
            seed,
            start,
            customers,
            terminals,
        }
    }

    pub(super) fn customers(&self) -> u32 {
        self.customers.len() as u32
    }

    /// The genuine payments of `customer` on `day`, in the order in which they are drawn, which is not that of time.
    pub(super) fn payments(&self, customer: u32, day: u32, mut emit: impl FnMut(Payment)) {
        let profile = &self.customers[customer as usize];
        if !profile.reaches_a_terminal {
            return;
        }
        let mut draw = Draw::new(
            self.seed,
            Purpose::Payments,
            u64::from(customer),
            u64::from(day),
        );
        let attempts = draw.poisson(profile.exp_minus_rate);
        if attempts == 0 {
            return;
        }
        let midnight = self.start + i64::from(day) * DAY_SECONDS * SECOND;
        let near = self.terminals.near(profile.place);
        let mut ordinal = 0;
        for _ in 0..attempts {
            let (for_time, for_amount) = draw.normal_pair();
            let Some(second) = second_of_day(for_time) else {
                continue;
            };
            let cents = profile.cents(for_amount, &mut draw);
            let terminal = self.terminals.pick(&near, profile.place, &mut draw);
            let event_time = midnight + second * SECOND;
            emit(Payment {
                event_time,
                card: customer,
                ordinal,
                terminal,
                cents,
                scenario: 0,
            });
            ordinal += 1;
        }
    }
}

impl Customer {
    fn draw(seed: u64, customer: u32, terminals: &TerminalMap) -> Self {
        let mut draw = Draw::new(seed, Purpose::Customer, u64::from(customer), 0);
        let place = Place::draw(&mut draw);
        let mean_amount = draw.uniform(5.0, 100.0);
        let exp_minus_rate = libm::exp(-draw.uniform(0.0, 4.0));
        Self {
            place,
            mean_amount,
            exp_minus_rate,
            reaches_a_terminal: terminals.any_within_radius(place),
        }
    }

    /// An amount in whole cents: normal around the mean, and, where that is negative, uniform up to twice the mean.
    fn cents(&self, normal: f64, draw: &mut Draw) -> i64 {
        let amount = self.mean_amount + self.mean_amount / 2.0 * normal;
        let amount = if amount < 0.0 {
            draw.uniform(0.0, 2.0 * self.mean_amount)
        } else {
            amount
        };
        (amount * 100.0).round_ties_even() as i64
    }
}

/// The whole second of the day of a payment, or none where the normal draw falls outside the day.
fn second_of_day(normal: f64) -> Option<i64> {
    let second = (DAY_SECONDS as f64 / 2.0 + TIME_SPREAD * normal) as i64;
    (0 < second && second < DAY_SECONDS).then_some(second)
}

/// A point on the square.
#[derive(Clone, Copy, Debug)]
struct Place {
    x: f64,
    y: f64,
}

impl Place {
    fn draw(draw: &mut Draw) -> Self {
        Self {
            x: draw.uniform(0.0, SQUARE),
            y: draw.uniform(0.0, SQUARE),
        }
    }

    fn within_radius(self, other: Self) -> bool {
        let (dx, dy) = (self.x - other.x, self.y - other.y);
        dx * dx + dy * dy < RADIUS * RADIUS
    }
}

/// Cells along one side of the map, each one unit wide.
const CELLS: usize = SQUARE as usize;

/// Rows of cells that a circle of `RADIUS` may touch.
const NEAR_ROWS: usize = 2 * RADIUS as usize + 1;

/// The terminals by place: sorted by cell of a grid, row by row, so that the cells of one row that are
/// next to each other are one range.
///
/// ```text
///   ┌─┬─┬─┬─┬─┬─┐   The square of cells around a customer is one range a row. A terminal is picked
///   │ │▒│▒│▒│▒│ │   uniformly from these ranges, again and again until it lies in the circle: uniform
///   │ │▒│▒│☺│▒│ │   over the circle, with no list of terminals a customer, whatever their number.
///   │ │▒│▒│▒│▒│ │   About two picks in three are in the circle.
///   └─┴─┴─┴─┴─┴─┘
/// ```
struct TerminalMap {
    /// Number and place of each terminal, sorted by cell.
    terminals: Vec<(u32, Place)>,
    /// Where each cell starts in `terminals`, and, last, where the last one ends.
    cell_starts: Vec<u32>,
}

/// The ranges of terminals around one place: for each row, where it starts and how many terminals this
/// row and those before it have.
struct Near {
    starts: [u32; NEAR_ROWS],
    totals: [u32; NEAR_ROWS],
}

impl TerminalMap {
    fn new(places: Vec<Place>) -> Self {
        let mut terminals: Vec<(u32, Place)> = (0_u32..).zip(places).collect();
        terminals.sort_by_key(|&(terminal, place)| (cell(place), terminal));
        let mut cell_starts = vec![0; CELLS * CELLS + 1];
        terminals
            .iter()
            .for_each(|&(_, place)| cell_starts[cell(place) + 1] += 1);
        for cell in 0..CELLS * CELLS {
            cell_starts[cell + 1] += cell_starts[cell];
        }
        Self {
            terminals,
            cell_starts,
        }
    }

    fn near(&self, place: Place) -> Near {
        let (left, right) = span(place.x);
        let (bottom, top) = span(place.y);
        let mut near = Near {
            starts: [0; NEAR_ROWS],
            totals: [0; NEAR_ROWS],
        };
        let mut total = 0;
        for i in 0..NEAR_ROWS {
            if bottom + i <= top {
                let row = (bottom + i) * CELLS;
                near.starts[i] = self.cell_starts[row + left];
                total += self.cell_starts[row + right + 1] - near.starts[i];
            }
            near.totals[i] = total;
        }
        near
    }

    /// A terminal within the radius of `place`, each as likely as the other. There must be one.
    fn pick(&self, near: &Near, place: Place, draw: &mut Draw) -> u32 {
        loop {
            let pick = draw.below(near.totals[NEAR_ROWS - 1]);
            let (terminal, at) = self.terminals[near.position(pick)];
            if place.within_radius(at) {
                return terminal;
            }
        }
    }

    fn any_within_radius(&self, place: Place) -> bool {
        let near = self.near(place);
        (0..near.totals[NEAR_ROWS - 1])
            .any(|pick| place.within_radius(self.terminals[near.position(pick)].1))
    }
}

impl Near {
    /// Where the `pick`th terminal of all the rows stands in `TerminalMap::terminals`.
    fn position(&self, pick: u32) -> usize {
        let row = self
            .totals
            .iter()
            .take_while(|&&total| total <= pick)
            .count();
        let before = if row == 0 { 0 } else { self.totals[row - 1] };
        (self.starts[row] + pick - before) as usize
    }
}

fn cell(place: Place) -> usize {
    line(place.y) * CELLS + line(place.x)
}

/// First and last row (or column) of cells that the circle around a coordinate may touch.
fn span(coordinate: f64) -> (usize, usize) {
    (
        line((coordinate - RADIUS).max(0.0)),
        line(coordinate + RADIUS),
    )
}

/// The row (or column) of cells of a coordinate that is not negative.
fn line(coordinate: f64) -> usize {
    (coordinate as usize).min(CELLS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SEED: u64 = 11;

    fn places(n: u32) -> Vec<Place> {
        (0..n)
            .map(|i| Place::draw(&mut Draw::new(SEED, Purpose::Terminal, u64::from(i), 0)))
            .collect()
    }

    /// The map's picks are the terminals that a look at every terminal finds, and all of them.
    #[test]
    fn picks_are_those_of_a_full_search() {
        let corners =
            [(0.0, 0.0), (99.999, 99.999), (0.0, 50.0), (3.2, 99.9)].map(|(x, y)| Place { x, y });
        for terminals in [1, 30, 2_000] {
            let places = places(terminals);
            let map = TerminalMap::new(places.clone());
            let mut draw = Draw::new(SEED, Purpose::Customer, 1, 0);
            let around: Vec<Place> = (0..100)
                .map(|_| Place::draw(&mut draw))
                .chain(corners)
                .collect();
            for at in around {
                let expected: BTreeSet<u32> = (0..terminals)
                    .filter(|&t| at.within_radius(places[t as usize]))
                    .collect();
                assert_eq!(
                    map.any_within_radius(at),
                    !expected.is_empty(),
                    "seed {SEED} at {at:?}"
                );
                if expected.is_empty() {
                    continue;
                }
                let picks =
                    (0..expected.len() * 20).map(|_| map.pick(&map.near(at), at, &mut draw));
                assert_eq!(
                    picks.collect::<BTreeSet<u32>>(),
                    expected,
                    "seed {SEED} at {at:?}"
                );
            }
        }
    }

    #[test]
    fn picks_are_uniform() {
        let places = places(200);
        let map = TerminalMap::new(places);
        let at = Place { x: 50.0, y: 50.0 };
        let near = map.near(at);
        let mut counts = std::collections::BTreeMap::new();
        let mut draw = Draw::new(SEED, Purpose::Customer, 2, 0);
        (0..40_000).for_each(|_| *counts.entry(map.pick(&near, at, &mut draw)).or_insert(0) += 1);
        let expected = 40_000 / counts.len() as i64;
        let margin = 5 * expected.isqrt();
        assert!(
            counts.len() > 1 && counts.values().all(|n: &i64| (n - expected).abs() < margin),
            "{counts:?}"
        );
    }

    #[test]
    fn times_stay_within_the_day() {
        assert_eq!(second_of_day(0.0), Some(43_200));
        assert_eq!(second_of_day(1.0), Some(63_200));
        assert_eq!(second_of_day(-2.16), None); // 0: the day's first second is excluded
        assert_eq!(second_of_day(-2.159_96), None); // 0.8, rounded down
        assert_eq!(second_of_day(-2.159_9), Some(2));
        assert_eq!(second_of_day(2.16), None);
    }

    #[test]
    fn who_reaches_no_terminal_pays_nothing() {
        let population = Population::new(SEED, 0, 500, 3);
        for customer in 0..500 {
            let mut payments = 0;
            (0..20).for_each(|day| population.payments(customer, day, |_| payments += 1));
            assert!(payments == 0 || population.customers[customer as usize].reaches_a_terminal);
        }
        let reaching = population
            .customers
            .iter()
            .filter(|c| c.reaches_a_terminal)
            .count();
        assert!((1..100).contains(&reaching), "{reaching}");
    }
}
