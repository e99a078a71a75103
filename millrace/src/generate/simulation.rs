//! The simulation: settings in, days of labelled payments out. Pure: no file, no clock.

use super::GenerateError;
use super::fraud::Frauds;
use super::population::{DAY_SECONDS, Population, SECOND};
use super::tables::DayTables;

/// What a data set is made from. Equal settings give equal payments on every machine.
///
/// The number of days decides only where the data set ends: the first 50 days of 100 are those of 50.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulationSettings {
    /// How many customers there are, each with one card.
    pub customers: u32,
    /// How many terminals there are. With fewer than about 500, a part of the customers has none within
    /// reach and pays nothing.
    pub terminals: u32,
    /// How many days are simulated.
    pub days: u32,
    /// Where all random draws start.
    pub seed: u64,
    /// The first microsecond of day 0, since 1970-01-01 UTC.
    pub start: i64,
    /// Microseconds from a payment to the moment when its label becomes known; not negative.
    pub label_delay: i64,
}

impl Default for SimulationSettings {
    /// The handbook's size, for 100 days from 2018-04-01, with labels after seven days.
    fn default() -> Self {
        Self {
            customers: 5_000,
            terminals: 10_000,
            days: 100,
            seed: 0,
            start: 1_522_540_800 * SECOND,
            label_delay: 7 * DAY_SECONDS * SECOND,
        }
    }
}

/// One payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// When it was made, in microseconds since 1970-01-01 UTC; always a whole second.
    pub event_time: i64,
    /// The customer's number, from 0.
    pub card: u32,
    /// How many payments of that card were drawn before it on that day. With the card and the day, it is
    /// what tells payments apart.
    pub(super) ordinal: u32,
    /// The terminal's number, from 0.
    pub terminal: u32,
    /// The amount in hundredths.
    pub cents: i64,
    /// Why it is fraud: 1 a large amount, 2 a compromised terminal, 3 a leaked card; 0 where it is not.
    pub scenario: u8,
}

impl Payment {
    /// The amount: the double that is nearest to it.
    pub fn amount(&self) -> f64 {
        self.cents as f64 / 100.0
    }

    /// Whether it is fraud.
    pub fn is_fraud(&self) -> bool {
        self.scenario != 0
    }
}

/// One day of payments.
#[derive(Clone, Debug)]
pub struct Day {
    /// The day's number, from 0.
    pub day: u32,
    /// The running number of its first payment; the others follow.
    pub first_tx_id: u64,
    /// The payments, in the order of time, then card.
    pub payments: Vec<Payment>,
    pub(super) label_delay: i64,
}

impl Day {
    /// The day as a batch of the transactions' stream and one of the labels' stream, row by row the same payments.
    ///
    /// # Errors
    /// Only where Arrow finds the columns not to fit each other, which is a defect.
    pub fn tables(&self) -> Result<DayTables, GenerateError> {
        DayTables::new(self)
    }
}

/// The card-payment simulation of the *Fraud Detection Handbook* (Le Borgne, Siblini, Lebichot, Bontempi:
/// "Reproducible Machine Learning for Credit Card Fraud Detection – Practical Handbook", chapter 3).
///
/// It differs from the handbook's code in the random numbers, and in this: a day does not depend on how
/// many follow it. So terminals and cards fall to fraud on the last day too, and the third of a leaked
/// card's payments is drawn from its whole fortnight where the data set ends before. At other sizes than
/// the handbook's 5,000 customers and 10,000 terminals, as many of them fall to fraud each day in proportion.
pub struct Simulation {
    settings: SimulationSettings,
    population: Population,
    frauds: Frauds,
}

impl Simulation {
    /// Places the customers and terminals.
    ///
    /// # Errors
    /// `GenerateError::Input` where a label's time would not fit into a timestamp, or lies before its payment.
    pub fn new(settings: SimulationSettings) -> Result<Self, GenerateError> {
        check_times(&settings)?;
        let SimulationSettings {
            customers,
            terminals,
            seed,
            start,
            ..
        } = settings;
        let population = Population::new(seed, start, customers, terminals);
        let frauds = Frauds::new(seed, customers, terminals);
        Ok(Self {
            settings,
            population,
            frauds,
        })
    }

    /// What the simulation was made from.
    pub fn settings(&self) -> &SimulationSettings {
        &self.settings
    }

    /// The days, one after the other.
    pub fn days(&self) -> impl Iterator<Item = Day> + '_ {
        let mut next_tx_id = 0;
        (0..self.settings.days).map(move |day| {
            let payments = self.payments(day);
            let first_tx_id = next_tx_id;
            next_tx_id += payments.len() as u64;
            Day {
                day,
                first_tx_id,
                payments,
                label_delay: self.settings.label_delay,
            }
        })
    }

    /// The payments of one day, in the order of time, then card. A function of the settings and the day: days
    /// may be asked for in any order, on any thread.
    pub fn payments(&self, day: u32) -> Vec<Payment> {
        let frauds = self.frauds.on(&self.population, day);
        let mut payments = Vec::with_capacity(self.settings.customers as usize * 2);
        for customer in 0..self.population.customers() {
            self.population.payments(customer, day, |mut payment| {
                frauds.mark(&mut payment);
                payments.push(payment);
            });
        }
        payments
            .sort_unstable_by_key(|payment| (payment.event_time, payment.card, payment.ordinal));
        payments
    }
}

/// Refuses labels that would be later than a timestamp can say, or known before their payments.
fn check_times(settings: &SimulationSettings) -> Result<(), GenerateError> {
    if settings.label_delay < 0 {
        return refuse("a label cannot be known before its payment: the label delay is negative");
    }
    let end = i64::from(settings.days)
        .checked_mul(DAY_SECONDS * SECOND)
        .and_then(|length| settings.start.checked_add(length))
        .and_then(|end| end.checked_add(settings.label_delay));
    match end {
        Some(_) => Ok(()),
        None => refuse(
            "the last label would be later than a timestamp can say: take fewer days, an earlier start or a \
             shorter label delay",
        ),
    }
}

fn refuse(reason: &str) -> Result<(), GenerateError> {
    Err(GenerateError::Input(reason.to_owned()))
}
