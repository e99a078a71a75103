//! Random draws that are the same on every machine.
//!
//! Each thing that is drawn (a customer, a terminal, a customer's day) has a stream of its own, found
//! from the seed and what it is for. So a day can be drawn before the day ahead of it, by any thread,
//! and one more customer changes nothing about the others. The logarithm, the sine and the exponential
//! are `libm`'s: those of `std` are the platform's, and differ in the last bit between platforms.

use rand::RngCore;
use rand_pcg::Pcg64;

/// What a stream of draws is for. The numbers are part of the format: another number is another data set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Customer = 1,
    Terminal = 2,
    Payments = 3,
    CompromisedTerminals = 4,
    LeakedCards = 5,
    Quota = 6,
}

/// One stream of draws.
pub(crate) struct Draw(Pcg64);

impl Draw {
    /// The stream of `purpose` for `entity` on `day`, zero where there is none.
    pub(crate) fn new(seed: u64, purpose: Purpose, entity: u64, day: u64) -> Self {
        let purpose_hash = mix(seed.wrapping_add((purpose as u64).wrapping_mul(GOLDEN_RATIO)));
        let entity_hash = mix(purpose_hash.wrapping_add(entity));
        let high = mix(entity_hash.wrapping_add(day));
        let low = mix(high.wrapping_add(GOLDEN_RATIO));
        let state = (u128::from(high) << 64) | u128::from(low);
        Self(Pcg64::new(state, PCG_STREAM))
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub(super) fn unit(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.0.next_u64() >> 11) as f64 * STEP
    }

    /// Uniform in [low, high).
    pub(super) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n, by multiplication and shift: its bias is below n / 2⁶⁴. Zero where n is zero.
    pub(super) fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u32
    }

    /// Two independent draws from the standard normal distribution (Box and Muller, 1958).
    pub(super) fn normal_pair(&mut self) -> (f64, f64) {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * self.unit());
        (radius * cosine, radius * sine)
    }

    /// A draw from the Poisson distribution, given exp(−mean) (Knuth, "The Art of Computer Programming",
    /// vol. 2, 3.4.1). Takes mean + 1 uniform draws on average.
    pub(crate) fn poisson(&mut self, exp_minus_mean: f64) -> u32 {
        let mut count = 0;
        let mut product = self.unit();
        while product > exp_minus_mean {
            count += 1;
            product *= self.unit();
        }
        count
    }
}

/// 2⁶⁴ divided by the golden ratio: the step of SplitMix64.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// The increment that the authors of PCG give as the default.
const PCG_STREAM: u128 = 0x0a02_bdbf_7bb3_c0a7_ac28_fa16_a64a_bf96;

/// One step of SplitMix64 (Steele, Lea, Flood, 2014): every bit of the answer depends on every bit of the word.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(GOLDEN_RATIO);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;

    /// Mean and variance of what `draw` gives.
    fn moments(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let values: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
        let mean = values.iter().sum::<f64>() / DRAWS as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / DRAWS as f64;
        (mean, variance)
    }

    /// Five standard errors of the mean, wide enough for a fixed seed and narrow enough to find a wrong formula.
    #[track_caller]
    fn check((mean, variance): (f64, f64), expected_mean: f64, expected_variance: f64) {
        let margin = 5.0 * (expected_variance / DRAWS as f64).sqrt();
        assert!(
            (mean - expected_mean).abs() < margin,
            "mean {mean}, not {expected_mean} ± {margin}"
        );
        let ratio = variance / expected_variance;
        assert!(
            (ratio - 1.0).abs() < 0.02,
            "variance {variance}, not {expected_variance}"
        );
    }

    #[test]
    fn the_distributions_have_their_moments() {
        let mut draw = Draw::new(7, Purpose::Payments, 0, 0);
        check(
            moments(|| draw.uniform(5.0, 100.0)),
            52.5,
            95.0 * 95.0 / 12.0,
        );
        check(moments(|| f64::from(draw.below(10))), 4.5, 99.0 / 12.0);
        check(moments(|| draw.normal_pair().0), 0.0, 1.0);
        check(moments(|| draw.normal_pair().1), 0.0, 1.0);
        for mean in [0.1, 1.0, 4.0] {
            let exp_minus_mean = libm::exp(-mean);
            check(
                moments(|| f64::from(draw.poisson(exp_minus_mean))),
                mean,
                mean,
            );
        }
    }

    #[test]
    fn the_pair_of_normals_is_uncorrelated() {
        let mut draw = Draw::new(7, Purpose::Payments, 1, 0);
        let product = |(a, b): (f64, f64)| a * b;
        check(moments(|| product(draw.normal_pair())), 0.0, 1.0);
    }

    /// Neighbouring streams (the next day, the next customer, the next seed) share nothing.
    #[test]
    fn first_draws_of_neighbouring_streams_are_independent() {
        let first = |seed, entity, day| Draw::new(seed, Purpose::Payments, entity, day).unit();
        let mut n = 0;
        let mut next = || {
            n += 1;
            n
        };
        check(moments(|| first(0, 0, next())), 0.5, 1.0 / 12.0);
        check(moments(|| first(0, next(), 0)), 0.5, 1.0 / 12.0);
        check(moments(|| first(next(), 0, 0)), 0.5, 1.0 / 12.0);
        let mut days = 0;
        let centred_product = || {
            days += 1;
            (first(0, 0, days) - 0.5) * (first(0, 1, days) - 0.5)
        };
        check(moments(centred_product), 0.0, 1.0 / 144.0);
    }

    #[test]
    fn below_reaches_all_and_no_more() {
        let mut draw = Draw::new(7, Purpose::Terminal, 0, 0);
        let mut seen = [0; 7];
        (0..7_000).for_each(|_| seen[draw.below(7) as usize] += 1);
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
        assert_eq!(draw.below(1), 0);
        assert_eq!(draw.below(0), 0);
    }
}
