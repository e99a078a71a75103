//! Which payments of a day are fraud, and why: the three scenarios of the handbook.
//!
//! | scenario | rule |
//! |---|---|
//! | 1 | the amount is over 220 |
//! | 2 | each day some terminals are compromised: all that is paid there in the next 28 days is fraud |
//! | 3 | each day some cards leak: of their payments in the next 14 days a third is fraud, with 5 times the amount |
//!
//! A later rule overrides an earlier one, as in the handbook's code, and a payment that two leaks pick has
//! 25 times its amount. All of a day's frauds follow from the seed and the day, so days may be asked for in
//! any order, for an eighth more work than the payments alone.

use std::collections::BTreeSet;

use super::Payment;
use super::draw::{Draw, Purpose};
use super::population::Population;

/// Above this amount, in cents, a payment is fraud.
const LIMIT_CENTS: i64 = 22_000;

/// Days that a compromised terminal stays so, and days that a leaked card is used.
const TERMINAL_DAYS: u32 = 28;
const CARD_DAYS: u32 = 14;

/// Of this many payments with leaked cards, one is fraud, with so many times the amount.
const LEAKED_SHARE: usize = 3;
const LEAKED_FACTOR: i64 = 5;

/// Draws the frauds of any day.
pub(super) struct Frauds {
    seed: u64,
    terminals: Quota,
    cards: Quota,
}

impl Frauds {
    pub(super) fn new(seed: u64, customers: u32, terminals: u32) -> Self {
        Self {
            seed,
            terminals: Quota::new(seed, Purpose::CompromisedTerminals, 2, 10_000, terminals),
            cards: Quota::new(seed, Purpose::LeakedCards, 3, 5_000, customers),
        }
    }

    /// What is fraud on `day`.
    pub(super) fn on(&self, population: &Population, day: u32) -> DayFrauds {
        let first = day.saturating_sub(TERMINAL_DAYS - 1);
        let mut terminals: Vec<u32> = (first..=day)
            .flat_map(|from| self.compromised(from))
            .collect();
        terminals.sort_unstable();
        let first = day.saturating_sub(CARD_DAYS - 1);
        let leaks = (first..=day).flat_map(|from| self.leak(population, from));
        let mut leaked: Vec<(u32, u32)> =
            leaks.filter(|p| p.0 == day).map(|p| (p.1, p.2)).collect();
        leaked.sort_unstable();
        DayFrauds { terminals, leaked }
    }

    /// The terminals that become compromised on `day`.
    fn compromised(&self, day: u32) -> BTreeSet<u32> {
        let mut draw = Draw::new(self.seed, Purpose::CompromisedTerminals, 0, u64::from(day));
        self.terminals.sample(day, &mut draw)
    }

    /// The fraudulent payments, as (day, card, ordinal), of the cards that leak on `day`: a third, rounded
    /// down, of all that these cards pay in the days to come.
    fn leak(&self, population: &Population, day: u32) -> Vec<(u32, u32, u32)> {
        let mut draw = Draw::new(self.seed, Purpose::LeakedCards, 0, u64::from(day));
        let mut payments = Vec::new();
        for card in self.cards.sample(day, &mut draw) {
            for day in day..day.saturating_add(CARD_DAYS) {
                population.payments(card, day, |payment| {
                    payments.push((day, card, payment.ordinal))
                });
            }
        }
        let frauds = payments.len() / LEAKED_SHARE;
        for i in 0..frauds {
            let rest = (payments.len() - i) as u32;
            payments.swap(i, i + draw.below(rest) as usize);
        }
        payments.truncate(frauds);
        payments
    }
}

/// What is fraud on one day, besides large amounts.
pub(super) struct DayFrauds {
    /// The compromised terminals, sorted.
    terminals: Vec<u32>,
    /// Card and ordinal of the fraudulent payments with leaked cards, sorted, once for each leak.
    leaked: Vec<(u32, u32)>,
}

impl DayFrauds {
    /// Gives a genuine payment of that day the scenario, and the amount, that it has in the end.
    pub(super) fn mark(&self, payment: &mut Payment) {
        if payment.cents > LIMIT_CENTS {
            payment.scenario = 1;
        }
        if self.terminals.binary_search(&payment.terminal).is_ok() {
            payment.scenario = 2;
        }
        let key = (payment.card, payment.ordinal);
        let first = self.leaked.partition_point(|leaked| *leaked < key);
        for _ in self.leaked[first..]
            .iter()
            .take_while(|leaked| **leaked == key)
        {
            payment.scenario = 3;
            payment.cents *= LEAKED_FACTOR;
        }
    }
}

/// How many of a population fall to fraud each day: the handbook's `count` a day for each `per` that there are.
///
/// At the handbook's size that is `count` exactly. At any other size the daily number goes up and down by
/// one so that its running total is in proportion, and the share of fraud stays the same.
struct Quota {
    population: u32,
    count: u64,
    per: u64,
    /// In 0..per, from the seed: at a small size, decides on which day the first one falls.
    offset: u64,
}

