//! Bytes: what a text is in a column of BYTEA. Topics, files and requests read them here, so that one event has one value
//! by whichever road it comes.
//!
//! A text is hexadecimal digits, two a byte: `68656c6c6f` is what `hello` is in ASCII. That is how messages, their keys and
//! the commands write bytes, too.

/// The bytes of a text.
///
/// # Errors
/// What is wrong, as it is said behind the text.
pub fn bytes_of(text: &str) -> Result<Vec<u8>, &'static str> {
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    bytes
        .collect::<Option<_>>()
        .ok_or("is not hexadecimal digits, two a byte")
}

/// The text of bytes, which [`bytes_of`] reads.
#[must_use]
pub fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_hexadecimal_digits_two_a_byte() {
        let check = |text: &str, expected: Option<&[u8]>| {
            assert_eq!(bytes_of(text).ok().as_deref(), expected, "{text}");
        };
        check("68656c6c6f", Some(b"hello"));
        check("00fFAb", Some(&[0, 255, 171]));
        check("", Some(b""));
        let all: Vec<u8> = (0..=255).collect();
        check(&hex_of(&all), Some(&all));
        assert_eq!(hex_of(b"hello"), "68656c6c6f");
        for refused in ["hello", "6", "686", "0x68", "68 65", "\\x68", "é", "６８"] {
            check(refused, None);
        }
    }
}
