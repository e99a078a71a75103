//! Generators for each use of chance, all grown from the one seed that the caller passes in.
//!
//! Everything random is drawn on the host, also when the network trains on a GPU, and from no
//! global state: two updates in one process cannot disturb each other's numbers.

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

/// What the numbers are for. Each use has a stream of its own, so that drawing more in one place
/// leaves the others as they were.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    /// First weights of a network.
    Weights = 1,
    /// Order of the rows in a pass.
    Shuffle = 2,
    /// Which hidden units are silenced.
    Dropout = 3,
    /// Which events of the history are replayed.
    Replay = 4,
    /// Which events a bootstrap sample holds.
    Bootstrap = 5,
}

/// A generator for one use. `step` is where the model stands, so that a caller who passes the same
/// seed at every update still sees another order each time.
pub(crate) fn generator(seed: u64, stream: Stream, step: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(mix(mix(seed ^ mix(stream as u64)) ^ step))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits whose output looks
/// random.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