impl Quota {
    fn new(seed: u64, purpose: Purpose, count: u64, per: u32, population: u32) -> Self {
        let offset = Draw::new(seed, Purpose::Quota, purpose as u64, 0).below(per);
        Self {
            population,
            count,
            per: u64::from(per),
            offset: u64::from(offset),
        }
    }

    fn on(&self, day: u32) -> usize {
        let total =
            |days: u64| (days * self.count * u64::from(self.population) + self.offset) / self.per;
        (total(u64::from(day) + 1) - total(u64::from(day))) as usize
    }

    /// That day's members of the population, without repetition.
    fn sample(&self, day: u32, draw: &mut Draw) -> BTreeSet<u32> {
        let count = self.on(day);
        let mut sample = BTreeSet::new();
        while sample.len() < count {
            sample.insert(draw.below(self.population));
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(count: u64, per: u32, population: u32, days: u32) -> Vec<usize> {
        let quota = Quota::new(3, Purpose::LeakedCards, count, per, population);
        (0..days).map(|day| quota.on(day)).collect()
    }

    #[test]
    fn the_handbooks_size_has_the_handbooks_numbers() {
        for seed in 0..50 {
            let frauds = Frauds::new(seed, 5_000, 10_000);
            assert!((0..400).all(|day| frauds.terminals.on(day) == 2 && frauds.cards.on(day) == 3));
        }
    }

    #[test]
    fn other_sizes_keep_the_proportion() {
        assert_eq!(quotas(3, 5_000, 500, 1_000).iter().sum::<usize>(), 300);
        assert_eq!(quotas(3, 5_000, 7_500, 1_000).iter().sum::<usize>(), 4_500);
        assert!(
            quotas(3, 5_000, 7_500, 1_000)
                .iter()
                .all(|n| [4, 5].contains(n))
        );
        assert!(quotas(2, 10_000, 1, 20_000).iter().all(|&n| n <= 1));
    }

    #[test]
    fn a_sample_has_no_repetition_and_stays_in_the_population() {
        let frauds = Frauds::new(1, 20_000, 100_000);
        let sample = frauds.compromised(9);
        assert_eq!(sample.len(), 20);
        assert!(sample.iter().all(|&terminal| terminal < 100_000));
        assert_ne!(sample, frauds.compromised(10));
    }

    fn payment(cents: i64, terminal: u32, ordinal: u32) -> Payment {
        Payment {
            event_time: 0,
            card: 1,
            ordinal,
            terminal,
            cents,
            scenario: 0,
        }
    }

    #[test]
    fn later_scenarios_override_earlier_ones() {
        let frauds = DayFrauds {
            terminals: vec![4, 9],
            leaked: vec![(0, 7), (1, 0), (1, 2), (1, 2), (2, 1)],
        };
        let check = |mut payment: Payment, scenario, cents| {
            frauds.mark(&mut payment);
            assert_eq!(
                (payment.scenario, payment.cents),
                (scenario, cents),
                "{payment:?}"
            );
        };
        check(payment(22_000, 5, 1), 0, 22_000);
        check(payment(22_001, 5, 1), 1, 22_001);
        check(payment(22_001, 9, 1), 2, 22_001);
        check(payment(100, 4, 1), 2, 100);
        check(payment(100, 4, 0), 3, 500);
        check(payment(30_000, 5, 0), 3, 150_000);
        check(payment(100, 5, 2), 3, 2_500);
        check(payment(100, 5, 7), 0, 100);
    }

    /// A leak takes a third of what its cards pay in its fortnight, counted here by going through all days.
    #[test]
    fn a_leak_is_a_third_of_the_fortnight() {
        let population = Population::new(5, 0, 1_000, 2_000);
        let frauds = Frauds::new(5, 1_000, 2_000);
        let mut leaks = 0;
        for day in (0..10).filter(|&day| frauds.cards.on(day) > 0) {
            let cards = frauds.cards.sample(
                day,
                &mut Draw::new(5, Purpose::LeakedCards, 0, u64::from(day)),
            );
            let mut fortnight = BTreeSet::new();
            for (d, card) in (day..day + 14).flat_map(|d| (0..1_000).map(move |card| (d, card))) {
                population.payments(card, d, |payment| {
                    if cards.contains(&payment.card) {
                        fortnight.insert((d, payment.card, payment.ordinal));
                    }
                });
            }
            let leaked = frauds.leak(&population, day);
            let distinct: BTreeSet<_> = leaked.iter().copied().collect();
            assert_eq!(
                (leaked.len(), distinct.len()),
                (fortnight.len() / 3, fortnight.len() / 3)
            );
            assert!(distinct.is_subset(&fortnight));
            leaks += leaked.len();
        }
        assert!(leaks > 10, "{leaks}");
    }
}
