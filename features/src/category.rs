//! A text as a model sees it: a number that is its own.

use xxhash_rust::xxh3::xxh3_64;

/// Bits of a code: every whole number of so many is one of the 32-bit floats.
const BITS: u32 = 24;

/// The code of a text: the low 24 bits of the XXH3 hash (64 bits, no seed) of its UTF-8, 0 to 16,777,215.
///
/// It is the same everywhere and for ever: stored examples, models and exported graphs have it and not the text. Two
/// texts have the same code once in 16.8 million pairs; they are one category then. A text is taken as it is: case and
/// blanks make another one, and the empty text is one too.
#[must_use]
pub fn category_code(text: &str) -> f32 {
    (xxh3_64(text.as_bytes()) & ((1 << BITS) - 1)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `xxhash.xxh3_64_intdigest(text.encode()) & 0xFFFFFF` gives in Python. Stored models depend on it.
    #[test]
    fn codes_are_pinned() {
        for (text, code) in [
            ("", 13_866_178.0),
            ("grocery", 6_777_061.0),
            ("travel", 2_043_235.0),
            ("é", 15_797_427.0),
            ("t1", 2_802_492.0),
        ] {
            assert_eq!(category_code(text), code, "{text:?}");
        }
        assert_ne!(category_code("Grocery"), category_code("grocery"));
    }

    #[test]
    fn a_code_is_exact_in_32_bits() {
        for number in 0..10_000_u32 {
            let text = format!("category {number}");
            let whole = xxh3_64(text.as_bytes()) & 0xff_ffff;
            assert_eq!(category_code(&text) as u64, whole);
        }
    }
}
